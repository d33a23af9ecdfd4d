"""Speculating: what is proposed is what a plain search of the text finds, and results are those without it, whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.errors import InputError
from edgewise.models import decode
from edgewise.models.transformer import Transformer
from edgewise.runtime.bundle.manifest import Generation
from edgewise.runtime.bundle.model_spec import ModelSpec
from edgewise.runtime.decoding import Request, decode_all, start_search
from edgewise.runtime.inputs import Prepared
from edgewise.runtime.interrupt import Cancellation
from edgewise.runtime.options import DecodingOptions, Sampling
from edgewise.runtime.results import Speculation, Timings, TokenHypothesis
from edgewise.runtime.session import Session
from edgewise.runtime.speculation import LONGEST, SHORTEST, Lookup, Tally

from ..tiny import END, START, random_sources, tiny_model
from .tiny_session import manifest, model_for, session_for
from .torch_engine import TorchEngine

# --- what is proposed -------------------------------------------------------------------------------------------------


def naive(source: list[int], text: list[int], most: int) -> list[int]:
    """By definition: the longest end of ``text`` that stands earlier, where it stands last, and what follows there."""
    read = [*source, -1, *text]
    for n in range(LONGEST, SHORTEST - 1, -1):
        for start in range(len(read) - n - 1, -1, -1):
            if len(text) >= n and read[start : start + n] == read[len(read) - n :]:
                follows = list(read)
                for i in range(most):
                    if follows[start + n + i] == -1:
                        break
                    follows.append(follows[start + n + i])
                return follows[len(read) :]
    return []


@settings(max_examples=400, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), max_size=14), st.integers(1, 9))
def test_proposals_are_what_followed(source: list[int], text: list[int], most: int) -> None:
    lookup = Lookup(source)
    for token in text:
        lookup.append(token)
    assert lookup.propose(most) == naive(source, text, most)


@pytest.mark.parametrize(
    ("source", "text", "proposed"),
    [
        ([], [], []),
        ([], [5, 6, 7], []),
        ([5, 6, 7, 8], [5, 6], [7, 8]),
        ([5, 6, 7, 8], [6, 7, 9, 6, 7], [9, 6, 7, 9]),
        ([5, 6, 7], [6, 7], []),
        ([4, 5, 6, 9, 5, 6, 8], [4, 5, 6], [9, 5, 6, 8]),
        ([], [5, 5, 5], [5, 5, 5, 5]),
    ],
    ids=["nothing", "nothing again", "from the source", "the later", "at its end", "the longer", "again and again"],
)
def test_cases_by_hand(source: list[int], text: list[int], proposed: list[int]) -> None:
    lookup = Lookup(source)
    for token in text:
        lookup.append(token)
    assert lookup.propose(4) == proposed


# --- results ----------------------------------------------------------------------------------------------------------

MODELS = {"translate": tiny_model(2), "generate": tiny_model(7, "decoder")}
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "rules": {"repetition_penalty": 1.1, "presence_penalty": 0.2, "min_new_tokens": 6},
    "no repeats": {"no_repeat_ngram": 4},
    "sampling": {"sampling": Sampling(seed=3, temperature=0.1)},
    "few to draw from": {"sampling": Sampling(seed=5, top_k=2, top_p=0.9)},
    "stop": {"stop": ["hg", "kk"]},
}


def _text_of(tokens: Any) -> str:
    return "".join(chr(ord("a") + token) for token in tokens)


def _decoded(
    model: Transformer, source: list[int], limit: int, prefix: tuple[int, ...] = (), **options: Any
) -> tuple[list[TokenHypothesis], Timings, TorchEngine]:
    engine, spec = TorchEngine(model), ModelSpec.from_json(model.config.to_json())
    request = Request(source=Prepared(ids=tuple(source)), limit=limit, prefix=prefix, text_of=_text_of)
    [(found, timings)] = decode_all(engine, spec, [request], DecodingOptions(**options), 1, lambda: None)
    return found, timings, engine


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("task", MODELS)
def test_results_are_those_without(task: str, name: str) -> None:
    accepted = 0
    for seed, limit in enumerate([1, 2, 9, 20, 40, 55]):
        source = random_sources(seed, 1, longest=12)[0] if task == "translate" else [START, 4 + seed, 9]
        for speculate in (1, 3, 7):
            arguments: Any = (MODELS[task], source, limit, (9, 4)[: seed % 3 if limit > 2 else 0])
            plain, _, stepped = _decoded(*arguments, **OPTIONS[name])
            found, timings, engine = _decoded(*arguments, speculate=speculate, **OPTIONS[name])
            assert found == plain
            counts = timings.speculation
            assert counts is not None
            assert counts.passes == 1 + engine.runs[0].steps + engine.runs[0].passes
            assert counts.passes + counts.accepted == 1 + stepped.runs[0].steps
            assert counts.accepted <= counts.proposed <= speculate * engine.runs[0].passes
            accepted += counts.accepted
    assert accepted, "nothing was speculated, so this shows nothing"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 40),
    st.sampled_from(["encoder-decoder", "decoder"]),
    st.lists(st.integers(4, 23), min_size=1, max_size=14),
    st.integers(1, 60),
    st.integers(1, 7),
)
def test_greedy_is_the_naive_decode(seed: int, kind: Any, source: list[int], limit: int, speculate: int) -> None:
    """Against a decode that reads the whole text again for every token, up to the last position there is."""
    model = tiny_model(seed % 4, kind, end_bias=-1.0)
    text = [*source, END] if kind == "encoder-decoder" else [START, *source]
    limit = min(limit, model.config.max_positions + 1 - (1 if model.encoder else len(text)))
    expected = decode.greedy(model, text, limit)
    [found], _, _ = _decoded(model, text, limit, speculate=speculate)
    assert found.tokens == expected.tokens
    assert found.finish_reason == expected.finish_reason
    assert found.token_log_probs == pytest.approx(expected.token_log_probs, abs=1e-5)


def test_a_search_may_end_between_tokens_of_one_pass() -> None:
    """A deadline and a cancellation are looked at after every token."""
    source = random_sources(4, 1, longest=12)[0]
    spec = ModelSpec.from_json(MODELS["translate"].config.to_json())
    request = Request(source=Prepared(ids=tuple(source)), limit=40)
    plain = _decoded(MODELS["translate"], source, 40)[0][0]
    for after in range(1, len(plain.tokens)):
        engine = TorchEngine(MODELS["translate"])
        steps = start_search(engine, spec, [request], DecodingOptions(speculate=7), Tally())
        for _ in range(after):
            next(steps)
        with pytest.raises(StopIteration) as ended:
            steps.send("cancelled")
        [[found]] = ended.value.value
        assert (found.tokens, found.finish_reason) == (plain.tokens[:after], "cancelled")


# --- a session --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session() -> Session:
    return session_for("generate", 11)


def test_texts_go_one_by_one_and_say_what_it_brought(session: Session) -> None:
    texts = ["A man is riding a man is riding", "Two dogs", "A woman, a hat, a woman, a hat, a"]
    plain = session.generate(texts, max_new_tokens=30)
    found = session.generate(texts, max_new_tokens=30, speculate=4)
    assert [g.hypotheses for g in found] == [g.hypotheses for g in plain]
    assert [g.timings.batch for g in found] == [1, 1, 1]
    counts = [g.timings.speculation for g in found]
    for one, generation in zip(counts, found, strict=True):
        assert isinstance(one, Speculation)
        assert one.passes + one.accepted == len(generation.tokens)
    assert sum(one.accepted for one in counts if one) > 0
    assert plain[0].timings.speculation is None


def test_streams(session: Session) -> None:
    for options in ({}, {"stop": ["ing"]}, {"sampling": Sampling(seed=2, temperature=0.3)}, {"no_repeat_ngram": 5}):
        arguments: Any = {"max_new_tokens": 25, **options}
        pieces = list(session.stream("Two dogs run on the", speculate=5, **arguments))
        assert pieces == list(session.stream("Two dogs run on the", **arguments))


def test_cancelled_before_the_first_token(session: Session) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    found = session.generate("A hat", speculate=3, cancellation=cancellation)
    assert (found.hypotheses[0].finish_reason, found.tokens) == ("cancelled", ())


def test_more_than_a_pass_reads_is_refused(session: Session) -> None:
    with pytest.raises(InputError, match=r"speculate \(8\) must be at most 7: cpu-fp32 reads 8 tokens at once, and"):
        session.generate("A hat", speculate=8)


@pytest.mark.parametrize(
    ("variant", "remedy"),
    [
        ("openvino-fp32", "OpenVINO's cache takes no token back; open target 'cpu'"),
        ("cpu-int8-fast", "its numbers depend on what is read together; open precision 'int8'"),
        ("cpu-fp32", "made before there was one; export it again, or leave speculate out"),
    ],
)
def test_without_a_graph_for_it_the_remedy_is_named(variant: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchEngine, "verify_tokens", 0)
    session = session_for("generate")
    made = manifest("generate", model_for("generate"), variants=(variant,))
    monkeypatch.setattr(session, "variant", made.variants[0])
    for call in (session.generate, session.stream):
        lacks = rf"speculate \(3\) needs the graph 'verify', which {variant} lacks: .*{remedy}"
        with pytest.raises(InputError, match=lacks):
            call("A hat", speculate=3)


def test_a_bundle_whose_default_are_beams_asks_for_one() -> None:
    beams = Generation(beam_size=4, length_penalty=0.6, max_new_tokens=None)
    session = session_for("translate", changes={"generation": beams})
    with pytest.raises(InputError, match=r"speculate \(2\) needs one sequence a text, .* ask for 4: pass beam_size=1"):
        session.translate("A hat", speculate=2)
    assert session.translate("A hat", speculate=2, sampling=Sampling(seed=1)).timings.speculation is not None


def test_texts_that_share_steps_do_not_speculate() -> None:
    session = session_for("translate")
    with pytest.raises(InputError, match=r"speculate \(4\) .* leave out speculate, or translate and stream it alone"):
        session.translate_iter(["A dog."], speculate=4, continuous=True)
