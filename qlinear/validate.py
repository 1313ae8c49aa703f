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
from qlinear.conditions import broken, quantized_by_ort
from qlinear.engine import Step
from qlinear.errors import Refused, UnusableInput
from qlinear.fuse import Network, fuse
from qlinear.inputs import Feed
from qlinear.onnx_model import Model, Node
from qlinear.quantized import FLOAT_MAC, INTEGER_MAC, reads

import onnxruntime

# the exit status of each verdict; 2 is for anything unusable
STATUS = {"PASS": 0, "FAIL": 1, "PARTIAL": 3}
STATUS_TABLE = """exit status:
  0 PASS     every quantized operator was recomputed, and all that was compared is equal
  1 FAIL     an element differs
  2 error    the model or an input is unusable; one line says why
  3 PARTIAL  all that was compared is equal, but something quantized was not recomputed

Of MatMulNBits the weights are recomputed; its float sums are ONNX Runtime's.
"""
ALL_MAC = (*FLOAT_MAC, *INTEGER_MAC)
HELD = 1 << 28  # bytes of our tensors that are kept until ONNX Runtime is asked for its own

Progress = Callable[[Iterable, str, int], Iterable]


@dataclass(frozen=True)
class Coverage:
    """What kinds of nodes the graph was followed through."""

    quantized: int  # nodes that work on quantized data
    recomputed: int  # of these, by the reference
    mac: int  # multiply-accumulate nodes, in integers or in float
    mac_recomputed: int  # of these, by the reference
    float: dict[str, int]  # not quantized, computed by ONNX Runtime: how many of each operator
    left_out: dict[str, list[str]]  # why a quantized operator was not recomputed: the nodes
    # weights recomputed, sums in float by ONNX Runtime: how many of each operator
    float_sums: dict[str, int] = field(default_factory=dict)


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
    runtime: str = "ONNX Runtime"  # whose outputs and tensors these are

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
        progress: wraps what is done one after the other: sessions opened, runs of ONNX Runtime, and
            the steps as they are computed; it is told a title and their number.

    Raises:
        UnusableInput: ONNX Runtime refuses the file or an input, or nothing in it is quantized.
    """
    progress = progress or (lambda parts, title, total: parts)
    network, file, plain, (folded, tensors) = progress(
        _opened(model, feeds[0].values), "opening", 4
    )
    borrow = ort.borrower(network.graph)
    outputs: list[Comparison] = []
    by_default: list[Comparison] = []
    coverages: list[Coverage] = []
    notes = broken(network)
    for feed in feeds:
        theirs, found = progress(
            _asked(model, file, plain, feed.values), f"ONNX Runtime, {feed.source}", 2
        )
        by_default += found
        walk = engine.steps(network.graph, feed.values, borrow, given=model.constants, weights=True)
        walk = progress(walk, feed.source, len(network.graph.nodes))
        seen, ours, found, asked = _follow(network, walk, feed.values, theirs)
        notes += asked
        outputs += _compared({k: ours.get(k) for k in theirs}, theirs, network.graph)
        tensors += found
        coverages.append(coverage_of([*folded, *seen]))
    coverage = least(coverages)
    if not coverage.quantized:
        kinds = ", ".join(sorted({n.operator for n in model.nodes})) or "none"
        raise UnusableInput(f"{model.path}: no quantized operator (its operators: {kinds})")
    if not sum(c.elements for c in (*outputs, *tensors)):
        raise UnusableInput(f"{model.path}: its tensors have no elements, so nothing is compared")
    return Verdict(
        model=str(model.path),
        inputs=tuple(feed.source for feed in feeds),
        session=str(network.settings),
        outputs=merged(outputs),
        tensors=merged(tensors),
        coverage=coverage,
        default=_default(model, network, by_default),
        notes=tuple(dict.fromkeys(notes)),
    )


def _opened(model: Model, feeds: dict[str, np.ndarray]) -> Iterator:
    """The network, a session of the file, one that sets nothing, and what was folded."""
    network = oracle.settle(model, feeds)
    yield network
    yield oracle.open_file(model, network.settings)
    yield _open_default(model)
    yield _folded(network)


def _asked(
    model: Model,
    file: onnxruntime.InferenceSession,
    plain: onnxruntime.InferenceSession | None,
    feeds: dict[str, np.ndarray],
) -> Iterator:
    """ONNX Runtime's outputs of the graph, and what the default session computes beside them."""
    theirs = twice(model, file, feeds)
    yield theirs
    yield _by_default(model, plain, feeds, theirs)


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
        key = node.domain, node.op_type
        if key in engine.FLOAT_SUMS:
            raise UnusableInput(
                f"{path}: node {node.name}: its sums are ONNX Runtime's own floats; "
                "validate compares its weights"
            )
        if key not in {*engine.OPERATORS, *engine.MOVERS}:
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


def _follow(
    network: Network,
    walk: Iterable[Step],
    feeds: dict[str, np.ndarray],
    ends: dict[str, np.ndarray],
) -> tuple[list[Step], dict[str, np.ndarray], list[Comparison], list[str]]:
    """Walk the graph to its end, comparing on the way what quantized operators write.

    Args:
        ends: the graph's outputs, as ONNX Runtime computes them from the file.

    Returns:
        the steps without their tensors, our outputs of the graph, comparisons, and notes.
    """
    constants = network.graph.constants
    ours = {name: constants[name] for name in ends if name in constants}
    ours |= {name: feeds[name] for name in ends if name in feeds}
    seen: list[Step] = []
    found: list[Comparison] = []
    notes: list[str] = []
    pending: dict[str, tuple[Node, np.ndarray]] = {}

    def fetch() -> None:
        try:
            found.extend(_fetched(network, feeds, pending, ends))
        except Refused:
            notes.append(
                "asking ONNX Runtime for tensors in between fails or changes what it computes; "
                "not all of them were compared"
            )
        pending.clear()

    for step in walk:
        seen.append(replace(step, outputs={}))
        found += step.compared
        ours |= {name: value for name, value in step.outputs.items() if name in ends}
        if step.quantized and step.how == engine.RECOMPUTED:
            for name, value in step.outputs.items():
                # Python gets no tensors of 2 or 4 bits from ONNX Runtime
                if name not in ends and not value.dtype.name.endswith(("int2", "int4")):
                    pending[name] = (step.node, value)
        # after the last step too, while the walk's progress is still shown
        last = len(seen) == len(network.graph.nodes)
        if pending and (last or sum(value.nbytes for _, value in pending.values()) > HELD):
            fetch()
    if pending:
        fetch()
    return seen, ours, found, notes


def _fetched(
    network: Network,
    feeds: dict[str, np.ndarray],
    pending: dict[str, tuple[Node, np.ndarray]],
    ends: dict[str, np.ndarray],
) -> list[Comparison]:
    """Compare tensors in between with ONNX Runtime's, in a session that hands out these alone.

    It would keep every tensor that it may be asked for, so a session of all would hold the graph.

    Raises:
        Refused: ONNX Runtime does not hand them out, or computes other outputs when it does.
    """
    session = oracle.open_graph(network, pending)
    theirs = oracle.outputs(network.file, session, feeds, [*pending, *ends])
    if not all(c.equal for c in _compared({k: theirs[k] for k in ends}, ends)):
        raise Refused(f"{network.file.path}: tensors in between change what is computed")
    return [
        compare_arrays(name, value, theirs[name], node=node.name, operator=node.operator)
        for name, (node, value) in pending.items()
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


def twice(
    model: Model, session: onnxruntime.InferenceSession, feeds: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The graph's outputs, if ONNX Runtime computes them twice alike.

    Raises:
        UnusableInput: it does not: an operator draws random numbers, or keeps a state.
    """
    once, again = (oracle.outputs(model, session, feeds) for _ in range(2))
    for comparison in _compared(again, once):
        if not comparison.equal:
            raise UnusableInput(
                f"{model.path}: ONNX Runtime computes another {comparison.tensor} every time"
            )
    return once


def _folded(network: Network) -> tuple[list[Step], list[Comparison]]:
    """The quantized nodes of the file that ONNX Runtime computed when it loaded it.

    They are not in the graph that it runs; their results are constants there, under the same name.
    What it made under a name of its own (the rounding of float weights, say) is not recomputed.
    """
    graph, file = network.graph, network.file
    elsewhere = {name for node in graph.nodes for name in node.outputs}
    elsewhere |= {o for f in network.fusions for node in f.absorbed for o in node.outputs}
    used = live(file)
    steps = [
        step
        for step in engine.constant_steps(file)
        if step.quantized and not elsewhere & set(step.node.outputs) and step.node in used
    ]
    seen: list[Step] = []
    found: list[Comparison] = []
    held: set[str] = set()  # tensors that a compared one was made from
    for step in reversed(steps):
        found += step.compared
        kept = [name for name in step.outputs if name in graph.constants]
        found += [
            compare_arrays(k, step.outputs[k], graph.constants[k], node=step.node.name,
                           operator=step.node.operator)
            for k in kept
        ]  # fmt: skip
        if step.how == engine.RECOMPUTED and not kept and not held & set(step.outputs):
            reason = "folded by ONNX Runtime into a constant of its own"
            step = replace(step, how=engine.LEFT_OUT, reason=reason)
        held |= set(reads(step.node))
        seen.append(replace(step, outputs={}))
    made = quantized_by_ort(network)
    seen += [
        Step(node, {}, engine.LEFT_OUT, f"{name} is quantized by ONNX Runtime itself")
        for node, name in made
    ]
    return seen, found


def live(model: Model) -> list[Node]:
    """The nodes that an output of the graph depends on."""
    writer = {name: node for node in model.nodes for name in node.outputs if name}
    found: dict[int, Node] = {}
    waiting = list(model.outputs)
    while waiting:
        node = writer.get(waiting.pop())
        if node is not None and id(node) not in found:
            found[id(node)] = node
            waiting += reads(node)
    return list(found.values())


def _open_default(model: Model) -> onnxruntime.InferenceSession | None:
    """A session that sets nothing; None where ONNX Runtime does not open the file so."""
    try:
        return oracle.open_file(model, ort.DEFAULT)
    except Refused:
        return None


def _by_default(
    model: Model,
    session: onnxruntime.InferenceSession | None,
    feeds: dict[str, np.ndarray],
    theirs: dict[str, np.ndarray],
) -> list[Comparison]:
    """What the default session computes, beside ours; nothing where it does not run."""
    try:
        plain = oracle.outputs(model, session, feeds) if session else {}
    except Refused:
        return []
    return _compared(plain, {name: theirs[name] for name in plain})


def coverage_of(seen: list[Step], mac_kinds: Iterable[str] = ALL_MAC) -> Coverage:
    """What kinds of nodes a graph's steps are.

    Args:
        mac_kinds: the operators that multiply and accumulate.
    """
    left_out: dict[str, list[str]] = {}
    for step in seen:
        if step.how == engine.LEFT_OUT:
            left_out.setdefault(step.reason, []).append(step.node.name)
    mac = [s for s in seen if s.node.op_type in mac_kinds]
    return Coverage(
        quantized=sum(s.quantized for s in seen),
        recomputed=sum(s.quantized and s.how in (engine.RECOMPUTED, engine.SUMS) for s in seen),
        mac=len(mac),
        mac_recomputed=sum(s.how == engine.RECOMPUTED for s in mac),
        float=dict(Counter(s.node.operator for s in seen if s.how == engine.FLOAT)),
        left_out=left_out,
        float_sums=dict(Counter(s.node.operator for s in seen if s.how == engine.SUMS)),
    )


def least(coverages: list[Coverage]) -> Coverage:
    """What holds in every run: the fewest that were recomputed, and all that was ever left out."""
    left_out: dict[str, list[str]] = {}
    for coverage in coverages:
        for reason, nodes in coverage.left_out.items():
            known = left_out.setdefault(reason, [])
            known += [node for node in nodes if node not in known]
    return replace(
        coverages[0],
        recomputed=min(c.recomputed for c in coverages),
        mac_recomputed=min(c.mac_recomputed for c in coverages),
        left_out=left_out,
        float_sums={
            name: count
            for name in coverages[0].float_sums
            if (count := min(c.float_sums.get(name, 0) for c in coverages))
        },
    )


def _default(model: Model, network: Network, comparisons: list[Comparison]) -> Default | None:
    if not comparisons:
        return None

    def float_mac(graph: Model) -> int:
        return sum(node.op_type in FLOAT_MAC for node in graph.nodes)

    entries_only = replace(ort.DEFAULT, level=network.settings.level)
    other = network.graph if network.settings == entries_only else fuse(model, entries_only).graph
    return Default(
        elements=sum(c.elements for c in comparisons),
        mismatches=sum(c.mismatches for c in comparisons),
        float_mac=float_mac(other),
        float_mac_here=float_mac(network.graph),
    )


def merged(comparisons: list[Comparison]) -> tuple[Comparison, ...]:
    """The comparisons of several inputs, one for each tensor, in the order in which they came.

    Weights that several nodes share are one for each node.
    """
    merged: dict[tuple[str, str], Comparison] = {}
    for c in comparisons:
        before = merged.get((c.tensor, c.node))
        merged[c.tensor, c.node] = c if before is None else replace(
            before,
            elements=before.elements + c.elements,
            mismatches=before.mismatches + c.mismatches,
            max_difference=max(before.max_difference, c.max_difference),
            first=before.first or c.first,
        )  # fmt: skip
    return tuple(merged.values())
