"""Check nodes of a model against ONNX Runtime, and report what was found."""

import json
from dataclasses import asdict, dataclass

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.onnx_model import CONV_INPUTS, Model, Node, conv_arguments
from qlinear.operators.qlinear_conv import qlinear_conv
from qlinear.ort import tensors

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
