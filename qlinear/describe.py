"""Describe every node of a model as JSON, for readers who have no ONNX library.

The format is versioned and described by ``models/operations.schema.json``.
"""

import hashlib
from pathlib import Path

import numpy as np
import onnx

from qlinear.onnx_model import Model, Node
from qlinear.ort import tensors

VERSION = 1
# Formal input names of the com.microsoft operators, from ONNX Runtime's contrib operator document
CONTRIB_INPUTS = {
    "QLinearAdd": "A A_scale A_zero_point B B_scale B_zero_point C_scale C_zero_point",
    "QLinearGlobalAveragePool": "X x_scale x_zero_point y_scale y_zero_point",
    "QGemm": "A a_scale a_zero_point B b_scale b_zero_point C y_scale y_zero_point",
}


def formal_inputs(node: Node, opset: int) -> list[str]:
    """The specification's name of each input of ``node``."""
    if node.domain == "com.microsoft":
        names = CONTRIB_INPUTS.get(node.op_type, "").split()
    else:
        names = [i.name for i in onnx.defs.get_schema(node.op_type, opset, node.domain).inputs]
    return names + [f"input{i}" for i in range(len(names), len(node.inputs))]


def _shape(once: np.ndarray, twice: np.ndarray) -> list[int | str]:
    """The shape, with "N" for every axis that grows with the batch."""
    return ["N" if a != b else a for a, b in zip(once.shape, twice.shape, strict=True)]


def extract(model: Model) -> dict:
    """The whole graph as JSON-ready data.

    Scales and zero points carry their values (a number per-tensor, a list per-channel); every
    float32 is written as the shortest decimal of the same float64, so that it reads back exactly.
    """
    ((name, (dtype, shape)),) = model.inputs.items()
    batches = [tensors(model, np.zeros((n, *shape[1:]), dtype)) for n in (1, 2)]
    opset = next(o.version for o in model.proto.opset_import if o.domain in ("", "ai.onnx"))

    def tensor(name: str) -> dict:
        if name in model.constants:
            value = model.constants[name]
            kind, shape = "initializer", list(value.shape)
        else:
            value, kind = batches[0][name], "activation"
            shape = _shape(value, batches[1][name])
        return {"name": name, "kind": kind, "dtype": value.dtype.name, "shape": shape}

    def described(node: Node) -> dict:
        inputs = []
        for formal, name in zip(formal_inputs(node, opset), node.inputs, strict=False):
            if not name:
                continue
            entry = {"formal": formal, **tensor(name)}
            if formal.lower().endswith(("_scale", "_zero_point")) and name in model.constants:
                entry["value"] = model.constants[name].tolist()
            inputs.append(entry)
        return {
            "name": node.name,
            "op_type": node.op_type,
            "domain": node.domain or "ai.onnx",
            "attributes": node.attributes,
            "inputs": inputs,
            "outputs": [tensor(name) for name in node.outputs if name],
        }

    return {
        "version": VERSION,
        "model": model.path.name,
        "sha256": hashlib.sha256(Path(model.path).read_bytes()).hexdigest(),
        "opset": opset,
        "inputs": [tensor(name)],
        "outputs": [tensor(output) for output in model.outputs],
        "nodes": [described(node) for node in model.nodes],
    }
