"""Encoders with their heads against ``transformers``: every switch that changes the mathematics, on both engines."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from edgewise.errors import CheckpointError, ConfigError
from edgewise.models.open import open_checkpoint

from ..open_model import open_model
from .encoders import (
    CLASSES,
    ONE,
    TAGS,
    bert_head,
    distilbert_head,
    electra_head,
    library,
    random_batch,
    roberta_head,
    xlm_roberta_head,
)
from .folders import change_json

pytestmark = pytest.mark.slow
Compare = Callable[..., None]


class Case(NamedTuple):
    """One folder: how it is made, its head, and what is changed in its configuration."""

    make: Callable[..., Path]
    family: str
    head: str
    fields: dict[str, Any]
    pad: int = 0
    positions: int = 40
    segments: int = 2


SIGMOID = "torch.nn.modules.activation.Sigmoid"
CASES = {
    "bert words": Case(bert_head, "Bert", "ForMaskedLM", {"hidden_act": "relu", "layer_norm_eps": 0.2}),
    "bert classes": Case(bert_head, "Bert", "ForSequenceClassification", {**CLASSES, "type_vocab_size": 3}),
    "bert labels": Case(
        bert_head,
        "Bert",
        "ForSequenceClassification",
        {**CLASSES, "problem_type": "multi_label_classification", "hidden_act": "gelu_new"},
    ),
    "bert value": Case(bert_head, "Bert", "ForSequenceClassification", {**ONE, "problem_type": "regression"}),
    "bert tags": Case(bert_head, "Bert", "ForTokenClassification", {**TAGS, "hidden_act": "silu"}),
    "bert span": Case(bert_head, "Bert", "ForQuestionAnswering", {"num_attention_heads": 2}),
    "distilbert words": Case(distilbert_head, "DistilBert", "ForMaskedLM", {"activation": "relu"}, segments=0),
    "distilbert classes": Case(
        distilbert_head, "DistilBert", "ForSequenceClassification", {**CLASSES, "n_heads": 2}, segments=0
    ),
    "distilbert tags": Case(
        distilbert_head, "DistilBert", "ForTokenClassification", {**TAGS, "sinusoidal_pos_embds": True}, segments=0
    ),
    "distilbert span": Case(distilbert_head, "DistilBert", "ForQuestionAnswering", {"n_layers": 3}, segments=0),
    "electra words": Case(electra_head, "Electra", "ForMaskedLM", {"hidden_act": "relu", "layer_norm_eps": 0.2}),
    "electra classes": Case(electra_head, "Electra", "ForSequenceClassification", {**CLASSES, "type_vocab_size": 3}),
    "electra tags": Case(electra_head, "Electra", "ForTokenClassification", {**TAGS, "embedding_size": 32}),
    "electra span": Case(electra_head, "Electra", "ForQuestionAnswering", {"embedding_size": 48}),
    "roberta words": Case(roberta_head, "Roberta", "ForMaskedLM", {"hidden_act": "relu"}, pad=1, segments=1),
    "roberta classes": Case(
        roberta_head, "Roberta", "ForSequenceClassification", {**CLASSES, "layer_norm_eps": 0.1}, pad=1, segments=1
    ),
    "roberta tags": Case(
        roberta_head, "Roberta", "ForTokenClassification", {**TAGS, "pad_token_id": 2}, pad=2, positions=39, segments=1
    ),
    "roberta span": Case(roberta_head, "Roberta", "ForQuestionAnswering", {"type_vocab_size": 2}, pad=1, segments=1),
    "xlm-r words": Case(xlm_roberta_head, "XLMRoberta", "ForMaskedLM", {"hidden_act": "silu"}, pad=1, segments=1),
    "xlm-r classes": Case(xlm_roberta_head, "XLMRoberta", "ForSequenceClassification", ONE, pad=1, segments=1),
    "xlm-r tags": Case(xlm_roberta_head, "XLMRoberta", "ForTokenClassification", TAGS, pad=1, segments=1),
    "xlm-r span": Case(xlm_roberta_head, "XLMRoberta", "ForQuestionAnswering", {}, pad=1, segments=1),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""

    @cache
    def made(name: str) -> Path:
        case = CASES[name]
        return case.make(tmp_path_factory.mktemp("encoder"), case.head, len(name), **case.fields)

    return made


@torch.no_grad()
def expected(name: str, folder: Path, ids: Tensor, mask: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states and logits of the original library; those of a span side by side."""
    case = CASES[name]
    types = {"token_type_ids": segments} if case.segments > 1 else {}
    model = library(folder, f"{case.family}{case.head}")
    found = model(torch.where(mask, ids, case.pad), attention_mask=mask.long(), output_hidden_states=True, **types)
    logits = torch.stack([found.start_logits, found.end_logits], -1) if "start_logits" in found else found.logits
    return found.hidden_states[-1], logits


def batch(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask, and segments as two texts have them where the model tells these apart."""
    case = CASES[name]
    ids, mask = random_batch(case.positions, range(5, 30))
    two = case.segments > 1 and case.head in ("ForSequenceClassification", "ForQuestionAnswering")
    segments = (torch.arange(ids.shape[1]) >= torch.tensor([[30], [1], [9], [2]])).long() if two else None
    return torch.where(mask, ids, case.pad), mask, torch.zeros_like(ids) if segments is None else segments * mask


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_states_and_logits_are_those_of_the_library(
    name: str, folder: Callable[[str], Path], assert_close: Compare
) -> None:
    ids, mask, segments = batch(name)
    hidden, logits = expected(name, folder(name), ids, mask, segments)
    model = open_checkpoint(folder(name)).model
    own = model.encode(ids, mask, segments if model.config.second_segment else None)
    assert_close(own[mask], hidden[mask])
    head = model.config.head
    if head == "classes":
        assert_close(model.classify(own, mask), logits)
    else:
        assert_close((model.logits(own) if head == "vocabulary" else model.tag(own))[mask], logits[mask])


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("name", CASES)
def test_engines_give_the_librarys_states_and_logits(
    name: str, target: str, folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    ids, mask, segments = batch(name)
    hidden, logits = expected(name, folder(name), ids, mask, segments)
    engine = open_model(open_checkpoint(folder(name)).model, target, tmp_path / "v")
    everywhere = np.ascontiguousarray(np.broadcast_to(np.arange(ids.shape[1]), ids.shape))
    own, scores = engine.encode(ids.numpy(), mask.numpy(), everywhere, segments.numpy())
    real = mask.numpy()
    assert_close(own[real], hidden.numpy()[real], atol=1e-4)
    by_text = CASES[name].head == "ForSequenceClassification"
    assert_close(scores if by_text else scores[real], logits.numpy() if by_text else logits.numpy()[real], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("bert words", {"head": "vocabulary", "mask_id": 4, "head_transform": "relu", "mask_splits_text": True}),
        ("bert classes", {"class_names": ("bad", "so so", "good"), "class_scores": "softmax", "second_segment": 1}),
        ("bert labels", {"class_scores": "sigmoid", "pooler": "tanh", "pair_between": (3,)}),
        ("bert value", {"class_scores": "identity", "class_names": ("score",)}),
        ("bert tags", {"head": "tags", "second_segment": 0}),
        ("bert span", {"head": "span", "pair_between": (3,), "second_segment": 1}),
        ("distilbert classes", {"pooler": "relu", "pair_between": (3,), "second_segment": 0, "token_types": 0}),
        ("distilbert words", {"mask_id": 4, "head_transform": "relu"}),
        ("electra words", {"mask_id": 4, "head_transform": "gelu", "embedding_width": 24}),
        ("electra classes", {"pooler": "gelu", "second_segment": 1, "token_types": 3}),
        ("electra tags", {"head": "tags", "embedding_width": None}),
        ("roberta words", {"head_transform": "gelu", "max_positions": 40, "start_id": 0, "end_id": 2, "pad_id": 1}),
        ("roberta span", {"pair_between": (2, 2), "second_segment": 0, "token_types": 2}),
        ("roberta tags", {"max_positions": 39, "pad_id": 2}),
        ("xlm-r classes", {"pair_between": (2, 2), "class_scores": "sigmoid", "pooler": "tanh"}),
    ],
)
def test_what_a_folder_says_of_its_head(name: str, config: dict[str, Any], folder: Callable[[str], Path]) -> None:
    found = open_checkpoint(folder(name)).model.config
    assert {key: getattr(found, key) for key in config} == config


@pytest.mark.parametrize(
    ("fields", "scores"),
    [
        ({}, "sigmoid"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5"}}, "identity"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, "sigmoid"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "identity"),
        ({"problem_type": "multi_label_classification"}, "sigmoid"),
        ({"problem_type": "single_label_classification"}, "sigmoid"),
    ],
)
def test_one_score_alone(fields: dict[str, Any], scores: str, tmp_path: Path) -> None:
    made = bert_head(tmp_path / "one", "ForSequenceClassification", **ONE)
    change_json(made / "config.json", **fields)
    assert open_checkpoint(made).model.config.class_scores == scores


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("bert classes", {"sentence_transformers": {"activation_fn": []}}, r"activation_fn is \[\], expected torch.nn"),
        (
            "bert classes",
            {"sentence_transformers": {"activation_fn": SIGMOID}},
            r"of \d scores activation_fn says sigmoid, no ",
        ),
        (
            "bert value",
            {"sentence_transformers": {"activation_fn": SIGMOID}},
            "sigmoid, problem_type says identity: which",
        ),
        ("bert classes", {"problem_type": "ranking"}, "problem_type is 'ranking', expected one of single_label_class"),
        ("bert classes", {"id2label": {"0": "x", "2": "y"}}, "expected a different name for each of 0, 1, 2"),
        ("bert classes", {"id2label": {"0": "x", "1": "x"}}, "expected a different name for each"),
        (
            "bert value",
            {"sentence_transformers": {"activation_fn": "torch.nn.ReLU"}},
            "activation_fn is 'torch.nn.ReLU', expected torch.nn.modules.activation.Sigmoid or",
        ),
        ("bert span", {"id2label": {"0": "a", "1": "b", "2": "c"}}, "id2label names 3 outputs, expected 2"),
        ("bert words", {"tie_word_embeddings": False}, "tie_word_embeddings is False, expected True"),
    ],
)
def test_configurations_that_are_not_understood(
    name: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    case = CASES[name]
    made = case.make(tmp_path / "changed", case.head, **case.fields)
    change_json(made / "config.json", **fields)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(made)


def test_which_token_is_the_mask_is_not_guessed(tmp_path: Path) -> None:
    made = bert_head(tmp_path / "words", "ForMaskedLM")
    (made / "tokenizer_config.json").rename(made / "special_tokens_map.json")
    assert open_checkpoint(made).model.config.mask_id == 4
    (made / "special_tokens_map.json").unlink()
    with pytest.raises(ConfigError, match="nothing says which token is the mask: expected mask_token in"):
        open_checkpoint(made)


def test_a_question_needs_a_tokenizer_of_pairs(tmp_path: Path) -> None:
    made = bert_head(tmp_path / "span", "ForQuestionAnswering")
    processor = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            token: {"id": token, "ids": [i], "tokens": [token]} for token, i in (("[CLS]", 2), ("[SEP]", 3))
        },
    }
    change_json(made / "tokenizer.json", post_processor=processor)
    with pytest.raises(ConfigError, match="the tokenizer puts nothing between two texts"):
        open_checkpoint(made)


def test_tensors_of_another_head_are_not_dropped(tmp_path: Path) -> None:
    made = bert_head(tmp_path / "tags", "ForTokenClassification", **TAGS)
    change_json(made / "config.json", architectures=["BertForQuestionAnswering"], id2label=None, label2id=None)
    with pytest.raises(CheckpointError, match=r"classifier.weight has shape \(5, 32\), expected \(2, 32\)"):
        open_checkpoint(made)
    change_json(made / "config.json", architectures=["BertForMaskedLM"])
    with pytest.raises(CheckpointError, match=r"missing transform.weight.*unexpected classifier.weight"):
        open_checkpoint(made)
