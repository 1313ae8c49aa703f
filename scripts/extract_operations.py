#!/usr/bin/env python3
"""Write every node of a model, with its scales, zero points, types and shapes, as JSON.

    python scripts/extract_operations.py --model models/resnet8_int8.onnx --output FILE
    python scripts/extract_operations.py MODEL

The second writes MODEL_operations.json beside the model; models/operations.schema.json describes
the format. One line of jq answers what is asked most often:

    jq .scales FILE        jq .zero_points FILE        jq .quantization FILE
"""

import argparse
import json
from pathlib import Path

from qlinear.describe import extract
from qlinear.errors import Parser, UnusableInput, printable, run_command
from qlinear.files import check_apart, write_text
from qlinear.onnx_model import load


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path("models/resnet8_int8.onnx")
    parser.add_argument("positional", type=Path, nargs="?", metavar="MODEL", help="ONNX model")
    parser.add_argument("--model", type=Path, help="the same, by name")
    parser.add_argument("--output", "--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    if args.positional and args.model:
        raise UnusableInput(f"{args.positional} and {args.model}: name one model")
    model = args.model or args.positional or default
    out = args.output or model.with_name(f"{model.stem}_operations.json")
    check_apart(out, [model])
    write_text(out, json.dumps(extract(load(model)), indent=1, allow_nan=False) + "\n")
    print(printable(f"wrote {out}"))


if __name__ == "__main__":
    run_command(main)
