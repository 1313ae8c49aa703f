"""How long the reference takes, beside ONNX Runtime and onnx.reference, on networks of many sizes.

Both sides are timed in one process, by turns, so that other programs slow both. Of each the median
counts: of the wall clock, and of the time that the cores worked for this process. On a machine that
does nothing else the two agree for one thread; elsewhere the second is the one to read.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from threadpoolctl import threadpool_info, threadpool_limits

from qlinear.compare import compare_arrays
from qlinear.engine import arguments, compute, run
from qlinear.errors import UnusableInput
from qlinear.hardware import analog, variants
from qlinear.hardware.analog import Array
from qlinear.hardware.converters import Converter
from qlinear.hardware.devices import PCM, Device
from qlinear.hardware.draws import Reads
from qlinear.inputs import load_samples
from qlinear.onnx_model import Model, load
from qlinear.operators import threads
from qlinear.ort import session, single_node, tensors
from study.provenance import sha256
from study.random_networks import resnet50

from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

CORES = os.cpu_count() or 1
SHORT = 0.02  # seconds: shorter calls are timed several at a turn
LONG = 1.0  # seconds: shorter calls are timed after one that is not
# starts a command from a process of its own, which is small: Linux counts the memory of the process
# that starts another as the other's too. Prints its exit status, times, and most resident memory.
WATCH = """
import json, os, subprocess, sys, time
start = time.perf_counter()
with open(sys.argv[1], "w") as out:
    child = subprocess.Popen(sys.argv[2:], stdout=out)
_, status, used = os.wait4(child.pid, 0)
seconds, cores = time.perf_counter() - start, used.ru_utime + used.ru_stime
child.returncode = os.waitstatus_to_exitcode(status)
print(json.dumps([child.returncode, seconds, cores, used.ru_maxrss]))
"""
ARRAYS = {  # chapter 9's bits and slices
    "perfect cells, 9-bit converters": Array(adc=Converter(9)),
    "read noise, 9-bit converters": Array(adc=Converter(9, noise=0.5)),
    "real cells, 9-bit converters": Array(adc=Converter(9), device=Device(PCM, on_off=100)),
    "real cells, ideal converters": Array(device=Device(PCM, on_off=100)),
}
FORMS = {"QOperator": QuantFormat.QOperator, "QDQ": QuantFormat.QDQ}


@dataclass(frozen=True)
class Run:
    """One network on one input, by both, each with so many threads; milliseconds of one call."""

    model: str
    image: tuple[int, ...]  # shape
    batch: int
    threads: int
    macs: int  # multiply-accumulates of one image
    ours: float
    ort: float
    ours_cpu: float  # time of all cores
    ort_cpu: float
    elements: int  # of the outputs, which are equal

    @property
    def ratio(self) -> float:
        return self.ours / self.ort

    @property
    def cpu_ratio(self) -> float:
        return self.ours_cpu / self.ort_cpu


@dataclass(frozen=True)
class Layers:
    """All QLinearConv of a network, each alone, by us and by onnx.reference: milliseconds."""

    model: str
    batch: int
    threads: int
    layers: int
    ours: float
    reference: float
    ours_cpu: float
    reference_cpu: float

    @property
    def times(self) -> float:
        return self.reference / self.ours

    @property
    def cpu_times(self) -> float:
        return self.reference_cpu / self.ours_cpu


@dataclass(frozen=True)
class Validation:
    """``qlinear validate`` of one image in a process of its own, from its start to its end."""

    model: str
    sha256: str  # of the file
    image: tuple[int, ...]  # shape
    macs: int
    verdict: str
    elements: int  # that were compared
    seconds: float
    cpu_seconds: float
    megabytes: float  # at most resident


@dataclass(frozen=True)
class Sums:
    """A layer's sums on an analog array, in the plain form and in the fast one: milliseconds."""

    model: str
    layer: str
    array: str  # what its cells and converters do
    batch: int
    threads: int
    plain: float
    fast: float
    plain_cpu: float  # time of all cores
    fast_cpu: float
    elements: int  # which are equal

    @property
    def times(self) -> float:
        return self.plain / self.fast

    @property
    def cpu_times(self) -> float:
        return self.plain_cpu / self.fast_cpu


@contextmanager
def limited(count: int) -> Iterator[None]:
    """Give the reference, and BLAS, at most so many threads."""
    before = threads.THREADS
    with threadpool_limits(count, "blas"):
        threads.THREADS = min(before, count)
        try:
            yield
        finally:
            threads.THREADS = before


def timed(function: Callable[[], object], calls: int) -> tuple[float, float]:
    """Milliseconds of one call of several: by the clock, and of all cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        function()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return wall / calls * 1000, cpu / calls * 1000


def by_turns(functions: list[Callable[[], object]], seconds: float) -> list[tuple[float, float]]:
    """Medians of :func:`timed` for each function, called by turns for so long, at least thrice.

    Before each turn one call is made that does not count, unless it takes long: after the other's
    turn, memory, threads and cores are not as a caller who does nothing else finds them.
    """
    calls, warm = [], []
    for function in functions:
        first, _ = timed(function, 1)  # prepares what later calls find
        once = first if first > 50 * SHORT * 1000 else min(timed(function, 1)[0] for _ in range(3))
        calls.append(max(1, round(SHORT * 1000 / once)))
        warm.append(once < LONG * 1000)
    found: list[list[tuple[float, float]]] = [[] for _ in functions]
    until = time.perf_counter() + seconds
    while len(found[0]) < 3 or time.perf_counter() < until:
        for function, count, again, times in zip(functions, calls, warm, found, strict=True):
            if again:
                function()
            times.append(timed(function, count))
    return [tuple(float(v) for v in np.median(times, axis=0)) for times in found]


def multiplications(model: Model, values: dict[str, np.ndarray]) -> int:
    """Multiply-accumulates of one image, from the tensors of a run."""
    total = 0
    for node in model.nodes:
        if node.op_type in ("QLinearConv", "QGemm"):
            y = values[node.outputs[0]]
            w = model.arguments(node)["w" if node.op_type == "QLinearConv" else "B"]
            total += y[0].size * (w[0].size if w.ndim > 2 else w.size // y.shape[1])
    return total


def time_run(model: Model, x: np.ndarray, count: int, seconds: float) -> Run:
    """A whole network, by the reference and by ONNX Runtime.

    Raises:
        UnusableInput: their outputs differ.
    """
    (x_name,), (y_name,) = model.inputs, model.outputs
    theirs = session(model, threads=count)
    with limited(count):
        values = run(model, x)
        check = compare_arrays(y_name, values[y_name], theirs.run(None, {x_name: x})[0])
        if not check.equal:
            raise UnusableInput(f"{model.path}: {check}")
        functions = [lambda: run(model, x), lambda: theirs.run(None, {x_name: x})]
        (ours, ours_cpu), (ort, ort_cpu) = by_turns(functions, seconds)
    return Run(
        model=model.path.name,
        image=x.shape[1:],
        batch=len(x),
        threads=count,
        macs=multiplications(model, values),
        ours=ours,
        ort=ort,
        ours_cpu=ours_cpu,
        ort_cpu=ort_cpu,
        elements=check.elements,
    )


def time_layers(model: Model, x: np.ndarray, count: int, seconds: float) -> Layers:
    """Every QLinearConv on the network's own activations, by the reference and by onnx.reference.

    onnx.reference has no com.microsoft operators, so it cannot run the network.
    """
    values, layers = tensors(model, x), model.of_type("QLinearConv")
    found = []
    with limited(count):
        for node in layers:
            feeds = {node.inputs[0]: values[node.inputs[0]]}
            theirs = ReferenceEvaluator(single_node(model, node, feeds))
            functions = [
                lambda n=node: compute(model, n, values),
                lambda e=theirs, f=feeds: e.run(None, f),
            ]
            found.append(by_turns(functions, seconds / len(layers)))
    (ours, ours_cpu), (reference, reference_cpu) = np.sum(found, axis=0).tolist()
    return Layers(
        model=model.path.name,
        batch=len(x),
        threads=count,
        layers=len(layers),
        ours=ours,
        reference=reference,
        ours_cpu=ours_cpu,
        reference_cpu=reference_cpu,
    )


def time_sums(model: Model, x: np.ndarray, layer: str, seconds: float) -> Iterator[Sums]:
    """One layer on arrays of each kind (:data:`ARRAYS`), on the network's own activations.

    Raises:
        UnusableInput: the two forms differ.
    """
    node = model.node(layer)
    inputs, *constants = arguments(model, node, run(model, x))
    conv = variants.record_of(node.op_type, tuple(constants), node.attributes)
    columns, rows, bias = variants.unsigned_products(inputs, conv)
    for name, array in ARRAYS.items():
        with limited(1):
            plain, fast = (
                partial(analog.array_sum, columns, rows, bias, array, Reads(seed=0), fast=form)
                for form in (False, True)
            )
            check = compare_arrays(layer, fast(), plain())
            if not check.equal:
                raise UnusableInput(f"{model.path}, {name}: {check}")
            (slow, slow_cpu), (quick, quick_cpu) = by_turns([plain, fast], seconds / len(ARRAYS))
        yield Sums(
            model=model.path.name,
            layer=layer,
            array=name,
            batch=len(x),
            threads=1,
            plain=slow,
            fast=quick,
            plain_cpu=slow_cpu,
            fast_cpu=quick_cpu,
            elements=check.elements,
        )


def validated(path: Path, x: np.ndarray, macs: int, folder: Path) -> Validation:
    """Time and peak memory of the command on one file.

    Raises:
        UnusableInput: it prints no verdict.
    """
    feed, out = folder / "x.npy", folder / "verdict.json"
    np.save(feed, x)
    command = [sys.executable, "-m", "qlinear", "validate", path, "--input", feed, "--json"]
    watch = [sys.executable, "-I", "-c", WATCH, out, *command]
    watched = subprocess.run(watch, stdout=subprocess.PIPE, check=True)
    exit_status, seconds, cpu_seconds, resident = json.loads(watched.stdout)
    if exit_status not in (0, 1, 3):
        raise UnusableInput(f"{path}: validate ended with exit status {exit_status}")
    verdict = json.loads(out.read_text())
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return Validation(
        model=path.name,
        sha256=sha256(path.read_bytes()),
        image=x.shape[1:],
        macs=macs,
        verdict=verdict["verdict"],
        elements=sum(c["elements"] for c in (*verdict["outputs"], *verdict["tensors"])),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        megabytes=resident * unit / 1e6,
    )


class _Noise(CalibrationDataReader):
    def __init__(self, side: int):
        self.left = iter([{"x": noise(side)}])

    def get_next(self) -> dict | None:
        return next(self.left, None)


def noise(side: int) -> np.ndarray:
    """One random image: float32 (1, 3, side, side)."""
    return np.random.default_rng(side).normal(0, 1, (1, 3, side, side)).astype(np.float32)


def write_resnet50(folder: Path, width: int, side: int) -> dict[str, Path]:
    """A ResNet50 with random weights as ONNX Runtime's quantizer writes it, int8, in both forms.

    Args:
        side: of the image that it is calibrated with.
    """
    before = folder / "float.onnx"
    onnx.save(resnet50(width), before)
    paths = {form: folder / f"resnet50_{form.lower()}.onnx" for form in FORMS}
    for form, path in paths.items():
        types = dict(activation_type=QuantType.QInt8, weight_type=QuantType.QInt8)
        quantize_static(before, path, _Noise(side), quant_format=FORMS[form], **types)
    before.unlink()
    return paths


def machine() -> dict:
    """The processor, its cores, what else it did, and the library that multiplies matrices."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    blas = [i for i in threadpool_info() if i["user_api"] == "blas"]
    return {
        "cpu": found[1] if found else platform.processor() or platform.machine(),
        "cores": CORES,
        "load": round(os.getloadavg()[0], 2),
        "blas": [f"{i['internal_api']} {i['version']} {i.get('architecture', '')}" for i in blas],
        "python": platform.python_version(),
    }


def measure(
    models: list[Path],
    batches: list[int],
    sides: list[int],
    width: int,
    seconds: float,
    folder: Path,
) -> Iterator[Run | Layers | Sums | Validation]:
    """All of it, one measurement after the other.

    Args:
        models: committed networks, of images of 32x32; the first is also timed layer by layer, and
            its last convolution on analog arrays.
        batches: numbers of images.
        sides: of the images of the ResNet50, from which its cost against size follows.
        width: of the ResNet50 (:func:`study.random_networks.resnet50`).
        seconds: for each pair of timings.
        folder: for temporary files.
    """
    images = load_samples()[0].astype(np.float32)
    for path in models:
        model = load(path)
        for batch in batches:
            x = np.resize(images, (batch, *images.shape[1:]))
            for count in sorted({1, CORES}):
                yield time_run(model, x, count, seconds)
                if path == models[0]:
                    yield time_layers(model, x, count, seconds)
    first = load(models[0])
    yield from time_sums(first, images[:4], first.of_type("QLinearConv")[-1].name, seconds)
    macs = multiplications(model, run(model, images[:1]))
    yield validated(models[0], images[:1], macs, folder)
    paths = write_resnet50(folder, width, max(sides))
    model = load(paths["QOperator"])
    for side in sides:
        made = time_run(model, noise(side), 1, seconds)
        yield made
        for form, path in paths.items():
            if form == "QOperator" or side == max(sides):
                yield validated(path, noise(side), made.macs, folder)


def as_json(found: list[Run | Layers | Sums | Validation]) -> dict:
    """The measurements by kind, in milliseconds, seconds and megabytes of three digits."""
    kinds = {"runs": Run, "layers": Layers, "arrays": Sums, "validations": Validation}
    return {
        name: [
            {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in asdict(f).items()}
            for f in found
            if isinstance(f, kind)
        ]
        for name, kind in kinds.items()
    }
