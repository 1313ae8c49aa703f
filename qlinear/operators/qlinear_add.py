"""QLinearAdd (com.microsoft): the sum of two quantized tensors, a residual connection.

Mathematically:

    C = saturate(rint((A - A_zero_point) * A_scale / C_scale
                    + (B - B_zero_point) * B_scale / C_scale) + C_zero_point)

ONNX Runtime's x86-64 kernel computes it with float32 constants and two fused multiply-adds, each of
which rounds once:

    ra, rb = A_scale / C_scale, B_scale / C_scale
    fixed  = C_zero_point - fma(ra, A_zero_point, rb * B_zero_point)
    C      = saturate(rint(fma(ra, A, fma(rb, B, fixed))))

Where A is one element for a span of B (:func:`a_is_constant`), the two change places first, with
their scales and zero points.

So the zero point is added *before* the rounding here, unlike in QLinearConv. What is 2**31 or more
saturates at the wrong end (:func:`qlinear.operators.arithmetic.saturate_int32`). The formula holds
on processors with AVX2 and FMA3, for which ONNX Runtime has this kernel; its source asks for the
two multiply-adds of C. The one in ``fixed`` is the compiler's contraction of a plain expression, so
it belongs to the Linux wheels that the tests run. The kernels of ARM64 and of processors without
AVX2 are in :mod:`qlinear.hardware.additions`.

Source: ONNX Runtime, core/mlas/lib/intrinsics/avx2/qladd_avx2.cpp, and for the exchange
contrib_ops/cpu/quantization/qlinear_binary_op.cc; the order of operations was settled by exhausting
all 65,536 pairs of inputs for hundreds of scale sets made to sit on ties (tests/test_operators.py).
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.operators.arithmetic import (
    one_element,
    require_8_bit,
    require_per_tensor,
    saturate_int32,
)

PAIRS = 1 << 16  # of two 8-bit inputs


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """float32 fused multiply-add: a * b + c with one rounding, ties to even.

    float64 holds a product of two float32 exactly. The sum in float64 is rounded to odd, so that
    the second rounding, to float32, is correct (Boldo and Melquiond, 2008).
    """
    product = np.multiply(a, b, dtype=np.float64)
    addend = np.asarray(c, np.float64)
    total = np.atleast_1d(product + addend)
    part = total - product
    error = (product - (total - part)) + (addend - part)  # what the sum lost, exactly
    even = total.view(np.int64) % 2 == 0
    toward = np.where(error > 0, np.inf, -np.inf)
    total = np.where((error != 0) & even, np.nextafter(total, toward), total)
    return total.astype(np.float32).reshape(np.broadcast_shapes(product.shape, addend.shape))


def qlinear_add(
    A: np.ndarray,
    A_scale: np.ndarray,
    A_zero_point: np.ndarray,
    B: np.ndarray,
    B_scale: np.ndarray,
    B_zero_point: np.ndarray,
    C_scale: np.ndarray,
    C_zero_point: np.ndarray,
) -> np.ndarray:
    """com.microsoft's QLinearAdd, equal to ONNX Runtime's Linux wheel on x86-64 with AVX2 and FMA3.

    Args:
        A, B: int8 or uint8, the same type, shapes that broadcast.
        A_scale, B_scale, C_scale: float32 scalars.
        A_zero_point, B_zero_point, C_zero_point: scalars of the type of A and B.

    Returns:
        that type, of the broadcast shape.

    Raises:
        UnusableInput: a type or shape is illegal; the message names the input.
    """
    parameters = {
        "A": (A, A_scale, A_zero_point),
        "B": (B, B_scale, B_zero_point),
        "C": (A, C_scale, C_zero_point),
    }
    for name, (q, scale, zero) in parameters.items():
        require_per_tensor(name, q, scale, zero)
    of_a, of_b = (A_scale, A_zero_point), (B_scale, B_zero_point)
    if a_is_constant(A.shape, B.shape):
        A, of_a, B, of_b = B, of_b, A, of_a
    found = factors(*(one_element(part) for part in (*of_a, *of_b, C_scale, C_zero_point)))
    if not np.isfinite(found).all():
        raise UnusableInput("A_scale / C_scale or B_scale / C_scale is too large for float32")
    ra, rb, fixed = found
    terms = fma(rb, B.astype(np.float32), fixed)
    return saturate_int32(np.rint(fma(ra, A.astype(np.float32), terms)), A.dtype)


def prepare(
    A_scale: np.ndarray,
    A_zero_point: np.ndarray,
    B_scale: np.ndarray,
    B_zero_point: np.ndarray,
    C_scale: np.ndarray,
    C_zero_point: np.ndarray,
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """:func:`qlinear_add` with these constants: a function of ``A`` and ``B`` alone.

    Two 8-bit inputs have 65,536 pairs. When so many elements have been asked for, a table of every
    pair is made; from then on an element is read there. Several threads may call it at once, and
    the constants must not change.

    The arguments are as there.

    Returns:
        a function of A and B, which refuses what :func:`qlinear_add` does; its result is a new
        array.
    """
    of_a, of_b, of_c = (A_scale, A_zero_point), (B_scale, B_zero_point), (C_scale, C_zero_point)
    asked = 0

    @cache
    def table(exchanged: bool) -> np.ndarray:
        every = np.arange(256, dtype=np.uint8).view(np.asarray(A_zero_point).dtype)
        first, second = (of_b, of_a) if exchanged else (of_a, of_b)
        return qlinear_add(np.repeat(every, 256), *first, np.tile(every, 256), *second, *of_c)

    def add(A: np.ndarray, B: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += max(A.size, B.size)
        if asked <= PAIRS:
            return qlinear_add(A, *of_a, B, *of_b, *of_c)
        for name, q, zero in (("A", A, A_zero_point), ("B", B, B_zero_point)):
            require_8_bit(name, q, None, zero)
        exchanged = a_is_constant(A.shape, B.shape)
        if exchanged:
            A, B = B, A
        # one index into the table, a byte from each, reads several times as fast as two
        pair = np.left_shift(A.view(np.uint8), 8, dtype=np.uint16) | B.view(np.uint8)
        return table(exchanged).take(pair)

    return add


def a_is_constant(a_shape: tuple[int, ...], b_shape: tuple[int, ...]) -> bool:
    """Whether ONNX Runtime takes A as one element for a whole span of B, and so takes B first.

    The span is along the last of the axes that both shapes have in which either is longer than one,
    or the first of them where none is. Where A has one element there the operands change places,
    which can change a result: the one that is named first is multiplied last.
    """
    both = max(1, min(len(a_shape), len(b_shape)))
    pairs = list(zip((1, *a_shape)[-both:], (1, *b_shape)[-both:], strict=True))
    longer = [a for a, b in pairs if max(a, b) > 1]
    return (longer[-1] if longer else 1) == 1


def factors(
    A_scale: np.ndarray,
    A_zero_point: np.ndarray,
    B_scale: np.ndarray,
    B_zero_point: np.ndarray,
    C_scale: np.ndarray,
    C_zero_point: np.ndarray,
) -> tuple[np.float32, np.float32, np.float32]:
    """The kernel's three float32 constants: ra, rb and the fixed part."""
    zero_a, zero_b, zero_c = (np.float32(z) for z in (A_zero_point, B_zero_point, C_zero_point))
    with np.errstate(over="ignore", invalid="ignore"):  # an infinity is refused
        ra, rb = np.float32(A_scale / C_scale), np.float32(B_scale / C_scale)
        return ra, rb, np.float32(zero_c - fma(ra, zero_a, rb * zero_b))
