"""Operators without arithmetic, against ONNX Runtime: MaxPool, Flatten, and the movers."""

import numpy as np
import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from qlinear import ort
from qlinear.errors import Unsupported, UnusableInput
from qlinear.onnx_model import Node
from qlinear.operators import MOVERS, moved, movers
from qlinear.operators.flatten import flatten
from qlinear.operators.max_pool import max_pool, pool_geometry


def integers(rng, shape, dtype=np.int8):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


@st.composite
def pools(draw):
    """Any MaxPool that ONNX Runtime's CPU kernel accepts, small."""
    axes = draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
    attributes = dict(kernel_shape=kernel, strides=[draw(st.integers(1, 4)) for _ in range(axes)])
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto == "NOTSET":
        attributes["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
        attributes["dilations"] = [draw(st.integers(1, 2)) for _ in range(axes)]
        attributes["ceil_mode"] = draw(st.integers(0, 1))
    else:
        attributes["auto_pad"] = auto
    dilations = attributes.get("dilations", [1] * axes)
    size = [draw(st.integers((k - 1) * d + 1, 8)) for k, d in zip(kernel, dilations, strict=True)]
    dtype = draw(st.sampled_from([np.int8, np.uint8]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return integers(
        rng, (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *size), dtype
    ), attributes


@examples(300)
@given(pools())
def test_any_legal_max_pool_equals_ort(case):
    x, attributes = case
    try:
        ours = max_pool(x, **attributes)
    except Unsupported:  # the windows of "same" leave out elements
        assert attributes["auto_pad"].startswith("SAME")
        return
    theirs = ort.run_operator("MaxPool", dict(X=x), **attributes)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert (ours == theirs).all()


def test_without_ceil_mode_a_rest_is_left_out():
    x = integers(np.random.default_rng(0), (1, 2, 7))
    theirs = ort.run_operator("MaxPool", dict(X=x), kernel_shape=[2], strides=[3])
    assert max_pool(x, kernel_shape=[2], strides=[3]).tolist() == theirs.tolist()
    assert theirs.shape == (1, 2, 2)


def test_a_pooling_has_no_ceil_mode_by_default():
    assert pool_geometry((1, 1, 7), kernel_shape=[2], strides=[3]).out == (2,)
    assert pool_geometry((1, 1, 7), kernel_shape=[2], strides=[3], ceil_mode=1).out == (3,)


def test_padding_never_wins_a_max_pool():
    x = np.full((1, 1, 3), -128, np.int8)
    x[0, 0, 1] = -127
    found = max_pool(x, kernel_shape=[2], pads=[1, 1])
    assert found.tolist() == [[[-128, -127, -127, -128]]]
    assert (found == ort.run_operator("MaxPool", dict(X=x), kernel_shape=[2], pads=[1, 1])).all()


@pytest.mark.parametrize(
    ("size", "pads", "stride", "out"),
    [
        (6, [0, 0], 3, 2),  # 2 windows and a rest of 1: one more reaches beyond the image
        (5, [0, 0], 3, 2),  # the windows fit
        (7, [0, 0], 3, 3),
        (4, [0, 1], 3, 2),
        (3, [0, 1], 3, 1),  # one more would start behind the image, in its padding
        (5, [1, 1], 2, 3),
        (6, [1, 0], 3, 3),  # one more starts at the last element, because of the padding before it
    ],
)
def test_where_the_last_window_of_ceil_mode_starts(size, pads, stride, out):
    x = integers(np.random.default_rng(size), (1, 2, size))
    options = dict(kernel_shape=[2], pads=pads, strides=[stride], ceil_mode=1)
    theirs = ort.run_operator("MaxPool", dict(X=x), **options)
    ours = max_pool(x, **options)
    assert ours.shape == theirs.shape and (ours == theirs).all()
    assert ours.shape[2] == out


@pytest.mark.parametrize("axis", [None, -4, -3, -1, 0, 1, 2, 3, 4])
def test_flatten(axis):
    assert flatten(np.array(5, np.int8), axis=0).tolist() == [[5]]  # a scalar has no axis
    x = integers(np.random.default_rng(0), (2, 3, 4, 5))
    options = {} if axis is None else {"axis": axis}
    theirs = ort.run_operator("Flatten", dict(input=x), **options)
    ours = flatten(x, **options)
    assert ours.shape == theirs.shape and (ours == theirs).all()


X = integers(np.random.default_rng(1), (2, 4, 6))
MOVES = [
    ("Concat", [X, X[:, :1]], 1, dict(axis=1)),
    ("Split", [X, np.int64([1, 3])], 2, dict(axis=1)),
    ("Transpose", [X], 1, dict(perm=[2, 0, 1])),
    ("Reshape", [X, np.int64([0, -1])], 1, {}),
    ("Pad", [X, np.int64([0, 1, 0, 0, 0, 2]), np.int8(7)], 1, {}),
    ("Pad", [X, np.int64([1, 2]), None, np.int64([1])], 1, {}),  # an input is left out
    ("Slice", [X, np.int64([1]), np.int64([4]), np.int64([2]), np.int64([2])], 1, {}),
    ("Gather", [X, np.int64([2, 0])], 1, dict(axis=1)),
    ("Squeeze", [X[:1], np.int64([0])], 1, {}),
    ("Identity", [X], 1, {}),
]


@pytest.mark.parametrize(("op_type", "inputs", "count", "attributes"), MOVES)
def test_movers_equal_ort(op_type, inputs, count, attributes):
    assert ("", op_type) in MOVERS
    names = tuple("" if value is None else f"in{i}" for i, value in enumerate(inputs))
    outputs = tuple(f"out{i}" for i in range(count))
    node = Node("node", op_type, "", names, outputs, attributes)
    ours = moved(node, inputs, 21)
    given = {name: np.asarray(v) for name, v in zip(names, inputs, strict=True) if name}
    theirs = session(node, given).run(None, given)
    assert len(ours) == len(theirs) == count
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and (a == b).all()


def session(node, given, opset=21):
    graph = helper.make_graph(
        [helper.make_node(node.op_type, node.inputs, node.outputs, **node.attributes)],
        "mover",
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in given.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.INT8, None) for name in node.outputs],
    )
    imports = [helper.make_opsetid("", opset)]
    return ort.open_session(helper.make_model(graph, opset_imports=imports, ir_version=10))


def test_an_output_that_is_left_out_is_none():
    node = Node("node", "Split", "", ("x",), ("", "b"), dict(axis=1, num_outputs=2))
    assert moved(node, [X], 21)[0] is None
    assert (moved(node, [X], 21)[1] == X[:, 2:]).all()


def test_a_mover_is_computed_as_its_opset_has_it():
    # since opset 13 the axes of Unsqueeze are an input; before, they were an attribute
    node = Node("node", "Unsqueeze", "", ("x",), ("y",), dict(axes=[0]))
    assert moved(node, [X], 11)[0].shape == (1, 2, 4, 6)
    with pytest.raises(Unsupported, match=r"^Unsqueeze: "):
        moved(node, [X], 13)


def test_a_move_that_is_not_possible_is_named_in_one_short_line():
    node = Node("node", "Reshape", "", ("x", "shape"), ("y",), {})
    with pytest.raises(Unsupported, match=r"^Reshape: cannot reshape") as caught:
        moved(node, [X, np.int64([5, 5])], 21)
    text = str(caught.value)
    assert "\n" not in text and len(text) <= len("Reshape: ") + 200
    assert isinstance(caught.value, UnusableInput)
    # of an exception without words its name, and of many words the first 200
    for error, said in ((ValueError(), "ValueError"), (ValueError("x" * 999), "x" * 200)):

        def fails(*_, error=error):
            raise error

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(movers, "ReferenceEvaluator", fails)
            with pytest.raises(Unsupported, match=f"^Reshape: {said}$"):
                moved(node, [X, np.int64([5, 5])], 21)
