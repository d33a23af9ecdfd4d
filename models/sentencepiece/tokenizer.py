"""A ``tokenizer.json`` from a SentencePiece model, giving the tokens that the sentencepiece library gives.

The tokenizers library finds every token of a vocabulary in a text; SentencePiece finds normal and user-defined pieces
only. So what no text may give (control pieces, or tokens that another model adds for decoding) is spelled between marks
that no normalized text has, and decoding takes them off again: a typed ``</s>`` is four characters.

Decoding gives the text without special tokens, the unknown token among them, for which SentencePiece writes ``⁇``.

Known to differ: of a mark behind a ligature (``ﬁ`` and a grave accent), and of a letter with two marks that has a rule
with the second alone, the mark may go to the letter; where cases are folded, a Greek iota below (U+0345) and a dot
above ``I`` stay apart; so do the letters of a few scripts that Unicode 16 added. Rules other than those of NFKC that
replace several characters are not followed, see :mod:`.composing`. With byte fallback, a typed ``<0x41>`` is the byte
where the vocabulary lacks ``<``, ``0``, ``x``, ``>`` or the digits. Of segmentations whose log-probabilities float32
cannot tell apart, another may be taken.

Source: ``unigram_model.cc``, ``bpe_model.cc`` and ``sentencepiece_processor.cc`` of github.com/google/sentencepiece,
release 0.2.1.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from ...errors import TokenizerError
from ..merges import ranked_pairs
from .composing import Step
from .model import BYTE, NORMAL, UNIGRAM, USER_DEFINED, SentencePieceModel
from .normalizer import SPACE, Marks, around_unknown, marked, replace, steps

MAX_TEXT = 1 << 24  # characters, more than any text has
_OWN = -0.1  # SentencePiece adds the length times the highest score, which it begins to look for at FLT_MIN
_NEVER = -1e6  # log-probability: below any path through a text, and far from where float64 loses the others


def tokenizer_json(
    model: SentencePieceModel,
    tokens: Sequence[str] | None = None,
    special: Collection[str] | None = None,
    unknown: str | None = None,
    tags: Collection[str] = (),
    runs: bool = False,
) -> str:
    """The contents of a ``tokenizer.json``.

    ``tokens``: the vocabulary by id where it is not that of ``model``. Those that are pieces of ``model`` are found in
    texts, the rest only decoded; a piece that has no token is not found. ``special``, ``unknown``: which of them are
    special, and which stands for what no piece spells; both of ``model`` where they are ``None``. ``tags``: tokens that
    are found at the very beginning of a text, see :func:`.normalizer.steps`. ``runs``: whether unknown characters in a
    row that spell a token are that token, as where ids are looked up by piece (unigram only).

    Raises:
        TokenizerError: ``unknown`` is no token, user-defined pieces beside BPE, or too many merges.
    """
    names = [piece.text for piece in model.pieces] if tokens is None else list(tokens)
    unknown = model.pieces[model.unknown].text if unknown is None else unknown
    if unknown not in names:
        raise TokenizerError(f"the unknown token {unknown!r} is none of the {len(names)} tokens: it is needed")
    if special is None:
        special = {p.text for p in model.pieces if p.kind not in (NORMAL, USER_DEFINED, BYTE)}
    marks = Marks.beside([*names, *(piece.text for piece in model.pieces)])
    found = {piece.text for piece in model.pieces if piece.kind in (NORMAL, USER_DEFINED)} - set(special) - set(tags)
    kept = found | ({p.text for p in model.pieces if p.kind == BYTE} if model.byte_fallback else set())
    known = {character for name in names if name in found for character in name}
    normalizer = steps(model, marks, tags)
    spellings = {tag: f"{marks.begin}{tag}" for tag in tags}
    if runs and any(name not in kept and not known & set(name) for name in names):
        normalizer += around_unknown(known, marks)
        spellings = {tag: f"{marks.begin}{marked(tag, known, marks)}" for tag in tags}
    spelled = [spellings.get(name) or (name if name in kept else marks.sealed(name)) for name in names]
    writer = _unigram if model.kind == UNIGRAM else _bpe
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(index, spelled[index]) for index, name in enumerate(names) if name in special or name == unknown
        ],
        "normalizer": {"type": "Sequence", "normalizers": normalizer},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _decoders(model, marks)},
        "model": writer(model, names, spelled, unknown),
    }
    return json.dumps(data, ensure_ascii=False)


def _unigram(model: SentencePieceModel, names: list[str], spelled: list[str], unknown: str) -> dict[str, Any]:
    """What is sealed can only be met as a whole, so its score chooses nothing: 0.

    The library takes the lowest score for granted as that of the unknown, less 10, as SentencePiece does.
    """
    pieces = {piece.text: piece for piece in model.pieces}

    def score(name: str, spelling: str) -> float:
        piece = pieces.get(name)
        if piece is None or spelling != name:
            return 0.0
        if piece.kind == USER_DEFINED:  # whatever it says: wins over nearly any other way to cut what it spells
            return _OWN
        return _NEVER if piece.kind == BYTE else piece.score

    return {
        "type": "Unigram",
        "unk_id": names.index(unknown),
        "vocab": [[spelling, score(name, spelling)] for name, spelling in zip(names, spelled, strict=True)],
        "byte_fallback": model.byte_fallback,
    }


def _bpe(model: SentencePieceModel, names: list[str], spelled: list[str], unknown: str) -> dict[str, Any]:
    """The pair that makes the piece of the highest score is merged first: so the scores are the ranks of merges."""
    if own := [piece.text for piece in model.pieces if piece.kind == USER_DEFINED]:
        raise TokenizerError(
            f"user-defined pieces ({', '.join(own[:3])}) of a BPE model are not converted: use a tokenizer.json"
        )
    taken = set(names)
    normal = [piece for piece in model.pieces if piece.kind == NORMAL and piece.text in taken]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": spelled[names.index(unknown)],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": False,
        "vocab": {spelling: index for index, spelling in enumerate(spelled)},
        "merges": ranked_pairs([piece.text for piece in normal], [piece.score for piece in normal]),
    }


def _decoders(model: SentencePieceModel, marks: Marks) -> list[Step]:
    """Where texts are stripped, SentencePiece takes a space off every piece for as long as there is no text."""
    back = [
        replace(f"[{marks.begin}{marks.end}]", ""),
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    ]
    bytes_back = [{"type": "ByteFallback"}] if model.byte_fallback else []
    leading = MAX_TEXT if model.strips else int(model.adds_prefix)
    strip = [{"type": "Strip", "content": " ", "start": leading, "stop": 0}] if leading else []
    return [*back, *bytes_back, {"type": "Fuse"}, *strip]


def _added(index: int, spelling: str) -> dict[str, Any]:
    return {
        "id": index,
        "content": spelling,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
