"""A Llama from a GGUF file: the logits of a forward pass written out here are those of llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgewise.errors import CheckpointError
from edgewise.models.gguf.llama import (
    LlamaParameters,
    halves,
    llama_parameters,
    llama_tensor,
    tensor_shapes,
)
from edgewise.models.gguf.reader import GgufFile

from . import gguf_bytes as raw
from . import tiny
from .naive_llama import forward

GOLDEN = json.loads((tiny.GOLDENS / "tiny_llama.json").read_text())
VARIANTS: dict[str, dict[str, bool]] = {"plain": {}, "tied": {"tied": True}, "factors": {"factors": True}}


def file_of(weights: dict[str, NDArray[np.float32]], **change: Any) -> GgufFile:
    data = tiny.llama_bytes(weights, tiny.llama_pairs(**{key.replace("__", "."): v for key, v in change.items()}))
    return GgufFile(Path("tiny.gguf"), np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_llama_cpp(variant: str) -> None:
    file = file_of(tiny.llama_weights(**VARIANTS[variant]))
    parameters = llama_parameters(file)
    tensors = {name: llama_tensor(file, parameters, name) for name in tensor_shapes(parameters)}
    expected = np.array(GOLDEN["logits"][variant])
    np.testing.assert_allclose(forward(tensors, parameters, GOLDEN["ids"]), expected, rtol=1e-4, atol=1e-4)


def test_the_comparison_sees_the_order_of_rows() -> None:
    file = file_of(tiny.llama_weights())
    parameters = llama_parameters(file)
    as_stored = {name: file.tensor(name) for name in tensor_shapes(parameters)}
    difference = np.abs(forward(as_stored, parameters, GOLDEN["ids"]) - np.array(GOLDEN["logits"]["plain"])).max()
    assert difference > 0.1


def test_parameters() -> None:
    expected: LlamaParameters = {
        "architecture": "llama",
        "n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_ff": 48, "vocab_size": 40,
        "max_positions": 64, "norm_epsilon": float(np.float32(1e-5)), "rope_theta": 5000.0, "rope_scale": 1.0,
        "rope_factors": None, "tied": False,
    }  # fmt: skip
    assert llama_parameters(file_of(tiny.llama_weights())) == expected


def test_parameters_that_a_file_may_leave_out() -> None:
    weights = tiny.llama_weights(tied=True, factors=True)
    left_out = {"llama__vocab_size": None, "llama__rope__freq_base": None, "llama__rope__dimension_count": None}
    found = llama_parameters(file_of(weights, **left_out))
    assert (found["vocab_size"], found["rope_theta"], found["head_dim"]) == (40, 10_000.0, 8)
    assert found["tied"]
    assert found["rope_factors"] == [1, 1.5, 4, 8]
    scaled = {"llama__rope__scaling__type": (raw.STRING, "linear"), "llama__rope__scaling__factor": (raw.F32, 4.0)}
    assert llama_parameters(file_of(weights, **scaled))["rope_scale"] == 4
    assert llama_parameters(file_of(weights, llama__rope__scaling__type=(raw.STRING, "none")))["rope_scale"] == 1


def test_as_many_key_heads_as_heads() -> None:
    weights = {name: w for name, w in tiny.llama_weights().items() if "attn_k" not in name and "attn_v" not in name}
    for layer in range(2):
        weights |= {f"blk.{layer}.attn_{part}.weight": weights[f"blk.{layer}.attn_q.weight"] for part in "kv"}
    assert llama_parameters(file_of(weights, llama__attention__head_count_kv=None))["n_kv_heads"] == 4


def test_every_tensor_comes_back() -> None:
    """Queries and keys, which the file holds permuted, to the bit as they were before."""
    weights = tiny.llama_weights(factors=True)
    file = file_of(weights)
    parameters = llama_parameters(file)
    assert set(tensor_shapes(parameters)) == set(weights)
    assert not np.array_equal(file.tensor("blk.0.attn_q.weight"), weights["blk.0.attn_q.weight"])
    for name, weight in weights.items():
        np.testing.assert_array_equal(llama_tensor(file, parameters, name), weight)


def test_halves() -> None:
    assert halves(2, 4).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": (
        {"general__architecture": (raw.STRING, "bert")},
        "of architecture 'bert', expected 'llama' or 'smollm3' or 'qwen2' or 'qwen3' or 'gemma2' or .* or 'gpt2'",
    ),
    "missing": ({"llama__block_count": None}, "has no metadata 'llama.block_count', expected int"),
    "type": ({"llama__block_count": (raw.F32, 2.0)}, "metadata 'llama.block_count' is 2.0, expected int"),
    "truth": ({"llama__block_count": (raw.BOOL, True)}, "metadata 'llama.block_count' is True, expected int"),
    "per layer": ({"llama__feed_forward_length": (raw.ARRAY, (raw.I32, [48, 48]))}, "is a ndarray, expected int"),
    "zero": (
        {"llama__attention__head_count": (raw.U32, 0)},
        "'llama.attention.head_count' is 0, expected a size from 1",
    ),
    "huge": ({"llama__block_count": (raw.U32, 2**31)}, "'llama.block_count' is 2147483648, expected a size from 1"),
    "many layers": ({"llama__block_count": (raw.U32, 2**30)}, "has 1073741824 layers in 21 tensors, expected several"),
    "epsilon": (
        {"llama__attention__layer_norm_rms_epsilon": (raw.F32, 0.0)},
        "'llama.attention.layer_norm_rms_epsilon' is 0.0, expected a positive number",
    ),
    "theta": (
        {"llama__rope__freq_base": (raw.F32, float("nan"))},
        "'llama.rope.freq_base' is nan, expected a positive",
    ),
    "heads": ({"llama__attention__head_count": (raw.U32, 5)}, r"d_model \(32\) must be a multiple of n_heads \(5\)"),
    "groups": (
        {"llama__attention__head_count_kv": (raw.U32, 3)},
        r"n_heads \(4\) must be a multiple of n_kv_heads \(3\)",
    ),
    "half a head": (
        {"llama__rope__dimension_count": (raw.U32, 4)},
        "'llama.rope.dimension_count' is 4, expected head_d",
    ),
    "odd head": (
        {"llama__attention__key_length": (raw.U32, 7), "llama__rope__dimension_count": None},
        r"head_dim \(7\) must be even: positions rotate pairs of values",
    ),
    "values": (
        {"llama__attention__value_length": (raw.U32, 4)},
        "'llama.attention.value_length' is 4, expected head_dim",
    ),
    "vocabulary": ({"llama__vocab_size": (raw.U32, 41)}, "'llama.vocab_size' is 41, the embedding has 40"),
    "scaling": (
        {"llama__rope__scaling__type": (raw.STRING, "yarn")},
        "'llama.rope.scaling.type' is 'yarn', expected 'n",
    ),
    "experts": ({"llama__expert_count": (raw.U32, 8)}, r"has llama keys \['expert_count'\], which may change the math"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"tiny\.gguf: .*{message}.*\. Convert the checkpoint again"):
        llama_parameters(file_of(tiny.llama_weights(), **change))


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([1.0, 2, 3], r"'rope_freqs.weight' has shape \(3,\), expected \(4,\)"),
        ([1.0, 0, 3, 4], "holds 0.0, expected pos"),
    ],
)
def test_frequency_factors(factors: list[float], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        llama_parameters(file_of({**tiny.llama_weights(), "rope_freqs.weight": np.array(factors, np.float32)}))


def test_tensors_that_do_not_fit_are_in_one_message() -> None:
    weights = tiny.llama_weights()
    weights["blk.0.attn_q.bias"] = np.zeros(32, np.float32)
    weights["blk.1.ffn_up.weight"] = np.zeros((47, 32), np.float32)
    del weights["blk.1.attn_v.weight"]
    with pytest.raises(CheckpointError, match="its tensors do not fit its metadata") as caught:
        llama_parameters(file_of(weights))
    for part in (
        "unexpected blk.0.attn_q.bias",
        "blk.1.ffn_up.weight has shape (47, 32), expected (48, 32)",
        "missing blk.1.attn_v.weight",
    ):
        assert part in str(caught.value)
