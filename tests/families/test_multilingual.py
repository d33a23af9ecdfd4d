"""mBART, mBART-50, M2M-100 and NLLB against ``transformers``: numbers, tokens, and every language at every request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgewise
from edgewise.models.open import open_checkpoint

from ..bundles import export_few
from .multilingual import CASES, CODES, language_ids, library_model, library_source, multilingual_folder

pytestmark = pytest.mark.slow
TEXTS = ["A man rides a bicycle.", "Zwei Hunde spielen im Schnee – schön!", "Привет, 日本語 👧"]
INT8 = ("mbart-50", "nllb")
Compare = Callable[..., None]
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: multilingual_folder(tmp_path_factory.mktemp("many") / "m", case))


@pytest.fixture(scope="module")
def bundle(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """``bundle(case)``: for both targets fp32, and of some int8."""

    def build(case: str) -> Path:
        out = tmp_path_factory.mktemp("bundle") / case
        export_few(folder(case), out, precisions=("fp32", "int8") if case in INT8 else ("fp32",))
        return out

    return cache(build)


def random_batch(seed: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded sources, their mask, and targets; one row is as long as the table of positions."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(64) < torch.tensor([[64], [1], [17], [6]])
    source = torch.randint(4, 300, (4, 64), generator=generator).masked_fill(~mask, 1)
    return source, mask, torch.randint(4, 300, (4, 12), generator=generator)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_states_and_logits_are_those_of_the_library(case: str, folder: Folder, assert_close: Compare) -> None:
    source, mask, target = random_batch()
    expected = library_model(folder(case))(source, attention_mask=mask.long(), decoder_input_ids=target)
    model = open_checkpoint(folder(case)).model
    hidden = model.encode(source, mask)
    assert_close(hidden[mask], expected.encoder_last_hidden_state[mask])
    positions = torch.arange(target.shape[1])[None].expand_as(target)
    seen = torch.ones_like(target, dtype=torch.bool)
    states, _ = model.decode(target, positions, seen, cross=model.cross_key_value(hidden), cross_mask=mask)
    assert_close(model.logits(states), expected.logits, atol=1e-4)


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_engines_give_the_librarys_logits(
    case: str, target: str, folder: Folder, bundle: Folder, assert_close: Compare
) -> None:
    source, mask, fed = random_batch()
    expected = library_model(folder(case))(source, attention_mask=mask.long(), decoder_input_ids=fed).logits
    with edgewise.load(bundle(case), target, "fp32", 1) as session:
        memory = session.engine.encode_source(source.numpy(), mask.numpy())
        logits = session.engine.decoder_logits(memory, fed.numpy(), np.ones(fed.shape, np.bool_))
    assert_close(logits, expected.numpy(), atol=1e-4)


def generated(folder: Path, case: str, text: str, source: str, target: str, **options: Any) -> list[int]:
    """New tokens by the original library, without that of the language."""
    language = language_ids(folder, case)[target]
    forces = {"decoder_start_token_id" if case == "mbart" else "forced_bos_token_id": language}
    begins = 1 if case == "mbart" else 2
    ids = torch.tensor([library_source(folder, case, text, source)])
    found = library_model(folder).generate(
        input_ids=ids, do_sample=False, max_new_tokens=16 + begins - 1, **forces, **options
    )
    return found[0].tolist()[begins:]  # type: ignore[no-any-return]


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("case", CASES)
def test_each_text_of_a_batch_has_its_languages(case: str, target: str, bundle: Folder, folder: Folder) -> None:
    codes = CODES[case]
    pairs = {"source": list(codes), "target": [codes[1], codes[2], codes[0]]}
    options: dict[str, Any] = {"beam_size": 1, "max_new_tokens": 16}
    each = list(zip(TEXTS, *pairs.values(), strict=True))
    with edgewise.load(bundle(case), target, "fp32", 1) as session:
        greedy = session.translate(TEXTS, **pairs, **options)  # type: ignore[arg-type]
        beams = session.translate(TEXTS, **pairs, beam_size=3, length_penalty=0.0, max_new_tokens=16)  # type: ignore[arg-type]
        alone = [session.translate(t, source=s, target=to, **options) for t, s, to in each]
        streamed = ["".join(session.stream(t, source=s, target=to, **options)) for t, s, to in each]
        aligned = session.translate(TEXTS, **pairs, **options, alignments=True)  # type: ignore[arg-type]
        scores = session.score(TEXTS, [g.text or "a" for g in greedy], **pairs)  # type: ignore[arg-type]
        one = [session.score(t, g.text or "a", source=s, target=to) for (t, s, to), g in zip(each, greedy, strict=True)]

        async def together() -> list[Any]:
            waiting = edgewise.AsyncSession(session, 1)
            found = await asyncio.gather(*(waiting.translate(t, source=s, target=to, **options) for t, s, to in each))
            await waiting.close()
            return list(found)

        joined = asyncio.run(together())
    assert [list(g.source_tokens) for g in greedy] == [library_source(folder(case), case, t, s) for t, s, _ in each]
    assert [list(g.tokens) for g in greedy] == [generated(folder(case), case, *e, num_beams=1) for e in each]
    assert [list(g.tokens) for g in beams] == [
        generated(folder(case), case, *e, num_beams=3, length_penalty=0.0) for e in each
    ]
    assert len({g.tokens for g in greedy}) == 3
    for others in (alone, joined, aligned):
        assert [g.tokens for g in others] == [g.tokens for g in greedy]
    assert streamed == [g.text for g in greedy]
    for both, apart in zip(scores, one, strict=True):
        assert both.token_log_probs == pytest.approx(apart.token_log_probs, abs=1e-5)


@pytest.mark.parametrize(
    ("case", "variant"),
    [
        *((case, f"{target}-fp32") for case in CASES for target in ("cpu", "openvino")),
        *((case, f"{target}-int8") for case in INT8 for target in ("cpu", "openvino")),
    ],
)
def test_every_variant_replays_the_reference(case: str, variant: str, bundle: Folder) -> None:
    with edgewise.load(bundle(case), *variant.split("-"), threads=1) as session:
        report = session.verify()
        asked = [(c.source_language, c.target_language) for c in session.bundle.cases().cases]
    assert len(set(asked)) > 5
    assert report.ok, report.summary()
