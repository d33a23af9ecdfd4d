"""What a session refuses, by name: other tasks, options, texts that are none, and lengths beyond the context."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgewise.errors import ContextLengthError, InputError
from edgewise.runtime.session import Session

from ..tiny import END, START
from .test_session import FITTING, METHODS, TASKS
from .tiny_session import session_for, tokenizer

LONG = "man " * 100


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_another_task_is_refused(method: str, task: str) -> None:
    session = session_for(task)  # type: ignore[arg-type]
    if method in FITTING[task]:
        METHODS[method](session)
        return
    with pytest.raises(
        InputError, match=f"{method} needs a bundle made for .*; 'tiny' is made for {task}: call {task}"
    ):
        METHODS[method](session)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beam_size": 0}, r"beam_size \(0\) must be"),
        ({"beam_size": 166}, r"beam_size \(166\) must be at most 165, half of the vocabulary"),
        ({"n_best": 2}, r"n_best \(2\) cannot exceed beam_size \(1\)"),
        ({"length_penalty": -1.0}, r"length_penalty \(-1.0\) must be"),
        ({"max_new_tokens": 0}, r"max_new_tokens \(0\) must be"),
        ({"batch_size": 0}, r"batch_size \(0\) must be an integer of at least 1"),
        ({"overflow": "drop"}, r"overflow \('drop'\) must be"),
        ({"max_batch_tokens": 0}, r"max_batch_tokens \(0\) must be an integer of at least 1"),
        ({"progress": 5}, r"progress \(5\) must be a function of \(done, texts\), or None"),
    ],
    ids=str,
)
def test_options_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        session_for("translate").translate("A man", **arguments)


@pytest.mark.parametrize(
    ("task", "method", "arguments"),
    [
        ("translate", "translate", {"beams": 3}),
        ("translate", "translate_iter", {"beams": 3}),
        ("translate", "stream", {"batch_size": 3, "max_batch_tokens": 8, "progress": print}),
        ("generate", "generate", {"top": 3}),
        ("generate", "generate_iter", {"top": 3}),
        ("classify", "classify", {"beams": 3}),
        ("classify", "encode", {"beams": 3, "prefix": "A"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_method_names_arguments_that_it_lacks(task: Any, method: str, arguments: dict[str, Any]) -> None:
    session = session_for(task)
    with pytest.raises(InputError, match=f"^{method} takes no {', '.join(arguments)}, it takes .*overflow.*: leave it"):
        getattr(session, method)("A man", **arguments)


def test_embedding_names_arguments_that_it_lacks() -> None:
    base = session_for("fill_mask")
    spec = replace(base.manifest.model, head="embedding", pooling="mean")
    bundle = replace(base.bundle, manifest=replace(base.manifest, task="embed", model=spec))
    session: Any = Session(bundle, base.variant, base.engine, base.tokenizer)
    with pytest.raises(InputError, match=r"^embed takes no top, it takes batch_size, overflow: leave it out"):
        session.embed("A man", top=3)
    with pytest.raises(InputError, match=r"^similarity takes no top, it takes batch_size, overflow: leave it out"):
        session.similarity("A man", "A man", top=3)


def test_options_of_encoders_are_checked() -> None:
    with pytest.raises(InputError, match=r"overflow \('drop'\)"):
        session_for("classify").classify("A man", overflow="drop")  # type: ignore[call-overload]
    with pytest.raises(InputError, match=r"top \(0\) must be an integer of at least 1"):
        session_for("fill_mask").fill_mask("A <mask>", top=0)


@pytest.mark.parametrize("bad", ["", " ", "a\0", "\udc80", 3], ids=repr)
def test_a_bad_text_is_named_by_its_place(bad: Any) -> None:
    with pytest.raises(InputError, match=r"^text 1 "):
        session_for("translate").translate(["A man", bad])
    with pytest.raises(InputError, match=r"^target 1 "):
        session_for("translate").score(["A man", "A"], ["A", bad])


@pytest.mark.parametrize("bad", [3, None, {"A man"}, b"A man"], ids=repr)
def test_what_is_no_list_of_texts(bad: Any) -> None:
    with pytest.raises(InputError, match=r"texts is .*, expected a string or a list of strings"):
        session_for("translate").translate(bad)


LONG = "man " * 100


@pytest.mark.parametrize("task", TASKS)
def test_a_text_beyond_the_context_is_refused(task: str) -> None:
    session = session_for(task)  # type: ignore[arg-type]
    calls = {
        "translate": lambda: session.translate(["A", LONG]),
        "generate": lambda: session.generate(["A", LONG]),
        "fill_mask": lambda: session.encode(["A", LONG]),
        "classify": lambda: session.classify(["A", LONG]),
    }
    with pytest.raises(ContextLengthError, match=r"text 1 has \d+ tokens, more than the 64 .* overflow='truncate'"):
        calls[task]()


def test_a_text_beyond_the_context_can_lose_its_end() -> None:
    session = session_for("translate")
    result = session.translate(LONG, overflow="truncate", max_new_tokens=3)
    assert result.truncated
    assert result.source_tokens == (*tokenizer().encode(LONG)[:63], END)
    assert session_for("classify").classify(LONG, overflow="truncate").truncated
    assert len(session_for("fill_mask").encode(LONG, overflow="truncate").tokens) == 64


def test_a_prompt_beyond_the_context_can_lose_its_beginning() -> None:
    session = session_for("generate")
    ids = tokenizer().encode("A " + LONG)
    result = session.generate("A " + LONG, overflow="truncate", max_new_tokens=10)
    assert result.truncated
    assert result.source_tokens == (START, *ids[-54:])
    assert len(result.tokens) <= 10
    assert session.generate("A " + LONG, overflow="truncate").source_tokens == (START, *ids[-32:])


def test_more_new_tokens_than_the_context_holds() -> None:
    session = session_for("translate", end_bias=-50.0)
    with pytest.raises(ContextLengthError, match=r"max_new_tokens \(65\) does not fit: text 0 leaves room for 64"):
        session.translate("A man", max_new_tokens=65)
    cut = session.translate("A man", max_new_tokens=65, overflow="truncate")
    assert (len(cut.tokens), cut.hypotheses[0].finish_reason) == (64, "length")
    prompt = session_for("generate", end_bias=-50.0)
    room = 64 - len(tokenizer().encode("A man"))
    with pytest.raises(ContextLengthError, match=f"leaves room for {room} in the context of 64"):
        prompt.generate("A man", max_new_tokens=room + 1)
    assert len(prompt.generate("A man", max_new_tokens=room).tokens) == room


def test_by_default_a_result_may_be_fifty_tokens_longer_than_its_source() -> None:
    session = session_for("translate", end_bias=-50.0)
    assert len(session.translate("A man").tokens) == min(len(tokenizer().encode("A man")) + 1 + 50, 64)


def test_the_default_gives_way_to_the_fewest_tokens_asked_for() -> None:
    session = session_for("translate", end_bias=50.0)
    default = len(tokenizer().encode("A")) + 1 + 50
    assert default < 60
    assert [len(r.tokens) for r in session.translate(["A"], min_new_tokens=60)] == [60]
    with pytest.raises(ContextLengthError, match=r"min_new_tokens \(65\) does not fit: text 0 leaves room for 64 in"):
        session.translate("A", min_new_tokens=65)
    assert len(session.translate("A", min_new_tokens=65, overflow="truncate").tokens) == 64
    prompt = session_for("generate", end_bias=50.0)
    found = prompt.generate(LONG, overflow="truncate", min_new_tokens=40)
    assert found.truncated
    assert len(found.tokens) >= 40


def test_a_target_beyond_the_context_cannot_be_scored() -> None:
    with pytest.raises(
        ContextLengthError, match=r"target 0 has \d+ tokens, more than the 64 this model reads: shorten"
    ):
        session_for("translate").score("A man", LONG)
