"""The network of a GGUF file, by the table of the family that it is of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..families import family_of
from ..families.family import Family
from .gpt2 import gpt2_config, gpt2_tensors
from .hugging_face import config_json, tensors
from .llama import ARCHITECTURES, GPT2, llama_parameters
from .reader import GgufFile
from .sizes import architecture_of
from .vocabulary import Vocabulary

MAX_CONTEXT = 8192
"""Tokens: some files announce a hundred thousand and more, whose float32 keys and values few devices could hold."""


class Network(NamedTuple):
    """A family's row, its ``config.json`` and tensors, and how many tokens a text may have."""

    family: Family
    config: dict[str, Any]
    tensors: Iterator[tuple[str, NDArray[np.float32]]]
    longest: int


def network_of(file: GgufFile, vocabulary: Vocabulary) -> Network:
    """What ``file`` holds, one tensor read at a time.

    A context above ``MAX_CONTEXT`` is cut, but where the file has a table of positions.

    Raises:
        CheckpointError: another architecture; metadata and tensors that do not fit each other, or are not understood.
    """
    if architecture_of(file) == GPT2:
        config = gpt2_config(file, vocabulary)
        return Network(family_of(config, str(file.path)), config, gpt2_tensors(file), config["n_positions"])
    parameters = llama_parameters(file)
    config = config_json(file, parameters, vocabulary)
    config["max_position_embeddings"] = longest = min(parameters["max_positions"], MAX_CONTEXT)
    family = family_of(config, str(file.path))
    if ARCHITECTURES[parameters["architecture"]].whole_norms:
        family = replace(family, adapt=Family.adapt)
    return Network(family, config, tensors(file, parameters), longest)
