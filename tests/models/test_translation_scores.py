"""Scoring a translation checkpoint: lines keep their order, the penalty is chosen on the validation text."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from edgewise.models import translation_scores
from edgewise.models.checkpoint import TOKENIZER, TRAINING, current_scores, save_weights
from edgewise.models.decode import beam_batch
from edgewise.models.tokenizer import as_text_only, train_bpe
from edgewise.models.transformer import Transformer
from edgewise.models.translation_scores import BEAM_SIZE, EXTRA_TOKENS, System, main, measure, translate

from ..tiny import tiny_model

LINES = ["a man rides", "two dogs run over the grass", "a girl", "the man and the girl run", "dogs"]


@pytest.fixture(scope="module")
def model() -> Transformer:
    """With positions enough that the longest translation is never cut."""
    return tiny_model(1, vocab_size=300, max_positions=90)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return as_text_only(train_bpe(LINES * 3, 300))


@pytest.mark.parametrize("system", [System(1, 0.0), System(3, 0.8)], ids=str)
def test_each_line_is_translated_as_if_alone(model: Transformer, tokenizer: Tokenizer, system: System) -> None:
    """Against the oracle, sentence by sentence and in the order of the lines."""
    expected = []
    with torch.inference_mode():
        for line in LINES:
            ids = [*tokenizer.encode(line).ids, model.config.end_id]
            ((best,),) = beam_batch(model, [ids], *system, len(ids) + EXTRA_TOKENS)
            expected.append(tokenizer.decode(list(best.tokens)))
    assert translate(model, tokenizer, LINES, system, batch_size=2) == expected


def test_scores_carry_their_signatures() -> None:
    scores, signatures = measure(["Ein Mann fährt Rad."], ["ein mann fährt Rad."])
    assert scores["BLEU -lc"] == 100.0
    assert scores["BLEU"] < 100.0
    assert "case:lc" in signatures["BLEU -lc"]
    assert "case:mixed" in signatures["BLEU"]
    assert signatures["chrF"].startswith("nrefs:1")


def test_the_command(
    tmp_path: Path,
    model: Transformer,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for part in ("val", "test_2016_flickr"):
        for side in ("en", "de"):
            (tmp_path / f"{part}.{side}").write_text("\n".join(LINES) + "\n")
    save_weights(model, tmp_path)
    tokenizer.save(str(tmp_path / TOKENIZER))
    (tmp_path / TRAINING).write_text(json.dumps({"recipe": "translate-en-de"}))
    quality = {System(BEAM_SIZE, 0.4): 2.0, System(BEAM_SIZE, 0.8): 2.0, System(BEAM_SIZE, 1.0): 1.5}
    monkeypatch.setattr(translation_scores, "translate", lambda model, tokenizer, lines, system: [system])
    monkeypatch.setattr(
        translation_scores, "measure", lambda output, _: ({"BLEU": quality.get(output[0], 0.0)}, {"B": "s"})
    )
    monkeypatch.setattr(sys, "argv", ["scores", str(tmp_path), "--data", str(tmp_path), "--threads", "1"])
    main()
    scores = current_scores(tmp_path)
    assert scores["length_penalty"] == 0.4  # of equals the smaller one
    assert [row["system"] for row in scores["rows"] if row["data"] != "val"] == ["beam 5, length penalty 0.4", "greedy"]
    assert len(scores["rows"]) == len(translation_scores.PENALTIES) + 3
    assert "test_2016_flickr\tgreedy\t0.0" in capsys.readouterr().out
