"""qlinear diagnose: a mistake put into C, Verilog or NumPy is named; a correct dump never is blamed.

The mistakes are planted by code of their own: in the functions of ``examples/c/qlinearconv.c``, in
``examples/rtl``, and in a NumPy computation below that shares nothing with ``qlinear.mistakes``.
"""

import itertools
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import MODELS, ROOT, needs, since
from onnx import TensorProto, helper

from qlinear import cli, diagnose, dumps, mistakes, oracle
from qlinear.designs import design_of
from qlinear.errors import UnusableInput
from qlinear.inputs import Feed
from qlinear.mistakes import CATALOGUE
from qlinear.onnx_model import load
from qlinear.ort import operator_model

C_SOURCE = ROOT / "examples" / "c" / "qlinearconv.c"
RTL = ROOT / "examples" / "rtl"
BOOK = MODELS / "resnet8_int8.onnx"
NAMES = [mistake.name for mistake in CATALOGUE]


@dataclass(frozen=True)
class Layer:
    """One operator on one input, as a file and as ONNX Runtime computes it."""

    model: Path
    x: Path
    network: object
    feed: Feed
    values: dict
    given: dict  # its inputs by name

    @property
    def node(self):
        return self.network.graph.nodes[0]

    @property
    def y(self) -> np.ndarray:
        return self.values[self.node.outputs[0]]

    def diagnosis(self, dump: np.ndarray, sums: bool = False) -> diagnose.Report:
        what = str(self.node.outputs[0])
        ways = dumps.readings(np.asarray(dump), self.y.dtype, True, sums, what)
        found = [dumps.Dump(what, Path("dump"), ways)]
        return diagnose.diagnose(self.network, self.feed, found, values=self.values)


def made(folder: Path, op_type: str, inputs: dict, fed: int = 1, **attributes) -> Layer:
    folder.mkdir(parents=True)
    proto = operator_model(op_type, inputs, fed=fed, **attributes)
    types = {"B": inputs.get("A"), "x": inputs.get("y_zero_point")}
    kind = next((v for v in types.values() if v is not None), next(iter(inputs.values())))
    kind = inputs.get("y_zero_point", kind)
    y = helper.make_tensor_value_info(
        "y", helper.np_dtype_to_tensor_dtype(np.asarray(kind).dtype), None
    )
    proto.graph.output[0].CopyFrom(y)
    onnx.save(proto, folder / "model.onnx")
    feeds = {name: np.asarray(inputs[name]) for name in list(inputs)[:fed]}
    np.save(folder / "x.npy", next(iter(feeds.values())))
    model = load(folder / "model.onnx")
    network = oracle.settle(model, feeds)
    feed = Feed(feeds, "test")
    values = diagnose.ort_values(network, feed, network.graph.nodes)
    return Layer(folder / "model.onnx", folder / "x.npy", network, feed, values, inputs)


def conv_inputs(rng, x, M, kernel, group=1, **given) -> dict:
    taps = x.shape[1] // group
    w = given.pop("w", rng.integers(-127, 128, (M, taps, *kernel)).astype(np.int8))
    defaults = dict(
        x=x, x_scale=np.float32(1), x_zero_point=np.int8(-7), w=w,
        w_scale=np.full(M, 0.01, np.float32), w_zero_point=np.zeros(M, w.dtype),
        y_scale=np.float32(1), y_zero_point=np.int8(3),
        B=rng.integers(-3000, 3000, M).astype(np.int32),
    )  # fmt: skip
    return defaults | given


@pytest.fixture(scope="module")
def layers(tmp_path_factory) -> dict[str, Layer]:
    """Small layers on which, between them, every mistake shows.

    small: groups, strides, uneven padding, factors that are powers of two, so that many products
    are ties. wide: large sums and weights, zero points of -128, 3x3. dilated: dilation, and zero
    points of the weights, in uint8.
    """
    folder, rng = tmp_path_factory.mktemp("layers"), np.random.default_rng(0)
    scales = np.float32([1 / 4, 1 / 8, 1 / 512, 0.0013, 0.0021, 1 / 2])
    x = rng.integers(-128, 128, (1, 4, 8, 10)).astype(np.int8)
    w = rng.integers(-127, 128, (6, 2, 3, 2)).astype(np.int8)
    w[[0, 1, 5]] //= 50  # so that their products are often ties, and not saturated
    B = rng.integers(-3000, 3000, 6).astype(np.int32)
    B[[0, 1, 5]] //= 32
    small = conv_inputs(rng, x, 6, (3, 2), group=2, w=w, w_scale=scales, B=B)
    x = rng.integers(-128, 128, (1, 8, 12, 12)).astype(np.int8)
    wide = conv_inputs(
        rng, x, 8, (3, 3), x_zero_point=np.int8(-128), x_scale=np.float32(0.37),
        w_scale=rng.uniform(0.0005, 0.002, 8).astype(np.float32), y_scale=np.float32(0.57),
        y_zero_point=np.int8(-128), B=rng.integers(-90000, 90000, 8).astype(np.int32),
    )  # fmt: skip
    x = rng.integers(0, 256, (1, 3, 9, 9)).astype(np.uint8)
    dilated = conv_inputs(
        rng, x, 4, (2, 3), x_zero_point=np.uint8(100), y_zero_point=np.uint8(121),
        w=rng.integers(0, 256, (4, 3, 2, 3)).astype(np.uint8), w_scale=np.float32(0.011),
        w_zero_point=np.uint8(117),
    )  # fmt: skip
    dense = dict(
        a=rng.integers(-128, 128, (5, 24)).astype(np.int8), a_scale=np.float32(0.25),
        a_zero_point=np.int8(5), b=rng.integers(-127, 128, (24, 7)).astype(np.int8),
        b_scale=np.float32(0.03125), b_zero_point=np.int8(0), y_scale=np.float32(16),
        y_zero_point=np.int8(-9),
    )  # fmt: skip
    pool = dict(
        X=rng.integers(-60, 128, (2, 32, 5, 6)).astype(np.int8), x_scale=np.float32(0.75),
        x_zero_point=np.int8(-9), y_scale=np.float32(0.3125), y_zero_point=np.int8(-31),
    )  # fmt: skip
    both = rng.integers(-128, 128, (2, 1, 8, 16, 16)).astype(np.int8)
    add = dict(
        A=both[0], A_scale=np.float32(0.75), A_zero_point=np.int8(4), B=both[1],
        B_scale=np.float32(0.46875), B_zero_point=np.int8(-17), C_scale=np.float32(0.9375),
        C_zero_point=np.int8(11),
    )  # fmt: skip
    real = np.concatenate([np.arange(-400, 400) * 0.3 / 2, rng.normal(0, 20, 352)])
    quantize = dict(x=real.astype(np.float32).reshape(1, 3, 16, 24),
                    y_scale=np.float32(0.3), y_zero_point=np.int8(9))  # fmt: skip
    microsoft = dict(domain="com.microsoft")
    return {
        "small": made(folder / "small", "QLinearConv", small, group=2, pads=[1, 0, 1, 1],
                      strides=[2, 1]),
        "wide": made(folder / "wide", "QLinearConv", wide, pads=[1, 1, 1, 1]),
        "dilated": made(folder / "dilated", "QLinearConv", dilated, pads=[0, 2, 1, 2],
                        dilations=[2, 2]),
        "dense": made(folder / "dense", "QLinearMatMul", dense),
        "pool": made(folder / "pool", "QLinearGlobalAveragePool", pool, channels_last=0,
                     **microsoft),
        "add": made(folder / "add", "QLinearAdd", add, fed=4, **microsoft),
        "quantize": made(folder / "quantize", "QuantizeLinear", quantize),
    }  # fmt: skip


# --- mistakes in the functions of the C example

X_AT = "vec_x[((first + c) * H_IN + iy) * W_IN + ix]"
W_AT = "vec_w[at]"
TERM = "(vec_x[((first + c) * H_IN + iy) * W_IN + ix] - X_ZERO)"
WEIGHT = "(vec_w[at] - vec_w_zero_point[m])"
START, END, OUTSIDE = "int32_t acc = vec_bias[m];", "return acc;", "continue;"
ROUND, SHIFT = "rintf(scaled)", "const float shifted = rounded + (float)Y_ZERO;"
LOW, HIGH = "if (shifted < (float)Y_MIN)\n        return Y_MIN;", "return Y_MAX;"
HIGH_TEST = "if (shifted > (float)Y_MAX)\n        return Y_MAX;"
SCALED = "const float scaled = (float)acc * factor;"
CLAMP_16 = "acc = acc > 32767 ? 32767 : acc < -32768 ? -32768 : acc;"
WHOLE = "const float rounded = rintf(scaled);"


def integer(bits: int, how: str = "lrint") -> str:
    """A stage 2 with an integer multiplier of its own, rounded half up."""
    return (
        "int e; double part = frexp((double)factor, &e); "
        f"long long mul = (long long){how}(part * {2**bits}.0); int sh = {bits} - e; "
        "const float scaled = 0; (void)scaled; "
        "const float whole = (float)((acc * mul + (1LL << (sh - 1))) >> sh);"
    )


MULTIPLIED = (WHOLE, "const float rounded = whole;")
GEMMLOWP = (
    "const float scaled = 0; (void)scaled; const int right = vec_right_shift[m] - 31; "
    "const long long product = (long long)acc * vec_multiplier[m]; "
    "const long long upper = (product + (1LL << 30)) >> 31; "
    "const long long half = right ? 1LL << (right - 1) : 0; "
    "const float whole = (float)(upper < 0 ? -((-upper + half) >> right) "
    ": (upper + half) >> right);"
)
PAIRS = """
    int32_t acc = vec_bias[m];
    int pair = 0;
    for (int k = 0; k < TAPS; k++) {
        const int c = k / (K_H * K_W), ky = k / K_W % K_H, kx = k % K_W;
        const int iy = oy + ky - PAD_TOP, ix = ox + kx - PAD_LEFT;
        const int in = iy >= 0 && iy < H_IN && ix >= 0 && ix < W_IN;
        const int x = in ? vec_x[(c * H_IN + iy) * W_IN + ix] + 128 : X_ZERO + 128;
        pair += x * vec_w[m * TAPS + k];
        acc -= (X_ZERO + 128) * vec_w[m * TAPS + k];
        if (k % 2 || k == TAPS - 1) {
            acc += pair > 32767 ? 32767 : pair < -32768 ? -32768 : pair;
            pair = 0;
        }
    }
    return acc;
}
"""

# mistake: the layer on which it is planted, and what is changed in the example's two functions
IN_C: dict[str, tuple] = {
    "input layout": ("small", (X_AT, "vec_x[(iy * W_IN + ix) * C_IN + first + c]")),
    "input channels": ("wide", ("(first + c) *", "(first + C_IN - 1 - c) *")),
    "input type": ("small", (X_AT, f"(uint8_t){X_AT}")),
    "input byte order": ("wide", (X_AT, "vec_x[(((first + c) * H_IN + iy) * W_IN + ix) ^ 3]")),
    "input off by one element": ("small", (X_AT, "vec_x[(((first + c) * H_IN + iy) * W_IN + ix + 1)"
                                           " % (C_IN * H_IN * W_IN)]")),
    "input transposed": ("wide", (X_AT, "vec_x[((first + c) * H_IN + ix) * W_IN + iy]")),
    "kernel flipped": ("small", (W_AT, "vec_w[m * TAPS + (c * K_H + K_H - 1 - ky) * K_W + K_W - 1 "
                                 "- kx]")),
    "kernel transposed": ("wide", (W_AT, "vec_w[m * TAPS + (c * K_H + kx) * K_W + ky]")),
    "weight layout": ("small", (W_AT, "vec_w[m * TAPS + (ky * K_W + kx) * (C_IN / GROUPS) + c]")),
    "weight type": ("small", (W_AT, f"(uint8_t){W_AT}")),
    "stride ignored": ("small", ("oy * STRIDE_H", "oy"), ("ox * STRIDE_W", "ox")),
    "dilation ignored": ("dilated", ("ky * DILATION_H", "ky"), ("kx * DILATION_W", "kx")),
    "groups ignored": ("small", ("m / (C_OUT / GROUPS) * (C_IN / GROUPS)", "0 * m")),
    "padding 0": ("wide", (OUTSIDE, f"{{ acc -= X_ZERO * {WEIGHT}; continue; }}")),
    "padding with the least": ("small", (OUTSIDE, f"{{ acc += (-128 - X_ZERO) * {WEIGHT}; "
                                         "continue; }")),
    "padding off by one": ("small", ("- PAD_TOP", "- PAD_TOP + 1")),
    "padding on the other side": ("dilated", ("- PAD_TOP", "- 1")),
    "padding repeats the image": (
        "wide", ("if (iy < 0 || iy >= H_IN || ix < 0 || ix >= W_IN)\n                    continue;",
                 ""),
        (X_AT, "vec_x[((first + c) * H_IN + (iy < 0 ? 0 : iy >= H_IN ? H_IN - 1 : iy)) * W_IN + "
         "(ix < 0 ? 0 : ix >= W_IN ? W_IN - 1 : ix)]"),
    ),
    "x zero point forgotten": ("small", ("- X_ZERO", "")),
    "x zero point added": ("small", ("- X_ZERO", "+ X_ZERO")),
    "x zero point after the sum": ("small", ("- X_ZERO", ""), (END, "return acc - X_ZERO;")),
    "zero point folded, border padded with 0": (
        "small", ("- X_ZERO", ""),
        (START, f"{START} for (int i = 0; i < TAPS; i++) acc -= X_ZERO * vec_w[m * TAPS + i];"),
    ),
    "x and y zero points exchanged": ("small", ("- X_ZERO", "- Y_ZERO"),
                                      ("(float)Y_ZERO", "(float)X_ZERO")),
    "x minus its zero point in 8 bits": ("wide", (TERM, f"(int8_t){TERM}")),
    "w zero point forgotten": ("dilated", (WEIGHT, W_AT)),
    "y zero point forgotten": ("small", ("+ (float)Y_ZERO", "")),
    "y zero point subtracted": ("small", ("+ (float)Y_ZERO", "- (float)Y_ZERO")),
    "accumulator wraps": ("small", (END, "return (int16_t)acc;")),
    "accumulator saturates at the end": ("small", (END, f"{CLAMP_16} {END}")),
    "accumulator saturates at every product": (
        "small", (f"* {WEIGHT};", f"* {WEIGHT}; {CLAMP_16}")),
    "accumulator saturates after tiles": (
        "wide", ("const int iy", f"if (ky == 0 && kx == 0) {CLAMP_16} const int iy"),
        (END, f"{CLAMP_16} {END}")),
    "pairs saturate at 16 bits": ("wide", "PAIRS"),
    "accumulator drops low bits": ("small", (END, "return acc & ~15;")),
    "a product is missing": ("small", ("const int iy", "if (ky == K_H - 1) continue; const int iy")),
    "bias missing": ("small", (START, "int32_t acc = 0;")),
    "bias more than once": ("small", (START, "int32_t acc = 2 * vec_bias[m];")),
    "bias subtracted": ("small", (START, "int32_t acc = -vec_bias[m];")),
    "bias at a wrong scale": ("small", (START, "int32_t acc = vec_bias[m] >> 2;")),
    "bias in few bits": ("wide", (START, "int32_t acc = (int16_t)vec_bias[m];")),
    "bias after scaling": ("small", ("(float)acc *", "(float)(acc - vec_bias[m]) *"),
                           ("+ (float)Y_ZERO", "+ (float)Y_ZERO + (float)vec_bias[m]")),
    "bias of another channel": ("small", (START, "int32_t acc = vec_bias[(m + 1) % C_OUT];")),
    "bias byte order": ("small", (START, "int32_t acc; { const uint8_t *b = (const uint8_t *)"
                                  "&vec_bias[m]; acc = (int32_t)((uint32_t)b[0] << 24 | b[1] << 16 "
                                  "| b[2] << 8 | b[3]); }")),
    "per-tensor scale": ("small", ("&vec_factor[m]", "&vec_factor[0 * m]")),
    "scale of another channel": ("small", ("&vec_factor[m]", "&vec_factor[(m + 1) % C_OUT]")),
    "two roundings, as gemmlowp": ("small", (SCALED, GEMMLOWP), MULTIPLIED),
    "Q31 multiplier": ("small", (SCALED, integer(31)), MULTIPLIED),
    "Q15 multiplier": ("small", (SCALED, integer(15)), MULTIPLIED),
    "multiplier of few bits": ("small", (SCALED, integer(7)), MULTIPLIED),
    "multiplier cut": ("small", (SCALED, integer(9, "floor")), MULTIPLIED),
    "power-of-two factor": ("small", (SCALED, "const float scaled = (float)acc * exp2f(rintf("
                                      "log2f(factor)));"), (ROUND, "floorf(scaled + 0.5f)")),
    "one shift for all channels": (
        "small", (SCALED, "const float scaled = (float)(acc * lrint(factor * 256.0)) / 256;"),
        (ROUND, "floorf(scaled + 0.5f)")),
    "factor in 16 bits": (
        "small", (SCALED, "uint32_t b; memcpy(&b, &factor, 4); b = (b + 0x7fff + (b >> 16 & 1)) & "
                  "0xffff0000u; float short_one; memcpy(&short_one, &b, 4); "
                  "const float scaled = (float)acc * short_one;")),
    "round half up": ("small", (ROUND, "floorf(scaled + 0.5f)")),
    "round half away from zero": ("small", (ROUND, "roundf(scaled)")),
    "round half down": ("small", (ROUND, "ceilf(scaled - 0.5f)")),
    "floor": ("small", (ROUND, "floorf(scaled)")),
    "ceiling": ("small", (ROUND, "ceilf(scaled)")),
    "truncated toward zero": ("small", (ROUND, "truncf(scaled)")),
    "zero point before the rounding": ("small", (ROUND, "rintf(scaled + (float)Y_ZERO)"),
                                       (SHIFT, "const float shifted = rounded;")),
    "half away after the zero point": ("small", (ROUND, "roundf(scaled + (float)Y_ZERO)"),
                                       (SHIFT, "const float shifted = rounded;")),
    "truncated after the zero point": ("small", (ROUND, "truncf(scaled + (float)Y_ZERO)"),
                                       (SHIFT, "const float shifted = rounded;")),
    "rounded twice": ("small", (ROUND, "floorf(floorf(scaled * 4 + 0.5f) / 4 + 0.5f)")),
    "output wraps": ("small", (LOW, ""), (HIGH_TEST, "")),
    "saturates at ±127": ("small", (LOW, "if (shifted < -127) return -127;")),
    "saturates before the zero point": (
        "small", (SHIFT, "const float shifted = fminf(fmaxf(rounded, -128), 127) + (float)Y_ZERO;"),
        (LOW, ""), (HIGH_TEST, "")),
    "saturates to the other type": ("small", (LOW, "if (shifted < 0) return 0;"),
                                    (HIGH_TEST, "if (shifted > 255) return 255;")),
    "ReLU at 0": ("small", (LOW, "if (shifted < 0) return 0;")),
    "ReLU that is not there": ("small", (LOW, "if (shifted < Y_ZERO) return Y_ZERO;")),
    "ReLU missing": ("wide", (LOW, "")),
}  # fmt: skip


def patched(text: str, changes: tuple, what: str) -> str:
    for old, new in changes:
        assert text.count(old) == 1, (what, old)
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def from_c(layers, tmp_path_factory) -> dict[str, np.ndarray]:
    """What the C example computes with each of the mistakes put in; "" is the example itself."""
    needs(shutil.which("cc") is not None, "a C compiler")
    folder, found = tmp_path_factory.mktemp("c"), {}
    source = C_SOURCE.read_text()
    head, rest = source.split("/* Stage 1", 1)
    rest = re.sub(r"#if WRONG_ROUNDING.*?#else\n(.*?)#endif\n", r"\1", rest, flags=re.S)
    both = f"/* Stage 1{rest.split('int main(void)')[0]}"
    for name in ("small", "wide", "dilated"):
        layer = layers[name]
        out = folder / name
        assert cli.main(["vectors", str(layer.model), "--input", str(layer.x), "--out", str(out)]) == 0
        planted = ["", *(key for key, value in IN_C.items() if value[0] == name)]
        parts, calls = [], []
        for i, key in enumerate(planted):
            text = both
            changes = IN_C[key][1:] if key else ()
            if changes == ("PAIRS",):
                first, second = both.split("/* Stage 2", 1)
                text = f"{first.split('{')[0]}{{{PAIRS}/* Stage 2{second}"
            else:
                text = patched(text, changes, key)
            parts.append(re.sub(r"\b(accumulate|requantize)\b", rf"\1_{i}", text))
            calls.append(
                "for (int m = 0; m < C_OUT; m++) for (int y = 0; y < H_OUT; y++) "
                f"for (int x = 0; x < W_OUT; x++) putchar(requantize_{i}(accumulate_{i}(m, y, x), m)"
                " & 255);"
            )
        main = "int main(void)\n{\n" + "\n".join(calls) + "\nreturn 0;\n}\n"
        (folder / f"{name}.c").write_text("\n".join([head, *parts, main]))
        (include,) = (path for path in out.iterdir() if path.is_dir())
        command = ["cc", "-std=c99", "-O1", "-I", include, folder / f"{name}.c", "-o", folder / "a"]
        subprocess.run([*command, "-lm"], check=True, capture_output=True)
        raw = subprocess.run([folder / "a"], check=True, capture_output=True).stdout
        y = np.frombuffer(raw, layer.y.dtype).reshape(len(planted), *layer.y.shape)
        found |= {f"{name}:": y[0]} | dict(zip(planted[1:], y[1:], strict=True))
    return found


def assert_named(layer: Layer, dump: np.ndarray, name: str, sums: bool = False) -> None:
    report = layer.diagnosis(dump, sums)
    said = [(each.name, each.unexplained) for each in report.tried.explanations[:6]]
    assert report.verdict == diagnose.EXPLAINED, said
    assert name in [each.name for each in report.equal], said


def test_the_c_example_is_not_blamed(layers, from_c):
    for name in ("small", "wide", "dilated"):
        assert layers[name].diagnosis(from_c[f"{name}:"]).verdict == diagnose.EQUAL


@pytest.mark.parametrize("name", IN_C)
def test_a_mistake_in_c_is_named(layers, from_c, name):
    layer = layers[IN_C[name][0]]
    assert (from_c[name] != layer.y).any()
    assert_named(layer, from_c[name], name)


# --- in the Verilog

PE, BENCH = RTL / "qlinearconv_pe.v", RTL / "testbench.v"
NEXT = "wire signed [31:0] next = (start ? bias : acc) + (valid ? x * w : 32'sd0);"
FULL = "wire signed [31:0] full = (start ? bias : acc) + (valid ? x * w : 32'sd0);\n"
EVEN = "(rest > half || (rest == half && floor[0])) ? 48'd1 : 48'd0"
IN_VERILOG: dict[str, tuple] = {
    "": (),
    "accumulator wraps": ((NEXT, FULL + "wire signed [31:0] next = {{16{full[15]}}, full[15:0]};"),),
    "accumulator saturates at every product": (
        (NEXT, FULL + "wire signed [31:0] next = full > 32767 ? 32767 : full < -32768 ? -32768 : "
         "full;"),),
    "bias missing": (("(start ? bias : acc)", "(start ? 32'sd0 : acc)"),),
    "x minus its zero point in 8 bits": (("x * w", "$signed(x[7:0]) * w"),),
    "round half away from zero": ((EVEN, "(rest >= half) ? 48'd1 : 48'd0"),),
    "truncated toward zero": ((EVEN, "48'd0"),),
    "y zero point forgotten": (("value = value + Y_ZERO;", ""),),
    "saturates at ±127": (("if (value < Y_MIN) y = Y_MIN;", "if (value < -127) y = -127;"),),
    "output wraps": (("if (value < Y_MIN) y = Y_MIN;\n        else if (value > Y_MAX) y = Y_MAX;\n"
                      "        else y = value[8:0];", "y = value[8:0];"),),
    "padding 0": (("x = 0;\n                        else", "x = -`X_ZERO;\n else"),),
    "stride ignored": (("oy * `STRIDE_H", "oy"), ("ox * `STRIDE_W", "ox")),
    "groups ignored": (("first = (m / (`C_OUT / `GROUPS)) * (`C_IN / `GROUPS);", "first = 0;"),),
    "kernel flipped": (("wide(w_mem[m * TAPS + at]", "wide(w_mem[m * TAPS + (c * `K_H + `K_H - 1 - "
                        "ky) * `K_W + `K_W - 1 - kx]"),),
    "bias of another channel": (("            bias = bias_mem[m];", "bias = bias_mem[(m + 1) % `C_OUT];"),),
    "x zero point added": (("`X_SIGNED) - `X_ZERO", "`X_SIGNED) + `X_ZERO"),),
}  # fmt: skip


@pytest.fixture(scope="module")
def vectors_of_small(layers, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("verilog") / "vectors"
    layer = layers["small"]
    assert cli.main(["vectors", str(layer.model), "--input", str(layer.x), "--out", str(out)]) == 0
    return next(path for path in out.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", IN_VERILOG)
def test_a_mistake_in_verilog_is_named(layers, vectors_of_small, tmp_path, name):
    needs(shutil.which("iverilog") is not None, "Icarus Verilog")
    both = f"{PE.read_text()}// bench\n{BENCH.read_text()}"
    # stage 2 appears before the bench, and only the bench says what an element became
    both = re.sub(r"if \(done !== 1'b1 \|\| acc !== acc_mem\[out\]\n.*?begin\n", "$display(\"%02x\", "
                  "y[7:0]); if (0) begin\n", both, flags=re.S)  # fmt: skip
    (tmp_path / "all.v").write_text(patched(both, IN_VERILOG[name], name))
    command = ["iverilog", "-g2001", "-I", vectors_of_small, "-o", tmp_path / "bench"]
    subprocess.run([*command, tmp_path / "all.v"], check=True, capture_output=True)
    run = ["vvp", "-n", tmp_path / "bench"]
    done = subprocess.run(run, cwd=vectors_of_small, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if re.fullmatch("[0-9a-f]{2}", line)]
    (tmp_path / "dump.hex").write_text("\n".join(lines))
    layer = layers["small"]
    (raw,) = dumps.read_file(tmp_path / "dump.hex")
    values, _ = dumps.tensor_of(raw, layer.y.shape, None, None, "y")
    if not name:
        assert layer.diagnosis(values).verdict == diagnose.EQUAL
    else:
        assert_named(layer, values, name)
