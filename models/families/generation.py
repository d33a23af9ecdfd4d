"""What ``generation_config.json`` says: what a bundle can hold becomes its defaults, the rest is not passed over.

Where that file lacks a field, an older ``config.json`` may have it. Lengths count the decoder's prompt there, and new
tokens alone in a bundle. A ``max_length`` that is the network's own, and every limit of a decoder alone, is no
recommendation: it is passed over. Sampling is recommended where ``do_sample`` says so. Hugging Face applies the rules
of beam search to log-probabilities and does not make them sum to one again, unless ``renormalize_logits`` says so,
where this runtime always does.

Reference: ``transformers/generation/configuration_utils.py`` of transformers 5.24.0, ``GenerationConfig``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import CheckpointError
from ..config import ModelConfig

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "diversity_penalty": (0.0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_decoder_ids": ([],),
    "guidance_scale": (1.0,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0.0,),
    "remove_invalid_values": (False,),
    "sequence_bias": ({}, []),
    "stop_strings": ([],),
    "token_healing": (False,),
    "watermarking_config": (),
}
"""Fields that change tokens and have no place in a bundle, and the values with which they change none."""
_OF_SPEECH = frozenset({"begin_suppress_tokens", "forced_decoder_ids"})
"""Of a network that hears, these are in its configuration: the first, and the tokens of languages and tasks."""
_NEUTRAL_SAMPLING: dict[str, tuple[Any, ...]] = {"epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,), "top_h": ()}
_TOP_K = 50  # where a file samples and does not say


@dataclass(frozen=True)
class _Kind:
    """What a field may be, and how that is said."""

    takes: Callable[[Any], bool]
    expected: str


def _number(low: float, high: float) -> _Kind:
    return _Kind(lambda v: type(v) in (int, float) and low <= v <= high, f"a number from {low:g} to {high:g}")


_WHOLE = _Kind(lambda v: type(v) is int and 0 <= v < 1 << 24, "a whole number of at least 0")
_SHARE = _number(1e-6, 1.0)
_IDS = _Kind(lambda v: isinstance(v, list) and all(type(i) is int and i >= 0 for i in v), "a list of token ids")
_WORDS = _Kind(
    lambda v: isinstance(v, list) and all(isinstance(w, list) and w and _IDS.takes(w) for w in v),
    "lists of token ids",
)
_KINDS = {
    "bad_words_ids": _WORDS,
    "do_sample": _Kind(lambda v: isinstance(v, bool), "true or false"),
    "early_stopping": _Kind(lambda v: isinstance(v, bool) or v == "never", "true, false or 'never'"),
    "length_penalty": _number(0.0, 10.0),
    "max_length": _WHOLE,
    "max_new_tokens": _WHOLE,
    "min_length": _WHOLE,
    "min_new_tokens": _WHOLE,
    "no_repeat_ngram_size": _WHOLE,
    "repetition_penalty": _number(0.01, 100.0),
    "suppress_tokens": _IDS,
}
_SAMPLING_KINDS = {
    "temperature": _number(1e-3, 100.0), "top_k": _WHOLE, "top_p": _SHARE, "min_p": _number(0.0, 1.0),
    "typical_p": _SHARE,
}  # fmt: skip


def check_generation(generation: Mapping[str, Any], model: ModelConfig, where: str) -> None:
    """Refuse what would change tokens and has no place in a ``model`` or its bundle; ``where`` begins the message.

    Fields that concern how fast it goes and what is returned are passed over.

    Raises:
        CheckpointError: there is such a field, or one that contradicts the model.
    """
    given = {name: value for name, value in generation.items() if value is not None}
    known = _OF_SPEECH if model.speech is not None else frozenset[str]()
    neutral = {name: values for name, values in _NEUTRAL.items() if name not in known}
    neutral |= _NEUTRAL_SAMPLING if given.get("do_sample") is True else {}
    faults = [
        f"{name} is {given[name]!r}" for name, values in neutral.items() if name in given and given[name] not in values
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


def recommended(
    generation: Mapping[str, Any], config: Mapping[str, Any], model: ModelConfig, longest: int, where: str
) -> dict[str, Any]:
    """The decoding that a folder recommends, as a bundle's ``Generation`` has it; nothing for an encoder alone.

    ``longest``: the context of the bundle. ``where`` begins messages.

    Raises:
        CheckpointError: a field is not what it has to be.
    """
    if model.decoder is None:
        return {}
    stated = {**config, **{name: value for name, value in generation.items() if value is not None}}
    given = _checked(stated, _KINDS, where)
    prompt = 1 + _forces(model)  # what the decoder reads beside an encoder; a forced token is no new one
    found: dict[str, Any] = {"length_norm": "power", "length_penalty": given.get("length_penalty", 1.0)}
    found["early_stopping"] = given.get("early_stopping", False)
    found["repetition_penalty"] = given.get("repetition_penalty", 1.0)
    found["no_repeat_ngram"] = given.get("no_repeat_ngram_size") or None
    if model.encoder is None:
        if given.get("min_length"):
            raise CheckpointError(f"{where}: min_length is {given['min_length']}, which counts a prompt: take it out")
        least, room = given.get("min_new_tokens", 0), longest
    else:
        least = max(given.get("min_length", 0) - prompt, given.get("min_new_tokens", 0) - (prompt - 1), 0)
        room = longest + 1 - prompt
        most = given["max_length"] - prompt if 0 < given.get("max_length", 0) < longest else None
        if "max_new_tokens" in given:
            most = given["max_new_tokens"] - (prompt - 1)
        if most is not None:
            found["max_new_tokens"] = room = max(1, min(most, room))
    if least > room:
        raise CheckpointError(f"{where}: results of {least} new tokens and more, expected at most {room}: correct it")
    found["min_new_tokens"] = least
    found["suppress"] = _suppressed(given, model)
    if given.get("do_sample"):
        found["sampling"] = _sampling(_checked(stated, _SAMPLING_KINDS, where))
    return found


def _forces(model: ModelConfig) -> bool:
    """Whether the first token is given: one for all texts, or that of a language."""
    return model.forced_id is not None or (model.languages is not None and model.languages.target == "forced")


def _checked(stated: Mapping[str, Any], kinds: Mapping[str, _Kind], where: str) -> dict[str, Any]:
    given = {name: stated[name] for name in kinds if stated.get(name) is not None}
    if wrong := [name for name in given if not kinds[name].takes(given[name])]:
        faults = (f"{name} is {given[name]!r}, expected {kinds[name].expected}" for name in wrong)
        raise CheckpointError(f"{where}: {'; '.join(faults)}")
    return given


def _suppressed(given: Mapping[str, Any], model: ModelConfig) -> list[list[int]]:
    """Sequences that must not come. Words of one token a network beside an encoder forbids by itself, or refuses."""
    words = [word for word in given.get("bad_words_ids", ()) if len(word) > 1 or model.encoder is None]
    return [*words, *([token] for token in given.get("suppress_tokens", ()))]


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    shares = {name: given.get(name) for name in ("top_p", "typical_p")}
    return {
        "temperature": given.get("temperature", 1.0),
        "top_k": given.get("top_k", _TOP_K) or None,
        "min_p": given.get("min_p") or None,
        **{name: None if value == 1 else value for name, value in shares.items()},
    }
