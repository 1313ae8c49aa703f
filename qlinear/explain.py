"""One output element of a QLinearConv, worked through: every intermediate value with its type."""

from dataclasses import dataclass

import numpy as np

from qlinear.operators import arithmetic as ar
from qlinear.operators import qlinear_conv as qc


@dataclass(frozen=True)
class Worked:
    """What happens on the way to y[n, m, position]."""

    patch: np.ndarray  # int8/uint8 (C / group, kernel...): the window of the padded input
    x_terms: np.ndarray  # int32, the patch minus x_zero_point
    kernel: np.ndarray  # int8/uint8 (C / group, kernel...): the weights of channel m
    w_terms: np.ndarray  # int32, the kernel minus w_zero_point
    products: np.ndarray  # int32 (C / group, kernel...)
    running: np.ndarray  # int64 (MACs,): the sum after each MAC
    bias: np.int32
    acc: np.int32  # the sum and the bias
    scale: np.float32  # x_scale * w_scale[m] / y_scale
    scaled: np.float32  # acc * scale
    rounded: np.float32  # to the nearest integer, ties to even
    shifted: np.float32  # with y_zero_point
    y: np.integer  # saturated

    def requantization(self) -> list[tuple]:
        """The steps after the sum, as (name, value) pairs; a value's type is the step's type."""
        return [
            ("sum of products", np.int32(self.running[-1])),
            ("bias B[m]", self.bias),
            ("acc = sum + bias", self.acc),
            ("float32(acc)", np.float32(self.acc)),
            ("scale[m]", self.scale),
            ("float32(acc) * scale[m]", self.scaled),
            ("rint (ties to even)", self.rounded),
            ("+ y_zero_point", self.shifted),
            ("saturate", self.y),
        ]


def work(
    x: np.ndarray,
    arguments: dict,
    attributes: dict,
    n: int,
    m: int,
    position: tuple[int, ...],
) -> Worked:
    """Work out y[n, m, position].

    Args:
        x: int8 or uint8 (N, C, spatial...).
        arguments: the other inputs of QLinearConv by their ONNX names.
        attributes: as in ONNX.
    """
    w, x_zero = arguments["w"], arguments["x_zero_point"]
    geo = qc.geometry(x.shape, w.shape, **attributes)
    first = m // (len(w) // geo.group) * w.shape[1]
    padded = qc.pad(x[n : n + 1], x_zero, geo)
    patch = qc.windows(padded, geo)[(0, slice(first, first + w.shape[1]), *position)]
    kernel = w[m]
    w_zero = np.broadcast_to(arguments["w_zero_point"], len(w))[m]
    x_terms, w_terms = ar.centred(patch, x_zero), ar.centred(kernel, w_zero)
    products = x_terms * w_terms
    running = products.astype(np.int64).cumsum()
    bias = arguments["B"][m] if "B" in arguments else np.int32(0)
    acc = (running[-1] + bias).astype(np.int32)
    scales = (arguments[name] for name in ("x_scale", "w_scale", "y_scale"))
    scale = np.broadcast_to(ar.requantization_scale(*scales), len(w))[m]
    y_zero = np.asarray(arguments["y_zero_point"])
    scaled = np.float32(acc) * scale
    rounded = np.rint(scaled)
    shifted = rounded + np.float32(y_zero.item())
    y = ar.saturate(shifted, y_zero.dtype)[()]
    return Worked(
        patch, x_terms, kernel, w_terms, products, running, bias, acc, scale, scaled, rounded,
        shifted, y,
    )  # fmt: skip
