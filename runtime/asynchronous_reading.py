"""What encoder-only models are asked, for asyncio: every call in a thread of its own, off the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from .entities import Aggregation
from .keywords import ScoreArguments
from .reading import BATCH_SIZE, EncodingArguments, PairArguments, ReadingArguments, Texts
from .results import Answer, Classification, Embedding, Encoding, Entity, Fill, Ranked, Rating, Score
from .session import Session
from .spans import LONGEST

_R = TypeVar("_R")


class AsyncReading:
    """The part of an :class:`~edgewise.runtime.asynchronous.AsyncSession` that gives numbers and places.

    Arguments, results and errors are those of the session's own methods. A call waits for a thread, as many as there
    are workers; a task that is cancelled while it waits is never begun, and one that runs goes on to its end unseen.
    """

    session: Session

    async def _in_thread(self, call: Callable[[], _R]) -> _R:
        raise NotImplementedError

    @overload
    async def encode(self, texts: str, **arguments: Unpack[EncodingArguments]) -> Encoding: ...

    @overload
    async def encode(self, texts: Texts, **arguments: Unpack[EncodingArguments]) -> list[Encoding]: ...

    async def encode(self, texts: str | Texts, **arguments: Unpack[EncodingArguments]) -> Encoding | list[Encoding]:
        """See :meth:`Session.encode <edgewise.runtime.session.Session.encode>`."""
        return await self._in_thread(lambda: self.session.encode(texts, **arguments))

    @overload
    async def classify(self, texts: str, **arguments: Unpack[PairArguments]) -> Classification: ...

    @overload
    async def classify(self, texts: Texts, **arguments: Unpack[PairArguments]) -> list[Classification]: ...

    async def classify(
        self, texts: str | Texts, **arguments: Unpack[PairArguments]
    ) -> Classification | list[Classification]:
        """See :meth:`Session.classify <edgewise.runtime.session.Session.classify>`."""
        return await self._in_thread(lambda: self.session.classify(texts, **arguments))

    @overload
    async def regress(self, texts: str, **arguments: Unpack[PairArguments]) -> Rating: ...

    @overload
    async def regress(self, texts: Texts, **arguments: Unpack[PairArguments]) -> list[Rating]: ...

    async def regress(self, texts: str | Texts, **arguments: Unpack[PairArguments]) -> Rating | list[Rating]:
        """See :meth:`Session.regress <edgewise.runtime.reading.Reading.regress>`."""
        return await self._in_thread(lambda: self.session.regress(texts, **arguments))

    async def rerank(self, query: str, texts: Texts, **arguments: Unpack[EncodingArguments]) -> list[Ranked]:
        """See :meth:`Session.rerank <edgewise.runtime.reading.Reading.rerank>`."""
        return await self._in_thread(lambda: self.session.rerank(query, texts, **arguments))

    @overload
    async def tag(
        self,
        texts: str,
        *,
        aggregation: Aggregation = "simple",
        overlap: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[Entity]: ...

    @overload
    async def tag(
        self,
        texts: Texts,
        *,
        aggregation: Aggregation = "simple",
        overlap: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[list[Entity]]: ...

    async def tag(
        self,
        texts: str | Texts,
        *,
        aggregation: Aggregation = "simple",
        overlap: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[Entity] | list[list[Entity]]:
        """See :meth:`Session.tag <edgewise.runtime.reading.Reading.tag>`."""
        return await self._in_thread(
            lambda: self.session.tag(texts, aggregation=aggregation, overlap=overlap, batch_size=batch_size)
        )

    async def answer(
        self,
        question: str,
        text: str,
        *,
        top: int = 1,
        longest: int = LONGEST,
        overlap: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[Answer]:
        """See :meth:`Session.answer <edgewise.runtime.reading.Reading.answer>`."""
        return await self._in_thread(
            lambda: self.session.answer(
                question, text, top=top, longest=longest, overlap=overlap, batch_size=batch_size
            )
        )

    @overload
    async def embed(self, texts: str, **arguments: Unpack[ReadingArguments]) -> Embedding: ...

    @overload
    async def embed(self, texts: Texts, **arguments: Unpack[ReadingArguments]) -> list[Embedding]: ...

    async def embed(self, texts: str | Texts, **arguments: Unpack[ReadingArguments]) -> Embedding | list[Embedding]:
        """See :meth:`Session.embed <edgewise.runtime.session.Session.embed>`."""
        return await self._in_thread(lambda: self.session.embed(texts, **arguments))

    async def similarity(
        self, left: str | Texts, right: str | Texts, **arguments: Unpack[ReadingArguments]
    ) -> NDArray[np.float32]:
        """See :meth:`Session.similarity <edgewise.runtime.session.Session.similarity>`."""
        return await self._in_thread(lambda: self.session.similarity(left, right, **arguments))

    async def fill_mask(self, text: str, *, top: int = 5) -> list[Fill]:
        """See :meth:`Session.fill_mask <edgewise.runtime.session.Session.fill_mask>`."""
        return await self._in_thread(lambda: self.session.fill_mask(text, top=top))

    @overload
    async def score(self, sources: str, targets: str | None = None, **arguments: Unpack[ScoreArguments]) -> Score: ...

    @overload
    async def score(
        self, sources: Texts, targets: Texts | None = None, **arguments: Unpack[ScoreArguments]
    ) -> list[Score]: ...

    async def score(
        self, sources: str | Texts, targets: str | Texts | None = None, **arguments: Unpack[ScoreArguments]
    ) -> Score | list[Score]:
        """See :meth:`Session.score <edgewise.runtime.session.Session.score>`."""
        return await self._in_thread(
            lambda: self.session.score(sources, targets, **arguments)  # type: ignore[arg-type]
        )
