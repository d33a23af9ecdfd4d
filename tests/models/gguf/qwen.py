"""Small Qwens and SmolLM3s in GGUF files as llama.cpp's converter writes them, by its ``gguf`` package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from . import tiny

WIDTH, HEADS, KEY_HEADS, INNER, CONTEXT = 64, 4, 2, 96, 96
HEAD_DIM = {"qwen2": 16, "qwen3": 32, "smollm3": 16}
LAYERS = {"qwen2": 2, "qwen3": 2, "smollm3": 5}  # the fourth has no positions
IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 8, 9, 7, 9, 32, 3]


def write_qwen(path: Path, architecture: str, *, tied: bool, kind: Kind = Kind.F32) -> Path:
    """A network with random weights; its matrices in ``kind``, all else in float32."""
    tokens = json.loads((tiny.GOLDENS / "tiny_bpe.json").read_text(encoding="utf-8"))
    specials = [number for _, number in tiny.BPE_SPECIALS]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS[architecture])
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-3)
    writer.add_rope_freq_base(5000.0)
    writer.add_rope_dimension_count(HEAD_DIM[architecture])
    if architecture == "qwen3":
        writer.add_key_length(HEAD_DIM[architecture])
        writer.add_value_length(HEAD_DIM[architecture])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens["tokens"])
    writer.add_token_types([*specials, *[1] * (len(tokens["tokens"]) - len(specials))])
    writer.add_token_merges(tokens["merges"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    for name, weight in weights(architecture, len(tokens["tokens"]), tied).items():
        stored = kind if weight.ndim == 2 else Kind.F32
        writer.add_tensor(name, gguf.quants.quantize(weight, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weights(architecture: str, vocabulary: int, tied: bool) -> dict[str, NDArray[np.float32]]:
    """By their names there; rows of queries and keys as PyTorch has them, but for a SmolLM3, which is a Llama there."""
    random = np.random.default_rng(len(architecture) + tied)
    queries, keys = (heads * HEAD_DIM[architecture] for heads in (HEADS, KEY_HEADS))
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(LAYERS[architecture]):
        of_layer: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (WIDTH,), "attn_q.weight": (queries, WIDTH), "attn_k.weight": (keys, WIDTH),
            "attn_v.weight": (keys, WIDTH), "attn_output.weight": (WIDTH, queries), "ffn_norm.weight": (WIDTH,),
            "ffn_gate.weight": (INNER, WIDTH), "ffn_up.weight": (INNER, WIDTH), "ffn_down.weight": (WIDTH, INNER),
        }  # fmt: skip
        if architecture == "qwen2":
            of_layer |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
        elif architecture == "qwen3":
            of_layer |= {f"attn_{part}_norm.weight": (HEAD_DIM[architecture],) for part in "qk"}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in of_layer.items()}
    if not tied:
        shapes["output.weight"] = (vocabulary, WIDTH)
    found: dict[str, Any] = {}
    for name, shape in shapes.items():
        wave = random.normal(scale=0.3, size=shape).astype(np.float32)
        heads = {"attn_q": HEADS, "attn_k": KEY_HEADS}.get(name.split(".")[-2])
        turned = tiny.permuted(wave, heads) if heads and architecture == "smollm3" else wave
        found[name] = turned + 1 if "norm" in name else turned
    return found
