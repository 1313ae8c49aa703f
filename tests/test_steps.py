"""The engine a node at a time: what is recomputed, what is borrowed, what is refused and how."""

import re
import weakref

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_verdict import made

from qlinear import engine, ort
from qlinear.errors import Unsupported, UnusableInput
from qlinear.onnx_model import Node, from_proto
from qlinear.operators import OPERATORS
from qlinear.quantized import reads, spread

F = np.float32
FLOAT, INT8, UINT8, INT32 = (
    TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32,
)  # fmt: skip


def node(op_type="Relu", inputs=("x",), outputs=("y",), domain="", **attributes) -> Node:
    return Node("here", op_type, domain, tuple(inputs), tuple(outputs), attributes)


def small():
    """x -> QuantizeLinear -> MaxPool, Reshape (a mover) -> DequantizeLinear -> Relu -> y."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        helper.make_node("MaxPool", ["q"], ["p"], "pool", kernel_shape=[2]),
        helper.make_node("Reshape", ["p", "shape"], ["r"], "reshape"),
        helper.make_node("DequantizeLinear", ["r", "s", "z"], ["d"], "dequantize"),
        helper.make_node("Relu", ["d"], ["y"], "relu"),
    ]
    constants = {"s": F(0.5), "z": np.int8(3), "shape": np.int64([-1])}
    return made(nodes, {"x": (FLOAT, [1, 2, 4])}, {"y": (FLOAT, None)}, constants)


X = F([[[1, -2, 3, 0.25], [9, 9.25, -70, 0]]])
# 2 * x rounded half to even, and 3; the greater of neighbours
Q = [[[5, -1, 9, 3], [21, 21, -128, 3]]]
P = [[[5, 9, 9], [21, 21, 3]]]


def test_a_graph_by_hand():
    steps = list(engine.steps(small(), {"x": X}))
    values = {name: v for step in steps for name, v in step.outputs.items()}
    assert values["q"].tolist() == Q and values["p"].tolist() == P
    assert values["r"].tolist() == [5, 9, 9, 21, 21, 3] and values["r"].dtype == np.int8
    assert values["y"].tolist() == [1, 3, 3, 9, 9, 0]
    assert [step.node.name for step in steps] == [n.name for n in small().nodes]
    assert [step.how for step in steps] == [engine.RECOMPUTED] * 4 + [engine.FLOAT]
    assert [step.quantized for step in steps] == [True] * 4 + [False]
    assert [step.reason for step in steps] == [""] * 5


def test_tensors_are_forgotten_after_their_last_reader(monkeypatch):
    held = []
    real = engine._step

    def watched(model, node, fed, *rest):
        held.append(sorted(fed))
        return real(model, node, fed, *rest)

    monkeypatch.setattr(engine, "_step", watched)
    tensors, gone = {}, {}
    for step in engine.steps(small(), {"x": X}):
        gone[step.node.name] = sorted(k for k, tensor in tensors.items() if tensor() is None)
        tensors.update({name: weakref.ref(value) for name, value in step.outputs.items()})
    assert held == [["x"], ["q"], ["p"], ["r"], ["d"]]
    # r is a view of p, which therefore stays as long as r
    assert gone == {
        "quantize": [], "pool": [], "reshape": ["q"], "dequantize": ["q"], "relu": ["p", "q", "r"],
    }  # fmt: skip
    assert reads(node(inputs=["x", "", "x"])) == ["x"]


def test_a_tensor_with_two_readers_is_kept_for_the_second():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("MaxPool", ["q"], ["p"], kernel_shape=[2]),
        helper.make_node("Identity", ["q"], ["i"]),
        helper.make_node("QLinearAdd", ["i", "s", "z", "q", "s", "z", "s", "z"], ["y"],
                         domain="com.microsoft"),
    ]  # fmt: skip
    model = made(
        nodes, {"x": (FLOAT, [1, 2, 4])}, {"y": (INT8, None), "p": (INT8, None)},
        {"s": F(0.5), "z": np.int8(3)},
    )  # fmt: skip
    (*_, last) = engine.steps(model, {"x": X})
    theirs = ort.session(model).run(["y"], {"x": X})[0]
    assert last.how == engine.RECOMPUTED and (last.outputs["y"] == theirs).all()


def test_an_operator_that_is_not_computed_is_left_out_by_name():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearLeakyRelu", ["q", "s", "z", "s", "z"], ["y"], "leaky",
                         domain="com.microsoft", alpha=0.5),
    ]  # fmt: skip
    constants = {"s": F(0.5), "z": np.int8(3)}
    model = made(nodes, {"x": (FLOAT, [1, 2, 4])}, {"y": (INT8, None)}, constants)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            engine, "OPERATORS", {("", "QuantizeLinear"): OPERATORS["", "QuantizeLinear"]}
        )
        _, left = engine.steps(model, {"x": X})
    assert left.how == engine.LEFT_OUT and left.quantized
    assert left.reason == "com.microsoft.QLinearLeakyRelu is not computed yet"
    theirs = ort.session(model).run(["y"], {"x": X})[0]
    assert (left.outputs["y"] == theirs).all()


def test_what_the_reference_does_not_support_is_left_out_with_the_reason():
    # a float16 scale is legal, but not computed
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], "quantize")]
    model = made(
        nodes, {"x": (TensorProto.FLOAT16, [3])}, {"y": (INT8, None)},
        {"s": np.float16(0.5), "z": np.int8(3)},
    )  # fmt: skip
    (step,) = engine.steps(model, {"x": np.float16([1, -2, 3])})
    assert step.how == engine.LEFT_OUT and step.quantized
    assert step.reason == "QuantizeLinear: x has type float16: float32 needed"
    assert step.outputs["y"].tolist() == [5, -1, 9]


def test_an_illegal_input_is_refused_with_file_and_node():
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], "quantize")]
    constants = {"s": F([0.5, -1]), "z": np.int8([3, 1])}
    model = made(nodes, {"x": (FLOAT, [2, 3])}, {"y": (INT8, None)}, constants)
    with pytest.raises(UnusableInput, match=r"^model: node quantize: y_scale "):
        list(engine.steps(model, {"x": F([[1, 2, 3]] * 2)}))


def test_a_node_that_onnx_runtime_refuses_is_refused():
    model = made(
        [helper.make_node("Add", ["x", "c"], ["y"], "add")],
        {"x": (FLOAT, ["N"])}, {"y": (FLOAT, None)}, {"c": F([1, 2, 3])},
    )  # fmt: skip
    with pytest.raises(UnusableInput, match=r"^model: ONNX Runtime refuses it \(.*add"):
        list(engine.steps(model, {"x": F([1, 2])}))


def test_integer_products_make_what_reads_them_quantized():
    """An int32 tensor is quantized where integer products made it, and otherwise not."""
    nodes = [
        helper.make_node("MatMulInteger", ["a", "b"], ["p"], "products"),
        helper.make_node("Squeeze", ["p", "axis"], ["s"], "mover"),
        helper.make_node("Cast", ["p"], ["f"], "cast", to=FLOAT),
        helper.make_node("Cast", ["i"], ["g"], "other", to=FLOAT),
        helper.make_node("Add", ["f", "g"], ["y"], "add"),
    ]
    model = made(
        nodes, {"a": (UINT8, [1, 2]), "i": (INT32, [1])}, {"y": (FLOAT, None)},
        {"b": np.int8([[1], [2]]), "axis": np.int64([1])},
    )  # fmt: skip
    feeds = {"a": np.uint8([[3, 4]]), "i": np.int32([5])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "OPERATORS", {("", "MatMulInteger"): OPERATORS["", "MatMulInteger"]})
        steps = {step.node.name: step for step in engine.steps(model, feeds)}
    assert steps["add"].outputs["y"].tolist() == [[16]]
    assert {name: step.quantized for name, step in steps.items()} == {
        "products": True, "mover": True, "cast": True, "other": False, "add": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("op_type", "dtype", "quantized"),
    [
        ("Identity", np.int8, True),
        ("Identity", np.uint8, True),
        ("Identity", np.int16, True),
        ("Identity", np.uint16, True),
        ("Identity", np.int32, False),
        ("Identity", np.int64, False),
        ("Identity", F, False),
        ("Identity", bool, False),
        ("ConvInteger", np.int32, True),
        ("MatMulInteger", np.int32, True),
    ],
)
def test_which_tensors_are_quantized(op_type, dtype, quantized):
    model, values = small(), {"in": np.zeros(1, dtype), "out": np.zeros(1, dtype)}
    for given in ({"in": values["in"]}, {"out": values["out"]}, values):
        step = node(op_type, ["in", ""], ["out", ""])
        assert engine.is_quantized(model, step, given) == quantized
    # a constant of the model counts too
    assert engine.is_quantized(model, node("Identity", ["z"], ["unknown"]), {})
    assert not engine.is_quantized(model, node("Identity", ["s"], ["unknown"]), {})
    assert not engine.is_quantized(model, node("Identity", ["unknown"]), {}, {"other"})
    assert engine.is_quantized(model, node("Identity", ["unknown"]), {}, {"unknown"})


def branch(*nodes):
    out = helper.make_tensor_value_info("out", FLOAT, None)
    return helper.make_graph(list(nodes), "branch", [], [out])


@pytest.mark.parametrize(
    ("inner", "quantized"),
    [
        (helper.make_node("Relu", ["d"], ["out"]), False),
        (helper.make_node("QuantizeLinear", ["d"], ["out"]), True),
        (helper.make_node("QLinearMatMul", ["d"], ["out"]), True),
        (helper.make_node("DequantizeLinear", ["d"], ["out"]), True),
        (helper.make_node("MatMulInteger", ["d"], ["out"]), True),
        (helper.make_node("DynamicQuantizeMatMul", ["d"], ["out"]), True),
    ],
)
def test_quantized_operators_in_subgraphs(inner, quantized):
    relu, model = helper.make_node("Relu", ["d"], ["e"]), small()
    flat = node("If", ["x"], then_branch=branch(relu, inner), count=3)
    assert engine.is_quantized(model, flat, {}) == quantized
    deep = helper.make_node("If", ["c"], ["out"], then_branch=branch(inner), else_branch=branch())
    nested = node("If", ["x"], then_branch=branch(relu, deep))
    assert engine.is_quantized(model, nested, {}) == quantized
    other = helper.make_node("If", ["c"], ["out"], then_branch=branch(), else_branch=branch(inner))
    assert engine.is_quantized(model, node("If", ["x"], body=branch(other)), {}) == quantized


@pytest.mark.parametrize(
    ("inner", "quantized"),
    [
        (helper.make_node("Cast", ["d"], ["out"], to=INT8), True),
        (helper.make_node("Cast", ["d"], ["out"], to=INT32), False),
        (helper.make_node("RandomUniformLike", ["d"], ["out"], dtype=UINT8), True),
        (helper.make_node("New", ["d"], ["out"], output_dtype=INT8), True),
        (helper.make_node("New", ["d"], ["out"], to=9999), False),  # no type that ONNX has
        (helper.make_node("BitShift", ["d", "d"], ["out"], direction="LEFT"), True),
        (helper.make_node("BitwiseAnd", ["d", "d"], ["out"]), True),
        (helper.make_node("Pad", ["d"], ["out"], axis=INT8), False),  # a number, not a type
        (
            helper.make_node(
                "Constant", [], ["out"], value=numpy_helper.from_array(np.int8([1]), "v")
            ), True,
        ),
        (
            helper.make_node("Constant", [], ["out"], value=numpy_helper.from_array(F([1]), "v")),
            False,
        ),
    ],
)  # fmt: skip
def test_types_and_constants_in_subgraphs(inner, quantized):
    held = node("If", ["x"], then_branch=branch(inner))
    assert engine.is_quantized(small(), held, {}) == quantized
    assert (
        engine.is_quantized(small(), node("Scan", ["x"], bodies=[branch(inner)]), {}) == quantized
    )


def test_constants_of_a_subgraph_are_looked_at():
    for value, quantized in ((np.int8([1]), True), (F([1]), False), (np.int32([1]), False)):
        graph = branch(helper.make_node("Relu", ["d"], ["out"]))
        graph.initializer.append(numpy_helper.from_array(value, "d"))
        assert engine.is_quantized(small(), node("If", ["x"], body=graph), {}) == quantized


def test_what_comes_of_integer_products():
    """It is followed through integers, however moved or changed, and ends in floats and lengths."""
    integers, floats = {"y": np.int32([1])}, {"y": F([1])}
    for op_type in ("ConvInteger", "MatMulInteger"):
        assert spread(node(op_type, ["x"], ["y", ""]), {}, set()) == {"y"}
    assert spread(node("Add", ["p", "x"]), integers, {"p"}) == {"y"}
    assert spread(node("Add", ["p", "x"]), {"y": np.uint32([1])}, {"p"}) == {"y"}
    assert spread(node("Add", ["q", "x"]), integers, {"p"}) == set()
    assert spread(node("Cast", ["p"]), floats, {"p"}) == set()
    for op_type in ("Shape", "Size"):
        assert spread(node(op_type, ["p"]), integers, {"p"}) == set()
        assert not engine.is_quantized(small(), node(op_type, ["p"]), {"p": np.int8([1])}, {"p"})


def test_what_a_node_reads():
    assert reads(node(inputs=["x", "", "x", "y"])) == ["x", "y"]
    inner = branch(
        helper.make_node("Add", ["a", "b"], ["c"]), helper.make_node("Mul", ["c", "k"], ["d"]),
        helper.make_node("If", ["e"], ["f"], then_branch=branch(
            helper.make_node("Relu", ["outermost"], ["g"])), else_branch=branch()),
        helper.make_node("Scan", ["e"], ["h"], bodies=[
            branch(helper.make_node("Relu", ["listed"], ["g"]))]),
    )  # fmt: skip
    inner.initializer.append(numpy_helper.from_array(F([1]), "k"))
    inner.input.append(helper.make_tensor_value_info("b", FLOAT, None))
    # what it makes, stores, or is given is its own; "out" is an output that it does not make
    for holder in (node("If", ["x", "a"], body=inner), node("Scan", ["x"], bodies=[inner, inner])):
        assert sorted(reads(holder)) == ["a", "e", "listed", "out", "outermost", "x"]


# --- one node


def test_inputs_come_from_the_tensors_then_from_the_constants():
    model = small()
    found = engine.arguments(model, node(inputs=["x", "", "s", "z"]), {"x": X, "z": np.int8(9)})
    assert found[0] is X and found[1] is None and found[2] == F(0.5)
    assert found[3] == 9  # a tensor goes before a constant of its name
    with pytest.raises(UnusableInput, match=r"^model: node here: input nope is not defined$"):
        engine.arguments(model, node(inputs=["x", "nope"]), {"x": X})


def test_an_unknown_operator_is_named_beside_the_known_ones():
    known = {("", "B"): abs, ("com.microsoft", "A"): abs}
    assert engine.operator(node("B"), known) is abs
    message = "node here: operator com.microsoft.B is not supported (those that are: A, B)"
    with pytest.raises(UnusableInput, match=f"^{re.escape(message)}$"):
        engine.operator(node("B", domain="com.microsoft"), known)
    assert engine.operator(node("QuantizeLinear")) is OPERATORS["", "QuantizeLinear"]


def test_one_node_is_computed_by_the_table_that_is_given():
    model = small()
    values = {"x": X}
    quantize, pool, reshape, *_ = model.nodes
    assert engine.compute(model, quantize, values).tolist() == Q
    # another table, with another function under the name
    other = {("", "QuantizeLinear"): lambda x, scale, zero: x * 0 + scale * zero}
    assert (engine.compute(model, quantize, values, other) == 1.5).all()
    # a mover needs no table, but one that has it goes before
    values["p"] = np.int8(P)
    assert engine.compute(model, reshape, values).tolist() == [5, 9, 9, 21, 21, 3]
    own = {("", "Reshape"): lambda x, shape: shape}
    assert engine.compute(model, reshape, values, own).tolist() == [-1]
    # attributes are passed by name
    given = {"q": np.int8(Q)}
    assert engine.compute(model, pool, given).tolist() == P


def test_of_several_outputs_compute_gives_the_first():
    model = small()
    table = {("", "MaxPool"): lambda *_, **__: (np.int8([1]), np.int8([2]))}
    assert engine.compute(model, model.nodes[1], {"q": np.int8(Q)}, table).tolist() == [1]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UnusableInput("w is bad"), "model: node pool: w is bad"),
        (TypeError("no such"), "model: node pool (MaxPool): no such"),
        (ValueError("shapes"), "model: node pool (MaxPool): shapes"),
    ],
)
def test_what_goes_wrong_in_a_node_is_said_with_its_name(error, message):
    def fails(*_, **__):
        raise error

    model = small()
    with pytest.raises(UnusableInput, match=f"^{re.escape(message)}$"):
        engine.compute(model, model.nodes[1], {"q": np.int8(Q)}, {("", "MaxPool"): fails})


def test_a_nodes_outputs_are_arrays_by_name(monkeypatch):
    model = small()
    pool = model.nodes[1]
    assert engine.computed(model, pool, {"q": np.int8(Q)})["p"].tolist() == P
    two = node("Pair", ["x"], ["a", "", "c"])
    monkeypatch.setitem(engine.OPERATORS, ("", "Pair"), lambda x: (np.int8(1), np.int8(2), 3))
    found = engine.computed(model, two, {"x": X})
    assert found == {"a": 1, "c": 3} and all(isinstance(v, np.ndarray) for v in found.values())
    single = node("Pair", ["x"], ["a"])
    assert engine.computed(model, single, {"x": X}) == {"a": 1}  # what it does not name is left
    monkeypatch.setitem(engine.OPERATORS, ("", "Pair"), lambda x: x + 1)
    assert (engine.computed(model, single, {"x": X})["a"] == X + 1).all()
    for error in (TypeError("this way"), ValueError("this way")):

        def fails(_, error=error):
            raise error

        monkeypatch.setitem(engine.OPERATORS, ("", "Pair"), fails)
        with pytest.raises(Unsupported, match=r"^this way$"):
            engine.computed(model, single, {"x": X})


# --- the whole graph


def test_what_is_fed_is_named():
    model = small()
    assert engine.feeds_of(model, X) == {"x": X}
    given = {"x": X}
    found = engine.feeds_of(model, given)
    assert found == given and found is not given  # run adds to it
    two = made(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        {"a": (FLOAT, [1]), "b": (FLOAT, [1])}, {"y": (FLOAT, None)}, {},
    )  # fmt: skip
    with pytest.raises(UnusableInput, match=r"^model: 2 inputs \(a, b\); feed each by name$"):
        engine.feeds_of(two, X)


def quantized():
    """As ``small``, but without the float operator at its end."""
    model = small()
    del model.proto.graph.node[4]
    model.proto.graph.output[0].name = "d"
    return from_proto(model.proto)


def test_a_run_returns_every_tensor():
    model = quantized()
    found = engine.run(model, X)
    assert list(found) == ["x", "q", "p", "r", "d"]
    assert found["q"].tolist() == Q and found["d"].tolist() == [1, 3, 3, 9, 9, 0]
    assert engine.run(model, {"x": X})["d"].tolist() == found["d"].tolist()
    zeros = {**OPERATORS, ("", "MaxPool"): lambda x, **_: x[..., :3] * 0}
    assert engine.run(model, X, zeros)["d"].tolist() == [-1.5] * 6


def test_a_run_refuses_before_it_works():
    model, seen = quantized(), []
    table = {("", "QuantizeLinear"): lambda *inputs: seen.append(inputs)}
    with pytest.raises(UnusableInput, match="operator MaxPool is not supported"):
        engine.run(model, X, table)
    assert not seen


def test_a_comparison_names_tensor_node_and_operator():
    model = quantized()
    checks = engine.compare(model, X)
    assert [(c.tensor, c.node, c.operator) for c in checks] == [
        ("q", "quantize", "QuantizeLinear"), ("p", "pool", "MaxPool"),
        ("r", "reshape", "Reshape"), ("d", "dequantize", "DequantizeLinear"),
    ]  # fmt: skip
    assert all(c.equal for c in checks)
    # against tensors that are known already, and one of them differs
    theirs = engine.run(model, X)
    theirs["p"] = theirs["p"] + 1
    assert [c.mismatches for c in engine.compare(model, X, theirs)] == [0, 6, 0, 0]
    assert engine.compare(model, {"x": X}, theirs)[1].first.ort == 6


def test_of_a_node_with_several_outputs_the_first_is_compared():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("Split", ["q", "sizes"], ["a", "b"], axis=2),
    ]
    constants = {"s": F(0.5), "z": np.int8(3), "sizes": np.int64([1, 3])}
    model = made(nodes, {"x": (FLOAT, [1, 2, 4])}, {"a": (INT8, None)}, constants)
    checks = engine.compare(model, X)
    assert [(c.tensor, c.elements, c.mismatches) for c in checks] == [("q", 8, 0), ("a", 2, 0)]


def test_an_output_that_is_not_computed_makes_a_node_unsupported(monkeypatch):
    monkeypatch.setitem(engine.OPERATORS, ("", "Pair"), lambda x: x)
    for outputs in (["a", "b"], ["a", "", "b"]):
        with pytest.raises(Unsupported, match=r"^its output b is not computed$"):
            engine.computed(small(), node("Pair", ["x"], outputs), {"x": X})
    assert list(engine.computed(small(), node("Pair", ["x"], ["a", ""]), {"x": X})) == ["a"]


def test_what_hangs_on_constants_alone_is_computed_in_order():
    nodes = [
        helper.make_node("Relu", ["x"], ["o"], "other"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], "dequantize"),
        helper.make_node("Relu", ["d"], ["r"], "relu"),
        helper.make_node("Add", ["r", "x"], ["y"], "add"),
        helper.make_node("RandomNormal", [], ["n"], "random", shape=[1]),
    ]
    constants = {"w": np.int8([1, -2]), "s": F(0.5), "z": np.int8(0)}
    model = made(nodes, {"x": (FLOAT, [2])}, {"y": (FLOAT, None)}, constants)
    steps = list(engine.constant_steps(model))
    assert [(step.node.name, step.how) for step in steps] == [
        ("dequantize", engine.RECOMPUTED), ("relu", engine.FLOAT),
    ]  # fmt: skip
    assert steps[1].outputs["r"].tolist() == [0.5, 0]
    assert [step.quantized for step in steps] == [True, False]


def test_constants_that_come_of_integer_products_are_quantized():
    nodes = [
        helper.make_node("MatMulInteger", ["a", "b"], ["p"], "products"),
        helper.make_node("Neg", ["p"], ["n"], "first"),
        helper.make_node("Abs", ["p"], ["m"], "second"),
        helper.make_node("Max", ["n", "m"], ["o"], "both"),
        helper.make_node("Neg", ["i"], ["k"], "other"),
        helper.make_node("Add", ["o", "x"], ["y"], "add"),
    ]
    constants = {"a": np.uint8([[3, 4]]), "b": np.int8([[1], [2]]), "i": np.int32([5])}
    model = made(nodes, {"x": (INT32, [1])}, {"y": (INT32, None)}, constants)
    steps = {step.node.name: step for step in engine.constant_steps(model)}
    assert list(steps) == ["products", "first", "second", "both", "other"]
    assert steps["both"].outputs["o"].tolist() == [[11]]
    assert {name for name, step in steps.items() if not step.quantized} == {"other"}
