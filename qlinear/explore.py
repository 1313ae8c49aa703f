"""The explorer's data: a network that ONNX Runtime ran, as a page shows it element by element.

:func:`page_data` makes them for any model, :func:`html` a page of its own that needs nothing
besides. The page's scripts and its style are package data, in ``explorer/``.

The format, which JSON holds::

    {"version": 1,
     "model": "model.onnx",             the file, as a command names it (quoted for a shell)
     "nodes": [                         in the order in which ONNX Runtime runs them
       {"name": "conv1",                as the page shows it, and as an address names it
        "argument": "conv1",            what --node takes (quoted); the name in the file
        "op": "QLinearConv", "domain": "",
        "inputs": {"x": "image_q", "x_scale": "s", ...},   ONNX's name of the input: the tensor
        "outputs": ["conv1_q"],
        "attributes": {"pads": "[1, 1, 1, 1]"},            to be read, not to compute with
        "steps": {"kind": "conv", "strides": [1, 1], ...}, null where only values are shown
        "why": ""}],                    why that is so
     "tensors": {"conv1_q": {"dtype": "int8", "shape": [1, 16, 32, 32]}},
     "constants": {"s": ["float32", "AACAPw=="]},          those that a page computes with
     "labels": {"logits": ["cat", "dog"]},                  of a vector's elements
     "runs": [
       {"name": "photo.png", "picture": "data:image/png;base64,..." or "",
        "arguments": "--input photo.png",                  of a command for the same run, or null
        "shapes": {},                   of tensors that have another shape in this run
        "values": {"conv1_q": ["int8", "gIGC..."]}}]}      what ONNX Runtime computed

A tensor's values are a pair: the type in which they are stored and, in base64, their bytes in C
order, little-endian. That type is the narrowest that holds every value exactly; the tensor's own is
in "tensors". Values that no such type holds are stored as ``["text", ["...", ...]]``. A tensor
without values (a sequence, or one that was left out) has no entry.

``steps`` say what the page computes: ``conv`` (strides, dilations, begin, group), ``dense``
(transA, transB, alpha), ``add`` (swapped: B comes first), ``pool``, ``quantize`` and ``dequantize``
(axis), ``copy`` (the elements keep their order). A node has them only where the reference computes
it from ONNX Runtime's own operands. A site may write each run's "values" to a file of its own; then
they are null here.
"""

import base64
import io
import json
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

from qlinear import engine, oracle
from qlinear.describe import attribute
from qlinear.errors import UnusableInput
from qlinear.fuse import Network
from qlinear.onnx_model import Model, Node
from qlinear.operators.qlinear_add import a_is_constant

VERSION = 1
FOLDER = Path(__file__).with_name("explorer")
SCRIPTS = ("inference.js", "parts.js", "view.js")  # in this order
STYLE, START = "explorer.css", "start.js"  # the latter loads all of them where a site has them

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32")
SMALL = 64  # elements of the largest constant that is stored though the page only shows it
COPIES = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a network, as ONNX Runtime computed it, and what the page calls it."""

    values: dict[str, np.ndarray]  # every tensor by name, the inputs too (:func:`ort_values`)
    name: str  # such as the input's file
    picture: np.ndarray | None = None  # uint8 (H, W) or (H, W, 3): the input, if it is an image
    # of a command for the same run, such as --input FILE; None where no command has its input
    arguments: Sequence[str] | None = field(default=())


def ort_values(network: Network, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor of the graph that ONNX Runtime runs, by name, with the inputs.

    Args:
        feeds: the graph's inputs by name.

    Raises:
        Refused: ONNX Runtime refuses the inputs.
    """
    names = [name for node in network.graph.nodes for name in node.outputs if name]
    session = oracle.open_graph(network, names)
    return feeds | oracle.outputs(network.file, session, feeds)


def picture(x: np.ndarray) -> np.ndarray | None:
    """An input as an image, or None if it has not the shape of one.

    Args:
        x: (1, C, H, W) or (1, H, W, C), C 1 or 3. Values that are not pixels, 0 to 255, are
            stretched from the least to the greatest.

    Returns:
        uint8 (H, W) or (H, W, 3).
    """
    if x.ndim != 4 or len(x) != 1 or x.dtype.kind not in "iuf" or not np.isfinite(x).all():
        return None
    if x.shape[1] in (1, 3):
        pixels = np.moveaxis(x[0], 0, -1)
    elif x.shape[3] in (1, 3):
        pixels = x[0]
    else:
        return None
    if min(pixels.shape[:2]) < 2:
        return None
    pixels = pixels.astype(np.float64)
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 255 or high <= 1:
        pixels = (pixels - low) * (255 / (high - low or 1))
    return np.rint(pixels).astype(np.uint8).squeeze(-1 if pixels.shape[-1] == 1 else ())


def page_data(
    network: Network,
    runs: Sequence[Run],
    *,
    model: str = "",
    named: Callable[[str], str] = str,
    only: Collection[Node] | None = None,
    labels: dict[str, Sequence[str]] | None = None,
) -> dict:
    """What the explorer shows of a network: the format above, JSON-ready.

    Args:
        network: the file and the graph that ONNX Runtime makes of it (:func:`qlinear.oracle.settle`
            for any file).
        runs: at least one.
        model: the file as a command is to name it; the network's own path by default.
        named: a node's name as the page shows it; a name that is not unique is not changed.
        only: the nodes whose operands, outputs and constants are stored; by default all. The
            others are listed without values.
        labels: names of the elements of a vector, by tensor, as of a classifier's classes.

    Raises:
        UnusableInput: there is no run.
    """
    graph, path = network.graph, network.file.path
    if not runs:
        raise UnusableInput(f"{path}: no run to show")
    first = runs[0].values
    kept = [node for node in graph.nodes if only is None or node in only]
    steps = {node.outputs: _steps(graph, node, first) for node in kept}
    left_out = (None, "its values are not in this page")
    names = _names(graph, named)
    nodes = [
        {
            "name": names[node.outputs],
            "argument": shlex.quote(_argument(graph, node)),
            "op": node.op_type,
            "domain": node.domain,
            "inputs": graph.names(node),
            "outputs": [name for name in node.outputs if name],
            "attributes": {k: str(attribute(v))[:200] for k, v in node.attributes.items()},
            **dict(zip(("steps", "why"), steps.get(node.outputs, left_out), strict=True)),
        }
        for node in graph.nodes
    ]
    around = dict.fromkeys(n for node in kept for n in (*node.inputs, *node.outputs) if n)
    arrays = {**graph.constants, **first}
    tensors = {name: _described(arrays[name]) for name in around if _is_array(arrays.get(name))}
    constants = {
        name: stored(graph.constants[name])
        for node in kept
        for name in node.inputs
        if name in graph.constants
        and (steps[node.outputs][0] or graph.constants[name].size <= SMALL)
    }
    return {
        "version": VERSION,
        "model": shlex.quote(model or str(path)),
        "nodes": nodes,
        "tensors": tensors,
        "constants": constants,
        "labels": {name: list(texts) for name, texts in (labels or {}).items()},
        "runs": [_run(run, around, tensors) for run in runs],
    }


def html(
    data: dict, *, title: str, start: str = "", notes: Sequence[str] = (), above: str = ""
) -> str:
    """One page with everything inside: it opens from a file, without a network, and in a frame.

    Args:
        data: of :func:`page_data`, its values included.
        start: the element that is shown first, as an address names it.
        notes: what the page says of itself, a paragraph each.
        above: HTML between the title and the explorer.
    """
    scripts = [
        f"window.QLINEAR_EXPLORER = {in_script(data)};",
        *map(packaged, SCRIPTS),
        "qlinearExplorer.start();",
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            '<link rel="icon" href="data:,">',
            f"<style>\n{packaged(STYLE)}</style>",
            '</head>\n<body class="explorer-page">\n<main>',
            f"<h1>{escape(title)}</h1>",
            above,
            f'<div data-explorer data-linked data-start="{escape(start)}">',
            "<p>The explorer needs JavaScript.</p></div>",
            *(f'<p class="explorer-note">{escape(note)}</p>' for note in notes),
            "</main>",
            *(f"<script>\n{script}\n</script>" for script in scripts),
            "</body>\n</html>\n",
        ]
    )


def in_script(data: dict) -> str:
    """Data as an expression of JavaScript that may stand in a page."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c")  # no text of a model's ends the script
    # in an object that is written out, a tensor of this name would be no member
    return f"JSON.parse({json.dumps(text)})" if '"__proto__":' in text else text


def stored(array: np.ndarray) -> list:
    """An array as the format has it: the type of its values, and their bytes in base64."""
    flat = np.ascontiguousarray(array).ravel()
    if flat.dtype == np.float16 or flat.dtype.isbuiltin == 2:  # what NumPy lacks: int4, bfloat16
        flat = flat.astype(np.float32)
    dtype = _storage(flat)
    if dtype is None:
        return ["text", [str(value) for value in flat]]
    little = flat.astype(dtype).astype(dtype.newbyteorder("<"))
    return [dtype.name, base64.b64encode(little.tobytes()).decode()]


def _storage(flat: np.ndarray) -> np.dtype | None:
    """The type that holds these values exactly in the fewest bytes, or None."""
    if flat.dtype.kind not in "biuf":
        return None
    ends = (flat.min(), flat.max()) if flat.size else (0, 0)
    whole = flat.dtype.kind != "f" or (
        np.isfinite(ends).all()
        and not ((np.rint(flat) != flat) | (np.signbit(flat) & (flat == 0))).any()
    )
    for dtype in map(np.dtype, INTEGERS):
        info = np.iinfo(dtype)
        if whole and info.min <= ends[0] and ends[1] <= info.max:
            return dtype
    if flat.dtype.kind == "f":
        return flat.dtype if flat.dtype.itemsize <= 8 else None
    return np.dtype(np.float64) if max(-int(ends[0]), int(ends[1])) <= 2**53 else None


def _is_array(value) -> bool:
    return isinstance(value, np.ndarray)


def _described(array: np.ndarray) -> dict:
    return {"dtype": array.dtype.name, "shape": list(array.shape)}


def _run(run: Run, around: Collection[str], tensors: dict) -> dict:
    values = {n: run.values[n] for n in around if _is_array(run.values.get(n))}
    shapes = {
        name: list(value.shape)
        for name, value in values.items()
        if list(value.shape) != tensors.get(name, {}).get("shape")
    }
    return {
        "name": run.name,
        "picture": png(run.picture) if run.picture is not None else "",
        "arguments": None if run.arguments is None else shlex.join(run.arguments),
        "shapes": shapes,
        "values": {name: stored(value) for name, value in values.items()},
    }


def png(pixels: np.ndarray) -> str:
    """An image as a data address, lossless."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _argument(graph: Model, node: Node) -> str:
    """What --node takes: the node's name, or a tensor that it writes where others are named so."""
    if sum(n.name == node.name for n in graph.nodes) == 1:
        return node.name
    return next((name for name in node.outputs if name), node.name)


def _names(graph: Model, named: Callable[[str], str]) -> dict[tuple, str]:
    """A name for each node, by its outputs; no two are the same."""
    full = {node.outputs: _argument(graph, node) for node in graph.nodes}
    shown = {outputs: named(name) for outputs, name in full.items()}
    counts = Counter([*full.values(), *shown.values()])
    alone = {o for o in full if counts[shown[o]] == 1 + (shown[o] == full[o])}
    return {outputs: (shown if outputs in alone else full)[outputs] for outputs in full}


# --- which nodes the page computes


def _steps(graph: Model, node: Node, values: dict[str, np.ndarray]) -> tuple[dict | None, str]:
    """What the page needs to know to compute a node, or None and why it shows values only."""
    kind = KINDS.get((node.domain, node.op_type))
    if kind is None:
        return None, f"the explorer has no steps of {node.operator}"
    inputs = graph.names(node)
    operands = {k: graph.constants.get(v, values.get(v)) for k, v in inputs.items()}
    missing = [k for k, v in operands.items() if not _is_array(v)]
    if missing or not _is_array(values.get(node.outputs[0])):
        return None, f"{', '.join(missing) or 'its output'} is no tensor of this run"
    if not values[node.outputs[0]].size:
        return None, "its output has no elements"
    try:
        return kind(graph, node, operands, values), ""
    except UnusableInput as error:
        return None, str(error).removeprefix(f"{graph.path}: node {node.name}: ")


def _conv(graph: Model, node: Node, operands: dict, values: dict) -> dict:
    conv, x = graph.conv(node), operands["x"]
    conv.require_legal(x)
    geo = conv.geometry(x.shape)
    if x.ndim != 4:
        raise UnusableInput(f"x has {x.ndim} axes; the explorer shows convolutions of 4")
    return {
        "kind": "conv",
        "strides": list(geo.strides),
        "dilations": list(geo.dilations),
        "begin": list(geo.begin),
        "group": geo.group,
    }


def _dense(graph: Model, node: Node, operands: dict, values: dict) -> dict:
    engine.computed(graph, node, values)  # refuses what the reference does not compute
    a, b = (operands.get(k, operands.get(k.upper())) for k in "ab")
    if not np.isfinite(node.attributes.get("alpha", 1.0)):
        raise UnusableInput(f"alpha is {node.attributes['alpha']}; the explorer shows finite ones")
    if min(a.ndim, b.ndim) < 2:
        raise UnusableInput("one operand is a vector; the explorer shows products of matrices")
    for k in ("b_scale", "b_zero_point"):
        if operands[k].ndim > 1 and operands[k].size > operands[k].shape[-1]:
            raise UnusableInput(f"{k} differs between the matrices of b")
    given = node.attributes
    return {
        "kind": "dense",
        "transA": given.get("transA", 0),
        "transB": given.get("transB", 0),
        "alpha": given.get("alpha", 1.0),
    }


def _add(graph: Model, node: Node, operands: dict, values: dict) -> dict:
    engine.computed(graph, node, values)  # refuses what the reference does not compute
    return {"kind": "add", "swapped": a_is_constant(operands["A"].shape, operands["B"].shape)}


def _pool(graph: Model, node: Node, operands: dict, values: dict) -> dict:
    engine.computed(graph, node, values)  # refuses what the reference does not compute
    if node.attributes.get("channels_last", 0):
        raise UnusableInput("channels come last; the explorer shows those that come first")
    return {"kind": "pool"}


def _along_axis(kind: str) -> Callable[..., dict]:
    def steps(graph: Model, node: Node, operands: dict, values: dict) -> dict:
        engine.computed(graph, node, values)  # refuses what the reference does not compute
        if node.attributes.get("block_size", 0):
            raise UnusableInput(
                "its scales are blocked; the explorer shows one, or one per channel"
            )
        axes = max(operands["x"].ndim, 1)
        return {"kind": kind, "axis": node.attributes.get("axis", 1) % axes}

    return steps


def _copy(graph: Model, node: Node, operands: dict, values: dict) -> dict:
    return {"kind": "copy"}


KINDS: dict[tuple[str, str], Callable[..., dict]] = {
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _dense,
    ("com.microsoft", "QGemm"): _dense,
    ("com.microsoft", "QLinearAdd"): _add,
    ("com.microsoft", "QLinearGlobalAveragePool"): _pool,
    ("", "QuantizeLinear"): _along_axis("quantize"),
    ("", "DequantizeLinear"): _along_axis("dequantize"),
    **{("", name): _copy for name in COPIES},
}


# --- text of the page


def packaged(name: str) -> str:
    """One of the page's files as text.

    Raises:
        UnusableInput: it is missing.
    """
    path = FOLDER / name
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        raise UnusableInput(f"{path}: no such file; the installation is incomplete") from None
