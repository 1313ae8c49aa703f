"""A node of integer weights and float sums: the weights are proven, the sums are ONNX Runtime's.

What is asked of the node, alone and with the user's constants:

    rows of one 1        its weights, each of them, ``==`` the reference's
    a row to each block  that the activations of a block are not rounded to integers on the way
    the user's input     that each sum is one that float32 can give, in whatever order
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from qlinear.compare import Comparison, compare_arrays
from qlinear.errors import Unsupported
from qlinear.onnx_model import Node
from qlinear.operators.matmul_nbits import dequantized, sum_bound

ROWS = 256  # of the unit matrix, at a time
INTEGERS = 4  # the accuracy level at which a kernel may round activations to 8 bits

Borrow = Callable[[np.ndarray], np.ndarray]  # an A to ONNX Runtime's Y


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


def check(node: Node, inputs: list, y: np.ndarray, borrow: Borrow) -> Comparison:
    """Compare a node's weights, and hold its sums to their bound.

    Args:
        inputs: the node's, in ONNX's order.
        y: what ONNX Runtime computes of them.

    Returns:
        the comparison of all K x N weights.

    Raises:
        Unsupported: the node is of a form that is not covered, or ONNX Runtime's sums are not those
            of float32 products with these weights.
    """
    made = layer(node, inputs)
    ours = dequantized(*made.weights, **made.layout)
    bias = 0 if made.bias is None else made.bias
    theirs = np.concatenate(list(_by_units(made, borrow)))
    with np.errstate(invalid="ignore"):
        # the bias is added after the sum
        weights = compare_arrays(
            node.inputs[1], ours + bias, theirs, node=node.name, operator=node.operator
        )
    asked = [*_by_blocks(made, inputs[0].shape, borrow), (inputs[0], y)]
    A = np.concatenate([a.reshape(-1, a.shape[-1]) for a, _ in asked])
    sums = np.concatenate([found.reshape(-1, found.shape[-1]) for _, found in asked])
    with np.errstate(invalid="ignore", over="ignore"):
        exact, bound = sum_bound(A, *made.weights, made.bias, **made.layout)
        outside = int((~(np.abs(sums - exact) <= bound)).sum())
    if outside:
        raise Unsupported(
            f"{outside} of {sums.size} sums are not those of float32 products, in any order"
        )
    return weights


def _by_units(made: Layer, borrow: Borrow) -> Iterator[np.ndarray]:
    K = made.layout["K"]
    for start in range(0, K, ROWS):
        rows = np.zeros((min(ROWS, K), K), np.float32)
        count = min(ROWS, K - start)
        rows[np.arange(count), start + np.arange(count)] = 1
        yield borrow(rows)[:count]


def _by_blocks(
    made: Layer, shape: tuple[int, ...], borrow: Borrow
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs of the user's shape, so that the same kernel runs, each row within one block.

    Within so few products no rounding to 8 bits hides below the bound.
    """
    K, size = made.layout["K"], made.layout["block_size"]
    rng = np.random.default_rng(0)
    flat = (int(np.prod(shape[:-1])), K)
    blocks = range(0, K, size)
    for first in range(0, len(blocks), max(flat[0], 1)):
        rows = np.zeros(flat, np.float32)
        for row, start in zip(rows, blocks[first : first + flat[0]], strict=False):
            end = min(start + size, K)
            row[start:end] = rng.uniform(0.5, 1, end - start) * rng.choice([-1, 1], end - start)
        A = rows.reshape(shape)
        yield A, borrow(A)
