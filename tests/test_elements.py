"""One element of each operator, worked out from scalars: it ends at ONNX Runtime's value."""

import numpy as np
import onnx
import pytest
from conftest import quantizes
from networks import NETWORKS, quantized
from onnx import TensorProto, helper

from qlinear import oracle
from qlinear.elements import EXPLAINED, explain, has_explanation
from qlinear.errors import UnusableInput
from qlinear.onnx_model import Model, from_proto
from qlinear.operators import MOVERS, OPERATORS
from qlinear.ort import borrower, operator_model

F, I8, U8, I32 = np.float32, np.int8, np.uint8, np.int32
CONTRIB = "com.microsoft"
rng = np.random.default_rng(5)


def draw(dtype, *shape):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def conv(x_shape, w_shape, x_type=I8, **constants):
    M = w_shape[0]
    return dict(
        x=draw(x_type, *x_shape), x_scale=F(0.1), x_zero_point=x_type(7), w=draw(I8, *w_shape),
        w_scale=rng.uniform(0.001, 0.01, M).astype(F), w_zero_point=np.zeros(M, I8),
        y_scale=F(0.3), y_zero_point=x_type(20), B=rng.integers(-3000, 3000, M).astype(I32),
    ) | constants  # fmt: skip


def two(a_shape, b_shape, a=0.11, b=0.07, c=0.13):
    return dict(A=draw(I8, *a_shape), A_scale=F(a), A_zero_point=I8(-3), B=draw(I8, *b_shape),
                B_scale=F(b), B_zero_point=I8(5), C_scale=F(c), C_zero_point=I8(9))  # fmt: skip


def matmul(a_shape, b_shape, columns):
    b_scale = rng.uniform(0.01, 0.02, columns).astype(F)
    return dict(
        a=draw(U8, *a_shape), a_scale=F(0.02), a_zero_point=U8(90), b=draw(I8, *b_shape),
        b_scale=b_scale if columns else F(0.01), b_zero_point=np.zeros(columns, I8),
        y_scale=F(0.4), y_zero_point=U8(130),
    )  # fmt: skip


def gemm(**more):
    return dict(
        A=draw(U8, 3, 20), a_scale=F(0.02), a_zero_point=U8(90), B=draw(I8, 20, 4),
        b_scale=F([0.01, 0.02, 0.03, 0.001]), b_zero_point=I8([0, 0, 0, 0]),
    ) | more  # fmt: skip


def pool(shape=(2, 3, 7, 6)):
    return dict(X=draw(U8, *shape), x_scale=F(0.3), x_zero_point=U8(100), y_scale=F(0.29),
                y_zero_point=U8(10))  # fmt: skip


def one(**more):
    return dict(X=np.arange(-128, 128).astype(I8), X_scale=F(0.06), X_zero_point=I8(3),
                Y_scale=F(1 / 256), Y_zero_point=I8(-128)) | more  # fmt: skip


DENSE = dict(A=draw(U8, 3, 20), B=draw(I8, 20, 4), a_scale=F(0.1), b_scale=F([1, 2, 3, 4]),
             a_zero_point=U8(9), b_zero_point=I8([1, 2, 0, -4]))  # fmt: skip
BIAS = rng.integers(-9999, 9999, 4).astype(I32)
HALF = dict(x_scale=F(3.5), y_scale=F(3.5), y_zero_point=U8(11))  # means that are ties
SMALL = dict(scale=F(0.1), zero=I8(4))
# domain, operator, inputs, attributes
CASES = [
    ("", "QLinearConv", conv((2, 4, 9), (6, 2, 3)), dict(group=2, pads=[1, 2], dilations=[2])),
    ("", "QLinearConv", conv((1, 4, 5, 6), (6, 2, 3, 2), U8), dict(group=2, strides=[2, 1])),
    ("", "QLinearConv", conv((1, 2, 4, 5, 3), (4, 2, 3, 3, 2)), dict(pads=[1, 0, 1, 0, 1, 0])),
    ("", "QLinearConv", conv((1, 3, 9), (3, 1, 3), B=None), dict(group=3, auto_pad="SAME_UPPER")),
    ("", "ConvInteger", dict(x=draw(U8, 1, 2, 7), w=draw(I8, 4, 2, 3), z=U8(9)), dict(pads=[1, 1])),
    ("", "ConvInteger", dict(x=draw(U8, 1, 4, 5, 5), w=draw(U8, 4, 2, 3, 3), z=U8(9), v=U8(3)),
     dict(group=2, pads=[1, 1, 1, 1])),
    ("", "MatMulInteger", dict(A=draw(U8, 2, 3, 9), B=draw(I8, 9, 4), a=U8(7)), {}),
    ("", "MatMulInteger", dict(A=draw(U8, 2, 3, 9), B=draw(I8, 2, 9, 4)), {}),
    ("", "MatMulInteger", dict(A=draw(U8, 9), B=draw(I8, 9, 4), a=U8(7), b=I8([1, 2, 3, 4])), {}),
    ("", "QLinearMatMul", matmul((2, 3, 9), (9, 4), (4,)), {}),
    ("", "QLinearMatMul", matmul((2, 3, 9), (2, 9, 4), ()), {}),
    (CONTRIB, "QGemm", gemm(C=BIAS, y_scale=F(0.3), y_zero_point=U8(100)), {}),
    (CONTRIB, "QGemm", gemm(C=None, y_scale=F(0.3), y_zero_point=U8(9), B=draw(I8, 4, 20)),
     dict(transB=1, alpha=0.7)),
    (CONTRIB, "QGemm", gemm(C=BIAS), dict(alpha=0.7)),
    (CONTRIB, "MatMulIntegerToFloat", DENSE, {}),
    (CONTRIB, "MatMulIntegerToFloat", DENSE | dict(bias=F([1, 2.5, 3, 0.1])), {}),
    (CONTRIB, "DynamicQuantizeMatMul", dict(
        A=rng.normal(1, 3, (3, 20)).astype(F), B=draw(I8, 20, 4), b_scale=F(0.1), zero=I8(3),
        bias=F([1, 2.5, 3, 0.1])), {}),
    ("", "DynamicQuantizeLinear", dict(x=rng.normal(1, 3, (3, 20)).astype(F)), {}),
    ("", "QuantizeLinear", dict(x=F([0.05, 0.15, 0.25, -0.35, 99, -99, np.nan]), **SMALL), {}),
    ("", "QuantizeLinear", dict(x=rng.normal(0, 9, (2, 3, 4)).astype(F), scale=F([0.1, 0.2, 0.3]),
                                zero=np.uint16([1, 2, 3])), {}),
    (CONTRIB, "QuantizeLinear", dict(x=rng.normal(0, 9, (2, 3)).astype(F), **SMALL), {}),
    ("", "DequantizeLinear", dict(x=draw(I8, 2, 3, 4), **SMALL), {}),
    ("", "DequantizeLinear", dict(x=draw(I32, 2, 3), scale=F([0.1, 0.2, 0.3])), {}),
    (CONTRIB, "DequantizeLinear", dict(x=draw(I8, 2, 3, 4), **SMALL), {}),
    (CONTRIB, "QLinearAdd", two((2, 3, 4), (2, 3, 4)), {}),
    (CONTRIB, "QLinearAdd", two((1, 3, 1, 1), (2, 3, 4, 5), 0.5, 0.25, 0.125), {}),
    (CONTRIB, "QLinearMul", two((2, 3, 4), (3, 1), c=0.5), {}),
    (CONTRIB, "QLinearMul", two((2, 3, 4), (3, 4), c=1e-8), {}),
    (CONTRIB, "QLinearAdd", two((2, 3, 4), (3, 4), c=1e-9), {}),
    (CONTRIB, "QLinearAveragePool", pool() | dict(y_scale=F(1e-9)), dict(kernel_shape=[2, 2])),
    (CONTRIB, "QLinearGlobalAveragePool", pool(), {}),
    (CONTRIB, "QLinearGlobalAveragePool", pool((2, 5, 6, 3)), dict(channels_last=1)),
    (CONTRIB, "QLinearAveragePool", pool(), dict(kernel_shape=[3, 2], pads=[1, 0, 1, 1])),
    (CONTRIB, "QLinearAveragePool", pool((2, 30, 2, 2)) | HALF, dict(kernel_shape=[2, 2])),
    (CONTRIB, "QLinearAveragePool", pool((2, 1, 2, 30)) | HALF,
     dict(kernel_shape=[1, 2], channels_last=1)),
    (CONTRIB, "QLinearAveragePool", pool((1, 2, 9)),
     dict(kernel_shape=[4], strides=[3], pads=[1, 1], count_include_pad=1, ceil_mode=1)),
    ("", "MaxPool", dict(X=draw(I8, 1, 2, 6, 7)), dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1])),
    (CONTRIB, "QLinearConcat", dict(
        s=F(0.2), z=I8(2), a=draw(I8, 2, 3), sa=F(0.1), za=I8(4), b=draw(I8, 2, 2), sb=F(0.3),
        zb=I8(-7)), dict(axis=1)),
    (CONTRIB, "QLinearSigmoid", one(), {}),
    (CONTRIB, "QLinearLeakyRelu", one(Y_scale=F(0.05), Y_zero_point=I8(3)), dict(alpha=0.3)),
    (CONTRIB, "QLinearSoftmax", dict(
        X=draw(I8, 3, 4, 5), X_scale=F(0.03), x_zero=I8(3), y_scale=F(1 / 256), y_zero=I8(-128)),
     dict(opset=13, axis=1)),
    (CONTRIB, "QLinearSoftmax", dict(
        X=draw(U8, 3, 4), X_scale=F(0.03), x_zero=U8(3), y_scale=F(0.005), y_zero=U8(0)),
     dict(opset=12, axis=1)),
    (CONTRIB, "QLinearWhere", dict(
        condition=rng.integers(0, 2, (3, 4)).astype(bool), X=draw(I8, 3, 4), sx=F(0.1), zx=I8(3),
        Y=draw(I8, 1), sy=F(0.2), zy=I8(4), sz=F(0.15), zz=I8(0)), {}),
    ("", "Add", dict(A=draw(I32, 2, 3), B=draw(I32, 3)), {}),
    ("", "Cast", dict(x=draw(I32, 2, 3)), dict(to=TensorProto.FLOAT)),
    ("", "Resize", dict(X=draw(I8, 1, 2, 3, 4), roi=None, scales=F([1, 1, 2, 3])),
     dict(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")),
    ("", "Resize", dict(X=draw(I8, 1, 2, 3), roi=None, scales=None, sizes=np.array([1, 2, 6])),
     dict(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")),
]  # fmt: skip
MOVES = [
    ("Flatten", dict(x=draw(I8, 2, 3, 4)), dict(axis=2)),
    ("Transpose", dict(x=draw(I8, 2, 3, 4)), dict(perm=[2, 0, 1])),
    ("Concat", dict(a=draw(I8, 2, 3), b=draw(I8, 2, 1), c=draw(I8, 2, 2)), dict(axis=1)),
    ("Gather", dict(x=draw(I8, 5, 3), at=np.array([4, 0, 2])), dict(axis=0)),
    ("Slice", dict(x=draw(I8, 5, 3), first=np.array([3]), last=np.array([0]), axes=np.array([0]),
                   step=np.array([-2])), {}),
    ("Pad", dict(x=draw(I8, 2, 3), pads=np.array([1, 0, 0, 2]), value=I8(-7)), {}),
    ("Pad", dict(x=draw(I8, 2, 3), pads=np.array([1, 0, 0, 2])), {}),
    ("Pad", dict(x=draw(I8, 2, 3), pads=np.array([1, 0, 0, 2])), dict(mode="reflect")),
    ("Reshape", dict(x=draw(I8, 2, 3), shape=np.array([3, 2])), {}),
    ("DepthToSpace", dict(x=draw(I8, 1, 8, 2, 3)), dict(blocksize=2)),
    ("Expand", dict(x=draw(I8, 3, 1), shape=np.array([2, 3, 4])), {}),
    ("Tile", dict(x=draw(I8, 2, 3), repeats=np.array([2, 2])), {}),
]  # fmt: skip


def modelled(domain, op_type, inputs, attributes) -> tuple[Model, dict, dict]:
    """A model of one operator, what it is fed, and ONNX Runtime's outputs of it."""
    proto = operator_model(op_type, inputs, domain=domain)
    proto.graph.node[0].attribute.extend(helper.make_attribute(*a) for a in attributes.items())
    model = from_proto(proto, "one.onnx")
    if op_type == "DynamicQuantizeLinear":
        model.proto.graph.node[0].output.extend(["y_scale", "y_zero_point"])
        model.proto.graph.output.extend(
            onnx.ValueInfoProto(name=n) for n in ("y_scale", "y_zero_point")
        )
        model = from_proto(model.proto, "one.onnx")
    fed = {name: np.asarray(inputs[name]) for name in model.inputs}
    return model, fed, borrower(model)(model.nodes[0], fed)


@pytest.mark.parametrize(
    "case", [*CASES, *(("", *move) for move in MOVES)], ids=lambda case: case[1]
)
def test_every_element_ends_at_onnx_runtimes(case):
    model, fed, theirs = modelled(*case)
    for name, y in theirs.items():
        for at in np.ndindex(y.shape):
            element = explain(model, model.nodes[0], fed, name, at)
            assert type(element.y) is type(y[at]) and element.y == y[at], (name, at, element)
            lengths = {len(column) for column in element.terms.values()}
            assert len(lengths) <= 1


def test_every_operator_with_arithmetic_is_explained():
    assert {(domain, op) for domain, op, *_ in CASES} == set(EXPLAINED)
    assert set(OPERATORS) - set(EXPLAINED) <= MOVERS
    assert {("", op) for op, *_ in MOVES} <= MOVERS


def test_terms_add_up_to_the_sum():
    model, fed, _ = modelled(*CASES[11])
    element = explain(model, model.nodes[0], fed, "y", (2, 1))
    steps = dict(element.steps)
    products = element.terms["A - zero point"].astype(int) * element.terms["B - zero point"]
    assert (element.terms["product"] == products).all() and len(products) == 20
    assert element.terms["running sum"].tolist() == products.cumsum().tolist()
    assert steps["sum of products"] == products.sum()
    assert steps["acc = sum + bias"] == products.sum() + BIAS[1]
    assert [type(value) for value in steps.values()] == [I32, I32, I32, F, F, F, F, F, U8]


def test_padding_has_its_place():
    model, fed, _ = modelled("", *MOVES[5])
    assert explain(model, model.nodes[0], fed, "y", (0, 0)).steps == (("padding", I8(-7)),)
    (step,) = explain(model, model.nodes[0], fed, "y", (2, 1)).steps
    assert step == ("x[1, 1]", fed["x"][1, 1])


@quantizes
@pytest.mark.parametrize(
    ("name", "form"),
    [("u_net", "QOperator-uint8-int8-channels"), ("transformer", "QDQ-int8-int8"),
     ("transformer", "dynamic-uint8")],
)  # fmt: skip
def test_elements_of_whole_networks(name, form):
    """A random element of every node that has an explanation."""
    drawn = np.random.default_rng(0)
    x = drawn.normal(0, 1, (1, *NETWORKS[name][1])).astype(F)
    network = oracle.settle(from_proto(quantized(name, form)), {"x": x})
    graph = network.graph
    names = [n for node in graph.nodes for n in (*node.inputs, *node.outputs) if n]
    session = oracle.open_graph(network, names)
    wanted = [n for n in dict.fromkeys(names) if n not in graph.constants and n != "x"]
    values = {"x": x} | oracle.outputs(network.file, session, {"x": x}, wanted)
    explained = set()
    for node in graph.nodes:
        y = np.asarray(values[node.outputs[0]])
        reads = (values.get(n, graph.constants.get(n)) for n in node.inputs[:1])
        if not has_explanation(node) or (
            node.op_type in ("Add", "MaxPool") and next(reads).dtype.kind == "f"
        ):
            continue  # in float
        at = tuple(int(drawn.integers(n)) for n in y.shape)
        element = explain(graph, node, values, node.outputs[0], at)
        assert element.y == y[at] and element.y.dtype == y.dtype, node.name
        explained.add(node.op_type)
    assert len(explained) >= 5


def test_what_has_no_explanation_is_refused():
    model = from_proto(operator_model("Relu", dict(x=F([1, -1]))), "one.onnx")
    with pytest.raises(UnusableInput, match=r"^one.onnx: node node is a Relu, for which there is"):
        explain(model, model.nodes[0], {"x": F([1, -1])}, "y", (0,))
    model, fed, _ = modelled(*CASES[0])
    for at in ((0, 0), (0, 6, 0), (0, -1, 0)):
        with pytest.raises(UnusableInput, match=r"one.onnx: node node: y has shape .* not in it"):
            explain(model, model.nodes[0], fed, "y", at)
