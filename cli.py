"""The command line: ``edgewise export | verify | run | chat | inspect | bench``.

Data goes to standard output, everything else to standard error. Exit status: 0 done, 1 failed (a message, no
traceback), 2 used wrongly, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .cli_answers import Answer, document_answer, fills_answer, generation_answer, one_line
from .cli_chat import add_chat_options, chat, check_chat_options
from .cli_decoding import (
    DECODING,
    LANGUAGES,
    SAMPLING,
    add_decoding_options,
    add_languages,
    count,
    decoding_arguments,
    flag,
    languages_of,
)
from .cli_input import chunks, standard_input
from .cli_progress import Progress
from .cli_speech import add_speech_options, listener, refuse_idle_speech
from .errors import EdgewiseError, InputError, MissingExtraError

if TYPE_CHECKING:
    from .runtime.bundle.manifest import Manifest
    from .runtime.session import Session

TARGETS = ("cpu", "openvino")
PRECISIONS = ("fp32", "int8", "int8-fast", "int4")
_EXPORT_LIBRARIES = ("torch", "safetensors", "onnx", "onnxscript", "onnx_ir")


class _Parser(argparse.ArgumentParser):
    """Ends a usage error with where to read more."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and how to learn what is right."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {message}\nhint: '{self.prog} --help' explains it\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; ``argv`` without the program's name. Returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # the same bytes whatever the locale
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
        sys.stdout.flush()
    except EdgewiseError as error:
        return _failed(str(error))
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return 130
    return status


def _failed(message: str) -> int:
    print(f"edgewise: error: {message}", file=sys.stderr)
    return 1


def _parser() -> _Parser:
    from . import __version__

    parser = _Parser(prog="edgewise", description="Transformers as small verified INT8 graphs, run without torch.")
    parser.add_argument("--version", action="version", version=f"edgewise {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for add in (_add_run, _add_chat, _add_verify, _add_inspect, _add_bench, _add_export):
        add(commands)
    return parser


Commands = Any  # argparse keeps the class of its sub-parsers to itself


def _command(commands: Commands, name: str, function: Callable[[argparse.Namespace], int], about: str) -> _Parser:
    parser: _Parser = commands.add_parser(name, help=about, description=about)
    parser.set_defaults(command=function, parser=parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser


def _add_engine_options(parser: _Parser) -> None:
    parser.add_argument("--target", default="auto", help="cpu, openvino, openvino:GPU, openvino:NPU (default: auto)")
    parser.add_argument("--precision", default="auto", help="fp32, int8, int8-fast or int4 (default: auto)")
    parser.add_argument("--threads", type=count, help="threads (default: what this machine allows)")
    _add_skip_hashes(parser)


def _add_skip_hashes(parser: _Parser) -> None:
    parser.add_argument("--skip-hashes", action="store_true", help="open the bundle without checking its hashes")


def _add_bundle(parser: _Parser) -> None:
    parser.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="default: the one inside the package")


# run


def _add_run(commands: Commands) -> None:
    parser = _command(
        commands, "run", _run, "Do the bundle's own task: a line in, a line out. Blank lines pass through."
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[BUNDLE] TEXT",
        help="texts, or - for lines from standard input, which is also the default. A first argument that is a folder "
        "with a manifest.json is the bundle. Input is UTF-8; bytes that are not become U+FFFD, with a warning",
    )
    parser.add_argument("--bundle", type=Path, help="the bundle, where a text could be mistaken for one")
    _add_engine_options(parser)
    add_decoding_options(parser)
    add_speech_options(parser)
    parser.add_argument(
        "--overflow",
        choices=("error", "truncate", "windows"),
        default="error",
        help="text beyond the context; windows: of a text that becomes classes, values or a vector",
    )
    parser.add_argument(
        "--sentences",
        nargs="?",
        const="",
        metavar="LANGUAGE",
        help="translate every text sentence by sentence; the language it is in (default: the bundle's)",
    )
    parser.add_argument("--batch-size", type=count, default=32, help="lines that go through together (default: 32)")


def _run(arguments: argparse.Namespace) -> int:
    from .runtime.load import load

    bundle, words = _split_words(arguments.bundle, arguments.words)
    for name in ("n_best", "samples", "alternatives"):
        if (getattr(arguments, name) or 1) > 1 and not arguments.json:
            arguments.parser.error(f"{flag(name)} gives several lines for one: add --json")
    if arguments.alignments and not arguments.json:
        arguments.parser.error("--alignments has no place in a line of text: add --json")
    with load(
        bundle, arguments.target, arguments.precision, arguments.threads, verify=not arguments.skip_hashes
    ) as session:
        _refuse_idle_options(arguments, session.manifest.task)
        answer = _answerer(session, arguments)
        from_stdin = words in ([], ["-"])
        lines = standard_input() if from_stdin else enumerate(words, start=1)
        size = 1 if from_stdin and sys.stdin.isatty() else arguments.batch_size
        kind = "line" if from_stdin else "text"
        for chunk in chunks(lines, size):
            for result in _answered(chunk, answer, kind):
                print(json.dumps(result, ensure_ascii=False) if arguments.json else one_line(result["output"]))
            sys.stdout.flush()
    return 0


def _split_words(bundle: Path | None, words: list[str]) -> tuple[Path | None, list[str]]:
    """The bundle, ``None`` for the embedded one, and the texts."""
    if bundle is None and words and _is_bundle(words[0]):
        return Path(words[0]), words[1:]
    return bundle, words


def _is_bundle(word: str) -> bool:
    """A bundle's folder, or what can only be meant as a path: that there is no bundle, opening it will say."""
    if not word.isprintable() or len(word) > 4096:
        return False
    return Path(word, "manifest.json").is_file() or (word.startswith(("./", "../", "/")) and " " not in word)


def _refuse_idle_options(arguments: argparse.Namespace, task: str) -> None:
    refuse_idle_speech(arguments, task)
    if task not in ("translate", "generate", "transcribe"):
        named = (*DECODING, *SAMPLING, "recommended_sampling", "regex", "json_schema")
        given = [flag(name) for name in named if getattr(arguments, name) is not None]
        given += [option for name, option in LANGUAGES.items() if getattr(arguments, name) is not None]
        if given:
            arguments.parser.error(f"{', '.join(given)}: a bundle made for {task} does not decode")
    if arguments.sentences is not None and task != "translate":
        arguments.parser.error(f"--sentences: a bundle made for {task} translates nothing")
    if task in ("tag", "answer", "fill_mask") and arguments.overflow != "error":
        reads = "refuses longer texts" if task == "fill_mask" else "reads longer texts whole, in windows"
        arguments.parser.error(f"--overflow {arguments.overflow}: a bundle made for {task} {reads}")


Answerer = Callable[[list[str]], list[Answer]]


def _answerer(session: Session, arguments: argparse.Namespace) -> Answerer:
    """What turns texts into results: ``output`` is what the text mode prints."""
    shared = {"overflow": arguments.overflow, "batch_size": arguments.batch_size}
    decoding: Any = decoding_arguments(arguments)
    if session.manifest.task == "translate" and arguments.sentences is not None:
        return lambda texts: [
            document_answer(session, t, arguments.sentences or None, decoding | shared) for t in texts
        ]
    if session.manifest.task == "translate":
        return lambda texts: [generation_answer("", g) for g in session.translate(texts, **decoding, **shared)]
    if session.manifest.task == "generate":
        return lambda texts: [
            generation_answer(text, g)
            for text, g in zip(texts, session.generate(texts, **decoding, **shared), strict=True)
        ]
    if session.manifest.task == "transcribe":
        return listener(session, arguments, decoding)
    if session.manifest.task in ("classify", "regress", "tag", "answer"):
        from .cli_reading import reader

        return reader(session, arguments.overflow, arguments.batch_size)
    if session.manifest.task == "embed":
        return lambda texts: [
            {"output": " ".join(f"{value:.7g}" for value in vector), "vector": vector, "truncated": e.truncated}
            for e in session.embed(texts, **shared)
            for vector in [e.vector.tolist()]
        ]
    return lambda texts: [fills_answer(session.fill_mask(text)) for text in texts]


def _answered(chunk: list[tuple[int, str]], answer: Answerer, kind: str) -> Iterator[Answer]:
    """Results in order, blank lines among them. What comes before a line that cannot be taken is not lost."""
    asked = [text for _, text in chunk if text.strip()]
    try:
        results = iter(answer(asked)) if asked else iter(())
    except InputError as error:
        if len(chunk) == 1:
            raise type(error)(f"{kind} {chunk[0][0]}: {error}") from error
        for line in chunk:
            yield from _answered([line], answer, kind)
        return
    for number, text in chunk:
        if not text.strip():
            yield {"input": text, "output": ""}
            continue
        result = next(results)
        if result["truncated"]:
            print(f"edgewise: warning: {kind} {number} is longer than the context and was cut", file=sys.stderr)
        yield {"input": text, **result}


# chat


def _add_chat(commands: Commands) -> None:
    parser = _command(
        commands,
        "chat",
        _chat,
        "Chat with a decoder-only bundle: a line of standard input is a message, and all lines are one chat. On a "
        "terminal an answer comes word by word, else in one line. Needs the 'chat' extra.",
    )
    _add_bundle(parser)
    _add_engine_options(parser)
    add_chat_options(parser)


def _chat(arguments: argparse.Namespace) -> int:
    from .runtime.load import load

    check_chat_options(arguments)
    verified = not arguments.skip_hashes
    with load(arguments.bundle, arguments.target, arguments.precision, arguments.threads, verify=verified) as session:
        return chat(session, arguments)


# verify


def _add_verify(commands: Commands) -> None:
    parser = _command(
        commands,
        "verify",
        _verify,
        "Replay what PyTorch gave for the bundle's reference inputs, on this machine and without torch. "
        "Without --target and --precision: every variant whose engine is installed.",
    )
    _add_bundle(parser)
    _add_engine_options(parser)


def _verify(arguments: argparse.Namespace) -> int:
    from .runtime.bundle import Bundle
    from .runtime.load import EMBEDDED, load

    embedded = arguments.bundle is None
    opened = Bundle.open(arguments.bundle or EMBEDDED, not arguments.skip_hashes, allow_hard_links=embedded)
    reports, left_out = [], {}
    for target, precision in _chosen(opened.manifest, arguments.target, arguments.precision):
        try:
            session = load(arguments.bundle, target, precision, arguments.threads, verify=False)  # checked above
        except MissingExtraError as error:
            if arguments.target != "auto":
                raise
            left_out[f"{target}-{precision}"] = str(error)
            print(f"edgewise: {target}-{precision} is not verified: {error}", file=sys.stderr)
            continue
        with session, Progress(f"verify {target}-{precision}") as progress:
            reports.append(session.verify(progress))
        if not arguments.json:
            print(f"{reports[-1].table()}\n")
    ok = bool(reports) and all(report.ok for report in reports)
    if arguments.json:
        print(json.dumps({"ok": ok, "variants": [r.to_json() for r in reports], "not_verified": left_out}))
    return 0 if ok else 1


def _chosen(manifest: Manifest, target: str, precision: str) -> list[tuple[str, str]]:
    """The variants that were asked for, as target and precision."""
    from .runtime.load import check_names, choose

    check_names(target, precision)
    if target == "auto" and precision == "auto":
        return [(v.target, v.precision) for v in manifest.variants]
    fitting: list[tuple[str, str]] = [
        (v.target if target == "auto" else target, v.precision)
        for v in manifest.variants
        if target.partition(":")[0] in ("auto", v.target) and precision in ("auto", v.precision)
    ]
    if not fitting:
        choose(manifest, target, precision)  # raises, and says what there is
    return fitting


# inspect and bench


def _add_inspect(commands: Commands) -> None:
    parser = _command(
        commands,
        "inspect",
        _inspect,
        "Say what a bundle holds: model, variants, the kernel of every matrix, sizes, provenance, report, licence.",
    )
    _add_bundle(parser)
    _add_skip_hashes(parser)


def _inspect(arguments: argparse.Namespace) -> int:
    from .runtime import inspect
    from .runtime.bundle import Bundle
    from .runtime.load import EMBEDDED

    embedded = arguments.bundle is None
    bundle = Bundle.open(arguments.bundle or EMBEDDED, not arguments.skip_hashes, allow_hard_links=embedded)
    print(json.dumps(inspect.describe(bundle)) if arguments.json else inspect.as_text(bundle))
    return 0


def _add_bench(commands: Commands) -> None:
    parser = _command(commands, "bench", _bench, "Time a bundle on this machine.")
    _add_bundle(parser)
    _add_engine_options(parser)
    parser.add_argument("--repeats", type=count, default=5, help="timed passes over the texts (default: 5)")
    parser.add_argument("--texts", type=count, default=32, help="texts of a pass (default: 32)")
    add_languages(parser)


def _bench(arguments: argparse.Namespace) -> int:
    from .benchmarks import bench
    from .runtime.load import load

    languages = languages_of(arguments)
    with (
        load(
            arguments.bundle,
            arguments.target,
            arguments.precision,
            arguments.threads,
            verify=not arguments.skip_hashes,
        ) as session,
        Progress("bench") as progress,
    ):
        if languages and session.manifest.task != "translate":
            arguments.parser.error(f"--from, --to: a bundle made for {session.manifest.task} translates nothing")
        report = bench.measure(session, arguments.repeats, arguments.texts, progress, languages)
    print(json.dumps(report.to_json()) if arguments.json else report.table())
    return 0


# export


def _add_export(commands: Commands) -> None:
    parser = _command(commands, "export", _export, "Make a bundle from a checkpoint. Needs the 'export' extra.")
    parser.add_argument(
        "source",
        type=Path,
        metavar="SRC",
        help="the checkpoint: a folder of edgewise's own, one of Hugging Face's or CTranslate2's, a GGUF file, an .npz "
        "of Marian's, or a TOML file that describes a torch.nn.Transformer (docs/formats.md)",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the new bundle")
    parser.add_argument(
        "--family",
        type=Path,
        metavar="FILE.py",
        help="a network that edgewise does not know, as a table of your own (docs/families.md). The file is code and "
        "is run: name only one that you wrote or read",
    )
    parser.add_argument(
        "--exporter",
        choices=("edgewise", "optimum"),
        default="edgewise",
        help="optimum: graphs of an architecture that edgewise does not know are made by that library, of this "
        "environment or of the one whose Python EDGEWISE_OPTIMUM_PYTHON names (default: edgewise)",
    )
    parser.add_argument("--target", action="append", choices=TARGETS, help="repeat for several (default: all)")
    parser.add_argument(
        "--precision", action="append", choices=PRECISIONS, help="repeat for several (default: fp32 and int8)"
    )
    parser.add_argument(
        "--eval",
        nargs=2,
        type=Path,
        metavar=("SRC.en", "SRC.de"),
        help="texts and their translations, a line each: a quantized variant that falls too far behind fp32 is refused",
    )
    parser.add_argument("--max-drop", type=float, default=0.3, help="most BLEU it may lose (default: 0.3)")
    add_languages(parser)


def _export(arguments: argparse.Namespace) -> int:
    from .export.onnx_folder.files import is_onnx_folder

    if (there := is_onnx_folder(arguments.source)) or arguments.exporter == "optimum":
        from .cli_onnx import export_by_optimum, export_graphs

        with Progress("export") as progress:
            graphs = (export_graphs if there else export_by_optimum)(arguments, TARGETS, progress)
        print(json.dumps(graphs.to_json()) if arguments.json else graphs.table())
        return 0
    _require_export_libraries(with_bleu=arguments.eval is not None)
    from .pipeline import export_bundle

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of optional libraries that are not needed
    if not arguments.max_drop >= 0:
        arguments.parser.error(f"--max-drop ({arguments.max_drop}) must be at least 0")
    if (languages := languages_of(arguments)) and not arguments.eval:
        arguments.parser.error("--from, --to: languages of the texts of --eval, and there are none")
    for file in arguments.eval or ():
        if not file.is_file():  # said before the minutes of a build, not after
            raise InputError(f"{file} is no file: --eval takes a text and its translation, a line each")
    with Progress("export") as progress:
        report = export_bundle(
            arguments.source,
            arguments.output,
            tuple(dict.fromkeys(arguments.target or TARGETS)),
            tuple(dict.fromkeys(arguments.precision or ("fp32", "int8"))),
            tuple(arguments.eval) if arguments.eval else None,
            arguments.max_drop,
            progress,
            family_file=arguments.family,
            languages=languages,
        )
    print(json.dumps(report.to_json()) if arguments.json else report.table())
    return 0


def _require_export_libraries(with_bleu: bool) -> None:
    from importlib.util import find_spec

    wanted = (*_EXPORT_LIBRARIES, "sacrebleu") if with_bleu else _EXPORT_LIBRARIES
    if missing := [name for name in wanted if find_spec(name) is None]:
        raise MissingExtraError(
            f"export needs {', '.join(missing)}, not installed here: pip install 'edgewise[export]'. On Linux that "
            "brings torch with CUDA; for the CPU build, first: "
            "pip install torch --index-url https://download.pytorch.org/whl/cpu"
        )
