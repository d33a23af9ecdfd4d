"""Marian's ``.npz`` with embeddings of source and target of their own, against its formulas written out in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import edgewise
from edgewise.errors import CheckpointError, ConfigError
from edgewise.models.open import open_checkpoint
from edgewise.runtime.bundle.model_spec import ModelSpec
from edgewise.runtime.decoding import Request, start_search
from edgewise.runtime.inputs import Prepared
from edgewise.runtime.options import DecodingOptions
from edgewise.runtime.search import finish

from ...bundles import export_few
from ...open_model import open_model
from .naive import SETTINGS, WIDTH, Naive, arrays, changed, write

SIZES = "  - 300\n  - 300"
ALL = "tied-embeddings-all: true"
TIED, UNTIED = "tied-embeddings: true", "tied-embeddings-all: false"
EMPTY = np.zeros((290, WIDTH), np.float32)


def two(
    folder: Path, sources: int = 290, tokenizer: bool = True, ties: str = TIED, scale: float = 1.0
) -> tuple[Path, Naive]:
    """A file whose source has an embedding of its own, and the formulas over its arrays.

    ``scale``: of the matrices within layers.
    """
    settings = changed(SETTINGS, {ALL: ties, SIZES: f"  - {sources}\n  - 300"})
    held: dict[str, Any] = arrays(settings, 4)
    held["decoder_Wemb"] = held.pop("Wemb")
    held["encoder_Wemb"] = np.random.default_rng(7).normal(size=(sources, WIDTH), scale=0.25).astype(np.float32)
    held |= {name: values * np.float32(scale) for name, values in held.items() if "_l" in name and "_W" in name}
    file = write(folder, settings, 4, **{"Wemb": None, **held})
    if tokenizer:
        (folder / "source_tokenizer.json").write_text(source_tokenizer().to_str())
    return file, Naive(settings, held)


def source_tokenizer() -> Tokenizer:
    """Byte-level, with the end token behind the others."""
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"<{i}>" for i in range(33)), "</s>"]
    made = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["</s>"])
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "tokenizer", "ties"),
    [(290, True, TIED), (300, False, TIED), (290, True, UNTIED)],
    ids=["two vocabularies", "one vocabulary", "untied"],
)
def test_translations_are_those_of_the_formulas(size: int, tokenizer: bool, ties: str, tmp_path: Path) -> None:
    file, naive = two(tmp_path / "m", size, tokenizer, ties)
    checkpoint = open_checkpoint(file)
    assert checkpoint.source_tokenizer == (source_tokenizer().to_str() if tokenizer else None)
    spec = ModelSpec.from_json(checkpoint.model.config.to_json())
    assert (spec.source_size, spec.vocab_size, spec.end_source) == (size, 301, 289 if tokenizer else 0)
    for target in ("cpu", "openvino"):
        engine = open_model(checkpoint.model, target, tmp_path / target)
        for text in ([7, 8, 9], [40, 41, 42, 43, 99, 250, 12], []):
            source = spec.source(text)
            request = Request(source=Prepared(ids=source), limit=20)
            found = finish(start_search(engine, spec, [request], DecodingOptions(beam_size=1)))[0][0]
            assert list(found.tokens) == naive.greedy(list(source), 20)


@pytest.mark.slow
def test_a_bundle_translates_texts_and_verifies(tmp_path: Path) -> None:
    file, naive = two(tmp_path / "m", scale=0.3)  # integers are near, as in a trained network
    export_few(file, tmp_path / "b", ("cpu",), ("fp32", "int8"))
    text = "The man rides."
    source = [*source_tokenizer().encode(text).ids, 289]
    with edgewise.load(tmp_path / "b", "cpu", "fp32", 1) as session:
        found = session.translate(text, beam_size=1, max_new_tokens=20)
        assert list(found.tokens) == naive.greedy(source, 20)
    for precision in ("fp32", "int8"):
        with edgewise.load(tmp_path / "b", "cpu", precision, 1) as session:
            report = session.verify()
        # A random network is undecided nearly everywhere: the share of equal tokens says nothing; all else must hold.
        faults = [fault for fault in report.faults if "of the top-1 tokens agree" not in fault]
        assert not faults, report.table()


def test_sources_of_another_size_need_a_tokenizer(tmp_path: Path) -> None:
    file, _ = two(tmp_path / "m", tokenizer=False)
    with pytest.raises(CheckpointError, match=r"no source_tokenizer\.json: sources have 290 tokens, translations 300"):
        open_checkpoint(file)


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [
        ({}, {"encoder_Wemb": EMPTY[0]}, r"encoder_Wemb has shape \(32,\), expected a matrix"),
        ({ALL: TIED}, {"encoder_Wemb": EMPTY}, r"dim-vocabs is \['300', '300'\], expected \['290', '300'\], the sizes"),
        ({}, {"encoder_Wemb": EMPTY}, "tied-embeddings-all is true beside encoder_Wemb and decoder_Wemb, expected"),
        ({}, {"Wemb": arrays(SETTINGS)["Wemb"]}, "unexpected decoder_Wemb"),
        ({}, {}, "has no matrix Wemb, and not both encoder_Wemb and decoder_Wemb"),
    ],
)
def test_what_is_refused(settings: dict[str, str], more: dict[str, Any], message: str, tmp_path: Path) -> None:
    held = {"Wemb": None, "decoder_Wemb": arrays(SETTINGS)["Wemb"], **more}
    file = write(tmp_path, changed(SETTINGS, settings), **held)
    (tmp_path / "source_tokenizer.json").write_text(source_tokenizer().to_str())
    with pytest.raises((CheckpointError, ConfigError), match=message):
        open_checkpoint(file)
