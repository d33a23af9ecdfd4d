"""Tokens and texts against the sentencepiece library, for every option it trains with."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tokenizers

from edgewise.errors import TokenizerError
from edgewise.export.sentences import SENTENCES
from edgewise.models.sentencepiece.model import NORMAL, UNIGRAM, Piece, SentencePieceModel, parse_model, read_model
from edgewise.models.sentencepiece.tokenizer import tokenizer_json
from edgewise.runtime.tokenizer import Tokenizer

from .trained import OPTIONS, library, mixed, train, trained

pytestmark = pytest.mark.slow
SYMBOLS = ["<sep> a dog <sep>b  <2de>hotdog </s> <s> <unk> <ctl>   end  ", "</s>", "▁a▁ b", "a\ufdd0b\ufdd1"]


def converted(data: bytes) -> Tokenizer:
    return Tokenizer(tokenizer_json(parse_model(data, "tiny.model")).encode())


@pytest.mark.parametrize("case", OPTIONS)
def test_tokens_and_texts_are_those_of_the_library(case: str) -> None:
    theirs, ours = library(trained(case)), converted(trained(case))
    differing = []
    for line in [*SYMBOLS[:3], *mixed(2000)]:
        expected = theirs.encode(line)
        if ours.encode(line) != expected:
            differing.append(line)
        known = [token for token in expected if token != theirs.unk_id()]
        assert ours.decode(known) == theirs.decode(known)
    assert not differing


@pytest.mark.parametrize("case", ["unigram", "bpe"])
def test_nothing_typed_is_a_control_piece_or_a_mark(case: str) -> None:
    theirs, ours = library(trained(case)), converted(trained(case))
    control = {token for token in range(len(theirs)) if theirs.is_control(token)}
    assert control
    assert control < ours.special_ids
    for line in SYMBOLS:
        assert not control & set(ours.encode(line))
        assert ours.encode(line) == theirs.encode(line)
    assert ours.decode([*control, *ours.encode("a dog"), *control]) == "a dog"


def test_bytes_come_back() -> None:
    ours = converted(trained("bpe, bytes"))
    for line in ("日本 🙂 q", "a\u1234b", "Ω"):
        assert ours.decode(ours.encode(line)) == line


# Characters in parts: letters and marks, Korean, Japanese with full and half width, marks in an unusual order.
PARTS = ["E\u0301", "e\u0301", "ﾊﾟﾝ", "ﾊﾞ", "テ\u3099", "\u1100\u1161\u11a8", "\u1100\u1161", "가\u11a8", "½\u0301"]
ORDERS = [
    "e\u0302\u0323",
    "e\u0323\u0302",
    "ê\u0301",
    "ế\u0323",
    "شَّ",
    "شَّ",
    "שּׁ",
    "שָּׁ",
    "a\r\nb",
    "q\u0307\u0323",
    "ई\u093c",
]
SCRIPTS = (
    (0x41, 0x250),
    (0x370, 0x400),
    (0x400, 0x482),
    (0x900, 0xE00),
    (0x1E00, 0x2000),
    (0x3041, 0x3100),
    (0xAC00, 0xD7A4),
)


def in_parts(count: int) -> Iterator[str]:
    """Words of letters that are spelled in parts."""
    generator = random.Random(7)
    letters = [[c for c in map(chr, range(a, b)) if unicodedata.category(c)[0] == "L"] for a, b in SCRIPTS]
    for _ in range(count):
        word = "".join(generator.choice(generator.choice(letters)) for _ in range(8))
        yield unicodedata.normalize(generator.choice(("NFD", "NFKD")), word)


@pytest.mark.parametrize("rules", ["nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf"])
def test_characters_in_parts(rules: str) -> None:
    known_to_differ = ("\u0345", "I\u0307") if rules.endswith("cf") else ()
    lines = [*PARTS, *ORDERS, *(t for t in in_parts(2000) if not any(text in t for text in known_to_differ))]
    data = train(SENTENCES, vocab_size=60, normalization_rule_name=rules)
    theirs, ours = library(data), tokenizers.Tokenizer.from_str(tokenizer_json(parse_model(data, "tiny.model")))
    assert ours.normalizer is not None
    wrong = [ascii(line) for line in lines if ours.normalizer.normalize_str(line) != theirs.Normalize(line)]
    assert not wrong, wrong[:3]


def lines_of(assets: Path) -> Iterator[str]:
    for file in sorted([*(assets / "multi30k").glob("*.*"), *(assets / "text").glob("*.txt")]):
        for line in file.read_text(encoding="utf-8").split("\n")[:2500]:
            if line.strip():
                yield line


@pytest.mark.real
@pytest.mark.parametrize("name", ["enpt.spm", "pten.spm", "spm_32k.model"])
def test_published_models_on_ten_thousand_lines(name: str, models: Callable[[str], Path], assets: Path) -> None:
    file = models("sentencepiece") / name
    theirs, ours = library(file.read_bytes()), Tokenizer(tokenizer_json(read_model(file)).encode())
    lines = list(lines_of(assets))
    assert len(lines) >= 10_000
    for line in lines:
        expected = theirs.encode(line)
        assert ours.encode(line) == expected, line
        known = [token for token in expected if token != theirs.unk_id()]
        assert ours.decode(known) == theirs.decode(known)


def tiny(*texts: str) -> SentencePieceModel:
    pieces = (Piece(text="<unk>", score=0.0, kind=2), *(Piece(text=t, score=-1.0, kind=NORMAL) for t in texts))
    return SentencePieceModel(
        kind=UNIGRAM, pieces=pieces, charsmap=b"", adds_prefix=True, strips=True, byte_fallback=False
    )


def test_another_vocabulary_is_found_where_the_model_has_it_and_decoded_everywhere() -> None:
    tokens = ["</s>", "<unk>", "▁b", "▁a", "ж", "ab"]
    ours = Tokenizer(tokenizer_json(tiny("▁a", "▁b", "▁c", "▁"), tokens, {"</s>"}, "<unk>").encode())
    assert ours.encode("a b ab") == [3, 2, 3, 1]
    assert ours.encode("c") == [1]  # a piece without a token leaves nothing
    assert ours.decode([3, 4, 2, 5, 0, 1]) == "aж bab"


def test_unknown_characters_in_a_row_may_be_a_token() -> None:
    tokens = ["</s>", "<unk>", "▁", "a", "ж", "жз"]
    text = tokenizer_json(tiny("▁", "a"), tokens, {"</s>"}, "<unk>", runs=True)
    ours = Tokenizer(text.encode())
    assert ours.encode("a ж aжз жзж зa ж") == [2, 3, 2, 4, 2, 3, 5, 2, 1, 2, 1, 3, 2, 4]
    assert ours.decode([2, 4, 5]) == "жжз"


def test_tags_are_tokens_at_the_beginning_only() -> None:
    """Whose letters may be unknown elsewhere, or tokens of the other side: here ``d``, ``e`` and ``u``."""
    tokens = ["</s>", "<unk>", "▁", "a", ">>fra<<", ">>deu<<", ">", "<", "f", "r", "u"]
    text = tokenizer_json(
        tiny("▁", "a", ">", "<", "f", "r"), tokens, {"</s>"}, "<unk>", (">>fra<<", ">>deu<<"), runs=True
    )
    ours = Tokenizer(text.encode())
    for line in (">>fra<< a", ">>fra<<a", ">>fra<<   a"):
        assert ours.encode(line) == [4, 2, 3]
    assert ours.encode(">>deu<<") == [5]
    assert ours.encode(">>deu<< u du") == [5, 2, 10, 2, 1]
    assert ours.encode(">>xyz<< a") == [1, 2, 3]
    assert ours.encode("a >>fra<<") == [2, 3, 2, 6, 6, 8, 9, 3, 7, 7]
    assert ours.encode(" >>fra<< a")[0] == 2
    assert ours.decode([4, 2, 3]) == ">>fra<< a"


def test_an_unknown_token_has_to_be_there() -> None:
    with pytest.raises(TokenizerError, match="the unknown token '<unk>' is none of the 2 tokens: it is needed"):
        tokenizer_json(tiny("a"), ["a", "b"])


def test_own_symbols_beside_bpe_are_refused() -> None:
    data = train(("a dog plays",) * 3, model_type="bpe", user_defined_symbols=["<sep>"], vocab_size=20)
    with pytest.raises(TokenizerError, match=r"user-defined pieces \(<sep>\) of a BPE model are not converted: use"):
        converted(data)


def test_a_vocabulary_of_nothing_but_marks_is_refused() -> None:
    with pytest.raises(TokenizerError, match=r"use all but 2 of the noncharacters U\+FDD0 to U\+FDEF, expected five"):
        tokenizer_json(tiny(*(chr(code) for code in range(0xFDD0, 0xFDEE))))


def test_the_runtimes_settings_are_not_in_the_file() -> None:
    data = json.loads(tokenizer_json(tiny("a")))
    assert (data["truncation"], data["padding"], data["post_processor"]) == (None, None, None)
