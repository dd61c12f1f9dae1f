"""Whether an engine starts at all with these weights on this card: the same answer for its cache and its speed.

What an engine reads is the planner's own table, the quantisations of its row in the catalogue, and what no plan asks
of it; the least compute capability by version is that of its speeds.
"""

from __future__ import annotations

import re

from inferhost.catalogue import Catalogue
from inferhost.catalogue.rows import ChipRow, SpeedRow
from inferhost.planner.estimate.fields import Refused
from inferhost.planner.names import gguf_format
from inferhost.planner.speed.decode import capability, min_compute_capability
from inferhost.planner.versions import Version
from inferhost.planner.versions import version as number_of

ALSO_READ: dict[str, dict[str, Version | None]] = {
    "vllm": {"gguf": (0, 24, 0)},  # a plug-in since: vllm-project/vllm#39612
    "sglang": {"gguf": None},
}
"""Files that an engine reads though no plan asks it to, and the first version that does not. Source: engines.md 2."""
CHECKPOINT = re.compile(r"awq|gptq|fp8|float8|e4m3|mxfp8|bnb|bitsandbytes|\bnf4|w[48]a|autoround|modelopt|torchao")
"""Formats that only directories of safetensors have; others, such as bf16, mxfp4 and nvfp4, are in GGUF files too."""
EXLLAMA = re.compile(r"\bexl([23])")


def check_runs(speed: SpeedRow, said_version: str, chip: ChipRow | None, quant: str, catalogue: Catalogue) -> None:
    """Refuses an engine that has no code for the card, or does not read weights of that format."""
    least = min_compute_capability(speed, said_version)
    if chip and least and capability(chip.compute_capability) < capability(least):
        raise Refused(
            f"engine: {speed.key} runs from compute capability {least}, and {chip.names[0]} has "
            f"{chip.compute_capability}; llama.cpp runs there"
        )
    name, files = speed.key.partition("-")[0], files_of(quant, catalogue)
    row = next((row for row in catalogue.engines.values() if row.pinned and row.engine == name), None)
    if row is None or files is None or files in row.quantisations:
        return
    also = ALSO_READ.get(name, {})
    end = also.get(files)
    if files in also and (end is None or number_of(name, said_version) < end):
        return
    others = sorted({other.engine for other in catalogue.engines.values() if files in other.quantisations})
    works = [f"for {files} take {' or '.join(others)}"] if others else []
    if end is not None:
        works.append(f"{name} before {'.'.join(map(str, end))} did, later ones with a plug-in")
    raise Refused(
        f"quant: found {quant[:40]!r}, which is {files}, and {name} reads {' and '.join(sorted(row.quantisations))}"
        + (f"; {'; '.join(works)}" if works else "")
    )


def files_of(quant: str, catalogue: Catalogue) -> str | None:
    """The kind of file that weights of a format are in; nothing where several are, or the words are not known."""
    words = quant.lower()
    kinds = {
        "gguf": "gguf" in words or gguf_format(words, catalogue) is not None,
        "safetensors": bool(CHECKPOINT.search(words)),
    }
    if exllama := EXLLAMA.search(words):
        kinds[f"exl{exllama[1]}"] = True
    told = [kind for kind, is_told in kinds.items() if is_told]
    return told[0] if len(told) == 1 else None
