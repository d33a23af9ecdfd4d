"""Whatever a file says, what is made of it is made, or a typed error says why not."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.errors import EdgewiseError
from edgewise.models.gguf.hugging_face import config_json, tensors
from edgewise.models.gguf.llama import llama_parameters
from edgewise.models.gguf.reader import GgufFile
from edgewise.models.gguf.tokenizer import tokenizer_json
from edgewise.models.gguf.vocabulary import read_vocabulary
from edgewise.runtime.tokenizer import Tokenizer

from . import tiny
from .test_reader import mutate

LEFT_OUT = {"general.architecture": None, "tokenizer.ggml.model": None}
ODD: list[Any] = [
    0, -1, 1, 3, 2**31 - 1, 2**64 - 1, True, 0.0, -1.0, 1e-300, 1e300, float("inf"), float("nan"), "", "a",
    "x" * 10_000, [], [""], ["a", "b c", "\0"], [[1], ["a"]], np.array([], np.int32), np.arange(3, dtype=np.uint8),
    np.full(700, np.nan), np.full(700, 1e300), np.full(700, -1), np.ones(700, np.bool_),
]  # fmt: skip


def data_of(kind: str) -> bytes:
    """The tiny Llama with a tokenizer of either kind."""
    tokens = tiny.bpe_pairs("llama-bpe") if kind == "bpe" else tiny.spm_pairs()
    return tiny.llama_bytes(tiny.llama_weights(factors=True), [*tiny.llama_pairs(**LEFT_OUT), *tokens])


def opened(data: bytes) -> GgufFile:
    return GgufFile(Path("model.gguf"), np.frombuffer(data, np.uint8))


def survives(data: bytes, change: tuple[str, Any] | None = None) -> bool:
    """Whether both could be made of the file, a network and a tokenizer; either may be refused."""
    made = 0
    try:
        file = opened(data)
    except EdgewiseError:
        return False
    if change:
        file.metadata[change[0]] = change[1]
    try:
        parameters = llama_parameters(file)
        made += len(dict(tensors(file, parameters))) > 0
        config_json(file, parameters, read_vocabulary(file))
    except EdgewiseError:
        pass
    try:
        text = tokenizer_json(read_vocabulary(file))
        made += Tokenizer(text.encode()).decode(Tokenizer(text.encode()).encode("a dog")) == "a dog"
    except EdgewiseError:
        pass
    return made == 2


@pytest.mark.parametrize("kind", ["bpe", "spm"])
def test_untouched(kind: str) -> None:
    assert survives(data_of(kind))


@pytest.mark.parametrize("kind", ["bpe", "spm"])
def test_odd_values(kind: str) -> None:
    """Every value of the metadata replaced by each of some two dozen others: of other types, sizes and ranges."""
    data = data_of(kind)
    keys = list(opened(data).metadata)
    outcomes = {survives(data, change) for change in itertools.product(keys, ODD)}
    assert outcomes == {True, False}


@pytest.mark.parametrize("kind", ["bpe", "spm"])
def test_random_damage(kind: str) -> None:
    data = data_of(kind)
    generator = np.random.default_rng(11)
    outcomes = [survives(mutate(data, generator)) for _ in range(400)]
    assert 0 < sum(outcomes) < len(outcomes)


def test_damaged_tokens() -> None:
    """Tokens are cut and joined: whatever they are, the result is JSON."""
    generator = np.random.default_rng(12)
    data = data_of("spm")
    for _ in range(50):
        file = opened(data)
        tokens = list(file.metadata["tokenizer.ggml.tokens"])  # type: ignore[arg-type]
        for _ in range(20):
            at, other = generator.integers(260, len(tokens), 2)
            tokens[at] = tokens[other] * int(generator.integers(2, 9)) + chr(generator.integers(0x20, 0xD800))
        file.metadata["tokenizer.ggml.tokens"] = tokens
        try:
            json.loads(tokenizer_json(read_vocabulary(file)))
        except EdgewiseError:
            continue
