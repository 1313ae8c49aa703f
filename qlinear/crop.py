"""Compute fewer elements of a model's tensor: only what they read is left of inputs and constants.

A region is one range on each axis. From that of the tensor asked for, the regions of all others
follow, node by node and backwards; padding becomes what the window still has of it. Whether ONNX
Runtime computes the same values from that is for the caller to see.
"""

from collections.abc import Callable

import numpy as np
import onnx

from qlinear import ort
from qlinear.errors import UnusableInput
from qlinear.fuse import in_order
from qlinear.onnx_model import Model, Node
from qlinear.quantized import reads

Region = tuple[tuple[int, int], ...]
Shape = tuple[int, ...]


class NotCropped(UnusableInput):
    """A region that one of the nodes cannot be cut to; the message names the node."""


def slices(region: Region) -> tuple[slice, ...]:
    """The region as an index."""
    return tuple(slice(start, stop) for start, stop in region)


def full(shape: Shape) -> Region:
    """The region of all elements."""
    return tuple((0, n) for n in shape)


def crop(
    model: Model,
    values: dict[str, np.ndarray],
    feeds: dict[str, np.ndarray],
    tensor: str,
    region: Region,
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model that computes a region of one of its tensors, and what to feed it.

    Args:
        values: tensors of the model by name, at full size: their shapes are needed.
        feeds: the model's inputs.

    Raises:
        NotCropped: a node has no rule for the region, or two nodes read different parts of a
            tensor.
    """
    shapes = {name: np.shape(value) for name, value in (values | model.constants).items()}
    needed: dict[str, Region] = {tensor: region}
    changes: dict[tuple[str, ...], dict] = {}
    nodes = in_order(model).nodes
    aside: list[Node] = []
    for node in reversed(nodes):
        if node.outputs[0] in needed:
            changes[node.outputs] = _follow(model, node, shapes, needed)
        else:
            aside.append(node)
    for node in reversed(aside):  # what only keeps a second reader, say
        x = node.inputs[0] if node.inputs else ""
        if x in needed and node.op_type in ELEMENTWISE and shapes.get(node.outputs[0]) == shapes[x]:
            needed[node.outputs[0]] = needed[x]
        elif any(needed.get(n, full(shapes[n])) != full(shapes[n]) for n in reads(node)):
            raise NotCropped(f"{node.name} reads a tensor that is cut")
        else:
            needed[node.outputs[0]] = full(shapes[node.outputs[0]])
        changes[node.outputs] = _follow(model, node, shapes, needed)
    return _cut(model, feeds, needed, changes)


def _follow(model: Model, node: Node, shapes: dict, needed: dict[str, Region]) -> dict:
    """Note what a node reads for its output's region; returns attributes to change."""
    wanted = needed[node.outputs[0]]
    unknown = [name for name in (*reads(node), *node.outputs) if name and name not in shapes]
    if unknown:
        raise NotCropped(f"{node.name}: the shape of {unknown[0]} is not known")
    names = model.names(node)
    inputs = [shapes[name] if name else None for name in node.inputs]
    changed: dict = {}
    if wanted == full(shapes[node.outputs[0]]):
        regions = [full(s) if s is not None else None for s in inputs]
    elif any(node.outputs[1:]) or len(names) != sum(map(bool, node.inputs)):
        raise NotCropped(f"{node.name} has several outputs")
    else:
        rule = RULES.get(node.op_type, _batch)
        regions = rule(node, wanted, inputs, shapes[node.outputs[0]], changed)
    others = [(name, full(shapes[name])) for name in reads(node) if name not in node.inputs]
    for name, region in (*zip(node.inputs, regions, strict=True), *others):
        if name and needed.setdefault(name, region) != region:
            raise NotCropped(f"{name} is read in different parts")
        if name and any(start >= stop for start, stop in region):
            raise NotCropped(f"nothing of {name} is read")
    return changed


# --- rules: from the region of an output to those of the inputs, in their order


def _elementwise(node: Node, wanted: Region, inputs: list, out: Shape, changed: dict) -> list:
    return [None if s is None else _broadcast(wanted, s, out) for s in inputs]


def _broadcast(wanted: Region, shape: Shape, out: Shape) -> Region:
    aligned = wanted[len(out) - len(shape) :]
    return tuple((0, 1) if n == 1 else at for n, at in zip(shape, aligned, strict=True))


def _quantize(node: Node, wanted: Region, inputs: list, out: Shape, changed: dict) -> list:
    if node.attributes.get("block_size"):
        raise NotCropped(f"{node.name} has scales of blocks")
    axis = node.attributes.get("axis", 1)
    return [wanted, *(_channels(s, wanted[axis] if s and s != (1,) else None) for s in inputs[1:])]


def _channels(shape: Shape | None, region: tuple[int, int] | None) -> Region | None:
    """Of a scale, zero point or bias: its channels, or all where it has one for the tensor."""
    if shape is None or region is None or shape in ((), (1,)):
        return None if shape is None else full(shape)
    return (*full(shape[:-1]), region)


def _conv(node: Node, wanted: Region, inputs: list, out: Shape, changed: dict) -> list:
    at = 3 if node.op_type == "QLinearConv" else 1
    w = inputs[at]
    group = node.attributes.get("group", 1)
    per_group = w[0] // group
    (m, end), first, last = wanted[1], wanted[1][0] // per_group, -(-wanted[1][1] // per_group)
    if group > 1:
        if m % per_group or end % per_group:
            raise NotCropped(f"{node.name}: a part of a group")
        changed["group"] = last - first
    c = (first * w[1], last * w[1]) if group > 1 else (0, inputs[0][1])
    x = (wanted[0], c, *_windows(node, wanted[2:], inputs[0][2:], w[2:], changed))
    own = [_channels(s, wanted[1]) for s in inputs]
    w_region = (wanted[1], *full(w[1:]))
    if node.op_type == "QLinearConv":  # x's and y's scales are for the tensor
        return [x, *map(_all, inputs[1:3]), w_region, *own[4:6], *map(_all, inputs[6:8]), *own[8:]]
    if node.op_type == "ConvInteger":
        return [x, w_region, *map(_all, inputs[2:3]), *own[3:]]
    return [x, w_region, *own[2:]]


def _conv_transpose(node: Node, wanted: Region, inputs: list, out: Shape, changed: dict) -> list:
    if node.attributes.get("group", 1) != 1 or wanted[2:] != full(out[2:]):
        raise NotCropped(f"{node.name}: a part of ConvTranspose")
    w = inputs[1]
    x = (wanted[0], *full(inputs[0][1:]))
    return [x, ((0, w[0]), wanted[1], *full(w[2:])), *(_channels(s, wanted[1]) for s in inputs[2:])]


def _all(shape: Shape | None) -> Region | None:
    return None if shape is None else full(shape)


def _windows(node: Node, wanted: Region, size: Shape, kernel: Shape, changed: dict) -> Region:
    """What the windows of a part of the output read, and the padding that they still meet."""
    a, dims = node.attributes, len(size)
    strides = a.get("strides") or [1] * dims
    dilations = a.get("dilations") or [1] * dims
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    auto = a.get("auto_pad", "NOTSET")
    pads = list(a.get("pads") or [0] * dims)[:dims]
    if auto.startswith("SAME"):
        total = [max((-(-n // s) - 1) * s + r - n, 0)
                 for n, s, r in zip(size, strides, reach, strict=True)]  # fmt: skip
        pads = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
    begins = [o * s - p for (o, _), s, p in zip(wanted, strides, pads, strict=True)]
    ends = [(o - 1) * s - p + r
            for (_, o), s, p, r in zip(wanted, strides, pads, reach, strict=True)]  # fmt: skip
    before = [max(-b, 0) for b in begins]
    after = [max(e - n, 0) for e, n in zip(ends, size, strict=True)]
    changed |= {"pads": [*before, *after], "auto_pad": None}
    return tuple((max(b, 0), min(e, n)) for b, e, n in zip(begins, ends, size, strict=True))


def _pool(node: Node, wanted: Region, inputs: list, out: Shape, changed: dict) -> list:
    if node.attributes.get("channels_last"):
        raise NotCropped(f"{node.name} has its channels last")
    kernel = node.attributes["kernel_shape"]
    spatial = _windows(node, wanted[2:], inputs[0][2:], kernel, changed)
    return [(*wanted[:2], *spatial), *map(_all, inputs[1:])]


def _global_pool(node: Node, wanted: Region, inputs: list, out: Shape, changed: dict) -> list:
    if node.attributes.get("channels_last"):
        raise NotCropped(f"{node.name} has its channels last")
    return [(*wanted[:2], *full(inputs[0][2:])), *map(_all, inputs[1:])]


def _gemm(node: Node, wanted: Region, inputs: list, out: Shape, changed: dict) -> list:
    rows, columns = wanted
    at = 3 if node.op_type == "QGemm" else 1
    k = inputs[0][0] if node.attributes.get("transA") else inputs[0][1]
    a = ((0, k), rows) if node.attributes.get("transA") else (rows, (0, k))
    b = (columns, (0, k)) if node.attributes.get("transB") else ((0, k), columns)
    if at == 1:
        return [a, b, *(None if s is None else _broadcast(wanted, s, out) for s in inputs[2:])]
    own = [_channels(s, columns) for s in inputs]
    return [a, *map(_all, inputs[1:3]), b, *own[4:7], *map(_all, inputs[7:])]


def _matmul(node: Node, wanted: Region, inputs: list, out: Shape, changed: dict) -> list:
    at = 3 if node.op_type == "QLinearMatMul" else 1
    a, b = inputs[0], inputs[at]
    if len(a) < 2 or len(b) < 2:
        raise NotCropped(f"{node.name} multiplies a vector")
    a_region = (*_broadcast(wanted[:-2], a[:-2], out[:-2]), wanted[-2], (0, a[-1]))
    b_region = (*_broadcast(wanted[:-2], b[:-2], out[:-2]), (0, b[-2]), wanted[-1])
    own = [_channels(s, wanted[-1]) for s in inputs]
    if node.op_type == "QLinearMatMul":
        return [a_region, *map(_all, inputs[1:3]), b_region, *own[4:6], *map(_all, inputs[6:])]
    return [a_region, b_region, *map(_all, inputs[2:3]), *own[3:]]


def _transpose(node: Node, wanted: Region, inputs: list, out: Shape, changed: dict) -> list:
    perm = node.attributes.get("perm") or list(range(len(out)))[::-1]
    return [tuple(wanted[perm.index(axis)] for axis in range(len(out)))]


def _along(node: Node, wanted: Region, inputs: list, out: Shape, changed: dict) -> list:
    """Softmax, Concat: all of one axis, the same part of the others."""
    axis = node.attributes.get("axis", -1) % len(out)
    if wanted[axis] != (0, out[axis]) or any(len(s) != len(out) for s in inputs if s is not None):
        raise NotCropped(f"{node.name}: a part of axis {axis}")
    return [(*wanted[:axis], (0, s[axis]), *wanted[axis + 1 :]) for s in inputs]


def _normalization(node: Node, wanted: Region, inputs: list, out: Shape, changed: dict) -> list:
    return [wanted, *(_channels(s, wanted[1]) for s in inputs[1:])]


def _batch(node: Node, wanted: Region, inputs: list, out: Shape, changed: dict) -> list:
    """Of any operator: the images of a batch, where every tensor of more than one element has it.

    Nothing says that it works image by image; the caller sees whether it does.
    """
    if wanted[1:] != full(out[1:]):
        raise NotCropped(f"{node.name}: a part of {node.operator}")
    x = inputs[0]
    if not x or x[0] != out[0]:
        raise NotCropped(f"{node.name}: its batch is not its output's")
    return [(wanted[0], *full(x[1:])), *map(_all, inputs[1:])]


ELEMENTWISE = (
    "Abs Add And Cast Ceil Clip Div Elu Equal Erf Exp Floor Gelu Greater HardSigmoid HardSwish "
    "Identity LeakyRelu Less Log Max Min Mish Mul Neg Not Or PRelu Pow QLinearAdd QLinearLeakyRelu "
    "QLinearMul QLinearSigmoid Reciprocal Relu Round Selu Sigmoid Sign Softplus Sqrt Sub Tanh "
    "Where QuantizeLinear DequantizeLinear"
).split()
Rule = Callable[[Node, Region, list, Shape, dict], list]
RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantize),
    **dict.fromkeys(("Conv", "QLinearConv", "ConvInteger"), _conv),
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(("MaxPool", "AveragePool", "QLinearAveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "QLinearGlobalAveragePool"), _global_pool),
    **dict.fromkeys(("Gemm", "QGemm"), _gemm),
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul"), _matmul),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Concat"), _along),
    "Transpose": _transpose,
    "BatchNormalization": _normalization,
}


# --- the model


def _cut(
    model: Model,
    feeds: dict[str, np.ndarray],
    needed: dict[str, Region],
    changes: dict[tuple[str, ...], dict],
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    part = {
        name: np.array(value[slices(needed[name])], order="C")
        for name, value in model.constants.items()
        if name in needed and needed[name] != full(value.shape)
    }
    if any(t.values.name in part for t in graph.sparse_initializer):
        raise NotCropped("a sparse constant")
    for tensor in graph.initializer:
        if tensor.name in part:
            tensor.CopyFrom(onnx.numpy_helper.from_array(part[tensor.name], tensor.name))
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in part:
            del node.attribute[:]
            value = onnx.numpy_helper.from_array(part[node.output[0]], node.output[0])
            node.attribute.append(onnx.helper.make_attribute("value", value))
        _set(node, changes.get(tuple(node.output), {}))
    fed = {
        name: np.array(v[slices(needed.get(name, full(v.shape)))], order="C")
        for name, v in feeds.items()
    }
    del graph.input[:]
    graph.input.extend(ort.value_info(name, value) for name, value in fed.items())
    return proto, fed


def _set(node: onnx.NodeProto, changed: dict) -> None:
    """Change attributes; None takes one away."""
    for at in reversed(range(len(node.attribute))):
        if node.attribute[at].name in changed:
            del node.attribute[at]
    new = [onnx.helper.make_attribute(k, v) for k, v in changed.items() if v is not None]
    node.attribute.extend(new)
