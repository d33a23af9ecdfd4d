"""Reference cases: what is written is read back rounded, contradictions are refused, and a set stays small."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.errors import BundleFormatError
from edgewise.runtime.bundle import cases, model_spec
from edgewise.runtime.bundle.cases import Beam, Case, Classified, Greedy, Masked, ReferenceCases, Step

COMMON: dict[str, Any] = {"checkpoint_sha256": "0" * 64, "torch": "2.13.0", "seed": None}


def test_reads_back_rounded(tmp_path: Path, reference: ReferenceCases) -> None:
    cases.write_cases(tmp_path / "reference" / "cases.json", reference)
    read = cases.read_cases(tmp_path / "reference" / "cases.json")
    assert read == cases.rounded(reference) != reference
    greedy = read.cases[0].greedy
    assert greedy is not None
    assert greedy.steps[0].top_logits == (3.123457, 1.0)
    assert greedy.token_log_probs == (-0.3765432, -1.5)


def test_folds_by_hand() -> None:
    logits = np.zeros((2, 40), np.float32)
    logits[0, [1, 17, 33]] = [5, 3, 1]  # all of fold 1: plus, minus, plus
    logits[1, 39] = 2  # 39 = 2 * 16 + 7
    expected = np.zeros((2, 16))
    expected[0, 1], expected[1, 7] = 5 - 3 + 1, 2
    np.testing.assert_array_equal(cases.fold(logits), expected)


def test_folds_are_all_or_none(step: Step) -> None:
    with pytest.raises(BundleFormatError, match="3 folds, expected 16 or none"):
        dataclasses.replace(step, folds=(1.0, 2.0, 3.0))


def test_encoder_cases(tmp_path: Path, step: Step) -> None:
    masked = Case(name="two", text=None, input_ids=(4, 3, 2), masked=(Masked(position=1, scores=step),))
    labelled = Case(name="one", text="", input_ids=(2,), classified=Classified(logits=(0.5, -1.0), label="good"))
    for kind, case, logit_ids in (("fill_mask", masked, (7,)), ("classify", labelled, ())):
        one = ReferenceCases(kind=kind, logit_ids=logit_ids, cases=(case,), **COMMON)  # type: ignore[arg-type]
        cases.write_cases(tmp_path / "cases.json", one)
        assert cases.read_cases(tmp_path / "cases.json") == cases.rounded(one)


def test_thirty_six_cases_stay_small(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def steps(count: int) -> tuple[Step, ...]:
        logits = np.sort(random.normal(size=(count, 5)))[:, ::-1].tolist()
        return tuple(
            Step(
                top_ids=tuple(random.integers(0, 8000, 5).tolist()),
                top_logits=tuple(row),
                margin=row[0] - row[1],
                log_normalizer=float(random.normal()),
                logits=tuple(random.normal(size=8).tolist()),
                folds=tuple((100 * random.normal(size=cases.FOLDS)).tolist()),
            )
            for row in logits
        )

    def case(index: int) -> Case:
        count = 90 if index == 0 else 14  # target tokens of a caption, the end token among them
        tokens = tuple(random.integers(0, 8000, count).tolist())
        log_probs = tuple((-random.random(count)).tolist())
        trace: dict[str, Any] = {
            "tokens": tokens,
            "token_log_probs": log_probs,
            "score": sum(log_probs),
            "finish_reason": "end",
            "text": "wort " * count,
        }
        return Case(
            name=f"case-{index}",
            text="word " * count,
            input_ids=tokens,
            max_new_tokens=128,
            greedy=Greedy(**trace, steps=steps(count)),
            beam=Beam(**trace, beam_size=5, length_penalty=0.6, normalized_score=-0.5, margin=0.125),
        )

    file = tmp_path / "cases.json"
    ids = tuple(range(8))
    many = tuple(case(i) for i in range(36))
    cases.write_cases(file, ReferenceCases(kind="translate", logit_ids=ids, cases=many, **COMMON))
    assert file.stat().st_size < 300_000


def _case(data: dict[str, Any]) -> dict[str, Any]:
    return data["cases"][0]  # type: ignore[no-any-return]


TAMPERED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "newer format": (lambda d: d.update(format=2), "format is 2, expected 1 to 1"),
    "unknown kind": (lambda d: d.update(kind="x"), "kind is 'x', expected one of"),
    "no cases": (lambda d: d.update(cases=[]), "cases is a list of 0, expected 1 to 10000 members"),
    "missing field": (lambda d: _case(d).pop("beam"), r"cases\[0\] lacks fields 'beam'"),
    "a pair that begins nowhere": (lambda d: _case(d).update(pair="a man"), "pair 'a man' beside second_from None"),
    "a segment of no pair": (lambda d: _case(d).update(second_from=1), "pair None beside second_from 1"),
    "a token beyond the text": (
        lambda d: _case(d).update(token_scores=[{"position": 9999, "logits": [0.0, 1.0]}]),
        "token_scores position 9999 is beyond",
    ),
    "features of a text": (
        lambda d: _case(d).update(heard={"seed": 1, "apart": 2, "sounding": 3, "sha256": "0" * 64}),
        "case one-word of 'translate' and heard HeardSpec.*: the one belongs to the other",
    ),
    "case twice": (lambda d: d.update(cases=d["cases"] * 2), "case one-word is given 2 times"),
    "odd name": (lambda d: _case(d).update(name="One Word"), r"cases\[0\].name is 'One Word', expected text"),
    "outputs of another kind": (lambda d: d.update(kind="classify"), r"case one-word holds .*, expected of 'classify'"),
    "no input": (lambda d: _case(d).update(input_ids=[]), "input_ids is a list of 0, expected 1 to"),
    "negative token": (lambda d: _case(d).update(input_ids=[-1]), r"input_ids\[0\] is -1, expected 0 to"),
    "log-probability above 0": (
        lambda d: _case(d)["greedy"].update(token_log_probs=[0.5, 0.0]),
        r"token_log_probs\[0\] is 0.5, expected",
    ),
    "other lengths": (lambda d: _case(d)["greedy"].update(tokens=[4]), "1 tokens beside 2 token_log_probs"),
    "too few steps": (lambda d: _case(d)["greedy"]["steps"].pop(), "1 steps beside 2 tokens"),
    "score is no sum": (
        lambda d: _case(d)["beam"].update(score=-1.0),
        r"score \(-1.0\) must be the sum of token",
    ),
    "negative length penalty": (
        lambda d: _case(d)["beam"].update(length_penalty=-0.5),
        "length_penalty is -0.5, expected 0.0 to 10.0",
    ),
    "too many tokens": (lambda d: _case(d).update(max_new_tokens=1), r"2 tokens exceed max_new_tokens \(1\)"),
    "step without its logits": (
        lambda d: d.update(logit_ids=[7, 8]),
        "a step without one logit for each of the 2",
    ),
    "candidates without logits": (
        lambda d: _case(d)["greedy"]["steps"][0].update(top_ids=[1]),
        "1 top_ids beside 2 top_logits",
    ),
    "candidates not in order": (
        lambda d: _case(d)["greedy"]["steps"][0].update(top_logits=[1.0, 2.0]),
        "top_logits must fall from best to worst",
    ),
}


@pytest.mark.parametrize(("change", "message"), TAMPERED.values(), ids=TAMPERED.keys())
def test_tampered(
    tmp_path: Path, reference: ReferenceCases, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    file = tmp_path / "cases.json"
    cases.write_cases(file, reference)
    data = json.loads(file.read_bytes())
    change(data)
    file.write_text(json.dumps(data))
    with pytest.raises(BundleFormatError, match=message):
        cases.read_cases(file)


def test_masked_position_is_one_of_the_input(step: Step) -> None:
    with pytest.raises(BundleFormatError, match="masked position 2 is beyond 2 input_ids"):
        Case(name="x", text=None, input_ids=(3, 2), masked=(Masked(position=2, scores=step),))


def test_writes_only_what_it_would_read(tmp_path: Path, reference: ReferenceCases) -> None:
    with pytest.raises(BundleFormatError, match=r"cases\.json: torch is 'x+..., expected at most 64 characters"):
        cases.write_cases(tmp_path / "cases.json", dataclasses.replace(reference, torch="x" * 100))
    assert not (tmp_path / "cases.json").exists()


@pytest.mark.parametrize("label", ["bad", "unknown"])
def test_classes_of_another_model(label: str) -> None:
    stack = model_spec.StackSpec(
        n_layers=1, d_model=8, n_heads=2, d_ff=16, norm_place="post", activation="relu", norm_epsilon=1e-5
    )
    names = ("bad", "fair", "good") if label == "bad" else ("bad", "good")
    model = model_spec.ModelSpec(
        vocab_size=9, max_positions=8, pad_id=0, start_id=1, end_id=2, encoder=stack, decoder=None, head="classes",
        mask_id=None, class_names=names,
    )  # fmt: skip
    case = Case(name="x", text="a", input_ids=(5, 2), classified=Classified(logits=(0.5, -1.0), label=label))
    with pytest.raises(BundleFormatError, match=r"here: case x does not classify into \['bad', "):
        ReferenceCases(kind="classify", logit_ids=(), cases=(case,), **COMMON).check_model(model, "here")
