"""Text to tokens and back, over the ``tokenizers`` library, whose file and input are not trusted.

Special tokens are the runtime's business: text is only text, so a typed ``</s>`` is four characters and ends nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import tokenizers

from ..errors import InputError, TokenizerError
from .panics import guarded

MAX_FILE_BYTES = 64 << 20
MAX_TEXT_CHARACTERS = 1_000_000

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_T = TypeVar("_T")


def check_text(text: object, name: str) -> str:
    """Refuse what no tokenizer can take; ``name`` begins the message.

    Raises:
        InputError: not a string, empty or blank, too long, a NUL, or a lone surrogate.
    """
    if not isinstance(text, str):
        raise InputError(f"{name} is {type(text).__name__}, expected str")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InputError(f"{name} has {len(text)} characters, expected at most {MAX_TEXT_CHARACTERS}: split it")
    if not text.strip():
        raise InputError(f"{name} is empty, expected at least one character that is not white space")
    if "\0" in text:
        raise InputError(f"{name} holds a NUL at character {text.index(chr(0))}: remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        lone = f"U+{ord(text[error.start]):04X}"
        raise InputError(
            f"{name} holds the lone surrogate {lone} at character {error.start}, which is no text: "
            "decode the bytes it came from as UTF-8, with errors='replace' if need be"
        ) from None
    return text


@dataclass(frozen=True, kw_only=True, slots=True)
class TextToken:
    """A token and the characters ``start`` to ``end`` that it stands for, white space at their ends left out."""

    id: int
    start: int
    end: int


def _trimmed(text: str, offsets: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Some tokenizers count the space before a word as its own."""
    for start, end in offsets:
        inside = text[start:end]
        start += len(inside) - len(inside.lstrip())
        yield start, max(start, end - len(inside) + len(inside.rstrip()))


class Tokenizer:
    """A ``tokenizer.json``, stripped of every setting that belongs to the runtime. Safe to share between threads.

    Raises:
        TokenizerError: not a tokenizer this library version reads.
    """

    def __init__(self, data: bytes, name: str = "tokenizer.json") -> None:
        self._name = name
        self._library = self._guarded("read", lambda: tokenizers.Tokenizer.from_str(data.decode()))
        self._library.no_padding()
        self._library.no_truncation()
        self._library.post_processor = None
        self._library.encode_special_tokens = True
        self.vocab_size: int = self._library.get_vocab_size()
        """Tokens, added ones included."""
        added = self._library.get_added_tokens_decoder()
        self._goes_on: str | None = getattr(self._library.model, "continuing_subword_prefix", None)
        self._strips = {i: (bool(token.lstrip), bool(token.rstrip)) for i, token in added.items()}
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self.special_tokens = tuple(token.content for token in added.values() if token.special and token.content)
        """How special tokens are spelled; in a text, only :meth:`encode_control` reads them."""
        self.added_tokens = {token.content: i for i, token in added.items() if token.content}
        """Ids of tokens that are found whole: special ones by :meth:`encode_control`, the others in every text."""

    @property
    def greatest_id(self) -> int:
        """Of all tokens, added ones included; ids may have gaps, so it says more than their number. -1 without any."""
        return max(self._library.get_vocab().values(), default=-1)

    @classmethod
    def open(cls, path: Path) -> Tokenizer:
        """Read a file.

        Raises:
            TokenizerError: missing, larger than ``MAX_FILE_BYTES``, or not a tokenizer.
        """
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise TokenizerError(f"{path} cannot be read ({error.strerror}): export the bundle again") from error
        if len(data) > MAX_FILE_BYTES:
            raise TokenizerError(f"{path} has more than {MAX_FILE_BYTES} bytes, the most that edgewise reads")
        return cls(data, str(path))

    def to_json(self) -> str:
        """The tokenizer as a ``tokenizer.json``, without the settings that belong to the runtime."""
        return str(self._guarded("write", self._library.to_str))

    def encode(self, text: str, name: str = "text") -> list[int]:
        """Token ids of ``text``, no specials among them.

        Raises:
            InputError: see :func:`check_text`.
            TokenizerError: the library failed.
        """
        check_text(text, name)
        ids: list[int] = self._guarded("apply", lambda: self._library.encode(text, add_special_tokens=False).ids)
        return ids

    def encode_control(self, text: str, name: str = "text") -> list[int]:
        """Token ids of ``text``, in which a special token that is spelled out is that token.

        Raises:
            InputError, TokenizerError: as :meth:`encode`.
        """
        check_text(text, name)
        library = self._reading_control
        ids: list[int] = self._guarded("apply", lambda: library.encode(text, add_special_tokens=False).ids)
        return ids

    @cached_property
    def _reading_control(self) -> tokenizers.Tokenizer:
        """A second one: what it does with special tokens is a setting that threads share."""
        library = tokenizers.Tokenizer.from_str(self.to_json())
        library.encode_special_tokens = False
        return library

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token of ``text`` begins and ends in it, in characters; see :meth:`encode`."""
        check_text(text, "text")
        found = self._guarded("apply", lambda: self._library.encode(text, add_special_tokens=False).offsets)
        return [(int(begin), int(end)) for begin, end in found]

    def encode_part(self, text: str) -> list[int]:
        """Token ids of a part of a text that has been checked; of nothing, or of white space, there may be none."""
        ids: list[int] = self._guarded("apply", lambda: self._library.encode(text, add_special_tokens=False).ids)
        return ids

    def encode_with_offsets(self, text: str, name: str = "text") -> list[TextToken]:
        """As :meth:`encode`, with where each token stands in ``text``.

        Raises:
            InputError, TokenizerError: as :meth:`encode`.
        """
        check_text(text, name)
        found = self._guarded("apply", lambda: self._library.encode(text, add_special_tokens=False))
        return [
            TextToken(id=i, start=start, end=end)
            for i, (start, end) in zip(found.ids, _trimmed(text, found.offsets), strict=True)
        ]

    @cached_property
    def unknown_id(self) -> int | None:
        """The token for what no other stands for, if there is one."""
        model = json.loads(self.to_json())["model"]
        unknown = model.get("unk_id")
        if unknown is None and model.get("unk_token") is not None:
            unknown = self._library.token_to_id(model["unk_token"])
        return unknown if isinstance(unknown, int) else None

    def continues(self, token: int) -> bool | None:
        """Whether a token goes on with the word before it, as WordPiece marks it; ``None`` where there is no mark."""
        if not self._goes_on:
            return None
        return self.piece(token).startswith(self._goes_on)

    def strips(self, token: int | None) -> tuple[bool, bool]:
        """Whether white space before an added token, and behind it, belongs to the token."""
        return self._strips.get(-1 if token is None else token, (False, False))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``; special tokens have none, and bytes that are no UTF-8 become U+FFFD."""
        text: str = self._guarded("apply", lambda: self._library.decode(list(ids), skip_special_tokens=True))
        return text

    def piece(self, token: int) -> str:
        """The token itself, as the file spells it; empty for an id it does not have."""
        return self._library.id_to_token(token) or ""

    def is_byte(self, token: int) -> bool:
        """Whether the token is one byte of a character that the vocabulary lacks."""
        return _BYTE_TOKEN.fullmatch(self.piece(token)) is not None

    def detokenizer(self, prompt: Sequence[int] = ()) -> Detokenizer:
        """Turn tokens into text as they come; ``prompt`` is what they continue."""
        return Detokenizer(self, prompt)

    def text_after(self, prompt: Sequence[int]) -> Callable[[Sequence[int]], str]:
        """What gives the text that tokens add to that of ``prompt``, as :meth:`continuation` does, over and over."""
        shown = len(self.decode(prompt)) if prompt else 0
        return lambda ids: self.decode((*prompt, *ids))[shown:]

    def continuation(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """Text that ``ids`` add to that of ``prompt``, a leading space included."""
        pieces = self.detokenizer(prompt)
        return "".join([*map(pieces.push, ids), pieces.finish()]) if prompt else self.decode(ids)

    def _guarded(self, verb: str, action: Callable[[], _T]) -> _T:
        """Run ``action``; whatever the library throws becomes a :class:`TokenizerError`."""
        return guarded(action, lambda error: self._error(verb, error))

    def _error(self, verb: str, error: BaseException) -> TokenizerError:
        reason = str(error)[:300] or type(error).__name__
        return TokenizerError(
            f"{self._name}: the tokenizers library cannot {verb} it ({reason}): export the bundle again"
        )


class Detokenizer:
    """Text from tokens as they come. The pieces join to exactly what decoding all tokens at once gives.

    Text is given out once its last token is no byte of a longer character: until then the bytes before it, too, may
    turn out not to be UTF-8. Where all tokens are bytes in disguise (byte-level BPE), such an end shows as U+FFFD. So
    no half character is ever shown, and nothing shown is taken back.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = list(prompt)
        self._shown = tokenizer.decode(self._ids)
        self._pending = 0

    def push(self, token: int) -> str:
        """Add a token. Returns the text that is now certain, often none."""
        self._ids.append(token)
        self._pending += 1
        if token in self._tokenizer.special_ids or self._tokenizer.is_byte(token):
            return ""
        return self._show()

    def finish(self) -> str:
        """The rest of the text."""
        return self._show(whole=True) if self._pending else ""

    def _show(self, whole: bool = False) -> str:
        text = self._tokenizer.decode(self._ids)
        if text.endswith("\ufffd") and not whole:
            return ""
        piece, self._shown, self._pending = text[len(self._shown) :], text, 0
        return piece
