"""The portable form: standard ONNX (opset 23) of a reference network, for any batch and any length.

Graphs by architecture: encoder-decoder has ``encoder`` and ``decoder``, decoder-only ``decoder``, encoder-only
``encoder``. Shapes use the legend of :mod:`edgewise.models`.

``encoder`` of an encoder-decoder::

    ids (B, S) int64, mask (B, S) bool -> cross_key_{i}, cross_value_{i} (B, H, S, Dh)   i over decoder layers

and of one that hears, ``features (B, bands, frames)`` float32 take the place of both: all ``S = frames / 2`` states are
there, and its attentions have no mask.

``encoder`` alone, with ``logit_index`` and ``(B, N, V)`` logits only where the head is the vocabulary::

    ids (B, S), mask (B, S), logit_index (B, N) int64 -> hidden (B, S, D), logits (B, N, V) or (B, classes)

and where states are pooled, ``embedding_of_text (B, D)`` in place of logits. With classes for every token, or the two
ends of a span, logits are ``(B, S, classes)``. ``segments (B, S) int64`` follows ``mask`` where a model reads pairs and
tells their texts apart.

``decoder``, the last three inputs only where there is an encoder::

    ids, positions (R, T), key_mask (R, P+T) bool, logit_index (R, N), past_key_{i}, past_value_{i} (R, H, P, Dh),
    cross_key_{i}, cross_value_{i} (B, H, S, Dh), cross_mask (B, S) bool
    -> logits (R, N, V), present_key_{i}, present_value_{i} (R, H, P+T, Dh)

``P`` may be 0, and ``R`` is any multiple of ``B``: the beams of a sentence enter cross-attention as its query rows.

What a pass may rely on
-----------------------
Operators: Add, And, Attention, Concat, Div, Expand, Gather, GatherElements, Gelu, LayerNormalization, LessOrEqual,
MatMul, Mul, RMSNormalization, Range, Relu, Reshape, RotaryEmbedding, Shape, Sigmoid, Squeeze, Sub, Transpose,
Unsqueeze; windows add Less, and of a decoder Cast, CumSum and Slice, of an encoder Abs, relative positions Cast, Clip,
CumSum and Where, a cap of logits Tanh, speech Conv; a classifier of texts adds Cast, Clip, Gemm (named ``classifier``,
``pooler`` or ``transform`` after its weight, transB=1; a ``transform`` without a bias is MatMul), ReduceSum and Tanh,
pooled states Cast, Clip, ReduceL2 and ReduceSum, a dense layer after them one named ``dense``, Gemm with a bias and
MatMul without, and Tanh. No functions, no subgraphs.

- Parameters are initializers under their PyTorch name and in their PyTorch layout. Two that are equal stay two.
  ``position_table (max_positions, D)`` may be sinusoids, which no checkpoint holds, or learned; ``rotary.cosine`` and
  ``rotary.sine (max_positions, Dh/2)``, and those of ``window_rotary``, are computed too. Of a segment embedding row 0
  is a constant, unless there are ``segments``: then it is a Gather named ``token_types``.
- A linear layer ``a.b`` is ``Transpose(a.b.weight, perm=[1, 0])`` -> MatMul named ``a.b`` -> Add named ``a.b.bias``.
  So the matrix of a MatMul is the only input of the Transpose before it, ``(out, in)``. The output projection is the
  MatMul named ``vocabulary`` over ``embedding.weight``, which the embedding's Gather (named ``embedding``) reads too,
  or over ``vocabulary.weight``. Without a bias there is no Add. Logits with a cap leave by Div -> Tanh -> Mul. An
  encoder's own embedding is read by a Gather named ``source_embedding``.
- An attention ``x.attention`` is one Attention node named so, mask as fourth input, with 4-D inputs and without
  ``is_causal`` or past inputs of its own; ``scale`` is there where it is not the usual one, and a ``softcap`` of 0 is
  none. Each of q, k, v comes out of Add -> Reshape [0, 0, H, Dh] -> Transpose [0, 2, 1, 3], of k and v with as many
  heads as they have, an RMSNormalization of q and k before the Transpose where heads are normalized; with rotary
  positions q and k go through one RotaryEmbedding after it, over ``positions``, but for those of layers without
  positions. The result leaves by Transpose [0, 2, 1, 3] -> Reshape [0, 0, H*Dh] -> the linear layer ``output``.
- A LayerNormalization without a shift has two inputs.
- Self-attention in an encoder: all layers share one mask of keys; those with a window share another ``(B, 1, S, S)``,
  And of that one and Less(Abs(distance), window). Rotary positions are ``Range`` of the tokens, expanded to ``(B, S)``.
- Self-attention in a decoder: ``present_key_{i} = Concat(past_key_{i}, k, axis=2)``, values alike; Attention reads the
  presents. All layers share one mask ``(R, 1, T, C)``, And of the look-ahead triangle and ``key_mask``; those with a
  window share another, And of that one and Less(distance, window).
- Cross-attention: ``x (R, T, D)`` -> Reshape ``(B, R/B*T, D)`` -> linear -> heads -> Attention over ``cross_key_{i}``,
  ``cross_value_{i}`` under the mask -> linear ``output`` -> Reshape ``(R, T, D)``.
- With relative positions the mask of self-attention is a number to add, Where of that mask, the bias ``(1 or R, H, T,
  C)`` and a number that leaves no weight: ``Clip(key - query)`` -> Gather of buckets, by offset from the least ->
  Gather of ``{stack}.relative_bias.weight``, named after it -> Transpose. Once for all layers of a stack; in a decoder
  the positions of keys are ``CumSum(key_mask) - 1``.
- A mask of keys alone (``mask``, ``cross_mask``) is Unsqueeze ``(B, 1, 1, S)`` -> Expand ``(B, 1, Q, S)`` to the number
  of queries ``Q``, once for all layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..models.config import StackConfig
from ..models.layers import KeyValue, MultiHeadAttention, Rotary, capped_attention, rotate_halves
from ..models.transformer import Transformer
from ..runtime.bundle import signature as names
from .clean import clean

OPSET = 23

# Sizes to trace with: all different, and none 0 or 1, which torch.export would take for constants.
_BATCH, _BEAMS, _TOKENS, _SOURCE, _PAST, _PICKS = 2, 3, 4, 7, 5, 3
_ROWS, _KEYS = _BATCH * _BEAMS, _PAST + _TOKENS


@dataclass(frozen=True)
class _Port:
    """One input of a graph: its name, an example, and the names of its dynamic dimensions."""

    name: str
    example: Tensor
    dims: dict[int, str]


def export_portable(model: Transformer, folder: Path) -> dict[str, Path]:
    """Write the portable graphs of ``model`` as ``folder/{graph}.onnx``, weights inside; returns graph name -> file."""
    model = model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, graph in portable_graphs(model).items():
        files[name] = folder / f"{name}.onnx"
        ir.save(graph, files[name])
    return files


def portable_graphs(model: Transformer) -> dict[str, ir.Model]:
    """The portable graphs of ``model`` in memory, by name."""
    graphs = {}
    with _whole_operators(model), torch.no_grad():
        if model.config.encoder is not None:
            graphs[names.ENCODER] = _export_encoder(model)
        if model.config.decoder is not None:
            graphs[names.DECODER] = _export_decoder(model)
    return graphs


def _rotary_embedding(x: Tensor, cosine: Tensor, sine: Tensor, positions: Tensor) -> Tensor:
    return torch.onnx.ops.rotary_embedding(x, cosine, sine, positions)


def _capped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, cap: float) -> Tensor:
    return torch.onnx.ops.attention(query, key, value, mask, scale=scale, softcap=cap)[0]


@contextmanager
def _whole_operators(model: Transformer) -> Iterator[None]:
    """Let rotary positions and capped attentions be traced as one operator, not as the formula that is written out."""
    rotaries = [module for module in model.modules() if isinstance(module, Rotary)]
    attentions = [module for module in model.modules() if isinstance(module, MultiHeadAttention)]
    for rotary in rotaries:
        rotary.turn = _rotary_embedding
    for attention in attentions:
        attention.attend_capped = _capped_attention
    try:
        yield
    finally:
        for rotary in rotaries:
            rotary.turn = rotate_halves
        for attention in attentions:
            attention.attend_capped = capped_attention


class _CrossEncoder(nn.Module):
    """Source -> cross-attention K/V of every decoder layer."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> list[KeyValue]:
        return self.model.cross_key_value(self.model.encode(ids, mask))


class _Hearing(nn.Module):
    """Features of speech -> cross-attention K/V of every decoder layer."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> list[KeyValue]:
        return self.model.cross_key_value(self.model.listen(features))


class _Encoder(nn.Module):
    """Tokens -> hidden states, and what the head makes of them.

    ``rest``: ``segments`` where the model tells a pair's texts apart, then ``logit_index`` where it scores words.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        config = self.model.config
        hidden = self.model.encode(ids, mask, rest[0] if config.second_segment else None)
        if config.head == "classes":
            return hidden, self.model.classify(hidden, mask)
        if config.head == "embedding":
            return hidden, self.model.pool(hidden, mask)
        if config.head == "vocabulary":
            return hidden, self.model.logits(_pick(hidden, rest[-1]))
        return hidden, self.model.tag(hidden)


class _Decoder(nn.Module):
    """Tokens and caches -> scores at chosen positions, and the caches grown by those tokens."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, positions: Tensor, key_mask: Tensor, logit_index: Tensor, *rest: Tensor) -> Any:
        assert self.model.config.decoder is not None
        n = 2 * self.model.config.decoder.n_layers
        past, cross = _pairs(rest[:n]), _pairs(rest[n : 2 * n])
        cross_mask = rest[2 * n] if cross else None
        hidden, presents = self.model.decode(ids, positions, key_mask, past, cross or None, cross_mask)
        return self.model.logits(_pick(hidden, logit_index)), presents


def _pick(hidden: Tensor, index: Tensor) -> Tensor:
    """Rows ``index (B, N)`` of ``hidden (B, T, D)``: ``(B, N, D)``."""
    return hidden.gather(1, index[:, :, None].expand(-1, -1, hidden.shape[2]))


def _pairs(flat: Sequence[Tensor]) -> list[KeyValue]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _export_hearing(model: Transformer) -> ir.Model:
    speech, decoder = model.config.speech, model.config.decoder
    assert speech is not None and decoder is not None
    port = _Port(names.FEATURES, torch.zeros(_BATCH, speech.bands, speech.frames), {0: "batch"})
    return _trace(
        _Hearing(model), [port], {n: {0: "batch"} for n in _per_layer(decoder, names.cross_key, names.cross_value)}
    )


def _export_encoder(model: Transformer) -> ir.Model:
    if model.front is not None:
        return _export_hearing(model)
    ports = [_ids(names.IDS, "batch", "source"), _mask(names.MASK, "batch", "source")]
    if model.config.decoder is not None:
        outputs = {
            n: _heads_dims("batch", "source")
            for n in _per_layer(model.config.decoder, names.cross_key, names.cross_value)
        }
        return _trace(_CrossEncoder(model), ports, outputs)
    outputs, head = {names.HIDDEN: {0: "batch", 1: "source"}}, model.config.head
    if model.config.second_segment:
        ports.append(_ids(names.SEGMENTS, "batch", "source"))
    if head == "vocabulary":
        ports.append(_ids(names.LOGIT_INDEX, "batch", "picks"))
        outputs[names.LOGITS] = {0: "batch", 1: "picks"}
    elif head == "embedding":
        outputs[names.EMBEDDING] = {0: "batch"}
    else:
        outputs[names.LOGITS] = {0: "batch"} if head == "classes" else {0: "batch", 1: "source"}
    return _trace(_Encoder(model), ports, outputs)


def _export_decoder(model: Transformer) -> ir.Model:
    config = model.config.decoder
    assert config is not None
    ports = [
        _ids(names.IDS, "rows", "tokens"),
        _ids(names.POSITIONS, "rows", "tokens"),
        _mask(names.KEY_MASK, "rows", "keys"),
    ]
    ports.append(_ids(names.LOGIT_INDEX, "rows", "picks"))
    ports += [_heads(name, config, "rows", "past") for name in _per_layer(config, names.past_key, names.past_value)]
    if model.config.encoder is not None:
        ports += [
            _heads(name, config, "batch", "source") for name in _per_layer(config, names.cross_key, names.cross_value)
        ]
        ports.append(_mask(names.CROSS_MASK, "batch", "source"))
    outputs = {names.LOGITS: {0: "rows", 1: "picks"}}
    outputs |= {
        name: _heads_dims("rows", "keys") for name in _per_layer(config, names.present_key, names.present_value)
    }
    return _trace(_Decoder(model), ports, outputs)


def _per_layer(config: StackConfig, key: Callable[[int], str], value: Callable[[int], str]) -> list[str]:
    """Names of a cache: key and value of layer 0, of layer 1, and so on."""
    return [name(i) for i in range(config.n_layers) for name in (key, value)]


_SIZES = {
    "batch": _BATCH,
    "rows": _ROWS,
    "tokens": _TOKENS,
    "source": _SOURCE,
    "past": _PAST,
    "keys": _KEYS,
    "picks": _PICKS,
}


def _heads_dims(batch: str, length: str) -> dict[int, str]:
    return {0: batch, 2: length}


def _ids(name: str, batch: str, length: str) -> _Port:
    return _Port(name, torch.zeros(_SIZES[batch], _SIZES[length], dtype=torch.int64), {0: batch, 1: length})


def _mask(name: str, batch: str, length: str) -> _Port:
    return _Port(name, torch.ones(_SIZES[batch], _SIZES[length], dtype=torch.bool), {0: batch, 1: length})


def _heads(name: str, config: StackConfig, batch: str, length: str) -> _Port:
    example = torch.zeros(_SIZES[batch], config.kv_heads, _SIZES[length], config.head_width)
    return _Port(name, example, _heads_dims(batch, length))


def _trace(module: nn.Module, ports: list[_Port], outputs: dict[str, dict[int, str]]) -> ir.Model:
    """``module`` as a cleaned graph with inputs ``ports`` and the named ``outputs`` with their dynamic dimensions."""
    dims = {name: torch.export.Dim(name) for port in ports for name in port.dims.values()}
    shapes: list[Any] = [{axis: dims[name] for axis, name in port.dims.items()} for port in ports]
    if isinstance(module, (_Decoder, _Encoder)):
        fixed = 4 if isinstance(module, _Decoder) else 2
        shapes = [*shapes[:fixed], *([tuple(rest)] if (rest := shapes[fixed:]) else [])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about axis names that several inputs share, on purpose
        program = torch.onnx.export(
            module.eval(),
            tuple(port.example for port in ports),
            dynamo=True,
            opset_version=OPSET,
            optimize=False,
            verbose=False,
            input_names=[port.name for port in ports],
            output_names=list(outputs),
            dynamic_shapes=tuple(shapes),
        )
    assert program is not None
    return clean(program.model, outputs)
