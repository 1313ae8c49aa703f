"""The sums of analog arrays whose cells hold real numbers: the plain form's, several times as fast.

Two cases, each in one pass over memory:

- ideal, quiet converters leave everything linear, so lines, digits and tiles are one matrix product
  in float64 (:func:`folded`; needs no numba);
- other converters take one matrix product for each tile and image, the same call as the plain
  form's, and a compiled loop that draws noise, converts, shifts and adds (:func:`totals`).
"""

from typing import TYPE_CHECKING

import numpy as np

from qlinear.hardware import draws, packed

if TYPE_CHECKING:
    from qlinear.hardware.analog import Array, Tile


def linear(array: "Array") -> bool:
    """Whether nothing is rounded or drawn between an input and the accumulator."""
    return array.adc.bits is None and array.quiet


def folded(
    columns: np.ndarray, tiles: list["Tile"], array: "Array", fed_values: np.ndarray
) -> np.ndarray:
    """All tiles, with what the digital side adds, as one product: float64 (N, M, positions).

    Args:
        columns: (N, taps, positions), integers of 0 ... 255.
        fed_values: (digits, 256), what the word lines carry for each input.
    """
    held = np.concatenate([np.einsum("lm,lmr->mr", t.worth, t.held) for t in tiles], axis=1)
    digital = np.repeat(
        np.stack([t.per_input for t in tiles], axis=1), [t.held.shape[2] for t in tiles], axis=1
    )
    places = 2.0 ** (array.dac_bits * np.arange(len(fed_values)))
    answered = places @ fed_values
    if (answered == np.arange(256)).all():
        return (held + digital) @ columns.astype(np.float64)
    return held @ answered[columns] + digital @ columns.astype(np.float64)


def fits(array: "Array", precision: type) -> bool:
    """Whether the compiled loop computes what the plain form does, and numba is there."""
    if packed.numba is None or array.adc.bits is None or not array.adc.alike:
        return False
    return precision is np.float64 or array.whole_sums


def totals(
    columns: np.ndarray,
    tiles: list["Tile"],
    array: "Array",
    precision: type,
    key: tuple[int, int] | None,
    fed_values: np.ndarray,
) -> np.ndarray:
    """What :func:`qlinear.hardware.analog.totals` returns, in the same order of additions.

    Args:
        fed_values: (digits, 256), what the word lines carry for each input.
    """
    n, taps, positions = columns.shape
    lines, M = tiles[0].worth.shape
    digits, words = len(fed_values), draws.halves(lines * M)
    values = fed_values.astype(precision)
    inputs = columns.astype(np.uint8, copy=False)
    total = np.zeros((n, M, positions))
    flat = np.empty((taps, digits, positions), precision)
    counts = np.empty((lines * M, digits * positions), precision)
    quiet = array.quiet
    starts = np.zeros((n, positions), np.uint64) if quiet else draws.bases(key, n, positions)
    low, high = array.adc.codes(array.signed)
    held = [t.held.reshape(lines * M, -1).astype(precision) for t in tiles]
    for image in range(n):
        _feed(inputs[image], values, flat)
        for t, tile in enumerate(tiles):
            fed = flat[tile.rows].reshape(-1, digits * positions)
            np.matmul(held[t], fed, out=counts)
            spread = counts[:0]
            if tile.variance is not None:
                spread = tile.variance.reshape(lines * M, -1).astype(precision) @ fed**2
            step = array.adc.step(tile.greatest, array.signed)
            settings = tuple(precision(v) for v in (array.adc.noise, step, low, high))
            shape = lines, M, digits, positions
            _convert(
                counts.reshape(shape),
                spread.reshape(shape if len(spread) else (0, 0, 0, 0)),
                settings,
                (starts[image], t * digits * words, draws.table(), not quiet),
                array.dac_bits,
                step * tile.worth,
                total[image],
            )
    return total


if packed.numba is not None:

    @packed.compiled
    def _feed(columns, values, flat):
        """What the word lines carry: (taps, digits, positions)."""
        for k in range(columns.shape[0]):
            for d in range(values.shape[0]):
                for p in range(columns.shape[1]):
                    flat[k, d, p] = values[d, columns[k, p]]

    @packed.compiled
    def _drawn(starts, begin, entries, column, half, drawn):
        """The draw of one column at every position."""
        golden, last = np.uint64(draws.GOLDEN), np.uint64(draws.ENTRIES - 1)
        step = np.uint64(begin + column % half + 1) * golden
        shift = np.uint64(32 * (column // half))
        for p in range(starts.size):
            word = packed.mix(starts[p] + step) >> shift
            drawn[p] = entries[word & last] + entries[word >> np.uint64(12) & last]

    @packed.compiled
    def _convert(counts, spread, settings, noise_of, dac_bits, worth, total):
        """Add to the totals (M, positions) what the codes of one tile are worth."""
        lines, M, digits, positions = counts.shape
        noise, step, low, high = settings
        starts, begin, entries, noisy = noise_of
        half = (lines * M + 1) // 2
        drawn, sums = np.empty(positions, np.float32), np.empty(positions, counts.dtype)
        for line in range(lines):
            for m in range(M):
                sums[:] = 0
                for d in range(digits):
                    count = counts[line, m, d]
                    if noisy:
                        _drawn(starts, begin + d * half, entries, line * M + m, half, drawn)
                        if spread.size:
                            for p in range(positions):
                                deviation = np.sqrt(spread[line, m, d, p] + noise * noise)
                                count[p] += drawn[p] * deviation
                        else:
                            for p in range(positions):
                                count[p] += drawn[p] * noise
                    place = counts.dtype.type(1 << d * dac_bits)
                    for p in range(positions):
                        sums[p] += packed.rint(min(max(count[p] / step, low), high)) * place
                for p in range(positions):
                    total[m, p] += np.float64(sums[p]) * worth[line, m]
