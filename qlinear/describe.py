"""Describe a model: every node of a file as JSON, and the nodes that ONNX Runtime runs as a table.

The JSON is versioned and described by ``models/operations.schema.json``, for readers who have no
ONNX library.
"""

import hashlib
import json

import numpy as np

from qlinear import ort
from qlinear.errors import UnusableInput, printable
from qlinear.fuse import Network
from qlinear.onnx_model import Model, Node
from qlinear.operators.arithmetic import signed_bits

VERSION = 2
# inputs of the quantized operators that hold weights
WEIGHTS = ("w", "W", "b", "B")


def table(rows: list[dict]) -> str:
    """Rows as aligned text columns."""
    if not rows:
        return "(none)"
    names = list(rows[0])
    cells = [[printable(str(row[name])) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    lines = [names, ["-" * width for width in widths], *cells]
    joined = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in joined)


def value(constant: np.ndarray) -> str:
    """A parameter on one line: a scalar in full, a vector by its type, range and first values."""
    flat = np.asarray(constant).ravel()
    if flat.size == 1:
        return f"{flat[0]} ({flat.dtype})"
    if not flat.size:
        return f"empty ({flat.dtype})"
    if (flat == flat[0]).all():
        return f"{flat.size} x {flat[0]} ({flat.dtype}, per-channel)"
    head = ", ".join(str(v) for v in flat[:4])
    return (
        f"[{head}, …] ({flat.dtype}, per-channel: {flat.size} values "
        f"from {flat.min()} to {flat.max()})"
    )


def is_parameter(formal: str) -> bool:
    """Whether an input's ONNX name is that of a scale or a zero point."""
    return formal.lower().endswith(("_scale", "_zero_point"))


def extract(model: Model) -> dict:
    """The whole file as JSON-ready data, shapes as ONNX Runtime infers them.

    Scales and zero points carry their values (a number per-tensor, a list per-channel); every
    float32 is written as the shortest decimal of the same float64, so that it reads back exactly.

    Raises:
        UnusableInput: ONNX Runtime refuses the file, or a scale or an attribute is not finite.
    """
    declared = ort.declared(model)

    def tensor(name: str) -> dict:
        if name in model.constants:
            constant = model.constants[name]
            kind, dtype, shape = "initializer", constant.dtype, constant.shape
        else:
            kind = "activation"
            dtype, shape = declared.get(name, (np.dtype(object), None))
        named = "unknown" if dtype.kind == "O" else dtype.name
        return {"name": name, "kind": kind, "dtype": named,
                "shape": list(shape) if shape is not None else None}  # fmt: skip

    def in_json(node: Node, name: str, number):
        try:
            json.dumps(number, allow_nan=False)
        except ValueError:
            what = f"{model.path}: node {node.name}: {name}"
            raise UnusableInput(f"{what} is not finite; JSON has no such number") from None
        return number

    def described(node: Node) -> dict:
        inputs = []
        for formal, name in model.names(node).items():
            entry = {"formal": formal, **tensor(name)}
            if is_parameter(formal) and name in model.constants:
                entry["value"] = in_json(node, formal, plain(model.constants[name]))
            inputs.append(entry)
        return {
            "name": node.name,
            "op_type": node.op_type,
            "domain": node.domain or "ai.onnx",
            "attributes": {k: in_json(node, k, attribute(v)) for k, v in node.attributes.items()},
            "inputs": inputs,
            "outputs": [tensor(name) for name in node.outputs if name],
        }

    nodes = [described(node) for node in model.nodes]
    source = model.source if isinstance(model.source, bytes) else model.path.read_bytes()
    return {
        "version": VERSION,
        "model": model.path.name,
        "sha256": hashlib.sha256(source).hexdigest(),
        "opset": model.opset,
        "inputs": [tensor(name) for name in model.inputs],
        "outputs": [tensor(name) for name in model.outputs],
        "nodes": nodes,
        "scales": _gathered(nodes, "_scale"),
        "zero_points": _gathered(nodes, "_zero_point"),
        "quantization": {
            node.name: kind for node in model.nodes if (kind := quantization(model, node))
        },
    }


def _gathered(nodes: list[dict], ending: str) -> dict[str, dict]:
    """The values of the parameters with this ending, by node and ONNX name."""
    found = {}
    for node in nodes:
        values = {i["formal"]: i["value"] for i in node["inputs"]
                  if "value" in i and i["formal"].lower().endswith(ending)}  # fmt: skip
        if values:
            found[node["name"]] = values
    return found


def quantization(model: Model, node: Node) -> str:
    """per-tensor, per-channel or blocked: how the node's own weights, or its tensor, are scaled."""
    arguments = model.arguments(node)
    scales = [np.asarray(v) for k, v in arguments.items() if k.lower().endswith("_scale")]
    if not scales:
        return ""
    if node.attributes.get("block_size"):
        return "blocked"
    return "per-channel" if any(scale.size > 1 for scale in scales) else "per-tensor"


def inspected(network: Network) -> list[dict]:
    """A row for each node that ONNX Runtime runs; a vector of scales by its least and greatest.

    Raises:
        UnusableInput: a constant of a QLinearConv is illegal; the message names node and input.
    """
    graph = network.graph
    declared = ort.declared(graph)
    declared |= {name: (c.dtype, c.shape) for name, c in graph.constants.items()}
    absorbed = {f.made.outputs: f.absorbed for f in network.fusions}
    rows = []
    for node in graph.nodes:
        names = graph.names(node)
        row = {"node": node.name, "operator": node.operator}
        row["from"] = " ".join(n.name for n in absorbed.get(node.outputs, ()))
        tensors = [n for formal, n in names.items() if not is_parameter(formal)]
        row["inputs"] = ", ".join(_typed(name, declared) for name in tensors)
        row["output"] = _typed(node.outputs[0], declared) if node.outputs else ""
        row["quantization"] = quantization(graph, node)
        for kind in ("scale", "zero_point"):
            given = {k: v for k, v in graph.arguments(node).items() if k.lower().endswith(kind)}
            row[f"{kind}s"] = ", ".join(
                f"{k[: -len(kind) - 1]} {_ends(v)}" for k, v in given.items()
            )
        row["attributes"] = ", ".join(f"{k}={attribute(v)}" for k, v in node.attributes.items())
        row["bits"] = _bits(network, node)
        rows.append(row)
    return rows


def _bits(network: Network, node: Node) -> int | str:
    """Width that holds every accumulator and partial sum of a QLinearConv, for any input."""
    if node.op_type != "QLinearConv" or node.domain:
        return ""
    conv = network.graph.conv(node)
    try:
        conv.require_legal()
    except UnusableInput as error:
        raise UnusableInput(f"{network.file.path}: node {node.name}: {error}") from None
    low, high = conv.register_range()
    return signed_bits(int(low.min()), int(high.max()))


def _typed(name: str, declared: dict[str, tuple[np.dtype, tuple]]) -> str:
    dtype, shape = declared.get(name, (np.dtype(object), None))
    sizes = "x".join("?" if size is None else str(size) for size in shape) if shape else ""
    kind = "?" if dtype.kind == "O" else dtype.name
    return f"{kind} {sizes}".strip()


def _ends(values: np.ndarray) -> str:
    flat = np.asarray(values).ravel()
    if not flat.size:
        return "empty"
    least, greatest = (
        f"{v:.6g}" if flat.dtype.kind == "f" else str(v) for v in (flat.min(), flat.max())
    )
    return least if least == greatest else f"{least}…{greatest}"


def plain(constant: np.ndarray):
    """Numbers that JSON holds, of any type that ONNX has."""
    if constant.dtype.kind not in "iufb" or not constant.dtype.isbuiltin:
        constant = constant.astype(np.float64)
    return constant.tolist()


def attribute(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value if isinstance(value, int | float | str | list) else str(type(value).__name__)
