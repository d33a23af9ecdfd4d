"""Where the sentences of a text are, by the ``sentencex`` library, an extra: ``pip install 'edgewise[sentences]'``.

Of the libraries that do it by rules this one is kept (Wikimedia, MIT licence, no dependencies), knows the abbreviations
of some 300 languages, gives places in characters, and where it is in doubt leaves two sentences together, which costs a
translator less than one that is torn apart.
"""

from __future__ import annotations

from typing import Any

from ..errors import EngineError, MissingExtraError
from .panics import guarded


def sentence_spans(text: str, language: str) -> list[tuple[int, int]]:
    """Begin and end, in characters, of every sentence of ``text``, white space around it left out.

    ``language``: a code such as ``en``; one that the library does not know is split by the punctuation alone.

    Raises:
        MissingExtraError: the library is not installed.
        EngineError: it failed, or gave places that are not those of the text, one after another.
    """
    found = []
    end = 0
    for piece in _pieces(text, language):
        begin, until = piece["start_index"], piece["end_index"]
        if begin != end or until < begin or text[begin:until] != piece["text"]:
            raise EngineError(f"sentencex gave the place {begin} to {until} after {end}: install another version of it")
        end = until
        inside = text[begin:end].strip()
        if inside:
            first = text.index(inside, begin)
            found.append((first, first + len(inside)))
    if text[end:].strip():
        raise EngineError(f"sentencex gave places up to {end} of {len(text)}: install another version of it")
    return found


def _pieces(text: str, language: str) -> list[dict[str, Any]]:
    try:
        import sentencex
    except ImportError as error:
        raise MissingExtraError(
            "splitting a text into sentences needs sentencex: pip install 'edgewise[sentences]'"
        ) from error
    return guarded(
        lambda: list(sentencex.get_sentence_boundaries(language, text)),
        lambda error: EngineError(f"sentencex cannot split the text ({error}): install another version of it"),
    )
