"""The clock that a card has by itself under load: a lock there cannot be told from none.

A lock from before us cannot be seen, so only what was sampled after a reset of ours, on the same driver, is kept. One
that somebody else asked for since cannot be seen either, so what is kept makes no other lock provable.
"""

from __future__ import annotations

from collections.abc import Iterable

from inferhost.host.gpu.clock_record import Natural, loaded_now, read_clocks, remember_natural
from inferhost.host.gpu.load import natural_clock_mhz
from inferhost.host.gpu.nvml import Nvml, NvmlError
from inferhost.host.gpu.sample import Series
from inferhost.host.machine import Machine
from inferhost.host.report import Report


def keep_natural(machine: Machine, nvml: Nvml, series: Iterable[Series], report: Report) -> None:
    """Writes down what these samples show of cards without a lock of ours. Raises `WriteFailed`."""
    for one in series:
        uuid, natural, clocks = one.card.uuid, natural_clock_mhz(one.samples), read_clocks(machine)
        if natural is None or uuid in clocks.asked:
            continue
        try:
            loaded = loaded_now(machine, nvml.driver_version(), nvml.energy_mj(one.card))
        except NvmlError as error:  # without them nobody could say later whether the clock is still this driver's
            report.note(f"gpu.{uuid}: its clock without a lock is not kept; {error.evidence}")
            continue
        unlocked = (clocks.unlocked or {}).get(uuid)
        if unlocked is not None and not unlocked.reload_signs(loaded):
            remember_natural(machine, uuid, Natural(*natural, loaded))
            report.note(f"gpu.{uuid}: {natural[0]} to {natural[1]} MHz under load without a lock of ours; kept")
