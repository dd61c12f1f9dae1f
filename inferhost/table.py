"""The plan and the verdicts as a person reads them: 120 columns, wrapped, readable without colour.

A second reporter over the same documents that JSON shows, so that the two cannot disagree. It decides nothing.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from inferhost.schema.document import counted

WIDTH = 120
SETTING_WIDTH = 32
VALUE_WIDTH = 24
GROUPS = (
    "driver", "gpus", "cpu", "sysctl", "runtime", "models", "service", "env", "dropins", "files", "adopt", "balancer",
    "manage",
)  # fmt: skip
"""The order in which a person reads a plan."""
GIB = 2**30
MIB = 2**20

BUDGET_ROWS = (
    ("weights_bytes", "weights"),
    ("kv_cache_bytes", "KV cache"),
    ("activation_bytes", "activations and compute buffers"),
    ("graphs_bytes", "CUDA graphs"),
    ("non_torch_bytes", "CUDA context and libraries"),
    ("margin_bytes", "margin"),
    ("reserved_bytes", "not the engine's to use"),
    ("unallocated_bytes", "unallocated"),
    ("total_memory_bytes", "the card, as CUDA reports it"),
)


def render_plan(plan: Mapping[str, Any]) -> str:
    """The plan: settings with value and reason, memory budget, roofline, levers, and what is still open."""
    host = plan["host"]
    managed = ", ".join(plan["manage"]) or "nothing: this host is only observed"
    lines = [f"plan {plan['plan_id']} of {host['name']}" + (" (simulated GPU)" if host["simulated"] else "")]
    lines += [f"managed: {managed}", ""]
    lines += _cards(plan)
    lines += _settings(plan["reasons"])
    for instance, budget in sorted(plan["budget"].items()):
        lines += _budget(instance, budget)
        lines += _roofline(instance, plan["roofline"][instance])
    if plan["pending"]:
        lines += ["", "PENDING"]
        for item in plan["pending"]:
            lines += _wrapped(f"{item['setting']}: needs {item['needs']} ({item['because']})", "  ")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def render_verdicts(result: Mapping[str, Any]) -> str:
    """The verdicts of a run: setting, what was wanted and found, the verdict with its cause and evidence."""
    lines = [f"{'SETTING':<{SETTING_WIDTH}} {'WANTED -> FOUND':<{VALUE_WIDTH}} VERDICT"]
    current = None
    for verdict in result["verdicts"]:
        group, leaf = split_setting(verdict["setting"].replace("file:/", "files./", 1))
        if group != current:
            lines.append(group)
            current = group
        word = verdict["verdict"]
        if verdict["cause"] not in ("none", ""):
            word += f" ({verdict['cause']})"
        evidence = f"{word}: {verdict['evidence']}" if verdict["evidence"] else word
        values = f"{shown(verdict['wanted'])} -> {shown(verdict['found'])}"
        if verdict["wanted"] == verdict["found"]:
            values = shown(verdict["wanted"])
        lines += _row(f"  {leaf}", values, [evidence])
    if not result["verdicts"]:
        lines.append("no setting to tell of")
    for note in result.get("notes", ()):
        lines += _wrapped(f"note: {note}", "")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def shown(value: Any) -> str:
    """A value as a cell shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def shown_bytes(count: int) -> str:
    """Bytes in the unit that a person would choose."""
    if abs(count) >= GIB / 10:
        return f"{count / GIB:8.2f} GiB"
    return f"{count / MIB:8.2f} MiB"


def _cards(plan: Mapping[str, Any]) -> list[str]:
    driver = plan["driver"]
    found = driver["version_found"] or "none found"
    lines = []
    for number, gpu in enumerate(plan["gpus"]):
        select = gpu["select"]
        which = select["uuid"] or f"card {select['ordinal']} with PCI id {select['pci_device_id']}, UUID unknown"
        lines.append(f"gpus[{number}]: {gpu['name']} ({which})")
    lines.append(f"driver: {found}, {driver['kernel_module']} kernel module")
    return [*lines, ""]


def _settings(reasons: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = [f"{'SETTING':<{SETTING_WIDTH}} {'VALUE':<{VALUE_WIDTH}} WHY"]
    current = None
    for reason in sorted(reasons, key=_reading_order):
        group, leaf = split_setting(reason["setting"])
        if group != current:
            lines.append(group)
            current = group
        marks = [f"gain: {reason['gain']}"]
        if reason["disruption"] != "none":
            marks.append(f"takes: {reason['disruption']}")
        marks.append(f"source: {reason['source']}")
        lines += _row(f"  {leaf}", shown(reason["value"]), [reason["because"], "; ".join(marks)])
    return lines


def split_setting(setting: str) -> tuple[str, str]:
    """A setting's group and its own name: the group stands once, so that the names stay short."""
    head = setting.partition(".")[0]
    if head in ("sysctl", "adopt"):
        return head, setting.partition(".")[2]
    if head == "files":
        folder, _, name = setting.partition(".")[2].rpartition("/")
        return f"files in {folder}", name
    mark = ".argv." if ".argv." in setting else "."
    group, _, leaf = setting.rpartition(mark)
    return group + mark.rstrip("."), leaf


def _reading_order(reason: Mapping[str, Any]) -> tuple[int, str]:
    head = reason["setting"].partition(".")[0].partition("[")[0]
    return (GROUPS.index(head) if head in GROUPS else len(GROUPS), reason["setting"])


def _row(setting: str, value: str, why: Sequence[str]) -> list[str]:
    """One row of three wrapped cells; the last holds several paragraphs."""
    rest = WIDTH - SETTING_WIDTH - VALUE_WIDTH - 2
    indent = len(setting) - len(setting.lstrip())
    names = [" " * indent + line for line in cell(setting.strip(), SETTING_WIDTH - indent)]
    cells = [names, cell(value, VALUE_WIDTH), [line for part in why for line in cell(part, rest)]]
    height = max(len(cell) for cell in cells)
    padded = [cell + [""] * (height - len(cell)) for cell in cells]
    return [f"{a:<{SETTING_WIDTH}} {b:<{VALUE_WIDTH}} {c}" for a, b, c in zip(*padded, strict=True)]


def _budget(instance: str, budget: Mapping[str, Any]) -> list[str]:
    lines = ["", f"MEMORY of instance {instance}"]
    lines += [f"  {label:<34}{shown_bytes(budget[key])}" for key, label in BUDGET_ROWS if budget[key]]
    tokens, context = budget["kv_cache_tokens"], budget["context_tokens"]
    lines += _wrapped(
        f"{budget['kv_bytes_per_token']} bytes of KV cache per token: {tokens} tokens, which is "
        f"{counted(budget['concurrent_requests'], 'request')} of {context} tokens at once",
        "  ",
    )
    served, held = budget["max_sequences"], budget["concurrent_requests"]
    if served and served < held:
        capped = f"the engine takes {counted(served, 'request')} at a time (max_sequences), so {held - served} more"
        lines += _wrapped(f"{capped} of that length would fit and wait", "  ")
    return [*lines, *_wrapped(budget["uncertainty"], "  "), *_host_memory(budget.get("host"))]


def _host_memory(host: Mapping[str, Any] | None) -> list[str]:
    """What an engine takes of the host's memory, where it takes any."""
    if not host or not host["needed_bytes"]:
        return []
    needs = ", ".join(f"{need['what']} {shown_bytes(need['bytes']).strip()}" for need in host["needs"])
    total = host["host_memory_bytes"]
    of = f"of {shown_bytes(total).strip()}" if total else "of an unknown size"
    return _wrapped(f"host memory {of}: {needs} ({'formula:' + host['formula']})", "  ")


def _roofline(instance: str, roofline: Mapping[str, Any]) -> list[str]:
    if roofline["note"]:
        return ["", f"SPEED of one request to instance {instance}", *_wrapped(roofline["note"], "  ")]
    limits = f"ceiling: {roofline['bound']}, paced by {roofline['paced_by']}"
    lines = ["", f"SPEED of one request to instance {instance} ({limits})"]
    for part in roofline["arithmetic"].split("; "):
        lines += _wrapped(part, "  ")
    low, high = roofline["expected_band_tok_s"]
    running = roofline["ceiling_tok_s_running_clock"]
    lines += _wrapped(
        f"ceiling {roofline['ceiling_tok_s_max_clock']} tok/s"
        + (f", {running} at the running memory clock" if running is not None else "")
        + f"; {roofline['ceiling_tok_s_at_context']} with {roofline['context_tokens']} tokens of context",
        "  ",
    )
    lines += _wrapped(
        f"expected {roofline['expected_tok_s']} tok/s, {low} to {high}; {roofline['expected_tok_s_at_context']} with "
        f"{roofline['context_tokens']} tokens of context ({roofline['expected_source']})",
        "  ",
    )
    parts = ", ".join(f"{name.replace('_', ' ')} {ms} ms" for name, ms in roofline["parts_ms"].items() if ms)
    overlap = "reading overlaps with the other work per weight, which is fitted"
    lines += _wrapped(f"a step waits most for {roofline['paced_by']}: {parts}; {overlap}", "  ")
    lines += _prefill(roofline["prefill"])
    lines += _energy(roofline["energy"])
    lines += _wrapped(roofline["conclusion"], "  ")
    lines += ["", f"{'LEVER':<{SETTING_WIDTH}} {'tok/s: MOST -> EXPECTED':<{VALUE_WIDTH}} EFFECT"]
    for lever in roofline["levers"]:
        values = f"{shown(lever['ceiling_tok_s'])} -> {shown(lever['expected_tok_s'])}"
        lines += _row(lever["lever"], values, [f"{lever['effect']} ({lever['source']})"])
    return lines


def _prefill(prefill: Mapping[str, Any]) -> list[str]:
    most, prompt = prefill["ceiling_tok_s"], prefill["prompt_tokens"]
    rate = f"at most {most} tok/s" if most is not None else "no tensor rate of this card is known"
    first = f"the first token of a {prompt} token prompt takes {prefill['least_ttft_ms']} ms or more"
    return _wrapped(f"prefill: {rate}; {first} ({prefill['source']})", "  ")


def _energy(energy: Mapping[str, Any]) -> list[str]:
    if energy["power_limit_w"] is None:
        return _wrapped(f"energy: {energy['note']}", "  ")
    return _wrapped(
        f"energy: at least {energy['least_tok_per_j']} tok/J alone, {energy['least_tok_per_j_batched']} with "
        f"{counted(energy['sequences'], 'request')} ({energy['note']}: {energy['power_limit_w']} W)",
        "  ",
    )


def cell(text: str, width: int) -> list[str]:
    """The text in lines of this width; a word that is too long, such as a path, is broken after one of its parts."""
    lines: list[str] = []
    for word in text.split():
        for number, piece in enumerate(_pieces(word, width)):
            if number == 0 and lines and len(lines[-1]) + 1 + len(piece) <= width:
                lines[-1] += f" {piece}"
            else:
                lines.append(piece)
    return lines or [""]


def _pieces(word: str, width: int) -> list[str]:
    """A word whole, or in pieces of at most this width that end after one of `/ . _ = , : -` where that can be."""
    if len(word) <= width:
        return [word]
    found = [""]
    for part in re.split(r"(?<=[/._=,:-])", word):
        if len(found[-1]) + len(part) <= width:
            found[-1] += part
        else:
            found += [part[start : start + width] for start in range(0, len(part), width)]
    return [piece for piece in found if piece]


def _wrapped(text: str, indent: str) -> list[str]:
    hanging = indent + "  "
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=hanging, break_on_hyphens=False)
