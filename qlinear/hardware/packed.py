"""The sums of analog arrays by counting bits: the same numbers, several times as fast.

Where every cell holds an integer and no conversion draws noise, a count is a count indeed: of the
rows on which a bit of the input meets a bit of the cell. Packed into words of 64 rows, that is an
``and`` and a population count. What the converter makes of a count comes from a table.

Needs numba (``pip install 'qlinear[fast]'``); without it :func:`fits` is False and
:mod:`~qlinear.hardware.analog` computes the plain form.
"""

from collections.abc import Callable
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


def totals(columns: np.ndarray, tiles: list["Tile"], array: "Array", precision: type) -> np.ndarray:
    """What :func:`qlinear.hardware.analog.totals` returns, in the same order of additions."""
    n, _, positions = columns.shape
    inputs = columns.transpose(0, 2, 1).astype(np.uint8)
    total = np.zeros((n, positions, tiles[0].held.shape[1]))
    for tile in tiles:
        height = tile.held.shape[2]
        cells = tile.held.astype(np.int32).reshape(-1, height)
        plus, minus = planes_of(np.maximum(cells, 0)), planes_of(np.maximum(-cells, 0))
        if not array.signed:
            minus = minus[:0]
        table, least, step = table_of(tile, array, precision)
        bytes_of = np.zeros((n, positions, plus.shape[1] * WORD), np.uint8)
        bytes_of[:, :, :height] = inputs[:, :, tile.rows]
        eights = bytes_of.view("<u8").astype(np.uint64)
        _count(eights, plus, minus, table, least, array.dac_bits, step * tile.worth, total)
    return total.transpose(0, 2, 1)


if numba is not None:

    def _compiled(function: Callable) -> Callable:
        """Machine code of a function, kept between processes where a folder can be written."""
        try:
            return numba.njit(nogil=True, cache=True)(function)
        except RuntimeError:
            return numba.njit(nogil=True)(function)

    @intrinsic
    def _ones(context, word):
        """How many bits of a word are set."""

        def generate(context, builder, signature, arguments):
            return builder.ctpop(arguments[0])

        return numba.types.uint64(numba.types.uint64), generate

    @_compiled
    def _bit(eights, b, bits):
        """Bit ``b`` of every input, 64 of them in a word."""
        low, gather = np.uint64(0x0101010101010101), np.uint64(0x0102040810204080)
        for word in range(bits.size):
            found = np.uint64(0)
            for k in range(8):
                # bit b of eight bytes, moved side by side into the top byte by one product
                one = (eights[8 * word + k] >> np.uint64(b) & low) * gather >> np.uint64(56)
                found |= one << np.uint64(8 * k)
            bits[word] = found

    @_compiled
    def _add(bits, planes, worth, counts):
        """Add to the counts of all columns what one bit of the inputs finds in their cells."""
        for plane in range(planes.shape[0]):
            for word in range(planes.shape[1]):
                on, held = bits[word], planes[plane, word]
                for c in range(counts.size):
                    counts[c] += worth * np.int32(_ones(on & held[c]))
            worth *= 2

    @_compiled
    def _count(eights, plus, minus, table, least, dac_bits, worth, total):
        """Add to the totals (N, positions, M) what the codes of one tile are worth."""
        lines, M = worth.shape
        columns = lines * M
        bits = np.zeros(plus.shape[1], np.uint64)
        counts, sums = np.zeros(columns, np.int32), np.zeros(columns, np.int32)
        for n in range(total.shape[0]):
            for p in range(total.shape[1]):
                sums[:] = 0
                for first in range(0, 8, dac_bits):
                    counts[:] = -least
                    for b in range(first, min(first + dac_bits, 8)):
                        _bit(eights[n, p], b, bits)
                        value = np.int32(1 << b - first)
                        _add(bits, plus, value, counts)
                        _add(bits, minus, -value, counts)
                    for c in range(columns):
                        sums[c] += table[counts[c]] << first
                for line in range(lines):
                    for m in range(M):
                        total[n, p, m] += float(sums[line * M + m]) * worth[line, m]
