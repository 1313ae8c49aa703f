"""When an integer operator computes what the float operators of a QDQ file say, up to rounding.

ONNX Runtime decides what it fuses (onnxruntime/core/optimizer/qdq_transformer/selectors_actions,
and clip_quantizelinear.cc, relu_quantizelinear.cc, double_qdq_pairs_remover.cc beside it), and the
graph that it runs is the oracle. Its choice need not be exact: each function below states one
condition under which it is, and says where it does not hold. ``validate`` prints what they find.
"""

from collections.abc import Callable, Iterator

import numpy as np

from qlinear.fuse import Fusion, Network
from qlinear.onnx_model import Model, Node
from qlinear.operators.quantize_linear import quantize_linear
from qlinear.quantized import INTEGER_MAC


def broken(network: Network) -> list[str]:
    """A sentence for each fusion of ONNX Runtime's that does not meet a condition."""
    found = []
    for fusion in network.fusions:
        kind = fusion.made.op_type
        # MatMulNBits sums in float, and has a scale for each block
        integer = (kind in INTEGER_MAC or kind.startswith("Q")) and kind != "MatMulNBits"
        for condition in CONDITIONS if integer else (two_pairs,):
            for why in condition(fusion, network):
                found.append(f"ONNX Runtime makes {fusion.made.name} a {fusion.made.op_type} {why}")
    return found


def weights_axis(fusion: Fusion, network: Network) -> Iterator[str]:
    """Per-channel weights are scaled along the axis of the outputs, and not in blocks.

    Only then is the scale constant over the sum. (ONNX: DequantizeLinear-21, axis, block_size.)
    """
    for node in fusion.absorbed:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        weights = _writer(fusion, node.inputs[1])
        if weights is None or weights.op_type != "DequantizeLinear":
            continue
        if weights.attributes.get("block_size"):
            yield f"although the scales of {weights.inputs[0]} belong to blocks"
        scale = network.file.constants.get(weights.inputs[1])
        w = network.file.constants.get(weights.inputs[0])
        if w is None or scale is None or scale.size == 1:
            continue
        wanted = {"Conv": 0, "MatMul": w.ndim - 1}.get(node.op_type)
        if wanted is None:
            wanted = 0 if node.attributes.get("transB") else 1
        axis = weights.attributes.get("axis", 1) % w.ndim
        if axis != wanted:
            yield (
                f"although {weights.inputs[0]} is scaled along axis {axis}, "
                f"which it takes for axis {wanted}"
            )


def bias_scale(fusion: Fusion, network: Network) -> Iterator[str]:
    """An int32 bias has the scale x_scale * w_scale and zero point 0: the accumulator's units.

    (ONNX: QLinearConv-10, B.) One part in a million is left to the rounding of the product.
    """
    arguments = network.graph.arguments(fusion.made)
    x_scale = arguments.get("x_scale", arguments.get("a_scale"))
    w_scale = arguments.get("w_scale", arguments.get("b_scale"))
    for node in fusion.absorbed:
        constants = network.file.arguments(node)
        if node.op_type != "DequantizeLinear" or constants.get("x") is None:
            continue
        if constants["x"].dtype != np.int32 or x_scale is None or w_scale is None:
            continue
        scale = np.float64(x_scale) * np.float64(w_scale)
        if not np.allclose(constants.get("x_scale", 0), scale, rtol=1e-6, atol=0):
            yield f"although the bias {node.inputs[0]} has another scale than x_scale * w_scale"
        if np.any(constants.get("x_zero_point", 0)):
            yield f"although the bias {node.inputs[0]} has a zero point"


def saturation(fusion: Fusion, network: Network) -> Iterator[str]:
    """A Relu or Clip that vanished is done by the output's saturation.

    It is if no code of the output stands for a value outside the Clip's range: for a Relu, if the
    zero point is the least value of the type.
    """
    arguments = network.graph.arguments(fusion.made)
    scale, zero = arguments.get("y_scale"), arguments.get("y_zero_point")
    for node in fusion.absorbed:
        if node.op_type not in ("Relu", "Clip") or scale is None or zero is None:
            continue
        info = np.iinfo(zero.dtype)
        low, high = ((np.float64(end) - np.float64(zero)) * scale for end in (info.min, info.max))
        limits = network.file.arguments(node) if node.op_type == "Clip" else {"min": np.float32(0)}
        least, most = limits.get("min", -np.inf), limits.get("max", np.inf)
        # the codes next to a limit round to it
        if np.any(low < least - scale / 2) or np.any(high > most + scale / 2):
            yield f"although codes of its output lie outside {node.name}'s range"


def two_pairs(fusion: Fusion, network: Network) -> Iterator[str]:
    """Between the inputs and the output no other QuantizeLinear rounded the activations."""
    ends = set(fusion.made.outputs)
    inner = [
        node
        for node in fusion.absorbed
        if node.op_type == "QuantizeLinear"
        and not ends & set(node.outputs)
        and node.inputs[0] not in network.file.constants
    ]
    for node in inner:
        yield f"although {node.name} rounds in between"


def gemm_factors(fusion: Fusion, network: Network) -> Iterator[str]:
    """A Gemm's beta is 1, and its alpha is 1 or an attribute of the QGemm."""
    for node in fusion.absorbed:
        if node.op_type == "Gemm" and node.attributes.get("beta", 1.0) != 1.0:
            yield f"although {node.name} has beta {node.attributes['beta']}"
        alpha = node.attributes.get("alpha", 1.0) if node.op_type == "Gemm" else 1.0
        if alpha != fusion.made.attributes.get("alpha", 1.0) and node.op_type == "Gemm":
            yield f"although {node.name} has alpha {alpha}"


def quantized_by_ort(network: Network) -> list[tuple[Node, str]]:
    """Weights and biases that ONNX Runtime quantized itself, in a way that is not recomputed.

    What is recomputed is how it rounds a float bias to int32 and float weights to int8
    (onnxruntime/core/optimizer/qdq_transformer/weight_bias_quantization.cc).
    """
    graph, file = network.graph, network.file
    absorbed = {f.made.outputs: f.absorbed for f in network.fusions}
    written = {name for node in file.nodes for name in node.outputs}
    found = []
    for node in graph.nodes:
        if node.op_type not in INTEGER_MAC:
            continue
        constants = graph.arguments(node)
        layer = next(
            (n for n in absorbed.get(node.outputs, ()) if n.op_type in ("Conv", "Gemm")), None
        )
        for formal in ("w", "b", "B", "C"):
            name = graph.name_of(node, formal)
            if formal not in constants or name in file.constants or name in written:
                continue
            if layer is None or not _rounded(constants, constants[formal], layer, file):
                found.append((node, name))
    return found


def _rounded(constants: dict[str, np.ndarray], made: np.ndarray, layer: Node, file: Model) -> bool:
    """Whether constants of ONNX Runtime's are the float ones that the file's layer has, rounded.

    A bias is rounded in steps of x_scale * w_scale. Weights get one scale and zero point for the
    tensor, which put its range, widened to contain 0, on the 256 codes.
    """
    at = 2 if made.dtype == np.int32 else 1
    floats = file.constants.get(layer.inputs[at]) if len(layer.inputs) > at else None
    x_scale = constants.get("x_scale", constants.get("a_scale"))
    w_scale = constants.get("w_scale", constants.get("b_scale"))
    w_zero = constants.get("w_zero_point", constants.get("b_zero_point"))
    if floats is None or floats.dtype != np.float32 or not floats.size:
        return False
    with np.errstate(all="ignore"):
        if at == 2:
            scale = (x_scale * w_scale).astype(np.float32).reshape(-1)
            return np.array_equal(np.rint(floats.reshape(-1) / scale), made.reshape(-1))
        low, high = np.minimum(floats.min(), 0), np.maximum(floats.max(), 0)
        scale = np.float32((high - low) / np.float32(255))
        zero = np.clip(np.rint(np.float32(-128) - low / scale), -128, 127)
    if made.shape != floats.shape or not np.isfinite(scale) or scale <= 0:
        return False
    if w_scale.size != 1 or w_scale.item() != scale or w_zero.item() != zero:
        return False
    return np.array_equal(quantize_linear(floats, scale, np.int8(zero)), made)


Condition = Callable[[Fusion, Network], Iterator[str]]
CONDITIONS: tuple[Condition, ...] = (
    weights_axis,
    bias_scale,
    saturation,
    two_pairs,
    gemm_factors,
)


def _writer(fusion: Fusion, name: str) -> Node | None:
    return next((node for node in fusion.absorbed if name in node.outputs), None)
