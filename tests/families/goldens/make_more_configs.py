"""Configurations of more families as transformers 4.57.1 writes them: run with that release, it prints the golden file.

``pip install torch==2.13.0 transformers==4.57.1``, then
``python make_more_configs.py > more_transformers_4_57_1.json``.
"""

from __future__ import annotations

from configurations import print_configurations

PEGASUS = {
    "vocab_size": 170,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "activation_function": "relu",
    "scale_embedding": True,
}
NAMES = ["bad", "so so", "good"]
CLASSES = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
ELECTRA = {
    "vocab_size": 35,
    "embedding_size": 24,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
OPT = {
    "vocab_size": 304,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "pad_token_id": 2,
}
NEOX = {
    "vocab_size": 304,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 96,
    "bos_token_id": 1,
    "eos_token_id": 0,
}
NEOX_AFTER = {
    **NEOX,
    "use_parallel_residual": False,
    "attention_bias": False,
    "tie_word_embeddings": True,
    "hidden_act": "relu",
    "layer_norm_eps": 0.1,
    "rotary_emb_base": 500.0,
    "rotary_pct": 0.5,
}
PHI3 = {
    "vocab_size": 304,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "pad_token_id": 2,
}
PHI4 = {
    **PHI3,
    "tie_word_embeddings": True,
    "rms_norm_eps": 0.1,
    "hidden_act": "gelu_pytorch_tanh",
    "rope_theta": 500.0,
    "partial_rotary_factor": 0.75,
}
LONGROPE = {
    **PHI3,
    "original_max_position_embeddings": 32,
    "rope_theta": 500.0,
    "partial_rotary_factor": 0.75,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 4.5],
        "long_factor": [3.0, 4.5, 6.0, 9.0, 12.0, 18.0],
    },
}
T5 = {
    "vocab_size": 168,
    "d_model": 32,
    "d_kv": 12,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
    "n_positions": 128,
}
CASES = {
    "T5EncoderModel": T5,
    "MT5EncoderModel": {**T5, "feed_forward_proj": "gated-silu", "num_heads": 2},
    "Phi3ForCausalLM, as Phi-3": {**PHI3, "num_key_value_heads": 4, "sliding_window": 7},
    "Phi3ForCausalLM, as Phi-4": PHI4,
    "Phi3ForCausalLM, longrope": LONGROPE,
    "GPTNeoXForCausalLM": NEOX,
    "GPTNeoXForCausalLM, one after the other": NEOX_AFTER,
    "OPTForCausalLM": OPT,
    "OPTForCausalLM, norms after": {**OPT, "do_layer_norm_before": False, "ffn_dim": 40},
    "PegasusForConditionalGeneration": PEGASUS,
    "ElectraForMaskedLM": ELECTRA,
    "ElectraForSequenceClassification": {**ELECTRA, **CLASSES},
    "ElectraForTokenClassification": {**ELECTRA, **CLASSES},
    "ElectraForQuestionAnswering": ELECTRA,
}


if __name__ == "__main__":
    print_configurations(CASES)
