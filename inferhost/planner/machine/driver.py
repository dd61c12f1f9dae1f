"""Which cards the host has and what they ask of the NVIDIA driver.

Matches `inferhost_hardware` with the catalogue: an unknown model, a PCI id of another card and a memory size that
cannot be are refused here, because every later number rests on them. A found driver that cannot run a card is
refused; one that is not there yet leaves a line in `pending`.
"""

from __future__ import annotations

import re

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import GpuRow
from inferhost.planner.nearby import near_cards
from inferhost.planner.reasons import reason
from inferhost.planner.request import HARDWARE
from inferhost.schema.hardware import Hardware, HardwareGpu
from inferhost.schema.plan import Driver, Pending, Reason
from inferhost.schema.problems import InputError, Problem

VERSION = re.compile(r"\d{3}(\.\d+){1,2}")


def driver_version(text: str) -> tuple[int, ...]:
    """`580.95.05` as numbers; the first is the branch."""
    return tuple(int(part) for part in text.split("."))


def pci_device_id(text: str) -> str:
    """Four hexadecimal digits in upper case, whether the vendor `10DE` stood in front or not."""
    return text.upper().removeprefix("0X").removeprefix("10DE:").removesuffix("10DE")[-4:].rjust(4, "0")


def cards(hardware: Hardware, catalogue: Catalogue) -> tuple[GpuRow, ...]:
    """The catalogue row of each GPU, or `InputError` with every contradiction between hardware and catalogue."""
    problems: list[Problem] = []
    rows: list[GpuRow] = []
    for number, gpu in enumerate(hardware.gpus):
        path = f"{HARDWARE}.gpus[{number}]"
        row = catalogue.gpus.get(gpu.model)
        if row is None:
            known = near_cards(gpu.model, catalogue)
            problems.append(
                Problem(
                    f"{path}.model", f'found "{gpu.model}", which the catalogue does not know', known, "unknown-gpu"
                )
            )
            continue
        problems += _contradictions(gpu, row, path, catalogue)
        rows.append(row)
    if problems:
        raise InputError(problems)
    return tuple(rows)


def driver(
    rows: tuple[GpuRow, ...], hardware: Hardware, catalogue: Catalogue
) -> tuple[Driver, list[Reason], list[Pending]]:
    """The driver that all cards can share, or `InputError`.

    For cards that take either module no least version is known, only the least branch, so no version is given.
    Source: formulas `driver.modules` and `driver.first_branch`.
    """
    path = f"{HARDWARE}.driver_version"
    kinds = {row.kernel_module: row.key for row in rows}
    if "open" in kinds and "proprietary" in kinds:
        raise InputError(
            [
                Problem(
                    f"{HARDWARE}.gpus",
                    f"{kinds['open']} needs the open kernel module and {kinds['proprietary']} the proprietary one",
                    "one driver cannot run both: put them into different hosts",
                )
            ]
        )
    kind = "open" if "open" in kinds else "proprietary" if "proprietary" in kinds else "either"
    least = max(
        (row.first_open_driver for row in rows if row.kernel_module == "open" and row.first_open_driver),
        key=driver_version,
        default=None,
    )
    last = min((row.last_driver_branch for row in rows if row.last_driver_branch), default=None)
    problems = _version_problems(rows, hardware.driver_version, path, catalogue)
    if problems:
        raise InputError(problems)
    found = hardware.driver_version
    reasons = []
    if rows:
        source = f"catalogue:gpus/{rows[0].key}#kernel_module"
        because = f"{_cards(rows)} takes either" if kind == "either" else f"{_cards(rows)} asks for it"
        gain = "the card runs at all"
        reasons = [reason("driver.kernel_module", kind, because, source, gain=gain, disruption="reboot")]
    pending = []
    if found is None and rows:
        first = max(first_branch(row, catalogue) for row in rows)
        needs = f"{least} or later" if least else f"branch {first} to {last}" if last else f"branch {first} or later"
        pending = [
            Pending("driver.version_found", f"an NVIDIA driver: {needs}", f"{HARDWARE}.driver_version is not known")
        ]
    return Driver(kind, least, str(last) if last else None, found), reasons, pending


def first_branch(row: GpuRow, catalogue: Catalogue) -> int:
    """The branch before which no driver knows the card, whatever its module.

    Source: formula `driver.first_branch`.
    """
    return catalogue.capabilities[row.compute_capability].first_driver_branch


def _version_problems(rows: tuple[GpuRow, ...], found: str | None, path: str, catalogue: Catalogue) -> list[Problem]:
    if found is None:
        return []
    if not VERSION.fullmatch(found):
        hint = "write it as nvidia-smi shows it, or null where no driver is installed"
        return [Problem(path, f'found "{found}", wanted a version such as 580.95.05', hint)]
    problems = []
    for row in rows:
        first, last, least = row.first_open_driver, row.last_driver_branch, first_branch(row, catalogue)
        if row.kernel_module == "open" and first and driver_version(found) < driver_version(first):
            problems.append(
                Problem(path, f"found {found}, {row.key} needs {first} or later", "install a newer driver branch")
            )
        elif driver_version(found)[0] < least:
            card = f"{row.key} (compute capability {row.compute_capability})"
            says = f"found {found}, {card} needs branch {least} or later"
            problems.append(Problem(path, says, "install a newer driver branch", "driver-branch"))
        if last and driver_version(found)[0] > last:
            problems.append(
                Problem(path, f"found {found}, branch {last} is the last for {row.key}", f"install branch {last}")
            )
    return problems


def _contradictions(gpu: HardwareGpu, row: GpuRow, path: str, catalogue: Catalogue) -> list[Problem]:
    problems = []
    found = pci_device_id(gpu.pci_device_id)
    if found not in row.pci_device_ids:
        owner = next((g.key for g in catalogue.gpus.values() if found in g.pci_device_ids), None)
        hint = f"{found} is {owner}" if owner else f"{row.key} is {' or '.join(row.pci_device_ids)}"
        problems.append(Problem(f"{path}.pci_device_id", f'found "{gpu.pci_device_id}", not a {row.key}', hint))
    label = row.memory_label_gb
    if gpu.memory_mib <= 0 or (label and not 0.5 * label <= gpu.memory_mib / 1024 <= 1.1 * label):
        wanted = f"about {row.memory_mib}" if row.memory_mib else f"about {label} GB"
        problems.append(
            Problem(
                f"{path}.memory_mib", f"found {gpu.memory_mib} MiB, a {row.key} has {wanted}", "as CUDA reports it"
            )
        )
    known = [w for w in (gpu.power_min_w, gpu.power_default_w, gpu.power_max_w) if w is not None]
    if known != sorted(known) or any(w <= 0 for w in known):
        problems.append(
            Problem(
                f"{path}.power_default_w", f"found {known}, wanted least, default and most in that order", "watts"
            )
        )
    return problems


def _cards(rows: tuple[GpuRow, ...]) -> str:
    return ", ".join(sorted({row.key for row in rows}))
