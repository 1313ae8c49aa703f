"""The examples in C and Verilog: they equal the golden vectors, and PASS is all that can pass."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import ROOT, needs
from onnx import TensorProto, helper

from qlinear.ort import operator_model

C_SOURCE = ROOT / "examples" / "c" / "qlinearconv.c"
ELEMENT = ROOT / "examples" / "rtl" / "qlinearconv_pe.v"
BENCH = ROOT / "examples" / "rtl" / "testbench.v"
HEX_FILES = "image00_x image00_acc image00_y w w_zero_point bias mantissa shift".split()


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Vectors of one small layer on which every wrong step shows.

    Half of the factors are powers of two, so that many products fall on ties; the zero point is
    odd, so that adding it before the rounding moves a tie; one channel saturates at both ends.
    """
    return vectors_of(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def stepped(tmp_path_factory) -> Path:
    """The same layer with its thresholds, on an image that shows no tie: its products are all 0."""
    return vectors_of(tmp_path_factory.mktemp("stepped"), "--thresholds", products=False)


def vectors_of(folder: Path, *options: str, products: bool = True) -> Path:
    rng = np.random.default_rng(0)
    scales = np.float32([1 / 32, 1 / 64, 2, 0.013, 0.0217, 1 / 128])
    inputs = dict(
        x=np.zeros((1, 4, 5, 6), np.int8), x_scale=np.float32(1), x_zero_point=np.int8(-7),
        w=rng.integers(-127, 128, (6, 2, 3, 2)).astype(np.int8), w_scale=scales,
        w_zero_point=np.zeros(6, np.int8), y_scale=np.float32(1), y_zero_point=np.int8(3),
        B=rng.integers(-3000, 3000, 6).astype(np.int32),
    )  # fmt: skip
    proto = operator_model("QLinearConv", inputs, group=2, pads=[1, 0, 1, 1], strides=[2, 1])
    y = helper.make_tensor_value_info("y", TensorProto.INT8, [None] * 4)
    proto.graph.output[0].CopyFrom(y)
    onnx.save(proto, folder / "model.onnx")
    x = rng.integers(-128, 128, (1, 4, 5, 6)).astype(np.int8)
    np.save(folder / "x.npy", x if products else np.full_like(x, -7))
    command = [sys.executable, "-m", "qlinear", "vectors", folder / "model.onnx"]
    command += ["--input", folder / "x.npy", "--out", folder / "vectors", *options]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return next(path for path in (folder / "vectors").iterdir() if path.is_dir())


def layer_folders(out: Path) -> dict[str, Path]:
    layers = json.loads((out / "manifest.json").read_text())["layers"]
    return {layer["name"]: out / layer["folder"] for layer in layers}


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


# --- C


def build_c(folder: Path, program: Path, *defines: str) -> subprocess.CompletedProcess:
    needs(shutil.which("cc") is not None, "a C compiler")
    flags = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", *defines]
    command = ["cc", *flags, "-I", folder, C_SOURCE, "-o", program, "-lm"]
    return subprocess.run(command, capture_output=True, text=True)


def run_c(folder: Path, program: Path, *defines: str) -> subprocess.CompletedProcess:
    built = build_c(folder, program, *defines)
    assert built.returncode == 0, built.stderr
    return subprocess.run([program], capture_output=True, text=True)


def test_c_reference_equals_the_vectors(written, tmp_path):
    for name, folder in layer_folders(written).items():
        done = run_c(folder, tmp_path / "check")
        assert done.returncode == 0 and done.stdout.startswith("PASS"), name


@pytest.mark.parametrize("rounding", ["TRUNCATE", "HALF_UP"])
def test_wrong_c_rounding_is_found(small, tmp_path, rounding):
    assert run_c(small, tmp_path / "check").returncode == 0
    wrong = run_c(small, tmp_path / "check", f"-DWRONG_ROUNDING={rounding}")
    assert wrong.returncode == 1
    assert "first mismatch" in wrong.stdout and "FAIL" in wrong.stdout


def test_thresholds_find_in_c_what_images_do_not(stepped, tmp_path):
    done = run_c(stepped, tmp_path / "check", "-DTHRESHOLDS")
    count = len((stepped / "thresholds_y.hex").read_text().split())
    assert done.stdout == f"PASS: {6 * 3 * 6 + count} outputs equal\n"
    assert run_c(stepped, tmp_path / "check", "-DWRONG_ROUNDING=HALF_UP").returncode == 0
    wrong = run_c(stepped, tmp_path / "check", "-DWRONG_ROUNDING=HALF_UP", "-DTHRESHOLDS")
    assert wrong.returncode == 1
    assert re.search(r"first mismatch at channel \d+, acc -?\d+: y ", wrong.stdout)


def damaged_header(small: Path, tmp_path: Path, change) -> Path:
    text = (small / "layer.h").read_text()
    after = change(text)
    assert after != text
    (tmp_path / "layer.h").write_text(after)
    return tmp_path


ARRAYS = ["vec_x", "vec_w", "vec_w_zero_point", "vec_bias", "vec_factor", "vec_acc", "vec_y"]


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("more", [-1, 1])
def test_c_header_with_an_array_of_another_length_does_not_compile(small, tmp_path, array, more):
    def change(text):
        return re.sub(rf" {array}\[(\d+)\]", lambda m: f" {array}[{int(m[1]) + more}]", text)

    built = build_c(damaged_header(small, tmp_path, change), tmp_path / "check")
    assert built.returncode != 0 and f"{array}_has_not_as_many_elements" in built.stderr


@pytest.mark.parametrize("size", "C_IN H_IN W_IN C_OUT H_OUT W_OUT GROUPS K_H K_W".split())
def test_c_header_with_another_size_does_not_compile(small, tmp_path, size):
    def change(text):
        return re.sub(rf"(#define {size}) \((\d+)\)", lambda m: f"{m[1]} ({2 * int(m[2])})", text)

    built = build_c(damaged_header(small, tmp_path, change), tmp_path / "check")
    assert built.returncode != 0 and "_has_not_as_many_elements" in built.stderr


def test_c_header_that_ends_early_does_not_compile(small, tmp_path):
    cut = damaged_header(small, tmp_path, lambda text: text[: len(text) // 2])
    assert build_c(cut, tmp_path / "check").returncode != 0


# not the weights' zero points: all are 0, so that one lost value is a 0 that C puts back
@pytest.mark.parametrize("array", [name for name in ARRAYS if name != "vec_w_zero_point"])
def test_c_header_without_an_arrays_first_value_fails(small, tmp_path, array):
    def change(text):
        return re.sub(rf"( {array}\[.*\n +)-?\d+, ", r"\1", text)

    done = run_c(damaged_header(small, tmp_path, change), tmp_path / "check")
    assert done.returncode == 1 and "FAIL" in done.stdout


# --- Verilog


def build_verilog(folder: Path, program: Path, element: Path = ELEMENT, *options: str) -> str:
    """Compile the bench with the sizes of a layer; returns what the compiler said."""
    needs(shutil.which("iverilog") is not None, "Icarus Verilog")
    command = ["iverilog", "-g2001", "-Wall", *options, "-I", folder, "-o", program, element, BENCH]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return built.stderr


def simulate(folder: Path, program: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = ["vvp", "-n", program, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def fails(done: subprocess.CompletedProcess) -> str:
    """What a run printed, which must have failed: by its status and by its words."""
    assert done.returncode == 1, done.stdout
    assert "FAIL" in done.stdout and "PASS" not in done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def bench(small, tmp_path_factory) -> Path:
    program = tmp_path_factory.mktemp("bench") / "bench"
    assert "warning" not in build_verilog(small, program)
    done = simulate(small, program)
    assert done.returncode == 0
    size = 6 * 3 * 6
    assert done.stdout == f"PASS: image 00: {size} accumulators and {size} outputs equal\n"
    return program


# the book's other layers take a minute; these have both signs of zero point and a stride
@pytest.mark.parametrize("name", ["stem_quant", "block2_shortcut_quant", "block3_shortcut_quant"])
def test_verilog_element_equals_the_vectors(written, tmp_path, name):
    folder = layer_folders(written)[name]
    assert "warning" not in build_verilog(folder, tmp_path / "bench")
    done = simulate(folder, tmp_path / "bench", "+image=1")
    assert done.returncode == 0 and done.stdout.startswith("PASS: image 01: "), done.stdout


def without_file(path: Path) -> str:
    path.unlink()
    return "cannot be read"


def with_lines(change, message: str):
    def damage(path: Path) -> str:
        lines = path.read_text().splitlines()
        path.write_text("".join(f"{line}\n" for line in change(lines)))
        return message.format(last=len(lines) - 1, words=len(lines))

    return damage


DAMAGES = {
    "missing": without_file,
    "empty": with_lines(lambda lines: [], "ends before word 0"),
    "one line less": with_lines(lambda lines: lines[:-1], "ends before word {last}"),
    "one line more": with_lines(lambda lines: [*lines, lines[0]], "more than {words} words"),
    "cut in a word": with_lines(lambda lines: [*lines[:-1], lines[-1][:-1]], "word {last} is"),
    "a digit too many": with_lines(lambda lines: ["0" + lines[0], *lines[1:]], "word 0 has more"),
    "X": with_lines(lambda lines: [*lines[:-1], lines[-1][:-1] + "x"], "word {last} is"),
    "all X": with_lines(lambda lines: ["x" * len(line) for line in lines], "word 0 is"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", HEX_FILES)
def test_verilog_bench_fails_without_its_data(small, bench, tmp_path, damage, name):
    folder = shutil.copytree(small, tmp_path / "layer")
    message = DAMAGES[damage](folder / f"{name}.hex")
    said = fails(simulate(folder, bench))
    assert f"FAIL: {name}.hex: " in said and message in said


@pytest.mark.parametrize("name", HEX_FILES)
def test_verilog_bench_finds_one_altered_digit(small, bench, tmp_path, name):
    folder = shutil.copytree(small, tmp_path / "layer")
    path = folder / f"{name}.hex"
    text = path.read_text()
    at = {"mantissa": 2, "shift": 7}.get(name, 0)  # the first digit that the number can have
    path.write_text(f"{text[:at]}{int(text[at], 16) ^ 4:x}{text[at + 1 :]}")
    assert "first mismatch at channel 0, row" in fails(simulate(folder, bench))


@pytest.mark.parametrize("name", ["mantissa", "shift"])
def test_verilog_bench_refuses_a_number_too_wide_for_its_port(small, bench, tmp_path, name):
    folder = shutil.copytree(small, tmp_path / "layer")
    path = folder / f"{name}.hex"
    path.write_text("1" + path.read_text()[1:])
    assert f"{name}.hex: word 0 does not fit" in fails(simulate(folder, bench))


def test_verilog_bench_fails_for_an_absent_image(small, bench):
    assert simulate(small, bench, "+image=0").returncode == 0
    assert "image07_x.hex: cannot be read" in fails(simulate(small, bench, "+image=7"))


@pytest.mark.parametrize("size", "C_IN H_IN W_IN C_OUT H_OUT W_OUT GROUPS K_H K_W".split())
def test_verilog_bench_fails_with_another_size(small, tmp_path, size):
    folder = shutil.copytree(small, tmp_path / "layer")
    path = folder / "layer.vh"
    pattern = rf"(`define {size}) \((\d+)\)"
    text = re.sub(pattern, lambda m: f"{m[1]} ({2 * int(m[2])})", path.read_text())
    assert text != path.read_text()
    path.write_text(text)
    build_verilog(folder, tmp_path / "bench")
    fails(simulate(folder, tmp_path / "bench"))


TIE = "(rest > half || (rest == half && floor[0]))"
CLAMP = """if (value < Y_MIN) y = Y_MIN;
        else if (value > Y_MAX) y = Y_MAX;
        else y = value[8:0];"""
MUTANTS = {
    "truncated": (TIE, "1'b0"),
    "half up": (TIE, "(acc < 0 ? rest > half : rest >= half)"),
    "half away from zero": (TIE, "rest >= half"),
    "half to odd": (TIE, "(rest > half || (rest == half && !floor[0]))"),
    "not saturated": (CLAMP, "y = {value[7], value[7:0]};"),
    "not saturated below": ("if (value < Y_MIN) y = Y_MIN;\n        else if", "if"),
    "not saturated above": ("else if (value > Y_MAX) y = Y_MAX;", ""),
    "zero point before rounding": (  # the layer's is 3
        "half_even(significant, right)",
        "half_even(significant + (48'd3 << right), right) - 48'd3",
    ),
    "no zero point": ("value = value + Y_ZERO;", ""),
    "no bias": ("(start ? bias : acc)", "(start ? 32'sd0 : acc)"),
    "no first tap": ("(valid ? x * w", "(valid && !start ? x * w"),
    "no last tap": ("(valid ? x * w", "(valid && !last ? x * w"),
    "x unsigned": ("x * w", "$signed({1'b0, x[7:0]}) * w"),
    "never done": ("done <= last", "done <= 1'b0"),
    "done is X": ("done <= last", "done <= 1'bx"),
    "acc is X": ("acc <= next", "acc <= last ? 32'bx : next"),
    "y is X": ("y <= rounded", "y <= 9'bx"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_verilog_bench_finds_a_wrong_element(small, tmp_path, mutant):
    wrong = tmp_path / "pe.v"
    wrong.write_text(replaced(ELEMENT.read_text(), *MUTANTS[mutant]))
    build_verilog(small, tmp_path / "bench", wrong)
    assert "first mismatch" in fails(simulate(small, tmp_path / "bench"))


STAGE_2 = [name for name in MUTANTS if "rounding" in name or "saturated" in name]
STAGE_2 += ["truncated", "half up", "half away from zero", "half to odd", "no zero point"]


@pytest.mark.parametrize("mutant", STAGE_2)
def test_verilog_thresholds_find_a_wrong_stage_2(stepped, tmp_path, mutant):
    wrong = tmp_path / "pe.v"
    wrong.write_text(replaced(ELEMENT.read_text(), *MUTANTS[mutant]))
    if mutant == "half up":  # which this image does not show
        build_verilog(stepped, tmp_path / "bench", wrong)
        assert simulate(stepped, tmp_path / "bench").returncode == 0
    build_verilog(stepped, tmp_path / "bench", wrong, "-DTHRESHOLDS")
    assert "first mismatch" in fails(simulate(stepped, tmp_path / "bench"))


@pytest.mark.parametrize("name", ["channel", "acc", "y"])
def test_verilog_thresholds_pass_whole_alone(stepped, tmp_path, name):
    assert "warning" not in build_verilog(stepped, tmp_path / "bench", ELEMENT, "-DTHRESHOLDS")
    done = simulate(stepped, tmp_path / "bench")
    count = len((stepped / "thresholds_y.hex").read_text().split())
    assert done.returncode == 0 and done.stdout.startswith(f"PASS: {count} thresholds equal\n")
    folder = shutil.copytree(stepped, tmp_path / "layer")
    path = folder / f"thresholds_{name}.hex"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert f"{path.name}: ends before word" in fails(simulate(folder, tmp_path / "bench"))
