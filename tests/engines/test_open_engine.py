"""Which engine a target opens."""

from __future__ import annotations

from typing import Any

import pytest

from edgewise.errors import TargetError
from edgewise.runtime.engines import open_engine


@pytest.mark.parametrize("target", ["cuda", "qnn", "tpu"])
def test_a_target_without_engine(target: str) -> None:
    nothing: Any = None
    with pytest.raises(TargetError, match=f"no engine here runs target '{target}', only cpu, openvino, openvino:GPU"):
        open_engine(nothing, nothing, target, 1)
