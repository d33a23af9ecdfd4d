"""BART against ``transformers``: every switch that changes the mathematics, tokens and texts, on both engines."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgewise
from edgewise.errors import CheckpointError, ConfigError
from edgewise.models.open import open_checkpoint

from ..bundles import export_few
from ..open_model import open_model
from .folders import bart_folder, bart_tokenizer, change_json, library_bart, library_ids

pytestmark = pytest.mark.slow
CASES: dict[str, dict[str, Any]] = {
    "begins with a forced token": {"forced": 0},
    "relu, untied, scaled": {
        "activation_function": "relu",
        "tie_word_embeddings": False,
        "scale_embedding": True,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 40,
        "decoder_ffn_dim": 24,
    },
}
TEXTS = ["3+4=7", "The man rides a bicycle.", "schön!", "日本語 und 👧 im Schnee"]
Compare = Callable[..., None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: bart_folder(tmp_path_factory.mktemp("bart") / "m", seed=len(case), **CASES[case]))


def random_batch(seed: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded sources, their mask, and targets; one row is as long as the table of positions."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(2, 300, (4, 96), generator=generator)
    target = torch.randint(2, 300, (4, 12), generator=generator)
    return source, torch.arange(96) < torch.tensor([[96], [1], [17], [6]]), target


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_states_and_logits_are_those_of_the_library(
    case: str, folder: Callable[[str], Path], assert_close: Compare
) -> None:
    source, mask, target = random_batch()
    expected = library_bart(folder(case))(source, attention_mask=mask.long(), decoder_input_ids=target)
    model = open_checkpoint(folder(case)).model
    hidden = model.encode(source, mask)
    assert_close(hidden[mask], expected.encoder_last_hidden_state[mask])
    positions = torch.arange(target.shape[1])[None].expand_as(target)
    seen = torch.ones_like(target, dtype=torch.bool)
    states, _ = model.decode(target, positions, seen, cross=model.cross_key_value(hidden), cross_mask=mask)
    assert_close(model.logits(states), expected.logits, atol=1e-4)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_engines_give_the_librarys_logits(
    case: str, target: str, folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    source, mask, fed = random_batch()
    expected = library_bart(folder(case))(source, attention_mask=mask.long(), decoder_input_ids=fed).logits
    engine = open_model(open_checkpoint(folder(case)).model, target, tmp_path / "v")
    memory = engine.encode_source(source.numpy(), mask.numpy())
    logits = engine.decoder_logits(memory, fed.numpy(), np.ones(fed.shape, np.bool_))
    assert_close(logits, expected.numpy(), atol=1e-4)


@pytest.fixture(scope="module")
def bundle(folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``bundle(case)``: fp32 and int8 for both targets."""

    def build(case: str) -> Path:
        out = tmp_path_factory.mktemp("bundle") / "bart"
        export_few(folder(case), out)
        return out

    return cache(build)


def generated(folder: Path, **options: Any) -> list[list[int]]:
    """New tokens by the original library, each text alone; a forced token is none of them."""
    model, found = library_bart(folder), []
    begins = 1 + (model.generation_config.forced_bos_token_id is not None)
    for text in TEXTS:
        source = torch.tensor([library_ids(bart_tokenizer(), text)])
        new = model.generate(input_ids=source, do_sample=False, max_new_tokens=24 + begins - 1, **options)[0].tolist()
        found.append(new[begins:])
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_generated_tokens_are_those_of_the_library(
    case: str, target: str, bundle: Callable[[str], Path], folder: Callable[[str], Path]
) -> None:
    with edgewise.load(bundle(case), target, "fp32", 1) as session:
        greedy = session.translate(TEXTS, beam_size=1, max_new_tokens=24)
        beams = session.translate(TEXTS, beam_size=3, length_penalty=0.0, max_new_tokens=24)
        alone = [session.translate(text, beam_size=1, max_new_tokens=24) for text in TEXTS]
        joined = list(session.translate_iter(TEXTS, beam_size=1, max_new_tokens=24, continuous=True, batch_size=2))
        scores = session.score(TEXTS, [g.text for g in greedy])
    assert [list(g.source_tokens) for g in greedy] == [library_ids(bart_tokenizer(), text) for text in TEXTS]
    assert [list(g.tokens) for g in greedy] == generated(folder(case), num_beams=1)
    assert [list(g.tokens) for g in beams] == generated(folder(case), num_beams=3, length_penalty=0.0)
    assert [g.tokens for g in alone] == [g.tokens for g in joined] == [g.tokens for g in greedy]
    for score, one in zip(scores, greedy, strict=True):
        if score.tokens[:-1] == one.tokens[: len(score.tokens) - 1]:  # the text splits into the tokens it was made of
            shared = len(score.tokens) - 1
            assert score.token_log_probs[:shared] == pytest.approx(one.token_log_probs[:shared], abs=1e-4)


@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"])
def test_every_variant_replays_the_reference(variant: str, bundle: Callable[[str], Path]) -> None:
    with edgewise.load(bundle("begins with a forced token"), *variant.split("-"), threads=1) as session:
        report = session.verify()
        assert session.manifest.model.decoder_prompt == (2, 0)
    assert report.ok, report.summary()


REFUSED: dict[str, dict[str, Any]] = {
    "normalize_before is True, expected False": {"normalize_before": True},
    "normalize_embedding is False, expected True": {"normalize_embedding": False},
    "static_position_embeddings is True, expected False": {"static_position_embeddings": True},
    "add_final_layer_norm is True, expected False": {"add_final_layer_norm": True},
    "activation_function is 'mish', expected": {"activation_function": "mish"},
    r"new_switch \(1\) is not understood": {"new_switch": 1},
    r"bad_words_ids hold \(3,\), expected none": {"bad_words_ids": [[3]]},
    "forced_bos_token_id is 5, expected 0": {"forced_bos_token_id": 5},
    r"forced_id \(9999\) must be a token id below vocab_size": {"forced_bos_token_id": 9999},
}


@pytest.fixture
def copied(folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy to change."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder("begins with a forced token").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_understood_is_refused(reason: str, copied: Path) -> None:
    change_json(copied / "config.json", **REFUSED[reason])
    if "9999" in reason:
        (copied / "generation_config.json").unlink()
    with pytest.raises(ConfigError, match=reason):
        open_checkpoint(copied)


def test_a_forced_token_that_is_none(copied: Path) -> None:
    change_json(copied / "generation_config.json", forced_bos_token_id="<s>")
    with pytest.raises(CheckpointError, match="forced_bos_token_id is '<s>', expected a token id"):
        open_checkpoint(copied)


def test_a_text_without_tokens_around_it(copied: Path) -> None:
    tokenizer = bart_tokenizer()
    tokenizer.post_processor = None
    (copied / "tokenizer.json").write_text(tokenizer.to_str())
    with pytest.raises(ConfigError, match=r"puts \(\) before and \(\) after a text, expected one token before"):
        open_checkpoint(copied)


def test_rows_of_positions_that_nothing_reads_are_left_out(copied: Path) -> None:
    model = open_checkpoint(copied).model
    assert model.positions is not None
    assert model.decoder_positions is not None
    assert model.positions.shape == model.decoder_positions.shape == (96, 32)
    assert not torch.equal(model.positions, model.decoder_positions)
