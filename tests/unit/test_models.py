"""Checkpoints read from their headers: the catalogue's own shapes, sizes from bytes, and files that lie."""

import dataclasses
import json
import struct

import gguf
import numpy as np
import pytest

from inferhost.cli import main
from inferhost.models import gguf as reader
from inferhost.models import read_model
from inferhost.models.bounds import UnreadableModel
from inferhost.models.config import read_shape
from tests.bed.tiny_gguf import write_model
from tests.unit.planner_wishes import CATALOGUE

# Fields of the public config.json that the reader looks at, as they stand in public repositories.
CONFIGS = {
    "llama-3.1-8b-instruct": {
        "model_type": "llama",
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe",
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
    "deepseek-r1": {
        "model_type": "deepseek_v3",
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "first_k_dense_replace": 3,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "vocab_size": 129280,
        "max_position_embeddings": 163840,
        "tie_word_embeddings": False,
    },
    "mistral-7b-v0.1": {
        "model_type": "mistral",
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "sliding_window": 4096,
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    },
    "gemma-3-27b-it": {
        "model_type": "gemma3",
        "vision_config": {"model_type": "siglip_vision_model"},
        "text_config": {
            "model_type": "gemma3_text",
            "num_hidden_layers": 62,
            "num_attention_heads": 32,
            "num_key_value_heads": 16,
            "head_dim": 128,
            "hidden_size": 5376,
            "intermediate_size": 21504,
            "sliding_window": 1024,
            "sliding_window_pattern": 6,
            "vocab_size": 262208,
            "max_position_embeddings": 131072,
        },
    },
    "qwen3.6-27b": {
        "model_type": "qwen3_5",
        "vision_config": {"depth": 27, "hidden_size": 1152},
        "text_config": {
            "model_type": "qwen3_5_text",
            "num_hidden_layers": 64,
            "full_attention_interval": 4,
            "num_attention_heads": 24,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "hidden_size": 5120,
            "intermediate_size": 17408,
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 128,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 48,
            "linear_value_head_dim": 128,
            "max_position_embeddings": 262144,
            "vocab_size": 248320,
            "tie_word_embeddings": False,
        },
    },
}
SHAPE = (
    *("attention", "layers", "kv_layers", "kv_heads", "query_heads", "head_dim", "hidden_size"),
    *("intermediate_size", "vocabulary_size", "tied_embeddings", "mla", "sliding", "state", "moe"),
)


@pytest.mark.parametrize("key", CONFIGS)
def test_reader_and_catalogue_agree_on_the_shape(key):
    shape, row = read_shape(CONFIGS[key]), CATALOGUE.models[key]
    assert {name: getattr(shape, name) for name in SHAPE} == {name: getattr(row, name) for name in SHAPE}


@pytest.mark.parametrize("key", CONFIGS)
def test_weights_counted_from_the_shape_are_those_of_the_catalogue(key):
    shape, row = read_shape(CONFIGS[key]), CATALOGUE.models[key]
    text = row.parameters - row.vision_parameters
    # Norms, routers, biases and the catalogue's rounding to a million; gemma's own figure leaves its tower out.
    assert shape.linear_parameters() + shape.table_parameters() == pytest.approx(text, rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "rwkv"}, "config.json: model_type: found 'rwkv', wanted one of cohere, "),
        ({"num_hidden_layers": None}, "config.json: num_hidden_layers: is missing"),
        (
            {"num_hidden_layers": 10**9},
            "config.json: num_hidden_layers: found '1000000000', wanted a number up to 10000",
        ),
        ({"hidden_size": "big"}, "config.json: hidden_size: found 'big', wanted a number up to"),
        ({"hidden_size": True}, "config.json: hidden_size: found 'True', wanted a number up to"),
        ({"index_topk": 2048}, "config.json: index_topk: changes the cache in a way that is not understood"),
        (
            {"num_attention_heads": 0},
            "config.json: num_hidden_layers, num_attention_heads and hidden_size: wanted above 0",
        ),
    ],
)
def test_a_configuration_that_is_not_understood_is_refused_by_its_key(change, message):
    with pytest.raises(UnreadableModel) as refused:
        read_shape({**CONFIGS["llama-3.1-8b-instruct"], **change})
    assert str(refused.value).startswith(message)


def tensors(**parts):
    """A safetensors file's bytes from name=(dtype, shape, bytes)."""
    header, at = {}, 0
    for name, (kind, shape, count) in parts.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + count]}
        at += count
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(at)


def checkpoint(folder, config, **files):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / f"{name}.safetensors").write_bytes(content)
    return folder


SMALL = {**CONFIGS["llama-3.1-8b-instruct"], "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100}


def test_sizes_come_from_the_bytes_and_not_from_the_names(tmp_path):
    two = tensors(a=("BF16", [64, 100], 12800), lm_head=("BF16", [10, 10], 200))
    row = read_model(checkpoint(tmp_path / "Small", SMALL, one=two, two=tensors(b=("F32", [100], 400))))
    assert (row.weights_bytes, row.parameters, row.quantisation) == (13400, 6600, "none")
    assert (row.key, row.head_dim, row.kv_heads, row.layers) == ("small", 16, 2, 2)


def test_the_bits_of_a_quantised_checkpoint_leave_its_16_bit_embeddings_out(tmp_path):
    shape = read_shape(SMALL)
    packed = shape.linear_parameters() // 2  # 4 bits a weight
    parts = {"w": ("U8", [packed], packed), "e": ("F16", [2, 6400], 25600)}
    config = {**SMALL, "quantization_config": {"quant_method": "awq", "bits": 4}}
    row = read_model(checkpoint(tmp_path / "Small-AWQ", config, model=tensors(**parts)))
    assert (row.quantisation, row.linear_bits, row.weights_bytes) == ("awq", 4.0, packed + 25600)


BAD_TENSORS = {
    "cut short": (struct.pack("<Q", 1000) + b"{}", "is cut short: 1000 bytes are announced, 2 are left"),
    "absurd length": (struct.pack("<Q", 2**62), "announces 4611686018427387904 bytes of header"),
    "no json": (struct.pack("<Q", 2) + b"[}", "its header is no JSON"),
    "no object": (struct.pack("<Q", 2) + b"[]", "its header is no JSON object"),
    "outside": (tensors(a=("F32", [100], 400))[:-1], "lie outside the file of 399 bytes"),
    "wrong shape": (tensors(a=("F32", [99], 400)), "its shape [99] does not fill its 400 bytes"),
    "negative": (tensors(a=("F32", [-100, -1], 400)), "its shape [-100, -1] does not fill its 400 bytes"),
    "unknown type": (tensors(a=("F7", [1], 1)), "found dtype 'F7'"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_a_safetensors_header_that_lies_is_refused(tmp_path, name):
    content, message = BAD_TENSORS[name]
    with pytest.raises(UnreadableModel) as refused:
        read_model(checkpoint(tmp_path / "bad", SMALL, model=content))
    assert "model.safetensors" in str(refused.value)
    assert message in str(refused.value)


def test_the_sandboxs_gguf_is_read_as_the_catalogue_has_it(tmp_path):
    path = tmp_path / "tiny-random.gguf"
    write_model(path)
    row, known = read_model(path), CATALOGUE.models["tiny-random"]
    names = [*SHAPE, "quantisation", "context_max_tokens", "parameters", "linear_bits"]
    assert {n: getattr(row, n) for n in names} == {n: getattr(known, n) for n in names}
    assert row.weights_bytes == 4 * row.parameters


def mla_gguf(path):
    """A GGUF file of the DeepSeek architecture with one tensor."""
    writer = gguf.GGUFWriter(path, "deepseek2")
    numbers = {"block_count": 61, "attention.head_count": 128, "attention.head_count_kv": 1, "embedding_length": 7168}
    numbers |= {"attention.kv_lora_rank": 512, "attention.q_lora_rank": 1536, "rope.dimension_count": 64}
    numbers |= {"attention.key_length_mla": 192, "attention.value_length_mla": 128, "feed_forward_length": 18432}
    numbers |= {"expert_count": 256, "expert_used_count": 8, "expert_shared_count": 1, "leading_dense_block_count": 3}
    numbers |= {"expert_feed_forward_length": 2048, "vocab_size": 129280, "context_length": 163840}
    for name, value in numbers.items():
        writer.add_uint32(f"deepseek2.{name}", value)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_tensor("output.weight", np.zeros((2, 34), dtype=np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_compressed_attention_in_a_gguf_is_the_catalogues_shape(tmp_path):
    mla_gguf(tmp_path / "r1.gguf")
    row, known = read_model(tmp_path / "r1.gguf"), CATALOGUE.models["deepseek-r1"]
    assert {name: getattr(row, name) for name in SHAPE} == {name: getattr(known, name) for name in SHAPE}
    assert (row.weights_bytes, row.parameters, row.linear_bits) == (68, 64, 8.5)


@pytest.mark.parametrize("length", range(0, 3000, 37))
def test_a_gguf_cut_anywhere_in_its_header_is_refused_and_named(tmp_path, length):
    path = tmp_path / "cut.gguf"
    write_model(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UnreadableModel, match=r"cut\.gguf: is"):
        read_model(path)


def test_the_types_of_gguf_are_those_of_the_library():
    for number, (name, elements, count) in reader.TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name.lower(), gguf.GGML_QUANT_SIZES[kind]) == (name, (elements, count))
    for number, name in reader.FILE_TYPES.items():
        found = gguf.LlamaFileType(number).name.lower()
        assert found.removeprefix("mostly_").removeprefix("all_") == name


def test_absurd_counts_are_refused_before_anything_is_made_of_them(tmp_path):
    path = tmp_path / "liar.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**63, 1))
    with pytest.raises(UnreadableModel, match="announces 9223372036854775808 tensors, more than the"):
        read_model(path)


def test_the_command_prints_a_row_that_the_catalogue_takes(tmp_path, capsys):
    checkpoint(tmp_path / "Small", SMALL, model=tensors(a=("BF16", [64, 100], 12800)))
    assert main(["model", str(tmp_path / "Small")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {field.name for field in dataclasses.fields(CATALOGUE.models["qwen3-8b"])}
    assert main(["model", str(tmp_path)]) == 2
    assert "has no config.json" in capsys.readouterr().err
    assert main(["model", str(tmp_path / "none.gguf")]) == 2
    assert "is not there\nhint: a folder with config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("README.md", b"# read me", "README.md: is no checkpoint\nhint: a folder with config.json and safetensors"),
        ("empty.gguf", b"", "empty.gguf: is empty\nhint: copy or download the file again: it is not whole"),
        ("cut.gguf", b"GGUF", "cut.gguf: is cut short: 4 bytes are announced, 0 are left\nhint: copy or download"),
    ],
)
def test_the_command_names_a_file_once_and_says_what_would_work(name, content, said, tmp_path, capsys):
    path = tmp_path / name
    path.write_bytes(content)
    assert main(["model", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/{said}")
