"""The languages of a bundle that a request chooses from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from ...errors import BundleFormatError
from .schema import LATER, Between, Length, Text

_Code = Annotated[str, Text(64, r"[A-Za-z][A-Za-z0-9_.-]*")]
_Token = Annotated[int, Between(0, 2**24)]


@dataclass(frozen=True, kw_only=True)
class LanguageSpec:
    """Languages that are chosen text by text: ``models.languages.LanguageConfig``, which says what its fields mean."""

    tokens: Annotated[dict[_Code, _Token], Length(1, 4096)]
    target: Literal["forced", "start", "source"]
    source: Literal["before", "after"] | None = field(default=None, metadata=LATER)
    default_source: _Code | None = field(default=None, metadata=LATER)
    default_target: _Code | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        if found := list(self._contradictions()):
            raise BundleFormatError("; ".join(found))

    def _contradictions(self) -> Iterator[str]:
        for name in ("default_source", "default_target"):
            if (code := getattr(self, name)) not in (None, *self.tokens):
                yield f"{name} ({code!r}) must be one of its languages"
        if self.source == "before" and self.target == "source":
            yield "the tokens of both languages cannot stand before a text"
        if self.source is None and self.default_source is not None:
            yield f"default_source ({self.default_source!r}) belongs to languages of sources"

    def ids(self, source: str | None, target: str | None) -> dict[str, int | None]:
        """The fields of a :class:`ModelSpec` that hold the tokens of two languages; ``None`` has no token."""
        places = {"before": "source_start_id", "after": "source_last_id", None: None}
        places |= {"source": "source_start_id", "forced": "forced_id", "start": "start_id"}
        given = ((self.source, source), (self.target, target))
        return {name: self.tokens[code] for place, code in given if (name := places[place]) and code is not None}
