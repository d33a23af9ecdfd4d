"""Operators of others that multiply integers, as hostile files may have them."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from edgewise.errors import ExportError
from edgewise.export.onnx_folder.integers import integer_products


def model_of(inputs: int, **attributes: ir.Attr) -> ir.Model:
    """One ``MatMulNBits`` of a graph with as many inputs."""
    values = [ir.Value(name=name) for name in "xw"[:inputs]]
    node = ir.Node("com.microsoft", "MatMulNBits", values, [*attributes.values()])
    return ir.Model(ir.Graph(values, node.outputs, nodes=[node]), ir_version=10)


def test_a_product_in_blocks() -> None:
    sizes = {"K": ir.AttrInt64("K", 64), "N": ir.AttrInt64("N", 8)}
    (found,) = integer_products([model_of(2, **sizes)])
    assert (found.matrix, found.shape, found.kernel) == ("w", (64, 8), "int4-weights")


@pytest.mark.parametrize("name", ["bits", "K", "N", "accuracy_level"])
def test_an_attribute_of_another_type(name: str) -> None:
    with pytest.raises(ExportError, match=f"a MatMulNBits has {name} of another type, expected an integer"):
        integer_products([model_of(2, **{name: ir.AttrString(name, "4")})])


def test_no_weight_is_no_product() -> None:
    assert integer_products([model_of(1)]) == ()
