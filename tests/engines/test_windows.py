"""Sliding windows on the engines: speculation, joins, beams and batches across a window's edge, as the naive decode."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import transformers  # noqa: TID251 makes networks that are tested

from edgewise.export.portable import portable_graphs
from edgewise.models import decode
from edgewise.models.open import open_checkpoint
from edgewise.models.transformer import Transformer
from edgewise.runtime.bundle.model_spec import ModelSpec
from edgewise.runtime.continuous import ContinuousBatch, Job
from edgewise.runtime.decoding import Request, decode_all
from edgewise.runtime.engine import Engine
from edgewise.runtime.inputs import Prepared
from edgewise.runtime.options import DecodingOptions

from ..families.decoders import TINY, decoder_folder
from ..open_model import open_files, write_variant

pytestmark = pytest.mark.slow
CONTEXT, MOST = 96, 24
UNDECIDED = 1e-4
"""Nats: a search that hung on less may go another way on another engine."""
SIZES: dict[str, Any] = {**TINY, "hidden_size": 32, "head_dim": 16, "intermediate_size": 24}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2}
PLAIN: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4}
NETWORKS: dict[str, Callable[[], Any]] = {
    "every layer, 5 keys": lambda: transformers.MistralConfig(**SIZES, sliding_window=5),
    "every layer, 1 key": lambda: transformers.MistralConfig(**SIZES, sliding_window=1),
    "every second layer, turned otherwise": lambda: transformers.Gemma3TextConfig(
        **SIZES,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"full_attention": {**PLAIN, "rope_theta": 500.0}, "sliding_attention": PLAIN},
    ),
}


ON_TARGETS = [(name, "cpu") for name in NETWORKS] + [(name, "openvino") for name in list(NETWORKS)[2:]]


@dataclass(frozen=True)
class Asked:
    """A prompt, and how it is continued."""

    prompt: tuple[int, ...]
    limit: int
    beams: int


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Transformer, Engine]]:
    """``opened(network, target)``: the reference, and an engine in float32."""
    folder = tmp_path_factory.mktemp("windows")

    @cache
    def made(network: str) -> tuple[Transformer, Any]:
        seed = len(network)
        model = open_checkpoint(decoder_folder(folder / f"{seed}", NETWORKS[network](), seed=seed, std=0.3)).model
        return model, portable_graphs(model)

    @cache
    def engine(network: str, target: str) -> tuple[Transformer, Engine]:
        model, portable = made(network)
        files = write_variant(portable, target, "float32", folder / f"{network}-{target}")
        return model, open_files(model, target, "float32", files)

    return engine


def drawn(seed: int, count: int, beams: tuple[int, ...]) -> list[Asked]:
    """Prompts shorter and longer than any window, half of which repeat themselves, so that something is proposed."""
    rng = random.Random(seed)
    found = []
    for i in range(count):
        length = rng.choice([1, 2, 4, 5, 6, 7, 8, 13, rng.randint(1, 70)])
        part = [rng.randrange(3, 40) for _ in range(rng.randint(2, 9) if i % 2 else length)]
        prompt = (part * length)[:length]
        found.append(Asked(tuple(prompt), rng.randint(1, min(MOST, CONTEXT + 1 - length)), rng.choice(beams)))
    return found


def naive(model: Transformer, asked: Asked) -> decode.Decoded:
    """What the reference finds without a cache."""
    if asked.beams == 1:
        return decode.greedy(model, asked.prompt, asked.limit)
    return decode.beam(model, asked.prompt, asked.beams, 0.6, asked.limit)[0]


def check(model: Transformer, asked: list[Asked], found: list[Any]) -> int:
    """Every result against the naive one; how many were decided."""
    decided = 0
    for each, own in zip(asked, found, strict=True):
        known = naive(model, each)
        if known.decision_gap > UNDECIDED:
            assert own.tokens == known.tokens, each
            assert own.token_log_probs == pytest.approx(known.token_log_probs, abs=2e-4)
            decided += 1
    return decided


def request(asked: Asked) -> Request:
    return Request(source=Prepared(ids=asked.prompt), limit=asked.limit)


@pytest.mark.parametrize("network", NETWORKS)
def test_speculation_across_the_edge(network: str, opened: Any) -> None:
    model, engine = opened(network, "cpu")
    spec = ModelSpec.from_json(model.config.to_json())
    asked, found = drawn(1, 14, (1,)), []
    accepted = 0
    for i, each in enumerate(asked):
        options = DecodingOptions(beam_size=1, speculate=1 + i % 7)
        (result,) = decode_all(engine, spec, [request(each)], options, 1, lambda: None)
        accepted += result[1].speculation.accepted if result[1].speculation else 0
        found.append(result[0][0])
    assert check(model, asked, found) >= 11
    assert accepted > 4


@pytest.mark.parametrize(("network", "target"), ON_TARGETS)
def test_joins_across_the_edge(network: str, target: str, opened: Any) -> None:
    """With beams and without, each beside whoever is there; some arrive when others are far beyond their window."""
    model, engine = opened(network, target)
    spec = ModelSpec.from_json(model.config.to_json())
    asked, rng = drawn(2, 12, (1, 1, 3)), random.Random(3)
    jobs = [Job(request=request(each), options=DecodingOptions(beam_size=each.beams)) for each in asked]
    arrivals: Iterator[tuple[int, Job]] = iter(sorted(((rng.randint(0, 60), job) for job in jobs), key=lambda a: a[0]))
    batch, coming, step = ContinuousBatch(engine, spec, rows=10), next(arrivals, None), 0
    while coming or batch.jobs:
        while coming and coming[0] <= step:
            batch.add(coming[1])
            coming = next(arrivals, None)
        batch.step()
        step += 1
    assert check(model, asked, [job.result()[0][0] for job in jobs]) >= 9


@pytest.mark.parametrize(("network", "target"), ON_TARGETS)
def test_batches_across_the_edge(network: str, target: str, opened: Any) -> None:
    """Prompts of one length share steps; results leave one by one."""
    model, engine = opened(network, target)
    spec = ModelSpec.from_json(model.config.to_json())
    for beams in (1, 3):
        asked = drawn(4 + beams, 8, (beams,))
        options = DecodingOptions(beam_size=beams)
        found = decode_all(engine, spec, [request(each) for each in asked], options, 8, lambda: None)
        assert check(model, asked, [result[0][0] for result in found]) >= 5
