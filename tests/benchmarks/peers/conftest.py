"""Networks of the shape that is compared, small; and the environments of the other libraries, where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgewise.benchmarks.peers.places import ROOT, Places
from edgewise.benchmarks.peers.random_network import marian_base, write_random_checkpoint
from edgewise.models.checkpoint import Checkpoint, load_checkpoint

PEERS = Path(os.environ.get("PEERS") or ROOT / ".peers")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The network of S1 with a width of 64 and 400 tokens."""
    config = marian_base(d_model=64, vocab_size=400)
    return load_checkpoint(write_random_checkpoint(tmp_path_factory.mktemp("small"), config))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """An empty folder of models, beside the environments that there are."""
    for environment in PEERS.glob("*/bin"):
        (tmp_path / environment.parent.name).symlink_to(environment.parent.resolve())
    return Places(peers=tmp_path, multi30k=None)
