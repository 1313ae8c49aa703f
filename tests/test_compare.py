"""The comparison: it must see every difference, and no other."""

import json

import numpy as np
import pytest

from qlinear.compare import compare_arrays


def test_equal_tensors():
    x = np.arange(6, dtype=np.int8).reshape(2, 3)
    found = compare_arrays("t", x, x.copy(), node="n", operator="QLinearConv")
    assert found.equal and found.first is None and found.max_difference == 0
    assert found.elements == 6 and found.shape == (2, 3) and found.dtype == "int8"
    assert json.loads(json.dumps(found.as_json()))["equal"] is True


def test_the_first_mismatch_and_the_largest():
    theirs = np.zeros((2, 3), np.uint8)
    ours = np.array([[0, 0, 1], [0, 255, 0]], np.uint8)
    found = compare_arrays("t", ours, theirs)
    assert found.mismatches == 2 and found.max_difference == 255
    assert (found.first.index, found.first.ours, found.first.ort) == ((0, 2), 1, 0)
    assert str(found) == "2 of 6 elements differ, first at (0, 2): ours 1, ONNX Runtime 0"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (np.zeros(3, np.int8), np.zeros(3, np.uint8)),
        (np.zeros(3, np.int8), np.zeros((1, 3), np.int8)),
        (np.zeros((0,), np.int8), np.zeros((0, 2), np.int8)),
    ],
)
def test_another_type_or_shape_is_no_equality(ours, theirs):
    found = compare_arrays("t", ours, theirs)
    assert not found.equal and found.mismatches >= 1


def test_floats_are_compared_by_value_and_nan_equals_nan():
    theirs = np.float32([np.nan, np.inf, 0.0, 1.0])
    assert compare_arrays("t", np.float32([np.nan, np.inf, -0.0, 1.0]), theirs).equal
    found = compare_arrays(
        "t", np.float32([0, np.inf, 0, np.nextafter(np.float32(1), np.float32(2))]), theirs
    )
    assert found.mismatches == 2 and found.max_difference == pytest.approx(1.2e-7, rel=0.1)
    assert found.first.ort == "nan"
    assert compare_arrays("t", np.float32([1]), np.float32([-np.inf])).max_difference == 0


def test_sequences_and_maps():
    theirs = [{"a": np.float32(1)}, [np.int8([1, 2])]]
    assert compare_arrays("t", [{"a": np.float32(1)}, [np.int8([1, 2])]], theirs).equal
    assert not compare_arrays("t", [{"a": np.float32(1)}, [np.int8([1, 3])]], theirs).equal
    assert not compare_arrays("t", [{"a": np.float32(1)}], theirs).equal
    assert not compare_arrays("t", None, theirs).equal


def test_strings():
    assert compare_arrays("t", np.array(["a", "b"]), np.array(["a", "b"])).equal
    found = compare_arrays("t", np.array(["a", "c"], object), np.array(["a", "b"], object))
    assert found.mismatches == 1 and found.first.ort == "b"
