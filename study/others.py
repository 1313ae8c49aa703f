"""The same layer through other simulators of analog arrays, at the settings of one of ours.

Needs CrossSim (a folder, put on the path by :func:`found_simulators`) and AIHWKIT; see
:mod:`study.simulators`.
"""

import hashlib
import importlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qlinear.engine import arguments, run
from qlinear.errors import UnusableInput
from qlinear.hardware import analog, variants
from qlinear.hardware.analog import OFFSET, PAIR, Array
from qlinear.hardware.devices import INDEPENDENT, PCM, PROPORTIONAL, Device
from qlinear.inputs import load_samples
from qlinear.onnx_model import load
from study import quantize
from study.provenance import sha256

LAYERS = "block3_conv2_quant", "block2_conv1_quant", "block1_conv1_quant"
IMAGES = 4
NEEDED = "scipy", "torch", "aihwkit", "numba"  # the last by our fast sums, whose times are taken
ON_OFF, FULL_OHMS = 100.0, 10e3
PCM_OHMS = 40e3  # 25 µS, which CrossSim's model asks for
ONE_PAIR = Array(mapping=PAIR, cell_bits=8)
# an independent error is a share of the greatest conductance in CrossSim, of the range in ours: the
# same where the least one is 0, as here
ERRORS = {INDEPENDENT: "NormalIndependentDevice", PROPORTIONAL: "NormalProportionalDevice"}
ERRORS |= {PCM: "PCMJoshi"}


@dataclass(frozen=True)
class Layer:
    """What arrays compute of a layer: rows @ columns, all images side by side."""

    name: str
    columns: np.ndarray  # int32 (1, taps, images * positions)
    rows: np.ndarray  # int32 (M, taps)

    @property
    def exact(self) -> np.ndarray:
        return self.rows @ self.columns[0]

    def first(self, positions: int) -> "Layer":
        """The same layer on its first positions."""
        return replace(self, columns=self.columns[:, :, :positions])

    def tiled(self, array: Array) -> Array:
        """The same array, with tiles as CrossSim makes them: equal ones wherever that comes out."""
        taps = self.rows.shape[1]
        return replace(array, balanced=taps % len(analog.tile_rows(taps, array)) == 0)

    def ours(self, array: Array, **options) -> np.ndarray:
        """Accumulators without bias, int32 (M, images * positions)."""
        array = self.tiled(array)
        zero = np.zeros(len(self.rows), np.int32)
        return analog.array_sum(self.columns, self.rows, zero, array, **options)[0]


def layers_of(models: Path) -> list[Layer]:
    """The layers on the package's first images."""
    model = load(models / quantize.MIXED)
    values = run(model, load_samples()[0][:IMAGES].astype(np.float32))
    found = []
    for name in LAYERS:
        node = model.node(name)
        x, *constants = arguments(model, node, values)
        conv = variants.record_of(node.op_type, tuple(constants), node.attributes)
        columns, rows, _ = variants.unsigned_products(x, conv)
        columns = columns.transpose(1, 0, 2).reshape(1, rows.shape[1], -1)
        found.append(Layer(name, np.ascontiguousarray(columns), rows))
    return found


# --- CrossSim ---------------------------------------------------------------------------------


def crosssim(array: Array, ohms: float = FULL_OHMS, error: float = 1e-9):
    """An array in CrossSim's words, for mappings with an offset or pairs.

    Args:
        ohms: least resistance of a cell.
        error: at which CrossSim's iterations end, as a share of the word lines' voltage.

    Raises:
        UnusableInput: CrossSim has no such setting, or we have not found it.
    """
    device, adc = array.device, array.adc
    slices = -(-8 // array.cell_bits)
    if array.mapping not in (OFFSET, PAIR) or device.seconds or slices not in (1, 4):
        raise UnusableInput(f"not for CrossSim: {array}")
    from simulator import CrossSimParameters
    from simulator.parameters import core_parameters as core
    from simulator.parameters.xbar_parameters import ADCRangeLimits

    p = CrossSimParameters()
    offset = array.mapping == OFFSET
    if slices == 1:
        p.core.style = core.CoreStyle.OFFSET if offset else core.CoreStyle.BALANCED
    else:
        p.core.style = core.CoreStyle.BITSLICED
        styles = core.BitSlicedCoreStyle
        p.core.bit_sliced.style = styles.OFFSET if offset else styles.BALANCED
        p.core.bit_sliced.num_slices = slices
        p.core.weight_bits = 8
    p.core.offset.style = core.OffsetCoreStyle.DIGITAL_OFFSET
    p.core.rows_max = array.rows
    weights, inputs = p.core.mapping.weights, p.core.mapping.inputs.mvm
    weights.row_partition_strategy = core.PartitionStrategy.MAX
    weights.col_partition_strategy = core.PartitionStrategy.MAX
    weights.percentile = None
    weights.max = 127.5 if offset and slices == 1 else 127.0  # see _weights
    weights.min = -weights.max
    inputs.min, inputs.max = 0, 255
    dac = p.xbar.dac.mvm
    dac.model, dac.bits, dac.signed = "QuantizerDAC", 8, False
    dac.input_bitslicing = array.dac_bits == 1
    p.xbar.device.Rmin = ohms
    p.xbar.device.infinite_on_off_ratio = device.on_off == float("inf")
    if not p.xbar.device.infinite_on_off_ratio:
        p.xbar.device.Rmax = ohms * device.on_off
    if adc.bits:
        levels = (1 << array.cell_bits) - 1
        full = levels + device.base(levels)  # the counts of a cell that conducts fully
        low, high = adc.codes(array.signed)
        if adc.top != high:
            raise UnusableInput(f"a step of one count is compared; top is {adc.top}")
        p.xbar.adc.mvm.model = "QuantizerADC"  # which puts another record in its place
        p_adc = p.xbar.adc.mvm
        p_adc.bits, p_adc.signed = adc.bits, False
        p_adc.adc_per_ibit = True
        p_adc.adc_range_option = ADCRangeLimits.CALIBRATED
        p_adc.calibrated_range = np.array([[low, high]] * slices) / full
    if device.programming:
        p.xbar.device.programming_error.enable = True
        p.xbar.device.programming_error.model = ERRORS[device.programming]
        p.xbar.device.programming_error.magnitude = device.sigma
    if device.wire or device.word_wire:
        parasitics, simulation = p.xbar.array.parasitics, p.simulation
        parasitics.enable = True
        # 3.2.0 asks bit slices for this and nowhere defines it
        parasitics.__dict__["disable_slices"] = [False] * slices
        parasitics.Rp_col, parasitics.Rp_row = device.wire * ohms, device.word_wire * ohms
        simulation.Verr_th_mvm, simulation.Niters_max_parasitics = error, 1000
        simulation.hide_convergence_msg = True
    return p


def _halved(array: Array) -> bool:
    """Whether weights go in as w + 1/2.

    CrossSim's one-cell offset is the middle of the range, 127.5 of 255 levels; ours is 128.
    """
    return array.mapping == OFFSET and array.cell_bits == 8


def chip(layer: Layer, array: Array, **options):
    """A layer programmed by CrossSim."""
    from simulator import AnalogCore

    weights = layer.rows + 0.5 * _halved(array)
    return AnalogCore(weights, crosssim(array, **options))


def read(core, layer: Layer, array: Array) -> np.ndarray:
    """CrossSim's accumulators, float64 (M, positions)."""
    known = 0.5 * _halved(array) * layer.columns[0].sum(axis=0)
    return core @ layer.columns[0].astype(np.float64) - known


def conductances(core, array: Array) -> list[np.ndarray]:
    """What CrossSim's cells hold, of each tile: float64 (sides, lines, M, rows), full is 1."""
    tiles = []
    for one in core.cores[0]:
        if array.cell_bits < 8:
            sides = zip(*one.core_slices, strict=True)
            tiles.append(np.stack([np.stack([c.matrix for c in side]) for side in sides]))
        elif array.mapping == OFFSET:
            tiles.append(one.core.matrix[None, None])
        else:
            tiles.append(np.stack([one.core_pos.matrix, one.core_neg.matrix])[:, None])
    return tiles


def crosssim_fit() -> tuple[float, ...]:
    """CrossSim's polynomial of a phase-change cell's error, in g / 25 µS, the constant first."""
    array = Array(device=Device(PCM, on_off=ON_OFF))
    from simulator.devices.device import Device as Theirs

    model = Theirs.create_device(crosssim(array, PCM_OHMS).xbar.device)._programming_error_model
    return float(model.C), float(model.B) * 25.0, float(model.A) * 25.0**2


# --- AIHWKIT ----------------------------------------------------------------------------------


def tiles_of_aihwkit(
    layer: Layer,
    array: Array = ONE_PAIR,
    *,
    settle: Callable[[object], None] = lambda config: None,
) -> Callable[[Layer], np.ndarray]:
    """A layer on AIHWKIT's torch tiles, as many as it has on ours; pairs of one cell a side.

    AIHWKIT gives each tile's greatest weight the greatest conductance; here 127 has it, as in ours.

    Args:
        settle: changes the configuration of a tile.

    Returns:
        from a layer, whose columns go in, to float64 accumulators.
    """
    import torch
    from aihwkit.inference import PCMLikeNoiseModel, SinglePairConductanceConverter
    from aihwkit.nn import AnalogLinear
    from aihwkit.simulator.configs import TorchInferenceRPUConfig

    class Pair(SinglePairConductanceConverter):
        def convert_to_conductances(self, weights):
            ratio = self.g_max / 127
            both = [(sign * weights * ratio).clamp(0, self.g_max) for sign in (1, -1)]
            return both, {"scale_ratio": ratio}

    config = TorchInferenceRPUConfig()
    config.forward.is_perfect = True
    config.noise_model = PCMLikeNoiseModel(g_converter=Pair(), read_noise_scale=0.0)
    settle(config)
    parts = analog.tile_rows(layer.rows.shape[1], array)
    tiles = []
    for part in parts:
        tile = AnalogLinear(part.stop - part.start, len(layer.rows), False, config).eval()
        tile.set_weights(torch.from_numpy(layer.rows[:, part].astype(np.float32)))
        tiles.append(tile)

    def through_tiles(given: Layer) -> np.ndarray:
        total = 0.0
        with torch.no_grad():
            for part, tile in zip(parts, tiles, strict=True):
                x = torch.from_numpy(given.columns[0, part].T.astype(np.float32))
                total = total + tile(x).numpy().T.astype(np.float64)
        return total

    through_tiles.tiles = tiles
    return through_tiles


# --- which they are ----------------------------------------------------------------------------


def found_simulators(folder: Path) -> dict:
    """Versions of both simulators, and hashes of what they computed with.

    Raises:
        UnusableInput: one of them, or what it needs, is absent; the message says all that is.
    """
    absent = []
    if not (folder / "simulator" / "cores" / "analog_core.py").is_file():
        absent.append(f"CrossSim in {folder} (name the folder of its repository)")
    for module in NEEDED:
        try:
            importlib.import_module(module)
        except ImportError:
            absent.append(f"{module} (see the head of study/simulators.py)")
    if absent:
        raise UnusableInput(f"absent: {'; '.join(absent)}")
    sys.path.insert(0, str(folder.resolve()))
    modules = {name: importlib.import_module(name) for name in NEEDED}
    versions = {name: str(module.__version__) for name, module in modules.items()}
    versions["crosssim"] = _version(folder)
    hashes = {
        "crosssim": _hash(folder / "simulator"),
        "aihwkit": _hash(Path(modules["aihwkit"].__file__).parent),
    }
    return {"versions": versions, "sources": hashes} | _commit(folder)


def _version(folder: Path) -> str:
    """The version that CrossSim's own pyproject.toml states."""
    try:
        lines = (folder / "pyproject.toml").read_text().splitlines()
    except OSError:
        lines = []
    return next((v.split('"')[1] for v in lines if v.startswith("version")), "unknown")


def _hash(folder: Path) -> str:
    """SHA-256 over all Python files of a folder, in the order of their paths."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0")
        digest.update(sha256(path.read_bytes()).encode())
    return digest.hexdigest()


def _commit(folder: Path) -> dict:
    git = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"crosssim_commit": found}
