"""Configurations of ModernBERT as transformers 4.57.1 writes them: run with that release, it prints the golden file.

``pip install torch==2.13.0 transformers==4.57.1``, then
``python make_modernbert_configs.py > modernbert_4_57_1.json``.
"""

from __future__ import annotations

from configurations import print_configurations

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


if __name__ == "__main__":
    print_configurations(CASES)
