"""The real thing: SmolLM2-135M-Instruct, quantized to Q4_1 by others, beside llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgewise.models.gguf.llama import LlamaParameters, llama_parameters, llama_tensor, tensor_shapes
from edgewise.models.gguf.reader import GgufFile, open_gguf
from edgewise.models.gguf.tokenizer import tokenizer_json
from edgewise.models.gguf.vocabulary import read_vocabulary
from edgewise.runtime.chat import ChatTemplate

from .lines import WRITTEN
from .naive_llama import forward
from .real_lines import SMOLLM2, SOURCES, chunks, digest
from .tiny import GOLDENS

pytestmark = pytest.mark.real
TOKENS = json.loads((GOLDENS / "smollm2_tokens.json").read_text())
LOGITS = json.loads((GOLDENS / "smollm2_logits.json").read_text())
NOT_IN_THE_VOCABULARY = dict.fromkeys(map(ord, "\x04\x06\x13\x14\x16\x1d"))  # bytes without a token: lost
MADE_BY_RULE = ("written", "runs", "mixed", "code points")
Weights = tuple[dict[str, NDArray[np.float32]], LlamaParameters]


@pytest.fixture(scope="module")
def file(models: Callable[[str], Path]) -> GgufFile:
    return open_gguf(models(SMOLLM2.parent.name) / SMOLLM2.name)


@pytest.fixture(scope="module")
def tokenizer(file: GgufFile) -> Tokenizer:
    return Tokenizer.from_str(tokenizer_json(read_vocabulary(file)))


@pytest.fixture(scope="module")
def weights(file: GgufFile) -> Weights:
    parameters = llama_parameters(file)
    return {name: llama_tensor(file, parameters, name) for name in tensor_shapes(parameters)}, parameters


def encode(tokenizer: Tokenizer, line: str, special: bool = False) -> list[int]:
    tokenizer.encode_special_tokens = not special
    ids: list[int] = tokenizer.encode(line, add_special_tokens=False).ids
    return ids


def test_parameters(file: GgufFile) -> None:
    assert llama_parameters(file) == {
        "n_layers": 30, "d_model": 576, "n_heads": 9, "n_kv_heads": 3, "head_dim": 64, "d_ff": 1536,
        "vocab_size": 49152, "max_positions": 8192, "norm_epsilon": float(np.float32(1e-5)), "rope_theta": 100_000.0,
        "rope_scale": 1.0, "rope_factors": None, "tied": True,
    }  # fmt: skip


def test_vocabulary(file: GgufFile) -> None:
    found = read_vocabulary(file)
    assert (found.start_id, found.end_id, found.unknown_id, found.pad_id) == (1, 2, 0, 2)
    assert (found.adds_start, found.adds_end, found.adds_space) == (False, False, False)
    # llama.cpp also stops at <reponame>, which it takes for a mark of code that is filled in.
    assert found.end_ids == set(TOKENS["end_ids"]) - {found.tokens.index("<reponame>")}


def test_every_tensor_is_what_the_library_says(file: GgufFile) -> None:
    for tensor in gguf.GGUFReader(file.path).tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(file.tensor(tensor.name), expected, err_msg=tensor.name)


def test_tokens_of_the_written_lines(tokenizer: Tokenizer) -> None:
    for line, ids in zip(WRITTEN, TOKENS["full"], strict=True):
        assert encode(tokenizer, line, special=True) == ids, repr(line)


@pytest.mark.parametrize("source", SOURCES)
def test_tokens_are_those_of_llama_cpp(tokenizer: Tokenizer, source: str, request: pytest.FixtureRequest) -> None:
    folder = Path() if source in MADE_BY_RULE else request.getfixturevalue("assets")
    listed = list(SOURCES[source](folder))
    for name, special in (("plain", False), ("special", True)):
        found = [digest(encode(tokenizer, line, special) for line in chunk) for chunk in chunks(listed)]
        assert found == TOKENS["digests"][source][name]


@pytest.mark.parametrize("source", SOURCES)
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, source: str, request: pytest.FixtureRequest) -> None:
    folder = Path() if source in MADE_BY_RULE else request.getfixturevalue("assets")
    for line in SOURCES[source](folder):
        decoded = tokenizer.decode(encode(tokenizer, line, special=True), skip_special_tokens=False)
        assert decoded == line.translate(NOT_IN_THE_VOCABULARY)


def test_chat_template(file: GgufFile, tokenizer: Tokenizer) -> None:
    """ChatML, as the model's card shows it."""
    found = read_vocabulary(file)
    assert found.chat_template is not None
    text = ChatTemplate(found.chat_template).render([{"role": "user", "content": "What is the capital of France?"}])
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = encode(tokenizer, text, special=True)
    assert [found.tokens[i] for i in ids if i in (1, 2)] == ["<|im_start|>", "<|im_end|>"] * 2 + ["<|im_start|>"]


def test_logits_are_those_of_llama_cpp(tokenizer: Tokenizer, weights: Weights) -> None:
    assert encode(tokenizer, "The capital of France is") == LOGITS["ids"]
    for row, best, expected in zip(forward(*weights, LOGITS["ids"]), LOGITS["best"], LOGITS["logits"], strict=True):
        assert np.argsort(-row)[: len(best)].tolist() == best
        np.testing.assert_allclose(row[best], expected, rtol=0, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "beginning", "perplexity"), [("wikitext2_test.txt", "", 25.49), ("alice_body.txt", "CHAPTER I", 22.80)]
)
def test_perplexity(
    assets: Path, tokenizer: Tokenizer, weights: Weights, name: str, beginning: str, perplexity: float
) -> None:
    """Of the first 4 windows of 512 tokens."""
    text = (assets / "text" / name).read_text(encoding="utf-8")
    ids = encode(tokenizer, text[text.index(beginning) :][:20_000])
    total = 0.0
    for start in range(0, 2048, 512):
        window = ids[start : start + 512]
        logits = forward(*weights, window)[:-1].astype(np.float64)
        of_next = np.take_along_axis(logits, np.array(window[1:])[:, None], axis=1)[:, 0]
        total += (np.logaddexp.reduce(logits, axis=1) - of_next).sum()
    assert np.exp(total / (4 * 511)) == pytest.approx(perplexity, abs=0.01)
