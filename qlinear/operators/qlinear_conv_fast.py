"""QLinearConv for whole batches: the integers of ``qlinear_conv.py``, several times as fast.

* The zero points leave the inner loop, as in hardware. ``x_zero_point`` times the sum of a
  channel's weights is a constant; it joins the bias, and both become one more weight, for an input
  that is always 1:

      acc[m] = sum over k of (w[m, k] - w_zero_point[m]) * x[k]
             + (B[m] - x_zero_point * sum over k of (w[m, k] - w_zero_point[m])) * 1

* Stage 1 is then one matrix product, done by BLAS in float32. It is exact: no sum of these
  products, in any order, passes :func:`largest_sum`, and float32 holds every integer up to 2**24.
  A layer that might pass 2**24 goes to ``qlinear_conv.py``.
* At stride 1 one tap's inputs, for all positions, are one stretch of the padded image, row ends
  included. Copying stretches is cheaper than copying windows; the few positions that lie across
  the end of a row are computed and dropped.
* Threads share the images, and each takes as few at a time as its core's cache holds.
* What depends on the constants alone is done once, by :func:`prepare`; what depends on the size of
  an image too, once for each size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qlinear.operators import qlinear_conv as qc
from qlinear.operators.arithmetic import centred, exact_float, require_8_bit, to_int32
from qlinear.operators.threads import share

CACHE = 1 << 20  # bytes of columns that a thread works on; with the sums, a core's L2 cache
BLOCK = 100  # positions in one call of BLAS: so few that OpenBLAS multiplies them where they lie
# multiply-accumulates: of a call that OpenBLAS does in one thread anyway, and of an image whose
# convolution takes one core some milliseconds
ALONE, SMALL = 10**6, 1 << 28
SIZES = 4  # of images, for which a prepared convolution keeps its plan


@dataclass(frozen=True)
class Layout:
    """How a padded image lies in memory, and where a tap's inputs are; lengths in elements.

    At stride 1 neighbouring rows share the padding between them, and a tap runs over whole rows of
    the image, so some positions are computed only to be dropped. At other strides none are.
    """

    size: tuple[int, ...]  # of the spatial axes
    pitch: tuple[int, ...]  # from one element of a spatial axis to the next
    wide: tuple[int, ...]  # positions that are computed, per axis
    positions: tuple[tuple[int, int], ...]  # (count, step) of the axes over which a tap moves
    beyond: int  # elements that may be read past the last image

    @property
    def count(self) -> int:
        return math.prod(self.wide)


def layout(spatial: tuple[int, ...], geo: qc.Geometry) -> Layout:
    """Choose the layout for images with these spatial axes."""
    size = [n + b + e for n, b, e in zip(spatial, geo.begin, geo.end, strict=True)]
    dense = max(geo.strides) == 1
    if dense:
        for axis in range(1, len(size)):
            shared = spatial[axis] + max(geo.begin[axis], geo.end[axis])
            size[axis] = max(shared, geo.out[axis])
    pitch = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
    wide = (geo.out[0], *size[1:]) if dense else geo.out
    steps = (s * p for s, p in zip(geo.strides, pitch, strict=True))
    positions = ((math.prod(wide), 1),) if dense else tuple(zip(wide, steps, strict=True))
    beyond = sum((span - 1) * p for span, p in zip(geo.spans, pitch, strict=True))
    return Layout(tuple(size), pitch, wide, positions, beyond)


def folded(
    x_zero_point: int, w: np.ndarray, w_zero_point: np.ndarray, B: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Weights without zero point, int32 (M, taps), and each channel's constant, int64 (M,)."""
    weights = centred(w, w_zero_point).reshape(len(w), -1)
    constant = -x_zero_point * weights.sum(axis=1, dtype=np.int64)
    return weights, constant if B is None else constant + B


def largest_sum(weights: np.ndarray, constant: np.ndarray, x_dtype: np.dtype) -> int:
    """What no sum of a channel's products, in any order and however far, passes in magnitude.

    Coarser than :func:`qlinear.operators.qlinear_conv.sum_range`, and cheaper.
    """
    info = np.iinfo(x_dtype)
    products = np.abs(weights).sum(axis=1, dtype=np.int64) * max(-info.min, info.max)
    return int((products + np.abs(constant)).max())


def packed(conv: qc.Conv) -> np.ndarray | None:
    """float32 (M, taps + 1): each channel's weights, and its constant; None if a sum may round."""
    weights, constant = folded(int(conv.x_zero_point), conv.w, conv.w_zero_point, conv.B)
    if exact_float(largest_sum(weights, constant, conv.x_zero_point.dtype)) is not np.float32:
        return None
    return np.concatenate([weights, constant[:, None]], axis=1).astype(np.float32)


def accumulate(
    padded: np.ndarray,
    x_zero_point: np.ndarray,
    w: np.ndarray,
    w_zero_point: np.ndarray,
    geo: qc.Geometry,
) -> np.ndarray:
    """:func:`qlinear.operators.qlinear_conv.accumulate` by BLAS, equal to it on every element.

    The sums are taken in a float type that holds every partial sum of this layer
    (:func:`qlinear.operators.qlinear_conv.sum_range`), so no addition rounds.
    """
    low, high = qc.sum_range(w, w_zero_point, padded.dtype, x_zero_point)
    bound = int(max(-low.min(), high.max()))
    dtype = exact_float(bound)
    columns = qc.patches(centred(padded, x_zero_point, dtype), geo)
    rows = centred(w, w_zero_point, dtype).reshape(geo.group, -1, w[0].size)
    sums = (rows @ columns).reshape(len(padded), len(w), *geo.out)
    return to_int32(sums, bound)


@dataclass(frozen=True, eq=False)
class Plan:
    """What all calls share whose images have one size."""

    geo: qc.Geometry
    layout: Layout
    channels: int  # of the input
    x_zero_point: np.integer
    weights: np.ndarray  # float32 (group, 1, M / group, taps + 1): the last one is the constant
    factor: np.ndarray  # float32 (M, 1)
    y_zero_point: np.integer
    blocks: int  # calls of BLAS for one image and group
    inside: tuple[slice, ...]  # where the images lie, within the padding
    kept: tuple[slice, ...]  # the positions that are not dropped
    window: tuple[int, ...]  # (group, C / group, kernel..., positions...): the taps' inputs
    strides: tuple[int, ...]  # from one of them to the next, and before them of an image; bytes

    @property
    def plane(self) -> int:
        """Elements of one padded channel in memory."""
        return self.layout.size[0] * self.layout.pitch[0]

    @property
    def taps(self) -> int:
        return self.weights.shape[-1] - 1

    @cached_property
    def small(self) -> bool:
        """Whether one thread of BLAS is to do what it would divide among several."""
        macs = self.weights.size * self.layout.count
        return macs < SMALL and macs // (self.geo.group * self.blocks) > ALONE


def plan(conv: qc.Conv, rows: np.ndarray, x_shape: tuple[int, ...]) -> Plan:
    """Lay out the work for inputs of this shape (N, C, spatial...), or of another N.

    Args:
        rows: :func:`packed` of ``conv``.
    """
    geo = conv.geometry(x_shape)
    lay = layout(x_shape[2:], geo)
    plane, channels = lay.size[0] * lay.pitch[0], x_shape[1] // geo.group
    counts, steps = zip(*lay.positions, strict=True)
    between = (d * p for d, p in zip(geo.dilations, lay.pitch, strict=True))
    wide, row = lay.wide[0], lay.count // lay.wide[0]
    while wide % 2 == 0 and wide * row > BLOCK:
        wide //= 2
    return Plan(
        geo=geo,
        layout=lay,
        channels=x_shape[1],
        x_zero_point=conv.x_zero_point[()],
        weights=rows.reshape(geo.group, 1, -1, rows.shape[1]),
        factor=conv.factor[:, None],
        y_zero_point=conv.y_zero_point[()],
        blocks=lay.wide[0] // wide,
        inside=_corner(x_shape[2:], geo.begin),
        kept=_corner(geo.out),
        window=(geo.group, channels, *geo.kernel, *counts),
        strides=(x_shape[1] * plane, channels * plane, plane, *between, *steps),
    )


@dataclass(frozen=True)
class Buffers:
    """A thread's memory, for as many images as its core's cache holds; the arrays share it."""

    inside: np.ndarray  # (n, C, spatial...): where the images go, within the padding
    windows: np.ndarray  # (n, group, C / group, kernel..., positions...): every tap's inputs
    copied: np.ndarray  # float32, the same shape for fewer images: where the taps' inputs go
    columns: np.ndarray  # float32 (fewer, group, blocks, taps + 1, positions of a block)
    acc: np.ndarray  # float32 (n, M, positions)
    sums: np.ndarray  # the same memory: (n, group, blocks, M / group, positions of a block)
    kept: np.ndarray  # the same memory: (n, M, out...), without the positions to be dropped


def buffers(plan: Plan, images: int) -> Buffers:
    """Memory for at most ``images`` images.

    It is new for each call, which costs little: what the layer before has just given back is still
    in the core's cache, as memory that each layer kept for itself would not be.
    """
    lay, group, taps = plan.layout, plan.geo.group, plan.taps
    M, C, plane = len(plan.factor), plan.channels, plan.plane
    n = max(1, min(images, CACHE // 2 // (4 * M * lay.count + C * plane)))
    fewer = max(1, min(n, CACHE // (4 * group * taps * lay.count)))

    memory = np.empty(n * C * plane + lay.beyond, plan.x_zero_point.dtype)
    memory.fill(plan.x_zero_point)
    windows = np.ndarray((n, *plan.window), memory.dtype, memory, strides=plan.strides)
    windows.flags.writeable = False
    columns = np.empty((fewer, group, taps + 1, lay.count), np.float32)
    columns[:, :, taps] = 1  # the input that the constant is multiplied by
    acc = np.empty((n, M, lay.count), np.float32)

    def blocks(a: np.ndarray) -> np.ndarray:
        return a.reshape(len(a), group, -1, plan.blocks, lay.count // plan.blocks).swapaxes(2, 3)

    return Buffers(
        inside=memory[: n * C * plane].reshape(n, C, *lay.size)[plan.inside],
        windows=windows,
        copied=columns[:, :, :taps].reshape(fewer, *plan.window),
        columns=blocks(columns),
        acc=acc,
        sums=blocks(acc),
        kept=acc.reshape(n, M, *lay.wide)[plan.kept],
    )


def convolve(plan: Plan, memory: Buffers, x: np.ndarray, y: np.ndarray) -> None:
    """Both stages for the images ``x``, at most as many as ``memory`` holds, into ``y``."""
    count, fewer = len(x), len(memory.copied)
    memory.inside[:count] = x
    for first in range(0, count, fewer):
        some = slice(first, min(first + fewer, count))
        m = some.stop - some.start
        memory.copied[:m] = memory.windows[some]
        with np.errstate(invalid="ignore"):  # BLAS may look at more than the matrices
            np.matmul(plan.weights, memory.columns[:m], out=memory.sums[some])
    acc, limits = memory.acc[:count], np.iinfo(y.dtype)
    acc *= plan.factor
    np.rint(acc, out=acc)
    acc += np.float32(plan.y_zero_point)
    acc.clip(np.float32(limits.min), np.float32(limits.max), out=acc)
    y[:] = memory.kept[:count]


def prepare(
    x_scale: np.ndarray,
    x_zero_point: np.ndarray,
    w: np.ndarray,
    w_scale: np.ndarray,
    w_zero_point: np.ndarray,
    y_scale: np.ndarray,
    y_zero_point: np.ndarray,
    B: np.ndarray | None = None,
    **attributes,
) -> Callable[[np.ndarray], np.ndarray]:
    """:func:`qlinear_conv` with its constants checked and packed: a function of ``x`` alone.

    The constants must not change afterwards. Several threads may call it at once, with any number
    of images of any size.

    The arguments are as there.

    Returns:
        a function of x, int8 or uint8 (N, C, spatial...), whose result is a new array.

    Raises:
        UnusableInput: a constant is illegal; the function that is returned raises it for ``x``.
    """
    constants = (x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B)
    conv = qc.Conv(*constants, attributes)
    conv.require_legal()
    rows = packed(conv)
    if rows is None:
        return lambda x: qc.stages(x, conv, accumulate=accumulate).y
    plans: dict[tuple[int, ...], Plan] = {}

    def convolution(x: np.ndarray) -> np.ndarray:
        require_8_bit("x", x, None, conv.x_zero_point)
        shared = plans.get(x.shape[1:])
        if shared is None:
            shared = plan(conv, rows, x.shape)
            if len(plans) >= SIZES:
                plans.clear()
            plans[x.shape[1:]] = shared
        y = np.empty((len(x), len(rows), *shared.geo.out), conv.y_zero_point.dtype)

        def work(first: int, last: int) -> None:
            memory = buffers(shared, last - first)
            n = len(memory.acc)
            for start in range(first, last, n):
                some = slice(start, min(start + n, last))
                convolve(shared, memory, x[some], y[some])

        share(work, len(x), small=shared.small)
        return y

    return convolution


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
    """As :func:`qlinear.operators.qlinear_conv.qlinear_conv`, and equal to it on every element."""
    constants = (x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B)
    return prepare(*constants, **attributes)(x)


def _corner(lengths: tuple[int, ...], begin: tuple[int, ...] | None = None) -> tuple[slice, ...]:
    """Index of all images and channels, and of ``lengths`` elements from ``begin`` on each axis."""
    begin = begin or (0,) * len(lengths)
    spatial = (slice(b, b + n) for b, n in zip(begin, lengths, strict=True))
    return (slice(None), slice(None), *spatial)
