"""How to decode, on the command line: the options of ``edgewise run`` and what they are to a session."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .errors import InputError

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "seed", "samples")
DECODING = (
    "beam_size",
    "length_penalty",
    "coverage_penalty",
    "early_stopping",
    "patience",
    "beam_groups",
    "diversity_penalty",
    "n_best",
    "alternatives",
    "max_new_tokens",
    "min_new_tokens",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "no_repeat_ngram",
    "suppress",
    "include",
    "stop",
    "prefix",
    "prefix_bias",
    "deadline",
    "alignments",
    "speculate",
)
LANGUAGES = {"source_language": "--from", "target_language": "--to"}
"""How the options are written that are ``source`` and ``target`` of a session; ``--target`` is where it runs."""


def add_decoding_options(parser: argparse.ArgumentParser) -> None:
    """Options of search, sampling and rules."""
    add_languages(parser)
    search = parser.add_argument_group("search")
    search.add_argument("--beam-size", type=count, help="1 is greedy (default: the bundle's)")
    search.add_argument("--length-penalty", type=float, help="divides scores by ((5 + length) / 6) ** penalty")
    search.add_argument(
        "--coverage-penalty", type=float, help="what leaving parts of the input unread costs; 0 nothing"
    )
    search.add_argument(
        "--early-stopping", choices=("true", "false", "never"), help="when enough hypotheses are enough"
    )
    search.add_argument("--patience", type=float, help="enough is the beam size times this (default: 1)")
    search.add_argument("--beam-groups", type=count, help="groups of beams that avoid each other's tokens")
    search.add_argument("--diversity-penalty", type=float, help="what a token counts less that another group took")
    search.add_argument("--n-best", type=count, help="hypotheses for every text, with --json")
    search.add_argument("--alternatives", type=count, help="results for so many first tokens, with --json")
    search.add_argument(
        "--speculate", type=count, metavar="TOKENS", help="read so many likely tokens at once; the same results"
    )
    search.add_argument("--prefix", help="what an output has to begin with")
    search.add_argument("--prefix-bias", type=float, help="above 0 and below 1: the prefix is only so much likelier")
    search.add_argument(
        "--alignments",
        action="store_const",
        const=True,
        help="which words each was made from, with --json",
    )
    draw = parser.add_argument_group("sampling", "each of these draws at random instead of taking the most probable")
    draw.add_argument("--temperature", type=float, help="divides logits (default: 1)")
    draw.add_argument("--top-k", type=count, help="draw from the so many most probable tokens")
    draw.add_argument("--top-p", type=float, help="draw from the fewest tokens that are so probable together")
    draw.add_argument("--min-p", type=float, help="draw from tokens so many times as probable as the best")
    draw.add_argument("--typical-p", type=float, help="draw from the fewest typical tokens so probable together")
    draw.add_argument("--seed", type=int, help="the same draw every time")
    draw.add_argument("--samples", type=count, help="draws for every text, with --json")
    draw.add_argument(
        "--recommended-sampling", action="store_const", const=True, help="draw as the bundle recommends, see inspect"
    )
    rules = parser.add_argument_group("rules")
    rules.add_argument("--max-new-tokens", type=count, help="most tokens of an output (default: the input's + 50)")
    rules.add_argument("--min-new-tokens", type=count, help="fewest tokens of an output, the end token left out")
    rules.add_argument("--repetition-penalty", type=float, help="divides logits of tokens that were read; 1 is none")
    rules.add_argument("--presence-penalty", type=float, help="subtracted once for a token that is in the output")
    rules.add_argument("--frequency-penalty", type=float, help="subtracted for every time a token is in the output")
    rules.add_argument("--no-repeat-ngram", type=count, help="no so many tokens twice in the same order")
    rules.add_argument("--suppress", action="append", metavar="TEXT", help="a text that must not come; may be repeated")
    rules.add_argument("--include", action="append", metavar="TEXT", help="a text that must come; may be repeated")
    form = rules.add_mutually_exclusive_group()
    form.add_argument("--regex", metavar="PATTERN", help="what an output has to match; needs llguidance")
    form.add_argument(
        "--json-schema", type=Path, metavar="FILE", help="what an output has to obey as JSON; needs llguidance"
    )
    rules.add_argument("--stop", action="append", metavar="TEXT", help="a text that ends an output; may be repeated")
    rules.add_argument("--deadline", type=float, metavar="SECONDS", help="what a batch of lines may take at most")


def count(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return value


def add_languages(parser: argparse.ArgumentParser) -> None:
    """Options that choose the languages of translations."""
    group = parser.add_argument_group("languages", "of a translation, where a bundle knows several")
    for name, option in LANGUAGES.items():
        which = "the texts'" if option == "--from" else "the translations'"
        group.add_argument(
            option, dest=name, metavar="CODE", help=f"{which} language, a code that edgewise inspect lists"
        )


def languages_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Those that are chosen, as a session's keyword arguments."""
    return {name.partition("_")[0]: getattr(arguments, name) for name in LANGUAGES if getattr(arguments, name)}


def flag(name: str) -> str:
    """How the option ``name`` is written."""
    return f"--{name.replace('_', '-')}"


def decoding_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, as the session's keyword arguments."""
    from .runtime.options import Grammar, Sampling

    given = {name: getattr(arguments, name) for name in DECODING if getattr(arguments, name) is not None}
    given |= languages_of(arguments)
    if "early_stopping" in given:
        given["early_stopping"] = {"true": True, "false": False, "never": "never"}[given["early_stopping"]]
    draw = {name: getattr(arguments, name) for name in SAMPLING if getattr(arguments, name) is not None}
    if draw and arguments.recommended_sampling:
        raise InputError(f"--recommended-sampling says all of it: leave out {flag(next(iter(draw)))}")
    if draw or arguments.recommended_sampling:
        given["sampling"] = Sampling(**draw) if draw else "recommended"
    if arguments.regex is not None:
        given["grammar"] = Grammar(regex=arguments.regex)
    if arguments.json_schema is not None:
        given["grammar"] = Grammar(json_schema=_schema(arguments.json_schema))
    return given


def _schema(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:  # the latter at some thousand brackets
        raise InputError(f"{file} is no JSON ({error}): --json-schema takes a file with a JSON schema") from error
