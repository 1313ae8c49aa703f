"""MatMulNBits: its weights equal ONNX Runtime's to the bit, and nothing else is claimed of it."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qlinear import float_sums
from qlinear.cli import report
from qlinear.errors import Unsupported, UnusableInput
from qlinear.inputs import Feed
from qlinear.onnx_model import Model, from_proto
from qlinear.operators.matmul_nbits import dequantized, matmul_nbits, sum_bound, unpack
from qlinear.validate import Verdict, validate


def packed(q: np.ndarray, bits: int) -> np.ndarray:
    """Integers into bytes, one by one: the plain form of what :func:`unpack` undoes."""
    each = 8 // bits
    q = np.pad(q, [(0, 0)] * (q.ndim - 1) + [(0, -q.shape[-1] % each)])
    out = np.zeros((*q.shape[:-1], q.shape[-1] // each), np.uint8)
    for *at, k in np.ndindex(q.shape):
        out[(*at, k // each)] |= int(q[(*at, k)]) << (k % each * bits)
    return out


def layer(
    *,
    K: int = 72,
    N: int = 5,
    bits: int = 4,
    block: int = 32,
    zero: str | None = None,
    bias: bool = False,
    seed: int = 0,
    **options,
) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    blocks = -(-K // block)
    constants = {
        "B": packed(rng.integers(0, 1 << bits, (N, blocks, block)), bits),
        "scales": rng.normal(0, 0.1, (N, blocks)).astype(np.float32),
    }
    if zero == "packed":
        constants["zero_points"] = packed(rng.integers(0, 1 << bits, (N, blocks)), bits)
    elif zero == "float":
        constants["zero_points"] = rng.uniform(0, 1 << bits, (N, blocks)).astype(np.float32)
    if bias:
        constants["bias"] = rng.normal(0, 1, N).astype(np.float32)
    names = ["A", *(k if k in constants else "" for k in ("B", "scales", "zero_points"))]
    names += ["", "bias"] if bias else []
    while not names[-1]:
        names.pop()
    options = dict(K=K, N=N, bits=bits, block_size=block, **options)
    node = helper.make_node("MatMulNBits", names, ["Y"], "n", domain="com.microsoft", **options)
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("A", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def checked(proto: onnx.ModelProto, shape: tuple[int, ...]) -> Verdict:
    A = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
    return validate(from_proto(proto), [Feed({"A": A}, "random")])


@pytest.mark.parametrize("bits", (2, 4, 8))
@pytest.mark.parametrize("zero", (None, "packed", "float"))
def test_every_weight_is_onnx_runtimes(bits, zero):
    if (bits, zero) == (8, "float"):
        pytest.skip("ONNX Runtime has no kernel for it")
    forms = itertools.product((16, 64), (64, 200), (0, 1), ((1,), (3,), (2, 150)), (False, True))
    for block, K, level, rows, bias in forms:
        proto = layer(K=K, bits=bits, block=block, zero=zero, bias=bias, accuracy_level=level)
        verdict = checked(proto, (*rows, K))
        assert verdict.status == "PASS", (block, K, level, rows, bias, verdict.coverage.left_out)
        (weights,) = verdict.tensors
        assert weights.elements == K * 5 and weights.tensor == "B"
        assert verdict.coverage.float_sums == {"com.microsoft.MatMulNBits": 1}
        assert verdict.coverage.mac_recomputed == 0
    assert "float sums of ONNX Runtime's own in 1 MatMulNBits" in report(verdict)


def test_the_weights_are_what_the_formula_says():
    model = from_proto(layer(K=40, bits=2, block=16, zero="packed"))
    B, scales, zero = (model.constants[k] for k in ("B", "scales", "zero_points"))
    found = dequantized(B, scales, zero, K=40, N=5, bits=2, block_size=16)
    for k, n in np.ndindex(40, 5):
        at = k // 16
        q = int(B[n, at, k % 16 // 4]) >> (k % 4 * 2) & 3
        z = int(zero[n, 0]) >> (at * 2) & 3
        assert found[k, n] == np.float32(q - z) * scales[n, at]


def test_unpack_is_the_inverse_of_packing():
    for bits in (2, 4, 8):
        q = np.random.default_rng(0).integers(0, 1 << bits, (3, 8)).astype(np.uint8)
        assert (unpack(packed(q, bits), bits) == q).all()


def test_activations_rounded_to_8_bits_are_partial():
    verdict = checked(layer(accuracy_level=4), (3, 72))
    assert verdict.status == "PARTIAL" and "accuracy_level 4" in str(verdict.coverage.left_out)
    assert not verdict.coverage.float_sums


def test_half_precision_is_partial():
    proto = layer()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    scales = numpy_helper.to_array(proto.graph.initializer[1]).astype(np.float16)
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(scales, "scales"))
    A = np.random.default_rng(1).normal(0, 1, (3, 72)).astype(np.float16)
    verdict = validate(from_proto(proto), [Feed({"A": A}, "random")])
    assert verdict.status == "PARTIAL" and "float16" in str(verdict.coverage.left_out)


def test_infinite_activations_are_partial():
    A = np.full((2, 72), np.inf, np.float32)
    verdict = validate(from_proto(layer()), [Feed({"A": A}, "infinite")])
    assert verdict.status == "PARTIAL"


def parts(model: Model) -> tuple[list, np.ndarray, np.ndarray]:
    (node,) = model.nodes
    A = np.random.default_rng(2).normal(0, 1, (4, 72)).astype(np.float32)
    inputs = [A, *(model.constants[name] for name in node.inputs[1:])]
    layout = dict(K=72, N=5, bits=4, block_size=32)
    return inputs, dequantized(*inputs[1:], **layout), layout


def test_a_wrong_weight_is_a_mismatch():
    model = from_proto(layer())
    inputs, w, _ = parts(model)
    right = float_sums.check(model.nodes[0], inputs, inputs[0] @ w, lambda A: A @ w)
    assert right.equal
    w = w.copy()
    w[71, 4] = np.nextafter(w[71, 4], np.float32(9))
    wrong = float_sums.check(model.nodes[0], inputs, inputs[0] @ w, lambda A: A @ w)
    assert wrong.mismatches == 1 and wrong.first.index == (71, 4)


def test_a_kernel_that_rounds_activations_to_8_bits_is_found():
    model = from_proto(layer())
    inputs, w, layout = parts(model)

    def rounded(A: np.ndarray) -> np.ndarray:
        size = layout["block_size"]
        y = np.zeros((len(A), 5), np.float32)
        for start in range(0, 72, size):
            block = A[:, start : start + size]
            step = np.maximum(np.abs(block).max(1, keepdims=True) / 127, np.float32(1e-30))
            y += (np.rint(block / step) * step).astype(np.float32) @ w[start : start + size]
        return y

    with pytest.raises(Unsupported, match="not those of float32 products"):
        float_sums.check(model.nodes[0], inputs, inputs[0] @ w, rounded)


def test_a_wrong_sum_is_found():
    model = from_proto(layer())
    inputs, w, _ = parts(model)
    y = inputs[0] @ w
    y[3, 4] += np.float32(1e-3)
    with pytest.raises(Unsupported, match="1 of 40 sums"):
        float_sums.check(model.nodes[0], inputs, y, lambda A: A @ w)


def test_any_order_of_summation_is_within_the_bound_and_little_else():
    model = from_proto(layer())
    inputs, w, layout = parts(model)
    exact, bound = sum_bound(*inputs, **layout)
    rng = np.random.default_rng(3)
    for _ in range(20):
        order = rng.permutation(72)
        y = np.zeros(exact.shape, np.float32)
        for k in order:
            y += inputs[0][:, k, None] * w[k]
        assert (np.abs(y - exact) <= bound).all()
    assert (bound < 1e-3 * np.abs(inputs[0]).sum(1, keepdims=True)).all()
    assert (np.abs(matmul_nbits(*inputs, **layout) - exact) <= bound).all()


@pytest.mark.parametrize(
    "change, error, why",
    [
        (dict(bits=3), Unsupported, "bits is 3"),
        (dict(B=np.zeros(7, np.uint8)), UnusableInput, "B has 7 elements"),
        (dict(scales=np.ones(4, np.float32)), UnusableInput, "scales has 4 elements"),
        (dict(scales=np.ones(15, np.float16)), Unsupported, "scales has type float16"),
        (dict(zero_points=np.zeros(3, np.uint8)), UnusableInput, "zero_points has 3 elements"),
        (dict(zero_points=np.zeros(15, np.int8)), Unsupported, "zero_points has type int8"),
    ],
)
def test_illegal_weights_are_named(change, error, why):
    model = from_proto(layer())
    good = dict(B=model.constants["B"], scales=model.constants["scales"], K=72, N=5, bits=4,
                block_size=32)  # fmt: skip
    with pytest.raises(error, match=why):
        dequantized(**good | change)
