"""Configurations of tiny encoders as transformers 4.57.1 writes them: run with that release, it prints the golden file.

``pip install torch==2.13.0 transformers==4.57.1``, then ``python make_configs.py > transformers_4_57_1.json``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import transformers  # noqa: TID251 makes what the tests compare with

NAMES = ["bad", "so so", "good"]
CLASSES = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
BERT = {
    "vocab_size": 35,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
ROBERTA = {**BERT, "vocab_size": 400, "max_position_embeddings": 42, "type_vocab_size": 1}
DISTILBERT = {
    "vocab_size": 35,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 40,
}
FAMILIES = {"Bert": BERT, "DistilBert": DISTILBERT, "Roberta": ROBERTA, "XLMRoberta": ROBERTA}
HEADS = {"MaskedLM": {}, "SequenceClassification": CLASSES, "TokenClassification": CLASSES, "QuestionAnswering": {}}


def main() -> None:
    """Print an object of configurations by architecture, one a line."""
    rows = []
    for family, fields in FAMILIES.items():
        for head, more in HEADS.items():
            kind = getattr(transformers, f"{family}For{head}")
            with tempfile.TemporaryDirectory() as folder:
                kind(kind.config_class(**fields, **more)).save_pretrained(folder)
                config = json.loads((Path(folder) / "config.json").read_text())
            rows.append(f' "{family}For{head}": {json.dumps(config)}')
    print("{\n" + ",\n".join(rows) + "\n}")


if __name__ == "__main__":
    main()
