"""Weights of a variant in one file, each stored once however many graphs read it."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir

from ..runtime.bundle.manifest import WEIGHTS_FILE

ALIGNMENT = 64
"""Bytes: a cache line, and what vector loads like."""
SMALLEST = 256
"""Bytes under which a tensor stays in its graph."""


def write_graphs(folder: Path, graphs: Mapping[str, ir.Model]) -> dict[str, Path]:
    """Write every graph as ``folder/{name}.onnx`` and their weights as ``folder/weights.bin``; returns the files.

    Tensors of equal bytes share one place, whatever their shapes: a tied embedding, or a matrix that two graphs read.
    """
    folder.mkdir(parents=True)
    places: dict[bytes, tuple[int, int]] = {}
    with (folder / WEIGHTS_FILE).open("wb") as store:
        for model in graphs.values():
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor is not None and tensor.nbytes >= SMALLEST:
                    value.const_value = _stored(value, tensor.tobytes(), store, places, folder)
    files = {name: folder / f"{name}.onnx" for name in graphs}
    for name, model in graphs.items():
        files[name].write_bytes(ir.serde.serialize_model(model).SerializeToString(deterministic=True))
    return files


def _stored(
    value: ir.Value, data: bytes, store: BinaryIO, places: dict[bytes, tuple[int, int]], folder: Path
) -> ir.ExternalTensor:
    key = sha256(data).digest()
    if key not in places:
        offset = -(-store.tell() // ALIGNMENT) * ALIGNMENT
        store.seek(offset)
        store.write(data)
        places[key] = (offset, len(data))
    offset, length = places[key]
    assert value.const_value is not None and value.name is not None
    return ir.ExternalTensor(
        WEIGHTS_FILE,
        offset,
        length,
        ir.DataType(value.const_value.dtype),
        shape=ir.Shape(value.const_value.shape.numpy()),
        name=value.name,
        base_dir=folder,
    )
