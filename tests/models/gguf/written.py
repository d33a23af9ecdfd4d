"""Small Llamas in GGUF files as llama.cpp's converter writes them, by its ``gguf`` package.

And the same files as ``transformers`` reads them, by code of its own: names, order of rows, dequantizing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from gguf import GGMLQuantizationType as Kind
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint  # noqa: TID251

from . import tiny

LAYERS, WIDTH, HEADS, KEY_HEADS, INNER = 2, 64, 4, 2, 96
CONTEXT = 96
LICENCE = {"general.license": "apache-2.0", "general.organization": "Tiny Ltd"}


def write_llama(
    path: Path, *, tokenizer: str = "smollm", tied: bool = True, rows: int = 0, std: float = 0.2, **change: Any
) -> Path:
    """A Llama with random weights, its matrices in Q8_0 and its embedding in F16; ``rows`` of embedding beside tokens.

    ``tokenizer``: ``llama``, or the name of a pre-tokenizer. ``change`` sets metadata (``__`` for a dot), or
    leaves them out with ``None``. ``std``: of the weights in the layers.
    """
    tokens = _tokenizer(tokenizer)
    vocabulary = len(tokens["tokenizer.ggml.tokens"]) + rows
    values = {**_shape(vocabulary), **tokens, **LICENCE, **{k.replace("__", "."): v for k, v in change.items()}}
    writer = gguf.GGUFWriter(path, values.pop("general.architecture", "llama"))
    for key, value in values.items():
        if value is not None:
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value), _of(value))
    for name, weight in _weights(vocabulary, tied, std).items():
        kind = Kind.F32 if weight.ndim == 1 else Kind.F16 if name == "token_embd.weight" else Kind.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def library_llama(path: Path, kind: str = "Llama", **fields: Any) -> Any:
    """The network as ``transformers`` reads it, in float32.

    ``kind`` begins the names of its classes; ``fields`` of its configuration that it does not find in the file.
    """
    config = getattr(transformers, f"{kind}Config")(**{**load_gguf_checkpoint(str(path))["config"], **fields})
    architecture = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}.get(kind, f"{kind}ForCausalLM")
    model = getattr(transformers, architecture)._from_config(config, attn_implementation="eager")
    read = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    left = model.load_state_dict(read, strict=False)
    assert not left.unexpected_keys
    assert set(left.missing_keys) <= ({"lm_head.weight"} if config.tie_word_embeddings else set())
    model.tie_weights()
    return model.float().eval()


def _of(value: Any) -> gguf.GGUFValueType | None:
    return gguf.GGUFValueType.get_type(value[0]) if isinstance(value, list) else None


def _shape(vocabulary: int) -> dict[str, Any]:
    return {
        "llama.block_count": LAYERS,
        "llama.context_length": CONTEXT,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KEY_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 5000.0,
        "llama.rope.dimension_count": WIDTH // HEADS,
        "llama.vocab_size": vocabulary,
    }


def _tokenizer(kind: str) -> dict[str, Any]:
    file = "tiny_spm.json" if kind == "llama" else "tiny_bpe.json"
    data = json.loads((tiny.GOLDENS / file).read_text(encoding="utf-8"))
    specials = [k for _, k in (tiny.SPM_SPECIALS if kind == "llama" else tiny.BPE_SPECIALS)]
    own = ["tokens", "merges"]
    found = {f"tokenizer.ggml.{name}": data[name] for name in own if name in data}
    rest = len(data["tokens"]) - len(specials)
    if kind == "llama":
        found |= {"tokenizer.ggml.token_type": [*specials, *[6] * 256, *[1] * (rest - 256)]}
        found |= {"tokenizer.ggml.scores": [0.0] * (len(specials) + 256) + [-float(i) for i in range(rest - 256)]}
        return found | {"tokenizer.ggml.model": "llama"}
    ids = {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
    kinds = {"tokenizer.ggml.token_type": [*specials, *[1] * rest]}
    return found | ids | kinds | {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": kind}


def _weights(vocabulary: int, tied: bool, std: float) -> dict[str, np.ndarray]:
    """Queries and keys in the order of the format; ``std`` of the matrices in the layers."""
    random = np.random.default_rng(3)
    keys = WIDTH // HEADS * KEY_HEADS
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (vocabulary, WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        of_layer = {
            "attn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_k": (keys, WIDTH), "attn_v": (keys, WIDTH),
            "attn_output": (WIDTH, WIDTH), "ffn_norm": (WIDTH,), "ffn_gate": (INNER, WIDTH),
            "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER),
        }  # fmt: skip
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in of_layer.items()}
    if not tied:
        shapes["output"] = (vocabulary, WIDTH)
    found = {}
    for name, shape in shapes.items():
        wave = random.normal(scale=std if name.startswith("blk.") else 0.2, size=shape).astype(np.float32)
        heads = {"attn_q": HEADS, "attn_k": KEY_HEADS}.get(name.split(".")[-1])
        weight = wave + 1 if len(shape) == 1 else wave
        found[f"{name}.weight"] = tiny.permuted(weight, heads) if heads else weight
    return found
