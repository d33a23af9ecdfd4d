"""Rules that make one character of several, such as ``e`` and an acute accent of ``é``, by the steps of tokenizers.

The library's ``Precompiled`` looks up a grapheme of less than six bytes, finds the shortest rule, and drops the rest;
of longer ones it looks up characters. SentencePiece takes the longest rule, and its NFKC rules spell out, some 220 000
of them, what NFC does to the replacements of single characters. So here every character is looked up alone, and NFC
composes; marks in between keep it from what SentencePiece leaves: marks in an unusual order, or behind a letter that
already has one.

Source: ``normalizer.cc`` and ``builder.cc`` of github.com/google/sentencepiece, release 0.2.1; The Unicode Standard
16.0, section 3.11, normalization forms.
"""

from __future__ import annotations

import struct
import sys
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any

Step = dict[str, Any]
_COMPOSED = {"e\u0301": "\u00e9", "\u304b\u3099": "\u304c", "\u1100\u1161\u11a8": "\uac01", "\uff8a\uff9f": "\u30d1"}
_JOINED = (
    "[\\p{M}\\x{A}\\x{200C}\\x{200D}\\x{1160}-\\x{11FF}\\x{D7B0}-\\x{D7FF}\\x{FF9E}\\x{FF9F}\\x{1F3FB}-\\x{1F3FF}]"
)
"""What goes into the grapheme before it (Unicode Standard Annex 29) and may be short there, or be composed."""


def composes(charsmap: bytes) -> bool:
    """Whether compiled rules are those of NFKC, case folded or not: by what they make of a few letters and marks."""
    return all(longest_rule(charsmap, text).lower() == whole for text, whole in _COMPOSED.items())


def longest_rule(charsmap: bytes, text: str) -> str:
    """What the longest rule for a beginning of ``text`` puts in its place; nothing where there is none.

    The rules are a trie as a double array (github.com/s-yata/darts-clone), behind its size, and texts that end in 0.
    """
    size = int.from_bytes(charsmap[:4], "little")
    units = struct.unpack(f"<{size // 4}I", charsmap[4 : 4 + size])
    found, node = "", 0
    for byte in text.encode():
        node ^= _offset(units[node]) ^ byte if node < len(units) else 0
        if node >= len(units) or units[node] & 0x800000FF != byte:
            break
        if units[node] >> 8 & 1 and (leaf := node ^ _offset(units[node])) < len(units):
            begin = 4 + size + (units[leaf] & 0x7FFFFFFF)
            found = charsmap[begin:].partition(b"\0")[0].decode(errors="replace")
    return found


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 0x200) >> 6)


def composing(precompiled: Step, mark: str) -> list[Step]:
    """``precompiled`` on every character alone, then NFC; ``mark``: a character that no text has."""
    remove = {"type": "Replace", "pattern": {"String": mark}, "content": ""}
    # Never an insertion at the very beginning: the library miscounts the steps after it.
    alone = {"type": "Replace", "pattern": {"Regex": f"(?<=[\\s\\S])(?={_JOINED})"}, "content": mark}
    apart = {"type": "Replace", "pattern": {"Regex": _apart()}, "content": mark}
    return [alone, precompiled, remove, apart, {"type": "NFC"}, remove]


@cache
def _apart() -> str:
    """Where NFC would compose or reorder, and SentencePiece does not, as a regular expression of empty matches."""
    spelled = {c: unicodedata.normalize("NFD", c) for c in map(chr, range(0xC0, sys.maxunicode + 1))}
    spelled = {c: s for c, s in spelled.items() if len(s) > 1 and unicodedata.normalize("NFC", s) == c}
    joining = {c for s in spelled.values() for c in s[1:]}
    marks = {c for c in map(chr, range(0x300, sys.maxunicode + 1)) if unicodedata.category(c)[0] == "M"}
    other = characters(marks - joining - {s[0] for s in spelled.values()})
    places = [f"(?<=[\\s\\S])(?=[{other}])", f"(?<=[{other}])(?=\\p{{M}})"]
    for order in sorted({unicodedata.combining(c) for c in joining} - {0}):
        these = characters(c for c in joining if unicodedata.combining(c) == order)
        if lower := characters(c for c in joining if 0 < unicodedata.combining(c) < order):
            places.append(f"(?<=[{these}])(?=[{lower}])")
    return "|".join([*places, f"(?<=[{characters(spelled)}])(?=[{characters(joining)}])"])


def characters(texts: Iterable[str]) -> str:
    """What stands between the brackets of a regular expression's character class."""
    spans: list[list[int]] = []
    for code in sorted(map(ord, texts)):
        if spans and code == spans[-1][1] + 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in spans)
