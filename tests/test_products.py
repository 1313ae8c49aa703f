"""Products, sums and pooling of unusual shapes: against ONNX Runtime, or Python's integers."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from conftest import MODELS
from onnx import helper

from qlinear.onnx_model import load
from qlinear.operators import qlinear_conv as qc
from qlinear.operators import qlinear_softmax as softmax
from qlinear.operators.conv_integer import conv_integer
from qlinear.operators.dequantize_linear import dequantize_linear
from qlinear.operators.dynamic_quantize_linear import dynamic_quantize_linear
from qlinear.operators.matmul_integer import matmul_integer
from qlinear.operators.matmul_integer_to_float import (
    dynamic_quantize_matmul,
    matmul_integer_to_float,
)
from qlinear.operators.qgemm import as_conv, qgemm
from qlinear.operators.qlinear_activations import qlinear_leaky_relu, qlinear_sigmoid
from qlinear.operators.qlinear_add import a_is_constant, factors, fma, qlinear_add
from qlinear.operators.qlinear_average_pool import qlinear_average_pool
from qlinear.operators.qlinear_concat import qlinear_concat
from qlinear.operators.qlinear_global_average_pool import (
    pool_scale,
    qlinear_global_average_pool,
)
from qlinear.operators.qlinear_matmul import qlinear_matmul
from qlinear.operators.qlinear_mul import qlinear_mul
from qlinear.operators.quantize_linear import along, quantize_linear
from qlinear.operators.resize import resize
from qlinear.ort import open_session, operator_model, run_operator, tensors

F = np.float32
CONTRIB = "com.microsoft"
SHAPES = [((4,), (4, 3)), ((2, 4), (4,)), ((4,), (4,)), ((5, 2, 4), (4, 3)), ((5, 2, 4), (5, 4, 3))]


def integers(rng, dtype, shape=()):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def equal(ours, theirs):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert (ours == theirs).all()


@pytest.mark.parametrize(("a_shape", "b_shape"), SHAPES)
def test_vectors_and_batches_are_multiplied_as_matrices(a_shape, b_shape):
    rng = np.random.default_rng(0)
    a, b = integers(rng, np.uint8, a_shape), integers(rng, np.int8, b_shape)
    inputs = dict(A=a, B=b, a_zero_point=np.uint8(7), b_zero_point=np.int8(-3))
    equal(np.asarray(matmul_integer(*inputs.values())), run_operator("MatMulInteger", inputs))
    # an array of one element is a scalar
    one = {k: v.reshape(1) if k.endswith("point") else v for k, v in inputs.items()}
    equal(np.asarray(matmul_integer(*one.values())), run_operator("MatMulInteger", inputs))
    inputs = dict(
        a=a, a_scale=F(0.1), a_zero_point=np.uint8(7), b=b, b_scale=F(0.2),
        b_zero_point=np.int8(-3), y_scale=F(9), y_zero_point=np.uint8(99),
    )  # fmt: skip
    equal(qlinear_matmul(*inputs.values()), run_operator("QLinearMatMul", inputs))
    one = {k: v if k in "ab" else v.reshape(1) for k, v in inputs.items()}
    equal(qlinear_matmul(*one.values()), run_operator("QLinearMatMul", inputs))


def test_zero_points_may_be_left_out():
    rng = np.random.default_rng(0)
    A, B = integers(rng, np.uint8, (2, 4)), integers(rng, np.int8, (4, 3))
    equal(matmul_integer(A, B), run_operator("MatMulInteger", dict(A=A, B=B)))
    equal(matmul_integer(A, B), A.astype(np.int32) @ B.astype(np.int32))
    x, w = integers(rng, np.uint8, (1, 2, 4)), integers(rng, np.int8, (3, 2, 2))
    equal(conv_integer(x, w), run_operator("ConvInteger", dict(x=x, w=w)))
    one = np.zeros(1, np.uint8), np.zeros(1, np.int8)
    equal(conv_integer(x, w, *one), conv_integer(x, w))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_zero_points_of_rows_and_columns(rows):
    rng = np.random.default_rng(0)
    A, B = integers(rng, np.int8, (rows, 4)), integers(rng, np.int8, (4, 3))
    a_zero, b_zero = integers(rng, np.int8, rows), integers(rng, np.int8, 3)
    found = matmul_integer(A, B, a_zero, b_zero)
    for m in range(rows):
        for n in range(3):
            terms = ((int(A[m, k]) - int(a_zero[m])) * (int(B[k, n]) - int(b_zero[n]))
                     for k in range(4))  # fmt: skip
            assert found[m, n] == sum(terms)


def test_scales_and_zero_points_of_columns_belong_to_the_last_axis():
    rng = np.random.default_rng(0)
    a, b = integers(rng, np.int8, (3, 4)), integers(rng, np.int8, (4, 3))  # as many as rows
    b_scale, b_zero = F([0.1, 0.5, 2.5]), np.int8([-5, 0, 90])
    common = (a, F(0.1), np.int8(3))
    found = qlinear_matmul(*common, b, b_scale, b_zero, F(2), np.int8(1))
    gemm = qgemm(*common, b, b_scale, b_zero, None, F(2), np.int8(1))
    for n in range(3):
        column = b[:, n : n + 1], b_scale[n], b_zero[n]
        alone = qlinear_matmul(*common, *column, F(2), np.int8(1))
        assert (found[:, n : n + 1] == alone).all() and (gemm[:, n : n + 1] == alone).all()
    assert len(np.unique(found)) > 3


@pytest.mark.parametrize("columns", [1, 2])
def test_few_columns_have_scales_of_their_own(columns):
    rng = np.random.default_rng(0)
    inputs = dict(
        a=integers(rng, np.int8, (3, 4)), a_scale=F(0.1), a_zero_point=np.int8(3),
        b=integers(rng, np.int8, (4, columns)), b_scale=F([0.1, 0.7])[:columns],
        b_zero_point=np.zeros(columns, np.int8), y_scale=F(2), y_zero_point=np.int8(1),
    )  # fmt: skip
    equal(qlinear_matmul(*inputs.values()), run_operator("QLinearMatMul", inputs))


def test_sums_of_1024_products_pass_24_bits_and_equal_ort():
    A, B = np.full((2, 1024), 255, np.uint8), np.full((1024, 3), -127, np.int8)
    A[:, ::7], B[::5] = 254, -126  # odd sums
    inputs = dict(A=A, B=B)
    theirs = run_operator("MatMulInteger", inputs)
    assert (theirs < -(2**24)).all()
    equal(matmul_integer(*inputs.values()), theirs)


def test_qgemm_of_arrays_of_one_element_and_of_a_bias_matrix():
    rng = np.random.default_rng(0)
    one = dict(
        A=integers(rng, np.int8, (2, 4)), a_scale=F([0.1]), a_zero_point=np.int8([3]),
        B=integers(rng, np.int8, (4, 3)), b_scale=F([0.2]), b_zero_point=np.int8([5]),
        C=rng.integers(-900, 900, (2, 3)).astype(np.int32), y_scale=F([7]),
        y_zero_point=np.int8([-9]),
    )  # fmt: skip
    scalars = {k: v if k in "ABC" else v.reshape(()) for k, v in one.items()}
    theirs = run_operator("QGemm", scalars, domain=CONTRIB)
    equal(qgemm(*one.values()), theirs)
    equal(qgemm(*scalars.values()), theirs)
    # alpha is 1 where it is not given, and neither matrix is transposed
    equal(qgemm(*scalars.values(), alpha=1.0, transA=0, transB=0), theirs)


@pytest.mark.parametrize("trans_b", [0, 1])
def test_a_dense_layer_is_a_1x1_convolution(trans_b):
    rng = np.random.default_rng(0)
    A, B = integers(rng, np.int8, (2, 4)), integers(rng, np.int8, (3, 4) if trans_b else (4, 3))
    constants = dict(
        a_scale=F(0.1), a_zero_point=np.int8(3), B=B, b_scale=F([0.1, 0.2, 0.3]),
        b_zero_point=np.int8([1, 2, 3]), C=np.int32([500, -500, 0]), y_scale=F(3),
        y_zero_point=np.int8(-4),
    )  # fmt: skip
    conv = as_conv(**constants, **({"transB": 1} if trans_b else {}))
    found = qc.stages(A[:, :, None, None], conv).y[:, :, 0, 0]
    equal(found, qgemm(A, **constants, transB=trans_b))


def test_a_layer_that_is_no_conv_has_the_ranges_of_one():
    model = load(MODELS / "resnet8_int8.onnx")
    (node,) = model.of_type("QGemm")
    conv = as_conv(**model.arguments(node), **node.attributes)
    low, high = conv.register_range()
    x = tensors(model, np.zeros((1, 3, 32, 32), F))[node.inputs[0]]
    sums = qc.stages(x[:, :, None, None], conv).sums[0, :, 0, 0]
    assert (low <= sums).all() and (sums <= high).all()


# --- QLinearAdd


@pytest.mark.parametrize(
    ("a", "b", "constant"),
    [
        ((5,), (5,), False),
        ((), (5,), True),
        ((5,), (), False),
        ((1,), (5,), True),
        ((5,), (1,), False),
        ((), (), True),
        ((1, 1), (1, 1), True),
        ((2, 1), (2, 5), True),  # the last axis in which either is longer than one
        ((2, 5), (2, 1), False),
        ((2, 3), (1, 3), False),
        ((1, 3), (2, 3), False),
        ((2, 1), (1, 1), False),
        ((1, 1), (2, 1), True),
        ((3, 1), (2, 3, 4), True),
        ((4,), (2, 3, 4), False),
    ],
)
def test_which_operand_comes_first(a, b, constant):
    assert a_is_constant(a, b) == constant
    # with scales on ties the order shows in the result, and is ONNX Runtime's
    rng = np.random.default_rng(1)
    for _ in range(20):
        cs = F(rng.uniform(0.01, 1))
        sa, sb = (F(cs * F(rng.integers(1, 8) / 4)) for _ in range(2))
        values = (
            integers(rng, np.int8, a), sa, integers(rng, np.int8),
            integers(rng, np.int8, b), sb, integers(rng, np.int8), cs, integers(rng, np.int8),
        )  # fmt: skip
        inputs = {f"input{i}": value for i, value in enumerate(values)}
        equal(qlinear_add(*values), run_operator("QLinearAdd", inputs, domain=CONTRIB))


@pytest.mark.parametrize("size", [2**16, 2**16 + 1])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_a_large_sum_is_the_sum_of_its_parts(dtype, size):
    rng = np.random.default_rng(0)
    A, B = integers(rng, dtype, size), integers(rng, dtype, size)
    of = [F(0.3), dtype(3)], [F(0.2), dtype(7)], [F(0.35), dtype(11)]
    whole = qlinear_add(A, *of[0], B, *of[1], *of[2])
    parts = [
        qlinear_add(A[i : i + 100], *of[0], B[i : i + 100], *of[1], *of[2])
        for i in range(0, size, 100)
    ]
    equal(whole, np.concatenate(parts))


def test_the_factors_of_an_add():
    # 3/4, 1/2: 100 - fma(3/4, 8, 1/2 * 6) = 91, all exact
    values = F(0.75), np.int8(8), F(0.5), np.int8(6), F(1), np.int8(100)
    assert [float(v) for v in factors(*values)] == [0.75, 0.5, 91]
    # half a unit in the last place is lost once, not twice
    ra, rb, fixed = factors(F(0.1), np.int8(77), F(0.1), np.int8(-77), F(0.3), np.int8(0))
    exact = -(float(ra) * 77 + float(F(rb * F(-77))))
    assert ra == rb == F(F(0.1) / F(0.3)) and fixed == F(exact) != 0


def test_fma_of_arrays():
    a, b, c = F([[1], [2]]), F([3, 5, 7]), F(0.5)
    found = fma(a, b, c)
    assert found.dtype == F and found.tolist() == [[3.5, 5.5, 7.5], [6.5, 10.5, 14.5]]
    assert fma(F(2), F(3), F(4)).shape == ()
    assert fma(F(2), F(3), F([4, 5])).tolist() == [10, 11]


def nearest_float32(exact: Fraction) -> np.float32:
    """The float32 nearest to a fraction; of two, the one whose last bit is 0."""
    guess = F(float(exact))
    near = [np.nextafter(guess, F(-np.inf)), guess, np.nextafter(guess, F(np.inf))]
    return min(near, key=lambda v: (abs(Fraction(float(v)) - exact), int(v.view(np.int32)) % 2))


@pytest.mark.parametrize("tiny", [0, 2.0**-60, 2.0**-100, 2.0**-149])
def test_fma_rounds_once_where_float64_ends_on_a_tie(tiny):
    """(1 + i / 4096)(1 + j / 4096) is a tie of float32 for odd i * j; an addend too small for
    float64 to hold beside it decides, and the addition alone would lose it."""
    twice = 0
    for i, j, sign, c in product(range(1, 40), (1, 3, 7), (1, -1), (tiny, -tiny)):
        a, b, c = F(sign * (1 + i / 4096)), F(1 + j / 4096), F(c)
        exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
        assert fma(a, b, c) == nearest_float32(exact)
        twice += F(float(a) * float(b) + float(c)) != nearest_float32(exact)
    assert (twice > 0) == (tiny > 0)


# --- QLinearGlobalAveragePool


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 3, 2, 4), (1, 3, 2, 3, 4)])
def test_pooling_over_any_number_of_axes(shape):
    X = integers(np.random.default_rng(0), np.uint8, shape)
    x, y = (F(0.3), np.uint8(100)), (F(0.2), np.uint8(7))
    found = qlinear_global_average_pool(X, *x, *y)
    assert found.shape == (*shape[:2], *(1,) * (len(shape) - 2))
    last = qlinear_global_average_pool(np.moveaxis(X, 1, -1), *x, *y, channels_last=1)
    assert (np.moveaxis(last, -1, 1) == found).all()
    pixels = int(np.prod(shape[2:]))
    for n, c in np.ndindex(shape[:2]):
        total = sum(int(v) - 100 for v in X[n, c].ravel())
        wanted = np.rint(F(total) * F(F(0.3) / F(F(0.2) * F(pixels)))) + 7
        assert found[n, c].item() == np.clip(wanted, 0, 255)
    one = qlinear_global_average_pool(X, *(v.reshape(1) for v in (*map(np.asarray, (*x, *y)),)))
    assert (one == found).all()


def test_the_factor_of_a_pooling_is_rounded_twice():
    rng = np.random.default_rng(0)
    other = 0
    assert pool_scale(0.1, 0.7, 3) == F(F(0.1) / F(F(0.7) * F(3)))  # of Python's numbers too
    for _ in range(300):
        x, y, pixels = F(rng.uniform(0.01, 1)), F(rng.uniform(0.01, 1)), int(rng.integers(2, 99))
        found = pool_scale(x, y, pixels)
        assert found.dtype == F and found == F(x / F(y * F(pixels)))
        other += found != F(float(x) / (float(y) * pixels))
    assert other > 0


# --- QuantizeLinear


def test_parameters_lie_along_their_axis():
    shape = (2, 3, 4)
    assert along(F(1), shape, 9, 0, "s").shape == ()  # a scalar has no axis
    assert along(F([1]), shape, 9, 0, "s").shape == ()
    assert along(F([1, 2, 3]), shape, 1, 0, "s").shape == (1, 3, 1)
    assert along(F([1, 2]), shape, -3, 0, "s").shape == (2, 1, 1)
    assert along(F([1, 2, 3, 4]), shape, 2, 0, "s").shape == (1, 1, 4)
    blocks = np.arange(12, dtype=F).reshape(2, 3, 2)
    spread = along(blocks, shape, 2, 2, "s")
    assert spread.shape == shape and (spread == np.repeat(blocks, 2, 2)).all()
    # the last block may be cut short
    short = along(np.arange(4, dtype=F).reshape(2, 2), (2, 3), -1, 2, "s")
    assert short.tolist() == [[0, 0, 1], [2, 2, 3]]
    single = along(np.ones((1, 1), F), (1, 2), 1, 2, "s")
    assert single.shape == (1, 2)


def test_the_type_of_the_output():
    x = F([1, 2, 300, -5])
    assert quantize_linear(x, F(1)).dtype == np.uint8  # ONNX's default
    assert quantize_linear(x, F(1)).tolist() == [1, 2, 255, 0]
    assert quantize_linear(x, F(1), output_dtype=3).dtype == np.int8
    assert quantize_linear(x, F(1), np.int16(3), precision=1).tolist() == [4, 5, 303, -2]
    assert quantize_linear(F([1, 2]), F([1, 2]), axis=0).tolist() == [1, 1]


def test_an_overflow_saturates_without_a_warning():
    with np.errstate(all="raise"):
        assert quantize_linear(F([3e38, -3e38]), F(0.1), np.int8(5)).tolist() == [127, -128]


def test_dequantize_linear_at_its_edges():
    # float32 is the type that 0 and 1 stand for
    x = np.int8([[1, 2], [3, 4]])
    for options in ({}, dict(output_dtype=0), dict(output_dtype=1), dict(axis=1)):
        found = dequantize_linear(x, F([1, 10]), np.int8([0, 1]), **options)
        assert found.dtype == F and found.tolist() == [[1, 10], [3, 30]]
    # the difference of two int32 wraps, as ONNX Runtime's does, and is rounded by the conversion
    inputs = dict(x=np.int32([-(2**31), 5, 2**24 + 1]), x_scale=F(1), x_zero_point=np.int32(1))
    found = dequantize_linear(*inputs.values())
    equal(found, run_operator("DequantizeLinear", inputs))
    assert found.tolist() == [2.0**31, 4, 2**24]
    odd = dict(x=np.int32([2**24 + 1, 2**24 + 3]), x_scale=F(3))
    equal(dequantize_linear(*odd.values()), run_operator("DequantizeLinear", odd))


# --- QLinearMul


@pytest.mark.parametrize(
    ("steps", "zero"), [(246, -118), (28, -84), (480, -5), (492, 67)]
)  # fmt: skip
def test_products_are_scaled_and_shifted_in_float32(steps, zero):
    """Factors of 1 / steps, for which float64 in either place would round other products."""
    every = np.arange(-128, 128).astype(np.int8)
    values = dict(
        A=np.repeat(every, 256), A_scale=F(1), A_zero=np.int8(0), B=np.tile(every, 256),
        B_scale=F(1), B_zero=np.int8(0), C_scale=F(steps), C_zero=np.int8(zero),
    )  # fmt: skip
    theirs = run_operator("QLinearMul", values, domain=CONTRIB)
    equal(qlinear_mul(*values.values()), theirs)
    product, ratio = values["A"].astype(np.int32) * values["B"], F(1) / F(steps)
    late = (product.astype(F) * ratio).astype(float) + zero
    for wide in (product * float(ratio) + zero, late):
        assert (np.clip(np.rint(wide), -128, 127) != theirs).any()


def test_products_past_int32_become_the_least():
    values = dict(
        A=np.int8([1, 1, -1, 2]), A_scale=F(2**16), A_zero=np.int8(0), B=np.int8([1, 0, 1, 127]),
        B_scale=F(2**15), B_zero=np.int8(0), C_scale=F(1), C_zero=np.int8(0),
    )  # fmt: skip
    theirs = run_operator("QLinearMul", values, domain=CONTRIB)
    with np.errstate(all="raise"):
        equal(qlinear_mul(*values.values()), theirs)
        assert theirs.tolist() == [-128, 0, -128, -128]  # 2**31 is one too many
        # infinity times 0 is no number
        values |= dict(A_scale=F(3e38), B_scale=F(3e38), C_scale=F(1e-30))
        equal(qlinear_mul(*values.values()), run_operator("QLinearMul", values, domain=CONTRIB))


# --- what may be left out


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_an_average_pool_with_nothing_but_a_kernel(dtype):
    zero = np.zeros((), dtype)
    X = integers(np.random.default_rng(0), dtype, (1, 2, 5, 6))
    inputs = dict(X=X, x_scale=F(0.3), x_zero=zero, y_scale=F(0.2), y_zero=zero)
    options = dict(kernel_shape=[3, 2], pads=[1, 0, 1, 1])
    theirs = run_operator("QLinearAveragePool", inputs, domain=CONTRIB, **options)
    equal(qlinear_average_pool(*inputs.values(), **options), theirs)
    equal(qlinear_average_pool(X, F(0.3), None, F(0.2), **options), theirs)
    one = [value if value is X else value.reshape(1) for value in inputs.values()]
    equal(qlinear_average_pool(*one, **options), theirs)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_functions_of_one_tensor_with_nothing_but_scales(dtype):
    info, zero = np.iinfo(dtype), np.zeros((), dtype)
    X = np.arange(info.min, info.max + 1).astype(dtype)
    inputs = dict(X=X, X_scale=F(0.05), X_zero=zero, Y_scale=F(1 / 200), Y_zero=zero)
    for function, op_type in (
        (qlinear_sigmoid, "QLinearSigmoid"),
        (qlinear_leaky_relu, "QLinearLeakyRelu"),  # whose alpha is 0.01
    ):
        theirs = run_operator(op_type, inputs, domain=CONTRIB)
        equal(function(*inputs.values()), theirs)
        equal(function(X, F(0.05), None, F(1 / 200), None), theirs)
        equal(function(*[v if v is X else v.reshape(1) for v in inputs.values()]), theirs)


@pytest.mark.parametrize("opset", [12, 13])
def test_a_softmax_of_its_default_axis(opset):
    X = integers(np.random.default_rng(0), np.uint8, (2, 3, 4))
    inputs = dict(
        X=X, X_scale=F(0.05), x_zero=None, y_scale=F(1 / 256), y_zero=np.uint8(0)
    )  # fmt: skip
    proto = operator_model("QLinearSoftmax", inputs, domain=CONTRIB)
    proto.graph.node[0].attribute.append(helper.make_attribute("opset", opset))
    (theirs,) = open_session(proto).run(None, {"X": X})
    equal(softmax.qlinear_softmax(*inputs.values(), opset=opset), theirs)
    assert (abs(theirs.astype(int).sum(-1) - 256) <= 8).all()  # the last one, in both


def test_a_softmax_of_steps_of_1_knows_how_many_elements_it_has(monkeypatch):
    X = integers(np.random.default_rng(0), np.uint8, (2, 3, 4))
    inputs = dict(X=X, X_scale=F(0.05), x_zero=None, y_scale=F(1), y_zero=np.uint8(0))
    proto = operator_model("QLinearSoftmax", inputs, domain=CONTRIB, axis=-1)
    proto.graph.node[0].attribute.append(helper.make_attribute("opset", 13))
    (theirs,) = open_session(proto).run(None, {"X": X})
    real, counts = softmax.exponentials, []
    monkeypatch.setattr(softmax, "exponentials", lambda *of: counts.append(of[1]) or real(*of))
    equal(softmax.qlinear_softmax(*inputs.values(), opset=13), theirs)
    softmax.qlinear_softmax(*inputs.values(), opset=13, axis=1)
    softmax.qlinear_softmax(*inputs.values(), opset=12, axis=1)
    assert counts == [4, 3, 12]


def test_the_least_scale_of_a_dynamic_layer_is_normal():
    tiny = np.finfo(F).tiny
    y, scale, zero = dynamic_quantize_linear(F([0, 255]) * tiny)
    assert (scale, zero) == (tiny, 0) and y.tolist() == [0, 255]


def test_concatenations_along_their_axis():
    part = (np.int8([[1, 2]]), F(1), np.int8(0))
    assert qlinear_concat(F(1), np.int8(0), *part, *part, axis=0).tolist() == [[1, 2], [1, 2]]
    assert qlinear_concat(F(1), np.int8(0), *part, *part, axis=1).tolist() == [[1, 2, 1, 2]]


def test_products_in_float_without_zero_points_or_bias():
    rng = np.random.default_rng(0)
    A, B = integers(rng, np.uint8, (2, 4)), integers(rng, np.int8, (4, 3))
    inputs = dict(A=A, B=B, a_scale=F(0.1), b_scale=F(0.2))
    theirs = run_operator("MatMulIntegerToFloat", inputs, domain=CONTRIB)
    equal(matmul_integer_to_float(*inputs.values()), theirs)
    inputs = dict(A=rng.normal(0, 1, (2, 4)).astype(F), B=B, b_scale=F(0.2))
    theirs = run_operator("DynamicQuantizeMatMul", inputs, domain=CONTRIB)
    equal(dynamic_quantize_matmul(*inputs.values()), theirs)


def test_resize_by_sizes_and_along_some_axes():
    X = integers(np.random.default_rng(0), np.int8, (2, 3))
    twice = np.repeat(np.repeat(X, 2, 0), 3, 1)
    equal(resize(X, None, F([2, 3])), twice)
    equal(resize(X, None, None, np.int64([4, 9])), twice)
    equal(resize(X, None, F([]), np.int64([4, 9])), twice)
    equal(resize(X, None, F([3]), axes=[1]), np.repeat(X, 3, 1))
    equal(resize(X, None, None, np.int64([9, 4]), axes=[1, 0]), twice)
    inputs = dict(X=X, roi=None, scales=F([2, 3]))
    equal(resize(*inputs.values()), run_operator("Resize", inputs))  # the defaults are ONNX's
