"""What every configuration checks of itself: fields that are there, of their types, and of sizes that networks have."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..errors import ConfigError

MOST_LAYERS, MOST_HEADS, MOST_WIDTH, MOST_ROWS = 256, 1024, 2**20, 2**24
"""The largest sizes, those of a bundle's manifest: a configuration from outside must not size a network."""


def with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def fields_of(cls: type, data: Any) -> dict[str, Any]:
    """The fields of dataclass ``cls`` in ``data``, with every unknown or missing name in one error."""
    if not isinstance(data, dict):
        raise ConfigError(f"{cls.__name__} must be a JSON object; it is {type(data).__name__}")
    known = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(known))
    missing = sorted(n for n, f in known.items() if n not in data and f.default is dataclasses.MISSING)
    if unknown or missing:
        raise ConfigError(f"{cls.__name__}: unknown fields {unknown}, missing fields {missing}; known: {sorted(known)}")
    return data


def check_types(config: Any) -> None:
    """Refuse a value of another type than declared: JSON from outside carries no types."""
    for name, hint in get_type_hints(type(config)).items():
        value, kinds = getattr(config, name), set(get_args(hint) or (hint,))
        optional = type(None) in kinds
        kind = next(iter(kinds - {type(None)})) if optional else hint
        if value is None and optional:
            continue
        if get_origin(kind) is Literal:
            choices = get_args(kind)
            require(value in choices, f"{name} ({value!r}) must be one of {', '.join(map(repr, choices))}")
        elif kind is int:
            require(isinstance(value, int) and not isinstance(value, bool), f"{name} ({value!r}) must be an integer")
        elif kind is bool:
            require(isinstance(value, bool), f"{name} ({value!r}) must be true or false")
        elif kind is float:
            ok = isinstance(value, float) and 0 < value < math.inf
            require(ok, f"{name} ({value!r}) must be a positive number")
        elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
            require(isinstance(value, kind), f"{name} ({value!r}) must be a {kind.__name__} or None")
        elif float in get_args(kind):
            ok = isinstance(value, tuple) and all(isinstance(v, float) and 0 < v < math.inf for v in value)
            require(ok, f"{name} ({str(value)[:60]}) must be positive numbers")
        elif int in get_args(kind):
            ok = isinstance(value, tuple) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
            require(ok, f"{name} ({value!r}) must be {'layers' if name.endswith('_layers') else 'token ids'}")
        else:
            ok = isinstance(value, tuple) and all(isinstance(v, str) for v in value)
            require(ok, f"{name} ({value!r}) must be strings")


def check_size(config: Any, name: str, most: int) -> None:
    """Refuse a size that is no size, or larger than any network's."""
    value = getattr(config, name)
    require(value > 0, f"{name} ({value}) must be positive")
    require(value <= most, f"{name} ({value}) must be at most {most}")


def require(condition: bool, message: str) -> None:
    """Refuse a configuration with ``message`` where ``condition`` does not hold."""
    if not condition:
        raise ConfigError(message)
