"""Analog-to-digital converters: their range, their step, and what is wrong with them."""

from dataclasses import dataclass

import numpy as np

from qlinear.errors import UnusableInput


@dataclass(frozen=True)
class Converter:
    """The converters of an array; ideal unless ``bits`` says how many.

    ``offset``, ``gain`` and ``inl`` are standard deviations over the converters of a chip: a
    constant in steps, a share of the count, and the height in steps of a bow that is 0 at code 0
    and at the greatest code, and odd below 0: the plainest integral nonlinearity.
    """

    bits: int | None = None
    top: float | None = None  # greatest count that it resolves; None: the worst case of its array
    below: int = 0  # codes below zero, of an array whose counts are never negative
    noise: float = 0.0  # standard deviation in counts, drawn anew at every conversion
    offset: float = 0.0
    gain: float = 0.0
    inl: float = 0.0
    shared: int = 1  # neighbouring columns that take turns at one converter

    def __post_init__(self):
        if self.bits is not None and not 1 <= self.bits <= 24:
            raise UnusableInput(f"an ADC of {self.bits} bits: 1 to 24 needed")
        if self.top is not None and not 0 < self.top < float("inf"):
            raise UnusableInput(f"top is {self.top}: a finite count above 0 needed")
        if self.below < 0 or (self.bits and self.below >= 1 << self.bits):
            raise UnusableInput(f"below is {self.below}: 0 to all but one of the codes needed")
        if self.shared < 1:
            raise UnusableInput(f"shared is {self.shared}: at least one column needed")
        for name in ("noise", "offset", "gain", "inl"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UnusableInput(f"{name} is {getattr(self, name)}: a number from 0 needed")
        if self.bits is None and (self.offset or self.gain or self.inl):
            raise UnusableInput("offset, gain and inl are those of a converter: give its bits")

    @property
    def alike(self) -> bool:
        """Whether all converters of a chip are the same."""
        return not (self.offset or self.gain or self.inl)

    def codes(self, signed: bool) -> tuple[int, int]:
        """The least and the greatest code."""
        if self.bits is None:
            raise UnusableInput("an ideal converter has no codes")
        low = -(1 << self.bits - 1) if signed else -self.below
        return low, low + (1 << self.bits) - 1

    def step(self, greatest: float, signed: bool) -> float:
        """Counts between codes, never less than one; ``greatest`` is the worst case's count."""
        if self.bits is None:
            return 1.0
        return max(1.0, (self.top or greatest) / max(self.codes(signed)[1], 1))


def errors_of(shape: tuple[int, ...], converter: Converter, rng: np.random.Generator) -> np.ndarray:
    """Offset, gain and bow of the converter of each column: float32 (3, columns...)."""
    columns = int(np.prod(shape))
    owners = np.arange(columns) // converter.shared
    drawn = rng.standard_normal((3, int(owners[-1]) + 1), np.float32)[:, owners]
    sizes = np.array([converter.offset, converter.gain, converter.inl], np.float32)
    return (drawn * sizes[:, None]).reshape(3, *shape)


def convert(
    counts: np.ndarray,
    converter: Converter,
    greatest: float,
    signed: bool = False,
    errors: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Codes for counts, and the step in counts.

    With a step of one count, no noise and no errors, code times step is the count: the conversion
    is lossless. An ideal converter returns the counts.

    Args:
        counts: any shape.
        greatest: the largest count that can occur, in either direction if ``signed``.
        errors: from :func:`errors_of`, broadcast against ``counts``.
    """
    step = converter.step(greatest, signed)
    if converter.bits is None:
        return counts, step
    low, high = converter.codes(signed)
    codes = counts / np.asarray(step, counts.dtype)
    if errors is not None:
        offset, gain, bow = errors
        share = np.clip(codes / max(high, 1), -1, 1)  # one bit of two sides has no code above 0
        # a parabola between the ends of the range, odd where the range has two sides
        codes = codes * (1 + gain) + offset + bow * 4 * share * (1 - np.abs(share))
    np.rint(np.clip(codes, low, high, out=codes), out=codes)
    return codes, step
