"""``import edgewise`` costs next to nothing, whatever is installed beside it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "onnx",
    "transformers",
    "huggingface_hub",
    "httpx",
    "openvino",
    "onnxruntime",
    "tokenizers",
    "numpy",
    "jinja2",
}


def _modules_after(code: str) -> set[str]:
    """Top-level modules a fresh interpreter holds after ``code``."""
    report = f"{code}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-I", "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("code", ["import edgewise", "import edgewise.errors", "import edgewise.cli"])
def test_importing_loads_no_library(code: str) -> None:
    assert not _modules_after(code) & HEAVY


def test_the_check_itself() -> None:
    assert _modules_after("import numpy") & HEAVY == {"numpy"}
