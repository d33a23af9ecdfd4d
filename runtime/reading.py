"""What is asked of encoder-only models: states, classes, vectors, words, values, ranks, entities, and spans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal, TypedDict, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .arguments import check_names, count, listed
from .bundle import signature as names
from .bundle.manifest import Manifest, Variant
from .decoding import encode_all
from .encoders import class_scores, classification, cosines, fills, masked_tokens, probabilities, unit
from .engine import Engine, Floats
from .entities import Aggregation, check_aggregation, entities
from .inputs import Prepared, prepare_pair, prepare_source, too_long
from .options import DecodingOptions, Overflow
from .results import Answer, Classification, Embedding, Encoding, Entity, Fill, Ranked, Rating
from .spans import LONGEST, Spans, answers, best_spans
from .tokenizer import TextToken, Tokenizer
from .windows import windows

Texts = list[str] | tuple[str, ...]
_T = TypeVar("_T")
BATCH_SIZE = 32
"""Texts that go through the engine together by default, fewer where memory is short."""
_HELD = 4  # batches of which windows of similar length go together


class EncodingArguments(TypedDict, total=False):
    """Keyword arguments of encoding."""

    overflow: Overflow
    batch_size: int


LongText = Literal["error", "truncate", "windows"]
"""What to do with a text beyond the context: refuse it, drop its end, or read all of it in windows that overlap.

Of windows the mean counts, of class scores or of vectors, each window as many times as it has tokens; where the model
gives vectors of length 1, the mean gets it too.
"""


class ReadingArguments(TypedDict, total=False):
    """Keyword arguments where a text becomes one result, whatever its length."""

    overflow: LongText
    batch_size: int


class PairArguments(ReadingArguments, total=False):
    """Keyword arguments where texts may be pairs: ``pairs`` are the second ones, one a text, or one for one text."""

    pairs: str | Texts | None


class Reading:
    """The part of a :class:`~edgewise.runtime.session.Session` that reads texts and gives numbers and places."""

    manifest: Manifest
    variant: Variant
    tokenizer: Tokenizer

    @property
    def engine(self) -> Engine:
        """The engine, for those who measure and compare."""
        raise NotImplementedError

    def _require(self, method: str, *tasks: str) -> None:
        raise NotImplementedError

    def _check(self) -> None:
        raise NotImplementedError

    @overload
    def encode(self, texts: str, **arguments: Unpack[EncodingArguments]) -> Encoding: ...

    @overload
    def encode(self, texts: Texts, **arguments: Unpack[EncodingArguments]) -> list[Encoding]: ...

    def encode(self, texts: str | Texts, **arguments: Unpack[EncodingArguments]) -> Encoding | list[Encoding]:
        """Hidden states of an encoder-only model, a row a token, special tokens included."""
        self._require("encode", "fill_mask", "classify", "regress", "tag", "answer", "embed")
        check_names("encode", arguments, EncodingArguments.__optional_keys__)
        if names.HIDDEN not in {output.name for output in self.variant.graphs[names.ENCODER].outputs}:
            raise InputError(
                f"the graph of {self.manifest.name!r} gives no hidden states: export the checkpoint itself to encode"
            )
        found = [
            Encoding(tokens=source.ids, truncated=source.truncated, hidden=hidden)
            for source, hidden, _ in self._encoded(texts, **arguments)
        ]
        return found[0] if isinstance(texts, str) else found

    @overload
    def classify(self, texts: str, **arguments: Unpack[PairArguments]) -> Classification: ...

    @overload
    def classify(self, texts: Texts, **arguments: Unpack[PairArguments]) -> list[Classification]: ...

    def classify(self, texts: str | Texts, **arguments: Unpack[PairArguments]) -> Classification | list[Classification]:
        """The class of each text, or of each pair of a text and its second one, with the probabilities of all."""
        self._require("classify", "classify")
        check_names("classify", arguments, PairArguments.__optional_keys__)
        scored = self._scored(texts, **arguments)
        found = [classification(self.manifest, source, scores) for source, scores in scored]
        return found[0] if isinstance(texts, str) else found

    @overload
    def embed(self, texts: str, **arguments: Unpack[ReadingArguments]) -> Embedding: ...

    @overload
    def embed(self, texts: Texts, **arguments: Unpack[ReadingArguments]) -> list[Embedding]: ...

    def embed(self, texts: str | Texts, **arguments: Unpack[ReadingArguments]) -> Embedding | list[Embedding]:
        """One vector for each text, pooled and normalized as the bundle's model says."""
        self._require("embed", "embed")
        check_names("embed", arguments, ReadingArguments.__optional_keys__)
        found = [
            Embedding(tokens=source.ids, truncated=source.truncated, vector=vector)
            for source, vector in self._vectors(texts, **arguments)
        ]
        return found[0] if isinstance(texts, str) else found

    def similarity(
        self, left: str | Texts, right: str | Texts, **arguments: Unpack[ReadingArguments]
    ) -> NDArray[np.float32]:
        """Cosine similarity of every text on the ``left`` with every one on the ``right``, from -1 to 1.

        ``(N, M)`` for ``N`` and ``M`` texts; one text in place of a list is a list of one. Each text is embedded once.
        """
        self._require("similarity", "embed")
        check_names("similarity", arguments, ReadingArguments.__optional_keys__)
        sides = listed(left), listed(right)
        texts = list(dict.fromkeys([*sides[0], *sides[1]]))
        vectors = {t: e.vector for t, e in zip(texts, self.embed(texts, **arguments), strict=True)}
        return cosines(*([vectors[text] for text in side] for side in sides))

    def fill_mask(self, text: str, *, top: int = 5) -> list[Fill]:
        """The ``top`` most probable tokens in place of the one ``<mask>`` in ``text``, best first."""
        self._require("fill_mask", "fill_mask")
        ids, place = masked_tokens(self.tokenizer, self.manifest, text)
        model = self.manifest.model
        [(_, logits)] = encode_all(self.engine, model, [Prepared(ids=ids)], [place], 1, self._check)
        return fills(self.tokenizer, ids, place, logits, count(top, "top"))

    @overload
    def regress(self, texts: str, **arguments: Unpack[PairArguments]) -> Rating: ...

    @overload
    def regress(self, texts: Texts, **arguments: Unpack[PairArguments]) -> list[Rating]: ...

    def regress(self, texts: str | Texts, **arguments: Unpack[PairArguments]) -> Rating | list[Rating]:
        """The values that a model gives each text, or each pair of a text and its second one."""
        self._require("regress", "regress")
        check_names("regress", arguments, PairArguments.__optional_keys__)
        model = self.manifest.model
        found = []
        for source, scores in self._scored(texts, **arguments):
            values = scores.tolist()
            named = dict(zip(model.class_names, values, strict=True))
            found.append(Rating(value=values[0], values=named, truncated=source.truncated))
        return found[0] if isinstance(texts, str) else found

    def rerank(self, query: str, texts: Texts, **arguments: Unpack[EncodingArguments]) -> list[Ranked]:
        """``texts`` by how well they fit the ``query``, best first, of equals the earlier one first."""
        self._require("rerank", "regress")
        check_names("rerank", arguments, EncodingArguments.__optional_keys__)
        if (values := len(self.manifest.model.class_names)) != 1:
            raise InputError(f"rerank needs a model with one value, and this one gives {values}: call regress")
        given = listed(texts)
        found = self.regress([query] * len(given), pairs=given, **arguments)
        order = sorted(range(len(given)), key=lambda i: -found[i].value)
        return [Ranked(index=i, text=given[i], score=found[i].value, truncated=found[i].truncated) for i in order]

    @overload
    def tag(
        self,
        texts: str,
        *,
        aggregation: Aggregation = "simple",
        overlap: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[Entity]: ...

    @overload
    def tag(
        self,
        texts: Texts,
        *,
        aggregation: Aggregation = "simple",
        overlap: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[list[Entity]]: ...

    def tag(
        self,
        texts: str | Texts,
        *,
        aggregation: Aggregation = "simple",
        overlap: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[Entity] | list[list[Entity]]:
        """The entities of each text, with their places in it.

        ``aggregation`` says how word pieces become words: :data:`~edgewise.runtime.entities.Aggregation`. A text longer
        than the context is read in windows that share ``overlap`` tokens; of a token in two windows the scores are of
        the one that has more around it.
        """
        self._require("tag", "tag")
        check_aggregation(aggregation)
        given, model = listed(texts), self.manifest.model
        tokens = [self.tokenizer.encode_with_offsets(text, f"text {i}") for i, text in enumerate(given)]
        scores = self._token_scores(tokens, overlap, count(batch_size))
        found = [
            entities(self.tokenizer, text, own, values, model.class_names, aggregation)
            for text, own, values in zip(given, tokens, scores, strict=True)
        ]
        return found[0] if isinstance(texts, str) else found

    def _token_scores(self, texts: Sequence[Sequence[TextToken]], overlap: int | None, batch_size: int) -> list[Floats]:
        """Probabilities ``(tokens, classes)`` of every text."""
        model = self.manifest.model
        room = self.manifest.max_context - len(model.source(()))
        cut = [[*windows(len(tokens), room, overlap)] for tokens in texts]
        sources = (
            (places, Prepared(ids=model.source([tokens[i].id for i in places])))
            for tokens, own in zip(texts, cut, strict=True)
            for places in own
        )
        read = self._read(sources, batch_size)
        found = []
        for tokens, own in zip(texts, cut, strict=True):
            scores = np.zeros((len(tokens), len(model.class_names)), np.float32)
            around = np.full(len(tokens), -1)
            for places in own:
                first = int(model.starts_text)
                values = probabilities(next(read)[1][first : first + len(places)])
                depth = np.minimum(np.arange(len(places)), np.arange(len(places))[::-1])
                here = np.array(places, dtype=np.int64)
                better = depth > around[here]
                scores[here[better]], around[here[better]] = values[better], depth[better]
            found.append(scores)
        return found

    def answer(
        self,
        question: str,
        text: str,
        *,
        top: int = 1,
        longest: int = LONGEST,
        overlap: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[Answer]:
        """The ``top`` most probable answers to a ``question`` in a ``text``, best first, each a piece of the text.

        An answer has ``longest`` tokens at most. A text that does not fit beside the question is read in windows that
        share ``overlap`` tokens.
        """
        self._require("answer", "answer")
        count(longest, "longest"), count(top, "top"), count(batch_size)
        model, asked = self.manifest.model, self.tokenizer.encode(question, "question")
        tokens = self.tokenizer.encode_with_offsets(text)
        room = self.manifest.max_context - len(model.pair(asked, ()))
        if room < 1:
            raise too_long("question", len(model.pair(asked, ())) + 1, self.manifest.max_context, cut=False)
        if not tokens:
            raise InputError("text has no tokens in this vocabulary: an answer is a piece of it")
        first = model.second_from(asked)

        def spans(places: range, logits: Floats) -> tuple[range, Spans]:
            return places, best_spans(logits, first, len(places), longest, top)

        cut = windows(len(tokens), room, overlap)
        sources = ((w, Prepared(ids=model.pair(asked, [tokens[i].id for i in w]), second_from=first)) for w in cut)
        found = (spans(places, logits) for places, logits in self._read(sources, batch_size))
        return answers(text, tokens, found, top)

    def _read(self, sources: Iterable[tuple[_T, Prepared]], batch_size: int) -> Iterator[tuple[_T, Floats]]:
        """What the head makes of every source, beside what came with it; a few batches are held at a time."""
        sources = iter(sources)
        while batch := [*islice(sources, _HELD * batch_size)]:
            read = encode_all(
                self.engine, self.manifest.model, [source for _, source in batch], None, batch_size, self._check
            )
            yield from ((key, values) for (key, _), (_, values) in zip(batch, read, strict=True))

    def _scored(
        self,
        texts: str | Texts,
        pairs: str | Texts | None = None,
        overflow: LongText = "error",
        batch_size: int = BATCH_SIZE,
    ) -> list[tuple[Prepared, Floats]]:
        """Scores ``(classes,)`` of every text, or of every pair."""
        model = self.manifest.model
        if pairs is None and overflow == "windows":
            return self._means(listed(texts), batch_size, lambda logits: class_scores(model, logits))
        if overflow == "windows":
            raise InputError("overflow is 'windows', expected 'error' or 'truncate' for pairs: no window holds both")
        if pairs is None:
            encoded = self._encoded(texts, overflow=overflow, batch_size=batch_size, windows=True)
            return [(source, class_scores(model, logits)) for source, _, logits in encoded]
        DecodingOptions(overflow=overflow)  # refuses a misspelt policy
        firsts, seconds = listed(texts), listed(pairs)
        if len(firsts) != len(seconds):
            raise InputError(f"there are {len(firsts)} texts and {len(seconds)} pairs: pass a second text for each")
        sources = [
            prepare_pair(self.tokenizer, self.manifest, first, second, overflow, f"text {i}")
            for i, (first, second) in enumerate(zip(firsts, seconds, strict=True))
        ]
        found = encode_all(self.engine, model, sources, None, count(batch_size), self._check)
        return [(source, class_scores(model, logits)) for source, (_, logits) in zip(sources, found, strict=True)]

    def _vectors(
        self, texts: str | Texts, overflow: LongText = "error", batch_size: int = BATCH_SIZE
    ) -> list[tuple[Prepared, Floats]]:
        """A vector ``(D,)`` for every text."""
        if overflow != "windows":
            return [(source, vector) for source, _, vector in self._encoded(texts, overflow, batch_size, True)]
        found = self._means(listed(texts), batch_size, lambda vector: vector)
        if not self.manifest.model.normalize:
            return found
        return [(source, unit(vector)) for source, vector in found]

    def _means(
        self, texts: Sequence[str], batch_size: int, scores: Callable[[Floats], Floats]
    ) -> list[tuple[Prepared, Floats]]:
        """Of every text the mean of what its windows give: see :data:`LongText`."""
        model = self.manifest.model
        room = self.manifest.max_context - len(model.source(()))
        tokens = [self.tokenizer.encode(text, f"text {i}") for i, text in enumerate(texts)]
        cut = [[*windows(len(ids), room, None)] for ids in tokens]
        sources = (
            (w, Prepared(ids=model.source(ids[w.start : w.stop])))
            for ids, own in zip(tokens, cut, strict=True)
            for w in own
        )
        read = self._read(sources, count(batch_size))
        found = []
        for ids, own in zip(tokens, cut, strict=True):
            values = np.array([scores(next(read)[1]) for _ in own], np.float64)
            weights = [max(1, len(window)) for window in own]
            mean = np.average(values, axis=0, weights=weights).astype(np.float32)
            found.append((Prepared(ids=model.source(ids)), mean))
        return found

    def _sources(self, texts: list[str], overflow: Overflow, windows: bool = False) -> list[Prepared]:
        DecodingOptions(overflow=overflow)  # refuses a misspelt policy
        return [
            prepare_source(self.tokenizer, self.manifest, text, overflow, f"text {i}", windows=windows)
            for i, text in enumerate(texts)
        ]

    def _encoded(
        self, texts: str | Texts, overflow: Overflow = "error", batch_size: int = BATCH_SIZE, windows: bool = False
    ) -> list[tuple[Prepared, Floats, Floats]]:
        sources = self._sources(listed(texts), overflow, windows=windows)
        found = encode_all(self.engine, self.manifest.model, sources, None, count(batch_size), self._check)
        return [(source, *states) for source, states in zip(sources, found, strict=True)]
