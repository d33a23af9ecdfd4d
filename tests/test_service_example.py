"""The example service, spoken to as a server would: many clients at once, one that goes away, one with bad input."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest

import edgewise
from edgewise.runtime.engines.onnxruntime_open import OnnxRuntimeOpenRun

pytestmark = pytest.mark.slow
FILE = Path(__file__).resolve().parent.parent / "examples" / "translation_service.py"
TEXTS = ["A man is riding a bicycle.", "Two dogs play in the snow.", "A girl laughs.", "Children are playing football."]


@pytest.fixture(scope="module")
def service() -> ModuleType:
    pytest.importorskip("starlette")
    spec = importlib.util.spec_from_file_location("translation_service", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def _ask(app: Any, method: str, query: str = "", body: bytes = b"", leave_after: int | None = None) -> Any:
    """Status and the parts of the body; ``leave_after`` parts the client goes away."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.0"},
        "method": method,
        "path": "/translate",
        "query_string": query.encode(),
        "headers": [(b"content-type", b"application/json")],
        "app": app,
        "state": {},
    }
    parts: list[bytes] = []
    status: list[int] = []
    gone = asyncio.Event()
    asked = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        if (message := next(asked, None)) is not None:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            status.append(message["status"])
        elif message.get("body"):
            parts.append(message["body"])
            if leave_after is not None and len(parts) >= leave_after:
                gone.set()
                await asyncio.sleep(0.01)

    await app(scope, receive, send)
    return status[0], [part.decode() for part in parts]


def _text(parts: list[str]) -> str:
    assert parts[-1] == "event: end\ndata:\n\n"
    return "".join(json.loads(part.removeprefix("data: ")) for part in parts[:-1])


def _serve(service: ModuleType, work: Any) -> Any:
    async def serve() -> Any:
        async with service.opened(service.app):
            return await asyncio.wait_for(work(service.app), 300)

    return asyncio.run(serve())


def _counted_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every step that a batch takes from now on."""
    rows: list[int] = []
    step = OnnxRuntimeOpenRun.step

    def counted(run: OnnxRuntimeOpenRun, ids: Any, parents: Any) -> Any:
        rows.append(len(ids))
        return step(run, ids, parents)

    monkeypatch.setattr(OnnxRuntimeOpenRun, "step", counted)
    return rows


def test_many_clients_at_once(service: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(app: Any) -> Any:
        return await asyncio.gather(*(_ask(app, "GET", f"text={quote(text)}") for text in TEXTS * 8))

    steps = _counted_steps(monkeypatch)
    answers = _serve(service, work)
    with edgewise.load(threads=1) as session:
        expected = ["".join(session.stream(text)) for text in TEXTS]
        tokens = sum(len(session.translate(text, beam_size=1).tokens) for text in TEXTS * 8)
    assert sum(steps) == tokens, "a row of a step for every token, and none besides"
    assert len(steps) < tokens / 4, "clients should share steps"
    assert max(steps) > 4
    assert [status for status, _ in answers] == [200] * 32
    assert [_text(parts) for _, parts in answers] == expected * 8
    assert all(len(parts) > 3 for _, parts in answers), "a translation should come in pieces"


def test_a_client_that_goes_away(service: ModuleType) -> None:
    async def work(app: Any) -> Any:
        left = await _ask(app, "GET", f"text={quote(TEXTS[0])}", leave_after=1)
        return left, await _ask(app, "GET", f"text={quote(TEXTS[0])}")

    (_, few), (_, all_parts) = _serve(service, work)
    assert len(few) < len(all_parts)


def test_several_texts(service: ModuleType) -> None:
    async def work(app: Any) -> Any:
        return await _ask(app, "POST", body=json.dumps({"texts": TEXTS}).encode())

    status, parts = _serve(service, work)
    with edgewise.load() as session:
        assert json.loads("".join(parts)) == {"translations": [g.text for g in session.translate(TEXTS)]}
    assert status == 200


@pytest.mark.parametrize(
    ("method", "query", "body", "message"),
    [
        ("GET", "", b"", "text is empty"),
        ("GET", "text=a%00b", b"", "NUL"),
        ("POST", "", b"{}", "texts"),
        ("POST", "", b"not JSON", "Expecting value"),
        ("POST", "", b'{"texts": "a text"}', "texts must be a list"),
        ("POST", "", b'{"texts": [""]}', "text 0 is empty"),
    ],
)
def test_bad_input(method: str, query: str, body: bytes, message: str, service: ModuleType) -> None:
    async def work(app: Any) -> Any:
        return await _ask(app, method, query, body)

    status, parts = _serve(service, work)
    assert status == 400
    assert message in json.loads("".join(parts))["error"]
