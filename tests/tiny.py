"""Tiny random models whose results vary in length.

The embedding of the end token points where the slower position sinusoids grow, so it becomes likelier along a sentence:
with wholly random weights a sentence either ends at once or never.
"""

from __future__ import annotations

import torch

from edgewise.models.config import Architecture, ModelConfig, StackConfig
from edgewise.models.transformer import Transformer

PAD, START, END, MASK = 0, 1, 2, 3


def tiny_model(
    seed: int,
    architecture: Architecture = "encoder-decoder",
    *,
    vocab_size: int = 24,
    max_positions: int = 64,
    end_bias: float = 0.0,
    class_names: tuple[str, ...] = (),
) -> Transformer:
    """Random weights by seed; a higher ``end_bias`` makes shorter sentences."""
    stack = StackConfig(n_layers=2, d_model=16, n_heads=2, d_ff=32)
    config = ModelConfig(
        vocab_size=vocab_size,
        max_positions=max_positions,
        pad_id=PAD,
        start_id=START,
        end_id=END,
        encoder=stack if architecture != "decoder" else None,
        decoder=stack if architecture != "encoder" else None,
        head="classes" if class_names else "vocabulary",
        mask_id=MASK,
        class_names=class_names,
    )
    torch.manual_seed(seed)
    model = Transformer(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".value.weight", ".output.weight", ".inner.weight", ".outer.weight")):
                parameter *= 2.0  # training starts them at half width, where sentences hardly differ
        model.embedding.weight[END] = 0.0
        model.embedding.weight[END, [4, 6]] = 3.0
        if model.vocabulary_bias is not None:
            model.vocabulary_bias[END] = end_bias
    return model


def random_sources(seed: int, count: int, *, vocab_size: int = 24, longest: int = 9) -> list[list[int]]:
    """Sentences of different lengths, each ending in the end token."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest, (count,), generator=generator).tolist()
    return [[*torch.randint(4, vocab_size, (n,), generator=generator).tolist(), END] for n in lengths]
