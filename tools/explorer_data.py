"""Write the pixel explorer's data from the book's model, for the site: make book runs this.

    python -m tools.explorer_data --out FOLDER

Writes explorer-data.js (weights, biases, scales, zero points, the 20 images) and, one file an
image, explorer-ort-NN.js: ONNX Runtime's outputs of the nine convolutions.
"""

import argparse
import base64
import json
from pathlib import Path

import numpy as np

from qlinear.errors import UnusableInput, run_command
from qlinear.inputs import load_samples
from qlinear.onnx_model import Model, Node, load
from qlinear.ort import tensors
from study.cifar10 import CLASSES

ROOT = Path(__file__).resolve().parents[1]


def packed(array: np.ndarray) -> str:
    """The array's bytes, little-endian, in base64."""
    little = array.astype(array.dtype.newbyteorder("<"))
    return base64.b64encode(np.ascontiguousarray(little).tobytes()).decode()


def short(name: str) -> str:
    """A node's or tensor's name as the page shows it."""
    return name.removesuffix("_quantized").removesuffix("_out").removesuffix("_quant")


def conv_entry(model: Model, node: Node, values: dict[str, np.ndarray]) -> dict:
    conv = model.conv(node)
    if conv.w_zero_point.any():
        raise UnusableInput(f"{node.name}: the page's arithmetic leaves w_zero_point out")
    scales = np.broadcast_to(conv.w_scale, len(conv.w))
    return {
        "kind": "conv", "name": short(node.name), "input": short(node.inputs[0]),
        "shape": list(conv.w.shape), "w": packed(conv.w), "B": packed(conv.B),
        "w_scale": scales.tolist(), "x_scale": conv.x_scale.item(),
        "y_scale": conv.y_scale.item(), "x_zero": int(conv.x_zero_point),
        "y_zero": int(conv.y_zero_point), "strides": node.attributes["strides"],
        "pads": node.attributes["pads"], "in": list(values[node.inputs[0]].shape[1:]),
        "out": list(values[node.outputs[0]].shape[1:]),
    }  # fmt: skip


def add(model: Model, node: Node) -> dict:
    args = model.names(node)
    made = {"kind": "add", "name": short(node.name), "a": short(args["A"]), "b": short(args["B"])}
    for tensor in "ABC":
        made[f"{tensor.lower()}_scale"] = model.constants[args[f"{tensor}_scale"]].item()
        made[f"{tensor.lower()}_zero"] = int(model.constants[args[f"{tensor}_zero_point"]])
    return made


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the scripts")
    out = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    model = load(ROOT / "models" / "resnet8_int8.onnx")
    images, labels = load_samples()
    values = tensors(model, images.astype(np.float32))
    nodes = []
    for node in model.nodes:
        if node.op_type == "QLinearConv":
            nodes.append(conv_entry(model, node, values))
        elif node.op_type == "QLinearAdd":
            nodes.append(add(model, node))
    data = {
        "nodes": nodes, "images": packed(images), "labels": labels.tolist(), "classes": CLASSES,
    }  # fmt: skip
    text = f"window.QLINEAR_EXPLORER = {json.dumps(data, separators=(',', ':'))};\n"
    (out / "explorer-data.js").write_text(text)
    convs = model.of_type("QLinearConv")
    for index in range(len(images)):
        whole = np.concatenate([values[node.outputs[0]][index].ravel() for node in convs])
        script = f'window.QLINEAR_ORT({index}, "{packed(whole)}");\n'
        (out / f"explorer-ort-{index:02d}.js").write_text(script)
    print(f"wrote {out}: {len(text) // 1024} KB of data for {len(nodes)} nodes")


if __name__ == "__main__":
    run_command(main)
