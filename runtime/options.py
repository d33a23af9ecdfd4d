"""How to decode: frozen objects, passed whole."""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import InputError

Overflow = Literal["error", "truncate"]
EarlyStopping = bool | Literal["never"]
LengthNorm = Literal["wu", "power"]
Phrase = str | Sequence[int]
"""A text, which the bundle's tokenizer splits as it would split it alone, or token ids."""

MAX_BEAMS = 1 << 24
"""As many as the largest vocabulary has tokens."""
MAX_PATIENCE = 100
MAX_DEADLINE = 10**9
"""Seconds, about 31 years: clocks and waits of every platform can add it."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Draw each token at random instead of taking the most probable.

    In this order, each on what the one before left: logits are divided by ``temperature``; ``top_k`` keeps the most
    probable tokens, those as probable as the last of them included; ``top_p`` keeps the fewest of the most probable
    whose probabilities reach it (Holtzman et al. 2020); ``min_p`` keeps what is at least ``min_p`` times as probable as
    the most probable (Nguyen et al. 2024); ``typical_p`` keeps the fewest whose surprise is nearest to the entropy and
    whose probabilities reach it (Meister et al. 2022). ``None`` leaves a filter out.

    ``samples``: sequences drawn for every text. Sample ``j`` of a text draws from ``numpy``'s generator seeded with
    ``[seed, j]``, one uniform number a token: neither the other texts of a call nor the number of samples change it.
    A ``seed`` of ``None`` is a new one every time.

    Raises:
        InputError: a value is out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: int | None = None
    samples: int = 1

    def __post_init__(self) -> None:
        _require(
            is_number(self.temperature) and 0 < self.temperature < math.inf,
            f"temperature ({self.temperature!r}) must be a number above 0: leave sampling out for the most probable",
        )
        _require(
            self.top_k is None or is_count(self.top_k),
            f"top_k ({self.top_k!r}) must be an integer of at least 1, or None to keep all",
        )
        for name in ("top_p", "min_p", "typical_p"):
            value = getattr(self, name)
            _require(
                value is None or (is_number(value) and 0 < value <= 1),
                f"{name} ({value!r}) must be a number above 0 and at most 1, or None to keep all",
            )
        _require(
            self.seed is None or (is_integer(self.seed) and self.seed >= 0),
            f"seed ({self.seed!r}) must be an integer of at least 0, or None for a new one every time",
        )
        _require(is_count(self.samples), f"samples ({self.samples!r}) must be an integer of at least 1")


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """What a result must obey, in one of three forms; see :mod:`edgewise.runtime.grammar`.

    ``regex``: a regular expression in the syntax of Rust's ``regex``, without anchors and word boundaries: the whole
    text is matched. ``json_schema``: the text is JSON that obeys this schema. ``lark``: a grammar in llguidance's Lark,
    whose ``start`` must allow for the space that begins the first word.

    Raises:
        InputError: not exactly one form, or not of its type.
    """

    regex: str | None = None
    json_schema: Mapping[str, Any] | None = None
    lark: str | None = None

    def __post_init__(self) -> None:
        forms = {name: value for name, value in vars(self).items() if value is not None}
        _require(len(forms) == 1, f"a Grammar takes one of regex, json_schema and lark, these are {len(forms)}")
        for name, value in forms.items():
            expected = Mapping if name == "json_schema" else str
            _require(isinstance(value, expected), f"{name} ({shown(value)}) must be a {expected.__name__}")


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """Options of greedy search (``beam_size`` 1), beam search, and sampling (``sampling``).

    Of the search:

    * ``length_penalty``: hypotheses are ranked by ``score / ((5 + length) / 6) ** length_penalty`` (Wu et al. 2016,
      equation 14), or with a ``length_norm`` of ``"power"`` by ``score / length ** length_penalty`` (Hugging Face's
      ``generate``); 0 ranks by the plain sum of log-probabilities.
    * ``coverage_penalty``: the ``beta`` of the same equation; a finished hypothesis ranks ``beta * sum_i log(min(sum_j
      p_ij, 1))`` lower, where ``p_ij`` is how much target token ``j`` looked at source token ``i``
      (:mod:`edgewise.runtime.coverage`). What is still live is ranked without it; since it adds at most 0, the bounds
      of ``early_stopping`` hold as they are.
    * ``early_stopping``: when a beam search ends that has enough finished hypotheses. ``False``: the worst of them is
      at least as good as the best live beam would be if it ended now. ``True``: at once. ``"never"``: no live beam can
      become better than the worst of them, whatever its length.
    * ``patience``: enough is ``beam_size * patience``, rounded (Kasai et al. 2022).
    * ``beam_groups``: the beams are split into so many groups that are searched one after the other; a token counts
      ``diversity_penalty`` less for every beam of the groups before that took it in this step (Vijayakumar et al. 2016,
      Hamming diversity). The penalty chooses tokens and is in no score.
    * ``n_best``: hypotheses given back.
    * ``include``: texts or token ids that a result must hold (:mod:`edgewise.runtime.constraints`). Where that cannot
      be done within ``max_new_tokens``, results hold as much as could be.
    * ``alternatives``: so many results, one for each of the most probable first tokens, most probable first, continued
      greedily; after a prefix, for each of the tokens that follow it.
    * ``speculate``: tokens that are proposed at most at once, where the last ones were seen before, and read together
      (:mod:`edgewise.runtime.speculation`). Greedy search or one sample, a text at a time; results stay the same.
    * ``max_new_tokens``: tokens of a result, prefix and end token included; ``None`` is source tokens + 50 (Vaswani et
      al. 2017, section 6.1), within the model's context.
    * ``end_ids``: token ids after which a result ends as after the model's own end token.
    * ``prefix_bias``: the prefix of a result, which a session takes, is no longer certain but likelier by this much,
      above 0 and below 1, until a sequence departs from it (:mod:`edgewise.runtime.prefix_bias`).

    Of every step, in this order, on logits before the softmax (:mod:`edgewise.runtime.rules` has the formulas):
    ``logit_bias`` by token id, ``repetition_penalty``, ``presence_penalty`` and ``frequency_penalty``,
    ``no_repeat_ngram``, ``suppress``, ``min_new_tokens``, ``grammar``.

    Of the end: ``stop`` ends a result where its text first holds one of these strings, which it then lacks;
    ``deadline``, in seconds from the call, gives back what there is by then. ``overflow``: what to do with a text
    longer than the context.

    Of results: ``alignments`` says which words of the source each word of a translation was made from
    (:mod:`edgewise.runtime.alignments`).

    Raises:
        InputError: a value is out of its range, or would have no effect beside the others.
    """

    beam_size: int = 1
    length_penalty: float = 0.6
    length_norm: LengthNorm = "wu"
    coverage_penalty: float = 0.0
    early_stopping: EarlyStopping = False
    patience: float = 1.0
    beam_groups: int = 1
    diversity_penalty: float = 0.0
    n_best: int = 1
    alternatives: int | None = None
    sampling: Sampling | None = None
    prefix_bias: float | None = None
    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    end_ids: Sequence[int] = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram: int | None = None
    suppress: Sequence[Phrase] = ()
    include: Sequence[Phrase] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    grammar: Grammar | None = None
    stop: Sequence[str] = ()
    deadline: float | None = None
    overflow: Overflow = "error"
    alignments: bool = False
    speculate: int | None = None

    def __post_init__(self) -> None:
        self._check_search()
        self._check_rules()
        self._check_phrases()
        self._check_contradictions()
        _require(self.overflow in ("error", "truncate"), f"overflow ({self.overflow!r}) must be 'error' or 'truncate'")
        _require(isinstance(self.alignments, bool), f"alignments ({self.alignments!r}) must be True or False")

    @property
    def plain(self) -> bool:
        """Whether this is greedy or beam search and no more."""
        return self == DecodingOptions(
            beam_size=self.beam_size,
            length_penalty=self.length_penalty,
            length_norm=self.length_norm,
            n_best=self.n_best,
            max_new_tokens=self.max_new_tokens,
            end_ids=self.end_ids if self.beam_size == 1 else (),  # of several the engine's candidates may be too few
            deadline=self.deadline,
            overflow=self.overflow,
            alignments=self.alignments,
            speculate=self.speculate,
        )

    @property
    def pool_size(self) -> int:
        """Finished hypotheses that are enough for one group of beams."""
        return max(1, round(self.beam_size // self.beam_groups * self.patience))

    @property
    def rows(self) -> int:
        """Sequences that are decoded side by side for one text."""
        return self.sampling.samples if self.sampling else self.alternatives or self.beam_size

    def _check_search(self) -> None:
        for name in ("beam_size", "n_best", "beam_groups"):
            value = getattr(self, name)
            _require(
                is_count(value) and value <= MAX_BEAMS,
                f"{name} ({value!r}) must be an integer of at least 1 and at most {MAX_BEAMS}",
            )
        for name, most in (("length_penalty", 10), ("coverage_penalty", 10), ("diversity_penalty", 100)):
            value = getattr(self, name)
            _require(
                is_number(value) and 0 <= value <= most,
                f"{name} ({value!r}) must be a number of at least 0 and at most {most}",
            )
        _require(
            isinstance(self.early_stopping, bool) or self.early_stopping == "never",
            f"early_stopping ({self.early_stopping!r}) must be False, True or 'never'",
        )
        _require(
            self.length_norm in ("wu", "power"), f"length_norm ({shown(self.length_norm)}) must be 'wu' or 'power'"
        )
        _require(
            is_number(self.patience) and 0 < self.patience <= MAX_PATIENCE,
            f"patience ({self.patience!r}) must be a number above 0 and at most {MAX_PATIENCE}",
        )
        _require(
            self.prefix_bias is None or (is_number(self.prefix_bias) and 0 < self.prefix_bias < 1),
            f"prefix_bias ({self.prefix_bias!r}) must be a number above 0 and below 1, or None for a prefix that is "
            "certain",
        )
        for name in ("alternatives", "max_new_tokens", "no_repeat_ngram", "speculate"):
            value = getattr(self, name)
            _require(
                value is None or is_count(value),
                f"{name} ({value!r}) must be an integer of at least 1, or None for the default",
            )
        _require(
            self.deadline is None or (is_number(self.deadline) and 0 <= self.deadline <= MAX_DEADLINE),
            f"deadline ({self.deadline!r}) must be a number of seconds of at least 0 and at most {MAX_DEADLINE}, or "
            "None for no deadline",
        )

    def _check_rules(self) -> None:
        _require(
            is_integer(self.min_new_tokens) and self.min_new_tokens >= 0,
            f"min_new_tokens ({self.min_new_tokens!r}) must be an integer of at least 0",
        )
        _require(
            is_number(self.repetition_penalty) and 0.01 <= self.repetition_penalty <= 100,
            f"repetition_penalty ({self.repetition_penalty!r}) must be a number from 0.01 to 100; 1 changes nothing",
        )
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _require(is_number(value) and -100 <= value <= 100, f"{name} ({value!r}) must be a number from -100 to 100")
        _require(
            isinstance(self.logit_bias, Mapping), f"logit_bias ({self.logit_bias!r}) must map token ids to numbers"
        )
        for token, value in self.logit_bias.items():
            _require(
                is_integer(token) and is_number(value) and -1000 <= value <= 1000,
                f"logit_bias ({token!r}: {value!r}) must map token ids to numbers from -1000 to 1000; suppress what "
                "must not come",
            )

    def _check_phrases(self) -> None:
        for name in ("suppress", "include", "stop"):
            _require(
                isinstance(getattr(self, name), list | tuple),
                f"{name} ({getattr(self, name)!r}) must be a list or tuple",
            )
        for name in ("suppress", "include"):
            for phrase in getattr(self, name):
                _require(
                    _is_text(phrase) or _are_ids(phrase),
                    f"{name} ({phrase!r}) must hold texts or lists of token ids, none of them empty",
                )
        _require(
            _are_ids(self.end_ids) or self.end_ids in ((), []),
            f"end_ids ({shown(self.end_ids)}) must be a list or tuple of token ids, or empty",
        )
        for text in self.stop:
            _require(_is_text(text), f"stop ({text!r}) must hold texts, none of them empty")

    def _check_contradictions(self) -> None:
        _require(
            self.sampling is None or _is_sampling(self.sampling),
            f"sampling ({self.sampling!r}) must be a Sampling, or None for the most probable tokens",
        )
        _require(
            self.grammar is None or _is_grammar(self.grammar),
            f"grammar ({shown(self.grammar)}) must be a Grammar, or None for any text",
        )
        self._check_what_needs_beams()
        _require(
            self.prefix_bias is None or self.alternatives is None,
            f"prefix_bias ({self.prefix_bias}) and alternatives ({self.alternatives}) contradict each other: "
            "alternatives differ after a prefix that is certain",
        )
        _require(
            self.n_best <= self.beam_size,
            f"n_best ({self.n_best}) cannot exceed beam_size ({self.beam_size}): widen the beam"
            + (", or ask for samples" if self.sampling else ""),
        )
        _require(
            self.n_best <= self.pool_size * self.beam_groups,
            f"n_best ({self.n_best}) cannot exceed the {self.pool_size * self.beam_groups} hypotheses that patience "
            f"({self.patience}) lets finish: raise it",
        )
        _require(
            self.max_new_tokens is None or self.min_new_tokens <= self.max_new_tokens,
            f"min_new_tokens ({self.min_new_tokens}) cannot exceed max_new_tokens ({self.max_new_tokens})",
        )
        for name in ("sampling", "alternatives"):
            _require(
                getattr(self, name) is None or self.beam_size == 1,
                f"{name} needs beam_size 1, this is {self.beam_size}: choose one of the two",
            )
        _require(
            self.sampling is None or self.alternatives is None,
            "alternatives are continued greedily: leave sampling out, or ask it for samples",
        )
        _require(
            self.speculate is None or self.rows == 1,
            f"speculate ({self.speculate}) needs one sequence a text, and beam_size, samples or alternatives ask for "
            f"{self.rows}: pass beam_size=1, or leave speculate out",
        )

    def _check_what_needs_beams(self) -> None:
        needs = {"coverage_penalty": 0.0, "early_stopping": False, "patience": 1.0, "beam_groups": 1, "include": ()}
        for name, default in needs.items():
            _require(
                not getattr(self, name) or getattr(self, name) == default or self.beam_size > 1,
                f"{name} ({getattr(self, name)!r}) needs beams: raise beam_size above 1, or leave it out",
            )
        _require(
            self.beam_size % self.beam_groups == 0,
            f"beam_size ({self.beam_size}) must be a multiple of beam_groups ({self.beam_groups})",
        )
        _require(
            (self.beam_groups > 1) == (self.diversity_penalty > 0),
            f"beam_groups ({self.beam_groups}) and diversity_penalty ({self.diversity_penalty}) need each other: "
            "groups without a penalty are all the same, and a penalty counts between groups",
        )


def is_count(value: object) -> bool:
    """Whether ``value`` is an integer of at least 1."""
    return is_integer(value) and value >= 1  # type: ignore[operator]


def is_integer(value: object) -> bool:
    """Whether ``value`` is an integer, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether ``value`` is a float or an integer that has a float, and no truth value."""
    if isinstance(value, float):
        return True
    return is_integer(value) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]


def shown(value: object) -> str:
    """``value`` in at most 200 characters for a message, however large or deeply nested it is."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 3, 200, 200
    return short.repr(value)[:200]


def _is_sampling(value: object) -> bool:
    return isinstance(value, Sampling)


def _is_grammar(value: object) -> bool:
    return isinstance(value, Grammar)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _are_ids(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(is_integer, value))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)
