"""Gemmas, GPT-2s and Phi-3s in GGUF files: logits of llama.cpp, and tokens of ``transformers``, by the same file."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from tokenizers import Tokenizer

import edgewise
from edgewise.errors import CheckpointError
from edgewise.models.open import open_checkpoint

from ...bundles import export_few
from . import tiny
from .gemma import CONTEXT, HEAD_DIM, LAYERS, WINDOW, write_gemma
from .written import library_llama

pytestmark = pytest.mark.slow
GOLDEN: dict[str, Any] = json.loads((tiny.GOLDENS / "tiny_gemma.json").read_text())


def rounded_gelu(x: torch.Tensor) -> torch.Tensor:
    """As ``ggml_vec_gelu_f32``, which looks it up in a table by half precision (``ggml/src/ggml-cpu/vec.h``)."""
    found = torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
    return torch.where(x <= -10, 0.0, torch.where(x >= 10, x, found))


def logits_of(path: Path, ids: list[int]) -> Any:
    model, row = open_checkpoint(path).model, torch.tensor([ids])
    assert model.decoder is not None and model.config.decoder is not None
    for layer in model.decoder.layers if model.config.decoder.activation == "gelu_tanh" else ():
        layer.feed_forward.activation = rounded_gelu  # type: ignore[union-attr]
    states = model.decode(row, torch.arange(row.shape[1])[None], torch.ones_like(row, dtype=torch.bool))[0]
    return model.logits(states)[0].numpy()


@pytest.mark.parametrize("case", GOLDEN["logits"])
@torch.no_grad()
def test_logits_are_those_of_llama_cpp(case: str, tmp_path: Path) -> None:
    architecture, tied = case.split(", ")
    path = write_gemma(tmp_path / "tiny.gguf", architecture, tied=tied == "tied")
    found, expected = logits_of(path, GOLDEN["ids"])[:, :: GOLDEN["every"]], np.array(GOLDEN["logits"][case])
    difference = np.abs(found - expected)
    # A last bit of float32 decides which number of half precision is looked up: few differ, and by as much as that.
    assert np.median(difference) <= 2e-5
    assert difference.max() <= 1e-3


FIELDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2": (
        "Gemma2",
        {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 6.0, "query_pre_attn_scalar": HEAD_DIM},
    ),
    "gemma3": (
        "Gemma3Text",
        {
            "query_pre_attn_scalar": HEAD_DIM,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
        },
    ),
    "phi3": (
        "Phi3",
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.75},
            "pad_token_id": 0,
        },
    ),
    "gpt2": ("GPT2", {"n_inner": 96, "n_positions": CONTEXT}),
}


def library_of(path: Path, architecture: str) -> Any:
    """The network as ``transformers`` reads it, with ``fields`` of its configuration that it does not find there."""
    kind, fields = FIELDS[architecture]
    return library_llama(path, kind, **fields)


@pytest.mark.parametrize("architecture", LAYERS)
def test_a_bundle_continues_text_as_the_library_does(architecture: str, tmp_path: Path) -> None:
    """Matrices in Q8_0, which the library dequantizes by code of its own."""
    file = write_gemma(tmp_path / "tiny.gguf", architecture, kind=Kind.Q8_0, std=0.15)  # as int8 is meant for
    library = library_of(file, architecture)
    precisions = ("fp32", "int8") if architecture != "gemma3" else ("fp32",)  # its seven layers take long
    export_few(file, tmp_path / "bundle", precisions=precisions)
    tokenizer = Tokenizer.from_file(str(tmp_path / "bundle" / "tokenizer.json"))
    for target, precision in itertools.product(("cpu", "openvino"), precisions):
        with edgewise.load(tmp_path / "bundle", target, precision, threads=1) as session:
            report = session.verify()
            # Random networks are undecided nearly everywhere: the share of equal tokens says nothing in integers.
            undecided = "of the top-1 tokens agree" if precision == "int8" else "nothing"
            assert not [fault for fault in report.faults if undecided not in fault], report.table()
            for text in ("The man", "schön 👧, 12+30=") if precision == "fp32" else ():
                prompt = torch.tensor([tokenizer.encode(text).ids])
                found = session.generate(text, max_new_tokens=24)
                assert list(found.source_tokens) == prompt[0].tolist()
                options: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": 2}
                expected = library.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
                assert list(found.tokens) == expected[0, prompt.shape[1] :].tolist()


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "windows otherwise": (
        "gemma2",
        {"attention__sliding_window_pattern": 3},
        "'gemma2.attention.sliding_window_pattern' is 3, expected 2",
    ),
    "other near positions": ("gemma2", {"rope__freq_base_swa": 5.0}, "'gemma2.rope.freq_base_swa' is 5.0, expected"),
    "scores with a cap": ("gemma3", {"attn_logit_softcapping": 50.0}, "a Gemma 3 with attn_logit_softcapping"),
    "no cap": ("gemma3", {"final_logit_softcapping": -1.0}, "'gemma3.final_logit_softcapping' is -1.0, expected a pos"),
    "not understood": ("gemma3", {"expert_count": 2}, r"has gemma3 keys \['expert_count'\], which may change the math"),
    "of a Llama": ("gpt2", {"rope__freq_base": 5.0}, r"has gpt2 keys \['rope.freq_base'\], which may change the math"),
    "no window": ("phi3", {"attention__sliding_window": -1}, "'phi3.attention.sliding_window' is -1, expected a size"),
    "scaled": (
        "phi3",
        {"rope__scaling__type": "linear", "rope__scaling__factor": 2.0},
        "a Phi-3 with scaled positions, expected none",
    ),
    "rows": ("gpt2", {"vocab_size": 3}, "'gpt2.vocab_size' is 3, the embedding has"),
}


@pytest.mark.parametrize(("architecture", "change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(architecture: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = write_gemma(tmp_path / "tiny.gguf", architecture, **change)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(file)


def test_windows_are_where_the_file_says(tmp_path: Path) -> None:
    file = write_gemma(tmp_path / "tiny.gguf", "gemma3", attention__sliding_window_pattern=4, rope__freq_base_swa=77.0)
    config = open_checkpoint(file).model.config
    assert config.decoder is not None
    assert config.window_rope is not None
    assert (config.decoder.window, config.decoder.windowed_layers) == (WINDOW, (0, 1, 2, 4, 5, 6))
    assert config.window_rope.theta == 77.0


def test_a_phi3_has_the_window_that_the_file_says(tmp_path: Path) -> None:
    for window, expected in ((7, 7), (0, None)):
        file = write_gemma(tmp_path / "tiny.gguf", "phi3", attention__sliding_window=window)
        config = open_checkpoint(file).model.config
        assert config.decoder is not None and config.rope is not None
        assert (config.decoder.window, config.rope.rotary_dim) == (expected, 12)


def test_a_phi3_turns_an_even_part(tmp_path: Path) -> None:
    file = write_gemma(tmp_path / "tiny.gguf", "phi3")
    key = b"phi3.rope.dimension_count" + (4).to_bytes(4, "little")
    file.write_bytes(file.read_bytes().replace(key + (12).to_bytes(4, "little"), key + (18).to_bytes(4, "little")))
    with pytest.raises(CheckpointError, match=r"'phi3.rope.dimension_count' is 18, expected an even size to 16"):
        open_checkpoint(file)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"blk.1.attn_qkv.bias", b"blk.1.attn_qkv.bios", "missing blk.1.attn_qkv.bias; unexpected blk.1.attn_qkv.bios"),
        (b"gpt2.attention.layer_norm_epsilon", b"gpt2.attention.layer_norm_epsilom", "keys .*layer_norm_epsilom"),
    ],
)
def test_a_gpt2_is_read_strictly(old: bytes, new: bytes, message: str, tmp_path: Path) -> None:
    file = write_gemma(tmp_path / "tiny.gguf", "gpt2")
    file.write_bytes(file.read_bytes().replace(old, new))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(file)


def test_heads_that_do_not_share_the_width(tmp_path: Path) -> None:
    file = write_gemma(tmp_path / "tiny.gguf", "gpt2")
    key = b"gpt2.attention.head_count" + (4).to_bytes(4, "little")
    file.write_bytes(file.read_bytes().replace(key + (4).to_bytes(4, "little"), key + (5).to_bytes(4, "little")))
    with pytest.raises(CheckpointError, match=r"d_model \(64\) must be a multiple of n_heads \(5\)"):
        open_checkpoint(file)


def test_an_output_that_is_stored_again_is_the_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As older converters write it."""
    from . import gemma

    alone = gemma.weights("gpt2", 700, True)
    monkeypatch.setattr(gemma, "weights", lambda *_: {**alone, "output.weight": alone["token_embd.weight"]})
    monkeypatch.setattr(gemma, "_byte_level", lambda writer, read=gemma._byte_level: min(700, read(writer)))
    assert open_checkpoint(gemma.write_gemma(tmp_path / "tiny.gguf", "gpt2")).model.config.tied
