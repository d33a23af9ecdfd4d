"""``edgewise export`` of folders of graphs: without torch, from either layout, with weights beside and quantized."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from edgewise.cli import main
from edgewise.errors import ConfigError
from edgewise.models.families import graph_settings
from edgewise.models.families.graph_settings import GraphSizes, read_graph_settings
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.bundle.chat import CHAT_TEMPLATE_FILE
from edgewise.runtime.load import load

from .exported import DECODERS, ENCODERS, GOLDENS, bundle, copied, expected, export

_WITHOUT_TORCH = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "safetensors", "onnxscript", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from edgewise.cli import main
folder, bundle = sys.argv[1:]
assert main(["export", folder, "-o", bundle, "--target", "cpu"]) == 0
assert main(["verify", bundle]) == 0
assert main(["run", "--bundle", bundle, "--max-new-tokens", "4", "two dogs"]) == 0
assert not {"torch", "safetensors", "onnxscript", "transformers"} & set(sys.modules)
"""


@pytest.mark.parametrize("name", ["marian", "gpt2"])
def test_torch_is_not_needed(tmp_path: Path, name: str) -> None:
    """Export, verification and a run, in a process where it cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, str(GOLDENS / name), str(tmp_path / "bundle")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{name} cpu-fp32: ok" in done.stdout
    assert (tmp_path / "bundle" / "manifest.json").is_file()


def test_inspect_says_what_the_reference_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle("t5"))]) == 0
    shown = capsys.readouterr().out
    assert "\nreference: encoder_model.onnx and decoder_model_merged.onnx without its past as exported" in shown
    assert "  cache: growing" in shown and "heads of width 6" in shown
    assert main(["inspect", str(bundle("opt"))]) == 0
    shown = capsys.readouterr().out
    assert "1 layers, d_model 16, 2 heads, the rest as the graphs have it" in shown
    assert "configuration: OPTForCausalLM, without a row of a family: " in shown
    assert "word_embed_proj_dim is 12, expected 16" in shown  # as no row of a family has it


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_a_row_of_a_family_says_what_is_read_without_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token ids, lengths and classes: whatever runs the graphs is the same; the sizes are the graphs' own."""
    model = json.loads((bundle(name) / "manifest.json").read_bytes())["model"]
    decoder, encoder = model["decoder"], model["encoder"]
    kind = "encoder-decoder" if decoder and encoder else "decoder" if decoder else "encoder"
    width = decoder and (decoder.get("head_dim") or decoder["d_model"] // decoder["n_heads"])
    heads = decoder and (decoder.get("n_kv_heads") or decoder["n_heads"])
    sizes = GraphSizes(kind=kind, pairs=True)
    if decoder:
        sizes = GraphSizes(kind=kind, layers=decoder["n_layers"], kv_heads=heads, head_dim=width)

    def no_row(*_: object) -> None:
        raise ConfigError("none")

    monkeypatch.setattr(graph_settings, "family_of", no_row)
    read = read_graph_settings(GOLDENS / name, sizes).model
    left_out = {"encoder", "decoder", "positions"}
    assert {k: v for k, v in model.items() if k not in left_out} == {
        k: list(v) if isinstance(v, tuple) else v for k, v in read.items() if k in model and k not in left_out
    }
    for stack in ("encoder", "decoder"):
        if model[stack]:
            assert all(read[stack][size] == model[stack][size] for size in ("n_layers", "d_model", "n_heads"))


def test_what_a_folder_recommends_goes_along(tmp_path: Path) -> None:
    """Beams, penalties, further ends and a chat template, as of checkpoints."""
    folder = copied("gpt2", tmp_path)
    file = folder / "generation_config.json"
    more = {"eos_token_id": [0, 7], "num_beams": 2, "repetition_penalty": 1.5, "min_new_tokens": 2}
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    template = "{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    manifest = Bundle.open(export(folder, tmp_path / "bundle", ("cpu",))).manifest
    assert manifest.generation is not None and manifest.chat is not None
    assert (manifest.generation.beam_size, manifest.generation.end_ids) == (2, (7,))
    assert (manifest.generation.repetition_penalty, manifest.generation.min_new_tokens) == (1.5, 2)
    assert (tmp_path / "bundle" / CHAT_TEMPLATE_FILE).read_text() == template
    with load(tmp_path / "bundle", threads=1) as session:
        assert session.verify().ok


def test_weights_beside_a_graph_are_read(tmp_path: Path) -> None:
    folder = copied("llama", tmp_path)
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=64)
    assert (folder / "model.onnx_data").stat().st_size > 50_000
    export(folder, tmp_path / "bundle", ("cpu",))
    for file in ("decoder.onnx", "weights.bin"):
        one, other = (path / "cpu-fp32" / file for path in (tmp_path / "bundle", bundle("llama")))
        assert one.read_bytes() == other.read_bytes()


def test_weights_that_two_graphs_read_are_stored_once() -> None:
    """Both branches of a merged decoder, and the two files of one that is not."""
    stored = (bundle("marian") / "cpu-fp32" / "weights.bin").stat().st_size
    graphs = [onnx.load(GOLDENS / "marian" / f"{name}.onnx") for name in ("encoder_model", "decoder_model")]
    own = [sum(len(t.raw_data) for t in graph.graph.initializer) for graph in graphs]
    assert stored <= sum(own) + 64 * 100


def test_quantized_graphs_are_variants(tmp_path: Path) -> None:
    """One scale for all activations of a product: rows depend on their batch mates, as the precision's name says."""
    from onnxruntime.quantization import quantize_dynamic

    folder = copied("bert-classify", tmp_path)
    quantize_dynamic(folder / "model.onnx", folder / "model_quantized.onnx")
    export(folder, tmp_path / "bundle", ("cpu",))
    opened = Bundle.open(tmp_path / "bundle")
    assert [v.name for v in opened.manifest.variants] == ["cpu-fp32", "cpu-int8-fast"]
    assert {choice.kernel for choice in opened.variant("cpu", "int8-fast").kernels} == {"int8-tensor"}
    assert not opened.variant("cpu", "fp32").kernels
    with load(tmp_path / "bundle", "cpu", "int8-fast", threads=1) as session:
        report = session.verify()
        assert report.reference.startswith("model.onnx as exported") and report.positions
        assert session.classify(expected("bert-classify")[1]["text"]).label in ("bad", "so so", "good")
    only = copied("bert-classify", tmp_path / "only")
    quantize_dynamic(only / "model.onnx", only / "model_int8.onnx")
    (only / "model.onnx").unlink()
    export(only, tmp_path / "alone", ("cpu",))
    with load(tmp_path / "alone", threads=1) as session:
        assert session.variant.precision == "int8-fast"
        assert session.manifest.provenance["reference"].startswith("model_int8.onnx as exported")
