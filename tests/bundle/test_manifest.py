"""The manifest: what is written is read back, and every other value is refused with its place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewise.errors import BundleFormatError
from edgewise.models.config import ModelConfig, StackConfig
from edgewise.runtime.bundle import manifest, model_spec, schema, signature


@pytest.fixture
def data(toy: Any) -> dict[str, Any]:
    return toy.read()  # type: ignore[no-any-return]


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change that sets the value at a dotted ``path``; numbers index lists."""

    def change(data: dict[str, Any]) -> None:
        *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
        place: Any = data
        for part in parents:
            place = place[part]
        place[last] = value

    return change


def drop(path: str) -> Callable[[dict[str, Any]], None]:
    """A change that removes the field at a dotted ``path``."""

    def change(data: dict[str, Any]) -> None:
        *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
        place: Any = data
        for part in parents:
            place = place[part]
        del place[last]

    return change


def test_reads_back_what_it_wrote(toy: Any, tmp_path: Path) -> None:
    read = manifest.read_manifest(toy.path / "manifest.json")
    manifest.write_manifest(tmp_path, read)
    assert manifest.read_manifest(tmp_path / "manifest.json") == read
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["manifest.json"]  # no temporary file is left


def test_every_field_is_required(data: dict[str, Any]) -> None:
    for name in data:
        with pytest.raises(BundleFormatError, match=f"the whole lacks fields '{name}'"):
            manifest.manifest_from_json({k: v for k, v in data.items() if k != name})


def test_model_fields_are_those_of_the_reference(data: dict[str, Any]) -> None:
    specs, configs = (
        {field.name for kind in pair for field in dataclasses.fields(kind)}
        for pair in ((model_spec.StackSpec, model_spec.ModelSpec), (StackConfig, ModelConfig))
    )
    assert not specs & model_spec.REFERENCE_ONLY
    assert specs | model_spec.REFERENCE_ONLY == configs
    config = ModelConfig.from_json(data["model"])
    assert model_spec.ModelSpec.from_json(config.to_json()) == manifest.manifest_from_json(data).model


def put_growing(data: dict[str, Any]) -> None:
    variant = data["variants"][0]
    variant.update(target="openvino", folder="openvino-fp32", cache=variant["cache"] | {"layout": "growing"})


TAMPERED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "newer format": (put("format", 2), r"bundle format 2 is newer than .* \(1\): upgrade edgewise or export again"),
    "format far ahead": (put("format", 10**40), r"bundle format a number of more than 30 digits is newer"),
    "format of another type": (put("format", "1"), "format is '1', expected a whole number"),
    "format zero": (put("format", 0), "format is 0, expected 1 to 1"),
    "unknown field": (put("plugin", "x.so"), "the whole has unknown fields 'plugin'"),
    "unknown nested field": (put("model.encoder.dropout", 0.1), "model.encoder has unknown fields 'dropout'"),
    "missing nested field": (drop("variants.0.cache.heads"), r"variants\[0\].cache lacks fields 'heads'"),
    "wrong type": (put("max_context", "32"), "max_context is '32', expected a whole number"),
    "true for a number": (put("max_context", True), "max_context is True, expected a whole number"),
    "fraction for a number": (put("max_context", 32.0), "max_context is 32.0, expected a whole number"),
    "list for an object": (put("model", []), "model is a list of 0, expected an object"),
    "object for a list": (put("variants", {}), "variants is an object of 0, expected 1 to 32 members"),
    "text for a list": (put("variants", "cpu"), "variants is 'cpu', expected a list"),
    "list for a mapping": (put("provenance", ["a"] * 3), "provenance is a list of 3, expected an object"),
    "null for an object": (put("licence", None), "licence is None, expected an object"),
    "unknown task": (put("task", "summarize"), "task is 'summarize', expected one of 'translate', 'generate'"),
    "unhashable choice": (put("task", ["translate"]), "task is a list of 1, expected one of 'translate'"),
    "unknown target": (put("variants.0.target", "npu"), r"variants\[0\].target is 'npu', expected one of 'cpu'"),
    "absurd layers": (put("model.decoder.n_layers", 10**9), "n_layers is 1000000000, expected 1 to 256"),
    "absurd width": (put("model.decoder.d_model", 2**40), "d_model is 1099511627776, expected 1 to 1048576"),
    "absurd vocabulary": (put("model.vocab_size", 2**31), "model.vocab_size is 2147483648, expected 4 to"),
    "negative size": (put("files.0.bytes", -1), r"files\[0\].bytes is -1, expected 0 to"),
    "long name": (put("licence.name", "x" * 201), "licence.name is 'x+..., expected at most 200 characters, not 201"),
    "control characters": (put("licence.name", "a\x1b[2J"), "licence.name is .*, expected text that matches"),
    "lone surrogate": (put("licence.notice", "\ud800"), "licence.notice is .*, expected text without lone surrogates"),
    "long list": (put("files", [0] * 1001), "files is a list of 1001, expected 1 to 1000 members"),
    "odd key": (put("provenance.a b", "x"), "a key of provenance is 'a b', expected a short plain name"),
    "provenance incomplete": (
        put("provenance", {"a": "", "b": "", "torch": ""}),
        "provenance lacks checkpoint_sha256, e",
    ),
    "provenance of another reference incomplete": (
        put("provenance", {"a": "", "torch": "", "reference": ""}),
        "provenance lacks checkpoint_sha256, edgewise",
    ),
    "growing cache of another graph": (
        put_growing,
        "variant openvino-fp32 has a growing cache, which belongs to target cpu and a graph 'decoder'",
    ),
    "not a hash": (put("files.0.sha256", "f" * 63), r"files\[0\].sha256 is 'f+', expected text that matches"),
    "path upwards": (put("files.0.path", "../weights.bin"), r"files\[0\].path is '../weights.bin', expected text"),
    "path upwards inside": (put("files.0.path", "cpu-fp32/../../x.bin"), r"files\[0\].path is .*, expected text"),
    "absolute path": (put("files.0.path", "/etc/passwd.txt"), r"files\[0\].path is '/etc/passwd.txt', expected text"),
    "drive": (put("files.0.path", "C:/x.bin"), r"files\[0\].path is 'C:/x.bin', expected text"),
    "backslash": (put("files.0.path", "..\\x.bin"), r"files\[0\].path is .*, expected text"),
    "line feed at the end": (put("files.0.path", "x.bin\n"), r"files\[0\].path is 'x.bin\\n', expected text"),
    "native code": (put("files.0.path", "cpu-fp32/op.so"), r"files\[0\].path is 'cpu-fp32/op.so', expected text"),
    "pickle": (put("files.0.path", "cpu-fp32/model.pt"), r"files\[0\].path is 'cpu-fp32/model.pt', expected text"),
    "hidden file": (put("files.0.path", ".x.bin"), r"files\[0\].path is '.x.bin', expected text"),
    "file twice": (put("files.0.path", "TOKENIZER.json"), "file tokenizer.json is listed 2 times"),
    "manifest lists itself": (put("files.0.path", "manifest.json"), "files lists manifest.json, which cannot hold"),
    "graph not listed": (put("variants.0.graphs.encoder.file", "x.onnx"), "files lacks cpu-fp32/x.onnx"),
    "graph in another folder": (
        put("variants.0.graphs.encoder.file", "../x.onnx"),
        "file is '../x.onnx', expected text",
    ),
    "unknown graph": (put("variants.0.graphs.other", {}), r"variants\[0\].graphs.other lacks fields 'file'"),
    "dimension of another type": (
        put("variants.0.graphs.encoder.inputs.0.shape", [1.5]),
        r"shape\[0\] is 1.5, expected a whole number or text",
    ),
    "negative dimension": (
        put("variants.0.graphs.encoder.inputs.0.shape", [-1]),
        r"shape\[0\] is -1, expected 0 to 2147483648 or text",
    ),
    "unknown dtype": (put("variants.0.graphs.encoder.inputs.0.dtype", "string"), "dtype is 'string', expected one of"),
    "another folder": (put("variants.0.folder", "cpu-int8"), "the folder of variant cpu-fp32 is 'cpu-int8', expected"),
    "another cache": (
        put("variants.0.cache.heads", 4),
        "the cache of variant cpu-fp32 is .*, expected that of the decoder",
    ),
    "no cache": (
        put("variants.0.cache.layout", "none"),
        "the cache of variant cpu-fp32 is .*, expected that of the decod",
    ),
    "context beyond positions": (put("max_context", 33), r"max_context \(33\) must be at most max_positions \(32\)"),
    "task of another model": (put("task", "classify"), "task 'classify' does not fit the stacks and head of the model"),
    "negative length penalty": (put("generation.length_penalty", -0.5), "length_penalty is -0.5, expected 0.0 to 10.0"),
    "more new tokens than the context": (
        put("generation.max_new_tokens", 33),
        r"max_new_tokens \(33\) must be at most max_context \(32\)",
    ),
    "more beams than half of the vocabulary": (
        put("generation.beam_size", 7),
        r"beam_size \(7\) must be at most 6, half of the vocabulary",
    ),
    "alignment of a layer beyond": (
        put("alignment_layer", 1),
        r"alignment_layer \(1\) must be below the 1 layers that read a source",
    ),
    "alignment without a graph": (
        put("alignment_layer", 0),
        "variant cpu-fp32 and alignment_layer 0: a graph 'alignment' needs both",
    ),
    "forced token beyond the vocabulary": (
        put("model.forced_id", 99),
        r"forced_id \(99\) must be below vocab_size",
    ),
    "absurd alignment": (put("alignment_layer", -1), "alignment_layer is -1, expected 0 to 255"),
    "no generation": (put("generation", None), "generation defaults belong to a model with a decoder, and to no other"),
    "no stacks": (
        lambda d: d["model"].update(encoder=None, decoder=None),
        "model: a model needs an encoder, a decoder",
    ),
    "heads do not divide": (put("model.encoder.n_heads", 3), r"d_model \(8\) must be a multiple of n_heads \(3\)"),
    "widths differ": (put("model.encoder.d_model", 16), r"encoder d_model \(16\) must equal decoder d_model \(8\)"),
    "token beyond vocabulary": (put("model.end_id", 12), r"end_id \(12\) must be below vocab_size \(12\)"),
    "vectors of a vocabulary": (
        put("model.dense", {"width": 4, "bias": True, "activation": "tanh"}),
        "a 'vocabulary' head cannot have a dense layer",
    ),
    "classes of a vocabulary": (put("model.class_names", ["a", "b"]), "a 'vocabulary' head cannot have 2 class_names"),
    "no classes": (
        put("model.head", "classes"),
        "a 'classes' head cannot have 0 class_names: it takes 2 or more, all different",
    ),
    "one class of which one is right": (
        lambda d: d["model"].update(head="classes", class_names=["a"]),
        "a 'classes' head cannot have 1 class_names: it takes 2 or more, all different",
    ),
    "scores of no classes": (
        put("model.class_scores", "sigmoid"),
        "a 'vocabulary' head cannot have class_scores 'sigmoid'",
    ),
    "pairs for a decoder": (put("model.pair_between", [1]), "pair_between belongs to an encoder alone"),
    "a segment without pairs": (put("model.second_segment", 1), "second_segment belongs to a model with pair_between"),
    "epsilon of nothing": (put("model.encoder.norm_epsilon", 0), "norm_epsilon is 0, expected 1e-12 to 1.0"),
    "whole number too large for a float": (put("generation.length_penalty", 2**53), "expected a finite number"),
}


@pytest.mark.parametrize(("change", "message"), TAMPERED.values(), ids=TAMPERED.keys())
def test_tampered(data: dict[str, Any], change: Callable[[dict[str, Any]], None], message: str) -> None:
    change(data)
    with pytest.raises(BundleFormatError, match=message):
        manifest.manifest_from_json(data)


@pytest.mark.parametrize(
    ("graph", "message"),
    [("encoder", "variant cpu-fp32 lacks the graph 'encoder'"), ("decoder", "lacks the graph 'decoder' or 'step'")],
)
def test_missing_graph(data: dict[str, Any], graph: str, message: str) -> None:
    drop(f"variants.0.graphs.{graph}")(data)
    with pytest.raises(BundleFormatError, match=message):
        manifest.manifest_from_json(data)


def test_graph_of_an_unknown_name(data: dict[str, Any]) -> None:
    graphs = data["variants"][0]["graphs"]
    graphs["helper"] = graphs["encoder"]
    with pytest.raises(
        BundleFormatError, match=r"variant cpu-fp32 has graphs \['helper'\], expected some of \['encoder'"
    ):
        manifest.manifest_from_json(data)


def test_alignment_graphs_need_their_layer_named(data: dict[str, Any]) -> None:
    graphs = data["variants"][0]["graphs"]
    graphs["alignment"] = graphs["encoder"]
    with pytest.raises(BundleFormatError, match="variant cpu-fp32 and alignment_layer None: a graph 'alignment' needs"):
        manifest.manifest_from_json(data)
    data["alignment_layer"] = 0
    assert manifest.manifest_from_json(data).alignment_layer == 0


def test_variant_twice(data: dict[str, Any]) -> None:
    data["variants"] *= 2
    with pytest.raises(BundleFormatError, match="variant cpu-fp32 is given 2 times"):
        manifest.manifest_from_json(data)


def test_all_faults_in_one_error(data: dict[str, Any]) -> None:
    put("task", "x")(data)
    put("model.encoder.n_layers", 0)(data)
    drop("licence.notice")(data)
    with pytest.raises(BundleFormatError) as caught:
        manifest.manifest_from_json(data, "here")
    message = str(caught.value)
    assert message.startswith("here: task is 'x'")
    assert "model.encoder.n_layers is 0" in message
    assert "licence lacks fields 'notice'" in message
    assert message.endswith("Export the bundle again")


def test_a_message_ends(data: dict[str, Any]) -> None:
    data["files"] = [0] * 500
    with pytest.raises(BundleFormatError, match=r"files\[19\] is 0, expected an object; and 480 more\. Export"):
        manifest.manifest_from_json(data)


FILES = {
    "empty": (b"", "not valid JSON"),
    "not JSON": (b"{", "not valid JSON"),
    "not UTF-8": (b'{"name": "\xff"}', "not valid JSON"),
    "a number": (b"7", "the whole is 7, expected an object"),
    "nested deeply": (b"[" * 200_000, "nested too deeply|not valid JSON"),
    "nested deeply in an object": (b'{"a":' * 100_000, "nested too deeply|not valid JSON"),
    "long number": (b'{"format": ' + b"9" * 5000 + b"}", "not valid JSON"),
    "NaN": (b'{"a": NaN}', "NaN is not a number of JSON"),
    "infinity": (b'{"a": -Infinity}', "-Infinity is not a number of JSON"),
    "a field twice": (b'{"a": 1, "b": 2, "a": 3}', "field 'a' is given twice"),
    "too large": (b" " * (manifest.MAX_MANIFEST_BYTES + 1), "more than 4194304 bytes, expected at most that"),
}


@pytest.mark.parametrize(("raw", "message"), FILES.values(), ids=FILES.keys())
def test_file_that_is_no_manifest(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "manifest.json").write_bytes(raw)
    with pytest.raises(BundleFormatError, match=message):
        manifest.read_manifest(tmp_path / "manifest.json")


def test_an_overflowing_float_is_not_finite(data: dict[str, Any]) -> None:
    raw = json.dumps(data).replace('"length_penalty": 0.6', '"length_penalty": 1e400')
    with pytest.raises(BundleFormatError, match=r"generation\.length_penalty is inf, expected a finite number"):
        manifest.manifest_from_json(schema.parse_json(raw.encode(), "x"))


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(BundleFormatError, match=r"cannot be read \(No such file or directory\)"):
        manifest.read_manifest(tmp_path / "manifest.json")


def test_writes_only_what_it_would_read(toy: Any, tmp_path: Path) -> None:
    good = manifest.read_manifest(toy.path / "manifest.json")
    with pytest.raises(BundleFormatError, match=r"manifest\.json: name is 'two words', expected text that matches"):
        manifest.write_manifest(tmp_path, dataclasses.replace(good, name="two words"))
    huge = dataclasses.replace(good, name="x" * manifest.MAX_MANIFEST_BYTES)
    with pytest.raises(BundleFormatError, match="bytes, expected at most 4194304"):
        manifest.write_manifest(tmp_path, huge)
    assert not (tmp_path / "manifest.json").exists()


def test_file_entries(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("not an entry")
    (tmp_path / "LICENSE").write_bytes(b"abc")
    (tmp_path / "cpu-int8").mkdir()
    (tmp_path / "cpu-int8" / "weights.bin").write_bytes(b"")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert manifest.file_entries(tmp_path) == (
        manifest.FileEntry(path="LICENSE", bytes=3, sha256=abc),
        manifest.FileEntry(path="cpu-int8/weights.bin", bytes=0, sha256=empty),
    )
    assert [e.path for e in manifest.file_entries(tmp_path, ["LICENSE"])] == ["LICENSE"]


def test_cache_of_an_encoder_is_none() -> None:
    assert manifest.CacheSpec.of(None, "stateful").layout == "none"


def test_a_stack_may_say_how_wide_its_heads_are() -> None:
    plain = {"n_layers": 1, "d_model": 8, "n_heads": 3, "d_ff": 8, "norm_place": "post", "activation": "relu"}
    stack = model_spec.StackSpec(**plain, norm_epsilon=1e-5, head_dim=6)  # type: ignore[arg-type]
    assert manifest.CacheSpec.of(stack, "stateful").head_dim == 6
    with pytest.raises(BundleFormatError, match=r"d_model \(8\) must be a multiple of n_heads \(3\)"):
        model_spec.StackSpec(**plain, norm_epsilon=1e-5)  # type: ignore[arg-type]


def test_tensor_names_are_distinct() -> None:
    constants = [v for k, v in vars(signature).items() if k.isupper() and isinstance(v, str)]
    functions = [f for f in vars(signature).values() if callable(f) and f is not signature.written]
    names = constants + [f(layer) for f in functions for layer in (0, 1, 10)]
    names += [signature.written(signature.key_cache(layer), token) for layer in (0, 1, 10) for token in (0, 1, 10)]
    assert len(set(names)) == len(names) > 30
    assert signature.past_key(3) == "past_key_3"


def test_a_source_start_needs_a_decoder_beside_the_encoder() -> None:
    stack = {"n_layers": 1, "d_model": 8, "n_heads": 2, "d_ff": 8, "norm_place": "post", "activation": "relu"}
    model = {"vocab_size": 10, "max_positions": 8, "pad_id": 0, "start_id": 1, "end_id": 2, "decoder": None}
    model |= {"encoder": {**stack, "norm_epsilon": 1e-5}, "head": "vocabulary", "mask_id": 3, "class_names": []}
    assert model_spec.ModelSpec.from_json(model).source((5,)) == (5, 2)
    with pytest.raises(BundleFormatError, match=r"source_start_id, .* belong to an encoder beside a decoder"):
        model_spec.ModelSpec.from_json({**model, "source_start_id": 4})
    both = model_spec.ModelSpec.from_json({**model, "decoder": model["encoder"], "source_start_id": 4, "forced_id": 6})
    assert both.source((5,)) == (4, 5, 2)
    assert both.decoder_prompt == (1, 6)
