"""Tiny GGUF files, in bytes: vocabularies in two kinds, and a Llama whose weights are a formula."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import gguf_bytes as raw
from . import lines

GOLDENS = Path(__file__).parent / "goldens"
# Special tokens of the tiny vocabularies, and their types: 2 unknown, 3 control, 4 user-defined.
BPE_SPECIALS = [("<|endoftext|>", 3), ("<|im_start|>", 3), ("<|im_end|>", 3), ("<tool>", 4)]
SPM_SPECIALS = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("<tool>", 4)]

LLAMA = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_ff": 48, "vocab_size": 40}
EPSILON, THETA = 1e-5, 5000.0


def made_lines() -> list[str]:
    """What the tiny vocabularies are compared on."""
    return [*lines.WRITTEN, *lines.runs(40), *lines.mixed(1000), *lines.code_points(0x3100, 16)]


def bpe_pairs(pre_tokenizer: str) -> list[bytes]:
    """Metadata of the byte-level vocabulary, split as ``pre_tokenizer`` says."""
    data = json.loads((GOLDENS / "tiny_bpe.json").read_text(encoding="utf-8"))
    types = [kind for _, kind in BPE_SPECIALS] + [1] * (len(data["tokens"]) - len(BPE_SPECIALS))
    return [
        raw.pair("general.architecture", raw.STRING, "llama"),
        raw.pair("tokenizer.ggml.model", raw.STRING, "gpt2"),
        raw.pair("tokenizer.ggml.pre", raw.STRING, pre_tokenizer),
        raw.pair("tokenizer.ggml.tokens", raw.ARRAY, (raw.STRING, data["tokens"])),
        raw.pair("tokenizer.ggml.token_type", raw.ARRAY, (raw.I32, types)),
        raw.pair("tokenizer.ggml.merges", raw.ARRAY, (raw.STRING, data["merges"])),
        raw.pair("tokenizer.ggml.bos_token_id", raw.U32, 1),
        raw.pair("tokenizer.ggml.eos_token_id", raw.U32, 2),
    ]


def spm_pairs(*, adds_space: bool = True) -> list[bytes]:
    """Metadata of the SentencePiece vocabulary."""
    tokens = json.loads((GOLDENS / "tiny_spm.json").read_text(encoding="utf-8"))["tokens"]
    n_specials, n_bytes = len(SPM_SPECIALS), 256
    types = [kind for _, kind in SPM_SPECIALS] + [6] * n_bytes + [1] * (len(tokens) - n_specials - n_bytes)
    scores = [0.0] * (n_specials + n_bytes) + [-float(rank) for rank in range(len(tokens) - n_specials - n_bytes)]
    return [
        raw.pair("general.architecture", raw.STRING, "llama"),
        raw.pair("tokenizer.ggml.model", raw.STRING, "llama"),
        raw.pair("tokenizer.ggml.tokens", raw.ARRAY, (raw.STRING, tokens)),
        raw.pair("tokenizer.ggml.token_type", raw.ARRAY, (raw.I32, types)),
        raw.pair("tokenizer.ggml.scores", raw.ARRAY, (raw.F32, scores)),
        raw.pair("tokenizer.ggml.add_space_prefix", raw.BOOL, adds_space),
    ]


def llama_pairs(**change: Any) -> list[bytes]:
    """Metadata of the tiny Llama, without a tokenizer; a ``change`` of ``None`` leaves a key out."""
    values: dict[str, tuple[int, Any]] = {
        "general.architecture": (raw.STRING, "llama"),
        "llama.block_count": (raw.U32, LLAMA["n_layers"]),
        "llama.context_length": (raw.U32, 64),
        "llama.embedding_length": (raw.U32, LLAMA["d_model"]),
        "llama.feed_forward_length": (raw.U32, LLAMA["d_ff"]),
        "llama.attention.head_count": (raw.U32, LLAMA["n_heads"]),
        "llama.attention.head_count_kv": (raw.U32, LLAMA["n_kv_heads"]),
        "llama.attention.layer_norm_rms_epsilon": (raw.F32, EPSILON),
        "llama.rope.freq_base": (raw.F32, THETA),
        "llama.rope.dimension_count": (raw.U32, LLAMA["head_dim"]),
        "llama.vocab_size": (raw.U32, LLAMA["vocab_size"]),
        "tokenizer.ggml.model": (raw.STRING, "none"),
    } | change
    return [raw.pair(key, *item) for key, item in values.items() if item is not None]


def llama_weights(*, tied: bool = False, factors: bool = False) -> dict[str, NDArray[np.float32]]:
    """Weights in the order of rows of PyTorch code, by their GGUF names: ``sin`` of a counter, norms near 1."""
    width, queries = LLAMA["d_model"], LLAMA["n_heads"] * LLAMA["head_dim"]
    keys, d_ff = LLAMA["n_kv_heads"] * LLAMA["head_dim"], LLAMA["d_ff"]
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (LLAMA["vocab_size"], width)}
    for layer in range(LLAMA["n_layers"]):
        of_layer: dict[str, tuple[int, ...]] = {
            "attn_norm": (width,), "attn_q": (queries, width), "attn_k": (keys, width), "attn_v": (keys, width),
            "attn_output": (width, queries), "ffn_norm": (width,), "ffn_gate": (d_ff, width), "ffn_up": (d_ff, width),
            "ffn_down": (width, d_ff),
        }  # fmt: skip
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in of_layer.items()}
    shapes["output_norm.weight"] = (width,)
    if not tied:
        shapes["output.weight"] = (LLAMA["vocab_size"], width)
    weights, start = {}, 1.0
    for name, shape in shapes.items():
        count = math.prod(shape)
        wave = np.sin(np.arange(start, start + count, dtype=np.float64) * 1.7).reshape(shape)
        weights[name] = (1 + 0.3 * wave if "norm" in name else 0.4 * wave).astype(np.float32)
        start += count
    if factors:
        weights["rope_freqs.weight"] = np.array([1, 1.5, 4, 8], np.float32)
    return weights


def permuted(weight: NDArray[np.float32], n_heads: int) -> NDArray[np.float32]:
    """What llama.cpp's converter does to queries and keys."""
    halves = weight.reshape(n_heads, 2, weight.shape[0] // n_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def llama_bytes(weights: dict[str, NDArray[np.float32]], pairs: list[bytes] | None = None) -> bytes:
    """A file with ``weights``, queries and keys permuted, all in float32."""
    infos, data = [], b""
    for name, weight in weights.items():
        heads = {"attn_q": LLAMA["n_heads"], "attn_k": LLAMA["n_kv_heads"]}.get(name.split(".")[-2])
        stored = permuted(weight, heads) if heads else weight
        infos.append(raw.tensor_info(name, list(weight.shape[::-1]), 0, len(data)))
        data += stored.astype("<f4").tobytes()
        data += b"\0" * (-len(data) % 32)
    return raw.file(llama_pairs() if pairs is None else pairs, infos, data)
