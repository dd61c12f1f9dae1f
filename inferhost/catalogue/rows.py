"""The shape of every catalogue row: facts with their unit in the name, and where each was read.

Rows hold facts, never policy: what follows from them is the planner's business. `None` means unknown, and
unknown stays unknown. A field whose value was computed rather than read is named in `derived`.
"""
# ruff: noqa: UP006, UP035, UP045 (the document reader resolves the hints of Python 3.9)

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Optional, Tuple

from inferhost.catalogue.engine_parts import EnvironmentDefault, HostMemoryFlag, KvCacheFormat, Switch


@dataclasses.dataclass(frozen=True)
class GpuRow:
    """One card model. `memory_bandwidth_gb_s` is the data sheet's figure, in 10^9 bytes per second."""

    key: str
    name: str  # as NVML says it
    pci_device_ids: Tuple[str, ...]
    architecture: str
    compute_capability: str
    memory_label_gb: Optional[float]
    memory_mib: Optional[int]  # as NVML reports it
    memory_under_cuda_mib: Optional[int]  # what a CUDA program sees, which is less
    memory_type: Optional[str]
    memory_bus_bits: Optional[int]
    memory_bandwidth_gb_s: Optional[float]
    l2_cache_mb: Optional[int]
    power_default_w: Optional[int]
    power_min_w: Optional[int]
    power_max_w: Optional[int]
    graphics_clock_base_mhz: Optional[int]
    graphics_clock_boost_mhz: Optional[int]
    graphics_clock_max_mhz: Optional[int]
    memory_clock_max_mhz: Optional[int]
    memory_clock_under_cuda_mhz: Optional[int]
    pcie_generation: Optional[int]
    pcie_width: Optional[int]
    tensor_cores: bool
    bf16: bool
    fp8: bool
    fp4: bool
    graphics_clock_lock: str  # "yes" or "no"
    # "yes", "no", "risky" (can cost speed), "deferred" (works at the next driver load), "probe" (differs per board)
    memory_clock_lock: str
    application_clocks: str  # "yes", "no", "deprecated"
    ecc: str  # "yes", "no", "inline" (the check bits take 1/16 of the memory while it is on)
    mig_max_instances: int
    mps: bool
    persistence_mode: bool
    energy_counter: bool
    kernel_module: str  # "open", "proprietary" or "either"
    first_open_driver: Optional[str]
    last_driver_branch: Optional[int]
    derived: Tuple[str, ...]
    notes: str
    source: str
    nvswitch_cards: Optional[int] = (
        None  # so many on one board are joined by NVSwitch; None: no such board, or unknown
    )
    nvswitch_subnet: bool = False  # the host reaches those NVSwitches over InfiniBand, as a subnet of its own


@dataclasses.dataclass(frozen=True)
class MlaShape:
    """Compressed attention: one latent vector and one rotated key per token and layer, shared by all heads."""

    kv_lora_rank: int
    qk_rope_head_dim: int
    qk_nope_head_dim: Optional[int]
    v_head_dim: Optional[int]
    q_lora_rank: Optional[int]


@dataclasses.dataclass(frozen=True)
class SlidingShape:
    """Layers that attend to the last `window_tokens` only; the other layers attend to everything."""

    window_tokens: int
    layers: int


@dataclasses.dataclass(frozen=True)
class StateShape:
    """Linear attention (gated delta net): a state per sequence and layer, whatever its length."""

    layers: int
    key_heads: int
    value_heads: int
    key_head_dim: int
    value_head_dim: int
    convolution: int  # taps; one fewer is kept


@dataclasses.dataclass(frozen=True)
class MoeShape:
    """A mixture of experts; `intermediate_size` of the model is that of one expert."""

    experts: int
    experts_per_token: int
    shared_experts: int
    dense_layers: int
    dense_intermediate_size: Optional[int]


@dataclasses.dataclass(frozen=True)
class VisionShape:
    """A vision tower: it stays at 16 bit in every quantised checkpoint, and its parameters are part of the model's.

    `config_layers` and `config_hidden_size` are what `num_hidden_layers` and `hidden_size` of its `vision_config`
    say; `None` where that key is not there, which SGLang takes for a tower of 24 layers and 1024.
    """

    parameters: int
    hidden_size: int
    patch_values: int  # numbers of one patch: colours, height, width and, for video, frames
    profiled_patches: int  # in the largest picture, or all pictures of a prompt, that a profiling run encodes
    config_layers: Optional[int]
    config_hidden_size: Optional[int]


@dataclasses.dataclass(frozen=True)
class ModelRow:
    """One checkpoint: its shape, its number formats and what of it stays 16 bit."""

    key: str
    name: str
    family: str
    attention: str  # "full", "mla", "sliding", "hybrid", "mixed" (layers without attention between others)
    format: str  # "safetensors", "gguf" or "exl3"
    quantisation: str
    linear_bits: float  # per weight, scales and zero points included
    embedding_bits: float
    head_bits: float
    layers: int
    kv_layers: int  # whose cache grows with the context, or with the window
    kv_heads: int
    query_heads: Optional[int]
    head_dim: Optional[int]
    hidden_size: int
    intermediate_size: Optional[int]
    vocabulary_size: int
    tied_embeddings: bool
    mla: Optional[MlaShape]
    sliding: Optional[SlidingShape]
    state: Optional[StateShape]
    vision: Optional[VisionShape]
    parameters: int
    # what one token passes through, both tables counted: of a mixture of experts, or without the vision tower
    active_parameters: Optional[int]
    moe: Optional[MoeShape]
    weights_bytes: Optional[int]  # of the file, where it was read
    context_max_tokens: Optional[int]
    random: bool
    notes: str
    source: str
    aliases: Tuple[str, ...] = ()  # other names that people use for a model of this shape

    @property
    def vision_parameters(self) -> int:
        return 0 if self.vision is None else self.vision.parameters

    @property
    def experts(self) -> bool:
        """Whether a token passes through some of the weights only."""
        return self.moe is not None


@dataclasses.dataclass(frozen=True)
class KeyRow:
    """How an engine is given the key that its clients have to send, without the key in its arguments."""

    how: str  # "file" (a flag names it), "environment" (a variable holds it), "own" (it makes one), "none"
    name: str  # the flag, the variable, or the file that it makes in its working directory
    because: str  # why there is no other way, where somebody may want one
    source: str


@dataclasses.dataclass(frozen=True)
class EngineRow:
    """One engine at one version: what it runs on, what it reads and how it is told."""

    key: str
    engine: str
    version: str
    build: Optional[int]
    pinned: bool
    preference: int  # the order in which "auto" tries
    min_compute_capability: str
    min_driver_branch: Optional[int]
    quantisations: Dict[str, Dict[str, str]]  # format -> quantisation -> least compute capability
    families: Optional[Tuple[str, ...]]  # None: any
    executable: str
    arguments: Tuple[str, ...]
    check_arguments: Tuple[str, ...]  # put last, the engine reads all, refuses wrong ones and ends; none: it cannot
    port: int
    fixed_host: Optional[str]  # where the engine cannot be told to listen elsewhere
    flags: Dict[str, Optional[str]]  # concept -> flag; None: the bare argument
    flags_complete: bool
    abbreviations: bool  # a beginning that only one flag has stands for it
    underscores: bool  # `--max_num_seqs` is `--max-num-seqs`
    equals: bool  # `--port=1` is `--port 1`
    json_keys: bool  # `--config.key value` sets one key of a flag that takes JSON
    size_flags: Tuple[str, ...]  # over how many cards or hosts the engine is spread
    variable_prefixes: Dict[str, bool]  # how its own variables begin -> whether the catalogue has them all
    old_prefixes: Dict[str, str]  # former beginnings -> what the engine rewrites them to
    switches: Tuple[Switch, ...]
    priority_switches: Tuple[Switch, ...]  # has it order its queue by the priority of a request; none: it cannot
    kv_cache: Dict[str, KvCacheFormat]
    environment: Tuple[EnvironmentDefault, ...]
    reads_environment_of: Tuple[str, ...]
    api_key: KeyRow
    health_path: str
    probe_path: str
    probe_body: Dict[str, Any]
    probe_needs: Optional[str]
    stop_timeout_s: int
    stop_because: str
    drain_s: int  # how long its streams are waited for before the signal; 0: it waits for them itself
    busy_metrics: Tuple[str, ...]  # what its /metrics counts as running or waiting; none: it has no such page
    memory_rule: str  # which rule of planner.memory holds
    memory: Dict[str, float]
    notes: str
    source: str
    host_memory: Tuple[HostMemoryFlag, ...] = ()
    overruled_by: Tuple[str, ...] = ()  # files that say other than its arguments; {model}, {cache}: where they lie
    last_compute_capability: Optional[str] = None  # above which its build has no code for the card


@dataclasses.dataclass(frozen=True)
class FlagRow:
    """One command line option of one engine version, with all its spellings."""

    key: str
    engine: str
    version: str
    names: Tuple[str, ...]
    # "real", "renamed", "removed", "placebo" (never was one), "deprecated" (still read), "unchecked" (brings
    # arguments that nobody checked)
    status: str
    replacement: Optional[str]
    takes: str  # "no" value, "one", "optional", "several" (one or more), "any" (none or more)
    type: Optional[str]  # "int", "float", "bool", "size" (1k, 2M), "json", with "|none" or "|auto"; None: any text
    choices: Optional[Tuple[str, ...]]  # None: any, or decided by the engine at run time
    keys: Optional[Tuple[str, ...]]  # of a JSON value, dotted; None: any
    variables: Tuple[str, ...]  # environment variables that say the same
    secret: bool
    source: str


@dataclasses.dataclass(frozen=True)
class VariableRow:
    """One environment variable that an engine version reads, or knows of and does not read."""

    key: str
    engine: str
    version: str
    status: str
    replacement: Optional[str]
    secret: bool
    source: str


@dataclasses.dataclass(frozen=True)
class EnvironmentRow:
    """One environment variable."""

    key: str
    read_by: Tuple[str, ...]
    status: str  # "real", "renamed", "removed", "placebo", "harmful"
    replacement: Optional[str]
    values: Optional[str]
    default: Optional[str]
    secret: bool
    harmful_values: Dict[str, str]  # pattern -> why
    overwritten_by: Dict[str, str]  # engine -> what it writes over the value
    effect: str
    source: str


@dataclasses.dataclass(frozen=True)
class ValueRow:
    """What one value of a flag or variable does, where that is more than its name says.

    `name` is a flag as the engine's flag rows spell it first, or a variable; `pattern` matches its value. No engines
    means every one; `--model` stands for whatever an engine calls its model.
    """

    key: str
    engines: Tuple[str, ...]
    name: str
    pattern: str
    status: str  # "renamed", "placebo", "harmful", "fatal"
    because: str
    replacement: Optional[str]
    source: str


@dataclasses.dataclass(frozen=True)
class UncountedRow:
    """Flags and variables that change memory, speed or what is served in a way that the plan does not compute."""

    key: str
    engine: str
    names: Tuple[str, ...]  # patterns; of a flag with a value one spelling stands for all, a switch is itself
    harmless: Tuple[str, ...]  # patterns of values that change nothing
    because: str  # reads on from the name
    replacement: str
    source: str


@dataclasses.dataclass(frozen=True)
class ChipRow:
    """How fast one card computes, and what its memory is made of. Cards of `gpus.json` stand under the same key."""

    key: str
    names: Tuple[str, ...]  # as people write them
    architecture: str
    compute_capability: str
    sm_count: int
    graphics_clock_mhz: int  # boost
    memory: str  # "gddr", "hbm" or "lpddr"
    inline_ecc: bool  # check bits live in the same memory and are on as delivered
    nvlink: bool
    memory_bandwidth_gb_s: Optional[float]  # None where gpus.json knows it
    # as sold; None where gpus.json knows it, or where cards of this name are sold with several sizes
    memory_label_gb: Optional[float]
    tensor_tflops_16bit: Optional[float]  # dense
    notes: str
    source: str


@dataclasses.dataclass(frozen=True)
class FormatRow:
    """One number format of weights, under the names that people give it."""

    key: str
    names: Tuple[str, ...]
    family: str  # which kernels read it: "16bit", "8bit", "4bit", "3bit", "ternary"
    bits_per_weight: float  # of the linear weights, scales included; of a GGUF file, of all
    embedding_bits: float
    head_bits: float
    notes: str
    source: str
    rest_bits: Optional[float] = None  # of what is no expert, where only experts are that narrow


@dataclasses.dataclass(frozen=True)
class SpeedRow:
    """The decode model of one engine, or of its versions before a change; written by tests.reality.fit_decode."""

    key: str
    names: Tuple[str, ...]  # parts of an engine's name, lower case; none: any engine
    before: Dict[str, str]  # "date", "build" or "version" -> the first one that it no longer holds for
    min_compute_capability: Dict[str, str]  # below it the engine has no code for the card, by first version
    graphs_min_compute_capability: Optional[str]  # below it the engine runs without CUDA graphs
    overhead_us_per_layer: float
    overhead_without_graphs_us_per_layer: float
    weights_per_clock: Dict[str, float]  # family of formats -> weights that one multiprocessor works off per clock
    low_ratio: float
    high_ratio: float
    samples: int
    notes: str
    source: str


@dataclasses.dataclass(frozen=True)
class DecodeRow:
    """One fitted number of the decode model that is the same for all engines."""

    key: str
    value: float
    unit: str
    samples: int
    notes: str
    source: str


@dataclasses.dataclass(frozen=True)
class FormulaRow:
    """One law that the planner computes with."""

    key: str
    statement: str
    source: str
