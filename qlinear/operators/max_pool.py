"""MaxPool on integers: the greatest of each window; scale and zero point pass through.

Padding never wins, so it is the least value of the type. With ``ceil_mode`` the last window may
reach beyond the padded image, but none starts in the padding behind it.

Source: ONNX operator specification, MaxPool-22.
"""

import numpy as np

from qlinear.errors import Unsupported, UnusableInput
from qlinear.operators import qlinear_conv as qc
from qlinear.operators.arithmetic import INT8_TYPES


def max_pool(
    X: np.ndarray,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    storage_order: int = 0,
    strides: list[int] | None = None,
) -> np.ndarray:
    """ONNX's MaxPool of int8 or uint8, without its second output, the indices.

    Args:
        X: int8 or uint8 (N, C, spatial...), one to three spatial axes.
        kernel_shape, auto_pad, ceil_mode, dilations, pads, strides: as in ONNX; ``storage_order``
            concerns the indices only.

    Returns:
        X's type, (N, C, out...).

    Raises:
        Unsupported: X is of another type, or :func:`pool_geometry` refuses the windows.
    """
    if X.dtype not in INT8_TYPES:
        raise Unsupported(f"X has type {X.dtype}: int8 or uint8 needed")
    geo = pool_geometry(
        X.shape, kernel_shape=kernel_shape, auto_pad=auto_pad, ceil_mode=ceil_mode,
        dilations=dilations, pads=pads, strides=strides,
    )  # fmt: skip
    padded = qc.pad(X, np.iinfo(X.dtype).min, geo)
    taps = tuple(range(-len(kernel_shape), 0))
    return qc.windows(padded, geo).max(axis=taps)


def pool_geometry(
    x_shape: tuple[int, ...],
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> qc.Geometry:
    """Resolve the attributes of a pooling for one input shape (N, C, spatial...).

    Raises:
        Unsupported: shapes and attributes do not fit together, or "same" padding is asked for with
            dilations or with windows that leave out elements.
    """
    if auto_pad.startswith("SAME") and max(dilations or [1]) > 1:
        raise Unsupported(f"auto_pad is {auto_pad} with dilations")
    try:
        geo = qc.geometry(
            x_shape, (x_shape[1], 1, *kernel_shape), auto_pad=auto_pad, dilations=dilations,
            group=x_shape[1], pads=pads, strides=strides,
        )  # fmt: skip
    except UnusableInput as error:  # ONNX Runtime takes shapes here that a convolution refuses
        raise Unsupported(str(error)) from None
    same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
    if same and any(map(_gap, x_shape[2:], geo.out, geo.spans, geo.strides)):
        raise Unsupported(f"auto_pad is {auto_pad} with windows that leave out elements")
    if not ceil_mode:
        return geo
    beyond = tuple(map(_beyond, x_shape[2:], geo.begin, geo.end, geo.spans, geo.strides))
    out = tuple(o + (extra > 0) for o, extra in zip(geo.out, beyond, strict=True))
    end = tuple(e + extra for e, extra in zip(geo.end, beyond, strict=True))
    return qc.Geometry(geo.kernel, geo.strides, geo.dilations, geo.begin, end, out, geo.group)


def _gap(size: int, out: int, span: int, stride: int) -> bool:
    """Whether "same" would need less than no padding; ONNX Runtime then moves the windows."""
    return (out - 1) * stride + span < size


def _beyond(size: int, begin: int, end: int, span: int, stride: int) -> int:
    """By how much one more window reaches beyond the padding of an axis; 0 if there is none."""
    rest = (size + begin + end - span) % stride
    start = size + begin + end - span - rest + stride
    return stride - rest if rest and start < size + begin else 0
