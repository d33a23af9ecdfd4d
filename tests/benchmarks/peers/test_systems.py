"""Who is compared: at its fastest setting, too."""

from __future__ import annotations

import pytest

from edgewise.benchmarks.peers.catalogue import systems_of
from edgewise.benchmarks.peers.run import cells
from edgewise.benchmarks.peers.workloads import WORKLOADS


@pytest.mark.parametrize("workload", WORKLOADS)
def test_ctranslate2_is_measured_at_its_fastest_setting_too(workload: str) -> None:
    measured = {cell.system for cell in cells([f"{workload}/*"])}
    assert {"ctranslate2-int8", "ctranslate2-int8-avx512"} <= measured
    plain, fast = (systems_of(workload)[name] for name in ("ctranslate2-int8", "ctranslate2-int8-avx512"))
    assert (fast.model, fast.adapter, fast.files) == (plain.model, plain.adapter, plain.files)
    assert fast.variables["CT2_FORCE_CPU_ISA"] == "AVX512"
