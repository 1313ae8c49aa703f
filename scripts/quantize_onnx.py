#!/usr/bin/env python3
r"""Quantize models/resnet8.onnx into the book's four INT8 models, or MobileNet into its three.

    python scripts/quantize_onnx.py --data-dir DIR   # calibrate on CIFAR-10, then quantize
    python scripts/quantize_onnx.py                  # from the committed calibration, no data
    python scripts/quantize_onnx.py --model models/resnet8.onnx \\
        --output-int8 models/resnet8_int8.onnx --data-dir DIR      # the same, with names
    python scripts/quantize_onnx.py --network mobilenet [--data-dir DIR]

For ResNet8 it writes resnet8_int8_per_tensor.onnx, resnet8_int8_per_channel.onnx,
resnet8_uint8.onnx and resnet8_int8.onnx (each layer per-tensor or per-channel by what it gains),
and with --data-dir also calibration.json (the range of every tensor) and layer_noise.json (the gain
of every layer). For MobileNet it writes mobilenet_int8_per_tensor.onnx,
mobilenet_int8_per_channel.onnx and mobilenet_int8_equalized.onnx (ReLU for ReLU6, per-tensor,
ranges equalized across layers), and with --data-dir also mobilenet_calibration.json and
mobilenet_equalized_calibration.json.
"""

import argparse
from pathlib import Path

from qlinear.errors import UnusableInput, run_command
from study.quantize import MIXED, PER_CHANNEL, PER_TENSOR, UINT8, remake, remake_mobilenet


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="CIFAR-10 folder; without it, reuse ranges")
    parser.add_argument("--network", choices=("resnet8", "mobilenet"), default="resnet8")
    parser.add_argument(
        "--models", type=Path, default=Path("models"), help="folder of the float model"
    )
    parser.add_argument("--model", type=Path, help="the float model (default: in --models)")
    parser.add_argument("--out", type=Path, help="folder to write to (default: the model's)")
    parser.add_argument(
        "--output-int8",
        type=Path,
        help="resnet8: the book's model; the others are written beside it",
    )
    args = parser.parse_args(argv)
    if args.out and args.output_int8 and args.output_int8.parent != args.out:
        raise UnusableInput(f"{args.output_int8}: not in --out {args.out}; give one of the two")
    model = args.model or args.models / f"{args.network}.onnx"
    if args.network == "mobilenet":
        if args.output_int8:
            raise UnusableInput("--output-int8 is for resnet8; mobilenet takes --out FOLDER")
        remake_mobilenet(model, args.out or model.parent, args.data_dir)
        return
    out = args.output_int8.parent if args.output_int8 else args.out or model.parent
    name = args.output_int8.name if args.output_int8 else MIXED
    if name in (PER_TENSOR, PER_CHANNEL, UINT8, model.name):
        raise UnusableInput(f"{args.output_int8}: the name of another model; choose one")
    remake(model, out, args.data_dir, name)


if __name__ == "__main__":
    run_command(main)
