"""Configurations of tiny decoders as transformers 4.57.1 writes them: run with that release, it prints the golden file.

``pip install torch==2.13.0 transformers==4.57.1``, then
``python make_decoder_configs.py > decoders_transformers_4_57_1.json``.
"""

from __future__ import annotations

from configurations import print_configurations

TINY = {
    "vocab_size": 304,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "pad_token_id": 2,
}
GPT2 = {"vocab_size": 304, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
WINDOWS = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
LOCAL = {"rope_theta": 500.0, "rope_local_base_freq": 50.0, "rope_scaling": {"rope_type": "linear", "factor": 2.5}}
CASES = {
    "GPT2LMHeadModel": {**GPT2, "eos_token_id": 0},
    "GPT2LMHeadModel, untied": {**GPT2, "n_inner": 40, "eos_token_id": 0, "tie_word_embeddings": False},
    "LlamaForCausalLM": {**TINY, "rope_scaling": LLAMA3, "head_dim": 32},
    "LlamaForCausalLM, dynamic": {**TINY, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "MistralForCausalLM": TINY,
    "MistralForCausalLM, windows": {**TINY, "sliding_window": 7, "rope_theta": 50.0},
    "Qwen2ForCausalLM": {**TINY, "rope_scaling": YARN},
    "Qwen2ForCausalLM, windows": {**TINY, **WINDOWS},
    "Qwen3ForCausalLM": {**TINY, "head_dim": 32, "attention_bias": True},
    "Qwen3ForCausalLM, windows": {**TINY, **WINDOWS},
    "SmolLM3ForCausalLM": {**TINY, "no_rope_layer_interval": 2, "rope_theta": 50.0},
    "SmolLM3ForCausalLM, windows": {**TINY, **WINDOWS, "no_rope_layers": [1, 0, 1]},
    "Gemma2ForCausalLM": {**TINY, "sliding_window": 7, "head_dim": 32},
    "Gemma2ForCausalLM, no caps": {**TINY, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    "Gemma3ForCausalLM": {**TINY, "sliding_window": 7, "head_dim": 32, **LOCAL},
    "Gemma3ForCausalLM, pattern": {**TINY, "sliding_window_pattern": 2, "query_pre_attn_scalar": 5},
}


if __name__ == "__main__":
    print_configurations(CASES)
