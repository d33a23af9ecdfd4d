"""What the files beside ONNX graphs of another exporter say of the network, read without torch.

The mathematics is in the graphs. So where a family has a row, the row reads the configuration; where none has, or a row
finds mathematics that is not written here, only what running the graphs needs is read: token ids, sizes, names of
classes. Sources: ``transformers/configuration_utils.py`` of transformers 5.24.0 for the common fields, and
``optimum/utils/normalized_config.py`` of optimum 2.1 for their names in each family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from ...errors import ConfigError
from ..chat import ChatSource
from ..files import CONFIG, TOKENIZER, read_json
from ..languages import LanguageConfig
from . import family_of
from .chat import read_chat
from .family import Facts, Family, Fields
from .generation import check_generation, recommended
from .heads import encoder_fields
from .huggingface import (
    GENERATION_CONFIG,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
    _beams,
    _facts,
    _name,
    _optional,
    _other_ends,
    _tokenizer,
    check_tokenizer,
    notice_of,
)
from .sentence import MODULES

Kind = Literal["encoder", "decoder", "encoder-decoder"]

_WIDTHS = ("d_model", "hidden_size", "n_embd", "dim")
_HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads")
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
_UNBOUNDED = 512
"""Tokens of a text where a configuration names no number, as with relative positions."""


@dataclass(frozen=True, kw_only=True)
class GraphSizes:
    """What the graphs themselves say. ``layers``, ``kv_heads`` and ``head_dim`` are those of the cache."""

    kind: Kind
    vocab_size: int | None = None
    layers: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    pairs: bool = False


@dataclass(frozen=True, kw_only=True)
class GraphSettings:
    """``model``: a ``ModelConfig`` as JSON, with ``None`` for what only the graphs know. ``how``: what read it.

    ``suppressed``: tokens that may not be generated, and which the graphs give scores all the same. ``decoding``: what
    the folder recommends, as a bundle's ``Generation`` has it.
    """

    model: dict[str, Any]
    how: str
    name: str
    notice: str
    tokenizer: str
    max_context: int
    suppressed: tuple[int, ...]
    decoding: dict[str, Any]
    chat: ChatSource | None


def read_graph_settings(folder: Path, sizes: GraphSizes) -> GraphSettings:
    """Read ``config.json``, ``generation_config.json`` and the tokenizer of ``folder``.

    Raises:
        CheckpointError: a file is missing, damaged, or of another network.
        ConfigError: a field that is needed is missing or wrong, or contradicts the graphs.
    """
    config, where = read_json(folder / CONFIG), f"{folder / CONFIG}"
    if not isinstance(config, dict):
        raise ConfigError(f"{where}: expected an object, got {type(config).__name__}")
    family, doubt = _family(config, where)
    made = family.tokenizer(folder, config) if family else None
    tokenizer = _tokenizer(folder, made)
    if family and family.source_tokenizer(folder, config) is not None:
        raise ConfigError(
            f"{where}: sources have a vocabulary of their own, with which no graphs of others are read: export the "
            "checkpoint itself"
        )
    facts = _facts(folder, config, tokenizer, family)
    model, how = _model(family, doubt, config, facts, sizes, where)
    if model["head"] == "embedding" and facts.dense is not None:
        raise ConfigError(
            f"{folder / MODULES} has a Dense, with which no graphs of others are read: export the checkpoint itself"
        )
    _check_sizes(model, sizes, where)
    generation, longest = _optional(folder / GENERATION_CONFIG), model["max_positions"]
    longest = min(longest, facts.max_tokens or longest)
    languages = LanguageConfig(**model["languages"]) if model.get("languages") else None
    # What a ModelConfig says, without the mathematics.
    ids: Any = SimpleNamespace(**{"forced_id": None, "speech": None, **model, "languages": languages})
    check_generation(generation, ids, str(folder / GENERATION_CONFIG))
    decoding = recommended(generation, config, ids, longest, str(folder))
    check_tokenizer(folder, model["vocab_size"], tokenizer)
    text = made or ((folder / TOKENIZER).read_text(encoding="utf-8") if (folder / TOKENIZER).is_file() else None)
    return GraphSettings(
        model=model,
        how=how,
        name=_name(folder),
        notice=notice_of(folder),
        tokenizer=text or tokenizer.to_str(),
        max_context=longest,
        suppressed=_suppressed(facts, model["vocab_size"], where) if model.get("encoder") else (),
        decoding={"beam_size": _beams(folder, config), "end_ids": list(_other_ends(folder, config, ids)), **decoding},
        chat=read_chat(folder, _optional(folder / TOKENIZER_CONFIG), _optional(folder / SPECIAL_TOKENS)),
    )


def _family(config: Mapping[str, Any], where: str) -> tuple[Family | None, str]:
    try:
        return family_of(config, where), ""
    except ConfigError:
        return None, "no family has a row for it"


def _model(
    family: Family | None, doubt: str, config: Mapping[str, Any], facts: Facts, sizes: GraphSizes, where: str
) -> tuple[dict[str, Any], str]:
    """The network, and what read it."""
    named = config.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise ConfigError(f"{where}: architectures is {named!r}, expected one name")
    architecture = named[0]
    if family is not None:
        try:
            return family.config(Fields(config, where), facts).to_json(), f"{architecture}, by the row of its family"
        except ConfigError as error:
            doubt = str(error)
    fields = Fields(config, where)
    fields.ignore(*config)
    read = {"encoder": _encoder, "decoder": _decoder, "encoder-decoder": _encoder_decoder}[sizes.kind]
    model = {"encoder": None, "decoder": None, "mask_id": None, "class_names": (), "head": "vocabulary"}
    model |= {"positions": None, **read(fields, facts, sizes)}
    found: dict[str, Any] = {}
    fields.build(lambda: found.update(model))  # type: ignore[arg-type, return-value]
    return found, f"{architecture}, without a row of a family: {doubt}"[:2000]


def _encoder(fields: Fields, facts: Facts, sizes: GraphSizes) -> dict[str, Any]:
    own = encoder_fields(fields, facts, segments=2 if sizes.pairs else 1, pooler="tanh", transform=None)
    read = {"pad_id": fields.get("pad_token_id", int, 0), "encoder": _stack(fields, "encoder")}
    return {**_common(fields, sizes), **read, **own, "positions": None}


def _decoder(fields: Fields, facts: Facts, sizes: GraphSizes) -> dict[str, Any]:
    end = facts.end_id(fields, several=True)
    start = fields.get("bos_token_id", int, end)
    if facts.suffix or facts.prefix not in ((), (start,)):
        fields.faults.append(
            f"the tokenizer puts {facts.prefix} before and {facts.suffix} after a text, expected bos_token_id "
            f"({start}) or nothing before, and nothing after"
        )
    ids = {"start_id": start, "end_id": end, "pad_id": fields.get("pad_token_id", int, end)}
    stack = _stack(fields, "decoder", sizes)
    return {**_common(fields, sizes), **ids, "decoder": stack, "adds_start": bool(facts.prefix)}


def _encoder_decoder(fields: Fields, facts: Facts, sizes: GraphSizes) -> dict[str, Any]:
    end, pad = facts.end_id(fields, several=True), fields.get("pad_token_id", int, 0)
    start = fields.get("decoder_start_token_id", int)
    if len(facts.prefix) > 1 or facts.suffix not in ((), (end,)):
        fields.faults.append(
            f"the tokenizer puts {facts.prefix} before and {facts.suffix} after a text, expected one token or nothing "
            f"before, and eos_token_id ({end}) or nothing after"
        )
    forced = facts.forced if facts.forced is not None else fields.get("forced_bos_token_id", int, None)
    ids = {"start_id": start, "end_id": end, "pad_id": pad, "forced_id": forced}
    stacks = {"encoder": _stack(fields, "encoder"), "decoder": _stack(fields, "decoder", sizes)}
    return {**_common(fields, sizes), **ids, **stacks, "source_start_id": next(iter(facts.prefix), None)}


def _common(fields: Fields, sizes: GraphSizes) -> dict[str, Any]:
    vocabulary = fields.get("vocab_size", int) if sizes.vocab_size is None else sizes.vocab_size
    return {"vocab_size": vocabulary, "max_positions": _first(fields, _LENGTHS, _UNBOUNDED)}


def _stack(fields: Fields, name: str, sizes: GraphSizes | None = None) -> dict[str, Any]:
    """Sizes of a stack; those of a cache are the graph's."""
    prefixed = {"encoder": f"{name}_layers", "heads": f"{name}_attention_heads"}
    stack: dict[str, Any] = {
        "n_layers": _first(fields, (prefixed["encoder"], *_LAYERS)),
        "d_model": _first(fields, _WIDTHS),
        "n_heads": _first(fields, (prefixed["heads"], *_HEADS)),
        **dict.fromkeys(("d_ff", "norm_place", "activation", "norm_epsilon")),
    }
    if sizes is None:
        return stack
    width, heads = stack["d_model"], stack["n_heads"]
    plain = isinstance(width, int) and isinstance(heads, int) and heads > 0 and width == heads * sizes.head_dim
    stack |= {"n_layers": sizes.layers, "n_kv_heads": sizes.kv_heads}
    return stack if plain else {**stack, "head_dim": sizes.head_dim}


def _first(fields: Fields, names: tuple[str, ...], default: int | None = None) -> Any:
    """The first of several fields that is there."""
    for name in names:
        if fields.given(name):
            return fields.get(name, int)
    if default is None:
        fields.faults.append(f"none of {', '.join(names)} is there")
    return default


def _check_sizes(model: Mapping[str, Any], sizes: GraphSizes, where: str) -> None:
    """Refuse a configuration of another network than the graphs'.

    Raises:
        ConfigError: other stacks, another vocabulary, or another cache.
    """
    stacks = [name for name in ("encoder", "decoder") if model.get(name)]
    faults = []
    if (kind := "-".join(stacks)) != sizes.kind:
        past = "" if sizes.kind != "encoder" else ", or of a decoder that was exported without -with-past"
        faults.append(f"it is of a network of kind {kind}, the graphs are of kind {sizes.kind}{past}")
    if sizes.vocab_size is not None and model["vocab_size"] != sizes.vocab_size:
        faults.append(f"vocab_size is {model['vocab_size']}, the graphs have {sizes.vocab_size} logits")
    if decoder := model.get("decoder"):
        heads = decoder.get("n_kv_heads") or decoder["n_heads"]
        width = decoder.get("head_dim") or decoder["d_model"] // max(1, decoder["n_heads"])
        said, found = (decoder["n_layers"], heads, width), (sizes.layers, sizes.kv_heads, sizes.head_dim)
        if said != found:
            faults.append(f"layers, heads and head width of keys are {said}, the graphs' cache has {found}")
    if faults:
        raise ConfigError(f"{where}: {'; '.join(faults)}: configuration and graphs belong to different networks")


def _suppressed(facts: Facts, vocab_size: int, where: str) -> tuple[int, ...]:
    if beyond := [token for token in facts.suppressed if not 0 <= token < vocab_size]:
        raise ConfigError(f"{where}: bad_words_ids hold {beyond[0]}, expected ids below vocab_size ({vocab_size})")
    return facts.suppressed
