"""What a bundle recommends, and what a caller says over it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgewise.errors import BundleFormatError, InputError
from edgewise.runtime.bundle.decoding import Generation, SamplingSpec
from edgewise.runtime.bundle.schema import dump_json, from_json, parse_json, to_json
from edgewise.runtime.defaults import with_defaults
from edgewise.runtime.options import DecodingOptions, Grammar, Sampling

from .tiny_session import session_for

DRAWN = SamplingSpec(temperature=0.7, top_k=20, top_p=0.8, min_p=None, typical_p=None)
OWN = Generation(
    beam_size=4,
    length_penalty=2.0,
    max_new_tokens=18,
    end_ids=(7,),
    length_norm="power",
    early_stopping=True,
    min_new_tokens=6,
    repetition_penalty=1.2,
    no_repeat_ngram=3,
    suppress=((5, 6), (9,)),
    sampling=DRAWN,
)
WHOLE = {f.name: getattr(OWN, f.name) for f in dataclasses.fields(OWN) if f.name != "sampling"}
REGEX = Grammar(regex="a+")
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "none": ({"beam_size": None, "sampling": None, "max_new_tokens": None}, {}),
    "one beam": ({"beam_size": 1}, {"beam_size": 1, "early_stopping": False}),
    "other": ({"length_norm": "wu", "early_stopping": False}, {"length_norm": "wu", "early_stopping": False}),
    "alternatives": ({"alternatives": 2}, {"alternatives": 2, "beam_size": 1, "early_stopping": False}),
    "few tokens": ({"max_new_tokens": 3}, {"max_new_tokens": 3, "min_new_tokens": 3}),
    "no rule": ({"no_repeat_ngram": None}, {"no_repeat_ngram": None}),
    "grammar": ({"grammar": REGEX}, {"grammar": REGEX, "min_new_tokens": 0, "no_repeat_ngram": None}),
    "suppressed too": ({"suppress": ["hat"]}, {"suppress": ((5, 6), (9,), "hat")}),
    "recommended": (
        {"sampling": "recommended"},
        {"sampling": Sampling(temperature=0.7, top_k=20, top_p=0.8), "beam_size": 1, "early_stopping": False},
    ),
}


@pytest.mark.parametrize(("given", "changes"), CASES.values(), ids=CASES.keys())
def test_what_is_said_goes_before_what_is_recommended(given: dict[str, Any], changes: dict[str, Any]) -> None:
    found = with_defaults(given, OWN)
    assert found == {**WHOLE, **changes}
    DecodingOptions(**found)


def test_a_bundle_that_recommends_nothing() -> None:
    assert DecodingOptions(**with_defaults({}, None)) == DecodingOptions()


def test_sampling_that_is_none() -> None:
    session = session_for("translate")
    with pytest.raises(InputError, match=r"this bundle recommends no sampling: pass edgewise\.Sampling"):
        session.translate("A man", sampling="recommended")
    with pytest.raises(InputError, match=r"sampling \('hot'\) must be a Sampling, 'recommended', or None"):
        session.translate("A man", sampling="hot")  # type: ignore[call-overload]
    with pytest.raises(InputError, match=r"suppress \('hat'\) must be a list or tuple"):
        session.translate("A man", suppress="hat")


def test_a_session_decodes_as_recommended() -> None:
    own = dataclasses.replace(OWN, sampling=None, suppress=((300,),), end_ids=())
    explicit = {**{k: v for k, v in WHOLE.items() if k not in ("end_ids", "suppress")}, "suppress": [[300]]}
    texts = ["A man is riding a bicycle.", "Two dogs"]
    found = session_for("translate", changes={"generation": own}).translate(texts)
    assert [g.hypotheses for g in found] == [
        g.hypotheses
        for g in session_for("translate").translate(texts, **explicit)  # type: ignore[arg-type]
    ]
    assert all(len(g.tokens) >= 6 for g in found)


def test_json_both_ways() -> None:
    assert from_json(Generation, parse_json(dump_json(to_json(OWN)), "x"), "x") == OWN
    plain = Generation(beam_size=1, length_penalty=0.6, max_new_tokens=None)
    assert to_json(plain) == {"beam_size": 1, "length_penalty": 0.6, "max_new_tokens": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_new_tokens": 19}, r"min_new_tokens \(19\) must be at most 18, the most of a result"),
        ({"suppress": ((5, 330),)}, r"suppress \(330\) must be below vocab_size \(330\)"),
        ({"beam_size": 64}, None),
    ],
)
def test_what_does_not_fit_the_model(changes: dict[str, Any], message: str | None) -> None:
    own = dataclasses.replace(OWN, **changes)
    if message is None:
        session_for("translate", changes={"generation": own})
        return
    with pytest.raises(BundleFormatError, match=message):
        session_for("translate", changes={"generation": own})
