"""The pools of TabbyAPI and SFLLM against worked examples of the engines' own arithmetic.

TabbyAPI e632af4 (ExLlamaV3 1.4.2): backends/exllamav3/model.py:317-360 and 506-530, exllamav3/cache/quant.py:137.
SFLLM d612a74: python/sfllm/engine/memory_pool.py:52-66, engine/scheduler.py:56.
"""

import pytest

from inferhost.planner.estimate.kv_case import estimate_kv
from inferhost.planner.memory import engine_rules
from inferhost.planner.memory.engine_rules import Demand
from tests.unit.planner_wishes import CATALOGUE, planned, refusal, wish

GIB = 2**30
LLAMA = "llama-3.1-8b-instruct"  # 32 layers, 8 KV heads of 128


def served(engine, **own):
    host = {"service_host": "0.0.0.0"} if engine == "sfllm" else {}
    card = "rtx-4090" if engine == "sfllm" else "rtx-5090"  # its kernels end at compute capability 9.0
    return wish(card, LLAMA, service_engine=engine, **host, **own)


def told(plan, flag):
    argv = plan.service[0].argv
    return argv[argv.index(flag) + 1]


@pytest.mark.parametrize(
    ("kind", "bytes_per_token"),
    [("f16", 32 * 4 * 1024), ("q8_0", 32 * 1024 * ((8 + 8) // 8) + 32 * 1024 // 8)],  # 16 bit; k, v and a scale each
)
def test_tabbyapis_cache_takes_what_its_layers_take(kind, bytes_per_token):
    budget = planned(served("tabbyapi", service_kv_cache_dtype=kind)).budget["main"]
    assert budget["kv_bytes_per_token"] == bytes_per_token
    assert budget["kv_cache_bytes"] == budget["kv_cache_tokens"] * bytes_per_token


@pytest.mark.parametrize(("context", "sequences", "cache_size"), [(1000, 8, 8192), (2048, 3, 6144), (257, 1, 512)])
def test_tabbyapis_cache_holds_every_request_in_whole_pages(context, sequences, cache_size):
    plan = planned(served("tabbyapi", service_context_tokens=context, service_max_sequences=sequences))
    assert int(told(plan, "--cache-size")) == cache_size
    assert int(told(plan, "--cache-size")) % 256 == 0
    assert int(told(plan, "--max-seq-len")) == context  # never above the pool, which would cut it
    assert plan.budget["main"]["concurrent_requests"] == sequences


def test_tabbyapis_pool_is_what_the_card_holds_where_not_every_request_fits():
    plan = planned(served("tabbyapi", service_context_tokens=16384, service_max_sequences=64))
    budget = plan.budget["main"]
    whole = budget["concurrent_requests"]
    assert whole < 64
    assert int(told(plan, "--cache-size")) == whole * 16384
    assert budget["unallocated_bytes"] < 16384 * budget["kv_bytes_per_token"]


def test_a_chunk_of_tabbyapi_is_rounded_up_to_whole_pages():
    row, engine = CATALOGUE.models[LLAMA], CATALOGUE.engines["tabbyapi"]
    odd, whole = (engine_rules.exllamav3(32 * GIB, row, engine, Demand(2048, 1, None, n)) for n in (1000, 1024))
    assert odd.activation_bytes == whole.activation_bytes
    assert odd.batched_tokens == 1024


def test_sfllms_pool_is_never_promised_above_its_own_arithmetic():
    plan = planned(served("sfllm", service_context_tokens=4096))
    budget = plan.budget["main"]
    taken = budget["weights_bytes"] + budget["non_torch_bytes"] + budget["reserved_bytes"]
    free = budget["total_memory_bytes"] - taken
    own = int(free * 0.7) // (8 * 128 * 2 * 2) // 32
    margin = budget["margin_bytes"] // budget["kv_bytes_per_token"]
    assert own - margin - 1 <= budget["kv_cache_tokens"] <= own - margin
    assert told(plan, "--mem-fraction") == "0.7"


def test_sfllms_limit_of_requests_is_its_largest_graph():
    plan = planned(served("sfllm", service_max_sequences=5))
    assert told(plan, "--cuda-graph-max-bs") == "5"
    assert "--max-running-requests" not in plan.service[0].argv
    assert "inferhost_service_max_sequences" in refusal(
        served("sfllm", service_extra_args=["--cuda-graph-max-bs", "64"])
    )


def test_sfllm_runs_on_one_card_only():
    values = served("sfllm", service_tensor_parallel_size=2)
    values["inferhost_hardware"]["gpus"] *= 2
    assert "sfllm d612a74 is planned for one" in refusal(values)


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "vocab_size", "params_b"])
def test_a_shape_of_nothing_is_refused_by_its_column(name):
    arch = {
        "params_b": 8.19, "num_hidden_layers": 36, "hidden_size": 4096, "num_key_value_heads": 8, "head_dim": 128,
        "vocab_size": 151936,
    }  # fmt: skip
    case = {"id": 1, "engine": "vllm", "gpu": "L4", "max_model_len": 4096, "arch": {**arch, name: 0}}
    assert estimate_kv(case, CATALOGUE) == {"id": 1, "refused": f"arch.{name}: found 0, wanted more"}
