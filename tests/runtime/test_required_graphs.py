"""Bundles whose graphs go by the name of another: refused when opened, by what the graph lacks or has too much."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.errors import BundleFormatError, EngineError
from edgewise.runtime.engines.onnxruntime_cpu import _Call
from edgewise.runtime.load import load

from ..bundles import Damaged, tiny_bundle


@pytest.fixture
def damaged(tmp_path: Path) -> Damaged:
    return Damaged(tiny_bundle("translate"), tmp_path / "bundle")


def _put(damaged: Damaged, variant: str, graph: str, other: str) -> None:
    """``other`` under the name ``graph``, the manifest made to say what it takes and gives."""
    shutil.copy(damaged.path / variant / f"{other}.onnx", damaged.path / variant / f"{graph}.onnx")
    damaged.fit()


@pytest.mark.parametrize(
    ("variant", "graph", "other", "fault"),
    [
        ("cpu-fp32", "verify", "step", "has no input ids (T, 1) of a fixed number of tokens"),
        ("cpu-fp32", "verify", "encoder", "has no input ids (T, 1) of a fixed number of tokens"),
        ("cpu-fp32", "ragged", "encoder", "lacks inputs row_lengths, key_cache_0"),
        ("cpu-fp32", "ragged", "step", "lacks inputs row_lengths"),
        ("cpu-int8", "step", "encoder", "lacks outputs logits, top_log_probs, top_ids"),
        ("cpu-int8", "step", "prefill", "has inputs logit_index, which nothing feeds"),
        ("cpu-int8", "prefill", "ragged", "has inputs longest, row_lengths, which nothing feeds"),
        ("cpu-int8", "encoder", "alignment", "lacks inputs mask"),
        ("cpu-int8", "alignment", "prefill", "lacks outputs cross_attention"),
        ("openvino-fp32", "decoder", "encoder", "lacks inputs past_key_0, past_value_0"),
        ("openvino-fp32", "alignment", "encoder", "has inputs mask, which nothing feeds"),
    ],
)
def test_a_graph_by_the_name_of_another(damaged: Damaged, variant: str, graph: str, other: str, fault: str) -> None:
    _put(damaged, variant, graph, other)
    expected = rf"{variant}/{graph}\.onnx as the graph '{graph}' {re.escape(fault)}"
    with pytest.raises(BundleFormatError, match=expected):
        load(damaged.path, *variant.split("-"), threads=1)


@pytest.mark.parametrize("graph", ["step", "ragged"])
def test_sizes_that_the_engine_does_not_bind(damaged: Damaged, graph: str) -> None:
    import onnx

    file = damaged.path / "cpu-fp32" / f"{graph}.onnx"
    model = onnx.load(file, load_external_data=False)
    named: dict[str, Any] = {value.name: value.type.tensor_type.shape for value in model.graph.input}
    named["key_cache_1"].dim[3].dim_value = 5
    named["ids"].dim[1].dim_value = 2
    file.write_bytes(model.SerializeToString())
    damaged.fit()
    with pytest.raises(BundleFormatError, match=r"input key_cache_1 float32 .* 5\), expected \(rows, .*expected ids"):
        load(damaged.path, "cpu", "fp32", threads=1)


def test_what_is_exported_is_opened() -> None:
    for task in ("translate", "generate", "fill_mask", "classify"):
        bundle = tiny_bundle(task)
        for variant in json.loads((bundle / "manifest.json").read_bytes())["variants"]:
            load(bundle, variant["target"], variant["precision"], threads=1).close()


def test_a_tensor_that_cannot_be_bound() -> None:
    with load(tiny_bundle("translate"), "cpu", "fp32", threads=1) as session:
        call = _Call(session.engine.session("step"))  # type: ignore[attr-defined]
        with pytest.raises(EngineError, match="could not bind cache nothing"):
            call.share("nothing", np.zeros((1, 1), np.float32))
        with pytest.raises(EngineError, match="could not bind input ids"):
            call.read("ids", np.zeros((1, 1), np.float32))
