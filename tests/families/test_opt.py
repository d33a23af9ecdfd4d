"""OPT against ``transformers``, from the folder to the bundle; and tokenizers of ``vocab.json`` and ``merges.txt``."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from edgewise.errors import CheckpointError, ConfigError, TokenizerError
from edgewise.models.families.merges_files import merges_tokenizer
from edgewise.models.open import open_checkpoint

from .decoders import Compare, check_bundle, check_engines, check_reference, check_switches, decoder_folder
from .folders import byte_level, change_json, write_json

pytestmark = pytest.mark.slow
CASES: dict[str, dict[str, Any]] = {
    "as published": {},
    "untied": {"tie_word_embeddings": False, "enable_bias": False, "activation_function": "gelu"},
    "norms after": {"do_layer_norm_before": False, "ffn_dim": 40},
    "no last norm": {"_remove_final_layer_norm": True},
}
GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "goldens" / "more_transformers_4_57_1.json").read_text())
TEXTS = ["The man rides a bicycle.", "3+4=7", "Zwei Hunde – schön! 日本語 👧", "  <|end|>x\n\n y"]


def opt_folder(folder: Path, std: float = 0.2, **config: Any) -> Path:
    """A folder of an ``OPTForCausalLM``; ``config`` changes its ``OPTConfig``."""
    fields = {"vocab_size": 304, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48}
    fields |= {"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 2}
    return decoder_folder(folder, transformers.OPTConfig(**{**fields, **config}), seed=7, std=std)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: opt_folder(tmp_path_factory.mktemp("opt") / "tiny", **CASES[case]))


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_library(case: str, folder: Callable[[str], Path], assert_close: Compare) -> None:
    check_reference(folder(case), assert_close)


@pytest.mark.parametrize("case", ["as published", "norms after"])
def test_engines_give_the_librarys_logits_and_tokens(
    case: str, folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    check_engines(folder(case), tmp_path, assert_close)


def test_a_case_tells_its_switches_apart(folder: Callable[[str], Path]) -> None:
    check_switches(folder("untied"), {"activation_function": "relu"})
    check_switches(folder("norms after"), {"do_layer_norm_before": True})


def test_a_bundle_replays_the_reference(tmp_path: Path) -> None:
    check_bundle(opt_folder(tmp_path / "tiny", hidden_size=64, max_position_embeddings=96), tmp_path / "bundle")


@pytest.mark.parametrize("case", [name for name in GOLDEN if name.startswith("OPT")])
def test_a_configuration_of_release_4(case: str, folder: Callable[[str], Path], tmp_path: Path) -> None:
    made = opt_folder(tmp_path / "tiny", **CASES["norms after" if "," in case else "as published"])
    expected = open_checkpoint(made).model.config
    write_json(made / "config.json", GOLDEN[case])
    assert open_checkpoint(made).model.config == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"word_embed_proj_dim": 16}, "word_embed_proj_dim is 16, expected 32"),
        ({"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine is False, expected True"),
        ({"new_setting": 3}, r"new_setting \(3\) is not understood"),
    ],
)
def test_other_mathematics_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = opt_folder(tmp_path / "tiny")
    change_json(folder / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(folder)


def test_a_table_of_positions_that_is_none(tmp_path: Path) -> None:
    folder = opt_folder(tmp_path / "tiny")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.decoder.embed_positions.weight"] = torch.tensor(1.0)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"positions has shape \(\), expected"):
        open_checkpoint(folder)


def write_merges(folder: Path, **settings: Any) -> Path:
    """The tokenizer as the first releases wrote it: a vocabulary, merges, and what is special."""
    folder.mkdir(parents=True, exist_ok=True)
    data = json.loads(byte_level(False).to_str())["model"]
    write_json(folder / "vocab.json", data["vocab"])
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in data["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    end = {"__type": "AddedToken", "content": "<|end|>"}
    named = {"bos_token": "<|start|>", "eos_token": end, "unk_token": "<|end|>"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", **named, **settings})
    return folder


@pytest.mark.parametrize("spaced", [False, True])
def test_tokens_of_vocabulary_and_merges_are_those_of_the_library(spaced: bool, tmp_path: Path) -> None:
    made = merges_tokenizer(write_merges(tmp_path / "t", add_prefix_space=spaced), {})
    assert made is not None
    library = transformers.GPT2Tokenizer.from_pretrained(tmp_path / "t")
    tokenizer = Tokenizer.from_str(made)
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        assert ids == library(text, add_special_tokens=False)["input_ids"]
        if text != TEXTS[-1]:  # beside what is special a space may be put
            assert tokenizer.decode(ids, skip_special_tokens=False).strip() == text


def test_added_tokens_are_as_their_file_says(tmp_path: Path) -> None:
    """Special or not, and which white space they take along."""
    ids = byte_level(False).token_to_id
    plain = {"normalized": False, "single_word": False, "lstrip": False, "rstrip": False, "special": False}
    listed = {
        str(ids("<|end|>")): {**plain, "content": "<|end|>", "special": True, "lstrip": True, "rstrip": True},
        str(ids("man")): {**plain, "content": "man", "single_word": True},
        str(ids("de")): {**plain, "content": "de"},
    }
    made = merges_tokenizer(write_merges(tmp_path / "t", added_tokens_decoder=listed), {})
    assert made is not None
    library = transformers.GPT2Tokenizer.from_pretrained(tmp_path / "t")
    tokenizer = Tokenizer.from_str(made)
    for text in ("the man mans man. de ode", "a  <|end|>  b", "man<|end|>human", "ridde r"):
        ids_of = tokenizer.encode(text).ids
        assert ids_of == library(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids_of) == library.decode(ids_of, skip_special_tokens=True)


def test_a_folder_of_vocabulary_and_merges(tmp_path: Path) -> None:
    folder = opt_folder(tmp_path / "tiny")
    expected = open_checkpoint(folder)
    (folder / "tokenizer.json").unlink()
    write_merges(folder, add_bos_token=True)
    found = open_checkpoint(folder)
    assert found.model.config.starts_text
    assert not expected.model.config.starts_text
    assert found.made_tokenizer is not None
    for text in TEXTS[:3]:
        assert Tokenizer.from_str(found.made_tokenizer).encode(text).ids == byte_level(False).encode(text).ids


def _cut(folder: Path) -> None:
    (folder / "merges.txt").write_text("#version: 0.2\na b c\n")


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "merges": (_cut, r"merges.txt has the line 'a b c', expected two tokens of vocab.json that make one"),
    "no token": (lambda f: (f / "merges.txt").write_text("q zz"), "has the line 'q zz', expected two tokens"),
    "no text": (lambda f: (f / "merges.txt").write_bytes(b"\xff\xfe"), "expected UTF-8 text, two tokens a line"),
    "added": (lambda f: write_json(f / "added_tokens.json", {"<new>": 999}), r"vocab.json lacks '<new>', which other"),
    "special": (lambda f: change_json(f / "tokenizer_config.json", pad_token="<p>"), r"vocab.json lacks '<p>', which"),
    "no special": (lambda f: change_json(f / "tokenizer_config.json", pad_token=3), "a special token is 3, expected a"),
    "listed": (
        lambda f: change_json(f / "tokenizer_config.json", additional_special_tokens="x"),
        "a special token is None, expected a text",
    ),
    "space": (
        lambda f: change_json(f / "tokenizer_config.json", add_prefix_space="yes"),
        "add_prefix_space is 'yes', expected true or false",
    ),
    "other ids": (
        lambda f: change_json(f / "tokenizer_config.json", added_tokens_decoder={"7": {"content": "<|end|>"}}),
        r"added_tokens_decoder has '<\|end\|>' at 7, and vocab.json at 0",
    ),
    "twice": (
        lambda f: change_json(
            f / "tokenizer_config.json", added_tokens_decoder={"7": {"content": "<|end|>"}, "0": {"content": "<|end|>"}}
        ),
        r"added_tokens_decoder has '<\|end\|>' at 7, and vocab.json at 0",
    ),
    "flags": (
        lambda f: change_json(
            f / "tokenizer_config.json", added_tokens_decoder={"0": {"content": "<|end|>", "lstrip": "yes"}}
        ),
        r"added_tokens_decoder has lstrip 'yes' for '<\|end\|>', expected true or false",
    ),
    "no ids": (
        lambda f: change_json(f / "tokenizer_config.json", added_tokens_decoder={"x": {"content": "<|end|>"}}),
        r"added_tokens_decoder has '<\|end\|>' at x, and vocab.json at 0",
    ),
    "settings": (lambda f: write_json(f / "tokenizer_config.json", []), "expected an object, got list"),
    "ids": (lambda f: write_json(f / "vocab.json", {"a": 7}), "expected an object of tokens with the ids 0 to"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_files_that_are_damaged(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    folder = write_merges(tmp_path / "t")
    damage(folder)
    with pytest.raises(TokenizerError, match=message):
        merges_tokenizer(folder, {})
