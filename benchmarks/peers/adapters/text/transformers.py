"""Hugging Face transformers: PyTorch's eager mode, float32."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from ...cell import Order
from .causal import Generating


def open_model(order: Order) -> Generating:
    """Open a Llama folder."""
    model = AutoModelForCausalLM.from_pretrained(order.model, dtype=torch.float32)
    model.train(False)
    return Generating(model, order)
