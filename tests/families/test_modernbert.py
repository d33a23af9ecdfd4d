"""ModernBERT against ``transformers``: every switch that changes the mathematics, on both engines and in integers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

import edgewise
from edgewise.errors import CheckpointError, ConfigError, ContextLengthError
from edgewise.export.portable import portable_graphs
from edgewise.models.open import open_checkpoint

from ..bundles import Damaged, export_few
from ..open_model import open_files, write_variant
from .encoders import CLASSES, TAGS, check_masked_words, encoder_folder, library, random_batch
from .folders import PIECES, WORDS, change_json, wordpiece, write_json

pytestmark = pytest.mark.slow
Compare = Callable[..., None]
Folder = Callable[[str], Path]
GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "goldens" / "modernbert_4_57_1.json").read_text())
CONTEXT = 48
TINY: dict[str, Any] = {
    "vocab_size": len(PIECES) + 5,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": CONTEXT,
    "local_attention": 6,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
}
LARGER = {"vocab_size": 37, "num_hidden_layers": 4}
"""As in the golden file."""
FULL, SLIDING = "full_attention", "sliding_attention"
BIASES = {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True}
OTHERWISE: dict[str, Any] = {
    **BIASES,
    "decoder_bias": False,
    "hidden_activation": "relu",
    "classifier_activation": "silu",
    "norm_eps": 0.1,
    "global_attn_every_n_layers": 2,
    "global_rope_theta": 900.0,
    "local_rope_theta": 70.0,
}
SCALED = {
    FULL: {"rope_type": "yarn", "rope_theta": 700.0, "factor": 4.0, "original_max_position_embeddings": 12},
    SLIDING: {"rope_type": "linear", "rope_theta": 60.0, "factor": 2.0},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "words": ("ForMaskedLM", {}),
    "words otherwise": ("ForMaskedLM", OTHERWISE | {"tie_word_embeddings": False}),
    "classes": ("ForSequenceClassification", {**CLASSES, "local_attention": 9}),
    "classes of means": (
        "ForSequenceClassification",
        {**CLASSES, **BIASES, "classifier_pooling": "mean"}
        | {"layer_types": [SLIDING, FULL, SLIDING], "rope_parameters": SCALED},
    ),
    "tags, no windows": ("ForTokenClassification", {**TAGS, "global_attn_every_n_layers": 1, "num_hidden_layers": 2}),
    "span, windows alone": ("ForQuestionAnswering", {"layer_types": [SLIDING] * 2, "num_hidden_layers": 2}),
    "vectors": ("Model", {"local_attention": 2, "num_attention_heads": 4}),
}
TEXTS = ["a man is riding a bicycle .", "Dogs play in the snow!", "two dogs", "two girls , riding on the red street ?"]
LONG = " ".join(WORDS[:16] * 5)
VARIANTS = ["cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"]


def modernbert(folder: Path, case: str) -> Path:
    head, fields = CASES[case]
    encoder_folder(folder, f"ModernBert{head}", {**TINY, **fields}, wordpiece(), "[MASK]", seed=len(case))
    if head == "Model":
        pooled(folder)
    return folder


def pooled(folder: Path) -> None:
    """What sentence-transformers write beside a network of 32 features."""
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: modernbert(tmp_path_factory.mktemp("modernbert") / "tiny", case))


@pytest.fixture(scope="module")
def bundle(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """``bundle(case)``: fp32 and int8 for both targets."""

    @cache
    def made(case: str) -> Path:
        out = tmp_path_factory.mktemp("bundle") / "modernbert"
        export_few(folder(case), out)
        return out

    return made


@pytest.fixture(scope="module")
def portable(folder: Folder) -> Callable[[str], dict[str, ir.Model]]:
    return cache(lambda case: portable_graphs(open_checkpoint(folder(case)).model))


def batch() -> tuple[Tensor, Tensor]:
    ids, mask = random_batch(CONTEXT, range(5, 30))
    return torch.where(mask, ids, 0), mask


@torch.no_grad()
def expected(case: str, folder: Path, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states and logits of the original library; those of a span side by side, vectors by hand."""
    found = library(folder, f"ModernBert{CASES[case][0]}")(ids, attention_mask=mask.long(), output_hidden_states=True)
    if "last_hidden_state" in found:
        weight = mask[:, :, None].double()
        means = (found.last_hidden_state.double() * weight).sum(1) / weight.sum(1)
        return found.last_hidden_state, (means / means.pow(2).sum(1, keepdim=True).sqrt()).float()
    logits = torch.stack([found.start_logits, found.end_logits], -1) if "start_logits" in found else found.logits
    return found.hidden_states[-1], logits


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_states_and_logits_are_those_of_the_library(case: str, folder: Folder, assert_close: Compare) -> None:
    ids, mask = batch()
    hidden, logits = expected(case, folder(case), ids, mask)
    model = open_checkpoint(folder(case)).model
    own = model.encode(ids, mask)
    assert_close(own[mask], hidden[mask])
    head = model.config.head
    if head in ("classes", "embedding"):
        assert_close(model.classify(own, mask) if head == "classes" else model.pool(own, mask), logits)
    else:
        assert_close((model.logits(own) if head == "vocabulary" else model.tag(own))[mask], logits[mask])


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("case", CASES)
def test_engines_give_the_librarys_states_and_logits(
    case: str,
    target: str,
    folder: Folder,
    portable: Callable[[str], dict[str, ir.Model]],
    tmp_path: Path,
    assert_close: Compare,
) -> None:
    """Of a batch whose shortest texts leave padding that no window reaches, and in fours of everything."""
    ids, mask = batch()
    hidden, logits = (found.numpy() for found in expected(case, folder(case), ids, mask))
    files = write_variant(portable(case), target, "float32", tmp_path / "v")
    engine = open_files(open_checkpoint(folder(case)).model, target, "float32", files)
    everywhere = np.ascontiguousarray(np.broadcast_to(np.arange(CONTEXT), ids.shape))
    own, scores = engine.encode(ids.numpy(), mask.numpy(), everywhere)
    real = mask.numpy()
    assert_close(own[real], hidden[real], atol=1e-4)
    by_text = scores.shape[1:2] != (CONTEXT,)
    assert_close(scores if by_text else scores[real], logits if by_text else logits[real], atol=1e-4)


def test_a_window_has_as_many_tokens_on_either_side(folder: Folder) -> None:
    """``local_attention`` of 9: four on either side, so that a fifth changes nothing; 8 would mean the same."""
    config = open_checkpoint(folder("classes")).model.config
    assert config.encoder is not None
    assert config.encoder.window == 5
    assert config.encoder.windowed_layers == (1, 2)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", ["words", "classes of means", "vectors"])
def test_every_variant_replays_the_reference(case: str, variant: str, bundle: Folder) -> None:
    with edgewise.load(bundle(case), *variant.split("-"), threads=1) as session:
        report = session.verify()
    assert report.ok, report.summary()


@pytest.mark.parametrize("tensor", ["transform.weight", "encoder.layers.1.attention.output.weight", "rotary.cosine"])
def test_a_replay_sees_damage(tensor: str, bundle: Folder, tmp_path: Path) -> None:
    damaged = Damaged(bundle("words"), tmp_path / "damaged")
    damaged.put("cpu-fp32", tensor, damaged.tensor("cpu-fp32", tensor) * 1.02)
    with edgewise.load(damaged.path, "cpu", "fp32", 1) as session:
        assert not session.verify().ok


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_masked_words_are_those_of_the_pipeline(target: str, bundle: Folder, folder: Folder) -> None:
    model = library(folder("words"), "ModernBertForMaskedLM")
    with edgewise.load(bundle("words"), target, "fp32", 1) as session:
        check_masked_words(session, model, TINY["vocab_size"], ("a man is <mask> .", "<mask> dogs play"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_text_owes_nothing_to_its_mates(variant: str, bundle: Folder) -> None:
    """At equal lengths all is the same to the bit; beside more padding vectors within 1e-5, in integers 0.01."""
    with edgewise.load(bundle("vectors"), *variant.split("-"), threads=1) as session:
        rows = np.random.default_rng(0).integers(5, 30, (5, 20))
        whole = np.ones_like(rows, dtype=bool)
        states, together = session.engine.encode(rows, whole, None)
        for i in range(5):
            alone, vector = session.engine.encode(rows[i : i + 1], whole[:1], None)
            np.testing.assert_array_equal(alone[0], states[i])
            np.testing.assert_array_equal(vector[0], together[i])
        padded = np.zeros((5, CONTEXT), np.int64)
        padded[:, :20] = rows
        other = session.engine.encode(padded, np.arange(CONTEXT) < np.full((5, 1), 20), None)[1]
    np.testing.assert_allclose(other, together, rtol=0, atol=1e-5 if variant.endswith("fp32") else 0.01)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_integers_stay_near(target: str, bundle: Folder) -> None:
    found = []
    for precision in ("fp32", "int8"):
        with edgewise.load(bundle("vectors"), target, precision, 1) as session:
            found.append(np.array([e.vector for e in session.embed(TEXTS)]))
    exact, rounded = found
    assert (exact * rounded).sum(1).min() >= 0.999
    assert np.abs(exact - rounded).max() > 1e-5  # they are integers at all


@torch.no_grad()
def test_texts_longer_than_the_context(bundle: Folder, folder: Folder) -> None:
    """Refused, cut, or read in windows whose scores are averaged by their tokens."""
    model = library(folder("classes of means"), "ModernBertForSequenceClassification")
    tokens = wordpiece()
    tokens.no_truncation()
    tokens.no_padding()
    ids = tokens.encode(LONG, add_special_tokens=False).ids
    room = CONTEXT - 2

    def scores(piece: list[int]) -> Tensor:
        return model(torch.tensor([[2, *piece, 3]])).logits[0].softmax(-1)  # type: ignore[no-any-return]

    with edgewise.load(bundle("classes of means"), "cpu", "fp32", 1) as session:
        with pytest.raises(ContextLengthError, match=f"82 tokens, more than the {CONTEXT}"):
            session.classify(LONG)
        cut, wide = session.classify(LONG, overflow="truncate"), session.classify(LONG, overflow="windows")
    assert len(ids) == 80
    assert cut.truncated
    assert list(cut.probabilities.values()) == pytest.approx(scores(ids[:room]).tolist(), abs=1e-4)
    step = room - room // 2
    starts = range(0, len(ids) - room + step, step)
    pieces = [ids[start : start + room] for start in starts]
    mean = sum(len(piece) * scores(piece) for piece in pieces) / sum(map(len, pieces))  # type: ignore[arg-type]
    assert list(wide.probabilities.values()) == pytest.approx(mean.tolist(), abs=1e-4)


ONE_THETA = "ModernBertForMaskedLM, one theta"


@pytest.mark.parametrize("case", [case for case in GOLDEN if case != ONE_THETA])
def test_a_configuration_of_release_4(case: str, tmp_path: Path) -> None:
    """It gives the network that the same fields give in release 5."""
    head, classes = case.partition(",")[0], CLASSES if "Classification" in case else {}
    changed = OTHERWISE | {"classifier_pooling": "mean"} if "otherwise" in case else {}
    fields = {**TINY, **LARGER, **classes, **changed}
    made = encoder_folder(tmp_path / "tiny", head, fields, wordpiece(), "[MASK]")
    if head == "ModernBertModel":
        pooled(made)
    assert "rope_parameters" in json.loads((made / "config.json").read_text())
    newer = open_checkpoint(made).model.config
    write_json(made / "config.json", GOLDEN[case])
    assert open_checkpoint(made).model.config == newer


def test_one_theta_for_all_layers(folder: Folder, tmp_path: Path) -> None:
    """Release 4 takes that of layers that see all where ``local_rope_theta`` is null."""
    made = encoder_folder(tmp_path / "tiny", "ModernBertForMaskedLM", TINY | LARGER, wordpiece(), "[MASK]")
    write_json(made / "config.json", GOLDEN[ONE_THETA])
    config = open_checkpoint(made).model.config
    assert config.rope is not None
    assert config.rope == config.window_rope
    assert config.rope.theta == 160_000.0


def test_fields_of_published_files_that_nothing_reads(folder: Folder, tmp_path: Path) -> None:
    made = modernbert(tmp_path / "tiny", "words")
    expected = open_checkpoint(made).model.config
    change_json(made / "config.json", layer_norm_eps=0.5, position_embedding_type="absolute", reference_compile=True)
    assert open_checkpoint(made).model.config == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"new_switch": 1}, r"new_switch \(1\) is not understood"),
        ({"classifier_pooling": "max"}, "classifier_pooling is 'max', expected 'cls' or 'mean'"),
        ({"hidden_activation": "relu6"}, "hidden_activation is 'relu6', expected 'relu'"),
        ({"layer_types": [FULL]}, r"layer_types is \['full_attention'\], expected .* for each of 3 layers"),
        ({"local_attention": -2}, "local_attention is -2 and global_attn_every_n_layers 3, expected a number"),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers 0, expected a number of tokens and a positive"),
        ({"local_attention": None, "global_attn_every_n_layers": "3"}, "global_attn_every_n_layers is '3', expected"),
        ({"global_rope_theta": 5.0}, "global_rope_theta is 5.0, expected None"),
        ({"rope_parameters": {"rope_theta": 5.0}}, "expected an object for 'full_attention' and one for 'sliding_att"),
        ({"rope_parameters": {FULL: {"rope_type": "su"}}}, "rope type 'su' is not written here"),
    ],
)
def test_what_is_not_understood_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    made = modernbert(tmp_path / "tiny", "words")
    change_json(made / "config.json", **fields)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(made)


def test_tensors_are_read_strictly(tmp_path: Path) -> None:
    made = modernbert(tmp_path / "tiny", "words")
    change_json(made / "config.json", norm_bias=True)
    with pytest.raises(CheckpointError, match=r"missing .*encoder\.final_norm\.bias"):
        open_checkpoint(made)
    change_json(made / "config.json", norm_bias=False, classifier_bias=True)
    with pytest.raises(CheckpointError, match=r"missing transform\.bias"):
        open_checkpoint(made)
