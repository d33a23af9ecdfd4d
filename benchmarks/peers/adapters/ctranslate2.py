"""CTranslate2's ``Translator``. Its tokens are strings: here the ids, written out."""

from __future__ import annotations

import ctranslate2

from ..cell import Order, Tokens


class CTranslate2:
    """One translator, one worker of ``order.threads`` threads."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.translator = ctranslate2.Translator(
            order.model, device="cpu", inter_threads=1, intra_threads=order.threads
        )

    def decode(self, sources: Tokens, beam_size: int, limit: int) -> Tokens:
        """One request, in one batch. Hypotheses are ranked by ``score / length ** length_penalty``."""
        found = self.translator.translate_batch(
            [[str(token) for token in source] for source in sources],
            beam_size=beam_size,
            length_penalty=self.order.length_penalty,
            max_decoding_length=limit,
            max_batch_size=0,
        )
        return [[int(token) for token in result.hypotheses[0]] for result in found]

    def versions(self) -> dict[str, str]:
        """As everywhere."""
        return {"ctranslate2": ctranslate2.__version__}


def open_model(order: Order) -> CTranslate2:
    """Open the folder that :mod:`edgewise.benchmarks.peers.convert_ctranslate2` wrote."""
    return CTranslate2(order)
