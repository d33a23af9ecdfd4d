"""How sentence-transformers make one vector of a text's states: ``modules.json`` and what it names.

Read are a Transformer, a Pooling, and perhaps a Dense and a Normalize, in this order; anything else is refused by name,
as is every setting that would change the vectors. Source: ``sentence_transformers/models`` of the library's releases 2
to 5, and ``sentence_transformers/base/modules`` of 6.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ..config import Pooling
from ..dense_config import DenseActivation, DenseConfig
from ..files import read_json

MODULES, SETTINGS, MODEL_SETTINGS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "mean": "mean",
    "cls": "first",
}
_ACTIVATIONS: dict[str, DenseActivation] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
}
_STATES = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
_OF_THE_TRANSFORMER: Mapping[str, tuple[Any, ...]] = {
    "do_lower_case": (False, None),
    "transformer_task": ("feature-extraction",),
    "modality_config": (_STATES,),
    "module_output_name": ("token_embeddings",),
}
"""What may stand in ``sentence_bert_config.json``: the last three since release 5."""
_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
_NEEDED = ("Transformer", "Pooling")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """What the files say: ``max_tokens`` of a text, specials included; ``dense_folder`` holds that layer's weights."""

    pooling: Pooling
    normalize: bool
    max_tokens: int | None
    dense: DenseConfig | None = None
    dense_folder: Path | None = None


def read_sentences(folder: Path) -> Sentences | None:
    """Read the files of a model folder; ``None`` where there is no ``modules.json``.

    Raises:
        CheckpointError: a file is damaged, or says something that is not understood.
    """
    if not (folder / MODULES).is_file():
        return None
    modules = _modules(folder)
    settings = _settings(folder, SETTINGS, _OF_THE_TRANSFORMER, ignored={"max_seq_length"})
    _settings(
        folder,
        MODEL_SETTINGS,
        {"default_prompt_name": (None,), "similarity_fn_name": ("cosine", None), "truncate_dim": (None,)},
        ignored={"__version__", "prompts", "model_type"},
    )
    longest = settings.get("max_seq_length")
    if longest is not None and (not isinstance(longest, int) or longest < 3):
        raise CheckpointError(f"{folder / SETTINGS}: max_seq_length is {longest!r}, expected a number of tokens")
    dense = folder / modules["Dense"] if "Dense" in modules else None
    return Sentences(
        pooling=_pooling(folder, modules["Pooling"]),
        normalize="Normalize" in modules,
        max_tokens=longest,
        dense=None if dense is None else _dense(dense),
        dense_folder=dense,
    )


def _modules(folder: Path) -> dict[str, str]:
    """Kind of each module, in order, and its folder."""
    listed = read_json(folder / MODULES)
    try:
        modules = [(str(m["type"]).rpartition(".")[2], str(m["path"])) for m in listed]
    except (TypeError, KeyError) as error:
        raise CheckpointError(f"{folder / MODULES}: expected a list of modules with type and path") from error
    kinds = [kind for kind, _ in modules]
    expected = [kind for kind in _ORDER if kind in _NEEDED or kind in kinds]
    if kinds != expected or modules[0][1] != "":
        unread = [kind for kind in kinds if kind not in _ORDER]
        raise CheckpointError(
            f"{folder / MODULES} has {modules}, expected a Transformer in the folder itself, a Pooling and perhaps a "
            "Dense and a Normalize, in this order, and nothing else"
            + (f": a {' and a '.join(unread)} would change the vectors" if unread else "")
        )
    for kind, path in modules[1:3]:
        if kind != "Normalize" and not (path and set(path) <= _PLAIN):
            raise CheckpointError(f"{folder / MODULES}: path {path!r} of {kind} is no plain name of a folder")
    return dict(modules)


def _dense(folder: Path) -> DenseConfig:
    """What the ``config.json`` of a Dense says; the width that it reads is that of its weights."""
    data, file = dict(_object(folder / "config.json")), folder / "config.json"
    data.pop("in_features", None)
    width, bias = data.pop("out_features", None), data.pop("bias", True)
    activation = data.pop("activation_function", "torch.nn.modules.activation.Tanh")
    faults = [] if type(width) is int and width > 0 else [f"out_features is {width!r}, expected a number of features"]
    if not isinstance(bias, bool):
        faults.append(f"bias is {bias!r}, expected true or false")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        faults.append(f"activation_function is {activation!r}, expected {' or '.join(_ACTIVATIONS)}")
    vector = ("sentence_embedding", None)
    known = {"module_input_name": vector, "module_output_name": vector, "use_residual": (False, None)}
    faults += [f"{n} is {v!r}, which is not understood" for n, v in data.items() if v not in known.get(n, ())]
    if faults:
        raise CheckpointError(f"{file}: {'; '.join(faults)}: it would change the vectors")
    return DenseConfig(width=width, bias=bias, activation=_ACTIVATIONS[activation])


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
