"""The encoder of T5 alone, whose states are pooled: sentence-t5 (Ni et al. 2021), GTR (Ni et al. 2022).

Reference: ``T5EncoderModel`` and ``MT5EncoderModel`` of transformers 5.24.0 (``models/t5/modeling_t5.py``,
``models/mt5/modeling_mt5.py``), and sentence-transformers 6.2.0 for what comes after.
"""

from __future__ import annotations

from functools import partial

from ..config import ModelConfig
from .family import Facts, Family, Fields
from .heads import vectors_head
from .t5 import ENCODER_KEYS, TRAINED_ON, end_of, relative_of, stack_of
from .t5_tokenizer import tokenizer_of

_OF_A_DECODER = """
    decoder_start_token_id is_encoder_decoder num_decoder_layers scale_decoder_outputs tie_word_embeddings
"""


def _config(fields: Fields, facts: Facts, *, multilingual: bool) -> ModelConfig:
    vocabulary, layers = fields.get("vocab_size", int), fields.get("num_layers", int)
    positions, pad = fields.get("n_positions", int, TRAINED_ON), fields.get("pad_token_id", int, 0)
    stack, relative = stack_of(fields, multilingual), relative_of(fields)
    end, head = end_of(fields, facts), vectors_head(fields, facts)
    fields.ignore(*_OF_A_DECODER.split())

    def make() -> ModelConfig:
        return ModelConfig(
            vocab_size=vocabulary,
            max_positions=positions,
            pad_id=pad,
            start_id=pad,  # nothing reads it
            end_id=end,
            encoder=stack(n_layers=layers),
            positions="relative",
            relative=relative(),
            scale_embeddings=False,
            **head,
        )

    return fields.build(make)


def _family(architecture: str, multilingual: bool) -> Family:
    return Family(
        architectures=(architecture,),
        config=partial(_config, multilingual=multilingual),
        keys=ENCODER_KEYS,
        copies={"encoder.embedding.weight": "embedding.weight"},
        tokenizer=tokenizer_of,
    )


T5_ENCODER = _family("T5EncoderModel", multilingual=False)
MT5_ENCODER = _family("MT5EncoderModel", multilingual=True)
