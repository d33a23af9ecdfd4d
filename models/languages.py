"""Languages that are chosen text by text, each by a token of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..errors import ConfigError

SourcePlace = Literal["before", "after"]
TargetPlace = Literal["forced", "start", "source"]

MOST_LANGUAGES = 4096
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Which languages there are, and where their tokens stand.

    =================== ==============================================================================================
    ``tokens``          the token of every language by its code, written as the checkpoint's authors write it
    ``source``          where the token of a text's language stands: ``before`` the text that the encoder reads (Tang et
                        al. 2020, mBART-50; Fan et al. 2021, M2M-100), or ``after`` its end token (Liu et al. 2020,
                        mBART); ``None``: nowhere
    ``target``          where that of its translation's language stands: ``forced``: the decoder reads it after
                        ``start_id``; ``start``: in place of ``start_id``; ``source``: ``before`` the text (Johnson et
                        al. 2017)
    ``default_source``  the language of a text, and of a translation, where nobody says; ``None``: it has to be said,
    ``default_target``  or with ``target`` ``source`` may be left out
    =================== ==============================================================================================
    """

    tokens: Mapping[str, int]
    target: TargetPlace
    source: SourcePlace | None = None
    default_source: str | None = None
    default_target: str | None = None

    def __post_init__(self) -> None:
        check_tokens(self.tokens)
        for name, value, choices in (
            ("source", self.source, (*get_args(SourcePlace), None)),
            ("target", self.target, get_args(TargetPlace)),
        ):
            _require(value in choices, f"{name} ({value!r}) must be one of {', '.join(map(repr, choices))}")
        for name in ("default_source", "default_target"):
            code = getattr(self, name)
            known = code is None or (isinstance(code, str) and code in self.tokens)
            _require(known, f"{name} ({code!r}) must be one of {', '.join(self.tokens)}")
        _require(
            self.source != "before" or self.target != "source",
            "the tokens of both languages cannot stand before a text",
        )
        _require(
            self.source is not None or self.default_source is None,
            f"default_source ({self.default_source!r}) belongs to languages of sources, whose tokens stand nowhere",
        )


def check_tokens(tokens: Any) -> None:
    """Refuse what is no mapping of language codes to token ids.

    Raises:
        ConfigError: it is none.
    """
    many = isinstance(tokens, Mapping) and 1 <= len(tokens) <= MOST_LANGUAGES
    _require(many, f"tokens must be 1 to {MOST_LANGUAGES} languages by their codes; they are {tokens!r:.80}")
    for code, token in tokens.items():
        _require(
            isinstance(code, str) and _CODE.fullmatch(code) is not None,
            f"{code!r:.80} must be a language's code: a letter, then letters, digits, '_', '.' and '-'",
        )
        _require(type(token) is int, f"the token of {code!r} ({token!r}) must be an integer")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(f"languages: {message}")
