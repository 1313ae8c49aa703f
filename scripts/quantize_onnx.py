#!/usr/bin/env python3
"""Quantize models/resnet8.onnx into the book's four INT8 models.

    python scripts/quantize_onnx.py --data-dir DIR   # calibrate on CIFAR-10, then quantize
    python scripts/quantize_onnx.py                  # from the committed calibration, no data

Writes resnet8_int8_per_tensor.onnx, resnet8_int8_per_channel.onnx, resnet8_uint8.onnx and
resnet8_int8.onnx (each layer per-tensor or per-channel by what it gains), and with --data-dir also
calibration.json (the range of every tensor) and layer_noise.json (the gain of every layer).
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qlinear import quantize as q
from qlinear.cifar10 import load_cifar10
from qlinear.errors import UnusableInput, run_command
from qlinear.onnx_model import from_proto, load

SEED, IMAGES = 0, 1000


def run(models: Path, out: Path, data_dir: Path | None) -> None:
    float_path = models / "resnet8.onnx"
    ranges, noise_path = out / "calibration.json", out / "layer_noise.json"
    load(float_path)
    if data_dir:
        images, labels = load_cifar10(data_dir, "train")
        images = images[q.stratified(labels, IMAGES, SEED)]
        q.calibrate(float_path, images, ranges)
    for path in (ranges, noise_path):
        if not data_dir and not path.exists():
            raise UnusableInput(f"{path}: no such file; calibrate with --data-dir DIR")

    made = q.build(float_path, ranges)
    pair = [from_proto(made[name], name) for name in (q.PER_TENSOR, q.PER_CHANNEL)]
    if data_dir:
        found = q.layer_noise(load(float_path), *pair, images)
        record = {
            "images": IMAGES,
            "seed": SEED,
            "threshold_db": q.GAIN_DB,
            "layers": [asdict(layer) for layer in found],
        }
        noise_path.write_text(json.dumps(record, indent=1) + "\n")
    layers = [q.LayerNoise(**layer) for layer in json.loads(noise_path.read_text())["layers"]]
    made[q.MIXED] = q.mix(*pair, {layer.layer for layer in layers if layer.per_channel})

    for name, proto in made.items():
        partial = out / f"{name}.partial"
        partial.write_bytes(proto.SerializeToString(deterministic=True))
        partial.replace(out / name)
        print(f"wrote {out / name}")
    for layer in layers:
        kind = "per-channel" if layer.per_channel else "per-tensor"
        print(f"  {layer.layer:22} {layer.gain_db:+5.2f} dB  {kind}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="CIFAR-10 folder; without it, reuse ranges")
    parser.add_argument(
        "--models", type=Path, default=Path("models"), help="folder of resnet8.onnx"
    )
    parser.add_argument("--out", type=Path, help="folder to write to (default: --models)")
    args = parser.parse_args()
    run(args.models, args.out or args.models, args.data_dir)


if __name__ == "__main__":
    run_command(main)
