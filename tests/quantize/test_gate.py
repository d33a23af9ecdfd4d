"""The accuracy gate against sacreBLEU's own scores."""

from __future__ import annotations

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from edgewise.errors import GateError, InputError
from edgewise.quantize import gate

from ..runtime.tiny_session import session_for

WORDS = [
    *("a", "man", "rides", "his", "bicycle", "through", "the", "old", "town"),
    *("while", "two", "dogs", "run", "along", "and", "people", "watch", "them"),
]


def _sentences(seed: int, count: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(4, 14))).capitalize() + "." for _ in range(count)]


def _worse(sentences: list[str], share: float, seed: int = 9) -> list[str]:
    """The same, but for some of their words."""
    rng = np.random.default_rng(seed)
    return [" ".join("x" if rng.random() < share else word for word in s.split()) for s in sentences]


@pytest.fixture(scope="module")
def references() -> list[str]:
    return _sentences(0, 80)


def test_scores_are_those_of_sacrebleu(references: list[str]) -> None:
    ours, baseline = _worse(references, 0.3), _worse(references, 0.2)
    row = gate.compare("cpu-int8", ours, baseline, references)
    expected, better = (BLEU().corpus_score(output, [references]).score for output in (ours, baseline))
    assert row.bleu == pytest.approx(expected, abs=1e-9)
    assert row.drop == pytest.approx(better - expected, abs=1e-9)
    assert row.low < row.drop < row.high
    assert row.low > 0  # every tenth word more is no accident over 80 sentences


def test_cased(references: list[str]) -> None:
    row = gate.compare("cpu-int8", [s.lower() for s in references], references, references)
    assert row.bleu < 99
    assert row.drop == pytest.approx(100 - row.bleu)


def test_identical_systems(references: list[str]) -> None:
    output = _worse(references, 0.2)
    row = gate.compare("cpu-int8", output, output, references)
    assert (row.drop, row.low, row.high, row.same_text) == (0, 0, 0, 1)


def test_systems_as_good_as_each_other(references: list[str]) -> None:
    row = gate.compare("cpu-int8", _worse(references, 0.2, 1), _worse(references, 0.2, 2), references)
    assert row.low < 0 < row.high
    assert 0 <= row.same_text < 0.5


def test_the_same_interval_every_time(references: list[str]) -> None:
    outputs = _worse(references, 0.3), _worse(references, 0.2)
    assert gate.compare("v", *outputs, references) == gate.compare("v", *outputs, references)


@pytest.mark.parametrize(("ours", "baseline", "references"), [(2, 3, 3), (3, 2, 3), (3, 3, 2), (0, 0, 0)], ids=str)
def test_texts_that_do_not_fit_each_other(ours: int, baseline: int, references: int) -> None:
    texts = [["a b c d e"] * count for count in (ours, baseline, references)]
    with pytest.raises(InputError, match=rf"equally many and some, got \({ours}, {baseline}, {references}\)"):
        gate.compare("v", *texts)


def _row(variant: str, drop: float) -> gate.Row:
    return gate.Row(variant=variant, bleu=38.0, drop=drop, low=drop - 0.2, high=drop + 0.2, same_text=0.9)


def test_a_small_loss_passes() -> None:
    gate.check([_row("cpu-fp32", 0.0), _row("cpu-int8", 0.3), _row("openvino-int8", -0.4)], 0.3)


def test_a_loss_too_large_is_refused() -> None:
    rows = [_row("cpu-int8", 0.1), _row("cpu-int8-fast", 0.55), _row("openvino-int8", 1)]
    lost = r"cpu-int8-fast lost 0\.55 BLEU \(95 % 0\.35 to 0\.75\); openvino-int8 lost 1\.00 .*"
    with pytest.raises(GateError, match=rf"{lost}, at most 0\.3 allowed: keep a higher precision"):
        gate.check(rows, 0.3)


def test_table() -> None:
    head, line = gate.table([_row("cpu-int8", 0.1)]).splitlines()
    assert head.split() == ["variant", "BLEU", "lost", "95", "%", "interval", "same", "text"]
    assert line.split() == ["cpu-int8", "38.00", "0.10", "-0.10", "to", "+0.30", "90.0%"]


def test_signature() -> None:
    assert gate.signature().startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp")


def test_translations_come_in_order_and_progress_is_told() -> None:
    session = session_for("translate", max_positions=48, end_bias=2.0)
    texts = ["A man.", "Two dogs run."] * 33
    told: list[tuple[int, int]] = []
    output = gate.translate_all(session, texts, lambda done, total: told.append((done, total)))
    assert told == [(64, 66), (66, 66)]
    assert output[:2] * 33 == output
    assert output[0] == session.translate("A man.").text
