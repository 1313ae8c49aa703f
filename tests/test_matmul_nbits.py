"""MatMulNBits: its weights equal ONNX Runtime's to the bit, and nothing else is claimed of it."""

import itertools
from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qlinear import engine, float_sums, ort
from qlinear.cli import report
from qlinear.errors import Unsupported, UnusableInput
from qlinear.inputs import Feed
from qlinear.onnx_model import Model, from_proto, with_constants
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
        sizes = {c.tensor: c.elements for c in verdict.tensors}
        assert sizes == {"B": K * 5} | ({"bias": 5} if bias else {})
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


def changed(proto: onnx.ModelProto, **changes) -> onnx.ModelProto:
    """The file with some of its constants, each by a function of what it was."""
    model = from_proto(proto)
    made = {name: change(model.constants[name].copy()) for name, change in changes.items()}
    return with_constants(model, made)


def at(index: int, change: Callable) -> Callable:
    """A change of one element."""

    def apply(values: np.ndarray) -> np.ndarray:
        values.reshape(-1)[index] = change(values.reshape(-1)[index])
        return values

    return apply


@pytest.mark.parametrize("fault", ("a step", "an ulp"))
@pytest.mark.parametrize("bias", (0, 1e6))
def test_a_wrong_weight_is_a_mismatch(fault, bias):
    model = from_proto(layer(bias=True))
    (node,) = model.nodes
    inputs, w, _ = parts(from_proto(layer()))
    inputs += [None] * 2 + [np.full(5, bias, np.float32)]

    def kernel(A: np.ndarray, with_bias: bool) -> np.ndarray:
        return A @ w + (inputs[5] if with_bias else 0)

    right = float_sums.check(node, inputs, kernel(inputs[0], True), kernel)
    assert [c.tensor for c in right] == ["B", "bias"] and all(c.equal for c in right)
    w = w.copy()
    step = inputs[2][4, 2]
    w[71, 4] = w[71, 4] + step if fault == "a step" else np.nextafter(w[71, 4], np.float32(9))
    wrong, _ = float_sums.check(node, inputs, kernel(inputs[0], True), kernel)
    assert wrong.mismatches == 1 and wrong.first.index == (71, 4)


def test_a_wrong_bias_is_a_mismatch():
    model = from_proto(layer(bias=True))
    inputs, w, _ = parts(from_proto(layer()))
    inputs += [None] * 2 + [np.full(5, 2.0**24, np.float32)]
    right = inputs[5].copy()
    right[3] += 2

    def kernel(A: np.ndarray, with_bias: bool) -> np.ndarray:
        return A @ w + (right if with_bias else 0)

    _, bias = float_sums.check(model.nodes[0], inputs, kernel(inputs[0], True), kernel)
    assert bias.mismatches == 1 and bias.first.index == (3,)


FAULTS = {
    "a weight by a step": ({}, dict(B=at(5, lambda b: b ^ 1))),
    "two blocks swapped": ({}, dict(B=lambda b: b[:, [1, 0, 2]])),
    "the last block dropped": ({}, dict(scales=at(2, lambda s: 0))),
    "a zero point by one": (dict(zero="packed"), dict(zero_points=at(0, lambda z: z ^ 1))),
    "a scale by an ulp": ({}, dict(scales=at(3, lambda s: np.nextafter(s, np.float32(9))))),
    "a weight beside a bias": (dict(bias=True), dict(B=at(5, lambda b: b ^ 1))),
    "the bias dropped": (dict(bias=True), dict(bias=np.zeros_like)),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("constant", (False, True))
def test_onnx_runtime_with_other_constants_fails(fault, constant, monkeypatch):
    form, change = FAULTS[fault]
    base = layer(**form)
    if form.get("bias"):  # beside which a weight does not show
        base = changed(base, bias=lambda b: b + np.float32(1e9))
    right, wrong = from_proto(base), changed(base, **change)
    A = np.random.default_rng(1).normal(0, 1, (2, 72)).astype(np.float32)
    feeds = {"A": A}
    if constant:
        del wrong.graph.input[:]
        wrong.graph.initializer.append(numpy_helper.from_array(A, "A"))
        feeds = {}
    assert validate(from_proto(wrong), [Feed(feeds, "random")]).status == "PASS"
    read = float_sums.layer

    def ours(node, inputs):
        names = node.inputs[1:]
        return read(node, [inputs[0], *(right.constants[n] if n else None for n in names)])

    monkeypatch.setattr(float_sums, "layer", ours)
    verdict = validate(from_proto(wrong), [Feed(feeds, "random")])
    assert verdict.status == "FAIL" and not verdict.coverage.left_out


def test_another_kernel_for_the_users_rows_is_held_to_the_same_integers():
    # a step is least beside the sum of a block where all its integers are 255 and stand for that
    constants = dict(B=lambda b: b | 255, zero_points=np.zeros_like)
    proto = layer(K=512, bits=8, block=256, zero="packed")
    model = from_proto(changed(proto, **constants))
    (node,) = model.nodes
    A = np.random.default_rng(2).normal(0, 1, (3, 512)).astype(np.float32)
    inputs = [A, *(model.constants[name] for name in node.inputs[1:])]
    w = dequantized(*inputs[1:], K=512, N=5, bits=8, block_size=256)
    other = w.copy()
    other[300, 2] += inputs[2][2, 1]

    def kernel(A: np.ndarray, with_bias: bool) -> np.ndarray:
        return A @ (w if len(A) > 3 else other)

    assert (np.abs(A @ other - A @ w) > 0).any()
    with pytest.raises(Unsupported, match="not those of float32 products"):
        float_sums.check(node, inputs, A @ w, kernel)


@pytest.mark.parametrize("bits", (2, 4, 8))
@pytest.mark.parametrize("zero", (None, "packed", "float"))
def test_the_kernel_of_a_row_has_the_same_weights(bits, zero):
    if (bits, zero) == (8, "float"):
        pytest.skip("ONNX Runtime has no kernel for it")
    for block, count in itertools.product((16, 32, 128), (1, 2, 5)):
        model = from_proto(layer(bits=bits, zero=zero, block=block, K=200))
        (node,) = model.nodes
        borrow = ort.borrower(model)
        unit = np.eye(200, dtype=np.float32).reshape(-1, count, 200)
        found = np.concatenate([borrow(node, {"A": A})["Y"] for A in unit])
        constants = [model.constants.get(name) for name in node.inputs[1:]]
        ours = dequantized(*constants, K=200, N=5, bits=bits, block_size=block)
        assert (found == ours).all(), (block, count)


def test_constants_that_could_be_overridden_are_asked_of_the_kernel_that_reads_them():
    for bits, rows in itertools.product((2, 4, 8), (1, 3)):
        proto = layer(K=256, N=9, bits=bits)
        proto.graph.input.extend(
            helper.make_tensor_value_info(t.name, t.data_type, t.dims)
            for t in proto.graph.initializer
        )
        assert checked(proto, (rows, 256)).status == "PASS", (bits, rows)


def test_nodes_that_share_weights_are_named_apart():
    proto = layer()
    proto.graph.node.add().CopyFrom(proto.graph.node[0])
    proto.graph.node[1].name, proto.graph.node[1].output[0] = "again", "Z"
    proto.graph.output.append(helper.make_tensor_value_info("Z", TensorProto.FLOAT, None))
    A = np.ones((2, 72), np.float32)
    verdict = validate(from_proto(proto), [Feed({"A": A}, "a"), Feed({"A": A}, "b")])
    assert verdict.status == "PASS"
    assert [(c.tensor, c.node, c.elements) for c in verdict.tensors] == [
        ("B", "n", 720), ("B", "again", 720),
    ]  # fmt: skip


def test_what_onnx_runtime_makes_of_blocks_is_not_said_to_break_a_condition():
    # beside a MatMulNBits of the file's own, a MatMul becomes one of level 4
    proto = layer(K=64)
    weights = np.random.default_rng(0).integers(-8, 8, (64, 16)).astype(ml_dtypes.int4)
    proto.graph.initializer.extend([
        numpy_helper.from_array(weights, "W"),
        numpy_helper.from_array(np.full((2, 16), 0.1, np.float32), "W_scale"),
    ])  # fmt: skip
    proto.graph.node.extend([
        helper.make_node("DequantizeLinear", ["W", "W_scale"], ["w"], axis=0, block_size=32),
        helper.make_node("MatMul", ["A", "w"], ["Z"], "product"),
    ])  # fmt: skip
    proto.graph.output.append(helper.make_tensor_value_info("Z", TensorProto.FLOAT, None))
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("A", TensorProto.FLOAT, ("M", 64)))
    verdict = checked(proto, (2, 64))
    assert verdict.status == "PARTIAL" and "accuracy_level 4" in str(verdict.coverage.left_out)
    assert verdict.coverage.left_out.popitem()[1] == ["product"]
    assert not [note for note in verdict.notes if "although" in note]


def test_an_input_that_is_no_constant_is_named():
    proto = layer()
    scales = proto.graph.initializer.pop(1)
    proto.graph.input.append(helper.make_tensor_value_info("scales", scales.data_type, scales.dims))
    feeds = {"A": np.ones((2, 72), np.float32), "scales": numpy_helper.to_array(scales)}
    verdict = validate(from_proto(proto), [Feed(feeds, "random")])
    assert verdict.status == "PARTIAL" and "scales is no constant" in str(verdict.coverage.left_out)


def test_a_tensor_that_is_scales_and_bias_is_partial():
    proto = layer(K=32, bias=True)
    proto.graph.node[0].input[5] = "scales"
    proto.graph.initializer[1].dims[:] = [5]
    verdict = checked(proto, (2, 32))
    assert verdict.status == "PARTIAL" and "one tensor" in str(verdict.coverage.left_out)


def test_weights_are_asked_for_where_a_verdict_needs_them():
    model = from_proto(layer())
    feeds = {"A": np.ones((2, 72), np.float32)}
    (step,) = engine.steps(model, feeds)
    assert step.how == engine.SUMS and step.compared == ()
    (step,) = engine.steps(model, feeds, weights=True)
    assert [c.elements for c in step.compared] == [360]


@pytest.mark.parametrize("value", (np.inf, np.nan, 3e38))
def test_infinite_weights_are_partial(value):
    verdict = checked(changed(layer(), scales=at(0, lambda s: value)), (2, 72))
    assert verdict.status == "PARTIAL"
    assert "weights are infinite or not a number" in str(verdict.coverage.left_out)


def test_sums_that_only_some_inputs_allow_are_not_counted():
    A = np.ones((2, 72), np.float32)
    feeds = [Feed({"A": A}, "finite"), Feed({"A": A * np.inf}, "infinite")]
    verdict = validate(from_proto(layer()), feeds)
    assert verdict.status == "PARTIAL" and not verdict.coverage.float_sums


@pytest.mark.parametrize("K", (72, 16384))
def test_a_kernel_that_rounds_activations_to_8_bits_is_found(K):
    # many products of wide weights: a bound of all K roundings would hide it
    model = from_proto(layer(K=K, bits=8, block=16, zero="packed"))
    A = np.random.default_rng(2).normal(0, 1, (4, K)).astype(np.float32)
    inputs = [A, *(model.constants[name] for name in model.nodes[0].inputs[1:])]
    layout = dict(K=K, N=5, bits=8, block_size=16)
    w = dequantized(*inputs[1:], **layout)

    def rounded(A: np.ndarray, with_bias: bool) -> np.ndarray:
        size = layout["block_size"]
        y = np.zeros((len(A), 5), np.float32)
        for start in range(0, K, size):
            block = A[:, start : start + size]
            step = np.maximum(np.abs(block).max(1, keepdims=True) / 127, np.float32(1e-30))
            y += (np.rint(block / step) * step).astype(np.float32) @ w[start : start + size]
        return y

    with pytest.raises(Unsupported, match="not those of float32 products"):
        float_sums.check(model.nodes[0], inputs, A @ w, rounded)


def test_a_wrong_sum_is_found():
    model = from_proto(layer())
    inputs, w, _ = parts(model)
    y = inputs[0] @ w
    y[3, 4] += np.float32(1e-3)
    with pytest.raises(Unsupported, match="1 of 20 sums"):
        float_sums.check(model.nodes[0], inputs, y, lambda A, _: A @ w)


def test_any_order_of_summation_is_within_the_bound_and_little_else():
    model = from_proto(layer())
    inputs, w, layout = parts(model)
    exact, bound = sum_bound(inputs[0], w)
    rng = np.random.default_rng(3)
    for _ in range(20):
        order = rng.permutation(72)
        y = np.zeros(exact.shape, np.float32)
        for k in order:
            y += inputs[0][:, k, None] * w[k]
        assert (np.abs(y - exact) <= bound).all()
    assert (np.abs(matmul_nbits(*inputs, **layout) - exact) <= bound).all()
    # 72 products and 4 roundings more, of 2**-24 each
    assert (bound <= 77 * 2.0**-24 * (np.abs(inputs[0]) @ np.abs(w))).all()


def test_activations_of_0_and_a_scale_after_the_sum_are_in_the_bound():
    model = from_proto(layer(zero="packed"))
    B, scales, zero = (model.constants[k] for k in ("B", "scales", "zero_points"))
    w = dequantized(B, scales, zero, K=72, N=5, bits=4, block_size=32)
    q = unpack(B, 4).reshape(5, 3, 32).astype(np.float32)
    q -= unpack(zero, 4)[:, :3, None]
    rng = np.random.default_rng(4)
    for size in (1e-38, 1, 1e30):
        A = (rng.normal(0, size, (50, 72)) * (rng.uniform(0, 1, (50, 72)) < 0.1)).astype(np.float32)
        padded = np.pad(A, [(0, 0), (0, 24)]).reshape(50, 3, 32)
        y = np.zeros((50, 5), np.float32)
        for block in range(3):
            y += (padded[:, block] @ q[:, block].T) * scales[:, block]
        exact, bound = sum_bound(A, w)
        assert (np.abs(y - exact) <= bound).all()
        full = np.where(A == 0, np.float32(size) * np.float32(1e-7), A)
        assert (sum_bound(full, w)[1] > 3 * bound).any()


def test_products_that_vanish_are_in_the_bound():
    A, w = np.full((1, 8), 2.0**-100, np.float32), np.full((8, 1), 2.0**-50, np.float32)
    exact, bound = sum_bound(A, w)
    assert (A @ w == 0).all() and (exact > 0).all() and (exact <= bound).all()
    A, w = np.full((1, 8), 2.0**-75, np.float32), np.full((8, 1), 1.5 * 2.0**-75, np.float32)
    exact, bound = sum_bound(A, w)
    assert (A @ w > exact).all() and (A @ w - exact <= bound).all()


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
