"""The placebo rule: what nothing reads, or what harms, is refused with its replacement; the unknown is said so."""

import dataclasses

import pytest

from inferhost import planner
from inferhost.schema.problems import InputError
from tests.unit.planner_wishes import CATALOGUE, planned, refusal, wish

MODEL = "llama-3.1-8b-instruct"
ENGINES = {"sglang": MODEL, "vllm": MODEL, "llama.cpp": "llama-2-7b-q4_k_m", "tabbyapi": MODEL, "sfllm": "qwen3-4b"}
SGLANG, VLLM = ("sglang", "0.5.23"), ("vllm", "0.33.0")


def served(engine, **own):
    """A wish that the engine can serve, so that only `own` can be wrong with it."""
    host = {"service_host": "0.0.0.0"} if engine == "sfllm" else {}
    card = "h100-sxm" if engine == "sfllm" else "rtx-pro-6000-bw-ws"
    return wish(card, ENGINES[engine], service_engine=engine, **host, **own)


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
            "has another name\nhint: use PYTORCH_ALLOC_CONF",
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
        if row.status != "real":
            found = refusal(served(engine, service_env={name: "1"}))
            assert found.startswith(f"error: inferhost_service_env.{name}: "), name
            assert "hint: " in found, name


@pytest.mark.parametrize("engine", ENGINES)
def test_no_engine_gets_a_flag_that_it_does_not_read(engine):
    version = CATALOGUE.engines[engine].version
    for row in CATALOGUE.flags.values():
        if row.engine == engine and row.status not in ("real", "unchecked"):
            found = refusal(served(engine, service_extra_args=[row.names[0]]))
            why = "is deprecated in" if row.status == "deprecated" else "is not read by"
            assert found.startswith(
                f'error: inferhost_service_extra_args[0]: "{row.names[0]}" {why} {engine} {version}\nhint: '
            )


LEFT_TO_THE_WISH = (
    *("memory_fraction", "batched_tokens", "micro_batch", "most_cache_tokens", "flash_attention"),
    *("prompt_cache", "load_mode"),  # host memory: counted as the wish gives them
)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_plan_sets_cannot_be_set_a_second_time(engine):
    for concept, flag in CATALOGUE.engines[engine].flags.items():
        if flag and concept not in LEFT_TO_THE_WISH:
            found = refusal(served(engine, service_extra_args=[flag, "1"]))
            assert found.startswith(
                f'error: inferhost_service_extra_args[0]: "{flag}" is set by the plan\nhint: use '
            )


def test_a_misspelt_flag_is_refused_with_the_right_spelling():
    found = refusal(served("vllm", service_extra_args=["--max-num-batch-tokens", "4096"]))
    assert found == (
        'error: inferhost_service_extra_args[0]: "--max-num-batch-tokens" is not read by vllm 0.33.0\n'
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


SELECTION = dataclasses.replace(
    CATALOGUE,
    engines=CATALOGUE.engines
    | {"tabbyapi": dataclasses.replace(CATALOGUE.engines["tabbyapi"], flags_complete=False)},
)
"""A catalogue whose flags of one engine are not all known, as after a version was added by hand."""


def test_an_incomplete_flag_table_passes_a_flag_on_and_says_so():
    values = served("tabbyapi", service_extra_args=["--no-such-thing"])
    assert "service.main.argv.--no-such-thing" in [p.setting for p in planner.plan(values, "host", SELECTION).pending]


def test_under_the_policy_refuse_nothing_unknown_is_passed_on():
    values = served(
        "tabbyapi",
        service_extra_args=["--no-such-thing"],
        service_env={"MY_OWN_SWITCH": "1"},
        service_unknown_settings="refuse",
    )
    with pytest.raises(InputError) as refused:
        planner.plan(values, "host", SELECTION)
    hint = "hint: remove it, or inferhost_service_unknown_settings: warn passes it on"
    assert str(refused.value).splitlines() == [
        "error: inferhost_service_env.MY_OWN_SWITCH: is not known: the catalogue does not know this variable",
        hint,
        'error: inferhost_service_extra_args[0]: "--no-such-thing" is not known: '
        "the catalogue has only a selection of the flags of tabbyapi e632af4",
        hint,
    ]


def test_under_the_policy_refuse_what_is_known_passes():
    plan = planned(served("vllm", service_env={"VLLM_LOGGING_LEVEL": "INFO"}, service_unknown_settings="refuse"))
    assert plan.env["main"]["VLLM_LOGGING_LEVEL"] == "INFO"


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
    assert planned(served("sglang")).env["main"] == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "HF_HUB_OFFLINE": "1",
        "HOME": "/var/cache/inferhost/main",
        "PATH": "/opt/inferhost/sglang-0.5.23/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
        "SGLANG_CACHE_DIR": "/var/cache/inferhost/main/sglang",
        "XDG_CACHE_HOME": "/var/cache/inferhost/main",
    }


def refused_variable(engine, name, value="1", **own):
    """The refusal of one variable, without the place."""
    found = refusal(served(engine, service_env={name: value}, **own))
    start = f"error: inferhost_service_env.{name}: "
    assert found.startswith(start)
    return found.removeprefix(start)


def refused_arguments(engine, *words):
    """The refusal of further arguments, without the place."""
    found = refusal(served(engine, service_extra_args=list(words)))
    assert found.startswith("error: inferhost_service_extra_args[")
    return found.partition(": ")[2].partition(": ")[2]


@pytest.mark.parametrize(
    ("engine", "name", "text"),
    [
        (
            "llama.cpp",
            "LLAMA_ARG_CTX_SIZE",
            'says the same as "--ctx-size", which the plan decides\nhint: use inferhost_service_context_tokens',
        ),
        (
            "llama.cpp",
            "LLAMA_ARG_UBATCH",
            'says the same as "--ubatch-size", which the memory budget has to know\n'
            'hint: "--ubatch-size" in inferhost_service_extra_args',
        ),
        (
            "llama.cpp",
            "LLAMA_ARG_ENDPOINT_METRICS",
            'has no effect: "--metrics" stands in the command line and wins\nhint: remove it',
        ),
        (
            "tabbyapi",
            "TABBY_NETWORK_PORT",
            'says the same as "--port", which the plan decides\nhint: use inferhost_service_port',
        ),
    ],
)
def test_a_variable_that_says_what_the_plan_says_is_refused_with_the_option(engine, name, text):
    assert refused_variable(engine, name) == text


@pytest.mark.parametrize(
    ("engine", "name", "reader"),
    [
        ("vllm", "LLAMA_ARG_CTX_SIZE", "llama.cpp"),
        ("vllm", "GGML_NEW_SWITCH", "llama.cpp"),
        ("llama.cpp", "VLLM_NEW_SWITCH", "vllm"),
        ("vllm", "SGL_NEW_SWITCH", "sglang"),
        ("sglang", "TABBY_MODEL_MODEL_NAME", "tabbyapi"),
    ],
)
def test_a_variable_of_another_engine_is_refused_even_where_nobody_knows_it(engine, name, reader):
    assert f"is read by {reader}, which is no part of {engine} " in refused_variable(engine, name)


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        ("llama.cpp", "LLAMA_ARG_THREDS"),
        ("llama.cpp", "GGML_TURBO"),
        ("sfllm", "SFLLM_TOP_SPEED"),
        ("vllm", "VLLM_NEW_SWITCH"),
        ("sglang", "SGLANG_DISABLE_NORM_TENSR"),
        ("sglang", "SGL_NEW_SWITCH"),
        ("tabbyapi", "TABBY_MODEL_NEW"),
    ],
)
def test_an_unknown_variable_is_refused_where_the_list_is_complete(engine, name):
    assert refused_variable(engine, name).startswith("is not read by ")


@pytest.mark.parametrize(("engine", "name"), [("llama.cpp", "GGML_CUDA_NEW_SWITCH")])
def test_an_unknown_variable_is_pending_where_the_list_is_a_selection(engine, name):
    plan = planned(served(engine, service_env={name: "1"}))
    version = CATALOGUE.engines[engine].version
    because = [p.because for p in plan.pending if p.setting == f"env.main.{name}"]
    assert because == [f"the catalogue has only a selection of the variables of {engine} {version}"]


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        ("vllm", "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH"),
        ("vllm", "VLLM_RS_REQUEST_WORKER_THREADS"),
        ("sglang", "SGLANG_IS_IN_CI"),
        ("llama.cpp", "GGML_CUDA_P2P"),
        ("llama.cpp", "LLAMA_ARG_NO_JINJA"),
        ("tabbyapi", "TABBY_LOG_LEVEL"),
        ("sfllm", "SFLLM_TORCH_PROFILER_DIR"),
    ],
)
def test_a_variable_that_only_the_engines_own_source_names_is_passed_on_without_a_question(engine, name):
    plan = planned(served(engine, service_env={name: "1"}))
    assert plan.env["main"][name] == "1"
    assert f"env.main.{name}" not in [p.setting for p in plan.pending]


def test_a_variable_that_the_engine_itself_calls_removed_is_refused_with_what_it_names():
    assert refused_variable("sglang", "SGLANG_SCHEDULER_DECREASE_PREFILL_IDLE") == (
        "is not read by sglang 0.5.23\nhint: use --enable-prefill-delayer"
    )


def test_a_former_beginning_of_a_variable_is_refused_with_the_present_one():
    assert refused_variable("sglang", "SGL_IS_IN_CI") == "has another name\nhint: use SGLANG_IS_IN_CI"


def test_a_variable_in_lower_case_is_refused_with_the_name_that_is_read():
    assert refused_variable("vllm", "vllm_logging_level") == (
        'is not read by vllm 0.33.0: names of variables are case-sensitive\nhint: did you mean "VLLM_LOGGING_LEVEL"?'
    )


@pytest.mark.parametrize("value", ["1", "-1", "", "GPU-1", "0,7", "MIG-1", "none"])
def test_a_card_that_the_host_does_not_have_cannot_be_made_visible(value):
    values = served("vllm", service_env={"CUDA_VISIBLE_DEVICES": value})
    values["inferhost_hardware"]["gpus"][0]["uuid"] = "GPU-2"
    assert "which is no card of inferhost_hardware.gpus\nhint: known: GPU-2" in refusal(values)


def test_a_config_file_of_the_engine_is_refused_because_nobody_checked_what_is_in_it():
    for engine in ("sglang", "vllm", "tabbyapi"):
        assert f'"--config" brings arguments to {engine} ' in refused_arguments(engine, "--config", "/etc/x.yaml")
    assert "brings arguments" in refused_variable("llama.cpp", "LLAMA_ARG_MODELS_PRESET")


def test_a_unique_beginning_of_a_flag_is_that_flag():
    words = planned(served("sglang", service_extra_args=["--dp-s", "1"])).service[0].argv
    assert words[-2:] == ("--dp-size", "1")
    words = planned(served("sglang", service_extra_args=["--mem-frac", "0.8"])).service[0].argv
    assert [word for word in words if word.startswith("--mem")] == ["--mem-fraction-static"]


def test_a_beginning_of_several_flags_is_refused_with_all_of_them():
    assert "is the beginning of " in refused_arguments("sglang", "--cuda-graph-b", "1")


@pytest.mark.parametrize("engine", ["vllm", "llama.cpp"])
def test_underscores_are_dashes_where_the_engine_says_so(engine):
    flag = "--max_num_seqs" if engine == "vllm" else "--ctx_size"
    assert "is set by the plan" in refused_arguments(engine, flag, "4")


def test_a_hint_for_a_flag_of_the_plan_names_the_option():
    assert refused_arguments("llama.cpp", "--ctx-siez", "4") == (
        '"--ctx-siez" is not read by llama.cpp 0.7.0\nhint: use inferhost_service_context_tokens'
    )


@pytest.mark.parametrize(("engine", "flag"), [("sglang", "--dp-size"), ("vllm", "-pp"), ("vllm", "--nnodes")])
def test_an_engine_is_not_spread_over_more_cards_than_it_gets(engine, flag):
    assert refused_arguments(engine, flag, "2").endswith(
        'found "2", and an engine is spread by tensor parallelism only\n'
        "hint: 1, or inferhost_service_tensor_parallel_size"
    )
    assert refused_arguments(engine, "--tensor-parallel-size", "2").endswith(
        "is set by the plan\nhint: use inferhost_service_tensor_parallel_size"
    )


def test_a_secret_in_the_same_word_as_its_flag_is_not_shown():
    assert "hunter2" not in refused_arguments("vllm", "--api-key hunter2")
