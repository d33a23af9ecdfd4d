"""What `edgewise run` and `edgewise chat` read: lines of standard input, with their numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator


def standard_input(prompt: str = "") -> Iterator[tuple[int, str]]:
    """Lines of standard input, numbered from 1; ``prompt`` asks for each of who writes them by hand."""
    by_hand = sys.stdin.isatty()
    if by_hand:
        print(f"edgewise: a line in, a line out; Ctrl-D ends it\n{prompt}", end="", file=sys.stderr, flush=True)
    for number, raw in enumerate(getattr(sys.stdin, "buffer", sys.stdin), start=1):
        text = raw.decode("utf-8", errors="replace") if isinstance(raw, bytes) else raw
        if "\ufffd" in text and isinstance(raw, bytes) and not _is_utf8(raw):
            print(f"edgewise: warning: line {number} is not UTF-8; its bad bytes became U+FFFD", file=sys.stderr)
        yield number, text.removesuffix("\n").removesuffix("\r").removeprefix("\ufeff" if number == 1 else "")
        if by_hand:
            print(prompt, end="", file=sys.stderr, flush=True)


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
