"""The network of a CTranslate2 specification: its configuration, and its tensors by our names.

Source: ``python/ctranslate2/specs`` of CTranslate2 4.8.5, and what ``src/layers/transformer.cc`` makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError, ConfigError
from ..config import Activation, ModelConfig, StackConfig
from ..position_config import RopeConfig
from .reader import ModelBin
from .variables import Variables

REVISIONS = {"TransformerSpec": 7, "TransformerDecoderSpec": 8, "WhisperSpec": 3}
"""Specifications that are read, and the newest revision of each."""
_ACTIVATIONS: dict[int, Activation] = {0: "relu", 1: "gelu_tanh", 2: "silu", 3: "gelu"}
_MOST_LAYERS = 256
_EPSILON = {"layer": 1e-5, "rms": 1e-6}
"""Where the configuration has none: measured, with states small enough that it shows."""


def network_of(model: ModelBin, config: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[ModelConfig, Any]:
    """Configuration and tensors; ``config`` is ``config.json``, ``text`` what the vocabulary says of token ids.

    Raises:
        CheckpointError: a specification that is not read, or variables that are missing, unknown, or do not fit.
        ConfigError: what they say contradicts itself.
    """
    check_revision(model)
    epsilon = config.get("layer_norm_epsilon")
    if epsilon is not None and not (isinstance(epsilon, float) and 0 < epsilon < 1):
        raise ConfigError(f"layer_norm_epsilon is {epsilon!r}, expected a small number")
    return Network(Variables(model.variables), epsilon).build(model.spec, text)


def check_revision(model: ModelBin) -> None:
    """Refuse a specification, or a revision of one, that is not read.

    Raises:
        CheckpointError: it is.
    """
    if REVISIONS.get(model.spec) != model.revision:
        known = ", ".join(f"{name} revision {revision}" for name, revision in REVISIONS.items())
        raise CheckpointError(
            f"specification {model.spec!r} revision {model.revision} is not read, expected {known}: where it is an "
            "older one of these, convert the model again with CTranslate2 4.8"
        )


class Network:
    """One pass over the variables; faults are raised at its end."""

    def __init__(self, variables: Variables, epsilon: float | None) -> None:
        self.variables, self.epsilon = variables, epsilon
        self.tensors: dict[str, Tensor] = {}
        self.rope_bases: dict[str, float | None] = {}  # by attention; none: it has no rotary positions

    def build(self, spec: str, text: Mapping[str, Any]) -> tuple[ModelConfig, dict[str, Tensor]]:
        """Configuration and tensors of a translator or a decoder; ``text``: what a vocabulary says of token ids."""
        translates = spec == "TransformerSpec"
        fields: dict[str, Any] = dict(text)
        stacks: dict[str, Any] = {}
        if translates:
            self.variables.only("encoder/embeddings_merge", 0)
            self.variables.ignore("encoder/embeddings_merge", "encoder/multi_query_attention")
            stacks["encoder"] = self.stack("encoder", cross=False)
        stacks["decoder"] = self.stack("decoder", cross=translates)
        fields |= self._embeddings(list(stacks), "source_end_id" in text) | self.output()
        if "source_vocab_size" in fields and fields.pop("adds_start", False):
            fields["source_start_id"] = fields["start_id"]
        self.refuse_faults()
        made: dict[str, Any] = {name: StackConfig(**values) for name, values in stacks.items()}
        base = next(iter(self.rope_bases.values()), None)  # all are the same: another one is a fault
        return ModelConfig(**fields, **made, rope=None if base is None else RopeConfig(theta=base)), self.tensors

    def refuse_faults(self) -> None:
        """Raise :class:`CheckpointError` with everything that was wrong, what nobody asked for included."""
        faults = self.variables.faults + [f"{name} is not understood" for name in self.variables.unread()]
        if faults:
            more = f"; and {len(faults) - 20} more" if len(faults) > 20 else ""
            raise CheckpointError(f"model.bin: {'; '.join(faults[:20])}{more}")

    def stack(self, side: str, cross: bool) -> dict[str, Any]:
        """What the variables of one stack say of its configuration; its tensors are kept."""
        v = self.variables
        heads, pre = v.count(f"{side}/num_heads"), bool(v.number(f"{side}/pre_norm"))
        activation = int(v.number(f"{side}/activation"))
        if activation not in _ACTIVATIONS:
            v.faults.append(f"{side}/activation is {activation}, expected one of {sorted(_ACTIVATIONS)}")
        layers = next(i for i in range(_MOST_LAYERS + 1) if f"{side}/layer_{i}/ffn/linear_0/weight" not in v)
        for i in range(layers):
            self._layer(f"{side}/layer_{i}", f"{side}.layers.{i}", heads, cross)
        first = f"{side}/layer_0"
        attention = f"{first}/self_attention"
        kv_heads = v.count(f"{attention}/num_heads_kv", heads)
        final = f"{side}/layer_norm/gamma" in v
        if final:
            self._norm(f"{side}/layer_norm", f"{side}.final_norm")
        norm = "layer" if f"{attention}/layer_norm/beta" in v else "rms"
        inner = self.tensors.get(f"{side}.layers.0.feed_forward.inner.weight", torch.zeros(1, 1))
        return {
            "n_layers": layers,
            "d_model": inner.shape[-1],
            "n_heads": heads,
            "d_ff": inner.shape[0],
            "norm_place": "pre" if pre else "post",
            "activation": _ACTIVATIONS.get(activation, "relu"),
            "norm_epsilon": _EPSILON[norm] if self.epsilon is None else self.epsilon,
            "norm": norm,
            "gated": f"{first}/ffn/linear_0_noact/weight" in v,
            "n_kv_heads": None if kv_heads == heads else kv_heads,
            "attention_bias": f"{attention}/linear_0/bias" in v,
            "feed_forward_bias": f"{first}/ffn/linear_0/bias" in v,
            "final_norm": final,
        }

    def _layer(self, theirs: str, ours: str, heads: int, cross: bool) -> None:
        self._self_attention(f"{theirs}/self_attention", f"{ours}.attention", heads)
        self._norm(f"{theirs}/self_attention/layer_norm", f"{ours}.attention_residual.norm")
        if cross:
            self._linear(f"{theirs}/attention/linear_0", [f"{ours}.cross_attention.query"])
            names = [f"{ours}.cross_attention.{part}" for part in ("key", "value")]
            self._linear(f"{theirs}/attention/linear_1", names)
            self._linear(f"{theirs}/attention/linear_2", [f"{ours}.cross_attention.output"])
            self._norm(f"{theirs}/attention/layer_norm", f"{ours}.cross_residual.norm")
        self._norm(f"{theirs}/ffn/layer_norm", f"{ours}.feed_forward_residual.norm")
        inner, gate = f"{theirs}/ffn/linear_0", f"{theirs}/ffn/linear_0_noact"
        if f"{gate}/weight" in self.variables:  # the product with the activation is the gate
            inner, gate = gate, inner
            self._linear(gate, [f"{ours}.feed_forward.gate"])
        self._linear(inner, [f"{ours}.feed_forward.inner"])
        self._linear(f"{theirs}/ffn/linear_1", [f"{ours}.feed_forward.outer"])

    def _self_attention(self, theirs: str, ours: str, heads: int) -> None:
        v = self.variables
        kv_heads = v.count(f"{theirs}/num_heads_kv", heads)
        sizes = [heads, kv_heads, kv_heads]
        self._linear(f"{theirs}/linear_0", [f"{ours}.{part}" for part in ("query", "key", "value")], sizes)
        self._linear(f"{theirs}/linear_1", [f"{ours}.output"])
        self.rope_bases[theirs] = None
        if f"{theirs}/rotary_dim" in v:
            width = self.tensors.get(f"{ours}.query.weight", torch.zeros(0)).shape[0] // heads
            if v.number(f"{theirs}/rotary_dim") not in (0, width):
                v.faults.append(f"{theirs}/rotary_dim is not the whole head ({width})")
            if v.number(f"{theirs}/rotary_interleave", 1):  # pairs stand side by side where it is absent
                v.faults.append(f"{theirs}/rotary_interleave is not 0")
            self.rope_bases[theirs] = v.number(f"{theirs}/rotary_base", 10000.0)

    def _linear(self, theirs: str, ours: list[str], sizes: list[int] | None = None) -> None:
        """One product, or several of the same input joined, in proportion to ``sizes``."""
        weight, bias = self.variables.weight(f"{theirs}/weight"), self.variables.optional(f"{theirs}/bias")
        parts = sizes or [1] * len(ours)
        if weight.shape[0] % sum(parts) or weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            self.variables.faults.append(f"{theirs} has a shape that cannot be cut into {len(ours)}")
            return
        rows = [part * weight.shape[0] // sum(parts) for part in parts]
        for kind, tensor in (("weight", weight), ("bias", bias)):
            if tensor is not None:
                cut = torch.split(tensor, rows)
                self.tensors |= {f"{name}.{kind}": part for name, part in zip(ours, cut, strict=True)}

    def _norm(self, theirs: str, ours: str) -> None:
        self.tensors[f"{ours}.weight"] = self.variables.weight(f"{theirs}/gamma")
        beta = self.variables.optional(f"{theirs}/beta")
        if beta is not None:
            self.tensors[f"{ours}.bias"] = beta

    def _embeddings(self, sides: list[str], two_vocabularies: bool) -> dict[str, Any]:
        """Tables of words, and one of positions, which both sides must share."""
        v = self.variables
        names = {"encoder": "encoder/embeddings_0", "decoder": "decoder/embeddings"}
        words = [v.weight(f"{names[side]}/weight") for side in sides]
        for side in sides:
            v.ignore(f"{names[side]}/multiply_by_sqrt_depth")
        self.tensors["embedding.weight"] = words[-1]
        own: dict[str, Any] = {}
        if two_vocabularies or not torch.equal(words[0], words[-1]):
            self.tensors["source_embedding.weight"] = words[0]
            own = {"source_vocab_size": words[0].shape[0]}
        scales = {v.number(f"{side}/scale_embeddings", 1.0) for side in sides}
        width = words[0].shape[-1]
        flags = all(v.is_flag(f"{side}/scale_embeddings") for side in sides)
        scaled = scales == {1.0} if flags else all(math.isclose(s, math.sqrt(width), rel_tol=1e-6) for s in scales)
        if len(scales) > 1 or not (scaled or scales == {0.0 if flags else 1.0}):
            v.faults.append(f"scale_embeddings is {sorted(scales)}, expected 1 or the square root of {width}")
        return own | {"vocab_size": words[-1].shape[0], "scale_embeddings": scaled, **self._positions(sides)}

    def _positions(self, sides: list[str]) -> dict[str, Any]:
        v = self.variables
        first = next(iter(self.rope_bases.values()), None)
        for name, base in self.rope_bases.items():
            if base != first:
                v.faults.append(f"{name}/rotary_base is {base}, in the first layer {first}: expected one for all")
        if first is not None:
            return {"positions": "rotary"}
        tables = [v.optional(f"{side}/position_encodings/encodings") for side in sides]
        found = [table for table in tables if table is not None and table.ndim == 2]
        if len(found) < len(sides):
            v.faults.append(
                "there is no table of positions: those that CTranslate2 computes itself are not written here"
            )
            return {}
        length = min(len(table) for table in found)
        if not all(torch.equal(table[:length], found[0][:length]) for table in found):
            v.faults.append("encoder and decoder have positions of their own, expected one table for both")
        self.tensors["positions"] = found[0][:length]
        return {"positions": "learned", "max_positions": length}

    def output(self) -> dict[str, Any]:
        """What the variables of the output projection say; its tensors are kept, after those of the embedding."""
        v = self.variables
        v.ignore("decoder/alignment_layer", "decoder/alignment_heads")
        v.ignore("decoder/alibi_use_positive_positions", "decoder/scale_alibi")  # they belong to alibi
        v.only("decoder/alibi", 0)
        v.only("decoder/start_from_zero_embedding", 0)
        weight, bias = v.weight("decoder/projection/weight"), v.optional("decoder/projection/bias")
        tied = torch.equal(weight, self.tensors["embedding.weight"])
        if not tied:
            self.tensors["vocabulary.weight"] = weight
        if bias is not None:
            self.tensors["vocabulary_bias"] = bias
        return {"tied": tied, "output_bias": bias is not None}
