"""The operators a graph of a bundle may hold, and the operator sets it may import: an allow-list.

Left out on purpose: everything that holds a subgraph (``If``, ``Loop``, ``Scan``, ``SequenceMap``), sequences,
optionals, strings, images, random numbers, training, and every operator outside ONNX and ``com.microsoft``: a custom
operator is native code.
"""

from __future__ import annotations

ONNX = ""  # the default domain; "ai.onnx" is its other spelling
MICROSOFT = "com.microsoft"

_ONNX = """
    Abs Add Ceil Clip Cos Div Erf Exp Floor Log Max Mean Min Mod Mul Neg Pow Reciprocal Round Sigmoid Sign Sin Softplus
    Softsign Sqrt Sub Sum Tanh
    And BitShift BitwiseAnd BitwiseOr BitwiseXor Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or Where
    Xor
    Attention BatchNormalization Celu Conv Elu Gelu Gemm GroupNormalization HardSigmoid HardSwish LayerNormalization
    LeakyRelu LogSoftmax MatMul PRelu RMSNormalization Relu RotaryEmbedding Softmax Swish
    ArgMax ArgMin CumSum ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare TopK
    Cast CastLike Concat Constant ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather GatherElements GatherND
    Identity OneHot Pad Range Reshape ScatterElements ScatterND Shape Size Slice SpaceToDepth Split Squeeze
    TensorScatter Tile Transpose Trilu Unsqueeze
    DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearMatMul QuantizeLinear
"""
_MICROSOFT = """
    Attention BiasGelu BiasSoftmax DecoderMaskedMultiHeadAttention DequantizeLinear DynamicQuantizeMatMul
    EmbedLayerNormalization FastGelu FusedGemm FusedMatMul GatherBlockQuantized Gelu GroupQueryAttention
    MatMulIntegerToFloat MatMulNBits MultiHeadAttention QAttention QuantizeLinear QuickGelu RotaryEmbedding
    SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization
"""
ALLOWED = {ONNX: frozenset(_ONNX.split()), MICROSOFT: frozenset(_MICROSOFT.split())}

# The newest operator set of each domain known here; an engine that knows no newer one refuses by itself.
NEWEST_OPSET = {ONNX: 30, MICROSOFT: 1}
