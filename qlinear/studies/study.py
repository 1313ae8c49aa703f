"""A study: a network, data and settings, what is to be done, and what was counted."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qlinear import engine, inputs, oracle
from qlinear.compare import compare_arrays
from qlinear.errors import UnusableInput
from qlinear.fuse import Network
from qlinear.onnx_model import Model, load
from qlinear.operators import MOVERS
from qlinear.quantized import FLOAT_MAC, INTEGER_MAC
from qlinear.studies import measure
from qlinear.studies.arithmetic import layers_of, proven_bits, zero_point_of
from qlinear.studies.measure import COUNTS, Batch, Job, classes
from qlinear.studies.settings import ALL_BUT, ALONE, EXACT, FILES, Setting, identity
from qlinear.studies.workers import Task, by_dask, client_of, here, journal

BATCH = 50  # images of a task
COMPARED = 200  # images on which elements are counted
LABELS = ("labels", "y")


@dataclass(frozen=True, eq=False)
class Data:
    """Images for a network, and their classes where they are known."""

    name: str
    arrays: dict[str, np.ndarray]  # by the name of the input, as they are stored
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def sha256(self, images: int) -> str:
        """Of the first images and their labels."""
        digest = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape[1:]}".encode())
            digest.update(np.ascontiguousarray(array[:images]))
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels[:images], np.int64))
        return digest.hexdigest()


def read_data(model: Model, path: Path) -> Data:
    """Images and labels of a .npz file.

    The images are under the name of the model's input, or under ``x`` where it has one; several
    inputs are each under their own name. Classes, whole numbers, are under ``labels`` or ``y``.

    Raises:
        UnusableInput: something is missing or does not fit; the message names the file.
    """
    if path.suffix != ".npz":
        raise UnusableInput(f"{path}: a .npz file needed, with x and perhaps labels")
    held = inputs.names_in(path)
    names = {name: name for name in model.inputs}
    if len(names) == 1 and not set(names) & set(held):
        names = dict.fromkeys(names, "x")
    arrays = {}
    for name, stored in names.items():
        dtype, shape = model.inputs[name]
        if stored not in held:
            raise UnusableInput(f"{path}: holds {', '.join(held) or 'nothing'}, not {name} or x")
        array = inputs.read_array(path, stored, shape)
        array = array[None] if array.ndim == len(shape) - 1 else array
        for first in range(0, len(array), 256):  # refused before anything is computed
            inputs.converted(array[first : first + 256], dtype, path)
        arrays[name] = array
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UnusableInput(f"{path}: different numbers of images: {said}")
    label = next((name for name in LABELS if name in held and name not in names), "")
    labels = inputs.read_array(path, label, (None,)) if label else None
    if labels is not None:
        count = next(iter(counts.values()))
        if labels.shape != (count,):
            raise UnusableInput(f"{path}: {label} has shape {labels.shape}, for {count} images")
        if labels.dtype.kind not in "iu":
            raise UnusableInput(f"{path}: {label} has type {labels.dtype}: whole numbers needed")
        if labels.min() < 0 or labels.max() > np.iinfo(np.int64).max:
            raise UnusableInput(f"{path}: {label} holds {_worst(labels)}: classes count from 0")
        labels = labels.astype(np.int64)
    return Data(str(path), arrays, labels)


def _worst(labels: np.ndarray) -> int:
    return int(labels.min() if labels.min() < 0 else labels.max())


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be done, all of it checked."""

    network: Network
    data: Data
    images: int
    batch: int
    compared: int
    job: Job
    settings: tuple[Setting, ...]  # the exact network first
    header: dict  # what every result rests on
    facts: dict  # of the network: what varies, what does not, and what is proven


@dataclass(frozen=True)
class Row:
    """Counts of a setting, over all of its batches."""

    setting: Setting
    counts: dict[str, int]
    differing: dict[str, list[int]]  # by layer: elements that differ, elements
    left: dict[str, str]  # layers that the setting leaves as they are, and why


def plan(
    model: Model,
    data: Data,
    settings: Iterable[Setting],
    *,
    images: int | None = None,
    batch: int = BATCH,
    compared: int = COMPARED,
    output: str = "",
    sensitivity: str = "some",
) -> Plan:
    """Check everything, and settle what is to be done.

    Args:
        settings: of :mod:`qlinear.studies.settings`.
        images: the first ones only.
        batch: images of a task; noise and the resumption of a study depend on it.
        compared: on so many images elements are counted, layer by layer.
        output: the graph's output that is looked at (default: the first).
        sensitivity: ``none``; ``some``, of the settings that ask for it; ``all``.

    Raises:
        UnusableInput: something does not fit together; the message says what.
    """
    count = len(data) if images is None else min(images, len(data))
    for name, value in (("images", count), ("batch", batch)):
        if value < 1:
            raise UnusableInput(f"--{name} is {value}: at least 1 needed")
    output = output or next(iter(model.outputs))
    if output not in model.outputs:
        raise UnusableInput(
            f"{model.path}: no output {output!r}; it has {', '.join(model.outputs)}"
        )
    runs = _runs(model)
    if runs:
        if count < runs:
            raise UnusableInput(f"{data.name}: {count} images, the model takes {runs} at once")
        count -= count % runs
        batch = -(-batch // runs) * runs
    first = {k: v[: runs or min(batch, count)].astype(model.inputs[k][0])
             for k, v in data.arrays.items()}  # fmt: skip
    network = oracle.settle(model, first)
    settings = tuple(settings)
    graphs = {"": network.graph} | _others(settings, model, first)
    layers, left = layers_of(network.graph)
    if not layers:
        why = "; ".join(f"{name}: {reason}" for name, reason in left.items())
        raise UnusableInput(f"{model.path}: no layer that could vary ({why or 'no weights'})")
    facts, found = _facts(network, first, output, layers, left)
    _check_labels(data, output, found, count)
    calibration = max([int(s["calibrated"]) for s in settings if s.section == "analog"], default=0)
    types = {name: dtype for name, (dtype, _) in model.inputs.items()}
    job = Job(graphs, output, runs, types)
    held = {k: v[: min(calibration, count)] for k, v in data.arrays.items()}
    if calibration:
        if runs and calibration % runs:
            raise UnusableInput(f"calibrated is {calibration}: the model takes {runs} at once")
        whole = Batch(0, min(calibration, count), held, None, False)
        job = replace(job, calibration=tuple(feeds for _, feeds in measure.parts(job, whole)))
    every = [Setting(EXACT), *settings, *_of_layers(settings, layers, sensitivity)]
    whole = [replace(s, images=_rounded(min(s.images or count, count), runs)) for s in every]
    header = {
        "model": identity(model),
        "data": data.sha256(count),
        "images": count,
        "batch": batch,
        "compared": compared,
        "output": output,
        "session": str(network.settings),
        "versions": measure.versions(),
    }
    return Plan(network, data, count, batch, compared, job, tuple(whole), header, facts)


def _rounded(images: int, runs: int | None) -> int:
    return max(images - images % runs, runs) if runs else images


def _runs(model: Model) -> int | None:
    """How many images a model takes at once; None: any number."""
    sizes = {shape[0] if shape else 0 for _, shape in model.inputs.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise UnusableInput(f"{model.path}: its inputs have no common first axis, of images")
    (size,) = sizes
    return size if isinstance(size, int) else None


def _others(settings: Iterable[Setting], model: Model, first: dict) -> dict[str, Model]:
    """The graphs of other files, by their hash."""
    found: dict[str, Model] = {}
    for setting in settings:
        if setting.section != FILES or dict(setting.values)["sha256"] in found:
            continue
        other = load(str(setting["file"]))
        if other.inputs != model.inputs:
            raise UnusableInput(f"{other.path}: its inputs are not those of {model.path}")
        found[dict(setting.values)["sha256"]] = oracle.settle(other, first).graph
    return found


def _of_layers(settings: Iterable[Setting], layers: Iterable[str], which: str) -> Iterator[Setting]:
    """Each layer alone, and all but it."""
    for setting in settings:
        if which == "all" and setting.section != FILES and not setting.sensitivity:
            setting = replace(setting, sensitivity=setting.images or 1 << 40)
        if which == "none" or not setting.sensitivity:
            continue
        for mode in (ALONE, ALL_BUT):
            yield from (setting.of_layer(mode, layer) for layer in layers)


def _facts(
    network: Network, first: dict, output: str, layers: dict, left: dict
) -> tuple[dict, np.ndarray]:
    """What of the network varies, what does not and why, and whether it is ONNX Runtime's.

    The second is the output that is looked at, on the first images.
    """
    session = oracle.open_file(network.file, network.settings)
    theirs = oracle.outputs(network.file, session, first)
    _check_images(network.file, output, session, first, theirs[output])
    float_nodes: dict[str, int] = {}
    exact: dict[str, int] = {}
    others: dict[str, str] = dict(left)
    wide = [f"input {name}" for name, (dtype, _) in network.file.inputs.items()
            if dtype in (np.int8, np.uint8)]  # fmt: skip
    ours: dict[str, np.ndarray] = {}
    constants = network.graph.constants
    ours |= {k: v for k, v in {**constants, **first}.items() if k in network.file.outputs}
    for step in engine.steps(network.graph, first, given=network.file.constants):
        node = step.node
        ours |= {k: v for k, v in step.outputs.items() if k in network.file.outputs}
        if step.how == engine.FLOAT:
            float_nodes[node.operator] = float_nodes.get(node.operator, 0) + 1
        elif step.how == engine.RECOMPUTED and node.op_type not in (*INTEGER_MAC, *FLOAT_MAC):
            exact[node.operator] = exact.get(node.operator, 0) + 1
        elif step.how == engine.LEFT_OUT and node.op_type not in (*INTEGER_MAC, *FLOAT_MAC):
            others[node.name] = step.reason
        narrow = any(v.dtype in (np.int8, np.uint8) for v in step.outputs.values())
        moves = (node.domain, node.op_type) in MOVERS or node.op_type in ("MaxPool", "Resize")
        if narrow and not moves and zero_point_of(network.graph, node) is None:
            wide.append(node.name)
    compared = [compare_arrays(name, ours[name], theirs[name]) for name in theirs]
    facts = {
        "layers": {name: layer.node.operator for name, layer in layers.items()},
        "left": others,
        "float": float_nodes,
        "exact": exact,
        "activations_left": wide,
        "proven_bits": {name: proven_bits([layer]) for name, layer in layers.items()},
        "checked": {
            "images": len(next(iter(first.values()))),
            "elements": sum(c.elements for c in compared),
            "differing": sum(c.mismatches for c in compared),
        },
    }
    return facts, np.asarray(ours[output])


def _check_images(model: Model, output: str, session, first: dict, found: np.ndarray) -> None:
    """Refuse an output whose first axis is not that of the images."""
    count = len(next(iter(first.values())))
    shapes = {count: found.shape}
    if _runs(model) is None and count > 1:
        one = oracle.outputs(model, session, {k: v[:1] for k, v in first.items()})
        shapes[1] = one[output].shape
    for images, shape in shapes.items():
        if shape[:1] != (images,):
            raise UnusableInput(
                f"{model.path}: output {output} has shape {shape} for {_said(images)}: a first "
                "axis of images needed; name another with --output"
            )


def _said(images: int) -> str:
    return f"{images} image{'' if images == 1 else 's'}"


def _check_labels(data: Data, output: str, found: np.ndarray, count: int) -> None:
    """Refuse labels that an output cannot have."""
    if data.labels is None:
        return
    if classes(found) is None:
        raise UnusableInput(
            f"{data.name}: labels, but output {output} has no axis of classes after the images'; "
            "name another with --output, or leave the labels out"
        )
    greatest = int(data.labels[:count].max())
    if greatest >= found.shape[1]:
        raise UnusableInput(
            f"{data.name}: a label is {greatest}, output {output} has {found.shape[1]} classes, "
            "0 on"
        )


# --- running it


def batches(plan: Plan, images: int) -> list[tuple[int, int]]:
    """The first image of each batch, and the one after its last."""
    return [(a, min(a + plan.batch, images)) for a in range(0, images, plan.batch)]


def tasks(plan: Plan) -> list[Task]:
    """All tasks, batch by batch, so that a batch is sent once and its exact tensors serve all."""
    found = [Task(setting, *batch) for setting in plan.settings
             for batch in batches(plan, setting.images)]  # fmt: skip
    return sorted(found, key=lambda task: (task.start, task.stop))


def batch_of(plan: Plan, start: int, stop: int) -> Batch:
    data = plan.data
    inputs = {name: array[start:stop] for name, array in data.arrays.items()}
    labels = None if data.labels is None else data.labels[start:stop]
    return Batch(start, stop, inputs, labels, start < plan.compared)


def run(
    plan: Plan,
    out: Path,
    *,
    processes: int = 0,
    scheduler: str = "",
    progress: Callable[[Iterable, str, int, int], Iterable] | None = None,
) -> list[Row]:
    """Do what is not done yet, and return the counts of every setting.

    Args:
        out: a folder; what is finished is kept in it, and taken from it.
        processes: on this machine; 0: this one.
        scheduler: the address of Dask's scheduler, in place of them.
        progress: wraps the tasks; it is told a title, how many there are, and how many are done.

    Raises:
        UnusableInput: the folder holds something else, or a worker cannot do the work.
    """
    progress = progress or (lambda parts, title, total, done: parts)
    every = tasks(plan)
    with journal(out, plan.header) as (found, add):
        open_ = [task for task in every if task.place not in found]
        done = len(every) - len(open_)

        def follow(results: Iterable) -> None:
            for place, counts in progress(results, "studying", len(every), done):
                add(place, counts)

        def batch(start: int, stop: int) -> Batch:
            return batch_of(plan, start, stop)

        if open_ and (processes or scheduler):
            with client_of(min(processes, len(open_)), scheduler) as client:
                follow(by_dask(client, plan.job, open_, batch))
        elif open_:
            follow(here(plan.job, open_, batch))
        return _rows(plan, found)


def _rows(plan: Plan, found: dict) -> list[Row]:
    """Sums over the batches, in the order of the settings."""
    at = measure.ready(plan.job)
    rows = []
    for setting in plan.settings:
        places = [(setting.key, *batch) for batch in batches(plan, setting.images)]
        counts = {name: sum(found[place][name] for place in places) for name in COUNTS}
        differing: dict[str, list[int]] = {}
        for name in at.layers:  # in the network's order
            pairs = [
                pair for place in places if (pair := found[place].get("differing", {}).get(name))
            ]
            if pairs:
                differing[name] = [sum(wrong for wrong, _ in pairs), sum(n for _, n in pairs)]
        left: dict[str, str] = {}
        if setting.section not in (EXACT, FILES):
            _, left = measure.computes(at, setting)
        rows.append(Row(setting, counts, differing, left))
    return rows
