"""Are int8 products exact on this processor?"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator

import pytest
from onnx import TensorProto, helper

from edgewise.errors import EngineError
from edgewise.runtime.engines import saturation


def _graph() -> bytes:
    """``y = MatMulInteger(x, w)``: unsigned rows of 64 bytes against signed columns of nothing but 127."""
    weight = helper.make_tensor("w", TensorProto.INT8, [64, 16], b"\x7f" * 64 * 16, raw=True)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node],
        "saturation",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["M", 64])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["M", 16])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model.SerializeToString()


@pytest.fixture
def fresh() -> Iterator[None]:
    """The question is asked once a process; here again."""
    saturation._largest_sum.cache_clear()
    yield
    saturation._largest_sum.cache_clear()


def test_the_constant_is_the_graph_it_claims_to_be() -> None:
    assert zlib.decompress(base64.b64decode(saturation._GRAPH)) == _graph()


def test_the_answer_of_this_processor(fresh: None) -> None:
    if saturation._largest_sum() == 64 * 255 * 127:
        saturation.refuse_saturating_products()
    else:
        with pytest.raises(EngineError, match="int8 products saturate"):
            saturation.refuse_saturating_products()


def test_a_processor_that_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saturation, "_largest_sum", lambda: 32 * 32767)
    with pytest.raises(EngineError, match=r"a sum is 1048544, expected 2072640\): load precision 'fp32'"):
        saturation.refuse_saturating_products()
