"""Several tokens in one call on ONNX Runtime: near the reference, and to the bit what steps give, in every kernel.

To the bit, because anything less would let an activation round the other way in int8, and a token with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.errors import ContextLengthError, EngineError
from edgewise.export.portable import portable_graphs
from edgewise.export.sentences import SENTENCES
from edgewise.models.checkpoint import load_checkpoint
from edgewise.models.open import open_checkpoint
from edgewise.models.transformer import Transformer
from edgewise.quantize.schemes import SCHEMES, Kernel
from edgewise.runtime.bundle.model_spec import ModelSpec
from edgewise.runtime.decoding import Request, decode_all
from edgewise.runtime.engine import Engine
from edgewise.runtime.inputs import Prepared
from edgewise.runtime.options import DecodingOptions, Sampling
from edgewise.runtime.results import TokenHypothesis
from edgewise.runtime.tokenizer import Tokenizer

from ..families.decoders import gemma2_folder
from ..families.folders import llama_folder
from ..open_model import open_files, open_model, write_variant
from ..runtime.torch_engine import TorchEngine
from ..tiny import END, START, random_sources, tiny_model

pytestmark = pytest.mark.slow
Compare = Callable[..., None]
ONE = np.zeros(1, np.int64)
CAPACITY = 40

NETWORKS: dict[str, Callable[[Path], Transformer]] = {
    "encoder-decoder": lambda _: tiny_model(3),
    "decoder": lambda _: tiny_model(4, "decoder"),
    "rotary, shared keys": lambda folder: open_checkpoint(llama_folder(folder, seed=3)).model,
    "rotary, a key a head": lambda folder: (
        open_checkpoint(llama_folder(folder, seed=3, num_key_value_heads=4, hidden_size=40, attention_bias=True)).model
    ),
    "windows, caps": lambda folder: open_checkpoint(gemma2_folder(folder)).model,
}
KERNELS: list[Kernel] = [k for p in ("fp32", "int8") for k in SCHEMES[p].kernels["cpu"]] + ["int4-blocks"]
BLOCKS = ("int8-blocks", "int4-blocks")
"""Not of the widths of these networks; the shipped translator's divide into them."""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Kernel], tuple[Transformer, Engine]]:
    """``opened(network, kernel)``: the reference and its engine, in which every matrix that can is in that kernel."""
    folder = tmp_path_factory.mktemp("verifying")

    @cache
    def made(network: str) -> tuple[Transformer, Any]:
        model = NETWORKS[network](folder / network.replace(" ", "-"))
        return model, portable_graphs(model)

    @cache
    def engine(network: str, kernel: Kernel) -> tuple[Transformer, Engine]:
        model, portable = made(network)
        files = write_variant(portable, "cpu", kernel, folder / f"{network}-{kernel}")
        return model, open_files(model, "cpu", kernel, files)

    return engine


def _memory(engine: Any, model: Transformer) -> Any:
    source = np.array([[5, 9, 6, 11, 4, 7, END]])
    return engine.encode_source(source, source > 0) if model.encoder else None


@pytest.mark.parametrize("network", NETWORKS)
def test_near_the_reference(network: str, opened: Any, assert_close: Compare) -> None:
    model, engine = opened(network, "float32")
    rng = np.random.default_rng(1)
    vocabulary = model.config.vocab_size
    runs = [e.start_verifying(_memory(e, model), CAPACITY, 7) for e in (TorchEngine(model), engine)]
    prompt = rng.integers(3, vocabulary, (1, 3))
    for run in runs:
        run.prefill(prompt)
    for count, back in ((8, 3), (1, 0), (4, 4), (8, 7)):
        ids = rng.integers(3, vocabulary, count)
        expected, actual = (run.verify(ids) for run in runs)
        assert_close(actual.log_probs, expected.log_probs, atol=1e-5, rtol=1e-4)
        np.testing.assert_array_equal(actual.ids, expected.ids)
        assert_close(runs[1].last_logits(), runs[0].last_logits(), atol=5e-5)
        for run in runs:
            run.rewind(back)


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel not in BLOCKS])
@pytest.mark.parametrize("network", NETWORKS)
def test_to_the_bit_what_steps_give(network: str, kernel: Kernel, opened: Any) -> None:
    """Any number of tokens a call, any number of them forgotten, steps in between, buffers used before."""
    model, engine = opened(network, kernel)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        _same_bits(rng, model, engine)


def _same_bits(rng: np.random.Generator, model: Transformer, engine: Engine) -> None:
    memory, vocabulary = _memory(engine, model), model.config.vocab_size
    stepped, verified = engine.start(memory, 1, 1, CAPACITY, 5), engine.start_verifying(memory, CAPACITY, 5)
    prompt = rng.integers(3, vocabulary, (1, int(rng.integers(1, 5))))
    length = prompt.shape[1]
    for run in (stepped, verified):
        run.prefill(prompt)
    while length + 8 < CAPACITY:
        ids = rng.integers(3, vocabulary, rng.integers(1, 9))
        best, logits = verified.verify(ids), verified.last_logits()
        best_log_probs, best_ids = best.log_probs.copy(), best.ids.copy()
        kept = int(rng.integers(1, len(ids) + 1))
        for t in range(kept):
            expected = stepped.step(ids[t : t + 1], ONE)
            np.testing.assert_array_equal(best_log_probs[t : t + 1], expected.log_probs)
            np.testing.assert_array_equal(best_ids[t : t + 1], expected.ids)
            np.testing.assert_array_equal(logits[t : t + 1], stepped.last_logits())
        verified.rewind(len(ids) - kept)
        length += kept
        if rng.random() < 0.3:
            token = rng.integers(3, vocabulary, 1)
            np.testing.assert_array_equal(stepped.step(token, ONE).log_probs, verified.step(token, ONE).log_probs)
            length += 1


# --- whole searches ---------------------------------------------------------------------------------------------------

SEARCHES = [
    DecodingOptions(),
    DecodingOptions(sampling=Sampling(seed=4, temperature=0.3)),
    DecodingOptions(no_repeat_ngram=6, repetition_penalty=1.05),
]


def _decoded(
    engine: Engine, model: Transformer, sources: list[list[int]], limit: int, options: DecodingOptions
) -> tuple[list[TokenHypothesis], int]:
    spec = ModelSpec.from_json(model.config.to_json())
    requests = [Request(source=Prepared(ids=tuple(source)), limit=limit) for source in sources]
    answers = decode_all(engine, spec, requests, options, 1, lambda: None)
    counts = [timings.speculation for _, timings in answers]
    return [found[0] for found, _ in answers], sum(c.accepted for c in counts if c)


@pytest.mark.parametrize("kernel", ["float32", "int8-rows"])
@pytest.mark.parametrize("network", NETWORKS)
def test_searches_give_the_same_numbers(network: str, kernel: Kernel, opened: Any) -> None:
    """Tokens, log-probabilities and all, to the bit."""
    model, engine = opened(network, kernel)
    sources = random_sources(3, 6, longest=12) if model.encoder else [[START, 5 + i, 7, 5 + i, 7] for i in range(6)]
    accepted = 0
    for options in SEARCHES:
        plain, _ = _decoded(engine, model, sources, 40, options)
        for speculate in (2, 7):
            found, more = _decoded(engine, model, sources, 40, replace(options, speculate=speculate))
            assert found == plain
            accepted += more
    assert accepted, "nothing was speculated, so this shows nothing"


@pytest.mark.parametrize("network", ["encoder-decoder", "decoder"])
def test_up_to_the_end_of_the_context(network: str, opened: Any) -> None:
    """No position beyond the last is looked up, however near a pass comes."""
    model, engine = opened(network, "float32")
    options = DecodingOptions(min_new_tokens=64)
    sources = [[5, 6, 7, 5, 6, END]] if model.encoder else [[START]]
    [plain], _ = _decoded(engine, model, sources, 64, options)
    [found], accepted = _decoded(engine, model, sources, 64, replace(options, speculate=7))
    assert (len(plain.tokens), plain.finish_reason) == (model.config.max_positions, "length")
    assert found == plain
    assert accepted


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_shipped_translator(kernel: Kernel, root: Path, tmp_path: Path) -> None:
    """Trained weights: sentences, and some with names and numbers that come again."""
    checkpoint = root / "checkpoints" / "translate-en-de"
    model = load_checkpoint(checkpoint).model
    engine = open_model(model, "cpu", tmp_path / "graphs", kernel)
    _same_bits(np.random.default_rng(1), model, engine)
    tokenizer = Tokenizer.open(checkpoint / "tokenizer.json")
    name = "Xavier Quintana-Szczepan"
    named = [f"{name} plays for {team}, {name}." for team in ("FC 1896", "KGB 2021")]
    sources = [[*tokenizer.encode(text), END] for text in (*SENTENCES[:20], *named)]
    plain, _ = _decoded(engine, model, sources, 60, DecodingOptions())
    found, accepted = _decoded(engine, model, sources, 60, DecodingOptions(speculate=7))
    assert found == plain
    assert accepted > 10


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_pass_needs_all_its_positions(opened: Any) -> None:
    """The graph writes as many as it was made for."""
    _, engine = opened("decoder", "float32")
    run = engine.start_verifying(None, 10, 2)
    run.prefill(np.array([[START, 4, 5]]))
    with pytest.raises(ContextLengthError, match="11 tokens do not fit the 10 this run was started for"):
        run.verify(np.array([6]))
    run.step(np.array([6]), ONE)


def test_an_older_variant_cannot(tmp_path: Path) -> None:
    model = tiny_model(4, "decoder")
    files = write_variant(portable_graphs(model), "cpu", "float32", tmp_path / "graphs")
    engine = open_files(model, "cpu", "float32", {name: file for name, file in files.items() if name != "verify"})
    assert engine.verify_tokens == 0
    with pytest.raises(EngineError, match="has no graph 'verify' to speculate with: export the bundle again"):
        engine.start_verifying(None, 20, 1)


def test_openvino_cannot(tmp_path: Path) -> None:
    engine = open_model(tiny_model(4, "decoder"), "openvino", tmp_path / "graphs")
    assert engine.verify_tokens == 0
    with pytest.raises(EngineError, match="openvino's cache takes no token back: open target 'cpu' to speculate"):
        engine.start_verifying(None, 20, 1)


def test_one_scale_for_all_rows_has_no_such_graph(tmp_path: Path) -> None:
    engine = open_model(tiny_model(4, "decoder"), "cpu", tmp_path / "graphs", "int8-tensor")
    assert engine.verify_tokens == 0
