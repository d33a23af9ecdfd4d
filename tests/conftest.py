"""What every test may ask for: data sets and models of this machine, and one way to compare arrays."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before any engine is imported: the test workers share the cores, and no test may reach the network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
_TOLERANCES = {"float64": (1e-9, 1e-10), "float32": (1e-4, 1e-5), "float16": (1e-2, 1e-3)}


def _data_set(variable: str) -> Path:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"set {variable}=DIR to run it")
    if not Path(folder).is_dir():
        pytest.fail(f"{variable} ({folder}) is not a folder")
    return Path(folder)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository, which is the package."""
    return ROOT


@pytest.fixture(scope="session")
def multi30k() -> Path:
    """The folder of Multi30k; without it the test is skipped."""
    return _data_set("MULTI30K")


@pytest.fixture(scope="session")
def sst2() -> Path:
    """The folder of the sentiment sentences; without it the test is skipped."""
    return _data_set("SST2")


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of all data sets (``text``, ``sts``, ``tiny-models``, …); without it the test is skipped."""
    return _data_set("ASSETS")


@pytest.fixture(scope="session")
def sts(assets: Path) -> Path:
    """The folder of STS-B."""
    return assets / "sts"


@pytest.fixture(scope="session")
def mathformer(assets: Path) -> Path:
    """The folder of four tiny trained Llamas."""
    return assets / "tiny-models" / "mathformer-hf"


@pytest.fixture(scope="session")
def models() -> Callable[[str], Path]:
    """``models(name)``: a published model that ``make models`` installed; without it the test is skipped."""

    def get(name: str) -> Path:
        folder = Path(os.environ.get("MODELS") or ROOT / ".models") / name
        if not folder.is_dir():
            pytest.skip(f"run 'make models' for {name}, or set MODELS=DIR")
        return folder

    return get


def _assert_close(actual: Any, expected: Any, *, rtol: float | None = None, atol: float | None = None) -> None:
    actual, expected = (x.detach().numpy() if hasattr(x, "detach") else np.asarray(x) for x in (actual, expected))
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, expected {expected.dtype}"
    default = _TOLERANCES.get(str(expected.dtype), (0.0, 0.0))
    np.testing.assert_allclose(
        actual, expected, rtol=default[0] if rtol is None else rtol, atol=default[1] if atol is None else atol
    )


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """Compare two arrays or tensors: shape, then dtype, then values with a tolerance by dtype."""
    return _assert_close
