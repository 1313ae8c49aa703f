"""The sums of analog arrays by counting bits: the same numbers, several times as fast.

Where every cell holds an integer and no conversion draws noise, a count is a count indeed: of the
rows on which a bit of the input meets a bit of the cell. Packed into words of 64 rows, that is an
``and`` and a population count. What the converter makes of a count comes from a table.

Needs numba (``pip install 'qlinear[fast]'``); without it :func:`fits` is False and
:mod:`~qlinear.hardware.analog` computes the plain form.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from qlinear.hardware.converters import convert

if TYPE_CHECKING:
    from qlinear.hardware.analog import Array, Tile

try:
    import numba
    from numba.extending import intrinsic
except ImportError:
    numba = None

WORD = 64  # rows in a word
TABLE = 1 << 20  # codes in a table that is still worth making


def fits(array: "Array", tiles: list["Tile"]) -> bool:
    """Whether an array's sums can be counted, and numba is there to do it."""
    counted = array.device.exact and array.quiet and array.adc.alike and not array.accumulate
    small = max(tile.greatest for tile in tiles) < TABLE
    return numba is not None and counted and small


def planes_of(cells: np.ndarray) -> np.ndarray:
    """Bits of integers, packed along their last axis: uint64 (bits, words, shape...).

    Args:
        cells: int32 (shape..., rows), not negative.
    """
    bits = max(int(cells.max()).bit_length(), 1)
    words = -(-cells.shape[-1] // WORD)
    padded = np.zeros((*cells.shape[:-1], words * WORD), np.int32)
    padded[..., : cells.shape[-1]] = cells
    planes = np.stack([padded >> b & 1 for b in range(bits)]).astype(np.uint8)
    packed = np.packbits(planes, axis=-1, bitorder="little").view("<u8")
    return np.ascontiguousarray(np.moveaxis(packed, -1, 1).astype(np.uint64))


def table_of(tile: "Tile", array: "Array", precision: type) -> tuple[np.ndarray, int, float]:
    """The code of every count that a tile can give: int32 codes, the least count, and the step."""
    least = -int(tile.greatest) if array.signed else 0
    counts = np.arange(least, int(tile.greatest) + 1, dtype=precision)
    codes, step = convert(counts, array.adc, tile.greatest, array.signed)
    return codes.astype(np.int32), least, step


def tile_sums(
    columns: np.ndarray, tiles: list["Tile"], array: "Array", precision: type
) -> Iterator[tuple[np.ndarray, float]]:
    """What :func:`qlinear.hardware.analog.tile_sums` yields, as int32."""
    inputs = np.ascontiguousarray(columns.transpose(0, 2, 1)).astype(np.uint8)
    for tile in tiles:
        lines, M, height = tile.held.shape
        cells = tile.held.astype(np.int32).reshape(-1, height)
        plus, minus = planes_of(np.maximum(cells, 0)), planes_of(np.maximum(-cells, 0))
        if not array.signed:
            minus = minus[:0]
        table, least, step = table_of(tile, array, precision)
        part = np.ascontiguousarray(inputs[:, :, tile.rows])
        sums = _count(part, plus, minus, table, least, array.dac_bits)
        yield sums.reshape(len(columns), -1, lines, M).transpose(0, 2, 3, 1), step


if numba is not None:

    @intrinsic
    def _ones(context, word):
        """How many bits of a word are set."""

        def generate(context, builder, signature, arguments):
            return builder.ctpop(arguments[0])

        return numba.types.uint64(numba.types.uint64), generate

    @numba.njit(nogil=True, cache=True)
    def _add(bits, planes, worth, counts):
        """Add to the counts of all columns what one bit of the inputs finds in their cells."""
        for plane in range(planes.shape[0]):
            for word in range(planes.shape[1]):
                on, held = bits[word], planes[plane, word]
                for c in range(counts.size):
                    counts[c] += worth * np.int32(_ones(on & held[c]))
            worth *= 2

    @numba.njit(nogil=True, cache=True)
    def _count(inputs, plus, minus, table, least, dac_bits):
        """Sums over the digits of each column's codes: int32 (N, positions, columns)."""
        images, positions, rows = inputs.shape
        columns = plus.shape[2]
        sums = np.zeros((images, positions, columns), np.int32)
        bits = np.zeros((8, plus.shape[1]), np.uint64)
        counts = np.zeros(columns, np.int32)
        for n in range(images):
            for p in range(positions):
                bits[:] = 0
                for k in range(rows):
                    value = np.uint64(inputs[n, p, k])
                    for b in range(8):
                        bit = value >> np.uint64(b) & np.uint64(1)
                        bits[b, k // WORD] |= bit << np.uint64(k % WORD)
                for first in range(0, 8, dac_bits):
                    counts[:] = -least
                    for b in range(first, min(first + dac_bits, 8)):
                        worth = np.int32(1 << b - first)
                        _add(bits[b], plus, worth, counts)
                        _add(bits[b], minus, -worth, counts)
                    for c in range(columns):
                        sums[n, p, c] += table[counts[c]] << first
        return sums
