"""Alignments: the reference's weights for the tokens of a result, and the pairs of words that they make."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import edgewise
from edgewise.errors import InputError
from edgewise.models.attention import cross_attention_weights
from edgewise.runtime.alignments import alignment, source_spans, written_after
from edgewise.runtime.asynchronous import AsyncSession
from edgewise.runtime.options import Sampling
from edgewise.runtime.results import Generation
from edgewise.runtime.session import Session

from ..tiny import START
from .test_session import engine_of, texts
from .tiny_session import session_for, tokenizer
from .torch_engine import LAYER

ALIGNED = {"alignment_layer": LAYER}


def translator(seed: int = 1, **arguments: Any) -> Session:
    return session_for("translate", seed, changes=ALIGNED, **arguments)


def assert_weights(session: Session, result: Generation) -> None:
    for hypothesis in result.hypotheses:
        assert hypothesis.alignment is not None
        read = [START, *hypothesis.tokens[:-1]]
        expected = cross_attention_weights(engine_of(session).model, result.source_tokens, read, LAYER).mean(0)
        np.testing.assert_allclose(hypothesis.alignment.weights, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"beam_size": 3, "n_best": 3}, {"sampling": Sampling(seed=1, samples=2)}, {"prefix": "Ein"}, {"stop": ["e"]}],
    ids=str,
)
def test_weights_are_those_of_the_reference(arguments: dict[str, Any]) -> None:
    session = translator(end_bias=0.5)
    found = session.translate(texts(5), alignments=True, max_new_tokens=9, batch_size=3, **arguments)
    plain = session.translate(texts(5), max_new_tokens=9, batch_size=3, **arguments)
    for result, without in zip(found, plain, strict=True):
        assert_weights(session, result)
        assert [h.tokens for h in result.hypotheses] == [h.tokens for h in without.hypotheses]
        assert all(h.alignment is None for h in without.hypotheses)


@pytest.mark.parametrize("how", ["continuous", "asyncio"])
def test_results_that_left_a_shared_batch_have_them_too(how: str) -> None:
    session = translator(end_bias=0.5)

    async def together() -> list[Generation]:
        async with AsyncSession(session) as own:
            calls = (own.translate(text, alignments=True, max_new_tokens=9) for text in texts(5))
            return await asyncio.gather(*calls)

    if how == "asyncio":
        found = asyncio.run(together())
    else:
        found = list(session.translate_iter(texts(5), alignments=True, max_new_tokens=9, continuous=True))
    for result in found:
        assert_weights(session, result)


def test_texts_that_come_one_by_one() -> None:
    session = translator(end_bias=0.5)
    for result in session.translate_iter(iter(texts(5)), alignments=True, batch_size=2, max_new_tokens=9):
        assert_weights(session, result)


def test_who_does_not_ask_pays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    session = translator()
    monkeypatch.setattr(type(engine_of(session)), "cross_attention", None)
    session.translate(texts(2), beam_size=2)


def test_pairs_are_spans_of_the_texts() -> None:
    session = translator(end_bias=0.0)
    (result,) = session.translate(["A man, riding a bicycle."], alignments=True, max_new_tokens=20)
    words = result.hypotheses[0].alignment.words  # type: ignore[union-attr]
    assert [w.target for w in words] == [m.span() for m in re.finditer(r"\w+|[^\w\s]", result.text)]
    of_source = {m.span() for m in re.finditer(r"\w+|[^\w\s]", "A man, riding a bicycle.")}
    assert {w.source for w in words} <= of_source
    assert all(0 < w.weight <= 1 for w in words)


def test_a_text_that_had_no_turn_has_no_pairs() -> None:
    cancellation = edgewise.Cancellation()
    cancellation.cancel()
    result = translator().translate("A man", alignments=True, cancellation=cancellation)
    found = result.hypotheses[0].alignment
    assert found is not None
    assert found.weights.shape == (0, len(result.source_tokens))
    assert found.words == ()


def test_words_by_hand() -> None:
    source, target = "two big dogs.", "Hunde, ja."
    spans = [(0, 3), (3, 7), (7, 12), (12, 13), (0, 0)]  # two, _big, _dogs, ., end
    ends = [3, 5, 6, 10, 10]  # Hun, de, the comma, _ja with its period, end
    weights = np.array(
        [[0, 0, 0.8, 0, 0.2], [0, 0.6, 0.4, 0, 0], [0.1, 0, 0, 0.7, 0.2], [0.5, 0, 0, 0.4, 0.1], [0, 0, 0, 0, 1]],
        np.float32,
    )
    found = alignment(weights, source, spans, target, ends)
    assert [(source[slice(*w.source)], target[slice(*w.target)]) for w in found.words] == [
        ("dogs", "Hunde"),
        (".", ","),
        ("two", "ja"),
        ("two", "."),
    ]
    assert [w.weight for w in found.words] == pytest.approx([0.6, 0.7, 0.5, 0.5])


def test_a_token_of_two_words_is_shared_between_them() -> None:
    found = alignment(np.array([[1.0, 0.0]], np.float32), "a b c", [(0, 3), (3, 5)], "x", [1])
    assert found.words[0].weight == pytest.approx(0.5)
    assert found.words[0].source == (0, 1)


def test_an_apostrophe_is_inside_a_word() -> None:
    found = alignment(np.ones((1, 1), np.float32), "don't", [(0, 5)], "l\u2019eau!", [6])
    assert [w.target for w in found.words] == [(0, 5), (5, 6)]
    assert [w.source for w in found.words] == [(0, 5), (0, 5)]


def test_spans_of_a_source_cover_its_words() -> None:
    session, text = translator(), "A man,  riding \U0001f6b2!"
    model = session.manifest.model
    ids = session.translate(text).source_tokens
    spans = source_spans(tokenizer(), model, text, ids)
    assert len(spans) == len(ids)
    assert spans[-1] == (0, 0)
    covered = {i for begin, end in spans for i in range(begin, end)}
    assert covered >= {i for i, c in enumerate(text) if not c.isspace()}
    assert source_spans(tokenizer(), model, text, (*ids[:3], ids[-1])) == [*spans[:3], (0, 0)]


def test_special_tokens_before_a_text_stand_nowhere() -> None:
    model = replace(session_for("fill_mask").manifest.model, head="embedding", pooling="mean", adds_start=True)
    text, own = "A man", tokenizer().encode("A man")
    spans = source_spans(tokenizer(), model, text, model.source(own))
    assert spans == [(0, 0), *tokenizer().spans(text), (0, 0)]


def test_characters_of_several_bytes_are_written_with_their_last() -> None:
    text = "é\U0001f6b2"
    ids = tokenizer().encode(text)
    assert len(ids) > len(text), "choose a text that falls into bytes"
    ends = written_after(tokenizer(), ids, tokenizer().decode(ids))
    assert ends[-1] == len(tokenizer().decode(ids))
    assert ends == sorted(ends)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("generate", "alignments needs a model that translates a source; 'tiny' has none: leave it out"),
        ("translate", "alignments needs a graph 'alignment', and variant cpu-fp32 of 'tiny' has none: export the b"),
    ],
)
def test_without_the_graph_it_is_refused(task: Any, message: str) -> None:
    session = session_for(task)
    with pytest.raises(InputError, match=message):
        (session.translate if task == "translate" else session.generate)("A man", alignments=True)


def test_a_stream_has_no_alignments() -> None:
    with pytest.raises(InputError, match="stream takes no alignments, it takes"):
        translator().stream("A man", alignments=True)  # type: ignore[call-arg]
