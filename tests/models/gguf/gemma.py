"""Small Gemmas and GPT-2s in GGUF files as llama.cpp's converter writes them, by its ``gguf`` package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from . import tiny

WIDTH, HEADS, KEY_HEADS, HEAD_DIM, INNER, CONTEXT = 64, 4, 2, 32, 96, 96
LAYERS = {"gemma2": 3, "gemma3": 7, "gpt2": 2, "phi3": 2}  # the second, the sixth, see all
WINDOW = 5
IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 8, 9, 7, 9, 32, 3]


def write_gemma(
    path: Path, architecture: str, *, kind: Kind = Kind.F32, tied: bool = True, std: float = 0.3, **change: Any
) -> Path:
    """A network with random weights; its matrices in ``kind``, all else in float32.

    ``change`` sets metadata under the architecture's name (``__`` for a dot).
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS[architecture])
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    if architecture == "gpt2":
        writer.add_layer_norm_eps(1e-3)
        vocabulary = _byte_level(writer)
    elif architecture == "phi3":
        writer.add_head_count_kv(KEY_HEADS)
        writer.add_layer_norm_rms_eps(1e-3)
        writer.add_rope_freq_base(5000.0)
        writer.add_rope_dimension_count(12)
        vocabulary = _sentencepiece(writer)
    else:
        _metadata_of_gemma(writer, architecture)
        vocabulary = _sentencepiece(writer)
    for key, value in change.items():
        name = f"{architecture}.{key.replace('__', '.')}"
        writer.add_key_value(name, value, gguf.GGUFValueType.get_type(value))
    for name, weight in weights(architecture, vocabulary, tied, std).items():
        stored = kind if weight.ndim == 2 and name != "position_embd.weight" else Kind.F32
        writer.add_tensor(name, gguf.quants.quantize(weight, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata_of_gemma(writer: gguf.GGUFWriter, architecture: str) -> None:
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-3)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_sliding_window(WINDOW)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(3.0)
        writer.add_final_logit_softcapping(6.0)
    else:
        writer.add_rope_freq_base(5000.0)
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)


def _byte_level(writer: gguf.GGUFWriter) -> int:
    tokens = json.loads((tiny.GOLDENS / "tiny_bpe.json").read_text(encoding="utf-8"))
    specials = [number for _, number in tiny.BPE_SPECIALS]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens["tokens"])
    writer.add_token_types([*specials, *[1] * (len(tokens["tokens"]) - len(specials))])
    writer.add_token_merges(tokens["merges"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    return len(tokens["tokens"])


def _sentencepiece(writer: gguf.GGUFWriter) -> int:
    tokens = json.loads((tiny.GOLDENS / "tiny_spm.json").read_text(encoding="utf-8"))["tokens"]
    specials = [number for _, number in tiny.SPM_SPECIALS]
    rest = len(tokens) - len(specials) - 256
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([*specials, *[6] * 256, *[1] * rest])
    writer.add_token_scores([0.0] * (len(specials) + 256) + [-float(i) for i in range(rest)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    return len(tokens)


def shapes(architecture: str, vocabulary: int, tied: bool) -> dict[str, tuple[int, ...]]:
    """By their names there."""
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, WIDTH), "output_norm.weight": (WIDTH,)}
    if architecture == "gpt2":
        found |= {"position_embd.weight": (CONTEXT, WIDTH), "output_norm.bias": (WIDTH,)}
    for layer in range(LAYERS[architecture]):
        of_layer = {"gpt2": _of_gpt2, "phi3": _of_phi3}.get(architecture, lambda: _of_gemma(architecture))()
        found |= {f"blk.{layer}.{name}": shape for name, shape in of_layer.items()}
    return found if tied else {**found, "output.weight": (vocabulary, WIDTH)}


def _of_gpt2() -> dict[str, tuple[int, ...]]:
    parts: dict[str, tuple[int, ...]] = {
        "attn_norm": (WIDTH,), "attn_qkv": (3 * WIDTH, WIDTH), "attn_output": (WIDTH, WIDTH), "ffn_norm": (WIDTH,),
        "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER),
    }  # fmt: skip
    biases = {f"{name}.bias": shape[:1] for name, shape in parts.items()}
    return {f"{name}.weight": shape for name, shape in parts.items()} | biases


def _of_phi3() -> dict[str, tuple[int, ...]]:
    fused = WIDTH + 2 * (WIDTH // HEADS) * KEY_HEADS
    parts: dict[str, tuple[int, ...]] = {
        "attn_norm": (WIDTH,), "attn_qkv": (fused, WIDTH), "attn_output": (WIDTH, WIDTH), "ffn_norm": (WIDTH,),
        "ffn_up": (2 * INNER, WIDTH), "ffn_down": (WIDTH, INNER),
    }  # fmt: skip
    return {f"{name}.weight": shape for name, shape in parts.items()}


def _of_gemma(architecture: str) -> dict[str, tuple[int, ...]]:
    queries, keys = (heads * HEAD_DIM for heads in (HEADS, KEY_HEADS))
    parts: dict[str, tuple[int, ...]] = {
        "attn_norm": (WIDTH,), "attn_q": (queries, WIDTH), "attn_k": (keys, WIDTH), "attn_v": (keys, WIDTH),
        "attn_output": (WIDTH, queries), "post_attention_norm": (WIDTH,), "ffn_norm": (WIDTH,),
        "ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER), "post_ffw_norm": (WIDTH,),
    }  # fmt: skip
    if architecture == "gemma3":
        parts |= {"attn_q_norm": (HEAD_DIM,), "attn_k_norm": (HEAD_DIM,)}
    return {f"{name}.weight": shape for name, shape in parts.items()}


def weights(architecture: str, vocabulary: int, tied: bool, std: float = 0.3) -> dict[str, NDArray[np.float32]]:
    """Random; what norms multiply by is near 1, as the file holds it."""
    random = np.random.default_rng(len(architecture) + LAYERS[architecture] + tied)
    found: dict[str, Any] = {}
    for name, shape in shapes(architecture, vocabulary, tied).items():
        wave = random.normal(scale=std, size=shape).astype(np.float32)
        found[name] = wave + 1 if name.endswith("norm.weight") else wave
    return found
