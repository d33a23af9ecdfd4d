"""Transformers as small verified INT8 graphs, run without torch.

``edgewise.load(path)`` opens a bundle and gives a session::

    session = edgewise.load("bundle")
    print(session.translate(["A man is riding a bicycle."])[0].text)

Importing the package loads no library: each name below is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from . import errors

if TYPE_CHECKING:
    from .runtime.asynchronous import AsyncSession
    from .runtime.interrupt import Cancellation
    from .runtime.load import load
    from .runtime.options import DecodingOptions, Grammar, Sampling
    from .runtime.pivot import pivot
    from .runtime.results import (
        Answer,
        Classification,
        Document,
        Embedding,
        Encoding,
        Entity,
        Fill,
        Generation,
        Hypothesis,
        Ranked,
        Rating,
        Score,
        Segment,
        Speculation,
        Timings,
        Transcription,
        TranslatedSentence,
    )
    from .runtime.session import Session

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "load",
    "pivot",
    "Session",
    "AsyncSession",
    "DecodingOptions",
    "Sampling",
    "Grammar",
    "Cancellation",
    "Generation",
    "Hypothesis",
    "Timings",
    "Speculation",
    "Document",
    "TranslatedSentence",
    "Score",
    "Transcription",
    "Segment",
    "Encoding",
    "Embedding",
    "Classification",
    "Fill",
    "Rating",
    "Ranked",
    "Entity",
    "Answer",
    "errors",
]

_HOMES = {
    "load": ".runtime.load",
    "pivot": ".runtime.pivot",
    "Session": ".runtime.session",
    "AsyncSession": ".runtime.asynchronous",
    "DecodingOptions": ".runtime.options",
    "Sampling": ".runtime.options",
    "Grammar": ".runtime.options",
    "Cancellation": ".runtime.interrupt",
    "Generation": ".runtime.results",
    "Hypothesis": ".runtime.results",
    "Timings": ".runtime.results",
    "Speculation": ".runtime.results",
    "Document": ".runtime.results",
    "TranslatedSentence": ".runtime.results",
    "Score": ".runtime.results",
    "Transcription": ".runtime.results",
    "Segment": ".runtime.results",
    "Encoding": ".runtime.results",
    "Embedding": ".runtime.results",
    "Classification": ".runtime.results",
    "Fill": ".runtime.results",
    "Rating": ".runtime.results",
    "Ranked": ".runtime.results",
    "Entity": ".runtime.results",
    "Answer": ".runtime.results",
}


def __getattr__(name: str) -> object:
    """Import ``name`` from its home, once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
