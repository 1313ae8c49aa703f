"""The verdict on a file: the reference against ONNX Runtime on the user's own bytes.

One way through: read the file (onnx_model), let ONNX Runtime say which network it denotes (fuse),
run that by the reference and the file by ONNX Runtime, compare, and say what was proven.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from qlinear import engine, oracle, ort
from qlinear.compare import Comparison, compare_arrays
from qlinear.conditions import broken
from qlinear.engine import Step
from qlinear.errors import Refused, UnusableInput
from qlinear.fuse import Network, fuse
from qlinear.inputs import Feed
from qlinear.onnx_model import Model, Node

import onnxruntime

# the exit status of each verdict; 2 is for anything unusable
STATUS = {"PASS": 0, "FAIL": 1, "PARTIAL": 3}
STATUS_TABLE = """exit status:
  0 PASS     every quantized operator was recomputed, and all that was compared is equal
  1 FAIL     an element differs
  2 error    the model or an input is unusable; one line says why
  3 PARTIAL  all that was compared is equal, but something quantized was not recomputed
"""
HELD = 1 << 28  # bytes of our tensors that are kept until ONNX Runtime is asked for its own

Progress = Callable[[Iterable[Step], str, int], Iterable[Step]]


@dataclass(frozen=True)
class Coverage:
    """What kinds of nodes the graph was followed through."""

    quantized: int  # nodes that work on quantized data
    recomputed: int  # of these, by the reference
    mac: int  # multiply-accumulate nodes, in integers or in float
    mac_recomputed: int  # of these, by the reference
    float: dict[str, int]  # what ONNX Runtime computes in float: how many of each operator
    left_out: dict[str, list[str]]  # why a quantized operator was not recomputed: the nodes


@dataclass(frozen=True)
class Default:
    """What a session that sets nothing computes instead."""

    elements: int  # of the graph's outputs
    mismatches: int  # against the session of the verdict
    float_mac: int  # multiply-accumulate nodes that it computes in float
    float_mac_here: int  # and the session of the verdict


@dataclass(frozen=True)
class Verdict:
    """What was compared, and what that proves, for these bytes and these inputs."""

    model: str
    inputs: tuple[str, ...]
    session: str
    outputs: tuple[Comparison, ...]  # the graph's outputs, against ONNX Runtime on the file
    tensors: tuple[Comparison, ...]  # what quantized operators write, in the graph's order
    coverage: Coverage
    default: Default | None  # None where ONNX Runtime does not run the file so
    notes: tuple[str, ...] = field(default=())

    @property
    def status(self) -> str:
        """PASS, PARTIAL or FAIL."""
        if not all(c.equal for c in (*self.outputs, *self.tensors)):
            return "FAIL"
        return "PARTIAL" if self.coverage.left_out else "PASS"

    def as_json(self) -> dict:
        return {
            **asdict(self),
            "verdict": self.status,
            "status": STATUS[self.status],
            "outputs": [c.as_json() for c in self.outputs],
            "tensors": [c.as_json() for c in self.tensors],
        }


def validate(model: Model, feeds: list[Feed], *, progress: Progress | None = None) -> Verdict:
    """Compare every tensor that the reference recomputes, and every output of the graph.

    Args:
        feeds: the inputs (:func:`qlinear.inputs.read_feeds`).
        progress: wraps the steps as they are computed; it is told a title and their number.

    Raises:
        UnusableInput: ONNX Runtime refuses the file or an input, or nothing in it is quantized.
    """
    network = oracle.settle(model, feeds[0].values)
    file = oracle.open_file(model, network.settings)
    between, borrow = _open_between(network), ort.borrower(network.graph)
    outputs: list[Comparison] = []
    tensors: list[Comparison] = []
    by_default: list[Comparison] = []
    notes = broken(network)
    for feed in feeds:
        theirs = oracle.outputs(model, file, feed.values)
        by_default += _by_default(model, feed.values, theirs)
        usable = between if _runs_the_same(between, feed.values, theirs) else None
        if usable is None:
            notes.append(
                "asking ONNX Runtime for tensors in between changes what it computes; "
                "only the graph's outputs were compared"
            )
        walk = engine.steps(network.graph, feed.values, borrow)
        walk = progress(walk, feed.source, len(network.graph.nodes)) if progress else walk
        seen, ours, found = _follow(network.graph, walk, feed.values, usable, theirs)
        outputs += _compared({k: ours.get(k) for k in theirs}, theirs, network.graph)
        tensors += found
    coverage = _coverage(seen)
    if not coverage.quantized:
        kinds = ", ".join(sorted({n.operator for n in model.nodes})) or "none"
        raise UnusableInput(f"{model.path}: no quantized operator (its operators: {kinds})")
    return Verdict(
        model=str(model.path),
        inputs=tuple(feed.source for feed in feeds),
        session=str(network.settings),
        outputs=_merged(outputs),
        tensors=_merged(tensors),
        coverage=coverage,
        default=_default(model, network, by_default),
        notes=tuple(dict.fromkeys(notes)),
    )


@dataclass(frozen=True, eq=False)
class Checked:
    """One node alone, recomputed from what ONNX Runtime feeds it."""

    node: Node
    values: dict[str, np.ndarray]  # ONNX Runtime's tensors around it, by name
    comparisons: tuple[Comparison, ...]  # one for each of its outputs

    @property
    def equal(self) -> bool:
        return all(c.equal for c in self.comparisons)


def check_nodes(network: Network, nodes: list[Node], feed: Feed) -> Iterator[Checked]:
    """Compare nodes one by one, each alone on ONNX Runtime's own inputs of it.

    Raises:
        UnusableInput: the reference does not compute a node; the message says why.
    """
    graph, path = network.graph, network.file.path
    for node in nodes:
        if (node.domain, node.op_type) not in {*engine.OPERATORS, *engine.MOVERS}:
            raise UnusableInput(f"{path}: node {node.name}: {node.operator} is not computed yet")
    around = {node.outputs: [n for n in (*node.inputs, *node.outputs) if n] for node in nodes}
    session = oracle.open_graph(network, (name for names in around.values() for name in names))
    there = {output.name for output in session.get_outputs()}
    for node in nodes:
        names = [name for name in dict.fromkeys(around[node.outputs]) if name in there]
        values = feed.values | oracle.outputs(network.file, session, feed.values, names)
        try:
            ours = engine.computed(graph, node, values)
        except UnusableInput as error:
            raise UnusableInput(f"{path}: node {node.name}: {error}") from None
        comparisons = (
            compare_arrays(k, v, values[k], node=node.name, operator=node.operator)
            for k, v in ours.items()
        )
        yield Checked(node, values, tuple(comparisons))


def _open_between(network: Network) -> onnxruntime.InferenceSession | None:
    """ONNX Runtime's graph, handing out all that quantized operators write; None if it does not."""
    known = {*engine.OPERATORS, *engine.MOVERS}
    nodes = [node for node in network.graph.nodes if (node.domain, node.op_type) in known]
    try:
        return oracle.open_graph(network, (name for n in nodes for name in n.outputs if name))
    except UnusableInput:
        return None


def _runs_the_same(
    session: onnxruntime.InferenceSession | None, feeds: dict, wanted: dict[str, np.ndarray]
) -> bool:
    """Whether a session of the graph computes the outputs that the file has."""
    if session is None:
        return False
    try:
        found = ort.run_session(session, list(wanted), feeds)
    except Exception:  # onnxruntime raises types of its own
        return False
    again = dict(zip(wanted, found, strict=True))
    return all(c.equal for c in _compared(again, wanted))


def _follow(
    graph: Model,
    walk: Iterable[Step],
    feeds: dict[str, np.ndarray],
    between: onnxruntime.InferenceSession | None,
    ends: Iterable[str],
) -> tuple[list[Step], dict[str, np.ndarray], list[Comparison]]:
    """Walk the graph to its end: the steps without their tensors, our outputs, comparisons."""
    ours = {name: graph.constants[name] for name in ends if name in graph.constants}
    ours |= {name: feeds[name] for name in ends if name in feeds}
    seen: list[Step] = []
    found: list[Comparison] = []
    pending: dict[str, tuple[Node, np.ndarray]] = {}
    for step in walk:
        seen.append(replace(step, outputs={}))
        ours |= {name: value for name, value in step.outputs.items() if name in ends}
        if between and step.quantized and step.how == engine.RECOMPUTED:
            pending |= {k: (step.node, v) for k, v in step.outputs.items() if k not in ends}
        if sum(value.nbytes for _, value in pending.values()) > HELD:
            found += _fetched(between, feeds, pending)
            pending = {}
    return seen, ours, found + _fetched(between, feeds, pending)


def _fetched(
    between: onnxruntime.InferenceSession | None,
    feeds: dict,
    pending: dict[str, tuple[Node, np.ndarray]],
) -> list[Comparison]:
    if not pending:
        return []
    theirs = ort.run_session(between, list(pending), feeds)
    return [
        compare_arrays(name, value, their, node=node.name, operator=node.operator)
        for (name, (node, value)), their in zip(pending.items(), theirs, strict=True)
    ]


def _compared(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], graph: Model | None = None
) -> list[Comparison]:
    writers = {name: node for node in graph.nodes for name in node.outputs} if graph else {}
    return [
        compare_arrays(
            name,
            ours[name],
            value,
            node=writers[name].name if name in writers else "",
            operator=writers[name].operator if name in writers else "",
        )
        for name, value in theirs.items()
    ]


def _by_default(
    model: Model, feeds: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> list[Comparison]:
    """What a session that sets nothing computes, beside this one; nothing where it does not run."""
    try:
        plain = oracle.outputs(model, oracle.open_file(model, ort.DEFAULT), feeds)
    except Refused:
        return []
    return _compared(plain, theirs)


def _coverage(seen: list[Step]) -> Coverage:
    left_out: dict[str, list[str]] = {}
    for step in seen:
        if step.how == engine.LEFT_OUT:
            left_out.setdefault(step.reason, []).append(step.node.name)
    mac = [s for s in seen if s.node.op_type in (*engine.FLOAT_MAC, *engine.INTEGER_MAC)]
    return Coverage(
        quantized=sum(s.quantized for s in seen),
        recomputed=sum(s.quantized and s.how == engine.RECOMPUTED for s in seen),
        mac=len(mac),
        mac_recomputed=sum(s.how == engine.RECOMPUTED for s in mac),
        float=dict(Counter(s.node.operator for s in seen if s.how == engine.FLOAT)),
        left_out=left_out,
    )


def _default(model: Model, network: Network, comparisons: list[Comparison]) -> Default | None:
    if not comparisons:
        return None

    def float_mac(graph: Model) -> int:
        return sum(node.op_type in engine.FLOAT_MAC for node in graph.nodes)

    entries_only = replace(ort.DEFAULT, level=network.settings.level)
    other = network.graph if network.settings == entries_only else fuse(model, entries_only).graph
    return Default(
        elements=sum(c.elements for c in comparisons),
        mismatches=sum(c.mismatches for c in comparisons),
        float_mac=float_mac(other),
        float_mac_here=float_mac(network.graph),
    )


def _merged(comparisons: list[Comparison]) -> tuple[Comparison, ...]:
    """The comparisons of several inputs, one for each tensor, in the order in which they came."""
    merged: dict[str, Comparison] = {}
    for c in comparisons:
        before = merged.get(c.tensor)
        merged[c.tensor] = c if before is None else replace(
            before,
            elements=before.elements + c.elements,
            mismatches=before.mismatches + c.mismatches,
            max_difference=max(before.max_difference, c.max_difference),
            first=before.first or c.first,
        )  # fmt: skip
    return tuple(merged.values())
