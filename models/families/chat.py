"""The chat template of a folder as Hugging Face writes it.

It lies in ``chat_template.jinja``, or in ``tokenizer_config.json`` as ``chat_template``: a text, or a list of texts
with names, of which the one called ``default`` is taken, as ``PreTrainedTokenizerBase.get_chat_template`` of
transformers 5.24.0 does where no tools are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ..chat import TOKEN_NAMES, ChatSource

TEMPLATE = "chat_template.jinja"
_DEFAULT = "default"


def read_chat(folder: Path, settings: Mapping[str, Any], special_tokens: Mapping[str, Any]) -> ChatSource | None:
    """The template that ``folder`` or its ``settings`` (``tokenizer_config.json``) hold; ``None`` without one.

    ``special_tokens``: ``special_tokens_map.json``, for names that the settings lack.

    Raises:
        CheckpointError: it is no text.
    """
    file = folder / TEMPLATE
    try:
        template = file.read_text(encoding="utf-8") if file.is_file() else _named(folder, settings.get("chat_template"))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: expected a text in UTF-8, got {error}: copy it again") from error
    tokens = {name: _spelling(settings.get(name, special_tokens.get(name))) for name in TOKEN_NAMES}
    variables = {name: text for name, text in tokens.items() if text is not None}
    return ChatSource(template=template, variables=variables) if template else None


def _named(folder: Path, given: Any) -> str | None:
    if given is None or isinstance(given, str):
        return given
    pairs = [(t.get("name"), t.get("template")) if isinstance(t, dict) else (None, None) for t in _list(given)]
    if not pairs or not all(isinstance(name, str) and isinstance(text, str) for name, text in pairs):
        raise CheckpointError(
            f"{folder}: chat_template is {str(given)[:60]!r}, expected a text, or a list of texts with names"
        )
    return dict(pairs).get(_DEFAULT)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _spelling(token: Any) -> str | None:
    """A token as these files write it: its text, or an object with it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
