"""What the cells of an analog array do to the numbers that they hold.

Conductances are counted in levels: what a cell holds, 0 ... ``levels``, on top of the least
conductance ``base`` that a real cell has. The greatest is ``full = levels + base``.

Sources, a formula each:

- phase-change memory of at most 25 µS, its programming error, drift and read noise: the code of
  AIHWKIT 1.1.0 (Rasch et al. 2021), ``inference/noise/pcm.py``, which names Nandakumar et al. 2019;
  the global correction of drift, from the summed current of an array then and now: AIHWKIT's
  documentation, which names Le Gallo et al. 2018 (its code sums the differences of pairs instead);
- RRAM of at most 40 µS, its error a second and a day after programming: the polynomials of AIHWKIT
  1.1.0, ``inference/noise/reram.py``, fitted there to the figures of Wan et al. 2022;
- the current through a cell is no straight line of the voltage but a sinh: Jiang et al. 2016;
- the wire of a column as a ladder of resistors: Kirchhoff's laws, no approximation; with word lines
  that are resistors too: :mod:`~qlinear.hardware.wires`.

The errors "independent" and "proportional" are plain Gaussians, no device's.
"""

from dataclasses import dataclass
from math import inf, log, sinh

import numpy as np

from qlinear.errors import UnusableInput

INDEPENDENT, PROPORTIONAL, PCM, RRAM = "independent", "proportional", "pcm", "rram"
PROGRAMMING = INDEPENDENT, PROPORTIONAL, PCM, RRAM
DAY = 86_400.0

# polynomials in g / full, the constant first, in µS; and full in µS
_PCM, _PCM_FULL = (0.26348, 1.9650, -1.1731), 25.0
_RRAM, _RRAM_FULL = (0.348, 16.030, -43.853, 45.393, -16.815), 40.0
_RRAM_DAY = (0.701, 22.086, -50.773, 47.095, -16.458)
PCM_START = 20.0  # seconds: the first read, from which drift counts (AIHWKIT's t_0)
PCM_READ = 250e-9  # seconds that a read takes (its t_read)


@dataclass(frozen=True)
class Device:
    """The cells of an array, and its wires; ideal unless something is said."""

    programming: str | None = None  # one of PROGRAMMING
    sigma: float = 0.0  # of the plain ones: a share of the range, or of what the cell holds
    bounded: bool = True  # a conductance is at least 0; False: a plain error may pass that
    on_off: float = inf  # greatest conductance over least
    seconds: float = 0.0  # since programming: drift (pcm), or the state at one day (rram)
    corrected: bool = True  # one digital factor for each array takes the mean drift back
    stuck_on: float = 0.0  # share of the cells that always conduct fully
    stuck_off: float = 0.0  # share of the cells that always conduct least
    read_noise: bool = False  # of phase-change cells, drawn at each conversion
    wire: float = 0.0  # one segment of a column's wire: its resistance times the full conductance
    word_wire: float = 0.0  # the same of a word line, which is as long as a crossbar has columns
    nonlinearity: float = 0.0  # a: the current at a share v of the voltage is sinh(a v) / sinh(a)

    def __post_init__(self):
        if self.programming not in (None, *PROGRAMMING):
            known = ", ".join(PROGRAMMING)
            raise UnusableInput(f"programming is {self.programming!r}: one of {known} needed")
        if not self.on_off > 1:
            raise UnusableInput(f"on_off is {self.on_off}: more than 1 needed")
        numbers = "sigma", "seconds", "stuck_on", "stuck_off", "wire", "word_wire", "nonlinearity"
        for name in numbers:
            value = getattr(self, name)
            if not 0 <= value < inf:
                raise UnusableInput(f"{name} is {value}: a number from 0 needed")
        if self.nonlinearity > 80:
            raise UnusableInput(
                f"nonlinearity is {self.nonlinearity}: at most 80 needed, float32 has no such sinh"
            )
        if self.sigma and self.programming not in (INDEPENDENT, PROPORTIONAL):
            raise UnusableInput(
                f"sigma is {self.sigma}, programming {self.programming!r}: only an error that is "
                f"{INDEPENDENT} or {PROPORTIONAL} has one"
            )
        if self.seconds and not self.measured:
            raise UnusableInput(f"seconds is {self.seconds}: only {PCM} and {RRAM} cells age")
        if self.stuck_on + self.stuck_off > 1:
            raise UnusableInput("stuck_on and stuck_off together pass 1")
        if self.programming == RRAM and self.seconds not in (0, 1, DAY):
            raise UnusableInput(
                f"seconds is {self.seconds}: RRAM was measured at 1 and {DAY:.0f} seconds"
            )

    @property
    def exact(self) -> bool:
        """Whether a cell holds just what it was given, and its current says so."""
        return (
            self
            == Device(
                self.programming,
                bounded=self.bounded,
                seconds=self.seconds,
                corrected=self.corrected,
            )
            and not self.measured
        )

    @property
    def measured(self) -> bool:
        """Whether its errors are a device's, so that ``sigma`` says nothing."""
        return self.programming in (PCM, RRAM)

    def base(self, levels: int) -> float:
        """The least conductance, in levels."""
        return levels / (self.on_off - 1)


def polynomial(x: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    """``coefficients``, the constant first, at ``x``."""
    return np.polynomial.polynomial.polyval(x, coefficients)


def programming_sigma(cells: np.ndarray, full: float, device: Device) -> np.ndarray:
    """Standard deviation of what a cell holds after programming, in levels.

    Args:
        cells: targets in levels, ``base`` included.
        full: the greatest conductance in levels.
    """
    if device.programming == INDEPENDENT:
        return np.full_like(cells, device.sigma * full * (1 - 1 / device.on_off))
    if device.programming == PROPORTIONAL:
        return np.float32(device.sigma) * cells
    if device.programming == PCM:
        return full / _PCM_FULL * np.maximum(polynomial(cells / full, _PCM), 0)
    at = _RRAM_DAY if device.seconds == DAY else _RRAM
    return full / _RRAM_FULL * np.maximum(polynomial(cells / full, at), 0)


def drifted(
    cells: np.ndarray, targets: np.ndarray, full: float, device: Device, rng: np.random.Generator
) -> np.ndarray:
    """Phase-change cells after a time: g * (t / t0)**-nu, with nu drawn for each cell.

    nu is Gaussian; its mean and its deviation depend on the conductance that the cell was to have
    (AIHWKIT 1.1.0).
    """
    shares = np.log(np.maximum(targets / full, 1e-7))
    mean = np.clip(-0.0155 * shares + 0.0244, 0.049, 0.1)
    deviation = np.clip(-0.0125 * shares - 0.0059, 0.008, 0.045)
    nu = np.abs(mean + deviation * rng.standard_normal(cells.shape, np.float32))
    return cells * (1 + device.seconds / PCM_START) ** -nu


def read_variance(start: np.ndarray, cells: np.ndarray, full: float, device: Device) -> np.ndarray:
    """Variance of one read of a phase-change cell, in levels squared (AIHWKIT 1.1.0).

    Theirs is 1/f noise, which later reads share in part; here every conversion draws it anew.

    Args:
        start, cells: what cells held just after programming, and hold now.
    """
    shares = np.maximum(start / full, 1e-7)
    q = np.minimum(0.0088 / shares**0.65, 0.2)
    seconds = device.seconds + PCM_START
    return (cells * q) ** 2 * log((seconds + PCM_READ) / (2 * PCM_READ))


def through_wire(cells: np.ndarray, full: float, wire: float) -> np.ndarray:
    """The conductances that a column seems to have when its wire is a resistor between cells.

    Row 0 is farthest from the converter, which holds its end at 0 V; a word line that is off is
    held at 0 V too, so its cell still drains the wire. Seen from the far end, the wire up to a cell
    is a current source with a conductance beside it; a segment divides both by
    1 + resistance * conductance. What a cell adds is divided by every segment after it, whatever
    the inputs are: the array stays linear, with other numbers.

    Args:
        cells: (..., rows), in levels.
        full: the greatest conductance in levels.
        wire: resistance of a segment times the greatest conductance.
    """
    rows = cells.shape[-1]
    divided = np.empty(cells.shape, np.float64)
    beside = np.zeros(cells.shape[:-1])
    for k in range(rows):
        beside = beside + cells[..., k] / full
        divided[..., k] = 1 / (1 + wire * beside)
        beside = beside * divided[..., k]
    passed = np.cumprod(divided[..., ::-1], axis=-1)[..., ::-1]
    return (cells * passed).astype(np.float32)


def stuck(
    cells: np.ndarray, drawn: np.ndarray, base: float, full: float, device: Device
) -> np.ndarray:
    """Cells of which some conduct least and some fully, whatever they were given.

    Args:
        drawn: uniform in 0 ... 1, one number for each cell.
    """
    cells = np.where(drawn < device.stuck_off, np.float32(base), cells)
    return np.where(drawn >= 1 - device.stuck_on, np.float32(full), cells)


def programmed(
    targets: np.ndarray, levels: int, device: Device, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What cells hold just after programming, and now.

    Args:
        targets: 0 ... levels, any shape.
        rng: where the errors of this chip come from.

    Returns:
        two float32 arrays in levels, ``base`` included; the same one where nothing drifts.
    """
    base = device.base(levels)
    full = levels + base
    wanted = cells = targets.astype(np.float32) + np.float32(base)
    if device.programming and (device.measured or device.sigma):
        sigma = programming_sigma(cells, full, device)
        cells = cells + rng.standard_normal(cells.shape, np.float32) * np.float32(sigma)
        if device.bounded:
            cells = np.maximum(cells, 0)
    start = cells
    if device.programming == PCM and device.seconds:
        cells = drifted(cells, wanted, full, device, rng).astype(np.float32)
    if device.stuck_on or device.stuck_off:
        drawn = rng.random(cells.shape, np.float32)
        still = start is cells
        cells = stuck(cells, drawn, base, full, device)
        start = cells if still else stuck(start, drawn, base, full, device)
    return start, cells


def voltages(digits: np.ndarray, greatest: int, device: Device) -> np.ndarray:
    """Inputs as the cells' currents answer them: unchanged when the cells are linear.

    Args:
        digits: float, 0 ... greatest, as amplitudes.
    """
    a = device.nonlinearity
    if a < 1e-6 or greatest == 1:  # below that the curve is a line in float32
        return digits
    return (np.sinh(digits * (a / greatest)) * (greatest / sinh(a))).astype(digits.dtype)
