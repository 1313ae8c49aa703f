"""One ONNX operator a file, and the table of them all."""

from collections.abc import Callable

import numpy as np

from qlinear.operators import (
    conv_integer,
    dequantize_linear,
    flatten,
    matmul_integer,
    max_pool,
    qgemm,
    qlinear_add,
    qlinear_conv_fast,
    qlinear_matmul,
    quantize_linear,
)
from qlinear.operators import qlinear_global_average_pool as global_average_pool
from qlinear.operators.movers import MOVERS, moved

# (domain, operator) to the function that computes it from its inputs and attributes
OPERATORS: dict[tuple[str, str], Callable[..., np.ndarray]] = {
    ("", "ConvInteger"): conv_integer.conv_integer,
    ("", "DequantizeLinear"): dequantize_linear.dequantize_linear,
    ("", "Flatten"): flatten.flatten,
    ("", "MatMulInteger"): matmul_integer.matmul_integer,
    ("", "MaxPool"): max_pool.max_pool,
    ("", "QLinearConv"): qlinear_conv_fast.qlinear_conv,
    ("", "QLinearMatMul"): qlinear_matmul.qlinear_matmul,
    ("", "QuantizeLinear"): quantize_linear.quantize_linear,
    ("com.microsoft", "QGemm"): qgemm.qgemm,
    ("com.microsoft", "QLinearAdd"): qlinear_add.qlinear_add,
    ("com.microsoft", "QLinearGlobalAveragePool"): global_average_pool.qlinear_global_average_pool,
}

__all__ = ["MOVERS", "OPERATORS", "moved"]
