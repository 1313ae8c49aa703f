"""Conventions of requantization: known answers, plain Python, and every accumulator of a layer."""

import csv
import io
import json
import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import onnx
import pytest
from conftest import MODELS, needs
from test_bad_input import conv_model, refused
from test_scripts import write_batches

from qlinear import cli, edges
from qlinear.conventions import CONVENTIONS, differing, require_factor
from qlinear.engine import run
from qlinear.errors import UnusableInput
from qlinear.hardware import proofs, variants
from qlinear.inputs import load_samples
from qlinear.operators import arithmetic as ar
from qlinear.operators.qlinear_conv import Conv
from study import conventions as study
from study import quantize, runtimes

BOOK = MODELS / "resnet8_int8.onnx"
RECORDED = json.loads((MODELS / "conventions.json").read_text())
RUNTIMES = json.loads((MODELS / "runtimes.json").read_text())
F = np.float32


def one_channel(acc: int, factor, zero, name: str) -> int:
    """A convention's output for one accumulator."""
    convention = CONVENTIONS[name]
    constants = convention.encode(np.atleast_1d(factor), zero)
    y = convention.requantize(np.array([[[acc]]], np.int32), **constants, y_zero_point=zero)
    return int(y[0, 0, 0])


# --- known answers: those of the runtimes and sources themselves, on channels of the book's network

# of channel 0 of block3_shortcut: factor 0x3b634dae, in float64 a little less
CONSTANTS = {
    "onnxruntime": {"multiplier": 0x3B634DAE},
    "gemmlowp": {"multiplier": 1906759424, "shift": 8},
    "tflite": {"multiplier": 1906759312, "shift": -8},
    "tflite-optimized": {"multiplier": 1906759312, "shift": -8},
    "tflite-single": {"multiplier": 1906759312, "shift": -8},
    "cmsis-nn": {"multiplier": 1906759312, "shift": -8},
    "cmsis-nn-single": {"multiplier": 1906759312, "shift": -8},
    "cmsis-nn-s16": {"multiplier": 29095, "shift": -8},
    "xnnpack-fp32": {"multiplier": 0x3B634DAE},
    "xnnpack-rndnu": {"multiplier": 14896558, "shift": 32},
    "xnnpack-rndnu16": {"multiplier": 29095, "shift": -8},
    "qnnpack": {"multiplier": 1906759424, "shift": 8},
    "pytorch-qnnpack": {"multiplier": 0x3B634DAD},
    "fbgemm": {"multiplier": 0x3B634DAE},
    "fbgemm-fixed": {"multiplier": 1906759424, "shift": 39},
    "nvdla": {"offset": -5478, "multiplier": 29095, "shift": 23},
    "finn": {"thresholds": -42238},
}
# five accumulators that tell all conventions apart that are not one function
ANSWERS = {
    ("stem_quant", 0, 143_712):
        (-42, -41, -41, -41, -41, -41, -41, -42, -42, -42, -42, -41, -42, -42, -42, -42, -41),
    ("block2_shortcut_quant", 6, -56_438):
        (-1, -1, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, -1, -1, 0, 0, 0),
    ("stem_quant", 14, 124_833):
        (30, 30, 31, 31, 30, 31, 30, 31, 30, 30, 31, 30, 30, 30, 30, 31, 30),
    ("block2_shortcut_quant", 22, -147_992):
        (-127, -128, -128, -127, -128, -128, -128, -128, -127, -128, -127, -128, -128, -127, -128,
         -128, -127),
    ("stem_quant", 0, 2_492):
        (-127, -126, -126, -126, -127, -126, -127, -127, -127, -127, -127, -126, -127, -127, -127,
         -126, -127),
}  # fmt: skip
ONE_FUNCTION = [  # on this network; the rest differ from one another
    {"onnxruntime", "xnnpack-fp32", "fbgemm"},
    {"gemmlowp", "qnnpack"},
    {"tflite", "cmsis-nn"},
    {"tflite-single", "cmsis-nn-single"},
    {"xnnpack-rndnu", "fbgemm-fixed"},
]


def test_what_to_program_is_what_the_runtimes_do(model):
    conv = model.conv(model.node("block3_shortcut_quant"))
    assert list(CONSTANTS) == list(CONVENTIONS)
    for name, wanted in CONSTANTS.items():
        made = CONVENTIONS[name].program(conv)
        first = {
            k: int((v.view(np.uint32) if v.dtype == F else v)[0].flat[0]) for k, v in made.items()
        }
        assert first == wanted, name
        assert list(made) == list(CONVENTIONS[name].constants), name


def test_outputs_are_those_of_the_runtimes(model):
    signatures = dict.fromkeys(CONVENTIONS, ())
    for (node, m, acc), wanted in ANSWERS.items():
        conv = model.conv(model.node(node))
        for name, y in zip(CONVENTIONS, wanted, strict=True):
            found = CONVENTIONS[name].of_layer(conv)(np.full((1, len(conv.w), 1), acc, np.int32))
            assert found[0, m, 0] == y, (name, node, m, acc)
            signatures[name] += (y,)
    groups = {}
    for name, outputs in signatures.items():
        groups.setdefault(outputs, set()).add(name)
    assert [g for g in groups.values() if len(g) > 1] == ONE_FUNCTION


# --- each rule again, in Python's integers and fractions


def nearest(value: Fraction, ties: str) -> int:
    """To the nearest integer; ties up, away from zero, or to even."""
    below = floor(value)
    if value - below != Fraction(1, 2):
        return floor(value + Fraction(1, 2))
    return {"up": below + 1, "away": below + (value > 0), "even": below + below % 2}[ties]


def two(acc: int, factor: Fraction, bits: int, ties: str) -> Fraction | int:
    """Rounded after the upper half of the product is taken, and again."""
    return nearest(Fraction(nearest(acc * factor * 2**bits, "up"), 2**bits), ties)


def exponent(factor: float) -> int:
    return int(np.frexp(factor)[1])


def with_bits(factor: float, bits: int) -> Fraction:
    """A factor rounded to so many bits, ties up."""
    scale = Fraction(2) ** (bits - exponent(factor))
    return Fraction(nearest(Fraction(factor) * scale, "up")) / scale


def by_16_bits(acc: int, factor: float) -> int:
    shifted = nearest(acc * Fraction(2) ** exponent(factor), "up")
    multiplier = with_bits(factor, 15) * Fraction(2) ** -exponent(factor)
    return nearest(max(min(shifted, 2**15 - 1), -(2**15)) * multiplier, "up")


def by_offset(acc: int, factor: float, zero: int) -> int:
    multiplier = with_bits(factor, 15)
    return nearest((acc - nearest(-zero / multiplier, "even")) * multiplier, "away") - zero


RULES = {
    "gemmlowp": lambda acc, f, z: two(acc, Fraction(f), -exponent(f), "away"),
    "tflite": lambda acc, f, z: two(acc, with_bits(f, 31), -exponent(f), "away"),
    "tflite-optimized": lambda acc, f, z: two(acc, with_bits(f, 31), -exponent(f), "up"),
    "tflite-single": lambda acc, f, z: nearest(acc * with_bits(f, 31), "up"),
    "cmsis-nn": lambda acc, f, z: two(acc, with_bits(f, 31), -exponent(f), "away"),
    "cmsis-nn-single": lambda acc, f, z: nearest(acc * with_bits(f, 31), "up"),
    "cmsis-nn-s16": lambda acc, f, z: nearest(acc * with_bits(f, 15), "up"),
    "xnnpack-rndnu": lambda acc, f, z: nearest(acc * Fraction(f), "up"),
    "xnnpack-rndnu16": lambda acc, f, z: by_16_bits(acc, f),
    "qnnpack": lambda acc, f, z: two(acc, Fraction(f), -exponent(f), "away"),
    "fbgemm-fixed": lambda acc, f, z: nearest(acc * Fraction(f), "up"),
    "nvdla": by_offset,
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_in_plain_integers(name):
    rng = np.random.default_rng(0)
    factors = [5 / 64, 1 / 512, *np.exp(rng.uniform(-12, -0.7, 40)).astype(F).tolist()]
    for factor in factors:
        zero = int(rng.integers(-128, 128))
        near = [int((k + 0.5) / factor) + d for k in range(-3, 4) for d in (-1, 0, 1)]
        for acc in (*near, *rng.integers(-(2**21), 2**21, 10).tolist()):
            wanted = max(min(RULES[name](acc, factor, zero) + zero, 127), -128)
            given = np.float64(factor) if "tflite" in name or "cmsis" in name else F(factor)
            assert one_channel(acc, given, np.int8(zero), name) == wanted, (factor, acc, zero)


@pytest.mark.parametrize("name", ["onnxruntime", "xnnpack-fp32", "fbgemm", "pytorch-qnnpack"])
def test_float_conventions_are_the_float32_chain(name):
    acc = np.arange(-300, 300, dtype=np.int32)[None, None]
    constants = CONVENTIONS[name].encode(F([0.37]), np.int8(3))
    y = CONVENTIONS[name].requantize(acc, **constants, y_zero_point=np.int8(3))
    assert (y == np.clip(np.rint(acc.astype(F) * F(0.37)) + 3, -128, 127)).all()


def test_thresholds_of_a_factor():
    # (k - 1/2) / factor, exact here: 4 k - 2
    for zero in (np.int8(-128), np.int8(7), np.uint8(0), np.uint8(130)):
        low = np.iinfo(zero.dtype).min
        made = CONVENTIONS["finn"].encode(F([0.25]), zero)
        k = np.arange(low + 1, low + 256) - int(zero)
        assert (made["thresholds"][0] == 4 * k - 2).all()
        acc = np.arange(-2000, 2000, dtype=np.int32)[None, None]
        y = CONVENTIONS["finn"].requantize(acc, **made, y_zero_point=zero)
        wanted = np.floor(acc / 4 + 0.5) + int(zero)
        assert y.dtype == zero.dtype and (y == np.clip(wanted, low, low + 255)).all()


def test_factors_of_one_and_more():
    """A shift to the left, where there is one; else a line that names the channel."""
    for factor in (1.0, 1.5, 3.25):
        for name in ("tflite", "tflite-single", "cmsis-nn", "fbgemm-fixed", "xnnpack-rndnu",
                     "nvdla", "cmsis-nn-s16", "xnnpack-rndnu16"):  # fmt: skip
            for acc in (-9, -1, 0, 3, 22):
                # whatever is rounded first is a whole number here, so each form rounds once
                wanted = nearest(Fraction(factor) * acc, "away" if name == "nvdla" else "up")
                assert one_channel(acc, F(factor), np.int8(0), name) == wanted, (name, factor, acc)
    for name in ("gemmlowp", "qnnpack"):
        with pytest.raises(UnusableInput, match="channel 1 has the factor 1"):
            CONVENTIONS[name].encode(F([0.5, 1]), np.int8(0))


@pytest.mark.parametrize("bad", [np.inf, np.nan, 2.0**31, -1.0])
def test_factors_that_no_constant_holds(bad):
    for name, convention in CONVENTIONS.items():
        if convention.encode is CONVENTIONS["onnxruntime"].encode:
            continue  # a float32 is any factor; a layer with this one is refused before
        with pytest.raises(UnusableInput, match="channel 1 has the factor"):
            convention.encode(np.array([0.5, bad]), np.int8(0)), name
    require_factor(F([0.25, 0.5]), 0.25, 1)


def test_a_tiny_factor_gives_the_zero_point():
    assert one_channel(2**21, 2.0**-33, np.int8(5), "tflite") == 5
    made = CONVENTIONS["tflite"].encode(np.array([2.0**-33, 2.0**-32]), np.int8(5))
    assert made["multiplier"].tolist() == [0, 1 << 30]
    assert made["shift"].tolist() == [0, -31]


def test_a_multiplier_that_rounds_to_the_next_power_of_two():
    factor = np.array([1 - 2.0**-40])
    made = CONVENTIONS["cmsis-nn"].encode(factor, np.int8(0))
    assert (made["multiplier"].item(), made["shift"].item()) == (1 << 30, 1)
    made = CONVENTIONS["cmsis-nn-s16"].encode(np.array([1 - 2.0**-20]), np.int8(0))
    assert (made["multiplier"].item(), made["shift"].item()) == (0x7FFF, 0)
    made = CONVENTIONS["xnnpack-rndnu16"].encode(F([1 - 2.0**-20]), np.int8(0))
    assert (made["multiplier"].item(), made["shift"].item()) == (1 << 14, 1)


def test_the_factor_is_computed_as_its_users_do():
    scales = F(0.1), F(0.3), F(0.01)
    x, w, y = (Fraction(float(s)) for s in scales)
    single = F(F(0.1) * F(0.3)) / F(0.01)
    assert CONVENTIONS["qnnpack"].factor(*scales) == single
    double = CONVENTIONS["tflite"].factor(*scales)
    assert abs(Fraction(float(double)) / (x * w / y) - 1) < Fraction(1, 2**51)
    inverse = F(F(0.3) * F(0.1)) * F(F(1) / F(0.01))
    assert CONVENTIONS["pytorch-qnnpack"].factor(*scales) == inverse != single


# --- every accumulator of the network


def test_the_recorded_counts_are_counted_again(model):
    exact = study.thresholds(model, "onnxruntime")
    for name, row in RECORDED["conventions"].items():
        assert study.counted(model, study.thresholds(model, name), exact) == row["differing"]
        again = study.counted(model, study.thresholds(model, name, float32=True), exact)
        assert again == row["differing_float32"]
    totals = {
        name: sum(count for node, (count, _) in row["differing"].items() if node != "dense_quant")
        for name, row in RECORDED["conventions"].items()
    }
    # chapter 7 counts these three in another way
    assert totals["gemmlowp"] == 62_701
    assert (totals["tflite-single"], totals["xnnpack-rndnu"]) == (123, 149)
    assert [n for n, t in totals.items() if not t] == ["onnxruntime", "xnnpack-fp32", "fbgemm"]
    convs = {n: v for n, v in RECORDED["possible"].items() if n != "dense_quant"}
    assert sum(convs.values()) == 417_333_336


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_layer_one_accumulator_after_the_other(model, name):
    """Never decreasing, which the counts between thresholds rest on; and the count itself."""
    conv = model.conv(model.node("block2_shortcut_quant"))
    low, high = conv.accumulator_range()
    stage_2 = CONVENTIONS[name].of_layer(conv)
    acc = np.arange(low.min(), high.max() + 1, dtype=np.int32)
    channels = [0, 6, 22]
    rows = np.broadcast_to(acc, (1, len(conv.w), len(acc)))[:, channels]
    narrow = Conv(
        conv.x_scale, conv.x_zero_point, conv.w[channels], conv.w_scale[channels],
        np.zeros(3, np.int8), conv.y_scale, conv.y_zero_point, conv.bias[channels],
    )  # fmt: skip
    y = CONVENTIONS[name].of_layer(narrow)(rows)[0].astype(int)
    assert (np.diff(y) >= 0).all()
    wanted = ar.requantize(rows, narrow.factor, narrow.y_zero_point)[0]
    inside = (acc >= low[channels, None]) & (acc <= high[channels, None])
    one = proofs.thresholds(stage_2, low, high)
    other = proofs.thresholds(CONVENTIONS["onnxruntime"].of_layer(conv), low, high)
    counts = differing(one, other, low, high)[channels]
    assert counts.tolist() == ((y != wanted) & inside).sum(axis=1).tolist()


def test_accumulators_two_levels_apart_count_once():
    low, high = np.array([0]), np.array([99])
    one = np.full((1, 255), 100)
    other = one.copy()
    one[0, :3], other[0, :3] = [10, 20, 30], [15, 40, 45]
    # differ in 10 to 14, in 20 to 39 and 30 to 44
    assert differing(one, other, low, high).tolist() == [5 + 25]
    assert differing(other, one, low, high).tolist() == [5 + 25]
    one[0, 3] = 90  # the other never reaches the level
    assert differing(one, other, low, high).tolist() == [5 + 25 + 10]


def test_the_record_belongs_to_the_model_and_says_what_was_measured(model):
    rows = RECORDED["conventions"]
    assert list(rows) == list(CONVENTIONS)
    for record in (RECORDED, RUNTIMES):
        digest = study.recorded("", [BOOK])["models"]
        assert record["recorded"]["models"] == digest
    assert RECORDED["recorded"]["data"]["images"] == 10_000
    exact = json.loads((MODELS / "accuracy.json").read_text())
    accuracy = next(m["accuracy"] for m in exact["models"] if m["model"] == quantize.MIXED)
    for group in ONE_FUNCTION:
        assert len({(rows[n]["accuracy"], rows[n]["labels_changed"]) for n in group}) == 1
    assert (rows["fbgemm"]["accuracy"], rows["fbgemm"]["labels_changed"]) == (accuracy, 0)


def test_the_runtimes_were_equal_to_their_conventions():
    assert RUNTIMES["found"] == runtimes.FOUND
    for kernel, name in RUNTIMES["found"].items():
        counts = RUNTIMES["differing"][kernel]
        assert counts[name] == 0
        same = next((g for g in ONE_FUNCTION if name in g), {name}) | {"onnxruntime by itself"}
        assert all(count for other, count in counts.items() if other not in same), kernel
    # every accumulator on which two functions part lies beside a threshold of one of them
    reference = RUNTIMES["differing"]["LiteRT, reference kernels"]
    convs = RECORDED["conventions"]["tflite"]["differing"]
    total = sum(count for node, (count, _) in convs.items() if node != "dense_quant")
    assert reference["onnxruntime by itself"] == reference["onnxruntime"] == total


def test_the_study_on_a_few_images(tmp_path):
    write_batches(tmp_path / "cifar-10-batches-py", 4)
    out = tmp_path / "conventions.json"
    study.main(["--data-dir", str(tmp_path), "--models", str(MODELS), "--out", str(out),
                "--images", "4"])  # fmt: skip
    found = json.loads(out.read_text())
    assert found["recorded"]["data"]["images"] == 4
    for name, row in found["conventions"].items():
        assert row["accuracy"] in (0, 0.25, 0.5, 0.75, 1)
        for key in ("differing", "differing_float32"):
            assert row[key] == RECORDED["conventions"][name][key]
    assert found["conventions"]["fbgemm"]["labels_changed"] == 0
    with pytest.raises(UnusableInput, match="--images is 0"):
        study.main(["--data-dir", str(tmp_path), "--images", "0"])


def test_accumulators_are_asked_as_products(model):
    conv = model.conv(model.node("stem_quant"))
    channel, acc = runtimes.asked(conv)
    x, w = runtimes.products(acc)
    assert (w @ x == acc).all() and np.abs(w).max() < 128 and x.max() < 128
    with pytest.raises(UnusableInput, match="does not fit"):
        runtimes.products(np.array([1 << 22]))
    by_ort = edges.requantized_by_ort(edges.of_conv(conv), channel, acc.astype(np.int32))
    assert (runtimes.one_by_one(conv, channel, acc, "onnxruntime") == by_ort).all()
    assert (runtimes.one_by_one(conv, channel, acc, "tflite") != by_ort).sum() == 2007


def test_the_network_by_a_convention(model):
    pixels = load_samples()[0][:2].astype(F)
    exact = run(model, pixels)
    for name, same in (("fbgemm", True), ("tflite", False)):
        table = variants.operators_with(
            stage_2=lambda acc, conv, c=CONVENTIONS[name]: c.of_layer(conv)(acc)
        )
        found = run(model, pixels, table)
        assert all((found[k] == exact[k]).all() for k in exact) == same


# --- vectors


def test_vectors_of_another_stage_2(model):
    node = model.node("stem_quant")
    conv, of = model.conv(node), edges.of_conv(model.conv(node))
    stage_2 = CONVENTIONS["tflite"].of_layer(conv)
    found = edges.threshold_accumulators(of, stage_2)
    alone = edges.threshold_accumulators(of)
    for m in range(3):
        mine, theirs = found["channel"] == m, alone["channel"] == m
        assert set(alone["acc"][theirs]) <= set(found["acc"][mine])
        acc = np.arange(of.low[m], of.high[m] + 1, dtype=np.int32)
        rows = np.broadcast_to(acc, (1, 16, len(acc)))
        # between neighbours neither steps, so both are known everywhere
        at = np.searchsorted(found["acc"][mine], acc, "right") - 1
        assert (found["other"][mine][at] == stage_2(rows)[0, m]).all()
        assert (found["y"][mine][at] == of(rows)[0, m]).all()


# --- the command


def printed(capsys, *args) -> str:
    assert cli.main(["multipliers", str(BOOK), *map(str, args)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_command_prints_what_to_program(capsys, model, name):
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "--convention", name, "--csv"))))
    found = json.loads(printed(capsys, "--convention", name, "--json"))
    assert found["convention"] == name and found["source"]["url"].startswith("https://")
    assert len(rows) == sum(len(layer["factor"]) for layer in found["layers"]) == 346
    text = printed(capsys, "--convention", name)
    assert CONVENTIONS[name].sentence in text and text.count("\n") > 346
    for layer in found["layers"]:
        conv = edges.layer(model, model.node(layer["layer"]))
        mine = [row for row in rows if row["layer"] == layer["layer"]]
        assert [int(row["channel"]) for row in mine] == list(range(len(conv.w)))
        bits = [f"0x{b:08x}" for b in conv.factor.view(np.uint32)]
        assert layer["factor"] == bits == [row["factor"] for row in mine]
        for key, values in CONVENTIONS[name].program(conv).items():
            if values.dtype == F:
                wanted = [f"0x{b:08x}" for b in values.view(np.uint32)]
            else:
                wanted = values.tolist()
            assert layer[key] == wanted
            cells = [" ".join(map(str, v)) if isinstance(v, list) else str(v) for v in wanted]
            assert [row[key] for row in mine] == cells


def test_the_command_encodes_the_float32_factor_on_request(capsys, model):
    args = "--convention", "cmsis-nn", "--node", "block3_shortcut_quant", "--json"
    (own,) = json.loads(printed(capsys, *args))["layers"]
    (other,) = json.loads(printed(capsys, *args, "--factor", "float32"))["layers"]
    assert own["factor"] == other["factor"]
    # 24 bits of 31
    assert all(m % 128 == 0 for m in other["multiplier"])
    assert other["multiplier"][0] == 1906759424 != own["multiplier"][0]


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_c_header_holds_the_same_numbers(tmp_path, capsys, name):
    needs(shutil.which("cc") is not None, "a C compiler")
    (tmp_path / "m.h").write_text(printed(capsys, "--convention", name, "--c"))
    found = json.loads(printed(capsys, "--convention", name, "--json"))["layers"][0]
    key = next(iter(CONVENTIONS[name].constants))
    bits = isinstance(found[key][0], str)
    array = f"L01_stem_quant_{key}{'_bits' * bits}"
    (tmp_path / "m.c").write_text(
        f'#include <stdio.h>\n#include "m.h"\nint main(void) {{\n'
        f" for (unsigned i = 0; i < sizeof {array} / sizeof *{array}; i++)\n"
        f'  printf("%lld\\n", (long long){array}[i]);\n return 0;\n}}\n'
    )
    flags = ["-std=c99", "-Wall", "-Werror", "-Wno-unused-const-variable", "-Wno-unused-variable"]
    subprocess.run(["cc", *flags, "m.c", "-o", "m"], cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "m"], capture_output=True, text=True, check=True).stdout
    wanted = [int(v, 16) for v in found[key]] if bits else np.ravel(found[key]).tolist()
    assert list(map(int, said.split())) == wanted


def test_the_command_writes_vectors(tmp_path, capsys, model):
    out = tmp_path / "steps.npz"
    said = printed(capsys, "--convention", "cmsis-nn", "--vectors", out)
    assert said == f"wrote {out}: 60 arrays of 10 layers\n"
    with np.load(out) as arrays:
        acc, channel = arrays["01_stem_quant/acc"], arrays["01_stem_quant/channel"]
        y, exact = arrays["01_stem_quant/y"], arrays["01_stem_quant/onnxruntime"]
        conv = model.conv(model.node("stem_quant"))
        assert (y == runtimes.one_by_one(conv, channel, acc, "cmsis-nn")).all()
        assert (exact == runtimes.one_by_one(conv, channel, acc, "onnxruntime")).all()
        assert (y != exact).any()
        made = CONVENTIONS["cmsis-nn"].program(conv)
        assert (arrays["01_stem_quant/multiplier"] == made["multiplier"]).all()


def test_the_command_refuses_in_one_line(tmp_path):
    assert "no convention 'tfl'; there are onnxruntime, " in refused(
        "multipliers", BOOK, "--convention", "tfl"
    )
    assert "no node named 'x'" in refused("multipliers", BOOK, "--node", "x")
    said = refused("multipliers", BOOK, "--node", "pool_quant")
    assert "node pool_quant is a com.microsoft.QLinearGlobalAveragePool: needed is a QL" in said
    said = refused("multipliers", MODELS / "resnet8.onnx")
    assert "nothing to program: ONNX Runtime runs Add, Conv, Flatten" in said
    said = refused("multipliers", MODELS / "resnet8_uint8.onnx", "--convention", "nvdla")
    assert "node stem_quant: nvdla: y is uint8" in said
    path = conv_model(tmp_path / "big.onnx", x_scale=F(1e3))
    said = refused("multipliers", path, "--convention", "qnnpack")
    assert "node conv: qnnpack: channel 0 has the factor 50" in said
    # in steps of more than 32 bits there is no threshold to look for
    path = conv_model(
        tmp_path / "wide.onnx", x_scale=F(1), B=np.full(4, 2**31 - 1, np.int32),
        x_zero_point=np.int8(0), y_scale=F(1),
    )  # fmt: skip
    out = tmp_path / "steps.npz"
    said = refused("multipliers", path, "--vectors", out)
    assert "node conv: onnxruntime: accumulators may pass 32 bits" in said and not out.exists()
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(BOOK.read_bytes())
    assert "would replace" in refused("multipliers", copy, "--vectors", copy)
    assert copy.read_bytes() == BOOK.read_bytes()


def test_the_command_reads_qdq_and_other_dense_layers(capsys, qdq):
    assert cli.main(["multipliers", str(qdq), "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert len(layers) == 10


def test_what_has_no_constants_is_named(tmp_path, capsys):
    """A layer whose weights the graph computes is left out, and said to be."""
    path = conv_model(tmp_path / "two.onnx", layers=2)
    proto = onnx.load(path)
    proto.graph.node[1].input[3] = "computed"
    shape = onnx.helper.make_tensor_value_info("computed", onnx.TensorProto.INT8, (4, 2, 3, 3))
    proto.graph.input.append(shape)
    onnx.save(proto, path)
    assert cli.main(["multipliers", str(path), "--csv"]) == 0
    said = capsys.readouterr()
    assert said.out.count("conv,") == 4
    assert said.err == ("note: left out, for want of constants or a quantized output: conv1\n")


def test_the_library_has_one_sentence_and_one_source_for_each():
    for name, convention in CONVENTIONS.items():
        assert convention.name == name and convention.sentence.endswith(".")
        assert " " not in convention.url and convention.source
        assert replace(convention) == convention
