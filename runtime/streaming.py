"""One result as it comes: text of the tokens that nothing can take back."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

from .bundle.model_spec import ModelSpec
from .decoding import Check, Request, start_requests, start_search
from .engine import Engine, Ids, Memory
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
    memory: Memory = None,
) -> Generator[str]:
    """Text of the best result, in pieces; ``prompt``: tokens whose text it continues.

    ``memory``: see :func:`~edgewise.runtime.decoding.start_search`.
    """
    pieces = Pieces(tokenizer, prompt, options.stop, request.silent)
    for tokens in _agreed(engine, model, request, options, check, watch, memory):
        if piece := pieces.push(tokens):
            yield piece
    if piece := pieces.finish():
        yield piece


class Pieces:
    """Cuts a growing list of tokens into pieces of text; ``prompt``: tokens whose text it continues, ``silent``: those
    that have none."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str], silent: Sequence[int] = ()
    ) -> None:
        self._detokenizer, self._stop, self._silent = tokenizer.detokenizer(prompt), stop, silent
        self._text = ""
        self._pushed = self._shown = 0

    def push(self, tokens: Sequence[int]) -> str:
        """What is sure once all of ``tokens`` are, those of earlier calls included, and was not given yet."""
        new = [token for token in tokens[self._pushed :] if token not in self._silent]
        self._text += "".join(map(self._detokenizer.push, new))
        self._pushed = len(tokens)
        return self._more(certain(before_stop(self._text, self._stop), self._stop))

    def finish(self) -> str:
        """What remains when no token follows."""
        return self._more(before_stop(self._text + self._detokenizer.finish(), self._stop))

    def _more(self, text: str) -> str:
        piece = text[self._shown :]
        self._shown += len(piece)
        return piece


def _agreed(
    engine: Engine,
    model: ModelSpec,
    request: Request,
    options: DecodingOptions,
    check: Check,
    watch: Watch,
    memory: Memory,
) -> Iterator[tuple[int, ...]]:
    """After every step the tokens that are sure by then."""
    if watch.reason():
        return
    if options.plain and options.beam_size == 1 and not (request.prefix or request.rules):
        yield from _greedy(start_search(engine, model, [request], options, memory=memory), check, watch)
        return
    search, (state,) = start_requests(engine, model, [request], options, memory=memory)
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
