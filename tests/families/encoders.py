"""Folders of the original library's encoders with a head, tiny and random, and what that library makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from .folders import PIECES, WORDS, randomize, wordpiece, write_json

CLASSES = {"id2label": {"0": "bad", "1": "so so", "2": "good"}, "label2id": {"bad": 0, "so so": 1, "good": 2}}
ENTITIES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TAGS = {"id2label": dict(enumerate(ENTITIES)), "label2id": {name: i for i, name in enumerate(ENTITIES)}}
ONE = {"id2label": {"0": "score"}, "label2id": {"score": 0}}

Fields = dict[str, Any]
BERT: Fields = {
    "vocab_size": len(PIECES) + 3,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}


def encoder_folder(
    folder: Path, architecture: str, fields: Fields, tokenizer: Tokenizer, mask: str, seed: int = 0
) -> Path:
    """The ``architecture`` of the library with these ``fields`` of its configuration, saved by itself."""
    kind = getattr(transformers, architecture)
    model = randomize(kind(kind.config_class(**fields)), seed)
    model.save_pretrained(folder)  # type: ignore[operator]
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    write_json(folder / "tokenizer_config.json", {"mask_token": mask})
    return folder


def bert_head(folder: Path, head: str, seed: int = 0, **fields: Any) -> Path:
    """A folder of ``BertFor...``."""
    return encoder_folder(folder, f"Bert{head}", BERT | fields, wordpiece(), "[MASK]", seed)


def electra_head(folder: Path, head: str, seed: int = 0, **fields: Any) -> Path:
    """A folder of ``ElectraFor...``."""
    own = {"embedding_size": 24}
    return encoder_folder(folder, f"Electra{head}", BERT | own | fields, wordpiece(), "[MASK]", seed)


DISTILBERT: Fields = {
    "vocab_size": len(PIECES) + 3,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 40,
}
ROBERTA: Fields = {**BERT, "vocab_size": 400, "max_position_embeddings": 42, "type_vocab_size": 1}


def distilbert_head(folder: Path, head: str, seed: int = 0, **fields: Any) -> Path:
    """A folder of ``DistilBertFor...``."""
    return encoder_folder(folder, f"DistilBert{head}", DISTILBERT | fields, wordpiece(), "[MASK]", seed)


def roberta_head(folder: Path, head: str, seed: int = 0, **fields: Any) -> Path:
    """A folder of ``RobertaFor...``."""
    return encoder_folder(folder, f"Roberta{head}", ROBERTA | fields, byte_level(), "<mask>", seed)


def xlm_roberta_head(folder: Path, head: str, seed: int = 0, **fields: Any) -> Path:
    """A folder of ``XLMRobertaFor...``."""
    return encoder_folder(folder, f"XLMRoberta{head}", ROBERTA | fields, unigram(), "<mask>", seed)


_LINES = [" ".join(WORDS), "Zwei Hunde spielen im Schnee – schön!", "日本語 und 👧"] * 5
_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
_MASK = AddedToken("<mask>", lstrip=True, special=True)


def byte_level() -> Tokenizer:
    return Tokenizer.from_str(_byte_level())


@cache
def _byte_level() -> str:
    """A byte-level BPE with RoBERTa's special tokens; its mask takes the white space before it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=350, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_LINES, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    tokenizer.add_special_tokens([_MASK])
    return tokenizer.to_str()  # trained once: it may come out otherwise the next time


def unigram() -> Tokenizer:
    return Tokenizer.from_str(_unigram())


@cache
def _unigram() -> str:
    """A unigram model of pieces as XLM-R has it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=_SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(_LINES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([_MASK])
    return tokenizer.to_str()  # trained once: it may come out otherwise the next time


def library(folder: Path, architecture: str) -> Any:
    """The original library's own reading of a folder."""
    return getattr(transformers, architecture).from_pretrained(folder, attn_implementation="eager").eval()


def library_fast(tokenizer: Tokenizer, **special: Any) -> Any:
    """A tokenizer of the library without the truncation and padding in its file."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=names, **special)


def check_masked_words(session: Any, model: Any, top: int, texts: Sequence[str]) -> None:
    """Words and probabilities of a session for ``<mask>`` in ``texts``, against the library's pipeline with ``model``.

    ``top``: how many words of the vocabulary the library is asked for, special ones among them.
    """
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    read = library_fast(wordpiece(), mask_token="[MASK]", **special)
    fill = transformers.pipeline("fill-mask", model=model, tokenizer=read, device="cpu", top_k=top)
    for text in texts:
        theirs = [(r["token"], r["score"]) for r in fill(text.replace("<mask>", "[MASK]"))]
        ours = [(f.token, f.probability) for f in session.fill_mask(text, top=5)]
        known = dict(theirs)
        assert [token for token, _ in ours] == [t for t, _ in theirs if t > 4][:5]
        assert [p for _, p in ours] == pytest.approx([known[t] for t, _ in ours], abs=1e-4)


def random_batch(longest: int, words: range, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask; one row is as long as the table of positions."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(words.start, words.stop, (4, longest), generator=generator)
    return ids, torch.arange(longest) < torch.tensor([[longest], [1], [17], [6]])


Maker = Callable[..., Path]
