"""The systemd side of an instance: its service entry, the unit file and the drop-in.

The unit itself is one static file of the package; the drop-in carries only what was decided for this host.
People override with `50-local.conf`.
"""

from __future__ import annotations

from collections.abc import Sequence

from inferhost.catalogue.rows import EngineRow, ModelRow
from inferhost.planner.launch import quoting
from inferhost.planner.launch.environment import CACHE_ROOT
from inferhost.planner.machine import cpu
from inferhost.planner.machine.gpu import selector
from inferhost.planner.memory.budget import Budget
from inferhost.planner.reasons import reason
from inferhost.planner.request import Instance, Request
from inferhost.planner.service import key
from inferhost.planner.service.surroundings import (
    CONTAINER_USER,
    ON_HOST,
    RESTART,
    START_S,
    UNIT_FILE,
    WARM_FILE,
    bound,
    needs,
    own_slice,
    stop,
    unit_name,
    wall,
)
from inferhost.schema.plan import UNIT_DIRECTORY, Drain, Dropin, File, Probe, Reason, Service, Slice

SLOW_DISK_BYTES_S = 200_000_000
WARM_UP_WORDS = (16, 64, 256, 1024, 4096)
"""Prompt lengths of the warm-up, as far as they fill half of the context. Source: formula `gate.warm_up`."""
CONTEXT_BYTES = 450 << 20
"""What a bare CUDA context holds, which proves no weights. Source: formula `gate.gpu_memory`."""


def service(
    request: Request, instance: Instance, engine: EngineRow, model: ModelRow, *, budget: Budget, argv: tuple[str, ...]
) -> tuple[Service, list[Reason]]:
    """The plan's service entry, with the reasons of what has no flag."""
    served = instance.text("served_model_name") or model.key
    host, port = instance.text("host"), instance.integer("port") or engine.port
    address = f"http://{_reachable(host)}:{port}"
    probe = Probe(
        url=address + engine.probe_path,
        wait_s=instance.integer("start_wait_s") or start_wait_s(budget.division.weights_bytes),
        body={"model": served, **engine.probe_body},
        warm_up_words=tuple(n for n in WARM_UP_WORDS if 2 * n <= budget.context_tokens),
        key_file=key.key_file(engine, instance),
        gpu_memory_mib=_least_memory_mib(request, instance, budget),
    )
    unit = unit_name(instance)
    user, whose = instance.text("user"), (instance.origin("user"), instance.source("user"))
    if instance.text("mode") != ON_HOST:
        user, whose = str(CONTAINER_USER), ("a number without an account", "formula:container.user")
    entry = Service(
        instance=instance.name,
        unit=unit,
        user=user,
        engine=engine.engine,
        engine_version=engine.version,
        model=model.key,
        model_path=instance.text("model_path"),
        argv=(*argv, *key.key_words(engine, instance, unit)),
        host=host,
        port=port,
        context_tokens=budget.context_tokens,
        max_sequences=budget.sequences,
        limit_nofile=request.wish.integer("inferhost_cpu_limit_nofile"),
        limit_memlock=cpu.memlock_bytes(request),
        probe=probe,
        disruption=RESTART,
        overruled_by=_overruled_by(instance, engine),
        upgrade_least_percent=instance.integer("upgrade_least_percent"),
        drain=_drain(engine, address),
        check_argv=(*argv, *engine.check_arguments) if engine.check_arguments else (),
        slice=Slice(selector(request, instance.gpus[0]), instance.slice.number) if instance.slice else None,
    )
    where, limits = f"service.{instance.name}", "wish:inferhost_cpu_limit_"
    rows = (
        ("model", entry.model, instance.origin("model"), instance.source("model"), "it serves at all"),
        (
            "user",
            entry.user,
            *whose,
            "none: it runs without root",
        ),
        (
            "limit_nofile",
            entry.limit_nofile,
            "one file per client socket",
            f"{limits}nofile",
            "none, but no refused clients",
        ),
        (
            "limit_memlock",
            entry.limit_memlock,
            "pinned host buffers need it",
            f"{limits}memlock",
            "none: it loads at all",
        ),
    )
    least = "upgrade_least_percent"
    slower = reason(
        f"{where}.{least}", entry.upgrade_least_percent, instance.origin(least),
        instance.source(least) if instance.sets(least) else "formula:upgrade.least",
        gain="none: a version that is much slower gives its place back",
    )  # fmt: skip
    return entry, [slower, *key.key_reasons(engine, instance)] + [
        reason(f"{where}.{name}", value, because, source, gain=gain, disruption=RESTART)
        for name, value, because, source, gain in rows
    ]


def start_wait_s(weights_bytes: int) -> int:
    """How long an engine may take until its first token, in seconds: patience, not a prediction.

    An engine whose unit dies ends the wait at once, so being generous costs nothing.
    Source: formula `unit.start_wait`.
    """
    return START_S + weights_bytes // SLOW_DISK_BYTES_S


def _overruled_by(instance: Instance, engine: EngineRow) -> tuple[str, ...]:
    """The files with which somebody could change what the plan says; a container's own folder is its image's."""
    places = {"model": instance.text("model_path"), "cache": f"{CACHE_ROOT}/{instance.name}"}
    on_host = instance.text("mode") == ON_HOST
    return tuple(path.format(**places) for path in engine.overruled_by if on_host or "{cache}" not in path)


def _drain(engine: EngineRow, address: str) -> Drain | None:
    """How the host program waits for the engine's streams; None where the engine does that itself."""
    if not engine.drain_s:
        return None
    return Drain(f"{address}/metrics", engine.busy_metrics, engine.drain_s)


def _least_memory_mib(request: Request, instance: Instance, budget: Budget) -> int | None:
    """What the engine's processes hold on all their cards at the least when the weights are there, in MiB.

    None where there is no real card.
    Source: formula `gate.gpu_memory`.
    """
    if request.wish.flag("inferhost_simulated"):
        return None
    per_card = CONTEXT_BYTES + budget.division.weights_bytes // 2
    return per_card * instance.tensor_parallel_size // 2**20


def _reachable(host: str) -> str:
    """The address at which the host finds its own engine: one that listens everywhere also listens on loopback."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return everywhere.get(host, f"[{host}]" if ":" in host else host)


def files(engine: EngineRow, on_host: bool) -> tuple[tuple[File, ...], list[Reason]]:
    """The static units, and why they are there; the engine's own only where one runs outside of a container."""
    source = f"catalogue:engines/{engine.key}#executable"
    rows = (
        (UNIT_FILE, "the engine's unit with its hardening; the drop-in adds what was decided here", RESTART,
         "it serves at all"),
        (WARM_FILE, "goes with the engine's unit: after each start, also one at boot or after a crash, a token is "
         "asked for and prompts of several lengths", "none", "the first request of a person is as fast as the next"),
    )  # fmt: skip
    wanted = rows if on_host else rows[1:]
    paths = [(f"{UNIT_DIRECTORY}/{name}", name, how) for name, _, how, _ in wanted]
    entries = tuple(File(path, "service", "0644", None, name, how) for path, name, how in paths)
    return entries, [
        reason(f"files.{UNIT_DIRECTORY}/{name}", name, because, source, gain=gain, disruption=how)
        for name, because, how, gain in wanted
    ]


def dropin(
    request: Request,
    instance: Instance,
    entry: Service,
    environment: dict[str, str],
    engine: EngineRow,
    *,
    before: Sequence[Service] = (),
) -> tuple[Dropin, list[Reason]]:
    """What was decided for this host, as ordered entries, with the reasons of what stands only here."""
    where = f"dropins.{entry.unit}"
    entries, reasons = needs(request, instance, where, before)
    command = quoting.exec_start(key.command(engine, instance, entry.argv))
    entries += [("Service", "ExecStart", ""), ("Service", "ExecStart", command)]
    credential, credential_reasons = key.credential_entries(instance, entry.unit)
    entries += credential
    reasons += credential_reasons
    entries.append(("Service", "User", entry.user))
    for name, value in sorted(environment.items()):
        entries.append(("Service", "Environment", quoting.environment_assignment(name, value)))
    for found, why in (
        bound(request, instance, where),
        own_slice(instance, entry, where),
        wall(instance, entry, where),
    ):
        entries += found
        reasons += why
    entries.append(("Service", "LimitNOFILE", str(entry.limit_nofile)))
    entries.append(("Service", "LimitMEMLOCK", entry.limit_memlock))
    found, why = stop(instance, entry, engine, where)
    return Dropin(entry.unit, "service", tuple(entries + found), RESTART), reasons + why
