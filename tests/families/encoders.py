"""Folders of the original library's encoders with a head, tiny and random, and what that library makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from tokenizers import Tokenizer

from .folders import PIECES, randomize, wordpiece, write_json

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


def library(folder: Path, architecture: str) -> Any:
    """The original library's own reading of a folder."""
    return getattr(transformers, architecture).from_pretrained(folder, attn_implementation="eager").eval()


def library_fast(tokenizer: Tokenizer, **special: Any) -> Any:
    """A tokenizer of the library without the truncation and padding in its file."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=names, **special)


def random_batch(longest: int, words: range, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask; one row is as long as the table of positions."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(words.start, words.stop, (4, longest), generator=generator)
    return ids, torch.arange(longest) < torch.tensor([[longest], [1], [17], [6]])


Maker = Callable[..., Path]
