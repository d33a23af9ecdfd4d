"""A GGUF file as a checkpoint: the network that ``transformers`` reads from it, and what the file says beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise.errors import CheckpointError, ConfigError, TokenizerError
from edgewise.models.gguf.network import MAX_CONTEXT
from edgewise.models.open import open_checkpoint
from edgewise.runtime.tokenizer import Tokenizer

from .written import CONTEXT, library_llama, write_llama


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@torch.no_grad()
def test_logits_are_those_of_the_library(tied: bool, tmp_path: Path, assert_close: Callable[..., None]) -> None:
    path = write_llama(tmp_path / "tiny.gguf", tied=tied)
    ids = torch.randint(4, 700, (3, CONTEXT), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(CONTEXT) < torch.tensor([[CONTEXT], [1], [37]])
    model = open_checkpoint(str(path)).model
    logits = model.logits(model.decode(ids, torch.arange(CONTEXT).expand_as(ids), mask)[0])
    expected = library_llama(path)(ids, attention_mask=mask.long()).logits
    assert_close(logits[mask], expected[mask], atol=5e-5)


def test_what_the_file_says(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "7 Tiny.Q8_0.gguf")
    checkpoint = open_checkpoint(path)
    assert (checkpoint.name, checkpoint.max_context, checkpoint.beam_size) == ("m-7-Tiny.Q8_0", CONTEXT, 1)
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not checkpoint.model.training
    config = checkpoint.model.config
    assert (config.start_id, config.end_id, config.pad_id, config.starts_text) == (1, 2, 2, False)
    assert checkpoint.notice == (
        "apache-2.0\n\nAs stated in the metadata of 7 Tiny.Q8_0.gguf:\n"
        "general.license: apache-2.0\ngeneral.organization: Tiny Ltd\n"
    )
    checkpoint.write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = Tokenizer.open(tmp_path / "tokenizer.json")
    assert tokenizer.decode(tokenizer.encode("Zwei Hunde, 12 <tool>")) == "Zwei Hunde, 12 <tool>"
    assert tokenizer.vocab_size == config.vocab_size == 700


@pytest.mark.parametrize(
    ("tokenizer", "said", "starts"),
    [
        ("smollm", None, False),
        ("smollm", True, True),
        ("llama-bpe", None, True),
        ("llama-bpe", False, False),
        ("llama", None, True),
        ("llama", False, False),
    ],
)
def test_whether_a_text_begins_with_the_start_token(
    tokenizer: str, said: bool | None, starts: bool, tmp_path: Path
) -> None:
    path = write_llama(tmp_path / "t.gguf", tokenizer=tokenizer, tokenizer__ggml__add_bos_token=said)
    assert open_checkpoint(path).model.config.starts_text is starts


@pytest.mark.parametrize(
    ("turn_end", "end", "recipe"),
    [
        (None, 0, "a text ends at '<|endoftext|>', and at '<|im_end|>'"),
        (2, 2, "a text ends at '<|im_end|>', and at '<|endoftext|>'"),
    ],
)
def test_a_text_ends_at_the_end_of_a_turn(turn_end: int | None, end: int, recipe: str, tmp_path: Path) -> None:
    ids = {"tokenizer__ggml__eos_token_id": 0, "tokenizer__ggml__eot_token_id": turn_end}
    checkpoint = open_checkpoint(write_llama(tmp_path / "t.gguf", **ids))
    assert checkpoint.model.config.end_id == end
    assert checkpoint.training["recipe"] == f"llama, read from a GGUF file; {recipe}"


def test_only_one_end(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_llama(tmp_path / "t.gguf", tokenizer="llama"))
    assert checkpoint.training["recipe"] == "llama, read from a GGUF file; a text ends at '</s>'"


def test_a_long_context_is_cut(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_llama(tmp_path / "t.gguf", llama__context_length=2**31 - 1))
    assert checkpoint.max_context == checkpoint.model.config.max_positions == MAX_CONTEXT


def test_an_embedding_may_have_more_rows_than_there_are_tokens(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_llama(tmp_path / "t.gguf", rows=4))
    assert checkpoint.model.config.vocab_size == 704


@pytest.mark.parametrize(
    ("change", "first_line"),
    [
        ({"general__license": None}, ""),
        ({"general__license": " \n"}, ""),
        ({"general__license": "other", "general__license__name": "llama3\x00\x1b[2J\n4"}, "llama3 [2J 4"),
        ({"general__license": "x" * 30_000}, "x" * 500),
    ],
)
def test_licences(change: dict[str, Any], first_line: str, tmp_path: Path) -> None:
    notice = open_checkpoint(write_llama(tmp_path / "t.gguf", **change)).notice
    assert notice.partition("\n")[0] == first_line
    assert bool(notice) == bool(first_line)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rows": -1}, CheckpointError, r"t\.gguf: has 700 tokens, its embedding 699 rows"),
        (
            {"tokenizer__ggml__eos_token_id": None},
            CheckpointError,
            r"t\.gguf: has no metadata 'tokenizer\.ggml\.eos_token_id', expected the id of a token",
        ),
        (
            {"tokenizer__ggml__bos_token_id": None},
            CheckpointError,
            r"t\.gguf: has no metadata 'tokenizer\.ggml\.bos_token_id', expected the id of a token",
        ),
        ({"tokenizer__ggml__add_eos_token": True}, ConfigError, r"puts \(\) before and \(2,\) after a text, expected"),
        ({"tokenizer": "tekken"}, TokenizerError, "pre-tokenizer 'tekken' is not converted, expected one of"),
        ({"general__license": 4}, CheckpointError, r"metadata 'general\.license' is 4, expected str"),
        ({"general__architecture": "bert"}, CheckpointError, "of architecture 'bert', expected 'llama' or"),
        ({"llama__attention__sliding_window": 8}, CheckpointError, r"has llama keys \['attention.sliding_window'\]"),
    ],
)
def test_refused(change: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    path = write_llama(tmp_path / "t.gguf", **change)
    with pytest.raises(error, match=message):
        open_checkpoint(path)


def test_a_file_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"PK\x03\x04" * 10)
    with pytest.raises(CheckpointError, match=r"begins with b'PK.*, expected b'GGUF': not a GGUF file"):
        open_checkpoint(path)
