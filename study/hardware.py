"""What cheaper arithmetic costs: accuracy of the book's network under each, on CIFAR-10.

    python scripts/hardware.py --data-dir DIR

Writes models/hardware.json, which chapters 6 to 9 quote: accumulator widths, requantization in
integers, bit widths, and analog arrays. Each section says on how many test images it was measured:
all 10,000 unless --images asks for fewer, but a tenth for the analog arrays. Takes about three
quarters of an hour on two cores.
"""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

# one setting a core: faster than one matrix product on all of them
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from tqdm import tqdm

from qlinear.engine import compute, run
from qlinear.files import write_text
from qlinear.hardware import accumulators, analog, requantizers, variants
from qlinear.hardware.converters import Converter
from qlinear.hardware.devices import INDEPENDENT, Device
from qlinear.onnx_model import Model, load
from qlinear.operators import OPERATORS
from study import bit_widths, quantize
from study.cifar10 import load_cifar10, options, settled
from study.provenance import recorded

BATCH = 50
Measurement = tuple[dict, Callable[[], dict]]  # a setting, and what measures it


class Study:
    """Test images, and the exact network's outputs on them, to compare with."""

    def __init__(self, model: Model, images: np.ndarray, labels: np.ndarray):
        self.model, self.images, self.labels = model, images, labels

    def score(self, operators: dict, images: int, model: Model | None = None) -> float:
        """Accuracy on the first ``images`` test images with another operator table."""
        found = self.predicted(operators, images, model)
        return round(int((found == self.labels[: len(found)]).sum()) / len(found), 4)

    def predicted(self, operators: dict, images: int, model: Model | None = None) -> np.ndarray:
        """Labels that the network gives to the first ``images`` test images."""
        images = min(images, len(self.images))
        found = []
        for start in range(0, images, BATCH):
            x = self.images[start : min(start + BATCH, images)].astype(np.float32)
            found.append(run(model or self.model, x, operators)["logits"].argmax(1))
        return np.concatenate(found)

    def accuracy(self, *args) -> Callable[[], dict]:
        return lambda: {"accuracy": self.score(*args)}

    def differing(self, operators: dict, images: int) -> dict[str, list[int]]:
        """Elements that differ from the exact network, layer by layer, each on exact inputs."""
        found: dict[str, list[int]] = {}
        for start in range(0, images, BATCH):
            values = run(self.model, self.images[start : start + BATCH].astype(np.float32))
            for node in quantize.layers(self.model):
                y = compute(self.model, node, values, operators)
                count = found.setdefault(node.name, [0, 0])
                count[0] += int((y != values[node.outputs[0]]).sum())
                count[1] += y.size
        return found


def accumulator_widths(study: Study, images: int) -> Iterator[Measurement]:
    """Widths 12 to 24: wrap at the end, saturation at the end, and after every product."""
    for bits in range(12, 25):
        wrapped = variants.operators_with(accumulator=partial(accumulators.wrap, bits=bits))
        yield {"bits": bits, "how": "wrap"}, study.accuracy(wrapped, images)
        clamped = variants.operators_with(accumulator=partial(accumulators.clamp, bits=bits))
        yield {"bits": bits, "how": "saturate at the end"}, study.accuracy(clamped, images)
    for bits in range(12, 23, 2):
        each = variants.operators_with(
            summation=partial(accumulators.saturating_sum, bits=bits, tile=1)
        )
        yield {"bits": bits, "how": "saturate at every MAC"}, study.accuracy(each, images)


def fixed(acc, scale, zero, *, bits: int, rounding: str) -> np.ndarray:
    multiplier, shift = requantizers.fixed_point(scale, bits)
    return requantizers.requantize_fixed(acc, multiplier, shift, zero, rounding)


def shift_only(acc, scale, zero) -> np.ndarray:
    return requantizers.requantize_fixed(acc, *requantizers.power_of_two(scale), zero, "half up")


def requantization(study: Study, images: int) -> Iterator[Measurement]:
    """Multipliers of 4 to 31 bits under each rounding; power-of-two scales."""
    ways: list[tuple[int, str, Callable]] = [(0, "half up", shift_only)]
    for bits in (4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 31):
        for rounding in requantizers.ROUNDINGS if bits in (8, 16, 24, 31) else ("half up",):
            ways.append((bits, rounding, partial(fixed, bits=bits, rounding=rounding)))

    def measure(way: Callable) -> dict:
        operators = variants.operators_with(requantizer=way)
        return {
            "accuracy": study.score(operators, images),
            "differing": study.differing(operators, 200),
        }

    for bits, rounding, way in ways:
        yield {"multiplier_bits": bits, "rounding": rounding}, partial(measure, way)


def widths(study: Study, images: int, models: Path) -> Iterator[Measurement]:
    """4 to 8 bits for weights and activations, per-tensor and per-channel."""
    ranges = bit_widths.read_ranges(models / "calibration.json")
    floats, base = load(models / "resnet8.onnx"), load(models / quantize.PER_TENSOR)
    for per_channel in (False, True):
        for w_bits in range(4, 9):
            for x_bits in range(4, 9):
                other = bit_widths.at_widths(base, floats, ranges, w_bits, x_bits, per_channel)
                setting = {"per_channel": per_channel, "w_bits": w_bits, "x_bits": x_bits}
                yield setting, study.accuracy(bit_widths.operators_of(x_bits), images, other)


def array_of(
    adc_bits: int,
    clip: float | None = None,
    read_noise: float = 0.0,
    cell_noise: float = 0.0,
    seed: int = 0,
) -> analog.Array:
    """The array of a setting: an offset, cells of 2 bits, inputs bit by bit, plain noises."""
    adc = Converter(bits=adc_bits, top=clip, noise=read_noise)
    device = Device(INDEPENDENT, sigma=cell_noise, bounded=False) if cell_noise else Device()
    return analog.Array(adc=adc, device=device, seed=seed)


def analog_arrays(study: Study, images: int) -> Iterator[Measurement]:
    """ADC widths, clipping, read noise and cell noise, with seeds."""
    full = analog.lossless_adc_bits(128, 2)
    settings = [dict(adc_bits=bits) for bits in range(full, 3, -1)]
    settings += [
        dict(adc_bits=bits, clip=float((1 << bits) - 1)) for bits in range(full - 1, 4, -1)
    ]
    for noise in (0.25, 0.5, 1.0, 2.0):
        settings += [dict(adc_bits=full, read_noise=noise, seed=seed) for seed in range(3)]
    for noise in (0.01, 0.02, 0.05, 0.1):
        settings += [dict(adc_bits=full, cell_noise=noise, seed=seed) for seed in range(3)]
    for setting in settings:
        array = array_of(**setting)
        rng = np.random.default_rng(array.seed)  # one stream of read noise for all images
        summation = partial(analog.array_sum, array=array, rng=rng)
        operators = variants.operators_with(summation=summation)
        yield setting, study.accuracy(operators, images)


def bounds(model: Model) -> dict[str, list[int]]:
    """What each layer's register must hold, over all its channels."""
    found = {}
    for node in quantize.layers(model):
        low, high = quantize.layer(model, node).register_range()
        found[node.name] = [int(low.min()), int(high.max())]
    return found


def main(argv: list[str] | None = None) -> None:
    parser = options(__doc__, record="hardware.json")
    args = parser.parse_args(argv)
    out = settled(args, record="hardware.json", least=400)
    study = Study(load(args.models / quantize.MIXED), *load_cifar10(args.data_dir, "test"))
    few = args.images // 10
    sections = {
        "accumulators": (args.images, accumulator_widths(study, args.images)),
        "requantization": (args.images, requantization(study, args.images)),
        "bit_widths": (args.images, widths(study, args.images, args.models)),
        "analog": (few, analog_arrays(study, few)),
    }
    source = recorded(
        "scripts/hardware.py",
        [args.models / quantize.MIXED, args.models / quantize.PER_TENSOR],
        study.images[: args.images],
        study.labels[: args.images],
        note=args.data_note,
        batch=BATCH,
    )
    record: dict = {"recorded": source}
    record["exact"] = {n: study.score(OPERATORS, n) for n in (args.images, few)}
    record["bounds"] = bounds(study.model)
    for name, (images, rows) in sections.items():
        settings = list(rows)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = pool.map(lambda one: one[0] | one[1](), settings)
            bar = tqdm(done, name, total=len(settings), unit="setting")
            record[name] = {"images": images, "rows": list(bar)}
    write_text(out, json.dumps(record, indent=1) + "\n")
    print(f"wrote {out}")
