"""CTranslate2 folders whose source and target have vocabularies, or embeddings, of their own, against the library."""

from __future__ import annotations

import json
from pathlib import Path

import ctranslate2
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

import edgewise
from edgewise.errors import CheckpointError, ConfigError
from edgewise.models.open import open_checkpoint

from ...bundles import export_few
from .folders import END, START, UNKNOWN, translator_folder, vocabulary

pytestmark = pytest.mark.slow
TEXTS = ["The man rides.", "3+4=7", "schön!"]


def of_sources() -> Tokenizer:
    """A byte-level tokenizer that numbers its tokens otherwise than that of translations."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=275, special_tokens=[UNKNOWN, END, START], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(["The man rides the red bicycle"] * 9, trainer)
    ends = [(END, made.token_to_id(END))]
    made.post_processor = TemplateProcessing(single=f"$A {END}", special_tokens=ends)
    return made


def tokens_of(tokenizer: Tokenizer) -> list[str]:
    ids = tokenizer.get_vocab(with_added_tokens=True)
    return sorted(ids, key=lambda token: ids[token])


def two_vocabularies(folder: Path) -> Path:
    translator_folder(folder, seed=3, sources=tokens_of(of_sources()), source_bos=True)
    (folder / "source_tokenizer.json").write_text(of_sources().to_str())
    return folder


@pytest.mark.parametrize("own", ["vocabulary", "embedding"])
def test_translations_are_those_of_the_library(own: str, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    if own == "vocabulary":
        two_vocabularies(folder)
    else:
        translator_folder(folder, seed=3, own_embedding=True)
    library = ctranslate2.Translator(str(folder), compute_type="float32")
    words = vocabulary()
    export_few(folder, tmp_path / "b", ("cpu", "openvino"), ("fp32",))
    for target in ("cpu", "openvino"):
        with edgewise.load(tmp_path / "b", target, "fp32", 1) as session:
            assert session.verify().ok
            assert session.manifest.model.source_size == (len(tokens_of(of_sources())) if own == "vocabulary" else 303)
            for text in TEXTS:
                result = session.translate(text, beam_size=1, max_new_tokens=20)
                source = [session.source_tokenizer.piece(i) for i in session.source_tokenizer.encode(text)]
                theirs = library.translate_batch(
                    [[*source, END]], beam_size=1, max_decoding_length=20, return_end_token=True
                )[0].hypotheses[0]
                assert [words[i] for i in result.tokens] == theirs


def test_what_is_refused(tmp_path: Path) -> None:
    folder = two_vocabularies(tmp_path / "m")
    file, vocabularies = folder / "source_tokenizer.json", folder / "source_vocabulary.json"
    words = vocabularies.read_text(encoding="utf-8")
    vocabularies.write_text(json.dumps([*json.loads(words), "<more>"]), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"the vocabulary of sources has \d+ tokens, their embedding \d+ rows"):
        open_checkpoint(folder)
    vocabularies.write_text(words, encoding="utf-8")
    (folder / "vocabulary.json").write_text("[]", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"has the vocabularies .*, expected one of translations"):
        open_checkpoint(folder)
    (folder / "vocabulary.json").unlink()
    made = of_sources()
    made.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    file.write_text(made.to_str())
    with pytest.raises(ConfigError, match=r"source_tokenizer\.json together put \(2,\) before and \(\) after a source"):
        open_checkpoint(folder)
    file.write_text((folder / "tokenizer.json").read_text())
    with pytest.raises(CheckpointError, match=r"source_tokenizer\.json"):
        open_checkpoint(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"vocabularies of their own, and there is no source_tokenizer"):
        open_checkpoint(folder)
