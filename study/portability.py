"""Run the models and each operator by other processors' and other releases' ONNX Runtime.

    python scripts/portability.py --root DIR       # DIR keeps what is fetched and computed
    python scripts/portability.py --only Haswell-v1 --out FILE     # one machine; others are kept

Processors without VNNI, without AVX2 and of ARM64 are emulated (Debian: apt install qemu-user
debootstrap). ARM64 needs Debian packages and wheels, other releases their wheels: all are fetched
into DIR, none is installed. Writes models/portability.json: how many elements of each tensor differ
from the reference, and where an operator's do, from which other formula they do not.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from qlinear.engine import run as compute
from qlinear.errors import UnusableInput
from qlinear.files import check_file, write_text
from qlinear.hardware.accumulators import accumulate_pairs, pair_saturations
from qlinear.hardware.additions import qlinear_add_neon, qlinear_add_sse2
from qlinear.inputs import load_samples
from qlinear.onnx_model import load
from qlinear.operators import OPERATORS
from qlinear.operators import arithmetic as ar
from qlinear.operators import qlinear_conv as qc
from qlinear.operators.dynamic_quantize_linear import dynamic_quantize_linear
from qlinear.operators.matmul_integer import matmul_integer
from qlinear.operators.qlinear_add import fma
from qlinear.ort import saturates_without_vnni
from study.portability_cases import Case, Network, Operator, networks, operators
from study.provenance import recorded, sha256, stored

import onnxruntime

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
FILES = ("resnet8_int8", "resnet8_int8_per_channel", "mobilenet_int8_per_channel", "resnet8_uint8")
WORKER = ROOT / "study" / "run_cases.py"
RELEASES = (
    "1.18.1", "1.19.2", "1.20.1", "1.21.1", "1.22.1", "1.23.2", "1.24.4", "1.25.1", "1.26.0",
    "1.27.0", "1.28.0", "1.29.0", "1.30.0", "1.31.0",
)  # fmt: skip
OLD_NUMPY = "1.26.4"  # for releases before 1.19
ARM_TAGS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


@dataclass(frozen=True)
class Machine:
    """A processor, real or emulated."""

    name: str
    title: str
    features: tuple[str, ...]
    qemu: str = ""  # its -cpu, where it is emulated
    part: str = ""  # an ARM core's number, which ONNX Runtime reads


_ARM = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_DOT = f"{_ARM} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
MACHINES = (
    Machine("Haswell-v1", "x86-64 with AVX2, without VNNI", ("avx2", "fma"), "Haswell-v1"),
    Machine("SandyBridge-v1", "x86-64 with AVX, without AVX2", ("avx",), "SandyBridge-v1"),
    Machine("Nehalem-v1", "x86-64 without AVX", ("sse4_2",), "Nehalem-v1"),
    Machine("cortex-a53", "ARM64", ("asimd",), "cortex-a53", "0xd03"),
    Machine(
        "neoverse-n1", "ARM64 with dot products", ("asimd", "asimddp"), "neoverse-n1", "0xd0c"
    ),
    Machine(
        "max", "ARM64 with dot products and int8 matrix products", ("asimd", "asimddp", "i8mm"),
        "max,sve=off,sme=off", "0xd4f",
    ),
)  # fmt: skip
HERE = "here"


# --- running


def cases() -> list[Case]:
    """All that is asked, in the order in which it is recorded."""
    x = load_samples()[0][:4].astype(np.float32)
    return [*networks(MODELS, x), *operators(MODELS)]


def run(
    command: list[str], env: dict[str, str], asked: Path, results: Path, name: str
) -> dict[str, str]:
    """Run the cases in a folder by another Python; returns the versions that it has.

    Raises:
        UnusableInput: it fails; the message ends in its last line.
    """
    results.mkdir(parents=True, exist_ok=True)
    given = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", **env}
    work = subprocess.Popen(
        [*command, str(WORKER), str(asked), str(results)],
        env=given, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    total = len(list(asked.glob("*.onnx")))
    first = work.stdout.readline()
    for _ in tqdm(work.stdout, name, total=total, unit="case"):
        pass
    errors = work.stderr.read().strip().splitlines()
    if work.wait() or not first:
        raise UnusableInput(f"{name}: the run failed ({(errors or ['no message'])[-1]})")
    return json.loads(first)


def emulate(machine: Machine, asked: Path, results: Path, root: Path) -> dict[str, str]:
    """:func:`run` on an emulated processor."""
    arm = bool(machine.part)
    qemu = shutil.which("qemu-aarch64" if arm else "qemu-x86_64")
    if qemu is None:
        raise UnusableInput("qemu-user is missing; install it (Debian: apt install qemu-user)")
    if not arm:
        # BLAS picks its kernels by the real processor otherwise
        env = {"PYTHONPATH": sysconfig.get_paths()["purelib"]}
        env["OPENBLAS_CORETYPE"] = machine.name.removesuffix("-v1")
        command = [qemu, "-cpu", machine.qemu, str(Path(sys.executable).resolve())]
        return run(command, env, asked, results, machine.name)
    folder, site = arm_root(root)
    known = (_DOT + " i8mm bf16") if "i8mm" in machine.features else _DOT
    known = known if "asimddp" in machine.features else _ARM
    # ONNX Runtime reads it, and ends where it is of another processor
    (folder / "proc" / "cpuinfo").write_text(
        f"processor\t: 0\nBogoMIPS\t: 100.00\nFeatures\t: {known}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {machine.part}\n"
        "CPU revision\t: 0\n\n"
    )
    command = [qemu, "-cpu", machine.qemu, "-L", str(folder), "-E", f"PYTHONPATH={site}"]
    command.append(str(folder / "usr" / "bin" / "python3.11"))
    return run(command, {}, asked, results, machine.name)


# --- fetching


def _call(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise UnusableInput(f"{command[0]} is missing; install it for {what}") from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no message"]
        raise UnusableInput(f"{what} cannot be fetched ({lines[-1]}); is there a network?")


def unpacked(root: Path, package: str, version: str, *options: str, tag: str = "") -> Path:
    """The folder of one wheel, fetched and unpacked where it is not there yet."""
    folder = root / "wheels" / f"{package}-{version}{tag}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=root) as there:
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", there]
            what = f"{package} {version}"
            _call([*pip, "--only-binary=:all:", *options, f"{package}=={version}"], what)
            (wheel,) = Path(there).glob("*.whl")
            zipfile.ZipFile(wheel).extractall(Path(there) / "open")
            folder.parent.mkdir(exist_ok=True)
            os.replace(Path(there) / "open", folder)
    return folder


def arm_root(root: Path) -> tuple[Path, str]:
    """A Debian of ARM64 that is never started, and the path of its Python packages."""
    folder = root / "arm64"
    if not (folder / "usr" / "bin" / "python3.11").exists():
        shutil.rmtree(folder, ignore_errors=True)
        names = "python3,libgomp1,libstdc++6"
        options = ["--foreign", "--arch=arm64", "--variant=minbase", f"--include={names}"]
        _call(["debootstrap", *options, "bookworm", str(folder)], "Debian for ARM64")
        for package in sorted((folder / "var" / "cache" / "apt" / "archives").glob("*.deb")):
            _call(["dpkg-deb", "-x", str(package), str(folder)], package.name)
        (folder / "proc").mkdir(exist_ok=True)
    tags = [part for tag in ARM_TAGS for part in ("--platform", tag)]
    options = (*tags, "--python-version", "3.11")
    versions = {"numpy": np.__version__, "onnxruntime": onnxruntime.__version__}
    sites = [unpacked(root, p, v, *options, tag="-arm64") for p, v in versions.items()]
    return folder, os.pathsep.join(map(str, sites))


def release(version: str, asked: Path, results: Path, root: Path) -> dict[str, str]:
    """:func:`run` on this machine by another release."""
    sites = [unpacked(root, "onnxruntime", version)]
    if tuple(map(int, version.split("."))) < (1, 19):
        sites.append(unpacked(root, "numpy", OLD_NUMPY))
    env = {"PYTHONPATH": os.pathsep.join(map(str, sites))}
    versions = run([sys.executable], env, asked, results, version)
    if versions["onnxruntime"] != version:
        raise UnusableInput(f"asked for onnxruntime {version}, ran {versions['onnxruntime']}")
    return versions


# --- the other formulas


def pairs_matmul(A: np.ndarray, B: np.ndarray, a_zero: np.ndarray) -> np.ndarray:
    """MatMulInteger of uint8 (M, K) and int8 (K, N) by pairs saturated at 16 bits."""
    sums = pair_saturations(A.T, B.T)[1].T
    return (sums - int(a_zero) * B.sum(axis=0, dtype=np.int64)).astype(np.int32)


def pairs_conv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, B, **attributes):
    """QLinearConv by pairs saturated at 16 bits."""
    conv = qc.Conv(x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, B, attributes)
    return qc.stages(x, conv, accumulate=accumulate_pairs).y


def pairs_qgemm(A, a_scale, a_zero, B, b_scale, b_zero, C, y_scale, y_zero, *, transB=0):
    """QGemm by pairs saturated at 16 bits."""
    acc = pairs_matmul(A, B.T if transB else B, a_zero) + C
    return ar.requantize(acc, ar.requantization_scale(a_scale, b_scale, y_scale), y_zero)


def pairs_qlinear_matmul(A, a_scale, a_zero, B, b_scale, b_zero, y_scale, y_zero):
    """QLinearMatMul by pairs saturated at 16 bits."""
    return pairs_qgemm(A, a_scale, a_zero, B, b_scale, b_zero, np.int32(0), y_scale, y_zero)


def pairs_to_float(A, B, a_scale, b_scale, a_zero, b_zero, bias):
    """MatMulIntegerToFloat by pairs saturated at 16 bits."""
    return pairs_matmul(A, B, a_zero).astype(np.float32) * (a_scale * b_scale) + bias


def fused_to_float(A, B, a_scale, b_scale, a_zero, b_zero, bias):
    """MatMulIntegerToFloat with the bias added in the same rounding as the product."""
    return fma(matmul_integer(A, B, a_zero, b_zero), a_scale * b_scale, bias)


def dynamic(to_float: Callable) -> Callable:
    """DynamicQuantizeMatMul by one of the two above."""

    def function(A, B, b_scale, b_zero, bias):
        q, scale, zero = dynamic_quantize_linear(A)
        return to_float(q, B, scale, b_scale, zero, b_zero, bias)

    return function


PAIRS, FUSED = "pairs saturated at 16 bits", "product and bias rounded once"
FORMS: dict[str, dict[str, Callable]] = {
    "QLinearAdd": {
        "float32, nothing fused (SSE2)": qlinear_add_sse2,
        "integers, ties away from zero (NEON)": qlinear_add_neon,
    },
    "QLinearConv": {PAIRS: pairs_conv},
    "MatMulInteger": {PAIRS: lambda A, B, a_zero, b_zero: pairs_matmul(A, B, a_zero)},
    "QGemm": {PAIRS: pairs_qgemm},
    "QLinearMatMul": {PAIRS: pairs_qlinear_matmul},
    "MatMulIntegerToFloat": {PAIRS: pairs_to_float, FUSED: fused_to_float},
    "DynamicQuantizeMatMul": {PAIRS: dynamic(pairs_to_float), FUSED: dynamic(fused_to_float)},
}

# the operators of a uint8 network on x86 with AVX2, without VNNI
WITHOUT_VNNI = OPERATORS | {
    ("", "QLinearConv"): pairs_conv,
    ("com.microsoft", "QGemm"): pairs_qgemm,
}


def forms_of(case: Operator) -> Iterator[tuple[str, Callable]]:
    """The other formulas that a case can be held against."""
    first = case.sets[0]
    kinds = [np.asarray(first.get(name)).dtype for name in ("x", "w" if "w" in first else "B")]
    for name, function in FORMS.get(case.op_type, {}).items():
        # float inputs are quantized to uint8
        if name == PAIRS and (kinds[0] == np.int8 or kinds[1] != np.int8):
            continue
        yield name, function


# --- comparing


@dataclass(frozen=True)
class Asked:
    """A case, what the reference gives, and what the other formulas do."""

    case: Case
    ours: dict[str, np.ndarray]
    forms: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def answered(case: Case) -> Asked:
    """A case with the reference's answer."""
    if isinstance(case, Operator):
        forms = {name: case.by(function) for name, function in forms_of(case)}
    else:
        model = load(case.path)
        uint8 = saturates_without_vnni(model)
        forms = {PAIRS: compute(model, case.x, WITHOUT_VNNI)} if uint8 else {}
    return Asked(case, case.ours(), forms)


def differing(ours: np.ndarray, theirs: np.ndarray) -> int:
    """How many elements differ; all where the type or the shape does. NaN equals NaN."""
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return ours.size
    return int(((ours != theirs) & ~((ours != ours) & (theirs != theirs))).sum())


def compared(asked: Asked, results: Path) -> dict:
    """What is recorded of one case on one machine."""
    with np.load(results / f"{asked.case.name}.npz") as theirs:
        if "error" in theirs:
            return {"refused": str(theirs["error"])}
        each = {name: differing(y, theirs[name]) for name, y in asked.ours.items()}
        found: dict = {"differing": sum(each.values())}
        if not found["differing"]:
            return found
        if isinstance(asked.case, Network):
            found["tensors"] = {name: n for name, n in each.items() if n}
        wide = ((y, theirs[name].astype(np.float64)) for name, y in asked.ours.items())
        found["largest"] = float(max(np.abs(y - other).max(initial=0) for y, other in wide))
        found["forms"] = {
            form: sum(differing(values[name], theirs[name]) for name in asked.ours)
            for form, values in asked.forms.items()
        }
        return found


def old_rows(results: Path, all_asked: list[Asked]) -> dict:
    """The rows that chapters 5 and 6 quote, of Haswell."""
    rows = []
    by_name = {a.case.name: a for a in all_asked}
    for name, exact, case in (
        ("resnet8_int8", True, "resnet8_int8"), ("resnet8_int8", False, "resnet8_int8"),
        ("resnet8_uint8", True, "resnet8_uint8.exact"), ("resnet8_uint8", False, "resnet8_uint8"),
    ):  # fmt: skip
        with np.load(results / f"{case}.npz") as theirs:
            each = {n: differing(y, theirs[n]) for n, y in by_name[case].ours.items()}
            each = {"image": 0} | each  # what is fed
            rows.append({"model": name, "exact": exact, "differing": each})
    with np.load(results / "resnet8_uint8.npz") as theirs:
        stem = hashlib.sha256(theirs["stem_out_quantized"].tobytes()).hexdigest()
    return {"rows": rows, "saturated_stem_sha256": stem}


def here() -> Machine:
    """The processor that runs this."""
    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.exists():
        line = next((t for t in info.read_text().splitlines() if t.startswith("flags")), "")
        flags = set(line.split())
    has = tuple(name for name in FEATURES if name in flags)
    return Machine(HERE, f"{platform.machine()}, the real one", has)


def measure(only: list[str], root: Path, kept: dict) -> dict:
    """The whole record, of these machines and releases, or all; the others' is taken over."""
    all_cases = cases()
    everything = [answered(case) for case in tqdm(all_cases, "the reference", unit="case")]
    asked, marks = root / "cases", {}
    shutil.rmtree(asked, ignore_errors=True)
    asked.mkdir(parents=True)
    for case in all_cases:
        case.write(asked)
        parts = [(asked / f"{case.name}{end}").read_bytes() for end in (".onnx", ".npz")]
        marks[case.name] = {
            "elements": sum(y.size for a in everything if a.case is case for y in a.ours.values()),
            "sha256": sha256(b"".join(parts)),
        }
    # results are kept for as long as what is asked is the same
    digest = sha256(json.dumps(marks).encode())[:16]
    machines, releases = {}, {}
    if kept.get("stacks", {}).get("cases") == marks:
        machines = {m["machine"]: m for m in kept["stacks"]["machines"]}
        releases = {r["onnxruntime"]: r for r in kept["stacks"]["releases"]}
    old = {k: kept[k] for k in ("rows", "saturated_stem_sha256") if k in kept}

    for machine in (here(), *MACHINES):
        if only and machine.name not in only:
            continue
        results = root / "results" / digest / onnxruntime.__version__ / machine.name
        if machine.name == HERE:
            versions = run([sys.executable], {}, asked, results, HERE)
        else:
            versions = emulate(machine, asked, results, root)
        machines[machine.name] = {
            "machine": machine.name, "title": machine.title, "features": list(machine.features),
            "emulated": bool(machine.qemu), "versions": versions,
            "cases": {a.case.name: compared(a, results) for a in everything},
        }  # fmt: skip
        if machine.name == "Haswell-v1":
            old = old_rows(results, everything)
    for version in RELEASES:
        if only and version not in only:
            continue
        twice = [root / "results" / digest / version / turn for turn in ("once", "again")]
        versions, _ = (release(version, asked, results, root) for results in twice)
        rows = [{a.case.name: compared(a, results) for a in everything} for results in twice]
        for name, row in rows[0].items():
            # a kernel that reads what nobody wrote
            if row != rows[1][name]:
                row["again"] = rows[1][name]["differing"]
        releases[version] = {**versions, "features": list(here().features), "cases": rows[0]}

    x = load_samples()[0][:4]

    def source(names: tuple[str, ...], **more: str) -> dict:
        files = [MODELS / f"{name}.onnx" for name in names]
        return recorded("scripts/portability.py", files, x, note="sample images", **more)

    order = [HERE, *(m.name for m in MACHINES)]
    return {
        "recorded": source(("resnet8_int8", "resnet8_uint8"), cpu="Haswell-v1"),
        "images": len(x), **old,
        "stacks": {
            "recorded": source(FILES), "images": len(x), "cases": marks,
            "machines": [machines[name] for name in order if name in machines],
            "releases": [releases[name] for name in RELEASES if name in releases],
        },
    }  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=MODELS / "portability.json")
    parser.add_argument("--root", type=Path, help="folder for what is fetched and computed")
    known = [HERE, *(m.name for m in MACHINES), *RELEASES]
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=", ".join(known))
    args = parser.parse_args(argv)
    for name in args.only:
        if name not in known:
            raise UnusableInput(f"--only {name}: not one of {', '.join(known)}")
    check_file(args.out)
    kept = stored(args.out, "stacks") if args.only else {}
    with tempfile.TemporaryDirectory() as temporary:
        root = (args.root or Path(temporary)).absolute()
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnusableInput(f"--root {root}: {error.strerror}; name a folder") from None
        record = measure(args.only, root, kept)
    write_text(args.out, json.dumps(record, indent=1) + "\n")
    print(f"wrote {args.out}")
