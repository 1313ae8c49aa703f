#!/usr/bin/env python3
"""Train ResNet8 on CIFAR-10 and write models/resnet8.onnx.

The network is the image-classification model of MLPerf Tiny (Banbury et al., 2021). The exported
model takes raw pixels (float32, 0 to 255): the division by 255 is folded into the stem, batch norm
into every convolution, and no mean is subtracted, so that zero padding stands for pixel 0.

    pip install -r requirements-train.txt
    python scripts/train_resnet8.py --data-dir DIR

A run that was stopped goes on from its checkpoint when it is started again.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from qlinear.cifar10 import load_cifar10
from qlinear.errors import UnusableInput, run_command

OPSET, IR_VERSION = 21, 10


class ConvBN(nn.Module):
    """A convolution without bias, padded as TensorFlow's "same" does, then batch norm."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, bias=False)
        self.bn = nn.BatchNorm2d(c_out)
        # even input, kernel 3: stride 1 pads one on each side, stride 2 only below and right
        total = max(kernel - stride, 0)
        self.begin, self.end = total // 2, total - total // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(F.pad(x, (self.begin, self.end) * 2)))

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights (M, C, kH, kW) and bias (M,) with batch norm folded in, as float64."""
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


def to_onnx(net: ResNet8) -> onnx.ModelProto:
    """The folded network as ONNX: input ``image`` (N, 3, 32, 32), output ``logits`` (N, 10)."""
    nodes, weights = [], []

    def add(op_type: str, name: str, inputs: list[str], **attributes) -> str:
        nodes.append(helper.make_node(op_type, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def constant(name: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def conv(name: str, layer: ConvBN, x: str, scale: float = 1.0) -> str:
        w, b = layer.folded()
        inputs = [x, constant(f"{name}_w", w * scale), constant(f"{name}_b", b)]
        return add(
            "Conv",
            name,
            inputs,
            kernel_shape=list(w.shape[2:]),
            pads=[layer.begin] * 2 + [layer.end] * 2,
            strides=list(layer.conv.stride),
        )

    x = add("Relu", "stem_relu", [conv("stem", net.stem, "image", scale=1 / 255)])
    for name, block in (
        ("block1", net.block1),
        ("block2", net.block2),
        ("block3", net.block3),
    ):
        y = add("Relu", f"{name}_relu1", [conv(f"{name}_conv1", block.conv1, x)])
        y = conv(f"{name}_conv2", block.conv2, y)
        skip = conv(f"{name}_shortcut", block.shortcut, x) if block.shortcut else x
        x = add("Relu", f"{name}_relu2", [add("Add", f"{name}_add", [y, skip])])
    x = add("Flatten", "flatten", [add("GlobalAveragePool", "pool", [x])])
    dense = [constant(f"dense_{k}", v.detach().numpy()) for k, v in net.dense.named_parameters()]
    add("Gemm", "dense", [x, *dense], transB=1)
    nodes[-1].output[0] = "logits"

    graph = helper.make_graph(
        nodes,
        "resnet8",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        weights,
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    model.producer_name = "train_resnet8.py"
    onnx.checker.check_model(model, full_check=True)
    return model


def augmented(images: torch.Tensor, generator: torch.Generator, batch: int):
    """Yield (index, crops) over one epoch: 32x32 crops of zero-padded images, half mirrored."""
    windows = F.pad(images, (4,) * 4).unfold(2, 32, 1).unfold(3, 32, 1)
    for index in torch.randperm(len(images), generator=generator).split(batch):
        shift = torch.randint(9, (2, len(index)), generator=generator)
        crops = windows[index, :, shift[0], shift[1]].float()
        mirror = torch.rand(len(index), generator=generator) < 0.5
        yield index, torch.where(mirror[:, None, None, None], crops.flip(-1), crops)


@torch.no_grad()
def accuracy(net: ResNet8, images: torch.Tensor, labels: torch.Tensor) -> float:
    net.eval()
    hits = sum(
        (net(x.float()).argmax(1) == y).sum().item()
        for x, y in zip(images.split(1000), labels.split(1000), strict=True)
    )
    return hits / len(labels)


def train(args: argparse.Namespace) -> ResNet8:
    train_set, test_set = (
        [torch.from_numpy(a) for a in load_cifar10(args.data_dir, split)]
        for split in ("train", "test")
    )
    torch.manual_seed(args.seed)
    net = ResNet8().to(memory_format=torch.channels_last)
    decay = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": decay, "weight_decay": args.weight_decay}, {"params": others}],
        args.lr,
        momentum=0.9,
        nesterov=True,
    )
    steps = -(-len(train_set[1]) // args.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, args.epochs * steps, pct_start=0.1, cycle_momentum=False
    )
    settings = {k: getattr(args, k) for k in ("seed", "epochs", "batch", "lr", "weight_decay")}
    parts, done = {"net": net, "optimizer": optimizer, "schedule": schedule}, 0
    if args.checkpoint.exists():
        state = torch.load(args.checkpoint, weights_only=True)
        if state["settings"] != settings:
            raise UnusableInput(
                f"{args.checkpoint}: made with {state['settings']}, not {settings}; "
                f"delete it or name another with --checkpoint"
            )
        done = state["epoch"]
        for key, part in parts.items():
            part.load_state_dict(state[key])
    args.checkpoint.parent.mkdir(parents=True, exist_ok=True)

    for epoch in range(done, args.epochs):
        net.train()
        # one generator an epoch, so that a resumed run draws what an unbroken one would
        generator = torch.Generator().manual_seed(args.seed * 100_003 + epoch)
        hits, seen = 0, 0
        bar = tqdm(
            augmented(train_set[0], generator, args.batch),
            f"epoch {epoch + 1}/{args.epochs}",
            total=steps,
            mininterval=1,
        )
        for index, x in bar:
            y = train_set[1][index]
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=not args.float32):
                logits = net(x).float()
                loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            hits, seen = hits + (logits.argmax(1) == y).sum().item(), seen + len(y)
            bar.set_postfix_str(f"train {hits / seen:.4f}", refresh=False)
        state = {key: part.state_dict() for key, part in parts.items()}
        partial = args.checkpoint.with_suffix(".partial")
        torch.save(state | {"epoch": epoch + 1, "settings": settings}, partial)
        partial.replace(args.checkpoint)
        if (epoch + 1) % 10 == 0 or epoch + 1 == args.epochs:
            print(
                f"epoch {epoch + 1}: test accuracy {accuracy(net, *test_set):.4f}",
                flush=True,
            )
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="CIFAR-10 folder")
    parser.add_argument("--out", type=Path, default=Path("models/resnet8.onnx"))
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/resnet8.pt"))
    parser.add_argument("--epochs", type=int, default=160)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.15, help="peak of the one-cycle schedule")
    parser.add_argument("--weight-decay", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--float32", action="store_true", help="train without bfloat16 autocast")
    args = parser.parse_args()
    net = train(args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(to_onnx(net).SerializeToString(deterministic=True))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_command(main)
