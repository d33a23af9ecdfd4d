"""The messages of an ONNX file that the scan reads: every field they may have, under its number.

Source: ``onnx/onnx.proto`` of onnx 1.23, IR version 13.
"""

from __future__ import annotations

from .manifest import DType
from .wire import FIXED32, FIXED64, VARINT, Schema, content, contents, number, packed, real

MODEL: Schema = {
    1: number("ir_version"),
    2: content("producer_name"),
    3: content("producer_version"),
    4: content("domain"),
    5: number("model_version"),
    6: content("doc_string"),
    7: content("graph"),
    8: contents("opset_import"),
    14: contents("metadata_props"),
    20: contents("training_info"),
    25: contents("functions"),
    26: contents("configuration"),
}
OPSET: Schema = {1: content("domain"), 2: number("version")}
GRAPH: Schema = {
    1: contents("node"),
    2: content("name"),
    5: contents("initializer"),
    10: content("doc_string"),
    11: contents("input"),
    12: contents("output"),
    13: contents("value_info"),
    14: contents("quantization_annotation"),
    15: contents("sparse_initializer"),
    16: contents("metadata_props"),
}
NODE: Schema = {
    1: contents("input"),
    2: contents("output"),
    3: content("name"),
    4: content("op_type"),
    5: contents("attribute"),
    6: content("doc_string"),
    7: content("domain"),
    8: content("overload"),
    9: contents("metadata_props"),
    10: contents("device_configurations"),
}
ATTRIBUTE: Schema = {
    1: content("name"),
    2: real("f"),
    3: number("i"),
    4: content("s"),
    5: content("t"),
    6: content("g"),
    7: packed("floats", FIXED32),
    8: packed("ints"),
    9: contents("strings"),
    10: contents("tensors"),
    11: contents("graphs"),
    13: content("doc_string"),
    14: content("tp"),
    15: contents("type_protos"),
    20: number("type"),
    21: content("ref_attr_name"),
    22: content("sparse_tensor"),
    23: contents("sparse_tensors"),
}
TENSOR: Schema = {
    1: packed("dims"),
    2: number("data_type"),
    3: content("segment"),
    4: packed("float_data", FIXED32),
    5: packed("int32_data"),
    6: contents("string_data"),
    7: packed("int64_data"),
    8: content("name"),
    9: content("raw_data"),
    10: packed("double_data", FIXED64),
    11: packed("uint64_data"),
    12: content("doc_string"),
    13: contents("external_data"),
    14: number("data_location"),
    16: contents("metadata_props"),
}
ENTRY: Schema = {1: content("key"), 2: content("value")}
VALUE: Schema = {1: content("name"), 2: content("type"), 3: content("doc_string"), 4: contents("metadata_props")}
TYPE: Schema = {
    1: content("tensor_type"),
    4: content("sequence_type"),
    5: content("map_type"),
    6: content("denotation"),
    7: content("opaque_type"),
    8: content("sparse_tensor_type"),
    9: content("optional_type"),
}
TENSOR_TYPE: Schema = {1: number("elem_type"), 2: content("shape")}
SHAPE: Schema = {1: contents("dim")}
DIM: Schema = {1: number("dim_value"), 2: content("dim_param"), 3: content("denotation")}

# Numbers of onnx.TensorProto.DataType: bits of an element, and the typed field that may hold it instead of raw_data.
BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 21: 4, 22: 4}
TYPED = {1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data"}
TYPED |= dict.fromkeys((2, 3, 4, 5, 6, 9, 10, 16), "int32_data")
TYPED_WIRE = {"float_data": FIXED32, "double_data": FIXED64, "int32_data": VARINT, "int64_data": VARINT}
DTYPES: dict[int, DType] = {
    1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16"
}  # fmt: skip

# Numbers of onnx.AttributeProto.AttributeType that hold plain data, and the field each one fills.
ATTRIBUTE_FIELD = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}
