"""A node of integer weights and float sums: the weights are proven, the sums are ONNX Runtime's.

What is asked of the node, alone and with the user's constants:

    rows of one 1        its weights, each of them, ``==`` the reference's
    a row of 0           its bias, ``==``
    a row to each block  as many rows at a time as the user has, since their number chooses the
                         kernel: that it has these integers too, and does not round activations
    the user's input     that each sum is one that float32 can give, in whatever order

A bias of 0 stands in for the node's but in the row of 0 and in the user's input: what is small
beside a bias does not show in a sum.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from qlinear.compare import Comparison, compare_arrays
from qlinear.errors import Unsupported
from qlinear.onnx_model import Node
from qlinear.operators.matmul_nbits import dequantized, sum_bound

ROWS = 256  # of the unit matrix, at a time
PART = 32  # of a block, the most in a row: so few products are rounded by less than a step of q
INTEGERS = 4  # the accuracy level at which a kernel may round activations to 8 bits

# A, and whether with the node's bias, to ONNX Runtime's Y
Borrow = Callable[[np.ndarray, bool], np.ndarray]


@dataclass(frozen=True, eq=False)
class Layer:
    """A MatMulNBits of constant weights."""

    weights: tuple  # B, scales, zero_points
    layout: dict[str, int]  # K, N, bits, block_size
    bias: np.ndarray | None


def layer(node: Node, inputs: list) -> Layer:
    """What a node holds.

    Args:
        inputs: its inputs in ONNX's order, None for one that is left out.

    Raises:
        Unsupported: it is not float32, or not of a form whose weights can be asked for.
    """
    A, B, scales, zero_points, g_idx, bias = (*inputs, *(None,) * (6 - len(inputs)))
    options = node.attributes
    if options.get("accuracy_level", 0) == INTEGERS:
        raise Unsupported("accuracy_level 4, at which its kernel may round activations to 8 bits")
    if A.dtype != np.float32:
        raise Unsupported(f"A has type {A.dtype}: float32 needed")
    if g_idx is not None:
        raise Unsupported("g_idx is given: none needed")
    if options.get("weight_prepacked", 0):
        raise Unsupported(f"weight_prepacked is {options['weight_prepacked']}: 0 needed")
    if not B.size:
        raise Unsupported("B is empty: weights needed")
    layout = {name: options[name] for name in ("K", "N", "block_size")}
    return Layer((B, scales, zero_points), layout | {"bits": options.get("bits", 4)}, bias)


def check(node: Node, inputs: list, y: np.ndarray, borrow: Borrow) -> tuple[Comparison, ...]:
    """Compare a node's weights and its bias; if they are equal, hold its sums to their bound.

    Args:
        inputs: the node's, in ONNX's order.
        y: what ONNX Runtime computes of them.

    Returns:
        the comparison of all K x N weights, and of the bias if there is one.

    Raises:
        Unsupported: the node is of a form that is not covered, or ONNX Runtime's sums are not those
            of float32 products with these weights.
    """
    made = layer(node, inputs)
    A, K = inputs[0], made.layout["K"]
    with np.errstate(invalid="ignore", over="ignore"):
        ours = dequantized(*made.weights, **made.layout)
    _require_finite(ours, "weights")
    theirs = np.concatenate([borrow(rows, False) for rows in _units(K)])[:K]
    known = [(node.inputs[1], ours, theirs)]
    if made.bias is not None:
        found = borrow(np.zeros((1, K), np.float32), True)
        known.append((node.inputs[5], made.bias, found.reshape(made.bias.shape)))
    compared = tuple(
        compare_arrays(name, mine, other, node=node.name, operator=node.operator)
        for name, mine, other in known
    )
    if all(c.equal for c in compared):
        parts = list(_parts(A.shape, made.layout["block_size"]))
        if parts:
            sums = np.concatenate(
                [borrow(part, False).reshape(-1, ours.shape[1]) for part in parts]
            )
            _hold(np.concatenate([part.reshape(-1, K) for part in parts]), sums, ours, None)
        _hold(A, y, ours, made.bias)
    return compared


def _require_finite(values: np.ndarray, what: str) -> None:
    if count := int((~np.isfinite(values)).sum()):
        raise Unsupported(f"{count} of {values.size} {what} are infinite or not a number")


def _hold(A: np.ndarray, sums: np.ndarray, weights: np.ndarray, bias: np.ndarray | None) -> None:
    """Hold ONNX Runtime's sums to their bound.

    Raises:
        Unsupported: one is outside, or is no number.
    """
    _require_finite(sums, "sums")
    exact, bound = sum_bound(A, weights, bias)
    if outside := int((~(np.abs(sums - exact) <= bound)).sum()):
        raise Unsupported(
            f"{outside} of {sums.size} sums are not those of float32 products, in any order"
        )


def _units(K: int) -> Iterator[np.ndarray]:
    """The rows of the unit matrix, some at a time, and then rows of 0."""
    for start in range(0, K, ROWS):
        yield np.eye(min(ROWS, K), K, start, dtype=np.float32)


def _parts(shape: tuple[int, ...], block_size: int) -> Iterator[np.ndarray]:
    """Inputs of the user's shape in whose rows, one after the other, a part of each block is."""
    count, K = int(np.prod(shape[:-1])), shape[-1]
    rng = np.random.default_rng(0)
    size = min(block_size, PART)
    starts = range(0, K, size)
    for first in range(0, len(starts) if count else 0, max(count, 1)):
        rows = np.zeros((count, K), np.float32)
        for row, start in zip(rows, starts[first : first + count], strict=False):
            end = min(start + size, K)
            row[start:end] = rng.uniform(0.5, 1, end - start) * rng.choice([-1, 1], end - start)
        yield rows.reshape(shape)
