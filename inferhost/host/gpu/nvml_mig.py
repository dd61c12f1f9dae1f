"""NVML's calls about dividing a card: mode, profiles, GPU instances, compute instances, and their devices.

A border like `nvml.py`: handles and return codes stay here. A profile has the name that nvidia-smi prints. A trap of
the binding: why a mode was not activated is what `nvmlDeviceSetMigMode` returns, never an exception.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Iterator
from typing import Any

from inferhost.host.gpu.nvml import Card, Nvml, NvmlError

NAME_PREFIX = "MIG "
RESET_REQUIRED = 16
NOT_SUPPORTED, NOT_FOUND = 3, 6
ABSENT = (2, 3)
"""Codes of an enumerator that a card does not have. Source: nvml.h of NVML API 13 (InvalidArgument, NotSupported)."""
MOST = 64
"""More instances than any card has."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """A size of instance; `id` is what NVML creates it by."""

    name: str
    id: int
    slices: int


@dataclasses.dataclass(frozen=True)
class Part:
    """An instance: its profile, and where it begins and how much it takes. `handle` lives as long as NVML is open."""

    profile: Profile
    start: int
    size: int
    id: int
    handle: Any = dataclasses.field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Profile and place, with START:SIZE as nvidia-smi mig -lgi prints it."""
        return f"{self.profile.name}@{self.start}:{self.size}"


class CardMig:
    """One card's instances, read anew with each call."""

    def __init__(self, nvml: Nvml, card: Card) -> None:
        self.nvml = nvml
        self.card = card

    def mode(self) -> tuple[bool, bool]:
        """Whether the card can be divided now, and whether it could after its next start."""
        current, pending = self.nvml.call("nvmlDeviceGetMigMode", self.card.handle)
        return bool(current), bool(pending)

    def set_mode(self, on: bool) -> None:
        """Asks for a mode; raises `NvmlError`, but not where only a restart of the machine can activate it."""
        self._announce(f"mig_mode {'on' if on else 'off'}")
        activation = int(self.nvml.call("nvmlDeviceSetMigMode", self.card.handle, int(on)))
        if activation not in (0, RESET_REQUIRED):
            raise NvmlError("nvmlDeviceSetMigMode", activation)

    def profiles(self) -> dict[str, Profile]:
        """What the card can be divided into, by name."""
        import pynvml

        count = pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT
        return _profiles(self.nvml, "nvmlDeviceGetGpuInstanceProfileInfo", count, self.card.handle)

    def instances(self) -> list[Part]:
        """The GPU instances of a card in MIG mode, by place."""
        import pynvml

        found = []
        for profile in self.profiles().values():
            kind = pynvml.c_nvmlGpuInstance_t
            for handle in self._listed("nvmlDeviceGetGpuInstances", kind, self.card.handle, profile.id):
                info = self.nvml.call("nvmlGpuInstanceGetInfo", handle)
                place = info.placement
                found.append(Part(profile, int(place.start), int(place.size), int(info.id), handle))
        return sorted(found, key=lambda part: part.start)

    def compute_profiles(self, instance: Part) -> dict[str, Profile]:
        """What a GPU instance can be divided into."""
        import pynvml

        count = pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT
        engine = pynvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
        return _profiles(self.nvml, "nvmlGpuInstanceGetComputeInstanceProfileInfo", count, instance.handle, engine)

    def compute_instances(self, instance: Part) -> list[Part]:
        """The compute instances in a GPU instance, by place."""
        import pynvml

        found = []
        for profile in self.compute_profiles(instance).values():
            kind = pynvml.c_nvmlComputeInstance_t
            for handle in self._listed("nvmlGpuInstanceGetComputeInstances", kind, instance.handle, profile.id):
                info = self.nvml.call("nvmlComputeInstanceGetInfo", handle)
                place = info.placement
                found.append(Part(profile, int(place.start), int(place.size), int(info.id), handle))
        return sorted(found, key=lambda part: part.start)

    def create(self, profile: Profile, start: int, size: int) -> Part:
        """A GPU instance at this place."""
        self._announce(f"mig_create {profile.name}@{start}:{size}")
        handle = self.nvml.call(
            "nvmlDeviceCreateGpuInstanceWithPlacement", self.card.handle, profile.id, _placement(start, size)
        )
        return Part(profile, start, size, int(self.nvml.call("nvmlGpuInstanceGetInfo", handle).id), handle)

    def create_compute(self, instance: Part, profile: Profile, start: int) -> None:
        """A compute instance at this slice of a GPU instance; without one no program can use it."""
        self._announce(f"mig_create {profile.name}@{start} in {instance.name}")
        place = _placement(start, profile.slices)
        self.nvml.call("nvmlGpuInstanceCreateComputeInstanceWithPlacement", instance.handle, profile.id, place)

    def destroy(self, instance: Part) -> None:
        """A GPU instance with what is in it; NVML refuses while a program runs there."""
        for compute in self.compute_instances(instance):
            self._announce(f"mig_destroy {compute.name} in {instance.name}")
            self.nvml.call("nvmlComputeInstanceDestroy", compute.handle)
        self._announce(f"mig_destroy {instance.name}")
        self.nvml.call("nvmlGpuInstanceDestroy", instance.handle)

    def devices(self) -> Iterator[tuple[int, str]]:
        """The id of the GPU instance and the UUID of every device that a CUDA program can see on this card."""
        for index in range(int(self.nvml.call("nvmlDeviceGetMaxMigDeviceCount", self.card.handle))):
            try:
                device = self.nvml.call("nvmlDeviceGetMigDeviceHandleByIndex", self.card.handle, index)
            except NvmlError as error:
                if error.code != NOT_FOUND:
                    raise
                continue
            yield (
                int(self.nvml.call("nvmlDeviceGetGpuInstanceId", device)),
                str(self.nvml.call("nvmlDeviceGetUUID", device)),
            )

    def _announce(self, what: str) -> None:
        self.nvml.announce(f"nvml {self.card.uuid} {what}")

    def _listed(self, function: str, kind: Any, owner: Any, profile_id: int) -> list[Any]:
        """What a list call of NVML fills into an array."""
        room, count = (kind * MOST)(), ctypes.c_uint(MOST)
        self.nvml.call(function, owner, profile_id, room, ctypes.byref(count))
        return [room[number] for number in range(count.value)]


def _profiles(nvml: Nvml, function: str, count: int, owner: Any, *engine: int) -> dict[str, Profile]:
    found: dict[str, Profile] = {}
    absent = NvmlError(function, NOT_SUPPORTED)
    for enumerator in range(count):
        try:
            info = nvml.call(function, owner, enumerator, *engine)
        except NvmlError as error:
            if error.code not in ABSENT:
                raise
            absent = error
            continue
        name = _text(info.name).removeprefix(NAME_PREFIX)
        found.setdefault(name, Profile(name, int(info.id), int(info.sliceCount)))
    if not found:  # else nothing would be seen of what is there, and it would pass for empty
        raise absent
    return found


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _placement(start: int, size: int) -> Any:
    import pynvml

    return ctypes.byref(pynvml.c_nvmlGpuInstancePlacement_t(start, size))
