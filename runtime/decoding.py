"""Many prepared texts through one engine: batched, searched or scored, results in input order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .batching import decoder_bytes, encoder_bytes, in_order, memory_budget, plan_batches
from .beams import BeamRequest
from .bundle.model_spec import ModelSpec
from .coverage import attention_from
from .draws import SampleRequest
from .engine import DecoderRun, Engine, Floats, Ids, Memory
from .inputs import Prepared, right_pad, segments_of
from .interrupt import Watch
from .options import DecodingOptions
from .requests import RequestSearch, Task, TextOf, search_requests
from .results import FinishReason, Score, Timings, TokenHypothesis
from .rules import Rule
from .search import Search, as_hypothesis, candidates_needed, refuse_nan, search
from .softmax import log_softmax
from .speculation import Lookup, SpeculativeRun, Tally

Check = Callable[[], None]
"""Called before every step; raises to stop the request."""
Progress = Callable[[int, int], None]
"""Called with how many texts are done, and how many there are."""

ENCODED_TOGETHER = 512
"""Tokens of a batch of an encoder alone, padding included: matrix products gain nothing from more, and the operators
between them lose once what they read and write leaves the cache. 32 texts of 128 tokens through all-MiniLM-L6-v2, one
thread: 0.78 of the time in batches of 4, 0.82 in batches of 8 or 2."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One text to decode, and its most new tokens, the ``prefix`` that these begin with included.

    ``text_of`` is needed where the options have stop strings, ``grammar`` where they have one; ``name`` begins
    messages. ``model``: what the bundle's is for the languages that were chosen. ``silent``: end tokens that have no
    text, whatever the tokenizer says. ``rules`` come after those of the options and the grammar.
    """

    source: Prepared
    limit: int
    model: ModelSpec | None = None
    prefix: tuple[int, ...] = ()
    text_of: TextOf | None = None
    grammar: Rule | None = None
    name: str = "text 0"
    silent: tuple[int, ...] = ()
    rules: tuple[Rule, ...] = ()


def start_search(
    engine: Engine,
    model: ModelSpec,
    batch: Sequence[Request],
    options: DecodingOptions,
    tally: Tally | None = None,
    memory: Memory = None,
) -> Search:
    """A search over ``batch``, nothing computed but the source. Prompts of a decoder-only model are equally long.

    With ``options.speculate`` a batch is one text, and ``tally`` counts what it brings. ``memory``: what the engine
    keeps of the sources, where they have been encoded; of speech it is needed.
    """
    if not options.plain or any(request.prefix or request.rules for request in batch):
        return start_requests(engine, model, batch, options, tally, memory)[0]
    beams = options.beam_size
    memory, prompts = _read(engine, model, batch, memory)
    run = _start(engine, model, memory, prompts, batch, options, candidates_needed(beams), tally)
    return search(
        run,
        prompts,
        [request.limit for request in batch],
        model.end_id,
        beam_size=beams,
        length_penalty=options.length_penalty,
        n_best=options.n_best,
        end_ids=tuple(options.end_ids),
        norm=options.length_norm,
    )


def start_requests(
    engine: Engine,
    model: ModelSpec,
    batch: Sequence[Request],
    options: DecodingOptions,
    tally: Tally | None = None,
    memory: Memory = None,
) -> tuple[Search, list[RequestSearch]]:
    """As :func:`start_search`, whatever the options; and the state of every text's search."""
    memory, prompts = _read(engine, model, batch, memory)
    requests = [request_search(engine, model, memory, i, request, options) for i, request in enumerate(batch)]
    width = max(request.task.width for request in requests)
    run = _start(engine, model, memory, prompts, batch, options, width, tally)
    return search_requests(run, prompts, requests, options.rows), requests


def request_search(
    engine: Engine, model: ModelSpec, memory: Memory, place: int, request: Request, options: DecodingOptions
) -> RequestSearch:
    """The search of one text, whose source is sentence ``place`` of ``memory``; no step is taken."""
    source_tokens, soft = len(request.source.ids), options.prefix_bias is not None
    prompt = prompt_of(model, request)
    task = Task(
        prompt=prompt,
        limit=request.limit,
        end_id=model.end_id,
        options=options,
        prefix=() if soft else request.prefix,
        soft_prefix=request.prefix if soft else (),
        text_of=request.text_of,
        grammar=request.grammar,
        more_rules=request.rules,
        attention=attention_from(engine, prompt, memory, place, source_tokens) if options.coverage_penalty else None,
        name=request.name,
    )
    return SampleRequest(task) if options.sampling else BeamRequest(task)


def prompt_of(model: ModelSpec, request: Request) -> tuple[int, ...]:
    """What the decoder reads before the first new token."""
    return (request.source.prompt or model.decoder_prompt) if model.encoder else request.source.ids


def _read(engine: Engine, model: ModelSpec, batch: Sequence[Request], memory: Memory) -> tuple[Memory, Ids]:
    """What the engine keeps of the sources of ``batch``, and the prompts ``(B, T)`` that its decoder is to read."""
    sources = [request.source.ids for request in batch]
    if model.encoder:
        if memory is None:
            memory = engine.encode_source(*right_pad(sources, model.pad_source))
        return memory, np.array([prompt_of(model, request) for request in batch], dtype=np.int64)
    return None, np.array(sources, dtype=np.int64)


def _start(
    engine: Engine,
    model: ModelSpec,
    memory: Memory,
    prompts: Ids,
    batch: Sequence[Request],
    options: DecodingOptions,
    candidates: int,
    tally: Tally | None,
) -> DecoderRun:
    """A run for ``batch``."""
    positions = capacity(prompts.shape[1], max(request.limit for request in batch))
    if options.speculate is None:
        return engine.start(memory, len(batch), options.rows, positions, candidates)
    window = engine.verify_tokens
    positions = min(positions + window - 1, model.max_positions)  # so that a pass fits behind the last tokens too
    run = engine.start_verifying(memory, positions, candidates)
    shared = model.encoder and model.source_vocab_size is None  # a source's tokens are those of results
    lookup = Lookup(batch[0].source.ids if shared else ())
    most = options.speculate
    return SpeculativeRun(run, lookup, most=most, window=window, capacity=positions, tally=tally or Tally())


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
    *,
    watch: Watch | None = None,
    progress: Progress | None = None,
    max_batch_tokens: int | None = None,
) -> list[tuple[list[TokenHypothesis], Timings]]:
    """Decode every request, those of similar length together: ``batch_size`` at most, and no more source tokens,
    padding included, than ``max_batch_tokens``; one by one where they speculate. What ``watch`` ends is given back as
    it stands.
    """
    watch = watch or Watch()
    batches = batches_of(model, requests, options, batch_size, max_batch_tokens)

    def results() -> Iterator[list[tuple[list[TokenHypothesis], Timings]]]:
        done = 0
        for batch in batches:
            yield decode_batch(engine, model, [requests[i] for i in batch], options, check, watch)
            done += len(batch)
            if progress is not None:
                progress(done, len(requests))

    return in_order(batches, results())


def batches_of(
    model: ModelSpec,
    requests: Sequence[Request],
    options: DecodingOptions,
    batch_size: int,
    max_batch_tokens: int | None = None,
) -> list[list[int]]:
    """Which requests go together, as :func:`decode_all` says, within the memory that is free.

    Raises:
        InputError: one request alone would take more.
    """
    longest = max((request.limit for request in requests), default=0)
    return plan_batches(
        [len(request.source.ids) for request in requests],
        lambda length: bytes_of(model, length, longest, options),
        1 if options.speculate else batch_size,
        memory_budget(),
        equal=model.encoder is None,
        most_tokens=max_batch_tokens,
        names=[request.name for request in requests],
    )


def bytes_of(model: ModelSpec, length: int, limit: int, options: DecodingOptions) -> int:
    """Estimate of what a text of ``length`` tokens takes, read and decoded up to ``limit`` tokens."""
    prompt, ahead = model.prompt_length if model.encoder else length, options.speculate or 0
    positions = capacity(prompt, limit) + ahead
    return encoder_bytes(model, length) + decoder_bytes(model, prompt, positions, options.rows, 1 + ahead)


def decode_batch(
    engine: Engine,
    model: ModelSpec,
    batch: list[Request],
    options: DecodingOptions,
    check: Check,
    watch: Watch,
    memory: Memory = None,
    begin: float | None = None,
) -> list[tuple[list[TokenHypothesis], Timings]]:
    """Decode requests together. ``memory``: see :func:`start_search`; ``begin``: from when on they are timed."""
    check()
    if reason := watch.reason():
        return [not_begun(reason, len(batch)) for _ in batch]
    begin = time.perf_counter() if begin is None else begin
    tally = Tally() if options.speculate else None
    steps = start_search(engine, model, batch, options, tally, memory)
    first, reason = 0.0, None
    while True:
        try:
            steps.send(reason)
        except StopIteration as stop:
            total, counts = time.perf_counter() - begin, tally.result() if tally else None
            timings = Timings(first_token=first, total=total, batch=len(batch), speculation=counts)
            return [(hypotheses, timings) for hypotheses in stop.value]
        first = first or time.perf_counter() - begin
        check()
        reason = watch.reason()


def not_begun(reason: FinishReason, batch: int) -> tuple[list[TokenHypothesis], Timings]:
    """The result of a text of ``batch`` that was ended before its first token: one hypothesis without tokens."""
    return [as_hypothesis((), (), reason, 0.0)], Timings(first_token=0.0, total=0.0, batch=batch)


def score_all(
    engine: Engine,
    model: ModelSpec,
    sources: Sequence[Prepared] | None,
    targets: Sequence[Sequence[int]],
    batch_size: int,
    check: Check,
) -> list[Score]:
    """Log-probabilities of every target and its end token, in one teacher-forced pass a batch.

    Where no start token stands before a text, its first token has no probability: the scores begin with the second.
    """
    begin = [model.prompt(t) if sources is None else (*sources[i].prompt, *t) for i, t in enumerate(targets)]
    first = 1 if sources is None else model.prompt_length
    lengths = [max(len(b), len(sources[i].ids) if sources else 0) for i, b in enumerate(begin)]
    batches = plan_batches(
        lengths,
        lambda length: encoder_bytes(model, length) + decoder_bytes(model, length, length, 1, length),
        batch_size,
        memory_budget(),
    )

    def score(batch: list[int]) -> list[Score]:
        check()
        read = right_pad([sources[i].ids for i in batch], model.pad_source) if sources else None
        memory = engine.encode_source(*read) if read else None
        ids, mask = right_pad([begin[i] for i in batch], model.pad_id)
        logits = engine.decoder_logits(memory, ids, mask)
        return [
            _score(row[first - 1 :], (*begin[i][first:], model.end_id)) for row, i in zip(logits, batch, strict=True)
        ]

    return in_order(batches, map(score, batches))


def _score(logits: Floats, tokens: Sequence[int]) -> Score:
    """``logits (T, V)`` of which row ``t`` speaks of ``tokens[t]``."""
    values = log_softmax(logits[: len(tokens)])[np.arange(len(tokens)), tokens].astype(np.float32)
    refuse_nan(values, int(np.isnan(values).argmax()))
    log_probs = values.tolist()
    return Score(tokens=tuple(tokens), token_log_probs=tuple(log_probs), score=sum(log_probs))


def encode_all(
    engine: Engine,
    model: ModelSpec,
    sources: Sequence[Prepared],
    logit_index: Sequence[int] | None,
    batch_size: int,
    check: Check,
) -> list[tuple[Floats, Floats]]:
    """Hidden states ``(S, D)`` of every source, and what the head makes of them.

    Logits ``(V,)`` at its ``logit_index``, logits ``(classes,)`` or ``(S, classes)``, or a vector ``(D,)``.
    """
    batches = plan_batches(
        [len(s.ids) for s in sources],
        lambda length: encoder_bytes(model, length),
        batch_size,
        memory_budget(),
        most_tokens=ENCODED_TOGETHER,
    )

    def encode(batch: list[int]) -> list[tuple[Floats, Floats]]:
        check()
        index: Ids | None = None
        if model.head == "vocabulary":
            index = np.array([[logit_index[i] if logit_index else 0] for i in batch], dtype=np.int64)
        ids, mask = right_pad([sources[i].ids for i in batch], model.pad_id)
        segments = segments_of(model, [sources[i] for i in batch], ids.shape[1])
        hidden, logits = engine.encode(ids, mask, index, segments)
        rows = logits[:, 0] if model.head == "vocabulary" else logits
        by_token = model.head in ("tags", "span")
        lengths = [len(sources[i].ids) for i in batch]
        return [(hidden[i, :n].copy(), rows[i, : n if by_token else None].copy()) for i, n in enumerate(lengths)]

    return in_order(batches, map(encode, batches))
