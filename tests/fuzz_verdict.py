"""Random graphs against the verdict: PASS must mean that the reference equals ONNX Runtime.

    python tests/fuzz_verdict.py [COUNT [FIRST_SEED]]

For each graph that `validate` calls PASS, the reference is run again on inputs that `validate` did
not see, and compared with ONNX Runtime on the model's own bytes. Prints, for each feature, how many
graphs had it and how many of them ended in PASS; exit status 1 if a PASS was wrong, a graph FAILs,
or a graph that ONNX Runtime runs was refused.
"""

import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from random_graphs import qdq, qoperator
from tqdm import tqdm

from qlinear import engine, oracle, ort
from qlinear.compare import compare_arrays
from qlinear.errors import UnusableInput
from qlinear.inputs import Feed
from qlinear.onnx_model import Model, from_proto
from qlinear.validate import validate


@dataclass(frozen=True)
class Outcome:
    seed: int
    features: frozenset[str]
    status: str  # PASS, PARTIAL, FAIL, refused (by ONNX Runtime too), or WRONG
    why: str = ""


def inputs(model: Model, rng: np.random.Generator) -> dict[str, np.ndarray]:
    values = {}
    for name, (dtype, shape) in model.inputs.items():
        sizes = tuple(n if isinstance(n, int) else 1 for n in shape)
        if dtype == np.int64:
            values[name] = rng.integers(0, 5, sizes)
        elif dtype.kind in "iu":
            info = np.iinfo(dtype)
            values[name] = rng.integers(info.min, info.max, sizes, dtype, endpoint=True)
        else:
            values[name] = rng.normal(0, 3, sizes).astype(dtype)
    return values


def attempt(seed: int) -> Outcome:
    """Make the graph of a seed, validate it, and hold a PASS to its word."""
    proto, features = (qdq if seed % 4 else qoperator)(seed)
    model, rng = from_proto(proto), np.random.default_rng(seed)
    outcome = dict(seed=seed, features=frozenset(features))
    try:
        verdict = validate(model, [Feed(inputs(model, rng), "random")])
    except UnusableInput as error:
        try:
            opened = ort.open_session(model.source)
            ort.run_session(opened, list(model.outputs), inputs(model, rng))
        except Exception:
            return Outcome(**outcome, status="refused", why=str(error))
        return Outcome(**outcome, status="WRONG", why=f"refused: {error}")
    if verdict.status != "PASS":
        why = str(dict(verdict.coverage.left_out))
        if verdict.status == "FAIL":
            wrong = [c for c in (*verdict.tensors, *verdict.outputs) if not c.equal]
            why = f"{wrong[0].tensor} ({wrong[0].operator}): {wrong[0]}"
        return Outcome(**outcome, status=verdict.status, why=why)
    network = oracle.settle(model, inputs(model, rng))
    session = oracle.open_file(model, network.settings)
    for _ in range(2):
        feeds = inputs(model, rng)
        theirs = oracle.outputs(model, session, feeds)
        ours = dict(feeds) | network.graph.constants
        for step in engine.steps(network.graph, feeds):
            ours |= step.outputs
        for name, value in theirs.items():
            found = compare_arrays(name, ours[name], value)
            if not found.equal:
                return Outcome(**outcome, status="WRONG", why=f"{name}: {found}")
    return Outcome(**outcome, status="PASS")


def attempts(count: int, first: int = 0, workers: int = 2, bar: bool = False) -> list[Outcome]:
    seeds = range(first, first + count)
    if workers == 1:
        return [attempt(seed) for seed in seeds]
    with ProcessPoolExecutor(workers) as pool:
        done = pool.map(attempt, seeds, chunksize=25)
        return list(tqdm(done, total=count, disable=not bar))


def shares(outcomes: list[Outcome]) -> dict[str, tuple[int, int]]:
    """For each feature: the graphs that ONNX Runtime runs and have it, and those that PASS."""
    ran = [o for o in outcomes if o.status != "refused"]
    every = Counter(f for o in ran for f in o.features)
    passed = Counter(f for o in ran if o.status == "PASS" for f in o.features)
    return {feature: (count, passed[feature]) for feature, count in sorted(every.items())}


def main(argv: list[str]) -> int:
    count = int(argv[0]) if argv else 2000
    outcomes = attempts(count, int(argv[1]) if len(argv) > 1 else 0, bar=True)
    print(dict(Counter(o.status for o in outcomes)))
    for feature, (every, passed) in shares(outcomes).items():
        print(f"  {feature:32} {passed:6} of {every:6} PASS ({passed / every:.0%})")
    bad = [o for o in outcomes if o.status in ("WRONG", "FAIL")]
    for outcome in bad[:20]:
        print(f"seed {outcome.seed}: {outcome.status}: {outcome.why}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
