"""What is built and shipped: the package's own files and its embedded bundle, the licence of the weights, no tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
NOT_THE_PACKAGE = {"examples", "tests", "checkpoints", "build", "dist"}
EMBEDDED = Path("runtime/embedded")
NOT_COPIED = (".git", ".venv", ".types", ".models", ".*_cache", "__pycache__", "*.egg-info", "build", "dist")


def _kept(path: Path) -> bool:
    return not any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _package_files() -> set[str]:
    """The files a wheel should hold, relative to the package."""
    sources = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    embedded = (path.relative_to(ROOT) for path in (ROOT / EMBEDDED).rglob("*") if path.is_file())
    files = {str(f) for f in [*sources, *embedded] if _kept(f) and f.parts[0] not in NOT_THE_PACKAGE}
    return files | {"py.typed"}


def test_every_folder_with_code_is_packaged() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {Path(file).parent for file in _package_files() if file.endswith(".py")}
    assert sorted(listed) == sorted(".".join(("edgewise", *folder.parts)) for folder in folders)


def test_the_weights_stay_small() -> None:
    """16 MB of checkpoints beside the state of unfinished training runs, 8 MB in the package."""
    for folder, limit in ((ROOT / "checkpoints", 16e6), (ROOT / EMBEDDED, 8e6)):
        files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "run")
        size = sum(path.stat().st_size for path in files)
        assert size <= limit, f"{folder.name} has {size / 1e6:.1f} MB"


def test_development_versions_lie_in_the_ranges_of_users() -> None:
    """Each library is pinned once, and to a version that ``pyproject.toml`` allows."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert len(pins) == len(lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    for wanted in map(Requirement, [*project["dependencies"], *extras]):
        if wanted.name != "edgewise":
            assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), str(wanted)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel made from it, of a copy of this tree."""
    folder = tmp_path_factory.mktemp("packaging")
    hidden = (".git", ".venv", ".models", ".peers", ".types", ".*cache")
    skip = shutil.ignore_patterns(*hidden, "__pycache__", "*.egg-info", "build", "dist")
    shutil.copytree(ROOT, folder / "a-clone", ignore=skip)
    ghost = folder / "a-clone" / "build" / "lib" / "edgewise" / "ghost.py"  # a module deleted since the last build
    ghost.parent.mkdir(parents=True)
    ghost.touch()
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(folder / "a-clone")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        yield archive


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == {f"edgewise/{name}" for name in _package_files()}


@pytest.mark.slow
def test_the_wheel_says_its_licences_and_its_command(wheel: zipfile.ZipFile) -> None:
    def read(name: str) -> str:
        return wheel.read(next(n for n in wheel.namelist() if n.endswith(f".dist-info/{name}"))).decode()

    metadata = Parser().parsestr(read("METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0 AND LicenseRef-Multi30k-NonCommercial"
    assert metadata.get_all("License-File") == ["LICENSE", "checkpoints/LICENSE.weights"]
    assert "non-commercial research and education" in read("licenses/checkpoints/LICENSE.weights")
    runtime = [r for r in metadata.get_all("Requires-Dist", []) if "extra ==" not in r]
    assert sorted(r.split("<")[0] for r in runtime) == ["numpy", "onnxruntime", "tokenizers"]
    assert "edgewise = edgewise.cli:main" in read("entry_points.txt")


@pytest.mark.slow
def test_the_sdist_can_be_tested(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tests = {str(p.relative_to(ROOT)) for p in (ROOT / "tests").rglob("*.py")}
    assert names >= tests | {"Makefile", "constraints.txt", "CHANGELOG.md", ".ci/run", "checkpoints/LICENSE.weights"}
    assert not any("__pycache__" in name or name.startswith(("build/", ".venv")) for name in names)
    assert not any(Path(name).match("checkpoints/*/run/*") for name in names)


@pytest.mark.slow
def test_an_installed_wheel_runs_without_the_tree(built: Path, tmp_path: Path) -> None:
    """Unpacked elsewhere, the package is found there, and its command line answers."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        archive.extractall(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import edgewise, edgewise.cli; print(edgewise.__file__)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "edgewise" / "__init__.py")
