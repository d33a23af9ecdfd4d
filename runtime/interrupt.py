"""Ending a request before its time: by somebody else, or by the clock. What there is by then is the result."""

from __future__ import annotations

import threading
from time import monotonic

from ..errors import InputError
from .results import FinishReason


class Cancellation:
    """Ends the requests that were given it, from any thread, before their next step.

    Their results say ``cancelled`` where they are not complete. It stays cancelled: a new request needs a new one.
    ``parent``: another that ends them as well, and is not touched by this one.
    """

    def __init__(self, parent: Cancellation | None = None) -> None:
        self._event, self._parent = threading.Event(), parent

    def cancel(self) -> None:
        """End the requests. Twice is once."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called, here or on the parent."""
        return self._event.is_set() or (self._parent is not None and self._parent.cancelled)


class Watch:
    """Says whether a request should end now. ``deadline``: seconds from the making of this.

    Raises:
        InputError: ``cancellation`` is none.
    """

    def __init__(self, cancellation: Cancellation | None = None, deadline: float | None = None) -> None:
        if not _may_cancel(cancellation):
            raise InputError(f"cancellation ({cancellation!r}) must be an edgewise.Cancellation, or None")
        self._cancellation = cancellation
        self._until = None if deadline is None else monotonic() + deadline

    def reason(self) -> FinishReason | None:
        """Why to end now, if at all."""
        if self._cancellation is not None and self._cancellation.cancelled:
            return "cancelled"
        if self._until is not None and monotonic() >= self._until:
            return "deadline"
        return None


def _may_cancel(value: object) -> bool:
    return value is None or isinstance(value, Cancellation)
