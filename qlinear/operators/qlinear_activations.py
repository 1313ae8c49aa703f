"""QLinearSigmoid and QLinearLeakyRelu (com.microsoft): a function of one quantized tensor.

    y = QuantizeLinear(f(DequantizeLinear(x)))

in float32. ONNX Runtime computes the 256 values once, for a table. Its logistic function is not
exp's but a ratio of two polynomials, by Horner's rule with fused multiply-adds:

    v = clip(x, -18, 18)    s = v * v
    f = max(v * p(s) / q(s) + 0.5, 0)      which may pass 1 by one unit in the last place

Source: ONNX Runtime contrib operators, contrib_ops/cpu/quantization/qlinear_activations.cc and
qlinear_lookup_table.cc; the polynomials: core/mlas/lib/logistic.cpp, for processors with FMA3.
"""

from collections.abc import Callable

import numpy as np

from qlinear.operators.arithmetic import (
    one_element,
    require_per_tensor,
)
from qlinear.operators.dequantize_linear import dequantize_linear
from qlinear.operators.qlinear_add import fma
from qlinear.operators.quantize_linear import quantize_linear

# coefficients of the highest power first
P = np.array(
    [4.37031012579801e-11, 1.15627324459942e-07, 6.08574864600143e-05, 8.51377133304701e-03,
     2.48287947061529e-01], np.float32,
)  # fmt: skip
Q = np.array(
    [6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06, 1.70198817374094e-03,
     1.16817656904453e-01, 9.93151921023180e-01], np.float32,
)  # fmt: skip


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) as ONNX Runtime computes it: float32 of x's shape."""
    value = np.clip(x, np.float32(-18), np.float32(18))
    square = value * value

    def horner(coefficients: np.ndarray) -> np.ndarray:
        total = np.full_like(square, coefficients[0])
        for coefficient in coefficients[1:]:
            total = fma(total, square, coefficient)
        return total

    ratio = (horner(P) * value) / horner(Q)
    return np.maximum(ratio + np.float32(0.5), np.float32(0))


def qlinear_sigmoid(
    X: np.ndarray,
    X_scale: np.ndarray,
    X_zero_point: np.ndarray,
    Y_scale: np.ndarray,
    Y_zero_point: np.ndarray,
) -> np.ndarray:
    """com.microsoft's QLinearSigmoid, equal to ONNX Runtime on x86-64 with FMA3.

    Args:
        X: int8 or uint8, any shape.
        X_scale, Y_scale: float32 scalars; X_zero_point, Y_zero_point: scalars of X's type.

    Raises:
        UnusableInput: a type or shape is illegal; the message names the input.
    """
    return _by_table(logistic, X, X_scale, X_zero_point, Y_scale, Y_zero_point)


def qlinear_leaky_relu(
    X: np.ndarray,
    X_scale: np.ndarray,
    X_zero_point: np.ndarray,
    Y_scale: np.ndarray,
    Y_zero_point: np.ndarray,
    *,
    alpha: float = 0.01,
) -> np.ndarray:
    """com.microsoft's QLinearLeakyRelu; arguments as for :func:`qlinear_sigmoid`."""

    def leaky(x: np.ndarray) -> np.ndarray:
        return np.where(x >= 0, x, np.float32(alpha) * x)

    return _by_table(leaky, X, X_scale, X_zero_point, Y_scale, Y_zero_point)


def _by_table(
    function: Callable[[np.ndarray], np.ndarray],
    X: np.ndarray,
    X_scale: np.ndarray,
    X_zero_point: np.ndarray | None,
    Y_scale: np.ndarray,
    Y_zero_point: np.ndarray | None,
) -> np.ndarray:
    none = np.zeros((), X.dtype)  # an omitted zero point
    x_zero = none if X_zero_point is None else X_zero_point
    y_zero = none if Y_zero_point is None else Y_zero_point
    for name, scale, zero in (("x", X_scale, x_zero), ("y", Y_scale, y_zero)):
        require_per_tensor(name, X, scale, zero)
    x_scale, x_zero, y_scale, y_zero = map(one_element, (X_scale, x_zero, Y_scale, y_zero))
    info = np.iinfo(X.dtype)
    every = np.arange(info.min, info.max + 1).astype(X.dtype)
    table = quantize_linear(function(dequantize_linear(every, x_scale, x_zero)), y_scale, y_zero)
    return table[X.astype(np.intp) - info.min]
