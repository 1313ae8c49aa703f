"""The network in the field's runtimes: the forms that they read, their formulas, and the record."""

import json
from pathlib import Path

import numpy as np
import pytest

from qlinear import ort
from qlinear.errors import UnusableInput
from qlinear.inputs import load_samples
from qlinear.onnx_model import from_proto, load
from qlinear.tflite import reference, xnnpack
from qlinear.tflite.arithmetic import Type
from study import engines, formulas, quantize, runtimes
from study import runtime_networks as networks
from study.engines import ENGINES
from study.provenance import recorded
from study.qdq_writer import qdq

MODELS = Path(__file__).parent.parent / "models"
BOOK = MODELS / quantize.MIXED
RECORD = json.loads((MODELS / "runtimes.json").read_text())["network"]
SAMPLES = RECORD["samples"]
# sums of integers and an exact stage 2: the same on every processor of one kind
EXACT = ("onnxruntime", "onnxruntime-unoptimized", "onnxruntime-qdq-int8allowed", "litert",
         "litert-reference")  # fmt: skip
QUICK = (*EXACT, "onnxruntime-qdq", "litert-optimized", "openvino", "openvino-uint8")
INT8_ALLOWED = ort.Settings((ort.INT8_QDQ,), ort.Level.ORT_ENABLE_ALL)


@pytest.fixture(scope="module")
def model():
    return load(BOOK)


@pytest.fixture(scope="module")
def tensors(model):
    return ort.tensors(model, load_samples()[0].astype(np.float32))


# --- the QDQ form


@pytest.mark.parametrize("uint8", [False, True])
def test_the_qdq_form_is_the_same_network(model, tensors, uint8):
    names = [name for node in model.nodes for name in node.outputs]
    proto = qdq(model, outputs=names, uint8=uint8)
    settings = ort.DEFAULT if uint8 else INT8_ALLOWED
    found = ort.open_session(proto, settings).run(names, {"image": tensors["image"]})
    for name, y in zip(names, found, strict=True):
        y = (y.astype(np.int16) - 128).astype(np.int8) if y.dtype == np.uint8 else y
        assert y.dtype == tensors[name].dtype and (y == tensors[name]).all(), name


def test_the_qdq_form_has_the_files_own_integers(model):
    written = from_proto(qdq(model), "qdq")
    for name, value in model.constants.items():
        assert (written.constants[name] == value).all() and written.constants[
            name
        ].dtype == value.dtype
    new = {*written.constants} - {*model.constants}
    assert len(new) == 10 and all("_scale_of_" in name for name in new)  # the biases' scales
    assert qdq(model).SerializeToString() == qdq(model).SerializeToString()
    node = model.node("block2_conv1_quant")
    part = from_proto(qdq(model, [node], batch=3), "part")
    assert part.inputs == {"block1_add_out_quantized": (np.dtype(np.int8), (3, 16, 32, 32))}
    assert part.outputs == {"block2_conv1_out_quantized": (np.dtype(np.int8), (3, 32, 16, 16))}


def test_what_has_no_qdq_form_is_named(model):
    with pytest.raises(UnusableInput, match="node stem: Conv is not written; these are: QLin"):
        qdq(load(MODELS / "resnet8.onnx"))
    with pytest.raises(UnusableInput, match="no node of the part writes 'nothing'"):
        qdq(model, outputs=["nothing"])


# --- formulas


def stage_1(model, node, tensors):
    return formulas.FORMULAS[node.op_type][0](model, node, tensors)


def test_onnx_runtimes_formulas_are_its_own(model, tensors):
    names = formulas.names_of("onnxruntime")
    asked = [node for node in model.nodes if node.op_type in names]
    assert len(asked) == 15  # all but the first quantizer and the Flatten
    for node in asked:
        shared, y = stage_1(model, node, tensors), tensors[node.outputs[0]]
        assert not formulas.unlike(node.op_type, names[node.op_type], shared, y).any()
        # float32's bound holds of the exact chain, and of nothing that is one step off
        assert not formulas.unlike(node.op_type, formulas.FLOAT32, shared, y).any()
        inside = np.abs(y) < 100
        moved = formulas.unlike(node.op_type, formulas.FLOAT32, shared, (y + 1).astype(y.dtype))
        assert moved[inside].mean() > 0.95


def test_formulas_differ_where_they_should(model, tensors):
    node = model.node("block1_conv1_quant")
    shared, y = stage_1(model, node, tensors), tensors[node.outputs[0]]
    assert formulas.unlike("QLinearConv", "tflite", shared, y).sum() == 624
    assert formulas.unlike("QLinearConv", "onednn", shared, y).sum() == 0
    node = model.node("pool_quant")
    shared, y = stage_1(model, node, tensors), tensors[node.outputs[0]]
    assert formulas.unlike(node.op_type, "tflite", shared, y).sum() == 280
    assert formulas.unlike(node.op_type, "tflite-optimized", shared, y).sum() == 37
    node = model.node("block1_add_quant")
    shared, y = stage_1(model, node, tensors), tensors[node.outputs[0]]
    assert formulas.unlike(node.op_type, "wrapping", shared, y).mean() > 0.5


def test_the_additions_are_those_of_the_tflite_kernels(model):
    # on all pairs of inputs: the tensors of the record hold few of those that tell 20 bits from 21
    every = np.arange(-128, 128).astype(np.int8)
    a, b = np.repeat(every, 256), np.tile(every, 256)
    told = 0
    for node in model.of_type("QLinearAdd"):
        of = model.arguments(node)
        scales, zeros = ([of[f"{k}_{kind}"] for k in "ABC"] for kind in ("scale", "zero_point"))
        pair = formulas.Pair(a, b, tuple(scales), tuple(map(int, zeros)))
        types = [
            Type("int8", a.shape, np.atleast_1d(s), np.atleast_1d(np.int64(z)))
            for s, z in zip(scales, zeros, strict=True)
        ]
        for ours, theirs in (
            (formulas.add_xnnpack, xnnpack.add), (formulas.add_tflite, reference.add),
        ):  # fmt: skip
            y = theirs(a, b, types=tuple(types[:2]), y_type=types[2])["y"]
            assert (ours(pair) == y).all()
            told += int((y != formulas.add_onnxruntime(pair)).sum())
    assert told == 3  # XNNPACK's: 2, 0 and 1


def test_the_bound_is_that_of_a_tie():
    zero = np.zeros(1)
    for y, inside in ((2, True), (3, True), (1, False), (4, False)):  # of exactly 2 1/2
        found = formulas.within(zero + 2.5, zero + 2.5, 10, 0, np.array([y], np.int8))
        assert found.all() == inside
    assert not formulas.within(zero + 2.51, zero + 2.51, 10, 0, np.array([2], np.int8)).any()
    assert formulas.within(zero + 300, zero + 300, 10, 0, np.array([127], np.int8)).all()


def test_every_formula_that_a_runtime_is_said_to_have_exists():
    assert {*formulas.FOUND, *formulas.FUSED} <= {*ENGINES}
    for engine in ENGINES:
        for operator, name in formulas.names_of(engine).items():
            _, known, _ = formulas.FORMULAS[operator.replace("alone, 1x1", "QLinearConv")]
            assert name in {*known, formulas.FLOAT32, formulas.BFLOAT16}


# --- the record


def test_the_record_is_of_this_network_and_these_images(model):
    assert RECORD["tensors"] == networks.describe(model)
    images, labels = load_samples()
    for key, count in (("samples", 20), ("images", 1000)):
        source = RECORD[key]["recorded"]
        assert source["models"] == recorded("", [BOOK])["models"]
        assert source["data"]["images"] == RECORD[key]["images"] == count
        assert set(RECORD[key]["engines"]) == set(ENGINES) == set(RECORD["runtimes"])
    assert SAMPLES["recorded"]["data"] == recorded("", [], images, labels, note="sample images")[
        "data"
    ]  # fmt: skip


@pytest.mark.parametrize("section", ["samples", "images"])
def test_what_the_record_explains(section):
    """Every node of every runtime is its formula's, or within the bound of its roundings."""
    open_questions = {
        (engine, tensor)
        for engine, row in RECORD[section]["engines"].items()
        for key in ("alone_unlike", "with_outputs_unlike")
        for tensor, count in row.get(key, {}).items()
        if count
    }
    assert not open_questions
    for engine, row in RECORD[section]["engines"].items():
        assert all(unlike == 0 for _, _, unlike in row.get("residual", {}).values()), engine
        # a whole network that is equal is equal node by node
        if "with_outputs" in row and not any(v[0] for v in row["with_outputs"].values()):
            assert row["labels_changed"] == 0, engine


@pytest.mark.parametrize("name", QUICK)
def test_the_runtime_is_as_recorded(model, name):
    engine = ENGINES[name]
    if engine.absent():
        pytest.skip(f"{engine.absent()} is not installed")
    source = SAMPLES["recorded"]
    for package in engine.packages:
        if engines.version(package) != source["versions"][package]:
            pytest.skip(f"{package} is {engines.version(package)}, not the recorded one")
    if name in EXACT and not source["machine"].startswith(networks.machine().split()[0]):
        pytest.skip("another kind of processor than the recorded one")
    # others add floats in another order on other processors, saturate pairs, or make another graph
    alike = networks.flags() == source["flags"]
    if not alike and name not in EXACT:
        pytest.skip("its kernels are others on a processor with other extensions")
    made = networks.measure(model, *load_samples(), [engine], "sample images")
    but = {"seconds"} if alike else {"seconds", "kinds", "kinds_with_outputs"}
    row, kept = (
        {key: value for key, value in of["engines"][name].items() if key not in but}
        for of in (made, SAMPLES)
    )
    assert row == kept


# --- the command


def test_what_is_absent_is_said_and_what_is_there_is_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engines, "version", lambda name: "1" if name == "onnxruntime" else "")
    out = tmp_path / "out.json"
    runtimes.main(["--models", str(MODELS), "--out", str(out),
                   "--only", "onnxruntime,litert"])  # fmt: skip
    said = capsys.readouterr()
    assert "litert: not asked, ai-edge-litert is not installed" in said.err
    found = json.loads(out.read_text())["network"]
    assert list(found["samples"]["engines"]) == ["onnxruntime"] and "images" not in found
    row = found["samples"]["engines"]["onnxruntime"]
    assert not any(count for count, _ in row["with_outputs"].values())
    assert row["correct"] == SAMPLES["engines"]["onnxruntime"]["correct"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--only", "nothing"], "--only: no runtime 'nothing'; there are onnxruntime, "),
        (["--images", "0"], "--images is 0"),
        (["--models", "nowhere"], "nowhere"),
        (["--data-dir", "nowhere", "--only", "onnxruntime"], "nowhere"),
    ],
)
def test_bad_options_are_refused_first(tmp_path, given, message):
    out = tmp_path / "out.json"
    with pytest.raises(UnusableInput, match=message):
        runtimes.main(["--models", str(MODELS), "--out", str(out), *given])
    assert not out.exists()


def test_rows_of_other_images_are_not_put_together(tmp_path, model):
    images, labels = load_samples()
    first, second = (
        networks.measure(model, images[:n], labels[:n], [ENGINES["onnxruntime"]], "sample images")
        for n in (1, 2)
    )
    assert networks.merged(None, first) is first
    assert networks.merged(first, first)["engines"] == first["engines"]
    with pytest.raises(UnusableInput, match="another data"):
        networks.merged(first, second)
    other = json.loads(json.dumps(first))
    other["recorded"]["versions"]["numpy"] = "1.0"
    with pytest.raises(UnusableInput, match=r"another numpy \(1.0, now"):
        networks.merged(other, first)
    for text in ("not JSON", "[]", '{"network": 3}'):
        (tmp_path / "out.json").write_text(text)
        with pytest.raises(UnusableInput, match="not a JSON record of this script"):
            runtimes.main(["--models", str(MODELS), "--out", str(tmp_path / "out.json")])


def test_a_refusal_is_one_line():
    with engines.refusals() as said:
        raise RuntimeError("Exception from src/x.cpp:1:\nCheck 'y' failed\n\nno kernel\n")
    assert said == ["no kernel"]
    with engines.refusals() as said:
        raise RuntimeError("/tmp/a1/model.mlir:3:1: error: failed to legalize\nnote: see")
    assert said == ["model.mlir:3:1: error: failed to legalize"]
    with engines.refusals() as said:
        pass
    assert said == []


def test_the_last_batch_is_filled_up_and_not_counted(model):
    images, labels = load_samples()
    truth = networks.Truth(model, images[:3], labels[:3])
    assert [len(x) for x in truth.given] == [networks.BATCH] and len(truth.logits) == 3
    assert (truth.given[0][3:] == truth.given[0][0]).all() and truth.real(0) == slice(0, 3)


def test_iree_adds_the_bias_without_its_scale():
    """On small biases the formula that the network cannot tell apart is seen."""
    row = RECORD["biases"]["iree-qoperator"]
    assert row["unlike"] == 0 and row["biases"][0] == 0 == row["differ"][0]
    assert all(row["differ"][1:])
    assert RECORD["biases"]["onnxruntime"] == networks.bias_probe(ENGINES["onnxruntime"])
    assert not any(RECORD["biases"]["onnxruntime"]["differ"])
