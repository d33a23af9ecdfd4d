"""The examples of ``docs/`` print what is under them.

A fenced ``python`` block right under the comment ``<!-- runs -->`` is run, in order and with what those before it left;
the ``text`` block that follows is what it prints, where ``...`` stands for anything.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from .test_readme import matches

_BLOCK = re.compile(r"^<!-- runs -->\n```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted((Path(__file__).resolve().parent.parent / "docs").glob("*.md"))


def test_a_file_that_a_page_shows_whole_is_shown_as_it_is(root: Path) -> None:
    shown = (root / "docs" / "families.md").read_text(encoding="utf-8")
    assert f"```python\n{(root / 'examples' / 'opt_family.py').read_text(encoding='utf-8')}```" in shown


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page(page: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    text = page.read_text(encoding="utf-8")
    blocks = _BLOCK.findall(text)
    assert len(blocks) == text.count("<!-- runs -->"), "a block lacks the text that it prints"
    names: dict[str, Any] = {}
    for code, shown in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page.name, "exec"), names)
        assert matches(printed.getvalue(), shown), f"{code}\nprinted\n{printed.getvalue()}\nand the page shows\n{shown}"
