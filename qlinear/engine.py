"""Run a whole quantized model by the reference, and compare every tensor with ONNX Runtime."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.onnx_model import Model, Node
from qlinear.operators import OPERATORS
from qlinear.ort import tensors


@dataclass(frozen=True)
class TensorCheck:
    """One tensor of a model, ours against ONNX Runtime's."""

    tensor: str
    op_type: str
    elements: int
    mismatches: int
    first_mismatch: str  # "at (n, c, y, x): ours 3, ORT 4", or empty


def operator(node: Node, operators: dict = OPERATORS) -> Callable[..., np.ndarray]:
    """The function for a node.

    Raises:
        UnusableInput: there is none; the message names the node and its operator.
    """
    try:
        return operators[node.domain, node.op_type]
    except KeyError:
        known = ", ".join(sorted(name for _, name in operators))
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise UnusableInput(
            f"node {node.name}: operator {name} is not supported (those that are: {known})"
        ) from None


def compute(
    model: Model, node: Node, values: dict[str, np.ndarray], operators: dict = OPERATORS
) -> np.ndarray:
    """Compute one node from the tensors in ``values`` and the model's constants.

    Raises:
        UnusableInput: the operator, an input or an attribute is not supported.
    """
    function = operator(node, operators)
    inputs = []
    for name in node.inputs:
        value = values.get(name, model.constants.get(name)) if name else None
        if name and value is None:
            raise UnusableInput(f"{model.path}: node {node.name}: input {name} is not defined")
        inputs.append(value)
    try:
        return function(*inputs, **node.attributes)
    except UnusableInput as error:
        raise UnusableInput(f"{model.path}: node {node.name}: {error}") from None
    except TypeError as error:
        raise UnusableInput(f"{model.path}: node {node.name} ({node.op_type}): {error}") from None


def run(model: Model, x: np.ndarray, operators: dict = OPERATORS) -> dict[str, np.ndarray]:
    """Run a model with one input and return every tensor that it computes, by name.

    Args:
        operators: another table, to run the same graph with other arithmetic.

    Raises:
        UnusableInput: an operator is not supported, or a node cannot be computed.
    """
    for node in model.nodes:
        operator(node, operators)  # refuse before the work, not in its middle
    (x_name,) = model.inputs
    values = {x_name: x}
    for node in model.nodes:
        values[node.outputs[0]] = compute(model, node, values, operators)
    return values


def compare(
    model: Model, x: np.ndarray, theirs: dict[str, np.ndarray] | None = None
) -> list[TensorCheck]:
    """Run a model by the reference and by ONNX Runtime, each on its own tensors throughout.

    Args:
        theirs: ONNX Runtime's tensors, if they are known already.

    Returns:
        one entry per computed tensor; ``pandas.DataFrame(compare(model, x))`` is a table.
    """
    ours, theirs = run(model, x), theirs or tensors(model, x)
    return [
        check_tensor(name, node.op_type, ours[name], theirs[name])
        for node in model.nodes
        for name in node.outputs[:1]
    ]


def check_tensor(name: str, op_type: str, ours: np.ndarray, theirs: np.ndarray) -> TensorCheck:
    """Compare two tensors with ``==`` on every element (NaN equals NaN)."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        first = f"ours is {ours.dtype}{ours.shape}, ORT's {theirs.dtype}{theirs.shape}"
        return TensorCheck(name, op_type, theirs.size, theirs.size, first)
    wrong = (ours != theirs) & ~((ours != ours) & (theirs != theirs))
    first = ""
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        first = f"at {at}: ours {ours[at]}, ORT {theirs[at]}"
    return TensorCheck(name, op_type, theirs.size, int(wrong.sum()), first)
