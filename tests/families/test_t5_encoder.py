"""T5's encoder alone against ``transformers`` and sentence-transformers: reference to bundle, on both engines."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import edgewise
from edgewise.errors import CheckpointError, ConfigError
from edgewise.models.open import open_checkpoint

from ..bundles import Damaged, export_few
from ..open_model import open_model
from .folders import bert_folder, change_json, library_bert, randomize, write_json
from .t5_folders import SIZES, library_t5, library_tokenizer, write_pieces

pytestmark = pytest.mark.slow
Compare = Callable[..., None]
Dense = tuple[int, bool, str]
GOLDEN = json.loads((Path(__file__).parent / "goldens" / "sentence_t5_6_2_0.json").read_text())
TANH, IDENTITY = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"
CASES: dict[str, dict[str, Any]] = {
    "as sentence-t5": {"dense": (32, False, IDENTITY)},
    "gated, wider by tanh": {
        "dense": (48, True, TANH),
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 0.3,
        "relative_attention_num_buckets": 12,
        "relative_attention_max_distance": 33,
        "d_kv": 8,
        "normalize": False,
        "pooling": "cls",
    },
    "mT5, no dense": {"architecture": "MT5", "feed_forward_proj": "gated-silu", "num_heads": 2, "normalize": False},
}
TEXTS = ["a man is riding a bicycle.", "two dogs", "Dogs!", "A girl in a red hat plays in the snow, on the street."]


def module(i: int, kind: str, path: str) -> dict[str, Any]:
    return {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}


def sentence_files(folder: Path, pooling: str, normalize: bool, dense: Dense | None, seed: int) -> None:
    """What sentence-transformers write beside a network of 32 features."""
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), *(["Normalize"] if normalize else [])]
    write_json(folder / "modules.json", [module(i, kind, f"{i}_{kind}" if i else "") for i, kind in enumerate(kinds)])
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {"mean": "mean_tokens", "cls": "cls_token"}
    pools = {f"pooling_mode_{mode}": mode == modes[pooling] for mode in modes.values()}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **pools})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 60, "do_lower_case": False})
    if dense:
        width, bias, activation = dense
        (folder / "2_Dense").mkdir()
        fields = {"in_features": 32, "out_features": width, "bias": bias, "activation_function": activation}
        write_json(folder / "2_Dense" / "config.json", fields)
        layer = randomize(torch.nn.Linear(32, width, bias), seed + 1)
        torch.save({f"linear.{n}": t for n, t in layer.state_dict().items()}, folder / "2_Dense" / "pytorch_model.bin")


def encoder_folder(
    folder: Path,
    *,
    architecture: str = "T5",
    seed: int = 0,
    pooling: str = "mean",
    normalize: bool = True,
    dense: Dense | None = None,
    **config: Any,
) -> Path:
    """A sentence-transformers folder around a ``T5EncoderModel`` or ``MT5EncoderModel``."""
    folder.mkdir(parents=True)
    size = write_pieces(folder)
    fields = {"vocab_size": size + 3, **SIZES, **config}
    model: Any = getattr(transformers, f"{architecture}EncoderModel")(
        getattr(transformers, f"{architecture}Config")(**fields)
    )
    randomize(model, seed)
    with torch.no_grad():  # as far from 0 as scores are
        model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.mul_(3.0)
    model.save_pretrained(folder)
    sentence_files(folder, pooling, normalize, dense, seed)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``folder(case)``: the original library's model on disk."""
    return cache(lambda case: encoder_folder(tmp_path_factory.mktemp("t5") / "tiny", seed=len(case), **CASES[case]))


def random_batch(seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask; the longest is longer than any distance with a bucket of its own."""
    ids = torch.randint(3, 90, (4, 60), generator=torch.Generator().manual_seed(seed))
    return ids, torch.arange(60) < torch.tensor([[60], [1], [17], [6]])


@torch.no_grad()
def vector_of(folder: Path, case: str, ids: list[int]) -> NDArray[np.float32]:
    """By hand, of the original library's states of one text alone."""
    return by_hand(folder, CASES[case], library_t5(folder)(torch.tensor([ids])).last_hidden_state[0].double())


def by_hand(folder: Path, options: dict[str, Any], states: torch.Tensor) -> NDArray[np.float32]:
    """``states (S, D) -> (width,)``."""
    vector = states[0] if options.get("pooling") == "cls" else states.sum(0) / len(states)
    if dense := options.get("dense"):
        layer = torch.load(folder / "2_Dense" / "pytorch_model.bin", weights_only=True)  # noqa: TID251 made above
        vector = layer["linear.weight"].double() @ vector + layer.get("linear.bias", torch.zeros(())).double()
        vector = vector.tanh() if dense[2] == TANH else vector
    if options.get("normalize", True):
        vector = vector / (vector * vector).sum().sqrt()
    return vector.float().numpy()


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_states_are_those_of_the_library(case: str, folder: Callable[[str], Path], assert_close: Compare) -> None:
    ids, mask = random_batch()
    expected = library_t5(folder(case))(ids, attention_mask=mask.long()).last_hidden_state
    assert_close(open_checkpoint(folder(case)).model.encode(ids, mask)[mask], expected[mask])


@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_engines_give_the_librarys_states_and_vectors(
    case: str, target: str, folder: Callable[[str], Path], tmp_path: Path, assert_close: Compare
) -> None:
    ids, mask = random_batch()
    expected = library_t5(folder(case))(ids, attention_mask=mask.long()).last_hidden_state.numpy()
    model = open_checkpoint(folder(case)).model
    hidden, vectors = open_model(model, target, tmp_path / "v").encode(ids.numpy(), mask.numpy(), None)
    assert_close(hidden[mask.numpy()], expected[mask.numpy()], atol=1e-4)
    rows = [ids[i][mask[i]].tolist() for i in range(len(ids))]
    assert_close(vectors, np.array([vector_of(folder(case), case, row) for row in rows]), atol=1e-4)


@pytest.fixture(scope="module")
def bundle(folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``bundle(case)``: fp32 and int8 for both targets."""

    @cache
    def made(case: str) -> Path:
        out = tmp_path_factory.mktemp("bundle") / "t5"
        export_few(folder(case), out)
        return out

    return made


@pytest.mark.parametrize("variant", ["cpu-fp32", "cpu-int8", "openvino-fp32", "openvino-int8"])
@pytest.mark.parametrize("case", ["as sentence-t5", "gated, wider by tanh"])
def test_every_variant_replays_the_reference(variant: str, case: str, bundle: Callable[[str], Path]) -> None:
    with edgewise.load(bundle(case), *variant.split("-"), threads=1) as session:
        report = session.verify()
    assert report.ok, report.summary()
    assert report.largest("vector") > 0


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_a_session_embeds_texts_as_the_library_does(
    target: str, bundle: Callable[[str], Path], folder: Callable[[str], Path], assert_close: Compare
) -> None:
    case = "as sentence-t5"
    read = library_tokenizer(folder(case))
    with edgewise.load(bundle(case), target, "fp32", 1) as session:
        found = session.embed(TEXTS)
        alone = [session.embed(text) for text in TEXTS]
    for text, one, other in zip(TEXTS, found, alone, strict=True):
        ids = read(text).input_ids
        assert list(one.tokens) == ids
        assert_close(one.vector, vector_of(folder(case), case, ids), atol=1e-4)
        assert_close(other.vector, one.vector, atol=1e-5)


def test_integers_stay_near(bundle: Callable[[str], Path]) -> None:
    with edgewise.load(bundle("as sentence-t5"), "cpu", "fp32", 1) as session:
        exact = np.array([e.vector for e in session.embed(TEXTS)])
    for target in ("cpu", "openvino"):
        with edgewise.load(bundle("as sentence-t5"), target, "int8", 1) as session:
            rounded = np.array([e.vector for e in session.embed(TEXTS)])
        assert (exact * rounded).sum(1).min() >= 0.999
        assert np.abs(exact - rounded).max() > 1e-5  # they are integers at all


def test_a_replay_sees_damage_of_the_dense_layer(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    damaged = Damaged(bundle("gated, wider by tanh"), tmp_path / "damaged")
    damaged.put("cpu-fp32", "dense.weight", damaged.tensor("cpu-fp32", "dense.weight") * 1.01)
    with edgewise.load(damaged.path, "cpu", "fp32", 1) as session:
        assert not session.verify().ok


def test_the_bundle_says_what_its_vectors_are(
    bundle: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from edgewise.cli import main

    main(["inspect", str(bundle("gated, wider by tanh"))])
    assert "vectors of 48 numbers: state of the first token, a dense layer with tanh activation\n" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_vectors_are_those_of_sentence_transformers(case: str, tmp_path: Path, assert_close: Compare) -> None:
    golden = GOLDEN["cases"][case]
    folder = golden_folder(tmp_path / "whole", golden["files"])
    export_few(folder, tmp_path / "bundle", precisions=("fp32",))
    for target in ("cpu", "openvino"):
        with edgewise.load(tmp_path / "bundle", target, "fp32", 1) as session:
            found = np.array([e.vector for e in session.embed(GOLDEN["texts"])])
        assert_close(found, np.array(golden["vectors"], np.float32), atol=1e-4)


CONFIGS = json.loads((Path(__file__).parent / "goldens" / "more_transformers_4_57_1.json").read_text())


@pytest.mark.parametrize("case", ["as sentence-t5", "mT5, no dense"])
def test_a_configuration_of_release_4(case: str, tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "t5", **CASES[case])
    expected = open_checkpoint(folder).model.config
    write_json(folder / "config.json", CONFIGS[f"{CASES[case].get('architecture', 'T5')}EncoderModel"])
    assert open_checkpoint(folder).model.config == expected


def golden_folder(folder: Path, files: dict[str, Any]) -> Path:
    """The files that were written, and parameters by the formula of ``goldens/make_sentence_t5.py``."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_json(folder / name, content)
    transformers.ByT5Tokenizer().save_pretrained(folder)
    (architecture,) = files["config.json"]["architectures"]
    kind = getattr(transformers, architecture)
    kind(kind.config_class.from_pretrained(folder)).save_pretrained(folder)
    write_json(folder / "config.json", files["config.json"])
    dense = files["2_Dense/config.json"]
    layer = torch.nn.Linear(dense["in_features"], dense["out_features"], dense["bias"])
    parts = {folder: load_file(folder / "model.safetensors")}
    parts[folder / "2_Dense"] = {f"linear.{name}": tensor.detach() for name, tensor in layer.state_dict().items()}
    for place, tensors in parts.items():
        for name, t in tensors.items():
            places = torch.arange(t.numel(), dtype=torch.float64) + len(name)
            tensors[name] = (torch.sin(places * 0.7).view(t.shape) * 0.4).float()
        save_file(tensors, place / "model.safetensors")
    return folder


@torch.no_grad()
def test_the_vectors_of_another_encoder_may_be_dense_too(tmp_path: Path, assert_close: Compare) -> None:
    """As LaBSE's."""
    options: dict[str, Any] = {"pooling": "cls", "normalize": True, "dense": (24, True, TANH)}
    folder = bert_folder(tmp_path / "bert", pooling="cls")
    sentence_files(folder, **options, seed=3)
    ids, mask = torch.tensor([[2, 7, 9, 12, 3], [2, 8, 3, 0, 0]]), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    states = library_bert(folder)(ids, attention_mask=mask.long()).last_hidden_state.double()
    expected = np.array([by_hand(folder, options, row[kept]) for row, kept in zip(states, mask, strict=True)])
    model = open_checkpoint(folder).model
    assert_close(model.pool(model.encode(ids, mask), mask), torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.GELU"}, "activation_function is .*GELU', expected torch"),
        ({"out_features": "32"}, "out_features is '32', expected a number of features"),
        ({"bias": 1}, "bias is 1, expected true or false"),
        ({"use_residual": True}, "use_residual is True, which is not understood"),
        ({"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings', which is not understood"),
    ],
)
def test_a_dense_layer_that_is_not_understood(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "t5", **CASES["as sentence-t5"])
    change_json(folder / "2_Dense" / "config.json", **changes)
    with pytest.raises(CheckpointError, match=f"2_Dense/config.json: .*{message}.*: it would change the vectors"):
        open_checkpoint(folder)


def test_weights_of_a_dense_layer_are_read_strictly(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "t5", **CASES["as sentence-t5"])
    change_json(folder / "2_Dense" / "config.json", bias=True)
    with pytest.raises(CheckpointError, match=r"missing dense\.bias"):
        open_checkpoint(folder)
    (folder / "2_Dense" / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"2_Dense has none of model.safetensors"):
        open_checkpoint(folder)


def test_states_that_nothing_pools(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "t5")
    (folder / "modules.json").unlink()
    with pytest.raises(ConfigError, match=r"nothing says how states become one vector: expected a modules.json"):
        open_checkpoint(folder)
