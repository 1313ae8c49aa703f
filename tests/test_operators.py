"""Every operator but QLinearConv against ONNX Runtime: legal space, ties, orders of operations."""

import json

import numpy as np
import pytest
from conftest import MODELS, ORT, examples
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from qlinear import ort
from qlinear.errors import Unsupported, UnusableInput
from qlinear.onnx_model import operator_name
from qlinear.operators import OPERATORS
from qlinear.operators.add import add
from qlinear.operators.cast import FROM, TO, cast
from qlinear.operators.conv_integer import conv_integer
from qlinear.operators.dequantize_linear import dequantize_linear
from qlinear.operators.dynamic_quantize_linear import dynamic_quantize_linear
from qlinear.operators.matmul_integer import matmul_integer
from qlinear.operators.matmul_integer_to_float import (
    dynamic_quantize_matmul,
    matmul_integer_to_float,
)
from qlinear.operators.qgemm import qgemm
from qlinear.operators.qlinear_activations import logistic, qlinear_leaky_relu, qlinear_sigmoid
from qlinear.operators.qlinear_add import factors, fma, qlinear_add
from qlinear.operators.qlinear_average_pool import qlinear_average_pool
from qlinear.operators.qlinear_concat import qlinear_concat
from qlinear.operators.qlinear_global_average_pool import qlinear_global_average_pool
from qlinear.operators.qlinear_matmul import qlinear_matmul
from qlinear.operators.qlinear_mul import qlinear_mul
from qlinear.operators.qlinear_softmax import exponentials, qlinear_softmax
from qlinear.operators.qlinear_where import qlinear_where
from qlinear.operators.quantize_linear import quantize_linear
from qlinear.operators.resize import WAYS, resize
from qlinear.ort import run_operator

F = np.float32
CONTRIB = "com.microsoft"
EIGHT_BITS = st.sampled_from([np.int8, np.uint8])
SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.floats(2**-10, 1, width=32)
many = examples(150)


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


def test_negative_scales_are_a_sign():
    rng = np.random.default_rng(0)
    scale = F([0.5, -0.9, -1.8])
    inputs = dict(x=rng.normal(0, 50, (4, 3, 9)).astype(F), scale=scale, zero=np.int8([1, -2, 3]))
    q = run_operator("QuantizeLinear", inputs)
    equal(quantize_linear(*inputs.values()), q)
    inputs["x"] = q
    equal(dequantize_linear(*inputs.values()), run_operator("DequantizeLinear", inputs))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
@pytest.mark.parametrize("per_axis", [False, True])
def test_the_same_two_of_com_microsoft(dtype, per_axis):
    rng = np.random.default_rng(0)
    for _ in range(50):
        shape = (3,) if per_axis else ()
        scale = np.asarray(rng.uniform(0.001, 1, shape), F)
        x = rng.normal(0, 50, (4, 3, 40)).astype(F)
        inputs = dict(x=x, y_scale=scale, y_zero_point=integers(rng, dtype, shape))
        q = run_operator("QuantizeLinear", inputs, domain=CONTRIB, axis=1)
        equal(quantize_linear(*inputs.values(), axis=1), q)
        back = dict(x=q, x_scale=scale, x_zero_point=inputs["y_zero_point"])
        theirs = run_operator("DequantizeLinear", back, domain=CONTRIB, axis=1)
        equal(dequantize_linear(*back.values(), axis=1), theirs)


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
@examples(500)
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


# --- DynamicQuantizeLinear, Cast, Add, and what ONNX Runtime makes of a dynamic layer


def dynamic_session():
    """A session of one DynamicQuantizeLinear."""
    outputs = ("y", TensorProto.UINT8), ("scale", TensorProto.FLOAT), ("zero", TensorProto.UINT8)
    graph = helper.make_graph(
        [helper.make_node("DynamicQuantizeLinear", ["x"], [name for name, _ in outputs])],
        "dynamic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(*output, None) for output in outputs],
    )
    imports = [helper.make_opsetid("", 21)]
    return ort.open_session(helper.make_model(graph, opset_imports=imports, ir_version=10))


@pytest.mark.parametrize("kind", ["any", "positive", "negative", "zero", "whole steps", "ties"])
def test_dynamic_quantize_linear(kind):
    rng, session = np.random.default_rng(len(kind)), dynamic_session()
    for _ in range(300):
        x = rng.normal(rng.normal(), 1, rng.integers(1, 300)) * rng.choice([1e-30, 1e-3, 1, 1e30])
        if kind == "positive":
            x = np.abs(x)
        elif kind == "negative":
            x = -np.abs(x)
        elif kind == "zero":
            x = np.zeros(5)
        elif kind == "whole steps":  # of half a step: every second value is a tie
            x = np.append(rng.integers(0, 511, 200), [0, 510]) / 2 * 2.0 ** rng.integers(-9, 9)
        elif kind == "ties":  # the zero point lies between two codes
            least = rng.integers(0, 255) + 0.5
            x = np.append(rng.uniform(-least, 255 - least, 50), [-least, 255 - least])
        x = x.astype(F)
        for ours, theirs in zip(
            dynamic_quantize_linear(x), session.run(None, {"x": x}), strict=True
        ):
            equal(ours, np.asarray(theirs))


def test_dynamic_quantize_linear_leaves_out_what_has_no_range():
    for x in (F([]), F([np.nan]), F([np.inf]), F([-3e38, 3e38]), F([1e-44])):
        with pytest.raises(Unsupported):
            dynamic_quantize_linear(x)


@pytest.mark.parametrize("name", FROM)
def test_cast(name):
    rng = np.random.default_rng(0)
    dtype = np.dtype(name)
    x = rng.integers(0, 2, 2000).astype(bool) if name == "bool" else integers(rng, dtype, 2000)
    for to in TO:
        to = helper.np_dtype_to_tensor_dtype(np.dtype(to))
        equal(cast(x, to=to), run_operator("Cast", dict(x=x), to=to))
    with pytest.raises(Unsupported, match="from float32"):
        cast(F([1]), to=helper.np_dtype_to_tensor_dtype(dtype))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_add_of_integers_wraps(dtype):
    rng = np.random.default_rng(0)
    A, B = integers(rng, dtype, (2, 30, 40)), integers(rng, dtype, (30, 1))
    equal(add(A, B), run_operator("Add", dict(A=A, B=B)))
    with pytest.raises(Unsupported):
        add(F([1]), F([2]))


@many
@given(EIGHT_BITS, EIGHT_BITS, SEEDS, *[st.integers(1, 40)] * 3, *[st.booleans()] * 4)
def test_matmul_integer_to_float(a_type, b_type, seed, m, k, n, columns, bias, batch, zeros):
    rng = np.random.default_rng(seed)
    shape, of_b = (2, m, k) if batch else (m, k), (n,) if columns else ()
    weights = dict(
        B=integers(rng, b_type, (k, n)), b_scale=rng.uniform(0.001, 1, of_b).astype(F),
        b_zero_point=integers(rng, b_type, of_b) if zeros else None,
        bias=rng.normal(0, 10, n).astype(F) if bias else None,
    )  # fmt: skip
    inputs = dict(A=rng.normal(0, 1, shape).astype(F), **weights)
    theirs = run_operator("DynamicQuantizeMatMul", inputs, domain=CONTRIB)
    equal(dynamic_quantize_matmul(*inputs.values()), theirs)
    if a_type == np.int8:  # ONNX Runtime has no kernel of int8 by uint8
        weights["B"] = integers(rng, np.int8, (k, n))
        weights["b_zero_point"] = integers(rng, np.int8, of_b) if zeros else None
    inputs = dict(
        A=integers(rng, a_type, shape), B=weights["B"], a_scale=F(rng.uniform(0.001, 1)),
        b_scale=weights["b_scale"], a_zero_point=integers(rng, a_type),
        b_zero_point=weights["b_zero_point"], bias=weights["bias"],
    )  # fmt: skip
    theirs = run_operator("MatMulIntegerToFloat", inputs, domain=CONTRIB)
    equal(matmul_integer_to_float(*inputs.values()), theirs)


def test_parameters_of_columns_may_keep_the_axes_of_the_matrix():
    rng = np.random.default_rng(0)
    A, zero = integers(rng, np.uint8, (2, 3, 4)), integers(rng, np.uint8)
    for of_b, shape in (((4, 5), (1, 5)), ((2, 4, 5), (2, 1, 5))):
        b = dict(B=integers(rng, np.int8, of_b), b_scale=rng.uniform(0.1, 0.2, shape).astype(F))
        b_zero = integers(rng, np.int8, shape)
        tail = dict(b_zero=b_zero, bias=rng.normal(0, 10, (1, 5)).astype(F))
        inputs = dict(A=A.astype(F), **b, **tail)
        theirs = run_operator("DynamicQuantizeMatMul", inputs, domain=CONTRIB)
        equal(dynamic_quantize_matmul(*inputs.values()), theirs)
        inputs = dict(A=A, B=b["B"], a_scale=F(0.1), b_scale=b["b_scale"], a_zero=zero, **tail)
        theirs = run_operator("MatMulIntegerToFloat", inputs, domain=CONTRIB)
        equal(matmul_integer_to_float(*inputs.values()), theirs)
        inputs = dict(
            a=A, a_scale=F(0.1), a_zero=zero, **b, b_zero=b_zero, y_scale=F(3), y_zero=zero
        )
        equal(qlinear_matmul(*inputs.values()), run_operator("QLinearMatMul", inputs))


# --- what float32 makes of scales far apart: infinities, NaN, and more than an int32 holds


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("size", [1, 7, 8, 33])
@pytest.mark.parametrize("scale", [1e-8, 1e-9, 5e-10, 1e-10, 1e-30])
def test_sums_and_products_beyond_int32(dtype, size, scale):
    rng = np.random.default_rng(size)
    values = dict(
        A=integers(rng, dtype, (2, size)), A_scale=F(1), A_zero_point=dtype(3),
        B=integers(rng, dtype, (2, size)), B_scale=F(1), B_zero_point=dtype(5),
        C_scale=F(scale), C_zero_point=dtype(9),
    )  # fmt: skip
    for ours, name in ((qlinear_add, "QLinearAdd"), (qlinear_mul, "QLinearMul")):
        for B in (values["B"], values["B"][:1, :1]):  # the kernel of one element for a span, too
            given = values | {"B": B}
            equal(ours(*given.values()), run_operator(name, given, domain=CONTRIB))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize(("x_scale", "y_scale"), [(1, 1e-9), (1, 5e-10), (1, 1e-30), (3e38, 1)])
def test_means_beyond_int32(dtype, x_scale, y_scale):
    given = dict(
        X=integers(np.random.default_rng(0), dtype, (2, 3, 4, 5)), x_scale=F(x_scale),
        x_zero_point=dtype(3), y_scale=F(y_scale), y_zero_point=dtype(5),
    )  # fmt: skip
    theirs = run_operator("QLinearAveragePool", given, domain=CONTRIB, kernel_shape=[1, 2])
    equal(qlinear_average_pool(*given.values(), kernel_shape=[1, 2]), theirs)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_no_number_becomes_the_least(dtype):
    # 0 times an infinite factor is NaN
    zero = dtype(3)
    a = np.array([[3, 4, 2, 3]], dtype)
    eye, large = np.eye(4, dtype=np.int8), F(3e38)
    given = dict(
        a=a, a_scale=large, a_zero_point=zero, b=eye, b_scale=large, b_zero_point=np.int8(0),
        y_scale=F(1), y_zero_point=zero,
    )  # fmt: skip
    theirs = run_operator("QLinearMatMul", given)
    assert set(theirs.ravel().tolist()) == {np.iinfo(dtype).min, np.iinfo(dtype).max}
    equal(qlinear_matmul(*given.values()), theirs)
    gemm = dict(
        A=a, a_scale=F(1), a_zero_point=zero, B=eye, b_scale=F(1), b_zero_point=np.int8(0), C=None,
        y_scale=F(1), y_zero_point=zero,
    )  # fmt: skip
    for alpha in (float("nan"), float("inf"), -float("inf")):
        theirs = run_operator("QGemm", gemm, domain=CONTRIB, alpha=alpha)
        assert theirs[0, 0] == np.iinfo(dtype).min
        equal(qgemm(*gemm.values(), alpha=alpha), theirs)


# --- QLinearMul, QLinearConcat, QLinearSigmoid, QLinearLeakyRelu


def drawn_scales(rng, kind, count):
    if kind == "random":
        return rng.uniform(0.001, 1, count).astype(F)
    if kind == "powers of two":
        return F(2) ** rng.integers(-8, 3, count).astype(F)
    if kind == "huge":  # products past the range of int32
        return rng.uniform(1, 100, count).astype(F) * F([1e4] * (count - 1) + [1e-6])
    return F(rng.uniform(0.01, 1)) * F([*rng.integers(1, 8, count - 1) / 4, 1])


KINDS = ["random", "powers of two", "simple ratios", "huge"]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("kind", KINDS)
def test_qlinear_mul_on_all_pairs(dtype, kind):
    rng = np.random.default_rng([np.iinfo(dtype).max, len(kind)])
    every = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1).astype(dtype)
    pairs = dict(A=np.repeat(every, 256), B=np.tile(every, 256))
    names = "A A_scale A_zero B B_scale B_zero C_scale C_zero".split()
    for _ in range(20):
        given = dict(zip(names[1::3], drawn_scales(rng, kind, 3), strict=False)) | pairs
        given["C_scale"] = drawn_scales(rng, kind, 3)[2]
        given |= {name: integers(rng, dtype) for name in names if name.endswith("zero")}
        inputs = {name: given[name] for name in names}
        equal(qlinear_mul(*inputs.values()), run_operator("QLinearMul", inputs, domain=CONTRIB))


def test_qlinear_mul_broadcasts():
    rng = np.random.default_rng(0)
    for a_shape, b_shape in (((2, 3, 4), (3, 1)), ((5,), ()), ((), (5,)), ((4, 1), (1, 6))):
        A, B = integers(rng, np.int8, a_shape), integers(rng, np.int8, b_shape)
        values = dict(A=A, As=F(0.3), Az=np.int8(3), B=B, Bs=F(0.2), Bz=np.int8(-7), Cs=F(0.35))
        values["Cz"] = np.int8(11)
        equal(qlinear_mul(*values.values()), run_operator("QLinearMul", values, domain=CONTRIB))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("kind", KINDS[:3])
def test_functions_of_one_tensor_on_all_codes(dtype, kind):
    rng = np.random.default_rng([np.iinfo(dtype).max, len(kind)])
    every = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1).astype(dtype)
    for turn in range(100):
        x_scale, y_scale = drawn_scales(rng, kind, 2)
        if turn % 2:  # outputs of 0 to 1 fill the codes
            y_scale = F(rng.uniform(0.5, 2) / 255)
        values = (every, x_scale, integers(rng, dtype), y_scale, integers(rng, dtype))
        inputs = dict(zip(("X", "X_scale", "X_zero", "Y_scale", "Y_zero"), values, strict=True))
        equal(qlinear_sigmoid(*values), run_operator("QLinearSigmoid", inputs, domain=CONTRIB))
        alpha = float(F(rng.uniform(0, 1)))
        theirs = run_operator("QLinearLeakyRelu", inputs, domain=CONTRIB, alpha=alpha)
        equal(qlinear_leaky_relu(*values, alpha=alpha), theirs)
        # one tensor of another scale than the output's, and one of the same
        joined = (*values[3:], *values[:3], every[:100], *values[3:])
        inputs = {f"input{i}": value for i, value in enumerate(joined)}
        theirs = run_operator("QLinearConcat", inputs, fed=8, domain=CONTRIB, axis=0)
        equal(qlinear_concat(*joined, axis=0), theirs)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("kind", KINDS[:3])
def test_qlinear_where_on_all_codes(dtype, kind):
    rng = np.random.default_rng([np.iinfo(dtype).max, len(kind)])
    every = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1).astype(dtype)
    condition = np.array([[True], [False]])  # both sides of each pair
    for _ in range(100):
        scales = drawn_scales(rng, kind, 3)
        sides = [(every, scales[0], integers(rng, dtype)), (every[::-1].copy(), scales[1])]
        values = (*sides[0], *sides[1], integers(rng, dtype), scales[2], integers(rng, dtype))
        inputs = {f"input{i}": value for i, value in enumerate((condition, *values))}
        theirs = run_operator("QLinearWhere", inputs, domain=CONTRIB)
        equal(qlinear_where(condition, *values), theirs)


def test_logistic_is_onnx_runtimes_own():
    x = np.linspace(-20, 20, 100_001).astype(F)
    theirs = run_operator("Sigmoid", dict(x=x))
    equal(logistic(x), theirs)
    assert (F(1) / (F(1) + np.exp(-x)) != theirs).any()


# --- QLinearSoftmax


def softmax_session(inputs, opset, axis):
    proto = ort.operator_model("QLinearSoftmax", inputs, domain=CONTRIB, axis=axis, fed=5)
    proto.graph.node[0].attribute.append(helper.make_attribute("opset", opset))
    return ort.open_session(proto)


@many
@given(EIGHT_BITS, SEEDS, st.sampled_from([12, 13]), st.booleans(), st.integers(-3, 2))
def test_qlinear_softmax(dtype, seed, opset, usual, axis):
    rng = np.random.default_rng(seed)
    scales = [rng.uniform(0.001, 0.5), 0.1, 0.25, 2, 1e-5]
    inputs = dict(
        X=integers(rng, dtype, (rng.integers(1, 4), rng.integers(1, 8), rng.integers(1, 1200))),
        X_scale=np.array(rng.choice(scales), F), x_zero=np.asarray(integers(rng, dtype)),
        y_scale=np.array(1 / 256 if usual else rng.uniform(0.0001, 1), F),
        y_zero=np.array(np.iinfo(dtype).min if usual else rng.integers(0, 64), dtype),
    )  # fmt: skip
    (theirs,) = softmax_session(inputs, opset, axis).run(None, inputs)
    equal(qlinear_softmax(*inputs.values(), opset=opset, axis=axis), theirs)


@pytest.mark.parametrize("count", [2, 3, 16, 100])
def test_qlinear_softmax_beside_ties(count):
    """The last element's share lies within some units in the last place of a tie."""
    rng = np.random.default_rng(count)
    scale, zero = np.array(0.5, F), np.array(0, np.uint8)
    inputs = dict(X=np.zeros((1, count), np.uint8), X_scale=scale, x_zero=zero, y_scale=scale)
    session = softmax_session(inputs | {"y_zero": zero}, 13, -1)
    wrong = dict.fromkeys(("float32", "float64"), 0)
    for _ in range(500):
        below = np.array([0, *rng.integers(0, 12, count - 2), rng.integers(12, 30)])
        share = np.exp(-0.5 * below[-1]) / np.exp(-0.5 * below).sum()
        tie = rng.integers(3, 200) + 0.5
        inputs["X"] = (255 - below).astype(np.uint8)[None]
        inputs["y_scale"] = np.array(share / tie * (1 + 2e-7 * rng.normal()), F)
        given = inputs | {"y_zero": zero}
        (theirs,) = session.run(None, given)
        equal(qlinear_softmax(*given.values(), opset=13), theirs)
        terms = exponentials(0.5, count)[255 - below]
        factor, total = np.floor(F(1) / inputs["y_scale"]), np.add.accumulate(terms)[-1]
        wrong["float32"] += int(np.rint(terms[-1] * factor / total) != theirs[0, -1])
        exact = np.exp(-0.5 * below) / np.exp(-0.5 * below).sum() * float(factor)
        wrong["float64"] += int(np.rint(exact[-1]) != theirs[0, -1])
    assert min(wrong.values()) > 0, wrong


# --- QLinearAveragePool, Resize


@many
@given(EIGHT_BITS, SEEDS, st.integers(1, 3), *[st.booleans()] * 4)
def test_average_pool(dtype, seed, axes, ties, channels_last, include, ceil):
    rng = np.random.default_rng(seed)
    size = [int(n) for n in rng.integers(3, 9, axes)]
    kernel = [int(n) for n in rng.integers(1, 4, axes)]
    options = dict(kernel_shape=kernel, strides=[int(n) for n in rng.integers(1, 4, axes)])
    options |= dict(count_include_pad=int(include), ceil_mode=int(ceil))
    options |= dict(pads=[int(rng.integers(0, n)) for n in kernel * 2])
    options |= dict(channels_last=int(channels_last))
    x_scale = F(rng.integers(1, 9) / 8 if ties else rng.uniform(0.01, 1))
    y_scale = F(
        x_scale * rng.integers(1, 5) / rng.integers(1, 10) if ties else rng.uniform(0.01, 1)
    )
    inputs = dict(
        X=integers(rng, dtype, (2, *size, 5) if channels_last else (2, 5, *size)), x_scale=x_scale,
        x_zero=integers(rng, dtype), y_scale=y_scale, y_zero=integers(rng, dtype),
    )  # fmt: skip
    theirs = run_operator("QLinearAveragePool", inputs, domain=CONTRIB, **options)
    equal(qlinear_average_pool(*inputs.values(), **options), theirs)


@many
@given(EIGHT_BITS, SEEDS, st.integers(1, 3), *[st.booleans()] * 4)
def test_average_of_the_whole_image(dtype, seed, axes, channels_last, include, ceil, same):
    """ONNX Runtime goes over to the global pool: the other formula is wrong on the ties here."""
    rng = np.random.default_rng(seed)
    size = [int(n) for n in rng.integers(1, 4, axes)]
    options = dict(kernel_shape=size, count_include_pad=int(include), ceil_mode=int(ceil))
    options |= dict(strides=[9] * axes, auto_pad="SAME_UPPER" if same else "NOTSET")
    if same and ceil:  # which ONNX Runtime refuses together
        options["ceil_mode"] = 0
    inputs = dict(
        X=integers(rng, dtype, (2, *size, 40) if channels_last else (2, 40, *size)),
        x_scale=F(3.5), x_zero=integers(rng, dtype), y_scale=F(rng.choice([1.75, 7, 3.5, 2.3])),
        y_zero=integers(rng, dtype),
    )  # fmt: skip
    options |= dict(channels_last=int(channels_last))
    theirs = run_operator("QLinearAveragePool", inputs, domain=CONTRIB, **options)
    equal(qlinear_average_pool(*inputs.values(), **options), theirs)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_resize_by_whole_factors(way, dtype):
    rng = np.random.default_rng(0)
    how = dict(mode="nearest", coordinate_transformation_mode=way[0], nearest_mode=way[1])
    for factor in range(1, 9):
        for size in (1, 2, 3, 17, 100, 1000):
            scales = F([1, 1, factor, factor % 3 + 1])
            inputs = dict(X=integers(rng, dtype, (1, 2, size, 3)), roi=None, scales=scales)
            equal(resize(*inputs.values(), **how), run_operator("Resize", inputs, **how))
    with pytest.raises(Unsupported, match="whole numbers"):
        resize(np.zeros((1, 4), dtype), None, F([1, 1.5]), **how)


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


def test_each_operator_was_compared():
    compared = json.loads((MODELS / "compared.json").read_text())["operators"]
    for domain, name in OPERATORS:
        assert compared[operator_name(domain, name)] > 0
