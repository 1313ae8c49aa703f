"""Train ResNet8 on with the noise of analog arrays on its weights, from models/resnet8.onnx.

Gaussian noise on the weights while they are trained, for phase-change memory: Joshi et al. (2020).
What is done here follows settings of AIHWKIT (``simulator/parameters``; Rasch et al. 2021): for a
batch, forward and backward, every weight carries an error of its own, whose deviation is a share
eta of the largest weight; after each step the weights are clipped at a multiple of their standard
deviation, so that few large ones do not set the size of the error for all. Two things are this
book's: batch norm stays folded, as it is on arrays, so its statistics are no longer learnt; and
"largest" is among the weights that share a scale in the book's INT8 network, a channel or a
layer, because that is the range that its cells are given.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn.utils import parametrize

from qlinear.onnx_model import load
from study.networks import ResNet8, to_onnx
from study.train import fit, from_labels, windows


class Noise(nn.Module):
    """What the arrays make of a layer's weights (M, ...), in training only."""

    def __init__(self, eta: float, per_channel: bool):
        super().__init__()
        self.eta, self.per_channel = eta, per_channel

    def groups(self, w: torch.Tensor) -> torch.Tensor:
        """A view of the weights with one row for those that share a scale."""
        return w.reshape(len(w) if self.per_channel else 1, -1)

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return w
        with torch.no_grad():
            error = self.eta * self.groups(w).abs().amax(1, keepdim=True)
            noise = (torch.randn_like(self.groups(w)) * error).view_as(w)
        return w + noise

    @torch.no_grad()
    def clip(self, w: torch.Tensor, deviations: float | None) -> None:
        """Clip weights in place at so many of their standard deviations."""
        if deviations is not None:
            bound = deviations * self.groups(w).std(1, keepdim=True)
            w.copy_(torch.clamp(self.groups(w), -bound, bound).view_as(w))


class Folded(ResNet8):
    """ResNet8 with batch norm folded: it changes nothing, and only its bias is learnt."""

    def train(self, mode: bool = True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def layers(net: ResNet8) -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """The layer with weights and its bias, by the name that its ONNX node has."""
    found = {}
    for name, module in net.named_modules():
        if hasattr(module, "bn"):
            found[name.replace(".", "_")] = module.conv, module.bn.bias
    return found | {"dense": (net.dense, net.dense.bias)}


def torch_of(path: Path) -> Folded:
    """The float ONNX file as a torch network that takes the same pixels.

    Args:
        path: models/resnet8.onnx, or another network of its layers.
    """
    net, constants = Folded(), load(path).constants
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.fill_(1 - module.eps)
                module.weight.requires_grad_(False)
        for name, (layer, bias) in layers(net).items():
            names = (
                ("dense_weight", "dense_bias") if name == "dense" else (f"{name}_w", f"{name}_b")
            )
            w, b = (torch.from_numpy(constants[n].copy()) for n in names)
            # the network divides pixels by 255, which the file has in the stem's weights
            layer.weight.copy_(w * 255 if name == "stem" else w)
            bias.copy_(b)
    return net


def plain(net: nn.Module) -> ResNet8:
    """The same network without its noise."""
    state = {k.replace("parametrizations.weight.original", "weight"): v
             for k, v in net.state_dict().items()}  # fmt: skip
    made = Folded()
    made.load_state_dict(state)
    return made.eval()


def retrain(
    float_path: Path,
    per_channel: set[str],
    train_set: tuple[np.ndarray, np.ndarray],
    test_set: tuple[np.ndarray, np.ndarray],
    checkpoint: Path,
    settings: dict,
) -> onnx.ModelProto:
    """Train on, and return the float network.

    Args:
        per_channel: names of the layers whose channels have a scale each.
        train_set, test_set: images, uint8 (N, 3, 32, 32), and labels (N,).
        settings: those of study/train.py's fit; ``eta``, the deviation of the error as a share of
            the largest weight; and ``clip``, how many of their standard deviations the weights may
            have, or None. The file says them, and PyTorch's version.
    """
    torch.manual_seed(settings["seed"])
    net = torch_of(float_path)
    noises = []
    for name, (layer, _) in layers(net).items():
        noise = Noise(settings["eta"], name in per_channel)
        noises.append((noise, layer.weight))
        parametrize.register_parametrization(layer, "weight", noise)

    def clip() -> None:
        for noise, w in noises:
            noise.clip(w, settings["clip"])

    clip()
    images, labels = train_set
    loss = from_labels(torch.from_numpy(labels))
    fit(net, windows(images), loss, test_set, checkpoint, settings, after_step=clip)
    proto = to_onnx(plain(net))
    said = {"settings": json.dumps(settings), "torch": str(torch.__version__)}
    onnx.helper.set_model_props(proto, said)
    return proto
