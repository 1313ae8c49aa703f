"""Cross-layer equalization of a float network (Nagel et al., 2019), by powers of two.

For s > 0, relu(s v) = s relu(v). So a channel between two layers may be divided by s where the
first writes it and multiplied by s where the second reads it: the network is the same, and the
ranges of both layers' weights have moved. Equalization chooses s so that they meet.

Here s is a power of two. A float product or sum of such a network is that of the original but for
its exponent, so the two networks' outputs are equal to the bit, unless one under- or overflows.

ReLU6 is no such function: min(s v, 6) is not s min(v, 6). It must be made a ReLU first, which is
another network; study/evaluate.py measures by how much.
"""

import numpy as np
import onnx

from qlinear.errors import UnusableInput
from qlinear.onnx_model import Model, Node, from_proto, with_constants

# what a factor passes through, and comes out of, as it went in
HOMOGENEOUS = ("Relu", "GlobalAveragePool", "Flatten")
SWEEPS = 100  # far more than a network needs

Pair = tuple[Node, Node]


def without_clips(model: Model) -> Model:
    """The network with a ReLU for each ReLU6.

    Raises:
        UnusableInput: a Clip does not begin at 0; the message names it.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for node in proto.graph.node:
        if node.op_type == "Clip":
            low = model.constants.get(node.input[1] if len(node.input) > 1 else "")
            if low is None or low.item() != 0:
                raise UnusableInput(f"{model.path}: node {node.name}: its lower bound is not 0")
            node.op_type = "Relu"
            del node.input[1:]
    used = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return from_proto(proto, model.path)


def is_depthwise(model: Model, node: Node) -> bool:
    """Whether each output channel of a Conv reads the input channel of its own number."""
    w = model.constants.get(node.inputs[1], np.zeros((0, 0)))
    return node.op_type == "Conv" and node.attributes.get("group", 1) == len(w) and w.shape[1] == 1


def pairs(model: Model) -> list[Pair]:
    """The pairs of layers between which a factor can move.

    Nothing else reads what is between, not the caller either, and no other layer has their
    weights.
    """
    readers: dict[str, list[Node]] = {}
    for node in model.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)

    def only_reader(name: str) -> Node | None:
        found = readers.get(name, [])
        return found[0] if len(found) == 1 and name not in model.outputs else None

    found = []
    for first in model.of_type("Conv"):
        second = only_reader(first.outputs[0])
        while second and second.op_type in HOMOGENEOUS:
            second = only_reader(second.outputs[0])
        if second is None:
            continue
        moving = [*first.inputs[1:], *second.inputs[1:2]]
        if not all(name in model.constants and only_reader(name) for name in moving):
            continue
        dense = second.op_type == "Gemm" and second.attributes.get("transB")
        plain = second.op_type == "Conv" and second.attributes.get("group", 1) == 1
        if dense or plain or is_depthwise(model, second):
            found.append((first, second))
    return found


def _along(values: np.ndarray, w: np.ndarray, axis: int) -> np.ndarray:
    """Values, one a channel, shaped to be multiplied with ``w`` along an axis."""
    return values.reshape([-1 if i == axis else 1 for i in range(w.ndim)])


def peaks(w: np.ndarray, axis: int = 0) -> np.ndarray:
    """The greatest magnitude of each channel's weights: (channels,)."""
    return np.abs(w).max(axis=tuple(i for i in range(w.ndim) if i != axis))


def moved(model: Model, pair: Pair, s: np.ndarray) -> Model:
    """The same network, channel i between the pair divided by ``s[i]``: powers of two, (channels,).

    Raises:
        UnusableInput: a factor is no power of two.
    """
    if (np.frexp(s)[0] != 0.5).any():
        raise UnusableInput("a factor is no power of two, so the result would be rounded")
    first, second = pair
    w, v = (model.constants[node.inputs[1]] for node in pair)
    axis = 0 if is_depthwise(model, second) else 1
    s = s.astype(w.dtype)
    changes = {first.inputs[1]: w / _along(s, w, 0), second.inputs[1]: v * _along(s, v, axis)}
    if len(first.inputs) > 2:
        changes[first.inputs[2]] = model.constants[first.inputs[2]] / s
    return from_proto(with_constants(model, changes), model.path)


def equalized(model: Model) -> Model:
    """The same network, the ranges of each pair's channels brought together.

    Sweeps over the pairs, as their factors meet in the layers between, until none moves. Two
    ranges then differ by a factor of 2 at most; a channel of zeros is left alone.

    Args:
        model: float, without Clips (:func:`without_clips`).

    Raises:
        UnusableInput: the ranges do not settle.
    """
    for _ in range(SWEEPS):
        still = True
        for pair in pairs(model):
            w, v = (model.constants[node.inputs[1]] for node in pair)
            a, b = peaks(w), peaks(v, 0 if is_depthwise(model, pair[1]) else 1)
            live = (a > 0) & (b > 0)
            ratio = np.divide(a, b, out=np.ones(len(a)), where=live)
            # the root brings both to their geometric mean; at a half, rint stays where it is
            s = 2.0 ** np.rint(np.log2(ratio) / 2)
            if (s != 1).any():
                still, model = False, moved(model, pair, s)
        if still:
            return model
    raise UnusableInput(f"{model.path}: its ranges do not settle in {SWEEPS} sweeps")


def spread(model: Model, most: int, seed: int = 0) -> Model:
    """The same network, its depthwise layers' ranges drawn apart: equalization undone.

    Each channel in front of a depthwise layer is divided by 2**k, and its filter multiplied by it,
    k drawn evenly from 0 to ``most``.
    """
    rng = np.random.default_rng(seed)
    for pair in pairs(model):
        if is_depthwise(model, pair[1]):
            channels = len(model.constants[pair[0].inputs[1]])
            model = moved(model, pair, 2.0 ** rng.integers(0, most + 1, channels))
    return model
