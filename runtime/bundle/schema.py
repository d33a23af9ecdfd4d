"""Strict JSON <-> frozen dataclasses: unknown, missing, mistyped and absurd values, all in one error.

A dataclass is its own schema. ``Annotated`` adds bounds: ``Annotated[int, Between(1, 9)]``, ``Annotated[str,
Text(64)]``, ``Annotated[tuple[int, ...], Length(0, 8)]``. Understood are ``int float str bool``, ``Literal``,
``X | None``, ``int | str``, ``tuple[X, ...]``, ``dict[str, X]`` and dataclasses. Every field is required, those with a
default too: what was written is what is read. But a field that is ``LATER`` than the format is left out where it has
its default, so that files which do without it stay what they were. The reader descends as deep as the types do,
however deep the data is.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from ...errors import BundleFormatError

T = TypeVar("T")

MAX_FAULTS = 20  # a message longer than a screen helps nobody
LATER = {"later": True}
"""Metadata of a dataclass field that came after the format's first files: absent, it has its default."""


@dataclass(frozen=True)
class Between:
    """A number from ``low`` to ``high``, both included."""

    low: float
    high: float


@dataclass(frozen=True)
class Text:
    """A string of at most ``longest`` characters, matching ``pattern`` from end to end where there is one."""

    longest: int
    pattern: str | None = None


@dataclass(frozen=True)
class Length:
    """A list or an object of ``least`` to ``most`` members."""

    least: int
    most: int


def load_json(path: Path, max_bytes: int) -> Any:
    """Parse a JSON file of at most ``max_bytes``; repeated keys, NaN and infinities are refused.

    Raises:
        BundleFormatError: the file is missing, too large, or not JSON.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise BundleFormatError(f"{path}: cannot be read ({error.strerror}); export the bundle again") from error
    if len(raw) > max_bytes:
        raise BundleFormatError(f"{path}: more than {max_bytes} bytes, expected at most that; export the bundle again")
    return parse_json(raw, str(path))


def parse_json(raw: bytes, where: str) -> Any:
    """Parse JSON bytes; ``where`` begins the message.

    Raises:
        BundleFormatError: the bytes are not JSON as RFC 8259 has it.
    """
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_not_a_number)
    except RecursionError:
        raise BundleFormatError(f"{where}: nested too deeply; export the bundle again") from None
    except ValueError as error:
        raise BundleFormatError(f"{where}: not valid JSON ({error}); export the bundle again") from error


def dump_json(value: Any, *, compact: bool = False) -> bytes:
    """UTF-8 JSON with a line feed at its end; ``compact`` leaves out every space."""
    layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    return (json.dumps(value, ensure_ascii=False, allow_nan=False, **layout) + "\n").encode("utf-8")


def from_json(cls: type[T], data: Any, where: str) -> T:
    """Build dataclass ``cls`` from parsed JSON; ``where`` (a file name) begins the message.

    Raises:
        BundleFormatError: with every fault found, each with its place, its value and what was expected.
    """
    reader = _Reader([])
    value = reader.read(cls, data, "")
    if reader.faults:
        raise_faults(where, reader.faults)
    return value  # type: ignore[no-any-return]


def to_json(value: Any) -> Any:
    """Plain dictionaries and lists of a dataclass, ready for :func:`dump_json`."""
    if dataclasses.is_dataclass(value):
        written = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if not _left_out(f, value))
        return {name: to_json(item) for name, item in written}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def _left_out(field: dataclasses.Field[Any], value: Any) -> bool:
    return field.metadata == LATER and getattr(value, field.name) == field.default


def raise_faults(where: str, faults: Iterable[str]) -> NoReturn:
    """One :class:`BundleFormatError` for all ``faults``.

    Raises:
        BundleFormatError: always.
    """
    listed = list(faults)
    rest = [f"and {len(listed) - MAX_FAULTS} more"] if len(listed) > MAX_FAULTS else []
    raise BundleFormatError(f"{where}: {'; '.join([*listed[:MAX_FAULTS], *rest])}. Export the bundle again")


def shown(value: Any) -> str:
    """A value as a message may hold it: never longer than a line."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of more than 30 digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Reader:
    """One descent; collects faults as it goes, and gives ``None`` in place of a value it refused."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults

    def fault(self, where: str, data: Any, expected: str) -> None:
        self.faults.append(f"{where or 'the whole'} is {shown(data)}, expected {expected}")

    def read(self, hint: Any, data: Any, where: str) -> Any:
        if dataclasses.is_dataclass(hint):
            return self.dataclass(hint, data, where)
        origin, args = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return self.bounded(args[0], args[1:], data, where)
        if origin is Literal:
            return self.choice(args, data, where)
        if origin in (Union, types.UnionType):
            return self.union(args, data, where)
        if origin is tuple:
            return self.list(args[0], data, where)
        if origin is dict:
            return self.mapping(args[1], data, where)
        return self.scalar(hint, data, where)

    def dataclass(self, cls: Any, data: Any, where: str) -> Any:
        if not isinstance(data, dict):
            return self.fault(where, data, "an object")
        hints = _hints(cls)
        before = len(self.faults)
        place = where or "the whole"
        if unknown := sorted(set(data) - set(hints)):
            self.faults.append(f"{place} has unknown fields {', '.join(map(shown, unknown[:MAX_FAULTS]))}")
        optional = {f.name for f in dataclasses.fields(cls) if f.metadata == LATER}
        if missing := sorted(set(hints) - set(data) - optional):
            self.faults.append(f"{place} lacks fields {', '.join(map(repr, missing))}")
        values = {n: self.read(h, data[n], f"{where}.{n}" if where else n) for n, h in hints.items() if n in data}
        if len(self.faults) > before:
            return None
        try:
            return cls(**values)
        except BundleFormatError as error:  # a contradiction between fields, found by __post_init__
            self.faults.append(f"{place}: {error}")

    def bounded(self, hint: Any, bounds: tuple[Any, ...], data: Any, where: str) -> Any:
        for bound in bounds:  # before the members: a list too long is not worth reading
            countable = isinstance(bound, Length) and isinstance(data, (list, dict))
            if countable and not bound.least <= len(data) <= bound.most:
                return self.fault(where, data, f"{bound.least} to {bound.most} members")
        before = len(self.faults)
        value = self.read(hint, data, where)
        if value is None or len(self.faults) > before:
            return value
        for bound in bounds:
            if isinstance(bound, Between) and not bound.low <= value <= bound.high:
                self.fault(where, data, f"{bound.low} to {bound.high}")
            elif isinstance(bound, Text) and isinstance(value, str):
                self.text(bound, value, where)
        return value

    def text(self, bound: Text, value: str, where: str) -> None:
        if len(value) > bound.longest:
            self.fault(where, value, f"at most {bound.longest} characters, not {len(value)}")
        elif bound.pattern and not re.fullmatch(bound.pattern, value):
            self.fault(where, value, f"text that matches {bound.pattern}")

    def choice(self, choices: tuple[Any, ...], data: Any, where: str) -> Any:
        if isinstance(data, str) and data in choices:
            return data
        return self.fault(where, data, f"one of {', '.join(map(repr, choices))}")

    def union(self, hints: tuple[Any, ...], data: Any, where: str) -> Any:
        if data is None and type(None) in hints:
            return None
        rest = [h for h in hints if h is not type(None)]
        if len(rest) == 1:
            return self.read(rest[0], data, where)
        tries = [_Reader([]) for _ in rest]
        for reader, hint in zip(tries, rest, strict=True):
            value = reader.read(hint, data, where)
            if not reader.faults:
                return value
        others = (reader.faults[0].split("expected ")[-1] for reader in tries[1:])
        self.faults.append(" or ".join([tries[0].faults[0], *others]))
        return None

    def list(self, hint: Any, data: Any, where: str) -> Any:
        if not isinstance(data, list):
            return self.fault(where, data, "a list")
        return tuple(self.read(hint, item, f"{where}[{i}]") for i, item in enumerate(data))

    def mapping(self, hint: Any, data: Any, where: str) -> Any:
        if not isinstance(data, dict):
            return self.fault(where, data, "an object")
        for key in data:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", key):
                self.fault(f"a key of {where}", key, "a short plain name")
        return {key: self.read(hint, item, f"{where}.{key}") for key, item in data.items()}

    def scalar(self, hint: Any, data: Any, where: str) -> Any:
        whole = isinstance(data, int) and not isinstance(data, bool)
        if hint is int and whole:
            return data
        if hint is float and ((isinstance(data, float) and math.isfinite(data)) or (whole and abs(data) < 2**53)):
            return float(data)
        if hint is bool and isinstance(data, bool):
            return data
        if hint is str and isinstance(data, str):
            return data if _encodes(data) else self.fault(where, data, "text without lone surrogates")
        expected = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}[hint]
        return self.fault(where, data, expected)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"field {shown(twice)} is given twice")
    return result


def _not_a_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number of JSON")


def refuse(contradictions: Iterable[str]) -> None:
    """Raise all of them as one :class:`BundleFormatError`, where there are any."""
    if found := list(contradictions):
        raise BundleFormatError("; ".join(found))
