"""A Llama, a Qwen, a Gemma or a Phi-3 in a GGUF file: hyper-parameters, and weights in the order of rows of PyTorch.

Of a Llama llama.cpp rotates neighbouring values of a head (``2j`` and ``2j + 1``, as Su et al. 2021, section 3.4),
PyTorch code value ``j`` and value ``j + head_dim / 2``. llama.cpp's converter therefore reorders the rows of the query
and key matrices; here they are put back, exactly, so that positions rotate in halves. Of the others both rotate in
halves.

Source: ``LlamaModel.permute`` in the converter of llama.cpp, ``llama_model_rope_type`` in ``llama-model.cpp`` there,
and ``docs/gguf.md`` of ggml, section "LLM".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from . import gemma, phi3
from .metadata import lookup, refuse
from .reader import GgufFile
from .sizes import (
    architecture_of,
    check_layers,
    compare_tensors,
    key_of,
    known_keys_only,
    positive,
    size,
    vocab_size,
)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What one of them has besides a Llama's matrices.

    ``biases`` of parts of a layer, ``head_norms``, and norms of what a sub-layer gives, ``branch_norms``. ``fused``:
    queries, keys and values are one matrix, and so are the two that a feed-forward network begins with.

    ``neighbours``: rows of queries and keys lie so that neighbouring values of a head rotate. ``keys``: others that its
    configuration is read from. ``whole_norms``: the file holds what its norms multiply by, where a family has one less.
    """

    neighbours: bool = False
    biases: tuple[str, ...] = ()
    head_norms: bool = False
    branch_norms: bool = False
    fused: bool = False
    whole_norms: bool = False
    keys: frozenset[str] = frozenset()


GPT2 = "gpt2"
"""Which is no Llama, see :mod:`.gpt2`."""
_GEMMA = Architecture(branch_norms=True, whole_norms=True, keys=gemma.KEYS)
ARCHITECTURES = {
    "llama": Architecture(neighbours=True),
    "smollm3": Architecture(neighbours=True),
    "qwen2": Architecture(biases=("attn_q", "attn_k", "attn_v")),
    "qwen3": Architecture(head_norms=True),
    "gemma2": _GEMMA,
    "gemma3": replace(_GEMMA, head_norms=True),
    "phi3": Architecture(fused=True, keys=phi3.KEYS),
}

# Keys under the architecture's name that are read below, and those that change nothing that is computed.
_READ = {
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.layer_norm_rms_epsilon",
    "attention.value_length", "block_count", "context_length", "embedding_length", "feed_forward_length",
    "rope.dimension_count", "rope.freq_base", "rope.scaling.factor", "rope.scaling.type", "vocab_size",
}  # fmt: skip
_WITHOUT_EFFECT = {"rope.scaling.original_context_length", "rope.scaling.finetuned", "tensor_data_layout"}
_APART = ("attn_q", "attn_k", "attn_v", "ffn_gate")
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")


class LlamaParameters(TypedDict):
    """The hyper-parameters of a Llama (Touvron et al. 2023), a Qwen or a Gemma.

    ``rope_scale`` divides every position (1: no scaling); ``rope_factors`` divide the frequencies one by one (Llama
    3.1), ``None`` where there are none.
    """

    architecture: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    vocab_size: int
    max_positions: int
    norm_epsilon: float
    rope_theta: float
    rope_scale: float
    rope_factors: list[float] | None
    tied: bool


def llama_parameters(file: GgufFile) -> LlamaParameters:
    """Read the hyper-parameters, and compare the table of tensors with them.

    Raises:
        CheckpointError: another architecture; a value is missing or contradicts another; a key is not understood and
            may change what is computed; a tensor is missing, unexpected or of another shape.
    """
    architecture = architecture_of(file)
    if architecture not in ARCHITECTURES:
        known = " or ".join(map(repr, (*ARCHITECTURES, GPT2)))
        refuse(file, f"is a checkpoint of architecture {architecture!r}, expected {known}")
    known_keys_only(file, _READ | ARCHITECTURES[architecture].keys, _WITHOUT_EFFECT)
    heads, width = size(file, "attention.head_count"), size(file, "embedding_length")
    head_dim = _head_dim(file, width, heads, ARCHITECTURES[architecture].fused)
    found = LlamaParameters(
        architecture=architecture,
        n_layers=size(file, "block_count"),
        d_model=width,
        n_heads=heads,
        n_kv_heads=size(file, "attention.head_count_kv", heads),
        head_dim=head_dim,
        d_ff=size(file, "feed_forward_length"),
        vocab_size=vocab_size(file),
        max_positions=size(file, "context_length"),
        norm_epsilon=positive(file, "attention.layer_norm_rms_epsilon"),
        rope_theta=positive(file, "rope.freq_base", 10_000.0),
        rope_scale=_rope_scale(file),
        rope_factors=_rope_factors(file, head_dim),
        tied="output.weight" not in file.tensors,
    )
    if found["n_heads"] % found["n_kv_heads"]:
        refuse(file, f"n_heads ({found['n_heads']}) must be a multiple of n_kv_heads ({found['n_kv_heads']})")
    check_layers(file, found["n_layers"])
    compare_tensors(file, tensor_shapes(found))
    return found


def tensor_shapes(parameters: LlamaParameters) -> dict[str, tuple[int, ...]]:
    """Every tensor that there is, by its GGUF name, with its shape."""
    kind = ARCHITECTURES[parameters["architecture"]]
    d_model, d_ff, head_dim = parameters["d_model"], parameters["d_ff"], parameters["head_dim"]
    queries, keys = parameters["n_heads"] * head_dim, parameters["n_kv_heads"] * head_dim
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (parameters["vocab_size"], d_model)}
    for layer in range(parameters["n_layers"]):
        of_layer: dict[str, tuple[int, ...]] = {
            "attn_norm": (d_model,),
            "attn_q": (queries, d_model),
            "attn_k": (keys, d_model),
            "attn_v": (keys, d_model),
            "attn_output": (d_model, queries),
            "ffn_norm": (d_model,),
            "ffn_gate": (d_ff, d_model),
            "ffn_up": (d_ff, d_model),
            "ffn_down": (d_model, d_ff),
        }
        if kind.fused:
            of_layer = {name: shape for name, shape in of_layer.items() if name not in _APART}
            of_layer |= {"attn_qkv": (queries + 2 * keys, d_model), "ffn_up": (2 * d_ff, d_model)}
        if kind.head_norms:
            of_layer |= {"attn_q_norm": (head_dim,), "attn_k_norm": (head_dim,)}
        if kind.branch_norms:
            of_layer |= {"post_attention_norm": (d_model,), "post_ffw_norm": (d_model,)}
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in of_layer.items()}
        shapes |= {f"blk.{layer}.{name}.bias": of_layer[name][:1] for name in kind.biases}
    shapes["output_norm.weight"] = (d_model,)
    if not parameters["tied"]:
        shapes["output.weight"] = (parameters["vocab_size"], d_model)
    if parameters["rope_factors"] is not None:
        shapes["rope_freqs.weight"] = (head_dim // 2,)
    return shapes


def llama_tensor(file: GgufFile, parameters: LlamaParameters, name: str) -> NDArray[np.float32]:
    """One tensor in float32; the rows of queries and keys are in halves.

    Raises:
        CheckpointError: there is no such tensor, or it holds NaN or infinity.
    """
    return file.tensor(name)[_row_order(parameters, name)]


def halves(n_heads: int, head_dim: int) -> NDArray[np.intp]:
    """Where each row of a query or key matrix lies in a GGUF file: row ``j`` of a head at ``2j``, ``j + head_dim / 2``
    at ``2j + 1``."""
    rows = np.arange(n_heads * head_dim).reshape(n_heads, head_dim // 2, 2)
    return rows.swapaxes(1, 2).reshape(-1)


def _row_order(parameters: LlamaParameters, name: str) -> NDArray[np.intp] | slice:
    layer = _LAYER.fullmatch(name) if ARCHITECTURES[parameters["architecture"]].neighbours else None
    heads = {"attn_q.weight": parameters["n_heads"], "attn_k.weight": parameters["n_kv_heads"]}
    if layer and layer[2] in heads:
        return halves(heads[layer[2]], parameters["head_dim"])
    return slice(None)


def _head_dim(file: GgufFile, d_model: int, n_heads: int, in_part: bool) -> int:
    """Width of a head, which must be even and rotate as a whole, or ``in_part``."""
    if key_of(file, "attention.key_length") not in file.metadata and d_model % n_heads:
        refuse(file, f"d_model ({d_model}) must be a multiple of n_heads ({n_heads})")
    head_dim = size(file, "attention.key_length", max(d_model // n_heads, 1))
    for key in ("attention.value_length", *(() if in_part else ("rope.dimension_count",))):
        if size(file, key, head_dim) != head_dim:
            key = key_of(file, key)
            refuse(file, f"metadata {key!r} is {file.metadata[key]}, expected head_dim, {head_dim}")
    if head_dim % 2:
        refuse(file, f"head_dim ({head_dim}) must be even: positions rotate pairs of values")
    return head_dim


def _rope_scale(file: GgufFile) -> float:
    key = key_of(file, "rope.scaling.type")
    kind = lookup(file, key, str, "none")
    if kind not in ("none", "linear"):
        refuse(file, f"metadata {key!r} is {kind!r}, expected 'none' or 'linear'")
    return positive(file, "rope.scaling.factor", 1.0) if kind == "linear" else 1.0


def _rope_factors(file: GgufFile, head_dim: int) -> list[float] | None:
    name = "rope_freqs.weight"
    if name not in file.tensors:
        return None
    if file.tensors[name].shape != (head_dim // 2,):
        refuse(file, f"tensor {name!r} has shape {file.tensors[name].shape}, expected ({head_dim // 2},)")
    factors: list[float] = file.tensor(name).tolist()
    if min(factors) <= 0:
        refuse(file, f"tensor {name!r} holds {min(factors)}, expected positive numbers")
    return factors
