"""Golden vectors: every integer of a layer's computation, for test benches in C and Verilog.

``FORMAT`` below is written into the manifest, so that the files explain themselves.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.hardware import requantizers
from qlinear.onnx_model import Model, Node, conv_arguments
from qlinear.operators import qlinear_conv as qc
from qlinear.operators.arithmetic import requantization_scale
from qlinear.ort import tensors

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
    "mantissa, shift": "factor = mantissa * 2**-shift, a 24-bit mantissa; exact form: multiply "
    "|acc| by it, round to 24 significant bits, shift right, both roundings half to even",
    "multiplier, right_shift": "factor as a 31-bit multiplier; (acc * multiplier + half) >> "
    "right_shift; 'fixed_point_differs' counts the elements by which it differs from y",
}


@dataclass(frozen=True)
class Layer:
    """The constants of one QLinearConv layer, as a test bench needs them."""

    node: Node
    arguments: dict[str, np.ndarray]
    geo: qc.Geometry
    folder: str

    @property
    def scale(self) -> np.ndarray:
        parts = (self.arguments[name] for name in ("x_scale", "w_scale", "y_scale"))
        scale = np.broadcast_to(requantization_scale(*parts), len(self.arguments["w"]))
        return np.ascontiguousarray(scale)

    def constants(self) -> dict[str, np.ndarray]:
        mantissa, shift = requantizers.float32_parts(self.scale)
        multiplier, right_shift = requantizers.fixed_point(self.scale, 31)
        bias = self.arguments.get("B", np.zeros(len(self.arguments["w"]), np.int32))
        return {
            "w": self.arguments["w"],
            "w_zero_point": np.broadcast_to(self.arguments["w_zero_point"], len(bias)).copy(),
            "bias": bias,
            "factor": self.scale.view(np.uint32),
            "mantissa": mantissa.astype(np.int32),
            "shift": shift.astype(np.int32),
            "multiplier": multiplier.astype(np.int32),
            "right_shift": right_shift.astype(np.int32),
        }  # fmt: skip


def folder_name(index: int, name: str) -> str:
    """A folder name for a node: its position, and its name with anything unsafe replaced."""
    return f"{index:02d}_{re.sub(r'[^A-Za-z0-9_]', '_', name)[:60]}"


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
    name = layer.folder[3:]
    guard = f"QLINEAR_{name.upper()}_H"
    yield f"/* Golden vectors of {layer.node.name}; made by: python -m qlinear vectors */\n"
    yield f"#ifndef {guard}\n#define {guard}\n#include <stdint.h>\n\n"
    for key, value in defines(layer, image).items():
        yield f"#define {key} ({value})\n"
    yield "\n"
    for key, values in {**layer.constants(), **image}.items():
        yield from c_array(f"vec_{key}", values)
    yield "#endif\n"


def defines(layer: Layer, image: dict[str, np.ndarray]) -> dict[str, int]:
    """The sizes and zero points of a layer, for the C header and the Verilog include file."""
    geo, args = layer.geo, layer.arguments
    _, channels, height, width = image["x"].shape
    return {
        "C_IN": channels, "H_IN": height, "W_IN": width,
        "C_OUT": len(args["w"]), "H_OUT": geo.out[0], "W_OUT": geo.out[1],
        "GROUPS": geo.group, "K_H": geo.kernel[0], "K_W": geo.kernel[1],
        "STRIDE_H": geo.strides[0], "STRIDE_W": geo.strides[1],
        "DILATION_H": geo.dilations[0], "DILATION_W": geo.dilations[1],
        "PAD_TOP": geo.begin[0], "PAD_LEFT": geo.begin[1],
        "X_ZERO": int(args["x_zero_point"]), "Y_ZERO": int(args["y_zero_point"]),
        "Y_MIN": int(np.iinfo(args["y_zero_point"].dtype).min),
        "Y_MAX": int(np.iinfo(args["y_zero_point"].dtype).max),
        "X_SIGNED": int(args["x_zero_point"].dtype == np.int8),
        "W_SIGNED": int(args["w"].dtype == np.int8),
    }  # fmt: skip


def write(model: Model, images: np.ndarray, out: Path, nodes: list[Node]) -> dict:
    """Write the vectors of ``nodes`` for each image, and a manifest; nothing half-written.

    The folder is made beside ``out`` and moved into place whole. One image of one layer is held in
    memory at a time, besides the tensors of one run of the model.

    Returns:
        the manifest.

    Raises:
        UnusableInput: ``out`` exists and is not empty, or a layer is not two-dimensional.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UnusableInput(f"{out}: exists and is not empty; name another folder or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".vectors-") as folder:
        work = Path(folder) / "vectors"
        work.mkdir()
        layers: dict[str, dict] = {}
        for index, x in enumerate(images):
            values = tensors(model, x[None])
            for node in nodes:
                _write_image(model, node, values, index, work, layers)
        files = {
            str(path.relative_to(work)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(work.rglob("*"))
            if path.is_file()
        }
        manifest = {
            "version": VERSION,
            "model": model.path.name,
            "images": len(images),
            "format": FORMAT,
            "layers": list(layers.values()),
            "sha256": files,
        }
        (work / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        if out.exists():
            out.rmdir()
        shutil.move(work, out)
    return manifest


def _write_image(
    model: Model, node: Node, values: dict, index: int, work: Path, layers: dict[str, dict]
) -> None:
    x, y = values[node.inputs[0]], values[node.outputs[0]]
    arguments = conv_arguments(model, node)
    try:
        st = qc.stages(x, **arguments, **node.attributes)
        geo = qc.geometry(x.shape, arguments["w"].shape, **node.attributes)
    except UnusableInput as error:
        raise UnusableInput(f"{model.path}: node {node.name}: {error}") from None
    if x.ndim != 4:
        raise UnusableInput(f"{model.path}: node {node.name}: x has {x.ndim} axes; 4 needed")
    layer = Layer(node, arguments, geo, folder_name(model.nodes.index(node), node.name))
    target = work / layer.folder
    image = {"x": x, "sums": st.sums, "acc": st.acc, "y": y}
    constants = layer.constants()
    if node.name not in layers:
        target.mkdir()
        for name, array in constants.items():
            _write_hex(target / f"{name}.hex", array)
        with (target / "layer.h").open("w") as file:
            file.writelines(header(layer, image))
        with (target / "layer.vh").open("w") as file:
            file.writelines(f"`define {k} ({v})\n" for k, v in defines(layer, image).items())
        layers[node.name] = {
            "name": node.name,
            "folder": layer.folder,
            "parameters": defines(layer, image),
            "shapes": {k: list(v.shape) for k, v in {**constants, **image}.items()},
            "dtypes": {k: v.dtype.name for k, v in {**constants, **image}.items()},
            "fixed_point_differs": 0,
        }
    for name, array in image.items():
        _write_hex(target / f"image{index:02d}_{name}.hex", array)
    np.savez_compressed(target / f"image{index:02d}.npz", **constants, **image)
    zero = arguments["y_zero_point"]
    fixed = requantizers.requantize_fixed(
        st.acc, constants["multiplier"], constants["right_shift"], zero
    )
    layers[node.name]["fixed_point_differs"] += int((fixed != y).sum())


def _write_hex(path: Path, values: np.ndarray) -> None:
    with path.open("w") as file:
        file.writelines(hex_lines(values))
