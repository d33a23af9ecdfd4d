"""The sweep over a vocabulary: every text fits, and every token that text can give occurs in one."""

from __future__ import annotations

import string

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from edgewise.export.probes import sweep
from edgewise.runtime.tokenizer import Tokenizer

SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]
LETTERS = [*string.ascii_letters, *string.digits, " ", ".", "-"]
UNUSED_BYTES = {f"<0x{byte:02X}>" for byte in [*range(0x80), 0xC0, 0xC1, *range(0xF5, 0x100)]}


def _characters() -> Tokenizer:
    """A token for every character, the space among them; the rest is unknown."""
    library = Library(models.WordLevel({c: i for i, c in enumerate([*SPECIALS, *LETTERS])}, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return _special(library)


def _bytes() -> Tokenizer:
    """A token for every character, and the bytes of those that have none."""
    pieces = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS]
    library = Library(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    library.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return _special(library)


def _dear_beginnings() -> Tokenizer:
    """A word is one token behind a space, and many at the beginning of a text."""
    pieces = [*SPECIALS, *string.ascii_lowercase, "\u0120", *(f"\u0120{'b' * n}" for n in range(1, 9))]
    merges = [("\u0120", "b"), *((f"\u0120{'b' * n}", "b") for n in range(1, 8))]
    library = Library(models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return _special(library)


def _special(library: Library) -> Tokenizer:
    library.add_special_tokens(SPECIALS)
    return Tokenizer(library.to_str().encode())


@pytest.mark.parametrize("room", [0, 1, 2, 3, 5, 20, 255])
@pytest.mark.parametrize("make", [_characters, _bytes, _dear_beginnings])
def test_every_text_fits(make: object, room: int) -> None:
    codec = make()  # type: ignore[operator]
    assert all(0 < len(codec.encode(text)) <= room for text in sweep(codec, room))


@pytest.mark.parametrize("room", [6, 14, 20, 100, 255])
@pytest.mark.parametrize("make", [_characters, _bytes])
def test_no_token_gets_lost_where_spaces_are_tokens(make: object, room: int) -> None:
    codec = make()  # type: ignore[operator]
    seen = {token for text in sweep(codec, room) for token in codec.encode(text)}
    unseen = {codec.piece(token) for token in range(codec.vocab_size) if token not in seen}
    assert unseen <= {*SPECIALS, *UNUSED_BYTES}
