"""Hold the analog arrays against two simulators of others: CrossSim and AIHWKIT.

    git clone https://github.com/sandialabs/cross-sim     # 3.2.0; needs SciPy
    python -m pip install scipy numba aihwkit==1.1.0 torch==2.13.0
    python scripts/simulators.py --crosssim cross-sim

Writes models/simulators.json, which chapter 9 quotes. The same layers, on the inputs that the
package's images give them, through ours and theirs at the same settings. Where the models are the
same, so must the numbers be; where they are not, the record says what is added to ours, or put in
its place, to make them the same. What is drawn is given to both, and drawn by each for itself.
Some ten minutes on one free core.
"""

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one thread for each simulator

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from qlinear.files import check_file, write_text
from qlinear.hardware import analog, devices, wires
from qlinear.hardware.analog import OFFSET, PAIR, PULSE_WIDTH, Array
from qlinear.hardware.converters import Converter, convert
from qlinear.hardware.devices import DAY, INDEPENDENT, PCM, PROPORTIONAL, Device
from study import quantize
from study.others import (
    FULL_OHMS,
    IMAGES,
    LAYERS,
    ON_OFF,
    PCM_OHMS,
    Layer,
    chip,
    conductances,
    crosssim,
    crosssim_fit,
    found_simulators,
    layers_of,
    read,
    tiles_of_aihwkit,
)
from study.provenance import recorded

CHIPS = 20
TURNS = 15
POSITIONS = 16  # of the first image, where each takes both simulators long
WIRE_OHMS = 0.5
ONE_DIGIT = dict(dac_bits=8, coding=PULSE_WIDTH)


# --- cells that were made elsewhere -----------------------------------------------------------


def from_cells(tiles: list[np.ndarray], layer: Layer, array: Array) -> np.ndarray:
    """Our accumulators, float64 (M, positions), from cells that were made elsewhere.

    Args:
        tiles: as :func:`conductances` returns them.
    """
    perfect = replace(array, device=Device(on_off=array.device.on_off))
    levels = analog.mapped(layer.rows, perfect).levels
    full = levels + array.device.base(levels)
    inputs = analog.fed(layer.columns, array).astype(np.float64)
    total = np.zeros((len(layer.rows), layer.columns.shape[2]))
    programmed = analog.programmed(layer.rows, layer.tiled(perfect))
    for tile, cells in zip(programmed, tiles, strict=True):
        held = cells * full
        tile = replace(tile, held=held[0] - held[1] if array.signed else held[0])
        counts = analog.counts_of(tile, inputs[:, tile.rows], array, None)
        codes, step = convert(counts, array.adc, tile.greatest, array.signed)
        codes = analog.combined(codes, array)[0]
        for line, worth in enumerate(tile.worth):
            total += step * worth[:, None] * codes[line]
        sums = layer.columns[0, tile.rows].sum(axis=0, dtype=np.float64)
        total += tile.per_input[:, None] * sums
    return total


def through(tiles: list[np.ndarray], device: Device) -> list[np.ndarray]:
    """Cells as they seem behind wires, each line and side in a crossbar of its own."""
    found = []
    for cells in tiles:
        lines = cells.reshape(-1, *cells.shape[2:])
        behind = [wires.seen(line, 1.0, device.wire, device.word_wire) for line in lines]
        found.append(np.stack(behind).reshape(cells.shape))
    return found


# --- what is measured -------------------------------------------------------------------------


def mean(errors: np.ndarray) -> float:
    return round(float(errors.mean()), 3)


def largest(differences: np.ndarray) -> float:
    """The greatest magnitude, to two digits."""
    return float(f"{np.abs(differences).max():.1e}")


def exact(layers: list[Layer]) -> list[dict]:
    """Elements that differ from the exact accumulators, with perfect cells and converters."""
    rows = []
    settings = itertools.product(layers, (OFFSET, PAIR), (2, 8), (float("inf"), ON_OFF))
    for layer, mapping, cell_bits, on_off in tqdm(list(settings), "exact", unit="setting"):
        array = Array(mapping=mapping, cell_bits=cell_bits, device=Device(on_off=on_off))
        theirs = np.rint(read(chip(layer, array), layer, array))
        row = dict(layer=layer.name, mapping=mapping, cell_bits=cell_bits, elements=theirs.size)
        row["on_off"] = None if on_off == float("inf") else on_off
        row["crosssim"] = int((theirs != layer.exact).sum())
        row["ours"] = int((layer.ours(array) != layer.exact).sum())
        if mapping == PAIR and cell_bits == 8 and row["on_off"] is None:
            row["aihwkit"] = int((np.rint(tiles_of_aihwkit(layer)(layer)) != layer.exact).sum())
        rows.append(row)
    return rows


def clipped(mapping: str, bits: int) -> Array:
    """Slices of 2 bits, inputs bit by bit, and converters with a step of one count."""
    top = Converter(bits).codes(mapping == PAIR)[1]
    return Array(mapping=mapping, adc=Converter(bits, top=float(top)))


def converters(layers: list[Layer]) -> list[dict]:
    """Elements in which ours and theirs differ, and which the converters change."""
    rows = []
    settings = itertools.product(layers, (OFFSET, PAIR), (9, 6, 5))
    for layer, mapping, bits in tqdm(list(settings), "converters", unit="setting"):
        array = clipped(mapping, bits)
        ours, theirs = layer.ours(array), read(chip(layer, array), layer, array)
        rows.append(
            dict(
                layer=layer.name,
                mapping=mapping,
                bits=bits,
                elements=ours.size,
                changed=int((ours != layer.exact).sum()),
                differing=int((ours != np.rint(theirs)).sum()),
            )
        )
    return rows


class Drawn:
    """In place of a random generator: standard normal numbers that were drawn before."""

    def __init__(self, *draws: np.ndarray):
        self.draws = list(draws)

    def standard_normal(self, shape: tuple, dtype: type) -> np.ndarray:
        return self.draws.pop(0).reshape(shape).astype(dtype)


def same_draws(error: str, sigma: float) -> float:
    """Greatest difference of cells that ours and CrossSim's program from the same draws, 0 ... 1.

    Of phase-change cells CrossSim fits the same figure by another polynomial; it is put into ours.
    """
    from simulator.devices.device import Device as Theirs

    levels = 255
    targets = np.repeat(np.arange(levels + 1), 100)
    on_off = ON_OFF if error == PCM else float("inf")
    array = Array(mapping=OFFSET, cell_bits=8, device=Device(error, sigma=sigma, on_off=on_off))
    made = Theirs.create_device(crosssim(array, PCM_OHMS).xbar.device)
    base = array.device.base(levels)
    np.random.seed(0)  # CrossSim draws from NumPy's global generator
    theirs = made.programming_error((targets + base) / (levels + base))
    drawn = Drawn(np.random.RandomState(0).standard_normal(targets.shape))
    fit = crosssim_fit() if error == PCM else devices._PCM
    with mock.patch.object(devices, "_PCM", fit):
        ours, _ = devices.programmed(targets, levels, array.device, drawn)
    return largest(ours / (levels + base) - theirs)


def summary(errors: list[np.ndarray]) -> dict:
    """Mean and deviation over each chip's accumulators: over the chips, with standard errors."""
    found = {}
    for name, values in (("mean", [e.mean() for e in errors]), ("std", [e.std() for e in errors])):
        found[name] = round(float(np.mean(values)), 2)
        found[f"{name}_error"] = round(float(np.std(values, ddof=1) / len(values) ** 0.5), 2)
    return found


def cells(layer: Layer) -> list[dict]:
    """Programming errors: the same draws, theirs read by ours, and chips of each."""
    rows = []
    settings = itertools.product(((INDEPENDENT, 0.05), (PROPORTIONAL, 0.05), (PCM, 0.0)),
                                 (OFFSET, PAIR))  # fmt: skip
    for (error, sigma), mapping in tqdm(list(settings), "cells", unit="setting"):
        on_off = ON_OFF if error == PCM else float("inf")
        device = Device(error, sigma=sigma, on_off=on_off)
        plain = replace(clipped(mapping, 9), adc=Converter(), device=device)
        row = dict(layer=layer.name, error=error, mapping=mapping, chips=CHIPS)
        row["same_draws"] = same_draws(error, sigma)
        np.random.seed(0)
        narrow = replace(clipped(mapping, 9), device=device)
        core = chip(layer, narrow, ohms=PCM_OHMS)
        theirs = np.rint(read(core, layer, narrow))
        ours = np.rint(from_cells(conductances(core, narrow), layer, narrow))
        row["same_cells"] = int((ours != theirs).sum())
        row["elements"] = ours.size
        row["changed"] = int((ours != layer.exact).sum())
        digit = replace(plain, **ONE_DIGIT)
        found: dict[str, list] = {"ours": [], "crosssim": []}
        if error == PCM:
            found["ours_with_their_fit"] = []
        for seed in range(CHIPS):
            found["ours"].append(layer.ours(replace(digit, seed=seed)) - layer.exact)
            if error == PCM:
                with mock.patch.object(devices, "_PCM", crosssim_fit()):
                    # another seed, since a chip that is known is not programmed again
                    other = layer.ours(replace(digit, seed=CHIPS + seed))
                found["ours_with_their_fit"].append(other - layer.exact)
            np.random.seed(seed)
            core = chip(layer, digit, ohms=PCM_OHMS)
            found["crosssim"].append(read(core, layer, digit) - layer.exact)
        rows.append(row | {name: summary(errors) for name, errors in found.items()})
    return rows


def lines_of_wire(layer: Layer) -> list[dict]:
    """Bit lines and word lines with resistance, and what the layer's accumulators lose by them."""
    part = layer.first(POSITIONS)
    rows = []
    wire = WIRE_OHMS / FULL_OHMS
    kinds = {"bit lines": (wire, 0.0), "word lines": (0.0, wire), "both": (wire, wire)}
    settings = itertools.product((OFFSET, PAIR), (8, 2), kinds.items())
    for mapping, cell_bits, (kind, (along, across)) in tqdm(
        list(settings), "wires", unit="setting"
    ):
        device = Device(on_off=ON_OFF, wire=along, word_wire=across)
        # each line of CrossSim's has a crossbar of its own
        array = Array(columns=len(layer.rows), cell_bits=cell_bits, mapping=mapping, device=device)
        array = replace(array, **ONE_DIGIT)
        core = chip(part, array)
        theirs = read(core, part, array)
        ours = from_cells(through(conductances(core, array), device), part, array)
        library = part.ours(array)
        rows.append(
            dict(
                layer=layer.name,
                mapping=mapping,
                cell_bits=cell_bits,
                wires=kind,
                elements=ours.size,
                crosssim=mean(theirs - part.exact),
                ours=mean(ours - part.exact),
                largest=largest(ours - theirs),
                library=largest(library - theirs),
            )
        )
    return rows


def gated(layer: Layer) -> dict:
    """Cells that a word line at 0 V cuts off, as with a transistor each: CrossSim's other circuit.

    There the current comes from a line beside the bit line; that line is ideal here. Ours solves
    the ladder of the bit lines anew for every bit of every input, without the cells that are off.
    """
    part = layer.first(POSITIONS)
    wire = WIRE_OHMS / FULL_OHMS
    array = Array(cell_bits=8, device=Device(on_off=ON_OFF, wire=wire))
    parameters = crosssim(array)
    parameters.xbar.array.parasitics.current_from_input = False
    parameters.xbar.array.parasitics.selected_rows = "bottom"  # rows not used are far away
    from simulator import AnalogCore

    core = AnalogCore(part.rows + 0.5, parameters)
    theirs = read(core, part, array)
    levels = 255
    full = levels + array.device.base(levels)
    tiles = analog.tile_rows(part.rows.shape[1], array)
    ours = np.zeros(theirs.shape)
    for one, held in zip(tiles, conductances(core, array), strict=True):
        bits = analog.bit_planes(part.columns[0, one])  # (8, rows, positions)
        for place, on in enumerate(bits):
            working = held[0, 0] * on.T[:, None]  # (positions, M, rows)
            behind = devices.through_wire(working, 1.0, wire)
            ours += behind.sum(axis=-1, dtype=np.float64).T * full * 2.0**place
        per_input = 128 + array.device.base(levels)
        ours -= per_input * part.columns[0, one].sum(axis=0)
    always = part.ours(array)
    return dict(
        layer=layer.name,
        elements=ours.size,
        crosssim=mean(theirs - part.exact),
        ours=mean(ours - part.exact),
        largest=largest(ours - theirs),
        not_gated=mean(always - part.exact),
    )


# --- AIHWKIT ----------------------------------------------------------------------------------


def one_conversion(layer: Layer) -> list[dict]:
    """All bits of an input at once, one conversion: AIHWKIT's converter and ours.

    The range holds all counts, and then a quarter of the greatest.
    """
    array = Array(mapping=PAIR, cell_bits=8, **ONE_DIGIT)
    greatest = analog.observed(layer.columns, layer.rows, array)
    rows = []
    for bits, share in itertools.product((8, 6), (1.0, 0.25)):
        top = greatest * share
        codes = 2 ** (bits - 1) - 1

        def settle(config, top=top, codes=codes) -> None:
            from aihwkit.simulator.parameters.enums import BoundManagementType as Bound
            from aihwkit.simulator.parameters.enums import NoiseManagementType as Noise

            forward = config.forward
            forward.is_perfect = False
            forward.noise_management, forward.bound_management = Noise.NONE, Bound.NONE
            forward.inp_bound = forward.inp_res = -1
            forward.inp_noise = forward.out_noise = forward.w_noise = 0.0
            forward.out_bound, forward.out_res = top, 1 / (2 * codes)

        theirs = tiles_of_aihwkit(layer, array, settle=settle)(layer)
        ours = layer.ours(replace(array, adc=Converter(bits, top=top)))
        # ours has a code more, below zero: that of the counts half a step or more under theirs
        under = np.zeros(ours.shape, bool)
        for part in analog.tile_rows(layer.rows.shape[1], array):
            counts = layer.rows[:, part] @ layer.columns[0, part]
            under |= counts <= -top * (codes + 0.5) / codes
        apart = np.abs(ours - theirs) > 1  # both are rounded: theirs in float32
        rows.append(
            dict(
                layer=layer.name,
                bits=bits,
                top=top,
                elements=ours.size,
                changed=int((ours != layer.exact).sum()),
                differing=int(apart.sum()),
                differing_elsewhere=int((apart & ~under).sum()),
            )
        )
    return rows


def same_draws_of_pcm() -> dict:
    """Greatest differences, in µS, of cells that AIHWKIT and ours make from the same draws."""
    import torch
    from aihwkit.inference import PCMLikeNoiseModel
    from aihwkit.inference.noise import pcm

    levels, full = 127, 25.0
    targets = np.repeat(np.arange(levels + 1), 100)
    draws = np.random.default_rng(0).standard_normal((3, targets.size)).astype(np.float32)
    given = iter(draws)
    model = PCMLikeNoiseModel(g_max=full)
    with mock.patch.object(pcm, "randn_like", lambda _: torch.from_numpy(next(given))):
        wanted = torch.from_numpy((targets / levels * full).astype(np.float32))
        made = model.apply_programming_noise_to_conductance(wanted)
        nu = model.generate_drift_coefficients(wanted)
        noisy = model.apply_drift_noise_to_conductance(made, nu, DAY).numpy()
    device = Device(PCM, seconds=DAY)
    start, now = devices.programmed(targets, levels, device, Drawn(draws[0], draws[1]))
    variance = devices.read_variance(start, now, levels, device)
    ours = np.maximum(now + draws[2] * np.sqrt(variance), 0)
    return {
        "programmed": largest(start / levels * full - made.numpy()),
        "after_a_day_and_read": largest(ours / levels * full - noisy),
    }


def in_their_way(layer: Layer, array: Array, seed: int) -> np.ndarray:
    """Our cells, aged and corrected as AIHWKIT does with a tile.

    Once programmed, a pair is its difference: one cell holds it, the other nothing, and that one
    drifts. The correction is the mean magnitude of all differences, then over now.
    """
    device, rng = array.device, np.random.default_rng(seed)
    fresh = replace(device, seconds=0.0)
    total = np.zeros((len(layer.rows), layer.columns.shape[2]))
    for part in analog.tile_rows(layer.rows.shape[1], array):
        targets = np.stack(analog.differential(layer.rows[:, part]))
        start, _ = devices.programmed(targets, 127, fresh, rng)
        pairs = np.stack(analog.differential(start[0] - start[1]))
        if device.seconds:
            pairs = devices.drifted(pairs, targets, 127.0, device, rng)
        weights = pairs[0] - pairs[1]
        if device.corrected:
            weights = weights * (np.abs(start[0] - start[1]).mean() / np.abs(weights).mean())
        total += weights @ layer.columns[0, part]
    return total


def aged(layer: Layer) -> list[dict]:
    """Phase-change pairs after a day, with and without the correction: chips of each."""
    import torch
    from aihwkit.inference import GlobalDriftCompensation

    rows = []
    settings = itertools.product((0.0, DAY), (False, True))
    for seconds, corrected in tqdm(list(settings), "aged", unit="setting"):
        device = Device(PCM, seconds=seconds, corrected=corrected)
        array = Array(mapping=PAIR, cell_bits=8, device=device, **ONE_DIGIT)

        def settle(config, corrected=corrected) -> None:
            config.drift_compensation = GlobalDriftCompensation() if corrected else None

        found: dict[str, list] = {"ours": [], "ours_in_their_way": [], "aihwkit": []}
        for seed in range(CHIPS):
            found["ours"].append(layer.ours(replace(array, seed=seed)))
            found["ours_in_their_way"].append(in_their_way(layer, array, seed))
            torch.manual_seed(seed)
            forward = tiles_of_aihwkit(layer, array, settle=settle)
            for tile in forward.tiles:
                tile.program_analog_weights()
                tile.drift_analog_weights(seconds)
            found["aihwkit"].append(forward(layer))
        row = dict(layer=layer.name, seconds=seconds, corrected=corrected, chips=CHIPS)
        for name, results in found.items():
            row[name] = summary([result - layer.exact for result in results])
            # how much of the exact accumulators is left
            slopes = [float((r * layer.exact).sum() / (layer.exact**2.0).sum()) for r in results]
            row[name]["gain"] = round(float(np.mean(slopes)), 4)
            row[name]["gain_error"] = round(float(np.std(slopes, ddof=1) / CHIPS**0.5), 4)
        rows.append(row)
    return rows


# --- times ------------------------------------------------------------------------------------


def times(layer: Layer) -> list[dict]:
    """How many times as long as ours each takes, by turns in one process, one thread each."""
    exact_array = clipped(OFFSET, 9)
    noisy = replace(exact_array, device=Device(PROPORTIONAL, sigma=0.05))
    once = Array(mapping=PAIR, cell_bits=8, **ONE_DIGIT)
    wired = Array(
        columns=len(layer.rows),
        cell_bits=8,
        device=Device(on_off=ON_OFF, wire=WIRE_OHMS / FULL_OHMS, word_wire=WIRE_OHMS / FULL_OHMS),
        **ONE_DIGIT,
    )
    image = layer.first(layer.columns.shape[2] // IMAGES)
    chips = {name: chip(layer, a) for name, a in (("exact", exact_array), ("noisy", noisy))}
    chips["wired"] = chip(image, wired, error=1e-3)
    tiles = tiles_of_aihwkit(layer)

    def anew() -> np.ndarray:
        analog._programmed.cache_clear()
        return image.ours(wired)

    ways: dict[str, dict[str, Callable]] = {
        "bits and slices, 9-bit converters": {
            "ours": lambda: layer.ours(exact_array),
            "ours, plain": lambda: layer.ours(exact_array, fast=False),
            "CrossSim": lambda: read(chips["exact"], layer, exact_array),
        },
        "the same, cells with 5% proportional error": {
            "ours": lambda: layer.ours(noisy),
            "CrossSim": lambda: read(chips["noisy"], layer, noisy),
        },
        "pairs of one cell, no conversion": {
            "ours": lambda: layer.ours(once),
            "AIHWKIT": lambda: tiles(layer),
        },
        # CrossSim ends by its own default here
        "wires both ways, one cell, one image": {
            "ours": lambda: image.ours(wired),
            "CrossSim": lambda: read(chips["wired"], image, wired),
        },
        "the same, programming included": {
            "ours": anew,
            "CrossSim": lambda: read(chip(image, wired, error=1e-3), image, wired),
        },
    }
    rows = []
    for what, calls in tqdm(ways.items(), "times", unit="way"):
        taken: dict[str, list[float]] = {name: [] for name in calls}
        turns = 5 if any(word in what for word in ("wires", "programming")) else TURNS
        for turn in range(turns + 1):  # the first one warms up
            for name, call in calls.items():
                start = time.process_time()
                call()
                if turn:
                    taken[name].append(time.process_time() - start)
        middle = {name: float(np.median(values)) for name, values in taken.items()}
        ratios = {n: round(t / middle["ours"], 2) for n, t in middle.items() if n != "ours"}
        rows.append(dict(layer=layer.name, what=what, turns=turns, times_ours=ratios))
    return rows


# --- the command ------------------------------------------------------------------------------


def measure(models: Path) -> dict:
    """All of the record but where it comes from."""
    layers = layers_of(models)
    main_layer = layers[0]
    with threadpool_limits(1):
        import torch

        torch.set_num_threads(1)
        return {
            "layers": LAYERS,
            "images": IMAGES,
            "wire_ohms": WIRE_OHMS,
            "full_ohms": FULL_OHMS,
            "wires_on_off": ON_OFF,
            "exact": exact(layers),
            "converters": converters(layers),
            "one_conversion": one_conversion(main_layer),
            "cells": cells(main_layer),
            "crosssim_fit": crosssim_fit(),
            "our_fit": devices._PCM,
            "pcm_same_draws": same_draws_of_pcm(),
            "aged": aged(main_layer),
            "wires": lines_of_wire(main_layer),
            "gated": gated(main_layer),
            "times": times(main_layer),
        }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--crosssim", type=Path, required=True, help="folder of CrossSim's repository"
    )
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the models")
    parser.add_argument("--out", type=Path, help="JSON file (default: simulators.json beside them)")
    args = parser.parse_args(argv)
    out = args.out or args.models / "simulators.json"
    check_file(out)
    simulators = found_simulators(args.crosssim)
    source = recorded("scripts/simulators.py --crosssim DIR", [args.models / quantize.MIXED])
    source["versions"] |= simulators.pop("versions")
    record = {"recorded": source | simulators, **measure(args.models)}
    write_text(out, json.dumps(record, indent=1) + "\n")
    print(f"wrote {out}")
