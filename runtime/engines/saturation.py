"""Does this processor multiply unsigned by signed bytes exactly?

Without VNNI, x86 adds pairs of products in 16 bits and clips them: 255 * 127 + 255 * 127 becomes 32767. int8 graphs
would then answer wrongly and without a word, so a bundle that needs such products is first asked this question.
"""

from __future__ import annotations

import base64
import zlib
from functools import cache

import numpy as np
import onnxruntime as ort

from ...errors import EngineError

# y = MatMulInteger(x uint8 (M, 64), w int8 (64, 16) all 127, zero point 0); made by tests/engines/test_saturation.py.
_GRAPH = (
    "eNrj4LJ6yMElwcVYwcVYLsRYqcTrm1jiW5rjmVeSmp5aJMRVnFhSWpRYkpmfp9XDweHAISDA7MRY7tXAUT8KRsEoGLEgSgRYaAjx"
    "c/FyMAlxcjELMfpyMXE4JAFFK8GibAhRAScWLgYBUQASGA/n"
)

_EXPECTED = 64 * 255 * 127


@cache
def _largest_sum() -> int:
    session = ort.InferenceSession(zlib.decompress(base64.b64decode(_GRAPH)), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": np.full((4, 64), 255, np.uint8)})
    return int(result.min())


def products_are_exact() -> bool:
    """Whether 64 products of 255 and 127 add up."""
    return _largest_sum() == _EXPECTED


def refuse_saturating_products() -> None:
    """Raise :class:`~edgewise.errors.EngineError` where 64 products of 255 and 127 do not add up."""
    if not products_are_exact():
        raise EngineError(
            f"int8 products saturate on this processor (a sum is {_largest_sum()}, expected {_EXPECTED}): "
            "load precision 'fp32'"
        )
