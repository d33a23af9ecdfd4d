"""The answers of :mod:`.decode` for networks too large to re-read every prefix: found with a cache, read without.

A greedy search finds its tokens through the cache of :mod:`.generate`; all its numbers then come from one pass over the
whole text, which has no cache. Where that pass would have chosen another token, a choice hung on the last bits of
float32, and the naive search decides. A beam search keeps what the cached search found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from . import decode, generate
from .decode import Decoded
from .heard import Source
from .transformer import Transformer


@torch.inference_mode()
def greedy(model: Transformer, source: Source, max_new_tokens: int) -> Decoded:
    """As :func:`edgewise.models.decode.greedy`, in as many steps as tokens and one pass over all of them."""
    (found,) = generate.greedy(model, [source], max_new_tokens)
    logits = _one_pass(model, source, found.tokens)
    ranked = logits.log_softmax(-1).sort(descending=True, stable=True)
    if ranked.indices[:, 0].tolist() != list(found.tokens):
        return decode.greedy(model, source, max_new_tokens)
    log_probs = tuple(ranked.values[:, 0].tolist())
    return replace(
        found,
        token_log_probs=log_probs,
        score=sum(log_probs),
        normalized_score=sum(log_probs) / decode.length_norm(len(log_probs), 0.6),
        decision_gap=float((ranked.values[:, 0] - ranked.values[:, 1]).min()),
        logits=logits,
    )


def beam(model: Transformer, source: Source, beam_size: int, length_penalty: float, max_new_tokens: int) -> Decoded:
    """As :func:`edgewise.models.decode.beam`, of which the best."""
    return generate.beam(model, [source], beam_size, length_penalty, max_new_tokens)[0][0]


def _one_pass(model: Transformer, source: Source, tokens: Sequence[int]) -> torch.Tensor:
    """Logits ``(len(tokens), V)`` from which each of the ``tokens`` is chosen."""
    prompt, memory = decode.prompts_of(model, [source])[0], decode.remember(model, [source])
    fed = torch.tensor([[*prompt, *tokens[:-1]]])
    positions, everything = torch.arange(fed.shape[1])[None], torch.ones_like(fed, dtype=torch.bool)
    hidden, _ = model.decode(fed, positions, everything, cross=memory.cross, cross_mask=memory.mask)
    return model.logits(hidden[0, len(prompt) - 1 :])
