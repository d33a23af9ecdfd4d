"""Chats: messages to a prompt by the template of a bundle, and its answer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Unpack

from ..errors import InputError, TokenizerError
from .arguments import check_names, each
from .bundle import Bundle
from .bundle.manifest import Manifest
from .bundle.model_spec import ModelSpec
from .chat import ChatTemplate, Message, size_fault, template_for
from .continuous import Job
from .decoding import Request, decode_all
from .engine import Engine
from .inputs import Prepared, new_token_room, too_long
from .interrupt import Watch
from .keywords import StreamArguments
from .options import DecodingOptions, Overflow, is_count
from .results import Generation
from .streaming import stream_pieces
from .tokenizer import Tokenizer

ANSWER_TOKENS = 512
"""Most tokens of an answer where nobody says, within the context."""


class Chatting:
    """The part of a :class:`~edgewise.runtime.session.Session` that chats."""

    bundle: Bundle
    manifest: Manifest
    tokenizer: Tokenizer

    @property
    def engine(self) -> Engine:
        """The engine, for those who measure and compare."""
        raise NotImplementedError

    def _require(self, method: str, *tasks: str) -> None:
        raise NotImplementedError

    def _check(self) -> None:
        raise NotImplementedError

    def _options(self, arguments: StreamArguments) -> DecodingOptions:
        raise NotImplementedError

    def _models(self, arguments: StreamArguments, texts: int) -> list[ModelSpec]:
        raise NotImplementedError

    def _asked(
        self, source: Prepared, options: DecodingOptions, name: str, prefix: str = "", model: ModelSpec | None = None
    ) -> Request:
        raise NotImplementedError

    def _generation_of(self, job: Job) -> Generation:
        raise NotImplementedError

    def chat(self, messages: Sequence[Message], **arguments: Unpack[StreamArguments]) -> Generation:
        """Answer the last of ``messages``, each a mapping with ``role`` and ``content``, the oldest first.

        The bundle's chat template makes the prompt of them (:mod:`edgewise.runtime.chat`). Keyword arguments:
        :class:`StreamArguments`; an answer has at most ``ANSWER_TOKENS`` tokens where ``max_new_tokens`` says nothing,
        begins with ``prefix``, and ends where the template ends a turn. A chat beyond the context is refused; with
        ``overflow="truncate"`` it loses its oldest turns, each a user's message and what follows it, until the answer
        has room too: ``max_new_tokens``, by default ``ANSWER_TOKENS`` or half of the context. What stands before the
        first user's message is kept, and so is the last turn.

        Raises:
            InputError: the bundle holds no template; the messages are malformed, hold a control token or make one, or
                the template refuses them.
            ContextLengthError: the chat, or its last turn alone, is too long.
            MissingExtraError: Jinja is not installed.
            TokenizerError: the template fails, takes too long or writes too much.
        """
        return self._chat_answer(self._chat_job("chat", messages, arguments))

    def _chat_answer(self, job: Job) -> Generation:
        (found,) = decode_all(
            self.engine, self.manifest.model, [job.request], job.options, 1, self._check, watch=job.watch
        )
        job.found, job.timings = found
        return self._generation_of(job)

    def chat_stream(self, messages: Sequence[Message], **arguments: Unpack[StreamArguments]) -> Iterator[str]:
        """As :meth:`chat`, giving out the text of the answer as it comes; see :meth:`Session.stream`."""
        return self._chat_pieces(self._chat_job("chat_stream", messages, arguments))

    def _chat_pieces(self, job: Job) -> Generator[str]:
        return stream_pieces(
            self.engine,
            self.manifest.model,
            job.request,
            job.options,
            self.tokenizer,
            job.request.source.ids,
            self._check,
            job.watch,
        )

    def check_chat(self) -> None:
        """Whether there can be chats at all.

        Raises:
            InputError: the bundle is made for another task, or holds no template.
            MissingExtraError: Jinja is not installed.
            TokenizerError: the template is none.
        """
        self._require("chat", "generate")
        _ = self._chat_template

    @cached_property
    def _chat_template(self) -> ChatTemplate:
        chat = self.manifest.chat
        if chat is None:
            reason = self.manifest.provenance.get("chat_template", "its checkpoint had none")
            raise InputError(
                f"{self.manifest.name!r} holds no chat template ({reason}): call generate with a text, or export it "
                "again from a checkpoint that has one"
            )
        return template_for(self.bundle.chat_template(), self.tokenizer, chat.variables)

    def _chat_job(self, method: str, messages: Sequence[Message], arguments: StreamArguments) -> Job:
        """One chat as ``chat`` or ``chat_stream`` takes it, for a batch that it joins."""
        self._require(method, "generate")
        check_names(method, arguments, StreamArguments.__optional_keys__)
        template = self._chat_template
        options = self._chat_options(arguments)
        if method == "chat_stream" and max(options.n_best, options.rows if options.beam_size == 1 else 1) > 1:
            raise InputError("chat_stream gives one answer, and several are asked for: call chat")
        (prefix,) = each(arguments.get("prefix", ""), 1)
        (model,) = self._models(arguments, 1)
        watch = Watch(arguments.get("cancellation"), options.deadline)
        given, least = arguments.get("max_new_tokens"), options.min_new_tokens
        wanted = given or max(min(ANSWER_TOKENS, self.manifest.max_context // 2), least)
        source = self._prompt_of_chat(template, messages, options.overflow, wanted)
        if given is None:
            room = new_token_room(self.manifest, len(source.ids))
            fits = least <= room or options.overflow == "truncate"  # else it is refused by the name that was given
            most = min(room, max(ANSWER_TOKENS, least)) if fits else None
            options = replace(options, max_new_tokens=most, min_new_tokens=min(least, most or least))
        request = self._asked(source, options, "the chat", prefix, model)
        return Job(request=replace(request, silent=self._turn_ends(options)), options=options, watch=watch)

    def _turn_ends(self, options: DecodingOptions) -> tuple[int, ...]:
        """Tokens that end an answer and are none of its words; not those that only the caller names."""
        assert self.manifest.chat is not None
        return (self.manifest.model.end_id, *(i for i in self.manifest.chat.end_ids if i in options.end_ids))

    def _chat_options(self, arguments: StreamArguments) -> DecodingOptions:
        assert self.manifest.chat is not None
        own, least = self.manifest.generation, arguments.get("min_new_tokens")
        if least is None:
            least = own.min_new_tokens if own else 0
        defaults: StreamArguments = {
            "max_new_tokens": max(ANSWER_TOKENS, least) if is_count(least) else ANSWER_TOKENS,
            "end_ids": tuple(dict.fromkeys((*(own.end_ids if own else ()), *self.manifest.chat.end_ids))),
        }
        given = {k: v for k, v in arguments.items() if not (k == "max_new_tokens" and v is None)}
        return self._options({**defaults, **given})  # type: ignore[typeddict-item]

    def _prompt_of_chat(
        self, template: ChatTemplate, messages: Sequence[Message], overflow: Overflow, wanted: int
    ) -> Prepared:
        """Tokens of the whole chat, or without as many of the oldest turns as make room for ``wanted`` new ones."""

        def ids(dropped: int) -> tuple[int, ...]:
            return tuple(self._read_chat(template, template.render(turns_from(messages, dropped))))

        most = self.manifest.max_context
        if overflow == "error":
            if len(found := ids(0)) > most:
                raise too_long("the chat", len(found), most)
            return Prepared(ids=found)

        def fitting(dropped: int) -> tuple[int, ...] | None:
            if size_fault(turns_from(messages, dropped)):
                return None
            try:
                found = ids(dropped)
            except TokenizerError:  # more than the budget of a template
                return None
            return found if len(found) + wanted <= most + 1 else None

        last = max(0, len(user_turns(template.checked(messages))) - 1)
        if last and (whole := fitting(0)):
            return Prepared(ids=whole)
        found = ids(last)  # first: what the last turn fails at, no longer chat mends
        if len(found) > most:
            raise too_long("the last turn of the chat", len(found), most, cut=False)
        dropped = bisect_left(range(last), True, lo=min(1, last), key=lambda turns: fitting(turns) is not None)
        return Prepared(ids=found if dropped == last else ids(dropped), truncated=dropped > 0)

    def _read_chat(self, template: ChatTemplate, text: str) -> list[int]:
        """Tokens of a rendered chat, control tokens among them, but none that is not spelled there."""
        ids = self.tokenizer.encode_control(text, "the chat")
        for token in template.control_tokens:
            if ids.count(self.tokenizer.added_tokens[token]) > text.count(token):
                raise InputError(
                    f"the tokenizer finds the control token {token!r} in the messages, where another spelling becomes "
                    "it: write that otherwise"
                )
        return ids


def user_turns(messages: Sequence[Message]) -> list[int]:
    """Where the turns of a chat begin: with a message of the user."""
    return [i for i, message in enumerate(messages) if message.get("role") == "user"]


def turns_from(messages: Sequence[Message], dropped: int) -> Sequence[Message]:
    """``messages`` without the first ``dropped`` turns; what stands before the first turn remains."""
    if dropped == 0:
        return messages
    turns = user_turns(messages)
    return [*messages[: turns[0]], *messages[turns[dropped] :]]
