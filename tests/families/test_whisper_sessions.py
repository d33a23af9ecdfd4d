"""Sessions that write speech down, against ``generate`` of ``transformers``: tokens, languages, segments."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import edgewise
from edgewise.errors import ContextLengthError, InputError
from edgewise.runtime.load import load
from edgewise.runtime.session import Session

from .whisper_folders import (
    CASES,
    LANGUAGES,
    library_whisper,
    random_features,
    whisper_bundle,
    whisper_tokenizer,
)

pytestmark = pytest.mark.slow
SEVERAL, ONE = CASES
TARGETS = ("cpu", "openvino")
LIMIT = 14
PREVIOUS = "ask not what your country can do"


@cache
def opened(case: str, target: str = "cpu", precision: str = "fp32") -> Session:
    return load(whisper_bundle(case), target, precision, threads=1)


@cache
def library(case: str) -> Any:
    return library_whisper(whisper_bundle(case).with_name("tiny-whisper"))


@cache
def windows(case: str) -> NDArray[np.float32]:
    """Four windows, in which two languages are detected."""
    bands = library(case).config.num_mel_bins
    loud = [3 * random_features(bands, 2, 3), 10 * random_features(bands, 2, 3)]
    return torch.cat(loud).numpy()


def by_library(case: str, features: NDArray[np.float32], **options: Any) -> list[list[int]]:
    """New tokens, the end token among them."""
    model, ids = library(case), whisper_tokenizer().token_to_id
    found = model.generate(
        torch.from_numpy(features), max_new_tokens=LIMIT, force_unique_generate_call=True, **options
    ).tolist()
    steered = (1 if case == ONE else 3) + (not options.get("return_timestamps"))
    new = [row[row.index(ids("<|startoftranscript|>")) + steered :] for row in found]
    end = ids("<|endoftext|>")
    return [row[: row.index(end) + 1] if end in row else row for row in new]


def previous_ids() -> torch.Tensor:
    tokenizer = whisper_tokenizer()
    return torch.tensor([tokenizer.token_to_id("<|startofprev|>"), *tokenizer.encode(f" {PREVIOUS}").ids])


BEAMS = {"num_beams": 3, "renormalize_logits": True}
ASKED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "detected": (SEVERAL, {}, {"task": "transcribe"}),
    "translated": (SEVERAL, {"language": "de", "task": "translate"}, {"language": "de", "task": "translate"}),
    "with times": (SEVERAL, {"language": "yue", "timestamps": True}, {"language": "yue", "return_timestamps": True}),
    "detected, with times, by beams": (
        SEVERAL,
        {"timestamps": True, "beam_size": 3},
        {"task": "transcribe", "return_timestamps": True, **BEAMS},
    ),
    "by beams": (SEVERAL, {"language": "en", "beam_size": 3}, {"language": "en", **BEAMS}),
    "no n-gram twice": (
        SEVERAL,
        {"language": "en", "no_repeat_ngram": 2},
        {"language": "en", "no_repeat_ngram_size": 2},
    ),
    "after a text": (
        SEVERAL,
        {"language": "en", "previous": PREVIOUS, "repetition_penalty": 1.5},
        {"language": "en", "repetition_penalty": 1.5},
    ),
    "one language": (ONE, {"no_repeat_ngram": 1}, {"no_repeat_ngram_size": 1}),
    "one language, with times": (ONE, {"timestamps": True}, {"return_timestamps": True}),
    "one language, with times, by beams": (
        ONE,
        {"timestamps": True, "beam_size": 3, "no_repeat_ngram": 2},
        {"return_timestamps": True, "no_repeat_ngram_size": 2, **BEAMS},
    ),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("asked", ASKED)
def test_tokens_are_those_of_generate(asked: str, target: str) -> None:
    case, ours, theirs = ASKED[asked]
    if "previous" in ours:
        theirs = {**theirs, "prompt_ids": previous_ids()}
    found = opened(case, target).transcribe(windows(case), **{"beam_size": 1, "max_new_tokens": LIMIT, **ours})
    assert [list(one.tokens) for one in found] == by_library(case, windows(case), **theirs)
    for one in found:
        assert one.text == whisper_tokenizer_text(one.tokens)
        assert one.finish_reason == ("end" if one.tokens[-1] == library(case).config.eos_token_id else "length")
        assert one.score == pytest.approx(sum(one.hypotheses[0].token_log_probs))


def whisper_tokenizer_text(tokens: tuple[int, ...]) -> str:
    words = [token for token in tokens if token < whisper_tokenizer().token_to_id("<|endoftext|>")]
    return whisper_tokenizer().decode(words).strip()


@pytest.mark.parametrize("target", TARGETS)
@torch.no_grad()
def test_languages_and_silence_are_those_of_the_librarys_first_step(target: str) -> None:
    model, features = library(SEVERAL), torch.from_numpy(windows(SEVERAL))
    start = torch.full((len(features), 1), model.config.decoder_start_token_id)
    logits = model(features, decoder_input_ids=start).logits[:, 0]
    ids = [whisper_tokenizer().token_to_id(f"<|{code}|>") for code in LANGUAGES]
    found = opened(SEVERAL, target).transcribe(windows(SEVERAL), max_new_tokens=1)
    detected = [whisper_tokenizer().token_to_id(f"<|{one.language}|>") for one in found]
    assert detected == model.detect_language(features).tolist()
    assert len(set(detected)) == 2
    for one, row in zip(found, logits, strict=True):
        assert one.language_probability == pytest.approx(float(row[ids].softmax(-1).max()), abs=1e-5)
        nothing = whisper_tokenizer().token_to_id("<|nospeech|>")
        assert one.no_speech_probability == pytest.approx(float(row.softmax(-1)[nothing]), rel=1e-3)
    given = opened(SEVERAL, target).transcribe(windows(SEVERAL), language=["de", None, "en", "yue"], max_new_tokens=1)
    assert [one.language for one in given] == ["de", found[1].language, "en", "yue"]
    assert [one.language_probability is None for one in given] == [True, False, True, True]
    assert opened(ONE, target).transcribe(windows(ONE)[0], max_new_tokens=1).language is None


def test_segments_are_those_of_the_library() -> None:
    features, first = windows(SEVERAL), whisper_tokenizer().token_to_id("<|0.00|>")
    found = opened(SEVERAL).transcribe(features, language="en", timestamps=True, beam_size=1, max_new_tokens=30)
    theirs = library(SEVERAL).generate(
        torch.from_numpy(features), language="en", return_timestamps=True, return_segments=True, max_new_tokens=30
    )["segments"]
    ended = [pair for pair in zip(found, theirs, strict=True) if pair[0].finish_reason == "end"]
    assert len(ended) > 1  # of the others the library reads on where the last segment ended
    for one, segments in ended:
        assert len(one.segments) == len(segments) > 1
        for ours, other in zip(one.segments, segments, strict=True):
            assert (ours.start, ours.end) == pytest.approx((float(other["start"]), float(other["end"])))
            assert list(ours.tokens) == [token for token in other["tokens"].tolist() if token < first]
        assert "".join(segment.text for segment in one.segments).strip() == one.text


def test_one_window_or_a_batch_in_any_batches() -> None:
    session, features, told = opened(SEVERAL), windows(SEVERAL), list[tuple[int, int]]()
    asked: dict[str, Any] = {"timestamps": True, "max_new_tokens": LIMIT, "previous": ["", "a b c", "", "a b c d"]}
    together = session.transcribe(features, **asked)
    apart = session.transcribe(features, batch_size=1, progress=lambda done, of: told.append((done, of)), **asked)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for i, (one, other) in enumerate(zip(together, apart, strict=True)):
        alone = session.transcribe(features[i], **{**asked, "previous": asked["previous"][i]})
        assert one.tokens == other.tokens == alone.tokens
        assert one.hypotheses[0].token_log_probs == pytest.approx(alone.hypotheses[0].token_log_probs, abs=1e-5)
    assert session.transcribe(features[:0]) == []


STREAMED: list[dict[str, Any]] = [
    {},
    {"beam_size": 3},
    {"timestamps": True},
    {"prefix": "what"},
    {"stop": ["H"]},
    {"stop": ["F"], "timestamps": True},
]


@pytest.mark.parametrize("options", STREAMED, ids=str)
def test_a_stream_joins_to_the_text(options: dict[str, Any]) -> None:
    options = {"beam_size": 1, "max_new_tokens": LIMIT, "no_repeat_ngram": 2, **options}
    session, window = opened(SEVERAL), windows(SEVERAL)[2]
    whole = session.transcribe(window, **options)
    pieces = [*session.transcribe_stream(window, **options)]
    assert "".join(pieces).rstrip() == whole.text
    assert whole.text.startswith(options.get("prefix", ""))
    assert (whole.finish_reason == "stop") == ("stop" in options)


def test_a_stream_is_of_the_features_that_it_was_given() -> None:
    session, window = opened(SEVERAL), windows(SEVERAL)[2].copy()
    expected = session.transcribe(window, beam_size=1, max_new_tokens=LIMIT)
    pieces = session.transcribe_stream(window, max_new_tokens=LIMIT)
    window[:] = windows(SEVERAL)[0]
    assert "".join(pieces).rstrip() == expected.text


def test_segments_end_before_a_stop_string() -> None:
    session, window = opened(SEVERAL), windows(SEVERAL)[2]
    asked: dict[str, Any] = {"timestamps": True, "beam_size": 1, "max_new_tokens": LIMIT}
    whole = session.transcribe(window, **asked)
    stop = whole.text[len(whole.text) // 2 :][:2]
    found = session.transcribe(window, stop=[stop], **asked)
    assert found.finish_reason == "stop"
    assert "".join(segment.text for segment in found.segments).strip() == found.text
    assert found.text == whole.text[: whole.text.index(stop)].rstrip()


def test_segments_end_where_a_stop_string_begins() -> None:
    session, window, ids = opened(SEVERAL), windows(SEVERAL)[0], range(whisper_tokenizer().get_vocab_size())
    broken = [token for token in ids if "\ufffd" in whisper_tokenizer().decode([token])]  # parts of characters
    bias = dict.fromkeys(set(range(256)) - set(broken), 2.0)  # or there are hardly any words between the times
    asked: dict[str, Any] = {"timestamps": True, "beam_size": 1, "no_repeat_ngram": 1, "max_new_tokens": 20}
    asked |= {"suppress": [[token] for token in broken], "logit_bias": bias}
    one, two, three = session.transcribe(window, **asked).segments
    expected = {
        two.text: [one],
        two.text[2:4]: [one, replace(two, text=two.text[:2], end=None)],
        two.text[-1] + three.text[0]: [one, replace(two, text=two.text[:-1], end=None)],
        one.text: [],
    }
    for stop, said in expected.items():
        found = session.transcribe(window, **asked, stop=[stop])
        assert found.finish_reason == "stop"
        assert [(s.start, s.end, s.text) for s in found.segments] == [(s.start, s.end, s.text) for s in said]
        assert found.text == "".join(segment.text for segment in said).strip()


def test_options_of_decoding() -> None:
    session, window = opened(SEVERAL), windows(SEVERAL)[0]
    best = session.transcribe(window, language="en", beam_size=4, n_best=3, max_new_tokens=LIMIT)
    assert len({h.tokens for h in best.hypotheses}) == 3
    assert [h.normalized_score for h in best.hypotheses] == sorted(h.normalized_score for h in best.hypotheses)[::-1]
    draw = edgewise.Sampling(seed=3, samples=2, temperature=2.0)
    drawn, again = (session.transcribe(window, language="en", sampling=draw, max_new_tokens=9) for _ in range(2))
    assert drawn.hypotheses == again.hypotheses
    assert len(drawn.hypotheses) == 2
    least = session.transcribe(window, language="en", beam_size=1, suppress=[[292]], max_new_tokens=LIMIT)
    assert not {1, 2, 7, 292} & set(least.tokens)
    assert least.tokens[0] not in (220, whisper_tokenizer().token_to_id("<|endoftext|>"))
    assert session.transcribe(window, language="en").finish_reason in ("end", "length")
    assert len(session.transcribe(window, language="en", beam_size=1).tokens) <= 32  # half of the context


def test_what_ends_a_result_early() -> None:
    session, features, cancellation = opened(SEVERAL), windows(SEVERAL), edgewise.Cancellation()
    assert {one.finish_reason for one in session.transcribe(features, deadline=0)} == {"deadline"}
    cancellation.cancel()
    (one,) = session.transcribe(features[:1], cancellation=cancellation)
    assert (one.finish_reason, one.tokens, one.text, one.language) == ("cancelled", (), "", None)
    assert [*session.transcribe_stream(features[0], cancellation=cancellation)] == []


def test_a_stream_that_is_over_before_it_begins_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    session, window, cancellation = opened(SEVERAL), windows(SEVERAL)[0], edgewise.Cancellation()
    stream = session.transcribe_stream(window, cancellation=cancellation)
    cancellation.cancel()
    monkeypatch.setattr(session.engine, "encode_features", lambda _: pytest.fail("a window was encoded"))
    assert [*stream] == []
    assert [*session.transcribe_stream(window, deadline=0)] == []


def silence(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


def test_awaited_it_is_the_same() -> None:
    session, features, cancellation = opened(SEVERAL), windows(SEVERAL), edgewise.Cancellation()
    asked: dict[str, Any] = {"timestamps": True, "max_new_tokens": LIMIT}

    async def both() -> tuple[Any, Any, Any]:
        async with edgewise.AsyncSession(session, 1) as together:
            several, one = await asyncio.gather(
                together.transcribe(features, **asked), together.transcribe(features[1], **asked)
            )
            cancellation.cancel()
            return several, one, await together.transcribe(features[1], cancellation=cancellation)

    several, one, cancelled = asyncio.run(both())
    expected = session.transcribe(features, **asked)
    assert [result.hypotheses for result in several] == [result.hypotheses for result in expected]
    assert one.tokens == expected[1].tokens
    assert cancelled.finish_reason == "cancelled"


def changed(place: tuple[int, ...], value: float) -> NDArray[np.float32]:
    features = windows(SEVERAL).copy()
    features[place] = value
    return features


FEATURES: dict[str, Any] = {
    "features is list, expected a NumPy array of float32": lambda: [[0.0]],
    r"float64, expected float32: pass features.astype\(numpy.float32\)": lambda: np.zeros((8, 60)),
    r"features have shape \(60,\), expected \(windows, 8, 60\)": lambda: silence(60),
    "features have 7 bands, and this model hears 8": lambda: silence(1, 7, 60),
    r"80 frames \(0.8 s\), more than a window of 60 \(0.6 s\): cut the sound": lambda: silence(8, 80),
    r"40 frames \(0.4 s\), fewer than a window of 60 \(0.6 s\): pad the sound": lambda: silence(2, 8, 40),
    "the features of window 2 hold NaN or infinity": lambda: changed((2, 3, 4), np.nan),
    "the features of window 0 hold NaN or infinity": lambda: changed((0, 0, 59), -np.inf),
}


@pytest.mark.parametrize("message", FEATURES)
def test_features_that_are_refused(message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened(SEVERAL).transcribe(FEATURES[message]())


ARGUMENTS: dict[str, dict[str, Any]] = {
    r"language \('xx'\) must be None, or one of bundle 'tiny-whisper': en, de, yue": {"language": "xx"},
    r"language \(3\) must be a string, or a list of one for each of 4 windows": {"language": 3},
    r"language \(\['en'\]\) must be a string, or a list of one for each of 4 windows": {"language": ["en"]},
    r"task \('sing'\) must be 'transcribe' or 'translate'": {"task": "sing"},
    r"timestamps \(1\) must be True or False": {"timestamps": 1},
    "prefix and timestamps contradict each other": {"timestamps": True, "prefix": "a"},
    r"previous \(3\) must be a string, or a list of one for each of 4 windows": {"previous": 3},
    r"previous \(None\) must be a string, or a list of strings": {"previous": None},
    r"prefix \(\['a'\]\) must be a string, or a list of one for each of 4 texts": {"prefix": ["a"]},
    r"prefix \(\[None, 'a', 'a', 'a'\]\) must be a string, or a list of strings": {"prefix": [None, "a", "a", "a"]},
    "transcribe takes no grammar, it takes ": {"grammar": edgewise.Grammar(regex="a")},
    r"batch_size \(0\) must be an integer of at least 1": {"batch_size": 0},
    r"beam_size \(999\) must be at most \d+, half of the vocabulary": {"beam_size": 999},
}


@pytest.mark.parametrize("message", ARGUMENTS)
def test_arguments_that_are_refused(message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened(SEVERAL).transcribe(windows(SEVERAL), **ARGUMENTS[message])


def test_more_tokens_than_the_context_has_room_for() -> None:
    with pytest.raises(ContextLengthError, match=r"max_new_tokens \(62\) does not fit: a prompt of 4 tokens"):
        opened(SEVERAL).transcribe(windows(SEVERAL)[0], max_new_tokens=62)
    with pytest.raises(ContextLengthError, match=r"min_new_tokens \(40\) does not fit: a prompt of 36 tokens"):
        opened(SEVERAL).transcribe(windows(SEVERAL)[0], previous="a " * 50, min_new_tokens=40)


def test_fewer_tokens_than_a_bundle_recommends_where_a_prompt_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(whisper_bundle(SEVERAL), "cpu", "fp32", threads=1)
    assert session.manifest.generation is not None
    generation = replace(session.manifest.generation, max_new_tokens=63)
    monkeypatch.setattr(session, "manifest", replace(session.manifest, generation=generation))
    found = session.transcribe(windows(SEVERAL)[0], beam_size=1, suppress=["<|endoftext|>"])
    assert (len(found.tokens), found.finish_reason) == (61, "length")


def test_prefixes_are_refused_before_anything_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    session, heard = load(whisper_bundle(SEVERAL), "cpu", "fp32", threads=1), list[int]()
    monkeypatch.setattr(session.engine, "encode_features", lambda *_: heard.append(1), raising=False)
    with pytest.raises(InputError, match="the prefix of window 3 has 12 tokens and a result 3 at most"):
        session.transcribe(windows(SEVERAL), batch_size=1, max_new_tokens=3, prefix=["", "", "", "a b c d e f g"])
    assert not heard


def test_what_one_language_and_other_bundles_refuse() -> None:
    session, window = opened(ONE), windows(ONE)[0]
    with pytest.raises(InputError, match=r"language \('en'\): bundle 'tiny-whisper' knows one language"):
        session.transcribe(window, language="en")
    with pytest.raises(InputError, match=r"task \('translate'\): bundle 'tiny-whisper' knows one language"):
        session.transcribe(window, task="translate")
    with pytest.raises(InputError, match=r"translate needs a bundle made for translate; .* call transcribe"):
        session.translate("a")
    with pytest.raises(InputError, match="transcribe_stream takes one window, and there are 4: call transcribe"):
        session.transcribe_stream(windows(ONE))
    with pytest.raises(InputError, match="transcribe_stream gives one result, and several are asked for"):
        session.transcribe_stream(window, beam_size=2, n_best=2)
    with load(threads=1) as other, pytest.raises(InputError, match="transcribe needs a bundle made for transcribe"):
        other.transcribe(window)


def test_a_tokenizer_without_the_token_before_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    session = load(whisper_bundle(ONE), "cpu", "fp32", threads=1)
    model = session.manifest.model
    assert model.speech is not None
    changed_model = replace(model, speech=replace(model.speech, previous_id=None))
    monkeypatch.setattr(session, "manifest", replace(session.manifest, model=changed_model))
    with pytest.raises(InputError, match=r"previous \('a'\): the tokenizer of bundle .* has no <\|startofprev\|>"):
        session.transcribe(windows(ONE), previous="a")
