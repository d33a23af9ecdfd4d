"""Hyper-parameters of a GGUF file: keys under the name of its architecture, and the table of tensors they speak of."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .metadata import lookup, refuse
from .reader import GgufFile


def architecture_of(file: GgufFile) -> str:
    """The network's kind, as llama.cpp calls it."""
    return lookup(file, "general.architecture", str)


def key_of(file: GgufFile, key: str) -> str:
    """A key under the architecture's name."""
    return f"{architecture_of(file)}.{key}"


def size(file: GgufFile, key: str, default: int = 0) -> int:
    """A size: present, or ``default`` where that is positive.

    Raises:
        CheckpointError: missing, of another type, or none.
    """
    key = key_of(file, key)
    value = lookup(file, key, int, default) if default else lookup(file, key, int)
    if not 0 < value < 1 << 31:
        refuse(file, f"metadata {key!r} is {value}, expected a size from 1 to {(1 << 31) - 1}")
    return value


def positive(file: GgufFile, key: str, default: float = 0.0) -> float:
    """A positive number: present, or ``default`` where that is one.

    Raises:
        CheckpointError: missing, of another type, or none.
    """
    key = key_of(file, key)
    value = lookup(file, key, float, default) if default else lookup(file, key, float)
    if not 0 < value < float("inf"):
        refuse(file, f"metadata {key!r} is {value}, expected a positive number")
    return value


def vocab_size(file: GgufFile) -> int:
    """As many tokens as the embedding has rows; a number beside it must say the same.

    Raises:
        CheckpointError: it does not.
    """
    rows = file.info("token_embd.weight").shape[0]
    if size(file, "vocab_size", rows) != rows:
        key = key_of(file, "vocab_size")
        refuse(file, f"metadata {key!r} is {file.metadata[key]}, the embedding has {rows}")
    return rows


def known_keys_only(file: GgufFile, read: Collection[str], without_effect: Collection[str]) -> None:
    """Refuse what is under the architecture's name beside what is ``read`` and what changes nothing.

    Raises:
        CheckpointError: there is more.
    """
    prefix = key_of(file, "")
    own = {key.removeprefix(prefix) for key in file.metadata if key.startswith(prefix)}
    if unknown := sorted(own - {*read} - {*without_effect}):
        refuse(file, f"has {prefix[:-1]} keys {unknown}, which may change the mathematics; known: {sorted(read)}")


def check_layers(file: GgufFile, n_layers: int) -> None:
    """Before a table of all layers is made: a count from outside may be a billion.

    Raises:
        CheckpointError: there are more layers than tensors.
    """
    if n_layers > len(file.tensors):
        refuse(file, f"has {n_layers} layers in {len(file.tensors)} tensors, expected several tensors each")


def compare_tensors(file: GgufFile, expected: Mapping[str, tuple[int, ...]]) -> None:
    """The table of tensors with their ``expected`` shapes.

    Raises:
        CheckpointError: every fault in one message.
    """
    faults = [f"missing {name}" for name in expected.keys() - file.tensors.keys()]
    faults += [f"unexpected {name}" for name in file.tensors.keys() - expected.keys()]
    for name in expected.keys() & file.tensors.keys():
        if file.tensors[name].shape != expected[name]:
            faults.append(f"{name} has shape {file.tensors[name].shape}, expected {expected[name]}")
    if faults:
        refuse(file, "its tensors do not fit its metadata: " + "; ".join(sorted(faults)))
