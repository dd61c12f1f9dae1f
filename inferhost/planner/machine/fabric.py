"""The fabric manager of boards whose cards NVSwitch joins; without it no CUDA program runs there (error 802).

From NVLink 5 on the switches are reached over InfiniBand. Such a board's fabric manager starts a subnet manager,
which is another package, finds its port with ibstat, and does not start before the kernel's ib_umad. Source: NVIDIA's
fabric manager user guide, fourth generation NVSwitches; NVIDIA/gpu-driver-container; spectrocloud/CanvOS#700.
"""

from __future__ import annotations

from inferhost.catalogue.driver_row import DriverRow
from inferhost.catalogue.rows import GpuRow
from inferhost.planner.request import HARDWARE, Request
from inferhost.schema.plan import Dropin
from inferhost.schema.problems import Problem

OPTION = "inferhost_driver_fabric_manager"
FABRIC_MANAGER = "nvidia-fabricmanager.service"
BROUGHT = "or false where this host has no NVSwitch of its own, or brings the fabric manager otherwise"
LOADS_UMAD = "modprobe@ib_umad.service"
"""Of systemd from 245 on: it loads the module also where the fabric manager starts long after the boot."""


def fabric_wanted(request: Request) -> bool:
    """The wish's answer; without one, whether discovery saw switches."""
    return request.wish.flag(OPTION) if OPTION in request.given else request.hardware.nvswitches > 0


def fabric_packages(request: Request, rows: tuple[GpuRow, ...], row: DriverRow) -> list[str]:
    """What a fabric manager installs; nothing where none is wanted, or nobody packages one."""
    if not fabric_wanted(request) or row.fabric_manager is None:
        return []
    return [row.fabric_manager, *(row.subnet_manager if _on_subnet(rows) else ())]


def fabric_tools(request: Request, rows: tuple[GpuRow, ...], row: DriverRow) -> tuple[str, ...]:
    """What the fabric manager runs; others may have it for a network of their own, so it is never held."""
    return row.subnet_tools if fabric_wanted(request) and _on_subnet(rows) else ()


def fabric_dropins(request: Request, rows: tuple[GpuRow, ...]) -> tuple[Dropin, ...]:
    """The module that the packaged unit asks for and does not load."""
    if not fabric_wanted(request) or not _on_subnet(rows):
        return ()
    return (Dropin(FABRIC_MANAGER, "driver", (("Unit", "Wants", LOADS_UMAD), ("Unit", "After", LOADS_UMAD)), "none"),)


def fabric_problems(request: Request, rows: tuple[GpuRow, ...], row: DriverRow) -> list[Problem]:
    """A fabric manager that nobody packages, or a board of cards joined by NVSwitch without an answer about it."""
    lacks, elsewhere = _lacking(rows, row)
    if fabric_wanted(request) and lacks:
        if OPTION in request.given:
            return [Problem(OPTION, f"found true, but {lacks}", elsewhere)]
        return [Problem(OPTION, f"{fabric_why(request)[0]}, but {lacks}", f"{elsewhere}; {BROUGHT}")]
    joined = [card for card in rows if card.nvswitch_cards and rows.count(card) >= card.nvswitch_cards]
    if not joined or OPTION in request.given or fabric_wanted(request):
        return []
    message = (
        f"is not set, and {rows.count(joined[0])} {joined[0].key} are usually joined by NVSwitch: "
        "without a fabric manager every CUDA program fails there (error 802)"
    )
    able = f"{elsewhere}, then true" if lacks else "true"
    return [Problem(OPTION, message, f"{able}; {BROUGHT}", "fabric-manager")]


def fabric_why(request: Request) -> tuple[str, str]:
    """Why a fabric manager is wanted, and where that stands."""
    if OPTION in request.given:
        return request.origin(OPTION), f"wish:{OPTION}"
    return f"NVSwitches on this host's PCI bus: {request.hardware.nvswitches}", f"wish:{HARDWARE}"


def _on_subnet(rows: tuple[GpuRow, ...]) -> str:
    """The card whose switches are reached over InfiniBand; empty where there is none."""
    return next((card.key for card in rows if card.nvswitch_subnet), "")


def _lacking(rows: tuple[GpuRow, ...], row: DriverRow) -> tuple[str, str]:
    """What the repository does not have for these cards, and what would work; both empty where it has all."""
    if row.fabric_manager is None:
        return f"no fabric manager of {row.key} is known", "take Ubuntu or the RHEL 9 family on such hosts"
    card = _on_subnet(rows)
    if card and not row.subnet_manager:
        lacks = f"the fabric manager of {card} wants a subnet manager (nvlsm) beside it, which {row.key} lacks"
        return lacks, "inferhost_driver_repository: nvidia has fabric and subnet manager"
    return "", ""
