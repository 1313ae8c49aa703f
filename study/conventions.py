"""How far each convention of requantization is from ONNX Runtime, in accumulators and in accuracy.

    python scripts/conventions.py --data-dir DIR

Writes models/conventions.json. The accumulators are all those that an input can give, for each of
the network's channels; they are counted exactly, between the thresholds of two functions that never
decrease. Conventions that are one function here are measured once.
"""

import json
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from tqdm import tqdm

from qlinear import edges
from qlinear.conventions import CONVENTIONS, differing
from qlinear.engine import run
from qlinear.files import write_text
from qlinear.hardware import proofs, variants
from qlinear.onnx_model import Model, load
from qlinear.operators import OPERATORS
from study import quantize
from study.cifar10 import load_cifar10, options, settled
from study.provenance import recorded

BATCH = 50
Thresholds = dict[str, np.ndarray]  # of each layer: int64 (M, 255)


def ranges(model: Model) -> dict[str, edges.Requantizer]:
    """Every layer's stage 2, and the accumulators that it can see."""
    nodes = quantize.layers(model)
    return {node.name: edges.requantizer(model, node, ()) for node in nodes}


def thresholds(model: Model, name: str, *, float32: bool = False) -> Thresholds:
    """The thresholds of a convention in every layer.

    Args:
        float32: encode ONNX Runtime's float32 factor, not the one that the convention's users do.
    """
    found = {}
    for node_name, of in ranges(model).items():
        conv = edges.layer(model, model.node(node_name))
        stage_2 = CONVENTIONS[name].of_layer(conv, conv.factor if float32 else None)
        found[node_name] = proofs.thresholds(stage_2, of.low, of.high)
    return found


def counted(model: Model, one: Thresholds, other: Thresholds) -> dict[str, list[int]]:
    """For each layer: accumulators that differ, and channels in which one does."""
    found = {}
    for name, of in ranges(model).items():
        counts = differing(one[name], other[name], of.low, of.high)
        found[name] = [int(counts.sum()), int((counts > 0).sum())]
    return found


def predicted(model: Model, images: np.ndarray, operators: dict) -> np.ndarray:
    """Labels that the network gives to images with another operator table."""
    parts = (images[i : i + BATCH].astype(np.float32) for i in range(0, len(images), BATCH))
    return np.concatenate([run(model, x, operators)["logits"].argmax(1) for x in parts])


def measure(model: Model, images: np.ndarray, truth: np.ndarray) -> dict:
    """Accuracy and labels of every function that differs from the exact one, on test images."""
    found: dict[str, dict] = {}
    groups: dict[bytes, list[str]] = {}
    for name in CONVENTIONS:
        key = b"".join(v.tobytes() for v in thresholds(model, name).values())
        groups.setdefault(key, []).append(name)
    exact = predicted(model, images, OPERATORS)
    for names in tqdm(groups.values(), "measuring", unit="function"):
        convention = CONVENTIONS[names[0]]
        labels = exact
        if "onnxruntime" not in names:
            table = variants.operators_with(
                stage_2=lambda acc, conv, c=convention: c.of_layer(conv)(acc)
            )
            labels = predicted(model, images, table)
        accuracy = round(int((labels == truth).sum()) / len(labels), 4)
        changed = int((labels != exact).sum())
        found |= {name: {"accuracy": accuracy, "labels_changed": changed} for name in names}
    return {name: found[name] for name in CONVENTIONS}


def main(argv: list[str] | None = None) -> None:
    parser = options(__doc__, record="conventions.json")
    args = parser.parse_args(argv)
    out = settled(args, record="conventions.json")
    model = load(args.models / quantize.MIXED)
    images, labels = (part[: args.images] for part in load_cifar10(args.data_dir, "test"))
    source = recorded(
        "scripts/conventions.py",
        [args.models / quantize.MIXED],
        images,
        labels,
        note=args.data_note,
        batch=BATCH,
    )
    of = ranges(model)
    possible = {name: int((r.high - r.low + 1).sum()) for name, r in of.items()}
    channels = {name: len(r.low) for name, r in of.items()}
    exact = thresholds(model, "onnxruntime")
    measured = measure(model, images, labels)
    rows = {
        name: {
            "differing": counted(model, thresholds(model, name), exact),
            "differing_float32": counted(model, thresholds(model, name, float32=True), exact),
            **measured[name],
        }
        for name in CONVENTIONS
    }
    record = {
        "recorded": source,
        "possible": possible,
        "channels": channels,
        "conventions": rows,
    }
    write_text(out, json.dumps(record, indent=1) + "\n")
    print(f"wrote {out}")
