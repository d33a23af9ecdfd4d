"""Which variant is opened, on which engine, with how many threads; and names that are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgewise.errors import BundleFormatError, InputError, TargetError
from edgewise.runtime import engines
from edgewise.runtime import load as module
from edgewise.runtime.bundle import Bundle, integrity
from edgewise.runtime.load import EMBEDDED, choose, load

from .tiny_session import manifest, model_for, tokenizer_json
from .torch_engine import TorchEngine

ALL = ("cpu-fp32", "cpu-int8", "cpu-int8-fast", "openvino-fp32", "openvino-int8")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Let ``load`` open a bundle without graphs; what it asked for is noted."""
    model, asked = model_for("translate"), list[dict[str, Any]]()
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json())

    def open_bundle(path: Path, verify: bool, *, allow_hard_links: bool, **_: Any) -> Bundle:
        asked.append({"path": path, "verify": verify, "allow_hard_links": allow_hard_links})
        made = manifest("translate", model, variants=ALL)
        return Bundle(path=tmp_path, manifest=made, graphs={}, verified=verify)

    def open_engine(bundle: Bundle, variant: Any, target: str, threads: int) -> TorchEngine:
        asked[-1].update(variant=variant.name, target=target, threads=threads)
        return TorchEngine(model)

    monkeypatch.setattr(module.Bundle, "open", open_bundle)
    monkeypatch.setattr(engines, "open_engine", open_engine)
    monkeypatch.setattr(module, "available_cpus", lambda: 7)
    return asked


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, ("cpu-int8", "cpu", 7)),
        ({"precision": "fp32"}, ("cpu-fp32", "cpu", 7)),
        ({"precision": "int8-fast", "threads": 2}, ("cpu-int8-fast", "cpu", 2)),
        ({"target": "openvino"}, ("openvino-int8", "openvino", 7)),
        ({"target": "openvino:GPU", "precision": "fp32"}, ("openvino-fp32", "openvino:GPU", 7)),
        ({"target": "openvino:NPU"}, ("openvino-int8", "openvino:NPU", 7)),
    ],
    ids=str,
)
def test_what_is_opened(
    opened: list[dict[str, Any]], arguments: dict[str, Any], expected: tuple[str, str, int]
) -> None:
    session = load("somewhere", **arguments)
    assert (opened[0]["variant"], opened[0]["target"], opened[0]["threads"]) == expected
    assert opened[0]["path"] == "somewhere"
    assert (opened[0]["verify"], opened[0]["allow_hard_links"]) == (True, False)
    assert session.variant.name == expected[0]
    assert session.translate("A man", max_new_tokens=2).tokens


def test_without_a_path_it_is_the_bundle_in_the_package(opened: list[dict[str, Any]]) -> None:
    load(verify=False)
    assert (opened[0]["path"], opened[0]["verify"], opened[0]["allow_hard_links"]) == (EMBEDDED, False, True)
    assert EMBEDDED.parts[-3:] == ("runtime", "embedded", "translate-en-de")


@pytest.mark.parametrize(
    ("variants", "chosen"),
    [
        (("openvino-fp32", "cpu-fp32"), "cpu-fp32"),
        (("openvino-int8", "openvino-fp32"), "openvino-int8"),
        (("cpu-int8-fast", "openvino-int8"), "cpu-int8-fast"),
    ],
    ids=str,
)
def test_auto_takes_what_is_there(variants: tuple[str, ...], chosen: str) -> None:
    target, variant = choose(manifest("translate", model_for("translate"), variants=variants), "auto", "auto")
    assert variant.name == chosen
    assert target == variant.target


@pytest.mark.parametrize(
    ("target", "precision", "message"),
    [
        ("gpu", "auto", "target 'gpu' is unknown, expected auto, cpu, cuda, openvino, openvino:GPU, openvino:NPU, qnn"),
        ("", "auto", "target '' is unknown"),
        ("openvino:CPU", "auto", "target 'openvino:CPU' is unknown"),
        ("cpu", "int3", "precision 'int3' is unknown, expected auto, fp32, int8, int8-fast, int4"),
        ("cuda", "auto", "no variant for target cuda at precision auto; it has cpu-fp32, .*openvino-int8: choose"),
        ("qnn", "int8", "no variant for target qnn at precision int8; it has cpu-fp32"),
        ("openvino", "int8-fast", "no variant for target openvino at precision int8-fast; it has cpu-fp32"),
    ],
)
@pytest.mark.usefixtures("opened")
def test_names_that_are_not_there(target: str, precision: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        load("somewhere", target, precision)


@pytest.mark.parametrize("threads", [0, -1, True, 1.5, "2"])
@pytest.mark.usefixtures("opened")
def test_threads_are_counted(threads: Any) -> None:
    with pytest.raises(InputError, match=r"threads \(.*\) must be an integer of at least 1, or None"):
        load("somewhere", threads=threads)


def test_a_missing_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleFormatError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_hashes_of_other_variants_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chosen variant's files and the shared ones are read; the embedded bundle has two variants."""
    read: list[str] = []
    digest = integrity.file_digest

    def noted(file: Path) -> str:
        read.append(file.relative_to(EMBEDDED).parts[0])
        return digest(file)

    monkeypatch.setattr(integrity, "file_digest", noted)
    load(target="cpu", precision="int8").close()
    assert {"cpu-int8", "tokenizer.json", "reference"} <= set(read)
    assert "openvino-int8" not in read
