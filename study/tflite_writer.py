"""Write a quantized network of ONNX's QOperator form as a LiteRT file of the same integers.

:func:`tflite` maps every tensor one to one, by its ONNX name: (N, C, H, W) becomes (N, H, W, C),
the weights (M, C, kh, kw) become (M, kh, kw, C), and scales, zero points, weights and biases stay
the numbers that they are. Pads that neither of LiteRT's two rules gives are an operator PAD before
the layer, whose output is the only tensor that is new; ResNet8 and MobileNet need none. The schema
is LiteRT's own, ``ai_edge_litert.schema_py_generated``, made of its schema.fbs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from qlinear import ort
from qlinear.errors import UnusableInput
from qlinear.onnx_model import Model, Node

try:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
except ImportError:  # said where it is needed
    schema = None

NAME = "ai-edge-litert"
# the first version of each operator that takes int8
VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "ADD": 2, "MEAN": 2,
            "QUANTIZE": 1, "DEQUANTIZE": 2, "PAD": 2, "RESHAPE": 1}  # fmt: skip


@dataclass(frozen=True)
class Scaled:
    """How the integers of a tensor stand for numbers: one scale, or one for each channel."""

    scale: np.ndarray  # float32 () or (M,)
    zero_point: np.ndarray  # int8 or int32, of the scale's shape
    axis: int = 0  # which the channels lie on


@dataclass
class _File:
    """What is written so far."""

    tensors: list = field(default_factory=list)
    buffers: list = field(default_factory=list)
    operators: list = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)  # of each tensor, by name

    def buffer(self, data: bytes) -> int:
        made = schema.BufferT()
        made.data = np.frombuffer(data, np.uint8)
        self.buffers.append(made)
        return len(self.buffers) - 1

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: np.dtype,
        scaled: Scaled | None = None,
        data: np.ndarray | None = None,
    ) -> int:
        """The number of a tensor, which is added unless one has this name."""
        if name in self.places:
            return self.places[name]
        made = schema.TensorT()
        made.name, made.shape = name, [int(n) for n in shape]
        made.type = getattr(schema.TensorType, np.dtype(dtype).name.upper())
        # the first buffer is empty, and stands for none
        made.buffer = 0 if data is None else self.buffer(np.ascontiguousarray(data).tobytes())
        if scaled is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = np.atleast_1d(scaled.scale).astype(np.float32)
            made.quantization.zeroPoint = np.atleast_1d(scaled.zero_point).astype(np.int64)
            made.quantization.quantizedDimension = scaled.axis
        self.tensors.append(made)
        self.places[name] = len(self.tensors) - 1
        return self.places[name]

    def operator(
        self, kind: str, inputs: Iterable[int], output: int, options: object | None = None
    ) -> None:
        if kind not in self.codes:
            self.codes.append(kind)
        made = schema.OperatorT()
        made.opcodeIndex = self.codes.index(kind)
        made.inputs, made.outputs = list(inputs), [output]
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            made.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            made.builtinOptions = options
        self.operators.append(made)


def tflite(
    model: Model,
    nodes: Sequence[Node] | None = None,
    outputs: Sequence[str] = (),
    batch: int = 1,
) -> bytes:
    """A LiteRT file of a QOperator network, or of a part of it.

    Args:
        model: int8 activations and symmetric int8 weights, each constant in the file.
        nodes: the part; by default all. What it reads and does not compute is the file's input.
        outputs: tensors that the file gives besides those that the part ends in; a kernel may then
            keep what it would have fused.
        batch: images in a call.

    Returns:
        The file's bytes. Images are (N, H, W, C).

    Raises:
        UnusableInput: LiteRT's package is absent, or the network holds what LiteRT's int8 kernels
            do not take; the message names the node.
    """
    if schema is None:
        raise UnusableInput(f"{NAME} is missing: python -m pip install {NAME}")
    nodes = list(model.nodes if nodes is None else nodes)
    shapes = {n: _shape(model, n, of, batch) for n, (_, of) in ort.declared(model).items()}
    file = _File()
    file.buffer(b"")
    made = {name for node in nodes for name in node.outputs}
    unknown = [name for name in outputs if name not in made]
    if unknown:
        raise UnusableInput(f"{model.path}: no node of the part writes {unknown[0]!r}")
    for node in nodes:
        write = WRITERS.get(node.op_type)
        if write is None:
            raise UnusableInput(
                f"{model.path}: node {node.name}: {node.operator} is not written; these are: "
                f"{', '.join(WRITERS)}"
            )
        try:
            write(file, model, node, shapes)
        except UnusableInput as error:
            raise UnusableInput(f"{model.path}: node {node.name}: {error}") from None
    read = {name for node in nodes for name in node.inputs}
    known = made | {*model.constants}
    inputs = [name for name in file.places if name in read and name not in known]
    also = {*outputs, *model.outputs}
    wanted = [n for node in nodes for n in node.outputs if n not in read or n in also]
    return _packed(file, inputs, wanted)


def _packed(file: _File, inputs: list[str], outputs: list[str]) -> bytes:
    graph, model = schema.SubGraphT(), schema.ModelT()
    graph.tensors, graph.operators = file.tensors, file.operators
    graph.inputs = [file.places[name] for name in inputs]
    graph.outputs = [file.places[name] for name in outputs]
    model.version, model.buffers, model.subgraphs = 3, file.buffers, [graph]
    model.operatorCodes = []
    for kind in file.codes:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = code.builtinCode  # of all of these below 127
        code.version = VERSIONS[kind]
        model.operatorCodes.append(code)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


# --- shapes


def _shape(model: Model, name: str, shape: tuple | None, batch: int) -> tuple[int, ...]:
    """ONNX's shape, a symbolic first axis the batch, channels moved last where there is space."""
    if not shape or not all(isinstance(n, int) for n in shape[1:]):
        raise UnusableInput(f"{model.path}: tensor {name} has the shape {shape}: sizes needed")
    sizes = (shape[0] if isinstance(shape[0], int) else batch, *shape[1:])
    return (sizes[0], *sizes[2:], sizes[1]) if len(sizes) == 4 else sizes


def channels_last(x: np.ndarray) -> np.ndarray:
    """(N, C, H, W) to (N, H, W, C); other shapes stay as they are."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if x.ndim == 4 else x


def channels_first(x: np.ndarray) -> np.ndarray:
    """(N, H, W, C) to (N, C, H, W); other shapes stay as they are."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim == 4 else x


def same_pads(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """What LiteRT's rule SAME adds to an axis, before and after: the odd one after."""
    span = (kernel - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + span - size, 0)
    return total // 2, total - total // 2


def _padding(sizes: tuple, kernel: tuple, strides: tuple, dilations: tuple, pads: list) -> str:
    """Which rule gives these ONNX pads: VALID, SAME, or neither."""
    if not any(pads):
        return "VALID"
    axes = zip(sizes, kernel, strides, dilations, strict=True)
    same = [same_pads(*axis) for axis in axes]
    return "SAME" if pads == [p[0] for p in same] + [p[1] for p in same] else ""


# --- operators


def _constants(model: Model, node: Node, *names: str) -> list[np.ndarray]:
    """Some constant inputs of a node, by their ONNX names."""
    of = model.arguments(node)
    for name in names:
        if name not in of:
            raise UnusableInput(f"{name} is not a constant")
    return [of[name] for name in names]


def _int8(what: str, zero_point: np.ndarray) -> None:
    if zero_point.dtype != np.int8:
        raise UnusableInput(f"{what} is {zero_point.dtype}: int8 needed")


def _activation(
    file: _File, name: str, scale: np.ndarray, zero_point: np.ndarray, shapes: dict
) -> int:
    if name not in shapes:
        raise UnusableInput(f"{name} is a constant: a tensor that is computed needed")
    _int8(name, zero_point)
    if scale.size != 1:
        raise UnusableInput(f"{name} has {scale.size} scales: one needed")
    return file.tensor(name, shapes[name], np.int8, Scaled(scale, zero_point))


def _weights(
    file: _File, model: Model, node: Node, names: tuple[str, str, str], axis: int = 0
) -> tuple[np.ndarray, Callable[[np.ndarray], int]]:
    """The stored weights, and a function that adds them in another order of axes."""
    w, scale, zero = _constants(model, node, *names)
    name = model.name_of(node, names[0])
    _int8(name, zero)
    if np.any(zero):
        raise UnusableInput(f"{name} has the zero point {zero.ravel()[0]}: 0 needed")
    scaled = Scaled(scale, np.broadcast_to(zero, scale.shape), axis)
    return w, lambda ordered: file.tensor(name, ordered.shape, np.int8, scaled, ordered)


def _bias(file: _File, model: Model, node: Node, formal: str, scale: np.ndarray, size: int) -> int:
    given = model.arguments(node).get(formal)
    if given is None and model.name_of(node, formal):
        raise UnusableInput(f"{formal} is not a constant")
    name = model.name_of(node, formal) or f"{node.name}_bias"
    values = np.zeros(size, np.int32) if given is None else given.astype(np.int32)
    return file.tensor(name, (size,), np.int32, Scaled(scale, np.zeros(scale.shape)), values)


def _conv(file: _File, model: Model, node: Node, shapes: dict) -> None:
    conv = model.conv(node)
    (x_name, *_), (y_name,) = node.inputs, node.outputs
    if len(shapes.get(x_name, ())) != 4:
        raise UnusableInput("LiteRT takes two spatial axes")
    attributes = node.attributes
    if attributes.get("auto_pad", "NOTSET") != "NOTSET":
        raise UnusableInput("auto_pad is set: write the pads")
    strides = tuple(attributes.get("strides", (1, 1)))
    dilations = tuple(attributes.get("dilations", (1, 1)))
    pads, group = list(attributes.get("pads", (0, 0, 0, 0))), attributes.get("group", 1)
    depthwise = group > 1 and conv.w.shape[1] == 1 and group == shapes[x_name][3]
    if group > 1 and not depthwise:
        raise UnusableInput(f"{group} groups: one, or one for each channel of x, needed")
    _, weights = _weights(file, model, node, ("w", "w_scale", "w_zero_point"), 3 * depthwise)
    x = _activation(file, x_name, conv.x_scale, conv.x_zero_point, shapes)
    sizes = shapes[x_name][1:3]
    rule = _padding(sizes, conv.w.shape[2:], strides, dilations, pads)
    if not rule:
        widths = np.array([(0, 0), (pads[0], pads[2]), (pads[1], pads[3]), (0, 0)], np.int32)
        padded = [n + int(w.sum()) for n, w in zip(shapes[x_name], widths, strict=True)]
        amounts = file.tensor(f"{node.name}_pads", widths.shape, np.int32, None, widths)
        # PAD fills int8 with the zero point
        scaled = Scaled(conv.x_scale, conv.x_zero_point)
        before = x
        x = file.tensor(f"{x_name}_padded_for_{node.name}", padded, np.int8, scaled)
        file.operator("PAD", [before, amounts], x, schema.PadOptionsT())
    # (M, C, kh, kw) to (M, kh, kw, C), or of a depthwise layer to (1, kh, kw, M)
    ordered = np.moveaxis(conv.w, 0, -1)[0][None] if depthwise else np.moveaxis(conv.w, 1, -1)
    w = weights(np.ascontiguousarray(ordered))
    bias = _bias(file, model, node, "B", conv.x_scale * conv.w_scale, len(conv.w))
    y = _activation(file, y_name, conv.y_scale, conv.y_zero_point, shapes)
    options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
    options.padding = getattr(schema.Padding, rule or "VALID")
    options.strideH, options.strideW = strides
    options.dilationHFactor, options.dilationWFactor = dilations
    if depthwise:
        options.depthMultiplier = len(conv.w) // group
    file.operator("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [x, w, bias], y, options)


def _add(file: _File, model: Model, node: Node, shapes: dict) -> None:
    a, b, y = (
        _activation(file, name, *_constants(model, node, f"{k}_scale", f"{k}_zero_point"), shapes)
        for name, k in zip((node.inputs[0], node.inputs[3], node.outputs[0]), "ABC", strict=True)
    )
    if shapes[node.inputs[0]] != shapes[node.inputs[3]]:
        raise UnusableInput("the two tensors have different shapes")
    file.operator("ADD", [a, b], y, schema.AddOptionsT())


def _pool(file: _File, model: Model, node: Node, shapes: dict) -> None:
    if node.attributes.get("channels_last", 0):
        raise UnusableInput("channels_last is 1: 0 needed")
    x_scale, x_zero, y_scale, y_zero = _constants(
        model, node, "x_scale", "x_zero_point", "y_scale", "y_zero_point"
    )
    x = _activation(file, node.inputs[0], x_scale, x_zero, shapes)
    axes = file.tensor("spatial_axes", (2,), np.int32, None, np.array([1, 2], np.int32))
    y = _activation(file, node.outputs[0], y_scale, y_zero, shapes)
    options = schema.ReducerOptionsT()
    options.keepDims = True
    file.operator("MEAN", [x, axes], y, options)


def _flatten(file: _File, model: Model, node: Node, shapes: dict) -> None:
    (x_name,), (y_name,) = node.inputs, node.outputs
    shape = shapes[x_name]
    if node.attributes.get("axis", 1) != 1 or np.prod(shape[1:]) != shape[-1]:
        raise UnusableInput("more than one element of a channel: the order would change")
    scaled = _scaled_by_a_neighbour(model, x_name)
    x = file.tensor(x_name, shape, np.int8, scaled)
    sizes = np.array([-1, shape[-1]], np.int32)
    y = file.tensor(y_name, shapes[y_name], np.int8, scaled)
    file.operator("RESHAPE", [x, file.tensor(f"{node.name}_shape", (2,), np.int32, None, sizes)], y)


def _scaled_by_a_neighbour(model: Model, tensor: str) -> Scaled:
    """The scale of a tensor whose node has none: that of the node which writes it."""
    writer = next((n for n in model.nodes if tensor in n.outputs), None)
    of = {} if writer is None else model.arguments(writer)
    for name in ("y", "C", "c"):
        if f"{name}_scale" in of and f"{name}_zero_point" in of:
            return Scaled(of[f"{name}_scale"], of[f"{name}_zero_point"])
    raise UnusableInput(f"{tensor}: no node before it says its scale")


def _dense(file: _File, model: Model, node: Node, shapes: dict) -> None:
    attributes = node.attributes
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("transA", 0):
        raise UnusableInput("alpha is not 1, or transA is set")
    a_scale, a_zero, b_scale, y_scale, y_zero = _constants(
        model, node, "a_scale", "a_zero_point", "b_scale", "y_scale", "y_zero_point"
    )
    stored, weights = _weights(file, model, node, ("B", "b_scale", "b_zero_point"))
    x = _activation(file, node.inputs[0], a_scale, a_zero, shapes)
    rows = stored if attributes.get("transB", 0) else stored.T
    w = weights(np.ascontiguousarray(rows))
    bias = _bias(file, model, node, "C", a_scale * b_scale, len(rows))
    y = _activation(file, node.outputs[0], y_scale, y_zero, shapes)
    file.operator("FULLY_CONNECTED", [x, w, bias], y, schema.FullyConnectedOptionsT())


def _quantize(file: _File, model: Model, node: Node, shapes: dict) -> None:
    scaled = _constants(model, node, "y_scale", "y_zero_point")
    if node.inputs[0] not in shapes:
        raise UnusableInput(f"{node.inputs[0]} is a constant: weights need be integers in the file")
    x = file.tensor(node.inputs[0], shapes[node.inputs[0]], np.float32)
    y = _activation(file, node.outputs[0], *scaled, shapes)
    file.operator("QUANTIZE", [x], y, schema.QuantizeOptionsT())


def _dequantize(file: _File, model: Model, node: Node, shapes: dict) -> None:
    scaled = _constants(model, node, "x_scale", "x_zero_point")
    x = _activation(file, node.inputs[0], *scaled, shapes)
    y = file.tensor(node.outputs[0], shapes[node.outputs[0]], np.float32)
    file.operator("DEQUANTIZE", [x], y, schema.DequantizeOptionsT())


WRITERS: dict[str, Callable[[_File, Model, Node, dict], None]] = {
    "QuantizeLinear": _quantize,
    "QLinearConv": _conv,
    "QLinearAdd": _add,
    "QLinearGlobalAveragePool": _pool,
    "Flatten": _flatten,
    "QGemm": _dense,
    "DequantizeLinear": _dequantize,
}
