"""Feed damaged models to the loader and to inspect: nothing but UnusableInput may come out.

    python tests/fuzz_loader.py [SECONDS]

Coverage-guided with atheris where it is installed, else with hypothesis.
"""

import contextlib
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import onnx

try:
    import atheris
except ImportError:
    atheris = None

# coverage guides atheris only through modules that were imported under its eyes
with atheris.instrument_imports(include=["qlinear"]) if atheris else contextlib.nullcontext():
    from qlinear.describe import inspected
    from qlinear.errors import UnusableInput
    from qlinear.fuse import fuse
    from qlinear.onnx_model import load
    from qlinear.ort import operator_model


def seed_model() -> bytes:
    zero = np.int8(0)
    inputs = dict(
        x=np.zeros((1, 2, 4, 4), np.int8), x_scale=np.float32(1), x_zero_point=zero,
        w=np.ones((3, 2, 3, 3), np.int8), w_scale=np.ones(3, np.float32),
        w_zero_point=np.zeros(3, np.int8), y_scale=np.float32(1), y_zero_point=zero,
    )  # fmt: skip
    model = operator_model("QLinearConv", inputs, pads=[1, 1, 1, 1])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT8, [None] * 4)
    model.graph.output[0].CopyFrom(y)
    return model.SerializeToString()


def attempt(data: bytes) -> None:
    """Load and inspect ``data`` as a model file; anything but UnusableInput is a find."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        with contextlib.suppress(UnusableInput):
            inspected(fuse(load(path)))


def with_hypothesis(seconds: float) -> int:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    seed, until, tried = seed_model(), time.monotonic() + seconds, 0
    edits = st.lists(
        st.tuples(st.integers(0, len(seed) - 1), st.integers(0, 255), st.integers(0, 3)),
        min_size=1, max_size=12,
    )  # fmt: skip

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(edits)
    def damaged(changes):
        nonlocal tried
        if time.monotonic() > until:
            return
        data = bytearray(seed)
        for at, value, kind in changes:
            at = min(at, len(data))
            if kind == 0 and at < len(data):
                data[at] = value
            elif kind == 1:
                data[at:at] = bytes([value])
            elif kind == 2:
                del data[at : at + 1 + value % 8]
            else:
                data[at:] = data[at : at + value]
        attempt(bytes(data))
        tried += 1

    while time.monotonic() < until:
        damaged()
    return tried


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    if atheris is None:
        print(f"fuzzed with hypothesis: {with_hypothesis(seconds)} models, no finds")
        return
    with tempfile.TemporaryDirectory() as corpus:
        (Path(corpus) / "seed").write_bytes(seed_model())
        flags = [sys.argv[0], f"-max_total_time={seconds:.0f}", "-print_final_stats=1", corpus]
        atheris.Setup(flags, attempt)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
