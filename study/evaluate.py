"""Accuracy of the models on CIFAR-10, and equality with ONNX Runtime on every image."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from qlinear.compare import compare_arrays
from qlinear.engine import run
from qlinear.errors import UnusableInput
from qlinear.onnx_model import Model, from_proto, load
from qlinear.ort import DEFAULT, INT8_QDQ, Level, Settings, all_outputs, open_session, session
from study.cifar10 import CLASSES
from study.quantize import PER_TENSOR, quantize

from onnxruntime.quantization import QuantFormat


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


# a QDQ file in sessions that differ: what is fused decides what is rounded
FORMS = {
    "QDQ, the default session": DEFAULT,
    "QDQ, int8 pairs fused": Settings((INT8_QDQ,), Level.ORT_ENABLE_ALL),
    "QDQ, no fusion": Settings(level=Level.ORT_DISABLE_ALL),
}


@dataclass(frozen=True)
class FormDifference:
    """How the QDQ form of the per-tensor network differs from its QOperator form."""

    form: str
    logits: int
    differing: int
    labels_changed: int


def compare_forms(models: Path, images: np.ndarray, batch: int = 500) -> list[FormDifference]:
    """Count the logits by which the QDQ form differs from the QOperator form, in each session."""
    per_tensor = load(models / PER_TENSOR)
    qdq = quantize(
        models / "resnet8.onnx", models / "calibration.json", quant_format=QuantFormat.QDQ
    )
    ((x_name, _),) = from_proto(qdq).inputs.items()

    def logits(source: bytes, settings: Settings) -> np.ndarray:
        oracle = open_session(source, replace(settings, threads=0))
        parts = [
            oracle.run(None, {x_name: images[i : i + batch].astype(np.float32)})[0]
            for i in range(0, len(images), batch)
        ]
        return np.concatenate(parts)

    wanted = logits(per_tensor.source, DEFAULT)
    found = []
    for form, settings in FORMS.items():
        ours = logits(qdq.SerializeToString(), settings)
        labels = int((ours.argmax(1) != wanted.argmax(1)).sum())
        found.append(FormDifference(form, ours.size, int((ours != wanted).sum()), labels))
    return found
