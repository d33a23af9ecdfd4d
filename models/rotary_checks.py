"""What rotary positions ask of a network: contradictions between them, its stacks and its windows are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .config_checks import require
from .position_config import check_longrope

if TYPE_CHECKING:
    from .config import ModelConfig, StackConfig


def check_rotary(config: ModelConfig) -> None:
    """Refuse rotary positions that a network cannot have, and what belongs to them without them.

    Raises:
        ConfigError: it cannot.
    """
    rotary = config.positions == "rotary"
    require((config.rope is not None) == rotary, f"rope ({config.rope}) belongs to rotary positions, and they to it")
    stacks = tuple(filter(None, (config.encoder, config.decoder)))
    for stack in stacks:
        require(
            not stack.unturned_layers or (rotary and stack is config.decoder),
            "unturned_layers belong to rotary positions of a decoder",
        )
    if rotary:
        require(len(stacks) == 1, f"rotary positions are for an encoder or a decoder alone, not {config.architecture}")
        _check_stack(config, stacks[0])
    windowed = any(stack.window is not None for stack in stacks)
    require(
        config.window_rope is None or (rotary and windowed),
        "window_rope belongs to a stack with rotary positions and a window",
    )


def _check_stack(config: ModelConfig, stack: StackConfig) -> None:
    require(
        len({*stack.unturned_layers}) < stack.n_layers,
        f"unturned_layers {stack.unturned_layers} must leave a layer that has positions",
    )
    width = stack.head_width
    require(width % 2 == 0, f"head_dim ({width}) must be even: rotary positions turn pairs")
    for rope in filter(None, (config.rope, config.window_rope)):
        turned = rope.rotary_dim or width
        require(turned <= width, f"rotary_dim ({turned}) must be at most head_dim ({width})")
        if rope.scaling == "longrope":
            check_longrope(rope, turned, config.max_positions)
