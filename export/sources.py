"""What a reference is given in a case: the tokens of a text, or what is heard; and what its decoder reads first."""

from __future__ import annotations

import torch

from ..models.config import ModelConfig
from ..models.heard import Heard, Source
from ..runtime.bundle.cases import Case
from ..runtime.bundle.model_spec import ModelSpec


def prompt_of(config: ModelConfig, case: Case) -> tuple[int, ...]:
    """What a decoder reads of a case before the first token of a result."""
    return case.prompt(ModelSpec.from_json(config.to_json()))


def source_of(config: ModelConfig, case: Case) -> Source:
    """What the network of ``config`` is asked in a case."""
    if case.heard is None or config.speech is None:
        return case.input_ids
    features = case.heard.features(config.speech.bands, config.speech.frames)
    return Heard(torch.from_numpy(features.copy()), case.input_ids)
