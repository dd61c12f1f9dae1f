"""Takes the collections of requirements.yml out of a downloaded `ansible` wheel: `extract.py WHEEL_DIRECTORY`."""

import json
import pathlib
import sys
import zipfile

import yaml

HERE = pathlib.Path(__file__).resolve().parent


def main(wheels: pathlib.Path) -> int:
    wanted = yaml.safe_load((HERE / "requirements.yml").read_text(encoding="utf-8"))["collections"]
    (wheel,) = wheels.glob("ansible-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for collection in wanted:
            folder = f"ansible_collections/{collection['name'].replace('.', '/')}/"
            found = json.loads(archive.read(folder + "MANIFEST.json"))["collection_info"]["version"]
            if found != collection["version"]:
                print(f"error: {wheel.name} carries {collection['name']} {found}, wanted {collection['version']}")
                return 2
            archive.extractall(HERE, [n for n in archive.namelist() if n.startswith(folder)])
    return 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
