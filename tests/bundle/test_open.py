"""Opening a bundle: the good one opens, every damaged one is refused before an engine could see it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.errors import BundleFormatError, BundleIntegrityError, TargetError, UnsafeBundleError
from edgewise.runtime.bundle import Bundle


def test_opens(toy: Any) -> None:
    bundle = Bundle.open(toy.path)
    variant = bundle.variant("cpu", "fp32")
    assert bundle.verified
    assert bundle.graph_path(variant, "decoder") == toy.path / "cpu-fp32" / "decoder.onnx"
    assert bundle.size(variant) == sum(p.stat().st_size for p in (toy.path / "cpu-fp32").iterdir())
    assert bundle.tokenizer_path == toy.path / "tokenizer.json"
    assert bundle.cases().cases[0].name == "one-word"
    assert bundle.report() == {"bleu": 38.5}
    assert bundle.graphs["cpu-fp32/encoder.onnx"].operators == {"Gather": 1, "Mul": 2}


def test_opens_through_a_link_to_its_folder(toy: Any, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(toy.path)
    assert Bundle.open(str(link)).manifest.name == "toy"


def test_a_report_is_optional(toy: Any) -> None:
    (toy.path / "report.json").unlink()
    toy.rehash()
    assert Bundle.open(toy.path).report() == {}


def test_a_report_is_an_object(toy: Any) -> None:
    (toy.path / "report.json").write_text("[]")
    toy.rehash()
    with pytest.raises(BundleFormatError, match=r"report\.json: list, expected an object"):
        Bundle.open(toy.path).report()


def test_opening_loads_no_engine(toy: Any) -> None:
    code = "import sys; from edgewise.runtime.bundle import Bundle; Bundle.open(sys.argv[1]).cases()"
    code += "; print([m for m in ('torch', 'onnx', 'onnxruntime', 'openvino', 'tokenizers') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code, str(toy.path)], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_unknown_variant_names_what_is_there(toy: Any) -> None:
    with pytest.raises(TargetError, match=r"no variant openvino-int8 in .*, which has: cpu-fp32\. .*--precision int8"):
        Bundle.open(toy.path).variant("openvino", "int8")


def test_unknown_graph(toy: Any) -> None:
    bundle = Bundle.open(toy.path)
    with pytest.raises(BundleFormatError, match="variant cpu-fp32 has no graph 'step', which has: encoder, decoder"):
        bundle.graph_path(bundle.variant("cpu", "fp32"), "step")


def test_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, message in {"none": "does not exist", "file": "is a file", "": "no manifest.json inside"}.items():
        with pytest.raises(
            BundleFormatError, match=f"{message}, expected a bundle folder; make one with 'edgewise export'"
        ):
            Bundle.open(tmp_path / name)


# Contents


@pytest.mark.parametrize("name", ["cpu-fp32/encoder.onnx", "cpu-fp32/weights.bin", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "flipped"])
def test_damaged_file_is_named(toy: Any, name: str, damage: str) -> None:
    file: Path = toy.path / name
    raw = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "truncated": raw[:-1], "flipped": bytes([raw[0] ^ 1]) + raw[1:]}[damage])
    expected = {
        "missing": rf"{name} cannot be read \(No such file or directory\), expected a file of {len(raw)} bytes",
        "empty": f"{name} has 0 bytes, expected {len(raw)}",
        "truncated": f"{name} has {len(raw) - 1} bytes, expected {len(raw)}",
        "flipped": f"{name} has SHA-256 [0-9a-f]{{64}}, expected [0-9a-f]{{64}}",
    }[damage]
    with pytest.raises(BundleIntegrityError, match=expected):
        Bundle.open(toy.path)


def test_all_damaged_files_in_one_error(toy: Any) -> None:
    toy.weights.unlink()
    (toy.path / "tokenizer.json").write_text("changed")
    with pytest.raises(BundleIntegrityError, match=r"weights\.bin cannot be read.*; tokenizer\.json has 7 bytes"):
        Bundle.open(toy.path)


def test_unverified_skips_hashes_only(toy: Any) -> None:
    raw = toy.weights.read_bytes()
    toy.weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert not Bundle.open(toy.path, verify=False).verified
    toy.weights.write_bytes(raw[:-4])
    with pytest.raises(BundleIntegrityError, match="bytes, expected"):
        Bundle.open(toy.path, verify=False)
    toy.weights.write_bytes(raw)
    toy.graph.write_bytes(b"\xff" * toy.graph.stat().st_size)
    with pytest.raises(UnsafeBundleError, match="damaged, or no ONNX graph"):
        Bundle.open(toy.path, verify=False)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_weights_that_are_no_numbers(toy: Any, value: float) -> None:
    weights = np.fromfile(toy.weights, np.float32)
    weights[[3, 5]] = value
    weights.tofile(toy.weights)
    toy.rehash()
    with pytest.raises(
        BundleIntegrityError, match=r"encoder\.onnx: embedding has 2 of 96 values that are NaN or infinite"
    ):
        Bundle.open(toy.path)
    assert not Bundle.open(toy.path, verify=False).verified


# Containment: with right hashes throughout, as an attacker would have them


def _symlink(file: Path, elsewhere: Path) -> None:
    shutil.move(file, elsewhere)
    file.symlink_to(elsewhere)


def _hard_link(file: Path, elsewhere: Path) -> None:
    os.link(file, elsewhere)


def _pipe(file: Path, elsewhere: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _linked_folder(file: Path, elsewhere: Path) -> None:
    shutil.move(file.parent, elsewhere)
    file.parent.symlink_to(elsewhere)


def _unlisted(file: Path, elsewhere: Path) -> None:
    (file.parent / "more.bin").write_bytes(b"")


@pytest.mark.parametrize("verify", [True, False], ids=["verified", "unverified"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_symlink, r"cpu-fp32/weights\.bin is a symbolic link to '.*elsewhere', expected a plain file"),
        (_hard_link, r"cpu-fp32/weights\.bin is one of 2 hard links to a file, expected 1"),
        (_pipe, r"cpu-fp32/weights\.bin is no regular file, expected a plain file"),
        (_linked_folder, r"weights\.bin lies in cpu-fp32, which is a link or a file, expected a folder"),
        (_unlisted, r"cpu-fp32/more\.bin is not listed in manifest\.json, expected only listed files there"),
    ],
    ids=["symbolic link", "hard link", "pipe", "linked folder", "unlisted file"],
)
def test_files_elsewhere(
    toy: Any, tmp_path: Path, damage: Callable[[Path, Path], None], message: str, verify: bool
) -> None:
    damage(toy.weights, tmp_path / "elsewhere")
    with pytest.raises(UnsafeBundleError, match=message):
        Bundle.open(toy.path, verify=verify)


def test_installers_may_hard_link(toy: Any, tmp_path: Path) -> None:
    for file in [p for p in toy.path.rglob("*") if p.is_file()]:
        os.link(file, tmp_path / file.name)
    assert Bundle.open(toy.path, allow_hard_links=True).verified
    with pytest.raises(UnsafeBundleError, match="one of 2 hard links"):
        Bundle.open(toy.path)


@pytest.mark.parametrize("damage", [_symlink, _pipe], ids=["symbolic link", "pipe"])
def test_manifest_elsewhere(toy: Any, tmp_path: Path, damage: Callable[[Path, Path], None]) -> None:
    damage(toy.path / "manifest.json", tmp_path / "elsewhere")
    with pytest.raises(UnsafeBundleError, match=r"manifest\.json is .*, expected a plain file\. Copy the bundle"):
        Bundle.open(toy.path)


# Signatures


def test_signature_differs_from_the_graph(toy: Any) -> None:
    def change(data: dict[str, Any]) -> None:
        graphs = data["variants"][0]["graphs"]
        graphs["encoder"]["inputs"][0]["dtype"] = "int32"
        graphs["decoder"]["outputs"][0]["shape"][-1] = 9

    toy.edit(change)
    with pytest.raises(BundleFormatError) as caught:
        Bundle.open(toy.path)
    message = str(caught.value)
    assert "cpu-fp32/encoder.onnx has inputs [ids int64 (B, S)], expected [ids int32 (B, S)]" in message
    assert (
        "cpu-fp32/decoder.onnx has outputs [logits float32 (B, S, 8)], expected [logits float32 (B, S, 9)]" in message
    )


def test_signature_in_another_order(toy: Any) -> None:
    toy.edit(lambda data: data["variants"][0]["graphs"]["encoder"]["outputs"].reverse())
    expected = r"outputs \[cross_key_0, cross_value_0\], expected \[cross_value_0, cross_key_0\]"
    with pytest.raises(BundleFormatError, match=expected):
        Bundle.open(toy.path)


# Cases against the model


def _of_another_checkpoint(data: dict[str, Any]) -> None:
    data["provenance"]["checkpoint_sha256"] = "1" * 64


def _of_a_smaller_vocabulary(data: dict[str, Any]) -> None:
    data["model"]["vocab_size"] = 6
    data["generation"]["beam_size"] = 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_of_another_checkpoint, r"cases\.json: checkpoint_sha256 is '0+', expected '1+' as in manifest\.json"),
        (_of_a_smaller_vocabulary, r"cases\.json: token id 7, expected ids below vocab_size \(6\)"),
    ],
    ids=["another checkpoint", "smaller vocabulary"],
)
def test_cases_of_another_model(toy: Any, change: Callable[[dict[str, Any]], None], message: str) -> None:
    toy.edit(change)
    with pytest.raises(BundleFormatError, match=message):
        Bundle.open(toy.path).cases()
