"""Configurations of decoders that transformers 4.57.1 wrote, against what the newer library makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else

from edgewise.models.config import ModelConfig
from edgewise.models.families import family_of
from edgewise.models.families.family import Facts, Fields

from .folders import write_json

GOLDENS = Path(__file__).parent / "goldens" / "decoders_transformers_4_57_1.json"
OLDER: dict[str, dict[str, Any]] = json.loads(GOLDENS.read_text())


def read(config: dict[str, Any]) -> ModelConfig:
    return family_of(config, "here").config(Fields(config, "here"), Facts())


@pytest.mark.parametrize("case", OLDER)
def test_an_older_file_is_the_network_that_the_newer_library_reads_in_it(case: str, tmp_path: Path) -> None:
    assert OLDER[case]["transformers_version"] == "4.57.1"
    (tmp_path / "older").mkdir()
    write_json(tmp_path / "older" / "config.json", OLDER[case])
    transformers.AutoConfig.from_pretrained(tmp_path / "older").save_pretrained(tmp_path / "newer")
    newer = json.loads((tmp_path / "newer" / "config.json").read_text())
    assert newer["transformers_version"] != "4.57.1"
    assert read(OLDER[case]) == read(newer)


def test_the_cases_of_a_family_are_networks_of_their_own() -> None:
    found = [(case.partition(",")[0], json.dumps(read(config).to_json())) for case, config in OLDER.items()]
    assert len(set(found)) == len(OLDER)
