"""What the benches compare with: golden vectors, read from the folder that GOLDEN names."""

import json
import os
from functools import cache
from pathlib import Path

import numpy as np

REQUANTIZES = ("QLinearConv", "com.microsoft.QGemm")


def layers(*operators: str) -> list[dict]:
    """The manifest's entries of these operators, in the graph's order; at least one."""
    found = [entry for entry in manifest()["layers"] if entry["operator"] in operators]
    assert found, f"the vectors hold no {' or '.join(operators)}"
    return found


def manifest() -> dict:
    return json.loads((Path(os.environ["GOLDEN"]) / "manifest.json").read_text())


def arrays(layer: dict, part: str = "image00") -> dict[str, np.ndarray]:
    """A layer's arrays by name; ``part`` is an image, thresholds, corners, windows or pairs."""
    return _read(Path(os.environ["GOLDEN"]) / layer["folder"] / f"{part}.npz")


@cache
def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def factors(layer: dict) -> list[tuple[int, int]]:
    """Mantissa and shift of every output channel."""
    constants = arrays(layer)
    count = int(arrays(layer, "thresholds")["channel"].max()) + 1
    parts = (np.broadcast_to(constants[name], count) for name in ("mantissa", "shift"))
    return [(int(m), int(s)) for m, s in zip(*parts, strict=True)]


def zero(layer: dict, name: str) -> int:
    return int(layer["quantization"][f"{name}_zero_point"])


def padded(layer: dict, x: np.ndarray) -> np.ndarray:
    """A convolution's input (C, H, W) as differences from its zero point, with room for windows."""
    p, centred = layer["parameters"], x[0].astype(int) - zero(layer, "x")
    after = [  # what the last window needs
        (p[f"{a}_OUT"] - 1) * p[f"STRIDE_{a}"] + (p[f"K_{a}"] - 1) * p[f"DILATION_{a}"] + 1
        for a in "HW"
    ]
    before = p["PAD_TOP"], p["PAD_LEFT"]
    ends = [max(n - size - b, 0) for n, size, b in zip(after, x.shape[2:], before, strict=True)]
    return np.pad(centred, [(0, 0), *zip(before, ends, strict=True)])


def products(layer: dict, x: np.ndarray, m: int, row: int, column: int) -> list[tuple[int, int]]:
    """The pairs (x, w) of one output element, in the order of its weights; x is :func:`padded`."""
    p, constants = layer["parameters"], arrays(layer)
    w = constants["w"][m].astype(int) - int(constants["w_zero_point"][m])
    first = m // (p["C_OUT"] // p["GROUPS"]) * len(w)
    top, left = row * p["STRIDE_H"], column * p["STRIDE_W"]
    rows = top + np.arange(p["K_H"]) * p["DILATION_H"]
    columns = left + np.arange(p["K_W"]) * p["DILATION_W"]
    window = x[first : first + len(w)][:, rows][:, :, columns]
    return list(zip(window.ravel().tolist(), w.ravel().tolist(), strict=True))


def element(bias: int, pairs: list[tuple[int, int]], *more: int) -> list[tuple[int, ...]]:
    """An element's pairs as words of a processing element: first, last, bias, x, w."""
    end = len(pairs) - 1
    return [(int(i == 0), int(i == end), bias, x, w, *more) for i, (x, w) in enumerate(pairs)]
