"""What an engine binds of each graph, by name: a bundle whose graph has something else is refused before it runs."""

from __future__ import annotations

from collections.abc import Iterator

from . import signature as names
from .manifest import MANIFEST_FILE, GraphSpec, Variant
from .model_spec import ModelSpec
from .schema import raise_faults

_BEST = (names.LOGITS, names.TOP_LOG_PROBS, names.TOP_IDS)
_TABLES = (names.PAST_LENGTH, names.BEAM_WIDTH, names.CACHE_INDIRECTION, names.TOP_COUNT, names.CROSS_MASK)

# Inputs that a graph must have; inputs that it may have besides; outputs that it must have. Caches come on top.
_GRAPHS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    names.ENCODER: ((names.IDS, names.MASK), (names.SEGMENTS, names.LOGIT_INDEX), ()),
    names.DECODER: (
        (names.IDS,),
        (names.POSITIONS, names.KEY_MASK, names.LOGIT_INDEX, names.CROSS_MASK),
        (names.LOGITS,),
    ),
    names.PREFILL: ((names.IDS,), (*_TABLES, names.LOGIT_INDEX), _BEST),
    names.STEP: ((names.IDS, names.PAST_LENGTH), _TABLES, _BEST),
    names.RAGGED: ((names.IDS, names.ROW_LENGTHS), (*_TABLES, names.LONGEST), _BEST),
    names.VERIFY: ((names.IDS, names.PAST_LENGTH), _TABLES, _BEST),
    names.ALIGNMENT: ((names.IDS,), (names.POSITIONS, names.KEY_MASK, names.CROSS_MASK), (names.CROSS_ATTENTION,)),
}
_GROWING: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    names.ENCODER: ((names.IDS, names.MASK), (), (names.HIDDEN,)),
    names.PREFILL: ((names.IDS, names.HIDDEN), (names.LOGIT_INDEX, names.CROSS_MASK, names.TOP_COUNT), _BEST),
    names.DECODER: (
        (names.IDS,),
        (names.POSITIONS, names.KEY_MASK, names.LOGIT_INDEX, names.CROSS_MASK, names.TOP_COUNT),
        _BEST,
    ),
}
"""The graphs of a variant whose cache grows; it has no others."""


def check_required(variant: Variant, model: ModelSpec) -> None:
    """Refuse a variant whose graphs are not what their names say.

    Raises:
        BundleFormatError: a graph lacks an input or output, has one that nothing feeds, or one of another size.
    """
    if faults := [fault for graph, spec in variant.graphs.items() for fault in _faults(variant, graph, spec, model)]:
        raise_faults(MANIFEST_FILE, faults)


def _faults(variant: Variant, graph: str, spec: GraphSpec, model: ModelSpec) -> Iterator[str]:
    where = variant.graph_path(graph)
    growing = variant.cache.layout == "growing"
    if growing and graph not in _GROWING:
        yield f"{where} is a graph {graph!r}, which a variant with a growing cache cannot have"
        return
    hears = graph == names.ENCODER and model.speech is not None
    needed, more, given = ((names.FEATURES,), (), ()) if hears else (_GROWING if growing else _GRAPHS)[graph]
    inputs, outputs = {t.name: t for t in spec.inputs}, {t.name: t for t in spec.outputs}
    if graph == names.VERIFY and not _fixed_tokens(spec):
        yield f"{where} as the graph {graph!r} has no input ids (T, 1) of a fixed number of tokens T"
        return
    crossed = tuple(name for layer in range(variant.cache.layers) for name in _cross(layer))
    starts = growing and graph == names.PREFILL  # what comes first has no past
    caches = {} if starts else dict(_caches(variant, graph, spec))
    needed = (*needed, *caches)
    given = (*given, *(output for found in caches.values() for output in found))
    given = (*given, *(_presents(variant) if starts else ()), *(crossed if starts else ()))
    given = given if growing else (*given, *_of_encoder(graph, model))
    more = more if graph == names.ENCODER or starts else (*more, *crossed)
    if lacks := [name for name in needed if name not in inputs]:
        yield f"{where} as the graph {graph!r} lacks inputs {_few(lacks)}"
    if unknown := sorted(inputs.keys() - {*needed, *more}):
        yield f"{where} as the graph {graph!r} has inputs {_few(unknown)}, which nothing feeds"
    if lacks := [name for name in given if name not in outputs]:
        yield f"{where} as the graph {graph!r} lacks outputs {_few(lacks)}"
    size = (variant.cache.heads, variant.cache.head_dim)
    for name in caches:
        if name in inputs and inputs[name].shape[1::2] != size:
            yield f"{where} has the input {inputs[name]}, expected (rows, {size[0]}, capacity, {size[1]})"
    if hears and model.speech and names.FEATURES in inputs:
        found, window = inputs[names.FEATURES], (model.speech.bands, model.speech.frames)
        if (found.dtype, found.shape[1:]) != ("float32", window):
            yield f"{where} has the input {found}, expected features float32 (batch, {window[0]}, {window[1]})"
    steps = graph in (names.STEP, names.RAGGED)
    if steps and names.IDS in inputs and inputs[names.IDS].shape[1:] != (1,):
        yield f"{where} has the input {inputs[names.IDS]}, expected ids int64 (rows, 1)"


def _of_encoder(graph: str, model: ModelSpec) -> tuple[str, ...]:
    """What an encoder gives: a decoder the keys and values of every layer; alone, what its head makes of them."""
    if graph != names.ENCODER:
        return ()
    if model.decoder is not None:
        return tuple(name for layer in range(model.decoder.n_layers) for name in _cross(layer))
    return (names.EMBEDDING if model.head == "embedding" else names.LOGITS,)


def _caches(variant: Variant, graph: str, spec: GraphSpec) -> Iterator[tuple[str, list[str]]]:
    """Inputs that a past is read from, and the outputs that go with each."""
    for layer in range(variant.cache.layers):
        if graph == names.DECODER:
            yield names.past_key(layer), [names.present_key(layer)]
            yield names.past_value(layer), [names.present_value(layer)]
        elif graph not in (names.ENCODER, names.ALIGNMENT):
            for cache in (names.key_cache(layer), names.value_cache(layer)):
                several = range(_fixed_tokens(spec)) if graph == names.VERIFY else ()
                yield cache, [names.written(cache, token) for token in several] or [names.out_of(cache)]


def _presents(variant: Variant) -> list[str]:
    kinds = (names.present_key, names.present_value)
    return [name(layer) for layer in range(variant.cache.layers) for name in kinds]


def _fixed_tokens(spec: GraphSpec) -> int:
    """``T`` of an input ``ids (T, 1)``; 0 where it is not a size."""
    shape = next((t.shape for t in spec.inputs if t.name == names.IDS), ())
    return shape[0] if len(shape) == 2 and isinstance(shape[0], int) and shape[1] == 1 else 0


def _cross(layer: int) -> tuple[str, str]:
    return names.cross_key(layer), names.cross_value(layer)


def _few(found: list[str]) -> str:
    return ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
