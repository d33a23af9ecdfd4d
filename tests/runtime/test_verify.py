"""Replaying reference cases: the reference itself passes, and what is wrong is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgewise.export.cases import spread_ids
from edgewise.export.probes import probes
from edgewise.models.checkpoint import Checkpoint, load_checkpoint
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.bundle.cases import ReferenceCases, write_cases
from edgewise.runtime.bundle.manifest import CASES_FILE, Task
from edgewise.runtime.bundle.quantized import QuantizedReference, SteadyCase, write_quantized
from edgewise.runtime.engine import Candidates
from edgewise.runtime.session import Session
from edgewise.runtime.tokenizer import Tokenizer
from edgewise.runtime.tolerances import AGREEMENT_FEWEST, TOLERANCES
from edgewise.runtime.verification import VerificationReport
from edgewise.runtime.verify import verify

from ..bundles import record_few_cases
from ..tiny_checkpoint import write_checkpoint
from .tiny_session import manifest
from .torch_engine import TorchEngine, TorchRun

TASKS: tuple[Task, ...] = ("translate", "generate", "fill_mask", "classify")


class Recorded:
    """A checkpoint, its reference cases, and sessions on the reference behind the interface of an engine."""

    def __init__(self, folder: Path, task: Task) -> None:
        self.task = task
        self.checkpoint: Checkpoint = load_checkpoint(write_checkpoint(folder, task, max_positions=96))
        self.tokenizer = Tokenizer.open(self.checkpoint.tokenizer_file)
        # The engine of these tests re-reads every prefix, so there are few cases that take many steps.
        self.cases: ReferenceCases = record_few_cases(self.checkpoint, task, self.tokenizer, 96)
        self.steady: tuple[SteadyCase, ...] = ()
        self.folder = folder

    def session(
        self,
        engine: TorchEngine | None = None,
        tokenizer: Tokenizer | None = None,
        cases: ReferenceCases | None = None,
        precision: str = "fp32",
    ) -> Session:
        write_cases(self.folder / CASES_FILE, cases or self.cases)
        own = QuantizedReference(
            variant=f"cpu-{precision}", checkpoint_sha256=self.cases.checkpoint_sha256, cases=self.steady
        )
        write_quantized(self.folder, own)
        model = self.checkpoint.model
        provenance = {"edgewise": "0", "checkpoint_sha256": self.checkpoint.sha256, "torch": "0"}
        made = manifest(self.task, model, variants=(f"cpu-{precision}",), provenance=provenance)
        bundle = Bundle(path=self.folder, manifest=made, graphs={}, verified=True)
        return Session(bundle, made.variants[0], engine or TorchEngine(model), tokenizer or self.tokenizer)

    @contextmanager
    def damaged(self, change: Callable[[torch.nn.Module], object]) -> Iterator[TorchEngine]:
        """An engine on changed weights."""
        model = self.checkpoint.model
        kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with torch.no_grad():
            change(model)
        try:
            yield TorchEngine(model)
        finally:
            model.load_state_dict(kept)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Task], Recorded]:
    made: dict[Task, Recorded] = {}

    def get(task: Task) -> Recorded:
        if task not in made:
            made[task] = Recorded(tmp_path_factory.mktemp(task), task)
        return made[task]

    return get


@pytest.mark.parametrize("task", TASKS)
def test_the_reference_agrees_with_itself(recorded: Callable[[Task], Recorded], task: Task) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(recorded(task).session(), lambda done, total: seen.append((done, total)))
    assert report.ok, report.table()
    assert report.agreement == 1.0
    assert report.largest("logit") < 1e-4
    assert seen[-1] == (len(report.cases), len(report.cases))
    if task in ("translate", "generate"):
        assert {case.greedy for case in report.cases} == {case.beam for case in report.cases} == {"same"}


def test_at_least_36_probes_and_the_awkward_ones(recorded: Callable[[Task], Recorded]) -> None:
    tokenizer = recorded("translate").tokenizer
    asked = {probe.name: probe for probe in probes(tokenizer, 94)}
    assert len([name for name in asked if not name.startswith("vocabulary")]) >= 36
    assert {"empty", "one-word", "longest", "repeated-word", "emoji", "chinese", "no-final-stop", "all-caps"} <= set(
        asked
    )
    lengths = {name: len(tokenizer.encode(probe.text)) for name, probe in asked.items() if probe.text}
    assert max(lengths.values()) <= 94
    assert lengths["longest"] >= 93


def test_every_token_that_text_can_give_is_swept(recorded: Callable[[Task], Recorded]) -> None:
    one = recorded("translate")
    seen = {token for case in one.cases.cases for token in case.input_ids}
    unseen = {one.tokenizer.piece(t) for t in range(one.tokenizer.vocab_size) if t not in seen}
    # Characters of one byte may have tokens of their own, and UTF-8 has no use for these others.
    never = [*range(0x80), 0xC0, 0xC1, *range(0xF5, 0x100)]
    assert unseen <= {"<pad>", "<s>", "<mask>", *(f"<0x{byte:02X}>" for byte in never)}


def test_logits_are_kept_from_the_end_token_to_the_rarest() -> None:
    ids = spread_ids(8000, 2)
    assert ids[0] == 2
    assert ids[-1] == 7999
    assert len(ids) == 16
    assert spread_ids(3, 2) == (2, 1)


def test_the_report_is_json_and_a_table(recorded: Callable[[Task], Recorded]) -> None:
    report = verify(recorded("translate").session())
    data = json.loads(json.dumps(report.to_json()))
    assert data["ok"] is True
    assert data["sum"]["cases"] == len(data["cases"]) == len(report.cases)
    assert data["sum"]["agreement"] == 1.0
    assert {"name", "agreed", "largest_logit", "greedy", "beam", "seconds", "faults"} <= set(data["cases"][0])
    table = report.table()
    assert "caption-00" in table
    assert "cpu-fp32: ok" in table


def _scaled(name: str, at: tuple[int, ...], factor: float) -> Callable[[torch.nn.Module], object]:
    def change(model: torch.nn.Module) -> None:
        model.get_parameter(name)[at] *= factor

    return change


def _swapped(stack: str) -> Callable[[torch.nn.Module], object]:
    def change(model: torch.nn.Module) -> None:
        first, second = model.get_submodule(f"{stack}.layers.0"), model.get_submodule(f"{stack}.layers.1")
        kept = {name: tensor.clone() for name, tensor in first.state_dict().items()}
        first.load_state_dict(second.state_dict())
        second.load_state_dict(kept)

    return change


def _rows_swapped(model: torch.nn.Module) -> None:
    """Two rare rows of the vocabulary, which no recorded logit id names."""
    weight = model.get_parameter("embedding.weight")
    weight[[301, 302]] = weight[[302, 301]]


def _not_a_number(model: torch.nn.Module) -> None:
    model.get_parameter("decoder.layers.1.feed_forward.inner.weight")[3, 3] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_scaled("embedding.weight", (317, 3), 1.5), "expected"),
        (_scaled("encoder.layers.0.feed_forward.inner.weight", (4, 7), -1.0), "expected"),
        (_swapped("encoder"), "logit is"),
        (_swapped("decoder"), "logit is"),
        (_rows_swapped, "sum over ids"),
        (_not_a_number, "NaN"),
    ],
    ids=["one-embedding", "one-weight", "encoder-layers-swapped", "decoder-layers-swapped", "rows-swapped", "nan"],
)
def test_damaged_weights_are_found(
    recorded: Callable[[Task], Recorded], change: Callable[[torch.nn.Module], object], message: str
) -> None:
    one = recorded("translate")
    with one.damaged(change) as engine:
        report = verify(one.session(engine))
    assert not report.ok
    assert any(message in fault for fault in report.faults), report.faults


def permuted(tokenizer_json: bytes, pairs: list[tuple[int, int]]) -> bytes:
    data = json.loads(tokenizer_json)
    vocabulary = data["model"]["vocab"]
    names = {number: name for name, number in vocabulary.items()}
    for a, b in pairs:
        vocabulary[names[a]], vocabulary[names[b]] = b, a
    return json.dumps(data).encode()


def _retrained(_: bytes) -> bytes:
    from edgewise.models.tokenizer import train_bpe

    return train_bpe(["Zwei Hunde laufen.", "Drei Katzen schlafen im Haus."] * 4, 330).to_str().encode()


@pytest.mark.parametrize(
    "change",
    [_retrained, lambda data: permuted(data, [(310, 311)]), lambda data: permuted(data, [(270, 328), (300, 320)])],
    ids=["another-models", "two-rare-tokens-swapped", "permuted"],
)
@pytest.mark.parametrize("task", TASKS)
def test_another_vocabulary_is_found(
    recorded: Callable[[Task], Recorded], task: Task, change: Callable[[bytes], bytes]
) -> None:
    one = recorded(task)
    other = Tokenizer(change(one.checkpoint.tokenizer_file.read_bytes()))
    report = verify(one.session(tokenizer=other))
    assert not report.ok
    assert any("tokenizer: the text becomes" in fault for fault in report.faults)


def test_another_text_for_the_same_tokens_is_found(recorded: Callable[[Task], Recorded]) -> None:
    one = recorded("translate")
    first, *rest = one.cases.cases
    assert first.greedy is not None
    cases = replace(one.cases, cases=(replace(first, greedy=replace(first.greedy, text="something else")), *rest))
    report = verify(one.session(cases=cases))
    assert [fault for fault in report.faults if "expected 'something else'" in fault]


class _Noisy(TorchEngine):
    """Rounds as an int8 engine would: every logit a little off, always by the same."""

    noise = 0.05

    def decoder_logits(self, memory: Any, ids: Any, mask: Any) -> Any:
        logits = super().decoder_logits(memory, ids, mask)
        return logits + self.noise * np.sin(np.arange(logits.shape[-1], dtype=np.float32))


def test_an_int8_graph_under_an_fp32_manifest_is_found(recorded: Callable[[Task], Recorded]) -> None:
    one = recorded("translate")
    noisy = _Noisy(one.checkpoint.model)
    assert verify(one.session(noisy, precision="int8")).ok
    report = verify(one.session(noisy, precision="fp32"))
    assert not report.ok
    assert any("logits differ by" in fault for fault in report.faults)


class _WrongChoice(TorchEngine):
    """Its graph chooses candidates that its own logits do not."""

    def start(self, *arguments: Any, **named: Any) -> TorchRun:
        run = super().start(*arguments, **named)
        answer = run._answer
        run._answer = lambda: Candidates(*(array[:, ::-1].copy() for array in answer()))  # type: ignore[method-assign]
        return run


def test_candidates_that_are_not_the_best_are_found(recorded: Callable[[Task], Recorded]) -> None:
    one = recorded("generate")
    report = verify(one.session(_WrongChoice(one.checkpoint.model)))
    assert any("candidates' log-probabilities differ" in fault for fault in report.faults)


class _WrongBeams(TorchEngine):
    """Ignores which beam a row continues: only a search of several beams shows it."""

    def start(self, *arguments: Any, **named: Any) -> TorchRun:
        run = super().start(*arguments, **named)
        step = run.step
        run.step = lambda ids, parents: step(ids, np.arange(len(parents)))  # type: ignore[method-assign]
        return run


def test_beams_that_are_not_reordered_are_found(recorded: Callable[[Task], Recorded]) -> None:
    one = recorded("translate")
    report = verify(one.session(_WrongBeams(one.checkpoint.model)))
    assert {case.greedy for case in report.cases} == {"same"}
    assert any("beam 5: " in fault for fault in report.faults)


class _Fails(TorchEngine):
    def decoder_logits(self, memory: Any, ids: Any, mask: Any) -> Any:
        from edgewise.errors import EngineError

        raise EngineError("out of memory")


def test_an_engine_that_fails_fails_the_cases(recorded: Callable[[Task], Recorded]) -> None:
    one = recorded("translate")
    report = verify(one.session(_Fails(one.checkpoint.model)))
    assert all("EngineError: out of memory" in case.faults[0] for case in report.cases)
    assert "FAILED" in report.summary()


def test_tolerances_widen_from_fp32_to_int8_fast() -> None:
    names = ("logit", "logit_rms", "log_prob", "fold", "margin")
    for tight, wide in (("fp32", "int8"), ("int8", "int8-fast")):
        assert all(getattr(TOLERANCES[tight], n) < getattr(TOLERANCES[wide], n) for n in names)
        assert TOLERANCES[tight].agreement > TOLERANCES[wide].agreement


def test_a_report_without_positions_is_no_success(recorded: Callable[[Task], Recorded]) -> None:
    report = verify(recorded("translate").session())
    nothing = replace(report, cases=tuple(replace(case, positions=0, agreed=0) for case in report.cases))
    assert isinstance(nothing, VerificationReport)
    assert not nothing.ok


@pytest.mark.parametrize(("positions", "ok"), [(AGREEMENT_FEWEST - 1, True), (AGREEMENT_FEWEST, False)])
def test_of_few_positions_the_share_says_nothing(
    positions: int, ok: bool, recorded: Callable[[Task], Recorded]
) -> None:
    report = verify(recorded("translate").session())
    one, *rest = (replace(case, positions=0, agreed=0) for case in report.cases)
    undecided = replace(report, cases=(replace(one, positions=positions, agreed=positions - 20), *rest))
    assert isinstance(undecided, VerificationReport)
    assert undecided.ok is ok
