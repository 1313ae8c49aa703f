"""What the operators in TensorFlow Lite's form share: multipliers, roundings, clamping, windows.

Channels are the last axis (NHWC), so that one number a channel broadcasts as it is. Everything is
int64 here where C has int32: a value that would pass 32 bits there, which C leaves undefined, is
refused instead.
"""

import math
from dataclasses import dataclass

import numpy as np

from qlinear.errors import Unsupported
from qlinear.hardware.requantizers import fixed_point, shift_right

TAPS = 1 << 16  # of the largest window; a pool's is only a number in the file
Stages = dict[str, np.ndarray]  # what an operator computes on its way, in order; the last is y


@dataclass(frozen=True, eq=False)
class Type:
    """What a file says of a tensor: its type, shape and quantization.

    ``scale`` and ``zero_point`` are empty where the tensor is not quantized; they have one element,
    or one for each index of ``axis``.
    """

    dtype: str  # as NumPy names it
    shape: tuple[int, ...]
    scale: np.ndarray  # float32 (n,)
    zero_point: np.ndarray  # int64 (n,)
    axis: int = 0

    @property
    def real(self) -> np.float32:
        """The only scale.

        Raises:
            Unsupported: there are several, or none.
        """
        if self.scale.size != 1:
            raise Unsupported(f"{self.scale.size} scales: one needed")
        if not 0 < self.scale[0] < np.inf:
            raise Unsupported(f"scale {self.scale[0]}: more than 0 needed")
        return self.scale[0]

    @property
    def zero(self) -> int:
        """The only zero point; 0 where none is written.

        Raises:
            Unsupported: it is none of the tensor's own values.
        """
        zero = int(self.zero_point[0]) if self.zero_point.size else 0
        info = np.iinfo(self.dtype)
        if self.zero_point.size > 1 or not info.min <= zero <= info.max:
            raise Unsupported(f"zero point {self.zero_point.tolist()}: one of {self.dtype} needed")
        return zero


def require_type(name: str, given: Type, *dtypes: str) -> None:
    """Refuse a tensor of another type.

    Raises:
        Unsupported: the message names the tensor's part in the operator.
    """
    if given.dtype not in dtypes:
        raise Unsupported(f"{name} has type {given.dtype}: {' or '.join(dtypes)} needed")


def require_32_bits(values: np.ndarray, what: str) -> np.ndarray:
    """The values, if int32 holds them.

    Raises:
        Unsupported: it does not; C leaves undefined what happens then.
    """
    if values.size and not -(2**31) <= values.min() <= values.max() < 2**31:
        raise Unsupported(f"{what} passes 32 bits")
    return values


# --- multipliers


def quantize_multiplier(factor: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """A factor as multiplier * 2**(shift - 31): int64 and int64, of the factor's shape.

    Source: LiteRT, tflite/kernels/internal/quantization_util.cc, QuantizeMultiplier.

    Args:
        factor: float64, each 0 or more and less than 2**31. Below 2**-32 it becomes 0.

    Raises:
        Unsupported: a factor is outside that range.

    >>> [int(v) for v in quantize_multiplier(0.75)]
    [1610612736, 0]
    """
    factor = np.asarray(factor, np.float64)
    if not ((factor >= 0) & (factor < 2.0**31)).all():
        raise Unsupported(f"the factor {factor.ravel()[:4].tolist()}: 0 or more, below 2^31 needed")
    multiplier, right = fixed_point(factor, 31, half_up=True)
    tiny = (factor == 0) | (right > 62)
    return np.where(tiny, 0, multiplier), np.where(tiny, 0, 31 - right)


def multiply(acc: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> Stages:
    """acc * multiplier * 2**(shift - 31), rounded twice, with every step.

    The product's upper half is rounded half up; what is left to shift right is rounded again, ties
    away from zero. A positive shift goes to the left before the product.

    Source: LiteRT, tflite/kernels/internal/common.cc, MultiplyByQuantizedMultiplier; gemmlowp,
    fixedpoint/fixedpoint.h, SaturatingRoundingDoublingHighMul and RoundingDivideByPOT.

    Args:
        acc: int64, within 32 bits.
        multiplier, shift: of :func:`quantize_multiplier`.

    >>> {k: v.tolist() for k, v in multiply(np.int64([5, -5]), 2**30, -1).items()}
    {'acc << left': [5, -5], 'upper half': [3, -2], 'scaled': [2, -1]}
    """
    left = require_32_bits(acc << np.maximum(shift, 0), "acc shifted left")
    upper = high_mul(left, multiplier)
    return {"acc << left": left, "upper half": upper, "scaled": divide(upper, -shift)}


def high_mul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper half of 2 * a * b, half up; the largest int32 where both are -2**31."""
    found = (a * b + 2**30) >> 31
    return np.minimum(found, 2**31 - 1)


def divide(values: np.ndarray, right: np.ndarray | int) -> np.ndarray:
    """values / 2**right, ties away from zero; not shifted where ``right`` is not positive."""
    # shift_right wants one bit at least: twice the value, by one more, is the same number
    return shift_right(2 * values, np.maximum(right, 0) + np.int64(1), "half away")


def scaled(acc: np.ndarray, factor: np.ndarray | float) -> Stages:
    """:func:`multiply` by a factor as TensorFlow Lite programs it, with its constants."""
    multiplier, shift = quantize_multiplier(factor)
    return {"multiplier": multiplier, "shift": shift, **multiply(acc, multiplier, shift)}


def round_away(values: np.ndarray) -> np.ndarray:
    """To the nearest integer, ties away from zero, as C's round: in the type of ``values``."""
    whole = np.trunc(values)
    return whole + np.copysign(np.abs(values - whole) >= 0.5, values).astype(values.dtype)


# --- activations


def activation_range(activation: str, y_type: Type) -> tuple[int, int]:
    """The least and greatest output that a fused activation leaves.

    Source: LiteRT, tflite/kernels/kernel_util.cc, CalculateActivationRangeQuantized.

    Raises:
        Unsupported: the activation is another one: the kernels do not apply it.
    """
    bounds = {"NONE": (None, None), "RELU": (0, None), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1)}
    if activation not in bounds:
        raise Unsupported(f"fused {activation}: {', '.join(bounds)} needed")
    info = np.iinfo(y_type.dtype)
    wanted = [real for real in bounds[activation] if real is not None]
    with np.errstate(over="ignore"):
        steps = [np.float32(real) / y_type.real for real in wanted]
    if not all(abs(step) < 2**31 for step in steps):
        raise Unsupported(f"y_scale {y_type.real}: {wanted[-1]} / y_scale passes 32 bits")
    found = dict(zip(wanted, (y_type.zero + int(round_away(v)) for v in steps), strict=True))
    low, high = (found.get(real) for real in bounds[activation])
    return (
        info.min if low is None else max(info.min, low),
        info.max if high is None else min(info.max, high),
    )


def finish(values: np.ndarray, activation: str, y_type: Type) -> Stages:
    """The zero point added and the fused activation's range applied: the last two stages."""
    shifted = require_32_bits(values + y_type.zero, "the output")
    return {"+ zero point": shifted, **clamp(shifted, activation, y_type)}


def clamp(values: np.ndarray, activation: str, y_type: Type) -> Stages:
    """The last stage: y within the fused activation's range."""
    low, high = activation_range(activation, y_type)
    return {"y": np.minimum(np.maximum(values, low), high).astype(y_type.dtype)}


# --- windows


@dataclass(frozen=True)
class Windows:
    """Where a kernel's windows lie on an image, each pair as (height, width)."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    begin: tuple[int, int]  # rows above, columns to the left, that are not there
    out: tuple[int, int]

    def rows(self, axis: int, tap: int) -> tuple[np.ndarray, np.ndarray]:
        """For one tap of the kernel the outputs that meet the image there, and where."""
        at = np.arange(self.out[axis]) * self.stride[axis] - self.begin[axis]
        at = at + tap * self.dilation[axis]
        inside = np.flatnonzero((at >= 0) & (at < self.size[axis]))
        return inside, at[inside]

    @property
    def taps(self) -> list[tuple[int, int]]:
        return [(i, j) for i in range(self.kernel[0]) for j in range(self.kernel[1])]


def windows(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: str,
) -> Windows:
    """The windows of a convolution or a pool.

    Source: LiteRT, tflite/kernels/padding.h.

    Raises:
        Unsupported: the padding has another name, or a number is not positive.
    """
    if padding not in ("SAME", "VALID"):
        raise Unsupported(f"padding {padding}: SAME or VALID needed")
    if min(*size, *kernel, *stride, *dilation) < 1:
        raise Unsupported(f"image {size}, kernel {kernel}, stride {stride}, dilation {dilation}: "
                          "1 or more needed")  # fmt: skip
    if math.prod(kernel) > TAPS:
        raise Unsupported(f"kernel {kernel}: up to {TAPS} taps needed")
    begin, out = [], []
    for length, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        wide = (k - 1) * d + 1
        count = -(-length // s) if padding == "SAME" else max(0, (length + s - wide) // s)
        begin.append(max(0, (count - 1) * s + wide - length) // 2)
        out.append(count)
    if min(out) < 1:
        raise Unsupported(f"image {size}: smaller than the kernel {kernel}, dilation {dilation}")
    return Windows(size, kernel, stride, dilation, tuple(begin), tuple(out))


def gather(x: np.ndarray, w: Windows, tap: tuple[int, int]) -> np.ndarray:
    """What every window has at one tap, 0 beside the image: (N, OH, OW, C)."""
    (out_y, in_y), (out_x, in_x) = (w.rows(axis, tap[axis]) for axis in (0, 1))
    found = np.zeros((len(x), *w.out, x.shape[3]), x.dtype)
    if out_y.size and out_x.size:
        found[:, out_y[0] : out_y[-1] + 1, out_x[0] : out_x[-1] + 1] = x[
            :, in_y[0] : in_y[-1] + 1 : w.stride[0], in_x[0] : in_x[-1] + 1 : w.stride[1]
        ]
    return found


def exact_float(rows: np.ndarray, largest: int) -> type:
    """The float type in which sums of products with these integers (n, M) are exact."""
    bound = int(np.abs(rows.astype(np.int64)).sum(axis=0).max(initial=0)) * largest
    return np.float32 if bound < 2**24 else np.float64


def products(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Exact sums of products of integers: x (..., n) by rows (n, M), int64 (..., M).

    Each sum is exact in the float type that is taken, in whatever order it is added.
    """
    kind = exact_float(rows, 511)  # 8 bits minus a zero point of 8 bits
    if math.prod(rows.shape[:1]) * 511 * 255 >= 2**53:
        raise Unsupported("more products than float64 adds exactly")
    return (x.astype(kind) @ rows.astype(kind)).astype(np.int64)
