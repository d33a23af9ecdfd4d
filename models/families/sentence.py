"""How sentence-transformers make one vector of a text's states: ``modules.json`` and what it names.

Read are a Transformer, a Pooling and perhaps a Normalize, in this order; anything else is refused by name, as is every
setting that would change the vectors. Source: ``sentence_transformers/models`` of the library's releases 2 to 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ..config import Pooling
from ..files import read_json

MODULES, SETTINGS, MODEL_SETTINGS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "mean": "mean",
    "cls": "first",
}


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """What the files say: ``max_tokens`` of a text, specials included."""

    pooling: Pooling
    normalize: bool
    max_tokens: int | None


def read_sentences(folder: Path) -> Sentences | None:
    """Read the files of a model folder; ``None`` where there is no ``modules.json``.

    Raises:
        CheckpointError: a file is damaged, or says something that is not understood.
    """
    if not (folder / MODULES).is_file():
        return None
    modules = _modules(folder)
    settings = _settings(folder, SETTINGS, {"do_lower_case": (False, None)}, ignored={"max_seq_length"})
    _settings(
        folder,
        MODEL_SETTINGS,
        {"default_prompt_name": (None,), "similarity_fn_name": ("cosine", None), "truncate_dim": (None,)},
        ignored={"__version__", "prompts", "model_type"},
    )
    longest = settings.get("max_seq_length")
    if longest is not None and (not isinstance(longest, int) or longest < 3):
        raise CheckpointError(f"{folder / SETTINGS}: max_seq_length is {longest!r}, expected a number of tokens")
    return Sentences(pooling=_pooling(folder, modules["Pooling"]), normalize="Normalize" in modules, max_tokens=longest)


def _modules(folder: Path) -> dict[str, str]:
    """Kind of each module, in order, and its folder."""
    listed = read_json(folder / MODULES)
    try:
        modules = [(str(m["type"]).rpartition(".")[2], str(m["path"])) for m in listed]
    except (TypeError, KeyError) as error:
        raise CheckpointError(f"{folder / MODULES}: expected a list of modules with type and path") from error
    kinds = [kind for kind, _ in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or modules[0][1] != "":
        raise CheckpointError(
            f"{folder / MODULES} has {modules}, expected a Transformer in the folder itself, a Pooling and perhaps a "
            "Normalize, and nothing else"
        )
    if not modules[1][1].replace("_", "").isalnum():
        raise CheckpointError(f"{folder / MODULES}: path {modules[1][1]!r} of Pooling is no plain name of a folder")
    return dict(modules)


def _pooling(folder: Path, path: str) -> Pooling:
    file = folder / path / "config.json"
    data = dict(_object(file))
    for size in ("word_embedding_dimension", "embedding_dimension", "include_prompt"):
        data.pop(size, None)  # prompts are refused elsewhere
    mode = data.pop("pooling_mode", None)
    chosen = [name for name, value in data.items() if value is not False] if mode is None else [mode, *data]
    if len(chosen) != 1 or not isinstance(chosen[0], str) or chosen[0] not in _POOLINGS:
        raise CheckpointError(f"{file} asks for {chosen}, expected one of {sorted(_POOLINGS)}")
    return _POOLINGS[chosen[0]]


def _settings(folder: Path, name: str, known: Mapping[str, tuple[Any, ...]], ignored: set[str]) -> Mapping[str, Any]:
    """An optional file in which every field is ``ignored`` or has one of the ``known`` values."""
    if not (folder / name).is_file():
        return {}
    data = _object(folder / name)
    faults = [
        f"{key} is {value!r}, " + (f"expected {known[key][0]!r}" if key in known else "which is not understood")
        for key, value in data.items()
        if key not in ignored and value not in known.get(key, ())
    ]
    if faults:
        raise CheckpointError(f"{folder / name}: {'; '.join(faults)}: it would change the vectors")
    return data


def _object(file: Path) -> Mapping[str, Any]:
    data = read_json(file)
    if not isinstance(data, dict):
        raise CheckpointError(f"{file}: expected an object, got {type(data).__name__}")
    return data
