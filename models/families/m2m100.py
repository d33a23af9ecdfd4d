"""M2M-100 (Fan et al. 2021) and NLLB-200 (NLLB Team 2022): pre-norm encoder-decoders with fairseq's sinusoids.

Reference: ``transformers/models/m2m_100/modeling_m2m_100.py`` of transformers 5.24.0,
``M2M100ForConditionalGeneration``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..config import ModelConfig, StackConfig
from .fairseq import HARMLESS, fairseq_languages, fairseq_tokenizer
from .family import ACTIVATIONS, Facts, Family, Fields, with_default_target
from .marian import KEYS, stack_of

if TYPE_CHECKING:
    from torch import Tensor


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    width, vocabulary = fields.get("d_model", int), fields.get("vocab_size", int)
    stacks = {name: stack_of(fields, name, width) for name in ("encoder", "decoder")}
    activation = fields.choice("activation_function", ACTIVATIONS, "relu")
    positions, scaled = fields.get("max_position_embeddings", int, 1024), fields.get("scale_embedding", bool, True)
    tied, pad = fields.get("tie_word_embeddings", bool, True), fields.get("pad_token_id", int, 1)
    start, end = fields.get("decoder_start_token_id", int, 2), facts.end_id(fields)
    languages = with_default_target(fields, facts, start)
    fields.only(is_encoder_decoder=True, is_decoder=False, normalize_before=True, static_position_embeddings=True)
    fields.only(normalize_embedding=False, add_final_layer_norm=True, add_bias_logits=False)
    fields.ignore(*HARMLESS.split())
    if facts.suppressed:
        fields.faults.append(f"bad_words_ids hold {facts.suppressed}, expected none")

    def make() -> ModelConfig:
        encoder, decoder = (
            StackConfig(activation=activation, norm_place="pre", **stacks[name]) for name in ("encoder", "decoder")
        )
        return ModelConfig(
            vocab_size=vocabulary,
            max_positions=positions,
            pad_id=pad,
            start_id=start,
            end_id=end,
            encoder=encoder,
            decoder=decoder,
            positions="learned",
            scale_embeddings=scaled,
            languages=languages,
            tied=tied,
            output_bias=False,
        )

    return fields.build(make)


def fairseq_positions(config: ModelConfig) -> Mapping[str, Tensor]:
    """Sinusoids ``(max_positions, D)`` whose first row is that of position ``pad_id + 1``.

    All sines before all cosines, with frequencies from 1 down to 1/10000, which is reached. In float32, as the networks
    were trained with them (``M2M100SinusoidalPositionalEmbedding.get_embedding``).
    """
    import torch

    half, first = config.d_model // 2, config.pad_id + 1
    rate = math.log(10000) / max(half - 1, 1)
    frequency = torch.exp(torch.arange(half).float() * -rate)
    angle = torch.arange(first, first + config.max_positions).float()[:, None] * frequency
    return {"positions": torch.cat([angle.sin(), angle.cos()], dim=1)}


M2M100 = Family(
    architectures=("M2M100ForConditionalGeneration",),
    config=_config,
    keys={theirs: ours for theirs, ours in KEYS.items() if theirs != "final_logits_bias"}
    | {f"model.{stack}.layer_norm": f"{stack}.final_norm" for stack in ("encoder", "decoder")},
    dropped=(r"model\.(encoder|decoder)\.embed_positions\.weights",),  # sinusoids, computed here
    copies={
        "vocabulary.weight": "embedding.weight",
        "source_embedding.weight": "embedding.weight",
        "decoder.embedding.weight": "embedding.weight",
    },
    computed=fairseq_positions,
    tokenizer=fairseq_tokenizer,
    languages=fairseq_languages,
)
