"""QLinearAdd in integers: two products, one constant and a shift, proven on all pairs of inputs.

Also QLinearAdd as ONNX Runtime's other kernels compute it, which may differ from the reference's
by one where a sum lies on a tie or beside one: :func:`qlinear_add_neon` on ARM64 and
:func:`qlinear_add_sse2` on x86-64 without AVX2.
"""

from collections.abc import Iterable

import numpy as np

from qlinear.errors import Unsupported
from qlinear.operators.arithmetic import saturate, saturate_int32
from qlinear.operators.qlinear_add import a_is_constant, fma, qlinear_add


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


def _require_one_shape(A: np.ndarray, B: np.ndarray) -> None:
    """Refuse operands for which the kernels may take another order."""
    if A.shape != B.shape or a_is_constant(A.shape, B.shape):
        raise Unsupported(
            f"A has shape {A.shape}, B {B.shape}: one shape of several elements needed"
        )


def neon_constants(
    A_scale: np.ndarray, B_scale: np.ndarray, C_scale: np.ndarray
) -> tuple[int, int, int] | None:
    """The two multipliers and the shift of ONNX Runtime's ARM kernel.

    The shift makes the greater multiplier one of 22 bits. Scales are float32 scalars.

    Returns:
        three integers, or None where a ratio of scales is outside [2**-14, 256): the kernel then
        computes in float32.
    """
    ratios = [np.float32(scale / C_scale) for scale in (A_scale, B_scale)]
    if not all(2.0**-14 <= ratio < 256 for ratio in ratios):
        return None
    shift = 22 - int(np.frexp(max(ratios))[1])
    a, b = (int(np.rint(np.ldexp(ratio, shift))) for ratio in ratios)
    # a ratio just below a power of two is rounded up to 23 bits
    return (a, b, shift) if shift >= 13 and max(a, b) < 1 << 22 else None


def qlinear_add_neon(
    A: np.ndarray,
    A_scale: np.ndarray,
    A_zero_point: np.ndarray,
    B: np.ndarray,
    B_scale: np.ndarray,
    B_zero_point: np.ndarray,
    C_scale: np.ndarray,
    C_zero_point: np.ndarray,
) -> np.ndarray:
    """QLinearAdd as ONNX Runtime computes it on ARM64: in integers, ties away from zero.

    With the constants of :func:`neon_constants`

        acc = (A - A_zero_point) * a + (B - B_zero_point) * b
        C   = saturate(round(acc / 2**shift) + C_zero_point)

    and where they do not exist, in float32, the sum of the two products fused:
    (A_scale * (A - A_zero_point) + B_scale * (B - B_zero_point)) / C_scale.

    Source: ONNX Runtime, core/mlas/lib/qladd.cpp. Held against it by study/portability.py.

    Args:
        as for :func:`qlinear.operators.qlinear_add.qlinear_add`, which also refuses illegal ones;
            A and B have one shape.

    Raises:
        Unsupported: they have not, or one element.
    """
    _require_one_shape(A, B)
    zero = int(C_zero_point)
    left, right = (q.astype(np.int64) - int(z) for q, z in ((A, A_zero_point), (B, B_zero_point)))
    constants = neon_constants(A_scale, B_scale, C_scale)
    if constants is None:
        second = np.float32(B_scale) * right.astype(np.float32)
        real = fma(np.float32(A_scale), left.astype(np.float32), second) / np.float32(C_scale)
        info = np.iinfo(A.dtype)
        real = np.clip(real, np.float32(info.min - zero), np.float32(info.max - zero))
        return saturate(np.rint(real + np.float32(zero)), A.dtype)
    a, b, shift = constants
    acc = left * a + right * b
    rounded = (acc - (acc < 0) + (1 << (shift - 1))) >> shift
    return saturate(rounded + zero, A.dtype)


def qlinear_add_sse2(
    A: np.ndarray,
    A_scale: np.ndarray,
    A_zero_point: np.ndarray,
    B: np.ndarray,
    B_scale: np.ndarray,
    B_zero_point: np.ndarray,
    C_scale: np.ndarray,
    C_zero_point: np.ndarray,
) -> np.ndarray:
    """QLinearAdd as ONNX Runtime computes it on x86-64 without AVX2: nothing is fused.

    With ra = A_scale / C_scale and rb = B_scale / C_scale, and a rounding after each operation,

        C = saturate(rint((fixed + A * ra) + B * rb))
        fixed = C_zero_point - (ra * A_zero_point + rb * B_zero_point)

    What is 2**31 or more saturates at the wrong end, as there.

    Source: ONNX Runtime, core/mlas/lib/qladd.cpp. Held against it by study/portability.py.

    Args:
        as for :func:`qlinear.operators.qlinear_add.qlinear_add`, which also refuses illegal ones;
            A and B have one shape.

    Raises:
        Unsupported: they have not, or one element.
    """
    _require_one_shape(A, B)
    F = np.float32
    ra, rb = F(A_scale / C_scale), F(B_scale / C_scale)
    fixed = F(C_zero_point) - (ra * F(A_zero_point) + rb * F(B_zero_point))
    total = (fixed + A.astype(F) * ra) + B.astype(F) * rb
    return saturate_int32(np.rint(total), A.dtype)
