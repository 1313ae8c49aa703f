"""What training with the noise of analog arrays buys: the book's network trained on, and measured.

    pip install -r requirements-train.txt
    python scripts/noise_aware.py --data-dir DIR

Trains models/resnet8.onnx on by several recipes (study/noise_training.py), quantizes each network
as the book's is, and puts all of them on arrays whose cells err. Writes models/noise_aware.json,
which chapter 9 quotes. A thousand test images, five chips: an hour on two free cores. What
is made on the way lies in the folder --retrained, and is not made again when the script is started
again; without a network to train it needs no PyTorch.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

# one setting a core: faster than one matrix product on all of them
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import onnx
from tqdm import tqdm

from qlinear.engine import run
from qlinear.errors import UnusableInput
from qlinear.files import whole_file, write_text
from qlinear.hardware import variants
from qlinear.hardware.analog import Array
from qlinear.hardware.devices import DAY, INDEPENDENT, PCM, PROPORTIONAL, Device
from qlinear.onnx_model import Model, from_proto, load
from study.analog import MAPPINGS
from study.cifar10 import load_cifar10, options, settled
from study.depthwise import accuracy
from study.provenance import recorded, sha256
from study.quantize import MIXED, calibrate, calibration_images, layer, layers, mix, quantize

FLOAT = "resnet8.onnx"
BATCH = 25
CHIPS = 5


@dataclass(frozen=True)
class Recipe:
    """How a network is trained on."""

    eta: float = 0.0  # deviation of the error, as a share of the largest weight
    clip: float | None = None  # weights stay within so many of their standard deviations
    seed: int = 9


CLIP = 2.5
CONTROL = "no noise"
RECIPES = {
    "noise 5%": Recipe(0.05, CLIP),
    CONTROL: Recipe(),
    "noise 10%": Recipe(0.10, CLIP),
    "noise 2%": Recipe(0.02, CLIP),
    "clipped only": Recipe(0.0, CLIP),
    "noise 5%, not clipped": Recipe(0.05),
    "noise 5%, another seed": Recipe(0.05, CLIP, seed=10),
}
TRAINING: dict = {
    "epochs": 8,
    "batch": 128,
    "lr": 0.01,
    "weight_decay": 0.0,
    "max_norm": 1.0,
    "bfloat16": True,
}
BOOK = "the book's"  # not trained on

PLAIN = [("independent", Device(INDEPENDENT, sigma=s)) for s in (0.01, 0.02, 0.05)]
PHASE_CHANGE = ("phase change", Device(PCM, on_off=100))
ERRORS = {
    "pair, 1 cell a side": [
        *PLAIN,
        ("independent", Device(INDEPENDENT, sigma=0.1)),
        ("proportional", Device(PROPORTIONAL, sigma=0.1)),
        PHASE_CHANGE,
        ("phase change, a day", Device(PCM, on_off=100, seconds=DAY)),
    ],
    "offset, 4 cells": [*PLAIN, PHASE_CHANGE],
}


@dataclass(frozen=True)
class Setting:
    """A mapping, and how its cells err."""

    mapping: str
    error: str
    device: Device

    @property
    def array(self) -> Array:
        return replace(MAPPINGS[self.mapping], device=self.device)


def settings() -> list[Setting]:
    """Every mapping under its errors."""
    return [Setting(m, e, device) for m, errors in ERRORS.items() for e, device in errors]


def per_channel(model: Model) -> set[str]:
    """The nodes of an INT8 model whose output channels have a scale each."""
    return {n.name for n in model.of_type("QLinearConv") if model.conv(n).w_scale.size > 1}


def weight_rms(model: Model) -> float:
    """Root mean square of all INT8 weights, as a share of the greatest, 127."""
    w = np.concatenate([layer(model, node).w.ravel() for node in layers(model)]).astype(np.float64)
    return round(float(np.sqrt((w**2).mean()) / 127), 4)


def file_of(name: str) -> str:
    """A network's name as that of its files, without their suffix."""
    return name.replace("%", "").replace(",", "").replace(" ", "_")


def trained(name: str, models: Path, folder: Path, data_dir: Path) -> Path:
    """The float network of a recipe; trained if the folder does not have it.

    Raises:
        UnusableInput: the folder's is of another recipe or network, or PyTorch is missing.
    """
    path, source = folder / f"{file_of(name)}.onnx", models / FLOAT
    wanted = TRAINING | asdict(RECIPES[name]) | {"from": sha256(source.read_bytes())}
    if not path.exists():
        try:
            from study.noise_training import retrain
        except ModuleNotFoundError as error:
            raise UnusableInput(
                f"{path}: no such file, and no {error.name} to train it; "
                f"pip install -r requirements-train.txt"
            ) from None
        chosen = {node.removesuffix("_quant") for node in per_channel(load(models / MIXED))}
        sets = [load_cifar10(data_dir, split) for split in ("train", "test")]
        proto = retrain(source, chosen, *sets, path.with_suffix(".pt"), wanted)
        write_model(path, proto)
    made = json.loads(props(load(path).proto).get("settings", "null"))
    if made != wanted:
        raise UnusableInput(f"{path}: made with {made}, not {wanted}; delete it to train it again")
    return path


def props(proto: onnx.ModelProto) -> dict[str, str]:
    """What a model's file says about how it was made."""
    return {entry.key: entry.value for entry in proto.metadata_props}


def write_model(path: Path, proto: onnx.ModelProto) -> None:
    with whole_file(path) as partial:
        partial.write_bytes(proto.SerializeToString(deterministic=True))


def quantized(float_path: Path, models: Path, data_dir: Path) -> Path:
    """The INT8 form of a trained network, made as the book's; the same layers are per-channel."""
    path = float_path.with_name(f"{float_path.stem}_int8.onnx")
    ranges = float_path.with_name(f"{float_path.stem}_calibration.json")
    calibrate(float_path, calibration_images(data_dir), ranges)
    pair = [quantize(float_path, ranges, per_channel=p) for p in (False, True)]
    chosen = per_channel(load(models / MIXED))
    write_model(path, mix(*(from_proto(proto, path) for proto in pair), chosen))
    return path


def hits(model: Model, setting: Setting, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which images are right on each chip: bool (CHIPS, N)."""
    found = []
    for chip in range(CHIPS):
        arrays = dict.fromkeys(variants.weighted(model), replace(setting.array, seed=chip))
        operators = variants.operators_on_arrays(model, arrays, np.random.default_rng(chip))
        logits = [run(model, images[i : i + BATCH].astype(np.float32), operators)["logits"]
                  for i in range(0, len(images), BATCH)]  # fmt: skip
        found.append(np.concatenate(logits).argmax(1) == labels)
    return np.stack(found)


def measured(path: Path, stored: Path, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """:func:`hits` of one network in every setting: bool (settings, CHIPS, N).

    Args:
        stored: where they are kept; used again if they are of the same network and settings.
    """
    work = settings()
    of = json.dumps(
        [
            sha256(path.read_bytes()),
            sha256(images.tobytes() + labels.tobytes()),
            CHIPS,
            *map(repr, work),
        ]
    )
    if stored.exists():
        with np.load(stored) as found:
            if str(found["of"]) == of:
                return found["hits"]
    one = partial(hits, load(path), images=images, labels=labels)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(tqdm(pool.map(one, work), stored.stem, total=len(work), unit="setting"))
    with whole_file(stored) as partial_file, partial_file.open("wb") as file:
        np.savez_compressed(file, of=of, hits=np.stack(done))
    return np.stack(done)


def standard_error(found: np.ndarray, other: np.ndarray | None = None) -> float:
    """Of the mean of :func:`hits`, or of the difference of two networks' means on the same images.

    The variance between chips and that between images are added, which counts a little twice.
    """
    share = found.mean(0) if other is None else found.mean(0) - other.mean(0)
    chips = [h.mean(1).var(ddof=1) / len(h) for h in (found, other) if h is not None]
    return float(np.sqrt(share.var(ddof=1) / len(share) + sum(chips)))


def rows(name: str, found: np.ndarray, control: np.ndarray) -> list[dict]:
    """One network's part of the record."""
    made = []
    for setting, here, there in zip(settings(), found, control, strict=True):
        row = {
            "network": name,
            "mapping": setting.mapping,
            "error": setting.error,
            "sigma": setting.device.sigma,
            "accuracy": [round(float(a), 4) for a in here.mean(1)],
            "standard_error": round(standard_error(here), 4),
        }
        if name != CONTROL:
            row["ahead"] = round(float(here.mean() - there.mean()), 4)
            row["ahead_standard_error"] = round(standard_error(here, there), 4)
        made.append(row)
    return made


def main(argv: list[str] | None = None) -> None:
    parser = options(__doc__, record="noise_aware.json", images=1000)
    parser.add_argument("--retrained", type=Path, default=Path("retrained"), help="folder")
    parser.add_argument("--only", choices=RECIPES, action="append", help="networks to train")
    args = parser.parse_args(argv)
    out = settled(args, record="noise_aware.json", least=2)
    args.retrained.mkdir(parents=True, exist_ok=True)
    floats = {name: trained(name, args.models, args.retrained, args.data_dir)
              for name in args.only or RECIPES}  # fmt: skip
    int8 = {name: quantized(path, args.models, args.data_dir) for name, path in floats.items()}
    int8[BOOK] = args.models / MIXED
    test = load_cifar10(args.data_dir, "test")
    images, labels = (part[: args.images] for part in test)
    found = {name: measured(path, args.retrained / f"{file_of(name)}_{len(images)}.npz", images,
                            labels) for name, path in int8.items()}  # fmt: skip
    if args.only:
        return
    torch = {props(load(path).proto)["torch"] for path in floats.values()}
    record = {
        "recorded": recorded(
            "scripts/noise_aware.py",
            [args.models / FLOAT, *int8.values()],
            images,
            labels,
            note=args.data_note,
            batch=BATCH,
            torch=", ".join(sorted(torch)),
        ),
        "images": len(images),
        "chips": CHIPS,
        "training": TRAINING,
        "networks": [
            {
                "network": name,
                **(asdict(RECIPES[name]) if name in RECIPES else {}),
                "float_sha256": sha256(floats.get(name, args.models / FLOAT).read_bytes()),
                "weight_rms": weight_rms(load(path)),
                "all_test_images": accuracy(load(path).proto, *test),
            }
            for name, path in int8.items()
        ],
        "on_arrays": [row for name in int8 for row in rows(name, found[name], found[CONTROL])],
    }
    write_text(out, json.dumps(record, indent=1) + "\n")
    print(f"wrote {out}")
