"""QLinearConcat (com.microsoft): tensors of several scales joined along an axis.

Each tensor goes to the output's scale and zero point by DequantizeLinear and QuantizeLinear, two
float32 roundings for an element; where the two are the output's already this changes nothing.

Source: ONNX Runtime contrib operators, contrib_ops/cpu/quantization/qlinear_concat.cc and
qlinear_lookup_table.cc.
"""

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.operators.arithmetic import (
    one_element,
    require_per_tensor,
)
from qlinear.operators.dequantize_linear import dequantize_linear
from qlinear.operators.quantize_linear import quantize_linear


def qlinear_concat(
    Y_scale: np.ndarray, Y_zero_point: np.ndarray, *inputs: np.ndarray, axis: int
) -> np.ndarray:
    """com.microsoft's QLinearConcat.

    Args:
        Y_scale: float32 scalar; Y_zero_point: int8 or uint8 scalar.
        *inputs: for each tensor the tensor, its scale and its zero point, of the same types.
        axis: along which they are joined.

    Raises:
        UnusableInput: a type or shape is illegal; the message names the input.
    """
    if not inputs or len(inputs) % 3:
        raise UnusableInput(f"{len(inputs)} inputs: a scale and a zero point for each needed")
    parts = []
    for i, (x, scale, zero) in enumerate(zip(*[iter(inputs)] * 3, strict=True)):
        for name, s, z in ((f"x{i}", scale, zero), ("y", Y_scale, Y_zero_point)):
            require_per_tensor(name, x, s, z)
        scale, zero, y_scale, y_zero = map(one_element, (scale, zero, Y_scale, Y_zero_point))
        parts.append(quantize_linear(dequantize_linear(x, scale, zero), y_scale, y_zero))
    return np.concatenate(parts, axis)
