"""The session for asyncio: what the session itself gives, without blocking the loop, ended when the caller leaves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import edgewise
from edgewise.errors import EngineError, InputError
from edgewise.runtime import asynchronous, interrupt
from edgewise.runtime.asynchronous import AsyncSession
from edgewise.runtime.continuous import ContinuousBatch
from edgewise.runtime.interrupt import Cancellation
from edgewise.runtime.options import Sampling
from edgewise.runtime.session import Session
from edgewise.runtime.streaming import Pieces

from .tiny_session import session_for
from .torch_engine import LAYER, TorchEngine

TEXTS = ["A man is riding a bicycle.", "Two dogs run.", "A woman, a hat.", "A dog."]


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


def engine_of(session: Session) -> TorchEngine:
    engine = session.engine
    assert isinstance(engine, TorchEngine)
    return engine


def _steps(session: Session) -> int:
    engine = engine_of(session)
    return sum(run.steps for run in (*engine.runs, *engine.open_runs))


def test_translations_are_the_session_s_own() -> None:
    async def work(session: Session) -> Any:
        async with AsyncSession(session, workers=2) as own:
            return await asyncio.gather(
                *(own.translate(text, max_new_tokens=12) for text in TEXTS), own.translate(TEXTS)
            )

    session = session_for("translate", 3)
    *alone, together = _run(work(session))
    assert [g.tokens for g in alone] == [session.translate(t, max_new_tokens=12).tokens for t in TEXTS]
    assert [g.tokens for g in together] == [g.tokens for g in session.translate(TEXTS)]


def test_many_streams_at_once_give_what_each_gives_alone() -> None:
    async def joined(own: AsyncSession, text: str) -> str:
        return "".join([piece async for piece in own.stream(text, max_new_tokens=16)])

    async def work(session: Session) -> Any:
        async with AsyncSession(session, workers=2) as own:
            return await asyncio.gather(*(joined(own, text) for text in TEXTS * 4))

    session = session_for("translate", 3)
    assert _run(work(session)) == ["".join(session.stream(text, max_new_tokens=16)) for text in TEXTS * 4]


def test_generate() -> None:
    async def work(session: Session) -> Any:
        async with AsyncSession(session) as own:
            return await own.generate("A man", max_new_tokens=5)

    session = session_for("generate")
    assert _run(work(session)).tokens == session.generate("A man", max_new_tokens=5).tokens


def test_the_loop_goes_on_while_the_engine_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine waits for the loop: if the loop waited for the engine, neither would go on."""
    session = session_for("translate", 3)
    encode = session.engine.encode_source

    async def work() -> Any:
        loop = asyncio.get_running_loop()

        def waits(*arguments: Any) -> Any:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(60)
            return encode(*arguments)

        monkeypatch.setattr(session.engine, "encode_source", waits)
        async with AsyncSession(session, workers=1) as own:
            return await own.translate(TEXTS[0], max_new_tokens=3)

    assert _run(work()).tokens


def test_leaving_a_stream_ends_its_decoding() -> None:
    async def work(session: Session) -> None:
        async with AsyncSession(session, workers=1) as own:
            pieces = own.stream(TEXTS[0], max_new_tokens=40)
            for _ in range(3):
                await anext(pieces)
            await pieces.aclose()

    whole, left = session_for("translate", 3, end_bias=-50.0), session_for("translate", 3, end_bias=-50.0)
    list(whole.stream(TEXTS[0], max_new_tokens=40))
    _run(work(left))
    assert 0 < _steps(left) < _steps(whole) == 39
    assert not engine_of(left).runs


@pytest.mark.parametrize("kind", ["translate", "stream"])
def test_a_cancelled_task_ends_its_decoding(kind: str) -> None:
    async def work(session: Session) -> None:
        begun, loop = asyncio.Event(), asyncio.get_running_loop()
        start = session.engine.open_run

        def started(*arguments: Any) -> Any:
            loop.call_soon_threadsafe(begun.set)
            return start(*arguments)

        session.engine.open_run = started  # type: ignore[method-assign]
        async with AsyncSession(session, workers=1) as own:
            task = asyncio.create_task(_consume(own, kind))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    session = session_for("translate", 3, end_bias=-50.0)
    _run(work(session))
    assert _steps(session) < 50


async def _consume(own: AsyncSession, kind: str) -> None:
    if kind == "translate":
        await own.translate(TEXTS[0], beam_size=2, max_new_tokens=60)
    else:
        async for _ in own.stream(TEXTS[0], max_new_tokens=60):
            pass


def test_a_caller_s_cancellation_ends_its_calls_and_is_ended_by_none() -> None:
    async def joined(own: AsyncSession, text: str, cancellation: Cancellation) -> str:
        return "".join([piece async for piece in own.stream(text, max_new_tokens=16, cancellation=cancellation)])

    async def work(session: Session, cancellation: Cancellation) -> Any:
        async with AsyncSession(session, workers=2) as own:
            both = await asyncio.gather(*(joined(own, text, cancellation) for text in TEXTS[:2]))
            assert not cancellation.cancelled
            cancellation.cancel()
            return both, await joined(own, TEXTS[0], cancellation)

    session = session_for("translate", 3)
    both, ended = _run(work(session, Cancellation()))
    assert both == ["".join(session.stream(text, max_new_tokens=16)) for text in TEXTS[:2]]
    assert ended == ""


class Gate:
    """Holds up whoever passes through while it is shut."""

    def __init__(self) -> None:
        self._opened, self.holds = threading.Event(), False
        self.open()

    def shut(self) -> None:
        self._opened.clear()

    def open(self) -> None:
        self._opened.set()

    def __call__(self) -> None:
        self.holds = not self._opened.is_set()
        assert self._opened.wait(60)


async def _until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("for_what", ["room", "a thread for lists", "a thread to prepare in"])
def test_waiting_counts_towards_the_deadline(monkeypatch: pytest.MonkeyPatch, for_what: str) -> None:
    """By a clock that moves only while the second of two calls waits: no call alone ever meets its deadline."""
    clock, gate, session = [0.0], Gate(), session_for("translate", 3, end_bias=-50.0)
    for module in (asynchronous, interrupt):
        monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    encode = session.engine.encode_source
    monkeypatch.setattr(session.engine, "encode_source", lambda *sources: (gate(), encode(*sources))[1])
    texts: Any = TEXTS[:1] if for_what == "a thread for lists" else TEXTS[0]

    async def work() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        async with AsyncSession(session, workers=1, rows=1) as own:

            async def call() -> Any:
                found = await own.translate(texts, max_new_tokens=3, deadline=10)
                return found if isinstance(texts, str) else found[0]

            alone = await call()
            gate.shut()
            if for_what == "a thread to prepare in":
                first: Any = loop.run_in_executor(None, gate)
            else:
                first = asyncio.create_task(own.translate(texts, max_new_tokens=3))
            await _until(lambda: gate.holds)
            late = asyncio.create_task(call())
            await asyncio.sleep(0)
            if for_what == "room":
                await _until(lambda: own._workers._waiting)
            clock[0] = 20.0
            gate.open()
            return alone, await late, await first

    alone, late, _ = _run(work())
    assert alone.hypotheses[0].finish_reason == "length"
    assert (late.hypotheses[0].finish_reason, late.tokens) == ("deadline", ())


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

    _run(work(session_for("translate", 3, end_bias=-50.0)))


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
    for found in _run(work()):
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

    found, later = _run(work())
    assert found.tokens == session.translate(TEXTS[1], max_new_tokens=5).tokens
    assert [g.tokens for g in later] == [session.translate(t, max_new_tokens=5).tokens for t in TEXTS]


def test_errors_are_the_session_s_own() -> None:
    async def work(session: Session) -> None:
        async with AsyncSession(session) as own:
            with pytest.raises(InputError, match="text 0 is empty"):
                await own.translate("")
            with pytest.raises(InputError, match="text is empty"):
                await anext(own.stream(""))
            with pytest.raises(InputError, match=r"cancellation .* must be an edgewise.Cancellation"):
                await anext(own.stream("A dog.", cancellation="now"))  # type: ignore[arg-type]
            with pytest.raises(InputError, match=r"speculate \(4\) reads several tokens of one text at once"):
                await own.translate("A dog.", speculate=4)

    _run(work(session_for("translate")))


@pytest.mark.parametrize("deadline", [10**400, 10**9 + 1, True, -1, float("nan"), "soon"], ids=lambda d: str(d)[:12])
def test_a_deadline_that_is_none_is_refused_as_by_the_session(deadline: Any) -> None:
    session = session_for("translate")

    async def work() -> None:
        async with AsyncSession(session, workers=1) as own:
            for call in (own.translate("A dog.", deadline=deadline), own.translate(["A dog."], deadline=deadline)):
                with pytest.raises(InputError, match=r"deadline \(.*\) must be a number of seconds of at least 0"):
                    await call
            with pytest.raises(InputError, match=r"deadline \(.*\) must be a number of seconds of at least 0"):
                await anext(own.stream("A dog.", deadline=deadline))

    _run(work())


MIXED: list[dict[str, Any]] = [
    {},
    {"beam_size": 3, "n_best": 2},
    {"sampling": Sampling(seed=3, samples=2)},
    {"repetition_penalty": 1.5, "min_new_tokens": 4},
    {"beam_size": 3, "beam_groups": 3, "diversity_penalty": 0.5},
    {"alternatives": 2},
]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("task", ["translate", "generate"])
def test_many_callers_with_options_of_their_own_share_steps(task: Any, workers: int) -> None:
    session = session_for(task, 3, end_bias=-50.0)
    asked = [(TEXTS[i % 4], {**MIXED[i % len(MIXED)], "max_new_tokens": 6 + i % 5}) for i in range(24)]
    alone = [getattr(session, task)(text, **options) for text, options in asked]
    steps_alone = _steps(session)

    async def work() -> Any:
        async with AsyncSession(session, workers) as own:
            return await asyncio.gather(*(getattr(own, task)(text, **options) for text, options in asked))

    together = _run(work())
    assert [[h.tokens for h in g.hypotheses] for g in together] == [[h.tokens for h in g.hypotheses] for g in alone]
    assert [g.score for g in together] == pytest.approx([g.score for g in alone], abs=1e-4)
    assert _steps(session) - steps_alone < steps_alone / (2 if workers == 1 else 1)
    assert max(g.timings.batch for g in together) > 1


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

    *well, impossible, empty, late = _run(work())
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

    _run(work())


def test_an_engine_that_cannot_even_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_for("translate", 3)

    def fails(*_: Any) -> Any:
        raise EngineError("no memory for a batch")

    monkeypatch.setattr(Session, "_batch", fails)

    async def work() -> Any:
        async with AsyncSession(session, workers=1) as own:
            return await asyncio.gather(*(own.translate(text) for text in TEXTS), return_exceptions=True)

    assert [str(error) for error in _run(work())] == ["no memory for a batch"] * 4


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

    broken, later = _run(work())
    assert "broken" in map(str, broken)
    assert later.tokens


def test_alignments_and_texts_are_made_by_the_workers_and_closing_waits_for_them(
    monkeypatch: pytest.MonkeyPatch, assert_close: Callable[..., None]
) -> None:
    session, gate = session_for("translate", 3, changes={"alignment_layer": LAYER}), Gate()
    alone = [session.translate(text, max_new_tokens=5, alignments=True) for text in TEXTS]
    attend, continuation = session.engine.cross_attention, session.tokenizer.continuation
    threads: list[tuple[str, str]] = []

    def attends(*arguments: Any) -> Any:
        threads.append(("attention", threading.current_thread().name))
        gate()
        return attend(*arguments)

    def continues(*arguments: Any) -> str:
        threads.append(("text", threading.current_thread().name))
        return continuation(*arguments)

    monkeypatch.setattr(session.engine, "cross_attention", attends)
    monkeypatch.setattr(session.tokenizer, "continuation", continues)

    async def work() -> Any:
        own = AsyncSession(session, workers=1)
        gate.shut()
        calls = [asyncio.create_task(own.translate(t, max_new_tokens=5, alignments=True)) for t in TEXTS]
        await _until(lambda: gate.holds)
        closing = asyncio.create_task(own.close())
        done, _ = await asyncio.wait([closing], timeout=0.1)
        assert not done, "closed under a pass of the engine"
        gate.open()
        found = await asyncio.gather(*calls, return_exceptions=True)
        await closing
        return found

    found = [each for each in _run(work()) if not isinstance(each, EngineError)]  # who came after closing is refused
    assert found
    expected = {g.source_tokens: g for g in alone}
    for each in found:
        own, same = each.hypotheses[0], expected[each.source_tokens].hypotheses[0]
        assert (own.text, own.tokens) == (same.text, same.tokens)
        assert_close(own.alignment.weights, same.alignment.weights)
    assert {what for what, _ in threads} == {"attention", "text"}
    (thread,) = {name for _, name in threads}
    assert thread.startswith("edgewise-batch")


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

    assert _run(work()) == expected


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
            await _until(lambda: gate.holds)
            calls.append(asyncio.create_task(own.translate(TEXTS[1], cancellation=cancellation)))
            calls.append(asyncio.create_task(own.translate(TEXTS[2])))
            await _until(lambda: len(own._workers._waiting) == 2)
            cancellation.cancel()
            breaking.append(True)
            gate.open()
            return await asyncio.gather(*calls, return_exceptions=True)

    first, gone, last = _run(work())
    assert gone.hypotheses[0].finish_reason == "cancelled"
    assert [str(first), str(last)] == ["broken", "broken"]


def test_a_call_of_one_text_reports_its_progress() -> None:
    seen: list[Any] = []

    async def work() -> Any:
        async with AsyncSession(session_for("translate")) as own:
            await own.translate(TEXTS[0], max_new_tokens=2, progress=lambda *done: seen.append(done))
            with pytest.raises(InputError, match=r"batch_size \(0\) must be an integer of at least 1"):
                await own.translate(TEXTS[0], batch_size=0)
            with pytest.raises(InputError, match="the options leave no token that may follow"):
                await own.translate(
                    TEXTS[0], suppress=[[i] for i in range(330)], progress=lambda *done: seen.append(done)
                )

    _run(work())
    assert seen == [(1, 1)]


@pytest.mark.parametrize("rows", [0, True, None])
def test_rows_must_be_a_number(rows: Any) -> None:
    with pytest.raises(InputError, match=r"rows .* must be an integer of at least 1"):
        edgewise.AsyncSession(session_for("translate"), rows=rows)


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_workers_must_be_a_number(workers: Any) -> None:
    with pytest.raises(InputError, match=r"workers .* must be an integer of at least 1, or None for one a processor"):
        edgewise.AsyncSession(session_for("translate"), workers)
