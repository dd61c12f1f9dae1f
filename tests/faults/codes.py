"""What each code of NVML means, and which settings each of its calls concerns."""

import pynvml

from tests.unit.host.test_host_mig import MIG_CALLS

CODES = sorted(
    {getattr(pynvml, name) for name in dir(pynvml) if name.startswith("NVML_ERROR_")}
)  # NVML_SUCCESS is not called an error
FEW = (13, 9, 15, 17)
"""A code of each meaning, an unlisted one among them; `make test-slow` takes them all."""

NO_DRIVER = {9: "needs_driver", 12: "needs_driver", 18: "needs_reboot"}
NO_INTERFACE = {3, 13, 25, 26}
REFUSED = {4: "read_only", 15: "needs_reboot", 16: "needs_reboot", 19: "other_writer"}
"""What a code means for the one setting whose call gave it. Source: facts-nvml.md A.2."""

CONCERNS = {
    "nvmlDeviceGetPowerManagementLimit": ("power_limit_w",),
    "nvmlDeviceGetPowerManagementLimitConstraints": ("power_limit_w",),
    "nvmlDeviceSetPowerManagementLimit": ("power_limit_w",),
    "nvmlDeviceGetPersistenceMode": ("persistence_mode", "graphics_clock_lock_mhz", "memory_clock_lock_mhz"),
    "nvmlDeviceSetPersistenceMode": ("persistence_mode",),
    "nvmlDeviceGetComputeMode": ("compute_mode",),
    "nvmlDeviceSetComputeMode": ("compute_mode",),
    "nvmlDeviceGetComputeRunningProcesses": ("compute_mode", "ecc", "mig"),
    "nvmlDeviceGetGraphicsRunningProcesses": ("ecc", "mig"),
    **dict.fromkeys(MIG_CALLS, ("mig",)),
    "nvmlDeviceGetEccMode": ("ecc",),
    "nvmlDeviceSetEccMode": ("ecc",),
    "nvmlDeviceGetArchitecture": ("graphics_clock_lock_mhz", "memory_clock_lock_mhz"),
    "nvmlDeviceGetSupportedGraphicsClocks": ("graphics_clock_lock_mhz", "application_clocks_mhz"),
    "nvmlDeviceGetSupportedMemoryClocks": (
        "graphics_clock_lock_mhz",
        "memory_clock_lock_mhz",
        "application_clocks_mhz",
    ),
    "nvmlDeviceSetGpuLockedClocks": ("graphics_clock_lock_mhz",),
    "nvmlDeviceSetMemoryLockedClocks": ("memory_clock_lock_mhz",),
    "nvmlDeviceResetGpuLockedClocks": ("graphics_clock_lock_mhz",),
    "nvmlDeviceResetMemoryLockedClocks": ("memory_clock_lock_mhz",),
    "nvmlDeviceGetApplicationsClock": ("application_clocks_mhz",),
    "nvmlDeviceSetApplicationsClocks": ("application_clocks_mhz",),
}
"""The settings that cannot be judged or written without a call, in `apply` and `verify`."""

SPARED = {"nvmlDeviceGetGraphicsRunningProcesses"}
"""What a setting goes without on a card that has no such reading."""
