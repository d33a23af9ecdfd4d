"""Texts of many sentences, translated one by one: places, what is between them, and the library that splits."""

from __future__ import annotations

import asyncio
import builtins
from typing import Any

import pytest
import sentencex
from hypothesis import given, settings
from hypothesis import strategies as st

import edgewise
from edgewise.errors import ContextLengthError, EngineError, InputError, MissingExtraError
from edgewise.runtime.asynchronous import AsyncSession
from edgewise.runtime.sentences import sentence_spans

from .tiny_session import session_for

TEXT = (
    "  Dr. Smith rides a bicycle, e.g. on the street.  Two dogs (see fig. 2) run!\n\n"
    'A woman said: "Hi! How are you?" 👧 A hat?\tYes.\n'
)
SENTENCES = [
    "Dr. Smith rides a bicycle, e.g. on the street.",
    "Two dogs (see fig. 2) run!",
    "A woman said: \"Hi! How are you?\"",
    "👧 A hat?",
    "Yes.",
]  # fmt: skip
GERMAN = "Am 3. Mai kam z. B. Herr Dr. Meier. Er blieb."


def test_where_sentences_are() -> None:
    spans = sentence_spans(TEXT, "en")
    assert [TEXT[begin:end] for begin, end in spans] == SENTENCES
    assert [GERMAN[b:e] for b, e in sentence_spans(GERMAN, "de")] == [
        "Am 3. Mai kam z. B. Herr Dr. Meier.",
        "Er blieb.",
    ]
    assert sentence_spans("One. Two.", "a language that there is not") == [(0, 4), (5, 9)]
    assert sentence_spans(" \n\n ", "en") == []


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=80), st.sampled_from(["en", "de", "ja", "xx"]))
def test_whatever_the_text_nothing_of_it_is_lost(text: str, language: str) -> None:
    spans = sentence_spans(text, language)
    between = [text[e:b] for e, b in zip([0, *(e for _, e in spans)], [*(b for b, _ in spans), len(text)], strict=True)]
    assert all(not gap.strip() for gap in between)
    assert all(begin < end and text[begin:end] == text[begin:end].strip() for begin, end in spans)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([{"start_index": 1, "end_index": 4, "text": "One"}], "gave the place 1 to 4 after 0"),
        ([{"start_index": 0, "end_index": 4, "text": "One"}], "gave the place 0 to 4 after 0"),
        ([{"start_index": 0, "end_index": 4, "text": "One."}], "gave places up to 4 of 9"),
        (ValueError("no"), r"cannot split the text \(no\)"),
    ],
)
def test_a_library_that_fails(pieces: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def boundaries(language: str, text: str) -> Any:
        if isinstance(pieces, Exception):
            raise pieces
        return pieces

    monkeypatch.setattr(sentencex, "get_sentence_boundaries", boundaries)
    with pytest.raises(EngineError, match=f"sentencex {message}.*: install another version of it"):
        sentence_spans("One. Two.", "en")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "sentencex":
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"needs sentencex: pip install 'edgewise\[sentences\]'"):
        session_for("translate").translate_document("A man. A hat.")


@pytest.mark.parametrize("options", [{}, {"beam_size": 3, "n_best": 2}, {"batch_size": 1, "alignments": False}])
def test_a_document_is_its_sentences_translated(options: dict[str, Any]) -> None:
    """Between them stands what stood there."""
    session = session_for("translate", end_bias=1.0)
    found = session.translate_document(TEXT, max_new_tokens=8, **options)
    alone = session.translate(SENTENCES, max_new_tokens=8, **options)
    assert [s.result.hypotheses for s in found.sentences] == [g.hypotheses for g in alone]
    assert [TEXT[slice(*s.source)] for s in found.sentences] == SENTENCES
    assert [found.text[slice(*s.target)] for s in found.sentences] == [g.text.strip() for g in alone]
    texts = [g.text.strip() for g in alone]
    assert found.text == f"  {texts[0]}  {texts[1]}\n\n{texts[2]} {texts[3]}\t{texts[4]}\n"

    async def run() -> Any:
        async with AsyncSession(session) as together:
            return await together.translate_document(TEXT, max_new_tokens=8, **options)

    assert asyncio.run(run()).text == found.text


def test_the_translator_in_the_package() -> None:
    """Which knows single sentences, and of several at once forgets some."""
    with edgewise.load(threads=1) as session:
        text = "A man is riding a bicycle. Two dogs play in the snow.\n\nA girl laughs."
        found = session.translate_document(text, language="en")
        alone = session.translate(["A man is riding a bicycle.", "Two dogs play in the snow.", "A girl laughs."])
        one, two, three = (result.text for result in alone)
    assert found.text == f"{one} {two}\n\n{three}"


def test_what_is_refused() -> None:
    session = session_for("translate")
    with pytest.raises(InputError, match="translate_document takes no prefix, it takes"):
        session.translate_document("A man.", prefix="A")
    with pytest.raises(InputError, match=r"language \(7\) must be a code such as 'en', or None for the bundle's own"):
        session.translate_document("A man.", language=7)  # type: ignore[arg-type]
    with pytest.raises(ContextLengthError, match=r"text 1 has \d+ tokens, more than the 64 this model reads"):
        session.translate_document("A man. " + "A woman, " * 40)
    with pytest.raises(InputError, match="text is empty, expected at least one character"):
        session.translate_document(" ")
    with pytest.raises(InputError, match="translate_document needs a bundle made for translate"):
        session_for("generate").translate_document("A man.")
    silent = session_for("translate", changes={"languages": None})
    with pytest.raises(InputError, match="this bundle does not say which language it reads: pass language='en'"):
        silent.translate_document("A man.")
    assert silent.translate_document("A man.", language="en_GB", max_new_tokens=2).sentences[0].source == (0, 6)
