"""``edgewise chat``: lines are messages of one chat."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewise import cli
from edgewise.runtime.session import Session

from .runtime.tiny_session import chat_session, session_for

CONTEXT = 160
Said = Callable[..., tuple[int, str, str]]


class Terminal(io.StringIO):
    """Somebody who writes; ``"^C"`` is no line but Ctrl-C."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    made = chat_session(tmp_path, CONTEXT)
    monkeypatch.setattr(made, "close", lambda: None)  # several commands ask it
    monkeypatch.setattr("edgewise.runtime.load.load", lambda *_, **__: made)
    return made


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    """``said(lines, words, by_hand=False)``: exit status, standard output, standard error."""

    def call(lines: str, *words: str, by_hand: bool = False) -> tuple[int, str, str]:
        piped = io.TextIOWrapper(io.BytesIO(lines.encode()), encoding="utf-8")
        monkeypatch.setattr("sys.stdin", Terminal(lines) if by_hand else piped)
        try:
            status = cli.main(["chat", *words])
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    return call


def expected(session: Session, *texts: str, system: str | None = None) -> list[str]:
    """The answers, asked for one by one with the chat so far."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    answers = []
    for text in texts:
        messages.append({"role": "user", "content": text})
        answers.append(session.chat(messages, max_new_tokens=5, overflow="truncate").text)
        messages.append({"role": "assistant", "content": answers[-1]})
    return answers


@pytest.mark.parametrize("system", [None, "A hat."])
def test_lines_are_one_chat(system: str | None, session: Session, said: Said) -> None:
    words = ["--max-new-tokens", "5", *(["--system", system] if system else [])]
    first, second = expected(session, "Two dogs run.", "A man?", system=system)
    assert said("Two dogs run.\n\nA man?\n", *words) == (0, f"{first}\n\n{second}\n", "")
    status, out, err = said("Two dogs run.\nA man?\n", *words, "--json")
    assert (status, err) == (0, "")
    assert [json.loads(line)["output"] for line in out.splitlines()] == [first, second]
    assert [json.loads(line)["input"] for line in out.splitlines()] == ["Two dogs run.", "A man?"]


def test_by_hand(session: Session, said: Said) -> None:
    """What cannot be answered is said, and the chat goes on without it."""
    first, second = expected(session, "Two dogs run.", "A man?")
    status, out, err = said("Two dogs run.\na</s>b\n\nA man?\n", "--max-new-tokens", "5", by_hand=True)
    assert (status, out) == (0, f"{first}\n{second}\n")
    assert err.startswith("edgewise: a line in, a line out; Ctrl-D ends it\n> > edgewise: error: ")
    assert "message 2 holds the control token '</s>'" in err
    assert err.count("> ") == 5


def test_an_answer_that_is_interrupted(session: Session, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is of it is part of the chat."""
    whole = session._chat_pieces

    def interrupted(job: Any) -> Any:
        yield next(whole(job))
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "_chat_pieces", interrupted)
    asked: list[Any] = []
    made = session._chat_job
    monkeypatch.setattr(session, "_chat_job", lambda m, messages, a: asked.append(messages) or made(m, messages, a))
    status, out, _ = said("Two dogs run.\nA man?\n", by_hand=True)
    assert status == 0
    assert asked[1][1] == {"role": "assistant", "content": out.splitlines()[0]}


def test_turns_that_are_forgotten(session: Session, said: Said) -> None:
    lines = "Two dogs run on the grass.\n" * 12
    status, _, err = said(lines, "--max-new-tokens", "5")
    assert status == 0
    warned = re.search(r"edgewise: warning: at line (\d) the oldest turns no longer fit: forgotten\n", err)
    status, _, err = said(lines, "--max-new-tokens", "5", "--overflow", "error")
    assert status == 1
    refused = re.search(r"error: line (\d): the chat has \d+ tokens, more than the 160 this model reads", err)
    assert warned is not None
    assert refused is not None
    assert 2 < int(warned[1]) <= int(refused[1]), "an answer of 5 tokens needs room, too"


def test_an_answer_that_spells_control_tokens(session: Session, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a message it would be refused."""
    monkeypatch.setattr(session.tokenizer, "continuation", lambda *_: "a<<s>/s></s>b")
    assert said("Two dogs run.\nA man?\n", "--max-new-tokens", "5") == (0, "a<<s>/s></s>b\n" * 2, "")


@pytest.mark.parametrize("words", [["--n-best", "1"], ["--samples", "2"], ["--alignments"]])
def test_what_a_chat_has_not(words: list[str], session: Session, said: Said) -> None:
    status, _, err = said("A\n", *words)
    assert status == 2
    assert f"{words[0]}: a chat has one answer and no alignment" in err


def test_a_line_that_is_refused_ends_a_pipe(session: Session, said: Said) -> None:
    status, out, err = said("a</s>b\nA man?\n")
    assert (status, out) == (1, "")
    assert err.startswith("edgewise: error: line 1: message 0 holds the control token '</s>'")


def test_a_bundle_that_cannot_chat(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewise.runtime.load.load", lambda *_, **__: session_for("translate"))
    status, _, err = said("A\n", by_hand=True)
    assert (status, err.startswith("edgewise: error: chat needs a bundle made for generate")) == (1, True)
