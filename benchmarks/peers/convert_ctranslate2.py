"""A checkpoint for CTranslate2, through its own description of a transformer, in its own environment.

``python -m edgewise.benchmarks.peers.convert_ctranslate2 WEIGHTS.npz CONFIG.json FOLDER QUANTIZATION``. Nothing is
permuted: the table of positions is given as it is. Tokens are called by their numbers.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import TransformerSpec, common_spec
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]

_ACTIVATIONS = {"relu": common_spec.Activation.RELU, "gelu": common_spec.Activation.GELU}


def specification(weights: Weights, config: dict[str, Any]) -> TransformerSpec:
    """``weights`` by the reference's names, and ``positions (C, D)``; ``config`` is a checkpoint's ``config.json``."""
    encoder, decoder = config["encoder"], config["decoder"]
    spec = TransformerSpec.from_config(
        (encoder["n_layers"], decoder["n_layers"]),
        encoder["n_heads"],
        pre_norm=encoder["norm_place"] == "pre",
        activation=_ACTIVATIONS[encoder["activation"]],
    )
    for side, embeddings in ((spec.encoder, spec.encoder.embeddings[0]), (spec.decoder, spec.decoder.embeddings)):
        side.scale_embeddings = math.sqrt(encoder["d_model"])
        side.position_encodings.encodings = weights["positions"]
        embeddings.weight = weights["embedding.weight"]
    spec.decoder.projection.weight = weights["embedding.weight"]
    spec.decoder.projection.bias = weights["vocabulary_bias"]
    for i, layer in enumerate(spec.encoder.layer):
        _layer(layer, weights, f"encoder.layers.{i}")
    for i, layer in enumerate(spec.decoder.layer):
        _layer(layer, weights, f"decoder.layers.{i}")
        _cross_attention(layer.attention, weights, f"decoder.layers.{i}")
    _vocabulary(spec, config)
    return spec


def _layer(layer: Any, weights: Weights, name: str) -> None:
    """Self-attention and feed-forward."""
    attention = layer.self_attention
    _linear(attention.linear[0], weights, *(f"{name}.attention.{part}" for part in ("query", "key", "value")))
    _linear(attention.linear[1], weights, f"{name}.attention.output")
    _norm(attention.layer_norm, weights, f"{name}.attention_residual.norm")
    _linear(layer.ffn.linear_0, weights, f"{name}.feed_forward.inner")
    _linear(layer.ffn.linear_1, weights, f"{name}.feed_forward.outer")
    _norm(layer.ffn.layer_norm, weights, f"{name}.feed_forward_residual.norm")


def _cross_attention(attention: Any, weights: Weights, name: str) -> None:
    _linear(attention.linear[0], weights, f"{name}.cross_attention.query")
    _linear(attention.linear[1], weights, f"{name}.cross_attention.key", f"{name}.cross_attention.value")
    _linear(attention.linear[2], weights, f"{name}.cross_attention.output")
    _norm(attention.layer_norm, weights, f"{name}.cross_residual.norm")


def _linear(spec: Any, weights: Weights, *names: str) -> None:
    """One product, or several of the same input joined."""
    spec.weight = np.concatenate([weights[f"{name}.weight"] for name in names])
    spec.bias = np.concatenate([weights[f"{name}.bias"] for name in names])


def _norm(spec: Any, weights: Weights, name: str) -> None:
    spec.gamma, spec.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]


def _vocabulary(spec: TransformerSpec, config: dict[str, Any]) -> None:
    tokens = [str(token) for token in range(config["vocab_size"])]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.bos_token = spec.config.decoder_start_token = str(config["start_id"])
    spec.config.eos_token = str(config["end_id"])
    spec.config.unk_token = str(config["pad_id"])  # every id is in the vocabulary, so none becomes it
    spec.config.add_source_bos = spec.config.add_source_eos = False


def main(argv: Sequence[str]) -> None:
    """Convert."""
    weights, config, folder, quantization = argv
    with np.load(weights) as stored:
        spec = specification(dict(stored), json.loads(Path(config).read_text()))
    Path(folder).mkdir(parents=True)
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
