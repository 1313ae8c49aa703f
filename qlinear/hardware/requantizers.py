"""Stage 2 without floats: fixed-point multipliers, shifts, and float32's own steps in integers."""

import numpy as np

from qlinear.operators.arithmetic import per_channel, saturate

ROUNDINGS = ("half even", "half up", "half away", "truncate")


def fixed_point(
    scale: np.ndarray, bits: int, *, half_up: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """``scale`` as multiplier * 2**-shift with a multiplier of exactly ``bits`` bits.

    The scheme of Jacob et al. (2018), section 2.2, there with 31 bits.

    Args:
        half_up: round a multiplier that lies half way up, as C's ``round`` does, not to even.

    Returns:
        multipliers, int64 in [2**(bits - 1), 2**bits), and shifts, int64.

    >>> [v.tolist() for v in fixed_point(np.float32([0.75, 0.01]), 8)]
    [[192, 164], [8, 14]]
    """
    mantissa, exponent = np.frexp(np.asarray(scale, np.float64))
    exact = mantissa * 2.0**bits
    multiplier = (np.floor(exact + 0.5) if half_up else np.rint(exact)).astype(np.int64)
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


def requantize_with_constant(
    acc: np.ndarray,
    multiplier: np.ndarray,
    constant: np.ndarray,
    shift: np.ndarray,
    y_zero_point: np.ndarray,
) -> np.ndarray:
    """Stage 2 in integers with a rounding constant for each channel.

    (acc * multiplier + constant) >> shift, plus the zero point, saturated. Half up is the constant
    2**(shift - 1). Hardware adds a constant in any case, so its value costs one stored word a
    channel, or none if it is folded into bias * multiplier.

    Args:
        acc: int32 (N, M, ...).
        multiplier, constant, shift: int64 (M,).

    Returns:
        (N, M, ...) of the type of ``y_zero_point``.
    """
    multiplier, constant, shift = (per_channel(v, acc.ndim) for v in (multiplier, constant, shift))
    y = (acc.astype(np.int64) * multiplier + constant) >> shift
    return saturate(y + int(y_zero_point), np.asarray(y_zero_point).dtype)


def requantize_gemmlowp(
    acc: np.ndarray,
    multiplier: np.ndarray,
    shift: np.ndarray,
    y_zero_point: np.ndarray,
    rounding: str = "half away",
) -> np.ndarray:
    """Stage 2 with two roundings in a row, as gemmlowp and TensorFlow Lite's kernels do it.

    The product with a 31-bit multiplier is rounded to its upper half, half up, as Arm's SQRDMULH
    does; that is shifted right and rounded again. A scale of 1 or more shifts the accumulator left
    before that.

    Source: gemmlowp, fixedpoint/fixedpoint.h, SaturatingRoundingDoublingHighMul and
    RoundingDivideByPOT; TensorFlow Lite, kernels/internal/common.cc, MultiplyByQuantizedMultiplier
    where TFLITE_SINGLE_ROUNDING is not set. ``models/runtimes.json`` records which kernels of
    LiteRT were found equal.

    Args:
        acc: int32 (N, M, ...).
        multiplier, shift: int64 (M,), as from ``fixed_point(scale, 31)``.
        rounding: of the second rounding, one of ``ROUNDINGS``.

    Returns:
        (N, M, ...) of the type of ``y_zero_point``.

    Raises:
        ValueError: an accumulator that is shifted left passes 32 bits, which C leaves undefined.
    """
    y = shift_right(*gemmlowp_product(acc, multiplier, shift), rounding)
    return saturate(y + int(y_zero_point), np.asarray(y_zero_point).dtype)


def gemmlowp_product(
    acc: np.ndarray, multiplier: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """gemmlowp's product after its first rounding, and the shift of the second: int64, int64.

    Args:
        as for :func:`requantize_gemmlowp`.

    Raises:
        ValueError: an accumulator that is shifted left passes 32 bits, which C leaves undefined.
    """
    multiplier, shift = (per_channel(v, acc.ndim) for v in (multiplier, shift))
    wide = acc.astype(np.int64) << np.maximum(31 - shift, 0)
    if wide.size and not -(2**31) <= wide.min() <= wide.max() < 2**31:
        raise ValueError("acc shifted left passes 32 bits")
    # the saturation that the name speaks of needs both factors to be -2**31
    upper = shift_right(wide * multiplier, np.int64(31), "half up")
    # twice the value, shifted by one more, is the same number where nothing is left to shift
    return 2 * upper, np.maximum(shift - 30, 1)


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
    """Stage 2 in integers, equal to the float32 chain for every ``|acc|`` up to 2**24.

    A greater accumulator is itself rounded on its way to float32, which this form leaves out. The
    float32 product is the exact product of two integers of at most 24 bits, rounded to 24
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
