"""The accumulators at which a requantizer can go wrong: its thresholds, and its corners."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.hardware.proofs import thresholds
from qlinear.onnx_model import Model, Node
from qlinear.operators import arithmetic as ar
from qlinear.operators import qlinear_conv as qc
from qlinear.operators.qgemm import as_conv
from qlinear.operators.qlinear_global_average_pool import pool_scale
from qlinear.ort import run_operator

EXACT = 1 << 24  # float32 holds every integer up to here
KINDS = {
    "bound": "least and greatest accumulator of any input",
    "zero": "0 and its neighbours",
    "tie": "the scaled accumulator is a tie, and its neighbours",
    "saturation": "the last accumulators before the output saturates, and the first where it does",
    "float32": "2**24, from where a conversion to float32 rounds, and its neighbours",
}


@dataclass(frozen=True)
class Requantizer:
    """Stage 2 of a node, channel by channel, and the accumulators that it can see.

    ``w`` holds the stage 1 that makes them: one row of centred weights for each channel.
    """

    factor: np.ndarray  # float32 (M,)
    y_zero_point: np.ndarray  # int8/uint8 ()
    low: np.ndarray  # int64 (M,): no input gives less; some input gives this
    high: np.ndarray  # int64 (M,)
    register: tuple[int, int]  # least and greatest partial sum, in any order, with or without bias
    bias: np.ndarray | None  # int64 (M,); None where it is not one for a channel
    w: np.ndarray  # int32 (M, taps...)
    x_zero_point: np.ndarray  # int8/uint8 ()

    @property
    def bits(self) -> int:
        """Width of the narrowest register that holds every partial sum of every input."""
        return ar.signed_bits(*self.register)

    @property
    def exact(self) -> bool:
        """Whether every ``|acc|`` is below 2**24, so that float32(acc) never rounds."""
        return bool(max(-self.low.min(), self.high.max()) < EXACT)

    def __call__(self, acc: np.ndarray) -> np.ndarray:
        """int32 (N, M, ...) to the output's type."""
        return ar.requantize(acc, self.factor, self.y_zero_point)


def requantizer(graph: Model, node: Node, x_shape: tuple[int, ...]) -> Requantizer | None:
    """The requantizer of a node; None if it has none, or its weights are no constants.

    Args:
        x_shape: of the node's first input; a pooling divides by its number of pixels.
    """
    given = graph.arguments(node)
    conv = layer(graph, node)
    if conv is None:
        if node.operator != "com.microsoft.QLinearGlobalAveragePool" or not _complete(graph, node):
            return None
        last = node.attributes.get("channels_last", 0)
        return _of_pooling(given, x_shape[1:-1] if last else x_shape[2:])
    found = of_conv(conv)
    if node.operator == "QLinearConv":
        return found
    found, C = replace(found, w=found.w[:, :, 0, 0]), given.get("C")
    return found if C is None else _with_bias(found, np.asarray(C))


def _complete(graph: Model, node: Node) -> bool:
    """Whether all inputs but the first are constants, and the output is quantized."""
    given = graph.arguments(node)
    _, *others = graph.names(node) or [""]
    return all(formal in given for formal in others) and "y_scale" in given


def layer(graph: Model, node: Node) -> qc.Conv | None:
    """A convolution, or a dense layer as the 1x1 convolution that it is, without its own bias.

    Returns:
        None for any other node, and where a constant is missing or the output is float.
    """
    if not _complete(graph, node):
        return None
    if node.operator == "QLinearConv":
        return graph.conv(node)
    given = graph.arguments(node)
    if node.operator == "com.microsoft.QGemm":
        B = given["B"]
    elif node.operator == "QLinearMatMul" and np.ndim(given["b"]) == 2:
        B = given["b"]
    else:
        return None
    alpha = np.float32(node.attributes.get("alpha", 1.0))
    b_scale, b_zero = (
        ar.one_element(given[name]) if given[name].size == 1 else given[name].ravel()
        for name in ("b_scale", "b_zero_point")
    )
    return as_conv(
        alpha * ar.one_element(given["a_scale"]), given["a_zero_point"], B, b_scale, b_zero, None,
        given["y_scale"], given["y_zero_point"], transB=node.attributes.get("transB", 0),
    )  # fmt: skip


def of_conv(conv: qc.Conv) -> Requantizer:
    """The requantizer of a convolution.

    Raises:
        UnusableInput: a constant is illegal.
    """
    conv.require_legal()
    (low, high), (least, greatest) = conv.accumulator_range(), conv.register_range()
    return Requantizer(
        conv.factor, conv.y_zero_point, low, high, (int(least.min()), int(greatest.max())),
        conv.bias.astype(np.int64), ar.centred(conv.w, conv.w_zero_point), conv.x_zero_point,
    )  # fmt: skip


def _with_bias(found: Requantizer, C: np.ndarray) -> Requantizer:
    """With a bias for each column, or for each element of the output, then with all of a column."""
    rows = np.atleast_2d(C).astype(np.int64)
    least, greatest = rows.min(0), rows.max(0)
    low, high = found.low + least, found.high + greatest
    register = min(found.register[0], int(low.min())), max(found.register[1], int(high.max()))
    bias = np.broadcast_to(least, len(found.low)) if (least == greatest).all() else None
    return replace(found, low=low, high=high, register=register, bias=bias)


def _of_pooling(given: dict, spatial: tuple[int, ...]) -> Requantizer:
    """One channel stands for all: they are alike."""
    zero = ar.one_element(given["x_zero_point"])
    pixels, info = int(np.prod(spatial)), np.iinfo(zero.dtype)
    low, high = ((end - int(zero)) * pixels for end in (info.min, info.max))
    return Requantizer(
        np.reshape(pool_scale(given["x_scale"], given["y_scale"], pixels), 1),
        ar.one_element(given["y_zero_point"]), np.array([low]), np.array([high]), (low, high),
        np.zeros(1, np.int64), np.ones((1, *spatial), np.int32), zero,
    )  # fmt: skip


def threshold_accumulators(
    of: Requantizer, other: Callable[[np.ndarray], np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """For each channel both ends of its range, each threshold and the accumulator before it.

    Between two neighbours in this list the output does not change. So a requantizer that never
    decreases as the accumulator grows, and has these outputs, has ONNX Runtime's on *every*
    accumulator of the range, which holds all that any input of the layer gives.

    Args:
        other: another stage 2 of these channels that never decreases, int32 (1, M, n) to the
            output's type; its thresholds are listed, too.

    Returns:
        channel and acc, int32 (n,), sorted by both; y of the output's type, by ONNX Runtime; with
        ``other`` its outputs as other.

    Raises:
        UnusableInput: an accumulator may pass 32 bits.
    """
    steps = _thresholds(of)
    if other is not None:
        steps = np.concatenate([steps, thresholds(other, of.low, of.high)], axis=1)
    found = []
    for row, low, high in zip(steps, of.low, of.high, strict=True):
        reached = row[(row > low) & (row <= high)]
        found.append(np.unique([low, high, *reached, *(reached - 1)]))
    made = _with_outputs(of, found)
    if other is None:
        return made
    count = max(map(len, found))
    rows = np.stack([np.pad(accs, (0, count - len(accs)), "edge") for accs in found])
    y = other(rows[None].astype(np.int32))[0]
    return {**made, "other": np.concatenate([r[: len(a)] for r, a in zip(y, found, strict=True)])}


def corner_accumulators(of: Requantizer) -> dict[str, np.ndarray]:
    """Bounds, zero, ties, saturation and the limit of float32, each with its neighbours.

    Returns:
        as for :func:`threshold_accumulators`, and kind, uint8 (n,): the position in ``KINDS``; of
        several kinds the first.
    """
    steps = _thresholds(of)
    found, kinds = [], []
    for m, (row, low, high) in enumerate(zip(steps, of.low, of.high, strict=True)):
        reached = row[(row > low) & (row <= high)]
        beside = np.unique([*reached, *(reached - 1)])
        twice = 2 * (beside.astype(np.float32) * of.factor[m])
        by_kind = [
            [low, high],
            [0],
            beside[np.abs(twice) % 2 == 1],
            [edge - back for edge in row[[0, -1]] for back in (0, 1)],
            [-EXACT, EXACT],
        ]
        kind_of: dict[int, int] = {}
        for kind, centres in enumerate(by_kind):
            for acc in (int(c) + d for c in centres for d in (-1, 0, 1)):
                if low <= acc <= high:
                    kind_of.setdefault(acc, kind)
        found.append(np.array(sorted(kind_of)))
        kinds += [kind_of[acc] for acc in sorted(kind_of)]
    return {**_with_outputs(of, found), "kind": np.array(kinds, np.uint8)}


def corner_windows(of: Requantizer) -> dict[str, np.ndarray] | None:
    """For each channel two windows of the input, without padding, that give its bounds.

    Returns:
        x (2 M, taps...) of the input's type; channel, acc and y (2 M,): first the least, then the
        greatest. None where the bias is not one for a channel.
    """
    if of.bias is None:
        return None
    _thresholds_fit(of)
    info = np.iinfo(of.x_zero_point.dtype)
    least = np.where(of.w > 0, info.min, info.max)
    x = np.stack([least, info.min + info.max - least], 1).astype(of.x_zero_point.dtype)
    x = x.reshape(-1, *of.w.shape[1:])
    channel = np.arange(len(of.w)).repeat(2)
    terms = ar.centred(x, of.x_zero_point, np.int64) * of.w[channel]
    acc = terms.reshape(len(x), -1).sum(1) + of.bias[channel]
    ends = [acc[m : m + 2] for m in range(0, len(acc), 2)]
    return {"x": x, **_with_outputs(of, ends)}


def _thresholds_fit(of: Requantizer) -> None:
    info = np.iinfo(np.int32)
    if of.low.min() < info.min or of.high.max() > info.max:
        raise UnusableInput("accumulators may pass 32 bits: they have no thresholds")


def _thresholds(of: Requantizer) -> np.ndarray:
    _thresholds_fit(of)
    return thresholds(of, of.low, of.high)


def _with_outputs(of: Requantizer, found: list[np.ndarray]) -> dict[str, np.ndarray]:
    channel = np.arange(len(found), dtype=np.int32).repeat([len(accs) for accs in found])
    acc = np.concatenate(found).astype(np.int32)
    return {"channel": channel, "acc": acc, "y": requantized_by_ort(of, channel, acc)}


def requantized_by_ort(of: Requantizer, channel: np.ndarray, acc: np.ndarray) -> np.ndarray:
    """What ONNX Runtime makes of these accumulators: each is the bias of a channel of a QLinearConv
    whose products are 0.

    Raises:
        UnusableInput: ONNX Runtime's outputs are not the reference's.
    """
    zero, count = of.y_zero_point, len(acc)
    inputs = dict(
        x=np.zeros((1, 1, 1), zero.dtype), x_scale=np.float32(1),
        x_zero_point=np.zeros((), zero.dtype), w=np.zeros((count, 1, 1), np.int8),
        w_scale=of.factor[channel], w_zero_point=np.zeros(count, np.int8),
        y_scale=np.float32(1), y_zero_point=zero, B=acc,
    )  # fmt: skip
    y = run_operator("QLinearConv", inputs).reshape(count)
    ours = ar.requantize(acc[None, :], of.factor[channel], zero)[0]
    if not (ours == y).all():
        at = int(np.argmax(ours != y))
        raise UnusableInput(f"acc {acc[at]}: ours {ours[at]}, ONNX Runtime {y[at]}")
    return y
