"""What an encoder-only model is asked: the class of a text, its likeness to others, and the word behind a mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, InputError
from .bundle.manifest import Manifest
from .bundle.model_spec import ModelSpec
from .engine import Floats
from .inputs import Prepared, too_long
from .results import Classification, Fill
from .softmax import log_softmax
from .tokenizer import Tokenizer, check_text

MASK = "<mask>"
_STAND_IN = "\U0010fffd"  # private use, so in no vocabulary and in hardly any text


def probabilities(logits: Floats) -> Floats:
    """Softmax over the last axis.

    Raises:
        EngineError: a logit is NaN or infinite.
    """
    if not np.isfinite(logits).all():
        raise EngineError("the engine gave NaN or infinite logits: its weights are damaged; run `edgewise verify`")
    return np.exp(log_softmax(logits)).astype(np.float32)


def class_scores(model: ModelSpec, logits: Floats) -> Floats:
    """What the model's scores of classes are, from ``logits (classes,)``.

    Raises:
        EngineError: a logit is NaN or infinite.
    """
    chances = probabilities(logits)
    if model.class_scores == "softmax":
        return chances
    return logits if model.class_scores == "identity" else (0.5 * (1 + np.tanh(0.5 * logits))).astype(np.float32)


def classification(manifest: Manifest, source: Prepared, scores: Floats) -> Classification:
    """The class of a text from ``scores (classes,)``."""
    values = scores.tolist()
    names = manifest.model.class_names
    best = max(range(len(values)), key=values.__getitem__)
    return Classification(
        label=names[best],
        probability=values[best],
        probabilities=dict(zip(names, values, strict=True)),
        truncated=source.truncated,
    )


def cosines(left: Sequence[Floats], right: Sequence[Floats]) -> NDArray[np.float32]:
    """Cosine similarity ``(N, M)`` of vectors ``N x (D,)`` and ``M x (D,)``; of a zero vector, 0."""
    rows, columns = (_unit(np.array(vectors, np.float64)) for vectors in (left, right))
    return (rows @ columns.T).astype(np.float32)


def unit(vector: Floats) -> Floats:
    """``vector (D,)`` at length 1."""
    return _unit(vector.astype(np.float64)).astype(np.float32)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float64).tiny)


def masked_tokens(tokenizer: Tokenizer, manifest: Manifest, text: str) -> tuple[tuple[int, ...], int]:
    """What an encoder reads of a text with one ``<mask>``, and the place of the mask among these tokens.

    Raises:
        InputError: not exactly one mask.
        ContextLengthError: too long.
    """
    check_text(text, "text")
    if (count := text.count(MASK)) != 1:
        raise InputError(f"text has {count} times {MASK}, expected once")
    model = manifest.model
    before, after = _around_mask(tokenizer, text, model.mask_id) if model.mask_splits_text else _apart(tokenizer, text)
    assert model.mask_id is not None  # the manifest of a fill_mask bundle has one
    ids = model.source((*before, model.mask_id, *after))
    if len(ids) > manifest.max_context:
        raise too_long("text", len(ids), manifest.max_context, cut=False)
    return ids, len(before) + int(model.starts_text)


def _around_mask(tokenizer: Tokenizer, text: str, mask_id: int | None) -> tuple[list[int], list[int]]:
    """Both sides by themselves, as the ``tokenizers`` library splits a text at a special token.

    White space beside the mask belongs to it where the tokenizer's file says so.
    """
    before, after = text.split(MASK)
    strips_left, strips_right = tokenizer.strips(mask_id)
    before, after = before.rstrip() if strips_left else before, after.lstrip() if strips_right else after
    return tokenizer.encode_part(before), tokenizer.encode_part(after)


def _apart(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """Both sides as they are beside a word.

    While the text is split into tokens, a character that no vocabulary has stands for the mask. It comes out as its
    UTF-8 bytes, behind the mark of a word's beginning.
    """
    if _STAND_IN in text:
        raise InputError("text holds U+10FFFD, which stands for the mask in here: remove it")
    stand_in = tokenizer.encode(_STAND_IN)  # with the mark of a word's beginning, if the tokenizer has one
    bare = stand_in[1:] if tokenizer.decode(stand_in[:1]).strip() == "" and len(stand_in) > 1 else stand_in
    ids = tokenizer.encode(text.replace(MASK, _STAND_IN))
    place = next((i for i in range(len(ids)) if ids[i : i + len(bare)] == bare), None)
    if place is None:
        raise InputError(f"the tokenizer of this bundle cannot place {MASK} in the text")
    begin = place - 1 if stand_in != bare and ids[:place][-1:] == stand_in[:1] else place
    return ids[:begin], ids[place + len(bare) :]


def fills(tokenizer: Tokenizer, ids: tuple[int, ...], place: int, logits: Floats, top: int) -> list[Fill]:
    """The ``top`` most probable tokens at ``place`` from ``logits (V,)``, best first, specials left out."""
    values = probabilities(logits)
    ranked = (t for t in np.argsort(-values, kind="stable").tolist() if t not in tokenizer.special_ids)
    return [
        Fill(
            text=tokenizer.decode((*ids[:place], token, *ids[place + 1 :])),
            token=token,
            piece=tokenizer.piece(token),
            probability=float(values[token]),
        )
        for token, _ in zip(ranked, range(top), strict=False)
    ]
