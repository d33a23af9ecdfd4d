"""Qwens and SmolLM3s in GGUF files: logits of llama.cpp, and tokens of ``transformers``, which reads the same file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from tokenizers import Tokenizer

import edgewise
from edgewise.errors import CheckpointError
from edgewise.models.gguf.llama import llama_parameters
from edgewise.models.gguf.reader import open_gguf
from edgewise.models.open import open_checkpoint

from ...bundles import export_few
from . import tiny
from .qwen import HEAD_DIM, write_qwen
from .written import library_llama

pytestmark = pytest.mark.slow
Compare = Callable[..., None]
GOLDEN: dict[str, Any] = json.loads((tiny.GOLDENS / "tiny_qwen.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["logits"])
@torch.no_grad()
def test_logits_are_those_of_llama_cpp(case: str, tmp_path: Path) -> None:
    architecture, tied = case.split(", ")
    model = open_checkpoint(write_qwen(tmp_path / "tiny.gguf", architecture, tied=tied == "tied")).model
    ids = torch.tensor([GOLDEN["ids"]])
    states = model.decode(ids, torch.arange(ids.shape[1])[None], torch.ones_like(ids, dtype=torch.bool))[0]
    found = model.logits(states)[0, :, :: GOLDEN["every"]].numpy()
    np.testing.assert_allclose(found, np.array(GOLDEN["logits"][case]), rtol=1e-4, atol=1e-4)
    assert model.config.decoder is not None
    assert model.config.decoder.query_key_norm == (architecture == "qwen3")
    assert model.config.decoder.unturned_layers == ((3,) if architecture == "smollm3" else ())


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])  # the library reads no SmolLM3 in this format
def test_a_bundle_continues_text_as_the_library_does(architecture: str, tmp_path: Path) -> None:
    """Matrices in Q8_0, which the library dequantizes by code of its own."""
    file = write_qwen(tmp_path / "tiny.gguf", architecture, tied=True, kind=Kind.Q8_0)
    width = {"head_dim": HEAD_DIM[architecture]} if architecture == "qwen3" else {}
    library = library_llama(file, architecture.capitalize(), **width)
    export_few(file, tmp_path / "bundle", precisions=("fp32",))
    tokenizer = Tokenizer.from_file(str(tmp_path / "bundle" / "tokenizer.json"))
    for target in ("cpu", "openvino"):
        with edgewise.load(tmp_path / "bundle", target, "fp32", threads=1) as session:
            assert session.verify().ok
            for text in ("The man", "schön 👧, 12+30="):
                prompt = torch.tensor([tokenizer.encode(text).ids])
                found = session.generate(text, max_new_tokens=24)
                assert list(found.source_tokens) == prompt[0].tolist()
                options: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": 2}
                expected = library.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
                assert list(found.tokens) == expected[0, prompt.shape[1] :].tolist()


def test_tensors_of_another_architecture(tmp_path: Path) -> None:
    data = write_qwen(tmp_path / "tiny.gguf", "qwen2", tied=True).read_bytes()
    (tmp_path / "tiny.gguf").write_bytes(data.replace(b"blk.1.attn_k.bias", b"blk.1.attn_k.bios"))
    message = "missing blk.1.attn_k.bias; unexpected blk.1.attn_k.bios"
    with pytest.raises(CheckpointError, match=message):
        llama_parameters(open_gguf(tmp_path / "tiny.gguf"))
    (tmp_path / "tiny.gguf").write_bytes(data.replace(b"qwen2.context_length", b"qwen2.context_lengte"))
    with pytest.raises(CheckpointError, match=r"has qwen2 keys \['context_lengte'\], which may change the mathematics"):
        llama_parameters(open_gguf(tmp_path / "tiny.gguf"))
