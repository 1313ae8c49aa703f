#!/usr/bin/env python3
"""Time the reference beside ONNX Runtime and onnx.reference, in one run; print and record it.

    python scripts/benchmark.py

The committed networks by batch, with one thread each and with all cores; their convolutions beside
onnx.reference's; one layer on analog arrays, plainly and fast; a ResNet50 with random weights for
several sizes of its image; and what `qlinear validate` takes, with its peak memory. Takes minutes.
Writes models/benchmark.json, unless --out names another file. Other programs make the clock lie, so
the time of the cores is recorded too.
"""

import argparse
import json
import logging
import tempfile
from pathlib import Path

from tqdm import tqdm

from qlinear.errors import UnusableInput, run_command
from qlinear.files import check_apart, write_text
from study.benchmark import Layers, Run, Sums, as_json, machine, measure
from study.provenance import recorded

MODELS = Path("models/resnet8_int8.onnx"), Path("models/resnet8_uint8.onnx")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models",
        type=Path,
        nargs="*",
        default=MODELS,
        help="QOperator networks of 32x32 images (default: the int8 and the uint8 one)",
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 100], metavar="N")
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 96, 128, 160, 224],
                        metavar="PIXELS", help="of the images of the ResNet50")  # fmt: skip
    parser.add_argument(
        "--width", type=int, default=64, help="of the ResNet50; 64 is the usual one"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="for each pair of timings")
    parser.add_argument("--out", type=Path, default=Path("models/benchmark.json"))
    args = parser.parse_args(argv)
    for name, given in (("batch", args.batch), ("sides", args.sides), ("width", [args.width])):
        if min(given) < 1:
            raise UnusableInput(f"--{name} is {min(given)}: at least 1 needed")
    if not 0 <= args.seconds < float("inf"):
        raise UnusableInput(f"--seconds is {args.seconds:g}: a finite number, at least 0, needed")
    check_apart(args.out, list(args.models))
    if not args.out.parent.is_dir():  # minutes later it would be a pity
        raise UnusableInput(f"{args.out}: there is no folder {args.out.parent}")
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer's advice
    before, found = machine(), []
    with tempfile.TemporaryDirectory() as folder:
        rounds = measure(
            list(args.models), args.batch, args.sides, args.width, args.seconds, Path(folder)
        )
        for one in tqdm(rounds, "measuring", unit="measurement", disable=None):
            found.append(one)
            tqdm.write(line(one))
    source = recorded("scripts/benchmark.py", list(args.models), seconds=args.seconds, **before)
    record = {"recorded": source, **as_json(found)}
    write_text(args.out, json.dumps(record, indent=1) + "\n")
    print(f"wrote {args.out}")


def line(one) -> str:
    """A measurement in one line."""
    if isinstance(one, Run):
        what = f"{one.model}, {one.image}, batch {one.batch}, {one.threads} threads"
        return (
            f"{what}: ours {one.ours:.2f} ms, ONNX Runtime {one.ort:.2f} ms: {one.ratio:.2f} x; "
            f"time of cores {one.cpu_ratio:.2f} x"
        )
    if isinstance(one, Layers):
        what = f"{one.model}, {one.layers} convolutions, batch {one.batch}, {one.threads} threads"
        return (
            f"{what}: ours {one.ours:.2f} ms, onnx.reference {one.reference:.0f} ms: "
            f"{one.times:.0f} x as fast; time of cores {one.cpu_times:.0f} x"
        )
    if isinstance(one, Sums):
        what = f"{one.layer} on arrays, {one.array}, batch {one.batch}, {one.threads} threads"
        return (
            f"{what}: fast {one.fast:.2f} ms, plain {one.plain:.1f} ms: {one.times:.1f} x as fast; "
            f"time of cores {one.cpu_times:.1f} x"
        )
    return (
        f"qlinear validate {one.model}, {one.image}: {one.verdict}, {one.elements:,} elements, "
        f"{one.seconds:.1f} s, of cores {one.cpu_seconds:.1f} s, {one.megabytes:.0f} MB"
    )


if __name__ == "__main__":
    run_command(main)
