"""The decoding oracle: greedy and beam search that re-run the whole prefix at every step.

Nothing is cached but the encoder's output, which no decoded token can change. Slow, and meant to be: every other
decoder of edgewise is judged by this one.

Rules, the same in :mod:`edgewise.models.generate` and :mod:`edgewise.runtime.search`:

* Every step ranks all continuations of a sentence's ``K`` beams by cumulative log-probability; ties go to the lower
  beam, then to the lower token id. The first step starts from one beam.
* Among the best ``2K``: ``end_id`` within the first ``K`` ranks is a finished hypothesis, further down it is ignored;
  the first ``K`` that are not ``end_id`` live on.
* The finished list keeps the best ``K`` by ``score / ((5 + length) / 6) ** length_penalty`` (Wu et al. 2016, equation
  14, with ``length`` counting ``end_id``). A sentence is done when ``K`` are finished and the worst of them is at least
  as good as the best live beam would be if it ended now.
* At ``max_new_tokens`` the live beams are finished as they are, with reason ``length``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .beam_rules import Candidate as Candidate
from .beam_rules import Decoded as Decoded
from .beam_rules import FinishReason as FinishReason
from .beam_rules import SentenceBeams as SentenceBeams
from .beam_rules import length_norm as length_norm
from .heard import Heard, Source
from .layers import KeyValue
from .transformer import Transformer


class Memory(NamedTuple):
    """What a decoder needs of ``B`` sources: K/V of every layer and their mask ``(B, S)``; empty without encoder."""

    cross: list[KeyValue] | None
    mask: Tensor | None

    def select(self, sentences: list[int]) -> Memory:
        """The memory of some of the sentences, in the order given."""
        if self.cross is None or self.mask is None:
            return self
        index = torch.tensor(sentences)
        return Memory([(k[index], v[index]) for k, v in self.cross], self.mask[index])


def right_pad(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids ``(B, T)`` and their mask ``(B, T)``, false on the padding at the right."""
    longest = max(len(s) for s in sequences)
    ids = torch.tensor([[*s, *[pad_id] * (longest - len(s))] for s in sequences])
    mask = torch.tensor([[True] * len(s) + [False] * (longest - len(s)) for s in sequences])
    return ids, mask


def remember(model: Transformer, sources: Sequence[Source]) -> Memory:
    """Encode ``sources`` once, for every decoder layer."""
    if model.encoder is None:
        return Memory(None, None)
    if model.front is not None:
        hidden = model.listen(torch.stack([s.features for s in sources if isinstance(s, Heard)]))
        return Memory(model.cross_key_value(hidden), torch.ones(hidden.shape[:2], dtype=torch.bool))
    ids, mask = right_pad(_texts(sources), model.config.pad_source)
    return Memory(model.cross_key_value(model.encode(ids, mask)), mask)


def _texts(sources: Sequence[Source]) -> list[Sequence[int]]:
    return [source for source in sources if not isinstance(source, Heard)]


def prompts_of(model: Transformer, sources: Sequence[Source]) -> list[list[int]]:
    """What the decoder is given before it decodes: the start token, for a decoder-only model the source itself, and
    beside speech what came with it.
    """
    if model.encoder is None:
        return [list(s) for s in _texts(sources)]
    if model.front is not None:
        return [list(s.prompt) for s in sources if isinstance(s, Heard)]
    return [list(model.config.decoder_prompt) for _ in sources]


def next_logits(model: Transformer, memory: Memory, prefixes: Sequence[Sequence[int]]) -> Tensor:
    """Logits ``(R, V)`` of the token after each prefix, computed from the whole prefix.

    Prefixes are padded on the right, where the look-ahead mask keeps padding from being seen.
    """
    ids, mask = right_pad(prefixes, model.config.pad_id)
    positions = torch.arange(ids.shape[1])[None].expand_as(ids)
    hidden, _ = model.decode(ids, positions, mask, cross=memory.cross, cross_mask=memory.mask)
    last = mask.sum(1) - 1
    return model.logits(hidden[torch.arange(len(prefixes)), last])


def best_candidates(beams: SentenceBeams, log_probs: Tensor) -> list[Candidate]:
    """The best ``2K + 1`` continuations by total, lower beam, lower id; ``log_probs (live beams, V)``."""
    totals = torch.tensor([total for _, _, total in beams.live], dtype=torch.float64)
    flat = (totals[:, None] + log_probs.double()).flatten()
    wanted = min(2 * beams.beam_size + 1, len(flat))
    near = (flat >= flat.topk(wanted).values[-1]).nonzero()[:, 0]  # ascending index; with every tie of the last
    best = near[flat[near].sort(descending=True, stable=True).indices[:wanted]]
    vocab_size = log_probs.shape[1]
    places = [(i // vocab_size, i % vocab_size) for i in best.tolist()]
    return [Candidate(b, t, float(log_probs[b, t]), float(flat[b * vocab_size + t])) for b, t in places]


@torch.inference_mode()
def beam_batch(
    model: Transformer,
    sources: Sequence[Source],
    beam_size: int,
    length_penalty: float,
    max_new_tokens: int | Sequence[int],
    n_best: int = 1,
) -> list[list[Decoded]]:
    """Beam search over several sentences, each decoded as if alone; ``n_best`` hypotheses each, best first.

    ``sources``: token ids, ending in ``end_id`` for an encoder-decoder; for a decoder-only model the prompts, starting
    with ``start_id``; or what was heard. ``max_new_tokens``: one number, or one a sentence. Rules: the docstring of
    this module.
    """
    limits = [max_new_tokens] * len(sources) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    end_id = model.config.end_id
    sentences = [SentenceBeams(beam_size, length_penalty, limit, end_id) for limit in limits]
    prompts, memory = prompts_of(model, sources), remember(model, sources)
    while todo := [i for i, s in enumerate(sentences) if not s.done]:
        prefixes = [[*prompts[i], *live[0]] for i in todo for live in sentences[i].live]
        log_probs = next_logits(model, memory.select(todo), prefixes).log_softmax(-1)
        for i, rows in zip(todo, log_probs.view(len(todo), -1, log_probs.shape[1]), strict=True):
            sentences[i].advance(best_candidates(sentences[i], rows))
    return [s.results(n_best) for s in sentences]


def beam(
    model: Transformer,
    source: Source,
    beam_size: int,
    length_penalty: float,
    max_new_tokens: int,
    n_best: int = 1,
) -> list[Decoded]:
    """Beam search for one sentence: :func:`beam_batch` of one."""
    return beam_batch(model, [source], beam_size, length_penalty, max_new_tokens, n_best)[0]


@torch.inference_mode()
def greedy(model: Transformer, source: Source, max_new_tokens: int, length_penalty: float = 0.6) -> Decoded:
    """The most probable token at every step, the lower id of equals, until ``end_id`` or ``max_new_tokens``."""
    prompt, memory = prompts_of(model, [source])[0], remember(model, [source])
    tokens: list[int] = []
    log_probs: list[float] = []
    logits: list[Tensor] = []
    gap = math.inf
    while len(tokens) < max_new_tokens and model.config.end_id not in tokens:
        logits.append(next_logits(model, memory, [[*prompt, *tokens]])[0])
        ranked = logits[-1].log_softmax(-1).sort(descending=True, stable=True)
        tokens.append(int(ranked.indices[0]))
        log_probs.append(float(ranked.values[0]))
        gap = min(gap, float(ranked.values[0] - ranked.values[1]))
    score = sum(log_probs)
    return Decoded(
        tokens=tuple(tokens),
        token_log_probs=tuple(log_probs),
        score=score,
        normalized_score=score / length_norm(len(tokens), length_penalty),
        finish_reason="end" if tokens[-1] == model.config.end_id else "length",
        decision_gap=gap,
        logits=torch.stack(logits),
    )
