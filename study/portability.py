"""Run the models by ONNX Runtime on an emulated processor without VNNI, and compare.

    python scripts/portability.py        # needs qemu-x86_64 (Debian: qemu-user) on x86-64 Linux

Writes models/portability.json: for the int8 and the uint8 model, with and without the session entry
session.x64quantprecision, how many elements of each tensor differ from the reference on 4 sample
images, and a checksum of the uint8 stem's output.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

from qlinear.engine import run
from qlinear.errors import UnusableInput
from qlinear.files import check_file, write_text
from qlinear.inputs import load_samples
from qlinear.onnx_model import load
from qlinear.ort import tensors
from study.provenance import recorded

ROOT = Path(__file__).resolve().parents[1]
CPU = "Haswell-v1"  # AVX2 and FMA3, no VNNI


def measure() -> dict:
    """What ONNX Runtime computes on the processor that runs this."""
    x = load_samples()[0][:4].astype(np.float32)
    rows, stem = [], ""
    for name in ("resnet8_int8", "resnet8_uint8"):
        model = load(ROOT / "models" / f"{name}.onnx")
        ours = run(model, x)
        for exact in (True, False):
            theirs = tensors(model, x, exact=exact)
            differ = {k: int((ours[k] != theirs[k]).sum()) for k in ours}
            rows.append({"model": name, "exact": exact, "differing": differ})
            if name == "resnet8_uint8" and not exact:
                stem = hashlib.sha256(theirs["stem_out_quantized"].tobytes()).hexdigest()
    files = [ROOT / "models" / f"{name}.onnx" for name in ("resnet8_int8", "resnet8_uint8")]
    source = recorded("scripts/portability.py", files, x, note="sample images", cpu=CPU)
    return {"recorded": source, "images": len(x), "rows": rows, "saturated_stem_sha256": stem}


def emulate() -> dict:
    """Run :func:`measure` under emulation.

    Raises:
        UnusableInput: qemu-x86_64 is missing.
    """
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        raise UnusableInput("qemu-x86_64 is missing; install it (Debian: apt install qemu-user)")
    python = Path(sys.executable).resolve()
    packages = sysconfig.get_paths()["purelib"]
    # BLAS picks its kernels by the real processor otherwise
    path = os.pathsep.join([str(ROOT), packages])
    env = {**os.environ, "PYTHONPATH": path, "OPENBLAS_CORETYPE": "Haswell"}
    command = [qemu, "-cpu", CPU, str(python), str(ROOT / "scripts" / "portability.py"), "--here"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise UnusableInput(f"the emulated run failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "models" / "portability.json")
    parser.add_argument("--here", action="store_true", help="measure this processor, print JSON")
    args = parser.parse_args(argv)
    if args.here:
        print(json.dumps(measure()))
        return
    check_file(args.out)
    write_text(args.out, json.dumps(emulate(), indent=1) + "\n")
    print(f"wrote {args.out}")
