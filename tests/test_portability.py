"""What other processors and releases compute: the record, and the formulas that it names."""

import json
import shutil
from fractions import Fraction

import numpy as np
import pytest
from conftest import MODELS, main_of, needs

from qlinear.errors import UnusableInput
from qlinear.hardware import accumulators, additions
from qlinear.operators import qlinear_conv as qc
from study import portability

F = np.float32
RECORD = json.loads((MODELS / "portability.json").read_text())
STACKS = RECORD["stacks"]
MACHINES = {m["machine"]: m for m in STACKS["machines"]}
CASES = {case.name: case for case in portability.cases()}


def test_the_record_is_of_what_is_asked_today():
    assert list(STACKS["cases"]) == list(CASES)
    assert list(MACHINES) == [portability.HERE, *(m.name for m in portability.MACHINES)]
    assert [r["onnxruntime"] for r in STACKS["releases"]] == list(portability.RELEASES)
    for row in (*STACKS["machines"], *STACKS["releases"]):
        assert list(row["cases"]) == list(CASES)


@pytest.mark.parametrize("name", MACHINES)
def test_every_case_is_exact_by_the_reference_or_by_a_formula_that_is_named(name):
    for case, found in MACHINES[name]["cases"].items():
        assert "refused" not in found
        if found["differing"]:
            assert 0 in found["forms"].values(), case


def test_the_real_processor_is_exact():
    assert not any(c["differing"] for c in MACHINES[portability.HERE]["cases"].values())


def test_what_haswell_computes_is_what_is_stored(tmp_path):
    """Run again, of the cases, the networks and a convolution."""
    needs(shutil.which("qemu-x86_64") is not None, "qemu-x86_64")
    (tmp_path / "cases").mkdir()
    names = ["resnet8_int8", "resnet8_uint8", "resnet8_uint8.exact", "QLinearConv uint8"]
    for name in names:
        CASES[name].write(tmp_path / "cases")
    (machine,) = (m for m in portability.MACHINES if m.name == "Haswell-v1")
    results = tmp_path / "results"
    portability.emulate(machine, tmp_path / "cases", results, tmp_path)
    asked = [portability.answered(CASES[name]) for name in names]
    for one in asked:
        found = portability.compared(one, results)
        assert found == MACHINES["Haswell-v1"]["cases"][one.case.name]
    rows = portability.old_rows(results, asked)
    assert rows == {key: RECORD[key] for key in ("rows", "saturated_stem_sha256")}


def half_away(value: Fraction) -> int:
    """The nearest integer; of two, the one further from 0."""
    size = int(abs(value) + Fraction(1, 2))
    return size if value >= 0 else -size


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_arms_addition_is_the_formula_of_its_docstring(dtype):
    rng, info = np.random.default_rng(0), np.iinfo(dtype)
    seen = set()
    for _ in range(300):
        A, B = (rng.integers(info.min, info.max, 40, dtype, endpoint=True) for _ in range(2))
        za, zb, zc = (dtype(rng.integers(info.min, info.max, endpoint=True)) for _ in range(3))
        sa, sb, sc = F(rng.choice([0.25, 0.5, 1, rng.uniform(0.01, 2)], 3))
        constants = additions.neon_constants(sa, sb, sc)
        a, b, shift = constants
        assert 2**21 <= max(a, b) < 2**22
        y = additions.qlinear_add_neon(A, sa, za, B, sb, zb, sc, zc)
        for p, q, found in zip(A.tolist(), B.tolist(), y.tolist(), strict=True):
            exact = Fraction((p - int(za)) * a + (q - int(zb)) * b, 2**shift)
            seen.add(exact.denominator == 2)
            assert found == min(max(half_away(exact) + int(zc), info.min), info.max)
    assert seen == {True, False}


def test_arms_constants_end_where_the_kernel_goes_over_to_float():
    one = F(1)
    assert additions.neon_constants(F(2.0**-14), one, one) is not None
    assert additions.neon_constants(np.nextafter(F(2.0**-14), F(0)), one, one) is None
    assert additions.neon_constants(np.nextafter(F(256), F(0)), one, one) is None  # 23 bits
    assert additions.neon_constants(F(255), one, one) is not None
    assert additions.neon_constants(F(256), one, one) is None


def test_pairs_that_cannot_saturate_are_the_reference():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2, 6, 7, 5)).astype(np.uint8)
    for group, per_group in ((1, 6), (2, 3), (6, 1)):
        w = rng.integers(-64, 65, (6, per_group, 3, 3)).astype(np.int8)
        attributes = {"group": group, "pads": [1, 0, 2, 1], "strides": [2, 1]}
        constants = (F(0.1), np.uint8(7), w, F(0.1), np.int8(0), F(3), np.uint8(99), None)
        conv = qc.Conv(*constants, attributes)
        ours = qc.stages(x, conv)
        pairs = qc.stages(x, conv, accumulate=accumulators.accumulate_pairs)
        assert pairs.sums.dtype == ours.sums.dtype
        assert (pairs.sums == ours.sums).all()
        w = np.full_like(w, 127)
        conv = qc.Conv(*(w if v is constants[2] else v for v in constants), attributes)
        pairs = qc.stages(x, conv, accumulate=accumulators.accumulate_pairs)
        # a depthwise layer has a kernel of its own
        assert (pairs.sums == qc.stages(x, conv).sums).all() == (group == 6)


def test_bad_options_are_refused_before_the_work(tmp_path):
    main = main_of("portability.py")
    with pytest.raises(UnusableInput, match="--only 386: not one of here, Haswell-v1"):
        main(["--only", "386"])
    with pytest.raises(UnusableInput, match="none"):
        main(["--out", str(tmp_path / "none" / "p.json")])
    for text in ("not JSON", "[]", '{"stacks": 3}'):
        (tmp_path / "file").write_text(text)
        with pytest.raises(UnusableInput, match="not a JSON record of this script"):
            main(["--only", "here", "--out", str(tmp_path / "file")])
    with pytest.raises(UnusableInput, match=r"--root .*file: File exists"):
        main(["--root", str(tmp_path / "file"), "--out", str(tmp_path / "p.json")])


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for machine in portability.MACHINES:
        with pytest.raises(UnusableInput, match="qemu-user is missing; install it"):
            portability.emulate(machine, tmp_path, tmp_path, tmp_path)
    with pytest.raises(UnusableInput, match="cannot be fetched"):
        portability._call(["false"], "a wheel")
    with pytest.raises(UnusableInput, match="no-such-command is missing"):
        portability._call(["no-such-command"], "a wheel")
