"""Portable graphs as one target runs them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from ..errors import ExportError
from ..runtime.bundle import signature as names
from ..runtime.bundle.manifest import Layout
from .passes.attention_weights import attention_graph, reads_whole_heads
from .passes.blocked_bias import fuse_blocked_bias
from .passes.candidates import choose_candidates
from .passes.centred_norm import centre_norms
from .passes.cross_attention import fuse_cross_attention
from .passes.encoder_attention import fuse_encoder_attention
from .passes.flat_rows import flatten_rows
from .passes.joined_products import join_products
from .passes.many_rows import fuse_many_rows
from .passes.moved_weights import store_moved
from .passes.patterns import cross_attentions, finish
from .passes.plain_shapes import straighten_shapes
from .passes.pooled_means import sum_by_product
from .passes.ragged_rows import ragged_graph
from .passes.several_tokens import keeps_rows_apart, verify_graph
from .passes.shared_cache import OPSET, prefill_graph, step_graph

LAYOUTS: dict[str, Layout] = {"cpu": "shared-buffer", "openvino": "stateful"}


def variant_graphs(portable: Mapping[str, ir.Model], target: str) -> dict[str, ir.Model]:
    """The graphs of ``target`` from the portable ones, which stay as they are.

    ``cpu``: ``encoder``, ``prefill``, ``step``, ``ragged`` where the kernel takes its heads, and ``verify`` where rows
    of a call leave each other's numbers alone, in ONNX Runtime's operators. ``openvino``: the portable graphs
    themselves, which its engine makes stateful when it opens them. Both have an ``alignment`` graph where there are
    source and target: see :func:`alignment_layer`. What hears has neither ``ragged`` nor ``verify``: no request joins
    another, or speculates.

    Raises:
        ExportError: no variant is made for this target.
    """
    layer = alignment_layer(portable)
    if target == "openvino":
        graphs = {name: finish(model.clone(), model.graph.opset_imports[""]) for name, model in portable.items()}
        if layer is not None:
            graphs[names.ALIGNMENT] = attention_graph(portable[names.DECODER], layer)
        return graphs
    if target != "cpu":
        raise ExportError(f"no variant is made for target {target!r}: choose from {', '.join(LAYOUTS)}")
    graphs, hearing = {}, names.ENCODER in portable and hears(portable[names.ENCODER])
    if names.ENCODER in portable:
        encoder = sum_by_product(fuse_encoder_attention(portable[names.ENCODER].clone()))
        encoder = encoder if hearing else flatten_rows(encoder)  # rows are those of tokens
        graphs[names.ENCODER] = _for_onnxruntime(fuse_many_rows(encoder))
    if names.DECODER in portable:
        decoder = portable[names.DECODER]
        step = step_graph(decoder)
        verify = verify_graph(step) if not hearing and keeps_rows_apart(step) else None
        graphs[names.STEP] = choose_candidates(_for_onnxruntime(step))
        if not hearing and (ragged := ragged_graph(graphs[names.STEP])) is not None:
            graphs[names.RAGGED] = ragged
        graphs[names.PREFILL] = choose_candidates(_for_onnxruntime(fuse_many_rows(prefill_graph(decoder))))
        if verify is not None:
            graphs[names.VERIFY] = choose_candidates(_for_onnxruntime(verify))
        if layer is not None:
            weights = fuse_cross_attention(attention_graph(decoder, layer))
            graphs[names.ALIGNMENT] = _for_onnxruntime(fuse_many_rows(straighten_shapes(weights)))
    store_moved(graphs)
    return {name: finish(model, OPSET) for name, model in graphs.items()}


def alignment_layer(portable: Mapping[str, ir.Model]) -> int | None:
    """The decoder layer whose cross-attention is the alignment: the last.

    ``None`` where nothing is aligned: without an encoder, with one that hears, or with heads that share keys. The last
    layer is also CTranslate2's default (``alignment_layer=-1``), and of the four of the shipped translator the one that
    agrees best with a lexicon: of 964 tokens, in translations of 300 captions of Multi30k's ``val``, that have one
    partner by Dice's coefficient over ``train``, it looks most at the partner of 91 %; the layer before it, the best of
    six in Garg et al. 2019, at that of 87 %, the others at those of 69 and 11 %.
    """
    decoder = portable.get(names.DECODER)
    if names.ENCODER not in portable or decoder is None or not reads_whole_heads(decoder):
        return None
    if hears(portable[names.ENCODER]):
        return None
    return max(layer for layer, _ in cross_attentions(decoder.graph))


def hears(encoder: ir.Model) -> bool:
    """Whether an encoder reads features of speech in place of tokens."""
    return any(value.name == names.FEATURES for value in encoder.graph.inputs)


def _for_onnxruntime(model: ir.Model) -> ir.Model:
    """What every graph of the ``cpu`` target goes through last."""
    return finish(join_products(fuse_blocked_bias(finish(straighten_shapes(centre_norms(model)), OPSET))), OPSET)
