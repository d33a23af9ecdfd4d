"""A session: an opened bundle on one engine, and everything one can ask of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack, overload

from ..errors import EngineError, InputError, TokenizerError
from .alignments import check_attention
from .arguments import Batching, check_names, check_prefix_bias, count, each, listed, one_by_one
from .bundle import Bundle
from .bundle.manifest import Variant
from .bundle.model_spec import ModelSpec
from .chatting import Chatting
from .continuous import ContinuousBatch, Job, fill
from .decoding import Request, batches_of, decode_all, score_all
from .defaults import with_defaults
from .deferred import in_lists
from .documents import Documents
from .engine import Engine
from .generations import Found, generations, with_alignments
from .inputs import (
    Prepared,
    check_target,
    new_token_limit,
    prepare_prefix,
    prepare_prompt,
    prepare_source,
    resolve_tokens,
)
from .interrupt import Watch
from .keywords import DecodingArguments, IteratingArguments, ScoreArguments, StreamArguments
from .languages import Directions
from .options import DecodingOptions, Grammar
from .reading import BATCH_SIZE, Reading, Texts
from .results import (
    Generation,
    Score,
)
from .rules import Rule
from .speculation import refuse_company, refuse_speculation
from .streaming import Pieces, stream_pieces
from .tokenizer import Tokenizer
from .transcribing import Transcribing

if TYPE_CHECKING:
    from .grammar import GrammarCompiler
    from .verification import VerificationReport
    from .verify import Progress

Asked = tuple[str, str, ModelSpec]
"""A text, its prefix, and what the model is for its languages."""
READ_AHEAD = 16
"""Batches of texts that are read before the first of them goes through, where they come one by one."""

_NO_OPTIONS = ("prefix", "source", "target", "cancellation", "batch_size", "max_batch_tokens", "progress", "continuous")
_FOR_TASK = {
    "translate": "translate, stream or score",
    "generate": "generate, stream or score",
    "fill_mask": "fill_mask or encode",
    "classify": "classify or encode",
    "regress": "regress, rerank or encode",
    "tag": "tag or encode",
    "answer": "answer or encode",
    "embed": "embed, similarity or encode",
    "transcribe": "transcribe",
}


class Session(Reading, Chatting, Documents, Transcribing):
    """An opened bundle. Cheap to share between threads: the state of a request lives in the request.

    A method that takes one text gives one result, and with a list of texts a list of results in the same order.

    Every method raises :class:`~edgewise.errors.InputError` for text or options it cannot take, and where the bundle
    is made for another task; :class:`~edgewise.errors.ContextLengthError` for text beyond the model's context; and
    :class:`~edgewise.errors.EngineError` if the engine fails, or the session is closed or was inherited by a fork.
    """

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        engine: Engine,
        tokenizer: Tokenizer,
        source_tokenizer: Tokenizer | None = None,
    ) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.variant = variant
        self.tokenizer = tokenizer
        self.source_tokenizer = source_tokenizer or tokenizer
        self._engine: Engine | None = engine
        self._grammars: GrammarCompiler | None = None
        self._directions = Directions(bundle.manifest)
        self._pid = os.getpid()
        model = self.manifest.model
        for name, own, size in (
            ("tokenizer", tokenizer, model.vocab_size),
            ("tokenizer of sources", self.source_tokenizer, model.source_size),
        ):
            if (greatest := own.greatest_id) >= size:
                raise TokenizerError(
                    f"the {name} has the token id {greatest}, and the model's vocabulary ends at {size - 1}: "
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
        :class:`~edgewise.runtime.options.DecodingOptions`. A bundle of several languages translates from ``source`` to
        ``target``, each one for all texts or a list of one for each.
        """
        self._require("translate", "translate")
        check_names("translate", arguments, DecodingArguments.__optional_keys__)
        found = self._decode(listed(texts), arguments)
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
        check_names("generate", arguments, DecodingArguments.__optional_keys__)
        found = self._decode(listed(prompts), arguments)
        return found[0] if isinstance(prompts, str) else found

    def translate_iter(self, texts: Iterable[str], **arguments: Unpack[IteratingArguments]) -> Iterator[Generation]:
        """As :meth:`translate`, for texts that need not fit in memory: results come in order as the texts are read.

        ``READ_AHEAD`` batches of texts are read before their first result, to find texts of similar length; keyword
        arguments: :class:`IteratingArguments`. What is wrong with a text is raised after the results of those before.
        """
        self._require("translate_iter", "translate")
        check_names("translate_iter", arguments, IteratingArguments.__optional_keys__)
        return self._decode_iter(texts, arguments)

    def generate_iter(self, prompts: Iterable[str], **arguments: Unpack[IteratingArguments]) -> Iterator[Generation]:
        """As :meth:`generate`, for prompts that need not fit in memory; see :meth:`translate_iter`."""
        self._require("generate_iter", "generate")
        check_names("generate_iter", arguments, IteratingArguments.__optional_keys__)
        return self._decode_iter(prompts, arguments)

    def stream(self, text: str, **arguments: Unpack[StreamArguments]) -> Iterator[str]:
        """Decode and give out the text as it comes; the pieces join to the whole, and none is taken back.

        Greedy unless ``beam_size`` or ``sampling`` say otherwise. With beams, a piece comes once all that may still win
        agree on it. What is wrong with ``text`` is said at once, not at the first piece. Closing the iterator stops
        the decoding.
        """
        job = self._job("stream", text, arguments)
        prompt, model = self._prompt(job.request.source), self.manifest.model
        return stream_pieces(
            self.engine, model, job.request, job.options, self.tokenizer, prompt, self._check, job.watch
        )

    @overload
    def score(self, sources: str, targets: str | None = None, **arguments: Unpack[ScoreArguments]) -> Score: ...

    @overload
    def score(
        self, sources: Texts, targets: Texts | None = None, **arguments: Unpack[ScoreArguments]
    ) -> list[Score]: ...

    def score(
        self, sources: str | Texts, targets: str | Texts | None = None, **arguments: Unpack[ScoreArguments]
    ) -> Score | list[Score]:
        """Token log-probabilities of given translations, or for a decoder-only model of the texts themselves.

        A translation bundle takes ``sources`` and their ``targets``, and the languages of both as :meth:`translate`
        does; a decoder-only one takes only ``sources``.
        """
        self._require("score", "translate", "generate")
        if (self.manifest.task == "translate") != (targets is not None):
            raise InputError("score takes sources and targets of a translation bundle, and only texts of another one")
        check_names("score", arguments, ScoreArguments.__optional_keys__)
        texts, batch_size = listed(sources), count(arguments.get("batch_size", BATCH_SIZE))
        models = self._models(arguments, len(texts))
        found = self._score(texts, None if targets is None else listed(targets), models, batch_size)
        return found[0] if isinstance(sources, str) else found

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

    def _options(self, arguments: StreamArguments) -> DecodingOptions:
        """The arguments over the bundle's defaults."""
        given = {name: value for name, value in arguments.items() if name not in _NO_OPTIONS}
        options = DecodingOptions(**with_defaults(given, self.manifest.generation))
        check_attention(options, self.manifest, self.variant)
        check_prefix_bias(options.prefix_bias, arguments.get("prefix", ""))
        most = self.manifest.model.vocab_size // 2
        if options.beam_size > most:
            raise InputError(f"beam_size ({options.beam_size}) must be at most {most}, half of the vocabulary")
        if options.speculate:
            refuse_speculation(self.variant, self.engine.verify_tokens, options)
        return resolve_tokens(self.tokenizer, self.manifest, options)

    def _models(self, arguments: StreamArguments | ScoreArguments, texts: int) -> list[ModelSpec]:
        """What the model is for the languages of each of so many texts."""
        return self._directions.of_each(arguments.get("source"), arguments.get("target"), texts)

    def _request(self, text: str, options: DecodingOptions, name: str, model: ModelSpec, prefix: str = "") -> Request:
        if self.manifest.task == "translate":
            source = prepare_source(self.source_tokenizer, self.manifest, text, options.overflow, name, model)
        else:
            source = prepare_prompt(self.tokenizer, self.manifest, text, options, name)
        return self._asked(source, options, name, prefix, model)

    def _asked(
        self, source: Prepared, options: DecodingOptions, name: str, prefix: str = "", model: ModelSpec | None = None
    ) -> Request:
        """What is asked for a text that has been read."""
        limit = new_token_limit(self.manifest, len(source.ids), options, name)
        request = Request(
            source=source,
            limit=limit,
            model=model,
            prefix=prepare_prefix(self.tokenizer, prefix, limit, options, name),
            text_of=self.tokenizer.text_after(self._prompt(source)) if options.stop else None,
            grammar=self._grammar_rule(options.grammar) if options.grammar else None,
            name=name,
        )
        batches_of(self.manifest.model, [request], options, 1)  # refuses what memory does not hold
        return request

    def _job(self, method: str, text: str, arguments: StreamArguments) -> Job:
        """One text as ``translate``, ``generate`` or ``stream`` takes it, for a batch that it joins."""
        streams = method == "stream"
        self._require(method, *(("translate", "generate") if streams else (method,)))
        check_names(method, arguments, (StreamArguments if streams else DecodingArguments).__optional_keys__)
        options = self._options({"beam_size": 1, **arguments} if streams else arguments)
        results = max(options.n_best, options.rows if options.beam_size == 1 else 1)
        if streams and results > 1:
            raise InputError(f"stream gives one result, and {results} are asked for: call translate or generate")
        (prefix,) = each(arguments.get("prefix", ""), 1)
        watch = Watch(arguments.get("cancellation"), options.deadline)
        (model,) = self._models(arguments, 1)
        request = self._request(text, options, "text" if streams else "text 0", model, prefix)
        return Job(text=text, request=request, options=options, watch=watch)

    def _grammar_rule(self, grammar: Grammar) -> Rule:
        """A rule of its own for every text; what the grammars of a session share is prepared once."""
        if self._grammars is None:
            from .grammar import GrammarCompiler

            model = self.manifest.model
            self._grammars = GrammarCompiler(self.tokenizer, model.vocab_size, model.end_id)
        return self._grammars.compile(grammar)

    def _prompt(self, source: Prepared) -> tuple[int, ...]:
        """What the text of a result continues."""
        return () if self.manifest.task == "translate" else source.ids

    def _decode(self, texts: list[str], arguments: DecodingArguments) -> list[Generation]:
        options = self._options(arguments)
        watch = Watch(arguments.get("cancellation"), options.deadline)
        prefixes = each(arguments.get("prefix", ""), len(texts))
        asked = zip(texts, prefixes, self._models(arguments, len(texts)), strict=True)
        batching = Batching.of(arguments, BATCH_SIZE)
        return self._decoded(list(self._requests(asked, options)), options, watch, batching)

    def _decode_iter(self, texts: Iterable[str], arguments: IteratingArguments) -> Iterator[Generation]:
        options, batching = self._options(arguments), Batching.of(arguments, BATCH_SIZE)
        watch = Watch(arguments.get("cancellation"), options.deadline)
        model = self._directions.of(arguments.get("source"), arguments.get("target"))
        rest = ((text, prefix, model) for text, prefix in one_by_one(texts, arguments.get("prefix", "")))
        if batching.continuous:
            refuse_company(options)
            return self._filled(rest, options, watch, batching)

        def results() -> Iterator[Generation]:
            done = 0
            for read in in_lists(self._requests(rest, options), READ_AHEAD * batching.batch_size):
                yield from self._decoded(read, options, watch, batching, done)
                done += len(read)

        return results()

    def _requests(self, texts: Iterable[Asked], options: DecodingOptions) -> Iterator[tuple[str, Request]]:
        """Texts, and what is asked for each."""
        for i, (text, prefix, model) in enumerate(texts):
            yield text, self._request(text, options, f"text {i}", model, prefix)

    def _decoded(
        self,
        asked: Sequence[tuple[str, Request]],
        options: DecodingOptions,
        watch: Watch,
        batching: Batching,
        before: int = 0,
    ) -> list[Generation]:
        """Decode texts; as many came ``before``."""
        texts, requests = [text for text, _ in asked], [request for _, request in asked]
        found = decode_all(
            self.engine,
            self.manifest.model,
            requests,
            options,
            batching.batch_size,
            self._check,
            watch=watch,
            progress=batching.progress_after(before),
            max_batch_tokens=batching.max_batch_tokens,
        )
        return self._results(texts, requests, found, options, batching.batch_size)

    def _filled(
        self, texts: Iterator[Asked], options: DecodingOptions, watch: Watch, batching: Batching
    ) -> Iterator[Generation]:
        """Decode texts in a batch whose free places the next of them take."""
        read = 0

        def jobs() -> Iterator[Job]:
            nonlocal read
            for text, request in self._requests(texts, options):
                read += 1
                yield Job(text=text, request=request, options=options, watch=watch)

        batch = self._batch(batching.batch_size * options.rows, batching.max_batch_tokens)
        for done, job in enumerate(fill(batch, jobs(), READ_AHEAD * batching.batch_size), start=1):
            found = self._generation_of(job)
            if batching.progress is not None:
                batching.progress(done, read)
            yield found

    def _batch(self, rows: int, tokens: int | None = None) -> ContinuousBatch:
        """A batch that jobs of this session join."""
        return ContinuousBatch(self.engine, self.manifest.model, rows, tokens, self._check)

    def _generation_of(self, job: Job) -> Generation:
        """The answer to a job that has ended; raises what ended it otherwise."""
        return self._results([job.text], [job.request], [job.result()], job.options, 1)[0]

    def _pieces_of(self, job: Job) -> Pieces:
        """What makes the text of a stream of its tokens."""
        return Pieces(self.tokenizer, self._prompt(job.request.source), job.options.stop, job.request.silent)

    def _results(
        self,
        texts: Sequence[str],
        requests: Sequence[Request],
        found: Found,
        options: DecodingOptions,
        batch_size: int,
    ) -> list[Generation]:
        """What was found for ``texts``, as a caller gets it."""
        prompts = [self._prompt(request.source) for request in requests]
        results = generations(self.tokenizer, requests, prompts, found, options)
        if not options.alignments:
            return results
        tokenizers = self.source_tokenizer, self.tokenizer
        return with_alignments(
            self.engine, self.manifest.model, tokenizers, texts, requests, results, batch_size, self._check
        )

    def _score(
        self, sources: list[str], targets: list[str] | None, models: list[ModelSpec], batch_size: int
    ) -> list[Score]:
        if targets is not None and len(targets) != len(sources):
            raise InputError(f"there are {len(sources)} sources and {len(targets)} targets: pass one target a source")
        read = None
        if targets is not None:
            read = [
                prepare_source(self.source_tokenizer, self.manifest, text, "error", f"source {i}", model)
                for i, (text, model) in enumerate(zip(sources, models, strict=True))
            ]
        kind = "text" if targets is None else "target"
        texts = sources if targets is None else targets
        ids = [self.tokenizer.encode(text, f"{kind} {i}") for i, text in enumerate(texts)]
        for i, target in enumerate(ids):
            check_target(self.manifest, target, f"{kind} {i}")
        return score_all(self.engine, self.manifest.model, read, ids, batch_size, self._check)
