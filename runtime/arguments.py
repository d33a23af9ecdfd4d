"""Arguments of a session's methods, refused before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .options import is_count


def listed(texts: str | list[str] | tuple[str, ...]) -> list[str]:
    """One text as a list of one.

    Raises:
        InputError: no text and no list of texts.
    """
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, list | tuple):
        raise InputError(f"texts is {type(texts).__name__}, expected a string or a list of strings")
    return list(texts)


def one_by_one(texts: Iterable[str], prefix: str | Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every text with the one prefix of all, read as it is asked for.

    Raises:
        InputError: one text, nothing to iterate over, or more prefixes than one.
    """
    if not _iterable(texts) or isinstance(texts, str) or not isinstance(prefix, str):
        raise InputError(
            "an iterator takes an iterable of texts, and one prefix for all of them; these are "
            f"{type(texts).__name__} and {type(prefix).__name__}"
        )
    return ((text, prefix) for text in texts)


def each(prefix: str | Sequence[str], texts: int) -> list[str]:
    """A prefix for every text.

    Raises:
        InputError: not one for all, and not as many as texts.
    """
    if isinstance(prefix, str):
        return [prefix] * texts
    if not isinstance(prefix, list | tuple) or len(prefix) != texts:
        raise InputError(f"prefix ({prefix!r}) must be a string, or a list of one for each of {texts} texts")
    return list(prefix)


def check_prefix_bias(bias: float | None, prefix: object) -> None:
    """Refuse a bias towards nothing.

    Raises:
        InputError: there is no prefix.
    """
    if bias is not None and not (any(prefix) if isinstance(prefix, list | tuple) else prefix):
        raise InputError(f"prefix_bias ({bias}) needs a prefix: pass one, or leave it out")


def count(value: int, name: str = "batch_size") -> int:
    """``value``, which has to be a count.

    Raises:
        InputError: it is none.
    """
    if not is_count(value):
        raise InputError(f"{name} ({value!r}) must be an integer of at least 1")
    return value


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How several texts go through: see :class:`~edgewise.runtime.session.DecodingArguments`.

    Raises:
        InputError: a value is not of its type, or out of its range.
    """

    batch_size: int
    max_batch_tokens: int | None
    progress: Callable[[int, int], None] | None
    continuous: bool = False

    @classmethod
    def of(cls, arguments: Mapping[str, Any], batch_size: int) -> Batching:
        """Those among the ``arguments`` of a method; ``batch_size`` where they say none."""
        return cls(
            batch_size=arguments.get("batch_size", batch_size),
            max_batch_tokens=arguments.get("max_batch_tokens"),
            progress=arguments.get("progress"),
            continuous=arguments.get("continuous", False),
        )

    def progress_after(self, texts: int) -> Callable[[int, int], None] | None:
        """``progress`` for texts that come after others, which it counts as well."""
        progress = self.progress
        if progress is None:
            return None
        return lambda done, of: progress(texts + done, texts + of)

    def __post_init__(self) -> None:
        count(self.batch_size)
        if not isinstance(self.continuous, bool):
            raise InputError(f"continuous ({self.continuous!r}) must be True or False")
        if self.max_batch_tokens is not None:
            count(self.max_batch_tokens, "max_batch_tokens")
        if self.progress is not None and not callable(self.progress):
            raise InputError(f"progress ({self.progress!r}) must be a function of (done, texts), or None")


def check_names(method: str, arguments: Mapping[str, Any], known: frozenset[str]) -> None:
    """Refuse arguments that ``method`` does not have, which it would otherwise ignore.

    Raises:
        InputError: there are some.
    """
    if unknown := sorted(set(arguments) - known):
        raise InputError(f"{method} takes no {', '.join(unknown)}, it takes {', '.join(sorted(known))}: leave it out")


def _iterable(value: object) -> bool:
    return isinstance(value, Iterable)
