"""Marian's transformer written out in NumPy from ``src/models/transformer.h``, float64, one sentence, no cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...families.folders import byte_level

Array = NDArray[np.float64]
WIDTH, INNER, HEADS, ENCODER, DECODER, END = 32, 40, 4, 2, 3, 0
SETTINGS = f"""bert-train-type-embeddings: true
dec-cell: gru
dec-depth: {DECODER}
dim-emb: {WIDTH}
dim-vocabs:
  - 300
  - 300
enc-depth: {ENCODER}
lemma-dim-emb: 0
tied-embeddings-all: true
transformer-decoder-autoreg: self-attention
transformer-dim-ffn: {INNER}
transformer-dropout: 0.1
transformer-ffn-activation: swish
transformer-ffn-depth: 2
transformer-heads: {HEADS}
transformer-no-projection: false
transformer-postprocess: dan
transformer-postprocess-emb: d
transformer-preprocess: ""
transformer-tied-layers:
  []
type: transformer
ulr: false
version: v1.12.0
"""
PRE_NORM = {'transformer-preprocess: ""': "transformer-preprocess: n", "postprocess: dan": "postprocess: da"}


def changed(text: str, changes: dict[str, str]) -> str:
    """``text`` with every key of ``changes`` replaced; each must be there."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def arrays(settings: str, seed: int = 0) -> dict[str, Any]:
    """Random numbers under Marian's names, as its file holds them."""
    random = np.random.default_rng(seed)
    vocabulary = byte_level(starts=False).get_vocab_size()
    end = "_pre" if "preprocess: n" in settings else ""

    def numbers(*shape: int, std: float = 0.25, mean: float = 0.0) -> Any:
        return (mean + std * random.standard_normal(shape)).astype(np.float32)

    found = {"Wemb": numbers(vocabulary, WIDTH), "decoder_ff_logit_out_b": numbers(1, vocabulary)}
    if "tied-embeddings-all: false" in settings:
        found["decoder_ff_logit_out_W"] = numbers(WIDTH, vocabulary)
    for side, depth in (("encoder", ENCODER), ("decoder", DECODER)):
        for i in range(1, depth + 1):
            for kind in ("self", "context")[: 1 if side == "encoder" else 2]:
                name = f"{side}_l{i}_{kind}"
                for letter in "qkvo":
                    found[f"{name}_W{letter}"] = numbers(WIDTH, WIDTH, std=0.35)
                    found[f"{name}_b{letter}"] = numbers(1, WIDTH)
                found[f"{name}_Wo_ln_scale{end}"] = numbers(1, WIDTH, mean=1.0)
                found[f"{name}_Wo_ln_bias{end}"] = numbers(1, WIDTH)
            name = f"{side}_l{i}_ffn"
            found |= {f"{name}_W1": numbers(WIDTH, INNER), f"{name}_b1": numbers(1, INNER)}
            found |= {f"{name}_W2": numbers(INNER, WIDTH), f"{name}_b2": numbers(1, WIDTH)}
            found[f"{name}_ffn_ln_scale{end}"] = numbers(1, WIDTH, mean=1.0)
            found[f"{name}_ffn_ln_bias{end}"] = numbers(1, WIDTH)
    return found


def write(folder: Path, settings: str = SETTINGS, seed: int = 0, **more: Any) -> Path:
    """The file, and a tokenizer beside it; ``more`` replaces arrays, ``None`` leaves one out."""
    folder.mkdir(parents=True, exist_ok=True)
    held = {**arrays(settings, seed), **more}
    if "yml" not in held:
        held["special:model.yml"] = np.frombuffer(settings.encode() + b"\0", np.int8)
    held.pop("yml", None)
    np.savez(folder / "model.npz", **{name: value for name, value in held.items() if value is not None})
    (folder / "tokenizer.json").write_text(byte_level(starts=False).to_str().replace("<|end|>", "</s>"))
    return folder / "model.npz"


class Naive:
    """The network over the arrays of a file."""

    def __init__(self, settings: str, held: dict[str, Any]) -> None:
        self.p = {name: np.asarray(value, np.float64) for name, value in held.items()}
        self.pre = "preprocess: n" in settings
        self.relu = "activation: relu" in settings

    def norm(self, x: Array, name: str) -> Array:
        end = "_pre" if self.pre else ""
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
        return x * self.p[f"{name}_ln_scale{end}"] + self.p[f"{name}_ln_bias{end}"]

    def around(self, x: Array, name: str, layer: Any) -> Array:
        """A layer with what is done before and after it."""
        if self.pre:
            return x + layer(self.norm(x, name))
        return self.norm(x + layer(x), name)

    def attend(self, name: str, queries: Array, keys: Array, causal: bool) -> Array:
        p = self.p
        q, k, v = (x @ p[f"{name}_W{a}"] + p[f"{name}_b{a}"] for x, a in ((queries, "q"), (keys, "k"), (keys, "v")))
        size, heads = WIDTH // HEADS, []
        for h in range(HEADS):
            part = slice(h * size, (h + 1) * size)
            scores = q[:, part] @ k[:, part].T / np.sqrt(size)
            if causal:
                scores = np.where(np.tri(len(q)) > 0, scores, -99999999.0)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
        return np.concatenate(heads, axis=1) @ p[f"{name}_Wo"] + p[f"{name}_bo"]

    def inner(self, name: str, x: Array) -> Array:
        hidden = x @ self.p[f"{name}_W1"] + self.p[f"{name}_b1"]
        hidden = np.maximum(hidden, 0.0) if self.relu else hidden / (1.0 + np.exp(-hidden))
        return hidden @ self.p[f"{name}_W2"] + self.p[f"{name}_b2"]  # type: ignore[no-any-return]

    def positions(self, x: Array) -> Array:
        """Times the root of the width, plus Google's sinusoids (``sinusoidalPositionEmbeddings``)."""
        out = np.sqrt(WIDTH) * x
        for place in range(len(x)):
            for i in range(WIDTH // 2):
                angle = place * np.exp(i * -np.log(10000.0) / (WIDTH / 2 - 1))
                out[place, i] += np.sin(angle)
                out[place, WIDTH // 2 + i] += np.cos(angle)
        return out  # type: ignore[no-any-return]

    def logits(self, source: list[int], target: list[int]) -> Array:
        """Of what follows nothing, the first token of ``target``, and so on."""
        words = self.p["decoder_Wemb" if "decoder_Wemb" in self.p else "Wemb"]
        x = self.positions(self.p.get("encoder_Wemb", words)[source])
        for i in range(1, ENCODER + 1):
            name = f"encoder_l{i}_self"
            x = self.around(x, f"{name}_Wo", lambda h, name=name: self.attend(name, h, h, False))
            name = f"encoder_l{i}_ffn"
            x = self.around(x, f"{name}_ffn", lambda h, name=name: self.inner(name, h))
        y = self.positions(np.concatenate([np.zeros((1, WIDTH)), words[target]]))
        for i in range(1, DECODER + 1):
            name = f"decoder_l{i}_self"
            y = self.around(y, f"{name}_Wo", lambda h, name=name: self.attend(name, h, h, True))
            name = f"decoder_l{i}_context"
            y = self.around(y, f"{name}_Wo", lambda h, name=name: self.attend(name, h, x, False))
            name = f"decoder_l{i}_ffn"
            y = self.around(y, f"{name}_ffn", lambda h, name=name: self.inner(name, h))
        matrix = self.p.get("decoder_ff_logit_out_W", words.T)
        return y @ matrix + self.p["decoder_ff_logit_out_b"]  # type: ignore[no-any-return]

    def greedy(self, source: list[int], steps: int) -> list[int]:
        """The most probable token, again and again."""
        tokens: list[int] = []
        while len(tokens) < steps and END not in tokens:
            tokens.append(int(self.logits(source, tokens)[-1].argmax()))
        return tokens


def log_softmax(x: Array) -> Array:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))  # type: ignore[no-any-return]
