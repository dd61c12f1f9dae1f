"""The unit of each engine on each machine class, as systemd itself reads it; and what cannot be, refused."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import subprocess

import jsonschema
import pytest

from inferhost.schema import document
from inferhost.schema.plan import Plan
from tests.unit.host.stand_ins import ENGINES
from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, planned, refusal, wish

UNITS = pathlib.Path(__file__).resolve().parents[2] / "inferhost/host/units"
PROGRAM = "/usr/local/bin/inferhost"
CARDS = (
    "tesla-p4",
    "rtx-3090",
    "rtx-4090",
    "rtx-5090",
    "rtx-pro-6000-bw-ws",
    "a100-pcie-80gb",
    "h100-sxm",
    "h200-sxm",
    "b200",
)
MODELS = {"llama.cpp": "llama-2-7b-q4_k_m"}
MADE = {"sglang": "pip", "vllm": "pip", "tabbyapi": "source"}
"""How an engine comes onto a host; the others are there, or in a container."""
PASCAL = {"sglang", "vllm", "tabbyapi", "sfllm"}
"""What does not run on a card of Pascal."""
BLACKWELL = {"rtx-5090", "rtx-pro-6000-bw-ws", "b200"}
"""What SFLLM does not run on."""


def runs(engine: str, card: str) -> bool:
    return not (card == "tesla-p4" and engine in PASCAL) and not (card in BLACKWELL and engine == "sfllm")


def classes() -> list[tuple[str, str]]:
    return [(row.engine, card) for row in CATALOGUE.engines.values() for card in CARDS]


def values(engine: str, card: str, **own):
    host = {"service_host": "0.0.0.0"} if engine == "sfllm" else {}
    found = wish(card, MODELS.get(engine, "qwen3-1.7b"), service_engine=engine, **host, **own)
    found["inferhost_hardware"] = hardware(gpu(card), driver_version=None)
    return found


def write_units(plan: Plan, folder: pathlib.Path) -> None:
    """Unit and drop-in as they are placed; programs that are not on this machine are stood in for."""
    for dropin in plan.dropins:
        if not dropin.unit.startswith("inferhost-serve@"):
            continue
        text = (UNITS / "inferhost-serve@.service").read_text().replace(PROGRAM, "/bin/true")
        (folder / dropin.unit).write_text(text)
        place = folder / f"{dropin.unit}.d"
        place.mkdir()
        content = dropin.content.replace(plan.service[0].argv[0], "/bin/true")
        (place / "10-inferhost.conf").write_text(content)
        warm = dropin.unit.replace("serve", "warm")
        (folder / warm).write_text((UNITS / "inferhost-warm@.service").read_text().replace(PROGRAM, "/bin/true"))
        (folder / "inferhost-uvm.service").write_text((UNITS / "inferhost-uvm.service").read_text())


def test_the_device_of_unified_memory_is_made_by_a_unit_before_the_engine_is_shut_in():
    """DevicePolicy holds for every line of a unit, those with all privileges too."""
    unit = (UNITS / "inferhost-serve@.service").read_text().splitlines()
    words = {
        key: line.split("=", 1)[1].split() for key in ("After", "Wants") for line in unit if line.startswith(key)
    }
    assert all("inferhost-uvm.service" in found for found in words.values())
    assert "DevicePolicy=closed" in unit
    assert not any("nvidia-modprobe" in line for line in unit)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="SKIPPED: no systemd-analyze on PATH")
@pytest.mark.parametrize(("engine", "card"), classes())
def test_systemd_accepts_the_unit_or_the_planner_refuses_the_pair(engine: str, card: str, tmp_path: pathlib.Path):
    own = {"service_api_key_file": "/root/key"} if engine in ("llama.cpp", "vllm") else {}
    if not runs(engine, card):
        assert re.search(
            "needs compute capability|has no code above compute capability", refusal(values(engine, card))
        )
        return
    plan = planned(values(engine, card, **own))
    write_units(plan, tmp_path)
    units = [f"./{path.name}" for path in sorted(tmp_path.glob("*.service"))]
    assert len(units) == 3
    command = ["systemd-analyze", "verify", "--man=no", *units]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "Unknown" in line or "inferhost-" in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize(("engine", "card"), [c for c in classes() if runs(*c)])
def test_what_is_made_is_what_the_unit_starts_and_the_document_is_read_back_as_it_was(engine: str, card: str):
    plan = planned(values(engine, card, service_engine_install=MADE.get(engine, "given")))
    written = json.loads(document.text(plan))
    jsonschema.validate(written, document.json_schema(Plan))
    assert document.read(Plan, written) == plan
    (service,) = plan.service
    assert (service.install is not None) is (engine in MADE)
    if service.install is not None:
        assert service.argv[0].startswith(f"{service.install.prefix}/bin/")
    starts = [value for _, key, value in plan.dropins[0].entries if key == "ExecStart"]
    assert starts[1].startswith(f"{service.argv[0]} ")


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_the_home_of_an_engine_is_the_folder_that_systemd_makes_for_its_user(engine: str):
    """FlashInfer makes folders below it as soon as vLLM imports it, Triton before the first kernel."""
    plan = planned(values(engine, "rtx-4090"))
    unit = (UNITS / "inferhost-serve@.service").read_text().splitlines()
    (made,) = (line.partition("=")[2] for line in unit if line.startswith("CacheDirectory="))
    home = f"/var/cache/{made}".replace("%i", "main")
    (dropin,) = (dropin for dropin in plan.dropins if dropin.unit == "inferhost-serve@main.service")
    said = [value for _, key, value in dropin.entries if key == "Environment"]
    for name in ("HOME", "XDG_CACHE_HOME"):
        assert [value for value in said if value.startswith(f'"{name}=')] == [f'"{name}={home}"']
    assert ("Service", "User", plan.service[0].user) in dropin.entries


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_a_home_of_the_wish_is_refused(engine: str):
    said = refusal(values(engine, "rtx-4090", service_env={"HOME": "/srv/home"}))
    assert 'inferhost_service_env.HOME: found "/srv/home": an engine may write in the cache folder of its' in said


WRONG = [
    ("sglang on Pascal", values("sglang", "tesla-p4"), "needs compute capability 7.5, a tesla-p4 has 6.1"),
    ("GGUF on vLLM", wish("rtx-3090", "llama-2-7b-q4_k_m", service_engine="vllm"), "and llama-2-7b-q4_k_m is gguf"),
    (
        "SFLLM on loopback, where it does not listen",
        wish("rtx-3090", "qwen3-1.7b", service_engine="sfllm"),
        "always listens on 0.0.0.0, and 127.0.0.1 is asked for",
    ),
]


@pytest.mark.parametrize(("given", "says"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_wrong_combination_is_refused_before_contact(given, says: str):
    assert says in refusal(given)


def test_every_engine_of_the_catalogue_has_a_stand_in():
    assert set(ENGINES) == {row.engine for row in CATALOGUE.engines.values()}


def test_no_engine_of_the_catalogue_reads_exl2():
    """TabbyAPI removed it; a model in it cannot even be named."""
    assert not any("exl2" in formats for row in CATALOGUE.engines.values() for formats in row.quantisations)
    assert not any(row.format == "exl2" for row in CATALOGUE.models.values())
