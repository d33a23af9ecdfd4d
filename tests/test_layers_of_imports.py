"""Who may import whom: the architecture, read from the source with ``ast``."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_THE_PACKAGE = {"examples", "tests", "build", "dist"}

# Folder -> what of edgewise it may import, itself included.
SIBLINGS = {
    "errors": set[str](),
    "models": {"models", "errors"},
    "export": {"export", "models", "runtime.bundle", "errors"},
    "export.onnx_folder": {"export", "models", "runtime.bundle", "errors"},
    "quantize": {"quantize", "runtime", "errors"},
    "runtime": {"runtime", "errors"},
    "runtime.bundle": {"runtime.bundle", "errors"},
    "benchmarks": {"benchmarks", "runtime", "errors"},
    "benchmarks.peers.adapters": {"benchmarks.peers", "runtime", "errors"},
    "benchmarks.peers.convert_ctranslate2": set[str](),
    "benchmarks.peers.convert_nncf": set[str](),
    "benchmarks.peers.requantize_gguf": set[str](),
}
# Folder -> which libraries beside Python's own. Only what measures transformers imports it.
LIBRARIES = {
    "errors": set[str](),
    "models": {"numpy", "torch", "safetensors", "tokenizers", "tqdm", "matplotlib", "sacrebleu"},
    "export": {"numpy", "torch", "onnx", "onnx_ir", "onnxscript", "tqdm"},
    "export.onnx_folder": {"numpy", "onnx_ir", "onnxruntime"},
    "quantize": {"numpy", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "sacrebleu", "tqdm"},
    "runtime": {"numpy", "onnxruntime", "tokenizers", "openvino", "llguidance", "jinja2", "sentencex"},
    "runtime.bundle": {"numpy"},
    "benchmarks": {"numpy", "psutil", "sacrebleu", "matplotlib", "tqdm"},
    # These run in environments of their own, where edgewise has nothing that it depends on.
    "benchmarks.peers.adapters": {
        *("numpy", "onnxruntime", "openvino", "ctranslate2", "optimum", "torch", "transformers"),
        *("sentence_transformers", "llama_cpp", "onnxruntime_genai", "openvino_genai"),
    },
    "benchmarks.peers.convert_ctranslate2": {"numpy", "ctranslate2"},
    "benchmarks.peers.convert_nncf": {"numpy", "nncf", "openvino"},
    "benchmarks.peers.requantize_gguf": {"llama_cpp"},
}
ADAPTERS = "benchmarks.peers.adapters"
OTHER_ENVIRONMENTS = (ADAPTERS, "benchmarks.peers.convert_nncf")
# The files at the root join the stages and may import all of them.
ROOT_FILES = {
    *("__init__", "__main__", "cli", "cli_answers", "cli_chat", "cli_decoding", "cli_input", "cli_onnx"),
    *("cli_progress", "cli_reading", "cli_speech", "pipeline", "pipeline_onnx", "pipeline_output"),
}
# These are imported by every user, so whatever is not Python's own or an error class is imported inside a function.
LAZY = ROOT_FILES - {"pipeline", "pipeline_onnx", "pipeline_output"}
# These are extras: only one module each imports them, when asked for.
EXTRAS = {"openvino": "runtime.engines.openvino", "llguidance": "runtime.grammar", "sentencex": "runtime.sentences"}
# jinja2 is an extra: only this module imports it, and is itself imported inside a function.
CHAT = "runtime.chat_sandbox"
# These compare with PyTorch or run the whole chain: inside functions they may import the build side too.
BUILD_SIDE = {"benchmarks.demo", "benchmarks.baselines", "benchmarks.bag_of_words", "benchmarks.published"} | {
    f"benchmarks.peers.{name}"
    for name in (
        "check",
        "llama_folder",
        "marian",
        "prepare",
        "prepare_text",
        "prepare_vectors",
        "random_network",
        *("profile", "roofline"),
    )
}


class Import(NamedTuple):
    """One import statement: what it imports, and whether only when a function runs."""

    target: str
    lazy: bool
    absolute: bool


def _statements(node: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, lazy
        else:
            in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            yield from _statements(child, lazy or in_function or for_types)


def imports(source: str, module: str, is_package: bool) -> list[Import]:
    """Every import of ``module``; those of edgewise as ``edgewise.folder.module[.name]``."""
    found = []
    for statement, lazy in _statements(ast.parse(source)):
        if isinstance(statement, ast.Import):
            found += [Import(alias.name, lazy, True) for alias in statement.names]
        else:
            parts = ["edgewise", *filter(None, module.split("."))]
            base = parts[: len(parts) - statement.level + is_package] if statement.level else []
            prefix = ".".join(filter(None, [*base, statement.module]))
            found += [Import(f"{prefix}.{alias.name}", lazy, not statement.level) for alias in statement.names]
    return found


def _inside(name: str, folder: str) -> bool:
    return name == folder or name.startswith(folder + ".")


def _folder(module: str) -> str:
    """The row of the tables for ``module``; the longest that fits."""
    rows = [folder for folder in SIBLINGS if _inside(module, folder)]
    assert rows, f"{module} is in no folder of the design: add a row to SIBLINGS and LIBRARIES, or move it"
    return max(rows, key=len)


def fault(module: str, imported: Import) -> str | None:
    """What is wrong with the import, if anything."""
    top, _, rest = imported.target.partition(".")
    if top == "transformers" and not _inside(module, ADAPTERS):
        return "the package never imports transformers"
    if top == "edgewise" and imported.absolute and not module.startswith("benchmarks"):
        return "inside the package imports are relative"
    if module in ROOT_FILES:
        light = top in sys.stdlib_module_names or (top == "edgewise" and rest.partition(".")[0] in {*LAZY, "errors"})
        return "import it inside a function" if module in LAZY and not imported.lazy and not light else None
    if module in BUILD_SIDE and imported.lazy:
        return None
    if rest.startswith(CHAT) and not imported.lazy:
        return f"{CHAT} is imported inside a function"
    if top == "edgewise":
        allowed = SIBLINGS[_folder(module)]
        return None if any(_inside(rest, folder) for folder in allowed) else f"only {sorted(allowed)} may be imported"
    elsewhere = any(_inside(module, folder) for folder in OTHER_ENVIRONMENTS)
    if top in EXTRAS and not elsewhere and not (module.startswith(EXTRAS[top]) and imported.lazy):
        return f"only {EXTRAS[top]} imports {top}, inside a function"
    if top == "jinja2" and module != CHAT:
        return f"only {CHAT} imports jinja2"
    allowed = LIBRARIES[_folder(module)]
    return None if top in allowed | sys.stdlib_module_names else f"only {sorted(allowed)} may be imported"


def package_files() -> list[PurePosixPath]:
    """Every Python file of the package, relative to its root."""
    files = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    return sorted(PurePosixPath(f) for f in files if f.parts[0] not in NOT_THE_PACKAGE and f.parts[0][0] != ".")


@pytest.mark.parametrize("file", package_files(), ids=str)
def test_a_file_imports_what_its_folder_may(file: PurePosixPath) -> None:
    is_package = file.name == "__init__.py" and len(file.parts) > 1
    module = ".".join((file.parent if is_package else file.with_suffix("")).parts)
    found = imports(
        (ROOT / file).read_text(), "" if module == "__init__" else module, is_package or module == "__init__"
    )
    faults = [f"{i.target}: {why}" for i in found if (why := fault(module, i))]
    assert not faults


def test_the_package_is_found() -> None:
    names = {str(file) for file in package_files()}
    assert {"__init__.py", "errors.py", "models/layers.py", "runtime/bundle/manifest.py"} <= names
    assert not any("site-packages" in name or name.startswith("tests") for name in names)


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("runtime.session", "from ..models.config import ModelConfig", "only"),
        ("runtime.session", "def f():\n    from .. import models", "only"),
        ("runtime.session", "import torch", "only"),
        ("runtime.session", "import openvino", "only runtime.engines.openvino"),
        ("runtime.engines.openvino", "import openvino", "inside a function"),
        ("runtime.engines.openvino", "def f():\n    import openvino", None),
        ("runtime.chat", "import jinja2", "only runtime.chat_sandbox"),
        ("runtime.session", "def f():\n    import sentencex", "only runtime.sentences imports sentencex, inside"),
        ("runtime.chat", "from .chat_sandbox import Sandbox", "inside a function"),
        ("runtime.chat", "def f():\n    from .chat_sandbox import Sandbox", None),
        ("runtime.chat_sandbox", "import jinja2", None),
        ("runtime.bundle.scan", "from ..session import load", "only"),
        ("runtime.bundle.scan", "import onnxruntime", "only"),
        ("runtime.session", "from .bundle import Bundle", None),
        ("export.portable", "from ..runtime import session", "only"),
        ("export.portable", "from ..runtime import bundle", None),
        ("export.passes.fuse", "from ...runtime.bundle.signature import IDS", None),
        ("export.passes.fuse", "from ...quantize import int8", "only"),
        ("quantize.gate", "from ..models import config", "only"),
        ("models.train", "from ..export import portable", "only"),
        ("models.train", "import transformers", "never"),
        ("models.train", "import edgewise.errors", "relative"),
        ("benchmarks.bench", "from edgewise.runtime import session", None),
        ("benchmarks.bench", "def f():\n    import torch", "only"),
        ("benchmarks.demo", "def f():\n    import torch", None),
        ("benchmarks.demo", "import torch", "only"),
        ("benchmarks.peers.adapters.transformers", "import transformers", None),
        ("benchmarks.peers.cell", "import ctranslate2", "only"),
        ("benchmarks.peers.adapters.ctranslate2", "from ....models import decode", "only"),
        ("errors", "from .runtime import session", "only"),
        ("cli", "from .runtime import session", "inside a function"),
        ("cli", "def f():\n    from .runtime import session", None),
        ("cli", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .runtime import session", None),
        ("cli", "import numpy", "inside a function"),
        ("pipeline", "from .export import portable", None),
    ],
)
def test_the_check_itself(module: str, source: str, message: str | None) -> None:
    (why,) = {fault(module, i) for i in imports(source, module, False) if i.target != "typing.TYPE_CHECKING"}
    assert (why is None) if message is None else (message in str(why))
