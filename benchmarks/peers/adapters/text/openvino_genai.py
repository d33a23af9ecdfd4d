"""OpenVINO GenAI: graphs of optimum-intel under its own loop, with its own defaults for latency."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai

from ...cell import Order, Tokens, Vectors


class GenAI:
    """One pipeline. Kept prefixes of earlier prompts are turned off: a repeated prompt would cost nothing."""

    def __init__(self, order: Order) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching, scheduler.cache_size = False, 1  # GB
        properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": order.threads}
        self.pipeline = genai.LLMPipeline(order.model, "CPU", scheduler_config=scheduler, **properties)

    def decode(self, sources: Tokens, beam_size: int, limit: int) -> Tokens:
        """One request of equally long prompts."""
        ids = np.array(sources, dtype=np.int64)
        config = genai.GenerationConfig()
        config.min_new_tokens = config.max_new_tokens = limit
        config.ignore_eos, config.do_sample, config.apply_chat_template = True, False, False
        config.num_beams = beam_size
        inputs = genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        return [list(row) for row in self.pipeline.generate(inputs, config).tokens]

    def log_probs(self, texts: Tokens) -> Vectors | None:
        """It hands out no logits."""
        return None

    def versions(self) -> dict[str, str]:
        """As everywhere."""
        return {"openvino-genai": version("openvino-genai"), "openvino": version("openvino")}


def open_model(order: Order) -> GenAI:
    """Open a folder of graphs and their tokenizer."""
    return GenAI(order)
