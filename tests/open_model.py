"""A network in memory on an engine, without a bundle around it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from edgewise.export.portable import portable_graphs
from edgewise.export.variants import LAYOUTS, variant_graphs
from edgewise.export.weights import write_graphs
from edgewise.models.transformer import Transformer
from edgewise.quantize.graph import VOCABULARY, matrices, quantize_graph
from edgewise.quantize.schemes import Kernel
from edgewise.runtime.bundle.manifest import CacheSpec
from edgewise.runtime.bundle.model_spec import ModelSpec
from edgewise.runtime.engine import Engine
from edgewise.runtime.engines.onnxruntime_cpu import OnnxRuntimeEngine
from edgewise.runtime.engines.openvino import OpenVinoEngine


def write_variant(portable: Mapping[str, ir.Model], target: str, kernel: Kernel, folder: Path) -> dict[str, Path]:
    """Graphs of ``target`` with every matrix in one kernel; graph name -> file."""
    chosen = {name: kernel for g in portable.values() for _, name, _ in matrices(g)}
    chosen[VOCABULARY] = "int8-blocks" if kernel == "int4-blocks" else kernel  # no rows of four bits are looked up
    graphs = {name: quantize_graph(graph, chosen) for name, graph in portable.items()}
    return write_graphs(folder, variant_graphs(graphs, target))


def open_files(model: Transformer, target: str, kernel: Kernel, files: Mapping[str, Path]) -> Engine:
    """An engine of one thread over the graphs of a variant."""
    if target == "openvino":
        return OpenVinoEngine(files, "CPU", "fp32" if kernel == "float32" else "int8", threads=1)
    spec = ModelSpec.from_json(model.config.to_json())
    return OnnxRuntimeEngine(files, CacheSpec.of(spec.decoder, LAYOUTS[target]), spec.vocab_size, threads=1)


def open_model(model: Transformer, target: str, folder: Path, kernel: Kernel = "float32") -> Engine:
    """``model`` on the engine of ``target``; ``folder`` is made."""
    return open_files(model, target, kernel, write_variant(portable_graphs(model), target, kernel, folder))
