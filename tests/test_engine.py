"""The whole network, element for element, and the official ONNX node tests."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import MODELS, ONNX, QUANTIZED
from onnx.backend.test.loader import load_model_tests

from qlinear.engine import compare, run
from qlinear.errors import UnusableInput
from qlinear.inputs import load_samples
from qlinear.onnx_model import from_proto, load, with_constants
from qlinear.operators import OPERATORS


@pytest.mark.parametrize("name", QUANTIZED)
def test_every_tensor_of_every_sample_equals_ort(name):
    checks = compare(load(MODELS / f"{name}.onnx"), load_samples()[0].astype(np.float32))
    assert len(checks) == 17 and sum(c.elements for c in checks) == 2_358_160
    assert [c for c in checks if c.mismatches] == []


def test_a_changed_weight_shows_in_the_comparison(model):
    node = model.node("block2_conv1_quant")
    w = model.conv(node).w.copy()
    w[0, 0, 0, 0] ^= 64
    wrong = from_proto(with_constants(model, {model.name_of(node, "w"): w}))
    x = load_samples()[0][:2].astype(np.float32)
    checks = {c.tensor: c for c in compare(wrong, x, run(model, x))}
    assert checks["block1_add_out_quantized"].mismatches == 0
    found = checks[node.outputs[0]]
    assert found.mismatches > 0 and found.first.index[:2] == (0, 0)


def test_unsupported_operators_are_refused_by_name():
    with pytest.raises(UnusableInput, match="node stem: operator Conv is not supported"):
        run(load(MODELS / "resnet8.onnx"), np.zeros((1, 3, 32, 32), np.float32))


# Official node tests that the reference leaves out, and why
LEFT_OUT = {
    "float4e2m1": "float types are outside this book",
    "float8": "float types are outside this book",
    "e4m3fn": "float types are outside this book",
    "e5m2": "float types are outside this book",
    "float16": "the scale must be float32, as in every model that ORT's quantizer writes",
    "qlinearmatmul_2D_int8_float16": "float16 scales",
    "qlinearmatmul_2D_uint8_float16": "float16 scales",
    "qlinearmatmul_3D_int8_float16": "float16 scales",
    "qlinearmatmul_3D_uint8_float16": "float16 scales",
}
PREFIXES = ("qlinearconv", "qlinearmatmul", "quantizelinear", "dequantizelinear", "convinteger",
            "basic_convinteger", "matmulinteger")  # fmt: skip
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # making the tests of other operators overflows on purpose
    OFFICIAL = [
        case
        for case in load_model_tests(kind="node")
        if case.name.removeprefix("test_").startswith(PREFIXES)
    ]


def to_array(value: np.ndarray | onnx.TensorProto) -> np.ndarray:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def read_case(case) -> tuple[onnx.NodeProto, list[np.ndarray], np.ndarray]:
    """An official case's node, its inputs and its output; older releases of onnx keep files."""
    if case.model is not None:
        ((given, (expected,)),) = case.data_sets
        return case.model.graph.node[0], [*map(to_array, given)], to_array(expected)
    folder = Path(case.model_dir)
    (node,) = onnx.load(folder / "model.onnx").graph.node
    given, (expected,) = (
        [to_array(onnx.load_tensor(p)) for p in sorted((folder / "test_data_set_0").glob(pattern))]
        for pattern in ("input_*.pb", "output_*.pb")
    )
    return node, given, expected


@pytest.mark.parametrize("case", OFFICIAL, ids=lambda case: case.name)
def test_official_node_test(case):
    reason = next((why for part, why in LEFT_OUT.items() if part in case.name), None)
    if reason:
        pytest.skip(reason)
    if ONNX < (1, 22) and case.name.endswith("_int8_float32"):
        pytest.skip("onnx before 1.22 expects int8 results that wrap; ONNX Runtime saturates")
    node, given, expected = read_case(case)
    given = iter(given)
    inputs = [next(given) if name else None for name in node.input]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
    found = OPERATORS[node.domain, node.op_type](*inputs, **attributes)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert (found == expected).all()


def test_the_official_tests_were_found():
    names = {case.name for case in OFFICIAL}
    assert len(names) >= 20
    assert {"test_qlinearconv", "test_matmulinteger", "test_quantizelinear"} <= names
