"""A GPT-2 in a GGUF file as Hugging Face would have written it: a ``config.json``, and tensors' names.

Source: ``GPT2Model`` in the converter of llama.cpp, which turns the matrices so that they lie as ``(out, in)``, and
``models/gpt2.cpp`` there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metadata import refuse
from .reader import GgufFile
from .sizes import check_layers, compare_tensors, known_keys_only, positive, size, vocab_size
from .vocabulary import Vocabulary

_READ = {
    "attention.head_count", "attention.layer_norm_epsilon", "block_count", "context_length", "embedding_length",
    "feed_forward_length", "vocab_size",
}  # fmt: skip
_WHOLE = {"token_embd": "wte", "position_embd": "wpe", "output_norm": "ln_f", "output": "lm_head"}
_OF_LAYER = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_TURNED = re.compile(r"blk\.\d+\.(attn_qkv|attn_output|ffn_up|ffn_down)\.weight")


def gpt2_config(file: GgufFile, vocabulary: Vocabulary) -> dict[str, Any]:
    """The fields of a ``GPT2LMHeadModel``; the table of tensors is compared with them.

    Raises:
        CheckpointError: a value is missing or contradicts another; a key is not understood and may change what is
            computed; a tensor is missing, unexpected or of another shape.
    """
    known_keys_only(file, _READ, {"tensor_data_layout"})
    config: dict[str, Any] = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": size(file, "block_count"),
        "n_embd": size(file, "embedding_length"),
        "n_head": size(file, "attention.head_count"),
        "n_inner": size(file, "feed_forward_length"),
        "n_positions": size(file, "context_length"),
        "layer_norm_epsilon": positive(file, "attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
        "vocab_size": vocab_size(file),
        "tie_word_embeddings": _is_tied(file),
    }
    ids = {"bos": vocabulary.start_id, "eos": vocabulary.end_id, "pad": vocabulary.pad_id}
    config |= {f"{name}_token_id": value for name, value in ids.items() if value is not None}
    if config["n_embd"] % config["n_head"]:
        refuse(file, f"d_model ({config['n_embd']}) must be a multiple of n_heads ({config['n_head']})")
    check_layers(file, config["n_layer"])
    compare_tensors(file, _shapes(file, config))
    return config


def gpt2_tensors(file: GgufFile) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor in float32 under its name there, one at a time; matrices lie as ``(in, out)`` there.

    Raises:
        CheckpointError: a tensor holds NaN or infinity.
    """
    for name in file.tensors:
        weight = file.tensor(name)
        yield _name(name), np.ascontiguousarray(weight.T) if _TURNED.fullmatch(name) else weight


def _is_tied(file: GgufFile) -> bool:
    """Older converters store the embedding once more as the output; which of both it is, the numbers say."""
    return "output.weight" not in file.tensors or (
        file.info("output.weight").shape == file.info("token_embd.weight").shape
        and np.array_equal(file.tensor("output.weight"), file.tensor("token_embd.weight"))
    )


def _shapes(file: GgufFile, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    width, inner, rows = (config[name] for name in ("n_embd", "n_inner", "vocab_size"))
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (rows, width),
        "position_embd.weight": (config["n_positions"], width),
        "output_norm.weight": (width,),
        "output_norm.bias": (width,),
    }
    for layer in range(config["n_layer"]):
        of_layer: dict[str, tuple[int, ...]] = {
            "attn_norm": (width,),
            "attn_qkv": (3 * width, width),
            "attn_output": (width, width),
            "ffn_norm": (width,),
            "ffn_up": (inner, width),
            "ffn_down": (width, inner),
        }
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in of_layer.items()}
        shapes |= {f"blk.{layer}.{name}.bias": shape[:1] for name, shape in of_layer.items()}
    return shapes | ({"output.weight": (rows, width)} if "output.weight" in file.tensors else {})


def _name(name: str) -> str:
    """``blk.3.attn_qkv.weight`` is ``transformer.h.3.attn.c_attn.weight``."""
    *layer, part, kind = name.split(".")
    if layer:
        return f"transformer.h.{layer[1]}.{_OF_LAYER[part]}.{kind}"
    return f"{'' if part == 'output' else 'transformer.'}{_WHOLE[part]}.{kind}"
