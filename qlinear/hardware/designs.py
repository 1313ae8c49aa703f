"""Published designs as settings of :class:`~qlinear.hardware.analog.Array`.

Each has the array, the mapping and the converter of its paper, moved to 8-bit inputs and 8-bit
weights; what its paper does otherwise is said beside it. None is the chip: buffers, timing and what
a paper does not tell are missing.
"""

from qlinear.hardware import analog
from qlinear.hardware.analog import Array
from qlinear.hardware.converters import Converter
from qlinear.hardware.devices import PCM, Device

# Shafiee et al. 2016: 128 x 128 cells of 2 bits, inputs bit by bit, flipped lines, an 8-bit ADC for
# each array. Theirs has 16-bit inputs and weights (8 cells), and a column for the sum of inputs.
ISAAC = Array(
    rows=128,
    columns=128,
    cell_bits=2,
    mapping=analog.FLIPPED,
    dac_bits=1,
    adc=Converter(bits=8, shared=128),
)

# Chi et al. 2016: 256 x 256 cells of 4 bits, two of them a weight; positive and negative arrays,
# subtracted; 3-bit inputs; a sense amplifier of 6 bits for two columns. Theirs puts 6-bit inputs
# together from two digits; 8 bits take three.
PRIME = Array(
    rows=256,
    columns=256,
    cell_bits=4,
    mapping=analog.PAIR,
    dac_bits=3,
    adc=Converter(bits=6, shared=2),
)

# Khaddam-Aljameh et al. 2022, the core of Le Gallo et al. 2023: 256 x 256 unit cells of
# phase-change memory, a pair for each weight, 8-bit inputs as pulse widths, a converter for each
# column, whose range is calibrated (here not: see ``variants.calibrated``). The errors of the cells
# are those of ``devices.PCM``.
PCM_CORE = Array(
    rows=256,
    columns=512,  # 256 pairs
    cell_bits=8,
    mapping=analog.PAIR,
    dac_bits=8,
    coding=analog.PULSE_WIDTH,
    adc=Converter(bits=8),
    device=Device(PCM, on_off=100, read_noise=True),
)

# Jia et al. 2020: charge-domain SRAM, 2304 rows, a bit of a weight in each column, inputs bit by
# bit, an 8-bit ADC for each column. Theirs converts over the range of all 2304 rows.
SRAM = Array(
    rows=2304,
    columns=256,
    cell_bits=1,
    mapping=analog.TWOS_COMPLEMENT,
    dac_bits=1,
    adc=Converter(bits=8, top=2304.0),
)

DESIGNS = {"ISAAC": ISAAC, "PRIME": PRIME, "PCM core": PCM_CORE, "SRAM": SRAM}
