"""Golden vectors: every integer of a layer's computation, for test benches in C and Verilog.

``FORMAT`` below is written into the manifest, so that the files explain themselves.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qlinear import describe, edges, oracle
from qlinear.errors import UnusableInput
from qlinear.files import new_folder, write_text
from qlinear.fuse import Network
from qlinear.hardware import requantizers
from qlinear.inputs import Feed
from qlinear.onnx_model import Model, Node
from qlinear.operators import MOVERS
from qlinear.operators import qlinear_add as qa
from qlinear.operators import qlinear_conv as qc
from qlinear.operators import qlinear_conv_fast as fast
from qlinear.operators.arithmetic import one_element

import onnxruntime

VERSION = 2
FORMAT = {
    "order": "C order of the array's shape: the last axis varies fastest",
    "hex": "$readmemh text: one element a line, two's complement, most significant digit first; "
    "int8 and uint8 have 2 digits, int32 and float32 bits 8",
    "npz": "NumPy arrays, little-endian, the same names and shapes as the hex files",
    "x": "input of the layer, not padded",
    "sums": "int32 sums of products, before the bias",
    "acc": "int32, sums + bias",
    "y": "output of ONNX Runtime",
    "factor": "bits of the float32 requantization factor, one per output channel",
    "mantissa, shift": "factor = mantissa * 2**-shift, a 24-bit mantissa; exact form, for |acc| "
    "below 2**24: multiply |acc| by it, round to 24 significant bits, shift right, both roundings "
    "half to even; shift is 0 for a factor of 2**24 or more, with which all but 0 saturates",
    "multiplier, right_shift": "factor as a 31-bit multiplier; (acc * multiplier + half) >> "
    "right_shift; 'fixed_point_differs' counts the elements by which it differs from y; "
    "right_shift is 1 to 63: factors beyond give 0, or saturate, as they would with their own",
}
# of what is written on request, or for other operators than QLinearConv
MORE = {
    "other operators": "inputs and constants by their ONNX names, the output as y (z where an "
    "input is named Y); float32 and float64 as their bits",
    "ra, rb, fixed": "bits of QLinearAdd's float32 constants: "
    "y = saturate(rint(fma(ra, A, fma(rb, B, fixed)))); 'swapped' is 1 where ONNX Runtime takes B "
    "for A: ra and rb are then B's and A's",
    "images.h, images.vh": "every image beside layer.h's, which is the first: imageNN.h",
    "packed": "hex text of words of 'packed' bits: elements in order, the first in the lowest "
    "bits, zeros behind the last; arrays of wider elements have none",
    "NHWC": "with 'layout' NHWC axis 1 of every array of 3 axes or more is moved to the end, that "
    "of weights and windows too",
    "thresholds": "for each channel its least and greatest accumulator of any input, each at which "
    "y steps, and the one before; y is ONNX Runtime's. Between neighbours y does not change: a "
    "requantizer that never decreases as acc grows, and gives these y, gives ONNX Runtime's on "
    "every accumulator in between, which are all that the layer can have. That it never "
    "decreases is for you to see: one that wraps, say, does",
    "corners": "accumulators in which designs go wrong; kind: "
    + ", ".join(f"{i} {text}" for i, text in enumerate(edges.KINDS.values())),
    "windows": "inputs for one output of a channel, without padding, in the order of its weights: "
    "they give the channel's least (even rows) and greatest accumulator (odd rows)",
}


@dataclass(frozen=True)
class Options:
    """How vectors are written."""

    layout: str = "NCHW"  # or NHWC
    packed: int = 0  # bits of a word of packed hex text; 0 for none
    prefix: bool = False  # names in C and Verilog begin with the layer's
    thresholds: bool = False
    corners: bool = False


@dataclass(frozen=True)
class Layer:
    """One QLinearConv layer, as a test bench needs it."""

    node: Node
    conv: qc.Conv
    geo: qc.Geometry
    folder: str

    def constants(self) -> dict[str, np.ndarray]:
        """Every constant array of the layer, by the name of its file."""
        conv, M = self.conv, len(self.conv.w)
        return {
            "w": conv.w,
            "w_zero_point": np.broadcast_to(conv.w_zero_point, M).copy(),
            "bias": conv.bias,
            **factor_constants(conv.factor),
        }


@dataclass(frozen=True)
class Record:
    """What is written of one node and one image."""

    name: str
    folder: str
    constants: dict[str, np.ndarray]
    image: dict[str, np.ndarray]
    parameters: dict[str, int]  # sizes and zero points, for C and Verilog
    names: dict[str, str] = field(default_factory=dict)  # the tensor behind an array

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {**self.constants, **self.image}


def factor_constants(factor: np.ndarray) -> dict[str, np.ndarray]:
    """A requantization factor (M,) in three forms: its bits, its parts, a fixed-point multiplier.

    Products have at most 62 bits, so shifts by 63 and more all give 0. Of the smallest product but
    0, 2**30 and here 2**23, what is left saturates without a shift to the left.
    """
    mantissa, shift = requantizers.float32_parts(factor)
    multiplier, right_shift = requantizers.fixed_point(factor, 31)
    return {
        "factor": factor.view(np.uint32),
        "mantissa": mantissa.astype(np.int32),
        "shift": shift.clip(0).astype(np.int32),
        "multiplier": multiplier.astype(np.int32),
        "right_shift": right_shift.clip(1, 63).astype(np.int32),
    }


def folder_name(index: int, count: int, name: str) -> str:
    """A folder name for a node: its position, so that folders sort, and what is safe of its name.

    Args:
        count: how many nodes the graph has.
    """
    digits = max(2, len(str(count - 1)))
    return f"{index:0{digits}d}_{safe(name)[:60]}"


def safe(name: str) -> str:
    """A name with anything but ASCII letters and digits replaced, for files and source code."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def hex_lines(values: np.ndarray) -> Iterator[str]:
    """One element a line, as $readmemh reads it; in pieces, so that memory stays bounded."""
    flat = np.ascontiguousarray(values).ravel()
    unsigned = flat.view(np.dtype(f"u{flat.itemsize}"))
    digits = 2 * flat.itemsize
    for start in range(0, len(unsigned), 65536):
        yield "".join(f"{v:0{digits}x}\n" for v in unsigned[start : start + 65536].tolist())


def c_array(name: str, values: np.ndarray) -> Iterator[str]:
    """A static const array with its shape in a comment."""
    flat = values.ravel()
    yield f"static const {values.dtype.name}_t {name}[{flat.size}] = {{ /* {values.shape} */\n"
    info = np.iinfo(values.dtype)
    low = info.min if info.bits >= 32 and info.min else None
    wide = {("i", 8): "LL", ("u", 8): "ULL"}.get((values.dtype.kind, values.dtype.itemsize), "")
    for start in range(0, flat.size, 16):
        row = (
            f"({low + 1}{wide} - 1)" if v == low else f"{v}{wide}"
            for v in flat[start : start + 16].tolist()
        )
        yield "    " + ", ".join(row) + ",\n"
    yield "};\n\n"


def header(record: Record, prefix: str = "") -> Iterator[str]:
    """The C header of one layer with one image; with a prefix, of names that are the layer's."""
    guard = f"QLINEAR_{record.folder.upper()}_H"  # as unlike other layers' as its folder
    yield f"/* Golden vectors of {safe(record.name)}; made by: python -m qlinear vectors */\n"
    yield f"#ifndef {guard}\n#define {guard}\n#include <stdint.h>\n\n"
    for key, value in record.parameters.items():
        yield f"#define {prefix.upper()}{key} ({value})\n"
    yield "\n"
    for key, values in record.arrays.items():
        if values.size:  # C has no empty arrays
            yield from c_array(f"{prefix or 'vec_'}{key}", values)
    yield "#endif\n"


def part_header(
    record: Record, part: str, arrays: dict, prefix: str = "", sizes: dict[str, int] | None = None
) -> Iterator[str]:
    """A C header of more arrays of a layer, such as those of another image."""
    guard = f"QLINEAR_{record.folder.upper()}_{part.upper()}_H"
    yield f"#ifndef {guard}\n#define {guard}\n#include <stdint.h>\n\n"
    yield from (f"#define {key} ({value})\n\n" for key, value in (sizes or {}).items())
    for key, values in arrays.items():
        yield from c_array(f"{prefix or 'vec_'}{part}_{key}", values)
    yield "#endif\n"


def images_header(record: Record, count: int, prefix: str = "") -> Iterator[str]:
    """A C header that includes a layer with all its images, and tables of them."""
    guard = f"QLINEAR_{record.folder.upper()}_IMAGES_H"
    yield f'#ifndef {guard}\n#define {guard}\n#include "layer.h"\n'
    yield from (f'#include "image{i:02d}.h"\n' for i in range(1, count))
    yield f"\n#define {prefix.upper()}IMAGES ({count})\n"
    start = prefix or "vec_"
    for key, values in record.image.items():
        names = [f"{start}{key}", *(f"{start}image{i:02d}_{key}" for i in range(1, count))]
        kind = f"static const {values.dtype.name}_t *const"
        yield f"{kind} {start}images_{key}[{count}] = {{{', '.join(names)}}};\n"
    yield "#endif\n"


def defines(layer: Layer, image: dict[str, np.ndarray]) -> dict[str, int]:
    """The sizes and zero points of a convolution, for the C header and the Verilog include file.

    A convolution of one axis is one of two with a height of 1; one of three has a depth besides.
    """
    geo, conv = layer.geo, layer.conv
    _, channels, *sizes = image["x"].shape
    parts = (sizes, geo.out, geo.kernel, geo.strides, geo.dilations, geo.begin)
    neutral = (1, 1, 1, 1, 1, 0)
    if len(sizes) == 1:
        parts = [(one, *part) for one, part in zip(neutral, parts, strict=True)]
    size, out, kernel, stride, dilation, begin = (tuple(part)[-2:] for part in parts)
    found = {
        "C_IN": channels, "H_IN": size[0], "W_IN": size[1],
        "C_OUT": len(conv.w), "H_OUT": out[0], "W_OUT": out[1],
        "GROUPS": geo.group, "K_H": kernel[0], "K_W": kernel[1],
        "STRIDE_H": stride[0], "STRIDE_W": stride[1],
        "DILATION_H": dilation[0], "DILATION_W": dilation[1],
        "PAD_TOP": begin[0], "PAD_LEFT": begin[1],
        "X_ZERO": int(conv.x_zero_point), "Y_ZERO": int(conv.y_zero_point),
        "Y_MIN": int(np.iinfo(conv.y_zero_point.dtype).min),
        "Y_MAX": int(np.iinfo(conv.y_zero_point.dtype).max),
        "X_SIGNED": int(conv.x_zero_point.dtype == np.int8),
        "W_SIGNED": int(conv.w.dtype == np.int8),
    }  # fmt: skip
    if len(sizes) == 3:
        depth = ("D_IN", "D_OUT", "K_D", "STRIDE_D", "DILATION_D", "PAD_FRONT")
        found |= {name: part[0] for name, part in zip(depth, parts, strict=True)}
    return found


# --- what is recorded of a node


def _conv_record(graph: Model, node: Node, values: dict, folder: str) -> Record:
    x, y, conv = values[node.inputs[0]], values[node.outputs[0]], graph.conv(node)
    st = qc.stages(x, conv, accumulate=fast.accumulate)
    if len(x) != 1:
        raise UnusableInput(f"x holds {len(x)} images; vectors are of one at a time")
    layer = Layer(node, conv, conv.geometry(x.shape), folder)
    image = {"x": x, "sums": st.sums, "acc": st.acc, "y": y}
    names = {"x": node.inputs[0], "y": node.outputs[0]}
    parameters = defines(layer, image)
    return Record(node.name, folder, layer.constants(), image, parameters, names)


def _record(graph: Model, node: Node, values: dict, folder: str) -> Record:
    """Of any other operator: inputs, constants and outputs, and the integers in between."""
    constants, image, names = {}, {}, {}
    of = _requantizer(graph, node, values)
    for formal, name in graph.names(node).items():
        if name in graph.constants:
            constants[formal] = _integers(graph.constants[name], formal)
        else:
            image[formal], names[formal] = _integers(values[name], formal), name
    if of is not None:
        constants |= factor_constants(of.factor)
        image["acc"] = _accumulators(graph, node, values, of)
    swapped = {}
    if node.operator == "com.microsoft.QLinearAdd":
        added, swapped = _add_constants(graph, node, values)
        constants |= added
    y = "z" if any(formal.lower() == "y" for formal in (*constants, *image)) else "y"
    for i, name in enumerate(node.outputs):
        if name:
            formal = f"{y}{i or ''}"
            image[formal], names[formal] = _integers(values[name], formal), name
    parameters = {}
    for formal, array in {**constants, **image}.items():
        parameters[f"{formal.upper()}_SIZE"] = array.size
        for axis, size in enumerate(array.shape):
            parameters[f"{formal.upper()}_DIM{axis}"] = size
        if formal.lower().endswith("_zero_point") and array.size == 1:
            parameters[formal.upper()] = int(array.reshape(()))
    return Record(node.name, folder, constants, image, {**parameters, **swapped}, names)


def _integers(value: np.ndarray, name: str) -> np.ndarray:
    """An array as integers that C and Verilog have: floats by their bits, narrow ones widened."""
    if not isinstance(value, np.ndarray | np.generic):
        raise UnusableInput(f"{name} is no array: no vectors of it")
    value = np.asarray(value)
    if value.dtype.name.startswith(("int2", "int4")):
        return value.astype(np.int8)
    if value.dtype.name.startswith(("uint2", "uint4")) or value.dtype.kind == "b":
        return value.astype(np.uint8)
    if value.dtype.kind in "iu":
        return value
    if value.dtype.kind not in "fV" or value.dtype.hasobject:
        raise UnusableInput(f"{name} has type {value.dtype}: no vectors of it")
    return np.ascontiguousarray(value).view(f"u{value.itemsize}").reshape(value.shape)


def _requantizer(graph: Model, node: Node, values: dict) -> edges.Requantizer | None:
    x = values.get(node.inputs[0]) if node.inputs else None
    return None if x is None else edges.requantizer(graph, node, np.shape(x))


def _accumulators(graph: Model, node: Node, values: dict, of: edges.Requantizer) -> np.ndarray:
    """int32 of the output's shape: the sums with the bias that stage 2 sees."""
    given = {k: values.get(v, graph.constants.get(v)) for k, v in graph.names(node).items()}
    if "X" in given:
        last = node.attributes.get("channels_last", 0)
        axes = tuple(range(1, given["X"].ndim - 1) if last else range(2, given["X"].ndim))
        centred = given["X"].astype(np.int32) - int(of.x_zero_point)
        return centred.sum(axes, np.int32, keepdims=True)
    a = given["A"].T if node.attributes.get("transA") else given.get("A", given.get("a"))
    rows = a.astype(np.int64) - int(of.x_zero_point)
    acc = rows @ of.w.reshape(len(of.w), -1).T
    return (acc if given.get("C") is None else acc + given["C"]).astype(np.int32)


def _add_constants(graph: Model, node: Node, values: dict) -> tuple[dict, dict]:
    given = {k: values.get(v, graph.constants.get(v)) for k, v in graph.names(node).items()}
    swapped = qa.a_is_constant(given["A"].shape, given["B"].shape)
    order = ("B", "A", "C") if swapped else ("A", "B", "C")
    parts = (one_element(given[f"{n}_{kind}"]) for n in order for kind in ("scale", "zero_point"))
    ra, rb, fixed = (np.reshape(part, 1).view(np.uint32) for part in qa.factors(*parts))
    return {"ra": ra, "rb": rb, "fixed": fixed}, {"SWAPPED": int(swapped)}


# --- what is written


def write(
    network: Network,
    images: list[Feed],
    out: Path,
    nodes: list[Node],
    progress=iter,
    options: Options = Options(),
) -> dict:
    """Write the vectors of ``nodes`` for each image, and a manifest; nothing half-written.

    The folder is made beside ``out`` and renamed into place whole. One layer of one image is held
    in memory at a time, besides one run of the model by ONNX Runtime.

    Args:
        progress: wraps the layers as they are written.
        options: layout, packed words, names, thresholds and corners.

    Returns:
        the manifest.

    Raises:
        UnusableInput: ``out`` exists and is not empty, or there are no vectors of a node; the
            message names it.
    """
    if not nodes or not images:
        raise UnusableInput(f"{network.file.path}: no layer or no image to write vectors of")
    graph = network.graph
    with new_folder(out) as work:
        around = {node.outputs: [n for n in (*node.inputs, *node.outputs) if n] for node in nodes}
        session = oracle.open_graph(network, [n for names in around.values() for n in names])
        layers: dict[str, dict] = {}
        tensors: dict[str, dict] = {}
        scales = quantizations(graph)
        for index, node in progress([(i, n) for i in range(len(images)) for n in nodes]):
            feeds = images[index].values
            wanted = [n for n in around[node.outputs] if n not in {**feeds, **graph.constants}]
            values = feeds | oracle.outputs(network.file, session, feeds, wanted)
            folder = folder_name(graph.nodes.index(node), len(graph.nodes), node.name)
            try:
                fixed = all(name in graph.constants for name in node.inputs[1:] if name)
                made = _conv_record if node.operator == "QLinearConv" and fixed else _record
                record = made(graph, node, values, folder)
                write_image(record, index, work, options)
                if folder not in layers:
                    layers[folder] = _described(graph, node, record, values, options)
                    _write_edges(_requantizer(graph, node, values), record, work, options)
            except UnusableInput as error:
                raise UnusableInput(f"{graph.path}: node {node.name}: {error}") from None
            if "acc" in record.image:
                differs = _fixed_point_differs(graph, node, values, record)
                layers[folder]["fixed_point_differs"] += differs
            if index == len(images) - 1 and index:
                write_images(record, len(images), work, options)
            _note_tensors(tensors, scales, record, values)
        files = {
            path.relative_to(work).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(work.rglob("*"))
            if path.is_file()
        }
        manifest = {
            "version": VERSION,
            "model": network.file.path.name,
            "model_sha256": sha256_of(network.file),
            "onnxruntime": onnxruntime.__version__,
            "session": str(network.settings),
            "images": len(images),
            "inputs": [_described_feed(feed) for feed in images],
            "layout": options.layout,
            "packed": options.packed,
            "format": _format(nodes, len(images), options),
            "layers": list(layers.values()),
            "tensors": list(tensors.values()),
            "edges": _edges(graph, nodes),
            "sha256": files,
        }
        write_text(work / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return manifest


def _format(nodes: list[Node], images: int, options: Options) -> dict[str, str]:
    """What the manifest says of the files that there are."""
    operators = {node.operator for node in nodes}
    there = {
        "other operators": operators != {"QLinearConv"},
        "ra, rb, fixed": "com.microsoft.QLinearAdd" in operators,
        "images.h, images.vh": images > 1,
        "packed": options.packed,
        "NHWC": options.layout == "NHWC",
        "thresholds": options.thresholds,
        "corners": options.corners,
        "windows": options.corners,
    }
    return FORMAT | {name: text for name, text in MORE.items() if there[name]}


def sha256_of(model: Model) -> str:
    """Of a model's file, in hexadecimal digits."""
    raw = model.source if isinstance(model.source, bytes) else Path(model.source).read_bytes()
    return hashlib.sha256(raw).hexdigest()


def _described_feed(feed: Feed) -> dict:
    named = {"labels": list(feed.labels)} if feed.labels else {}
    return {"source": feed.source, "row": feed.row, **named}


def _described(graph: Model, node: Node, record: Record, values: dict, options: Options) -> dict:
    """A layer's entry in the manifest."""
    arrays = {k: _laid_out(v, options) for k, v in record.arrays.items()}
    parameters = {k: describe.plain(v) for k, v in graph.arguments(node).items()
                  if describe.is_parameter(k)}  # fmt: skip
    entry = {
        "name": node.name,
        "folder": record.folder,
        "operator": node.operator,
        "attributes": {k: describe.attribute(v) for k, v in node.attributes.items()},
        "prefix": prefix_of(record) if options.prefix else "",
        "parameters": record.parameters,
        "quantization": parameters,
        "shapes": {k: list(v.shape) for k, v in arrays.items()},
        "dtypes": {k: v.dtype.name for k, v in arrays.items()},
        "tensors": record.names,
    }
    of = _requantizer(graph, node, values)
    if of is not None:
        entry["accumulator"] = {
            "least": int(of.low.min()), "greatest": int(of.high.max()), "bits": of.bits,
            "limit": edges.EXACT, "below_limit": of.exact,
        }  # fmt: skip
    if "acc" in record.image:
        entry["fixed_point_differs"] = 0
    return entry


def _fixed_point_differs(graph: Model, node: Node, values: dict, record: Record) -> int:
    """By how many elements the 31-bit multiplier differs from ONNX Runtime."""
    acc, zero = record.image["acc"], _requantizer(graph, node, values).y_zero_point
    multiplier, shift = record.constants["multiplier"], record.constants["right_shift"]
    if len(multiplier) == 1:
        multiplier, shift = multiplier.reshape(()), shift.reshape(())
    elif node.operator != "QLinearConv":  # channels are columns, of any number of rows
        acc = acc.reshape(-1, acc.shape[-1])
    fixed = requantizers.requantize_fixed(acc, multiplier, shift, zero)
    return int((fixed.ravel() != values[node.outputs[0]].ravel()).sum())


def _note_tensors(tensors: dict, scales: dict, record: Record, values: dict) -> None:
    """The tensors around a layer, by name: what they are, and in which layers' files."""
    for key, name in record.names.items():
        value = np.asarray(values[name])
        entry = tensors.setdefault(
            name,
            {"name": name, "shape": list(value.shape), "dtype": value.dtype.name,
             **scales.get(name, {}), "files": []},
        )  # fmt: skip
        place = f"{record.folder}/image*_{key}.hex"
        if place not in entry["files"]:
            entry["files"].append(place)


def quantizations(graph: Model) -> dict[str, dict]:
    """Scale and zero point of each tensor that a node says them of, and of what only moves them."""
    found: dict[str, dict] = {}

    def note(name: str, given: dict, formal: str) -> None:
        scale, zero = given.get(f"{formal}_scale"), given.get(f"{formal}_zero_point")
        if name and scale is not None and name not in found:
            found[name] = {"scale": describe.plain(scale)}
            if zero is not None:
                found[name]["zero_point"] = describe.plain(zero)

    for node in graph.nodes:
        given = {k.lower(): v for k, v in graph.arguments(node).items()}
        names = graph.names(node)
        if node.op_type != "QuantizeLinear":
            for formal, name in names.items():
                note(name, given, formal.lower())
        outputs = [f for f in ("y", "z", "c") if f not in map(str.lower, names)]
        for formal in outputs:
            note(node.outputs[0], given, formal)
        passes = node.op_type == "MaxPool" or (node.domain, node.op_type) in MOVERS
        if passes and node.inputs and node.inputs[0] in found:
            for name in filter(None, node.outputs):
                found.setdefault(name, found[node.inputs[0]])
    return found


def _edges(graph: Model, nodes: list[Node]) -> list[dict]:
    """Which layer's output is which layer's input; from None where it is an input of the graph."""
    writer = {name: node.name for node in graph.nodes for name in node.outputs if name}
    return [
        {"tensor": name, "from": writer.get(name), "to": node.name, "input": formal}
        for node in nodes
        for formal, name in graph.names(node).items()
        if name not in graph.constants
    ]


def prefix_of(record: Record) -> str:
    """What names of this layer begin with in C and Verilog, where several are to be together."""
    return f"L{record.folder}_"


def _laid_out(values: np.ndarray, options: Options) -> np.ndarray:
    if options.layout == "NCHW" or values.ndim < 3:
        return values
    return np.ascontiguousarray(np.moveaxis(values, 1, -1))


def packed_lines(values: np.ndarray, bits: int) -> Iterator[str]:
    """Words of several elements, the first in the lowest bits, as $readmemh reads them.

    Raises:
        UnusableInput: a word does not hold a whole number of elements.
    """
    if bits % (8 * values.itemsize):
        what = f"{values.dtype} has {8 * values.itemsize} bits"
        raise UnusableInput(f"words of {bits} bits hold no whole number of elements: {what}")
    raw, size = np.ascontiguousarray(values).tobytes(), bits // 8
    for start in range(0, len(raw), size):
        yield raw[start : start + size].ljust(size, b"\0")[::-1].hex() + "\n"


def write_image(record: Record, index: int, work: Path, options: Options) -> None:
    """One image's arrays, and with the first image all that is the layer's."""
    target = work / record.folder
    constants, image = (
        {k: _laid_out(v, options) for k, v in arrays.items()}
        for arrays in (record.constants, record.image)
    )
    record = Record(record.name, record.folder, constants, image, record.parameters)
    prefix = prefix_of(record) if options.prefix else ""
    if not index:
        target.mkdir()
        _write_arrays(target, "", constants, options)
        _write_lines(target / "layer.h", header(record, prefix))
        sizes = (f"`define {prefix.upper()}{k} ({v})\n" for k, v in record.parameters.items())
        _write_lines(target / "layer.vh", sizes)
    else:
        lines = part_header(record, f"image{index:02d}", image, prefix)
        _write_lines(target / f"image{index:02d}.h", lines)
    _write_arrays(target, f"image{index:02d}_", image, options)
    np.savez_compressed(target / f"image{index:02d}.npz", **constants, **image)


def _write_arrays(target: Path, start: str, arrays: dict, options: Options) -> None:
    for name, array in arrays.items():
        _write_lines(target / f"{start}{name}.hex", hex_lines(array))
        if options.packed and not options.packed % (8 * array.itemsize):
            lines = packed_lines(array, options.packed)
            _write_lines(target / f"{start}{name}_packed{options.packed}.hex", lines)


def write_images(record: Record, count: int, work: Path, options: Options) -> None:
    """What includes every image of a layer."""
    prefix = prefix_of(record) if options.prefix else ""
    target = work / record.folder
    _write_lines(target / "images.h", images_header(record, count, prefix))
    _write_lines(target / "images.vh", [f"`define {prefix.upper()}IMAGES ({count})\n"])


def _write_edges(
    of: edges.Requantizer | None, record: Record, work: Path, options: Options
) -> None:
    """Thresholds and corners, where they are asked for and the node requantizes accumulators."""
    if of is None:
        return
    parts = {}
    if options.thresholds:
        parts["thresholds"] = edges.threshold_accumulators(of)
    if options.corners:
        parts["corners"] = edges.corner_accumulators(of)
        windows = edges.corner_windows(of)
        if windows is not None:
            parts["windows"] = windows | {"x": _laid_out(windows["x"], options)}
    prefix = prefix_of(record) if options.prefix else ""
    for part, arrays in parts.items():
        target = work / record.folder
        _write_arrays(target, f"{part}_", arrays, options)
        count = {f"{prefix}{part}_count".upper(): len(arrays["acc"])}
        _write_lines(target / f"{part}.h", part_header(record, part, arrays, prefix, count))
        _write_lines(target / f"{part}.vh", (f"`define {k} ({v})\n" for k, v in count.items()))
        np.savez_compressed(target / f"{part}.npz", **arrays)


def one_by_one(model: Model, feeds: list[Feed]) -> list[Feed]:
    """The images of a batch as runs of their own, where the model's batch is free."""
    (shape, *_) = [shape for _, shape in model.inputs.values()] or [()]
    if len(model.inputs) != 1 or not shape or isinstance(shape[0], int):
        return feeds
    return [
        Feed({name: x[i : i + 1]}, feed.source, feed.labels[i : i + 1], i)
        for feed in feeds
        for name, x in feed.values.items()
        for i in range(len(x))
    ]


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)
