#!/usr/bin/env python3
"""Time our network engine, onnx.reference and ONNX Runtime in one run; print images/s and ratios.

    python scripts/benchmark.py [MODEL]

onnx.reference has no com.microsoft operators, so it runs the QLinearConv layers alone, one by one
on the network's own activations, and so do we for that ratio. Of every function the best of as many
calls as fit into --seconds counts, at least one.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from qlinear.engine import compute, run
from qlinear.errors import run_command
from qlinear.inputs import load_samples
from qlinear.onnx_model import Model, load
from qlinear.ort import session, single_node, tensors


def best(function: Callable[[], object], seconds: float) -> float:
    """Least time of one call, over as many calls as fit into ``seconds`` (at least one)."""
    least, until = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        function()
        least = min(least, time.perf_counter() - start)
        if time.perf_counter() > until:
            return least


def time_layers(model: Model, x: np.ndarray, each: float) -> tuple[float, float]:
    """Seconds for all QLinearConv layers: ours, and onnx.reference's."""
    values = tensors(model, x)
    layers = model.of_type("QLinearConv")
    ours = sum(best(lambda n=node: compute(model, n, values), each) for node in layers)
    theirs = 0.0
    for node in layers:
        feeds = {node.inputs[0]: values[node.inputs[0]]}
        evaluator = ReferenceEvaluator(single_node(model, node, feeds))
        theirs += best(lambda e=evaluator, f=feeds: e.run(None, f), each)
    return ours, theirs


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path("models/resnet8_int8.onnx")
    parser.add_argument("model", type=Path, nargs="?", default=default)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 100], metavar="N")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each of 21 timings")
    args = parser.parse_args(argv)
    model = load(args.model)
    images = load_samples()[0].astype(np.float32)
    one, every = (session(model, threads=n) for n in (1, 0))
    (x_name,) = model.inputs
    print(f"{args.model}, onnx {onnx.__version__}, numpy {np.__version__}")
    for batch in args.batch:
        x = np.resize(images, (batch, *images.shape[1:]))
        ours = best(lambda x=x: run(model, x), args.seconds)
        ort_one, ort_all = (
            best(lambda x=x, s=s: s.run(None, {x_name: x}), args.seconds) for s in (one, every)
        )
        layers, reference = time_layers(model, x, args.seconds)
        print(f"\nbatch {batch}")
        for name, seconds in (
            ("ours, whole network", ours),
            ("ONNX Runtime, 1 thread", ort_one),
            ("ONNX Runtime, all threads", ort_all),
            ("ours, convolutions only", layers),
            ("onnx.reference, convolutions only", reference),
        ):
            print(f"  {name:34} {batch / seconds:10,.1f} images/s")
        print(f"  ours takes {ours / ort_one:.1f} x the time of ONNX Runtime's one thread")
        print(f"  ours is {reference / layers:.0f} x as fast as onnx.reference")


if __name__ == "__main__":
    run_command(main)
