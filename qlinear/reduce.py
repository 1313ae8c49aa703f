"""Cut a model down to the smallest part that still shows a difference.

Two sides differ on a model: two sessions of ONNX Runtime, the reference and a session, or a dump
and a session. The part is a few nodes of the file with their constants, fed the tensors that they
have in the whole model; so no other difference is taken for it. A part counts only if each side
that can be run computes the same bytes from it as in the whole model, at every element kept.

Other reducers (polygraphy's ``debug reduce`` is the nearest) look for one cut at the front and one
at the end, feed the part values made for it, and leave it to a command of the user's whether it
still fails. Here the nodes are any subset, because what ONNX Runtime fuses depends on the
neighbours of a node on all sides: a second reader keeps a convolution in float.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from qlinear import crop, oracle, ort
from qlinear.compare import Comparison, compare_arrays
from qlinear.errors import Refused, UnusableInput
from qlinear.files import whole_file, write_arrays
from qlinear.fuse import in_order
from qlinear.onnx_model import Model, Node, from_proto
from qlinear.operators.dequantize_linear import dequantize_linear
from qlinear.quantized import reads
from qlinear.sides import Cause, Side, Tensors, find_cause, same, session, smallest, without
from qlinear.validate import live

TARGETS = 8  # how many tensors in between that differ are tried, the first ones first


@dataclass(frozen=True, eq=False)
class Part:
    """Some nodes of a file as a model of its own, and what it is fed."""

    nodes: frozenset[tuple[str, ...]]  # each by its outputs
    proto: onnx.ModelProto
    feeds: Tensors


@dataclass(frozen=True)
class Size:
    """A tensor of the part: its shape in the whole model, and here."""

    name: str
    dtype: str
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Reduction:
    """The smallest part of a model that was found to show a difference of two sides.

    No node can be left out of it. ``cause`` is of two sessions only; ``without`` is how many
    elements of the whole model's outputs differ once what made the difference is left out of both.
    """

    model: str
    sides: tuple[str, str]
    first: Comparison  # of the whole model: the first tensor for which there is a part
    outputs: tuple[Comparison, ...]  # those of the whole model that differ
    found: Comparison  # of the part's tensor
    nodes_before: int
    nodes: tuple[tuple[str, str], ...]  # name and operator
    inputs: tuple[Size, ...]
    output: Size
    region: crop.Region  # of the tensor in the whole model that the part computes
    runs: tuple[dict[str, int], ...]  # the operators that each session makes of the part
    tests: int
    cause: Cause | None
    without: int | None
    notes: tuple[str, ...]
    settings: tuple[ort.Settings | None, ...] = field(repr=False)
    keys: tuple[str, str] = field(repr=False)
    proto: onnx.ModelProto = field(repr=False)
    feeds: Tensors = field(repr=False)
    values: tuple[np.ndarray, np.ndarray] = field(repr=False)  # the tensor, on each side

    @property
    def sessions(self) -> list[str]:
        """The keys of the sides that are sessions."""
        return [key for key in self.keys if key not in ("reference", "dump")]

    def _named(self, comparison: Comparison) -> dict:
        """A comparison whose values have the sides' keys."""
        at = comparison.first
        pair = zip(self.keys, (at.ours, at.ort), strict=True)
        return comparison.as_json() | {"first": {"index": list(at.index), **dict(pair)}}

    def as_json(self) -> dict:
        return {
            "model": self.model,
            "sides": dict(zip(self.keys, self.sides, strict=True)),
            "first": self._named(self.first),
            "outputs": [self._named(c) for c in self.outputs],
            "reduced": self._named(self.found),
            "nodes_before": self.nodes_before,
            "nodes": [{"node": name, "operator": kind} for name, kind in self.nodes],
            "inputs": [asdict(size) for size in self.inputs],
            "output": asdict(self.output),
            "region": [list(ends) for ends in self.region],
            "runs": dict(zip(self.sessions, self.runs, strict=True)),
            "tests": self.tests,
            "cause": asdict(self.cause) if self.cause else None,
            "without": self.without,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class _Case:
    """What stays the same while parts are tried."""

    model: Model
    order: tuple[Node, ...]
    feeds: Tensors
    sides: tuple[Side, Side]
    whole: tuple[Tensors, Tensors]  # what each side computes of the whole model
    values: Tensors  # a value for each tensor of the file
    cuts: frozenset[str]  # those that a part may be fed
    fixed: Collection[str]  # those that depend on constants only
    tested: dict  # parts that were tried: the part, or None if it does not show the difference
    tick: Callable[[], object]


def reduce(
    model: Model,
    feeds: Tensors,
    sides: tuple[Side, Side],
    tick: Callable[[int], object] = lambda count: None,
) -> Reduction | None:
    """Find the smallest part of a model in which two sides differ as they do in the whole.

    Args:
        feeds: the graph's inputs by name.
        sides: two sessions, or the reference or a dump first and a session second.
        tick: is called for each part that is run, with their number so far.

    Returns:
        None where no tensor differs that both sides have; and where two sessions differ in between
        only, without a change of an output, and no longer once such a tensor is handed out.

    Raises:
        UnusableInput: ONNX Runtime refuses the model or an input, or computes something else every
            time; or no part shows the difference.
    """
    kinds = ort.declared(model)
    order = _useful(model)
    computed = [side.tensors(model, feeds) for side in sides]
    if sides[0].outputs is None:
        _check_dump(model, sides[0], *computed)
    whole = tuple(_in_file_types(found, kinds) for found in computed)
    if sides[0].outputs:
        whole = tuple(found | _dequantized(model, order, found) for found in whole)
    names = [n for node in order for n in node.outputs if n in whole[0] and n in whole[1]]
    names = [n for n in names if isinstance(whole[0][n], np.ndarray)]
    differ = [n for n in names if not same(whole[0][n], whole[1][n])]
    if not differ:
        return None
    equal = feeds | {n: whole[1][n] for n in names if n not in differ}
    given = equal
    if sides[0].outputs is None:  # what a dump lacks is ONNX Runtime's
        given = equal | {n: v for n, v in whole[1].items() if n not in differ}
    given = {n: v for n, v in given.items() if isinstance(v, np.ndarray)}
    values = given | _missing(model, order, given, kinds)
    values = values | _before_quantization(model, order, given, values)
    cuts = given if sides[0].outputs is None else values
    if not sides[0].fed:
        cuts = [name for name in cuts if name in equal]
    count = itertools.count(1)
    case = _Case(
        model=model,
        order=order,
        feeds=feeds,
        sides=sides,
        whole=whole,
        values=values,
        cuts=frozenset(cuts),
        fixed=_fixed(model, order),
        tested={},
        tick=lambda: _counted(count, tick),
    )
    ends = [n for n in differ if n in model.outputs]
    for target in dict.fromkeys([*differ[:TARGETS], *ends]):
        found = _in_pairs(case, target)
        if found is not None:
            part, end = found
            return _reduction(case, *_cropped(case, part, end), end, target, differ)
    if not ends and all(side.settings and side.key != "reference" for side in sides):
        return None
    raise UnusableInput(
        f"{model.path}: {differ[0]} differs, but no part of the model that ends there gives ONNX "
        "Runtime's values again; nothing was written"
    )


def _check_dump(model: Model, side: Side, dumped: Tensors, theirs: Tensors) -> None:
    """Refuse a dump whose tensors cannot be compared: none of the names, or of another kind."""
    there = [name for name in dumped if name in theirs]
    if not there:
        names = ", ".join(list(dumped)[:4]) or "nothing"
        known = ", ".join(list(theirs)[:4])
        raise UnusableInput(
            f"{side.title}: holds {names}, but no tensor that ONNX Runtime computes of "
            f"{model.path}, such as {known}"
        )
    for name in there:
        a, b = dumped[name], theirs[name]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            raise UnusableInput(
                f"{side.title}: {name} is {a.dtype} {a.shape}; {b.dtype} {b.shape} needed"
            )


def _useful(model: Model) -> tuple[Node, ...]:
    """The nodes that an output depends on, each after those that it reads from."""
    used = {node.outputs for node in live(model)}
    return tuple(node for node in in_order(model).nodes if node.outputs in used)


def _counted(count: Iterator[int], tick: Callable[[int], object]) -> int:
    number = next(count)
    tick(number)
    return number


def _in_file_types(found: Tensors, kinds: dict) -> Tensors:
    """The tensors that have the type and the number of axes that the file gives them."""
    return {
        name: value
        for name, value in found.items()
        if name in kinds
        and getattr(value, "dtype", None) == kinds[name][0]
        and value.ndim == len(kinds[name][1])
    }


def _missing(model: Model, order: Iterable[Node], known: Tensors, kinds: dict) -> Tensors:
    """The other tensors of the file, computed from those that both sides agree on, node by node.

    They are only fed to parts, whose outputs are compared with the whole model's.
    """
    nodes = frozenset(n.outputs for n in order if not all(o in known for o in n.outputs if o))
    names = [name for outputs in nodes for name in outputs if name and name not in known]
    names = [n for n in names if _plain(kinds.get(n, (np.dtype(object),))[0])]
    proto, needed = _cut(model, order, nodes, names)
    if not names or any(name not in known for name in needed):
        return {}
    proto.graph.input.extend(ort.value_info(name, known[name]) for name in needed)
    settings = ort.Settings(level=ort.Level.ORT_DISABLE_ALL)
    try:
        found = ort.run_session(ort.open_session(proto, settings), names, known)
    except Exception:  # onnxruntime raises types of its own
        return {}
    return dict(zip(names, found, strict=True))


def _dequantized(model: Model, order: Iterable[Node], found: Tensors) -> Tensors:
    """What a DequantizeLinear makes of integers that are known; a session may have fused it."""
    made = {}
    for node in order:
        x, y = node.inputs[0], node.outputs[0]
        if node.op_type == "DequantizeLinear" and x in found and y not in found:
            parameters = [model.constants.get(name) for name in node.inputs[1:]]
            with suppress(UnusableInput, TypeError, ValueError):
                made[y] = dequantize_linear(found[x], *parameters, **node.attributes)
    return made


def _before_quantization(
    model: Model, order: Iterable[Node], known: Tensors, values: Tensors
) -> Tensors:
    """For what a QuantizeLinear reads: values that give again the integers that are known."""
    found = {}
    for node in order:
        x, y = node.inputs[0] if node.inputs else "", node.outputs[0]
        if node.op_type != "QuantizeLinear" or y not in known or x in known or x not in values:
            continue
        axis = {k: v for k, v in node.attributes.items() if k in ("axis", "block_size")}
        parameters = [model.constants.get(name) for name in node.inputs[1:]]
        with suppress(UnusableInput, TypeError, ValueError):
            found[x] = dequantize_linear(known[y], *parameters, **axis).astype(values[x].dtype)
    return found


def _fixed(model: Model, order: Iterable[Node]) -> set[str]:
    """The tensors that nodes compute from constants only."""
    found: set[str] = set()
    for node in order:
        names = reads(node)
        if names and all(name in found or name in model.constants for name in names):
            found |= set(filter(None, node.outputs))
    return found


def _plain(dtype: np.dtype) -> bool:
    """Whether ONNX Runtime takes and hands over tensors of this type."""
    return dtype.kind in "iufb" and not dtype.name.endswith(("int2", "int4"))


# --- a part


def _cut(
    model: Model, order: Iterable[Node], nodes: Collection[tuple], outputs: list[str]
) -> tuple[onnx.ModelProto, list[str]]:
    """Nodes of a file as a model, without its inputs, and the names of these."""
    kept = [node for node in order if node.outputs in nodes]
    read = list(dict.fromkeys(name for node in kept for name in reads(node)))
    graph = model.proto.graph
    protos = {tuple(n.output): n for n in graph.node}
    made = {name: n for n in graph.node for name in n.output if name in model.constants}
    constant = list({id(made[name]): made[name] for name in read if name in made}.values())
    stored = [t for t in graph.initializer if t.name in read and t.name not in made]
    sparse = [t for t in graph.sparse_initializer if t.values.name in read]
    new = onnx.helper.make_graph(
        [*constant, *(protos[node.outputs] for node in kept)],
        "reduced",
        [],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        stored,
        sparse_initializer=sparse,
    )
    proto = onnx.helper.make_model(
        new,
        opset_imports=model.proto.opset_import,
        ir_version=model.proto.ir_version,
        functions=model.proto.functions,
    )
    written = {name for node in kept for name in node.outputs}
    return proto, [n for n in read if n not in written and n not in model.constants]


def _part(case: _Case, nodes: Collection[tuple], target: str, ends: bool = True) -> Part | None:
    """Nodes as a model that ends in the target; None where it would need a tensor it may not.

    Args:
        ends: whether what the whole model hands out is handed out here too.
    """
    kept = [node for node in case.order if node.outputs in nodes]
    read = {name for node in kept for name in reads(node)}
    # what nobody reads is handed out, or ONNX Runtime would drop the node
    loose = [next(filter(None, n.outputs)) for n in kept if not read & set(n.outputs)]
    handed = [n for node in kept for n in node.outputs if n in case.model.outputs] if ends else []
    outputs = list(dict.fromkeys([target, *loose, *handed]))
    proto, needed = _cut(case.model, case.order, nodes, outputs)
    if any(name not in case.cuts for name in needed):
        return None
    fed = {name: case.values[name] for name in needed if name not in case.fixed}
    proto.graph.input.extend(ort.value_info(name, value) for name, value in fed.items())
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(case.values[name], name) for name in needed if name not in fed
    )
    return Part(frozenset(nodes), proto, fed)


def _shows(case: _Case, part: Part, target: str, region: crop.Region | None = None) -> bool:
    """Whether each side computes of a part what it computes of the whole model, and they differ."""
    case.tick()
    at = crop.slices(region) if region else ...
    a, b = (found[target][at] for found in case.whole)
    if same(a, b):
        return False
    for side, wanted in zip(case.sides, (a, b), strict=True):
        if side.outputs is None:
            continue
        try:
            found = side.outputs(part.proto, part.feeds)
        except Exception:  # onnxruntime raises types of its own
            return False
        if target not in found or not same(found[target], wanted):
            return False
    if all(side.outputs for side in case.sides):
        return True
    # one side alone has a say: it must run the same operator, not only come to the same values
    settings = case.sides[1].settings
    return _writer(part.proto, settings, target) == _writer(case.model.proto, settings, target)


def _writer(proto: onnx.ModelProto, settings: ort.Settings, tensor: str) -> str:
    """The operator that writes a tensor in the graph that a session runs."""
    graph = from_proto(ort.optimized(from_proto(proto), settings))
    return next((node.operator for node in graph.nodes if tensor in node.outputs), "")


def _in_pairs(case: _Case, target: str) -> tuple[Part, str] | None:
    """The smallest part that shows the difference at the target, and the tensor where it ends.

    If it need not be much larger, one that begins before a QuantizeLinear and ends after a
    DequantizeLinear: integers that come from outside or go there are no pair to ONNX Runtime, which
    could leave a layer in float for that, and the right difference would have the wrong reason.
    """
    part = _smallest_part(case, target)
    ours = {n for node in case.order if node.op_type == "QuantizeLinear" for n in node.outputs}
    if part is None or not all(side.outputs for side in case.sides):
        return part and (part, target)
    after = [
        node.outputs[0]
        for node in case.order
        if target in ours and node.op_type == "DequantizeLinear" and node.inputs[0] == target
        and node.outputs[0] in case.whole[0] and node.outputs[0] in case.whole[1]
    ]  # fmt: skip
    if not after and not ours & set(part.feeds):
        return part, target
    end = after[0] if after else target
    paired = _smallest_part(replace(case, cuts=case.cuts - ours), end)
    if paired and len(paired.nodes) <= 2 * len(part.nodes) + 4:
        return paired, end
    return part, target


def _smallest_part(case: _Case, target: str) -> Part | None:
    """A part that shows the difference at the target, of which no node can be left out."""

    def tried(nodes: Collection[tuple], ends: bool = True) -> Part | None:
        key = (frozenset(nodes), target, ends)
        part = _part(case, nodes, target, ends)
        if part and key not in case.tested:
            case.tested[key] = part if _shows(case, part, target) else None
        return part and case.tested[key]

    grown = next((n for n in _neighbourhoods(case, target) if tried(n)), None)
    if grown is None:
        return None
    last = next(node.outputs for node in case.order if target in node.outputs)
    others = [node.outputs for node in case.order if node.outputs in grown and node.outputs != last]

    def holds(kept: list) -> bool:
        return tried({last, *kept}) is not None

    kept = {last, *smallest(others, holds)} if others else {last}
    return tried(kept, ends=False) or tried(kept)


def _neighbourhoods(case: _Case, target: str) -> Iterator[frozenset[tuple]]:
    """Growing sets of nodes around the writer of the target, up to all nodes.

    Each comes first with what lies before it only, then with its neighbours on all sides. Where a
    part may not be fed a tensor, what writes it belongs to the part.
    """
    writer = {name: node for node in case.order for name in node.outputs if name}
    readers: dict[str, list[Node]] = {}
    for node in case.order:
        for name in reads(node):
            readers.setdefault(name, []).append(node)

    def before(node: Node) -> list[Node]:
        return [writer[name] for name in reads(node) if name in writer]

    def after(node: Node) -> list[Node]:
        return [reader for name in node.outputs for reader in readers.get(name, ())]

    def closed(nodes: dict[tuple, Node]) -> set[tuple]:
        waiting = list(nodes.values())
        found = dict(nodes)
        while waiting:
            for name in reads(waiting.pop()):
                node = writer.get(name)
                if node and name not in case.cuts and node.outputs not in found:
                    found[node.outputs] = node
                    waiting.append(node)
        return set(found)

    def within(steps: int, ways: list[Callable[[Node], list[Node]]]) -> dict[tuple, Node]:
        found = {writer[target].outputs: writer[target]}
        edge = list(found.values())
        for _ in range(steps):
            new = {n.outputs: n for node in edge for way in ways for n in way(node)}
            edge = [node for outputs, node in new.items() if outputs not in found]
            found |= new
        return found

    everything = frozenset(node.outputs for node in case.order)
    steps, seen = 0, {everything}
    while steps <= 2 * len(case.order):
        for ways in ([before], [before, after]):
            nodes = frozenset(closed(within(steps, ways)))
            if nodes not in seen:
                seen.add(nodes)
                yield nodes
        steps = max(1, 2 * steps)
    yield everything


# --- fewer elements


def _cropped(case: _Case, part: Part, target: str) -> tuple[Part, crop.Region | None]:
    """The part on the least of each axis of the target that still shows the difference.

    The window contains the first element that differs, and doubles until it does.
    """
    a, b = (found[target] for found in case.whole)
    at = compare_arrays(target, a, b).first.index
    shape = a.shape
    if len(at) != len(shape) or not shape:
        return part, None
    model = from_proto(part.proto)
    best: tuple[Part, crop.Region | None] = (part, None)

    def tried(region: crop.Region) -> bool:
        nonlocal best
        try:
            proto, feeds = crop.crop(model, case.values, part.feeds, target, region)
        except crop.NotCropped:
            return False
        smaller = replace(part, proto=proto, feeds=feeds)
        shows = _shows(case, smaller, target, region)
        best = (smaller, region) if shows else best
        return shows

    if all(n == 1 for n in shape) or tried(tuple((i, i + 1) for i in at)):
        return best
    region = tuple((0, n) for n in shape)
    for axis, size in enumerate(shape):
        width = 1
        while width < size:
            start = min(at[axis] // width * width, size - width)
            smaller = (*region[:axis], (start, start + width), *region[axis + 1 :])
            if tried(smaller):
                region = smaller
                break
            width *= 2
    return best


# --- what is said of it


def _reduction(
    case: _Case,
    part: Part,
    region: crop.Region | None,
    target: str,
    first: str,
    differ: list[str],
) -> Reduction:
    a, b = (found[target][crop.slices(region) if region else ...] for found in case.whole)
    node = next(node for node in case.order if target in node.outputs)
    kept = [n for n in case.order if n.outputs in part.nodes]
    runs = [s.settings for s in case.sides if s.outputs and s.key != "reference"]
    both = [side.settings for side in case.sides]
    cause, left, notes = None, None, []
    if len(runs) == 2:
        cause = find_cause(part.proto, (both[0], both[1]), _differ_on(case, part, target))
        if cause.names:
            names = cause.names if cause.together else cause.names[-1:]
            left = _outputs_that_differ(case, [without(s, names) for s in both])
    if first != differ[0]:
        notes.append(f"{differ[0]}, before it, differs too, but no part that ends there shows it")
    lacks = [n for n in part.feeds if n not in case.whole[0] and n not in case.model.inputs]
    inside = [n for o in part.nodes for n in o if n != target and n not in case.whole[0]]
    if case.sides[0].outputs is None and lacks:
        notes.append(f"the dump lacks {', '.join(lacks)}, so it is taken as ONNX Runtime's")
    elif case.sides[0].outputs is None and {n for n in inside if n in case.whole[1]}:
        notes.append("the dump lacks tensors in between, and where they are wrong nobody knows")
    if not region and part.feeds and case.whole[0][target].ndim:
        notes.append("its tensors are not cut: no smaller window was found that shows it")
    return Reduction(
        model=str(case.model.path),
        sides=(case.sides[0].title, case.sides[1].title),
        first=_whole(case, first),
        outputs=tuple(_whole(case, name) for name in differ if name in case.model.outputs),
        found=compare_arrays(target, a, b, node=node.name, operator=node.operator),
        nodes_before=len(case.model.nodes),
        nodes=tuple((n.name, n.operator) for n in kept),
        inputs=tuple(
            Size(name, value.dtype.name, case.values[name].shape, value.shape)
            for name, value in part.feeds.items()
        ),
        output=Size(target, b.dtype.name, case.whole[1][target].shape, b.shape),
        region=region or crop.full(b.shape),
        runs=tuple(_kinds(part.proto, settings) for settings in runs),
        tests=case.tick() - 1,
        cause=cause,
        without=left,
        notes=tuple(notes),
        settings=tuple(both),
        keys=(case.sides[0].key, case.sides[1].key),
        proto=_typed(case, part, target, region),
        feeds=part.feeds,
        values=(a, b),
    )


def _typed(case: _Case, part: Part, target: str, region: crop.Region | None) -> onnx.ModelProto:
    """The part with the types of its outputs, which tools other than ONNX Runtime want."""
    typed = onnx.ModelProto()
    typed.CopyFrom(part.proto)
    found = case.sides[1].outputs(part.proto, part.feeds)
    for output in typed.graph.output:
        output.CopyFrom(ort.value_info(output.name, found[output.name]))
    return typed if _shows(case, replace(part, proto=typed), target, region) else part.proto


def _whole(case: _Case, name: str) -> Comparison:
    node = next(node for node in case.order if name in node.outputs)
    pair = (found[name] for found in case.whole)
    return compare_arrays(name, *pair, node=node.name, operator=node.operator)


def _kinds(proto: onnx.ModelProto, settings: ort.Settings) -> dict[str, int]:
    graph = from_proto(ort.optimized(from_proto(proto), settings))
    return dict(Counter(node.operator for node in graph.nodes))


def _differ_on(case: _Case, part: Part, target: str) -> Callable[..., bool]:
    """Whether two sessions differ at the target of a part; so it counts if one refuses it."""

    def differ(*settings: ort.Settings) -> bool:
        case.tick()
        try:
            a, b = (session(s).outputs(part.proto, part.feeds)[target] for s in settings)
        except Exception:  # onnxruntime raises types of its own
            return True
        return not same(a, b)

    return differ


def _outputs_that_differ(case: _Case, settings: list[ort.Settings]) -> int | None:
    """How many elements of the whole model's outputs differ between two sessions."""
    try:
        a, b = (
            oracle.outputs(case.model, oracle.open_file(case.model, each), case.feeds)
            for each in settings
        )
    except Refused:
        return None
    return sum(compare_arrays(name, a[name], b[name]).mismatches for name in a)


# --- files and text


def files(out: Path) -> tuple[Path, ...]:
    """The model's file; those of its inputs and of the tensor on each side; a script."""
    return out, *(out.with_suffix(end) for end in (".inputs.npz", ".outputs.npz", ".py"))


def write(reduction: Reduction, out: Path) -> None:
    """Write the part, its inputs by name, its output on each side, and a script that shows it.

    All of them or none.

    Raises:
        UnusableInput: a file cannot be written.
    """
    with ExitStack() as stack:
        paths = [stack.enter_context(whole_file(path)) for path in files(out)]
        paths[0].write_bytes(reduction.proto.SerializeToString(deterministic=True))
        write_arrays(paths[1], reduction.feeds.items())
        write_arrays(paths[2], zip(reduction.keys, reduction.values, strict=True))
        paths[3].write_bytes(script(reduction, out).encode())


def script(reduction: Reduction, out: Path) -> str:
    """A program for a bug report: it runs what can be run of the two sides by ONNX Runtime alone.

    It needs numpy and onnxruntime only. It exits with status 0 if it computes what was found.
    """
    model, inputs, outputs, _ = (path.name for path in files(out))
    runs = {
        key: (settings.level.name, settings.threads, dict(settings.entries))
        for key, settings in zip(reduction.keys, reduction.settings, strict=True)
        if settings and key != "reference"
    }
    return SCRIPT.format(
        model=model,
        inputs=inputs,
        outputs=outputs,
        output=reduction.output.name,
        runs=runs,
        version=ort.onnxruntime.__version__,
    )


SCRIPT = '''"""Shows a difference found with onnxruntime {version}. Needs numpy and onnxruntime."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

HERE = Path(__file__).parent
# of each session: the level of its optimizations, its threads, its entries
SESSIONS = {runs!r}


def run(level, threads, entries):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = threads
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    model = str(HERE / {model!r})
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    with np.load(HERE / {inputs!r}) as feeds:
        return session.run([{output!r}], dict(feeds))[0]


with np.load(HERE / {outputs!r}) as stored:
    stored = dict(stored)
found = {{**stored, **{{key: run(*session) for key, session in SESSIONS.items()}}}}
(a, x), (b, y) = found.items()
wrong = np.argwhere((x != y) & ((x == x) | (y == y)))
print(f"onnxruntime {{onnxruntime.__version__}}: {{len(wrong)}} of {{x.size}} elements differ")
for at in map(tuple, wrong[:10]):
    print(f"{{list(map(int, at))}}: {{a}} {{x[at]}}, {{b}} {{y[at]}}")
sys.exit(not all(np.array_equal(found[key], stored[key], equal_nan=True) for key in found))
'''


def report(reduction: Reduction) -> list[str]:
    """Lines that say what was found, for a reader and for whoever reads the bug report."""
    r, at = reduction, reduction.found.first
    lines = [f"{key}: {title}" for key, title in zip(r.keys, r.sides, strict=True)]
    lines += [f"whole model: first in tensor {r.first.tensor}: {_count(r.first)}"]
    lines += [f"whole model: output {c.tensor}: {_count(c)}" for c in r.outputs if c != r.first]
    if not r.outputs and "dump" not in r.keys:
        lines += ["whole model: its outputs are equal all the same"]
    kinds = Counter(kind for _, kind in r.nodes)
    what = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    lines += [f"nodes: {r.nodes_before} -> {len(r.nodes)}: {what}"]
    lines += [f"input {s.name}: {s.dtype} {_shape(s.before)} -> {_shape(s.after)}"
              for s in r.inputs]  # fmt: skip
    lines += [f"output {r.output.name}: {r.output.dtype} {_shape(r.output.before)} -> "
              f"{_shape(r.output.after)}: {_count(r.found)}; first at {list(at.index)}: "
              f"{r.keys[0]} {at.ours}, {r.keys[1]} {at.ort}"]  # fmt: skip
    for key, kinds in zip(r.sessions, r.runs, strict=True):
        lines += [f"{key} runs {', '.join(f'{n} {kind}' for kind, n in kinds.items())}"]
    lines += _said(r)
    lines += [f"note: {note}" for note in r.notes]
    lines += [f"parts that were run: {r.tests}; one counts only if it gives the whole's values"]
    return lines


def _said(r: Reduction) -> list[str]:
    cause = r.cause
    if cause is None:
        return []
    if not cause.names:
        return [f"made by: {cause.reason or 'not found'}"]
    *before, last = cause.names
    if cause.together:
        lines = [f"made by: {', '.join(cause.names)}: with all of them left out of both sessions, "
                 "it is gone, and with fewer it is not"]  # fmt: skip
    elif before:
        lines = [f"made by: {last}, after {', '.join(before)}: with any one of them left out of "
                 "both sessions, it is gone"]  # fmt: skip
    else:
        lines = [f"made by: {last}: with it left out of both sessions, it is gone"]
    if cause.sufficient:
        they = "it is" if len(cause.names) == 1 else "they are"
        others = cause.applied - len(cause.names)
        lines += [f"{they} enough: with the other {others} left out, the difference is still there"]
    if r.without is not None and r.outputs:
        total = sum(c.mismatches for c in r.outputs)
        what = ", ".join(cause.names) if cause.together else last
        many = f"not {total}" if r.without != total else "as many: they have another cause"
        lines += [f"whole model without {what}: {r.without} output elements differ, {many}"]
    return lines


def _count(c: Comparison) -> str:
    return f"{c.mismatches} of {c.elements} elements differ, by up to {c.max_difference:g}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
