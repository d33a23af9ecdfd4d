"""``edgewise chat``: a line is a message of the user, and what is printed the answer."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

from .cli_answers import generation_answer, one_line
from .cli_decoding import add_decoding_options, decoding_arguments, flag
from .cli_input import standard_input
from .errors import InputError

if TYPE_CHECKING:
    from .runtime.continuous import Job
    from .runtime.session import Session

_SEVERAL = ("n_best", "samples", "alternatives", "alignments")


def add_chat_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``edgewise chat`` beside those of every engine."""
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before the first message")
    parser.add_argument(
        "--overflow",
        choices=("error", "truncate"),
        default="truncate",
        help="a chat beyond the context: end with an error, or forget the oldest turns (default)",
    )
    add_decoding_options(parser)


def check_chat_options(arguments: argparse.Namespace) -> None:
    """Refuse what has no place in a chat; ends the program with the usage."""
    if given := [flag(name) for name in _SEVERAL if getattr(arguments, name) is not None]:
        arguments.parser.error(f"{', '.join(given)}: a chat has one answer and no alignment")


def chat(session: Session, arguments: argparse.Namespace) -> int:
    """Answer the lines of standard input. Returns the exit status."""
    talk = _Talk(session, arguments)
    for number, text in standard_input("> "):
        if not text.strip():
            if not talk.by_hand:
                print(flush=True)
            continue
        try:
            talk.answer(number, text)
        except InputError as error:
            if not talk.by_hand:
                raise type(error)(f"line {number}: {error}") from error
            print(f"edgewise: error: {error}", file=sys.stderr)
    return 0


class _Talk:
    """A chat under way: the messages so far."""

    def __init__(self, session: Session, arguments: argparse.Namespace) -> None:
        self.session, self.json = session, arguments.json
        self.by_hand = sys.stdin.isatty() and not self.json
        self.options: Any = {**decoding_arguments(arguments), "overflow": arguments.overflow}
        self.messages: list[dict[str, str]] = []
        session.check_chat()
        if arguments.system is not None:
            self.messages.append({"role": "system", "content": arguments.system})

    def answer(self, number: int, text: str) -> None:
        """Print the answer to a message; both are history once it is there, and neither is where it fails."""
        asked = [*self.messages, {"role": "user", "content": text}]
        method = "chat_stream" if self.by_hand else "chat"
        job = self.session._chat_job(method, asked, self.options)
        if job.request.source.truncated:
            print(f"edgewise: warning: at line {number} the oldest turns no longer fit: forgotten", file=sys.stderr)
        found = self._streamed(job) if self.by_hand else self._whole(text, job)
        self.messages = [*asked, {"role": "assistant", "content": self._harmless(found)}]

    def _streamed(self, job: Job) -> str:
        """Ctrl-C ends the answer, of which the rest is kept."""
        text = ""
        with closing(self.session._chat_pieces(job)) as pieces:
            try:
                for piece in pieces:
                    text += piece
                    print(piece, end="", flush=True)
            except KeyboardInterrupt:
                pass
        print(flush=True)
        return text

    def _whole(self, text: str, job: Job) -> str:
        found = self.session._chat_answer(job)
        line = {"input": text, **generation_answer("", found)}
        print(json.dumps(line, ensure_ascii=False) if self.json else one_line(found.text), flush=True)
        return found.text

    def _harmless(self, text: str) -> str:
        """An answer without spelled-out control tokens, which would end the chat as a message's do."""
        before = ""
        while before != text:
            before = text
            for token in self.session._chat_template.control_tokens:
                text = text.replace(token, "")
        return text
