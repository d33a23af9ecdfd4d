"""What the matrices of a network read: rows of their inputs, recorded while the reference answers its cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..models import decode
from ..models.transformer import Transformer
from ..runtime.bundle.cases import Case
from .sources import prompt_of, source_of

MOST_ROWS = 256
"""Rows kept of a matrix: those of the first cases, their first tokens included, where outliers are."""
_VOCABULARY = "vocabulary"  # the output projection among matrix names

Inputs = dict[str, NDArray[np.float32]]
"""Rows ``(rows, K)`` by matrix name."""


@torch.inference_mode()
def record_inputs(model: Transformer, cases: Sequence[Case]) -> Inputs:
    """At most ``MOST_ROWS`` rows that each matrix of ``model`` reads, teacher-forced over the ``cases``."""
    rows: dict[str, list[Tensor]] = {}
    with _listening(model, lambda name, x: rows.setdefault(name, []).append(x.reshape(-1, x.shape[-1])[:MOST_ROWS])):
        for case in cases:
            _answer(model, case)
            if all(sum(map(len, found)) >= MOST_ROWS for found in rows.values()):
                break
    return {name: torch.cat(found)[:MOST_ROWS].numpy() for name, found in rows.items()}


@contextmanager
def _listening(model: Transformer, heard: Callable[[str, Tensor], None]) -> Iterator[None]:
    """While this lasts every linear layer, and the output projection, tells its name and what it reads."""

    def listener(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: heard(name, inputs[0])

    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_pre_hook(listener(n)) for n, module in linear if n != _VOCABULARY]
    scores = model.logits

    def logits(hidden: Tensor) -> Tensor:
        heard(_VOCABULARY, hidden)
        return scores(hidden)

    model.logits = logits  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.logits
        for hook in hooks:
            hook.remove()


def _answer(model: Transformer, case: Case) -> None:
    if model.decoder is None:
        ids = torch.tensor([case.input_ids])
        mask = torch.ones_like(ids, dtype=torch.bool)
        hidden = model.encode(ids, mask)
        if model.config.head == "classes":
            model.classify(hidden, mask)
        elif model.config.head == "vocabulary":
            model.logits(hidden)
        elif model.config.head != "embedding":
            model.tag(hidden)
        return
    prompt, memory = prompt_of(model.config, case), decode.remember(model, [source_of(model.config, case)])
    fed = torch.tensor([[*prompt, *(case.greedy.tokens[:-1] if case.greedy else ())]])
    positions, everything = torch.arange(fed.shape[1])[None], torch.ones_like(fed, dtype=torch.bool)
    model.logits(model.decode(fed, positions, everything, None, memory.cross, memory.mask)[0])
