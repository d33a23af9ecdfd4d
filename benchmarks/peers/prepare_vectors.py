"""What S4 needs: texts of chosen lengths, texts whose likeness people judged, and the network in every format.

The published model is opened as it is; every other system gets what its own converter makes of that folder.
"""

from __future__ import annotations

import json
import logging
import shutil
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError
from ...runtime.bundle.manifest import Manifest
from ...runtime.inputs import prepare_source
from ...runtime.load import load
from .cell import Tokens
from .places import Places
from .prepare import NETWORK, SPECIAL_IDS, Preparation

if TYPE_CHECKING:
    from ...models.checkpoint import Checkpoint

JUDGED, JUDGEMENTS, VECTORS = "judged.json", "judgements.json", "vectors.npy"
_TASK = ("--task", "feature-extraction", "--library", "transformers")
_BATCH = 32
_CALIBRATION = 300
"""Texts that NNCF sees, its own default."""


class VectorPreparation(Preparation):
    """In the order in which things need each other."""

    def run(self) -> None:
        """Make what is missing; errors as in :meth:`Preparation.run`."""
        self._once(NETWORK, self._write_network)
        self._once("edgewise", self._edgewise)
        self._once(SPECIAL_IDS, lambda file: file.write_text(json.dumps({"pad": self.manifest.model.pad_id})))
        for batch in self.workload.batches:
            self._once(self.workload.sources_file(batch), partial(self._write_sources, batch))
        self._once(JUDGED, lambda file: file.write_text(json.dumps(self._judged())))
        self._once(JUDGEMENTS, lambda file: file.write_text(json.dumps([score for score, _, _ in self._pairs("dev")])))
        self._once(VECTORS, self._vectors)
        self._once("sentence-transformers", lambda folder: shutil.copytree(self._published, folder))
        self._once("ctranslate2-int8", self._ctranslate2_int8)
        self._once("onnx-fp32", self._onnx)
        self._once("onnx-int8", self._onnx_int8)
        self._once("onnx-int8-per-channel", lambda folder: self._onnx_int8(folder, "--per_channel"))
        self._once("openvino-fp32", lambda folder: self._openvino_as(folder, "fp32"))
        self._once("openvino-int8", lambda folder: self._openvino_as(folder, "int8"))
        self._once("calibration.json", lambda file: file.write_text(json.dumps(self._calibration())))
        self._once("openvino-int8-nncf", self._nncf)

    @property
    def _published(self) -> Path:
        return self.places.checkpoint(self.workload.name)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The network that every system computes."""
        from ...models.open import open_checkpoint

        return open_checkpoint(self._published)

    @cached_property
    def manifest(self) -> Manifest:
        """Of the bundle, which is made first: its tokenizer splits the texts for all."""
        return self._bundle[0]

    @cached_property
    def _bundle(self) -> tuple[Manifest, Tokens]:
        with load(self._file("edgewise"), "cpu", "fp32", 1) as session:
            left, right = zip(*((left, right) for _, left, right in self._pairs("train")), strict=True)
            texts = [*left, *right]
            rows = [prepare_source(session.tokenizer, session.manifest, t, "error", "text").ids for t in texts]
            return session.manifest, [list(row) for row in rows]

    def _write_sources(self, batch: int, file: Path) -> None:
        file.write_text(json.dumps(self._rows(self.workload.lengths[batch])))

    def _rows(self, length: int) -> Tokens:
        """Sentences of exactly ``length`` tokens; where none is so long, as many as it takes, cut at the end."""
        rows = self._bundle[1]
        exact = [row for row in rows if len(row) == length]
        first, last, texts = rows[0][0], rows[0][-1], iter(rows)
        while len(exact) < self.workload.sources:
            inner: list[int] = []
            while len(inner) < length - 2:
                inner += next(texts)[1:-1]
            exact.append([first, *inner[: length - 2], last])
        return exact[: self.workload.sources]

    def _judged(self) -> Tokens:
        """Both sentences of every pair, one after the other."""
        with load(self._file("edgewise"), "cpu", "fp32", 1) as session:
            texts = [text for _, *pair in self._pairs("dev") for text in pair]
            return [list(prepare_source(session.tokenizer, session.manifest, t, "error", "text").ids) for t in texts]

    def _pairs(self, part: str) -> list[tuple[float, str, str]]:
        """Of STS-B: what people gave, 0 to 5, and the two sentences."""
        return judged_pairs(self.places, part)

    def _vectors(self, file: Path) -> None:
        """What PyTorch makes in float32 of every judged sentence."""
        import torch

        from ...runtime.inputs import right_pad

        model, rows = self.checkpoint.model, self._judged()
        found = []
        with torch.inference_mode():
            for i in range(0, len(rows), _BATCH):
                ids, mask = map(torch.from_numpy, right_pad(rows[i : i + _BATCH], model.config.pad_id))
                found.append(model.pool(model.encode(ids, mask), mask).numpy())
        with file.open("wb") as stream:
            np.save(stream, np.concatenate(found), allow_pickle=False)

    def _edgewise(self, folder: Path) -> None:
        from ...pipeline import export_bundle

        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of optional libraries that are not needed
        export_bundle(self._published, folder, ["cpu"], ["fp32", "int8"], None, 0.0, lambda done, cases: None)

    def _ctranslate2_int8(self, folder: Path) -> None:
        options = ("--model", self._published, "--quantization", "int8", "--output_dir", folder)
        self._convert("optimum", "ct2-transformers-converter", *options)

    def _onnx(self, folder: Path) -> None:
        self._convert("optimum", "optimum-cli", "export", "onnx", "--model", self._published, *_TASK, folder)

    def _onnx_int8(self, folder: Path, *more: str) -> None:
        quantize = ("onnxruntime", "quantize", "--avx512_vnni", *more)
        self._convert("optimum", "optimum-cli", *quantize, "--onnx_model", self._file("onnx-fp32"), "-o", folder)

    def _openvino_as(self, folder: Path, weights: str) -> None:
        options = ("--model", self._published, *_TASK, "--weight-format", weights)
        self._convert("openvino", "optimum-cli", "export", "openvino", *options, folder)

    def _calibration(self) -> Tokens:
        return self._bundle[1][:: len(self._bundle[1]) // _CALIBRATION][:_CALIBRATION]

    def _nncf(self, folder: Path) -> None:
        arguments = (self._file("openvino-fp32"), self._file("calibration.json"), folder)
        self._convert("openvino", "python", "-P", "-m", "edgewise.benchmarks.peers.convert_nncf", *arguments)


def judged_pairs(places: Places, part: str) -> list[tuple[float, str, str]]:
    """Of a part of STS-B, ``train`` or ``dev``: what people gave, 0 to 5, and the two sentences.

    Raises:
        InputError: nobody said where it is.
    """
    if places.assets is None:
        raise InputError("workload s4 is judged on STS-B: set ASSETS to the folder that holds sts/sts-dev.csv")
    lines = (places.assets / "sts" / f"sts-{part}.csv").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines)
    return [(float(row[4]), row[5], row[6]) for row in rows]
