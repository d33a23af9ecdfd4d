"""Which words of a source the words of a result were made from, by the decoder's attention to its source.

A token is aligned by the cross-attention weights with which it was predicted: the mean over the heads of one decoder
layer, which the bundle names. They come from one teacher-forced pass over a finished result, so that searching costs
the same whether anybody asks or not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .batching import decoder_bytes, encoder_bytes, in_order, memory_budget, plan_batches
from .bundle import signature as names
from .bundle.manifest import Manifest, Variant
from .bundle.model_spec import ModelSpec
from .engine import Engine, Floats
from .inputs import right_pad
from .options import DecodingOptions
from .results import Alignment, WordPair
from .tokenizer import Tokenizer

Span = tuple[int, int]
"""Begin and end in characters of a text."""

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")
"""A word with its apostrophes, or one mark of punctuation."""


def check_attention(options: DecodingOptions, manifest: Manifest, variant: Variant) -> None:
    """Refuse options that need attention weights where there are none.

    Raises:
        InputError: the model reads no source, or the bundle was made without the graph.
    """
    asked = [name for name in ("alignments", "coverage_penalty") if getattr(options, name)]
    if not asked or names.ALIGNMENT in variant.graphs:
        return
    if manifest.model.encoder is None or manifest.model.decoder is None:
        raise InputError(f"{asked[0]} needs a model that translates a source; {manifest.name!r} has none: leave it out")
    raise InputError(
        f"{asked[0]} needs a graph {names.ALIGNMENT!r}, and variant {variant.name} of {manifest.name!r} has none: "
        "export the bundle again"
    )


def attention_of(
    engine: Engine,
    model: ModelSpec,
    sources: Sequence[tuple[int, ...]],
    targets: Sequence[Sequence[int]],
    prompts: Sequence[tuple[int, ...]],
    batch_size: int,
    check: Callable[[], None],
) -> list[Floats]:
    """Weights ``(T, S)`` with which each token of a target was predicted from its source; rows sum to one.

    ``prompts``: what the decoder reads before each target, all equally long.
    """
    lengths = [max(len(s), len(t)) for s, t in zip(sources, targets, strict=True)]
    batches = plan_batches(
        lengths,
        lambda length: encoder_bytes(model, length) + decoder_bytes(model, length, length, 1, 0),
        batch_size,
        memory_budget(),
    )

    def attend(batch: list[int]) -> list[Floats]:
        check()
        distinct = list(dict.fromkeys(sources[i] for i in batch))
        memory = engine.encode_source(*right_pad(distinct, model.pad_source))
        first = len(prompts[0]) - 1
        read = [(*prompts[i], *targets[i][:-1]) for i in batch]  # a token is predicted from those before it
        places = np.array([distinct.index(sources[i]) for i in batch])
        found = engine.cross_attention(memory, places, right_pad(read, model.pad_id)[0])
        return [
            row[first : first + len(targets[i]), : len(sources[i])].copy() for row, i in zip(found, batch, strict=True)
        ]

    return in_order(batches, map(attend, batches))


def alignment(weights: Floats, source: str, spans: Sequence[Span], target: str, ends: Sequence[int]) -> Alignment:
    """``weights (T, S)`` and the pairs of words that they make.

    ``spans``: where each of ``S`` tokens stands in ``source``, an empty span for a special token. ``ends``: how
    much of ``target`` is written after each of ``T`` tokens.
    """
    target_spans = list(zip([0, *ends], ends, strict=False))
    return Alignment(weights=weights, words=tuple(_pairs(weights, source, spans, target, target_spans)))


def _pairs(
    weights: Floats, source: str, spans: Sequence[Span], target: str, target_spans: Sequence[Span]
) -> list[WordPair]:
    """For every word of ``target`` the word of ``source`` that its tokens look at most, on average."""
    words = [match.span() for match in _WORD.finditer(source)]
    shares = _membership(spans, words)  # (S, source words)
    shares = shares / np.maximum(shares.sum(1, keepdims=True), 1)  # a token of several words: an equal part for each
    looks = weights.astype(np.float64) @ shares  # (T, source words)
    found = []
    for word in (match.span() for match in _WORD.finditer(target)):
        tokens = _membership(target_spans, [word])[:, 0] > 0
        if words and tokens.any():
            mean = looks[tokens].mean(0)
            found.append(WordPair(source=words[int(mean.argmax())], target=word, weight=float(mean.max())))
    return found


def _membership(tokens: Sequence[Span], words: Sequence[Span]) -> NDArray[np.float64]:
    """``(tokens, words)``: 1 where a token and a word have a character in common."""
    shared = [[float(max(a, c) < min(b, d)) for c, d in words] for a, b in tokens]
    return np.array(shared, np.float64).reshape(len(tokens), len(words))


def source_spans(tokenizer: Tokenizer, model: ModelSpec, text: str, ids: Sequence[int]) -> list[Span]:
    """Where each of ``ids``, which an encoder reads of ``text``, stands in it; special tokens stand nowhere."""
    marked = model.source((-1,))  # wherever a model puts its special tokens, the text's stand where this one does
    before = marked.index(-1)
    own = tokenizer.spans(text)[: len(ids) - len(marked) + 1]
    return [(0, 0)] * before + own + [(0, 0)] * (len(ids) - before - len(own))


def written_after(tokenizer: Tokenizer, tokens: Sequence[int], text: str) -> list[int]:
    """Characters of ``text``, the text of ``tokens`` or its beginning, that are sure after each of them."""
    begun = (tokenizer.continuation((), tokens[: i + 1]) for i in range(len(tokens)))
    return list(accumulate((_same(text, part) for part in begun), max))


def _same(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    differing = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))
