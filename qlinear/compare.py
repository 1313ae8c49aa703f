"""The one way to compare two tensors: ``==`` on every element."""

from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Mismatch:
    """The first element that differs."""

    index: tuple[int, ...]
    ours: int | float | str
    ort: int | float | str


@dataclass(frozen=True)
class Comparison:
    """One tensor, ours against ONNX Runtime's, element for element (NaN equals NaN)."""

    tensor: str
    node: str  # that writes it; empty where only the tensor is known
    operator: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    mismatches: int
    max_difference: float  # of the elements that are numbers on both sides
    first: Mismatch | None = None

    @property
    def equal(self) -> bool:
        return self.mismatches == 0

    def __str__(self) -> str:
        return self.said()

    def said(self, runtime: str = "ONNX Runtime", ours: str = "ours") -> str:
        """The comparison in words, of two other sides perhaps."""
        if self.first is None:
            return f"{self.elements} elements equal"
        at = self.first
        return (
            f"{self.mismatches} of {self.elements} elements differ, first at {at.index}: "
            f"{ours} {at.ours}, {runtime} {at.ort}"
        )

    def as_json(self) -> dict:
        return {**asdict(self), "equal": self.equal}


def compare_arrays(
    tensor: str, ours: np.ndarray, theirs: np.ndarray, *, node: str = "", operator: str = ""
) -> Comparison:
    """Compare two tensors; another type or shape makes every element a mismatch.

    Args:
        tensor: its name; node, operator: of what writes it.
        ours, theirs: arrays, or what else ONNX Runtime returns (sequences, strings).

    >>> print(compare_arrays("y", np.int8([1, 2]), np.int8([1, 3])))
    1 of 2 elements differ, first at (1,): ours 2, ONNX Runtime 3
    """
    if isinstance(theirs, list | tuple | dict):  # a sequence or map counts as one element
        same = np.array(_same(ours, theirs))
        ours, theirs = same, np.array(True)
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    name = dict(tensor=tensor, node=node, operator=operator, dtype=theirs.dtype.name)
    size = {"shape": theirs.shape, "elements": theirs.size}
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        first = Mismatch((), f"{ours.dtype}{ours.shape}", f"{theirs.dtype}{theirs.shape}")
        count = max(theirs.size, 1)
        return Comparison(**name, **size, mismatches=count, max_difference=0.0, first=first)
    wrong = ours != theirs
    if theirs.dtype.kind not in "iubOSU":
        wrong &= ~((ours != ours) & (theirs != theirs))
    count = int(np.count_nonzero(wrong))
    if not count:
        return Comparison(**name, **size, mismatches=0, max_difference=0)
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
    first = Mismatch(at, _plain(ours[at]), _plain(theirs[at]))
    largest = _largest(ours[wrong], theirs[wrong])
    return Comparison(**name, **size, mismatches=count, max_difference=largest, first=first)


def _same(ours, theirs) -> bool:
    """Whether two sequences or maps, of arrays or of others, are equal to the last element."""
    if isinstance(theirs, dict):
        keys = isinstance(ours, dict) and ours.keys() == theirs.keys()
        return keys and all(_same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list | tuple):
        long = isinstance(ours, list | tuple) and len(ours) == len(theirs)
        return long and all(map(_same, ours, theirs))
    return compare_arrays("", ours, theirs).equal


def _plain(value) -> int | float | str:
    """A scalar as Python's own type, which JSON and text can hold."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool | int | str):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if np.isfinite(number) else str(number)


def _largest(ours: np.ndarray, theirs: np.ndarray) -> int | float:
    if ours.dtype.kind in "iub":
        return int(np.abs(ours.astype(np.int64) - theirs.astype(np.int64)).max())
    if ours.dtype.kind in "OSU":
        return 0
    with np.errstate(invalid="ignore", over="ignore"):
        gaps = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    finite = gaps[np.isfinite(gaps)]
    return float(finite.max()) if finite.size else 0.0
