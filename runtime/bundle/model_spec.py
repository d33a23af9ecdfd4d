"""The network in a manifest: what running it needs of its configuration, as dataclasses that are their schema."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from ...errors import BundleFormatError
from .languages import LanguageSpec
from .schema import LATER, Between, Length, Text, dump_json, from_json, parse_json, refuse
from .speech import SpeechSpec

Name = Annotated[str, Text(200, r"[^\x00-\x1f\x7f]+")]
"""What people read: one line."""
_Token = Annotated[int, Between(0, 2**24)]
_Size = Annotated[int, Between(1, 2**20)]


@dataclass(frozen=True, kw_only=True)
class StackSpec:
    """One stack of the network: of ``models.config.StackConfig`` what running it needs, or ``inspect`` shows.

    What is ``None`` only the graphs know: another exporter made them.
    """

    n_layers: Annotated[int, Between(1, 256)]
    d_model: _Size
    n_heads: Annotated[int, Between(1, 1024)]
    d_ff: _Size | None
    norm_place: Literal["post", "pre", "sandwich"] | None
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] | None
    norm_epsilon: Annotated[float, Between(1e-12, 1.0)] | None
    norm: Literal["layer", "rms"] = field(default="layer", metadata=LATER)
    gated: bool = field(default=False, metadata=LATER)
    n_kv_heads: Annotated[int, Between(1, 1024)] | None = field(default=None, metadata=LATER)
    head_dim: _Size | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        if self.head_dim is None and self.d_model % self.n_heads:
            raise BundleFormatError(f"d_model ({self.d_model}) must be a multiple of n_heads ({self.n_heads})")
        if self.n_heads % self.kv_heads:
            raise BundleFormatError(f"n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.kv_heads})")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads if self.head_dim is None else self.head_dim


@dataclass(frozen=True, kw_only=True)
class DenseSpec:
    """What makes a text's vector of its pooled state: ``models.dense_config.DenseConfig``."""

    width: _Size
    bias: bool
    activation: Literal["identity", "tanh"]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The network: of ``models.config.ModelConfig`` what running it needs, or ``inspect`` shows.

    The mathematics is in the graphs: what only the reference reads (``REFERENCE_ONLY``) is not repeated here.
    """

    vocab_size: Annotated[int, Between(4, 2**24)]
    max_positions: Annotated[int, Between(1, 2**24)]
    pad_id: _Token
    start_id: _Token
    end_id: _Token
    encoder: StackSpec | None
    decoder: StackSpec | None
    head: Literal["vocabulary", "classes", "embedding", "tags", "span"]
    mask_id: _Token | None
    class_names: Annotated[tuple[Name, ...], Length(0, 10_000)]
    positions: Literal["sinusoidal", "sinusoidal_halves", "learned", "rotary", "relative"] | None = field(
        default="sinusoidal", metadata=LATER
    )
    pooling: Literal["mean", "first"] | None = field(default=None, metadata=LATER)
    normalize: bool = field(default=False, metadata=LATER)
    dense: DenseSpec | None = field(default=None, metadata=LATER)
    adds_start: bool | None = field(default=None, metadata=LATER)
    class_scores: Literal["softmax", "sigmoid", "identity"] = field(default="softmax", metadata=LATER)
    mask_splits_text: bool = field(default=False, metadata=LATER)
    pair_between: Annotated[tuple[_Token, ...], Length(0, 8)] = field(default=(), metadata=LATER)
    second_segment: Annotated[int, Between(0, 2**24)] = field(default=0, metadata=LATER)
    source_start_id: _Token | None = field(default=None, metadata=LATER)
    forced_id: _Token | None = field(default=None, metadata=LATER)
    source_last_id: _Token | None = field(default=None, metadata=LATER)
    languages: LanguageSpec | None = field(default=None, metadata=LATER)
    source_vocab_size: Annotated[int, Between(4, 2**24)] | None = field(default=None, metadata=LATER)
    source_end_id: _Token | None = field(default=None, metadata=LATER)
    source_pad_id: _Token | None = field(default=None, metadata=LATER)
    speech: SpeechSpec | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        refuse(self._contradictions())

    def _contradictions(self) -> Iterator[str]:
        pools = self.head == "embedding"
        wrong = self.pooling is None if pools else self.pooling is not None and self.head != "classes"
        if wrong or (self.normalize and not pools):
            yield f"a {self.head!r} head cannot have pooling {self.pooling!r}, normalize {self.normalize}"
        if self.dense and not pools:
            yield f"a {self.head!r} head cannot have a dense layer"
        if self.pair_between and (self.encoder is None or self.decoder):
            yield "pair_between belongs to an encoder alone"
        if self.second_segment and not self.pair_between:
            yield "second_segment belongs to a model with pair_between"
        if self.encoder is None and self.decoder is None:
            yield "a model needs an encoder, a decoder, or both"
        if self.encoder and self.decoder and self.encoder.d_model != self.decoder.d_model:
            yield f"encoder d_model ({self.encoder.d_model}) must equal decoder d_model ({self.decoder.d_model})"
        both = ("forced_id", "source_vocab_size", *_OF_SOURCES)
        if (self.encoder is None or self.decoder is None) and any(getattr(self, n) is not None for n in both):
            yield f"{', '.join(both)} belong to an encoder beside a decoder"
        if self.source_vocab_size is None and (self.source_end_id, self.source_pad_id) != (None, None):
            yield "source_end_id and source_pad_id need source_vocab_size"
        if self.source_vocab_size is not None and self.adds_start:
            yield "adds_start is for one vocabulary: before sources of another one stands source_start_id"
        for name in ("pad_id", "start_id", "end_id", "mask_id", "forced_id"):
            value = getattr(self, name)
            if value is not None and value >= self.vocab_size:
                yield f"{name} ({value}) must be below vocab_size ({self.vocab_size})"
        for name in (*_OF_SOURCES, "end_source", "pad_source"):
            value = getattr(self, name)
            if self.decoder and self.encoder and value is not None and value >= self.source_size:
                yield f"{name} ({value}) must be below the {self.source_size} tokens of sources"
        yield from self._class_contradictions()
        yield from self._language_contradictions()
        yield from self._speech_contradictions()

    def _language_contradictions(self) -> Iterator[str]:
        languages = self.languages
        if languages is None:
            return
        if self.encoder is None or self.decoder is None:
            yield "languages belong to an encoder beside a decoder"
        sizes = [self.source_size] if languages.source or languages.target == "source" else []
        size = min([*sizes, *([] if languages.target == "source" else [self.vocab_size])])
        if beyond := [code for code, token in languages.tokens.items() if token >= size]:
            yield f"the token of language {beyond[0]!r} must be below vocab_size ({size})"
        some = next(iter(languages.tokens))
        taken = [n for n in languages.ids(some, some) if n != "start_id" and getattr(self, n) is not None]
        if taken:
            yield f"{taken[0]} ({getattr(self, taken[0])}) stands where a language's token does"

    def _speech_contradictions(self) -> Iterator[str]:
        if self.speech is None:
            return
        if self.encoder is None or self.decoder is None:
            yield "speech belongs to an encoder beside a decoder"
        for name in ("forced_id", "languages", "source_vocab_size", *_OF_SOURCES):
            if getattr(self, name) is not None:
                yield f"{name} belongs to a source of tokens, and this one is speech"
        yield from self.speech.misfits(self.vocab_size)

    def _class_contradictions(self) -> Iterator[str]:
        distinct = len(set(self.class_names))
        least = 1 if self.class_scores != "softmax" else 2
        named = self.head in ("classes", "tags")
        if (distinct < least if named else distinct) or distinct < len(self.class_names):
            wanted = f"{least} or more, all different" if named else "none"
            yield f"a {self.head!r} head cannot have {len(self.class_names)} class_names: it takes {wanted}"
        if self.class_scores != "softmax" and self.head != "classes":
            yield f"a {self.head!r} head cannot have class_scores {self.class_scores!r}"

    @property
    def source_size(self) -> int:
        """Tokens that an encoder's embedding has."""
        return self.vocab_size if self.source_vocab_size is None else self.source_vocab_size

    @property
    def end_source(self) -> int:
        """What ends a text that an encoder reads."""
        return self.end_id if self.source_end_id is None else self.source_end_id

    @property
    def pad_source(self) -> int:
        """What pads a text that an encoder reads."""
        return self.pad_id if self.source_pad_id is None else self.source_pad_id

    @property
    def vector_width(self) -> int:
        """Numbers of a text's vector."""
        assert self.encoder is not None  # what pools has one
        return self.encoder.d_model if self.dense is None else self.dense.width

    @property
    def starts_text(self) -> bool:
        """Whether ``start_id`` stands before a text: by default in a decoder alone."""
        return self.encoder is None if self.adds_start is None else self.adds_start

    def prompt(self, ids: Sequence[int]) -> tuple[int, ...]:
        """What a decoder alone reads of a text's ``ids``; of no text, the start token."""
        return (self.start_id, *ids) if self.starts_text or not ids else tuple(ids)

    @property
    def decoder_prompt(self) -> tuple[int, ...]:
        """What a decoder beside an encoder reads before the first token of a result."""
        return (self.start_id,) if self.forced_id is None else (self.start_id, self.forced_id)

    @property
    def prompt_length(self) -> int:
        """Tokens of :attr:`decoder_prompt`, with that of a language where one is chosen."""
        chosen = self.languages is not None and self.languages.target == "forced"
        return len(self.decoder_prompt) + int(chosen)

    def directed(self, source: str | None, target: str | None) -> ModelSpec:
        """What this is for a text in language ``source`` and its translation into ``target``, both of its languages.

        ``None``: no token of that language stands anywhere.
        """
        if self.languages is None:
            return self
        ids: dict[str, Any] = self.languages.ids(source, target)
        return replace(self, languages=None, **ids)

    def source(self, ids: Sequence[int]) -> tuple[int, ...]:
        """What an encoder reads of a text's ``ids``."""
        start = self.start_id if self.starts_text else self.source_start_id
        before = () if start is None else (start,)
        return (*before, *ids, self.end_source, *(() if self.source_last_id is None else (self.source_last_id,)))

    def pair(self, first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
        """What an encoder reads of two texts' ids; where the second begins, :meth:`second_from` says."""
        return self.source((*first, *self.pair_between, *second))

    def second_from(self, first: Sequence[int]) -> int:
        """The place of a pair's second text among the tokens of :meth:`pair`."""
        return int(self.starts_text) + len(first) + len(self.pair_between)

    @property
    def rates(self) -> bool:
        """Whether its scores are values, or one alone, and not classes to choose from."""
        return self.class_scores == "identity" or len(self.class_names) == 1

    @classmethod
    def from_json(cls, data: Any) -> ModelSpec:
        """Read what ``ModelConfig.to_json`` gives; raises :class:`~edgewise.errors.BundleFormatError`."""
        kept = {name: _without(value, REFERENCE_ONLY) for name, value in _without(data, REFERENCE_ONLY).items()}
        return from_json(cls, parse_json(dump_json(kept), "model"), "model")


_OF_SOURCES = ("source_start_id", "source_last_id", "source_end_id", "source_pad_id")
REFERENCE_ONLY = frozenset(
    {"rope", "relative", "scale_embeddings", "token_types", "embedding_norm", "embedding_width"}  # of a ModelConfig
    | {"decoder_embeddings", "transform_bias"}
    | {"tied", "scale_outputs", "output_bias", "pooler", "head_transform", "window_rope", "logit_cap"}
    | {"attention_scale", "attention_bias", "feed_forward_bias", "final_norm"}  # of a StackConfig
    | {"attention_output_bias", "window", "windowed_layers", "query_key_norm", "unturned_layers", "attention_cap"}
    | {"parallel", "norm_bias", "first_norm"}
)


def _without(value: Any, names: frozenset[str]) -> Any:
    return {k: v for k, v in value.items() if k not in names} if isinstance(value, dict) else value
