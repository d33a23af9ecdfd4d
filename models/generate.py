"""Cached eager PyTorch generation: what a user of plain PyTorch would run, and the peer of the benchmarks.

Same rules and results as :mod:`edgewise.models.decode`, but each step feeds one token a row and appends its keys and
values to the cache. Source K/V are computed once and shared by the beams; beams are reordered by ``index_select``.
Sentences that are done leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .decode import Candidate, Decoded, Memory, SentenceBeams, length_norm, prompts_of, remember
from .heard import Source
from .layers import KeyValue
from .transformer import Transformer


class CachedDecoder:
    """The decoder of one batch and the cache of what every row has read; ``K`` rows a sentence, row ``b * K + k``."""

    def __init__(self, model: Transformer, memory: Memory) -> None:
        self.model = model
        self.memory = memory
        self.past: list[KeyValue] | None = None
        self._positions = torch.arange(model.config.max_positions)

    def feed(self, ids: Tensor) -> Tensor:
        """Read ``ids (R, T)``; log-probabilities ``(R, V)`` of the next token."""
        begin = self.past[0][0].shape[2] if self.past else 0
        end = begin + ids.shape[1]
        positions = self._positions[begin:end].expand(ids.shape)
        key_mask = torch.ones(len(ids), end, dtype=torch.bool)
        hidden, self.past = self.model.decode(ids, positions, key_mask, self.past, self.memory.cross, self.memory.mask)
        return self.model.logits(hidden[:, -1]).log_softmax(-1)

    def reorder(self, parents: Tensor) -> None:
        """From now on row ``r`` continues what row ``parents[r]`` has read; there may be fewer rows than before."""
        assert self.past is not None
        self.past = [(k.index_select(0, parents), v.index_select(0, parents)) for k, v in self.past]

    def keep(self, sentences: list[int]) -> None:
        """Forget the sources of all other sentences of the batch."""
        self.memory = self.memory.select(sentences)


def _prompt_ids(model: Transformer, sources: Sequence[Source]) -> Tensor:
    prompts = prompts_of(model, sources)
    if len({len(p) for p in prompts}) > 1:
        raise ValueError(f"prompts of one batch must be equally long; these are {sorted({len(p) for p in prompts})}")
    return torch.tensor(prompts)


@torch.inference_mode()
def greedy(
    model: Transformer,
    sources: Sequence[Source],
    max_new_tokens: int | Sequence[int],
    length_penalty: float = 0.6,
) -> list[Decoded]:
    """Cached greedy decoding of a batch: sources as in :func:`edgewise.models.decode.beam_batch`.

    Raises:
        ValueError: prompts of a decoder-only model differ in length.
    """
    batch, end_id = len(sources), model.config.end_id
    limits = [max_new_tokens] * batch if isinstance(max_new_tokens, int) else list(max_new_tokens)
    decoder = CachedDecoder(model, remember(model, sources))
    ids = _prompt_ids(model, sources)
    tokens: list[list[int]] = [[] for _ in sources]
    log_probs: list[list[float]] = [[] for _ in sources]
    live = list(range(batch))
    while True:
        best = decoder.feed(ids).max(-1)
        for i, token, value in zip(live, best.indices.tolist(), best.values.tolist(), strict=True):
            tokens[i].append(token)
            log_probs[i].append(value)
        rows = [r for r, i in enumerate(live) if tokens[i][-1] != end_id and len(tokens[i]) < limits[i]]
        ids = best.indices[:, None]
        if not rows:
            return [_greedy_result(t, v, end_id, length_penalty) for t, v in zip(tokens, log_probs, strict=True)]
        if len(rows) < len(live):
            live = [live[r] for r in rows]
            ids = ids[rows]
            decoder.reorder(torch.tensor(rows))
            decoder.keep(rows)


def _greedy_result(tokens: list[int], log_probs: list[float], end_id: int, length_penalty: float) -> Decoded:
    score = sum(log_probs)
    return Decoded(
        tokens=tuple(tokens),
        token_log_probs=tuple(log_probs),
        score=score,
        normalized_score=score / length_norm(len(tokens), length_penalty),
        finish_reason="end" if tokens[-1] == end_id else "length",
        decision_gap=0.0,
    )


@torch.inference_mode()
def beam(
    model: Transformer,
    sources: Sequence[Source],
    beam_size: int,
    length_penalty: float,
    max_new_tokens: int | Sequence[int],
    n_best: int = 1,
) -> list[list[Decoded]]:
    """Cached beam search of a batch: arguments and results of :func:`edgewise.models.decode.beam_batch`.

    Raises:
        ValueError: prompts of a decoder-only model differ in length.
    """
    limits = [max_new_tokens] * len(sources) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    sentences = [SentenceBeams(beam_size, length_penalty, limit, model.config.end_id) for limit in limits]
    decoder = CachedDecoder(model, remember(model, sources))
    log_probs = decoder.feed(_prompt_ids(model, sources)).repeat_interleave(beam_size, dim=0)
    decoder.reorder(torch.arange(len(sources)).repeat_interleave(beam_size))
    first = torch.arange(len(log_probs)) % beam_size == 0
    totals = torch.where(first, 0.0, -torch.inf).double()  # the first step starts from one beam
    live = sentences
    while True:
        ids, parents, totals = _advance(live, totals, log_probs)
        if not len(ids):
            return [s.results(n_best) for s in sentences]
        decoder.reorder(parents)
        if len(ids) < len(log_probs):
            decoder.keep([b for b, s in enumerate(live) if not s.done])
            live = [s for s in live if not s.done]
        log_probs = decoder.feed(ids)


def _advance(live: list[SentenceBeams], totals: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Let every sentence choose. For those not done now: next tokens ``(R, 1)``, the rows continued, their totals."""
    beam_size = live[0].beam_size
    wanted = min(2 * beam_size + 1, log_probs.shape[1])  # no sentence can choose more from one row, or miss more
    best = log_probs.topk(wanted)
    sums = (totals[:, None] + best.values).view(len(live), -1)
    columns = (sums, best.values.view(len(live), -1), best.indices.view(len(live), -1))
    ids, parents, live_totals = [], [], []
    for b, (sentence, *rows) in enumerate(zip(live, *(c.tolist() for c in columns), strict=True)):
        places = [
            (-total, i // wanted, token, value) for i, (total, value, token) in enumerate(zip(*rows, strict=True))
        ]
        ranked = [Candidate(beam, token, value, -cost) for cost, beam, token, value in sorted(places)]
        chosen = [c for c in ranked[: 2 * beam_size] if c.token != sentence.end_id][:beam_size]
        sentence.advance(ranked[:wanted])
        if not sentence.done:
            ids += [[c.token] for c in chosen]
            parents += [b * beam_size + c.beam for c in chosen]
            live_totals += [c.total for c in chosen]
    return torch.tensor(ids), torch.tensor(parents), torch.tensor(live_totals, dtype=torch.float64)
