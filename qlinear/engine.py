"""Run a whole quantized graph by the reference, tensor by tensor."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np

from qlinear import float_sums, ort
from qlinear.compare import Comparison, compare_arrays
from qlinear.errors import Unsupported, UnusableInput
from qlinear.onnx_model import Model, Node
from qlinear.operators import MOVERS, OPERATORS, PREPARED, moved
from qlinear.quantized import is_quantized, reads, spread

RECOMPUTED, FLOAT, LEFT_OUT, SUMS = "recomputed", "float", "left out", "float sums"
# what has integer weights and float sums (:mod:`qlinear.float_sums`)
FLOAT_SUMS = (("com.microsoft", "MatMulNBits"),)


@dataclass(frozen=True)
class Step:
    """One node, computed.

    ``how`` is RECOMPUTED by the reference; FLOAT, an operator that is not quantized, which ONNX
    Runtime computed as one node of its own on our tensors; or LEFT_OUT, a quantized operator that
    the reference does not compute, for the ``reason`` given, and ONNX Runtime did likewise; or
    SUMS, integer weights that are ``compared`` with the reference's where that is asked for, and
    ONNX Runtime's sums.
    """

    node: Node
    outputs: dict[str, np.ndarray]
    how: str
    reason: str = ""
    quantized: bool = True
    compared: tuple[Comparison, ...] = ()


def operator(node: Node, operators: dict = OPERATORS) -> Callable[..., np.ndarray]:
    """The function for a node.

    Raises:
        UnusableInput: there is none; the message names the node and its operator.
    """
    try:
        return operators[node.domain, node.op_type]
    except KeyError:
        known = ", ".join(sorted(name for _, name in operators))
        raise UnusableInput(
            f"node {node.name}: operator {node.operator} is not supported (those that are: {known})"
        ) from None


def arguments(model: Model, node: Node, values: dict[str, np.ndarray]) -> list:
    """A node's inputs in order, from the tensors in ``values`` and the constants.

    Raises:
        UnusableInput: one of them is not there.
    """
    inputs = []
    for name in node.inputs:
        value = values.get(name, model.constants.get(name)) if name else None
        if name and value is None:
            raise UnusableInput(f"{model.path}: node {node.name}: input {name} is not defined")
        inputs.append(value)
    return inputs


def compute(
    model: Model, node: Node, values: dict[str, np.ndarray], operators: dict = OPERATORS
) -> np.ndarray:
    """Compute one node's first output from the tensors in ``values`` and the model's constants.

    Raises:
        UnusableInput: the operator, an input or an attribute is not supported.
    """
    inputs = arguments(model, node, values)
    try:
        if (node.domain, node.op_type) in MOVERS and (node.domain, node.op_type) not in operators:
            return moved(node, inputs, model.opset)[0]
        found = _apply(model, node, operator(node, operators), inputs)
        return found[0] if isinstance(found, tuple) else found
    except UnusableInput as error:
        raise UnusableInput(f"{model.path}: node {node.name}: {error}") from None
    except (TypeError, ValueError) as error:
        raise UnusableInput(f"{model.path}: node {node.name} ({node.op_type}): {error}") from None


def _apply(model: Model, node: Node, function: Callable, inputs: list) -> np.ndarray | tuple:
    """What an operator's function gives; where there is a way (PREPARED), prepared once.

    Kept is what was made of constants that cannot change, for a node of these very constants.
    """
    if function not in PREPARED:
        return function(*inputs, **node.attributes)
    prepare, positions = PREPARED[function]
    constants = [value for i, value in enumerate(inputs) if i not in positions]
    parts = [node.attributes, *constants]
    known, made = model.prepared.get(node.outputs, ((), None))
    if len(known) != len(parts) or any(a is not b for a, b in zip(known, parts, strict=True)):
        made = prepare(*constants, **node.attributes)
        given = [value for value in constants if value is not None]
        if all(isinstance(value, np.ndarray) and not value.flags.writeable for value in given):
            model.prepared[node.outputs] = parts, made
    return made(*(inputs[i] for i in positions))


def feeds_of(model: Model, x: np.ndarray | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors to feed, by name; a single array goes to the model's only input."""
    if isinstance(x, dict):
        return dict(x)
    if len(model.inputs) != 1:
        names = ", ".join(model.inputs)
        raise UnusableInput(
            f"{model.path}: {len(model.inputs)} inputs ({names}); feed each by name"
        )
    return {next(iter(model.inputs)): x}


def run(
    model: Model, x: np.ndarray | dict[str, np.ndarray], operators: dict = OPERATORS
) -> dict[str, np.ndarray]:
    """Run a model of supported operators and return every tensor that it computes, by name.

    Args:
        x: the model's input, or its inputs by name.
        operators: another table, to run the same graph with other arithmetic.

    Raises:
        UnusableInput: an operator is not supported, or a node cannot be computed.
    """
    for node in model.nodes:  # refuse before the work, not in its middle
        if (node.domain, node.op_type) not in MOVERS:
            operator(node, operators)
    values = feeds_of(model, x)
    for node in model.nodes:
        values[node.outputs[0]] = compute(model, node, values, operators)
    return values


def steps(
    model: Model,
    feeds: dict[str, np.ndarray],
    borrow: Callable[[Node, dict], dict] | None = None,
    *,
    given: Collection[str] | None = None,
    weights: bool = False,
) -> Iterator[Step]:
    """Run any graph to its end, a node at a time; a tensor is forgotten after its last reader.

    Args:
        feeds: the graph's inputs by name.
        borrow: :func:`qlinear.ort.borrower` of the same model, to keep its sessions between runs.
        given: the constants that the user's file holds, if the graph is ONNX Runtime's: a constant
            that it made itself and that is illegal, such as a scale of 0 where it merged two pairs,
            leaves a node out instead of making the file unusable.
        weights: compare those of the nodes with float sums, for which ONNX Runtime multiplies by
            every row of the unit matrix.

    Raises:
        UnusableInput: ONNX Runtime refuses a node that the reference does not compute.
    """
    borrow = borrow or ort.borrower(model)
    values: dict[str, np.ndarray] = dict(feeds)
    products: set[str] = set()  # what comes of integer products, however far
    read = {node.outputs: reads(node) for node in model.nodes}
    waiting = Counter(name for names in read.values() for name in names)
    for node in model.nodes:
        fed = {name: values[name] for name in read[node.outputs] if name in values}
        step = _step(model, node, fed, borrow, products, given, weights)
        products |= spread(node, step.outputs, products)
        yield step
        values.update({name: v for name, v in step.outputs.items() if waiting[name]})
        for name in read[node.outputs]:
            waiting[name] -= 1
            if not waiting[name]:
                values.pop(name, None)


def constant_steps(model: Model) -> Iterator[Step]:
    """The nodes of a file whose inputs are all constants, computed in order.

    ONNX Runtime computes them when it loads the file, so they are not in the graph that it runs.
    """
    borrow = ort.borrower(model)
    known: dict[str, np.ndarray] = {}
    products: set[str] = set()
    for node in model.nodes:
        names = reads(node)
        if not names or not all(name in known or name in model.constants for name in names):
            continue
        fed = {name: known[name] for name in names if name in known}
        step = _step(model, node, fed, borrow, products, weights=True)
        products |= spread(node, step.outputs, products)
        known |= step.outputs
        yield step


def _step(
    model: Model,
    node: Node,
    fed: dict,
    borrow: Callable,
    products: set[str],
    given: Collection[str] | None = None,
    weights: bool = False,
) -> Step:
    key, reason = (node.domain, node.op_type), ""
    if key in OPERATORS or key in MOVERS:
        try:
            found = computed(model, node, fed)
        except Unsupported as error:
            reason = f"{node.operator}: {error}"
        except UnusableInput as error:
            constants = [name for name in node.inputs if name in model.constants]
            if given is None or all(name in given for name in constants):
                raise UnusableInput(f"{model.path}: node {node.name}: {error}") from None
            reason = f"{node.operator}, with constants of ONNX Runtime's own: {error}"
        else:
            quantized = is_quantized(model, node, {**fed, **found}, products)
            return Step(node, found, RECOMPUTED, quantized=quantized)
    try:
        found = borrow(node, fed)
    except Exception as error:  # onnxruntime raises types of its own
        raise ort.refused(model.path, error) from None
    if key in FLOAT_SUMS:
        try:
            compared = _weights(model, node, fed, found, borrow) if weights else ()
            return Step(node, found, SUMS, compared=compared)
        except Unsupported as error:
            reason = f"{node.operator}: {error}"
        except UnusableInput as error:
            raise UnusableInput(f"{model.path}: node {node.name}: {error}") from None
    if not is_quantized(model, node, {**fed, **found}, products):
        return Step(node, found, FLOAT, quantized=False)
    return Step(node, found, LEFT_OUT, reason or f"{node.operator} is not computed yet")


def _weights(
    model: Model, node: Node, fed: dict, found: dict, borrow: Callable
) -> tuple[Comparison, ...]:
    a, *others = node.inputs
    if computed := [name for name in others if name in fed]:
        raise Unsupported(f"its input {computed[0]} is no constant")
    names = [name for name in node.inputs if name]
    if len(set(names)) != len(names):
        raise Unsupported("two of its inputs are one tensor")
    inputs = arguments(model, node, fed)
    bias = inputs[5] if len(inputs) > 5 else None
    none = {} if bias is None else {node.inputs[5]: np.zeros_like(bias)}

    def ask(A: np.ndarray, with_bias: bool) -> np.ndarray:
        return borrow(node, {a: A} | ({} if with_bias else none))[node.outputs[0]]

    return float_sums.check(node, inputs, found[node.outputs[0]], ask)


def computed(model: Model, node: Node, fed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A node's outputs by name, by the reference, from the tensors that it is fed.

    Raises:
        Unsupported: the reference does not compute it so; the message says what is in the way.
        UnusableInput: an input is illegal.
    """
    inputs = arguments(model, node, fed)
    try:
        if (node.domain, node.op_type) in OPERATORS:
            found = _apply(model, node, OPERATORS[node.domain, node.op_type], inputs)
            found = found if isinstance(found, tuple) else (found,)
        else:
            found = moved(node, inputs, model.opset)
    except (TypeError, ValueError) as error:
        raise Unsupported(str(error)) from None
    missing = [name for name in node.outputs[len(found) :] if name]
    if missing:
        raise Unsupported(f"its output {missing[0]} is not computed")
    pairs = zip(node.outputs, found, strict=False)  # np.asarray: 0-d results may be scalars
    return {name: np.asarray(value) for name, value in pairs if name}


def compare(
    model: Model,
    x: np.ndarray | dict[str, np.ndarray],
    theirs: dict[str, np.ndarray] | None = None,
) -> list[Comparison]:
    """Run a QOperator model by the reference and by ONNX Runtime, each on its own tensors.

    Args:
        theirs: ONNX Runtime's tensors, if they are known already.

    Returns:
        one entry per computed tensor; ``pandas.DataFrame(compare(model, x))`` is a table.
    """
    ours = run(model, x)
    theirs = theirs or ort.tensors(model, x)
    return [
        compare_arrays(name, ours[name], theirs[name], node=node.name, operator=node.operator)
        for node in model.nodes
        for name in node.outputs[:1]
    ]
