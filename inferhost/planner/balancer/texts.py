"""The configurations of HAProxy and nginx as text. Nothing is decided here: values come in, lines go out.

Both pass on the paths of the OpenAI interface and the health page only: an engine's other pages (metrics, slots,
cache flushes, other tenants' models) are not for clients, and some engines guard them with no key.
"""

from __future__ import annotations

from collections.abc import Mapping

from inferhost.schema.plan import Balancer, Member

NOTICE = "# Placed by inferhost and written anew by it; what else you serve belongs into a configuration of its own."
CLASSES = {"interactive": -1, "normal": 0, "background": 1}
"""HAProxy serves its queue by this number, the lowest first."""
CLIENTS_MIN, CLIENTS_PER_PLACE = 1024, 4
"""Connections of clients: all that can be decoded at once, and three times as many that wait."""
HEADER_S = 30
CONNECT_S = 2
BODY_MIB = 64


def haproxy(balancer: Balancer, *, buffer_bytes: int, header: str, keys: Mapping[str, str]) -> str:
    """HAProxy before several engines.

    Measured with llama-server: without `http-no-delay` chunks are held back; a connection to the engine that is used
    again loses one request in a hundred; requests that wait are put in order here, and not in the engine.
    """
    wait = f"{balancer.timeout_s}s"
    lines = [
        NOTICE,
        "global",
        "  log stdout format raw daemon",
        f"  stats socket {balancer.socket} mode 600 level admin expose-fd listeners",
        "  user haproxy",
        "  group haproxy",
        f"  maxconn {_clients(balancer)}",
        f"  tune.bufsize {buffer_bytes}",
        f"  server-state-file {balancer.socket}.state",
        "defaults",
        "  mode http",
        "  log global",
        "  option httplog",
        "  option dontlog-normal",
        "  option http-no-delay",
        "  option redispatch 1",
        "  retries 3",
        "  retry-on conn-failure empty-response junk-response 502 503",
        # A reload ends the old process: a request that is on its way to it then must still be answered.
        "  option idle-close-on-response",
        "  load-server-state-from-file global",
        f"  timeout connect {CONNECT_S}s",
        f"  timeout client {wait}",
        f"  timeout server {wait}",
        f"  timeout queue {wait}",
        f"  timeout http-request {HEADER_S}s",
        f"frontend {balancer.pool}",
        f"  bind {_bound(balancer)}{_tls(balancer)}",
        "  http-request deny deny_status 404 unless { path_beg /v1/ } or { path /health }",
        *_classes(header, keys),
        f"  default_backend {balancer.pool}",
        f"backend {balancer.pool}",
        "  balance leastconn",
        "  http-reuse never",
        "  option http-buffer-request",
        "  default-server check inter 1s fall 2 rise 1 observe layer4 error-limit 3 on-error mark-down"
        " init-addr libc,none",
        *_check(balancer),
        *(f"  server {member.name} {_server(member)}" for member in balancer.members),
    ]
    return "\n".join(lines) + "\n"


def nginx(balancer: Balancer, *, buffer_bytes: int) -> str:
    """nginx as the TLS front of one engine; nothing is buffered on the way to the client."""
    (member,) = balancer.members
    wait = f"{balancer.timeout_s}s"
    passed = [
        "proxy_pass http://engine;",
        "proxy_http_version 1.1;",
        'proxy_set_header Connection "";',
        "proxy_set_header Host $host;",
        "proxy_buffering off;",
        f"proxy_connect_timeout {CONNECT_S}s;",
        f"proxy_read_timeout {wait};",
        f"proxy_send_timeout {wait};",
    ]
    lines = [
        NOTICE,
        "user www-data;",
        "worker_processes auto;",
        "pid /run/inferhost-nginx.pid;",
        "error_log stderr warn;",
        f"events {{ worker_connections {2 * _clients(balancer)}; }}",
        "http {",
        "  access_log off;",
        "  server_tokens off;",
        f"  client_max_body_size {BODY_MIB}m;",
        f"  client_body_buffer_size {buffer_bytes};",
        f"  client_header_timeout {HEADER_S}s;",
        f"  upstream engine {{ server {_where(member.address, member.port)} max_fails=0; }}",
        "  server {",
        f"    listen {_where(balancer.host, balancer.port)} ssl http2;",
        f"    ssl_certificate {balancer.tls_certificate};",
        f"    ssl_certificate_key {balancer.tls_certificate}.key;",
        "    ssl_protocols TLSv1.2 TLSv1.3;",
        "    location / { return 404; }",
        *(f"    location {place} {{ {' '.join(passed)} }}" for place in ("/v1/", "= /health")),
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _classes(header: str, keys: Mapping[str, str]) -> list[str]:
    """The class of a request: its key's, which the header can lower; without keys, the header's."""
    lines = ["  http-request set-var(txn.class) str(normal)"]
    wanted = f"req.hdr({header}),lower"
    if keys:
        # Without a regular expression: compiling one at run time is what the unit does not allow.
        digest = "req.hdr(authorization),word(2, ),sha2(256),hex,lower"
        lines.append(f'  http-request set-var(txn.key) "{digest}"')
        for name in CLASSES:
            named = [key for key, value in sorted(keys.items()) if value == name]
            lines += [
                f"  http-request set-var(txn.class) str({name}) if {{ var(txn.key) -m str {k} }}" for k in named
            ]
    for name, own in CLASSES.items():
        rule = f"  http-request set-var(txn.class) str({name}) if {{ {wanted} -m str {name} }}"
        above = [other for other, rank in CLASSES.items() if rank < own]
        if keys and not above:
            continue
        lines.append(rule + (f" {{ var(txn.class) -m str {' '.join(above)} }}" if keys else ""))
    lines += [
        f"  http-request set-priority-class int({rank}) if {{ var(txn.class) -m str {name} }}"
        for name, rank in CLASSES.items()
    ]
    return lines


def _check(balancer: Balancer) -> list[str]:
    """The health page where every engine has one that can decide, else whether the port answers."""
    paths = {member.health_path for member in balancer.members}
    if len(paths) != 1 or "" in paths:
        return []
    return [
        "  option httpchk",
        f"  http-check send meth GET uri {paths.pop()}",
        "  http-check expect status 200",
    ]


def _server(member: Member) -> str:
    room = f" maxconn {member.max_requests}" if member.max_requests else ""
    return f"{_where(member.address, member.port)}{room}"


def _clients(balancer: Balancer) -> int:
    return max(CLIENTS_MIN, CLIENTS_PER_PLACE * sum(member.max_requests for member in balancer.members))


def _tls(balancer: Balancer) -> str:
    return f" ssl crt {balancer.tls_certificate} alpn h2,http/1.1" if balancer.tls_certificate else ""


def _bound(balancer: Balancer) -> str:
    return _where(balancer.host, balancer.port)


def _where(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
