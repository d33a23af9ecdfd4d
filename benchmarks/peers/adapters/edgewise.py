"""edgewise itself, below the text: the engine and the search of a session."""

from __future__ import annotations

from importlib.metadata import version

from ....runtime.decoding import Request, decode_all
from ....runtime.inputs import Prepared
from ....runtime.load import load
from ....runtime.options import DecodingOptions
from ..cell import Order, Tokens, until_end


class Edgewise:
    """A session, for ``settings["target"]`` at ``settings["precision"]``."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.session = load(order.model, order.settings["target"], order.settings["precision"], order.threads)

    def decode(self, sources: Tokens, beam_size: int, limit: int) -> Tokens:
        """One request."""
        options = DecodingOptions(beam_size=beam_size, length_penalty=self.order.length_penalty, max_new_tokens=limit)
        model, end_id = self.session.manifest.model, self.order.end_id
        limit = min(limit, self.session.manifest.max_context)
        requests = [Request(source=Prepared(ids=tuple(source)), limit=limit) for source in sources]
        found = decode_all(self.session.engine, model, requests, options, len(sources), lambda: None)
        return [until_end(hypotheses[0].tokens, end_id) for hypotheses, _ in found]

    def versions(self) -> dict[str, str]:
        """As everywhere."""
        engine = self.session.engine.describe()
        return {"edgewise": version("edgewise"), engine["engine"]: engine["version"]}


def open_model(order: Order) -> Edgewise:
    """Open the bundle."""
    return Edgewise(order)
