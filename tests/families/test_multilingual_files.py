"""Tokenizers of fairseq's networks against the original libraries, and what is refused of their folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else

import edgewise
from edgewise.cli import main
from edgewise.errors import CheckpointError, ConfigError, TokenizerError
from edgewise.models.families.fairseq import fairseq_languages, fairseq_tokenizer
from edgewise.models.families.language_codes import M2M_100, MBART, MBART_50, NLLB_200, WMT_21
from edgewise.models.open import open_checkpoint
from edgewise.runtime.tokenizer import Tokenizer

from ..bundles import export_few
from ..models.sentencepiece.trained import mixed
from .folders import change_json, marian_folder, sentencepiece_processor, write_json
from .multilingual import language_ids, multilingual_folder, write_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk, not to be changed."""
    return cache(lambda case: multilingual_folder(tmp_path_factory.mktemp("many") / "m", case))


def made(folder: Path) -> Tokenizer:
    text = fairseq_tokenizer(folder, {})
    assert text is not None
    return Tokenizer(text.encode())


@pytest.mark.parametrize("case", ["mbart", "mbart-50", "nllb"])
def test_ten_thousand_lines_have_the_pieces_of_the_library_one_further(case: str, tmp_path: Path) -> None:
    """``_convert_token_to_id`` of transformers 4.57.1: ``piece + 1``, and 3 for what is unknown."""
    write_tokenizer(tmp_path, case)
    (tmp_path / "tokenizer.json").unlink(missing_ok=True)
    pieces, ours = sentencepiece_processor(tmp_path / "sentencepiece.bpe.model"), made(tmp_path)
    lines = list(mixed(10_000))
    for line in lines:
        expected = pieces.encode(line)
        assert ours.encode(line) == [i + 1 if i else 3 for i in expected], line
        known = [i for i in expected if i]
        assert ours.decode([i + 1 for i in known]) == pieces.decode(known)
    codes = {"mbart": MBART, "mbart-50": MBART_50, "nllb": NLLB_200}[case]
    first = len(pieces) + 1
    assert {first + i for i in range(len(codes) + 1)} | set(range(4)) == ours.special_ids
    assert ours.decode([0, 1, 2, 3, first, first + len(codes)]) == ""
    for typed in ("</s> a", codes[0], "<pad>"):
        assert not ours.special_ids - {3} & set(ours.encode(typed))


@pytest.mark.parametrize("languages", ["m2m100", "wmt21"])
def test_ten_thousand_lines_have_the_tokens_of_the_m2m_library(languages: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "m2m100")
    change_json(tmp_path / "tokenizer_config.json", language_codes=languages)
    theirs, ours = transformers.M2M100Tokenizer.from_pretrained(tmp_path), made(tmp_path)
    for line in mixed(10_000):
        expected = theirs(line, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert ours.encode(line) == expected, line
    found = fairseq_languages(tmp_path, {}, ours._library, ((), ()))
    assert found.tokens == theirs.lang_code_to_id
    assert list(found.tokens) == {"m2m100": M2M_100, "wmt21": WMT_21}[languages]


def test_languages_are_those_of_a_tokenizer_json(folder: Callable[[str], Path]) -> None:
    languages = open_checkpoint(folder("nllb")).model.config.languages
    assert languages is not None
    assert languages.tokens == language_ids(folder("nllb"), "nllb")
    assert (languages.source, languages.target) == ("before", "forced")


PLACES: dict[str, tuple[str, dict[str, Any], tuple[str, str]]] = {
    "mBART": ("mbart", {}, ("after", "start")),
    "mBART-50, fast": ("mbart-50", {"tokenizer_class": "MBart50TokenizerFast"}, ("before", "forced")),
    "NLLB as it was first": ("nllb", {"legacy_behaviour": True}, ("after", "forced")),
    "NLLB by its tokenizer.json": ("nllb", {"tokenizer_class": None}, ("before", "forced")),
}


@pytest.fixture
def copied(folder: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """``copied(case)``: a copy to change."""
    return lambda case: Path(shutil.copytree(folder(case), tmp_path / case))


@pytest.mark.parametrize("case", PLACES)
def test_where_tokens_of_languages_stand(case: str, copied: Callable[[str], Path]) -> None:
    family, change, expected = PLACES[case]
    copy = copied(family)
    change_json(copy / "tokenizer_config.json", **change)
    languages = open_checkpoint(copy).model.config.languages
    assert languages is not None
    assert (languages.source, languages.target) == expected


def test_defaults_are_those_that_the_files_say(copied: Callable[[str], Path]) -> None:
    copy = copied("mbart-50")
    ids = language_ids(copy, "mbart-50")
    change_json(copy / "tokenizer_config.json", src_lang="de_DE", tgt_lang="en_XX")
    languages = open_checkpoint(copy).model.config.languages
    assert languages is not None
    assert (languages.default_source, languages.default_target) == ("de_DE", "en_XX")
    change_json(copy / "generation_config.json", forced_bos_token_id=ids["fr_XX"])
    languages = open_checkpoint(copy).model.config.languages
    assert languages is not None
    assert languages.default_target == "fr_XX"
    into = open_checkpoint(copied("mbart")).model.config.languages
    assert into is not None
    assert (into.default_source, into.default_target) == (None, "de_DE")


REFUSED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "normalize_before is False, expected True": ("mbart", "config.json", {"normalize_before": False}),
    "add_final_layer_norm is False, expected True": ("mbart", "config.json", {"add_final_layer_norm": False}),
    "normalize_embedding is False, expected True": ("mbart", "config.json", {"normalize_embedding": False}),
    "normalize_embedding is True, expected False": ("m2m100", "config.json", {"normalize_embedding": True}),
    "static_position_embeddings is False, expected True": (
        "m2m100",
        "config.json",
        {"static_position_embeddings": False},
    ),
    r"new_switch \(1\) is not understood": ("m2m100", "config.json", {"new_switch": 1}),
    r"bad_words_ids hold \(3,\), expected none": ("m2m100", "config.json", {"bad_words_ids": [[3]]}),
    "decoder_start_token_id is 2, expected the token of a language": (
        "mbart",
        "config.json",
        {"decoder_start_token_id": 2},
    ),
    "forced_bos_token_id is 7, expected the token of a language": ("nllb", "config.json", {"forced_bos_token_id": 7}),
    r"default_source \('xx'\) must be one of": ("m2m100", "tokenizer_config.json", {"src_lang": "xx"}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_understood_is_refused(reason: str, copied: Callable[[str], Path]) -> None:
    case, file, change = REFUSED[reason]
    copy = copied(case)
    change_json(copy / file, **change)
    with pytest.raises(ConfigError, match=reason):
        open_checkpoint(copy)


def test_a_forced_token_of_two_minds(copied: Callable[[str], Path]) -> None:
    copy = copied("nllb")
    ids = language_ids(copy, "nllb")
    change_json(copy / "tokenizer_config.json", tgt_lang="deu_Latn")
    change_json(copy / "generation_config.json", decoder_start_token_id=3, forced_bos_token_id=ids["fra_Latn"])
    with pytest.raises(CheckpointError, match="decoder_start_token_id is 3, and the network of"):
        open_checkpoint(copy)


def test_tokenizers_that_are_refused(copied: Callable[[str], Path]) -> None:
    copy = copied("m2m100")
    change_json(copy / "tokenizer_config.json", language_codes="klingon")
    with pytest.raises(TokenizerError, match="language_codes is 'klingon', expected 'm2m100' or 'wmt21'"):
        open_checkpoint(copy)
    change_json(copy / "tokenizer_config.json", language_codes="m2m100")
    words = json.loads((copy / "vocab.json").read_text())
    write_json(copy / "vocab.json", {"qqq" if word == "<pad>" else word: i for word, i in words.items()})
    with pytest.raises(TokenizerError, match=r"vocab\.json lacks <pad>: copy the model again"):
        open_checkpoint(copy)
    write_json(copy / "vocab.json", {"qqq" if i == 9 else word: i for word, i in words.items()})
    with pytest.raises(TokenizerError, match=r"vocab\.json lacks 1 pieces of sentencepiece\.bpe\.model, such as"):
        open_checkpoint(copy)
    (copy / "vocab.json").unlink()
    with pytest.raises(TokenizerError, match="tokenizer_class is 'M2M100Tokenizer', expected 'MBartTokenizer' or"):
        open_checkpoint(copy)
    (copy / "tokenizer_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: expected an object, got list"):
        open_checkpoint(copy)


def test_a_model_that_is_not_fairseqs(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "mbart")
    data = (tmp_path / "sentencepiece.bpe.model").read_bytes()
    (tmp_path / "sentencepiece.bpe.model").write_bytes(data.replace(b"<unk>", b"<bad>"))
    with pytest.raises(TokenizerError, match=r"begins with the pieces \['<bad>', '<s>', '</s>'\], expected \['<unk>'"):
        fairseq_tokenizer(tmp_path, {})


def test_a_tokenizer_without_languages_or_places(copied: Callable[[str], Path]) -> None:
    copy = copied("nllb")
    data = json.loads((copy / "tokenizer.json").read_text())
    write_json(copy / "tokenizer.json", data | {"post_processor": None})
    change_json(copy / "tokenizer_config.json", tokenizer_class=None)
    with pytest.raises(CheckpointError, match=r"is None and the tokenizer puts \(\) before and \(\) after a text"):
        open_checkpoint(copy)
    data["added_tokens"] = [token for token in data["added_tokens"] if "_" not in token["content"]]
    write_json(copy / "tokenizer.json", data | {"post_processor": None})
    with pytest.raises(CheckpointError, match="no special token of the tokenizer is a language, such as de_DE"):
        open_checkpoint(copy)


def test_tags_of_marian_are_languages_of_translations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tags = (">>fra<<", ">>deu<<", ">>cmn_Hans<<")
    export_few(marian_folder(tmp_path / "m", tags=tags), tmp_path / "b", ("cpu",), ("fp32",))
    text = "A man is riding a bicycle."
    with edgewise.load(tmp_path / "b", threads=1) as session:
        for code in ("fra", "deu"):
            tagged, chosen = session.translate([f">>{code}<< {text}", text], target=[None, code], max_new_tokens=9)  # type: ignore[list-item]
            assert tagged.source_tokens == chosen.source_tokens
            assert tagged.tokens == chosen.tokens
        expected = session.translate(text, target="deu", max_new_tokens=9).text
        assert session.verify().ok
    assert main(["inspect", str(tmp_path / "b")]) == 0
    shown = capsys.readouterr().out
    assert "3 languages: fra, deu, cmn_Hans" in shown
    assert "languages by default: source is not asked for, target none" in shown
    assert main(["run", "--to", "deu", "--max-new-tokens", "9", str(tmp_path / "b"), text]) == 0
    assert capsys.readouterr().out.strip() == " ".join(expected.splitlines()).strip()
    assert main(["run", "--to", "es", str(tmp_path / "b"), text]) == 1
    assert "target ('es') must be a language of bundle 'm': fra, deu, cmn_Hans" in capsys.readouterr().err
