"""From a GGUF file to tokens: bundles for both engines, beside ``transformers``' reading of the same file."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import edgewise
from edgewise.cli import main
from edgewise.models import decode
from edgewise.models.gguf.llama import halves
from edgewise.models.open import open_checkpoint
from edgewise.pipeline import export_bundle

from ...bundles import Damaged, export_few, record_few_cases
from .written import HEADS, KEY_HEADS, WIDTH, library_llama, write_llama

pytestmark = pytest.mark.slow
KINDS = ["smollm", "llama"]
TEXTS = ("The man", "Zwei Hunde", "schön 👧, 12+30=")
STEPS = 24


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``file(tokenizer)``: byte-level without a start token, or SentencePiece with one."""
    folder = tmp_path_factory.mktemp("gguf")
    return cache(
        lambda tokenizer: write_llama(folder / f"{tokenizer}.gguf", tokenizer=tokenizer, tied=tokenizer == "smollm")
    )


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """As ``file``, with layers that add little, so that integers are near, as they are in trained networks."""
    folder = tmp_path_factory.mktemp("calm")
    return cache(
        lambda tokenizer: write_llama(
            folder / f"{tokenizer}.gguf", tokenizer=tokenizer, tied=tokenizer == "smollm", std=0.05
        )
    )


Bundle = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def bundle(
    file: Callable[[str], Path], calm: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """``bundle(tokenizer, precision)``: for both targets, of ``file`` in fp32 and of ``calm`` in int8."""

    def make(tokenizer: str, precision: str) -> Path:
        source = file(tokenizer) if precision == "fp32" else calm(tokenizer)
        out = tmp_path_factory.mktemp("bundle") / "out"
        targets = ("cpu", "openvino")
        export_few(source, out, targets=targets, precisions=(precision,))
        return out

    return cache(make)


@torch.no_grad()
def library_greedy(path: Path, prompt: list[int]) -> list[int]:
    """Tokens of ``transformers``' own generation, the end token included."""
    ids = torch.tensor([prompt])
    model = library_llama(path)
    found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=STEPS, do_sample=False)
    return found[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("tokenizer", KINDS)
def test_tokens_are_those_of_the_library_and_of_the_reference(
    tokenizer: str, target: str, bundle: Bundle, file: Callable[[str], Path]
) -> None:
    model = open_checkpoint(file(tokenizer)).model
    with edgewise.load(bundle(tokenizer, "fp32"), target, "fp32", 1) as session:
        for text in TEXTS:
            found = session.generate(text, max_new_tokens=STEPS)
            prompt = list(found.source_tokens)
            assert (prompt[0] == 1) == (tokenizer == "llama")
            assert list(found.tokens) == library_greedy(file(tokenizer), prompt)
            assert found.tokens == decode.greedy(model, tuple(prompt), STEPS).tokens


@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"])
@pytest.mark.parametrize("tokenizer", KINDS)
def test_the_reference_is_replayed(tokenizer: str, variant: str, bundle: Bundle) -> None:
    target, _, precision = variant.partition("-")
    with edgewise.load(bundle(tokenizer, precision), target, precision, 1) as session:
        report = session.verify()
    assert report.ok, report.table()


def test_integers_are_those_of_the_file(bundle: Bundle, calm: Callable[[str], Path], tmp_path: Path) -> None:
    """Of a Q8_0 file, byte for byte, with their scales; queries and keys by rows in another order.

    Matrices of one input lie one under the other in the bundle.
    """
    parts = Damaged(bundle("smollm", "int8"), tmp_path / "copy")
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(calm("smollm")).tensors}
    matrices = {
        "blk.0.attn_q": ("attention.key.blocks.joined0", halves(HEADS, WIDTH // HEADS)),
        "blk.0.attn_k": ("attention.key.blocks.joined0", halves(KEY_HEADS, WIDTH // HEADS)),
        "blk.0.attn_output": ("attention.output.blocks", np.arange(WIDTH)),
        "blk.0.ffn_down": ("feed_forward.outer.blocks", np.arange(WIDTH)),
    }
    for theirs, (ours, order) in matrices.items():
        blocks = stored[f"{theirs}.weight"].reshape(len(order), -1, 34)[order]
        integers = blocks[:, :, 2:].view(np.int8).astype(np.int16) + 128
        scales = blocks[:, :, :2].copy().view(np.float16).astype(np.float32)
        name = f"decoder.layers.0.{ours}"
        scale_name = name.replace(".joined0", ".joined1") if "joined" in name else name.replace("blocks", "block_scale")
        assert _holds(parts.tensor("cpu-int8", name), integers.astype(np.uint8))
        assert _holds(parts.tensor("cpu-int8", scale_name), scales)


def _holds(flat: NDArray[Any], rows: NDArray[Any]) -> bool:
    """Whether the ``rows`` of a matrix lie together in ``flat``, from some row on."""
    width = rows[0].size
    return any(np.array_equal(flat[i : i + rows.size], rows.reshape(-1)) for i in range(0, flat.size, width))


@pytest.fixture(scope="module")
def four_bits(calm: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of ``calm``, in float32 and in four bits."""
    out = tmp_path_factory.mktemp("int4") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgewise.pipeline.record_cases", record_few_cases)
        export_bundle(calm("smollm"), out, ("cpu",), ("fp32", "int4"), None, 0.3, lambda *_: None)
    return out


def test_four_bits_replay_the_reference_and_are_the_smaller(four_bits: Path) -> None:
    with edgewise.load(four_bits, "cpu", "int4", 1) as session:
        carried = {choice.matrix: choice.kernel for choice in session.variant.kernels}
        report = session.verify()
    assert report.ok, report.table()
    assert report.logit_rms > 1e-4, "as near as float32: nothing was rounded"
    assert carried.pop("vocabulary") == "int8-blocks"
    assert set(carried.values()) == {"int4-blocks"}


def test_damaged_weights_of_four_bits_are_found(four_bits: Path, tmp_path: Path) -> None:
    damaged = Damaged(four_bits, tmp_path / "damaged")
    name = next(n for n in sorted(damaged.places("cpu-int4")) if "int4_scale" in n)
    damaged.put("cpu-int4", name, damaged.tensor("cpu-int4", name) * -4)
    with edgewise.load(damaged.path, "cpu", "int4", 1) as session:
        assert not session.verify().ok


def test_command_line(file: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgewise.pipeline.record_cases", record_few_cases)
        out = str(tmp_path / "out")
        assert main(["export", str(file("smollm")), "-o", out, "--target", "cpu", "--precision", "fp32"]) == 0
    capsys.readouterr()
    assert main(["inspect", out]) == 0
    said = capsys.readouterr().out
    assert "smollm: generate" in said
    assert "recipe: llama, read from a GGUF file; a text ends at '<|im_end|>', and at '<|endoftext|>'" in said
    assert "apache-2.0" in said


def test_the_command_line_refuses_what_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGML" + bytes(60))
    assert main(["export", str(other), "-o", str(tmp_path / "out")]) == 1
    assert "begins with b'GGML', expected b'GGUF': not a GGUF file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
