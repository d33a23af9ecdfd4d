"""Graphs of an architecture without a row here, made by optimum: another library, run as a process of its own.

It needs torch and a transformers that may be another than that of this Python, so it may be in another environment:
``EDGEWISE_OPTIMUM_PYTHON`` names its Python. Nothing of it is imported here, and it is told to stay off the network.
Source: ``optimum/exporters/onnx/__main__.py`` of optimum-onnx 0.1.0, whose options these are.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...errors import CheckpointError, ConfigError, ExportError, MissingExtraError
from ...models.families.huggingface import LICENCES
from ...models.files import CONFIG, read_json

PYTHON = "EDGEWISE_OPTIMUM_PYTHON"
"""Environment variable: the Python that has optimum, where it is another than this one."""
TASKS = {
    "ForCausalLM": "text-generation-with-past",
    "LMHeadModel": "text-generation-with-past",
    "ForConditionalGeneration": "text2text-generation-with-past",
    "MTModel": "text2text-generation-with-past",
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "Model": "feature-extraction",
}
"""Ends of an architecture's name, the first that fits, and what optimum calls the task."""
_PACKAGES = ("optimum-onnx", "optimum", "transformers", "torch")
_ASKED = f"""
import json
from importlib import metadata, util
found = util.find_spec("optimum") and util.find_spec("optimum.exporters") and util.find_spec("optimum.exporters.onnx")
versions = {{}}
for name in {_PACKAGES!r}:
    try:
        versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(versions if found else None))
"""
_KEPT_LINES = 12

Progress = Callable[[int, int, str], None]


def export_with_optimum(source: Path, folder: Path, progress: Progress) -> str:
    """Make ``folder`` of graphs from the checkpoint ``source``; returns which releases made it.

    Raises:
        CheckpointError: ``source`` is no folder with a readable ``config.json``.
        ConfigError: its architecture names no task that a bundle has, or it is of a newer transformers than optimum's.
        MissingExtraError: no optimum is there.
        ExportError: it failed.
    """
    task, python = task_of(source), _absolute(os.environ.get(PYTHON) or sys.executable)
    versions = _versions(python)
    _check_release(source, str(versions.get("transformers", "")))
    model, out = str(source.resolve()), str(folder.absolute())
    _run([python, "-m", "optimum.exporters.onnx", "--model", model, "--task", task, out], progress)
    for name in (*LICENCES, "README.md"):  # who may use the weights, which the exporter does not copy
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def task_of(source: Path) -> str:
    """What optimum calls the task of a folder's network.

    Raises:
        CheckpointError, ConfigError: as :func:`export_with_optimum`.
    """
    if not (source / CONFIG).is_file():
        raise CheckpointError(f"{source} has no {CONFIG}: optimum exports folders as Hugging Face writes them")
    config = read_json(source / CONFIG)
    named = config.get("architectures") if isinstance(config, dict) else None
    name = named[0] if isinstance(named, list) and len(named) == 1 else None
    for end, task in TASKS.items():
        if isinstance(name, str) and name.endswith(end):
            return task
    raise ConfigError(
        f"{source / CONFIG}: architectures is {named!r}, expected one name that ends in {', '.join(TASKS)}: "
        "export it with optimum yourself, and then the folder of graphs"
    )


def _check_release(source: Path, installed: str) -> None:
    """A field that another release has given another name is passed over in silence: 5 has the share of a head that
    turns in ``rope_parameters``, where 4 does not look for it.

    Raises:
        ConfigError: a newer release, by its first number, wrote the configuration than is ``installed``.
    """
    written = str(read_json(source / CONFIG).get("transformers_version", ""))
    first, own = (version.partition(".")[0] for version in (written, installed))
    if re.fullmatch("[0-9]{1,4}", first) and re.fullmatch("[0-9]{1,4}", own) and int(first) > int(own):
        raise ConfigError(
            f"{source / CONFIG} was written by transformers {written}, and optimum has {installed}, which may pass "
            "over fields that it does not know and make other graphs: save the folder with that release, or where none "
            "of its fields changed write that release into transformers_version"
        )


def _absolute(python: str) -> str:
    """Of a Python that a path names; links stay, for by them an environment is known."""
    return str(Path(python).absolute()) if os.sep in python else python


def _environment() -> dict[str, str]:
    """Of the child: nothing is fetched, and what this package is found by is not what that one finds.

    Python would look for modules in the folder that it was started in, too, which may be a stranger's: it is started in
    an empty one, and told not to look.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}


def _versions(python: str) -> dict[str, Any]:
    """Which releases are there.

    Raises:
        MissingExtraError: no optimum, or no such Python.
    """
    try:
        with TemporaryDirectory() as empty:
            asked = subprocess.run(
                [python, "-c", _ASKED],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=_environment(),
                cwd=empty,
                check=False,
                timeout=120,
            )
        found = json.loads(asked.stdout) if asked.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        found = None
    if not isinstance(found, dict):
        raise MissingExtraError(
            f"{python} has no optimum with its exporter of ONNX graphs: pip install optimum-onnx torch, best in an "
            f"environment of its own, as it wants an older transformers, whose Python the variable {PYTHON} names"
        )
    return found


def _run(command: list[str], progress: Progress) -> None:
    """Raises:
    ExportError: the process failed; the message ends in the last that it said.
    """
    said: deque[str] = deque(maxlen=_KEPT_LINES)
    with (
        TemporaryDirectory() as empty,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(),
            cwd=empty,
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                if text := line.strip():
                    said.append(text)
                    progress(0, 1, f"optimum: {text[:100]}")
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        reason = "\n".join(said) or "it said nothing"
        raise ExportError(f"optimum could not export {command[4]} (exit status {process.returncode}): {reason}")
