"""Whisper (Radford et al. 2022): log-mel features in, text out; pre-norm, learned positions in the decoder.

The matrices of keys have no bias; here they have one of zeros. ``scale_embedding`` changes nothing in the library.
Control tokens are those of ``tokenizer.json`` by their names, which ``generation_config.json`` may not contradict.

Reference: ``transformers/models/whisper/modeling_whisper.py`` and ``generation_whisper.py`` of transformers 5.24.0,
``WhisperForConditionalGeneration``; ``whisper/tokenizer.py`` of github.com/openai/whisper at c0d2f62.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError
from ..config import ModelConfig, StackConfig
from ..files import TOKENIZER, read_json
from ..speech import SpeechConfig
from .family import ACTIVATIONS, Facts, Family, Fields
from .marian import LAYER_KEYS, stack_of

if TYPE_CHECKING:
    from torch import Tensor

MULTILINGUAL_VOCABULARY = 51865
"""A vocabulary of so many tokens, or more, has several languages (``Whisper.is_multilingual`` of openai/whisper)."""
TRANSCRIBE, TRANSLATE, NO_TIMESTAMPS, PREVIOUS = (
    *("<|transcribe|>", "<|translate|>", "<|notimestamps|>", "<|startofprev|>"),
)
NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")
"""Its name, and the one that it had in the first releases."""
_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
_CONTROL = re.compile(r"<\|.*\|>")
_BIASLESS = {f"{name}.weight": f"{ours}.weight" for name, ours in LAYER_KEYS.items() if name.endswith("k_proj")}
KEYS = {
    "model.encoder.conv1": "front.first",
    "model.encoder.conv2": "front.second",
    "model.encoder.embed_positions.weight": "front.positions",
    "model.encoder.layer_norm": "encoder.final_norm",
    "model.decoder.embed_tokens": "embedding",
    "model.decoder.embed_positions.weight": "positions",
    "model.decoder.layer_norm": "decoder.final_norm",
    "proj_out": "vocabulary",
    **{name: ours for name, ours in LAYER_KEYS.items() if not name.endswith("k_proj")},
    **_BIASLESS,
}
_HARMLESS = """
    _num_labels activation_dropout apply_spec_augment begin_suppress_tokens classifier_proj_size decoder_layerdrop
    dropout encoder_layerdrop forced_decoder_ids init_std mask_feature_length mask_feature_min_masks mask_feature_prob
    mask_time_length mask_time_min_masks mask_time_prob max_length median_filter_width num_hidden_layers
    scale_embedding suppress_tokens use_weighted_layer_sum
"""
# How to decode is read elsewhere; the layers' weighted sum and classifier_proj_size are of a classifier of sounds.


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    width, vocabulary = fields.get("d_model", int), fields.get("vocab_size", int)
    stacks = {name: stack_of(fields, name, width) for name in ("encoder", "decoder")}
    activation = fields.choice("activation_function", ACTIVATIONS, "gelu")
    bands, heard = fields.get("num_mel_bins", int, 80), fields.get("max_source_positions", int, 1500)
    positions, tied = fields.get("max_target_positions", int, 448), fields.get("tie_word_embeddings", bool, True)
    pad, start = fields.get("pad_token_id", int), fields.get("decoder_start_token_id", int)
    end = facts.end_id(fields, default=None)
    fields.only(is_encoder_decoder=True)
    fields.ignore(*_HARMLESS.split())
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
            scale_embeddings=False,
            output_bias=False,
            tied=tied,
            speech=SpeechConfig(bands=bands, frames=2 * heard, **(facts.speech or {})),
        )

    return fields.build(make)


def key_biases(config: ModelConfig) -> Mapping[str, Tensor]:
    """Zeros for the matrices of keys, which have no biases."""
    import torch

    assert config.encoder is not None and config.decoder is not None
    sides = ((config.encoder, "encoder", "attention"), (config.decoder, "decoder", "attention"))
    names = [(s, f"{side}.layers.{i}.{kind}") for s, side, kind in sides for i in range(s.n_layers)]
    names += [(config.decoder, f"decoder.layers.{i}.cross_attention") for i in range(config.decoder.n_layers)]
    return {f"{name}.key.bias": torch.zeros(stack.kv_heads * stack.head_width) for stack, name in names}


def speech_tokens(
    settings: Mapping[str, Any], tokenizer: Any, where: str, multilingual: bool | None = None
) -> dict[str, Any]:
    """The fields of a :class:`~edgewise.models.speech.SpeechConfig` that are tokens.

    ``settings``: of ``generation_config.json`` and ``config.json``; ``multilingual``: what they say where they do not
    say it in ``is_multilingual``.

    Raises:
        CheckpointError: a control token is missing, or a setting is wrong, or contradicts the tokenizer.
    """
    _refuse([*_faults(settings, tokenizer)], where)
    several = settings.get("is_multilingual")
    several = multilingual if several is None else several
    if several is None:
        several = settings.get("vocab_size", 0) >= MULTILINGUAL_VOCABULARY
    found: dict[str, Any] = {
        "no_timestamps_id": tokenizer.token_to_id(NO_TIMESTAMPS),
        "previous_id": tokenizer.token_to_id(PREVIOUS),
        "no_speech_id": next((i for name in NO_SPEECH if (i := tokenizer.token_to_id(name)) is not None), None),
        "begin_suppress": tuple(settings.get("begin_suppress_tokens") or ()),
        "max_initial_timestamp": settings.get("max_initial_timestamp_index"),
    }
    needed = {"no_timestamps_id": NO_TIMESTAMPS}
    if several:
        found["languages"] = _languages(settings, tokenizer)
        found |= {"transcribe_id": tokenizer.token_to_id(TRANSCRIBE), "translate_id": tokenizer.token_to_id(TRANSLATE)}
        needed |= {"transcribe_id": TRANSCRIBE, "translate_id": TRANSLATE, "languages": "that of a language, <|en|>"}
    lacks = [name for field, name in needed.items() if found[field] in (None, {})]
    _refuse([f"the tokenizer lacks the token {name}" for name in lacks], where)
    return found


def _refuse(faults: list[str], where: str) -> None:
    if faults:
        raise CheckpointError(f"{where}: {'; '.join(faults)}: save tokenizer and generation_config.json anew")


def _languages(settings: Mapping[str, Any], tokenizer: Any) -> dict[str, int]:
    """The tokens of languages, in the order of their ids: those that are named, or all that look like one."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    named = settings.get("lang_to_id") or vocabulary
    found = {match[1]: vocabulary[token] for token in named if (match := _LANGUAGE.fullmatch(token))}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _faults(settings: Mapping[str, Any], tokenizer: Any) -> Iterator[str]:
    """What is wrong with the settings that speak of control tokens."""
    several, initial = settings.get("is_multilingual"), settings.get("max_initial_timestamp_index")
    if several not in (None, True, False):
        yield f"is_multilingual is {several!r}, expected true or false"
    if initial is not None and type(initial) is not int:
        yield f"max_initial_timestamp_index is {initial!r}, expected a whole number"
    begin = settings.get("begin_suppress_tokens")
    if begin is not None and not (isinstance(begin, list) and all(type(token) is int for token in begin)):
        yield f"begin_suppress_tokens is {begin!r}, expected a list of token ids"
    named = {NO_TIMESTAMPS: settings.get("no_timestamps_token_id"), PREVIOUS: settings.get("prev_sot_token_id")}
    for field, pattern in (("lang_to_id", "{}"), ("task_to_id", "<|{}|>")):
        table = settings.get(field) or {}
        if not isinstance(table, dict):
            yield f"{field} is {table!r}, expected tokens and their ids"
            continue
        named |= {pattern.format(token): i for token, i in table.items()}
    for token, i in named.items():
        if i is not None and tokenizer.token_to_id(token) != i:
            yield f"{token} is {i!r} in generation_config.json, and {tokenizer.token_to_id(token)} in the tokenizer"


def special_controls(data: Any) -> str:
    """A ``tokenizer.json`` in which every control token is special: of some that are published, the times are not."""
    for token in data.get("added_tokens", ()):
        if _CONTROL.fullmatch(token.get("content", "")):
            token["special"] = True
    return json.dumps(data, ensure_ascii=False)


def _tokenizer(folder: Path, config: Mapping[str, Any]) -> str | None:
    file = folder / TOKENIZER
    data = read_json(file) if file.is_file() else None
    # What is no tokenizer is left to whoever reads it as one.
    return special_controls(data) if isinstance(data, dict) and "added_tokens" in data else None


WHISPER = Family(
    architectures=("WhisperForConditionalGeneration",),
    config=_config,
    keys=KEYS,
    copies={"vocabulary.weight": "embedding.weight"},
    computed=key_biases,
    tokenizer=_tokenizer,
    speech=speech_tokens,
)
