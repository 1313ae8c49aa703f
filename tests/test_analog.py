"""Analog arrays: exact where they are ideal, and wrong as their models say where they are not."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product
from math import sqrt
from statistics import NormalDist, mean, stdev

import numpy as np
import pytest
from conftest import MODELS, needs

from qlinear.engine import compute, run
from qlinear.errors import UnusableInput
from qlinear.hardware import (
    analog,
    converters,
    cost,
    designs,
    devices,
    draws,
    fused,
    packed,
    variants,
)
from qlinear.hardware.analog import AMPLITUDE, FLIPPED, MAPPINGS, OFFSET, PAIR, PULSE_WIDTH, Array
from qlinear.hardware.converters import Converter
from qlinear.hardware.devices import DAY, INDEPENDENT, PCM, PROPORTIONAL, RRAM, Device
from qlinear.hardware.draws import Reads
from qlinear.inputs import load_samples
from qlinear.operators import qlinear_conv as qc
from study import analog as study_of_arrays

PIXELS = load_samples()[0][:2].astype(np.float32)
BOOK = Array(adc=Converter(bits=9))  # chapter 9's


@pytest.fixture(params=["plain", "packed"])
def fast(request) -> bool:
    if request.param == "packed":
        needs(packed.numba is not None, "numba")
    return request.param == "packed"


def layer(rng: np.random.Generator, M: int = 16, taps: int = 144, positions: int = 12):
    """Random inputs, half of them 0 as after a ReLU, weights with both ends, and biases."""
    columns = rng.integers(0, 256, (2, taps, positions)) * rng.integers(0, 2, (2, taps, positions))
    rows = rng.integers(-128, 128, (M, taps)).astype(np.int32)
    rows[0, :2] = -128, 127
    return columns.astype(np.int32), rows, rng.integers(-999, 999, M).astype(np.int32)


def error(columns, rows, array: Array, seeds: int = 3) -> np.ndarray:
    """Accumulators minus the exact ones, of several chips."""
    zero = np.zeros(len(rows), np.int32)
    chips = [replace(array, seed=seed) for seed in range(seeds)]
    rng = np.random.default_rng(0)
    sums = [analog.array_sum(columns, rows, zero, chip, rng) for chip in chips]
    return np.stack(sums) - rows @ columns


# --- exact ------------------------------------------------------------------------------------


def differing(model, values, array: Array, fast: bool = False, images: int = 2) -> int:
    """Elements of all tensors of the network that are not ONNX Runtime's."""
    summation = partial(analog.array_sum, array=array, rng=np.random.default_rng(0), fast=fast)
    ours = run(model, PIXELS[:images], variants.operators_with(summation=summation))
    names = [node.outputs[0] for node in model.nodes]
    assert all(ours[name].shape == values[name][:images].shape for name in names)
    return sum(int((ours[name] != values[name][:images]).sum()) for name in names)


@pytest.mark.parametrize("name", designs.DESIGNS)
def test_every_design_is_onnxruntime_when_it_is_ideal(model, values, name, fast):
    assert differing(model, values, analog.ideal(designs.DESIGNS[name]), fast) == 0


def test_which_converters_lose_nothing(model, values, fast):
    exact = [
        BOOK,
        designs.ISAAC,  # 8 bits are enough since lines are flipped
        replace(BOOK, rows=64, cell_bits=1, adc=Converter(bits=7)),
        # Jia et al. 2020: with at most 255 rows on, 8 bits tell all counts apart
        replace(designs.SRAM, rows=255, adc=Converter(bits=8)),
    ]
    lossy = [
        replace(BOOK, adc=Converter(bits=8)),
        replace(designs.ISAAC, adc=Converter(bits=7)),
        designs.SRAM,
        designs.PRIME,
    ]
    for array, right in [(a, True) for a in exact] + [(a, False) for a in lossy]:
        assert (differing(model, values, array, fast, images=1) == 0) == right


def test_every_mapping_and_input_is_exact(fast):
    columns, rows, bias = layer(np.random.default_rng(0))
    wanted = rows @ columns + bias[:, None]
    inputs = product((1, 3, 8), (AMPLITUDE, PULSE_WIDTH), (False, True), (False, True), (50, 128))
    for mapping, cell_bits in product(MAPPINGS, (1, 2, 3, 8)):
        if mapping == analog.TWOS_COMPLEMENT and cell_bits > 1:
            continue
        inputs = product((1, 3, 8), (AMPLITUDE, PULSE_WIDTH), (False, True), (50, 128))
        for dac_bits, coding, accumulate, height in inputs:
            array = Array(
                rows=height,
                cell_bits=cell_bits,
                mapping=mapping,
                balanced=height == 50,
                dac_bits=dac_bits,
                coding=coding,
                accumulate=accumulate,
            )
            found = analog.array_sum(columns, rows, bias, array, fast=fast)
            assert (found == wanted).all(), array


def form_of(array: Array, rows: np.ndarray) -> str:
    """Which form :func:`analog.fast_totals` takes."""
    tiles = analog.programmed(rows, array)
    kind = analog.precision(tiles, array)
    if fused.linear(array):
        return "folded"
    if packed.fits(array, tiles, kind):
        return "packed"
    return "fused" if fused.fits(array, kind) else "plain"


def test_every_form_is_the_plain_form():
    """The same accumulators, noise included, also one image at a time."""
    needs(packed.numba is not None, "numba")
    columns, rows, bias = layer(np.random.default_rng(1), M=5, taps=200, positions=7)
    exact, found, lossy = rows @ columns + bias[:, None], Counter(), 0
    cells = (
        Device(),
        Device(PCM, on_off=100, read_noise=True),
        Device(RRAM, nonlinearity=1.0),
        Device(on_off=100, wire=5e-5),
    )
    adcs = (
        Converter(),
        Converter(5),
        Converter(9, noise=0.5),
        Converter(8, top=90.0, below=1, noise=0.25),
        Converter(noise=0.3),
        Converter(8, gain=0.1),
    )
    every = list(product(MAPPINGS, (1, 3, 8), (False, True), cells, adcs))
    for mapping, dac_bits, accumulate, device, adc in every[
        ::5
    ]:  # 5 divides none of the inner counts
        cell_bits = 1 if mapping == analog.TWOS_COMPLEMENT else 2
        shape = dict(mapping=mapping, cell_bits=cell_bits, dac_bits=dac_bits)
        array = Array(accumulate=accumulate, device=device, adc=adc, **shape)
        reads = Reads(seed=3, first=7)
        plain, fast = (
            analog.array_sum(columns, rows, bias, array, reads, fast=f) for f in (False, True)
        )
        assert (plain == fast).all(), array
        later = analog.array_sum(columns[1:], rows, bias, array, replace(reads, first=8))
        assert (later == fast[1:]).all(), array
        found[form_of(array, rows)] += 1
        lossy += (plain != exact).any()
    assert min(found[form] for form in ("folded", "packed", "fused", "plain")) >= 5, found
    assert lossy > 70  # not the exact ones alone


def test_the_folded_product_is_within_float64_of_the_plain_form():
    """Both round at the end; what they round differs at most in the last bits, by order of sums."""
    columns, rows, _ = layer(np.random.default_rng(16), taps=576)
    for mapping in MAPPINGS:
        cell_bits = 1 if mapping == analog.TWOS_COMPLEMENT else 2
        aged = Device(PCM, on_off=100, seconds=DAY)  # the correction is a factor of many digits
        array = Array(mapping=mapping, cell_bits=cell_bits, device=aged)
        tiles = analog.programmed(rows, array)
        plain = analog.totals(columns, tiles, array, None) + analog.known(columns, tiles)
        whole = fused.folded(columns, tiles, array, analog.fed_values(array))
        assert 0 < np.abs(plain - whole).max() < 1e-6  # of sums of up to 2**22


def test_threads_change_no_number(model):
    needs(packed.numba is not None, "numba")
    node = model.node("block3_conv2_quant")
    rows = model.conv(node).w.reshape(64, -1).astype(np.int32)
    columns, bias = np.random.default_rng(17).integers(0, 256, (6, 576, 9)), np.zeros(64, np.int32)
    noisy = replace(BOOK, adc=Converter(9, noise=0.5))
    whole = analog.array_sum(columns, rows, bias, noisy, Reads(1))
    with ThreadPoolExecutor(3) as pool:
        parts = pool.map(
            lambda n: analog.array_sum(columns[n : n + 2], rows, bias, noisy, Reads(1, n)),
            (4, 0, 2),
        )
        last, first, middle = parts
    assert (np.concatenate([first, middle, last]) == whole).all()


def test_without_numba_the_plain_form_runs(monkeypatch):
    columns, rows, bias = layer(np.random.default_rng(2))
    noisy = replace(BOOK, adc=Converter(9, noise=0.5))
    before = [analog.array_sum(columns, rows, bias, a, Reads(0)) for a in (BOOK, noisy)]
    monkeypatch.setattr(packed, "numba", None)
    assert form_of(BOOK, rows) == form_of(noisy, rows) == "plain"
    after = [analog.array_sum(columns, rows, bias, a, Reads(0)) for a in (BOOK, noisy)]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_which_form_is_taken():
    needs(packed.numba is not None, "numba")
    _, rows, _ = layer(np.random.default_rng(2))
    for array, form in (
        (BOOK, "packed"),
        (replace(BOOK, adc=Converter(9, noise=0.1)), "packed"),
        (replace(BOOK, device=Device(PCM)), "fused"),
        (replace(BOOK, device=Device(on_off=10)), "fused"),
        (replace(BOOK, accumulate=True), "fused"),
        (replace(BOOK, dac_bits=8), "fused"),  # products are faster there
        (replace(BOOK, adc=Converter(9, gain=0.1)), "plain"),
        (Array(device=Device(PCM)), "folded"),
        (Array(adc=Converter(noise=0.1)), "plain"),
        (replace(BOOK, adc=Converter(17, noise=1e9)), "plain"),  # codes past what float32 adds
        (replace(BOOK, adc=Converter(16, noise=1e9)), "packed"),
    ):
        assert form_of(array, rows) == form, array


# --- noise ------------------------------------------------------------------------------------


def drawn(
    key: tuple[int, int], image: int, position: int, positions: int, begin: int, columns: int
):
    """Draws of one position's columns, in Python's integers."""

    def mixed(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    golden, table = 0x9E3779B97F4A7C15, draws.table()
    place = (key[1] + image) * positions + position
    start = mixed((key[0] + (place + 1) * golden) % 2**64)
    half = (columns + 1) // 2
    words = [mixed((start + (begin + k + 1) * golden) % 2**64) for k in range(half)]
    words = [*words, *(word >> 32 for word in words)][:columns]
    return np.array([table[w % 4096] + table[(w >> 12) % 4096] for w in words])


def test_draws_are_those_of_their_definition():
    # the first number of SplitMix64 from seed 0, as its author publishes it
    assert draws.mixed(np.array([draws.GOLDEN], np.uint64))[0] == 0xE220A8397B1DCDAF
    key = draws.key_of(Reads(5, first=3), 99)
    found = draws.normals(draws.bases(key, 2, 4), begin=6, columns=7)
    assert found.dtype == np.float32 and found.shape == (2, 7, 4)
    for image, position in product(range(2), range(4)):
        assert (found[image, :, position] == drawn(key, image, position, 4, 6, 7)).all()


def test_draws_are_gaussian():
    normal, table = NormalDist(), draws.table().astype(np.float64)
    # of all 2**24 pairs of entries, so no sample decides
    for z in np.linspace(-5, 5, 401):
        share = np.searchsorted(table, z - table, side="right").mean() / draws.ENTRIES
        assert abs(share - normal.cdf(z)) < 2e-4
        if -4.5 <= z < 0:
            near = 0.01 if z >= -3.5 else 0.05 if z >= -4 else 0.2
            assert abs(share / normal.cdf(z) - 1) < near, z
    assert 2 * np.mean(table**2) == pytest.approx(1, abs=1e-7)
    fourth = 2 * np.mean(table**4) + 6 * np.mean(table**2) ** 2
    assert fourth == pytest.approx(3, abs=0.0005)
    assert 5.3 < 2 * table.max() < 5.4


def test_draws_do_not_depend_on_each_other():
    keys = [draws.key_of(Reads(seed), layer) for seed, layer in product(range(2), range(2))]
    found = np.stack(
        [draws.normals(draws.bases(key, 20, 50), begin, 50) for key in keys for begin in (0, 25)]
    )  # (8, images, columns, positions)
    assert found.size == 400_000
    assert abs(found.mean()) < 4 / np.sqrt(found.size)
    assert abs(found.std() - 1) < 4 / np.sqrt(2 * found.size)
    counts = np.bincount((np.vectorize(NormalDist().cdf)(found[0]) * 20).astype(int).ravel())
    expected = found[0].size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 45  # chi squared, 19 degrees: p = 0.0007
    for axis in range(4):
        for lag in (1, 2):
            a = np.take(found, range(found.shape[axis] - lag), axis)
            b = np.take(found, range(lag, found.shape[axis]), axis)
            for one, other in ((a, b), (a**2, b**2)):
                r = np.corrcoef(one.ravel(), other.ravel())[0, 1]
                assert abs(r) < 4.5 / np.sqrt(a.size), (axis, lag)
    low, high = found[:, :, :25], found[:, :, 25:]  # the halves of the same words
    assert abs(np.corrcoef(low.ravel(), high.ravel())[0, 1]) < 4.5 / np.sqrt(low.size)


def test_a_generator_gives_other_noise_at_every_call():
    rng = np.random.default_rng(0)
    assert len({draws.key_of(rng, 0)[0] for _ in range(100)}) == 100
    assert draws.key_of(Reads(1), 0) == draws.key_of(Reads(1), 0) != draws.key_of(Reads(2), 0)
    assert draws.key_of(Reads(1), 0)[0] != draws.key_of(Reads(1), 1)[0]


# --- mapping ----------------------------------------------------------------------------------


def test_signed_weights_on_arrays():
    w = np.random.default_rng(0).integers(-128, 128, (4, 9))
    plus, minus = analog.differential(w)
    assert (plus - minus == w).all() and plus.min() >= 0 and minus.min() >= 0
    for cell_bits in (1, 2, 4):
        parts = analog.cell_slices(w, cell_bits)
        whole = sum(p * 2 ** (cell_bits * s) for s, p in enumerate(parts))
        assert (whole - 128 == w).all() and parts.max() < 2**cell_bits
    with pytest.raises(UnusableInput, match=r"columns lie in -1 \.\.\. -1.*feed x minus"):
        analog.array_sum(np.full((1, 9, 1), -1), w, np.zeros(4, np.int32), Array())
    with pytest.raises(UnusableInput, match=r"weights lie in .* \.\.\. 200, cells take"):
        analog.array_sum(np.ones((1, 9, 1), int), w + 200 - w.max(), np.zeros(4, np.int32), Array())


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_cells_and_their_worth_are_the_weight(mapping):
    _, rows, _ = layer(np.random.default_rng(3))
    array = Array(mapping=mapping, cell_bits=1 if mapping == analog.TWOS_COMPLEMENT else 3)
    lines = analog.mapped(rows, array)
    # with all inputs 1 in one tap, the count is the cell, and the digital side adds its part
    for t, tile in enumerate(analog.tile_rows(rows.shape[1], array)):
        part = lines.cells[:, :, tile] * lines.worth[:, :, t, None]
        assert (part.sum(axis=0) + lines.per_input[:, t, None] == rows[:, tile]).all()
    single = analog.sides(lines, array)
    assert single.min() == 0
    assert single.max() <= lines.levels


def test_a_flipped_line_is_at_most_half_full():
    _, rows, _ = layer(np.random.default_rng(4))
    for mapping, half in ((OFFSET, False), (FLIPPED, True)):
        array = Array(mapping=mapping)
        lines = analog.mapped(rows, array)
        sums = [lines.cells[:, :, t].sum(axis=2) for t in analog.tile_rows(rows.shape[1], array)]
        heights = [t.stop - t.start for t in analog.tile_rows(rows.shape[1], array)]
        over = [(2 * s > h * lines.levels).any() for s, h in zip(sums, heights, strict=True)]
        assert any(over) != half
        greatest = [tile.greatest for tile in analog.programmed(rows, array)]
        share = 2 if half else 1
        assert greatest == [h * 3 // share for h in heights]


def by_hand(x: list[int], w: list[int], mapping: str, height: int, bits: int) -> int:
    """One output from digits of 3 bits and cells of 2 (in two's complement of 1)."""
    total = 0.0
    for start in range(0, len(x), height):
        xs, ws = x[start : start + height], w[start : start + height]
        lines, greatest, low = [], 3 * 7 * len(xs), 0
        for s in (0, 2, 4, 6):
            if mapping == PAIR:
                lines.append(([(abs(v) >> s & 3) * (1 if v > 0 else -1) for v in ws], 2**s))
            else:
                cells = [v + 128 >> s & 3 for v in ws]
                total -= 128 * sum(xs) / 4
                if mapping == FLIPPED and 2 * sum(cells) > 3 * len(cells):
                    total += 3 * sum(xs) * 2**s
                    lines.append(([3 - c for c in cells], -(2**s)))
                else:
                    lines.append((cells, 2**s))
        if mapping == FLIPPED:
            greatest = len(xs) * 3 // 2 * 7
        if mapping == PAIR:
            low = -(2 ** (bits - 1))
        if mapping == analog.TWOS_COMPLEMENT:
            lines = [([v >> s & 1 for v in ws], 2**s if s < 7 else -128) for s in range(8)]
            total += 128 * sum(xs)
            greatest = 7 * len(xs)
        high = low + 2**bits - 1
        step = max(1.0, greatest / high)
        for cells, worth in lines:
            for k in (0, 3, 6):
                count = sum((v >> k & 7) * c for v, c in zip(xs, cells, strict=True))
                code = np.rint(np.clip(np.float32(count) / np.float32(step), low, high))
                total += float(code) * step * worth * 2**k
    return round(total)


@pytest.mark.parametrize("mapping", [OFFSET, FLIPPED, PAIR, analog.TWOS_COMPLEMENT])
def test_a_coarse_converter_by_hand(mapping, fast):
    rng = np.random.default_rng(15)
    x, w = rng.integers(0, 256, (1, 11, 5)), rng.integers(-127, 128, (6, 11)).astype(np.int32)
    cell_bits = 1 if mapping == analog.TWOS_COMPLEMENT else 2
    made = dict(rows=4, mapping=mapping, cell_bits=cell_bits, dac_bits=3)
    array = Array(**made, adc=Converter(4))
    found = analog.array_sum(x, w, np.zeros(6, np.int32), array, fast=fast)
    wanted = [
        [by_hand(x[0, :, p].tolist(), row.tolist(), mapping, 4, 4) for p in range(5)] for row in w
    ]
    assert (found[0] == wanted).all()
    assert (found[0] != w @ x[0]).mean() > 0.9


def test_sums_past_32_bits_wrap(fast):
    # as ONNX Runtime's do: 70,000 products of -128 and 255
    columns, rows = np.full((1, 70_000, 1), 255), np.full((1, 70_000), -128, np.int32)
    for mapping in (OFFSET, PAIR):
        array = Array(rows=100_000, mapping=mapping, cell_bits=8, dac_bits=8)
        found = analog.array_sum(columns, rows, np.ones(1, np.int32), array, fast=fast)
        assert found.item() == 2**32 - 70_000 * 128 * 255 + 1 > 0


def test_balanced_tiles_are_nearly_equal():
    heights = [t.stop - t.start for t in analog.tile_rows(576, Array(balanced=True))]
    assert heights == [115, 115, 115, 115, 116]
    heights = [t.stop - t.start for t in analog.tile_rows(576, Array())]
    assert heights == [128, 128, 128, 128, 64]


def test_a_zero_point_that_is_not_the_least(model, values):
    node = model.node("block2_conv1_quant")
    conv = replace(model.conv(node), x_zero_point=np.int8(-17))
    x = values[node.inputs[0]]
    columns, rows, bias = variants.unsigned_products(x, conv)
    assert columns.min() >= 0 and columns.max() <= 255
    acc = analog.array_sum(columns, rows, bias, BOOK)
    assert (acc == qc.stages(x, conv).acc.reshape(acc.shape)).all()


# --- cells ------------------------------------------------------------------------------------


def test_the_settings_of_the_stored_study_are_these_sums():
    """The widths and plain noises of models/analog.json: an offset, slices of 2 bits, bits."""
    columns, rows, bias = layer(np.random.default_rng(5), taps=200)
    rows_of_arrays = 128

    def plainly(adc_bits, clip, read_noise, cell_noise, seed):
        key = int(np.random.default_rng(7).integers(1 << 64, dtype=np.uint64)), 0
        cells = analog.cell_slices(rows, 2)
        crc = analog.zlib.crc32(rows)
        noise = np.random.default_rng([seed, crc]).standard_normal(cells.shape, np.float32)
        cells = cells + noise * np.float32(cell_noise * 3)
        planes = analog.bit_planes(columns).transpose(1, 2, 0, 3).reshape(2, 200, -1)
        total = np.zeros((2, 16, 12))
        for start in range(0, 200, rows_of_arrays):
            tile = slice(start, start + rows_of_arrays)
            counts = cells.reshape(-1, 200)[:, tile] @ planes[:, tile]
            if read_noise:
                noise = [
                    drawn(key, image, p, 12, 32 * (8 * (start > 0) + b), 64)
                    for image, b, p in product(range(2), range(8), range(12))
                ]
                noise = np.stack(noise).reshape(2, 96, 64).swapaxes(1, 2)
                counts += noise * np.float32(read_noise)
            top = 2**adc_bits - 1
            step = max(1.0, (clip or min(rows_of_arrays, 200 - start) * 3) / top)
            codes = np.rint(np.clip(counts / np.float32(step), 0, top)).reshape(2, 4, 16, 8, 12)
            for s, b in product(range(4), range(8)):
                total += codes[:, s, :, b].astype(float) * step * 4**s * 2**b
        total -= 128 * columns.sum(axis=1)[:, None]
        return np.rint(total).astype(np.int32) + bias[:, None]

    settings = [*study_of_arrays.widths(), *study_of_arrays.noises()]
    assert len(settings) == 18
    for seed, (_, setting) in enumerate(settings):
        array = replace(setting.array, seed=seed)
        found = analog.array_sum(columns, rows, bias, array, np.random.default_rng(7))
        adc = array.adc
        assert array.device.programming in (None, INDEPENDENT) and not setting.calibrated
        expected = plainly(adc.bits or 9, adc.top, adc.noise, array.device.sigma, seed)
        assert (found == expected).all(), setting


def test_read_noise_is_drawn_anew_and_cells_stay():
    rng = np.random.default_rng(0)
    columns, rows, bias = layer(rng)
    bias[:] = 0
    read = replace(BOOK, adc=Converter(noise=0.5))
    first, second = (analog.array_sum(columns, rows, bias, read, rng) for _ in range(2))
    assert (first != second).mean() > 0.9
    errors = [(a - rows @ columns).ravel() for a in (first, second)]
    assert not np.corrcoef(*errors)[0, 1] > 0.1
    chip = Array(device=Device(PCM))
    first, second = (analog.array_sum(columns, rows, bias, chip) for _ in range(2))
    assert (first == second).all()
    # the errors of a chip are those of a layer and a seed
    held = [analog.programmed(rows, replace(chip, seed=seed))[0].held for seed in (0, 1)]
    held.append(analog.programmed(rows[::-1], chip)[0].held[:, ::-1])
    assert (held[0] != held[1]).mean() > 0.9 and (held[0] != held[2]).mean() > 0.9
    with pytest.raises(UnusableInput, match="rng is missing"):
        analog.array_sum(columns, rows, bias, read)
    with pytest.raises(UnusableInput, match="rng is missing"):
        analog.array_sum(columns, rows, bias, Array(device=Device(PCM, read_noise=True)))


def deviation(level: int, levels: int, device: Device) -> float:
    """Standard deviation of what 100,000 cells hold, as a share of the greatest conductance."""
    targets = np.full(100_000, level)
    _, cells = devices.programmed(targets, levels, device, np.random.default_rng(0))
    return float(cells.std() / (levels + device.base(levels)))


def test_programming_errors_have_their_size():
    loose = Device(INDEPENDENT, sigma=0.05, bounded=False)
    assert deviation(0, 127, loose) == pytest.approx(0.05, rel=0.02)
    assert deviation(127, 127, loose) == pytest.approx(0.05, rel=0.02)
    # of the range, which a least conductance makes smaller
    assert deviation(9, 127, replace(loose, on_off=4)) == pytest.approx(0.0375, rel=0.02)
    share = Device(PROPORTIONAL, sigma=0.05)
    assert deviation(0, 127, share) == 0
    assert deviation(127, 127, share) == pytest.approx(0.05, rel=0.02)
    # AIHWKIT 1.1.0: 0.2635 µS of 25 at nothing (half of it cannot be), 1.0554 at full
    pcm = Device(PCM)
    assert deviation(127, 127, pcm) == pytest.approx(1.0554 / 25, rel=0.02)
    assert deviation(0, 127, pcm) == pytest.approx(0.2635 / 25 * sqrt(0.5 - 0.5 / np.pi), rel=0.02)
    # AIHWKIT's fit to Wan et al. 2022: 1.103 µS of 40 at full after a second, 2.651 after a day
    assert deviation(127, 127, Device(RRAM)) == pytest.approx(1.103 / 40, rel=0.02)
    assert deviation(127, 127, Device(RRAM, seconds=DAY)) == pytest.approx(2.651 / 40, rel=0.02)


def test_which_mapping_errs_less():
    """Half as many independent errors against an offset, many times less in proportion."""
    rng = np.random.default_rng(6)
    columns, rows, _ = layer(rng)
    rows = np.clip(np.rint(rng.normal(0, 25, rows.shape)), -127, 127).astype(np.int32)
    spread = {
        (kind, mapping): error(columns, rows, Array(mapping=mapping, device=device)).std()
        for mapping in (OFFSET, PAIR)
        for kind, device in (
            ("independent", Device(INDEPENDENT, sigma=0.05)),
            ("proportional", Device(PROPORTIONAL, sigma=0.05)),
            ("pcm", Device(PCM, on_off=100)),
        )
    }
    times = {kind: spread[kind, OFFSET] / spread[kind, PAIR] for kind, _ in spread}
    assert 1.0 < times["independent"] < 1.5
    assert 1.7 < times["pcm"] < 4
    assert times["proportional"] > 4


def test_drift_and_its_correction():
    targets, day = np.full(100_000, 127), Device(PCM, seconds=DAY)
    start, now = devices.programmed(targets, 127, day, np.random.default_rng(0))
    # nu is 0.049 at full conductance, and a day is 4,321 times the 20 seconds of its start
    assert np.log(now / start).mean() == pytest.approx(-0.049 * np.log(1 + DAY / 20), rel=0.01)
    same, still = devices.programmed(targets, 127, Device(PCM), np.random.default_rng(0))
    assert (same == start).all() and (still == start).all()
    columns, rows, _ = layer(np.random.default_rng(7))
    left, corrected = (
        error(columns, rows, Array(mapping=PAIR, device=replace(day, corrected=c)))
        for c in (False, True)
    )
    assert corrected.std() < 0.5 * left.std()


def test_stuck_cells():
    targets = np.random.default_rng(1).integers(0, 4, 100_000)
    device = Device(on_off=4, stuck_on=0.2, stuck_off=0.3)
    start, cells = devices.programmed(targets, 3, device, np.random.default_rng(0))
    assert (start == cells).all()
    base, full = 1, 4
    changed = cells != targets + base
    assert (changed & (cells == full)).mean() == pytest.approx(0.2 * 3 / 4, rel=0.05)
    assert (changed & (cells == base)).mean() == pytest.approx(0.3 * 3 / 4, rel=0.05)
    assert np.isin(cells[changed], [base, full]).all()
    # a stuck cell does not drift
    old = Device(PCM, seconds=DAY, stuck_on=1.0)
    start, cells = devices.programmed(targets, 3, old, np.random.default_rng(0))
    assert (cells == 3).all() and (start == 3).all()


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_least_conductance_is_taken_back(mapping):
    columns, rows, bias = layer(np.random.default_rng(8))
    cell_bits = 1 if mapping == analog.TWOS_COMPLEMENT else 2
    array = Array(mapping=mapping, cell_bits=cell_bits, device=Device(on_off=20))
    found = analog.array_sum(columns, rows, bias, array)
    assert (found == rows @ columns + bias[:, None]).all()


def test_a_small_error_does_not_widen_the_range_of_flipped_lines():
    # 8 bits are ISAAC's because no count passes half; that holds of cells that miss by nothing
    columns, rows, bias = layer(np.random.default_rng(17))
    wanted = rows @ columns + bias[:, None]
    for device in (Device(INDEPENDENT, sigma=1e-9), Device(nonlinearity=1.0), Device(wire=1e-9)):
        array = replace(designs.ISAAC, device=device)
        assert (analog.array_sum(columns, rows, bias, array) == wanted).all()
    # what cells conduct when they hold 0 comes on top
    array = replace(designs.ISAAC, device=Device(on_off=4))
    assert [t.greatest for t in analog.programmed(rows, array)] == [192 + 128, 24 + 16]


def test_cells_without_any_current_are_not_corrected():
    # there is nothing that drift took: not the ratio of two zeros
    columns, rows, bias = layer(np.random.default_rng(16))
    device = Device(PCM, seconds=DAY, stuck_off=1.0)
    found = analog.array_sum(columns, rows, bias, Array(mapping=PAIR, device=device))
    assert (found == bias[:, None]).all()


def kirchhoff(cells: np.ndarray, volts: np.ndarray, wire: float) -> float:
    """The current out of one column, from the voltages at its nodes."""
    count = len(cells)
    matrix, currents = np.diag(cells.astype(float)), cells * volts
    for k in range(count):
        matrix[k, k] += 1 / wire
        if k + 1 < count:  # the last segment ends at 0 V
            matrix[k + 1, k + 1] += 1 / wire
            matrix[k, k + 1] -= 1 / wire
            matrix[k + 1, k] -= 1 / wire
    return np.linalg.solve(matrix, currents)[-1] / wire


def test_a_wire_is_a_ladder_of_resistors():
    rng = np.random.default_rng(9)
    cells, wire = rng.uniform(0, 3, (4, 40)).astype(np.float32), 2e-3
    volts = rng.integers(0, 2, (40, 5))
    seen = devices.through_wire(cells, 3.0, wire) @ volts
    wanted = [[kirchhoff(row / 3, v, wire) * 3 for v in volts.T] for row in cells]
    assert seen == pytest.approx(np.array(wanted), rel=1e-5)
    assert (seen < cells @ volts).all()
    assert (devices.through_wire(cells, 3.0, 0.0) == cells).all()


def test_a_wire_costs_an_offset_more():
    columns, rows, _ = layer(np.random.default_rng(10))
    device = Device(on_off=100, wire=5e-5)
    offset, pair = (
        error(columns, rows, Array(mapping=m, device=device), 1) for m in (OFFSET, PAIR)
    )
    assert abs(offset.mean()) > 20 * abs(pair.mean())


def test_cells_that_are_not_linear():
    columns, rows, bias = layer(np.random.default_rng(11))
    wanted, bent = rows @ columns + bias[:, None], Device(nonlinearity=1.0)
    for dac_bits, coding, exact in (
        (1, AMPLITUDE, True),  # a voltage or none
        (4, AMPLITUDE, False),
        (4, PULSE_WIDTH, True),  # one voltage, for longer
    ):
        array = Array(dac_bits=dac_bits, coding=coding, device=bent)
        assert (analog.array_sum(columns, rows, bias, array) == wanted).all() == exact
    digits = np.arange(16, dtype=np.float32)
    answered = devices.voltages(digits, 15, bent)
    assert answered[[0, 15]].tolist() == [0, 15]
    assert answered[8] == pytest.approx(15 * np.sinh(8 / 15) / np.sinh(1))
    assert devices.voltages(digits, 15, Device(nonlinearity=1e-300)) == pytest.approx(digits)
    steep = devices.voltages(digits, 15, Device(nonlinearity=80.0))
    assert steep[[0, 15]] == pytest.approx([0, 15]) and 0 < steep[14] < 0.1


def test_read_noise_of_cells_has_the_variance_of_its_parts():
    columns, rows, _ = layer(np.random.default_rng(12), M=1, taps=60, positions=3)
    array = Array(
        rows=64, mapping=PAIR, cell_bits=8, dac_bits=8, device=Device(PCM, read_noise=True)
    )
    (tile,) = analog.programmed(rows, array)
    inputs = analog.fed(columns, array)
    starts = [draws.bases(draws.key_of(Reads(seed), 0), 2, 3) for seed in range(4000)]
    drawn = np.stack([analog.counts_of(tile, inputs, array, s) for s in starts])
    wanted = np.sqrt((tile.variance[0, 0][None, :, None] * columns.astype(float) ** 2).sum(axis=1))
    assert drawn.std(axis=0).reshape(wanted.shape) == pytest.approx(wanted, rel=0.05)
    # one cell at full conductance: 0.88% for each read, times the 1/f factor of 20 s
    full = np.array([127.0])
    variance = devices.read_variance(full, full, 127.0, Device(PCM))
    factor = np.log((20 + 250e-9) / (2 * 250e-9))
    assert variance == pytest.approx((0.0088 * 127) ** 2 * factor)


# --- converters -------------------------------------------------------------------------------


def test_the_lossless_adc_width_is_tight():
    # full cells, all inputs on: the greatest count is told apart only at the lossless width
    rows, bits = 128, analog.lossless_adc_bits(128, 2)
    counts = np.array([rows * 3, rows * 3 - 1], np.float32)
    codes, step = converters.convert(counts, Converter(bits), rows * 3)
    assert step == 1 and (codes == counts).all()
    codes, step = converters.convert(counts, Converter(bits - 1), rows * 3)
    assert step > 1 and (codes * step != counts).any()


def test_a_converter_with_two_sides():
    counts = np.array([-200, -128, -1, 0, 1, 127, 200], np.float32)
    codes, step = converters.convert(counts, Converter(8, top=127.0), 1000, signed=True)
    assert step == 1
    assert codes.tolist() == [-128, -128, -1, 0, 1, 127, 127]
    codes, step = converters.convert(counts, Converter(8, below=28), 227)
    assert (codes * step).tolist() == [-28, -28, -1, 0, 1, 127, 200]


def test_headroom_takes_the_mean_of_the_noise_away():
    noise = np.random.default_rng(0).normal(0, 0.5, 100_000).astype(np.float32)
    cut, _ = converters.convert(noise.copy(), Converter(9), 384)
    whole, _ = converters.convert(noise.copy(), Converter(9, below=8), 384)
    assert cut.mean() > 0.1 and abs(whole.mean()) < 0.01 and whole.std() > cut.std()


def test_converters_with_errors_of_their_own():
    counts = np.linspace(0, 255, 256, dtype=np.float32)
    ones = np.ones((3, 1), np.float32)
    for which, wanted in (
        (0, np.minimum(np.arange(256) + 5, 255)),
        (1, np.minimum(np.arange(256) * 6, 255)),  # a gain that errs by 5
        (2, np.rint(np.arange(256) + 20 * np.arange(256) / 255 * (1 - np.arange(256) / 255))),
    ):
        errors = ones * 0
        errors[which] = 5
        codes, _ = converters.convert(counts, Converter(8), 255, errors=errors)
        assert np.abs(codes - np.minimum(wanted, 255)).max() <= 1
    # columns that share a converter share its errors, and sizes are standard deviations
    adc = Converter(8, offset=2.0, gain=0.1, inl=1.0, shared=8)
    errors = converters.errors_of((4, 4000), adc, np.random.default_rng(0)).reshape(3, -1, 8)
    assert (errors == errors[:, :, :1]).all()
    assert errors[:, :, 0].std(axis=1) == pytest.approx([2.0, 0.1, 1.0], rel=0.05)


def test_an_array_with_unequal_converters(model):
    columns, rows, bias = layer(np.random.default_rng(13))
    wanted = rows @ columns + bias[:, None]
    for name in ("offset", "gain", "inl"):
        array = replace(BOOK, adc=Converter(9, **{name: 0.9}))
        assert (analog.array_sum(columns, rows, bias, array) != wanted).mean() > 0.5
        # too small for any code to change
        array = replace(BOOK, adc=Converter(9, **{name: 1e-6}))
        assert (analog.array_sum(columns, rows, bias, array) == wanted).all()


def test_converters_without_a_code_above_zero():
    # one bit with two sides has -1 and 0; all codes but one may lie below zero
    columns, rows, bias = layer(np.random.default_rng(15))
    for array in (Array(mapping=PAIR, adc=Converter(1)), Array(adc=Converter(3, below=7))):
        wanted = analog.array_sum(columns, rows, bias, array)
        nearly = replace(array, adc=replace(array.adc, offset=1e-6, inl=1e-6))
        assert (analog.array_sum(columns, rows, bias, nearly) == wanted).all()


def test_one_conversion_for_all_digits():
    columns, rows, bias = layer(np.random.default_rng(14))
    wanted = rows @ columns + bias[:, None]
    array = Array(mapping=PAIR, cell_bits=8, accumulate=True)
    enough = cost.lossless_bits(144, array, rows)
    for bits, exact in ((enough, True), (enough - 1, False), (8, False)):
        found = analog.array_sum(columns, rows, bias, replace(array, adc=Converter(bits)))
        assert (found == wanted).all() == exact


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Array(rows=0), "rows is 0"),
        (lambda: Array(columns=-1), "columns is -1"),
        (lambda: Array(seed=-1), "seed is -1: 0 or more"),
        (lambda: Array(cell_bits=9), "cell_bits is 9: 1 to 8"),
        (lambda: Array(dac_bits=0), "dac_bits is 0"),
        (lambda: Array(mapping="pairs"), "mapping is 'pairs': one of offset, flipped"),
        (lambda: Array(coding="pwm"), "coding is 'pwm'"),
        (lambda: Array(mapping=analog.TWOS_COMPLEMENT), "cell_bits is 2.*sign bit"),
        (lambda: Converter(bits=0), "an ADC of 0 bits"),
        (lambda: Converter(top=0.0), "top is 0.0"),
        (lambda: Converter(top=float("inf")), "top is inf: a finite count"),
        (lambda: Converter(bits=2, below=4), "below is 4"),
        (lambda: Converter(shared=0), "shared is 0"),
        (lambda: Converter(noise=float("nan")), "noise is nan"),
        (lambda: Converter(gain=0.1), "give its bits"),
        (lambda: Reads(-1), "seed is -1: 0 or more"),
        (lambda: Reads(0, first=-2), "first is -2"),
        (lambda: Device("perfect"), "programming is 'perfect': one of independent"),
        (lambda: Device(on_off=1.0), "on_off is 1.0"),
        (lambda: Device(INDEPENDENT, sigma=-1.0), "sigma is -1.0"),
        (lambda: Device(PCM, sigma=0.1), "sigma is 0.1, programming 'pcm': only an error"),
        (lambda: Device(seconds=9.0), "seconds is 9.0: only pcm and rram cells age"),
        (lambda: Device(stuck_on=0.6, stuck_off=0.6), "together pass 1"),
        (lambda: Device(nonlinearity=81.0), "nonlinearity is 81.0: at most 80"),
        (lambda: Device(RRAM, seconds=5.0), "seconds is 5.0.*1 and 86400"),
    ],
)
def test_what_no_array_has_is_refused(make, message):
    with pytest.raises(UnusableInput, match=message):
        make()


# --- the network ------------------------------------------------------------------------------


def test_some_layers_stay_digital(model, values):
    coarse = Array(adc=Converter(bits=4))
    names = list(variants.weighted(model))
    assert len(names) == 10
    operators = variants.operators_on_arrays(
        model, {"block2_conv1_quant": coarse, "dense_quant": coarse}
    )
    for name in names:
        node = model.node(name)
        y = compute(model, node, values, operators)
        assert (y == values[node.outputs[0]]).all() == (
            name not in ("block2_conv1_quant", "dense_quant")
        )
    every = variants.operators_on_arrays(model, dict.fromkeys(names, BOOK))
    ours = run(model, PIXELS, every)
    assert all((ours[n.outputs[0]] == values[n.outputs[0]]).all() for n in model.nodes)
    with pytest.raises(UnusableInput, match="no layer pool_quant with weights"):
        variants.operators_on_arrays(model, {"pool_quant": BOOK})


def test_ranges_from_the_counts_of_each_layer(model, values):
    values = {name: value[:1] for name, value in values.items()}
    exact = variants.calibrated(model, values, replace(BOOK, adc=Converter(bits=8)))
    tops = {name: array.adc.top for name, array in exact.items()}
    assert len(set(tops.values())) > 3 and max(tops.values()) < 384
    # nothing is clipped, and all counts fit the 8 bits
    ours = run(model, PIXELS[:1], variants.operators_on_arrays(model, exact))
    assert max(tops.values()) <= 255
    assert all((ours[n.outputs[0]] == values[n.outputs[0]]).all() for n in model.nodes)
    fewer = variants.calibrated(model, values, BOOK, share=0.99)
    assert all(fewer[name].adc.top < tops[name] for name in tops)


# --- cost -------------------------------------------------------------------------------------


def test_the_counts_of_a_layer_by_hand():
    # block3_conv2: 576 products, 64 channels, 8 x 8 positions
    layer_of = partial(cost.layer_cost, 576, 64, 64)
    found = layer_of(BOOK)
    assert found.macs == 576 * 64 * 64
    assert found.conversions == 64 * 8 * (4 * 64) * 5
    assert found.crossbars == 5 * 2 and found.used == 576 * 64 * 4
    assert found.cells == 10 * 128 * 128 and found.reads == 64 * 8
    assert found.macs_per_conversion == 3.6
    pair = replace(BOOK, mapping=PAIR)
    assert layer_of(pair).conversions == found.conversions
    assert layer_of(pair).used == 2 * found.used
    assert (
        layer_of(replace(pair, mapping=analog.TWO_CONVERTERS)).conversions == 2 * found.conversions
    )
    assert layer_of(replace(BOOK, accumulate=True)).conversions * 8 == found.conversions
    assert layer_of(replace(BOOK, dac_bits=3)).conversions * 8 == found.conversions * 3
    # one converter for 128 columns takes as long as a read; for 256 it is what one waits for
    alone, shared = (layer_of(replace(BOOK, adc=Converter(9, shared=s))) for s in (128, 256))
    assert alone.seconds == pytest.approx(64 * 8 * 100e-9)
    assert shared.seconds == pytest.approx(2 * alone.seconds)
    assert alone.area > shared.area
    # a bit is a bit in either coding; pulses of 8 bits take 255 ns
    for coding, dac_bits, read in (
        (AMPLITUDE, 1, 100),
        (PULSE_WIDTH, 1, 100),
        (PULSE_WIDTH, 8, 255),
    ):
        found = layer_of(replace(BOOK, coding=coding, dac_bits=dac_bits))
        assert found.seconds == pytest.approx(64 * (8 // dac_bits) * read * 1e-9)
    # a pair whose cells have 7 bits takes a second one for -128
    wide = Array(mapping=PAIR, cell_bits=7)
    plain, both = (layer_of(wide, rows=np.full((64, 576), w)) for w in (-127, -128))
    assert plain == layer_of(wide)
    assert both.used == 2 * plain.used and both.conversions == 2 * plain.conversions


def test_the_counts_of_the_network(model, values):
    arrays = dict.fromkeys(variants.weighted(model), BOOK)
    costs = cost.network_cost(model, values, arrays)
    whole = cost.total(costs)
    assert len(costs) == 10 and whole.crossbars == 30
    assert whole.macs == 12_500_992 + 640
    assert whole.conversions == 5_373_952 + 320
    assert round(whole.macs_per_conversion, 1) == 2.3
    assert whole.joules == pytest.approx(sum(c.joules for c in costs.values()))
    del arrays["dense_quant"]
    assert "dense_quant" not in cost.network_cost(model, values, arrays)


def test_widths_that_lose_nothing():
    for taps, array, bits in (
        (576, BOOK, 9),
        (27, BOOK, 7),
        (576, designs.ISAAC, 8),
        (576, replace(designs.SRAM, rows=255), 8),
        (576, replace(BOOK, mapping=PAIR), 10),
    ):
        assert cost.lossless_bits(taps, array) == bits


def test_prices_against_published_totals():
    """The errors that the book states; the measured chips need more than these prices say."""
    ratios = [(p.what, p.ratio) for p in cost.published()]
    stated = [(0.999, 1.001), (0.999, 1.001), (0.69, 0.72), (1.0, 1.02), (9, 10), (2.4, 2.7)]
    for (what, ratio), (low, high) in zip(ratios, stated, strict=True):
        assert low < ratio < high, what
    assert cost.adc_joules(8) == pytest.approx(1.5625e-12)
    assert cost.survey_joules(8) == pytest.approx(0.8655e-12, rel=1e-4)


def test_the_stored_study_is_of_these_settings_and_prices(model):
    stored = json.loads((MODELS / "analog.json").read_text())
    whole = stored["recorded"]["data"]["images"]
    for kind, section in study_of_arrays.SECTIONS.items():
        for row, (head, setting) in zip(stored[kind], section(), strict=True):
            assert head.items() <= row.items()
            assert len(row["accuracy"]) == setting.chips
            assert row["images"] <= whole and (setting.chips > 1 or row["images"] == whole)
            assert row["mean"] == pytest.approx(np.mean(row["accuracy"]), abs=1e-4)
            exact = stored["exact"][str(row["images"])]
            assert row["lost"] == pytest.approx(exact - row["mean"], abs=1e-4)
            if kind == "converters":
                assert study_of_arrays.price(model, setting).items() <= row.items()
    # what loses nothing scores what the exact network does
    lost = {row["setting"]: (row["lost"], row["se_of_lost"]) for row in stored["converters"]}
    for name in ("ISAAC", "bit-serial, 9 bits, clipping", "SRAM, at most 255 rows on"):
        assert lost[name] == (0, 0)


def test_standard_errors_by_hand():
    exact = np.array([1, 1, 1, 0, 1, 0, 1, 1])
    hits = np.array([[1, 1, 0, 0, 1, 0, 1, 1], [1, 0, 0, 0, 1, 1, 1, 0]])
    found = study_of_arrays.accuracy(hits, exact)
    assert found["accuracy"] == [0.625, 0.5] and found["mean"] == 0.5625
    of_chips = 0.125 / 2  # half the difference, as for any two
    assert found["se_of_chips"] == of_chips
    per_image = [1, 0.5, 0, 0, 1, 0.5, 1, 0.5]
    assert found["se"] == pytest.approx(sqrt(of_chips**2 + stdev(per_image) ** 2 / 8), abs=1e-5)
    lost = [0, 0.5, 1, 0, 0, -0.5, 0, 0.5]
    assert found["lost"] == mean(lost)
    assert found["se_of_lost"] == pytest.approx(sqrt(of_chips**2 + stdev(lost) ** 2 / 8), abs=1e-5)
    one = study_of_arrays.accuracy(hits[:1], exact)
    assert one["se"] == pytest.approx(sqrt(0.625 * 0.375 / 7), abs=1e-5)  # the binomial's
    assert one["se_of_chips"] == 0 and one["lost"] == 0.125


def test_standard_errors_are_not_too_small():
    """Of chips and images together; too large by at most sqrt(2), where they share all there is."""
    rng = np.random.default_rng(0)
    for of_chips, of_images, of_both, ratio in ((2, 1, 0.5, 1.0), (0, 1, 0.5, 1.0), (0, 0, 1, 2.0)):
        means, squares = [], []
        for _ in range(800):
            hits = of_both * rng.standard_normal((5, 60))
            hits += of_chips * rng.standard_normal((5, 1)) + of_images * rng.standard_normal(60)
            found = study_of_arrays.accuracy(hits, np.zeros(60))
            means.append(found["mean"])
            squares.append(found["se"] ** 2)
        assert mean(squares) / stdev(means) ** 2 == pytest.approx(ratio, rel=0.2)


class Ended(Exception):
    """Stands for whatever ends a run."""


def test_a_run_that_was_ended_goes_on_to_the_same_bytes(tmp_path, model, monkeypatch):
    images = np.concatenate([load_samples()[0]] * 2)
    data = images, np.arange(len(images)) % 10
    noisy = replace(designs.ISAAC, adc=Converter(8, noise=0.5))
    cells = replace(designs.ISAAC, device=Device(INDEPENDENT, sigma=0.05))
    small = {
        "widths": lambda: [({"adc_bits": 6}, study_of_arrays.Setting(designs.ISAAC))],
        "noises": lambda: [({}, study_of_arrays.Setting(array)) for array in (noisy, cells)],
    }
    monkeypatch.setattr(study_of_arrays, "load_cifar10", lambda *_: data)
    monkeypatch.setattr(study_of_arrays, "SECTIONS", small)
    monkeypatch.setattr(study_of_arrays, "BLOCK", 4)
    (tmp_path / "kept").mkdir()
    out = [f"--out={tmp_path / name}" for name in ("whole.json", "parts.json")]
    options = f"--data-dir=. --models={MODELS} --images=9 --noisy-images=6 --workers=2".split()
    study_of_arrays.main([*options, out[0]])
    calls = iter(range(5))

    def ends(*args):
        if next(calls, None) is None:
            raise Ended
        return run(*args)

    kept = f"--cache={tmp_path / 'kept'}"
    with monkeypatch.context() as patch:
        patch.setattr(study_of_arrays, "run", ends)
        with pytest.raises(Ended):
            study_of_arrays.main([*options, kept, out[1]])
    assert 0 < sum(file.stat().st_size for file in (tmp_path / "kept").iterdir()) < 9 + 9 + 45 + 30
    study_of_arrays.main([*options, kept, out[1]])
    texts = [(tmp_path / name).read_bytes() for name in ("whole.json", "parts.json")]
    assert texts[0] == texts[1]
    whole = json.loads(texts[0])
    assert [row["images"] for row in whole["widths"] + whole["noises"]] == [9, 9, 6]
    with pytest.raises(UnusableInput, match="--noisy-images is 10: 1 to 9 needed"):
        study_of_arrays.main([*options, "--noisy-images=10", out[0]])
    with pytest.raises(UnusableInput, match="--workers is 0"):
        study_of_arrays.main([*options, "--workers=0", out[0]])
