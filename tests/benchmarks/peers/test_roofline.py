"""Weights of a step counted in the networks themselves; and rates that are at least those of a computer."""

from __future__ import annotations

import dataclasses

import pytest
from torch import nn

from edgewise.benchmarks.peers.floors import Ceilings, Work, least_work
from edgewise.benchmarks.peers.random_network import marian_base
from edgewise.benchmarks.peers.results import Setting
from edgewise.benchmarks.peers.roofline import measured
from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.position_config import RopeConfig
from edgewise.models.transformer import Transformer

CONFIG = marian_base(n_layers=2, d_model=32, vocab_size=100)
STACK = StackConfig(n_layers=2, d_model=32, n_heads=4, d_ff=48, norm_place="pre", norm="rms", gated=True, n_kv_heads=2)


def setting(workload: str, batch: int = 1, beams: int = 1, **more: object) -> Setting:
    return Setting(workload=workload, threads=1, batch=batch, beam_size=beams, **more)  # type: ignore[arg-type]


def matrices(model: nn.Module, *prefixes: str, without: str = "!", only: str = "") -> int:
    """Numbers in the matrices whose names begin and go on like this."""
    return sum(
        value.numel()
        for name, value in model.named_parameters()
        if value.dim() == 2 and name.startswith(prefixes) and only in name and without not in name
    )


def llama() -> ModelConfig:
    return dataclasses.replace(CONFIG, encoder=None, decoder=STACK, positions="rotary", rope=RopeConfig())


def test_weights_of_a_translation_are_the_matrices_that_it_multiplies() -> None:
    model = Transformer(CONFIG)
    encoding, step = least_work(CONFIG.to_json(), setting("s1"), source=32, steps=64)
    made_once = sum(matrices(model, "decoder.", only=f".cross_attention.{part}.") for part in ("key", "value"))
    assert made_once > 0
    assert step.weights == matrices(model, "decoder.", "embedding.") - made_once
    assert encoding.weights == matrices(model, "encoder.") + made_once
    assert (encoding.times, step.times) == (1, 64)
    assert (encoding.products, step.products) == (32 * encoding.weights, step.weights)


def test_a_base_model_reads_38_megabytes_of_int8() -> None:
    _, step = least_work(marian_base().to_json(), setting("s1", 8, 4), source=32, steps=64)
    assert step.weights == pytest.approx(38.4e6, rel=0.01)
    assert step.products == 32 * step.weights


@pytest.mark.parametrize(("batch", "beams"), [(1, 1), (8, 4)])
def test_caches_are_the_mean_over_the_steps(batch: int, beams: int) -> None:
    new, source, width, layers = 64, 32, 32, 2
    per_step = []
    for step in range(1, new + 1):  # at step 1 the start token has been read
        decoded = batch * beams * step * 2 * layers * width * 4
        per_step.append(decoded + batch * source * 2 * layers * width * 4)
    _, step = least_work(CONFIG.to_json(), setting("s1", batch, beams), source=source, steps=new)
    assert step.cache == sum(per_step) / new


def test_a_llama_with_shared_key_heads() -> None:
    model = Transformer(llama())
    (first,) = least_work(llama().to_json(), setting("s3", part="first"), source=128, steps=129)
    (later,) = least_work(llama().to_json(), setting("s3", part="later"), source=128, steps=128)
    assert first.weights == later.weights == matrices(model, "decoder.", "embedding.")
    layers, vocabulary = matrices(model, "decoder."), matrices(model, "embedding.")
    assert first.products == 128 * layers + vocabulary  # logits of the last token alone
    contexts = [128 + i for i in range(1, 129)]
    assert later.cache == sum(c * 2 * 2 * (32 // 2) * 4 for c in contexts) // 128
    assert later.times == 128


def test_vectors_multiply_every_token_with_every_other_too() -> None:
    encoder = dataclasses.replace(CONFIG, decoder=None, head="embedding", pooling="mean")
    model = Transformer(encoder)
    (work,) = least_work(encoder.to_json(), setting("s4", 32), source=128, steps=0)
    assert work.weights == matrices(model, "encoder.")
    assert work.products == 32 * 128 * work.weights + 32 * 2 * (2 * 128 * 128 * 32)


CEILINGS = Ceilings(threads=1, bandwidth=[[1e6, 100e9], [100e6, 10e9]], int8=400e9, float32=50e9)


def test_bandwidth_between_two_sizes_is_between_their_rates() -> None:
    assert [CEILINGS.rate(size) for size in (1.0, 1e6, 1e7, 1e8, 1e12)] == pytest.approx(
        [100e9, 100e9, 1000**0.5 * 1e9, 10e9, 10e9]
    )


def test_a_step_takes_as_long_as_the_slower_of_reading_and_multiplying() -> None:
    reads = Work(times=10, weights=90_000_000, cache=10_000_000, products=100)
    multiplies = Work(times=1, weights=1000, cache=0, products=400_000_000)
    assert CEILINGS.seconds([reads], 8) == pytest.approx(10 * 0.01)
    assert CEILINGS.seconds([multiplies], 8) == pytest.approx(0.001)
    assert CEILINGS.seconds([multiplies], 32) == pytest.approx(0.008)
    assert CEILINGS.seconds([reads, multiplies], 8) == pytest.approx(0.101)
    assert CEILINGS.seconds([dataclasses.replace(reads, cache=0, weights=200_000_000)], 4) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("what", "of", "least", "most"),
    [("read", 4_000_000, 1e8, 1e13), ("multiply", "int8", 1e8, 1e14), ("multiply", "float32", 1e8, 1e14)],
)
def test_a_rate_is_measured_in_a_process_of_its_own(what: str, of: int | str, least: float, most: float) -> None:
    assert least < measured(what, of, 1) < most
