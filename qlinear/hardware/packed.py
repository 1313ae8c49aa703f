"""The sums of analog arrays by counting bits: the same numbers, many times as fast.

Where every cell holds an integer, a count is a count indeed: of the rows on which a bit of the
input meets a bit of the cell. Packed into words of 32 rows, that is an ``and`` and a population
count. Noise is drawn and added, and codes are made, in the same loop. Where cells and digits have
many bits a matrix product is the faster way, :mod:`~qlinear.hardware.fused`.

Needs numba (``pip install 'qlinear[fast]'``); without it :func:`fits` is False and
:mod:`~qlinear.hardware.analog` computes the plain form.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from qlinear.hardware import draws

if TYPE_CHECKING:
    from qlinear.hardware.analog import Array, Tile

try:
    import numba
    from numba.extending import intrinsic
except ImportError:
    numba = None

WORD = 32  # rows in a word
WORTHWHILE = (
    8  # pairs of a bit of the input and a plane of the cells, from which products are faster
)


def fits(array: "Array", tiles: list["Tile"], precision: type) -> bool:
    """Whether an array's sums are counted sooner than multiplied, and numba is there to do it."""
    if numba is None or not array.device.exact or not array.adc.alike or array.accumulate:
        return False
    planes = max(planes_in(np.abs(tile.held).max()) for tile in tiles) * (1 + array.signed)
    few = planes * array.dac_bits < WORTHWHILE
    return few and array.adc.bits is not None and array.whole_sums and precision is np.float32


def planes_in(greatest: float) -> int:
    """Bits of the cells."""
    return max(int(greatest).bit_length(), 1)


def planes_of(cells: np.ndarray) -> np.ndarray:
    """Bits of integers, packed along their last axis: uint32 (bits, words, shape...).

    Args:
        cells: int32 (shape..., rows), not negative.
    """
    bits = planes_in(cells.max())
    words = -(-cells.shape[-1] // WORD)
    padded = np.zeros((*cells.shape[:-1], words * WORD), np.int32)
    padded[..., : cells.shape[-1]] = cells
    planes = np.stack([padded >> b & 1 for b in range(bits)]).astype(np.uint8)
    packed = np.packbits(planes, axis=-1, bitorder="little").view("<u4")
    return np.ascontiguousarray(np.moveaxis(packed, -1, 1).astype(np.uint32))


def totals(
    columns: np.ndarray,
    tiles: list["Tile"],
    array: "Array",
    precision: type,
    key: tuple[int, int] | None,
) -> np.ndarray:
    """What :func:`qlinear.hardware.analog.totals` returns, in the same order of additions."""
    n, _, positions = columns.shape
    inputs = np.ascontiguousarray(columns.astype(np.uint8, copy=False).transpose(0, 2, 1))
    lines, M = tiles[0].worth.shape
    total = np.zeros((n, positions, M))
    noisy, words = not array.quiet, array.digits * draws.halves(lines * M)
    starts = draws.bases(key, n, positions) if noisy else np.zeros((n, positions), np.uint64)
    low, high = array.adc.codes(array.signed)
    for t, tile in enumerate(tiles):
        height = tile.held.shape[2]
        cells = tile.held.astype(np.int32).reshape(-1, height)
        plus, minus = planes_of(np.maximum(cells, 0)), planes_of(np.maximum(-cells, 0))
        if not array.signed:
            minus = minus[:0]
        bytes_of = np.zeros((n, positions, plus.shape[1] * WORD), np.uint8)
        bytes_of[:, :, :height] = inputs[:, :, tile.rows]
        eights = bytes_of.view("<u8").astype(np.uint64, copy=False)
        step = array.adc.step(tile.greatest, array.signed)
        settings = tuple(np.float32(v) for v in (array.adc.noise, step, low, high))
        noise_of = noisy, starts, t * words, draws.table()
        _count(eights, plus, minus, settings, noise_of, array.dac_bits, step * tile.worth, total)
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

    @intrinsic
    def rint(context, value):
        """To the nearest integer, ties to even: one instruction, where np.rint is a call."""

        def generate(context, builder, signature, arguments):
            kind = arguments[0].type
            return builder.call(builder.module.declare_intrinsic("llvm.rint", [kind]), arguments)

        return value(value), generate

    @compiled
    def _bit(eights, b, bits):
        """Bit ``b`` of every input, 32 of them in a word; what is returned is 0 if all are."""
        low, gather = np.uint64(0x0101010101010101), np.uint64(0x0102040810204080)
        every = np.uint32(0)
        for word in range(bits.size):
            found = np.uint64(0)
            for k in range(4):
                # bit b of eight bytes, moved side by side into the top byte by one product
                one = (eights[4 * word + k] >> np.uint64(b) & low) * gather >> np.uint64(56)
                found |= one << np.uint64(8 * k)
            bits[word] = np.uint32(found)
            every |= np.uint32(found)
        return every

    @compiled
    def _add(bits, planes, worth, counts):
        """Add to the counts of all columns what one bit of the inputs finds in their cells."""
        for plane in range(planes.shape[0]):
            held, left = planes[plane], planes.shape[1] % 4
            for word in range(0, held.shape[0] - left, 4):
                a, b, c, d = bits[word], bits[word + 1], bits[word + 2], bits[word + 3]
                if a | b | c | d:
                    for k in range(counts.size):
                        counts[k] += worth * np.int32(
                            _ones(a & held[word, k])
                            + _ones(b & held[word + 1, k])
                            + _ones(c & held[word + 2, k])
                            + _ones(d & held[word + 3, k])
                        )
            for word in range(held.shape[0] - left, held.shape[0]):
                a = bits[word]
                if a:
                    for k in range(counts.size):
                        counts[k] += worth * np.int32(_ones(a & held[word, k]))
            worth *= 2

    @compiled
    def mix(z):
        """:func:`qlinear.hardware.draws.mixed` of one word."""
        z = (z ^ z >> np.uint64(30)) * np.uint64(draws.FIRST)
        z = (z ^ z >> np.uint64(27)) * np.uint64(draws.SECOND)
        return z ^ z >> np.uint64(31)

    @compiled
    def _draw(start, begin, words, entries, drawn):
        """:func:`qlinear.hardware.draws.normals` of one position."""
        half, golden = words.size // 2, np.uint64(draws.GOLDEN)
        for k in range(half):
            word = mix(start + np.uint64(begin + k + 1) * golden)
            words[k], words[half + k] = np.uint32(word), np.uint32(word >> np.uint64(32))
        last = np.uint32(draws.ENTRIES - 1)
        for k in range(drawn.size):
            word = words[k]
            drawn[k] = entries[word & last] + entries[word >> np.uint32(12) & last]

    @compiled
    def _count(eights, plus, minus, settings, noise_of, dac_bits, worth, total):
        """Add to the totals (N, positions, M) what the codes of one tile are worth."""
        lines, M = worth.shape
        noise, step, low, high = settings
        noisy, starts, begin, entries = noise_of
        columns, half = lines * M, (lines * M + 1) // 2
        bits, words = np.zeros(plus.shape[1], np.uint32), np.zeros(2 * half, np.uint32)
        counts, sums = np.zeros(columns, np.int32), np.zeros(columns, np.int32)
        drawn = np.zeros(columns, np.float32)
        for n in range(total.shape[0]):
            for p in range(total.shape[1]):
                sums[:] = 0
                for first in range(0, 8, dac_bits):
                    counts[:] = 0
                    found = np.uint32(0)
                    for b in range(first, min(first + dac_bits, 8)):
                        found |= _bit(eights[n, p], b, bits)
                        value = np.int32(1 << b - first)
                        _add(bits, plus, value, counts)
                        _add(bits, minus, -value, counts)
                    place = np.int32(1 << first)
                    if noisy:
                        digit = first // dac_bits
                        _draw(starts[n, p], begin + digit * half, words, entries, drawn)
                        for c in range(columns):
                            code = (np.float32(counts[c]) + drawn[c] * noise) / step
                            sums[c] += np.int32(rint(min(max(code, low), high))) * place
                    elif found:  # the code of nothing is 0
                        for c in range(columns):
                            code = np.float32(counts[c]) / step
                            sums[c] += np.int32(rint(min(max(code, low), high))) * place
                for line in range(lines):
                    for m in range(M):
                        total[n, p, m] += float(sums[line * M + m]) * worth[line, m]
