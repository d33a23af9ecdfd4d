"""Where the time of a request of edgewise goes: by kind of operator, as ONNX Runtime's own profile has it.

``python -m edgewise.benchmarks.peers profile CELLS`` starts a process a cell, which runs this file. Profiling costs
time itself, mostly where operators are small: the shares say where to look, they are no timings.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .cell import Order, Request, Tokens, asking, cut

REQUESTS = 5
"""Of the first size; engines prepare in the first, which is counted with the others."""


@dataclass(frozen=True, kw_only=True)
class Operators:
    """All operators of one kind together: how often they ran, and for how many seconds."""

    kind: str
    calls: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Of ``requests`` requests that took ``seconds``; what no operator accounts for is spent outside."""

    requests: int
    seconds: float
    operators: list[Operators]

    @property
    def outside(self) -> float:
        """Seconds in Python and in the engine around its operators; threads of an operator count once."""
        return self.seconds - sum(one.seconds for one in self.operators)

    def table(self, title: str) -> str:
        """The kinds that took longest first."""
        lines = [title, f"{'':36}{'calls':>10}{'ms':>10}{'share':>8}, a request each"]
        rows = [(one.kind, f"{one.calls / self.requests:.0f}", one.seconds) for one in self.operators]
        for name, calls, seconds in [*rows, ("outside of operators", "", self.outside)]:
            share = seconds / self.seconds
            lines.append(f"{name:36}{calls:>10}{1e3 * seconds / self.requests:>10.3f}{share:>8.1%}")
        return "\n".join(lines)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Profile:
        """What ``dataclasses.asdict`` gave."""
        return cls(**{**data, "operators": [Operators(**one) for one in data["operators"]]})


def operators_of(events: Iterable[dict[str, Any]]) -> list[Operators]:
    """The kinds of operators in ONNX Runtime's events, those that took longest first."""
    calls: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            kind = event["args"]["op_name"]
            calls[kind] += 1
            seconds[kind] += event["dur"] / 1e6  # microseconds
    found = [Operators(kind=kind, calls=calls[kind], seconds=seconds[kind]) for kind in calls]
    return sorted(found, key=lambda one: -one.seconds)


def profile(order: Order) -> Profile:
    """Open the system with every session profiled, and put the first request ``REQUESTS`` times."""
    with tempfile.TemporaryDirectory() as folder:
        sessions = _profile_sessions(Path(folder))
        system = importlib.import_module(f".adapters.{order.adapter}", __package__).open_model(order)
        seconds = _put(asking(system, order), cut(json.loads(Path(order.sources).read_text()), order)[0])
        files = [Path(session.end_profiling()) for session in sessions]
        events = [event for file in files for event in json.loads(file.read_text())]
    return Profile(requests=REQUESTS, seconds=seconds, operators=operators_of(events))


def _put(ask: Any, request: Request) -> float:
    begin = time.perf_counter()
    for _ in range(REQUESTS):
        rows: Tokens = ask(request)
        assert rows
    return time.perf_counter() - begin


def _profile_sessions(folder: Path) -> list[Any]:
    """Let every session that is opened from now on write a profile into ``folder``. Returns the list they come into."""
    import onnxruntime

    opened: list[Any] = []
    plain = onnxruntime.InferenceSession

    def open_profiled(path: str, options: Any = None, **more: Any) -> Any:
        if options is None:  # a probe of the processor, no graph of the network
            return plain(path, **more)
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / f"graph-{len(opened)}")
        opened.append(plain(path, options, **more))
        return opened[-1]

    onnxruntime.InferenceSession = open_profiled
    return opened


def main(argv: Sequence[str]) -> None:
    """Do what the order says, and write the profile where its answer belongs."""
    order = Order(**json.loads(argv[0]))
    Path(order.answer).write_text(json.dumps(asdict(profile(order))))


if __name__ == "__main__":
    main(sys.argv[1:])
