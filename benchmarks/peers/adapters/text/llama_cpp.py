"""llama.cpp, built for this processor, through the C functions that llama-cpp-python hands on."""

from __future__ import annotations

import ctypes
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from ...cell import Order, Tokens, Vectors
from .log_softmax import next_log_probs

CONTEXT = 512


def _say_nothing(level: int, text: bytes, data: Any) -> None:
    """Its library tells much on stderr."""


_SILENT = llama_cpp.llama_log_callback(_say_nothing)  # kept, as the library holds on to it


class LlamaCpp:
    """One context of ``CONTEXT`` tokens; the best of the logits is found in NumPy."""

    def __init__(self, order: Order) -> None:
        llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        (file,) = Path(order.model).glob("*.gguf")
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = CONTEXT
        parameters.n_threads = parameters.n_threads_batch = order.threads
        self.context = llama_cpp.llama_init_from_model(self.model, parameters)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def decode(self, sources: Tokens, beam_size: int, limit: int) -> Tokens:
        """One request; prompts one after the other."""
        return [self._greedy(source, limit) for source in sources]

    def _greedy(self, prompt: list[int], limit: int) -> list[int]:
        self._clear()
        tokens = [self._next(prompt)]
        while len(tokens) < limit:
            tokens.append(self._next(tokens[-1:]))
        return tokens

    def _next(self, ids: list[int]) -> int:
        read = (llama_cpp.llama_token * len(ids))(*ids)  # a batch only points there, so it must outlive the call
        self._read(llama_cpp.llama_batch_get_one(read, len(ids)))
        return int(self._logits(-1).argmax())

    def log_probs(self, texts: Tokens) -> Vectors | None:
        """A pass a text, with the logits of all its places."""
        found = []
        for text in texts:
            self._clear()
            batch = llama_cpp.llama_batch_init(len(text), 0, 1)
            batch.n_tokens = len(text)
            for i, token in enumerate(text):
                batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            self._read(batch)
            logits = np.stack([self._logits(i) for i in range(len(text))])
            llama_cpp.llama_batch_free(batch)
            found.append(next_log_probs(logits, text))
        return found

    def _clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def _read(self, batch: Any) -> None:
        if status := llama_cpp.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode ended with status {status}, expected 0")

    def _logits(self, place: int) -> NDArray[np.float32]:
        pointer = llama_cpp.llama_get_logits_ith(self.context, place)
        return np.ctypeslib.as_array(pointer, (self.vocabulary,))

    def versions(self) -> dict[str, str]:
        """As everywhere."""
        return {"llama-cpp-python": version("llama-cpp-python")}


def open_model(order: Order) -> LlamaCpp:
    """Open the one GGUF file of a folder."""
    return LlamaCpp(order)
