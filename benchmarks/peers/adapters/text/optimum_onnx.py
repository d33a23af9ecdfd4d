"""optimum-onnx: its exported graph under transformers' ``generate``."""

from __future__ import annotations

from pathlib import Path

from onnxruntime import SessionOptions
from optimum.onnxruntime import ORTModelForCausalLM

from ...cell import Order
from .causal import Generating


def open_model(order: Order) -> Generating:
    """Open a folder that holds one graph."""
    options = SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = order.threads, 1
    (file,) = Path(order.model).glob("model*.onnx")
    model = ORTModelForCausalLM.from_pretrained(
        order.model, file_name=file.name, session_options=options, provider="CPUExecutionProvider"
    )
    return Generating(model, order, "optimum-onnx", "onnxruntime")
