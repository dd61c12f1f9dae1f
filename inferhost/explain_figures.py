"""The figures of a plan, memory and speed, under names that `inferhost explain` takes.

A figure is named as the plan's table shows it (`weights`, `KV cache`, `ceiling`, a lever) or as its JSON does. What
is said of it is the law that it was computed with, from the catalogue: nothing is computed anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from inferhost import catalogue, table

MEMORY_LAWS = {
    "weights_bytes": "memory.weights",
    "kv_cache_bytes": "memory.kv_bytes_per_token",
    "margin_bytes": "memory.margin",
    "kv_bytes_per_token": "memory.kv_bytes_per_token",
}
"""By which law a term is computed where it is not the engine's own division of the card."""

MEMORY_ROWS = (
    *table.BUDGET_ROWS,
    ("kv_bytes_per_token", "KV cache per token"),
    ("kv_cache_tokens", "tokens in the KV cache"),
    ("concurrent_requests", "requests at once"),
)
SPEED_ROWS = (
    ("ceiling_tok_s_max_clock", "ceiling", "roofline.decode_batch1"),
    ("ceiling_tok_s_running_clock", "ceiling at the running memory clock", "roofline.memory_bandwidth"),
    ("ceiling_tok_s_at_context", "ceiling with the whole context", "roofline.bytes_read"),
    ("expected_tok_s", "expected", "decode.step"),
    ("expected_band_tok_s", "expected, least and most", "decode.step"),
    ("expected_tok_s_at_context", "expected with the whole context", "decode.step"),
    ("parts_ms", "a step waits for", "decode.step"),
    ("batches", "batches", "roofline.batching"),
    ("prefill", "prefill", "roofline.prefill"),
    ("energy", "energy", "roofline.energy"),
)
LAYERS_ON_HOST = "decode.host_part"


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure: where it stands, what the table calls it, its value, and why it is that."""

    setting: str
    label: str
    value: str
    because: str
    source: str

    def is_called(self, asked: str) -> bool:
        """Whether a person who writes `asked` may mean it: its label, its place, or a group that it is in."""
        group, word = self.setting.split(".")[0], asked.lower()
        names = [name.lower() for name in (self.setting, self.setting.rpartition(".")[2], group, f"{group}s")]
        label = self.label.lower()
        return word in names or label == word or label.startswith(f"{word} ") or self.setting.startswith(f"{asked}.")


def figures(plan: Mapping[str, Any]) -> Iterator[Figure]:
    """Every figure of the memory budget and of the speed, instance by instance, in the table's order."""
    for instance, budget in sorted(plan["budget"].items()):
        for key, label in MEMORY_ROWS:
            value = table.shown_bytes(budget[key]).strip() if "bytes" in key else str(budget[key])
            law = MEMORY_LAWS.get(key, budget["formula"])
            said = _divided(budget) if key == "concurrent_requests" else ""
            yield _figure(f"memory.{instance}.{key}", label, value, law, said)
        for need in (budget.get("host") or {}).get("needs", ()):
            value = table.shown_bytes(need["bytes"]).strip()
            yield _figure(
                f"memory.{instance}.host.{need['what']}", f"host memory: {need['what']}", value, "memory.host"
            )
        speed = plan["roofline"][instance]
        for key, label, law in SPEED_ROWS:
            if speed.get(key) is not None:
                yield _speed_figure(f"speed.{instance}.{key}", label, key, speed, law)
        for part, value in (speed.get("parts_ms") or {}).items():
            place, name = f"speed.{instance}.parts_ms.{part}", part.replace("_", " ")
            yield _speed_figure(place, name, part, {**speed, part: value}, "decode.step")
        for lever in speed.get("levers", ()):
            values = f"{table.shown(lever['ceiling_tok_s'])} -> {table.shown(lever['expected_tok_s'])} tok/s"
            place, law = f"lever.{instance}.{lever['lever']}", lever["source"].partition(":")[2]
            yield _figure(place, lever["lever"], values, law, f"{lever['effect']}; ")


def explained(figure: Figure) -> list[str]:
    """The lines that `inferhost explain` prints of a figure."""
    lines = [f"{figure.label} ({figure.setting}) = {figure.value}", f"  because: {figure.because}"]
    return [*lines, f"  source: {figure.source}"]


def _divided(budget: Mapping[str, Any]) -> str:
    """How the cache's tokens become requests; windows and states let a request take less or more than its tokens."""
    tokens, context, found = (budget[key] for key in ("kv_cache_tokens", "context_tokens", "concurrent_requests"))
    whole = f"{tokens} tokens in the KV cache / {context} tokens of context = {tokens / context:.2f}, rounded down"
    return f"{whole}; " if tokens // context == found else f"{whole}, its windows, states and slots counted; "


def _speed_figure(setting: str, label: str, key: str, speed: Mapping[str, Any], law: str) -> Figure:
    said = f"{speed['arithmetic']}; " if key.startswith("ceiling") and speed.get("arithmetic") else ""
    if key == "expected_tok_s":
        said = f"fitted in {speed['expected_source']}; "
    elif not speed.get("levers"):
        said, law = f"{speed['note']}; ", LAYERS_ON_HOST
    return _figure(setting, label, table.shown(speed[key]), law, said)


def _figure(setting: str, label: str, value: str, law: str, said: str = "") -> Figure:
    row = catalogue.load().formulas[law]
    return Figure(setting, label, value, f"{said}{row.statement}", f"formula:{law} ({row.source})")
