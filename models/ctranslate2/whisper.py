"""The network of CTranslate2's ``WhisperSpec``, and what the files beside it say of its control tokens.

Source: ``python/ctranslate2/specs/whisper_spec.py`` of CTranslate2 4.8.5, and ``src/models/whisper.cc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig, StackConfig
from ..families.whisper import speech_tokens
from ..speech import SpeechConfig
from .network import Network
from .reader import ModelBin
from .variables import Variables

SPEC = "WhisperSpec"
MAX_INITIAL_TIMESTAMP = 50
"""``max_initial_timestamp_index`` of ``Whisper.generate``."""
_ONE_KIND = {"encoder/pre_norm": 1, "encoder/activation": 3}
"""What the file leaves out, since it is never otherwise: normalization before sub-layers, and GELU."""


def whisper_network(
    model: ModelBin, text: Mapping[str, Any], tokens: Mapping[str, Any]
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and tensors; ``text``: ids that begin and end texts, ``tokens``: fields of the speech.

    Raises:
        CheckpointError: variables are missing, unknown, or do not fit.
        ConfigError: what they say contradicts itself.
    """
    known = {name: torch.tensor(value) for name, value in _ONE_KIND.items()}
    network = Network(Variables({**known, **model.variables}), None)
    v, tensors = network.variables, network.tensors
    stacks = {side: network.stack(side, cross=side == "decoder") for side in ("encoder", "decoder")}
    for theirs, ours in (("conv1", "first"), ("conv2", "second")):
        for kind in ("weight", "bias"):
            tensors[f"front.{ours}.{kind}"] = v.weight(f"encoder/{theirs}/{kind}")
    tensors["front.positions"] = v.weight("encoder/position_encodings/encodings")
    tensors["positions"] = v.weight("decoder/position_encodings/encodings")
    tensors["embedding.weight"] = v.weight("decoder/embeddings/weight")
    v.only("decoder/scale_embeddings", 0)
    output = network.output()
    network.refuse_faults()
    speech = SpeechConfig(
        bands=tensors["front.first.weight"].shape[1], frames=2 * len(tensors["front.positions"]), **tokens
    )
    made: dict[str, Any] = {name: StackConfig(**values) for name, values in stacks.items()}
    return ModelConfig(
        **{**text, **output, **made},
        vocab_size=len(tensors["embedding.weight"]),
        max_positions=len(tensors["positions"]),
        positions="learned",
        scale_embeddings=False,
        speech=speech,
    ), tensors


def whisper_tokens(config: Mapping[str, Any], vocabulary: int, tokenizer: Any, where: str) -> dict[str, Any]:
    """The fields of a speech that are tokens; how many tokens there are tells whether there are several languages.

    Raises:
        CheckpointError: a control token is missing, or a setting is not what it has to be.
    """
    settings = {
        "vocab_size": vocabulary,
        "begin_suppress_tokens": config.get("suppress_ids_begin"),
        "max_initial_timestamp_index": MAX_INITIAL_TIMESTAMP,
    }
    return speech_tokens(settings, tokenizer, where)
