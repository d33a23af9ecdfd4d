"""What libraries written in Rust throw: errors, and panics, which pass every ``except Exception``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..errors import EdgewiseError

_T = TypeVar("_T")


def guarded(action: Callable[[], _T], typed: Callable[[BaseException], EdgewiseError]) -> _T:
    """Run ``action``; whatever the library throws becomes the error that ``typed`` makes of it.

    Interrupts and exits stay what they are.
    """
    try:
        return action()
    except Exception as error:
        raise typed(error) from error
    except BaseException as error:
        # A Rust panic derives from BaseException, and its class cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise typed(error) from None
