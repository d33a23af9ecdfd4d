"""The numbers of a GGUF file: its value types and its tensor types.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, section "File Structure".
"""

from __future__ import annotations

from typing import NamedTuple

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

# Value types of the metadata. The scalars by their NumPy dtype, always little-endian.
BOOL, STRING, ARRAY = 7, 8, 9
SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}


class TensorType(NamedTuple):
    """How a tensor is stored: ``block_bytes`` bytes for every ``block_size`` values of a row."""

    name: str
    block_size: int
    block_bytes: int


TENSOR_TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 2 + 16),
    3: TensorType("Q4_1", 32, 2 + 2 + 16),
    6: TensorType("Q5_0", 32, 2 + 4 + 16),
    7: TensorType("Q5_1", 32, 2 + 2 + 4 + 16),
    8: TensorType("Q8_0", 32, 2 + 32),
    10: TensorType("Q2_K", 256, 16 + 64 + 2 + 2),
    11: TensorType("Q3_K", 256, 32 + 64 + 12 + 2),
    12: TensorType("Q4_K", 256, 2 + 2 + 12 + 128),
    13: TensorType("Q5_K", 256, 2 + 2 + 12 + 32 + 128),
    14: TensorType("Q6_K", 256, 128 + 64 + 16 + 2),
    15: TensorType("Q8_K", 256, 4 + 256 + 32),
    30: TensorType("BF16", 1, 2),
}
"""The types that :mod:`.dequantize` understands, by their number in ``enum ggml_type``."""
