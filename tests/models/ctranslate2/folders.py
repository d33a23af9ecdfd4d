"""Folders as CTranslate2 writes them: its own specifications, random weights, saved by itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import TransformerDecoderModelSpec, TransformerSpec
from ctranslate2.specs.common_spec import Activation
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from ...families.folders import byte_level

WIDTH, INNER, HEADS, POSITIONS = 32, 48, 4, 40
START, END, UNKNOWN = "<|start|>", "<|end|>", "<unk>"
TOKENIZER = byte_level(starts=False)
SOURCE = f"$A {END}"
"""What a tokenizer of translators makes of a text, where CTranslate2 adds nothing."""


def vocabulary() -> list[str]:
    """The tokenizer's tokens, and some that it does not have."""
    ids = TOKENIZER.get_vocab(with_added_tokens=True)
    return [*sorted(ids, key=lambda token: ids[token]), UNKNOWN, "<more>", "<more2>"]


class Filler:
    """Random numbers for the parts of a specification."""

    def __init__(self, seed: int, std: float = 0.25) -> None:
        self.random, self.std = np.random.default_rng(seed), std

    def values(self, *shape: int, mean: float = 0.0) -> Any:
        return (mean + self.std * self.random.standard_normal(shape)).astype(np.float32)

    def norm(self, spec: Any, rms: bool) -> None:
        spec.gamma = self.values(WIDTH, mean=1.0)
        if not rms:
            spec.beta = self.values(WIDTH)

    def linear(self, spec: Any, out: int, inner: int, bias: bool) -> None:
        spec.weight = self.values(out, inner)
        if bias:
            spec.bias = self.values(out)

    def layer(self, spec: Any, *, rms: bool, bias: bool, glu: bool, kv: int) -> None:
        head = WIDTH // HEADS
        self.norm(spec.self_attention.layer_norm, rms)
        self.linear(spec.self_attention.linear[0], (HEADS + 2 * kv) * head, WIDTH, bias)
        self.linear(spec.self_attention.linear[1], WIDTH, WIDTH, bias)
        if hasattr(spec, "attention"):
            self.norm(spec.attention.layer_norm, rms)
            for i, out in enumerate((WIDTH, 2 * WIDTH, WIDTH)):
                self.linear(spec.attention.linear[i], out, WIDTH, bias)
        self.norm(spec.ffn.layer_norm, rms)
        self.linear(spec.ffn.linear_0, INNER, WIDTH, bias)
        self.linear(spec.ffn.linear_1, WIDTH, INNER, bias)
        if glu:
            self.linear(spec.ffn.linear_0_noact, INNER, WIDTH, bias)


def translator_folder(folder: Path, *, seed: int = 0, quantization: str | None = None, **case: Any) -> Path:
    """An encoder-decoder: ``pre_norm``, ``activation``, ``no_final_norm``, ``scaled``, ``untied``.

    ``source_bos`` and ``source_eos`` say what CTranslate2 adds, ``template`` what the tokenizer does; ``sources`` are
    the tokens of a vocabulary of their own, ``own_embedding`` is one without; ``std`` is that of weights.
    """
    fill, words = Filler(seed, case.get("std", 0.25)), vocabulary()
    arguments = {
        "pre_norm": case.get("pre_norm", False),
        "no_final_norm": case.get("no_final_norm", False),
        "activation": case.get("activation", Activation.RELU),
    }
    spec = TransformerSpec.from_config((2, 3), HEADS, **arguments)
    table, positions = fill.values(len(words), WIDTH), fill.values(POSITIONS, WIDTH)
    sources: list[str] = case.get("sources", words)
    own = fill.values(len(sources), WIDTH) if case.get("own_embedding") or sources != words else table
    for side, embeddings in ((spec.encoder, spec.encoder.embeddings[0]), (spec.decoder, spec.decoder.embeddings)):
        side.scale_embeddings = case.get("scaled", math.sqrt(WIDTH))
        side.position_encodings.encodings = positions
        embeddings.weight = own if side is spec.encoder else table
        if hasattr(side, "layer_norm"):
            fill.norm(side.layer_norm, rms=False)
        for layer in side.layer:
            fill.layer(layer, rms=False, bias=True, glu=False, kv=HEADS)
    spec.decoder.projection.weight = fill.values(len(words), WIDTH) if case.get("untied") else table
    if case.get("output_bias", True):
        spec.decoder.projection.bias = fill.values(len(words))
    spec.register_source_vocabulary(sources)
    spec.register_target_vocabulary(words)
    spec.config.add_source_bos = case.get("source_bos", False)
    spec.config.add_source_eos = case.get("source_eos", False)
    spec.config.decoder_start_token = case.get("start", START)
    spec.config.layer_norm_epsilon = case.get("epsilon")
    return _saved(spec, folder, quantization, case.get("template", SOURCE))


def generator_folder(folder: Path, *, seed: int = 0, quantization: str | None = None, **case: Any) -> Path:
    """A decoder alone: of GPT-2's kind, or with ``rotary`` of Llama's; ``embedded`` scales its embeddings."""
    fill, words = Filler(seed), vocabulary()
    rotary = case.get("rotary", False)
    more = {"rotary_dim": 0, "rotary_interleave": False, "rotary_base": 50.0, "num_heads_kv": 2} if rotary else {}
    activation = Activation.SWISH if rotary else Activation.GELUTanh
    spec = TransformerDecoderModelSpec.from_config(
        2, HEADS, pre_norm=True, activation=activation, ffn_glu=rotary, rms_norm=rotary, **more
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    embedded = np.float32(case.get("embedded", 1.0))
    decoder.embeddings.weight = fill.values(len(words), WIDTH) * embedded
    if not rotary:
        decoder.position_encodings.encodings = fill.values(POSITIONS, WIDTH) * embedded
    fill.norm(decoder.layer_norm, rotary)
    for layer in decoder.layer:
        fill.layer(layer, rms=rotary, bias=not rotary, glu=rotary, kv=2 if rotary else HEADS)
    decoder.projection.weight = fill.values(len(words), WIDTH) if rotary else decoder.embeddings.weight
    spec.register_vocabulary(words)
    spec.config.layer_norm_epsilon = case.get("epsilon")
    return _saved(spec, folder, quantization)


def with_template(template: str) -> Tokenizer:
    """The tokenizer, with special tokens around a text ``$A``."""
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokens = [(token, TOKENIZER.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=tokens)
    return tokenizer


def _saved(spec: Any, folder: Path, quantization: str | None, template: str = "$A") -> Path:
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = START, END, UNKNOWN
    folder.mkdir(parents=True)
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))
    (folder / "tokenizer.json").write_text(with_template(template).to_str())
    return folder
