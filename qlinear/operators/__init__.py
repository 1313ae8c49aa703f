"""One ONNX operator a file, and the table of them all."""

from collections.abc import Callable

import numpy as np

from qlinear.operators import (
    add,
    cast,
    conv_integer,
    dequantize_linear,
    dynamic_quantize_linear,
    flatten,
    matmul_integer,
    matmul_integer_to_float,
    max_pool,
    qgemm,
    qlinear_activations,
    qlinear_add,
    qlinear_average_pool,
    qlinear_concat,
    qlinear_conv_fast,
    qlinear_matmul,
    qlinear_mul,
    qlinear_softmax,
    qlinear_where,
    quantize_linear,
    resize,
)
from qlinear.operators import qlinear_global_average_pool as global_average_pool
from qlinear.operators.movers import MOVERS, moved

# (domain, operator) to the function that computes it from its inputs and attributes
OPERATORS: dict[tuple[str, str], Callable[..., np.ndarray]] = {
    ("", "Add"): add.add,
    ("", "Cast"): cast.cast,
    ("", "ConvInteger"): conv_integer.conv_integer,
    ("", "DequantizeLinear"): dequantize_linear.dequantize_linear,
    ("", "DynamicQuantizeLinear"): dynamic_quantize_linear.dynamic_quantize_linear,
    ("", "Flatten"): flatten.flatten,
    ("", "MatMulInteger"): matmul_integer.matmul_integer,
    ("", "MaxPool"): max_pool.max_pool,
    ("", "QLinearConv"): qlinear_conv_fast.qlinear_conv,
    ("", "QLinearMatMul"): qlinear_matmul.qlinear_matmul,
    ("", "QuantizeLinear"): quantize_linear.quantize_linear,
    ("", "Resize"): resize.resize,
    ("com.microsoft", "DequantizeLinear"): dequantize_linear.dequantize_linear,
    ("com.microsoft", "DynamicQuantizeMatMul"): matmul_integer_to_float.dynamic_quantize_matmul,
    ("com.microsoft", "MatMulIntegerToFloat"): matmul_integer_to_float.matmul_integer_to_float,
    ("com.microsoft", "QGemm"): qgemm.qgemm,
    ("com.microsoft", "QLinearAdd"): qlinear_add.qlinear_add,
    ("com.microsoft", "QLinearAveragePool"): qlinear_average_pool.qlinear_average_pool,
    ("com.microsoft", "QLinearConcat"): qlinear_concat.qlinear_concat,
    ("com.microsoft", "QLinearGlobalAveragePool"): global_average_pool.qlinear_global_average_pool,
    ("com.microsoft", "QLinearLeakyRelu"): qlinear_activations.qlinear_leaky_relu,
    ("com.microsoft", "QLinearMul"): qlinear_mul.qlinear_mul,
    ("com.microsoft", "QLinearSigmoid"): qlinear_activations.qlinear_sigmoid,
    ("com.microsoft", "QLinearSoftmax"): qlinear_softmax.qlinear_softmax,
    ("com.microsoft", "QLinearWhere"): qlinear_where.qlinear_where,
    ("com.microsoft", "QuantizeLinear"): quantize_linear.quantize_linear,
}

# a function above to one that prepares it: given the constants it makes a function of the others,
# the inputs at these positions, which does less at each call
PREPARED: dict[Callable, tuple[Callable[..., Callable], tuple[int, ...]]] = {
    qlinear_conv_fast.qlinear_conv: (qlinear_conv_fast.prepare, (0,)),
    qlinear_add.qlinear_add: (qlinear_add.prepare, (0, 3)),
}

__all__ = ["MOVERS", "OPERATORS", "PREPARED", "moved"]
