"""What every unit of an engine has around its command, in a container or not: turn, node, addresses, stop.

Each function returns ordered `[section, key, value]` with the reasons, whose paths begin with `where`.
"""

from __future__ import annotations

from collections.abc import Sequence

from inferhost.catalogue.rows import EngineRow
from inferhost.planner.machine.mps import MPS_UNIT, MPS_WISH, with_mps
from inferhost.planner.reasons import reason
from inferhost.planner.request import HARDWARE, Instance, Request, read_instances
from inferhost.schema.plan import Reason, Service
from inferhost.schema.units import CONTAINED

UNIT_FILE = "inferhost-serve@.service"
WARM_FILE = "inferhost-warm@.service"
ON_HOST, COMPOSE = "unit", "compose"
"""The mode without a container, and the one whose container runs outside of its unit."""
RESTART = "engine restart"
SLICE_VARIABLE = "CUDA_VISIBLE_DEVICES"
"""What the host writes into the file of a slice: its UUID, which nobody knows before the card is divided."""
CONTAINER_STOP_S = 15
"""What the container's engine has to end in after its kill. Source: formula `container.stop`."""
PROGRAM = "/usr/local/bin/inferhost"
START_S = 300

CONTAINER_USER = 65532
"""Source: formula `container.user`."""
Entries = list[tuple[str, str, str]]
BEFORE_CONTAINER: Entries = [
    ("Unit", "Description", "Inferhost inference engine in a container"),
    ("Unit", "Wants", "network-online.target inferhost-uvm.service inferhost-cdi.service"),
    (
        "Unit",
        "After",
        "network-online.target nvidia-persistenced.service inferhost-apply.service inferhost-mps.service "
        "inferhost-uvm.service inferhost-cdi.service",
    ),
    # A model that cannot load fails the same way every time.
    ("Unit", "StartLimitIntervalSec", "600"),
    ("Unit", "StartLimitBurst", "3"),
    ("Service", "Restart", "on-failure"),
    ("Service", "RestartSec", "5"),
]
"""What the static unit of a process says too, and that the card's description is made before."""


def unit_name(instance: Instance) -> str:
    """The unit of an instance."""
    if instance.text("mode") != ON_HOST:
        return f"{CONTAINED}{instance.name}.service"
    return UNIT_FILE.replace("@.", f"@{instance.name}.")


def needs(
    request: Request, instance: Instance, where: str, before: Sequence[Service]
) -> tuple[Entries, list[Reason]]:
    """What has to run before the engine."""
    entries, reasons = _turn(request, instance, where, before)
    if with_mps(request):
        entries.insert(0, ("Unit", "Requires", MPS_UNIT))
        because = "without the daemon the engine would run outside of it and say nothing"
        reasons.append(reason(f"{where}.Requires", MPS_UNIT, because, f"wish:{MPS_WISH}", disruption=RESTART))
    return entries, reasons


def bound(request: Request, instance: Instance, where: str) -> tuple[Entries, list[Reason]]:
    """What keeps a process of the host on the node of its cards, where it can be kept there."""
    if not engine_is_bound(request, instance):
        return [], []
    node = str(card_node(request, instance))
    because = f"the card hangs on node {node}: the engine's threads and host buffers stay there"
    rows = (("NUMAPolicy", "preferred"), ("NUMAMask", node), ("CPUAffinity", "numa"))
    return [("Service", key, value) for key, value in rows], [
        reason(f"{where}.{key}", value, because, f"wish:{HARDWARE}", disruption=RESTART) for key, value in rows
    ]


def stop(instance: Instance, entry: Service, engine: EngineRow, where: str) -> tuple[Entries, list[Reason]]:
    """How the engine is stopped: after its streams, and within a time."""
    entries, reasons, stop_s = [], [], engine.stop_timeout_s
    if instance.text("mode") != ON_HOST:
        stop_s += CONTAINER_STOP_S
    if entry.drain is not None:
        # systemd gives this time to ExecStop and then once more to the process.
        stop_s += entry.drain.limit_s
        command = f"-+{PROGRAM} drain --instance {instance.name}"
        entries.append(("Service", "ExecStop", command))
        reasons.append(
            reason(
                f"{where}.ExecStop", command, "streams in flight end before the signal that would cut them",
                f"catalogue:engines/{engine.key}#drain_s", gain="no stream is cut by a stop", disruption=RESTART,
            )
        )  # fmt: skip
    entries.append(("Service", "TimeoutStopSec", str(stop_s)))
    reasons.append(
        reason(
            f"{where}.TimeoutStopSec", stop_s, engine.stop_because,
            f"catalogue:engines/{engine.key}#stop_timeout_s", gain="none: a stop ends", disruption=RESTART,
        )
    )  # fmt: skip
    return entries, reasons


def own_slice(instance: Instance, entry: Service, where: str) -> tuple[Entries, list[Reason]]:
    """Where the engine learns which part of a divided card is its own."""
    if instance.slice is None:
        return [], []
    part, path = instance.slice, entry.slice_file
    because = (
        f"slice {instance.gpus[0]}/{part.number} ({part.profile}): the host writes its UUID there once it has "
        "made it; without the file the engine does not start, rather than start on another card"
    )
    why = reason(
        f"{where}.EnvironmentFile", path, because, "formula:gpu.mig",
        gain="no speed: the right slice", disruption=RESTART,
    )  # fmt: skip
    return [("Service", "EnvironmentFile", path)], [why]


def wall(instance: Instance, entry: Service, where: str) -> tuple[Entries, list[Reason]]:
    """Which addresses the engine's processes may talk to; none of it where the cards of one engine talk over the
    host's own address, which the plan does not know.

    Source: formula `unit.addresses`.
    """
    allowed = instance.wish.words("inferhost_service_allow_from")
    loopback = _is_loopback(entry.host)
    if instance.tensor_parallel_size > 1 or not (loopback or allowed):
        return [], []
    # A packet of the host to its own address comes from that address: the gate asks there.
    own = [] if loopback or _is_any(entry.host) else [entry.host]
    words = " ".join(["localhost", *own, *allowed])
    because = "the engine listens on loopback" if loopback and not allowed else "the wish names who may reach it"
    rows = [("Service", "IPAddressDeny", "any"), ("Service", "IPAddressAllow", words)]
    source = "formula:unit.addresses" if loopback and not allowed else instance.source("allow_from")
    return rows, [
        reason(f"{where}.{key}", value, because, source, gain="none: nobody else gets a packet", disruption=RESTART)
        for _, key, value in rows
    ]


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host in ("::1", "localhost")


def _is_any(host: str) -> bool:
    return host in ("0.0.0.0", "::")


def _turn(
    request: Request, instance: Instance, where: str, before: Sequence[Service]
) -> tuple[Entries, list[Reason]]:
    """What makes an engine wait for those on its cards that start before it: until they serve, not only run.

    Source: formula `memory.shared_card`.
    """
    if not instance.after:
        return [], []
    names = {other.name: unit_name(other) for other in read_instances(request)}
    units = " ".join(names[name] for name in instance.after)
    rows = [("Unit", "After", units)]
    rows += [("Service", "ExecStartPre", f"+{PROGRAM} gate --wait --instance {other.instance}") for other in before]
    if before:
        wait_s = START_S + sum(other.probe.wait_s for other in before)
        rows.append(("Service", "TimeoutStartSec", str(wait_s)))
    because = (
        "shares its card: an engine measures what is free when it starts, so each waits until those before serve"
    )
    source, gain = "formula:memory.shared_card", "none: it starts at all"
    return rows, [
        reason(f"{where}.{key}", value, because, source, gain=gain, disruption=RESTART)
        for key, value in {key: value for _, key, value in rows}.items()
    ]


def card_node(request: Request, instance: Instance) -> int | None:
    """The NUMA node of the instance's cards; None where the host has one, or the cards no known one in common."""
    nodes = {request.hardware.gpus[number].numa_node for number in instance.gpus}
    node = nodes.pop() if len(nodes) == 1 else None
    several = request.hardware.cpu.numa_nodes > 1
    return node if several and node is not None and node >= 0 else None


def node_cpus(request: Request, instance: Instance) -> str | None:
    """The CPUs of the cards' node, which a container has to be told by number; None where they are not known."""
    node, known = card_node(request, instance), request.hardware.cpu.node_cpus or ()
    return (known[node] or None) if node is not None and node < len(known) else None


def engine_is_bound(request: Request, instance: Instance) -> bool:
    """Whether the engine can be kept on the node of its cards."""
    if instance.text("mode") != ON_HOST:
        return node_cpus(request, instance) is not None
    return card_node(request, instance) is not None
