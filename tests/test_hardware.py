"""Cheaper arithmetic: where it must be exact, and that it is wrong where it must be."""

import json
from dataclasses import replace
from fractions import Fraction
from functools import partial
from math import floor

import numpy as np
import pytest
from conftest import MODELS

from qlinear.engine import run
from qlinear.hardware import accumulators, proofs, requantizers, variants
from qlinear.inputs import load_samples
from qlinear.onnx_model import load
from qlinear.operators import arithmetic as ar
from study import bit_widths, quantize

PIXELS = load_samples()[0][:2].astype(np.float32)


@pytest.fixture(scope="module")
def exact(model):
    return run(model, PIXELS)


def differing(model, exact, operators) -> int:
    values = run(model, PIXELS, operators)
    return sum(int((values[name] != exact[name]).sum()) for name in exact)


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({}, True),
        ({"accumulator": partial(accumulators.wrap, bits=24)}, True),
        ({"accumulator": partial(accumulators.wrap, bits=14)}, False),
        ({"accumulator": partial(accumulators.clamp, bits=24)}, True),
        ({"accumulator": partial(accumulators.clamp, bits=14)}, False),
        ({"summation": partial(accumulators.saturating_sum, bits=24, tile=16)}, True),
        ({"summation": partial(accumulators.saturating_sum, bits=16)}, False),
        ({"requantizer": requantizers.requantize_as_float32}, True),
    ],
)
def test_which_arithmetic_is_exact(model, exact, options, same):
    assert (differing(model, exact, variants.operators_with(**options)) == 0) == same


def test_wrapping_is_arithmetic_modulo_a_power_of_two():
    acc = np.arange(-40_000, 40_000)
    assert (accumulators.wrap(acc, 16) == acc.astype(np.int16)).all()
    assert accumulators.wrap(np.array(576 * 127 * 127), 16) == -15_808


@pytest.mark.parametrize("rounding", requantizers.ROUNDINGS)
def test_shift_right_rounds_as_named(rounding):
    values, shift = np.arange(-64, 65), np.int64(3)
    real = values / 8
    wanted = {
        "half even": np.rint(real),
        "half up": np.floor(real + 0.5),
        "half away": np.sign(real) * np.floor(np.abs(real) + 0.5),
        "truncate": np.floor(real),
    }[rounding]
    assert (requantizers.shift_right(values, shift, rounding) == wanted).all()


def test_fixed_point_multipliers_have_their_width():
    scale = np.exp(np.random.default_rng(0).uniform(-15, 3, 1000)).astype(np.float32)
    for bits in (4, 8, 16, 24, 31):
        multiplier, shift = requantizers.fixed_point(scale, bits)
        assert (multiplier >= 1 << bits - 1).all() and (multiplier < 1 << bits).all()
        error = np.abs(multiplier * 2.0 ** -shift.astype(float) / scale - 1)
        assert error.max() <= 2.0**-bits
        assert (error.max() == 0) == (bits >= 24)


def test_a_multiplier_half_way_rounds_as_asked():
    half = np.array([0.5 + 1.5 * 2.0**-8, 0.5 + 2.5 * 2.0**-8])  # 129.5 and 130.5 of 8 bits
    assert requantizers.fixed_point(half, 8)[0].tolist() == [130, 130]
    assert requantizers.fixed_point(half, 8, half_up=True)[0].tolist() == [130, 131]


def test_integer_form_of_the_float32_chain_is_equal_everywhere():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scale = np.exp(rng.uniform(-14, 3, 8)).astype(np.float32)
        zero = np.int8(rng.integers(-128, 128))
        acc = rng.integers(-(2**24) + 1, 2**24, (1, 8, 5000)).astype(np.int32)
        acc[..., 2000:] //= 2 ** rng.integers(0, 20, (8, 3000))
        wanted = ar.requantize(acc, scale, zero)
        assert (requantizers.requantize_as_float32(acc, scale, zero) == wanted).all()


def test_the_form_in_integers_ends_at_24_bits():
    # 2**24 + 1 is no float32: the chain rounds it to 2**24 before it multiplies
    scale, zero = np.array([2.5 / 2**24], np.float32), np.int8(0)
    for acc, equal in ((2**24, True), (-(2**24), True), (2**24 + 1, False)):
        one = np.array([[[acc]]], np.int32)
        ours = requantizers.requantize_as_float32(one, scale, zero)
        assert (ours == ar.requantize(one, scale, zero)).all() == equal


def rounded(value: Fraction, *, away: bool) -> int:
    """To the nearest integer; ties upwards, or away from zero."""
    up = floor(abs(value) + Fraction(1, 2))
    return (up if value >= 0 else -up) if away else floor(value + Fraction(1, 2))


def test_gemmlowp_rounds_twice():
    rng = np.random.default_rng(0)
    scale = np.exp(rng.uniform(-12, -0.01, 8)).astype(np.float32)
    scale[0], zero = 0.75, np.int8(3)  # nothing is left to shift
    multiplier, shift = requantizers.fixed_point(scale, 31)
    acc = rng.integers(-(2**20), 2**20, (1, 8, 500)).astype(np.int32)
    acc[..., 100:] //= 2 ** rng.integers(8, 20, (8, 400))
    y = requantizers.requantize_gemmlowp(acc, multiplier, shift, zero)
    for m, n in np.ndindex(8, 500):
        upper = rounded(Fraction(int(acc[0, m, n]) * int(multiplier[m]), 2**31), away=False)
        wanted = rounded(Fraction(upper, 2 ** int(shift[m] - 31)), away=True) + 3
        assert y[0, m, n] == np.clip(wanted, -128, 127)
    # 6 * 5/8 = 3.75 becomes 4, and 4 / 8 = 0.5 becomes 1; one rounding of 3.75 / 8 gives 0
    five = np.array([5 << 28]), np.array([34])
    acc = np.array([[[6, -6]]], np.int32)
    assert requantizers.requantize_gemmlowp(acc, *five, zero).ravel().tolist() == [4, 2]
    up = requantizers.requantize_gemmlowp(acc, *five, zero, "half up")
    assert up.ravel().tolist() == [4, 3]
    assert requantizers.requantize_fixed(acc, *five, zero).ravel().tolist() == [3, 3]
    # a scale of 1 or more shifts the accumulator first: 1.25 * 6 = 7.5 and 2.5 * 6 = 15
    for shift, wanted in ((30, [11, -4]), (29, [18, -12])):
        y = requantizers.requantize_gemmlowp(acc, np.array([5 << 28]), np.array([shift]), zero)
        assert y.ravel().tolist() == wanted
    with pytest.raises(ValueError, match="passes 32 bits"):
        requantizers.requantize_gemmlowp(
            np.full((1, 1, 1), 1 << 30, np.int32), np.array([1 << 30]), np.array([30]), zero
        )


@pytest.mark.parametrize("half_up", [True, False])
def test_factors_and_constants_hold_exactly_inside_their_bounds(half_up):
    """A requantizer with a known factor and constant is found again, and nothing outside is."""
    rng = np.random.default_rng(0)
    low, high, shift = np.full(6, -3000), np.full(6, 3500), np.full(6, 16)
    multiplier = rng.integers(900, 4000, 6)
    constant = np.full(6, 1 << 15) if half_up else rng.integers(0, 1 << 16, 6)

    def edges_of(multiplier, constant):
        def way(acc):
            return requantizers.requantize_with_constant(
                acc, multiplier, constant, shift, np.int8(5)
            )

        return proofs.thresholds(way, low, high)

    edges = edges_of(multiplier, constant)
    least, greatest = proofs.factors_with_constant(edges, low, high)
    assert (least < multiplier / 65536).all() and (multiplier / 65536 < greatest).all()
    if half_up:  # a given constant leaves no more factors than any constant does
        inner = proofs.admissible_factors(edges, low, high, 5, -128)
        assert (least <= inner[0]).all() and (inner[1] <= greatest).all()
    bounds = [
        proofs.rounding_constants(edges[m], low[m], high[m], int(multiplier[m]), 16, 5, -128)
        for m in range(6)
    ]
    first, last = np.array(bounds).T
    assert (first <= constant).all() and (constant <= last).all()
    for inside, same in ((first, True), (last, True), (first - 1, False), (last + 1, False)):
        assert ((edges_of(multiplier, inside) == edges).all(axis=1) == same).all()
    # a factor outside leaves no constant
    for outside in (np.floor(least * 65536), np.ceil(greatest * 65536)):
        for m in range(6):
            a, b = proofs.rounding_constants(
                edges[m], low[m], high[m], int(outside[m]), 16, 5, -128
            )
            assert a > b


def test_thresholds_describe_a_requantizer_completely(model):
    conv = model.conv(model.node("block2_conv1_quant"))
    scale, zero = conv.factor, conv.y_zero_point
    low, high = np.full(32, -30_000), np.full(32, 30_000)
    edges = proofs.thresholds(lambda acc: ar.requantize(acc, scale, zero), low, high)
    acc = np.broadcast_to(np.arange(-30_000, 30_001, dtype=np.int32), (1, 32, 60_001))
    rebuilt = (acc[0, :, :, None] >= edges[:, None, ::16]).sum(axis=2)  # every 16th level
    wanted = ar.requantize(acc, scale, zero)[0].astype(int)
    levels = np.arange(-127, 128)[::16]
    assert (rebuilt == (wanted[..., None] >= levels).sum(axis=2)).all()


def test_narrowest_multiplier_is_inside_and_narrowest():
    rng = np.random.default_rng(0)
    for _ in range(200):
        least = float(np.exp(rng.uniform(-10, 0)))
        greatest = least * (1 + 10 ** rng.uniform(-7, -1))
        multiplier, shift = proofs.narrowest_multiplier(least, greatest)
        assert least < multiplier * 2.0**-shift < greatest
        bits = multiplier.bit_length()
        for s in range(shift - 3, shift + 1):  # nothing with fewer bits lies inside
            inside = int(np.floor(least * 2.0**s)) + 1
            assert inside * 2.0**-s >= greatest or inside.bit_length() >= bits


@pytest.mark.parametrize("per_channel", [False, True])
def test_eight_bits_are_onnxruntimes_own(per_channel):
    base = load(MODELS / quantize.PER_TENSOR)
    theirs = load(MODELS / (quantize.PER_CHANNEL if per_channel else quantize.PER_TENSOR))
    ranges = bit_widths.read_ranges(MODELS / "calibration.json")
    ours = bit_widths.at_widths(base, load(MODELS / "resnet8.onnx"), ranges, 8, 8, per_channel)
    for name, value in theirs.constants.items():
        assert (ours.constants[name] == value).all()


def test_narrow_activations_stay_in_their_range():
    base = load(MODELS / quantize.PER_TENSOR)
    ranges = bit_widths.read_ranges(MODELS / "calibration.json")
    other = bit_widths.at_widths(base, load(MODELS / "resnet8.onnx"), ranges, 5, 4, True)
    values = run(other, PIXELS, bit_widths.operators_of(4))
    for value in values.values():
        if value.dtype == np.int8:
            assert value.min() >= -8 and value.max() <= 7
    for node in quantize.layers(other):
        assert np.abs(quantize.layer(other, node).w).max() == 15


def test_pairs_saturate_at_16_bits():
    x = np.full((1, 4, 1), 255, np.uint8)
    exact_sum, clipped = accumulators.pair_saturations(
        x, np.array([[127, 127, -128, -128]], np.int8)
    )
    assert exact_sum.item() == 255 * -2 and clipped.item() == 32767 - 32768


def test_which_pairs_can_saturate():
    # every pair of weights, with the inputs at their ends
    w = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)), axis=2)
    w = w.reshape(-1, 2).astype(np.int8)
    ends = np.array([[[0, 0, 255, 255], [0, 255, 0, 255]]], np.uint8)
    exact_sum, sums = accumulators.pair_saturations(ends, w)
    saturates = (exact_sum != sums).any(axis=(0, 2))
    assert (accumulators.can_saturate(w).ravel() == saturates).all()
    assert accumulators.can_saturate(np.array([[1, 127, 2, 127, 127]], np.int8)).tolist() == [
        [False, True]
    ]


def test_the_stored_study_belongs_to_the_committed_model(model):
    study = json.loads((MODELS / "hardware.json").read_text())
    for node in quantize.layers(model):
        low, high = quantize.layer(model, node).register_range()
        assert study["bounds"][node.name] == [low.min(), high.max()]
    assert study["images"] == 10_000


def test_operator_tables_do_not_leak(model, exact):
    differing(
        model, exact, variants.operators_with(accumulator=partial(accumulators.wrap, bits=12))
    )
    again = run(replace(model), PIXELS)
    assert all((again[name] == exact[name]).all() for name in exact)
