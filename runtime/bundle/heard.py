"""What a reference case hears: features made of a few integers, the same to the bit on every machine.

They are no recording, and sound like nothing; they rise and fall over bands and frames as log-mel features do. Every
number is an integer sum times a power of two, so that no library's sines, random numbers or orders of sums are in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256, shake_128
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from ...errors import BundleFormatError
from .schema import Between, Text

Features = NDArray[np.float32]
"""``(bands, frames)``."""

BANDS_APART = 8
"""Bands between two knots."""
_LEVELS = 12
"""Bits of a knot."""
_LOWEST, _RANGE = -1.0, 2.25
"""Log-mel features of speech lie from about -1 to 1.25."""


@dataclass(frozen=True, kw_only=True)
class HeardSpec:
    """Features of one window: levels at knots, drawn from SHAKE128 of the ``seed``, and straight lines between them.

    A knot is every 8 bands and every 2 to the power of ``apart`` frames. From frame ``sounding`` on there is silence,
    which is the lowest level. ``sha256`` is that of the features as little-endian float32.
    """

    seed: Annotated[int, Between(0, 2**32)]
    apart: Annotated[int, Between(0, 8)]
    sounding: Annotated[int, Between(0, 2**16)]
    sha256: Annotated[str, Text(64, r"[0-9a-f]{64}")]

    @classmethod
    def of(cls, *, seed: int, apart: int, sounding: int, bands: int, frames: int) -> HeardSpec:
        """With the hash of what they make."""
        return cls(
            seed=seed, apart=apart, sounding=sounding, sha256=_digest(_made(seed, apart, sounding, bands, frames))
        )

    def features(self, bands: int, frames: int) -> Features:
        """Features ``(bands, frames)``; an array that others share, and that nobody writes to.

        Raises:
            BundleFormatError: they are not those whose hash this is.
        """
        made = _made(self.seed, self.apart, self.sounding, bands, frames)
        if (found := _digest(made)) != self.sha256:
            raise BundleFormatError(
                f"the features of seed {self.seed} ({bands} bands, {frames} frames) have the SHA-256 {found}, expected "
                f"{self.sha256}: export the bundle again"
            )
        return made


@lru_cache(maxsize=4)
def _made(seed: int, apart: int, sounding: int, bands: int, frames: int) -> Features:
    step = 1 << apart
    knots = (bands // BANDS_APART + 2, frames // step + 2)
    drawn = shake_128(seed.to_bytes(8, "little")).digest(2 * knots[0] * knots[1])
    levels = np.frombuffer(drawn, "<u2").reshape(knots).astype(np.int64) >> (16 - _LEVELS)
    made = _between(_between(levels, BANDS_APART, bands).T, step, frames).T  # sums up to 2 ** (_LEVELS + 3 + apart)
    features = _LOWEST + made * (_RANGE / (1 << (_LEVELS + BANDS_APART.bit_length() - 1 + apart)))
    features[:, sounding:] = _LOWEST
    found = np.ascontiguousarray(features, np.float32)
    found.flags.writeable = False
    return found


def _between(knots: NDArray[np.int64], step: int, length: int) -> NDArray[np.int64]:
    """``length`` rows on the lines between rows that are ``step`` apart, times ``step``."""
    place, part = np.divmod(np.arange(length), step)
    lines: NDArray[np.int64] = knots[place] * (step - part)[:, None] + knots[place + 1] * part[:, None]
    return lines


def _digest(features: Features) -> str:
    return sha256(features.astype("<f4").tobytes()).hexdigest()
