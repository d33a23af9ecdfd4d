"""Everything that is made once: checkpoint, sources, reference tokens, and the model in every system's format.

A thing that is there is not made again; each appears whole or not at all. To make one again, remove it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ExportError, InputError
from .cell import Tokens, until_end
from .places import Places, this_package
from .random_network import SPECIALS, marian_base, write_random_checkpoint
from .workloads import EXTRA_TOKENS, LENGTH_PENALTY, S1, SOURCE_TOKENS, Workload

if TYPE_CHECKING:
    from ...models.checkpoint import Checkpoint
    from ...models.decode import Decoded

Say = Callable[[str], None]
SOURCES, REFERENCE, TEST_SET = "sources.json", "reference.json", "test_2016_flickr"
NETWORK = "network.json"
"""The configuration of the network, by which its weights are counted."""
SPECIAL_IDS = "special_ids.json"
"""Of workloads whose checkpoints are others' files, where each says it in its own way."""
TASK = "text2text-generation-with-past"
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OPENVINO_TELEMETRY": "0",
}
"""No library asks a server for anything."""


class Preparation:
    """What one workload needs, in the order in which things need each other."""

    def __init__(self, places: Places, workload: Workload, say: Say) -> None:
        self.places, self.workload, self.say = places, workload, say

    def run(self) -> None:
        """Make what is missing.

        Raises:
            MissingExtraError: an environment has not been made.
            ExportError: a converter failed.
            InputError: the workload needs a data set, and nobody said where it is.
        """
        if self.workload is S1:
            self._once("checkpoint", lambda folder: write_random_checkpoint(folder, marian_base()))
        self._once(NETWORK, self._write_network)
        self._once(SOURCES, lambda file: file.write_text(json.dumps(self._sources())))
        self._once(REFERENCE, lambda file: file.write_text(json.dumps(self._reference())))
        self._once("edgewise", self._edgewise)
        self._once("marian", self._marian)
        self._once("ctranslate2-float32", lambda folder: self._ctranslate2(folder, "float32"))
        self._once("ctranslate2-int8", lambda folder: self._ctranslate2(folder, "int8"))
        self._once("onnx-fp32", self._onnx)
        self._once("onnx-int8", self._onnx_int8)
        self._once("openvino-int8", self._openvino)

    def _once(self, name: str, make: Callable[[Path], object]) -> None:
        path = self.places.file(self.workload.name, name)
        if path.exists():
            return
        self.say(f"make {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"part-{name}")
        shutil.rmtree(part, ignore_errors=True)
        make(part)
        part.rename(path)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The network that every system computes."""
        from ...models.checkpoint import load_checkpoint

        return load_checkpoint(self.places.checkpoint(self.workload.name))

    def _write_network(self, file: Path) -> None:
        file.write_text(json.dumps(self.checkpoint.model.config.to_json()))

    def _sources(self) -> Tokens:
        """Token ids of every source, the end token last."""
        config = self.checkpoint.model.config
        if self.workload is S1:
            shape = (self.workload.sources, SOURCE_TOKENS - 1)
            rows: Tokens = np.random.default_rng(0).integers(len(SPECIALS), config.vocab_size, shape).tolist()
        else:
            from ...runtime.tokenizer import Tokenizer

            tokenizer = Tokenizer.open(self.checkpoint.tokenizer_file)
            rows = [tokenizer.encode(line) for line in captions(self.places, "en")]
        return [[*row, config.end_id] for row in rows]

    def _reference(self) -> dict[str, Tokens]:
        """What PyTorch makes of every source in float32, by beam size; greedy always, for the check."""
        from ...models import generate

        sources = self._sources()
        limits = [self.workload.exact_tokens or len(source) + EXTRA_TOKENS for source in sources]
        found: dict[str, Tokens] = {}
        for beam_size in sorted({1, *self.workload.beams}):
            decoded: list[Decoded] = []
            for i in range(0, len(sources), 32):
                batch = sources[i : i + 32], limits[i : i + 32]
                if beam_size == 1:
                    decoded += generate.greedy(self.checkpoint.model, *batch)
                else:
                    beams = generate.beam(self.checkpoint.model, batch[0], beam_size, LENGTH_PENALTY, batch[1])
                    decoded += [best[0] for best in beams]
            found[str(beam_size)] = [until_end(d.tokens, self.checkpoint.model.config.end_id) for d in decoded]
        return found

    def _edgewise(self, folder: Path) -> None:
        from ...pipeline import export_bundle

        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of optional libraries that are not needed
        targets, precisions = ["cpu", "openvino"], ["fp32", "int8"]
        export_bundle(self.checkpoint.folder, folder, targets, precisions, None, 0.0, lambda done, cases: None)

    def _marian(self, folder: Path) -> None:
        from .marian import write_marian

        write_marian(self.checkpoint, folder)

    def _ctranslate2(self, folder: Path, quantization: str) -> None:
        from .marian import reference_state

        weights = folder.with_suffix(".npz")
        positions = self.checkpoint.model.positions
        assert positions is not None  # the paper's network has sinusoids
        state = reference_state(self.checkpoint) | {"positions": positions.numpy()}
        np.savez(weights, allow_pickle=False, **state)
        module = "edgewise.benchmarks.peers.convert_ctranslate2"
        config = self.checkpoint.folder / "config.json"
        self._convert("ctranslate2", "python", "-P", "-m", module, weights, config, folder, quantization)
        weights.unlink()

    def _onnx(self, folder: Path) -> None:
        options = ("--model", self._file("marian"), "--task", TASK)
        self._convert("optimum", "optimum-cli", "export", "onnx", *options, folder)

    def _onnx_int8(self, folder: Path) -> None:
        source = self._file("onnx-fp32")
        quantize = ("onnxruntime", "quantize", "--avx512_vnni")
        self._convert("optimum", "optimum-cli", *quantize, "--onnx_model", source, "-o", folder)
        shutil.copy(source / "generation_config.json", folder)  # the quantizer leaves it out

    def _openvino(self, folder: Path) -> None:
        options = ("--task", "text2text-generation-with-past", "--weight-format", "int8")
        self._convert(
            "openvino", "optimum-cli", "export", "openvino", "--model", self._file("marian"), *options, folder
        )

    def _file(self, name: str) -> Path:
        return self.places.file(self.workload.name, name)

    def _convert(self, environment: str, program: str, *arguments: str | Path) -> None:
        """Run a converter of an environment."""
        binary = self.places.binary(environment, program)
        variables = os.environ | OFFLINE | {"PATH": f"{binary.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        with this_package() as path:
            done = subprocess.run(
                [binary, *arguments], capture_output=True, text=True, env=variables | path, check=False
            )
        if done.returncode:
            raise ExportError(
                f"{program} of {environment} ended with status {done.returncode}, expected 0; "
                f"the last of what it said:\n{done.stderr[-2000:]}"
            )


def captions(places: Places, language: str) -> list[str]:
    """The test set of Multi30k.

    Raises:
        InputError: nobody said where it is.
    """
    if places.multi30k is None:
        raise InputError(f"workload s2 translates Multi30k's {TEST_SET}: set MULTI30K to the folder of that data set")
    return (places.multi30k / f"{TEST_SET}.{language}").read_text(encoding="utf-8").splitlines()
