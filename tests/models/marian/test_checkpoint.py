"""Marian's ``.npz`` against its formulas written out in NumPy, on the reference and both engines; what is refused."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from edgewise.errors import CheckpointError, ConfigError
from edgewise.models.marian.npz import read_npz
from edgewise.models.open import open_checkpoint
from edgewise.runtime.bundle.model_spec import ModelSpec
from edgewise.runtime.decoding import Request, start_search
from edgewise.runtime.inputs import Prepared
from edgewise.runtime.options import DecodingOptions
from edgewise.runtime.search import finish

from ...open_model import open_model
from .naive import END, PRE_NORM, SETTINGS, WIDTH, Naive, arrays, changed, log_softmax, write

Compare = Callable[..., None]
CASES = {
    "as published": SETTINGS,
    "pre-norm": changed(SETTINGS, PRE_NORM),
    "untied, relu": changed(
        SETTINGS,
        {
            "tied-embeddings-all: true": "tied-embeddings-all: false",
            "swish": "relu",
            "postprocess-emb: d": 'postprocess-emb: ""',
        },
    ),
}
SOURCES = [[7, 8, 9, END], [40, 41, 42, 43, 99, 250, 12, END], [END]]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_log_probabilities_and_tokens_are_those_of_the_formulas(
    case: str, tmp_path: Path, assert_close: Compare
) -> None:
    settings = CASES[case]
    naive, checkpoint = Naive(settings, arrays(settings, 4)), open_checkpoint(write(tmp_path, settings, 4))
    model, target = checkpoint.model, [33, 71, 5, 90, 33]
    read = torch.tensor([[model.config.start_id, *target]])
    spec = ModelSpec.from_json(model.config.to_json())
    engines = [open_model(model, name, tmp_path / name) for name in ("cpu", "openvino")]
    for source in SOURCES:
        expected = log_softmax(naive.logits(source, target)).astype(np.float32)
        ids, mask = torch.tensor([source]), torch.ones(1, len(source), dtype=torch.bool)
        seen = torch.ones_like(read, dtype=torch.bool)
        cross = model.cross_key_value(model.encode(ids, mask))
        states = model.decode(read, torch.arange(6)[None], seen, cross=cross, cross_mask=mask)[0]
        actual = model.logits(states)[0].log_softmax(-1)
        assert_close(actual[:, :-1].numpy(), expected, atol=1e-4)
        assert bool((actual[:, -1] < -100).all())  # the token that Marian does not have
        tokens = naive.greedy(source, 20)
        for engine in engines:
            memory = engine.encode_source(ids.numpy(), mask.numpy())
            logits = engine.decoder_logits(memory, read.numpy(), seen.numpy())[0]
            assert_close(log_softmax(logits)[:, :-1], expected, atol=1e-4)
            request = Request(source=Prepared(ids=tuple(source)), limit=20)
            found = finish(start_search(engine, spec, [request], DecodingOptions(beam_size=1)))[0][0]
            assert list(found.tokens) == tokens


def test_what_a_file_says(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("for tests\n")
    found = open_checkpoint(write(tmp_path / "tiny"))
    config = found.model.config
    assert (found.name, found.max_context, found.tokenizer_file.parent) == ("model", 512, tmp_path / "tiny")
    assert (config.end_id, config.start_id, config.pad_id) == (END, config.vocab_size - 1, config.vocab_size - 1)
    assert not found.model.embedding.weight[-1].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type: transformer": "type: s2s"}, "type is 's2s', expected 'transformer'"),
        ({"type: transformer": "typed: transformer"}, "type is None, expected 'transformer'"),
        (
            {"autoreg: self-attention": "autoreg: rnn"},
            "transformer-decoder-autoreg is 'rnn', expected 'self-attention'",
        ),
        ({"no-projection: false": "no-projection: true"}, "transformer-no-projection is 'true', expected 'false'"),
        ({"ffn-depth: 2": "ffn-depth: 3"}, "transformer-ffn-depth is '3', expected '2'"),
        ({"swish": "gelu"}, "transformer-ffn-activation is 'gelu', expected one of 'swish', 'relu'"),
        ({"heads: 4": "heads: many"}, "transformer-heads is 'many', expected a number"),
        ({"heads: 4": "heads: 5"}, r"d_model \(32\) must be a multiple of n_heads \(5\)"),
        ({"postprocess: dan": "postprocess: dhn"}, "layers do '' before and 'hn' after, expected '' and 'an' or"),
        (
            {"postprocess-emb: d": "postprocess-emb: n"},
            "transformer-postprocess-emb is 'n', expected dropout or nothing",
        ),
        ({"  []": "  - 1\n  - 1"}, r"transformer-tied-layers is \['1', '1'\], expected none"),
        ({"ulr: false": "transformer-new: 3"}, r"transformer-new \('3'\) is not understood"),
        ({"tied-embeddings-all: true": "tied-embeddings-all: perhaps"}, "is 'perhaps', expected true or false"),
        ({"ulr: false": "right-left: true"}, "right-left is 'true', expected 'false'"),
        ({"ulr: false": "skip: true"}, "skip is 'true', expected 'false'"),
        ({"ulr: false": "transformer-pool: true"}, "transformer-pool is 'true', expected 'false'"),
        ({"ulr: false": "transformer-attention-mask: alibi"}, "attention-mask is 'alibi', expected 'default'"),
        ({"ulr: false": "lemma-dependency: re-embedding"}, "lemma-dependency is 're-embedding', expected none"),
        ({"ulr: false": "factors-dim-emb: 8"}, "factors-dim-emb is '8', expected '0'"),
        ({"ulr: false": "special-vocab:\n  - 1"}, r"special-vocab is \['1'\], expected none"),
        ({"ulr: false": "input-types:\n  - class\n  - sequence"}, r"input-types are \['class', 'sequence'\], expected"),
        ({"ulr: false": "bert-mask-symbol: x"}, r"bert-mask-symbol \('x'\) is not understood"),
        ({"ulr: false": "transformer-flash-rope: 1"}, r"transformer-flash-rope \('1'\) is not understood"),
        ({"dim-emb: 32": "dim-emb: 999"}, "dim-emb is '999', expected 32, the size of the embedding"),
        ({"dim-emb: 32\n": ""}, "dim-emb is None, expected 32"),
        ({"  - 300\n  - 300": "  - 300\n  - 400"}, r"dim-vocabs is \['300', '400'\], expected 300"),
    ],
)
def test_other_networks_are_refused_by_name(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(write(tmp_path, changed(SETTINGS, changes)))


def test_settings_without_effect_are_read(tmp_path: Path) -> None:
    more = "right-left: false\nskip: ~\nspecial-vocab: ~\ninput-types:\n  - sequence\n  - sequence\ndim-rnn: 1024\n"
    open_checkpoint(write(tmp_path, SETTINGS + more))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"yml": None}, "has no special:model.yml of bytes: it was not written by Marian"),
        ({"yml": 1, "special:model.yml": np.zeros(3, np.float32)}, "has no special:model.yml of bytes"),
        ({"yml": 1, "special:model.yml": np.frombuffer(b"a: {b: [", np.int8)}, None),
        ({"yml": 1, "special:model.yml": np.frombuffer(b"  deep: 3", np.int8)}, "'  deep: 3' is no flat YAML"),
        ({"yml": 1, "special:model.yml": np.frombuffer(b"a: 3\na: 4", np.int8)}, "'a: 4' is no flat YAML"),
        ({"Wemb": None}, "has no matrix Wemb, and not both encoder_Wemb and decoder_Wemb"),
        ({"encoder_l1_self_Wq": None}, "missing encoder.layers.0.attention.query.weight"),
        ({"encoder_l1_self_Wq": np.zeros((3, 3), np.float32)}, "query.weight has shape"),
        ({"encoder_l0_self_Wq": np.zeros((WIDTH, WIDTH), np.float32)}, "layers are counted from 1"),
        ({"decoder_l9_self_bq": np.zeros((1, WIDTH), np.float32)}, "unexpected decoder.layers.8.attention.query.bias"),
        ({"encoder_l1_self_Wx": np.zeros(2, np.float32)}, "unexpected encoder_l0_self_Wx"),
        ({"decoder_ff_logit_out_b": np.full((1, 3), np.nan, np.float32)}, "vocabulary_bias has shape"),
        ({"encoder_l1_self_Wq": np.zeros((WIDTH, WIDTH), np.int8)}, "query.weight has dtype torch.int8"),
    ],
)
def test_arrays_that_do_not_fit(more: dict[str, Any], message: str | None, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError if message else ConfigError, match=message):
        open_checkpoint(write(tmp_path, **more))


def test_the_tokenizer_has_to_be_its_own(tmp_path: Path) -> None:
    file = write(tmp_path)
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("</s>", "<end>"))
    with pytest.raises(CheckpointError, match="has no token '</s>', which ends Marian's texts"):
        open_checkpoint(file)
    with pytest.raises(CheckpointError, match=r"has ids up to .*, the network 9 tokens"):
        open_checkpoint(write(tmp_path, Wemb=np.zeros((9, WIDTH), np.float32)))


def test_what_the_tokenizer_puts_around_a_text_is_what_marian_does(tmp_path: Path) -> None:
    file = write(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for template, fits in (("$A </s>", True), ("<|start|> $A </s>", False), ("$A </s> </s>", False)):
        tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[("</s>", END), ("<|start|>", 1)])
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        if fits:
            open_checkpoint(file)
            continue
        with pytest.raises(
            CheckpointError, match=r"after a text, expected nothing before, and '</s>' \(0\) or nothing after"
        ):
            open_checkpoint(file)


def test_a_tokenizer_is_needed(tmp_path: Path) -> None:
    file = write(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")  # what a tokenizer of BERT's is made of
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json: put one there whose ids are"):
        open_checkpoint(file)


def npy(array: Any, **save: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), **save)
    return stream.getvalue()


def header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def long_header(text: str) -> bytes:
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text.encode() + bytes(64)


OTHER_HEADER = "'a.npy' with another header than an array of numbers has"
REST = ", 'fortran_order': False, 'shape': (2,), }\n"
NO_HEADERS = [
    *("{'descr': '<f4'\n", "[", "{[]: 1}", "(" * 9000, "-" * 9000 + "1", "  a\n b", "", "\x00", " " * 20_000),
    *(f"{{'descr': {kind}{REST}" for kind in ("','", "((((((),),),),),)", "[('a', '<f4')]", "('<f4', (2, 2))", "{}")),
    *(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}" for shape in ("(2)", "(True,)", "(1e400,)")),
    f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(1,) * 70}, }}",
    f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'9' * 5000},), }}",
]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"x", "'a.txt', no array or a compressed one"),
        ("a.npy", b"x", "got .*magic"),
        ("a.npy", header((2**40, 2**20)), r"'a.npy' as \(1099511627776, 1048576\) of float32 in"),
        ("a.npy", header((3,)) + bytes(8), "'a.npy' with 8 bytes, where 12 are expected|'a.npy' as"),
        ("a.npy", header((2,)) + bytes(9), "'a.npy' with 9 bytes, where 8 are expected"),
        ("a.npy", header((0, 3)), r"'a.npy' as \(0, 3\)"),
        ("a.npy", header((2,), "<U8") + bytes(64), OTHER_HEADER),
        ("a.npy", npy(np.array([{}], object), allow_pickle=True), OTHER_HEADER),
        ("a.npy", npy(np.zeros(2), version=(3, 0)), OTHER_HEADER),
        ("a.npy", header((2,)).replace(b"shape", b"shap("), OTHER_HEADER),
        ("a.npy", header((2,))[:30], OTHER_HEADER),
        *(("a.npy", header((2,), kind) + bytes(32), OTHER_HEADER) for kind in (">f4", ">f2", "<f16", "<c8", "|f4")),
        *(("a.npy", long_header(text), OTHER_HEADER) for text in NO_HEADERS),
    ],
)
def test_members_that_are_no_arrays(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(name, data)
    with pytest.raises(CheckpointError, match=message):
        read_npz(tmp_path / "a.npz")


def test_archives_that_are_none_or_compressed(tmp_path: Path) -> None:
    for data in (b"", b"PK\x03\x04" + bytes(40)):
        (tmp_path / "a.npz").write_bytes(data)
        with pytest.raises(CheckpointError, match=r"expected an .npz file of Marian's, got File is not a zip file"):
            read_npz(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "b.npz", a=np.zeros(100_000))
    with pytest.raises(CheckpointError, match="no array or a compressed one"):
        read_npz(tmp_path / "b.npz")
    with pytest.raises(CheckpointError, match=r"got .*No such file"):
        read_npz(tmp_path / "gone.npz")


def test_archives_with_two_members_of_one_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", npy(np.zeros(2)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.npy", npy(np.zeros(2)))
    with pytest.raises(CheckpointError, match="got two members of one name"):
        read_npz(tmp_path / "a.npz")


def test_what_numpy_writes_is_read(tmp_path: Path) -> None:
    kinds = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
    expected: dict[str, Any] = {kind: np.arange(6).reshape(1, 2, 3).astype(kind) for kind in kinds}
    expected |= {"columns": np.asfortranarray(np.arange(6, dtype=np.int8).reshape(2, 3))}
    expected |= {"scalar": np.float32(2.5), "vector": np.arange(3.0)}
    np.savez(tmp_path / "a.npz", **expected)
    found = read_npz(tmp_path / "a.npz")
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        torch.from_numpy(found[name])


@pytest.mark.slow
def test_every_damage_is_refused_or_still_fits(tmp_path: Path) -> None:
    file = write(tmp_path)
    data = file.read_bytes()
    for place in [*range(0, 2000, 61), *range(len(data) - 4000, len(data), 97)]:
        for damaged in (data[:place], data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]):
            file.write_bytes(damaged)
            try:
                found = read_npz(file)
            except CheckpointError:
                continue
            assert sum(array.nbytes for array in found.values()) <= len(data)
