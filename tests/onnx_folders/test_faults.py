"""Folders of graphs that are damaged, hostile or incomplete: a typed error each, that says what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewise.cli import main
from edgewise.errors import (
    BundleFormatError,
    CheckpointError,
    ConfigError,
    EdgewiseError,
    ExportError,
    TargetError,
    UnsafeBundleError,
)
from edgewise.export.onnx_folder import reading
from edgewise.export.onnx_folder.files import find_graphs, is_onnx_folder
from edgewise.models.families import graph_settings
from edgewise.models.families.marian import MARIAN
from edgewise.runtime.load import load

from ..bundles import Damaged
from .exported import GOLDENS, bundle, copied, export

Graph = onnx.ModelProto


def changed(file: Path, change: Callable[[Graph], object]) -> None:
    model = onnx.load(file, load_external_data=False)
    change(model)
    file.write_bytes(model.SerializeToString())


def config(**fields: Any) -> Callable[[Path], None]:
    """Set fields of ``config.json``; ``None`` takes one out."""

    def change(folder: Path) -> None:
        data = json.loads((folder / "config.json").read_text()) | fields
        (folder / "config.json").write_text(json.dumps({k: v for k, v in data.items() if v is not None}))

    return change


def graph(change: Callable[[Graph], object], file: str = "model.onnx") -> Callable[[Path], None]:
    return lambda folder: changed(folder / file, change)


def rename(kind: str, old: str, new: str) -> Callable[[Graph], None]:
    """Another name for an input or an output, inside the graph as well."""

    def change(model: Graph) -> None:
        for value in getattr(model.graph, kind):
            value.name = new if value.name == old else value.name
        for node in model.graph.node:
            for edges in (node.input, node.output):
                edges[:] = [new if name == old else name for name in edges]

    return change


def first_weight(change: Callable[[TensorProto], object]) -> Callable[[Path], None]:
    """Change the first matrix of a graph."""
    return graph(lambda model: change(next(t for t in model.graph.initializer if len(t.dims) == 2)))


def not_numbers(tensor: TensorProto) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.full(tuple(tensor.dims), np.nan, np.float32), tensor.name))


def outside(tensor: TensorProto, location: str = "../weights.bin") -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value=str(4 * tensor.dims[0] * tensor.dims[1]))


def beyond_its_file(folder: Path) -> None:
    (folder / "weights.data").write_bytes(bytes(8))
    first_weight(lambda tensor: outside(tensor, "weights.data"))(folder)


def add_node(operator: str, domain: str = "") -> Callable[[Graph], None]:
    def change(model: Graph) -> None:
        model.graph.node.append(helper.make_node(operator, [model.graph.input[0].name], ["more"], domain=domain))
        model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.INT64, [1]))

    return change


def opset(version: int) -> Callable[[Graph], None]:
    return lambda model: setattr(model.opset_import[0], "version", version)


def shape(kind: str, name: str, dims: list[int | str]) -> Callable[[Graph], None]:
    """Declare another shape."""

    def change(model: Graph) -> None:
        value = next(v for v in getattr(model.graph, kind) if v.name == name)
        value.CopyFrom(helper.make_tensor_value_info(name, value.type.tensor_type.elem_type, dims))

    return change


def undeclared(folder: Path, *files: str) -> None:
    """Logits whose last size the graphs do not say."""

    def change(model: Graph) -> None:
        (logits,) = (value for value in model.graph.output if value.name == "logits")
        logits.type.tensor_type.shape.dim[-1].dim_param = "width"

    for file in files:
        changed(folder / file, change)


def control_flow(model: Graph) -> None:
    """A choice that is not between a first call and a later one."""
    branch = helper.make_graph(
        [helper.make_node("Identity", ["input_ids"], ["same"])],
        "branch",
        [],
        [helper.make_tensor_value_info("same", TensorProto.INT64, ["a", "b"])],
    )
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    node = helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
    model.graph.output.append(helper.make_tensor_value_info("chosen", TensorProto.INT64, ["a", "b"]))


def cut_weight(model: Graph) -> None:
    """The numbers of a matrix are fewer than its shape says."""
    weight = next(w for w in model.graph.initializer if len(w.dims) == 2 and w.raw_data)
    weight.raw_data = weight.raw_data[:-8]


def in_a_circle(model: Graph) -> None:
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]


Fault = tuple[str, Callable[[Path], object], type[EdgewiseError], str]
FAULTS: dict[str, Fault] = {
    "no graphs": ("llama", lambda f: (f / "model.onnx").unlink(), CheckpointError, "has no graphs encoder_model.onnx"),
    "half a decoder": (
        "marian",
        lambda f: (f / "decoder_with_past_model.onnx").unlink(),
        CheckpointError,
        r"has encoder_model.onnx, decoder_model.onnx: expected encoder_model.onnx beside .*-with-past\)",
    ),
    "no graph at all": (
        "llama",
        lambda f: (f / "model.onnx").write_bytes(b"no protobuf"),
        CheckpointError,
        "model.onnx: expected an ONNX graph, got",
    ),
    "cut short": (
        "llama",
        lambda f: (f / "model.onnx").write_bytes((f / "model.onnx").read_bytes()[:9000]),
        CheckpointError,
        "model.onnx: expected an ONNX graph, got",
    ),
    "weights elsewhere": (
        "llama",
        first_weight(outside),
        CheckpointError,
        r"lie in '../weights.bin', expected a file beside the graph",
    ),
    "weights beyond their file": (
        "llama",
        beyond_its_file,
        CheckpointError,
        r"ends at \d+ of weights.data, which has 8 bytes",
    ),
    "a weight cut short": ("llama", graph(cut_weight), CheckpointError, "expected a whole ONNX graph, got"),
    "a circle": ("llama", graph(in_a_circle), CheckpointError, "expected a whole ONNX graph, got"),
    "custom operator": (
        "llama",
        graph(add_node("Leak", "evil")),
        UnsafeBundleError,
        r"\(evil::Leak\): operator not allowed",
    ),
    "control flow": ("llama", graph(control_flow), UnsafeBundleError, r"\(If\): operator not allowed"),
    "old operator set": (
        "llama",
        graph(opset(11)),
        ExportError,
        "model.onnx is of operator set 11, expected 12 or newer: export it again",
    ),
    "unknown input": (
        "llama",
        graph(rename("input", "position_ids", "ages")),
        ExportError,
        "reads ages, which nothing here gives",
    ),
    "no logits": (
        "llama",
        graph(rename("output", "logits", "scores")),
        ExportError,
        "gives scores, present.0.key, .* expected logits among them",
    ),
    "unknown input of an encoder": (
        "bert-tag",
        graph(rename("input", "token_type_ids", "who")),
        ExportError,
        "reads who, which nothing here gives",
    ),
    "other classes": (
        "bert-classify",
        config(id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1}),
        ExportError,
        "model.onnx gives logits of 3, and config.json is of 2: they belong to different networks",
    ),
    "caches of another rank": (
        "llama",
        graph(shape("input", "past_key_values.0.key", ["r", "p", 8])),
        ExportError,
        r"past_key_values.0.key has shape \(r, p, 8\), expected \(rows, heads, length, width\)",
    ),
    "caches that differ": (
        "llama",
        graph(shape("input", "past_key_values.0.key", ["r", 4, "p", 4])),
        ExportError,
        r"the caches have heads and widths \[\(2, 4\), \(4, 4\)\], expected the same in all layers",
    ),
    "without a past": (
        "llama",
        lambda f: (f / "model.onnx").write_bytes((GOLDENS / "bert-tag" / "model.onnx").read_bytes()),
        ConfigError,
        "it is of a network of kind decoder, the graphs are of kind encoder, or of a decoder that was exported without",
    ),
    "another vocabulary": (
        "llama",
        config(vocab_size=400),
        ConfigError,
        "vocab_size is 400, the graphs have 304 logits: configuration and graphs belong to different networks",
    ),
    "a vocabulary that no graph declares": (
        "llama",
        lambda f: (undeclared(f, "model.onnx"), config(vocab_size=400)(f)),
        ExportError,
        "the graphs give logits of 304, and config.json is of 400: they belong to different networks",
    ),
    "nor one of an encoder's decoder": (
        "marian",
        lambda f: (
            undeclared(f, "decoder_model.onnx", "decoder_with_past_model.onnx"),
            config(vocab_size=400, decoder_vocab_size=400)(f),
            config_of_generation(f, bad_words_ids=[[399]]),
        ),
        ExportError,
        "the graphs give logits of 304, and config.json is of 400: they belong to different networks",
    ),
    "nor one of masked words": (
        "bert-mask",
        lambda f: (undeclared(f, "model.onnx"), config(vocab_size=400)(f)),
        ExportError,
        r"the graphs give logits of \d+, and config.json is of 400: they belong to different networks",
    ),
    "classes that no graph declares": (
        "bert-classify",
        lambda f: (undeclared(f, "model.onnx"), config(id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})(f)),
        ExportError,
        "the graphs give logits of 3, and config.json is of 2: they belong to different networks",
    ),
    "classes of tokens that no graph declares": (
        "bert-tag",
        lambda f: (undeclared(f, "model.onnx"), config(id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})(f)),
        ExportError,
        r"the graphs give logits of \d+, and config.json is of 2: they belong to different networks",
    ),
    "other layers": (
        "llama",
        config(num_hidden_layers=3),
        ConfigError,
        r"layers, heads and head width of keys are \(3, 2, 4\), the graphs' cache has \(2, 2, 4\)",
    ),
    "no one architecture": (
        "llama",
        config(architectures=["LlamaForCausalLM", "LlamaModel"]),
        ConfigError,
        "architectures is .*, expected one name",
    ),
    "tokens behind a prompt": (
        "opt",
        lambda f: template(f, "</s>", "</s>"),
        ConfigError,
        r"puts \(2,\) before and \(2,\) after a text, expected bos_token_id \(2\) or nothing before, and nothing after",
    ),
    "tokens behind a source": (
        "bart",
        lambda f: (config(architectures=["OtherForConditionalGeneration"])(f), template(f, "<s>", "<unk>")),
        ConfigError,
        r"puts \(0,\) before and \(3,\) after a text, expected one token or nothing before, and eos_token_id \(2\)",
    ),
    "no number of heads": (
        "opt",
        config(num_attention_heads=None),
        ConfigError,
        "none of decoder_attention_heads, num_attention_heads, num_heads, n_head, n_heads is there",
    ),
    "a cache that is not given": (
        "llama",
        graph(rename("output", "present.1.value", "more")),
        BundleFormatError,
        "as the graph 'decoder' lacks outputs present_value_1",
    ),
    "no object": (
        "llama",
        lambda f: (f / "config.json").write_text("[]"),
        ConfigError,
        "config.json: expected an object, got list",
    ),
    "damaged weights": ("llama", first_weight(not_numbers), ExportError, "the graphs give logits that are not numbers"),
    "merged otherwise": (
        "t5",
        graph(rename("input", "use_cache_branch", "choice"), "decoder_model_merged.onnx"),
        ExportError,
        "expected one graph alone, or an encoder beside a decoder that chooses by use_cache_branch",
    ),
    "merged with more": (
        "t5",
        graph(lambda m: m.graph.output.append(m.graph.input[0]), "decoder_model_merged.onnx"),
        ExportError,
        "expected the outputs of the If as those of the graph",
    ),
    "merged without a choice": (
        "t5",
        graph(lambda m: m.graph.node[0].attribute.pop(), "decoder_model_merged.onnx"),
        ExportError,
        "expected one If that chooses by use_cache_branch, and its branches",
    ),
    "forbidden beyond the vocabulary": (
        "marian",
        lambda f: config_of_generation(f, bad_words_ids=[[400]]),
        ConfigError,
        r"bad_words_ids hold 400, expected",
    ),
    "settings no bundle holds": (
        "bart",
        lambda f: config_of_generation(f, num_beam_groups=3),
        CheckpointError,
        "num_beam_groups is 3: a bundle holds no such setting",
    ),
    "a layer after the pooling": (
        "bert-embed",
        lambda f: with_dense(f),
        ConfigError,
        "modules.json has a Dense, with which no graphs of others are read: export the checkpoint itself",
    ),
}


def with_dense(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[2:2] = [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "config.json").write_text(json.dumps({"in_features": 16, "out_features": 8}))


def template(folder: Path, before: str, after: str) -> None:
    """Other tokens around a text."""
    from tokenizers import Tokenizer, processors

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{before} $A {after}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in {before, after}],
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def config_of_generation(folder: Path, **fields: Any) -> None:
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(("name", "change", "kind", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_faults(
    tmp_path: Path, name: str, change: Callable[[Path], object], kind: type[EdgewiseError], message: str
) -> None:
    folder = copied(name, tmp_path)
    change(folder)
    with pytest.raises(kind, match=message):
        export(folder, tmp_path / "bundle", ("cpu",))
    assert not (tmp_path / "bundle").exists()


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MOST_BYTES", 1000)
    with pytest.raises(CheckpointError, match="has 153039 bytes, expected at most 1000, as protobuf has"):
        export(GOLDENS / "llama", tmp_path / "bundle")


def test_two_vocabularies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = replace(MARIAN, source_tokenizer=lambda *_: ("{}", 0))
    monkeypatch.setattr(graph_settings, "family_of", lambda *_: family)
    with pytest.raises(ConfigError, match=r"sources have a vocabulary of their own, .* export the checkpoint itself"):
        export(GOLDENS / "marian", tmp_path / "bundle", ("cpu",))


def test_no_mask_of_texts(tmp_path: Path) -> None:
    folder = copied("bert-tag", tmp_path)

    def without_mask(model: Graph) -> None:
        rename("input", "attention_mask", "token_type_ids.mask")(model)
        at = next(i for i, value in enumerate(model.graph.input) if value.name == "token_type_ids.mask")
        del model.graph.input[at]
        ones = numpy_helper.from_array(np.ones((1, 1), np.int64), "token_type_ids.mask")
        model.graph.initializer.append(ones)

    changed(folder / "model.onnx", without_mask)
    with pytest.raises(ExportError, match="has no input attention_mask: texts of several lengths cannot share a batch"):
        export(folder, tmp_path / "bundle")


def test_precisions_and_targets_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="has graphs in fp32, not in int8: edgewise quantizes checkpoints"):
        export(GOLDENS / "llama", tmp_path / "bundle", precisions=["int8"])
    with pytest.raises(TargetError, match="an encoder and its decoder, which run on target cpu, not on openvino"):
        export(GOLDENS / "t5", tmp_path / "bundle", ("openvino",))


def test_options_of_checkpoints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(GOLDENS / "llama"), "-o", str(tmp_path / "b"), "--family", "x.py"])
    assert "--family is for checkpoints" in capsys.readouterr().err


def test_a_missing_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["export", str(GOLDENS / "llama"), "-o", str(tmp_path / "b")]) == 1
    assert "graphs are read with onnx_ir, not installed here: pip install 'edgewise[onnx]'" in capsys.readouterr().err


def test_which_folders_these_are(tmp_path: Path) -> None:
    """Weights in a folder go before graphs beside them, which are asked for as the folder ``onnx``."""
    folder = copied("bart", tmp_path)
    assert is_onnx_folder(folder) and is_onnx_folder(folder / "onnx")
    (folder / "model.safetensors").write_bytes(b"")
    assert not is_onnx_folder(folder) and is_onnx_folder(folder / "onnx")
    assert [files.precision for files in find_graphs(folder / "onnx")] == ["fp32"]
    assert not is_onnx_folder(bundle("llama"))


@pytest.mark.parametrize(
    ("name", "graph", "other", "fault"),
    [
        ("llama", "prefill", "decoder", "lacks inputs hidden"),
        ("marian", "decoder", "prefill", "lacks inputs past_key_0, past_value_0"),
        ("marian", "prefill", "decoder", "lacks inputs hidden"),
        ("marian", "encoder", "decoder", "lacks inputs mask"),
    ],
)
def test_a_graph_by_the_name_of_another(tmp_path: Path, name: str, graph: str, other: str, fault: str) -> None:
    damaged = Damaged(bundle(name), tmp_path / "bundle")
    data = json.loads((damaged.path / "manifest.json").read_bytes())
    (variant,) = [v for v in data["variants"] if v["target"] == "cpu"]
    variant["graphs"][graph] = variant["graphs"][other] | {"file": f"{graph}.onnx"}
    (damaged.path / "manifest.json").write_text(json.dumps(data))
    file = damaged.path / "cpu-fp32" / f"{graph}.onnx"
    file.write_bytes((damaged.path / "cpu-fp32" / f"{other}.onnx").read_bytes())
    damaged.fit()
    with pytest.raises(BundleFormatError, match=rf"{graph}\.onnx as the graph '{graph}' {re.escape(fault)}"):
        load(damaged.path, "cpu", threads=1)


def test_a_graph_that_no_growing_cache_has(tmp_path: Path) -> None:
    damaged = Damaged(bundle("llama"), tmp_path / "bundle")
    data = json.loads((damaged.path / "manifest.json").read_bytes())
    (variant,) = [v for v in data["variants"] if v["target"] == "cpu"]
    variant["graphs"]["step"] = variant["graphs"]["decoder"]
    (damaged.path / "manifest.json").write_text(json.dumps(data))
    damaged.fit()
    with pytest.raises(BundleFormatError, match="graph 'step', which a variant with a growing cache cannot have"):
        load(damaged.path, "cpu", threads=1)
