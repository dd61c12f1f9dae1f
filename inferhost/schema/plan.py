"""The plan: the one document between the planner and everything that places, proves or takes back.

Deterministic by construction: no times, no readings, no paths of the controller. Secrets are references,
never values. `plan_id` is the hash of all the rest. A change of this file is a change of `SCHEMA`, made
together with the roles, the NixOS module and the host program, which reads schema N and N-1.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, Optional, Tuple, Union

from inferhost.schema import document
from inferhost.schema.container import Container, Runtime
from inferhost.schema.problems import InputError, Problem
from inferhost.schema.units import DROPIN_FILE, unit_text

SCHEMA = 2
READABLE_SCHEMAS = (1, 2)
"""What schema 2 added has a default, so that a plan of schema 1 reads as one that leaves it alone."""

SECTIONS = ("driver", "gpu", "cpu", "runtime", "models", "service", "balancer")
"""What `inferhost_manage` may name, in the order in which it is placed."""

BASE = "base"
"""The section of what belongs to Inferhost itself: placed with the first of the others, gone with the last."""

DISRUPTIONS = ("none", "engine restart", "reboot")

PERFORMANCE = "performance"
FORCING_DRIVERS = ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")
"""Frequency drivers in active mode, as `scaling_driver` names them: under the governor performance they force the
energy performance preference. In passive mode they are intel_cpufreq and amd-pstate, which do not.
Source: formula `cpu.energy_performance_preference`."""

UNIT_DIRECTORY = "/etc/systemd/system"
SLICE_DIRECTORY = "/run/inferhost/slices"


@dataclasses.dataclass(frozen=True)
class Host:
    """Which host the plan is for, and whether its GPUs are simulated."""

    name: str
    simulated: bool


@dataclasses.dataclass(frozen=True)
class DriverPackages:
    """The packages that the driver section installs and holds. `{kernel}` stands for a kernel of the host."""

    family: str  # "apt" or "dnf"
    branch: str
    version: Optional[str]  # as packages begin with it, e.g. "535.261.03"; None: the newest of the branch
    kernel_module: str  # "open" or "proprietary"
    packages: Tuple[str, ...]
    pinned: Tuple[str, ...]  # patterns of all packages that must have one version
    module_stream: Optional[str]  # dnf only
    headers: str
    headers_for_kernel: str
    key: Optional[str]  # where the repository's key goes; None: it is there
    reboot: bool  # whether the host may be restarted when the running module is not the planned one
    persistence: bool = False  # whether the packaged daemon keeps the driver loaded, read back from each card
    units: Tuple[str, ...] = ()  # of these packages, and to start at boot, which their packages leave to the operator
    signed: Tuple[str, ...] = ()  # what a person can install in their place where the kernel trusts no key of its own
    may_replace: bool = False  # whether packages in their way may be removed
    tools: Tuple[str, ...] = ()  # installed before them, out of the host's own sources; never held
    module_options: Tuple[Tuple[str, ...], ...] = ()  # name, its name in /proc/driver/nvidia/params, value
    components: Tuple[str, ...] = ()  # of the archive, which the host's own sources need; none: no such archive


@dataclasses.dataclass(frozen=True)
class Driver:
    """What the GPUs ask of the NVIDIA driver; `version_found` comes from discovery."""

    kernel_module: str  # "open", "proprietary" or "either"
    first_version: Optional[str]
    last_branch: Optional[str]
    version_found: Optional[str]
    install: Optional[DriverPackages] = None  # where the section is managed and the host takes packages


@dataclasses.dataclass(frozen=True)
class GpuSelector:
    """How the host finds the card: by UUID when known, else the n-th card of this PCI device id."""

    uuid: Optional[str]
    pci_device_id: str
    ordinal: int


@dataclasses.dataclass(frozen=True)
class Guard:
    """When a card is brought to its safe state, and when the plan has it back."""

    limit_c: int
    resume_c: int
    power_w: Union[int, str]  # watts, or "min": the lowest that the card accepts
    cool_down_s: int


@dataclasses.dataclass(frozen=True)
class MigInstance:
    """One instance of a divided card: its profile, and where it begins and how much it takes, in units of memory."""

    profile: str
    start: int
    size: int


@dataclasses.dataclass(frozen=True)
class Gpu:
    """Settings of one card. `None` leaves a setting alone; a word is resolved by the card's own range."""

    model: str
    name: str
    select: GpuSelector
    persistence_mode: Optional[bool]
    power_limit_w: Union[int, str, None]  # watts, or "default" / "max" where the range is not known yet
    graphics_clock_lock_mhz: Optional[Tuple[int, ...]]
    memory_clock_lock_mhz: Optional[Tuple[int, ...]]
    application_clocks_mhz: Optional[Tuple[int, ...]] = None  # memory, graphics
    compute_mode: Optional[str] = None  # "default", "exclusive_process" or "prohibited"
    guard: Optional[Guard] = None
    ecc: Optional[bool] = None
    mig: Optional[Tuple[MigInstance, ...]] = None  # empty: the card is whole


@dataclasses.dataclass(frozen=True)
class Cpu:
    """CPU settings without a file; `None` leaves a setting alone."""

    governor: Optional[str]
    energy_performance_preference: Optional[str] = None
    idle_latency_us: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class File:
    """One file of ours: its content here, or the name of a file that the package ships under `units/`."""

    path: str
    section: str
    mode: str
    content: Optional[str]
    package_file: Optional[str]
    disruption: str


@dataclasses.dataclass(frozen=True)
class Dropin:
    """Ordered `[section, key, value]` entries for one unit; people override with `50-local.conf`."""

    unit: str
    section: str
    entries: tuple[tuple[str, ...], ...]
    disruption: str

    @property
    def path(self) -> str:
        return f"{UNIT_DIRECTORY}/{self.unit}.d/{DROPIN_FILE}"

    @property
    def content(self) -> str:
        """The drop-in as systemd reads it."""
        return unit_text(self.entries, "50-local.conf beside this file")


@dataclasses.dataclass(frozen=True)
class Quantisation:
    """How a model's file is made from the one that is fetched."""

    program: str
    type: str
    fetched_path: str
    sha256: Optional[str]  # of the file that is made


@dataclasses.dataclass(frozen=True)
class Model:
    """One model on disk: where it lies, where it comes from, and what proves it. Secrets are files of the host."""

    name: str
    path: str  # what the engine opens
    kind: str  # "file" or "directory"
    source: str  # "here", "hub", "address" or "store"
    location: str  # repository, address, or path in the store; empty for "here"
    revision: Optional[str]  # of a repository: a commit
    files: Tuple[str, ...]  # patterns of the repository's files; none: all
    endpoint: Optional[str]  # of the hub
    sha256: Optional[str]  # of the fetched file
    expected_bytes: Optional[int]  # as the catalogue knows it
    token_file: Optional[str]
    quantise: Optional[Quantisation]

    @property
    def fetched_path(self) -> str:
        return self.quantise.fetched_path if self.quantise else self.path


@dataclasses.dataclass(frozen=True)
class Probe:
    """How the host itself asks its engine: the request that proves a token, and how long a start may take, in
    seconds."""

    url: str
    wait_s: int
    body: dict[str, Any]
    warm_up_words: Tuple[int, ...] = ()
    key_file: Optional[str] = None  # holds the key that a request has to carry, alone or behind "api_key:"
    gpu_memory_mib: Optional[int] = None  # the least on all cards that proves the weights to be there; None: waived


@dataclasses.dataclass(frozen=True)
class Slice:
    """An instance of a divided card: how the host finds the card, and the instance's number in that card's `mig`."""

    gpu: GpuSelector
    number: int


@dataclasses.dataclass(frozen=True)
class Install:
    """How an engine version is made in a folder of its own: a Python environment, from an index or a commit."""

    kind: str  # "pip" or "source"
    prefix: str
    python: str
    python_min: str
    arguments: Tuple[str, ...]  # of pip install
    repository: Optional[str]
    commit: Optional[str]


@dataclasses.dataclass(frozen=True)
class Drain:
    """How an engine that cuts its streams on a stop is waited for: what it counts where, and how long at most."""

    url: str
    metrics: Tuple[str, ...]  # none: connections are counted
    limit_s: int


@dataclasses.dataclass(frozen=True)
class Service:
    """One engine instance: what runs, where it listens, and how it is proven."""

    instance: str
    unit: str
    user: str
    engine: str
    engine_version: str
    model: str
    model_path: str
    argv: tuple[str, ...]
    host: str
    port: int
    context_tokens: int
    max_sequences: int
    limit_nofile: int
    limit_memlock: str  # bytes, or "infinity"
    probe: Probe
    disruption: str
    install: Optional[Install] = None  # None: the engine is there
    upgrade_least_percent: int = 0  # how fast another version has to be, in percent of the one before; 0: as it likes
    overruled_by: Tuple[str, ...] = ()  # files that the engine would read and that change what the plan says
    check_argv: Tuple[str, ...] = ()  # has the engine read its arguments and end; none where it cannot
    drain: Optional[Drain] = None  # None: the engine ends its streams by itself
    slice: Optional[Slice] = None  # the part of a divided card that it runs on
    container: Optional[Container] = None  # None: it runs on the host itself
    compiles_with: Tuple[str, ...] = ()  # what of the host makes an installed engine's kernels at run time

    @property
    def slice_file(self) -> str:
        """Where the host writes the UUID of the slice, which nobody knows before the card is divided."""
        return f"{SLICE_DIRECTORY}/{self.instance}.env"


@dataclasses.dataclass(frozen=True)
class Member:
    """One engine behind a balancer; what is not known of it is 0 or empty."""

    name: str
    address: str
    port: int
    model: str  # the name that clients ask for
    max_requests: int  # at once; what is above waits at the balancer
    longest_s: int  # until the longest answer is complete
    context_tokens: int
    health_path: str  # empty: whether the port answers has to do


@dataclasses.dataclass(frozen=True)
class Balancer:
    """What stands before the engines: HAProxy before several, nginx as the TLS front of one."""

    program: str  # "haproxy" or "nginx"
    package: str
    unit: str
    config: str
    pool: str  # how HAProxy's configuration calls the members together
    host: str
    port: int
    tls_certificate: Optional[str]
    socket: Optional[str]  # where HAProxy takes commands
    timeout_s: int
    members: Tuple[Member, ...]


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why one value is what it is; `source` resolves to a catalogue row, a formula or a wish variable."""

    setting: str
    value: Any
    because: str
    source: str
    gain: str
    disruption: str


@dataclasses.dataclass(frozen=True)
class Pending:
    """What can only be decided or confirmed on the host, and what it waits for."""

    setting: str
    needs: str
    because: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """A host's desired state, complete."""

    schema: int
    plan_id: str
    wish_sha256: str
    host: Host
    manage: tuple[str, ...]
    driver: Driver
    gpus: tuple[Gpu, ...]
    cpu: Cpu
    sysctl: dict[str, str]
    env: dict[str, dict[str, str]]
    files: tuple[File, ...]
    dropins: tuple[Dropin, ...]
    service: tuple[Service, ...]
    budget: dict[str, Any]  # by instance
    roofline: dict[str, Any]  # by instance
    reasons: tuple[Reason, ...]
    pending: tuple[Pending, ...]
    models: Tuple[Model, ...] = ()
    adopt: tuple[str, ...] = ()  # units of somebody else that the service section takes over
    balancer: Optional[Balancer] = None
    runtime: Optional[Runtime] = None  # where the section is managed
    spare_containers: bool = True  # whether containers that a reload or restart would hurt stop the run
    metrics_folder: str = "auto"  # or "none", or an absolute path


def identified(plan: Plan) -> Plan:
    """The plan with its `plan_id`: 16 hexadecimal digits over everything else.

    Over the canonical text on one line: Nix makes that from the file by leaving out each line break and what follows.
    """
    blank = document.line({**vars(plan), "plan_id": ""})
    return dataclasses.replace(plan, plan_id=hashlib.sha256(blank.encode()).hexdigest()[:16])


def read_plan(value: object) -> Plan:
    """A plan from JSON, or `InputError`; a schema that this program does not know is refused first."""
    found = value.get("schema") if isinstance(value, dict) else None
    if found not in READABLE_SCHEMAS:
        known = ", ".join(str(s) for s in READABLE_SCHEMAS)
        raise InputError(
            [
                Problem(
                    "schema",
                    f"found {document.shown(found)}, this program reads {known}",
                    "place the plan and the host program from the same checkout",
                )
            ],
            "plan",
        )
    return document.read(Plan, value, "plan")
