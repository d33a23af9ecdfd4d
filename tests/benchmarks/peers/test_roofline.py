"""Bytes of a step, counted another way; and a bandwidth that is at least one of a computer."""

from __future__ import annotations

import pytest

from edgewise.benchmarks.peers.random_network import marian_base
from edgewise.benchmarks.peers.roofline import measured_bandwidth, step_bytes
from edgewise.models.transformer import Transformer

CONFIG = marian_base(n_layers=2, d_model=32, vocab_size=100)


@pytest.mark.parametrize("weight_bytes", [1, 4], ids=["int8", "float32"])
def test_weights_are_the_matrices_that_a_step_multiplies(weight_bytes: int) -> None:
    """Of the real network's parameters: the decoder's matrices but keys and values of the source, and the embedding."""
    read = 0
    for name, value in Transformer(CONFIG).named_parameters():
        once = name.endswith((".cross_attention.key.weight", ".cross_attention.value.weight"))
        if value.dim() == 2 and not once and name.startswith(("decoder.", "embedding.")):
            read += value.numel()
    found = step_bytes(CONFIG.to_json(), weight_bytes=weight_bytes, batch=1, beams=1, source=32, new=64)
    assert found.weights == read * weight_bytes


def test_a_base_model_reads_38_megabytes_of_int8() -> None:
    found = step_bytes(marian_base().to_json(), weight_bytes=1, batch=8, beams=4, source=32, new=64)
    assert found.weights == pytest.approx(38.4e6, rel=0.01)
    assert found.total == found.weights + found.cache


@pytest.mark.parametrize(("batch", "beams"), [(1, 1), (8, 4)])
def test_caches_are_the_mean_over_the_steps(batch: int, beams: int) -> None:
    new, source, width, layers = 64, 32, 32, 2
    per_step = []
    for step in range(1, new + 1):  # at step 1 the start token has been read
        decoded = batch * beams * step * 2 * layers * width * 4
        per_step.append(decoded + batch * source * 2 * layers * width * 4)
    found = step_bytes(CONFIG.to_json(), weight_bytes=1, batch=batch, beams=beams, source=source, new=new)
    assert found.cache == sum(per_step) / new


@pytest.mark.parametrize("threads", [1, 2])
def test_a_bandwidth_is_measured_in_a_process_of_its_own(threads: int) -> None:
    assert 1e8 < measured_bandwidth(4_000_000, threads) < 1e13
