"""Options refuse what no search can do."""

from __future__ import annotations

from typing import Any

import pytest

from edgewise.errors import InputError
from edgewise.runtime.options import DecodingOptions, Sampling


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, r"beam_size \(0\) must be an integer of at least 1"),
        ({"beam_size": True}, r"beam_size \(True\) must be an integer"),
        ({"beam_size": 2.0}, r"beam_size \(2.0\) must be an integer"),
        ({"beam_size": 10**400}, r"beam_size \(10{400}\) must be an integer of at least 1 and at most 16777216$"),
        ({"n_best": 0}, r"n_best \(0\) must be an integer of at least 1"),
        ({"n_best": 3, "beam_size": 2}, r"n_best \(3\) cannot exceed beam_size \(2\): widen the beam"),
        ({"length_penalty": -0.1}, r"length_penalty \(-0.1\) must be a number of at least 0"),
        ({"length_penalty": 1000.0}, r"length_penalty \(1000.0\) must be a number of at least 0 and at most 10$"),
        ({"length_penalty": float("nan")}, r"length_penalty \(nan\) must be a number"),
        ({"length_penalty": float("inf")}, r"length_penalty \(inf\) must be a number"),
        ({"length_penalty": "0.6"}, r"length_penalty \('0.6'\) must be a number"),
        ({"length_norm": "sum"}, r"length_norm \('sum'\) must be 'wu' or 'power'"),
        ({"max_new_tokens": 0}, r"max_new_tokens \(0\) must be an integer of at least 1, or None"),
        ({"max_new_tokens": "9"}, r"max_new_tokens \('9'\) must be an integer"),
        ({"max_new_tokens": 3, "min_new_tokens": 4}, r"min_new_tokens \(4\) cannot exceed max_new_tokens \(3\)"),
        ({"min_new_tokens": -1}, r"min_new_tokens \(-1\) must be an integer of at least 0"),
        ({"repetition_penalty": 0}, r"repetition_penalty \(0\) must be a number from 0.01 to 100; 1 changes"),
        ({"presence_penalty": "1"}, r"presence_penalty \('1'\) must be a number from -100 to 100"),
        ({"frequency_penalty": float("inf")}, r"frequency_penalty \(inf\) must be a number from -100 to 100"),
        ({"no_repeat_ngram": 0}, r"no_repeat_ngram \(0\) must be an integer of at least 1, or None"),
        ({"suppress": "hat"}, r"suppress \('hat'\) must be a list or tuple"),
        ({"suppress": [5]}, r"suppress \(5\) must hold texts or lists of token ids"),
        ({"suppress": [""]}, r"suppress \(''\) must hold texts or lists of token ids, none of them empty"),
        ({"suppress": [[]]}, r"suppress \(\[\]\) must hold texts or lists of token ids, none of them empty"),
        ({"suppress": [[1.5]]}, r"suppress \(\[1.5\]\) must hold"),
        ({"logit_bias": [1.0]}, r"logit_bias \(\[1.0\]\) must map token ids to numbers"),
        ({"logit_bias": {"a": 1.0}}, r"logit_bias \('a': 1.0\) must map token ids to numbers"),
        ({"logit_bias": {5: -float("inf")}}, r"logit_bias \(5: -inf\) must map .*; suppress what must not come"),
        ({"stop": "end"}, r"stop \('end'\) must be a list or tuple"),
        ({"stop": ["a", ""]}, r"stop \(''\) must hold texts, none of them empty"),
        ({"include": ["hat"]}, r"include \(\['hat'\]\) needs beams: raise beam_size above 1"),
        (
            {"include": [""], "beam_size": 2},
            r"include \(''\) must hold texts or lists of token ids, none of them empty",
        ),
        ({"deadline": -1}, r"deadline \(-1\) must be a number of seconds of at least 0 and at most .*, or None"),
        ({"deadline": 10**400}, r"deadline \(10{400}\) must be .* at least 0 and at most 1000000000, or None"),
        ({"deadline": float("inf")}, r"deadline \(inf\) must be .* at most 1000000000, or None for no deadline"),
        ({"alternatives": 0}, r"alternatives \(0\) must be an integer of at least 1, or None"),
        ({"speculate": 0}, r"speculate \(0\) must be an integer of at least 1, or None"),
        ({"speculate": 3, "beam_size": 2}, r"speculate \(3\) needs one sequence a text, .* for 2: pass beam_size=1"),
        ({"speculate": 3, "alternatives": 4}, r"speculate \(3\) needs one sequence .* alternatives ask for 4"),
        ({"speculate": 3, "sampling": Sampling(samples=2)}, r"speculate \(3\) needs one sequence .* samples .* for 2"),
        ({"alternatives": 2, "beam_size": 2}, r"alternatives needs beam_size 1, this is 2: choose one of the two"),
        ({"alternatives": 2, "sampling": Sampling()}, r"alternatives are continued greedily: leave sampling out"),
        ({"sampling": Sampling(), "beam_size": 2}, r"sampling needs beam_size 1, this is 2: choose one of the two"),
        ({"sampling": Sampling(), "n_best": 2}, r"n_best \(2\) cannot exceed .*, or ask for samples"),
        ({"sampling": {"top_k": 3}}, r"sampling \(\{'top_k': 3\}\) must be a Sampling, or None"),
        ({"early_stopping": "always", "beam_size": 2}, r"early_stopping \('always'\) must be False, True or 'never'"),
        ({"early_stopping": 1, "beam_size": 2}, r"early_stopping \(1\) must be False, True or 'never'"),
        ({"early_stopping": True}, r"early_stopping \(True\) needs beams: raise beam_size above 1"),
        ({"patience": 2.0}, r"patience \(2.0\) needs beams"),
        ({"patience": 0, "beam_size": 2}, r"patience \(0\) must be a number above 0"),
        ({"patience": 1e308, "beam_size": 20}, r"patience \(1e\+308\) must be a number above 0 and at most 100$"),
        ({"patience": 10**400, "beam_size": 20}, r"patience \(10{400}\) must be a number above 0 and at most 100"),
        ({"patience": 0.5, "beam_size": 4, "n_best": 3}, r"n_best \(3\) cannot exceed the 2 hypotheses that patience"),
        ({"beam_groups": 2}, r"beam_groups \(2\) needs beams"),
        ({"beam_groups": 2, "beam_size": 3, "diversity_penalty": 1.0}, r"beam_size \(3\) must be a multiple of beam_g"),
        ({"beam_groups": 2, "beam_size": 4}, r"beam_groups \(2\) and diversity_penalty \(0.0\) need each other"),
        ({"diversity_penalty": 1.0}, r"beam_groups \(1\) and diversity_penalty \(1.0\) need each other"),
        ({"diversity_penalty": -1.0}, r"diversity_penalty \(-1.0\) must be a number of at least 0"),
        (
            {"diversity_penalty": 1e308, "beam_groups": 2, "beam_size": 4},
            r"diversity_penalty \(1e\+308\) must be a number of at least 0 and at most 100$",
        ),
        (
            {"coverage_penalty": -0.1, "beam_size": 2},
            r"coverage_penalty \(-0.1\) must be a number of at least 0 and at m",
        ),
        ({"coverage_penalty": 0.2}, r"coverage_penalty \(0.2\) needs beams: raise beam_size above 1, or leave it out"),
        (
            {"prefix_bias": 0},
            r"prefix_bias \(0\) must be a number above 0 and below 1, or None for a prefix",
        ),
        ({"prefix_bias": 1.0}, r"prefix_bias \(1.0\) must be a number above 0 and below 1"),
        ({"prefix_bias": "0.5"}, r"prefix_bias \('0.5'\) must be a number above 0"),
        (
            {"prefix_bias": 0.5, "alternatives": 2},
            r"prefix_bias \(0.5\) and alternatives \(2\) contradict each other: alternatives differ after",
        ),
        ({"alignments": 1}, r"alignments \(1\) must be True or False"),
        ({"overflow": "split"}, r"overflow \('split'\) must be 'error' or 'truncate'"),
    ],
    ids=str,
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DecodingOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, r"temperature \(0\) must be a number above 0: leave sampling out for the most probable"),
        ({"temperature": float("nan")}, r"temperature \(nan\) must be a number above 0"),
        ({"temperature": 10**400}, r"temperature \(10{400}\) must be a number above 0"),
        ({"top_k": 0}, r"top_k \(0\) must be an integer of at least 1, or None to keep all"),
        ({"top_p": 0.0}, r"top_p \(0.0\) must be a number above 0 and at most 1, or None to keep all"),
        ({"min_p": 1.1}, r"min_p \(1.1\) must be a number above 0 and at most 1"),
        ({"typical_p": True}, r"typical_p \(True\) must be a number above 0 and at most 1"),
        ({"seed": -1}, r"seed \(-1\) must be an integer of at least 0, or None for a new one every time"),
        ({"samples": 0}, r"samples \(0\) must be an integer of at least 1"),
    ],
    ids=str,
)
def test_sampling_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**options)


def test_the_defaults_are_greedy() -> None:
    assert DecodingOptions() == DecodingOptions(
        beam_size=1, length_penalty=0.6, n_best=1, max_new_tokens=None, overflow="error"
    )
