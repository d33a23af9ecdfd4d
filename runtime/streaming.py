"""One result as it comes: text of the tokens that nothing can take back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from .bundle.manifest import ModelSpec
from .decoding import Check, Request, start_requests, start_search
from .engine import Engine, Ids
from .interrupt import Watch
from .options import DecodingOptions
from .results import FinishReason
from .search import Search
from .stopping import before_stop, certain
from .tokenizer import Tokenizer


def stream_pieces(
    engine: Engine,
    model: ModelSpec,
    request: Request,
    options: DecodingOptions,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    check: Check,
    watch: Watch,
) -> Iterator[str]:
    """Text of the best result, in pieces; ``prompt``: tokens whose text it continues."""
    text, shown, pushed = "", 0, 0
    detokenizer = tokenizer.detokenizer(prompt)
    for tokens in _agreed(engine, model, request, options, check, watch):
        text += "".join(map(detokenizer.push, tokens[pushed:]))
        pushed = len(tokens)
        piece = certain(before_stop(text, options.stop), options.stop)[shown:]
        if piece:
            yield piece
            shown += len(piece)
    text = before_stop(text + detokenizer.finish(), options.stop)
    if text[shown:]:
        yield text[shown:]


def _agreed(
    engine: Engine, model: ModelSpec, request: Request, options: DecodingOptions, check: Check, watch: Watch
) -> Iterator[tuple[int, ...]]:
    """After every step the tokens that are sure by then."""
    if watch.reason():
        return
    if options.plain and options.beam_size == 1 and not request.prefix:
        yield from _greedy(start_search(engine, model, [request], options), check, watch)
        return
    search, (state,) = start_requests(engine, model, [request], options)
    with closing(search):
        for _ in _steps(search, check, watch):
            yield state.agreed()
    yield state.agreed()


def _greedy(search: Search, check: Check, watch: Watch) -> Iterator[tuple[int, ...]]:
    """Greedy search takes nothing back."""
    tokens: tuple[int, ...] = ()
    with closing(search):
        for chosen in _steps(search, check, watch):
            tokens += (int(chosen[0]),)
            yield tokens


def _steps(search: Search, check: Check, watch: Watch) -> Iterator[Ids]:
    """What every step chose."""
    reason: FinishReason | None = None
    while True:
        try:
            chosen = search.send(reason)
        except StopIteration:
            return
        yield chosen
        check()
        reason = watch.reason()
