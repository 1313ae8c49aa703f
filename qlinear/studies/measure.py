"""Counts on one batch: what a setting changes, beside the exact network.

A result is integers only, and depends on the network, the setting and the batch alone: not on the
process that computes it, nor on what that computed before. Noise is drawn from a stream of its own
for each seed, layer and first image.
"""

import functools
import hashlib
import pickle
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import ml_dtypes  # noqa: F401  (types of its own in arrays that are unpickled)
import numpy as np
import onnx
from threadpoolctl import ThreadpoolController

import qlinear
from qlinear import engine, ort
from qlinear.errors import UnusableInput
from qlinear.hardware.analog import Array
from qlinear.onnx_model import Model, Node
from qlinear.operators import MOVERS, OPERATORS
from qlinear.quantized import reads
from qlinear.studies import arithmetic
from qlinear.studies.arithmetic import Layer, coarser, layers_of, vary, zero_point_of
from qlinear.studies.settings import ALL_BUT, ALONE, EXACT, FILES, Setting

import onnxruntime

COUNTS = ("images", "same", "right", "lost", "gained")


@dataclass(frozen=True)
class Job:
    """What every worker needs; it is sent once.

    ``graphs`` are the graphs that ONNX Runtime runs, the studied one under "" and other files' by
    their SHA-256. ``calibration`` are the first images, as the network is fed with them.
    """

    graphs: dict[str, Model]
    output: str
    runs: int | None  # images that the network takes at once; None: any number
    types: dict[str, np.dtype]
    calibration: tuple[dict[str, np.ndarray], ...] = ()


@dataclass(frozen=True)
class Batch:
    """Images ``start`` to ``stop`` of the data."""

    start: int
    stop: int
    inputs: dict[str, np.ndarray]
    labels: np.ndarray | None
    compared: bool  # whether elements are counted, layer by layer


@dataclass(frozen=True, eq=False)
class Ready:
    """A job as a worker has it: its layers and sessions."""

    job: Job
    layers: dict[str, Layer]
    borrow: dict[str, Callable]

    @property
    def graph(self) -> Model:
        return self.job.graphs[""]


@functools.cache
def versions() -> dict[str, str]:
    """What a number may depend on besides its inputs; of the library, a hash of its arithmetic."""
    folder = Path(qlinear.__file__).parent
    code = hashlib.sha256()
    for name in ("operators", "hardware", "studies"):
        for path in sorted((folder / name).glob("*.py")):
            if path.stem not in ("report", "page", "workers", "study", "command"):
                code.update(path.name.encode() + path.read_bytes())
    code.update((folder / "engine.py").read_bytes())
    plain = {m.__name__: m.__version__ for m in (qlinear, np, onnx, onnxruntime)}
    return {**plain, "arithmetic": code.hexdigest()[:16]}


def packed(job: Job) -> bytes:
    """A job as bytes, without what the engine has prepared in this process."""
    graphs = {name: replace(graph) for name, graph in job.graphs.items()}
    return pickle.dumps(replace(job, graphs=graphs), protocol=5)


@functools.lru_cache(maxsize=2)
def opened(content: bytes) -> Ready:
    """A job from its bytes, once in each process."""
    return ready(pickle.loads(content))


def ready(job: Job) -> Ready:
    for graph in job.graphs.values():
        for value in graph.constants.values():  # so that the engine prepares a node once
            if value.flags.owndata or value.flags.writeable:
                value.flags.writeable = False
    layers, _ = layers_of(job.graphs[""])
    return Ready(job, layers, {k: ort.borrower(graph) for k, graph in job.graphs.items()})


# --- one run through a graph


def plain(graph: Model, node: Node, fed: dict, borrow: Callable) -> dict[str, np.ndarray]:
    """A node as it always is: by the reference, else by ONNX Runtime."""
    if (node.domain, node.op_type) in OPERATORS or (node.domain, node.op_type) in MOVERS:
        try:
            return engine.computed(graph, node, fed)
        except UnusableInput:
            pass
    try:
        return borrow(node, fed)
    except Exception as error:  # onnxruntime raises types of its own
        raise ort.refused(graph.path, error) from None


def forward(
    graph: Model,
    feeds: dict[str, np.ndarray],
    borrow: Callable,
    wanted: set[str],
    varied: dict[str, Callable[[np.ndarray], np.ndarray]],
    after: Callable[[Node, np.ndarray], np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Run a graph; what is read no more and not wanted is forgotten.

    Args:
        varied: by the name of its output, what computes a layer from its input.
        after: changes what a node writes.
    """
    values, kept = dict(feeds), {}
    read = {node.outputs: reads(node) for node in graph.nodes}
    waiting = Counter(name for names in read.values() for name in names)
    kept = {k: v for k, v in {**graph.constants, **feeds}.items() if k in wanted}
    for node in graph.nodes:
        names = read[node.outputs]
        if node.outputs[0] in varied:
            found = {node.outputs[0]: varied[node.outputs[0]](values[node.inputs[0]])}
        else:
            found = plain(graph, node, {k: values[k] for k in names if k in values}, borrow)
        if after is not None:
            found = {name: after(node, value) for name, value in found.items()}
        kept.update({k: v for k, v in found.items() if k in wanted})
        values.update({k: v for k, v in found.items() if waiting[k]})
        for name in names:
            waiting[name] -= 1
            if not waiting[name]:
                values.pop(name, None)
    return kept


def parts(job: Job, batch: Batch) -> list[tuple[int, dict[str, np.ndarray]]]:
    """The runs of a batch: the number of the first image, and the inputs."""
    count = batch.stop - batch.start
    size = job.runs or count
    return [
        (
            batch.start + first,
            {k: v[first : first + size].astype(job.types[k]) for k, v in batch.inputs.items()},
        )
        for first in range(0, count, size)
    ]


# --- the exact network


@dataclass(frozen=True, eq=False)
class Reference:
    """The exact network on a batch: its outputs, and each layer's tensors where they are needed."""

    outputs: list[np.ndarray]
    values: list[dict[str, np.ndarray]]


_last: list[tuple[tuple, Reference]] = []  # of the last batch that this process worked on


def exact(at: Ready, batch: Batch) -> Reference:
    key = (at, batch.start, batch.stop)
    for known, reference in _last[:]:  # a copy: a worker may have several threads
        if known == key:
            return reference
    wanted = {at.job.output}
    if batch.compared:
        wanted |= {n for layer in at.layers.values() for n in (layer.x_name, layer.y_name)}
    values = [
        forward(at.graph, feeds, at.borrow[""], wanted, {}) for _, feeds in parts(at.job, batch)
    ]
    outputs = [found[at.job.output] for found in values]
    reference = Reference(outputs, values if batch.compared else [])
    _last[:] = [(key, reference)]
    return reference


def classes(output: np.ndarray) -> np.ndarray | None:
    """The class of each image, the first of the greatest; None where an output has no classes."""
    flat = output.reshape(len(output), -1) if output.ndim > 1 else output
    one_each = output.ndim > 1 and flat.shape[1] == output.shape[1] > 1
    return flat.argmax(axis=1) if one_each else None


# --- a setting


@functools.lru_cache(maxsize=256)
def _calibrated(at: Ready, setting: Setting) -> dict[str, Array]:
    """The array of each layer that lies on one, from the exact network on the first images."""
    names = {layer.x_name for layer in at.layers.values()}
    found: dict[str, list[np.ndarray]] = {}
    left = int(setting["calibrated"])
    for feeds in at.job.calibration:
        size = len(next(iter(feeds.values())))
        if left < size and at.job.runs is None:
            feeds = {k: v[:left] for k, v in feeds.items()}
        for name, x in forward(at.graph, feeds, at.borrow[""], names, {}).items():
            found.setdefault(name, []).append(x)
        left -= size
        if left <= 0:
            break
    arrays = {}
    for name, layer in at.layers.items():
        with suppress(UnusableInput):  # vary() says why
            arrays[name] = arithmetic.calibrated(setting, layer, found[layer.x_name])
    return arrays


@functools.lru_cache(maxsize=64)
def computes(at: Ready, setting: Setting) -> tuple[dict[str, Callable], dict[str, str]]:
    """What computes each layer that the setting changes, and why it leaves others as they are."""
    whole = replace(setting, mode="", layer="", images=None, sensitivity=0)
    if setting != whole:
        found, left = computes(at, whole)
        names = chosen(at, setting)
        return (
            {k: v for k, v in found.items() if k in names},
            {k: v for k, v in left.items() if k in names},
        )
    arrays = (
        _calibrated(at, setting) if setting.section == "analog" and setting["calibrated"] else {}
    )
    found, left = {}, {}
    for name, layer in at.layers.items():
        try:
            compute = vary(setting, layer, arrays.get(name))
        except UnusableInput as error:
            left[name] = str(error)
        else:
            if compute is not None:
                found[name] = compute
    return found, left


def chosen(at: Ready, setting: Setting) -> set[str]:
    """The layers that a setting is about."""
    if setting.mode == ALONE:
        return {setting.layer}
    return set(at.layers) - ({setting.layer} if setting.mode == ALL_BUT else set())


def narrowing(at: Ready, setting: Setting) -> Callable[[Node, np.ndarray], np.ndarray] | None:
    """What is done to the tensors that a node writes; for one layer alone, to its own only."""
    if setting.section == FILES:
        bits = setting["saturate"]
        return None if bits == 8 else lambda node, y: saturated(y, bits)
    if setting.section != "bit_widths" or setting["activations"] == 8:
        return None
    bits, graph = setting["activations"], at.graph
    by_output = {layer.y_name: layer.name for layer in at.layers.values()}
    names = chosen(at, setting)
    zeros = {node.outputs: zero_point_of(graph, node) for node in graph.nodes}

    def after(node: Node, y: np.ndarray) -> np.ndarray:
        zero, layer = zeros[node.outputs], by_output.get(node.outputs[0])
        inside = layer in names if layer else setting.mode != ALONE
        if zero is None or not inside or y.dtype not in (np.int8, np.uint8):
            return y
        return coarser(y, zero, bits)

    return after


def saturated(y: np.ndarray, bits: int) -> np.ndarray:
    """An int8 tensor that saturates to ``bits`` bits; other types as they are."""
    half = 1 << (bits - 1)
    return np.clip(y, -half, half - 1) if y.dtype == np.int8 else y


def stream(setting: Setting, layer: str, start: int) -> np.random.Generator:
    """The noise of a layer from one image on."""
    seed = setting["seed"] if setting.section == "analog" else 0
    return np.random.default_rng([int(seed), zlib.crc32(layer.encode()), start])


def layer_call(
    layer: Layer, compute: Callable, setting: Setting, start: int
) -> Callable[[np.ndarray], np.ndarray]:
    def call(x: np.ndarray) -> np.ndarray:
        y = compute(layer.as_image(x), stream(setting, layer.name, start))
        return layer.as_output(y, x)

    return call


@functools.cache
def _threads() -> ThreadpoolController:
    """The libraries of this process that have threads."""
    return ThreadpoolController()


def measured(content: bytes, setting: Setting, batch: Batch) -> tuple[dict, dict]:
    """What a worker does: the counts, and the versions that they were made with."""
    with _threads().limit(limits=1):
        return measure(opened(content), setting, batch), versions()


def measure(at: Ready, setting: Setting, batch: Batch) -> dict:
    """Counts of a setting on a batch.

    Returns:
        ``images``; ``same``, those with the exact network's class, or output; with labels
        ``right``, ``lost`` (right in the exact network only) and ``gained`` (right here only);
        ``differing``, for each layer that the setting changes, [elements that differ, elements],
        on exact inputs.
    """
    reference = exact(at, batch)
    outputs = reference.outputs if setting.section == EXACT else _outputs(at, setting, batch)
    counts = dict.fromkeys(COUNTS, 0)
    counts["images"] = batch.stop - batch.start
    done = 0
    for ours, theirs in zip(outputs, reference.outputs, strict=True):
        found, before = classes(ours), classes(theirs)
        if before is None:
            if ours.shape != theirs.shape:
                raise UnusableInput(f"an output has shape {ours.shape}, the exact {theirs.shape}")
            alike = (ours == theirs).reshape(len(theirs), -1).all(axis=1)
            counts["same"] += int(alike.sum())
            continue
        counts["same"] += int((found == before).sum())
        if batch.labels is not None:
            labels = batch.labels[done : done + len(found)]
            right, was = found == labels, before == labels
            counts["right"] += int(right.sum())
            counts["lost"] += int((was & ~right).sum())
            counts["gained"] += int((right & ~was).sum())
        done += len(found)
    if batch.compared and setting.section not in (EXACT, FILES) and not setting.mode:
        counts["differing"] = _differing(at, setting, batch, reference)
    return counts


def _outputs(at: Ready, setting: Setting, batch: Batch) -> list[np.ndarray]:
    found, after = [], narrowing(at, setting)
    if setting.section == FILES:
        which = dict(setting.values)["sha256"]
        graph, borrow = at.job.graphs[which], at.borrow[which]
        varied: dict[str, Callable] = {}
    else:
        graph, borrow = at.graph, at.borrow[""]
        varied, _ = computes(at, setting)
    output = at.job.output if at.job.output in graph.outputs else next(iter(graph.outputs))
    for start, feeds in parts(at.job, batch):
        calls = {
            at.layers[name].y_name: layer_call(at.layers[name], compute, setting, start)
            for name, compute in varied.items()
        }
        found.append(forward(graph, feeds, borrow, {output}, calls, after)[output])
    return found


def _differing(
    at: Ready, setting: Setting, batch: Batch, reference: Reference
) -> dict[str, list[int]]:
    varied, _ = computes(at, setting)
    after = narrowing(at, setting)
    found: dict[str, list[int]] = {}
    for (start, _), values in zip(parts(at.job, batch), reference.values, strict=True):
        for name, layer in at.layers.items():
            if name not in varied and after is None:
                continue
            y = values[layer.y_name]
            if name in varied:
                call = layer_call(layer, varied[name], setting, start)
                other = call(values[layer.x_name])
            else:
                other = y
            if after is not None:
                other = after(layer.node, other)
            count = found.setdefault(name, [0, 0])
            count[0] += int((other != y).sum())
            count[1] += y.size
    return found
