"""Cast from integers: the conversion of int32 sums to float32, and between integer types.

To float32 and float64 it rounds to nearest, ties to even. To a narrower integer type it keeps the
low bits.

Source: ONNX operator specification, Cast-21; for integers that the new type does not hold, which
the specification leaves open, ONNX Runtime's CPU kernel.
"""

import numpy as np
from onnx import helper

from qlinear.errors import Unsupported

FROM = "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64".split()
TO = [*FROM, "float32", "float64"]


def cast(input: np.ndarray, *, to: int, saturate: int = 1, round_mode: str = "up") -> np.ndarray:
    """ONNX's Cast of integers and bool.

    Args:
        input: bool, or an integer of 8 to 64 bits, any shape.
        to: an ONNX type: one of those, float32 or float64.
        saturate, round_mode: as in ONNX; they are for float8 only.

    Raises:
        Unsupported: a type is another one.
    """
    input = np.asarray(input)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(to))
    if input.dtype.name not in FROM or dtype.name not in TO:
        raise Unsupported(f"from {input.dtype} to {dtype}: from integers to them or float needed")
    return input.astype(dtype)
