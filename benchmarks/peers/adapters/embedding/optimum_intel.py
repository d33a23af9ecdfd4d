"""optimum-intel: OpenVINO's graph as a model of transformers, with OpenVINO's own defaults for latency."""

from __future__ import annotations

from optimum.intel import OVModelForFeatureExtraction

from ...cell import Order
from .hugging_face import Pooling


def open_model(order: Order) -> Pooling:
    """Open a folder of OpenVINO's files. Their arithmetic is OpenVINO's choice: bfloat16 where there is such."""
    properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(order.threads), "NUM_STREAMS": "1"}
    model = OVModelForFeatureExtraction.from_pretrained(order.model, device="CPU", ov_config=properties)
    return Pooling(model, order, "optimum-intel", "openvino")
