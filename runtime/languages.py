"""Which languages a request translates between: checked, and what the model of a bundle is for them."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError
from .bundle.manifest import Languages, Manifest
from .bundle.model_spec import ModelSpec

Language = str | Sequence[str] | None
"""A language for all texts, or one for each; ``None``: the bundle's own."""


class Directions:
    """The model of a bundle for each pair of languages that is asked for, made once."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._made: dict[tuple[str | None, str | None], ModelSpec] = {}

    def of_each(self, source: Language, target: Language, texts: int) -> list[ModelSpec]:
        """What the model is for each of so many ``texts``.

        Raises:
            InputError: not one language for all and not as many as texts; or as :meth:`of`.
        """
        sides = (_each("source", source, texts), _each("target", target, texts))
        return [self.of(*pair) for pair in zip(*sides, strict=True)]

    def of(self, source: object, target: object) -> ModelSpec:
        """What the model is for one pair.

        Raises:
            InputError: a language is no string or not one of the bundle's, or one is needed and not given.
        """
        for name, code in (("source", source), ("target", target)):
            if code is not None and not isinstance(code, str):
                raise InputError(f"{name} ({code!r}) must be a language's code, or None")
        return self._of(source, target)  # type: ignore[arg-type]

    def _of(self, source: str | None, target: str | None) -> ModelSpec:
        if (source, target) not in self._made:
            self._made[source, target] = self._directed(source, target)
        return self._made[source, target]

    def _directed(self, source: str | None, target: str | None) -> ModelSpec:
        manifest = self._manifest
        if manifest.model.languages is None:
            _check_only(manifest, source, target)
            return manifest.model
        return directed(manifest.model, manifest.name, source, target)


def directed(model: ModelSpec, name: str, source: str | None, target: str | None) -> ModelSpec:
    """What a ``model`` of several languages is for one pair, those that are left out being its own by default.

    Raises:
        InputError: a language is not one of the model's, or one is needed and not given. The message calls it ``name``.
    """
    languages = model.languages
    assert languages is not None
    source = languages.default_source if source is None else source
    target = languages.default_target if target is None else target
    if languages.source is None and source is not None:
        raise InputError(
            f"bundle {name!r} reads texts without being told their language: leave out source ({source!r})"
        )
    needed = {"source": languages.source is not None, "target": languages.target != "source"}
    for side, code, option in (("source", source, "--from"), ("target", target, "--to")):
        if code not in languages.tokens and (code is not None or needed[side]):
            known = ", ".join(languages.tokens)
            raise InputError(
                f"{side} ({code!r}) must be a language of bundle {name!r}: {known}; {side}= names it, or {option}"
            )
    return model.directed(source, target)


def _each(name: str, language: Language, texts: int) -> Sequence[str | None]:
    if language is None or isinstance(language, str):
        return [language] * texts
    if not isinstance(language, list | tuple) or len(language) != texts:
        raise InputError(f"{name} ({language!r}) must be a language, or a list of one for each of {texts} texts")
    return language


def _check_only(manifest: Manifest, source: str | None, target: str | None) -> None:
    """Refuse languages of which a bundle knows nothing, or other ones than its two."""
    only: Languages | None = manifest.languages
    for name, code in (("source", source), ("target", target)):
        if code is not None and (only is None or code != getattr(only, name)):
            has = f"translates {only.source} to {only.target} only" if only else "has no languages to choose from"
            raise InputError(f"{name} ({code!r}): bundle {manifest.name!r} {has}; leave it out")
