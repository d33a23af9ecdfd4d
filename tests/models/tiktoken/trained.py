"""A small vocabulary, trained here, as a tiktoken file has it."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from edgewise.export.sentences import SENTENCES
from edgewise.models.byte_level import character_of

from ..gguf.lines import WRITTEN

# No merge makes the first ones: they are tokens as whole pieces alone. Of the others many pairs do.
BY_HAND = (b" zqxj", b"\xf0\x9f\x99\x82!", b"aaaa", b"aaa", b"    ", b"   ", b"abab", b"aba", b"bab")


@cache
def ranks() -> tuple[bytes, ...]:
    """The 256 bytes, 700 tokens that are trained, and some by hand."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=956, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([*SENTENCES, *WRITTEN], trainer)
    back = {character_of(byte): byte for byte in range(256)}
    vocabulary = sorted(made.get_vocab().items(), key=lambda item: item[1])
    found = [bytes(back[character] for character in token) for token, _ in vocabulary]
    return (*found, *(token for token in BY_HAND if token not in found))


def write(file: Path) -> Path:
    """The file."""
    lines = (b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(ranks()))
    file.write_bytes(b"".join(lines))
    return file
