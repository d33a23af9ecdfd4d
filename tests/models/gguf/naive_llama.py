"""A Llama's forward pass in NumPy, written to be obviously right: an oracle of the tests, not of the package."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgewise.models.gguf.llama import LlamaParameters

Floats = NDArray[np.float32]


def forward(tensors: dict[str, Floats], p: LlamaParameters, ids: list[int]) -> Floats:
    """Logits ``(T, V)`` of every position; positions rotate in halves."""
    angles = _angles(p, len(ids))
    x = tensors["token_embd.weight"][ids]
    for layer in range(p["n_layers"]):
        w = {part: tensors[f"blk.{layer}.{part}.weight"] for part in (
            "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down",
        )}  # fmt: skip
        h = _norm(x, w["attn_norm"], p["norm_epsilon"])
        q = _rotate(_heads(h @ w["attn_q"].T, p["n_heads"]), angles)
        k = _rotate(_heads(h @ w["attn_k"].T, p["n_kv_heads"]), angles)
        v = _heads(h @ w["attn_v"].T, p["n_kv_heads"])
        x = x + _attention(q, k, v) @ w["attn_output"].T
        h = _norm(x, w["ffn_norm"], p["norm_epsilon"])
        gate = h @ w["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
    output = tensors["token_embd.weight" if p["tied"] else "output.weight"]
    return _norm(x, tensors["output_norm.weight"], p["norm_epsilon"]) @ output.T


def _norm(x: Floats, weight: Floats, epsilon: float) -> Floats:
    scale: Floats = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(epsilon))
    return scale * weight


def _heads(x: Floats, count: int) -> Floats:
    return x.reshape(len(x), count, -1).swapaxes(0, 1)  # (T, H * Dh) -> (H, T, Dh)


def _angles(p: LlamaParameters, count: int) -> NDArray[np.float64]:
    frequencies = p["rope_theta"] ** (-np.arange(0, p["head_dim"], 2) / p["head_dim"])
    frequencies = frequencies / (p["rope_factors"] or 1.0)
    return np.arange(count)[:, None] / p["rope_scale"] * frequencies  # (T, Dh / 2)


def _rotate(x: Floats, angles: NDArray[np.float64]) -> Floats:
    first, second = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _attention(q: Floats, k: Floats, v: Floats) -> Floats:
    """Causal; each key head serves several query heads, neighbours. ``(H, T, Dh) -> (T, H * Dh)``."""
    k, v = (np.repeat(x, len(q) // len(x), axis=0) for x in (k, v))
    scores = q @ k.swapaxes(1, 2) / np.float32(np.sqrt(q.shape[-1]))
    scores = np.where(np.tri(q.shape[1], dtype=bool), scores, np.float32(-np.inf))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = weights / weights.sum(axis=-1, keepdims=True) @ v
    return mixed.swapaxes(0, 1).reshape(q.shape[1], -1)
