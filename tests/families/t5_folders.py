"""Folders of T5, mT5 and ByT5 as the original library writes them: tiny models with random weights, saved by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from safetensors.torch import load_file, save_file

from .folders import SOURCE_LINES, TARGET_LINES, randomize, sentencepiece_model, write_json

SIZES: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 12,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
    "n_positions": 128,
}
SENTINELS = 100


def pieces() -> bytes:
    """A SentencePiece model with T5's special pieces."""
    return sentencepiece_model([*SOURCE_LINES, *TARGET_LINES] * 9, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


def write_pieces(folder: Path) -> int:
    """``spiece.model`` and its configuration, as Google publishes them; returns the number of tokens."""
    from sentencepiece import SentencePieceProcessor

    data = pieces()
    (folder / "spiece.model").write_bytes(data)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": SENTINELS})
    return len(SentencePieceProcessor(model_proto=data)) + SENTINELS


def t5_folder(
    folder: Path,
    *,
    architecture: str = "T5",
    seed: int = 0,
    std: float = 0.3,
    own_output: bool = False,
    byte_tokens: bool = False,
    **config: Any,
) -> Path:
    """A ``T5ForConditionalGeneration`` or ``MT5...``; ``own_output``: its projection is not the embedding."""
    folder.mkdir(parents=True)
    if byte_tokens:
        transformers.ByT5Tokenizer().save_pretrained(folder)
    size = 384 if byte_tokens else write_pieces(folder)
    kind = getattr(transformers, f"{architecture}ForConditionalGeneration")
    fields = {"vocab_size": size + 3, **SIZES, **config}
    model: Any = randomize(kind(getattr(transformers, f"{architecture}Config")(**fields)), seed, std)
    with torch.no_grad():
        for stack in (model.encoder, model.decoder):  # as far from 0 as scores are
            stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight.mul_(1.0 / std)
        if own_output:
            model.lm_head.weight = torch.nn.Parameter(model.shared.weight.flip(0).clone())
    model.save_pretrained(folder)
    return folder


def library_t5(folder: Path) -> Any:
    """The original library's own reading of a folder."""
    kind = getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])
    return kind.from_pretrained(folder, attn_implementation="eager").eval()


def library_tokenizer(folder: Path) -> Any:
    """Its tokenizer."""
    return transformers.AutoTokenizer.from_pretrained(folder)


def as_older_release(folder: Path, config: dict[str, Any]) -> Path:
    """A folder with the ``config`` of an older release, and the parameters that its logits were computed with.

    The formula is that of ``goldens/make_t5_configs.py``.
    """
    architecture = config["architectures"][0].removesuffix("ForConditionalGeneration")
    named = ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "feed_forward_proj")
    t5_folder(folder, architecture=architecture, **{name: config[name] for name in named})
    tensors = load_file(folder / "model.safetensors")
    size = config["vocab_size"]
    tensors["shared.weight"] = tensors["shared.weight"][:size]
    if not config.get("tie_word_embeddings", True):
        tensors["lm_head.weight"] = tensors["shared.weight"]
    for name, tensor in tensors.items():
        places = torch.arange(tensor.numel(), dtype=torch.float64) + len(name)
        tensors[name] = (torch.sin(places * 0.7).view(tensor.shape) * 0.4).float()
    save_file(tensors, folder / "model.safetensors")
    (folder / "spiece.model").write_bytes(
        sentencepiece_model(SOURCE_LINES * 9, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, vocab_size=30)
    )
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": 3})
    write_json(folder / "config.json", config)
    return folder
