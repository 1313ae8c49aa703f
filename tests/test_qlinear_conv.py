"""QLinearConv against ONNX Runtime, and proof that the comparison can fail."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import MODELS, ORT, QUANTIZED, examples
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import ThreadpoolController

from qlinear.compare import Comparison, compare_arrays
from qlinear.errors import UnusableInput
from qlinear.explain import work
from qlinear.inputs import load_samples
from qlinear.onnx_model import Model, Node, from_proto, load, with_constants
from qlinear.operators import arithmetic as ar
from qlinear.operators import qlinear_conv as qc
from qlinear.operators import qlinear_conv_fast as fast
from qlinear.operators import threads
from qlinear.ort import run_operator, tensors


def compared(model: Model, node: Node, values: dict) -> Comparison:
    """A node by the plain reference, against ONNX Runtime's tensor."""
    y = qc.stages(values[node.inputs[0]], model.conv(node)).y
    return compare_arrays(node.outputs[0], y, values[node.outputs[0]])


@pytest.mark.parametrize("name", QUANTIZED)
def test_every_layer_equals_ort(name):
    model = load(MODELS / f"{name}.onnx")
    values = tensors(model, load_samples()[0].astype(np.float32))
    checks = [compared(model, node, values) for node in model.of_type("QLinearConv")]
    assert len(checks) == 9
    assert [c.mismatches for c in checks] == [0] * 9


def test_a_flipped_weight_is_found(model, values):
    node = model.node("block1_conv2_quant")
    w = model.conv(node).w.copy()
    w[3, 2, 1, 1] = ~w[3, 2, 1, 1]
    wrong = from_proto(with_constants(model, {model.name_of(node, "w"): w}))
    check = compared(wrong, node, values)
    assert not check.equal and check.first.index[1] == 3


def test_swapped_per_channel_scales_are_found(model, values):
    node = model.node("stem_quant")
    w_scale = model.conv(node).w_scale.copy()
    w_scale[[0, 1]] = w_scale[[1, 0]]
    wrong = from_proto(with_constants(model, {model.name_of(node, "w_scale"): w_scale}))
    check = compared(wrong, node, values)
    assert not check.equal and check.first.index[1] in (0, 1)


def test_a_zero_point_off_by_one_is_found(model, values):
    node = model.node("block2_conv2_quant")
    zero = np.array(model.conv(node).y_zero_point + 1, np.int8)
    wrong = from_proto(with_constants(model, {model.name_of(node, "y_zero_point"): zero}))
    check = compared(wrong, node, values)
    assert not check.equal and check.max_difference == 1


def test_padding_with_zero_is_found(model, values, monkeypatch):
    def with_integer_zero(x, x_zero_point, geo):
        return np.pad(x, [(0, 0), (0, 0), *zip(geo.begin, geo.end, strict=True)])

    monkeypatch.setattr(qc, "pad", with_integer_zero)
    assert not compared(model, model.node("stem_quant"), values).equal


def test_half_up_rounding_is_found(monkeypatch):
    # every odd accumulator is on a tie; acc comes from the bias alone
    inputs = tie_inputs()
    theirs = run_operator("QLinearConv", inputs)
    assert (qc.qlinear_conv(**inputs) == theirs).all()
    assert (fast.qlinear_conv(**inputs) == theirs).all()
    monkeypatch.setattr(qc.np, "rint", lambda v: np.floor(v + np.float32(0.5)))
    assert (qc.qlinear_conv(**inputs) != theirs).any()


def record(inputs: dict, attributes: dict | None = None) -> qc.Conv:
    constants = {k: v for k, v in inputs.items() if k != "x"}
    return qc.Conv(**constants, attributes=attributes or {})


def tie_inputs() -> dict[str, np.ndarray]:
    zero, one = np.int8(0), np.float32(1)
    return dict(
        x=np.zeros((1, 1, 1, 1), np.int8), x_scale=np.float32(0.5), x_zero_point=zero,
        w=np.zeros((64, 1, 1, 1), np.int8), w_scale=one, w_zero_point=zero,
        y_scale=one, y_zero_point=zero, B=np.arange(-32, 32, dtype=np.int32),
    )  # fmt: skip


def test_scale_is_rounded_after_each_operation():
    # scales for which the other orders of the same three numbers give another float32
    rng = np.random.default_rng(1)
    x, w, y = (rng.uniform(0.001, 1, 10_000).astype(np.float32) for _ in range(3))
    ours = ar.requantization_scale(x, w, y)
    assert (ours != x * (w / y)).any() and (ours != (x / y) * w).any()
    assert (ours != (x.astype(float) * w / y).astype(np.float32)).any()


def test_loops_agree_with_the_fast_sum(model, values):
    node = model.node("block2_conv1_quant")
    conv, x = model.conv(node), values[node.inputs[0]]
    st_ = qc.stages(x, conv)
    geo = conv.geometry(x.shape)
    rng = np.random.default_rng(0)
    for _ in range(50):
        n, m, *at = (int(rng.integers(size)) for size in st_.sums.shape)
        zeros = conv.x_zero_point, conv.w, conv.w_zero_point
        loops = qc.accumulate_loops(st_.padded, *zeros, geo, n, m, tuple(at))
        element = work(x, conv, n, m, tuple(at))
        assert loops[-1] == st_.sums[n, m, *at] == element.running[-1]
        assert loops == element.running.tolist()
        assert element.y == st_.y[n, m, *at]


def test_accumulator_range_is_attained_and_tight():
    rng = np.random.default_rng(0)
    for x_type in (np.int8, np.uint8):
        info = np.iinfo(x_type)
        for _ in range(20):
            w = rng.integers(-128, 128, (3, 2, 3)).astype(np.int8)
            w_zero, x_zero = np.int8(rng.integers(-9, 9)), x_type(rng.integers(info.min, info.max))
            low, high = qc.sum_range(w, w_zero, np.dtype(x_type), x_zero)
            terms = w.astype(int).reshape(3, -1) - int(w_zero)
            for m in range(3):
                top = np.where(terms[m] > 0, info.max, info.min) - int(x_zero)
                bottom = np.where(terms[m] > 0, info.min, info.max) - int(x_zero)
                assert (terms[m] * top).sum() == high[m] and (terms[m] * bottom).sum() == low[m]
                # a partial sum, in a random order, of a random input
                x = rng.integers(info.min, info.max + 1, terms[m].size) - int(x_zero)
                partial = rng.permutation(terms[m] * x).cumsum()
                assert low[m] <= partial.min() and partial.max() <= high[m]


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(0, 0, 1), (-1, 0, 1), (0, 1, 2), (-128, 127, 8), (-129, 0, 9), (0, 128, 9), (0, 2**31, 33)],
)
def test_signed_bits(low, high, bits):
    assert ar.signed_bits(low, high) == bits
    assert -(2 ** (bits - 1)) <= low and high <= 2 ** (bits - 1) - 1


def test_float_sums_are_exact_up_to_their_bound():
    assert ar.exact_float(2**24) is np.float32 and ar.exact_float(2**24 + 1) is np.float64
    assert np.float32(2**24) + np.float32(1) == 2**24  # one beyond is lost: the bound is tight
    with pytest.raises(UnusableInput, match="2\\*\\*53"):
        ar.exact_float(2**53 + 1)
    # sums beyond 2**24 and beyond int32: exact in float64, and wrapped as int32 hardware does
    taps = 40_000
    x = np.full((1, taps, 1), 127, np.int8)
    w = np.full((1, taps, 1), 127, np.int8)
    geo = qc.geometry(x.shape, w.shape)
    exact = taps * 255 * 255
    wrapped = (exact + 2**31) % 2**32 - 2**31
    assert exact > 2**31
    for accumulate in (qc.accumulate, fast.accumulate):
        assert accumulate(x, np.int8(-128), w, np.int8(-128), geo).item() == wrapped


@st.composite
def convs(draw):
    """Any QLinearConv that ONNX Runtime's CPU kernel accepts, small."""
    axes = draw(st.integers(1, 3))
    group = draw(st.sampled_from([1, 1, 2, 3]))
    c_group, m_group = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    if draw(st.booleans()) and group > 1:
        c_group = m_group = 1  # depthwise
    c, m = c_group * group, m_group * group
    kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
    dilations = [draw(st.integers(1, 2)) for _ in range(axes)]
    strides = [draw(st.integers(1, 3)) for _ in range(axes)]
    size = [draw(st.integers((k - 1) * d + 1, 8)) for k, d in zip(kernel, dilations, strict=True)]
    attributes = dict(group=group, kernel_shape=kernel, strides=strides, dilations=dilations)
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto == "NOTSET":
        attributes["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    else:
        attributes["auto_pad"] = auto
        if auto.startswith("SAME"):
            attributes["dilations"] = [1] * axes  # ONNX Runtime refuses others
    x_type = draw(st.sampled_from([np.int8, np.uint8]))
    w_type = np.int8 if x_type is np.int8 else draw(st.sampled_from([np.int8, np.uint8]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def integers(dtype, shape=()):
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)

    per_channel = draw(st.booleans())
    w_shape = (m,) if per_channel else ()
    k = c_group * int(np.prod(kernel))
    inputs = dict(
        x=integers(x_type, (draw(st.integers(1, 2)), c, *size)),
        x_scale=np.float32(rng.uniform(0.001, 0.1)),
        x_zero_point=integers(x_type),
        w=integers(w_type, (m, c_group, *kernel)),
        w_scale=rng.uniform(0.001, 0.1, w_shape).astype(np.float32)[()],
        w_zero_point=integers(w_type, w_shape),
        y_scale=np.float32(rng.uniform(0.5, 2) * k**0.5 * 0.1),
        y_zero_point=integers(x_type),
        B=rng.integers(-(2**16), 2**16, m).astype(np.int32) if draw(st.booleans()) else None,
    )
    return inputs, attributes


@examples(250)
@given(convs())
def test_any_legal_convolution_equals_ort(case):
    inputs, attributes = case
    if ORT < (1, 27):  # which refuses zero points that differ between channels
        inputs["w_zero_point"] = np.full_like(
            inputs["w_zero_point"], inputs["w_zero_point"].flat[0]
        )
    theirs = run_operator("QLinearConv", inputs, **attributes)
    ours = qc.qlinear_conv(**inputs, **attributes)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert (ours == theirs).all()


CACHES = (1, 3_000, 10_000, 30_000, 100_000, 1 << 20)  # bytes: images one by one to all at once


@examples(400)
@given(convs(), st.integers(1, 24), st.integers(0, 9), st.sampled_from(CACHES))
def test_the_fast_convolution_equals_the_plain_one(case, images, more, cache):
    inputs, attributes = case
    inputs["x"] = np.resize(inputs["x"], (images, *inputs["x"].shape[1:]))
    if "pads" in attributes:  # beyond what ONNX Runtime takes: wider than the kernel and the image
        attributes["pads"] = [pad + more * (i % 2) for i, pad in enumerate(attributes["pads"])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "THREADS", 3)
        patch.setattr(fast, "CACHE", cache)
        ours = fast.qlinear_conv(**inputs, **attributes)
    plain = qc.qlinear_conv(**inputs, **attributes)
    assert ours.dtype == plain.dtype and ours.shape == plain.shape
    assert (ours == plain).all()


@pytest.mark.parametrize("kernel", [(1, 1), (1, 3), (2, 2)])
def test_the_fast_convolution_pads_wider_than_the_kernel(kernel):
    inputs = tie_inputs()
    rng = np.random.default_rng(0)
    inputs["x"] = rng.integers(-128, 128, (3, 2, 4, 5)).astype(np.int8)
    inputs["w"] = rng.integers(-128, 128, (64, 2, *kernel)).astype(np.int8)
    inputs.update(x_zero_point=np.int8(-5), y_scale=np.float32(90))
    plain = qc.qlinear_conv(**inputs, pads=[2, 7, 1, 3])
    assert len(np.unique(plain)) > 200
    assert (fast.qlinear_conv(**inputs, pads=[2, 7, 1, 3]) == plain).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_the_fast_convolution_runs_in_a_forked_process(monkeypatch):
    monkeypatch.setattr(threads, "THREADS", 2)
    inputs = tie_inputs()
    inputs["x"] = np.zeros((2, 1, 1, 1), np.int8)
    ours = fast.qlinear_conv(**inputs)  # starts the threads
    with multiprocessing.get_context("fork").Pool(1) as child:
        theirs = child.apply_async(fast.qlinear_conv, kwds=inputs).get(timeout=60)
    assert (ours == theirs).all()


def test_fast_convolutions_at_once_leave_blas_its_threads(monkeypatch):
    monkeypatch.setattr(threads, "THREADS", 2)
    inputs = tie_inputs()
    inputs["x"] = np.zeros((64, 1, 8, 8), np.int8)
    plain = qc.qlinear_conv(**inputs)
    before = ThreadpoolController().info()
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: fast.qlinear_conv(**inputs), range(200)))
    assert all((y == plain).all() for y in done)
    assert ThreadpoolController().info() == before


@examples(100)
@given(convs())
def test_no_sum_of_the_fast_convolution_passes_its_bound(case):
    inputs, attributes = case
    x, w, zero = inputs["x"], inputs["w"], inputs["x_zero_point"]
    weights, constant = fast.folded(int(zero), w, inputs["w_zero_point"], inputs["B"])
    low, high = qc.sum_range(w, inputs["w_zero_point"], x.dtype, x.dtype.type(0))
    ends = np.stack([low, low + constant, high, high + constant])
    largest = fast.largest_sum(weights, constant, x.dtype)
    assert np.abs(ends).max() <= largest
    # and the folded sum is the one of the two stages
    geo = qc.geometry(x.shape, w.shape, **attributes)
    columns = qc.patches(qc.pad(x, zero, geo).astype(np.int64), geo)
    sums = (weights.reshape(geo.group, -1, weights.shape[1]) @ columns).reshape(
        len(x), len(w), *geo.out
    )
    acc = qc.stages(x, record(inputs, attributes)).acc
    assert (sums + ar.per_channel(constant, sums.ndim) == acc).all()


def test_the_fast_convolution_leaves_sums_beyond_24_bits_to_the_plain_one(monkeypatch):
    # the way to a small sum leads past 2**24, where float32 has no odd integers
    taps = 4608  # a 3x3 layer of 512 channels
    rng = np.random.default_rng(0)
    inputs = dict(
        x=rng.integers(0, 128, (1, taps, 1, 1)).astype(np.int8), x_scale=np.float32(1),
        x_zero_point=np.int8(0), w=rng.integers(60, 128, (64, taps, 1, 1)).astype(np.int8),
        w_scale=np.float32(1), w_zero_point=np.int8(0), y_scale=np.float32(1),
        y_zero_point=np.int8(0),
    )  # fmt: skip
    acc = qc.stages(inputs["x"], record(inputs)).acc
    assert (acc > 2**24).all()
    inputs["B"] = -acc.reshape(64)
    theirs = run_operator("QLinearConv", inputs)
    assert (fast.qlinear_conv(**inputs) == theirs).all()
    monkeypatch.setattr(fast, "largest_sum", lambda *_: 0)
    assert (fast.qlinear_conv(**inputs) != theirs).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x_scale=np.float32([1, 1])), "x_scale has shape"),
        (dict(x_scale=np.float32(0)), "x_scale is"),
        (dict(w_scale=np.float32(np.nan)), "w_scale is"),
        (dict(y_scale=np.float32(-1)), "y_scale is"),
        (dict(y_scale=np.float64(1)), "y_scale has type float64"),
        (dict(x_zero_point=np.uint8(0)), "x_zero_point has type uint8"),
        (dict(w_zero_point=np.zeros(3, np.int8)), "w_zero_point has shape"),
        (dict(x=np.zeros((1, 1, 1, 1), np.int16)), "x has type int16"),
        (dict(B=np.zeros(3, np.int32)), "B has type int32, shape"),
        (dict(pads=[0, 0, 0]), "pads is"),
        (dict(strides=[0, 1]), "strides is"),
        (dict(group=2), "group is 2"),
        (dict(kernel_shape=[3, 3]), "kernel_shape is"),
        (dict(auto_pad="SAME"), "auto_pad is"),
        (dict(x=np.zeros((1, 1), np.int8)), "spatial axes"),
    ],
)
def test_illegal_inputs_are_named(change, message):
    with pytest.raises(UnusableInput, match=message):
        qc.qlinear_conv(**{**tie_inputs(), **change})
