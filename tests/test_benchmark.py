"""The benchmark measures what it says; no test judges a time."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from conftest import MODELS, main_of
from test_scripts import run
from threadpoolctl import threadpool_info

from qlinear.errors import UnusableInput
from qlinear.inputs import load_samples
from qlinear.onnx_model import from_proto, load
from qlinear.operators import threads
from study import benchmark
from study.random_networks import resnet50


def test_the_benchmark_measures_and_records_all_of_it(tmp_path):
    """On a tiny setting; what it records is well formed, and no time is judged."""
    out = tmp_path / "benchmark.json"
    tiny = ("--batch", 2, "--sides", 32, 48, "--width", 2, "--seconds", 0, "--out", out)
    done = run("benchmark.py", *tiny)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    check_benchmark(record, batches=[2], sides=[32, 48])
    assert done.stdout.count("ONNX Runtime") == len(record["runs"])
    assert done.stdout.count("onnx.reference") == len(record["layers"])
    assert done.stdout.count("qlinear validate") == len(record["validations"]) == 4
    assert record["runs"][0]["macs"] == 12_501_632
    assert done.stdout.count("on arrays") == len(record["arrays"]) == len(benchmark.ARRAYS)
    for sums in record["arrays"]:
        assert min(sums[k] for k in ("plain", "fast", "plain_cpu", "fast_cpu")) > 0
        assert sums["layer"] == "block3_conv2_quant" and sums["elements"] == 4 * 64 * 64


def check_benchmark(record: dict, batches: list[int], sides: list[int]) -> None:
    source, cores = record["recorded"], record["recorded"]["cores"]
    for name, digest in source["models"].items():
        assert digest == hashlib.sha256((MODELS / name).read_bytes()).hexdigest()
    assert source["script"] == "scripts/benchmark.py" and source["cpu"] and source["blas"]
    assert list(source["versions"]) == ["numpy", "onnx", "onnxruntime"]
    counts = sorted({1, cores})
    ours = [r for r in record["runs"] if r["model"].startswith("resnet8")]
    wanted = [(m, b, t) for m in source["models"] for b in batches for t in counts]
    assert [(r["model"], r["batch"], r["threads"]) for r in ours] == wanted
    sized = [r for r in record["runs"] if r not in ours]
    assert [r["image"] for r in sized] == [[3, side, side] for side in sides]
    macs = [r["macs"] for r in sized]
    assert macs == sorted(macs) and all(r["threads"] == r["batch"] == 1 for r in sized)
    for r in record["runs"]:
        assert min(r["ours"], r["ort"], r["ours_cpu"], r["ort_cpu"]) > 0
        assert r["elements"] == r["batch"] * (10 if r in ours else 1000)
    for layers in record["layers"]:
        assert layers["layers"] == 9 and min(layers["ours"], layers["reference"]) > 0
        assert min(layers["ours_cpu"], layers["reference_cpu"]) > 0
    wanted = [(b, t) for b in batches for t in counts]
    assert [(layers["batch"], layers["threads"]) for layers in record["layers"]] == wanted
    kinds = Counter(v["model"] for v in record["validations"])
    assert kinds.pop("resnet50_qoperator.onnx") == len(sides)
    assert kinds == {"resnet8_int8.onnx": 1, "resnet50_qdq.onnx": 1}
    for v in record["validations"]:
        assert v["verdict"] == "PASS" and v["elements"] > 0
        # a process that imports the library takes more than these; in another unit it would not
        assert v["cpu_seconds"] > 0.05 and v["seconds"] > 0.05 and 30 < v["megabytes"] < 50_000


def test_the_committed_benchmark_is_whole():
    record = json.loads((MODELS / "benchmark.json").read_text())
    check_benchmark(record, batches=[1, 100], sides=[32, 64, 96, 128, 160, 224])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--batch", 0), "--batch is 0: at least 1 needed"),
        (("--sides", 32, -1), "--sides is -1: at least 1 needed"),
        (("--width", 0), "--width is 0: at least 1 needed"),
        (("--seconds", "nan"), "--seconds is nan: a finite number, at least 0, needed"),
        (("none.onnx",), "none.onnx"),
    ],
)
def test_the_benchmark_refuses_what_it_cannot_measure(tmp_path, wrong, message):
    out = tmp_path / "benchmark.json"
    with pytest.raises(UnusableInput, match=message):
        main_of("benchmark.py")([*map(str, wrong), "--out", str(out)])
    assert not out.exists()
    with pytest.raises(UnusableInput, match="there is no folder"):
        main_of("benchmark.py")(["--out", str(tmp_path / "none" / "benchmark.json")])


def test_a_benchmark_of_networks_that_differ_is_refused(monkeypatch):
    real = benchmark.run

    def wrong(model, x):
        return {name: value + (name == "logits") for name, value in real(model, x).items()}

    monkeypatch.setattr(benchmark, "run", wrong)
    x = load_samples()[0][:1].astype(np.float32)
    with pytest.raises(UnusableInput, match="10 of 10 elements differ"):
        benchmark.time_run(load(MODELS / "resnet8_int8.onnx"), x, 1, 0)


def test_forms_of_an_array_that_differ_are_no_measurement(monkeypatch):
    real = benchmark.analog.array_sum
    wrong = lambda *args, fast: real(*args, fast=fast) + fast  # noqa: E731
    monkeypatch.setattr(benchmark.analog, "array_sum", wrong)
    model, x = load(MODELS / "resnet8_int8.onnx"), load_samples()[0][:1].astype(np.float32)
    with pytest.raises(UnusableInput, match=r"perfect cells.*4096 of 4096 elements differ"):
        next(benchmark.time_sums(model, x, "block3_conv2_quant", 0))


@pytest.mark.parametrize("long, warmed", ((999, ["b"]), (1999, [])))
def test_functions_take_turns_and_medians_count(monkeypatch, long, warmed):
    known = [(9, 0), (3, 0), (1, 0), (2, 0), (long, 0)]
    times = iter([*known, (5, 1), (8, 2), (7, 7), (6, 3), (6, 9), (9, 4)])
    called = []

    def timed(function, calls):
        function()
        called.append(calls)
        return next(times)

    monkeypatch.setattr(benchmark, "timed", timed)
    monkeypatch.setattr(benchmark, "SHORT", 0.004)
    functions = [lambda: called.append("a"), lambda: called.append("b")]
    assert benchmark.by_turns(functions, 0) == [(6, 7), (8, 3)]
    # the shortest of later calls, 1 ms, says four a turn; a long first one says one, and from a
    # second on no call is made before it that does not count
    first, turn = ["a", 1] * 4 + ["b", 1], ["a", "a", 4, *warmed, "b", 1]
    assert called == first + turn * 3


def test_a_limit_holds_the_reference_and_blas():
    before = threads.THREADS
    with benchmark.limited(1):
        assert threads.THREADS == 1
        assert {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"} <= {1}
        with benchmark.limited(100):
            assert threads.THREADS == 1
    assert before == threads.THREADS


def test_the_resnet50_is_one():
    """25.6 million parameters with batch norm's; folded, a weight and a bias for each channel."""
    model = from_proto(resnet50())
    convs = [model.constants[n.inputs[1]] for n in model.of_type("Conv")]
    assert len(convs) == 53 and sum(w.size for w in convs) == 23_454_912
    assert sum(v.size for v in model.constants.values()) == 25_530_472
    # torchvision's count, with two numbers of batch norm for each channel instead of one bias
    assert 25_530_472 + sum(len(w) for w in convs) == 25_557_032


def test_multiplications_by_hand():
    model = load(MODELS / "resnet8_int8.onnx")
    values = benchmark.run(model, load_samples()[0][:2].astype(np.float32))
    assert benchmark.multiplications(model, values) == 12_501_632
