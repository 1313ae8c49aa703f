"""Which nodes of a graph work on quantized data: what a verdict must account for."""

from collections.abc import Iterator

import numpy as np
import onnx

from qlinear.onnx_model import Model, Node

# types in which quantized tensors are stored; wider integers are counted where products made them
NARROW = ("int2", "uint2", "int4", "uint4", "int8", "uint8", "int16", "uint16", "float4", "float8")
PRODUCTS = ("ConvInteger", "MatMulInteger", "MatMulInteger16", "MulInteger")
# nodes that multiply and accumulate, in float and in integers
FLOAT_MAC = (
    "Conv ConvTranspose Gemm MatMul FusedConv FusedGemm FusedMatMul TransposeMatMul Einsum "
    "Attention MultiHeadAttention LSTM GRU RNN"
).split()
INTEGER_MAC = (
    "QLinearConv QLinearMatMul QGemm ConvInteger MatMulInteger MatMulInteger16 "
    "MatMulIntegerToFloat DynamicQuantizeMatMul MatMulNBits MatMulBnb4 QAttention "
    "DynamicQuantizeLSTM QLinearConvTranspose"
).split()
# operators that are quantized whatever their tensors are: integers in carriers of 32 bits too
ALWAYS = ("Quantize", "Dequantize", "DynamicQuantize", "QLinear", "QGemm", "Bitwise", "BitShift")
# outputs of these say how long a tensor is, not what it holds
LENGTHS = ("Shape", "Size")


def is_quantized(
    model: Model, node: Node, values: dict[str, np.ndarray], products: set[str] = frozenset()
) -> bool:
    """Whether a node works on quantized data.

    It does if a tensor that it reads or writes has 2 to 16 bits, or comes of integer products, or
    if its operator is a quantized one; a node with subgraphs also if one of theirs does.

    Args:
        values: the tensors around the node, by name.
        products: names of tensors that come of integer products (:func:`spread`).
    """
    if node.op_type in LENGTHS:
        return False
    if node.op_type.startswith(ALWAYS) or node.op_type in (*INTEGER_MAC, *PRODUCTS):
        return True
    names = [name for name in (*reads(node), *node.outputs) if name]
    if any(name in products for name in names):
        return True
    known = (values.get(name, model.constants.get(name)) for name in names)
    if any(str(getattr(value, "dtype", "")).startswith(NARROW) for value in known):
        return True
    return any(map(_holds_quantized, subgraphs(node)))


def spread(node: Node, outputs: dict[str, np.ndarray], products: set[str]) -> set[str]:
    """The outputs of a node that come of integer products, however they were moved or changed."""
    if node.op_type in PRODUCTS:
        return {name for name in node.outputs if name}
    if node.op_type in LENGTHS or not products & set(reads(node)):
        return set()
    return {name for name, value in outputs.items() if value.dtype.kind in "iu"}


def reads(node: Node) -> list[str]:
    """The tensors that a node reads, those of the outer graph in its subgraphs included."""
    outer = (name for graph in subgraphs(node) for name in captured(graph))
    return [name for name in dict.fromkeys([*node.inputs, *outer]) if name]


def subgraphs(node: Node) -> Iterator[onnx.GraphProto]:
    """The graphs that If, Loop or Scan hold."""
    for value in node.attributes.values():
        yield from (g for g in (value if isinstance(value, list) else [value])
                    if isinstance(g, onnx.GraphProto))  # fmt: skip


def captured(graph: onnx.GraphProto) -> list[str]:
    """The tensors of the outer graph that a subgraph reads."""
    inner = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    inner |= {name for n in graph.node for name in n.output}
    read = [name for n in graph.node for name in n.input]
    read += [name for n in graph.node for g in _graphs(n) for name in captured(g)]
    read += [output.name for output in graph.output]
    return [name for name in dict.fromkeys(read) if name and name not in inner]


def _graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [g for a in node.attribute for g in ([a.g] if a.HasField("g") else a.graphs)]


def _holds_quantized(graph: onnx.GraphProto) -> bool:
    if any(_narrow(t.data_type) for t in graph.initializer):
        return True
    for node in graph.node:
        if node.op_type.startswith(ALWAYS) or node.op_type in (*INTEGER_MAC, *PRODUCTS):
            return True
        for a in node.attribute:
            made = a.i if a.name in ("to", "dtype", "output_dtype") else a.t.data_type
            if _narrow(made):
                return True
        if any(map(_holds_quantized, _graphs(node))):
            return True
    return False


def _narrow(elem_type: int) -> bool:
    if elem_type not in onnx.TensorProto.DataType.values():
        return False
    return onnx.TensorProto.DataType.Name(elem_type).lower().startswith(NARROW)
