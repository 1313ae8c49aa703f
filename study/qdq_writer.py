"""Write a quantized network of ONNX's QOperator form in QDQ form: the same integers, by name.

:func:`qdq` writes each node as DequantizeLinear, ONNX's float operator and QuantizeLinear. A
quantized tensor keeps its name and its numbers; so do weights, biases and scales. The float tensors
between are new. What a runtime then computes, in integers or in floats, is its own choice.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qlinear.errors import UnusableInput
from qlinear.onnx_model import Model, Node
from qlinear.ort import declared

# of each operator: ONNX's float one, its formal inputs with their scales, and that of its output
FORMS = {
    "QLinearConv": ("Conv", (("x", "x"), ("w", "w"), ("B", "")), "y"),
    "QLinearAdd": ("Add", (("A", "A"), ("B", "B")), "C"),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (("X", "x"),), "y"),
    "QGemm": ("Gemm", (("A", "a"), ("B", "b"), ("C", "")), "y"),
}
DROPPED = {"QLinearGlobalAveragePool": {"channels_last"}}


def qdq(
    model: Model,
    nodes: Sequence[Node] | None = None,
    outputs: Sequence[str] = (),
    batch: int | None = None,
    *,
    uint8: bool = False,
) -> onnx.ModelProto:
    """The QDQ form of a QOperator network, or of a part of it.

    Args:
        model: each scale, zero point, weight and bias a constant in the file.
        nodes: the part; by default all. What it reads and does not compute is the model's input.
        outputs: tensors that the model gives besides those that the part ends in.
        batch: images in a call; None leaves the axis as the file has it.
        uint8: write int8 activations as uint8, each integer and zero point 128 higher, which stand
            for the same numbers; weights stay int8.

    Raises:
        UnusableInput: the network holds another operator; the message names the node.
    """
    nodes = list(model.nodes if nodes is None else nodes)
    kinds = declared(model)
    moved = activations(model) if uint8 else set()
    made: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    for node in nodes:
        try:
            made += _written(model, node, constants)
        except UnusableInput as error:
            raise UnusableInput(f"{model.path}: node {node.name}: {error}") from None
    computed = {name for node in nodes for name in node.outputs}
    read = [name for node in nodes for name in node.inputs]
    inputs = [n for n in dict.fromkeys(read) if n not in computed and n not in model.constants]
    also = {*outputs, *model.outputs}
    unknown = [name for name in outputs if name not in computed]
    if unknown:
        raise UnusableInput(f"{model.path}: no node of the part writes {unknown[0]!r}")
    wanted = [n for node in nodes for n in node.outputs if n not in read or n in also]

    for name in {zero for _, zero in scales_of(model, moved)} & {*constants}:
        constants[name] = (constants[name].astype(np.int16) + 128).astype(np.uint8)

    def info(name: str) -> onnx.ValueInfoProto:
        dtype, shape = kinds[name]
        dtype = np.dtype(np.uint8) if name in moved else dtype
        sizes = [batch if batch and isinstance(n, str) else n for n in shape]
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), sizes)

    graph = helper.make_graph(
        made, "qdq", [info(n) for n in inputs], [info(n) for n in wanted],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )  # fmt: skip
    opset = [helper.make_opsetid("", model.opset)]
    proto = helper.make_model(graph, opset_imports=opset, ir_version=model.proto.ir_version)
    onnx.checker.check_model(proto)
    return proto


def activations(model: Model) -> set[str]:
    """The int8 tensors that the network computes."""
    kinds = declared(model)
    return {n for node in model.nodes for n in node.outputs if kinds[n][0] == np.int8}


def scales_of(model: Model, tensors: Iterable[str]) -> set[tuple[str, str]]:
    """The names of the scale and the zero point of each of these tensors, as far as a node says."""
    tensors, found = {*tensors}, set()
    for node in model.nodes:
        names = model.names(node)
        for k in "yC":
            if node.outputs[0] in tensors and f"{k}_scale" in names:
                found.add((names[f"{k}_scale"], names.get(f"{k}_zero_point", "")))
    return found


def _written(model: Model, node: Node, constants: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    names, of = model.names(node), model.arguments(node)

    def constant(formal: str) -> str:
        if formal not in of:
            raise UnusableInput(f"{formal} is not a constant")
        constants[names[formal]] = of[formal]
        return names[formal]

    def dequantized(formal: str, scale: str) -> onnx.NodeProto:
        """The node that makes a tensor real, for this reader alone: no scale is a bias's own."""
        name = names[formal]
        real = f"{name}_for_{node.name}"
        if formal in of:
            constants[name] = of[formal]
        if scale:
            scales = [constant(f"{scale}_scale"), constant(f"{scale}_zero_point")]
            channels = of[f"{scale}_scale"].ndim and of[f"{scale}_scale"].size > 1
        else:
            x, w = ("x", "w") if node.op_type == "QLinearConv" else ("a", "b")
            scales = [f"{name}_scale_of_{node.name}"]
            constants[scales[0]] = of[f"{x}_scale"] * of[f"{w}_scale"]
            channels = constants[scales[0]].size > 1
        axis = {"axis": 0} if channels else {}
        if axis and node.op_type == "QGemm" and scale and not node.attributes.get("transB", 0):
            axis = {"axis": 1}
        return helper.make_node("DequantizeLinear", [name, *scales], [real], real, **axis)

    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        for formal in of:
            constant(formal)
        return [helper.make_node(node.op_type, node.inputs, node.outputs, node.name)]
    if node.op_type == "Flatten":
        return _moved(model, node, constants)
    if node.op_type not in FORMS:
        forms = ", ".join([*FORMS, "QuantizeLinear", "DequantizeLinear", "Flatten"])
        raise UnusableInput(f"{node.operator} is not written; these are: {forms}")
    kind, inputs, y = FORMS[node.op_type]
    reals = [dequantized(formal, scale) for formal, scale in inputs if formal in names]
    real = f"{node.outputs[0]}_real"
    attributes = {
        k: v for k, v in node.attributes.items() if k not in DROPPED.get(node.op_type, ())
    }
    return [
        *reals,
        helper.make_node(kind, [r.output[0] for r in reals], [real], node.name, **attributes),
        helper.make_node(
            "QuantizeLinear", [real, constant(f"{y}_scale"), constant(f"{y}_zero_point")],
            [node.outputs[0]], f"{node.outputs[0]}_QuantizeLinear",
        ),
    ]  # fmt: skip


def _moved(model: Model, node: Node, constants: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """An operator that changes no number, between the scale of the node before it, twice."""
    (x,), (y,) = node.inputs, node.outputs
    writer = next((n for n in model.nodes if x in n.outputs), None)
    names = {} if writer is None else model.names(writer)
    scales = [names.get(f"{k}_{what}") for k in "yC" for what in ("scale", "zero_point")]
    scales = [name for name in scales if name in model.constants]
    if len(scales) != 2:
        raise UnusableInput(f"{x}: no node before it says its scale")
    constants |= {name: model.constants[name] for name in scales}
    real = f"{x}_for_{node.name}"
    return [
        helper.make_node("DequantizeLinear", [x, *scales], [real], real),
        helper.make_node(node.op_type, [real], [f"{y}_real"], node.name, **node.attributes),
        helper.make_node("QuantizeLinear", [f"{y}_real", *scales], [y], f"{y}_QuantizeLinear"),
    ]
