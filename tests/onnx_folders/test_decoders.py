"""Decoders that optimum exported, in a session: tokens and logits of the original library, and the promises of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from edgewise.errors import ContextLengthError, EngineError
from edgewise.runtime.bundle.cases import log_sum_exp
from edgewise.runtime.engine import Engine
from edgewise.runtime.inputs import right_pad
from edgewise.runtime.load import load
from edgewise.runtime.options import Sampling
from edgewise.runtime.session import Session

from .exported import DECODERS, bundle, expected, targets_of

TOLERANCE = 1e-4  # logits have five digits behind the point
EVERY = 16  # as the goldens were made


@contextmanager
def opened(name: str, target: str = "cpu") -> Iterator[Session]:
    with load(bundle(name), target, threads=1) as session:
        yield session


def decode(session: Session, texts: Any, **options: Any) -> Any:
    call = session.translate if session.manifest.task == "translate" else session.generate
    return call(texts, **{"max_new_tokens": 8, "beam_size": 1, **options})


@pytest.mark.parametrize(("name", "target"), targets_of(DECODERS))
def test_tokens_are_the_librarys(name: str, target: str) -> None:
    rows = expected(name)
    texts = [row["text"] for row in rows]
    with opened(name, target) as session:
        greedy = decode(session, texts)
        beams = decode(session, texts, beam_size=3, length_penalty=0.0)
    assert [list(found.tokens) for found in greedy] == [row["greedy"] for row in rows]
    assert [list(found.tokens) for found in beams] == [row["beam"] for row in rows]


@pytest.mark.parametrize(("name", "target"), targets_of(DECODERS))
def test_logits_are_the_librarys_in_one_pass_and_token_by_token(name: str, target: str) -> None:
    rows = expected(name)
    with opened(name, target) as session:
        model = session.manifest.model
        prompts = [model.decoder_prompt if model.encoder else tuple(row["ids"]) for row in rows]
        fed = [(*prompt, *row["greedy"][:-1]) for prompt, row in zip(prompts, rows, strict=True)]
        together = session.engine.decoder_logits(encoded(session, rows), *right_pad(fed, model.pad_id))
        for row, prompt, found in zip(rows, prompts, together, strict=True):
            begin, steps = len(prompt) - 1, len(row["greedy"])
            ids = [i for i in range(0, model.vocab_size, EVERY) if i != 303 or name != "marian"]  # 303: suppressed
            known = np.array(row["logits"])[:, [i // EVERY for i in ids]]
            np.testing.assert_allclose(found[begin : begin + steps][:, ids], known, atol=TOLERANCE, rtol=TOLERANCE)
            alone = step_by_step(session.engine, row["ids"] if model.encoder else None, prompt, row["greedy"])
            np.testing.assert_allclose(alone[:, ids], known, atol=TOLERANCE, rtol=TOLERANCE)


def encoded(session: Session, rows: list[dict[str, Any]]) -> Any:
    """The sources of some rows; nothing without an encoder."""
    model = session.manifest.model
    if model.encoder is None:
        return None
    return session.engine.encode_source(*right_pad([row["ids"] for row in rows], model.pad_id))


def step_by_step(engine: Engine, source: list[int] | None, prompt: tuple[int, ...], tokens: list[int]) -> Any:
    """Logits of every step of a plain run, through the cache."""
    memory = engine.encode_source(*right_pad([source], 0)) if source is not None else None
    run = engine.start(memory, 1, 1, len(prompt) + len(tokens), 4)
    run.prefill(np.array([prompt], np.int64))
    found = [run.last_logits()[0]]
    for token in tokens[:-1]:
        run.step(np.array([token], np.int64), np.zeros(1, np.int64))
        found.append(run.last_logits()[0])
    return np.array(found)


@pytest.mark.parametrize(("name", "target"), targets_of(DECODERS))
def test_a_bundle_verifies_and_says_by_what(name: str, target: str) -> None:
    with opened(name, target) as session:
        report = session.verify()
    assert report.ok, report.table()
    said = r"the reference: .*model.*\.onnx.* as exported, run without a cache in ONNX Runtime"
    assert re.search(said, report.table())
    assert report.to_json()["reference"] == report.reference != "PyTorch"


@pytest.mark.parametrize("name", DECODERS)
def test_options_do_not_notice_the_cache(name: str) -> None:
    """Streams, samples, prefixes and mates of a batch: each against the same asked in another way."""
    texts = [row["text"] for row in expected(name)]
    with opened(name) as session:
        together = decode(session, texts, beam_size=3)
        assert [g.tokens for g in together] == [decode(session, text, beam_size=3).tokens for text in texts]
        best = decode(session, texts[0], beam_size=3, n_best=3)
        scores = [h.normalized_score for h in best.hypotheses]
        assert len(scores) == 3 and scores == sorted(scores, reverse=True)
        streamed = "".join(session.stream(texts[1], max_new_tokens=8))
        assert streamed == decode(session, texts[1]).text
        draw = Sampling(temperature=1.5, seed=7, samples=2)
        alone, beside = decode(session, texts[0], sampling=draw), decode(session, texts, sampling=draw)[0]
        assert [h.tokens for h in alone.hypotheses] == [h.tokens for h in beside.hypotheses]


@pytest.mark.parametrize(("name", "target"), targets_of(DECODERS))
def test_a_prefix_of_several_tokens_is_read_as_one_pass_has_it(name: str, target: str) -> None:
    row = expected(name)[0]
    with opened(name, target) as session:
        model = session.manifest.model
        found = decode(session, row["text"], prefix="dog")
        prompt = model.decoder_prompt if model.encoder else tuple(row["ids"])
        logits = session.engine.decoder_logits(
            encoded(session, [row]), *right_pad([(*prompt, *found.tokens)], model.pad_id)
        )
        known = [float(r[t] - log_sum_exp(r)) for r, t in zip(logits[0, len(prompt) - 1 :], found.tokens, strict=False)]
    assert len(found.tokens) > 3 and found.text.lstrip().startswith("dog")
    np.testing.assert_allclose(found.hypotheses[0].token_log_probs, known, atol=1e-4)


def test_texts_of_many_callers_take_turns() -> None:
    """The graphs have no form that rows join: an iterator gives the same all the same."""
    texts = [row["text"] for row in expected("marian")]
    with opened("marian") as session:
        found = list(session.translate_iter(iter(texts), max_new_tokens=8, beam_size=3, continuous=True))
        assert [g.tokens for g in found] == [g.tokens for g in decode(session, texts, beam_size=3)]


def test_what_the_engine_says_and_refuses() -> None:
    with opened("llama") as session:
        engine = session.engine
        assert engine.describe()["cache"] == "growing"
        assert engine.open_run(1, 1) is None and engine.verify_tokens == 0
        with pytest.raises(EngineError, match="growing cache cannot be speculated with: export the checkpoint itself"):
            engine.start_verifying(None, 8, 1)
        run = engine.start(None, 1, 1, 2, 1)
        with pytest.raises(ContextLengthError, match="3 tokens do not fit the 2 this run was started for"):
            run.prefill(np.ones((1, 3), np.int64))


@pytest.mark.parametrize("beams", [1, 3])
def test_sentences_that_leave_change_no_others(beams: int) -> None:
    """``keep`` between steps, against a run that never had the others."""
    rows = expected("marian")
    with opened("marian") as session:
        engine, model = session.engine, session.manifest.model
        ids, mask = right_pad([row["ids"] for row in rows], model.pad_id)
        prompt = np.array([model.decoder_prompt], np.int64)
        tokens = np.arange(5, 5 + beams)
        runs = [engine.start(engine.encode_source(ids, mask), 3, beams, 8, 4)]
        runs[0].prefill(prompt.repeat(3, axis=0))
        runs[0].step(np.tile(tokens, 3), np.arange(3 * beams))
        runs[0].keep(np.array([2, 1]))
        runs.append(engine.start(engine.encode_source(ids[[2, 1]], mask[[2, 1]]), 2, beams, 8, 4))
        runs[1].prefill(prompt.repeat(2, axis=0))
        runs[1].step(np.tile(tokens, 2), np.arange(2 * beams))
        parents = np.concatenate([np.arange(beams)[::-1], beams + np.zeros(beams, np.int64)])
        found = [run.step(np.tile(tokens, 2), parents).log_probs for run in runs]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
