"""Tiny T5 and mT5 as transformers 4.57.1 writes and computes them: run with that release, it prints the golden file.

``pip install torch==2.13.0 transformers==4.57.1``, then ``python make_t5_configs.py > t5_4_57_1.json``. A network's
parameters are given by a formula; the file has its configuration and some logits of one target.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
import transformers  # noqa: TID251 makes what the tests compare with

SIZES = {"vocab_size": 40, "d_model": 16, "d_kv": 6, "d_ff": 20, "num_layers": 2, "num_heads": 3}
SIZES |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "decoder_start_token_id": 0}
NETWORKS = {
    "T5, tied": ("T5", {}),
    "T5, of its own": ("T5", {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}),
    "mT5": ("MT5", {}),
}
SOURCE, TARGET = [7, 9, 30, 2, 11, 1], [0, 8, 21, 5]


def fill(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter by a formula of its name and place, whatever release draws random numbers."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            places = torch.arange(parameter.numel(), dtype=torch.float64) + len(name)
            parameter.copy_(torch.sin(places * 0.7).view_as(parameter) * 0.4)
    return model.eval()


def main() -> None:
    """Print an object of configurations and logits by network, one a line."""
    rows = []
    for name, (family, more) in NETWORKS.items():
        kind = getattr(transformers, f"{family}ForConditionalGeneration")
        model = fill(kind(getattr(transformers, f"{family}Config")(**SIZES, **more)))
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            config = json.loads((Path(folder) / "config.json").read_text())
        with torch.no_grad():
            logits = model(torch.tensor([SOURCE]), decoder_input_ids=torch.tensor([TARGET])).logits[0, :, :6]
        found = {"config": config, "logits": [[round(x, 6) for x in row] for row in logits.tolist()]}
        rows.append(f" {json.dumps(name)}: {json.dumps(found)}")
    print("{\n" + ",\n".join(rows) + "\n}")


if __name__ == "__main__":
    main()
