"""Cheaper arithmetic for the same network: narrow accumulators and integer requantization.

:func:`operators_with` makes an operator table for :func:`qlinear.engine.run` in which every layer
with weights uses another accumulator or another requantizer, or both.
"""

from collections.abc import Callable

import numpy as np

from qlinear import qlinear_conv as qc
from qlinear.arithmetic import (
    centred,
    per_channel,
    requantization_scale,
    requantize,
    saturate,
)
from qlinear.engine import OPERATORS

ROUNDINGS = ("half even", "half up", "half away", "truncate")


# --- accumulators


def wrap(acc: np.ndarray, bits: int) -> np.ndarray:
    """The value that a two's complement register of ``bits`` bits holds: acc modulo 2**bits."""
    half = 1 << (bits - 1)
    return ((acc.astype(np.int64) + half) % (1 << bits) - half).astype(np.int32)


def clamp(acc: np.ndarray, bits: int) -> np.ndarray:
    """Saturate to a signed integer of ``bits`` bits."""
    half = 1 << (bits - 1)
    return np.clip(acc, -half, half - 1).astype(np.int32)


def saturating_sum(
    columns: np.ndarray, rows: np.ndarray, bias: np.ndarray, bits: int, tile: int = 1
) -> np.ndarray:
    """Accumulate with saturation after every ``tile`` products, starting from the bias.

    Saturation is not associative: the result depends on the order of the products and on ``tile``.

    Args:
        columns: int32 (N, taps, positions), centred inputs.
        rows: int32 (M, taps), centred weights.
        bias: int32 (M,).

    Returns:
        int32 (N, M, positions).
    """
    shape = (len(columns), len(rows), columns.shape[2])
    acc = clamp(np.broadcast_to(bias[:, None], shape), bits)
    # float32 holds these sums exactly: |acc| and |a tile's sum| are far below 2**24
    columns, rows, acc = (a.astype(np.float32) for a in (columns, rows, acc))
    half = float(1 << (bits - 1))
    for start in range(0, columns.shape[1], tile):
        part = rows[:, start : start + tile] @ columns[:, start : start + tile]
        np.clip(np.add(acc, part, out=acc), -half, half - 1, out=acc)
    return acc.astype(np.int32)


def pair_saturations(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of products as x86's ``vpmaddubsw`` forms them: pairs, saturated at 16 bits.

    Args:
        x: uint8 (..., taps, positions), stored integers; w: int8 (M, taps), stored integers.

    Returns:
        exact and saturating sums, both int64 (..., M, positions). An odd last tap has no partner.
    """
    exact = np.matmul(w.astype(np.int64), x.astype(np.int64))
    lost = np.zeros_like(exact)
    for k in range(0, w.shape[1] - 1, 2):
        pair = w[:, k : k + 1].astype(np.int32) * x[..., k : k + 1, :].astype(np.int32)
        pair = pair + w[:, k + 1 : k + 2].astype(np.int32) * x[..., k + 1 : k + 2, :]
        lost += pair - np.clip(pair, -32768, 32767)
    return exact, exact - lost


# --- requantization in integers


def fixed_point(scale: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """``scale`` as multiplier * 2**-shift with a multiplier of exactly ``bits`` bits.

    The scheme of Jacob et al. (2018), section 2.2, there with 31 bits.

    Returns:
        multipliers, int64 in [2**(bits - 1), 2**bits), and shifts, int64.
    """
    mantissa, exponent = np.frexp(np.asarray(scale, np.float64))
    multiplier = np.rint(mantissa * 2.0**bits).astype(np.int64)
    shift = bits - exponent.astype(np.int64)
    full = multiplier == 1 << bits  # rounded up to the next power of two
    return np.where(full, multiplier >> 1, multiplier), np.where(full, shift - 1, shift)


def power_of_two(scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``scale`` as a shift alone, the nearest power of two on a logarithmic axis."""
    shift = -np.rint(np.log2(np.asarray(scale, np.float64))).astype(np.int64)
    return np.ones_like(shift), shift


def shift_right(values: np.ndarray, shift: np.ndarray, rounding: str) -> np.ndarray:
    """values / 2**shift rounded to an integer: int64; ``shift`` is at least 1.

    ``half up`` adds half and floors, ``half away`` rounds ties away from zero, ``half even`` to
    the even neighbour, ``truncate`` floors, as an arithmetic shift does.
    """
    half = np.int64(1) << (shift - 1)
    if rounding == "truncate":
        return values >> shift
    if rounding == "half up":
        return (values + half) >> shift
    if rounding == "half away":
        return np.sign(values) * ((np.abs(values) + half) >> shift)
    floor = values >> shift
    rest = values - (floor << shift)
    return floor + ((rest > half) | ((rest == half) & (floor % 2 == 1)))


def requantize_fixed(
    acc: np.ndarray,
    multiplier: np.ndarray,
    shift: np.ndarray,
    y_zero_point: np.ndarray,
    rounding: str = "half up",
) -> np.ndarray:
    """Stage 2 in integers: (acc * multiplier) >> shift, rounded, plus the zero point, saturated."""
    product = acc.astype(np.int64) * per_channel(multiplier, acc.ndim)
    y = shift_right(product, per_channel(shift, acc.ndim), rounding)
    return saturate(y + int(y_zero_point), np.asarray(y_zero_point).dtype)


def float32_parts(scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A positive float32 as mantissa * 2**-shift with a 24-bit integer mantissa: int64, int64."""
    mantissa, exponent = np.frexp(np.asarray(scale, np.float32))
    return (mantissa.astype(np.float64) * 2**24).astype(np.int64), 24 - exponent.astype(np.int64)


def round_half_even(values: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Non-negative values / 2**shift, to the nearest integer, ties to even; shift >= 0."""
    floor, half = values >> shift, (np.int64(1) << shift) >> 1
    rest = values - (floor << shift)
    up = (rest > half) | ((rest == half) & (floor & 1 == 1) & (shift > 0))
    return np.where(shift > 0, floor + up, values)


def requantize_as_float32(
    acc: np.ndarray, scale: np.ndarray, y_zero_point: np.ndarray
) -> np.ndarray:
    """Stage 2 in integers, equal to the float32 chain for every accumulator below 2**24.

    The float32 product is the exact product of two integers of at most 24 bits, rounded to 24
    significant bits; the result is that, rounded to an integer. Both roundings go to even, on the
    magnitude.
    """
    mantissa, shift = (per_channel(v, acc.ndim) for v in float32_parts(scale))
    product = np.abs(acc.astype(np.int64)) * mantissa
    # bits beyond 24; frexp of a float64 is exact here, since the product has at most 48 bits
    dropped = np.maximum(np.frexp(product.astype(np.float64))[1].astype(np.int64) - 24, 0)
    significant = round_half_even(product, dropped)
    right = np.clip(shift - dropped, 0, 62)
    left = np.clip(dropped - shift, 0, 30)  # a factor so large that the result saturates
    magnitude = round_half_even(significant, right) << left
    y = np.sign(acc).astype(np.int64) * magnitude + int(y_zero_point)
    return saturate(y, np.asarray(y_zero_point).dtype)


def thresholds(
    requantizer: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """For each channel and output level above the lowest, the least accumulator that reaches it.

    A requantizer never decreases as the accumulator grows, so these thresholds say its output for
    *every* accumulator in [low, high]: two requantizers with equal thresholds are equal on all.

    Args:
        requantizer: int32 (1, M, n) to int8 or uint8 (1, M, n), monotonic along the last axis.
        low, high: int64 (M,), the reachable range.

    Returns:
        int64 (M, 255); high + 1 where the level is not reached.
    """
    lowest = np.iinfo(requantizer(np.zeros((1, len(low), 1), np.int32)).dtype).min
    levels = np.arange(lowest + 1, lowest + 256)
    left = np.repeat(low[:, None], 255, axis=1).astype(np.int64)
    right = np.repeat(high[:, None] + 1, 255, axis=1).astype(np.int64)
    while (left < right).any():
        middle = (left + right) // 2
        probe = np.minimum(middle, high[:, None]).astype(np.int32)
        reached = (requantizer(probe[None])[0] >= levels) & (middle <= high[:, None])
        open_ = left < right
        right = np.where(open_ & reached, middle, right)
        left = np.where(open_ & ~reached, middle + 1, left)
    return left


def admissible_factors(
    edges: np.ndarray, low: np.ndarray, high: np.ndarray, y_zero_point: int, lowest: int
) -> tuple[np.ndarray, np.ndarray]:
    """The interval of real factors with which "half up" gives the outputs that ``edges`` describe.

    Output level k (before the zero point) is reached from acc = t on, and not at t - 1, exactly
    when t * factor >= k - 1/2 > (t - 1) * factor. Every threshold bounds the factor twice.

    Args:
        edges: thresholds (M, 255); low, high: the reachable range (M,).

    Returns:
        least (inclusive) and greatest (exclusive, or inclusive where acc is negative) factor, (M,).
    """
    least, greatest = np.zeros(len(edges)), np.full(len(edges), np.inf)
    wanted = np.arange(lowest + 1, lowest + 256) - y_zero_point - 0.5
    for m, row in enumerate(edges):
        for t, k in zip(row, wanted, strict=True):
            # the level holds at t (if t is reachable) and does not at t - 1 (if that is)
            for acc, holds in ((t, True), (t - 1, False)):
                if not low[m] <= acc <= high[m] or acc == 0:
                    continue
                bound = k / acc
                if (acc > 0) == holds:
                    least[m] = max(least[m], bound)
                else:
                    greatest[m] = min(greatest[m], bound)
    return least, greatest


def narrowest_multiplier(least: float, greatest: float) -> tuple[int, int]:
    """The smallest integer multiplier with some shift whose factor lies inside (least, greatest).

    Returns:
        multiplier and shift; (0, 0) if no multiplier of up to 40 bits fits.
    """
    for bits in range(1, 41):
        shift = bits - int(np.frexp(greatest)[1])
        for s in (shift, shift + 1):
            multiplier = int(np.floor(least * 2.0**s)) + 1
            if least < multiplier * 2.0**-s < greatest and multiplier.bit_length() <= bits:
                return multiplier, s
    return 0, 0


# --- the network with another arithmetic


def operators_with(
    accumulator: Callable[[np.ndarray], np.ndarray] | None = None,
    requantizer: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = requantize,
    summation: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> dict:
    """An operator table whose convolutions and dense layers use other arithmetic.

    Args:
        accumulator: maps the exact int32 accumulators (with bias) to those of the hardware.
        requantizer: replaces :func:`qlinear.arithmetic.requantize`; takes acc, scale, y_zero_point.
        summation: computes int32 accumulators (N, M, positions) itself, from int32 columns
            (N, taps, positions), rows (M, taps) and bias (M,); for layers of one group.

    With no arguments the table computes what the reference computes.
    """

    def conv(
        x,
        x_scale,
        x_zero_point,
        w,
        w_scale,
        w_zero_point,
        y_scale,
        y_zero_point,
        B=None,
        **attributes,
    ):
        geo = qc.geometry(x.shape, w.shape, **attributes)
        padded = qc.pad(x, x_zero_point, geo)
        if summation is None:
            acc = qc.add_bias(qc.accumulate(padded, x_zero_point, w, w_zero_point, geo), B)
        else:
            columns = qc.patches(centred(padded, x_zero_point), geo)[:, 0]
            rows = centred(w, w_zero_point).reshape(len(w), -1)
            bias = np.zeros(len(w), np.int32) if B is None else B
            acc = summation(columns, rows, bias).reshape(len(x), len(w), *geo.out)
        if accumulator is not None:
            acc = accumulator(acc)
        scale = requantization_scale(x_scale, w_scale, y_scale).reshape(-1)
        return requantizer(acc, scale, y_zero_point)

    def gemm(A, a_scale, a_zero, B, b_scale, b_zero, C, y_scale, y_zero, *, transB=0):
        w = (B if transB else B.T)[:, :, None, None]
        inputs = (A[:, :, None, None], a_scale, a_zero, w, b_scale, b_zero, y_scale, y_zero, C)
        return conv(*inputs)[:, :, 0, 0]

    return OPERATORS | {("", "QLinearConv"): conv, ("com.microsoft", "QGemm"): gemm}
