"""optimum's graph without optimum: OpenVINO's ``Core``, with its own defaults for latency, and NumPy."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino

from ...cell import Order, Tokens, Vectors
from .pooling import mean_pooled, padded


class ByHand:
    """A compiled graph and one request of it. Its arithmetic is OpenVINO's choice: bfloat16 where there is such."""

    def __init__(self, order: Order) -> None:
        properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(order.threads), "NUM_STREAMS": "1"}
        file = Path(order.model) / "openvino_model.xml"
        self.compiled = openvino.Core().compile_model(str(file), "CPU", properties)
        self.request = self.compiled.create_infer_request()
        self.inputs = {name for port in self.compiled.inputs for name in port.names}
        self.pad_id = order.special_ids["pad"]

    def embed(self, sources: Tokens) -> Vectors:
        """One request."""
        ids, mask = padded(sources, self.pad_id)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        feed = {name: value for name, value in feed.items() if name in self.inputs}
        return mean_pooled(self.request.infer(feed, share_inputs=True, share_outputs=True)[0], mask)

    def versions(self) -> dict[str, str]:
        """As everywhere."""
        return {"openvino": version("openvino"), "numpy": version("numpy")}


def open_model(order: Order) -> ByHand:
    """Open a folder of OpenVINO's files."""
    return ByHand(order)
