"""optimum's graph without optimum: ONNX Runtime and NumPy, as one would drive them by hand."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime

from ...cell import Order, Tokens, Vectors
from .pooling import mean_pooled, padded


class ByHand:
    """The one graph of a folder."""

    def __init__(self, order: Order) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = order.threads, 1
        (file,) = Path(order.model).glob("model*.onnx")
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.inputs = {argument.name for argument in self.session.get_inputs()}
        self.pad_id = order.special_ids["pad"]

    def embed(self, sources: Tokens) -> Vectors:
        """One request."""
        ids, mask = padded(sources, self.pad_id)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (hidden,) = self.session.run(["last_hidden_state"], {k: v for k, v in feed.items() if k in self.inputs})
        return mean_pooled(hidden, mask)

    def versions(self) -> dict[str, str]:
        """As everywhere."""
        return {"onnxruntime": onnxruntime.__version__, "numpy": version("numpy")}


def open_model(order: Order) -> ByHand:
    """Open a folder that holds one graph."""
    return ByHand(order)
