"""What a bundle is, without opening an engine: for programs a dictionary, for people some lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from .bundle import Bundle
from .bundle.chat import CHAT_TEMPLATE_FILE
from .bundle.decoding import Generation
from .bundle.languages import LanguageSpec
from .bundle.manifest import Variant
from .bundle.model_spec import StackSpec
from .bundle.schema import LATER
from .bundle.speech import FRAME_SECONDS, SpeechSpec


def describe(bundle: Bundle) -> dict[str, Any]:
    """Everything worth knowing of a bundle, as plain values ready for JSON. Sizes are bytes."""
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "path": str(bundle.path),
        "format": manifest.format,
        "task": manifest.task,
        "languages": dataclasses.asdict(manifest.languages) if manifest.languages else None,
        "model": dataclasses.asdict(manifest.model),
        "max_context": manifest.max_context,
        "generation": dataclasses.asdict(manifest.generation) if manifest.generation else None,
        "alignment_layer": manifest.alignment_layer,
        "chat": dataclasses.asdict(manifest.chat) if manifest.chat else None,
        "variants": [_variant(bundle, variant) for variant in manifest.variants],
        "bytes": sum(entry.bytes for entry in manifest.files),
        "files": [dataclasses.asdict(entry) for entry in manifest.files],
        "hashes_checked": bundle.verified,
        "provenance": dict(manifest.provenance),
        "licence": dataclasses.asdict(manifest.licence),
        "report": bundle.report(),
    }


def _variant(bundle: Bundle, variant: Variant) -> dict[str, Any]:
    return {
        "name": variant.name,
        "target": variant.target,
        "precision": variant.precision,
        "bytes": bundle.size(variant),
        "graphs": {name: spec.file for name, spec in variant.graphs.items()},
        "cache": dataclasses.asdict(variant.cache),
        "kernels": [dataclasses.asdict(kernel) for kernel in variant.kernels],
    }


def as_text(bundle: Bundle) -> str:
    """The same for people to read; matrices of one kernel and shape share a line."""
    return "\n".join(_lines(bundle, describe(bundle)))


def _lines(bundle: Bundle, found: dict[str, Any]) -> Iterator[str]:
    languages = found["languages"]
    yield f"{found['name']}: {found['task']}" + (
        f", {languages['source']} to {languages['target']}" if languages else ""
    )
    yield f"  {found['path']}, format {found['format']}, {_size(found['bytes'])} in {len(found['files'])} files, " + (
        "every hash checked" if found["hashes_checked"] else "hashes NOT checked"
    )
    yield "model"
    yield from _model(bundle)
    for variant in found["variants"]:
        yield f"variant {variant['name']}: {_size(variant['bytes'])}, graphs {', '.join(variant['graphs'].values())}"
        yield f"  cache: {variant['cache']['layout']}"
        yield from _kernels(variant["kernels"])
    yield f"reference: {found['provenance'].get('reference', 'PyTorch')}"
    yield "provenance"
    yield from _nested(found["provenance"])
    if found["report"]:
        yield "report"
        yield from _nested(found["report"])
    yield f"licence of the weights: {found['licence']['name']}"
    yield from (f"  {line}" for line in found["licence"]["notice"].strip().splitlines())


def _model(bundle: Bundle) -> Iterator[str]:
    model, generation = bundle.manifest.model, bundle.manifest.generation
    yield f"  vocabulary {model.vocab_size}, context {bundle.manifest.max_context} tokens"
    for name, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        if stack:
            yield f"  {name}: {_stack(stack)}"
    if model.encoder and model.pooling:
        pooled = "mean of the states" if model.pooling == "mean" else "state of the first token"
        after = "" if model.dense is None else f", a dense layer with {model.dense.activation} activation"
        after += ", normalized" if model.normalize else ""
        yield f"  vectors of {model.vector_width} numbers: {pooled}{after}"
    if model.class_names:
        yield f"  classes: {', '.join(model.class_names)}"
    if chat := bundle.manifest.chat:
        ends = f", an answer ends at token {', '.join(map(str, chat.end_ids))} too" if chat.end_ids else ""
        yield f"  chat template: {CHAT_TEMPLATE_FILE}{ends}"
    if model.speech:
        yield from _speech(model.speech)
    if model.languages:
        yield from _languages(model.languages)
    if bundle.manifest.alignment_layer is not None:
        yield f"  alignments: mean over the heads of decoder layer {bundle.manifest.alignment_layer}, counted from 0"
    if generation and generation.end_ids:
        yield f"  a text ends at token {model.end_id}, and at {', '.join(map(str, generation.end_ids))}"
    if generation:
        half = bundle.manifest.max_context // 2
        most = generation.max_new_tokens or (half if model.speech else "source + 50")
        yield (
            f"  decoding by default: beam {generation.beam_size}, length penalty {generation.length_penalty:g}, "
            f"at most {most} tokens"
        )
        yield from _recommended(generation)


def _recommended(generation: Generation) -> Iterator[str]:
    """What a checkpoint recommends beyond what every bundle says, where it is not the default."""
    said = {
        field.name: getattr(generation, field.name)
        for field in dataclasses.fields(generation)
        if field.metadata == LATER
        and field.name not in ("end_ids", "suppress", "sampling")
        and getattr(generation, field.name) != field.default
    }
    if said:
        yield f"  and {', '.join(f'{name} {value}' for name, value in said.items())}"
    if generation.suppress:
        yield f"  and never {len(generation.suppress)} sequences of tokens"
    if generation.sampling:
        values = dataclasses.asdict(generation.sampling)
        drawn = ", ".join(f"{name} {value:g}" for name, value in values.items() if value is not None)
        yield f"  recommended sampling: {drawn}"


def _speech(speech: SpeechSpec) -> Iterator[str]:
    """What is heard at once, and in which languages."""
    seconds = speech.frames * FRAME_SECONDS
    yield f"  hears windows of {speech.frames} frames ({seconds:g} s) of {speech.bands} log-mel features"
    if speech.languages:
        yield f"  {len(speech.languages)} languages: {', '.join(speech.languages)}"


def _languages(languages: LanguageSpec) -> Iterator[str]:
    """All codes, and which are chosen where nobody chooses."""
    yield f"  {len(languages.tokens)} languages: {', '.join(languages.tokens)}"
    needed = "has to be chosen"
    source = languages.default_source or (needed if languages.source else "is not asked for")
    target = languages.default_target or (needed if languages.target != "source" else "none")
    yield f"  languages by default: source {source}, target {target}"


def _stack(stack: StackSpec) -> str:
    fewer = f" ({stack.kv_heads} of keys and values)" if stack.kv_heads < stack.n_heads else ""
    wide = f" of width {stack.head_width}" if stack.head_dim is not None else ""
    sizes = f"{stack.n_layers} layers, d_model {stack.d_model}, {stack.n_heads} heads{wide}{fewer}"
    if stack.norm_place is None:
        return f"{sizes}, the rest as the graphs have it"
    norm = f"{stack.norm_place}-norm{' by RMS' if stack.norm == 'rms' else ''}"
    return f"{sizes}, d_ff {stack.d_ff}, {norm}, {'gated ' if stack.gated else ''}{stack.activation}"


def _kernels(kernels: list[dict[str, Any]]) -> Iterator[str]:
    """Matrices of one shape and kernel together, with the first of their names."""
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for each in kernels:
        groups.setdefault((each["kernel"], tuple(each["shape"])), []).append(each["matrix"])
    for (kernel, (rows, columns)), names in groups.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"  {kernel:<16} {rows:>6} x {columns:<6} {names[0]}{more}"


def _nested(value: Any, indent: int = 2) -> Iterator[str]:
    """A JSON value, a line a leaf."""
    pad = " " * indent
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list) and item:
            yield f"{pad}{key}"
            yield from _nested(item, indent + 2)
        else:
            yield f"{pad}{key}: {item:.6g}" if isinstance(item, float) else f"{pad}{key}: {item}"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count} bytes"
