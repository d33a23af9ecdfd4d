"""What a network is: frozen configurations, JSON both ways, contradictions refused."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..errors import ConfigError

NormPlace = Literal["post", "pre"]
Norm = Literal["layer", "rms"]
Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]
Positions = Literal["sinusoidal", "sinusoidal_halves", "learned", "rotary", "relative"]
RopeScaling = Literal["none", "linear", "llama3"]
Head = Literal["vocabulary", "classes", "embedding", "tags", "span"]
Pooling = Literal["mean", "first"]
Pooler = Literal["tanh", "relu"]
ClassScores = Literal["softmax", "sigmoid", "identity"]
Architecture = Literal["encoder", "decoder", "encoder-decoder"]

MOST_LAYERS, MOST_HEADS, MOST_WIDTH, MOST_ROWS = 256, 1024, 2**20, 2**24
"""The largest sizes, those of a bundle's manifest: a configuration from outside must not size a network."""


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """One stack of layers, the encoder's or the decoder's; the defaults are Vaswani et al. 2017, section 3.1.

    ==================== ============================================================================================
    ``norm``             ``layer``: Ba et al. 2016; ``rms``: Zhang and Sennrich 2019, equation 4, no mean and no shift
    ``activation``       ``gelu``: Hendrycks and Gimpel 2016, by the error function; ``gelu_tanh``: its approximation
                         there; ``silu``: ``x * sigmoid(x)``, also there
    ``gated``            ``outer(activation(gate x) * inner x)`` for ``outer(activation(inner x))``: Shazeer 2020,
                         equation 6
    ``n_kv_heads``       heads of keys and values, each read by ``n_heads / n_kv_heads`` query heads: Ainslie et al.
                         2023, section 2.2; ``None``: as many as ``n_heads``
    ``head_dim``         width of one head; ``None``: ``d_model / n_heads`` (section 3.2.2)
    ``attention_scale``  what products of queries and keys are multiplied by; ``None``: ``1 / sqrt(head_dim)`` (section
                         3.2.1)
    ``attention_bias``   biases in the four matrices of an attention
    ``feed_forward_bias`` biases in those of the feed-forward network
    ``final_norm``       one more normalization after the last layer; ``None``: with ``norm_place`` ``pre`` there is one
    ==================== ============================================================================================
    """

    n_layers: int
    d_model: int
    n_heads: int
    d_ff: int
    norm_place: NormPlace = "post"
    activation: Activation = "relu"
    norm_epsilon: float = 1e-5
    norm: Norm = "layer"
    gated: bool = False
    n_kv_heads: int | None = None
    head_dim: int | None = None
    attention_scale: float | None = None
    attention_bias: bool = True
    feed_forward_bias: bool = True
    final_norm: bool | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        for name, most in (("n_layers", MOST_LAYERS), ("d_model", MOST_WIDTH), ("n_heads", MOST_HEADS)):
            _check_size(self, name, most)
        _check_size(self, "d_ff", MOST_WIDTH)
        if self.head_dim is None:
            _require(
                self.d_model % self.n_heads == 0,
                f"d_model ({self.d_model}) must be a multiple of n_heads ({self.n_heads})",
            )
        else:
            _check_size(self, "head_dim", MOST_WIDTH)
        _require(self.d_model % 2 == 0, f"d_model ({self.d_model}) must be even: positions pair a sine and a cosine")
        _require(self.kv_heads > 0, f"n_kv_heads ({self.n_kv_heads}) must be positive")
        _require(
            self.n_heads % self.kv_heads == 0,
            f"n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.n_kv_heads})",
        )

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads if self.head_dim is None else self.head_dim

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def ends_in_norm(self) -> bool:
        """Whether a normalization follows the last layer."""
        return self.norm_place == "pre" if self.final_norm is None else self.final_norm


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary positions (Su et al. 2021, equation 34): frequency ``i`` of a head is ``theta ** (-2 i / head_dim)``.

    ``scaling`` changes the frequencies for contexts longer than trained on. ``linear`` divides all of them by
    ``factor`` (Chen et al. 2023, equation 4). ``llama3`` divides those whose wave is longer than ``original_positions /
    low_freq_factor``, leaves those shorter than ``original_positions / high_freq_factor``, and goes smoothly from one
    to the other between (Grattafiori et al. 2024; reference: ``apply_scaling`` in ``models/llama3/model.py`` of
    github.com/meta-llama/llama-models).
    """

    theta: float = 10000.0
    scaling: RopeScaling = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        _require(self.scaling != "none" or self.factor == 1.0, f"factor ({self.factor}) belongs to a scaling")
        if self.scaling == "llama3":
            original = self.original_positions
            _require(
                original is not None and original > 0, f"llama3 scaling needs original_positions; it is {original}"
            )
            _check_size(self, "original_positions", MOST_ROWS)
            _require(
                self.low_freq_factor < self.high_freq_factor,
                f"low_freq_factor ({self.low_freq_factor}) must be below high_freq_factor ({self.high_freq_factor})",
            )
        else:
            _require(self.original_positions is None, "original_positions belong to llama3 scaling only")


@dataclass(frozen=True, kw_only=True)
class RelativeConfig:
    """Relative positions (Raffel et al. 2020, section 2.1): every head adds a number of its own to the score of a key.

    Which one depends on how far the key is from the query: the distances are divided among ``buckets``, which grow with
    the distance; keys ``max_distance`` and more away share the last. The layers of a stack share the numbers.
    """

    buckets: int = 32
    max_distance: int = 128

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("buckets", "max_distance"):
            _check_size(self, name, MOST_ROWS)
        _require(self.buckets >= 4, f"buckets ({self.buckets}) must be at least 4: two on each side of a query")
        _require(
            self.max_distance > self.buckets // 2,
            f"max_distance ({self.max_distance}) must be above half of the buckets ({self.buckets}): each of these "
            "holds one distance",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole network; the defaults are those of the paper. Which stacks exist is its architecture.

    ``start_id`` begins every decoded sequence, ``end_id`` ends it; ``mask_id`` is the token an encoder with a
    vocabulary head predicts words for. ``class_names`` belongs to the ``classes`` and ``tags`` heads and to no other.

    ===================== ===========================================================================================
    ``head``              ``vocabulary``; ``classes`` of a text; ``tags``: a class for every token; ``span``: for every
                          token a score for being the first of an answer, and one for being its last (Devlin et al.
                          2019, section 4.2); ``embedding``: one vector a text
    ===================== ===========================================================================================

    ===================== ===========================================================================================
    ``positions``         ``sinusoidal``: section 3.5 of the paper; ``sinusoidal_halves``: the same numbers, all sines
                          before all cosines (Junczys-Dowmunt et al. 2018, Marian); ``learned``: a table of parameters
                          (Devlin et al. 2019, section 3); ``rotary``: in every attention, with the frequencies of
                          ``rope``; ``relative``: in every self-attention, as ``relative`` says
    ``scale_embeddings``  token embeddings times ``sqrt(d_model)`` (section 3.4)
    ``token_types``       rows of a segment embedding (Devlin et al. 2019, section 3); a text is segment 0, so row 0 is
                          added to every token; 0: no such embedding
    ``embedding_norm``    a LayerNorm on the embeddings, with the encoder's epsilon
    ``decoder_embeddings`` the decoder has learned positions and an embedding norm of its own (Lewis et al. 2020, BART)
    ``source_start_id``   stands before the text that an encoder beside a decoder reads
    ``forced_id``         what a decoder beside an encoder reads after ``start_id``, before the first token of a result
    ``tied``              the output projection is the embedding's matrix (section 3.4)
    ``scale_outputs``     what the output projection reads is multiplied by ``1 / sqrt(d_model)`` (T5, where ``tied``)
    ``output_bias``       a bias for every token of the vocabulary
    ``pooling``           heads ``embedding`` and ``classes``: ``mean`` of the states or the ``first`` one (Reimers and
                          Gurevych 2019, section 3); ``None`` with classes: ``mean``
    ``pooler``            head ``classes``: a linear layer and this activation between the pooled state and the classes
    ``class_scores``      head ``classes``: what makes scores of logits. ``softmax``: one class is right; ``sigmoid``:
                          each may be; ``identity``: they are values, not probabilities
    ``head_transform``    head ``vocabulary`` of an encoder: a linear layer, this activation and a LayerNorm before the
                          output projection (``BertPredictionHeadTransform``)
    ``mask_splits_text``  what stands before ``mask_id`` and what stands behind it become tokens by themselves
    ``pair_between``      tokens between the two texts of a pair; none: no pairs are read
    ``second_segment``    the segment of a pair's second text
    ``normalize``         head ``embedding``: to length 1
    ``adds_start``        of a model with one stack, whether ``start_id`` stands before a text; ``None``: in a decoder
                          it does, before an encoder's text it does not
    ===================== ===========================================================================================
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
    positions: Positions = "sinusoidal"
    rope: RopeConfig | None = None
    relative: RelativeConfig | None = None
    scale_embeddings: bool = True
    token_types: int = 0
    embedding_norm: bool = False
    decoder_embeddings: bool = False
    source_start_id: int | None = None
    forced_id: int | None = None
    tied: bool = True
    scale_outputs: bool = False
    output_bias: bool = True
    pooling: Pooling | None = None
    normalize: bool = False
    adds_start: bool | None = None
    pooler: Pooler | None = None
    class_scores: ClassScores = "softmax"
    head_transform: Activation | None = None
    mask_splits_text: bool = False
    pair_between: tuple[int, ...] = ()
    second_segment: int = 0

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
        _check_size(self, "max_positions", MOST_ROWS)
        for name in ("pad_id", "start_id", "end_id", "mask_id", "source_start_id", "forced_id"):
            value = getattr(self, name)
            _require(
                value is None or 0 <= value < self.vocab_size,
                f"{name} ({value}) must be a token id below vocab_size ({self.vocab_size})",
            )
        _check_size(self, "vocab_size", MOST_ROWS)
        self._check_positions()
        self._check_head()
        self._check_pairs()

    def _check_positions(self) -> None:
        rotary = self.positions == "rotary"
        _require((self.rope is not None) == rotary, f"rope ({self.rope}) belongs to rotary positions, and they to it")
        relative = self.positions == "relative"
        _require(
            (self.relative is not None) == relative,
            f"relative ({self.relative}) belongs to relative positions, and they to it",
        )
        if rotary:
            _require(
                self.architecture == "decoder", f"rotary positions are for a decoder alone, not {self.architecture}"
            )
            assert self.decoder is not None
            _require(
                self.decoder.head_width % 2 == 0,
                f"head_dim ({self.decoder.head_width}) must be even: rotary positions turn pairs",
            )
        both = self.architecture == "encoder-decoder"
        for name in ("source_start_id", "forced_id"):
            value = getattr(self, name)
            _require(value is None or both, f"{name} ({value}) belongs to an encoder-decoder, not to one stack alone")
        _require(
            not self.decoder_embeddings or (both and self.positions == "learned"),
            f"decoder_embeddings belong to an encoder-decoder with learned positions, not to {self.architecture} with "
            f"{self.positions} ones",
        )
        _require(self.token_types >= 0, f"token_types ({self.token_types}) must not be negative")
        if self.token_types:
            _check_size(self, "token_types", MOST_ROWS)
        _require(
            self.encoder is not None or not (self.token_types or self.embedding_norm),
            "token_types and embedding_norm belong to a model with an encoder",
        )

    def _check_head(self) -> None:
        self._check_output()
        pools = self.head == "embedding"
        if pools:
            _require(self.decoder is None, "an 'embedding' head needs an encoder-only model; this one has a decoder")
            _require(self.pooling is not None, "an 'embedding' head needs pooling: 'mean' or 'first'")
        classes = self.head == "classes"
        _require(
            pools or classes or self.pooling is None,
            f"pooling ({self.pooling!r}) belongs to the 'embedding' and 'classes' heads only",
        )
        _require(pools or not self.normalize, "normalize belongs to the 'embedding' head only")
        _require(classes or self.pooler is None, f"pooler ({self.pooler!r}) belongs to the 'classes' head only")
        _require(
            classes or self.class_scores == "softmax",
            f"class_scores ({self.class_scores!r}) belong to the 'classes' head only",
        )
        self._check_classes()

    def _check_classes(self) -> None:
        if self.head not in ("classes", "tags"):
            _require(not self.class_names, f"class_names {self.class_names} belong to the 'classes' and 'tags' heads")
        else:
            least = 2 if self.class_scores == "softmax" else 1
            _require(self.decoder is None, f"a {self.head!r} head needs an encoder-only model; this one has a decoder")
            _require(
                len(self.class_names) >= least,
                f"a {self.head!r} head needs at least {least} class_names; there are {len(self.class_names)}",
            )
        _require(
            self.head != "span" or self.decoder is None,
            "a 'span' head needs an encoder-only model; this one has a decoder",
        )

    def _check_pairs(self) -> None:
        _require(
            not self.pair_between or self.architecture == "encoder",
            f"pair_between ({self.pair_between}) belongs to an encoder alone, not {self.architecture}",
        )
        _require(self.head != "span" or bool(self.pair_between), "a 'span' head needs pair_between: it reads pairs")
        for token in self.pair_between:
            _require(
                0 <= token < self.vocab_size,
                f"pair_between ({token}) must be token ids below vocab_size ({self.vocab_size})",
            )
        most = max(0, self.token_types - 1) if self.pair_between else 0
        _require(0 <= self.second_segment <= most, f"second_segment ({self.second_segment}) must be from 0 to {most}")

    def _check_output(self) -> None:
        """An output projection and its bias belong to the vocabulary; elsewhere both keep their defaults."""
        words = self.head == "vocabulary" and self.architecture == "encoder"
        _require(words or self.head_transform is None, "head_transform belongs to the vocabulary of an encoder alone")
        _require(
            not (self.scale_outputs and self.head_transform), "scale_outputs and a head_transform exclude each other"
        )
        _require(words or not self.mask_splits_text, "mask_splits_text belongs to the vocabulary of an encoder alone")
        if self.head != "vocabulary":
            _require(self.tied, f"a {self.head!r} head has no output projection that could be untied")
            _require(self.output_bias, f"a {self.head!r} head has no output_bias that could be left out")
            _require(not self.scale_outputs, f"a {self.head!r} head has no output projection to scale for")

    @property
    def starts_text(self) -> bool:
        """Whether ``start_id`` stands before a text."""
        return self.architecture == "decoder" if self.adds_start is None else self.adds_start

    @property
    def decoder_prompt(self) -> tuple[int, ...]:
        """What a decoder beside an encoder reads before the first token of a result."""
        return (self.start_id,) if self.forced_id is None else (self.start_id, self.forced_id)

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
        parts: dict[str, type[StackConfig | RopeConfig | RelativeConfig]] = {
            "encoder": StackConfig,
            "decoder": StackConfig,
            "rope": RopeConfig,
            "relative": RelativeConfig,
        }
        for name, kind in parts.items():
            if fields.get(name) is not None:
                fields[name] = kind(**_fields_of(kind, fields[name]))
        for name in ("class_names", "pair_between"):
            if isinstance(fields.get(name), list):
                fields[name] = tuple(fields[name])
        return cls(**fields)


_Config = StackConfig | RopeConfig | RelativeConfig | ModelConfig


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


def _check_types(config: _Config) -> None:
    """Refuse a value of another type than declared: JSON from outside carries no types."""
    for name, hint in get_type_hints(type(config)).items():
        value, kinds = getattr(config, name), set(get_args(hint) or (hint,))
        optional = type(None) in kinds
        kind = next(iter(kinds - {type(None)})) if optional else hint
        if value is None and optional:
            continue
        if get_origin(kind) is Literal:
            choices = get_args(kind)
            _require(value in choices, f"{name} ({value!r}) must be one of {', '.join(map(repr, choices))}")
        elif kind is int:
            _require(isinstance(value, int) and not isinstance(value, bool), f"{name} ({value!r}) must be an integer")
        elif kind is bool:
            _require(isinstance(value, bool), f"{name} ({value!r}) must be true or false")
        elif kind is float:
            ok = isinstance(value, float) and 0 < value < math.inf
            _require(ok, f"{name} ({value!r}) must be a positive number")
        elif kind in (StackConfig, RopeConfig, RelativeConfig):
            _require(isinstance(value, kind), f"{name} ({value!r}) must be a {kind.__name__} or None")
        elif int in get_args(kind):
            ok = isinstance(value, tuple) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
            _require(ok, f"{name} ({value!r}) must be token ids")
        else:
            ok = isinstance(value, tuple) and all(isinstance(v, str) for v in value)
            _require(ok, f"{name} ({value!r}) must be strings")


def _check_size(config: _Config, name: str, most: int) -> None:
    """Refuse a size that is no size, or larger than any network's."""
    value = getattr(config, name)
    _require(value > 0, f"{name} ({value}) must be positive")
    _require(value <= most, f"{name} ({value}) must be at most {most}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
