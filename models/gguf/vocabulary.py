"""The vocabulary of a GGUF file: its tokens, their types, and which of them begin and end a text.

Source: ``docs/gguf.md`` of ggml, section "Tokenizer"; defaults and end tokens as ``llama-vocab.cpp`` of llama.cpp.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metadata import lookup, refuse
from .reader import GgufFile

MAX_TOKENS = 1 << 20
MAX_TOKEN_CHARACTERS = 512  # a SentencePiece tokenizer is made by cutting every token everywhere
# Token types: what a token is for.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

END_TEXTS = frozenset(
    {
        "</s>", "<EOT>", "<end_of_turn>", "<end_of_utterance>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "<|end|>",
        "<|eom_id|>", "<|eot_id|>", "<|im_end|>", "<｜end▁of▁sentence｜>",
    }
)  # fmt: skip
"""Control tokens that end a text or a turn whatever the metadata says, as in llama.cpp: chat models end their answers
with another token than the one that ends a text, and files name only one."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What a file says of its tokenizer.

    ``model`` is ``gpt2`` (byte-level BPE with ``merges``) or ``llama`` (SentencePiece BPE with ``scores``);
    ``pre_tokenizer`` names how ``gpt2`` splits a text first. A text begins with ``start_id`` where ``adds_start`` and
    ends with ``end_id`` where ``adds_end``. ``turn_end_id``: what ends a turn of a chat, where the file states it.
    ``end_ids`` are all tokens after which generation stops.
    """

    model: str
    pre_tokenizer: str
    tokens: list[str]
    types: NDArray[np.int32]
    merges: list[str]
    scores: NDArray[np.float32]
    start_id: int | None
    end_id: int | None
    turn_end_id: int | None
    unknown_id: int | None
    pad_id: int | None
    adds_start: bool | None
    adds_end: bool
    adds_space: bool
    end_ids: frozenset[int]
    chat_template: str | None


def read_vocabulary(file: GgufFile) -> Vocabulary:
    """The vocabulary of ``file``.

    Raises:
        CheckpointError: a part is missing, of another type or length, a token is given twice, or an id is none.
    """
    tokens = _texts(file, "tokens")
    if not 0 < len(tokens) <= MAX_TOKENS:
        refuse(file, f"has {len(tokens)} tokens, expected 1 to {MAX_TOKENS}")
    again, times = Counter(tokens).most_common(1)[0]
    if times > 1:
        refuse(file, f"token {again!r} is given {times} times, expected distinct tokens")
    if len(longest := max(tokens, key=len)) > MAX_TOKEN_CHARACTERS:
        refuse(file, f"a token has {len(longest)} characters, expected at most {MAX_TOKEN_CHARACTERS}")
    types = _numbers(file, "token_type", len(tokens), NORMAL, np.dtype(np.int32))
    model = lookup(file, "tokenizer.ggml.model", str)
    sentencepiece = model == "llama"
    end_id = _id(file, "eos", len(tokens), 2 if sentencepiece else None)
    ends = {index for index, token in enumerate(tokens) if token in END_TEXTS and types[index] == CONTROL}
    turn_end_id = _id(file, "eot", len(tokens))
    ends |= {i for i in (end_id, turn_end_id, _id(file, "eom", len(tokens))) if i is not None}
    adds_start = "tokenizer.ggml.add_bos_token"
    return Vocabulary(
        model=model,
        pre_tokenizer=lookup(file, "tokenizer.ggml.pre", str, "default"),
        tokens=tokens,
        types=types,
        merges=_texts(file, "merges") if "tokenizer.ggml.merges" in file.metadata else [],
        scores=_numbers(file, "scores", len(tokens), 0, np.dtype(np.float32)),
        start_id=_id(file, "bos", len(tokens), 1 if sentencepiece else None),
        end_id=end_id,
        turn_end_id=turn_end_id,
        unknown_id=_id(file, "unknown", len(tokens), 0 if sentencepiece else None),
        pad_id=_id(file, "padding", len(tokens)),
        adds_start=lookup(file, adds_start, bool) if adds_start in file.metadata else None,
        adds_end=lookup(file, "tokenizer.ggml.add_eos_token", bool, False),
        adds_space=lookup(file, "tokenizer.ggml.add_space_prefix", bool, sentencepiece),
        end_ids=frozenset(ends),
        chat_template=lookup(file, "tokenizer.chat_template", str, "") or None,
    )


def _texts(file: GgufFile, name: str) -> list[str]:
    value = file.metadata.get(f"tokenizer.ggml.{name}")
    if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        refuse(file, f"metadata 'tokenizer.ggml.{name}' is {type(value).__name__}, expected an array of strings")
    return value


def _numbers(file: GgufFile, name: str, length: int, default: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """One number a token; ``default`` for each where the file has none."""
    value = file.metadata.get(f"tokenizer.ggml.{name}")
    if value is None:
        return np.full(length, default, dtype)
    kinds = "iu" if dtype.kind == "i" else "fiu"
    if not (isinstance(value, np.ndarray) and value.dtype.kind in kinds and len(value) == length):
        refuse(file, f"metadata 'tokenizer.ggml.{name}' is no array of {length} numbers, one for every token")
    with np.errstate(over="ignore"):
        numbers = value.astype(dtype)
    if not np.isfinite(numbers).all():
        refuse(file, f"metadata 'tokenizer.ggml.{name}' holds NaN or infinity, expected numbers")
    return numbers


def _id(file: GgufFile, name: str, n_tokens: int, default: int | None = None) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if key not in file.metadata:
        return default if default is not None and default < n_tokens else None
    value = lookup(file, key, int)
    if not 0 <= value < n_tokens:
        refuse(file, f"metadata {key!r} is {value}, expected a token id below {n_tokens}")
    return value
