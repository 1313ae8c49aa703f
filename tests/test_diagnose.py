"""qlinear diagnose: a mistake put into C, Verilog or NumPy is named; a right dump is not blamed.

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
from onnx import helper

from qlinear import cli, diagnose, dumps, mistakes, oracle
from qlinear.designs import design_of, with_requantizer
from qlinear.diagnose_report import text, verdict
from qlinear.errors import UnusableInput
from qlinear.hardware import requantizers
from qlinear.inputs import Feed, load_samples
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
        A=both[0], A_scale=np.float32(0.0437), A_zero_point=np.int8(4), B=both[1],
        B_scale=np.float32(0.0313), B_zero_point=np.int8(-17), C_scale=np.float32(0.0529),
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
    "a product is missing": ("small", ("const int iy",
                                       "if (ky == K_H - 1) continue; const int iy")),
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
        assert (
            cli.main(["vectors", str(layer.model), "--input", str(layer.x), "--out", str(out)]) == 0
        )
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
                "for (int x = 0; x < W_OUT; x++) "
                f"putchar(requantize_{i}(accumulate_{i}(m, y, x), m) & 255);"
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

VERILOG = [RTL / name for name in ("qlinearconv_pe.sv", "requantizer.sv", "testbench.v")]
PRODUCT = "wire signed [ACC-1:0] product = ACC'(x) * ACC'(w);\n"
FULL = (PRODUCT, f"{PRODUCT}wire signed [ACC-1:0] full = (first ? bias : acc) + product;\n")
NEXT = "acc <= (first ? bias : acc) + product"
EVEN = "rest[25] && (floor[0] || rest[24:0] != 0)"
LEAST = "value < 27'(Y_MIN) ? 9'(Y_MIN)"
IN_VERILOG: dict[str, tuple] = {
    "": (),
    "accumulator wraps": (FULL, (NEXT, "acc <= {{(ACC-16){full[15]}}, full[15:0]}")),
    "accumulator saturates at every product": (
        FULL, (NEXT, "acc <= full > 32767 ? 32767 : full < -32768 ? -32768 : full")),
    "bias missing": (("(first ? bias : acc)", "(first ? '0 : acc)"),),
    "x minus its zero point in 8 bits": (("ACC'(x)", "ACC'($signed(x[7:0]))"),),
    "round half away from zero": ((EVEN, "rest[25]"),),
    "truncated toward zero": ((EVEN, "1'b0"),),
    "y zero point forgotten": ((" + 27'(y_zero_point)", ""),),
    "saturates at ±127": ((LEAST, "value < -127 ? -9'd127"),),
    "output wraps": ((f"{LEAST} : value > 27'(Y_MAX) ? 9'(Y_MAX) : ", ""),),
    "padding 0": ((">= `W_IN) x = 0;", ">= `W_IN) x = -`X_ZERO;"),),
    "stride ignored": (("oy * `STRIDE_H", "oy"), ("ox * `STRIDE_W", "ox")),
    "groups ignored": (("channel = (m / (`C_OUT / `GROUPS)) * (`C_IN / `GROUPS);",
                        "channel = 0;"),),
    "kernel flipped": (("wide(w_mem[m * TAPS + at]", "wide(w_mem[m * TAPS + (c * `K_H + `K_H - 1 - "
                        "ky) * `K_W + `K_W - 1 - kx]"),),
    "bias of another channel": (("            bias = bias_mem[m];",
                                 "bias = bias_mem[(m + 1) % `C_OUT];"),),
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
    both = "\n".join(path.read_text() for path in VERILOG)
    # the bench prints every element, and compares none
    compares = r"if \(there !== 1'b1 \|\| sum !== acc_mem\[out\]\n.*?begin\n"
    prints = '$display("%02x", y[7:0]); if (0) begin\n'
    both = re.sub(compares, prints, both, flags=re.S)
    (tmp_path / "all.sv").write_text(patched(both, IN_VERILOG[name], name))
    command = ["iverilog", "-g2012", "-I", vectors_of_small, "-o", tmp_path / "bench"]
    subprocess.run([*command, tmp_path / "all.sv"], check=True, capture_output=True)
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


# --- in NumPy


def acc_of(layer: Layer) -> np.ndarray:
    """A convolution's accumulators, by loops over the formula; here its weights are all in B."""
    B = layer.given["B"].astype(np.int64)
    return np.broadcast_to(B[:, None, None], layer.y.shape)


def requantized(layer: Layer, scaled: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(scaled) + int(layer.given["y_zero_point"]), -128, 127).astype(np.int8)


@pytest.fixture(scope="module")
def beside_ties(tmp_path_factory) -> Layer:
    """A layer whose sums are its biases: those at which other float operations round otherwise."""
    rng = np.random.default_rng(7)
    x, y = np.float32(0.0437), np.float32(0.313)
    w_scale, B = rng.uniform(1e-4, 1e-3, 40).astype(np.float32), np.zeros(40, np.int32)
    acc = np.arange(-400_000, 400_000)
    for m, w in enumerate(w_scale):
        right = np.rint(acc.astype(np.float32) * np.float32(np.float32(x * w) / y))
        others = list(in_other_operations(acc, x, w, y).values())
        differ = np.rint(others[m % len(others)]) != right
        hits = np.flatnonzero(differ & (np.abs(right) < 100))
        B[m] = acc[hits[0]] if len(hits) else 1000
    inputs = dict(
        x=np.zeros((1, 1, 1, 2), np.int8), x_scale=x, x_zero_point=np.int8(0),
        w=np.zeros((40, 1, 1, 1), np.int8), w_scale=w_scale, w_zero_point=np.zeros(40, np.int8),
        y_scale=y, y_zero_point=np.int8(5), B=B,
    )  # fmt: skip
    return made(tmp_path_factory.mktemp("ties") / "ties", "QLinearConv", inputs)


def in_other_operations(acc: np.ndarray, x, w, y) -> dict[str, np.ndarray]:
    one, wide = np.float32(1), np.float64
    real = acc.astype(np.float32)
    return {
        "factor in float64": acc * (wide(x) * wide(w) / wide(y)),
        "factor rounded once": real * np.float32(wide(x) * wide(w) / wide(y)),
        "factor in another order": real * (x * (w / y)),
        "dequantized, then divided": (real * (x * w)) / y,
        "factor in another order, by the reciprocal": real * ((x * w) * (one / y)),
    }


OPERATIONS = ["factor in float64", "factor rounded once", "factor in another order",
              "dequantized, then divided"]  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_other_float_operations_are_named(beside_ties, name):
    given = beside_ties.given
    w = given["w_scale"][:, None, None]
    found = in_other_operations(acc_of(beside_ties), given["x_scale"], w, given["y_scale"])
    dump = requantized(beside_ties, found[name])
    assert (dump != beside_ties.y).any()
    assert_named(beside_ties, dump, name)


def of_add(g: dict) -> dict[str, np.ndarray]:
    """Ways to add, each before its rounding half to even and without the zero point, or after."""
    A, B = g["A"].astype(np.int32), g["B"].astype(np.int32)
    sa, sb, sc = g["A_scale"], g["B_scale"], g["C_scale"]
    za, zb, zc = (int(g[f"{n}_zero_point"]) for n in "ABC")
    a, b = (A - za).astype(np.float32), (B - zb).astype(np.float32)
    whole = np.rint((a * sa) / sc) + np.rint((b * sb) / sc)
    ma, mb = (round(float(s) / float(sc) * 2**6) for s in (sa, sb))
    shifted = ((A - za) * ma + (B - zb) * mb + 32) >> 6
    real = [
        ("add: dequantize, add, quantize", (a * sa + b * sb) / sc),
        ("add: zero point after the rounding", a * (sa / sc) + b * (sb / sc)),
        ("add: in float64", (a.astype(float) * sa + b.astype(float) * sb) / float(sc)),
        ("add: each input rounded", whole),
        ("add: scales ignored", a + b),
        ("add: scales exchanged", (a * sb + b * sa) / sc),
        ("add: zero point forgotten", (A * sa + b * sb) / sc),
        ("add: one input only", (a * sa) / sc),
        ("add: integer multipliers", shifted),
    ]
    return {name: np.clip(np.rint(v) + zc, -128, 127).astype(np.int8) for name, v in real}


@pytest.fixture(scope="module")
def odd_add(tmp_path_factory) -> Layer:
    """All pairs, with scales at which sums are ties: the order of the operations shows."""
    every = np.arange(-128, 128).astype(np.int8)
    A, B = (v.reshape(1, 1, 256, 256) for v in np.meshgrid(every, every, indexing="ij"))
    add = dict(
        A=A, A_scale=np.float32(0.435), A_zero_point=np.int8(4), B=B, B_scale=np.float32(0.3045),
        B_zero_point=np.int8(-17), C_scale=np.float32(0.58), C_zero_point=np.int8(11),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("add") / "add"
    return made(folder, "QLinearAdd", add, fed=4, domain="com.microsoft")


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("add: ")])
def test_other_ways_to_add_are_named(layers, odd_add, name):
    plain = ("scales exchanged", "zero point forgotten", "one input only")  # in any float order
    layer = layers["add"] if name.endswith(plain) else odd_add
    g = layer.given
    if name == "add: no fused multiply-add":
        ra, rb = g["A_scale"] / g["C_scale"], g["B_scale"] / g["C_scale"]
        zeros = ra * np.float32(g["A_zero_point"]) + rb * np.float32(g["B_zero_point"])
        fixed = np.float32(g["C_zero_point"]) - zeros
        real = ra * g["A"].astype(np.float32) + (rb * g["B"].astype(np.float32) + fixed)
        dump = np.clip(np.rint(real), -128, 127).astype(np.int8)
    elif name == "add: TensorFlow Lite's integers":
        dump = tflite_add(g)
    else:
        dump = of_add(g)[name]
    assert (dump != layer.y).any()
    assert_named(layer, dump, name)


def tflite_add(g: dict) -> np.ndarray:
    """Plain integers: the residual add as TensorFlow Lite's reference kernel has it."""

    def parts(real: float) -> tuple[int, int]:
        shift = 0
        while real < 0.5:
            real, shift = real * 2, shift + 1
        return round(real * 2**31), shift

    def multiplied(value: int, real: float) -> int:
        multiplier, shift = parts(real)
        high = (value * multiplier + (1 << 30)) >> 31
        half = (1 << shift) >> 1
        return high if not shift else (1 if high > 0 else -1) * ((abs(high) + half) >> shift)

    sa, sb, sc = (float(g[f"{n}_scale"]) for n in "ABC")
    za, zb, zc = (int(g[f"{n}_zero_point"]) for n in "ABC")
    twice = 2 * max(sa, sb)
    first = {q: multiplied((q - za) << 20, sa / twice) for q in range(-128, 128)}
    second = {q: multiplied((q - zb) << 20, sb / twice) for q in range(-128, 128)}
    sums = [[first[a] + second[b] for b in range(-128, 128)] for a in range(-128, 128)]
    total = [[multiplied(s, twice / (2**20 * sc)) + zc for s in row] for row in sums]
    return np.clip(total, -128, 127).astype(np.int8).reshape(g["A"].shape)


def of_pool(g: dict) -> dict[str, np.ndarray]:
    x = g["X"].astype(np.int64) - int(g["x_zero_point"])
    ratio, flat = float(g["x_scale"]) / float(g["y_scale"]), x.reshape(*x.shape[:2], -1)
    mean = flat.sum(2) / 30
    real = {
        "pool: divisor": flat.sum(2) / 32 * ratio,
        "pool: mean rounded": np.floor(mean) * ratio,
        "pool: maximum": flat.max(2) * ratio,
        "pool: a pixel is missing": flat[..., :-1].sum(2) / 30 * ratio,
    }
    zero = int(g["y_zero_point"])
    return {
        name: np.clip(np.rint(value) + zero, -128, 127).astype(np.int8)[..., None, None]
        for name, value in real.items()
    }


def of_quantize(g: dict) -> dict[str, np.ndarray]:
    x, scale, zero = g["x"], g["y_scale"], int(g["y_zero_point"])
    real = {
        "multiplied by the reciprocal": x * (np.float32(1) / scale),
        "quotient in another type": x.astype(np.float16) / np.float16(scale),
        "scale left out": x,
        "pixels scaled to 0…1": (x / np.float32(255)) / scale,
        "image layout": x.transpose(0, 2, 3, 1).reshape(x.shape) / scale,
    }
    return {
        name: np.clip(np.rint(value.astype(np.float64)) + zero, -128, 127).astype(np.int8)
        for name, value in real.items()
    }


def of_finished(y: np.ndarray) -> dict[str, np.ndarray]:
    stuck = (y.view(np.uint8) | 8).view(np.int8)
    return {
        "output layout": y.transpose(0, 2, 3, 1).reshape(y.shape),
        "output transposed": y.transpose(0, 1, 3, 2),
        "output channels": y[:, ::-1],
        "output off by one element": np.append(y.ravel()[-1:], y.ravel()[:-1]).reshape(y.shape),
        "output byte order": np.frombuffer(np.ascontiguousarray(y).view(">u4").astype("<u4")
                                           .tobytes(), np.int8).reshape(y.shape),
        "output type": (y.view(np.uint8) ^ 128).view(np.int8),
        "output bit stuck": stuck,
    }  # fmt: skip


PLANTED = {
    **dict.fromkeys([n for n in NAMES if n.startswith("pool: ")], ("pool", of_pool)),
    **dict.fromkeys(["multiplied by the reciprocal", "quotient in another type", "scale left out",
                     "pixels scaled to 0…1", "image layout"], ("quantize", of_quantize)),
    **dict.fromkeys([n for n in NAMES if n.startswith("output ") and n != "output wraps"],
                    ("wide", lambda g: of_finished(g["y"]))),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_in_numpy_is_named(layers, name):
    layer, plant = layers[PLANTED[name][0]], PLANTED[name][1]
    dump = plant(layer.given | {"y": layer.y})[name]
    assert (dump != layer.y).any()
    assert_named(layer, dump, name)


def scaled_wrongly(layer: Layer, factor: np.ndarray) -> np.ndarray:
    acc = layer_acc(layer)
    return requantized(layer, acc.astype(np.float32) * factor.astype(np.float32)[:, None, None])


def layer_acc(layer: Layer) -> np.ndarray:
    """int64 accumulators of a plain 3x3 layer with padding 1, one tap at a time."""
    g = layer.given
    x = np.pad(g["x"].astype(np.int64) - int(g["x_zero_point"]), ((0, 0), (0, 0), (1, 1), (1, 1)))
    acc = np.zeros(layer.y.shape, np.int64) + g["B"][:, None, None]
    h, w = layer.y.shape[2:]
    for i, j in itertools.product(range(3), repeat=2):
        acc += np.einsum("mc,nchw->nmhw", g["w"][:, :, i, j].astype(np.int64),
                         x[:, :, i : i + h, j : j + w])  # fmt: skip
    return acc


def test_wrong_scales_are_named(layers):
    layer = layers["wide"]
    x, w, y = (layer.given[f"{n}_scale"] for n in "xwy")
    assert (scaled_wrongly(layer, (x * w) / y) == layer.y).all()
    assert_named(layer, scaled_wrongly(layer, (y * w) / x), "x and y scales exchanged")
    assert_named(layer, scaled_wrongly(layer, w / y), "a scale is left out")


def test_what_is_not_saturated_is_named(layers):
    layer = layers["wide"]
    x, w, y = (layer.given[f"{n}_scale"] for n in "xwy")
    scaled = layer_acc(layer).astype(np.float32) * ((x * w) / y)[:, None, None]
    assert_named(layer, (np.rint(scaled) - 128).astype(np.int16), "no saturation")


@since(1, 27, "refuses zero points of w that differ")
def test_zero_point_of_one_channel_is_named(tmp_path):
    rng = np.random.default_rng(3)
    x = rng.integers(0, 256, (1, 3, 6, 6)).astype(np.uint8)
    zeros = np.uint8([120, 130, 127, 90])
    given = conv_inputs(
        rng, x, 4, (3, 3), x_zero_point=np.uint8(100), y_zero_point=np.uint8(121),
        w=rng.integers(0, 256, (4, 3, 3, 3)).astype(np.uint8), w_zero_point=zeros,
        w_scale=np.float32(0.0011),
    )  # fmt: skip
    layer = made(tmp_path / "zeros", "QLinearConv", given)
    terms = np.lib.stride_tricks.sliding_window_view(x.astype(np.int64) - 100, (3, 3), (2, 3))
    w = given["w"].astype(np.int64) - 120
    acc = np.einsum("nchwij,mcij->nmhw", terms, w) + given["B"][:, None, None]
    scaled = acc.astype(np.float32) * np.float32(0.0011)
    dump = np.clip(np.rint(scaled) + 121, 0, 255).astype(np.uint8)
    assert_named(layer, dump, "w zero point of one channel")


def test_every_mistake_was_planted():
    apart = {"stale input", "w zero point of one channel", "x and y scales exchanged",
             "a scale is left out", "no saturation", "factor in float64", "factor rounded once",
             "factor in another order", "dequantized, then divided"}  # fmt: skip
    adds = {name for name in NAMES if name.startswith("add: ")}
    assert {*IN_C, *PLANTED, *adds, *apart} == set(NAMES)
    assert len(NAMES) == len(set(NAMES)) >= 40


# --- a whole network, two mistakes, flips


@pytest.fixture(scope="module")
def book() -> tuple:
    """The book's network on a sample image: what a diagnosis takes, and ONNX Runtime's tensors."""
    model = load(BOOK)
    from qlinear.inputs import read_feeds

    (feed,) = read_feeds(model)
    network = oracle.settle(model, feed.values)
    values = diagnose.ort_values(network, feed, network.graph.nodes)
    return network, feed, values


def of_book(book: tuple, tensors: dict[str, np.ndarray], sums: bool = False) -> diagnose.Report:
    network, feed, values = book
    found = []
    for name, dump in tensors.items():
        ways = dumps.readings(dump, values[name].dtype, True, sums, name)
        found.append(dumps.Dump(name, Path(name), ways))
    return diagnose.diagnose(network, feed, found, values=values)


@pytest.mark.parametrize("name", ["resnet8_int8", "resnet8_int8_per_channel", "resnet8_uint8"])
def test_a_correct_dump_is_never_blamed(tmp_path, capsys, name):
    model, out = str(MODELS / f"{name}.onnx"), tmp_path / "tensors.npz"
    assert cli.main(["run", model, "--out", str(out)]) == 0
    with np.load(out) as archive:
        written = {k: v for k, v in archive.items() if k != "image"}
    np.savez(tmp_path / "mine.npz", **written)
    capsys.readouterr()
    assert cli.main(["diagnose", model, str(tmp_path / "mine.npz")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "EQUAL: 117,908 elements of 17 tensors are ONNX Runtime's"
    page = str(tmp_path / "page.html")
    assert cli.main(["diagnose", model, str(tmp_path / "mine.npz"), "--html", page]) == 0


def test_the_first_tensor_that_differs_is_explained_and_the_rest_follows(book):
    network, _, values = book
    graph = network.graph
    wrong = dict(values)
    for node in graph.nodes[2:5]:
        y = values[node.outputs[0]]
        design = design_of(graph, node, wrong, oracle_of(network, node, wrong))
        if node.name == "block1_conv1_quant":
            y = mistakes.named("padding 0").designs(design)[""].outcome().astype(y.dtype)
        else:
            y = design.outcome().astype(y.dtype)
        wrong[node.outputs[0]] = y
    names = [n for node in graph.nodes[1:5] for n in node.outputs]
    report = of_book(book, {name: wrong[name] for name in names})
    assert report.first.node.name == "block1_conv1_quant"
    assert [t.follows for t in report.tensors] == [None, None, True, True]
    assert report.verdict == diagnose.EXPLAINED
    assert report.where[0].name.startswith("border")
    assert any("4 of the 17 tensors" in note for note in report.notes)


def oracle_of(network, node, values) -> np.ndarray:
    from qlinear import ort

    given = {n: values[n] for n in node.inputs if n in values}
    return ort.borrower(network.graph)(node, given)[node.outputs[0]]


def test_a_stale_input_is_named(book):
    network, _, values = book
    node = network.graph.node("block1_conv2_quant")
    stale = values | {node.inputs[0]: values["stem_out_quantized"]}
    report = of_book(book, {node.outputs[0]: oracle_of(network, node, stale)})
    assert [e.name for e in report.equal] == ["stale input"]
    assert report.equal[0].variant == "it reads stem_out_quantized"


TWO = [("padding 0", "floor"), ("y zero point forgotten", "truncated toward zero"),
       ("kernel flipped", "bias missing"), ("bias missing", "output layout"),
       ("input channels", "saturates to the other type")]  # fmt: skip


@pytest.mark.parametrize("pair", TWO, ids=" and ".join)
def test_two_mistakes_at_once_are_found(layers, pair):
    layer = layers["wide" if pair[0] != "y zero point forgotten" else "small"]
    design = design_of(layer.network.graph, layer.node, layer.values, layer.y)
    for name in pair:
        design = next(iter(mistakes.named(name).designs(design).values()))
    dump = design.outcome().astype(np.int8)
    report = layer.diagnosis(dump)
    assert not report.equal[0].unexplained
    assert any({m.name for m, _ in e.steps} == set(pair) or len(e.steps) == 1 for e in report.equal)


@pytest.mark.parametrize("count", [1, 5, 300])
def test_random_flips_are_called_that(book, count):
    rng = np.random.default_rng(count)
    y = book[2]["block1_conv2_out_quantized"].copy()
    at = rng.choice(y.size, count, replace=False)
    flat = y.reshape(-1).view(np.uint8)
    flat[at] ^= (1 << rng.integers(0, 8, count)).astype(np.uint8)
    report = of_book(book, {"block1_conv2_out_quantized": y})
    assert report.verdict == diagnose.FLIPS
    assert report.first.mismatches == count


def test_flips_beside_a_mistake_are_told_from_it(book):
    network, _, values = book
    node = network.graph.node("block1_conv2_quant")
    y = values[node.outputs[0]]
    design = design_of(network.graph, node, values, y)
    dump = mistakes.named("padding 0").designs(design)[""].outcome().astype(np.int8)
    dump.reshape(-1).view(np.uint8)[[4000, 9000, 12000]] ^= np.uint8([1, 16, 128])
    report = of_book(book, {node.outputs[0]: dump})
    assert (report.verdict, report.equal[0].name) == (diagnose.PARTLY, "padding 0")
    assert report.equal[0].unexplained == 3 and "each of the 3 differs in one bit" in report.chance


def test_other_values_at_random_are_called_that_too(book):
    rng = np.random.default_rng(1)
    y = book[2]["block1_conv2_out_quantized"].copy()
    at = rng.choice(y.size, 200, replace=False)
    y.reshape(-1)[at] = rng.integers(-128, 128, 200)
    assert of_book(book, {"block1_conv2_out_quantized": y}).verdict == diagnose.FLIPS


def test_what_no_mistake_explains_is_not_explained(book):
    """Off by one where a number is divisible by 7: no mistake, no chance."""
    y = book[2]["block1_conv2_out_quantized"].copy()
    y[(y % 7 == 0) & (y < 100)] += 1
    report = of_book(book, {"block1_conv2_out_quantized": y})
    assert report.verdict in (diagnose.UNEXPLAINED, diagnose.PARTLY)
    assert len(report.tried.excluded) > 20


def test_a_large_layer_is_diagnosed_as_a_small_one(layers, from_c, monkeypatch):
    """With a sample the same is found as without, and less is computed."""
    for name in ("padding 0", "floor", "accumulator saturates at every product", "kernel flipped",
                 "bias after scaling", "per-tensor scale", "stride ignored"):  # fmt: skip
        layer = layers[IN_C[name][0]]
        monkeypatch.setattr(diagnose, "SAMPLE", 7)
        with_sample = layer.diagnosis(from_c[name])
        monkeypatch.setattr(diagnose, "SAMPLE", 128)
        without = layer.diagnosis(from_c[name])
        assert [e.name for e in with_sample.equal] == [e.name for e in without.equal]
        assert with_sample.verdict == diagnose.EXPLAINED
        assert with_sample.tried.sampled > 0 and without.tried.sampled == 0
        said = "excluded means on the sample"
        assert said in " ".join(text(with_sample).split())
        assert said not in " ".join(text(without).split())
    design = design_of(layer.network.graph, layer.node, layer.values, layer.y)
    pair = mistakes.named("kernel flipped").designs(design)[""]
    pair = mistakes.named("floor").designs(pair)[""]
    monkeypatch.setattr(diagnose, "SAMPLE", 7)
    report = layer.diagnosis(pair.outcome().astype(np.int8))
    assert report.equal[0].name == "kernel flipped and floor"


# --- accumulators, and what tells apart


def test_accumulators_are_compared_with_the_form_that_fits(layers):
    layer = layers["wide"]
    acc = layer_acc(layer)
    B = layer.given["B"].astype(np.int64)[:, None, None]
    for dump, form in ((acc, "sums with the bias"), (acc - B, "sums before the bias")):
        report = layer.diagnosis(dump.astype(np.int32))
        assert report.verdict == diagnose.EQUAL
        assert [t.form for t in report.tensors[0].targets] == [form]
    broken = (acc - 2 * B).astype(np.int32)
    report = layer.diagnosis(broken)
    assert "bias subtracted" in [e.name for e in report.equal]
    g = layer.given
    x = np.pad(g["x"].astype(np.int64), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-128)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
    raw = np.einsum("nchwij,mcij->nmhw", windows, g["w"].astype(np.int64))
    report = layer.diagnosis(raw.astype(np.int32))
    assert report.verdict == diagnose.EQUAL
    assert report.tensors[0].targets[0].form.startswith("sums of the stored integers, before")
    assert "(sums of the stored integers, before zero points and bias)" in verdict(report)


def test_a_pool_and_a_dense_layer_have_accumulators_too(layers):
    g = layers["pool"].given
    sums = (g["X"].astype(np.int32) + 9).sum((2, 3), keepdims=True)
    assert layers["pool"].diagnosis(sums).verdict == diagnose.EQUAL
    g = layers["dense"].given
    acc = (g["a"].astype(np.int64) - 5) @ g["b"].astype(np.int64)
    assert layers["dense"].diagnosis(acc.astype(np.int32)).verdict == diagnose.EQUAL


def test_equal_accumulators_leave_stage_2(layers, from_c):
    layer = layers["small"]
    design = design_of(layer.network.graph, layer.node, layer.values, layer.y)
    found = []
    for dump, sums in ((from_c["floor"], False), (design.first.acc, True)):
        ways = dumps.readings(dump, layer.y.dtype, True, sums, "y")
        found.append(dumps.Dump("y", Path("dump"), ways))
    report = diagnose.diagnose(layer.network, layer.feed, found, values=layer.values)
    assert report.equal[0].name == "floor"
    assert report.first.elements == 2 * layer.y.size


def test_an_input_that_tells_equals_apart_is_named(book):
    """On this image ties are rare: what ties would tell apart is alike, but not on the corners."""
    network, _, values = book
    node = network.graph.node("block1_conv2_quant")
    y = values[node.outputs[0]]
    design = design_of(network.graph, node, values, y)
    dump = mistakes.named("floor").designs(design)[""].outcome().astype(y.dtype)
    ways = dumps.readings(dump, y.dtype, True, False, "y")
    target = diagnose.understood(dumps.Dump("y", Path("y"), ways), design, y)
    two = [
        diagnose.Explanation(((mistakes.named(name), ""),), ("",), 0, changed)
        for name in ("floor", "truncated toward zero")
        for changed in [mistakes.named(name).designs(design)[""]]
    ]
    apart = diagnose.tell_apart(design, two)
    assert "corners.npz" in apart.where and len(set(apart.gives.values())) == 2
    assert target.left(two[0].design) == 0
    padding = [
        diagnose.Explanation(((mistakes.named(name), ""),), ("",), 0, changed)
        for name in ("padding 0", "zero point folded, border padded with 0")
        for changed in [mistakes.named(name).designs(design)[""]]
    ]
    assert diagnose.tell_apart(design, padding) is None  # one function under two names


def test_the_corner_that_is_named_is_the_one_that_vectors_writes(book, tmp_path):
    network, _, values = book
    node = network.graph.node("block2_conv1_quant")
    design = design_of(network.graph, node, values, values[node.outputs[0]])
    two = [
        diagnose.Explanation(((mistakes.named(name), ""),), ("",), 0, changed)
        for name in ("floor", "ceiling")
        for changed in [mistakes.named(name).designs(design)[""]]
    ]
    apart = diagnose.tell_apart(design, two)
    acc, channel, row = (int(v.replace(",", "")) for v in re.findall(r"-?[\d,]*\d", apart.where))
    out = tmp_path / "v"
    arguments = ["vectors", str(BOOK), "--node", node.name, "--corners", "--out", str(out)]
    assert cli.main(arguments) == 0
    with np.load(next(out.glob("*/corners.npz"))) as corners:
        assert (corners["acc"][row], corners["channel"][row]) == (acc, channel)
        assert str(corners["y"][row]) == apart.gives["ONNX Runtime"]


# --- reading


def test_layouts_round_trip():
    rng = np.random.default_rng(0)
    for shape in ((1, 6, 3, 5), (2, 16, 4), (1, 3, 2, 2, 2), (4, 5), (7,)):
        values = rng.integers(-128, 128, shape)
        for layout in ("NCHW", "NHWC", "NCHW4c", "NCHW16c"):
            stored = dumps.from_nchw(values, layout)
            assert stored.shape == dumps.physical(shape, layout)
            assert (dumps.to_nchw(stored, shape, layout) == values).all()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NCHW4c", "NCHW32c"])
def test_every_format_in_every_layout(book, tmp_path, layout, capsys):
    y = book[2]["block1_conv2_out_quantized"]
    stored = np.ascontiguousarray(dumps.from_nchw(y, layout))
    flat = stored.ravel()
    files = {
        "y.npy": lambda p: np.save(p, stored),
        "flat.npy": lambda p: np.save(p, flat.astype(np.int32)),
        "y.npz": lambda p: np.savez(p, y=stored, other=np.zeros(3)),
        "y.bin": lambda p: p.write_bytes(stored.tobytes()),
        "wide.bin": lambda p: p.write_bytes(stored.astype("<i4").tobytes()),
        "y.hex": lambda p: p.write_text(
            "// y\n@0\n" + "\n".join(f"{v & 255:02x}" for v in flat.tolist())
        ),
        "wide.hex": lambda p: p.write_text("\n".join(f"{v & 0xFFFFFF:06X}" for v in flat.tolist())),
        "packed.hex": lambda p: p.write_text(
            "\n".join(bytes(row[::-1]).hex() for row in flat.view(np.uint8).reshape(-1, 8))
        ),
        "y.csv": lambda p: p.write_text("value\n" + "\n".join(map(str, flat.tolist()))),
        "bytes.csv": lambda p: p.write_text(", ".join(str(v & 255) for v in flat.tolist())),
    }
    for name, write in files.items():
        write(tmp_path / name)
        arguments = ["diagnose", str(BOOK), str(tmp_path / name), "--node", "block1_conv2"]
        if layout != "NCHW":
            arguments += ["--layout", layout]
        assert cli.main(arguments) == 0, name
    assert "the bytes of int8" in capsys.readouterr().out
    if layout != "NCHW":  # an array's own shape says it
        assert cli.main(["diagnose", str(BOOK), str(tmp_path / "y.npy"), "--node",
                         "block1_conv2"]) == 0  # fmt: skip
        assert f"is {layout}" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NCHW16c"])
def test_a_shape_that_two_layouts_have_is_read_as_the_other_files(tmp_path, capsys, layout):
    path = MODELS / "mobilenet_int8_per_channel.onnx"  # has tensors of 16 x 16 x 16
    feed = Feed({"image": load_samples()[0][:1].astype(np.float32)}, "test")
    network = oracle.settle(load(path), feed.values)
    values = diagnose.ort_values(network, feed, network.graph.nodes)
    for name in ("stem", "block1_depthwise", "block2_expand"):
        y = values[f"{name}_out_quantized"]
        np.save(tmp_path / f"{name}_quant.npy", dumps.from_nchw(y, layout))
    assert values["block1_depthwise_out_quantized"].shape == (1, 16, 16, 16)
    assert cli.main(["diagnose", str(path), str(tmp_path)]) == 0
    said = "block1_depthwise_quant.npy: its shape can be NCHW or NHWC; NHWC as the others' is"
    assert (said in capsys.readouterr().out) == (layout == "NHWC")


def test_folders_by_manifest_by_name_and_by_position(book, tmp_path, capsys):
    network, _, values = book
    out = tmp_path / "vectors"
    assert cli.main(["vectors", str(BOOK), "--out", str(out), "--layout", "NHWC"]) == 0
    assert cli.main(["diagnose", str(BOOK), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "9 tensors are ONNX Runtime's" in printed and "sums with the bias" in printed
    named, placed = tmp_path / "named", tmp_path / "placed"
    named.mkdir(), placed.mkdir()
    for i, node in enumerate(network.graph.nodes):
        np.save(named / f"{node.name}.npy", values[node.outputs[0]])
        np.save(placed / f"out{i}.npy", values[node.outputs[0]])
    for folder in (named, placed):
        assert cli.main(["diagnose", str(BOOK), str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "by its position among the 17 tensors: logits" in printed
    np.save(named / "block2_add_quant.npy", 1 + values["block2_add_out_quantized"] // 2)
    assert cli.main(["diagnose", str(BOOK), str(named)]) == 1
    assert "first tensor that differs: block2_add_out_quantized" in capsys.readouterr().out


# --- the command


@pytest.fixture()
def padded(book, tmp_path) -> Path:
    network, _, values = book
    node = network.graph.node("block1_conv1_quant")
    design = design_of(network.graph, node, values, values[node.outputs[0]])
    dump = mistakes.named("padding 0").designs(design)[""].outcome().astype(np.int8)
    np.save(tmp_path / "dump.npy", dump)
    return tmp_path / "dump.npy"


def test_the_command_names_it(padded, tmp_path, capsys):
    page = tmp_path / "page.html"
    command = ["diagnose", str(BOOK), str(padded), "--node", "block1_conv1", "--html", str(page)]
    assert cli.main(command) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"wrote {page}"
    assert lines[-1].startswith("EXPLAINED: padding 0 explains all ")
    assert any(line.strip().startswith("border, where windows reach") for line in lines)
    assert any("with padding 0" in line and "ONNX Runtime" in line for line in lines)
    assert any(set(line.strip()) <= set(".-+*#") and len(line.strip()) == 32 for line in lines)
    text = page.read_text()
    assert "Mismatches in red" in text and "block1_conv1" in text
    assert text.count("data:image/png;base64,") >= 16
    assert 'src="http' not in text and '<link rel="stylesheet' not in text


def test_json_holds_the_explanations_best_first(padded, capsys):
    assert cli.main(["diagnose", str(BOOK), str(padded), "--node", "block1_conv1", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    first, second = found["explanations"][:2]
    assert first["name"] == "padding 0" and first["unexplained"] == 0
    assert first["sentence"].startswith("The border is padded with the integer 0")
    assert second["name"] == "zero point folded, border padded with 0"
    left = [each["unexplained"] for each in found["explanations"]]
    assert left == sorted(left)
    assert found["verdict"] == "EXPLAINED" and found["where"][0]["mismatches"] > 0


def test_the_layers_own_input(book, tmp_path, capsys):
    network, _, values = book
    node = network.graph.node("block1_conv2_quant")
    x = values[node.inputs[0]][..., ::-1].copy()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", oracle_of(network, node, values | {node.inputs[0]: x}))
    command = ["diagnose", str(BOOK), str(tmp_path / "y.npy"), "--node", node.name]
    assert cli.main(command) == 1
    assert "EXPLAINED: input transposed (left and right)" in capsys.readouterr().out
    assert cli.main([*command, "--x", str(tmp_path / "x.npy")]) == 0


def test_an_input_that_tells_apart_is_written(book, tmp_path, capsys):
    network, _, values = book
    node = network.graph.node("block1_conv1_quant")
    design = design_of(network.graph, node, values, values[node.outputs[0]])
    ways = mistakes.named("accumulator saturates at every product").designs(design)
    label = max(ways, key=lambda k: int(k.split()[0]) if (ways[k].outcome() != values[
        node.outputs[0]]).any() else 0)  # fmt: skip
    np.save(tmp_path / "y.npy", ways[label].outcome().astype(np.int8))
    command = ["diagnose", str(BOOK), str(tmp_path / "y.npy"), "--node", node.name]
    assert cli.main([*command, "--apart", str(tmp_path / "apart.npy")]) == 1
    printed = capsys.readouterr().out
    if f"wrote {tmp_path / 'apart.npy'}" in printed:
        x = np.load(tmp_path / "apart.npy")
        assert (x.shape, x.dtype) == (values[node.inputs[0]].shape, np.int8)
    else:
        assert "no input to write" in printed


def test_a_qdq_file_is_diagnosed_on_the_nodes_that_run(qdq, tmp_path, capsys):
    network = oracle.settle(load(qdq), {"image": np.zeros((1, 3, 32, 32), np.float32)})
    node = next(n for n in network.graph.nodes if n.operator == "QLinearConv")
    assert cli.main(["run", str(qdq), "--out", str(tmp_path / "all.npz")]) == 0
    with np.load(tmp_path / "all.npz") as archive:
        y = archive[node.outputs[0]]
    np.save(tmp_path / "y.npy", y[:, ::-1])
    command = ["diagnose", str(qdq), str(tmp_path / "y.npy"), "--node", node.outputs[0]]
    assert cli.main(command) == 1
    assert "EXPLAINED: output channels (reversed)" in capsys.readouterr().out


def test_other_operators_are_located_and_worked(book, tmp_path, capsys):
    logits = book[2]["logits"].copy()
    logits[0, 3] += 1
    np.save(tmp_path / "logits.npy", logits)
    command = ["diagnose", str(BOOK), str(tmp_path / "logits.npy"), "--node", "logits"]
    assert cli.main(command) == 1
    printed = capsys.readouterr().out
    assert "1 of 10 elements; first at [0, 3]" in printed and "x - x_zero_point" in printed
    assert "(any other)" in printed


def test_the_catalogue_is_printed(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["diagnose", "--catalogue"])
    assert not end.value.code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(NAMES) and "round half up" in "".join(lines)


BAD = [
    ("missing.npy", None, "no such file"),
    ("y.xyz", b"1", "not a dump that is read here"),
    ("empty.bin", b"", "empty"),
    ("short.bin", b"\0" * 16383, "holds 16383 elements; block1_conv2_out_quantized, int8, has"),
    ("twice.bin", b"\0" * 16384 * 3, "for 3 images give --images 3"),
    ("x.hex", b"00 xx 01", "word 1 is xx: it was never written"),
    ("g.hex", b"00 0g", "word 1 is 0g: not hexadecimal digits"),
    ("at.hex", b"00 @8 00", "@8 is not the address of word 1"),
    ("words.csv", b"1,2\n3,four", "row 1: 'four' is not a number"),
    ("nan.csv", b"nan " * 16384, "element 0 is nan"),
    ("real.csv", b"0.5 " * 16384, "element 0 is 0.5; the tensor is int8: give its integers"),
    ("huge.csv", b"1e300 " * 16384, "element 0 is 1e+300"),
    ("cut.npy", b"\x93NUMPY\x01\0", "cut.npy"),
    ("text.csv", b"\xff\xfe\x00", "not text; name raw binary .bin"),
]  # fmt: skip


@pytest.mark.parametrize("name, content, said", BAD, ids=[bad[0] for bad in BAD])
def test_bad_dumps_are_refused_in_one_line(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UnusableInput) as refused:
        cli.main(["diagnose", str(BOOK), str(tmp_path / name), "--node", "block1_conv2"])
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert name in str(refused.value)


def test_bad_arguments_are_refused(tmp_path, padded):
    good = str(padded)
    shape = tmp_path / "shape.npy"
    np.save(shape, np.zeros((1, 32, 16, 32), np.int8))
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ([good], "dump: no tensor or node has that name"),
        ([good, good, "--node", "block1_conv1"], "give one of each tensor"),
        ([good, "--node", "nothing"], "no node named 'nothing'"),
        ([f"nothing={good}"], "no tensor or node is named 'nothing'"),
        ([good, "--node", "block1_conv1", "--layout", "NWHC"], "--layout NWHC"),
        ([str(tmp_path / "empty")], "holds no dump"),
        ([str(shape), "--node", "block1_conv1"], "has shape 1x32x16x32"),
        ([good, "--node", "block1_conv1", "--html", good], "would replace"),
        ([good, "--node", "block1_conv1", "--x", str(tmp_path / "no.npy")], "no such file"),
    ):
        with pytest.raises(UnusableInput) as refused:
            cli.main(["diagnose", str(BOOK), *arguments])
        assert said in str(refused.value), refused.value


def test_a_dump_of_one_value_is_asked_about(tmp_path, capsys):
    np.save(tmp_path / "zero.npy", np.zeros((1, 16, 32, 32), np.int8))
    assert cli.main(["diagnose", str(BOOK), str(tmp_path / "zero.npy"), "--node", "stem"]) == 1
    assert "every element is 0: was it ever written?" in capsys.readouterr().out


def said_of(tmp_path, capsys, node: str, dump: np.ndarray) -> tuple[str, str]:
    """What the command prints of a dump of the book's network: all of it, and the last line."""
    np.save(tmp_path / "dump.npy", dump)
    assert cli.main(["diagnose", str(BOOK), str(tmp_path / "dump.npy"), "--node", node]) == 1
    printed = capsys.readouterr().out
    return printed, printed.splitlines()[-1]


def test_a_dump_of_one_value_is_not_explained_by_pairs(book, tmp_path, capsys):
    y = book[2]["block2_conv1_out_quantized"]
    _, last = said_of(tmp_path, capsys, "block2_conv1", np.zeros_like(y))
    assert last.startswith("UNEXPLAINED: every element is 0: was it ever written?")


def test_a_part_that_was_never_written_is_asked_about(book, tmp_path, capsys):
    y = book[2]["block2_conv1_out_quantized"].copy()
    y[:, :, 8:] = 0
    printed, last = said_of(tmp_path, capsys, "block2_conv1", y)
    assert "every element that differs is 0: was it ever written?" in printed
    assert last.startswith("UNEXPLAINED")
    nothing = np.full_like(book[2]["logits"], np.nan)
    printed, _ = said_of(tmp_path, capsys, "logits", nothing)
    assert "every element is nan: was it ever written?" in printed


def test_what_only_saturation_makes_alike_is_not_explained_in_part(book, tmp_path, capsys):
    """Two layers with a ReLU are both at their zero point in places, whatever the mistake."""
    values = book[2]
    mixed = values["block2_conv1_out_quantized"][:, ::-1, ::-1]  # of another layer, and moved
    _, last = said_of(tmp_path, capsys, "block2_conv2", mixed)
    assert last.startswith("UNEXPLAINED") and last.endswith("than a tensor of one value does")


def test_a_dump_under_another_tensors_name_is_recognized(book, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(diagnose, "SEEDS", 0)  # without pairs, to be quick
    other = book[2]["block2_conv1_out_quantized"]
    _, last = said_of(tmp_path, capsys, "block2_conv2", other)
    assert "but the dump is ONNX Runtime's block2_conv1_out_quantized, all of it" in last


def test_one_mismatch_is_counted_as_one(book, tmp_path, capsys):
    y = book[2]["logits"].copy()
    y[0, 3] += 1
    _, last = said_of(tmp_path, capsys, "logits", y)
    assert last == "UNEXPLAINED: no mistake that is known explains the one mismatch"


def test_variants_that_explain_as_much_are_counted_in_the_verdict(book, tmp_path, capsys):
    """The stem saturates below zero, where the second rounding's ties would tell them apart."""
    network, _, values = book
    node = next(n for n in network.graph.nodes if n.name == "stem_quant")
    design = design_of(network.graph, node, values, values["stem_out_quantized"])
    of = design.first
    x_scale, w_scale, y_scale = (np.float64(s) for s in of.scales)
    mantissa, exponent = np.frexp(x_scale * w_scale / y_scale)
    q31, right = (np.rint(v).astype(np.int64)[:, None, None]
                  for v in (mantissa * 2**31, -exponent.astype(np.int64)))  # fmt: skip
    upper = (of.acc.reshape(design.shape).astype(np.int64) * q31 + 2**30) >> 31
    y = (upper + (1 << (right - 1))) >> right
    y = np.clip(y + design.y_zero, -128, 127).astype(np.int8)
    printed, last = said_of(tmp_path, capsys, "stem", y)
    assert "as well: then half up, as the optimized kernels" in printed
    assert (
        "two roundings, as gemmlowp (then half away, as the reference kernels, or 1 other" in last
    )


def test_sums_with_0_on_the_border_are_equal_with_a_condition(layers):
    layer = layers["small"]
    design = design_of(layer.network.graph, layer.node, layer.values, layer.y)
    stored = diagnose.FORMS[list(diagnose.FORMS)[-1]](design.first).acc.reshape(layer.y.shape)
    assert (stored != design.first.acc.reshape(layer.y.shape)).any()
    report = layer.diagnosis(stored, sums=True)
    assert report.verdict == diagnose.EQUAL
    assert any("leaves out what is on the border" in note for note in report.notes)


def test_a_pool_divided_by_one_less_is_told_from_a_narrow_multiplier(book, tmp_path, capsys):
    network, _, values = book
    node = next(n for n in network.graph.nodes if n.name == "pool_quant")
    x, x_scale, x_zero, y_scale, y_zero = (np.asarray(
        values.get(name, network.graph.constants.get(name))) for name in node.inputs)  # fmt: skip
    total = (x.astype(np.int64) - x_zero).sum(axis=(2, 3), keepdims=True)
    y = np.clip(np.rint(total / 63 * (x_scale / y_scale)) + y_zero, -128, 127).astype(np.int8)
    printed, last = said_of(tmp_path, capsys, "pool", y)
    assert last.startswith("EXPLAINED: pool: divisor (one less) explains all 21 mismatches, and")
    said = " ".join(printed.split())
    assert "what would tell them apart" in said and "around a level of each channel" in said


def test_a_manifest_of_another_model_is_refused(tmp_path):
    out = tmp_path / "vectors"
    other = str(MODELS / "resnet8_uint8.onnx")
    assert cli.main(["vectors", other, "--node", "stem_quant", "--out", str(out)]) == 0
    with pytest.raises(UnusableInput, match="another file than this model"):
        cli.main(["diagnose", str(BOOK), str(out)])


# --- the catalogue as a text


def test_every_mistake_says_where_the_book_shows_it():
    from myst_parser.mdit_to_docutils.base import default_slugify  # as the site does it

    headings = {}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        headings[path.stem] = {default_slugify(h) for h in re.findall(r"^#+ (.*)$", text, re.M)}
    for mistake in CATALOGUE:
        notebook, heading = mistake.section.split("#")
        assert heading in headings[notebook], mistake.section
        assert mistake.sentence[0].isupper() and mistake.sentence.endswith("."), mistake.name
        assert not mistake.source or re.fullmatch(
            r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", mistake.source
        )
        assert mistake.kind in mistakes.KINDS


def test_a_requantizer_of_its_own_can_be_put_in(layers):
    layer = layers["small"]
    design = design_of(layer.network.graph, layer.node, layer.values, layer.y)
    exact = with_requantizer(design, requantizers.requantize_as_float32)
    assert (exact.outcome() == layer.y).all()

    def twice(acc, factor, zero):
        return requantizers.requantize_gemmlowp(acc, *requantizers.fixed_point(factor, 31), zero)

    ours = mistakes.named("two roundings, as gemmlowp").designs(design)
    theirs = with_requantizer(design, twice).outcome()
    assert (theirs == next(iter(ours.values())).outcome()).all() and (theirs != layer.y).any()


KINDS_OF_LAYERS = {
    "1-D": ((2, 4, 11), (6, 4, 3), dict(pads=[1, 2], strides=[2])),
    "3-D": ((1, 2, 5, 4, 6), (3, 2, 2, 3, 3), dict(pads=[0, 1, 1, 1, 1, 1])),
    "depthwise": ((1, 6, 7, 7), (6, 1, 3, 3), dict(group=6, pads=[1, 1, 1, 1])),
    "1x1": ((2, 5, 6, 6), (4, 5, 1, 1), dict(strides=[2, 2])),
    "auto_pad": ((1, 3, 8, 8), (4, 3, 3, 3), dict(auto_pad="SAME_UPPER", strides=[2, 2])),
    "one output": ((1, 3, 3, 3), (2, 3, 3, 3), {}),
}


@pytest.mark.parametrize("sample", [2, 128])
@pytest.mark.parametrize("name", KINDS_OF_LAYERS)
def test_every_mistake_can_be_tried_on_every_layer(tmp_path, monkeypatch, name, sample):
    """Nothing fails, every outcome has y's shape, and what explains a dump is found again."""
    monkeypatch.setattr(diagnose, "SAMPLE", sample)
    x_shape, w_shape, attributes = KINDS_OF_LAYERS[name]
    rng = np.random.default_rng(5)
    x = rng.integers(-128, 128, x_shape).astype(np.int8)
    w = rng.integers(-127, 128, w_shape).astype(np.int8)
    scales = rng.uniform(0.001, 0.004, w_shape[0]).astype(np.float32)
    given = conv_inputs(rng, x, w_shape[0], w_shape[2:], w=w, w_scale=scales)
    layer = made(tmp_path / "layer", "QLinearConv", given, **attributes)
    design = design_of(layer.network.graph, layer.node, layer.values, layer.y)
    assert design.first is not None
    for mistake in CATALOGUE:
        for changed in mistake.designs(design).values():
            assert changed.outcome().shape == layer.y.shape, mistake.name
    dump = mistakes.named("x zero point added").designs(design)[""].outcome().astype(np.int8)
    assert "x zero point added" in [e.name for e in layer.diagnosis(dump).equal]
    noise = np.clip(layer.y.astype(int) + rng.integers(-3, 4, layer.y.shape), -128, 127)
    layer.diagnosis(noise.astype(np.int8))


def test_names_are_escaped(tmp_path, capsys):
    inputs = dict(x=np.zeros((1, 1, 2, 2), np.float32), y_scale=np.float32(1),
                  y_zero_point=np.int8(0))  # fmt: skip
    proto = operator_model("QuantizeLinear", inputs)
    proto.graph.node[0].name = "a\nb\x1b[31m"
    proto.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("y", onnx.TensorProto.INT8, [1, 1, 2, 2])
    )
    onnx.save(proto, tmp_path / "m.onnx")
    np.save(tmp_path / "y.npy", np.ones((1, 1, 2, 2), np.int8) * 50)
    assert (
        cli.main(["diagnose", str(tmp_path / "m.onnx"), str(tmp_path / "y.npy"), "--node", "y"])
        == 1
    )
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "a\\nb\\x1b[31m" in printed
