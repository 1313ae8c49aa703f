"""The sums of analog arrays by counting bits: the same numbers, many times as fast.

Where every cell holds an integer, a count is a count indeed: of the rows on which a bit of the
input meets a bit of the cell. Packed into words of 32 rows, that is an ``and`` and a population
count. What a quiet converter makes of a count comes from a table; noise is drawn and added in the
same loop (:mod:`~qlinear.hardware.draws`).

Needs numba (``pip install 'qlinear[fast]'``); without it :func:`fits` is False and
:mod:`~qlinear.hardware.analog` computes the plain form.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from qlinear.hardware import draws
from qlinear.hardware.converters import convert

if TYPE_CHECKING:
    from qlinear.hardware.analog import Array, Tile

try:
    import numba
    from numba.extending import intrinsic
except ImportError:
    numba = None

WORD = 32  # rows in a word
TABLE = 1 << 20  # codes in a table that is still worth making


def fits(array: "Array", tiles: list["Tile"], precision: type) -> bool:
    """Whether an array's sums can be counted, and numba is there to do it."""
    if numba is None or not array.device.exact or not array.adc.alike or array.accumulate:
        return False
    if array.adc.noise:
        return array.adc.bits is not None and precision is np.float32
    return max(tile.greatest for tile in tiles) < TABLE


def planes_of(cells: np.ndarray) -> np.ndarray:
    """Bits of integers, packed along their last axis: uint32 (bits, words, shape...).

    Args:
        cells: int32 (shape..., rows), not negative.
    """
    bits = max(int(cells.max()).bit_length(), 1)
    words = -(-cells.shape[-1] // WORD)
    padded = np.zeros((*cells.shape[:-1], words * WORD), np.int32)
    padded[..., : cells.shape[-1]] = cells
    planes = np.stack([padded >> b & 1 for b in range(bits)]).astype(np.uint8)
    packed = np.packbits(planes, axis=-1, bitorder="little").view("<u4")
    return np.ascontiguousarray(np.moveaxis(packed, -1, 1).astype(np.uint32))


def table_of(tile: "Tile", array: "Array", precision: type) -> tuple[np.ndarray, int, float]:
    """The code of every count that a tile can give: int32 codes, the least count, and the step."""
    least = -int(tile.greatest) if array.signed else 0
    counts = np.arange(least, int(tile.greatest) + 1, dtype=precision)
    codes, step = convert(counts, array.adc, tile.greatest, array.signed)
    return codes.astype(np.int32), least, step


def totals(
    columns: np.ndarray,
    tiles: list["Tile"],
    array: "Array",
    precision: type,
    key: tuple[int, int] | None,
) -> np.ndarray:
    """What :func:`qlinear.hardware.analog.totals` returns, in the same order of additions."""
    n, taps, positions = columns.shape
    inputs = np.ascontiguousarray(columns.astype(np.uint8, copy=False).transpose(0, 2, 1))
    lines, M = tiles[0].worth.shape
    total = np.zeros((n, positions, M))
    noisy, begin = bool(array.adc.noise), 0
    starts = draws.bases(key, n, positions) if noisy else np.zeros((0, 0), np.uint64)
    for tile in tiles:
        height = tile.held.shape[2]
        cells = tile.held.astype(np.int32).reshape(-1, height)
        plus, minus = planes_of(np.maximum(cells, 0)), planes_of(np.maximum(-cells, 0))
        if not array.signed:
            minus = minus[:0]
        bytes_of = np.zeros((n, positions, plus.shape[1] * WORD), np.uint8)
        bytes_of[:, :, :height] = inputs[:, :, tile.rows]
        eights = bytes_of.view("<u8").astype(np.uint64, copy=False)
        if noisy:
            low, high = array.adc.codes(array.signed)
            step = array.adc.step(tile.greatest, array.signed)
            settings = tuple(np.float32(v) for v in (array.adc.noise, step, low, high))
            where = starts, begin, draws.table()
            scale = step * tile.worth
            _count_noisy(eights, plus, minus, settings, *where, array.dac_bits, scale, total)
            begin += array.digits * draws.halves(lines * M)
        else:
            table, least, step = table_of(tile, array, precision)
            _count(eights, plus, minus, table, least, array.dac_bits, step * tile.worth, total)
    return total.transpose(0, 2, 1)


if numba is not None:

    def compiled(function: Callable) -> Callable:
        """Machine code of a function, kept between processes where a folder can be written."""
        try:
            return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
        except RuntimeError:
            return numba.njit(nogil=True, error_model="numpy")(function)

    @intrinsic
    def _ones(context, word):
        """How many bits of a word are set."""

        def generate(context, builder, signature, arguments):
            return builder.ctpop(arguments[0])

        return numba.types.uint32(numba.types.uint32), generate

    @compiled
    def _bit(eights, b, bits):
        """Bit ``b`` of every input, 32 of them in a word."""
        low, gather = np.uint64(0x0101010101010101), np.uint64(0x0102040810204080)
        for word in range(bits.size):
            found = np.uint64(0)
            for k in range(4):
                # bit b of eight bytes, moved side by side into the top byte by one product
                one = (eights[4 * word + k] >> np.uint64(b) & low) * gather >> np.uint64(56)
                found |= one << np.uint64(8 * k)
            bits[word] = found

    @compiled
    def _add(bits, planes, worth, counts):
        """Add to the counts of all columns what one bit of the inputs finds in their cells."""
        for plane in range(planes.shape[0]):
            held, left = planes[plane], planes.shape[1] % 4
            for word in range(0, held.shape[0] - left, 4):
                a, b, c, d = bits[word], bits[word + 1], bits[word + 2], bits[word + 3]
                for k in range(counts.size):
                    counts[k] += worth * np.int32(
                        _ones(a & held[word, k])
                        + _ones(b & held[word + 1, k])
                        + _ones(c & held[word + 2, k])
                        + _ones(d & held[word + 3, k])
                    )
            for word in range(held.shape[0] - left, held.shape[0]):
                a = bits[word]
                for k in range(counts.size):
                    counts[k] += worth * np.int32(_ones(a & held[word, k]))
            worth *= 2

    @compiled
    def _counted(eights, first, dac_bits, plus, minus, bits, counts):
        """Add one digit's counts of one position."""
        for b in range(first, min(first + dac_bits, 8)):
            _bit(eights, b, bits)
            value = np.int32(1 << b - first)
            _add(bits, plus, value, counts)
            _add(bits, minus, -value, counts)

    @compiled
    def _combine(sums, worth, total):
        """Add to the totals (M,) of one position what its sums (lines * M,) are worth."""
        lines, M = worth.shape
        for line in range(lines):
            for m in range(M):
                total[m] += float(sums[line * M + m]) * worth[line, m]

    @compiled
    def _count(eights, plus, minus, table, least, dac_bits, worth, total):
        """Add to the totals (N, positions, M) what the codes of one tile are worth."""
        columns = worth.size
        bits = np.zeros(plus.shape[1], np.uint32)
        counts, sums = np.zeros(columns, np.int32), np.zeros(columns, np.int32)
        for n in range(total.shape[0]):
            for p in range(total.shape[1]):
                sums[:] = 0
                for first in range(0, 8, dac_bits):
                    counts[:] = -least
                    _counted(eights[n, p], first, dac_bits, plus, minus, bits, counts)
                    for c in range(columns):
                        sums[c] += table[np.uint32(counts[c])] << first
                _combine(sums, worth, total[n, p])

    @compiled
    def mix(z):
        """:func:`qlinear.hardware.draws.mixed` of one word."""
        z = (z ^ z >> np.uint64(30)) * np.uint64(draws.FIRST)
        z = (z ^ z >> np.uint64(27)) * np.uint64(draws.SECOND)
        return z ^ z >> np.uint64(31)

    @compiled
    def _read(counts, start, begin, entries, settings, first, sums):
        """Add one digit's noisy codes of one position to the sums of all columns."""
        noise, step, low, high = settings
        half = (counts.size + 1) // 2
        golden, last = np.uint64(draws.GOLDEN), np.uint64(draws.ENTRIES - 1)
        for side in range(2):
            shift = np.uint64(32 * side)
            for c in range(min(half, counts.size - side * half)):
                word = mix(start + np.uint64(begin + c + 1) * golden) >> shift
                drawn = entries[word & last] + entries[word >> np.uint64(12) & last]
                count = np.float32(counts[side * half + c])
                code = (count + drawn * noise) / step
                code = np.rint(min(max(code, low), high))
                sums[side * half + c] += np.int32(code) << first

    @compiled
    def _count_noisy(
        eights, plus, minus, settings, starts, begin, entries, dac_bits, worth, total
    ):
        """As :func:`_count`, with a draw for each conversion."""
        columns = worth.size
        bits = np.zeros(plus.shape[1], np.uint32)
        counts, sums = np.zeros(columns, np.int32), np.zeros(columns, np.int32)
        for n in range(total.shape[0]):
            for p in range(total.shape[1]):
                sums[:] = 0
                used = begin
                for first in range(0, 8, dac_bits):
                    counts[:] = 0
                    _counted(eights[n, p], first, dac_bits, plus, minus, bits, counts)
                    _read(counts, starts[n, p], used, entries, settings, first, sums)
                    used += (columns + 1) // 2
                _combine(sums, worth, total[n, p])
