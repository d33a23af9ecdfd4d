"""Cached eager PyTorch generation: what a user of plain PyTorch would run, and the peer of the benchmarks.

Same rules and results as :mod:`edgewise.models.decode`, but each step feeds one token a row and appends its keys and
values to the cache. Source K/V are computed once and shared by the beams; beams are reordered by ``index_select``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .decode import Candidate, Decoded, Memory, SentenceBeams, length_norm, prompts_of, remember
from .layers import KeyValue
from .transformer import Transformer


class CachedDecoder:
    """The decoder of one request: ``B`` sentences of ``K`` rows each, and the cache of what they have read."""

    def __init__(self, model: Transformer, memory: Memory, rows: int) -> None:
        self.model = model
        self.memory = memory
        self.rows = rows
        self.length = 0
        self.past: list[KeyValue] | None = None
        capacity = model.config.max_positions
        self._positions = torch.arange(capacity)
        self._key_mask = torch.ones(rows, capacity, dtype=torch.bool)

    def feed(self, ids: Tensor) -> Tensor:
        """Read ``ids (R, T)``; log-probabilities ``(R, V)`` of the next token."""
        positions = self._positions[self.length : self.length + ids.shape[1]].expand(ids.shape)
        self.length += ids.shape[1]
        hidden, self.past = self.model.decode(
            ids, positions, self._key_mask[:, : self.length], self.past, self.memory.cross, self.memory.mask
        )
        return self.model.logits(hidden[:, -1]).log_softmax(-1)

    def reorder(self, parents: Tensor) -> None:
        """Row ``r`` continues what row ``parents[r]`` has read."""
        assert self.past is not None
        self.past = [(k.index_select(0, parents), v.index_select(0, parents)) for k, v in self.past]


def _prompt_ids(model: Transformer, sources: Sequence[Sequence[int]]) -> Tensor:
    prompts = prompts_of(model, sources)
    if len({len(p) for p in prompts}) > 1:
        raise ValueError(f"prompts of one batch must be equally long; these are {sorted({len(p) for p in prompts})}")
    return torch.tensor(prompts)


@torch.inference_mode()
def greedy(
    model: Transformer,
    sources: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    length_penalty: float = 0.6,
) -> list[Decoded]:
    """Cached greedy decoding of a batch: sources as in :func:`edgewise.models.decode.beam_batch`.

    Raises:
        ValueError: prompts of a decoder-only model differ in length.
    """
    batch, end_id = len(sources), model.config.end_id
    limits = torch.tensor([max_new_tokens] * batch if isinstance(max_new_tokens, int) else list(max_new_tokens))
    decoder = CachedDecoder(model, remember(model, sources), batch)
    ids = _prompt_ids(model, sources)
    tokens, values = [], []
    live = torch.ones(batch, dtype=torch.bool)
    while live.any():
        best = decoder.feed(ids).max(-1)
        tokens.append(best.indices)
        values.append(best.values)
        ids = best.indices[:, None]
        live &= (best.indices != end_id) & (len(tokens) < limits)
    rows = zip(torch.stack(tokens, 1).tolist(), torch.stack(values, 1).tolist(), limits.tolist(), strict=True)
    return [_greedy_result(row[:limit], log_probs, end_id, length_penalty) for row, log_probs, limit in rows]


def _greedy_result(row: list[int], log_probs: list[float], end_id: int, length_penalty: float) -> Decoded:
    length = row.index(end_id) + 1 if end_id in row else len(row)
    score = sum(log_probs[:length])
    return Decoded(
        tokens=tuple(row[:length]),
        token_log_probs=tuple(log_probs[:length]),
        score=score,
        normalized_score=score / length_norm(length, length_penalty),
        finish_reason="end" if end_id in row else "length",
        decision_gap=0.0,
    )


@torch.inference_mode()
def beam(
    model: Transformer,
    sources: Sequence[Sequence[int]],
    beam_size: int,
    length_penalty: float,
    max_new_tokens: int | Sequence[int],
    n_best: int = 1,
) -> list[list[Decoded]]:
    """Cached beam search of a batch: arguments and results of :func:`edgewise.models.decode.beam_batch`.

    ``decision_gap`` is of no use here: only the best ``2K`` candidates are looked at, not the first that missed.

    Raises:
        ValueError: prompts of a decoder-only model differ in length.
    """
    batch = len(sources)
    limits = [max_new_tokens] * batch if isinstance(max_new_tokens, int) else list(max_new_tokens)
    sentences = [SentenceBeams(beam_size, length_penalty, limit, model.config.end_id) for limit in limits]
    decoder = CachedDecoder(model, remember(model, sources), batch * beam_size)
    log_probs = decoder.feed(_prompt_ids(model, sources).repeat_interleave(beam_size, dim=0))
    first = torch.arange(batch * beam_size) % beam_size == 0
    totals = torch.where(first, 0.0, -torch.inf).double()  # the first step starts from one beam
    while True:
        ids, parents, totals = _advance(sentences, totals, log_probs)
        if all(s.done for s in sentences):
            return [s.results(n_best) for s in sentences]
        decoder.reorder(parents)
        log_probs = decoder.feed(ids)


def _advance(sentences: list[SentenceBeams], totals: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Choose for every sentence: the next tokens ``(R, 1)``, the rows they continue ``(R,)``, and their totals."""
    beam_size, vocab_size = sentences[0].beam_size, log_probs.shape[1]
    flat = (totals[:, None] + log_probs).view(len(sentences), -1)  # (B, K*V)
    best = flat.topk(2 * beam_size)
    places, sums = best.indices.tolist(), best.values.tolist()
    values = log_probs.view(len(sentences), -1).gather(1, best.indices).tolist()
    ids, parents, live_totals = [], [], []
    for b, sentence in enumerate(sentences):
        ranked = sorted(zip(places[b], values[b], sums[b], strict=True), key=lambda c: (-c[2], c[0]))
        candidates = [Candidate(place // vocab_size, place % vocab_size, v, total) for place, v, total in ranked]
        if not sentence.done:
            sentence.advance(candidates)
        alive = [c for c in candidates if c.token != sentence.end_id][:beam_size]
        ids += [c.token for c in alive]
        parents += [b * beam_size + c.beam for c in alive]
        live_totals += [c.total for c in alive]
    return torch.tensor(ids)[:, None], torch.tensor(parents), torch.tensor(live_totals, dtype=torch.float64)
