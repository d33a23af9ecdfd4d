"""The session for asyncio where something breaks: threads that are denied, engines and batches that fail, closing."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from edgewise.errors import EngineError, InputError
from edgewise.runtime.asynchronous import AsyncSession
from edgewise.runtime.continuous import ContinuousBatch
from edgewise.runtime.interrupt import Cancellation
from edgewise.runtime.session import Session
from edgewise.runtime.streaming import Pieces

from .test_asynchronous import TEXTS, Gate, run, until
from .tiny_session import session_for


def test_after_closing_calls_are_refused() -> None:
    async def work(session: Session) -> None:
        async with AsyncSession(session, workers=1) as own:
            pieces = own.stream(TEXTS[0], max_new_tokens=40)
            await anext(pieces)
        await pieces.aclose()
        with pytest.raises(EngineError, match="this AsyncSession is closed"):
            await own.translate(TEXTS[0])
        with pytest.raises(EngineError, match="this AsyncSession is closed"):
            await own.translate(TEXTS)
        with pytest.raises(EngineError, match="this AsyncSession is closed"):
            await anext(own.stream(TEXTS[0]))

    run(work(session_for("translate", 3, end_bias=-50.0)))


def _deny_threads(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    start = threading.Thread.start

    def denied(thread: threading.Thread) -> None:
        if thread.name.startswith(name):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", denied)


@pytest.mark.parametrize(
    ("denied", "texts"), [("edgewise-batch", TEXTS[0]), ("edgewise-list", TEXTS[:2]), ("asyncio_", TEXTS[0])]
)
def test_a_thread_that_the_system_denies_is_an_error_and_the_next_call_works(
    monkeypatch: pytest.MonkeyPatch, denied: str, texts: Any
) -> None:
    session = session_for("translate", 3)

    async def work() -> Any:
        own = AsyncSession(session, workers=1)
        with monkeypatch.context() as patch:
            _deny_threads(patch, denied)
            for _ in range(2):
                with pytest.raises(EngineError, match="the system gives no thread to decode in: lower the number"):
                    await own.translate(texts, max_new_tokens=5)
        found = [await own.translate(texts, max_new_tokens=5) for _ in range(3)]
        await own.close()
        return found

    expected = session.translate(texts, max_new_tokens=5)
    for found in run(work()):
        pairs = [(found, expected)] if isinstance(texts, str) else zip(found, expected, strict=True)
        assert all(a.tokens == b.tokens for a, b in pairs)


def test_where_the_system_denies_one_more_thread_those_at_work_do_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_for("translate", 3, end_bias=-50.0)

    async def work() -> Any:
        async with AsyncSession(session, workers=2) as own:
            pieces = own.stream(TEXTS[0], max_new_tokens=40)
            await anext(pieces)
            with monkeypatch.context() as patch:
                _deny_threads(patch, "edgewise-batch")
                found = await own.translate(TEXTS[1], max_new_tokens=5)
            await pieces.aclose()
            later = await asyncio.gather(*(own.translate(text, max_new_tokens=5) for text in TEXTS))
        assert own._workers._working == 0
        return found, later

    found, later = run(work())
    assert found.tokens == session.translate(TEXTS[1], max_new_tokens=5).tokens
    assert [g.tokens for g in later] == [session.translate(t, max_new_tokens=5).tokens for t in TEXTS]


def test_one_caller_s_trouble_is_nothing_to_the_others() -> None:
    session = session_for("translate", 3, end_bias=-50.0)
    expected = session.translate(TEXTS[0], max_new_tokens=20).tokens

    async def work() -> Any:
        async with AsyncSession(session, workers=1) as own:
            calls: list[Any] = [own.translate(TEXTS[0], max_new_tokens=20) for _ in range(3)]
            calls.append(own.translate(TEXTS[1], suppress=[[i] for i in range(330)]))
            calls.append(own.translate(" "))
            calls.append(own.translate(TEXTS[1], max_new_tokens=60, deadline=0.001))
            tasks = [asyncio.create_task(call) for call in calls]
            gone = asyncio.create_task(own.translate(TEXTS[2], max_new_tokens=60))
            await asyncio.sleep(0.01)
            gone.cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)

    *well, impossible, empty, late = run(work())
    assert [found.tokens for found in well] == [expected] * 3
    with pytest.raises(InputError, match="text 0: the options leave no token that may follow"):
        raise impossible
    with pytest.raises(InputError, match="text 0 is empty"):
        raise empty
    assert late.hypotheses[0].finish_reason == "deadline"


def test_a_session_that_is_closed_under_its_callers() -> None:
    session = session_for("translate", 3, end_bias=-50.0)

    async def work() -> Any:
        async with AsyncSession(session, workers=1) as own:
            pieces = own.stream(TEXTS[0], max_new_tokens=60)
            await anext(pieces)
            session.close()
            with pytest.raises(EngineError, match="the session was closed while this request was running"):
                async for _ in pieces:
                    pass
            with pytest.raises(EngineError, match="this session is closed"):
                await own.translate(TEXTS[0])

    run(work())


def test_an_engine_that_cannot_even_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_for("translate", 3)

    def fails(*_: Any) -> Any:
        raise EngineError("no memory for a batch")

    monkeypatch.setattr(Session, "_batch", fails)

    async def work() -> Any:
        async with AsyncSession(session, workers=1) as own:
            return await asyncio.gather(*(own.translate(text) for text in TEXTS), return_exceptions=True)

    assert [str(error) for error in run(work())] == ["no memory for a batch"] * 4


def test_a_batch_that_breaks_lets_nobody_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_for("translate", 3, end_bias=-50.0)
    fits, asked = ContinuousBatch.fits, []

    def breaks(batch: ContinuousBatch, job: Any) -> bool:
        asked.append(job)
        if len(asked) == 3:
            raise RuntimeError("broken")
        return fits(batch, job)

    monkeypatch.setattr(ContinuousBatch, "fits", breaks)

    async def work() -> Any:
        async with AsyncSession(session, workers=1) as own:
            broken = await asyncio.gather(
                *(own.translate(text, max_new_tokens=60) for text in TEXTS), return_exceptions=True
            )
            return broken, await own.translate(TEXTS[0], max_new_tokens=3)

    broken, later = run(work())
    assert "broken" in map(str, broken)
    assert later.tokens


@pytest.mark.parametrize("method", ["translate", "stream"])
def test_a_text_that_cannot_be_made_is_an_error_for_its_caller_alone(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    session = session_for("translate", 3)
    expected = session.translate(TEXTS[0], max_new_tokens=5).text
    broken = EngineError("no text can be made of this")

    def fails(*_: Any) -> Any:
        raise broken

    async def call(own: AsyncSession) -> str:
        if method == "stream":
            return "".join([piece async for piece in own.stream(TEXTS[0], max_new_tokens=5)])
        return (await own.translate(TEXTS[0], max_new_tokens=5)).text

    async def work() -> Any:
        async with AsyncSession(session, workers=1) as own:
            with monkeypatch.context() as patch:
                patch.setattr(Pieces, "finish", fails)
                patch.setattr(session.tokenizer, "continuation", fails)
                with pytest.raises(EngineError, match="no text can be made of this"):
                    await call(own)
            return await call(own)

    assert run(work()) == expected


def test_who_gave_up_waiting_is_told_even_where_the_batch_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    session, gate = session_for("translate", 3, end_bias=-50.0), Gate()
    encode, fits = session.engine.encode_source, ContinuousBatch.fits
    monkeypatch.setattr(session.engine, "encode_source", lambda *sources: (gate(), encode(*sources))[1])
    breaking: list[bool] = []

    def breaks(batch: ContinuousBatch, job: Any) -> bool:
        if breaking:
            breaking.clear()
            raise MemoryError("broken")
        return fits(batch, job)

    monkeypatch.setattr(ContinuousBatch, "fits", breaks)

    async def work() -> Any:
        cancellation = Cancellation()
        async with AsyncSession(session, workers=1, rows=1) as own:
            gate.shut()
            calls = [asyncio.create_task(own.translate(TEXTS[0], max_new_tokens=3))]
            await until(lambda: gate.holds)
            calls.append(asyncio.create_task(own.translate(TEXTS[1], cancellation=cancellation)))
            calls.append(asyncio.create_task(own.translate(TEXTS[2])))
            await until(lambda: len(own._workers._waiting) == 2)
            cancellation.cancel()
            breaking.append(True)
            gate.open()
            return await asyncio.gather(*calls, return_exceptions=True)

    first, gone, last = run(work())
    assert gone.hypotheses[0].finish_reason == "cancelled"
    assert [str(first), str(last)] == ["broken", "broken"]
