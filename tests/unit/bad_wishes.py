"""Wishes that cannot work, generated from the option list and the catalogue, each with the variable at fault.

Every wish is a good one with one thing spoilt, so that the refusal can speak of nothing else. Adding an option, a
card, a model or a flag adds cases by itself.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from inferhost.schema.wish import HOST_WIDE, options
from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, wish

CARD, MODEL, GGUF = "rtx-pro-6000-bw-ws", "llama-3.1-8b-instruct", "llama-2-7b-q4_k_m"
SERVICE = "inferhost_service_"
ENGINES = {"sglang": MODEL, "vllm": MODEL, "llama.cpp": GGUF, "tabbyapi": MODEL, "sfllm": "qwen3-4b"}

WRONG_TYPES: dict[str, tuple[Any, ...]] = {
    "str": ({"a": 1}, ["a"]),
    "path": ({"a": 1}, ["a"], True),
    "int": ("seven", 1.5, [7], {"a": 7}, True, "9" * 30),
    "bool": ("maybe", 7, ["on"], {"a": True}),
    "list": ({"a": 1}, 7, True),
    "dict": (["a"], "a", 7, True),
}
OUT_OF_RANGE: dict[str, tuple[Any, ...]] = {
    "inferhost_cpu_swappiness": (-1, 201, 10**9),
    "inferhost_cpu_limit_nofile": (0, 1023, 2**21),
    "inferhost_cpu_limit_memlock": ("lots", "-1", "8 GB", "1" * 20),
    "inferhost_gpu_power_limit": ("149", "601", "0", "-450", "450 W", "450.5", "turbo", "minimum", ""),
    "inferhost_gpu_graphics_clock_lock": ("0", "2400-1500", "99999", "fast", "-1", "1500-", "2400 MHz"),
    SERVICE + "port": (-1, 65536, 10**9),
    SERVICE + "context_tokens": (0, -1, 10**8),
    SERVICE + "max_sequences": (0, -1, 4097),
    SERVICE + "host": ("", "no host", "a/b", "http://x"),
    SERVICE + "user": ("", "root", "Ivan", "a b", "0ops", "x" * 40),
    SERVICE + "model_path": ("models/x", "~/x", "/srv/\x07"),
    SERVICE + "engine_path": ("bin/x", "./x", "/opt/\x07"),
    SERVICE + "served_model_name": ("\x07", "a\nb"),
    SERVICE + "engine_version": ("latest", "0.0.1", "", "0.5.23.post1"),
    SERVICE + "gpus": (["1"], ["-1"], ["first"], ["0", "0"], ["all", "0"]),
    SERVICE + "model": ("", "no-such-model", "qwen3-8bb", "llama-3.1-8b-instructt"),
}
SECRETS = ("HF_TOKEN", "OPENAI_API_KEY", "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "LLAMA_API_KEY")
SECRET_FLAGS = ("--api-key", "--hf-token", "--ssl-keyfile-password", "--admin-api-key")


@dataclasses.dataclass(frozen=True)
class Bad:
    """One bad wish, the path that the refusal has to name, and a word that its hint has to hold."""

    values: dict[str, Any]
    path: str
    hint: str = ""


def bad_wishes() -> list[Bad]:
    """All of them."""
    return [case for kind in KINDS for case in kind()]


def spoilt(engine: str = "vllm", model: str = "", card: str = CARD, **own: Any) -> dict[str, Any]:
    """A good wish for an engine with `own` in it."""
    host = {"service_host": "0.0.0.0"} if engine == "sfllm" else {}
    named = {"service_engine": engine, **host, **own}
    return wish("h100-sxm" if (engine, card) == ("sfllm", CARD) else card, model or ENGINES[engine], **named)


def short(name: str) -> str:
    return name.removeprefix("inferhost_")


def mistyped(word: str, place: int) -> str:
    """The word with one letter doubled: what a finger does, and never the beginning of the word."""
    return word[:place] + word[place] + word[place:]


def wrong_types() -> Iterator[Bad]:
    for name, option in options().items():
        for value in WRONG_TYPES[option["type"]]:
            yield Bad(spoilt(**{short(name): value}), name)


def wrong_words() -> Iterator[Bad]:
    for name, option in options().items():
        for word in option.get("choices", ()):
            value: Any = mistyped(word, 1)
            yield Bad(spoilt(**{short(name): [value] if option["type"] == "list" else value}), name, word)


def misspelt_names() -> Iterator[Bad]:
    for name in options():
        for place in (12, len(name) - 2):
            wrong = mistyped(name, place)
            yield Bad(spoilt(**{short(wrong): 1}), wrong, name)


def misspelt_instance_options() -> Iterator[Bad]:
    for name in options():
        key = name.removeprefix(SERVICE)
        if name.startswith(SERVICE) and key not in HOST_WIDE:
            wrong = mistyped(key, 1)
            yield Bad(spoilt(service_instances={"main": {wrong: 1}}), f"{SERVICE}instances.main.{wrong}", key)


def out_of_range() -> Iterator[Bad]:
    for name, values in OUT_OF_RANGE.items():
        for value in values:
            yield Bad(spoilt(**{short(name): value}), name)


def bad_instances() -> Iterator[Bad]:
    for name in ("Main", "a b", "", "ä", "x" * 40, "../x"):
        yield Bad(spoilt(service_instances={name: {}}), f"{SERVICE}instances.{name}")
    for value in (None, [], "main", 7):
        yield Bad(spoilt(service_instances={"main": value}), f"{SERVICE}instances.main")
    yield Bad(spoilt(service_instances={}), f"{SERVICE}instances")
    yield Bad(spoilt(service_instances={"a": {"port": 0}, "b": {"gpus": [7]}}), f"{SERVICE}instances.b.gpus", "0")


def placebo_variables() -> Iterator[Bad]:
    for name, row in CATALOGUE.env.items():
        if row.status != "real":
            yield Bad(spoilt("sglang", service_env={name: "1"}), f"{SERVICE}env.{name}")


def bad_variables() -> Iterator[Bad]:
    for name in SECRETS:
        yield Bad(spoilt("vllm", service_env={name: "hunter2"}), f"{SERVICE}env.{name}", "LoadCredential")
    for name in ("a b", "1A", "A-B", ""):
        yield Bad(spoilt("vllm", service_env={name: "1"}), f"{SERVICE}env.{name}")
    for value in ([1], {"a": 1}, True, "a\nb"):
        yield Bad(spoilt("vllm", service_env={"OMP_NUM_THREADS": value}), f"{SERVICE}env.OMP_NUM_THREADS")
    for value in ("1", "GPU-x,GPU-y", "none"):
        yield Bad(spoilt("vllm", service_env={"CUDA_VISIBLE_DEVICES": value}), f"{SERVICE}env.CUDA_VISIBLE_DEVICES")


def placebo_flags() -> Iterator[Bad]:
    for row in CATALOGUE.flags.values():
        if row.status != "real":
            yield Bad(spoilt(row.engine, service_extra_args=[row.names[0]]), f"{SERVICE}extra_args[0]")


def planned_flags() -> Iterator[Bad]:
    adjustable = ("memory_fraction", "batched_tokens", "micro_batch", "flash_attention", "prompt_cache", "load_mode")
    adjustable += ("most_cache_tokens",)
    for row in CATALOGUE.engines.values():
        for concept, flag in row.flags.items():
            if flag and concept not in adjustable:
                yield Bad(spoilt(row.engine, service_extra_args=[flag, "1"]), f"{SERVICE}extra_args[0]", SERVICE)


def misspelt_flags() -> Iterator[Bad]:
    """The first flags by name that an engine reads, each with a doubled letter."""
    for engine in ("vllm", "sglang", "llama.cpp"):
        known = CATALOGUE.flags_of(CATALOGUE.engines[engine])
        rows = [r for _, r in sorted(known.items()) if r.status == "real" and not r.secret and len(r.names[0]) > 8]
        for row in list(dict.fromkeys(r.key for r in rows))[:40]:
            name = CATALOGUE.flags[row].names[0]
            yield Bad(spoilt(engine, service_extra_args=[mistyped(name, 4)]), f"{SERVICE}extra_args[0]")


def secret_flags() -> Iterator[Bad]:
    for engine in ("vllm", "sglang", "llama.cpp"):
        for flag in SECRET_FLAGS:
            case = spoilt(engine, service_extra_args=[flag, "hunter2"])
            yield Bad(case, f"{SERVICE}extra_args[0]", "LoadCredential")


def impossible_fits() -> Iterator[Bad]:
    """Every large model on a card of 8 GB, and every understood one with more context than it was trained for."""
    for key, row in CATALOGUE.models.items():
        engine = "llama.cpp" if row.format == "gguf" else "tabbyapi" if row.format == "exl3" else "vllm"
        if row.parameters * row.linear_bits / 8 > 9e9:
            card = "tesla-p4" if engine == "llama.cpp" else "rtx-3070"
            read = row.quantisation in CATALOGUE.engines[engine].quantisations.get(row.format, {})
            yield Bad(spoilt(engine, key, card), f"{SERVICE}{'model' if read else 'engine'}")
        if row.context_max_tokens and row.attention == "full":
            most = row.context_max_tokens
            values = spoilt(engine, key, service_context_tokens=most + 1)
            yield Bad(values, f"{SERVICE}context_tokens", str(most))


def impossible_engines() -> Iterator[Bad]:
    for engine in ENGINES:
        if engine != "llama.cpp":
            yield Bad(spoilt(engine, GGUF, "tesla-p4"), f"{SERVICE}engine", "llama.cpp")
        for dtype in {"fp8", "q8_0"} - set(CATALOGUE.engines[engine].kv_cache):
            yield Bad(spoilt(engine, service_kv_cache_dtype=dtype), f"{SERVICE}kv_cache_dtype")
    for engine in ("sglang", "vllm", "tabbyapi", "sfllm"):
        yield Bad(spoilt(engine, GGUF), f"{SERVICE}engine", "llama.cpp")
    yield Bad(spoilt("llama.cpp", MODEL), f"{SERVICE}engine", "sglang")


def impossible_hardware() -> Iterator[Bad]:
    where = "inferhost_hardware"
    for key in CATALOGUE.gpus:
        values = spoilt()
        yield Bad({**values, where: hardware(gpu(key, pci_device_id="0000"))}, f"{where}.gpus[0].pci_device_id")
        yield Bad({**values, where: hardware(gpu(key, memory_mib=100))}, f"{where}.gpus[0].memory_mib")
    for key in hardware():
        yield Bad({**spoilt(), where: _without(hardware(gpu(CARD)), key)}, f"{where}.{key}")
    for key in gpu(CARD):
        yield Bad({**spoilt(), where: hardware(_without(gpu(CARD), key))}, f"{where}.gpus[0].{key}")
        wrong = mistyped(key, 1)
        values = {**spoilt(), where: hardware({**gpu(CARD), wrong: 1})}
        yield Bad(values, f"{where}.gpus[0].{wrong}", key)
    for version in ("580", "latest", "v580.95.05", "470.1.1"):
        yield Bad({**spoilt(), where: hardware(gpu(CARD), driver_version=version)}, f"{where}.driver_version")
    for model in ("rtx-9090", "RTX 5090", ""):
        yield Bad({**spoilt(), where: hardware({**gpu(CARD), "model": model})}, f"{where}.gpus[0].model")


def _without(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != key}


KINDS = (
    wrong_types,
    wrong_words,
    misspelt_names,
    misspelt_instance_options,
    out_of_range,
    bad_instances,
    placebo_variables,
    bad_variables,
    placebo_flags,
    planned_flags,
    misspelt_flags,
    secret_flags,
    impossible_fits,
    impossible_engines,
    impossible_hardware,
)
