"""What ``generation_config.json`` says, against what a bundle can hold: fields that change tokens are not passed over.

Reference: ``transformers/generation/configuration_utils.py`` of transformers 5.24.0, ``GenerationConfig``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import CheckpointError
from ..config import ModelConfig

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "diversity_penalty": (0.0,),
    "dola_layers": (),
    "early_stopping": (False,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_decoder_ids": ([],),
    "guidance_scale": (1.0,),
    "length_penalty": (1.0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0.0,),
    "remove_invalid_values": (False,),
    "repetition_penalty": (1.0,),
    "sequence_bias": ({}, []),
    "stop_strings": ([],),
    "suppress_tokens": ([],),
    "token_healing": (False,),
    "watermarking_config": (),
}
"""Fields that change the tokens of a greedy or a beam search, and the values with which they do not."""


def check_generation(generation: Mapping[str, Any], model: ModelConfig, where: str) -> None:
    """Refuse what would change tokens and has no place in a ``model`` or its bundle; ``where`` begins the message.

    Those that concern sampling, limits of length and what is returned are said at every call: they are passed over.

    Raises:
        CheckpointError: there is such a field, or one that contradicts the model.
    """
    given = {name: value for name, value in generation.items() if value is not None}
    faults = [
        f"{name} is {given[name]!r}" for name, values in _NEUTRAL.items() if name in given and given[name] not in values
    ]
    if faults:
        raise CheckpointError(
            f"{where}: {', '.join(faults)}: a bundle holds no such setting; take it out of the file, and where a "
            "session has an option for it, pass that at every call"
        )
    if model.encoder is None or model.decoder is None:
        return
    forced, languages = model.forced_id, model.languages
    if languages is not None and languages.target == "forced":
        forced = languages.tokens.get(languages.default_target or "")
    for name, own in (("decoder_start_token_id", model.start_id), ("forced_bos_token_id", forced)):
        if name in given and given[name] != own:
            raise CheckpointError(
                f"{where}: {name} is {given[name]!r}, and the network of config.json decodes with {own!r} there: "
                "which of them is right cannot be known"
            )
