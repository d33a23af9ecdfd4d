"""How far long work of the command line is."""

from __future__ import annotations

import sys
import time
from typing import Any


class Progress:
    """Long work on standard error: a tqdm bar on a terminal that has tqdm, else a line every few seconds."""

    seconds_between = 5.0

    def __init__(self, label: str) -> None:
        self.label = label
        self._last = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int, what: str = "") -> None:
        """So many of so many are done; ``what`` comes next."""
        if sys.stderr.isatty() and self._advanced_bar(done, total, what):
            return
        now = time.monotonic()
        if now - self._last >= self.seconds_between:
            self._last = now
            print(f"edgewise: {self.label}: {done} of {total} {what}".rstrip(), file=sys.stderr)

    def _advanced_bar(self, done: int, total: int, what: str) -> bool:
        if self._bar is None:
            try:
                from tqdm import tqdm
            except ImportError:
                return False
            self._bar = tqdm(total=total, desc=self.label, leave=False, file=sys.stderr)
        self._bar.total = total
        self._bar.set_postfix_str(what, refresh=False)
        self._bar.update(done - self._bar.n)
        return True
