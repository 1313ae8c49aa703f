"""Train ResNet8 on CIFAR-10 and write models/resnet8.onnx.

The network is the image-classification model of MLPerf Tiny (Banbury et al., 2021). The exported
model takes raw pixels (float32, 0 to 255): the division by 255 is folded into the stem, batch norm
into every convolution, and no mean is subtracted, so that zero padding stands for pixel 0.

A wider network is trained first; ResNet8 then learns the labels and, from the wider network's
logits, how like each other class an image is (distillation: Hinton, Vinyals and Dean, 2015).

    pip install -r requirements-train.txt
    python scripts/train_resnet8.py --data-dir DIR

A run that was stopped goes on from its checkpoints when it is started again.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from qlinear.errors import UnusableInput
from qlinear.files import check_file, whole_file
from study.cifar10 import load_cifar10

OPSET, IR_VERSION = 21, 10
PAD = 4  # an augmented image is moved by at most this many pixels each way
TEMPERATURE, TEACHER_SHARE = 4.0, 0.9


class ConvBN(nn.Module):
    """A convolution without bias, padded as TensorFlow's "same" does, then batch norm."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        # even input, kernel 3: stride 1 pads one on each side, stride 2 only below and right
        total = max(kernel - stride, 0)
        self.begin, self.end = total // 2, total - total // 2
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, self.begin, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        extra = self.end - self.begin
        return self.bn(self.conv(F.pad(x, (0, extra) * 2) if extra else x))

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


def teacher() -> nn.Sequential:
    """The wider network (2 million weights) that ResNet8 learns from; takes raw pixels too."""
    layers = [nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 24, 2), nn.GELU()]
    for c_in, c_out in ((24, 64), (64, 256), (256, 256)):
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.MaxPool2d(2)]
        layers += [nn.BatchNorm2d(c_out), nn.GELU()]
        layers += [nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(c_out), nn.GELU()]
    return nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), nn.Linear(256, 10))


def windows(images: np.ndarray) -> torch.Tensor:
    """Every 32x32 crop of the images, their borders reflected: (N, 3, 9, 9, 32, 32), a view."""
    padded = np.pad(images, ((0, 0), (0, 0), (PAD, PAD), (PAD, PAD)), "reflect")
    return torch.from_numpy(padded).unfold(2, 32, 1).unfold(3, 32, 1)


def augmented(crops: torch.Tensor, generator: torch.Generator, batch: int):
    """Yield (index, shift, images) over one epoch: each image moved by chance, half mirrored."""
    for index in torch.randperm(len(crops), generator=generator).split(batch):
        shift = torch.randint(2 * PAD + 1, (2, len(index)), generator=generator)
        x = crops[index, :, shift[0], shift[1]].float()
        mirror = torch.rand(len(index), generator=generator) < 0.5
        x = torch.where(mirror[:, None, None, None], x.flip(-1), x)
        yield index, shift, x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def logits_of(net: nn.Module, x: torch.Tensor, bfloat16: bool = False) -> torch.Tensor:
    x = x.float().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        return net(x).float()


def accuracy(net: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    net.eval()
    parts = torch.from_numpy(images).split(1000)
    guesses = torch.cat([logits_of(net, x).argmax(1) for x in parts])
    return (guesses.numpy() == labels).mean()


def targets_from(net: nn.Module, crops: torch.Tensor, bfloat16: bool) -> torch.Tensor:
    """The teacher's logits (3, 3, N, 10) of each image moved by -3, 0 and 3 pixels each way.

    Each is the mean of image and mirror image; any other move is within a pixel of one of them.
    """
    net.eval()
    targets = torch.empty(3, 3, len(crops), 10)
    for start in tqdm(range(0, len(crops), 1000), "teacher's logits", mininterval=1):
        part = slice(start, start + 1000)
        for i, j in np.ndindex(3, 3):
            x = crops[part, :, 3 * i + 1, 3 * j + 1]
            both = logits_of(net, x, bfloat16), logits_of(net, x.flip(-1), bfloat16)
            targets[i, j, part] = sum(both) / 2
    return targets


def distilled(targets: torch.Tensor, labels: torch.Tensor) -> Callable:
    """The loss of ResNet8: mostly the teacher's softened probabilities, a tenth the labels."""

    def loss(index: torch.Tensor, shift: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        wanted = (targets[shift[0] // 3, shift[1] // 3, index] / TEMPERATURE).softmax(1)
        # the softened gradient is 1/T^2 of the other: see the paper's section 2
        soft = TEMPERATURE**2 * F.cross_entropy(logits / TEMPERATURE, wanted)
        hard = F.cross_entropy(logits, labels[index])
        return TEACHER_SHARE * soft + (1 - TEACHER_SHARE) * hard

    return loss


def saved(path: Path, settings: dict) -> dict | None:
    """What an earlier run left at ``path``, if it was made with these settings."""
    if not path.exists():
        return None
    state = torch.load(path, weights_only=True)
    if state["settings"] != settings:
        raise UnusableInput(
            f"{path}: made with {state['settings']}, not {settings}; "
            f"delete it or name another folder with --checkpoints"
        )
    return state


def save(path: Path, state: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def fit(
    net: nn.Module,
    crops: torch.Tensor,
    loss_of: Callable,
    test_set: tuple[np.ndarray, np.ndarray],
    checkpoint: Path,
    settings: dict,
) -> nn.Module:
    """Train ``net`` in place; goes on from ``checkpoint`` if it was made with these settings."""
    net = net.to(memory_format=torch.channels_last)
    decay = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": decay, "weight_decay": settings["weight_decay"]}, {"params": others}],
        settings["lr"],
        momentum=0.9,
        nesterov=True,
    )
    epochs, steps = settings["epochs"], -(-len(crops) // settings["batch"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings["lr"], epochs * steps, pct_start=0.1, cycle_momentum=False
    )
    parts, done = {"net": net, "optimizer": optimizer, "schedule": schedule}, 0
    state = saved(checkpoint, settings)
    if state is not None:
        done = state["epoch"]
        for key, part in parts.items():
            part.load_state_dict(state[key])

    for epoch in range(done, epochs):
        net.train()
        # one generator an epoch, so that a resumed run draws what an unbroken one would
        generator = torch.Generator().manual_seed(settings["seed"] * 100_003 + epoch)
        total, seen = 0.0, 0
        bar = tqdm(
            augmented(crops, generator, settings["batch"]),
            f"{checkpoint.stem} {epoch + 1}/{epochs}",
            total=steps,
            mininterval=1,
        )
        for index, shift, x in bar:
            with torch.autocast("cpu", torch.bfloat16, enabled=settings["bfloat16"]):
                logits = net(x).float()
                loss = loss_of(index, shift, logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total, seen = total + loss.item() * len(index), seen + len(index)
            bar.set_postfix_str(f"loss {total / seen:.4f}", refresh=False)
        state = {key: part.state_dict() for key, part in parts.items()}
        save(checkpoint, state | {"epoch": epoch + 1, "settings": settings})
        if (epoch + 1) % 10 == 0 or epoch + 1 == epochs:
            print(
                f"{checkpoint.stem} {epoch + 1}: test accuracy {accuracy(net, *test_set):.4f}",
                flush=True,
            )
    return net.eval()


def train(args: argparse.Namespace) -> ResNet8:
    (images, labels), test_set = (load_cifar10(args.data_dir, s) for s in ("train", "test"))
    crops, labels = windows(images), torch.from_numpy(labels)
    common = {"seed": args.seed, "bfloat16": not args.float32}

    torch.manual_seed(args.seed)
    wide, student = teacher(), ResNet8()
    wide_settings = common | {
        "epochs": args.teacher_epochs,
        "batch": 500,
        "lr": 0.4,
        "weight_decay": 1e-3,
    }
    fit(
        wide,
        crops,
        lambda index, shift, logits: F.cross_entropy(logits, labels[index]),
        test_set,
        args.checkpoints / "teacher.pt",
        wide_settings,
    )
    stored = args.checkpoints / "targets.pt"
    state = saved(stored, wide_settings)
    if state is None:
        logits = targets_from(wide, crops, common["bfloat16"])
        state = {"logits": logits, "settings": wide_settings}
        save(stored, state)
    return fit(
        student,
        crops,
        distilled(state["logits"], labels),
        test_set,
        args.checkpoints / "resnet8.pt",
        common | {k: getattr(args, k) for k in ("epochs", "batch", "lr", "weight_decay")},
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="CIFAR-10 folder")
    parser.add_argument("--out", type=Path, default=Path("models/resnet8.onnx"))
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--teacher-epochs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.15, help="peak of the one-cycle schedule")
    parser.add_argument("--weight-decay", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--float32", action="store_true", help="train without bfloat16 autocast")
    args = parser.parse_args(argv)
    check_file(args.out)
    net = train(args)
    with whole_file(args.out) as partial:
        partial.write_bytes(to_onnx(net).SerializeToString(deterministic=True))
    print(f"wrote {args.out}")
