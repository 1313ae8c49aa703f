#!/usr/bin/env python3
"""Write the constants and the tensors that the C example ``examples/c/resnet8.c`` needs.

    python scripts/export_c.py --out FOLDER
    python scripts/export_c.py models/resnet8_int8_per_channel.onnx --out FOLDER

The folder, a new one, holds then ``resnet8_model.h``, every constant as an integer, and
``resnet8.bin``, the 20 sample images with every tensor that ONNX Runtime computes of them.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qlinear.errors import Parser, Unsupported, printable, run_command
from qlinear.files import new_folder, write_text
from qlinear.hardware.additions import fixed_point_addition
from qlinear.hardware.requantizers import float32_parts
from qlinear.inputs import load_samples
from qlinear.onnx_model import Model, Node, load
from qlinear.operators.qgemm import as_conv
from qlinear.operators.qlinear_conv import Conv, Geometry
from qlinear.operators.qlinear_global_average_pool import pool_scale
from qlinear.ort import tensors
from qlinear.vectors import c_array, safe

ROOT = Path(__file__).resolve().parents[1]
# what changes no integer, and so is not in the C program
LEFT_OUT = ("Flatten", "DequantizeLinear")


def require(condition: bool, node: Node, what: str) -> None:
    if not condition:
        raise Unsupported(f"node {node.name}: the C example needs {what}")


def factors(node: Node, scale: np.ndarray, largest: int) -> list[str]:
    """Factors as C initializers, for accumulators of at most ``largest`` in magnitude.

    In these limits :func:`qlinear.hardware.requantizers.requantize_as_float32`, which the C program
    repeats, equals the float32 chain, and needs no shift to the left and none by 64 or more.
    """
    mantissa, shift = float32_parts(np.atleast_1d(scale))
    require(largest <= 2**24, node, "accumulators of at most 2**24")
    require(shift.min() >= 24 and shift.max() <= 63, node, "factors between 2**-40 and 1")
    return [f"{{{m}, {s}}}" for m, s in zip(mantissa.tolist(), shift.tolist(), strict=True)]


def addition(node: Node, p: dict[str, np.ndarray]) -> tuple[int, int, int, int]:
    """QLinearAdd in integers, as a, b, constant and shift, with the fewest fractional bits."""
    found = fixed_point_addition(**{k: v for k, v in p.items() if k not in ("A", "B")})
    if found is None:
        raise Unsupported(f"node {node.name}: no fixed-point form equals it on all pairs")
    return found


def convolution(node: Node, conv: Conv, geo: Geometry, x_shape: tuple) -> Iterator[str]:
    """A convolution, or a dense layer as one."""
    require(geo.group == 1 and set(geo.dilations) == {1}, node, "group 1 and dilations 1")
    require(not np.any(conv.w_zero_point), node, "weights with zero point 0")
    require(conv.x_zero_point.dtype == conv.y_zero_point.dtype == np.int8, node, "int8")
    require(conv.w.dtype == np.int8, node, "int8 weights")
    name, (low, high) = safe(node.name), conv.accumulator_range()
    yield from c_array(f"{name}_w", conv.w)
    yield from c_array(f"{name}_bias", conv.bias)
    yield f"static const struct factor {name}_factor[{len(conv.w)}] = {{\n"
    for factor in factors(node, conv.factor, max(-low.min(), high.max())):
        yield f"    {factor},\n"
    yield "};\n\n/* c_in h_in w_in, c_out h_out w_out, k_h k_w, strides, pads, zero points */\n"
    sizes = [*x_shape[1:], len(conv.w), *geo.out, *geo.kernel, *geo.strides, *geo.begin]
    zeros = [int(conv.x_zero_point), int(conv.y_zero_point)]
    yield f"QLINEAR_CONV({name}, {', '.join(map(str, sizes + zeros))});\n\n"


def record(node: Node, *values: object) -> str:
    """A C record of an operator, named as its node is."""
    kind = {
        "QuantizeLinear": "quantize_linear",
        "QLinearAdd": "qlinear_add",
        "QLinearGlobalAveragePool": "qlinear_global_average_pool",
    }[node.op_type]
    name = safe(node.name)
    initial = ", ".join(map(str, [f'"{name}"', *values]))
    return f"static const struct {kind} {name} = {{{initial}}};\n\n"


def constants(model: Model, node: Node, values: dict[str, np.ndarray]) -> Iterator[str]:
    """What the header says of one node.

    Args:
        values: every tensor of a run on one image, for the shapes.
    """
    p, x, y = model.arguments(node), values[node.inputs[0]], values[node.outputs[0]]
    require(y.dtype == np.int8, node, "int8 outputs")
    if node.op_type == "QuantizeLinear":
        require(p["y_scale"] == 1, node, "pixels of scale 1")
        yield record(node, y.size, p["y_zero_point"])
    elif node.op_type == "QLinearConv":
        conv = model.conv(node)
        yield from convolution(node, conv, conv.geometry(x.shape), x.shape)
    elif node.op_type == "QGemm":
        require(node.attributes == {"transB": 1}, node, "transB 1, and no other attribute")
        conv = as_conv(**p, transB=1)
        shape = (*x.shape, 1, 1)
        yield from convolution(node, conv, conv.geometry(shape), shape)
    elif node.op_type == "QLinearAdd":
        yield record(node, y.size, *addition(node, p))
    elif node.op_type == "QLinearGlobalAveragePool":
        pixels = x[0, 0].size
        (factor,) = factors(node, pool_scale(p["x_scale"], p["y_scale"], pixels), 255 * pixels)
        yield record(node, y.size, pixels, p["x_zero_point"], p["y_zero_point"], factor)
    else:
        require(False, node, f"no {node.op_type}")


def write(model: Model, out: Path) -> None:
    """Write the folder, whole or not at all."""
    images = load_samples()[0]
    nodes = [node for node in model.nodes if node.op_type not in LEFT_OUT]
    by_image = [tensors(model, image[None].astype(np.float32)) for image in images]
    text = "/* Constants of ResNet8; made by: python scripts/export_c.py */\n"
    text += "#ifndef RESNET8_MODEL_H\n#define RESNET8_MODEL_H\n\n"
    text += "".join(line for node in nodes for line in constants(model, node, by_image[0]))
    with new_folder(out) as work:
        write_text(work / "resnet8_model.h", text + "#endif\n")
        with (work / "resnet8.bin").open("wb") as file:
            file.write(len(images).to_bytes(4, "little"))
            for image, values in zip(images, by_image, strict=True):
                file.write(image.tobytes())
                file.writelines(values[node.outputs[0]].tobytes() for node in nodes)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ROOT / "models" / "resnet8_int8.onnx"
    parser.add_argument("model", type=Path, nargs="?", default=default, help="an int8 ResNet8")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    args = parser.parse_args(argv)
    write(load(args.model), args.out)
    print(printable(f"wrote {args.out}"))


if __name__ == "__main__":
    run_command(main)
