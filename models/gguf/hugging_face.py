"""A Llama, a Qwen or a Gemma from a GGUF file as Hugging Face would have written it: ``config.json``, tensors' names.

So that one table of names and fields serves both kinds of checkpoint. Source: the tensor name map of the ``gguf``
package, and ``LlamaConfig`` of transformers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .gemma import gemma_fields
from .llama import ARCHITECTURES, LlamaParameters, llama_tensor, tensor_shapes
from .metadata import lookup, refuse
from .phi3 import phi3_fields
from .reader import GgufFile
from .vocabulary import Vocabulary

_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_OF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Where what a sub-layer gives is normalized too: elsewhere the first of these names is that of the second's norm.
_WITH_BRANCHES = {"post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm"}
_FUSED = {"ffn_up": "mlp.gate_up_proj"}
_FIELDS: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "attention_bias": False, "mlp_bias": False},
    # The file does not say which layers have no positions; llama.cpp takes every fourth.
    "smollm3": {
        "architectures": ["SmolLM3ForCausalLM"],
        "attention_bias": False,
        "mlp_bias": False,
        "no_rope_layer_interval": 4,
    },
    "qwen2": {"architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "attention_bias": False},
    "gemma2": {"architectures": ["Gemma2ForCausalLM"]},
    "gemma3": {"architectures": ["Gemma3ForCausalLM"]},
    "phi3": {"architectures": ["Phi3ForCausalLM"]},
}
# Llama 3.1 stretches slow frequencies; the file holds the result, and these settings of all such models are tried.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3_POSITIONS = 8192


def config_json(file: GgufFile, parameters: LlamaParameters, vocabulary: Vocabulary) -> dict[str, Any]:
    """The fields of a ``LlamaForCausalLM``, or of what the file's architecture is there.

    Raises:
        CheckpointError: the file stretches positions in a way that has no name there.
    """
    branches = ARCHITECTURES[parameters["architecture"]].branch_norms
    config: dict[str, Any] = {
        **_FIELDS[parameters["architecture"]],
        "model_type": parameters["architecture"],
        **(gemma_fields(file, parameters) if branches else {"hidden_act": "silu"}),
        "hidden_size": parameters["d_model"],
        "intermediate_size": parameters["d_ff"],
        "num_hidden_layers": parameters["n_layers"],
        "num_attention_heads": parameters["n_heads"],
        "num_key_value_heads": parameters["n_kv_heads"],
        "head_dim": parameters["head_dim"],
        "vocab_size": parameters["vocab_size"],
        "max_position_embeddings": parameters["max_positions"],
        "rms_norm_eps": parameters["norm_epsilon"],
        "rope_theta": parameters["rope_theta"],
        "tie_word_embeddings": parameters["tied"],
    }
    ids = {"bos": vocabulary.start_id, "eos": vocabulary.end_id, "pad": vocabulary.pad_id}
    config |= {f"{name}_token_id": value for name, value in ids.items() if value is not None}
    if ARCHITECTURES[parameters["architecture"]].fused:
        return config | phi3_fields(file, parameters)
    scaling = _rope_scaling(file, parameters)
    return config | ({"rope_scaling": scaling} if scaling else {})


def tensors(file: GgufFile, parameters: LlamaParameters) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor in float32 under its name there, one at a time; queries and keys in halves.

    Raises:
        CheckpointError: a tensor holds NaN or infinity.
    """
    for name in tensor_shapes(parameters):
        if name != "rope_freqs.weight":  # part of the configuration there
            yield tensor_name(name, parameters["architecture"]), llama_tensor(file, parameters, name)


def tensor_name(name: str, architecture: str = "llama") -> str:
    """The name there of a tensor: ``blk.3.attn_q.weight`` is ``model.layers.3.self_attn.q_proj.weight``."""
    *layer, part, name_of_kind = name.split(".")
    if layer:
        kind = ARCHITECTURES[architecture]
        names = _OF_LAYER | (_WITH_BRANCHES if kind.branch_norms else _FUSED if kind.fused else {})
        return f"model.layers.{layer[1]}.{names[part]}.{name_of_kind}"
    return f"{_WHOLE[part]}.{name_of_kind}"


def _rope_scaling(file: GgufFile, parameters: LlamaParameters) -> dict[str, Any] | None:
    factors, scale = parameters["rope_factors"], parameters["rope_scale"]
    if factors is None:
        return None if scale == 1 else {"rope_type": "linear", "factor": scale}
    key = f"{parameters['architecture']}.rope.scaling.original_context_length"
    original = lookup(file, key, int, _LLAMA3_POSITIONS)
    settings = {"factor": max(factors), **_LLAMA3, "original_max_position_embeddings": original}
    expected = _llama3_factors(parameters, settings)
    if scale != 1 or original < 1 or not np.allclose(factors, expected, rtol=1e-5, atol=0):
        refuse(file, f"rope_freqs.weight {factors[:3]}... is none that Llama 3.1 has, and no other has a name")
    return {"rope_type": "llama3", **settings}


def _llama3_factors(parameters: LlamaParameters, settings: dict[str, Any]) -> list[float]:
    """What each frequency is divided by (``_compute_llama3_parameters`` of transformers)."""
    factor, low, high = (settings[name] for name in ("factor", "low_freq_factor", "high_freq_factor"))
    found = []
    for pair in range(parameters["head_dim"] // 2):
        wavelength = 2 * math.pi * parameters["rope_theta"] ** (2 * pair / parameters["head_dim"])
        turns = settings["original_max_position_embeddings"] / wavelength
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        found.append(1 / ((1 - smooth) / factor + smooth))
    return found
