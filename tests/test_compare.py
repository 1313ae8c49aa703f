"""The comparison: it must see every difference, and no other, and record it to the field."""

import json

import ml_dtypes
import numpy as np
import pytest

from qlinear.compare import Comparison, Mismatch, compare_arrays

F = np.float32


def test_every_field_of_an_equal_tensor():
    x = np.zeros((2, 3), np.uint8)
    found = compare_arrays("t", x, x, node="n", operator="o")
    assert found == Comparison("t", "n", "o", "uint8", (2, 3), 6, 0, 0, None)
    assert str(found) == "6 elements equal"
    assert compare_arrays("t", x, x).node == compare_arrays("t", x, x).operator == ""
    assert found.as_json() == {
        "tensor": "t", "node": "n", "operator": "o", "dtype": "uint8", "shape": (2, 3),
        "elements": 6, "mismatches": 0, "max_difference": 0, "first": None, "equal": True,
    }  # fmt: skip


def test_every_field_of_another_tensor():
    ours, theirs = np.int8([[1, 2, 3], [4, 5, 6]]), np.int8([[1, 2, 3], [9, 5, -128]])
    found = compare_arrays("t", ours, theirs, node="n", operator="o")
    first = Mismatch((1, 0), 4, 9)
    assert found == Comparison("t", "n", "o", "int8", (2, 3), 6, 2, 134, first)
    assert json.loads(json.dumps(found.as_json()))["first"] == {
        "index": [1, 0],
        "ours": 4,
        "ort": 9,
    }
    assert not found.as_json()["equal"]
    assert type(found.first.ours) is int and all(type(i) is int for i in found.first.index)


@pytest.mark.parametrize(
    ("ours", "theirs", "count", "said"),
    [
        (np.zeros(3, np.int8), np.zeros(3, np.uint8), 3, ("int8(3,)", "uint8(3,)")),
        (np.zeros(3, np.int8), np.zeros((4, 1), np.int8), 4, ("int8(3,)", "int8(4, 1)")),
        (np.zeros(1, F), np.zeros((0, 2), F), 1, ("float32(1,)", "float32(0, 2)")),
    ],
)
def test_another_type_or_shape_makes_every_element_a_mismatch(ours, theirs, count, said):
    found = compare_arrays("t", ours, theirs, node="n", operator="o")
    kind, shape, size = theirs.dtype.name, theirs.shape, theirs.size
    assert found == Comparison("t", "n", "o", kind, shape, size, count, 0.0, Mismatch((), *said))
    words = (
        f"{count} of {size} elements differ, first at (): ours {said[0]}, ONNX Runtime {said[1]}"
    )
    assert str(found) == words


@pytest.mark.parametrize(
    ("ours", "theirs", "mismatches", "largest", "first"),
    [
        # 8-bit integers are not subtracted in 8 bits
        (np.int8([-128, 5]), np.int8([127, 5]), 1, 255, (-128, 127)),
        (np.uint8([0, 255]), np.uint8([0, 0]), 1, 255, (255, 0)),
        (np.array([True, False]), np.array([True, True]), 1, 1, (False, True)),
        (np.int64([2**53 + 1]), np.int64([0]), 1, 2**53 + 1, (2**53 + 1, 0)),
        (np.int64([0]), np.int64([-(2**53) - 1]), 1, 2**53 + 1, (0, -(2**53) - 1)),
        (F([1, 2, 3]), F([1, 2.5, 2]), 2, 1.0, (2.0, 2.5)),
        # the largest difference is that of numbers
        (F([np.inf, 1]), F([0, 1.5]), 2, 0.5, ("inf", 0.0)),
        (F([np.nan]), F([0]), 1, 0.0, ("nan", 0.0)),
        (F([0]), F([np.nan]), 1, 0.0, (0.0, "nan")),
        (F([-np.inf]), F([np.inf]), 1, 0.0, ("-inf", "inf")),
        (F([np.inf, 1]), F([np.inf, 3]), 1, 2.0, (1.0, 3.0)),
        (np.float64([1.7e308]), np.float64([-1.7e308]), 1, 0.0, (1.7e308, -1.7e308)),
        # nor are short floats in theirs
        (np.float16([2**15]), np.float16([-(2**15)]), 1, 65536.0, (32768.0, -32768.0)),
        (np.array(["a", "b"]), np.array(["a", "c"]), 1, 0, ("b", "c")),
        (np.array(["a", None], object), np.array(["a", "c"], object), 1, 0, ("None", "c")),
        (np.array([b"a"], object), np.array([b"b"], object), 1, 0, ("b'a'", "b'b'")),
        (np.array(["a", 3], object), np.array(["a", "c"], object), 1, 0, (3, "c")),
    ],
)
def test_differences_of_every_kind(ours, theirs, mismatches, largest, first):
    with np.errstate(all="raise"):
        found = compare_arrays("t", ours, theirs)
    assert found.mismatches == mismatches and not found.equal
    assert found.max_difference == largest and type(found.max_difference) is type(largest)
    assert (found.first.ours, found.first.ort) == first
    assert type(found.first.ours) is type(first[0]) and type(found.first.ort) is type(first[1])
    json.dumps(found.as_json(), allow_nan=False)


def test_floats_are_compared_by_value_and_nan_equals_nan():
    theirs = np.float32([np.nan, np.inf, 0.0, 1.0])
    assert compare_arrays("t", np.float32([np.nan, np.inf, -0.0, 1.0]), theirs).equal
    found = compare_arrays(
        "t", np.float32([0, np.inf, 0, np.nextafter(np.float32(1), np.float32(2))]), theirs
    )
    assert found.mismatches == 2 and found.max_difference == pytest.approx(1.2e-7, rel=0.1)
    assert found.first.ort == "nan"
    assert compare_arrays("t", np.float32([1]), np.float32([-np.inf])).max_difference == 0


def test_nan_equals_nan_in_every_float_type():
    for dtype in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
        x = np.array([np.nan, 1, 2]).astype(dtype)
        assert compare_arrays("t", x, x.copy()).equal
        other = np.array([np.nan, 1, np.nan]).astype(dtype)
        assert compare_arrays("t", x, other).mismatches == 1
        assert compare_arrays("t", other, x).first == Mismatch((2,), "nan", 2.0)


def test_a_scalar_has_an_empty_index():
    assert compare_arrays("t", F(1), F(1)).elements == 1
    assert compare_arrays("t", F(1), F(2)).first == Mismatch((), 1.0, 2.0)


def test_a_sequence_or_a_map_is_one_element():
    a, b = np.int8([1, 2]), np.int8([1, 3])
    same = compare_arrays("t", [a, {"k": b}], [a, {"k": b}], node="n", operator="o")
    assert same == Comparison("t", "n", "o", "bool", (), 1, 0, 0, None)
    for ours, theirs in (
        ([a, b], [a, a]), ([a], [a, a]), ([a, a], [a]), ((a, b), [a, a]), (a, [a, a]),
        ({"k": a}, {"k": b}), ({"k": a, "l": a}, {"k": a}), ({}, {"k": a}), ([a], {"k": a}),
        ([{"k": [a]}], [{"k": [b]}]), (None, []),
    ):  # fmt: skip
        found = compare_arrays("t", ours, theirs)
        assert found == Comparison("t", "", "", "bool", (), 1, 1, 1, Mismatch((), False, True))
    for value in ([], {}, (a, b), [a, (b,)]):
        assert compare_arrays("t", value, value).equal
    assert compare_arrays("t", (a, b), [a, b]).equal  # either kind of sequence
