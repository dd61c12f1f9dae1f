"""A real apt on a package database and an archive of its own, in a folder; it is asked and never installs."""

import dataclasses
import os
import pathlib
import subprocess

from tests.bed import driver_packages as stand_ins
from tests.bed.driver_packages import Package

PLACES = {
    "Dir::State::lists": "lists",
    "Dir::State::status": "status",
    "Dir::Cache": "cache",
    "Dir::Etc::sourcelist": "sources.list",
    "Dir::Etc::sourceparts": "no-parts",
    "Dir::Etc::preferencesparts": "preferences",
    "Dir::Etc::parts": "settings",
}


@dataclasses.dataclass
class Apt:
    """An apt of its own: its archive, and the packages that it takes for installed."""

    folder: pathlib.Path

    def installed(self, *packages: Package, held: tuple[str, ...] = ()) -> None:
        fields = "Architecture: amd64\nMaintainer: nobody <nobody@example.org>\nDescription: stand-in\n"
        paragraphs = [
            f"Package: {p.name}\nStatus: {'hold' if p.name in held else 'install'} ok installed\n{fields}"
            f"Version: {p.version}\n"
            + "".join(
                f"{key}: {text}\n" for key, text in (("Depends", p.depends), ("Conflicts", p.conflicts)) if text
            )
            for p in packages
        ]
        (self.folder / "status").write_text("\n".join(paragraphs))

    def run(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "APT_CONFIG": str(self.folder / "apt.conf"), "LC_ALL": "C"}
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


def own_apt(folder: pathlib.Path, *offered: Package) -> Apt:
    """One whose archive holds these packages, and which has none installed."""
    stand_ins.archive(folder, ["noble"], ["restricted"], offered)
    for name in ("lists/partial", "cache/archives/partial", "no-parts", "preferences", "settings"):
        (folder / name).mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb [signed-by={folder}/key.asc] file:{folder}/archive noble restricted\n")
    written = [f'{key} "{folder / name}";' for key, name in PLACES.items()]
    own = [*written, 'APT::Architecture "amd64";', 'APT::Sandbox::User "root";']
    (folder / "apt.conf").write_text("\n".join(own))
    found = Apt(folder)
    found.installed()
    updated = found.run(["apt-get", "update"])
    assert updated.returncode == 0, updated.stderr
    return found
