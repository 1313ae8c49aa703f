"""The commands on a ``.tflite`` file; :mod:`qlinear.cli` reads the command line, and prints.

Activations, and what is written of them, are in the file's own layout, NHWC.
"""

from dataclasses import replace

import numpy as np

from qlinear.describe import value as shown
from qlinear.elements import Element
from qlinear.errors import Unsupported, UnusableInput
from qlinear.inputs import Feed
from qlinear.onnx_model import Node
from qlinear.operators.arithmetic import signed_bits
from qlinear.tflite import litert, reference, verdict
from qlinear.tflite.arithmetic import Type
from qlinear.tflite.model import TFLite


def inspected(model: TFLite) -> list[dict]:
    """A row for each operator: types and shapes, scales, zero points, options, bits of its sums."""
    rows = []
    for node in model.nodes:
        types = {name: model.types[name] for name in (*node.inputs, *node.outputs) if name}
        quantized = {name: t for name, t in types.items() if t.scale.size}
        kinds = {t.scale.size > 1 for t in quantized.values()}
        rows.append(
            {
                "node": node.name,
                "operator": node.op_type,
                "inputs": ", ".join(typed(name, types[name]) for name in node.inputs if name),
                "output": ", ".join(typed(name, types[name]) for name in node.outputs if name),
                "quantization": "per-channel" if True in kinds else "per-tensor" if kinds else "",
                "scales": ", ".join(ends(t.scale) for t in quantized.values()),
                "zero points": ", ".join(ends(t.zero_point) for t in quantized.values()),
                "options": ", ".join(f"{k}={v}" for k, v in node.attributes.items()),
                "bits": sum_bits(model, node) or "",
            }
        )
    return rows


def typed(name: str, given: Type) -> str:
    """A tensor with its type and shape."""
    return f"{name} {given.dtype}{list(given.shape)}"


def ends(values: np.ndarray) -> str:
    """One number, or the least and the greatest."""
    if not values.size:
        return "none"
    low, high = values.min(), values.max()
    return str(low) if low == high else f"{low} to {high}"


def sum_bits(model: TFLite, node: Node) -> int | None:
    """Width that holds every accumulator and partial sum of products, for any int8 input.

    None where there are no products, or weights that are no int8 constants.
    """
    kinds = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
    if node.op_type not in kinds or len(node.inputs) < 2 or not node.inputs[0]:
        return None
    x, w = model.types[node.inputs[0]], model.constants.get(node.inputs[1])
    bias = model.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
    if (
        w is None
        or w.dtype != np.int8
        or x.dtype != "int8"
        or (any(node.inputs[2:]) and bias is None)
    ):
        return None
    try:
        low_x, high_x = -128 - x.zero, 127 - x.zero
    except Unsupported:
        return None
    axis = kinds[node.op_type]
    if w.ndim != (2 if node.op_type == "FULLY_CONNECTED" else 4):
        return None
    if bias is not None and bias.size != w.shape[axis]:
        return None
    rows = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)
    rows = rows.astype(np.int64)
    w_type = model.types[node.inputs[1]]
    if node.op_type == "FULLY_CONNECTED" and w_type.scale.size == 1 and w_type.zero_point.size:
        rows = rows - int(w_type.zero_point[0])
    ends_of = np.sort(np.stack([rows * low_x, rows * high_x]), axis=0).sum(axis=2)
    added = 0 if bias is None else bias.ravel().astype(np.int64)
    low = np.minimum(ends_of[0], ends_of[0] + added).min(initial=0)
    high = np.maximum(ends_of[1], ends_of[1] + added).max(initial=0)
    return signed_bits(int(low), int(high))


def tensors(model: TFLite, feed: Feed) -> dict[str, np.ndarray]:
    """LiteRT's tensors by its reference kernels: the inputs, and what every node writes."""
    with litert.Session(model, keep=True) as session:
        return feed.values | session.run(feed.values, verdict.writes(model))


def element(
    model: TFLite, node: Node, values: dict[str, np.ndarray], at: tuple[int, ...]
) -> Element:
    """One element of a node's output: what is added up, and every step with its type.

    Raises:
        UnusableInput: the node is not computed; the message says why.
    """
    try:
        found = verdict.stages(model, node, values)
    except Unsupported as error:
        where = f"{model.path}: node {node.name}: {node.op_type}"
        raise UnusableInput(f"{where}: {error}") from None
    shape = found["y"].shape
    steps = []
    for name, value in found.items():
        one = np.broadcast_to(value, shape)[at] if np.size(value) != 1 else np.ravel(value)[0]
        steps.append((name, np.int32(one) if one.dtype == np.int64 else one))
    columns = terms(model, node, values, at)
    if "product" in columns:  # added up one by one, and as whole tensors
        assert columns["product"].sum() == dict(steps)["sums"], node.name
    return Element(columns, tuple(steps))


def terms(
    model: TFLite, node: Node, values: dict[str, np.ndarray], at: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """What is added up for one element, a row for each term in the kernel's order; or nothing.

    Taps of a window that lie beside the image are left out, as the kernels leave them out.
    """
    kind = node.op_type
    windowed = kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D")
    if not windowed and kind != "FULLY_CONNECTED":
        return {}
    known = model.constants | values
    x = known[node.inputs[0]]
    w = known[node.inputs[1]] if len(node.inputs) > 1 else None
    zero = model.types[node.inputs[0]].zero
    if kind == "FULLY_CONNECTED":
        # the shape of y in the file may be another one than LiteRT computes
        lead = (x.size // w.shape[1],) if len(at) == 2 else x.shape[:-1]
        row = int(np.ravel_multi_index(at[:-1], lead)) if lead else 0
        taken, kernel = x.reshape(-1, w.shape[1])[row], w[at[-1]].astype(np.int64)
        w_type = model.types[node.inputs[1]]
        if w_type.scale.size == 1 and w_type.zero_point.size:
            kernel = kernel - int(w_type.zero_point[0])
        places = {"input": np.arange(len(taken))}
    else:
        o, (n, i, j, m) = node.attributes, at
        pool = w is None
        size = (o["filter_height"], o["filter_width"]) if pool else w.shape[1:3]
        dilation = (o.get("dilation_h_factor", 1), o.get("dilation_w_factor", 1))
        place = reference.windows_of(
            x, size, o["padding"], (o["stride_h"], o["stride_w"]), dilation
        )
        if kind == "CONV_2D":
            depth = w.shape[3]
            first = m // (len(w) // (x.shape[3] // depth)) * depth
            channels = range(first, first + depth)
        else:
            channels = [m if pool else m // (w.shape[3] // x.shape[3])]
        listed = []
        for u, v in place.taps:
            row = i * place.stride[0] - place.begin[0] + u * place.dilation[0]
            column = j * place.stride[1] - place.begin[1] + v * place.dilation[1]
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                for c, channel in enumerate(channels):
                    weight = 0 if pool else w[m, u, v, c] if kind == "CONV_2D" else w[0, u, v, m]
                    listed.append((row, column, channel, x[n, row, column, channel], weight))
        rows, columns, depths, taken, kernel = np.array(listed, np.int64).reshape(-1, 5).T
        places = {"row": rows, "column": columns, "channel": depths}
        if pool:
            return places | {"x": taken}
    centred = taken.astype(np.int64) - zero
    product = centred * kernel
    return places | {"x": taken, "x - zero point": centred, "w": kernel, "product": product,
                     "running sum": product.cumsum()}  # fmt: skip


def parameters(model: TFLite, node: Node, values: dict[str, np.ndarray]) -> list[dict]:
    """A row for each tensor around a node: its type, scales and zero points.

    Args:
        values: the tensors, whose shapes LiteRT computes: the file may have others.
    """
    rows = []
    for part, names in (("input", node.inputs), ("output", node.outputs)):
        for name in filter(None, names):
            given = model.types[name]
            if name in values:
                given = replace(given, shape=values[name].shape)
            scales = shown(given.scale) if given.scale.size else "none"
            zeros = shown(given.zero_point) if given.zero_point.size else "none"
            rows.append({part: typed(name, given), "scale": scales, "zero point": zeros})
            rows[-1] = {"tensor": f"{part} {rows[-1].pop(part)}", **rows[-1]}
    return rows


def first_explained(model: TFLite) -> Node:
    """The first convolution that is computed; else the first node that is."""
    known = [node for node in model.nodes if node.op_type in reference.OPERATORS]
    found = [node for node in known if node.op_type == "CONV_2D"] or known
    if not found:
        kinds = ", ".join(sorted({node.op_type for node in model.nodes}))
        raise UnusableInput(f"{model.path}: nothing to explain: its operators are {kinds}")
    return found[0]
