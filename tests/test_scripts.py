"""The command lines, run as a reader runs them."""

import inspect
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from conftest import MODELS, ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import validate_qlinearconv

from qlinear.errors import UnusableInput
from qlinear.inputs import load_samples, read_image
from qlinear.onnx_model import with_constants
from qlinear.operators import OPERATORS, arithmetic
from qlinear.operators import qlinear_conv as qc
from qlinear.operators.qlinear_conv import Conv
from study.cifar10 import load_cifar10


def run(script, *args, python=sys.executable, cwd=ROOT, env=None):
    return subprocess.run(
        [python, ROOT / "scripts" / script, *map(str, args)],
        capture_output=True, text=True, cwd=cwd, env=env,
    )  # fmt: skip


def one_error_line(done) -> str:
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


def test_validator_prints_the_documented_report():
    done = run("validate_qlinearconv.py", "models/resnet8_int8.onnx")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "Loading model: models/resnet8_int8.onnx",
        "Found QLinearConv node: stem_quant",
    ]
    assert lines[3] == "Input parameters:"
    names = ["x_scale", "x_zero_point", "w_scale", "w_zero_point", "y_scale", "y_zero_point"]
    assert [line.strip().split(":")[0] for line in lines[4:10]] == names
    assert lines[4:6] == ["  x_scale: 1.0 (float32)", "  x_zero_point: -128 (int8)"]
    assert lines[10:] == [
        "",
        "Manual computation:",
        "  Input shape: (1, 3, 32, 32)",
        "  Output shape: (1, 16, 32, 32)",
        "",
        "Validation result: PASS ✓",
        "  Max difference: 0 (exact match)",
    ]


def test_validator_checks_all_nodes_and_writes_json():
    done = run("validate_qlinearconv.py", MODELS / "resnet8_uint8.onnx", "--all", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["passed"] and len(found["nodes"]) == 9
    assert all(n["mismatches"] == 0 and n["elements"] > 0 for n in found["nodes"])


def test_validator_takes_a_node_and_an_input(tmp_path):
    image = ROOT / "data" / "cifar10_03_0.png"
    np.save(tmp_path / "x.npy", read_image(image)[None].astype(np.float32))
    outputs = [
        run("validate_qlinearconv.py", MODELS / "resnet8_int8.onnx",
            "--node", "block3_conv2_quant", "--input", path).stdout
        for path in (image, tmp_path / "x.npy")
    ]  # fmt: skip
    assert outputs[0] == outputs[1] and "node: block3_conv2_quant" in outputs[0]
    assert "PASS" in outputs[0]


def half_up(values: np.ndarray) -> np.ndarray:
    return np.floor(values + np.float32(0.5))


def flipped(x, *constants, **attributes):
    conv = Conv(*constants, attributes=attributes)
    w = conv.w.copy()
    w.ravel()[5] = ~w.ravel()[5]
    return qc.stages(x, replace(conv, w=w)).y


def swapped(x, *constants, **attributes):
    conv = Conv(*constants, attributes=attributes)
    w_scale = conv.w_scale[::-1] if conv.w_scale.ndim else conv.w_scale
    return qc.stages(x, replace(conv, w_scale=w_scale)).y


def padded_with_0(x, *constants, **attributes):
    with pytest.MonkeyPatch.context() as patch:
        real = qc.pad
        patch.setattr(qc, "pad", lambda x, zero, geo: real(x, 0, geo))
        return qc.stages(x, Conv(*constants, attributes=attributes)).y


def rounded_half_up(x, *constants, **attributes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic.np, "rint", half_up)
        return qc.stages(x, Conv(*constants, attributes=attributes)).y


@pytest.mark.parametrize("wrong", [None, flipped, swapped, padded_with_0, rounded_half_up])
def test_validator_fails_for_a_wrong_reference(wrong, model, tmp_path, monkeypatch, capsys):
    path = MODELS / "resnet8_int8.onnx"
    if wrong in (None, rounded_half_up):
        # powers of two make the factor of block1_conv2 exactly 1/512, so that ties abound
        node = model.node("block1_conv2_quant")
        scales = {"x_scale": 2**-4, "w_scale": 2**-7, "y_scale": 2**-2}
        changes = {model.name_of(node, k): np.array(v, np.float32) for k, v in scales.items()}
        path = tmp_path / "ties.onnx"
        onnx.save(with_constants(model, changes), path)
    if wrong:
        monkeypatch.setitem(OPERATORS, ("", "QLinearConv"), wrong)
        # the names of the inputs are read off the function
        wrong.__signature__ = inspect.signature(qc.qlinear_conv)
    status = validate_qlinearconv.main([str(path), "--all"])
    text = capsys.readouterr().out
    if wrong is None:
        assert status == 0 and "FAIL" not in text
    else:
        assert status == 1
        report = text[text.index("Validation result: FAIL ✗") :]
        assert "Mismatches: " in report and "First at (0, " in report and "Max diff" in report


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("mine.onnx", None, "no such file"),
        ("mine.onnx", b"", "not a valid ONNX model"),
        ("mine.onnx", b"\x89PNG not a model", "not a valid ONNX model"),
    ],
)
def test_validator_refuses_unusable_models(name, content, expected, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    error = one_error_line(run("validate_qlinearconv.py", path))
    assert str(path) in error and expected in error


def test_validator_refuses_other_unusable_input(tmp_path):
    good = MODELS / "resnet8_int8.onnx"
    error = one_error_line(run("validate_qlinearconv.py", MODELS / "resnet8.onnx"))
    assert "no QLinearConv node" in error and "FusedConv" in error
    error = one_error_line(run("validate_qlinearconv.py", good, "--node", "nope"))
    assert "'nope'" in error and "stem_quant" in error
    (tmp_path / "x.npy").write_bytes(b"junk")
    assert "x.npy" in one_error_line(
        run("validate_qlinearconv.py", good, "--input", tmp_path / "x.npy")
    )
    np.save(tmp_path / "small.npy", np.zeros((3, 8, 8), np.float32))
    assert "does not fit" in one_error_line(
        run("validate_qlinearconv.py", good, "--input", tmp_path / "small.npy")
    )
    assert "not an image" in one_error_line(
        run("validate_qlinearconv.py", good, "--input", ROOT / "README.md")
    )


def test_validator_needs_numpy_onnx_and_onnxruntime_only(tmp_path):
    """Everything else is hidden from the interpreter that runs it."""
    hidden = [
        "PIL",
        "pandas",
        "threadpoolctl",
        "matplotlib",
        "IPython",
        "tqdm",
        "jsonschema",
        "hypothesis",
    ]
    code = (
        "import sys, runpy\n"
        f"for name in {hidden}: sys.modules[name] = None\n"
        f"sys.argv = ['validate', {str(MODELS / 'resnet8_int8.onnx')!r}, '--all']\n"
        f"runpy.run_path({str(ROOT / 'scripts/validate_qlinearconv.py')!r}, run_name='__main__')\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("PASS") == 9


def write_batches(folder, images=20):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        labels = [int(v) for v in rng.integers(0, 10, images)]
        data = rng.integers(0, 256, (images, 3072)).astype(np.uint8)
        (folder / name).write_bytes(pickle.dumps({b"data": data, b"labels": labels}, protocol=2))


def test_cifar10_is_read_in_its_authors_layout(tmp_path):
    write_batches(tmp_path / "cifar-10-batches-py")
    for where in (tmp_path, tmp_path / "cifar-10-batches-py"):
        images, labels = load_cifar10(where, "train")
        assert images.shape == (100, 3, 32, 32) and images.dtype == np.uint8
        assert labels.shape == (100,)


def test_damaged_cifar10_is_refused(tmp_path):
    with pytest.raises(UnusableInput, match="fetch_cifar10"):
        load_cifar10(tmp_path, "test")
    batch = tmp_path / "test_batch"
    batch.write_bytes(b"not a pickle")
    with pytest.raises(UnusableInput, match="test_batch: not a CIFAR-10 batch"):
        load_cifar10(tmp_path, "test")
    batch.write_bytes(pickle.dumps({b"data": os.system, b"labels": []}))
    with pytest.raises(UnusableInput, match="which is not data"):
        load_cifar10(tmp_path, "test")


def test_fetch_verifies_before_it_unpacks(tmp_path, monkeypatch):
    import tarfile

    from study import fetch

    write_batches(tmp_path / "source" / "cifar-10-batches-py")
    archive = tmp_path / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "source" / "cifar-10-batches-py", "cifar-10-batches-py")
    import hashlib

    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(UnusableInput, match="SHA-256"):
        fetch.fetch(tmp_path / "bad", archive.as_uri(), "0" * 64)
    assert not list((tmp_path / "bad").iterdir())  # nothing half-written
    fetch.fetch(tmp_path / "good", archive.as_uri(), digest)
    assert load_cifar10(tmp_path / "good", "test")[0].shape == (20, 3, 32, 32)


def test_fetch_without_a_network_says_what_to_do(tmp_path, monkeypatch):
    from study import fetch

    with pytest.raises(UnusableInput, match="without a network"):
        fetch.fetch(tmp_path / "none", "http://127.0.0.1:9/none.tar.gz")


def test_samples_are_the_committed_images():
    images, labels = load_samples()
    paths = sorted((ROOT / "data").glob("cifar10_*.png"))
    assert len(paths) == len(images) == 20
    for image, label, path in zip(images, labels, paths, strict=True):
        assert (image == read_image(path)).all() and path.stem.endswith(f"_{label}")
