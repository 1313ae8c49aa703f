"""Proofs about a requantizer: thresholds, the factors that keep them, the narrowest multiplier."""

from collections.abc import Callable

import numpy as np


def thresholds(
    requantizer: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """For each channel and output level above the lowest, the least accumulator that reaches it.

    A requantizer never decreases as the accumulator grows, so these thresholds say its output for
    *every* accumulator in [low, high]: two requantizers with equal thresholds are equal on all.

    Args:
        requantizer: int32 (1, M, n) to int8 or uint8 (1, M, n), monotonic along the last axis.
        low, high: int64 (M,), the range that the proof is about. What stage 2 can see is
            :meth:`qlinear.operators.qlinear_conv.Conv.accumulator_range`; a register's range is
            wider, and asks more of a requantizer than any input can.

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
        edges: thresholds (M, 255); low, high: the range (M,) that they are of.

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


def reached_and_missed(
    edges: np.ndarray, low: int, high: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What the thresholds (255,) of one channel say about accumulators in [low, high].

    Returns:
        indices of levels, and the least accumulator that reaches each; indices of levels, and the
        greatest accumulator that misses each: four int64 arrays.
    """
    reached, missed = np.flatnonzero(edges <= high), np.flatnonzero(edges > low)
    return reached, edges[reached], missed, edges[missed] - 1


def factors_with_constant(
    edges: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The interval of real factors with which *some* rounding constant gives ``edges``.

    floor(acc * factor + c) reaches level k at the accumulator a, and misses level j at b, exactly
    when k - a * factor <= c < j - b * factor. Some c does so for all levels at once exactly when
    k - j < (a - b) * factor for every pair of them. Pairs with a > b bound the factor from below,
    pairs with a < b from above.

    Args:
        edges: thresholds (M, 255); low, high: the range (M,) that they are of.

    Returns:
        least and greatest factor, both exclusive, (M,).
    """
    least, greatest = np.zeros(len(edges)), np.full(len(edges), np.inf)
    for m, row in enumerate(edges):
        k, a, j, b = reached_and_missed(row, low[m], high[m])
        levels, distance = k[:, None] - j, a[:, None] - b
        # a = b never binds: a level that is reached lies below one that is missed
        factor = levels / np.where(distance == 0, 1, distance)
        least[m] = factor[distance > 0].max(initial=0)
        greatest[m] = factor[distance < 0].min(initial=np.inf)
    return least, greatest


def rounding_constants(
    edges: np.ndarray,
    low: int,
    high: int,
    multiplier: int,
    shift: int,
    y_zero_point: int,
    lowest: int,
) -> tuple[int, int]:
    """Least and greatest c with which (acc * multiplier + c) >> shift has the thresholds ``edges``.

    Args:
        edges: thresholds (255,) of one channel; low, high: the range that they are of.
        lowest: the least value of the output's type.

    Returns:
        both inclusive; there is no such constant where the least is greater than the greatest.
    """
    k, a, j, b = reached_and_missed(edges, low, high)
    first = lowest + 1 - y_zero_point  # the level of index 0, before the zero point
    least = ((k + first) << shift) - a * multiplier
    greatest = ((j + first) << shift) - b * multiplier - 1
    return int(least.max()), int(greatest.min())


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
