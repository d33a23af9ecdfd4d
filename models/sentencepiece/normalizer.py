"""What SentencePiece does to a text before it cuts it, in the steps that the tokenizers library has.

Source: ``normalizer.cc`` of github.com/google/sentencepiece, release 0.2.1, ``Normalizer::Normalize``.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Container, Iterable
from dataclasses import dataclass

from ...errors import TokenizerError
from .composing import Step, characters, composes, composing
from .model import SentencePieceModel

SPACE = "▁"
OPENS, CLOSES = ">>", "<<"


MARKS = "".join(map(chr, range(0xFDD0, 0xFDF0)))
"""Noncharacters that may be :class:`Marks`."""


@dataclass(frozen=True)
class Marks:
    """Characters that neither pieces nor, once they are normalized, texts have.

    ``begin`` and ``end`` stand around the spelling of a token that no text may give, so that none does. ``other`` takes
    the place of such a character in a text, ``tag`` that of an unknown language tag: unknown characters both. ``apart``
    stands for a while between characters that are not to become one.
    """

    begin: str
    end: str
    other: str
    tag: str
    apart: str

    @classmethod
    def beside(cls, texts: Iterable[str]) -> Marks:
        """Noncharacters (Unicode 16.0, section 23.7: no text that is passed on has them) that none of ``texts`` has.

        Raises:
            TokenizerError: fewer than five are left.
        """
        used = set().union(*texts)
        free = [mark for mark in MARKS if mark not in used][:5]
        if len(free) < 5:
            raise TokenizerError(
                f"the pieces use all but {len(free)} of the noncharacters U+FDD0 to U+FDEF, expected five to be left: "
                "it is no vocabulary of a language"
            )
        return cls(*free)

    def sealed(self, text: str) -> str:
        """``text`` as a token that no text gives."""
        return f"{self.begin}{text}{self.end}"


def replace(pattern: str, content: str) -> Step:
    """Every match of a regular expression (Oniguruma's syntax) becomes ``content``; a match may be empty."""
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def steps(model: SentencePieceModel, marks: Marks, tags: Iterable[str] = ()) -> list[Step]:
    """The normalizer of ``model``.

    ``tags``, from ``>>`` to ``<<``: at the very beginning of a text one of them is a token, and the text proper begins
    behind it. Anything else of that form there is an unknown token.
    """
    found = [replace(f"[{marks.begin}{marks.end}{marks.tag}{marks.apart}]", marks.other)]
    tags = tuple(tags)
    behind = ""
    if tags:
        behind = "|".join(escaped(f"{marks.begin}{tag}") for tag in tags) + f"|{marks.tag}"
        known = "|".join(escaped(tag.removeprefix(OPENS)) for tag in tags)
        # Never an insertion at the very beginning: the library miscounts the steps after it.
        found.append(replace(f"\\A{OPENS}(?={known})", marks.begin + OPENS))
        found.append(replace(f"\\A{OPENS}(?:(?!{CLOSES})[\\s\\S])*{CLOSES}", marks.tag))
    if model.charsmap:
        rules = base64.b64encode(model.charsmap).decode("ascii")
        precompiled: Step = {"type": "Precompiled", "precompiled_charsmap": rules}
        found += composing(precompiled, marks.apart) if composes(model.charsmap) else [precompiled]
    if model.strips:
        found.append(replace(r"\A +" + (f"|(?<={behind}) +" if behind else ""), ""))
        found.append(replace(" {2,}", " "))
    found.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    if model.strips:
        found.append(replace(f"{SPACE}+\\z", ""))  # a typed ▁ at the end, too
    if model.adds_prefix and not tags:
        found.append({"type": "Prepend", "prepend": SPACE})
    elif model.adds_prefix:
        found.append(replace(f"\\A(?=[^{marks.begin}{marks.tag}])|(?<={behind})(?=[\\s\\S])", SPACE))
    return found


def around_unknown(known: Iterable[str], marks: Marks) -> list[Step]:
    """Marks around every run of characters that are not ``known``: what is spelled so may be a token as a whole."""
    members = characters({*known, marks.begin})
    inside, outside = f"[^{members}]", f"[{members}]"
    return [
        replace(f"(?<!{inside})(?={inside})", marks.begin),
        replace(f"(?<={inside})(?={outside}|\\z)", marks.end),
    ]


def marked(text: str, known: Container[str], marks: Marks) -> str:
    """``text`` as :func:`around_unknown` leaves it."""
    runs = itertools.groupby(text, key=lambda character: character in known)
    return "".join("".join(run) if is_known else marks.sealed("".join(run)) for is_known, run in runs)


def escaped(text: str) -> str:
    """``text`` in a regular expression, character by character."""
    return "".join(f"\\x{{{ord(character):X}}}" for character in text)
