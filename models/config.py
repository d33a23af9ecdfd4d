"""What a network is: frozen configurations, JSON both ways, contradictions refused."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from .config_checks import (
    MOST_HEADS,
    MOST_LAYERS,
    MOST_ROWS,
    MOST_WIDTH,
    check_size,
    check_types,
    fields_of,
    require,
    with_tuples,
)
from .dense_config import DenseConfig
from .languages import LanguageConfig
from .position_config import RelativeConfig, RopeConfig
from .rotary_checks import check_rotary
from .speech import SpeechConfig

NormPlace = Literal["post", "pre", "sandwich"]
Norm = Literal["layer", "rms"]
Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]
Positions = Literal["sinusoidal", "sinusoidal_halves", "learned", "rotary", "relative"]
Head = Literal["vocabulary", "classes", "embedding", "tags", "span"]
Pooling = Literal["mean", "first"]
Pooler = Literal["tanh", "relu", "gelu"]
ClassScores = Literal["softmax", "sigmoid", "identity"]
Architecture = Literal["encoder", "decoder", "encoder-decoder"]
_OF_SOURCES = ("source_start_id", "source_last_id", "source_end_id", "source_pad_id")


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """One stack of layers, the encoder's or the decoder's; the defaults are Vaswani et al. 2017, section 3.1.

    ==================== ============================================================================================
    ``norm_place``       ``post``: after the residual (section 3.1); ``pre``: before the sub-layer (Xiong et al. 2020);
                         ``sandwich``: before it, and what it gives before the residual (Ding et al. 2021, section 2.4)
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
    ``unturned_layers``  layers of a decoder with rotary positions that have none, from 0 (Kazemnejad et al. 2023)
    ``parallel``         the feed-forward network of a decoder reads what the attention reads, by a norm of its own, and
                         both are added (Black et al. 2022, section 2.1); only with ``norm_place`` ``pre``
    ``query_key_norm``   an RMS norm of every head's queries and one of its keys, before positions turn them (Yang et
                         al. 2025, section 2)
    ``attention_cap``    scores of queries and keys stay below it: ``cap * tanh(score / cap)`` (Gemma Team 2024, section
                         2)
    ``attention_bias``   biases in the four matrices of an attention
    ``attention_output_bias`` one in the matrix ``output`` of an attention; ``None``: as the other three have
    ``feed_forward_bias`` biases in those of the feed-forward network
    ``final_norm``       one more normalization after the last layer; ``None``: but for ``norm_place`` ``post`` there is
                         one
    ``window``           how many keys a query of a decoder sees, its own and those before it (Jiang et al. 2023,
                         section 2), and a query of an encoder as many behind it too (Beltagy et al. 2020, section
                         3.1); ``None``: all that there are
    ``windowed_layers``  layers whose queries see a window, from 0; ``None``: all of them
    ``norm_bias``        whether a LayerNorm adds a shift; an RMS norm never does
    ``first_norm``       whether the first attention of an encoder with ``norm_place`` ``pre`` reads what is normalized:
                         embeddings with a norm of their own are already (Warner et al. 2024, section 2.1.1)
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
    attention_output_bias: bool | None = None
    feed_forward_bias: bool = True
    final_norm: bool | None = None
    window: int | None = None
    windowed_layers: tuple[int, ...] | None = None
    query_key_norm: bool = False
    unturned_layers: tuple[int, ...] = ()
    attention_cap: float | None = None
    parallel: bool = False
    norm_bias: bool = True
    first_norm: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        for name, most in (("n_layers", MOST_LAYERS), ("d_model", MOST_WIDTH), ("n_heads", MOST_HEADS)):
            check_size(self, name, most)
        check_size(self, "d_ff", MOST_WIDTH)
        if self.head_dim is None:
            require(
                self.d_model % self.n_heads == 0,
                f"d_model ({self.d_model}) must be a multiple of n_heads ({self.n_heads})",
            )
        else:
            check_size(self, "head_dim", MOST_WIDTH)
        require(self.d_model % 2 == 0, f"d_model ({self.d_model}) must be even: positions pair a sine and a cosine")
        require(self.kv_heads > 0, f"n_kv_heads ({self.n_kv_heads}) must be positive")
        require(
            self.n_heads % self.kv_heads == 0,
            f"n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.n_kv_heads})",
        )
        if self.window is not None:
            check_size(self, "window", MOST_ROWS)
        require(
            self.windowed_layers is None or self.window is not None,
            f"windowed_layers {self.windowed_layers} belong to a window",
        )
        require(not self.parallel or self.norm_place == "pre", "parallel sub-layers need norm_place 'pre'")
        require(self.norm_bias or self.norm == "layer", "norm_bias is for norm 'layer': the other never has one")
        require(self.first_norm or self.norm_place == "pre", "first_norm can be left out with norm_place 'pre' alone")
        for name in ("windowed_layers", "unturned_layers"):
            self._check_layers(name)

    def _check_layers(self, name: str) -> None:
        for layer in getattr(self, name) or ():
            require(0 <= layer < self.n_layers, f"{name} ({layer}) must be below n_layers ({self.n_layers})")

    def window_of(self, layer: int) -> int | None:
        """How many keys a query of a layer sees at most; ``None``: all that it may."""
        return self.window if self.windowed_layers is None or layer in self.windowed_layers else None

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
        return self.norm_place != "post" if self.final_norm is None else self.final_norm


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
    ``window_rope``       of layers that see a window, where their frequencies are others (Gemma Team 2025, section 2)
    ``logit_cap``         logits over the vocabulary stay below it: ``cap * tanh(logit / cap)`` (Gemma Team 2024,
                          section 2)
    ``scale_embeddings``  token embeddings times ``sqrt(d_model)`` (section 3.4)
    ``token_types``       rows of a segment embedding (Devlin et al. 2019, section 3); a text is segment 0, so row 0 is
                          added to every token; 0: no such embedding
    ``embedding_norm``    a LayerNorm on the embeddings, with the encoder's epsilon
    ``embedding_width``   of an encoder alone whose embeddings have another width, which a linear layer after their norm
                          makes ``d_model`` (Lan et al. 2020, section 3.1); ``head_transform`` leads back to it
    ``decoder_embeddings`` the decoder has learned positions and an embedding norm of its own (Lewis et al. 2020, BART)
    ``source_vocab_size`` rows of an embedding of the encoder's own, beside a decoder; ``None``: both read one embedding
    ``source_end_id``     with it, what ends a source, and what pads it; ``None``: ``end_id`` and ``pad_id``
    ``source_pad_id``
    ``source_start_id``   stands before the text that an encoder beside a decoder reads
    ``source_last_id``    stands after the end token of such a text
    ``forced_id``         what a decoder beside an encoder reads after ``start_id``, before the first token of a result
    ``languages``         those that are chosen text by text: each text has its own of these three ids, or of
                          ``start_id``, as :class:`~edgewise.models.languages.LanguageConfig` says
    ``speech``            the encoder reads log-mel features through convolutions, as
                          :class:`~edgewise.models.speech.SpeechConfig` says, and the positions are the decoder's alone
    ``tied``              the output projection is the embedding's matrix (section 3.4)
    ``scale_outputs``     what the output projection reads is multiplied by ``1 / sqrt(d_model)`` (T5, where ``tied``)
    ``output_bias``       a bias for every token of the vocabulary
    ``pooling``           heads ``embedding`` and ``classes``: ``mean`` of the states or the ``first`` one (Reimers and
                          Gurevych 2019, section 3); ``None`` with classes: ``mean``
    ``pooler``            head ``classes``: a linear layer and this activation between the pooled state and the classes
    ``class_scores``      head ``classes``: what makes scores of logits. ``softmax``: one class is right; ``sigmoid``:
                          each may be; ``identity``: they are values, not probabilities
    ``head_transform``    of an encoder alone: a linear layer, this activation and a LayerNorm before the output
                          projection (``BertPredictionHeadTransform``), or before classes, tags or the ends of a span
    ``transform_bias``    that linear layer has a bias
    ``mask_splits_text``  what stands before ``mask_id`` and what stands behind it become tokens by themselves
    ``pair_between``      tokens between the two texts of a pair; none: no pairs are read
    ``second_segment``    the segment of a pair's second text
    ``dense``             head ``embedding``: a linear layer between the pooled state and the vector
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
    embedding_width: int | None = None
    decoder_embeddings: bool = False
    source_vocab_size: int | None = None
    source_end_id: int | None = None
    source_pad_id: int | None = None
    source_start_id: int | None = None
    source_last_id: int | None = None
    forced_id: int | None = None
    languages: LanguageConfig | None = None
    tied: bool = True
    scale_outputs: bool = False
    output_bias: bool = True
    pooling: Pooling | None = None
    normalize: bool = False
    dense: DenseConfig | None = None
    adds_start: bool | None = None
    pooler: Pooler | None = None
    class_scores: ClassScores = "softmax"
    head_transform: Activation | None = None
    transform_bias: bool = True
    mask_splits_text: bool = False
    pair_between: tuple[int, ...] = ()
    second_segment: int = 0
    window_rope: RopeConfig | None = None
    logit_cap: float | None = None
    speech: SpeechConfig | None = None

    def __post_init__(self) -> None:
        check_types(self)
        require(
            self.encoder is not None or self.decoder is not None,
            "a model needs an encoder, a decoder, or both; this one has neither",
        )
        if self.decoder is not None:
            beside = self.encoder is not None and self.encoder.window is not None
            require(not beside, "a window belongs to a decoder, or to an encoder alone")
            require(self.decoder.first_norm, "first_norm can be left out of an encoder, not a decoder")
        parallel = any(stack is not None and stack.parallel for stack in (self.encoder, self.decoder))
        require(not parallel or self.encoder is None, "parallel sub-layers are for a decoder alone")
        if self.encoder and self.decoder:
            require(
                self.encoder.d_model == self.decoder.d_model,
                f"encoder d_model ({self.encoder.d_model}) must equal decoder d_model ({self.decoder.d_model})",
            )
        check_size(self, "max_positions", MOST_ROWS)
        for name in ("pad_id", "start_id", "end_id", "mask_id", "forced_id"):
            self._check_token(name, getattr(self, name))
        for name in _OF_SOURCES:
            self._check_token(name, getattr(self, name), of_source=True)
        check_size(self, "vocab_size", MOST_ROWS)
        if self.source_vocab_size is not None:
            check_size(self, "source_vocab_size", MOST_ROWS)
            require(self.pad_source < self.source_vocab_size, f"pad_id ({self.pad_id}) pads no source: source_pad_id")
            require(self.end_source < self.source_vocab_size, f"end_id ({self.end_id}) ends no source: source_end_id")
        self._check_positions()
        self._check_head()
        self._check_pairs()
        self._check_speech()

    def _check_token(self, name: str, value: int | None, of_source: bool = False) -> None:
        own = of_source and self.source_vocab_size is not None
        size = self.source_vocab_size if own else self.vocab_size
        require(
            value is None or 0 <= value < (size or 0),
            f"{name} ({value}) must be a token id below {'source_' if own else ''}vocab_size ({size})",
        )

    def _check_positions(self) -> None:
        check_rotary(self)
        relative = self.positions == "relative"
        require(
            (self.relative is not None) == relative,
            f"relative ({self.relative}) belongs to relative positions, and they to it",
        )
        for stack in (self.encoder, self.decoder):
            plain = stack is None or (stack.window is None and stack.attention_cap is None)
            require(plain or not relative, "relative positions go with neither a window nor an attention_cap")
        both = self.architecture == "encoder-decoder"
        for name in ("source_vocab_size", *_OF_SOURCES, "forced_id"):
            value = getattr(self, name)
            require(value is None or both, f"{name} ({value}) belongs to an encoder-decoder, not to one stack alone")
        for name in ("source_end_id", "source_pad_id"):
            value = getattr(self, name)
            require(value is None or self.source_vocab_size is not None, f"{name} ({value}) needs source_vocab_size")
        require(
            self.source_vocab_size is None or not self.adds_start,
            "adds_start is for one vocabulary: before sources of another one stands source_start_id",
        )
        self._check_languages(both)
        require(
            not self.decoder_embeddings or (both and self.positions == "learned"),
            f"decoder_embeddings belong to an encoder-decoder with learned positions, not to {self.architecture} with "
            f"{self.positions} ones",
        )
        require(self.token_types >= 0, f"token_types ({self.token_types}) must not be negative")
        if self.token_types:
            check_size(self, "token_types", MOST_ROWS)
        if self.embedding_width is not None:
            check_size(self, "embedding_width", MOST_WIDTH)
            leads_back = self.head != "vocabulary" or self.head_transform is not None
            alone = self.architecture == "encoder" and leads_back
            require(alone, "embedding_width is for an encoder alone, and its vocabulary needs a head_transform")
        require(
            self.encoder is not None or not (self.token_types or self.embedding_norm),
            "token_types and embedding_norm belong to a model with an encoder",
        )

    def _check_languages(self, both: bool) -> None:
        languages = self.languages
        if languages is None:
            return
        require(both, "languages belong to an encoder-decoder, not to one stack alone")
        in_source = languages.source is not None or languages.target == "source"
        for code, token in languages.tokens.items():
            for of_source in {in_source, languages.target == "source"}:
                self._check_token(f"the token of language {code!r}", token, of_source)
        places = {"before": "source_start_id", "source": "source_start_id", "after": "source_last_id"}
        places["forced"] = "forced_id"
        for place in (languages.source, languages.target):
            taken = getattr(self, places[place], None) if place in places else None
            require(taken is None, f"{places.get(place or '')} ({taken}) stands where a language's token does")

    def _check_head(self) -> None:
        self._check_output()
        pools = self.head == "embedding"
        if pools:
            require(self.decoder is None, "an 'embedding' head needs an encoder-only model; this one has a decoder")
            require(self.pooling is not None, "an 'embedding' head needs pooling: 'mean' or 'first'")
        classes = self.head == "classes"
        require(
            pools or classes or self.pooling is None,
            f"pooling ({self.pooling!r}) belongs to the 'embedding' and 'classes' heads only",
        )
        for name in ("normalize", "dense"):
            require(pools or not getattr(self, name), f"{name} belongs to the 'embedding' head only")
        require(classes or self.pooler is None, f"pooler ({self.pooler!r}) belongs to the 'classes' head only")
        require(
            classes or self.class_scores == "softmax",
            f"class_scores ({self.class_scores!r}) belong to the 'classes' head only",
        )
        self._check_classes()

    def _check_classes(self) -> None:
        if self.head not in ("classes", "tags"):
            require(not self.class_names, f"class_names {self.class_names} belong to the 'classes' and 'tags' heads")
        else:
            least = 2 if self.class_scores == "softmax" else 1
            require(self.decoder is None, f"a {self.head!r} head needs an encoder-only model; this one has a decoder")
            require(
                len(self.class_names) >= least,
                f"a {self.head!r} head needs at least {least} class_names; there are {len(self.class_names)}",
            )
        require(
            self.head != "span" or self.decoder is None,
            "a 'span' head needs an encoder-only model; this one has a decoder",
        )

    def _check_pairs(self) -> None:
        require(
            not self.pair_between or self.architecture == "encoder",
            f"pair_between ({self.pair_between}) belongs to an encoder alone, not {self.architecture}",
        )
        require(self.head != "span" or bool(self.pair_between), "a 'span' head needs pair_between: it reads pairs")
        for token in self.pair_between:
            require(
                0 <= token < self.vocab_size,
                f"pair_between ({token}) must be token ids below vocab_size ({self.vocab_size})",
            )
        most = max(0, self.token_types - 1) if self.pair_between else 0
        require(0 <= self.second_segment <= most, f"second_segment ({self.second_segment}) must be from 0 to {most}")

    def _check_speech(self) -> None:
        if self.speech is None:
            return
        both = self.architecture == "encoder-decoder" and self.positions == "learned"
        require(
            both,
            f"speech belongs to an encoder-decoder with learned positions, not to {self.architecture} with "
            f"{self.positions} ones",
        )
        for name in ("source_vocab_size", *_OF_SOURCES, "forced_id", "languages", "adds_start"):
            value = getattr(self, name)
            require(value is None, f"{name} ({value}) belongs to a source of tokens, and this one is speech")
        for name in ("embedding_norm", "decoder_embeddings", "token_types"):
            require(not getattr(self, name), f"{name} belongs to a source of tokens, and this one is speech")
        self.speech.check_vocabulary(self.vocab_size)

    def _check_output(self) -> None:
        """An output projection and its bias belong to the vocabulary; elsewhere both keep their defaults."""
        words = self.head == "vocabulary" and self.architecture == "encoder"
        transforms = self.architecture == "encoder" and self.head != "embedding"
        require(
            transforms or self.head_transform is None,
            "head_transform belongs to an encoder alone whose head gives no vectors",
        )
        require(self.transform_bias or self.head_transform is not None, "transform_bias belongs to a head_transform")
        require(self.pooler is None or self.head_transform is None, "a pooler and a head_transform exclude each other")
        require(
            not (self.scale_outputs and self.head_transform), "scale_outputs and a head_transform exclude each other"
        )
        require(words or not self.mask_splits_text, "mask_splits_text belongs to the vocabulary of an encoder alone")
        if self.head != "vocabulary":
            require(self.logit_cap is None, f"a {self.head!r} head has no vocabulary that could have a logit_cap")
            require(self.tied, f"a {self.head!r} head has no output projection that could be untied")
            require(self.output_bias, f"a {self.head!r} head has no output_bias that could be left out")
            require(not self.scale_outputs, f"a {self.head!r} head has no output projection to scale for")

    @property
    def starts_text(self) -> bool:
        """Whether ``start_id`` stands before a text."""
        return self.architecture == "decoder" if self.adds_start is None else self.adds_start

    @property
    def decoder_prompt(self) -> tuple[int, ...]:
        """What a decoder beside an encoder reads before the first token of a result."""
        return (self.start_id,) if self.forced_id is None else (self.start_id, self.forced_id)

    @property
    def end_source(self) -> int:
        """What ends a source that an encoder beside a decoder reads."""
        return self.end_id if self.source_end_id is None else self.source_end_id

    @property
    def pad_source(self) -> int:
        """What pads such a source."""
        return self.pad_id if self.source_pad_id is None else self.source_pad_id

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
        fields = dict(fields_of(cls, data))
        for name, kind in _NESTED:
            if fields.get(name) is not None:
                fields[name] = kind(**with_tuples(fields_of(kind, fields[name])))
        return cls(**with_tuples(fields))


_NESTED = (
    *(("encoder", StackConfig), ("decoder", StackConfig)),
    *(("rope", RopeConfig), ("window_rope", RopeConfig), ("relative", RelativeConfig), ("languages", LanguageConfig)),
    *(("speech", SpeechConfig), ("dense", DenseConfig)),
)
