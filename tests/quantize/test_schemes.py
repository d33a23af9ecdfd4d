"""The named precisions."""

from __future__ import annotations

import pytest

from edgewise.errors import TargetError
from edgewise.quantize.kernels import KERNELS
from edgewise.quantize.schemes import SCHEMES, scheme_of
from edgewise.runtime.load import PRECISIONS


def test_every_precision_of_the_runtime_and_no_other() -> None:
    assert tuple(SCHEMES) == PRECISIONS
    assert all(name == scheme.name for name, scheme in SCHEMES.items())


def test_every_kernel_exists() -> None:
    used = {kernel for scheme in SCHEMES.values() for kernels in scheme.kernels.values() for kernel in kernels}
    used |= {kernel for scheme in SCHEMES.values() for kernel in scheme.vocabulary}
    assert used == set(KERNELS)


def test_only_what_has_a_scale_per_tensor_depends_on_the_batch() -> None:
    for scheme in SCHEMES.values():
        per_tensor = any("int8-tensor" in kernels for kernels in scheme.kernels.values())
        assert (scheme.padding_bound is None) == per_tensor


def test_a_precision_that_is_unknown() -> None:
    with pytest.raises(TargetError, match="precision 'int3' is unknown: choose one of fp32, int8, int8-fast, int4"):
        scheme_of("int3", "cpu")


def test_a_precision_that_a_target_does_not_have() -> None:
    with pytest.raises(TargetError, match="precision 'int8-fast' is not made for 'openvino', only for cpu"):
        scheme_of("int8-fast", "openvino")
