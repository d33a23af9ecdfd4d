"""What Marian writes about a model into its file: flat YAML, of which only scalars and lists of them are read.

Source: what ``EncoderDecoder`` in ``src/models/encoder_decoder.cpp`` of marian-dev saves, by all versions, and what
``src/common/config_parser.cpp`` says of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ...errors import CheckpointError, ConfigError

NAME = "special:model.yml"
_MAX_BYTES = 1 << 20
_FIELD = re.compile(r"([A-Za-z0-9_-]+):(?:\s+(.*))?")
_ITEM = re.compile(r"\s*-\s+(.*)")
_NOTHING: tuple[object, ...] = ("", "~", "[]", [])
"""How YAML writes that a setting has no value."""
_ONLY = {
    "transformer-decoder-autoreg": "self-attention",
    "transformer-attention-mask": "default",
    "transformer-no-projection": "false",
    "transformer-no-bias": "false",
    "transformer-no-affine": "false",
    "transformer-pool": "false",
    "transformer-train-positions": "false",
    "transformer-train-position-embeddings": "false",
    "transformer-disable-position-embeddings": "false",
    "transformer-ffn-depth": "2",
    "transformer-decoder-ffn-depth": "0",
    "transformer-tied-layers": "",
    "right-left": "false",
    "skip": "false",
    "layer-normalization": "false",
    "special-vocab": "",
    "ulr": "false",
    "lemma-dim-emb": "0",
    "lemma-dependency": "",
    "output-omit-bias": "false",
    "factors-combine": "sum",
    "factors-dim-emb": "0",
}
"""The value that a setting may have, which is what Marian does without it; empty: none."""
_READ = {
    *("type", "dim-emb", "dim-vocabs", "enc-depth", "dec-depth", "input-types"),
    *("tied-embeddings", "tied-embeddings-src", "tied-embeddings-all"),
    *("transformer-heads", "transformer-ffn-activation", "transformer-preprocess", "transformer-postprocess"),
    *("transformer-postprocess-emb", "transformer-postprocess-top"),
}
_WITHOUT_EFFECT = {
    *("version", "separator-symbol", "transformer-dim-ffn", "transformer-decoder-dim-ffn"),  # sizes are the matrices'
    *("transformer-dropout", "transformer-dropout-attention", "transformer-dropout-ffn", "transformer-depth-scaling"),
    "transformer-guided-alignment-layer",
    # Of other networks: RNNs, average attention, ALiBi, BERT, universal representations.
    *("dim-rnn", "enc-type", "enc-cell", "enc-cell-depth", "dec-cell", "dec-cell-base-depth", "dec-cell-high-depth"),
    *("transformer-rnn-projection", "transformer-dim-aan", "transformer-aan-depth", "transformer-aan-activation"),
    *("transformer-aan-nogate", "transformer-alibi-shift", "transformer-alibi-trainable"),
    *("bert-train-type-embeddings", "bert-type-vocab-size", "ulr-dim-emb", "ulr-trainable-transformation"),
}


def read_settings(values: NDArray[Any] | None, where: str) -> dict[str, str | list[str]]:
    """The settings in the array ``special:model.yml``.

    Raises:
        CheckpointError: there is none, or it is no flat YAML, or says something twice.
    """
    if values is None or values.dtype.itemsize != 1 or values.size > _MAX_BYTES:
        raise CheckpointError(f"{where} has no {NAME} of bytes: it was not written by Marian")
    text = values.tobytes().rstrip(b"\0").decode("utf-8", errors="replace")
    found: dict[str, str | list[str]] = {}
    name = ""
    for line in text.splitlines():
        item, field = _ITEM.fullmatch(line), _FIELD.fullmatch(line)
        if field and field[1] not in found:
            name = field[1]
            found[name] = _plain(field[2] or "")
        elif name and item:
            listed = found[name]
            found[name] = [*(listed if isinstance(listed, list) else []), _plain(item[1])]
        elif name and line.strip() in ("", "[]"):
            continue
        else:
            raise CheckpointError(f"{where}: {NAME}: {line[:80]!r} is no flat YAML")
    return found


def _plain(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


class Settings:
    """Settings read once: every fault goes into one message."""

    def __init__(self, data: Mapping[str, str | list[str]], where: str) -> None:
        self.data, self.where = data, where
        self.faults: list[str] = []
        kind = data.get("type")
        if kind != "transformer":
            self.faults.append(f"type is {kind!r}, expected 'transformer'")
        for name, value in _ONLY.items():
            if data.get(name, value) not in (value, *_NOTHING):
                self.faults.append(f"{name} is {data[name]!r}, expected {repr(value) if value else 'none'}")
        for name in sorted(data.keys() - _ONLY.keys() - _READ - _WITHOUT_EFFECT):
            self.faults.append(f"{name} ({data[name]!r}) is not understood")
        types = data.get("input-types", "")
        if types not in _NOTHING and not (isinstance(types, list) and set(types) == {"sequence"}):
            self.faults.append(f"input-types are {types!r}, expected sequences")

    def agrees(self, name: str, size: int, *more: int) -> None:
        """A number, or every one of a list, that an array has as its size; with ``more``, each its own."""
        found = self.data.get(name)
        listed = found if isinstance(found, list) else [found]
        expected = [str(s) for s in (size, *more)] if more else [str(size)] * len(listed)
        if listed != expected:
            sizes = f"{size}, the size of the embedding" if not more else f"{expected}, the sizes of the embeddings"
            self.faults.append(f"{name} is {found!r}, expected {sizes}")

    def number(self, name: str) -> int:
        """A positive whole number."""
        text = self.data.get(name)
        if isinstance(text, str) and re.fullmatch(r"[1-9]\d{0,5}", text):
            return int(text)
        self.faults.append(f"{name} is {text!r}, expected a number")
        return 1

    def flag(self, name: str) -> bool:
        """Yes or no; no, where it is absent."""
        text = self.data.get(name, "false")
        if text not in ("true", "false"):
            self.faults.append(f"{name} is {text!r}, expected true or false")
        return text == "true"

    def choice(self, name: str, default: str, choices: Mapping[str, Any]) -> Any:
        """What ``choices`` make of a value."""
        text = self.data.get(name, default)
        if not isinstance(text, str) or text not in choices:
            self.faults.append(f"{name} is {text!r}, expected one of {', '.join(map(repr, choices))}")
            return next(iter(choices.values()))
        return choices[text]

    def operations(self, name: str) -> str:
        """Letters of what is done before or after a layer, less dropout."""
        text = self.data.get(name, "")
        return text.replace("d", "") if isinstance(text, str) else "?"

    def check(self) -> None:
        """Raise what was found.

        Raises:
            ConfigError: all faults.
        """
        if self.faults:
            raise ConfigError(f"{self.where}: {NAME}: {'; '.join(self.faults)}: another network than is read here")
