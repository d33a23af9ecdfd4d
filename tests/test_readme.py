"""The README's commands do what it says.

A fenced ``console`` block right under the comment ``<!-- runs -->`` is run: lines that begin with ``$ `` are commands,
the lines under a command are its standard output, where ``...`` stands for anything. All blocks run in order in one
folder that holds ``checkpoints``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

_BLOCK = re.compile(r"^<!-- runs -->\n```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Command(NamedTuple):
    """A command and the output that the README shows."""

    command: str
    output: str


def commands(text: str) -> list[Command]:
    """Every command that is to be run, in order."""
    found = []
    for block in _BLOCK.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append(Command(command, output))
    return found


def matches(output: str, shown: str) -> bool:
    """Whether ``output`` is what was ``shown``, ``...`` being anything."""
    pattern = ".*".join(re.escape(piece) for piece in shown.strip().split("..."))
    return re.fullmatch(pattern, output.strip(), flags=re.DOTALL) is not None


def test_what_pages_point_to_is_there(root: Path) -> None:
    """Files and pictures that a page links to; a clean clone shows what was never committed."""
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    links = [(page, target) for page in pages for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))]
    missing = [f"{page.name}: {t}" for page, t in links if "://" not in t and not (page.parent / t).exists()]
    assert links
    assert not missing


def test_the_convention() -> None:
    text = (
        "Words.\n\n<!-- runs -->\n```console\n$ echo one two\none ...\n$ true\n```\n\n"
        "```console\n$ not run\n```\n\n<!-- runs -->\n```console\n$ echo three\nthree\n```\n"
    )
    assert commands(text) == [
        Command("echo one two", "one ...\n"),
        Command("true", ""),
        Command("echo three", "three\n"),
    ]
    assert matches("one two\n", "one ...\n")
    assert matches("a\nb\nc\n", "a\n...\nc")
    assert not matches("one\n", "two\n")
    assert not matches("one\ntwo\n", "one\n")


@pytest.mark.slow
def test_the_commands_of_the_readme(root: Path, tmp_path: Path) -> None:
    asked = commands((root / "README.md").read_text(encoding="utf-8"))
    if not asked:
        pytest.skip("no block of the README is marked with <!-- runs -->")
    (tmp_path / "checkpoints").symlink_to(root / "checkpoints")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for command, shown in asked:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        if shown.strip():
            assert matches(done.stdout, shown), f"$ {command}\ngave\n{done.stdout}\nand the README shows\n{shown}"
