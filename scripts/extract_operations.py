#!/usr/bin/env python3
"""Write every node of a model, with the values of its scales and zero points, as JSON.

    python scripts/extract_operations.py models/resnet8_int8.onnx

writes models/resnet8_int8_operations.json; models/operations.schema.json describes the format.
"""

import argparse
import json
from pathlib import Path

from qlinear.describe import extract
from qlinear.errors import run_command
from qlinear.onnx_model import load


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model",
        type=Path,
        nargs="?",
        default=Path("models/resnet8_int8.onnx"),
        help="ONNX model",
    )
    parser.add_argument("--out", type=Path, help="JSON file (default: MODEL_operations.json)")
    args = parser.parse_args(argv)
    out = args.out or args.model.with_name(f"{args.model.stem}_operations.json")
    text = json.dumps(extract(load(args.model)), indent=1) + "\n"
    partial = out.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(out)
    print(f"wrote {out}")


if __name__ == "__main__":
    run_command(main)
