"""Folders whose tokenizer is a tiktoken file, from the file to what a bundle generates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiktoken
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else

import edgewise
from edgewise.errors import TokenizerError
from edgewise.models.families.huggingface import read_huggingface
from edgewise.runtime.tokenizer import Tokenizer

from ..bundles import export_few
from ..models.tiktoken.test_tokenizer import ELSEWHERE
from ..models.tiktoken.trained import ranks, write
from .decoders import TINY, decoder_folder, library, library_greedy
from .folders import write_json

COUNT = len(ranks())
ENDS = {"bos_token_id": COUNT, "eos_token_id": COUNT + 1, "pad_token_id": COUNT}
TEXT = "The man – schön 👧"
ADDED = {str(COUNT + i): {"content": text, "special": True} for i, text in enumerate(("<a>", "<b>"))}


def folder_of(folder: Path, kind: str, name: str) -> Path:
    """A folder of a small network with a tiktoken file of that name and no ``tokenizer.json``."""
    make = {"qwen2": transformers.Qwen2Config, "llama": transformers.LlamaConfig, "mistral": transformers.MistralConfig}
    size = COUNT + (256 if kind == "llama" else 3)
    decoder_folder(folder, make[kind](**{**TINY, **ENDS, "vocab_size": size}), seed=3)
    (folder / "tokenizer.json").unlink()
    write(folder / name)
    return folder


def tokenizer_of(folder: Path) -> Tokenizer:
    made = read_huggingface(folder).made_tokenizer
    assert made is not None
    return Tokenizer(made.encode())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "pattern"),
    [("qwen2", "qwen.tiktoken", "qwen"), ("llama", "tokenizer.model", "llama3")],
    ids=["qwen", "llama3"],
)
def test_a_bundle_generates_what_the_libraries_do(kind: str, name: str, pattern: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", kind, name)
    known = {token: rank for rank, token in enumerate(ranks())}
    theirs = tiktoken.Encoding(kind, pat_str=ELSEWHERE[pattern], mergeable_ranks=known, special_tokens={})
    export_few(folder, tmp_path / "b", ("cpu",), ("fp32",))
    with edgewise.load(tmp_path / "b", "cpu", "fp32", threads=1) as session:
        found = session.generate(TEXT, max_new_tokens=20)
    start = [COUNT] if kind == "llama" else []  # <|begin_of_text|>
    assert list(found.source_tokens) == [*start, *theirs.encode_ordinary(TEXT)]
    assert list(found.tokens) == library_greedy(library(folder), list(found.source_tokens), 20)


def test_llama_3_has_its_special_tokens(tmp_path: Path) -> None:
    """By their ids less 128 000 as ``llama/tokenizer.py`` lists them."""
    tokenizer = tokenizer_of(folder_of(tmp_path, "llama", "tokenizer.model"))
    names = {0: "begin_of_text", 1: "end_of_text", 2: "reserved_special_token_0", 5: "reserved_special_token_3"}
    names |= {6: "start_header_id", 7: "end_header_id", 8: "reserved_special_token_4", 9: "eot_id"}
    names |= {10: "reserved_special_token_5", 255: "reserved_special_token_250"}
    assert tokenizer.special_ids == set(range(COUNT, COUNT + 256))
    for index, name in names.items():
        assert tokenizer.encode_control(f"<|{name}|>") == [COUNT + index]


def test_a_folder_says_how_texts_are_split_and_what_is_special(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "mistral", "m.tiktoken")
    write_json(folder / "tokenizer_config.json", {"pat_str": "o200k_base", "added_tokens_decoder": ADDED})
    tokenizer = tokenizer_of(folder)
    assert tokenizer.special_ids == {COUNT, COUNT + 1}
    assert tokenizer.encode_control("<b>a<a>") == [COUNT + 1, *tokenizer.encode("a"), COUNT]
    text = "HelloWorld's"  # one piece a capital letter, and the ending with it
    assert tokenizer.encode(text) == [*tokenizer.encode("Hello"), *tokenizer.encode("World's")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {},
            r"m\.tiktoken does not say how texts are split, and neither does model_type 'mistral' \(pat_str is None\)",
        ),
        (
            {},
            "expected the model_type gpt2, llama, qwen2, qwen3, or in .*: one of gpt2, cl100k_base, o200k_base, llama3",
        ),
        ({"pat_str": r"\w+"}, r"\(pat_str is '\\\\w\+'\): expected the model_type"),
        ({"pat_str": ["gpt2"]}, r"\(pat_str is \['gpt2'\]\)"),
        ({"pat_str": "gpt2", "added_tokens_decoder": [1]}, "added_tokens_decoder has .1. for '', expected the id and"),
        (
            {"pat_str": "gpt2", "added_tokens_decoder": {"1000": {"content": "x", "special": False}}},
            "for '1000', expected the id and the content of a special token: others are not read beside a tiktoken",
        ),
        (
            {"pat_str": "gpt2", "added_tokens_decoder": {"-1": {"content": "x", "special": True}}},
            "for '-1', expected the id and the content of a special token",
        ),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "mistral", "m.tiktoken")
    write_json(folder / "tokenizer_config.json", settings)
    with pytest.raises(TokenizerError, match=message):
        read_huggingface(folder)


def test_two_files_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "qwen2", "a.tiktoken")
    write(folder / "b.tiktoken")
    with pytest.raises(TokenizerError, match=r"has 2 tiktoken files \(a.tiktoken, b.tiktoken\), expected one: keep"):
        read_huggingface(folder)


def test_a_special_token_in_the_place_of_another_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "qwen2", "a.tiktoken")
    write_json(folder / "tokenizer_config.json", {"added_tokens_decoder": {"9": {"content": "<a>", "special": True}}})
    with pytest.raises(TokenizerError, match=f"special token '<a>' has the id 9, expected .* from {COUNT}, behind"):
        read_huggingface(folder)
