"""An engine for tests: the runtime's protocols over the PyTorch reference, which re-reads the prefix at every step."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgewise.models.attention import cross_attention_weights
from edgewise.models.decode import Memory, next_logits
from edgewise.models.transformer import Transformer
from edgewise.runtime.engine import Candidates, Floats, Ids, Mask

LAYER = 1
"""The layer whose attention is given: the last of a tiny model's two."""
VERIFY_TOKENS = 8


class TorchRun:
    """Keeps what every row has read, as a plain array; buffers are reused, as real engines do."""

    def __init__(self, model: Transformer, memory: Memory, beams: int, capacity: int, candidates: int) -> None:
        self.model, self.memory = model, memory
        self.beams, self.capacity, self.candidates = beams, capacity, candidates
        self.read: Ids = np.zeros((0, 0), np.int64)
        self.steps = self.passes = 0
        self.kept: list[int] = []
        self._logits: Tensor | None = None
        self._best: Candidates | None = None

    def prefill(self, ids: Ids) -> Candidates:
        assert ids.dtype == np.int64
        assert ids.shape[1] >= 1
        self.read = ids.repeat(self.beams, axis=0)
        return self._answer()

    def step(self, ids: Ids, parents: Ids) -> Candidates:
        assert ids.dtype == np.int64
        assert parents.dtype == np.int64
        assert (parents // self.beams == np.arange(len(parents)) // self.beams).all(), "a parent in another sentence"
        self.steps += 1
        self.read = np.concatenate([self.read[parents], ids[:, None]], axis=1)
        return self._answer()

    def verify(self, ids: Ids) -> Candidates:
        """As so many steps; the positions beyond ``ids`` have to be there as well."""
        assert self.read.shape[0] == 1
        assert ids.dtype == np.int64
        assert 1 <= len(ids) <= VERIFY_TOKENS
        assert self.read.shape[1] + VERIFY_TOKENS <= self.capacity, "no room for a whole pass"
        self.passes += 1
        found = []
        for token in ids:
            self.read = np.append(self.read, [[token]], axis=1)
            best, logits = self._answer(), self.last_logits()
            found.append((best.log_probs.copy(), best.ids.copy(), logits.copy()))
        log_probs, best_ids, logits = (np.concatenate(parts) for parts in zip(*found, strict=True))
        self._logits = torch.from_numpy(logits)
        return Candidates(log_probs, best_ids)

    def rewind(self, tokens: int) -> None:
        assert 0 <= tokens < self.read.shape[1]
        self.read = self.read[:, : self.read.shape[1] - tokens]

    def keep(self, sentences: Ids) -> None:
        count = len(sentences)
        assert ((sentences == np.arange(count)) | (sentences >= count)).all(), "a move that overwrites another"
        assert len(set(sentences.tolist())) == count
        rows = (sentences[:, None] * self.beams + np.arange(self.beams)).ravel()
        self.read, self._best = self.read[rows], None
        self.memory = self.memory.select(sentences.tolist())
        self.kept.append(count)

    def last_logits(self) -> Floats:
        assert self._logits is not None
        return self._logits.numpy()

    @torch.inference_mode()
    def _answer(self) -> Candidates:
        assert self.read.shape[1] <= self.capacity, "more tokens than the capacity asked for"
        self._logits = next_logits(self.model, self.memory, self.read.tolist())
        best = self._logits.log_softmax(-1).sort(descending=True, stable=True)
        values, ids = best.values[:, : self.candidates].numpy(), best.indices[:, : self.candidates].numpy()
        if self._best is None:
            self._best = Candidates(values.copy(), ids.copy())
        np.copyto(self._best.log_probs, values)
        np.copyto(self._best.ids, ids)
        return self._best


class TorchOpenRun:
    """A run that sentences join: what every row has read, all of it read again at every step, each sentence alone."""

    def __init__(self, model: Transformer, beams: int, candidates: int) -> None:
        self.model, self.beams, self.candidates = model, beams, candidates
        self.read: list[list[int]] = []  # of every row
        self.memories: list[Memory] = []  # of every sentence
        self.capacities: list[int] = []
        self.steps = 0
        self.rows: list[int] = []
        self._logits: Tensor | None = None

    def join(self, memory: Memory | None, prompts: Ids, capacity: int) -> None:
        memory = memory or Memory(None, None)
        for sentence, prompt in enumerate(prompts.tolist()):
            self.read += [prompt[:-1] for _ in range(self.beams)]
            self.memories.append(memory.select([sentence]))
            self.capacities.append(capacity)

    def step(self, ids: Ids, parents: Ids) -> Candidates:
        assert len(ids) == len(parents) == len(self.read)
        assert (parents // self.beams == np.arange(len(parents)) // self.beams).all(), "a parent in another sentence"
        self.steps += 1
        self.rows.append(len(ids))
        self.read = [[*self.read[parent], token] for parent, token in zip(parents.tolist(), ids.tolist(), strict=True)]
        return self._answer()

    def keep(self, sentences: Ids) -> None:
        count = len(sentences)
        assert ((sentences == np.arange(count)) | (sentences >= count)).all(), "a move that overwrites another"
        self.read = [self.read[s * self.beams + beam] for s in sentences.tolist() for beam in range(self.beams)]
        self.memories = [self.memories[s] for s in sentences.tolist()]
        self.capacities = [self.capacities[s] for s in sentences.tolist()]

    def last_logits(self) -> Floats:
        assert self._logits is not None
        return self._logits.numpy()

    @torch.inference_mode()
    def _answer(self) -> Candidates:
        parts = []
        for sentence, (memory, capacity) in enumerate(zip(self.memories, self.capacities, strict=True)):
            rows = self.read[sentence * self.beams : (sentence + 1) * self.beams]
            assert len(rows[0]) <= capacity, "more tokens than the capacity asked for"
            parts.append(next_logits(self.model, memory, rows))
        self._logits = torch.cat(parts)
        best = self._logits.log_softmax(-1).sort(descending=True, stable=True)
        return Candidates(best.values[:, : self.candidates].numpy(), best.indices[:, : self.candidates].numpy())


class TorchEngine:
    """The reference behind the interface that decoding sees."""

    def __init__(self, model: Transformer) -> None:
        self.model = model.eval()
        self.runs: list[TorchRun] = []
        self.open_runs: list[TorchOpenRun] = []
        self.encoded: list[tuple[int, ...]] = []
        self.sources: dict[int, list[list[int]]] = {}
        self._memories: list[Memory] = []

    @torch.inference_mode()
    def encode_source(self, ids: Ids, mask: Mask) -> Memory:
        self.encoded.append(ids.shape)
        hidden = self.model.encode(torch.from_numpy(ids), torch.from_numpy(mask))
        memory = Memory(self.model.cross_key_value(hidden), torch.from_numpy(mask))
        self.sources[id(memory)] = ids.tolist()
        self._memories.append(memory)  # so that no other gets its id
        return memory

    @property
    def verify_tokens(self) -> int:
        return VERIFY_TOKENS

    def start_verifying(self, memory: Memory | None, capacity: int, candidates: int) -> TorchRun:
        return self.start(memory, 1, 1, capacity, candidates)

    def start(self, memory: Memory | None, batch: int, beams: int, capacity: int, candidates: int) -> TorchRun:
        run = TorchRun(self.model, memory or Memory(None, None), beams, capacity, candidates)
        self.runs.append(run)
        return run

    def open_run(self, beams: int, candidates: int) -> TorchOpenRun | None:
        self.open_runs.append(TorchOpenRun(self.model, beams, candidates))
        return self.open_runs[-1]

    @torch.inference_mode()
    def decoder_logits(self, memory: Memory | None, ids: Ids, mask: Mask) -> Floats:
        positions = torch.arange(ids.shape[1])[None].expand(ids.shape)
        cross, cross_mask = memory or Memory(None, None)
        hidden, _ = self.model.decode(
            torch.from_numpy(ids), positions, torch.from_numpy(mask), cross=cross, cross_mask=cross_mask
        )
        return self.model.logits(hidden).numpy()

    def cross_attention(self, memory: Memory, sentences: Ids, ids: Ids) -> Floats:
        """Every row alone and unpadded; ``LAYER`` is the bundle's choice."""
        assert memory.mask is not None
        found = np.zeros((*ids.shape, memory.mask.shape[1]), np.float32)
        for row, (place, tokens) in enumerate(zip(sentences.tolist(), ids.tolist(), strict=True)):
            length = int(memory.mask[place].sum())
            source = self.sources[id(memory)][place][:length]
            own = deepcopy(self.model)  # it is watched while it runs, and other threads run the one they share
            found[row, :, :length] = cross_attention_weights(own, source, tokens, LAYER).mean(0).numpy()
        return found

    @torch.inference_mode()
    def encode(
        self, ids: Ids, mask: Mask, logit_index: Ids | None, segments: Ids | None = None
    ) -> tuple[Floats, Floats]:
        given = None if segments is None else torch.from_numpy(segments)
        hidden = self.model.encode(torch.from_numpy(ids), torch.from_numpy(mask), given)
        if self.model.classifier is not None:
            return hidden.numpy(), self.model.classify(hidden, torch.from_numpy(mask)).numpy()
        index = torch.zeros(len(ids), 1, dtype=torch.int64) if logit_index is None else torch.from_numpy(logit_index)
        wanted = hidden.gather(1, index[:, :, None].expand(-1, -1, hidden.shape[2]))
        return hidden.numpy(), self.model.logits(wanted).numpy()

    def describe(self) -> dict[str, Any]:
        return {"engine": "torch", "version": torch.__version__, "device": "CPU", "threads": 1}
