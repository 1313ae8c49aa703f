"""What cheaper arithmetic costs: accuracy of the book's network under each, on CIFAR-10.

    python scripts/hardware.py --data-dir DIR

Writes models/hardware.json, which chapters 6 to 8 quote: accumulator widths, requantization in
integers, and bit widths. It is a study as ``qlinear study`` makes it, of the settings in
study/hardware.toml and of the network quantized anew with fewer bits, on all 10,000 test images
unless --images asks for fewer. Each row says how many right answers of the exact network it lost,
and how many it gained. Takes about half an hour on two cores; what is finished is kept in --work,
so that a run that was stopped goes on.
"""

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from tqdm import tqdm

from qlinear.files import write_text
from qlinear.hardware import requantizers
from qlinear.onnx_model import Model, load, with_constants
from qlinear.studies import settings, study, workers
from qlinear.studies.settings import EXACT, FILES, Setting
from qlinear.studies.study import Data, Row
from study import bit_widths, quantize
from study.cifar10 import load_cifar10, options, settled
from study.provenance import recorded

BATCH = 50
COMPARED = 200  # images on which elements are counted
SETTINGS = Path(__file__).with_name("hardware.toml")
WIDTHS = range(4, 9)


def narrower(folder: Path, models: Path) -> Iterator[tuple[dict, Setting]]:
    """4 to 8 bits for weights and activations, as files, with what the record says of each."""
    ranges = bit_widths.read_ranges(models / "calibration.json")
    floats, base = load(models / "resnet8.onnx"), load(models / quantize.PER_TENSOR)
    folder.mkdir(parents=True, exist_ok=True)
    for per_channel in (False, True):
        for w_bits in WIDTHS:
            for x_bits in WIDTHS:
                other = bit_widths.at_widths(base, floats, ranges, w_bits, x_bits, per_channel)
                path = folder / f"{'own' if per_channel else 'one'}_w{w_bits}_x{x_bits}.onnx"
                onnx.save(with_constants(base, other.constants), path)
                said = {"per_channel": per_channel, "w_bits": w_bits, "x_bits": x_bits}
                yield said, files_setting(path, x_bits)


def files_setting(path: Path, x_bits: int) -> Setting:
    content = {FILES: {"file": path.name, "saturate": x_bits}}
    return settings.settled(content, path)[0]


def accumulators(row: Row) -> dict:
    return {"bits": row.setting["bits"], "how": row.setting["how"], **right(row)}


def requantization(row: Row) -> dict:
    said = {key: row.setting[key] for key in ("multiplier_bits", "rounding")}
    return {**said, **right(row), "differing": row.differing}


def order(setting: Setting) -> tuple:
    """The record's order: roundings of a multiplier side by side."""
    first = list(settings.KEYS).index(setting.section)
    if setting.section == "requantization":
        rounding = requantizers.ROUNDINGS.index(setting["rounding"])
        return first, setting["multiplier_bits"], rounding
    return (first,)


def right(row: Row) -> dict:
    """The share of right answers; and of the exact network's how many are lost, and how many new.

    The images are the same, so the last two give the standard error of the difference.
    """
    share = round(row.counts["right"] / row.counts["images"], 4)
    return {"accuracy": share, "lost": row.counts["lost"], "gained": row.counts["gained"]}


def bounds(model: Model) -> dict[str, list[int]]:
    """What each layer's register must hold, over all its channels."""
    found = {}
    for node in quantize.layers(model):
        low, high = quantize.layer(model, node).register_range()
        found[node.name] = [int(low.min()), int(high.max())]
    return found


def bar(results: Iterable, title: str, total: int, done: int) -> Iterable:
    with tqdm(desc=title, total=total, initial=done, unit="task") as shown:
        for result in results:
            yield result
            shown.update()


def measured(args: argparse.Namespace, model: Model, data: Data, asked: list[Setting]) -> list[Row]:
    plan = study.plan(model, data, asked, batch=BATCH, compared=COMPARED)
    processes = args.workers
    if processes is None:
        processes = os.cpu_count() or 1 if workers.there() else 0
    return study.run(plan, args.work, processes=processes, scheduler=args.scheduler, progress=bar)


def main(argv: list[str] | None = None) -> None:
    parser = options(__doc__, record="hardware.json")
    parser.add_argument("--work", type=Path, default=Path("_build/hardware"),
                        help="folder of what is finished (default: %(default)s)")  # fmt: skip
    parser.add_argument("--workers", type=int, help="processes (default: one a core, with Dask)")
    parser.add_argument("--scheduler", default="", help="address of a Dask cluster")
    args = parser.parse_args(argv)
    out = settled(args, record="hardware.json")
    model = load(args.models / quantize.MIXED)
    images, labels = (part[: args.images] for part in load_cifar10(args.data_dir, "test"))
    data = Data(args.data_note, {next(iter(model.inputs)): images}, labels.astype(np.int64))
    plain = sorted(settings.read(SETTINGS), key=order)
    widths = list(narrower(args.work.with_name(f"{args.work.name}-models"), args.models))
    asked = [*plain, *(setting for _, setting in widths)]
    rows = measured(args, model, data, asked)
    exact = next(row for row in rows if row.setting.section == EXACT)
    by_key = {row.setting.key: row for row in rows}
    record: dict = {
        "recorded": recorded(
            "scripts/hardware.py",
            [args.models / quantize.MIXED, args.models / quantize.PER_TENSOR],
            images,
            labels,
            note=args.data_note,
            batch=BATCH,
        ),
        "images": len(images),
        "exact": right(exact)["accuracy"],
        "bounds": bounds(model),
    }
    for section, made in (("accumulators", accumulators), ("requantization", requantization)):
        record[section] = [made(row) for row in rows if row.setting.section == section]
    record["bit_widths"] = [{**said, **right(by_key[s.key])} for said, s in widths]
    write_text(out, json.dumps(record, indent=1) + "\n")
    print(f"wrote {out}")
