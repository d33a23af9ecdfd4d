"""A Llama in a GGUF file: its hyper-parameters, and its weights in the order of rows that PyTorch code expects.

llama.cpp rotates neighbouring values of a head (``2j`` and ``2j + 1``, as Su et al. 2021, section 3.4), PyTorch code
value ``j`` and value ``j + head_dim / 2``. llama.cpp's converter therefore reorders the rows of the query and key
matrices; here they are put back, exactly, so that positions rotate in halves.

Source: ``LlamaModel.permute`` in the converter of llama.cpp, and ``docs/gguf.md`` of ggml, section "LLM".
"""

from __future__ import annotations

import re
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from .metadata import lookup, refuse
from .reader import GgufFile

ARCHITECTURE = "llama"

# Keys under "llama." that are read below, and those that change nothing that is computed.
_READ = {
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.layer_norm_rms_epsilon",
    "attention.value_length", "block_count", "context_length", "embedding_length", "feed_forward_length",
    "rope.dimension_count", "rope.freq_base", "rope.scaling.factor", "rope.scaling.type", "vocab_size",
}  # fmt: skip
_WITHOUT_EFFECT = {"rope.scaling.original_context_length", "rope.scaling.finetuned", "tensor_data_layout"}
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")


class LlamaParameters(TypedDict):
    """The hyper-parameters of a Llama (Touvron et al. 2023). ``rope_scale`` divides every position (1: no scaling);
    ``rope_factors`` divide the frequencies one by one (Llama 3.1), ``None`` where there are none."""

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
    architecture = lookup(file, "general.architecture", str)
    if architecture != ARCHITECTURE:
        refuse(file, f"is a checkpoint of architecture {architecture!r}, expected {ARCHITECTURE!r}")
    _known_keys_only(file)
    heads, width = _size(file, "attention.head_count"), _size(file, "embedding_length")
    head_dim = _head_dim(file, width, heads)
    found = LlamaParameters(
        n_layers=_size(file, "block_count"),
        d_model=width,
        n_heads=heads,
        n_kv_heads=_size(file, "attention.head_count_kv", heads),
        head_dim=head_dim,
        d_ff=_size(file, "feed_forward_length"),
        vocab_size=_vocab_size(file),
        max_positions=_size(file, "context_length"),
        norm_epsilon=_positive(file, "attention.layer_norm_rms_epsilon"),
        rope_theta=_positive(file, "rope.freq_base", 10_000.0),
        rope_scale=_rope_scale(file),
        rope_factors=_rope_factors(file, head_dim),
        tied="output.weight" not in file.tensors,
    )
    if found["n_heads"] % found["n_kv_heads"]:
        refuse(file, f"n_heads ({found['n_heads']}) must be a multiple of n_kv_heads ({found['n_kv_heads']})")
    _compare_tensors(file, found)
    return found


def tensor_shapes(parameters: LlamaParameters) -> dict[str, tuple[int, ...]]:
    """Every tensor that a Llama has, by its GGUF name, with its shape."""
    d_model, d_ff, head_dim = parameters["d_model"], parameters["d_ff"], parameters["head_dim"]
    queries, keys = parameters["n_heads"] * head_dim, parameters["n_kv_heads"] * head_dim
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (parameters["vocab_size"], d_model)}
    for layer in range(parameters["n_layers"]):
        of_layer = {
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
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in of_layer.items()}
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
    layer = _LAYER.fullmatch(name)
    heads = {"attn_q.weight": parameters["n_heads"], "attn_k.weight": parameters["n_kv_heads"]}
    if layer and layer[2] in heads:
        return halves(heads[layer[2]], parameters["head_dim"])
    return slice(None)


def _known_keys_only(file: GgufFile) -> None:
    own = {key.removeprefix("llama.") for key in file.metadata if key.startswith("llama.")}
    unknown = sorted(own - _READ - _WITHOUT_EFFECT)
    if unknown:
        refuse(file, f"has llama keys {unknown}, which may change the mathematics; known: {sorted(_READ)}")


def _size(file: GgufFile, key: str, default: int = 0) -> int:
    """A size: present, or ``default`` where that is positive."""
    value = lookup(file, f"llama.{key}", int, default) if default else lookup(file, f"llama.{key}", int)
    if not 0 < value < 1 << 31:
        refuse(file, f"metadata 'llama.{key}' is {value}, expected a size from 1 to {(1 << 31) - 1}")
    return value


def _positive(file: GgufFile, key: str, default: float = 0.0) -> float:
    value = lookup(file, f"llama.{key}", float, default) if default else lookup(file, f"llama.{key}", float)
    if not 0 < value < float("inf"):
        refuse(file, f"metadata 'llama.{key}' is {value}, expected a positive number")
    return value


def _head_dim(file: GgufFile, d_model: int, n_heads: int) -> int:
    """Width of a head, which must be even and rotate as a whole."""
    if "llama.attention.key_length" not in file.metadata and d_model % n_heads:
        refuse(file, f"d_model ({d_model}) must be a multiple of n_heads ({n_heads})")
    head_dim = _size(file, "attention.key_length", max(d_model // n_heads, 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        if _size(file, key, head_dim) != head_dim:
            refuse(file, f"metadata 'llama.{key}' is {file.metadata[f'llama.{key}']}, expected head_dim, {head_dim}")
    if head_dim % 2:
        refuse(file, f"head_dim ({head_dim}) must be even: positions rotate pairs of values")
    return head_dim


def _vocab_size(file: GgufFile) -> int:
    """As many tokens as the embedding has rows; a number beside it must say the same."""
    rows = file.info("token_embd.weight").shape[0]
    if _size(file, "vocab_size", rows) != rows:
        refuse(file, f"metadata 'llama.vocab_size' is {file.metadata['llama.vocab_size']}, the embedding has {rows}")
    return rows


def _rope_scale(file: GgufFile) -> float:
    kind = lookup(file, "llama.rope.scaling.type", str, "none")
    if kind not in ("none", "linear"):
        refuse(file, f"metadata 'llama.rope.scaling.type' is {kind!r}, expected 'none' or 'linear'")
    return _positive(file, "rope.scaling.factor", 1.0) if kind == "linear" else 1.0


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


def _compare_tensors(file: GgufFile, parameters: LlamaParameters) -> None:
    """Every fault of the tensor table in one error."""
    # Before a table of all layers is made: a count from outside may be a billion.
    if parameters["n_layers"] > len(file.tensors):
        refuse(
            file, f"has {parameters['n_layers']} layers in {len(file.tensors)} tensors, expected several tensors each"
        )
    expected = tensor_shapes(parameters)
    faults = [f"missing {name}" for name in expected.keys() - file.tensors.keys()]
    faults += [f"unexpected {name}" for name in file.tensors.keys() - expected.keys()]
    for name in expected.keys() & file.tensors.keys():
        if file.tensors[name].shape != expected[name]:
            faults.append(f"{name} has shape {file.tensors[name].shape}, expected {expected[name]}")
    if faults:
        refuse(file, "its tensors do not fit its metadata: " + "; ".join(sorted(faults)))
