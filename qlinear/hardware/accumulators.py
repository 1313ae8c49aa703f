"""Narrow accumulators: wrapping, saturation, and sums of pairs as x86 forms them."""

import math

import numpy as np

from qlinear.operators.qlinear_conv import Geometry, windows


def wrap(acc: np.ndarray, bits: int) -> np.ndarray:
    """The value that a two's complement register of ``bits`` bits holds: acc modulo 2**bits.

    >>> wrap(np.array([127, 128, 300]), 8).tolist()
    [127, -128, 44]
    """
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


def can_saturate(w: np.ndarray) -> np.ndarray:
    """Which pairs of weights ``vpmaddubsw`` can saturate, for some uint8 inputs.

    Each input is 0 or more by itself, so a pair's sum is greatest where only positive weights meet
    255 and least where only negative ones do: it passes 32,767 exactly when the positive weights
    add up to more than 128, and -32,768 exactly when the negative ones do to less than -128.

    Args:
        w: int8 (M, taps), stored integers; taps 0 and 1 are a pair, 2 and 3, and so on.

    Returns:
        bool (M, taps // 2). An odd last tap has no partner.
    """
    pairs = w[:, : w.shape[1] // 2 * 2].reshape(len(w), -1, 2).astype(np.int32)
    greatest = np.maximum(pairs, 0).sum(axis=2)
    least = np.minimum(pairs, 0).sum(axis=2)
    return (greatest > 128) | (least < -128)


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


def accumulate_pairs(
    padded: np.ndarray,
    x_zero_point: np.ndarray,
    w: np.ndarray,
    w_zero_point: np.ndarray,
    geo: Geometry,
) -> np.ndarray:
    """Sums of products as ONNX Runtime forms them of uint8 and int8 on x86 with AVX2, without VNNI.

    The taps of a group are taken position by position, all channels of one before the next, and
    two neighbours are a pair (:func:`pair_saturations`). A depthwise layer, of one channel in and
    one out a group, has a kernel of its own, which is exact.

    Args:
        as for :func:`qlinear.operators.qlinear_conv.accumulate`, for which it may stand in
        :func:`qlinear.operators.qlinear_conv.stages`; w_zero_point must be 0.

    Returns:
        int32 (N, M, out...), before the bias.
    """
    assert not np.any(w_zero_point)
    view, axes = windows(padded, geo), len(geo.kernel)
    view = view.reshape(len(view), geo.group, -1, *view.shape[2:])
    order = (0, 1, *range(3 + axes, 3 + 2 * axes), 2, *range(3, 3 + axes))
    columns = view.transpose(order).reshape(len(view), geo.group, -1, math.prod(geo.out))
    rows = np.moveaxis(w, 1, -1).reshape(geo.group, -1, w[0].size)
    exact, saturated = _by_group(columns, rows)
    sums = exact if len(w) == geo.group and w.shape[1] == 1 else saturated
    zero = int(np.asarray(x_zero_point).item()) * rows.sum(axis=2, dtype=np.int64)
    return (sums - zero[:, :, None]).reshape(len(padded), len(w), *geo.out).astype(np.int32)


def _by_group(columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """:func:`pair_saturations` of each group: (N, group, M / group, positions)."""
    found = [pair_saturations(columns[:, g], rows[g]) for g in range(len(rows))]
    exact, saturated = zip(*found, strict=True)
    return np.stack(exact, axis=1), np.stack(saturated, axis=1)
