"""optimum-onnx: its exported graph as a model of transformers."""

from __future__ import annotations

from pathlib import Path

from onnxruntime import SessionOptions
from optimum.onnxruntime import ORTModelForFeatureExtraction

from ...cell import Order
from .hugging_face import Pooling


def open_model(order: Order) -> Pooling:
    """Open a folder that holds one graph."""
    options = SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = order.threads, 1
    (file,) = Path(order.model).glob("model*.onnx")
    model = ORTModelForFeatureExtraction.from_pretrained(
        order.model, file_name=file.name, session_options=options, provider="CPUExecutionProvider"
    )
    return Pooling(model, order, "optimum-onnx", "onnxruntime")
