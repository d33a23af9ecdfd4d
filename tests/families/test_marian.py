"""Marian against ``transformers``: every switch that changes the mathematics, tokens and texts, on both engines."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else

import edgewise
from edgewise.errors import CheckpointError, ConfigError, TokenizerError
from edgewise.models.open import open_checkpoint
from edgewise.models.transformer import Transformer
from edgewise.runtime.inputs import right_pad
from edgewise.runtime.tokenizer import Tokenizer

from ..bundles import export_few
from ..models.gguf.lines import WRITTEN
from ..open_model import open_model
from .folders import SOURCE_LINES, TARGET_LINES, change_json, library_marian, marian_files, marian_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses"),
]
CASES: dict[str, dict[str, Any]] = {
    "as published": {},
    "relu, untied, no scaling": {
        "activation_function": "relu",
        "tie_word_embeddings": False,
        "scale_embedding": False,
        "encoder_layers": 1,
        "decoder_layers": 3,
    },
    "gelu, other sizes": {
        "activation_function": "gelu",
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 40,
        "decoder_ffn_dim": 24,
        "max_position_embeddings": 40,
    },
}
TAGS = (">>fra<<", ">>deu<<")
TEXTS = [*SOURCE_LINES, "dogs", ">>fra<< A girl in the snow", "a red ж bicycle"]
Compare = Callable[..., None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(
        lambda case: marian_folder(tmp_path_factory.mktemp("marian") / "m", seed=len(case), tags=TAGS, **CASES[case])
    )


def random_batch(seed: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded sources, their mask, and targets; one row is as long as the table of positions."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(0, 60, (4, 40), generator=generator)
    target = torch.randint(0, 60, (4, 12), generator=generator)
    return source, torch.arange(40) < torch.tensor([[40], [1], [17], [6]]), target


@torch.no_grad()
def logits_of(model: Transformer, source: torch.Tensor, mask: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    cross = model.cross_key_value(model.encode(source, mask))
    positions = torch.arange(target.shape[1])[None].expand_as(target)
    hidden, _ = model.decode(target, positions, torch.ones_like(target, dtype=torch.bool), cross=cross, cross_mask=mask)
    return model.logits(hidden)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_states_and_logits_are_those_of_the_library(
    case: str, folder: Callable[[str], Path], assert_close: Compare
) -> None:
    source, mask, target = random_batch()
    expected = library_marian(folder(case))(source, attention_mask=mask.long(), decoder_input_ids=target)
    model = open_checkpoint(folder(case)).model
    pad = model.config.pad_id
    assert_close(model.encode(source, mask)[mask], expected.encoder_last_hidden_state[mask])
    logits = logits_of(model, source, mask, target)
    assert_close(logits[..., :pad], expected.logits[..., :pad])
    assert_close(logits[..., pad], expected.logits[..., pad] - 200, atol=1e-3)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_engines_give_the_librarys_logits(
    case: str, target: str, folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    source, mask, fed = random_batch()
    expected = library_marian(folder(case))(source, attention_mask=mask.long(), decoder_input_ids=fed).logits
    model = open_checkpoint(folder(case)).model
    engine = open_model(model, target, tmp_path / "v")
    memory = engine.encode_source(source.numpy(), mask.numpy())
    logits = engine.decoder_logits(memory, fed.numpy(), np.ones(fed.shape, np.bool_))
    pad = model.config.pad_id
    assert_close(logits[..., :pad], expected[..., :pad].numpy(), atol=1e-4)


@pytest.fixture(scope="module")
def bundle(folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``bundle(case)``: fp32 and int8 for both targets."""

    def build(case: str) -> Path:
        out = tmp_path_factory.mktemp("bundle") / "marian"
        export_few(folder(case), out)
        return out

    return cache(build)


def library_tokenizer(folder: Path) -> Any:
    return transformers.MarianTokenizer.from_pretrained(folder)


def generated(folder: Path, texts: list[str], **options: Any) -> list[list[int]]:
    """New tokens by the original library, each text alone."""
    model, tokenizer = library_marian(folder), library_tokenizer(folder)
    found = []
    for text in texts:
        source = tokenizer(text, return_tensors="pt")
        found.append(
            model.generate(**source, do_sample=False, renormalize_logits=True, **options)[0, 1:].tolist(),
        )
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_translations_are_those_of_the_library(
    case: str, target: str, bundle: Callable[[str], Path], folder: Callable[[str], Path]
) -> None:
    tokenizer = library_tokenizer(folder(case))
    with edgewise.load(bundle(case), target, "fp32", 1) as session:
        greedy = session.translate(TEXTS, beam_size=1, max_new_tokens=24)
        beams = session.translate(TEXTS, beam_size=3, length_penalty=0.0, max_new_tokens=24)
    assert [list(g.source_tokens) for g in greedy] == [tokenizer(text)["input_ids"] for text in TEXTS]
    expected = generated(folder(case), TEXTS, num_beams=1, max_new_tokens=24)
    assert [list(g.tokens) for g in greedy] == expected
    assert [list(g.tokens) for g in beams] == generated(
        folder(case), TEXTS, num_beams=3, length_penalty=0.0, max_new_tokens=24
    )
    for one in (*greedy, *beams):
        assert tokenizer.pad_token_id not in one.tokens
        assert one.text.strip() == tokenizer.decode(one.tokens, skip_special_tokens=True)


def test_the_beams_are_those_of_the_folder(bundle: Callable[[str], Path]) -> None:
    with edgewise.load(bundle("as published"), "cpu", "fp32", 1) as session:
        assert session.manifest.generation is not None
        assert session.manifest.generation.beam_size == 3
        assert session.manifest.task == "translate"


@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"])
def test_every_variant_replays_the_reference(variant: str, bundle: Callable[[str], Path]) -> None:
    with edgewise.load(bundle("as published"), *variant.split("-"), threads=1) as session:
        report = session.verify()
    assert report.ok, report.summary()


def mixed_lines(count: int) -> Iterator[str]:
    """Words of source and target languages and of many scripts, with tags and special tokens among them."""
    generator = random.Random(4)
    words = [word for line in (*SOURCE_LINES, *TARGET_LINES, *WRITTEN) for word in line.split() if word.isprintable()]
    words = [word for word in words if not any("\u0300" <= c < "\u0370" for c in word) and len(word) < 30]
    rare = ["ж", "Мужчина", "вел", "–", "</s>", "<pad>", "<unk>", "▁", ">>fra<<", ">>xyz<<", "<<", ">>"]
    for _ in range(count):
        parts = [generator.choice(rare if generator.random() < 0.15 else words) for _ in range(generator.randint(1, 9))]
        start = generator.choice(["", "", "", ">>fra<< ", ">>deu<<", ">>xyz<< ", ">>"])
        yield start + generator.choice([" ", " ", "", "  "]).join(parts)


def test_ten_thousand_lines_have_the_tokens_of_the_library(tmp_path: Path) -> None:
    marian_files(tmp_path, TAGS)
    folder = marian_folder(tmp_path, tags=TAGS)
    theirs = library_tokenizer(folder)
    made = open_checkpoint(folder).made_tokenizer
    assert made is not None
    ours = Tokenizer(made.encode())
    lines = list(mixed_lines(10_000))
    for line in lines:
        assert [*ours.encode(line), 0] == theirs(line, split_special_tokens=True)["input_ids"], line
    ids = random.Random(5)
    for _ in range(1000):
        tokens = [ids.randrange(len(theirs)) for _ in range(ids.randint(1, 12))]
        assert ours.decode(tokens).strip() == theirs.decode(tokens, skip_special_tokens=True), tokens


REFUSED: dict[str, dict[str, Any]] = {
    "share_encoder_decoder_embeddings is 1, expected bool": {"share_encoder_decoder_embeddings": 1},
    r"decoder_vocab_size is 77, expected \d+: separate_vocabs is not true": {"decoder_vocab_size": 77},
    "normalize_before is True, expected False": {"normalize_before": True},
    "add_final_layer_norm is True, expected False": {"add_final_layer_norm": True},
    "normalize_embedding is True, expected False": {"normalize_embedding": True},
    "static_position_embeddings is False, expected True": {"static_position_embeddings": False},
    "activation_function is 'mish', expected": {"activation_function": "mish"},
    r"new_switch \(1\) is not understood": {"new_switch": 1},
    "eos_token_id is \\[0, 1\\], expected one token": {"eos_token_id": [0, 1]},
}


@pytest.fixture
def copied(folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy to change."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder("as published").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_understood_is_refused(reason: str, copied: Path) -> None:
    change_json(copied / "config.json", **REFUSED[reason])
    (copied / "generation_config.json").unlink()
    with pytest.raises(ConfigError, match=reason):
        open_checkpoint(copied)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bad_words_ids": [[1, "2"]]}, r"bad_words_ids are \[\[1, '2'\]\], expected lists of token ids"),
        ({"num_beams": 0}, "num_beams is 0, expected an integer from 1 to 64"),
        ({"diversity_penalty": 3.0}, "diversity_penalty is 3.0: a bundle holds no such setting; take it out of the"),
        ({"begin_suppress_tokens": [1], "guidance_scale": 2}, r"begin_suppress_tokens is \[1\], guidance_scale is 2"),
        (
            {"decoder_start_token_id": 9},
            r"decoder_start_token_id is 9, and the network of config.json decodes with \d+",
        ),
        (
            {"forced_bos_token_id": 7},
            "forced_bos_token_id is 7, and the network of config.json decodes with None there",
        ),
    ],
)
def test_settings_of_generation_that_are_refused(changes: dict[str, Any], message: str, copied: Path) -> None:
    change_json(copied / "generation_config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(copied)


def test_neutral_settings_change_nothing(copied: Path) -> None:
    neutral = {"repetition_penalty": 1, "suppress_tokens": [], "length_penalty": 1.0, "early_stopping": False}
    change_json(copied / "generation_config.json", temperature=0.6, top_p=0.9, max_length=512, **neutral)
    decoding = open_checkpoint(copied).decoding
    change_json(copied / "generation_config.json", **dict.fromkeys([*neutral, "temperature", "top_p", "max_length"]))
    assert open_checkpoint(copied).decoding == decoding


def test_forbidden_tokens_beyond_the_vocabulary(copied: Path) -> None:
    change_json(copied / "generation_config.json", bad_words_ids=[[9999]])
    with pytest.raises(ConfigError, match="bad_words_ids hold 9999, expected token ids below vocab_size"):
        open_checkpoint(copied)


def test_without_forbidden_tokens_the_bias_is_the_files(copied: Path) -> None:
    file = copied / "generation_config.json"
    settings = json.loads(file.read_text())
    del settings["bad_words_ids"]
    file.write_text(json.dumps(settings))
    bias = open_checkpoint(copied).model.vocabulary_bias
    assert bias is not None
    assert bias.min() > -10


def test_all_faults_of_tensors_in_one_message(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copied / "model.safetensors")
    del tensors["model.encoder.layers.0.fc1.bias"], tensors["final_logits_bias"]
    tensors["model.decoder.layers.1.fc2.weight"] = torch.zeros(3, 3)
    tensors["model.extra"] = torch.zeros(1)
    tensors["lm_head.weight"] = torch.zeros_like(tensors["model.shared.weight"])
    save_file(tensors, copied / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(copied)
    for part in (
        "missing encoder.layers.0.feed_forward.inner.bias",
        r"decoder.layers.1.feed_forward.outer.weight has shape (3, 3)",
        "unexpected model.extra",
        "a copy of embedding.weight differs from it",
    ):
        assert part in str(caught.value)
    assert "vocabulary_bias" not in str(caught.value)


def test_a_copy_stands_for_what_is_not_in_the_file(copied: Path, folder: Callable[[str], Path]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copied / "model.safetensors")
    tensors["model.decoder.embed_tokens.weight"] = tensors.pop("model.shared.weight")
    save_file(tensors, copied / "model.safetensors")
    expected = open_checkpoint(folder("as published")).model.embedding.weight
    assert torch.equal(open_checkpoint(copied).model.embedding.weight, expected)


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        (
            "tokenizer_config.json",
            {"separate_vocabs": "yes"},
            "separate_vocabs is 'yes', expected true or false",
        ),
        ("vocab.json", {"a": 1}, "expected an object of tokens with the ids 0 to their number less 1, each once"),
        ("vocab.json", {"a": 0, "</s>": 1}, "lacks <unk>, <pad>: copy the model again"),
        ("vocab.json", ["a"], "expected an object of tokens"),
    ],
)
def test_damaged_vocabularies(file: str, data: Any, message: str, copied: Path) -> None:
    (copied / file).write_text(json.dumps(data))
    with pytest.raises(TokenizerError, match=message):
        open_checkpoint(copied)


def test_a_tokenizer_json_serves_where_there_are_no_pieces(copied: Path, folder: Callable[[str], Path]) -> None:
    made = open_checkpoint(folder("as published")).made_tokenizer
    assert made is not None
    (copied / "tokenizer.json").write_text(made)
    (copied / "source.spm").unlink()
    assert open_checkpoint(copied).made_tokenizer is None


def test_batches_give_what_each_text_gives_alone(bundle: Callable[[str], Path]) -> None:
    with edgewise.load(bundle("as published"), "cpu", "fp32", 1) as session:
        together = session.translate(TEXTS, max_new_tokens=20)
        assert [g.tokens for g in together] == [session.translate(text, max_new_tokens=20).tokens for text in TEXTS]
        scores = session.score(TEXTS[:2], ["Ein Mann", "Zwei Hunde"])
    assert all(score.score < 0 for score in scores)
    assert right_pad([[1]], 0)[0].shape == (1, 1)
