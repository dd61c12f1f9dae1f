"""The Containerfiles of engines without a published image, line by line: stages, user, bases, health, arguments."""

from __future__ import annotations

import json
import pathlib
import re

import pytest

from inferhost.planner.service.container import build_command
from inferhost.planner.service.surroundings import CONTAINER_USER
from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, refusal, wish

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "containers"
FILES = sorted(FOLDER.glob("*.Containerfile"))
TOOLKIT = ("build-essential", "cmake", "nvcc", "ninja", "g++")
INSTRUCTIONS = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "HEALTHCHECK", "ENTRYPOINT"}


def instructions(file: pathlib.Path) -> list[tuple[str, str]]:
    """Each instruction with its words, continued lines joined."""
    plain = re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(None, 1)[1]) for line in plain.splitlines() if line.strip()]


def stages(file: pathlib.Path) -> list[list[tuple[str, str]]]:
    """The instructions of each stage, its FROM first; what comes before the first one is left out."""
    found: list[list[tuple[str, str]]] = []
    for name, words in instructions(file):
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, words))
    return found


@pytest.fixture(params=FILES, ids=[file.stem for file in FILES])
def file(request: pytest.FixtureRequest) -> pathlib.Path:
    path: pathlib.Path = request.param
    return path


def test_there_is_one_for_each_engine_that_can_be_built():
    built = {row.key for row in CATALOGUE.installs.values() if row.build_argument}
    assert {path.name.removesuffix(".Containerfile") for path in FILES} == built
    assert {row.key for row in CATALOGUE.installs.values() if row.image is None} <= built


def test_only_known_instructions_and_no_address_in_a_base(file: pathlib.Path):
    assert {name for name, _ in instructions(file)} <= INSTRUCTIONS
    assert [words for name, words in instructions(file) if name == "FROM"] == [
        "${BUILD_IMAGE} AS build",
        "${RUN_IMAGE}",
    ]
    assert [words for name, words in instructions(file) if name == "ARG"][:2] == ["BUILD_IMAGE", "RUN_IMAGE"]


def test_what_compiles_stays_in_the_first_stage(file: pathlib.Path):
    build, run = stages(file)
    assert any(word in words for word in TOOLKIT for name, words in build if name == "RUN")
    assert [words for name, words in run if name == "RUN" and any(word in words for word in TOOLKIT)] == []
    assert [words.split()[0] for name, words in run if name == "COPY"] == ["--from=build"]


def test_it_runs_as_the_number_that_plans_use_and_starts_what_the_catalogue_says(file: pathlib.Path):
    run = dict(stages(file)[-1])
    assert run["USER"] == f"{CONTAINER_USER}:{CONTAINER_USER}"
    row = CATALOGUE.installs[file.name.removesuffix(".Containerfile")]
    assert tuple(json.loads(run["ENTRYPOINT"])) == row.image_command
    names = [name for name, _ in stages(file)[-1]]
    assert names.index("USER") > names.index("RUN")


def test_health_is_a_token_of_the_engines_own_api(file: pathlib.Path):
    words = dict(stages(file)[-1])["HEALTHCHECK"]
    engine = CATALOGUE.engines[file.name.removesuffix(".Containerfile")]
    assert engine.probe_path in words
    assert ("completion_tokens" if engine.engine == "llama.cpp" else '\\"text\\": *\\"[^') in words
    limit = next(name for name in engine.probe_body if name.startswith("max_"))
    assert f'\\"{limit}\\": ' in words
    assert 'curl --noproxy "*" ' in words


def test_what_sfllm_asks_of_a_request_and_of_the_image_is_there():
    """Its completions want a model's name, and Triton a C compiler with Python's headers."""
    (_, run) = stages(FOLDER / "sfllm.Containerfile")
    assert '\\"model\\": ' in dict(run)["HEALTHCHECK"]
    (packages,) = [words for name, words in run if name == "RUN"]
    assert {"gcc", "libc6-dev", "python3-dev"} <= set(packages.split())


@pytest.mark.parametrize(
    ("key", "card", "argument"),
    [
        ("llama.cpp", "tesla-p4", "CUDA_ARCHITECTURES=61-real"),
        ("llama.cpp", "h100-sxm", "CUDA_ARCHITECTURES=90-real"),
        ("llama.cpp", "rtx-5090", "CUDA_ARCHITECTURES=120a-real"),
        ("sfllm", "rtx-3090", "GPU_TARGET=86"),
        ("sfllm", "rtx-4090", "GPU_TARGET=86"),
        ("sfllm", "a100-pcie-80gb", "GPU_TARGET=80"),
        ("sfllm", "h100-sxm", "GPU_TARGET=90"),
    ],
)
def test_the_arguments_are_the_cards_and_the_file_takes_them(key: str, card: str, argument: str):
    command = build_command(CATALOGUE.installs[key], CATALOGUE.gpus[card])
    assert f"--build-arg {argument} " in command
    taken = {
        words.partition("=")[0] for name, words in instructions(FOLDER / f"{key}.Containerfile") if name == "ARG"
    }
    assert set(re.findall(r"--build-arg (\w+)=", command)) <= taken


@pytest.mark.parametrize(("key", "card"), [("sfllm", "rtx-5090"), ("sfllm", "b200"), ("vllm", "rtx-5090")])
def test_no_build_is_told_for_a_card_that_it_has_no_code_for(key: str, card: str):
    assert build_command(CATALOGUE.installs[key], CATALOGUE.gpus[card]) == ""


def test_the_refusal_of_a_missing_image_tells_how_to_build_it():
    given = wish("tesla-p4", "llama-2-7b-q4_k_m", service_mode="quadlet")
    given["inferhost_hardware"] = hardware(gpu("tesla-p4"), driver_version=None, container_engines=["podman 5.4.2"])
    assert "containers/llama.cpp.Containerfile --build-arg CUDA_ARCHITECTURES=61-real" in refusal(given)
