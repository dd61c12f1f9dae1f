"""Where the decode model's numbers are expected before any figure is looked at, and how far they may stray.

A spread is the standard deviation of a number's logarithm: 0.04 says "within a few per cent", 0.5 "the right size".
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Prior:
    """A number and its spread."""

    value: float
    spread: float


@dataclasses.dataclass(frozen=True)
class Constant:
    """A number that holds for every engine."""

    key: str
    prior: Prior
    unit: str
    notes: str


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of `speeds.json` before its numbers are known."""

    key: str
    names: tuple[str, ...]
    kernels: str
    overhead_us: Prior
    notes: str
    before: dict[str, str] = dataclasses.field(default_factory=dict)
    runs_from: dict[str, str] = dataclasses.field(default_factory=dict)  # least compute capability, by first version
    graphs_from: str | None = None
    without_graphs: str | None = None  # the row whose overhead holds without CUDA graphs; shares its kernels too
    own_kernels: float = 0.25


EXPERTS = "on top: how fast the small matrices of chosen experts are read"
MIXTURE = "more in layers with experts: choosing them, gathering, summing up"
RECURRENT = "more in layers of linear attention"
LATENT = "more in layers of compressed attention: the way into and out of the latent vectors"

CONSTANTS = (
    Constant("efficiency.gddr", Prior(0.93, 0.04), "ratio", "of the data sheet's bandwidth, GDDR5 to GDDR7"),
    Constant("efficiency.hbm", Prior(0.88, 0.04), "ratio", "of the data sheet's bandwidth"),
    Constant("efficiency.lpddr", Prior(0.85, 0.04), "ratio", "of the data sheet's bandwidth, shared with the CPU"),
    Constant("efficiency.inline_ecc", Prior(0.93, 0.03), "ratio", "on top: check bits in the same GDDR"),
    Constant("experts.llama.cpp", Prior(0.97, 0.02), "ratio", EXPERTS),
    Constant("experts.any", Prior(0.7, 0.25), "ratio", EXPERTS),
    Constant("mixture.llama.cpp", Prior(10.0, 0.7), "us per layer", MIXTURE),
    Constant("mixture.vllm", Prior(10.0, 0.7), "us per layer", MIXTURE),
    Constant("mixture.sglang", Prior(10.0, 0.7), "us per layer", MIXTURE),
    Constant("mixture.any", Prior(10.0, 0.7), "us per layer", MIXTURE),
    Constant("recurrent.llama.cpp", Prior(20.0, 0.7), "us per layer", RECURRENT),
    Constant("recurrent.any", Prior(20.0, 0.7), "us per layer", RECURRENT),
    Constant("latent.llama.cpp", Prior(20.0, 0.7), "us per layer", LATENT),
    Constant("latent.any", Prior(20.0, 0.7), "us per layer", LATENT),
    Constant("all_reduce.nvlink", Prior(3.5, 0.4), "us per doubling of cards", "one join of a split layer's parts"),
    Constant("all_reduce.pcie", Prior(12.0, 0.4), "us per doubling of cards", "one join of a split layer's parts"),
    Constant("client_average", Prior(0.02, 0.7), "ratio", "more time per token averaged over whole requests"),
    Constant("overhead.windows", Prior(15.0, 0.5), "us per layer", "more under Windows and WSL 2"),
)

KERNELS = {
    "ggml": {
        "16bit": Prior(3.1, 0.3),
        "8bit": Prior(7.0, 0.3),
        "4bit": Prior(10.5, 0.3),
        "3bit": Prior(6.0, 0.3),
        "ternary": Prior(13.0, 0.3),
    },
    "marlin and cublas": {
        "16bit": Prior(4.6, 0.3),
        "8bit": Prior(10.0, 0.3),
        "4bit": Prior(16.0, 0.3),
        "3bit": Prior(12.0, 0.3),
        "ternary": Prior(12.0, 0.3),
    },
    "tensor cores": {
        "16bit": Prior(5.0, 0.3),
        "8bit": Prior(17.0, 0.3),
        "4bit": Prior(23.0, 0.3),
        "3bit": Prior(12.0, 0.3),
        "ternary": Prior(12.0, 0.3),
    },
    "awq gemm": {family: Prior(4.6, 0.3) for family in ("16bit", "8bit", "4bit", "3bit", "ternary")},
}
"""Weights that one multiprocessor works off per clock. Two and three bit formats need more integer work each."""

LLAMA_CPP = ("llama.cpp", "llama-", "llama_", "llamafile", "ollama", "ggml", "koboldcpp", "lm studio")
VLLM_FROM = {"0": "7.0", "0.22.1": "7.5"}
"""Its installation guide says 7.0 up to 0.18.1 and 7.5 in 0.22.1; what lies between was not looked up."""
GRAPHS = "CUDA graphs are used from compute capability 8.0 (ggml-org/llama.cpp#25749 lifts that)"

ROWS = (
    Row(
        "llama.cpp-2024",
        LLAMA_CPP,
        "ggml",
        Prior(70, 0.5),
        "before CUDA graphs",
        before={"date": "2024-06", "build": "2990"},
        without_graphs="llama.cpp-2024",
    ),
    Row(
        "llama.cpp",
        LLAMA_CPP,
        "ggml",
        Prior(30, 0.5),
        GRAPHS,
        graphs_from="8.0",
        without_graphs="llama.cpp-2024",
    ),
    Row(
        "vllm-2024",
        ("vllm",),
        "marlin and cublas",
        Prior(90, 0.5),
        "before the V1 engine",
        before={"version": "0.8", "date": "2025-03"},
        runs_from={"0": "7.0"},
    ),
    Row("vllm", ("vllm",), "tensor cores", Prior(30, 0.5), "V1 engine", runs_from=VLLM_FROM, own_kernels=0.05),
    Row("tensorrt-llm", ("tensorrt", "trt"), "tensor cores", Prior(30, 0.5), "", own_kernels=0.05),
    Row(
        "sglang-2025",
        ("sglang",),
        "marlin and cublas",
        Prior(50, 0.5),
        "fitted on 0.4.6 on one card",
        before={"version": "0.5", "date": "2025-09"},
        runs_from={"0": "7.5"},
    ),
    Row(
        "sglang",
        ("sglang",),
        "tensor cores",
        Prior(40, 0.5),
        "from 0.5; fitted on mixtures of experts alone",
        runs_from={"0": "7.5"},
        own_kernels=0.05,
    ),
    Row("exllama", ("exllama", "tabby", "exl2", "exl3"), "marlin and cublas", Prior(40, 0.5), "fitted on ExLlamaV2"),
    Row("gpt-fast", ("gpt-fast",), "marlin and cublas", Prior(40, 0.5), "A100 held at 330 W"),
    Row("mlc", ("mlc",), "marlin and cublas", Prior(35, 0.5), ""),
    Row("autoawq-gemm", ("autoawq (gemm", "autoawq gemm"), "awq gemm", Prior(40, 0.5), "unpacking is the bound"),
    Row("autoawq", ("autoawq",), "marlin and cublas", Prior(40, 0.5), "fused layers; no figure of its own"),
    Row("transformers", ("transformers", "eager", "pytorch"), "marlin and cublas", Prior(230, 0.5), "launch bound"),
    Row("any", (), "marlin and cublas", Prior(40, 0.5), "engines without a fit of their own"),
)
"""In the order in which they are tried."""
