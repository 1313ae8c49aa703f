"""Cutting a model down to the part that shows a difference, and naming who made it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import networks
import numpy as np
import onnx
import pytest
import random_graphs
from conftest import MODELS, examples, quantizes, since
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qlinear import cli, crop, diagnose, engine, oracle, ort, reduce, sides
from qlinear.errors import UnusableInput
from qlinear.inputs import load_samples
from qlinear.onnx_model import Model, from_proto, load
from qlinear.operators.qlinear_conv import stages
from qlinear.ort import onnxruntime

BOOK = MODELS / "resnet8_int8.onnx"


def plain(path: Path, text: str, feeds: dict, names=None, disabled=()) -> list[np.ndarray]:
    """A session as any user opens it, without the library's own code."""
    level, *entries = text.split(",")
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = {
        "default": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
        "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }[level]
    for entry in entries:
        options.add_session_config_entry(*entry.split("="))
    opened = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )
    return opened.run(names, feeds)


def saved(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Networks on which a default session differs from one without optimizations."""
    folder = tmp_path_factory.mktemp("networks")
    wanted = {"mobilenet_v1": "QDQ-int8-int8", "transformer": "dynamic-int8",
              "lenet": "QDQ-int16-int8"}  # fmt: skip
    return {name: saved(folder / f"{name}.onnx", networks.quantized(name, form))
            for name, form in wanted.items()}  # fmt: skip


def drawn(name: str) -> dict[str, np.ndarray]:
    shape = (4, *networks.NETWORKS[name][1])
    return {"x": np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)}


def two(a: str, b: str) -> tuple[sides.Side, sides.Side]:
    return sides.session(sides.parse(a), "a"), sides.session(sides.parse(b), "b")


# --- two sessions


@pytest.mark.parametrize(
    ("name", "maker", "operators"),
    [
        ("mobilenet_v1", "QDQSelectorActionTransformer", {"Softmax", "QuantizeLinear",
                                                          "DequantizeLinear"}),
        ("transformer", "MatMulScaleFusion", {"MatMul", "Div"}),
        pytest.param("lenet", "QDQSelectorActionTransformer", {"DequantizeLinear", "Gemm"},
                     marks=since(1, 32, "1.20 leaves a Gemm of 16-bit activations in float")),
    ],
)  # fmt: skip
def test_the_optimization_that_made_a_difference_is_named(tmp_path, files, name, maker, operators):
    feeds = drawn(name)
    a, b = (plain(files[name], level, feeds)[0] for level in ("default", "off"))
    assert (a != b).any()
    found = reduce.reduce(load(files[name]), feeds, two("default", "off"))
    assert found.cause.names[-1] == maker and not found.cause.together and found.cause.sufficient
    assert {kind for _, kind in found.nodes} == operators
    assert len(found.feeds) == (2 if name == "transformer" else 1)  # constants are no inputs
    assert len(found.nodes) <= 5 < found.nodes_before
    assert next(c for c in found.outputs if c.tensor == "y").mismatches == (a != b).sum()

    out = tmp_path / "out.onnx"
    reduce.write(found, out)
    given = dict(np.load(tmp_path / "out.inputs.npz"))
    stored = np.load(tmp_path / "out.outputs.npz")
    tensor = found.output.name
    for key, level in (("a", "default"), ("b", "off")):
        (y,) = plain(out, level, given, [tensor])
        assert y.dtype == stored[key].dtype and (y == stored[key]).all()
    assert (stored["a"] != stored["b"]).sum() == found.found.mismatches > 0
    # ONNX Runtime's own argument does what the entry does
    one, other = (plain(out, level, given, [tensor], [maker])[0] for level in ("default", "off"))
    assert (one == other).all()
    one, other = (plain(files[name], e, feeds, None, [maker])[0] for e in ("default", "off"))
    assert (one != other).sum() == found.without < (a != b).sum()


def inside(path: Path, level: str, feeds: dict, tensor: str, folder: Path) -> np.ndarray:
    """A tensor of the graph that a session runs, which is saved and run as it is."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    if level == "off":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(folder / f"{level}.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(folder / f"{level}.onnx")
    graph.graph.output.append(onnx.ValueInfoProto(name=tensor))
    return plain(saved(folder / "all.onnx", graph), "off", feeds, [tensor])[0]


def test_the_parts_values_are_the_whole_models(tmp_path, files):
    feeds = drawn("mobilenet_v1")
    found = reduce.reduce(load(files["mobilenet_v1"]), feeds, two("default", "off"))
    at = tuple(slice(*ends) for ends in found.region)
    for level, value in zip(("default", "off"), found.values, strict=True):
        whole = inside(files["mobilenet_v1"], level, feeds, found.output.name, tmp_path)
        assert whole.shape == found.output.before and (whole[at] == value).all()
    assert found.output.after < found.output.before
    onnx.checker.check_model(found.proto, full_check=True)


@pytest.mark.parametrize("name", ["transformer", "mobilenet_v1"])
def test_no_node_of_the_part_can_be_left_out(tmp_path, files, name):
    """Without any one of them, a side's bytes become others than in the whole model."""
    feeds = drawn(name)
    model = load(files[name])
    found = reduce.reduce(model, feeds, two("default", "off"))
    tensor = found.output.name
    last = next(n for n in model.nodes if tensor in n.outputs)
    names = [n for node in model.nodes for n in node.outputs]
    proto, settings = ort.all_outputs(model), sides.parse("off")
    whole = ort.run_session(ort.open_session(proto, settings), names, feeds)
    values = dict(zip(names, whole, strict=True)) | feeds
    wanted = {"default": whole_of(model, feeds)[tensor], "off": values[tensor]}
    kept = {name for name, _ in found.nodes}
    assert last.name in kept and len(kept) > 1
    for gone in [None, *sorted(kept - {last.name})]:
        proto = part(model, kept - {gone}, values)
        outputs = [
            ort.run_session(ort.open_session(proto, sides.parse(level)), [tensor], values)[0]
            for level in wanted
        ]
        right = [(y == w).all() for y, w in zip(outputs, wanted.values(), strict=True)]
        assert all(right) == (gone is None), gone


def whole_of(model: Model, feeds: dict) -> dict[str, np.ndarray]:
    return two("default", "off")[0].tensors(model, feeds)


def test_tensors_that_a_session_moved_to_uint8_are_found(tmp_path, files):
    """A default session has other names for them, and numbers that are 128 higher."""
    model, feeds = load(files["mobilenet_v1"]), drawn("mobilenet_v1")
    found = two("default", "off")[0].tensors(model, feeds)
    moved = [n.outputs[0] for n in model.nodes if n.op_type == "QuantizeLinear"]
    missing = [name for name in moved if name not in found]
    assert len(moved) > 8 and not missing
    theirs = two("default", "off")[1].tensors(model, feeds)
    close = [np.abs(found[n].astype(int) - theirs[n].astype(int)).max() for n in moved]
    assert max(close) <= 1 and {found[n].dtype for n in moved} == {np.dtype("int8")}
    graph = ort.optimized(model, sides.parse("default")).graph
    assert not {name for node in graph.node for name in node.output} & set(moved)


def part(model: Model, names: set[str], values: dict) -> onnx.ModelProto:
    kept = [n for n in model.proto.graph.node if n.name in names]
    written = {o for n in kept for o in n.output}
    needed = {i for n in kept for i in n.input if i not in written and i not in model.constants}
    read = {i for n in kept for i in n.input}
    ends = [o for n in kept for o in n.output if o not in read]
    graph = helper.make_graph(
        kept, "part", [ort.value_info(n, values[n]) for n in sorted(needed)],
        [onnx.ValueInfoProto(name=n) for n in ends],
        [t for t in model.proto.graph.initializer if t.name in read],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=model.proto.opset_import, ir_version=8)


def test_the_script_needs_onnxruntime_alone(tmp_path, files):
    found = reduce.reduce(
        load(files["mobilenet_v1"]), drawn("mobilenet_v1"), two("default", "off,threads=2")
    )
    reduce.write(found, tmp_path / "out.onnx")
    command = [sys.executable, "-I", tmp_path / "out.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    count = found.found.mismatches
    assert f"{count} of {found.found.elements} elements differ" in done.stdout
    assert "qlinear" not in (tmp_path / "out.py").read_text()
    # another file of outputs, and it says no
    with np.load(tmp_path / "out.outputs.npz") as stored:
        np.savez(tmp_path / "out.outputs.npz", a=stored["a"] + 1, b=stored["b"])
    assert subprocess.run(command, capture_output=True).returncode == 1


def test_a_second_reader_stays_where_it_keeps_a_layer_in_float(tmp_path):
    """A default session fuses a layer between int8 pairs, but not if another reads its input too.

    Fed the integers, it would not fuse it either, for want of a pair.
    """
    seed = 2
    model = load(saved(tmp_path / "model.onnx", two_readers(seed)))
    x = np.random.default_rng(seed).uniform(-3, 3, (8, 4, 6, 6)).astype(np.float32)
    pair = two("default", "default,session.qdqisint8allowed=1")
    found = reduce.reduce(model, {"x": x}, pair)
    assert "Conv" in found.runs[0] and "com.microsoft.QLinearConv" in found.runs[1]
    assert found.cause.names[-1] == "QDQSelectorActionTransformer"
    assert list(found.feeds) == ["x"] and found.feeds["x"].shape[0] == 1
    first = next(n for n in found.proto.graph.node if "x" in n.input)
    readers = [n for n in found.proto.graph.node if first.output[0] in n.input]
    assert first.op_type == "QuantizeLinear" and len(readers) == 2
    # the same convolution without the other reader
    alone = two_readers(seed)
    del alone.graph.node[-4:]
    alone.graph.output[0].CopyFrom(onnx.ValueInfoProto(name=alone.graph.node[-1].output[0]))
    graph = ort.optimized(from_proto(alone), sides.parse("default")).graph
    assert "QLinearConv" in [n.op_type for n in graph.node]


def two_readers(seed: int) -> onnx.ModelProto:
    """x, quantized; a convolution of it and the sum of both, in int8 pairs."""
    rng = np.random.default_rng(seed)
    g = networks.Graph(seed)

    def pair(x: str, scale: float) -> tuple[str, str, str]:
        ends = g.constant(np.float32(scale), "s"), g.constant(np.int8(3), "z")
        q = g.add("QuantizeLinear", x, *ends)
        return q, *ends

    q = pair("x", 0.025)
    w = g.constant(rng.integers(-127, 128, (4, 4, 3, 3)).astype(np.int8), "w")
    w_scale = g.constant(np.float32(0.003), "s")
    w = g.add("DequantizeLinear", w, w_scale, g.constant(np.int8(0), "z"))
    y = g.add("Conv", g.add("DequantizeLinear", *q), w, pads=[1, 1, 1, 1])
    y = g.add("DequantizeLinear", *pair(y, 0.031))
    y = g.add("Add", y, g.add("DequantizeLinear", *q))
    last = g.add("DequantizeLinear", *pair(y, 0.043))
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6]),
            helper.make_tensor_value_info(last, TensorProto.FLOAT, None)]  # fmt: skip
    graph = helper.make_graph(g.nodes, "two", ends[:1], ends[1:], g.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_where_nothing_differs_there_is_no_part(files):
    model = load(files["mobilenet_v1"])
    assert reduce.reduce(model, drawn("mobilenet_v1"), two("default", "all")) is None


# --- a dump, and the reference


@pytest.fixture(scope="module")
def book() -> tuple[Model, dict, sides.Side, dict]:
    """The book's model, two images, the session of its verdict, and the reference's tensors."""
    model = load(BOOK)
    feeds = {"image": load_samples()[0][:2].astype(np.float32)}
    settings = oracle.settle(model, feeds).settings
    return model, feeds, sides.session(settings), engine.run(model, feeds)


WRONG = "block2_conv1_out_quantized"


def wrong(values: dict) -> dict:
    """A dump with one code of one layer off by one, and what follows from that."""
    changed = values[WRONG].copy()
    changed[1, 5, 3, 7] ^= 1
    return {**values, WRONG: changed}


def test_a_wrong_element_of_a_dump_becomes_one_node_and_one_element(tmp_path, book):
    model, feeds, side, values = book
    found = reduce.reduce(model, feeds, (sides.dump(wrong(values)), side))
    node = model.node(WRONG)
    assert found.nodes == ((node.name, "QLinearConv"),) and found.cause is None
    assert found.output.after == (1, 1, 1, 1) and found.region == ((1, 2), (5, 6), (3, 4), (7, 8))
    # stride 2, three rows and columns, padding at the end only
    assert [size.after for size in found.inputs] == [(1, 16, 3, 3)]
    assert (found.feeds[node.inputs[0]] == values[node.inputs[0]][1:2, :, 6:9, 14:17]).all()
    ours, theirs = found.values
    assert theirs.item() == values[WRONG][1, 5, 3, 7] and ours.item() == theirs.item() ^ 1
    reduce.write(found, tmp_path / "one.onnx")
    feeds = dict(np.load(tmp_path / "one.inputs.npz"))
    assert plain(tmp_path / "one.onnx", "default", feeds)[0] == theirs
    assert set(np.load(tmp_path / "one.outputs.npz").files) == {"dump", "ort"}


def test_what_a_dump_lacks_stays_in_the_part(book):
    """The layer before may be the one that is wrong."""
    model, feeds, side, values = book
    node = model.node(WRONG)
    dump = wrong(values)
    del dump[node.inputs[0]]
    found = reduce.reduce(model, feeds, (sides.dump(dump), side))
    operators = [kind for _, kind in found.nodes]
    assert operators == ["com.microsoft.QLinearAdd", "QLinearConv"]
    assert set(found.feeds) == set(model.node(node.inputs[0]).inputs) & set(values)


@quantizes
def test_the_qdq_form_keeps_what_onnxruntime_fuses(qdq, book):
    """A QuantizeLinear alone would give the same bytes, and would not be the convolution."""
    model, feeds = load(qdq), book[1]
    settings = oracle.settle(model, feeds).settings
    side = sides.session(settings)
    values = side.tensors(model, feeds)
    name = "block2_relu1_out_QuantizeLinear_Output"
    changed = values[name].copy()
    changed[0, 0, 0, 0] ^= 1
    found = reduce.reduce(model, feeds, (sides.dump({**values, name: changed}), side))
    assert found.runs == ({"QLinearConv": 1},)
    assert sorted({kind for _, kind in found.nodes}) == [
        "Conv", "DequantizeLinear", "QuantizeLinear",
    ]  # fmt: skip


def test_a_part_that_runs_another_operator_is_none(files):
    """Fed and asked for int8, such a session leaves the layer in float, with the same bytes."""
    model, feeds = load(files["mobilenet_v1"]), drawn("mobilenet_v1")
    side = sides.session(sides.parse("extended"))
    values = side.tensors(model, feeds)
    node = [n for n in model.nodes if n.op_type == "QuantizeLinear"][1]
    changed = values[node.outputs[0]].copy()
    changed[0, 0, 0, 0] ^= 1
    dump = sides.dump({**values, node.outputs[0]: changed}, fed=True)
    with pytest.raises(UnusableInput, match="differs, but no part of the model that ends there"):
        reduce.reduce(model, feeds, (dump, side))


def test_a_dump_that_is_equal_or_of_something_else(book):
    model, feeds, side, values = book
    assert reduce.reduce(model, feeds, (sides.dump(dict(values)), side)) is None
    with pytest.raises(UnusableInput, match=r"the dump: holds other, but no tensor that ONNX"):
        reduce.reduce(model, feeds, (sides.dump({"other": values[WRONG]}), side))
    wide = {WRONG: values[WRONG].astype(np.int32)}
    with pytest.raises(UnusableInput, match=rf"{WRONG} is int32 .2, 32, 16, 16.; int8 .2, 32"):
        reduce.reduce(model, feeds, (sides.dump(wide), side))


def test_a_reference_that_differs_is_cut_down_too(book, monkeypatch):
    model, feeds, side, _ = book
    right = engine.OPERATORS["com.microsoft", "QLinearAdd"]

    def changed(A, A_scale, A_zero_point, B, B_scale, B_zero_point, C_scale, C_zero_point):
        pair = (B, B_scale, B_zero_point, C_scale, C_zero_point)
        c = right(A, A_scale, A_zero_point, *pair)
        return np.where(A == 3, c ^ 1, c)

    monkeypatch.setitem(engine.OPERATORS, ("com.microsoft", "QLinearAdd"), changed)
    found = reduce.reduce(model, feeds, (sides.reference(side.settings), side))
    assert [kind for _, kind in found.nodes] == ["com.microsoft.QLinearAdd"]
    assert found.output.after == (1, 1, 1, 1) and {v.shape for v in found.feeds.values()} == {
        (1, 1, 1, 1)
    }
    assert found.cause is None and found.keys == ("reference", "ort")


def test_a_model_of_which_the_reference_computes_nothing(tmp_path):
    model = load(saved(tmp_path / "float.onnx", networks.float_network("lenet")))
    settings = sides.parse("extended")
    with pytest.raises(UnusableInput, match="the reference computes nothing quantized of it"):
        reduce.reduce(model, drawn("lenet"), (sides.reference(settings), sides.session(settings)))


# --- which optimization


def test_optimizations_are_those_that_onnxruntime_applies(files, capfd):
    proto = load(files["mobilenet_v1"]).proto
    found = sides.optimizations(proto, sides.parse("default"))
    assert found["QDQSelectorActionTransformer"] and not found["GeluFusionL2"]
    off = sides.without(sides.parse("default"), ["QDQSelectorActionTransformer"])
    assert set(found) - set(sides.optimizations(proto, off)) == {"QDQSelectorActionTransformer"}
    assert not any(sides.optimizations(proto, sides.parse("off")).values())
    assert capfd.readouterr() == ("", "")  # the log is caught
    os.write(2, b"and only the log")
    assert capfd.readouterr().err == "and only the log"


def test_optimizations_are_in_the_order_in_which_they_last_changed_something():
    lines = [("A", 1), ("B", 1), ("C", 0), ("A", 1), ("B", 0), ("D", 0)]
    text = "\n".join(f"[I:x] GraphTransformer {n} modified: {c} with status: OK" for n, c in lines)
    assert list(sides._logged(text).items()) == [
        ("B", True), ("C", False), ("A", True), ("D", False)]  # fmt: skip


def test_a_rule_is_named_and_not_the_optimizer_that_applies_it():
    g = networks.Graph(3)
    y = g.add("Add", g.conv("x", 3, 4), g.constant(g.rng.normal(0, 1, (4, 1, 1)).astype("f4")))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 9, 9])
    graph = helper.make_graph(g.nodes, "g", [x], [onnx.ValueInfoProto(name=y)], g.constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feeds = {"x": g.rng.normal(0, 1, (1, 3, 9, 9)).astype(np.float32)}
    found = reduce.reduce(from_proto(proto), feeds, two("basic", "off"))
    assert found.cause.names == ("ConvAddFusion",) and found.cause.sufficient
    assert "Level1_RuleBasedTransformer" in found.cause.changed
    total = found.outputs[0].mismatches
    assert found.without == 0 < total
    # of other differences besides, which the rule does not make, the report says so
    for left, said in ((0, f"not {total}"), (total, "as many: they have another cause")):
        lines = reduce.report(replace(found, without=left))
        assert any(line.endswith(f"{left} output elements differ, {said}") for line in lines)


def test_every_rule_is_one_that_onnxruntime_knows():
    """A graph that each of some rules changes, and does not where the rule is left out."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])
    w = numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w")
    b = numpy_helper.from_array(np.full((2, 1, 1), 0.5, np.float32), "b")
    cases = {
        "EliminateIdentity": [helper.make_node("Identity", ["x"], ["i"]),
                              helper.make_node("Relu", ["i"], ["y"])],
        "ConvAddFusion": [helper.make_node("Conv", ["x", "w"], ["c"]),
                          helper.make_node("Add", ["c", "b"], ["y"])],
        "ConvMulFusion": [helper.make_node("Conv", ["x", "w"], ["c"]),
                          helper.make_node("Mul", ["c", "b"], ["y"])],
        "FuseReluClip": [helper.make_node("Relu", ["x"], ["r"]),
                         helper.make_node("Clip", ["r", "low", "high"], ["y"])],
    }  # fmt: skip
    ends = [numpy_helper.from_array(np.float32(v), n) for n, v in (("low", -1), ("high", 6))]
    for rule, nodes in cases.items():
        used = {name for node in nodes for name in node.input}
        constants = [t for t in (w, b, *ends) if t.name in used]
        graph = helper.make_graph(nodes, "g", [x], [onnx.ValueInfoProto(name="y")], constants)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        settings = sides.parse("basic")
        with_rule, without_it = (
            len(ort.optimized(from_proto(proto), s).graph.node)
            for s in (settings, sides.without(settings, [rule]))
        )
        assert with_rule < without_it == len(nodes), rule


def stub(proto: onnx.ModelProto, made_by) -> sides.Cause:
    """The cause of a difference that is there as the given function of what is left out says."""

    def differ(a: ort.Settings, b: ort.Settings) -> bool:
        return made_by(set(dict(a.entries).get(sides.DISABLED, "").split(";")))

    return sides.find_cause(proto, (sides.parse("default"), sides.parse("off")), differ)


def test_causes_of_other_kinds(files):
    proto = load(files["mobilenet_v1"]).proto
    found = stub(proto, lambda out: True)
    assert not found.names and found.reason.startswith("no graph optimization: it is there with")
    changed = found.changed
    assert len(changed) >= 2 and found.applied > len(changed)
    both = {changed[0], changed[1]}
    found = stub(proto, lambda out: not both <= out)  # either of the two makes it
    assert found.together and set(found.names) == both and found.sufficient
    found = stub(proto, lambda out: not both & out)  # each needs the other
    assert not found.together and list(found.names) == list(changed[:2]) and found.sufficient
    found = stub(proto, lambda out: changed[0] not in out and len(out) < 4)
    assert found.names == changed[:1] and not found.sufficient
    unseen = "GeluFusionL2"  # which changed nothing
    found = stub(proto, lambda out: unseen not in out)
    assert found.together and found.names == (unseen,)


@examples(100)
@given(st.lists(st.integers(0, 20), unique=True), st.data())
def test_smallest_leaves_what_is_needed(items, data):
    needed = set(data.draw(st.lists(st.sampled_from(items), unique=True))) if items else set()
    assert set(sides.smallest(items, lambda rest: needed <= set(rest))) == needed


def test_smallest_looks_again_at_what_it_kept():
    """The first can be left out only after the second."""
    assert sides.smallest([0, 1], lambda rest: 0 in rest or 1 not in rest) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", "session 'fast': begins with a level: default, all,"),
        ("default,threads", "session 'default,threads': 'threads' is not NAME=VALUE"),
        ("default,threads=-1", "threads are 0"),
        ("default,threads=two", "threads are 0"),
        ("default,=1", "'=1' is not NAME=VALUE"),
        ("", "session '': begins with a level"),
    ],
)
def test_sessions_that_are_none(text, message):
    with pytest.raises(UnusableInput, match=message):
        sides.parse(text)


def test_sessions_in_words():
    settings = sides.parse("extended, session.a=1,without=X,without=Y,threads=0")
    assert settings == ort.Settings(
        (("session.a", "1"), (sides.DISABLED, "X;Y")), ort.Level.ORT_ENABLE_EXTENDED, 0
    )
    assert str(settings).endswith(", all threads")


# --- fewer elements


def test_a_region_of_random_integer_networks():
    """Where one can be cut, ONNX Runtime computes from the rest what it computed before."""
    cut: set[str] = set()
    for seed in range(40):
        proto, _ = random_graphs.qoperator(seed)
        cut.update(kind for kinds in regions(proto, seed) for kind in kinds)
    assert cut >= {"QLinearConv", "QLinearAdd", "QLinearMatMul", "QGemm", "QuantizeLinear",
                   "QLinearGlobalAveragePool", "DequantizeLinear"}  # fmt: skip


def regions(proto: onnx.ModelProto, seed: int) -> list[set[str]]:
    """Cut a model to random regions of its last output; the operators of those that can be."""
    model = from_proto(proto)
    rng = np.random.default_rng(seed)
    feeds = {
        name: (rng.uniform(-2, 2, [n if isinstance(n, int) and n > 0 else 1 for n in shape])
               * (1 if dtype.kind == "f" else 50)).astype(dtype)
        for name, (dtype, shape) in model.inputs.items()
    }  # fmt: skip
    names = [n for node in model.nodes for n in node.outputs]
    settings = ort.Settings(level=ort.Level.ORT_DISABLE_ALL)
    try:
        found = ort.run_session(ort.open_session(ort.all_outputs(model), settings), names, feeds)
    except Exception as error:  # onnxruntime raises types of its own
        assert "ONNXRuntimeError" in str(error)
        return []
    values = dict(zip(names, found, strict=True)) | feeds
    target = list(model.outputs)[-1]
    cut = []
    for _ in range(3):
        shape = values[target].shape
        starts = [int(rng.integers(n)) for n in shape]
        part = [(s, int(rng.integers(s, n)) + 1) for s, n in zip(starts, shape, strict=True)]
        region = tuple(
            ends if rng.random() < 0.6 else (0, n) for ends, n in zip(part, shape, strict=True)
        )
        try:
            small, fed = crop.crop(model, values, feeds, target, region)
        except crop.NotCropped:
            continue
        (y,) = ort.run_session(ort.open_session(small, settings), [target], fed)
        wanted = values[target][crop.slices(region)]
        assert y.dtype == wanted.dtype and y.shape == wanted.shape
        if y.dtype.kind == "f" and not model.of_type("QLinearConv"):
            assert np.allclose(y, wanted, rtol=1e-5, atol=1e-5)
        else:
            assert (y == wanted).all()
        cut.append({node.op_type for node in model.nodes})
    return cut


@pytest.mark.parametrize(
    ("op", "shape", "constants", "attributes"),
    [
        ("Conv", (2, 4, 7, 8), [(6, 4, 3, 3), (6,)],
         dict(pads=[1, 2, 0, 1], strides=[2, 1], dilations=[1, 2])),
        ("Conv", (2, 4, 7, 8), [(4, 2, 3, 2)], dict(group=2, auto_pad="SAME_LOWER")),
        ("Conv", (2, 4, 9), [(4, 1, 3)], dict(group=4, auto_pad="SAME_UPPER", strides=[2])),
        ("MaxPool", (2, 3, 7, 8), [], dict(kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1])),
        ("AveragePool", (2, 3, 7, 8), [], dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1])),
        ("AveragePool", (1, 2, 6, 6), [], dict(kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)),
        ("GlobalAveragePool", (2, 3, 4, 4), [], {}),
        ("ConvTranspose", (2, 3, 4, 4), [(3, 5, 2, 2), (5,)], dict(strides=[2, 2])),
        ("Gemm", (3, 4), [(5, 4), (5,)], dict(transB=1)),
        ("Gemm", (4, 3), [(4, 5)], dict(transA=1)),
        ("MatMul", (2, 3, 4), [(4, 5)], {}),
        ("Add", (2, 3, 4), [(3, 1)], {}),
        ("PRelu", (2, 3, 4), [(3, 1)], {}),
        ("Transpose", (2, 3, 4), [], dict(perm=[2, 0, 1])),
        ("Softmax", (2, 3, 4), [], dict(axis=1)),
        ("Concat", (2, 3, 4), [(2, 5, 4)], dict(axis=1)),
        ("BatchNormalization", (2, 3, 4), [(3,), (3,), (3,), (3,)], {}),
        ("Relu", (3, 2), [], {}),
        ("Flatten", (3, 2, 2), [], {}),
    ],
)  # fmt: skip
def test_a_region_of_an_operator(op, shape, constants, attributes):
    rng = np.random.default_rng(0)
    stored = [
        numpy_helper.from_array(rng.uniform(0.1, 1, s).astype(np.float32), f"c{i}")
        for i, s in enumerate(constants)
    ]
    node = helper.make_node(op, ["x", *(t.name for t in stored)], ["y"], "node", **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    graph = helper.make_graph([node], op, [x], [onnx.ValueInfoProto(name="y")], stored)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert sum(map(bool, (regions(proto, seed) for seed in range(12)))) >= 3


def test_what_cannot_be_cut_is_said():
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])
    nodes = [helper.make_node("CumSum", ["x", "axis"], ["y"], "sum")]
    axis = numpy_helper.from_array(np.array(1), "axis")
    graph = helper.make_graph(nodes, "g", [x], [onnx.ValueInfoProto(name="y")], [axis])
    model = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    values = {name: np.zeros((2, 3, 4), np.float32) for name in ("x", "y")}
    with pytest.raises(crop.NotCropped, match="sum: a part of CumSum"):
        crop.crop(model, values, {"x": values["x"]}, "y", ((0, 2), (0, 1), (0, 4)))


def test_a_tensor_that_two_read_in_different_parts_is_not_cut():
    nodes = [helper.make_node("MaxPool", ["x"], ["m"], "pool", kernel_shape=[3, 3], pads=[1] * 4),
             helper.make_node("Add", ["x", "m"], ["y"], "add")]  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 6, 6])
    graph = helper.make_graph(nodes, "g", [x], [onnx.ValueInfoProto(name="y")])
    model = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    values = {name: np.zeros((1, 2, 6, 6), np.float32) for name in ("x", "m", "y")}
    feeds = {"x": values["x"]}
    _, fed = crop.crop(model, values, feeds, "y", ((0, 1), (1, 2), (0, 6), (0, 6)))
    assert fed["x"].shape == (1, 1, 6, 6)
    with pytest.raises(crop.NotCropped, match="x is read in different parts"):
        crop.crop(model, values, feeds, "y", ((0, 1), (1, 2), (2, 4), (0, 6)))


def test_the_window_contains_the_first_difference(tmp_path):
    """Of a convolution with two groups of four channels, one group is the least there is."""
    rng = np.random.default_rng(0)
    inputs = {
        "x": rng.integers(-128, 128, (2, 4, 6, 6)).astype(np.int8),
        "x_scale": np.float32(0.02), "x_zero_point": np.int8(3),
        "w": rng.integers(-128, 128, (8, 2, 3, 3)).astype(np.int8),
        "w_scale": rng.uniform(0.001, 0.01, 8).astype(np.float32),
        "w_zero_point": np.zeros(8, np.int8),
        "y_scale": np.float32(0.05), "y_zero_point": np.int8(-7),
    }  # fmt: skip
    proto = ort.operator_model("QLinearConv", inputs, group=2)
    model, feeds = load(saved(tmp_path / "model.onnx", proto)), {"x": inputs["x"]}
    side = sides.session(oracle.settle(model, feeds).settings)
    y = side.tensors(model, feeds)["y"].copy()
    y[1, 6, 2, 1] ^= 1
    found = reduce.reduce(model, feeds, (sides.dump({"y": y}), side))
    assert found.region == ((1, 2), (4, 8), (2, 3), (1, 2))
    assert found.feeds["x"].shape == (1, 2, 3, 3) and found.found.first.index == (0, 2, 0, 0)


# --- the command


@pytest.fixture
def unexplained(monkeypatch):
    """diagnose without its search for mistakes, which has tests of its own."""
    nothing = diagnose.Tried((), (), (), (), 0, 0)
    monkeypatch.setattr(diagnose, "explain", lambda *_: nothing)
    monkeypatch.setattr(diagnose, "places", lambda *_: [])


def run(capsys, *args) -> tuple[int, str]:
    status = cli.main(["diagnose", *map(str, args)])
    return status, capsys.readouterr().out


def test_the_command_writes_what_it_says(tmp_path, files, capsys):
    out = tmp_path / "out.onnx"
    options = ["--sessions", "default", "off", "--reduce", out]
    status, text = run(capsys, files["mobilenet_v1"], *options)
    assert status == 1 and len(list(tmp_path.iterdir())) == 4
    lines = text.splitlines()
    assert lines[-1] == "wrote " + ", ".join(map(str, reduce.files(out)))
    assert "made by: QDQSelectorActionTransformer" in text
    assert "a runs 1 QuantizeLinear, 1 com.microsoft.QLinearSoftmax, 1 DequantizeLinear" in lines
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    status, text = run(capsys, files["mobilenet_v1"], *options, "--json")
    found = json.loads(text)
    assert status == 1 and found["sides"].keys() == {"a", "b"}
    part = found["reduced"]
    assert part["cause"]["names"][-1] == "QDQSelectorActionTransformer"
    assert part["reduced"]["first"].keys() == {"index", "a", "b"}
    assert [Path(name) for name in part["files"]] == list(reduce.files(out))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_command_writes_nothing_where_there_is_no_difference(tmp_path, book, capsys):
    out = tmp_path / "out.onnx"
    status, text = run(capsys, BOOK, "--images", 1, "--reduce", out)
    assert status == 0 and "no difference: nothing was written; validate says" in text
    assert "reference: the reference\nort: ONNX Runtime, extended" in text
    options = ["--images", 1, "--sessions", "default", "off", "--reduce", out, "--json"]
    status, text = run(capsys, BOOK, *options)
    assert status == 0 and json.loads(text)["reduced"] is None
    assert not list(tmp_path.iterdir())
    dump = tmp_path / f"{WRONG}.npy"
    np.save(dump, book[3][WRONG][:1])
    status, text = run(capsys, BOOK, dump, "--reduce", out)
    assert status == 0 and list(tmp_path.iterdir()) == [dump]
    assert f"no output differs, so {out} was not written\n" in text


def test_the_command_reduces_a_dump(tmp_path, book, capsys, unexplained):
    values = wrong({name: value[1:] for name, value in book[3].items()} | {
        WRONG: np.repeat(book[3][WRONG][1:], 2, axis=0)})  # fmt: skip
    dump, image = tmp_path / f"{WRONG}.npy", tmp_path / "image.npy"
    np.save(dump, values[WRONG][1:])
    np.save(image, book[1]["image"][1:])
    out = tmp_path / "out.onnx"
    options = ["--input", image, "--reduce", out]
    # alone, the layer was fed what ONNX Runtime feeds it
    status, text = run(capsys, BOOK, dump, "--node", WRONG, *options)
    node = book[0].node(WRONG)
    assert status == 1 and "nodes: 17 -> 1: 1 QLinearConv" in text
    assert f"note: the dump lacks {node.inputs[0]}, so it is taken as ONNX Runtime's" in text
    assert [n.op_type for n in onnx.load(out).graph.node] == ["QLinearConv"]
    # as one tensor of a run, what comes before it may be wrong
    status, text = run(capsys, BOOK, dump, *options)
    assert status == 1 and "nodes: 17 -> 6:" in text
    assert "note: the dump lacks tensors in between" in text
    status, text = run(capsys, BOOK, dump, "--node", WRONG, *options, "--json")
    found = json.loads(text)
    assert found["reduced"]["output"]["after"] == [1, 1, 1, 1] and found["first"] == WRONG


def test_accumulators_alone_are_not_reduced(tmp_path, model, values, capsys, unexplained):
    node = model.node(WRONG)
    acc = stages(values[node.inputs[0]][:1], model.conv(node)).acc.astype(np.int32)
    dump, out = tmp_path / "acc.npy", tmp_path / "out.onnx"
    np.save(dump, acc + 1)
    with pytest.raises(UnusableInput, match="the dump has no output of a node"):
        run(capsys, BOOK, dump, "--node", WRONG, "--reduce", out)
    assert list(tmp_path.iterdir()) == [dump]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--reduce", "OUT/x.npz"], "name a file that ends in .onnx"),
        (["--reduce", "MODEL"], "would replace"),
        (["--reduce", "OUT/no/x.onnx", "--sessions", "default", "off"], "nothing was written"),
        (["--reduce", "OUT/x.onnx", "--sessions", "default", "none"], "begins with a level"),
        (["--reduce", "OUT/x.onnx", "--sessions", "off", "off,without=Foo"], "no such"),
        (["--reduce", "OUT/x.onnx", "--node", "y"], "--node is of a dump"),
        (["--reduce", "OUT/x.onnx", "--x", "x.npy"], "leave one out"),
        (["--sessions", "default", "off"], "give a DUMP, or --reduce"),
        (["y.npy", "--sessions", "default", "off"], "leave the dump out"),
    ],
)
def test_the_command_refuses(tmp_path, files, args, message):
    out = tmp_path / "out"
    out.mkdir()
    model = saved(tmp_path / "model.onnx", onnx.load(files["mobilenet_v1"]))
    args = [a.replace("OUT", str(out)).replace("MODEL", str(model)) for a in args]
    with pytest.raises(UnusableInput, match=message):
        cli.main(["diagnose", str(model), *args])
    assert not list(out.iterdir())
    assert len(list(tmp_path.iterdir())) == 2


def test_a_session_that_refuses_is_named():
    model = load(BOOK)
    pair = two("default", "default")
    with pytest.raises(UnusableInput, match=r"ONNX Runtime refuses it .* in the session a: all"):
        reduce.reduce(model, {"image": np.zeros((1, 3, 5, 5), np.float32)[:, :2]}, pair)


@since(1, 32, "its rules are others")
def test_the_rules_stand_in_the_library_itself():
    """Names that ONNX Runtime does not know are passed over, so each is looked for in it."""
    capi = Path(onnxruntime.capi.__path__[0])
    code = b"".join(p.read_bytes() for p in capi.glob("onnxruntime_pybind11_state*"))
    for rule in (rule for rules in sides.RULES.values() for rule in rules):
        assert b"\0" + rule.encode() + b"\0" in code, rule
