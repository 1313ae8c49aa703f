"""Threshold vectors prove a monotone requantizer; corners are where they say, and are reached."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from qlinear import edges, ort
from qlinear.errors import UnusableInput
from qlinear.fuse import fuse
from qlinear.hardware import requantizers as rq
from qlinear.onnx_model import from_proto
from qlinear.operators import arithmetic as ar
from qlinear.operators import qlinear_conv as qc
from qlinear.ort import borrower, operator_model

F, I8, U8, I32 = np.float32, np.int8, np.uint8, np.int32
CONTRIB = "com.microsoft"


def conv(seed=0, x_type=I8, taps=(2, 3)) -> qc.Conv:
    """Few taps, so that every accumulator can be tried; factors with ties and without."""
    rng = np.random.default_rng(seed)
    info = np.iinfo(x_type)
    return qc.Conv(
        F(1), x_type(info.min + 100), rng.integers(-127, 128, (5, *taps)).astype(I8),
        F([1 / 32, 1 / 64, 0.0123, 0.00217, 3 / 256]), np.zeros(5, I8), F(1),
        x_type(info.min + 131), rng.integers(-3000, 3000, 5).astype(I32),
    )  # fmt: skip


@pytest.fixture(params=[I8, U8], ids=["int8", "uint8"])
def of(request) -> edges.Requantizer:
    return edges.of_conv(conv(x_type=request.param))


def every(of: edges.Requantizer, m: int) -> np.ndarray:
    return np.arange(of.low[m], of.high[m] + 1).astype(I32)


def channel_of(of: edges.Requantizer, m: int) -> edges.Requantizer:
    return replace(of, factor=of.factor[[m]])


def test_between_neighbours_nothing_steps(of):
    """What the proof rests on, on every accumulator."""
    found = edges.threshold_accumulators(of)
    for m in range(5):
        acc, y = (found[name][found["channel"] == m].astype(int) for name in ("acc", "y"))
        assert (acc[0], acc[-1]) == (of.low[m], of.high[m]) and (np.diff(acc) > 0).all()
        assert ((np.diff(acc) == 1) | (np.diff(y) == 0)).all() and (np.diff(y) >= 0).all()
        between = y[np.searchsorted(acc, every(of, m), "right") - 1]
        assert (between == channel_of(of, m)(every(of, m)[None, None])[0, 0]).all()


def mistakes(of: edges.Requantizer) -> dict:
    """Requantizers of one channel that never decrease, as a design might have them; one is exact.

    Each takes accumulators (n,) and the channel.
    """
    zero, dtype = of.y_zero_point, of.y_zero_point.dtype
    z = F(int(zero))

    def fixed(bits: int, rounding: str = "half even", more: int = 0):
        multiplier, right = rq.fixed_point(of.factor, bits)
        return lambda acc, m: rq.requantize_fixed(
            acc[None, None], multiplier[[m]] + more, right[[m]], zero, rounding
        )[0, 0]

    def of_parts(function, parts):
        return lambda acc, m: function(acc[None, None], *(v[[m]] for v in parts), zero)[0, 0]

    def real(function, factor=of.factor):
        return lambda acc, m: ar.saturate(function(acc.astype(F) * factor[m]), dtype)

    info = np.iinfo(dtype)
    return {
        **{f"24 bits, {name}": fixed(24, name) for name in ("half up", "half away", "truncate")},
        **{f"{bits} bits": fixed(bits) for bits in (8, 12, 16)},
        **{f"the last of {b} bits {d:+}": fixed(b, more=d) for b in (12, 16) for d in (-1, 1)},
        "gemmlowp": of_parts(rq.requantize_gemmlowp, rq.fixed_point(of.factor, 31)),
        "a shift": of_parts(rq.requantize_fixed, rq.power_of_two(of.factor)),
        "zero point before rounding": real(lambda v: np.rint(v + z)),
        "zero point + 1": real(lambda v: np.rint(v) + z + 1),
        "no zero point": real(np.rint),
        "one factor for all": real(lambda v: np.rint(v) + z, np.full_like(of.factor, 0.0123)),
        "the next float32 factor": real(
            lambda v: np.rint(v) + z, np.nextafter(of.factor, F(1), dtype=F)
        ),
        "clamped too early": real(lambda v: np.clip(np.rint(v) + z, info.min + 1, info.max - 1)),
        "ReLU": real(lambda v: np.maximum(np.rint(v), 0) + z),
        "exact": of_parts(rq.requantize_as_float32, (of.factor,)),
    }


def test_a_mistake_is_found_by_the_thresholds_where_it_exists_at_all(of):
    """Wrong on some accumulator of the range, tried one by one, is wrong on a threshold vector."""
    found = edges.threshold_accumulators(of)
    caught = set()
    for name, requantizer in mistakes(of).items():
        for m in range(5):
            exact = channel_of(of, m)(every(of, m)[None, None])[0, 0]
            mine = found["channel"] == m
            by_vectors = (requantizer(found["acc"][mine], m) != found["y"][mine]).any()
            assert by_vectors == (requantizer(every(of, m), m) != exact).any(), (name, m)
            caught |= {name} if by_vectors else set()
    assert set(mistakes(of)) - caught == {"exact"}


def test_thresholds_are_onnx_runtimes_in_the_layer_itself(of):
    """Not only in our probe: each as the bias of the layer, whose weights are 0."""
    found = edges.threshold_accumulators(of)
    layer = conv(x_type=type(of.x_zero_point[()]))
    for m in range(5):
        acc = found["acc"][found["channel"] == m]
        inputs = dict(
            x=np.full((1, 2, 3), of.x_zero_point, of.x_zero_point.dtype), x_scale=layer.x_scale,
            x_zero_point=layer.x_zero_point, w=np.zeros((len(acc), 2, 3), I8),
            w_scale=np.full(len(acc), layer.w_scale[m]), w_zero_point=np.zeros(len(acc), I8),
            y_scale=layer.y_scale, y_zero_point=layer.y_zero_point, B=acc,
        )  # fmt: skip
        y = ort.run_operator("QLinearConv", inputs).ravel()
        assert (y == found["y"][found["channel"] == m]).all()


def test_corners_are_what_they_are_called(of):
    found = edges.corner_accumulators(of)
    names = np.array(list(edges.KINDS))[found["kind"]]
    info = np.iinfo(found["y"].dtype)
    for m in range(5):
        mine = found["channel"] == m
        acc, kind, y = found["acc"][mine], names[mine], found["y"][mine]
        low, high = of.low[m], of.high[m]
        assert set(acc[kind == "bound"]) == {low, low + 1, high - 1, high}
        assert {-1, 0, 1} <= set(acc) and (np.diff(acc) > 0).all()
        twice = 2 * (every(of, m).astype(F) * of.factor[m])
        ties = every(of, m)[np.abs(twice) % 2 == 1]
        on_levels = (np.abs(twice) % 2 == 1) & (np.abs(twice) < 600)
        inside = [t for t in every(of, m)[on_levels] if info.min < of_level(of, m, t) < info.max]
        assert set(inside) <= set(acc) and set(acc[kind == "tie"]) <= {
            t + d for t in ties for d in (-1, 0, 1)
        }
        full = channel_of(of, m)(every(of, m)[None, None])[0, 0]
        assert (full.min(), full.max()) == (y.min(), y.max())
        for end in (info.min, info.max):
            where = np.flatnonzero(full == end)
            if len(where):
                edge = where[-1] if end == info.min else where[0]
                assert every(of, m)[edge] in acc
    assert "tie" in names and "saturation" in names and "float32" not in names


def of_level(of: edges.Requantizer, m: int, acc: int) -> float:
    return float(F(acc) * of.factor[m]) + int(of.y_zero_point)


def test_corners_where_float32_rounds():
    of = edges.of_conv(conv())
    of = replace(of, low=of.low - 2**25, high=of.high + 2**25)
    found = edges.corner_accumulators(of)
    beyond = found["acc"][np.array(list(edges.KINDS))[found["kind"]] == "float32"]
    assert {2**24 - 1, 2**24, 2**24 + 1, -(2**24) - 1} <= set(beyond.tolist()) and not of.exact


@pytest.mark.parametrize("taps", [(2, 3), (2, 3, 2), (1, 2, 2, 3)])
@pytest.mark.parametrize("x_type", [I8, U8])
def test_windows_give_the_bounds_in_onnx_runtime(taps, x_type):
    layer = conv(1, x_type, taps)
    of = edges.of_conv(layer)
    found = edges.corner_windows(of)
    st = qc.stages(found["x"], layer)
    row = np.arange(10)
    assert (found["channel"] == row // 2).all()
    acc = st.acc.reshape(10, 5)[row, row // 2]
    assert (acc == found["acc"]).all()
    assert (acc[::2] == of.low).all() and (acc[1::2] == of.high).all()
    names = "x_scale x_zero_point w w_scale w_zero_point y_scale y_zero_point B".split()
    inputs = {"x": found["x"], **{name: getattr(layer, name) for name in names}}
    y = ort.run_operator("QLinearConv", inputs).reshape(10, 5)[row, row // 2]
    assert (y == found["y"]).all()


# --- of which nodes


def network(op_type, inputs, domain="", **attributes):
    proto = operator_model(op_type, inputs, domain=domain, **attributes)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(next(iter(inputs.values())).dtype))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", kind, None))
    if op_type == "MatMulInteger":
        proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    return fuse(from_proto(proto, "one.onnx"))


rng = np.random.default_rng(3)
GEMM = dict(A=np.zeros((3, 6), U8), a_scale=F(0.02), a_zero_point=U8(90),
            B=rng.integers(-127, 128, (6, 4)).astype(I8), b_scale=F([0.01, 0.02, 0.03, 0.004]),
            b_zero_point=np.zeros(4, I8), C=rng.integers(-99, 99, 4).astype(I32), y_scale=F(0.3),
            y_zero_point=U8(100))  # fmt: skip
MATMUL = dict(a=np.zeros((2, 3, 6), U8), a_scale=F(0.02), a_zero_point=U8(90), b=GEMM["B"],
              b_scale=F(0.01), b_zero_point=np.array(0, I8), y_scale=F(0.3),
              y_zero_point=U8(100))  # fmt: skip
POOL = dict(X=np.zeros((1, 2, 3, 4), I8), x_scale=F(0.1), x_zero_point=I8(-7), y_scale=F(0.09),
            y_zero_point=I8(4))  # fmt: skip
NODES = [
    ("QGemm", GEMM, dict(domain=CONTRIB)),
    ("QGemm", GEMM | dict(B=np.ascontiguousarray(GEMM["B"].T)), dict(domain=CONTRIB, transB=1)),
    ("QGemm", GEMM | dict(C=None), dict(domain=CONTRIB, alpha=0.7)),
    ("QGemm", GEMM | dict(C=rng.integers(-99, 99, (3, 4)).astype(I32)), dict(domain=CONTRIB)),
    ("QLinearMatMul", MATMUL, {}),
    ("QLinearGlobalAveragePool", POOL, dict(domain=CONTRIB)),
]  # fmt: skip


@pytest.mark.parametrize("case", NODES, ids=lambda case: case[0])
def test_other_requantizers_step_where_the_operator_does(case):
    """Inputs at the ends of their type give the bounds and no more; random ones lie between."""
    op_type, inputs, options = case
    graph = network(op_type, inputs, **options).graph
    (node,) = graph.nodes
    x = next(iter(inputs.values()))
    of = edges.requantizer(graph, node, x.shape)
    found, windows = edges.threshold_accumulators(of), edges.corner_windows(of)
    assert set(found["channel"]) == set(range(len(of.factor)))
    run = borrower(graph)
    if windows is None:
        assert np.ndim(inputs["C"]) == 2
        return
    info = np.iinfo(x.dtype)
    for row, channel, y in zip(windows["x"], windows["channel"], windows["y"], strict=True):
        fed = np.broadcast_to(row, x.shape)
        made = run(node, {node.inputs[0]: np.ascontiguousarray(fed)})["y"]
        assert ((made[..., channel] if op_type != "QLinearGlobalAveragePool" else made) == y).all()
    drawn = rng.integers(info.min, info.max, x.shape, x.dtype, endpoint=True)
    made = run(node, {node.inputs[0]: drawn})["y"]
    assert found["y"].min() <= made.min() and made.max() <= found["y"].max()


def test_the_ranges_are_the_sums_at_the_ends_of_the_type():
    graph = network("QLinearGlobalAveragePool", POOL, domain=CONTRIB).graph
    of = edges.requantizer(graph, graph.nodes[0], POOL["X"].shape)
    assert (of.low.tolist(), of.high.tolist()) == ([12 * (-128 + 7)], [12 * (127 + 7)])
    # a bias of each element: the range holds all of a column's
    bias = np.array([[500, -9, 0, 3], [-200, 8, 0, 3], [40, 1, 0, 3]], I32)
    ranges = []
    for C in (None, bias, np.full(4, 9999, I32)):
        graph = network("QGemm", GEMM | dict(C=C), domain=CONTRIB).graph
        ranges.append(edges.requantizer(graph, graph.nodes[0], GEMM["A"].shape))
    plain, biased, upward = ranges
    assert (biased.low - plain.low).tolist() == [-200, -9, 0, 3]
    assert (biased.high - plain.high).tolist() == [500, 8, 0, 3]
    assert biased.register[0] == min(plain.register[0], biased.low.min())
    assert biased.register[1] == max(plain.register[1], biased.high.max())
    # a register that starts from 0 still sees the sum without the bias
    assert upward.register == (plain.register[0], upward.high.max())
    assert upward.low.min() > plain.register[0]


@pytest.mark.parametrize(
    "case",
    [
        ("QGemm", {k: v for k, v in GEMM.items() if not k.startswith("y")}, dict(domain=CONTRIB)),
        ("QGemm", GEMM, dict(domain=CONTRIB, fed=4)),
        ("MatMulInteger", dict(A=GEMM["A"], B=GEMM["B"]), {}),
        ("QLinearMatMul", MATMUL | dict(b=np.stack([GEMM["B"]] * 2)), {}),
        ("QuantizeLinear", dict(x=F([1]), y_scale=F(1), y_zero_point=U8(1)), {}),
    ],
    ids=["float", "weights fed", "sums", "batch of weights", "QuantizeLinear"],
)
def test_nodes_without_a_requantizer_of_their_own(case):
    op_type, inputs, options = case
    graph = from_proto(operator_model(op_type, inputs, **options), "one.onnx")
    assert edges.requantizer(graph, graph.nodes[0], (3, 6)) is None


def test_weights_that_are_fed_beside_a_constant_input_have_none():
    proto = operator_model("QGemm", GEMM, domain=CONTRIB)
    weights = next(t for t in proto.graph.initializer if t.name == "B")
    proto.graph.initializer.remove(weights)
    proto.graph.input[0].name = "B"
    proto.graph.initializer.append(numpy_helper.from_array(GEMM["A"], "A"))
    graph = from_proto(proto, "one.onnx")
    assert edges.requantizer(graph, graph.nodes[0], (3, 6)) is None


def test_accumulators_past_32_bits_are_refused():
    layer = conv()
    wide = edges.of_conv(replace(layer, w=np.full((5, 120_000, 1), 127, I8)))
    for function in (edges.threshold_accumulators, edges.corner_accumulators, edges.corner_windows):
        with pytest.raises(UnusableInput, match="accumulators may pass 32 bits"):
            function(wide)


def test_a_reference_that_differs_from_onnx_runtime_is_no_expectation(monkeypatch):
    of = edges.of_conv(conv())
    monkeypatch.setattr(edges, "run_operator", lambda *_: np.zeros((1, 7, 1), I8))
    with pytest.raises(UnusableInput, match="acc -3: ours 3, ONNX Runtime 0"):
        edges.requantized_by_ort(of, np.zeros(7, I32), np.arange(-3, 4, dtype=I32))
