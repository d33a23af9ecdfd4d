"""What ``edgewise run`` does with speech: a file of log-mel features in, a line of text out."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_answers import generation_hypotheses
from .errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .runtime.session import Session

SPEECH = {
    "language": "--language",
    "speech_task": "--translate",
    "timestamps": "--timestamps",
    "previous": "--previous",
}
"""Options of speech, and how they are written."""
MAX_BYTES = 1 << 30
"""Of a file of features: some nine hours of sound in 80 bands."""
_HEADER = re.compile(
    rb"\x93NUMPY(?:\x01\x00..|\x02\x00....)"
    rb"\{'descr': '([^']{1,20})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]{1,18}, ?)*(?:[0-9]{1,18})?)\), \} *\n",
    re.DOTALL,
)


def add_speech_options(parser: argparse.ArgumentParser) -> None:
    """How windows of speech are written down."""
    speech = parser.add_argument_group(
        "speech", "of a bundle that transcribes; its texts are .npy files of float32 log-mel features"
    )
    speech.add_argument("--language", metavar="CODE", help="what is spoken (default: it is detected)")
    speech.add_argument(
        "--translate", dest="speech_task", action="store_const", const="translate", help="write it in English"
    )
    speech.add_argument("--timestamps", action="store_const", const=True, help="when it was said, in seconds")
    speech.add_argument("--previous", metavar="TEXT", help="what came before, for names and terms")


def refuse_idle_speech(arguments: argparse.Namespace, task: str) -> None:
    """End with a usage error where an option of speech has nothing to do with the ``task`` of a bundle."""
    given = [option for name, option in SPEECH.items() if getattr(arguments, name) is not None]
    if given and task != "transcribe":
        arguments.parser.error(f"{', '.join(given)}: a bundle made for {task} hears nothing")
    if task == "transcribe" and (arguments.source_language or arguments.target_language):
        arguments.parser.error("--from, --to: a bundle made for transcribe takes --language and --translate")
    if task == "transcribe" and arguments.overflow != "error":
        arguments.parser.error(f"--overflow {arguments.overflow}: a bundle made for transcribe takes whole windows")


def listener(
    session: Session, arguments: argparse.Namespace, decoding: dict[str, Any]
) -> Callable[[list[str]], list[dict[str, Any]]]:
    """What turns the names of files into results: ``output`` is what the text mode prints.

    All files are looked at before the first is written down: what was would be lost with the file that cannot be read.
    """
    from .runtime.hearing import windows_of

    speech = session.manifest.model.speech
    assert speech is not None  # of a bundle that transcribes
    given = {name: getattr(arguments, name) for name in SPEECH if getattr(arguments, name) is not None}
    if "speech_task" in given:
        given["task"] = given.pop("speech_task")
    asked: Any = {**decoding, **given, "batch_size": arguments.batch_size}

    def answer(file: str) -> dict[str, Any]:
        features: Any = read_features(Path(file))
        found = session.transcribe(features, **asked)
        windows = found if isinstance(found, list) else [found]
        texts = (_timed(window) if arguments.timestamps else window.text for window in windows)
        return {"output": " ".join(filter(None, texts)), "truncated": False, "windows": [*map(_window, windows)]}

    def answers(files: list[str]) -> list[dict[str, Any]]:
        for file in files:
            windows_of(read_features(Path(file)), speech)
        return [answer(file) for file in files]

    return answers


def _timed(window: Any) -> str:
    """Each segment behind its times."""
    ends = ("" if segment.end is None else f"{segment.end:.2f}" for segment in window.segments)
    return " ".join(f"[{s.start:.2f}-{end}] {s.text.strip()}" for s, end in zip(window.segments, ends, strict=True))


def _window(window: Any) -> dict[str, Any]:
    plain = ("language", "language_probability", "no_speech_probability")
    return {
        "text": window.text,
        **{name: getattr(window, name) for name in plain},
        "segments": [vars(segment) for segment in window.segments],
        "hypotheses": generation_hypotheses(window.hypotheses),
        "seconds": {"first_token": window.timings.first_token, "total": window.timings.total},
    }


def read_features(file: Path) -> NDArray[np.float32]:
    """The array of a ``.npy`` file, read without evaluating its header.

    Source: the format's versions 1.0 and 2.0 in ``numpy/lib/format.py``, as ``numpy.save`` writes them.

    Raises:
        InputError: the file is missing, larger than ``MAX_BYTES``, no ``.npy`` file, or holds something else than a
            whole array of float32.
    """
    import numpy as np

    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # the latter of a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{file} cannot be read ({reason}): name a .npy file of log-mel features") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{file} has more than {MAX_BYTES} bytes: split it")
    found = _HEADER.match(data)
    if found is None:
        raise InputError(f"{file} is no .npy file of one array of numbers: save the features with numpy.save")
    kind, fortran, sizes = (group.decode(errors="replace") for group in found.groups())
    if kind != "<f4":
        raise InputError(f"{file} holds numbers of type {kind!r}, expected '<f4': save the features as float32")
    shape = tuple(int(size) for size in sizes.split(",") if size.strip())
    rest = len(data) - found.end()
    if len(shape) > 3:
        raise InputError(f"{file} says an array of {len(shape)} dimensions, expected (windows, bands, frames)")
    if max(shape, default=0) * 4 > MAX_BYTES or 4 * math.prod(shape) != rest:
        raise InputError(f"{file} says an array of shape {shape}, and has {rest} bytes of it: save it again")
    numbers = np.frombuffer(data, "<f4", offset=found.end()).astype(np.float32, copy=False)
    return numbers.reshape(shape, order="F" if fortran == "True" else "C")
