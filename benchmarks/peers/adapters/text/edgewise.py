"""edgewise itself, below the text: the engine and the greedy search of a session."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from .....runtime.decoding import capacity
from .....runtime.load import load
from .....runtime.search import candidates_needed, finish, search
from ...cell import Order, Tokens, Vectors
from .log_softmax import next_log_probs

NO_TOKEN = -1
"""No token ends the search."""


class Edgewise:
    """A session, for ``settings["target"]`` at ``settings["precision"]``."""

    def __init__(self, order: Order) -> None:
        self.session = load(order.model, order.settings["target"], order.settings["precision"], order.threads)

    def decode(self, sources: Tokens, beam_size: int, limit: int) -> Tokens:
        """One request of equally long prompts."""
        prompts = np.array(sources, dtype=np.int64)
        positions = capacity(prompts.shape[1], limit)
        run = self.session.engine.start(None, len(prompts), beam_size, positions, candidates_needed(beam_size))
        limits = [limit] * len(prompts)
        found = finish(search(run, prompts, limits, NO_TOKEN, beam_size=beam_size, length_penalty=1.0))
        return [list(hypotheses[0].tokens) for hypotheses in found]

    def log_probs(self, texts: Tokens) -> Vectors | None:
        """A pass a text."""
        found = []
        for text in texts:
            ids = np.array([text], dtype=np.int64)
            logits = self.session.engine.decoder_logits(None, ids, np.ones(ids.shape, dtype=bool))
            found.append(next_log_probs(logits[0], text))
        return found

    def versions(self) -> dict[str, str]:
        """As everywhere."""
        engine = self.session.engine.describe()
        return {"edgewise": version("edgewise"), engine["engine"]: engine["version"]}


def open_model(order: Order) -> Edgewise:
    """Open the bundle."""
    return Edgewise(order)
