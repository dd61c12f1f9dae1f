"""The border to NVML: the only place where milliwatts, handles and return codes exist.

Loads `pynvml` when first asked, because a host without a driver runs every other verb. Uses checked calls only:
`nvmlDeviceSetPowerManagementLimit_v2` and the clock offset calls of nvidia-ml-py 13.615.71 return success whatever
happens. Nothing here decides what is set.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from inferhost.host.knob import Unusable

SIMULATED_SYMBOL = "inferhost_simulated_v1"

NO_DRIVER = frozenset({9, 12, 18})
"""Codes that mean the driver does not answer at all: every GPU setting waits, nothing else fails."""

MEANINGS: dict[int, tuple[str, str, str]] = {
    1: ("Uninitialized", "refused", "unexplained"),
    2: ("InvalidArgument", "refused", "unexplained"),
    3: ("NotSupported", "unsupported", "no_interface"),
    4: ("NoPermission", "refused", "read_only"),
    6: ("NotFound", "refused", "unexplained"),
    9: ("DriverNotLoaded", "pending", "needs_driver"),
    12: ("LibraryNotFound", "pending", "needs_driver"),
    13: ("FunctionNotFound", "unsupported", "no_interface"),  # removed with CUDA 14, or an old driver
    15: ("GpuIsLost", "refused", "needs_reboot"),
    16: ("ResetRequired", "refused", "needs_reboot"),
    18: ("LibRmVersionMismatch", "pending", "needs_reboot"),  # after a driver upgrade without a reboot
    19: ("InUse", "refused", "other_writer"),
    24: ("FreqNotSupported", "refused", "unexplained"),
    25: ("ArgumentVersionMismatch", "unsupported", "no_interface"),  # a driver that knows other versions of the call
    26: ("Deprecated", "unsupported", "no_interface"),
    28: ("GpuNotFound", "refused", "unexplained"),
    999: ("Unknown", "refused", "unexplained"),
}
"""NVML code: its name, and the verdict and cause it leads to. Source: nvml.h of NVML API 13 (nvmlReturn_t)."""

INVALID_ARGUMENT = 2
RESET = "reset the card (nvidia-smi --gpu-reset) or reboot; the driver says why: journalctl --dmesg --grep NVRM"
HINTS = {
    4: "run it as root of the host",
    15: RESET,
    16: RESET,
    18: "the loaded driver is another version than the library: reboot",
    19: "stop the programs that use the card, and run again; who watches it too: nvidia-dcgm, nvsm, exporters",
    999: "the driver may say more: journalctl --dmesg --grep NVRM; nvidia-smi shows whether it answers at all",
}
"""What helps where a code leads to a failure, by code. Source: as above."""

VOLTA, AMPERE = 5, 7
"""The first generations with locked graphics and memory clocks. Source: nvml.h of NVML API 13 (facts A.1)."""

COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}
"""Source: nvml.h of NVML API 13 (nvmlComputeMode_t); 1 is no longer accepted by any card."""

CLOCK_GRAPHICS, CLOCK_MEMORY = 0, 2
"""Source: nvml.h of NVML API 13 (nvmlClockType_t)."""

TEMPERATURE_GPU = 0
"""Source: nvml.h of NVML API 13 (nvmlTemperatureSensors_t)."""

VIRTUALIZATION_MODES = {0: "none", 1: "passthrough", 2: "vgpu", 3: "host-vgpu", 4: "host-vsga"}
"""Source: nvml.h of NVML API 13 (nvmlGpuVirtualizationMode_t)."""


class NvmlError(Unusable):
    """One NVML call that failed, by function name and code."""

    def __init__(self, function: str, code: int) -> None:
        self.function = function
        self.code = code
        name, verdict, cause = MEANINGS.get(code, ("an unlisted error", "refused", "unexplained"))
        super().__init__(verdict, cause, f"{function}: {name} (NVML error {code})", verdict == "refused")
        self.hint = HINTS.get(code, "")


@dataclasses.dataclass(frozen=True)
class Card:
    """One GPU. `pci_device_id` is four hexadecimal digits, `pci_bus_id` as sysfs spells it."""

    uuid: str
    name: str
    pci_device_id: str
    pci_bus_id: str
    handle: Any = dataclasses.field(repr=False, compare=False)


class Nvml:
    """NVML while it is open; made by `open_nvml`."""

    def __init__(self, before_write: Callable[[str], None], only: Sequence[str] | None = None) -> None:
        self._before_write = before_write
        self._only = only
        self.unreadable: list[NvmlError] = []

    def call(self, function: str, *arguments: Any) -> Any:
        """One NVML call, or `NvmlError`."""
        import pynvml

        try:
            return getattr(pynvml, function)(*arguments)
        except pynvml.NVMLError as error:
            raise NvmlError(function, int(error.value)) from error

    def announce(self, what: str) -> None:
        """Said before each write, so that a test can stop the program there."""
        self._before_write(what)

    def simulated(self) -> bool:
        """Whether the loaded library says of itself that it is a simulator."""
        import pynvml

        return hasattr(pynvml.nvmlLib, SIMULATED_SYMBOL)

    def driver_version(self) -> str:
        """The driver's version, e.g. "595.45.04"."""
        return str(self.call("nvmlSystemGetDriverVersion"))

    def cards(self) -> list[Card]:
        """Every card that may be opened and answers, in PCI order; those that do not are in `unreadable`."""
        found = []
        by_place: tuple[str, Sequence[object]] = ("nvmlDeviceGetHandleByPciBusId", self._only or ())
        by_index = ("nvmlDeviceGetHandleByIndex", range(self.call("nvmlDeviceGetCount")))
        function, places = by_index if self._only is None else by_place
        for place in places:
            try:
                found.append(self._card(self.call(function, place)))
            except NvmlError as error:  # a lost card must not hide its neighbours
                self.unreadable.append(error)
        return sorted(found, key=lambda card: card.pci_bus_id)

    def _card(self, handle: Any) -> Card:
        pci = self.call("nvmlDeviceGetPciInfo", handle)
        # pciDeviceId is device << 16 | vendor; sysfs has four digits of domain where NVML has eight.
        return Card(
            uuid=str(self.call("nvmlDeviceGetUUID", handle)),
            name=str(self.call("nvmlDeviceGetName", handle)),
            pci_device_id=f"{int(pci.pciDeviceId) >> 16:04X}",
            pci_bus_id=f"{int(pci.domain):04x}:{int(pci.bus):02x}:{int(pci.device):02x}.0",
            handle=handle,
        )

    def power_limit_mw(self, card: Card) -> int:
        """The requested limit."""
        return int(self.call("nvmlDeviceGetPowerManagementLimit", card.handle))

    def enforced_power_limit_mw(self, card: Card) -> int:
        """The limit in force: lower than the requested one where another limiter (board, chassis) is stricter."""
        return int(self.call("nvmlDeviceGetEnforcedPowerLimit", card.handle))

    def power_mw(self, card: Card) -> int | None:
        """What the card draws, on most cards the mean of the last second; None where it does not say."""
        found = self.reading("nvmlDeviceGetPowerUsage", card.handle)
        return None if found is None else int(found)

    def default_power_limit_mw(self, card: Card) -> int:
        """The limit that the card boots with."""
        return int(self.call("nvmlDeviceGetPowerManagementDefaultLimit", card.handle))

    def power_limit_range_mw(self, card: Card) -> tuple[int, int]:
        """Lowest and highest limit that the card accepts."""
        low, high = self.call("nvmlDeviceGetPowerManagementLimitConstraints", card.handle)
        return int(low), int(high)

    def set_power_limit_mw(self, card: Card, limit_mw: int) -> None:
        """Requests a limit; it lasts until the driver unloads."""
        self._before_write(f"nvml {card.uuid} power_limit")
        self.call("nvmlDeviceSetPowerManagementLimit", card.handle, limit_mw)

    def persistence_mode(self, card: Card) -> bool:
        """Whether the driver stays loaded without a client."""
        return bool(self.call("nvmlDeviceGetPersistenceMode", card.handle))

    def known_persistence(self, card: Card) -> bool | None:
        """The same, or None for a card that does not say."""
        found = self.reading("nvmlDeviceGetPersistenceMode", card.handle)
        return None if found is None else bool(found)

    def set_persistence_mode(self, card: Card, on: bool) -> None:
        """Asks the driver to stay loaded, or no longer."""
        self._before_write(f"nvml {card.uuid} persistence_mode")
        self.call("nvmlDeviceSetPersistenceMode", card.handle, int(on))

    def architecture(self, card: Card) -> int:
        """The card's generation as NVML counts them; see `VOLTA`."""
        return int(self.call("nvmlDeviceGetArchitecture", card.handle))

    def memory_clock_steps_mhz(self, card: Card) -> list[int]:
        """Every memory clock that the card has, ascending."""
        return sorted(int(mhz) for mhz in self.call("nvmlDeviceGetSupportedMemoryClocks", card.handle))

    def graphics_clock_steps_mhz(self, card: Card, memory_mhz: int | None = None) -> list[int]:
        """Every graphics clock that the card has at this memory clock, else at its highest one; ascending."""
        if memory_mhz is None:
            memory_mhz = self.memory_clock_steps_mhz(card)[-1]
        return sorted(int(mhz) for mhz in self.call("nvmlDeviceGetSupportedGraphicsClocks", card.handle, memory_mhz))

    def lock_graphics_clock(self, card: Card, low_mhz: int, high_mhz: int) -> None:
        """Asks for a range; no call reads it back, and it lasts until the driver unloads."""
        self._before_write(f"nvml {card.uuid} graphics_clock_lock")
        self.call("nvmlDeviceSetGpuLockedClocks", card.handle, low_mhz, high_mhz)

    def unlock_graphics_clock(self, card: Card) -> None:
        """Takes any range back, whoever asked for it."""
        self._before_write(f"nvml {card.uuid} graphics_clock_unlock")
        self.call("nvmlDeviceResetGpuLockedClocks", card.handle)

    def lock_memory_clock(self, card: Card, low_mhz: int, high_mhz: int) -> None:
        """Asks for a range of the memory clock; no call reads it back, and it lasts until the driver unloads."""
        self._before_write(f"nvml {card.uuid} memory_clock_lock")
        self.call("nvmlDeviceSetMemoryLockedClocks", card.handle, low_mhz, high_mhz)

    def unlock_memory_clock(self, card: Card) -> None:
        """Takes any range of the memory clock back, whoever asked for it."""
        self._before_write(f"nvml {card.uuid} memory_clock_unlock")
        self.call("nvmlDeviceResetMemoryLockedClocks", card.handle)

    def application_clocks_mhz(self, card: Card) -> list[int]:
        """Memory and graphics clock that programs get, as far as power and heat allow."""
        kinds = (CLOCK_MEMORY, CLOCK_GRAPHICS)
        return [int(self.call("nvmlDeviceGetApplicationsClock", card.handle, kind)) for kind in kinds]

    def default_application_clocks_mhz(self, card: Card) -> list[int]:
        """The pair that the card boots with."""
        kinds = (CLOCK_MEMORY, CLOCK_GRAPHICS)
        return [int(self.call("nvmlDeviceGetDefaultApplicationsClock", card.handle, kind)) for kind in kinds]

    def set_application_clocks(self, card: Card, memory_mhz: int, graphics_mhz: int) -> None:
        """Asks for a pair; it lasts until the driver unloads."""
        self._before_write(f"nvml {card.uuid} application_clocks")
        self.call("nvmlDeviceSetApplicationsClocks", card.handle, memory_mhz, graphics_mhz)

    def reset_application_clocks(self, card: Card) -> None:
        """Gives the card its own default pair back."""
        self._before_write(f"nvml {card.uuid} application_clocks_reset")
        self.call("nvmlDeviceResetApplicationsClocks", card.handle)

    def temperature_c(self, card: Card) -> int | None:
        """How hot the chip is; drivers before R570 know the old name only."""
        found = self.reading("nvmlDeviceGetTemperatureV", card.handle, TEMPERATURE_GPU)
        if found is None:
            found = self.reading("nvmlDeviceGetTemperature", card.handle, TEMPERATURE_GPU)
        return None if found is None else int(found)

    def thermal_margin_c(self, card: Card) -> int | None:
        """How far the card says that it is from slowing itself; older drivers and some cards do not say."""
        found = self.reading("nvmlDeviceGetMarginTemperature", card.handle)
        return None if found is None else int(found)

    def compute_mode(self, card: Card) -> str:
        """Who may use the card, by name."""
        mode = int(self.call("nvmlDeviceGetComputeMode", card.handle))
        return COMPUTE_MODES.get(mode, str(mode))

    def set_compute_mode(self, card: Card, mode: str) -> None:
        """Asks for a mode; it lasts until the next boot."""
        self._before_write(f"nvml {card.uuid} compute_mode")
        codes = {name: code for code, name in COMPUTE_MODES.items()}
        self.call("nvmlDeviceSetComputeMode", card.handle, codes[mode])

    def ecc_mode(self, card: Card) -> tuple[bool, bool]:
        """Whether error correction is on now, and whether it will be when the card starts next."""
        current, pending = self.call("nvmlDeviceGetEccMode", card.handle)
        return bool(current), bool(pending)

    def set_ecc_mode(self, card: Card, on: bool) -> None:
        """Asks for a mode; the card takes it up when it starts next, and keeps it through every restart."""
        self._before_write(f"nvml {card.uuid} ecc")
        self.call("nvmlDeviceSetEccMode", card.handle, int(on))

    def compute_process_ids(self, card: Card) -> list[int]:
        """The processes that compute on the card now."""
        return sorted(int(p.pid) for p in self.call("nvmlDeviceGetComputeRunningProcesses", card.handle))

    def drawing_process_ids(self, card: Card) -> list[int]:
        """The processes that draw on the card now, as far as it tells."""
        found = self.reading("nvmlDeviceGetGraphicsRunningProcesses", card.handle) or []
        return sorted(int(p.pid) for p in found)

    def energy_mj(self, card: Card) -> int | None:
        """Energy since the driver was loaded, so that a fall tells of a reload; None for a card without a counter."""
        found = self.reading("nvmlDeviceGetTotalEnergyConsumption", card.handle)
        return None if found is None else int(found)

    def reading(self, function: str, *arguments: Any) -> Any:
        """What a call answers, or None where the card has no such reading."""
        try:
            return self.call(function, *arguments)
        except NvmlError as error:
            if error.verdict != "unsupported":
                raise
            return None

    def memory_total_mib(self, card: Card) -> int:
        """All memory of the card as NVML counts it."""
        return int(self.call("nvmlDeviceGetMemoryInfo", card.handle).total) // 2**20

    def compute_processes(self, card: Card) -> list[tuple[int, int | None]]:
        """Number and bytes of every process with a CUDA context; None where the driver keeps the bytes to itself."""
        found = self.reading("nvmlDeviceGetComputeRunningProcesses", card.handle) or []
        return [(int(p.pid), None if p.usedGpuMemory is None else int(p.usedGpuMemory)) for p in found]

    def display_bytes(self, card: Card) -> int:
        """What programs that draw hold of the card's memory: a desktop, a browser."""
        found = self.reading("nvmlDeviceGetGraphicsRunningProcesses", card.handle) or []
        return sum(int(p.usedGpuMemory or 0) for p in found)

    def virtualization_mode(self, card: Card) -> str:
        """How the card reaches this system: none, passthrough, vgpu, ..."""
        mode = int(self.call("nvmlDeviceGetVirtualizationMode", card.handle))
        return VIRTUALIZATION_MODES.get(mode, str(mode))


@contextlib.contextmanager
def open_nvml(before_write: Callable[[str], None], only: Sequence[str] | None = None) -> Iterator[Nvml]:
    """NVML for the block, of every card or of those with `only` these bus ids: no other is woken.

    Closing it may unload the driver where persistence is off, and that drops the limits.
    """
    nvml = Nvml(before_write, only)
    nvml.call("nvmlInit")
    try:
        yield nvml
    finally:
        with contextlib.suppress(NvmlError):
            nvml.call("nvmlShutdown")
