"""Models that the sentencepiece library trains here, one for every option that changes tokens."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import sentencepiece

from edgewise.export.probes import AWKWARD
from edgewise.export.sentences import SENTENCES

from ..gguf.lines import WRITTEN

OPTIONS: dict[str, dict[str, Any]] = {
    "unigram": {},
    "unigram, bytes": {"byte_fallback": True, "vocab_size": 560},
    "unigram, own symbols": {"user_defined_symbols": ["<sep>", "<2de>", "dog"], "control_symbols": ["<ctl>"]},
    "unigram, as it stands": {
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
    },
    "unigram, case folded": {"normalization_rule_name": "nfkc_cf", "pad_id": 3},
    "unigram, across words": {"split_by_whitespace": False, "split_digits": True},
    "bpe": {"model_type": "bpe"},
    "bpe, bytes": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "vocab_size": 600,
    },
    "bpe, no prefix": {"model_type": "bpe", "add_dummy_prefix": False, "split_digits": True},
    "bpe, across words": {"model_type": "bpe", "split_by_whitespace": False, "remove_extra_whitespaces": False},
}
_PARTS = (*SENTENCES, *AWKWARD.values(), *(line for line in WRITTEN if line.strip()))


@cache
def trained(case: str) -> bytes:
    """A model file of one of ``OPTIONS``."""
    return train(SENTENCES + tuple(AWKWARD.values()), **OPTIONS[case])


def train(lines: tuple[str, ...], **options: Any) -> bytes:
    file = io.BytesIO()
    chosen = {"vocab_size": 420, "model_type": "unigram", "minloglevel": 2, "num_threads": 1, **options}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=file, **chosen)
    return file.getvalue()


def library(data: bytes) -> sentencepiece.SentencePieceProcessor:
    """The library's own reading of a model file."""
    return sentencepiece.SentencePieceProcessor(model_proto=data)


def mixed(count: int, seed: int = 5) -> Iterator[str]:
    """Words of sentences in many scripts, joined in ways that spaces and symbols can go wrong."""
    generator = random.Random(seed)
    words = [word for part in _PARTS for word in part.split() if not _is_known_to_differ(word)]
    glue = (" ", " ", " ", " ", "  ", "", "\t", "\u00a0", "▁", "<sep>", "</s>", " <2de> ", "dog", ", ", "\u3000")
    for _ in range(count):
        text = "".join(generator.choice(words) + generator.choice(glue) for _ in range(generator.randint(1, 14)))
        yield generator.choice(("", "", "", " ", "  ")) + text


def _is_known_to_differ(word: str) -> bool:
    """What is known to differ, see the docstring of the module under test; of one letter again and again many
    segmentations are equally probable."""
    return any("\u0300" <= c < "\u0370" for c in word) or "<0x" in word or len(set(word)) < len(word) / 8
