"""A GGUF file in other blocks, by llama.cpp's own quantizer; run in the environment ``llama``.

``python -m edgewise.benchmarks.peers.requantize_gguf FILE KIND OUT``: of a file that is quantized already, so weights
are rounded twice.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import llama_cpp

KINDS = {"q4_0": "MOSTLY_Q4_0", "q8_0": "MOSTLY_Q8_0"}


def main(argv: Sequence[str]) -> None:
    """Quantize every matrix again."""
    file, kind, out = argv
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.allow_requantize = True
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{KINDS[kind]}")
    if status := llama_cpp.llama_model_quantize(file.encode(), out.encode(), parameters):
        sys.exit(f"llama_model_quantize ended with status {status}, expected 0")


if __name__ == "__main__":
    main(sys.argv[1:])
