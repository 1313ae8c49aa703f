"""The verdict on a ``.tflite`` file: the operators here against LiteRT on the user's own bytes.

The same record and the same rules as for ONNX (``qlinear.validate``).
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from qlinear.compare import Comparison, compare_arrays
from qlinear.engine import FLOAT, LEFT_OUT, RECOMPUTED, Step
from qlinear.errors import Refused, Unsupported, UnusableInput
from qlinear.inputs import Feed
from qlinear.onnx_model import Node
from qlinear.quantized import NARROW
from qlinear.tflite import litert, xnnpack
from qlinear.tflite.arithmetic import Stages
from qlinear.tflite.model import TFLite
from qlinear.tflite.reference import OPERATORS
from qlinear.validate import (
    Coverage,
    Default,
    Progress,
    Verdict,
    coverage_of,
    least,
    merged,
)

# operators that multiply and accumulate, in integers or in float
MAC = (
    "BATCH_MATMUL BIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_RNN CONV_2D CONV_3D "
    "CONV_3D_TRANSPOSE DEPTHWISE_CONV_2D FULLY_CONNECTED LSTM RNN SVDF TRANSPOSE_CONV "
    "UNIDIRECTIONAL_SEQUENCE_LSTM UNIDIRECTIONAL_SEQUENCE_RNN"
).split()
RUNTIME = "LiteRT"


def is_quantized(model: TFLite, node: Node) -> bool:
    """Whether a node reads or writes a tensor of 2 to 16 bits, or one that has a scale."""
    names = [name for name in (*node.inputs, *node.outputs) if name]
    types = [model.types[name] for name in names]
    return any(t.dtype.startswith(NARROW) or t.scale.size for t in types)


def stages(
    model: TFLite, node: Node, values: dict[str, np.ndarray], operators: dict = OPERATORS
) -> Stages:
    """What a node computes, step by step, from the tensors around it.

    Args:
        values: the tensors that are computed before it, by name.
        operators: the functions, by their names in the schema.

    Raises:
        Unsupported: the operator, a type, an option or a value is not computed here.
    """
    if node.op_type not in operators:
        raise Unsupported("not computed yet")
    if [bool(name) for name in node.outputs] != [True]:
        raise Unsupported(f"{len(node.outputs)} outputs: one needed")
    known = model.constants | values
    absent = [name for name in node.inputs if name and name not in known]
    if absent:
        raise Unsupported(f"{absent[0]} has type {model.types[absent[0]].dtype}")
    arrays = [known[name] if name else None for name in node.inputs]
    types = tuple(model.types[name] if name else None for name in node.inputs)
    options = {k: v for k, v in node.attributes.items() if v is not None}
    y_type = model.types[node.outputs[0]]
    try:
        return operators[node.op_type](*arrays, types=types, y_type=y_type, **options)
    except Unsupported:
        raise
    except (ArithmeticError, TypeError, ValueError, IndexError) as error:
        # too many inputs, an unknown option, sizes of 0
        raise Unsupported(str(error).splitlines()[0]) from None


def steps(
    model: TFLite,
    feeds: dict[str, np.ndarray],
    theirs: dict[str, np.ndarray],
    operators: dict = OPERATORS,
) -> Iterator[Step]:
    """Run the graph to its end, a node at a time.

    Args:
        theirs: LiteRT's tensors: what is not computed here is taken from them.
    """
    values = dict(feeds)
    for node in model.nodes:
        quantized = is_quantized(model, node)
        try:
            y = stages(model, node, values, operators)["y"]
        except Unsupported as error:
            found = {name: theirs[name] for name in node.outputs if name in theirs}
            how = LEFT_OUT if quantized else FLOAT
            yield Step(node, found, how, f"{node.op_type}: {error}", quantized=quantized)
        else:
            found = {node.outputs[0]: y}
            yield Step(node, found, RECOMPUTED, quantized=quantized)
        values |= found


def writes(model: TFLite) -> list[str]:
    """Every tensor that a node writes, and the graph's outputs."""
    written = (name for node in model.nodes for name in node.outputs if name)
    return list(dict.fromkeys([*written, *model.outputs]))


def validate(
    model: TFLite,
    feeds: list[Feed],
    *,
    progress: Progress | None = None,
    operators: dict = OPERATORS,
) -> Verdict:
    """Compare every tensor that is recomputed, and every output of the graph.

    Args:
        feeds: the inputs (:func:`qlinear.inputs.read_feeds`).
        progress: as for :func:`qlinear.validate.validate`.
        operators: another table, to see that other arithmetic is noticed.

    Raises:
        UnusableInput: LiteRT refuses the file or an input, or nothing in it is quantized.
    """
    progress = progress or (lambda parts, title, total: parts)
    _require_comparable(model)
    outputs, tensors, by_default, coverages = [], [], [], []
    notes: set[str] = set()
    writers = {name: node for node in model.nodes for name in node.outputs}
    with ExitStack() as open_:
        file = open_.enter_context(litert.Session(model))
        keeping = open_.enter_context(litert.Session(model, keep=True))
        plain = _open_default(model, open_)
        for feed in feeds:
            ends = _outputs(model, file, feed)
            theirs = keeping.run(feed.values, writes(model))
            _check_same(model, ends, theirs)
            theirs = ends | theirs
            seen, ours = [], {**model.constants, **feed.values}
            walk = steps(model, feed.values, theirs, operators)
            for step in progress(walk, feed.source, len(model.nodes)):
                seen.append(replace(step, outputs={}))
                ours |= {k: v for k, v in step.outputs.items() if k in ends}
                if step.quantized and step.how == RECOMPUTED:
                    between = {k: v for k, v in step.outputs.items() if k not in ends}
                    tensors += [_compared(step.node, k, v, theirs[k])
                                for k, v in between.items() if k in theirs]  # fmt: skip
                    notes |= {f"LiteRT does not hand out {k}" for k in between if k not in theirs}
            outputs += [_compared(writers.get(k), k, ours[k], v) for k, v in ends.items()]
            coverages.append(coverage_of(seen, MAC))
            by_default += _by_default(plain, feed, ends)
    session = f"reference kernels ({litert.REFERENCE})"
    default = _default(by_default)
    return _verdict(
        model, feeds, session, outputs, tensors, coverages, default, tuple(sorted(notes))
    )


def validate_default(
    model: TFLite, feeds: list[Feed], *, progress: Progress | None = None
) -> Verdict:
    """Compare the graph's outputs with what LiteRT computes by default, by XNNPACK where it can.

    It hands out no tensors in between of what XNNPACK computes, so a graph is followed by
    :mod:`qlinear.tflite.xnnpack` alone.

    Args:
        as for :func:`validate`.

    Raises:
        UnusableInput: as for :func:`validate`, or a node is not computed in this form.
    """
    progress = progress or (lambda parts, title, total: parts)
    _require_comparable(model)
    outputs, coverages = [], []
    writers = {name: node for node in model.nodes for name in node.outputs}
    with litert.Session(model, litert.DEFAULT) as file:
        for feed in feeds:
            ends = _outputs(model, file, feed)
            seen, ours = [], {**model.constants, **feed.values}
            walk = steps(model, feed.values, {}, xnnpack.OPERATORS)
            for step in progress(walk, feed.source, len(model.nodes)):
                reason = step.reason or _not_taken(model, step)
                if reason:
                    raise UnusableInput(
                        f"{model.path}: node {step.node.name}: {reason}; by default LiteRT "
                        "hands out no tensors in between, so nothing behind it can be compared"
                    )
                seen.append(replace(step, outputs={}))
                ours |= {k: v for k, v in step.outputs.items() if k in ends}
            outputs += [_compared(writers.get(k), k, ours[k], v) for k, v in ends.items()]
            coverages.append(coverage_of(seen, MAC))
    notes = ("LiteRT hands out no tensors in between by default: only outputs were compared",)
    session = "default kernels (XNNPACK where it takes a node)"
    return _verdict(model, feeds, session, outputs, [], coverages, None, notes)


def _not_taken(model: TFLite, step: Step) -> str:
    """Why XNNPACK leaves a node to other kernels; empty where that is not known."""
    fixed = {*model.constants} - {*model.inputs}
    try:
        xnnpack.require_taken(step.node, model.types, step.outputs, fixed)
    except Unsupported as error:
        return f"{step.node.op_type}: {error}"
    return ""


def _outputs(model: TFLite, session: litert.Session, feed: Feed) -> dict[str, np.ndarray]:
    found = session.run(feed.values, model.outputs)
    for name in model.outputs:
        if name not in found:
            raise UnusableInput(f"{model.path}: LiteRT does not hand out the output {name}")
    return found


def _require_comparable(model: TFLite) -> None:
    """Refuse a file of which nothing is quantized, or an output is a constant that is not read."""
    made = {*model.inputs, *model.constants, *(o for n in model.nodes for o in n.outputs)}
    for name in model.outputs:
        if name not in made:
            raise UnusableInput(f"{model.path}: output {name} is a constant of type "
                                f"{model.types[name].dtype}, which is not read")  # fmt: skip
    if not any(is_quantized(model, node) for node in model.nodes):
        kinds = ", ".join(sorted({node.op_type for node in model.nodes}))
        raise UnusableInput(f"{model.path}: no quantized operator (its operators: {kinds})")


def _verdict(
    model: TFLite,
    feeds: list[Feed],
    session: str,
    outputs: list[Comparison],
    tensors: list[Comparison],
    coverages: list[Coverage],
    default: Default | None,
    notes: tuple[str, ...] = (),
) -> Verdict:
    if not sum(c.elements for c in (*outputs, *tensors)):
        raise UnusableInput(f"{model.path}: its tensors have no elements, so nothing is compared")
    return Verdict(
        model=str(model.path),
        inputs=tuple(feed.source for feed in feeds),
        session=f"LiteRT {litert.version()}, {session}",
        outputs=merged(outputs),
        tensors=merged(tensors),
        coverage=least(coverages),
        default=default,
        notes=notes,
        runtime=RUNTIME,
    )


def check_node(model: TFLite, node: Node, feeds: list[Feed]) -> list[Comparison]:
    """Compare one node's output for each input, alone, from LiteRT's own inputs of it.

    Raises:
        UnusableInput: the node is not computed; the message says why.
    """
    found = []
    with litert.Session(model, keep=True) as session:
        for feed in feeds:
            known = {**model.constants, **feed.values}
            names = [n for n in (*node.inputs, *node.outputs) if n and n not in known]
            values = feed.values | session.run(feed.values, names)
            if any(n not in values for n in names):
                raise UnusableInput(f"{model.path}: node {node.name}: LiteRT does not hand out "
                                    "the tensors around it")  # fmt: skip
            try:
                y = stages(model, node, values)["y"]
            except Unsupported as error:
                raise UnusableInput(
                    f"{model.path}: node {node.name}: {node.op_type}: {error}"
                ) from None
            found.append(_compared(node, node.outputs[0], y, values[node.outputs[0]]))
    return list(merged(found))


def _compared(node: Node | None, name: str, ours: np.ndarray, theirs: np.ndarray) -> Comparison:
    named = dict(node=node.name, operator=node.operator) if node else {}
    return compare_arrays(name, ours, theirs, **named)


def _check_same(model: TFLite, ends: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    """Refuse a file whose outputs LiteRT computes otherwise when it keeps every tensor."""
    for name, value in ends.items():
        if name in theirs and not compare_arrays(name, theirs[name], value).equal:
            raise UnusableInput(f"{model.path}: LiteRT computes another {name} every time, or "
                                "when it keeps the tensors in between")  # fmt: skip


def _open_default(model: TFLite, open_: ExitStack) -> litert.Session | None:
    """A session that sets nothing; None where LiteRT does not open the file so."""
    try:
        return open_.enter_context(litert.Session(model, litert.DEFAULT))
    except Refused:
        return None


def _by_default(
    plain: litert.Session | None, feed: Feed, ends: dict[str, np.ndarray]
) -> list[Comparison]:
    """What the default session computes, beside ours; nothing where it does not run."""
    try:
        found = plain.run(feed.values, ends) if plain else {}
    except Refused:
        return []
    return [_compared(None, name, value, ends[name]) for name, value in found.items()]


def _default(comparisons: list[Comparison]) -> Default | None:
    if not comparisons:
        return None
    elements = sum(c.elements for c in comparisons)
    return Default(elements, sum(c.mismatches for c in comparisons), 0, 0)
