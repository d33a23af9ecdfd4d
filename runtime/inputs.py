"""From text to what a model reads: special tokens, the limits of the context, and padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ContextLengthError, InputError
from .bundle.manifest import Manifest
from .bundle.model_spec import ModelSpec
from .engine import Ids, Mask
from .options import DecodingOptions, Overflow
from .tokenizer import Tokenizer

EXTRA_TOKENS = 50
"""How much longer than its source a result may be by default (Vaswani et al. 2017, section 6.1)."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The tokens of one text with their specials; ``truncated`` says that the text had more.

    ``second_from``: where the second text of a pair begins, with its segment. ``prompt``: what a decoder beside an
    encoder reads before the first token of a result; nothing: what the model says.
    """

    ids: tuple[int, ...]
    truncated: bool = False
    second_from: int | None = None
    prompt: tuple[int, ...] = ()


def prepare_source(
    tokenizer: Tokenizer,
    manifest: Manifest,
    text: str,
    overflow: Overflow,
    name: str,
    model: ModelSpec | None = None,
    windows: bool = False,
) -> Prepared:
    """Text and special tokens, for an encoder. A text beyond the context is refused, or loses its end.

    ``model``: what that of the ``manifest`` is for the chosen languages. ``windows``: whether the caller could
    read it in windows instead, for the message.

    Raises:
        ContextLengthError: too long, and ``overflow`` is ``error``.
    """
    ids, model = tokenizer.encode(text, name), model or manifest.model
    specials = len(model.source(()))
    room = manifest.max_context - specials
    if len(ids) > room and overflow == "error":
        raise too_long(name, len(ids) + specials, manifest.max_context, windows=windows)
    prompt = model.decoder_prompt if model.decoder else ()
    return Prepared(ids=model.source(ids[:room]), truncated=len(ids) > room, prompt=prompt)


def prepare_pair(
    tokenizer: Tokenizer, manifest: Manifest, first: str, second: str, overflow: Overflow, name: str
) -> Prepared:
    """Two texts and special tokens, for an encoder. Beyond the context they are refused, or the longer loses its end.

    Raises:
        InputError: the model reads no pairs.
        ContextLengthError: too long, and ``overflow`` is ``error``.
    """
    model = manifest.model
    if not model.pair_between:
        raise InputError("this model reads one text and no pairs: its tokenizer puts nothing between two")
    texts = tokenizer.encode(first, name), tokenizer.encode(second, f"the pair of {name}")
    specials = len(model.pair((), ()))
    room, tokens = manifest.max_context - specials, sum(map(len, texts))
    if tokens > room and overflow == "error":
        raise too_long(f"{name} with its pair", tokens + specials, manifest.max_context)
    kept = longest_first(len(texts[0]), len(texts[1]), room)
    one, two = (ids[:most] for ids, most in zip(texts, kept, strict=True))
    return Prepared(ids=model.pair(one, two), truncated=tokens > room, second_from=model.second_from(one))


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts are kept: the longer gives way until both fit, then each in turn.

    As ``TruncationStrategy::LongestFirst`` of the ``tokenizers`` library.
    """
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = room - short
    kept = (short, long) if first <= second else (long, short)
    return min(first, kept[0]), min(second, kept[1])


def prepare_prompt(
    tokenizer: Tokenizer, manifest: Manifest, text: str, options: DecodingOptions, name: str
) -> Prepared:
    """Text, after the start token where the model has one there, for a decoder alone.

    A text beyond the context is refused, or loses its beginning. A shortened prompt leaves room for ``max_new_tokens``,
    by default ``EXTRA_TOKENS`` or half of the context, and ``min_new_tokens`` at least.

    Raises:
        ContextLengthError: too long, and ``options.overflow`` is ``error``.
    """
    ids, model = tokenizer.encode(text, name), manifest.model
    specials = int(model.starts_text)
    room = manifest.max_context - specials
    if len(ids) <= room:
        return Prepared(ids=model.prompt(ids))
    if options.overflow == "error":
        raise too_long(name, len(ids) + specials, manifest.max_context)
    default = min(EXTRA_TOKENS, manifest.max_context // 2)
    wanted = options.max_new_tokens or max(default, options.min_new_tokens)
    kept = max(1, manifest.max_context - wanted)
    return Prepared(ids=model.prompt(ids[-kept:]), truncated=True)


def default_new_tokens(source_tokens: int, max_context: int) -> int:
    """Most new tokens where nobody said: ``EXTRA_TOKENS`` more than the source, within the context."""
    return min(source_tokens + EXTRA_TOKENS, max_context)


def new_token_room(manifest: Manifest, source_tokens: int) -> int:
    """New tokens that the context has room for: the decoder reads its prompt and every new token but the last."""
    prompt = manifest.model.prompt_length if manifest.model.encoder else source_tokens
    return manifest.max_context + 1 - prompt


def new_token_limit(manifest: Manifest, source_tokens: int, options: DecodingOptions, name: str) -> int:
    """Most new tokens for one text, by default no fewer than ``options.min_new_tokens``.

    Raises:
        ContextLengthError: ``options.max_new_tokens``, or without it ``options.min_new_tokens``, is more than fits, and
            ``options.overflow`` is ``error``.
    """
    room = new_token_room(manifest, source_tokens)
    option = "min_new_tokens" if options.max_new_tokens is None else "max_new_tokens"
    asked: int = getattr(options, option)
    if asked > room and options.overflow == "error":
        raise ContextLengthError(
            f"{option} ({asked}) does not fit: {name} leaves room for {room} in the context of "
            f"{manifest.max_context} tokens; lower it, or pass overflow='truncate'"
        )
    default = default_new_tokens(source_tokens, manifest.max_context)
    return min(room, options.max_new_tokens or max(default, asked))


def prepare_prefix(tokenizer: Tokenizer, text: str, limit: int, options: DecodingOptions, name: str) -> tuple[int, ...]:
    """Tokens of what a result has to begin with; an empty text has none.

    Raises:
        InputError: a stop string is in it, or its text has no tokens.
        ContextLengthError: it leaves no room for more within ``limit`` tokens.
    """
    if text == "":
        return ()
    ids = tuple(tokenizer.encode(text, f"the prefix of {name}"))
    if not ids:
        raise InputError(f"the prefix of {name} ({text!r}) has no tokens in this vocabulary: write it otherwise")
    if stops := [stop for stop in options.stop if stop in tokenizer.decode(ids)]:
        raise InputError(f"the prefix of {name} holds the stop string {stops[0]!r}, where its result would have ended")
    if len(ids) >= limit:
        raise ContextLengthError(
            f"the prefix of {name} has {len(ids)} tokens and a result {limit} at most: shorten it, or raise "
            "max_new_tokens"
        )
    return ids


def resolve_tokens(tokenizer: Tokenizer, manifest: Manifest, options: DecodingOptions) -> DecodingOptions:
    """``options`` with token ids for texts.

    Raises:
        InputError: a token id beyond the vocabulary, or a text that must come and must not.
    """
    if not (options.suppress or options.include or options.logit_bias or options.end_ids):
        return options
    phrases = {"suppress": options.suppress, "include": options.include}
    resolved = {
        name: tuple(tuple(tokenizer.encode(p, name) if isinstance(p, str) else p) for p in given)
        for name, given in phrases.items()
    }
    size = manifest.model.vocab_size
    single = {"logit_bias": tuple(options.logit_bias), "end_ids": tuple(options.end_ids)}
    for name, ids in {**{n: sum(p, ()) for n, p in resolved.items()}, **single}.items():
        if wrong := [i for i in ids if not 0 <= i < size]:
            raise InputError(f"{name} has the token id {wrong[0]}, and the vocabulary ends at {size - 1}")
    _refuse_contradictions(options, resolved["include"], resolved["suppress"])
    return replace(options, suppress=resolved["suppress"], include=resolved["include"])


def _refuse_contradictions(
    options: DecodingOptions, include: Sequence[tuple[int, ...]], suppress: Sequence[tuple[int, ...]]
) -> None:
    """Refuse a phrase that can never be complete, for which a search would go on to its limit."""
    for wanted, tokens in zip(options.include, include, strict=True):
        for unwanted, forbidden in zip(options.suppress, suppress, strict=True):
            size = len(forbidden)
            if any(tokens[i : i + size] == forbidden for i in range(len(tokens) - size + 1)):
                raise InputError(
                    f"include ({wanted!r}) and suppress ({unwanted!r}) contradict each other: the one cannot come "
                    "without the other; leave one of them out"
                )


def check_target(manifest: Manifest, ids: Sequence[int], name: str) -> None:
    """Refuse a text to be scored that the decoder cannot read whole.

    Raises:
        ContextLengthError: too long.
    """
    model = manifest.model
    tokens = len(ids) + (model.prompt_length if model.encoder else int(model.starts_text))
    if tokens > manifest.max_context:
        raise ContextLengthError(
            f"{name} has {tokens} tokens, more than the {manifest.max_context} this model reads: shorten it"
        )


def right_pad(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Ids, Mask]:
    """Token ids ``(B, S)`` and their mask ``(B, S)``, false on the padding at the right."""
    ids = np.full((len(sequences), max(map(len, sequences))), pad_id, dtype=np.int64)
    mask = np.zeros(ids.shape, dtype=np.bool_)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = sequence
        mask[i, : len(sequence)] = True
    return ids, mask


def segments_of(model: ModelSpec, sources: Sequence[Prepared], length: int) -> Ids | None:
    """Segments ``(B, length)`` of padded ``sources``; ``None`` where a model has one segment."""
    if not model.second_segment:
        return None
    segments = np.zeros((len(sources), length), dtype=np.int64)
    for row, source in zip(segments, sources, strict=True):
        if source.second_from is not None:
            row[source.second_from : len(source.ids)] = model.second_segment
    return segments


def too_long(name: str, tokens: int, max_context: int, cut: bool = True, windows: bool = False) -> ContextLengthError:
    """The error for a text of ``tokens`` tokens; ``cut``, ``windows``: whether ``overflow`` could do these."""
    remedy = "overflow='truncate'" + (", or 'windows' to read all of it" if windows else "")
    return ContextLengthError(
        f"{name} has {tokens} tokens, more than the {max_context} this model reads: shorten "
        + (f"or split it, or pass {remedy}" if cut else "it")
    )
