"""Options on the real engines: what the reference gives, with sentences of different options leaving one run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgewise.models import decode
from edgewise.runtime.beams import BeamRequest
from edgewise.runtime.draws import SampleRequest
from edgewise.runtime.engine import Engine
from edgewise.runtime.options import DecodingOptions, Sampling
from edgewise.runtime.requests import Task, search_requests
from edgewise.runtime.results import TokenHypothesis
from edgewise.runtime.search import finish

from ..open_model import open_model
from ..runtime.torch_engine import TorchEngine
from ..tiny import END, PAD, START, random_sources, tiny_model

pytestmark = pytest.mark.slow

OPTIONS = [
    DecodingOptions(repetition_penalty=1.3, no_repeat_ngram=2),
    DecodingOptions(sampling=Sampling(seed=3, samples=3, top_p=0.9)),
    DecodingOptions(beam_size=4, n_best=4, beam_groups=2, diversity_penalty=0.6),
    DecodingOptions(beam_size=3, n_best=3, early_stopping=True, patience=2.0),
    DecodingOptions(alternatives=4),
    DecodingOptions(beam_size=4, n_best=2, suppress=[[9], [4, 5]], min_new_tokens=4),
    DecodingOptions(sampling=Sampling(seed=4, temperature=1.5), presence_penalty=0.5),
    DecodingOptions(beam_size=2, stop=["g", "hi"]),
]


def text_of(tokens: tuple[int, ...]) -> str:
    return "".join(chr(ord("a") + token) for token in tokens)


def decoded(
    engine: Engine, prompts: list[list[int]], options: list[DecodingOptions], writer: bool
) -> list[list[TokenHypothesis]]:
    """Every prompt or source with its own options, in one run of as many rows as the widest wants."""
    memory, fed = None, np.array(prompts) if writer else np.full((len(prompts), 1), START)
    if not writer:
        ids, mask = decode.right_pad(prompts, PAD)
        memory = engine.encode_source(ids.numpy(), mask.numpy())
    tasks = [
        Task(prompt=tuple(row), limit=8 + i, end_id=END, options=o, prefix=(7, 8)[: i % 3], text_of=text_of)  # type: ignore[arg-type]
        for i, (row, o) in enumerate(zip(fed.tolist(), options, strict=True))
    ]
    rows = max(o.rows for o in options)
    run = engine.start(memory, len(fed), rows, fed.shape[1] + 8 + len(fed), max(t.width for t in tasks))
    requests = [SampleRequest(t) if t.options.sampling else BeamRequest(t) for t in tasks]
    return finish(search_requests(run, fed, requests, rows))


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("architecture", ["encoder-decoder", "decoder"])
def test_options_give_what_the_reference_gives(architecture: str, target: str, tmp_path: Path) -> None:
    model = tiny_model(3, architecture, end_bias=0.5)  # type: ignore[arg-type]
    writer = architecture == "decoder"
    prompts = [[START, 4 + i, 9] for i in range(8)] if writer else random_sources(9, 8)
    expected, found = (
        decoded(engine, prompts, OPTIONS, writer)
        for engine in (TorchEngine(model), open_model(model, target, tmp_path / "graphs"))
    )
    for options, ours, theirs in zip(OPTIONS, found, expected, strict=True):
        assert [(h.tokens, h.finish_reason) for h in ours] == [(h.tokens, h.finish_reason) for h in theirs], options
        for one, other in zip(ours, theirs, strict=True):
            assert one.token_log_probs == pytest.approx(other.token_log_probs, abs=1e-4)
