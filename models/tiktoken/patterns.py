"""How a text is split before bytes are merged, by the names of encodings: tiktoken's files do not say it.

Source: ``tiktoken_ext/openai_public.py`` of github.com/openai/tiktoken, release 0.14.0, and ``pat_str`` of
``llama/tokenizer.py`` of github.com/meta-llama/llama3 and ``tokenization_qwen.py`` of huggingface.co/Qwen/Qwen-7B, with
possessive quantifiers written plainly, where they match the same.
"""

from __future__ import annotations

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_THREE_DIGITS = (
    rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k_base": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s+\z|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "o200k_base": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDINGS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDINGS}?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "llama3": _THREE_DIGITS,
    "qwen": _THREE_DIGITS.replace(r"\p{N}{1,3}", r"\p{N}"),
}
"""Regular expressions in Oniguruma's syntax, by the name of what was trained with them."""

NORMALIZED = {"qwen": "NFC"}
"""What is done to a text before it is split, as the step is called by the tokenizers library; to others nothing is."""
