"""Operators that only move integers: no arithmetic of ours, but onnx.reference's implementation."""

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from qlinear.errors import Unsupported

MOVERS = {
    ("", name)
    for name in (
        "Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Pad Reshape "
        "Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze"
    ).split()
}


def moved(node, inputs: list[np.ndarray | None], opset: int) -> tuple[np.ndarray, ...]:
    """The outputs of one of MOVERS.

    Args:
        node: a :class:`qlinear.onnx_model.Node`.
        inputs: in the operator's order, None for an omitted one.
        opset: of ONNX's own operators.

    Raises:
        Unsupported: onnx.reference cannot compute it; the message has its words.
    """
    proto = onnx.helper.make_node(node.op_type, node.inputs, node.outputs, **node.attributes)
    if node.op_type == "Squeeze" and inputs[1:] and np.size(inputs[1]) == 0:
        raise Unsupported("Squeeze with an empty list of axes")
    given = {k: np.asarray(v) for k, v in zip(node.inputs, inputs, strict=True) if k}
    names = [name for name in node.outputs if name]
    graph = onnx.helper.make_graph(
        [proto],
        "mover",
        [onnx.helper.make_tensor_value_info(name, 1, None) for name in given],
        [onnx.helper.make_tensor_value_info(name, 1, None) for name in names],
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    try:
        evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports))
        found = dict(zip(names, evaluator.run(None, given), strict=True))
    except Exception as error:  # of many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unsupported(f"{node.op_type}: {reason[:200]}") from None
    return tuple(found.get(name) for name in node.outputs)
