"""Llama against ``transformers``: every switch that changes the mathematics, reference to bundle, on both engines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

import edgewise
from edgewise.errors import CheckpointError, ConfigError, ExportError
from edgewise.export.portable import portable_graphs
from edgewise.export.variants import variant_graphs
from edgewise.models import decode
from edgewise.models.families.family import Facts, build
from edgewise.models.families.llama import LLAMA
from edgewise.models.open import open_checkpoint
from edgewise.pipeline import export_bundle
from edgewise.runtime.bundle.model_spec import ModelSpec
from edgewise.runtime.continuous import ContinuousBatch, Job
from edgewise.runtime.decoding import Request, start_search
from edgewise.runtime.engine import Engine
from edgewise.runtime.engines.onnxruntime_cpu import OnnxRuntimeEngine
from edgewise.runtime.inputs import Prepared
from edgewise.runtime.options import DecodingOptions
from edgewise.runtime.search import finish

from ..bundles import export_few, record_few_cases
from ..open_model import open_model
from .folders import change_json, library_llama, llama_folder

pytestmark = pytest.mark.slow
Compare = Callable[..., None]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES: dict[str, dict[str, Any]] = {
    "two heads a key": {},
    "tied, biased, linear": {
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 200.0, "factor": 2.5},
        "starts": False,
    },
    "one key for all, llama3": {
        "num_key_value_heads": 1,
        "rms_norm_eps": 0.1,
        "hidden_act": "gelu",
        "rope_parameters": LLAMA3,
        "tie_word_embeddings": True,
    },
    "a key a head": {
        "num_key_value_heads": 4,
        "hidden_size": 40,
        "attention_bias": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: llama_folder(tmp_path_factory.mktemp("llama") / "tiny", seed=len(case), **CASES[case]))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """As ``folder``, with weights small enough that integers are near, as trained ones are."""
    return cache(lambda case: llama_folder(tmp_path_factory.mktemp("calm") / "tiny", std=0.2, **CASES[case]))


def random_batch(width: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(2, 300, (3, width), generator=generator)
    return ids, torch.arange(width) < torch.tensor([[width], [1], [37]])


@torch.no_grad()
def library_logits(folder: Path, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return library_llama(folder)(ids, attention_mask=mask.long()).logits  # type: ignore[no-any-return]


@torch.no_grad()
def library_greedy(folder: Path, prompt: list[int], steps: int) -> list[int]:
    """The library's own generation."""
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": steps, "do_sample": False, "pad_token_id": 2}
    found = library_llama(folder).generate(ids, attention_mask=torch.ones_like(ids), **options)
    return found[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_are_those_of_the_library(case: str, folder: Callable[[str], Path], assert_close: Compare) -> None:
    ids, mask = random_batch()
    model = open_checkpoint(folder(case)).model
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    actual = model.logits(model.decode(ids, positions, mask)[0])
    assert_close(actual[mask], library_logits(folder(case), ids, mask)[mask], atol=5e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_case_tells_its_switches_apart(case: str, folder: Callable[[str], Path], tmp_path: Path) -> None:
    """With any one of its switches as in the first case the library's own logits are far away."""
    ids, mask = random_batch(60)
    expected = library_logits(folder(case), ids, mask)[mask]
    copy = Path(shutil.copytree(folder(case), tmp_path / "copy"))
    original = json.loads((copy / "config.json").read_text())
    plain = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    for name in CASES[case].keys() & plain.keys():
        change_json(copy / "config.json", **{**original, name: plain[name]})
        assert (library_logits(copy, ids, mask)[mask] - expected).abs().max() > 0.01, name


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("case", CASES)
def test_engines_give_the_librarys_logits_and_tokens(
    case: str, target: str, folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    ids, mask = random_batch()
    checkpoint = open_checkpoint(folder(case))
    engine = open_model(checkpoint.model, target, tmp_path / "v")
    logits = engine.decoder_logits(None, ids.numpy(), mask.numpy())
    expected = library_logits(folder(case), ids, mask).numpy()
    assert_close(logits[mask.numpy()], expected[mask.numpy()], atol=1e-4)
    spec = ModelSpec.from_json(checkpoint.model.config.to_json())
    for prompt in ([7], [1, 40, 41, 42, 43]):
        request = Request(source=Prepared(ids=tuple(prompt)), limit=30)
        found = finish(start_search(engine, spec, [request], DecodingOptions(beam_size=1)))[0][0]
        assert list(found.tokens) == library_greedy(folder(case), prompt, 30)
    _join_one_after_the_other(engine, spec, folder(case))


def _join_one_after_the_other(engine: Engine, spec: ModelSpec, case: Path) -> None:
    """Prompts of several lengths, a new one before every second step: each has the library's tokens."""
    batch = ContinuousBatch(engine, spec, rows=8)
    lacks_the_graph = engine.open_run(1, 2) is None  # heads of width 10 on the cpu target: then each has its own run
    assert lacks_the_graph == (isinstance(engine, OnnxRuntimeEngine) and engine.cache.head_dim == 10)
    jobs = []
    for prompt in ([7], [1, 40, 41, 42, 43], [9, 10, 200], [50], [1, 60]):
        request = Request(source=Prepared(ids=tuple(prompt)), limit=20)
        jobs.append(Job(request=request, options=DecodingOptions()))
        batch.add(jobs[-1])
        batch.step()
        batch.step()
    while batch.jobs:
        batch.step()
    for job in jobs:
        found, timings = job.result()
        assert list(found[0].tokens) == library_greedy(case, list(job.request.source.ids), 20)
        assert timings.batch > 1 or lacks_the_graph


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("case", CASES)
def test_beams_are_those_of_the_naive_search(
    case: str, target: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model = open_checkpoint(folder(case)).model
    engine, spec = open_model(model, target, tmp_path / "v"), ModelSpec.from_json(model.config.to_json())
    options = DecodingOptions(beam_size=4, n_best=4)
    prompts = [(9,), (50,)], [(9, 10, 200, 7), (50, 51, 52, 53)]
    batch = ContinuousBatch(engine, spec, rows=32)
    jobs = [Job(request=Request(source=Prepared(ids=i), limit=20), options=options) for p in prompts for i in p]
    for job in jobs:
        batch.add(job)
        batch.step()
    while batch.jobs:
        batch.step()
    for job in jobs:
        expected = decode.beam(model, job.request.source.ids, 4, 0.6, 20, 4)
        assert [h.tokens for h in job.result()[0]] == [e.tokens for e in expected]
    for pair in prompts:
        requests = [Request(source=Prepared(ids=ids), limit=20) for ids in pair]
        for ids, hypotheses in zip(pair, finish(start_search(engine, spec, requests, options)), strict=True):
            expected = decode.beam(model, ids, 4, 0.6, 20, 4)
            assert [h.tokens for h in hypotheses] == [e.tokens for e in expected]
            assert [h.score for h in hypotheses] == pytest.approx([e.score for e in expected], abs=1e-4)


@pytest.fixture(scope="module")
def bundle(calm: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``bundle(case)``: of ``calm(case)``, fp32 and int8 for both targets."""

    def make(case: str) -> Path:
        out = tmp_path_factory.mktemp("bundle") / "llama"
        export_few(calm(case), out)
        return out

    return cache(make)


@pytest.mark.parametrize("variant", ["cpu-fp32", "openvino-fp32"])
@pytest.mark.parametrize("case", ["two heads a key", "tied, biased, linear"])
def test_a_session_continues_text_as_the_library_does(
    case: str, variant: str, bundle: Callable[[str], Path], calm: Callable[[str], Path]
) -> None:
    """With the start token before the text, or without."""
    tokenizer = Tokenizer.from_file(str(calm(case) / "tokenizer.json"))
    with edgewise.load(bundle(case), *variant.split("-"), threads=1) as session:
        assert session.manifest.generation is not None
        assert session.manifest.generation.beam_size == 1
        for text in ("The man", "schön 👧"):
            prompt = tokenizer.encode(text).ids
            assert (prompt[0] == 1) == CASES[case].get("starts", True)
            found = session.generate(text, max_new_tokens=20)
            assert list(found.source_tokens) == prompt
            expected = library_greedy(calm(case), prompt, 20)
            assert list(found.tokens) == expected
            assert "".join(session.stream(text, max_new_tokens=20)) == found.text
            assert text + found.text == tokenizer.decode([*prompt, *expected])


@pytest.mark.parametrize("case", ["two heads a key", "tied, biased, linear"])
@torch.no_grad()
def test_a_session_scores_text_as_the_library_does(
    case: str, bundle: Callable[[str], Path], calm: Callable[[str], Path], assert_close: Compare
) -> None:
    """Without a start token nothing says how probable the first token is."""
    ids = Tokenizer.from_file(str(calm(case) / "tokenizer.json")).encode("The man rides.").ids
    batch = torch.tensor([ids])
    log_probs = library_logits(calm(case), batch, torch.ones_like(batch))[0].log_softmax(-1)
    tokens = [*ids[1:], 0]
    with edgewise.load(bundle(case), "cpu", "fp32", 1) as session:
        found = session.score("The man rides.")
    assert list(found.tokens) == tokens
    assert_close(
        torch.tensor(found.token_log_probs), log_probs[torch.arange(len(tokens)), torch.tensor(tokens)], atol=1e-4
    )


@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"])
@pytest.mark.parametrize("case", ["two heads a key", "tied, biased, linear"])
def test_every_variant_replays_the_reference(case: str, variant: str, bundle: Callable[[str], Path]) -> None:
    with edgewise.load(bundle(case), *variant.split("-"), threads=1) as session:
        report = session.verify()
    # Random networks are undecided nearly everywhere, so the share of equal tokens says nothing; all else must hold.
    faults = [fault for fault in report.faults if "of the top-1 tokens agree" not in fault]
    assert not faults, report.table()


def test_the_cache_holds_the_heads_of_keys(bundle: Callable[[str], Path]) -> None:
    with edgewise.load(bundle("two heads a key"), "cpu", "fp32", 1) as session:
        assert (session.variant.cache.heads, session.variant.cache.head_dim) == (2, 16)
        graph = session.bundle.graphs[session.variant.graph_path("step")]
        assert not any(tensor.name == "cache_indirection" for tensor in graph.inputs)


def test_a_bundle_of_a_folder_without_a_licence_says_so(bundle: Callable[[str], Path]) -> None:
    with edgewise.load(bundle("two heads a key"), "cpu", "fp32", 1) as session:
        assert session.manifest.licence.notice == "No licence file was found."
    assert (bundle("two heads a key") / "LICENSE").read_text() == "No licence file was found.\n"


def test_a_head_width_that_the_kernel_lacks_is_refused_for_cpu(tmp_path: Path) -> None:
    model = open_checkpoint(llama_folder(tmp_path / "narrow", hidden_size=32)).model
    graphs = portable_graphs(model)
    with pytest.raises(ExportError, match="4 heads of width 8 over 2 of keys and values, with rotary positions"):
        variant_graphs(graphs, "cpu")
    assert variant_graphs(graphs, "openvino")


# The configuration and the tensors


@pytest.fixture
def copy(folder: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """``copy(case)``: a folder to be changed."""
    return lambda case: Path(shutil.copytree(folder(case), tmp_path / "copy"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"rope_type": "proportional"}}, "rope type 'proportional' is not written here"),
        ({"rope_parameters": {"rope_type": "su"}}, "expected 'default' or 'linear' or 'dynamic' or 'llama3' or"),
        ({"rope_parameters": {"rope_type": ["x"]}}, r"rope type \['x'\] is not written here"),
        ({"rope_parameters": {"rope_type": "linear"}}, r"rope type 'linear' has \[\], expected \['factor'\]"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            r"rope type 'default' has \['partial_rotary_factor'\], expected \[\]",
        ),
        ({"rope_parameters": {**LLAMA3, "low_freq_factor": 4.0}}, r"low_freq_factor \(4.0\) must be below"),
        ({"rope_parameters": {**LLAMA3, "factor": "8"}}, r"factor \('8'\) must be a positive number"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 10**400}}, r"theta \(inf\) must be a positive"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": -(10**400)}}, r"theta \(inf\) must be a positive"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": True}}, r"theta \(True\) must be a positive"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_parameters stand beside rope_theta or rope_scaling",
        ),
        ({"head_dim": "32"}, "head_dim is '32', expected int"),
        ({"rope_interleaved": True}, "rope_interleaved is True, expected False"),
        ({"num_key_value_heads": 3}, r"n_heads \(4\) must be a multiple of n_kv_heads \(3\)"),
        ({"sliding_window": 8}, r"sliding_window \(8\) is not understood"),
        ({"bos_token_id": 5}, r"puts \(1,\) before and \(\) after a text, expected bos_token_id \(5\) or nothing"),
    ],
)
def test_a_configuration_of_other_mathematics(
    changes: dict[str, Any], message: str, copy: Callable[[str], Path]
) -> None:
    folder = copy("two heads a key")
    change_json(folder / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize("eos", [[], ["0"], True, False, [True], [0, -1], [*range(65)]])
def test_end_tokens_that_are_none(eos: Any, copy: Callable[[str], Path]) -> None:
    folder = copy("two heads a key")
    change_json(folder / "generation_config.json", eos_token_id=eos)
    with pytest.raises(ConfigError, match=r"eos_token_id is .*, expected 1 to 64 tokens"):
        open_checkpoint(folder)


def test_no_end_token_at_all(copy: Callable[[str], Path]) -> None:
    """``null`` is not the family's default: in the library nothing ends a text then."""
    null = r"eos_token_id is null, by which no text ever ends: name the token that ends one: "
    folder = copy("two heads a key")
    change_json(folder / "generation_config.json", eos_token_id=None)
    assert library_llama(folder).generation_config.eos_token_id is None
    with pytest.raises(ConfigError, match=null):
        open_checkpoint(folder)
    (folder / "generation_config.json").unlink()
    assert open_checkpoint(folder).model.config.end_id == library_llama(folder).generation_config.eos_token_id
    change_json(folder / "config.json", eos_token_id=None)
    assert library_llama(folder).generation_config.eos_token_id is None
    with pytest.raises(ConfigError, match=null):
        open_checkpoint(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert open_checkpoint(folder).model.config.end_id == library_llama(folder).generation_config.eos_token_id == 7


def test_several_end_tokens(copy: Callable[[str], Path]) -> None:
    folder = copy("two heads a key")
    change_json(folder / "config.json", eos_token_id=[5, 6])
    change_json(folder / "generation_config.json", eos_token_id=[9, 7, 9, 8])
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.model.config.end_id, checkpoint.end_ids) == (9, (7, 8))
    (folder / "generation_config.json").unlink()
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.model.config.end_id, checkpoint.end_ids) == (5, (6,))
    change_json(folder / "config.json", eos_token_id=[5, 304])
    with pytest.raises(CheckpointError, match=r"eos_token_id has 304, and the vocabulary ends at 303"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("theta", "scaling"),
    [
        (50.0, None),
        (50, {"type": "linear", "factor": 2}),
        (50.0, {k: v for k, v in LLAMA3.items() if k != "rope_theta"}),
    ],
)
def test_the_older_spelling_of_rotary_positions(theta: float, scaling: Any, copy: Callable[[str], Path]) -> None:
    folder = copy("two heads a key")
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    config |= {"rope_theta": theta, "rope_scaling": scaling}
    (folder / "config.json").write_text(json.dumps(config))
    ids, mask = random_batch(60)
    model = open_checkpoint(folder).model
    with torch.no_grad():
        actual = model.logits(model.decode(ids, torch.arange(60).expand_as(ids), mask)[0])
    torch.testing.assert_close(actual[mask], library_logits(folder, ids, mask)[mask], rtol=1e-4, atol=5e-5)


def test_whether_a_text_starts_with_the_start_token_is_configured(copy: Callable[[str], Path]) -> None:
    folder = copy("two heads a key")
    assert open_checkpoint(folder).model.config.starts_text
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({"add_bos_token": False, "bos_token": {"content": "<|start|>"}}))
    assert not open_checkpoint(folder).model.config.starts_text
    change_json(folder / "tokenizer.json", post_processor=None)
    settings.write_text(json.dumps({"add_bos_token": True, "bos_token": "<|start|>"}))
    assert open_checkpoint(folder).model.config.starts_text
    settings.write_text("[]")
    with pytest.raises(CheckpointError, match="expected an object, got list"):
        open_checkpoint(folder)


def test_a_tied_matrix_may_be_stored_twice_but_not_differ(copy: Callable[[str], Path]) -> None:
    folder = copy("tied, biased, linear")
    tensors = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, folder / "model.safetensors")
    assert open_checkpoint(folder).model.vocabulary is None
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"a copy of embedding.weight differs from it"):
        open_checkpoint(folder)
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"embedding.weight has dtype torch.float8_e4m3fn, expected one of"):
        open_checkpoint(folder)


def test_tensors_from_anywhere(folder: Callable[[str], Path], assert_close: Compare) -> None:
    """A reader of another format hands over a configuration and tensors under the family's names."""
    place = folder("two heads a key")
    tensors = load_file(place / "model.safetensors")
    model = build(LLAMA, json.loads((place / "config.json").read_text()), tensors, Facts(prefix=(1,)), "elsewhere")
    for name, tensor in open_checkpoint(place).model.state_dict().items():
        assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)
    del tensors["model.norm.weight"]
    with pytest.raises(CheckpointError, match=r"elsewhere does not fit .*: missing decoder.final_norm.weight"):
        build(LLAMA, json.loads((place / "config.json").read_text()), tensors, Facts(prefix=(1,)), "elsewhere")


# A trained network whose answers are known


@pytest.fixture(scope="module")
def adder(mathformer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a one-layer network that adds digits; its tokens are characters."""
    root = tmp_path_factory.mktemp("adder")
    folder = root / "addformer"
    shutil.copytree(mathformer / "addformer", folder, copy_function=shutil.copyfile)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>", "<unk>"])
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgewise.pipeline.record_cases", record_few_cases)
        export_bundle(folder, root / "out", ("cpu", "openvino"), ("fp32",), None, 0.3, lambda *_: None)
    return root / "out"


@pytest.mark.real
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_a_trained_network_adds(target: str, adder: Path) -> None:
    sums = {f"{a}+{b}=": str(a + b) for a in range(10) for b in range(10)}
    with edgewise.load(adder, target, "fp32", 1) as session:
        found = session.generate(list(sums), max_new_tokens=6)
        assert session.verify().ok
    assert {q: g.text.replace(" ", "") for q, g in zip(sums, found, strict=True)} == sums
    assert all(g.hypotheses[0].finish_reason == "end" for g in found)
    assert np.isfinite([g.score for g in found]).all()
