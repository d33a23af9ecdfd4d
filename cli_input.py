"""What `edgewise run` reads: lines of standard input, with their numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator


def standard_input() -> Iterator[tuple[int, str]]:
    """Lines of standard input, numbered from 1."""
    if sys.stdin.isatty():
        print("edgewise: a line in, a line out; Ctrl-D ends it", file=sys.stderr)
    for number, raw in enumerate(getattr(sys.stdin, "buffer", sys.stdin), start=1):
        text = raw.decode("utf-8", errors="replace") if isinstance(raw, bytes) else raw
        if "\ufffd" in text and isinstance(raw, bytes) and not _is_utf8(raw):
            print(f"edgewise: warning: line {number} is not UTF-8; its bad bytes became U+FFFD", file=sys.stderr)
        yield number, text.removesuffix("\n").removesuffix("\r").removeprefix("\ufeff" if number == 1 else "")


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def chunks(lines: Iterable[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    """``lines`` in lists of ``size``, the last of what is left."""
    chunk: list[tuple[int, str]] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
