"""The sources of reference cases, encoded: tokens, or the features of speech."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .bundle.cases import Case
from .bundle.model_spec import ModelSpec
from .engine import Engine, Memory
from .inputs import right_pad


def memory_of(engine: Engine, model: ModelSpec, cases: Sequence[Case]) -> Memory:
    """What ``engine`` keeps of the sources of ``cases``; ``None`` without an encoder.

    Raises:
        BundleFormatError: what a case hears is not what was recorded.
    """
    if model.encoder is None:
        return None
    if model.speech is None:
        return engine.encode_source(*right_pad([case.input_ids for case in cases], model.pad_source))
    bands, frames = model.speech.bands, model.speech.frames
    heard = [case.heard.features(bands, frames) for case in cases if case.heard is not None]
    return engine.encode_features(np.stack(heard))
