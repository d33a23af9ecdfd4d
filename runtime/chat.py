"""Chat templates: messages to the text that a model was taught to answer.

A template is a program (Jinja) that came with a checkpoint: untrusted input. It runs in a sandbox with a budget, see
:mod:`.chat_sandbox`. Jinja is an extra: ``pip install 'edgewise[chat]'``.

What is rendered is text, in which control tokens are spelled out; ``session.chat`` reads them as such, while
``session.generate`` takes them for plain characters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import InputError, MissingExtraError, TokenizerError
from .bundle.chat import MAX_TEMPLATE_CHARACTERS

if TYPE_CHECKING:
    from .chat_sandbox import Sandbox
    from .tokenizer import Tokenizer

MAX_CHAT_CHARACTERS = 1_000_000
MAX_MESSAGES = 10_000
_BLANKS = range(0xE000, 0x110000)  # private use, characters that no template looks for, comes first

Message = Mapping[str, str]
_QUESTION = {"role": "user", "content": "What is the capital of France?"}
_ANSWER = {"role": "assistant", "content": "Paris."}
_SYSTEM = {"role": "system", "content": "You answer."}


class ChatTemplate:
    """A template, checked. Safe to share between threads.

    ``control_tokens`` are refused inside messages: in the rendered text they would speak for the template. Neither may
    messages make them out of pieces: the text must hold no more of any than with each content's characters blanked.
    ``variables`` are names that the template may use beside ``messages``, such as ``bos_token``.

    Raises:
        InputError: ``control_tokens`` is no collection of texts, or holds an empty one.
        MissingExtraError: Jinja is not installed.
        TokenizerError: the template is too long, or is none.
    """

    def __init__(
        self, source: str, *, control_tokens: Collection[str] = (), variables: Mapping[str, str] | None = None
    ) -> None:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise TokenizerError(
                f"the chat template has {len(source)} characters, expected at most {MAX_TEMPLATE_CHARACTERS}: "
                "use the checkpoint's own template"
            )
        self._source = source
        self._control_tokens = _tokens(control_tokens)
        self.control_tokens = tuple(self._control_tokens)
        used = set("".join(self._control_tokens))
        self._blank = next(chr(code) for code in _BLANKS if chr(code) not in used)
        self._variables = dict(variables or {})
        self._sandbox()

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The text of ``messages``, each with ``role`` and ``content``; with ``add_generation_prompt`` the beginning
        of an answer follows. Its control tokens are meant as such: the tokenizer has to read them.

        Raises:
            InputError: the messages are malformed, too long, hold a control token or make one in the text, or the
                template refuses them, blanked or not.
            TokenizerError: the template fails, takes too long or writes too much.
        """
        checked = self.checked(messages)
        if fault := size_fault(checked):
            raise InputError(fault)
        text = self._rendered(checked, add_generation_prompt)
        found = {token: text.count(token) for token in self._control_tokens if token in text}
        if found:
            blanked = self._rendered([self._blanked(message) for message in checked], add_generation_prompt)
            for token, times in found.items():
                if times > (expected := blanked.count(token)):
                    raise InputError(
                        f"the rendered messages hold the control token {token!r} {times} times, expected {expected}, "
                        "as with blanked contents: messages make it out of pieces, remove those"
                    )
        return text

    def checked(self, messages: object) -> list[dict[str, str]]:
        """``messages``, of whatever size.

        Raises:
            InputError: they are malformed, or hold a control token.
        """
        return [self._checked(index, message) for index, message in enumerate(_listed(messages))]

    def frame(self) -> str:
        """What the template writes around messages, and some messages; nothing where it refuses those.

        Raises:
            TokenizerError: the template fails.
        """
        try:
            text = self.render([_QUESTION, _ANSWER, _QUESTION])
        except InputError:
            return ""
        try:
            return text + self.render([_SYSTEM, _QUESTION])
        except (InputError, TokenizerError):  # some templates know no system message
            return text

    def turn_end(self) -> str | None:
        """The control token that the template puts behind an answer, white space between left out; ``None`` for none.

        Raises:
            TokenizerError: the template fails.
        """
        try:
            text = self.render([_QUESTION, _ANSWER], add_generation_prompt=False)
        except InputError:  # it wants other messages: nothing is known
            return None
        _, answer, after = text.rpartition(_ANSWER["content"])
        after = after.lstrip() if answer else ""
        found = [token for token in self._control_tokens if after.startswith(token)]
        return max(found, key=len, default=None)

    def _rendered(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        variables = {
            "tools": None,
            "documents": None,
            **self._variables,
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
        }
        return self._sandbox().render(variables, MAX_CHAT_CHARACTERS)

    def _blanked(self, message: dict[str, str]) -> dict[str, str]:
        """As long and with the same spaces, as templates strip and split; a role, which they compare, keeps its words.
        A template may put a role between the ends of a control token."""

        def kept(key: str, character: str) -> bool:
            return character.isspace() or (key == "role" and (character.isalnum() or character in "_-"))

        return {key: "".join([c if kept(key, c) else self._blank for c in value]) for key, value in message.items()}

    def _sandbox(self) -> Sandbox:
        """A new one for each use: it counts what it spends."""
        try:
            from .chat_sandbox import Sandbox
        except ImportError as error:
            raise MissingExtraError("chat templates need Jinja: pip install 'edgewise[chat]'") from error
        return Sandbox(self._source)

    def _checked(self, index: int, message: object) -> dict[str, str]:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise InputError(f"message {index} is {str(message)[:60]!r}, expected a mapping with role and content")
        for key, value in message.items():
            if not (isinstance(key, str) and isinstance(value, str)):
                raise InputError(f"message {index} has {key!r} of {type(value).__name__}, expected strings only")
            for token in self._control_tokens:
                if token in value:
                    raise InputError(
                        f"message {index} holds the control token {token!r} at character {value.index(token)} of its "
                        f"{key}, where it would be taken for the template's own: remove it"
                    )
        return dict(message)


def template_for(source: str, tokenizer: Tokenizer, variables: Mapping[str, str]) -> ChatTemplate:
    """A template whose control tokens are those of a tokenizer: special ones, and other added tokens that the template
    writes around messages, as some files do not call the marks of turns special.

    Raises:
        MissingExtraError, TokenizerError: as :class:`ChatTemplate`, or the template fails.
    """
    special = tokenizer.special_tokens
    frame = ChatTemplate(source, control_tokens=special, variables=variables).frame()
    written = [message["content"] for message in (_QUESTION, _ANSWER, _SYSTEM)]
    marks = [
        token
        for token in tokenizer.added_tokens
        if token in frame and token.strip() and not any(token in text for text in written)
    ]
    return ChatTemplate(source, control_tokens={*special, *marks}, variables=variables)


def _tokens(tokens: object) -> list[str]:
    if isinstance(tokens, str) or not isinstance(tokens, Collection):
        raise InputError(f"control_tokens is {type(tokens).__name__}, expected a list of texts")
    for token in tokens:
        if not (isinstance(token, str) and token):
            raise InputError(f"control_tokens holds {token!r}, expected texts of a character at least: leave it out")
    return sorted(tokens)


def _listed(messages: object) -> Sequence[object]:
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise InputError(f"messages are {type(messages).__name__}, expected a list of them")
    if not messages:
        raise InputError(f"there are 0 messages, expected 1 to {MAX_MESSAGES}")
    return messages


def size_fault(messages: Sequence[Message]) -> str:
    """What is wrong with the size of well-formed ``messages``; nothing where a template may see them."""
    if len(messages) > MAX_MESSAGES:
        return f"there are {len(messages)} messages, expected 1 to {MAX_MESSAGES}"
    total = sum(len(text) for message in messages for text in message.values())
    if total > MAX_CHAT_CHARACTERS:
        return f"the messages have {total} characters, expected at most {MAX_CHAT_CHARACTERS}: send fewer"
    return ""
