"""What the command line prints of a result: ``output`` in the text mode, all of it as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runtime.session import Session

Answer = dict[str, Any]


def generation_answer(prompt: str, generation: Any) -> Answer:
    """A result with all that belongs to it; ``prompt`` stands before its texts."""
    hypotheses = generation_hypotheses(generation.hypotheses, prompt)
    best = hypotheses[0]
    return {
        "output": best["text"],
        **{name: best[name] for name in ("score", "normalized_score", "finish_reason", "tokens", "token_log_probs")},
        "hypotheses": hypotheses,
        "source_tokens": generation.source_tokens,
        "truncated": generation.truncated,
        "seconds": {name: value for name, value in vars(generation.timings).items() if name != "speculation"},
        **({"speculation": vars(counts)} if (counts := generation.timings.speculation) else {}),
    }


def generation_hypotheses(found: Sequence[Any], prompt: str = "") -> list[Answer]:
    """Hypotheses; ``prompt`` stands before their texts."""
    return [{**vars(h), "text": prompt + h.text, **_alignment(h)} for h in found]


def document_answer(session: Session, text: str, language: str | None, arguments: dict[str, Any]) -> Answer:
    """A text translated sentence by sentence, with the places of sentences."""
    found = session.translate_document(text, language=language, **arguments)
    sentences = [{"source": s.source, "target": s.target, **generation_answer("", s.result)} for s in found.sentences]
    return {"output": found.text, "truncated": any(s["truncated"] for s in sentences), "sentences": sentences}


def _alignment(hypothesis: Any) -> Answer:
    """Weights as lists, rounded to what a float32 is sure of, and pairs of words; nothing where nobody asked."""
    found = hypothesis.alignment
    if found is None:
        return {"alignment": None}
    weights = [[round(weight, 7) for weight in row] for row in found.weights.tolist()]
    return {"alignment": {"weights": weights, "words": [vars(pair) for pair in found.words]}}


def fills_answer(fills: list[Any]) -> Answer:
    """What may stand in place of a mask, best first."""
    return {"output": fills[0].text, "truncated": False, "fills": [vars(fill) for fill in fills]}


def one_line(text: str) -> str:
    """``text`` with spaces for its line breaks."""
    return " ".join(text.splitlines()) if len(text.splitlines()) > 1 else text
