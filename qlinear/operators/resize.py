"""Resize on integers: each element repeated a whole number of times along each axis.

That is what mode "nearest" does with whole scales, if it counts from the first element
("asymmetric", rounded down) or from the middle of the elements ("half_pixel", rounded to nearest).

Source: ONNX operator specification, Resize-19.
"""

import numpy as np

from qlinear.errors import Unsupported

WAYS = (
    ("asymmetric", "floor"),
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
    ("half_pixel_symmetric", "round_prefer_floor"),
    ("half_pixel_symmetric", "round_prefer_ceil"),
)


def resize(
    X: np.ndarray,
    roi: np.ndarray | None = None,
    scales: np.ndarray | None = None,
    sizes: np.ndarray | None = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    axes: list[int] | None = None,
    keep_aspect_ratio_policy: str = "stretch",
    **others,
) -> np.ndarray:
    """ONNX's Resize of integers, mode "nearest", by whole factors.

    Args:
        X: int8 or uint8, any shape.
        roi: of no effect in these modes.
        scales: float32, or ``sizes``: int64; one for each axis, or for each of ``axes``.
        others: attributes of other modes.

    Raises:
        Unsupported: a type, mode or factor is another one.
    """
    way = coordinate_transformation_mode, nearest_mode
    if X.dtype not in (np.int8, np.uint8) or mode != "nearest" or way not in WAYS:
        raise Unsupported(f"{X.dtype}, mode {mode}, {way[0]}, {way[1]}")
    if keep_aspect_ratio_policy != "stretch":
        raise Unsupported(f"keep_aspect_ratio_policy is {keep_aspect_ratio_policy}")
    axes = range(X.ndim) if axes is None else axes
    if scales is not None and np.size(scales):
        factors = np.asarray(scales, np.float64)
    elif sizes is not None:
        factors = np.asarray(sizes) / np.array([X.shape[axis] for axis in axes])
    else:
        raise Unsupported("neither scales nor sizes")
    if len(factors) != len(axes) or (factors < 1).any() or (factors != np.rint(factors)).any():
        raise Unsupported(f"the factors are {factors}: whole numbers needed")
    for axis, factor in zip(axes, factors, strict=True):
        X = np.repeat(X, int(factor), axis)
    return X
