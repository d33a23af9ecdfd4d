"""What graphs say of their network by their inputs and outputs."""

from __future__ import annotations

import re

import onnx_ir as ir

from ...errors import ExportError
from ...models.families.graph_settings import GraphSizes
from .adapt import cache_size

_KEY = re.compile(r"past_key_values\.\d{1,3}\.(?:decoder\.)?key")


def sizes_of(encoder: ir.Model | None, later: ir.Model | None, alone: ir.Model | None, where: str) -> GraphSizes:
    """The sizes of an encoder's decoder, from the graph of its ``later`` calls, or of a graph ``alone``.

    Raises:
        ExportError: the caches are none, or differ from layer to layer.
    """
    decoder = alone if later is None else later
    assert decoder is not None
    keys = [value for value in decoder.graph.inputs if _KEY.fullmatch(value.name or "")]
    if not keys:
        pairs = any(value.name == "token_type_ids" for value in decoder.graph.inputs)
        return GraphSizes(kind="encoder", pairs=pairs)
    sizes = {cache_size(value, where) for value in keys}
    if len(sizes) > 1:
        raise ExportError(f"{where}: the caches have heads and widths {sorted(sizes)}, expected the same in all layers")
    ((heads, width),) = sizes
    return GraphSizes(
        kind="decoder" if encoder is None else "encoder-decoder",
        vocab_size=_vocabulary(decoder),
        layers=len(keys),
        kv_heads=heads,
        head_dim=width,
    )


def _vocabulary(model: ir.Model) -> int | None:
    """The last size of the logits, where they say it."""
    logits = next((value for value in model.graph.outputs if value.name == "logits"), None)
    last = logits.shape[-1] if logits is not None and logits.shape is not None and len(logits.shape) else None
    return last if isinstance(last, int) else None
