"""ModernBERT (Warner et al. 2024): an encoder with rotary positions, most of whose layers see a window.

Reference: ``transformers/models/modernbert/modeling_modernbert.py`` of transformers 5.24.0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..config import ModelConfig, Pooling, StackConfig
from ..position_config import RopeConfig
from .family import ACTIVATIONS, Facts, Family, Fields
from .heads import architectures, encoder_fields
from .rope import rope_from
from .windows import FULL, SLIDING, windows_of

_LAYER = "layers.{i}"
_OURS = "encoder.layers.{i}"
_GLOBAL_THETA, _LOCAL_THETA = 160_000.0, 10_000.0
_POOLINGS: dict[str, Pooling] = {"cls": "first", "mean": "mean"}
# How training went, what fused kernels did, and two fields of published files that the library does not read.
_OF_TRAINING = """
    cls_token_id deterministic_flash_attn embedding_dropout initializer_cutoff_factor layer_norm_eps mlp_dropout
    position_embedding_type reference_compile repad_logits_with_grad sep_token_id sparse_pred_ignore_index
    sparse_prediction
"""
KEYS: dict[str, str | tuple[str, ...]] = {
    "embeddings.tok_embeddings": "embedding",
    "embeddings.norm": "embedding_norm",
    f"{_LAYER}.attn_norm": f"{_OURS}.attention_residual.norm",
    f"{_LAYER}.attn.Wqkv": tuple(f"{_OURS}.attention.{name}" for name in ("query", "key", "value")),
    f"{_LAYER}.attn.Wo": f"{_OURS}.attention.output",
    f"{_LAYER}.mlp_norm": f"{_OURS}.feed_forward_residual.norm",
    f"{_LAYER}.mlp.Wi": (f"{_OURS}.feed_forward.gate", f"{_OURS}.feed_forward.inner"),
    f"{_LAYER}.mlp.Wo": f"{_OURS}.feed_forward.outer",
    "final_norm": "encoder.final_norm",
    "head.dense": "transform",
    "head.norm": "transform_norm",
    "decoder.weight": "vocabulary.weight",
    "decoder.bias": "vocabulary_bias",
    "classifier": "classifier",
}


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    vocabulary, positions = fields.get("vocab_size", int, 50368), fields.get("max_position_embeddings", int, 8192)
    pad, network = fields.get("pad_token_id", int, 50283), _stack(fields)
    rope, window_rope = _ropes(fields)
    own = _head(fields, facts)
    fields.ignore(*_OF_TRAINING.split())

    def make() -> ModelConfig:
        stack = StackConfig(**network)
        return ModelConfig(
            vocab_size=vocabulary,
            max_positions=positions,
            pad_id=pad,
            encoder=stack,
            rope=rope(),
            window_rope=None if stack.window is None else window_rope(),
            **{**own, "positions": "rotary"},
        )

    return fields.build(make)


def _stack(fields: Fields) -> dict[str, Any]:
    layers = fields.get("num_hidden_layers", int, 22)
    return {
        "n_layers": layers,
        "d_model": fields.get("hidden_size", int, 768),
        "n_heads": fields.get("num_attention_heads", int, 12),
        "d_ff": fields.get("intermediate_size", int, 1152),
        "activation": fields.choice("hidden_activation", ACTIVATIONS, "gelu"),
        "gated": True,
        "norm_place": "pre",
        "norm_epsilon": fields.get("norm_eps", float, 1e-5),
        "norm_bias": fields.get("norm_bias", bool, False),
        "first_norm": False,
        "attention_bias": fields.get("attention_bias", bool, False),
        "feed_forward_bias": fields.get("mlp_bias", bool, False),
        **_windows(fields, layers),
    }


def _windows(fields: Fields, layers: Any) -> dict[str, Any]:
    """Every third layer sees all, or every ``global_attn_every_n_layers``-th, from the first; or as ``layer_types``."""
    around, every = fields.get("local_attention", int, 128), fields.get("global_attn_every_n_layers", int, 3)
    if around is None or every is None:
        return {}
    if around < 0 or every < 1:
        fields.faults.append(
            f"local_attention is {around} and global_attn_every_n_layers {every}, expected a number of tokens and a "
            "positive number of layers"
        )
        return {}
    return windows_of(fields, around // 2 + 1, layers, lambda i: i % every != 0, always=True)


def _ropes(fields: Fields) -> tuple[Callable[[], RopeConfig], Callable[[], RopeConfig]]:
    """Positions of layers that see all, and of those that see a window: two objects, or two numbers in older files."""
    nested = fields.get("rope_parameters", dict, {})
    older = ("global_rope_theta", "local_rope_theta")
    if nested:
        fields.only(**dict.fromkeys(older))
        kinds = {kind: nested.get(kind) or {} for kind in (FULL, SLIDING)}
        if nested.keys() - kinds.keys() or not all(isinstance(value, dict) for value in kinds.values()):
            fields.faults.append(
                f"rope_parameters is {nested!r}, expected an object for {FULL!r} and one for {SLIDING!r}"
            )
            return RopeConfig, RopeConfig
        return rope_from(fields, kinds[FULL], _GLOBAL_THETA), rope_from(fields, kinds[SLIDING], _LOCAL_THETA)
    whole = fields.get(older[0], (int, float), _GLOBAL_THETA)
    near = fields.nullable(older[1], (int, float), _LOCAL_THETA)
    return rope_from(fields, {}, whole), rope_from(fields, {}, whole if near is None else near)


def _head(fields: Fields, facts: Facts) -> dict[str, Any]:
    """Before every head but vectors is one more dense layer, its activation, and a norm."""
    activation = fields.choice("classifier_activation", ACTIVATIONS, "gelu")
    bias = fields.get("classifier_bias", bool, False)
    pooling = fields.choice("classifier_pooling", _POOLINGS, "cls")
    tied, output_bias = fields.get("tie_word_embeddings", bool, True), fields.get("decoder_bias", bool, True)
    own = encoder_fields(fields, facts, segments=0, pooler=None, transform=activation)
    if own["head"] != "embedding":
        own |= {"head_transform": activation, "transform_bias": bias}
    if own["head"] == "classes":
        own |= {"pooling": pooling}
    if own["head"] == "vocabulary":
        own |= {"tied": tied, "output_bias": output_bias}
    return own


MODERNBERT = Family(
    architectures=architectures("ModernBert"),
    config=_config,
    keys=KEYS,
    optional_prefix="model.",
    copies={"vocabulary.weight": "embedding.weight"},
)
