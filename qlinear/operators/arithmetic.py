"""The arithmetic that the quantized operators share, as ONNX Runtime's CPU kernels do it."""

import numpy as np

from qlinear.errors import Unsupported, UnusableInput

INT8_TYPES = (np.dtype(np.int8), np.dtype(np.uint8))


def centred(q: np.ndarray, zero_point: np.ndarray, dtype: type = np.int32) -> np.ndarray:
    """``q - zero_point`` without overflow: the difference of two 8-bit integers needs 9 bits.

    ``zero_point`` is a scalar, or has one entry per row of ``q`` (per-channel weights).
    """
    zero_point = np.asarray(zero_point)
    if zero_point.ndim == 1:
        zero_point = zero_point.reshape(-1, *(1,) * (q.ndim - 1))
    return q.astype(dtype) - zero_point.astype(dtype)


def signed_bits(low: int, high: int) -> int:
    """Width of the narrowest two's complement integer that holds ``low`` and ``high``."""
    return max((-int(low) - 1).bit_length() if low < 0 else 0, int(high).bit_length()) + 1


def exact_float(bound: int) -> type:
    """The narrowest float type in which integers, and all their sums, up to ``bound`` are exact.

    float32 holds every integer up to 2**24 and float64 every integer up to 2**53. While no partial
    sum passes that limit no addition rounds, so any order of summation, blocked or fused as a BLAS
    library pleases, gives the exact integer.

    Raises:
        UnusableInput: the bound passes 2**53 (no 8-bit convolution with fewer than 10**11 taps).
    """
    if bound <= 2**24:
        return np.float32
    if bound <= 2**53:
        return np.float64
    raise UnusableInput(f"sums may reach {bound}, past 2**53, where float64 is no longer exact")


def to_int32(sums: np.ndarray, bound: int) -> np.ndarray:
    """Exact float sums, at most ``bound`` in magnitude, as int32; past 32 bits they wrap."""
    # via int64, because a float beyond int32 does not wrap when it is converted
    return sums.astype(np.int64).astype(np.int32) if bound >= 2**31 else sums.astype(np.int32)


def zero_point_or_0(zero_point: np.ndarray | None, q: np.ndarray) -> np.ndarray:
    """An omitted zero point stands for 0, in the type of the tensor that it belongs to."""
    return np.zeros((), q.dtype) if zero_point is None else np.asarray(zero_point)


def one_element(value: np.ndarray) -> np.ndarray:
    """A scalar from an array of one element; any other array is left for a check to refuse."""
    value = np.asarray(value)
    return value.reshape(()) if value.size == 1 else value


def per_channel(values: np.ndarray, ndim: int) -> np.ndarray:
    """Shape a scalar or a vector of M values so that it broadcasts over axis 1 of ``ndim`` axes."""
    values = np.asarray(values)
    return values.reshape(-1, *(1,) * (ndim - 2)) if values.ndim else values


def requantization_scale(
    x_scale: np.ndarray, w_scale: np.ndarray, y_scale: np.ndarray
) -> np.ndarray:
    """``x_scale * w_scale / y_scale`` in float32, rounded after each of the two operations."""
    x_scale, w_scale, y_scale = (np.asarray(s, np.float32) for s in (x_scale, w_scale, y_scale))
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow is an infinity
        return (x_scale * w_scale) / y_scale


def rescale(acc: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """float32(acc) * scale, with one scale or one per channel (axis 1 of ``acc``).

    An infinite scale makes NaN of 0, and infinities of all else; what those become, saturate says.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return acc.astype(np.float32) * per_channel(scale, acc.ndim)


def round_and_shift(scaled: np.ndarray, y_zero_point: np.ndarray) -> np.ndarray:
    """Round to the nearest integer, ties to even, and only then add the zero point: float32."""
    return np.rint(scaled) + np.float32(np.asarray(y_zero_point).item())


def requantize(acc: np.ndarray, scale: np.ndarray, y_zero_point: np.ndarray) -> np.ndarray:
    """Stage 2: int32 accumulators (N, M, ...) to the 8-bit type of ``y_zero_point``."""
    rounded = round_and_shift(rescale(acc, scale), y_zero_point)
    return saturate(rounded, np.asarray(y_zero_point).dtype)


def saturate(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Clamp to the range of an 8-bit type, then convert; NaN becomes the type's minimum.

    So does ONNX Runtime's stage 2, whose kernel takes the maximum of a value and the type's minimum
    first: of NaN and a number that is the number.
    """
    info = np.iinfo(dtype)
    return np.minimum(np.fmax(values, info.min), info.max).astype(dtype)


def saturate_int32(rounded: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Convert to int32 as x86 does, and then clamp to the range of an 8-bit type.

    x86 makes -2**31 of what an int32 does not hold: of NaN, and of 2**31 or more, which so
    saturates at the wrong end. The kernels that add the zero point before they round do it in this
    order.
    """
    return saturate(np.where(rounded < 2**31, rounded, np.float32(-(2**31))), dtype)


def exact_matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Product of two integer matrices (..., M, K) and (..., K, N), exact, as int32 that wraps.

    The product is a float BLAS call in a type that holds every partial sum (:func:`exact_float`):
    no sum of K products passes K times the largest magnitudes.
    """
    largest = [int(max(-int(m.min(initial=0)), int(m.max(initial=0)))) for m in (a, b)]
    bound = a.shape[-1] * largest[0] * largest[1]
    dtype = exact_float(bound)
    with np.errstate(invalid="ignore"):  # BLAS may look at more than the matrices; no sum is NaN
        return to_int32(a.astype(dtype) @ b.astype(dtype), bound)


def require_8_bit(name: str, q: np.ndarray, scale: np.ndarray | None, zero: np.ndarray) -> None:
    """Refuse a quantized tensor whose type, scale or zero point an 8-bit operator cannot take.

    Raises:
        UnusableInput: the message names the input.
    """
    zero = np.asarray(zero)
    if q is not None and q.dtype not in INT8_TYPES:
        raise Unsupported(f"{name} has type {q.dtype}: int8 or uint8 needed")
    if zero.dtype not in INT8_TYPES:
        raise Unsupported(f"{name}_zero_point has type {zero.dtype}: int8 or uint8 needed")
    if q is not None and zero.dtype != q.dtype:
        raise UnusableInput(f"{name}_zero_point has type {zero.dtype} but {name} {q.dtype}")
    if scale is not None:
        require_scale(f"{name}_scale", scale)


def require_scale(name: str, scale: np.ndarray, *, signed: bool = False) -> None:
    """Refuse a scale that is not float32, finite and positive, or ``signed`` and not 0."""
    scale = np.asarray(scale)
    if scale.dtype != np.float32:
        raise Unsupported(f"{name} has type {scale.dtype}: float32 needed")
    if not (np.isfinite(scale) & (scale != 0 if signed else scale > 0)).all():
        needed = "other than 0" if signed else "positive"
        raise UnusableInput(f"{name} is {scale.ravel()[:4]}: finite and {needed} needed")


def require_length(name: str, value: np.ndarray, lengths: tuple[int, ...]) -> None:
    """Refuse a parameter that is neither a scalar nor a vector of an allowed length."""
    shape = np.shape(value)
    if shape and (len(shape) > 1 or shape[0] not in lengths):
        allowed = " or ".join(map(str, sorted(set(lengths))))
        raise UnusableInput(f"{name} has shape {shape}: a scalar or {allowed} elements needed")


def require_columns(name: str, value: np.ndarray, b: np.ndarray) -> None:
    """Refuse a parameter that is not a scalar, (N,), or (..., 1, N) for ``b`` of (..., K, N)."""
    if np.shape(value) != (*b.shape[:-2], 1, b.shape[-1]):
        require_length(name, value, (1, b.shape[-1]))


def require_per_tensor(
    name: str, q: np.ndarray | None, scale: np.ndarray | None, zero: np.ndarray
) -> None:
    """:func:`require_8_bit`, and that scale and zero point are one each for the whole tensor."""
    require_8_bit(name, q, scale, zero)
    require_length(f"{name}_scale", scale, (1,))
    require_length(f"{name}_zero_point", zero, (1,))
