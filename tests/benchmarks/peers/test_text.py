"""S3: the folder for the other libraries' converters, our adapter, and what is made once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edgewise.benchmarks.peers.adapters.text import edgewise as adapter
from edgewise.benchmarks.peers.adapters.text.log_softmax import next_log_probs
from edgewise.benchmarks.peers.cell import Order
from edgewise.benchmarks.peers.llama_folder import write_llama as write_folder
from edgewise.benchmarks.peers.places import Places
from edgewise.benchmarks.peers.prepare_text import TextPreparation, wikitext
from edgewise.benchmarks.peers.quality import perplexity
from edgewise.benchmarks.peers.results import Measured
from edgewise.benchmarks.peers.workloads import S3
from edgewise.errors import ExportError, InputError, MissingExtraError
from edgewise.models.checkpoint import load_checkpoint
from edgewise.models.open import open_checkpoint

from ...bundles import tiny_bundle
from ...models.gguf.written import library_llama, write_llama
from .test_results import S3 as SETTING
from .test_results import answer, measured, report_of

PROMPTS = [[5, 6, 7, 8], [9, 5, 30, 11]]


@torch.inference_mode()
def test_the_folder_is_the_network_of_the_file(tmp_path: Path) -> None:
    """transformers reads the folder and, on its own way, the file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: TID251 the oracle of this test

    file = write_llama(tmp_path / "tiny.gguf", tokenizer="smollm", tied=True)
    checkpoint = open_checkpoint(file)
    write_folder(file, checkpoint, tmp_path / "llama")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "llama", dtype=torch.float32)
    ids = torch.tensor(PROMPTS)
    torch.testing.assert_close(model(ids).logits, library_llama(file)(ids).logits)
    assert model.generation_config.eos_token_id == checkpoint.model.config.end_id
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llama")
    text = "The man, 12+30 = schön"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.fixture(scope="module")
def ours() -> adapter.Edgewise:
    bundle = tiny_bundle("generate")
    order = Order(
        kind="generate",
        adapter="text.edgewise",
        model=str(bundle),
        sources="",
        answer="",
        threads=1,
        batch=1,
        beam_size=1,
        exact_tokens=20,
        extra_tokens=0,
        timed=1,
        repeats=1,
        whole=True,
        length_penalty=1.0,
        special_ids={"end": 2},
        settings={"target": "cpu", "precision": "fp32"},
    )
    return adapter.open_model(order)


@torch.inference_mode()
def naive(prompt: list[int], limit: int) -> list[int]:
    """Arg-max after arg-max, whatever the end token."""
    model = load_checkpoint(tiny_bundle("generate").parent / "tiny-generate").model
    ids = list(prompt)
    for _ in range(limit):
        row = torch.tensor([ids])
        ids.append(int(model.logits(model(row, row))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.slow
def test_our_adapter_goes_on_past_the_end_token(ours: adapter.Edgewise) -> None:
    assert ours.decode(PROMPTS, 1, 20) == [naive(prompt, 20) for prompt in PROMPTS]
    assert ours.decode(PROMPTS, 1, 1) == [naive(prompt, 1) for prompt in PROMPTS]


@pytest.mark.slow
@torch.inference_mode()
def test_our_adapter_tells_the_references_probabilities(ours: adapter.Edgewise) -> None:
    model = load_checkpoint(tiny_bundle("generate").parent / "tiny-generate").model
    found = ours.log_probs(PROMPTS)
    assert found is not None
    for row, text in zip(found, PROMPTS, strict=True):
        ids = torch.tensor([text])
        scores = model.logits(model(ids, ids))[0].log_softmax(-1)
        assert row == pytest.approx([float(scores[i, text[i + 1]]) for i in range(3)], abs=1e-4)


def test_log_probabilities_are_those_of_torch() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)) * 50
    expected = logits.double().log_softmax(-1)
    ids = [3, 8, 0, 1]
    assert next_log_probs(logits.numpy(), ids) == pytest.approx([float(expected[i, ids[i + 1]]) for i in range(3)])


def test_perplexity_counts_all_tokens_alike() -> None:
    """Probabilities 1/2, 1/2 and 1/4: the fourth root of 16, to the power of 4/3."""
    ln2 = 0.6931471805599453
    assert perplexity([[-ln2, -ln2], [-2 * ln2]]) == pytest.approx(2 ** (4 / 3))


def test_a_request_has_two_parts() -> None:
    """Whole requests of 129 tokens in 2.5, 2.6 and 3 seconds, first tokens in 0.5: 128 tokens in 2, 2.1 and 2.5."""
    cell = measured("edgewise-int8", setting=SETTING).cell
    one = answer(
        2.5,
        2.6,
        3.0,
        sentences=1,
        tokens=129,
        cpu_seconds=8.0,
        first_token_seconds=[0.5, 0.4, 0.6],
        first_token_cpu_seconds=1.5,
    )
    first, later = Measured(cell=cell, model_bytes=1, answers=[one]).parts()
    assert (first.cell.setting.part, later.cell.setting.part) == ("first", "later")
    assert (first.speed, later.speed) == (pytest.approx(500.0), pytest.approx(128 / 2.1))
    assert (first.cores, later.cores) == (pytest.approx(1.0), pytest.approx(6.5 / 6.6))
    text = report_of(Measured(cell=cell, model_bytes=1, answers=[one], quality={"perplexity": 25.493, "agree": 0.5}))
    assert "milliseconds to the first token" in text
    assert "later tokens a second" in text
    assert text.count("25.49") == 2


def test_s3_needs_its_texts(places: Places) -> None:
    with pytest.raises(InputError, match="workload s3 continues and scores WikiText-2: set ASSETS to the folder"):
        wikitext(places, "test")


def test_a_published_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    places = Places(peers=tmp_path, multi30k=None, models=tmp_path / "models")
    with pytest.raises(MissingExtraError, match=r"SmolLM2.* is missing, the model of workload s3: run `make models`"):
        places.checkpoint("s3")


def test_a_format_that_cannot_be_made_leaves_the_others(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    preparation = TextPreparation(places, S3, said.append)
    for name in ("_llama", "_gguf"):
        monkeypatch.setattr(preparation, name, lambda folder: folder.mkdir())
    for name in ("_prompts", "_scored", "_reference", "_log_probs"):
        monkeypatch.setattr(preparation, name, list)
    preparation.checkpoint = load_checkpoint(tiny_bundle("generate").parent / "tiny-generate")

    def fails(*arguments: object) -> None:
        raise ExportError("it said no")

    def only_gguf() -> dict[str, object]:
        return {"x": fails, "gguf-q4_1": preparation._gguf}

    monkeypatch.setattr(preparation, "_formats", only_gguf)
    preparation.run()
    assert said[-2:] == ["x is not made: it said no", f"make {places.file('s3', 'gguf-q4_1')}"]
    assert json.loads(places.file("s3", "special_ids.json").read_text()) == {"end": 2}
