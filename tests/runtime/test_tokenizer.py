"""Text that is not trusted, files that are not trusted, and text that comes out piece by piece."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from edgewise.errors import InputError, TokenizerError
from edgewise.runtime import tokenizer as module
from edgewise.runtime.tokenizer import MAX_TEXT_CHARACTERS, Tokenizer

from .tiny_session import tokenizer, tokenizer_json

TEXTS = [
    "A man is riding a bicycle.",
    "Grüße aus Köln",
    "日本語 text 🚲👍🏽!",
    "naïve  café — €5",
    "x",
    " a ",
    "\ttab\nline",
]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (3, "text 7 is int, expected str"),
        (b"bytes", "text 7 is bytes, expected str"),
        ("", "text 7 is empty, expected at least one character that is not white space"),
        (" \t\n ", "text 7 is empty"),
        ("x" * (MAX_TEXT_CHARACTERS + 1), "text 7 has 1000001 characters, expected at most 1000000: split it"),
        ("a\0b", "text 7 holds a NUL at character 1: remove it"),
        ("ab\ud800", r"text 7 holds the lone surrogate U\+D800 at character 2, .*errors='replace'"),
    ],
    ids=["number", "bytes", "empty", "blank", "too long", "NUL", "surrogate"],
)
def test_text_that_no_tokenizer_takes(text: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tokenizer().encode(text, "text 7")


def test_a_word_of_a_million_characters_is_split_in_time() -> None:
    assert len(tokenizer().encode("x" * MAX_TEXT_CHARACTERS)) > 0


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_back_the_text(text: str) -> None:
    subject = tokenizer()
    assert subject.decode(subject.encode(text)) == text.replace("\t", " ").replace("\n", " ").removeprefix(" ")


@pytest.mark.parametrize("text", ["</s>", "a <s> b", "<pad><mask>", "<0x41>"])
def test_typed_specials_are_text(text: str) -> None:
    subject = tokenizer()
    ids = subject.encode(text)
    assert not subject.special_ids & set(ids)
    assert subject.decode(ids) == text


def test_specials_have_no_text() -> None:
    subject = tokenizer()
    assert subject.special_ids == {0, 1, 2, 3}
    assert subject.decode([1, *subject.encode("A man"), 2, 0, 3]) == "A man"
    assert (subject.piece(2), subject.piece(10**6)) == ("</s>", "")


def test_settings_in_the_file_are_reset() -> None:
    library = tokenizers.Tokenizer.from_str(tokenizer_json().decode())
    library.enable_truncation(2)
    library.enable_padding(length=9)
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert library.encode("A man").ids[0] == 1
    assert Tokenizer(library.to_str().encode()).encode(TEXTS[0]) == tokenizer().encode(TEXTS[0])


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(tokenizer_json())
    assert Tokenizer.open(path).encode("A man") == tokenizer().encode("A man")
    assert Tokenizer.open(path).vocab_size == 330


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff\xfe", tokenizer_json()[:500], b'{"model":{"type":"?"}}'])
def test_a_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(TokenizerError, match=r"here\.json: the tokenizers library cannot read it \(.+\): export"):
        Tokenizer(data, "here.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"none\.json cannot be read \(No such file or directory\)"):
        Tokenizer.open(tmp_path / "none.json")


def test_a_huge_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 100)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(tokenizer_json())
    with pytest.raises(TokenizerError, match="has more than 100 bytes, the most that edgewise reads"):
        Tokenizer.open(path)


def changed(**changes: Any) -> bytes:
    """The tokenizer file with other fields; ``model_`` fields go into its model."""
    data = json.loads(tokenizer_json())
    for name, value in changes.items():
        if name.startswith("model_"):
            data["model"][name.removeprefix("model_")] = value
        else:
            data[name] = value
    return json.dumps(data).encode()


@pytest.mark.usefixtures("capfd")
def test_a_file_that_makes_the_library_panic_is_refused() -> None:
    """Its PanicException derives from BaseException, and would pass every ``except Exception``."""
    with pytest.raises(TokenizerError, match=r"cannot read it \(range end index \d+ out of range"):
        Tokenizer(changed(model_continuing_subword_prefix="#" * 20))


@pytest.mark.usefixtures("capfd")
def test_a_file_that_makes_the_library_panic_at_the_first_text_is_refused_then() -> None:
    subject = Tokenizer(changed(pre_tokenizer={"type": "FixedLength", "length": 0}))
    with pytest.raises(TokenizerError, match=r"cannot apply it \(chunk size must be non-zero\)"):
        subject.encode("A man")


def test_an_interrupt_is_not_swallowed() -> None:
    subject = tokenizer()

    class Library:
        def encode(self, *_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

    subject._library = Library()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        subject.encode("A man")


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_whole_and_hold_no_half_character(text: str) -> None:
    subject = tokenizer()
    ids = subject.encode(text)
    pieces = subject.detokenizer()
    shown = [*map(pieces.push, ids), pieces.finish()]
    assert "".join(shown) == subject.decode(ids)
    assert not any("\ufffd" in piece for piece in shown)


def test_any_tokens_at_all_join_to_the_whole() -> None:
    """Broken bytes, specials and all: what is shown is a prefix of the whole at every step."""
    subject, draw = tokenizer(), random.Random(0)
    for _ in range(300):
        ids = [draw.choice([draw.randrange(330), draw.randrange(4, 260), 4 + 0xE2, 4 + 0x82]) for _ in range(12)]
        pieces, whole, shown = subject.detokenizer(), subject.decode(ids), ""
        for token in ids:
            shown += pieces.push(token)
            assert whole.startswith(shown)
        assert shown + pieces.finish() == whole


def test_a_continuation_keeps_its_leading_space() -> None:
    subject = tokenizer()
    prompt, new = subject.encode("A man"), subject.encode("is 日")
    assert subject.continuation(prompt, new) == " is 日"
    assert subject.continuation((), new) == "is 日"


def test_threads_share_a_tokenizer() -> None:
    subject = tokenizer()
    expected = [subject.encode(text) for text in TEXTS]
    found: list[list[list[int]]] = []
    threads = [
        threading.Thread(target=lambda: found.extend([[subject.encode(t) for t in TEXTS] for _ in range(20)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 80
