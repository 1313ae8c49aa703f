"""The conditions under which a fusion is exact, each on records made by hand: met, and broken."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper
from test_verdict import made

from qlinear import conditions, ort
from qlinear.fuse import Fusion, Network
from qlinear.onnx_model import Node

F = np.float32
EMPTY = made(
    [helper.make_node("Relu", ["x"], ["y"])],
    {"x": (TensorProto.FLOAT, [1])}, {"y": (TensorProto.FLOAT, None)}, {},
)  # fmt: skip


def node(op_type, inputs=("x",), outputs=("y",), name="", **attributes) -> Node:
    domain = "com.microsoft" if op_type == "QGemm" else ""
    return Node(name or op_type.lower(), op_type, domain, tuple(inputs), tuple(outputs), attributes)


def broken(condition, made_node, absorbed, file=(), graph=()) -> list[str]:
    """What a condition says of one fusion, with the constants of the file and of ORT's graph."""
    fusion = Fusion(made_node, tuple(absorbed))
    models = (replace(EMPTY, constants=dict(constants)) for constants in (file, graph))
    return list(condition(fusion, Network(*models, ort.Settings(), (fusion,))))


QCONV = node(
    "QLinearConv", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["yq"], "conv"
)  # fmt: skip
QGEMM = node("QGemm", ["q", "xs", "xz", "w", "ws", "wz", "b", "ys", "yz"], ["yq"], "gemm")


# --- the axis of the weights' scales

W4, W2 = np.zeros((2, 3, 4, 5), np.int8), np.zeros((3, 4), np.int8)
AXIS = "although w is scaled along axis {}, which it takes for axis {}"


@pytest.mark.parametrize(
    ("layer", "w", "attributes", "found"),
    [
        (node("Conv", ["x", "wd"]), W4, dict(axis=0), []),
        (node("Conv", ["x", "wd"]), W4, dict(axis=-4), []),  # the same axis
        (node("Conv", ["x", "wd"]), W4, dict(axis=1), [AXIS.format(1, 0)]),
        (node("Conv", ["x", "wd"]), W4, dict(axis=-1), [AXIS.format(3, 0)]),
        (node("Conv", ["x", "wd"]), W4, {}, [AXIS.format(1, 0)]),  # ONNX's default axis is 1
        (node("MatMul", ["x", "wd"]), W2, dict(axis=1), []),
        (node("MatMul", ["x", "wd"]), W2, dict(axis=0), [AXIS.format(0, 1)]),
        (node("MatMul", ["x", "wd"]), W2[None], dict(axis=2), []),
        (node("MatMul", ["x", "wd"]), W2[None], dict(axis=1), [AXIS.format(1, 2)]),
        (node("Gemm", ["x", "wd"]), W2, dict(axis=1), []),
        (node("Gemm", ["x", "wd"], transB=0), W2, dict(axis=0), [AXIS.format(0, 1)]),
        (node("Gemm", ["x", "wd"], transB=1), W2, dict(axis=0), []),
        (node("Gemm", ["x", "wd"], transB=1), W2, dict(axis=1), [AXIS.format(1, 0)]),
        (node("Relu", ["x", "wd"]), W4, dict(axis=1), []),  # no layer
        (
            node("Conv", ["x", "wd"]), W4, dict(axis=0, block_size=2),
            ["although the scales of w belong to blocks"],
        ),
        (node("Conv", ["x", "wd"]), W4, dict(axis=0, block_size=0), []),
    ],
)  # fmt: skip
def test_weights_are_scaled_along_the_axis_of_the_outputs(layer, w, attributes, found):
    dequantize = node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], **attributes)
    constants = {"w": w, "ws": F([1, 2])}
    given = [node("QuantizeLinear", ["x"], ["q"]), dequantize, layer]
    assert broken(conditions.weights_axis, QCONV, given, constants) == found


def test_where_the_axis_of_the_weights_does_not_matter():
    layer = node("Conv", ["x", "wd"])
    dequantize = node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1)
    both = [dequantize, layer]
    for constants in ({"w": W4, "ws": F(1)}, {"w": W4, "ws": F([1])}, {"w": W4}, {"ws": F([1, 2])}):
        assert broken(conditions.weights_axis, QCONV, both, constants) == []
    full = {"w": W4, "ws": F([1, 2])}
    assert broken(conditions.weights_axis, QCONV, [layer], full) == []  # float weights
    other = [node("Transpose", ["w", "ws"], ["wd"], axis=1), layer]
    assert broken(conditions.weights_axis, QCONV, other, full) == []
    # a layer that needs no look does not end the search
    scalar = node("DequantizeLinear", ["w", "one"], ["vd"], axis=1)
    first = [node("Conv", ["x", "nope"]), node("Relu", ["x", "wd"])]
    first += [scalar, node("Conv", ["x", "vd"])]
    found = broken(conditions.weights_axis, QCONV, [*first, *both], {**full, "one": F(1)})
    assert found == [AXIS.format(1, 0)]


# --- the bias

SCALES = {"xs": F(0.5), "ws": F([0.25, 0.5])}
OTHER_SCALE = "although the bias b has another scale than x_scale * w_scale"
ZERO_POINT = "although the bias b has a zero point"


@pytest.mark.parametrize("layer", [QCONV, QGEMM])
@pytest.mark.parametrize(
    ("constants", "found"),
    [
        ({"bs": F([0.125, 0.25])}, []),
        ({"bs": F([0.125, 0.25]) * F(1 + 5e-7)}, []),  # the rounding of the product
        ({"bs": F([0.125, 0.25]) * F(1 + 5e-6)}, [OTHER_SCALE]),
        ({"bs": F([0.125, 0.125])}, [OTHER_SCALE]),
        ({"bs": F([0.125, 0.25]), "bz": np.int32(0)}, []),
        ({"bs": F([0.125, 0.25]), "bz": np.int32([0, 0])}, []),
        ({"bs": F([0.125, 0.25]), "bz": np.int32([0, 1])}, [ZERO_POINT]),
        ({"bs": F([9, 9]), "bz": np.int32(7)}, [OTHER_SCALE, ZERO_POINT]),
        ({}, [OTHER_SCALE]),  # its scale is not a constant
    ],
)
def test_a_bias_is_in_units_of_the_accumulator(layer, constants, found):
    inputs = ["b", "bs", "bz"] if "bz" in constants else ["b", "bs"]
    given = [node("Relu"), node("DequantizeLinear", inputs, ["bd"])]
    file = {"b": np.int32([7, 8]), **constants}
    assert broken(conditions.bias_scale, layer, given, file, SCALES) == found


def test_small_scales_of_a_bias_differ_by_their_ratio():
    given = [node("DequantizeLinear", ["b", "bs"], ["bd"])]
    graph = {"xs": F(1e-5), "ws": F(1e-5)}
    for scale, found in ((1e-10, []), (1.1e-10, [OTHER_SCALE])):
        file = {"b": np.int32([7]), "bs": F(scale)}
        assert broken(conditions.bias_scale, QCONV, given, file, graph) == found


def test_a_scale_of_a_bias_that_is_not_a_constant_is_unknown():
    given = [node("DequantizeLinear", ["b", "bs"], ["bd"])]
    graph = {"xs": F(1), "ws": F(1)}
    assert broken(conditions.bias_scale, QCONV, given, {"b": np.int32([7])}, graph) == [OTHER_SCALE]


def test_what_is_no_bias_has_any_scale():
    wrong = {"b": np.int32([7, 8]), "bs": F([9, 9]), "bz": np.int32([1, 1])}
    bias = node("DequantizeLinear", ["b", "bs", "bz"], ["bd"])
    where = conditions.bias_scale, QCONV

    def count(absorbed, file=wrong, graph=SCALES):
        return len(broken(*where, absorbed, file, graph))

    assert count([bias]) == 2
    assert count([bias], {**wrong, "b": np.int8([7, 8])}) == 0  # 8 bits: weights
    assert count([bias], {"bs": wrong["bs"]}) == 0  # not a constant: activations
    assert count([node("QuantizeLinear", ["b", "bs", "bz"], ["bd"])]) == 0
    assert count([bias], graph={"xs": F(1)}) == count([bias], graph={"ws": F(1)}) == 0
    weights = node("DequantizeLinear", ["w", "bs"], ["wd"])
    activations = node("DequantizeLinear", ["x", "bs"], ["xd"])
    assert count([activations, weights, bias], {**wrong, "w": W4}) == 2  # the search goes on


# --- saturation

RANGE = "although codes of its output lie outside {}'s range"


@pytest.mark.parametrize(
    ("zero", "absorbed", "limits", "holds"),
    [
        (np.int8(-128), node("Relu"), {}, True),
        (np.int8(-127), node("Relu"), {}, False),  # one code stands for a value below 0
        (np.uint8(0), node("Relu"), {}, True),
        (np.uint8(1), node("Relu"), {}, False),
        (np.int8(0), node("Sigmoid"), {}, True),  # which is no limit
        # codes of -128 to 127 times 0.5 stand for -64 to 63.5
        (np.int8(0), node("Clip", ["x", "lo", "hi"]), {"lo": F(-64), "hi": F(63.5)}, True),
        (np.int8(0), node("Clip", ["x", "lo", "hi"]), {"lo": F(-63.75), "hi": F(63.25)}, True),
        (np.int8(0), node("Clip", ["x", "lo", "hi"]), {"lo": F(-63.7), "hi": F(63.5)}, False),
        (np.int8(0), node("Clip", ["x", "lo", "hi"]), {"lo": F(-64), "hi": F(63.2)}, False),
        (np.int8(0), node("Clip", ["x", "lo"]), {"lo": F(-64)}, True),
        (np.int8(0), node("Clip", ["x", "lo"]), {"lo": F(-60)}, False),
        (np.int8(0), node("Clip", ["x", "", "hi"]), {"hi": F(63.5)}, True),
        (np.int8(0), node("Clip", ["x", "", "hi"]), {"hi": F(60)}, False),
        (np.int8(0), node("Clip"), {}, True),  # no limit at all
        (np.int8(-128), node("Clip", ["x", "lo", "hi"]), {"lo": F(0), "hi": F(127.5)}, True),
        (np.int8(-128), node("Clip", ["x", "lo", "hi"]), {"lo": F(0), "hi": F(6)}, False),
    ],
)
def test_saturation_does_what_a_limit_did(zero, absorbed, limits, holds):
    graph = {"ys": F(0.5), "yz": zero}
    found = broken(conditions.saturation, QCONV, [node("Conv"), absorbed], limits, graph)
    assert found == ([] if holds else [RANGE.format(absorbed.name)])
    # every limit is looked at, and without a scale or a zero point nothing is known
    twice = [node("Conv"), absorbed, absorbed]
    assert broken(conditions.saturation, QCONV, twice, limits, graph) == 2 * found
    for known in ({"ys": F(0.5)}, {"yz": zero}):
        assert broken(conditions.saturation, QCONV, twice, limits, known) == []


# --- rounding in between, and Gemm's factors


def test_nothing_rounds_between_the_inputs_and_the_output():
    inside = node("QuantizeLinear", ["h", "s", "z"], ["hq"], "inside")
    last = node("QuantizeLinear", ["c", "s", "z"], ["yq"], "last")
    weights = node("QuantizeLinear", ["w", "s", "z"], ["wq"], "weights")
    dequantize = node("DequantizeLinear", ["hq", "s", "z"], ["hd"])
    absorbed = [weights, inside, dequantize, last]
    found = broken(conditions.two_pairs, QCONV, absorbed, {"w": F([1])})
    assert found == ["although inside rounds in between"]
    assert broken(conditions.two_pairs, QCONV, [weights, last], {"w": F([1])}) == []


@pytest.mark.parametrize(
    ("layer", "file", "graph", "found"),
    [
        ("Gemm", {}, {}, []),
        ("Gemm", dict(alpha=1.0, beta=1.0), {}, []),
        ("Gemm", dict(beta=0.5), {}, ["although gemm has beta 0.5"]),
        ("Gemm", dict(alpha=2.0), {}, ["although gemm has alpha 2.0"]),
        ("Gemm", dict(alpha=2.0), dict(alpha=2.0), []),  # QGemm has it too
        ("Gemm", {}, dict(alpha=2.0), ["although gemm has alpha 1.0"]),
        (
            "Gemm", dict(alpha=3.0, beta=0.0), {},
            ["although gemm has beta 0.0", "although gemm has alpha 3.0"],
        ),
        ("Relu", dict(alpha=2.0, beta=0.5), {}, []),
        ("Relu", {}, dict(alpha=2.0), []),
    ],
)  # fmt: skip
def test_a_gemms_factors(layer, file, graph, found):
    made_node = replace(QGEMM, attributes=graph)
    assert broken(conditions.gemm_factors, made_node, [node(layer, **file)]) == found


# --- all of them

WHY = "although inside rounds in between"


@pytest.mark.parametrize(
    ("op_type", "found"),
    [
        ("QLinearConv", [WHY, "although gemm has beta 0.5"]),
        ("QLinearSigmoid", [WHY, "although gemm has beta 0.5"]),
        ("MatMulInteger", [WHY, "although gemm has beta 0.5"]),
        ("Conv", [WHY]),  # a float operator, for which only rounding counts
    ],
)
def test_what_is_said_of_every_fusion(op_type, found):
    absorbed = (
        node("QuantizeLinear", ["h", "s", "z"], ["hq"], "inside"),
        node("Gemm", ["x", "w"], ["c"], beta=0.5),
        node("QuantizeLinear", ["c", "s", "z"], ["yq"], "last"),
    )
    fusions = tuple(
        Fusion(Node(name, op_type, "", ("q",), ("yq",), {}), absorbed) for name in ("a", "b")
    )
    network = Network(EMPTY, EMPTY, ort.Settings(), fusions)
    assert conditions.broken(network) == [
        f"ONNX Runtime makes {name} a {op_type} {why}" for name in ("a", "b") for why in found
    ]
    assert conditions.broken(replace(network, fusions=())) == []
