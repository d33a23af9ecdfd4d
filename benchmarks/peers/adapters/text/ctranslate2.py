"""CTranslate2's ``Generator``. Its tokens are the strings of the vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import ctranslate2

from ...cell import Order, Tokens, Vectors


class CTranslate2:
    """One generator, one worker of ``order.threads`` threads."""

    def __init__(self, order: Order) -> None:
        self.vocabulary: list[str] = json.loads((Path(order.model) / "vocabulary.json").read_text(encoding="utf-8"))
        self.generator = ctranslate2.Generator(order.model, device="cpu", inter_threads=1, intra_threads=order.threads)

    def decode(self, sources: Tokens, beam_size: int, limit: int) -> Tokens:
        """One request, in one batch."""
        found = self.generator.generate_batch(
            self._strings(sources),
            beam_size=beam_size,
            sampling_topk=1,
            min_length=limit,
            max_length=limit,
            max_batch_size=0,
            include_prompt_in_result=False,
        )
        return [list(result.sequences_ids[0]) for result in found]

    def log_probs(self, texts: Tokens) -> Vectors | None:
        """As it scores texts."""
        return [list(result.log_probs) for result in self.generator.score_batch(self._strings(texts))]

    def _strings(self, rows: Tokens) -> list[list[str]]:
        return [[self.vocabulary[token] for token in row] for row in rows]

    def versions(self) -> dict[str, str]:
        """As everywhere."""
        return {"ctranslate2": ctranslate2.__version__}


def open_model(order: Order) -> CTranslate2:
    """Open the folder that CTranslate2's converter wrote."""
    return CTranslate2(order)
