"""Stop strings: where a text ends, and how much of an unfinished one may be shown."""

from __future__ import annotations

from collections.abc import Sequence


def before_stop(text: str, stops: Sequence[str]) -> str:
    """``text`` up to the first of ``stops`` in it; all of it if there is none."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places, default=len(text))]


def certain(text: str, stops: Sequence[str]) -> str:
    """``text`` without an end that may turn out to begin one of ``stops``."""
    starts = {stop[:length] for stop in stops for length in range(1, len(stop))}
    held = max((len(start) for start in starts if text.endswith(start)), default=0)
    return text[: len(text) - held]
