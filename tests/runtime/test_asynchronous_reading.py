"""Encoder-only models in an AsyncSession: every method of the session, with its arguments, off the event loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest

from edgewise.errors import EngineError, InputError
from edgewise.runtime.asynchronous import AsyncSession
from edgewise.runtime.session import Session

from .tiny_session import session_for

TEXTS = ["A man is riding a bicycle.", "Two dogs"]
# Of these alone a call is more than a thread, or there is nothing to wait for.
OTHERS = {"translate", "generate", "stream", "chat", "chat_stream", "translate_iter", "generate_iter", "close"}
OTHERS |= {"describe", "verify", "engine", "check_chat", "translate_document", "transcribe", "transcribe_stream"}
READING = sorted(name for name in dir(Session) if not name.startswith("_") and name not in OTHERS)
CALLS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "classify one": ("classify", (TEXTS[0],), {}),
    "classify": ("classify", (TEXTS,), {"overflow": "windows"}),
    "encode": ("encode", (TEXTS,), {"batch_size": 1}),
    "fill_mask": ("fill_mask", ("A man is <mask>.",), {"top": 2}),
    "score": ("score", (TEXTS,), {}),
}


def asked(session: Session, name: str, *arguments: Any, **named: Any) -> Any:
    async def run() -> Any:
        async with AsyncSession(session, 1) as together:
            return await getattr(together, name)(*arguments, **named)

    return asyncio.run(run())


@pytest.mark.parametrize(("name", "arguments", "named"), CALLS.values(), ids=CALLS.keys())
def test_results_are_those_of_the_session(name: str, arguments: Any, named: Any) -> None:
    session = session_for({"encode": "classify", "score": "generate"}.get(name, name))  # type: ignore[arg-type]
    expected = getattr(session, name)(*arguments, **named)
    found = asked(session, name, *arguments, **named)
    assert repr(found) == repr(expected)  # of arrays, == says too much


def test_what_a_session_reads() -> None:
    expected = {"answer", "classify", "embed", "encode", "fill_mask", "regress", "rerank", "score", "similarity", "tag"}
    assert set(READING) == expected


@pytest.mark.parametrize("name", READING)
def test_every_method_takes_the_same_and_works_in_a_thread(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = (inspect.signature(getattr(cls, name)).parameters for cls in (Session, AsyncSession))
    assert list(theirs.values()) == list(ours.values())
    session, seen = session_for("classify"), []

    def method(*arguments: Any, **named: Any) -> str:
        assert threading.current_thread() is not threading.main_thread()
        bound = inspect.signature(getattr(Session, name)).bind(session, *arguments, **named)
        seen.append(bound.args[1:] + tuple(bound.kwargs.items()))
        return "found"

    positional = [p.name for p in ours.values() if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty][1:]
    given = {p.name: 7 for p in ours.values() if p.kind is p.KEYWORD_ONLY} or {"overflow": "truncate"}
    monkeypatch.setattr(session, name, method)
    assert asked(session, name, *positional, **given) == "found"
    assert set(seen[0]) >= {*positional, *given.items()}


def test_errors_are_those_of_the_session() -> None:
    with pytest.raises(InputError, match="classify needs a bundle made for classify"):
        asked(session_for("generate"), "classify", TEXTS)


def test_after_closing() -> None:
    async def run() -> None:
        together = AsyncSession(session_for("classify"))
        await together.close()
        await together.classify(TEXTS)

    with pytest.raises(EngineError, match="closed"):
        asyncio.run(run())
