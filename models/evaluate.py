"""Translation quality while training: greedy decoding of the validation text, in batches, with a cache."""

from __future__ import annotations

import torch
from sacrebleu.metrics import BLEU
from tokenizers import Tokenizer

from .data import pad
from .tasks import Translation
from .transformer import Transformer


@torch.no_grad()
def greedy_batch(model: Transformer, sources: list[list[int]], limit: int) -> list[list[int]]:
    """Target ids of each source, end token left out; at most ``limit`` tokens."""
    config = model.config
    ids = pad([[*source, config.end_id] for source in sources], config.pad_id)
    mask = ids != config.pad_id
    cross = model.cross_key_value(model.encode(ids, mask))
    tokens = torch.full((len(sources), 1), config.start_id)
    past = None
    for step in range(limit):
        key_mask = torch.ones(len(sources), step + 1, dtype=torch.bool)
        positions = torch.full((len(sources), 1), step)
        hidden, past = model.decode(tokens[:, -1:], positions, key_mask, past, cross, mask)
        tokens = torch.cat([tokens, model.logits(hidden[:, -1]).argmax(-1, keepdim=True)], dim=1)
        if bool((tokens == config.end_id).any(1).all()):
            break
    return [_until(row, config.end_id) for row in tokens[:, 1:].tolist()]


def _until(row: list[int], end_id: int) -> list[int]:
    return row[: row.index(end_id)] if end_id in row else row


def validation_bleu(model: Transformer, tokenizer: Tokenizer, valid: Translation) -> float:
    """Cased sacreBLEU of greedy translations of the validation text."""
    limit = min(100, model.config.max_positions)
    order = sorted(range(len(valid.source)), key=lambda i: len(valid.source[i]))
    output = [""] * len(order)
    for start in range(0, len(order), 128):
        rows = order[start : start + 128]
        for i, ids in zip(rows, greedy_batch(model, [valid.source[i] for i in rows], limit), strict=True):
            output[i] = tokenizer.decode(ids)
    return float(BLEU().corpus_score(output, [list(valid.text[1])]).score)
