"""Vectors of tiny T5 encoders, and the files around them, by sentence-transformers 6.2.0: it prints the golden file.

``pip install torch==2.13.0 transformers==5.24.0 sentence-transformers==6.2.0``, then
``python make_sentence_t5.py > sentence_t5_6_2_0.json``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: TID251 makes what the tests compare with
from safetensors.torch import load_file, save_file

TEXTS = ["a man is riding a bicycle.", "two dogs", "Zwei Hunde spielen im Schnee – schön!"]
SIZES: dict[str, Any] = {
    "vocab_size": 384,
    "d_model": 32,
    "d_kv": 12,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "n_positions": 64,
}
CASES: dict[str, dict[str, Any]] = {
    "T5, dense without a bias, normalized": {
        "dense": {"out_features": 32, "bias": False, "activation": "Identity"},
        "normalize": True,
        "pooling": "mean",
    },
    "MT5, first state, narrower by tanh": {
        "dense": {"out_features": 20, "bias": True, "activation": "Tanh"},
        "normalize": False,
        "pooling": "cls",
        "feed_forward_proj": "gated-gelu",
    },
}


def by_formula(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters that a test can make again."""
    return {
        name: (torch.sin((torch.arange(t.numel(), dtype=torch.float64) + len(name)) * 0.7).view(t.shape) * 0.4).float()
        for name, t in tensors.items()
    }


def folder_of(case: str, folder: Path) -> None:
    """The library's own folder of a case, with parameters by the formula."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    fields = dict(CASES[case])
    dense, normalize, pooling = (fields.pop(name) for name in ("dense", "normalize", "pooling"))
    family = case.partition(",")[0]
    config = getattr(transformers, f"{family}Config")(**SIZES, **fields)
    getattr(transformers, f"{family}EncoderModel")(config).save_pretrained(folder / "bare")
    transformers.ByT5Tokenizer().save_pretrained(folder / "bare")
    activation = getattr(torch.nn, dense.pop("activation"))()
    parts = [
        modules.Transformer(str(folder / "bare"), max_seq_length=50),
        modules.Pooling(32, pooling),
        modules.Dense(32, activation_function=activation, **dense),
        *([modules.Normalize()] if normalize else []),
    ]
    SentenceTransformer(modules=parts, device="cpu").save(str(folder / "whole"))
    for file in (folder / "whole").rglob("*.safetensors"):
        save_file(by_formula(load_file(file)), file, {"format": "pt"})


def main() -> None:
    """Print an object of cases: the JSON files, and the vectors of ``TEXTS``."""
    from sentence_transformers import SentenceTransformer

    found = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as place:
            folder_of(case, Path(place))
            whole = Path(place) / "whole"
            files = [file for file in sorted(whole.rglob("*.json")) if "token" not in file.name]  # ByT5's are known
            vectors = SentenceTransformer(str(whole), device="cpu").encode(TEXTS)
            found[case] = {
                "files": {str(file.relative_to(whole)): json.loads(file.read_text()) for file in files},
                "vectors": [[round(float(value), 7) for value in vector] for vector in vectors],
            }
    rows = [f'  "{case}": {json.dumps(values)}' for case, values in found.items()]
    print(f'{{\n "texts": {json.dumps(TEXTS)},\n "cases": {{\n' + ",\n".join(rows) + "\n }\n}")


if __name__ == "__main__":
    main()
