"""Folders as the original library writes them: its own tiny model with random weights, saved by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

_WORDS = "a man is riding bicycle two dogs play in the snow girl boy red hat on street . , ! ?"
WORDS = _WORDS.split()
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", "##ing", "##ed", "d", "##o", "##g"]


def randomize(model: torch.nn.Module, seed: int, std: float = 0.3) -> torch.nn.Module:
    """Every parameter random: zero biases and unit norms would hide a mix-up."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=std, generator=generator)
    return model.eval()


def wordpiece() -> Tokenizer:
    """BERT's tokenizer over a few words, with the truncation and padding that published files hold."""
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.enable_truncation(6)
    tokenizer.enable_padding(length=6)
    return tokenizer


def bert_folder(folder: Path, *, pooling: str = "mean", normalize: bool = True, seed: int = 0, **config: Any) -> Path:
    """A sentence-transformers folder around a ``BertModel``; ``config`` changes its ``BertConfig``."""
    fields = {
        "vocab_size": len(PIECES) + 3,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
        **config,
    }
    randomize(transformers.BertModel(transformers.BertConfig(**fields)), seed).save_pretrained(folder)  # type: ignore[operator]
    (folder / "tokenizer.json").write_text(wordpiece().to_str())
    modules = ["Transformer", "Pooling", "Normalize"][: 3 if normalize else 2]
    places = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": places[m], "type": f"sentence_transformers.models.{m}"}
            for i, m in enumerate(modules)
        ],
    )
    (folder / "1_Pooling").mkdir()
    modes = ("cls_token", "mean_tokens", "max_tokens")
    chosen = {"mean": "mean_tokens", "cls": "cls_token"}[pooling]
    pools = {f"pooling_mode_{mode}": mode == chosen for mode in modes}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **pools})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 30, "do_lower_case": False})
    return folder


def write_json(file: Path, data: Any) -> None:
    file.write_text(json.dumps(data))


def change_json(file: Path, **changes: Any) -> None:
    """Set fields of a JSON object."""
    write_json(file, json.loads(file.read_text()) | changes)


def library_bert(folder: Path) -> Any:
    """The original library's own reading of a folder."""
    return transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()


def library_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """By the original library, without the truncation and padding in the file."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    return fast(text)["input_ids"]  # type: ignore[no-any-return]


_LINES = ["3+4=7", "The man rides a bicycle.", "Zwei Hunde spielen im Schnee – schön!", "日本語 und 👧"] * 3


def byte_level(starts: bool) -> Tokenizer:
    """A byte-level BPE as Llama 3 and SmolLM have; ``starts``: whether its template puts the start token first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>", "<|start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LINES, trainer)
    if starts:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|start|> $A", special_tokens=[("<|start|>", 1)]
        )
    return tokenizer


def llama_folder(folder: Path, *, starts: bool = True, seed: int = 0, std: float = 0.4, **config: Any) -> Path:
    """A folder of a ``LlamaForCausalLM``; ``config`` changes its ``LlamaConfig``."""
    fields = {
        "vocab_size": 304,
        "hidden_size": 64,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
        "bos_token_id": 1,
        "eos_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        **config,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields))
    randomize(model, seed, std).save_pretrained(folder)  # type: ignore[operator]
    (folder / "tokenizer.json").write_text(byte_level(starts).to_str())
    return folder


def library_llama(folder: Path) -> Any:
    """The original library's own reading of a folder."""
    return transformers.LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
