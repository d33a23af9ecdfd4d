"""Model cards: they say what the files say, and those in the repository are rendered from what stands beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewise.models.card import ABOUT, CARD, card, main, notice
from edgewise.models.checkpoint import (
    NOTICE,
    TRAINING,
    current_scores,
    load_checkpoint,
    save_weights,
    write_scores,
)
from edgewise.models.recipes import RECIPES
from edgewise.models.transformer import Transformer

SHIPPED = sorted(path.parent for path in (Path(__file__).resolve().parents[2] / "checkpoints").glob(f"*/{TRAINING}"))


@pytest.fixture
def folder(tmp_path: Path, network: Callable[..., Transformer]) -> Path:
    save_weights(network("decoder").float(), tmp_path)
    facts = {"recipe": "captions-lm", "updates": 7, "dropout": 0.25, "curve": [{"update": 6.0}], "torch": "9.9"}
    (tmp_path / TRAINING).write_text(json.dumps(facts))
    return tmp_path


def test_a_card_holds_the_recipe_and_the_licence(folder: Path) -> None:
    text = card(folder)
    for part in ("| updates | 7 |", "| dropout on embeddings and residuals | 0.25 |", "6 updates done", "torch 9.9"):
        assert part in text
    assert "decoder: 3 layers, d_model 16" in text
    assert "non-commercial research and education, no other use" in text
    assert "not been scored yet" in text


def test_scores_are_shown_with_their_signatures(folder: Path) -> None:
    rows = [{"data": "val", "system": "this", "BLEU": 38.5}, {"data": "val", "system": "that", "BLEU": 12.0}]
    write_scores(folder, {"rows": rows, "signatures": {"BLEU": "nrefs:1|v:2"}, "notes": ["Ends count."]})
    text = card(folder)
    for part in ("| data | system | BLEU |", "| val | this | 38.5 |", "- BLEU: `nrefs:1|v:2`", "- Ends count."):
        assert part in text
    assert json.loads((folder / TRAINING).read_text())["recipe"] == "captions-lm"


def test_scores_of_other_weights_are_not_shown(folder: Path) -> None:
    write_scores(folder, {"rows": [{"data": "val", "system": "this", "BLEU": 38.5}]})
    assert current_scores(folder)
    model = load_checkpoint(folder).model
    model.embedding.weight[3, 3] += 1.0
    save_weights(model, folder)
    assert current_scores(folder) == {}
    assert "not been scored yet" in card(folder)


def test_the_command_writes_card_and_notice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(folder)])
    assert capsys.readouterr().out == f"{folder / CARD}\n"
    assert (folder / CARD).read_text() == card(folder)
    assert load_checkpoint(folder).notice == notice(folder) == ABOUT["captions-lm"].notice


def test_every_recipe_has_words_for_its_card() -> None:
    assert ABOUT.keys() == RECIPES.keys()


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_shipped_cards_are_fresh(folder: Path) -> None:
    training = json.loads((folder / TRAINING).read_text())
    if training["curve"][-1]["update"] < training["updates"]:
        pytest.skip(f"{folder.name} is still in training")
    remedy = "run python -m edgewise.models.card"
    assert (folder / CARD).read_text() == card(folder), remedy
    assert (folder / NOTICE).read_text() == notice(folder), remedy
    assert current_scores(folder), f"{folder.name} has no scores of these weights"
