"""In which languages a reference is asked, where they are chosen text by text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from ..runtime.bundle.model_spec import ModelSpec

if TYPE_CHECKING:
    from ..models.transformer import Transformer

_CHOSEN = ("start_id", "source_start_id", "source_last_id", "forced_id")
Direction = tuple[str | None, str | None]
"""The languages of a text and of its translation."""


def directions(spec: ModelSpec) -> Iterator[Direction]:
    """One for every case, over and over: the defaults where there are any, then such that every language has its turn.

    The first language into the last, the second into the last but one: half as many cases as languages meet all of
    them.
    """
    languages = spec.languages
    if languages is None:
        while True:
            yield None, None
    codes = list(languages.tokens)
    source, target = languages.default_source or not languages.source, languages.default_target
    if source and (target or languages.target == "source"):
        yield languages.default_source, languages.default_target
    while True:
        yield from ((code if languages.source else None, codes[-1 - i]) for i, code in enumerate(codes))


@contextmanager
def directed(model: Transformer, spec: ModelSpec) -> Iterator[None]:
    """While this lasts ``model`` decodes what ``spec``, its own for one direction, says."""
    config = model.config
    model.config = replace(config, languages=None, **{name: getattr(spec, name) for name in _CHOSEN})
    try:
        yield
    finally:
        model.config = config
