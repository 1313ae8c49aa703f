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
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Lock

import numpy as np
from threadpoolctl import ThreadpoolController

from qlinear.operators import qlinear_conv as qc
from qlinear.operators.arithmetic import centred, exact_float, requantization_scale

THREADS = min(os.cpu_count() or 1, 4)
CACHE = 1 << 20  # bytes of columns that a thread works on; with the sums, a core's L2 cache
BLOCK = 100  # positions in one call of BLAS: so few that OpenBLAS multiplies them where they lie


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

    Coarser than :func:`qlinear.operators.qlinear_conv.accumulator_range`, but cheap enough for
    every call.
    """
    info = np.iinfo(x_dtype)
    products = np.abs(weights).sum(axis=1, dtype=np.int64) * max(-info.min, info.max)
    return int((products + np.abs(constant)).max())


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS)


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


_sharing = Lock()


def share(work: Callable[[int, int], None], count: int) -> None:
    """Call ``work(first, last)`` for equal parts of ``range(count)``, each in its own thread.

    A caller that comes while another is at it does all of its work itself.
    """
    parts = min(THREADS, count)
    if parts < 2 or not _sharing.acquire(blocking=False):
        return work(0, count)
    cuts = [count * part // parts for part in range(parts + 1)]
    try:
        with _blas().limit(limits=1, user_api="blas"):  # a thread of ours runs BLAS in one thread
            others = [_pool().submit(work, *cuts[part : part + 2]) for part in range(1, parts)]
            work(*cuts[:2])
            for other in others:
                other.result()
    finally:
        _sharing.release()


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
    inputs = (x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B)
    qc.check(*inputs)
    geo = qc.geometry(x.shape, w.shape, **attributes)
    x_zero, y_zero = (np.asarray(z).item() for z in (x_zero_point, y_zero_point))
    weights, constant = folded(x_zero, w, w_zero_point, B)
    if exact_float(largest_sum(weights, constant, x.dtype)) is not np.float32:
        return qc.stages(*inputs, **attributes).y

    (M, taps), C, group = weights.shape, x.shape[1], geo.group
    w_rows = np.concatenate([weights, constant[:, None]], axis=1).astype(np.float32)
    w_rows = w_rows.reshape(group, 1, M // group, taps + 1)
    scale = requantization_scale(x_scale, w_scale, y_scale).reshape(-1, 1)
    y = np.empty((len(x), M, *geo.out), np.asarray(y_zero_point).dtype)
    low, high = (np.float32(limit) for limit in (np.iinfo(y.dtype).min, np.iinfo(y.dtype).max))

    lay = layout(x.shape[2:], geo)
    plane = lay.size[0] * lay.pitch[0]
    row = lay.count // lay.wide[0]  # positions in a row
    rows = lay.wide[0]  # in one call of BLAS
    while rows % 2 == 0 and rows * row > BLOCK:
        rows //= 2

    def blocks(a: np.ndarray) -> np.ndarray:
        """(images, ..., count) to (images, group, blocks, ..., positions of a block), a view."""
        return a.reshape(len(a), group, -1, lay.wide[0] // rows, rows * row).swapaxes(2, 3)

    def work(first: int, last: int) -> None:
        n = max(1, min(last - first, CACHE // 2 // (4 * M * lay.count + C * plane)))
        at_once = max(1, min(n, CACHE // (4 * group * taps * lay.count)))  # images in columns

        memory = np.full(n * C * plane + lay.beyond, x_zero, x.dtype)
        padded = memory[: n * C * plane].reshape(n, C, *lay.size)
        inside = padded[_corner(x.shape[2:], geo.begin)]
        counts, steps = zip(*lay.positions, strict=True)
        shape = (n, group, C // group, *geo.kernel, *counts)
        between = (d * p for d, p in zip(geo.dilations, lay.pitch, strict=True))
        strides = (C * plane, C // group * plane, plane, *between, *steps)
        windows = np.lib.stride_tricks.as_strided(memory, shape, strides, writeable=False)

        columns = np.empty((at_once, group, taps + 1, lay.count), np.float32)
        columns[:, :, taps] = 1  # the input that the constant is multiplied by
        copied = columns[:, :, :taps].reshape(at_once, *shape[1:])
        acc = np.empty((n, M, lay.count), np.float32)
        kept = acc.reshape(n, M, *lay.wide)[_corner(geo.out)]
        columns, sums = blocks(columns), blocks(acc)

        for start in range(first, last, n):
            m = min(n, last - start)
            inside, acc, kept = inside[:m], acc[:m], kept[:m]
            inside[:] = x[start : start + m]
            for image in range(0, m, at_once):
                some = slice(image, min(image + at_once, m))
                copied[: some.stop - image] = windows[some]
                np.matmul(w_rows, columns[: some.stop - image], out=sums[some])
            acc *= scale
            np.rint(acc, out=acc)
            acc += np.float32(y_zero)
            acc.clip(low, high, out=acc)
            y[start : start + m] = kept

    share(work, len(x))
    return y


def _corner(lengths: tuple[int, ...], begin: tuple[int, ...] | None = None) -> tuple[slice, ...]:
    """Index of all images and channels, and of ``lengths`` elements from ``begin`` on each axis."""
    begin = begin or (0,) * len(lengths)
    spatial = (slice(b, b + n) for b, n in zip(begin, lengths, strict=True))
    return (slice(None), slice(None), *spatial)
