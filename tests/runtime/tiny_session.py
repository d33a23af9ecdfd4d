"""Sessions for tests: a tiny random model behind TorchEngine, a small real tokenizer, a manifest without files."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from edgewise.models.tokenizer import train_bpe
from edgewise.models.transformer import Transformer
from edgewise.runtime.bundle import Bundle
from edgewise.runtime.bundle.chat import CHAT_TEMPLATE_FILE, ChatSpec
from edgewise.runtime.bundle.manifest import (
    RECORDED,
    CacheSpec,
    FileEntry,
    Generation,
    GraphSpec,
    Languages,
    Licence,
    Manifest,
    Task,
    TensorSpec,
    Variant,
    quantized_file,
)
from edgewise.runtime.bundle.model_spec import ModelSpec
from edgewise.runtime.session import Session
from edgewise.runtime.tokenizer import Tokenizer

from ..tiny import tiny_model
from .torch_engine import TorchEngine

LINES = ["A man is riding a bicycle.", "Two dogs run on the grass.", "Ein Mann fährt Fahrrad.", "A woman, a hat."] * 4
VOCAB_SIZE = 330
FIRST_WORD = 260
_ARCHITECTURES: dict[str, Any] = {"translate": "encoder-decoder", "generate": "decoder"}


@cache
def tokenizer_json() -> bytes:
    """A byte-fallback BPE of 330 tokens."""
    return train_bpe(LINES, VOCAB_SIZE).to_str().encode()


def tokenizer() -> Tokenizer:
    return Tokenizer(tokenizer_json())


def manifest(task: Task, model: Transformer, *, variants: tuple[str, ...] = ("cpu-fp32",), **changes: Any) -> Manifest:
    tensor = (TensorSpec(name="ids", dtype="int64", shape=("batch", "time")),)
    names = [name for name in ("encoder", "decoder") if getattr(model.config, name)]
    hidden = (TensorSpec(name="hidden", dtype="float32", shape=("batch", "time", model.config.d_model)),)
    given = {"encoder": hidden, "decoder": tensor}
    graphs = {name: GraphSpec(file=f"{name}.onnx", inputs=tensor, outputs=given[name]) for name in names}
    if changes.get("alignment_layer") is not None:
        graphs["alignment"] = GraphSpec(file="alignment.onnx", inputs=tensor, outputs=tensor)
    spec = ModelSpec.from_json(model.config.to_json())
    rows = []
    for name in variants:
        target, precision = name.split("-", 1)
        cache_spec = CacheSpec.of(spec.decoder, "shared-buffer")
        rows.append(
            Variant(target=target, precision=precision, folder=name, graphs=graphs, cache=cache_spec)  # type: ignore[arg-type]
        )
    paths = ["tokenizer.json", "reference/cases.json", *(v.graph_path(g) for v in rows for g in graphs)]
    paths += [quantized_file(v.name) for v in rows if v.precision in RECORDED]
    fields: dict[str, Any] = {
        "name": "tiny",
        "task": task,
        "model": spec,
        "max_context": model.config.max_positions,
        "generation": Generation(beam_size=1, length_penalty=0.6, max_new_tokens=None) if spec.decoder else None,
        "languages": Languages(source="en", target="de") if task == "translate" else None,
        "licence": Licence(name="none", notice="For tests."),
        "provenance": {"edgewise": "0", "checkpoint_sha256": "0" * 64, "torch": "0"},
        "variants": tuple(rows),
        "files": tuple(FileEntry(path=path, bytes=1, sha256="0" * 64) for path in paths),
    }
    return Manifest(**{**fields, **changes})


def model_for(task: Task, seed: int = 0, **arguments: Any) -> Transformer:
    names = ("negative", "positive") if task == "classify" else ()
    architecture = _ARCHITECTURES.get(task, "encoder")
    model = tiny_model(seed, architecture, vocab_size=VOCAB_SIZE, class_names=names, **arguments)
    if model.vocabulary_bias is not None:
        model.vocabulary_bias.data[FIRST_WORD - 256 : FIRST_WORD] = -20.0  # bytes show no text until they are complete
    return model


CHAT_TEMPLATE = (
    "{% for m in messages %}{{ bos_token + m.role + ': ' + m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token + 'assistant: ' }}{% endif %}"
)


def chat_session(folder: Path, context: int, end_ids: tuple[int, ...] = (), own: tuple[int, ...] = ()) -> Session:
    """A session that chats, its template in ``folder``; ``own``: end tokens of every text, ``end_ids`` of an answer."""
    (folder / CHAT_TEMPLATE_FILE).write_text(CHAT_TEMPLATE)
    model = model_for("generate", end_bias=-4.0, max_positions=context)
    made = manifest("generate", model)
    made = replace(
        made,
        files=(*made.files, FileEntry(path=CHAT_TEMPLATE_FILE, bytes=1, sha256="0" * 64)),
        chat=ChatSpec(variables={"bos_token": "<s>"}, end_ids=end_ids),
        generation=Generation(beam_size=1, length_penalty=0.6, max_new_tokens=64, end_ids=own),
    )
    bundle = Bundle(path=folder, manifest=made, graphs={}, verified=True)
    return Session(bundle, made.variants[0], TorchEngine(model), tokenizer())


def session_for(task: Task, seed: int = 0, *, changes: dict[str, Any] | None = None, **arguments: Any) -> Session:
    """A session on a tiny random model; ``changes`` are fields of the manifest, the rest goes to the model."""
    model = model_for(task, seed, **arguments)
    made = manifest(task, model, **(changes or {}))
    bundle = Bundle(path=Path("tiny"), manifest=made, graphs={}, verified=True)
    return Session(bundle, made.variants[0], TorchEngine(model), tokenizer())
