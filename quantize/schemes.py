"""The named precisions, one row each.

``int8`` quantizes every weight matrix per output channel or block, embeddings and output projection included, and the
activations that meet integer products per row. Its promise: at equal padded lengths a row alone and the same row in any
batch agree to the bit; at other padding they stay within ``padding_bound``. ``int8-fast`` has one activation scale per
tensor: a row's numbers depend on its batch mates and on padding, without a bound. Which kernel carries a matrix is
chosen by measurement (:mod:`.choose`) among those of its row here.

``int4`` quantizes weights to 16 levels a block of 32, and their products' activations as ``int8-blocks`` does. The
output projection, and the embedding that it may share, keep 8 bits: of SmolLM2-135M they are a fifth of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import TargetError

Kernel = Literal[
    "float32", "int8-weights", "int8-rows", "int8-scaled-rows", "int8-blocks", "int8-tensor", "int4-blocks"
]


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """A precision: which kernels may carry a matrix, by target.

    ``vocabulary``: which may carry the output projection, where these are others. ``in_order``: not the fastest of them
    is taken, but the first whose blocks a matrix divides into.
    """

    name: str
    kernels: dict[str, tuple[Kernel, ...]]
    vocabulary: tuple[Kernel, ...] = ()
    in_order: bool = False
    padding_bound: float | None
    """Most that a log-probability among a step's ten best moves (nats) when a row is padded to another length; at equal
    length it does not move at all. ``None``: a row depends on its batch mates. Measured on the translator, along
    random tokens: 5e-6 in fp32; in int8 nothing in 98 of 100 steps and up to 6e-2 in the others, where a rounding
    inside a product goes the other way; nothing at all on OpenVINO. The bounds are two and three times that."""


SCHEMES: dict[str, Scheme] = {
    "fp32": Scheme(name="fp32", kernels={"cpu": ("float32",), "openvino": ("float32",)}, padding_bound=1e-5),
    "int8": Scheme(
        name="int8",
        # OpenVINO emulates MatMulInteger, slower than float32 on most shapes tried; from int8 weights it quantizes the
        # activations itself, in groups of 32 of a row.
        kernels={
            "cpu": ("int8-weights", "int8-rows", "int8-scaled-rows", "int8-blocks"),
            "openvino": ("int8-weights",),
        },
        padding_bound=0.2,
    ),
    "int8-fast": Scheme(name="int8-fast", kernels={"cpu": ("int8-weights", "int8-tensor")}, padding_bound=None),
    "int4": Scheme(
        name="int4",
        kernels={"cpu": ("int4-blocks", "int8-weights")},
        vocabulary=("int8-blocks", "int8-weights"),
        in_order=True,
        padding_bound=0.2,
    ),
}


def scheme_of(precision: str, target: str) -> Scheme:
    """The scheme of a precision on a target.

    Raises:
        TargetError: there is no such precision, or the target does not have it.
    """
    if precision not in SCHEMES:
        raise TargetError(f"precision {precision!r} is unknown: choose one of {', '.join(SCHEMES)}")
    scheme = SCHEMES[precision]
    if target not in scheme.kernels:
        raise TargetError(f"precision {precision!r} is not made for {target!r}, only for {', '.join(scheme.kernels)}")
    return scheme
