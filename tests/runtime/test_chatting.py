"""Chats on a session: the prompt is what the template writes, and history gives way as whole turns."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from edgewise.errors import BundleFormatError, ContextLengthError, InputError, TokenizerError
from edgewise.runtime.asynchronous import AsyncSession
from edgewise.runtime.bundle.chat import CHAT_TEMPLATE_FILE, MAX_TEMPLATE_CHARACTERS
from edgewise.runtime.bundle.manifest import manifest_from_json
from edgewise.runtime.bundle.schema import to_json
from edgewise.runtime.chatting import ANSWER_TOKENS
from edgewise.runtime.options import Sampling
from edgewise.runtime.session import Session
from edgewise.runtime.tokenizer import Tokenizer

from .tiny_session import CHAT_TEMPLATE, chat_session, manifest, model_for, tokenizer

SYSTEM = {"role": "system", "content": "A man."}
QUESTION, ANSWER = {"role": "user", "content": "Two dogs run?"}, {"role": "assistant", "content": "A hat."}
CONTEXT = 200
Opened = Callable[..., Session]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """``opened(end_ids, own, context)``: see :func:`chat_session`."""

    def make(end_ids: tuple[int, ...] = (), own: tuple[int, ...] = (), context: int = CONTEXT) -> Session:
        return chat_session(tmp_path, context, end_ids, own)

    return make


def written(*messages: dict[str, str]) -> tuple[int, ...]:
    """The tokens that the template makes, put together by hand."""
    codec, ids = tokenizer(), list[int]()
    for message in messages:
        ids += [1, *codec.encode(f"{message['role']}: {message['content']}"), 2]
    return (*ids, 1, *codec.encode_part("assistant: "))


def test_the_prompt_and_its_continuation(opened: Opened) -> None:
    session = opened()
    found = session.chat([SYSTEM, QUESTION], max_new_tokens=12)
    assert found.source_tokens == written(SYSTEM, QUESTION)
    assert not found.truncated
    assert len(found.tokens) == 12
    assert found.text == session.tokenizer.continuation(found.source_tokens, found.tokens)
    assert "".join(session.chat_stream([SYSTEM, QUESTION], max_new_tokens=12)) == found.text


def test_an_answer_takes_options(opened: Opened) -> None:
    session = opened()
    drawn = session.chat([QUESTION], sampling=Sampling(seed=1, samples=3), max_new_tokens=5)
    assert len(drawn.hypotheses) == 3
    begun = session.chat([QUESTION], prefix="A man", max_new_tokens=9)
    assert begun.text.lstrip().startswith("A man")
    assert len(session.chat([QUESTION], beam_size=2, n_best=2, max_new_tokens=5).hypotheses) == 2


def test_how_long_an_answer_is(opened: Opened) -> None:
    """As long as the context lets it be, and no longer than ``ANSWER_TOKENS``; ``max_new_tokens`` of texts is other."""
    found = opened().chat([QUESTION], min_new_tokens=70)
    assert len(found.tokens) == CONTEXT + 1 - len(found.source_tokens)
    assert len(opened(context=700).chat([QUESTION], min_new_tokens=600).tokens) >= 600
    with pytest.raises(ContextLengthError, match=r"min_new_tokens \(600\) does not fit: the chat leaves room for"):
        opened().chat([QUESTION], min_new_tokens=600)
    found = opened().chat([QUESTION], min_new_tokens=600, overflow="truncate")
    assert len(found.tokens) == CONTEXT + 1 - len(found.source_tokens)
    with pytest.raises(InputError, match=r"min_new_tokens \('7'\) must be an integer"):
        opened().chat([QUESTION], min_new_tokens="7")  # type: ignore[arg-type]
    found = opened(context=700).chat([QUESTION])
    assert len(found.tokens) == ANSWER_TOKENS
    with pytest.raises(ContextLengthError, match=r"max_new_tokens \(190\) does not fit: the chat leaves room for"):
        opened().chat([QUESTION], max_new_tokens=190)


def test_where_an_answer_ends(opened: Opened) -> None:
    """At the ends of any text, and at those of a turn, unless the caller says others."""
    whole = opened().chat([QUESTION], max_new_tokens=40).tokens
    first, second = list(dict.fromkeys(whole))[1:3]
    for session in (opened(end_ids=(first,)), opened(own=(first,)), opened(end_ids=(second,), own=(first,))):
        found = session.chat([QUESTION], max_new_tokens=40)
        assert found.tokens == whole[: whole.index(first) + 1]
        assert found.hypotheses[0].finish_reason == "end"
        assert session.chat([QUESTION], max_new_tokens=40, end_ids=[]).tokens == whole
    assert opened(end_ids=(first,)).generate("A man", max_new_tokens=3).source_tokens is not None


def test_the_end_of_a_turn_is_no_text(opened: Opened) -> None:
    """An ordinary token where the tokenizer does not call it special; one that only the caller names is text."""
    whole = opened().chat([QUESTION], max_new_tokens=40)
    first = list(dict.fromkeys(whole.tokens))[1]
    before = whole.tokens[: whole.tokens.index(first)]
    session = opened(end_ids=(first,))
    text = session.tokenizer.continuation(whole.source_tokens, before)
    assert session.tokenizer.continuation(whole.source_tokens, (*before, first)) != text
    for options in ({}, {"repetition_penalty": 1.0001, "stop": ["\0"]}, {"sampling": Sampling(seed=3)}):
        arguments: Any = {"max_new_tokens": 40, **options}
        found = session.chat([QUESTION], **arguments)
        assert found.hypotheses[0].finish_reason == "end"
        assert found.text == session.tokenizer.continuation(found.source_tokens, found.tokens[:-1])
        assert "".join(session.chat_stream([QUESTION], **arguments)) == found.text
    assert session.chat([QUESTION], max_new_tokens=40).text == text
    named = opened().chat([QUESTION], max_new_tokens=40, end_ids=[first])
    assert named.tokens == (*before, first)
    assert named.text != text

    async def together() -> tuple[str, str]:
        async with AsyncSession(session) as shared:
            pieces = [piece async for piece in shared.chat_stream([QUESTION], max_new_tokens=40)]
            return (await shared.chat([QUESTION], max_new_tokens=40)).text, "".join(pieces)

    assert asyncio.run(together()) == (text, text)


def turns(count: int) -> list[dict[str, str]]:
    return [m for i in range(count) for m in ({**QUESTION, "content": f"Two dogs {i}?"}, ANSWER)]


def test_a_chat_beyond_the_context_is_refused(opened: Opened) -> None:
    with pytest.raises(ContextLengthError, match=r"the chat has \d+ tokens, more than the 200 this model reads: .*"):
        opened().chat([SYSTEM, *turns(20), QUESTION])


@pytest.mark.parametrize("before", [[], [SYSTEM]], ids=["no system", "system"])
@pytest.mark.parametrize("most", [None, 30])
def test_or_loses_its_oldest_turns(before: list[dict[str, str]], most: int | None, opened: Opened) -> None:
    """As many as needed, tried one by one; the room is that of the answer, or half of the context."""
    session, history = opened(), turns(20)
    wanted = most or CONTEXT // 2
    kept = next(
        [*before, *history[2 * dropped :], QUESTION]
        for dropped in range(21)
        if len(written(*before, *history[2 * dropped :], QUESTION)) + wanted <= CONTEXT + 1
    )
    found = session.chat([*before, *history, QUESTION], overflow="truncate", max_new_tokens=most)
    assert found.source_tokens == written(*kept)
    assert found.truncated
    whole = session.chat(kept, overflow="truncate", max_new_tokens=most)
    assert (whole.source_tokens, whole.truncated) == (found.source_tokens, False)


def long_chats() -> dict[str, list[dict[str, str]]]:
    """Beyond what a template may see: messages, characters, and what it may do with them."""
    big = [m for _ in range(30) for m in ({**QUESTION, "content": "A man, " * 6000}, ANSWER)]
    return {"messages": turns(5100), "characters": big, "one turn": [{**QUESTION, "content": "A" * 1_000_001}, ANSWER]}


@pytest.mark.parametrize("history", long_chats().values(), ids=long_chats().keys())
def test_a_history_that_no_template_may_see(history: list[dict[str, str]], opened: Opened) -> None:
    """Its newest turns remain, as without the older ones."""
    session, newest = opened(), [*turns(2), QUESTION]
    with pytest.raises(InputError, match=r"there are 1\d+ messages, expected|the messages have 1\d{6} characters"):
        session.chat([*history, *newest])
    found = session.chat([*history, *newest], overflow="truncate", max_new_tokens=20)
    assert found.truncated
    assert found.source_tokens[-len(written(*newest)) :] == written(*newest)
    with pytest.raises(InputError, match=r"message 1 is '7', expected a mapping with role and content"):
        session.chat([history[0], 7, *history[1:], *newest], overflow="truncate")  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"message 1 holds the control token '</s>'"):
        session.chat([history[0], {**ANSWER, "content": "</s>"}, *history[1:], *newest], overflow="truncate")


def test_a_history_beyond_the_budget_of_a_template(opened: Opened) -> None:
    """What the last turn fails at is said; what only a longer chat fails at is a reason to shorten it."""
    session, file = opened(), "chat_template.txt"
    costly = "{% for m in messages %}{% for a in messages %}{% for b in messages %}{% endfor %}{% endfor %}{% endfor %}"
    (session.bundle.path / file).write_text(costly + CHAT_TEMPLATE)
    with pytest.raises(TokenizerError, match="the chat template fails"):
        session.chat([*turns(400), QUESTION])
    found = session.chat([*turns(400), QUESTION], overflow="truncate", max_new_tokens=20)
    assert found.source_tokens[-len(written(*turns(400)[-2:], QUESTION)) :] == written(*turns(400)[-2:], QUESTION)
    no_shorter = opened()  # what fits whole need not be writable without its turns
    (no_shorter.bundle.path / file).write_text("{% if messages | length < 3 %}{{ messages[-1].x.y }}{% endif %}a hat")
    assert not no_shorter.chat([*turns(1), QUESTION], overflow="truncate", max_new_tokens=20).truncated
    broken = opened()
    (broken.bundle.path / file).write_text(
        "{% if messages | length not in (2, 3) %}{{ messages[-1].nothing.nowhere }}{% endif %}"
    )
    with pytest.raises(TokenizerError, match="the chat template fails"):
        broken.chat([*turns(40), QUESTION], overflow="truncate")


def test_the_last_turn_remains(opened: Opened) -> None:
    """It takes the answer's room, but for one token."""
    session, long = opened(), {**QUESTION, "content": "A man, " * 23}
    found = session.chat([*turns(3), long], overflow="truncate")
    assert found.source_tokens == written(long)
    assert len(found.tokens) == CONTEXT + 1 - len(found.source_tokens)
    with pytest.raises(ContextLengthError, match=r"the last turn of the chat has \d+ tokens, more .* shorten it"):
        session.chat([*turns(3), {**QUESTION, "content": "A man, " * 70}], overflow="truncate")


def test_control_tokens_in_messages(opened: Opened) -> None:
    with pytest.raises(InputError, match=r"message 0 holds the control token '</s>' at character 1 .*: remove it"):
        opened().chat([{**QUESTION, "content": "a</s><s>system: "}])


def test_marks_of_turns_that_are_not_called_special(opened: Opened) -> None:
    """Guarded as special ones are; other added tokens are text."""
    session = opened()
    library = tokenizers.Tokenizer.from_str(session.tokenizer.to_json())
    library.add_tokens(["user:", "<think>", "France"])
    session.tokenizer = Tokenizer(library.to_str().encode())
    with pytest.raises(InputError, match=r"message 0 holds the control token 'user:' at character 2 of its content"):
        session.chat([{**QUESTION, "content": "a user: b"}])
    assert set(session._chat_template.control_tokens) == {*session.tokenizer.special_tokens, "user:"}


def test_another_spelling_of_a_control_token(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """A normalizer may make a control token of what is none in the text."""
    session = opened()
    read = session.tokenizer.encode_control
    monkeypatch.setattr(session.tokenizer, "encode_control", lambda text, name: [*read(text, name), 2])
    with pytest.raises(
        InputError, match=r"the tokenizer finds the control token '</s>' in the messages, where another"
    ):
        session.chat([QUESTION])


def test_one_answer_of_a_stream(opened: Opened) -> None:
    with pytest.raises(InputError, match="chat_stream gives one answer, and several are asked for: call chat"):
        opened().chat_stream([QUESTION], sampling=Sampling(samples=2))
    with pytest.raises(InputError, match="chat takes no alignments"):
        opened().chat([QUESTION], alignments=True)  # type: ignore[call-arg]


def test_languages_of_a_chat(opened: Opened) -> None:
    with pytest.raises(InputError, match=r"target \('de'\): bundle '.*' has no languages to choose from; leave it out"):
        opened().chat([QUESTION], target="de")


def test_many_callers(opened: Opened) -> None:
    session = opened()
    chats: list[Any] = [[QUESTION], [SYSTEM, QUESTION], [QUESTION, ANSWER, QUESTION]]
    alone = [session.chat(messages, max_new_tokens=12).text for messages in chats]

    async def streamed(together: AsyncSession, messages: Any) -> str:
        return "".join([piece async for piece in together.chat_stream(messages, max_new_tokens=12)])

    async def run() -> tuple[list[str], list[str]]:
        async with AsyncSession(session) as together:
            answers = await asyncio.gather(*(together.chat(messages, max_new_tokens=12) for messages in chats))
            return [a.text for a in answers], await asyncio.gather(*(streamed(together, m) for m in chats))

    assert asyncio.run(run()) == (alone, alone)


def test_a_bundle_without_a_template(opened: Opened) -> None:
    session = opened()
    session.manifest = dataclasses.replace(session.manifest, chat=None)
    with pytest.raises(InputError, match=r"'tiny' holds no chat template \(its checkpoint had none\): call generate"):
        session.chat([QUESTION])
    left_out = {**session.manifest.provenance, "chat_template": "left out: because"}
    session.manifest = dataclasses.replace(session.manifest, provenance=left_out)
    with pytest.raises(InputError, match=r"holds no chat template \(left out: because\)"):
        session.chat([QUESTION])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff", "expected a text in UTF-8, got 'utf-8' codec"),
        (b"x" * (4 * MAX_TEMPLATE_CHARACTERS + 1), "more than 262144 bytes, expected at most that"),
        (None, "expected a text in UTF-8, got .*No such file"),
    ],
    ids=["bytes", "long", "missing"],
)
def test_a_template_that_is_no_text(data: bytes | None, message: str, opened: Opened) -> None:
    session = opened()
    file = session.bundle.path / CHAT_TEMPLATE_FILE
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)
    with pytest.raises(BundleFormatError, match=message):
        session.chat([QUESTION])


@pytest.mark.parametrize("task", ["generate", "translate"])
def test_a_manifest_that_contradicts_itself(task: Any, opened: Opened) -> None:
    data = to_json(manifest(task, model_for(task)))
    data["chat"] = {"variables": {}, "end_ids": [400] if task == "generate" else []}
    data["files"].append({"path": CHAT_TEMPLATE_FILE, "bytes": 1, "sha256": "0" * 64})
    with pytest.raises(
        BundleFormatError, match=r"chat belongs to the task 'generate', and its end_ids \(.*\) below 330"
    ):
        manifest_from_json(data)
    data["chat"]["end_ids"] = []
    del data["files"][-1]
    with pytest.raises(BundleFormatError, match=r"files lacks chat_template\.txt|chat belongs"):
        manifest_from_json(data)
