"""The whole network: against ``torch.nn.Transformer`` with the same weights, and the properties decoding relies on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgewise.models.config import ModelConfig, StackConfig
from edgewise.models.layers import MultiHeadAttention
from edgewise.models.transformer import DecoderLayer, EncoderLayer, Transformer

pytestmark = pytest.mark.usefixtures("no_gradients")

Networks = Callable[..., Transformer]
Compare = Callable[..., None]
PAD = 0
SOURCE = torch.tensor([[5, 6, 7, 8, 9, 2], [10, 11, 2, PAD, PAD, PAD], [12, 13, 14, 15, 2, PAD]])
TARGET = torch.tensor([[1, 4, 5, 6], [1, 7, PAD, PAD], [1, 8, 9, PAD]])


def _positions(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1])[None].expand_as(ids)


# --- against torch.nn.Transformer -------------------------------------------------------------------------------------


def _copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


def _copy_layer(ours: EncoderLayer | DecoderLayer, theirs: nn.Module) -> None:
    """Into PyTorch's layer; its norms are numbered in the order of the sub-layers."""
    _copy_attention(ours.attention, theirs.self_attn)
    norms = [ours.attention_residual.norm, ours.feed_forward_residual.norm]
    if isinstance(ours, DecoderLayer):
        _copy_attention(ours.cross_attention, theirs.multihead_attn)
        norms.insert(1, ours.cross_residual.norm)
    for i, norm in enumerate(norms, start=1):
        getattr(theirs, f"norm{i}").load_state_dict(norm.state_dict())
    theirs.linear1.load_state_dict(ours.feed_forward.inner.state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward.outer.state_dict())


def _torch_twin(model: Transformer) -> nn.Transformer:
    """``torch.nn.Transformer`` with the weights of ``model``. Training mode: no fast path, and dropout is 0."""
    enc, dec = model.config.encoder, model.config.decoder
    twin = nn.Transformer(
        enc.d_model,
        enc.n_heads,
        enc.n_layers,
        dec.n_layers,
        enc.d_ff,
        dropout=0.0,
        activation=enc.activation,
        layer_norm_eps=enc.norm_epsilon,
        batch_first=True,
        norm_first=enc.norm_place == "pre",
        dtype=torch.float64,
    ).train()
    for ours, theirs in ((model.encoder, twin.encoder), (model.decoder, twin.decoder)):
        for layer, twin_layer in zip(ours.layers, theirs.layers, strict=True):
            _copy_layer(layer, twin_layer)
        # PyTorch normalizes once more after a post-norm stack, the paper does not.
        if enc.ends_in_norm:
            theirs.norm.load_state_dict(ours.final_norm.state_dict())
        else:
            theirs.norm = None
    return twin


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("final_norm", [None, True, False])
@pytest.mark.parametrize("norm_place", ["post", "pre"])
def test_equals_torch_nn_transformer(
    norm_place: str, final_norm: bool | None, activation: str, network: Networks, assert_close: Compare
) -> None:
    more = {"norm_place": norm_place, "final_norm": final_norm, "activation": activation}
    model = network("encoder-decoder", **more, norm_epsilon=1e-3)
    twin = _torch_twin(model)
    source = model.embed(SOURCE, _positions(SOURCE))
    target = model.embed(TARGET, _positions(TARGET))
    source_padding, target_padding = SOURCE == PAD, TARGET == PAD
    hidden = twin.encoder(source, src_key_padding_mask=source_padding)
    expected = twin.decoder(
        target,
        hidden,
        tgt_mask=torch.ones(4, 4).triu(1).bool(),
        tgt_key_padding_mask=target_padding,
        memory_key_padding_mask=source_padding,
    )
    assert_close(model.encode(SOURCE, ~source_padding), hidden)
    assert_close(model(SOURCE, TARGET), expected)


# --- properties -------------------------------------------------------------------------------------------------------


def test_embedding_is_scaled_and_shared_with_the_output(network: Networks, assert_close: Compare) -> None:
    """Section 3.4: times sqrt(16) = 4 on the way in, the same matrix on the way out."""
    model = network("decoder")
    ids = torch.tensor([[3, 4]])
    assert_close(
        model.embed(ids, torch.tensor([[0, 7]])), (4 * model.embedding.weight[3:5] + model.positions[[0, 7]])[None]
    )
    hidden = torch.randn(1, 2, 16, dtype=torch.float64)
    assert_close(model.logits(hidden), hidden @ model.embedding.weight.T + model.vocabulary_bias)
    assert "positions" not in model.state_dict()


@pytest.mark.parametrize("norm_place", ["post", "pre"])
@pytest.mark.parametrize("architecture", ["decoder", "encoder-decoder"])
def test_a_token_changes_nothing_before_itself(architecture: str, norm_place: str, network: Networks) -> None:
    model = network(architecture, norm_place=norm_place)
    ids = torch.tensor([[1, 4, 5, 6, 7, 8]])
    before = model.logits(model(SOURCE[:1], ids))
    for t in range(ids.shape[1]):
        changed = ids.clone()
        changed[0, t] = 20
        after = model.logits(model(SOURCE[:1], changed))
        assert torch.equal(after[0, :t], before[0, :t])
        assert (after[0, t:] != before[0, t:]).any(-1).all()  # and everything from itself on


def test_an_encoder_looks_both_ways(network: Networks) -> None:
    model = network("encoder")
    mask = torch.ones(1, 6, dtype=torch.bool)
    changed = SOURCE[:1].clone()
    changed[0, 5] = 20
    assert (model.encode(changed, mask) != model.encode(SOURCE[:1], mask)).any(-1).all()


@pytest.mark.parametrize("norm_place", ["post", "pre"])
def test_padding_changes_no_sentence(norm_place: str, network: Networks, assert_close: Compare) -> None:
    model = network("encoder-decoder", norm_place=norm_place)
    batch = model(SOURCE, TARGET)
    for row, (source, target) in enumerate(zip(SOURCE, TARGET, strict=True)):
        source, target = source[source != PAD][None], target[target != PAD][None]
        assert_close(batch[row : row + 1, : target.shape[1]], model(source, target))


def test_what_stands_under_the_mask_does_not_matter(network: Networks) -> None:
    model = network("encoder")
    mask = SOURCE != PAD
    other = torch.where(mask, SOURCE, 17)
    assert torch.equal(model.encode(SOURCE, mask)[mask], model.encode(other, mask)[mask])


def test_left_padding_with_positions_of_its_own(network: Networks, assert_close: Compare) -> None:
    """Ragged rows: positions count the real tokens, the key mask hides the rest."""
    model = network("decoder")
    ids = torch.tensor([[1, 4, 5, 6], [PAD, PAD, 1, 7]])
    positions = torch.tensor([[0, 1, 2, 3], [0, 0, 0, 1]])
    hidden = model.decode(ids, positions, ids != PAD)[0]
    assert_close(hidden[1:, 2:], model(ids[1:, 2:], ids[1:, 2:]))


@pytest.mark.parametrize("pieces", [[3, 1, 1, 1], [1] * 6, [1, 4, 1], [6]], ids=str)
@pytest.mark.parametrize("norm_place", ["post", "pre"])
@pytest.mark.parametrize("architecture", ["decoder", "encoder-decoder"])
def test_prefill_and_steps_are_one_full_pass(
    architecture: str, norm_place: str, pieces: list[int], network: Networks, assert_close: Compare
) -> None:
    model = network(architecture, norm_place=norm_place)
    ids = torch.tensor([[1, 4, 5, 6, 7, 8], [1, 9, 10, 11, 12, 13]])
    cross = cross_mask = past = None
    if architecture == "encoder-decoder":
        cross_mask = SOURCE[:2] != PAD
        cross = model.cross_key_value(model.encode(SOURCE[:2], cross_mask))
    hidden, at = [], 0
    for piece in pieces:
        now = slice(at, at + piece)
        key_mask = torch.ones(2, at + piece, dtype=torch.bool)
        step, past = model.decode(ids[:, now], _positions(ids)[:, now], key_mask, past, cross, cross_mask)
        hidden.append(step)
        at += piece
    full, present = model.decode(ids, _positions(ids), torch.ones_like(ids, dtype=torch.bool), None, cross, cross_mask)
    assert_close(torch.cat(hidden, 1), full)
    for (key, value), (full_key, full_value) in zip(past, present, strict=True):
        assert key.shape == (2, 4, 6, 4)
        assert_close(key, full_key)
        assert_close(value, full_value)


@pytest.mark.parametrize("n_tokens", [1, 3])
def test_beams_share_the_source_of_their_sentence(n_tokens: int, network: Networks, assert_close: Compare) -> None:
    """R = B * K rows over K/V of B sources give what K/V repeated K times would."""
    model, beams = network("encoder-decoder"), 4
    cross_mask = SOURCE != PAD
    cross = model.cross_key_value(model.encode(SOURCE, cross_mask))
    ids = torch.randint(3, 23, (3 * beams, n_tokens), generator=torch.Generator().manual_seed(3))
    key_mask = torch.ones_like(ids, dtype=torch.bool)
    repeated = [(k.repeat_interleave(beams, 0), v.repeat_interleave(beams, 0)) for k, v in cross]
    shared = model.decode(ids, _positions(ids), key_mask, cross=cross, cross_mask=cross_mask)[0]
    expected = model.decode(
        ids, _positions(ids), key_mask, cross=repeated, cross_mask=cross_mask.repeat_interleave(beams, 0)
    )[0]
    assert_close(shared, expected)


def test_a_decoder_alone_ignores_the_source(network: Networks) -> None:
    model = network("decoder")
    assert model.encoder is None
    assert all(layer.cross_attention is None for layer in model.decoder.layers)
    assert torch.equal(model(SOURCE, TARGET), model(SOURCE + 1, TARGET))


def test_classes_are_scored_from_the_mean_of_the_real_states(assert_close: Compare) -> None:
    """States (1, 2) and (3, 6) are real, (100, 100) is padding: the mean is (2, 4)."""
    stack = StackConfig(n_layers=1, d_model=2, n_heads=1, d_ff=2)
    model = Transformer(
        ModelConfig(
            vocab_size=5,
            max_positions=4,
            pad_id=0,
            start_id=1,
            end_id=2,
            encoder=stack,
            head="classes",
            class_names=("sum", "difference"),
        )
    )
    model.classifier.load_state_dict(
        {"weight": torch.tensor([[1.0, 1.0], [1.0, -1.0]]), "bias": torch.tensor([0.5, 0.0])}
    )
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]]])
    assert_close(model.classify(hidden, torch.tensor([[True, True, False]])), torch.tensor([[6.5, -2.0]]))
    assert model.vocabulary_bias is None


def test_nothing_but_padding_scores_as_zero_states(network: Networks) -> None:
    """A mean over no states must not be NaN."""
    model = network("encoder")
    model.classifier = nn.Linear(16, 2, dtype=torch.float64)
    scores = model.classify(torch.randn(1, 3, 16, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.bool))
    assert torch.equal(scores[0], model.classifier.bias)


def test_dropout_acts_in_training_only(network: Networks) -> None:
    config = network("encoder-decoder").config
    model = Transformer(config, dropout=0.5)
    assert not torch.equal(model.train()(SOURCE, TARGET), model(SOURCE, TARGET))
    assert torch.equal(model.eval()(SOURCE, TARGET), model(SOURCE, TARGET))
