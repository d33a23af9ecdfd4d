"""``torch.nn.Transformer`` and its stacks, as PyTorch's own modules compute them: every switch, reference to bundle."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import edgewise
from edgewise.export.portable import portable_graphs
from edgewise.models.open import open_checkpoint
from edgewise.models.transformer import Transformer
from edgewise.runtime.bundle.model_spec import ModelSpec
from edgewise.runtime.decoding import Request, start_search
from edgewise.runtime.engine import Engine
from edgewise.runtime.inputs import Prepared
from edgewise.runtime.options import DecodingOptions
from edgewise.runtime.search import finish

from ..bundles import export_few
from ..open_model import open_files, write_variant
from .torch_folders import END, LONGEST, PAD, START, Wrapped, torch_folder, wrapped

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")]
CASES: dict[str, dict[str, Any]] = {
    "tutorial": {"starts_source": True},
    "pre-norm, gelu, tied, stored table": {
        "arguments": {"norm_first": True, "activation": "gelu", "layer_norm_eps": 0.1},
        "positions": "stored",
        "tied": True,
    },
    "no biases, learned, unscaled": {
        "arguments": {"bias": False},
        "positions": "learned",
        "scale_embeddings": False,
        "output_bias": False,
    },
    "language model": {"kind": "decoder"},
    "language model, pre-norm without a last norm": {
        "kind": "decoder",
        "arguments": {"norm_first": True, "activation": "gelu"},
        "tied": True,
    },
    "language model with a last norm": {"kind": "decoder", "arguments": {"norm": True, "bias": True}},
    "encoder": {"kind": "encoder", "arguments": {"norm_first": True, "norm": True}, "positions": "learned"},
}
Compare = Callable[..., None]
Case = tuple[Wrapped, Path]
Opened = tuple[Transformer, dict[str, Engine]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """``made(case)``: PyTorch's network, and the description of its files."""

    def make(case: str) -> Case:
        folder = tmp_path_factory.mktemp("torch") / "mine"
        suffix = "safetensors" if "learned" in case else "pt"
        return wrapped(CASES[case], len(case)), torch_folder(folder, CASES[case], len(case), suffix)

    return cache(make)


@pytest.fixture(scope="module")
def opened(made: Callable[[str], Case], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Opened]:
    """``opened(case)``: the reference network, and engines by target."""

    def make(case: str) -> Opened:
        model = open_checkpoint(made(case)[1]).model
        portable, folder = portable_graphs(model), tmp_path_factory.mktemp("engines")
        files = {name: write_variant(portable, name, "float32", folder / name) for name in ("cpu", "openvino")}
        return model, {name: open_files(model, name, "float32", found) for name, found in files.items()}

    return cache(make)


def batch(width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask."""
    ids = torch.randint(4, 300, (3, width), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(width) < torch.tensor([[width], [1], [width // 2]])
    return ids.masked_fill(~mask, PAD), mask


@torch.no_grad()
def naive_tokens(network: Wrapped, source: list[int], steps: int) -> list[int]:
    """One whole pass for every token."""
    tokens: list[int] = []
    while len(tokens) < steps and END not in tokens:
        alone = network.case.get("kind") == "decoder"
        read = [*source, *tokens] if alone else source
        logits = network(torch.tensor([read]), torch.tensor([[START, *tokens]]))
        tokens.append(int(logits[0, -1].argmax()))
    return tokens


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_are_those_of_pytorch(
    case: str, made: Callable[[str], Case], opened: Callable[[str], Opened], assert_close: Compare
) -> None:
    (network, _), (model, engines) = made(case), opened(case)
    source, source_mask = batch(LONGEST, 3)
    alone = model.config.architecture != "encoder-decoder"
    target, mask = (source, source_mask) if alone else batch(LONGEST - 7, 4)
    expected = network(source, target)[mask]
    states = model.encode(source, mask) if model.config.decoder is None else model(source, target)
    assert_close(model.logits(states)[mask], expected, atol=1e-4)  # without a last norm logits reach 100
    index = torch.arange(LONGEST).expand_as(source).numpy()
    for engine in engines.values():
        if model.config.decoder is None:
            logits = engine.encode(source.numpy(), mask.numpy(), index)[1]
        else:
            memory = None if alone else engine.encode_source(source.numpy(), source_mask.numpy())
            logits = engine.decoder_logits(memory, target.numpy(), mask.numpy())
        assert_close(logits[mask.numpy()], expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("case", [case for case in CASES if case != "encoder"])
def test_tokens_are_those_of_a_naive_loop(
    case: str, made: Callable[[str], Case], opened: Callable[[str], Opened]
) -> None:
    (network, _), (model, engines) = made(case), opened(case)
    spec = ModelSpec.from_json(model.config.to_json())
    for engine in engines.values():
        for text in ([7], [40, 41, 42, 43, 99, 250]):
            source = spec.prompt(text) if model.config.encoder is None else spec.source(text)
            begins = model.config.encoder is None or CASES[case].get("starts_source", False)
            assert (source[0] == START) is begins
            request = Request(source=Prepared(ids=tuple(source)), limit=30)
            found = finish(start_search(engine, spec, [request], DecodingOptions(beam_size=1)))[0][0]
            assert list(found.tokens) == naive_tokens(network, list(source), 30)


def test_cases_tell_their_switches_apart(made: Callable[[str], Case]) -> None:
    """Each switch turned back moves PyTorch's own logits far: none could be ignored unseen."""
    case = CASES["pre-norm, gelu, tied, stored table"]
    network, _ = made("pre-norm, gelu, tied, stored table")
    source, target = batch(20, 5)[0], batch(11, 6)[0]
    expected = network(source, target)
    for name, value in {"norm_first": False, "activation": "relu", "layer_norm_eps": 1e-5}.items():
        other = Wrapped({**case, "arguments": {**case["arguments"], name: value}}).train()
        other.load_state_dict(network.state_dict())
        assert (other(source, target) - expected).abs().max() > 0.01, name


@pytest.fixture(scope="module")
def bundle(made: Callable[[str], Case], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "mine"
    export_few(made("tutorial")[1], out)
    return out


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_a_session_reads_a_source_as_the_tutorial_does(target: str, bundle: Path, made: Callable[[str], Case]) -> None:
    """Between its start and its end."""
    network, _ = made("tutorial")
    text = "The man rides."
    with edgewise.load(bundle, target, "fp32", 1) as session:
        report = session.verify()
        result = session.translate(text, beam_size=1, max_new_tokens=20)
        ids = session.tokenizer.encode(text, "text")
    assert report.ok, report.summary()
    assert list(result.hypotheses[0].tokens) == naive_tokens(network, [START, *ids, END], 20)
    with edgewise.load(bundle, target, "int8", 1) as session:
        assert session.translate(text, beam_size=1, max_new_tokens=20).source_tokens == (START, *ids, END)
