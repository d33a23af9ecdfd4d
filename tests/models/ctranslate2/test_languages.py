"""CTranslate2 folders whose texts choose their languages, against the library with their tokens given by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ctranslate2
import pytest
from tokenizers import Tokenizer

import edgewise
from edgewise.errors import CheckpointError, ConfigError, EdgewiseError
from edgewise.models.open import open_checkpoint

from ...bundles import export_few
from ...families.folders import write_json
from .folders import END, SOURCE, UNKNOWN, translator_folder, vocabulary

TEXTS = ["The man rides.", "3+4=7", "schön!"]
CODES = {"NllbTokenizer": ("deu_Latn", "eng_Latn"), "M2M100TokenizerFast": ("__de__", "__en__")}


def folder_of(folder: Path, name: str = "NllbTokenizer", settings: Any = None, **case: Any) -> Path:
    """A translator whose last two tokens are languages, the first of which the tokenizer puts before a text."""
    codes = CODES.get(name, ("de_DE", "en_XX"))
    translator_folder(folder, seed=3, **case)
    for file in folder.glob("*vocabulary.json"):
        file.write_text(json.dumps([*vocabulary()[:-2], *codes]), encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([UNKNOWN, *codes])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": name, **(settings or {})})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", CODES)
def test_translations_are_those_of_the_library(name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", name)
    library = ctranslate2.Translator(str(folder), compute_type="float32")
    first, second = CODES[name]
    words = [*vocabulary()[:-2], first, second]
    export_few(folder, tmp_path / "b", ("cpu", "openvino"), ("fp32",))
    given = []
    for target in ("cpu", "openvino"):
        with edgewise.load(tmp_path / "b", target, "fp32", 1) as session:
            assert session.verify().ok
            for text in TEXTS:
                pieces = [session.tokenizer.piece(i) for i in session.tokenizer.encode(text)]
                for one, other in ((first, second), (second, first), (second, second)):
                    result = session.translate(
                        text, source=one.strip("_"), target=other.strip("_"), beam_size=1, max_new_tokens=12
                    )
                    theirs = library.translate_batch(
                        [[one, *pieces, END]],
                        target_prefix=[[other]],
                        beam_size=1,
                        max_decoding_length=13,
                        return_end_token=True,
                    )[0].hypotheses[0]
                    assert [other, *(words[i] for i in result.tokens)] == theirs
                    given.append(tuple(theirs[1:]))
    assert len(set(given)) > len(TEXTS)  # the languages are read


@pytest.mark.slow
def test_integers_verify_in_every_language(tmp_path: Path) -> None:
    export_few(folder_of(tmp_path / "m", std=0.12), tmp_path / "b", precisions=("int8",))  # as int8 is meant for
    first, second = CODES["NllbTokenizer"]
    for target in ("cpu", "openvino"):
        with edgewise.load(tmp_path / "b", target, "int8", 1) as session:
            report = session.verify()
            asked = {(c.source_language, c.target_language) for c in session.bundle.cases().cases}
            results = session.translate(TEXTS * 2, source=first, target=[first] * 3 + [second] * 3, max_new_tokens=12)
        assert report.ok, report.table()
        assert {target for _, target in asked} == {first, second}
        assert [r.tokens for r in results[:3]] != [r.tokens for r in results[3:]]


def test_the_language_that_a_template_puts_is_none_of_the_network(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", settings={"src_lang": "eng_Latn"})
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    token = "deu_Latn"
    index = vocabulary().index("<more>")
    tokenizer["post_processor"]["single"].insert(0, {"SpecialToken": {"id": token, "type_id": 0}})
    tokenizer["post_processor"]["special_tokens"][token] = {"id": token, "ids": [index], "tokens": [token]}
    write_json(folder / "tokenizer.json", tokenizer)
    config = open_checkpoint(folder).model.config
    assert config.source_start_id is None
    assert config.languages is not None
    assert config.languages.tokens == {"deu_Latn": index, "eng_Latn": index + 1}
    assert config.languages.default_source == "eng_Latn"


@pytest.mark.parametrize(
    ("name", "settings", "case", "kind", "message"),
    [
        ("NllbTokenizer", {"legacy_behaviour": True}, {}, ConfigError, "languages of sources stand after a text"),
        ("MBartTokenizer", {}, {}, ConfigError, "translations are start, expected 'before' and 'forced', as CTr"),
        ("NllbTokenizer", {"src_lang": "fra_Latn"}, {}, ConfigError, "default_source .'fra_Latn'. must be one of"),
        (
            "NllbTokenizer",
            {},
            {"source_bos": True, "template": SOURCE},
            ConfigError,
            r"together put \(1,\) before a source beside its language, expected nothing",
        ),
    ],
)
def test_what_is_refused(
    name: str, settings: Any, case: Any, kind: type[EdgewiseError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        open_checkpoint(folder_of(tmp_path / "m", name, settings, **case))


def test_a_tokenizer_without_languages_is_refused(tmp_path: Path) -> None:
    folder = translator_folder(tmp_path / "m")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "NllbTokenizer"})
    with pytest.raises(CheckpointError, match="no special token of the tokenizer is a language, such as de_DE"):
        open_checkpoint(folder)
