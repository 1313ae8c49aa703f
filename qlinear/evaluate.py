"""Accuracy of the models on CIFAR-10, and equality with ONNX Runtime on every image."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from qlinear.cifar10 import CLASSES
from qlinear.engine import check_tensor, run
from qlinear.errors import UnusableInput
from qlinear.onnx_model import Model
from qlinear.ort import all_outputs, session


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
    oracle = session(proto, threads=0)
    score = Score(model.path.name)
    for start in range(0, len(images), batch):
        x = images[start : start + batch].astype(np.float32)
        wanted = labels[start : start + batch]
        theirs = dict(zip(names, oracle.run(names, {x_name: x}), strict=True))
        if quantized:
            ours = run(model, x)
            for name in names:
                check = check_tensor(name, "", ours[name], theirs[name])
                score.elements += check.elements
                score.differing += check.mismatches
        hits = theirs[y_name].argmax(axis=1) == wanted
        score.images += len(wanted)
        score.seen += np.bincount(wanted, minlength=len(CLASSES))
        score.correct += np.bincount(wanted[hits], minlength=len(CLASSES))
        yield score
    if not score.images:
        raise UnusableInput("no images to evaluate")
