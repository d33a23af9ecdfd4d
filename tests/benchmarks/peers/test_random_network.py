"""Random weights that are as good as trained ones for timing, and for telling a wrong decoder from a right one."""

from __future__ import annotations

from pathlib import Path

import torch

from edgewise.benchmarks.peers.random_network import NEVER, SPECIALS, made_up_tokenizer, marian_base, random_network
from edgewise.models import generate
from edgewise.models.checkpoint import Checkpoint
from edgewise.runtime.tokenizer import Tokenizer

SOURCES = [[5, 6, 7, 8, 2], [300, 200, 100, 50, 2], [11, 2]]


def test_every_search_makes_as_many_tokens_as_it_may(small: Checkpoint) -> None:
    greedy = generate.greedy(small.model, SOURCES, 64)
    beams = [best[0] for best in generate.beam(small.model, SOURCES, 4, 1.0, 64)]
    for decoded in (*greedy, *beams):
        assert len(decoded.tokens) == 64
        assert min(decoded.tokens) >= len(SPECIALS)


def test_tokens_change_along_a_sentence_and_between_sentences(small: Checkpoint) -> None:
    rows = [decoded.tokens for decoded in generate.greedy(small.model, SOURCES, 64)]
    assert all(len(set(row)) > 10 for row in rows)
    assert len(set(rows)) == len(rows)


def test_no_bias_or_norm_is_left_as_it_began(small: Checkpoint) -> None:
    for name, value in small.model.state_dict().items():
        if name.endswith("bias"):
            assert value.std() > 0.01, name
        elif ".norm." in name:
            assert (value - 1).std() > 0.01, name


def test_specials_are_never_chosen_and_float16_keeps_it_so(small: Checkpoint) -> None:
    bias = small.model.vocabulary_bias
    assert bias is not None
    assert bias[: len(SPECIALS)].tolist() == [NEVER] * len(SPECIALS)


def test_the_same_seed_makes_the_same_weights() -> None:
    config = marian_base(n_layers=1, d_model=16, vocab_size=300)
    same, again, other = (random_network(config, seed) for seed in (1, 1, 2))
    assert torch.equal(same.embedding.weight, again.embedding.weight)
    assert not torch.equal(same.embedding.weight, other.embedding.weight)


def test_the_shape_is_marians_base() -> None:
    config = marian_base()
    assert config.encoder == config.decoder
    assert config.decoder is not None
    shape = config.decoder
    assert (shape.n_layers, shape.d_model, shape.n_heads, shape.d_ff) == (6, 512, 8, 2048)
    assert (config.vocab_size, shape.norm_place, shape.activation) == (32_000, "post", "relu")


def test_its_tokenizer_spells_words_and_has_as_many_tokens(tmp_path: Path, small: Checkpoint) -> None:
    tokenizer = Tokenizer.open(small.tokenizer_file)
    assert tokenizer.vocab_size == 400
    assert tokenizer.encode("ab c") == [4 + ord(letter) for letter in "abc"]
    assert tokenizer.piece(399) == "▁word399"
    assert len(made_up_tokenizer(32_000)["model"]["vocab"]) == 32_000
