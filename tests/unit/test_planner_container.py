"""An engine in a container: the words and variables of a process of the host, the image by digest, nothing else."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from inferhost import planner
from inferhost.planner.service.container import build_command
from inferhost.schema.plan import Plan
from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, planned, refusal, wish
from tests.unit.test_planner_unit import AWKWARD, read_back

DIGEST = "sha256:" + "0123456789abcdef" * 4
IMAGE = f"registry.example:5000/engines/llama.cpp@{DIGEST}"
ENGINES = {"quadlet": "podman 5.4.2", "compose": "docker 26.1.5"}
MODES = sorted(ENGINES)
UNIT_OF = {"quadlet": ".container", "compose": "inferhost-serve-main.service"}
GGUF = "llama-2-7b-q4_k_m"
UUID = "GPU-5a1b6000-2bb1-4000-8000-000000000001"


CPUS = "0-15,32-47"


def values(mode: str, model: str = GGUF, card: str = "rtx-5090", cards: int = 1, **own: Any) -> dict[str, Any]:
    found = wish(card, model, service_mode=mode, service_image=IMAGE, **own)
    uuids = [UUID[:-1] + str(number + 1) for number in range(cards)]
    found["inferhost_hardware"] = hardware(
        *(gpu(card, uuid=uuid, numa_node=0) for uuid in uuids),
        container_engines=[ENGINES.get(mode, "")],
        cpu={"sockets": 2, "cores": 32, "numa_nodes": 2, "cpufreq": True, "node_cpus": [CPUS, "16-31"]},
    )
    return found


def text(plan: Plan, suffix: str) -> str:
    return next(str(f.content) for f in plan.files if f.path.endswith(suffix))


def keys(plan: Plan, suffix: str = ".container") -> dict[str, list[str]]:
    """What the Quadlet file, or the unit beside a Compose file, says, by key."""
    found: dict[str, list[str]] = {}
    for line in text(plan, suffix).splitlines():
        name, sign, value = line.partition("=")
        if sign and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def options(plan: Plan) -> dict[str, str]:
    words = [word for line in keys(plan)["PodmanArgs"] for word in read_back(line, exec_start=True)]
    return dict(word.removeprefix("--").split("=", 1) for word in words)


def composed(plan: Plan) -> dict[str, Any]:
    """The service of the Compose file, as Compose reads it: a doubled dollar sign is one, a single one a variable."""
    raw = text(plan, ".yml")
    assert "$" not in raw.replace("$$", "")
    document = json.loads(raw.replace("$$", "$").partition("\n")[2])
    found: dict[str, Any] = document["services"]["engine"]
    return {**found, "all_secrets": document.get("secrets")}


def described(plan: Plan) -> dict[str, Any]:
    """The container as its own engine is told, whichever that is, in one form."""
    (service,) = plan.service
    if service.container.mode == "compose":
        one = composed(plan)
        mounts = [(m["source"], m["target"], "ro" if m["read_only"] else "rw") for m in one["volumes"]]
        mounts += [(one["all_secrets"]["api-key"]["file"], s["target"], "ro") for s in one.get("secrets", ())]
        return {
            "image": one["image"],
            "words": [*one["entrypoint"], *one["command"]],
            "environment": one["environment"],
            "user": one["user"],
            "network": one["network_mode"],
            "read_only": one["read_only"],
            "drops": one["cap_drop"][0].lower(),
            "gains": "no-new-privileges:true" in one["security_opt"],
            "label": one["security_opt"][-1],
            "devices": one["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"],
            "mounts": mounts,
            "nofile": str(one["ulimits"]["nofile"]["hard"]),
            "memlock": str(one["ulimits"]["memlock"]["soft"]),
            "shared": one.get("shm_size"),
            "ipc": one.get("ipc"),
            "health": one["healthcheck"]["test"][1:],
            "place": one["working_dir"],
            "pull": one["pull_policy"],
            "cpus": one.get("cpuset"),
        }
    one, extra = keys(plan), options(plan)
    return {
        "image": one["Image"][0],
        "words": [extra["entrypoint"], *read_back(one["Exec"][0], exec_start=True)],
        "environment": dict(read_back(line, exec_start=True)[0].split("=", 1) for line in one["Environment"]),
        "user": f"{one['User'][0]}:{one['Group'][0]}",
        "network": one["Network"][0],
        "read_only": one["ReadOnly"] == ["true"],
        "drops": one["DropCapability"][0],
        "gains": one["NoNewPrivileges"] == ["true"],
        "label": extra["security-opt"],
        "devices": one["AddDevice"],
        "mounts": [tuple(line.replace("%%", "%").replace("$$", "$").split(":")) for line in one["Volume"]],
        "nofile": options_of(plan, "nofile").partition(":")[2],
        "memlock": options_of(plan, "memlock").partition(":")[2],
        "shared": extra.get("shm-size"),
        "ipc": extra.get("ipc"),
        "health": json.loads(extra["health-cmd"]),
        "place": extra["workdir"],
        "pull": extra["pull"],
        "cpus": extra.get("cpuset-cpus"),
    }


def options_of(plan: Plan, limit: str) -> str:
    (line,) = [line for line in keys(plan)["PodmanArgs"] if line.startswith(f"--ulimit={limit}=")]
    return line.removeprefix(f"--ulimit={limit}=")


@pytest.mark.parametrize("mode", MODES)
def test_health_is_asked_of_the_engine_itself_past_a_proxy_that_the_container_is_handed(mode):
    asked = described(planned(values(mode, "qwen3-4b", service_engine="vllm")))["health"]
    assert asked[:3] == ["curl", "--noproxy", "*"]
    assert asked[-1].endswith("/health")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("engine", "model"), [("vllm", "qwen3-4b"), ("sglang", "qwen3-4b"), ("llama.cpp", GGUF), ("tabbyapi", "qwen3-4b")]
)
def test_the_container_runs_the_words_and_variables_of_the_unit(mode, engine, model):
    contained = planned(values(mode, model, service_engine=engine))
    bare = planned({**values("unit", model, service_engine=engine), "inferhost_service_image": ""})
    row = next(row for row in CATALOGUE.engines.values() if row.engine == engine)
    inside = CATALOGUE.installs[row.key].image_command
    said, own = described(contained), bare.service[0]
    assert said["words"] == [*inside, *own.argv[1 + len(row.arguments) :]]
    assert list(contained.service[0].argv) == said["words"]
    assert said["environment"] == contained.env["main"]
    shared = {name: value for name, value in bare.env["main"].items() if name != "PATH"}  # an image has its own
    assert shared.items() <= contained.env["main"].items()
    assert (contained.service[0].probe, contained.service[0].drain) == (own.probe, own.drain)


def test_both_modes_describe_the_same_container():
    own = {"service_api_key_file": "/etc/inferhost-keys/main", "gpu_mps": True}
    quadlet, compose = (described(planned(values(mode, **own))) for mode in ("quadlet", "compose"))
    assert quadlet == compose
    assert quadlet["user"] == "65532:65532"
    assert (quadlet["read_only"], quadlet["drops"], quadlet["network"]) == (True, "all", "host")
    assert (quadlet["pull"], quadlet["gains"]) == ("never", True)
    assert quadlet["label"] == "label=disable"


@pytest.mark.parametrize("mode", MODES)
def test_every_word_and_value_survives_the_file(mode):
    awkward = [word for word in AWKWARD if word.isprintable() and word]
    for word in awkward:
        plan = planned(
            values(mode, service_served_model_name=f"a{word}b", service_env={"CUDA_CACHE_PATH": f"/{word}"})
        )
        said = described(plan)
        assert said["words"][said["words"].index("--alias") + 1] == f"a{word}b"
        assert said["environment"]["CUDA_CACHE_PATH"] == f"/{word}"


@pytest.mark.parametrize("mode", MODES)
def test_a_place_with_signs_of_systemd_survives_too(mode):
    plan = planned(values(mode, service_model_path="/srv/100%/$HOME/m.gguf"))
    assert described(plan)["mounts"][0] == ("/srv/100%/$HOME/m.gguf",) * 2 + ("ro",)
    if mode == "quadlet":
        assert "Volume=/srv/100%%/$$HOME/m.gguf:/srv/100%%/$$HOME/m.gguf:ro" in text(plan, ".container")


@pytest.mark.parametrize(
    "image",
    [
        "", "vllm/vllm-openai", "vllm/vllm-openai:latest", "vllm/vllm-openai:v0.33.0", f"x@{DIGEST[:-1]}", DIGEST,
        f"x@{DIGEST}0", f"x y@{DIGEST}",
    ],
)  # fmt: skip
def test_an_image_without_its_whole_digest_is_refused_with_what_would_work(image):
    given = {**values("quadlet"), "inferhost_service_image": image}
    found = f'found "{image}", wanted an image by digest' if image else "is required in a container"
    assert refusal(given) == (
        f"error: inferhost_service_image: {found}\n"
        "hint: ghcr.io/ggml-org/llama.cpp@sha256:DIGEST; podman image inspect --format '{{.Digest}}' says it of what "
        f"was pulled; or {build_command(CATALOGUE.installs['llama.cpp'], CATALOGUE.gpus['rtx-5090'])}"
    )


TWO = hardware(gpu("rtx-5090"), gpu("rtx-5090"), container_engines=["podman 5.4.2"])
REFUSED = {
    "an image without a container": ({"service_mode": "unit"}, "inferhost_service_image: found"),
    "an engine that is made on the host": (
        {"service_engine_install": "pip", "service_engine": "vllm", "service_model": "qwen3-4b"},
        "inferhost_service_engine_install: found \"pip\", and the engine comes in an image",
    ),
    "a user of the host": ({"service_user": "llm"}, 'inferhost_service_user: found "llm", and a container runs as'),
    "cards by number": ({"hardware": TWO}, "inferhost_hardware.gpus: has several cards without a UUID"),
    "no engine": ({"hardware": hardware(gpu("rtx-5090"))}, 'found "quadlet", and this host has no podman'),
    "an engine without Quadlet": (
        {"hardware": hardware(gpu("rtx-5090"), container_engines=["podman 4.3.1"])},
        "podman 4.3.1 is too old: 4.4 is the first that can",
    ),
    "docker without CDI": (
        {"service_mode": "compose", "hardware": hardware(gpu("rtx-5090"), container_engines=["docker 20.10.24"])},
        "docker 20.10.24 is too old: 25 is the first that can",
    ),
    "a filter that docker goes around": (
        {
            "service_mode": "compose", "service_allow_from": ["10.0.0.0/8"],
            "hardware": hardware(gpu("rtx-5090"), container_engines=["docker 26.1.5"]),
        },
        "inferhost_service_allow_from: is a filter of the unit",
    ),
    "a colon in a mount": ({"service_model_path": "/srv/a:b"}, "and a colon ends the path of a mount"),
    "NixOS": (
        {"hardware": hardware(gpu("rtx-5090"), os="nixos-26.05", container_engines=["podman 5.4.2"])},
        'inferhost_service_mode: found "quadlet", which NixOS is not given here',
    ),
}  # fmt: skip


@pytest.mark.parametrize(("own", "says"), REFUSED.values(), ids=REFUSED)
def test_what_a_container_cannot_have_is_refused_before_contact(own, says):
    changed = {f"inferhost_{name}": value for name, value in own.items()}
    said = refusal({**values("quadlet"), **changed})
    assert says in said
    assert "\nhint: " in said


def test_the_runtime_section_brings_what_the_mode_needs():
    given = {**values("compose"), "inferhost_manage": ["runtime", "service"], "inferhost_runtime_engine": "docker"}
    given["inferhost_hardware"] = {**given["inferhost_hardware"], "container_engines": []}
    assert planned(given).runtime.packages == ("docker.io", "docker-cli", "docker-compose")
    bare = {**given, "inferhost_service_mode": "unit", "inferhost_service_image": ""}
    assert planned(bare).runtime.packages == ("docker.io", "docker-cli")


@pytest.mark.parametrize("mode", MODES)
def test_every_value_of_the_container_has_a_reason(mode):
    plan = planned(values(mode, service_api_key_file="/etc/keys/main"))
    explained = {reason.setting for reason in plan.reasons}
    assert planner.setting_paths(plan, CATALOGUE) - explained == set()
    assert "service.main.container.image" in explained
    assert all(planner.resolve(r.source, CATALOGUE, {*values(mode), *known_options()}) for r in plan.reasons)


def known_options() -> set[str]:
    path = pathlib.Path(planner.__file__).parents[1] / "schema/wish.json"
    return set(json.loads(path.read_text())["options"])


@pytest.mark.parametrize("mode", MODES)
def test_the_key_is_a_file_of_the_container_and_no_word_of_its_description(mode):
    place = "/etc/inferhost-keys/main"
    said = described(planned(values(mode, service_api_key_file=place)))
    assert said["words"][-2:] == ["--api-key-file", "/run/secrets/api-key"]
    assert ("/run/inferhost-serve-main/api-key", "/run/secrets/api-key", "ro") in said["mounts"]
    by_variable = planned(values(mode, "qwen3-4b", service_engine="vllm", service_api_key_file=place))
    said = described(by_variable)
    script = 'VLLM_API_KEY=$(cat "/run/secrets/api-key") exec "$@"'
    assert said["words"][:4] == ["/bin/sh", "-c", script, "sh"]
    assert said["words"][4:] == list(by_variable.service[0].argv)
    assert "VLLM_API_KEY" not in said["environment"]


def test_the_weights_are_read_only_and_the_kernels_kept():
    said = described(planned(values("quadlet", service_model_path="/srv/models/a.gguf")))
    cache = "/var/cache/inferhost/main"
    assert said["mounts"] == [("/srv/models/a.gguf", "/srv/models/a.gguf", "ro"), (cache, cache, "rw")]
    assert said["environment"]["CUDA_CACHE_PATH"].startswith(cache)
    assert (said["environment"]["HOME"], said["environment"]["XDG_CACHE_HOME"], said["place"]) == (cache,) * 3
    whole = described(planned(values("quadlet", "qwen3-4b", service_engine="vllm")))
    assert whole["mounts"][0] == ("/srv/models/qwen3-4b", "/srv/models/qwen3-4b", "ro")


def test_all_parts_of_a_file_in_parts_are_there_and_nothing_beside_it():
    said = described(planned(values("quadlet", service_model_path="/m-00001-of-00003.gguf")))
    parts = [(f"/m-0000{number}-of-00003.gguf",) * 2 + ("ro",) for number in (1, 2, 3)]
    assert said["mounts"][:-1] == parts


@pytest.mark.parametrize("mode", MODES)
def test_the_keys_place_is_one_word_of_the_step_that_copies_it(mode):
    plan = planned(values(mode, service_api_key_file="/etc/my keys/100%/k$x"))
    step = next(
        value
        for value in keys(plan, UNIT_OF[mode])["ExecStartPre"]
        if "65532 /run" not in value and "my keys" in value
    )
    assert '"/etc/my keys/100%%/k$$x" /run/inferhost-serve-main/api-key' in step


def test_cards_come_by_uuid_and_the_only_one_by_number():
    two = values("quadlet", "qwen3-4b", cards=2, service_engine="vllm", service_tensor_parallel_size=2)
    assert described(planned(two))["devices"] == [f"nvidia.com/gpu={UUID}", f"nvidia.com/gpu={UUID[:-1]}2"]
    one = values("quadlet")
    one["inferhost_hardware"]["gpus"][0]["uuid"] = None
    assert described(planned(one))["devices"] == ["nvidia.com/gpu=0"]


def test_engines_of_several_processes_get_shared_memory_and_mps_the_hosts():
    assert described(planned(values("quadlet", "qwen3-4b", service_engine="sglang")))["shared"] == "32768m"
    assert described(planned(values("quadlet")))["shared"] is None
    under = described(planned(values("quadlet", "qwen3-4b", service_engine="sglang", gpu_mps=True)))
    assert (under["shared"], under["ipc"]) == (None, "host")
    assert ("/run/inferhost/mps", "/run/inferhost/mps", "rw") in under["mounts"]


def test_the_folder_of_a_containers_engine_is_its_images_and_the_models_is_the_hosts():
    (service,) = planned(values("quadlet", "qwen3-1.7b", service_engine="tabbyapi")).service
    assert service.overruled_by == ("/srv/models/qwen3-1.7b/tabby_config.yml",)
