"""CTranslate2's ``Encoder``, and the mean in NumPy."""

from __future__ import annotations

import ctranslate2
import numpy as np

from ...cell import Order, Tokens, Vectors
from .pooling import mean_pooled, padded


class CTranslate2:
    """One encoder, one worker of ``order.threads`` threads."""

    def __init__(self, order: Order) -> None:
        self.encoder = ctranslate2.Encoder(order.model, device="cpu", inter_threads=1, intra_threads=order.threads)
        self.pad_id = order.special_ids["pad"]

    def embed(self, sources: Tokens) -> Vectors:
        """One request. It pads by itself."""
        hidden = np.asarray(self.encoder.forward_batch(sources).last_hidden_state)
        return mean_pooled(hidden, padded(sources, self.pad_id)[1])

    def versions(self) -> dict[str, str]:
        """As everywhere."""
        return {"ctranslate2": ctranslate2.__version__}


def open_model(order: Order) -> CTranslate2:
    """Open the folder that CTranslate2's converter wrote."""
    return CTranslate2(order)
