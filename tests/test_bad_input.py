"""What goes wrong ends in one line and status 2, and leaves nothing: one test for each kind."""

import csv
import io
import json
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import onnx
import pytest
from conftest import MODELS, ROOT
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from qlinear import cli, errors, files, inputs, oracle, vectors
from qlinear.errors import Ended, UnusableInput, printable
from qlinear.explain import work
from qlinear.fuse import fuse
from qlinear.onnx_model import load
from qlinear.operators.qlinear_conv import Conv
from scripts import evaluate, extract_operations, quantize_onnx, validate_qlinearconv
from study import analog, cifar10, conventions, depthwise, hardware

BOOK = MODELS / "resnet8_int8.onnx"
CONV = {
    "x_scale": np.float32(0.1), "x_zero_point": np.int8(3),
    "w": np.arange(-36, 36).astype(np.int8).reshape(4, 2, 3, 3), "w_scale": np.float32(0.01),
    "w_zero_point": np.int8(0), "y_scale": np.float32(0.2), "y_zero_point": np.int8(-5),
}  # fmt: skip
NASTY = "\x1b[2Jconv\nPASS: all equal\n*/\n#error live\n\u202e"


def conv_model(path, *, name="conv", x_shape=(1, 2, 6, 6), layers=1, **changes):
    """QLinearConv nodes that read one input, with some of the constants changed."""
    constants = {k: np.asarray(v) for k, v in {**CONV, **changes}.items()}
    nodes = [
        helper.make_node("QLinearConv", ["x", *constants], [f"y{i}"], f"{name}{i or ''}")
        for i in range(layers)
    ]
    x = helper.make_tensor_value_info("x", TensorProto.INT8, x_shape)
    rank = [None] * len(x_shape)
    ys = [helper.make_tensor_value_info(f"y{i}", TensorProto.INT8, rank) for i in range(layers)]
    stored = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], ys, stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(made, path)
    return path


@pytest.fixture
def conv(tmp_path):
    return conv_model(tmp_path / "model.onnx")


def commands(model, out):
    """Every command line that reads a model."""
    yield from ([name, model] for name in ("inspect", "validate", "explain", "multipliers"))
    yield ["vectors", model, "--out", out / "a" / "b"]
    yield ["run", model, "--out", out / "run.npz"]


def refused(*args, main=cli.main) -> str:
    """The message that a command line ends with, in this process."""
    with warnings.catch_warnings(), pytest.raises(UnusableInput) as caught:
        warnings.simplefilter("error")
        main([str(arg) for arg in args])
    return printable(str(caught.value))


def qlinear(*args, **options):
    """A command in a process of its own: its status and what it prints."""
    command = [sys.executable, "-m", "qlinear", *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(command, env=environment, **options)


def one_line(done, status=2) -> str:
    assert done.returncode == status, done.stderr
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    return line


# --- models


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"w_scale": np.float32(0)}, "node conv: w_scale is [0.]"),
        ({"x_scale": np.float32(np.nan)}, "node conv: x_scale is [nan]"),
        ({"y_scale": np.float32(1e-45)}, "x_scale * w_scale / y_scale is too large"),
        ({"x_shape": (0, 2, 6, 6)}, "no values"),
    ],
    ids=["zero", "nan", "factor", "batch 0"],
)
def test_every_command_refuses_what_validate_refuses(tmp_path, changes, message):
    path = conv_model(tmp_path / "model.onnx", **changes)
    for command in commands(path, tmp_path):
        if command[0] in ("inspect", "multipliers") and "x_shape" in changes:
            continue  # they compute nothing, so no values are no obstacle
        assert message in refused(*command)
    assert message in refused(path, main=validate_qlinearconv.main)
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_numbers_that_json_lacks_are_named(tmp_path):
    path = conv_model(tmp_path / "model.onnx", x_scale=np.float32(np.inf))
    assert "node conv: x_scale is not finite" in refused(path, main=extract_operations.main)
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_an_axis_of_unknown_length_needs_an_input(tmp_path):
    path = conv_model(tmp_path / "model.onnx", x_shape=(1, 2, -1, 6))
    assert "give --input x=FILE" in refused("validate", path)
    np.save(tmp_path / "x.npy", np.ones((1, 2, 6, 6), np.int8))
    assert cli.main(["validate", str(path), "--input", str(tmp_path / "x.npy")]) == 0


@pytest.mark.parametrize("which", ["x_zero_point", "y_zero_point"])
def test_a_scalar_may_be_an_array_of_one_element(tmp_path, which):
    path = conv_model(tmp_path / "model.onnx", **{which: CONV[which].reshape(1)})
    for command in commands(path, tmp_path):
        assert cli.main([str(arg) for arg in command]) == 0


def test_names_that_are_not_utf8_are_refused(tmp_path):
    path = conv_model(tmp_path / "model.onnx", name="abcd")
    path.write_bytes(path.read_bytes().replace(b"abcd", b"\xff\xfecd"))
    for command in commands(path, tmp_path):
        assert "not a valid ONNX model" in refused(*command)


def test_a_name_cannot_speak_for_us(tmp_path, capsys):
    path = conv_model(tmp_path / "model.onnx", name=NASTY)
    x = tmp_path / "x\nPASS: all.npy"
    np.save(x, np.zeros((1, 2, 6, 6), np.int8))
    more = (["inspect", path, "--csv"], ["explain", path, "--markdown"],
            ["validate", path, "--input", x], ["validate", path, "--node", NASTY])  # fmt: skip
    for command in (*commands(path, tmp_path), *more):
        assert cli.main([str(arg) for arg in command]) == 0
    assert validate_qlinearconv.main([str(path)]) == 0
    for printed in capsys.readouterr():
        assert "\x1b" not in printed and "\u202e" not in printed
        assert not any(line.startswith("PASS: all") for line in printed.splitlines())
    text = (tmp_path / "a" / "b").rglob("layer.*")
    assert not any("#error" in line for file in text for line in file.read_text().splitlines())
    bad = conv_model(tmp_path / "bad.onnx", name=NASTY, w_scale=np.float32(0))
    assert "\\nPASS" in refused("inspect", bad)


def test_csv_and_json_hold_every_field(tmp_path, capsys):
    path = conv_model(tmp_path / "model.onnx", name='a,"b"\n=1')
    assert cli.main(["inspect", str(path), "--csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["node"] == 'a,"b"\\n=1' and row["bits"]
    assert cli.main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nodes"][0]["node"] == 'a,"b"\n=1' and found["model"] == str(path)


def test_names_print_where_they_are_unambiguous():
    assert printable("größe 重み/a b") == "größe 重み/a b"
    assert printable("a\nb\x1b\u202e\u2028\ud800") == "a\\nb\\x1b\\u202e\\u2028\\ud800"


# --- arrays and images


def refused_input(path, *, model=BOOK) -> str:
    return refused("validate", model, "--input", path)


def header(shape, descr="<f4") -> bytes:
    file = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


X = (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither a .npy nor a whole .npz"),
        (b"hello", "neither a .npy nor a whole .npz"),
        (pickle.dumps(print), "neither a .npy nor a whole .npz"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "not a NumPy array"),
        (header(X).replace(b"'shape'", b"'sh\npe'"), "not a NumPy array"),
        (header((1, 3, 10**12, 32)), "does not fit input image"),
        (header((10**12, 3, 32, 32)), "cut: "),
        (header(X) + bytes(99), "cut: 12288 bytes"),
        (header((0, 3, 32, 32)), "no values to compute with"),
        (header(X, "|O") + pickle.dumps([print] * 3072), "holds Python objects"),
        (header(X, "<c8") + bytes(8 * 3072), "complex64 values; numbers needed"),
        (header(X, "<M8[s]") + bytes(8 * 3072), "values; numbers needed"),
        (header(X) + np.full(3072, np.nan, "<f4").tobytes(), "not finite"),
        (header(X) + np.full(3072, np.inf, "<f4").tobytes(), "not finite"),
        (header(X, "<f8") + np.full(3072, np.inf, "<f8").tobytes(), "not finite"),
        (header(X, "<f8") + np.full(3072, 1e300).tobytes(), "float32 does not hold"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_arrays_that_are_not_what_they_say(tmp_path, content, message):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    assert message in refused_input(path) and str(path) in refused_input(path)


@pytest.mark.parametrize("value", [128, -129, 0.5, 2**40])
def test_values_that_the_input_does_not_hold(tmp_path, conv, value):
    np.save(tmp_path / "x.npy", np.full((1, 2, 6, 6), value))
    assert "int8 does not hold" in refused_input(tmp_path / "x.npy", model=conv)


@pytest.mark.parametrize("kind", ["bool", "int4"])
def test_narrow_types_hold_their_values_only(kind):
    dtype = np.dtype(bool) if kind == "bool" else helper.tensor_dtype_to_np_dtype(TensorProto.INT4)
    assert inputs.converted(np.array([0, 1]), np.dtype(dtype), "x").dtype == dtype
    with pytest.raises(UnusableInput, match="does not hold"):
        inputs.converted(np.array([0, 9]), np.dtype(dtype), "x")


def test_archives(tmp_path):
    path, x = tmp_path / "x.npz", np.zeros(X, np.float32)
    np.savez(path, other=x)
    assert "holds other; the inputs are image" in refused_input(path)
    assert "holds other, not image" in refused("validate", BOOK, "--input", f"image={path}")
    np.savez(path, image=x)
    twice = ["--input", path, "--input", path]
    assert "given twice" in refused("validate", BOOK, *twice)
    path.write_bytes(path.read_bytes()[:5000])
    assert "not a NumPy array" in refused_input(path)
    path.rename(tmp_path / "x.npy")
    assert "nor a whole .npz" in refused_input(tmp_path / "x.npy")


def test_an_archive_that_unpacks_to_more_than_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "LARGEST", 1 << 20)
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, image=np.zeros((200, 3, 32, 32), np.float32))
    assert path.stat().st_size < 1 << 14 and "up to 1048576 are read" in refused_input(path)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, rows: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n", "not an image that is read"),
        (b"no image", "not an image that is read"),
        (png(32, 32, 16, 0, (b"\0" + bytes(64)) * 32), "more than 8 bits"),
        (png(32, 32, 16, 2, (b"\0" + bytes(192)) * 32), "more than 8 bits"),
        (b"P6 32 32 65535\n" + bytes(6 * 1024), "more than 8 bits"),
        (png(32, 32, 8, 6, (b"\0" + bytes(128)) * 32), "partly transparent"),
        (png(10_000, 10_000, 1, 0, b""), "too large"),
        (png(60_000, 60_000, 1, 0, b""), "exceeds limit"),
        (png(32, 32, 8, 2, b"\0" * 99), "not a readable image"),
        (png(31, 32, 8, 2, (b"\0" + bytes(93)) * 32), "does not fit input image"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_images_that_are_not_what_they_say(tmp_path, content, message):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    assert message in refused_input(path) and str(path) in refused_input(path)


def test_several_images_in_a_file(tmp_path):
    frames = [Image.new("L", (32, 32), value) for value in (0, 255)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert "holds several images" in refused_input(tmp_path / "x.gif")


def test_images_are_read_upright_whatever_their_colours(tmp_path):
    grey = (np.arange(6).reshape(2, 3) * 40).astype(np.uint8)
    rgb = Image.fromarray(np.stack([grey] * 3, -1))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    rgb.save(tmp_path / "turned.png", exif=exif)
    assert (inputs.read_image(tmp_path / "turned.png")[0] == np.rot90(grey, -1)).all()
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    assert (inputs.read_image(tmp_path / "palette.png") == grey).all()
    Image.fromarray(grey > 100).save(tmp_path / "bits.png")
    assert (inputs.read_image(tmp_path / "bits.png") == (grey > 100) * 255).all()
    Image.fromarray(np.stack([grey * 0] * 3 + [grey], -1), "CMYK").save(tmp_path / "cmyk.tif")
    assert (inputs.read_image(tmp_path / "cmyk.tif") == 255 - grey).all()


def test_pipes_and_devices_are_not_read(tmp_path, conv):
    os.mkfifo(tmp_path / "pipe.npy")
    for path in (tmp_path / "pipe.npy", "/dev/zero"):
        assert "a pipe or device" in refused("inspect", path)
        assert "a pipe or device" in refused_input(path, model=conv)
    assert "a folder" in refused("inspect", tmp_path)
    assert "no such file" in refused("inspect", tmp_path / "none")


# --- the command line


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "required: COMMAND; see qlinear --help"),
        (["validate"], "required: model"),
        (["explain", BOOK, "--pixel", "1,x"], "argument --pixel: invalid"),
        (["explain", BOOK, "--pixel", "1,2,3"], "pixel 1,2,3 is not in it"),
        (["explain", BOOK, "--channel", "-1"], "channel -1"),
        (["explain", BOOK, "--image", "1"], "image 1"),
        (["validate", BOOK, "--images", "0"], "0 images asked for"),
        (["validate", BOOK, "--images", "2", "--input", "data/00_cat.png"], "leave --images out"),
        (["validate", BOOK, "--input", "no=x.npy"], "no input 'no'; it has image"),
        (["validate", BOOK, "--node", "none"], "no node named 'none'"),
    ],
)
def test_arguments_that_do_not_fit(args, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    if "data/00_cat.png" in args:
        args[-1] = str(sorted((ROOT / "data").glob("*.png"))[0])
    assert message in refused(*args)


def test_sample_images_are_not_asked_for_in_vain(conv):
    assert "leave --images out" in refused("validate", conv, "--images", "2")


# --- writing


@pytest.mark.parametrize("name", ["file/below", "link", "full", "n" * 300], ids=lambda n: n[:9])
def test_vectors_that_cannot_be_written(tmp_path, conv, name):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "full" / "kept").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    refused("vectors", conv, "--out", tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_taken_is_refused_before_the_work(tmp_path):
    (tmp_path / "kept").touch()
    with pytest.raises(UnusableInput, match="not an empty"), files.new_folder(tmp_path):
        pytest.fail("the work began")


@pytest.mark.parametrize("command", ["run", "explore", "vectors"])
@pytest.mark.parametrize("out", ["file/below", "full", "n" * 300], ids=lambda n: n[:5])
def test_a_bad_out_is_refused_before_the_work(tmp_path, conv, monkeypatch, command, out):
    (tmp_path / "file").touch()
    (tmp_path / "full" / "kept").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(oracle, "settle", lambda *_: pytest.fail("the work began"))
    line = refused(command, conv, "--out", tmp_path / out)
    assert str(tmp_path / out) in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "study",
    [
        evaluate.main,
        hardware.main,
        quantize_onnx.main,
        analog.main,
        conventions.main,
        depthwise.main,
    ],
)
def test_a_study_refuses_a_bad_out_before_it_reads_the_data(tmp_path, study):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "below"
    assert str(out) in refused("--data-dir", tmp_path / "none", "--out", out, main=study)


def test_a_check_leaves_what_is_there(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"kept")
    files.check_file(tmp_path / "x.npz")
    files.check_file(tmp_path / "y.npz")
    files.check_folder(tmp_path / "new" / "folder")
    assert os.listdir(tmp_path) == ["x.npz"]
    assert (tmp_path / "x.npz").read_bytes() == b"kept"


def test_no_folder_stays_of_what_is_refused(tmp_path, conv):
    with pytest.raises(UnusableInput), files.new_folder(tmp_path / "p1" / "p2" / "v") as work:
        (work / "file").touch()
        raise UnusableInput("a layer")
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_an_output_never_replaces_what_is_read_or_a_device(tmp_path, conv):
    before = conv.read_bytes()
    (tmp_path / "link").symlink_to(conv)
    x = tmp_path / "x.npy"
    np.save(x, np.zeros((1, 2, 6, 6), np.int8))
    for out in (conv, tmp_path / "link"):
        assert "which is read" in refused("run", conv, "--out", out)
        assert "which is read" in refused(conv, "--out", out, main=extract_operations.main)
    for given in (x, f"x={x}"):
        assert "which is read" in refused("run", conv, "--input", given, "--out", x)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused("run", conv, "--out", tmp_path / "pipe")
    assert conv.read_bytes() == before and (tmp_path / "pipe").is_fifo()


def test_a_link_is_written_through(tmp_path, conv):
    (tmp_path / "link.npz").symlink_to(tmp_path / "out.npz")
    assert cli.main(["run", str(conv), "--out", str(tmp_path / "link.npz")]) == 0
    assert (tmp_path / "link.npz").is_symlink() and np.load(tmp_path / "out.npz")


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))


def test_a_full_disk(tmp_path, conv):
    for args in (["vectors", conv, "--out", tmp_path / "a" / "b"],
                 ["run", BOOK, "--out", tmp_path / "x.npz"]):  # fmt: skip
        line = one_line(qlinear(*args, preexec_fn=small_files))
        assert "File too large" in line or "TMPDIR" in line
        assert os.listdir(tmp_path) == ["model.onnx"]


def test_two_writers_of_one_folder(tmp_path):
    """Both have made their folders before either renames it: one wins, whole."""
    out, ready, results = tmp_path / "p" / "out", threading.Barrier(2), {}

    def write(name):
        try:
            with files.new_folder(out) as work:
                (work / name).touch()
                ready.wait(timeout=10)
            results[name] = None
        except UnusableInput as error:
            results[name] = str(error)

    writers = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    (winner,) = [name for name, error in results.items() if error is None]
    (error,) = filter(None, results.values())
    assert "exists and is not an empty folder" in error
    assert os.listdir(out) == [winner] and os.listdir(out.parent) == ["out"]


# --- processes: signals, pipes, encodings


BEGUN = """
import shutil, time
from pathlib import Path
from qlinear.errors import run_command
from qlinear.files import new_folder, whole_file

remove = shutil.rmtree

def slowly(*args, **options):
    print("ending", flush=True)
    time.sleep(0.3)  # while a second signal comes
    remove(*args, **options)

shutil.rmtree = slowly

def main():
    with new_folder(Path("a/folder")) as work, whole_file(Path("file")):
        (work / "layer").mkdir()
        print("begun", flush=True)
        time.sleep(60)

run_command(main)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_leaves_nothing(tmp_path, name):
    number = getattr(signal, name)
    running = subprocess.Popen(
        [sys.executable, "-c", BEGUN], cwd=tmp_path, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert running.stdout.readline() == b"begun\n"
    running.send_signal(number)
    assert running.stdout.readline() == b"ending\n"
    running.send_signal(number)
    _, said = running.communicate(timeout=20)
    assert running.returncode == 128 + number and b"Traceback" not in said
    assert os.listdir(tmp_path) == []


def test_a_signal_that_was_ignored_stays_ignored():
    code = "import signal; from qlinear import errors; print(signal.SIGHUP in errors._signals())"
    done = subprocess.run(
        ["nohup", sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "False\n"


def test_output_that_nobody_reads_or_holds(conv):
    with open("/dev/full", "w") as full:
        assert "No space left" in one_line(qlinear("inspect", conv, stdout=full))
    end, other = os.pipe()
    os.close(end)
    done = qlinear("inspect", conv, stdout=other)
    os.close(other)
    assert done.returncode == 141 and not done.stderr
    done = qlinear("inspect", conv, preexec_fn=lambda: os.close(1))
    assert done.returncode == 0 and not done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_output_that_is_not_utf8(tmp_path, encoding):
    path = conv_model(tmp_path / "größe.onnx", name="重み")
    environment = {"PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    done = qlinear("vectors", path, "--out", tmp_path / "größe", env=environment)
    assert done.returncode == 0 and not done.stderr
    manifest = json.loads((tmp_path / "größe" / "manifest.json").read_bytes())
    assert manifest["layers"][0]["name"] == "重み"
    script = [sys.executable, ROOT / "scripts" / "validate_qlinearconv.py", path]
    done = subprocess.run(script, env={**os.environ, **environment}, capture_output=True)
    assert done.returncode == 0 and b"PASS" in done.stdout and not done.stderr


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UnusableInput("a\nb"), 2, "error: a\\nb\n"),
        (OSError(28, "No space left on device"), 2, "error: output: No space left on device\n"),
        (PermissionError(13, "Permission denied", "f"), 2, "error: f: Permission denied\n"),
        (MemoryError(), 2, "error: out of memory\n"),
        (KeyError("x\ny"), 2, "error: KeyError: 'x\\ny' (QLINEAR_TRACEBACK=1 shows where)\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (Ended(15), 143, ""),
    ],
)
def test_every_end_has_its_status(error, status, line, monkeypatch, capsys):
    monkeypatch.setattr(errors, "_signals", list)
    monkeypatch.delenv("QLINEAR_TRACEBACK", raising=False)

    def main():
        raise error

    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        errors.run_command(main)
    assert ended.value.code == status and capsys.readouterr().err == line


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_long_work_shows_progress_on_a_terminal(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(cli.progress(range(3), "x\x1b", 3)) == [0, 1, 2]
    shown = stream.getvalue()
    assert "x\\x1b" in shown and "0/3" in shown if stream.isatty() else not shown


# --- vectors, explain, CIFAR-10


def test_vectors_of_one_node_are_of_that_node(tmp_path):
    path = conv_model(tmp_path / "model.onnx", layers=3)
    out = tmp_path / "v"
    assert cli.main(["vectors", str(path), "--node", "conv1", "--out", str(out)]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert [layer["name"] for layer in manifest["layers"]] == ["conv1"]
    assert sorted(os.listdir(out)) == [manifest["layers"][0]["folder"], "manifest.json"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--packed", "12"], "argument --packed: invalid"),
        (["--packed", "0"], "argument --packed: invalid"),
        (["--layout", "HWCN"], "argument --layout: invalid choice"),
        (["--all", "--node", "conv0"], "--node: not allowed with argument --all"),
        (["--node", "none"], "no node named 'none'"),
    ],
)
def test_vectors_that_there_are_not(tmp_path, args, message):
    path = conv_model(tmp_path / "model.onnx")
    assert message in refused("vectors", path, "--out", tmp_path / "v", *args)
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_no_thresholds_past_32_bits(tmp_path):
    path = conv_model(tmp_path / "m.onnx", x_shape=(1, 2, 1, 1), B=np.full(4, 2**31 - 1, np.int32),
                      w=np.ones((4, 2, 1, 1), np.int8))  # fmt: skip
    line = refused("vectors", path, "--out", tmp_path / "v", "--thresholds")
    assert "node conv: accumulators may pass 32 bits" in line
    assert os.listdir(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**-20, 0.02, 0.5, 2.0**20, 2.0**40])
def test_shifts_and_their_count_hold_for_any_factor(tmp_path, scale):
    """Recomputed in Python's integers, from what is written."""
    path = conv_model(tmp_path / "model.onnx", w_scale=np.float32(scale), y_scale=np.float32(0.1))
    out = tmp_path / "v"
    feeds = inputs.read_feeds(load(path))
    network = fuse(load(path))
    manifest = vectors.write(network, feeds, out, list(network.graph.nodes))
    (layer,) = manifest["layers"]
    v = np.load(out / layer["folder"] / "image00.npz")
    fixed, exact = [], []
    for m in range(4):
        multiplier, right = int(v["multiplier"][m]), int(v["right_shift"][m])
        mantissa, shift = int(v["mantissa"][m]), int(v["shift"][m])
        assert 1 <= right <= 63 and 0 <= shift < 256
        for acc in v["acc"][0, m].ravel().tolist():
            fixed.append(((acc * multiplier + (1 << right - 1)) >> right) - 5)
            exact.append(int(np.sign(acc)) * halved(abs(acc) * mantissa, shift) - 5)
    y = v["y"].ravel().tolist()
    saturated = [min(max(value, -128), 127) for value in fixed]
    assert layer["fixed_point_differs"] == sum(a != b for a, b in zip(saturated, y, strict=True))
    assert [min(max(value, -128), 127) for value in exact] == y


def halved(value: int, shift: int) -> int:
    """value / 2**shift by float32's two roundings, both half to even."""
    dropped = max(value.bit_length() - 24, 0)
    for bits in (dropped, shift - dropped):
        if bits > 0:
            floor, rest = value >> bits, value & ((1 << bits) - 1)
            half = 1 << bits - 1
            value = floor + (rest > half or (rest == half and floor & 1))
        else:
            value <<= -bits
    return value


def test_the_fixed_point_form_is_counted_where_it_differs(tmp_path):
    """Ties: half up and half to even part."""
    ties = conv_model(
        tmp_path / "model.onnx", x_scale=np.float32(0.5), w_scale=np.float32(1),
        y_scale=np.float32(1), w=np.ones((1, 1, 1, 1), np.int8), x_zero_point=np.int8(0),
        y_zero_point=np.int8(0), x_shape=(1, 1, 2, 2),
    )  # fmt: skip
    np.save(tmp_path / "x.npy", np.array([[[[1, 3], [5, 2]]]], np.int8))  # 0.5, 1.5, 2.5, 1
    args = ["vectors", ties, "--input", tmp_path / "x.npy", "--out", tmp_path / "v"]
    assert cli.main([str(arg) for arg in args]) == 0
    manifest = json.loads((tmp_path / "v" / "manifest.json").read_text())
    assert manifest["layers"][0]["fixed_point_differs"] == 2


@pytest.mark.parametrize(("x", "y"), [(1, 0), (3, 2), (5, 2), (-1, 0), (-5, -2)])
def test_explain_rounds_ties_to_even(x, y):
    constants = {**CONV, "x_scale": np.float32(0.5), "w_scale": np.float32(1),
                 "y_scale": np.float32(1), "w": np.ones((1, 1, 1, 1), np.int8),
                 "x_zero_point": np.int8(0), "y_zero_point": np.int8(0)}  # fmt: skip
    assert work(np.full((1, 1, 1, 1), x, np.int8), Conv(**constants), 0, 0, (0, 0)).y == y


def test_a_cifar_batch_that_is_short_of_labels(tmp_path):
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(UnusableInput, match="2 images but 1 labels"):
        cifar10.load_cifar10(tmp_path, "test")
    (tmp_path / "test_batch").write_bytes(pickle.dumps(print))
    with pytest.raises(UnusableInput, match="which is not data"):
        cifar10.load_cifar10(tmp_path, "test")
