"""What a container was given is in the wish, or the import says that it is not."""

import pytest

from inferhost.imports import command
from inferhost.imports.containers import read_compose, read_docker_run
from inferhost.imports.launch import Launch
from inferhost.imports.wish import wished
from tests.unit.planner_wishes import CATALOGUE

RUN = "--model /m/Qwen3-8B"
SETTINGS = (
    "--ipc=host",
    "--shm-size 16g",
    "--ulimit memlock=-1",
    "--env-file secret.env",
    "-v /srv/cache:/root/.cache",
)


def compose(service, directory=""):
    found = read_compose(f"services: {{a: {{image: vllm/x, {service}}}}}", "c.yml", lambda p: None, directory)
    return wished(found.launches[0], CATALOGUE)


def docker(options, arguments=RUN):
    launch = read_docker_run([*options.split(), "vllm/vllm-openai", *arguments.split()], "here", "/srv/app")
    return wished(launch, CATALOGUE)


def named(findings, name):
    return [one for one in findings if one.name == name]


@pytest.mark.parametrize(
    ("asked", "parts", "gpus", "verdict"),
    [
        ("2", 2, ["0", "1"], "kept"),
        ("4", 2, ["0", "1"], "kept"),
        ("1", 1, None, "kept"),
        ("all", 2, None, "kept"),
        ("1", 2, None, "fatal"),
    ],
)
def test_a_number_of_cards_is_kept_as_cards_or_told(asked, parts, gpus, verdict):
    arguments = f"{RUN} -tp {parts}"
    devices = f"deploy: {{resources: {{reservations: {{devices: [{{count: {asked}}}]}}}}}}"
    for findings, found in (
        docker(f"--gpus {asked}", arguments),
        compose(f"gpus: {asked}, command: {arguments}"),
        compose(f"{devices}, command: {arguments}"),
    ):
        assert [one.verdict for one in named(findings, "devices of the container")] == [verdict]
        assert found.get("gpus") == gpus


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_one_card_for_an_engine_that_wants_two_is_told(engine):
    words = {"vllm": ("--model", "/m/Qwen3-8B"), "sglang": ("--model-path", "/m/Qwen3-8B")}[engine]
    launch = Launch("here", engine, "", (*words, "--tp-size" if engine == "sglang" else "-tp", "2"))
    launch.env["CUDA_VISIBLE_DEVICES"] = "0"
    findings, found = wished(launch, CATALOGUE)
    (told,) = named(findings, "CUDA_VISIBLE_DEVICES")
    assert (told.verdict, "gpus" in found) == ("fatal", False)
    assert "2 cards in inferhost_service_gpus" in told.instead


@pytest.mark.parametrize("option", SETTINGS)
def test_what_is_the_containers_alone_is_told(option):
    findings, _ = docker(option)
    name = "volume" if option.startswith("-v") else option.replace("=", " ").split()[0]
    (told,) = named(findings, name)
    assert "not in the wish" in told.because


def test_a_setting_of_a_compose_service_is_told_and_one_that_may_hold_a_secret_is_not_shown():
    findings, _ = compose(f"command: {RUN}, ipc: host, shm_size: 16gb, labels: {{token: sk-12345}}")
    assert [(f.name, f.value) for f in findings if f.verdict == "placebo"][:3] == [
        ("ipc", "host"),
        ("shm_size", "16gb"),
        ("labels", ""),
    ]


@pytest.mark.parametrize(
    ("volume", "path"),
    [
        ("./m:/m", "/srv/app/m/Qwen3-8B"),
        ("../m:/m:ro", "/srv/m/Qwen3-8B"),
        ("{type: bind, source: ./m, target: /m}", "/srv/app/m/Qwen3-8B"),
        ("/data/m:/m", "/data/m/Qwen3-8B"),
    ],
)
def test_a_folder_that_is_mounted_is_found_on_the_host(volume, path):
    written = volume if volume.startswith("{") else f"'{volume}'"
    findings, found = compose(f"command: {RUN}, volumes: [{written}]", "/srv/app")
    assert found["model_path"] == path
    assert named(findings, "model path") == []
    assert [one.verdict for one in named(findings, "volume")] == ["kept"]
    if not volume.startswith("{"):
        assert docker(f"-v {volume}")[1]["model_path"] == path


def test_a_compose_file_is_read_from_its_own_folder(tmp_path):
    file = tmp_path / "c.yml"
    file.write_text(f"services: {{a: {{image: vllm/x, command: {RUN}, volumes: ['./m:/m']}}}}", encoding="utf-8")
    (launch,) = command.source_of("compose", str(file)).launches
    assert launch.volumes == {"/m": str(tmp_path / "m")}


@pytest.mark.parametrize(
    ("cards", "told"),
    [("", True), (", deploy: {resources: {reservations: {devices: [{device_ids: ['1']}]}}}", False)],
)
def test_two_services_that_land_on_one_card_are_told(cards, told):
    text = f"services: {{a: {{image: vllm/x, command: {RUN}}}, b: {{image: vllm/x, command: {RUN}{cards}}}}}"
    found = command.imported(read_compose(text, "c.yml", lambda p: None), "c.yml")
    assert ("the plan starts each at the first one" in " ".join(found.replace("#", " ").split())) == told


def test_a_model_in_a_named_volume_is_to_be_copied():
    findings, found = compose(f"command: {RUN}, volumes: ['models:/m']", "/srv/app")
    assert found["model_path"] == "/srv/models/Qwen3-8B"
    assert "in the volume models;" in named(findings, "model path")[0].because


def test_memory_and_chunk_of_vllm_are_kept_together_and_those_of_sglang_are_not():
    pair = ["--gpu-memory-utilization", "0.9", "--max-num-batched-tokens", "8192"]
    findings, found = docker("--rm", " ".join([RUN, *pair]))
    assert found["extra_args"] == pair
    assert {one.verdict for one in findings if one.name in pair} == {"kept"}
    words = ("--model-path", "/m/Qwen3-8B", "--mem-fraction-static", "0.88", "--chunked-prefill-size", "4096")
    assert "extra_args" not in wished(Launch("here", "sglang", "", words), CATALOGUE)[1]
