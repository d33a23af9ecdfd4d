"""A Marian ``.npz`` of the type ``transformer`` as a checkpoint; ``tokenizer.json`` lies beside it.

``source_tokenizer.json``, too, where source and target have vocabularies of their own.

Marian begins a translation with no token at all, an embedding of zeros. Here that is the embedding of one token more,
behind its vocabulary, which is never generated. Its positions are Google's sinusoids: all sines before all cosines, and
frequencies that go down to 1/10000 exactly.

Source: ``src/models/transformer.h``, ``src/layers/generic.h`` and ``src/graph/node_initializers.cpp`` of marian-dev.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..checkpoint import SOURCE_TOKENIZER, TOKENIZER, Checkpoint, plain_name
from ..config import ModelConfig, StackConfig
from ..families.family import Facts, Family, build
from ..families.huggingface import check_tokenizer, notice_of, own_tokenizer, read_tokenizer, special_tokens
from ..families.marian import SUPPRESSED
from .npz import read_npz
from .settings import NAME, Settings, read_settings

SUFFIX = ".npz"
MAX_CONTEXT = 512
"""Tokens: positions are computed, and a file does not say how many it was trained on."""
_EPSILON = 1e-6
_END = "</s>"
_BIAS, _MATRIX, _WORDS = "decoder_ff_logit_out_b", "decoder_ff_logit_out_W", "Wemb"
_SOURCE_WORDS, _TARGET_WORDS = "encoder_Wemb", "decoder_Wemb"
_PARTS = {"q": "query", "k": "key", "v": "value", "o": "output"}


def read_marian(file: Path) -> Checkpoint:
    """Read a file, strictly.

    Raises:
        CheckpointError: damaged, not Marian's, or with arrays that are missing, unknown or misshapen.
        ConfigError: another network than a transformer, or one with what is not written here; all in one message.
    """
    arrays = read_npz(file)
    settings = Settings(read_settings(arrays.pop(NAME, None), str(file)), str(file))
    tensors = _renumbered({name: torch.from_numpy(values) for name, values in arrays.items()}, file)
    two = _WORDS not in tensors and {_SOURCE_WORDS, _TARGET_WORDS} <= tensors.keys()
    if two:
        tensors[_WORDS] = tensors.pop(_TARGET_WORDS)
    words = tensors.get(_WORDS)
    if words is None or words.ndim != 2:
        raise CheckpointError(f"{file} has no matrix {_WORDS}, and not both {_SOURCE_WORDS} and {_TARGET_WORDS}")
    vocabulary, width = words.shape
    end = _end_id(file.parent, vocabulary, TOKENIZER)
    sources = _sources(tensors[_SOURCE_WORDS], file, vocabulary) if two else {}
    config = _config(settings, tensors, vocabulary, width, end, sources)
    family = _family(config, settings.operations("transformer-preprocess") == "n")
    model = build(family, {}, _with_start(tensors, width), Facts(), str(file))
    return Checkpoint(
        model=model.eval().requires_grad_(False),
        folder=file.parent,
        name=plain_name(file.stem),
        weight_files=(file,),
        max_context=MAX_CONTEXT,
        beam_size=6,  # as OPUS-MT configures its models; Marian's own default is 12
        training={"recipe": "transformer, read from a Marian .npz"},
        notice=notice_of(file.parent),
        source_tokenizer=sources.get("tokenizer"),
    )


def _sources(words: Tensor, file: Path, vocabulary: int) -> dict[str, Any]:
    """Of sources with an embedding of their own its size, and the tokenizer and the end token where it has others."""
    own = file.parent / SOURCE_TOKENIZER
    if words.ndim != 2:
        raise CheckpointError(f"{file}: {_SOURCE_WORDS} has shape {tuple(words.shape)}, expected a matrix")
    if not own.is_file():
        if len(words) != vocabulary:
            raise CheckpointError(
                f"{file.parent} has no {SOURCE_TOKENIZER}: sources have {len(words)} tokens, translations {vocabulary}"
            )
        return {"size": vocabulary}
    end = _end_id(file.parent, len(words), SOURCE_TOKENIZER)
    return {"size": len(words), "end": end, "tokenizer": own.read_text(encoding="utf-8")}


def _renumbered(tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Layers from 0, and biases as vectors."""
    found = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and tensor.shape[0] == 1:
            tensor = tensor[0]
        ours = re.sub(r"_l(\d{1,4})_", lambda match: f"_l{int(match[1]) - 1}_", name, count=1)
        if "_l-1_" in ours or ours in found:
            raise CheckpointError(f"{file}: {name} has a number that no layer has: layers are counted from 1")
        found[ours] = tensor
    return found


def _end_id(folder: Path, vocabulary: int, file: str) -> int:
    tokenizer = own_tokenizer(folder) if file == TOKENIZER else read_tokenizer(folder / file)
    check_tokenizer(folder, vocabulary, tokenizer, file)
    end = tokenizer.token_to_id(_END)
    if end is None:
        raise CheckpointError(f"{folder / file} has no token {_END!r}, which ends Marian's texts")
    prefix, suffix = special_tokens(folder, tokenizer)
    if prefix or suffix not in ((), (end,)):
        raise CheckpointError(
            f"{folder / file} puts {prefix} before and {suffix} after a text, expected nothing before, and "
            f"{_END!r} ({end}) or nothing after: Marian ends a text in it, and adds no other token"
        )
    return int(end)


def _config(
    settings: Settings,
    tensors: dict[str, Tensor],
    vocabulary: int,
    width: int,
    end: int,
    sources: dict[str, Any],
) -> ModelConfig:
    heads = settings.number("transformer-heads")
    activation = settings.choice("transformer-ffn-activation", "swish", {"swish": "silu", "relu": "relu"})
    before, after = (settings.operations(f"transformer-{name}process") for name in ("pre", "post"))
    if (before, after) not in (("", "an"), ("n", "a")):
        settings.faults.append(f"layers do {before!r} before and {after!r} after, expected '' and 'an' or 'n' and 'a'")
    for name in ("transformer-postprocess-emb", "transformer-postprocess-top"):
        if settings.operations(name):
            settings.faults.append(f"{name} is {settings.data[name]!r}, expected dropout or nothing")
    stacks: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        inner = tensors.get(f"{side}_l0_ffn_W1")
        stacks[side] = {
            "n_layers": settings.number(f"{side[:3]}-depth"),
            "d_model": width,
            "n_heads": heads,
            "d_ff": inner.shape[-1] if inner is not None and inner.ndim == 2 else 1,
            "activation": activation,
            "norm_epsilon": _EPSILON,
            "norm_place": "pre" if before else "post",
            "final_norm": False,
        }
    shared = [name for name in ("tied-embeddings-all", "tied-embeddings-src") if settings.flag(name)]
    if shared and sources:
        settings.faults.append(f"{shared[0]} is true beside {_SOURCE_WORDS} and {_TARGET_WORDS}, expected {_WORDS}")
    tied = settings.flag("tied-embeddings") or "tied-embeddings-all" in shared
    settings.agrees("dim-emb", width)
    settings.agrees("dim-vocabs", *(size for size in (sources.get("size"), vocabulary) if size is not None))
    settings.check()
    return ModelConfig(
        vocab_size=vocabulary + 1,
        max_positions=MAX_CONTEXT,
        pad_id=vocabulary,
        start_id=vocabulary,
        end_id=end,
        source_vocab_size=sources.get("size"),
        source_end_id=sources.get("end"),
        source_pad_id=sources.get("end", end) if sources else None,
        encoder=StackConfig(**stacks["encoder"]),
        decoder=StackConfig(**stacks["decoder"]),
        positions="learned",
        tied=tied,
    )


def _with_start(tensors: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """The token that Marian does not have: zeros to read, never to be written; and the table of positions."""
    found = dict(tensors, positions=marian_positions(MAX_CONTEXT, width))
    for name, axis, value in ((_WORDS, 0, 0.0), (_MATRIX, 1, 0.0), (_BIAS, 0, SUPPRESSED)):
        tensor = found.get(name)
        if tensor is not None and tensor.ndim > axis:
            row = tensor.new_full([1 if i == axis else n for i, n in enumerate(tensor.shape)], value)
            found[name] = torch.cat([tensor, row], dim=axis)
    return found


def marian_positions(length: int, width: int) -> Tensor:
    """Sinusoids ``(length, D)``: of ``p / 10000 ** (i / (D/2 - 1))``, all sines before all cosines."""
    half = width // 2
    rate = math.log(10000.0) / max(half - 1, 1)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * torch.exp(
        -rate * torch.arange(half, dtype=torch.float64)
    )
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def _family(config: ModelConfig, pre: bool) -> Family:
    """Marian's names, layers counted from 0."""
    keys = {_WORDS: "embedding.weight", _BIAS: "vocabulary_bias", "positions": "positions"}
    keys |= {_MATRIX: "vocabulary.weight", _SOURCE_WORDS: "source_embedding.weight"}
    for side in ("encoder", "decoder"):
        layer, ours = f"{side}_l{{i}}", f"{side}.layers.{{i}}"
        attentions = {"self": ("attention", "attention_residual")}
        attentions |= {"context": ("cross_attention", "cross_residual")} if side == "decoder" else {}
        for theirs, (attention, residual) in attentions.items():
            for letter, part in _PARTS.items():
                keys[f"{layer}_{theirs}_W{letter}"] = f"{ours}.{attention}.{part}.weight"
                keys[f"{layer}_{theirs}_b{letter}"] = f"{ours}.{attention}.{part}.bias"
            keys |= _norm_keys(f"{layer}_{theirs}_Wo", f"{ours}.{residual}.norm", pre)
        for number, part in (("1", "inner"), ("2", "outer")):
            keys[f"{layer}_ffn_W{number}"] = f"{ours}.feed_forward.{part}.weight"
            keys[f"{layer}_ffn_b{number}"] = f"{ours}.feed_forward.{part}.bias"
        keys |= _norm_keys(f"{layer}_ffn_ffn", f"{ours}.feed_forward_residual.norm", pre)
    return Family(
        architectures=("transformer",),
        config=lambda fields, facts: config,
        keys=keys,
        transposed=(r"(encoder|decoder)_l\d+_(self|context|ffn)_W[qkvo12]", _MATRIX),
        dropped=(r"special:.*",),
        copies={"vocabulary.weight": "embedding.weight"} if config.tied else {},
    )


def _norm_keys(theirs: str, ours: str, pre: bool) -> dict[str, str]:
    end = "_pre" if pre else ""
    return {f"{theirs}_ln_scale{end}": f"{ours}.weight", f"{theirs}_ln_bias{end}": f"{ours}.bias"}
