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
from edgewise.runtime.interrupt import Cancellation
from edgewise.runtime.options import Sampling
from edgewise.runtime.session import Session

from .test_session import engine_of
from .tiny_session import session_for
from .torch_engine import LAYER

TEXTS = ["A man is riding a bicycle.", "Two dogs run.", "A woman, a hat.", "A dog."]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


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
    *alone, together = run(work(session))
    assert [g.tokens for g in alone] == [session.translate(t, max_new_tokens=12).tokens for t in TEXTS]
    assert [g.tokens for g in together] == [g.tokens for g in session.translate(TEXTS)]


def test_many_streams_at_once_give_what_each_gives_alone() -> None:
    async def joined(own: AsyncSession, text: str) -> str:
        return "".join([piece async for piece in own.stream(text, max_new_tokens=16)])

    async def work(session: Session) -> Any:
        async with AsyncSession(session, workers=2) as own:
            return await asyncio.gather(*(joined(own, text) for text in TEXTS * 4))

    session = session_for("translate", 3)
    assert run(work(session)) == ["".join(session.stream(text, max_new_tokens=16)) for text in TEXTS * 4]


def test_generate() -> None:
    async def work(session: Session) -> Any:
        async with AsyncSession(session) as own:
            return await own.generate("A man", max_new_tokens=5)

    session = session_for("generate")
    assert run(work(session)).tokens == session.generate("A man", max_new_tokens=5).tokens


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

    assert run(work()).tokens


def test_leaving_a_stream_ends_its_decoding() -> None:
    async def work(session: Session) -> None:
        async with AsyncSession(session, workers=1) as own:
            pieces = own.stream(TEXTS[0], max_new_tokens=40)
            for _ in range(3):
                await anext(pieces)
            await pieces.aclose()

    whole, left = session_for("translate", 3, end_bias=-50.0), session_for("translate", 3, end_bias=-50.0)
    list(whole.stream(TEXTS[0], max_new_tokens=40))
    run(work(left))
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
    run(work(session))
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
    both, ended = run(work(session, Cancellation()))
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


async def until(condition: Callable[[], object]) -> None:
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
            await until(lambda: gate.holds)
            late = asyncio.create_task(call())
            await asyncio.sleep(0)
            if for_what == "room":
                await until(lambda: own._workers._waiting)
            clock[0] = 20.0
            gate.open()
            return alone, await late, await first

    alone, late, _ = run(work())
    assert alone.hypotheses[0].finish_reason == "length"
    assert (late.hypotheses[0].finish_reason, late.tokens) == ("deadline", ())


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

    run(work(session_for("translate")))


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

    run(work())


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

    together = run(work())
    assert [[h.tokens for h in g.hypotheses] for g in together] == [[h.tokens for h in g.hypotheses] for g in alone]
    assert [g.score for g in together] == pytest.approx([g.score for g in alone], abs=1e-4)
    assert _steps(session) - steps_alone < steps_alone / (2 if workers == 1 else 1)
    assert max(g.timings.batch for g in together) > 1


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
        await until(lambda: gate.holds)
        closing = asyncio.create_task(own.close())
        done, _ = await asyncio.wait([closing], timeout=0.1)
        assert not done, "closed under a pass of the engine"
        gate.open()
        found = await asyncio.gather(*calls, return_exceptions=True)
        await closing
        return found

    found = [each for each in run(work()) if not isinstance(each, EngineError)]  # who came after closing is refused
    assert found
    expected = {g.source_tokens: g for g in alone}
    for each in found:
        own, same = each.hypotheses[0], expected[each.source_tokens].hypotheses[0]
        assert (own.text, own.tokens) == (same.text, same.tokens)
        assert_close(own.alignment.weights, same.alignment.weights)
    assert {what for what, _ in threads} == {"attention", "text"}
    (thread,) = {name for _, name in threads}
    assert thread.startswith("edgewise-batch")


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

    run(work())
    assert seen == [(1, 1)]


@pytest.mark.parametrize("rows", [0, True, None])
def test_rows_must_be_a_number(rows: Any) -> None:
    with pytest.raises(InputError, match=r"rows .* must be an integer of at least 1"):
        edgewise.AsyncSession(session_for("translate"), rows=rows)


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_workers_must_be_a_number(workers: Any) -> None:
    with pytest.raises(InputError, match=r"workers .* must be an integer of at least 1, or None for one a processor"):
        edgewise.AsyncSession(session_for("translate"), workers)
