"""A convolution on analog arrays as they are built: map, feed, multiply, convert, combine.

An array adds products of voltages and conductances, so it knows magnitudes only. A layer becomes
*tiles* of as many rows as an array has. In a tile, a weight lies in one or more *lines*, columns
that hold a part of it; the inputs go in as *digits*, one after the other. Each line gives a
*count*: the sum of digit times cell. A converter makes a code of it, and digital logic adds up the
codes, each times what its line and its digit are worth.

How signed weights become lines (``mapping``):

- OFFSET: w + 128, with 128 * sum(x) to subtract (ISAAC, Shafiee et al. 2016, with one column for
  sum(x); here the digital side has it);
- FLIPPED: the same, but a line that is more than half full holds ``levels - cell``, so that no
  count passes half of the greatest: one bit less for the converter (ISAAC again);
- PAIR: the positive and the negative part in two lines whose currents are subtracted before one
  converter (PRIME, Chi et al. 2016; Joshi et al. 2020);
- TWO_CONVERTERS: such a pair, each line with its own conversion, subtracted in digital;
- TWOS_COMPLEMENT: the weight's bits, of which the top one counts -128 (charge-domain SRAM, Jia et
  al. 2020); cells of one bit.

The rest of a design is in :class:`Array`: :class:`~qlinear.hardware.devices.Device` says what cells
do to numbers, :class:`~qlinear.hardware.converters.Converter` what converters do.
:mod:`~qlinear.hardware.designs` has published ones, :mod:`~qlinear.hardware.cost` their price.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.hardware import devices, draws, fused, packed, wires
from qlinear.hardware.converters import Converter, convert, errors_of
from qlinear.hardware.devices import Device
from qlinear.hardware.draws import Noise

OFFSET, FLIPPED, PAIR = "offset", "flipped", "pair"
TWO_CONVERTERS, TWOS_COMPLEMENT = "two converters", "two's complement"
MAPPINGS = OFFSET, FLIPPED, PAIR, TWO_CONVERTERS, TWOS_COMPLEMENT
AMPLITUDE, PULSE_WIDTH = "amplitude", "pulse width"
RAISED = 128  # makes an int8 weight an unsigned 8-bit number
INPUT_BITS = 8
EXACT = 1 << 24  # integers up to here are float32


@dataclass(frozen=True)
class Array:
    """The crossbars, what feeds them, and what reads them."""

    rows: int = 128  # inputs that one column adds
    columns: int = (
        128  # of one crossbar: how many of them a layer takes, and how long a word line is
    )
    cell_bits: int = 2  # bits of a weight that one cell holds
    mapping: str = OFFSET
    balanced: bool = False  # tiles of nearly equal height, instead of full ones and a rest
    dac_bits: int = 1  # bits of an input that a word line carries at once
    coding: str = AMPLITUDE  # of a digit of several bits: a voltage, or the length of a pulse
    accumulate: bool = False  # add up the digits in analog: one conversion in place of one each
    adc: Converter = field(default_factory=Converter)
    device: Device = field(default_factory=Device)
    seed: int = 0  # of the cells and converters: another seed is another chip

    def __post_init__(self):
        for name in ("rows", "columns"):
            if getattr(self, name) < 1:
                raise UnusableInput(f"{name} is {getattr(self, name)}: at least 1 needed")
        if self.seed < 0:
            raise UnusableInput(f"seed is {self.seed}: 0 or more needed")
        for name in ("cell_bits", "dac_bits"):
            if not 1 <= getattr(self, name) <= 8:
                raise UnusableInput(f"{name} is {getattr(self, name)}: 1 to 8 needed")
        for name, known in (("mapping", MAPPINGS), ("coding", (AMPLITUDE, PULSE_WIDTH))):
            if getattr(self, name) not in known:
                needed = ", ".join(known)
                raise UnusableInput(f"{name} is {getattr(self, name)!r}: one of {needed} needed")
        if self.mapping == TWOS_COMPLEMENT and self.cell_bits != 1:
            raise UnusableInput(
                f"cell_bits is {self.cell_bits}: two's complement has a sign bit, so 1 is needed"
            )

    @property
    def digits(self) -> int:
        """How many digits an input has."""
        return -(-INPUT_BITS // self.dac_bits)

    @property
    def conversions(self) -> int:
        """How many of these digits have a conversion of their own."""
        return 1 if self.accumulate else self.digits

    @property
    def places(self) -> int:
        """What a count is worth in all digits together."""
        return sum(1 << self.dac_bits * digit for digit in range(self.conversions))

    @property
    def whole_sums(self) -> bool:
        """Whether codes of all digits, shifted and added, are exact in float32."""
        low, high = self.adc.codes(self.signed)
        return max(high, -low) * self.places < EXACT

    @property
    def signed(self) -> bool:
        """Whether counts can be negative."""
        return self.mapping == PAIR

    @property
    def quiet(self) -> bool:
        """Whether a conversion draws no noise."""
        return not (self.adc.noise or self.device.read_noise)


def ideal(array: Array) -> Array:
    """The same mapping and inputs, with perfect cells and converters."""
    return replace(array, adc=Converter(shared=array.adc.shared), device=Device())


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


def digits_of(x: np.ndarray, array: Array) -> np.ndarray:
    """Inputs of 0 ... 255 as digits, the least first: float32 (digits, x.shape...)."""
    mask = (1 << array.dac_bits) - 1
    shifts = range(0, INPUT_BITS, array.dac_bits)
    return np.stack([(x >> s & mask).astype(np.float32) for s in shifts])


def slices(magnitudes: np.ndarray, bits: int, cell_bits: int) -> np.ndarray:
    """Numbers of ``bits`` bits cut into cells, the least first: int32 (slices, shape...)."""
    mask = (1 << cell_bits) - 1
    return np.stack([magnitudes >> s & mask for s in range(0, bits, cell_bits)])


def cell_slices(w: np.ndarray, cell_bits: int) -> np.ndarray:
    """Weights plus 128, cut into cells, least significant first: float32 (slices, M, taps)."""
    return slices(w.astype(np.int32) + RAISED, 8, cell_bits).astype(np.float32)


@dataclass(frozen=True)
class Lines:
    """What the cells of a layer are to hold, before any error.

    ``cells`` may be negative in a PAIR: then the other of its two cells holds the magnitude.
    """

    cells: np.ndarray  # int32 (lines, M, taps)
    levels: int  # greatest value of a cell
    worth: np.ndarray  # float64 (lines, M, tiles): of one count in the accumulator
    per_input: np.ndarray  # float64 (M, tiles): what each unit of an input adds, in digital


def magnitude_bits(rows: np.ndarray) -> int:
    """7, or 8 where a weight is -128."""
    return max(int(np.abs(rows.astype(np.int32)).max()).bit_length(), 7)


def mapped(rows: np.ndarray, array: Array) -> Lines:
    """Signed weights as the contents of cells.

    Args:
        rows: int32 (M, taps), int8 weights.
    """
    w = rows.astype(np.int32)
    if array.mapping in (PAIR, TWO_CONVERTERS):
        bits = magnitude_bits(w)
        cell_bits = min(array.cell_bits, bits)
        cells = slices(np.abs(w), bits, cell_bits)
        worth = 2.0 ** (cell_bits * np.arange(len(cells)))
        if array.mapping == PAIR:
            cells = cells * np.sign(w)
        else:
            cells = np.concatenate([cells * (w > 0), cells * (w < 0)])
            worth = np.concatenate([worth, -worth])
        per_input = 0.0
    elif array.mapping == TWOS_COMPLEMENT:
        cell_bits = 1
        cells = slices(w & 255, 8, 1)
        worth = np.append(2.0 ** np.arange(7), -128.0)
        per_input = 0.0
    else:
        cell_bits = array.cell_bits
        cells = slices(w + RAISED, 8, cell_bits)
        worth = 2.0 ** (cell_bits * np.arange(len(cells)))
        per_input = -float(RAISED)
    tiles = tile_rows(w.shape[1], array)
    shape = (len(cells), len(w), len(tiles))
    worth = np.broadcast_to(worth[:, None, None], shape)
    levels = (1 << cell_bits) - 1
    lines = Lines(cells, levels, worth, np.full(shape[1:], per_input))
    return flipped(lines, tiles) if array.mapping == FLIPPED else lines


def flipped(lines: Lines, tiles: list[slice]) -> Lines:
    """The lines of each tile that are more than half full hold ``levels - cell`` instead.

    sum(x * cell) is levels * sum(x) - sum(x * (levels - cell)), and the first is known in digital.
    """
    cells, worth, per_input = lines.cells.copy(), lines.worth.copy(), lines.per_input.copy()
    for t, tile in enumerate(tiles):
        part = cells[:, :, tile]
        over = 2 * part.sum(axis=2) > lines.levels * part.shape[2]
        part[over] = lines.levels - part[over]
        per_input[:, t] += (over * worth[:, :, t] * lines.levels).sum(axis=0)
        worth[:, :, t] = np.where(over, -worth[:, :, t], worth[:, :, t])
    return Lines(cells, lines.levels, worth, per_input)


def tile_rows(taps: int, array: Array) -> list[slice]:
    """Which taps lie in which tile."""
    count = -(-taps // array.rows)
    starts = [t * array.rows for t in range(count)]
    if array.balanced:
        starts = [t * taps // count for t in range(count)]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], taps], strict=True)]


def greatest_count(height: int, levels: int, array: Array) -> float:
    """The largest count that a line of ``height`` rows is to give in one conversion.

    Of cells that hold what they were given: what errors add beyond it is clipped.
    """
    base = array.device.base(levels)
    digit = 255 if array.accumulate else (1 << array.dac_bits) - 1
    if array.mapping == FLIPPED:
        return float((height * levels // 2 + height * base) * digit)
    if array.signed:  # the least conductance is in both cells of a pair
        base = 0
    return float(height * (levels + base) * digit)


@dataclass(frozen=True)
class Tile:
    """A part of a layer as one array holds it, errors included."""

    rows: slice
    held: np.ndarray  # float32 (lines, M, rows), in levels; a pair is one line, its difference
    variance: np.ndarray | None  # of what each cell holds, drawn at each conversion
    worth: np.ndarray  # float64 (lines, M)
    per_input: np.ndarray  # float64 (M,)
    greatest: float  # count in the worst case
    errors: np.ndarray | None  # of the converters: float32 (3, lines, M)


def sides(lines: Lines, array: Array) -> np.ndarray:
    """What single cells are to hold: int32 (sides, lines, M, taps), two sides in a PAIR."""
    if array.mapping == PAIR:
        return np.stack(differential(lines.cells))
    return lines.cells[None]


def programmed(rows: np.ndarray, array: Array) -> list[Tile]:
    """A layer's tiles after programming, and as old as ``array.device`` says.

    A chip stays as it is: the errors depend on the seed and on the weights alone, the same at every
    call, and others in another layer.

    Args:
        rows: int32 (M, taps), int8 weights.
    """
    return chips(rows[None], array)[0]


def chips(rows: np.ndarray, array: Array) -> list[list[Tile]]:
    """The tiles of each group of a layer, as :func:`programmed` makes those of one.

    Groups share no cells, word lines or converters. Their errors depend on their number too, so
    that groups of the same weights have others.

    Args:
        rows: int32 (groups, M, taps), int8 weights.
    """
    rows = np.ascontiguousarray(rows, np.int32)
    if rows.min() < -128 or rows.max() > 127:
        raise UnusableInput(
            f"weights lie in {rows.min()} ... {rows.max()}, cells take -128 ... 127"
        )
    return _programmed(rows.tobytes(), rows.shape, array)


def identity(rows: np.ndarray, group: int) -> int:
    """A number for a group of a layer, by its weights; for the first their CRC-32."""
    return zlib.crc32(np.ascontiguousarray(rows, np.int32).tobytes()) + (group << 32)


@lru_cache(maxsize=64)
def _programmed(content: bytes, shape: tuple[int, int, int], array: Array) -> list[list[Tile]]:
    groups = np.frombuffer(content, np.int32).reshape(shape)
    return [_chip(w, array, identity(w, group)) for group, w in enumerate(groups)]


def _chip(w: np.ndarray, array: Array, number: int) -> list[Tile]:
    shape, device = w.shape, array.device
    lines = mapped(w, array)
    rng = np.random.default_rng([array.seed, number])
    targets = sides(lines, array)
    start, cells = devices.programmed(targets, lines.levels, device, rng)
    base = device.base(lines.levels)
    tiles = []
    for t, part in enumerate(tile_rows(shape[1], array)):
        now = cells[..., part]
        worth, per_input = lines.worth[:, :, t], lines.per_input[:, t]
        current = now.sum(dtype=float)
        if device.corrected and start is not cells and current:
            # read with every word line on, then and now (see devices); no current says nothing
            worth = worth * (start[..., part].sum(dtype=float) / current)
        if not array.signed:  # what cells conduct when they hold 0 is known too
            per_input = per_input - base * worth.sum(axis=0)
        variance = None
        if device.read_noise:
            then = start[..., part]
            variance = devices.read_variance(then, now, lines.levels + base, device).sum(axis=0)
        now = wires.through(now, lines.levels + base, device, array.columns)
        held = now[0] - now[1] if array.signed else now[0]
        errors = None if array.adc.alike else errors_of(worth.shape, array.adc, rng)
        greatest = greatest_count(part.stop - part.start, lines.levels, array)
        tiles.append(Tile(part, held, variance, worth, per_input, greatest, errors))
    return tiles


def fed(columns: np.ndarray, array: Array) -> np.ndarray:
    """Inputs as what the word lines carry: (N, taps, digits, positions).

    With ``accumulate`` the digits are added up in analog, each worth twice and so on, so that they
    are one again: what is left of them is what a cell that is not linear made of each.
    """
    top = (1 << array.dac_bits) - 1
    digits = digits_of(columns, array)
    if array.coding == AMPLITUDE:
        digits = devices.voltages(digits, top, array.device)
    if array.accumulate:
        worth = np.float32(2) ** (array.dac_bits * np.arange(len(digits)))
        digits = np.tensordot(worth.astype(np.float32), digits, 1)[None]
    return digits.transpose(1, 2, 0, 3)


@lru_cache(maxsize=64)
def fed_values(array: Array) -> np.ndarray:
    """What :func:`fed` makes of each of the 256 inputs: float32 (digits, 256)."""
    every = np.arange(256, dtype=np.int32).reshape(1, 256, 1)
    found = np.ascontiguousarray(fed(every, array)[0, :, :, 0].T)
    found.flags.writeable = False
    return found


def precision(tiles: list[Tile], array: Array) -> type:
    """The float type of the counts: the narrowest that holds the sums of whole ones exactly.

    That is float32 up to 2**24. Where no converter rounds, float64.
    """
    small = max(tile.greatest for tile in tiles) * array.places < EXACT
    return np.float32 if small and array.adc.bits is not None else np.float64


def counts_of(
    tile: Tile, inputs: np.ndarray, array: Array, starts: np.ndarray | None, begin: int = 0
) -> np.ndarray:
    """What the converters of a tile see: (N, lines, M, digits, positions), in levels.

    Args:
        inputs: (N, rows, digits, positions), from :func:`fed`.
        starts: from :func:`qlinear.hardware.draws.bases`; None where nothing is drawn.
        begin: words of noise that the tiles before took.
    """
    n, height, digits, positions = inputs.shape
    flat = inputs.reshape(n, height, -1)
    counts = tile.held.reshape(-1, height).astype(flat.dtype) @ flat
    if not array.quiet:
        columns = len(tile.worth.ravel())
        words = draws.halves(columns)
        drawn = [draws.normals(starts, begin + d * words, columns) for d in range(digits)]
        drawn = np.stack(drawn, axis=2).reshape(counts.shape)
        deviation = flat.dtype.type(array.adc.noise)
        if tile.variance is not None:
            spread = tile.variance.reshape(-1, height).astype(flat.dtype) @ flat**2
            deviation = np.sqrt(spread + deviation * deviation)
        counts += drawn * deviation
    return counts.reshape(n, *tile.worth.shape, digits, positions)


def words_of(tiles: list[Tile], array: Array) -> int:
    """How many words of noise each tile takes."""
    return array.conversions * draws.halves(tiles[0].worth.size)


def key_of(
    rows: np.ndarray, array: Array, noise: Noise | None, group: int = 0
) -> tuple[int, int] | None:
    """The key of the noise of a layer, or of one of its groups; None where nothing is drawn.

    Raises:
        UnusableInput: noise is asked for without a source.
    """
    if array.quiet:
        return None
    if noise is None:
        raise UnusableInput(
            "conversions draw noise but rng is missing: pass numpy.random.default_rng()"
        )
    return draws.key_of(noise, identity(rows, group))


def observed(
    columns: np.ndarray,
    rows: np.ndarray,
    array: Array,
    share: float = 1.0,
    rng: Noise | None = None,
) -> float:
    """The magnitude that ``share`` of the counts of these inputs do not pass: a range for an ADC.

    Args:
        columns, rows, rng: as in :func:`array_sum`; of groups it is one range for all.
    """
    counts: list[np.ndarray] = []
    for inputs, tiles, key, _ in _by_group(columns, rows, None, array, rng):
        inputs = fed(inputs, array).astype(precision(tiles, array))
        starts = None if key is None else draws.bases(key, len(inputs), inputs.shape[3])
        words = words_of(tiles, array)
        for t, tile in enumerate(tiles):
            found = np.abs(counts_of(tile, inputs[:, tile.rows], array, starts, t * words)).ravel()
            counts.append(found.max(keepdims=True) if share == 1 else found)
    found = np.concatenate(counts)
    return float(found.max() if share == 1 else np.quantile(found, share, method="higher"))


def combined(codes: np.ndarray, array: Array) -> np.ndarray:
    """Shift and add the digits, the most significant first: (N, lines, M, positions)."""
    total = codes[:, :, :, -1].copy()
    for digit in range(codes.shape[3] - 2, -1, -1):
        total *= 1 << array.dac_bits
        total += codes[:, :, :, digit]
    return total


def totals(
    columns: np.ndarray, tiles: list[Tile], array: Array, key: tuple[int, int] | None
) -> np.ndarray:
    """All tiles' codes, each times what it is worth: float64 (N, M, positions).

    The plain form, which :func:`qlinear.hardware.packed.totals` and
    :func:`qlinear.hardware.fused.totals` equal where they apply.
    """
    inputs = fed(columns, array).astype(precision(tiles, array))
    total = np.zeros((len(columns), tiles[0].held.shape[1], columns.shape[2]))
    starts = None if key is None else draws.bases(key, len(columns), columns.shape[2])
    for t, tile in enumerate(tiles):
        begin = t * words_of(tiles, array)
        counts = counts_of(tile, inputs[:, tile.rows], array, starts, begin)
        errors = None if tile.errors is None else tile.errors[..., None, None]
        codes, step = convert(counts, array.adc, tile.greatest, array.signed, errors)
        codes = combined(codes, array)
        for line, worth in enumerate(tile.worth):
            total += codes[:, line].astype(np.float64) * (step * worth)[:, None]
    return total


def known(columns: np.ndarray, tiles: list[Tile]) -> np.ndarray:
    """What the digital side adds for each unit of an input: float64 (N, M, positions)."""
    added = np.zeros((len(columns), len(tiles[0].per_input), columns.shape[2]))
    for tile in tiles:
        if tile.per_input.any():
            inputs = columns[:, tile.rows].sum(axis=1, dtype=np.int32)
            added += tile.per_input[:, None] * inputs[:, None]
    return added


def fast_totals(
    columns: np.ndarray, tiles: list[Tile], array: Array, key: tuple[int, int] | None
) -> np.ndarray:
    """:func:`totals` plus :func:`known`, by the fastest form that gives the same numbers."""
    if fused.linear(array):
        return fused.folded(columns, tiles, array, fed_values(array))
    kind = precision(tiles, array)
    if packed.fits(array, tiles, kind):
        total = packed.totals(columns, tiles, array, kind, key)
    elif fused.fits(array, kind):
        total = fused.totals(columns, tiles, array, kind, key, fed_values(array))
    else:
        total = totals(columns, tiles, array, key)
    return total + known(columns, tiles)


def _by_group(
    columns: np.ndarray,
    rows: np.ndarray,
    bias: np.ndarray | None,
    array: Array,
    rng: Noise | None,
) -> Iterator[tuple[np.ndarray, list[Tile], tuple[int, int] | None, np.ndarray | None]]:
    """The columns, tiles, key of noise and bias of each group of a layer."""
    if rows.ndim == 2:
        columns, rows = columns[:, None], rows[None]
    parts = [None] * len(rows) if bias is None else bias.reshape(len(rows), -1)
    keys = [key_of(one, array, rng, group) for group, one in enumerate(rows)]
    yield from zip(columns.swapaxes(0, 1), chips(rows, array), keys, parts, strict=True)


def array_sum(
    columns: np.ndarray,
    rows: np.ndarray,
    bias: np.ndarray,
    array: Array,
    rng: Noise | None = None,
    fast: bool = True,
) -> np.ndarray:
    """Stage 1 of a layer on analog arrays.

    The weights of a layer with groups are (groups, M / groups, taps), its columns
    (N, groups, taps, positions): each group lies on arrays of its own (:func:`chips`), and draws
    noise of its own.

    Args:
        columns: integers (N, taps, positions), inputs minus the least one that can occur, so all in
            0 ... 255.
        rows: int32 (M, taps), int8 weights.
        bias: int32, M of them.
        rng: where the noise of conversions comes from: a generator, the same for every layer and
            call, so that no two conversions share a draw; or
            :class:`~qlinear.hardware.draws.Reads`, whose noise is the same however images are
            batched.
        fast: use packed words, fused loops and folded products where they give the same numbers.

    Returns:
        int32 (N, M, positions), the accumulators with bias; exact when nothing is lossy.

    Raises:
        UnusableInput: an input lies outside 0 ... 255, or noise is asked for without ``rng``.
    """
    if columns.dtype != np.uint8 and (columns.min() < 0 or columns.max() > 255):
        raise UnusableInput(
            f"columns lie in {columns.min()} ... {columns.max()}, an array takes 0 ... 255: feed x "
            "minus its type's minimum and fold (x_zero_point - minimum) * sum(w) into the bias"
        )
    found = []
    for inputs, tiles, key, added in _by_group(columns, rows, bias, array, rng):
        if fast:
            total = fast_totals(inputs, tiles, array, key)
        else:
            total = totals(inputs, tiles, array, key) + known(inputs, tiles)
        # past 32 bits they wrap, as ONNX Runtime's do; a float beyond int32 does not by itself
        found.append(np.rint(total).astype(np.int64).astype(np.int32) + added[:, None])
    return np.concatenate(found, axis=1)
