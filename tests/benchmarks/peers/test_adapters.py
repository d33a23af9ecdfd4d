"""Every system decodes the same network: the reference's own tokens where it computes in float32."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgewise.benchmarks.peers import cell
from edgewise.benchmarks.peers.cell import Answer, Order, Tokens
from edgewise.benchmarks.peers.check import check
from edgewise.benchmarks.peers.places import Places
from edgewise.benchmarks.peers.prepare import REFERENCE, SOURCES, Preparation
from edgewise.benchmarks.peers.processes import run_cell
from edgewise.benchmarks.peers.results import Setting, agreement
from edgewise.benchmarks.peers.systems import ENVIRONMENTS, SYSTEMS
from edgewise.benchmarks.peers.workloads import S1
from edgewise.models import decode
from edgewise.models.checkpoint import Checkpoint, load_checkpoint

from ...bundles import record_few_cases, rows_where_possible, tiny_bundle
from ...tiny import random_sources
from ...tiny_checkpoint import VOCAB_SIZE
from .conftest import PEERS

needs_peers = pytest.mark.skipif(
    not all((PEERS / name / "bin" / "python").exists() for name in ENVIRONMENTS), reason="run `make peers` to run it"
)


@pytest.mark.slow
@pytest.mark.parametrize("beam_size", [1, 3], ids=["greedy", "beam 3"])
def test_our_adapter_gives_what_naive_decoding_gives(tmp_path: Path, beam_size: int) -> None:
    bundle = tiny_bundle("translate")
    model = load_checkpoint(bundle.parent / "tiny-translate").model
    sources = random_sources(5, 7, vocab_size=VOCAB_SIZE)
    (tmp_path / "sources.json").write_text(json.dumps(sources))
    order = Order(
        kind="translate",
        adapter="edgewise",
        model=str(bundle),
        sources=str(tmp_path / "sources.json"),
        answer="",
        threads=1,
        batch=3,
        beam_size=beam_size,
        exact_tokens=None,
        extra_tokens=50,
        timed=7,
        repeats=0,
        whole=True,
        length_penalty=0.6,
        special_ids={"pad": 0, "start": 1, "end": 2},
        settings={"target": "cpu", "precision": "fp32"},
    )
    limits = [0] * len(sources)
    for request in cell.cut(sources, order):
        for place in request.places:
            limits[place] = min(request.limit, 96)
    expected = []
    for source, limit in zip(sources, limits, strict=True):
        greedy = decode.greedy(model, source, limit)
        found = greedy if beam_size == 1 else decode.beam(model, source, beam_size, 0.6, limit)[0]
        expected.append(cell.until_end(found.tokens, 2))
    assert cell.measure(order).outputs == expected


@pytest.fixture(scope="module")
def converted(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Places:
    """The small network in every system's format, by the systems' own converters."""
    folder = tmp_path_factory.mktemp("peers")
    for name in ENVIRONMENTS:
        (folder / name).symlink_to((PEERS / name).resolve())
    places = Places(peers=folder, multi30k=None)
    shutil.copytree(small.folder, places.file("s1", "checkpoint"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgewise.pipeline.record_cases", record_few_cases)
        patch.setattr("edgewise.pipeline.measured_kernels", rows_where_possible)
        Preparation(places, S1, print).run()
    return places


def decoded(places: Places, system: str, beam_size: int) -> Answer:
    setting = Setting(workload="s1", threads=1, batch=3, beam_size=beam_size)
    sources = places.file("s1", SOURCES)
    return run_cell(places, SYSTEMS[system], setting, sources=sources, repeats=1, whole=True)


def reference(places: Places, beam_size: int) -> Tokens:
    found: dict[str, Tokens] = json.loads(places.file("s1", REFERENCE).read_text())
    return found[str(beam_size)]


@needs_peers
@pytest.mark.slow
def test_float32_systems_give_the_references_tokens(converted: Places) -> None:
    found = check(converted, S1, print)
    assert {one.system for one in found} == {name for name, system in SYSTEMS.items() if system.exact}
    assert [one.equal for one in found] == [8] * len(found)


@needs_peers
@pytest.mark.slow
@pytest.mark.parametrize("system", [name for name, system in SYSTEMS.items() if system.exact])
def test_so_do_their_beams_where_all_hypotheses_are_equally_long(converted: Places, system: str) -> None:
    assert decoded(converted, system, 4).outputs == reference(converted, 4)


@needs_peers
@pytest.mark.slow
@pytest.mark.parametrize("beam_size", [1, 4], ids=["greedy", "beam 4"])
@pytest.mark.parametrize("system", [name for name, system in SYSTEMS.items() if "int8" in name])
def test_int8_systems_decode_as_long_and_begin_alike(converted: Places, system: str, beam_size: int) -> None:
    answer = decoded(converted, system, beam_size)
    assert answer.outputs is not None
    assert {len(row) for row in answer.outputs} == {64}
    assert answer.tokens == 8 * 64
    assert agreement(answer.outputs, reference(converted, beam_size)) > 0.02
