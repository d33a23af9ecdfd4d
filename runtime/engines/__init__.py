"""The engines that run graphs, one module each; a library is imported when its target is asked for."""

from __future__ import annotations

from ...errors import TargetError
from ..bundle import Bundle
from ..bundle.manifest import Variant
from ..bundle.required import check_required
from ..engine import Engine

_TARGETS = ("cpu", "openvino", "openvino:GPU", "openvino:NPU")


def open_engine(bundle: Bundle, variant: Variant, target: str, threads: int) -> Engine:
    """The engine for ``target`` over the graphs of ``variant``, with so many ``threads``.

    Raises:
        TargetError: no engine here runs ``target``, or this machine lacks the device.
        BundleFormatError: a graph is not what its name says.
        MissingExtraError: the target's library is not installed.
        EngineError: the engine cannot open the graphs.
    """
    if target not in _TARGETS:
        raise TargetError(f"no engine here runs target {target!r}, only {', '.join(_TARGETS)}: choose one of these")
    check_required(variant, bundle.manifest.model)
    if variant.cache.layout == "growing":
        from .onnxruntime_growing import open_variant as open_growing

        return open_growing(bundle, variant, threads)
    if target == "cpu":
        from .onnxruntime_cpu import open_variant as open_cpu

        return open_cpu(bundle, variant, threads)
    from .openvino import open_variant as open_openvino

    return open_openvino(bundle, variant, target, threads)
