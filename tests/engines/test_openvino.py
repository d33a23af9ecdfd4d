"""What is OpenVINO's own: pinned precision, devices, the library. What all engines share: ``test_contract.py``."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from edgewise.errors import EngineError, MissingExtraError, TargetError
from edgewise.export.portable import export_portable
from edgewise.runtime.engines.openvino import OpenVinoEngine

from ..tiny import tiny_model

pytestmark = pytest.mark.slow


def _open(files: dict[str, Path], device: str = "CPU") -> OpenVinoEngine:
    return OpenVinoEngine(files, device, "fp32", threads=1)


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> OpenVinoEngine:
    return _open(export_portable(tiny_model(3), tmp_path_factory.mktemp("translator")))


@pytest.mark.parametrize("device", ["GPU", "NPU"])
def test_a_device_that_is_absent(
    device: str,
) -> None:
    import openvino

    if any(name.startswith(device) for name in openvino.Core().available_devices):
        pytest.skip(f"this machine has a {device}")
    with pytest.raises(TargetError, match=f"finds no {device} on this machine, only CPU: choose one of these"):
        _open({}, device)


def test_openvino_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "openvino":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgewise\[openvino\]'"):
        _open({})


def test_a_graph_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "encoder.onnx"
    file.write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=r"could not compile encoder\.onnx for CPU"):
        _open({"encoder": file})


def test_precision_is_pinned(translator: OpenVinoEngine) -> None:
    for pool in (translator._encoder, translator._decoder):
        assert pool is not None
        compiled = pool._compiled
        assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
        assert compiled.get_property("KV_CACHE_PRECISION").to_string() == "f32"
        assert int(compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")) == 0
        assert int(compiled.get_property("INFERENCE_NUM_THREADS")) == 1


def test_only_int8_variants_quantize_activations(tmp_path: Path) -> None:
    files = export_portable(tiny_model(8, "encoder"), tmp_path)
    engine = OpenVinoEngine(files, "CPU", "int8", 1)
    assert engine._encoder is not None
    assert int(engine._encoder._compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")) == 32
    assert engine.describe()["arithmetic"] == "f32, int8 products"


def test_describe(translator: OpenVinoEngine) -> None:
    import openvino

    said = translator.describe()
    assert said["version"] == openvino.get_version()
    assert {k: said[k] for k in ("engine", "device", "threads")} == {
        "engine": "openvino",
        "device": "CPU",
        "threads": 1,
    }
