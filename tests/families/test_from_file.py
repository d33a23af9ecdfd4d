"""A family of a person's own is one file that was named: what it may be, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgewise.cli import main
from edgewise.errors import CheckpointError, ConfigError
from edgewise.models.families import FAMILIES, Family, family_of
from edgewise.models.families.from_file import family_from_file
from edgewise.models.open import open_checkpoint

from .folders import byte_level

HEAD = "from edgewise.models.families import Family\n"
ROW = "FAMILY = Family(architectures=('Mine',), config={config}, keys={keys})\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder whose architecture no family of the package has."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["Mine"], "width": 4}')
    (folder / "tokenizer.json").write_text(byte_level(starts=False).to_str())
    return folder


def write(folder: Path, text: str) -> Path:
    file = folder / "family.py"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FAMILIES = 3\n", r"family.py: FAMILY is None, expected FAMILY = Family\(...\), see docs/families.md"),
        ("FAMILY = 3\n", r"FAMILY is 3, expected FAMILY = Family"),
        ("import no_such_library\n", "family.py could not be run: ModuleNotFoundError: No module .*, line 1"),
        ("FAMILY = \n", "could not be run: SyntaxError: invalid syntax"),
        ("\nraise SystemExit(3)\n", "could not be run: SystemExit: 3, line 2"),
        (f"{HEAD}FAMILY = Family()\n", "could not be run: TypeError: .*missing 3 required.*, line 2"),
        (HEAD + ROW.format(config=3, keys={}), "could not be run: ConfigError: config is 3, expected a function"),
    ],
)
def test_a_file_that_has_no_family_raises_or_has_faults(text: str, message: str, tmp_path: Path, source: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        family_from_file(write(tmp_path, text), source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ()}, "architectures is empty, expected the names that stand in config.json"),
        ({"architectures": "Mine"}, "architectures is 'Mine', expected a tuple of strings"),
        ({"optional_prefix": None}, "optional_prefix is None, expected a string"),
        ({"copies": None}, "copies is None, expected a mapping of names"),
        ({"keys": [("a", "b")]}, r"keys is \[.*\], expected a mapping of names"),
        ({"keys": {"a": 3}}, "keys is {'a': 3}, expected a mapping of names"),
        ({"zeros": "bias"}, "zeros is 'bias', expected a tuple of strings"),
        ({"unread_rows": {}}, "unread_rows is {}, expected a function"),
        ({"dropped": (3,)}, r"dropped is \(3,\), expected a tuple of strings"),
        ({"transposed": ["a"]}, r"transposed is \['a'\], expected a tuple of strings"),
        ({"dropped": ("(",)}, r"'\(' is no regular expression: missing \)"),
        ({"keys": {"h.{i}.a": "b"}}, "'h.{i}.a' becomes 'b', expected {i} once in both, or in neither"),
        ({"keys": {"a": ("b.{i}", "c")}}, "expected {i} once in both, or in neither"),
        ({"keys": {"{i}.{i}": "{i}.{i}"}}, "expected {i} once in both, or in neither"),
    ],
)
def test_a_row_that_contradicts_itself(changes: dict[str, object], message: str) -> None:
    row = {"architectures": ("Mine",), "config": lambda *_: None, "keys": {}}
    with pytest.raises(ConfigError, match=message):
        Family(**{**row, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gone.py", "family.txt", ""])
def test_only_a_python_file(name: str, tmp_path: Path, source: Path) -> None:
    (tmp_path / "family.txt").write_text("FAMILY = 3")
    with pytest.raises(ConfigError, match="expected a Python file that holds FAMILY"):
        family_from_file(tmp_path / name, source)


@pytest.mark.parametrize("place", ["mine", "mine/below", "bundle"])
def test_what_lies_in_a_checkpoint_or_bundle_is_never_run(place: str, tmp_path: Path, source: Path) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / "bundle").mkdir(exist_ok=True)
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    trace = tmp_path / "it ran"
    file = write(tmp_path / place, f"open({str(trace)!r}, 'w')")
    link = tmp_path / "link.py"
    link.symlink_to(file)
    for named in (file, link):
        with pytest.raises(ConfigError, match="that is data, and this file would be run"):
            family_from_file(named, source)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["config.json", "pytorch_model.bin", "model.safetensors.index.json", "vocab.txt"])
def test_what_lies_beside_any_file_of_a_checkpoint_is_never_run(name: str, tmp_path: Path, source: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / name).write_text("{}")
    trace = tmp_path / "it ran"
    with pytest.raises(ConfigError, match="that is data, and this file would be run"):
        family_from_file(write(tmp_path / "other", f"open({str(trace)!r}, 'w')"), source)
    elsewhere = write(tmp_path, f"open({str(trace)!r}, 'w')")
    (source / "link.py").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="that is data, and this file would be run"):
        family_from_file(source / "link.py", source)
    assert not trace.exists()


def test_a_file_may_define_dataclasses(tmp_path: Path, source: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 1\n"
    )
    family_from_file(write(tmp_path, text + HEAD + ROW.format(config="print", keys={})), source)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("tokenizer=lambda *_: 1 / 0", "its tokenizer function failed: ZeroDivisionError: division by zero, line 2"),
        ("tokenizer=lambda *_: {}", r"its tokenizer function returned dict, expected str \| None"),
        ("adapt=lambda *_: None", "its adapt function returned NoneType, expected Tensor"),
        ("unread_rows=lambda *_: 3", "its unread_rows function returned int, expected Mapping"),
    ],
)
def test_other_functions_that_fail(field: str, message: str, tmp_path: Path, source: Path) -> None:
    row = f"FAMILY = Family(architectures=('Mine',), config=print, keys={{}}, {field})\n"
    family = family_from_file(write(tmp_path, HEAD + row), source)
    with pytest.raises(ConfigError, match=message):
        getattr(family, field.partition("=")[0])(1, 2, 3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("lambda f, g: f.nothing", "its config function failed: AttributeError: .*'nothing', line 2"),
        ("lambda f, g: f.get('height', int) + 1", "failed: TypeError: .*, line 2; before that: height is missing"),
        ("lambda f, g: 3", r"returned 3, expected a ModelConfig: fields.build\(...\)"),
        ("lambda f, g: (f.ignore('width'), f.build(dict))", "returned .None, {}., expected a ModelConfig"),
        ("lambda f, g: f.build(dict)", r"config.json: width \(4\) is not understood"),
    ],
)
def test_a_config_function_that_fails(config: str, message: str, tmp_path: Path, source: Path) -> None:
    (source / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(source, write(tmp_path, HEAD + ROW.format(config=config, keys={})))


def test_other_checkpoints_have_no_use_for_one(tmp_path: Path) -> None:
    file = write(tmp_path, HEAD + ROW.format(config="print", keys={}))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for source in (tmp_path / "model.gguf", tmp_path):
        with pytest.raises(ConfigError, match=r"reads folders whose config.json names architectures; this is none"):
            open_checkpoint(source, file)


def test_it_goes_before_the_packages_own_and_is_named_in_errors(tmp_path: Path, source: Path) -> None:
    mine = family_from_file(write(tmp_path, HEAD + ROW.format(config="print", keys={})), source)
    own = Family(architectures=("BertModel",), config=FAMILIES[0].config, keys={})
    assert family_of({"architectures": ["Mine"]}, "here", (mine,)) is mine
    assert family_of({"architectures": ["BertModel"]}, "here", (own,)) is own
    with pytest.raises(ConfigError, match="expected one of Mine, BertModel"):
        family_of({"architectures": ["Other"]}, "here", (mine,))


def test_parts_and_transposed_matrices() -> None:
    row = Family(
        architectures=("Mine",),
        config=FAMILIES[0].config,
        keys={"{i}.qkv": ("a.{i}.q", "a.{i}.k", "a.{i}.v"), "up": "inner"},
        optional_prefix="m.",
        transposed=(r"(\d\.qkv|up)\.weight",),
    )
    fused = torch.arange(24.0).reshape(2, 12)
    parts = dict(row.parts("m.3.qkv.weight", fused))
    assert list(parts) == ["a.3.q.weight", "a.3.k.weight", "a.3.v.weight"]
    assert torch.equal(parts["a.3.k.weight"], fused[:, 4:8].T)
    assert torch.equal(dict(row.parts("3.qkv.bias", torch.arange(6)))["a.3.v.bias"], torch.tensor([4, 5]))
    assert torch.equal(dict(row.parts("up.weight", fused))["inner.weight"], fused.T)
    assert row.parts("other.weight", fused) == []
    for tensor in (torch.zeros(5), torch.tensor(1.0)):
        with pytest.raises(CheckpointError, match=r"3.qkv.bias has shape .*, expected 3 equal parts along the first"):
            row.parts("3.qkv.bias", tensor)
    with pytest.raises(CheckpointError, match=r"up.weight has shape \(5,\), expected a matrix"):
        row.parts("up.weight", torch.zeros(5))


def test_the_command_line_says_it_in_a_message(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, "1 / 0")
    assert main(["export", str(source), "-o", str(tmp_path / "out"), "--family", str(file)]) == 1
    assert "could not be run: ZeroDivisionError: division by zero, line 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
