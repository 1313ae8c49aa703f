"""Networks with random weights: how they are written, and a ResNet50 to measure by."""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


@dataclass
class Graph:
    """A graph being written: each method adds a node and returns the name of its output."""

    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def name(self, what: str) -> str:
        return f"{what.lower()}_{len(self.nodes) + len(self.constants)}"

    def constant(self, value: np.ndarray, what: str = "constant") -> str:
        name = self.name(what)
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weights(self, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 8
        values = self.rng.normal(0, (2 / fan_in) ** 0.5, shape)
        # channels of different sizes, as trained networks have them
        values *= self.rng.uniform(0.3, 1.5, (shape[0],) + (1,) * (len(shape) - 1))
        return self.constant(values.astype(np.float32), "w")

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes) -> str | list[str]:
        name = self.name(op)
        names = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        made = helper.make_node(op, list(inputs), names, name=f"{name}_node", **attributes)
        self.nodes.append(made)
        return name if outputs == 1 else names

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 3, **attributes) -> str:
        """A convolution that keeps the size, if not told otherwise."""
        group, dims = attributes.get("group", 1), attributes.pop("dims", 2)
        w = self.weights(outputs, inputs // group, *[kernel] * dims)
        bias = self.constant(self.rng.normal(0, 0.1, outputs).astype(np.float32), "b")
        reach = (kernel - 1) * attributes.get("dilations", [1])[0] // 2
        attributes = {"pads": [reach] * 2 * dims, **attributes}
        return self.add("Conv", x, w, bias, kernel_shape=[kernel] * dims, **attributes)

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        w = self.constant(self.rng.normal(0, inputs**-0.5, (inputs, outputs)).astype(np.float32))
        bias = self.constant(self.rng.normal(0, 0.1, outputs).astype(np.float32), "b")
        return self.add("Gemm", x, w, bias)

    def matmul(self, x: str, inputs: int, outputs: int) -> str:
        w = self.constant(self.rng.normal(0, inputs**-0.5, (inputs, outputs)).astype(np.float32))
        bias = self.constant(self.rng.normal(0, 0.1, outputs).astype(np.float32), "b")
        return self.add("Add", self.add("MatMul", x, w), bias)

    def relu(self, x: str) -> str:
        return self.add("Relu", x)

    def relu6(self, x: str) -> str:
        ends = self.constant(np.float32(0)), self.constant(np.float32(6))
        return self.add("Clip", x, *ends)

    def shape(self, *sizes: int) -> str:
        return self.constant(np.array(sizes, np.int64), "shape")


def as_model(g: Graph, name: str, last: str, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The graph as a float32 model, from ``x`` to ``y``; its batch is symbolic.

    Args:
        last: the tensor that becomes ``y``.
        shape: of one input ``x``, without the batch; a string is a symbolic axis.
    """
    g.nodes[-1].output[0] = "y" if g.nodes[-1].output[0] == last else last
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape]),
        onnx.ValueInfoProto(name="y"),  # its shape is inferred
    ]
    graph = helper.make_graph(g.nodes, name, ends[:1], ends[1:], g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 8
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model)
    return model


def resnet50(width: int = 64, seed: int = 0) -> onnx.ModelProto:
    """ResNet50 in float32 for images of any size (He et al., 2016, table 1).

    Batch norm is folded, and a stride is in the 3x3 convolution, as in today's implementations.

    Args:
        width: channels of the first convolution; 64 makes 25.5 million weights and biases.
    """
    g = Graph(seed)
    x = g.relu(g.conv("x", 3, width, 7, strides=[2, 2]))
    x = g.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = width
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            x = bottleneck(g, x, channels, width << stage, stride)
            channels = 4 * (width << stage)
    x = g.add("Flatten", g.add("GlobalAveragePool", x))
    return as_model(g, "resnet50", g.dense(x, channels, 1000), (3, "height", "width"))


def bottleneck(g: Graph, x: str, channels: int, narrow: int, stride: int) -> str:
    """1x1, 3x3 and 1x1 convolutions, and a residual; a 1x1 one there where the shape changes."""
    wide = 4 * narrow
    y = g.relu(g.conv(x, channels, narrow, 1))
    y = g.conv(g.relu(g.conv(y, narrow, narrow, 3, strides=[stride] * 2)), narrow, wide, 1)
    if channels != wide or stride != 1:
        x = g.conv(x, channels, wide, 1, strides=[stride] * 2)
    return g.relu(g.add("Add", x, y))
