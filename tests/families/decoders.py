"""What every decoder-only family has to show beside the original library, on a tiny model that the library saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else

import edgewise
from edgewise.export.portable import portable_graphs
from edgewise.models import decode
from edgewise.models.open import open_checkpoint
from edgewise.runtime.bundle.model_spec import ModelSpec
from edgewise.runtime.continuous import ContinuousBatch, Job
from edgewise.runtime.decoding import Request, start_search
from edgewise.runtime.engine import Engine
from edgewise.runtime.inputs import Prepared
from edgewise.runtime.options import DecodingOptions
from edgewise.runtime.search import finish

from ..bundles import export_few
from ..open_model import open_files, write_variant
from .folders import byte_level, change_json, randomize

Compare = Callable[..., None]
TINY = {
    "vocab_size": 304,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "pad_token_id": 2,
}
PROMPTS = [7], [1, 40, 41, 42, 43], [9, 10, 200], [50], [1, 60]


def decoder_folder(folder: Path, config: Any, *, starts: bool = False, seed: int = 0, std: float = 0.4) -> Path:
    """A folder of the causal language model that the library makes of ``config``."""
    model = randomize(transformers.AutoModelForCausalLM.from_config(config), seed, std)
    model.save_pretrained(folder)  # type: ignore[operator]
    (folder / "tokenizer.json").write_text(byte_level(starts).to_str())
    return folder


def gemma2_folder(folder: Path) -> Path:
    """A folder of a ``Gemma2ForCausalLM``: windows in every second layer, capped scores and logits, its own scale."""
    caps = {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0, "query_pre_attn_scalar": 5}
    return decoder_folder(folder, transformers.Gemma2Config(**TINY, **caps, head_dim=32, sliding_window=7), seed=3)


def library(folder: Path) -> Any:
    """The original library's own reading of a folder."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def random_batch(width: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask."""
    ids = torch.randint(2, 300, (3, width), generator=torch.Generator().manual_seed(5))
    return ids, torch.arange(width) < torch.tensor([[width], [1], [37]])


@torch.no_grad()
def library_logits(folder: Path, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Logits ``(B, T, V)``."""
    return library(folder)(ids, attention_mask=mask.long()).logits  # type: ignore[no-any-return]


@torch.no_grad()
def library_greedy(model: Any, prompt: list[int], steps: int) -> list[int]:
    """The library's own generation."""
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": steps, "do_sample": False, "pad_token_id": 2}
    found = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return found[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


@torch.no_grad()
def check_reference(folder: Path, assert_close: Compare, family: Path | None = None, width: int = 60) -> None:
    """The reference network's logits are the library's."""
    ids, mask = random_batch(width)
    model = open_checkpoint(folder, family).model
    actual = model.logits(model.decode(ids, torch.arange(width).expand_as(ids), mask)[0])
    assert_close(actual[mask], library_logits(folder, ids, mask)[mask], atol=5e-5)


def check_switches(folder: Path, plain: Mapping[str, Any], width: int = 60) -> None:
    """With any one field of ``config.json`` as in ``plain`` the library's own logits are far away."""
    ids, mask = random_batch(width)
    expected = library_logits(folder, ids, mask)[mask]
    original = json.loads((folder / "config.json").read_text())
    try:
        for name, value in plain.items():
            change_json(folder / "config.json", **{**original, name: value})
            assert (library_logits(folder, ids, mask)[mask] - expected).abs().max() > 0.01, name
    finally:
        change_json(folder / "config.json", **original)


def check_engines(folder: Path, work: Path, assert_close: Compare, family: Path | None = None, width: int = 60) -> None:
    """On both engines: the library's logits, its tokens alone and beside others, and the beams of a naive search."""
    checkpoint = open_checkpoint(folder, family)
    spec, portable = ModelSpec.from_json(checkpoint.model.config.to_json()), portable_graphs(checkpoint.model)
    ids, mask = random_batch(width)
    expected, original = library_logits(folder, ids, mask), library(folder)
    tokens = [library_greedy(original, prompt, 24) for prompt in PROMPTS]
    beams = decode.beam(checkpoint.model, (9, 10, 200), 4, 0.6, 12, 4)
    for target in ("cpu", "openvino"):
        files = write_variant(portable, target, "float32", work / target)
        engine = open_files(checkpoint.model, target, "float32", files)
        logits = engine.decoder_logits(None, ids.numpy(), mask.numpy())
        assert_close(logits[mask.numpy()], expected[mask].numpy(), atol=1e-4)
        for prompt, wanted in zip(PROMPTS[:3], tokens, strict=False):
            found = _search(engine, spec, prompt, DecodingOptions(beam_size=1), 24)
            assert list(found[0].tokens) == wanted, target
        found = _search(engine, spec, [9, 10, 200], DecodingOptions(beam_size=4, n_best=4), 12)
        assert [hypothesis.tokens for hypothesis in found] == [beam.tokens for beam in beams], target
        assert _joined(engine, spec, 24) == tokens, target


def _search(engine: Engine, spec: ModelSpec, prompt: list[int], options: DecodingOptions, limit: int) -> Any:
    request = Request(source=Prepared(ids=tuple(prompt)), limit=limit)
    return finish(start_search(engine, spec, [request], options))[0]


def _joined(engine: Engine, spec: ModelSpec, limit: int) -> list[list[int]]:
    """Tokens of prompts that join a run one after the other, a new one before every second step."""
    batch = ContinuousBatch(engine, spec, rows=8)
    jobs = []
    for prompt in PROMPTS:
        request = Request(source=Prepared(ids=tuple(prompt)), limit=limit)
        jobs.append(Job(request=request, options=DecodingOptions()))
        batch.add(jobs[-1])
        batch.step()
        batch.step()
    while batch.jobs:
        batch.step()
    return [list(job.result()[0][0].tokens) for job in jobs]


def check_bundle(folder: Path, out: Path) -> None:
    """A bundle continues text as the library does, and every variant of it, int8 too, replays the reference.

    ``folder`` has small weights, so that integers are near, as in a trained network.
    """
    export_few(folder, out)
    original, text = library(folder), "The man – schön 👧"
    with edgewise.load(out, "cpu", "fp32", threads=1) as session:
        found = session.generate(text, max_new_tokens=20)
    assert list(found.tokens) == library_greedy(original, list(found.source_tokens), 20)
    for variant in ("cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"):
        with edgewise.load(out, *variant.split("-"), threads=1) as session:
            report = session.verify()
        # Random networks are undecided nearly everywhere: the share of equal tokens says nothing; all else must hold.
        faults = [fault for fault in report.faults if "of the top-1 tokens agree" not in fault]
        assert not faults, report.table()
