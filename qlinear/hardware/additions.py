"""QLinearAdd in integers: two products, one constant and a shift, proven on all pairs of inputs."""

from collections.abc import Iterable

import numpy as np

from qlinear.operators.qlinear_add import qlinear_add


def fixed_point_addition(
    A_scale: np.ndarray,
    A_zero_point: np.ndarray,
    B_scale: np.ndarray,
    B_zero_point: np.ndarray,
    C_scale: np.ndarray,
    C_zero_point: np.ndarray,
    *,
    shifts: Iterable[int] = range(1, 24),
) -> tuple[int, int, int, int] | None:
    """An addition as a, b, constant and shift: C = saturate((A * a + B * b + constant) >> shift).

    Each shift is tried on all 65,536 pairs of inputs; the first with which some constant gives the
    reference's output for every pair, and every sum fits in 32 bits, is returned with the middle
    one of these constants. The zero points and the rounding are part of it.

    Args:
        A_scale, B_scale, C_scale: float32 scalars.
        A_zero_point, B_zero_point, C_zero_point: int8 or uint8 scalars, one type.
        shifts: numbers of fractional bits, in the order in which they are tried.

    Returns:
        four integers, or None where no shift has such a constant.

    >>> one, zero = np.float32(1), np.int8(0)
    >>> fixed_point_addition(one, zero, one, zero, one, zero, shifts=[4])
    (16, 16, 7, 4)
    """
    info = np.iinfo(np.asarray(C_zero_point).dtype)
    every = np.arange(info.min, info.max + 1).astype(info.dtype)
    A, B = np.repeat(every, 256), np.tile(every, 256)
    C = qlinear_add(A, A_scale, A_zero_point, B, B_scale, B_zero_point, C_scale, C_zero_point)
    A, B, C = (values.astype(np.int64) for values in (A, B, C))
    for shift in shifts:
        a, b = (round(float(scale) / float(C_scale) * 2**shift) for scale in (A_scale, B_scale))
        total = A * a + B * b
        # C is reached: total + constant >= C << shift; and C + 1 is not; but where C is saturated
        least = ((C << shift) - total)[info.min < C].max(initial=-(2**40))
        greatest = (((C + 1) << shift) - 1 - total)[info.max > C].min(initial=2**40)
        constant = int(least + greatest) // 2
        fits = max(np.abs(total).max(), np.abs(total + constant).max(), abs(constant)) < 2**31
        if least <= constant <= greatest and fits:
            assert (((total + constant) >> shift).clip(info.min, info.max) == C).all()
            return a, b, constant, shift
    return None
