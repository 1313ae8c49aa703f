"""The page "Operators": what its tables say, of layers in QDQ form and of operators left out."""

import numpy as np
import pytest
from onnx import TensorProto, compose, helper, numpy_helper

from qlinear import ort
from qlinear.errors import UnusableInput
from qlinear.fuse import fuse
from qlinear.inputs import Feed
from qlinear.onnx_model import from_proto
from qlinear.tflite import reference
from qlinear.validate import validate
from tools import operators


@pytest.fixture(scope="module")
def page() -> str:
    return operators.table()


def layer(op_type: str, activations: int, weights: int) -> tuple:
    """The row of the table of layers with these."""
    wanted = op_type, activations, weights
    (found,) = [row for row in operators.LAYERS if (row[0], *row[3:5]) == wanted]
    return found


@pytest.mark.parametrize(
    "name",
    "QLinearAveragePool QLinearMul QLinearConcat QLinearSigmoid QLinearLeakyRelu QLinearSoftmax "
    "QLinearWhere DynamicQuantizeMatMul MatMulIntegerToFloat QuantizeLinear DequantizeLinear "
    "QGemm QLinearAdd QLinearGlobalAveragePool".split(),
)
def test_an_operator_of_the_contrib_domain_is_on_the_page(page, name):
    assert f"\n| com.microsoft.{name} | " in page


@pytest.mark.parametrize(
    "name",
    "MaxPool Resize DynamicQuantizeLinear ConvInteger MatMulInteger QLinearMatMul Cast Add".split(),
)
def test_an_operator_of_onnx_is_on_the_page(page, name):
    assert f"\n| {name} | " in page


def test_every_operator_in_tensorflow_lites_form_is_on_the_page(page):
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    rows = {row[0].strip("| "): row[1:] for row in rows}
    for name in reference.OPERATORS:
        assert len(rows[name]) == 2 and all(rows[name])
    assert rows["RESHAPE"][1] == "the same |" and "float32" in rows["CONV_2D"][1]


@pytest.mark.parametrize(
    "row",
    [
        "| Gemm | int8 | int8 | com.microsoft.QGemm |  |",
        "| MatMul | int8 | int8 | QLinearMatMul |  |",
        "| ConvTranspose | int8 | int8 |  | ConvTranspose |",
        "| ReduceMean | int8 |  |  | ReduceMean |",
        "| Conv | uint16 | int8 |  | Conv |",
        "| MatMul | float32 | int4, in blocks of 16 |  | MatMul |",
    ],
)
def test_the_page_says_what_becomes_of_a_layer(page, row):
    assert f"\n{row}\n" in page
    assert "The verdict on each is PASS." in page


def test_every_layer_of_the_page_computes_something():
    for row in operators.LAYERS:
        session = ort.open_session(operators.in_qdq(*row))
        x = np.random.default_rng(1).normal(0, 1, row[1]).astype(np.float32)
        assert session.run(None, {"x": x})[0].any(), row


def test_matmulnbits_is_left_out_where_integer_layers_stand_beside_it():
    conv = operators.in_qdq(*layer("Conv", TensorProto.INT8, TensorProto.INT8))
    product = operators.in_qdq(*layer("MatMul", TensorProto.UINT16, TensorProto.INT4))
    both = compose.merge_models(
        compose.add_prefix(conv, "c_"), compose.add_prefix(product, "p_"), io_map=[]
    )
    both.ir_version = conv.ir_version
    rng = np.random.default_rng(1)
    feeds = {
        "c_x": rng.normal(0, 1, operators.IMAGE).astype(np.float32),
        "p_x": rng.normal(0, 1, operators.ROWS).astype(np.float32),
    }
    model = from_proto(both)
    assert "MatMulNBits" in {node.op_type for node in fuse(model).graph.nodes}
    verdict = validate(model, [Feed(feeds, "random")])
    assert verdict.status == "PARTIAL"
    assert "MatMulNBits" in str(verdict.coverage.left_out)


def test_alone_it_is_not_made():
    for activations in (TensorProto.UINT16, TensorProto.FLOAT):
        model = from_proto(operators.in_qdq(*layer("MatMul", activations, TensorProto.INT4)))
        made = ort.optimized(model, ort.Settings()).graph.node
        assert "MatMulNBits" in {node.op_type for node in made}
        assert "MatMulNBits" not in {node.op_type for node in fuse(model).graph.nodes}


def test_an_operator_without_a_kernel_is_refused(page):
    assert "QLinearReduceMean" in page.split("## Without a kernel")[1]
    scale = numpy_helper.from_array(np.float32(0.1), "s")
    zero = numpy_helper.from_array(np.int8(0), "z")
    node = helper.make_node(
        "QLinearReduceMean", ["x", "s", "z", "s", "z"], ["y"], domain="com.microsoft",
        axes=[1], keepdims=1,
    )  # fmt: skip
    ends = [helper.make_tensor_value_info(n, TensorProto.INT8, s) for n, s in
            (("x", [2, 4]), ("y", [2, 1]))]  # fmt: skip
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [scale, zero])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    with pytest.raises(UnusableInput, match="QLinearReduceMean"):
        validate(model, [Feed({"x": np.zeros((2, 4), np.int8)}, "zeros")])
