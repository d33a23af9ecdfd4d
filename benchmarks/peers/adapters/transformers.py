"""Hugging Face transformers: PyTorch's eager mode, float32."""

from __future__ import annotations

import torch
from transformers import MarianMTModel

from ..cell import Order
from .generate import Generating


def open_model(order: Order) -> Generating:
    """Open a Marian folder."""
    model = MarianMTModel.from_pretrained(order.model, dtype=torch.float32)
    model.train(False)
    return Generating(model, order)
