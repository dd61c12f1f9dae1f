"""A package index of stand-ins: wheels of the engines' names and versions, with the program that a unit starts.

Nothing of an engine is in them; they show that the right version goes into the right folder.
"""

from __future__ import annotations

import base64
import hashlib
import pathlib
import zipfile

PROGRAM = "import sys\ndef main():\n    print('stand-in', sys.argv[1:])\n"


def index(folder: pathlib.Path, *packages: tuple[str, str]) -> str:
    """The address of an index with these packages; the folder holds what PEP 503 wants."""
    for name, version in packages:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        _wheel(place / f"{name}-{version}-py3-none-any.whl", name, version)
        links = "".join(f'<a href="{wheel.name}">{wheel.name}</a>\n' for wheel in sorted(place.glob("*.whl")))
        (place / "index.html").write_text(f"<!DOCTYPE html><html><body>\n{links}</body></html>\n")
    return folder.as_uri()


def _wheel(path: pathlib.Path, name: str, version: str) -> None:
    folder = f"{name}-{version}.dist-info"
    files = {
        f"{name}_stand_in.py": PROGRAM,
        f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{folder}/WHEEL": "Wheel-Version: 1.0\nGenerator: stand-in\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{folder}/entry_points.txt": f"[console_scripts]\n{name} = {name}_stand_in:main\n",
    }
    record = "".join(f"{n},sha256={_digest(text)},{len(text)}\n" for n, text in files.items())
    with zipfile.ZipFile(path, "w") as wheel:
        for where, text in {**files, f"{folder}/RECORD": f"{record}{folder}/RECORD,,\n"}.items():
            wheel.writestr(where, text)


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
