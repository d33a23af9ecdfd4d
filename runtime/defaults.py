"""What a caller asks of decoding, over what the bundle recommends."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from .bundle.decoding import Generation
from .options import Sampling, shown

PLAIN = Generation(beam_size=1, length_penalty=0.6, max_new_tokens=None)
"""Where a bundle says nothing."""


def with_defaults(given: Mapping[str, Any], own: Generation | None) -> dict[str, Any]:
    """Arguments of :class:`DecodingOptions`: those ``given`` that are not ``None``, and a bundle's ``own``.

    Of its own, those are left out that could not stand beside what is given: beams beside samples and alternatives,
    ``early_stopping`` without beams, the fewest tokens beside a limit below them, and beside a grammar both that and
    ``no_repeat_ngram``, which ``None`` turns off, too. What the bundle suppresses stays suppressed.

    Raises:
        InputError: recommended sampling is asked for, and there is none.
    """
    own = own or PLAIN
    chosen = {field.name: getattr(own, field.name) for field in dataclasses.fields(own) if field.name != "sampling"}
    asked = {name: value for name, value in given.items() if value is not None}
    if "sampling" in asked or "alternatives" in asked:
        chosen["beam_size"] = 1
    if "grammar" in asked or ("no_repeat_ngram" in given and "no_repeat_ngram" not in asked):
        chosen["no_repeat_ngram"] = None
    most = asked.get("max_new_tokens")
    if "grammar" in asked:
        chosen["min_new_tokens"] = 0
    elif isinstance(most, int):
        chosen["min_new_tokens"] = min(chosen["min_new_tokens"], most)
    if asked.get("beam_size", chosen["beam_size"]) == 1:
        chosen["early_stopping"] = False
    if isinstance(asked.get("suppress"), list | tuple):
        asked["suppress"] = (*own.suppress, *asked["suppress"])
    if "sampling" in asked:
        asked["sampling"] = _sampling(asked["sampling"], own)
    return {**chosen, **asked}


def _sampling(given: Any, own: Generation) -> Any:
    if not isinstance(given, str):
        return given
    if given != "recommended":
        raise InputError(f"sampling ({shown(given)}) must be a Sampling, 'recommended', or None")
    if own.sampling is None:
        raise InputError("this bundle recommends no sampling: pass edgewise.Sampling(...)")
    return Sampling(**dataclasses.asdict(own.sampling))
