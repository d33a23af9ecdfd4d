"""Folders of mBART, mBART-50, M2M-100 and NLLB that transformers 4.57.1 wrote: read as by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgewise.models.open import open_checkpoint

from .folders import write_json
from .multilingual import CODES, language_ids, write_tokenizer

pytestmark = pytest.mark.slow
GOLDENS = Path(__file__).parent / "goldens" / "multilingual_4_57_1.json"
OLDER: dict[str, dict[str, Any]] = json.loads(GOLDENS.read_text())
SOURCE, TARGET = [7, 9, 130, 22, 11, 2], [2, 8, 121, 5]


def older_folder(folder: Path, network: str) -> Path:
    """The files of that release, parameters by the formula of ``goldens/make_multilingual_configs.py``."""
    write_tokenizer(folder, network.partition(",")[0])
    tensors = {}
    for name, shape in OLDER[network]["shapes"].items():
        places = torch.arange(int(torch.Size(shape).numel()), dtype=torch.float64) + len(name)
        tensors[name] = (torch.sin(places * 0.7).view(*shape) * 0.4).float()
    save_file(tensors, folder / "model.safetensors")
    for file in ("config", "generation_config"):
        write_json(folder / f"{file}.json", OLDER[network][file])
    return folder


@pytest.mark.parametrize("network", OLDER)
def test_folders_of_an_older_release_are_read_as_by_itself(network: str, tmp_path: Path, assert_close: Any) -> None:
    golden = OLDER[network]
    assert golden["config"]["transformers_version"] == "4.57.1"
    checkpoint = open_checkpoint(older_folder(tmp_path / "old", network))
    model, source, target = checkpoint.model, torch.tensor([SOURCE]), torch.tensor([TARGET])
    mask, places = torch.ones_like(source, dtype=torch.bool), torch.arange(len(TARGET))[None]
    with torch.no_grad():
        cross, seen = model.cross_key_value(model.encode(source, mask)), torch.ones_like(target, dtype=torch.bool)
        found = model.logits(model.decode(target, places, seen, cross=cross, cross_mask=mask)[0])
    assert_close(found[0, :, :6], torch.tensor(golden["logits"]), atol=2e-5)
    said = golden["generation_config"]
    assert checkpoint.beam_size == said.get("num_beams", 1)
    limit = said.get("max_length")
    prompt = 1 if network.partition(",")[0] == "mbart" else 2
    assert checkpoint.decoding.get("max_new_tokens") == (limit and limit - prompt)
    languages = model.config.languages
    assert languages is not None and languages.tokens == language_ids(tmp_path / "old", network.partition(",")[0])
    default = CODES["mbart"][0] if prompt == 1 else None
    assert languages.default_target == default
