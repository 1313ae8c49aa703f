"""Golden vectors: every integer of a layer's computation, for test benches in C and Verilog.

``FORMAT`` below is written into the manifest, so that the files explain themselves.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qlinear import oracle
from qlinear.errors import UnusableInput
from qlinear.files import new_folder, write_text
from qlinear.fuse import Network
from qlinear.hardware import requantizers
from qlinear.inputs import Feed
from qlinear.onnx_model import Model, Node
from qlinear.operators import qlinear_conv as qc
from qlinear.operators import qlinear_conv_fast as fast

VERSION = 1
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
        mantissa, shift = requantizers.float32_parts(conv.factor)
        multiplier, right_shift = requantizers.fixed_point(conv.factor, 31)
        # Products have at most 62 bits, so shifts by 63 and more all give 0. Of the smallest
        # product but 0, 2**30 and here 2**23, what is left saturates without a shift to the left.
        right_shift, shift = right_shift.clip(1, 63), shift.clip(0)
        return {
            "w": conv.w,
            "w_zero_point": np.broadcast_to(conv.w_zero_point, M).copy(),
            "bias": conv.bias,
            "factor": conv.factor.view(np.uint32),
            "mantissa": mantissa.astype(np.int32),
            "shift": shift.astype(np.int32),
            "multiplier": multiplier.astype(np.int32),
            "right_shift": right_shift.astype(np.int32),
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
    kinds = {"int8": "int8_t", "uint8": "uint8_t", "int32": "int32_t", "uint32": "uint32_t"}
    flat = values.ravel()
    yield f"static const {kinds[values.dtype.name]} {name}[{flat.size}] = {{ /* {values.shape} */\n"
    low = np.iinfo(np.int32).min
    for start in range(0, flat.size, 16):
        row = (
            f"({low + 1} - 1)" if v == low else str(v) for v in flat[start : start + 16].tolist()
        )
        yield "    " + ", ".join(row) + ",\n"
    yield "};\n\n"


def header(layer: Layer, image: dict[str, np.ndarray]) -> Iterator[str]:
    """The C header of one layer with one image."""
    guard = f"QLINEAR_{layer.folder.upper()}_H"  # as unlike other layers' as its folder
    yield f"/* Golden vectors of {safe(layer.node.name)}; made by: python -m qlinear vectors */\n"
    yield f"#ifndef {guard}\n#define {guard}\n#include <stdint.h>\n\n"
    for key, value in defines(layer, image).items():
        yield f"#define {key} ({value})\n"
    yield "\n"
    for key, values in {**layer.constants(), **image}.items():
        yield from c_array(f"vec_{key}", values)
    yield "#endif\n"


def defines(layer: Layer, image: dict[str, np.ndarray]) -> dict[str, int]:
    """The sizes and zero points of a layer, for the C header and the Verilog include file."""
    geo, conv = layer.geo, layer.conv
    _, channels, height, width = image["x"].shape
    return {
        "C_IN": channels, "H_IN": height, "W_IN": width,
        "C_OUT": len(conv.w), "H_OUT": geo.out[0], "W_OUT": geo.out[1],
        "GROUPS": geo.group, "K_H": geo.kernel[0], "K_W": geo.kernel[1],
        "STRIDE_H": geo.strides[0], "STRIDE_W": geo.strides[1],
        "DILATION_H": geo.dilations[0], "DILATION_W": geo.dilations[1],
        "PAD_TOP": geo.begin[0], "PAD_LEFT": geo.begin[1],
        "X_ZERO": int(conv.x_zero_point), "Y_ZERO": int(conv.y_zero_point),
        "Y_MIN": int(np.iinfo(conv.y_zero_point.dtype).min),
        "Y_MAX": int(np.iinfo(conv.y_zero_point.dtype).max),
        "X_SIGNED": int(conv.x_zero_point.dtype == np.int8),
        "W_SIGNED": int(conv.w.dtype == np.int8),
    }  # fmt: skip


def write(
    network: Network, images: list[Feed], out: Path, nodes: list[Node], progress=iter
) -> dict:
    """Write the vectors of ``nodes`` for each image, and a manifest; nothing half-written.

    The folder is made beside ``out`` and renamed into place whole. One layer of one image is held
    in memory at a time, besides one run of the model by ONNX Runtime.

    Args:
        progress: wraps the layers as they are written.

    Returns:
        the manifest.

    Raises:
        UnusableInput: ``out`` exists and is not empty, or a layer is not two-dimensional.
    """
    if not nodes or not images:
        raise UnusableInput(f"{network.file.path}: no layer or no image to write vectors of")
    with new_folder(out) as work:
        names = [name for node in nodes for name in (node.inputs[0], node.outputs[0])]
        session = oracle.open_graph(network, names)
        layers: dict[str, dict] = {}
        for index, node in progress([(i, n) for i in range(len(images)) for n in nodes]):
            feeds = images[index].values
            wanted = [n for n in (node.inputs[0], node.outputs[0]) if n not in feeds]
            values = feeds | oracle.outputs(network.file, session, feeds, wanted)
            _write_image(network.graph, node, values, index, work, layers)
        files = {
            path.relative_to(work).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(work.rglob("*"))
            if path.is_file()
        }
        manifest = {
            "version": VERSION,
            "model": network.file.path.name,
            "images": len(images),
            "format": FORMAT,
            "layers": list(layers.values()),
            "sha256": files,
        }
        write_text(work / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return manifest


def one_by_one(model: Model, feeds: list[Feed]) -> list[Feed]:
    """The images of a batch as runs of their own, where the model's batch is free."""
    (shape, *_) = [shape for _, shape in model.inputs.values()] or [()]
    if len(model.inputs) != 1 or not shape or isinstance(shape[0], int):
        return feeds
    return [
        Feed({name: x[i : i + 1]}, feed.source)
        for feed in feeds
        for name, x in feed.values.items()
        for i in range(len(x))
    ]


def _write_image(
    graph: Model, node: Node, values: dict, index: int, work: Path, layers: dict[str, dict]
) -> None:
    x, y, conv = values[node.inputs[0]], values[node.outputs[0]], graph.conv(node)
    try:
        st = qc.stages(x, conv, accumulate=fast.accumulate)
        if x.ndim != 4:
            raise UnusableInput(f"x has {x.ndim} axes; 4 needed")
        if len(x) != 1:
            raise UnusableInput(f"x holds {len(x)} images; vectors are of one at a time")
    except UnusableInput as error:
        raise UnusableInput(f"{graph.path}: node {node.name}: {error}") from None
    folder = folder_name(graph.nodes.index(node), len(graph.nodes), node.name)
    layer = Layer(node, conv, conv.geometry(x.shape), folder)
    target = work / layer.folder
    image = {"x": x, "sums": st.sums, "acc": st.acc, "y": y}
    constants = layer.constants()
    if layer.folder not in layers:
        target.mkdir()
        for name, array in constants.items():
            _write_lines(target / f"{name}.hex", hex_lines(array))
        _write_lines(target / "layer.h", header(layer, image))
        sizes = (f"`define {k} ({v})\n" for k, v in defines(layer, image).items())
        _write_lines(target / "layer.vh", sizes)
        layers[layer.folder] = {
            "name": node.name,
            "folder": layer.folder,
            "parameters": defines(layer, image),
            "shapes": {k: list(v.shape) for k, v in {**constants, **image}.items()},
            "dtypes": {k: v.dtype.name for k, v in {**constants, **image}.items()},
            "fixed_point_differs": 0,
        }
    for name, array in image.items():
        _write_lines(target / f"image{index:02d}_{name}.hex", hex_lines(array))
    np.savez_compressed(target / f"image{index:02d}.npz", **constants, **image)
    fixed = requantizers.requantize_fixed(
        st.acc, constants["multiplier"], constants["right_shift"], conv.y_zero_point
    )
    layers[layer.folder]["fixed_point_differs"] += int((fixed != y).sum())


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)
