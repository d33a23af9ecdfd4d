"""T5 (Raffel et al. 2020), T5 1.1 and Flan-T5, mT5 (Xue et al. 2021) and ByT5 (Xue et al. 2022).

Pre-norm encoder-decoder with relative positions, RMS norms and no biases; scores are not divided by ``sqrt(d_kv)``.

Reference: ``transformers/models/t5/modeling_t5.py`` and ``models/mt5/modeling_mt5.py`` of transformers 5.24.0,
``T5ForConditionalGeneration`` and ``MT5ForConditionalGeneration``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..config import Activation, ModelConfig, StackConfig
from ..position_config import RelativeConfig
from .family import ACTIVATIONS, Facts, Family, Fields
from .t5_tokenizer import tokenizer_of

UNTIED = "lm_head.weight"
TRAINED_ON = 1024
"""Tokens of a text where ``n_positions`` is missing: mT5 and ByT5 were trained on so many (section 3.1 of both)."""

_SELF = "layer.0.SelfAttention"
_CROSS = "layer.1.EncDecAttention"
_PROJECTIONS = {"q": "query", "k": "key", "v": "value", "o": "output"}
_FEED_FORWARD = {"wi": "inner", "wi_0": "gate", "wi_1": "inner", "wo": "outer"}


def _stack_keys(stack: str, feed_forward: int) -> dict[str, str]:
    """Names in a stack whose feed-forward network is that part of a layer."""
    layer, ours = f"{stack}.block.{{i}}", f"{stack}.layers.{{i}}"
    keys = {f"{layer}.{_SELF}.{theirs}": f"{ours}.attention.{name}" for theirs, name in _PROJECTIONS.items()}
    keys |= {
        f"{layer}.layer.{feed_forward}.DenseReluDense.{theirs}": f"{ours}.feed_forward.{name}"
        for theirs, name in _FEED_FORWARD.items()
    }
    return keys | {
        f"{layer}.layer.0.layer_norm": f"{ours}.attention_residual.norm",
        f"{layer}.layer.{feed_forward}.layer_norm": f"{ours}.feed_forward_residual.norm",
        f"{stack}.block.0.{_SELF}.relative_attention_bias": f"{stack}.relative_bias",
        f"{stack}.embed_tokens": f"{stack}.embedding",
        f"{stack}.final_layer_norm": f"{stack}.final_norm",
    }


ENCODER_KEYS = {"shared": "embedding", **_stack_keys("encoder", 1)}
KEYS = {
    **ENCODER_KEYS,
    "lm_head": "vocabulary",
    **_stack_keys("decoder", 2),
    **{
        f"decoder.block.{{i}}.{_CROSS}.{theirs}": f"decoder.layers.{{i}}.cross_attention.{name}"
        for theirs, name in _PROJECTIONS.items()
    },
    "decoder.block.{i}.layer.1.layer_norm": "decoder.layers.{i}.cross_residual.norm",
}
_HARMLESS = """
    _num_labels dropout_rate early_stopping forced_eos_token_id initializer_factor length_penalty max_length min_length
    no_repeat_ngram_size num_beams output_past prefix
"""
# How to decode is said at every call; output_past is of releases that knew models without a cache.
_KINDS: dict[str, tuple[str, bool, Activation]] = {
    **{name: (name, False, ours) for name, ours in ACTIVATIONS.items()},
    **{f"gated-{name}": (name, True, ours) for name, ours in ACTIVATIONS.items()},
    "gated-gelu": ("gelu_new", True, "gelu_tanh"),
}
"""By ``feed_forward_proj``: what the library calls its activation, whether it is gated, and our name."""


def stack_of(fields: Fields, multilingual: bool) -> Callable[..., StackConfig]:
    """The encoder or the decoder, of as many ``n_layers``."""
    width, heads, inner = (fields.get(name, int) for name in ("d_model", "num_heads", "d_ff"))
    head_dim, epsilon = fields.get("d_kv", int, 64), fields.get("layer_norm_epsilon", float, 1e-6)
    kind = fields.choice("feed_forward_proj", {n: n for n in _KINDS}, "gated-gelu" if multilingual else "relu")
    named, gated, activation = _KINDS[kind or "relu"]
    fields.only(is_decoder=False, dense_act_fn=named, is_gated_act=gated)
    fields.ignore(*_HARMLESS.split())
    return partial(
        StackConfig,
        d_model=width,
        n_heads=heads,
        d_ff=inner,
        norm_place="pre",
        activation=activation,
        norm_epsilon=epsilon,
        norm="rms",
        gated=gated,
        head_dim=head_dim,
        attention_scale=1.0,
        attention_bias=False,
        feed_forward_bias=False,
    )


def relative_of(fields: Fields) -> Callable[[], RelativeConfig]:
    """The relative positions of its stacks."""
    buckets = fields.get("relative_attention_num_buckets", int, 32)
    farthest = fields.get("relative_attention_max_distance", int, 128)
    return partial(RelativeConfig, buckets=buckets, max_distance=farthest)


def end_of(fields: Fields, facts: Facts) -> int:
    """What ends a text, 1 where a file says nothing; other tokens around one are a fault."""
    end = facts.end_id(fields, default=1)
    if facts.prefix or facts.suffix not in ((), (end,)):
        fields.faults.append(
            f"the tokenizer puts {facts.prefix} before and {facts.suffix} after a text, expected nothing before, and "
            f"eos_token_id ({end}) or nothing after"
        )
    return end


def _config(fields: Fields, facts: Facts, *, multilingual: bool) -> ModelConfig:
    vocabulary, layers = fields.get("vocab_size", int), fields.get("num_layers", int)
    decoder_layers = fields.get("num_decoder_layers", int, layers)
    positions = fields.get("n_positions", int, TRAINED_ON)
    stack, relative = stack_of(fields, multilingual), relative_of(fields)
    pad = fields.get("pad_token_id", int, 0)
    start, end = fields.get("decoder_start_token_id", int, pad), end_of(fields, facts)
    tied, scaled = (_mt5_output if multilingual else _t5_output)(fields, facts)
    fields.only(is_encoder_decoder=True)
    for name, found in (("bad_words_ids", facts.suppressed), ("forced_bos_token_id", facts.forced)):
        if found not in ((), None):
            fields.faults.append(f"{name} is {found}, expected none")

    def make() -> ModelConfig:
        return ModelConfig(
            vocab_size=vocabulary,
            max_positions=positions,
            pad_id=pad,
            start_id=start,
            end_id=end,
            encoder=stack(n_layers=layers),
            decoder=stack(n_layers=decoder_layers),
            positions="relative",
            relative=relative(),
            scale_embeddings=False,
            scale_outputs=scaled,
            tied=tied,
            output_bias=False,
        )

    return fields.build(make)


def _t5_output(fields: Fields, facts: Facts) -> tuple[bool, bool]:
    """Whether the output projection is the embedding, and whether it reads scaled states.

    Up to transformers 4 ``tie_word_embeddings`` says both. 5 calls every network tied, says ``scale_decoder_outputs``
    apart, and takes an ``lm_head`` that is stored for one of its own.
    """
    tied = fields.get("tie_word_embeddings", bool, True)
    scaled = fields.get("scale_decoder_outputs", bool, tied)
    return bool(tied) and not (fields.given("scale_decoder_outputs") and UNTIED in facts.stored), bool(scaled)


def _mt5_output(fields: Fields, facts: Facts) -> tuple[bool, bool]:
    """As :func:`_t5_output`: mT5 has a projection of its own in all published files, and 5 scales no states."""
    if fields.get("tie_word_embeddings", bool, False) and fields.get("transformers_version", str, "").startswith("4."):
        fields.faults.append(
            "tie_word_embeddings is true in a file of transformers 4, which scales what a tied projection reads, where "
            "5 does not: which of them is right cannot be known"
        )
    return UNTIED not in facts.stored, False


def _family(architecture: str, multilingual: bool) -> Family:
    return Family(
        architectures=(architecture,),
        config=partial(_config, multilingual=multilingual),
        keys=KEYS,
        dropped=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),  # nothing reads it
        copies={
            "vocabulary.weight": "embedding.weight",
            "encoder.embedding.weight": "embedding.weight",
            "decoder.embedding.weight": "embedding.weight",
        },
        tokenizer=tokenizer_of,
    )


T5 = _family("T5ForConditionalGeneration", multilingual=False)
MT5 = _family("MT5ForConditionalGeneration", multilingual=True)
