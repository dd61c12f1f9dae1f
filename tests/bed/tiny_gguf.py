#!/usr/bin/env python3
"""Writes the sandbox's model: a random two-layer llama with a byte-level vocabulary, the same bytes on every run.

Its text is noise, but printable noise of exactly the length asked for, so that a request's token count is known.
It needs PyPI `gguf` and numpy, and says nothing about speed or quality.
"""

import sys
from pathlib import Path

import gguf
import numpy as np

SEED = 0
# Heads of 32: llama.cpp quantises its cache in blocks of 32 and refuses a head that they do not divide.
WIDTH, LAYERS, HEADS, KV_HEADS, FEED_FORWARD, CONTEXT = 64, 2, 2, 1, 128, 32768
# Dimension 0 of every embedding holds this constant and no layer writes to it, so column 0 of the output matrix acts
# as a bias per token: what must never be sampled gets a large negative one, the end of the text included.
LANE = 4.0
NEVER = -40.0
WORDS = (
    "the of and to in is that it for was on are as with be at by this have from or one had not but what all were "
    "when we there can an your which their said if do will each about how up out them then she many some so these "
    "would"
)
SPECIALS = ["<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main() -> None:
    """Write the model to the file named on the command line."""
    target = Path(sys.argv[1])
    fresh = target.with_name(f"{target.name}.new")
    write_model(fresh)
    fresh.replace(target)


def write_model(target: Path) -> None:
    """Write vocabulary and weights to `target`."""
    tokens, merges = vocabulary()
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_name("tiny-random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    write_tokenizer(writer, tokens, merges)
    for name, tensor in weights(tokens).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_tokenizer(writer: gguf.GGUFWriter, tokens: list[str], merges: list[str]) -> None:
    """Add the byte-level BPE tokenizer and the chat template."""
    control = set(SPECIALS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in control else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|bos|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_eot_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens (256 bytes, then word pieces, then specials) and the merges that lead to the pieces."""
    letters = byte_letters()
    tokens, merges = [letters[byte] for byte in range(256)], []
    for word in WORDS.split():
        piece = letters[ord(" ")]
        for letter in word:
            if piece + letter not in tokens:
                merges.append(f"{piece} {letter}")
                tokens.append(piece + letter)
            piece += letter
    return tokens + SPECIALS, merges


def byte_letters() -> dict[int, str]:
    """The printable letter that GPT-2's byte-level BPE writes for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    return letters | {byte: chr(256 + index) for index, byte in enumerate(others)}


def weights(tokens: list[str]) -> dict[str, np.ndarray]:
    """Random tensors by GGUF name; the generator's order of calls is part of the bytes."""
    random = np.random.default_rng(SEED)
    ones = np.ones(WIDTH, np.float32)
    kv_width = WIDTH // HEADS * KV_HEADS

    def normal(rows: int, columns: int, scale: float = 0.08) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    def off_lane(tensor: np.ndarray) -> np.ndarray:
        tensor[0, :] = 0.0
        return tensor

    embedding, output = normal(len(tokens), WIDTH, 1.0), normal(len(tokens), WIDTH, 0.15)
    embedding[:, 0] = LANE
    output[:, 0] = [0.0 if readable(index, len(tokens)) else NEVER for index in range(len(tokens))]
    tensors = {"token_embd.weight": embedding, "output_norm.weight": ones, "output.weight": output}
    for layer in range(LAYERS):
        block = {
            "attn_norm": ones,
            "attn_q": normal(WIDTH, WIDTH),
            "attn_k": normal(kv_width, WIDTH),
            "attn_v": normal(kv_width, WIDTH),
            "attn_output": off_lane(normal(WIDTH, WIDTH)),
            "ffn_norm": ones,
            "ffn_gate": normal(FEED_FORWARD, WIDTH),
            "ffn_up": normal(FEED_FORWARD, WIDTH),
            "ffn_down": off_lane(normal(WIDTH, FEED_FORWARD)),
        }
        tensors |= {f"blk.{layer}.{name}.weight": tensor for name, tensor in block.items()}
    return tensors


def readable(token: int, count: int) -> bool:
    """Whether the token may be sampled: a small letter, blank, comma, full stop or word piece, never a special."""
    if token < 256:
        return ord("a") <= token <= ord("z") or token in b" ,."
    return token < count - len(SPECIALS)


if __name__ == "__main__":
    main()
