"""The runtime against the naive uncached decoder, on every sentence of Multi30k's test_2016_flickr.

Greedy and beam 5, both engines, fp32. Log-probabilities agree within 1e-4. Tokens are the same, except where the
reference itself came to a choice between two candidates closer than that: each such sentence is printed with its gap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from edgewise.export.portable import portable_graphs
from edgewise.models.checkpoint import load_checkpoint
from edgewise.models.data import read_lines
from edgewise.models.decode import Decoded, beam_batch, next_logits, remember
from edgewise.models.transformer import Transformer
from edgewise.runtime.batching import in_order
from edgewise.runtime.engine import Engine
from edgewise.runtime.inputs import right_pad
from edgewise.runtime.results import TokenHypothesis
from edgewise.runtime.search import candidates_needed, finish, search
from edgewise.runtime.tokenizer import Tokenizer

from .open_model import open_files, write_variant

pytestmark = [pytest.mark.slow, pytest.mark.real]
CLOSE = 1e-4  # nats
EXTRA_TOKENS = 50  # the runtime's default limit: so many tokens more than the source has
LENGTH_PENALTY = 0.6
BATCH = {1: 100, 5: 40}


class TestSet(NamedTuple):
    """The shipped model, and the sources ending in the end token."""

    __test__ = False
    model: Transformer
    sources: list[list[int]]

    def batches(self, beams: int) -> list[list[int]]:
        """Sentences of like length together, longest first."""
        order = sorted(range(len(self.sources)), key=lambda i: -len(self.sources[i]))
        return [order[start : start + BATCH[beams]] for start in range(0, len(order), BATCH[beams])]


@pytest.fixture(scope="module")
def test_set(root: Path, multi30k: Path) -> TestSet:
    checkpoint = load_checkpoint(root / "checkpoints" / "translate-en-de")
    tokenizer = Tokenizer.open(checkpoint.tokenizer_file)
    end = checkpoint.model.config.end_id
    lines = read_lines(multi30k / "test_2016_flickr.en")
    assert len(lines) == 1000
    return TestSet(checkpoint.model, [[*tokenizer.encode(line), end] for line in lines])


@pytest.fixture(scope="module")
def expected(test_set: TestSet) -> Callable[[int], list[Decoded]]:
    """``expected(beams)``: what the uncached decoder makes of every source, once for both engines."""

    @cache
    def decode(beams: int) -> list[Decoded]:
        batches = test_set.batches(beams)
        found = (_reference(test_set, batch, beams) for batch in batches)
        return in_order(batches, found)

    return decode


def _reference(test_set: TestSet, batch: Sequence[int], beams: int) -> list[Decoded]:
    sources = [test_set.sources[i] for i in batch]
    limits = [len(source) + EXTRA_TOKENS for source in sources]
    return [best for [best] in beam_batch(test_set.model, sources, beams, LENGTH_PENALTY, limits)]


@pytest.fixture(scope="module")
def engine(test_set: TestSet, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Engine]:
    portable = portable_graphs(test_set.model)
    folder = tmp_path_factory.mktemp("variants")

    def make(target: str) -> Engine:
        files = write_variant(portable, target, "float32", folder / target)
        return open_files(test_set.model, target, "float32", files)

    return cache(make)


def _runtime(engine: Engine, test_set: TestSet, batch: Sequence[int], beams: int) -> list[TokenHypothesis]:
    sources = [test_set.sources[i] for i in batch]
    limits = [len(source) + EXTRA_TOKENS for source in sources]
    memory = engine.encode_source(*right_pad(sources, test_set.model.config.pad_id))
    run = engine.start(memory, len(sources), beams, max(limits), candidates_needed(beams))
    prompts = np.full((len(sources), 1), test_set.model.config.start_id)
    found = search(run, prompts, limits, test_set.model.config.end_id, beam_size=beams, length_penalty=LENGTH_PENALTY)
    return [best for [best] in finish(found)]


@torch.inference_mode()
def _scored(test_set: TestSet, source: list[int], tokens: Sequence[int]) -> list[float]:
    """What the reference thinks of tokens that it did not choose."""
    memory = remember(test_set.model, [source])
    prefixes = [[test_set.model.config.start_id, *tokens[:t]] for t in range(len(tokens))]
    log_probs = [next_logits(test_set.model, memory, [prefix])[0].log_softmax(-1) for prefix in prefixes]
    return [float(row[token]) for row, token in zip(log_probs, tokens, strict=True)]


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("beams", [1, 5], ids=["greedy", "beam 5"])
def test_every_sentence(
    beams: int,
    target: str,
    test_set: TestSet,
    expected: Callable[[int], list[Decoded]],
    engine: Callable[[str], Engine],
    record_property: Callable[[str, object], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    batches = test_set.batches(beams)
    actual = in_order(batches, (_runtime(engine(target), test_set, batch, beams) for batch in batches))
    worst, others = 0.0, []
    for i, (ours, theirs) in enumerate(zip(actual, expected(beams), strict=True)):
        reference: Sequence[float] = theirs.token_log_probs
        if ours.tokens != theirs.tokens:
            others.append((i, theirs.decision_gap))
            reference = _scored(test_set, test_set.sources[i], ours.tokens)
        worst = max(worst, float(np.abs(np.subtract(ours.token_log_probs, reference)).max()))
    report = f"{target}, beam {beams}: log-probabilities within {worst:.1e}, {1000 - len(others)} of 1000 same tokens"
    listed = "".join(f"\n  sentence {i}: the reference's own gap is {gap:.1e}" for i, gap in others)
    with capsys.disabled():
        print(f"\n{report}{listed}")
    record_property("agreement", report + listed)
    assert worst <= CLOSE
    assert all(gap < CLOSE for _, gap in others), report + listed
