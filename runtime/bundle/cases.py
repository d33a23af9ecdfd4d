"""Reference cases: what PyTorch gave for chosen inputs, recorded at export and replayed by ``verify``.

``reference/cases.json`` holds one :class:`ReferenceCases`. A replay checks, in this order,

1. the tokenizer: ``text`` becomes ``input_ids`` (another model's tokenizer does not get past this);
2. teacher-forced: feed ``greedy.tokens`` and compare every :class:`Step` with the logits of this engine;
3. free-running: decode, and compare tokens, scores and the decoded ``text`` with ``greedy`` and ``beam``.

A token may differ where the reference itself was undecided: where ``margin`` is smaller than the tolerance.
Tolerances are constants of the runtime and never come from here. Logits are kept with their ``log_normalizer`` (the
logarithm of the sum of their exponentials over the whole vocabulary), so ``log_prob = logit - log_normalizer`` needs no
other logit.
Numbers are rounded to seven significant digits, about the precision of float32. A variant of int8 is compared with its
own integers besides: :mod:`.quantized`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import BundleFormatError
from .heard import HeardSpec
from .manifest import Task, write_atomic
from .model_spec import ModelSpec
from .schema import LATER, Between, Length, Text, dump_json, from_json, load_json, parse_json, raise_faults, to_json

CASES_FORMAT = 1
MAX_CASES_BYTES = 16 << 20
TOP_CANDIDATES = 5  # best tokens of every step
FOLDS = 16  # signed sums of every step, see fold
SIGNIFICANT_DIGITS = 7

FinishReason = Literal["end", "length"]

_Real = Annotated[float, Between(-1e9, 1e9)]
_LogProb = Annotated[float, Between(-1e9, 1e-3)]  # a rounded logarithm of 1 may land just above 0
_Token = Annotated[int, Between(0, 2**24)]
_Tokens = Annotated[tuple[_Token, ...], Length(0, 65_536)]
_LogProbs = Annotated[tuple[_LogProb, ...], Length(0, 65_536)]
_Output = Annotated[str, Text(1_000_000)]
_Few = Length(1, 64)


@dataclass(frozen=True, kw_only=True)
class Step:
    """The scores of one position over the vocabulary.

    ``top_ids``, ``top_logits``: the best tokens, best first, ties by lower id. ``margin``: best minus second logit.
    ``logits``: at the ``logit_ids`` of the set, in their order. ``folds``: what :func:`fold` makes of all logits, so
    that a fault in a row of the vocabulary that no other field names is seen too; empty where it was not recorded.
    """

    top_ids: Annotated[tuple[_Token, ...], _Few]
    top_logits: Annotated[tuple[_Real, ...], _Few]
    margin: Annotated[float, Between(0.0, 1e9)]
    log_normalizer: _Real
    logits: Annotated[tuple[_Real, ...], Length(0, 64)]
    folds: Annotated[tuple[_Real, ...], Length(0, FOLDS)] = ()

    def __post_init__(self) -> None:
        if len(self.folds) not in (0, FOLDS):
            raise BundleFormatError(f"{len(self.folds)} folds, expected {FOLDS} or none")
        if len(self.top_ids) != len(self.top_logits):
            raise BundleFormatError(f"{len(self.top_ids)} top_ids beside {len(self.top_logits)} top_logits")
        if any(a < b for a, b in zip(self.top_logits, self.top_logits[1:], strict=False)):
            raise BundleFormatError("top_logits must fall from best to worst")


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """Greedy decoding. ``tokens`` include the end token when it was reached.

    ``score`` is the sum of ``token_log_probs``. ``text`` is the decoded output. ``steps[i]`` holds the scores from
    which ``tokens[i]`` was chosen.
    """

    tokens: _Tokens
    token_log_probs: _LogProbs
    score: _Real
    finish_reason: FinishReason
    text: _Output
    steps: Annotated[tuple[Step, ...], Length(0, 65_536)]

    def __post_init__(self) -> None:
        _refuse(_trace_faults(self.tokens, self.token_log_probs, self.score))
        if len(self.steps) != len(self.tokens):
            raise BundleFormatError(f"{len(self.steps)} steps beside {len(self.tokens)} tokens")


@dataclass(frozen=True, kw_only=True)
class Beam:
    """The best hypothesis of a beam search.

    ``normalized_score`` is ``score / ((5 + len(tokens)) / 6) ** length_penalty``. ``margin``: the smallest difference
    by which the search took one candidate and not another, ``None`` where it was not recorded.
    """

    beam_size: Annotated[int, Between(1, 64)]
    length_penalty: Annotated[float, Between(0.0, 10.0)]
    tokens: _Tokens
    token_log_probs: _LogProbs
    score: _Real
    normalized_score: _Real
    finish_reason: FinishReason
    text: _Output
    margin: Annotated[float, Between(0.0, 1e9)] | None

    def __post_init__(self) -> None:
        _refuse(_trace_faults(self.tokens, self.token_log_probs, self.score))


@dataclass(frozen=True, kw_only=True)
class Masked:
    """The scores over the vocabulary at one masked ``position`` of ``input_ids``."""

    position: Annotated[int, Between(0, 65_535)]
    scores: Step


@dataclass(frozen=True, kw_only=True)
class Classified:
    """``logits`` in the order of the model's ``class_names``, and the ``label`` that won."""

    logits: Annotated[tuple[_Real, ...], Length(1, 10_000)]
    label: Annotated[str, Text(200)]


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """``logits`` of one token of ``input_ids``: of its classes, or of its being the first and the last of a span."""

    position: Annotated[int, Between(0, 65_535)]
    logits: Annotated[tuple[_Real, ...], Length(2, 10_000)]


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The vector ``(D,)`` of a text, pooled and normalized as the model says."""

    vector: Annotated[tuple[_Real, ...], Length(1, 65_536)]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One input and what the reference made of it.

    ``input_ids`` are what the network was given, special tokens included: a source with its end token, a prompt with
    its start token. ``text`` is ``None`` where no text gives these ids; ``pair`` is the second text of a pair, whose
    segment begins at ``second_from`` of the ids. ``max_new_tokens`` bounded both searches. ``source_language``,
    ``target_language``: those of the text and of its translation where the model takes them from a request. ``heard``:
    the features that a model of speech was given, beside a prompt as ``input_ids``.
    """

    name: Annotated[str, Text(64, r"[a-z0-9][a-z0-9-]*")]
    text: Annotated[str, Text(1_000_000)] | None
    input_ids: Annotated[tuple[_Token, ...], Length(1, 65_536)]
    max_new_tokens: Annotated[int, Between(1, 65_536)] | None = None
    greedy: Greedy | None = None
    beam: Beam | None = None
    masked: Annotated[tuple[Masked, ...], Length(1, 65_536)] | None = None
    classified: Classified | None = None
    embedded: Embedded | None = field(default=None, metadata=LATER)
    token_scores: Annotated[tuple[TokenScores, ...], Length(1, 65_536)] | None = field(default=None, metadata=LATER)
    pair: Annotated[str, Text(1_000_000)] | None = field(default=None, metadata=LATER)
    second_from: Annotated[int, Between(0, 65_535)] | None = field(default=None, metadata=LATER)
    source_language: Annotated[str, Text(64)] | None = field(default=None, metadata=LATER)
    target_language: Annotated[str, Text(64)] | None = field(default=None, metadata=LATER)
    heard: HeardSpec | None = field(default=None, metadata=LATER)

    def directed(self, model: ModelSpec) -> ModelSpec:
        """What ``model`` is for the languages of this case."""
        return model.directed(self.source_language, self.target_language)

    def prompt(self, model: ModelSpec) -> tuple[int, ...]:
        """What the decoder of ``model`` reads before the first token of a result."""
        own = model.encoder is None or self.heard is not None
        return self.input_ids if own else self.directed(model).decoder_prompt

    def __post_init__(self) -> None:
        for kind, places in (("masked", self.masked), ("token_scores", self.token_scores)):
            for place in places or ():
                if place.position >= len(self.input_ids):
                    ids = len(self.input_ids)
                    raise BundleFormatError(f"{kind} position {place.position} is beyond {ids} input_ids")
        if (self.pair is None) != (self.second_from is None):
            raise BundleFormatError(f"pair {self.pair!r} beside second_from {self.second_from}: one is of the other")
        for trace in (self.greedy, self.beam):
            if trace and self.max_new_tokens and len(trace.tokens) > self.max_new_tokens:
                raise BundleFormatError(f"{len(trace.tokens)} tokens exceed max_new_tokens ({self.max_new_tokens})")


# What a case of each kind holds; the other outputs are None.
_OUTPUTS: dict[str, frozenset[str]] = {
    "translate": frozenset({"max_new_tokens", "greedy", "beam"}),
    "generate": frozenset({"max_new_tokens", "greedy", "beam"}),
    "transcribe": frozenset({"max_new_tokens", "greedy", "beam"}),
    "fill_mask": frozenset({"masked"}),
    "classify": frozenset({"classified"}),
    "regress": frozenset({"classified"}),
    "tag": frozenset({"token_scores"}),
    "answer": frozenset({"token_scores"}),
    "embed": frozenset({"embedded"}),
}


@dataclass(frozen=True, kw_only=True)
class ReferenceCases:
    """All cases of a bundle, the checkpoint they come from, and the ids at which every step keeps its logit.

    ``torch``: the release of PyTorch that gave them; ``None`` where another reference did, which the manifest names.
    """

    kind: Task
    checkpoint_sha256: Annotated[str, Text(64, r"[0-9a-f]{64}")]
    torch: Annotated[str, Text(64)] | None
    seed: Annotated[int, Between(0, 2**63)] | None
    logit_ids: Annotated[tuple[_Token, ...], Length(0, 64)]
    cases: Annotated[tuple[Case, ...], Length(1, 10_000)]
    format: Annotated[int, Between(1, CASES_FORMAT)] = CASES_FORMAT

    def __post_init__(self) -> None:
        _refuse(self._contradictions())

    def _contradictions(self) -> Iterator[str]:
        for name, count in Counter(c.name for c in self.cases).items():
            if count > 1:
                yield f"case {name} is given {count} times"
        for case in self.cases:
            held = {n for n in frozenset().union(*_OUTPUTS.values()) if getattr(case, n) is not None}
            if held != _OUTPUTS[self.kind]:
                yield f"case {case.name} holds {sorted(held)}, expected of {self.kind!r}: {sorted(_OUTPUTS[self.kind])}"
            if (case.heard is not None) != (self.kind == "transcribe"):
                yield f"case {case.name} of {self.kind!r} and heard {case.heard}: the one belongs to the other"
            if any(len(step.logits) != len(self.logit_ids) for step in _steps(case)):
                yield f"case {case.name} has a step without one logit for each of the {len(self.logit_ids)} logit_ids"

    def check_model(self, model: ModelSpec, where: str) -> None:
        """Refuse cases that a model of this vocabulary, these classes and this width cannot have given.

        Raises:
            BundleFormatError: a token id beyond the vocabulary, other classes, or a vector of another length.
        """
        read = model.source_size if model.encoder and model.decoder else model.vocab_size
        largest = max([0, *self.logit_ids, *(t for case in self.cases for t in _ids(case))])
        largest_read = max(t for case in self.cases for t in case.input_ids)
        for token, size in ((largest, model.vocab_size), (largest_read, read)):
            if token >= size:
                raise_faults(where, [f"token id {token}, expected ids below vocab_size ({size})"])
        for case in self.cases:
            known = case.classified is None or (
                len(case.classified.logits) == len(model.class_names) and case.classified.label in model.class_names
            )
            if not known:
                raise_faults(where, [f"case {case.name} does not classify into {list(model.class_names)[:20]}"])
            values = 2 if model.head == "span" else len(model.class_names)
            if any(len(scores.logits) != values for scores in case.token_scores or ()):
                raise_faults(where, [f"case {case.name} has a token without one logit for each of {values} classes"])
            if case.embedded and model.encoder and len(case.embedded.vector) != model.vector_width:
                found, width = len(case.embedded.vector), model.vector_width
                raise_faults(where, [f"case {case.name} has a vector of {found} numbers, expected {width}"])


def _steps(case: Case) -> tuple[Step, ...]:
    return (case.greedy.steps if case.greedy else ()) + tuple(m.scores for m in case.masked or ())


def _ids(case: Case) -> Iterator[int]:
    yield from case.greedy.tokens if case.greedy else ()
    yield from case.beam.tokens if case.beam else ()
    for step in _steps(case):
        yield from step.top_ids


def _trace_faults(tokens: tuple[int, ...], log_probs: tuple[float, ...], score: float) -> Iterator[str]:
    if len(tokens) != len(log_probs):
        yield f"{len(tokens)} tokens beside {len(log_probs)} token_log_probs"
    if abs(score - sum(log_probs)) > 1e-5 * (1 + abs(score)):  # rounding, and no more
        yield f"score ({score}) must be the sum of token_log_probs ({sum(log_probs)})"


def _refuse(contradictions: Iterator[str]) -> None:
    if found := list(contradictions):
        raise BundleFormatError("; ".join(found[:20]))


def fold(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sums ``(..., FOLDS)`` of logits ``(..., V)``: fold ``j`` takes ids ``j``, ``j + FOLDS``, ..., signs in turn."""
    padding = -logits.shape[-1] % FOLDS
    wide = np.pad(logits.astype(np.float64), [*[(0, 0)] * (logits.ndim - 1), (0, padding)])
    rows = wide.reshape(*logits.shape[:-1], -1, FOLDS)  # (..., V) -> (..., V/FOLDS, FOLDS)
    return rows[..., ::2, :].sum(-2) - rows[..., 1::2, :].sum(-2)  # type: ignore[no-any-return]


def log_sum_exp(logits: NDArray[np.float32]) -> float:
    """Logarithm of the sum of the exponentials of ``logits (V,)``, in float64."""
    largest = float(logits.max())
    return largest + float(np.log(np.exp(logits.astype(np.float64) - largest).sum()))


def read_cases(path: Path) -> ReferenceCases:
    """Read and check a ``cases.json``.

    Raises:
        BundleFormatError: missing, not JSON, or with fields unknown, missing, mistyped, absurd or contradictory.
    """
    return from_json(ReferenceCases, load_json(path, MAX_CASES_BYTES), str(path))


def write_cases(path: Path, cases: ReferenceCases) -> None:
    """Write ``cases.json`` with numbers rounded, whole or not at all, and only what :func:`read_cases` takes back.

    Raises:
        BundleFormatError: the cases break a rule of their own schema.
    """
    raw = dump_json(_rounded(to_json(cases)), compact=True)
    from_json(ReferenceCases, parse_json(raw, path.name), path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, raw)


def rounded(cases: ReferenceCases) -> ReferenceCases:
    """``cases`` as they read back after writing."""
    return from_json(ReferenceCases, parse_json(dump_json(_rounded(to_json(cases))), "cases"), "cases")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
