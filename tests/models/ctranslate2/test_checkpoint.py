"""CTranslate2 folders against the ctranslate2 library on the same folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import pytest
import torch
from ctranslate2.specs.common_spec import Activation
from tokenizers import Tokenizer

import edgewise
from edgewise.errors import CheckpointError, ConfigError
from edgewise.models import decode
from edgewise.models.open import open_checkpoint
from edgewise.runtime.bundle.model_spec import ModelSpec

from ...bundles import export_few
from .folders import END, POSITIONS, START, TOKENIZER, UNKNOWN, generator_folder, translator_folder, vocabulary

pytestmark = pytest.mark.slow
Compare = Callable[..., None]
Maker = Callable[..., Path]
TRANSLATORS: dict[str, dict[str, Any]] = {
    "post-norm": {},
    "pre-norm, untied, gelu": {"pre_norm": True, "untied": True, "activation": Activation.GELU, "source_bos": True},
    "pre-norm without a last norm, silu, unscaled": {
        "pre_norm": True,
        "no_final_norm": True,
        "activation": Activation.SWISH,
        "scaled": 1.0,
        "output_bias": False,
        "epsilon": 0.1,
    },
    "a flag for the scale": {"scaled": True, "activation": Activation.GELUTanh},
}
GENERATORS: dict[str, dict[str, Any]] = {
    "of GPT-2's kind": {"epsilon": 1e-3},
    "of Llama's kind": {"rotary": True, "epsilon": 0.01},
    # States so small that the default of epsilon shows: another one moves log-probabilities by 0.003 and more.
    "of GPT-2's kind, default epsilon": {"embedded": 0.01},
    "of Llama's kind, default epsilon": {"rotary": True, "embedded": 0.01},
}
SOURCES = [[7, 8, 9], [40, 41, 42, 43, 99, 250, 12], [120]]


def names(ids: list[int]) -> list[str]:
    words = vocabulary()
    return [words[i] for i in ids]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``made(case, quantization)``: a folder."""

    def make(case: str, quantization: str | None = None) -> Path:
        folder = tmp_path_factory.mktemp("ct2") / "tiny"
        maker: Maker = translator_folder if case in TRANSLATORS else generator_folder
        return maker(folder, seed=len(case), quantization=quantization, **{**TRANSLATORS, **GENERATORS}[case])

    return cache(make)


@torch.no_grad()
def our_log_probs(model: Any, source: list[int] | None, target: list[int]) -> np.ndarray:
    """Of every token of ``target``, and then of the end. No padding: the end token stands for it, too."""
    read = torch.tensor([[model.config.start_id, *target] if source else target])
    cross: dict[str, Any] = {}
    if source:
        mask = torch.ones(1, len(source), dtype=torch.bool)
        cross = {"cross": model.cross_key_value(model.encode(torch.tensor([source]), mask)), "cross_mask": mask}
    hidden = model.decode(read, torch.arange(read.shape[1])[None], torch.ones_like(read, dtype=torch.bool), **cross)[0]
    logits = model.logits(hidden)[0].log_softmax(-1)
    follows = [*target, model.config.end_id] if source else target[1:]
    return np.array([float(logits[i, token]) for i, token in enumerate(follows)], np.float32)


@pytest.mark.parametrize(
    ("case", "quantization"),
    [*((case, None) for case in TRANSLATORS), *(("post-norm", q) for q in ("float16", "int16", "int8", "bfloat16"))],
)
def test_translations_and_scores_are_those_of_the_library(
    case: str, quantization: str | None, made: Callable[..., Path], assert_close: Compare
) -> None:
    folder = made(case, quantization)
    model, library = open_checkpoint(folder).model, ctranslate2.Translator(str(folder), compute_type="float32")
    end = model.config.end_id
    starts = model.config.starts_text
    assert starts is bool(TRANSLATORS[case].get("source_bos", False))
    for source in SOURCES:
        ours = [model.config.start_id, *source, end] if starts else [*source, end]
        found = decode.greedy(model, ours, 20)
        theirs = library.translate_batch(
            [names([*source, end])], beam_size=1, max_decoding_length=20, return_end_token=True
        )[0].hypotheses[0]
        assert names(found.tokens) == theirs
        target = [33, 71, 5, 90]
        scored = library.score_batch([names([*source, end])], [names(target)])[0].log_probs
        assert_close(our_log_probs(model, ours, target), np.array(scored, np.float32), atol=1e-4)


@pytest.mark.parametrize("case", GENERATORS)
def test_continuations_and_scores_are_those_of_the_library(
    case: str, made: Callable[..., Path], assert_close: Compare
) -> None:
    folder = made(case)
    model, library = open_checkpoint(folder).model, ctranslate2.Generator(str(folder), compute_type="float32")
    for prompt in SOURCES:
        found = decode.greedy(model, prompt, 20)
        theirs = library.generate_batch(
            [names(prompt)], beam_size=1, max_length=20, include_prompt_in_result=False, return_end_token=True
        )[0].sequences[0]
        assert names(found.tokens) == theirs
    text = [*SOURCES[1], 33, 71, 5]
    scored = library.score_batch([names(text)])[0].log_probs
    assert_close(our_log_probs(model, None, text), np.array(scored, np.float32), atol=1e-4)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_a_bundle_translates_as_the_library(target: str, made: Callable[..., Path], tmp_path: Path) -> None:
    folder = made("post-norm", "int8")
    export_few(folder, tmp_path / "out", targets=(target,), precisions=("fp32",))
    library = ctranslate2.Translator(str(folder), compute_type="float32")
    with edgewise.load(tmp_path / "out", target, "fp32", 1) as session:
        assert session.verify().ok
        for text in ("The man rides.", "3+4=7"):
            result = session.translate(text, beam_size=1, max_new_tokens=20).hypotheses[0]
            source = [*TOKENIZER.encode(text).tokens, END]
            theirs = library.translate_batch([source], beam_size=1, max_decoding_length=20, return_end_token=True)
            assert names(list(result.tokens)) == theirs[0].hypotheses[0]


def test_what_a_folder_says(made: Callable[..., Path]) -> None:
    found = open_checkpoint(made("post-norm"))
    config = found.model.config
    assert (found.max_context, found.beam_size, found.training["recipe"][:15]) == (POSITIONS, 2, "TransformerSpec")
    assert names([config.start_id, config.end_id]) == [START, END]
    assert config.tied
    assert not open_checkpoint(made("pre-norm, untied, gelu")).model.config.tied


def changed(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eos_token": "<none>"}, "eos_token is '<none>', expected a token of the vocabulary"),
        ({"decoder_start_token": None}, "decoder_start_token is None, expected a token of the vocabulary"),
        ({"lang_ids": [3]}, r"\['lang_ids'\] not understood"),
        ({"quantization_type": 1}, r"\['quantization_type'\] not understood"),
        ({"layer_norm_epsilon": 3}, "layer_norm_epsilon is 3, expected a small number"),
        ({"add_source_bos": "junk"}, "add_source_bos is 'junk', expected true or false"),
        ({"add_source_eos": 1}, "add_source_eos is 1, expected true or false"),
        (
            {"add_source_eos": True},
            r"put \(\) before and \(0, 0\) after a source, expected at most one token before, and",
        ),
    ],
)
def test_settings_that_are_not_understood(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = translator_folder(tmp_path / "tiny")
    changed(folder, **fields)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"template": "$A"}, r"put \(\) before and \(\) after a source, .* and eos_token \(0\) after"),
        ({"template": f"$A {START}"}, r"put \(\) before and \(1,\) after a source"),
        ({"template": f"{START} $A {END}", "source_bos": True}, r"put \(1, 1\) before and \(0,\) after a source"),
    ],
)
def test_sources_that_the_network_would_not_read(case: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(translator_folder(tmp_path / "tiny", **case))


@pytest.mark.parametrize(
    ("case", "before"),
    [
        ({"template": "$A", "source_eos": True}, []),
        ({"template": "$A", "source_eos": True, "source_bos": True}, [START]),
        ({"template": f"{START} $A", "source_eos": True}, [START]),
        ({"template": f"{START} $A {END}"}, [START]),
        ({"template": f"{START} $A {END}", "start": UNKNOWN}, [START]),
        ({"source_bos": True, "start": END}, [START]),
    ],
)
def test_sources_are_those_of_tokenizer_and_library_together(
    case: dict[str, Any], before: list[str], tmp_path: Path, assert_close: Compare
) -> None:
    folder = translator_folder(tmp_path / "tiny", **case)
    model = open_checkpoint(folder).model
    bare = TOKENIZER.encode("The man rides.").ids
    source = list(ModelSpec.from_json(model.config.to_json()).source(bare))
    assert names(source) == [*before, *names(bare), END]
    whole = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("The man rides.").tokens
    target = [33, 71, 5, 90]
    library = ctranslate2.Translator(str(folder), compute_type="float32")
    scored = library.score_batch([whole], [names(target)])[0].log_probs
    assert_close(our_log_probs(model, source, target), np.array(scored, np.float32), atol=1e-4)


def test_a_generator_has_no_settings_of_translators(tmp_path: Path) -> None:
    folder = generator_folder(tmp_path / "tiny")
    changed(folder, add_source_eos=True)
    with pytest.raises(ConfigError, match=r"\['add_source_eos'\] not understood"):
        open_checkpoint(folder)


def rewrite(file: Path, change: Callable[[list[str]], object]) -> None:
    tokens = json.loads(file.read_text())
    change(tokens)
    file.write_text(json.dumps(tokens))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(), "the vocabulary has .* tokens, the embedding .* rows"),
        (lambda t: t.__setitem__(slice(10, 12), t[11:9:-1]), "token 1[01] is .*, in the vocabulary it is"),
        (lambda t: t.append(3), "expected a list of tokens"),
    ],
)
def test_a_vocabulary_that_is_anothers(change: Callable[[list[str]], object], message: str, tmp_path: Path) -> None:
    folder = translator_folder(tmp_path / "tiny")
    rewrite(folder / "shared_vocabulary.json", change)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_vocabularies_as_lines_apart_or_absent(tmp_path: Path) -> None:
    folder = translator_folder(tmp_path / "tiny")
    (folder / "shared_vocabulary.json").unlink()
    with pytest.raises(CheckpointError, match="has no vocabulary: expected shared_vocabulary"):
        open_checkpoint(folder)
    lines = "\n".join(vocabulary()) + "\n"
    (folder / "source_vocabulary.txt").write_text(lines, encoding="utf-8")
    (folder / "target_vocabulary.txt").write_text(lines, encoding="utf-8")
    open_checkpoint(folder)
    (folder / "target_vocabulary.txt").write_text(lines.replace("<more>", "<less>"), encoding="utf-8")
    with pytest.raises(CheckpointError, match="source and target have vocabularies of their own"):
        open_checkpoint(folder)
    (folder / "target_vocabulary.txt").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="expected lines of UTF-8"):
        open_checkpoint(folder)


def test_a_tokenizer_is_needed(tmp_path: Path) -> None:
    folder = translator_folder(tmp_path / "tiny")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer.json: expected a tokenizer of the tokenizers library"):
        open_checkpoint(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")  # what a tokenizer of BERT's is made of
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json: put one there whose ids are"):
        open_checkpoint(folder)
