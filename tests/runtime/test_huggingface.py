"""Rules, filters and searches against what Hugging Face gave; ``goldens/huggingface.py`` made the numbers."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.runtime.beams import BeamRequest, top
from edgewise.runtime.engine import Candidates, Floats, Ids
from edgewise.runtime.options import DecodingOptions, Sampling
from edgewise.runtime.requests import Task, search_requests
from edgewise.runtime.rules import rules_for
from edgewise.runtime.sampling import filtered
from edgewise.runtime.search import finish
from edgewise.runtime.softmax import log_softmax

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "goldens" / "huggingface.json").read_text())
LOGITS: Floats = np.array(GOLDEN["logits"], np.float32)
PLACES: Floats = np.array(GOLDEN["places"], np.float32)
READ, PROMPT, END = GOLDEN["read"], GOLDEN["prompt"], GOLDEN["end_id"]
NAMES = {
    "num_beams": "beam_size",
    "no_repeat_ngram_size": "no_repeat_ngram",
    "bad_words_ids": "suppress",
}


def parsed(text: str) -> dict[str, Any]:
    """Options written as ``name=value, name=value``."""
    call = ast.parse(f"f({text})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}


@pytest.mark.parametrize("name", GOLDEN["processed"])
def test_rules_are_hugging_faces_processors(name: str) -> None:
    (rule,) = rules_for(DecodingOptions(**parsed(name)), END)
    for logits, expected in zip(LOGITS, GOLDEN["processed"][name], strict=True):
        found = logits.copy()
        rule.apply(found, READ, READ[2:])
        wanted = np.array([-np.inf if value is None else value for value in expected])
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        assert not np.array_equal(found, logits) or name == "min_new_tokens=6"


@pytest.mark.parametrize("name", GOLDEN["warped"])
def test_filters_are_hugging_faces_warpers(name: str) -> None:
    for logits, expected in zip(LOGITS, GOLDEN["warped"][name], strict=True):
        found = filtered(log_softmax(logits), Sampling(**parsed(name)))
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert ((found == 0) == (np.array(expected) == 0)).all()


class MarkovRun:
    """An engine whose logits are those of the last token, plus those of its place."""

    def __init__(self, table: Floats, beams: int, width: int) -> None:
        self.table, self.beams, self.width = table, beams, width
        self.read = 0

    def prefill(self, ids: Ids) -> Candidates:
        self.read = ids.shape[1] - 1
        return self._answer(ids[:, -1].repeat(self.beams))

    def step(self, ids: Ids, parents: Ids) -> Candidates:
        return self._answer(ids)

    def keep(self, sentences: Ids) -> None:
        raise NotImplementedError

    def last_logits(self) -> Floats:
        return self.logits

    def _answer(self, ids: Ids) -> Candidates:
        self.logits = self.table[ids] + PLACES[self.read]
        self.read += 1
        best = [top(log_softmax(row), self.width) for row in self.logits]
        return Candidates(np.stack([b[0] for b in best]).astype(np.float32), np.stack([b[1] for b in best]))


@pytest.mark.parametrize("case", GOLDEN["beams"], ids=lambda case: str(case["arguments"]))
def test_searches_find_what_generate_finds(case: dict[str, Any]) -> None:
    given = {NAMES.get(k, k): v for k, v in case["arguments"].items()}
    given["end_ids"] = given.pop("eos_token_id", [END])[1:]
    options = DecodingOptions(**{"n_best": given["beam_size"], "length_penalty": 0.0, "length_norm": "power", **given})
    for table, expected in zip(GOLDEN["tables"], case["found"], strict=True):
        task = Task(prompt=tuple(PROMPT), limit=9, end_id=END, options=options)
        run = MarkovRun(np.array(table, np.float32), options.rows, task.width)
        ((*found,),) = finish(search_requests(run, np.array([PROMPT]), [BeamRequest(task)], options.rows))
        assert [list(h.tokens) for h in found] == [one["tokens"] for one in expected]
        for hypothesis, one in zip(found, expected, strict=True):
            if one["score"] is not None:
                assert hypothesis.normalized_score == pytest.approx(one["score"], abs=1e-4)
                assert options.length_penalty or hypothesis.score == hypothesis.normalized_score
