"""Merges of a byte-pair tokenizer (Sennrich et al. 2016) from the ranks of its tokens, as SentencePiece keeps them."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import TokenizerError

# A vocabulary that holds every part of one token has pairs by the cube of that token's length.
MAX_PAIRS = 4_000_000
MAX_PAIR_CHARACTERS = 64_000_000


def ranked_pairs(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, by the score of what it makes.

    Raises:
        TokenizerError: more pairs than a vocabulary that was trained has.
    """
    known = {token: token for token in tokens}  # the pairs share the strings
    order = sorted(range(len(tokens)), key=lambda index: -scores[index])
    pairs: list[tuple[str, str]] = []
    characters = 0
    for token in (tokens[index] for index in order):
        before = len(pairs)
        cuts = ((known.get(token[:at]), known.get(token[at:])) for at in range(1, len(token)))
        pairs += [(first, second) for first, second in cuts if first is not None and second is not None]
        characters += len(token) * (len(pairs) - before)
        if len(pairs) > MAX_PAIRS or characters > MAX_PAIR_CHARACTERS:
            raise TokenizerError(
                f"a tokenizer of {len(known)} tokens has at least {len(pairs)} merges of {characters} "
                f"characters, expected at most {MAX_PAIRS} of {MAX_PAIR_CHARACTERS}: use the checkpoint's own "
                "tokenizer.json"
            )
    return pairs
