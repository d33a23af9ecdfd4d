"""Folders of older releases: weights in pickles, and a ``vocab.txt`` in place of ``tokenizer.json``."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from safetensors.torch import load_file
from tokenizers import Tokenizer

from edgewise.errors import CheckpointError
from edgewise.export.probes import AWKWARD
from edgewise.export.sentences import SENTENCES
from edgewise.models.open import open_checkpoint

from .encoders import CLASSES, bert_head, distilbert_head, roberta_head, xlm_roberta_head
from .folders import PIECES, write_json

WEIGHTS = "model.safetensors"
SCRIPTS = [
    "Ünïcödé ÇA ĞİI ﬁ ß ẞ ŒUVRE naïve résumé",
    "Привет, как дела? Ёжик",
    "Ελληνικά Άγιος ς",
    "שלום עולם",
    "مرحبا بالعالم",
    "हिन्दी में पाठ",
    "日本語のテキスト カタカナ",
    "中文字符混合abc",
    "한국어 텍스트",
    "ไทย",
    "👩‍👩‍👧 emoji 🇩🇪",
    "a\u0301 e\u0308",
    "tab\there\x01\x7f",
    "\u200b\u00ad zero",
]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_head(tmp_path_factory.mktemp("original") / "tiny", "ForMaskedLM", 4)


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "tiny"))


def assert_same_weights(folder: Path, template: Path) -> None:
    expected, found = (open_checkpoint(f).model.state_dict() for f in (template, folder))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_in_one_pickle(zipped: bool, folder: Path, template: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert_same_weights(folder, template)
    assert open_checkpoint(folder).weight_files == (folder / "pytorch_model.bin",)


def test_weights_in_several_pickles_with_the_oldest_names(folder: Path, template: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    assert old.keys() != tensors.keys()
    names = sorted(old)
    shards = {"pytorch_model-1.bin": names[:9], "pytorch_model-2.bin": names[9:]}
    for file, own in shards.items():
        torch.save({name: old[name] for name in own}, folder / file)
    index = {"weight_map": {name: file for file, own in shards.items() for name in own}}
    write_json(folder / "pytorch_model.bin.index.json", index)
    assert_same_weights(folder, template)
    write_json(folder / "pytorch_model.bin.index.json", {"weight_map": {"a": "../x.bin"}})
    with pytest.raises(CheckpointError, match=r"expected weight_map, tensor names to plain names of .bin files"):
        open_checkpoint(folder)


def test_safetensors_go_first(folder: Path, template: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    assert_same_weights(folder, template)


class Touch:
    """What a hostile pickle looks like: reading it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_runs_no_code(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"a": Touch(tmp_path / "made")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="expected weights saved by PyTorch, and nothing but tensors, got"):
        open_checkpoint(folder)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "expected a dictionary of tensors by name, got list"),
        ({3: torch.zeros(2)}, "expected a dictionary of tensors by name, got dict"),
        ({"model": {"a": torch.zeros(2)}}, "model: expected dense tensors, each stored whole, and nothing but tensors"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "a: expected dense tensors"),
        ({"a": torch.zeros(2, device="meta")}, "a: expected dense tensors"),
        ({"a": torch.zeros(1).expand(1 << 20, 1 << 22)}, "a: expected dense tensors, each stored whole"),
    ],
)
def test_what_is_no_dictionary_of_tensors(content: object, message: str, folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"\x80\x02garbage", None])
def test_a_damaged_pickle(damage: bytes | None, folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    whole = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.raises(CheckpointError, match="expected weights saved by PyTorch"):
        open_checkpoint(folder)


def test_a_pickle_that_unpacks_to_more_than_its_size(folder: Path) -> None:
    file = folder / "pytorch_model.bin"
    torch.save({**load_file(folder / WEIGHTS), "more": torch.zeros(1 << 16)}, file)
    (folder / WEIGHTS).unlink()
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match=r"data\.pkl' in it is compressed, which torch.save never does"):
        open_checkpoint(folder)


def test_a_pickle_whose_members_lie_over_each_other(folder: Path) -> None:
    file = folder / "pytorch_model.bin"
    torch.save(load_file(folder / WEIGHTS), file)
    (folder / WEIGHTS).unlink()
    with zipfile.ZipFile(file, "a") as archive:
        archive.filelist += archive.filelist * 3
        archive._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"got members of \d+ bytes in a file of \d+"):
        open_checkpoint(folder)


def test_no_weights_at_all(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"has none of model.safetensors, .* and pytorch_model.bin.index.json"):
        open_checkpoint(folder)


MAKERS = {
    "Bert": bert_head,
    "DistilBert": distilbert_head,
    "Roberta": roberta_head,
    "XLMRoberta": xlm_roberta_head,
}
OLDER = json.loads((Path(__file__).parent / "goldens" / "transformers_4_57_1.json").read_text())


@pytest.mark.parametrize("architecture", OLDER)
def test_configurations_of_an_older_release_are_the_same_network(architecture: str, tmp_path: Path) -> None:
    family, head = architecture.split("For")
    classes = CLASSES if "Classification" in head else {}
    made = MAKERS[family](tmp_path / "made", f"For{head}", **classes)
    newer = open_checkpoint(made).model.config
    write_json(made / "config.json", OLDER[architecture])
    assert OLDER[architecture]["transformers_version"] == "4.57.1"
    assert open_checkpoint(made).model.config == newer


# vocab.txt


def real_lines() -> Iterator[str]:
    """Up to 10 000 lines of the data sets that are at hand."""
    places = [Path(os.environ[name]) for name in ("MULTI30K", "ASSETS") if os.environ.get(name)]
    for place in places:
        for file in sorted(place.rglob("*")):
            if file.suffix in (".txt", ".en", ".de", ".fr", ".tokens") and file.is_file():
                yield from [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()][:2000]


def vocabulary(lines: list[str]) -> list[str]:
    """Special tokens, every character of the lines in its forms, and some pieces of words."""
    text = "".join(lines)
    characters = sorted({*text, *text.lower(), *text.upper()} - {"\n", "\r"})
    words = sorted({word for line in lines[:500] for word in line.lower().split()})[:2000]
    pieces = [*characters, *(f"##{c}" for c in characters), *words, *(f"##{w[1:]}" for w in words if len(w) > 2)]
    return [*PIECES[:5], *dict.fromkeys(p for p in pieces if p.strip() and not p[-1].isspace())]


SETTINGS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "cased": {"do_lower_case": False},
    "cased, no accents": {"do_lower_case": False, "strip_accents": True},
    "lower case with accents": {"strip_accents": False},
    "Chinese words": {"tokenize_chinese_chars": False, "do_lower_case": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_vocabulary_of_words_gives_the_librarys_tokens(name: str, folder: Path, tmp_path: Path) -> None:
    lines = [*SENTENCES, *AWKWARD.values(), *SCRIPTS, *real_lines()][:10_000]
    (tmp_path / "v").mkdir()
    for place in (tmp_path / "v", folder):
        (place / "vocab.txt").write_text("\n".join(vocabulary(lines)) + "\n", encoding="utf-8")
        write_json(place / "tokenizer_config.json", {**SETTINGS[name], "tokenizer_class": "BertTokenizer"})
    library = transformers.BertTokenizer.from_pretrained(tmp_path / "v")
    (folder / "tokenizer.json").unlink()
    own = Tokenizer.from_str(tokenizer_of(folder))
    expected = library(lines)["input_ids"]
    found = [encoding.ids for encoding in own.encode_batch(lines)]
    assert len(set(map(tuple, expected))) > 200
    wrong = [line for line, a, b in zip(lines, found, expected, strict=True) if a != b]
    assert not wrong
    pairs = library(lines[:50], lines[50:100])
    both = own.encode_batch(list(zip(lines[:50], lines[50:100], strict=True)))
    assert [(e.ids, e.type_ids) for e in both] == list(zip(pairs["input_ids"], pairs["token_type_ids"], strict=True))


def tokenizer_of(folder: Path) -> str:
    from edgewise.models.families.huggingface import _tokenizer

    return str(_tokenizer(folder).to_str())


def test_a_folder_with_a_vocabulary_of_words(folder: Path, template: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(PIECES), encoding="utf-8")
    (folder / "tokenizer_config.json").unlink()
    checkpoint = open_checkpoint(folder)
    config = checkpoint.model.config
    assert (config.start_id, config.end_id, config.mask_id) == (2, 3, 4)
    checkpoint.write_tokenizer(tmp_path / "made.json")
    own = Tokenizer.from_file(str(tmp_path / "made.json"))
    assert own.encode("Two dogs!").ids == [2, PIECES.index("two"), PIECES.index("dogs"), PIECES.index("!"), 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "tokenizer_class is 'BertJapaneseTokenizer': vocab.txt is not"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize is False"),
        ({"never_split": ["x"]}, r"never_split is \['x'\]"),
        ({"do_lower_case": "yes"}, "do_lower_case is 'yes'"),
        ({"do_lower_case": 0}, "do_lower_case is 0"),
        ({"strip_accents": 1}, "strip_accents is 1"),
        ({"tokenizer_class": []}, r"tokenizer_class is \[\]"),
        ({"wordpieces_prefix": "@@"}, "wordpieces_prefix is '@@'"),
        ({"max_input_chars_per_word": 3}, "max_input_chars_per_word is 3"),
        ({"cls_token": "a class"}, "cls_token is 'a class', expected a token without spaces, colons and dollars"),
        ({"cls_token": ["x"]}, r"cls_token is \['x'\], expected a token without spaces"),
        ({"additional_special_tokens": ["[E1]"]}, r"the tokens '\[E1\]' were added beside vocab.txt, and are not read"),
        ({"added_tokens_decoder": {"99": {"content": "[E2]"}}}, r"the tokens '\[E2\]' were added beside vocab.txt"),
        ({"added_tokens_decoder": [3]}, r"added_tokens_decoder is \[3\] and additional_special_tokens \[\], expected"),
        ({"mask_token": "<mask>"}, "vocab.txt lacks <mask>: it is another tokenizer's, or cut short"),
    ],
)
def test_settings_that_a_vocabulary_is_not_read_with(settings: dict[str, Any], message: str, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(PIECES), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", settings)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_tokens_in_a_file_of_their_own_beside_a_vocabulary(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(PIECES), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {})
    write_json(folder / "added_tokens.json", {"[E1]": len(PIECES)})
    with pytest.raises(CheckpointError, match=r"the tokens '\[E1\]' were added beside vocab.txt, and are not read"):
        open_checkpoint(folder)
    write_json(folder / "added_tokens.json", {"[CLS]": PIECES.index("[CLS]")})
    open_checkpoint(folder)


def test_no_tokenizer_at_all(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has neither tokenizer.json nor vocab.txt: save it there with"):
        open_checkpoint(folder)
    (folder / "vocab.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="expected UTF-8 text, a token a line"):
        open_checkpoint(folder)
