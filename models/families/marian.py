"""Marian (Junczys-Dowmunt et al. 2018) as OPUS-MT publishes it: the paper's network with the positions in halves.

Reference: ``transformers/models/marian/modeling_marian.py`` and ``tokenization_marian.py`` of transformers 5.24.0,
``MarianMTModel`` and ``MarianTokenizer`` (without sacremoses, which changes punctuation only by ``normalize``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import TokenizerError
from ..config import ModelConfig, StackConfig
from ..files import read_json
from ..languages import LanguageConfig
from ..sentencepiece.model import read_model
from ..sentencepiece.tokenizer import tokenizer_json
from .family import ACTIVATIONS, Around, Facts, Family, Fields

if TYPE_CHECKING:
    from torch import Tensor

SOURCE_PIECES, VOCABULARY, TOKENIZER_CONFIG = "source.spm", "vocab.json", "tokenizer_config.json"
TARGET_PIECES, TARGET_VOCABULARY = "target.spm", "target_vocab.json"
_SPECIAL = ["</s>", "<unk>", "<pad>"]
_TAG = re.compile(r">>([A-Za-z][A-Za-z0-9_.-]{0,63})<<")
SUPPRESSED = -200.0
"""Added to the logit of what may not be generated: its probability is 0 in float32, its neighbours lose no digits."""

_STACK_KEYS = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.out_proj": "attention.output",
    "self_attn_layer_norm": "attention_residual.norm",
    "fc1": "feed_forward.inner",
    "fc2": "feed_forward.outer",
    "final_layer_norm": "feed_forward_residual.norm",
}
_CROSS_KEYS = {
    "encoder_attn.q_proj": "cross_attention.query",
    "encoder_attn.k_proj": "cross_attention.key",
    "encoder_attn.v_proj": "cross_attention.value",
    "encoder_attn.out_proj": "cross_attention.output",
    "encoder_attn_layer_norm": "cross_residual.norm",
}
LAYER_KEYS = {
    f"model.{stack}.layers.{{i}}.{theirs}": f"{stack}.layers.{{i}}.{ours}"
    for stack, keys in (("encoder", _STACK_KEYS), ("decoder", _STACK_KEYS | _CROSS_KEYS))
    for theirs, ours in keys.items()
}
"""The layers of fairseq's and Marian's encoder-decoders, as transformers name them."""
KEYS = {
    "model.shared": "embedding",
    "model.encoder.embed_tokens": "source_embedding",
    "model.decoder.embed_tokens": "decoder.embedding",
    "lm_head": "vocabulary",
    "final_logits_bias": "vocabulary_bias",
    **LAYER_KEYS,
}


def stack_of(fields: Fields, name: str, width: int) -> dict[str, Any]:
    """Sizes of the ``encoder`` or ``decoder``, by the names that Marian and BART share."""
    return {
        "n_layers": fields.get(f"{name}_layers", int),
        "d_model": width,
        "n_heads": fields.get(f"{name}_attention_heads", int),
        "d_ff": fields.get(f"{name}_ffn_dim", int),
    }


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    width, vocabulary = fields.get("d_model", int), fields.get("vocab_size", int)
    stacks = {name: stack_of(fields, name, width) for name in ("encoder", "decoder")}
    activation = fields.choice("activation_function", ACTIVATIONS, "gelu")
    positions = fields.get("max_position_embeddings", int, 1024)
    scaled, tied = fields.get("scale_embedding", bool, False), fields.get("tie_word_embeddings", bool, True)
    pad, start = fields.get("pad_token_id", int, 58100), fields.get("decoder_start_token_id", int, 58100)
    end = facts.end_id(fields)
    shared = fields.get("share_encoder_decoder_embeddings", bool, True)
    sources, vocabulary = vocabulary, fields.get("decoder_vocab_size", int, vocabulary)
    if vocabulary != sources and facts.source_end is None:
        fields.faults.append(f"decoder_vocab_size is {vocabulary}, expected {sources}: separate_vocabs is not true")
    if shared and facts.source_end is not None:
        fields.faults.append("share_encoder_decoder_embeddings is not false, and separate_vocabs is true")
    fields.only(
        is_encoder_decoder=True,
        is_decoder=False,
        normalize_before=False,
        normalize_embedding=False,
        add_final_layer_norm=False,
        add_bias_logits=False,
        static_position_embeddings=True,
        force_bos_token_to_be_generated=False,
    )
    fields.ignore(*_HARMLESS.split())
    if facts.prefix or facts.suffix not in ((), (end,)):
        fields.faults.append(
            f"the tokenizer puts {facts.prefix} before and {facts.suffix} after a text, expected nothing before, and "
            f"eos_token_id ({end}) or nothing after"
        )
    if beyond := [token for token in facts.suppressed if isinstance(vocabulary, int) and not 0 <= token < vocabulary]:
        fields.faults.append(f"bad_words_ids hold {beyond[0]}, expected token ids below vocab_size ({vocabulary})")

    def make() -> ModelConfig:
        encoder, decoder = (StackConfig(activation=activation, **stacks[name]) for name in ("encoder", "decoder"))
        return ModelConfig(
            vocab_size=vocabulary,
            max_positions=positions,
            pad_id=pad,
            start_id=start,
            end_id=end,
            source_vocab_size=None if shared else sources,
            source_end_id=facts.source_end,
            encoder=encoder,
            decoder=decoder,
            positions="sinusoidal_halves",
            scale_embeddings=scaled,
            languages=facts.languages,
            tied=tied,
        )

    return fields.build(make)


_HARMLESS = """
    _num_labels activation_dropout bad_words_ids classif_dropout decoder_layerdrop dropout encoder_layerdrop
    extra_pos_embeddings forced_eos_token_id init_std max_length num_beams num_hidden_layers
"""
# Of these extra_pos_embeddings belong to learned positions, num_hidden_layers repeats encoder_layers, and
# forced_eos_token_id speaks of the last token before a limit, where this decoder ends without one.


def _adapt(name: str, tensor: Tensor, facts: Facts) -> Tensor:
    """The bias, theirs ``(1, V)``, as ``(V,)``, that leaves what is forbidden no chance.

    That is padding, which Marian itself has no token for: without it, its probabilities are Marian's own.
    """
    if name != "vocabulary_bias":
        return tensor
    bias = tensor.float().reshape(-1).clone() if tensor.dim() == 2 and len(tensor) == 1 else tensor
    for token in facts.suppressed:
        if bias.dim() == 1 and token < len(bias):
            bias[token] += SUPPRESSED
    return bias


def _tokenizer(folder: Path, config: Mapping[str, Any]) -> str | None:
    """From ``source.spm`` and ``vocab.json``: ids by the piece, language tags such as ``>>fra<<`` first in a text.

    Of translations with a vocabulary of their own from ``target.spm`` and ``target_vocab.json``.

    Raises:
        TokenizerError: a file is damaged, or the ids are not 0 to ``n - 1``.
    """
    if not (folder / SOURCE_PIECES).is_file():
        return None
    if _is_separate(folder):
        return _converted(folder / TARGET_PIECES, folder / TARGET_VOCABULARY)
    return _converted(folder / SOURCE_PIECES, folder / VOCABULARY)


def _source_tokenizer(folder: Path, config: Mapping[str, Any]) -> tuple[str, int] | None:
    """That of sources with a vocabulary of their own, and what ends one."""
    if not (folder / SOURCE_PIECES).is_file() or not _is_separate(folder):
        return None
    made = _converted(folder / SOURCE_PIECES, folder / VOCABULARY)
    return made, vocabulary_tokens(folder / VOCABULARY).index("</s>")


def _is_separate(folder: Path) -> bool:
    settings = read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    separate = settings.get("separate_vocabs", False) if isinstance(settings, dict) else None
    if not isinstance(separate, bool):
        raise TokenizerError(f"{folder / TOKENIZER_CONFIG}: separate_vocabs is {separate!r}, expected true or false")
    return separate


def _converted(pieces: Path, vocabulary: Path) -> str:
    tokens = vocabulary_tokens(vocabulary)
    if absent := [token for token in _SPECIAL if token not in tokens]:
        raise TokenizerError(f"{vocabulary} lacks {', '.join(absent)}: copy the model again")
    tags = [token for token in tokens if token.startswith(">>") and token.endswith("<<")]
    return tokenizer_json(read_model(pieces), tokens, _SPECIAL, "<unk>", tags, runs=True)


def _languages(folder: Path, config: Mapping[str, Any], tokenizer: Any, around: Around) -> LanguageConfig | None:
    """Those that the tags in ``vocab.json`` translate into; none where it has no tags."""
    if not (folder / VOCABULARY).is_file():
        return None
    tags = ((_TAG.fullmatch(token), i) for i, token in enumerate(vocabulary_tokens(folder / VOCABULARY)))
    found = {match[1]: i for match, i in tags if match}
    return LanguageConfig(tokens=found, target="source") if found else None


def vocabulary_tokens(file: Path) -> list[str]:
    """The tokens of a ``vocab.json`` by id."""
    data = read_json(file)
    if not isinstance(data, dict) or sorted(data.values(), key=repr) != sorted(range(len(data)), key=repr):
        raise TokenizerError(f"{file}: expected an object of tokens with the ids 0 to their number less 1, each once")
    return sorted(data, key=data.__getitem__)


MARIAN = Family(
    architectures=("MarianMTModel",),
    config=_config,
    keys=KEYS,
    dropped=(r"model\.(encoder|decoder)\.embed_positions\.weight",),  # sinusoids, computed here
    copies={
        "vocabulary.weight": "embedding.weight",
        "source_embedding.weight": "embedding.weight",
        "decoder.embedding.weight": "embedding.weight",
    },
    zeros=("vocabulary_bias",),
    adapt=_adapt,
    tokenizer=_tokenizer,
    source_tokenizer=_source_tokenizer,
    languages=_languages,
)
