"""What reference cases hear: the same numbers everywhere, and a hash that says so."""

from __future__ import annotations

import dataclasses
import hashlib
import struct

import numpy as np
import pytest

from edgewise.errors import BundleFormatError
from edgewise.runtime.bundle.heard import HeardSpec


def naive(seed: int, apart: int, sounding: int, bands: int, frames: int) -> list[list[float]]:
    """Number by number, in Python's own integers."""
    step = 2**apart
    width = frames // step + 2
    drawn = hashlib.shake_128(seed.to_bytes(8, "little")).digest(2 * (bands // 8 + 2) * width)

    def level(i: int, j: int) -> int:
        (value,) = struct.unpack_from("<H", drawn, 2 * (i * width + j))
        return int(value) // 16

    def value(band: int, frame: int) -> float:
        if frame >= sounding:
            return -1.0
        i, y, j, x = band // 8, band % 8, frame // step, frame % step
        one, other = (level(i, k) * (8 - y) + level(i + 1, k) * y for k in (j, j + 1))
        return -1 + (one * (step - x) + other * x) * 2.25 / (2**12 * 8 * step)

    return [[value(band, frame) for frame in range(frames)] for band in range(bands)]


@pytest.mark.parametrize(("seed", "apart", "sounding"), [(0, 4, 37), (3, 0, 60), (2**32, 8, 60), (7, 2, 0)])
def test_features_are_those_of_the_formula(seed: int, apart: int, sounding: int) -> None:
    expected = np.array(naive(seed, apart, sounding, 12, 60), np.float32)
    made = HeardSpec.of(seed=seed, apart=apart, sounding=sounding, bands=12, frames=60)
    np.testing.assert_array_equal(made.features(12, 60), expected, strict=True)
    assert made.sha256 == hashlib.sha256(struct.pack("<720f", *expected.ravel())).hexdigest()
    assert -1 <= expected.min() <= expected.max() <= 1.25


def test_other_features_than_those_recorded_are_refused() -> None:
    made = HeardSpec.of(seed=1, apart=3, sounding=40, bands=8, frames=60)
    with pytest.raises(BundleFormatError, match=r"features of seed 1 \(16 bands, 60 frames\) have the SHA-256 .* exp"):
        made.features(16, 60)
    with pytest.raises(BundleFormatError, match=f"expected {'0' * 64}: export the bundle again"):
        dataclasses.replace(made, sha256="0" * 64).features(8, 60)
