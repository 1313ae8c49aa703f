"""Which mapping, which converter, at what price: the book's network on analog arrays, on CIFAR-10.

    python scripts/analog.py --data-dir DIR

Writes models/analog.json, which chapter 9 quotes: the accuracy of each mapping under each error of
its cells, with ideal converters, and accuracy beside cost for converters and published designs.
Nothing is retrained. Two hundred test images unless --images says otherwise, and three chips where
something is drawn; some ten minutes on two free cores.
"""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

# one setting a core: faster than one matrix product on all of them
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from tqdm import tqdm

from qlinear.engine import run
from qlinear.files import write_text
from qlinear.hardware import analog, cost, designs, devices, variants
from qlinear.hardware.analog import Array
from qlinear.hardware.converters import Converter
from qlinear.hardware.devices import DAY, Device
from qlinear.inputs import load_samples
from qlinear.onnx_model import Model, load
from qlinear.operators import OPERATORS
from study.cifar10 import load_cifar10, options, settled
from study.provenance import recorded
from study.quantize import MIXED

BATCH = 25
CHIPS = 3

ERRORS = {
    "independent, 5%": Device(devices.INDEPENDENT, sigma=0.05),
    "proportional, 5%": Device(devices.PROPORTIONAL, sigma=0.05),
    "phase change": Device(devices.PCM, on_off=100),
    "phase change, a day": Device(devices.PCM, on_off=100, seconds=DAY),
    "RRAM": Device(devices.RRAM),
    "wire": Device(on_off=100, wire=5e-5),
}
# ideal converters make digits of an input one sum, so a single digit gives the same numbers
ONE_DIGIT = dict(dac_bits=8, coding=analog.PULSE_WIDTH)
MAPPINGS = {
    "offset, 4 cells": Array(**ONE_DIGIT),
    "offset, flipped, 4 cells": Array(mapping=analog.FLIPPED, **ONE_DIGIT),
    "pair, 4 cells a side": Array(mapping=analog.PAIR, **ONE_DIGIT),
    "offset, 1 cell": Array(cell_bits=8, **ONE_DIGIT),
    "pair, 1 cell a side": Array(mapping=analog.PAIR, cell_bits=8, **ONE_DIGIT),
}
SLICED = Array(adc=Converter(9, shared=128))
ONCE = Array(rows=128, cell_bits=8, mapping=analog.PAIR, accumulate=True)


@dataclass(frozen=True)
class Setting:
    """An array, whether its converters' ranges are calibrated, and how many chips are measured."""

    name: str
    array: Array
    calibrated: bool = False
    chips: int = 1


def converters() -> Iterator[Setting]:
    """Converters and designs; ranges are calibrated where the paper or the mapping asks for it."""
    for bits in (9, 8, 7, 6):
        adc = Converter(bits, top=float((1 << bits) - 1), shared=128)
        yield Setting(f"bit-serial, {bits} bits, clipping", replace(SLICED, adc=adc))
    yield Setting("bit-serial, 8 bits, coarser", replace(SLICED, adc=Converter(8, shared=128)))
    yield Setting("ISAAC", designs.ISAAC)
    for bits in (7, 6):
        adc = replace(designs.ISAAC.adc, bits=bits)
        yield Setting(f"ISAAC, {bits} bits, clipping", replace(
            designs.ISAAC, adc=replace(adc, top=float((1 << bits) - 1))))  # fmt: skip
    for bits in (6, 8, 10):
        adc = replace(designs.PRIME.adc, bits=bits)
        yield Setting(f"PRIME, {bits} bits", replace(designs.PRIME, adc=adc), calibrated=True)
    for bits in (8, 10, 12):
        once = replace(ONCE, adc=Converter(bits))
        yield Setting(f"one conversion, {bits} bits", once, calibrated=True)
    yield Setting("SRAM, 2304 rows", designs.SRAM)
    few = replace(designs.SRAM, rows=255, adc=Converter(8))
    yield Setting("SRAM, at most 255 rows on", few)
    perfect = replace(designs.PCM_CORE, device=Device())
    yield Setting("PCM core, perfect cells", perfect, calibrated=True)
    yield Setting("PCM core", designs.PCM_CORE, calibrated=True, chips=CHIPS)


def mappings() -> Iterator[tuple[str, str, Setting]]:
    """Every mapping under every error of its cells."""
    for error, device in ERRORS.items():
        chips = CHIPS if device.programming else 1
        for mapping, array in MAPPINGS.items():
            yield mapping, error, Setting("", replace(array, device=device), chips=chips)


def arrays_of(model: Model, setting: Setting) -> dict[str, Array]:
    """The array of each layer; the package's own 20 images calibrate, which no result is of."""
    names = variants.weighted(model)
    if not setting.calibrated:
        return dict.fromkeys(names, setting.array)
    exact = run(model, load_samples()[0].astype(np.float32))
    perfect = analog.ideal(setting.array)
    found = variants.calibrated(model, exact, perfect)
    tops = {name: array.adc.top for name, array in found.items()}
    adc = setting.array.adc
    return {n: replace(setting.array, adc=replace(adc, top=top)) for n, top in tops.items()}


def score(model: Model, operators: dict, images: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy with another operator table."""
    hits = 0
    for start in range(0, len(images), BATCH):
        x = images[start : start + BATCH].astype(np.float32)
        logits = run(model, x, operators)["logits"]
        hits += int((logits.argmax(1) == labels[start : start + len(x)]).sum())
    return round(hits / len(images), 4)


def accuracy(model: Model, setting: Setting, images: np.ndarray, labels: np.ndarray) -> list[float]:
    """Of each chip."""
    found, first = [], arrays_of(model, setting)
    for chip in range(setting.chips):
        arrays = {name: replace(array, seed=chip) for name, array in first.items()}
        rng = np.random.default_rng(chip)
        operators = variants.operators_on_arrays(model, arrays, rng)
        found.append(score(model, operators, images, labels))
    return found


def price(model: Model, setting: Setting) -> dict:
    """What one image takes."""
    values = run(model, load_samples()[0][:1].astype(np.float32))
    arrays = dict.fromkeys(variants.weighted(model), setting.array)
    whole = cost.total(cost.network_cost(model, values, arrays))
    return {
        "adc_bits": setting.array.adc.bits,
        "crossbars": whole.crossbars,
        "cells_used": whole.used,
        "conversions": whole.conversions,
        "macs_per_conversion": round(whole.macs_per_conversion, 2),
        "microseconds": round(whole.seconds * 1e6, 1),
        "microjoules": round(whole.joules * 1e6, 3),
        "adc_share": round(whole.adc_joules / whole.joules, 3),
        "square_millimetres": round(whole.area, 4),
    }


def main(argv: list[str] | None = None) -> None:
    parser = options(__doc__, record="analog.json", images=200)
    args = parser.parse_args(argv)
    out = settled(args, record="analog.json")
    model = load(args.models / MIXED)
    images, labels = (part[: args.images] for part in load_cifar10(args.data_dir, "test"))
    measured = partial(accuracy, model, images=images, labels=labels)
    work: list[tuple[str, Callable[[], dict]]] = []
    for mapping, error, setting in mappings():
        head = {"mapping": mapping, "error": error}
        work.append(("mappings", lambda h=head, s=setting: h | {"accuracy": measured(s)}))
    for setting in converters():
        work.append(
            (
                "converters",
                lambda s=setting: {"setting": s.name} | price(model, s) | {"accuracy": measured(s)},
            )
        )
    record: dict = {
        "recorded": recorded(
            "scripts/analog.py",
            [args.models / MIXED],
            images,
            labels,
            note=args.data_note,
            batch=BATCH,
        ),
        "images": len(images),
        "exact": score(model, OPERATORS, images, labels),
        "mappings": [],
        "converters": [],
    }
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(lambda one: (one[0], one[1]()), work)
        for kind, row in tqdm(done, total=len(work), unit="setting"):
            record[kind].append(row)
    write_text(out, json.dumps(record, indent=1) + "\n")
    print(f"wrote {out}")
