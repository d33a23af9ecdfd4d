"""Transformers as small verified INT8 graphs, run without torch.

``edgewise.load(path)`` opens a bundle; everything here is imported when it is first asked for.
"""

from __future__ import annotations

__version__ = "0.1.0"
