"""What cannot work is refused with the variable, the value and what would work; the whole text counts."""

import dataclasses

import pytest

from inferhost.planner.memory.weights import shape_problem
from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, planned, refusal, wish

PRO_6000 = "rtx-pro-6000-bw-ws"
MISTRAL = "mistral-large-instruct-2411-awq"
LLAMA_GGUF = "llama-2-7b-q4_k_m"
LOCK = "inferhost_gpu_graphics_clock_lock"
LISTED = "docs/catalogue.md lists the known ones, and a row in inferhost/catalogue/{}.json adds one"
OWN_MODEL = LISTED.format("models") + "; inferhost model PATH prints it"


def on(values, **own):
    """The wish on hardware that differs in `own` from a plain host with its card."""
    return {**values, "inferhost_hardware": {**values["inferhost_hardware"], **own}}


def test_sglang_on_a_tesla_p4_is_refused_with_what_runs_there():
    assert refusal(wish("tesla-p4", LLAMA_GGUF, service_engine="sglang")) == (
        'error: inferhost_service_engine: found "sglang": sglang 0.5.23 needs compute capability 7.5, a tesla-p4 has '
        f"6.1; sglang 0.5.23 reads safetensors, and {LLAMA_GGUF} is gguf\n"
        f"hint: llama.cpp 0.7.0 serves {LLAMA_GGUF} on a tesla-p4; auto picks it"
    )


def test_auto_picks_llama_cpp_on_a_tesla_p4_and_says_why_not_the_others():
    plan = planned(wish("tesla-p4", LLAMA_GGUF))
    assert plan.service[0].engine == "llama.cpp"
    because = next(r.because for r in plan.reasons if r.setting == "service.main.engine")
    assert because == (
        "the first engine that runs on the card, reads the model and holds it (sglang 0.5.23 needs compute "
        "capability 7.5, a tesla-p4 has 6.1; vllm 0.33.0 needs compute capability 7.5, a tesla-p4 has 6.1)"
    )


def test_a_16_bit_model_on_a_tesla_p4_is_refused_with_the_format_that_runs_there():
    assert refusal(wish("tesla-p4", "llama-2-7b-hf", service_engine="vllm")) == (
        'error: inferhost_service_engine: found "vllm": vllm 0.33.0 needs compute capability '
        "7.5, a tesla-p4 has 6.1\n"
        "hint: gguf with llama.cpp is what runs on a tesla-p4"
    )


def test_an_engine_that_needs_a_newer_driver_is_refused_with_the_branch():
    values = on(wish(PRO_6000, MISTRAL, service_engine="sglang"), driver_version="575.51.03")
    assert refusal(values) == (
        'error: inferhost_service_engine: found "sglang": sglang 0.5.23 needs driver branch 580 '
        "or later, 575.51.03 is "
        "installed\nhint: driver branch 580 or later"
    )


def test_auto_passes_over_an_engine_that_needs_a_newer_driver():
    plan = planned(on(wish(PRO_6000, LLAMA_GGUF), driver_version="575.51.03"))
    assert plan.service[0].engine == "llama.cpp"


def test_a_driver_older_than_the_card_is_refused_once():
    assert refusal(on(wish(PRO_6000, MISTRAL), driver_version="560.35.03")) == (
        f"error: inferhost_hardware.driver_version: found 560.35.03, {PRO_6000} needs 570.133.07 or later\n"
        "hint: install a newer driver branch"
    )


def test_a_driver_beyond_the_cards_last_branch_is_refused():
    assert refusal(on(wish("tesla-p4", LLAMA_GGUF), driver_version="595.99.02")) == (
        "error: inferhost_hardware.driver_version: found 595.99.02, branch 580 is the last for tesla-p4\n"
        "hint: install branch 580"
    )


def test_a_missing_driver_is_pending_and_not_refused():
    pending = planned(on(wish(PRO_6000, MISTRAL), driver_version=None)).pending
    assert [(p.setting, p.needs) for p in pending] == [
        ("driver.version_found", "an NVIDIA driver: 570.133.07 or later"),
        ("service.main.engine", "driver branch 580 or later"),
    ]


def test_two_cards_that_no_driver_can_share_are_refused():
    values = on(wish(PRO_6000, MISTRAL), gpus=[gpu(PRO_6000), gpu("tesla-p4")])
    assert refusal(values) == (
        f"error: inferhost_hardware.gpus: {PRO_6000} needs the open kernel module and tesla-p4 the proprietary one\n"
        "hint: one driver cannot run both: put them into different hosts"
    )


def test_a_power_limit_outside_the_boards_range_is_refused_with_the_range():
    assert refusal(wish(PRO_6000, MISTRAL, gpu_power_limit="900")) == (
        f"error: inferhost_gpu_power_limit: found 900, outside 150 to 600 W of gpus[0] ({PRO_6000})\n"
        "hint: watts within 150 to 600 W, default or max"
    )


@pytest.mark.parametrize("wanted", ["turbo", "450 W", "-1", "4.5", "²", "9" * 5000])
def test_a_power_limit_that_is_no_number_is_refused(wanted):
    found = refusal(wish(PRO_6000, MISTRAL, gpu_power_limit=wanted))
    assert found == (
        f'error: inferhost_gpu_power_limit: found "{wanted}", wanted default, max or watts\n'
        "hint: default, max, or watts as a whole number, for example 450"
    )


@pytest.mark.parametrize(
    ("wanted", "lock"), [("2400", (2400, 2400)), ("1500-2400", (1500, 2400)), ("unlocked", None)]
)
def test_a_graphics_clock_lock_is_planned_as_wished_and_promises_no_speed(wanted, lock):
    plan = planned(wish(PRO_6000, MISTRAL, gpu_graphics_clock_lock=wanted))
    reason = next(r for r in plan.reasons if r.setting == "gpus[0].graphics_clock_lock_mhz")
    assert plan.gpus[0].graphics_clock_lock_mhz == lock
    assert "decode waits for memory" in reason.because + reason.gain
    assert reason.source == ("formula:gpu.graphics_clock_lock" if lock is None else f"wish:{LOCK}")


@pytest.mark.parametrize("wanted", ["fast", "-2400", "2400-", "2400 MHz", "1500-2400-3000", "²", "123456", ""])
def test_a_graphics_clock_lock_that_is_no_range_is_refused(wanted):
    assert refusal(wish(PRO_6000, MISTRAL, gpu_graphics_clock_lock=wanted)) == (
        f'error: {LOCK}: found "{wanted}", wanted unlocked, MHZ or MIN-MAX\nhint: for example 2400, or 1500-2400'
    )


@pytest.mark.parametrize("wanted", ["0", "0-2400", "2400-1500"])
def test_a_graphics_clock_lock_whose_ends_make_no_range_is_refused(wanted):
    assert refusal(wish(PRO_6000, MISTRAL, gpu_graphics_clock_lock=wanted)) == (
        f"error: {LOCK}: found {wanted}, wanted MIN-MAX with 0 < MIN <= MAX\nhint: for example 1500-2400"
    )


def test_a_graphics_clock_lock_above_the_cards_maximum_is_refused_because_it_lifts_nothing():
    assert refusal(wish(PRO_6000, MISTRAL, gpu_graphics_clock_lock="3000-3200")) == (
        f"error: {LOCK}: found 3000-3200, above 3090 MHz, the highest of gpus[0] ({PRO_6000})\n"
        "hint: a request above the maximum lifts nothing: a lock can only hold the clock down, and with it the power"
    )


def test_a_graphics_clock_lock_on_a_card_before_volta_is_refused():
    assert refusal(wish("tesla-p4", LLAMA_GGUF, gpu_graphics_clock_lock="1000")) == (
        f"error: {LOCK}: found 1000, but gpus[0] (tesla-p4) cannot lock its graphics clock\n"
        "hint: leave it unlocked: NVML locks clocks from Volta on, and decode waits for memory, not for this clock"
    )


def test_a_lock_on_a_card_whose_maximum_is_unknown_is_left_to_the_host_and_said():
    plan = planned(wish("rtx-4090", "qwen3-8b", gpu_graphics_clock_lock="2400"))
    assert "gpus[0].graphics_clock_lock_mhz" in [p.setting for p in plan.pending]


def test_a_wrong_limit_and_a_wrong_lock_are_told_together():
    found = refusal(wish(PRO_6000, MISTRAL, gpu_power_limit="900", gpu_graphics_clock_lock="4000"))
    assert "found 900" in found
    assert "found 4000" in found


def test_the_hardwares_own_power_range_wins_over_the_catalogues():
    board = gpu("rtx-5090", power_min_w=420, power_default_w=550, power_max_w=580)
    values = {**wish("rtx-5090", "qwen3-8b"), "inferhost_hardware": hardware(board)}
    assert planned({**values, "inferhost_gpu_power_limit": "max"}).gpus[0].power_limit_w == 580
    assert planned({**values, "inferhost_gpu_power_limit": "default"}).gpus[0].power_limit_w == 550
    assert "outside 420 to 580 W" in refusal({**values, "inferhost_gpu_power_limit": "600"})


@pytest.mark.parametrize("wanted", ["default", "max", "300"])
def test_an_unknown_power_range_leaves_the_decision_to_the_card_and_says_so(wanted):
    board = gpu("rtx-4090", power_min_w=None, power_default_w=None, power_max_w=None)
    values = {**wish("rtx-4090", "qwen3-8b", gpu_power_limit=wanted), "inferhost_hardware": hardware(board)}
    plan = planned(values)
    assert plan.gpus[0].power_limit_w == (300 if wanted == "300" else wanted)
    assert [p.setting for p in plan.pending] == ["gpus[0].power_limit_w"]


def test_an_unknown_card_is_refused_with_the_nearest_one():
    assert refusal(on(wish(PRO_6000, MISTRAL), gpus=[gpu(PRO_6000, model="rtx-pro-7000")])) == (
        'error: inferhost_hardware.gpus[0].model: found "rtx-pro-7000", which the catalogue does not know\n'
        f"hint: near it: {PRO_6000}, rtx-pro-6000-bw-maxq, rtx-a6000; {LISTED.format('gpus')}"
    )


def test_a_pci_id_of_another_card_is_refused():
    assert refusal(on(wish(PRO_6000, MISTRAL), gpus=[gpu(PRO_6000, pci_device_id="10DE:2B85")])) == (
        f'error: inferhost_hardware.gpus[0].pci_device_id: found "10DE:2B85", not a {PRO_6000}\n'
        "hint: 2B85 is rtx-5090"
    )


def test_memory_in_the_wrong_unit_is_refused():
    assert refusal(on(wish(PRO_6000, MISTRAL), gpus=[gpu(PRO_6000, memory_mib=96)])) == (
        f"error: inferhost_hardware.gpus[0].memory_mib: found 96 MiB, a {PRO_6000} has about 97887\n"
        "hint: as CUDA reports it"
    )


def test_hardware_problems_are_named_as_the_variable_that_holds_them():
    assert refusal({"inferhost_hardware": {**hardware(), "cpu": 3}, "inferhost_manage": []}) == (
        "error: inferhost_hardware.cpu: found 3, wanted a mapping\n"
        "hint: inventories/esxi/host_vars/gb200/hardware.yml explains each key; null is for what is not known"
    )


def test_an_unknown_model_is_refused_with_the_nearest_one():
    assert refusal(wish(PRO_6000, "mistral-large-2411-awq")) == (
        'error: inferhost_service_model: found "mistral-large-2411-awq", which the catalogue does not know\n'
        f"hint: near it: {MISTRAL}, mistral-large-instruct-2411, mistral-large-instruct-2407; "
        f"{OWN_MODEL}"
    )


def test_a_model_of_another_size_is_not_called_near():
    found = refusal(wish(PRO_6000, "llama-3.3-20b-instruct"))
    near = found[found.index("near it: ") : found.index(OWN_MODEL)]
    assert near
    assert not any(other in near for other in ("llama-3.1-8b", "llama-3.2-3b", "llama-3.3-70b"))


def test_a_default_context_stops_at_the_models_training_and_says_so():
    values = wish("l4", "llama-2-7b-hf")
    del values["inferhost_service_context_tokens"]
    plan = planned({**values, "inferhost_service_kv_cache_dtype": "fp8"})
    why = next(r for r in plan.reasons if r.setting == "service.main.argv.--context-length")
    assert plan.budget["main"]["context_tokens"] == 4096
    assert (why.value, why.source) == (4096, "catalogue:models/llama-2-7b-hf#context_max_tokens")
    assert why.because == (
        "longest request that llama-2-7b-hf was trained for; the wish sets none, and the default is longer"
    )


def test_a_refusal_is_plain_text_without_the_markup_of_ansible():
    assert "C(" not in refusal(wish(PRO_6000, MISTRAL, gpu_power_limit=[1], service_port="x", cpu_governor=3))


def test_a_model_whose_memory_is_not_understood_is_refused_and_not_guessed():
    shapeless = dataclasses.replace(CATALOGUE.models["deepseek-r1"], mla=None)
    problem = shape_problem(shapeless, "inferhost_service_model")
    assert problem is not None
    assert "\n".join(problem.lines()) == (
        'error: inferhost_service_model: found "deepseek-r1", a model with mla attention whose mla the catalogue '
        "does not know: its memory cannot be computed\n"
        "hint: a model of the catalogue without gaps; inferhost model PATH reads a checkpoint's shape"
    )


def test_a_context_above_the_models_training_is_refused_because_engines_cut_it_in_silence():
    assert refusal(wish("l4", "llama-2-7b-hf", service_context_tokens=8192)) == (
        "error: inferhost_service_context_tokens: found 8192, llama-2-7b-hf was trained for 4096\nhint: at most 4096"
    )


def test_an_unknown_version_is_refused_because_its_flags_and_memory_are_unknown():
    assert refusal(wish(PRO_6000, MISTRAL, service_engine="sglang", service_engine_version="0.5.15")) == (
        'error: inferhost_service_engine_version: found "0.5.15", whose flags and memory rules '
        "the catalogue does not "
        "know\nhint: pinned, or one of: sglang 0.5.23; " + LISTED.format("engines")
    )


def test_an_engine_that_cannot_be_bound_to_loopback_is_refused_rather_than_opened():
    assert refusal(wish("rtx-3090", "qwen3-0.6b", service_engine="sfllm")) == (
        'error: inferhost_service_host: found "127.0.0.1": sfllm d612a74 always listens on 0.0.0.0, and 127.0.0.1 is '
        "asked for\nhint: sglang 0.5.23 or vllm 0.33.0 or tabbyapi e632af4 serves qwen3-0.6b on "
        "a rtx-3090; auto picks "
        "it"
    )


def test_an_engine_never_runs_as_root():
    assert refusal(wish(PRO_6000, MISTRAL, service_user="root")) == (
        'error: inferhost_service_user: found "root", wanted a user without privileges\n'
        "hint: an engine reads strangers' input: inferhost is the default"
    )


def test_a_value_of_an_instance_is_refused_under_the_instances_name():
    assert refusal(wish(PRO_6000, MISTRAL, service_instances={"main": {"port": 70000}})) == (
        "error: inferhost_service_instances.main.port: found 70000, wanted 0 to 65535\n"
        "hint: 0 is the engine's usual port"
    )


def test_all_problems_of_a_wish_come_at_once_sorted_by_path():
    values = wish(
        PRO_6000,
        "",
        gpu_power_limit="9999",
        cpu_swappiness=999,
        cpu_sysctl={"foo": "1", "vm.x": True},
        cpu_limit_memlock="8GB",
        service_user="Root User",
        service_model_path="models",
    )
    found = refusal(values)
    assert found == (
        'error: inferhost_cpu_limit_memlock: found "8GB", wanted unlimited or a number of KiB\n'
        "hint: unlimited, or 67108864 for 64 GiB\n"
        "error: inferhost_cpu_swappiness: found 999, wanted 0 to 200\n"
        "hint: 10 is the default\n"
        "error: inferhost_cpu_sysctl.foo: is no kernel parameter's name\n"
        "hint: for example net.core.somaxconn\n"
        "error: inferhost_cpu_sysctl.vm.x: found True, wanted one line of text or a number\n"
        'hint: for example "1"\n'
        f"error: inferhost_gpu_power_limit: found 9999, outside 150 to 600 W of gpus[0] ({PRO_6000})\n"
        "hint: watts within 150 to 600 W, default or max\n"
        "error: inferhost_service_model: is required while service is managed\n"
        "hint: docs/catalogue.md lists them; without an engine, leave service out of inferhost_manage\n"
        'error: inferhost_service_model_path: found "models", wanted an absolute path\n'
        "hint: begin with /, for example /srv/models/NAME, in characters that can be printed\n"
        'error: inferhost_service_user: found "Root User", wanted a user name\n'
        "hint: lower-case letters, digits, - and _, at most 31, for example inferhost"
    )


def test_a_host_without_a_card_can_be_observed_but_not_serve():
    assert planned({"inferhost_hardware": hardware(), "inferhost_manage": ["cpu"]}).gpus == ()
    assert refusal(on(wish(PRO_6000, MISTRAL), gpus=[])) == (
        "error: inferhost_hardware.gpus: is empty, and an engine needs a card\n"
        "hint: leave service out of inferhost_manage, or name the card there"
    )


def test_weights_that_do_not_fit_are_refused_with_the_formats_and_checkpoints_that_do():
    found = refusal(wish("rtx-3070", "llama-3.1-8b-instruct"))
    assert found == (
        'error: inferhost_service_model: found "llama-3.1-8b-instruct" with 14.96 GiB of weights, but sglang has '
        "3.20 GiB for weights and KV cache on a card of 7.72 GiB\n"
        "hint: on a rtx-3070 it fits as q6_k (6.56 bit) 5.73 GiB with llama.cpp, q5_k_m (5.69 bit) 5.02 GiB with "
        "llama.cpp, awq (4.16 bit) 5.33 GiB with vllm, gptq (4.16 bit) 5.33 GiB with vllm; the catalogue knows "
        "llama-3.1-8b-instruct-q4_k_m; for another checkpoint inferhost model PATH prints a row; or a smaller model, "
        "or a card with more memory"
    )
    assert "; the catalogue knows llama-2-7b-q4_k_m; " in refusal(wish("rtx-3070", "llama-2-7b-hf"))
    # Of the same size and shape, but with other words: no replacement.
    assert "the catalogue knows" not in refusal(wish("rtx-3070", "deepseek-coder-6.7b-instruct"))


def test_fp8_is_offered_only_to_a_card_that_computes_with_it():
    assert ", fp8 (8 bit) 14.61 GiB with sglang, awq (4.16 bit)" in refusal(wish("rtx-4090", "phi-4"))
    assert "fp8" not in refusal(wish("rtx-3090", "phi-4"))


def test_auto_passes_over_an_engine_that_does_not_hold_the_model():
    values = wish("rtx-3070", "qwen2.5-3b-instruct")
    plan = planned(values)
    assert plan.service[0].engine == "tabbyapi"
    because = next(r.because for r in plan.reasons if r.setting == "service.main.engine")
    assert 'sglang 0.5.23: found "qwen2.5-3b-instruct" with 5.75 GiB of weights, but sglang has ' in because
    assert refusal({**values, "inferhost_service_engine": "sglang"}).startswith("error: inferhost_service_model: ")


def test_mxfp4_is_offered_to_mixtures_of_experts_alone():
    # vLLM 0.33.0 and SGLang 0.5.23 have no code for other matrices in MXFP4.
    assert "mxfp4" not in refusal(wish(PRO_6000, "llama-3.3-70b-instruct"))
    assert "mxfp4" in refusal(wish(PRO_6000, "glm-4.5-air"))


def test_a_quantised_cache_needs_heads_of_whole_blocks():
    """llama.cpp's context creation: the block size has to divide the size of a head of K and of V."""
    values = wish("tesla-p4", LLAMA_GGUF, service_engine="llama.cpp", service_kv_cache_dtype="q8_0")
    assert planned(values).service[0].engine == "llama.cpp"
    row = dataclasses.replace(CATALOGUE.models[LLAMA_GGUF], head_dim=80)
    found = refusal(values, dataclasses.replace(CATALOGUE, models={**CATALOGUE.models, LLAMA_GGUF: row}))
    assert (
        "keeps q8_0 in blocks of 32, which do not divide heads of 80 in llama-2-7b-q4_k_m; use auto or f16" in found
    )


@pytest.mark.parametrize(
    ("card", "found", "least"),
    [
        ("rtx-4090", "470.1", 520),
        ("rtx-3090", "450.80.02", 455),
        ("h100-sxm", "515.65.01", 520),
        ("tesla-p4", "352.99", 367),
    ],
)
def test_a_driver_older_than_the_card_is_refused_whatever_the_engine(card, found, least):
    # An engine without a least branch of its own was planned on a driver that does not know the card.
    text = refusal(on(wish(card, "llama-3.1-8b-instruct"), driver_version=found))
    path = "error: inferhost_hardware.driver_version"
    capability = CATALOGUE.gpus[card].compute_capability
    assert text.startswith(f"{path}: found {found}, {card} (compute capability {capability}) needs branch {least} or")


def test_an_unknown_driver_is_pending_with_the_branch_that_the_card_needs():
    pending = planned(on(wish("rtx-4090", LLAMA_GGUF), driver_version=None)).pending
    assert "an NVIDIA driver: branch 520 or later" in [one.needs for one in pending]
