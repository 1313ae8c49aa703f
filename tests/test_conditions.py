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


# --- what ONNX Runtime quantized itself

LAYER = node("Conv", ["x", "wf", "bf"], ["c"], "layer")


def rounded(made_value, floats, layer=LAYER, constants=None) -> bool:
    """Whether a constant of ONNX Runtime's graph is the file's float one, rounded."""
    constants = {"x_scale": F(0.5), "w_scale": F([0.25, 2])} if constants is None else constants
    file = replace(EMPTY, constants=dict(floats))
    return conditions._rounded(constants, made_value, layer, file)


def test_a_float_bias_is_rounded_in_steps_of_the_accumulator():
    # steps of 0.125 and 1; 2.5 steps and 1.5 steps are ties, to the even 2 and 2
    bias = F([0.3125, 1.5])
    good = np.int32([2, 2])
    assert rounded(good, {"bf": bias})
    assert rounded(good.reshape(2, 1), {"bf": bias.reshape(1, 2)})  # whatever their shapes
    for changed in (np.int32([3, 2]), np.int32([2, 1]), np.int32([2, 2, 0])):
        assert not rounded(changed, {"bf": bias})
    # the division is one of float32: in float64 this is 1151.49 steps
    tie = {"x_scale": F(1), "w_scale": F(float.fromhex("0x1.fe92aa0000000p-1"))}
    floats = F([float.fromhex("0x1.1f12960000000p+10")])
    assert rounded(np.int32([1152]), {"bf": floats}, constants=tie)
    assert not rounded(np.int32([1151]), {"bf": floats}, constants=tie)
    # a QGemm calls its scales otherwise
    other = {"a_scale": F(0.5), "b_scale": F([0.25, 2])}
    gemm = node("Gemm", ["x", "wf", "bf"], ["c"])
    assert rounded(good, {"bf": bias}, gemm, other)
    # no float bias in the file
    assert not rounded(good, {})
    assert not rounded(good, {"bf": bias.astype(np.float64)})
    assert not rounded(good, {"bf": bias}, node("Conv", ["x", "wf"], ["c"]))
    assert not rounded(np.int32([]), {"bf": F([])})


@pytest.mark.parametrize(
    ("floats", "scale", "zero", "codes"),
    [
        ([-1, 0, 1.55], 2.55 / 255, -28, [-128, -28, 127]),
        ([-2.55, -1, -0.5], 2.55 / 255, 127, [-128, 27, 77]),  # widened to contain 0
        ([0.5, 1, 2.55], 2.55 / 255, -128, [-78, -28, 127]),
    ],
)
def test_float_weights_get_one_scale_for_their_range(floats, scale, zero, codes):
    floats, scale = F(floats).reshape(1, 1, 3), F(scale)
    low, high = min(float(floats.min()), 0), max(float(floats.max()), 0)
    assert scale == pytest.approx((high - low) / 255, rel=1e-6)
    scale = F(F(F(high) - F(low)) / F(255))
    codes = np.int8(codes).reshape(floats.shape)
    good = {"x_scale": F(1), "w_scale": scale, "w_zero_point": np.int8(zero)}
    assert rounded(codes, {"wf": floats}, constants=good)
    as_gemm = {"a_scale": F(1), "b_scale": scale, "b_zero_point": np.int8(zero)}
    assert rounded(codes, {"wf": floats}, constants=as_gemm)
    assert rounded(codes, {"wf": floats}, constants={**good, "w_scale": scale.reshape(1)})
    for key, value in (
        ("w_scale", np.nextafter(scale, F(1))), ("w_scale", F([scale, scale])),
        ("w_zero_point", np.int8(zero ^ 1)),
    ):  # fmt: skip
        assert not rounded(codes, {"wf": floats}, constants={**good, key: value})
    assert not rounded(codes ^ 1, {"wf": floats}, constants=good)
    assert not rounded(codes.ravel(), {"wf": floats}, constants=good)


def test_weights_without_a_range_have_no_scale():
    good = {"x_scale": F(1), "w_scale": F(0), "w_zero_point": np.int8(-128)}
    codes = np.full((1, 1, 2), -128, np.int8)
    with np.errstate(all="raise"):
        assert not rounded(codes, {"wf": np.zeros((1, 1, 2), F)}, constants=good)
        huge = F([[[-3e38, 3e38]]])
        assert not rounded(codes, {"wf": huge}, constants={**good, "w_scale": F(np.inf)})


def by_ort(op_type="QLinearConv", *, graph, file, absorbed=(LAYER,), extra=()) -> list[str]:
    """The constants of one layer that ONNX Runtime made, and not as it is recomputed."""
    inputs = QGEMM.inputs if op_type == "QGemm" else QCONV.inputs
    domain = "com.microsoft" if op_type == "QGemm" else ""
    layer = Node("made", op_type, domain, inputs, ("yq",), {})
    models = replace(EMPTY, nodes=(LAYER, *extra), constants=dict(file)), replace(
        EMPTY, nodes=(node("Relu"), layer, node("Relu")), constants=dict(graph)
    )  # fmt: skip
    fusions = (Fusion(layer, tuple(absorbed)),) if absorbed else ()
    network = Network(*models, ort.Settings(), fusions)
    found = conditions.quantized_by_ort(network)
    assert all(made_node is layer for made_node, _ in found)
    return [name for _, name in found]


def test_constants_that_onnx_runtime_made_are_named():
    scales = {"xs": F(0.5), "ws": F([0.25, 2])}
    graph = {**scales, "w": np.zeros((2, 1, 1, 1), np.int8), "b": np.int32([2, 2])}
    # both are the file's own
    assert by_ort(graph=graph, file=graph) == []
    # the bias is not, but is what rounding the float one gives
    file = {"w": graph["w"], "bf": F([0.3125, 1.5])}
    assert by_ort(graph=graph, file=file) == []
    assert by_ort(graph={**graph, "b": np.int32([2, 3])}, file=file) == ["b"]
    # or no layer of the file tells what it was
    assert by_ort(graph=graph, file=file, absorbed=()) == ["b"]
    assert by_ort(graph=graph, file=file, absorbed=[node("MatMul", LAYER.inputs)]) == ["b"]
    gemm = node("Gemm", ["x", "wf", "bf"], ["c"])
    assert by_ort("QGemm", graph=graph, file=file, absorbed=[node("Relu"), gemm]) == []
    assert by_ort("QGemm", graph=graph, file={}, absorbed=[gemm]) == ["w", "b"]
    assert by_ort(graph=graph, file={}) == ["w", "b"]
    # a node of the file computes them, when the file is loaded
    writer = node("DequantizeLinear", ["x"], ["w"])
    assert by_ort(graph=graph, file={}, extra=[writer]) == ["b"]
    # float operators, and what is not a constant, need no constants of this kind
    assert by_ort("QLinearSigmoid", graph=graph, file={}) == []
    assert by_ort(graph=scales, file={}) == []
    # QLinearMatMul calls its weights b
    assert by_ort("QLinearMatMul", graph=graph, file={}) == ["w"]
