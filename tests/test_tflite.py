"""TensorFlow Lite's form: every operator against LiteRT, and the commands on .tflite files."""

import importlib.util
import json
import sys
from functools import partial

import numpy as np
import pytest
from conftest import MODELS, needs
from tflite_graphs import graph, operator, random_network, tensor

from qlinear import cli
from qlinear.dumps import read_file
from qlinear.errors import Refused, Unsupported, UnusableInput
from qlinear.inputs import Feed, read_feeds
from qlinear.operators.qlinear_add import qlinear_add
from qlinear.tflite import arithmetic as ar
from qlinear.tflite import command, diagnosis, litert, reference, verdict, xnnpack
from qlinear.tflite.arithmetic import Type
from qlinear.tflite.model import load

CODES = np.arange(-128, 128).astype(np.int8)
A, B = np.repeat(CODES, 256)[None], np.tile(CODES, 256)[None]  # all pairs
ACTIVATIONS = ["NONE", "RELU", "RELU_N1_TO_1", "RELU6"]
FORMS = {"BUILTIN_REF": reference.OPERATORS, "AUTO": xnnpack.OPERATORS}


@pytest.fixture(autouse=True)
def _litert():
    there = importlib.util.find_spec("ai_edge_litert") is not None
    needs(there, "LiteRT (pip install 'qlinear[tflite]')")


def theirs(raw: bytes, *feeds: np.ndarray, kernels: str = "BUILTIN_REF") -> np.ndarray:
    """LiteRT's first output, in this process."""
    from ai_edge_litert import interpreter

    resolver = getattr(interpreter.OpResolverType, kernels)
    made = interpreter.Interpreter(model_content=raw, experimental_op_resolver_type=resolver)
    made.allocate_tensors()
    for detail, x in zip(made.get_input_details(), feeds, strict=True):
        made.set_tensor(detail["index"], x)
    made.invoke()
    return made.get_tensor(made.get_output_details()[0]["index"])


def kind(dtype="int8", scale=(), zero=0, axis=0) -> Type:
    scale = np.atleast_1d(np.asarray(scale, np.float32))
    return Type(dtype, (), scale, np.broadcast_to(np.int64(zero), scale.shape), axis)


def saved(tmp_path, raw: bytes, name="m.tflite"):
    path = tmp_path / name
    path.write_bytes(raw)
    return path


# --- one operator, over all of its inputs


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kernels", FORMS)
def test_add_on_all_pairs(kernels, seed):
    rng = np.random.default_rng(seed)
    for step in range(5):
        scales = np.exp(rng.uniform(-5, -1, 3)) if step else 2.0 ** rng.integers(-4, 0, 3)
        zeros = rng.choice([-128, 127, 0, 5], 3)
        named = list(zip("aby", scales, zeros, strict=True))
        raw = graph(
            [tensor(n, A.shape, scale=s, zero=z) for n, s, z in named],
            [operator("ADD", ["a", "b"], ["y"], "AddOptions",
                      fusedActivationFunction=step % 4)], ["a", "b"], ["y"],
        )  # fmt: skip
        a, b, y = (kind("int8", s, z) for _, s, z in named)
        ours = FORMS[kernels]["ADD"](
            A, B, types=(a, b), y_type=y, fused_activation_function=ACTIVATIONS[step % 4]
        )["y"]
        assert (ours == theirs(raw, A, B, kernels=kernels)).all()


@pytest.mark.parametrize("kernels", FORMS)
def test_softmax_on_all_pairs_and_on_rows(kernels):
    rng = np.random.default_rng(0)
    rows = [np.stack([A[0], B[0]], 1), rng.integers(-128, 128, (999, 37)).astype(np.int8),
            CODES[None], np.full((1, 300), -5, np.int8)]  # fmt: skip
    for x in rows:
        for scale in (1e-4, 0.0039, 0.0725, 0.171853512, 1.0, 16.0):
            for beta in (1.0, 0.3):
                raw = graph([tensor("x", x.shape, scale=scale), tensor("y", x.shape, scale=1 / 256,
                             zero=-128)], [operator("SOFTMAX", ["x"], ["y"], "SoftmaxOptions",
                             beta=beta)], ["x"], ["y"])  # fmt: skip
                ours = FORMS[kernels]["SOFTMAX"](
                    x, types=(kind("int8", scale),), y_type=kind("int8", 1 / 256, -128), beta=beta
                )["y"]
                assert (ours == theirs(raw, x, kernels=kernels)).all()


def quantized(x, x_kind, y_kind, op="QUANTIZE", kernels="BUILTIN_REF"):
    """Ours and LiteRT's output of an operator with one operand and no options."""
    tensors = [tensor(n, x.shape, k.dtype, k.scale, k.zero_point)
               for n, k in (("x", x_kind), ("y", y_kind))]  # fmt: skip
    raw = graph(tensors, [operator(op, ["x"], ["y"])], ["x"], ["y"])
    ours = FORMS[kernels][op](x, types=(x_kind,), y_type=y_kind)["y"]
    return ours, theirs(raw, x, kernels=kernels)


@pytest.mark.parametrize("given", ["int8", "uint8"])
@pytest.mark.parametrize("made", ["int8", "uint8"])
def test_requantize_on_all_values(given, made):
    shift = {"int8": 0, "uint8": 128}
    x = (np.arange(-128, 128) + shift[given]).astype(given)[None]
    for ratio in (0.5, 1, 2, 0.7, 1.9, 0.01, 200, 2.0**-9):
        for x_zero, y_zero in ((-128, 127), (127, -128), (0, 0), (-3, 9)):
            before = kind(given, 0.1, x_zero + shift[given])
            after = kind(made, 0.1 / ratio, y_zero + shift[made])
            ours, other = quantized(x, before, after)
            assert (ours == other).all()


@pytest.mark.parametrize("kernels", FORMS)
def test_quantize_and_dequantize_on_ties_and_all_values(kernels):
    rng = np.random.default_rng(1)
    for scale in (0.5, 0.1, 0.0039215689, 3.0):
        ties = np.arange(-600, 600) * np.float32(scale) / np.float32(2)
        x = np.concatenate([ties, rng.normal(0, 90 * scale, 999), [0.0, -0.0, 1e9 * scale]])
        for zero in (-128, 127, 3):
            x = x.astype(np.float32).reshape(1, -1)
            ours, other = quantized(x, kind("float32"), kind("int8", scale, zero), kernels=kernels)
            assert (ours == other).all()
            ours, other = quantized(
                CODES[None], kind("int8", scale, zero), kind("float32"), "DEQUANTIZE", kernels
            )
            assert (ours == other).all() and ours.dtype == np.float32


def test_xnnpack_requantizes_all_values():
    for ratio in (0.5, 1, 2, 0.7, 1.9, 0.01, 100, 2.0**-8):
        for x_zero, y_zero in ((-128, 127), (127, -128), (0, 0), (-3, 9)):
            before, after = kind("int8", 0.1, x_zero), kind("int8", np.float32(0.1 / ratio), y_zero)
            ours, other = quantized(CODES[None], before, after, kernels="AUTO")
            assert (ours == other).all()


@pytest.mark.parametrize("kernels", FORMS)
@pytest.mark.parametrize("op", ["MAX_POOL_2D", "AVERAGE_POOL_2D", "ADD"])
@pytest.mark.parametrize(("activation", "scale"), [("RELU6", 12.0), ("RELU_N1_TO_1", 2.0)])
def test_the_end_of_an_activation_that_is_a_tie(kernels, op, activation, scale):
    """6 / 12 and 1 / 2 are one half: rounded away from zero, or by XNNPACK to even."""
    shape, at = (1, 1, 256, 1), ACTIVATIONS.index(activation)
    x, like = CODES.reshape(shape), kind("int8", scale)
    options = {"fused_activation_function": activation}
    if op == "ADD":
        made = operator(op, ["x", "x"], ["y"], "AddOptions", fusedActivationFunction=at)
        ours = FORMS[kernels][op](x, x, types=(like, like), y_type=like, **options)["y"]
    else:
        sizes = dict(strideH=1, strideW=1, filterHeight=1, filterWidth=1)
        made = operator(op, ["x"], ["y"], "Pool2DOptions", fusedActivationFunction=at, **sizes)
        names = dict(stride_h=1, stride_w=1, filter_height=1, filter_width=1, padding="SAME")
        ours = FORMS[kernels][op](x, types=(like,), y_type=like, **names, **options)["y"]
    raw = graph([tensor(n, shape, scale=scale) for n in "xy"], [made], ["x"], ["y"])
    other = theirs(raw, x, kernels=kernels)
    assert (ours == other).all()
    by_xnnpack = kernels == "AUTO" and op != "AVERAGE_POOL_2D"
    assert other.max() == (0 if by_xnnpack else 1)


@pytest.mark.parametrize("kernels", FORMS)
def test_mean_on_ties_and_on_any_axes(kernels):
    rng = np.random.default_rng(3)
    for step in range(40):
        shape = (1, *map(int, rng.integers(1, 9, 3)))
        scales = np.exp(rng.uniform(-5, -1, 2)) if step % 3 else 2.0 ** rng.integers(-5, -1, 2)
        zeros = [int(v) for v in rng.choice([-128, 127, 0, 5], 2)]
        axes = sorted(map(int, rng.choice([1, 2, 3], 1 + step % 3, replace=False)))
        x = rng.integers(-128, 128, shape).astype(np.int8)
        ends = kind("int8", scales[0], zeros[0]), kind("int8", scales[1], zeros[1])
        ours = FORMS[kernels]["MEAN"](
            x, np.int32(axes), types=(ends[0], None), y_type=ends[1], keep_dims=step % 2 == 0
        )["y"]
        raw = graph(
            [tensor("x", shape, scale=scales[0], zero=zeros[0]),
             tensor("a", (len(axes),), "int32", data=np.int32(axes)),
             tensor("y", ours.shape, scale=scales[1], zero=zeros[1])],
            [operator("MEAN", ["x", "a"], ["y"], "ReducerOptions", keepDims=step % 2 == 0)],
            ["x"], ["y"],
        )  # fmt: skip
        other = theirs(raw, x, kernels=kernels)
        assert ours.shape == other.shape and (ours == other).all()


@pytest.mark.parametrize("kernels", FORMS)
@pytest.mark.parametrize("count", [28, 24, 6])
def test_mean_of_many_sums_that_lie_on_ties(kernels, count):
    """1 / 28 is no float32: on ties it counts in which order XNNPACK adds the zero points."""
    x = np.random.default_rng(count).integers(-128, 128, (4000, count)).astype(np.int8)
    for one, other, zeros in (
        (0.5, 0.5, (-128, -128)), (0.5, 0.5, (-128, 5)), (0.5, 0.25, (3, 5)), (0.5, 0.2, (3, 5)),
        (0.3, 0.1, (3, 5)), (0.7, 0.11, (33, -20)), (0.05, 0.03, (7, 5)), (0.5, 0.75, (3, 5)),
    ):  # fmt: skip
        raw = graph(
            [tensor("x", x.shape, scale=one, zero=zeros[0]),
             tensor("a", (1,), "int32", data=np.int32([1])),
             tensor("y", (4000,), scale=other, zero=zeros[1])],
            [operator("MEAN", ["x", "a"], ["y"], "ReducerOptions")], ["x"], ["y"],
        )  # fmt: skip
        ours = FORMS[kernels]["MEAN"](
            x, np.int32([1]), types=(kind("int8", one, zeros[0]), None),
            y_type=kind("int8", other, zeros[1]),
        )["y"]  # fmt: skip
        assert (ours == theirs(raw, x, kernels=kernels)).all()


@pytest.mark.parametrize("kernels", FORMS)
def test_max_pool_whose_stride_is_more_than_its_window(kernels):
    """XNNPACK leaves it: the end of the activation's range is a tie, away from zero."""
    x = CODES.reshape(1, 16, 16, 1)
    like, names = kind("int8", 2.0), dict(stride_h=3, stride_w=1, filter_height=2, filter_width=2)
    sizes = dict(strideH=3, strideW=1, filterHeight=2, filterWidth=2)
    made = operator("MAX_POOL_2D", ["x"], ["y"], "Pool2DOptions", fusedActivationFunction=2,
                    **sizes)  # fmt: skip
    raw = graph([tensor("x", x.shape, scale=2), tensor("y", (1, 6, 16, 1), scale=2)], [made],
                ["x"], ["y"])  # fmt: skip
    ours = FORMS[kernels]["MAX_POOL_2D"](
        x, types=(like,), y_type=like, padding="SAME",
        fused_activation_function="RELU_N1_TO_1", **names,
    )["y"]  # fmt: skip
    other = theirs(raw, x, kernels=kernels)
    assert (ours == other).all() and other.max() == 1


# --- whole files


@pytest.mark.parametrize("seed", range(10))
def test_random_networks_pass(tmp_path, seed):
    model = load(saved(tmp_path, random_network(seed)))
    found = verdict.validate(model, read_feeds(model))
    assert found.status == "PASS", found
    assert found.coverage.recomputed == found.coverage.quantized == len(model.nodes)
    assert len(found.outputs) + len(found.tensors) == len(model.nodes)


def test_the_generator_makes_every_operator(tmp_path):
    seen = set()
    for seed in range(16):
        seen |= {n.op_type for n in load(saved(tmp_path, random_network(seed))).nodes}
    assert seen == set(reference.OPERATORS)


def test_xnnpack_on_random_layers(tmp_path):
    """Each operator that XNNPACK takes, alone, on LiteRT's inputs of it."""
    counted = dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), 0)
    for seed in range(10):
        model = load(saved(tmp_path, random_network(seed)))
        values = command.tensors(model, read_feeds(model)[0])
        for node in model.nodes:
            if node.op_type not in counted:
                continue
            try:
                ours = verdict.stages(model, node, values, xnnpack.OPERATORS)["y"]
            except Unsupported:
                continue
            raw = alone(model, node)
            other = theirs(raw, values[node.inputs[0]], kernels="AUTO")
            assert (ours == other).all(), (seed, node.name)
            counted[node.op_type] += 1
    assert min(counted.values()) > 3, counted


def alone(model, node) -> bytes:
    """A file of one node of a model."""
    from ai_edge_litert import schema_py_generated as schema

    def described(name):
        t = model.types[name]
        return tensor(name, t.shape, t.dtype, t.scale, t.zero_point[:1].sum(), t.axis,
                      model.constants.get(name))  # fmt: skip

    names = {"CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
             "FULLY_CONNECTED": "FullyConnectedOptions"}  # fmt: skip
    o = node.attributes
    values = {"fusedActivationFunction": ACTIVATIONS.index(o["fused_activation_function"])}
    if "padding" in o:
        values |= {"padding": getattr(schema.Padding, o["padding"]), "strideW": o["stride_w"],
                   "strideH": o["stride_h"], "dilationWFactor": o["dilation_w_factor"],
                   "dilationHFactor": o["dilation_h_factor"]}  # fmt: skip
    if "depth_multiplier" in o:
        values["depthMultiplier"] = o["depth_multiplier"]
    tensors = [described(name) for name in (*node.inputs, *node.outputs)]
    made = operator(node.op_type, node.inputs, node.outputs, names[node.op_type], **values)
    return graph(tensors, [made], [node.inputs[0]], node.outputs)


def test_where_xnnpacks_addition_parts_from_onnx_runtimes_the_sum_is_near_a_tie():
    """Multipliers of 21 bits are off by half a unit at most: 255 times that, of each of two."""
    differing = 0
    for a, b, y in ((0.0394, 0.1042, 0.0509), (0.05, 0.05, 0.07), (0.5, 0.25, 0.5)):
        a, b, y = map(np.float32, (a, b, y))
        zeros = [np.int8(v) for v in (-128, 4, -128)]
        ours = xnnpack.add(A, B, types=(kind("int8", a, zeros[0]), kind("int8", b, zeros[1])),
                           y_type=kind("int8", y, zeros[2]))  # fmt: skip
        ort = qlinear_add(A, a, zeros[0], B, b, zeros[1], y, zeros[2])
        real = (A.astype(float) + 128) * float(a) / float(y)
        real += (B.astype(float) - 4) * float(b) / float(y)
        tie = np.abs(np.abs(real - np.floor(real)) - 0.5)
        wrong = ours["y"] != ort
        differing += wrong.sum()
        assert (tie[wrong] <= 2 * 255 / 2 / 2.0 ** float(ours["shift"]) + 1e-4).all()
    assert differing  # halves of halves: XNNPACK rounds ties up, ONNX Runtime to even


# --- what must be noticed


def planted():
    """Wrong arithmetic, by name: the operator and what computes it."""

    def half_up(acc, factor):  # one rounding instead of two
        multiplier, shift = ar.quantize_multiplier(factor)
        right = 31 - shift
        return {"scaled": (acc * multiplier + (np.int64(1) << (right - 1))) >> right}

    def requantized(sums, bias, factor, activation, y_type, scaled=half_up, by=1.0):
        acc = reference.with_bias(sums, bias)
        return ar.finish(scaled(acc, factor * by)["scaled"], activation, y_type)

    def conv(x, w, bias=None, *, types, y_type, requantize=requantized, zero=True, **o):
        place = reference.windows_of(x, w.shape[1:3], o["padding"], (o["stride_h"], o["stride_w"]),
                                     (o["dilation_h_factor"], o["dilation_w_factor"]))  # fmt: skip
        sums = reference.conv_sums(x, w, types[0].zero if zero else 0, place)
        factor = reference.conv_factor(types, y_type, len(w))
        return requantize(sums, bias, factor, o["fused_activation_function"], y_type)

    def mean(x, *, types, y_type, **o):
        found = reference.average_pool_2d(x, types=types, y_type=y_type, **o)
        floor = found["sum"] // found["count"]
        return ar.clamp(floor, o["fused_activation_function"], y_type)

    def dense(x, w, bias=None, *, types, y_type, **o):  # the fixed-point multiplier of the others
        sums, _ = reference.dense_sums(x, w, types, False)
        factor = reference.conv_factor(types, y_type, len(w))
        return reference.requantized(sums, bias, factor, o["fused_activation_function"], y_type)

    def softmax(x, *, types, y_type, beta=1.0):
        found = reference.softmax(x, types=types, y_type=y_type, beta=beta)
        real = found["exponential"] / 2.0**31 / (found["sum"] / 2.0**19)
        return {"y": np.clip(np.floor(256 * real) - 128, -128, 127).astype(np.int8)}

    return {
        "one rounding": ("CONV_2D", conv),
        "factor": ("CONV_2D", partial(conv, requantize=partial(requantized, by=1.002))),
        "zero point": ("CONV_2D", partial(conv, zero=False)),
        "floor": ("AVERAGE_POOL_2D", mean),
        "dense": ("FULLY_CONNECTED", dense),
        "xnnpack": ("CONV_2D", xnnpack.conv_2d),
        "truncated shares": ("SOFTMAX", softmax),
        "vadd": ("ADD", xnnpack.add),
    }


@pytest.mark.parametrize("name", planted())
def test_wrong_arithmetic_fails(tmp_path, name):
    """On files with powers of two as scales, whose accumulators lie on ties."""
    op_type, function = planted()[name]
    model = load(saved(tmp_path, with_ties(op_type)))
    feeds = [Feed({n: np.random.default_rng(i).integers(-128, 128, s).astype(np.int8)
                   for n, (_, s) in model.inputs.items()}, str(i)) for i in range(3)]  # fmt: skip
    assert verdict.validate(model, feeds).status == "PASS"
    wrong = reference.OPERATORS | {op_type: function}
    assert verdict.validate(model, feeds, operators=wrong).status == "FAIL"


def with_ties(op_type: str) -> bytes:
    """A file of one operator whose scales are powers of two."""
    rng = np.random.default_rng(2)
    shape, wide = (1, 12, 12, 4), (1, 12, 12, 8)
    w = rng.integers(-127, 128, (8, 3, 3, 4)).astype(np.int8)
    rows = rng.integers(-127, 128, (8, 64)).astype(np.int8)
    zeros = np.zeros(8, np.int32)
    if op_type == "CONV_2D":
        return graph(
            [tensor("x", shape, scale=0.25, zero=7), tensor("w", w.shape, scale=0.125, data=w),
             tensor("b", (8,), "int32", 0.03125, data=zeros), tensor("y", wide, scale=8)],
            [operator("CONV_2D", ["x", "w", "b"], ["y"], "Conv2DOptions", strideH=1, strideW=1,
                      dilationHFactor=1, dilationWFactor=1)], ["x"], ["y"],
        )  # fmt: skip
    if op_type == "FULLY_CONNECTED":
        return graph(
            [tensor("x", (64, 64), scale=0.25, zero=7), tensor("y", (64, 8), scale=8),
             tensor("w", rows.shape, scale=0.125, data=rows)],
            [operator("FULLY_CONNECTED", ["x", "w"], ["y"], "FullyConnectedOptions")],
            ["x"], ["y"],
        )  # fmt: skip
    if op_type == "AVERAGE_POOL_2D":
        return graph(
            [tensor("x", shape, scale=1), tensor("y", (1, 6, 6, 4), scale=1)],
            [operator("AVERAGE_POOL_2D", ["x"], ["y"], "Pool2DOptions", strideH=2, strideW=2,
                      filterHeight=2, filterWidth=2)], ["x"], ["y"],
        )  # fmt: skip
    if op_type == "SOFTMAX":
        return graph(
            [tensor("x", (4096, 9), scale=0.03), tensor("y", (4096, 9), scale=1 / 256, zero=-128)],
            [operator("SOFTMAX", ["x"], ["y"], "SoftmaxOptions", beta=1.0)], ["x"], ["y"],
        )  # fmt: skip
    return graph(
        [tensor("a", shape, scale=0.5), tensor("b", shape, scale=0.25),
         tensor("y", shape, scale=1)],
        [operator("ADD", ["a", "b"], ["y"], "AddOptions")], ["a", "b"], ["y"],
    )  # fmt: skip


def one_conv(tmp_path, **more):
    """A file of one convolution."""
    raw = with_ties("CONV_2D")
    return saved(tmp_path, raw, **more)


def test_what_is_not_recomputed_is_named(tmp_path, capsys):
    x = (1, 4)
    raw = graph(
        [tensor("x", x, scale=0.1), tensor("h", x, scale=0.1),
         tensor("y", x, scale=1 / 256, zero=-128), tensor("z", x, scale=0.1)],
        [operator("ADD", ["x", "x"], ["h"], "AddOptions", fusedActivationFunction=4),  # TANH
         operator("LOGISTIC", ["h"], ["y"]), operator("ADD", ["y", "h"], ["z"], "AddOptions")],
        ["x"], ["z"],
    )  # fmt: skip
    path = saved(tmp_path, raw)
    assert cli.main(["validate", str(path)]) == 3
    said = capsys.readouterr().out
    assert "not recomputed: ADD: fused TANH: NONE, RELU, RELU6, RELU_N1_TO_1 needed: 1 (h)" in said
    assert "not recomputed: LOGISTIC: not computed yet: 1 (y)" in said
    assert said.splitlines()[-1].startswith("PARTIAL: 4 elements of 1 tensors equal")


def test_float_operators_are_counted_and_hybrid_ones_left_out(tmp_path, capsys):
    w = np.ones((3, 4), np.int8)
    raw = graph(
        [tensor("x", (1, 4), "float32"), tensor("f", (1, 4), "float32"),
         tensor("w", w.shape, scale=0.1, data=w), tensor("y", (1, 3), "float32")],
        [operator("ADD", ["x", "x"], ["f"], "AddOptions"),
         operator("FULLY_CONNECTED", ["f", "w"], ["y"], "FullyConnectedOptions")], ["x"], ["y"],
    )  # fmt: skip
    assert cli.main(["validate", str(saved(tmp_path, raw))]) == 3
    said = capsys.readouterr().out
    assert "not quantized, borrowed from LiteRT: 1 ADD" in said
    assert "FULLY_CONNECTED: x has type float32: int8 needed: 1 (y)" in said
    assert "recomputed: 0 of 1 quantized nodes, 0 of 1 multiply-accumulate nodes" in said
    floats = graph([tensor("x", (1, 4), "float32"), tensor("y", (1, 4), "float32")],
                   [operator("ADD", ["x", "x"], ["y"], "AddOptions")], ["x"], ["y"])  # fmt: skip
    path = saved(tmp_path, floats)
    with pytest.raises(UnusableInput, match=r"no quantized operator \(its operators: ADD\)"):
        cli.main(["validate", str(path)])


# --- bad files


def test_damaged_files_are_refused_in_one_line(tmp_path):
    raw = random_network(3)
    rng = np.random.default_rng(0)
    refused = 0
    for step in range(60):
        damaged = bytearray(raw)
        if step % 2:
            damaged = damaged[: int(rng.integers(0, len(raw)))]
        else:
            for _ in range(20):
                damaged[int(rng.integers(0, len(raw)))] = int(rng.integers(0, 256))
        path = saved(tmp_path, bytes(damaged))
        try:
            model = load(path)
        except UnusableInput as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            refused += 1
        else:
            assert model.nodes
    assert refused > 40


def test_what_ends_litert_is_one_line(tmp_path):
    """A scale that a CHECK of LiteRT's own ends the process on."""
    raw = graph(
        [tensor("x", (1, 4), scale=1.0), tensor("y", (1, 4), scale=1e-9)],
        [operator("ADD", ["x", "x"], ["y"], "AddOptions")], ["x"], ["y"],
    )  # fmt: skip
    path = saved(tmp_path, raw)
    with pytest.raises(Refused, match=r"m\.tflite: LiteRT ended with signal 6") as error:
        cli.main(["validate", str(path)])
    assert "\n" not in str(error.value)


def test_several_graphs_and_states_are_refused(tmp_path):
    raw = graph([tensor("x", (1, 4), scale=1.0), tensor("s", (1, 4), scale=1.0),
                 tensor("y", (1, 4), scale=1.0)],
                [operator("ADD", ["x", "s"], ["y"], "AddOptions")], ["x"], ["y"])  # fmt: skip
    with pytest.raises(UnusableInput, match="its input s is not defined: a state, or a damaged"):
        load(saved(tmp_path, raw))
    raw = graph([tensor("x", (1, -4), scale=1.0), tensor("y", (1, 4), scale=1.0)],
                [operator("ADD", ["x", "x"], ["y"], "AddOptions")], ["x"], ["y"])  # fmt: skip
    with pytest.raises(UnusableInput, match=r"input x has shape \(1, -4\)"):
        load(saved(tmp_path, raw))
    with pytest.raises(UnusableInput, match=r"not a file of TensorFlow Lite \(it does not say"):
        load(saved(tmp_path, b"not a model at all"))
    with pytest.raises(UnusableInput, match="no such file"):
        load(tmp_path / "absent.tflite")


def test_without_litert_the_command_says_what_to_install(tmp_path, monkeypatch):
    path = one_conv(tmp_path)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(UnusableInput, match=r"m\.tflite: .*pip install 'qlinear\[tflite\]'"):
        cli.main(["validate", str(path)])


def test_a_window_that_is_only_a_number_is_not_walked(tmp_path, capsys):
    raw = graph(
        [tensor("x", (1, 4, 4, 1), scale=1), tensor("y", (1, 4, 4, 1), scale=1)],
        [operator("AVERAGE_POOL_2D", ["x"], ["y"], "Pool2DOptions", strideH=1, strideW=1,
                  filterHeight=60000, filterWidth=60000)], ["x"], ["y"],
    )  # fmt: skip
    assert cli.main(["validate", str(saved(tmp_path, raw))]) == 3
    said = capsys.readouterr().out
    assert "AVERAGE_POOL_2D: kernel (60000, 60000): up to 65536 taps needed: 1 (y)" in said


# --- the commands


def test_validate_prints_and_is_json(tmp_path, capsys):
    path = one_conv(tmp_path)
    assert cli.main(["validate", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"session: LiteRT {litert.version()}, reference kernels (BUILTIN_REF)" in said
    assert "outputs of the graph, against LiteRT on the file:" in said
    assert said.splitlines()[-1] == "PASS: 1152 elements of 1 tensors equal, for these inputs"
    assert cli.main(["validate", str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["verdict"] == "PASS" and record["runtime"] == "LiteRT"
    assert cli.main(["validate", str(path), "--node", "y"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "PASS: y alone, from LiteRT's own inputs of it"


def test_validate_by_litert_s_default(tmp_path, capsys):
    """The graph's outputs alone; a node that XNNPACK's form does not have is named."""
    for seed in range(8):
        path = saved(tmp_path, random_network(seed), f"{seed}.tflite")
        assert cli.main(["validate", str(path), "--kernels", "default"]) == 0
        said = capsys.readouterr().out
        assert "default kernels (XNNPACK where it takes a node)" in said
        assert "elements of 1 tensors equal" in said
    x = (1, 4)
    other = graph([tensor("x", x, scale=0.1), tensor("y", x, scale=1 / 256, zero=-128)],
                  [operator("LOGISTIC", ["x"], ["y"])], ["x"], ["y"])  # fmt: skip
    with pytest.raises(UnusableInput, match="node y: LOGISTIC: not computed yet; by default Lite"):
        cli.main(["validate", str(saved(tmp_path, other)), "--kernels", "default"])
    with pytest.raises(UnusableInput, match="leave --node"):
        cli.main(["validate", str(path), "--kernels", "default", "--node", "y0"])
    with pytest.raises(UnusableInput, match=r"--kernels is of \.tflite files"):
        cli.main(["validate", str(MODELS / "resnet8_int8.onnx"), "--kernels", "default"])


def test_inspect_shows_scales_and_the_bits_of_sums(tmp_path, capsys):
    path = one_conv(tmp_path)
    assert cli.main(["inspect", str(path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["nodes"]
    assert row["operator"] == "CONV_2D" and row["output"] == "y int8[1, 12, 12, 8]"
    assert row["scales"] == "0.25, 0.125, 0.03125, 8.0"
    model = load(path)
    w = model.constants["w"].astype(np.int64).reshape(8, -1)
    greatest = max((np.where(w > 0, 120, -135) * w).sum(1).max(), 1)
    least = (np.where(w > 0, -135, 120) * w).sum(1).min()
    bits = row["bits"]
    assert -(2 ** (bits - 1)) <= least and greatest < 2 ** (bits - 1)
    assert not (-(2 ** (bits - 2)) <= least and greatest < 2 ** (bits - 2))


def test_run_writes_every_tensor_in_the_files_layout(tmp_path, capsys):
    path, out = saved(tmp_path, random_network(5)), tmp_path / "o.npz"
    assert cli.main(["run", str(path), "--out", str(out)]) == 0
    assert "0 nodes were computed by LiteRT: none" in capsys.readouterr().out
    model = load(path)
    values = command.tensors(model, read_feeds(model)[0])
    with np.load(out) as found:
        assert set(found) == set(values)
        for name, value in values.items():
            assert found[name].dtype == value.dtype and (found[name] == value).all()


def test_an_image_is_fed_channels_last(tmp_path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    image = tmp_path / "i.png"
    Image.fromarray(pixels).save(image)
    raw = graph(
        [tensor("x", (1, 6, 5, 3), "uint8", 1.0, 0), tensor("y", (1, 6, 5, 3), "int8", 1.0, -128)],
        [operator("QUANTIZE", ["x"], ["y"])], ["x"], ["y"],
    )  # fmt: skip
    model = load(saved(tmp_path, raw))
    (feed,) = read_feeds(model, [str(image)])
    assert (feed.values["x"] == pixels[None]).all()
    assert (command.tensors(model, feed)["y"] == pixels[None].astype(int) - 128).all()


def test_sample_images_go_to_a_model_of_their_size(tmp_path):
    from qlinear.inputs import load_samples

    w = np.ones((1, 1, 1, 3), np.int8)
    raw = graph(
        [tensor("x", (1, 32, 32, 3), scale=1.0, zero=-128), tensor("w", w.shape, scale=1.0, data=w),
         tensor("b", (1,), "int32", 1.0, data=np.int32([0])),
         tensor("y", (1, 32, 32, 1), scale=9.0)],
        [operator("CONV_2D", ["x", "w", "b"], ["y"], "Conv2DOptions", strideH=1, strideW=1,
                  dilationHFactor=1, dilationWFactor=1)], ["x"], ["y"],
    )  # fmt: skip
    feeds = read_feeds(load(saved(tmp_path, raw)), samples=2)
    images = load_samples()[0][:2].astype(int).transpose(0, 2, 3, 1) - 128
    assert [feed.source for feed in feeds] == ["sample image 0", "sample image 1"]
    assert all(
        (feed.values["x"][0] == image).all() for feed, image in zip(feeds, images, strict=True)
    )


@pytest.mark.parametrize("seed", [1, 5, 9])
def test_explain_works_out_every_kind_of_element(tmp_path, capsys, seed):
    """explain adds up by itself, and ends at LiteRT's element."""
    path = saved(tmp_path, random_network(seed))
    model = load(path)
    values = command.tensors(model, read_feeds(model)[0])
    rng = np.random.default_rng(seed)
    for node in model.nodes:
        y = values[node.outputs[0]]
        for _ in range(4):
            at = tuple(int(rng.integers(n)) for n in y.shape)
            found = command.element(model, node, values, at)
            assert found.y == y[at] and found.y.dtype == y.dtype
            if "product" in found.terms:
                assert found.terms["product"].sum() == dict(found.steps)["sums"]
    first = model.nodes[-1]
    zeros = ",".join("0" for _ in values[first.outputs[0]].shape)
    assert cli.main(["explain", str(path), "--node", first.name, "--at", zeros]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("(equal)")


def test_explain_refuses_an_index_outside(tmp_path):
    path = one_conv(tmp_path)
    with pytest.raises(UnusableInput, match="y has shape"):
        cli.main(["explain", str(path), "--at", "0,0,0,8"])
    assert cli.main(["explain", str(path), "--pixel", "11,11", "--channel", "7"]) == 0


def test_vectors_hold_every_step(tmp_path, capsys):
    """Of a network of random layers, recomputed from the files in Python's integers."""
    path, out = saved(tmp_path, random_network(1)), tmp_path / "v"
    assert cli.main(["vectors", str(path), "--out", str(out), "--all", "--prefix"]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    model = load(path)
    assert len(manifest["layers"]) == len(model.nodes) and manifest["layout"] == "NHWC"
    seen = 0
    for layer in manifest["layers"]:
        folder = out / layer["folder"]
        with np.load(folder / "image00.npz") as archive:
            arrays = dict(archive)
        names = {k: (list(v.shape), v.dtype.name) for k, v in arrays.items()}
        assert names == {k: (layer["shapes"][k], layer["dtypes"][k]) for k in layer["shapes"]}
        lines = (folder / "image00_y.hex").read_text().split()
        wide = 8 * arrays["y"].itemsize
        codes = [int(line, 16) for line in lines]
        assert codes == [int(v) % (1 << wide) for v in arrays["y"].ravel()]
        if layer["operator"] not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            continue
        for at in np.ndindex(arrays["y"].shape):
            m = at[-1]
            acc, multiplier, shift = (int(arrays[k][at if k == "acc" else m])
                                      for k in ("acc", "multiplier", "shift"))  # fmt: skip
            upper = ((acc << max(shift, 0)) * multiplier + (1 << 30)) >> 31
            right = max(-shift, 0)
            half = (1 << right) >> 1
            scaled = (abs(upper) + half) >> right
            scaled = scaled if upper >= 0 else -scaled
            assert int(arrays["upper_half"][at]) == upper
            assert int(arrays["scaled"][at]) == scaled
            p = layer["parameters"]
            y = min(max(scaled + p["Y_ZERO"], p["Y_LEAST"]), p["Y_GREATEST"])
            assert y == int(arrays["y"][at])
            seen += 1
    assert seen > 100
    header = (out / manifest["layers"][0]["folder"] / "layer.h").read_text()
    assert f"{manifest['layers'][0]['prefix']}y[" in header
    with pytest.raises(UnusableInput, match="not an empty folder"):
        cli.main(["vectors", str(path), "--out", str(out)])
    for option in (["--thresholds"], ["--layout", "NCHW"]):
        with pytest.raises(UnusableInput, match=r"m\.tflite: "):
            cli.main(["vectors", str(path), "--out", str(tmp_path / "w"), *option])


def test_diagnose_finds_what_was_computed_otherwise(tmp_path, capsys):
    """A dump by XNNPACK's form, and one by none that is known, in other orders and files."""
    path = one_conv(tmp_path)
    model = load(path)
    values = command.tensors(model, read_feeds(model)[0])
    (node,) = model.nodes
    np.savez(tmp_path / "all.npz", **values)
    assert cli.main(["diagnose", str(path), str(tmp_path / "all.npz")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("EQUAL: 1728 elements of 2 tensors")

    other = verdict.stages(model, node, values, xnnpack.OPERATORS)["y"]
    wrong = int((other != values["y"]).sum())
    np.save(tmp_path / "y.npy", np.ascontiguousarray(other.transpose(0, 3, 1, 2)))
    (tmp_path / "y.bin").write_bytes(other.tobytes())
    (tmp_path / "y.hex").write_text("\n".join(f"{v % 256:02x}" for v in other.ravel().tolist()))
    (tmp_path / "y.csv").write_text(",".join(map(str, other.ravel().tolist())))
    for file in ("y.npy", "y.bin", "y.hex", "y.csv"):
        assert cli.main(["diagnose", str(path), str(tmp_path / file)]) == 1
        said = capsys.readouterr().out
        assert "explained, to the last element: requantized as by XNNPACK, fp32" in said
        assert said.splitlines()[-1].startswith(f"DIFFERENT: {wrong} of 1152 elements of y; ")

    noise = np.random.default_rng(0).integers(-128, 128, other.shape).astype(np.int8)
    np.save(tmp_path / "y.npy", noise)
    assert cli.main(["diagnose", str(path), str(tmp_path / "y.npy"), "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["first"] == "y" and record["explained"] == []


def test_a_wider_word_is_one_element_or_refused(tmp_path):
    values = np.int8([[[[-128], [-1]], [[0], [127]]]])
    for text, fits in (("ffffff80 ffffffff 00000000 0000007f", True), ("80 ff 00 7f", True),
                       ("00000080 ffffffff 00000000 0000007f", False)):  # fmt: skip
        path = tmp_path / "y.hex"
        path.write_text(text.replace(" ", "\n"))
        (raw,) = read_file(path)
        if fits:
            assert (diagnosis.fitted(raw, values, "NHWC") == values).all()
        else:
            with pytest.raises(UnusableInput, match="more than one int8; one a line needed"):
                diagnosis.fitted(raw, values, "NHWC")


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_diagnose_names_each_mistake_that_shows(tmp_path, seed):
    model = load(saved(tmp_path, random_network(seed)))
    values = command.tensors(model, read_feeds(model)[0])
    tried = 0
    for node in model.nodes:
        for name, y in diagnosis.mistakes(model, node, values):
            dump = diagnosis.Dumped(node.outputs[0], tmp_path, y)
            found = diagnosis.diagnose(model, values, [dump])
            assert name in found.explained and found.status == 1
            tried += 1
    assert tried > 10


def test_diagnose_refuses_what_is_of_onnx_or_does_not_fit(tmp_path):
    path = one_conv(tmp_path)
    np.save(tmp_path / "y.npy", np.zeros(7, np.int8))
    np.save(tmp_path / "z.npy", np.zeros(1152, np.int8))
    for words, message in (
        (["y.npy"], "7 elements"),
        (["z.npy"], "no tensor named 'z'"),
        (["z.npy", "--node", "y", "--html", "p.html"], "--html is of ONNX models"),
        (["z.npy", "--node", "y", "--layout", "NCHW16c"], "NHWC or NCHW"),
        ([], "give a DUMP"),
    ):
        files = [str(tmp_path / w) if w.endswith(".npy") else w for w in words]
        with pytest.raises(UnusableInput, match=message):
            cli.main(["diagnose", str(path), *files])


def test_commands_that_read_onnx_alone_say_so(tmp_path):
    path = one_conv(tmp_path)
    for words in (["explore", "--out", "p.html"], ["multipliers"]):
        name, *more = words
        with pytest.raises(UnusableInput, match=f"{name} reads ONNX models"):
            cli.main([name, str(path), *more])


def test_weights_that_are_not_read_are_named(tmp_path, capsys):
    """Four bits an element: left out, not mistaken for int8."""
    raw = graph(
        [tensor("x", (1, 4), scale=0.1), tensor("y", (1, 2), scale=0.1),
         tensor("w", (2, 4), "int4", 0.1, data=np.zeros(4, np.int8))],
        [operator("FULLY_CONNECTED", ["x", "w"], ["y"], "FullyConnectedOptions")], ["x"], ["y"],
    )  # fmt: skip
    assert cli.main(["validate", str(saved(tmp_path, raw))]) == 3
    assert "FULLY_CONNECTED: w has type int4: 1 (y)" in capsys.readouterr().out


def test_names_are_cut_only_where_that_is_enough(tmp_path):
    names = ["x", "a;b", "a;c", "d;e", "d", ""]
    x = (1, 4)
    tensors = [tensor(name, x, scale=0.1) for name in names[:4]]
    tensors += [tensor("d", x, scale=0.1, data=np.zeros(4, np.int8)), tensor("", x, scale=0.1)]
    adds = [("x", "x", "a;b"), ("x", "a;b", "a;c"), ("a;c", "d", "d;e")]
    raw = graph(tensors, [operator("ADD", [a, b], [y], "AddOptions") for a, b, y in adds],
                ["x"], ["d;e"])  # fmt: skip
    model = load(saved(tmp_path, raw))
    assert [node.name for node in model.nodes] == ["a;b", "a;c", "d#3"]
    assert set(model.types) == {"x", "a;b", "a;c", "d#3", "d#4", "#5"}
    assert verdict.validate(model, read_feeds(model)).status == "PASS"


# --- what adversaries found


CONV = dict(strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)


def two_convs(middle) -> bytes:
    """Two convolutions, between which the file has a shape of its own; 7 x 7 is right."""
    w = np.random.default_rng(0).integers(-128, 128, (2, 3, 3, 2)).astype(np.int8)
    return graph(
        [tensor("x", (1, 9, 9, 2), scale=0.1, zero=3), tensor("w", w.shape, scale=0.1, data=w),
         tensor("b", (2,), "int32", 0.01, data=np.zeros(2, np.int32)),
         tensor("h", middle, scale=0.4, zero=1), tensor("y", (1, 1, 1, 2), scale=0.9)],
        [operator("CONV_2D", ["x", "w", "b"], ["h"], "Conv2DOptions", padding=1, **CONV),
         operator("CONV_2D", ["h", "w", "b"], ["y"], "Conv2DOptions",
                  **CONV | {"strideH": 2, "strideW": 2})], ["x"], ["y"],
    )  # fmt: skip


def test_vectors_have_the_windows_that_litert_computes(tmp_path):
    """Where the file says 8 x 8, a window of 3 and stride 2 would begin elsewhere than on 7 x 7."""
    for middle in ((1, 7, 7, 2), (1, 8, 8, 2)):
        out = tmp_path / str(middle[1])
        path = saved(tmp_path, two_convs(middle))
        assert cli.main(["vectors", str(path), "--out", str(out), "--all"]) == 0
        _, second = json.loads((out / "manifest.json").read_text())["layers"]
        assert second["parameters"]["PAD_TOP"] == second["parameters"]["PAD_LEFT"] == 1
        assert second["quantization"]["x"]["shape"] == second["shapes"]["x"] == [1, 7, 7, 2]


@pytest.mark.parametrize("keep", [False, True])
def test_explain_takes_the_shape_that_litert_computes(tmp_path, keep):
    w = np.random.default_rng(0).integers(-128, 128, (4, 8)).astype(np.int8)
    shape = (2, 5, 8) if keep else (5, 8)
    raw = graph(
        [tensor("x", shape, scale=0.1, zero=3), tensor("w", w.shape, scale=0.02, data=w),
         tensor("y", (1, 4), scale=0.3)],
        [operator("FULLY_CONNECTED", ["x", "w"], ["y"], "FullyConnectedOptions",
                  keepNumDims=keep)], ["x"], ["y"],
    )  # fmt: skip
    model = load(saved(tmp_path, raw))
    values = command.tensors(model, read_feeds(model)[0])
    (node,) = model.nodes
    for at in np.ndindex(values["y"].shape):
        assert command.element(model, node, values, at).y == values["y"][at]
    rows = command.parameters(model, node, values)
    assert rows[-1]["tensor"] == f"output y int8{list(values['y'].shape)}"


def test_inspect_takes_files_that_litert_would_refuse(tmp_path, capsys):
    """And shows the bits of a layer whose bias is left out as -1."""
    w = np.ones((2, 1, 1, 2), np.int8)
    x, y = (tensor(n, (1, 4, 4, 2), scale=1) for n in "xy")
    b = tensor("b", (3,), "int32", data=np.zeros(3, np.int32))
    one, flat = (tensor("w", v.shape, scale=1, data=v) for v in (w, w[:, 0, 0]))
    for kernel, inputs in ((one, ["x", "w", "b"]), (one, ["", "w", "b"]), (flat, ["x", "w"])):
        made = operator("CONV_2D", inputs, ["y"], "Conv2DOptions", **CONV)
        raw = graph([x, b, y, kernel], [made], ["x"], ["y"])
        assert cli.main(["inspect", str(saved(tmp_path, raw)), "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)["nodes"]
        assert row["bits"] == ""
    raw = graph([tensor("x", (1, 2), scale=1), flat, tensor("y", (1, 2), scale=1)],
                [operator("FULLY_CONNECTED", ["x", "w", ""], ["y"], "FullyConnectedOptions")],
                ["x"], ["y"])  # fmt: skip
    assert command.inspected(load(saved(tmp_path, raw)))[0]["bits"] == 9  # -256 to 254


def test_constants_without_elements_are_constants(tmp_path):
    """The shape of a scalar: no elements, so no bytes."""
    raw = graph(
        [tensor("x", (1, 1), scale=1), tensor("s", (0,), "int32"), tensor("y", (), scale=1)],
        [operator("RESHAPE", ["x", "s"], ["y"], "ReshapeOptions")], ["x"], ["y"],
    )  # fmt: skip
    model = load(saved(tmp_path, raw))
    found = verdict.validate(model, read_feeds(model))
    assert found.status == "PASS" and found.outputs[0].shape == ()


@pytest.mark.parametrize("kernels", ["reference", "default"])
def test_an_output_that_is_a_constant_of_four_bits_is_refused(tmp_path, kernels):
    raw = graph(
        [tensor("x", (1, 4), scale=1), tensor("y", (1, 4), scale=1),
         tensor("c", (1, 4), "int4", 1, data=np.int8([1, 2]))],
        [operator("ADD", ["x", "x"], ["y"], "AddOptions")], ["x"], ["y", "c"],
    )  # fmt: skip
    with pytest.raises(UnusableInput, match="output c is a constant of type int4"):
        cli.main(["validate", str(saved(tmp_path, raw)), "--kernels", kernels])


def left_by_xnnpack():
    """Files of one node that LiteRT's optimized kernels compute, by what makes it so."""
    rng = np.random.default_rng(0)
    w = rng.integers(-128, 128, (3, 3, 3, 2)).astype(np.int8)
    deep = rng.integers(-128, 128, (1, 3, 3, 4)).astype(np.int8)
    zeros = np.zeros(4, np.int32)

    def conv(scale=0.02, bias: object = 0.002, data=True):
        return graph(
            [tensor("x", (1, 27, 27, 2), scale=0.1, zero=3),
             tensor("w", w.shape, scale=scale, data=w if data else None),
             tensor("b", (3,), "int32", bias, data=zeros[:3]),
             tensor("y", (1, 27, 27, 3), scale=0.3)],
            [operator("CONV_2D", ["x", "w", "b"], ["y"], "Conv2DOptions", **CONV)],
            ["x"] if data else ["x", "w"], ["y"],
        )  # fmt: skip

    depthwise = graph(
        [tensor("x", (1, 27, 27, 2), scale=0.1, zero=3),
         tensor("w", deep.shape, scale=0.02, data=deep), tensor("b", (4,), "int32", data=zeros),
         tensor("y", (1, 27, 27, 4), scale=0.3)],
        [operator("DEPTHWISE_CONV_2D", ["x", "w", "b"], ["y"], "DepthwiseConv2DOptions",
                  depthMultiplier=3, **CONV)], ["x"], ["y"],
    )  # fmt: skip
    a, b, y = (1, 2, 1, 2, 1, 2, 4), (1, 2, 1, 2, 3, 2, 1), (1, 2, 1, 2, 3, 2, 4)
    wide = graph([tensor("a", a, scale=0.1, zero=3), tensor("b", b, scale=0.2, zero=3),
                  tensor("y", y, scale=0.2, zero=3)],
                 [operator("ADD", ["a", "b"], ["y"], "AddOptions")], ["a", "b"], ["y"])  # fmt: skip
    axes = graph(
        [tensor("x", (8, 9, 8), scale=0.1), tensor("a", (1,), "int32"),
         tensor("y", (8, 8), scale=0.05)],
        [operator("MEAN", ["x", "a"], ["y"], "ReducerOptions")], ["x", "a"], ["y"],
    )  # fmt: skip
    return {
        "b has scale 9.9999": conv(bias=1e-40),
        "b has no scale": conv(bias=()),
        "w has scale 0.0": conv([0.1, 0, 0.3]),
        "w is no constant": conv(data=False),
        "a is no constant": axes,
        "depth_multiplier 3": depthwise,
        "7 axes": wide,
    }


@pytest.mark.parametrize("why", left_by_xnnpack() if importlib.util.find_spec("ai_edge_litert")
                         else [])  # fmt: skip
def test_what_xnnpack_leaves_is_refused_by_default_not_failed(tmp_path, why):
    path = saved(tmp_path, left_by_xnnpack()[why])
    with pytest.raises(UnusableInput, match=f"node y: .*{why}"):
        cli.main(["validate", str(path), "--kernels", "default"])


def test_a_dump_s_order_of_axes(tmp_path):
    """--layout counts where a shape fits both orders; axes of size 1 may be left out."""
    rng = np.random.default_rng(0)
    path = tmp_path / "y.npy"

    def read(data, like, layout="NHWC"):
        np.save(path, data)
        return diagnosis.fitted(read_file(path)[0], like, layout)

    cube, y = (rng.integers(-128, 128, s).astype(np.int8) for s in ((1, 8, 8, 8), (1, 7, 5, 3)))
    first = np.ascontiguousarray(cube.transpose(0, 3, 1, 2))
    for data in (first, first[0], first.ravel()):
        assert (read(data, cube, "NCHW") == cube).all()
        assert (read(data, cube) == first.reshape(cube.shape)).all()
    first = np.ascontiguousarray(y.transpose(0, 3, 1, 2))
    for data in (first, first[0], y, y[0]):
        for layout in ("NHWC", "NCHW"):
            assert (read(data, y, layout) == y).all()
    with pytest.raises(UnusableInput, match=r"has shape \[3, 5, 7, 1\]"):
        read(y.transpose(), y)
    reals = y.astype(np.float32) / 3
    with pytest.raises(UnusableInput, match="values that float32 cannot have"):
        read(reals.astype(float) * (1 + 1e-9), reals)
    assert (read(reals.astype(float), reals) == reals).all()


def test_a_tensor_is_dumped_once_and_its_name_is_clear(tmp_path):
    x = (1, 4)
    raw = graph([tensor(n, x, scale=0.1) for n in ("x", "a/b", "a_b")],
                [operator("ADD", ["x", "x"], ["a/b"], "AddOptions"),
                 operator("ADD", ["x", "a/b"], ["a_b"], "AddOptions")], ["x"], ["a_b"])  # fmt: skip
    path = saved(tmp_path, raw)
    np.save(tmp_path / "a.npy", np.zeros(x, np.int8))
    np.save(tmp_path / "a-b.npy", np.zeros(x, np.int8))
    a, unclear = str(tmp_path / "a.npy"), str(tmp_path / "a-b.npy")
    with pytest.raises(UnusableInput, match="a_b is given twice"):
        cli.main(["diagnose", str(path), f"a_b={a}", f"a_b={a}"])
    with pytest.raises(UnusableInput, match="'a-b' may be a/b or a_b"):
        cli.main(["diagnose", str(path), unclear])
