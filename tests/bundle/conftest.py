"""A toy bundle by hand: two small graphs over one weights file, written with the onnx package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgewise.runtime.bundle import cases, manifest, model_spec
from edgewise.runtime.bundle.scan import graph_spec

VOCABULARY, WIDTH, SOURCE = 12, 8, ["B", "S"]


class Toy:
    """The bundle at ``path``; ``edit`` changes its manifest, ``rehash`` makes the hashes right again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.graph = path / "cpu-fp32" / "encoder.onnx"
        self.weights = path / "cpu-fp32" / "weights.bin"

    def read(self) -> dict[str, Any]:
        return json.loads((self.path / "manifest.json").read_bytes())  # type: ignore[no-any-return]

    def write(self, data: Any) -> None:
        (self.path / "manifest.json").write_text(json.dumps(data))

    def edit(self, change: Callable[[dict[str, Any]], object]) -> None:
        data = self.read()
        change(data)
        self.write(data)

    def rehash(self) -> None:
        entries = manifest.file_entries(self.path)
        self.edit(lambda data: data.update(files=[vars(entry) for entry in entries]))

    def change_graph(self, change: Callable[[onnx.ModelProto], object]) -> None:
        model = onnx.load(self.graph, load_external_data=False)
        change(model)
        self.graph.write_bytes(model.SerializeToString())
        self.rehash()


def external(name: str, dims: list[int], offset: int, length: int, location: str = "weights.bin") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": str(offset), "length": str(length)}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def toy_graph(outputs: list[str]) -> onnx.ModelProto:
    """``ids (B, S)`` -> the embedding times a constant, once for each name in ``outputs``."""
    nodes = [helper.make_node("Gather", ["embedding", "ids"], ["x"], name="embed", axis=0)]
    nodes += [helper.make_node("Mul", ["x", "scale"], [name], name=f"scale_{name}") for name in outputs]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, SOURCE)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [*SOURCE, WIDTH]) for name in outputs],
        [
            external("embedding", [VOCABULARY, WIDTH], 0, VOCABULARY * WIDTH * 4),
            helper.make_tensor("scale", TensorProto.FLOAT, [], [2.0]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def toy_step() -> cases.Step:
    return cases.Step(
        top_ids=(4, 2), top_logits=(3.123456789, 1.0), margin=2.123456789, log_normalizer=3.5, logits=(0.25,)
    )


def toy_cases() -> cases.ReferenceCases:
    tokens, log_probs = (4, 2), (-0.376543211, -1.5)
    trace: dict[str, Any] = {
        "tokens": tokens,
        "token_log_probs": log_probs,
        "score": sum(log_probs),
        "finish_reason": "end",
        "text": "ein",
    }
    beam = cases.Beam(beam_size=5, length_penalty=0.6, normalized_score=-1.7, margin=None, **trace)
    case = cases.Case(
        name="one-word",
        text="a",
        input_ids=(5, 2),
        max_new_tokens=10,
        greedy=cases.Greedy(**trace, steps=(toy_step(), toy_step())),
        beam=beam,
    )
    return cases.ReferenceCases(
        kind="translate", checkpoint_sha256="0" * 64, torch="2.13.0", seed=1, logit_ids=(7,), cases=(case,)
    )


def toy_manifest(folder: Path) -> manifest.Manifest:
    stack = model_spec.StackSpec(
        n_layers=1, d_model=WIDTH, n_heads=2, d_ff=16, norm_place="post", activation="relu", norm_epsilon=1e-5
    )
    model = model_spec.ModelSpec(
        vocab_size=VOCABULARY,
        max_positions=32,
        pad_id=0,
        start_id=1,
        end_id=2,
        encoder=stack,
        decoder=stack,
        head="vocabulary",
        mask_id=3,
        class_names=(),
    )
    variant = manifest.Variant(
        target="cpu",
        precision="fp32",
        folder="cpu-fp32",
        graphs={name: graph_spec(folder / "cpu-fp32" / f"{name}.onnx") for name in ("encoder", "decoder")},
        cache=manifest.CacheSpec.of(stack, "shared-buffer"),
        kernels=(manifest.KernelChoice(matrix="embedding", shape=(VOCABULARY, WIDTH), kernel="MatMul"),),
    )
    return manifest.Manifest(
        name="toy",
        task="translate",
        model=model,
        max_context=32,
        generation=manifest.Generation(beam_size=4, length_penalty=0.6, max_new_tokens=None),
        languages=manifest.Languages(source="en", target="de"),
        licence=manifest.Licence(name="none", notice="a toy"),
        provenance={"edgewise": "0.1.0", "checkpoint_sha256": "0" * 64, "torch": "2.13.0"},
        variants=(variant,),
        files=manifest.file_entries(folder),
    )


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "bundle"
    (folder / "cpu-fp32").mkdir(parents=True)
    values = np.arange(VOCABULARY * WIDTH, dtype=np.float32)
    (folder / "cpu-fp32" / "weights.bin").write_bytes(values.tobytes())
    for name, outputs in {"encoder": ["cross_key_0", "cross_value_0"], "decoder": ["logits"]}.items():
        (folder / "cpu-fp32" / f"{name}.onnx").write_bytes(toy_graph(outputs).SerializeToString())
    (folder / "tokenizer.json").write_text("{}")
    (folder / "report.json").write_text('{"bleu": 38.5}')
    cases.write_cases(folder / "reference" / "cases.json", toy_cases())
    manifest.write_manifest(folder, toy_manifest(folder))
    return folder


@pytest.fixture
def toy(template: Path, tmp_path: Path) -> Toy:
    """A fresh copy of the toy bundle, to be damaged."""
    return Toy(Path(shutil.copytree(template, tmp_path / "bundle")))


@pytest.fixture
def reference() -> cases.ReferenceCases:
    return toy_cases()


@pytest.fixture
def step() -> cases.Step:
    return toy_step()


@pytest.fixture
def graph() -> onnx.ModelProto:
    """The toy's encoder; its one sibling is ``weights.bin``."""
    return toy_graph(["cross_key_0", "cross_value_0"])


@pytest.fixture
def siblings() -> dict[str, int]:
    return {"weights.bin": VOCABULARY * WIDTH * 4}
