"""optimum-intel: OpenVINO's graphs under transformers' ``generate``, with OpenVINO's own defaults for latency."""

from __future__ import annotations

from optimum.intel import OVModelForSeq2SeqLM

from ..cell import Order
from .generate import Generating


def open_model(order: Order) -> Generating:
    """Open a folder of graphs. Their arithmetic is OpenVINO's choice: bfloat16 where the processor has it."""
    properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(order.threads), "NUM_STREAMS": "1"}
    model = OVModelForSeq2SeqLM.from_pretrained(order.model, device="CPU", ov_config=properties)
    return Generating(model, order, "optimum-intel", "openvino")
