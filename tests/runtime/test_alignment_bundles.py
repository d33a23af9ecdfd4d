"""Alignments of real bundles: the reference's weights on both engines, near them in int8, refused by old bundles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgewise.errors import InputError
from edgewise.models.attention import cross_attention_weights
from edgewise.models.checkpoint import load_checkpoint
from edgewise.runtime.load import load

from ..bundles import Damaged, tiny_bundle

pytestmark = pytest.mark.slow
TEXTS = ["A man is riding a bicycle.", "Two dogs run on the grass.", "A hat"]


@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-5), ("int8", 0.01)])  # measured: 1e-7 and 0.003
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_weights_of_every_variant(target: str, precision: str, atol: float) -> None:
    bundle = tiny_bundle("translate")
    model = load_checkpoint(bundle.parent / "tiny-translate").model.eval()
    with load(bundle, target, precision, threads=1) as session:
        layer = session.manifest.alignment_layer
        assert layer == 1
        for result in session.translate(TEXTS, alignments=True, beam_size=3, n_best=2, max_new_tokens=12):
            for hypothesis in result.hypotheses:
                assert hypothesis.alignment is not None
                read = [model.config.start_id, *hypothesis.tokens[:-1]]
                expected = cross_attention_weights(model, result.source_tokens, read, layer).mean(0)
                np.testing.assert_allclose(hypothesis.alignment.weights, expected.numpy(), atol=atol)


def test_the_graph_is_small_and_its_weights_are_the_others() -> None:
    bundle = tiny_bundle("translate")
    data = json.loads((bundle / "manifest.json").read_bytes())
    sizes = {f["path"]: f["bytes"] for f in data["files"]}
    for variant in data["variants"]:
        assert "alignment" in variant["graphs"]
        assert sizes[f"{variant['folder']}/alignment.onnx"] < 100_000
        assert [path for path in sizes if path.startswith(variant["folder"]) and path.endswith(".bin")] == [
            f"{variant['folder']}/weights.bin"
        ]


def test_a_bundle_from_before_refuses_the_option_and_translates(tmp_path: Path) -> None:
    old = Damaged(tiny_bundle("translate"), tmp_path / "old")
    file = old.path / "manifest.json"
    data = json.loads(file.read_bytes())
    del data["alignment_layer"]
    for variant in data["variants"]:
        (old.path / variant["folder"] / variant["graphs"].pop("alignment")["file"]).unlink()
    file.write_text(json.dumps(data))
    old.fit()
    with load(old.path, "cpu", "fp32", threads=1) as session:
        assert session.translate("A man", max_new_tokens=5).tokens
        with pytest.raises(InputError, match="alignments needs a graph 'alignment', and variant cpu-fp32 of 'tiny-tra"):
            session.translate("A man", alignments=True)
