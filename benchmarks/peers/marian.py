"""A checkpoint as a Hugging Face Marian folder: the same network, its dimensions in Marian's order.

Marian's network is the paper's, with one difference: where the paper puts sine and cosine of one frequency side by
side, on dimensions ``2i`` and ``2i + 1`` (Vaswani et al. 2017, section 3.5), Marian puts all sines first and all
cosines after them (``MarianSinusoidalPositionalEmbedding`` of transformers 4.57). The residual stream has no order of
its own, so moving its dimensions together, in every matrix that reads or writes it, gives the same network exactly;
only the order in which floats are added changes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError

if TYPE_CHECKING:
    from ...models.checkpoint import Checkpoint
    from ...models.config import ModelConfig

Floats = NDArray[np.float32]
State = dict[str, Floats]

# Which axis of a tensor is the residual stream, by the end of its name.
_READERS = ("embedding.weight", ".query.weight", ".key.weight", ".value.weight", ".inner.weight")
_WRITERS = (".output.weight", ".output.bias", ".outer.weight", ".outer.bias", "norm.weight", "norm.bias")

_PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
_NORMS = {
    "attention_residual.norm": "self_attn_layer_norm",
    "cross_residual.norm": "encoder_attn_layer_norm",
    "feed_forward_residual.norm": "final_layer_norm",
}
_FEED_FORWARD = {"feed_forward.inner": "fc1", "feed_forward.outer": "fc2"}


def halves(d_model: int) -> NDArray[np.int64]:
    """Marian's order of dimensions ``(D,)``: all sines, which are the even ones, then all cosines."""
    return np.concatenate([np.arange(0, d_model, 2), np.arange(1, d_model, 2)])


def in_halves(state: State, d_model: int) -> State:
    """``state`` of the reference with the dimensions of its residual stream in Marian's order.

    Raises:
        ConfigError: a tensor that is not known to touch the residual stream, or to leave it alone.
    """
    order = halves(d_model)
    moved = {}
    for name, value in state.items():
        if name.endswith(_READERS):
            moved[name] = np.ascontiguousarray(value[:, order])
        elif name.endswith(_WRITERS):
            moved[name] = np.ascontiguousarray(value[order])
        elif name.endswith((".query.bias", ".key.bias", ".value.bias", ".inner.bias", "vocabulary_bias")):
            moved[name] = value
        else:
            raise ConfigError(f"{name} is in no network of Marian's: only post-norm encoder-decoders can be written so")
    return moved


def marian_names(config: ModelConfig) -> dict[str, str]:
    """The reference's name of every tensor -> its name in a ``MarianMTModel``."""
    names = {"embedding.weight": "model.shared.weight", "vocabulary_bias": "final_logits_bias"}
    for stack in ("encoder", "decoder"):
        layers = getattr(config, stack).n_layers
        modules = _modules(cross=stack == "decoder")
        for i in range(layers):
            for ours, theirs in modules.items():
                for kind in ("weight", "bias"):
                    names[f"{stack}.layers.{i}.{ours}.{kind}"] = f"model.{stack}.layers.{i}.{theirs}.{kind}"
    return names


def _modules(cross: bool) -> dict[str, str]:
    """The modules of one layer, ours -> theirs."""
    found = {f"attention.{ours}": f"self_attn.{theirs}" for ours, theirs in _PROJECTIONS.items()}
    found |= {f"cross_attention.{ours}": f"encoder_attn.{theirs}" for ours, theirs in _PROJECTIONS.items()}
    found |= _NORMS | _FEED_FORWARD
    return {ours: theirs for ours, theirs in found.items() if cross or not ours.startswith("cross_")}


def marian_config(config: ModelConfig) -> dict[str, Any]:
    """``config.json`` of a ``MarianMTModel`` of the shape of ``config``.

    Raises:
        ConfigError: no post-norm encoder-decoder, or norms of another epsilon than Marian's 1e-5.
    """
    for stack in (config.encoder, config.decoder):
        if stack is None or stack.norm_place != "post" or stack.norm_epsilon != 1e-5:
            raise ConfigError(
                f"{stack} cannot be written as Marian's: it needs an encoder and a decoder, post-norm, epsilon 1e-5"
            )
    assert config.encoder and config.decoder
    sides = {"encoder": config.encoder, "decoder": config.decoder}
    return {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "max_position_embeddings": config.max_positions,
        **{f"{name}_layers": side.n_layers for name, side in sides.items()},
        **{f"{name}_attention_heads": side.n_heads for name, side in sides.items()},
        **{f"{name}_ffn_dim": side.d_ff for name, side in sides.items()},
        "activation_function": config.encoder.activation,
        "scale_embedding": True,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "dropout": 0.0,
        "pad_token_id": config.pad_id,
        "eos_token_id": config.end_id,
        "decoder_start_token_id": config.start_id,
        "bos_token_id": None,
        "forced_eos_token_id": None,
    }


def write_marian(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write ``checkpoint`` as a folder that ``MarianMTModel.from_pretrained`` reads. Returns ``folder``.

    Raises:
        ConfigError: the network is none of Marian's, see :func:`marian_config`.
    """
    from safetensors.numpy import save_file

    model = checkpoint.model
    config, state = model.config, reference_state(checkpoint)
    described = marian_config(config)
    names = marian_names(config)
    tensors = {names[name]: value for name, value in in_halves(state, config.d_model).items()}
    tensors["final_logits_bias"] = tensors["final_logits_bias"][None]  # (1, V)
    assert model.positions is not None  # the paper's network has sinusoids
    table = np.ascontiguousarray(model.positions.numpy()[:, halves(config.d_model)])
    for stack in ("encoder", "decoder"):
        tensors[f"model.{stack}.embed_positions.weight"] = table
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(described, indent=1) + "\n")
    ids = {key: described[key] for key in ("pad_token_id", "eos_token_id", "decoder_start_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(ids) + "\n")
    return folder


def reference_state(checkpoint: Checkpoint) -> State:
    """The weights of the reference by name, float32."""
    return {name: tensor.float().numpy() for name, tensor in checkpoint.model.state_dict().items()}
