"""Tokens of T5 and ByT5 against the tokenizers of ``transformers``, one by one, and what decoding gives back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else

from edgewise.errors import TokenizerError
from edgewise.export.probes import AWKWARD
from edgewise.export.sentences import SENTENCES
from edgewise.models.families.t5_tokenizer import byte_tokenizer, piece_tokenizer, tokenizer_of
from edgewise.models.sentencepiece.model import parse_model
from edgewise.runtime.tokenizer import Tokenizer

from ..models.gguf.lines import WRITTEN
from ..models.sentencepiece.trained import library, mixed, train
from .folders import write_json

pytestmark = pytest.mark.slow
SPECIAL = ("<pad>", "</s>", "<unk>")
SENTINELS = [
    "The <extra_id_0> walks in <extra_id_1> park",
    "a<extra_id_0>b",
    "<extra_id_99>",
    "  <extra_id_7>   x  <extra_id_8> ",
    "<extra_id_3><extra_id_4> <extra_id_5>",
    "<extra_id_100> <extra_id_ 1>",
]


LIKE_SENTENCEPIECE = ("a\x85b", "e\u0301\u0301\u0301")
"""Lines that the library cuts otherwise than SentencePiece, on which T5 was trained."""


def lines() -> Iterator[str]:
    """Words of many scripts, joined in ways that spaces can go wrong, without what is special when it is typed."""
    for line in [*SENTENCES, *AWKWARD.values(), *WRITTEN, *SENTINELS, *mixed(14_000)]:
        text = line.replace("</s>", " ")
        if text.strip() and not any(special in text for special in SPECIAL):
            yield text


def real_lines() -> Iterator[str]:
    """Of the data sets that are at hand."""
    for place in [Path(os.environ[name]) for name in ("MULTI30K", "ASSETS") if os.environ.get(name)]:
        for file in sorted(place.rglob("*")):
            if file.suffix in (".txt", ".en", ".de", ".fr") and file.is_file():
                found = file.read_text(encoding="utf-8").split("\n")
                yield from [t for t in found if t.strip() and not any(s in t for s in SPECIAL)][:2000]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``spiece.model`` with T5's special pieces, and what says that it is one of T5's."""
    folder = tmp_path_factory.mktemp("t5")
    corpus = (*SENTENCES, *AWKWARD.values(), *(line for line in WRITTEN if line.strip()))
    data = train(corpus, vocab_size=600, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    (folder / "spiece.model").write_bytes(data)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": 100})
    write_json(folder / "config.json", {"model_type": "t5"})
    return folder


def made(folder: Path) -> Tokenizer:
    found = tokenizer_of(folder, {})
    assert found is not None
    return Tokenizer(found.encode())


def assert_same(theirs: Any, ours: Tokenizer, texts: Iterator[str]) -> int:
    """Every text has the tokens of the library, and from them the text that it gives; returns how many there were."""
    count = 0
    for text in texts:
        count += 1
        expected = theirs(text)["input_ids"]
        assert [*ours.encode(text), 1] == expected, text
        if 2 not in expected:  # the library writes <unk>, a runtime nothing
            assert ours.decode(expected[:-1]) == theirs.decode(expected[:-1]), text
    return count


def test_pieces_on_ten_thousand_lines(folder: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert type(theirs) is transformers.T5Tokenizer
    assert len(theirs) == made(folder).vocab_size == 700
    assert assert_same(theirs, made(folder), (t for t in lines() if t not in LIKE_SENTENCEPIECE)) >= 10_000
    assert_same(theirs, made(folder), real_lines())


def test_between_sentinels_tokens_are_those_of_sentencepiece(folder: Path) -> None:
    theirs, ours = library((folder / "spiece.model").read_bytes()), made(folder)
    assert {text for text in lines() if text in LIKE_SENTENCEPIECE} == {*LIKE_SENTENCEPIECE}
    for text in lines():
        if "<extra_id_" not in text:
            assert ours.encode(text) == theirs.encode(text), text


def test_bytes_on_ten_thousand_lines(tmp_path: Path) -> None:
    theirs = transformers.ByT5Tokenizer()
    theirs.save_pretrained(tmp_path)
    ours = made(tmp_path)
    assert len(theirs) == ours.vocab_size == 384
    assert assert_same(theirs, ours, lines()) >= 10_000
    assert_same(theirs, ours, real_lines())
    for text in lines():
        assert ours.decode(ours.encode(text)) == text


def test_sentinels_count_backwards_behind_pieces_and_forwards_behind_bytes(folder: Path) -> None:
    assert made(folder).encode("<extra_id_0><extra_id_99>") == [699, 600]
    assert Tokenizer(byte_tokenizer(["<extra_id_0>", "<extra_id_1>"]).encode()).encode("<extra_id_1>a") == [260, 100]


def test_what_is_special_is_not_typed(folder: Path) -> None:
    for ours in (made(folder), Tokenizer(byte_tokenizer([]).encode())):
        assert ours.special_ids == {0, 1, 2}
        assert not {0, 1} & set(ours.encode("a </s> <pad> b"))
        assert ours.decode([1, *ours.encode("a dog"), 0, 1]) == "a dog"


def test_a_saved_tokenizer_finds_its_sentinels_too(folder: Path, tmp_path: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.save_pretrained(tmp_path)
    assert not (tmp_path / "spiece.model").is_file()
    ours = made(tmp_path)
    assert_same(theirs, ours, iter(SENTINELS))
    assert ours.special_ids == {0, 1, 2}


@pytest.mark.parametrize("content", [[], {"added_tokens": None}, {"added_tokens": [3]}, {"added_tokens": []}], ids=str)
def test_a_file_without_sentinels_is_left_alone(content: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer.json", content)
    assert tokenizer_of(tmp_path, {}) is None


def test_nothing_is_made_of_nothing(tmp_path: Path) -> None:
    assert tokenizer_of(tmp_path, {}) is None


def test_half_a_character_is_none() -> None:
    """A byte that begins one, without the rest."""
    ours = Tokenizer(byte_tokenizer([]).encode())
    assert ours.decode([0xC3 + 3, 0x61 + 3]) == "\ufffda"
    pieces = ours.detokenizer()
    assert [pieces.push(byte + 3) for byte in "é".encode()] == ["", "é"]


def test_pieces_keep_their_places() -> None:
    model = parse_model(train(SENTENCES, vocab_size=200, pad_id=0, eos_id=1, unk_id=2, bos_id=-1), "tiny")
    vocabulary = json.loads(piece_tokenizer(model, ["<extra_id_0>"]))["model"]["vocab"]
    assert [text for text, _ in vocabulary[3:]] == [piece.text for piece in model.pieces[3:]]


REFUSED: dict[str, Any] = {
    "expected an object, got list": [],
    r"extra_ids is -1, expected an integer from 0 to 10000": {"extra_ids": -1},
    r"extra_ids is '7', expected an integer from 0 to 10000": {"extra_ids": "7"},
    "the 2 added tokens are not <extra_id_0> to <extra_id_1>: save a tokenizer.json": {
        "additional_special_tokens": ["<extra_id_0>", "<user>"]
    },
}


@pytest.mark.parametrize("reason", REFUSED)
def test_settings_that_are_refused(reason: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes((folder / "spiece.model").read_bytes())
    write_json(tmp_path / "tokenizer_config.json", REFUSED[reason])
    with pytest.raises(TokenizerError, match=reason):
        tokenizer_of(tmp_path, {})
