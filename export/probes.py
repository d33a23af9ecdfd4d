"""What a reference is asked: ordinary captions, awkward texts, and a sweep over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from .sentences import SENTENCES

EXTRA_TOKENS = 50  # the runtime's default: source tokens + 50 (Vaswani et al. 2017, section 6.1)
SWEEP_TOKENS = 256  # a sweep text is at most this long, however much the context holds
SWEEP_NEW_TOKENS = 2
LONGEST = "longest"
ORDINARY = SENTENCES[:12]

AWKWARD = {
    "one-word": "Dog",
    "one-letter": "a",
    "one-digit": "7",
    "full-stop-only": ".",
    "punctuation-only": "?! ... --- ;;; (()) [] #",
    "digits": "In 1987, 24 men and 3 women ran 42.195 km in 2:08:16 h.",
    "all-caps": "A MAN IN A RED HAT IS READING A NEWSPAPER.",
    "no-capitals": "two girls are laughing",
    "no-final-stop": "A woman walks her dog in the park",
    "question": "Is the boy climbing the tree?",
    "two-sentences": "A man is cooking. His son is watching him.",
    "three-sentences": "It rains. The streets are empty. Only a cat sits under a car.",
    "repeated-word": "dog dog dog dog dog dog dog dog dog dog dog dog",
    "repeated-phrase": "a man and a man and a man and a man and a man and a man are running",
    "repeated-letter": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "emoji": "A girl 👧 eats pizza 🍕 and smiles 😀!",
    "chinese": "一个男人在骑自行车。",
    "scripts": "Привет Ελλάδα שלום مرحبا हिन्दी 日本語 한국어",
    "accents": "A café in Zürich serves crème brûlée to a señor from São Paulo.",
    "unknown-signs": "½ ∑ ∞ ≠ € £ ¥ ™ © † ‡ ¶",
    "mixed-unknown": "A man with a 🎷 plays ♫ near the Ωmega café.",
    "control": "A man\tsits\x01 on\x7f a\x0b bench.",
    "white-space": "  A   man    is \u00a0 riding a\u3000horse .  ",
    "quotes": "A man holds a sign that says \u201cfree 'hugs'\u201d and \"smile\".",
    "hyphens": "A well-dressed, middle-aged man - a so-called street-artist - sits cross-legged.",
    "rare-words": "An ornithologist scrutinizes a juvenile kingfisher through binoculars.",
    "nonsense": "Xqzt vlorp gnihtemos zzyzx brillig.",
    "special-names": "<s> a </s> <pad> <unk> <0x41>",
    "german": "Ein Mann fährt mit dem Fahrrad über die Straße.",
    "long-word": "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen",
    "many-clauses": (
        "A man in a blue shirt and black pants, a woman in a white dress with a red belt, two children with balloons, "
        "and a small brown dog on a long leash are walking slowly along a busy street in front of an old church, while "
        "a musician with a gray beard plays the guitar and a few tourists take pictures of the houses."
    ),
}


class Codec(Protocol):
    """Text to tokens and back; the runtime's tokenizer is one."""

    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, no specials among them."""
        ...

    def encode_part(self, text: str) -> list[int]:
        """As :meth:`encode`, of a part of a text, which may be empty."""
        ...

    def strips(self, token: int | None) -> tuple[bool, bool]:
        """Whether white space before an added token, and behind it, belongs to the token."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""
        ...

    def continuation(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """Text that ``ids`` add to that of ``prompt``."""
        ...

    def piece(self, token: int) -> str:
        """The token as the tokenizer spells it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One text to ask about. ``text`` is ``None`` for no text at all. ``short``: a few steps tell all there is."""

    name: str
    text: str | None
    short: bool = False


def probes(codec: Codec, room: int) -> Iterator[Probe]:
    """All probes that fit; ``room``: most tokens of a text, specials not counted."""
    yield Probe(name="empty", text=None)
    captions = {f"caption-{i:02}": text for i, text in enumerate(ORDINARY)}
    for name, text in (captions | AWKWARD).items():
        if len(codec.encode(text)) <= room:
            yield Probe(name=name, text=text)
    yield Probe(name=LONGEST, text=longest_text(codec, room))
    for i, text in enumerate(sweep(codec, min(room, SWEEP_TOKENS - 1))):
        yield Probe(name=f"vocabulary-{i:03}", text=text, short=True)


def longest_text(codec: Codec, room: int) -> str:
    """Captions one after another, then full stops, until exactly ``room`` tokens or as near as tokens allow."""
    text = ""
    for word in " ".join(SENTENCES * (1 + room // len(SENTENCES))).split():
        if len(codec.encode(longer := f"{text} {word}".strip())) > room:
            break
        text = longer
    while len(codec.encode(longer := f"{text}.")) <= room:
        text = longer
    return text


def sweep(codec: Codec, room: int) -> Iterator[str]:
    """Texts of at most ``room`` tokens in which every token occurs that some text gives.

    They leave no row of the embedding and no entry of the vocabulary unseen, but for specials, bytes that UTF-8 does
    not use, and pieces that the tokenizer only passes through on its way to longer ones.
    """
    words: list[str] = []
    used = 0
    for word, tokens in [*_spellings(codec), *_strange_characters(codec)]:
        if used + tokens > room and words:
            text, words = _fitting(codec, words, room)
            used = len(codec.encode(" ".join(words))) if words else 0
            if text:
                yield text
        if tokens <= room:
            words.append(word)
            used += tokens
    while words:
        text, words = _fitting(codec, words, room)
        if text:
            yield text


def _fitting(codec: Codec, words: list[str], room: int) -> tuple[str, list[str]]:
    """The first words as one text, and those that wait for the next.

    The very first, which no space precedes, may be split into more tokens than in between: it is left out where it
    does not fit even alone.
    """
    kept = next((n for n in range(len(words), 0, -1) if len(codec.encode(" ".join(words[:n]))) <= room), 0)
    return " ".join(words[:kept]), words[max(kept, 1) :]


def _spellings(codec: Codec) -> Iterator[tuple[str, int]]:
    """For every token a word that has it among its tokens, behind another word, and how many these are."""
    before = len(codec.encode("a"))
    for token in range(codec.vocab_size):
        word = _bare(codec, token)
        # After a hyphen or a letter a piece is not at the beginning of a word.
        for spelling in (word, f"-{word}", *(f"{letter}{word}" for letter in "qx7")):
            ids = codec.encode(f"a {spelling}")[before:] if word.strip() and "\0" not in word else []
            if token in ids:
                yield spelling, len(ids)
                break


def _bare(codec: Codec, token: int) -> str:
    """A token's text without the marks of its tokenizer: of a word's beginning, or of a word's going on."""
    piece = codec.piece(token)
    if "Ġ" in piece or not piece.isascii():
        piece = codec.decode([token]) or piece  # bytes in the disguise of letters
    return piece.removeprefix("▁").removeprefix("##").strip()


def _is_byte(codec: Codec, token: int) -> bool:
    """Whether a token is a byte of a character, spelled out or alone no text."""
    return codec.piece(token).startswith("<0x") or codec.decode([token]) == "\ufffd"


def _strange_characters(codec: Codec) -> Iterator[tuple[str, int]]:
    """Characters that the vocabulary lacks, until every byte that they fall back to has occurred, as ``_spellings``."""
    before = len(codec.encode("a"))
    seen: set[int] = set()
    for code in [*range(1, 0x800), *range(0x800, 0xD800, 0x101), *range(0xE000, 0x10FFFD, 0x1F0F)]:
        ids = codec.encode(f"a {chr(code)}")[before:] if chr(code).strip() else []
        missing = {token for token in ids if _is_byte(codec, token)} - seen
        if missing:
            seen |= missing
            yield chr(code), len(ids)
