"""Tiny real bundles, and copies to damage whose manifest is made to fit whatever was done to them."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgewise.export import cases as export_cases
from edgewise.export.probes import probes
from edgewise.pipeline import export_bundle
from edgewise.quantize.choose import choose_kernels
from edgewise.quantize.schemes import Kernel, scheme_of
from edgewise.runtime.bundle import manifest
from edgewise.runtime.bundle.cases import ReferenceCases
from edgewise.runtime.bundle.scan import graph_spec
from edgewise.runtime.bundle.schema import to_json

from .tiny_checkpoint import write_checkpoint

MAX_CONTEXT = 96
KEPT = ("empty", "caption-00", "caption-01", "one-word", "digits", "repeated-word", "emoji", "longest", "vocabulary-")


@cache
def tiny_bundle(task: str) -> Path:
    """A tiny random model for ``task``, fp32 and int8 for both targets, exported once a process. Not to be changed."""
    folder = Path(tempfile.mkdtemp(prefix="edgewise-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source = write_checkpoint(folder / f"tiny-{task}", task, max_positions=MAX_CONTEXT)
    export_few(source, folder / "bundle")
    return folder / "bundle"


def export_few(
    source: Path,
    out: Path,
    targets: Sequence[str] = ("cpu", "openvino"),
    precisions: Sequence[str] = ("fp32", "int8"),
) -> None:
    """As ``edgewise export``, with few cases (:func:`record_few_cases`) and kernels that are always the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgewise.pipeline.record_cases", record_few_cases)
        export_bundle(source, out, targets, precisions, None, 0.3, lambda *_: None, kernels=rows_where_possible)


def record_few_cases(*arguments: Any) -> ReferenceCases:
    """As ``record_cases``, with enough of every kind and all of the vocabulary: tiny models seldom end a sentence."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            export_cases, "probes", lambda codec, room: [p for p in probes(codec, room) if p.name.startswith(KEPT)]
        )
        return export_cases.record_cases(*arguments)


def rows_where_possible(graphs: Any, precision: str, target: str, inputs: Any = None) -> dict[str, Kernel]:
    """The integer kernel that every size of matrix can have; nothing is measured, so every run tests the same.

    It stands in for ``edgewise.pipeline.measured_kernels``, too, whose ``inputs`` it does not look at.
    """
    return choose_kernels(graphs, scheme_of(precision, target), target, _rows_are_fastest)


def _rows_are_fastest(k: int, n: int, rows: int, kernels: Sequence[Kernel]) -> dict[Kernel, float]:
    return {kernel: 0.1 if kernel == "int8-rows" else 1.0 for kernel in kernels}


class Place(NamedTuple):
    """Where a tensor lies in ``weights.bin``."""

    offset: int
    length: int
    dtype: np.dtype[Any]


class Damaged:
    """A copy of a bundle; after each change its manifest holds the new hashes and signatures."""

    def __init__(self, source: Path, copy: Path) -> None:
        self.path = Path(shutil.copytree(source, copy))

    def places(self, variant: str) -> dict[str, Place]:
        """The tensors of a variant that lie in ``weights.bin``, by name."""
        found = {}
        for file in sorted((self.path / variant).glob("*.onnx")):
            for tensor in onnx.load(file, load_external_data=False).graph.initializer:
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    at = {entry.key: entry.value for entry in tensor.external_data}
                    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
                    found[tensor.name] = Place(int(at["offset"]), int(at["length"]), dtype)
        return found

    def tensor(self, variant: str, name: str) -> NDArray[Any]:
        """A tensor's values, flat; :meth:`put` writes them back."""
        place = self.places(variant)[name]
        data = (self.path / variant / "weights.bin").read_bytes()
        return np.frombuffer(data[place.offset : place.offset + place.length], place.dtype).copy()

    def put(self, variant: str, name: str, values: NDArray[Any]) -> None:
        """Replace a tensor in every graph of the variant."""
        place = self.places(variant)[name]
        file = self.path / variant / "weights.bin"
        data = bytearray(file.read_bytes())
        data[place.offset : place.offset + place.length] = values.astype(place.dtype).tobytes()
        file.write_bytes(data)
        self.fit()

    def flip(self, variant: str, count: int, seed: int) -> None:
        """Turn over the top bit of ``count`` integers, anywhere among those of the variant's weights."""
        stored = {p.offset: p for p in self.places(variant).values() if p.dtype.itemsize == 1}  # a tied one once
        bytes_ = np.concatenate([np.arange(p.offset, p.offset + p.length) for p in stored.values()])
        file = self.path / variant / "weights.bin"
        data = np.frombuffer(file.read_bytes(), np.uint8).copy()
        data[np.random.default_rng(seed).choice(bytes_, count, replace=False)] ^= 0x80
        file.write_bytes(data.tobytes())
        self.fit()

    def swap(self, variant: str, first: str, second: str) -> int:
        """Exchange every tensor named ``first...`` with its ``second...``, but for those joined over layers.

        Returns how many pairs.
        """
        places = self.places(variant)
        all_pairs = ((name, second + name.removeprefix(first)) for name in places if name.startswith(first))
        pairs = [(one, other) for one, other in all_pairs if other in places]
        for one, other in pairs:
            values = self.tensor(variant, one), self.tensor(variant, other)
            self.put(variant, one, values[1])
            self.put(variant, other, values[0])
        return len(pairs)

    def pretend(self, variant: str, precision: str) -> None:
        """Give the graphs of ``variant`` the place and the name of another precision of its target."""
        target = variant.partition("-")[0]
        shutil.rmtree(self.path / f"{target}-{precision}", ignore_errors=True)
        (self.path / variant).rename(self.path / f"{target}-{precision}")
        self.fit()

    def write(self, file: str, data: bytes) -> None:
        """Replace a file."""
        (self.path / file).write_bytes(data)
        self.fit()

    def fit(self) -> None:
        """Rewrite the manifest from what is in the folder: variants that are gone, signatures, sizes, hashes."""
        file = self.path / "manifest.json"
        data = json.loads(file.read_bytes())
        data["variants"] = [v for v in data["variants"] if (self.path / v["folder"]).is_dir()]
        for variant in data["variants"]:
            folder = self.path / variant["folder"]
            variant["graphs"] = {
                name: to_json(graph_spec(folder / spec["file"])) for name, spec in variant["graphs"].items()
            }
        data["files"] = [to_json(entry) for entry in manifest.file_entries(self.path)]
        file.write_text(json.dumps(data))
