"""GPT-2 against ``transformers``, from the folder to the bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from safetensors.torch import load_file, save_file

from edgewise.errors import CheckpointError, ConfigError
from edgewise.models.checkpoint import read_json, read_tensors
from edgewise.models.families.family import Facts, build
from edgewise.models.families.gpt2 import GPT2
from edgewise.models.open import open_checkpoint

from .decoders import Compare, check_bundle, check_engines, check_reference, check_switches, decoder_folder
from .folders import change_json

pytestmark = pytest.mark.slow
CASES: dict[str, dict[str, Any]] = {
    "as published": {},
    "untied": {"tie_word_embeddings": False, "n_inner": 40, "activation_function": "relu", "layer_norm_epsilon": 0.1},
}


def gpt2_folder(folder: Path, std: float = 0.2, **config: Any) -> Path:
    fields = {"vocab_size": 304, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "eos_token_id": 0}
    made = transformers.GPT2Config(**{**fields, "bos_token_id": 1, **config})
    return decoder_folder(folder, made, seed=7, std=std, starts="n_inner" in config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: gpt2_folder(tmp_path_factory.mktemp("gpt2") / "tiny", **CASES[case]))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_tokens_are_those_of_the_library(
    case: str, folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    check_reference(folder(case), assert_close)
    check_engines(folder(case), tmp_path, assert_close)


def test_a_case_tells_its_switches_apart(folder: Callable[[str], Path]) -> None:
    check_switches(folder("untied"), {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5})


def test_without_an_end_token_it_is_that_of_gpt2(tmp_path: Path) -> None:
    """As ``GPT2Config`` has it; the vocabulary here is too small for it, and says so."""
    folder = gpt2_folder(tmp_path / "tiny")
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            fields = json.loads((folder / name).read_text())
            fields.pop("eos_token_id", None)
            (folder / name).write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match=r"_id \(50256\) must be a token id below"):
        open_checkpoint(folder)
    assert transformers.GPT2Config().eos_token_id == 50256


def test_a_bundle_replays_the_reference(tmp_path: Path) -> None:
    check_bundle(gpt2_folder(tmp_path / "tiny", n_embd=64, n_positions=96), tmp_path / "bundle")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True, expected False"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, expected True"),
        ({"add_cross_attention": True}, "add_cross_attention is True, expected False"),
        ({"new_setting": 3}, r"new_setting \(3\) is not understood"),
    ],
)
def test_other_mathematics_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = gpt2_folder(tmp_path / "tiny")
    change_json(folder / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(folder)


def test_a_start_token_that_is_not_the_configured_one(folder: Callable[[str], Path], tmp_path: Path) -> None:
    made = gpt2_folder(tmp_path / "tiny", n_inner=40)
    assert open_checkpoint(made).model.config.starts_text
    change_json(made / "config.json", bos_token_id=5)
    with pytest.raises(ConfigError, match=r"puts \(1,\) before and \(\) after a text, expected bos_token_id \(5\)"):
        open_checkpoint(made)


def test_a_fused_matrix_that_cannot_be_cut(tmp_path: Path) -> None:
    folder = gpt2_folder(tmp_path / "tiny")
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.h.1.attn.c_attn.bias"] = torch.zeros(95)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"c_attn.bias has shape \(95,\), expected 3 equal parts"):
        open_checkpoint(folder)


def test_what_the_first_release_holds(tmp_path: Path, folder: Callable[[str], Path]) -> None:
    """No prefix before the names, and the masks of old implementations."""
    place = folder("as published")
    tensors = {name.removeprefix("transformer."): t for name, t in load_file(place / "model.safetensors").items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
    config = {**read_json(place / "config.json"), "n_ctx": 64, "_num_labels": 1, "predict_special_tokens": True}
    model = build(GPT2, config, tensors, Facts(), "elsewhere")
    assert torch.equal(model.embedding.weight, open_checkpoint(place).model.embedding.weight)


@pytest.mark.real
@torch.no_grad()
def test_a_trained_one_sorts_all_its_letters(assets: Path) -> None:
    """Six letters in, the same six sorted out: 729 of 729, as its authors trained it to."""
    folder = assets / "tiny-models" / "gpt-nano-sort-hf"
    config = {**read_json(folder / "config.json"), "bos_token_id": 0}
    model = build(GPT2, config, read_tensors(folder / "model.safetensors"), Facts(eos=2), str(folder)).eval()
    ids = torch.tensor(list(product(range(3), repeat=6)))
    for _ in range(6):
        states = model.decode(ids, torch.arange(ids.shape[1]).expand_as(ids), torch.ones_like(ids, dtype=torch.bool))[0]
        ids = torch.cat([ids, model.logits(states[:, -1]).argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(ids[:, 6:], ids[:, :6].sort(dim=1).values)
