"""What one scale for all weights of a layer costs MobileNet, and why: accuracy on CIFAR-10.

    python scripts/depthwise.py --data-dir DIR

Writes models/depthwise.json, which chapter 12 quotes: accuracy with 8 to 3 bits for the weights,
under each scheme of scales; with one layer at a time per-tensor, or per-channel; and of networks
that are the same in float to the bit, but whose depthwise layers' ranges are drawn apart. ONNX
Runtime computes; activations have 8 bits. Takes a quarter of an hour on two cores.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from tqdm import tqdm

from qlinear.files import write_text
from qlinear.onnx_model import Model, from_proto, load, with_constants
from qlinear.ort import Settings, open_session
from study import equalize, quantize
from study.bit_widths import at_widths, read_ranges
from study.cifar10 import load_cifar10, options, settled
from study.provenance import recorded

BITS = range(8, 2, -1)
ALONE = (4,)  # bits of the weights where one layer at a time is another
SPREADS = range(0, 9)
BATCH = 500
Setting = tuple[str, dict, Callable[[], onnx.ModelProto]]  # a section, its entry, and the model


@dataclass(frozen=True)
class Source:
    """What quantized forms of one network are made of."""

    float_model: Model
    ranges: dict
    form: Model  # its per-tensor int8 form

    def narrowed(self, bits: int, per_channel: bool | set[str]) -> onnx.ModelProto:
        """With ``bits`` bits for the weights; per-channel, all layers or those that are named."""
        made = at_widths(self.form, self.float_model, self.ranges, bits, 8, per_channel)
        return with_constants(self.form, made.constants)


def sources(models: Path) -> tuple[Source, Source]:
    """MobileNet as it is, and equalized, both from the stored calibrations."""
    float_path = models / "mobilenet.onnx"
    plain = Source(
        load(float_path),
        read_ranges(models / quantize.MOBILE_RANGES),
        load(models / quantize.MOBILE_PER_TENSOR),
    )
    equal = Source(
        quantize.equalized_mobilenet(float_path),
        read_ranges(models / quantize.MOBILE_EQUALIZED_RANGES),
        load(models / quantize.MOBILE_EQUALIZED),
    )
    return plain, equal


def depthwise_layers(source: Source) -> set[str]:
    """Names of the depthwise layers of the quantized form."""
    convs = source.float_model.of_type("Conv")
    found = [node.name for node in convs if equalize.is_depthwise(source.float_model, node)]
    return {f"{name}_quant" for name in found}


def calibrated(model: Model, images: np.ndarray, per_channel: bool) -> onnx.ModelProto:
    """A float network in memory as int8, calibrated on ``images``."""
    with tempfile.TemporaryDirectory() as folder:
        path, ranges = Path(folder) / "float.onnx", Path(folder) / "ranges.json"
        path.write_bytes(model.proto.SerializeToString())
        quantize.calibrate(path, images, ranges)
        return quantize.quantize(path, ranges, per_channel=per_channel)


def settings(models: Path, images: np.ndarray) -> Iterator[Setting]:
    """Every measurement that depthwise.json holds."""
    plain, equal = sources(models)
    names = [node.name for node in quantize.layers(plain.form)]
    schemes = {
        "per-tensor": (plain, False),
        "per-channel": (plain, True),
        "depthwise per-channel": (plain, depthwise_layers(plain)),
        "equalized, per-tensor": (equal, False),
    }
    for bits in BITS:
        for scheme, (source, per_channel) in schemes.items():
            entry = {"bits": bits, "scheme": scheme}
            yield "weight_bits", entry, lambda s=source, b=bits, p=per_channel: s.narrowed(b, p)
    for bits in ALONE:
        for name in names:
            for scheme in ("per-tensor", "per-channel"):
                chosen = {name} if scheme == "per-channel" else set(names) - {name}
                entry = {"bits": bits, "layer": name, "alone": scheme}
                yield "one_layer", entry, lambda b=bits, c=chosen: plain.narrowed(b, c)
    relu = equalize.without_clips(plain.float_model)
    for most in SPREADS:
        drawn = equalize.spread(relu, most)
        forms = {
            "per-tensor": (drawn, False),
            "per-channel": (drawn, True),
            "equalized, per-tensor": (equalize.equalized(drawn), False),
        }
        for scheme, (model, per_channel) in forms.items():
            entry = {"most": most, "scheme": scheme}
            yield "spread", entry, lambda m=model, p=per_channel: calibrated(m, images, p)


def accuracy(proto: onnx.ModelProto, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose greatest logit is their label's, by ONNX Runtime.

    Args:
        images: uint8 (N, 3, H, W); labels: (N,).
    """
    opened = open_session(proto, Settings(threads=0))
    (x_name,) = from_proto(proto).inputs
    hits = 0
    for start in range(0, len(images), BATCH):
        x = images[start : start + BATCH].astype(np.float32)
        logits = opened.run(None, {x_name: x})[0]
        hits += int((logits.argmax(1) == labels[start : start + BATCH]).sum())
    return round(hits / len(images), 4)


def main(argv: list[str] | None = None) -> None:
    parser = options(__doc__, record="depthwise.json")
    args = parser.parse_args(argv)
    out = settled(args, record="depthwise.json")
    images, labels = (a[: args.images] for a in load_cifar10(args.data_dir, "test"))
    found: dict[str, list[dict]] = {}
    work = list(settings(args.models, quantize.calibration_images(args.data_dir)))
    for section, entry, make in tqdm(work, "settings"):
        score = accuracy(make(), images, labels)
        found.setdefault(section, []).append(entry | {"accuracy": score})
    used = ("mobilenet.onnx", quantize.MOBILE_PER_TENSOR, quantize.MOBILE_EQUALIZED)
    files = [args.models / name for name in used]
    source = recorded("scripts/depthwise.py", files, images, labels, note=args.data_note)
    record = {"recorded": source, "images": len(images), **found}
    write_text(out, json.dumps(record, indent=1) + "\n")
    print(f"wrote {out}")
