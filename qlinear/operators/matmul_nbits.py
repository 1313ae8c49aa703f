"""MatMulNBits (com.microsoft): float32 activations by weights of 2, 4 or 8 bits in blocks.

    W[k, n] = (q[n, k] - zero_point[n, block of k]) * scales[n, block of k]
    Y = A W + bias

The weights are integers, and ONNX Runtime's are reproduced to the bit. The product is a float sum,
whose order is the kernel's: another for one row than for several, another on each processor. No
integer stands in it, so it is ONNX Runtime's own here, as the product of a float MatMul is.
:func:`matmul_nbits` sums in NumPy's order, and :func:`sum_bound` says how far any two orders part.

Source: ONNX Runtime contrib operators; the order in which a float zero point is subtracted:
matmul_nbits.cc's kernels, settled by tests/test_matmul_nbits.py.
"""

import numpy as np

from qlinear.errors import Unsupported, UnusableInput

ROUNDING = 2.0**-24  # the largest relative error of one float32 operation


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """The integers in bytes (..., B), lowest bits first: uint8 (..., B * 8 / bits)."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    mask = np.uint8((1 << bits) - 1)
    return ((packed[..., None] >> shifts) & mask).reshape(*packed.shape[:-1], -1)


def _parts(
    B: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray | None,
    *,
    K: int,
    N: int,
    bits: int,
    block_size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integers (N, blocks, block_size), scales and zero points (N, blocks, 1), all as float32.

    Raises:
        Unsupported: another width, or scales of another type than float32.
        UnusableInput: a size does not fit the attributes.
    """
    if bits not in (2, 4, 8):
        raise Unsupported(f"bits is {bits}: 2, 4 or 8 needed")
    if scales.dtype != np.float32:
        raise Unsupported(f"scales has type {scales.dtype}: float32 needed")
    blocks = -(-K // block_size)
    sizes = {"B": (B, N * blocks * block_size * bits // 8), "scales": (scales, N * blocks)}
    if zero_points is not None and zero_points.dtype == np.uint8:
        sizes["zero_points"] = (zero_points, N * -(-blocks * bits // 8))
    elif zero_points is not None:
        if zero_points.dtype != np.float32:
            kind = zero_points.dtype
            raise Unsupported(f"zero_points has type {kind}: uint8 or float32 needed")
        sizes["zero_points"] = (zero_points, N * blocks)
    for name, (value, size) in sizes.items():
        if value.size != size:
            raise UnusableInput(f"{name} has {value.size} elements: {size} needed")
    q = unpack(B.reshape(N, blocks, -1), bits).astype(np.float32)
    if zero_points is None:
        zero = np.full((N, blocks), 1 << bits - 1, np.float32)
    elif zero_points.dtype == np.uint8:
        zero = unpack(zero_points.reshape(N, -1), bits)[:, :blocks].astype(np.float32)
    else:
        zero = zero_points.reshape(N, blocks)
    return q, scales.reshape(N, blocks, 1), zero[..., None]


def dequantized(
    B: np.ndarray, scales: np.ndarray, zero_points: np.ndarray | None = None, **layout: int
) -> np.ndarray:
    """The weights as the kernels multiply them: float32 (K, N).

    Args:
        B: uint8, N * blocks * block_size * bits / 8 bytes; a block's integers fill a byte from the
            lowest bits. The blocks of a column are ceil(K / block_size); the last may be longer
            than what is left of K.
        scales: float32 (N, blocks), in any shape.
        zero_points: None, which stands for 2 ** (bits - 1); uint8, packed as B is, each column's
            from a byte of its own; or float32 (N, blocks).
        layout: the attributes K, N, bits (2, 4, 8) and block_size.

    Raises:
        Unsupported: another width or type.
        UnusableInput: a size does not fit the attributes.
    """
    q, scale, zero = _parts(B, scales, zero_points, **layout)
    if zero_points is not None and zero_points.dtype == np.float32:
        w = q * scale - zero * scale  # two products, each rounded
    else:
        w = (q - zero) * scale
    return np.ascontiguousarray(w.reshape(layout["N"], -1)[:, : layout["K"]].T)


def matmul_nbits(
    A: np.ndarray,
    B: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    **layout: int,
) -> np.ndarray:
    """float32 (..., N): the sums in NumPy's order, so equal to ONNX Runtime's up to rounding.

    Args:
        A: float32 (..., K); bias: float32 (N,), or None; the others as for :func:`dequantized`.
    """
    y = A @ dequantized(B, scales, zero_points, **layout)
    return y if bias is None else y + bias


def sum_bound(
    A: np.ndarray, weights: np.ndarray, bias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The product in float64, and how far from it a float32 sum can end in whatever order.

    n roundings, each of at most u = 2**-24, change a sum by at most n u / (1 - n u) times the sum
    of its terms' magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). An
    activation of 0 gives a term of 0, which rounds nothing. The t other terms meet in t - 1
    additions, however a kernel groups them, and the bias in one more. Each is rounded as a product
    and as a weight, or by a scale that is applied to the sum of a block; by which n is t + 3, and
    one more is for the float64 here. A fused multiply-add leaves roundings out.

    A product of less than 2**-126, a term's or a block's by its scale, is rounded by at most
    2**-150, and a sum never is; integers lose nothing by a scale that is so small.

    Args:
        A: float32 (..., K); weights: float32 (K, N), finite; bias: float32 (N,), or None.

    Returns:
        float64 (..., N) each.
    """
    n = np.count_nonzero(A, axis=-1, keepdims=True) + 4
    A, weights = A.astype(np.float64), weights.astype(np.float64)
    y, total = A @ weights, np.abs(A) @ np.abs(weights)
    if bias is not None:
        y, total = y + bias, total + np.abs(bias)
    return y, n * ROUNDING / (1 - n * ROUNDING) * total + n * 2.0**-149
