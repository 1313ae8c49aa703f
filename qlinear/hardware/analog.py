"""A convolution on analog crossbar arrays: bit-serial inputs, bit-sliced weights, ADCs, noise.

The array multiplies and adds with voltages, conductances and currents, so it knows magnitudes only.
Signed weights become an offset (w + 128 >= 0, corrected in digital) or a differential pair of
cells; inputs arrive bit by bit, the most significant first; a weight is cut into cells of a few
bits; a layer is cut into tiles of as many rows as the array has, and each column of a tile is read
by an analog-to-digital converter.

Sources: Shafiee et al., ISAAC (2016), for bit-serial inputs, offset weights and the lossless ADC
width; Chi et al., PRIME (2016), for differential pairs. The two noises are this module's own,
plainer than any device: Gaussian, and independent of what a cell holds.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from qlinear.errors import UnusableInput

OFFSET = 128  # makes an int8 weight an unsigned 8-bit number


@dataclass(frozen=True)
class Array:
    """The hardware of the crossbars and their converters."""

    rows: int = 128  # inputs that one column adds
    cell_bits: int = 2  # bits of a weight that one cell holds
    adc_bits: int | None = None  # None: an ideal converter
    clip: float | None = None  # greatest count that the ADC resolves (default: all that can occur)
    read_noise: float = 0.0  # standard deviation, in counts, drawn anew at every conversion
    cell_noise: float = 0.0  # standard deviation, as a share of the cell's range, fixed per cell
    seed: int = 0  # of the cells: another seed is another chip

    @property
    def levels(self) -> int:
        """Largest value of one cell."""
        return (1 << self.cell_bits) - 1


def lossless_adc_bits(rows: int, cell_bits: int, input_bits: int = 1) -> int:
    """Width of the narrowest ADC that tells all sums of one column apart.

    A column adds ``rows`` products of an input of ``input_bits`` and a cell of ``cell_bits``, so
    its counts go from 0 to rows * (2**input_bits - 1) * (2**cell_bits - 1). ISAAC writes the same,
    for powers of two, as log2(rows) + input_bits + cell_bits, less one if either is a single bit.
    """
    return (rows * ((1 << input_bits) - 1) * ((1 << cell_bits) - 1)).bit_length()


def differential(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed weights as two non-negative arrays: w = plus - minus."""
    return np.maximum(w, 0), np.maximum(-w, 0)


def bit_planes(x: np.ndarray, bits: int = 8) -> np.ndarray:
    """Non-negative integers as bits, the least first: float32 (bits, x.shape...) of 0 and 1."""
    return np.stack([(x >> b & 1).astype(np.float32) for b in range(bits)])


def cell_slices(w: np.ndarray, cell_bits: int) -> np.ndarray:
    """Weights plus OFFSET, cut into cells, least significant first: float32 (slices, M, taps)."""
    unsigned = w.astype(np.int32) + OFFSET
    count = -(-8 // cell_bits)
    mask = (1 << cell_bits) - 1
    return np.stack([(unsigned >> s * cell_bits & mask).astype(np.float32) for s in range(count)])


def convert(counts: np.ndarray, bits: int | None, greatest: float) -> tuple[np.ndarray, float]:
    """An ADC: the codes 0 ... 2**bits - 1 for counts of 0 ... greatest, and its step in counts.

    With a step of one count, and no noise, code times step is the count: the conversion is
    lossless. Without ``bits`` the converter is ideal.
    """
    if bits is None:
        return counts, 1.0
    top = (1 << bits) - 1
    step = max(1.0, greatest / top)
    codes = counts / np.float32(step)
    np.rint(np.clip(codes, 0, top, out=codes), out=codes)
    return codes, step


def programmed_cells(rows: np.ndarray, array: Array) -> np.ndarray:
    """What the cells of a layer hold after programming: float32 (slices, M, taps), with noise.

    Cells stay as they were programmed, so the noise depends on the seed and on the weights alone:
    the same at every call, and another one in another layer.
    """
    cells = cell_slices(rows, array.cell_bits)
    if not array.cell_noise:
        return cells
    layer = zlib.crc32(np.ascontiguousarray(rows, np.int32))
    noise = np.random.default_rng([array.seed, layer]).standard_normal(cells.shape, np.float32)
    return cells + noise * np.float32(array.cell_noise * array.levels)


def array_sum(
    columns: np.ndarray,
    rows: np.ndarray,
    bias: np.ndarray,
    array: Array,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Stage 1 of a layer on crossbar arrays.

    Args:
        columns: int32 (N, taps, positions), inputs minus the least one that can occur, so all in
            0 ... 255.
        rows: int32 (M, taps), int8 weights.
        bias: int32 (M,).
        rng: where read noise comes from; the same generator for every layer and call, so that no
            two conversions share a draw.

    Returns:
        int32 (N, M, positions), the accumulators with bias; exact when nothing is lossy.

    Raises:
        UnusableInput: an input lies outside 0 ... 255, or read noise is asked for without ``rng``.
    """
    if columns.min() < 0 or columns.max() > 255:
        raise UnusableInput(
            f"columns lie in {columns.min()} ... {columns.max()}, an array takes 0 ... 255: feed x "
            "minus its type's minimum and fold (x_zero_point - minimum) * sum(w) into the bias"
        )
    if array.read_noise and rng is None:
        raise UnusableInput(
            f"read_noise is {array.read_noise} but rng is missing: pass numpy.random.default_rng()"
        )
    n, taps, positions = columns.shape
    cells = programmed_cells(rows, array)
    # all bit planes and all slices in one product: (slices * M, taps) @ (taps, bits * positions)
    planes = bit_planes(columns).transpose(1, 2, 0, 3).reshape(n, taps, -1)
    count, stacked = len(cells), cells.reshape(-1, taps)
    total = np.zeros((n, len(rows), positions))
    for start in range(0, taps, array.rows):
        tile = slice(start, start + array.rows)
        greatest = array.clip or min(array.rows, taps - start) * array.levels
        counts = stacked[:, tile] @ planes[:, tile]
        if array.read_noise:
            draws = rng.standard_normal(counts.shape, np.float32)
            counts += draws * np.float32(array.read_noise)
        codes, step = convert(counts, array.adc_bits, greatest)
        codes = codes.reshape(n, count, len(rows), 8, -1)
        # shift and add the input bits, the most significant first: below 2**24, so exact in float32
        by_slice = codes[:, :, :, 7].copy()
        for b in range(6, -1, -1):
            by_slice *= 2
            by_slice += codes[:, :, :, b]
        for s in range(count):
            total += by_slice[:, s].astype(np.float64) * (step * (1 << s * array.cell_bits))
    # every weight was raised by OFFSET, so OFFSET * sum(x) must go: in digital
    total -= OFFSET * columns.sum(axis=1, dtype=np.float64)[:, None]
    return np.rint(total).astype(np.int32) + bias[:, None]
