"""Narrow accumulators: wrapping, saturation, and sums of pairs as x86 forms them."""

import numpy as np


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
