"""What made room for our packages or got another version with them: of what is not ours, only that comes back.

Never told from the record of the first day alone: since then others have removed, upgraded and freed packages, too.
So the driver's packages are noted before an installation, and compared with what is there when it has ended.
"""

from __future__ import annotations

from inferhost.host.driver.changed_plan import BEFORE
from inferhost.host.driver.packages import Installed, matching, with_dependents
from inferhost.host.record.baseline import Baseline, Record
from inferhost.schema.plan import DriverPackages

SECTION = "driver"
NOTED = "packages:noted"
"""What is there of the first day's driver, by version, while an installation is under way or has failed."""
NAMES = "packages:displaced:"


def noted(install: DriverPackages, there: Installed, baseline: Baseline) -> dict[str, Record]:
    """What an installation that is about to begin may displace; nothing on a host that had no driver.

    What needs a driver that makes room goes with it, whatever its name: cuda-12-8 of NVIDIA's repository.
    """
    first = baseline[BEFORE].found["versions"] if BEFORE in baseline else there.versions
    drivers = matching(set(first) & set(there.versions), [*install.pinned, *install.packages])
    names = sorted(with_dependents(drivers, there) & set(first))
    return {NOTED: Record(SECTION, {name: there.versions[name] for name in names}, {})} if names else {}


def displaced(baseline: Baseline, there: Installed) -> dict[str, str]:
    """By package, the version that it had before an installation of ours removed or moved it first."""
    before = dict(baseline[NOTED].found) if NOTED in baseline else {}
    found = {name: version for name, version in before.items() if there.versions.get(name) != version}
    return found | {key[len(NAMES) :]: baseline[key].found for key in baseline if key.startswith(NAMES)}


def settle(baseline: Baseline, there: Installed, check: bool) -> None:
    """Records what the installation that has ended displaced; what others do from now on is theirs."""
    if NOTED in baseline:
        found = displaced(baseline, there)
        baseline.add({f"{NAMES}{name}": Record(SECTION, version, {}) for name, version in found.items()}, check)
        baseline.drop([NOTED], check)
