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
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

import edgewise
from edgewise.errors import BundleFormatError, CheckpointError, ConfigError, TokenizerError
from edgewise.export.sentences import SENTENCES
from edgewise.models.open import open_checkpoint
from edgewise.runtime.bundle.manifest import read_manifest
from edgewise.runtime.bundle.model_spec import ModelSpec
from edgewise.runtime.tokenizer import Tokenizer as Codec

from ..bundles import Damaged, export_few
from ..models.sentencepiece.trained import mixed
from .folders import (
    SOURCE_LINES,
    TARGET_LINES,
    byte_level,
    change_json,
    library_marian,
    randomize,
    sentencepiece_model,
    sentencepiece_processor,
    write_json,
)
from .torch_folders import sinusoids, write

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")]
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


def marian(folder: Path, tags: tuple[str, ...] = (">>fra<<", ">>deu<<"), **config: Any) -> Path:
    """A Marian folder with two vocabularies, as the original library writes it; the target's is the smaller one."""
    folder.mkdir(parents=True)
    sizes = []
    for side, name, lines in (("source", "vocab", SOURCE_LINES), ("target", "target_vocab", TARGET_LINES)):
        (folder / f"{side}.spm").write_bytes(sentencepiece_model(lines * 9, vocab_size=90 if side == "source" else 70))
        made = sentencepiece_processor(folder / f"{side}.spm")
        pieces = [made.id_to_piece(i) for i in range(len(made)) if not made.is_control(i)]
        own = [piece for piece in pieces if piece != "<unk>"]
        names = ["</s>", "<unk>", "<pad>", *(tags if side == "source" else ()), *own]
        write_json(folder / f"{name}.json", {piece: i for i, piece in enumerate(names)})
        sizes.append(len(names))
    write_json(folder / "tokenizer_config.json", {"separate_vocabs": True, "target_vocab_file": "target_vocab.json"})
    fields = {"vocab_size": sizes[0], "decoder_vocab_size": sizes[1], "share_encoder_decoder_embeddings": False}
    fields |= {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 64}
    fields |= {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in SIZES.items()}
    fields |= {"pad_token_id": 2, "eos_token_id": 0, "decoder_start_token_id": 2, "scale_embedding": True, **config}
    model = transformers.MarianMTModel(transformers.MarianConfig(**fields, forced_eos_token_id=None))
    randomize(model, 7, std=0.3)  # type: ignore[arg-type]
    with torch.no_grad():
        model.final_logits_bias.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
        for stack in (model.model.encoder, model.model.decoder):  # sinusoids, which randomize took for weights
            stack.embed_positions.weight.copy_(stack.embed_positions.create_weight())
    model.generation_config.bad_words_ids = [[2]]
    model.save_pretrained(folder)
    return folder


SIZES = {"attention_heads": 4, "ffn_dim": 48}
MARIAN: dict[str, dict[str, Any]] = {"tied": {}, "untied": {"tie_word_embeddings": False}}


@pytest.mark.parametrize("case", MARIAN)
@torch.no_grad()
def test_marian_with_two_vocabularies(case: str, tmp_path: Path, assert_close: Compare) -> None:
    folder = marian(tmp_path / "m", **MARIAN[case])
    theirs, model = library_marian(folder), open_checkpoint(folder).model
    assert (model.config.tied, model.config.source_end_id) == (case == "tied", 0)
    generator = torch.Generator().manual_seed(2)
    source = torch.randint(4, theirs.config.vocab_size, (3, 20), generator=generator)
    fed = torch.randint(4, theirs.config.decoder_vocab_size, (3, 9), generator=generator)
    expected = theirs(source, decoder_input_ids=fed)
    hidden = model.encode(source, torch.ones_like(source, dtype=torch.bool))
    assert_close(hidden, expected.encoder_last_hidden_state)
    logits = model.logits(model(source, fed))
    assert_close(logits[..., 3:], expected.logits[..., 3:], atol=1e-4)


def test_marian_translates_with_two_vocabularies(tmp_path: Path) -> None:
    folder = marian(tmp_path / "m")
    theirs = library_marian(folder)
    export_few(folder, tmp_path / "b", precisions=("fp32", "int8"))
    tokens = transformers.MarianTokenizer.from_pretrained(folder)
    texts = ["A man is riding.", ">>fra<< The girl, in a red hat, on the street?", "日本語 dogs"]
    for target in ("cpu", "openvino"):
        with edgewise.load(tmp_path / "b", target, "fp32", 1) as session:
            found = session.translate(texts, beam_size=1, max_new_tokens=16)
            chosen = session.translate("The girl, in a red hat, on the street?", target="fra", beam_size=1)
            assert session.verify().ok
        for text, result in zip(texts, found, strict=True):
            read = tokens(text, return_tensors="pt")
            assert list(result.source_tokens) == read["input_ids"][0].tolist()
            new = theirs.generate(**read, do_sample=False, num_beams=1, max_new_tokens=16)[0, 1:].tolist()
            assert list(result.tokens) == new
            assert result.text.strip() == tokens.decode(new, skip_special_tokens=True)
        assert chosen.source_tokens == found[1].source_tokens
        with edgewise.load(tmp_path / "b", target, "int8", 1) as session:
            assert session.translate(texts[0]).source_tokens == found[0].source_tokens


def test_ten_thousand_lines_of_two_vocabularies_have_the_tokens_of_the_library(tmp_path: Path) -> None:
    folder = marian(tmp_path / "m")
    theirs, checkpoint = transformers.MarianTokenizer.from_pretrained(folder), open_checkpoint(folder)
    assert checkpoint.source_tokenizer is not None
    assert checkpoint.made_tokenizer is not None
    ours = [Codec(text.encode()) for text in (checkpoint.source_tokenizer, checkpoint.made_tokenizer)]
    for line in mixed(10_000):
        assert [*ours[0].encode(line), 0] == theirs(line, split_special_tokens=True)["input_ids"], line
        if not line.startswith(">>"):
            expected = theirs(text_target=line, split_special_tokens=True)["input_ids"]
            assert [*ours[1].encode(line), 0] == expected, line


def test_vocabularies_of_marian_that_are_refused(tmp_path: Path) -> None:
    folder = marian(tmp_path / "m")
    change_json(folder / "config.json", share_encoder_decoder_embeddings=True)
    with pytest.raises(ConfigError, match="share_encoder_decoder_embeddings is not false, and separate_vocabs is true"):
        open_checkpoint(folder)
    change_json(folder / "config.json", share_encoder_decoder_embeddings=False)
    (folder / "target.spm").unlink()
    with pytest.raises(TokenizerError, match=r"target\.spm: expected a SentencePiece model, got No such file"):
        open_checkpoint(folder)
