"""Train ResNet8 or MobileNet on CIFAR-10 and write models/resnet8.onnx or models/mobilenet.onnx.

The exported model takes raw pixels (float32, 0 to 255): the division by 255 is folded into the
stem, batch norm into every convolution, and no mean is subtracted, so that zero padding stands for
pixel 0.

For ResNet8 a wider network is trained first; ResNet8 then learns the labels and, from the wider
network's logits, how like each other class an image is (distillation: Hinton, Vinyals and Dean,
2015). MobileNet learns from the labels alone.

    pip install -r requirements-train.txt
    python scripts/train.py --data-dir DIR [--network mobilenet]

A run that was stopped goes on from its checkpoints when it is started again.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from qlinear.errors import UnusableInput
from qlinear.files import check_file, whole_file
from study.cifar10 import load_cifar10
from study.networks import NETWORKS, to_onnx

PAD = 4  # an augmented image is moved by at most this many pixels each way
TEMPERATURE, TEACHER_SHARE = 4.0, 0.9


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


def from_labels(labels: torch.Tensor) -> Callable:
    return lambda index, shift, logits: F.cross_entropy(logits, labels[index])


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
    after_step: Callable | None = None,
) -> nn.Module:
    """Train ``net`` in place; goes on from ``checkpoint`` if it was made with these settings.

    Args:
        settings: seed, bfloat16, epochs, batch, lr, weight_decay, and max_norm where the norm of
            the gradients is bounded.
        after_step: called after every step of the optimizer, to hold the weights in bounds.
    """
    net = net.to(memory_format=torch.channels_last)
    # none on biases and batch norm; nor on depthwise filters, whose nine weights a channel leave
    # little to restrain (Howard et al., 2017, advise little or none in section 3.2)
    depthwise = {m.weight for m in net.modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    decay = [p for p in net.parameters() if p.ndim > 1 and p not in depthwise]
    others = [p for p in net.parameters() if p.ndim == 1 or p in depthwise]
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
        torch.manual_seed(settings["seed"] * 100_003 + epoch)  # for noise on weights
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
            if "max_norm" in settings:
                nn.utils.clip_grad_norm_(net.parameters(), settings["max_norm"])
            optimizer.step()
            if after_step is not None:
                after_step()
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


def taught(
    args: argparse.Namespace, crops: torch.Tensor, labels: torch.Tensor, test_set
) -> Callable:
    """The loss of a network that learns from the wider one, which is trained first."""
    wide = teacher()
    settings = common(args) | {
        "epochs": args.teacher_epochs,
        "batch": 500,
        "lr": 0.4,
        "weight_decay": 1e-3,
    }
    fit(wide, crops, from_labels(labels), test_set, args.checkpoints / "teacher.pt", settings)
    stored = args.checkpoints / "targets.pt"
    state = saved(stored, settings)
    if state is None:
        logits = targets_from(wide, crops, settings["bfloat16"])
        state = {"logits": logits, "settings": settings}
        save(stored, state)
    return distilled(state["logits"], labels)


def common(args: argparse.Namespace) -> dict:
    return {"seed": args.seed, "bfloat16": not args.float32}


def train(args: argparse.Namespace) -> nn.Module:
    (images, labels), test_set = (load_cifar10(args.data_dir, s) for s in ("train", "test"))
    crops, labels = windows(images), torch.from_numpy(labels)
    torch.manual_seed(args.seed)
    if args.network == "resnet8":
        loss = taught(args, crops, labels, test_set)
    else:
        loss = from_labels(labels)
    return fit(
        NETWORKS[args.network](),
        crops,
        loss,
        test_set,
        args.checkpoints / f"{args.network}.pt",
        common(args) | {k: getattr(args, k) for k in ("epochs", "batch", "lr", "weight_decay")},
    )


# what each network was trained with
SETTINGS = {
    "resnet8": {"epochs": 200, "lr": 0.15, "weight_decay": 3e-4},
    "mobilenet": {"epochs": 32, "lr": 0.2, "weight_decay": 1e-4},
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="CIFAR-10 folder")
    parser.add_argument("--network", choices=NETWORKS, default="resnet8")
    parser.add_argument("--out", type=Path, help="models/NETWORK.onnx")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--teacher-epochs", type=int, default=20)
    parser.add_argument("--epochs", type=int, help="200 for resnet8, 32 for mobilenet")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, help="peak of the one-cycle schedule")
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--float32", action="store_true", help="train without bfloat16 autocast")
    args = parser.parse_args(argv)
    for name, value in SETTINGS[args.network].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    out = args.out or Path("models") / f"{args.network}.onnx"
    check_file(out)
    net = train(args)
    with whole_file(out) as partial:
        partial.write_bytes(to_onnx(net, args.network).SerializeToString(deterministic=True))
    print(f"wrote {out}")
