"""The convolutional front of an encoder of speech (Radford et al. 2022, section 2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .speech import SpeechConfig


class ConvolutionalFront(nn.Module):
    """Two convolutions of width 3 with GELU, the second of stride 2; then positions are added.

    The positions are sinusoids, which checkpoints hold as they were computed. Reference: ``AudioEncoder`` in
    ``whisper/model.py`` of github.com/openai/whisper at c0d2f62.
    """

    def __init__(self, config: SpeechConfig, d_model: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(config.bands, d_model, kernel_size=3, padding=1)
        self.second = nn.Conv1d(d_model, d_model, kernel_size=3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.empty(config.positions, d_model).normal_(std=0.02))

    def forward(self, features: Tensor) -> Tensor:
        """Log-mel ``features (B, bands, frames) -> (B, frames/2, D)``."""
        x = F.gelu(self.second(F.gelu(self.first(features))))
        return x.transpose(1, 2) + self.positions  # (B, D, S) -> (B, S, D)
