"""Read an ONNX file into plain records, in which every input has its ONNX name."""

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qlinear.errors import UnusableInput
from qlinear.files import read_bytes
from qlinear.operators import OPERATORS
from qlinear.operators.qlinear_conv import Conv


def operator_name(domain: str, op_type: str) -> str:
    """An operator with its domain, if that is not ONNX's own."""
    return f"{domain}.{op_type}" if domain else op_type


@dataclass(frozen=True)
class Node:
    """One operator of a graph; an omitted optional input, and ONNX's own domain, are empty."""

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict

    @property
    def operator(self) -> str:
        """The operator with its domain, if that is not ONNX's own."""
        return operator_name(self.domain, self.op_type)


@dataclass(frozen=True)
class Model:
    """A graph with its constants as NumPy arrays.

    ``inputs`` and ``outputs`` map a name to its type (a NumPy dtype) and shape, in which a symbolic
    axis is a string and an unknown one is None. ``source`` is what ONNX Runtime is given: the
    file's bytes, or its path where weights lie beside it. ``prepared`` is the engine's: what it
    makes of a node's constants once.
    """

    path: Path
    proto: onnx.ModelProto = field(repr=False)
    source: bytes | str = field(repr=False)
    nodes: tuple[Node, ...] = field(repr=False)  # without Constant nodes
    constants: dict[str, np.ndarray] = field(repr=False)
    inputs: dict[str, tuple[np.dtype, tuple]]
    outputs: dict[str, tuple[np.dtype, tuple]]
    prepared: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators; the newest in a file that has none of them."""
        found = (o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx"))
        return next(found, onnx.defs.onnx_opset_version())

    def of_type(self, op_type: str) -> list[Node]:
        return [node for node in self.nodes if node.op_type == op_type]

    def node(self, name: str) -> Node:
        """The node of that name, or the one that writes the tensor of that name.

        Raises:
            UnusableInput: there is none, or several have the name; the message says which exist.
        """
        return find_node(self.path, self.nodes, name)

    def quantizers(self, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Constant scale and zero point of each QuantizeLinear that reads a tensor."""
        for node in self.nodes:
            if node.op_type == "QuantizeLinear" and node.inputs[0] == name:
                arguments = self.arguments(node)
                if "y_scale" in arguments:
                    yield arguments["y_scale"], arguments.get("y_zero_point", np.uint8(0))

    def names(self, node: Node) -> dict[str, str]:
        """The tensor of each input that the node has, by the input's ONNX name."""
        pairs = zip(input_names(node, self.opset), node.inputs, strict=False)
        return {formal: actual for formal, actual in pairs if actual}

    def name_of(self, node: Node, formal: str) -> str:
        """The tensor behind one input, such as ``w_scale``; empty where it is omitted."""
        return self.names(node).get(formal, "")

    def arguments(self, node: Node) -> dict[str, np.ndarray]:
        """The constant inputs of a node by their ONNX names."""
        names = self.names(node)
        return {k: self.constants[v] for k, v in names.items() if v in self.constants}

    def conv(self, node: Node) -> Conv:
        """The record of a QLinearConv node.

        Raises:
            UnusableInput: an input other than x is missing or not a constant; the message names it.
        """
        arguments = self.arguments(node)
        names = input_names(node, self.opset)[1:]
        for name in names:
            given = self.name_of(node, name)
            if name not in arguments and (given or name != "B"):
                what = f"{given} is not a constant" if given else "is missing"
                raise UnusableInput(f"{self.path}: node {node.name}: {name} {what}")
        values = [arguments.get(name) for name in names]
        return Conv(*values, attributes=node.attributes)


def find_node(path: Path, nodes: tuple[Node, ...], name: str) -> Node:
    """The node of that name, or the one that writes the tensor of that name.

    Raises:
        UnusableInput: there is none, or several have the name; the message says which exist.
    """
    found = [node for node in nodes if node.name == name]
    found = found or [node for node in nodes if name in node.outputs]
    if len(found) == 1:
        return found[0]
    if found:
        outputs = ", ".join(node.outputs[0] for node in found)
        raise UnusableInput(
            f"{path}: {len(found)} nodes are named {name!r}; "
            f"name one by the tensor that it writes: {outputs}"
        )
    names = ", ".join(n.name for n in nodes[:20])
    more = f" and {len(nodes) - 20} more" if len(nodes) > 20 else ""
    raise UnusableInput(f"{path}: no node named {name!r}; the nodes are {names}{more}")


def input_names(node: Node, opset: int) -> list[str]:
    """The ONNX name of each input of a node.

    They are read off the function that computes the operator, else off ONNX's own schema.
    """
    function = OPERATORS.get((node.domain, node.op_type))
    if function is not None:
        kinds = inspect.signature(function).parameters.values()
        names = [p.name for p in kinds if p.kind is p.POSITIONAL_OR_KEYWORD]
    else:
        try:
            schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        except onnx.defs.SchemaError:
            names = []
        else:
            names = [formal.name for formal in schema.inputs]
    return names + [f"input{i}" for i in range(len(names), len(node.inputs))]


def signature(value: onnx.ValueInfoProto) -> tuple[np.dtype, tuple]:
    """Type and shape of a declared tensor; object where the type is none that NumPy has."""
    tensor = value.type.tensor_type
    shape = tuple(
        # a negative size is how some exporters write "any"
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else (d.dim_param or None)
        for d in tensor.shape.dim
    )
    if not value.type.HasField("tensor_type") or not tensor.elem_type:
        return np.dtype(object), shape
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape


def load(path: str | Path) -> Model:
    """Read an ONNX model.

    Whether the graph is legal is for ONNX Runtime to say: onnx's own checker refuses files that
    run, such as one whose outputs have no shape.

    Raises:
        UnusableInput: the file is missing, not a regular file, or not a valid ONNX model.
    """
    path = Path(path)
    raw = read_bytes(path)
    try:
        proto = onnx.load_model_from_string(raw)
        _check_names(proto)
        outside = any(map(onnx.external_data_helper.uses_external_data, _tensors(proto)))
        # weights beside the model; ONNX refuses paths that leave the model's own folder
        onnx.external_data_helper.load_external_data_for_model(proto, str(path.parent))
        if not proto.graph.node:
            raise ValueError("its graph has no nodes")
        model = from_proto(proto, path)
    except Exception as error:  # protobuf, the checker and NumPy raise types of their own
        lines = str(error).strip().splitlines()
        reason = lines[0][:300] if lines else type(error).__name__
        raise UnusableInput(f"{path}: not a valid ONNX model ({reason})") from None
    newest = onnx.defs.onnx_opset_version()
    imported = any(o.domain in ("", "ai.onnx") for o in proto.opset_import)
    if imported and not 10 <= model.opset <= newest:
        raise UnusableInput(f"{path}: opset is {model.opset}; 10 to {newest} are supported")
    return replace(model, source=str(path) if outside else raw)


def from_proto(proto: onnx.ModelProto, path: str | Path = "model") -> Model:
    """Wrap a model that is already in memory; unnamed nodes are named after their first output."""
    graph = proto.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    constants |= {t.values.name: _dense(t) for t in graph.sparse_initializer}
    nodes = []
    for n in graph.node:
        attributes = {a.name: _attribute(a) for a in n.attribute}
        if n.op_type == "Constant" and n.domain in ("", "ai.onnx") and n.output:
            constants[n.output[0]] = _constant(attributes)
            continue
        name = n.name or next((o for o in n.output if o), n.op_type)
        domain = "" if n.domain == "ai.onnx" else n.domain
        inputs, outputs = tuple(n.input), tuple(n.output)
        nodes.append(Node(name, n.op_type, domain, inputs, outputs, attributes))
    for value in constants.values():
        value.flags.writeable = False  # what the engine makes of them stays true
    inputs = {v.name: signature(v) for v in graph.input if v.name not in constants}
    outputs = {v.name: signature(v) for v in graph.output}
    source = proto.SerializeToString()
    return Model(Path(path), proto, source, tuple(nodes), constants, inputs, outputs)


def with_constants(model: Model, changes: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A copy of a model's file with some of its initializers replaced."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in changes:
            value = np.asarray(changes[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return proto


def _check_names(proto: onnx.ModelProto) -> None:
    """Refuse names that are not UTF-8: they come as bytes, which are no text to print or write."""
    graph = proto.graph
    values = (*graph.input, *graph.output)
    names = [*(v.name for v in values), *(t.name for t in graph.initializer)]
    names += [t.values.name for t in graph.sparse_initializer]
    names += [d.dim_param for v in values for d in v.type.tensor_type.shape.dim]
    for n in graph.node:
        names += [n.name, n.op_type, n.domain, *n.input, *n.output, *(a.name for a in n.attribute)]
    for name in names:
        if isinstance(name, bytes):
            raise ValueError(f"the name {name!r} is not UTF-8")


def _tensors(proto: onnx.ModelProto) -> Iterable[TensorProto]:
    """Every tensor that a file may keep beside itself, those of subgraphs included."""
    graphs = [proto.graph]
    while graphs:
        graph = graphs.pop()
        yield from graph.initializer
        for attribute in (a for node in graph.node for a in node.attribute):
            if attribute.HasField("t"):
                yield attribute.t
            graphs += [attribute.g] if attribute.HasField("g") else attribute.graphs


def _dense(sparse: onnx.SparseTensorProto) -> np.ndarray:
    """A sparse initializer as the array that it stands for."""
    values, at = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if at.ndim == 1:  # positions in the flattened tensor
        dense.ravel()[at] = values
    else:
        dense[tuple(at.T)] = values
    return dense


def _constant(attributes: dict) -> np.ndarray:
    """The value of a Constant node, whichever attribute holds it."""
    (name, value), *_ = attributes.items()
    if name == "sparse_value":
        return _dense(value)
    if name.startswith("value_string"):
        return np.asarray(value, object)
    kinds = {"value_int": np.int64, "value_ints": np.int64}
    kinds |= {"value_float": np.float32, "value_floats": np.float32}
    return np.asarray(value, kinds.get(name))


def _attribute(attribute: onnx.AttributeProto):
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return list(value) if attribute.type in (attribute.INTS, attribute.FLOATS) else value
