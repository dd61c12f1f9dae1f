"""The value of a further argument is what the engine's own parser would take."""

import pytest

from tests.unit.planner_wishes import planned
from tests.unit.test_planner_placebo import refused_arguments, served


@pytest.mark.parametrize(
    ("engine", "words", "text"),
    [
        (
            "sglang",
            ["--schedule-policy", "lmp"],
            '"--schedule-policy" found "lmp", which is none of its choices\nhint: did you mean "lpm"?',
        ),
        ("sglang", ["--page-size", "big"], '"--page-size" found "big", wanted a whole number'),
        ("sglang", ["--page-size", "1", "2"], '"--page-size" takes one value, found "1 2"'),
        ("vllm", ["--block-size", "1.5"], '"--block-size" found "1.5", wanted a whole number'),
        ("vllm", ["--kv-cache-memory-bytes", "8GB"], '"--kv-cache-memory-bytes" found "8GB", wanted a whole number'),
        ("vllm", ["--compilation-config", "{mode"], '"--compilation-config" found "{mode", wanted JSON'),
        ("vllm", ["--compilation-config", '{"mod": 3}'], '"--compilation-config" has no key "mod"'),
        ("vllm", ["--compilation-config.mod", "3"], '"--compilation-config.mod": vllm has no key "mod" there'),
        ("vllm", ["--port.x", "3"], '"--port.x" is set by the plan'),
        ("vllm", ["--seed.x", "3"], '"--seed.x" sets a key, and the flag before the dot takes no JSON'),
        ("vllm", ["--compilation-config.mode"], '"--compilation-config.mode" has no value'),
        (
            "vllm",
            ["--attention-config.backend", "X", "--attention-config", "{}"],
            '"--attention-config" is there twice',
        ),
        ("llama.cpp", ["--split-mode", "rows"], '"--split-mode" found "rows", which is none of its choices'),
        ("llama.cpp", ["--main-gpu", "first"], '"--main-gpu" found "first", wanted a whole number'),
        (
            "vllm",
            ["--max-num-batched-tokens", "8k"],
            '"--max-num-batched-tokens" found "8k", wanted a number above 0\nhint: for example 8192, or',
        ),
        (
            "llama.cpp",
            ["--device", "CUDA0"],
            '"--device" takes other cards than the plan, or divides them in another way\n'
            "hint: use inferhost_service_gpus",
        ),
        ("tabbyapi", ["--vision"], '"--vision" has no value'),
        ("tabbyapi", ["--vision", "maybe"], '"--vision" found "maybe", wanted true or false'),
        ("sfllm", ["--quantization", "awq"], '"--quantization" found "awq", which is none of its choices'),
    ],
)
def test_a_value_that_the_engine_would_not_take_is_refused(engine, words, text):
    assert refused_arguments(engine, *words).startswith(text)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("vllm", ["--attention-config.backend", "FLASH_ATTN", "-ac.flash_attn_version", "2"]),
        ("vllm", ["--structured_outputs_config", '{"backend": "xgrammar"}']),
        ("vllm", ["--ir_op_priority.rms_norm+", "native"]),
        ("vllm", ["--max-num-queued-tokens", "8K", "--disable-log-requests"]),
        ("vllm", ["--no-enable-prefix-caching"]),
        ("llama.cpp", ["--fit", "1", "--load-mode", "mlock", "--temp", "0.7"]),
        ("tabbyapi", ["--vision", "True", "--template-vars-default", "{}"]),
        ("sglang", ["--bucket-time-to-first-token", "1", "2", "4"]),
    ],
)
def test_a_value_that_the_engine_takes_is_passed_on(engine, words):
    argv = planned(served(engine, service_extra_args=words)).service[0].argv
    assert [word.replace("_", "-") for word in argv[-len(words) :]] == [word.replace("_", "-") for word in words]


@pytest.mark.parametrize(
    ("engine", "words", "text"),
    [
        ("sglang", ["--page-size"], '"--page-size" has no value'),
        ("sglang", ["--page-size", "--log-level", "info"], '"--page-size" has no value'),
        ("vllm", ["--trust-remote-code", "yes"], '"--trust-remote-code" takes no value, found "yes"'),
        ("sglang", ["--page-size", "1", "--page-size", "2"], '"--page-size" is there twice'),
        ("llama.cpp", ["--threads", "1", "-t", "2"], '"-t" is there twice'),
        ("llama.cpp", ["--threads=1"], 'found "--threads=", which llama.cpp does not take apart'),
    ],
)
def test_a_flag_is_given_once_and_with_the_value_that_it_takes(engine, words, text):
    assert refused_arguments(engine, *words).partition("\n")[0] == text
