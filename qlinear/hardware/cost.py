"""What analog arrays cost: crossbars, conversions, time, energy and area, beside their accuracy.

Counts are exact, of the array as it is described. Prices are of one kind, digital and analog in
32 nm as ISAAC's table has them (Shafiee et al. 2016, Table I), each divided by what the part does:

- a converter of 8 bits, 2 mW at 1.28 GS/s (after Kull et al. 2013, measured in 32 nm), and for
  other widths in proportion to ``k1 * bits + k2 * 4**bits``, a form of Murmann 2021 for the best
  published ADCs: its first term is technology, its second noise; k1 = 100 fJ and k2 = 1 aJ as in
  the code of Sun et al. 2023, at 1 V. Area grows as 10**(1.206 - 0.0369 bits) * 2**bits (the same
  code, a fit in 28 nm that it uses below 12 bits; from there on it has 0.5 µm² * 2**bits, which at
  12 is less than the fit at 8, so we go on with the fit);
- a crossbar of 128 x 128, the 1-bit drivers of its rows, registers, shift and add: power times the
  time of a read, 100 ns; a pulse's unit is 1 ns (Khaddam-Aljameh et al. 2022), and a read by
  pulses takes no less than one by voltages.

A driver of b bits is priced as b drivers of one: our assumption. So is it that the two sides of a
pair lie in the same crossbars and share their drivers; in PRIME they lie in arrays of their own,
which takes up to twice as many of both. Every cell has the price of ISAAC's, an SRAM cell too. What
adds digits in analog, buffers, networks on chip and everything after the accumulator are left out.
How far the whole is from published totals is in :func:`published`, and asserted in the tests: take
a price for what it is, a comparison of settings.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace

import numpy as np

from qlinear.engine import arguments
from qlinear.hardware import analog
from qlinear.hardware.analog import Array
from qlinear.hardware.variants import grouped_products, record_of, weighted
from qlinear.onnx_model import Model

READ_SECONDS = 100e-9  # one read of a crossbar (Shafiee et al. 2016)
PULSE_SECONDS = 1e-9  # the unit of a pulse width (Khaddam-Aljameh et al. 2022)
SAMPLES = 1.28e9  # conversions of one ADC a second (Shafiee et al. 2016, text; 1.2e9 in Table I)

# watts and square millimetres of one of each, from ISAAC's Table I (32 nm, 2016)
ADC_WATTS, ADC_AREA = 16e-3 / 8, 0.0096 / 8  # of 8 bits
CELL_WATTS, CELL_AREA = 2.4e-3 / 8 / 128**2, 0.0002 / 8 / 128**2
DRIVER_WATTS, DRIVER_AREA = 4e-3 / (8 * 128), 0.00017 / (8 * 128)
HOLD_WATTS, HOLD_AREA = 10e-6 / (8 * 128), 0.00004 / (8 * 128)  # sample and hold, of a column
ADD_WATTS, ADD_AREA = 0.2e-3 / 8, 0.00024 / 8  # shift and add, of an array of 128 columns
REGISTER_WATTS, REGISTER_AREA = (1.24e-3 + 0.23e-3) / 8, (0.0021 + 0.00077) / 8  # of an array


def survey_joules(bits: int) -> float:
    """Energy of one conversion at the envelope of the published ADCs (form: Murmann 2021)."""
    return 100e-15 * bits + 1e-18 * 4.0**bits


def adc_joules(bits: int) -> float:
    """Energy of one conversion: ISAAC's at 8 bits, and as the envelope for other widths."""
    return ADC_WATTS / SAMPLES * survey_joules(bits) / survey_joules(8)


def adc_area(bits: int) -> float:
    """Square millimetres of a converter: ISAAC's of 8 bits, scaled by Sun et al.'s fit."""
    fit = 10 ** (1.206 - 0.0369 * np.array([bits, 8])) * 2.0 ** np.array([bits, 8])
    return float(ADC_AREA * fit[0] / fit[1])


@dataclass(frozen=True)
class Cost:
    """What a layer takes for one image; energies in joules, area in square millimetres."""

    crossbars: int
    cells: int  # of all crossbars
    used: int  # of them, that hold a part of a weight
    macs: int
    conversions: int
    reads: int  # of each crossbar, one after the other
    seconds: float  # all reads, or all conversions where they take longer
    adc_joules: float
    cell_joules: float
    driver_joules: float
    digital_joules: float
    area: float

    @property
    def joules(self) -> float:
        return self.adc_joules + self.cell_joules + self.driver_joules + self.digital_joules

    @property
    def macs_per_conversion(self) -> float:
        return self.macs / self.conversions

    @property
    def joules_per_mac(self) -> float:
        return self.joules / self.macs


def lossless_bits(taps: int, array: Array, rows: np.ndarray | None = None) -> int:
    """Width of the narrowest converter that loses nothing with perfect cells.

    Args:
        taps: products of an output.
        rows: int32 (M, taps), the weights, of which a pair of one cell uses 7 bits or 8.
    """
    ideal = analog.ideal(array)
    weights = np.zeros((1, taps), np.int32) if rows is None else rows
    tiles = analog.programmed(weights, ideal)
    return int(max(t.greatest for t in tiles)).bit_length() + array.signed


def layer_cost(
    taps: int, channels: int, positions: int, array: Array, rows: np.ndarray | None = None
) -> Cost:
    """The cost of one layer.

    Args:
        taps: products of an output element; channels: of the output; positions: elements of each.
        array: with an ideal converter the width that loses nothing is priced.
        rows: int32 (M, taps), the weights; a -128 among them may take a pair one cell more.
    """
    weights = np.zeros((1, taps), np.int32) if rows is None else rows
    lines = analog.mapped(weights, array)
    tiles = analog.tile_rows(taps, array)
    sides = 2 if array.signed else 1
    converted = len(lines.cells) * channels
    columns = sides * converted
    crossbars = len(tiles) * -(-columns // array.columns)
    digits = 1 if array.accumulate else array.digits
    conversions = positions * digits * converted * len(tiles)
    pulses = (1 << array.dac_bits) - 1 if array.coding == analog.PULSE_WIDTH else 1
    read = max(READ_SECONDS, pulses * PULSE_SECONDS)  # a bit is the same pulse in either coding
    reads = positions * array.digits
    held = positions * array.digits * read  # seconds that word lines and cells are on
    sharing = min(array.adc.shared, converted)
    turns = positions * digits * sharing / SAMPLES
    bits = array.adc.bits or lossless_bits(taps, array, weights)
    driver_bits = array.dac_bits if array.coding == analog.AMPLITUDE else 1
    driven = taps * -(-columns // array.columns)  # each row of a tile in all its crossbars
    converters = len(tiles) * -(-converted // array.adc.shared)
    area = converters * adc_area(bits) + crossbars * (
        array.rows * array.columns * CELL_AREA
        + array.rows * driver_bits * DRIVER_AREA
        + array.columns * (HOLD_AREA + ADD_AREA / 128)
        + REGISTER_AREA
    )
    return Cost(
        crossbars=crossbars,
        cells=crossbars * array.rows * array.columns,
        used=taps * columns,
        macs=taps * channels * positions,
        conversions=conversions,
        reads=reads,
        seconds=max(held, turns),
        adc_joules=conversions * adc_joules(bits),
        cell_joules=taps * columns * CELL_WATTS * held,
        driver_joules=driven * driver_bits * DRIVER_WATTS * held,
        digital_joules=conversions * ADD_WATTS / 128 * READ_SECONDS
        + columns * len(tiles) * HOLD_WATTS * held
        + crossbars * REGISTER_WATTS * held,
        area=area,
    )


def network_cost(
    model: Model, values: dict[str, np.ndarray], arrays: Mapping[str, Array]
) -> dict[str, Cost]:
    """The cost of each layer that lies on arrays, for one image.

    A layer with groups takes crossbars for each, since they share none, and all work at once.

    Args:
        values: tensors of the network, whose shapes count.
        arrays: by the name of the node.
    """
    found = {}
    for name, node in weighted(model).items():
        if name not in arrays:
            continue
        x, *constants = arguments(model, node, values)
        conv = record_of(node.op_type, tuple(constants), node.attributes)
        x4 = x[:1, :, None, None] if node.op_type == "QGemm" else x[:1]
        columns, rows, _ = grouped_products(x4, conv)
        groups, channels, taps = rows.shape
        sizes, weights = (taps, channels, columns.shape[3]), rows.reshape(-1, taps)
        found[name] = times(layer_cost(*sizes, arrays[name], weights), groups)
    return found


def times(one: Cost, groups: int) -> Cost:
    """The cost of groups that are alike and work at once: as many of all, in the same time."""
    at_once = "reads", "seconds"
    more = {f.name: groups * getattr(one, f.name) for f in fields(one) if f.name not in at_once}
    return replace(one, **more)


def total(costs: Mapping[str, Cost]) -> Cost:
    """All layers, one after the other."""
    sums = (sum(values) for values in zip(*(astuple(c) for c in costs.values()), strict=True))
    return Cost(**dict(zip((f.name for f in fields(Cost)), sums, strict=True)))


@dataclass(frozen=True)
class Published:
    """A total that a paper gives, and what the prices here make of the same work."""

    what: str
    unit: str
    theirs: float
    ours: float

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


def published() -> list[Published]:
    """The prices held against totals that were published.

    The first two are ISAAC's own in-situ multiply unit, whose parts the prices come from: they show
    that nothing was lost in taking it apart. The third is the same power with the envelope's
    converter in place of ISAAC's. The fourth has no price in it: it counts operations, over ISAAC's
    own area. The last two are measured chips, of which only the clock of the one was used.
    """
    from qlinear.hardware.designs import ISAAC, PCM_CORE, SRAM

    # eight crossbars, all columns busy: 32 channels of 8-bit weights fill one
    unit = layer_cost(taps=8 * 128, channels=32, positions=1, array=ISAAC)
    busy = READ_SECONDS * ISAAC.digits
    survey = unit.joules + unit.conversions * (survey_joules(8) - adc_joules(8))
    # 168 tiles of 12 units; 16-bit weights take 8 cells and 16-bit inputs 16 reads
    chip = 168 * 12 * 8 * 128 * (128 // 8) * 2 / (16 * READ_SECONDS)
    core = layer_cost(taps=256, channels=256, positions=1, array=PCM_CORE)
    column = layer_cost(taps=2304, channels=32, positions=1, array=SRAM)
    operations = 2 * column.macs * 64  # of one bit by one bit
    return [
        Published("ISAAC, in-situ multiply unit", "mW", 24.08, unit.joules / busy * 1e3),
        Published("ISAAC, in-situ multiply unit", "mm²", 0.01312, unit.area),
        Published("ISAAC's unit, ADC of the survey", "mW", 24.08, survey / busy * 1e3),
        Published("ISAAC, chip, peak", "GOPS/mm²", 478.95, chip / 85.4 / 1e9),
        Published("PCM core (Khaddam-Aljameh 2022)", "TOPS/W", 10.5, 2e-12 / core.joules_per_mac),
        Published("SRAM (Jia 2020), 1.2 V", "1b-TOPS/W", 192, operations / column.joules / 1e12),
    ]
