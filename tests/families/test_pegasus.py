"""Pegasus against ``transformers``: every switch that changes the mathematics, tokens and texts, on both engines."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else

import edgewise
from edgewise.errors import ConfigError, TokenizerError
from edgewise.models.open import open_checkpoint

from ..bundles import export_few
from .folders import (
    SOURCE_LINES,
    TARGET_LINES,
    change_json,
    randomize,
    sentencepiece_model,
    sentencepiece_processor,
    write_json,
)

pytestmark = pytest.mark.slow
CASES: dict[str, dict[str, Any]] = {
    "scaled, relu": {"activation_function": "relu", "scale_embedding": True},
    "untied": {
        "tie_word_embeddings": False,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 40,
        "decoder_ffn_dim": 24,
        "decoder_start_token_id": 1,
    },
}
TEXTS = ["A man rides a bicycle.", "Zwei Hunde", "The dogs, in snow! 日本", "<mask_1> </s> on the street?"]
OFFSET = 103
Compare = Callable[..., None]


def pegasus_folder(folder: Path, *, seed: int = 0, std: float = 0.3, **config: Any) -> Path:
    """A folder of a ``PegasusForConditionalGeneration``; ``config`` changes its ``PegasusConfig``."""
    folder.mkdir(parents=True)
    data = sentencepiece_model([*SOURCE_LINES, *TARGET_LINES] * 9, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    (folder / "spiece.model").write_bytes(data)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PegasusTokenizer"})
    fields = {
        "vocab_size": len(sentencepiece_processor(folder / "spiece.model")) + OFFSET + 2,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 64,
        "forced_eos_token_id": None,
        **config,
    }
    model: Any = randomize(
        transformers.PegasusForConditionalGeneration(transformers.PegasusConfig(**fields)), seed, std
    )
    with torch.no_grad():
        model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(seed))
        for stack in (model.model.encoder, model.model.decoder):  # sinusoids, which randomize took for weights
            stack.embed_positions.weight.copy_(stack.embed_positions.create_weight())
            stack.embed_tokens.weight.copy_(model.model.shared.weight)  # one table, though nothing may tie them
    model.save_pretrained(folder)
    return folder


def library_pegasus(folder: Path) -> Any:
    """The original library's own reading of a folder."""
    kind = transformers.PegasusForConditionalGeneration
    return kind.from_pretrained(folder, attn_implementation="eager").eval()


def source_ids(folder: Path, text: str) -> list[int]:
    """By the sentencepiece library and the rule of ``PegasusTokenizer`` of transformers 4.57.1."""
    pieces = sentencepiece_processor(folder / "spiece.model")
    return [*(i + OFFSET if i > 1 else i for i in pieces.encode(text)), 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: pegasus_folder(tmp_path_factory.mktemp("pegasus") / "m", seed=len(case), **CASES[case]))


@pytest.fixture(scope="module")
def bundle(folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``bundle(case)``: fp32 for both targets, of the first case int8 too."""

    def build(case: str) -> Path:
        out = tmp_path_factory.mktemp("bundle") / "pegasus"
        export_few(folder(case), out, precisions=("fp32", "int8") if case == "scaled, relu" else ("fp32",))
        return out

    return cache(build)


def random_batch(seed: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded sources, their mask, and targets; one row is as long as the table of positions."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(2, 160, (4, 64), generator=generator)
    target = torch.randint(2, 160, (4, 12), generator=generator)
    return source, torch.arange(64) < torch.tensor([[64], [1], [17], [6]]), target


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_states_and_logits_are_those_of_the_library(
    case: str, folder: Callable[[str], Path], assert_close: Compare
) -> None:
    source, mask, target = random_batch()
    expected = library_pegasus(folder(case))(source, attention_mask=mask.long(), decoder_input_ids=target)
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
    case: str, target: str, folder: Callable[[str], Path], bundle: Callable[[str], Path], assert_close: Compare
) -> None:
    source, mask, fed = random_batch()
    expected = library_pegasus(folder(case))(source, attention_mask=mask.long(), decoder_input_ids=fed).logits
    with edgewise.load(bundle(case), target, "fp32", 1) as session:
        memory = session.engine.encode_source(source.numpy(), mask.numpy())
        logits = session.engine.decoder_logits(memory, fed.numpy(), np.ones(fed.shape, np.bool_))
    assert_close(logits, expected.numpy(), atol=1e-4)


def generated(folder: Path, **options: Any) -> list[list[int]]:
    """New tokens by the original library, each text alone."""
    model = library_pegasus(folder)
    return [
        model.generate(
            input_ids=torch.tensor([source_ids(folder, text)]), do_sample=False, max_new_tokens=24, **options
        )[0, 1:].tolist()
        for text in TEXTS
    ]


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
    assert [list(g.source_tokens) for g in greedy] == [source_ids(folder(case), text) for text in TEXTS]
    assert [list(g.tokens) for g in greedy] == generated(folder(case), num_beams=1)
    assert [list(g.tokens) for g in beams] == generated(folder(case), num_beams=3, length_penalty=0.0)
    assert [g.tokens for g in alone] == [g.tokens for g in joined] == [g.tokens for g in greedy]


@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"])
def test_every_variant_replays_the_reference(variant: str, bundle: Callable[[str], Path]) -> None:
    with edgewise.load(bundle("scaled, relu"), *variant.split("-"), threads=1) as session:
        report = session.verify()
    assert report.ok, report.summary()


def test_texts_come_back_without_what_is_special(folder: Callable[[str], Path]) -> None:
    from tokenizers import Tokenizer

    made = open_checkpoint(folder("scaled, relu")).made_tokenizer
    assert made is not None
    tokenizer = Tokenizer.from_str(made)
    text = "A man rides a bicycle."
    ids = tokenizer.encode(text).ids
    assert ids == source_ids(folder("scaled, relu"), text)[:-1]
    assert tokenizer.decode([0, *ids, 1, 2, 50, 105]) == text


GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "goldens" / "more_transformers_4_57_1.json").read_text())


@pytest.mark.parametrize("case", [name for name in GOLDEN if name.startswith("Pegasus")])
@torch.no_grad()
def test_a_configuration_of_release_4(case: str, folder: Callable[[str], Path], tmp_path: Path) -> None:
    made = open_checkpoint(folder("scaled, relu")).model.config
    copy = copy_of(folder("scaled, relu"), tmp_path / "copy")
    write_json(copy / "config.json", GOLDEN[case])
    assert open_checkpoint(copy).model.config == made


REFUSED: dict[str, dict[str, Any]] = {
    "normalize_before is False, expected True": {"normalize_before": False},
    "normalize_embedding is True, expected False": {"normalize_embedding": True},
    "static_position_embeddings is False, expected True": {"static_position_embeddings": False},
    "add_final_layer_norm is False, expected True": {"add_final_layer_norm": False},
    r"new_switch \(1\) is not understood": {"new_switch": 1},
    r"bad_words_ids is \(3,\), expected none": {"bad_words_ids": [[3]]},
    "forced_bos_token_id is 5, expected None": {"forced_bos_token_id": 5},
}


def copy_of(folder: Path, copy: Path) -> Path:
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_understood_is_refused(reason: str, folder: Callable[[str], Path], tmp_path: Path) -> None:
    copy = copy_of(folder("scaled, relu"), tmp_path / "copy")
    change_json(copy / "config.json", **REFUSED[reason])
    with pytest.raises(ConfigError, match=reason):
        open_checkpoint(copy)


def test_a_tokenizer_with_a_start_token(folder: Callable[[str], Path], tmp_path: Path) -> None:
    from .folders import bart_tokenizer

    copy = copy_of(folder("scaled, relu"), tmp_path / "copy")
    (copy / "tokenizer.json").write_text(bart_tokenizer().to_str())
    with pytest.raises(ConfigError, match=r"puts \(0,\) before and \(2,\) after a text, expected nothing before"):
        open_checkpoint(copy)


@pytest.mark.parametrize("offset", [1, "103", 10_001])
def test_an_offset_that_is_none(offset: object, folder: Callable[[str], Path], tmp_path: Path) -> None:
    copy = copy_of(folder("scaled, relu"), tmp_path / "copy")
    change_json(copy / "tokenizer_config.json", offset=offset)
    with pytest.raises(TokenizerError, match=f"offset is {offset!r}, expected an integer from 2 to 10000"):
        open_checkpoint(copy)


def test_pieces_of_another_network(folder: Callable[[str], Path], tmp_path: Path) -> None:
    copy = copy_of(folder("scaled, relu"), tmp_path / "copy")
    (copy / "spiece.model").write_bytes(sentencepiece_model(SOURCE_LINES * 9))
    with pytest.raises(TokenizerError, match=r"begins with the pieces \['<unk>'.*it is none of Pegasus'"):
        open_checkpoint(copy)
