"""edgewise itself, below the text: what ``session.embed`` does with tokens."""

from __future__ import annotations

from importlib.metadata import version

from .....runtime.decoding import encode_all
from .....runtime.inputs import Prepared
from .....runtime.load import load
from ...cell import Order, Tokens, Vectors


class Edgewise:
    """A session, for ``settings["target"]`` at ``settings["precision"]``."""

    def __init__(self, order: Order) -> None:
        self.session = load(order.model, order.settings["target"], order.settings["precision"], order.threads)

    def embed(self, sources: Tokens) -> Vectors:
        """One request."""
        texts = [Prepared(ids=tuple(source)) for source in sources]
        engine, model = self.session.engine, self.session.manifest.model
        found = encode_all(engine, model, texts, None, len(texts), lambda: None)
        return [vector.tolist() for _, vector in found]

    def versions(self) -> dict[str, str]:
        """As everywhere."""
        engine = self.session.engine.describe()
        return {"edgewise": version("edgewise"), engine["engine"]: engine["version"]}


def open_model(order: Order) -> Edgewise:
    """Open the bundle."""
    return Edgewise(order)
