"""The chat template of a checkpoint: a program from outside that nothing here runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ChatSource:
    """A Jinja template, and what it may use beside the messages: the spellings of special tokens by their names."""

    template: str
    variables: dict[str, str]


TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""What Hugging Face calls the tokens that a template may name."""
