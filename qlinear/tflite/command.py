"""The commands on a ``.tflite`` file; :mod:`qlinear.cli` reads the command line, and prints.

Activations, and what is written of them, are in the file's own layout, NHWC.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from qlinear.describe import value as shown
from qlinear.errors import Unsupported, UnusableInput
from qlinear.inputs import Feed
from qlinear.onnx_model import Node
from qlinear.operators.arithmetic import signed_bits
from qlinear.tflite import litert, verdict
from qlinear.tflite.arithmetic import Type
from qlinear.tflite.model import TFLite


def inspected(model: TFLite) -> list[dict]:
    """A row for each operator: types and shapes, scales, zero points, options, bits of its sums."""
    rows = []
    for node in model.nodes:
        types = {name: model.types[name] for name in (*node.inputs, *node.outputs) if name}
        quantized = {name: t for name, t in types.items() if t.scale.size}
        kinds = {t.scale.size > 1 for t in quantized.values()}
        rows.append(
            {
                "node": node.name,
                "operator": node.op_type,
                "inputs": ", ".join(typed(name, types[name]) for name in node.inputs if name),
                "output": ", ".join(typed(name, types[name]) for name in node.outputs if name),
                "quantization": "per-channel" if True in kinds else "per-tensor" if kinds else "",
                "scales": ", ".join(ends(t.scale) for t in quantized.values()),
                "zero points": ", ".join(ends(t.zero_point) for t in quantized.values()),
                "options": ", ".join(f"{k}={v}" for k, v in node.attributes.items()),
                "bits": sum_bits(model, node) or "",
            }
        )
    return rows


def typed(name: str, given: Type) -> str:
    """A tensor with its type and shape."""
    return f"{name} {given.dtype}{list(given.shape)}"


def ends(values: np.ndarray) -> str:
    """One number, or the least and the greatest."""
    if not values.size:
        return "none"
    low, high = values.min(), values.max()
    return str(low) if low == high else f"{low} to {high}"


def sum_bits(model: TFLite, node: Node) -> int | None:
    """Width that holds every accumulator and partial sum of a node's products, for any int8 input.

    None where there are none, or the weights are no int8 constants.
    """
    w = model.constants.get(node.inputs[1]) if node.op_type in verdict.MAC[-9:] else None
    return None
