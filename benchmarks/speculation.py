"""What reading several tokens at once saves: ``python -m edgewise.benchmarks.speculation BUNDLE FILE``.

Every line of the file is a prompt or a source, decoded greedily with and without ``speculate``, in turns. Results are
the same by construction, and compared all the same.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import EdgewiseError, EngineError, InputError
from ..runtime.load import load
from ..runtime.session import Session


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """One text: its tokens, passes that made them, and medians of seconds."""

    text: str
    tokens: int
    passes: int
    plain: float
    ahead: float


def compare(session: Session, text: str, tokens: int, limit: int, repeats: int) -> Ahead:
    """Decode ``text`` both ways, ``repeats`` times and once before; at most ``limit`` new tokens.

    Raises:
        EngineError: the results differ.
    """
    decode: Any = session.translate if session.manifest.task == "translate" else session.generate
    seconds: dict[int | None, list[float]] = {None: [], tokens: []}
    found: dict[int | None, Any] = {}
    for _ in range(repeats + 1):
        for speculate, times in seconds.items():
            begin = time.perf_counter()
            found[speculate] = decode(text, beam_size=1, max_new_tokens=limit, speculate=speculate)
            times.append(time.perf_counter() - begin)
    if found[None].hypotheses != found[tokens].hypotheses:
        raise EngineError(f"with speculate={tokens} another result was found: report it, with the bundle and the text")
    passes = found[tokens].timings.speculation.passes
    plain, ahead = (median(times[1:]) for times in seconds.values())
    return Ahead(text=text, tokens=len(found[None].tokens), passes=passes, plain=plain, ahead=ahead)


def table(found: Sequence[Ahead]) -> Iterator[str]:
    """Markdown."""
    yield "| text | tokens | passes | ms without | ms with | ratio |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for one in found:
        line = " ".join(one.text.split())
        shown = line if len(line) < 40 else f"{line[:37]}..."
        yield (
            f"| {shown} | {one.tokens} | {one.passes} | {one.plain * 1e3:.0f} | {one.ahead * 1e3:.0f} | "
            f"{one.plain / one.ahead:.2f} |"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m edgewise.benchmarks.speculation", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("file", type=Path, help="a text a line; \\n in it is a line break")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--speculate", type=int, default=7)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5)
    told = parser.parse_args(argv)
    try:
        texts = [line.replace("\\n", "\n") for line in _lines(told.file) if line.strip()]
        with load(told.bundle, "cpu", told.precision, threads=1) as session:
            found = [compare(session, text, told.speculate, told.max_new_tokens, told.repeats) for text in texts]
    except EdgewiseError as error:
        print(f"speculation: error: {error}", file=sys.stderr)
        return 1
    print("\n".join(table(found)))
    return 0


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}): name a file of UTF-8 text") from error


if __name__ == "__main__":
    sys.exit(main())
