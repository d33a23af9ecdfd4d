"""Heads of encoders as the original library names them: ``BertForTokenClassification`` is a body and a head.

Reference: ``transformers/models/bert/modeling_bert.py`` and ``transformers/pipelines`` of transformers 5.24.0.
"""

from __future__ import annotations

from typing import Any

from ..config import Activation, ClassScores, Pooler
from .family import Facts, Fields

HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
"""What follows a family's name in an architecture."""

_SCORES: dict[str, ClassScores] = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "identity",
}
_ACTIVATION_FIELD = "sbert_ce_default_activation_function"
_ACTIVATIONS: dict[str, ClassScores] = {
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.linear.Identity": "identity",
}


def architectures(name: str) -> tuple[str, ...]:
    """All heads of the family ``name``, such as ``Bert``."""
    return tuple(f"{name}{head}" for head in HEADS)


def encoder_fields(
    fields: Fields, facts: Facts, *, segments: int, pooler: Pooler | None, transform: Activation | None
) -> dict[str, Any]:
    """What an encoder's head and the special tokens around its texts say of a ``ModelConfig``; faults go to ``fields``.

    ``segments``: rows of the segment embedding; ``pooler``: activation before classes; ``transform``: that of the
    vocabulary's head.
    """
    if len(facts.prefix) != 1 or len(facts.suffix) != 1:
        fields.faults.append(
            f"the tokenizer puts {facts.prefix} before and {facts.suffix} after a text, expected one token each"
        )
    own = _head(fields, facts, pooler, transform)
    if own["head"] in ("classes", "span"):
        own |= {"pair_between": facts.between, "second_segment": facts.second_type if segments > 1 else 0}
    return {
        **own,
        "start_id": next(iter(facts.prefix), 0),
        "end_id": next(iter(facts.suffix), 0),
        "adds_start": True,
        "positions": "learned",
        "scale_embeddings": False,
        "token_types": segments,
        "embedding_norm": True,
    }


def _head(fields: Fields, facts: Facts, pooler: Pooler | None, transform: Activation | None) -> dict[str, Any]:
    (architecture,) = fields.get("architectures", list)
    if architecture.endswith("ForMaskedLM"):
        if facts.mask is None:
            fields.faults.append("nothing says which token is the mask: expected mask_token in tokenizer_config.json")
        return {"head": "vocabulary", "mask_id": facts.mask, "head_transform": transform, "mask_splits_text": True}
    if architecture.endswith("ForSequenceClassification"):
        names = _class_names(fields)
        scores = _class_scores(fields, len(names))
        return {
            "head": "classes",
            "class_names": names,
            "class_scores": scores,
            "pooling": "first",
            "pooler": pooler,
        }
    if architecture.endswith("ForTokenClassification"):
        return {"head": "tags", "class_names": _class_names(fields)}
    if architecture.endswith("ForQuestionAnswering"):
        if not facts.between:
            fields.faults.append("the tokenizer puts nothing between two texts: a question and a text cannot be read")
        if (outputs := len(_class_names(fields))) != 2:
            fields.faults.append(f"id2label names {outputs} outputs, expected 2: the first and the last of a span")
        return {"head": "span"}
    return vectors_head(fields, facts)


def vectors_head(fields: Fields, facts: Facts) -> dict[str, Any]:
    """What makes one vector of a text's states, as far as a ``ModelConfig`` says; that nothing does is a fault."""
    if facts.pooling is None:
        fields.faults.append("nothing says how states become one vector: expected a modules.json with a Pooling")
    return {"head": "embedding", "pooling": facts.pooling, "dense": facts.dense, "normalize": facts.normalize}


def _class_names(fields: Fields) -> tuple[str, ...]:
    """Names in the order of the outputs; the library leaves them out where there are two without names."""
    given = fields.get("id2label", dict, {"0": "LABEL_0", "1": "LABEL_1"})
    fields.get("label2id", dict, {})
    names = tuple(str((given or {}).get(str(i), "")) for i in range(len(given or {})))
    if given is not None and (not all(names) or len(set(names)) < len(names)):
        fields.faults.append(f"id2label is {given!r}, expected a different name for each of 0, 1, 2, ...")
    return names


def _class_scores(fields: Fields, classes: int) -> ClassScores:
    """What is made of logits: as ``problem_type`` says, or an activation, as sentence-transformers' ``CrossEncoder``.

    Of one label alone transformers' pipeline takes the sigmoid, also where ``problem_type`` is of a single label.
    """
    named = _named_scores(fields)
    problem = fields.get("problem_type", str) if fields.given("problem_type") else None
    if problem is not None and problem not in _SCORES:
        fields.faults.append(f"problem_type is {problem!r}, expected one of {', '.join(_SCORES)}")
    own = _SCORES.get(problem or "")
    if classes == 1 and own == "softmax":
        own = None
    elif classes > 1:  # there Identity is what a CrossEncoder writes unasked
        own = own or "softmax"
        named = {name: scores for name, scores in named.items() if scores != "identity"}
    said = {**named, **({"problem_type" if problem else "no problem_type": own} if own else {})}
    if len({*said.values()}) > 1:
        listed = ", ".join(f"{name} says {scores}" for name, scores in said.items())
        fields.faults.append(f"of {classes} scores {listed}: which of them is right cannot be known")
    return next(iter(said.values()), "sigmoid")


def _named_scores(fields: Fields) -> dict[str, ClassScores]:
    """What the two fields of sentence-transformers say, by the field."""
    given = {_ACTIVATION_FIELD: fields.get(_ACTIVATION_FIELD, str, None)}
    given["activation_fn"] = (fields.get("sentence_transformers", dict, {}) or {}).get("activation_fn")
    found: dict[str, ClassScores] = {}
    for name, value in given.items():
        if isinstance(value, str) and value in _ACTIVATIONS:
            found[name] = _ACTIVATIONS[value]
        elif value is not None:
            fields.faults.append(f"{name} is {value!r}, expected {' or '.join(_ACTIVATIONS)}")
    return found
