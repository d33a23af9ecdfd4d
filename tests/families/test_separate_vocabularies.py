"""Sources with an embedding, and a vocabulary, of their own: PyTorch's translation tutorial and Marian's folders."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

import edgewise
from edgewise.errors import BundleFormatError, CheckpointError, ConfigError, TokenizerError
from edgewise.export.sentences import SENTENCES
from edgewise.models.open import open_checkpoint
from edgewise.runtime.bundle.manifest import ModelSpec, read_manifest

from ..bundles import Damaged, export_few
from .folders import byte_level, randomize
from .torch_folders import sinusoids, write

pytestmark = pytest.mark.slow
WIDTH, LONGEST = 32, 64
UNK, PAD, START, END = range(4)  # as in the tutorial
TEXTS = ["The man rides.", "Zwei Hunde spielen im Schnee!", "日本語 👧"]
Compare = Callable[..., None]


def tokenizer(size: int, lines: Sequence[str]) -> Tokenizer:
    """Byte-level, with the tutorial's special tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<unk>", "<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(lines, trainer)
    return made


@cache
def tokenizers() -> tuple[Tokenizer, Tokenizer]:
    """Of sources, and of translations, which have fewer tokens."""
    lines = ["The man rides the bicycle", "Two dogs play in the snow", "A girl in a red hat", "A boy on the street"]
    return tokenizer(290, lines * 4), tokenizer(280, ["Zwei Hunde spielen im Schnee", "Ein Mann fährt Rad"] * 4)


class TokenEmbedding(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return self.embedding(ids) * math.sqrt(WIDTH)  # type: ignore[no-any-return]


class PositionalEncoding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pos_embedding", sinusoids(LONGEST + 5, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pos_embedding[: x.shape[1], 0]  # type: ignore[no-any-return,index]


class Seq2SeqTransformer(nn.Module):
    """The network of PyTorch's tutorial "Language Translation with nn.Transformer", batch first."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.transformer = nn.Transformer(WIDTH, 4, 2, 2, 48, dropout=0.0, batch_first=True)
        self.generator = nn.Linear(WIDTH, target)
        self.src_tok_emb, self.tgt_tok_emb = TokenEmbedding(source), TokenEmbedding(target)
        self.positional_encoding = PositionalEncoding()

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        padding = source == PAD
        hidden = self.transformer(
            self.positional_encoding(self.src_tok_emb(source)),
            self.positional_encoding(self.tgt_tok_emb(target)),
            tgt_mask=torch.ones(target.shape[1], target.shape[1]).triu(1).bool(),
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return self.generator(hidden)  # type: ignore[no-any-return]


@cache
def network(source: int = 290, target: int = 280) -> Seq2SeqTransformer:
    made = randomize(Seq2SeqTransformer(source, target), 5, std=0.15)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" in name:
                parameter.add_(1.0) if name.endswith("weight") else parameter.mul_(0.2)
            elif name.endswith("bias"):
                parameter.mul_(0.2)
            elif "emb" in name:
                parameter.mul_(2.0)
    return made.train()  # type: ignore[return-value]


def describe(**text: Any) -> dict[str, Any]:
    ids = {"vocab_size": 280, "pad_id": PAD, "start_id": START, "end_id": END, "max_positions": LONGEST}
    names = {"encoder": "transformer.encoder", "decoder": "transformer.decoder", "output": "generator"}
    names |= {"embedding": "tgt_tok_emb.embedding", "source_embedding": "src_tok_emb.embedding"}
    names |= {"positions": "positional_encoding.pos_embedding"}
    sizes = {"num_encoder_layers": 2, "num_decoder_layers": 2, "dim_feedforward": 48}
    return {
        "weights": "model.pt",
        "kind": "encoder-decoder",
        "arguments": {"d_model": WIDTH, "nhead": 4, **sizes},
        "text": {**ids, "source_vocab_size": 290, "starts_source": True, **text},
        "names": names,
    }


def tutorial(folder: Path) -> Path:
    """What somebody has who followed the tutorial, and the description of it."""
    folder.mkdir(parents=True)
    torch.save(network().state_dict(), folder / "model.pt")
    for name, made in zip(("source_tokenizer.json", "tokenizer.json"), tokenizers(), strict=True):
        (folder / name).write_text(made.to_str())
    return write(folder, describe())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("separate")
    export_few(tutorial(out / "mine"), out / "bundle")
    return out / "bundle"


@torch.no_grad()
def naive_tokens(text: str, steps: int) -> tuple[list[int], list[int]]:
    """What the tutorial's ``translate`` reads, and one whole pass for every token."""
    source, tokens = [START, *tokenizers()[0].encode(text).ids, END], list[int]()
    while len(tokens) < steps and END not in tokens:
        logits = network()(torch.tensor([source]), torch.tensor([[START, *tokens]]))
        tokens.append(int(logits[0, -1].argmax()))
    return source, tokens


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@torch.no_grad()
def test_logits_are_those_of_pytorch(target: str, bundle: Path, assert_close: Compare, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    mask = torch.arange(40) < torch.tensor([[40], [1], [17]])
    source = torch.randint(4, 290, (3, 40), generator=generator).masked_fill(~mask, PAD)
    fed = torch.randint(4, 280, (3, 9), generator=generator)
    expected = network()(source, fed)
    model = open_checkpoint(tutorial(tmp_path / "mine")).model
    assert_close(model.logits(model(source, fed)), expected, atol=1e-4)
    with edgewise.load(bundle, target, "fp32", 1) as session:
        memory = session.engine.encode_source(source.numpy(), mask.numpy())
        logits = session.engine.decoder_logits(memory, fed.numpy(), np.ones(fed.shape, np.bool_))
    assert_close(logits, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"])
def test_a_session_reads_and_writes_as_the_tutorial_does(variant: str, bundle: Path) -> None:
    with edgewise.load(bundle, *variant.split("-"), threads=1) as session:
        report = session.verify()
        found = session.translate(TEXTS, beam_size=1, max_new_tokens=20)
        aligned = session.translate(TEXTS, beam_size=3, max_new_tokens=20, alignments=True)
        scores = session.score(TEXTS, ["Zwei Hunde", "spielen", "im Schnee"])
    assert report.ok, report.summary()
    for text, result in zip(TEXTS, found, strict=True):
        source, tokens = naive_tokens(text, 20)
        assert list(result.source_tokens) == source
        if variant.endswith("fp32"):
            assert list(result.tokens) == tokens
            assert result.text == tokenizers()[1].decode(tokens)
    assert all(g.hypotheses[0].alignment is not None for g in aligned)
    assert list(scores[0].tokens) == [*tokenizers()[1].encode("Zwei Hunde").ids, END]


def test_a_source_is_no_guess_at_its_translation(bundle: Path) -> None:
    """Speculation looks results up in a source, whose tokens mean something else here."""
    with edgewise.load(bundle, "cpu", "fp32", 1) as session:
        for text in TEXTS:
            fast = session.translate(text, beam_size=1, max_new_tokens=20, speculate=4)
            assert fast.tokens == session.translate(text, beam_size=1, max_new_tokens=20).tokens


def test_what_a_bundle_holds(bundle: Path) -> None:
    manifest = read_manifest(bundle / "manifest.json")
    model = manifest.model
    assert (model.vocab_size, model.source_vocab_size, model.source_start_id) == (280, 290, START)
    assert model.source((7,)) == (START, 7, END)
    assert manifest.file("source_tokenizer.json") is not None


def test_an_embedding_of_its_own_with_one_vocabulary(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    tutorial(folder)
    (folder / "source_tokenizer.json").unlink()
    torch.save(network(280, 280).state_dict(), folder / "model.pt")
    data = describe()
    del data["text"]["source_vocab_size"]
    export_few(write(folder, data), tmp_path / "bundle", ("cpu",), ("fp32",))
    with edgewise.load(tmp_path / "bundle", threads=1) as session:
        assert session.source_tokenizer is session.tokenizer
        assert session.manifest.model.source_vocab_size == 280
        assert session.verify().ok


REFUSED: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    r"source_pad_id \(290\) must be a token id below source_vocab_size \(290\)": ({"source_pad_id": 290}, ConfigError),
    "text.source_vocab_size is 'many', expected int": ({"source_vocab_size": "many"}, ConfigError),
    r"source_embedding\.weight has shape \(290, 32\), expected \(291, 32\)": (
        {"source_vocab_size": 291},
        CheckpointError,
    ),
    r"source_tokenizer\.json has ids up to 289, the network 285 tokens": ({"source_vocab_size": 285}, CheckpointError),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_descriptions_that_are_refused(reason: str, tmp_path: Path) -> None:
    change, error = REFUSED[reason]
    tutorial(tmp_path / "mine")
    if change.get("source_vocab_size") == 285:
        torch.save(network(285, 280).state_dict(), tmp_path / "mine" / "model.pt")
    with pytest.raises(error, match=reason):
        open_checkpoint(write(tmp_path / "mine", describe(**change)))


def test_a_vocabulary_without_its_tokenizer_or_embedding(tmp_path: Path) -> None:
    file = tutorial(tmp_path / "mine")
    (tmp_path / "mine" / "source_tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no source_tokenizer\.json: sources have a vocabulary of 290"):
        open_checkpoint(file)
    (tmp_path / "mine" / "source_tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"source_tokenizer\.json: expected a tokenizer of the tokenizers"):
        open_checkpoint(file)
    data = describe()
    del data["names"]["source_embedding"]
    with pytest.raises(ConfigError, match=r"text\.source_vocab_size needs names\.source_embedding"):
        open_checkpoint(write(tmp_path / "mine", data))


MODEL_REFUSED: dict[str, dict[str, Any]] = {
    "source_end_id and source_pad_id need source_vocab_size": {"source_vocab_size": None, "source_pad_id": 1},
    "adds_start is for one vocabulary": {"adds_start": True},
    r"source_start_id \(300\) must be below the 290 tokens of sources": {"source_start_id": 300},
    r"source_end_id \(290\) must be below the 290 tokens of sources": {"source_end_id": 290},
    "belong to an encoder beside a decoder": {"decoder": None},
}


@pytest.mark.parametrize("reason", MODEL_REFUSED)
def test_manifests_that_are_refused(reason: str, bundle: Path) -> None:
    data = json.loads((bundle / "manifest.json").read_text())["model"]
    with pytest.raises(BundleFormatError, match=reason):
        ModelSpec.from_json({**data, **MODEL_REFUSED[reason]})


def test_tokenizers_that_were_exchanged(bundle: Path, tmp_path: Path) -> None:
    damaged = Damaged(bundle, tmp_path / "b")
    damaged.write("tokenizer.json", (bundle / "source_tokenizer.json").read_bytes())
    with pytest.raises(TokenizerError, match="the tokenizer has the token id 289, and the model's vocabulary ends"):
        edgewise.load(tmp_path / "b", "cpu", "fp32", 1)
    damaged.write("tokenizer.json", (bundle / "tokenizer.json").read_bytes())
    damaged.write("source_tokenizer.json", tokenizer(299, SENTENCES).to_str().encode())
    with pytest.raises(TokenizerError, match=r"the tokenizer of sources has the token id 29\d, and the model's"):
        edgewise.load(tmp_path / "b", "cpu", "fp32", 1)
    damaged.write("source_tokenizer.json", byte_level(starts=False).to_str().encode()[:200])
    with pytest.raises(TokenizerError, match=r"source_tokenizer\.json"):
        edgewise.load(tmp_path / "b", "cpu", "fp32", 1)
    (tmp_path / "b" / "source_tokenizer.json").unlink()
    damaged.fit()
    with edgewise.load(tmp_path / "b", "cpu", "fp32", 1) as session:  # one tokenizer may serve two embeddings
        assert not session.verify().ok
