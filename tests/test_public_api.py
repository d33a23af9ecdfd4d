"""What ``import edgewise`` promises: the names, where they come from, and one version everywhere."""

from __future__ import annotations

import ast
import re
from importlib.metadata import version
from pathlib import Path

import pytest

import edgewise

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", edgewise.__all__)
def test_every_promised_name_is_there(name: str) -> None:
    assert getattr(edgewise, name) is not None
    assert name in dir(edgewise)


def test_a_name_that_is_not_promised_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edgewise' has no attribute 'pipelines'"):
        edgewise.pipelines  # noqa: B018


def test_type_checkers_see_the_same_homes() -> None:
    """The names come lazily at run time and by plain imports for a type checker: two lists that must agree."""
    (block,) = (node for node in ast.parse((ROOT / "__init__.py").read_text()).body if isinstance(node, ast.If))
    seen = {alias.name: f".{node.module}" for node in block.body for alias in node.names}
    assert seen == edgewise._HOMES
    assert {*seen, "__version__", "errors"} == set(edgewise.__all__)


def test_one_version_everywhere() -> None:
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert edgewise.__version__ == version("edgewise") == newest[1]


def test_every_error_is_drawn_in_the_tree() -> None:
    drawn = re.findall(r"[\w]+Error", edgewise.errors.__doc__)
    defined = [name for name, value in vars(edgewise.errors).items() if isinstance(value, type)]
    assert sorted(drawn) == sorted(defined)
    assert all(issubclass(getattr(edgewise.errors, name), edgewise.errors.EdgewiseError) for name in defined)
