"""The graphs of a target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from edgewise.errors import ExportError
from edgewise.export.variants import LAYOUTS, variant_graphs
from edgewise.runtime.bundle.scan import graph_spec

from .conftest import NETWORKS, Exported

pytestmark = pytest.mark.slow
Get = Callable[[str], Exported]


def _portable(made: Exported) -> dict[str, ir.Model]:
    return {name: ir.load(file) for name, file in made.files.items()}


@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("network", [name for name in NETWORKS if "post" in name])
def test_graphs_that_a_bundle_may_hold(network: str, target: str, exported: Get, tmp_path: Path) -> None:
    portable = _portable(exported(network))
    graphs = variant_graphs(portable, target)
    expected = {
        ("encoder-decoder", "cpu"): {"encoder", "prefill", "step", "ragged", "verify", "alignment"},
        ("encoder-decoder", "openvino"): {"encoder", "decoder", "alignment"},
        ("decoder", "cpu"): {"prefill", "step", "ragged", "verify"},
        ("decoder", "openvino"): {"decoder"},
    }
    assert set(graphs) == expected.get((network.split()[0], target), {"encoder"})
    for name, model in graphs.items():
        ir.save(model, tmp_path / f"{name}.onnx")
        graph_spec(tmp_path / f"{name}.onnx")


def test_the_portable_graphs_stay_as_they_are(exported: Get) -> None:
    portable = _portable(exported("encoder-decoder post relu"))
    before = {name: ir.to_proto(model).SerializeToString(deterministic=True) for name, model in portable.items()}
    for target in LAYOUTS:
        variant_graphs(portable, target)
    after = {name: ir.to_proto(model).SerializeToString(deterministic=True) for name, model in portable.items()}
    assert after == before


def test_no_variant_for_a_target() -> None:
    with pytest.raises(ExportError, match="no variant is made for target 'cuda': choose from cpu, openvino"):
        variant_graphs({}, "cuda")
