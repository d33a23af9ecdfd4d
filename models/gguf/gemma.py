"""What a Gemma in a GGUF file has besides a Llama: caps, windows, and an activation.

Source: ``Gemma2Model`` and ``Gemma3Model`` in the converter of llama.cpp, and the hyper-parameters that
``models/gemma2.cpp`` and ``models/gemma3.cpp`` there read, with their defaults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .metadata import refuse
from .reader import GgufFile
from .sizes import key_of, positive, size

if TYPE_CHECKING:
    from .llama import LlamaParameters

_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
_WINDOW, _PATTERN, _NEAR_THETA = "attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa"
KEYS = frozenset({*_CAPS, _WINDOW, _PATTERN, _NEAR_THETA})
"""Under the architecture's name."""
_SCALED_BY_WIDTH = {"gemma2": 46, "gemma3": 62}
"""Layers of the largest, whose scores llama.cpp scales by the width of an even share of the embedding."""


def gemma_fields(file: GgufFile, parameters: LlamaParameters) -> dict[str, Any]:
    """The fields of ``Gemma2ForCausalLM`` or ``Gemma3ForCausalLM`` that a Llama does not have.

    Raises:
        CheckpointError: a value is none, or another than this architecture has.
    """
    architecture = parameters["architecture"]
    largest = parameters["n_layers"] == _SCALED_BY_WIDTH[architecture]
    share = parameters["d_model"] // parameters["n_heads"]
    fields: dict[str, Any] = {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": share if largest else parameters["head_dim"],
    }
    return fields | (_gemma2(file, parameters) if architecture == "gemma2" else _gemma3(file))


def _gemma2(file: GgufFile, parameters: LlamaParameters) -> dict[str, Any]:
    _only(file, _PATTERN, size(file, _PATTERN, 2), 2)
    theta = parameters["rope_theta"]
    _only(file, _NEAR_THETA, positive(file, _NEAR_THETA, theta), theta)
    caps = {name: positive(file, name, usual) for name, usual in _CAPS.items()}
    return {**caps, "sliding_window": size(file, _WINDOW, 4096)}


def _gemma3(file: GgufFile) -> dict[str, Any]:
    if key_of(file, "attn_logit_softcapping") in file.metadata:
        refuse(file, "is a Gemma 3 with attn_logit_softcapping, expected none: llama.cpp caps no scores of one")
    cap = key_of(file, "final_logit_softcapping")
    windows = key_of(file, _WINDOW) in file.metadata
    return {
        "final_logit_softcapping": positive(file, "final_logit_softcapping") if cap in file.metadata else None,
        "sliding_window": size(file, _WINDOW) if windows else None,
        "sliding_window_pattern": size(file, _PATTERN, 6),
        "rope_local_base_freq": positive(file, _NEAR_THETA, 10_000.0),
    }


def _only(file: GgufFile, key: str, found: float, expected: float) -> None:
    if found != expected:
        refuse(file, f"metadata {key_of(file, key)!r} is {found}, expected {expected}")
