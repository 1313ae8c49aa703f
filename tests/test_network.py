"""From a file to the graph that ONNX Runtime runs, its sessions, and what a verdict is made of."""

import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from conftest import MODELS
from onnx import TensorProto, helper
from test_verdict import made, qdq_conv, verdict_of

from qlinear import engine, fuse, oracle, ort, validate
from qlinear.compare import Comparison, Mismatch
from qlinear.engine import FLOAT, LEFT_OUT, RECOMPUTED, Step
from qlinear.errors import Refused, UnusableInput
from qlinear.fuse import Fusion, Network
from qlinear.inputs import Feed, read_feeds
from qlinear.onnx_model import Model, Node, from_proto, load

F = np.float32
BOOK, UINT8 = MODELS / "resnet8_int8.onnx", MODELS / "resnet8_uint8.onnx"
QDQ = ort.Settings((ort.INT8_QDQ,))
NOTHING = ort.Settings(level=ort.Level.ORT_DISABLE_ALL)


def refusing(model: Model) -> Model:
    """A file that ONNX Runtime refuses, with words of its own."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    proto.graph.node[0].op_type = "NoSuchOperator"
    return from_proto(proto, "broken.onnx")


# --- what is fused


def test_what_a_layer_stands_for():
    network = fuse.fuse(qdq_conv([["Relu"]]))
    assert network.settings == QDQ and network.kinds() == "1 QLinearConv"
    (fusion,) = network.fusions
    names = ["x_dequantize", "w_dequantize", "b_dequantize", "conv", "relu", "y_quantize"]
    assert [node.name for node in fusion.absorbed] == names  # in the file's order
    assert str(fusion) == (
        "DequantizeLinear + DequantizeLinear + DequantizeLinear + Conv + Relu + QuantizeLinear"
        " -> QLinearConv"
    )
    # the graph's nodes have the file's names, and a fusion holds the node of the graph
    assert [node.name for node in network.graph.nodes] == ["x_quantize", "conv", "y_dequantize"]
    assert fusion.made is network.graph.nodes[1]
    assert network.graph.path == network.file.path


def test_fused_nodes_have_the_files_names_whatever_onnx_runtime_calls_them(monkeypatch):
    model = qdq_conv([["Relu"]])
    graph = ort.optimized(model, QDQ)
    for i, made_node in enumerate(graph.graph.node):
        made_node.name = f"node_{i}"
    monkeypatch.setattr(ort, "optimized", lambda *_: graph)
    network = fuse.fuse(model, QDQ)
    # what was not fused keeps the graph's
    assert [node.name for node in network.graph.nodes] == ["node_0", "conv", "node_2"]
    assert [fusion.made.name for fusion in network.fusions] == ["conv"]


def test_without_optimizations_nothing_is_fused():
    network = fuse.fuse(qdq_conv(), NOTHING)
    assert network.settings == NOTHING and network.fusions == () and network.kinds() == "nothing"
    assert [n.name for n in network.graph.nodes] == [n.name for n in network.file.nodes]


def test_two_nodes_in_one_are_a_fusion():
    network = fuse.fuse(load(MODELS / "resnet8.onnx"))
    assert network.kinds() == "4 com.microsoft.FusedConv"
    assert all(
        [node.op_type for node in fusion.absorbed] == ["Conv", "Relu"] for fusion in network.fusions
    )


def test_a_node_that_reads_its_constants_under_other_names_is_still_itself():
    model = made(
        [helper.make_node("Add", ["x", "c"], ["y"], "add")],
        {"x": (TensorProto.FLOAT, [1])}, {"y": (TensorProto.FLOAT, None)}, {"c": F([1])},
    )  # fmt: skip
    (add,) = model.nodes
    renamed = replace(add, inputs=("x", "other"))
    graph = replace(model, constants={"other": F([1])})
    assert list(fuse._fusions(model, replace(graph, nodes=(renamed,)))) == []
    # another operator stands for it
    other = replace(renamed, op_type="Sub")
    assert list(fuse._fusions(model, replace(graph, nodes=(other,)))) == [Fusion(other, (add,))]
    # two nodes in one are a fusion, though it has the operator of the first
    two = made(
        [helper.make_node("Add", ["x", "c"], ["a"]), helper.make_node("Mul", ["a", "c"], ["y"])],
        {"x": (TensorProto.FLOAT, [1])}, {"y": (TensorProto.FLOAT, None)}, {"c": F([1])},
    )  # fmt: skip
    (found,) = fuse._fusions(two, replace(graph, nodes=(renamed,)))
    assert found == Fusion(renamed, two.nodes)
    # and what the file does not write stands for nothing
    new = replace(renamed, outputs=("new",))
    assert list(fuse._fusions(model, replace(graph, nodes=(new,)))) == []


def test_kinds_are_counted():
    network = fuse.fuse(qdq_conv())
    (conv,) = network.fusions
    add = replace(conv, made=replace(conv.made, op_type="QLinearAdd", domain="com.microsoft"))
    many = replace(network, fusions=(conv, add, conv, conv))
    assert many.kinds() == "3 QLinearConv, 1 com.microsoft.QLinearAdd"


@pytest.mark.parametrize(
    ("absorbed", "name"),
    [
        (["DequantizeLinear", "Conv", "Relu", "QuantizeLinear"], "conv1"),
        (["DequantizeLinear", "Relu"], "made"),  # no operator works, and there are two
        (["Relu"], "relu0"),
        (["Conv", "Gemm"], "made"),
        (["Transpose", "Reshape", "Cast", "Identity", "Clip", "MatMul"], "matmul5"),
    ],
)
def test_a_fused_node_has_the_name_of_what_works_in_it(absorbed, name):
    nodes = tuple(
        Node(f"{kind.lower()}{i}", kind, "", (), (), {}) for i, kind in enumerate(absorbed)
    )
    assert fuse._name(Fusion(Node("made", "QLinearConv", "", (), (), {}), nodes)) == name


def test_nodes_are_found_by_every_name_that_the_file_has_for_them():
    network = fuse.fuse(qdq_conv([["Relu"]]))
    quantize, conv, dequantize = network.graph.nodes
    assert network.node("x_quantize") == network.node("xq") == quantize
    for name in ("conv", "relu", "x_dequantize", "w_dequantize", "y_quantize", "yq"):
        assert network.node(name) == conv
    assert network.node("y") == dequantize
    with pytest.raises(UnusableInput, match=r"^model: ONNX Runtime runs xd inside another node; "):
        network.node("xd")  # a tensor that it does not compute
    # a node that went into two others
    (fusion,) = network.fusions
    twice = replace(network, fusions=(fusion, replace(fusion, made=replace(conv, name="other"))))
    message = "model: relu is part of several nodes; name conv, other"
    with pytest.raises(UnusableInput, match=f"^{re.escape(message)}$"):
        twice.node("relu")
    with pytest.raises(UnusableInput, match="no node named 'nope'; the nodes are x_quantize, conv"):
        network.node("nope")


def test_the_sessions_to_try():
    assert fuse.candidates(load(MODELS / "resnet8.onnx")) == [ort.Settings(), NOTHING]
    assert fuse.candidates(qdq_conv()) == [QDQ, ort.Settings(), NOTHING]


def test_whether_a_session_opens_a_file():
    assert fuse._opens(qdq_conv(), QDQ)
    assert not fuse._opens(refusing(qdq_conv()), QDQ)
    nameless = ort.Settings((("", "1"),))  # an entry that ONNX Runtime refuses
    assert not fuse._opens(qdq_conv(), nameless)


def test_the_first_session_that_opens_is_taken(monkeypatch):
    model = qdq_conv()
    # in a default session ONNX Runtime makes uint8 of int8, and so exact products are needed
    exact = ort.Settings((ort.EXACT,))
    monkeypatch.setattr(fuse, "_opens", lambda _, settings: settings != QDQ)
    assert fuse.fuse(model).settings == exact
    monkeypatch.setattr(fuse, "_opens", lambda _, settings: settings in (NOTHING, exact))
    assert fuse.fuse(model).settings == NOTHING
    monkeypatch.setattr(fuse, "_opens", lambda *_: False)
    assert fuse.fuse(model).settings == ort.Settings()


def test_a_file_that_no_session_opens_is_refused_with_its_name():
    for call in (fuse.fuse, lambda model: oracle.settle(model, {})):
        with pytest.raises(Refused, match=r"^broken.onnx: ONNX Runtime refuses it \((?!None)"):
            call(refusing(qdq_conv()))


def test_exact_products_are_asked_for_where_they_work(monkeypatch):
    model = load(UINT8)
    network = fuse.fuse(model)
    assert network.settings.entries[-1] == ort.EXACT
    # besides what was there, and at the same level
    assert fuse.fuse(model, QDQ).settings == replace(QDQ, entries=(ort.INT8_QDQ, ort.EXACT))
    real = fuse._opens
    monkeypatch.setattr(
        fuse, "_opens", lambda m, s: ort.EXACT not in s.entries and real(m, s)
    )  # fmt: skip
    assert fuse.fuse(model).settings.entries == network.settings.entries[:-1]


# --- sessions


def outputs_of(session) -> list[str]:
    return [output.name for output in session.get_outputs()]


def test_a_session_of_the_graph_hands_out_what_is_asked_for_and_its_ends():
    network = fuse.fuse(qdq_conv([["Relu"]]))
    assert outputs_of(oracle.open_graph(network, ())) == ["y"]
    # no constants, no inputs, nothing twice
    names = ["yq", "x", "w", "xq", "yq", "y"]
    assert outputs_of(oracle.open_graph(network, names)) == ["yq", "xq", "y"]
    with pytest.raises(Refused, match=r"^model: ONNX Runtime refuses it \((?!None)"):
        oracle.open_graph(network, ["nope"])


@pytest.mark.parametrize(
    ("path", "level"),
    [(BOOK, ort.Level.ORT_DISABLE_ALL), (UINT8, ort.Level.ORT_ENABLE_EXTENDED)],
)
def test_the_graph_is_not_optimized_again(path, level, monkeypatch):
    network, seen = fuse.fuse(load(path)), []
    monkeypatch.setattr(ort, "open_session", lambda source, settings: seen.append(settings))
    oracle.open_graph(network, ())
    assert seen == [replace(network.settings, level=level)]
    oracle.open_file(network.file, network.settings)
    assert seen[1] == network.settings


def test_what_a_session_computes_by_name():
    model = qdq_conv(more_outputs=["c"])
    x = read_feeds(model)[0].values
    session = oracle.open_file(model, QDQ)
    both = oracle.outputs(model, session, x)
    assert list(both) == ["y", "c"]
    one = oracle.outputs(model, session, x, iter(["c"]))
    assert list(one) == ["c"] and (one["c"] == both["c"]).all()
    with pytest.raises(Refused, match=r"^model: ONNX Runtime refuses it \((?!None)"):
        oracle.outputs(model, session, {"x": np.zeros((1, 9, 6, 6), F)})
    with pytest.raises(Refused, match=r"^broken.onnx: ONNX Runtime refuses it \((?!None)"):
        oracle.open_file(refusing(model), QDQ)


def test_the_first_session_that_runs_is_settled_on(monkeypatch):
    model = qdq_conv()
    x, real, tried = read_feeds(model)[0].values, fuse.fuse, []

    def counted(model, settings):
        tried.append(settings)
        if len(tried) < 3:
            raise Refused(f"refusal {len(tried)}")
        return real(model, settings)

    monkeypatch.setattr(oracle, "fuse", counted)
    assert oracle.settle(model, x).settings == NOTHING
    assert tried == [QDQ, ort.Settings(), NOTHING]
    tried.clear()
    monkeypatch.setattr(oracle, "fuse", lambda *_: tried.append(1) or counted(model, QDQ))
    monkeypatch.setattr(oracle, "candidates", lambda _: [QDQ])
    with pytest.raises(Refused, match=r"^refusal 2$"):
        oracle.settle(model, x)


def test_inputs_that_no_session_takes_are_refused_with_the_files_name(monkeypatch):
    model = qdq_conv()
    with pytest.raises(Refused, match=r"^model: ONNX Runtime refuses it \((?!None)"):
        oracle.settle(model, {"x": np.zeros((1, 9, 6, 6), F)})
    # so are those that the file takes, and not its graph
    calls, real = [], ort.run_session

    def every_second_fails(*given):
        calls.append(given)
        if len(calls) % 2 == 0:
            raise RuntimeError("not the graph")
        return real(*given)

    monkeypatch.setattr(ort, "run_session", every_second_fails)
    with pytest.raises(Refused, match=r"^model: ONNX Runtime refuses it \(not the graph\)$"):
        oracle.settle(model, read_feeds(model)[0].values)
    assert len(calls) == 6


def test_a_session_that_opens_and_does_not_run_is_not_settled_on(monkeypatch):
    model = qdq_conv()
    x, real = read_feeds(model)[0].values, oracle.outputs
    for fails in (0, 1):  # on the file, and on its graph

        def outputs(model, session, feeds, names=None, state=[], fails=fails):  # noqa: B006
            state.append(session)
            if len(state) == fails + 1:
                raise Refused("it does not run")
            return real(model, session, feeds, names)

        monkeypatch.setattr(oracle, "outputs", outputs)
        assert oracle.settle(model, x).settings == ort.Settings((ort.EXACT,))


# --- the verdict


def comparison(mismatches=0, tensor="t", elements=6, largest=0, first=None) -> Comparison:
    return Comparison(tensor, "n", "o", "int8", (6,), elements, mismatches, largest, first)


def verdict(outputs=(), tensors=(), left_out=None) -> validate.Verdict:
    coverage = validate.Coverage(2, 1, 1, 1, {}, left_out or {})
    return validate.Verdict("m", ("x",), "s", tuple(outputs), tuple(tensors), coverage, None)


def test_the_status_of_a_verdict():
    good, bad = comparison(), comparison(1)
    assert verdict([good], [good]).status == "PASS"
    assert verdict([good], [bad]).status == verdict([bad], [good]).status == "FAIL"
    assert verdict([good], [good], {"why": ["n"]}).status == "PARTIAL"
    assert verdict([bad], [], {"why": ["n"]}).status == "FAIL"
    for made_verdict, status in ((verdict([good]), 0), (verdict([bad]), 1)):
        found = made_verdict.as_json()
        assert found["status"] == status and found["verdict"] == made_verdict.status
        assert found["outputs"] == [c.as_json() for c in made_verdict.outputs]
        assert found["tensors"] == [] and found["coverage"]["quantized"] == 2
    assert verdict([], [], {"why": ["n"]}).as_json()["status"] == 3


def test_comparisons_of_several_inputs_are_added():
    first, later = Mismatch((0,), 1, 2), Mismatch((5,), 3, 4)
    found = validate.merged(
        [
            comparison(tensor="a"), comparison(2, "b", 6, 9, first),
            comparison(1, "a", 4, 3, later), comparison(1, "b", 6, 5, later),
            comparison(tensor="a", elements=5),
        ]
    )  # fmt: skip
    assert found == (
        comparison(1, "a", 6 + 4 + 5, 3, later),
        comparison(3, "b", 12, 9, first),
    )


def test_coverage_is_counted_by_what_was_done():
    def step(name, op_type, how, reason="", quantized=True, domain=""):
        return Step(Node(name, op_type, domain, (), (), {}), {}, how, reason, quantized)

    found = validate.coverage_of(
        [
            step("a", "QLinearConv", RECOMPUTED), step("b", "QLinearConv", LEFT_OUT, "why"),
            step("c", "QLinearMul", LEFT_OUT, "why"), step("d", "QLinearX", LEFT_OUT, "other"),
            step("e", "Conv", FLOAT, quantized=False), step("f", "Relu", FLOAT, quantized=False),
            step("g", "Relu", FLOAT, quantized=False), step("h", "Reshape", RECOMPUTED),
            step("i", "Reshape", RECOMPUTED, quantized=False),
            step("j", "FusedConv", FLOAT, quantized=False, domain="com.microsoft"),
        ]
    )  # fmt: skip
    assert found == validate.Coverage(
        quantized=5, recomputed=2, mac=4, mac_recomputed=1,
        float={"Conv": 1, "Relu": 2, "com.microsoft.FusedConv": 1},
        left_out={"why": ["b", "c"], "other": ["d"]},
    )  # fmt: skip


def test_a_verdict_to_the_field():
    model = qdq_conv(more_outputs=["c"])
    feeds = [Feed({"x": np.full((1, 4, 6, 6), v, F)}, f"all {v}") for v in (0, 1)]
    found = validate.validate(model, feeds)
    assert found.model == "model" and found.inputs == ("all 0", "all 1") and found.notes == ()
    assert found.session == 'extended optimizations, session.qdqisint8allowed = "1"'
    # c is an output, so the convolution stays in float
    assert [(c.tensor, c.node, c.operator, c.elements) for c in found.outputs] == [
        ("y", "y_dequantize", "DequantizeLinear", 2 * 64), ("c", "conv", "Conv", 2 * 64),
    ]  # fmt: skip
    assert {(c.tensor, c.node, c.operator) for c in found.tensors} == {
        ("bd", "b_dequantize", "DequantizeLinear"), ("wd", "w_dequantize", "DequantizeLinear"),
        ("xq", "x_quantize", "QuantizeLinear"), ("xd", "x_dequantize", "DequantizeLinear"),
        ("yq", "y_quantize", "QuantizeLinear"),
    }  # fmt: skip
    assert {c.tensor: c.elements for c in found.tensors}["xq"] == 2 * 144
    assert found.status == "PASS" and all(c.equal for c in (*found.outputs, *found.tensors))
    assert found.coverage.float == {"Conv": 1} and found.coverage.mac == 1
    assert found.default == validate.Default(256, 0, 1, 1)


def test_the_default_session_is_described_beside():
    """By default int8 pairs are not fused as they are: what differs is counted."""
    found = verdict_of(qdq_conv([["Relu"]]))
    assert found.default.elements == found.outputs[0].elements
    plain = ort.open_session(qdq_conv([["Relu"]]).source, ort.DEFAULT)
    x = read_feeds(qdq_conv([["Relu"]]))[0].values
    here = ort.open_session(qdq_conv([["Relu"]]).source, QDQ)
    differing = int((plain.run(None, x)[0] != here.run(None, x)[0]).sum())
    assert found.default.mismatches == differing
    assert found.default.float_mac_here == 0


def test_the_default_session_is_described_at_the_level_of_the_verdicts():
    """At the level at which nothing is fused, nothing sets the two apart."""
    network = fuse.fuse(qdq_conv(), NOTHING)
    found = validate._default(network.file, network, [comparison(2), comparison(1)])
    assert found == validate.Default(12, 3, 1, 1)
    fused = fuse.fuse(qdq_conv(), QDQ)
    assert validate._default(fused.file, fused, [comparison()]).float_mac_here == 0
    assert validate._default(fused.file, fused, []) is None


def test_where_the_default_session_does_not_run_it_is_not_described(monkeypatch):
    real = oracle.open_file

    def refuses(model, settings):
        if settings == ort.DEFAULT:
            raise Refused("not so")
        return real(model, settings)

    with monkeypatch.context() as patch:
        patch.setattr(oracle, "open_file", refuses)
        found = verdict_of(qdq_conv())
    assert found.default is None and found.status == "PASS" and found.as_json()["default"] is None
    # nor where it opens, and then does not run
    opened, run = [], ort.run_session

    def remembers(model, settings):
        session = real(model, settings)
        opened.extend([session] if settings == ort.DEFAULT else [])
        return session

    def fails(session, names, feeds):
        if session in opened:
            raise RuntimeError("not now")
        return run(session, names, feeds)

    monkeypatch.setattr(oracle, "open_file", remembers)
    monkeypatch.setattr(ort, "run_session", fails)
    assert verdict_of(qdq_conv()) == found and opened


def test_progress_is_told_a_title_and_the_number_of_steps():
    told, walked = [], []

    def progress(steps, title, count):
        told.append((title, count))
        for step in steps:
            walked.extend([step.node.name] if isinstance(step, engine.Step) else [])
            yield step

    model = qdq_conv()
    feeds = [Feed({"x": np.zeros((1, 4, 6, 6), F)}, title) for title in ("a", "b")]
    assert validate.validate(model, feeds, progress=progress).status == "PASS"
    of_each = [[(f"ONNX Runtime, {title}", 2), (title, 3)] for title in "ab"]
    assert told == [("opening", 4), *of_each[0], *of_each[1]]
    assert walked == ["x_quantize", "conv", "y_dequantize"] * 2


NOTE = (
    "asking ONNX Runtime for tensors in between fails or changes what it computes; "
    "not all of them were compared"
)


def test_tensors_in_between_count_only_where_asking_for_them_changes_no_output(monkeypatch):
    real, model = ort.run_session, qdq_conv()

    def changed(session, names, feeds):
        found = real(session, names, feeds)
        return [v + v.dtype.type(1) for v in found] if "yq" in names else found

    def fails(session, names, feeds):
        if "yq" in names:
            raise RuntimeError("not these")
        return real(session, names, feeds)

    assert verdict_of(model).tensors and not verdict_of(model).notes
    for fake in (changed, fails):
        with monkeypatch.context() as patch:
            patch.setattr(ort, "run_session", fake)
            found = verdict_of(model)
        assert found.status == "PASS" and found.notes == (NOTE,)
        assert {c.tensor for c in found.tensors} <= {"wd", "bd"}  # what is constant needs no run


def test_tensors_in_between_are_compared_with_onnx_runtimes():
    network = fuse.fuse(qdq_conv())
    x = read_feeds(network.file)[0].values
    ends = oracle.outputs(network.file, oracle.open_graph(network, ()), x)
    conv = network.node("conv")
    theirs = oracle.outputs(network.file, oracle.open_graph(network, ["yq"]), x)["yq"]
    (found,) = validate._fetched(network, x, {"yq": (conv, theirs)}, ends)
    assert found == Comparison("yq", "conv", "QLinearConv", "int8", theirs.shape, theirs.size, 0, 0)
    (found,) = validate._fetched(network, x, {"yq": (conv, theirs ^ 1)}, ends)
    assert found.mismatches == theirs.size
    with pytest.raises(Refused, match=r"^model: tensors in between change what is computed$"):
        validate._fetched(network, x, {"yq": (conv, theirs)}, {"y": ends["y"] + 1})


def test_an_output_that_changes_from_run_to_run_is_refused(monkeypatch):
    model, real, runs = qdq_conv(), ort.run_session, []

    def drawn(session, names, feeds):
        runs.append(1)
        return [v + len(runs) for v in real(session, names, feeds)]

    monkeypatch.setattr(ort, "run_session", drawn)
    with pytest.raises(UnusableInput, match=r"^model: ONNX Runtime computes another y every time$"):
        verdict_of(model)


def test_moved_floats_are_not_compared_as_quantized_tensors():
    model = made(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("Exp", ["d"], ["e"]),
            helper.make_node("Transpose", ["e"], ["t"], perm=[1, 0]),
            helper.make_node("Exp", ["t"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, [2, 4])}, {"y": (TensorProto.FLOAT, None)},
        {"s": F(0.5), "z": np.int8(0)},
    )  # fmt: skip
    found = verdict_of(model, x=np.ones((2, 4), F))
    assert found.status == "PASS" and {c.tensor for c in found.tensors} == {"q", "d"}


def folded(constants, *, fusions=(), outputs=("y",)):
    """What is said of a file's constant nodes, given the constants of ONNX Runtime's graph.

    The file: w -> DequantizeLinear -> d -> QuantizeLinear -> e -> DequantizeLinear -> g, g + x = y,
    and besides, for nobody, w -> DequantizeLinear -> u.
    """
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], "first"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["u"], "unread"),
        helper.make_node("QuantizeLinear", ["d", "t", "z"], ["e"], "second"),
        helper.make_node("DequantizeLinear", ["e", "t", "z"], ["g"], "third"),
        helper.make_node("Add", ["g", "x"], ["y"], "add"),
    ]
    file = made(
        nodes, {"x": (TensorProto.FLOAT, [2])}, {"y": (TensorProto.FLOAT, None)},
        {"w": np.int8([4, -8]), "s": F(0.5), "t": F(1), "z": np.int8(0)},
    )  # fmt: skip
    file = replace(file, outputs=dict.fromkeys(outputs))
    graph = replace(file, nodes=file.nodes[-1:], constants=constants)
    seen, found = validate._folded(Network(file, graph, ort.Settings(), fusions))
    assert all(step.outputs == {} for step in seen)
    return {step.node.name: (step.how, step.reason) for step in seen}, found


OWN = (LEFT_OUT, "folded by ONNX Runtime into a constant of its own")
GOOD = (RECOMPUTED, "")


def test_constants_that_were_folded_are_compared_under_their_names():
    steps, found = folded({"g": F([2, -4])})
    # what a compared one was made from is accounted for with it; what nobody reads is not said
    assert steps == {"first": GOOD, "second": GOOD, "third": GOOD}
    assert found == [Comparison("g", "third", "DequantizeLinear", "float32", (2,), 2, 0, 0)]
    _, found = folded({"g": F([2, -3]), "d": F([2, -4])})
    assert [(c.tensor, c.node, c.mismatches) for c in found] == [
        ("g", "third", 1), ("d", "first", 0),
    ]  # fmt: skip


def test_constants_that_were_folded_under_other_names_are_left_out():
    steps, found = folded({"other": F([2, -4])})
    assert steps["third"] == OWN and found == []
    steps, found = folded({"e": np.int8([2, -4])})
    assert steps == {"first": GOOD, "second": GOOD, "third": OWN}
    assert [c.tensor for c in found] == ["e"]
    # but not where a fusion stands for them, and not where they are an output
    conv = Node("made", "QLinearConv", "", (), ("y",), {})
    dequantize = Node("third", "DequantizeLinear", "", ("e", "t", "z"), ("g",), {})
    steps, _ = folded({"e": np.int8([2, -4])}, fusions=(Fusion(conv, (dequantize,)),))
    assert "third" not in steps
    steps, _ = folded({"g": F([2, -4])}, outputs=("y", "u"))
    assert steps["unread"] == OWN
    steps, found = folded({"g": F([2, -4]), "u": F([2, -4])}, outputs=("y", "u"))
    assert steps == dict.fromkeys(("first", "second", "third", "unread"), GOOD)
    assert [c.tensor for c in found] == ["g", "u"]


def test_constants_that_onnx_runtime_quantized_are_left_out_besides(monkeypatch):
    conv = Node("conv", "QLinearConv", "", (), ("c",), {})
    monkeypatch.setattr(validate, "quantized_by_ort", lambda _: [(conv, "bias")])
    steps, _ = folded({"g": F([2, -4])})
    assert steps.pop("conv") == (LEFT_OUT, "bias is quantized by ONNX Runtime itself")
    assert steps == {"first": GOOD, "second": GOOD, "third": GOOD}


def test_nodes_come_after_those_that_they_read_from():
    model = qdq_conv([["Relu"]])
    names = [node.name for node in model.nodes]
    assert [node.name for node in fuse.in_order(model).nodes] == names
    reverse = replace(model, nodes=model.nodes[::-1])
    ordered = fuse.in_order(reverse).nodes
    assert sorted(node.name for node in ordered) == sorted(names)
    written = {*model.inputs, *model.constants}
    for node in ordered:
        assert set(node.inputs) <= written
        written |= set(node.outputs)


@pytest.mark.parametrize("kind", ["INT2", "UINT2", "INT4", "UINT4"])
def test_tensors_of_2_or_4_bits_are_not_asked_for(kind):
    model = made(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("Relu", ["d"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, [4])}, {"y": (TensorProto.FLOAT, None)}, {"s": F(0.5)}, opset=25,
    )  # fmt: skip
    model.proto.graph.initializer.append(
        helper.make_tensor("z", TensorProto.DataType.Value(kind), [], [0])
    )
    found = verdict_of(from_proto(model.proto), x=F([1, 2, 3, 9]))
    assert found.status == "PASS" and found.notes == ()
    assert "q" not in {c.tensor for c in found.tensors}


def test_what_holds_in_every_run():
    """The fewest recomputed, and every reason and node that was ever left out, once."""
    first = validate.Coverage(5, 4, 3, 3, {"Relu": 1}, {"why": ["a"]})
    second = validate.Coverage(5, 3, 3, 2, {"Relu": 1}, {"why": ["a", "b"], "other": ["c"]})
    wanted = validate.Coverage(5, 3, 3, 2, {"Relu": 1}, {"why": ["a", "b"], "other": ["c"]})
    assert validate.least([first, second]) == validate.least([second, first]) == wanted
    assert validate.least([first]) == first


def test_an_output_that_is_an_input_or_a_constant():
    """An output may be an input, or a constant, itself."""
    model = made(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, [1, 4])},
        {"y": (TensorProto.FLOAT, None), "x": (TensorProto.FLOAT, [1, 4]),
         "s": (TensorProto.FLOAT, [])},
        {"s": F(0.5), "z": np.int8(0)},
    )  # fmt: skip
    found = verdict_of(model, x=F([[1, 2, 3, 4]]))
    assert found.status == "PASS"
    named = [(c.tensor, c.node, c.operator) for c in found.outputs]
    assert named[1:] == [("x", "", ""), ("s", "", "")]


# --- one node alone


def test_nodes_are_checked_alone_on_onnx_runtimes_tensors():
    network = fuse.fuse(load(BOOK))
    feed = read_feeds(network.file)[0]
    nodes = [network.node("stem_quant"), network.node("dense_quant")]
    found = list(validate.check_nodes(network, nodes, feed))
    assert [c.node for c in found] == nodes and all(c.equal for c in found)
    (stem,) = found[0].comparisons
    assert (stem.tensor, stem.node, stem.operator) == (
        nodes[0].outputs[0], "stem_quant", "QLinearConv",
    )  # fmt: skip
    theirs = ort.tensors(network.file, feed.values["image"])
    for checked in found:
        around = {checked.node.inputs[0], checked.node.outputs[0]}
        assert set(checked.values) == {"image", *around}  # and what is fed
        for name in around:
            assert (checked.values[name] == theirs[name]).all()
    wrong = Feed({"image": np.zeros((1, 3, 9, 9), F)}, "wrong")
    with pytest.raises(Refused, match=r"resnet8_int8.onnx: ONNX Runtime refuses it \((?!None)"):
        list(validate.check_nodes(network, nodes, wrong))


def test_a_node_alone_can_fail_or_be_refused(monkeypatch):
    network = fuse.fuse(qdq_conv())
    feed = read_feeds(network.file)[0]
    conv = network.node("conv")
    real = engine.computed
    monkeypatch.setattr(
        engine, "computed", lambda *given: {k: v + 1 for k, v in real(*given).items()}
    )
    (checked,) = validate.check_nodes(network, [conv], feed)
    assert not checked.equal and checked.comparisons[0].mismatches == checked.values["yq"].size

    def refuses(*_):
        raise UnusableInput("it is bad")

    monkeypatch.setattr(engine, "computed", refuses)
    with pytest.raises(UnusableInput, match=r"^model: node conv: it is bad$"):
        list(validate.check_nodes(network, [conv], feed))
    unknown = replace(conv, op_type="QLinearNew", domain="com.microsoft")
    message = "model: node conv: com.microsoft.QLinearNew is not computed yet"
    with pytest.raises(UnusableInput, match=f"^{re.escape(message)}$"):
        list(validate.check_nodes(network, [unknown], feed))


def test_nothing_quantized_is_refused_with_what_there_is():
    message = "resnet8.onnx: no quantized operator (its operators: Add, Conv, Flatten, Gemm, "
    with pytest.raises(UnusableInput, match=re.escape(message)):
        verdict_of(load(MODELS / "resnet8.onnx"))


def test_a_file_without_operators_says_so():
    nodes = [helper.make_node("Constant", [], ["y"], value_float=1.0)]
    model = made(nodes, {}, {"y": (TensorProto.FLOAT, [])}, {})
    with pytest.raises(UnusableInput, match=r"no quantized operator \(its operators: none\)$"):
        validate.validate(model, [Feed({}, "nothing")])


def test_an_input_that_the_file_does_not_take_is_refused_with_its_name():
    feeds = [Feed({"x": np.zeros((1, channels, 6, 6), F)}, "x") for channels in (4, 9)]
    with pytest.raises(Refused, match=r"^model: ONNX Runtime refuses it \((?!None)"):
        validate.validate(qdq_conv(), feeds)


def test_what_is_kept_of_a_walk():
    """The steps without their tensors, and the graph's outputs."""
    network = fuse.fuse(qdq_conv(), NOTHING)
    feeds = read_feeds(network.file)[0].values
    ends = oracle.outputs(network.file, oracle.open_file(network.file, NOTHING), feeds)
    walk = engine.steps(network.graph, feeds)
    asked = ends | {"x": feeds["x"], "ys": F(0.1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validate, "_fetched", lambda *_: [])
        seen, ours, found, notes = validate._follow(network, walk, feeds, asked)
    assert [step.node for step in seen] == list(network.graph.nodes)
    assert all(step.outputs == {} for step in seen)
    assert list(ours) == ["ys", "x", "y"] and found == notes == []
    assert ours["x"] is feeds["x"] and ours["ys"] == F(0.1) and (ours["y"] == ends["y"]).all()
