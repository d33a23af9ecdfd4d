"""Models that give hidden states as transformers' do, pooled as the card of all-MiniLM-L6-v2 shows."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch

from ...cell import Order, Tokens, Vectors
from .pooling import padded


class Pooling:
    """Any model with a ``last_hidden_state``; ``libraries``: whose versions to tell."""

    def __init__(self, model: Any, order: Order, *libraries: str) -> None:
        torch.set_num_threads(order.threads)
        self.model, self.libraries, self.pad_id = model, libraries, order.special_ids["pad"]

    def embed(self, sources: Tokens) -> Vectors:
        """One request."""
        ids, mask = map(torch.from_numpy, padded(sources, self.pad_id))
        with torch.inference_mode():
            found = self.model(input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids))
            means = (found.last_hidden_state * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            vectors: Vectors = torch.nn.functional.normalize(means, dim=1).tolist()
        return vectors

    def versions(self) -> dict[str, str]:
        """As everywhere."""
        return {name: version(name) for name in ("torch", "transformers", *self.libraries)}
