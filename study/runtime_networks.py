"""Compare the field's runtimes with ONNX Runtime, tensor by tensor, on the same quantized network.

:func:`measure` makes one section of models/runtimes.json. Each engine runs the network twice, as it
is and with every tensor as an output besides, since asking for a tensor may change what a runtime
makes of the graph; and each node alone, on the tensors that ONNX Runtime gave it.
"""

import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper
from tqdm import tqdm

from qlinear import ort
from qlinear.errors import UnusableInput
from qlinear.onnx_model import Model, Node, from_proto
from study import formulas
from study.engines import Engine, Tensors, refusals, version
from study.provenance import recorded

BATCH = 20  # images in a call: some runtimes compile for one size
FEW = 100  # of the images, the first, for runtimes that are slow
HELD = 100  # of the images, the first, on which bounds are held against each node alone
BOUNDS = (formulas.FLOAT32, formulas.BFLOAT16)
OWN = 20  # on at most so many images formulas are held against a runtime's own tensors too, and cut


def describe(model: Model) -> dict[str, dict]:
    """Every tensor that the network computes: its node, its operator, and elements of an image."""
    found = {}
    for node in model.nodes:
        shape = ort.declared(model)[node.outputs[0]][1]
        count = int(np.prod([n for n in shape[1:] if isinstance(n, int)]))
        found[node.outputs[0]] = {"node": node.name, "operator": node.operator, "elements": count}
    return found


def processor() -> str:
    """The processor's own name, else the kind of machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")


def machine() -> str:
    return f"{platform.machine()} {platform.system()}"


def flags() -> list[str]:
    """Of the processor's extensions those that INT8 kernels ask for."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "amx_bf16")
    words = set(text.split())
    return [flag for flag in known if flag in words]


def batches(images: np.ndarray) -> list[np.ndarray]:
    """Images as float32 pixels, BATCH at a time; the last are filled up with the first image."""
    pixels = images.astype(np.float32)
    short = -len(pixels) % BATCH
    pixels = np.concatenate([pixels, np.repeat(pixels[:1], short, axis=0)])
    return np.split(pixels, len(pixels) // BATCH)


class Difference:
    """Counts over batches of how many elements differ, and by how much."""

    def __init__(self) -> None:
        self.count, self.largest = 0, 0

    def add(self, theirs: np.ndarray, ours: np.ndarray) -> None:
        """Raises ValueError where type or shape differ."""
        if theirs.dtype != ours.dtype or theirs.shape != ours.shape:
            raise ValueError(f"{theirs.dtype} {theirs.shape}, not {ours.dtype} {ours.shape}")
        wrong = theirs != ours
        if wrong.any():
            self.count += int(wrong.sum())
            apart = np.abs(theirs[wrong].astype(np.float64) - ours[wrong])
            self.largest = max(self.largest, apart.max())

    @property
    def pair(self) -> list:
        """[elements that differ, the largest difference]; an integer where it is one."""
        largest = float(self.largest)
        return [self.count, int(largest) if largest.is_integer() else round(largest, 7)]


class Truth:
    """The images, and what ONNX Runtime computes on them by default: every tensor of a batch."""

    def __init__(self, model: Model, images: np.ndarray, labels: np.ndarray):
        self.model, self.labels, self.count = model, labels, len(images)
        self.given = batches(images)
        self.tensors = [ort.tensors(model, x) for x in self.given]
        self.logits = np.concatenate([t["logits"] for t in self.tensors])[: self.count]

        self.shared: dict[tuple[str, int], object] = {}

    def stage_1(self, node: Node, i: int) -> object:
        """What the formulas of a node share on a batch; kept for the next runtime."""
        if (node.name, i) not in self.shared:
            found = formulas.FORMULAS[node.op_type][0](self.model, node, self.tensors[i])
            self.shared[node.name, i] = found
        return self.shared[node.name, i]

    def real(self, start: int) -> slice:
        """Of a batch, the images that are not filled up."""
        return slice(0, min(BATCH, self.count - start * BATCH))


def whole(engine: Engine, truth: Truth, bar: tqdm) -> tuple[dict, np.ndarray | None]:
    """A row's part on the network as it is, and its logits."""
    model = truth.model
    scale, zero = (model.arguments(model.nodes[-1])[k] for k in ("x_scale", "x_zero_point"))
    row: dict = {}
    with refusals() as said:
        run = engine.open(model, None, (), BATCH)
        logits, seconds = [], []
        for i, x in enumerate(truth.given):
            start = time.perf_counter()
            found = run({"image": x})["logits"]
            seconds.append(time.perf_counter() - start)
            logits.append(found[truth.real(i)])
            bar.update()
        logits = np.concatenate(logits)
        steps, ours = (np.rint(v / scale) + zero for v in (logits, truth.logits))
        apart = np.abs(steps - ours)
        labels = logits.argmax(1)
        row = {
            "labels_changed": int((labels != truth.logits.argmax(1)).sum()),
            "correct": int((labels == truth.labels).sum()),
            "logits": [int((apart > 0).sum()), int(apart.max())],
            "logits_as_floats": int((logits != truth.logits).sum()),
            "seconds": round(float(np.median(seconds)) / BATCH, 7),
        }
    return ({"refused": said[0]}, None) if said else (row, logits)


def outputs_too(engine: Engine, truth: Truth, names: list[str], keep: list[Tensors]) -> dict:
    """A row's part on every tensor; what was found is appended to ``keep``."""
    differ = {name: Difference() for name in names}
    with refusals() as said:
        run = engine.open(truth.model, None, names, BATCH)
        for i, x in enumerate(truth.given):
            found = run({"image": x})
            part = truth.real(i)
            for name in names:
                differ[name].add(found[name][part], truth.tensors[i][name][part])
            keep.append({**found, "image": x})
    if said:
        keep.clear()
        return {"refused": said[0]}
    return {name: of.pair for name, of in differ.items()}


def alone(engine: Engine, truth: Truth, bar: tqdm) -> dict:
    """A row's part on each node alone, on ONNX Runtime's tensors, and beside its formula."""
    model, found, unlike = truth.model, {}, {}
    for node in model.nodes:
        (y,) = node.outputs
        name = formulas.name_of(engine.name, model, node, alone=True)
        differ, wrong = Difference(), 0
        with refusals() as said:
            run = engine.open(model, [node], (), BATCH)
            for i, values in enumerate(truth.tensors):
                feeds = {name: values[name] for name in node.inputs if name in values}
                part, theirs = truth.real(i), run(feeds)[y]
                differ.add(theirs[part], values[y][part])
                if name and (name not in BOUNDS or i < HELD // BATCH):
                    of = truth.stage_1(node, i)
                    wrong += int(formulas.unlike(node.op_type, name, of, theirs)[part].sum())
        found[y] = said[0] if said else differ.pair
        if name and not said:
            unlike[y] = wrong
        bar.update()
    return {"alone": found, "alone_unlike": unlike}


def own_inputs(engine: Engine, truth: Truth, kept: list[Tensors]) -> dict[str, int]:
    """Elements that a node's formula does not give of the runtime's own tensors."""
    model, found = truth.model, {}
    for node in model.nodes:
        name = formulas.name_of(engine.name, model, node)
        if name:
            (y,) = node.outputs
            found[y] = 0
            for i, values in enumerate(kept):
                of = formulas.FORMULAS[node.op_type][0](model, node, values)
                wrong = formulas.unlike(node.op_type, name, of, values[y])
                found[y] += int(wrong[truth.real(i)].sum())
    return found


def before(model: Model, tensor: str) -> list[Node]:
    """The nodes that a tensor needs, in the graph's order."""
    needed, found = {tensor}, []
    for node in reversed(model.nodes):
        if needed & {*node.outputs}:
            needed |= {*node.inputs}
            found.append(node)
    return found[::-1]


def cut(engine: Engine, truth: Truth) -> dict:
    """A row's part where outputs change the graph: the network cut off behind each tensor."""
    found = {}
    for name in (n for node in truth.model.nodes for n in node.outputs):
        differ = Difference()
        with refusals() as said:
            run = engine.open(truth.model, before(truth.model, name), (), BATCH)
            for i, x in enumerate(truth.given):
                part = truth.real(i)
                differ.add(run({"image": x})[name][part], truth.tensors[i][name][part])
        found[name] = said[0] if said else differ.pair
    return found


def residual(engine: Engine, truth: Truth) -> dict:
    """Each add and the convolution before it as a part, on ONNX Runtime's tensors.

    Returns:
        of each add's output [elements that differ from ONNX Runtime, by how much at most, elements
        that the two nodes, with or without the rounding between, do not give in float32].
    """
    fused = formulas.FUSED[engine.name]
    model, found = truth.model, {}
    for add in model.of_type("QLinearAdd"):
        conv = model.node(add.inputs[0])
        (y,) = add.outputs
        differ, wrong = Difference(), 0
        run = engine.open(model, [conv, add], (), BATCH)
        for i, values in enumerate(truth.tensors):
            feeds = {k: values[k] for k in (conv.inputs[0], add.inputs[3])}
            part = truth.real(i)
            theirs = run(feeds)[y]
            differ.add(theirs[part], values[y][part])
            if i >= HELD // BATCH:
                continue
            pair = truth.stage_1(add, i)
            if fused:
                fits = formulas.fused_within_float32(truth.stage_1(conv, i), pair, theirs)
            else:
                fits = formulas.add_within_float32(pair, theirs)
            wrong += int((~fits)[part].sum())
        found[y] = [*differ.pair, wrong]
    return found


def measure(
    model: Model,
    images: np.ndarray,
    labels: np.ndarray,
    engines: Iterable[Engine],
    note: str,
    save: Callable[[dict], None] = lambda section: None,
) -> dict:
    """One section of the record: every engine on these images.

    Args:
        images: uint8 (N, 3, 32, 32); labels: int64 (N,).
        note: the images in words.
        save: called with the section after each engine, since all of them take long.
    """
    names = [name for node in model.nodes for name in node.outputs]
    engines = [engine for engine in engines if not engine.absent()]
    few = Truth(model, images[:FEW], labels[:FEW])
    more = len(images) > FEW and not all(engine.slow for engine in engines)
    every = Truth(model, images, labels) if more else few
    source = recorded(
        "scripts/runtimes.py", [model.path], images, labels, note=note, batch=BATCH,
        processor=processor(), flags=flags(), machine=machine(),
    )  # fmt: skip
    packages = dict.fromkeys(name for engine in engines for name in engine.packages)
    source["versions"] |= {name: version(name) for name in packages}
    rows: dict[str, dict] = {}
    section = {"recorded": source, "images": len(images), "bounds_held": min(HELD, len(images)),
               "engines": rows}  # fmt: skip
    for engine in engines:
        truth = few if engine.slow else every
        with tqdm(total=len(truth.given) + len(model.nodes), desc=engine.name) as bar:
            row, logits = whole(engine, truth, bar)
            kept: list[Tensors] = []
            if logits is not None:
                row["with_outputs"] = outputs_too(engine, truth, names, kept)
                if kept:
                    again = np.concatenate([v["logits"] for v in kept])[: truth.count]
                    row["outputs_change_logits"] = int((again != logits).sum())
                    if truth.count <= OWN:
                        row["with_outputs_unlike"] = own_inputs(engine, truth, kept)
                        if row["outputs_change_logits"]:
                            row["cut"] = cut(engine, truth)
                if engine.kinds:
                    row["kinds"] = engine.kinds(model, (), BATCH)
                    row["kinds_with_outputs"] = engine.kinds(model, names, BATCH)
            row |= {"images": truth.count, "formulas": formulas.names_of(engine.name)}
            row |= alone(engine, truth, bar)
            if engine.name in formulas.FUSED and logits is not None:
                row["residual"] = residual(engine, truth)
            rows[engine.name] = row
        save(section)
    return section


def small_biases() -> tuple[Model, np.ndarray]:
    """A QLinearConv with a scale for each channel and biases of 0 to 3, and its x.

    In the book's network a bias that is not scaled drives every output to the end of its range;
    here it can be seen.
    """
    rng = np.random.default_rng(3)
    x = rng.integers(-128, 128, (BATCH, 4, 8, 8)).astype(np.int8)
    inputs = {
        "x": x, "x_scale": np.float32(0.02), "x_zero_point": np.int8(7),
        "w": rng.integers(-127, 128, (6, 4, 3, 3)).astype(np.int8),
        "w_scale": rng.uniform(0.001, 0.01, 6).astype(np.float32),
        "w_zero_point": np.zeros(6, np.int8),
        "y_scale": np.float32(0.05), "y_zero_point": np.int8(3),
        "B": np.array([0, 1, -1, 2, -2, 3], np.int32),
    }  # fmt: skip
    proto = ort.operator_model("QLinearConv", inputs, pads=[1, 1, 1, 1])
    shape = [BATCH, 6, 8, 8]
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.INT8, shape))
    return from_proto(proto, "small_biases"), x


def bias_probe(engine: Engine) -> dict:
    """The layer of :func:`small_biases` in a runtime.

    Returns:
        elements, how many differ from ONNX Runtime in each channel, and how many are not what the
        runtime's formula gives.
    """
    model, x = small_biases()
    (node,) = model.nodes
    with refusals() as said:
        y = engine.open(model, [node], (), BATCH)({"x": x})["y"]
        ours = ort.open_session(model.source).run(None, {"x": x})[0]
        of = formulas.products(model, node, {"x": x})
        unlike = formulas.unlike("QLinearConv", formulas.name_of(engine.name, model, node), of, y)
        return {
            "biases": model.constants["B"].tolist(),
            "elements": y.size,
            "differ": (y != ours).sum((0, 2, 3)).tolist(),
            "unlike": int(unlike.sum()),
        }
    return {"refused": said[0]}


def merged(stored: dict | None, made: dict) -> dict:
    """A section with new rows in place of, or beside, those that are stored.

    Raises:
        UnusableInput: the stored ones are of other images, another model or another processor.
    """
    if not stored:
        return made
    old, new = dict(stored["recorded"]), dict(made["recorded"])
    before, now = old.pop("versions"), new.pop("versions")
    # a row must have been made with the versions that stand beside it
    old |= {name: v for name, v in before.items() if name in now}
    new |= {name: v for name, v in now.items() if name in before}
    if old != new:
        key = next(k for k in {**old, **new} if old.get(k) != new.get(k))
        raise UnusableInput(
            f"--only: what is stored has another {key} ({old.get(key)}, now {new.get(key)}): "
            "leave --only out, or name another --out"
        )
    versions = before | now
    return {**made, "recorded": {**made["recorded"], "versions": versions},
            "engines": stored["engines"] | made["engines"]}  # fmt: skip


def show(network: dict) -> None:
    """Print a line for each runtime: what differs, and its time beside ONNX Runtime's."""
    for section in ("samples", "images"):
        if section not in network:
            continue
        rows = network[section]["engines"]
        base = rows.get("onnxruntime", {}).get("seconds")
        print(f"{section}: {network[section]['images']} images")
        for name, row in rows.items():
            if "refused" in row:
                print(f"  {name:36} refused: {row['refused'][:100]}")
                continue
            ratio = f"{row['seconds'] / base:6.1f} x" if base else ""
            elements = [pair[0] for pair in row["with_outputs"].values() if isinstance(pair, list)]
            print(
                f"  {name:36} {row['logits'][0]:6} logits, {row['labels_changed']:3} labels, "
                f"{sum(elements):9} elements, {ratio}"
            )
