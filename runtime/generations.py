"""From what a search found to what a session returns: text, and alignments where they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from .alignments import alignment, attention_of, source_spans, written_after
from .bundle.model_spec import ModelSpec
from .decoding import Request, prompt_of
from .engine import Engine
from .options import DecodingOptions
from .results import Alignment, Generation, Hypothesis, Timings, TokenHypothesis
from .stopping import before_stop
from .tokenizer import Tokenizer

Found = Sequence[tuple[list[TokenHypothesis], Timings]]


def generations(
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    prompts: Sequence[tuple[int, ...]],
    found: Found,
    options: DecodingOptions,
) -> list[Generation]:
    """What was ``found`` for ``requests``; ``prompts``: tokens whose text a result continues."""
    return [
        Generation(
            hypotheses=tuple(_hypothesis(tokenizer, prompt, h, options, request.silent) for h in hypotheses),
            source_tokens=request.source.ids,
            truncated=request.source.truncated,
            timings=timings,
        )
        for request, prompt, (hypotheses, timings) in zip(requests, prompts, found, strict=True)
    ]


def _hypothesis(
    tokenizer: Tokenizer,
    prompt: tuple[int, ...],
    found: TokenHypothesis,
    options: DecodingOptions,
    silent: tuple[int, ...],
) -> Hypothesis:
    text = tokenizer.continuation(prompt, [token for token in found.tokens if token not in silent])
    return Hypothesis(text=before_stop(text, options.stop), **vars(found))


def with_alignments(
    engine: Engine,
    model: ModelSpec,
    tokenizers: tuple[Tokenizer, Tokenizer],
    texts: Sequence[str],
    requests: Sequence[Request],
    found: Sequence[Generation],
    batch_size: int,
    check: Callable[[], None],
) -> list[Generation]:
    """``found`` for the ``requests`` that the source ``texts`` made, every hypothesis with its alignment.

    ``tokenizers``: that of sources and that of results.
    """
    pairs = [(r, h.tokens) for r, g in zip(requests, found, strict=True) for h in g.hypotheses]
    sources, targets = [r.source.ids for r, _ in pairs], [tokens for _, tokens in pairs]
    prompts = [prompt_of(model, r) for r, _ in pairs]
    weights = iter(attention_of(engine, model, sources, targets, prompts, batch_size, check))

    def aligned(text: str, request: Request, generation: Generation) -> Iterator[Hypothesis]:
        spans = source_spans(tokenizers[0], request.model or model, text, generation.source_tokens)
        for h in generation.hypotheses:
            ends = written_after(tokenizers[1], h.tokens, h.text)
            made: Alignment = alignment(next(weights), text, spans, h.text, ends)
            yield replace(h, alignment=made)

    each = zip(texts, requests, found, strict=True)
    return [replace(g, hypotheses=tuple(aligned(text, r, g))) for text, r, g in each]
