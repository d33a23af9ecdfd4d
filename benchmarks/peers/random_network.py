"""Workload S1: a network of the size of Marian's base models, with random weights, as a checkpoint folder.

Random weights are timed as trained ones are, and bring three dangers, each met in the weights themselves so that no
system needs a setting for it:

* A random network soon says one token for ever, and then any wrong decoder agrees with a right one. Wide feed-forward
  layers whose outputs do not depend on the mean of their inputs keep the tokens changing.
* The end token may come at any time. Its output bias is ``NEVER``, that of the other specials too, so every system
  decodes exactly as many tokens as it is asked for, without a rule that costs time.
* Biases of zero and norms of one hide a system that loses them, so these are random, too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...models.config import ModelConfig
    from ...models.transformer import Transformer

SPECIALS = ("<pad>", "<s>", "</s>", "<mask>")
NEVER = -10_000.0
"""An output bias that no logit makes up for; float16 holds it."""
FEED_FORWARD_GAIN = 3.0


def marian_base(n_layers: int = 6, d_model: int = 512, vocab_size: int = 32_000) -> ModelConfig:
    """The shape of Marian's transformer-base (Junczys-Dowmunt et al. 2018): 6 + 6 layers, 8 heads, post-norm, tied."""
    from ...models.config import ModelConfig, StackConfig

    stack = StackConfig(n_layers=n_layers, d_model=d_model, n_heads=8, d_ff=4 * d_model)
    return ModelConfig(
        vocab_size=vocab_size,
        max_positions=64,
        pad_id=0,
        start_id=1,
        end_id=2,
        encoder=stack,
        decoder=stack,
    )


def random_network(config: ModelConfig, seed: int = 0) -> Transformer:
    """The reference with random weights, as the docstring of this module says."""
    import torch

    from ...models.transformer import Transformer

    torch.manual_seed(seed)
    model = Transformer(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0.0, 0.02)
        elif ".norm." in name:
            parameter.add_(0.05 * torch.randn_like(parameter))
        elif ".feed_forward." in name:
            parameter.mul_(FEED_FORWARD_GAIN)
            if ".outer." in name:  # ReLU gives positive numbers: centred, their mean does not come through
                parameter.sub_(parameter.mean(1, keepdim=True))
    assert model.vocabulary_bias is not None
    model.vocabulary_bias[: len(SPECIALS)] = NEVER
    return model


def write_random_checkpoint(folder: Path, config: ModelConfig, seed: int = 0) -> Path:
    """A checkpoint folder that exports like any other. The weights are rounded to float16, as checkpoints are."""
    from ...models.checkpoint import save_weights

    save_weights(random_network(config, seed), folder)
    (folder / "tokenizer.json").write_text(json.dumps(made_up_tokenizer(config.vocab_size)), encoding="utf-8")
    (folder / "training.json").write_text(json.dumps({"recipe": "random", "seed": seed}) + "\n")
    (folder / "NOTICE").write_text("Random numbers, free of any right.\n")
    return folder


def made_up_tokenizer(vocab_size: int) -> dict[str, Any]:
    """A ``tokenizer.json``: specials, 256 bytes that spell every word, and made-up words that no text uses."""
    tokens = [*SPECIALS, *(f"<0x{value:02X}>" for value in range(256))]
    tokens += [f"▁word{i}" for i in range(len(tokens), vocab_size)]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": content, **special} for i, content in enumerate(SPECIALS)],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "decoder": {"type": "ByteFallback"},
        "model": {"type": "BPE", "byte_fallback": True, "vocab": {t: i for i, t in enumerate(tokens)}, "merges": []},
    }
