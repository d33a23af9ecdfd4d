"""What a Phi-3 in a GGUF file has besides a Llama: a window, and heads that may turn in part.

Files of long contexts have a divisor for each frequency (``rope_factors_short``); these are refused as tensors that are
not expected. llama.cpp leaves the window away; here it is as the network was trained.

Source: ``Phi3MiniModel`` in the converter of llama.cpp, and ``models/phi3.cpp`` there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .metadata import lookup, refuse
from .reader import GgufFile
from .sizes import key_of, size

if TYPE_CHECKING:
    from .llama import LlamaParameters

_WINDOW = "attention.sliding_window"
KEYS = frozenset({_WINDOW})
"""Under the architecture's name."""


def phi3_fields(file: GgufFile, parameters: LlamaParameters) -> dict[str, Any]:
    """The fields of ``Phi3ForCausalLM`` that a Llama does not have; a window of 0 is none.

    Raises:
        CheckpointError: a value is none, or positions are scaled.
    """
    if parameters["rope_scale"] != 1 or parameters["rope_factors"] is not None:
        refuse(file, "is a Phi-3 with scaled positions, expected none")
    window = lookup(file, key_of(file, _WINDOW), int, 0)
    if not 0 <= window < 1 << 31:
        refuse(file, f"metadata {key_of(file, _WINDOW)!r} is {window}, expected a size, or 0 for none")
    head_dim = parameters["head_dim"]
    turned = size(file, "rope.dimension_count", head_dim)
    if turned > head_dim or turned % 2:
        key = key_of(file, "rope.dimension_count")
        refuse(file, f"metadata {key!r} is {turned}, expected an even size to {head_dim}")
    return {"sliding_window": window or None, "partial_rotary_factor": turned / head_dim, "head_dim": None}
