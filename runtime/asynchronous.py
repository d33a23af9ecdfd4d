"""A session for asyncio: the engine works in threads, and the event loop never waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, TypeVar, Unpack, overload

from ..errors import InputError
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
    compete. A task that is cancelled, or that leaves a stream, ends its decoding at the next step.

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
        cancellation = _cancellation_of(arguments)
        pieces: Iterator[str] | None = None
        working: Future[Any] = self._pool.submit(self.session.stream, text, **arguments)
        try:
            pieces = await asyncio.wrap_future(working)
            while True:
                working = self._pool.submit(_next, pieces)
                piece = await asyncio.wrap_future(working)
                if piece is None:
                    return
                yield piece
        finally:
            cancellation.cancel()
            if pieces is not None:
                await asyncio.shield(asyncio.wrap_future(self._pool.submit(_close_after, working, pieces)))

    async def _decoded(self, method: Callable[..., _R], texts: str | Texts, arguments: DecodingArguments) -> _R:
        cancellation = _cancellation_of(arguments)
        try:
            return await asyncio.wrap_future(self._pool.submit(method, texts, **arguments))
        except asyncio.CancelledError:
            cancellation.cancel()
            raise

    async def close(self) -> None:
        """Wait for what is running, and end the workers. Twice is once."""
        await asyncio.to_thread(self._pool.shutdown)

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _cancellation_of(arguments: StreamArguments) -> Cancellation:
    """The caller's own, or a new one that is put into the ``arguments``."""
    given = arguments.get("cancellation")
    if given is None:
        given = arguments["cancellation"] = Cancellation()
    return given


def _next(pieces: Iterator[str] | None) -> str | None:
    """The next piece, ``None`` after the last: a StopIteration cannot pass through a future."""
    return next(pieces or iter(()), None)


def _close_after(working: Future[Any], pieces: Iterator[str]) -> None:
    """Close a stream, which must not be at work; what is left of its work ends at the next step."""
    wait([working])
    pieces.close()  # type: ignore[attr-defined]
