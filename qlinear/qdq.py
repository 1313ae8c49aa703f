"""Read a QDQ model as the integer network that it denotes.

In QDQ form a quantized layer is written with float operators between DequantizeLinear and
QuantizeLinear nodes. This module recognises those patterns and rewrites each as the one quantized
operator of QOperator form, which is what ONNX Runtime does when it fuses them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qlinear.onnx_model import Model, Node, from_proto

# operators that move integers without changing them: a scale passes through
MOVERS = ("Flatten", "Reshape", "Identity")


@dataclass
class Rewriter:
    """The graph while it is being rewritten."""

    model: Model
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    fused: list[str] = field(default_factory=list)

    def producer(self, tensor: str) -> Node | None:
        return next((n for n in self.model.nodes if tensor in n.outputs), None)

    def readers(self, tensor: str) -> list[Node]:
        return [n for n in self.model.nodes if tensor in n.inputs]

    def dequantized(self, tensor: str) -> tuple[str, str, str] | None:
        """(integer tensor, scale, zero point) if ``tensor`` is the output of a DequantizeLinear."""
        node = self.producer(tensor)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        return node.inputs[0], node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else ""

    def quantizer(self, tensor: str) -> tuple[Node, list[str]] | None:
        """The QuantizeLinear that alone reads ``tensor``, through a Relu that it absorbs."""
        passed = []
        while True:
            readers = self.readers(tensor)
            if len(readers) != 1:
                return None
            (reader,) = readers
            if reader.op_type == "QuantizeLinear":
                return reader, passed
            if reader.op_type != "Relu":
                return None
            passed.append(reader.name)
            tensor = reader.outputs[0]

    def zero(self, name: str, like: str) -> str:
        """A zero point's name; an omitted one becomes a constant 0 of the tensor's type."""
        if name:
            return name
        made = f"{like}_zero_point_0"
        dtype = self.model.constants[like].dtype if like in self.model.constants else np.uint8
        self.constants[made] = np.zeros((), dtype)
        return made


def is_qdq(model: Model) -> bool:
    """Whether a model has float operators between DequantizeLinear and QuantizeLinear."""
    kinds = {node.op_type for node in model.nodes}
    return (
        bool(kinds & {"Conv", "Gemm", "MatMul"}) and {"QuantizeLinear", "DequantizeLinear"} <= kinds
    )


def read(model: Model) -> tuple[Model, list[str]]:
    """The integer network of a QDQ model, in QOperator form, and a line on each fusion.

    A pattern that has no exact integer form is left as it is, and the engine then refuses the float
    operator by name.
    """
    work = Rewriter(model)
    replaced: dict[str, onnx.NodeProto] = {}  # name of a float node to what stands for it
    dropped: set[str] = set()
    for node in model.nodes:
        made = next(iter(_rewrite(work, node)), None)
        if made is None:
            continue
        fused, absorbed, quantize = made
        replaced[node.name] = fused
        dropped.update(absorbed, {quantize.name})
        extra = f" and {', '.join(absorbed)}" if absorbed else ""
        work.fused.append(f"{node.op_type} {node.name}{extra} -> {fused.op_type}")
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.node[:]
    for node, original in zip(model.nodes, model.proto.graph.node, strict=True):
        if node.name in replaced:
            proto.graph.node.append(replaced[node.name])
        elif node.name not in dropped:
            proto.graph.node.append(original)
    _drop_unused(proto)
    for name, value in work.constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    if not any(o.domain == "com.microsoft" for o in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return from_proto(proto, model.path), work.fused


def _rewrite(work: Rewriter, node: Node) -> Iterator[tuple[onnx.NodeProto, list[str], Node]]:
    """At most one (new node, names of absorbed nodes, the QuantizeLinear it ends in)."""
    makers = {
        "Conv": ("QLinearConv", ""),
        "Add": ("QLinearAdd", "com.microsoft"),
        "GlobalAveragePool": ("QLinearGlobalAveragePool", "com.microsoft"),
        "Gemm": ("QGemm", "com.microsoft"),
        "MatMul": ("QLinearMatMul", ""),
        **{name: (name, "") for name in MOVERS},
    }
    if node.op_type not in makers:
        return
    end = work.quantizer(node.outputs[0])
    sources = [work.dequantized(name) for name in node.inputs if name]
    movable = node.op_type in MOVERS
    if end is None or not sources or sources[0] is None or (not movable and None in sources):
        return
    quantize, absorbed = end
    triples = [
        [q, scale, work.zero(zero, q)] for q, scale, zero in (s for s in sources if s is not None)
    ]
    y = [quantize.inputs[1], work.zero(quantize.inputs[2] if len(quantize.inputs) > 2 else "", "")]
    attributes = dict(node.attributes)
    constants = work.model.constants
    if node.op_type in ("Conv", "Gemm") and len(triples) == 3:
        inputs = [*triples[0], *triples[1]]
        bias = triples[2][0]
        inputs += [*y, bias] if node.op_type == "Conv" else [bias, *y]
    elif node.op_type == "Gemm":
        inputs = [*triples[0], *triples[1], "", *y]
    elif movable:
        # an exact move only if the scale before and after is the same
        same = all(
            np.array_equal(constants.get(a, a), constants.get(b, b))
            for a, b in zip(triples[0][1:], y, strict=True)
        )
        if not same:
            return
        inputs = [triples[0][0], *node.inputs[1:]]
    else:
        inputs = [name for triple in triples for name in triple] + y
    if node.op_type == "Gemm" and attributes.pop("beta", 1.0) != 1.0:
        return
    if node.op_type == "GlobalAveragePool":
        attributes["channels_last"] = 0
    op_type, domain = makers[node.op_type]
    output = quantize.outputs[0]
    made = helper.make_node(
        op_type, inputs, [output], f"{node.name}_quant", domain=domain, **attributes
    )
    yield made, absorbed, quantize


def _drop_unused(proto: onnx.ModelProto) -> None:
    """Remove nodes whose outputs nobody reads, until none is left."""
    graph = proto.graph
    while True:
        read = {name for node in graph.node for name in node.input}
        read |= {output.name for output in graph.output}
        unused = [n for n in graph.node if not any(name in read for name in n.output)]
        if not unused:
            return
        for node in unused:
            graph.node.remove(node)
