"""Which mapping, which converter, at what price: the book's network on analog arrays, on CIFAR-10.

    python scripts/analog.py --data-dir DIR [--cache FOLDER]

Writes models/analog.json, which chapter 9 quotes: the accuracy under converters of fewer bits and
under plain noises, of each mapping under each error of its cells with ideal converters, and beside
cost for converters and published designs. Nothing is retrained. All 10,000 test images, and five
chips or seeds where something is drawn, with standard errors; an hour and a half on two free cores.
Where cells are drawn, so that each has a conductance of its own, --noisy-images takes fewer. With
--cache what was found is kept, image by image, and a run that was ended goes on where it was: the
file that it writes is the same.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event

# one setting a core: faster than one matrix product on all of them
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from tqdm import tqdm

from qlinear.engine import run
from qlinear.errors import UnusableInput
from qlinear.files import write_text
from qlinear.hardware import analog, cost, designs, devices, variants
from qlinear.hardware.analog import Array
from qlinear.hardware.converters import Converter
from qlinear.hardware.devices import DAY, Device
from qlinear.hardware.draws import Reads
from qlinear.inputs import load_samples
from qlinear.onnx_model import Model, load
from qlinear.operators import OPERATORS
from study.cifar10 import load_cifar10, options, settled
from study.provenance import recorded, sha256
from study.quantize import MIXED

BATCH = 20
BLOCK = 500  # images between two looks at the clock, and additions to the cache
CHIPS = 5

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
CLIPPING, COARSER = "clipping", "coarser steps"
ONCE = Array(rows=128, cell_bits=8, mapping=analog.PAIR, accumulate=True)


@dataclass(frozen=True)
class Setting:
    """An array, and whether its converters' ranges are calibrated."""

    array: Array
    calibrated: bool = False

    @property
    def chips(self) -> int:
        """How many are measured: more than one where something is drawn."""
        drawn = self.array.device.programming or not self.array.quiet
        return CHIPS if drawn else 1


def clipping(array: Array, bits: int) -> Array:
    """The same array with converters of steps of one count, as many as there are codes."""
    return replace(array, adc=replace(array.adc, bits=bits, top=float((1 << bits) - 1)))


def widths() -> Iterator[tuple[dict, Setting]]:
    """Converters of fewer bits than lose nothing, by either way of having fewer."""
    for bits in range(9, 3, -1):
        array = replace(SLICED, adc=Converter(bits, shared=128))
        yield {"kind": COARSER, "adc_bits": bits}, Setting(array)
    for bits in range(8, 4, -1):
        yield {"kind": CLIPPING, "adc_bits": bits}, Setting(clipping(SLICED, bits))


def noises() -> Iterator[tuple[dict, Setting]]:
    """Plain noises: of each conversion in counts, and of each cell as a share of its range."""
    for sigma in (0.25, 0.5, 1.0, 2.0):
        array = replace(SLICED, adc=Converter(9, noise=sigma, shared=128))
        yield {"kind": "read noise", "sigma": sigma}, Setting(array)
    for sigma in (0.01, 0.02, 0.05, 0.1):
        array = replace(SLICED, device=Device(devices.INDEPENDENT, sigma=sigma, bounded=False))
        yield {"kind": "cell noise", "sigma": sigma}, Setting(array)


def mappings() -> Iterator[tuple[dict, Setting]]:
    """Every mapping under every error of its cells.

    The five chips of a mapping are programmed with the same five draws under each error, times its
    deviations: what is luck in one row is luck in the others.
    """
    for error, device in ERRORS.items():
        for mapping, array in MAPPINGS.items():
            yield {"mapping": mapping, "error": error}, Setting(replace(array, device=device))


def converters() -> Iterator[tuple[dict, Setting]]:
    """Converters and designs; ranges are calibrated where the paper or the mapping asks for it."""
    found = {f"bit-serial, {n} bits, clipping": Setting(clipping(SLICED, n)) for n in (9, 8, 7, 6)}
    coarser = replace(SLICED, adc=Converter(8, shared=128))
    found["bit-serial, 8 bits, coarser"] = Setting(coarser)
    found["ISAAC"] = Setting(designs.ISAAC)
    for bits in (7, 6):
        found[f"ISAAC, {bits} bits, clipping"] = Setting(clipping(designs.ISAAC, bits))
    for bits in (6, 8, 10):
        adc = replace(designs.PRIME.adc, bits=bits)
        found[f"PRIME, {bits} bits"] = Setting(replace(designs.PRIME, adc=adc), True)
    for bits in (8, 10, 12):
        once = replace(ONCE, adc=Converter(bits))
        found[f"one conversion, {bits} bits"] = Setting(once, True)
    for bits in (8, 12):
        once = replace(ONCE, adc=Converter(bits), device=ERRORS["phase change"])
        found[f"one conversion, {bits} bits, phase-change cells"] = Setting(once, True)
    found["SRAM, 2304 rows"] = Setting(designs.SRAM)
    few = replace(designs.SRAM, rows=255, adc=Converter(8))
    found["SRAM, at most 255 rows on"] = Setting(few)
    perfect = replace(designs.PCM_CORE, device=Device())
    found["PCM core, perfect cells"] = Setting(perfect, True)
    found["PCM core"] = Setting(designs.PCM_CORE, True)
    for name, setting in found.items():
        yield {"setting": name}, setting


SECTIONS = {"widths": widths, "noises": noises, "mappings": mappings, "converters": converters}


def arrays_of(model: Model, setting: Setting) -> dict[str, Array]:
    """The array of each layer; the package's own 20 images calibrate.

    They are test images too, without their labels; a copy of CIFAR-10 may have other pixels.
    """
    names = variants.weighted(model)
    if not setting.calibrated:
        return dict.fromkeys(names, setting.array)
    exact = run(model, load_samples()[0].astype(np.float32))
    perfect = analog.ideal(setting.array)
    found = variants.calibrated(model, exact, perfect)
    tops = {name: array.adc.top for name, array in found.items()}
    adc = setting.array.adc
    return {n: replace(setting.array, adc=replace(adc, top=top)) for n, top in tops.items()}


def changed(record: object) -> dict:
    """The fields of a record that are not what they are if nothing is said, by name."""
    found = {}
    for field in fields(record):
        value = getattr(record, field.name)
        plain = field.default_factory() if callable(field.default_factory) else field.default
        if value != plain:
            found[field.name] = changed(value) if is_dataclass(value) else value
    return found


class Hits:
    """Which images a setting gets right, chip by chip; kept in files as far as they are known."""

    def __init__(self, model: Model, images: np.ndarray, labels: np.ndarray, folder: Path | None):
        self.model, self.images, self.labels, self.folder = model, images, labels, folder
        self.known: dict[str, bytearray] = {}
        self.arrays: dict[Setting, dict[str, Array]] = {}
        data = hashlib.sha256(images.tobytes() + labels.astype(np.int64).tobytes()).hexdigest()
        self.origin = [sha256(model.path.read_bytes()), data]

    def name(self, setting: Setting | None, chip: int) -> str:
        """Of what is known: the same for settings that differ in nothing that makes a number."""
        what: dict = {}
        if setting is not None:
            adc = setting.array.adc
            adc = replace(adc, shared=1) if adc.alike else adc
            what = changed(replace(setting, array=replace(setting.array, adc=adc)))
        text = json.dumps([*self.origin, what, chip], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def of(self, setting: Setting | None, chip: int) -> bytearray:
        """A byte for each image so far, 1 where it is right; None is the exact network."""
        name = self.name(setting, chip)
        if name not in self.known:
            file = self.folder / name if self.folder else None
            self.known[name] = bytearray(file.read_bytes() if file and file.exists() else b"")
        return self.known[name]

    def extend(self, setting: Setting | None, chip: int, count: int) -> Iterator[int]:
        """Find what is missing of the first ``count`` images; yields how many at a time."""
        found = self.of(setting, chip)
        yield min(len(found), count)
        arrays = {}
        if setting and len(found) < count:
            if setting not in self.arrays:  # calibrated once for all chips
                self.arrays[setting] = arrays_of(self.model, setting)
            arrays = {n: replace(array, seed=chip) for n, array in self.arrays[setting].items()}
        while len(found) < count:
            before, until = len(found), min(len(found) + BLOCK, count)
            fresh = bytearray()
            for start in range(before, until, BATCH):
                part = slice(start, min(start + BATCH, until))
                operators = OPERATORS
                if setting:
                    reads = Reads(seed=chip, first=start)
                    operators = variants.operators_on_arrays(self.model, arrays, reads)
                logits = run(self.model, self.images[part].astype(np.float32), operators)["logits"]
                fresh += (logits.argmax(1) == self.labels[part]).astype(np.uint8).tobytes()
            if self.folder:
                file = self.folder / self.name(setting, chip)
                with open(file, "r+b" if before else "wb") as whole:
                    whole.seek(before)  # two runs at a time write the same bytes to the same place
                    whole.write(fresh)
            found += fresh
            yield until - before


def accuracy(hits: np.ndarray, exact: np.ndarray) -> dict:
    """Accuracy, what is lost against the exact network, and standard errors.

    ``se`` is that of the mean: over images, and over chips where there are several. What one chip
    does to one image is in both parts, so it is too large where that is most of the spread, as with
    noise of conversions: by less than half, and never too small. Of ``lost`` it is smaller, since
    both networks saw the same images.

    Args:
        hits: 0 and 1, (chips, images); exact: the exact network's, (images,).
    """
    chips, images = hits.shape
    each = hits.mean(axis=1)
    of_chips = each.std(ddof=1) / np.sqrt(chips) if chips > 1 else 0.0

    def error(values: np.ndarray) -> float:
        over_images = values.std(ddof=1) / np.sqrt(images) if images > 1 else 0.0
        return round(float(np.hypot(over_images, of_chips)), 5)

    lost = exact - hits.mean(axis=0)
    return {
        "images": images,
        "accuracy": [round(float(share), 4) for share in each],
        "mean": round(float(each.mean()), 5),
        "se": error(hits.mean(axis=0)),
        "se_of_chips": round(float(of_chips), 5),
        "lost": round(float(lost.mean()), 5),
        "se_of_lost": error(lost),
    }


def price(model: Model, setting: Setting) -> dict:
    """What one image takes."""
    values = run(model, load_samples()[0][:1].astype(np.float32))
    arrays = dict.fromkeys(variants.weighted(model), setting.array)
    whole = cost.total(cost.network_cost(model, values, arrays))
    return {
        "mapping": setting.array.mapping,
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


def usable(folder: Path) -> None:
    """Make a folder that may be there already.

    Raises:
        UnusableInput: it cannot be made, or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UnusableInput(f"{folder}: {error.strerror}; name another for --cache") from None


def main(argv: list[str] | None = None) -> None:
    parser = options(__doc__, record="analog.json")
    parser.add_argument("--noisy-images", type=int, help="where cells are drawn (default: all)")
    parser.add_argument(
        "--cache",
        type=Path,
        help="folder of what was found, to go on from; for one state of the library",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="settings at a time")
    args = parser.parse_args(argv)
    out = settled(args, record="analog.json")
    noisy = args.images if args.noisy_images is None else args.noisy_images
    if not 1 <= noisy <= args.images:
        raise UnusableInput(f"--noisy-images is {noisy}: 1 to {args.images} needed")
    if args.workers < 1:
        raise UnusableInput(f"--workers is {args.workers}: at least 1 needed")
    if args.cache:
        usable(args.cache)
    model = load(args.models / MIXED)
    images, labels = load_cifar10(args.data_dir, "test")
    count = min(args.images, len(images))
    hits = Hits(model, images, labels, args.cache)
    every = [setting for section in SECTIONS.values() for _, setting in section()]
    drawn = {setting: bool(setting.array.device.programming) for setting in every}
    counts = {setting: min(noisy, count) if drawn[setting] else count for setting in every}
    work = [(s, chip, n) for s, n in counts.items() for chip in range(s.chips)]
    work = {hits.name(s, chip): (s, chip, n) for s, chip, n in [(None, 0, count), *work]}
    total = sum(n for *_, n in work.values())
    ended = Event()
    with ThreadPoolExecutor(args.workers) as pool, tqdm(total=total, unit="image") as bar:

        def measure(one: tuple[Setting | None, int, int]) -> None:
            for done in hits.extend(*one):
                bar.update(done)
                if ended.is_set():
                    break

        try:
            list(pool.map(measure, work.values()))
        except BaseException:  # whoever ends the run does not wait for all that is left
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise

    def known(setting: Setting | None, chip: int, n: int) -> np.ndarray:
        return np.frombuffer(bytes(hits.of(setting, chip)[:n]), np.uint8)

    exact = known(None, 0, count)
    source = recorded(
        "scripts/analog.py",
        [args.models / MIXED],
        images[:count],
        labels[:count],
        note=args.data_note,
    )
    shares = {n: round(float(exact[:n].mean()), 4) for n in sorted({count, *counts.values()})}
    record: dict = {"recorded": source, "exact": shares}
    for kind, section in SECTIONS.items():
        record[kind] = []
        for head, setting in section():
            n = counts[setting]
            right = np.stack([known(setting, chip, n) for chip in range(setting.chips)])
            cost_of = price(model, setting) if kind == "converters" else {}
            record[kind].append(head | cost_of | accuracy(right, exact[:n]))
    write_text(out, json.dumps(record, indent=1) + "\n")
    print(f"wrote {out}")
