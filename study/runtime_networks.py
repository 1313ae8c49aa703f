"""Compare the field's runtimes with ONNX Runtime, tensor by tensor, on the same quantized network.

:func:`measure` makes one section of models/runtimes.json. Each engine runs the network twice, as it
is and with every tensor as an output besides, since asking for a tensor may change what a runtime
makes of the graph; and each node alone, on the tensors that ONNX Runtime gave it.
"""

import platform
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from qlinear import ort
from qlinear.errors import UnusableInput
from qlinear.onnx_model import Model, Node
from study.engines import Engine, Tensors, refusals, version
from study.provenance import recorded

BATCH = 20  # images in a call: some runtimes compile for one size


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


def alone(engine: Engine, truth: Truth, nodes: Iterable[Node], bar: tqdm) -> dict:
    """A row's part on each node alone, on ONNX Runtime's tensors."""
    found = {}
    for node in nodes:
        (y,) = node.outputs
        differ = Difference()
        with refusals() as said:
            run = engine.open(truth.model, [node], (), BATCH)
            for i, values in enumerate(truth.tensors):
                feeds = {name: values[name] for name in node.inputs if name in values}
                part = truth.real(i)
                differ.add(run(feeds)[y][part], values[y][part])
        found[y] = said[0] if said else differ.pair
        bar.update()
    return found


def measure(
    model: Model, images: np.ndarray, labels: np.ndarray, engines: Iterable[Engine], note: str
) -> dict:
    """One section of the record: every engine on these images.

    Args:
        images: uint8 (N, 3, 32, 32); labels: int64 (N,).
        note: the images in words.
    """
    truth = Truth(model, images, labels)
    names = [name for node in model.nodes for name in node.outputs]
    engines = [engine for engine in engines if not engine.absent()]
    rows = {}
    for engine in engines:
        with tqdm(total=len(truth.given) + len(model.nodes), desc=engine.name) as bar:
            row, logits = whole(engine, truth, bar)
            kept: list[Tensors] = []
            if logits is not None:
                row["with_outputs"] = outputs_too(engine, truth, names, kept)
                if kept:
                    again = np.concatenate([v["logits"] for v in kept])[: truth.count]
                    row["outputs_change_logits"] = int((again != logits).sum())
                if engine.kinds:
                    row["kinds"] = engine.kinds(model, (), BATCH)
                    row["kinds_with_outputs"] = engine.kinds(model, names, BATCH)
            row["alone"] = alone(engine, truth, model.nodes, bar)
            rows[engine.name] = row
    source = recorded(
        "scripts/runtimes.py", [model.path], images, labels, note=note, batch=BATCH,
        processor=processor(), flags=flags(), machine=f"{platform.machine()} {platform.system()}",
    )  # fmt: skip
    packages = dict.fromkeys(name for engine in engines for name in engine.packages)
    source["versions"] |= {name: version(name) for name in packages}
    return {"recorded": source, "images": truth.count, "engines": rows}


def merged(stored: dict | None, made: dict) -> dict:
    """A section with new rows in place of, or beside, those that are stored.

    Raises:
        UnusableInput: the stored ones are of other images, another model or another processor.
    """
    if not stored:
        return made
    old, new = dict(stored["recorded"]), dict(made["recorded"])
    versions = old.pop("versions") | new.pop("versions")
    if old != new:
        key = next(k for k in {**old, **new} if old.get(k) != new.get(k))
        raise UnusableInput(
            f"--only: what is stored has another {key} ({old.get(key)}, now {new.get(key)}): "
            "leave --only out, or name another --out"
        )
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
