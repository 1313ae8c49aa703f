"""What the tests share."""

import json
import os
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import Phase, settings

from qlinear import ort
from qlinear.inputs import load_samples
from qlinear.onnx_model import Model, load, operator_name
from qlinear.ort import onnxruntime, tensors

if not __debug__ or os.environ.get("PYTHONOPTIMIZE"):
    # the second would reach the kernels of the notebooks
    raise pytest.UsageError("assertions are off (python -O or PYTHONOPTIMIZE): nothing is checked")

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
QUANTIZED = ["resnet8_int8", "resnet8_int8_per_tensor", "resnet8_int8_per_channel", "resnet8_uint8"]
MOBILENETS = [
    "mobilenet_int8_per_tensor",
    "mobilenet_int8_per_channel",
    "mobilenet_int8_equalized",
]

# the releases in use; what an older one cannot do is left out of a test by them (book/api.rst)
ORT, ONNX = (tuple(map(int, module.__version__.split(".")[:2])) for module in (onnxruntime, onnx))


def since(major: int, minor: int, reason: str) -> pytest.MarkDecorator:
    """Skip on older releases of ONNX Runtime; why is in book/api.rst too."""
    before = f"ONNX Runtime before {major}.{minor}: {reason}"
    return pytest.mark.skipif((major, minor) > ORT, reason=before)


quantizes = since(1, 31, "the quantizer makes other scales")


# make mutants runs the tests thousands of times, with so many times fewer examples
FEWER = int(os.environ.get("FEWER_EXAMPLES", "1"))


def examples(count: int) -> settings:
    """Settings of a hypothesis test with so many examples, the same ones in every run."""
    phases = [Phase.explicit, Phase.generate] if FEWER > 1 else list(Phase)  # no search for less
    fewer = max(count // FEWER, 10)
    return settings(max_examples=fewer, phases=phases, deadline=None, derandomize=True)


def main_of(script: str) -> Callable[[list[str]], int | None]:
    """The main of a command line in scripts/, to be called with its arguments."""
    return runpy.run_path(str(ROOT / "scripts" / script))["main"]


def needs(condition: bool, what: str) -> None:
    """Skip when a tool is absent, but fail where everything must be there (REQUIRE_ALL, CI)."""
    if condition:
        return
    if os.environ.get("REQUIRE_ALL"):
        pytest.fail(f"{what} is missing, and REQUIRE_ALL is set")
    pytest.skip(f"{what} is missing")


# how many elements of each operator the tests compare: make compared writes them to a file
COUNTED: Counter[str] = Counter()


def counting(run: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """``run_operator`` that counts what it returns, which the tests compare with ours."""

    def counted(op_type: str, inputs: dict, **options) -> np.ndarray:
        made = run(op_type, inputs, **options)
        COUNTED[operator_name(options.get("domain", ""), op_type)] += made.size
        return made

    return counted


if os.environ.get("COMPARED"):  # before the tests take the function by name
    ort.run_operator = counting(ort.run_operator)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if os.environ.get("COMPARED") and not exitstatus:
        from study.provenance import recorded  # the library's own tests run without it

        source = recorded("make compared", [])
        counts = {name: COUNTED[name] for name in sorted(COUNTED)}
        text = json.dumps({"recorded": source, "operators": counts}, indent=1)
        Path(os.environ["COMPARED"]).write_text(text + "\n")


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, by Playwright."""
    from tools.browser import chromium

    needs(chromium() is not None, "Chromium")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as tools:
        instance = tools.chromium.launch(executable_path=chromium(), args=flags)
        yield instance
        instance.close()


@pytest.fixture(scope="session")
def model() -> Model:
    return load(MODELS / "resnet8_int8.onnx")


@pytest.fixture(scope="session")
def values(model: Model) -> dict[str, np.ndarray]:
    """Every tensor of the book's model on two sample images, by ONNX Runtime."""
    return tensors(model, load_samples()[0][:2].astype(np.float32))


@pytest.fixture(scope="session")
def qdq(tmp_path_factory) -> Path:
    """The book's network in QDQ form, per-tensor; only to be read."""
    from study import quantize  # the library's own tests run without it

    from onnxruntime.quantization import QuantFormat

    path = tmp_path_factory.mktemp("qdq") / "qdq.onnx"
    ranges = MODELS / "calibration.json"
    onnx.save(
        quantize.quantize(MODELS / "resnet8.onnx", ranges, quant_format=QuantFormat.QDQ), path
    )
    return path


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Path:
    """Golden vectors of the book's model on two images, from the command; only to be read."""
    out = tmp_path_factory.mktemp("golden") / "vectors"
    command = [sys.executable, "-m", "qlinear", "vectors", MODELS / "resnet8_int8.onnx"]
    done = subprocess.run(
        [*command, "--out", out, "--images", "2"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return out
