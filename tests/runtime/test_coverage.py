"""The coverage penalty by hand, through sessions and on the real engines, against the naive oracle."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.errors import InputError
from edgewise.models import decode_options
from edgewise.models.decode_options import Naive, Options
from edgewise.runtime.bundle.model_spec import ModelSpec
from edgewise.runtime.coverage import LEAST, coverage
from edgewise.runtime.decoding import Request, decode_all
from edgewise.runtime.inputs import Prepared
from edgewise.runtime.options import DecodingOptions
from edgewise.runtime.results import TokenHypothesis

from ..open_model import open_model
from ..tiny import random_sources, tiny_model
from .test_session import engine_of, texts
from .tiny_session import session_for
from .torch_engine import LAYER

SAFE = 1e-4
OPTIONS: list[dict[str, Any]] = [
    {"beam_size": 3, "n_best": 3, "coverage_penalty": 0.5},
    {"beam_size": 4, "n_best": 4, "coverage_penalty": 1.0, "early_stopping": "never", "length_penalty": 0.0},
    {"beam_size": 4, "n_best": 2, "coverage_penalty": 0.3, "beam_groups": 2, "diversity_penalty": 0.7},
]


def assert_same(found: tuple[TokenHypothesis, ...], expected: list[Naive], penalty: float) -> None:
    assert [(h.tokens, h.finish_reason) for h in found] == [(n.tokens, n.reason) for n in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.normalized_score == pytest.approx(other.ranked(penalty), abs=1e-4)
        assert one.score == pytest.approx(other.total, abs=1e-4)


def test_by_hand() -> None:
    weights = np.array([[0.5, 0.5, 0.0], [0.1, 0.9, 0.0]], np.float32)
    assert coverage(weights) == pytest.approx(math.log(0.6) + 0.0 + math.log(LEAST), rel=1e-6)
    assert coverage(np.eye(4, dtype=np.float32)) == 0.0
    assert coverage(np.zeros((0, 2), np.float32)) == pytest.approx(2 * math.log(LEAST))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_sessions_rank_as_the_oracle(options: dict[str, Any]) -> None:
    session = session_for("translate", 1, changes={"alignment_layer": LAYER}, end_bias=0.5)
    compared = changed = 0
    found = session.translate(texts(6), max_new_tokens=9, batch_size=4, **options)
    plain = session.translate(texts(6), max_new_tokens=9, batch_size=4, **options | {"coverage_penalty": 0.0})
    for result, without in zip(found, plain, strict=True):
        asked = Options(**options, max_new_tokens=9)
        expected, margin = decode_options.beam(engine_of(session).model, result.source_tokens, asked)
        if margin > SAFE:
            assert_same(result.hypotheses, expected, options.get("length_penalty", 0.6))
            compared += 1
        changed += [h.tokens for h in result.hypotheses] != [h.tokens for h in without.hypotheses]
    assert compared > 3
    assert changed > 0, "a penalty that changes nothing shows little"


def test_a_stream_gives_the_result() -> None:
    session = session_for("translate", 1, changes={"alignment_layer": LAYER}, end_bias=0.5)
    for text in texts(3):
        arguments: dict[str, Any] = {"beam_size": 3, "coverage_penalty": 1.0, "max_new_tokens": 9}
        assert "".join(session.stream(text, **arguments)) == session.translate(text, **arguments).text


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("generate", "coverage_penalty needs a model that translates a source; 'tiny' has none: leave it out"),
        ("translate", "coverage_penalty needs a graph 'alignment', and variant cpu-fp32 of 'tiny' has none: export"),
    ],
)
def test_without_attention_it_is_refused(task: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        session_for(task).stream("A man", beam_size=2, coverage_penalty=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_engines_rank_as_the_oracle(target: str, tmp_path: Path) -> None:
    model, sources = tiny_model(3, end_bias=0.5), random_sources(9, 8)
    engine, spec = open_model(model, target, tmp_path / "graphs"), ModelSpec.from_json(model.config.to_json())
    requests = [Request(source=Prepared(ids=tuple(source)), limit=9) for source in sources]
    compared = 0
    for options in OPTIONS:
        found = decode_all(engine, spec, requests, DecodingOptions(**options), 4, lambda: None)
        for source, (hypotheses, _) in zip(sources, found, strict=True):
            expected, margin = decode_options.beam(model, source, Options(**options, max_new_tokens=9))
            if margin > SAFE:
                assert_same(tuple(hypotheses), expected, options.get("length_penalty", 0.6))
                compared += 1
    assert compared > 16
