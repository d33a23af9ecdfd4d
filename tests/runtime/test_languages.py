"""Languages that requests choose: what stands where, what is refused, and that every way to decode takes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgewise.errors import BundleFormatError, ConfigError, InputError
from edgewise.models import decode
from edgewise.models.config import ModelConfig
from edgewise.models.languages import LanguageConfig
from edgewise.runtime.bundle.model_spec import ModelSpec
from edgewise.runtime.bundle.schema import dump_json, from_json, parse_json, to_json
from edgewise.runtime.languages import Directions
from edgewise.runtime.session import Session

from ..tiny import END, START, tiny_model
from .tiny_session import manifest, model_for, session_for, tokenizer
from .torch_engine import TorchEngine

CODES = {"de": 5, "en": 6, "fr_FR": 7}


def config_with(**languages: Any) -> ModelConfig:
    given: dict[str, Any] = {"tokens": CODES, "target": "forced", "source": "before", **languages}
    return replace(tiny_model(0).config, languages=LanguageConfig(**given))


def spec_with(**languages: Any) -> ModelSpec:
    return ModelSpec.from_json(config_with(**languages).to_json())


PLACES = {
    "before and forced": ("before", "forced", (5, 9, END), (START, 7)),
    "after and in place of the start": ("after", "start", (9, END, 5), (7,)),
    "no source, before the text": (None, "source", (7, 9, END), (START,)),
    "after and before the text": ("after", "source", (7, 9, END, 5), (START,)),
    "no source and forced": (None, "forced", (9, END), (START, 7)),
}


@pytest.mark.parametrize("case", PLACES)
def test_where_tokens_of_languages_stand(case: str) -> None:
    source, target, read, prompt = PLACES[case]
    spec = spec_with(source=source, target=target)
    chosen = spec.directed("de" if source else None, "fr_FR")
    assert chosen.source((9,)) == read
    assert chosen.decoder_prompt == prompt
    assert spec.prompt_length == chosen.prompt_length == len(prompt)


def test_they_are_read_back_as_they_were_written() -> None:
    config = config_with(default_source="de", default_target="en")
    assert ModelConfig.from_json(config.to_json()) == config
    spec = ModelSpec.from_json(config.to_json())
    assert from_json(ModelSpec, parse_json(dump_json(to_json(spec)), "x"), "x") == spec
    assert "languages" not in to_json(ModelSpec.from_json(tiny_model(0).config.to_json()))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no languages": ({"tokens": {}}, "tokens must be 1 to 4096 languages"),
    "no mapping": ({"tokens": ["de"]}, "tokens must be 1 to 4096 languages by their codes; they are .*'de'"),
    "odd code": ({"tokens": {"d e": 5}}, "'d e' must be a language's code: a letter"),
    "no token": ({"tokens": {"de": "5"}}, r"the token of 'de' \('5'\) must be an integer"),
    "place": ({"source": "beside"}, r"source \('beside'\) must be one of 'before', 'after', None"),
    "other place": ({"target": None}, r"target \(None\) must be one of 'forced', 'start', 'source'"),
    "default": ({"default_target": "es"}, r"default_target \('es'\) must be one of de, en, fr_FR"),
    "both before": ({"target": "source"}, "the tokens of both languages cannot stand before a text"),
    "nowhere": ({"source": None, "default_source": "de"}, r"default_source \('de'\) belongs to languages of sources"),
    "beyond": ({"tokens": {"de": 24}}, r"the token of language 'de' \(24\) must be a token id below vocab_size \(24\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_configurations_that_are_refused(case: str) -> None:
    change, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        config_with(**change)


def test_a_token_that_stands_where_a_languages_does() -> None:
    config = config_with()
    for change, message in (
        ({"forced_id": 4}, r"forced_id \(4\) stands where a language's token does"),
        ({"source_start_id": 4}, r"source_start_id \(4\) stands where a language's token does"),
        ({"encoder": None}, "languages belong to an encoder-decoder, not to one stack alone"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(config, **change)
    with pytest.raises(ConfigError, match=r"source_last_id \(4\) stands where a language's token does"):
        replace(config_with(source="after"), source_last_id=4)


TAMPERED: dict[str, tuple[dict[str, Any], str]] = {
    "code": ({"tokens": {"../x": 5}}, "a key of languages.tokens is '../x', expected a short plain name"),
    "token": ({"tokens": {"de": -1}}, "languages.tokens.de is -1, expected 0 to"),
    "many": ({"tokens": {f"a{i}": 5 for i in range(4097)}}, "expected 1 to 4096 members"),
    "beyond": ({"tokens": {"de": 24}}, "the token of language 'de' must be below vocab_size"),
    "default": ({"default_target": "es"}, r"default_target \('es'\) must be one of its languages"),
    "both before": ({"target": "source"}, "the tokens of both languages cannot stand before a text"),
    "nowhere": ({"source": None, "default_source": "de"}, r"default_source \('de'\) belongs to languages of sources"),
    "place": ({"target": "end"}, "languages.target is 'end', expected one of 'forced', 'start', 'source'"),
    "unknown": ({"colour": 1}, "languages has unknown fields 'colour'"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_bundles_that_are_refused(case: str) -> None:
    change, message = TAMPERED[case]
    data = config_with().to_json()
    data["languages"] |= change
    with pytest.raises(BundleFormatError, match=message):
        ModelSpec.from_json(data)


def test_contradictions_in_a_bundle() -> None:
    data = config_with().to_json()
    with pytest.raises(BundleFormatError, match=r"forced_id \(4\) stands where a language's token does"):
        ModelSpec.from_json({**data, "forced_id": 4})
    with pytest.raises(BundleFormatError, match="languages belong to an encoder beside a decoder"):
        ModelSpec.from_json({**data, "decoder": None})


def session_with(**languages: Any) -> Session:
    """A tiny translator with languages whose tokens are those of its tokenizer."""
    given: dict[str, Any] = {"tokens": CODES, "target": "forced", "source": "before", **languages}
    model = model_for("translate", 3)
    model.config = replace(model.config, languages=LanguageConfig(**given))
    made = manifest("translate", model, languages=None)
    found = session_for("translate", 3)
    found.bundle = replace(found.bundle, manifest=made)
    return Session(found.bundle, made.variants[0], TorchEngine(model), tokenizer())


def test_texts_of_one_batch_are_as_the_naive_search_decodes_each() -> None:
    session = session_with()
    texts, sources, targets = ["A man", "Two dogs run", "A hat"], ["de", "en", "fr_FR"], ["fr_FR", "de", "en"]
    found = session.translate(texts, source=sources, target=targets, max_new_tokens=8)
    model = session.engine.model  # type: ignore[attr-defined]
    for text, source, target, result in zip(texts, sources, targets, found, strict=True):
        read = [CODES[source], *tokenizer().encode(text), END]
        model.config = replace(model.config, languages=None, forced_id=CODES[target])
        expected = decode.greedy(model, read, 8)
        assert list(result.source_tokens) == read
        assert result.tokens == expected.tokens
        iterated = list(session.translate_iter([text], source=source, target=target, max_new_tokens=8))
        assert iterated[0].tokens == expected.tokens


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unknown": ({}, {"source": "de", "target": "es"}, r"target \('es'\) must be a language of bundle 'tiny': de, en,"),
    "none": ({}, {"source": "de"}, r"bundle 'tiny': de, en, fr_FR; target= names it, or --to$"),
    "no source": ({}, {"target": "de"}, r"source \(None\) must be a language of bundle 'tiny'"),
    "no string": ({}, {"target": 5}, r"target \(5\) must be a language, or a list of one for each of 2 texts"),
    "too few": ({}, {"target": ["de"]}, "must be a language, or a list of one for each of 2 texts"),
    "no string in it": ({}, {"source": "de", "target": ["de", 5]}, r"target \(5\) must be a language's code, or None"),
    "not asked": ({"source": None}, {"source": "de", "target": "de"}, "without being told their language: leave out"),
}


@pytest.mark.parametrize("case", WRONG)
def test_requests_that_are_refused(case: str) -> None:
    languages, arguments, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        session_with(**languages).translate(["A man", "Two dogs"], **arguments)


def test_defaults_are_taken_where_nobody_chooses() -> None:
    session = session_with(default_source="de", default_target="en")
    (plain,) = session.translate(["A man"], max_new_tokens=4)
    (chosen,) = session.translate(["A man"], source="de", target="en", max_new_tokens=4)
    assert (plain.tokens, plain.source_tokens) == (chosen.tokens, chosen.source_tokens)
    free = Directions(session_with(source=None, target="source").manifest)
    assert free.of(None, None).source((9,)) == (9, END)


def test_an_empty_code_is_no_language() -> None:
    session = session_with(default_source="de", default_target="en")
    for name in ("source", "target"):
        with pytest.raises(InputError, match=rf"{name} \(''\)"):
            session.translate(["A man"], **{name: ""})


def test_a_bundle_of_two_languages_takes_these_two() -> None:
    session = session_for("translate", 1)
    assert session.translate("A man", source="en", target="de").tokens == session.translate("A man").tokens
    with pytest.raises(InputError, match=r"target \('fr'\): bundle 'tiny' translates en to de only; leave it out"):
        session.translate("A man", target="fr")
    with pytest.raises(InputError, match=r"source \('en'\): bundle 'tiny' has no languages to choose from; leave it"):
        session_for("generate").generate("A man", source="en")


def test_a_document_is_in_one_language() -> None:
    """Which is also that of its sentences, if nobody says otherwise."""
    session = session_with(default_source="de", default_target="en")
    for given in ({}, {"source": "fr_FR"}, {"target": "de"}):
        found = session.translate_document("A man. A hat.", max_new_tokens=4, **given)  # type: ignore[arg-type]
        alone = session.translate(["A man.", "A hat."], max_new_tokens=4, **given)  # type: ignore[call-overload]
        assert [s.result.tokens for s in found.sentences] == [g.tokens for g in alone]
    with pytest.raises(InputError, match=r"source \(\['de', 'en'\]\) must be a language's code, or None"):
        session.translate_document("A man. A hat.", source=["de", "en"])
    with pytest.raises(InputError, match="this bundle does not say which language it reads"):
        session_with(source=None, target="source").translate_document("A man.", target="de")
