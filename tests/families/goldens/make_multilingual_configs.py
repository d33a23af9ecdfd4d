"""Tiny mBART, mBART-50, M2M-100 and NLLB as transformers 4.57.1 writes and computes them: it prints the golden file.

``pip install torch==2.13.0 transformers==4.57.1``, then
``python make_multilingual_configs.py > multilingual_4_57_1.json``. A network's parameters are given by a formula of the
names that the release stores; the file has these, what is written beside them, and some logits of one target.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: TID251 makes what the tests compare with
from safetensors.torch import load_file, save_file
from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES  # noqa: TID251

PIECES = 430  # of the tests' tokenizers
SIZES = {"vocab_size": 700, "d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "max_position_embeddings": 64}
SIZES |= {"encoder_attention_heads": 2, "decoder_attention_heads": 4, "encoder_ffn_dim": 20, "decoder_ffn_dim": 24}
# Those that are not tied the release does not read as it wrote them: embeddings of encoder and decoder are drawn anew.
GERMAN = PIECES + 1 + FAIRSEQ_LANGUAGE_CODES.index("de_DE")
DECODING = {"num_beams": 5, "max_length": 40}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "mbart": ("MBart", {"decoder_start_token_id": GERMAN, **DECODING}),
    "mbart, scaled": ("MBart", {"decoder_start_token_id": GERMAN, "scale_embedding": True}),
    "mbart-50": ("MBart", {"decoder_start_token_id": 2, "activation_function": "relu", "scale_embedding": True}),
    "m2m100": ("M2M100", {**DECODING, "early_stopping": True}),
    "m2m100, not scaled": ("M2M100", {"scale_embedding": False}),
    "nllb": ("M2M100", {**DECODING, "activation_function": "gelu"}),
}
SOURCE, TARGET = [7, 9, 130, 22, 11, 2], [2, 8, 121, 5]


def by_formula(shapes: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Every parameter by a formula of its name and place, whatever release draws random numbers."""
    found = {}
    for name, shape in shapes.items():
        places = torch.arange(int(torch.Size(shape).numel()), dtype=torch.float64) + len(name)
        found[name] = (torch.sin(places * 0.7).view(*shape) * 0.4).float()
    return found


def main() -> None:
    """Print an object of files and logits by network, one a line."""
    rows = []
    for name, (family, more) in NETWORKS.items():
        kind = getattr(transformers, f"{family}ForConditionalGeneration")
        config = getattr(transformers, f"{family}Config")(**SIZES, forced_eos_token_id=None, **more)
        with tempfile.TemporaryDirectory() as folder:
            kind(config).save_pretrained(folder)
            weights = Path(folder) / "model.safetensors"
            shapes = {tensor: list(value.shape) for tensor, value in load_file(weights).items()}
            save_file(by_formula(shapes), weights, metadata={"format": "pt"})
            found = {f: json.loads((Path(folder) / f"{f}.json").read_text()) for f in ("config", "generation_config")}
            model = kind.from_pretrained(folder).eval()
        with torch.no_grad():
            logits = model(torch.tensor([SOURCE]), decoder_input_ids=torch.tensor([TARGET])).logits[0, :, :6]
        found |= {"shapes": shapes, "logits": [[round(x, 6) for x in row] for row in logits.tolist()]}
        rows.append(f" {json.dumps(name)}: {json.dumps(found)}")
    print("{\n" + ",\n".join(rows) + "\n}")


if __name__ == "__main__":
    main()
