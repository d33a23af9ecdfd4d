"""What is asked. A workload is sources of token ids, what to make of each, and what to vary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["translate", "generate", "embed"]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """``exact_tokens``: decode exactly so many; ``None``: until the end token, or ``EXTRA_TOKENS`` past the source.

    One timed pass takes ``timed[batch]`` sources, spread evenly over the workload's ``sources``. ``lengths``: tokens of
    a source, by batch, where each batch has sources of its own. ``quality``: what stands beside every speed; a system
    counts as equally accurate from ``floors`` on, and up to ``most``.
    """

    name: str
    kind: Kind
    title: str
    sources: int
    exact_tokens: int | None
    batches: tuple[int, ...]
    beams: tuple[int, ...]
    timed: dict[int, int]
    unit: str
    """What a table says of a pass: ``ms`` a request, or sentences a second, ``s/s``."""
    quality: tuple[str, ...]
    floors: dict[str, float] = field(default_factory=dict)
    most: dict[str, float] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)

    def sources_file(self, batch: int) -> str:
        """The name of the file that holds the sources of a batch size."""
        return f"sources-{batch}.json" if self.lengths else "sources.json"


EXTRA_TOKENS = 50
"""How much longer than its source a translation may be (Vaswani et al. 2017, section 6.1)."""
LENGTH_PENALTY = 1.2
"""The best of 0.6, 0.8, 1.0 and 1.2 on Multi30k's validation text, in edgewise's formula and in CTranslate2's."""
SOURCE_TOKENS = 32
"""Tokens of a source of S1, its end token included."""
PROMPT_TOKENS = 128
"""Tokens of a prompt of S3."""
LARGEST_PERPLEXITY = round(1.06 * 25.494, 2)
"""Of S3: 1.06 times what PyTorch gives in float32."""

S1 = Workload(
    name="s1",
    kind="translate",
    title=f"Marian-base shape, random weights, {SOURCE_TOKENS} source tokens, exactly 64 new ones",
    sources=8,
    exact_tokens=64,
    batches=(1, 8),
    beams=(1, 4),
    timed={1: 1, 8: 8},
    unit="ms",
    quality=("agree",),
)
S2 = Workload(
    name="s2",
    kind="translate",
    title="the shipped translator on Multi30k test_2016_flickr",
    sources=1000,
    exact_tokens=None,
    batches=(1, 32),
    beams=(5,),
    timed={1: 100, 32: 200},  # alone every tenth sentence is timed, every fifth batch of them; all are judged
    unit="s/s",
    quality=("agree", "BLEU"),
)
S3 = Workload(
    name="s3",
    kind="generate",
    title=f"SmolLM2-135M-Instruct, prompts of {PROMPT_TOKENS} tokens, then exactly 128 more after the first",
    sources=4,
    exact_tokens=129,
    batches=(1,),
    beams=(1,),
    timed={1: 1},
    unit="ms",
    quality=("perplexity", "agree"),
    most={"perplexity": LARGEST_PERPLEXITY},
)
S4 = Workload(
    name="s4",
    kind="embed",
    title="all-MiniLM-L6-v2, a vector a text: 16 tokens each alone, 128 tokens each in batches",
    sources=64,
    exact_tokens=None,
    batches=(1, 32),
    beams=(1,),
    timed={1: 64, 32: 32},
    unit="ms",
    quality=("cosine", "Spearman"),
    floors={"cosine": 0.999},
    lengths={1: 16, 32: 128},
)
WORKLOADS = {workload.name: workload for workload in (S1, S2, S3, S4)}
