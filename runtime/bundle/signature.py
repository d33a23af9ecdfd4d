"""How every tensor and every graph of a bundle is called. Spelled here and nowhere else.

Shapes use the legend of ``edgewise.models``: ``B`` batch, ``R`` rows (batch times beams), ``T`` tokens now, ``S``
source tokens, ``P`` past, ``C = P + T`` keys, ``N`` positions whose logits are wanted, ``H`` heads, ``Dh`` head width.

========= ================================================================================================
graph     what it computes
========= ================================================================================================
encoder   with a decoder: source -> cross-attention K/V of every decoder layer; alone: hidden states, logits or vector
decoder   the portable decoder: any number of tokens after any past -> logits and the grown cache
prefill   a target's own form of the first call: prompt -> filled cache buffers and candidates
step      a target's own form of every later call: one token a row -> candidates, cache updated in place
ragged    as ``step``, for rows that have read different numbers of tokens
verify    several tokens of one text at once -> for each what ``step`` would have given, cache updated in place
alignment whole sentences of an encoder-decoder -> the cross-attention weights of one layer; not in every bundle
========= ================================================================================================

Graphs of another exporter are brought into these forms, with a cache that grows: ``decoder`` then gives candidates,
too, and beside an encoder reads one token a row, behind a ``prefill`` that takes the encoder's hidden states and gives
the cross-attention K/V and the first caches.
"""

from __future__ import annotations

ENCODER = "encoder"
DECODER = "decoder"
PREFILL = "prefill"
STEP = "step"
RAGGED = "ragged"
VERIFY = "verify"
ALIGNMENT = "alignment"
GRAPHS = (ENCODER, DECODER, PREFILL, STEP, RAGGED, VERIFY, ALIGNMENT)

# Inputs of the portable form.
IDS = "ids"  # (B, S), (R, T) int64
FEATURES = "features"  # (B, bands, frames) float32: log-mel features of speech, in place of ids and mask
MASK = "mask"  # (B, S) bool: false for padding
SEGMENTS = "segments"  # (B, S) int64: which of a pair's texts a token is in
POSITIONS = "positions"  # (R, T) int64: counts real tokens
KEY_MASK = "key_mask"  # (R, C) bool: false for padding
LOGIT_INDEX = "logit_index"  # (B, N), (R, N) int64: positions along T whose logits are wanted
CROSS_MASK = "cross_mask"  # (B, S) bool: false for padding of the source

# Outputs of the portable form.
LOGITS = "logits"  # (B, N, V), (R, N, V), (B, classes), (B, S, classes) float32
HIDDEN = "hidden"  # (B, S, D) float32; an input of the graph ``prefill`` where caches grow
EMBEDDING = "embedding_of_text"  # (B, D) float32: the states pooled, and normalized where the model says so

# Output of the alignment form.
CROSS_ATTENTION = "cross_attention"  # (B, T, S) float32: mean over the heads of one layer; rows sum to one

# Inputs of the forms with shared cache buffers.
PAST_LENGTH = "past_length"  # int32: tokens already in the buffers
BEAM_WIDTH = "beam_width"  # (1,) int32: beams a sentence
CACHE_INDIRECTION = "cache_indirection"  # (B, K, capacity) int32: the beam that holds each past token of each beam
ROW_LENGTHS = "row_lengths"  # (R,) int32: tokens in the buffers of each row
LONGEST = "longest"  # (1,) int32: the greatest of these, and one more
TOP_COUNT = "top_count"  # (1,) int64: candidates wanted per row

# Outputs of the forms that choose candidates inside the graph.
TOP_LOG_PROBS = "top_log_probs"  # (R, k) float32: log-softmax over the whole vocabulary, best first
TOP_IDS = "top_ids"  # (R, k) int64

# Input of the stateful form: the row whose cache each row continues.
BEAM_INDEX = "beam_idx"  # (R,) int32; the name OpenVINO's stateful transformation looks for


def past_key(layer: int) -> str:
    """Self-attention keys into a call: ``(R, H, P, Dh)``."""
    return f"past_key_{layer}"


def past_value(layer: int) -> str:
    """Self-attention values into a call: ``(R, H, P, Dh)``."""
    return f"past_value_{layer}"


def present_key(layer: int) -> str:
    """Self-attention keys out of a call: ``(R, H, C, Dh)``."""
    return f"present_key_{layer}"


def present_value(layer: int) -> str:
    """Self-attention values out of a call: ``(R, H, C, Dh)``."""
    return f"present_value_{layer}"


def cross_key(layer: int) -> str:
    """Cross-attention keys, out of the encoder and into the decoder: ``(B, H, S, Dh)``."""
    return f"cross_key_{layer}"


def cross_value(layer: int) -> str:
    """Cross-attention values, out of the encoder and into the decoder: ``(B, H, S, Dh)``."""
    return f"cross_value_{layer}"


def key_cache(layer: int) -> str:
    """Shared buffer of self-attention keys: ``(R, H, capacity, Dh)``; bound as input and as :func:`key_cache_out`."""
    return f"key_cache_{layer}"


def value_cache(layer: int) -> str:
    """Shared buffer of self-attention values: ``(R, H, capacity, Dh)``; bound as input and :func:`value_cache_out`."""
    return f"value_cache_{layer}"


def key_cache_out(layer: int) -> str:
    """The same buffer as :func:`key_cache`, as an output: ONNX wants a second name for it."""
    return f"key_cache_{layer}_out"


def value_cache_out(layer: int) -> str:
    """The same buffer as :func:`value_cache`, as an output: ONNX wants a second name for it."""
    return f"value_cache_{layer}_out"


def out_of(cache: str) -> str:
    """The output name of a shared buffer whose input name is ``cache``."""
    return f"{cache}_out"


def written(cache: str, token: int) -> str:
    """The same buffer again, as the output of ``verify`` that has ``token`` of this call in it."""
    return f"{out_of(cache)}_{token}"
