"""``generate`` of transformers, which its own models and those of optimum share."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch

from ...cell import Order, Tokens, Vectors
from .log_softmax import next_log_probs


class Generating:
    """Any causal model with transformers' ``generate``; ``libraries``: whose versions to tell."""

    def __init__(self, model: Any, order: Order, *libraries: str) -> None:
        torch.set_num_threads(order.threads)
        self.model, self.libraries, self.order = model, libraries, order

    def decode(self, sources: Tokens, beam_size: int, limit: int) -> Tokens:
        """One request of equally long prompts."""
        ids = torch.tensor(sources)
        with torch.inference_mode():
            found = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                num_beams=beam_size,
                do_sample=False,
                min_new_tokens=limit,
                max_new_tokens=limit,
                pad_token_id=self.order.end_id,
            )
        rows: Tokens = found[:, ids.shape[1] :].tolist()
        return rows

    def log_probs(self, texts: Tokens) -> Vectors | None:
        """A pass a text."""
        found = []
        for text in texts:
            ids = torch.tensor([text])
            with torch.inference_mode():
                logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            found.append(next_log_probs(logits[0].float().numpy(), text))
        return found

    def versions(self) -> dict[str, str]:
        """As everywhere."""
        return {name: version(name) for name in ("torch", "transformers", *self.libraries)}
