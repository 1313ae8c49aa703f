#!/usr/bin/env python3
"""Quantize models/resnet8.onnx into the book's four INT8 models.

    python scripts/quantize_onnx.py --data-dir DIR   # calibrate on CIFAR-10, then quantize
    python scripts/quantize_onnx.py                  # from the committed calibration, no data

Writes resnet8_int8_per_tensor.onnx, resnet8_int8_per_channel.onnx, resnet8_uint8.onnx and
resnet8_int8.onnx (each layer per-tensor or per-channel by what it gains), and with --data-dir also
calibration.json (the range of every tensor) and layer_noise.json (the gain of every layer).
"""

import argparse
from pathlib import Path

from qlinear.errors import run_command
from study.quantize import remake


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="CIFAR-10 folder; without it, reuse ranges")
    parser.add_argument(
        "--models", type=Path, default=Path("models"), help="folder of resnet8.onnx"
    )
    parser.add_argument("--out", type=Path, help="folder to write to (default: --models)")
    args = parser.parse_args(argv)
    remake(args.models, args.out or args.models, args.data_dir)


if __name__ == "__main__":
    run_command(main)
