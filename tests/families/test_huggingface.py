"""Folders of other libraries are read strictly: what is not understood is refused by name, all in one message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgewise.errors import CheckpointError, ConfigError
from edgewise.models.open import open_checkpoint

from .folders import PIECES, bert_folder, change_json, library_bert, wordpiece, write_json

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("original") / "tiny-bert", seed=4)


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    """A fresh copy, to be damaged."""
    return Path(shutil.copytree(template, tmp_path / "tiny-bert"))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def state(folder: Path) -> dict[str, Tensor]:
    return open_checkpoint(folder).model.state_dict()


def assert_same_weights(folder: Path, template: Path) -> None:
    expected = state(template)
    actual = state(folder)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=0)


def test_what_the_folder_says(folder: Path) -> None:
    (folder / "LICENSE").write_text("for tests\n")
    checkpoint = open_checkpoint(str(folder))
    assert (checkpoint.name, checkpoint.max_context, checkpoint.notice) == ("tiny-bert", 30, "for tests\n")
    assert checkpoint.tokenizer_file == folder / TOKENIZER
    assert not checkpoint.model.training
    config = checkpoint.model.config
    assert (config.start_id, config.end_id, config.pad_id, config.starts_text) == (2, 3, 0, True)


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\ntags: [x]\n---\n# A model\n", "apache-2.0"),
        ("---\r\nlicense: 'mit'\r\n---\r\n", "mit"),
        ("# A model\n\nlicense: mit\n", None),
        ("---\nlanguage: en\n---\nlicense: mit\n", None),
        ("---\nbase:\n  license: mit\nlicense: [mit, x]\n---\n", None),
        ("---\nlicense: mit\n", None),
        ("", None),
    ],
)
def test_a_licence_that_only_the_model_card_states(card: str, name: str | None, folder: Path) -> None:
    (folder / "README.md").write_bytes(card.encode())
    expected = f"{name}\n\nAs README.md states; the folder had no licence file.\n" if name else ""
    assert open_checkpoint(folder).notice == expected
    (folder / "LICENSE").write_text("for tests\n")
    assert open_checkpoint(folder).notice == "for tests\n"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("models--acme--small/snapshots/0f3c", "small"),
        ("7 things", "m-7-things"),
        ("plain.v2", "plain.v2"),
    ],
)
def test_a_bundle_is_called_after_the_repository(path: str, name: str, template: Path, tmp_path: Path) -> None:
    shutil.copytree(template, tmp_path / path)
    assert open_checkpoint(tmp_path / path).name == name


def test_one_position_table_bounds_the_context(folder: Path) -> None:
    change_json(folder / "sentence_bert_config.json", max_seq_length=100)
    assert open_checkpoint(folder).max_context == 40
    (folder / "sentence_bert_config.json").unlink()
    assert open_checkpoint(folder).max_context == 40


def test_a_prefix_and_half_precision_are_the_same_network(folder: Path, template: Path) -> None:
    change_tensors(folder, lambda t: [t.update({f"bert.{name}": t.pop(name)}) for name in list(t)])
    assert_same_weights(folder, template)
    change_tensors(folder, lambda t: [t.update({name: t[name].to(torch.bfloat16)}) for name in t])
    for name, tensor in state(folder).items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, state(template)[name].to(torch.bfloat16).float(), rtol=0, atol=0)


def test_what_no_pooling_reads_may_be_missing_or_old(folder: Path, template: Path) -> None:
    def older(tensors: dict[str, Tensor]) -> None:
        del tensors["pooler.dense.weight"], tensors["pooler.dense.bias"]
        tensors["embeddings.position_ids"] = torch.arange(40)[None]

    change_tensors(folder, older)
    assert_same_weights(folder, template)


def test_several_files_with_an_index(folder: Path, template: Path) -> None:
    library_bert(template).save_pretrained(folder, max_shard_size="10KB")
    (folder / WEIGHTS).unlink()
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    assert_same_weights(folder, template)
    checkpoint = open_checkpoint(folder)
    assert len(checkpoint.weight_files) > 2
    assert checkpoint.sha256 != open_checkpoint(template).sha256


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../model-1.safetensors"}}, r"expected weight_map, .* plain names of .safetensors files"),
        ({"weight_map": {"a": 3}}, "plain names of .safetensors files"),
        ({}, "expected weight_map"),
        ([], "expected weight_map"),
        ({"weight_map": {"a": "gone.safetensors"}}, "gone.safetensors: expected a safetensors file"),
        ({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}, "pooler.dense.bias, .* in another file too"),
    ],
)
def test_an_index_is_not_trusted(index: object, message: str, folder: Path) -> None:
    for name in ("one", "two"):
        shutil.copy(folder / WEIGHTS, folder / f"{name}.safetensors")
        change = {k: v for k, v in load_file(folder / WEIGHTS).items() if "pooler" in k}
        save_file(change, folder / f"{name}.safetensors")
    (folder / WEIGHTS).unlink()
    write_json(folder / "model.safetensors.index.json", index)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_a_pickle_in_the_place_of_safetensors_is_refused(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="got a pickle"):
        open_checkpoint(folder)


def test_every_fault_of_the_tensors_is_in_one_message(folder: Path) -> None:
    def damage(tensors: dict[str, Tensor]) -> None:
        del tensors["encoder.layer.1.output.dense.bias"]
        tensors["encoder.layer.2.output.dense.bias"] = torch.zeros(32)
        tensors["cls.predictions.scale"] = torch.zeros(9)
        tensors["embeddings.LayerNorm.bias"] = torch.zeros(31)
        tensors["encoder.layer.0.attention.self.query.weight"][0, 0] = torch.nan
        tensors["bert.embeddings.LayerNorm.weight"] = torch.zeros(32)

    change_tensors(folder, damage)
    with pytest.raises(CheckpointError, match=r"tiny-bert does not fit its configuration") as caught:
        open_checkpoint(folder)
    for part in (
        "missing encoder.layers.1.feed_forward.outer.bias",
        "unexpected encoder.layers.2.feed_forward.outer.bias",
        "unexpected cls.predictions.scale",
        "embedding_norm.bias has shape (31,), expected (32,)",
        "encoder.layers.0.attention.query.weight holds NaN",
        "embeddings.LayerNorm.weight is given twice, with and without 'bert.'",
    ):
        assert part in str(caught.value)


def test_every_fault_of_the_configuration_is_in_one_message(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    del config["hidden_size"]
    config |= {
        "num_hidden_layers": "two",
        "num_attention_heads": True,
        "hidden_act": "tanh",
        "is_decoder": True,
        "position_embedding_type": "relative_key",
        "embedding_size": 16,
    }
    write_json(folder / CONFIG, config)
    with pytest.raises(ConfigError, match="what is not understood may change what the network computes") as caught:
        open_checkpoint(folder)
    for part in (
        "hidden_size is missing",
        "num_hidden_layers is 'two', expected int",
        "num_attention_heads is True, expected int",
        "hidden_act is 'tanh', expected 'relu' or 'gelu'",
        "is_decoder is True, expected False",
        "position_embedding_type is 'relative_key', expected 'absolute'",
        "embedding_size (16) is not understood",
    ):
        assert part in str(caught.value)


def test_a_configuration_that_contradicts_itself(folder: Path) -> None:
    change_json(folder / CONFIG, num_attention_heads=5)
    with pytest.raises(
        ConfigError, match=r"tiny-bert: config.json: d_model \(32\) must be a multiple of n_heads \(5\)"
    ):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings"]
)
@pytest.mark.parametrize("size", [10**30, 2**31])
def test_a_size_beyond_any_network(name: str, size: int, folder: Path) -> None:
    change_json(folder / CONFIG, **{name: size})
    with pytest.raises(ConfigError, match=rf"config.json: \w+ \({size}\) must be at most"):
        open_checkpoint(folder)


@pytest.mark.parametrize("named", [["MambaForCausalLM"], [], ["BertModel", "BertModel"], "BertModel", None])
def test_an_unknown_architecture_names_those_that_are_known(named: object, folder: Path) -> None:
    change_json(folder / CONFIG, architectures=named)
    with pytest.raises(ConfigError, match=r"expected one of BertModel.*becomes known by a table in a file of your own"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "sentence_bert_config.json",
            {"do_lower_case": True},
            "do_lower_case is True, expected False: it would change",
        ),
        ("sentence_bert_config.json", {"max_seq_length": "30"}, "max_seq_length is '30', expected a number of tokens"),
        ("sentence_bert_config.json", {"max_seq_length": 2}, "max_seq_length is 2, expected a number of tokens"),
        ("sentence_bert_config.json", {"colour": "red"}, "colour is 'red', which is not understood"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "asks for .*pooling_mode_max_tokens"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False}, r"asks for \[\], expected one of"),
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "asks for"),
    ],
)
def test_settings_that_would_change_the_vectors(
    file: str, changes: dict[str, object], message: str, folder: Path
) -> None:
    change_json(folder / file, **changes)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"default_prompt_name": "query"}, "default_prompt_name is 'query', expected None"),
        ({"similarity_fn_name": "dot"}, "similarity_fn_name is 'dot', expected 'cosine'"),
        ([], "expected an object, got list"),
    ],
)
def test_settings_of_the_whole(settings: object, message: str, folder: Path) -> None:
    write_json(folder / "config_sentence_transformers.json", settings)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)
    harmless = {"__version__": {}, "prompts": {"query": "q: "}, "default_prompt_name": None}
    write_json(folder / "config_sentence_transformers.json", harmless)
    assert open_checkpoint(folder).model.config.pooling == "mean"


def test_the_newer_spelling_of_a_pooling(folder: Path) -> None:
    write_json(
        folder / "1_Pooling/config.json", {"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True}
    )
    assert open_checkpoint(folder).model.config.pooling == "first"


def _module(kind: str, path: str) -> dict[str, str]:
    return {"type": f"sentence_transformers.models.{kind}", "path": path}


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            [_module("Transformer", ""), _module("Pooling", "p"), _module("LayerNorm", "d")],
            "'LayerNorm'.*and nothing else: a LayerNorm would change the vectors",
        ),
        (
            [_module("Transformer", ""), _module("Pooling", "p"), _module("Normalize", "n"), _module("Dense", "d")],
            "a Pooling and perhaps a Dense and a Normalize, in this order, and nothing else",
        ),
        (
            [_module("Transformer", ""), _module("Pooling", "p"), _module("Dense", "../d")],
            r"path '../d' of Dense is no plain name",
        ),
        ([_module("Transformer", "0"), _module("Pooling", "p")], "expected a Transformer in the folder itself"),
        ([_module("Transformer", ""), _module("Pooling", "../p")], r"path '../p' of Pooling is no plain name"),
        ([{"type": 3}], "expected a list of modules"),
        (7, "expected a list of modules"),
    ],
)
def test_modules_beyond_pooling(modules: object, message: str, folder: Path) -> None:
    write_json(folder / "modules.json", modules)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_how_states_are_pooled_is_not_guessed(folder: Path) -> None:
    (folder / "modules.json").unlink()
    with pytest.raises(ConfigError, match=r"nothing says how states become one vector: expected a modules.json"):
        open_checkpoint(folder)


def test_a_tokenizer_without_special_tokens(folder: Path) -> None:
    change_json(folder / TOKENIZER, post_processor=None)
    with pytest.raises(ConfigError, match=r"puts \(\) before and \(\) after a text, expected one token each"):
        open_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]"])
def test_a_damaged_tokenizer(text: str, folder: Path) -> None:
    (folder / TOKENIZER).write_text(text)
    with pytest.raises(CheckpointError, match=r"tokenizer.json: expected a tokenizer of the tokenizers library"):
        open_checkpoint(folder)


def test_another_networks_tokenizer(folder: Path) -> None:
    tokenizer = wordpiece()
    tokenizer.add_tokens(["x1", "x2", "x3", "x4"])
    (folder / TOKENIZER).write_text(tokenizer.to_str())
    with pytest.raises(CheckpointError, match=f"has ids up to {len(PIECES) + 3}, the network {len(PIECES) + 3} tokens"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"add_eos_token": True}, "add_eos_token is True, expected false: it would change what the network reads"),
        ({"add_eos_token": "no"}, "add_eos_token is 'no', expected false"),
        ({"add_eos_token": 0}, "add_eos_token is 0, expected false"),
        ({"add_bos_token": 1}, "add_bos_token is 1, expected true or false"),
        ({"add_bos_token": "false"}, "add_bos_token is 'false', expected true or false"),
    ],
)
def test_tokens_around_a_text_that_the_tokenizer_does_not_put(
    setting: dict[str, object], message: str, folder: Path
) -> None:
    write_json(folder / "tokenizer_config.json", setting)
    with pytest.raises(CheckpointError, match=rf"tokenizer_config.json: {message}"):
        open_checkpoint(folder)
    write_json(folder / "tokenizer_config.json", {"add_bos_token": None, "add_eos_token": False})
    assert open_checkpoint(folder).model.config.start_id == 2


def test_ids_with_gaps(folder: Path) -> None:
    """Few tokens, one of them with an id that the network does not have."""
    tokenizer = json.loads((folder / TOKENIZER).read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"] = len(PIECES) + 2
    write_json(folder / TOKENIZER, tokenizer)
    assert open_checkpoint(folder).model.config.vocab_size == len(PIECES) + 3
    vocabulary["a"] = 5000
    write_json(folder / TOKENIZER, tokenizer)
    with pytest.raises(CheckpointError, match=f"has ids up to 5000, the network {len(PIECES) + 3} tokens"):
        open_checkpoint(folder)
