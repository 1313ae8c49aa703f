"""QLinearConv, in two stages as hardware builds it.

Stage 1 is integer only: pad with the zero point, subtract the zero points, multiply, accumulate in
int32, add the bias. Stage 2 is one float32 multiplication per output, a rounding, the output zero
point, and saturation. ``begin`` is the padding before the image, and outside it x is x_zero_point:

    acc[n, m, p] = B[m] + sum over c, k of (x[n, c, p*stride + k*dilation - begin] - x_zero_point)
                                         * (w[m, c, k] - w_zero_point[m])
    y[n, m, p]   = saturate(rint(float32(acc) * factor[m]) + y_zero_point)
    factor[m]    = float32(float32(x_scale * w_scale[m]) / y_scale)

Source: ONNX operator specification, QLinearConv-10; where it is silent (rounding of ties, type and
order of the scale's operations), ONNX Runtime's CPU kernel, to which the tests hold this module.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.operators.arithmetic import (
    centred,
    one_element,
    per_channel,
    requantization_scale,
    require_8_bit,
    require_length,
    rescale,
    round_and_shift,
    saturate,
)

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
# (padded x, x_zero_point, w, w_zero_point, geometry) to int32 sums (N, M, out...)
Accumulate = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Geometry:
    """Where a convolution's windows lie; every tuple has one entry per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]  # padding before the first element
    end: tuple[int, ...]  # padding after the last element
    out: tuple[int, ...]
    group: int

    @property
    def spans(self) -> tuple[int, ...]:
        """Input elements from a window's first tap to its last, per axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


@dataclass(frozen=True, eq=False)
class Conv:
    """One QLinearConv without its activations: the inputs after ``x`` in ONNX's order.

    A scalar may come as an array of one element, as ONNX Runtime allows it.
    """

    x_scale: np.ndarray  # float32 ()
    x_zero_point: np.ndarray  # () of x's type
    w: np.ndarray  # int8/uint8 (M, C / group, kernel...)
    w_scale: np.ndarray  # float32 () or (M,)
    w_zero_point: np.ndarray  # () or (M,) of w's type
    y_scale: np.ndarray  # float32 ()
    y_zero_point: np.ndarray  # () of y's type
    B: np.ndarray | None = None  # int32 (M,)
    attributes: dict = field(default_factory=dict)  # as in ONNX

    def __post_init__(self):
        for name in ("x_scale", "x_zero_point", "y_scale", "y_zero_point"):
            object.__setattr__(self, name, one_element(getattr(self, name)))

    def require_legal(self, x: np.ndarray | None = None) -> None:
        """Refuse what QLinearConv does not allow, of the constants and, if given, of ``x``.

        Raises:
            UnusableInput: a type, shape or value is illegal; the message names the input.
        """
        if np.ndim(self.w) < 3:
            raise UnusableInput(f"w has shape {np.shape(self.w)}: 1 to 3 spatial axes needed")
        require_8_bit("x", x, self.x_scale, self.x_zero_point)
        require_8_bit("w", self.w, self.w_scale, self.w_zero_point)
        require_8_bit("y", None, self.y_scale, self.y_zero_point)
        channels = (1, len(self.w))
        for name, lengths in (
            ("x_scale", (1,)),
            ("x_zero_point", (1,)),
            ("w_scale", channels),
            ("w_zero_point", channels),
            ("y_scale", (1,)),
            ("y_zero_point", (1,)),
        ):
            require_length(name, getattr(self, name), lengths)
        B, M = self.B, len(self.w)
        if B is not None and (B.dtype != np.int32 or B.shape != (M,)):
            raise UnusableInput(f"B has type {B.dtype}, shape {B.shape}: int32 ({M},) needed")
        if not np.isfinite(self.factor).all():
            raise UnusableInput("x_scale * w_scale / y_scale is too large for float32")

    def geometry(self, x_shape: tuple[int, ...]) -> Geometry:
        """Where the windows lie on an input of this shape (N, C, spatial...)."""
        return geometry(x_shape, self.w.shape, **self.attributes)

    @cached_property
    def factor(self) -> np.ndarray:
        """float32 (M,): x_scale * w_scale / y_scale, one for each output channel."""
        with np.errstate(over="ignore"):  # an infinity is refused by check
            scale = requantization_scale(self.x_scale, self.w_scale, self.y_scale)
        return np.ascontiguousarray(np.broadcast_to(scale, len(self.w)))

    @property
    def bias(self) -> np.ndarray:
        """int32 (M,): B, or zeros where it is omitted."""
        return np.zeros(len(self.w), np.int32) if self.B is None else self.B

    def sum_range(self) -> tuple[np.ndarray, np.ndarray]:
        """:func:`sum_range` of this layer: the sums of products, before the bias."""
        return sum_range(self.w, self.w_zero_point, self.x_zero_point.dtype, self.x_zero_point)

    def accumulator_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest ``acc``, the one number that stage 2 sees: two int64 arrays (M,)."""
        low, high = self.sum_range()
        return low + self.bias, high + self.bias

    def register_range(self) -> tuple[np.ndarray, np.ndarray]:
        """What a register must hold to add in any order, from 0 or from the bias: int64 (M,)."""
        low, high = self.sum_range()
        return np.minimum(low, low + self.bias), np.maximum(high, high + self.bias)


@dataclass(frozen=True)
class Stages:
    """What every stage of a QLinearConv holds, in the order in which hardware computes it."""

    padded: np.ndarray  # int8/uint8 (N, C, padded spatial): the input with zero-point padding
    sums: np.ndarray  # int32 (N, M, out): sums of products, before the bias
    acc: np.ndarray  # int32 (N, M, out): with the bias
    factor: np.ndarray  # float32 (M,): x_scale * w_scale / y_scale
    scaled: np.ndarray  # float32 (N, M, out): acc * factor, before rounding
    rounded: np.ndarray  # float32 (N, M, out): rounded, with y_zero_point, not yet saturated
    y: np.ndarray  # int8/uint8 (N, M, out)


def geometry(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Geometry:
    """Resolve ONNX's Conv attributes for one input shape.

    Args:
        x_shape: (N, C, spatial...), one to three spatial axes.
        w_shape: (M, C / group, kernel...).
        auto_pad, dilations, group, kernel_shape, pads, strides: as in ONNX's Conv; ``pads`` lists
            all begins, then all ends.

    Raises:
        UnusableInput: shapes and attributes do not fit together; the message names the field.
    """
    axes = len(x_shape) - 2
    if axes not in (1, 2, 3) or len(w_shape) != len(x_shape):
        raise UnusableInput(f"x has shape {x_shape} and w {w_shape}: 1 to 3 spatial axes, alike")
    if 0 in x_shape[1:] or 0 in w_shape:
        raise UnusableInput(f"x has shape {x_shape} and w {w_shape}: an axis of length 0")
    if auto_pad not in AUTO_PADS:
        raise UnusableInput(f"auto_pad is {auto_pad!r}, not one of {', '.join(AUTO_PADS)}")
    kernel = tuple(w_shape[2:])
    if kernel_shape is not None and tuple(kernel_shape) != kernel:
        raise UnusableInput(f"kernel_shape is {list(kernel_shape)} but w has shape {w_shape}")
    strides, dilations = (tuple(v or (1,) * axes) for v in (strides, dilations))
    pads = tuple(pads or (0,) * 2 * axes)
    for name, value, length in (
        ("strides", strides, axes),
        ("dilations", dilations, axes),
        ("pads", pads, 2 * axes),
    ):
        lowest = 0 if name == "pads" else 1
        if len(value) != length or min(value) < lowest:
            raise UnusableInput(f"{name} is {list(value)}: needs {length} integers >= {lowest}")
    if group < 1 or w_shape[0] % group or x_shape[1] != w_shape[1] * group:
        raise UnusableInput(f"group is {group} but x has shape {x_shape} and w {w_shape}")

    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    if auto_pad == "NOTSET":
        begin, end = pads[:axes], pads[axes:]
    elif auto_pad == "VALID":
        begin = end = (0,) * axes
    else:
        total = [
            max(0, (-(-size // stride) - 1) * stride + span - size)
            for size, stride, span in zip(x_shape[2:], strides, spans, strict=True)
        ]
        less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        begin, end = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
    out = tuple(
        (size + b + e - span) // stride + 1
        for size, b, e, span, stride in zip(x_shape[2:], begin, end, spans, strides, strict=True)
    )
    if min(out) < 1:
        raise UnusableInput(f"the kernel spans {spans} but the padded input is smaller")
    return Geometry(kernel, strides, dilations, begin, end, out, group)


def pad(x: np.ndarray, x_zero_point: np.ndarray, geo: Geometry) -> np.ndarray:
    """Pad the spatial axes of ``x`` with ``x_zero_point``, the integer that stands for real 0."""
    widths = [(0, 0), (0, 0), *zip(geo.begin, geo.end, strict=True)]
    return np.pad(x, widths, constant_values=np.asarray(x_zero_point).item())


def windows(padded: np.ndarray, geo: Geometry) -> np.ndarray:
    """View of every window, without a copy: (N, C, out..., kernel...)."""
    axes = len(geo.kernel)
    view = np.lib.stride_tricks.sliding_window_view(padded, geo.spans, tuple(range(2, 2 + axes)))
    step = [slice(None, (o - 1) * s + 1, s) for o, s in zip(geo.out, geo.strides, strict=True)]
    taps = [slice(None, None, d) for d in geo.dilations]
    return view[(slice(None), slice(None), *step, *taps)]


def sum_range(
    w: np.ndarray, w_zero_point: np.ndarray, x_dtype: np.dtype, x_zero_point: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest sum of products, before the bias, of any input: two int64 arrays (M,).

    Each product is at its extreme when x is at one end of its type, so both ends are attained (by
    an input without padding). Because x = x_zero_point makes a product 0, every partial sum, in
    every order, lies within the same range.
    """
    info, zero = np.iinfo(x_dtype), int(np.asarray(x_zero_point).item())
    weights = centred(w, w_zero_point, np.int64).reshape(len(w), -1)
    ends = np.stack([weights * (info.min - zero), weights * (info.max - zero)])
    return ends.min(axis=0).sum(axis=1), ends.max(axis=0).sum(axis=1)


def patches(padded: np.ndarray, geo: Geometry) -> np.ndarray:
    """Every window as a column: (N, group, C / group * kernel, positions), a copy.

    A column has the order of a weight's elements, so a layer is a matrix product.
    """
    view, axes = windows(padded, geo), len(geo.kernel)
    channels = view.shape[1] // geo.group
    view = view.reshape(len(view), geo.group, channels, *view.shape[2:])
    order = (0, 1, 2, *range(3 + axes, 3 + 2 * axes), *range(3, 3 + axes))
    taps = channels * math.prod(geo.kernel)
    return view.transpose(order).reshape(len(view), geo.group, taps, math.prod(geo.out))


def accumulate(
    padded: np.ndarray,
    x_zero_point: np.ndarray,
    w: np.ndarray,
    w_zero_point: np.ndarray,
    geo: Geometry,
) -> np.ndarray:
    """Sums of products before the bias: int32 (N, M, out...); past 32 bits they wrap."""
    columns = patches(centred(padded, x_zero_point), geo)
    rows = centred(w, w_zero_point).reshape(geo.group, -1, w[0].size)
    return (rows @ columns).reshape(len(padded), len(w), *geo.out)


def add_bias(sums: np.ndarray, B: np.ndarray | None) -> np.ndarray:
    """Add the int32 bias, one entry per output channel; wraps as int32 hardware does."""
    return sums if B is None else sums + per_channel(B, sums.ndim)


def stages(x: np.ndarray, conv: Conv, *, accumulate: Accumulate = accumulate) -> Stages:
    """Run a QLinearConv on ``x`` (N, C, spatial...) and keep every stage.

    Args:
        accumulate: another way to the same sums, as for a large layer
            (:func:`qlinear.operators.qlinear_conv_fast.accumulate`), or to other ones.

    Raises:
        UnusableInput: an input or attribute is illegal; the message names it.
    """
    conv.require_legal(x)
    geo = conv.geometry(x.shape)
    padded = pad(x, conv.x_zero_point, geo)
    sums = accumulate(padded, conv.x_zero_point, conv.w, conv.w_zero_point, geo)
    acc = add_bias(sums, conv.B)
    scaled = rescale(acc, conv.factor)
    rounded = round_and_shift(scaled, conv.y_zero_point)
    y = saturate(rounded, conv.y_zero_point.dtype)
    return Stages(padded, sums, acc, conv.factor, scaled, rounded, y)


def qlinear_conv(
    x: np.ndarray,
    x_scale: np.ndarray,
    x_zero_point: np.ndarray,
    w: np.ndarray,
    w_scale: np.ndarray,
    w_zero_point: np.ndarray,
    y_scale: np.ndarray,
    y_zero_point: np.ndarray,
    B: np.ndarray | None = None,
    **attributes,
) -> np.ndarray:
    """ONNX's QLinearConv (opset 10), equal to ONNX Runtime's CPU kernel element for element.

    Args:
        x: int8 or uint8 (N, C, spatial...), one to three spatial axes.
        x_scale, x_zero_point: scalars; float32, and x's type.
        w: int8 or uint8 (M, C / group, kernel...).
        w_scale, w_zero_point: scalars (per-tensor) or (M,) (per-channel); float32, and w's type.
        y_scale, y_zero_point: scalars; float32, and the type that the output is to have.
        B: optional int32 (M,), in units of x_scale * w_scale.
        **attributes: auto_pad, dilations, group, kernel_shape, pads, strides as in ONNX.

    Returns:
        int8 or uint8 (N, M, out...).

    Raises:
        UnusableInput: an input or attribute is illegal; the message names it.
    """
    constants = (x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B)
    return stages(x, Conv(*constants, attributes)).y


def accumulate_loops(
    padded: np.ndarray,
    x_zero_point: np.ndarray,
    w: np.ndarray,
    w_zero_point: np.ndarray,
    geo: Geometry,
    n: int,
    m: int,
    position: tuple[int, ...],
) -> list[int]:
    """The running sum of one output element after each MAC, as plain Python integers.

    The loops are the formula: over the group's input channels, then the kernel's taps in row-major
    order. The last entry is the sum before the bias.
    """
    first = m // (len(w) // geo.group) * w.shape[1]
    w_zero = int(np.broadcast_to(w_zero_point, len(w))[m])
    running, total = [], 0
    for c in range(w.shape[1]):
        for tap in product(*map(range, geo.kernel)):
            at = tuple(
                p * s + k * d
                for p, s, k, d in zip(position, geo.strides, tap, geo.dilations, strict=True)
            )
            x_term = int(padded[n, first + c, *at]) - int(x_zero_point)
            total += x_term * (int(w[m, c, *tap]) - w_zero)
            running.append(total)
    return running
