"""The two that differ, and, of two sessions, the graph optimization that makes the difference.

The entry ``optimization.disable_specified_optimizers`` names optimizations that a session leaves
out. ONNX Runtime has no list of the names (microsoft/onnxruntime issue 17476), and passes over one
that it does not know; but it logs each of them as it applies it, and whether it changed the graph.
So the names are read from the log of the session at hand, and a name is believed when the
difference goes away without it.
"""

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import onnx

from qlinear import engine, oracle, ort
from qlinear.compare import compare_arrays
from qlinear.errors import Refused, UnusableInput
from qlinear.fuse import Network, fuse, in_order
from qlinear.onnx_model import Model, from_proto
from qlinear.validate import twice

Tensors = dict[str, np.ndarray]
DISABLED = "optimization.disable_specified_optimizers"
# what a session may be asked for; "default" is what a user gets who sets nothing
LEVELS = {
    "default": ort.Level.ORT_ENABLE_ALL,
    "all": ort.Level.ORT_ENABLE_ALL,
    "extended": ort.Level.ORT_ENABLE_EXTENDED,
    "basic": ort.Level.ORT_ENABLE_BASIC,
    "off": ort.Level.ORT_DISABLE_ALL,
}
LEVEL_2 = "Level2_RuleBasedTransformer"
# Rewriting rules are applied by one optimizer a level, which alone is in the log
# (onnxruntime/core/optimizer/graph_transformer_utils.cc, GenerateRewriteRules).
RULES = {
    "Level1_RuleBasedTransformer": (
        "EliminateIdentity EliminateSlice UnsqueezeElimination EliminateDropout ExpandElimination "
        "CastElimination CastChainElimination PreShapeNodeElimination NoopElimination DivMulFusion "
        "FuseReluClip GemmSumFusion GemmTransposeFusion NotWhereFusion ConvAddFusion ConvMulFusion "
        "ConvBNFusion Pad_Fusion MatMul_BatchNormalization_Fusion LabelEncoderFusion"
    ).split(),
    LEVEL_2: "ClipQuantRewrite ReluQuantRewrite GemmTransposeFusion".split(),
}
LOGGED = re.compile(r"GraphTransformer (\S+) modified: ([01]) with status")


@dataclass(frozen=True)
class Side:
    """One of the two that differ.

    Args:
        key: names its values in what is written; ``title`` says in words what it is.
        tensors: of a model and its inputs, all that it computes under the file's names.
        outputs: the graph's outputs of a part; None for a dump, which cannot be run again.
        settings: the session, or that of the graph which the reference runs.
        fed: of a dump, whether a layer whose input it lacks was fed ONNX Runtime's.
    """

    key: str
    title: str
    tensors: Callable[[Model, Tensors], Tensors]
    outputs: Callable[[onnx.ModelProto, Tensors], Tensors] | None
    settings: ort.Settings | None = None
    fed: bool = True


def session(settings: ort.Settings, key: str = "ort") -> Side:
    """ONNX Runtime in a session with these settings."""

    def tensors(model: Model, feeds: Tensors) -> Tensors:
        try:
            ends = twice(model, oracle.open_file(model, settings), feeds)
        except Refused as error:
            raise Refused(f"{error}, in the session {key}: {settings}") from None
        # where a layout of the processor's hides tensors, the graph before that has them
        found = _inside(model, settings, feeds, ends) | ends
        if settings.level == ort.Level.ORT_ENABLE_ALL:
            extended = replace(settings, level=ort.Level.ORT_ENABLE_EXTENDED)
            found = _inside(model, extended, feeds, ends) | found
        return found

    def outputs(proto: onnx.ModelProto, feeds: Tensors) -> Tensors:
        names = [output.name for output in proto.graph.output]
        opened = ort.open_session(proto, settings)
        return dict(zip(names, ort.run_session(opened, names, feeds), strict=True))

    return Side(key, f"ONNX Runtime, {settings}", tensors, outputs, settings)


def _inside(model: Model, settings: ort.Settings, feeds: Tensors, ends: Tensors) -> Tensors:
    """Tensors of the graph that a session runs, under the file's names.

    None where its outputs become others when it is asked for them.
    """
    graph = in_order(from_proto(ort.optimized(model, settings), model.path))
    kinds = ort.declared(model)
    moved = _moved_to_uint8(model, settings)
    of_file = {name: name for node in model.nodes for name in node.outputs if name} | moved
    names = [name for node in graph.nodes for name in node.outputs if name in of_file]
    try:
        opened = oracle.open_graph(Network(model, graph, settings, ()), names)
        found = oracle.outputs(model, opened, feeds)
    except Refused:  # it hands out no tensors of 4 bits, for one
        return {}
    if not all(same(found[name], ends[name]) for name in ends):
        return {}
    named = {of_file[name]: value for name, value in found.items()}
    for name, value in named.items():
        if isinstance(value, np.ndarray) and (value.dtype, kinds[name][0]) == (np.uint8, np.int8):
            named[name] = (value ^ np.uint8(128)).view(np.int8)
    return named


def _moved_to_uint8(model: Model, settings: ort.Settings) -> dict[str, str]:
    """ONNX Runtime's names of int8 tensors that it moves to uint8, 128 higher, and the file's.

    It does so before it fuses anything (qdq_s8_to_u8.cc); so without the optimizations that come
    afterwards, or that take a Relu away, the moved QuantizeLinear still reads a tensor of the file.
    """
    later = ["QDQSelectorActionTransformer", "QDQFinalCleanupTransformer", *RULES[LEVEL_2]]
    written = {name for node in model.nodes for name in node.outputs}
    pairs = {n.inputs[0]: n.outputs[0] for n in model.nodes if n.op_type == "QuantizeLinear"}
    if not pairs:
        return {}
    before = from_proto(ort.optimized(model, without(settings, later)), model.path)
    return {
        node.outputs[0]: pairs[node.inputs[0]]
        for node in before.nodes
        if node.op_type == "QuantizeLinear"
        and node.outputs[0] not in written
        and node.inputs[0] in pairs
    }


def reference(settings: ort.Settings) -> Side:
    """The reference on the graph that ONNX Runtime makes in a session with these settings.

    What it does not compute is ONNX Runtime's, node by node (:func:`qlinear.engine.steps`).
    """

    def walk(model: Model, feeds: Tensors) -> Iterator[engine.Step]:
        return engine.steps(fuse(model, settings).graph, feeds, given=model.constants)

    def tensors(model: Model, feeds: Tensors) -> Tensors:
        steps = list(walk(model, feeds))
        if not any(step.quantized and step.how == engine.RECOMPUTED for step in steps):
            raise UnusableInput(
                f"{model.path}: the reference computes nothing quantized of it; "
                "compare two sessions"
            )
        return {name: value for step in steps for name, value in step.outputs.items()}

    def outputs(proto: onnx.ModelProto, feeds: Tensors) -> Tensors:
        steps = walk(from_proto(proto), feeds)
        return {name: value for step in steps for name, value in step.outputs.items()}

    return Side("reference", "the reference", tensors, outputs, settings)


def dump(values: Tensors, title: str = "the dump", *, fed: bool = False) -> Side:
    """Tensors of another implementation, by their names in the file.

    Args:
        fed: a layer whose input is not among them was fed ONNX Runtime's, so it is wrong itself
            where it differs. Otherwise a layer before it may be, and belongs to the part.
    """
    return Side("dump", title, lambda model, feeds: values, None, fed=fed)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal in type, shape and every element; NaN equals NaN."""
    return compare_arrays("", a, b).equal


def parse(text: str) -> ort.Settings:
    """A session in words: a level, then entries, separated by commas.

    ``default``, ``all``, ``extended``, ``basic`` or ``off``; ``NAME=VALUE`` for a session entry;
    ``threads=N``; ``without=NAME`` to leave an optimization out, repeated for several.

    Raises:
        UnusableInput: a part is none of these; the message names it.

    >>> print(parse("extended,session.qdqisint8allowed=1,threads=2"))
    extended optimizations, session.qdqisint8allowed = "1", 2 threads
    """
    level, *parts = [part.strip() for part in text.split(",")]
    if level not in LEVELS:
        known = ", ".join(LEVELS)
        raise UnusableInput(f"session {text!r}: begins with a level: {known}")
    settings = ort.Settings(level=LEVELS[level])
    for part in parts:
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise UnusableInput(f"session {text!r}: {part!r} is not NAME=VALUE")
        if name == "threads":
            if not value.isdecimal() or not 0 <= int(value) <= 1024:
                raise UnusableInput(f"session {text!r}: threads are 0 (all cores) to 1024")
            settings = replace(settings, threads=int(value))
        elif name == "without":
            settings = without(settings, [value])
        else:
            settings = replace(settings, entries=(*settings.entries, (name, value)))
    return settings


def without(settings: ort.Settings, names: Iterable[str]) -> ort.Settings:
    """The same session, with these optimizations left out besides."""
    entries = dict(settings.entries)
    left_out = [name for name in entries.pop(DISABLED, "").split(";") if name]
    left_out += [name for name in names if name not in left_out]
    joined = {DISABLED: ";".join(left_out)} if left_out else {}
    return replace(settings, entries=tuple((entries | joined).items()))


def checked(model: Model, settings: ort.Settings) -> ort.Settings:
    """The session itself, if ONNX Runtime knows the optimizations that it leaves out.

    Raises:
        UnusableInput: it does not know one, and would pass over it; the message lists those known.
    """
    names = [n for n in dict(settings.entries).get(DISABLED, "").split(";") if n]
    if not names:
        return settings
    try:
        known = optimizations(model.proto, ort.DEFAULT)
    except Exception as error:  # onnxruntime raises types of its own
        raise ort.refused(model.path, error) from None
    rules = [rule for rules in RULES.values() for rule in rules]
    for name in names:
        if known and name not in known and name not in rules:
            listed = ", ".join(sorted({*known, *rules}))
            raise UnusableInput(f"without={name}: no such optimization; there are {listed}")
    return settings


def optimizations(proto: onnx.ModelProto, settings: ort.Settings) -> dict[str, bool]:
    """The optimizations that a session applies, and whether each changed the graph.

    They are in the order in which they last did so, or else were first tried. They are read from
    what ONNX Runtime logs to standard error, which is caught meanwhile; there are none where the
    process has no standard error.

    Raises:
        Exception: of ONNX Runtime's own types, if it refuses the model.
    """
    with suppress(Exception):
        sys.stderr.flush()
    try:
        before = os.dup(2)
    except OSError:
        return {}
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            ort.open_session(proto, settings, severity=1)
        finally:
            os.dup2(before, 2)
            os.close(before)
        log.seek(0)
        return _logged(log.read().decode(errors="replace"))


def _logged(text: str) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for name, changed in LOGGED.findall(text):
        if changed == "1":
            found.pop(name, None)
        found.setdefault(name, changed == "1")
    return found


@dataclass(frozen=True)
class Cause:
    """Which graph optimizations make the difference between two sessions.

    ``names`` are in the order in which they last changed a graph, so the last one made the
    difference and those before it made that possible: with any one of them left out of both
    sessions it is gone; if ``together``, only with all of them left out. ``sufficient`` says
    whether it is there with every other optimization left out. Without names, ``reason`` says what
    was found instead.
    """

    names: tuple[str, ...] = ()
    together: bool = False
    sufficient: bool = False
    applied: int = 0  # how many optimizations the two sessions have in all
    changed: tuple[str, ...] = ()  # those that changed the graph in one of them
    reason: str = ""


def find_cause(
    proto: onnx.ModelProto, sides: tuple[ort.Settings, ort.Settings], differ: Callable[..., bool]
) -> Cause:
    """Find the graph optimizations that make two sessions of a model differ.

    Args:
        proto: a model on which they do, best a small one.
        differ: whether two sessions differ on it; it is given their settings.
    """

    def still(names: Iterable[str]) -> bool:
        return differ(*(without(side, names) for side in sides))

    logged = [optimizations(proto, side) for side in sides]
    every = list(dict.fromkeys(name for found in logged for name in found))
    changed = [name for name in every if any(found.get(name) for found in logged)]
    known = dict(applied=len(every), changed=tuple(changed))
    if not every:
        return Cause(reason="ONNX Runtime logs no optimization here", **known)
    if still(every):
        why = f"no graph optimization: it is there with all {len(every)} left out"
        return Cause(reason=why, **known)
    # a rule says more than the optimizer that applies it
    tried = [name for changer in changed for name in (*RULES.get(changer, ()), changer)]
    tried = list(dict.fromkeys(tried)) or every
    names = [name for name in tried if not still([name])]
    together = not names
    if together:
        pool = tried if not still(tried) else every
        names = smallest(pool, lambda left_out: not still(left_out))
    owners = {owner for owner, rules in RULES.items() if any(name in names for name in rules)}
    names = [name for name in names if name not in owners]
    return Cause(tuple(names), together, still(_others(every, names)), **known)


def _others(every: list[str], names: list[str]) -> list[str]:
    """All optimizations but these, those that apply these rules excepted."""
    owners = {owner for owner, rules in RULES.items() if any(name in rules for name in names)}
    rules = [rule for owner in owners for rule in RULES[owner]]
    return [name for name in (*every, *rules) if name not in names and name not in owners]


def smallest(items: list, holds: Callable[[list], bool]) -> list:
    """Items of which none can be left out such that it still holds; it holds for all of them.

    Runs of items are left out, from half of them down to single ones, the first ones first.
    """
    size = max(len(items) // 2, 1)
    while True:
        at, before = 0, len(items)
        while at < len(items):
            rest = items[:at] + items[at + size :]
            if holds(rest):
                items = rest
            else:
                at += size
        if size == 1 and len(items) == before:
            return items
        size = max(size // 2, 1)
