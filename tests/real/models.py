"""Small models with random weights, and sound to transcribe. The files are the same in every run.

The output of these models is noise, but servers load, use and free them like real models. The context size determines
how much memory a llama-server holds: see ``context_for``.
"""

from __future__ import annotations

import random
import struct
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np

SEED = 24
WIDTH = 64
LAYERS = 2
HEADS = 4
FEED_FORWARD = 128
LONGEST_CONTEXT = 1 << 20

BYTES_PER_TOKEN = 2 * LAYERS * WIDTH * 2
"""Size of the keys and values of all layers, two bytes per number."""

UNKNOWN, CONTROL, BYTE = 2, 3, 6
"""Types of tokens in a GGUF file."""

VOCABULARY = 51864
"""Tokens of an English model. whisper.cpp uses fixed numbers for its special tokens, so a model cannot have fewer."""

SAMPLE_RATE = 16000


def context_for(mib: int) -> int:
    """Return the context size, in tokens, that occupies this many MiB with the model of ``write_llama``."""
    return mib * (1 << 20) // BYTES_PER_TOKEN


def write_llama(path: Path) -> None:
    """Write a model with the llama architecture in GGUF, about 480 KB."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(LONGEST_CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    numbers = np.random.default_rng(SEED)
    for name, shape in _llama_tensors(len(tokens)):
        writer.add_tensor(name, _weights(numbers, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _llama_tensors(tokens: int) -> list[tuple[str, tuple[int, ...]]]:
    tensors: list[tuple[str, tuple[int, ...]]] = [
        ("token_embd.weight", (tokens, WIDTH)),
        ("output_norm.weight", (WIDTH,)),
        ("output.weight", (tokens, WIDTH)),
    ]
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        tensors += [(f"{block}.{norm}_norm.weight", (WIDTH,)) for norm in ("attn", "ffn")]
        tensors += [(f"{block}.attn_{part}.weight", (WIDTH, WIDTH)) for part in ("q", "k", "v", "output")]
        tensors += [(f"{block}.ffn_{part}.weight", (FEED_FORWARD, WIDTH)) for part in ("gate", "up")]
        tensors.append((f"{block}.ffn_down.weight", (WIDTH, FEED_FORWARD)))
    return tensors


def write_whisper(path: Path, width: int = 32) -> None:
    """Write a model for whisper.cpp in ggml, its own format. It has about 4 MB because of the vocabulary."""
    audio_context, text_context, heads, layers, mels, half_floats = 1500, 448, 2, 1, 80, 1
    numbers = np.random.default_rng(SEED)
    sizes = (VOCABULARY, audio_context, width, heads, layers, text_context, width, heads, layers, mels, half_floats)
    bins = 201
    with path.open("wb") as file:
        file.write(struct.pack("<I11i2i", 0x67676D6C, *sizes, mels, bins))
        file.write(numbers.random((mels, bins), dtype=np.float32).tobytes())
        words = [bytes([byte]) for byte in range(256)]
        file.write(struct.pack("<i", len(words)) + b"".join(struct.pack("<I", len(word)) + word for word in words))
        for name, shape, half in _whisper_tensors(width, audio_context, text_context, mels):
            _write_tensor(file, name, _weights(numbers, shape), half=half)


def _whisper_tensors(width: int, audio: int, text: int, mels: int) -> list[tuple[str, tuple[int, ...], bool]]:
    tensors: list[tuple[str, tuple[int, ...], bool]] = [
        ("encoder.positional_embedding", (audio, width), False),
        ("encoder.conv1.weight", (width, mels, 3), True),
        ("encoder.conv1.bias", (width, 1), False),
        ("encoder.conv2.weight", (width, width, 3), True),
        ("encoder.conv2.bias", (width, 1), False),
        *_norm("encoder.ln_post", width),
        ("decoder.positional_embedding", (text, width), False),
        ("decoder.token_embedding.weight", (VOCABULARY, width), True),
        *_norm("decoder.ln", width),
    ]
    for side, attentions in (("encoder", ("attn",)), ("decoder", ("attn", "cross_attn"))):
        block = f"{side}.blocks.0"
        for attention in attentions:
            tensors += _norm(f"{block}.{attention}_ln", width)
            tensors += [
                tensor
                for part in ("query", "key", "value", "out")
                for tensor in _linear(f"{block}.{attention}.{part}", width, width, bias=part != "key")
            ]
        tensors += _norm(f"{block}.mlp_ln", width)
        tensors += [*_linear(f"{block}.mlp.0", 4 * width, width), *_linear(f"{block}.mlp.2", width, 4 * width)]
    return tensors


def _norm(name: str, width: int) -> list[tuple[str, tuple[int, ...], bool]]:
    return [(f"{name}.weight", (width,), False), (f"{name}.bias", (width,), False)]


def _linear(name: str, outputs: int, inputs: int, *, bias: bool = True) -> list[tuple[str, tuple[int, ...], bool]]:
    return [(f"{name}.weight", (outputs, inputs), True), *([(f"{name}.bias", (outputs,), False)] if bias else [])]


def _weights(numbers: np.random.Generator, shape: Sequence[int]) -> Any:
    return numbers.standard_normal(shape, dtype=np.float32) * np.float32(0.05)


def _write_tensor(file: BinaryIO, name: str, data: Any, *, half: bool) -> None:
    """Write one tensor in the order of whisper.cpp: dimensions, innermost first, then name and values."""
    encoded = name.encode()
    file.write(struct.pack("<3i", data.ndim, len(encoded), int(half)))
    file.write(struct.pack(f"<{data.ndim}i", *reversed(data.shape)) + encoded)
    file.write(data.astype(np.float16 if half else np.float32).tobytes())


def write_noise(path: Path, seconds: int) -> None:
    """Write a wave file of white noise with this length."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(random.Random(SEED).randbytes(2 * SAMPLE_RATE * seconds))
