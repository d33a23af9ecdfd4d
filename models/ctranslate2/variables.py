"""Variables of a specification, each asked for once: weights as float32, and attributes as Python's numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class Variables:
    """Every fault, and every variable that nobody asked for, is collected for one message."""

    def __init__(self, variables: Mapping[str, Tensor]) -> None:
        self._variables = variables
        self._seen: set[str] = set()
        self.faults: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._variables

    def number(self, name: str, default: float | None = None) -> float:
        """A scalar; without a ``default`` it must be there."""
        self._seen.add(name)
        value = self._variables.get(name)
        if value is None and default is not None:
            return default
        if value is None or value.numel() != 1 or not math.isfinite(float(value)):
            self.faults.append(f"{name} is {'missing' if value is None else 'no single number'}")
            return 0.0
        return float(value)

    def count(self, name: str, default: int | None = None) -> int:
        """A positive whole number; 1 in place of a faulty one."""
        value = self.number(name, default)
        if value >= 1 and value == int(value):
            return int(value)
        self.faults.append(f"{name} is {value:g}, expected a count")
        return 1

    def is_flag(self, name: str) -> bool:
        """Whether a scalar is yes or no, and no quantity; one that is absent is taken for yes."""
        value = self._variables.get(name)
        return value is None or value.dtype == torch.int8

    def only(self, name: str, expected: float) -> None:
        """A scalar that may be absent and has this one value otherwise: another is mathematics not written here."""
        if (value := self.number(name, expected)) != expected:
            self.faults.append(f"{name} is {value:g}, expected {expected:g}")

    def ignore(self, *names: str) -> None:
        """Variables that change nothing of what a network computes."""
        self._seen.update(names)

    def weight(self, name: str) -> Tensor:
        """A tensor in float32; of integers with their scales.

        Int8 has a scale a row, int16 one for all: a weight is the integer divided by it (``quantize_int8`` and
        ``quantize_int16`` in CTranslate2's ``docs/quantization.md``).
        """
        scale_name = f"{name}_scale"
        self._seen |= {name, scale_name}
        value, scale = self._variables.get(name), self._variables.get(scale_name)
        if value is None or value.ndim == 0:
            self.faults.append(f"{name} is {'missing' if value is None else 'a scalar'}")
            return torch.zeros(0)
        integers = value.dtype in (torch.int8, torch.int16)
        if integers != (scale is not None) or value.dtype == torch.int32:
            self.faults.append(f"{name} is {value.dtype}, with{'' if scale is not None else 'out'} a scale")
            return torch.zeros(0)
        if scale is None:
            return value.float()
        rows = scale.float().reshape(-1)
        if rows.numel() not in (1, value.shape[0]) or not bool((rows > 0).all()):
            self.faults.append(f"{scale_name} has shape {tuple(scale.shape)}, expected positive numbers, one a row")
            return torch.zeros(0)
        return value.float() / rows.reshape(-1, *[1] * (value.ndim - 1))

    def optional(self, name: str) -> Tensor | None:
        """A tensor that may be absent."""
        return self.weight(name) if name in self else None

    def unread(self) -> list[str]:
        """Names that nobody asked for; scales without a weight too."""
        return sorted(self._variables.keys() - self._seen)
