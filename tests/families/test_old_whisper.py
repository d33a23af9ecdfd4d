"""Folders of Whisper that transformers 4.57.1 wrote: read as by itself, and the same tokens written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgewise.models import decode
from edgewise.models.heard import Heard
from edgewise.models.open import open_checkpoint
from edgewise.runtime.engine import Floats
from edgewise.runtime.rules import Rule, Suppress
from edgewise.runtime.speech_rules import BeginSuppress, Timestamps

from .folders import write_json
from .whisper_folders import whisper_tokenizer

pytestmark = pytest.mark.slow
GOLDENS = Path(__file__).parent / "goldens" / "whisper_4_57_1.json"
OLDER: dict[str, dict[str, Any]] = json.loads(GOLDENS.read_text())
START, TARGET = 281, [281, 9, 130, 22, 292]


def older_folder(folder: Path, network: str) -> Path:
    """The files of that release, parameters by the formula of ``goldens/make_whisper_configs.py``."""
    folder.mkdir()
    tensors = {}
    for name, shape in OLDER[network]["shapes"].items():
        places = torch.arange(int(torch.Size(shape).numel()), dtype=torch.float64) + len(name)
        tensors[name] = (torch.sin(places * 0.7).view(*shape) * 0.4).float()
    save_file(tensors, folder / "model.safetensors")
    for file in ("config", "generation_config"):
        write_json(folder / f"{file}.json", OLDER[network][file])
    (folder / "tokenizer.json").write_text(whisper_tokenizer().to_str())
    return folder


def features() -> torch.Tensor:
    """One window ``(1, 8, 60)``, by the same formula."""
    return torch.cos(torch.arange(480, dtype=torch.float64) * 0.9).view(1, 8, 60).float()


@pytest.mark.parametrize("network", OLDER)
@torch.no_grad()
def test_folders_of_an_older_release_are_read_as_by_itself(network: str, tmp_path: Path, assert_close: Any) -> None:
    golden = OLDER[network]
    assert golden["config"]["transformers_version"] == "4.57.1"
    model = open_checkpoint(older_folder(tmp_path / "old", network)).model
    target, places = torch.tensor([TARGET]), torch.arange(len(TARGET))[None]
    memory = decode.remember(model, [Heard(features()[0], ())])
    seen = torch.ones_like(target, dtype=torch.bool)
    found = model.logits(model.decode(target, places, seen, cross=memory.cross, cross_mask=memory.mask)[0])
    assert_close(found[0, :, ::40], torch.tensor(golden["logits"]), atol=2e-5)


@pytest.mark.parametrize("network", OLDER)
def test_what_that_release_wrote_down(network: str, tmp_path: Path) -> None:
    """The most probable token of the whole prefix, over and over, once the rules have been applied."""
    golden, checkpoint = OLDER[network], open_checkpoint(older_folder(tmp_path / "old", network))
    model, speech = checkpoint.model, checkpoint.model.config.speech
    assert speech is not None
    rules: list[Rule] = [Suppress(tuple(map(tuple, checkpoint.decoding["suppress"]))), BeginSuppress((220, 280))]
    assert speech.begin_suppress == (220, 280)
    prompt = golden["written"][: golden["written"].index(START) + (3 if speech.languages else 1)]
    if golden["asked"].get("return_timestamps"):
        rules.append(
            Timestamps(speech.no_timestamps_id + 1, 280, speech.no_timestamps_id, speech.max_initial_timestamp)
        )
    else:
        prompt.append(speech.no_timestamps_id)
    if speech.languages:
        assert prompt == [START, speech.languages["de"], speech.translate_id, speech.no_timestamps_id]
    memory, new = decode.remember(model, [Heard(features()[0], ())]), list[int]()
    with torch.inference_mode():
        while len(new) < len(golden["written"]) - len(prompt):
            logits: Floats = decode.next_logits(model, memory, [[*prompt, *new]])[0].numpy().copy()
            for rule in rules:
                rule.apply(logits, [*prompt, *new], new)
            new.append(int(logits.argmax()))
    assert [*prompt, *new] == golden["written"]
