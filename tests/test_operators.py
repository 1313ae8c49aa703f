"""Every operator but QLinearConv against ONNX Runtime: legal space, ties, orders of operations."""

import numpy as np
import pytest
from conftest import ORT
from hypothesis import given, settings
from hypothesis import strategies as st

from qlinear.errors import UnusableInput
from qlinear.operators.conv_integer import conv_integer
from qlinear.operators.dequantize_linear import dequantize_linear
from qlinear.operators.matmul_integer import matmul_integer
from qlinear.operators.qgemm import qgemm
from qlinear.operators.qlinear_add import factors, fma, qlinear_add
from qlinear.operators.qlinear_global_average_pool import qlinear_global_average_pool
from qlinear.operators.qlinear_matmul import qlinear_matmul
from qlinear.operators.quantize_linear import quantize_linear
from qlinear.ort import run_operator

F = np.float32
CONTRIB = "com.microsoft"
EIGHT_BITS = st.sampled_from([np.int8, np.uint8])
SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.floats(2**-10, 1, width=32)
many = settings(max_examples=150, deadline=None, derandomize=True)


def integers(rng, dtype, shape=()):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def equal(ours, theirs):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert (ours == theirs).all()


# --- QuantizeLinear


@many
@given(st.sampled_from([np.int8, np.uint8, np.int16, np.uint16]), SEEDS, SCALES, st.booleans())
def test_quantize_linear_on_and_beside_ties(dtype, seed, scale, per_axis):
    rng = np.random.default_rng(seed)
    y_scale = F([scale, scale * 0.7, scale * 1.9]) if per_axis else F(scale)
    zero = integers(rng, dtype, np.shape(y_scale))
    steps = rng.integers(-300, 300, (2, 3, 50)) + 0.5
    ties = (steps * y_scale.reshape(-1, 1)).astype(F)
    x = np.concatenate([ties, np.nextafter(ties, F(np.inf)), np.nextafter(ties, F(-np.inf))], 2)
    inputs = dict(x=x, y_scale=y_scale, y_zero_point=zero)
    equal(quantize_linear(*inputs.values()), run_operator("QuantizeLinear", inputs))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
def test_quantize_linear_of_nan_and_infinities(dtype):
    x = F([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0, 0.0] * 5)
    inputs = dict(x=x, y_scale=F(0.1), y_zero_point=dtype(5))
    ours = quantize_linear(*inputs.values())
    equal(ours, run_operator("QuantizeLinear", inputs))
    info = np.iinfo(dtype)
    assert ours[:3].tolist() == [info.min, info.max, info.min]


def test_quantize_linear_divides():
    rng = np.random.default_rng(0)
    scale = F(0.0123)
    x = ((rng.integers(-128, 128, 5000) + 0.5) * scale).astype(F)
    theirs = run_operator("QuantizeLinear", dict(x=x, s=scale, z=np.int8(0)))
    reciprocal = np.clip(np.rint(x * (F(1) / scale)), -128, 127)
    wide = np.clip(np.rint(x.astype(float) / float(scale)), -128, 127)
    assert (theirs != reciprocal).any() and (theirs != wide).any()
    equal(quantize_linear(x, scale, np.int8(0)), theirs)


@many
@given(st.sampled_from([np.int8, np.uint8, np.int16, np.uint16]), SEEDS, SCALES, st.integers(0, 2))
def test_blocked_parameters(dtype, seed, scale, axis):
    rng = np.random.default_rng(seed)
    shape = [4, 6, 8]
    blocks = [n // 2 if i == axis else n for i, n in enumerate(shape)]
    x = rng.normal(0, 50 * scale, shape).astype(F)
    inputs = dict(x=x, y_scale=rng.uniform(scale, 2 * scale, blocks).astype(F))
    inputs["y_zero_point"] = integers(rng, dtype, blocks)
    attributes = dict(axis=axis, block_size=2)
    q = run_operator("QuantizeLinear", inputs, **attributes)
    equal(quantize_linear(*inputs.values(), **attributes), q)
    back = dict(x=q, x_scale=inputs["y_scale"], x_zero_point=inputs["y_zero_point"])
    theirs = run_operator("DequantizeLinear", back, **attributes)
    equal(dequantize_linear(*back.values(), **attributes), theirs)


# --- DequantizeLinear


@many
@given(
    st.sampled_from([np.int8, np.uint8, np.int16, np.uint16, np.int32]),
    SEEDS,
    SCALES,
    st.booleans(),
)
def test_dequantize_linear(dtype, seed, scale, per_axis):
    rng = np.random.default_rng(seed)
    x_scale = F([scale, scale * 0.7, scale * 1.9]) if per_axis else F(scale)
    zero = integers(rng, dtype, np.shape(x_scale)) if dtype is not np.int32 else None
    inputs = dict(x=integers(rng, dtype, (4, 3, 40)), x_scale=x_scale, x_zero_point=zero)
    equal(dequantize_linear(*inputs.values()), run_operator("DequantizeLinear", inputs))


# --- QLinearAdd


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("kind", ["random", "powers of two", "simple ratios"])
def test_qlinear_add_on_all_pairs(dtype, kind):
    rng = np.random.default_rng([np.iinfo(dtype).max, len(kind)])
    every = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1).astype(dtype)
    A, B = np.repeat(every, 256), np.tile(every, 256)
    for _ in range(20):
        if kind == "random":
            scales = rng.uniform(0.001, 1, 3).astype(F)
        elif kind == "powers of two":
            scales = F(2.0) ** rng.integers(-6, 1, 3).astype(F)
        else:
            scales = F(rng.uniform(0.01, 1)) * F(
                [rng.integers(1, 8) / 4, 1 / rng.integers(1, 9), 1]
            )
        za, zb, zc = (integers(rng, dtype) for _ in range(3))
        values = (A, scales[0], za, B, scales[1], zb, scales[2], zc)
        names = [f"{q}{part}" for q in "ABC" for part in ("", "_scale", "_zero_point")][:-3]
        names += ["C_scale", "C_zero_point"]
        theirs = run_operator("QLinearAdd", dict(zip(names, values, strict=True)), domain=CONTRIB)
        equal(qlinear_add(*values), theirs)
        # beyond 65,536 elements the answer comes from a table
        doubled = [np.tile(v, 2) if v is A or v is B else v for v in values]
        equal(qlinear_add(*doubled), np.tile(theirs, 2))


def test_other_orders_of_qlinear_add_are_ruled_out():
    every = np.arange(-128, 128).astype(np.int8)
    A, B = np.repeat(every, 256), np.tile(every, 256)
    a, b = A.astype(F), B.astype(F)
    rng = np.random.default_rng(0)
    wrong = dict.fromkeys(("separate", "textbook", "float64"), 0)
    for _ in range(40):
        cs = F(rng.uniform(0.01, 1))
        sa, sb = (F(cs * F(rng.integers(1, 8) / 4)) for _ in range(2))
        za, zb, zc = (integers(rng, np.int8) for _ in range(3))
        ours = qlinear_add(A, sa, za, B, sb, zb, cs, zc)
        ra, rb = F(sa / cs), F(sb / cs)
        separate = a * ra + (b * rb + F(F(zc) - F(ra * F(za) + F(rb * F(zb)))))
        textbook = np.rint(((a - F(za)) * sa + (b - F(zb)) * sb) / cs) + F(zc)
        exact = (a.astype(float) - za) * float(sa) + (b.astype(float) - zb) * float(sb)
        for name, value in (
            ("separate", np.rint(separate)),
            ("textbook", textbook),
            ("float64", np.rint(exact / float(cs)) + zc),
        ):
            wrong[name] += int((np.clip(value, -128, 127) != ours).sum())
    assert min(wrong.values()) > 0, wrong


def test_qlinear_add_broadcasts():
    rng = np.random.default_rng(0)
    for a_shape, b_shape in (((2, 3, 4), (3, 1)), ((5,), ()), ((), (5,)), ((4, 1), (1, 6))):
        A, B = integers(rng, np.int8, a_shape), integers(rng, np.int8, b_shape)
        values = dict(A=A, As=F(0.3), Az=np.int8(3), B=B, Bs=F(0.2), Bz=np.int8(-7), Cs=F(0.35))
        values["Cz"] = np.int8(11)
        equal(qlinear_add(*values.values()), run_operator("QLinearAdd", values, domain=CONTRIB))


@given(*[st.floats(-1e6, 1e6, width=32)] * 2, st.floats(-1e9, 1e9, width=32))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_fma_rounds_once(a, b, c):
    from fractions import Fraction

    exact = Fraction(a) * Fraction(b) + Fraction(c)
    found = Fraction(float(fma(F(a), F(b), F(c))))
    below, above = (Fraction(float(np.nextafter(F(float(found)), F(s * np.inf)))) for s in (-1, 1))
    assert abs(found - exact) <= min(abs(below - exact), abs(above - exact))


def test_fma_differs_from_two_roundings():
    # (1 + e)(1 - e) - 1 = -e*e is lost when the product is rounded first
    e = F(2**-20)
    assert fma(F(1) + e, F(1) - e, F(-1)) == -(2.0**-40)
    assert (F(1) + e) * (F(1) - e) + F(-1) != -(2.0**-40)
    ra, rb, fixed = factors(F(0.3), np.int8(3), F(0.2), np.int8(5), F(0.7), np.int8(1))
    assert ra.dtype == rb.dtype == fixed.dtype == F


# --- QLinearGlobalAveragePool


@many
@given(EIGHT_BITS, SEEDS, st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 1))
def test_global_average_pool(dtype, seed, height, width, ties, channels_last):
    rng = np.random.default_rng(seed)
    x_scale = F(rng.integers(1, 60) / rng.integers(1, 60)) if ties else F(rng.uniform(0.01, 1))
    y_scale = F(x_scale * (rng.integers(1, 7) / (height * width) if ties else rng.uniform(0.1, 1)))
    shape = (2, height, width, 40) if channels_last else (2, 40, height, width)
    inputs = dict(
        X=integers(rng, dtype, shape), x_scale=x_scale, x_zero_point=integers(rng, dtype),
        y_scale=y_scale, y_zero_point=integers(rng, dtype),
    )  # fmt: skip
    options = dict(channels_last=channels_last)
    theirs = run_operator("QLinearGlobalAveragePool", inputs, domain=CONTRIB, **options)
    equal(qlinear_global_average_pool(*inputs.values(), **options), theirs)


# --- QGemm, QLinearMatMul


@many
@given(EIGHT_BITS, SEEDS, *[st.integers(1, 9)] * 3, *[st.booleans()] * 5)
def test_qgemm(dtype, seed, m, k, n, trans_a, trans_b, columns, bias, quantized):
    rng = np.random.default_rng(seed)
    b_shape = (n,) if columns else ()
    inputs = dict(
        A=integers(rng, dtype, (k, m) if trans_a else (m, k)),
        a_scale=F(rng.uniform(0.01, 1)), a_zero_point=integers(rng, dtype),
        B=integers(rng, np.int8, (n, k) if trans_b else (k, n)),
        b_scale=rng.uniform(0.01, 1, b_shape).astype(F), b_zero_point=np.zeros(b_shape, np.int8),
        C=rng.integers(-5000, 5000, (n,)).astype(np.int32) if bias else None,
        y_scale=F(rng.uniform(1, 100)) if quantized else None,
        y_zero_point=integers(rng, dtype) if quantized else None,
    )  # fmt: skip
    options = dict(transA=int(trans_a), transB=int(trans_b), alpha=float(F(rng.uniform(0.5, 2))))
    theirs = run_operator("QGemm", inputs, domain=CONTRIB, **options)
    equal(qgemm(*inputs.values(), **options), theirs)


def orders(a, b, y):
    """The factor a*b/y in each order of float32 operations, ours first."""
    return {
        "(a*b)/y": F(F(a * b) / y),
        "a*(b/y)": F(a * F(b / y)),
        "(a/y)*b": F(F(a / y) * b),
        "float64": F(float(a) * float(b) / float(y)),
    }


@pytest.mark.parametrize("op_type", ["QGemm", "QLinearConv", "QLinearMatMul"])
def test_order_of_the_factors_operations_is_settled(op_type):
    """Accumulators on and beside ties: one order survives, and each other one is ruled out."""
    rng = np.random.default_rng(3)
    zero, wrong = np.int8(0), dict.fromkeys(orders(F(1), F(1), F(1)), 0)
    for _ in range(60):
        a, b = F(rng.uniform(0.001, 1)), F(rng.uniform(0.001, 1))
        y = F(F(a * b) * rng.integers(1, 300) * 2)
        if op_type == "QLinearMatMul":
            left, right = integers(rng, np.int8, (20, 8)), integers(rng, np.int8, (8, 200))
            acc = left.astype(np.int32) @ right
            inputs = dict(a=left, as_=a, az=zero, b=right, bs=b, bz=zero, ys=y, yz=zero)
            equal(qlinear_matmul(*inputs.values()), found := run_operator(op_type, inputs))
        else:
            acc = rng.integers(-30000, 30000, (1, 4000)).astype(np.int32)
            conv = op_type == "QLinearConv"
            x = np.zeros((1, 1, 1, 1) if conv else (1, 1), np.int8)
            w = np.zeros((4000, 1, 1, 1) if conv else (1, 4000), np.int8)
            inputs = dict(x=x, xs=a, xz=zero, w=w, ws=b, wz=zero)
            tail = dict(ys=y, yz=zero)
            inputs |= tail | {"B": acc[0]} if conv else {"C": acc[0]} | tail
            found = run_operator(op_type, inputs, domain="" if conv else CONTRIB).reshape(1, -1)
        for name, scale in orders(a, b, y).items():
            guess = np.clip(np.rint(acc.astype(F) * scale), -128, 127)
            wrong[name] += int((guess != found).sum())
    assert wrong.pop("(a*b)/y") == 0
    assert min(wrong.values()) > 0, wrong


@many
@given(EIGHT_BITS, SEEDS, *[st.integers(1, 9)] * 3, st.booleans(), st.integers(0, 2))
def test_qlinear_matmul(dtype, seed, m, k, n, columns, batch):
    rng = np.random.default_rng(seed)
    b_shape = (n,) if columns and not batch else ()
    inputs = dict(
        a=integers(rng, dtype, (*[2] * batch, m, k)), a_scale=F(rng.uniform(0.01, 1)),
        a_zero_point=integers(rng, dtype), b=integers(rng, np.int8, (*[2] * batch, k, n)),
        b_scale=rng.uniform(0.01, 1, b_shape).astype(F), b_zero_point=np.zeros(b_shape, np.int8),
        y_scale=F(rng.uniform(1, 100)), y_zero_point=integers(rng, dtype),
    )  # fmt: skip
    equal(qlinear_matmul(*inputs.values()), run_operator("QLinearMatMul", inputs))


# --- ConvInteger, MatMulInteger


@many
@given(SEEDS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_conv_integer(seed, c, m, kernel):
    rng = np.random.default_rng(seed)
    w_type = np.int8 if ORT >= (1, 24) else np.uint8  # which older releases take alone
    inputs = dict(
        x=integers(rng, np.uint8, (2, c, 6, 5)), w=integers(rng, w_type, (m, c, kernel, kernel)),
        x_zero_point=integers(rng, np.uint8), w_zero_point=integers(rng, w_type),
    )  # fmt: skip
    options = dict(pads=[1, 0, 2, 1], strides=[1, 2])
    equal(conv_integer(*inputs.values(), **options), run_operator("ConvInteger", inputs, **options))


@many
@given(EIGHT_BITS, SEEDS, *[st.integers(1, 9)] * 3, st.booleans())
def test_matmul_integer(dtype, seed, m, k, n, columns):
    rng = np.random.default_rng(seed)
    inputs = dict(
        A=integers(rng, dtype, (m, k)), B=integers(rng, np.int8, (k, n)),
        a_zero_point=integers(rng, dtype),
        b_zero_point=integers(rng, np.int8, (n,) if columns else ()),
    )  # fmt: skip
    equal(matmul_integer(*inputs.values()), run_operator("MatMulInteger", inputs))


# --- refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantize_linear(np.zeros(3), F(1)), "x has type float64"),
        (lambda: quantize_linear(F([1]), F(0)), "y_scale is"),
        (lambda: quantize_linear(F([1, 2]), F([1, 2, 3]), axis=0), "y_scale has shape"),
        (lambda: quantize_linear(F([1]), F(1), np.int32(0)), "y_zero_point has type int32"),
        (lambda: dequantize_linear(np.zeros(3, np.int64), F(1)), "x has type int64"),
        (lambda: dequantize_linear(np.int8([1]), F(1), np.uint8(0)), "x_zero_point has type"),
        (
            lambda: qlinear_add(*[np.int8([1]), F(1), np.int8(0)] * 2, F(np.inf), np.int8(0)),
            "C_scale is",
        ),
        (
            lambda: qgemm(np.zeros((2, 3), np.int8), F(1), np.int8(0),
                          np.zeros((2, 3), np.int8), F(1), np.int8(0)),
            "A has 3 columns but B 2 rows",
        ),
    ],
)  # fmt: skip
def test_illegal_inputs_are_named(call, message):
    with pytest.raises(UnusableInput, match=message):
        call()
