"""Check nodes of a model against ONNX Runtime, and report what was found."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from qlinear.cifar10 import load_samples, read_image
from qlinear.errors import UnusableInput
from qlinear.onnx_model import CONV_INPUTS, Model, Node, conv_arguments
from qlinear.ort import tensors
from qlinear.qlinear_conv import qlinear_conv

PARAMETERS = [name for name in CONV_INPUTS if name not in ("x", "w", "B")]


@dataclass(frozen=True)
class Check:
    """One node compared with ONNX Runtime, element for element."""

    node: str
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    elements: int
    mismatches: int
    max_difference: int
    first: dict | None  # index, ours and ort's value of the first mismatch

    @property
    def passed(self) -> bool:
        return self.mismatches == 0


def compare_arrays(node: str, x: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> Check:
    """Compare two integer tensors with ``==`` on every element."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        raise UnusableInput(
            f"node {node}: ONNX Runtime returns {theirs.dtype}{theirs.shape}, "
            f"the reference {ours.dtype}{ours.shape}"
        )
    difference = ours.astype(np.int64) - theirs.astype(np.int64)
    wrong = np.argwhere(difference)
    first = None
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        first = {"index": at, "ours": int(ours[at]), "ort": int(theirs[at])}
    largest = int(np.abs(difference).max(initial=0))
    return Check(node, x.shape, theirs.shape, theirs.size, len(wrong), largest, first)


def check_conv(model: Model, node: Node, values: dict[str, np.ndarray]) -> Check:
    """Compute one QLinearConv node by the reference and compare it with ONNX Runtime's tensor.

    Args:
        values: every tensor of the model as ONNX Runtime computes it (:func:`qlinear.ort.tensors`).
    """
    x = values.get(node.inputs[0], model.constants.get(node.inputs[0]))
    try:
        ours = qlinear_conv(x, **conv_arguments(model, node), **node.attributes)
    except UnusableInput as error:
        raise UnusableInput(f"{model.path}: node {node.name}: {error}") from None
    return compare_arrays(node.name, x, ours, values[node.outputs[0]])


def convolutions(model: Model) -> list[Node]:
    """The model's QLinearConv nodes.

    Raises:
        UnusableInput: it has none.
    """
    nodes = [n for n in model.of_type("QLinearConv") if not n.domain]
    if not nodes:
        kinds = ", ".join(sorted({n.op_type for n in model.nodes})) or "none"
        raise UnusableInput(
            f"{model.path}: no QLinearConv node (its operators: {kinds}); "
            f"quantize it with QuantFormat.QOperator"
        )
    return nodes


def read_input(model: Model, path: Path | None) -> np.ndarray:
    """The model's input: an image or .npy file, else a sample image, else seeded random values.

    Raises:
        UnusableInput: the file or its shape does not fit the model's one input.
    """
    if len(model.inputs) != 1:
        raise UnusableInput(f"{model.path}: {len(model.inputs)} inputs; only one is supported")
    ((name, (dtype, shape)),) = model.inputs.items()
    if path is None:
        return _default_input(model, name, dtype, shape)
    if path.suffix == ".npy":
        try:
            x = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UnusableInput(f"{path}: not a .npy array ({reason})") from None
    else:
        x = read_image(path)
    if x.ndim == len(shape) - 1:
        x = x[None]
    fits = x.ndim == len(shape) and all(
        not isinstance(want, int) or want == have for want, have in zip(shape, x.shape, strict=True)
    )
    if not fits:
        raise UnusableInput(f"{path}: shape {x.shape} does not fit input {name} {shape}")
    if x.dtype.kind not in "iuf" or not np.isfinite(x).all():
        raise UnusableInput(f"{path}: {x.dtype} values; finite numbers needed")
    return x.astype(dtype)


def _default_input(model: Model, name: str, dtype: np.dtype, shape: tuple) -> np.ndarray:
    shape = (1, *shape[1:]) if shape and not isinstance(shape[0], int) else shape
    if not all(isinstance(size, int) for size in shape):
        raise UnusableInput(f"{model.path}: input {name} has shape {shape}; give --input FILE")
    if np.prod(shape, dtype=np.float64) > 2**28:
        raise UnusableInput(f"{model.path}: input {name} has shape {shape}, too large to make up")
    if shape == (1, 3, 32, 32):
        return load_samples()[0][:1].astype(dtype)
    rng = np.random.default_rng(0)
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    return rng.normal(size=shape).astype(dtype)


def validate(model: Model, nodes: list[Node], x: np.ndarray) -> list[Check]:
    """Check each of ``nodes`` on the activations that ``x`` gives rise to in the model."""
    values = tensors(model, x)
    return [check_conv(model, node, values) for node in nodes]


def describe(value: np.ndarray) -> str:
    """A parameter on one line: a scalar in full, a vector by its type, range and first values."""
    flat = value.ravel()
    if value.ndim == 0 or value.size == 1:
        return f"{flat[0]} ({value.dtype})"
    if (flat == flat[0]).all():
        return f"{value.size} x {flat[0]} ({value.dtype}, per-channel)"
    head = ", ".join(str(v) for v in flat[:4])
    return (
        f"[{head}, …] ({value.dtype}, per-channel: {value.size} values "
        f"from {flat.min()} to {flat.max()})"
    )


def report(model: Model, node: Node, check: Check) -> str:
    """The text for one node, in the shape that the book documents."""
    arguments = conv_arguments(model, node)
    lines = [f"Found QLinearConv node: {node.name}", "", "Input parameters:"]
    lines += [f"  {name}: {describe(arguments[name])}" for name in PARAMETERS]
    lines += ["", "Manual computation:"]
    lines += [f"  Input shape: {check.x_shape}", f"  Output shape: {check.y_shape}", ""]
    if check.passed:
        lines += ["Validation result: PASS ✓", "  Max difference: 0 (exact match)"]
    else:
        first = check.first
        lines += [
            "Validation result: FAIL ✗",
            f"  Max difference: {check.max_difference}",
            f"  Mismatches: {check.mismatches} of {check.elements} elements",
            f"  First at {first['index']}: computed {first['ours']}, "
            f"ONNX Runtime has {first['ort']}",
        ]
    return "\n".join(lines)


def report_json(model: Model, checks: list[Check]) -> str:
    """All checks as one JSON document."""
    nodes = []
    for check in checks:
        arguments = conv_arguments(model, model.node(check.node))
        parameters = {name: arguments[name].tolist() for name in PARAMETERS}
        nodes.append({**asdict(check), "passed": check.passed, "parameters": parameters})
    passed = all(check.passed for check in checks)
    return json.dumps({"model": str(model.path), "passed": passed, "nodes": nodes}, indent=2)
