"""onnxruntime-genai: graphs of its own builder under its own loop."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime_genai as genai

from ...cell import Order, Tokens, Vectors


class GenAI:
    """One model; a generator a request, as its API has it."""

    def __init__(self, order: Order) -> None:
        config = genai.Config(order.model)
        options = {"session_options": {"intra_op_num_threads": order.threads, "inter_op_num_threads": 1}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self.model = genai.Model(config)

    def decode(self, sources: Tokens, beam_size: int, limit: int) -> Tokens:
        """One request of equally long prompts."""
        prompt = len(sources[0])
        parameters = genai.GeneratorParams(self.model)
        parameters.set_search_options(
            min_length=prompt + limit,
            max_length=prompt + limit,
            batch_size=len(sources),
            num_beams=beam_size,
            do_sample=False,
            past_present_share_buffer=True,
        )
        generator = genai.Generator(self.model, parameters)
        ids = np.array(sources, dtype=np.int32)
        generator.append_tokens(ids if len(sources) > 1 else ids[0])
        for _ in range(limit):
            generator.generate_next_token()
        return [[int(token) for token in generator.get_sequence(row)[prompt:]] for row in range(len(sources))]

    def log_probs(self, texts: Tokens) -> Vectors | None:
        """It hands out the logits of the last place alone."""
        return None

    def versions(self) -> dict[str, str]:
        """As everywhere."""
        return {"onnxruntime-genai": genai.__version__}


def open_model(order: Order) -> GenAI:
    """Open the folder that its builder wrote."""
    return GenAI(order)
