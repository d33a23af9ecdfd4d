"""The network of "Attention Is All You Need" and its descendants: encoder, decoder, or both, from one configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig, Pooler, StackConfig
from .dropout import Dropout
from .front import ConvolutionalFront
from .layers import (
    ACTIVATIONS,
    FeedForward,
    KeyValue,
    MultiHeadAttention,
    Residual,
    Rotary,
    Rotate,
    both_ways_mask,
    layer_norm,
    look_ahead_mask,
    norm,
    sinusoidal_positions,
    window_mask,
)
from .position_config import RelativeConfig
from .relative import NEVER, RelativeBias

_POOLERS: dict[Pooler, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": F.relu, "gelu": F.gelu}


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward (section 3.1)."""

    def __init__(self, config: StackConfig, dropout: float, first: bool = False) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config)
        self.attention_residual = Residual(config, dropout)
        if first and not config.first_norm:
            self.attention_residual.norm = nn.Identity()
        self.feed_forward = FeedForward(config)
        self.feed_forward_residual = Residual(config, dropout)

    def forward(self, x: Tensor, mask: Tensor | None, rotate: Rotate | None = None) -> Tensor:
        """``x (B, S, D) -> (B, S, D)``; ``mask``: boolean or added to the scores, ``(B, 1 or H, 1 or S, S)``."""
        h = self.attention_residual.before(x)
        x = self.attention_residual.after(x, self.attention(h, self.attention.key_value(h, rotate), mask, rotate))
        return self.feed_forward_residual.after(x, self.feed_forward(self.feed_forward_residual.before(x)))


class DecoderLayer(nn.Module):
    """Masked self-attention, cross-attention where there is an encoder, feed-forward (section 3.1)."""

    def __init__(self, config: StackConfig, dropout: float, cross: bool) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config)
        self.attention_residual = Residual(config, dropout)
        self.cross_attention = MultiHeadAttention(config) if cross else None
        self.cross_residual = Residual(config, dropout) if cross else None
        self.feed_forward = FeedForward(config)
        self.feed_forward_residual = Residual(config, dropout)
        self.parallel = config.parallel

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        past: KeyValue | None,
        cross: KeyValue | None,
        cross_mask: Tensor | None,
        rotate: Rotate | None,
    ) -> tuple[Tensor, KeyValue]:
        """``x (R, T, D)`` and what the cache holds -> ``(R, T, D)`` and the cache with this call's keys and values."""
        h, read = self.attention_residual.before(x), x
        present = self.attention.key_value(h, rotate)
        if past is not None:
            present = (torch.cat([past[0], present[0]], dim=2), torch.cat([past[1], present[1]], dim=2))
        x = self.attention_residual.after(x, self.attention(h, present, mask, rotate))
        if self.cross_attention is not None and self.cross_residual is not None:
            assert cross is not None and cross_mask is not None
            x = self._attend_to_source(x, cross, cross_mask)
        h = self.feed_forward_residual.before(read if self.parallel else x)
        return self.feed_forward_residual.after(x, self.feed_forward(h)), present

    def _attend_to_source(self, x: Tensor, cross: KeyValue, cross_mask: Tensor) -> Tensor:
        """Cross-attention (section 3.2.3). The beams of a sentence enter as its query rows: K/V are never repeated."""
        assert self.cross_attention is not None and self.cross_residual is not None
        h = self.cross_residual.before(x).reshape(cross[0].shape[0], -1, x.shape[2])  # (R, T, D) -> (B, R/B*T, D)
        attended = self.cross_attention(h, cross, cross_mask).reshape(x.shape)
        return self.cross_residual.after(x, attended)


class Stack(nn.Module):
    """``n_layers`` layers, and one more normalization at the end: with pre-norm residuals arrive there bare.

    With ``relative`` positions its self-attentions share one bias.
    """

    def __init__(
        self, config: StackConfig, layers: Sequence[nn.Module], relative: RelativeConfig | None, both_ways: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.final_norm = norm(config) if config.ends_in_norm else nn.Identity()
        self.relative_bias = None if relative is None else RelativeBias(relative, config.n_heads, both_ways)

    def biased(self, mask: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """What self-attention takes for its mask: boolean ``mask (B, 1, T, C)``, or what it adds to the scores.

        ``queries (B, T)`` and ``keys (B, C)`` are positions.
        """
        return mask if self.relative_bias is None else torch.where(mask, self.relative_bias(queries, keys), NEVER)


class Transformer(nn.Module):
    """The reference network: what the fields of its configuration say, and nothing by the name of a model.

    ``dropout`` matters in training only: on embeddings and on every residual.
    """

    positions: Tensor | None

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        embedded = config.embedding_width or config.d_model
        self.embedding = nn.Embedding(config.vocab_size, embedded)
        self.source_embedding = (
            None if config.source_vocab_size is None else nn.Embedding(config.source_vocab_size, config.d_model)
        )
        self.front = None if config.speech is None else ConvolutionalFront(config.speech, config.d_model)
        self.embedding_dropout = Dropout(dropout)
        self._add_positions()
        enc, dec = config.encoder, config.decoder
        self.token_types = nn.Embedding(config.token_types, embedded) if config.token_types else None
        self.embedding_norm = layer_norm(enc, embedded) if enc is not None and config.embedding_norm else None
        self.embedding_projection = nn.Linear(embedded, config.d_model) if config.embedding_width else None
        own = config.decoder_embeddings
        self.decoder_positions = (
            nn.Parameter(self.positions.detach().clone()) if own and self.positions is not None else None
        )
        self.decoder_embedding_norm = layer_norm(dec, config.d_model) if dec and own and config.embedding_norm else None
        self._add_stacks(dropout)
        self._add_head()
        self._initialize()

    def _add_stacks(self, dropout: float) -> None:
        enc, dec, relative = self.config.encoder, self.config.decoder, self.config.relative
        self.encoder = self.decoder = None
        if enc is not None:
            self.encoder = Stack(enc, [EncoderLayer(enc, dropout, i == 0) for i in range(enc.n_layers)], relative, True)
        if dec is not None:
            layers = [DecoderLayer(dec, dropout, enc is not None) for _ in range(dec.n_layers)]
            self.decoder = Stack(dec, layers, relative, False)

    def _add_head(self) -> None:
        config = self.config
        outputs = {"classes": len(config.class_names), "tags": len(config.class_names), "span": 2}.get(config.head)
        self.classifier = nn.Linear(config.d_model, outputs) if outputs else None
        self.pooler = nn.Linear(config.d_model, config.d_model) if config.pooler else None
        dense = config.dense
        self.dense = None if dense is None else nn.Linear(config.d_model, dense.width, bias=dense.bias)
        self.transform = self.transform_norm = None
        if config.head_transform:
            assert config.encoder is not None
            embedded = (config.head == "vocabulary" and config.embedding_width) or config.d_model
            self.transform = nn.Linear(config.d_model, embedded, bias=config.transform_bias)
            self.transform_norm = layer_norm(config.encoder, embedded)
        words = config.head == "vocabulary"
        untied, biased = words and not config.tied, words and config.output_bias
        self.vocabulary = nn.Linear(config.d_model, config.vocab_size, bias=False) if untied else None
        self.vocabulary_bias = nn.Parameter(torch.zeros(config.vocab_size)) if biased else None

    def _add_positions(self) -> None:
        """A table ``(max_positions, D)`` to add to the embeddings, rotations inside the attentions, or neither."""
        config = self.config
        width = config.embedding_width or config.d_model
        self.rotary = self.window_rotary = None
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.empty(config.max_positions, width).normal_(std=0.02))
        elif config.positions in ("sinusoidal", "sinusoidal_halves"):
            halves = config.positions == "sinusoidal_halves"
            table = sinusoidal_positions(config.max_positions, width, halves)
            self.register_buffer("positions", table, persistent=False)
        else:
            self.positions = None
        stack = config.encoder or config.decoder
        if config.rope is not None and stack is not None:
            self.rotary = Rotary(config.rope, stack.head_width, config.max_positions)
            if config.window_rope is not None:
                self.window_rotary = Rotary(config.window_rope, stack.head_width, config.max_positions)

    def _initialize(self) -> None:
        """Xavier's widths, halved in what a residual adds up.

        With full widths post-norm sat for thousands of updates on a language model that ignored its source; with half
        of them the sum begins close to its first term, and gradients reach the encoder.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                added = name.endswith((".value", ".output", ".inner", ".outer"))
                nn.init.xavier_uniform_(module.weight, gain=0.5 if added else 1.0)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for table in filter(None, (self.embedding, self.source_embedding)):
            nn.init.normal_(table.weight, std=self.config.d_model**-0.5)

    def embed(self, ids: Tensor, positions: Tensor, segments: Tensor | None = None, *, decoder: bool = False) -> Tensor:
        """Token embedding (section 3.4), times sqrt(D) or not, plus position (3.5) and segment, normalized or not.

        ``(B, T)``, ``(B, T)``, ``(B, T) -> (B, T, D)``; without ``segments`` every token is in segment 0.
        """
        tokens = self.embedding if decoder or self.source_embedding is None else self.source_embedding
        x: Tensor = tokens(ids)
        if self.config.scale_embeddings:
            x = x * math.sqrt(self.config.d_model)
        if self.token_types is not None:
            x = x + (self.token_types.weight[0] if segments is None else self.token_types(segments))
        own = decoder and self.config.decoder_embeddings
        table = self.decoder_positions if own else self.positions
        if table is not None:
            x = x + table[positions]
        norm = self.decoder_embedding_norm if own else self.embedding_norm
        if norm is not None:
            x = norm(x)
        x = self.embedding_dropout(x)
        return x if self.embedding_projection is None else self.embedding_projection(x)

    def encode(self, ids: Tensor, mask: Tensor, segments: Tensor | None = None) -> Tensor:
        """Hidden states ``(B, S, D)`` of ``ids (B, S)``; boolean ``mask (B, S)`` is false for padding.

        ``segments (B, S)``: which of a pair's texts a token is in, as the configuration numbers them.
        """
        assert self.encoder is not None
        stack = self.config.encoder
        assert stack is not None
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        x = self.embed(ids, positions.expand_as(ids), segments)
        scores = self.encoder.biased(mask[:, None, None, :], positions, positions)
        near = scores if stack.window is None else both_ways_mask(mask, stack.window)
        for i, layer in enumerate(self.encoder.layers):
            rotary = self._rotary_of(i, stack)
            rotate = None if rotary is None else partial(rotary, positions=positions.expand_as(ids))
            x = layer(x, scores if stack.window_of(i) is None else near, rotate)
        return self.encoder.final_norm(x)  # type: ignore[no-any-return]

    def listen(self, features: Tensor) -> Tensor:
        """Hidden states ``(B, S, D)`` of log-mel ``features (B, bands, 2 * S)``, in which nothing is padding."""
        assert self.encoder is not None and self.front is not None
        x = self.embedding_dropout(self.front(features))
        for layer in self.encoder.layers:
            x = layer(x, None)
        return self.encoder.final_norm(x)  # type: ignore[no-any-return]

    def cross_key_value(self, hidden: Tensor) -> list[KeyValue]:
        """Cross-attention K/V of every decoder layer from the encoder's ``hidden (B, S, D)``, computed once."""
        assert self.decoder is not None
        return [layer.cross_attention.key_value(hidden) for layer in self.decoder.layers]  # type: ignore[union-attr,operator]

    def decode(
        self,
        ids: Tensor,
        positions: Tensor,
        key_mask: Tensor,
        past: Sequence[KeyValue] | None = None,
        cross: Sequence[KeyValue] | None = None,
        cross_mask: Tensor | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Hidden states ``(R, T, D)`` of ``ids (R, T)`` and the cache with their keys and values.

        ``positions (R, T)`` counts real tokens, ``key_mask (R, C)`` is false for padding, ``past`` holds ``P`` tokens a
        layer, ``cross`` the K/V of ``B`` sources where ``R`` is a multiple of ``B``, ``cross_mask (B, S)``.
        """
        assert self.decoder is not None
        x = self.embed(ids, positions, decoder=True)
        stack = self.config.decoder
        assert stack is not None
        mask = look_ahead_mask(ids.shape[1], key_mask)
        near = mask if stack.window is None else window_mask(mask, key_mask, stack.window)
        mask = self.decoder.biased(mask, positions, key_mask.cumsum(1) - 1)
        source_mask = None if cross_mask is None else cross_mask[:, None, None, :]
        presents: list[KeyValue] = []
        for i, layer in enumerate(self.decoder.layers):
            seen = mask if stack.window_of(i) is None else near
            rotary = self._rotary_of(i, stack)
            rotate = None if rotary is None else partial(rotary, positions=positions)
            x, present = layer(x, seen, past[i] if past else None, cross[i] if cross else None, source_mask, rotate)
            presents.append(present)
        return self.decoder.final_norm(x), presents

    def _rotary_of(self, layer: int, stack: StackConfig) -> Rotary | None:
        """The rotary positions of a layer, where it has some."""
        if layer in stack.unturned_layers:
            return None
        windowed = self.window_rotary is not None and stack.window_of(layer) is not None
        return self.window_rotary if windowed else self.rotary

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary (section 3.4): ``(..., D) -> (..., V)``."""
        logits, cap = self.project(self.transformed(hidden)), self.config.logit_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def transformed(self, hidden: Tensor) -> Tensor:
        """What the output projection reads, or a classifier: ``(..., D) -> (..., D)``."""
        if self.config.scale_outputs:
            scale: float = self.config.d_model**-0.5
            return hidden * scale
        if self.transform is None or self.transform_norm is None:
            return hidden
        assert self.config.head_transform is not None
        activation = ACTIVATIONS[self.config.head_transform]
        return self.transform_norm(activation(self.transform(hidden)))  # type: ignore[no-any-return]

    def project(self, hidden: Tensor) -> Tensor:
        """The output projection: ``(..., D) -> (..., V)``."""
        matrix = self.embedding if self.vocabulary is None else self.vocabulary
        return nn.functional.linear(hidden, matrix.weight, self.vocabulary_bias)

    def classify(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Logits of the classes from the pooled states: ``(B, S, D)``, ``(B, S) -> (B, classes)``.

        By default the mean of the unmasked states; with a ``pooler`` one more layer is between (``BertPooler``), and so
        it is with a ``head_transform``.
        """
        assert self.classifier is not None
        pooled = self.pooled(hidden, mask)
        if self.pooler is not None:
            pooled = _POOLERS[self.config.pooler or "tanh"](self.pooler(pooled))
        return self.classifier(self.transformed(pooled))  # type: ignore[no-any-return]

    def tag(self, hidden: Tensor) -> Tensor:
        """Logits of every token's classes, or of a span's two ends: ``(B, S, D) -> (B, S, classes)``."""
        assert self.classifier is not None
        return self.classifier(self.transformed(hidden))  # type: ignore[no-any-return]

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """One vector a text (Reimers and Gurevych 2019, section 3): ``(B, S, D)``, ``(B, S) -> (B, D)``.

        With a ``dense`` layer its width takes the place of ``D``.
        """
        pooled = self.pooled(hidden, mask)
        if self.dense is not None and self.config.dense is not None:
            pooled = self.dense(pooled).tanh() if self.config.dense.activation == "tanh" else self.dense(pooled)
        return nn.functional.normalize(pooled, dim=-1) if self.config.normalize else pooled

    def pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """One state a text, the first or the mean: ``(B, S, D)``, ``(B, S) -> (B, D)``."""
        return hidden[:, 0] if self.config.pooling == "first" else _mean(hidden, mask)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Teacher-forced decoder states ``(B, T, D)`` of padded ``source (B, S)`` and ``target (B, T)``.

        A decoder-only model ignores ``source``. Padding is recognised by ``pad_id``, on the right.
        """
        pad = self.config.pad_id
        positions = torch.arange(target.shape[1], device=target.device)[None].expand_as(target)
        cross = cross_mask = None
        if self.encoder is not None:
            cross_mask = source != self.config.pad_source
            cross = self.cross_key_value(self.encode(source, cross_mask))
        return self.decode(target, positions, target != pad, cross=cross, cross_mask=cross_mask)[0]


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean of the unmasked states: ``(B, S, D)``, ``(B, S) -> (B, D)``."""
    weight = mask[:, :, None].to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1.0)
