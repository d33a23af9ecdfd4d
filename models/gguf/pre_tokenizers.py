"""How byte-level BPE splits a text before it merges, by the name in ``tokenizer.ggml.pre``.

Each expression splits the pieces that the one before it left; what it does not match is a piece too. The expressions
are those of llama.cpp (``llm_tokenizer_bpe`` in ``llama-vocab.cpp``), which the files' names refer to.
"""

from __future__ import annotations

from typing import NamedTuple

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Written out and not (?i:…): that would match the long s, "ſ", too.
_CONTRACTIONS = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"


class PreTokenizer(NamedTuple):
    """The expressions; whether a piece that is a token stays whole, whatever the merges say; whether a text begins with
    a start token where the file does not say."""

    splits: tuple[str, ...]
    ignore_merges: bool = False
    adds_start: bool = False


_DIGIT_BY_DIGIT = PreTokenizer((r"\p{N}", _GPT2))

PRE_TOKENIZERS = {
    "gpt-2": PreTokenizer((_GPT2,)),
    "olmo": PreTokenizer((_GPT2,)),
    "smollm": _DIGIT_BY_DIGIT,
    "starcoder": _DIGIT_BY_DIGIT,
    "refact": _DIGIT_BY_DIGIT,
    "command-r": _DIGIT_BY_DIGIT,
    "codeshell": _DIGIT_BY_DIGIT,
    "llama-bpe": PreTokenizer((_LLAMA3,), ignore_merges=True, adds_start=True),
    "qwen2": PreTokenizer((_QWEN2,)),
    "deepseek-r1-qwen": PreTokenizer((_QWEN2,)),
}
"""Of the names that llama.cpp knows, those compared with it token by token."""
