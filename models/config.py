"""What a network is: frozen configurations, JSON both ways, contradictions refused."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from ..errors import ConfigError

NormPlace = Literal["post", "pre"]
Activation = Literal["relu", "gelu"]
Head = Literal["vocabulary", "classes"]
Architecture = Literal["encoder", "decoder", "encoder-decoder"]


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """One stack of layers, the encoder's or the decoder's (Vaswani et al. 2017, section 3.1).

    ``head_dim`` is not a field: in the paper's network it is ``d_model / n_heads`` (section 3.2.2).
    """

    n_layers: int
    d_model: int
    n_heads: int
    d_ff: int
    norm_place: NormPlace = "post"
    activation: Activation = "relu"
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("n_layers", "d_model", "n_heads", "d_ff"):
            _require(getattr(self, name) > 0, f"{name} ({getattr(self, name)}) must be positive")
        _require(
            self.d_model % self.n_heads == 0,
            f"d_model ({self.d_model}) must be a multiple of n_heads ({self.n_heads})",
        )
        _require(self.d_model % 2 == 0, f"d_model ({self.d_model}) must be even: positions pair a sine and a cosine")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole network. Which stacks exist is its architecture.

    ``start_id`` begins every decoded sequence, ``end_id`` ends it; ``mask_id`` is the token an encoder with a
    vocabulary head predicts words for. ``class_names`` belongs to the ``classes`` head and to no other.
    """

    vocab_size: int
    max_positions: int
    pad_id: int
    start_id: int
    end_id: int
    encoder: StackConfig | None = None
    decoder: StackConfig | None = None
    head: Head = "vocabulary"
    mask_id: int | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_types(self)
        _require(
            self.encoder is not None or self.decoder is not None,
            "a model needs an encoder, a decoder, or both; this one has neither",
        )
        if self.encoder and self.decoder:
            _require(
                self.encoder.d_model == self.decoder.d_model,
                f"encoder d_model ({self.encoder.d_model}) must equal decoder d_model ({self.decoder.d_model})",
            )
        _require(self.max_positions > 0, f"max_positions ({self.max_positions}) must be positive")
        for name in ("pad_id", "start_id", "end_id", "mask_id"):
            value = getattr(self, name)
            _require(
                value is None or 0 <= value < self.vocab_size,
                f"{name} ({value}) must be a token id below vocab_size ({self.vocab_size})",
            )
        self._check_head()

    def _check_head(self) -> None:
        if self.head == "classes":
            _require(self.decoder is None, "a 'classes' head needs an encoder-only model; this one has a decoder")
            _require(
                len(self.class_names) >= 2,
                f"a 'classes' head needs at least 2 class_names; there are {len(self.class_names)}",
            )
        else:
            _require(not self.class_names, f"class_names {self.class_names} belong to the 'classes' head only")

    @property
    def architecture(self) -> Architecture:
        """Which of the three shapes of the family this is."""
        if self.encoder and self.decoder:
            return "encoder-decoder"
        return "encoder" if self.encoder else "decoder"

    @property
    def d_model(self) -> int:
        """Width shared by the embedding and every stack."""
        stack = self.encoder or self.decoder
        assert stack is not None  # __post_init__ refused the contrary
        return stack.d_model

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists, ready for ``json.dump``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> ModelConfig:
        """Read what :meth:`to_json` wrote; unknown, missing or mistyped fields raise :class:`ConfigError`."""
        fields = dict(_fields_of(cls, data))
        for name in ("encoder", "decoder"):
            if fields.get(name) is not None:
                fields[name] = StackConfig(**_fields_of(StackConfig, fields[name]))
        if isinstance(fields.get("class_names"), list):
            fields["class_names"] = tuple(fields["class_names"])
        return cls(**fields)


def _fields_of(cls: type, data: Any) -> dict[str, Any]:
    """The fields of dataclass ``cls`` in ``data``, with every unknown or missing name in one error."""
    if not isinstance(data, dict):
        raise ConfigError(f"{cls.__name__} must be a JSON object; it is {type(data).__name__}")
    known = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(known))
    missing = sorted(n for n, f in known.items() if n not in data and f.default is dataclasses.MISSING)
    if unknown or missing:
        raise ConfigError(f"{cls.__name__}: unknown fields {unknown}, missing fields {missing}; known: {sorted(known)}")
    return data


def _check_types(config: StackConfig | ModelConfig) -> None:
    """Refuse a value of another type than declared: JSON from outside carries no types."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        choices = get_args(hint)
        if hint in (NormPlace, Activation, Head):
            _require(value in choices, f"{name} ({value!r}) must be one of {', '.join(map(repr, choices))}")
        elif hint is int or hint == int | None:
            ok = (isinstance(value, int) and not isinstance(value, bool)) or (value is None and hint is not int)
            _require(ok, f"{name} ({value!r}) must be an integer")
        elif hint is float:
            ok = isinstance(value, float) and 0 < value < math.inf
            _require(ok, f"{name} ({value!r}) must be a positive number")
        elif hint == StackConfig | None:
            ok = value is None or isinstance(value, StackConfig)
            _require(ok, f"{name} ({value!r}) must be a StackConfig or None")
        elif name == "class_names":
            ok = isinstance(value, tuple) and all(isinstance(v, str) for v in value)
            _require(ok, f"class_names ({value!r}) must be strings")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
