"""A Llama under Hugging Face's names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from edgewise.errors import CheckpointError
from edgewise.models.gguf.hugging_face import config_json, tensor_name, tensors
from edgewise.models.gguf.llama import LlamaParameters, llama_parameters, tensor_shapes
from edgewise.models.gguf.reader import GgufFile
from edgewise.models.gguf.vocabulary import Vocabulary, read_vocabulary

from . import gguf_bytes as raw
from . import tiny


def opened(weights: dict[str, NDArray[np.float32]], **change: Any) -> tuple[GgufFile, LlamaParameters, Vocabulary]:
    """A file with the tiny Llama and a tokenizer; keys of ``change`` have ``__`` for a dot."""
    changed = {key.replace("__", "."): value for key, value in change.items()}
    left_out = {"general.architecture": None, "tokenizer.ggml.model": None}  # the tokenizer's pairs have them too
    pairs = [*tiny.llama_pairs(**(left_out | changed)), *tiny.bpe_pairs("smollm")]
    file = GgufFile(Path("tiny.gguf"), np.frombuffer(tiny.llama_bytes(weights, pairs), np.uint8))
    return file, llama_parameters(file), read_vocabulary(file)


def test_config() -> None:
    assert config_json(*opened(tiny.llama_weights())) == {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "vocab_size": 40, "max_position_embeddings": 64, "rms_norm_eps": float(np.float32(1e-5)),
        "rope_theta": 5000.0, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip


def test_stretched_positions() -> None:
    linear = {"llama__rope__scaling__type": (raw.STRING, "linear"), "llama__rope__scaling__factor": (raw.F32, 4.0)}
    config = config_json(*opened(tiny.llama_weights(tied=True), **linear))
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    assert config["tie_word_embeddings"]


def converted_factors(factor: float, original: int) -> NDArray[np.float32]:
    """As llama.cpp's converter writes them, for head_dim 8 and rope_theta 500 000."""
    found = []
    for frequency in 1.0 / (500_000.0 ** (np.arange(0, 8, 2, dtype=np.float32) / 8)):
        wavelength = 2 * math.pi / frequency
        if wavelength < original / 4:
            found.append(1.0)
        elif wavelength > original / 1:
            found.append(factor)
        else:
            smooth = (original / wavelength - 1) / (4 - 1)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


@pytest.mark.parametrize(("factor", "original"), [(8.0, 8192), (32.0, 8192), (8.0, 1000)])
def test_frequencies_of_llama_3(factor: float, original: int) -> None:
    factors = converted_factors(factor, original)
    assert (factors == factor).any()
    assert ((factors > 1) & (factors < factor)).any() == (original == 8192)
    change: dict[str, Any] = {"llama__rope__freq_base": (raw.F32, 500_000.0)}
    if original != 8192:
        change["llama__rope__scaling__original_context_length"] = (raw.U32, original)
    config = config_json(*opened({**tiny.llama_weights(), "rope_freqs.weight": factors}, **change))
    scaling = config["rope_scaling"]
    assert scaling.pop("factor") == factor
    assert scaling == {
        "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }  # fmt: skip


def test_frequencies_without_a_name() -> None:
    with pytest.raises(
        CheckpointError, match=r"tiny\.gguf: rope_freqs\.weight \[1.0, 1.5, 4.0\]... is none that Llama"
    ):
        config_json(*opened(tiny.llama_weights(factors=True)))


@pytest.mark.parametrize("tied", [False, True])
def test_names_are_the_converter_s(tied: bool) -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    file, parameters, _ = opened(tiny.llama_weights(tied=tied))
    shapes = tensor_shapes(parameters)
    for name in shapes:
        assert names.get_name(tensor_name(name), try_suffixes=(".weight",)) == name
    found = dict(tensors(file, parameters))
    assert found.keys() == {tensor_name(name) for name in shapes}
    assert ("lm_head.weight" in found) != tied
    for name, weight in tiny.llama_weights(tied=tied).items():
        np.testing.assert_array_equal(found[tensor_name(name)], weight)
