"""T5 against ``transformers``: every switch that changes the mathematics, tokens and texts, on both engines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file

import edgewise
from edgewise.errors import CheckpointError, ConfigError
from edgewise.export.portable import portable_graphs
from edgewise.models import decode
from edgewise.models.attention import cross_attention_weights
from edgewise.models.open import open_checkpoint
from edgewise.models.position_config import RelativeConfig
from edgewise.models.relative import distance_buckets
from edgewise.models.transformer import Transformer
from edgewise.runtime.bundle.model_spec import ModelSpec
from edgewise.runtime.continuous import ContinuousBatch, Job
from edgewise.runtime.decoding import Request, start_search
from edgewise.runtime.engine import Engine
from edgewise.runtime.inputs import Prepared
from edgewise.runtime.options import DecodingOptions
from edgewise.runtime.search import finish

from ..bundles import export_few
from ..open_model import open_files, write_variant
from .folders import change_json
from .t5_folders import as_older_release, library_t5, library_tokenizer, t5_folder

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:This sequence already has")]
Compare = Callable[..., None]
CASES: dict[str, dict[str, Any]] = {
    "tied, relu": {},
    "gated, of its own": {
        "own_output": True,
        "tie_word_embeddings": False,
        "feed_forward_proj": "gated-gelu",
        "num_decoder_layers": 3,
        "layer_norm_epsilon": 0.3,
        "relative_attention_num_buckets": 12,
        "relative_attention_max_distance": 33,
        "d_kv": 8,
    },
    "mT5, gated silu": {"architecture": "MT5", "own_output": True, "feed_forward_proj": "gated-silu", "num_heads": 2},
}
ON_ENGINES = ["gated, of its own", "mT5, gated silu"]  # the bundle below is of the first
SOURCES = [(5, 9, 30, 44, 8, 1), (1,), (*range(20, 52), 1), (7, 7, 7, 50, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: t5_folder(tmp_path_factory.mktemp("t5") / "tiny", seed=len(case), **CASES[case]))


@pytest.fixture(scope="module")
def engine(folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Engine]:
    """``engine(case, target)`` in float32."""

    @cache
    def graphs(case: str) -> dict[str, ir.Model]:
        return portable_graphs(open_checkpoint(folder(case)).model)

    @cache
    def made(case: str, target: str) -> Engine:
        files = write_variant(graphs(case), target, "float32", tmp_path_factory.mktemp("engine") / "v")
        return open_files(open_checkpoint(folder(case)).model, target, "float32", files)

    return made


def random_batch(seed: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded sources, their mask, and targets; both longer than the farthest distance with a bucket."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(2, 150, (4, 50), generator=generator)
    target = torch.randint(2, 150, (4, 40), generator=generator)
    return source, torch.arange(50) < torch.tensor([[50], [1], [17], [6]]), target


@torch.no_grad()
def logits_of(model: Transformer, source: torch.Tensor, mask: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(target.shape[1])[None].expand_as(target)
    cross = model.cross_key_value(model.encode(source, mask))
    seen = torch.ones_like(target, dtype=torch.bool)
    return model.logits(model.decode(target, positions, seen, cross=cross, cross_mask=mask)[0])


@torch.no_grad()
def library_logits(folder: Path, source: torch.Tensor, mask: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return library_t5(folder)(source, attention_mask=mask.long(), decoder_input_ids=target).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (8, 20), (5, 7), (64, 1000)])
def test_buckets_are_those_of_the_library(buckets: int, farthest: int, both_ways: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention  # noqa: TID251 the oracle

    offsets = torch.arange(-3 * farthest, 3 * farthest + 1)
    expected = T5Attention._relative_position_bucket(offsets, both_ways, buckets, farthest)
    found = distance_buckets(RelativeConfig(buckets=buckets, max_distance=farthest), both_ways)
    assert torch.equal(found[offsets.clamp(-farthest, farthest) + farthest], expected)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_states_and_logits_are_those_of_the_library(
    case: str, folder: Callable[[str], Path], assert_close: Compare
) -> None:
    source, mask, target = random_batch()
    expected = library_t5(folder(case))(source, attention_mask=mask.long(), decoder_input_ids=target)
    model = open_checkpoint(folder(case)).model
    assert_close(model.encode(source, mask)[mask], expected.encoder_last_hidden_state[mask], atol=1e-4)
    assert_close(logits_of(model, source, mask, target), expected.logits, atol=1e-4)


@pytest.mark.parametrize("case", ["gated, of its own"])
def test_a_case_tells_its_switches_apart(case: str, folder: Callable[[str], Path], tmp_path: Path) -> None:
    """With any one of its switches as in the first case the library's own logits are far away."""
    expected = library_logits(folder(case), *random_batch())
    copy = Path(shutil.copytree(folder(case), tmp_path / "copy"))
    original = json.loads((copy / "config.json").read_text())
    plain = {"layer_norm_epsilon": 1e-6, "relative_attention_max_distance": 20, "scale_decoder_outputs": True}
    for name, value in plain.items():
        change_json(copy / "config.json", **{**original, name: value})
        assert (library_logits(copy, *random_batch()) - expected).abs().max() > 0.01, name


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("case", ON_ENGINES)
def test_engines_give_the_librarys_logits(
    case: str, target: str, folder: Callable[[str], Path], engine: Callable[[str, str], Engine], assert_close: Compare
) -> None:
    source, mask, fed = random_batch()
    memory = engine(case, target).encode_source(source.numpy(), mask.numpy())
    found = engine(case, target).decoder_logits(memory, fed.numpy(), np.ones(fed.shape, np.bool_))
    assert_close(found, library_logits(folder(case), source, mask, fed).numpy(), atol=1e-4)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("case", ON_ENGINES)
@torch.no_grad()
def test_where_the_last_layer_looks(
    case: str, target: str, folder: Callable[[str], Path], engine: Callable[[str, str], Engine], assert_close: Compare
) -> None:
    model, source, tokens = open_checkpoint(folder(case)).model, SOURCES[0], [0, 30, 9, 44]
    memory = engine(case, target).encode_source(np.array([source]), np.ones((1, len(source)), np.bool_))
    found = engine(case, target).cross_attention(memory, np.array([0]), np.array([tokens]))
    library = library_t5(folder(case))
    inputs = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([tokens])}
    expected = library(**inputs, output_attentions=True).cross_attentions[-1][0]
    last = len(library.decoder.block) - 1
    assert_close(cross_attention_weights(model, source, tokens, last), expected)
    assert_close(found[0], expected.mean(0).numpy())


def library_greedy(folder: Path, source: tuple[int, ...], steps: int) -> list[int]:
    ids = torch.tensor([source])
    # Its cache has as many layers as the encoder, which are too few for a deeper decoder.
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": steps, "use_cache": False}
    return library_t5(folder).generate(ids, **options)[0, 1:].tolist()  # type: ignore[no-any-return]


def requests_of(steps: int) -> list[Request]:
    return [Request(source=Prepared(ids=source), limit=steps) for source in SOURCES]


def joined_one_after_the_other(batch: ContinuousBatch, requests: list[Request], options: DecodingOptions) -> list[Job]:
    """A new request before every third step."""
    jobs = [Job(request=request, options=options) for request in requests]
    for job in jobs:
        batch.add(job)
        for _ in range(3):
            batch.step()
    while batch.jobs:
        batch.step()
    return jobs


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("case", ON_ENGINES)
def test_tokens_are_those_of_the_library_alone_in_batches_and_in_a_run_that_is_joined(
    case: str, target: str, folder: Callable[[str], Path], engine: Callable[[str, str], Engine]
) -> None:
    """Farther than the farthest distance with a bucket."""
    spec = ModelSpec.from_json(open_checkpoint(folder(case)).model.config.to_json())
    expected = [library_greedy(folder(case), source, 36) for source in SOURCES]
    options = DecodingOptions(beam_size=1)
    together = finish(start_search(engine(case, target), spec, requests_of(36), options))
    assert [list(found[0].tokens) for found in together] == expected
    for request, tokens in zip(requests_of(36), expected, strict=True):
        assert list(finish(start_search(engine(case, target), spec, [request], options))[0][0].tokens) == tokens
    jobs = joined_one_after_the_other(ContinuousBatch(engine(case, target), spec, rows=8), requests_of(36), options)
    assert [list(job.result()[0][0].tokens) for job in jobs] == expected
    lacks_the_graph = target == "cpu" and CASES[case].get("d_kv", 12) % 8 > 0  # then each has a run of its own
    assert max(job.result()[1].batch for job in jobs) == (1 if lacks_the_graph else 4)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("case", ["gated, of its own"])
def test_beams_are_those_of_the_naive_search(
    case: str, target: str, folder: Callable[[str], Path], engine: Callable[[str, str], Engine]
) -> None:
    model = open_checkpoint(folder(case)).model
    spec, options = ModelSpec.from_json(model.config.to_json()), DecodingOptions(beam_size=4, n_best=4)
    together = finish(start_search(engine(case, target), spec, requests_of(30), options))
    jobs = joined_one_after_the_other(ContinuousBatch(engine(case, target), spec, rows=32), requests_of(30), options)
    for request, found, job in zip(requests_of(30), together, jobs, strict=True):
        expected = decode.beam(model, request.source.ids, 4, 0.6, 30, 4)
        assert [h.tokens for h in found] == [h.tokens for h in job.result()[0]] == [e.tokens for e in expected]
        assert [h.score for h in found] == pytest.approx([e.score for e in expected], abs=1e-4)


# Bundles


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with weights small enough that integers are near, as trained ones are, and its bundle."""
    place = tmp_path_factory.mktemp("bundle")
    source = t5_folder(place / "t5", seed=1, std=0.12)
    export_few(source, place / "out")
    return source, place / "out"


TEXTS = [
    "translate English to German: A man is riding a bicycle.",
    "summarize: Two dogs play in the snow! The girl, in a red hat, on the street?",
    "The <extra_id_0> in a red hat <extra_id_1> the street",
    "Zwei Hunde  ж",
]


def generated(folder: Path, **options: Any) -> list[list[int]]:
    model, tokenizer = library_t5(folder), library_tokenizer(folder)
    sources = [torch.tensor([tokenizer(text)["input_ids"]]) for text in TEXTS]
    return [model.generate(ids, do_sample=False, max_new_tokens=24, **options)[0, 1:].tolist() for ids in sources]


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_texts_are_those_of_the_library(target: str, bundle: tuple[Path, Path]) -> None:
    folder, out = bundle
    tokenizer = library_tokenizer(folder)
    with edgewise.load(out, target, "fp32", 1) as session:
        greedy = session.translate(TEXTS, beam_size=1, max_new_tokens=24)
        beams = session.translate(TEXTS, beam_size=3, length_penalty=0.0, max_new_tokens=24)
        joined = list(session.translate_iter(TEXTS, beam_size=1, max_new_tokens=24, continuous=True, batch_size=2))
        prefixed = session.translate(TEXTS[0], beam_size=1, max_new_tokens=24, prefix="Zwei Hunde")
        streamed = "".join(session.stream(TEXTS[1], beam_size=1, max_new_tokens=24))
    assert [list(g.source_tokens) for g in greedy] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert [list(g.tokens) for g in greedy] == generated(folder, num_beams=1)
    assert [list(g.tokens) for g in beams] == generated(folder, num_beams=3, length_penalty=0.0)
    assert [g.tokens for g in joined] == [g.tokens for g in greedy]
    assert streamed == greedy[1].text
    begun = tokenizer("Zwei Hunde", add_special_tokens=False)["input_ids"]
    source, prompt = torch.tensor([tokenizer(TEXTS[0])["input_ids"]]), torch.tensor([[0, *begun]])
    expected = library_t5(folder).generate(source, decoder_input_ids=prompt, do_sample=False, max_new_tokens=24)
    assert list(prefixed.tokens) == expected[0, 1 : len(prefixed.tokens) + 1].tolist()
    assert list(prefixed.tokens[: len(begun)]) == begun


def test_speculation_changes_nothing(bundle: tuple[Path, Path]) -> None:
    with edgewise.load(bundle[1], "cpu", "fp32", 1) as session:
        plain = session.translate(TEXTS, beam_size=1, max_new_tokens=40)
        fast = session.translate(TEXTS, beam_size=1, max_new_tokens=40, speculate=7)
    assert [f.hypotheses[0].token_log_probs for f in fast] == [p.hypotheses[0].token_log_probs for p in plain]
    assert any(f.timings.speculation is not None and f.timings.speculation.accepted for f in fast)


@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"])
def test_every_variant_replays_the_reference(variant: str, bundle: tuple[Path, Path]) -> None:
    with edgewise.load(bundle[1], *variant.split("-"), threads=1) as session:
        report = session.verify()
    assert report.ok, report.summary()


def test_bytes_in_bytes_out(tmp_path: Path) -> None:
    """ByT5: T5 of bytes, for which its tokenizer needs no file."""
    folder = t5_folder(tmp_path / "byt5", byte_tokens=True, own_output=True, tie_word_embeddings=False, std=0.12)
    export_few(folder, tmp_path / "out", ("cpu",), ("fp32",))
    with edgewise.load(tmp_path / "out", "cpu", "fp32", 1) as session:
        found = session.translate(TEXTS, beam_size=1, max_new_tokens=24)
    tokenizer = library_tokenizer(folder)
    assert [list(f.source_tokens) for f in found] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert [list(f.tokens) for f in found] == generated(folder, num_beams=1)


# Configurations and tensors

OLDER = json.loads((Path(__file__).parent / "goldens" / "t5_4_57_1.json").read_text())


@pytest.mark.parametrize("network", OLDER)
def test_folders_of_an_older_release_are_read_as_by_itself(network: str, tmp_path: Path, assert_close: Compare) -> None:
    """What says whether outputs are scaled is another field there."""
    config = OLDER[network]["config"]
    assert config["transformers_version"] == "4.57.1"
    model = open_checkpoint(as_older_release(tmp_path / "old", config)).model
    source = torch.tensor([[7, 9, 30, 2, 11, 1]])
    found = logits_of(model, source, torch.ones_like(source, dtype=torch.bool), torch.tensor([[0, 8, 21, 5]]))
    assert_close(found[0, :, :6], torch.tensor(OLDER[network]["logits"]), atol=1e-5)


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "is_decoder is True, expected False": ("tied, relu", {"is_decoder": True}),
    "feed_forward_proj is 'gated-mish', expected 'relu'": ("tied, relu", {"feed_forward_proj": "gated-mish"}),
    "dense_act_fn is 'silu', expected 'relu'": ("tied, relu", {"dense_act_fn": "silu"}),
    "is_gated_act is False, expected True": ("gated, of its own", {"is_gated_act": False}),
    r"new_switch \(1\) is not understood": ("tied, relu", {"new_switch": 1}),
    r"bad_words_ids is \(3,\), expected none": ("tied, relu", {"bad_words_ids": [[3]]}),
    r"max_distance \(3\) must be above half of the buckets \(8\)": (
        "tied, relu",
        {"relative_attention_max_distance": 3},
    ),
    "tie_word_embeddings is true in a file of transformers 4, which scales": (
        "mT5, gated silu",
        {"tie_word_embeddings": True, "transformers_version": "4.57.1"},
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_understood_is_refused(reason: str, folder: Callable[[str], Path], tmp_path: Path) -> None:
    case, changes = REFUSED[reason]
    copy = Path(shutil.copytree(folder(case), tmp_path / "copy"))
    change_json(copy / "config.json", **changes)
    with pytest.raises(ConfigError, match=reason):
        open_checkpoint(copy)


def test_a_forced_first_token_is_refused(folder: Callable[[str], Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder("tied, relu"), tmp_path / "copy"))
    change_json(copy / "generation_config.json", forced_bos_token_id=5)
    with pytest.raises(ConfigError, match="forced_bos_token_id is 5, expected none"):
        open_checkpoint(copy)


def test_a_tied_projection_that_differs_is_refused_where_a_file_says_it_is_tied(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder("tied, relu"), tmp_path / "copy"))
    tensors = load_file(copy / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["shared.weight"] + 1}, copy / "model.safetensors")
    assert not open_checkpoint(copy).model.config.tied  # as the library does since release 5
    change_json(copy / "config.json", scale_decoder_outputs=None)
    with pytest.raises(CheckpointError, match=r"a copy of embedding\.weight differs from it"):
        open_checkpoint(copy)
