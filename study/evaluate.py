"""Accuracy of the models on CIFAR-10, and equality with ONNX Runtime on every image."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnxruntime.quantization import QuantFormat

from qlinear.compare import compare_arrays
from qlinear.engine import run
from qlinear.errors import UnusableInput
from qlinear.onnx_model import Model, from_proto, load
from qlinear.ort import all_outputs, session
from study.cifar10 import CLASSES
from study.quantize import PER_TENSOR, quantize


@dataclass
class Score:
    """What one model got right, and how far the reference agreed with ONNX Runtime."""

    model: str
    images: int = 0
    correct: np.ndarray = field(default_factory=lambda: np.zeros(len(CLASSES), np.int64))
    seen: np.ndarray = field(default_factory=lambda: np.zeros(len(CLASSES), np.int64))
    elements: int = 0  # over every tensor that both compute; 0 for a float model
    differing: int = 0

    def as_json(self) -> dict:
        per_class = (self.correct / np.maximum(self.seen, 1)).round(4).tolist()
        return {
            "model": self.model,
            "accuracy": round(int(self.correct.sum()) / max(self.images, 1), 4),
            "per_class": dict(zip(CLASSES, per_class, strict=True)),
            "elements": self.elements,
            "differing": self.differing,
        }


def evaluate(
    model: Model, images: np.ndarray, labels: np.ndarray, batch: int = 100
) -> Iterator[Score]:
    """Run ``images`` in batches; yields the running score after each.

    A quantized model is run by the reference and by ONNX Runtime, and every tensor of the two is
    compared; a float model by ONNX Runtime alone. Memory is bounded by one batch.
    """
    ((x_name, _),) = model.inputs.items()
    (y_name,) = model.outputs
    quantized = bool(model.of_type("QLinearConv"))
    proto = all_outputs(model) if quantized else model.proto
    names = [o.name for o in proto.graph.output]
    oracle = session(from_proto(proto, model.path), threads=0)
    score = Score(model.path.name)
    for start in range(0, len(images), batch):
        x = images[start : start + batch].astype(np.float32)
        wanted = labels[start : start + batch]
        theirs = dict(zip(names, oracle.run(names, {x_name: x}), strict=True))
        if quantized:
            ours = run(model, x)
            for name in names:
                check = compare_arrays(name, ours[name], theirs[name])
                score.elements += check.elements
                score.differing += check.mismatches
        hits = theirs[y_name].argmax(axis=1) == wanted
        score.images += len(wanted)
        score.seen += np.bincount(wanted, minlength=len(CLASSES))
        score.correct += np.bincount(wanted[hits], minlength=len(CLASSES))
        yield score
    if not score.images:
        raise UnusableInput("no images to evaluate")


@dataclass(frozen=True)
class FormDifference:
    """How the QDQ form of the per-tensor network differs from its QOperator form."""

    form: str
    logits: int
    differing: int
    labels_changed: int


def compare_forms(models: Path, images: np.ndarray, batch: int = 500) -> list[FormDifference]:
    """Count the logits by which the QDQ form, fused and not, differs from the QOperator form."""
    per_tensor = load(models / PER_TENSOR)
    qdq = quantize(
        models / "resnet8.onnx", models / "calibration.json", quant_format=QuantFormat.QDQ
    )
    ((x_name, _),) = from_proto(qdq).inputs.items()

    def logits(proto, optimize=True) -> np.ndarray:
        oracle = session(from_proto(proto), threads=0, optimize=optimize)
        parts = [
            oracle.run(None, {x_name: images[i : i + batch].astype(np.float32)})[0]
            for i in range(0, len(images), batch)
        ]
        return np.concatenate(parts)

    wanted = logits(per_tensor.proto)
    found = []
    for form, optimize in (("QDQ, fused (the default)", True), ("QDQ, no fusion", False)):
        ours = logits(qdq, optimize)
        labels = int((ours.argmax(1) != wanted.argmax(1)).sum())
        found.append(FormDifference(form, ours.size, int((ours != wanted).sum()), labels))
    return found
