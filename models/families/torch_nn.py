"""Checkpoints of ``torch.nn.Transformer``, ``TransformerEncoder`` and ``TransformerDecoder``.

A state dictionary says neither how many heads there are nor where normalizations stand, and what is around the stacks
has whatever names its author gave. So a small TOML or JSON file beside the weights says it; :data:`FIELDS` lists what
stands there. Only data is read: the modules' code is not needed.

Reference: ``torch/nn/modules/transformer.py`` of PyTorch 2.13.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import CheckpointError, ConfigError
from ..checkpoint import SOURCE_TOKENIZER, Checkpoint, plain_name, read_tensors
from ..config import ModelConfig, StackConfig
from ..pickled import read_pickled
from .family import Facts, Family, Fields, build
from .huggingface import check_tokenizer, notice_of, read_tokenizer

FIELDS = """
    weights, state                      the file, beside this one; the name in it under which the dictionary lies
    kind                                encoder-decoder, decoder (an encoder under a causal mask) or encoder
    [arguments]                         of the module or its layers, as written when it was made
    [text]                              vocab_size, pad_id, start_id, end_id, mask_id, max_positions, scale_embeddings,
                                        starts_source (start_id before a source, too), tied, output_bias; of sources
                                        with an embedding of their own source_vocab_size, source_pad_id,
                                        source_start_id, source_end_id, each as without "source_" where left out
    [names]                             encoder, decoder, embedding, source_embedding, positions, output, dropped
"""
MAX_BYTES = 1 << 20  # of the file: it is written by hand
_ARGUMENTS_WITHOUT_EFFECT = ("dropout", "batch_first", "enable_nested_tensor", "mask_check", "device", "dtype")
_OF_SOURCES = ("source_vocab_size", "source_pad_id", "source_start_id", "source_end_id")
_STACKS = {"encoder-decoder": ("encoder", "decoder"), "decoder": ("decoder",), "encoder": ("encoder",)}
_LAYER = {
    "self_attn.out_proj": "attention.output",
    "norm1": "attention_residual.norm",
    "linear1": "feed_forward.inner",
    "linear2": "feed_forward.outer",
}
_CROSS = {
    "multihead_attn.out_proj": "cross_attention.output",
    "norm2": "cross_residual.norm",
    "norm3": "feed_forward_residual.norm",
}
_NORM_WEIGHT = re.compile(r"(.*\.)?norm\d?\.weight")


def is_torch_nn(file: Path) -> bool:
    """Whether the file is one that describes such a checkpoint, by its suffix."""
    return file.suffix in (".toml", ".json")


def read_torch_nn(file: Path) -> Checkpoint:
    """Read the checkpoint that ``file`` describes, strictly; ``tokenizer.json`` lies beside it.

    ``source_tokenizer.json``, too, where sources have a vocabulary of their own.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor missing, unknown, misshapen or not finite.
        ConfigError: a field is missing, wrong or unknown; all of them in one message.
    """
    description = Description(_tables(file), str(file))
    config, folder = description.config, file.parent
    weights = folder / description.weights
    state = description.state
    tensors = read_tensors(weights) if weights.suffix == ".safetensors" else read_pickled(weights, state)
    model = build(description.family, {}, description.completed(tensors), Facts(), str(weights))
    check_tokenizer(folder, config.vocab_size)
    source = folder / SOURCE_TOKENIZER
    own = config.source_vocab_size is not None and source.is_file()
    if own:
        check_tokenizer(folder, config.source_vocab_size or 0, read_tokenizer(source), SOURCE_TOKENIZER)
    elif config.source_vocab_size not in (None, config.vocab_size):
        raise CheckpointError(
            f"{folder} has no {SOURCE_TOKENIZER}: sources have a vocabulary of {config.source_vocab_size}, and "
            f"translations one of {config.vocab_size}"
        )
    return Checkpoint(
        model=model.eval().requires_grad_(False),
        folder=folder,
        name=plain_name(folder.resolve().name),
        weight_files=(weights,),
        max_context=config.max_positions,
        beam_size=1,
        training={"recipe": f"torch.nn.Transformer, {description.kind}, as {file.name} describes it"},
        notice=notice_of(folder),
        source_tokenizer=source.read_text(encoding="utf-8") if own else None,
    )


def _tables(file: Path) -> dict[str, Any]:
    """The file's values, those in tables as ``table.name``."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        text = raw.decode("utf-8")
        data = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: expected a readable {file.suffix[1:].upper()} file, got {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file}: expected an object, got {type(data).__name__}")
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


class Description:
    """What the file says, read once: the configuration, and the table of names."""

    def __init__(self, tables: Mapping[str, Any], where: str) -> None:
        fields = Fields(tables, where)
        self.kind = fields.choice("kind", {kind: kind for kind in _STACKS}, "encoder-decoder")
        self.weights = self._plain_file(fields)
        self.state: str = fields.get("state", str, "")
        self._norm = fields.get("arguments.norm", bool, self.kind == "encoder-decoder")
        self._bias = fields.get("arguments.bias", bool, True)
        self.config = self._config(fields)
        self.family = self._family(where)

    @staticmethod
    def _plain_file(fields: Fields) -> str:
        name = fields.get("weights", str)
        if name is not None and not re.fullmatch(r"[\w-][\w.-]*\.(pt|pth|bin|safetensors)", name):
            fields.faults.append(f"weights is {name!r}, expected the plain name of a .pt or .safetensors file")
        return name or ""

    def _config(self, fields: Fields) -> ModelConfig:
        stacks = {name: self._stack(fields, name) for name in _STACKS.get(self.kind, ())}
        text: dict[str, Any] = {
            name: fields.get(f"text.{name}", int) for name in ("vocab_size", "pad_id", "start_id", "end_id")
        }
        text |= {name: fields.get(f"text.{name}", int, None) for name in ("mask_id", "max_positions")}
        text |= {name: fields.get(f"text.{name}", bool, True) for name in ("scale_embeddings", "output_bias")}
        text["tied"] = fields.get("text.tied", bool, False)
        starts = fields.get("text.starts_source", bool, None)
        own = fields.get("names.source_embedding", str, None)
        source = {name: fields.get(f"text.{name}", int, None) for name in _OF_SOURCES}
        if own is None and (given := [name for name in _OF_SOURCES if source[name] is not None]):
            fields.faults.append(f"text.{given[0]} needs names.source_embedding, an embedding of the encoder's own")
        if own is not None:
            shared = {"source_vocab_size": text["vocab_size"], "source_start_id": text["start_id"]}
            text |= source | {name: value for name, value in shared.items() if source[name] is None}
            text["source_start_id"] = text["source_start_id"] if starts else None
        if starts is not None and self.kind != "encoder-decoder":
            fields.faults.append(f"text.starts_source belongs to an encoder-decoder, not to kind {self.kind!r}")
        if self.kind == "encoder" and text["mask_id"] is None:
            fields.faults.append("text.mask_id is missing: an encoder alone predicts words for that token")
        self._names = {name: fields.get(f"names.{name}", str) for name in (*stacks, "embedding")}
        unnamed = {"default": "output"} if text["tied"] else {}  # then there need not be a module
        self._source_embedding = own
        self._names["output"] = fields.get("names.output", str, **unnamed)
        self._positions = fields.get("names.positions", str, None)
        self._dropped = fields.get("names.dropped", list, [])
        if not all(isinstance(name, str) for name in self._dropped or ()):
            fields.faults.append(f"names.dropped is {self._dropped!r}, expected names of tensors")
        if text["max_positions"] is None:
            fields.faults.append("text.max_positions is missing: most tokens of a text that there are positions for")
        positions: Any = "sinusoidal" if self._positions is None else "learned"

        def make() -> ModelConfig:
            made: dict[str, Any] = {name: StackConfig(**values) for name, values in stacks.items()}
            return ModelConfig(**text, **made, positions=positions, adds_start=starts if own is None else None)

        return fields.build(make)

    def _stack(self, fields: Fields, name: str) -> dict[str, Any]:
        """Arguments of the constructors, with their own defaults where all of them have the same."""
        layers = f"num_{name}_layers" if self.kind == "encoder-decoder" else "num_layers"
        fields.ignore(*(f"arguments.{argument}" for argument in _ARGUMENTS_WITHOUT_EFFECT))
        return {
            "n_layers": fields.get(f"arguments.{layers}", int),
            "d_model": fields.get("arguments.d_model", int),
            "n_heads": fields.get("arguments.nhead", int),
            "d_ff": fields.get("arguments.dim_feedforward", int, 2048),
            "norm_place": "pre" if fields.get("arguments.norm_first", bool, False) else "post",
            "activation": fields.choice("arguments.activation", {"relu": "relu", "gelu": "gelu"}, "relu"),
            "norm_epsilon": fields.get("arguments.layer_norm_eps", float, 1e-5),
            "attention_bias": self._bias,
            "feed_forward_bias": self._bias,
            "final_norm": self._norm,
        }

    def _family(self, where: str) -> Family:
        """The row of names; a stack that is called nothing is the file's whole dictionary."""
        keys: dict[str, str | tuple[str, ...]] = {}
        for name in _STACKS[self.kind]:
            keys |= _stack_keys(self._names[name], name, cross=name == "decoder" and self.kind == "encoder-decoder")
        output = self._names["output"]
        keys |= {f"{output}.weight": "vocabulary.weight", f"{output}.bias": "vocabulary_bias"}
        keys[self._names["embedding"]] = "embedding"
        if self._source_embedding is not None:
            keys[self._source_embedding] = "source_embedding"
        if self._positions is not None:
            keys[self._positions] = "positions"
        copies = {"vocabulary.weight": "embedding.weight"} if self.config.tied else {}
        try:
            return Family(
                architectures=("torch.nn.Transformer",),
                config=lambda fields, facts: self.config,
                keys=keys,
                copies=copies,
                dropped=tuple(re.escape(name) for name in self._dropped),
            )
        except ConfigError as error:
            raise ConfigError(f"{where}: names: {error}") from error

    def completed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Positions as a table, and the shifts of normalizations, which ``bias=False`` leaves out, as zeros."""
        found = dict(tensors)
        table = found.get(self._positions or "")
        if table is not None and table.ndim > 2:  # (n, 1, D) or (1, n, D), for batches
            shape = [size for size in table.shape if size != 1] or [1]
            table = table.reshape(shape) if len(shape) == 2 else table
        if table is not None and self._positions is not None:
            found[self._positions] = table[: self.config.max_positions] if table.ndim == 2 else table
        if not self._bias:
            weights = [name for name in tensors if _NORM_WEIGHT.fullmatch(name) and tensors[name].ndim == 1]
            found |= {
                f"{name.removesuffix('weight')}bias": tensors[name].new_zeros(()).expand(tensors[name].shape)
                for name in weights
            }
        return found


def _stack_keys(theirs: str, ours: str, cross: bool) -> dict[str, str | tuple[str, ...]]:
    """Names of a ``TransformerEncoder`` or ``TransformerDecoder`` called ``theirs``."""
    start = f"{theirs}." if theirs else ""
    layer, our_layer = f"{start}layers.{{i}}", f"{ours}.layers.{{i}}"
    plain = {**_LAYER, **(_CROSS if cross else {"norm2": "feed_forward_residual.norm"})}
    keys: dict[str, str | tuple[str, ...]] = {f"{layer}.{t}": f"{our_layer}.{o}" for t, o in plain.items()}
    fused = {"self_attn": "attention"} | ({"multihead_attn": "cross_attention"} if cross else {})
    for attention, our_attention in fused.items():
        for kind in ("weight", "bias"):
            parts = (f"{our_layer}.{our_attention}.{part}.{kind}" for part in ("query", "key", "value"))
            keys[f"{layer}.{attention}.in_proj_{kind}"] = tuple(parts)
    return keys | {f"{start}norm": f"{ours}.final_norm"}
