"""Portable graphs as one target runs them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from ..errors import ExportError
from ..runtime.bundle import signature as names
from ..runtime.bundle.manifest import Layout
from .passes.blocked_bias import fuse_blocked_bias
from .passes.candidates import choose_candidates
from .passes.centred_norm import centre_norms
from .passes.encoder_attention import fuse_encoder_attention
from .passes.joined_products import join_products
from .passes.many_rows import fuse_many_rows
from .passes.patterns import finish
from .passes.plain_shapes import straighten_shapes
from .passes.shared_cache import OPSET, prefill_graph, step_graph

LAYOUTS: dict[str, Layout] = {"cpu": "shared-buffer", "openvino": "stateful"}


def variant_graphs(portable: Mapping[str, ir.Model], target: str) -> dict[str, ir.Model]:
    """The graphs of ``target`` from the portable ones, which stay as they are.

    ``cpu``: ``encoder``, ``prefill`` and ``step`` in ONNX Runtime's operators. ``openvino``: the portable graphs
    themselves, which its engine makes stateful when it opens them.

    Raises:
        ExportError: no variant is made for this target.
    """
    if target == "openvino":
        return {name: finish(model.clone(), model.graph.opset_imports[""]) for name, model in portable.items()}
    if target != "cpu":
        raise ExportError(f"no variant is made for target {target!r}: choose from {', '.join(LAYOUTS)}")
    graphs = {}
    if names.ENCODER in portable:
        encoder = fuse_many_rows(fuse_encoder_attention(portable[names.ENCODER].clone()))
        graphs[names.ENCODER] = _for_onnxruntime(encoder)
    if names.DECODER in portable:
        decoder = portable[names.DECODER]
        graphs[names.STEP] = choose_candidates(_for_onnxruntime(step_graph(decoder)))
        graphs[names.PREFILL] = choose_candidates(_for_onnxruntime(fuse_many_rows(prefill_graph(decoder))))
    return graphs


def _for_onnxruntime(model: ir.Model) -> ir.Model:
    """What every graph of the ``cpu`` target goes through last."""
    return finish(join_products(fuse_blocked_bias(finish(straighten_shapes(centre_norms(model)), OPSET))), OPSET)
