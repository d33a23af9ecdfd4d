"""Encoders that optimum exported, in a session: what the original library makes of texts and pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgewise.errors import InputError
from edgewise.runtime.engine import Floats
from edgewise.runtime.inputs import Prepared, right_pad, segments_of
from edgewise.runtime.load import load

from .exported import ENCODERS, bundle, expected, targets_of

TOLERANCE = 1e-4


@pytest.mark.parametrize(("name", "target"), targets_of(ENCODERS))
def test_scores_are_the_librarys(name: str, target: str) -> None:
    """All texts in one padded batch."""
    rows = expected(name)
    with load(bundle(name), target, threads=1) as session:
        model = session.manifest.model
        ids, mask = right_pad([row["ids"] for row in rows], model.pad_id)
        masks = None
        if model.head == "vocabulary":
            masks = np.array([[row["ids"].index(model.mask_id)] for row in rows], np.int64)
        sources = [
            Prepared(ids=tuple(row["ids"]), second_from=row["ids"].index(3) + 1 if row["pair"] else None)
            for row in rows
        ]
        segments = segments_of(model, sources, ids.shape[1])
        hidden, found = session.engine.encode(ids, mask, masks, segments)
    for i, row in enumerate(rows):
        known = _known(row, None if masks is None else int(masks[i, 0]))
        scores = found[i, 0] if masks is not None else found[i]
        scores = scores[: len(row["ids"])] if scores.ndim == 2 else scores
        np.testing.assert_allclose(scores, known, atol=TOLERANCE)
        if "last_hidden_state" in row:
            np.testing.assert_allclose(hidden[i, : len(row["ids"])], row["last_hidden_state"], atol=TOLERANCE)


def _known(row: dict[str, list[float]], place: int | None) -> Floats:
    """What the head makes of the library's outputs: NumPy, as the folder's files say."""
    if "start_logits" in row:
        return np.stack([row["start_logits"], row["end_logits"]], axis=-1)
    if "last_hidden_state" in row:
        mean: Floats = np.mean(row["last_hidden_state"], axis=0)
        return mean / np.linalg.norm(mean)
    logits = np.array(row["logits"], np.float32)
    return logits if place is None else logits[place]


@pytest.mark.parametrize(("name", "target"), targets_of(ENCODERS))
def test_a_bundle_verifies(name: str, target: str) -> None:
    with load(bundle(name), target, threads=1) as session:
        report = session.verify()
    assert report.ok, report.table()


def test_every_head_has_its_method() -> None:
    """From text: what the library says of the goldens' texts, by its numbers."""
    row = expected("bert-classify")[1]
    with load(bundle("bert-classify"), threads=1) as session:
        assert session.classify(row["text"]).label == ("bad", "so so", "good")[int(np.argmax(row["logits"]))]
    with load(bundle("bert-embed"), threads=1) as session:
        found, known = session.embed(row["text"]).vector, _known(expected("bert-embed")[1], None)
        np.testing.assert_allclose(found, known, atol=TOLERANCE)
        assert session.encode(row["text"]).hidden.shape == (len(row["ids"]), 16)
    with load(bundle("bert-mask"), threads=1) as session:
        masked = expected("bert-mask")[0]
        best = session.fill_mask(masked["text"].replace("[MASK]", "<mask>"), top=1)[0]
        scores = masked["logits"][masked["ids"].index(4)][5:-3]  # no special tokens, and none beyond the tokenizer
        assert best.token == 5 + int(np.argmax(scores))
    with load(bundle("bert-tag"), threads=1) as session:
        tags = session.tag(expected("bert-tag")[1]["text"], aggregation="none")
        assert len(tags) <= len(row["ids"]) - 2
    with load(bundle("bert-answer"), threads=1) as session:
        assert session.answer("who", "two dogs play in the snow")


def test_states_that_a_graph_does_not_give_are_refused() -> None:
    with (
        load(bundle("bert-tag"), threads=1) as session,
        pytest.raises(InputError, match="the graph of 'bert-tag' gives no hidden states: export the checkpoint itself"),
    ):
        session.encode("two dogs")


@pytest.mark.parametrize("name", ENCODERS)
def test_the_bundle_holds_what_it_needs(name: str) -> None:
    folder: Path = bundle(name)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("LICENSE", "cpu-fp32", "manifest.json", "openvino-fp32", "reference", "report.json", "tokenizer.json"),
    ]
