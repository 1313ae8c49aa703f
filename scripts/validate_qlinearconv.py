#!/usr/bin/env python3
"""Compute a model's QLinearConv nodes in NumPy and compare them with ONNX Runtime.

    python scripts/validate_qlinearconv.py models/resnet8_int8.onnx
    python scripts/validate_qlinearconv.py MODEL --node NAME --input image.png
    python scripts/validate_qlinearconv.py MODEL --all --json

Every element must be equal. Exit status: 0 equal, 1 different, 2 unusable input.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qlinear import validate as v
from qlinear.errors import UnusableInput, run_command
from qlinear.inputs import read_input
from qlinear.onnx_model import load


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a quantized ONNX model in QOperator form")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--node", help="name of the node to check (default: the first)")
    which.add_argument("--all", action="store_true", help="check every QLinearConv node")
    parser.add_argument("--input", type=Path, help="an image or .npy file (default: a sample)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = parser.parse_args(argv)

    model = load(args.model)
    nodes = v.convolutions(model)
    if args.node:
        nodes = [node for node in nodes if node.name == args.node]
        if not nodes:
            names = ", ".join(node.name for node in v.convolutions(model))
            raise UnusableInput(
                f"{args.model}: no QLinearConv node named {args.node!r}; there are {names}"
            )
    elif not args.all:
        nodes = nodes[:1]
    checks = v.validate(model, nodes, read_input(model, args.input))

    if args.json:
        print(v.report_json(model, checks))
    else:
        print(f"Loading model: {args.model}")
        print("\n\n".join(v.report(model, *pair) for pair in zip(nodes, checks, strict=True)))
    return 0 if all(check.passed for check in checks) else 1


if __name__ == "__main__":
    run_command(main)
