"""Texts of many sentences: split, translated sentence by sentence, and joined as they stood."""

from __future__ import annotations

from typing import Unpack

from ..errors import InputError
from .arguments import check_names
from .bundle.manifest import Manifest
from .keywords import DecodingArguments
from .languages import Directions, Language
from .results import Document, Generation, TranslatedSentence
from .sentences import sentence_spans
from .tokenizer import check_text

_WHOLE = ("prefix", "prefix_bias")
"""What is said of one result, and no part of it."""


class Documents:
    """The part of a :class:`~edgewise.runtime.session.Session` that translates texts of many sentences."""

    manifest: Manifest
    _directions: Directions

    def _require(self, method: str, *tasks: str) -> None:
        raise NotImplementedError

    def _decode(self, texts: list[str], arguments: DecodingArguments) -> list[Generation]:
        raise NotImplementedError

    def translate_document(
        self, text: str, *, language: str | None = None, **arguments: Unpack[DecodingArguments]
    ) -> Document:
        """Translate a text of any length sentence by sentence; what is between sentences stays as it is.

        ``language``: in which it is written, for whatever splits it; by default ``source``, or as the bundle says. The
        other keyword arguments are those of :meth:`Session.translate` but for prefixes, and hold for every sentence by
        itself, ``source`` and ``target`` as one language each. Sentences go through together. The translator sees none
        beside another: what only the sentence before makes clear is lost.

        Raises:
            InputError: as ``translate``; or the bundle does not say of which language it is.
            ContextLengthError: a sentence, which the message counts from 0 as a text, is too long.
            MissingExtraError: the library that splits is not installed.
        """
        self._require("translate_document", "translate")
        check_names("translate_document", arguments, DecodingArguments.__optional_keys__ - {*_WHOLE})
        self._directions.of(arguments.get("source"), arguments.get("target"))  # refuses several
        spans = sentence_spans(check_text(text, "text"), self._language(language, arguments.get("source")))
        found = self._decode([text[begin:end] for begin, end in spans], arguments)
        whole, sentences, read = "", [], 0
        for (begin, end), result in zip(spans, found, strict=True):
            whole += text[read:begin]
            target = len(whole), len(whole) + len(result.text.strip())
            whole, read = whole + result.text.strip(), end
            sentences.append(TranslatedSentence(source=(begin, end), target=target, result=result))
        return Document(text=whole + text[read:], sentences=tuple(sentences))

    def _language(self, given: str | None, source: Language) -> str:
        if given is not None and not isinstance(given, str):
            raise InputError(f"language ({given!r}) must be a code such as 'en', or None for the bundle's own")
        chosen, own = self.manifest.model.languages, self.manifest.languages
        code = given or source or (chosen.default_source if chosen else None) or (own.source if own else None)
        if not isinstance(code, str):
            raise InputError("this bundle does not say which language it reads: pass language='en', or another")
        return code.replace("_", "-").partition("-")[0].lower()
