"""A session for asyncio: the engine works in threads, and the event loop never waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar, Unpack, overload

from ..errors import EngineError, InputError
from .arguments import Batching
from .asynchronous_reading import AsyncReading
from .chat import Message
from .continuous import Job
from .cpu import available_cpus
from .interrupt import Cancellation
from .keywords import DecodingArguments, HearingArguments, StreamArguments, TranscribeArguments
from .options import MAX_DEADLINE, is_count, is_number
from .reading import BATCH_SIZE, Texts
from .results import Document, Generation, Transcription
from .session import Session
from .speculation import refuse_company
from .transcribing import Window, Windows
from .workers import CLOSED, NO_THREAD, BatchWorkers

_R = TypeVar("_R")
Asked = str | Sequence[Message]
"""A text, or the messages of a chat."""


class AsyncSession(AsyncReading):
    """What a :class:`~edgewise.runtime.session.Session` decodes and reads, awaited.

    Callers share the work: a text or a stream joins a batch that is under way, between its steps, with options of its
    own, and leaves it when it is done. What it finds is what it would alone, up to rounding. ``workers``: batches that
    the engine works on at once, by default one a processor. ``rows``: beams, samples and alternatives of a batch
    together; who finds no room waits for it. A list of texts is a batch of its own, that nobody joins. The worker also
    makes the text and the alignments of what it has found, between two steps.

    Open the session with ``threads=1``, so that the workers do not compete. A task that is cancelled, or that leaves a
    stream, ends its decoding at the next step. A deadline counts from the call, the wait for room included.

    Arguments, results and errors are those of the session's own methods. Closing this waits for what is running, and
    leaves the session open.

    Raises:
        InputError: ``workers`` or ``rows`` is no number of them.
    """

    def __init__(self, session: Session, workers: int | None = None, *, rows: int = 2 * BATCH_SIZE) -> None:
        if workers is not None and not is_count(workers):
            raise InputError(f"workers ({workers!r}) must be an integer of at least 1, or None for one a processor")
        if not is_count(rows):
            raise InputError(f"rows ({rows!r}) must be an integer of at least 1")
        self.session, self._closed = session, False
        count = workers or available_cpus()
        self._lists = ThreadPoolExecutor(count, thread_name_prefix="edgewise-list")
        self._workers = BatchWorkers(lambda: session._batch(rows), count)

    @overload
    async def translate(self, texts: str, **arguments: Unpack[DecodingArguments]) -> Generation: ...

    @overload
    async def translate(self, texts: Texts, **arguments: Unpack[DecodingArguments]) -> list[Generation]: ...

    async def translate(
        self, texts: str | Texts, **arguments: Unpack[DecodingArguments]
    ) -> Generation | list[Generation]:
        """See :meth:`Session.translate <edgewise.runtime.session.Session.translate>`."""
        if isinstance(texts, str):
            return await self._joined("translate", texts, arguments)
        return await self._decoded(self.session.translate, texts, arguments)

    async def translate_document(
        self, text: str, *, language: str | None = None, **arguments: Unpack[DecodingArguments]
    ) -> Document:
        """See :meth:`Session.translate_document <edgewise.runtime.documents.Documents.translate_document>`."""

        def translate(text: Any, **arguments: Unpack[DecodingArguments]) -> Document:
            return self.session.translate_document(text, language=language, **arguments)

        return await self._decoded(translate, text, arguments)

    @overload
    async def generate(self, prompts: str, **arguments: Unpack[DecodingArguments]) -> Generation: ...

    @overload
    async def generate(self, prompts: Texts, **arguments: Unpack[DecodingArguments]) -> list[Generation]: ...

    async def generate(
        self, prompts: str | Texts, **arguments: Unpack[DecodingArguments]
    ) -> Generation | list[Generation]:
        """See :meth:`Session.generate <edgewise.runtime.session.Session.generate>`."""
        if isinstance(prompts, str):
            return await self._joined("generate", prompts, arguments)
        return await self._decoded(self.session.generate, prompts, arguments)

    @overload
    async def transcribe(self, features: Window, **arguments: Unpack[TranscribeArguments]) -> Transcription: ...

    @overload
    async def transcribe(self, features: Windows, **arguments: Unpack[TranscribeArguments]) -> list[Transcription]: ...

    async def transcribe(
        self, features: Window | Windows, **arguments: Unpack[TranscribeArguments]
    ) -> Transcription | list[Transcription]:
        """See :meth:`Session.transcribe <edgewise.runtime.transcribing.Transcribing.transcribe>`.

        A call is a batch of its own, one window too.
        """
        return await self._decoded(self.session.transcribe, features, arguments)

    async def chat(self, messages: Sequence[Message], **arguments: Unpack[StreamArguments]) -> Generation:
        """See :meth:`Session.chat <edgewise.runtime.chatting.Chatting.chat>`."""
        return await self._joined("chat", messages, arguments)

    async def chat_stream(
        self, messages: Sequence[Message], **arguments: Unpack[StreamArguments]
    ) -> AsyncGenerator[str]:
        """See :meth:`Session.chat_stream <edgewise.runtime.chatting.Chatting.chat_stream>`; as :meth:`stream`."""
        async for piece in self._streamed("chat_stream", messages, arguments):
            yield piece

    async def stream(self, text: str, **arguments: Unpack[StreamArguments]) -> AsyncGenerator[str]:
        """See :meth:`Session.stream <edgewise.runtime.session.Session.stream>`; errors come with the first piece."""
        async for piece in self._streamed("stream", text, arguments):
            yield piece

    async def _streamed(self, method: str, asked: Asked, arguments: StreamArguments) -> AsyncGenerator[str]:
        own = _own_cancellation(arguments)
        loop, came = asyncio.get_running_loop(), asyncio.Queue[str | Job]()

        def give(what: str | Job) -> None:
            loop.call_soon_threadsafe(came.put_nowait, what)

        def end(job: Job) -> None:
            try:
                give(pieces.finish() if job.error is None else "")
            except Exception as error:  # whatever it is, the loop waits for it
                job.error = error
            give(job)

        try:
            job = await self._prepared(method, asked, arguments)
            pieces = self.session._pieces_of(job)
            job.on_step = lambda search: give(pieces.push(search.agreed()))
            self._workers.submit(job, end)
            while isinstance(got := await came.get(), str):
                if got:
                    yield got
            got.result()  # raises what went wrong
        finally:
            own.cancel()

    async def _joined(self, method: str, asked: Asked, arguments: StreamArguments) -> Generation:
        own, batching = _own_cancellation(arguments), Batching.of(arguments, BATCH_SIZE)
        answer = Future[Generation]()
        try:
            job = await self._prepared(method, asked, arguments)
            self._workers.submit(job, lambda job: _settle(answer, self.session._generation_of, job))
            found = await asyncio.wrap_future(answer)
        except asyncio.CancelledError:
            own.cancel()
            raise
        if batching.progress is not None:
            batching.progress(1, 1)
        return found

    async def _prepared(self, method: str, asked: Asked, arguments: StreamArguments) -> Job:
        loop = asyncio.get_running_loop()
        try:
            begun = loop.run_in_executor(None, _job, self.session, method, asked, arguments, monotonic())
        except RuntimeError as error:
            raise EngineError(NO_THREAD) from error
        return await begun

    async def _decoded(
        self, method: Callable[..., _R], texts: Any, arguments: DecodingArguments | TranscribeArguments
    ) -> _R:
        own, asked = _own_cancellation(arguments), monotonic()
        try:
            return await self._in_thread(lambda: _begin(method, texts, arguments, asked))
        except (asyncio.CancelledError, EngineError):
            own.cancel()  # the pool may yet come to it
            raise

    async def _in_thread(self, call: Callable[[], _R]) -> _R:
        try:
            begun = self._lists.submit(call)
        except RuntimeError as error:
            raise EngineError(CLOSED if self._closed else NO_THREAD) from error
        return await asyncio.wrap_future(begun)

    async def close(self) -> None:
        """Wait for what is running, and end the workers. Twice is once."""
        self._closed = True
        await asyncio.to_thread(self._lists.shutdown)
        await asyncio.to_thread(self._workers.close)

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _own_cancellation(arguments: StreamArguments | HearingArguments) -> Cancellation:
    """Put into the ``arguments`` a cancellation of this call alone, which the caller's ends as well."""
    given = arguments.get("cancellation")
    if given is not None and not isinstance(given, Cancellation):
        return Cancellation()  # the session says what is wrong with it
    own = arguments["cancellation"] = Cancellation(given)
    return own


def _settle(answer: Future[Generation], make: Callable[[Job], Generation], job: Job) -> None:
    """Make the answer to a job that has ended, in the thread that ended it, unless nobody waits for it any more."""
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result(make(job))
    except Exception as error:
        answer.set_exception(error)


def _begin(method: Callable[..., _R], texts: Any, arguments: StreamArguments | HearingArguments, asked: float) -> _R:
    """Call a method of the session; what was waited for a thread counts towards the deadline.

    A deadline that is none stays as it is, and the session says what is wrong with it.
    """
    deadline = arguments.get("deadline")
    if deadline is not None and is_number(deadline) and 0 < deadline <= MAX_DEADLINE:
        arguments["deadline"] = max(0.0, deadline - (monotonic() - asked))
    return method(texts, **arguments)


def _job(session: Session, method: str, what: Asked, arguments: StreamArguments, asked: float) -> Job:
    """A request that has its text split into tokens and its options checked."""

    def made(what: Any, **_: Any) -> Job:
        make = session._chat_job if method.startswith("chat") else session._job
        return make(method, what, arguments)

    job = _begin(made, what, arguments, asked)
    refuse_company(job.options)
    return job
