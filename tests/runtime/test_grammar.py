"""Grammars against all that a small language can be, and what searches and draws make of them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from edgewise import Grammar, Sampling
from edgewise.errors import EngineError, InputError, MissingExtraError, TokenizerError
from edgewise.models.decode_options import Decoder, Options, log_softmax
from edgewise.runtime.grammar import GrammarCompiler
from edgewise.runtime.session import Session
from edgewise.runtime.tokenizer import Tokenizer

from ..tiny import END, START
from .test_session import engine_of
from .tiny_session import VOCAB_SIZE, session_for, tokenizer, tokenizer_json

REGEX = "[ad]{1,2}"
"""Never one text alone to go on with, where llguidance would choose its tokens by itself."""
WORDS = [*"ad", *(a + b for a in "ad" for b in "ad")]
LANGUAGE = {word.encode() for word in WORDS} | {b" " + word.encode() for word in WORDS}
ANIMALS = "A (man|hat)|Two dogs|dogs?|do|grass\\."
SPOKEN = {"A man", "A hat", "Two dogs", "dogs", "dog", "do", "grass."}


def pieces() -> list[bytes | None]:
    """The bytes of every token, ``None`` for special ones."""
    subject = tokenizer()
    found: list[bytes | None] = []
    for token in range(VOCAB_SIZE):
        piece = subject.piece(token)
        byte = re.fullmatch("<0x(..)>", piece)
        text = bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()
        found.append(None if token in subject.special_ids else text)
    return found


PIECES = pieces()


class NaiveGrammar:
    """Log-probabilities of a session's model where only beginnings of the language may be written."""

    def __init__(self, session: Session, text: str) -> None:
        source = (
            [*tokenizer().encode(text), END]
            if session.manifest.task == "translate"
            else [START, *tokenizer().encode(text)]
        )
        self.decoder = Decoder(engine_of(session).model, source, Options())

    def log_probs(self, tokens: tuple[int, ...]) -> dict[int, float]:
        written = b"".join(PIECES[t] or b"" for t in tokens)
        allowed = {
            token
            for token, piece in enumerate(PIECES)
            if piece and any(w.startswith(written + piece) for w in LANGUAGE)
        } | ({END} if written in LANGUAGE else set())
        raw = self.decoder.logits(tokens)
        scores = log_softmax([z if i in allowed else -float("inf") for i, z in enumerate(raw)])
        return {token: scores[token] for token in allowed}

    def everything(self, tokens: tuple[int, ...] = (), score: float = 0.0) -> Iterator[tuple[tuple[int, ...], float]]:
        """Every way to write a text of the language, with its score."""
        for token, log_prob in self.log_probs(tokens).items():
            if token == END:
                yield (*tokens, token), score + log_prob
            else:
                yield from self.everything((*tokens, token), score + log_prob)

    def greedy(self) -> tuple[int, ...]:
        tokens: tuple[int, ...] = ()
        while tokens[-1:] != (END,):
            found = self.log_probs(tokens)
            tokens += (max(sorted(found), key=found.__getitem__),)
        return tokens


def call(session: Session, text: str, **arguments: Any) -> Any:
    return (session.translate if session.manifest.task == "translate" else session.generate)(text, **arguments)


@pytest.mark.parametrize("task", ["translate", "generate"])
@pytest.mark.parametrize("seed", range(3))
def test_greedy_takes_the_most_probable_that_the_grammar_allows(task: Any, seed: int) -> None:
    session = session_for(task, seed)
    found = call(session, "A man is", grammar=Grammar(regex=REGEX), max_new_tokens=20)
    assert found.tokens == NaiveGrammar(session, "A man is").greedy()
    assert found.text.strip().encode() in LANGUAGE
    assert found.hypotheses[0].finish_reason == "end"


@pytest.mark.parametrize("seed", range(2))
def test_a_wide_beam_finds_the_best_of_all_that_the_grammar_allows(seed: int) -> None:
    session = session_for("translate", seed)
    every = dict(NaiveGrammar(session, "Two dogs").everything())
    best = sorted(every, key=lambda s: -every[s])[:5]
    found = session.translate(
        "Two dogs", grammar=Grammar(regex=REGEX), beam_size=160, n_best=5, length_penalty=0.0, max_new_tokens=20
    )
    assert len(every) > 30
    assert [h.tokens for h in found.hypotheses] == best
    assert [h.score for h in found.hypotheses] == pytest.approx([every[s] for s in best], abs=1e-4)


def test_samples_obey_and_vary() -> None:
    session = session_for("translate")
    sampling = Sampling(seed=1, samples=30, temperature=2.0)
    found = session.translate("A man", grammar=Grammar(regex=ANIMALS), sampling=sampling, max_new_tokens=20)
    texts = {h.text for h in found.hypotheses}
    assert texts <= SPOKEN
    assert len(texts) > 2


@pytest.mark.parametrize("arguments", [{}, {"beam_size": 3}, {"sampling": Sampling(seed=3)}], ids=str)
def test_json_obeys_its_schema(arguments: dict[str, Any]) -> None:
    schema = {
        "type": "object",
        "properties": {"animal": {"enum": ["dog", "man"]}, "count": {"enum": [1, 2, 3]}, "big": {"type": "boolean"}},
        "required": ["animal", "count", "big"],
        "additionalProperties": False,
    }
    session = session_for("translate", end_bias=-50.0)
    found = session.translate("Two dogs", grammar=Grammar(json_schema=schema), max_new_tokens=60, **arguments)
    value = json.loads(found.text)
    assert value["animal"] in ("dog", "man")
    assert value["count"] in (1, 2, 3)
    assert isinstance(value["big"], bool)
    assert set(value) == {"animal", "count", "big"}


def test_a_lark_grammar_and_other_rules_beside_it() -> None:
    session = session_for("translate")
    grammar = Grammar(lark='start: " "? animal\nanimal: "dogs" | "man"\n')
    first = session.translate("A man", grammar=grammar).text
    other = session.translate("A man", grammar=grammar, suppress=[[t] for t in tokenizer().encode(first)]).text
    assert {first, other} <= {"dogs", "man"}
    assert session.translate("A man", grammar=grammar, beam_size=2, include=["man"]).text == "man"
    assert "".join(session.stream("A man", grammar=grammar)) == first
    assert session.translate(["A man", "Two"], grammar=grammar)[0].text == first


def test_a_prefix_has_to_obey() -> None:
    session, grammar = session_for("translate"), Grammar(regex=ANIMALS)
    assert session.translate("A man", grammar=grammar, prefix="Two").text == "Two dogs"
    with pytest.raises(InputError, match=r"the prefix does not obey the grammar at token \d+: change one of them"):
        session.translate("A man", grammar=grammar, prefix="Ein")


def test_what_no_grammar_is() -> None:
    session = session_for("translate")
    with pytest.raises(InputError, match=r"llguidance refuses the regex '\(': .*unclosed group"):
        session.translate("A man", grammar=Grammar(regex="("))
    with pytest.raises(InputError, match=r"llguidance refuses the json_schema \{'type': 5\}: "):
        session.translate("A man", grammar=Grammar(json_schema={"type": 5}))
    with pytest.raises(InputError, match=r"llguidance refuses the lark 'start' *: "):
        session.translate("A man", grammar=Grammar(lark="start"))
    with pytest.raises(InputError, match=r"refuses the json_schema \{'enum': \[<object .*not JSON serializable"):
        session.translate("A man", grammar=Grammar(json_schema={"enum": [object()]}))
    with pytest.raises(InputError, match=r"grammar \('a\+'\) must be a Grammar, or None for any text"):
        session.translate("A man", grammar="a+")  # type: ignore[call-overload]
    with pytest.raises(InputError, match="a Grammar takes one of regex, json_schema and lark, these are 0"):
        Grammar()
    with pytest.raises(InputError, match="these are 2"):
        Grammar(regex="a", lark="b")
    with pytest.raises(InputError, match=r"regex \(5\) must be a str"):
        Grammar(regex=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "why"),
    [("man)|(?:dog", "unopened group"), ("a^b", "lookarounds not supported"), ("\\bman", "lookarounds not supported")],
    ids=["bracket", "anchor", "word boundary"],
)
def test_a_pattern_is_read_by_itself(pattern: str, why: str) -> None:
    with pytest.raises(InputError, match=f"llguidance refuses the regex .*{why}"):
        session_for("translate").translate("A man", grammar=Grammar(regex=pattern))


@pytest.mark.parametrize("pattern", ["(?x) m a n  # (", "^man$", "(?x)man", "m/n|ma\n|man"])
def test_patterns_that_end_in_a_comment_or_an_anchor_and_patterns_with_slashes(pattern: str) -> None:
    found = session_for("translate").translate("A man", grammar=Grammar(regex=pattern))
    assert found.hypotheses[0].finish_reason == "end"
    assert re.fullmatch(pattern, found.text)


def test_a_text_that_nothing_can_complete_may_not_end() -> None:
    """The class has no character, so no text matches; llguidance stops there as it does after a whole text."""
    with pytest.raises(InputError, match="the options leave no token that may follow after 0 new ones"):
        session_for("translate").translate("A man", grammar=Grammar(regex="a[^\\s\\S]"))


def test_schemas_that_are_equal_in_python_alone_and_a_schema_that_changes() -> None:
    session = session_for("translate")
    assert {"const": 1} == {"const": True}
    assert session.translate("A man", grammar=Grammar(json_schema={"const": 1})).text == "1"
    assert session.translate("A man", grammar=Grammar(json_schema={"const": True})).text == "true"
    schema = {"const": "dog"}
    grammar = Grammar(json_schema=schema)
    assert session.translate("A man", grammar=grammar).text == '"dog"'
    schema["const"] = "man"
    assert session.translate("A man", grammar=grammar).text == '"man"'


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"not": schema}
    return schema


def test_schemas_nested_too_deeply_are_refused_in_few_words() -> None:
    with pytest.raises(InputError, match=r"refuses the json_schema \{'not': .*: maximum recursion depth") as caught:
        session_for("translate").translate("A man", grammar=Grammar(json_schema=nested(5000)))
    assert len(str(caught.value)) < 800
    with pytest.raises(InputError, match=r"grammar \(\{'not': .*\) must be a Grammar") as caught:
        session_for("translate").translate("A man", grammar=nested(5000))  # type: ignore[call-overload]
    assert len(str(caught.value)) < 800
    with pytest.raises(InputError, match=r"regex \(\{'not': .*\) must be a str"):
        Grammar(regex=nested(5000))  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        session_for("translate").translate("A man", grammar=Grammar(regex="(" + "a" * 100_000))
    assert len(str(caught.value)) < 800


def test_without_the_library_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgewise\[grammar\]'"):
        session_for("translate").translate("A man", grammar=Grammar(regex="a"))


def test_a_tokenizer_that_the_library_cannot_read() -> None:
    subject = tokenizer()
    subject.to_json = lambda: "{}"  # type: ignore[method-assign]
    with pytest.raises(TokenizerError, match="llguidance cannot read this bundle's tokenizer"):
        GrammarCompiler(subject, VOCAB_SIZE, END)


@pytest.mark.usefixtures("capfd")
def test_a_tokenizer_that_makes_the_library_panic() -> None:
    """Its PanicException derives from BaseException, and would pass every ``except Exception``."""
    data = json.loads(tokenizer_json())
    vocabulary = data["model"]["vocab"]
    vocabulary["<0xZZ>"] = vocabulary.pop("<0x41>")
    with pytest.raises(TokenizerError, match=r"llguidance cannot read this bundle's tokenizer .*ParseIntError"):
        GrammarCompiler(Tokenizer(json.dumps(data).encode()), VOCAB_SIZE, END)


def test_a_grammar_that_the_library_fails_at_between_tokens() -> None:
    grammar = Grammar(lark='start: " "? "Ein" x\nx: "b" x\n')  # never complete
    with pytest.raises(EngineError, match=r"gave up on the grammar \(parser error: Too many items .*\): simplify it"):
        session_for("translate").translate("A man", grammar=grammar)


PanicException = type("PanicException", (BaseException,), {})


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("start_without_prompt", "llguidance refuses the regex 'a': broken"),
        ("compute_mask", r"llguidance gave up on the grammar \(broken\): simplify it"),
        ("deep_copy", r"llguidance gave up on the grammar \(broken\): simplify it"),
        ("commit_token", r"llguidance gave up on the grammar \(broken\): simplify it"),
    ],
)
@pytest.mark.parametrize("thrown", [ValueError, PanicException])
def test_whatever_the_parser_throws_is_typed(
    monkeypatch: pytest.MonkeyPatch, name: str, wanted: str, thrown: type[BaseException]
) -> None:
    def throw(*_: Any) -> None:
        raise thrown("broken\n<state>\nmuch more\n</state>")

    class Breaking:
        def __init__(self, *_: Any, **__: Any) -> None:
            setattr(self, name, throw)

        def start_without_prompt(self) -> None:
            pass

        def compute_mask(self) -> tuple[bytes, str]:
            return b"\1" * VOCAB_SIZE, ""

        def deep_copy(self) -> Breaking:
            return Breaking()

    monkeypatch.setattr("llguidance.LLInterpreter", Breaking)
    with pytest.raises((InputError, EngineError), match=wanted + "$"):
        session_for("translate", end_bias=-50.0).translate("A man", grammar=Grammar(regex="a"))


def test_an_interrupt_stays_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llguidance.LLInterpreter", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session_for("translate").translate("A man", grammar=Grammar(regex="a"))


def test_a_grammar_that_the_library_gives_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class TooComplex:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def start_without_prompt(self) -> None:
            pass

        def compute_mask(self) -> tuple[None, str]:
            return None, ""

        def stop_reason(self) -> str:
            return "ParserTooComplex"

    monkeypatch.setattr("llguidance.LLInterpreter", TooComplex)
    with pytest.raises(EngineError, match=r"llguidance gave up on the grammar \(ParserTooComplex\): simplify it"):
        session_for("translate").translate("A man", grammar=Grammar(regex="a"))
