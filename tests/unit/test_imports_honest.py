"""What an import says is what its wish holds: every flag is in the wish or told, and the planner takes the wish."""

import random

import pytest

from inferhost.imports.containers import read_compose, read_docker_run
from inferhost.imports.launch import Launch
from inferhost.imports.shell import read_script
from inferhost.imports.wish import pinned, wished
from inferhost.planner.launch.flags import OPTION_OF, concept_of, given_flags
from inferhost.schema.problems import InputError
from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, planned
from tests.unit.test_imports_guides import SERVED, read

MODEL = {
    "vllm": ("--model", "/m/Qwen3-8B"),
    "sglang": ("--model-path", "/m/Qwen3-8B"),
    "llama.cpp": ("--model", "/m/llama-2-7b-q4_k_m.gguf"),
    "sfllm": ("--model-path", "/m/Qwen3-8B"),
    "tabbyapi": ("--model-dir", "/m", "--model-name", "Qwen3-8B"),
}
TYPED = {"int": "2", "float": "0.5", "size": "4096", "bool": "true", "json": "{}"}
SIZING = ("cache-limit",)
"""Whether a size fits the context is the budget's to say, of a card and a model that an import does not know."""
CARDS = {"inferhost_hardware": hardware(gpu("h200-sxm"), gpu("h200-sxm"))}


def rows(engine):
    """Every flag of an engine's table once, but for those that name the model."""
    found = {row.key: row for row in CATALOGUE.flags_of(pinned(engine, CATALOGUE)).values()}
    return [row for row in found.values() if not set(row.names) & {*MODEL[engine], "-m"}]


def words(row):
    """A flag as its own parser would take it."""
    if row.takes == "no":
        return (row.names[0],)
    return row.names[0], row.choices[-1] if row.choices else TYPED.get((row.type or "").split("|")[0], "abc")


def held(one, engine, wish):
    """Whether the wish holds a flag: among its further arguments, or as the option that stands for it."""
    extra = given_flags(tuple(wish.get("extra_args", ())), pinned(engine, CATALOGUE), CATALOGUE)
    if any(other.row is one.row and other.values == one.values for other in extra):
        return True
    concept = concept_of(one.row, pinned(engine, CATALOGUE))
    return concept in OPTION_OF and OPTION_OF[concept] in wish


def left(finding):
    """Whether a finding says that the wish does not hold what it is about."""
    told = ("not in the wish", "default", "the plan chooses them", "so it is not in the wish")
    return finding.verdict != "kept" or any(part in finding.because for part in told)


def lies(launch, findings, wish):
    """Flags of a launch that are neither in its wish nor told."""
    given = given_flags(launch.words, pinned(launch.engine, CATALOGUE), CATALOGUE)
    told = {finding.name for finding in findings if left(finding)}
    models = {*MODEL[launch.engine], "-m", "--model", "--model-path"}
    return [one.name for one in given if one.name not in {*told, *models} and not held(one, launch.engine, wish)]


def problems(wish):
    """What the planner has against the arguments and variables of a wish."""
    if not wish.get("extra_args") and not wish.get("env"):
        return []
    try:
        planned({**CARDS, **{f"inferhost_service_{key}": value for key, value in wish.items()}})
    except InputError as error:
        ours = [p for p in error.problems if "extra_args" in p.path or ".env" in p.path or "_env" in p.path]
        return [str(p) for p in ours if p.id not in SIZING]
    return []


@pytest.mark.parametrize("case", SERVED)
def test_a_launch_of_the_guides_is_in_its_wish_or_told(case):
    _, (launch,) = read(case)
    findings, wish = wished(launch, CATALOGUE)
    assert lies(launch, findings, wish) == []
    assert problems(wish) == []


@pytest.mark.parametrize("engine", MODEL)
@pytest.mark.parametrize("value", ["right", "wrong", "none", "variable"])
def test_every_flag_of_the_tables_is_in_the_wish_or_told_and_the_planner_takes_it(engine, value):
    wrong = {}
    for row in rows(engine):
        name, *values = words(row)
        values = {"right": values, "wrong": ["no thing"], "none": [], "variable": ["$X"]}[value]
        launch = Launch("here", engine, "", (*MODEL[engine], name, *values))
        findings, wish = wished(launch, CATALOGUE)
        found = [lies(launch, findings, wish), problems(wish)]
        if any(found):
            wrong[name] = found
    assert wrong == {}


@pytest.mark.parametrize("engine", MODEL)
def test_flags_together_are_in_the_wish_or_told_and_the_planner_takes_them(engine):
    dice, table = random.Random(4), rows(engine)
    for _ in range(60):
        chosen = [word for row in dice.choices(table, k=6) for word in words(row)]
        launch = Launch("here", engine, "", (*MODEL[engine], *chosen))
        findings, wish = wished(launch, CATALOGUE)
        assert (lies(launch, findings, wish), problems(wish)) == ([], []), chosen


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("vllm serve /m/Qwen3-8B --tensor-parallel-size 2", {"tensor_parallel_size": 2}),
        ("vllm serve /m/Qwen3-8B -tp=2", {"tensor_parallel_size": 2}),
        ("python -m sglang.launch_server --model-path /m/Qwen3-8B --tp 2", {"tensor_parallel_size": 2}),
        ("CUDA_VISIBLE_DEVICES=1 vllm serve /m/Qwen3-8B", {"gpus": ["1"]}),
        ("CUDA_VISIBLE_DEVICES=1,0 vllm serve /m/Qwen3-8B -tp 2", {"gpus": ["1", "0"], "tensor_parallel_size": 2}),
        ("CUDA_VISIBLE_DEVICES=0,1 vllm serve /m/Qwen3-8B", {"gpus": ["0"]}),
        ("CUDA_VISIBLE_DEVICES=0,1 llama-server -m /m/llama-2-7b-q4_k_m.gguf", {"gpus": ["0"]}),
        ("vllm serve /m/Qwen3-8B --max-model-len 8K", {"context_tokens": 8192}),
        ("vllm serve /m/Qwen3-8B --max-model-len 8k", {"context_tokens": 8000}),
        ("llama-server -m /m/llama-2-7b-q4_k_m.gguf --mlock", {"extra_args": ["--load-mode", "mlock"]}),
        ("llama-server -m /m/llama-2-7b-q4_k_m.gguf --no-mmap", {"extra_args": ["--load-mode", "none"]}),
        ("llama-server -m /m/llama-2-7b-q4_k_m.gguf -ngl auto", {"gpu_layers": "auto"}),
        ("vllm serve /m/Qwen3-8B --seed 1 --seed 2", {"extra_args": ["--seed", "2"]}),
    ],
)
def test_what_a_launch_asks_for_is_in_its_wish_and_planned(command, options):
    (launch,) = read_script(command, "s.sh").launches
    _, wish = wished(launch, CATALOGUE)
    assert {key: wish.get(key) for key in options} == options
    planned({**CARDS, **{f"inferhost_service_{key}": value for key, value in wish.items()}})


@pytest.mark.parametrize(
    ("command", "name", "because"),
    [
        (
            "vllm serve /m/Qwen3-8B --data-parallel-size 2",
            "--data-parallel-size",
            "spread by tensor parallelism only",
        ),
        ("python -m sglang.launch_server --model-path /m/x --dp 2", "--dp-size", "spread by tensor parallelism only"),
        (
            "CUDA_VISIBLE_DEVICES=GPU-1a2b vllm serve /m/Qwen3-8B",
            "CUDA_VISIBLE_DEVICES",
            "names cards by their number",
        ),
        ("vllm serve /m/Qwen3-8B --max-model-len auto", "--max-model-len", "not in the wish"),
        ("llama-server -m /m/a.gguf --mlock --no-mmap", "--no-mmap", "which has --load-mode already"),
        ("llama-server -m /m/a.gguf -ctk q8_0 -ctv q4_0", "-ctv", "K and V have one type there, that of K"),
        ("llama-server -m /m/a.gguf --temp $T", "--temp", "comes from a variable"),
        (
            "llama-server -m /m/qwen3-30b-a3b-iq3_s.gguf",
            "inferhost_service_model",
            "the catalogue has no such model",
        ),
    ],
)
def test_what_a_wish_leaves_out_is_told(command, name, because):
    (launch,) = read_script(command, "s.sh").launches
    findings, _ = wished(launch, CATALOGUE)
    assert [finding.because for finding in findings if finding.name == name and because in finding.because]


def test_a_model_without_a_row_is_told_with_how_to_make_one():
    (launch,) = read_script("llama-server -m /m/qwen3-30b-a3b-iq3_s.gguf", "s.sh").launches
    (told,) = [f for f in wished(launch, CATALOGUE)[0] if f.name == "inferhost_service_model"]
    assert (told.verdict, told.value) == ("fatal", "qwen3-30b-a3b-iq3_s")
    assert "near it: qwen3-30b-a3b" in told.because
    assert "what `inferhost model /m/qwen3-30b-a3b-iq3_s.gguf` prints" in told.instead


def test_what_stands_behind_an_engine_in_the_foreground_sets_no_card():
    text = "nvidia-smi -pl 300\nvllm serve /m/Qwen3-8B\nsleep 1\nnvidia-smi -pm 1\nnvidia-smi -lmc 5001\n"
    found = read_script(text, "s.sh")
    assert found.gpu == {"power_limit": 300}
    never = [(m.place, m.instead) for m in found.mistakes if m.verdict == "placebo"]
    assert never == [
        ("s.sh:3", "a unit of its own, which the plan has"),
        ("s.sh:4", "inferhost_gpu_persistence_mode: true"),
        ("s.sh:5", "inferhost_gpu_memory_clock_lock: 5001"),
    ]


@pytest.mark.parametrize(
    ("launch", "returns"),
    [
        ("vllm serve /m/Qwen3-8B &", True),
        ("docker run -d --gpus all vllm/vllm-openai --model /m/Qwen3-8B", True),
        ("docker run --rm -itd --gpus all vllm/vllm-openai --model /m/Qwen3-8B", True),
        ("docker run --rm -it --gpus all vllm/vllm-openai --model /m/Qwen3-8B", False),
        ("systemd-run --unit=chat vllm serve /m/Qwen3-8B", True),
        ("systemd-run --scope vllm serve /m/Qwen3-8B", False),
    ],
)
def test_what_stands_behind_an_engine_that_was_sent_away_runs(launch, returns):
    found = read_script(f"{launch}\nnvidia-smi -pm 1\n", "s.sh")
    assert (found.gpu == {"persistence_mode": True}, len(found.launches)) == (returns, 1)


@pytest.mark.parametrize(
    ("device", "gpus", "verdict"),
    [
        ("device=1", ["1"], "kept"),
        ("all", None, "kept"),
        ('"device=0,1"', ["0"], "kept"),
        ("device=GPU-1a", None, "harmful"),
    ],
)
def test_the_cards_that_a_container_is_given_are_the_wishs(device, gpus, verdict):
    words = f"--gpus {device} vllm/vllm-openai:v0.33.0 --model /m/Qwen3-8B".split()
    findings, wish = wished(read_docker_run(words, "here"), CATALOGUE)
    assert wish.get("gpus") == gpus
    assert [f.verdict for f in findings if f.name == "devices of the container"] == [verdict]


def test_the_cards_of_a_compose_service_are_the_wishs():
    devices = "{driver: nvidia, device_ids: ['1', '0'], capabilities: [gpu]}"
    text = f"""
services:
  chat:
    image: vllm/vllm-openai
    command: --model /m/Qwen3-8B --tensor-parallel-size 2
    environment: {{CUDA_VISIBLE_DEVICES: "0,1"}}
    deploy: {{resources: {{reservations: {{devices: [{devices}]}}}}}}
"""
    (launch,) = read_compose(text, "c.yml", lambda path: None).launches
    findings, wish = wished(launch, CATALOGUE)
    assert (wish["gpus"], wish["tensor_parallel_size"], "env" in wish) == (["1", "0"], 2, False)
    assert [f.verdict for f in findings if f.name == "CUDA_VISIBLE_DEVICES"] == ["placebo"]


@pytest.mark.parametrize("engine", MODEL)
@pytest.mark.parametrize("chosen", [False, True], ids=["left out", "chosen"])
def test_how_many_requests_at_once_is_in_the_wish_or_told_for_every_engine(engine, chosen):
    flag = pinned(engine, CATALOGUE).flags["max_sequences"]
    findings, wish = wished(Launch("here", engine, "", (*MODEL[engine], *((flag, "3") if chosen else ()))), CATALOGUE)
    told = ["not in the wish" in one.because for one in findings if one.name == "requests at once"]
    own = 4 if engine == "llama.cpp" else None
    assert (told, wish.get("max_sequences")) == (([], 3) if chosen else ([own is None], own))


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        ("for p in 8000 8001; do\n vllm serve /m/a --port $p &\ndone", "8000", ["for p in 8000 8001"]),
        ("for p in 8000 8001; do vllm serve /m/a --port $p & done", "8000", ["for p in 8000 8001"]),
        ("for p in $(seq 8000 8003); do\n vllm serve /m/a --port $p &\ndone", "$p", ["for p in $(seq 8000 8003)"]),
        ("for p in 8000; do\n vllm serve /m/a --port $p\ndone", "8000", []),
        ("for p in 1 2; do echo $p; done\nvllm serve /m/a --port 8000", "8000", []),
        ('vllm serve /m/a --port ${P:-8000} "$@"', "8000", ['"$@"']),
        ("vllm serve /m/a --port 8000 ${@:2}", "8000", ['"$@"']),
        ('exec "$@"\nvllm serve /m/a --port 8000', "8000", []),
    ],
)
def test_rounds_and_arguments_of_a_script_that_no_wish_holds_are_told(text, words, told):
    source = read_script(text, "s.sh")
    (launch,) = source.launches
    assert launch.words == ("--model", "/m/a", "--port", words)
    assert [one.found for one in source.mistakes] == told


def test_a_variable_that_harms_is_no_placebo():
    launch = Launch("here", "llama.cpp", "", MODEL["llama.cpp"], {"GGML_CUDA_ENABLE_UNIFIED_MEMORY": "1"})
    findings, wish = wished(launch, CATALOGUE)
    found = [one.verdict for one in findings if one.name == "GGML_CUDA_ENABLE_UNIFIED_MEMORY"]
    assert (found, "env" in wish) == (["harmful"], False)
