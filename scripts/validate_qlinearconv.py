#!/usr/bin/env python3
"""Compute a model's QLinearConv nodes in NumPy and compare them with ONNX Runtime.

    python scripts/validate_qlinearconv.py models/resnet8_int8.onnx
    python scripts/validate_qlinearconv.py MODEL --node NAME --input image.png
    python scripts/validate_qlinearconv.py MODEL --all --json

Every element must be equal. The verdict is on the node that is named (the first by default), or
with --all on all QLinearConv nodes; for one on the whole model see: qlinear validate.
Exit status: 0 equal, 1 different, 2 unusable input. Needs numpy, onnx and onnxruntime only.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing

from qlinear import describe, oracle
from qlinear.errors import Parser, UnusableInput, printable, run_command
from qlinear.inputs import read_feeds
from qlinear.onnx_model import load
from qlinear.operators.qlinear_conv import Conv
from qlinear.validate import Checked, check_nodes

PARAMETERS = "x_scale x_zero_point w_scale w_zero_point y_scale y_zero_point".split()


def report(conv: Conv, check: Checked) -> str:
    """The text for one node, in the shape that the book documents."""
    x, (comparison,) = check.values[check.node.inputs[0]], check.comparisons
    lines = [f"Found QLinearConv node: {printable(check.node.name)}", "", "Input parameters:"]
    lines += [f"  {name}: {describe.value(getattr(conv, name))}" for name in PARAMETERS]
    lines += ["", "Manual computation:"]
    lines += [f"  Input shape: {x.shape}", f"  Output shape: {comparison.shape}", ""]
    if comparison.equal:
        lines += ["Validation result: PASS ✓", "  Max difference: 0 (exact match)"]
    else:
        first = comparison.first
        lines += [
            "Validation result: FAIL ✗",
            f"  Max difference: {comparison.max_difference}",
            f"  Mismatches: {comparison.mismatches} of {comparison.elements} elements",
            f"  First at {first.index}: computed {first.ours}, ONNX Runtime has {first.ort}",
        ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a quantized ONNX model")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--node", help="name of the node to check (default: the first)")
    which.add_argument("--all", action="store_true", help="check every QLinearConv node")
    parser.add_argument(
        "--input", action="append", default=[], metavar="[NAME=]FILE",
        help="an image, .npy or .npz file (default: a sample image, or seeded random values)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = parser.parse_args(argv)

    model = load(args.model)
    feed, *_ = read_feeds(model, args.input)
    network = oracle.settle(model, feed.values)
    nodes = [n for n in network.graph.of_type("QLinearConv") if not n.domain]
    if not nodes:
        kinds = ", ".join(sorted({n.operator for n in network.graph.nodes})) or "none"
        raise UnusableInput(f"{args.model}: no QLinearConv node (ONNX Runtime runs {kinds})")
    if args.node:
        node = network.node(args.node)
        if node not in nodes:
            raise UnusableInput(f"{args.model}: node {node.name} is a {node.operator}")
        nodes = [node]
    elif not args.all:
        nodes = nodes[:1]
    checks = list(check_nodes(network, nodes, feed))
    convs = [network.graph.conv(node) for node in nodes]
    passed = all(check.equal for check in checks)
    if args.json:
        rows = [
            {
                **check.comparisons[0].as_json(),
                "parameters": {name: getattr(conv, name).tolist() for name in PARAMETERS},
            }
            for conv, check in zip(convs, checks, strict=True)
        ]
        record = {"model": str(args.model), "passed": passed, "input": feed.source, "nodes": rows}
        print(json.dumps(record, indent=2))
    else:
        text = "\n\n".join(report(*pair) for pair in zip(convs, checks, strict=True))
        print(f"Loading model: {printable(str(args.model))}\n{text}")
    return 0 if passed else 1


if __name__ == "__main__":
    run_command(main)
