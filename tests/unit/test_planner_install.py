"""An engine is there, or made in a folder of its version; each wrong option is refused by its name."""

from __future__ import annotations

import re

import pytest

from inferhost.schema.plan import Install
from tests.unit.planner_wishes import CATALOGUE, planned, refusal, wish

CARD = "rtx-pro-6000-bw-ws"
MODELS = {"llama.cpp": "llama-2-7b-q4_k_m"}


def installed(engine: str, kind: str, **own):
    host = {"service_host": "0.0.0.0"} if engine == "sfllm" else {}
    given = {"service_engine": engine, "service_engine_install": kind, **host, **own}
    card = "h100-sxm" if engine == "sfllm" else CARD
    return wish(card, MODELS.get(engine, "qwen3-4b"), **given)


def test_by_default_the_engine_is_taken_as_it_is_there():
    plan = planned(wish(CARD, "qwen3-4b"))
    assert plan.service[0].install is None
    assert next(r.value for r in plan.reasons if r.setting == "service.main.install") == "given"


@pytest.mark.parametrize(("engine", "kind"), [("sglang", "pip"), ("vllm", "pip"), ("tabbyapi", "source")])
def test_the_unit_starts_what_is_made_and_the_folder_carries_the_version(engine: str, kind: str):
    (service,) = planned(installed(engine, kind)).service
    install = service.install
    assert install is not None
    assert install.prefix == f"/opt/inferhost/{engine}-{service.engine_version}"
    assert service.argv[0].startswith(f"{install.prefix}/bin/")
    if kind == "pip":
        assert install.arguments[-1] == f"{engine}=={service.engine_version}"
    else:
        assert install.commit is not None
        assert re.fullmatch("[0-9a-f]{40}", install.commit)  # a short one may come to mean another one some day
        assert install.commit.startswith(service.engine_version)


@pytest.mark.parametrize(
    ("kind", "simulated", "wanted"),
    [("pip", False, ("cc", "c++", "Python.h", "nvcc")), ("pip", True, ()), ("given", False, ())],
)
def test_what_compiles_kernels_is_asked_for_where_an_engine_is_made_for_a_real_card(kind, simulated, wanted):
    for engine in ("sglang", "vllm"):
        (service,) = planned(installed(engine, kind, simulated=simulated)).service
        assert service.compiles_with == wanted


@pytest.mark.parametrize(("engine", "kind"), [("sglang", "pip"), ("vllm", "given"), ("tabbyapi", "source")])
def test_what_came_with_the_engine_is_found_before_what_the_host_has(engine: str, kind: str):
    """FlashInfer runs ninja by its name, and pip puts it beside the engine."""
    plan = planned(installed(engine, kind))
    path = plan.env["main"]["PATH"].split(":")
    assert path[0] == plan.service[0].argv[0].rpartition("/")[0]
    assert path[1:] == ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"]
    assert ("Service", "Environment", f'"PATH={":".join(path)}"') in plan.dropins[0].entries


def test_an_engine_of_the_host_and_one_on_nixos_have_the_path_that_is_there():
    plan = planned(installed("llama.cpp", "given", service_engine_path="/usr/bin/llama-server"))
    assert "PATH" not in plan.env["main"]
    values = installed("vllm", "given")
    values["inferhost_hardware"]["os"] = "nixos-26.05"
    assert "PATH" not in planned(values).env["main"]


def test_interpreter_and_index_are_the_wishes():
    own = {"service_engine_python": "/usr/bin/python3.12", "service_engine_index": "https://example.net/simple"}
    (service,) = planned(installed("vllm", "pip", **own)).service
    arguments = ("--index-url", "https://example.net/simple", "vllm==0.33.0")
    assert service.install == Install(
        "pip", "/opt/inferhost/vllm-0.33.0", "/usr/bin/python3.12", "3.10", arguments, None, None
    )


@pytest.mark.parametrize(
    ("values", "option", "says"),
    [
        (installed("llama.cpp", "pip"), "engine_install", "does not come that way"),
        (installed("sglang", "source"), "engine_install", "does not come that way"),
        (installed("sfllm", "source"), "engine_install", "compose with an image of containers/sfllm.Containerfile"),
        (installed("vllm", "pip", service_engine_path="/opt/x"), "engine_path", "wants one made"),
        (installed("vllm", "given", service_engine_python="/usr/bin/python3"), "engine_python", "that is installed"),
        (installed("vllm", "pip", service_engine_python="python3"), "engine_python", "wanted an absolute path"),
        (installed("vllm", "pip", service_engine_index="x y"), "engine_index", "is no address of an index"),
        (
            installed("vllm", "pip", service_engine_index="https://me:sk-12345@h/s"),
            "engine_index",
            "carries a secret",
        ),
    ],
)
def test_a_wrong_option_is_refused_by_name(values, option: str, says: str):
    told = refusal(values)
    assert f"error: inferhost_service_{option}: " in told
    assert says in told
    assert "sk-12345" not in told


def test_every_engine_has_a_row_and_its_folder_is_that_of_its_executable():
    assert set(CATALOGUE.installs) == set(CATALOGUE.engines)
    for key, row in CATALOGUE.installs.items():
        if row.prefix is not None:
            engine = CATALOGUE.engines[key]
            assert engine.executable.startswith(f"{row.prefix}/")
            assert row.prefix.endswith(f"-{engine.version}")
