"""The family of ``examples/gpt2_family.py`` against ``transformers``, as anybody's own file is read."""

from __future__ import annotations

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
from edgewise.models.families.from_file import family_from_file
from edgewise.models.open import open_checkpoint
from edgewise.runtime.bundle.manifest import ModelSpec
from edgewise.runtime.decoding import Request, start_search
from edgewise.runtime.inputs import Prepared
from edgewise.runtime.options import DecodingOptions
from edgewise.runtime.search import finish

from ..open_model import open_model
from .folders import byte_level, change_json, randomize

pytestmark = pytest.mark.slow
FILE = Path(__file__).resolve().parents[2] / "examples" / "gpt2_family.py"
CASES: dict[str, dict[str, Any]] = {
    "as published": {},
    "untied": {"tie_word_embeddings": False, "n_inner": 40, "activation_function": "relu", "layer_norm_epsilon": 0.1},
}
Compare = Callable[..., None]


def gpt2_folder(folder: Path, **config: Any) -> Path:
    fields = {"vocab_size": 304, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "eos_token_id": 0}
    made = transformers.GPT2Config(**{**fields, "bos_token_id": 1, **config})
    randomize(transformers.GPT2LMHeadModel(made), seed=7, std=0.2).save_pretrained(folder)  # type: ignore[operator]
    (folder / "tokenizer.json").write_text(byte_level(starts=False).to_str())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: gpt2_folder(tmp_path_factory.mktemp("gpt2") / "tiny", **CASES[case]))


def library(folder: Path) -> Any:
    return transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_and_tokens_are_those_of_the_library(
    case: str, folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    ids = torch.randint(2, 300, (3, 60), generator=torch.Generator().manual_seed(5))
    mask = torch.arange(60) < torch.tensor([[60], [1], [37]])
    original, model = library(folder(case)), open_checkpoint(folder(case), FILE).model
    expected = original(ids, attention_mask=mask.long()).logits
    assert_close(model.logits(model.decode(ids, torch.arange(60).expand_as(ids), mask)[0])[mask], expected[mask])
    spec = ModelSpec.from_json(model.config.to_json())
    prompt = torch.tensor([[7, 40, 41]])
    tokens = original.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=30, do_sample=False, pad_token_id=2
    )
    for target in ("cpu", "openvino"):
        engine = open_model(model, target, tmp_path / target)
        logits = engine.decoder_logits(None, ids.numpy(), mask.numpy())
        assert_close(logits[mask.numpy()], expected[mask].numpy(), atol=1e-4)
        request = Request(source=Prepared(ids=(7, 40, 41)), limit=30)
        found = finish(start_search(engine, spec, [request], DecodingOptions(beam_size=1)))[0][0]
        assert list(found.tokens) == tokens[0, 3:].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True, expected False"),
        ({"add_cross_attention": True}, "add_cross_attention is True, expected False"),
        ({"new_setting": 3}, r"new_setting \(3\) is not understood"),
    ],
)
def test_other_mathematics_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = gpt2_folder(tmp_path / "tiny")
    change_json(folder / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(folder, FILE)


def test_a_fused_matrix_that_cannot_be_cut(tmp_path: Path) -> None:
    folder = gpt2_folder(tmp_path / "tiny")
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.h.1.attn.c_attn.bias"] = torch.zeros(95)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"c_attn.bias has shape \(95,\), expected 3 equal parts"):
        open_checkpoint(folder, FILE)


@pytest.mark.real
@torch.no_grad()
def test_a_trained_one_sorts_all_its_letters(assets: Path) -> None:
    """Six letters in, the same six sorted out: 729 of 729, as its authors trained it to."""
    folder = assets / "tiny-models" / "gpt-nano-sort-hf"
    config = {**read_json(folder / "config.json"), "bos_token_id": 0}
    family = family_from_file(FILE, folder)
    model = build(family, config, read_tensors(folder / "model.safetensors"), Facts(eos=2), str(folder)).eval()
    ids = torch.tensor(list(product(range(3), repeat=6)))
    for _ in range(6):
        states = model.decode(ids, torch.arange(ids.shape[1]).expand_as(ids), torch.ones_like(ids, dtype=torch.bool))[0]
        ids = torch.cat([ids, model.logits(states[:, -1]).argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(ids[:, 6:], ids[:, :6].sort(dim=1).values)
