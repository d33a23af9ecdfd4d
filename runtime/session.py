"""A session: an opened bundle on one engine, and everything one can ask of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

from ..errors import EngineError, InputError, TokenizerError
from .bundle import Bundle
from .bundle.manifest import Generation as Defaults
from .bundle.manifest import Variant
from .decoding import Request, decode_all, encode_all, score_all, start_search
from .encoders import classification, fills, masked_tokens
from .engine import Engine, Floats
from .inputs import Prepared, check_target, new_token_limit, prepare_prompt, prepare_source
from .options import DecodingOptions, Overflow, is_count
from .results import Classification, Encoding, Fill, Generation, Hypothesis, Score, Timings, TokenHypothesis
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .verification import VerificationReport
    from .verify import Progress

Texts = list[str] | tuple[str, ...]
BATCH_SIZE = 32
"""Texts that go through the engine together by default, fewer where memory is short."""

_PLAIN = Defaults(beam_size=1, length_penalty=0.6, max_new_tokens=None)
_FOR_TASK = {
    "translate": "translate, stream or score",
    "generate": "generate, stream or score",
    "fill_mask": "fill_mask or encode",
    "classify": "classify or encode",
}


class DecodingArguments(TypedDict, total=False):
    """Keyword arguments of decoding: :class:`~edgewise.runtime.options.DecodingOptions`, and the batch size.

    ``beam_size``, ``length_penalty`` and ``max_new_tokens`` of ``None`` are the bundle's own defaults.
    """

    beam_size: int | None
    length_penalty: float | None
    n_best: int
    max_new_tokens: int | None
    overflow: Overflow
    batch_size: int


class EncodingArguments(TypedDict, total=False):
    """Keyword arguments of encoding."""

    overflow: Overflow
    batch_size: int


class Session:
    """An opened bundle. Cheap to share between threads: the state of a request lives in the request.

    A method that takes one text gives one result, and with a list of texts a list of results in the same order.

    Every method raises :class:`~edgewise.errors.InputError` for text or options it cannot take, and where the bundle
    is made for another task; :class:`~edgewise.errors.ContextLengthError` for text beyond the model's context; and
    :class:`~edgewise.errors.EngineError` if the engine fails, or the session is closed or was inherited by a fork.
    """

    def __init__(self, bundle: Bundle, variant: Variant, engine: Engine, tokenizer: Tokenizer) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.variant = variant
        self.tokenizer = tokenizer
        self._engine: Engine | None = engine
        self._pid = os.getpid()
        if tokenizer.vocab_size > self.manifest.model.vocab_size:
            raise TokenizerError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the model {self.manifest.model.vocab_size}: "
                "it is another model's; export the bundle again"
            )

    @property
    def engine(self) -> Engine:
        """The engine, for those who measure and compare."""
        engine = self._engine
        if engine is None:
            raise EngineError("this session is closed: open another with edgewise.load")
        if os.getpid() != self._pid:
            raise EngineError(
                "this session was opened before a fork, and an engine's threads do not survive one: "
                "call edgewise.load in the child process, or start it with the 'spawn' method"
            )
        return engine

    def close(self) -> None:
        """Let go of the engine. A request that is running stops with an error at its next step. Twice is once."""
        self._engine = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def describe(self) -> dict[str, Any]:
        """What this is and where it runs: plain values, ready for JSON."""
        manifest, languages = self.manifest, self.manifest.languages
        return {
            "name": manifest.name,
            "path": str(self.bundle.path),
            "task": manifest.task,
            "languages": {"source": languages.source, "target": languages.target} if languages else None,
            "target": self.variant.target,
            "precision": self.variant.precision,
            "max_context": manifest.max_context,
            "licence": manifest.licence.name,
            "hashes_checked": self.bundle.verified,
            "engine": self.engine.describe(),
        }

    @overload
    def translate(self, texts: str, **arguments: Unpack[DecodingArguments]) -> Generation: ...

    @overload
    def translate(self, texts: Texts, **arguments: Unpack[DecodingArguments]) -> list[Generation]: ...

    def translate(self, texts: str | Texts, **arguments: Unpack[DecodingArguments]) -> Generation | list[Generation]:
        """Translate; keyword arguments: :class:`DecodingArguments`.

        ``n_best`` hypotheses (1) of a beam of ``beam_size``, ranked by the length penalty of
        :class:`~edgewise.runtime.options.DecodingOptions`.
        """
        self._require("translate", "translate")
        found = self._decode(_listed(texts), arguments)
        return found[0] if isinstance(texts, str) else found

    @overload
    def generate(self, prompts: str, **arguments: Unpack[DecodingArguments]) -> Generation: ...

    @overload
    def generate(self, prompts: Texts, **arguments: Unpack[DecodingArguments]) -> list[Generation]: ...

    def generate(self, prompts: str | Texts, **arguments: Unpack[DecodingArguments]) -> Generation | list[Generation]:
        """Continue prompts with a decoder-only model; keyword arguments: :class:`DecodingArguments`.

        The text of a result is what follows its prompt. Prompts of equal length in tokens go through together.
        """
        self._require("generate", "generate")
        found = self._decode(_listed(prompts), arguments)
        return found[0] if isinstance(prompts, str) else found

    def stream(self, text: str, *, max_new_tokens: int | None = None, overflow: Overflow = "error") -> Iterator[str]:
        """Decode greedily and give out the text as it comes; the pieces join to the whole.

        What is wrong with ``text`` is said at once, not at the first piece. Closing the iterator stops the decoding.
        """
        self._require("stream", "translate", "generate")
        options = self._options({"beam_size": 1, "max_new_tokens": max_new_tokens, "overflow": overflow})
        return self._pieces(self._request(text, options, "text"), options)

    @overload
    def score(self, sources: str, targets: str | None = None, *, batch_size: int = BATCH_SIZE) -> Score: ...

    @overload
    def score(self, sources: Texts, targets: Texts | None = None, *, batch_size: int = BATCH_SIZE) -> list[Score]: ...

    def score(
        self, sources: str | Texts, targets: str | Texts | None = None, *, batch_size: int = BATCH_SIZE
    ) -> Score | list[Score]:
        """Token log-probabilities of given translations, or for a decoder-only model of the texts themselves.

        A translation bundle takes ``sources`` and their ``targets``; a decoder-only one takes only ``sources``.
        """
        self._require("score", "translate", "generate")
        if (self.manifest.task == "translate") != (targets is not None):
            raise InputError("score takes sources and targets of a translation bundle, and only texts of another one")
        found = self._score(_listed(sources), None if targets is None else _listed(targets), _count(batch_size))
        return found[0] if isinstance(sources, str) else found

    @overload
    def encode(self, texts: str, **arguments: Unpack[EncodingArguments]) -> Encoding: ...

    @overload
    def encode(self, texts: Texts, **arguments: Unpack[EncodingArguments]) -> list[Encoding]: ...

    def encode(self, texts: str | Texts, **arguments: Unpack[EncodingArguments]) -> Encoding | list[Encoding]:
        """Hidden states of an encoder-only model, a row a token, the end token last."""
        self._require("encode", "fill_mask", "classify")
        found = [
            Encoding(tokens=source.ids, truncated=source.truncated, hidden=hidden)
            for source, hidden, _ in self._encoded(texts, **arguments)
        ]
        return found[0] if isinstance(texts, str) else found

    @overload
    def classify(self, texts: str, **arguments: Unpack[EncodingArguments]) -> Classification: ...

    @overload
    def classify(self, texts: Texts, **arguments: Unpack[EncodingArguments]) -> list[Classification]: ...

    def classify(
        self, texts: str | Texts, **arguments: Unpack[EncodingArguments]
    ) -> Classification | list[Classification]:
        """The class of each text, with the probabilities of all classes."""
        self._require("classify", "classify")
        encoded = self._encoded(texts, **arguments)
        found = [classification(self.manifest, source, logits) for source, _, logits in encoded]
        return found[0] if isinstance(texts, str) else found

    def fill_mask(self, text: str, *, top: int = 5) -> list[Fill]:
        """The ``top`` most probable tokens in place of the one ``<mask>`` in ``text``, best first."""
        self._require("fill_mask", "fill_mask")
        ids, place = masked_tokens(self.tokenizer, self.manifest, text)
        model = self.manifest.model
        [(_, logits)] = encode_all(self.engine, model, [(*ids, model.end_id)], [place], 1, self._check)
        return fills(self.tokenizer, ids, place, logits, _count(top, "top"))

    def verify(self, progress: Progress | None = None) -> VerificationReport:
        """Replay the bundle's reference cases on this engine; ``progress(done, cases)`` is called after each."""
        from .verify import verify  # what only verifies need not be imported by all

        return verify(self, progress)

    def _check(self) -> None:
        """Stop a request whose session has been closed, or that went on in a forked child."""
        if self._engine is None:
            raise EngineError("the session was closed while this request was running: wait for it before close()")
        _ = self.engine

    def _require(self, method: str, *tasks: str) -> None:
        if self.manifest.task not in tasks:
            raise InputError(
                f"{method} needs a bundle made for {' or '.join(tasks)}; {self.manifest.name!r} is made for "
                f"{self.manifest.task}: call {_FOR_TASK[self.manifest.task]}"
            )
        _ = self.engine

    def _options(self, arguments: DecodingArguments) -> DecodingOptions:
        """The arguments over the bundle's defaults."""
        own = self.manifest.generation or _PLAIN
        given = {k: v for k, v in arguments.items() if v is not None and k != "batch_size"}
        chosen = {
            "beam_size": own.beam_size,
            "length_penalty": own.length_penalty,
            "max_new_tokens": own.max_new_tokens,
            **given,
        }
        options = DecodingOptions(**chosen)  # type: ignore[arg-type]
        most = self.manifest.model.vocab_size // 2
        if options.beam_size > most:
            raise InputError(f"beam_size ({options.beam_size}) must be at most {most}, half of the vocabulary")
        return options

    def _request(self, text: str, options: DecodingOptions, name: str) -> Request:
        if self.manifest.task == "translate":
            source = prepare_source(self.tokenizer, self.manifest, text, options.overflow, name)
        else:
            source = prepare_prompt(self.tokenizer, self.manifest, text, options, name)
        return Request(source=source, limit=new_token_limit(self.manifest, len(source.ids), options, name))

    def _decode(self, texts: list[str], arguments: DecodingArguments) -> list[Generation]:
        options, batch_size = self._options(arguments), _count(arguments.get("batch_size", BATCH_SIZE))
        requests = [self._request(text, options, f"text {i}") for i, text in enumerate(texts)]
        found = decode_all(self.engine, self.manifest.model, requests, options, batch_size, self._check)
        return [self._generation(r.source, *answer) for r, answer in zip(requests, found, strict=True)]

    def _generation(self, source: Prepared, found: list[TokenHypothesis], timings: Timings) -> Generation:
        prompt = () if self.manifest.task == "translate" else source.ids
        return Generation(
            hypotheses=tuple(Hypothesis(text=self.tokenizer.continuation(prompt, h.tokens), **vars(h)) for h in found),
            source_tokens=source.ids,
            truncated=source.truncated,
            timings=timings,
        )

    def _pieces(self, request: Request, options: DecodingOptions) -> Iterator[str]:
        prompt = () if self.manifest.task == "translate" else request.source.ids
        text = self.tokenizer.detokenizer(prompt)
        with closing(start_search(self.engine, self.manifest.model, [request], options)) as steps:
            for token in steps:
                if piece := text.push(int(token[0])):
                    yield piece
                self._check()
        if piece := text.finish():
            yield piece

    def _score(self, sources: list[str], targets: list[str] | None, batch_size: int) -> list[Score]:
        if targets is not None and len(targets) != len(sources):
            raise InputError(f"there are {len(sources)} sources and {len(targets)} targets: pass one target a source")
        read = None
        if targets is not None:
            read = [s.ids for s in self._sources(sources, "error", "source")]
        kind = "text" if targets is None else "target"
        texts = sources if targets is None else targets
        ids = [self.tokenizer.encode(text, f"{kind} {i}") for i, text in enumerate(texts)]
        for i, target in enumerate(ids):
            check_target(self.manifest, target, f"{kind} {i}")
        return score_all(self.engine, self.manifest.model, read, ids, batch_size, self._check)

    def _sources(self, texts: list[str], overflow: Overflow, kind: str = "text") -> list[Prepared]:
        DecodingOptions(overflow=overflow)  # refuses a misspelt policy
        return [prepare_source(self.tokenizer, self.manifest, t, overflow, f"{kind} {i}") for i, t in enumerate(texts)]

    def _encoded(
        self, texts: str | Texts, overflow: Overflow = "error", batch_size: int = BATCH_SIZE
    ) -> list[tuple[Prepared, Floats, Floats]]:
        sources = self._sources(_listed(texts), overflow)
        ids = [source.ids for source in sources]
        found = encode_all(self.engine, self.manifest.model, ids, None, _count(batch_size), self._check)
        return [(source, *states) for source, states in zip(sources, found, strict=True)]


def _listed(texts: str | Texts) -> list[str]:
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, list | tuple):
        raise InputError(f"texts is {type(texts).__name__}, expected a string or a list of strings")
    return list(texts)


def _count(value: int, name: str = "batch_size") -> int:
    if not is_count(value):
        raise InputError(f"{name} ({value!r}) must be an integer of at least 1")
    return value
