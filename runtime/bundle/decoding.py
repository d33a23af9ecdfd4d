"""How a bundle's results are decoded where nobody says otherwise: what its checkpoint recommends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from .schema import LATER, Between, Length

_Token = Annotated[int, Between(0, 2**24)]
_Count = Annotated[int, Between(1, 2**24)]
_Share = Annotated[float, Between(1e-6, 1.0)]


@dataclass(frozen=True, kw_only=True)
class SamplingSpec:
    """How a checkpoint recommends to draw tokens, as :class:`~edgewise.runtime.options.Sampling` has it."""

    temperature: Annotated[float, Between(1e-3, 100.0)]
    top_k: _Count | None
    top_p: _Share | None
    min_p: _Share | None
    typical_p: _Share | None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Decoding defaults, as :class:`~edgewise.runtime.options.DecodingOptions` has them.

    ``max_new_tokens`` of ``None``: source tokens + 50, within the context. ``end_ids``: tokens after which a result
    ends, as it does after the ``end_id`` of the model. ``suppress``: sequences of tokens that never come. ``sampling``
    is a recommendation, and no default.
    """

    beam_size: Annotated[int, Between(1, 64)]
    length_penalty: Annotated[float, Between(0.0, 10.0)]
    max_new_tokens: _Count | None
    end_ids: Annotated[tuple[_Token, ...], Length(0, 64)] = field(default=(), metadata=LATER)
    length_norm: Literal["wu", "power"] = field(default="wu", metadata=LATER)
    early_stopping: bool | Literal["never"] = field(default=False, metadata=LATER)
    min_new_tokens: Annotated[int, Between(0, 2**24)] = field(default=0, metadata=LATER)
    repetition_penalty: Annotated[float, Between(0.01, 100.0)] = field(default=1.0, metadata=LATER)
    no_repeat_ngram: _Count | None = field(default=None, metadata=LATER)
    suppress: Annotated[tuple[Annotated[tuple[_Token, ...], Length(1, 64)], ...], Length(0, 10_000)] = field(
        default=(), metadata=LATER
    )
    sampling: SamplingSpec | None = field(default=None, metadata=LATER)

    def contradictions(self, vocab_size: int, max_context: int) -> list[str]:
        """What does not fit a model and its context."""
        found = []
        if self.beam_size > vocab_size // 2:
            found.append(f"beam_size ({self.beam_size}) must be at most {vocab_size // 2}, half of the vocabulary")
        if (self.max_new_tokens or 0) > max_context:
            found.append(f"max_new_tokens ({self.max_new_tokens}) must be at most max_context ({max_context})")
        if self.min_new_tokens > (self.max_new_tokens or max_context):
            most = self.max_new_tokens or max_context
            found.append(f"min_new_tokens ({self.min_new_tokens}) must be at most {most}, the most of a result")
        ids = {"end_ids": self.end_ids, "suppress": sum(self.suppress, ())}
        for name, tokens in ids.items():
            if wrong := [token for token in tokens if token >= vocab_size]:
                found.append(f"{name} ({wrong[0]}) must be below vocab_size ({vocab_size})")
        return found
