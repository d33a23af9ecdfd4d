"""The least that must be done for an answer: weights and caches read, numbers multiplied; and how long that takes.

Counted are the matrices that are multiplied, each read once a step whatever the batch, the caches of keys and values in
float32, and the products with weights; for vectors also those of attention. Scales, biases and norms, under a hundredth
of the whole, are left out. A step takes at least as long as reading or multiplying, whichever is longer (Williams,
Waterman and Patterson 2009, "Roofline", section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from .results import Setting
from .workloads import PROMPT_TOKENS, WORKLOADS

FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Work:
    """One step, done ``times`` over for a request.

    ``weights``: numbers that are read; ``cache``: bytes; ``products``: multiplications, each with its addition.
    """

    times: float
    weights: int
    cache: int
    products: int


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What this machine can do with so many threads.

    ``bandwidth``: bytes read again and again, and bytes a second, from what caches hold to what they do not. ``int8``,
    ``float32``: products a second of large matrices.
    """

    threads: int
    bandwidth: list[list[float]]
    int8: float
    float32: float

    def rate(self, size: float) -> float:
        """Bytes a second at which ``size`` bytes are read, between two that were measured by their logarithms."""
        known = sorted(self.bandwidth)
        if size <= known[0][0]:
            return known[0][1]
        for (left, low), (right, high) in pairwise(known):
            if size <= right:
                share = math.log(size / left) / math.log(right / left)
                return float(low ** (1 - share) * high**share)
        return known[-1][1]

    def seconds(self, work: Sequence[Work], bits: float) -> float:
        """The least time of a request whose weights have ``bits``."""
        products = self.float32 if bits > 16 else self.int8
        total = 0.0
        for step in work:
            size = step.weights * bits / 8 + step.cache
            total += step.times * max(size / self.rate(size), step.products / products)
        return total


def least_work(network: dict[str, Any], setting: Setting, source: float, steps: float) -> list[Work]:
    """Of one request.

    ``network``: a ``ModelConfig`` in JSON. ``source``: tokens of a source, the longest of its batch; ``steps``: of
    decoding.
    """
    kind = WORKLOADS[setting.workload].kind
    batch = setting.batch
    if kind == "embed":
        return [_encoding(network["encoder"], batch, source, attention=True)]
    decoder = network["decoder"]
    vocabulary = decoder["d_model"] * network["vocab_size"]
    if kind == "generate":
        if setting.part == "first":
            layers = _layers(decoder)
            products = batch * (layers * PROMPT_TOKENS + vocabulary)
            return [Work(times=1, weights=layers + vocabulary, cache=0, products=products)]
        return [_step(decoder, vocabulary, batch, PROMPT_TOKENS + (steps + 1) / 2, 0, steps)]
    encoding = _encoding(network["encoder"], batch, source, attention=False)
    keys = 2 * decoder["n_layers"] * decoder["d_model"] ** 2  # of every source token, made once
    encoding = Work(
        times=1,
        weights=encoding.weights + keys,
        cache=0,
        products=encoding.products + int(keys * batch * source),
    )
    cross = 2 * decoder["n_layers"] * decoder["d_model"] ** 2  # queries and outputs
    rows = batch * setting.beam_size
    return [encoding, _step(decoder, vocabulary + cross, rows, (steps + 1) / 2, batch * source, steps)]


def _encoding(stack: dict[str, Any], batch: int, source: float, *, attention: bool) -> Work:
    layers = _layers(stack)
    scores = 2 * stack["n_layers"] * stack["d_model"] * source if attention else 0  # of a token, and their mixture
    return Work(times=1, weights=layers, cache=0, products=int(batch * source * (layers + scores)))


def _step(stack: dict[str, Any], more: int, rows: int, decoded: float, source_tokens: float, times: float) -> Work:
    """A step of ``rows``, each after ``decoded`` tokens of its own, beside ``source_tokens`` of all sources."""
    weights = _layers(stack) + more
    a_token = 2 * stack["n_layers"] * _key_width(stack) * FLOAT_BYTES
    cache = int(a_token * (rows * decoded + source_tokens))
    return Work(times=times, weights=weights, cache=cache, products=rows * weights)


def _layers(stack: dict[str, Any]) -> int:
    """Weights of the self-attention and feed-forward matrices of a stack."""
    width = stack["d_model"]
    attention = 2 * width * (_head_width(stack) * stack["n_heads"] + _key_width(stack))
    feed_forward = (3 if stack.get("gated") else 2) * width * stack["d_ff"]
    return int(stack["n_layers"] * (attention + feed_forward))


def _key_width(stack: dict[str, Any]) -> int:
    return _head_width(stack) * int(stack.get("n_kv_heads") or stack["n_heads"])


def _head_width(stack: dict[str, Any]) -> int:
    return int(stack.get("head_dim") or stack["d_model"] // stack["n_heads"])


def floors_json(setting: Setting, work: Sequence[Work]) -> dict[str, Any]:
    """Plain values, as results keep them."""
    return {"setting": asdict(setting), "work": [asdict(step) for step in work]}
