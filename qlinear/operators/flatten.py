"""Flatten: no arithmetic; the integers stay as they are.

Source: ONNX operator specification, Flatten-21.
"""

import math

import numpy as np


def flatten(input: np.ndarray, *, axis: int = 1) -> np.ndarray:
    """ONNX's Flatten: the axes before ``axis`` become one, the others another."""
    axis = axis % input.ndim if axis < 0 else axis
    return input.reshape(math.prod(input.shape[:axis]), -1)
