"""``generate`` of transformers, which its own models and those of optimum share."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch

from ..cell import Order, Tokens, until_end


class Generating:
    """Any model with transformers' ``generate``; ``libraries``: whose versions to tell."""

    def __init__(self, model: Any, order: Order, *libraries: str) -> None:
        torch.set_num_threads(order.threads)
        self.model, self.order, self.libraries = model, order, libraries

    def decode(self, sources: Tokens, beam_size: int, limit: int) -> Tokens:
        """One request. Hypotheses are ranked by ``score / length ** length_penalty``."""
        longest = max(map(len, sources))
        pad, end = self.order.special_ids["pad"], self.order.end_id
        ids = torch.tensor([[*source, *[pad] * (longest - len(source))] for source in sources])
        with torch.inference_mode():
            found = self.model.generate(
                input_ids=ids,
                attention_mask=(ids != pad).long(),
                num_beams=beam_size,
                do_sample=False,
                max_new_tokens=limit,
                **({"length_penalty": self.order.length_penalty} if beam_size > 1 else {}),
            )
        return [until_end(row[1:], end) for row in found.tolist()]

    def versions(self) -> dict[str, str]:
        """As everywhere."""
        return {name: version(name) for name in ("torch", "transformers", *self.libraries)}
