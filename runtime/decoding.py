"""Many prepared texts through one engine: batched, searched or scored, results in input order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .batching import decoder_bytes, encoder_bytes, in_order, memory_budget, plan_batches
from .bundle.manifest import ModelSpec
from .engine import Engine, Floats, Ids
from .inputs import Prepared, right_pad
from .options import DecodingOptions
from .results import Score, Timings, TokenHypothesis
from .search import Search, candidates_needed, refuse_nan, search

Check = Callable[[], None]
"""Called before every step; raises to stop the request."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One text to decode, and its most new tokens."""

    source: Prepared
    limit: int


def start_search(engine: Engine, model: ModelSpec, batch: Sequence[Request], options: DecodingOptions) -> Search:
    """A search over ``batch``, nothing computed but the source. Prompts of a decoder-only model are equally long."""
    limits = [request.limit for request in batch]
    sources = [request.source.ids for request in batch]
    if model.encoder:
        memory = engine.encode_source(*right_pad(sources, model.pad_id))
        prompts = np.full((len(batch), 1), model.start_id, dtype=np.int64)
    else:
        memory, prompts = None, np.array(sources, dtype=np.int64)
    beams, wanted = options.beam_size, candidates_needed(options.beam_size)
    run = engine.start(memory, len(batch), beams, capacity(prompts.shape[1], max(limits)), wanted)
    return search(
        run,
        prompts,
        limits,
        model.end_id,
        beam_size=beams,
        length_penalty=options.length_penalty,
        n_best=options.n_best,
    )


def capacity(prompt: int, limit: int) -> int:
    """Positions a decoder needs: its prompt and every new token but the last, which nothing follows."""
    return prompt + limit - 1


def decode_all(
    engine: Engine,
    model: ModelSpec,
    requests: Sequence[Request],
    options: DecodingOptions,
    batch_size: int,
    check: Check,
) -> list[tuple[list[TokenHypothesis], Timings]]:
    """Decode every request, those of similar length together."""
    batches = plan_batches(
        [len(request.source.ids) for request in requests],
        lambda length: _bytes_of(model, length, max(r.limit for r in requests), options.beam_size),
        batch_size,
        memory_budget(),
        equal=model.encoder is None,
    )
    return in_order(batches, (_decode(engine, model, [requests[i] for i in b], options, check) for b in batches))


def _bytes_of(model: ModelSpec, length: int, limit: int, beams: int) -> int:
    prompt = 1 if model.encoder else length
    return encoder_bytes(model, length) + decoder_bytes(model, prompt, capacity(prompt, limit), beams)


def _decode(
    engine: Engine, model: ModelSpec, batch: list[Request], options: DecodingOptions, check: Check
) -> list[tuple[list[TokenHypothesis], Timings]]:
    check()
    begin = time.perf_counter()
    steps = start_search(engine, model, batch, options)
    first = 0.0
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            timings = Timings(first_token=first, total=time.perf_counter() - begin, batch=len(batch))
            return [(hypotheses, timings) for hypotheses in stop.value]
        first = first or time.perf_counter() - begin
        check()


def score_all(
    engine: Engine,
    model: ModelSpec,
    sources: Sequence[tuple[int, ...]] | None,
    targets: Sequence[Sequence[int]],
    batch_size: int,
    check: Check,
) -> list[Score]:
    """Log-probabilities of every target and its end token, in one teacher-forced pass a batch."""
    lengths = [max(len(t) + 1, len(sources[i]) if sources else 0) for i, t in enumerate(targets)]
    batches = plan_batches(
        lengths,
        lambda length: encoder_bytes(model, length) + decoder_bytes(model, length, length, 1, length),
        batch_size,
        memory_budget(),
    )

    def score(batch: list[int]) -> list[Score]:
        check()
        memory = engine.encode_source(*right_pad([sources[i] for i in batch], model.pad_id)) if sources else None
        ids, mask = right_pad([(model.start_id, *targets[i]) for i in batch], model.pad_id)
        logits = engine.decoder_logits(memory, ids, mask)
        return [_score(row, (*targets[i], model.end_id)) for row, i in zip(logits, batch, strict=True)]

    return in_order(batches, map(score, batches))


def _score(logits: Floats, tokens: Sequence[int]) -> Score:
    """``logits (T, V)`` of which row ``t`` speaks of ``tokens[t]``."""
    values = log_softmax(logits[: len(tokens)])[np.arange(len(tokens)), tokens]
    refuse_nan(values, int(np.isnan(values).argmax()))
    log_probs = values.tolist()
    return Score(tokens=tuple(tokens), token_log_probs=tuple(log_probs), score=sum(log_probs))


def encode_all(
    engine: Engine,
    model: ModelSpec,
    sources: Sequence[tuple[int, ...]],
    logit_index: Sequence[int] | None,
    batch_size: int,
    check: Check,
) -> list[tuple[Floats, Floats]]:
    """Hidden states ``(S, D)`` of every source, and its logits, ``(V,)`` at its ``logit_index`` or ``(classes,)``."""
    batches = plan_batches(
        [len(s) for s in sources], lambda length: encoder_bytes(model, length), batch_size, memory_budget()
    )

    def encode(batch: list[int]) -> list[tuple[Floats, Floats]]:
        check()
        index: Ids | None = None
        if model.head == "vocabulary":
            index = np.array([[logit_index[i] if logit_index else 0] for i in batch], dtype=np.int64)
        hidden, logits = engine.encode(*right_pad([sources[i] for i in batch], model.pad_id), index)
        rows = logits[:, 0] if model.head == "vocabulary" else logits
        return [(hidden[row, : len(sources[i])].copy(), rows[row].copy()) for row, i in enumerate(batch)]

    return in_order(batches, map(encode, batches))


def log_softmax(logits: Floats) -> NDArray[np.float32]:
    """Log-probabilities over the last axis, summed in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide.astype(np.float32)
