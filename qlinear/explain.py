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
    factor: np.float32  # x_scale * w_scale[m] / y_scale
    scaled: np.float32  # acc * factor
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
            ("factor[m]", self.factor),
            ("float32(acc) * factor[m]", self.scaled),
            ("rint (ties to even)", self.rounded),
            ("+ y_zero_point", self.shifted),
            ("saturate", self.y),
        ]


def work(x: np.ndarray, conv: qc.Conv, n: int, m: int, position: tuple[int, ...]) -> Worked:
    """Work out y[n, m, position] of a QLinearConv.

    Args:
        x: int8 or uint8 (N, C, spatial...).

    Raises:
        UnusableInput: a constant or an attribute is illegal; the message names it.
    """
    conv.require_legal(x)
    geo, w = conv.geometry(x.shape), conv.w
    first = m // (len(w) // geo.group) * w.shape[1]
    padded = qc.pad(x[n : n + 1], conv.x_zero_point, geo)
    patch = qc.windows(padded, geo)[(0, slice(first, first + w.shape[1]), *position)]
    w_zero = np.broadcast_to(conv.w_zero_point, len(w))[m]
    x_terms, w_terms = ar.centred(patch, conv.x_zero_point), ar.centred(w[m], w_zero)
    products = x_terms * w_terms
    running = products.astype(np.int64).cumsum()
    acc = (running[-1] + conv.bias[m]).astype(np.int32)
    scaled = np.float32(acc) * conv.factor[m]
    rounded = np.rint(scaled)
    shifted = rounded + np.float32(conv.y_zero_point.item())
    return Worked(
        patch=patch,
        x_terms=x_terms,
        kernel=w[m],
        w_terms=w_terms,
        products=products,
        running=running,
        bias=conv.bias[m],
        acc=acc,
        factor=conv.factor[m],
        scaled=scaled,
        rounded=rounded,
        shifted=shifted,
        y=ar.saturate(shifted, conv.y_zero_point.dtype)[()],
    )
