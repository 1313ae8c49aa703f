"""Equalization by powers of two: the same float network to the bit, and ranges that meet."""

import itertools

import numpy as np
import onnx
import pytest
from conftest import MODELS
from onnx import TensorProto, helper, numpy_helper

from qlinear.errors import UnusableInput
from qlinear.inputs import load_samples
from qlinear.onnx_model import Model, from_proto, load
from qlinear.ort import tensors
from study import equalize

X = load_samples()[0][:4].astype(np.float32)


@pytest.fixture(scope="module")
def relu() -> Model:
    """The float MobileNet with ReLU for ReLU6."""
    return equalize.without_clips(load(MODELS / "mobilenet.onnx"))


def network(nodes: list[tuple], constants: dict, x: tuple, y: str) -> Model:
    """A float network of (operator, inputs, output, attributes)."""
    made = [helper.make_node(op, i, [o], o, **attributes) for op, i, o, attributes in nodes]
    stored = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()]
    graph = helper.make_graph(
        made, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)],
        stored,
    )  # fmt: skip
    opset = [helper.make_opsetid("", 21)]
    return from_proto(helper.make_model(graph, opset_imports=opset, ir_version=10))


def test_relu6_becomes_relu_and_nothing_else_changes(relu):
    before = load(MODELS / "mobilenet.onnx")
    assert [n.name for n in relu.nodes] == [n.name for n in before.nodes]
    assert len(relu.of_type("Relu")) == len(before.of_type("Clip")) == 15
    assert not relu.of_type("Clip") and "six" not in relu.constants
    onnx.checker.check_model(relu.proto, full_check=True)
    old, new = tensors(before, X), tensors(relu, X)
    first = before.of_type("Clip")[0]
    assert (np.maximum(old[first.inputs[0]], 0) == new[first.outputs[0]]).all()
    assert (old[first.outputs[0]] == np.clip(old[first.inputs[0]], 0, 6)).all()


def test_a_clip_that_is_no_relu6_is_refused():
    constants = {"low": -1, "high": 6}
    model = network([("Clip", ["x", "low", "high"], "y", {})], constants, (1, 2, 4, 4), "y")
    with pytest.raises(UnusableInput, match="node y: its lower bound is not 0"):
        equalize.without_clips(model)
    model = network([("Clip", ["x", "", "high"], "y", {})], constants, (1, 2, 4, 4), "y")
    with pytest.raises(UnusableInput, match="its lower bound is not 0"):
        equalize.without_clips(model)


def test_pairs_are_those_that_nothing_else_reads(relu):
    found = [(first.name, second.name) for first, second in equalize.pairs(relu)]
    inside = [("stem", "block1_depthwise"), ("block1_depthwise", "block1_project"),
              ("block1_project", "block2_expand")]  # fmt: skip
    for i in range(2, 8):
        names = [f"block{i}_{which}" for which in ("expand", "depthwise", "project")]
        inside += itertools.pairwise(names)
    # block 2 ends in a residual's first reader, 4 and 6 too; 3, 5 and 7 in the addition
    assert found == [*inside, ("head", "dense")]


@pytest.mark.parametrize(
    ("second", "options"),
    [
        (("Gemm", ["f", "v"], "y", {}), {"v": (3, 5)}),  # not transposed
        (("Gemm", ["f", "v"], "y", {"transB": 1}), {"v": (5, 3)}),
    ],
)
def test_a_dense_layer_is_scaled_along_its_inputs(second, options):
    rng = np.random.default_rng(0)
    nodes = [
        ("Conv", ["x", "w"], "c", {}),
        ("Relu", ["c"], "r", {}),
        ("GlobalAveragePool", ["r"], "p", {}),
        ("Flatten", ["p"], "f", {}),
        second,
    ]
    w = rng.normal(0, 1, (3, 2, 1, 1)) * np.array([1, 100, 0.01])[:, None, None, None]
    model = network(nodes, {"w": w, "v": rng.normal(0, 1, options["v"])}, (1, 2, 4, 4), "y")
    pairs = equalize.pairs(model)
    if not second[3]:
        assert pairs == []
        return
    made = equalize.equalized(model)
    x = rng.normal(0, 1, (1, 2, 4, 4)).astype(np.float32)
    assert (tensors(made, x)["y"] == tensors(model, x)["y"]).all()
    assert not (made.constants["w"] == model.constants["w"]).all()


def test_a_tensor_with_two_readers_and_a_grouped_layer_are_no_pair():
    w = np.ones((4, 4, 1, 1))
    two = [("Conv", ["x", "w"], "c", {}), ("Relu", ["c"], "r", {}), ("Conv", ["r", "w"], "d", {}),
           ("Add", ["d", "r"], "y", {})]  # fmt: skip
    assert equalize.pairs(network(two, {"w": w}, (1, 4, 4, 4), "y")) == []
    grouped = [("Conv", ["x", "w"], "c", {}), ("Conv", ["c", "v"], "y", {"group": 2})]
    model = network(grouped, {"w": w, "v": np.ones((4, 2, 1, 1))}, (1, 4, 4, 4), "y")
    assert equalize.pairs(model) == []
    # an output channel for every two input channels, and two for each
    wide = np.ones((8, 4, 1, 1))
    twice = [("Conv", ["x", "w"], "c", {}), ("Conv", ["c", "v"], "y", {"group": 4})]
    model = network(twice, {"w": wide, "v": np.ones((4, 2, 1, 1))}, (1, 4, 4, 4), "y")
    assert equalize.pairs(model) == []
    model = network(twice, {"w": w, "v": np.ones((8, 1, 1, 1))}, (1, 4, 4, 4), "y")
    assert equalize.pairs(model) == []


def test_what_the_caller_reads_and_shared_weights_are_not_moved():
    nodes = [("Conv", ["x", "w"], "c", {}), ("Conv", ["c", "v"], "d", {})]
    one = np.ones((4, 4, 1, 1))
    for seen, expected in (("d", 1), ("c", 0)):
        model = network(nodes, {"w": one, "v": one}, (1, 4, 4, 4), seen)
        assert len(equalize.pairs(model)) == expected
    # the second layer's weights are the first's
    again = [("Conv", ["x", "w"], "c", {}), ("Conv", ["c", "w"], "d", {})]
    assert equalize.pairs(network(again, {"w": one}, (1, 4, 4, 4), "d")) == []
    # one bias for both layers: divided for the first, it would change the second
    biased = [("Conv", ["x", "w", "b"], "c", {}), ("Conv", ["c", "v", "b"], "d", {})]
    stored = {"w": one, "v": one, "b": np.ones(4)}
    assert equalize.pairs(network(biased, stored, (1, 4, 4, 4), "d")) == []
    # weights that are computed
    fed = [("Conv", ["x", "x"], "c", {}), ("Conv", ["c", "v"], "d", {})]
    assert equalize.pairs(network(fed, {"v": one}, (4, 4, 1, 1), "d")) == []


def test_a_layer_of_one_input_channel_is_not_depthwise():
    nodes = [("Conv", ["x", "w"], "c", {}), ("Conv", ["c", "v"], "y", {})]
    constants = {"w": np.full((1, 2, 1, 1), 16.0), "v": np.ones((3, 1, 1, 1))}
    model = network(nodes, constants, (1, 2, 4, 4), "y")
    assert not equalize.is_depthwise(model, model.nodes[1])
    made = equalize.equalized(model)
    assert made.constants["w"].tolist() == [[[[4]], [[4]]]]
    assert made.constants["v"].ravel().tolist() == [4, 4, 4]


def test_an_equalized_network_computes_the_same_bits(relu):
    equal = equalize.equalized(relu)
    assert (tensors(equal, X)["logits"] == tensors(relu, X)["logits"]).all()
    moved = [n.name for n in relu.of_type("Conv")
             if (relu.constants[n.inputs[1]] != equal.constants[n.inputs[1]]).any()]  # fmt: skip
    assert len(moved) > 10
    for first, second in equalize.pairs(equal):
        axis = 0 if equalize.is_depthwise(equal, second) else 1
        a = equalize.peaks(equal.constants[first.inputs[1]])
        b = equalize.peaks(equal.constants[second.inputs[1]], axis)
        assert (a <= 2 * b).all() and (b <= 2 * a).all()
    again = equalize.equalized(equal)
    assert all((again.constants[k] == v).all() for k, v in equal.constants.items())


def test_a_network_drawn_apart_computes_the_same_bits(relu):
    drawn = equalize.spread(relu, most=5)
    wanted = tensors(relu, X)["logits"]
    assert (tensors(drawn, X)["logits"] == wanted).all()
    assert (tensors(equalize.equalized(drawn), X)["logits"] == wanted).all()
    node = next(n for n in relu.of_type("Conv") if n.name == "block7_depthwise")
    factors = drawn.constants[node.inputs[1]] / relu.constants[node.inputs[1]]
    each = factors.reshape(256, -1)
    assert (each == each[:, :1]).all()
    assert sorted(set(np.log2(each[:, 0]).tolist())) == [0, 1, 2, 3, 4, 5]


def test_a_channel_of_zeros_is_left_alone():
    w, v = np.ones((3, 2, 1, 1)), np.full((2, 3, 1, 1), 64.0)
    w[1] = 0
    v[:, 2] = 0
    nodes = [("Conv", ["x", "w"], "c", {}), ("Conv", ["c", "v"], "y", {})]
    made = equalize.equalized(network(nodes, {"w": w, "v": v}, (1, 2, 4, 4), "y"))
    assert made.constants["w"][:, 0, 0, 0].tolist() == [8, 0, 1]
    assert made.constants["v"][0, :, 0, 0].tolist() == [8, 64, 0]


def test_a_factor_that_would_round_is_refused(relu):
    pair = equalize.pairs(relu)[0]
    with pytest.raises(UnusableInput, match="no power of two"):
        equalize.moved(relu, pair, np.full(16, 3.0))
