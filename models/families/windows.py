"""Which layers of a decoder see a window of the text before them, as Hugging Face's configurations say it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .family import Fields

FULL, SLIDING = "full_attention", "sliding_attention"


def windows_of(
    fields: Fields,
    size: Any,
    layers: Any,
    slides: Callable[[int], bool] = lambda _: True,
    always: bool = False,
) -> dict[str, Any]:
    """The fields of a stack about windows of ``size`` keys, or of none; all faults go to ``fields``.

    ``layer_types`` names the kind of every layer; files without it are older than it, and mean the layers that
    ``slides`` gives. A window as long as the context is none, unless ``always``: layers may differ in more.
    """
    kinds = fields.get("layer_types", list, None)
    if not isinstance(layers, int) or not 0 <= layers <= 10_000:  # refused elsewhere
        return {}
    if kinds is None:
        kinds = [SLIDING if size is not None and slides(i) else FULL for i in range(layers)]
    if len(kinds) != layers or any(kind not in (FULL, SLIDING) for kind in kinds):
        fields.faults.append(f"layer_types is {kinds!r}, expected {FULL!r} or {SLIDING!r} for each of {layers} layers")
    chosen = tuple(i for i, kind in enumerate(kinds) if kind == SLIDING)
    if chosen and size is None:
        fields.faults.append(f"layer_types has {SLIDING!r}, but there is no sliding_window")
    if not chosen or size is None:
        return {}
    if not always and size >= (fields.get("max_position_embeddings", int) or 0):
        return {}
    return {"window": size, "windowed_layers": None if len(chosen) == layers else chosen}
