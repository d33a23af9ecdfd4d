"""A session for asyncio: the engine works in threads, and the event loop never waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar, Unpack, overload

from ..errors import EngineError, InputError
from .cpu import available_cpus
from .interrupt import Cancellation
from .options import is_count
from .results import Generation
from .session import DecodingArguments, Session, StreamArguments, Texts

_R = TypeVar("_R")


class AsyncSession:
    """What a :class:`~edgewise.runtime.session.Session` decodes, awaited.

    ``workers``: calls that the engine works on at once, by default one a processor; with as many callers as you like
    they take turns, a stream one piece at a time. Open the session with ``threads=1``, so that the workers do not
    compete. A task that is cancelled, or that leaves a stream, ends its decoding at the next step. A deadline counts
    from the call, the wait for a worker included.

    Arguments, results and errors are those of the session's own methods. Closing this waits for what is running, and
    leaves the session open.

    Raises:
        InputError: ``workers`` is no number of workers.
    """

    def __init__(self, session: Session, workers: int | None = None) -> None:
        if workers is not None and not is_count(workers):
            raise InputError(f"workers ({workers!r}) must be an integer of at least 1, or None for one a processor")
        self.session = session
        self._pool = ThreadPoolExecutor(workers or available_cpus(), thread_name_prefix="edgewise")

    @overload
    async def translate(self, texts: str, **arguments: Unpack[DecodingArguments]) -> Generation: ...

    @overload
    async def translate(self, texts: Texts, **arguments: Unpack[DecodingArguments]) -> list[Generation]: ...

    async def translate(
        self, texts: str | Texts, **arguments: Unpack[DecodingArguments]
    ) -> Generation | list[Generation]:
        """See :meth:`Session.translate <edgewise.runtime.session.Session.translate>`."""
        return await self._decoded(self.session.translate, texts, arguments)

    @overload
    async def generate(self, prompts: str, **arguments: Unpack[DecodingArguments]) -> Generation: ...

    @overload
    async def generate(self, prompts: Texts, **arguments: Unpack[DecodingArguments]) -> list[Generation]: ...

    async def generate(
        self, prompts: str | Texts, **arguments: Unpack[DecodingArguments]
    ) -> Generation | list[Generation]:
        """See :meth:`Session.generate <edgewise.runtime.session.Session.generate>`."""
        return await self._decoded(self.session.generate, prompts, arguments)

    async def stream(self, text: str, **arguments: Unpack[StreamArguments]) -> AsyncGenerator[str]:
        """See :meth:`Session.stream <edgewise.runtime.session.Session.stream>`; errors come with the first piece."""
        own = _own_cancellation(arguments)
        pieces: Iterator[str] | None = None
        working = self._submit(_begin, self.session.stream, text, arguments, monotonic())
        try:
            pieces = await asyncio.wrap_future(working)
            while True:
                working = self._submit(_next, pieces)
                piece = await asyncio.wrap_future(working)
                if piece is None:
                    return
                yield piece
        finally:
            own.cancel()
            if pieces is not None:
                await asyncio.shield(asyncio.to_thread(_close_after, working, pieces))

    async def _decoded(self, method: Callable[..., _R], texts: str | Texts, arguments: DecodingArguments) -> _R:
        own = _own_cancellation(arguments)
        try:
            return await asyncio.wrap_future(self._submit(_begin, method, texts, arguments, monotonic()))
        except asyncio.CancelledError:
            own.cancel()
            raise

    def _submit(self, work: Callable[..., _R], *arguments: Any) -> Future[_R]:
        try:
            return self._pool.submit(work, *arguments)
        except RuntimeError as error:
            raise EngineError("this AsyncSession is closed: make another around the session") from error

    async def close(self) -> None:
        """Wait for what is running, and end the workers. Twice is once."""
        await asyncio.to_thread(self._pool.shutdown)

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _own_cancellation(arguments: StreamArguments) -> Cancellation:
    """Put into the ``arguments`` a cancellation of this call alone, which the caller's ends as well."""
    given = arguments.get("cancellation")
    if given is not None and not isinstance(given, Cancellation):
        return Cancellation()  # the session says what is wrong with it
    own = arguments["cancellation"] = Cancellation(given)
    return own


def _begin(method: Callable[..., _R], texts: str | Texts, arguments: StreamArguments, asked: float) -> _R:
    """Call a method of the session; what was waited for a worker counts towards the deadline."""
    deadline = arguments.get("deadline")
    if isinstance(deadline, int | float) and deadline > 0:
        arguments["deadline"] = max(0.0, deadline - (monotonic() - asked))
    return method(texts, **arguments)


def _next(pieces: Iterator[str] | None) -> str | None:
    """The next piece, ``None`` after the last: a StopIteration cannot pass through a future."""
    return next(pieces or iter(()), None)


def _close_after(working: Future[Any], pieces: Iterator[str]) -> None:
    """Close a stream, which must not be at work; what is left of its work ends at the next step."""
    wait([working])
    pieces.close()  # type: ignore[attr-defined]
