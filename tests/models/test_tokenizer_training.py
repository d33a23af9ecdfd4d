"""The trained tokenizer gives back what it read, and text never becomes a special token."""

from __future__ import annotations

import random
import unicodedata

import pytest
from tokenizers import Tokenizer

from edgewise.models.tokenizer import (
    END_ID,
    MASK_ID,
    PAD_ID,
    SPECIAL_TOKENS,
    START_ID,
    as_text_only,
    train_bpe,
    with_dropout,
)

LINES = ["A man is riding a bicycle.", "Ein Mann fährt Fahrrad.", "Two dogs run over the grass, fast!"] * 5
TYPED = ["</s>", "<0x41>", "a <mask> b", "<pad><s></s>", "x</s>y"]
AWKWARD = [
    "",
    "日本語 und 😀",
    "e\u0301 wird é",
    "a  b   c",
    " leads",
    "tab\there",
    "\u00a0\u3000",
    "Straße!?…",
    "\U0010ffff",
    *TYPED,
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return as_text_only(train_bpe(LINES, 340))


def _expected(line: str) -> str:
    """What the docstring of the module promises: NFC, any white space a space, one leading space lost."""
    text = "".join(" " if c.isspace() or c == "▁" else c for c in unicodedata.normalize("NFC", line))
    return text[1:] if text.startswith(" ") else text


def _ids(tokenizer: Tokenizer, line: str) -> list[int]:
    ids: list[int] = tokenizer.encode(line, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize("line", AWKWARD, ids=ascii)
def test_round_trip(tokenizer: Tokenizer, line: str) -> None:
    assert tokenizer.decode(_ids(tokenizer, line)) == _expected(line)


def test_round_trip_of_random_unicode(tokenizer: Tokenizer) -> None:
    """Any characters but surrogates and the separators U+001C..U+001F, white space to Python and to no one else."""
    rng = random.Random(0)
    pools = [range(32, 127), range(0xA0, 0x3000), range(0x3000, 0xD800), range(0xE000, 0x110000), range(9, 28)]
    for _ in range(500):
        line = "".join(chr(rng.choice(rng.choice(pools))) for _ in range(rng.randrange(1, 12)))
        assert tokenizer.decode(_ids(tokenizer, line)) == _expected(line), ascii(line)


@pytest.mark.parametrize("line", TYPED)
def test_typed_specials_are_characters(tokenizer: Tokenizer, line: str) -> None:
    assert not {PAD_ID, START_ID, END_ID, MASK_ID} & set(_ids(tokenizer, line))


def test_ids_of_the_specials(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [PAD_ID, START_ID, END_ID, MASK_ID]


def test_specials_have_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([START_ID, *_ids(tokenizer, "a man"), END_ID, PAD_ID]) == "a man"


def test_the_file_holds_no_template_padding_or_truncation(tokenizer: Tokenizer) -> None:
    assert (tokenizer.post_processor, tokenizer.padding, tokenizer.truncation) == (None, None, None)


def test_merge_dropout_spells_otherwise_what_reads_the_same(tokenizer: Tokenizer) -> None:
    """And the tokenizer it is made from keeps its merges."""
    line, dropped = LINES[0], with_dropout(tokenizer, 0.5)
    spellings = {tuple(_ids(dropped, line)) for _ in range(20)}
    assert len(spellings) > 1
    assert {tokenizer.decode(list(ids)) for ids in spellings} == {line}
    assert len({tuple(_ids(tokenizer, line)) for _ in range(20)}) == 1
    assert _ids(with_dropout(tokenizer, 0.0), line) == _ids(tokenizer, line)
