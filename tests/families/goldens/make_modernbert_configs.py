"""Configurations of ModernBERT as transformers 4.57.1 writes them: run with that release, it prints the golden file.

``pip install torch==2.13.0 transformers==4.57.1``, then
``python make_modernbert_configs.py > modernbert_4_57_1.json``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import transformers  # noqa: TID251 makes what the tests compare with

NAMES = ["bad", "so so", "good"]
CLASSES = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
TINY = {
    "vocab_size": 37,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 48,
    "local_attention": 6,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
}
OTHERWISE = {
    **TINY,
    "global_attn_every_n_layers": 2,
    "global_rope_theta": 900.0,
    "local_rope_theta": 70.0,
    "norm_eps": 0.1,
    "norm_bias": True,
    "attention_bias": True,
    "mlp_bias": True,
    "decoder_bias": False,
    "classifier_bias": True,
    "classifier_pooling": "mean",
    "classifier_activation": "silu",
    "hidden_activation": "relu",
    "sparse_prediction": True,
}
CASES = {
    "ModernBertModel": TINY,
    "ModernBertForMaskedLM": TINY,
    "ModernBertForMaskedLM, otherwise": OTHERWISE,
    "ModernBertForMaskedLM, one theta": {**TINY, "local_rope_theta": None},
    "ModernBertForSequenceClassification": {**TINY, **CLASSES},
    "ModernBertForSequenceClassification, otherwise": {**OTHERWISE, **CLASSES},
    "ModernBertForTokenClassification": {**TINY, **CLASSES},
    "ModernBertForQuestionAnswering": TINY,
}


def main() -> None:
    """Print an object of configurations by case, one a line."""
    rows = []
    for case, fields in CASES.items():
        kind = getattr(transformers, case.partition(",")[0])
        with tempfile.TemporaryDirectory() as folder:
            kind(kind.config_class(**fields)).save_pretrained(folder)
            config = json.loads((Path(folder) / "config.json").read_text())
        rows.append(f' "{case}": {json.dumps(config)}')
    print("{\n" + ",\n".join(rows) + "\n}")


if __name__ == "__main__":
    main()
