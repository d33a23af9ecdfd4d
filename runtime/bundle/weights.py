"""Are the weights numbers? One NaN in a matrix makes every logit NaN, and no engine says so when it loads it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from ...errors import BundleIntegrityError
from .scan import ExternalTensor

# Numbers of onnx.TensorProto.DataType whose values may be no numbers.
_FLOATS: dict[int, DTypeLike] = {1: np.float32, 10: np.float16, 11: np.float64}


def check_finite(folder: Path, tensors: Iterable[ExternalTensor], where: str) -> None:
    """Refuse NaN and infinities in the external tensors of a graph.

    Raises:
        BundleIntegrityError: names each tensor and how many of its values are no numbers.
    """
    faults: list[str] = []
    for tensor in tensors:
        dtype = _FLOATS.get(tensor.data_type)
        if dtype is None:
            continue
        count = tensor.length // np.dtype(dtype).itemsize
        values = np.fromfile(folder / tensor.location, dtype=dtype, count=count, offset=tensor.offset)
        if bad := int(np.count_nonzero(~np.isfinite(values))):
            faults.append(f"{tensor.name} has {bad} of {count} values that are NaN or infinite")
    if faults:
        raise BundleIntegrityError(f"{where}: {'; '.join(faults[:20])}, expected numbers. Export the bundle again")
