"""Command line for your own model: python -m qlinear inspect | validate | explain | vectors."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from qlinear import explain as worked
from qlinear import qdq, vectors
from qlinear.engine import TensorCheck, check_tensor, compare, compute
from qlinear.errors import UnusableInput, run_command
from qlinear.inputs import load_samples, read_input
from qlinear.onnx_model import CONV_INPUTS, Model, Node, conv_arguments, load
from qlinear.operators import OPERATORS
from qlinear.operators import arithmetic as ar
from qlinear.operators import qlinear_conv as qc
from qlinear.ort import tensors
from qlinear.validate import convolutions, describe

EXAMPLES = """examples:
  python -m qlinear inspect models/resnet8_int8.onnx
  python -m qlinear validate MODEL.onnx --input photo.png
  python -m qlinear explain MODEL.onnx --node conv1_quant --pixel 10,12 --channel 5 --markdown
  python -m qlinear vectors models/resnet8_int8.onnx --out vectors --images 2

exit status: 0 all is equal, 1 something differs, 2 unusable input
"""


def read_model(path: Path) -> Model:
    """Load a model; a QDQ model is read as the integer network that it denotes."""
    model = load(path)
    if not qdq.is_qdq(model):
        return model
    network, fused = qdq.read(model)
    kinds = {}
    for line in fused:
        kind = line.rsplit("-> ", 1)[1]
        kinds[kind] = kinds.get(kind, 0) + 1
    counts = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())) or "nothing"
    print(f"note: {path} is in QDQ form; read as the integer network: {counts}", file=sys.stderr)
    return network


def table(rows: list[dict]) -> str:
    """Rows as aligned text columns."""
    if not rows:
        return "(none)"
    names = list(rows[0])
    cells = [[str(row[name]) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    lines = [names, ["-" * width for width in widths], *cells]
    joined = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in joined)


def inspect(args: argparse.Namespace) -> int:
    """Print a line for every node: shapes, per-tensor or per-channel, scales, accumulator bits."""
    model = read_model(args.model)
    rows = [inspected(model, node) for node in model.nodes]
    if args.json:
        print(json.dumps({"model": str(args.model), "nodes": rows}, indent=2))
    else:
        print(table(rows))
    return 0


def inspected(model: Model, node: Node) -> dict:
    """What inspect prints of one node.

    Raises:
        UnusableInput: a constant of a QLinearConv is illegal; the message names node and input.
    """
    row = dict.fromkeys(
        ("node", "operator", "weights", "strides", "pads", "scales", "w_scale", "bits"), ""
    )
    row["node"], row["operator"] = node.name, node.op_type
    if node.op_type == "QLinearConv":
        args = conv_arguments(model, node)
        missing = [name for name in CONV_INPUTS[1:8] if name not in args]
        if missing:
            raise UnusableInput(f"{model.path}: node {node.name}: {missing[0]} is missing")
        try:
            qc.check(np.empty(0, args["x_zero_point"].dtype), **args)
        except UnusableInput as error:
            raise UnusableInput(f"{model.path}: node {node.name}: {error}") from None
        w, w_scale = args["w"], args["w_scale"]
        axes = w.ndim - 2
        row["weights"] = "x".join(map(str, w.shape))
        row["strides"] = str(node.attributes.get("strides", [1] * axes))
        row["pads"] = node.attributes.get("auto_pad", "NOTSET")
        if row["pads"] == "NOTSET":
            row["pads"] = str(node.attributes.get("pads", [0] * 2 * axes))
        row["scales"] = "per-channel" if w_scale.ndim and w_scale.size > 1 else "per-tensor"
        row["w_scale"] = f"{w_scale.min():.6g}"
        if row["scales"] == "per-channel":
            row["w_scale"] += f" ... {w_scale.max():.6g}"
        zeros = args["w_zero_point"], args["x_zero_point"].dtype, args["x_zero_point"]
        low, high = qc.accumulator_range(w, *zeros, args.get("B"))
        row["bits"] = ar.signed_bits(int(low.min()), int(high.max()))
    return row


def validate(args: argparse.Namespace) -> int:
    """Check every supported node alone, and the whole graph, against ONNX Runtime."""
    model = read_model(args.model)
    x = read_input(model, args.input)
    theirs = tensors(model, x)
    nodes = [model.node(args.node)] if args.node else list(model.nodes)
    known = [n for n in nodes if (n.domain, n.op_type) in OPERATORS]
    if all(n.op_type == "Flatten" for n in known):
        names = ", ".join(sorted({n.op_type for n in nodes}))
        raise UnusableInput(
            f"{args.model}: no quantized operator that is supported (it has {names})"
        )
    alone = [_check(model, node, theirs) for node in known]
    whole: list[TensorCheck] = []
    if not args.node and len(known) == len(nodes):
        whole = compare(model, x, theirs)
    wrong = [c for c in (*alone, *whole) if c.mismatches]
    if args.json:
        record = {
            "model": str(args.model),
            "passed": not wrong,
            "nodes": [asdict(c) for c in alone],
            "whole_graph": [asdict(c) for c in whole],
            "skipped": [n.name for n in nodes if n not in known],
        }
        print(json.dumps(record, indent=2))
        return int(bool(wrong))
    print(table([
        {"tensor": c.tensor, "operator": c.op_type, "elements": c.elements,
         "mismatches": c.mismatches, "first mismatch": c.first_mismatch} for c in alone
    ]))  # fmt: skip
    for node in nodes:
        if node not in known:
            print(f"skipped: {node.name} ({node.op_type} is not supported)")
    if whole:
        bad = sum(c.mismatches for c in whole)
        print(f"whole graph: {bad} of {sum(c.elements for c in whole)} elements differ")
    elif not args.node:
        print("whole graph: not run, since some operators are not supported")
    print("PASS ✓ (exact match)" if not wrong else f"FAIL ✗ ({len(wrong)} tensors differ)")
    return int(bool(wrong))


def _check(model: Model, node: Node, theirs: dict) -> TensorCheck:
    y = compute(model, node, theirs)
    return check_tensor(node.outputs[0], node.op_type, y, theirs[node.outputs[0]])


def explain(args: argparse.Namespace) -> int:
    """Work out one output element of a QLinearConv, step by step."""
    model = read_model(args.model)
    nodes = convolutions(model)
    node = model.node(args.node) if args.node else nodes[0]
    if node not in nodes:
        raise UnusableInput(
            f"{args.model}: node {node.name} is a {node.op_type}, not a QLinearConv"
        )
    values = tensors(model, read_input(model, args.input))
    x, y = values[node.inputs[0]], values[node.outputs[0]]
    at = tuple(args.pixel) if args.pixel else (0,) * (y.ndim - 2)
    limits = (y.shape[1], *y.shape[2:])
    if len(at) != y.ndim - 2 or not all(
        0 <= v < n for v, n in zip((args.channel, *at), limits, strict=False)
    ):
        raise UnusableInput(f"channel {args.channel}, pixel {at}: y has shape {y.shape}")
    arguments = conv_arguments(model, node)
    element = worked.work(x, arguments, node.attributes, 0, args.channel, at)
    theirs = y[(0, args.channel, *at)]
    rows = _explained(node, arguments, element, args.channel, at, theirs)
    print(rows if not args.markdown else _markdown(rows))
    return int(element.y != theirs)


def _explained(node, arguments, element, channel, at, theirs) -> str:
    constants = [{"input": k, "value": describe(v)} for k, v in arguments.items() if k != "w"]
    by_channel = element.products.reshape(len(element.products), -1).sum(axis=1)
    taps = element.products[0].size
    sums = [
        {"input channel": c, f"sum of {taps} products": int(s), "running sum": int(r)}
        for c, (s, r) in enumerate(zip(by_channel, by_channel.cumsum(), strict=True))
    ]
    steps = [
        {"step": name, "value": str(value), "dtype": np.asarray(value).dtype.name}
        for name, value in element.requantization()
    ]
    verdict = "equal" if element.y == theirs else "DIFFERENT"
    first = "\n".join(
        f"{name} of the first input channel:\n{array[0]}"
        for name, array in (
            ("x - x_zero_point", element.x_terms),
            ("w - w_zero_point", element.w_terms),
            ("products", element.products),
        )
    )
    return "\n\n".join([
        f"{node.name}: output channel {channel}, position {at}", table(constants), first,
        table(sums), table(steps), f"ONNX Runtime: {theirs} ({verdict})",
    ])  # fmt: skip


def _markdown(text: str) -> str:
    title, *parts = text.split("\n\n")
    return f"## {title}\n\n" + "\n\n".join(f"```\n{part}\n```" for part in parts)


def write_vectors(args: argparse.Namespace) -> int:
    """Write golden vectors of the QLinearConv layers for sample images."""
    model = read_model(args.model)
    nodes = convolutions(model)
    if args.node:
        nodes = [n for n in nodes if n.name == args.node] or [model.node(args.node)]
        if nodes[0].op_type != "QLinearConv":
            raise UnusableInput(f"{args.model}: node {args.node} is not a QLinearConv")
    if args.input:
        images = read_input(model, args.input)
    else:
        ((_, (dtype, shape)),) = model.inputs.items()
        if tuple(shape[1:]) != (3, 32, 32):
            raise UnusableInput(f"{args.model}: input has shape {shape}; give --input FILE")
        samples = load_samples()[0]
        if not 1 <= args.images <= len(samples):
            raise UnusableInput(f"--images is {args.images}: 1 to {len(samples)}")
        images = samples[: args.images].astype(dtype)
    manifest = vectors.write(model, images, args.out, nodes)
    count = len(manifest["sha256"])
    print(f"wrote {args.out}: {len(nodes)} layers, {len(images)} images, {count} files")
    return 0


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m qlinear", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function, name: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        made.add_argument("model", type=Path, help="ONNX model in QOperator or QDQ form")
        made.set_defaults(function=function)
        return made

    one = command(inspect, "inspect")
    one.add_argument("--json", action="store_true", help="print JSON")
    one = command(validate, "validate")
    one.add_argument("--node", help="check this node alone")
    one.add_argument("--input", type=Path, help="an image or .npy file (default: a sample)")
    one.add_argument("--json", action="store_true", help="print JSON")
    one = command(explain, "explain")
    one.add_argument("--node", help="a QLinearConv node (default: the first)")
    one.add_argument("--pixel", type=numbers, metavar="Y,X", help="output position (default: 0,0)")
    one.add_argument("--channel", type=int, default=0, help="output channel")
    one.add_argument("--input", type=Path, help="an image or .npy file (default: a sample)")
    one.add_argument("--markdown", action="store_true", help="print Markdown")
    one = command(write_vectors, "vectors")
    one.add_argument("--out", type=Path, required=True, help="folder to make")
    one.add_argument("--node", help="one layer (default: all)")
    one.add_argument("--images", type=int, default=1, help="how many sample images, 1 to 20")
    one.add_argument("--input", type=Path, help="an image or .npy file instead of samples")
    args = parser.parse_args()
    return args.function(args)


if __name__ == "__main__":
    run_command(main)
