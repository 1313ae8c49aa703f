"""Read an ONNX file into plain records."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qlinear.errors import UnusableInput

MAKERS = {
    "resnet8.onnx": "python scripts/train_resnet8.py --data-dir DIR",
    "resnet8_int8.onnx": "python scripts/quantize_onnx.py --data-dir DIR",
    "resnet8_int8_per_tensor.onnx": "python scripts/quantize_onnx.py --data-dir DIR",
    "resnet8_int8_per_channel.onnx": "python scripts/quantize_onnx.py --data-dir DIR",
    "resnet8_uint8.onnx": "python scripts/quantize_onnx.py --data-dir DIR",
}
CONV_INPUTS = [
    "x",
    "x_scale",
    "x_zero_point",
    "w",
    "w_scale",
    "w_zero_point",
    "y_scale",
    "y_zero_point",
    "B",
]  # in the order of the specification


@dataclass(frozen=True)
class Node:
    """One operator of a graph; an omitted optional input, and ONNX's own domain, are empty."""

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict


@dataclass(frozen=True)
class Model:
    """A graph with its constants as NumPy arrays.

    ``inputs`` and ``outputs`` map a name to its type (a NumPy dtype) and shape, in which a symbolic
    axis is a string and an unknown one is None.
    """

    path: Path
    proto: onnx.ModelProto = field(repr=False)
    nodes: tuple[Node, ...] = field(repr=False)
    constants: dict[str, np.ndarray] = field(repr=False)
    inputs: dict[str, tuple[np.dtype, tuple]]
    outputs: dict[str, tuple[np.dtype, tuple]]

    def of_type(self, op_type: str) -> list[Node]:
        return [node for node in self.nodes if node.op_type == op_type]

    def node(self, name: str) -> Node:
        """The node of that name.

        Raises:
            UnusableInput: there is none; the message lists those that exist.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        names = ", ".join(n.name for n in self.nodes[:20])
        raise UnusableInput(f"{self.path}: no node named {name!r}; the nodes are {names}")


def _signature(value: onnx.ValueInfoProto) -> tuple[np.dtype, tuple]:
    tensor = value.type.tensor_type
    shape = tuple(
        d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim
    )
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape


def load(path: str | Path) -> Model:
    """Read an ONNX model.

    Raises:
        UnusableInput: the file is missing (the message has the command that makes it), or is not
            a valid ONNX model.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        maker = MAKERS.get(path.name)
        hint = f"; make it with: {maker}" if maker else "; check the path"
        raise UnusableInput(f"{path}: no such file{hint}") from None
    except OSError as error:
        raise UnusableInput(f"{path}: {error.strerror}") from None
    try:
        proto = onnx.load_model_from_string(raw)
        # weights beside the model; ONNX refuses paths that leave the model's own folder
        onnx.external_data_helper.load_external_data_for_model(proto, str(path.parent))
        onnx.checker.check_model(proto)
        model = from_proto(proto, path)
    except Exception as error:  # protobuf, the checker and NumPy raise types of their own
        lines = str(error).strip().splitlines()
        reason = lines[0][:300] if lines else type(error).__name__
        raise UnusableInput(f"{path}: not a valid ONNX model ({reason})") from None
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    newest = onnx.defs.onnx_opset_version()
    if not 10 <= opset <= newest:
        raise UnusableInput(f"{path}: opset is {opset}; 10 to {newest} are supported")
    names = [node.name for node in model.nodes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UnusableInput(f"{path}: several nodes are named {twice[0]!r}; give each its own name")
    return model


def from_proto(proto: onnx.ModelProto, path: str | Path = "model") -> Model:
    """Wrap a model that is already in memory; unnamed nodes are named after their first output."""
    graph = proto.graph
    nodes = tuple(
        Node(
            n.name or n.output[0],
            n.op_type,
            "" if n.domain == "ai.onnx" else n.domain,
            tuple(n.input),
            tuple(n.output),
            {a.name: _attribute(a) for a in n.attribute},
        )
        for n in graph.node
    )
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    inputs = {v.name: _signature(v) for v in graph.input if v.name not in constants}
    outputs = {v.name: _signature(v) for v in graph.output}
    return Model(Path(path), proto, nodes, constants, inputs, outputs)


def with_constants(model: Model, changes: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A copy of a model's file with some of its initializers replaced."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in changes:
            value = np.asarray(changes[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return proto


def _attribute(attribute: onnx.AttributeProto):
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return list(value) if attribute.type in (attribute.INTS, attribute.FLOATS) else value


def conv_arguments(model: Model, node: Node) -> dict[str, np.ndarray]:
    """The constant inputs of a QLinearConv node by their ONNX names, without the activation ``x``.

    Raises:
        UnusableInput: one of them is not an initializer.
    """
    arguments = {}
    for name, value in zip(CONV_INPUTS, node.inputs, strict=False):
        if name == "x" or not value:
            continue
        if value not in model.constants:
            raise UnusableInput(f"{model.path}: node {node.name}: {name} is not an initializer")
        arguments[name] = model.constants[value]
    return arguments
