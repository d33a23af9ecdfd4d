"""What a network is trained for: examples in, hidden states and their labels out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from .data import pad
from .loss import smoothed_cross_entropy
from .tokenizer import END_ID, MASK_ID, PAD_ID, START_ID
from .transformer import Transformer

Ids = list[list[int]]


def encode_lines(tokenizer: Tokenizer, lines: Sequence[str], limit: int) -> Ids:
    """Token ids of every line, cut to ``limit``; no specials."""
    return [encoding.ids[:limit] for encoding in tokenizer.encode_batch(list(lines), add_special_tokens=False)]


def next_tokens(model: Transformer, source: Tensor, targets: Ids) -> tuple[Tensor, Tensor]:
    """Decoder states of every target shifted right by the start token, and the tokens that should follow."""
    seen = pad([[START_ID, *ids] for ids in targets], PAD_ID)
    labels = pad([[*ids, END_ID] for ids in targets], PAD_ID)
    hidden = model(source, seen)
    return hidden[labels != PAD_ID].float(), labels[labels != PAD_ID]


class Task(ABC):
    """One training objective over a fixed list of examples."""

    @abstractmethod
    def tokenize(self, tokenizer: Tokenizer) -> None:
        """Read the examples with ``tokenizer``; called anew each epoch where merges are dropped."""

    @abstractmethod
    def lengths(self) -> list[int]:
        """Tokens an example, by which batches are filled."""

    @abstractmethod
    def states(self, model: Transformer, batch: list[int], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Hidden states ``(M, D)`` and their labels ``(M,)``."""

    def backward(
        self, model: Transformer, states: Tensor, labels: Tensor, smoothing: float, low_precision: bool
    ) -> float:
        """Loss of the states with smoothed labels; gradients go to every parameter."""
        assert model.vocabulary_bias is not None
        loss, gradient = smoothed_cross_entropy(
            states.detach(), model.embedding.weight, model.vocabulary_bias, labels, smoothing, low_precision
        )
        states.backward(gradient)  # type: ignore[no-untyped-call]
        return loss

    @torch.no_grad()
    def loss(self, model: Transformer, states: Tensor, labels: Tensor) -> tuple[float, int]:
        """Summed negative log-probability (nats) without smoothing, and how many labels it is over."""
        logits = model.logits(states) if model.classifier is None else states
        return F.cross_entropy(logits, labels, reduction="sum").item(), len(labels)


class Translation(Task):
    """Target tokens from source tokens and the target's own past (section 3.1)."""

    def __init__(self, source: Sequence[str], target: Sequence[str], limit: int) -> None:
        self.text = (source, target)
        self.limit = limit
        self.source: Ids = []
        self.target: Ids = []

    def tokenize(self, tokenizer: Tokenizer) -> None:
        """See :class:`Task`."""
        self.source, self.target = (encode_lines(tokenizer, text, self.limit - 2) for text in self.text)

    def lengths(self) -> list[int]:
        """The longer side counts, with its end token."""
        return [max(len(s), len(t)) + 1 for s, t in zip(self.source, self.target, strict=True)]

    def states(self, model: Transformer, batch: list[int], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """See :class:`Task`."""
        source = pad([[*self.source[i], END_ID] for i in batch], PAD_ID)
        return next_tokens(model, source, [self.target[i] for i in batch])


class LanguageModel(Task):
    """Each token from those before it."""

    def __init__(self, text: Sequence[str], limit: int) -> None:
        self.text, self.limit = text, limit
        self.ids: Ids = []

    def tokenize(self, tokenizer: Tokenizer) -> None:
        """See :class:`Task`."""
        self.ids = encode_lines(tokenizer, self.text, self.limit - 2)

    def lengths(self) -> list[int]:
        """Tokens with the end token."""
        return [len(ids) + 1 for ids in self.ids]

    def states(self, model: Transformer, batch: list[int], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """See :class:`Task`."""
        return next_tokens(model, torch.empty(0, 0), [self.ids[i] for i in batch])


class MaskedWords(LanguageModel):
    """A word that was hidden from the words around it (Devlin et al. 2019, section 3.1).

    Of the tokens 15 % are to be predicted: 80 % of these are replaced by the mask token, 10 % by a random one.
    """

    share = 0.15

    def states(self, model: Transformer, batch: list[int], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """See :class:`Task`."""
        ids = pad([[*self.ids[i], END_ID] for i in batch], PAD_ID)
        usable = (ids != PAD_ID) & (ids != END_ID)
        chosen = usable & (torch.from_numpy(rng.random(ids.shape)) < self.share)
        chosen[0, 0] |= not bool(chosen.any())
        fate = torch.from_numpy(rng.random(ids.shape))
        noise = torch.from_numpy(rng.integers(MASK_ID + 1, model.config.vocab_size, ids.shape))
        seen = torch.where(chosen & (fate < 0.8), MASK_ID, torch.where(chosen & (fate >= 0.9), noise, ids))
        hidden = model.encode(seen, ids != PAD_ID)
        return hidden[chosen].float(), ids[chosen]


class Classification(LanguageModel):
    """A class for a sentence. Its states are already the scores of the classes."""

    def __init__(self, text: Sequence[str], labels: Sequence[int], limit: int, word_dropout: float = 0.0) -> None:
        super().__init__(text, limit)
        self.labels, self.word_dropout = labels, word_dropout

    def states(self, model: Transformer, batch: list[int], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Scores ``(B, classes)`` and labels ``(B,)``."""
        ids = pad([[*self.ids[i], END_ID] for i in batch], PAD_ID)
        mask = ids != PAD_ID
        if model.training and self.word_dropout:
            hidden_words = torch.from_numpy(rng.random(ids.shape)) < self.word_dropout
            ids = torch.where(hidden_words & mask & (ids != END_ID), MASK_ID, ids)
        scores = model.classify(model.encode(ids, mask), mask)
        return scores.float(), torch.tensor([self.labels[i] for i in batch])

    def backward(
        self, model: Transformer, states: Tensor, labels: Tensor, smoothing: float, low_precision: bool
    ) -> float:
        """See :class:`Task`."""
        loss = F.cross_entropy(states, labels, label_smoothing=smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()
