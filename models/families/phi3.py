"""Phi-3 and Phi-4-mini (Abdin et al. 2024): Llama with fused matrices, whose heads may turn in part.

Reference: ``transformers/models/phi3/modeling_phi3.py`` of transformers 5.24.0, ``Phi3ForCausalLM``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..config import ModelConfig
from .family import Facts, Family, Fields
from .gpt_neox import turned_rows
from .rope import partial_rope_of
from .rotary_decoder import COPIES, DROPPED, KEYS, LAYER, OURS, rotary_decoder
from .windows import windows_of

if TYPE_CHECKING:
    from torch import Tensor

_SHARE = "partial_rotary_factor"
_FUSED = re.compile(r"(model\.layers\.\d{1,4}\.self_attn\.)qkv_proj(\.weight)")


def _config(fields: Fields, facts: Facts) -> ModelConfig:
    width, heads = fields.get("hidden_size", int), fields.get("num_attention_heads", int)
    usual = width // heads if isinstance(width, int) and isinstance(heads, int) and heads > 0 else None
    head_dim = fields.get("head_dim", int, usual)
    fields.only(layer_types=None)  # the library does not read them here
    windows = windows_of(fields, fields.get("sliding_window", int, None), fields.get("num_hidden_layers", int))
    rope = partial_rope_of(fields, head_dim, 1.0, share_field=_SHARE)
    fields.get("rms_norm_eps", float)  # the usual one is another than elsewhere
    fields.only(attention_bias=False, mlp_bias=False, lm_head_bias=False, full_attn_mod=1)
    fields.ignore("embd_pdrop", "resid_pdrop", "interpolate_factor", "auto_map")  # of training, and where code lies
    return rotary_decoder(
        fields, facts, start=1, end=32000, rope=rope, attention_bias=False, feed_forward_bias=False, **windows
    )


def _prepared(tensors: Mapping[str, Tensor], config: ModelConfig) -> Mapping[str, Tensor]:
    """Queries, keys and values apart, rows so that whole heads can turn, see :func:`.gpt_neox.turned_rows`."""
    assert config.decoder is not None and config.rope is not None
    stack, head_dim = config.decoder, config.decoder.head_width
    rows = turned_rows(head_dim, config.rope.rotary_dim or head_dim)
    heads = {"q_proj": stack.n_heads, "k_proj": stack.kv_heads, "v_proj": stack.kv_heads}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _FUSED.fullmatch(name)
        if match is None or tensor.ndim != 2 or tensor.shape[0] != head_dim * sum(heads.values()):
            found[name] = tensor  # a fused one of another size is no tensor that is known
            continue
        first = 0
        for part, count in heads.items():
            values = tensor[first : first + head_dim * count]
            first += head_dim * count
            by_head = values.reshape(count, head_dim, -1)
            turned = by_head if part == "v_proj" else by_head[:, rows]
            found[f"{match[1]}{part}{match[2]}"] = turned.reshape(values.shape)
    return found


PHI3 = Family(
    architectures=("Phi3ForCausalLM",),
    config=_config,
    keys={**KEYS, f"{LAYER}.mlp.gate_up_proj": (f"{OURS}.feed_forward.gate", f"{OURS}.feed_forward.inner")},
    dropped=DROPPED,
    copies=COPIES,
    prepared=_prepared,
)
