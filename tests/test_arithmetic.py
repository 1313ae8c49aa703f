"""The shared arithmetic: where float sums are exact, the shapes of parameters, what is refused."""

import re

import numpy as np
import pytest

from qlinear.errors import Unsupported, UnusableInput
from qlinear.operators import arithmetic as ar

F = np.float32


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The exact product, wrapped to int32."""
    wide = a.astype(object) @ b.astype(object)  # Python's integers
    return ((wide + 2**31) % 2**32 - 2**31).astype(np.int32)


@pytest.mark.parametrize(
    ("a", "b", "taps"),
    [
        ((1, 255), (1, 255), 1024),  # the sums pass 2**24, where float32 has no odd integers
        ((-255, -1), (-255, -1), 1024),  # and so they do where only the least value says so
        ((-255, -1), (0, 3), 70_000),
        ((-2, 3), (-255, -1), 70_000),
        ((90_001, 100_000), (-1, 2), 1024),  # only one of the two is large
        ((-1, 2), (90_001, 100_000), 1024),
        ((-255, -254), (254, 255), 40_000),  # past int32
        ((0, 1), (0, 1), 5),
    ],
)
def test_matrix_products_are_exact_and_wrap(a, b, taps):
    rng = np.random.default_rng(taps)
    left = rng.integers(*a, (2, taps), np.int32, endpoint=True)
    right = rng.integers(*b, (taps, 3), np.int32, endpoint=True)
    found = ar.exact_matmul(left, right)
    assert found.dtype == np.int32
    assert (found == product(left, right)).all()


def test_sums_past_24_bits_are_lost_in_float32():
    # what the test above can see: float32 is wrong on its inputs
    rng = np.random.default_rng(1024)
    left, right = (rng.integers(1, 255, shape, np.int32) for shape in ((2, 1024), (1024, 3)))
    assert (left.astype(F) @ right.astype(F) != product(left, right)).any()


def test_a_sum_of_nothing_is_0():
    found = ar.exact_matmul(np.zeros((2, 0), np.int32), np.zeros((0, 3), np.int32))
    assert found.shape == (2, 3) and not found.any()


def test_the_last_integer_that_a_float_type_holds():
    assert ar.exact_float(2**24) is np.float32
    assert ar.exact_float(2**53) is np.float64
    assert float(2**53) + 1 == 2**53
    message = f"sums may reach {2**53 + 1}, past 2**53, where float64 is no longer exact"
    with pytest.raises(UnusableInput, match=re.escape(message)):
        ar.exact_float(2**53 + 1)


def test_sums_wrap_at_32_bits():
    sums = np.array([2**31 - 1, -(2**31), 2**31, 2**32 + 5, -(2**31) - 1], float)
    wanted = [2**31 - 1, -(2**31), -(2**31), 5, 2**31 - 1]
    assert ar.to_int32(sums, 2**33).tolist() == wanted


def test_a_difference_of_8_bit_integers_needs_9_bits():
    q = np.array([[0, 255], [255, 0]], np.uint8)
    assert ar.centred(q, np.uint8(255)).tolist() == [[-255, 0], [0, -255]]
    # one zero point for each row
    assert ar.centred(q, np.array([255, 0], np.uint8)).tolist() == [[-255, 0], [255, 0]]
    assert ar.centred(q, np.uint8(1)).dtype == np.int32


def test_parameters_take_the_shape_that_they_need():
    assert ar.one_element(F([0.5])).shape == () and ar.one_element(F([[0.5]])) == F(0.5)
    assert ar.one_element(F([1, 2])).shape == (2,)
    assert ar.per_channel(F([1, 2, 3]), 4).shape == (3, 1, 1)
    assert ar.per_channel(F([1, 2, 3]), 2).shape == (3,)
    omitted = ar.zero_point_or_0(None, np.zeros(3, np.uint8))
    assert omitted.dtype == np.uint8 and omitted.shape == () and omitted == 0


def test_scales_are_float32_before_they_are_multiplied():
    a, b, c = 0.1, 0.2, 0.7  # Python's numbers are float64
    found = ar.requantization_scale(a, b, c)
    assert found.dtype == np.float32 and found == F(F(a) * F(b)) / F(c)


def test_the_zero_point_is_added_after_the_rounding():
    # 0.5 rounds to the even 0, and 1 is added; added first, 1.5 would round to 2
    assert ar.round_and_shift(F([0.5, 1.5, -0.5]), np.int8(1)).tolist() == [1, 3, 1]
    acc = np.array([[[1, 3]], [[-1, 1000]]], np.int32).reshape(1, 2, 2)
    assert ar.requantize(acc, F([0.5, 0.5]), np.uint8(1)).tolist() == [[[1, 3], [1, 255]]]
    assert ar.requantize(acc, F([1, 2]), np.int8(0)).tolist() == [[[1, 3], [-2, 127]]]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: ar.require_8_bit("x", np.zeros(1, np.int16), None, np.int8(0)),
            Unsupported, "x has type int16: int8 or uint8 needed",
        ),
        (
            lambda: ar.require_8_bit("x", None, None, np.int16(0)),
            Unsupported, "x_zero_point has type int16: int8 or uint8 needed",
        ),
        (
            lambda: ar.require_8_bit("x", np.zeros(1, np.int8), None, np.uint8(0)),
            UnusableInput, "x_zero_point has type uint8 but x int8",
        ),
        (
            lambda: ar.require_8_bit("x", None, np.float64(1), np.uint8(0)),
            Unsupported, "x_scale has type float64: float32 needed",
        ),
        (
            lambda: ar.require_scale("s", F([1, 2, 3, np.inf, 5])),  # the first four are shown
            UnusableInput, "s is [ 1.  2.  3. inf]: finite and positive needed",
        ),
        (
            lambda: ar.require_scale("s", F([1, 0])),
            UnusableInput, "s is [1. 0.]: finite and positive needed",
        ),
        (
            lambda: ar.require_length("s", F([1, 2]), (1, 64, 1)),
            UnusableInput, "s has shape (2,): a scalar or 1 or 64 elements needed",
        ),
        (
            lambda: ar.require_length("s", F([[1]]), (1,)),
            UnusableInput, "s has shape (1, 1): a scalar or 1 elements needed",
        ),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(call, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        call()


def test_what_is_allowed_is_not_refused():
    ar.require_8_bit("x", None, None, np.uint8(0))
    ar.require_8_bit("x", np.zeros(1, np.int8), F(0.1), np.int8(0))
    ar.require_scale("s", F([2**-149, 3e38]))  # the least and nearly the greatest float32
    for value, lengths in ((F(1), (1,)), (F([1]), (1,)), (F([1, 2]), (1, 2))):
        ar.require_length("s", value, lengths)


def test_no_number_saturates_at_the_least():
    values = np.float32([np.nan, -np.inf, np.inf, 2**31, 1.0])
    assert ar.saturate(values, np.int8).tolist() == [-128, -128, 127, 127, 1]
    assert ar.saturate(values, np.uint8).tolist() == [0, 0, 255, 255, 1]
    assert ar.saturate_int32(values, np.int8).tolist() == [-128, -128, -128, -128, 1]
    assert ar.saturate(np.int32([-300, 5, 300]), np.int8).tolist() == [-128, 5, 127]
