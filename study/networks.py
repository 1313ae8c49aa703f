"""The networks of the book in PyTorch, and as ONNX with batch norm folded into every convolution.

ResNet8 is the image-classification network of MLPerf Tiny (Banbury et al., 2021). MobileNet is
built of the inverted residuals of MobileNetV2 (Sandler et al., 2018), small enough for 32x32
pixels: an expansion to four times the channels, a depthwise convolution, and a linear bottleneck.
"""

from collections.abc import Callable

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

OPSET, IR_VERSION = 21, 10


class ConvBN(nn.Module):
    """A convolution without bias, padded as TensorFlow's "same" does, then batch norm."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, group: int = 1):
        super().__init__()
        # even input, kernel 3: stride 1 pads one on each side, stride 2 only below and right
        total = max(kernel - stride, 0)
        self.begin, self.end = total // 2, total - total // 2
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, self.begin, groups=group, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        extra = self.end - self.begin
        return self.bn(self.conv(F.pad(x, (0, extra) * 2) if extra else x))

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights (M, C/group, kH, kW) and bias (M,) with batch norm folded in, as float64."""
        bn = {k: v.double().numpy() for k, v in self.bn.state_dict().items()}
        gain = bn["weight"] / np.sqrt(bn["running_var"] + self.bn.eps)
        w = self.conv.weight.detach().double().numpy() * gain[:, None, None, None]
        return w, bn["bias"] - bn["running_mean"] * gain


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.conv1 = ConvBN(c_in, c_out, 3, stride)
        self.conv2 = ConvBN(c_out, c_out)
        self.shortcut = ConvBN(c_in, c_out, 1, stride) if stride != 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.conv2(F.relu(self.conv1(x))) + skip)


class ResNet8(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = ConvBN(3, 16)
        self.block1, self.block2 = Block(16, 16, 1), Block(16, 32, 2)
        self.block3 = Block(32, 64, 2)
        self.dense = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x / 255))
        return self.dense(self.block3(self.block2(self.block1(x))).mean((2, 3)))


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1 without an activation."""

    def __init__(self, c_in: int, c_out: int, stride: int, factor: int):
        super().__init__()
        wide = c_in * factor
        self.expand = ConvBN(c_in, wide, 1) if factor > 1 else None
        self.depthwise = ConvBN(wide, wide, 3, stride, group=wide)
        self.project = ConvBN(wide, c_out, 1)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    #: c_in, c_out, stride and factor of expansion of each block
    BLOCKS = (
        (16, 16, 2, 1),
        (16, 24, 1, 4),
        (24, 24, 1, 4),
        (24, 32, 2, 4),
        (32, 32, 1, 4),
        (32, 64, 2, 4),
        (64, 64, 1, 4),
    )

    def __init__(self):
        super().__init__()
        self.stem = ConvBN(3, 16)
        self.blocks = nn.ModuleList(InvertedResidual(*block) for block in self.BLOCKS)
        self.head = ConvBN(64, 128, 1)
        self.dense = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.stem(x / 255))
        for block in self.blocks:
            x = block(x)
        return self.dense(F.relu6(self.head(x)).mean((2, 3)))


class Graph:
    """The nodes and weights of an ONNX graph as they are added; a node's output is ``NAME_out``."""

    def __init__(self):
        self.nodes, self.weights = [], []

    def add(self, op_type: str, name: str, inputs: list[str], **attributes) -> str:
        node = helper.make_node(op_type, inputs, [f"{name}_out"], name, **attributes)
        self.nodes.append(node)
        return f"{name}_out"

    def constant(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def conv(self, name: str, layer: ConvBN, x: str, scale: float = 1.0) -> str:
        w, b = layer.folded()
        inputs = [x, self.constant(f"{name}_w", w * scale), self.constant(f"{name}_b", b)]
        grouped = {"group": layer.conv.groups} if layer.conv.groups > 1 else {}
        return self.add(
            "Conv",
            name,
            inputs,
            kernel_shape=list(w.shape[2:]),
            pads=[layer.begin] * 2 + [layer.end] * 2,
            strides=list(layer.conv.stride),
            **grouped,
        )

    def relu6(self, name: str, x: str) -> str:
        for bound, value in (("zero", 0), ("six", 6)):
            if bound not in {weight.name for weight in self.weights}:
                self.constant(bound, value)
        return self.add("Clip", name, [x, "zero", "six"])

    def end(self, x: str, dense: nn.Linear) -> None:
        """The mean over each channel, then the dense layer."""
        x = self.add("Flatten", "flatten", [self.add("GlobalAveragePool", "pool", [x])])
        named = [self.constant(f"dense_{k}", v.detach().numpy())
                 for k, v in dense.named_parameters()]  # fmt: skip
        self.add("Gemm", "dense", [x, *named], transB=1)
        self.nodes[-1].output[0] = "logits"


def _resnet8(graph: Graph, net: ResNet8) -> None:
    x = graph.add("Relu", "stem_relu", [graph.conv("stem", net.stem, "image", scale=1 / 255)])
    for name, block in (
        ("block1", net.block1),
        ("block2", net.block2),
        ("block3", net.block3),
    ):
        y = graph.add("Relu", f"{name}_relu1", [graph.conv(f"{name}_conv1", block.conv1, x)])
        y = graph.conv(f"{name}_conv2", block.conv2, y)
        skip = graph.conv(f"{name}_shortcut", block.shortcut, x) if block.shortcut else x
        x = graph.add("Relu", f"{name}_relu2", [graph.add("Add", f"{name}_add", [y, skip])])
    graph.end(x, net.dense)


def _mobilenet(graph: Graph, net: MobileNet) -> None:
    x = graph.relu6("stem_relu6", graph.conv("stem", net.stem, "image", scale=1 / 255))
    for i, block in enumerate(net.blocks, start=1):
        y = x
        if block.expand is not None:
            y = graph.conv(f"block{i}_expand", block.expand, y)
            y = graph.relu6(f"block{i}_expand_relu6", y)
        y = graph.conv(f"block{i}_depthwise", block.depthwise, y)
        y = graph.relu6(f"block{i}_depthwise_relu6", y)
        y = graph.conv(f"block{i}_project", block.project, y)
        x = graph.add("Add", f"block{i}_add", [x, y]) if block.residual else y
    x = graph.relu6("head_relu6", graph.conv("head", net.head, x))
    graph.end(x, net.dense)


NETWORKS: dict[str, type[nn.Module]] = {"resnet8": ResNet8, "mobilenet": MobileNet}
WRITERS: dict[str, Callable] = {"resnet8": _resnet8, "mobilenet": _mobilenet}


def to_onnx(net: nn.Module, name: str = "resnet8") -> onnx.ModelProto:
    """The folded network as ONNX: input ``image`` (N, 3, 32, 32), output ``logits`` (N, 10).

    Args:
        net: of the class that NETWORKS has under ``name``.
    """
    graph = Graph()
    WRITERS[name](graph, net)
    made = helper.make_graph(
        graph.nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        graph.weights,
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(made, opset_imports=opset, ir_version=IR_VERSION)
    model.producer_name = "train.py"
    onnx.checker.check_model(model, full_check=True)
    return model
