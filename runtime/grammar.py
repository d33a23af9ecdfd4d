"""Grammars that a result must obey, through the ``llguidance`` library, an extra.

The library says which tokens may follow; a :class:`GrammarRule` forbids the others, as every other rule does, so
grammars work in greedy search, in beam search and in sampling. The end token may come where the text is complete.
Where a grammar leaves one text alone to go on with, llguidance asks for the tokens that the tokenizer itself would
choose for it; where it leaves a choice, every token that spells one is allowed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import EngineError, InputError, MissingExtraError, TokenizerError
from .engine import Floats, Mask
from .options import Grammar, shown
from .panics import guarded
from .tokenizer import Tokenizer


class GrammarCompiler:
    """Rules for grammars over one tokenizer, which takes a while to prepare and can be shared between threads.

    Raises:
        MissingExtraError: llguidance is not installed.
        TokenizerError: llguidance cannot read the tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_id: int) -> None:
        self._library, self._size, self._end_id = _library(), vocab_size, end_id
        self._last: tuple[str, _State] | None = None
        file = tokenizer.to_json()
        self._tokenizer = guarded(
            lambda: self._library.LLTokenizer(file, n_vocab=vocab_size, eos_token=end_id),
            lambda error: TokenizerError(f"llguidance cannot read this bundle's tokenizer ({_reason(error)})"),
        )

    def compile(self, grammar: Grammar) -> GrammarRule:
        """A rule for one text.

        Raises:
            InputError: llguidance refuses the grammar.
            EngineError: llguidance fails at the grammar's beginning.
        """
        form, value = next((name, value) for name, value in vars(grammar).items() if value is not None)

        def refused(error: BaseException) -> InputError:
            return InputError(f"llguidance refuses the {form} {shown(value)}: {_reason(error)}")

        source = guarded(lambda: self._source(grammar), refused)
        last = self._last  # the texts of a call share their grammar; a schema may change between calls
        if last is None or last[0] != source:
            parser = guarded(lambda: self._begin(source), refused)
            last = self._last = (source, _State(parser, self._size, self._end_id))
        return GrammarRule(last[1])

    def _begin(self, source: str) -> Any:
        # Fast-forwarding would answer one token with several.
        parser = self._library.LLInterpreter(
            self._tokenizer, source, enable_backtrack=False, enable_ff_tokens=False, log_level=0
        )
        parser.start_without_prompt()
        return parser

    def _source(self, grammar: Grammar) -> str:
        """The grammar as the library wants it; a text may begin with the space that begins its first word."""
        matcher = self._library.LLMatcher
        if grammar.regex is not None:
            # A terminal of its own: the pattern is read by itself, so no bracket or comment in it reaches the space.
            pattern = self._library.regex_to_lark(grammar.regex, "")
            return str(matcher.grammar_from_lark(f'start: TEXT\nTEXT: " "? PATTERN\nPATTERN: /{pattern}/\n'))
        if grammar.json_schema is not None:
            # Where white space is free, a model may write it without end.
            schema = {"x-guidance": {"whitespace_flexible": False}, **grammar.json_schema}
            return str(matcher.grammar_from_lark(f'start: " "? value\nvalue: %json {json.dumps(schema)}\n'))
        return str(matcher.grammar_from_lark(grammar.lark))


class _State:
    """The library's parser after some tokens, and the tokens that may follow, ``allowed (V,)``.

    Raises:
        EngineError: the library failed, or gave up.
    """

    def __init__(self, parser: Any, vocab_size: int, end_id: int) -> None:
        self._parser, self._end_id = parser, end_id
        mask, _ = guarded(parser.compute_mask, _gave_up)  # a byte a token
        self.allowed: Mask = np.zeros(vocab_size, np.bool_)
        if mask is not None:
            self.allowed[:] = np.frombuffer(mask, np.uint8)[:vocab_size] > 0
        elif parser.stop_reason() in ("NoExtension", "NoExtensionBias", "EndOfSentence"):
            # The library also stops where nothing can complete the text: then not even the end may come.
            self.allowed[end_id] = parser.is_accepting()
        else:
            raise _gave_up(parser.stop_reason())

    def after(self, token: int) -> _State:
        """The state one token further; this one stays as it is."""
        parser = guarded(self._parser.deep_copy, _gave_up)
        guarded(lambda: parser.commit_token(token), _gave_up)
        return _State(parser, len(self.allowed), self._end_id)


class GrammarRule:
    """See :class:`~edgewise.runtime.rules.Rule`. Belongs to one text: it remembers where its sequences stand."""

    def __init__(self, start: _State) -> None:
        self._start = start
        self._states: dict[tuple[int, ...], _State] = {}

    def apply(self, logits: Floats, read: Sequence[int], new: Sequence[int]) -> None:
        """See :class:`~edgewise.runtime.rules.Rule`."""
        logits[~self._state(tuple(new)).allowed] = -np.inf

    def _state(self, new: tuple[int, ...]) -> _State:
        """The state after ``new``, reached from that of one token less, where that is still remembered."""
        if new not in self._states:
            before = self._states.get(new[:-1])
            state, left = (self._start, new) if before is None else (before, new[-1:])
            for token in left:
                if not state.allowed[token]:
                    raise InputError(f"the prefix does not obey the grammar at token {token}: change one of them")
                state = state.after(token)
            # The sequences of a text are equally long, so shorter ones are not asked for again.
            self._states = {tokens: s for tokens, s in self._states.items() if len(tokens) >= len(new) - 1}
            self._states[new] = state
        return self._states[new]


def _reason(error: BaseException) -> str:
    """What the library says, without the dump of its state."""
    return " ".join(str(error).partition("<state>")[0].split())[:500] or type(error).__name__


def _gave_up(why: BaseException | str) -> EngineError:
    reason = why if isinstance(why, str) else _reason(why)
    return EngineError(f"llguidance gave up on the grammar ({reason}): simplify it")


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise MissingExtraError(
            "llguidance is not installed, and grammars need it: pip install 'edgewise[grammar]'"
        ) from error
    return llguidance
