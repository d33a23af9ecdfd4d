"""The decoding that a folder recommends: what becomes of it, and that its results are the original library's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import edgewise
from edgewise.errors import CheckpointError
from edgewise.models.open import open_checkpoint
from edgewise.runtime.bundle.decoding import SamplingSpec
from edgewise.runtime.defaults import PLAIN

from ..bundles import export_few
from .folders import bart_folder, bart_tokenizer, change_json, library_bart, library_ids, llama_folder

TEXTS = ["3+4=7", "The man rides a bicycle.", "Zwei Hunde spielen im Schnee – schön!", "日本語 und 👧"]
# As bart-large-cnn has them, in the size of this network.
SUMMARIES = {
    "num_beams": 4,
    "length_penalty": 2.0,
    "min_length": 8,
    "max_length": 20,
    "no_repeat_ngram_size": 3,
    "early_stopping": True,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "summaries": SUMMARIES,
    "forbidden": {
        "num_beams": 3,
        "max_new_tokens": 18,
        "min_new_tokens": 5,
        "length_penalty": 0.5,
        "early_stopping": "never",
        "suppress_tokens": [9, 59, 70],
        "bad_words_ids": [[5, 6], [80, 81, 82]],
    },
    "greedy": {"num_beams": 1, "repetition_penalty": 1.4, "max_length": 24, "no_repeat_ngram_size": 2},
}
case = pytest.mark.parametrize("case", SETTINGS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    def make(case: str) -> Path:
        made = bart_folder(tmp_path_factory.mktemp("bart") / case.split()[0], forced=0 if case == "summaries" else None)
        change_json(made / "generation_config.json", **SETTINGS[case])
        return made

    return cache(make)


@torch.no_grad()
def library_results(folder: Path) -> list[list[int]]:
    """Tokens that the folder itself asks the library for, the forced one left out; logits sum to one after rules."""
    model = library_bart(folder)
    begins = 1 + (model.generation_config.forced_bos_token_id is not None)
    sources = [torch.tensor([library_ids(bart_tokenizer(), text)]) for text in TEXTS]
    return [model.generate(input_ids=ids, renormalize_logits=True)[0, begins:].tolist() for ids in sources]


@pytest.mark.slow
@case
def test_results_without_a_word_are_those_of_the_library(
    case: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    export_few(folder(case), tmp_path / "bundle", ("cpu", "openvino"), ("fp32",))
    expected = library_results(folder(case))
    for target in ("cpu", "openvino"):
        with edgewise.load(tmp_path / "bundle", target, "fp32", 1) as session:
            found = [list(g.tokens) for g in session.translate(TEXTS)]
            assert found == expected
            assert [list(session.translate(text).tokens) for text in TEXTS] == expected
            assert session.verify().ok
            own = session.manifest.generation
            assert own is not None
            plain = replace(PLAIN, beam_size=own.beam_size, max_new_tokens=own.max_new_tokens)
            session.manifest = replace(session.manifest, generation=plain)
            assert [list(g.tokens) for g in session.translate(TEXTS)] != expected


def test_what_becomes_of_settings(folder: Callable[[str], Path]) -> None:
    """The decoder's prompt, here two tokens, counts there and not here."""
    checkpoint = open_checkpoint(folder("summaries"))
    assert checkpoint.beam_size == 4
    assert checkpoint.decoding == {
        "length_norm": "power", "length_penalty": 2.0, "early_stopping": True, "repetition_penalty": 1.0,
        "no_repeat_ngram": 3, "max_new_tokens": 18, "min_new_tokens": 6, "suppress": [],
    }  # fmt: skip
    decoding = open_checkpoint(folder("forbidden")).decoding
    assert (decoding["max_new_tokens"], decoding["min_new_tokens"]) == (18, 5)
    assert decoding["suppress"] == [[5, 6], [80, 81, 82], [9], [59], [70]]


def changed(folder: Path, **settings: Any) -> dict[str, Any]:
    """The decoding of a Llama with these settings."""
    llama_folder(folder)
    change_json(folder / "generation_config.json", **settings)
    return dict(open_checkpoint(folder).decoding)


def test_limits_of_a_decoder_alone_are_passed_over(tmp_path: Path) -> None:
    found = changed(tmp_path, max_length=40, max_new_tokens=30, min_new_tokens=3, bad_words_ids=[[7], [8, 9]])
    assert "max_new_tokens" not in found
    assert (found["min_new_tokens"], found["suppress"]) == (3, [[7], [8, 9]])


SAMPLINGS: dict[str, tuple[dict[str, Any], SamplingSpec | None]] = {
    "as a chat model": (
        {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.0},
        SamplingSpec(temperature=0.7, top_k=20, top_p=0.8, min_p=None, typical_p=None),
    ),
    "by default": (
        {"do_sample": True, "top_p": 1.0},
        SamplingSpec(temperature=1.0, top_k=50, top_p=None, min_p=None, typical_p=None),
    ),
    "all": (
        {"do_sample": True, "top_k": 0, "min_p": 0.1, "typical_p": 0.9},
        SamplingSpec(temperature=1.0, top_k=None, top_p=None, min_p=0.1, typical_p=0.9),
    ),
    "not asked for": ({"do_sample": False, "temperature": 0.7}, None),
}


@pytest.mark.parametrize(("settings", "expected"), SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_sampling(settings: dict[str, Any], expected: SamplingSpec | None, tmp_path: Path) -> None:
    found = changed(tmp_path, **settings).get("sampling")
    assert (None if found is None else SamplingSpec(**found)) == expected


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "min_length": ({"min_length": 5}, "min_length is 5, which counts a prompt: take it out"),
    "fewest": ({"min_new_tokens": 97}, "results of 97 new tokens and more, expected at most 96: correct it"),
    "penalty": ({"length_penalty": -1.0}, "length_penalty is -1.0, expected a number from 0 to 10"),
    "text": ({"repetition_penalty": "1.2"}, "repetition_penalty is '1.2', expected a number from 0.01 to 100"),
    "truth": ({"no_repeat_ngram_size": True}, "no_repeat_ngram_size is True, expected a whole number of at least 0"),
    "stopping": ({"early_stopping": "soon"}, "early_stopping is 'soon', expected true, false or 'never'"),
    "tokens": ({"suppress_tokens": [-1]}, r"suppress_tokens is \[-1\], expected a list of token ids"),
    "sample": ({"do_sample": 1}, "do_sample is 1, expected true or false"),
    "heat": ({"do_sample": True, "temperature": 0.0}, "temperature is 0.0, expected a number from 0.001 to 100"),
    "cutoff": ({"do_sample": True, "eta_cutoff": 1e-3}, "eta_cutoff is 0.001: a bundle holds no such setting"),
    "all": ({"length_penalty": 11, "max_length": "x"}, "length_penalty is 11, .*; max_length is 'x', expected"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_settings_that_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        changed(tmp_path, **settings)


def test_an_older_folder_has_them_in_its_configuration(folder: Callable[[str], Path], tmp_path: Path) -> None:
    for file in folder("summaries").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").unlink()
    change_json(tmp_path / "config.json", **SUMMARIES, forced_bos_token_id=0)
    checkpoint, other = open_checkpoint(tmp_path), open_checkpoint(folder("summaries"))
    assert (checkpoint.decoding, checkpoint.beam_size) == (other.decoding, other.beam_size)
