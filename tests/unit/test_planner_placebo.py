"""The placebo rule: what nothing reads, or what harms, is refused with its replacement; the unknown is said so."""

import pytest

from tests.unit.planner_wishes import CATALOGUE, planned, refusal, wish

MODEL = "llama-3.1-8b-instruct"
ENGINES = {"sglang": MODEL, "vllm": MODEL, "llama.cpp": "llama-2-7b-q4_k_m", "tabbyapi": MODEL, "sfllm": "qwen3-4b"}
SGLANG, VLLM = ("sglang", "0.5.23"), ("vllm", "0.33.0")


def served(engine, **own):
    """A wish that the engine can serve, so that only `own` can be wrong with it."""
    host = {"service_host": "0.0.0.0"} if engine == "sfllm" else {}
    return wish("rtx-pro-6000-bw-ws", ENGINES[engine], service_engine=engine, **host, **own)


@pytest.mark.parametrize(
    ("engine", "variable", "value", "text"),
    [
        (
            "sglang",
            "CUDA_LAUNCH_BLOCKING",
            "1",
            'found "1": it makes every launch synchronous: a debugging switch\nhint: leave it out',
        ),
        (
            "sglang",
            "CUDA_DEVICE_MAX_CONNECTIONS",
            "32",
            "has no effect: sglang 0.5.23 overwrites it with 8, at start-up\nhint: remove it",
        ),
        (
            "sglang",
            "CUDA_DEVICE_ORDER",
            "FASTEST_FIRST",
            'found "FASTEST_FIRST": GPU numbers then differ from NVML and nvidia-smi\n'
            "hint: leave it to the plan: PCI_BUS_ID",
        ),
        (
            "sglang",
            "TRITON_KERNEL_CACHE_SIZE",
            "10000",
            "is read by no program\nhint: remove it: the cache on disk has no limit",
        ),
        (
            "sglang",
            "PYTORCH_CUDA_ALLOC_CONF",
            "expandable_segments:True,max_split_size_mb:512",
            "has another name\nhint: use PYTORCH_ALLOC_CONF (old name still accepted)",
        ),
        (
            "sglang",
            "VLLM_LOGGING_LEVEL",
            "INFO",
            "is read by vllm, which is no part of sglang 0.5.23\nhint: remove it",
        ),
        ("vllm", "VLLM_USE_V1", "1", "was removed\nhint: remove it: V1 is the only engine"),
        (
            "vllm",
            "VLLM_ATTENTION_BACKEND",
            "FLASHINFER",
            "was removed\nhint: use --attention-backend in inferhost_service_extra_args",
        ),
        (
            "llama.cpp",
            "CUDA_CACHE_PATH",
            "/tmp/cuda_cache",
            'found "/tmp/cuda_cache": /tmp is private to the service and lost at its end: kernels are compiled again '
            "at each start\nhint: leave it to the plan, which sets one that lasts",
        ),
        (
            "sfllm",
            "SFLLM_CUDA_GRAPH_MAX_BS",
            "32",
            "is read by no program\nhint: use inferhost_service_max_sequences",
        ),
    ],
)
def test_a_variable_of_the_guides_is_refused_with_what_to_do_instead(engine, variable, value, text):
    found = refusal(served(engine, service_env={variable: value}))
    assert found == f"error: inferhost_service_env.{variable}: {text}"


@pytest.mark.parametrize("engine", ENGINES)
def test_no_engine_gets_a_variable_that_nothing_reads(engine):
    for name, row in CATALOGUE.env.items():
        if row.status != "real" and not name.endswith("*"):
            found = refusal(served(engine, service_env={name: "1"}))
            assert found.startswith(f"error: inferhost_service_env.{name}: "), name
            assert "hint: " in found, name


@pytest.mark.parametrize("engine", ENGINES)
def test_no_engine_gets_a_flag_that_it_does_not_read(engine):
    version = CATALOGUE.engines[engine].version
    for row in CATALOGUE.flags.values():
        if row.engine == engine and row.status != "real":
            found = refusal(served(engine, service_extra_args=[row.names[0]]))
            assert found.startswith(
                f'error: inferhost_service_extra_args[0]: "{row.names[0]}" is not read by {engine} {version}\nhint: '
            )


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_plan_sets_cannot_be_set_a_second_time(engine):
    for concept, flag in CATALOGUE.engines[engine].flags.items():
        if flag and concept not in ("memory_fraction", "batched_tokens", "micro_batch", "flash_attention"):
            found = refusal(served(engine, service_extra_args=[flag, "1"]))
            assert found.startswith(
                f'error: inferhost_service_extra_args[0]: "{flag}" is set by the plan\nhint: use '
            )


def test_a_misspelt_flag_is_refused_with_the_right_spelling():
    found = refusal(served("vllm", service_extra_args=["--max-num-batched-token", "4096"]))
    assert found == (
        'error: inferhost_service_extra_args[0]: "--max-num-batched-token" is not read by vllm 0.33.0\n'
        'hint: did you mean "--max-num-batched-tokens"?'
    )


def test_a_flag_and_its_value_in_one_word_are_refused():
    found = refusal(served("sglang", service_extra_args=["--chunked-prefill-size 4096"]))
    assert found == (
        'error: inferhost_service_extra_args[0]: found "--chunked-prefill-size 4096" as one word\n'
        "hint: a flag and its value are two items of the list"
    )


def test_a_word_before_any_flag_is_refused():
    assert refusal(served("sglang", service_extra_args=["fcfs"])) == (
        'error: inferhost_service_extra_args[0]: found "fcfs", wanted a flag first\nhint: a value follows its flag'
    )


def test_a_flag_that_the_engine_reads_is_passed_on_with_its_value():
    service = planned(
        served("sglang", service_extra_args=["--schedule-policy", "lpm", "--log-level=warning"])
    ).service[0]
    assert service.argv[-3:] == ("--schedule-policy", "lpm", "--log-level=warning")


def test_an_incomplete_flag_table_passes_a_flag_on_and_says_so():
    plan = planned(served("tabbyapi", service_extra_args=["--no-such-thing"]))
    assert "service.main.argv.--no-such-thing" in [p.setting for p in plan.pending]


def test_an_unknown_variable_is_passed_on_and_said_so():
    plan = planned(served("sglang", service_env={"MY_OWN_SWITCH": 1}))
    assert plan.env["main"]["MY_OWN_SWITCH"] == "1"
    assert "env.main.MY_OWN_SWITCH" in [p.setting for p in plan.pending]


@pytest.mark.parametrize("name", ["HF_TOKEN", "VLLM_API_KEY", "DATABASE_PASSWORD", "my_secret"])
def test_a_secret_is_refused_and_never_shown(name):
    found = refusal(served("vllm", service_env={name: "hunter2"}))
    assert found == (
        f"error: inferhost_service_env.{name}: looks like a secret, and the plan is no place for one\n"
        "hint: a secret belongs into a credential file, for example with LoadCredential= in 50-local.conf"
    )


@pytest.mark.parametrize("engine", ["llama.cpp", "tabbyapi", "sfllm"])
@pytest.mark.parametrize("words", [["--api-key", "hunter2"], ["--api-key=hunter2"]])
def test_a_secret_flag_is_refused_and_its_value_never_shown(engine, words):
    found = refusal(served(engine, service_extra_args=words))
    assert found.startswith('error: inferhost_service_extra_args[0]: "--api-key" carries a secret')
    assert "hunter2" not in found


def test_the_wish_wins_over_a_variable_of_ours():
    plan = planned(served("vllm", service_env={"HF_HUB_OFFLINE": "0"}))
    assert plan.env["main"]["HF_HUB_OFFLINE"] == "0"
    assert [r.source for r in plan.reasons if r.setting == "env.main.HF_HUB_OFFLINE"] == [
        "wish:inferhost_service_env"
    ]


def test_our_own_variables_are_few_and_real():
    env = planned(served("sglang")).env["main"]
    assert env == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "HF_HUB_OFFLINE": "1",
        "SGLANG_CACHE_DIR": "/var/cache/inferhost/main/sglang",
    }
