"""Recording what the integers of a variant give for the reference cases, at the steps where that is sure.

A step is steady when ``COPIES`` disturbed copies of the network give what the network gives, within ``STEADY``: in
each copy every number that a quantized product reads is off by ``DISTURBANCE``, about what float32 sums in another
order make of it. Most of the steps that are left out would agree as well, but not on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..models import decode
from ..models.checkpoint import Checkpoint
from ..models.transformer import Transformer
from ..runtime.bundle.cases import Case, ReferenceCases
from ..runtime.bundle.quantized import (
    ARITHMETICS,
    QuantizedReference,
    SteadyCase,
    SteadyStep,
    digest,
    direction,
    rounded,
)
from .cases import one_thread, segments_of
from .quantized import QuantizedLinear, QuantizedTransformer, Scaling, UnsignedLinear, quantized_network
from .sources import prompt_of, source_of

COPIES = 8
DISTURBANCE = 1e-7  # standard deviation, relative: float32 carries 24 bits, 6e-8
STEADY = 1e-3  # nats; where a rounding goes the other way, a fold moves by a hundred times that
STEPS_PER_CASE = 8
FRUITLESS = 6
"""Cases without a steady step after which no more are asked: in a deep network some rounding always goes the other way,
and it takes the longest to say so."""

Progress = Callable[[int, int], None]
Digests = NDArray[np.float64]
"""``(rows, steps, values)``."""


def record_quantized(
    checkpoint: Checkpoint,
    target: str,
    precision: str,
    kernels: Mapping[str, str],
    scalings: Mapping[str, Scaling],
    cases: ReferenceCases,
    progress: Progress | None = None,
) -> QuantizedReference:
    """Ask the quantized networks of a variant every one of ``cases``.

    The ``kernels`` carry its matrices, with their ``scalings``.

    Raises:
        ExportError: a kernel whose activations depend on what else is in the tensor.
    """
    networks = {a: quantized_network(checkpoint.model, kernels, target, a, scalings) for a in ARITHMETICS}
    _disturb_all_rows_but_the_first(networks["int8"])
    found = []
    with one_thread():
        for done, case in enumerate(cases.cases, start=1):
            if steps := tuple(_steady_steps(case, networks["int8"], networks["float32"])):
                found.append(SteadyCase(name=case.name, steps=steps))
            if progress:
                progress(done, len(cases.cases))
            if done >= FRUITLESS and not found:
                break
    return QuantizedReference(
        variant=f"{target}-{precision}", checkpoint_sha256=cases.checkpoint_sha256, cases=tuple(found)
    )


def _disturb_all_rows_but_the_first(network: QuantizedTransformer) -> None:
    generator = torch.Generator().manual_seed(0)

    def disturb(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        noise = torch.randn(inputs[0].shape, generator=generator)
        noise[0] = 0
        return (inputs[0] * (1 + DISTURBANCE * noise),)

    for module in network.modules():
        if isinstance(module, QuantizedLinear | UnsignedLinear):
            module.register_forward_pre_hook(disturb)


def _steady_steps(case: Case, disturbed: Transformer, plain: Transformer) -> Iterator[SteadyStep]:
    """At most ``STEPS_PER_CASE``, from the first steady one to the last."""
    own, steady = _disturbed(disturbed, case, 1)
    if steady.any():  # in a long text one copy already tells that there are none
        steady &= _disturbed(disturbed, case, COPIES - 1)[1]
    if steady.any():
        (unquantized,) = _digests(plain, case, 1)
        for index in _spread(np.flatnonzero(steady).tolist()):
            yield SteadyStep(index=index, int8=rounded(own[index]), float32=rounded(unquantized[index]))


def _disturbed(network: Transformer, case: Case, copies: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What the undisturbed row gives, and at which steps all ``copies`` give the same."""
    own, *others = _digests(network, case, 1 + copies)
    return own, np.abs(np.array(others) - own).max(axis=(0, 2)) <= STEADY


def _spread(indices: Sequence[int]) -> list[int]:
    if len(indices) <= STEPS_PER_CASE:
        return list(indices)
    return [indices[i * (len(indices) - 1) // (STEPS_PER_CASE - 1)] for i in range(STEPS_PER_CASE)]


@torch.inference_mode()
def _digests(network: Transformer, case: Case, rows: int) -> Digests:
    """Teacher-forced, ``rows`` times the same."""
    if case.greedy:
        return _decoded(network, case, rows)
    ids = torch.tensor([case.input_ids]).expand(rows, -1)
    mask = torch.ones_like(ids, dtype=torch.bool)
    segments = segments_of(network.config, ids, case.second_from)
    hidden = network.encode(ids, mask, segments)
    if case.token_scores:
        return network.tag(hidden[:, [scores.position for scores in case.token_scores]]).double().numpy()
    if case.classified:
        return network.classify(hidden, mask).double().numpy()[:, None]
    if case.embedded:
        return np.array([[direction(vector)] for vector in network.pool(hidden, mask).numpy()])
    masks = case.masked or ()
    logits = network.logits(hidden[:, [m.position for m in masks]])
    return _digested(logits, [m.scores.top_ids[0] for m in masks])


def _decoded(network: Transformer, case: Case, rows: int) -> Digests:
    assert case.greedy is not None
    prompt = prompt_of(network.config, case)
    fed = torch.tensor([(*prompt, *case.greedy.tokens[:-1])]).expand(rows, -1)
    memory = decode.remember(network, [source_of(network.config, case)] * rows)
    positions = torch.arange(fed.shape[1]).expand_as(fed)
    all_keys = torch.ones_like(fed, dtype=torch.bool)
    hidden, _ = network.decode(fed, positions, all_keys, None, memory.cross, memory.mask)
    return _digested(network.logits(hidden[:, len(prompt) - 1 :]), case.greedy.tokens)


def _digested(logits: Tensor, tokens: Sequence[int]) -> Digests:
    """``logits (rows, steps, V)`` and the token of every step."""
    return np.array([[digest(s, token) for s, token in zip(row, tokens, strict=True)] for row in logits.numpy()])
