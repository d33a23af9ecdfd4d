"""What was measured of every cell, and the medians and ratios of it. JSON both ways."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from .cell import Answer, Tokens
from .workloads import WORKLOADS


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all systems of one table have in common.

    ``part``: of a workload that generates, ``first``, the prompt until the first new token, or ``later``, all others.
    """

    workload: str
    threads: int
    batch: int
    beam_size: int
    part: Literal["", "first", "later"] = ""

    def __str__(self) -> str:
        return f"{self.workload}/t{self.threads}/b{self.batch}/k{self.beam_size}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One system in one setting. Its name is what patterns are matched with."""

    setting: Setting
    system: str

    def __str__(self) -> str:
        return f"{self.setting}/{self.system}"


@dataclass(kw_only=True)
class Measured:
    """A cell, with an answer a round, outputs left out. ``failure``: why there are no more.

    ``quality``: by the names of the workload's ``quality``, such as ``agree``, the share of the reference's tokens
    before the first difference, mean over the sources.
    """

    cell: Cell
    model_bytes: int
    answers: list[Answer] = field(default_factory=list)
    quality: dict[str, float] = field(default_factory=dict)
    failure: str | None = None

    @property
    def seconds(self) -> float:
        """Median of all timed passes of all rounds."""
        return statistics.median(second for answer in self.answers for second in answer.seconds)

    @property
    def passes(self) -> int:
        """How many passes were timed."""
        return sum(len(answer.seconds) for answer in self.answers)

    @property
    def speed(self) -> float:
        """In the unit of the setting: milliseconds a request, or sentences or tokens a second."""
        if self.cell.setting.part == "later":
            return self.tokens_per_second
        sentences, batch = self.answers[0].sentences, self.cell.setting.batch
        if WORKLOADS[self.cell.setting.workload].unit == "ms":
            return 1e3 * self.seconds * batch / sentences
        return sentences / self.seconds

    @property
    def counts(self) -> bool:
        """Whether it is accurate enough to be compared with; what was not judged is not held against it."""
        workload, found = WORKLOADS[self.cell.setting.workload], self.quality
        enough = all(found.get(name, floor) >= floor for name, floor in workload.floors.items())
        return enough and all(found.get(name, most) <= most for name, most in workload.most.items())

    @property
    def mark(self) -> str:
        """Behind its name: ``*`` where it does not count, ``?`` where it counts without having been judged."""
        if not self.counts:
            return " *"
        workload = WORKLOADS[self.cell.setting.workload]
        return "" if self.quality.keys() >= {*workload.floors, *workload.most} else " ?"

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all rows of a pass together."""
        return self.answers[0].tokens / self.seconds

    @property
    def cores(self) -> float:
        """Processors that were at work on the mean, all timed passes together."""
        return sum(a.cpu_seconds for a in self.answers) / sum(sum(a.seconds) for a in self.answers)

    def cold(self, *parts: str) -> float:
        """Median seconds of ``start``, ``imported``, ``loaded`` and ``first_output``, or their sum."""
        return statistics.median(sum(getattr(a, part) or 0.0 for part in parts) for a in self.answers)

    @property
    def peak_memory_bytes(self) -> float:
        """Median over the rounds; the first round decodes all sources, which may take more."""
        return statistics.median(answer.peak_memory_bytes or 0 for answer in self.answers)

    def ratio(self, ours: Measured) -> float:
        """How many times as long as ``ours`` it takes."""
        return self.seconds / ours.seconds

    def ratios(self, ours: Measured) -> list[float]:
        """The same within each round, where both were measured minutes apart."""
        medians = ([statistics.median(a.seconds) for a in m.answers if a.seconds] for m in (self, ours))
        return [a / b for a, b in zip(*medians, strict=False)]

    def parts(self) -> list[Measured]:
        """What its tables show: itself, or the first token and the later ones."""
        if WORKLOADS[self.cell.setting.workload].kind != "generate":
            return [self]
        return [self._part("first", _first_token), self._part("later", _later_tokens)]

    def _part(self, name: Literal["first", "later"], of: Callable[[Answer], Answer]) -> Measured:
        cell = replace(self.cell, setting=replace(self.cell.setting, part=name))
        return replace(self, cell=cell, answers=[of(answer) for answer in self.answers])

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for ``json.dumps``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measured:
        """What :meth:`to_json` gave."""
        cell = Cell(setting=Setting(**data["cell"]["setting"]), system=data["cell"]["system"])
        answers = [Answer(**answer) for answer in data["answers"]]
        return cls(**{**data, "cell": cell, "answers": answers})


def _first_token(answer: Answer) -> Answer:
    return replace(
        answer,
        seconds=answer.first_token_seconds,
        cpu_seconds=answer.first_token_cpu_seconds,
        tokens=answer.sentences,
    )


def _later_tokens(answer: Answer) -> Answer:
    """A whole request less the first token's, which was timed in turn with it."""
    first = statistics.median(answer.first_token_seconds) if answer.first_token_seconds else 0.0
    return replace(
        answer,
        seconds=[second - first for second in answer.seconds],
        cpu_seconds=answer.cpu_seconds - answer.first_token_cpu_seconds,
        tokens=answer.tokens - answer.sentences,
    )


def agreement(outputs: Tokens, expected: Tokens) -> float:
    """Of the expected tokens and their end, the share before the first that differs, mean over the rows."""
    return statistics.fmean(_agreeing(row, wanted) for row, wanted in zip(outputs, expected, strict=True))


def _agreeing(row: Sequence[int], wanted: Sequence[int]) -> float:
    if list(row) == list(wanted):
        return 1.0
    same = next((i for i, (a, b) in enumerate(zip(row, wanted, strict=False)) if a != b), min(len(row), len(wanted)))
    return same / (len(wanted) + 1)
