"""What each operator refuses: the message names the input, and legal neighbours pass."""

import re

import numpy as np
import pytest
from onnx import TensorProto

from qlinear.errors import Unsupported, UnusableInput
from qlinear.operators import qlinear_conv as qc
from qlinear.operators.add import add
from qlinear.operators.cast import cast
from qlinear.operators.conv_integer import conv_integer
from qlinear.operators.dequantize_linear import dequantize_linear
from qlinear.operators.dynamic_quantize_linear import dynamic_quantize_linear
from qlinear.operators.matmul_integer import matmul_integer
from qlinear.operators.matmul_integer_to_float import (
    dynamic_quantize_matmul,
    matmul_integer_to_float,
)
from qlinear.operators.max_pool import max_pool
from qlinear.operators.qgemm import qgemm
from qlinear.operators.qlinear_activations import qlinear_leaky_relu, qlinear_sigmoid
from qlinear.operators.qlinear_add import qlinear_add
from qlinear.operators.qlinear_average_pool import qlinear_average_pool
from qlinear.operators.qlinear_concat import qlinear_concat
from qlinear.operators.qlinear_conv_fast import qlinear_conv as fast_conv
from qlinear.operators.qlinear_global_average_pool import qlinear_global_average_pool
from qlinear.operators.qlinear_matmul import qlinear_matmul
from qlinear.operators.qlinear_mul import qlinear_mul
from qlinear.operators.qlinear_softmax import qlinear_softmax
from qlinear.operators.quantize_linear import quantize_linear
from qlinear.operators.resize import resize

F = np.float32
I0, U0 = np.int8(0), np.uint8(0)


def i8(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.int8)


def legal() -> dict[str, tuple]:
    """Each operator with inputs that it takes, by ONNX's names."""
    conv = dict(
        x=i8(1, 2, 4, 4), x_scale=F(1), x_zero_point=I0, w=i8(3, 2, 3, 3), w_scale=F([1, 1, 1]),
        w_zero_point=i8(3), y_scale=F(1), y_zero_point=I0, B=np.zeros(3, np.int32),
    )  # fmt: skip
    a = dict(a_scale=F(1), a_zero_point=I0)
    b = dict(b_scale=F([1, 1, 1]), b_zero_point=i8(3))
    y = dict(y_scale=F(1), y_zero_point=I0)
    return {
        "qlinear_conv": (qc.qlinear_conv, conv),
        "fast_conv": (fast_conv, conv),
        "conv_integer": (
            conv_integer,
            dict(x=i8(1, 2, 4, 4), w=i8(3, 2, 3, 3), x_zero_point=I0, w_zero_point=i8(3)),
        ),
        "matmul_integer": (
            matmul_integer, dict(A=i8(2, 4), B=i8(4, 3), a_zero_point=I0, b_zero_point=i8(3)),
        ),
        "qlinear_matmul": (qlinear_matmul, dict(a=i8(2, 4), **a, b=i8(4, 3), **b, **y)),
        "qgemm": (
            qgemm, dict(A=i8(2, 4), **a, B=i8(4, 3), **b, C=np.zeros(3, np.int32), **y),
        ),
        "qlinear_add": (
            qlinear_add,
            dict(A=i8(2, 3), A_scale=F(1), A_zero_point=I0, B=i8(3), B_scale=F(1), B_zero_point=I0,
                 C_scale=F(1), C_zero_point=I0),
        ),
        "pool": (
            qlinear_global_average_pool,
            dict(X=i8(1, 2, 4, 4), x_scale=F(1), x_zero_point=I0, **y),
        ),
        "average_pool": (
            qlinear_average_pool,
            dict(X=i8(1, 2, 4, 4), x_scale=F(1), x_zero_point=I0, **y, kernel_shape=[2, 2]),
        ),
        "sigmoid": (
            lambda **inputs: qlinear_sigmoid(**inputs) - np.int8(64),  # half, in steps of 1 / 128
            dict(X=i8(2, 3), X_scale=F(1), X_zero_point=I0, Y_scale=F(1 / 128), Y_zero_point=I0),
        ),
        "leaky_relu": (
            qlinear_leaky_relu,
            dict(X=i8(2, 3), X_scale=F(1), X_zero_point=I0, Y_scale=F(1), Y_zero_point=I0),
        ),
        "mul": (
            qlinear_mul,
            dict(A=i8(2, 3), A_scale=F(1), A_zero_point=I0, B=i8(3), B_scale=F(1), B_zero_point=I0,
                 C_scale=F(1), C_zero_point=I0),
        ),
        "softmax": (
            lambda **inputs: qlinear_softmax(**inputs) - np.int8(64),
            dict(X=i8(3, 2), X_scale=F(1), x_zero_point=I0, y_scale=F(1 / 128), y_zero_point=I0,
                 opset=13),
        ),
        "to_float": (
            matmul_integer_to_float,
            dict(A=i8(2, 4), B=i8(4, 3), a_scale=F(1), b_scale=F([1, 1, 1]), a_zero_point=I0,
                 b_zero_point=i8(3), bias=np.zeros(3, F)),
        ),
        "dynamic": (
            dynamic_quantize_matmul,
            dict(A=np.zeros((2, 4), F), B=i8(4, 3), b_scale=F([1, 1, 1]), b_zero_point=i8(3),
                 bias=np.zeros(3, F)),
        ),
        "add": (add, dict(A=i8(2, 3), B=i8(3))),
        "cast": (cast, dict(input=i8(2, 3), to=TensorProto.INT32)),
        "resize": (resize, dict(X=i8(2, 3), scales=F([2, 3]))),
        "max_pool": (max_pool, dict(X=i8(1, 2, 4, 4), kernel_shape=[2, 2])),
        "quantize": (
            quantize_linear,
            dict(x=np.zeros((2, 3), F), y_scale=F([1, 1, 1]), y_zero_point=i8(3)),
        ),
        "dequantize": (
            dequantize_linear, dict(x=i8(2, 3), x_scale=F([1, 1, 1]), x_zero_point=i8(3)),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", legal())
def test_legal_inputs_are_taken(name):
    function, inputs = legal()[name]
    assert not function(**inputs).any()  # of zeros


def conv_cases(name):
    two, wide = F([1, 1]), np.ones((3, 1), F)
    return [
        (name, dict(w=i8(3, 2)), "w has shape (3, 2): 1 to 3 spatial axes needed"),
        (name, dict(x=i8(1, 2, 4)), "x has shape (1, 2, 4) and w (3, 2, 3, 3): 1 to 3 spatial"),
        (name, dict(x=i8(1, 2, 0, 4)), "an axis of length 0"),
        (name, dict(x=i8(1, 0, 4, 4)), "an axis of length 0"),
        (name, dict(w=i8(3, 0, 3, 3)), "an axis of length 0"),
        (name, dict(x=i8(1, 3, 4, 4)), "group is 1 but x has shape (1, 3, 4, 4)"),
        (name, dict(x=np.zeros((1, 2, 4, 4), np.int32)), "x has type int32"),
        (name, dict(x_scale=two), "x_scale has shape (2,): a scalar or 1 elements"),
        (name, dict(x_scale=F(0)), "x_scale is"),
        (name, dict(x_zero_point=i8(2)), "x_zero_point has shape (2,): a scalar or 1"),
        (name, dict(x_zero_point=U0), "x_zero_point has type uint8 but x int8"),
        (name, dict(w=np.zeros((3, 2, 3, 3), np.int16)), "w has type int16"),
        (name, dict(w_scale=two), "w_scale has shape (2,): a scalar or 1 or 3 elements"),
        (name, dict(w_scale=wide), "w_scale has shape (3, 1)"),
        (name, dict(w_scale=np.ones(3)), "w_scale has type float64"),
        (name, dict(w_zero_point=i8(2)), "w_zero_point has shape (2,): a scalar or 1 or 3"),
        (name, dict(w_zero_point=U0), "w_zero_point has type uint8 but w int8"),
        (name, dict(y_scale=two), "y_scale has shape (2,): a scalar or 1 elements"),
        (name, dict(y_scale=F(-1)), "y_scale is"),
        (name, dict(y_zero_point=i8(2)), "y_zero_point has shape (2,): a scalar or 1"),
        (name, dict(y_zero_point=np.int16(0)), "y_zero_point has type int16"),
        (name, dict(B=np.zeros(2, np.int32)), "B has type int32, shape (2,): int32 (3,) needed"),
        (name, dict(B=np.zeros(3, np.int64)), "B has type int64, shape (3,): int32 (3,) needed"),
        (
            name, dict(x_scale=F(1e30), y_scale=F(1e-30)),
            "x_scale * w_scale / y_scale is too large for float32",
        ),
        (name, dict(strides=[1, 0]), "strides is [1, 0]: needs 2 integers >= 1"),
        (name, dict(strides=[1]), "strides is [1]: needs 2 integers >= 1"),
        (name, dict(dilations=[0, 1]), "dilations is [0, 1]: needs 2 integers >= 1"),
        (name, dict(pads=[0, 0, 0, -1]), "pads is [0, 0, 0, -1]: needs 4 integers >= 0"),
        (name, dict(group=0), "group is 0"),
        (name, dict(group=2), "group is 2"),
        (name, dict(dilations=[2, 1]), "the kernel spans (5, 3) but the padded input is smaller"),
        (name, dict(auto_pad="SAME"), "auto_pad is 'SAME', not one of NOTSET, SAME_UPPER, SAME_LO"),
        (name, dict(kernel_shape=[3, 2]), "kernel_shape is [3, 2] but w has shape (3, 2, 3, 3)"),
    ]  # fmt: skip


def of_both(name, pairs, q):
    """The same of every scale and zero point; ``q`` is the tensor's type."""
    cases = []
    for tensor, scale, zero in pairs:
        cases += [
            (name, {scale: F(0)}, f"{tensor}_scale is"),
            (name, {scale: F(-1)}, f"{tensor}_scale is"),
            (name, {scale: np.ones(())}, f"{tensor}_scale has type float64"),
            (name, {scale: F([1, 1])}, f"{tensor}_scale has shape (2,): a scalar or 1 elements"),
            (name, {zero: i8(2)}, f"{tensor}_zero_point has shape (2,): a scalar or 1 elements"),
            (name, {zero: U0}, f"{tensor}_zero_point has type uint8 but {tensor} int8"),
        ]
    return [
        *cases,
        (name, {q: np.zeros((3, 2), np.int32)}, " has type int32: int8 or uint8 needed"),
    ]


XY = (("x", "x_scale", "x_zero_point"), ("y", "y_scale", "y_zero_point"))
CAPITALS = (("x", "X_scale", "X_zero_point"), ("y", "Y_scale", "Y_zero_point"))
ABC = tuple((q, f"{q}_scale", f"{q}_zero_point") for q in "ABC")
CASES = [
    *of_both("average_pool", XY, "X"),
    *of_both("sigmoid", CAPITALS, "X"),
    *of_both("leaky_relu", CAPITALS, "X"),
    *of_both("mul", ABC, "A"),
    ("mul", dict(B=np.zeros(3, np.int32)), "B has type int32"),
    *of_both("softmax", XY[1:], "X"),
    ("softmax", dict(X_scale=F(0)), "x_scale is"),
    ("softmax", dict(X_scale=F([1, 1])), "x_scale has shape (2,): a scalar or 1 elements"),
    ("softmax", dict(x_zero_point=U0), "x_zero_point has type uint8 but x int8"),
    ("softmax", dict(axis=2), "X has shape (3, 2), axis is 2, y_scale 0.0078125"),
    ("softmax", dict(axis=-3), "X has shape (3, 2), axis is -3, y_scale"),
    ("softmax", dict(X=i8(0, 2)), "X has shape (0, 2), axis is -1"),
    ("softmax", dict(y_scale=F(1.5)), "y_scale 1.5"),
    ("to_float", dict(a_scale=F(0)), "a_scale is"),
    ("to_float", dict(b_scale=F([1, 0, 1])), "b_scale is"),
    ("to_float", dict(a_scale=F([1, 1])), "a_scale has shape (2,): a scalar or 1 elements needed"),
    ("to_float", dict(b_scale=F([1, 1])), "b_scale has shape (2,): a scalar or 1 or 3 elements"),
    ("to_float", dict(bias=np.zeros(2, F)), "bias has shape (2,): 3 elements needed"),
    ("to_float", dict(A=i8(5, 2, 4), B=i8(5, 4, 3), bias=F([1])), "bias has shape (1,): 3 el"),
    ("to_float", dict(a_zero_point=U0), "a_zero_point has type uint8 but a int8"),
    ("to_float", dict(A=i8(2, 3)), "the inner axes differ"),
    ("dynamic", dict(A=np.zeros((2, 4))), "x has type float64: float32 needed"),
    ("dynamic", dict(A=np.full((2, 4), np.inf, F)), "x is empty or not finite: no range to quan"),
    ("dynamic", dict(A=np.zeros((0, 4), F)), "x is empty or not finite: no range to quantize"),
    ("dynamic", dict(A=np.full((2, 4), 1e-40, F)), "y_scale is"),
    ("dynamic", dict(A=F([[-3e38, 3e38, 0, 0]])), "y_scale is inf: finite and normal needed"),
    ("add", dict(A=np.zeros(3, F), B=np.zeros(3, F)), "A has type float32 and B float32: the same"),
    ("add", dict(B=np.zeros(3, np.uint8)), "A has type int8 and B uint8: the same integer type"),
    ("cast", dict(input=np.zeros(3, F)), "from float32 to int32: from integers to them or float"),
    ("cast", dict(to=TensorProto.FLOAT16), "from int8 to float16: from integers to them or float"),
    ("resize", dict(X=np.zeros((2, 3), F)), "float32, mode nearest, half_pixel, round_prefer_fl"),
    ("resize", dict(mode="linear"), "int8, mode linear, half_pixel, round_prefer_floor"),
    ("resize", dict(nearest_mode="ceil"), "int8, mode nearest, half_pixel, ceil"),
    (
        "resize", dict(coordinate_transformation_mode="align_corners"),
        "int8, mode nearest, align_corners, round_prefer_floor",
    ),
    (
        "resize", dict(keep_aspect_ratio_policy="not_larger"),
        "keep_aspect_ratio_policy is not_larger",
    ),
    ("resize", dict(scales=None), "neither scales nor sizes"),
    ("resize", dict(scales=F([])), "neither scales nor sizes"),
    ("resize", dict(scales=F([2])), "the factors are [2.]: whole numbers needed"),
    ("resize", dict(scales=F([2, 1.5])), "the factors are [2.  1.5]: whole numbers needed"),
    ("resize", dict(scales=F([1, 0])), "the factors are [1. 0.]: whole numbers needed"),
    ("resize", dict(scales=None, sizes=np.int64([2, 4])), "whole numbers needed"),
    *conv_cases("qlinear_conv"),
    *conv_cases("fast_conv"),
    ("conv_integer", dict(x=np.zeros((1, 2, 4, 4), np.int32)), "x has type int32"),
    ("conv_integer", dict(w=np.zeros((3, 2, 3, 3), np.int32)), "w has type int32"),
    ("conv_integer", dict(x_zero_point=U0), "x_zero_point has type uint8 but x int8"),
    ("conv_integer", dict(x_zero_point=i8(2)), "x_zero_point has shape (2,): a scalar or 1 elem"),
    ("conv_integer", dict(w_zero_point=U0), "w_zero_point has type uint8 but w int8"),
    ("conv_integer", dict(w_zero_point=i8(2)), "w_zero_point has shape (2,): a scalar or 1 or 3"),
    ("conv_integer", dict(group=2), "group is 2"),
    ("matmul_integer", dict(A=np.zeros((2, 4), np.int32)), "a has type int32"),
    ("matmul_integer", dict(B=np.zeros((4, 3), np.int32)), "b has type int32"),
    ("matmul_integer", dict(a_zero_point=U0), "a_zero_point has type uint8 but a int8"),
    ("matmul_integer", dict(b_zero_point=U0), "b_zero_point has type uint8 but b int8"),
    ("matmul_integer", dict(A=i8(2, 3)), "A has shape (2, 3) and B (4, 3): the inner axes differ"),
    ("matmul_integer", dict(B=i8(3)), "A has shape (2, 4) and B (3,): the inner axes differ"),
    ("matmul_integer", dict(A=i8()), "A has shape () and B (4, 3): the inner axes differ"),
    ("matmul_integer", dict(B=i8()), "A has shape (2, 4) and B (): the inner axes differ"),
    ("qlinear_matmul", dict(a=np.zeros((2, 4), np.int32)), "a has type int32"),
    ("qlinear_matmul", dict(b=np.zeros((4, 3), np.int32)), "b has type int32"),
    ("qlinear_matmul", dict(y_zero_point=np.int32(0)), "y_zero_point has type int32"),
    ("qlinear_matmul", dict(a_scale=F(0)), "a_scale is"),
    ("qlinear_matmul", dict(b_scale=F([1, 1, 0])), "b_scale is"),
    ("qlinear_matmul", dict(y_scale=F(0)), "y_scale is"),
    ("qlinear_matmul", dict(a_zero_point=U0), "a_zero_point has type uint8 but a int8"),
    ("qlinear_matmul", dict(b_zero_point=U0), "b_zero_point has type uint8 but b int8"),
    ("qlinear_matmul", dict(a=i8(2, 3)), "a has shape (2, 3) and b (4, 3): the inner axes differ"),
    ("qlinear_matmul", dict(b=i8(3)), "a has shape (2, 4) and b (3,): the inner axes differ"),
    ("qlinear_matmul", dict(a=i8()), "a has shape () and b (4, 3): the inner axes differ"),
    ("qlinear_matmul", dict(b=i8()), "a has shape (2, 4) and b (): the inner axes differ"),
    ("qlinear_matmul", dict(a_scale=F([1, 1])), "a_scale has shape (2,): a scalar or 1 elem"),
    ("qlinear_matmul", dict(a_zero_point=i8(2)), "a_zero_point has shape (2,): a scalar or 1 el"),
    ("qlinear_matmul", dict(b_scale=F([1, 1])), "b_scale has shape (2,): a scalar or 1 or 3"),
    ("qlinear_matmul", dict(b_zero_point=i8(2)), "b_zero_point has shape (2,): a scalar or 1 or"),
    ("qlinear_matmul", dict(y_scale=F([1, 1])), "y_scale has shape (2,): a scalar or 1 elem"),
    ("qlinear_matmul", dict(y_zero_point=i8(2)), "y_zero_point has shape (2,): a scalar or 1 el"),
    ("qgemm", dict(A=np.zeros((2, 4), np.int32)), "a has type int32"),
    ("qgemm", dict(B=np.zeros((4, 3), np.int32)), "b has type int32"),
    ("qgemm", dict(A=i8(1, 2, 4)), "A has shape (1, 2, 4) and B (4, 3): two axes each needed"),
    ("qgemm", dict(B=i8(4)), "A has shape (2, 4) and B (4,): two axes each needed"),
    ("qgemm", dict(B=i8(3, 4)), "A has 4 columns but B 3 rows"),
    ("qgemm", dict(B=i8(3, 5), transB=1), "A has 4 columns but B 5 rows"),
    ("qgemm", dict(transA=1), "A has 2 columns but B 4 rows"),
    ("qgemm", dict(a_scale=F([1, 1])), "a_scale has shape (2,): a scalar or 1 elem"),
    ("qgemm", dict(a_scale=F(0)), "a_scale is"),
    ("qgemm", dict(a_zero_point=i8(2)), "a_zero_point has shape (2,): a scalar or 1 el"),
    ("qgemm", dict(b_scale=F([1, 1])), "b_scale has shape (2,): a scalar or 1 or 3"),
    ("qgemm", dict(b_scale=F([1, 1, 0])), "b_scale is"),
    ("qgemm", dict(b_zero_point=i8(2)), "b_zero_point has shape (2,): a scalar or 1 or"),
    ("qgemm", dict(C=np.zeros(3, np.int64)), "C has type int64: int32 needed"),
    ("qgemm", dict(y_scale=F(0)), "y_scale is"),
    ("qgemm", dict(y_zero_point=np.int32(0)), "y_zero_point has type int32"),
    *(
        ("qlinear_add", change, message)
        for q in "ABC"
        for change, message in (
            ({f"{q}_scale": F(0)}, f"{q}_scale is"),
            ({f"{q}_scale": F([1, 1])}, f"{q}_scale has shape (2,): a scalar or 1 elements needed"),
            ({f"{q}_zero_point": i8(2)}, f"{q}_zero_point has shape (2,): a scalar or 1 elements"),
            ({f"{q}_zero_point": U0}, f"{q}_zero_point has type uint8 but {q} int8"),
        )
    ),
    ("qlinear_add", dict(A=np.zeros(3, np.int32)), "A has type int32"),
    ("qlinear_add", dict(B=np.zeros(3, np.int32)), "B has type int32"),
    (
        "qlinear_add", dict(A_scale=F(1e30), C_scale=F(1e-30)),
        "A_scale / C_scale or B_scale / C_scale is too large for float32",
    ),
    (
        "qlinear_add", dict(B_scale=F(1e30), C_scale=F(1e-30)),
        "A_scale / C_scale or B_scale / C_scale is too large for float32",
    ),
    ("pool", dict(X=np.zeros((1, 2, 4, 4), np.int32)), "x has type int32"),
    ("pool", dict(X=i8(1, 2)), "X has shape (1, 2): at least one spatial axis needed"),
    ("pool", dict(x_scale=F(0)), "x_scale is"),
    ("pool", dict(y_scale=F(0)), "y_scale is"),
    ("pool", dict(x_scale=F([1, 1])), "x_scale has shape (2,): a scalar or 1 elements needed"),
    ("pool", dict(y_scale=F([1, 1])), "y_scale has shape (2,): a scalar or 1 elements needed"),
    ("pool", dict(x_zero_point=U0), "x_zero_point has type uint8 but x int8"),
    ("pool", dict(y_zero_point=U0), "y_zero_point has type uint8 but y int8"),
    ("pool", dict(x_zero_point=i8(2)), "x_zero_point has shape (2,): a scalar or 1 elements"),
    ("pool", dict(y_zero_point=i8(2)), "y_zero_point has shape (2,): a scalar or 1 elements"),
    ("max_pool", dict(X=np.zeros((1, 2, 4, 4), F)), "X has type float32: int8 or uint8 needed"),
    (
        "max_pool", dict(auto_pad="SAME_UPPER", dilations=[2, 1]),
        "auto_pad is SAME_UPPER with dilations",
    ),
    (
        "max_pool", dict(auto_pad="SAME_LOWER", dilations=[1, 2]),
        "auto_pad is SAME_LOWER with dilations",
    ),
    ("max_pool", dict(kernel_shape=[5, 2]), "the kernel spans (5, 2) but the padded input is sm"),
    ("max_pool", dict(strides=[0, 1]), "strides is [0, 1]"),
    ("max_pool", dict(pads=[1, 1]), "pads is [1, 1]: needs 4"),
    ("max_pool", dict(dilations=[1]), "dilations is [1]"),
    ("quantize", dict(x=np.zeros((2, 3))), "x has type float64: float32 needed"),
    ("quantize", dict(precision=10), "precision is 10: only float32 (1) is supported"),
    ("quantize", dict(y_scale=F(0)), "y_scale is"),
    ("quantize", dict(y_zero_point=np.int32(0)), "y_zero_point has type int32: an integer of 2 to"),
    ("quantize", dict(y_zero_point=None, output_dtype=6), "y_zero_point has type int32"),
    ("quantize", dict(axis=2), "axis is 2 but x has shape (2, 3)"),
    ("quantize", dict(axis=-3), "axis is -3 but x has shape (2, 3)"),
    ("quantize", dict(axis=0), "y_scale has shape (3,): 2 elements needed, axis 0"),
    ("quantize", dict(y_zero_point=i8(2)), "y_zero_point has shape (2,): 3 elements needed, axis"),
    (
        "quantize", dict(block_size=2),
        "y_scale has shape (3,): not the 2-blocks of (2, 3) along axis 1",
    ),
    (
        "quantize", dict(y_scale=np.ones((2, 1), F), block_size=2),
        "y_scale has shape (2, 1): not the 2-blocks of (2, 3) along axis 1",
    ),
    (
        "quantize", dict(y_scale=np.ones((3, 2), F), block_size=2),
        "y_scale has shape (3, 2): not the 2-blocks of (2, 3) along axis 1",
    ),
    ("dequantize", dict(x=np.zeros((2, 3), np.int64)), "x has type int64: an integer of 2 to 16"),
    ("dequantize", dict(output_dtype=2), "output_dtype is 2: only float32 (1) is supported"),
    ("dequantize", dict(output_dtype=10), "output_dtype is 10: only float32 (1) is supported"),
    ("dequantize", dict(x_scale=F(0)), "x_scale is"),
    ("dequantize", dict(x_scale=np.ones(3)), "x_scale has type float64: float32 needed"),
    ("dequantize", dict(x_zero_point=U0), "x_zero_point has type uint8, x int8"),
    ("dequantize", dict(axis=0), "x_zero_point has shape (3,): 2 elements needed, axis 0"),
    ("dequantize", dict(x_scale=F([1, 1])), "x_scale has shape (2,): 3 elements needed, axis 1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "message"), CASES)
def test_illegal_inputs_are_named(name, change, message):
    function, inputs = legal()[name]
    with pytest.raises(UnusableInput, match=re.escape(message)):
        function(**{**inputs, **change})


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_the_windows_of_same_cover_the_image(auto_pad):
    # the last element lies in no window, and ONNX Runtime moves the windows then
    with pytest.raises(Unsupported, match=f"{auto_pad} with windows that leave out elements"):
        max_pool(i8(1, 1, 5), kernel_shape=[1], auto_pad=auto_pad, strides=[3])
    assert max_pool(i8(1, 1, 4), kernel_shape=[1], auto_pad=auto_pad, strides=[3]).size == 2


def test_a_type_of_another_width_is_legal_but_unsupported():
    """The engine lets ONNX Runtime compute what is Unsupported; the rest it refuses."""
    for call in (
        lambda: quantize_linear(np.zeros(3, np.float16), F(1)),
        lambda: quantize_linear(np.zeros(3, F), F(1), precision=10),
        lambda: quantize_linear(np.zeros(3, F), F(1), np.int32(0)),
        lambda: dequantize_linear(i8(3), F(1), output_dtype=10),
        lambda: dequantize_linear(np.zeros(3, np.int64), F(1)),
        lambda: dequantize_linear(i8(3), np.float16(1)),
        lambda: max_pool(np.zeros((1, 1, 3), F), kernel_shape=[2]),
    ):
        with pytest.raises(Unsupported):
            call()


@pytest.mark.parametrize(
    ("name", "too_large", "y_scale", "message"),
    [
        ("qlinear_add", "A_scale", "C_scale", "A_scale / C_scale or B_scale / C_scale"),
        ("qlinear_add", "B_scale", "C_scale", "A_scale / C_scale or B_scale / C_scale"),
        ("qlinear_conv", "x_scale", "y_scale", "x_scale * w_scale / y_scale"),
        ("fast_conv", "x_scale", "y_scale", "x_scale * w_scale / y_scale"),
    ],
)
def test_a_factor_past_float32_is_refused_without_a_warning(name, too_large, y_scale, message):
    function, inputs = legal()[name]
    message = f"^{re.escape(message)} is too large for float32$"
    with np.errstate(all="raise"), pytest.raises(UnusableInput, match=message):
        function(**inputs | {too_large: F(1e30), y_scale: F(1e-30)})


def test_what_has_no_range_is_refused_without_a_warning():
    for x, message in (
        (F([np.nan]), "x is empty or not finite: no range to quantize"),
        (F([]), "x is empty or not finite: no range to quantize"),
        (F([-3e38, 3e38]), "y_scale is inf: finite and normal needed"),
    ):
        with np.errstate(all="raise"), pytest.raises(Unsupported, match=f"^{message}$"):
            dynamic_quantize_linear(x)
    with pytest.raises(Unsupported, match=r"^neither scales nor sizes$"):
        resize(i8(2, 3))


def test_what_a_concatenation_refuses():
    y, x = (F(1), I0), (i8(2, 3), F(1), I0)
    assert qlinear_concat(*y, *x, *x, axis=0).shape == (4, 3)
    for inputs, message in (
        ((), "0 inputs: a scale and a zero point for each needed"),
        ((*x, x[0]), "4 inputs: a scale and a zero point for each needed"),
        ((*x, x[0], F(0), I0), "x1_scale is"),
        ((*x, x[0], F([1, 1]), I0), "x1_scale has shape (2,): a scalar or 1 elements needed"),
        ((*x, x[0], F(1), i8(2)), "x1_zero_point has shape (2,): a scalar or 1 elements needed"),
        ((x[0].astype(np.int32), F(1), I0), "x0 has type int32: int8 or uint8 needed"),
        ((x[0], F(1), U0), "x0_zero_point has type uint8 but x0 int8"),
    ):
        with pytest.raises(UnusableInput, match=f"^{re.escape(message)}"):
            qlinear_concat(*y, *inputs, axis=0)
    for scale, zero, message in (
        (F(0), I0, "y_scale is"),
        (F([1, 1]), I0, "y_scale has shape (2,): a scalar or 1 elements needed"),
        (F(1), i8(2), "y_zero_point has shape (2,): a scalar or 1 elements needed"),
        (F(1), U0, "y_zero_point has type uint8 but y int8"),
    ):
        with pytest.raises(UnusableInput, match=f"^{re.escape(message)}"):
            qlinear_concat(scale, zero, *x, axis=0)
