"""Before anything is timed: every system that computes in float32 must give the tokens of the reference.

A system may differ only where the reference itself was undecided: where two tokens were within ``NEAR`` of each other
in log-probability, rounding decides. The others, which compute in int8 or bfloat16, are converted from the same files.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import VerificationError
from .cell import Tokens
from .places import Places
from .prepare import REFERENCE, SOURCES
from .processes import run_cell
from .results import Setting
from .systems import SYSTEMS, System
from .workloads import Workload

if TYPE_CHECKING:
    from ...models.transformer import Transformer

NEAR = 1e-3
"""Nats: a hundred times what edgewise's own float32 variants differ from PyTorch by."""
BATCH = 8

Gap = Callable[[list[int]], float]
"""How undecided the reference's greedy search of a source was: the smallest distance of the two best tokens."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How many of ``sources`` gave the reference's tokens, and how many others were near-ties."""

    system: str
    sources: int
    equal: int
    near_ties: int

    def __str__(self) -> str:
        return f"{self.system}: {self.equal} of {self.sources} sources as PyTorch, {self.near_ties} near-ties"


def check(places: Places, workload: Workload, say: Callable[[str], None]) -> list[Agreement]:
    """Ask every exact system; greedy, in batches.

    Raises:
        VerificationError: one of them computes another network.
    """
    from ...models.checkpoint import load_checkpoint

    model = load_checkpoint(places.checkpoint(workload.name)).model
    sources: Tokens = json.loads(places.file(workload.name, SOURCES).read_text())
    expected: Tokens = json.loads(places.file(workload.name, REFERENCE).read_text())["1"]
    found = []
    for system in SYSTEMS.values():
        if system.exact:
            tokens = _decode(places, workload, system, sources)
            found.append(compare(system.name, sources, tokens, expected, lambda source: _gap(model, workload, source)))
            say(f"{workload.name} {found[-1]}")
    return found


def compare(system: str, sources: Tokens, tokens: Tokens, expected: Tokens, gap: Gap) -> Agreement:
    """Count what agrees.

    Raises:
        VerificationError: a source differs where the reference was decided.
    """
    differing = [i for i, (a, b) in enumerate(zip(tokens, expected, strict=True)) if a != b]
    decided = [i for i in differing if gap(sources[i]) > NEAR]
    if decided:
        raise VerificationError(
            f"{system} gave other tokens than PyTorch for sources {decided[:10]}, {len(decided)} of {len(sources)}, "
            f"where no two tokens were within {NEAR} nats: it computes another network; convert it again"
        )
    equal = len(sources) - len(differing)
    return Agreement(system=system, sources=len(sources), equal=equal, near_ties=len(differing))


def _decode(places: Places, workload: Workload, system: System, sources: Tokens) -> Tokens:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / SOURCES
        file.write_text(json.dumps(sources))
        setting = Setting(workload=workload.name, threads=1, batch=BATCH, beam_size=1)
        answer = run_cell(places, system, setting, sources=file, repeats=0, whole=True)
    assert answer.outputs is not None
    return answer.outputs


def _gap(model: Transformer, workload: Workload, source: list[int]) -> float:
    from ...models import decode
    from .workloads import EXTRA_TOKENS

    return decode.greedy(model, source, workload.exact_tokens or len(source) + EXTRA_TOKENS).decision_gap
