"""sentence-transformers: PyTorch's eager mode, float32, with the pooling that the model's folder names."""

from __future__ import annotations

from importlib.metadata import version

import torch
from sentence_transformers import SentenceTransformer

from ...cell import Order, Tokens, Vectors
from .pooling import padded


class Transformer:
    """The network and its pooling, below the text."""

    def __init__(self, order: Order) -> None:
        torch.set_num_threads(order.threads)
        self.model = SentenceTransformer(order.model, device="cpu", local_files_only=True)
        self.model.train(False)
        self.pad_id = order.special_ids["pad"]

    def embed(self, sources: Tokens) -> Vectors:
        """One request."""
        ids, mask = map(torch.from_numpy, padded(sources, self.pad_id))
        with torch.inference_mode():
            found = self.model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
            vectors: Vectors = torch.nn.functional.normalize(found, dim=1).tolist()
        return vectors

    def versions(self) -> dict[str, str]:
        """As everywhere."""
        return {name: version(name) for name in ("torch", "transformers", "sentence-transformers")}


def open_model(order: Order) -> Transformer:
    """Open the model's own folder."""
    return Transformer(order)
