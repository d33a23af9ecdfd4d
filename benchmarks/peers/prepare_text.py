"""What S3 needs: prompts, texts to score, what PyTorch continues with, and the network in every format.

edgewise and llama.cpp open the published GGUF file, the others what their own converters make of the folder of
:mod:`.llama_folder`.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import EdgewiseError, InputError
from ...runtime.tokenizer import Tokenizer
from .cell import Tokens
from .places import Places
from .prepare import NETWORK, REFERENCE, SOURCES, SPECIAL_IDS, Preparation
from .workloads import PROMPT_TOKENS

if TYPE_CHECKING:
    from ...models.checkpoint import Checkpoint

LOG_PROBS, SCORED, SCORED_ROWS, SCORED_TOKENS = "log_probs.json", "scored.json", 4, 512
"""Texts whose perplexity is measured: the first 4 times 512 tokens of WikiText-2's test part."""
_TASK = ("--task", "text-generation-with-past")
_GROUP = "64"
"""Weights that share a scale in OpenVINO's int4: its 128 does not divide 576 columns."""


class TextPreparation(Preparation):
    """In the order in which things need each other."""

    def run(self) -> None:
        """Make what is missing; errors as in :meth:`Preparation.run`.

        A format that cannot be made is told, and its systems go without.
        """
        self._once(NETWORK, self._write_network)
        self._once("llama", self._llama)
        self._once(SPECIAL_IDS, lambda file: file.write_text(json.dumps({"end": self.checkpoint.model.config.end_id})))
        self._once(SOURCES, lambda file: file.write_text(json.dumps(self._prompts())))
        self._once(SCORED, lambda file: file.write_text(json.dumps(self._scored())))
        self._once(REFERENCE, lambda file: file.write_text(json.dumps(self._reference())))
        self._once(LOG_PROBS, lambda file: file.write_text(json.dumps(self._log_probs())))
        for name, make in self._formats().items():
            try:
                self._once(name, make)
            except EdgewiseError as error:
                self.say(f"{name} is not made: {error}")

    def _formats(self) -> dict[str, Callable[[Path], object]]:
        gguf = {f"gguf-{kind}": partial(self._requantized, kind) for kind in ("q4_0", "q8_0")}
        genai = {f"onnxruntime-genai-{kind}": partial(self._genai, kind) for kind in ("int8", "int4")}
        openvino = {f"openvino-genai-{kind}": partial(self._openvino_as, kind) for kind in ("int8", "int4")}
        return {
            "gguf-q4_1": self._gguf,
            **gguf,
            "ctranslate2-int8": self._ctranslate2_int8,
            "onnx-fp32": self._onnx,
            "optimum-onnx-int8": self._onnx_int8,
            **genai,
            **openvino,
            "edgewise": partial(self._edgewise_as, ["fp32", "int8"]),
            "edgewise-int4": partial(self._edgewise_as, ["int4"]),
        }

    @property
    def _published(self) -> Path:
        return self.places.checkpoint(self.workload.name)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The network that every system computes."""
        from ...models.open import open_checkpoint

        return open_checkpoint(self._published)

    def _llama(self, folder: Path) -> None:
        from .llama_folder import write_llama

        write_llama(self._published, self.checkpoint, folder)

    def _ids(self, part: str, count: int) -> list[int]:
        """The first ``count`` tokens of a part of WikiText-2."""
        text = wikitext(self.places, part)[: 12 * count]  # characters: far more than so many tokens
        return Tokenizer.open(self._file("llama") / "tokenizer.json").encode(text)[:count]

    def _prompts(self) -> Tokens:
        ids = self._ids("valid", self.workload.sources * PROMPT_TOKENS)
        return [ids[i : i + PROMPT_TOKENS] for i in range(0, len(ids), PROMPT_TOKENS)]

    def _scored(self) -> Tokens:
        ids = self._ids("test", SCORED_ROWS * SCORED_TOKENS)
        return [ids[i : i + SCORED_TOKENS] for i in range(0, len(ids), SCORED_TOKENS)]

    def _reference(self) -> dict[str, Tokens]:
        """What PyTorch continues every prompt with in float32, whatever the end token."""
        import torch

        from ...models.decode import remember
        from ...models.generate import CachedDecoder

        prompts = self._prompts()
        decoder = CachedDecoder(self.checkpoint.model, remember(self.checkpoint.model, prompts))
        ids, rows = torch.tensor(prompts), []
        assert self.workload.exact_tokens is not None
        with torch.inference_mode():
            for _ in range(self.workload.exact_tokens):
                ids = decoder.feed(ids).argmax(-1, keepdim=True)
                rows.append(ids)
        return {"1": torch.cat(rows, 1).tolist()}

    def _log_probs(self) -> list[list[float]]:
        """Of every token but the first of every scored text."""
        import torch

        found, model = [], self.checkpoint.model
        with torch.inference_mode():
            for row in self._scored():
                ids = torch.tensor([row])
                scores = model.logits(model(ids, ids))[0, :-1].log_softmax(-1)
                found.append(scores.gather(1, ids[0, 1:, None])[:, 0].tolist())
        return found

    def _edgewise_as(self, precisions: list[str], folder: Path) -> None:
        from ...pipeline import export_bundle

        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of optional libraries that are not needed
        export_bundle(self._published, folder, ["cpu"], precisions, None, 0.0, lambda done, cases: None)

    def _gguf(self, folder: Path) -> None:
        folder.mkdir()
        shutil.copy(self._published, folder)

    def _requantized(self, kind: str, folder: Path) -> None:
        folder.mkdir()
        module = "edgewise.benchmarks.peers.requantize_gguf"
        self._convert("llama", "python", "-P", "-m", module, self._published, kind, folder / f"{kind}.gguf")

    def _genai(self, kind: str, folder: Path) -> None:
        cache = folder.with_name(f"{folder.name}-cache")
        options = ("-i", self._file("llama"), "-o", folder, "-p", kind, "-e", "cpu", "-c", cache)
        self._convert("genai", "python", "-m", "onnxruntime_genai.models.builder", *options)
        shutil.rmtree(cache, ignore_errors=True)

    def _openvino_as(self, kind: str, folder: Path) -> None:
        group = ("--group-size", _GROUP, "--ratio", "1.0") if kind == "int4" else ()
        options = ("--model", self._file("llama"), *_TASK, "--weight-format", kind, *group)
        self._convert("openvino", "optimum-cli", "export", "openvino", *options, folder)

    def _ctranslate2_int8(self, folder: Path) -> None:
        options = ("--model", self._file("llama"), "--quantization", "int8", "--output_dir", folder)
        self._convert("optimum", "ct2-transformers-converter", *options)

    def _onnx(self, folder: Path) -> None:
        self._convert("optimum", "optimum-cli", "export", "onnx", "--model", self._file("llama"), *_TASK, folder)

    def _onnx_int8(self, folder: Path) -> None:
        source = self._file("onnx-fp32")
        quantize = ("onnxruntime", "quantize", "--avx512_vnni")
        self._convert("optimum", "optimum-cli", *quantize, "--onnx_model", source, "-o", folder)
        for name in ("config.json", "generation_config.json"):
            shutil.copy(source / name, folder)


def wikitext(places: Places, part: str) -> str:
    """A part of WikiText-2, ``valid`` or ``test``.

    Raises:
        InputError: nobody said where it is.
    """
    if places.assets is None:
        raise InputError(
            "workload s3 continues and scores WikiText-2: set ASSETS to the folder that holds text/wikitext2_test.txt"
        )
    return (places.assets / "text" / f"wikitext2_{part}.txt").read_text(encoding="utf-8")
