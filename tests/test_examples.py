"""The examples in C and Verilog: they equal ONNX Runtime, and PASS is all that can pass."""

import ctypes
import json
import re
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import ROOT, needs
from onnx import TensorProto, helper

from qlinear.errors import Unsupported
from qlinear.hardware import proofs
from qlinear.hardware.requantizers import float32_parts
from qlinear.inputs import load_samples
from qlinear.onnx_model import Model
from qlinear.operators.arithmetic import requantize
from qlinear.operators.qlinear_add import qlinear_add
from qlinear.ort import operator_model, tensors

C = ROOT / "examples" / "c"
C_SOURCE = C / "qlinearconv.c"
RTL = ROOT / "examples" / "rtl"
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


def test_c_reference_takes_a_convolution_of_one_axis(tmp_path):
    """It is one of two axes with a height of 1; one of three does not compile."""
    for axes, passes in ((1, True), (3, False)):
        folder = tmp_path / str(axes)
        folder.mkdir()
        w = np.random.default_rng(0).integers(-127, 128, (3, 2, *[3] * axes)).astype(np.int8)
        inputs = dict(
            x=np.zeros((1, 4, *[6] * axes), np.int8), x_scale=np.float32(0.1),
            x_zero_point=np.int8(-7), w=w[:2], w_scale=np.float32(0.02),
            w_zero_point=np.int8(0), y_scale=np.float32(0.3), y_zero_point=np.int8(5),
        )  # fmt: skip
        pads = [1] * axes + [0] * axes
        proto = operator_model("QLinearConv", inputs, group=2, pads=pads, strides=[2] * axes)
        y = helper.make_tensor_value_info("y", TensorProto.INT8, [None] * (axes + 2))
        proto.graph.output[0].CopyFrom(y)
        onnx.save(proto, folder / "model.onnx")
        command = [sys.executable, "-m", "qlinear", "vectors", folder / "model.onnx"]
        command += ["--out", folder / "vectors", "--thresholds"]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        place = next(path for path in (folder / "vectors").iterdir() if path.is_dir())
        if passes:
            assert run_c(place, tmp_path / "check", "-DTHRESHOLDS").stdout.startswith("PASS")
        else:
            assert build_c(place, tmp_path / "check").returncode != 0


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


# --- the whole network in C

EXPORT = ROOT / "scripts" / "export_c.py"
STRICT = "-std=c99 -Wall -Wextra -Werror -pedantic".split()
CORTEX_M4 = "-Os -mcpu=cortex-m4 -mthumb -mfloat-abi=soft".split()
IMAGES, VALUES = 20, 2_356_680
PASSED = f"PASS: {IMAGES} images, {VALUES} values equal\n"


def export(model: str, out: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, EXPORT, ROOT / "models" / f"{model}.onnx", "--out", out]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """The header and the tensors of the book's network; only to be read."""
    out = tmp_path_factory.mktemp("exported") / "resnet8_int8"
    assert export("resnet8_int8", out).returncode == 0
    return out


def compile_c(program: Path, folder: Path, *options, cc="cc", sources=("resnet8", "resnet8_check")):
    """``sources`` are names in examples/c, or paths."""
    needs(shutil.which(cc) is not None, cc)
    files = [C / f"{source}.c" if isinstance(source, str) else source for source in sources]
    command = [cc, *STRICT, *options, "-I", folder, "-I", C, *files, "-o", program]
    return subprocess.run(command, capture_output=True, text=True)


def network(program: Path, folder: Path, *options, **more) -> Path:
    built = compile_c(program, folder, *options, **more)
    assert built.returncode == 0, built.stderr
    return program


def check_network(program: Path, file: Path) -> subprocess.CompletedProcess:
    return subprocess.run([program, file], capture_output=True, text=True)


@pytest.fixture(scope="module")
def checker(exported, tmp_path_factory) -> Path:
    """The program, which stops at whatever C leaves undefined and at every access out of bounds."""
    program = tmp_path_factory.mktemp("network") / "check"
    sanitize = ["-fsanitize=undefined,address", "-fno-sanitize-recover=all"]
    return network(program, exported, "-O1", *sanitize)


def test_c_network_equals_onnxruntime_on_every_tensor(exported, checker, model):
    done = check_network(checker, exported / "resnet8.bin")
    assert (done.returncode, done.stdout, done.stderr) == (0, PASSED, "")
    # what the file holds is ONNX Runtime's: every tensor but the two that move or convert alone
    images = load_samples()[0]
    stored = (exported / "resnet8.bin").read_bytes()
    assert int.from_bytes(stored[:4], "little") == len(images) == IMAGES
    left_out = {"Flatten", "DequantizeLinear"}
    names = [node.outputs[0] for node in model.nodes if node.op_type not in left_out]
    assert len(names) == len(model.nodes) - 2
    found = tensors(model, images.astype(np.float32))
    rows = [images.reshape(IMAGES, -1).view(np.int8)]
    rows += [found[name].reshape(IMAGES, -1) for name in names]
    expected = np.concatenate(rows, axis=1)
    assert expected.size == VALUES + images.size
    assert (np.frombuffer(stored[4:], np.int8).reshape(IMAGES, -1) == expected).all()


@pytest.mark.parametrize("name", ["resnet8_int8_per_tensor", "resnet8_int8_per_channel"])
def test_c_network_computes_the_other_models(tmp_path, name):
    assert export(name, tmp_path / "model").returncode == 0
    program = network(tmp_path / "check", tmp_path / "model", "-O2")
    assert check_network(program, tmp_path / "model" / "resnet8.bin").stdout == PASSED


@pytest.mark.parametrize("name", ["resnet8_uint8", "resnet8"])
def test_c_export_refuses_what_the_c_program_does_not_compute(tmp_path, name):
    done = export(name, tmp_path / "model")
    assert done.returncode == 2 and "the C example needs int8" in done.stderr
    assert not (tmp_path / "model").exists()


def test_c_export_refuses_what_has_no_exact_form(model):
    script, one = runpy.run_path(str(EXPORT)), np.float32([0.75])
    (node, *_) = model.of_type("QLinearAdd")
    halves = {
        f"{k}_scale": np.float32(scale) for k, scale in zip("ABC", (0.5, 0.5, 1), strict=True)
    }
    zeros = {f"{k}_zero_point": np.int8(0) for k in "ABC"}
    with pytest.raises(Unsupported, match="no fixed-point form"):  # it has ties, both ways
        script["addition"](node, halves | zeros)
    assert script["factors"](node, one, 2**24) == ["{12582912, 24}"]
    with pytest.raises(Unsupported, match=r"at most 2\*\*24"):
        script["factors"](node, one, 2**24 + 1)
    for factor in (np.float32([1]), np.float32([2.0**-41])):
        with pytest.raises(Unsupported, match="factors between"):
            script["factors"](node, factor, 1)


def test_c_network_by_the_commands_of_its_page(exported, tmp_path):
    """And the export is the same, byte for byte, each time."""
    page = (ROOT / "examples" / "README.md").read_text()
    commands = re.findall(r"^```\n(python scripts/export_c.py.*?)^```", page, re.M | re.S)
    text = re.sub(r"\bbuild\b", str(tmp_path / "again"), "".join(commands))
    text = text.replace("python ", f"{sys.executable} ")
    done = subprocess.run(["bash", "-ec", text], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.endswith(PASSED), done.stderr
    for name in ("resnet8_model.h", "resnet8.bin"):
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes()


def undefined(nm: str, file: Path) -> set[str]:
    """What an object file takes from elsewhere."""
    done = subprocess.run([nm, "-u", file], capture_output=True, text=True, check=True)
    return set(done.stdout.split()) - {"U"}


def with_a_float(tmp_path: Path) -> Path:
    """The network with one product of two floats in it."""
    changed = tmp_path / "float.c"
    text = replaced((C / "resnet8.c").read_text(), "x[i] + op->y_zero_point",
                    "(int32_t)((float)x[i] * 0.5f) + op->y_zero_point")  # fmt: skip
    changed.write_text(text)
    return changed


def test_c_network_needs_no_float_and_no_library(exported, tmp_path):
    program = tmp_path / "resnet8.o"
    options = ["-c", "-O2", "-mgeneral-regs-only"]  # no register that could hold a float
    network(program, exported, *options, sources=["resnet8"])
    assert undefined("nm", program) == {"resnet8_tensor"}
    done = subprocess.run(["size", program], capture_output=True, text=True, check=True)
    bss = done.stdout.splitlines()[1].split()[2]
    assert int(bss) == 3 * 16 * 32 * 32  # the three buffers are all the memory that it writes
    built = compile_c(program, exported, *options, sources=[with_a_float(tmp_path)])
    assert built.returncode != 0


def test_the_numbers_on_the_page_of_the_c_network(exported):
    header = (exported / "resnet8_model.h").read_text()
    page = re.sub(r"\s+", " ", (ROOT / "examples" / "README.md").read_text())
    macs = weights = 0
    requantized = int(re.search(r'"pool_quant", (\d+)', header)[1])
    for sizes in re.findall(r"^QLINEAR_CONV\(\w+, (.*)\);$", header, re.M):
        c_in, _, _, c_out, h_out, w_out, k_h, k_w, *_ = map(int, sizes.split(", "))
        outputs, taps = c_out * h_out * w_out, c_in * k_h * k_w
        macs, weights = macs + outputs * taps, weights + c_out * taps
        requantized += outputs
    additions = re.findall(r"struct qlinear_add \w+ = {[^,]*, (\d+), .*, (\d+)};", header)
    sizes, shifts = zip(*((int(size), int(shift)) for size, shift in additions), strict=True)
    assert f"takes {macs:,} multiply-accumulates, {requantized:,} requantizations" in page
    assert f"requantizations and {sum(sizes):,} additions" in page
    assert f"fewest fractional bits ({min(shifts)} to {max(shifts)})" in page
    assert f"{3 * 16 * 32 * 32:,} bytes of buffers" in page and f"({weights:,} are weights)" in page
    assert PASSED.strip() in page


def test_c_network_on_a_cortex_m4(exported, tmp_path):
    """Without an operating system and without a floating-point unit, on an emulated board."""
    cc, qemu = "arm-none-eabi-gcc", "qemu-system-arm"
    needs(shutil.which(qemu) is not None, qemu)
    link = ["--specs=rdimon.specs", "-Wl,--section-start=.vectors=0"]
    sources = ("resnet8", "resnet8_check", "cortex_m4")
    network(tmp_path / "c.elf", exported, *CORTEX_M4, *link, cc=cc, sources=sources)
    shutil.copy(exported / "resnet8.bin", tmp_path)
    (tmp_path / "short.bin").write_bytes((tmp_path / "resnet8.bin").read_bytes()[:200_000])
    for file, status, said in (("resnet8.bin", 0, PASSED), ("short.bin", 1, "ends early")):
        semihosting = f"enable=on,target=native,arg=check,arg={file}"
        command = [qemu, "-M", "mps2-an386", "-display", "none"]
        command += ["-semihosting-config", semihosting, "-kernel", "c.elf"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == status, done.stderr
        assert said in done.stdout and ("PASS" in done.stdout) == (status == 0)
    # floats would be calls, as this processor has no instructions for them
    outside = {}
    for source in ("resnet8", with_a_float(tmp_path)):
        network(tmp_path / "n.o", exported, "-c", *CORTEX_M4, cc=cc, sources=[source])
        outside[source] = undefined("arm-none-eabi-nm", tmp_path / "n.o") - {"resnet8_tensor"}
    floats = re.compile(r"__aeabi_(f|d(?!iv)|u?[il]2[fd])")
    assert not any(map(floats.match, outside.pop("resnet8")))
    assert any(map(floats.match, *outside.values()))


def test_c_network_fails_without_its_data(exported, checker, tmp_path):
    stored = (exported / "resnet8.bin").read_bytes()
    size = (len(stored) - 4) // IMAGES
    none, one = stored[:4], bytes([1, 0, 0, 0]) + stored[4 : 4 + size]
    for data, said in (
        (b"", "ends early"),
        (none[:3], "ends early"),
        (bytes(4), "holds no image"),
        (none, "ends early"),
        (stored[: 4 + IMAGES * size // 2], "ends early"),
        (one[:-1], "ends early"),
        (one + b"\0", "goes on"),
        (one[:-1] + bytes([one[-1] ^ 1]), "a value differs"),
    ):
        (tmp_path / "changed.bin").write_bytes(data)
        assert said in fails(check_network(checker, tmp_path / "changed.bin"))
    assert "name a file" in fails(check_network(checker, tmp_path / "absent.bin"))
    assert "name a file" in fails(subprocess.run([checker], capture_output=True, text=True))


def next_integer(text: str, pattern: str, add: int) -> str:
    """The text with ``add`` added to the integer that follows the pattern."""
    (found,) = re.finditer(rf"{pattern}(-?\d+)", text)
    return f"{text[: found.start(1)]}{int(found[1]) + add}{text[found.end(1) :]}"


CONSTANTS = {  # how the header writes each, and what to add to it
    "image_QuantizeLinear": (r'"image_QuantizeLinear", 3072, ', 1),
    "stem_quant": (r"stem_quant_w\[.*\n +", 1),
    "block1_conv1_quant": (r"block1_conv1_quant_bias\[.*\n +", 1),
    "block1_conv2_quant": (r"block1_conv2_quant_factor\[16\] = {\n +{", 1000),
    "block1_add_quant": (r'"block1_add_quant", 16384, ', 1),
    "block2_conv1_quant": (r"block2_conv1_quant_factor\[32\] = {\n +{\d+, ", 1),
    "block2_shortcut_quant": (r"QLINEAR_CONV\(block2_shortcut_quant, (?:\d+, ){12}", 1),
    "block2_conv2_quant": (r"QLINEAR_CONV\(block2_conv2_quant, (?:\d+, ){12}-128, ", 1),
    "block2_add_quant": (r'"block2_add_quant", 8192, \d+, ', 1),
    "block3_conv1_quant": (r"QLINEAR_CONV\(block3_conv1_quant, (?:\d+, ){10}", 1),
    "block3_shortcut_quant": (r"QLINEAR_CONV\(block3_shortcut_quant, (?:\d+, ){8}", -1),
    "block3_conv2_quant": (r"block3_conv2_quant_w\[.*\n +", 1),
    "block3_add_quant": (r'"block3_add_quant", 4096, \d+, \d+, ', 2000),
    "pool_quant": (r'"pool_quant", 64, 64, -128, ', 1),
    "dense_quant": (r"dense_quant_bias\[.*\n +", 100),
}


@pytest.mark.parametrize("tensor", CONSTANTS)
def test_c_network_finds_one_altered_constant(exported, tmp_path, tensor):
    text = (exported / "resnet8_model.h").read_text()
    (tmp_path / "resnet8_model.h").write_text(next_integer(text, *CONSTANTS[tensor]))
    program = network(tmp_path / "check", tmp_path, "-O1")
    said = fails(check_network(program, exported / "resnet8.bin"))
    assert re.match(rf"first mismatch in image \d+, {tensor}, element \d+: ", said)


@pytest.mark.parametrize("what", ["w", "bias", "factor"])
@pytest.mark.parametrize("more", [-1, 1])
def test_c_network_does_not_compile_with_an_array_of_another_length(exported, tmp_path, what, more):
    text = (exported / "resnet8_model.h").read_text()
    other = re.sub(rf"( stem_quant_{what}\[)(\d+)", lambda m: f"{m[1]}{int(m[2]) + more}", text)
    (tmp_path / "resnet8_model.h").write_text(other)
    built = compile_c(tmp_path / "check", tmp_path)
    assert built.returncode != 0 and f"stem_quant_{what}_has_another_size" in built.stderr


def test_c_network_does_not_compile_with_a_header_that_ends_early(exported, tmp_path):
    text = (exported / "resnet8_model.h").read_text()
    (tmp_path / "resnet8_model.h").write_text(text[: text.index("static const struct qlinear_add")])
    assert compile_c(tmp_path / "check", tmp_path).returncode != 0


# The network's images do not reach every accumulator, so its parts are asked alone.


class Factor(ctypes.Structure):
    _fields_ = (("mantissa", ctypes.c_uint32), ("shift", ctypes.c_int))


def parts(folder: Path, tmp_path: Path, source: Path = C / "resnet8.c") -> ctypes.CDLL:
    """The functions and constants of resnet8.c, none of them hidden, as a library."""
    tensor = tmp_path / "tensor.c"
    tensor.write_text(
        '#include "resnet8.h"\nvoid resnet8_tensor(const char *name, const int8_t *values, '
        "int count)\n{\n    (void)name, (void)values, (void)count;\n}\n"
    )
    options = ["-O2", "-shared", "-fPIC", "-Dstatic="]
    library = ctypes.CDLL(
        network(tmp_path / "parts.so", folder, *options, sources=[source, tensor])
    )
    library.requantize.argtypes = [ctypes.c_int32, Factor, ctypes.c_int8]
    library.requantize.restype = ctypes.c_int8
    return library


def wrongly_requantized(library: ctypes.CDLL, model: Model) -> int:
    """At how many of the accumulators beside thresholds C's outputs are not the reference's.

    Both never decrease as the accumulator grows: equal at every threshold and one below it, they
    are equal on every accumulator that any input can cause.
    """
    asked = wrong = 0
    for node in model.of_type("QLinearConv"):
        conv = model.conv(node)
        low, high = conv.accumulator_range()
        way = partial(requantize, scale=conv.factor, y_zero_point=conv.y_zero_point)
        edges = proofs.thresholds(way, low, high)
        acc = np.concatenate([edges, edges - 1, low[:, None], high[:, None]], axis=1)
        acc = acc.clip(low[:, None], high[:, None]).astype(np.int32)
        expected = way(acc[None])[0]
        for m, parts_ in enumerate(zip(*float32_parts(conv.factor), strict=True)):
            values, at = np.unique(acc[m], return_index=True)
            factor, zero = Factor(*map(int, parts_)), int(conv.y_zero_point)
            found = [library.requantize(value, factor, zero) for value in values.tolist()]
            wrong += int((found != expected[m, at]).sum())
            asked += len(values)
    assert asked > 80_000
    return wrong


def wrongly_added(library: ctypes.CDLL, model: Model) -> int:
    """On how many of all pairs of inputs C's three additions are not the reference's."""
    every = np.arange(-128, 128).astype(np.int8)
    A, B = np.repeat(every, 256), np.tile(every, 256)
    wrong = 0
    for node, size in zip(model.of_type("QLinearAdd"), (16384, 8192, 4096), strict=True):
        op, found = ctypes.c_char.in_dll(library, node.name), np.empty_like(A)
        for start in range(0, A.size, size):
            at = [array[start:].ctypes.data_as(ctypes.c_void_p) for array in (A, B, found)]
            library.qlinear_add(ctypes.byref(op), *at)
        p = model.arguments(node)
        inputs = [p[f"{k}_{what}"] for k in "ABC" for what in ("scale", "zero_point")]
        wrong += int((found != qlinear_add(A, *inputs[:2], B, *inputs[2:])).sum())
    return wrong


def test_c_parts_are_exact_on_all_that_they_can_be_given(exported, tmp_path, model):
    library = parts(exported, tmp_path)
    assert wrongly_requantized(library, model) == 0
    assert wrongly_added(library, model) == 0


HALF = "(rest > half || (rest == half && floor % 2 == 1))"
WRONG_PARTS = {
    "truncated": (HALF, "0 * (rest + half)"),
    "half up": (HALF, "(rest >= half)"),
    "rounded once": ("dropped++;", "break;"),
    "first rounding truncated": ("round_half_even(product, dropped)", "(product >> dropped)"),
    "not saturated": ("value < -128 ? -128 : value > 127 ? 127 : value", "value"),
    "sign lost": ("(acc < 0 ? -magnitude : magnitude)", "magnitude"),
}


@pytest.mark.parametrize("wrong", WRONG_PARTS)
def test_wrong_c_requantization_is_found(exported, tmp_path, model, wrong):
    source = tmp_path / "wrong.c"
    source.write_text(replaced((C / "resnet8.c").read_text(), *WRONG_PARTS[wrong]))
    assert wrongly_requantized(parts(exported, tmp_path, source), model) > 0


# --- Verilog


def build_verilog(folder: Path, program: Path, *options: str, rtl: Path = RTL) -> str:
    """Compile the bench with the sizes of a layer; returns what the compiler said."""
    needs(shutil.which("iverilog") is not None, "Icarus Verilog")
    command = ["iverilog", "-g2012", "-Wall", *options, "-I", folder, "-s", "testbench"]
    sources = [*sorted(rtl.glob("*.sv")), RTL / "testbench.v"]
    built = subprocess.run([*command, "-o", program, *sources], capture_output=True, text=True)
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


ROUND = "rest[25] && (floor[0] || rest[24:0] != 0)"
CLAMP = "value < 27'(Y_MIN) ? 9'(Y_MIN) : value > 27'(Y_MAX) ? 9'(Y_MAX) : value[8:0]"
STAGE_1 = {
    "no bias": ("(first ? bias : acc)", "(first ? '0 : acc)"),
    "no first tap": ("(first ? bias : acc) + product", "(first ? bias : acc + product)"),
    "no last tap": (": acc) + product", ": acc) + (last ? 0 : product)"),
    "x unsigned": ("ACC'(x)", "ACC'({1'b0, x[7:0]})"),
    "never done": ("acc_valid <= in_valid && last", "acc_valid <= 1'b0"),
    "done is X": ("acc_valid <= in_valid && last", "acc_valid <= 1'bx"),
    "acc is X": ("(first ? bias : acc)", "(last ? 'x : first ? bias : acc)"),
}
STAGE_2 = {
    "truncated": (ROUND, "1'b0"),
    "half up": (ROUND, "rest[25] && (!negative_3 || rest[24:0] != 0)"),
    "half away from zero": (ROUND, "rest[25]"),
    # as half to even does where an odd zero point is added before
    "half to odd": (ROUND, "rest[25] && (!floor[0] || rest[24:0] != 0)"),
    "not saturated": (CLAMP, "{value[7], value[7:0]}"),
    "not saturated below": ("value < 27'(Y_MIN) ? 9'(Y_MIN) : ", ""),
    "not saturated above": ("value > 27'(Y_MAX) ? 9'(Y_MAX) : ", ""),
    "no zero point": (" + 27'(y_zero_point)", ""),
}
MADE = {  # what no threshold can find, since it is no other staircase
    "y is X": (CLAMP, "'x"),
    "y is never there": ("<= {valid, acc_valid}", "<= {1'b0, valid[2:1], acc_valid}"),
}
MUTANTS = {name: ("qlinearconv_pe.sv", *change) for name, change in STAGE_1.items()}
MUTANTS |= {name: ("requantizer.sv", *change) for name, change in (STAGE_2 | MADE).items()}


def changed(tmp_path: Path, file: str, old: str, new: str) -> Path:
    """The folder of the blocks with one change."""
    rtl = tmp_path / "rtl"
    rtl.mkdir()
    for path in RTL.glob("*.sv"):
        text = path.read_text()
        (rtl / path.name).write_text(replaced(text, old, new) if path.name == file else text)
    return rtl


@pytest.mark.parametrize("mutant", MUTANTS)
def test_verilog_bench_finds_a_wrong_element(small, tmp_path, mutant):
    build_verilog(small, tmp_path / "bench", rtl=changed(tmp_path, *MUTANTS[mutant]))
    assert "first mismatch" in fails(simulate(small, tmp_path / "bench"))


@pytest.mark.parametrize("mutant", STAGE_2)
def test_verilog_thresholds_find_a_wrong_stage_2(stepped, tmp_path, mutant):
    rtl = changed(tmp_path, *MUTANTS[mutant])
    if mutant == "half up":  # which this image does not show
        build_verilog(stepped, tmp_path / "bench", rtl=rtl)
        assert simulate(stepped, tmp_path / "bench").returncode == 0
    build_verilog(stepped, tmp_path / "bench", "-DTHRESHOLDS", rtl=rtl)
    assert "first mismatch" in fails(simulate(stepped, tmp_path / "bench"))


@pytest.mark.parametrize("name", ["channel", "acc", "y"])
def test_verilog_thresholds_pass_whole_alone(stepped, tmp_path, name):
    assert "warning" not in build_verilog(stepped, tmp_path / "bench", "-DTHRESHOLDS")
    done = simulate(stepped, tmp_path / "bench")
    count = len((stepped / "thresholds_y.hex").read_text().split())
    assert done.returncode == 0 and done.stdout.startswith(f"PASS: {count} thresholds equal\n")
    folder = shutil.copytree(stepped, tmp_path / "layer")
    path = folder / f"thresholds_{name}.hex"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert f"{path.name}: ends before word" in fails(simulate(folder, tmp_path / "bench"))
