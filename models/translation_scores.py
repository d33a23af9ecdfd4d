"""BLEU and chrF of a translation checkpoint: ``python -m edgewise.models.translation_scores CHECKPOINT --data DIR``.

The length penalty is chosen on the validation text, by beam search with a width of 5; the test text is translated once,
with that choice and greedily. The scores go into the checkpoint's ``training.json``, with sacreBLEU's signatures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sacrebleu.metrics import BLEU, CHRF
from tokenizers import Tokenizer
from tqdm import tqdm

from .checkpoint import load_checkpoint, write_scores
from .data import read_lines
from .generate import beam, greedy
from .tokenizer import as_text_only
from .transformer import Transformer

PENALTIES = (0.0, 0.4, 0.6, 0.8, 1.0, 1.2)
BEAM_SIZE = 5
EXTRA_TOKENS = 50
"""A translation may be this much longer than its source (Vaswani et al. 2017, section 6.1)."""


class System(NamedTuple):
    """How to decode: beam 1 is greedy, where the length penalty chooses nothing."""

    beam_size: int
    length_penalty: float

    def __str__(self) -> str:
        if self.beam_size == 1:
            return "greedy"
        return f"beam {self.beam_size}, length penalty {self.length_penalty:g}"


def translate(
    model: Transformer, tokenizer: Tokenizer, lines: Sequence[str], system: System, batch_size: int = 64
) -> list[str]:
    """Translations of ``lines``, decoded in batches of similar length."""
    sources = [[*ids, model.config.end_id] for ids in _ids(tokenizer, lines)]
    order = sorted(range(len(lines)), key=lambda i: len(sources[i]))
    output = [""] * len(lines)
    for start in tqdm(range(0, len(order), batch_size), desc=str(system), unit="batch", file=sys.stderr, leave=False):
        rows = order[start : start + batch_size]
        for i, tokens in zip(rows, _decode(model, [sources[i] for i in rows], system), strict=True):
            output[i] = tokenizer.decode(list(tokens))
    return output


def _ids(tokenizer: Tokenizer, lines: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(list(lines), add_special_tokens=False)]


def _decode(model: Transformer, sources: list[list[int]], system: System) -> list[tuple[int, ...]]:
    limits = [min(len(source) + EXTRA_TOKENS, model.config.max_positions) for source in sources]
    if system.beam_size == 1:
        return [result.tokens for result in greedy(model, sources, limits)]
    results = beam(model, sources, system.beam_size, system.length_penalty, limits)
    return [best[0].tokens for best in results]


def measure(output: Sequence[str], reference: Sequence[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Scores in percent, and their signatures."""
    metrics = {"BLEU": BLEU(), "BLEU -lc": BLEU(lowercase=True), "chrF": CHRF()}
    scores = {name: round(m.corpus_score(output, [reference]).score, 2) for name, m in metrics.items()}
    return scores, {name: str(metric.get_signature()) for name, metric in metrics.items()}


def score_checkpoint(folder: Path, data: Path, penalties: Sequence[float] = PENALTIES) -> dict[str, Any]:
    """Rows of the table, as kept in ``training.json``."""
    checkpoint = load_checkpoint(folder)
    tokenizer = as_text_only(Tokenizer.from_file(str(checkpoint.tokenizer_file)))
    signatures: dict[str, str] = {}

    def row(part: str, system: System) -> dict[str, Any]:
        source, reference = (read_lines(data / f"{part}.{side}") for side in ("en", "de"))
        scores, new = measure(translate(checkpoint.model, tokenizer, source, system), reference)
        signatures.update(new)
        tqdm.write(f"{part}, {system}: {scores}", file=sys.stderr)
        return {"data": part, "system": str(system), **scores}

    grid = {penalty: row("val", System(BEAM_SIZE, penalty)) for penalty in penalties}
    best = max(grid, key=lambda penalty: (grid[penalty]["BLEU"], -penalty))
    systems = (System(BEAM_SIZE, best), System(1, 0.0))
    rows = [*grid.values(), row("val", systems[1]), *(row("test_2016_flickr", system) for system in systems)]
    return {"rows": rows, "length_penalty": best, "signatures": signatures}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m edgewise.models.translation_scores", description=__doc__.split("\n")[0]
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of Multi30k")
    parser.add_argument("--length-penalty", type=float, help="use this one instead of choosing on the validation text")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="processor threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    given = arguments.length_penalty
    scores = score_checkpoint(arguments.checkpoint, arguments.data, PENALTIES if given is None else (given,))
    write_scores(arguments.checkpoint, scores)
    for row in scores["rows"]:
        print(*row.values(), sep="\t")


if __name__ == "__main__":
    main()
