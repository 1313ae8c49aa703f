"""python -m qlinear: what it prints, writes and refuses."""

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from conftest import MODELS, ROOT, quantizes
from onnx import TensorProto, helper, numpy_helper

from qlinear import cli, vectors
from qlinear.engine import run
from qlinear.fuse import fuse
from qlinear.inputs import load_samples
from qlinear.onnx_model import load, with_constants
from qlinear.ort import operator_model
from study import quantize

from onnxruntime.quantization import QuantFormat

BOOK = MODELS / "resnet8_int8.onnx"


def qlinear(*args):
    command = [sys.executable, "-m", "qlinear", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def refused(*args) -> str:
    done = qlinear(*args)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_inspect_lists_every_node():
    found = json.loads(qlinear("inspect", BOOK, "--json").stdout)["nodes"]
    assert len(found) == 17
    stem = next(row for row in found if row["node"] == "stem_quant")
    assert "int8 16x3x3x3" in stem["inputs"] and stem["quantization"] == "per-channel"
    assert 16 < stem["bits"] < 24
    assert "stem_quant" in qlinear("inspect", BOOK).stdout


def test_validate_checks_nodes_and_graph():
    done = qlinear("validate", BOOK)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[-1] == "PASS: 2358160 elements of 17 tensors equal, for these inputs"
    assert lines[-2].startswith("recomputed: 17 of 17 quantized nodes, 10 of 10 multiply-")
    found = json.loads(qlinear("validate", BOOK, "--node", "dense_quant", "--json").stdout)
    assert found["verdict"] == "PASS" and len(found["tensors"]) == 1


def test_explain_ends_at_onnxruntimes_value():
    done = qlinear("explain", BOOK, "--node", "stem_quant", "--pixel", "3,4", "--channel", "2")
    assert done.returncode == 0 and "(equal)" in done.stdout
    marked = qlinear("explain", BOOK, "--markdown").stdout
    assert marked.startswith("## stem_quant") and marked.count("```") % 2 == 0
    assert "channel 99" in refused("explain", BOOK, "--channel", 99)
    assert "--at 0,10 is not in it" in refused(
        "explain", BOOK, "--node", "dense_quant", "--at=0,10"
    )
    assert "--at 0 is not in it" in refused("explain", BOOK, "--node", "dense_quant", "--at", 0)


def test_explain_of_every_node_of_the_book(capsys, model):
    for node in model.nodes:
        assert cli.main(["explain", str(BOOK), "--node", node.name]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"{node.name}: ") and said.endswith(" (equal)\n")
        assert said.count("(equal)") == 1 and "DIFFERENT" not in said


def test_explain_at_an_index_is_explain_of_a_pixel(capsys):
    said = []
    for where in (["--at", "0,5,10,12"], ["--pixel", "10,12", "--channel", "5"]):
        assert cli.main(["explain", str(BOOK), "--node", "block1_conv2_quant", *where]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and "output channel 5, position (10, 12)" in said[0]


def test_vectors_are_described_and_checksummed(written):
    manifest = json.loads((written / "manifest.json").read_text())
    assert len(manifest["layers"]) == 9 and manifest["images"] == 2
    files = {str(p.relative_to(written)) for p in written.rglob("*") if p.is_file()}
    assert files == {*manifest["sha256"], "manifest.json"}
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((written / name).read_bytes()).hexdigest() == digest
    assert not list(written.parent.glob(".vectors-*"))


def test_vectors_are_the_models_integers(written, model):
    x = load_samples()[0][:2].astype(np.float32)
    values = run(model, x)
    for layer in json.loads((written / "manifest.json").read_text())["layers"]:
        node = model.node(layer["name"])
        for index in range(2):
            folder = written / layer["folder"]
            arrays = np.load(folder / f"image{index:02d}.npz")
            assert (arrays["x"][0] == values[node.inputs[0]][index]).all()
            assert (arrays["y"][0] == values[node.outputs[0]][index]).all()
            bias = arrays["bias"][:, None, None]
            assert (arrays["acc"] == arrays["sums"] + bias).all()
            for name in ("x", "sums", "acc", "y"):
                words = (folder / f"image{index:02d}_{name}.hex").read_text().split()
                size = arrays[name].dtype.itemsize
                assert {len(w) for w in words} == {2 * size}
                read = np.array([int(w, 16) for w in words], f"u{size}").view(arrays[name].dtype)
                assert (read == arrays[name].ravel()).all()


def test_vectors_are_the_same_bytes_again(written, tmp_path):
    again = tmp_path / "again"
    assert qlinear("vectors", BOOK, "--out", again, "--images", 2).returncode == 0
    assert (again / "manifest.json").read_bytes() == (written / "manifest.json").read_bytes()


def test_vectors_never_overwrite(written):
    assert "not an empty folder" in refused("vectors", BOOK, "--out", written)


def test_node_names_do_not_leave_the_folder(tmp_path, model):
    assert vectors.folder_name(3, 17, "../../etc/passwd") == "03_______etc_passwd"
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    proto.graph.node[1].name = "../../outside"
    path = tmp_path / "evil.onnx"
    onnx.save(proto, path)
    assert (
        qlinear("vectors", path, "--node", "../../outside", "--out", tmp_path / "v").returncode == 0
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.onnx", "v"]


# --- foreign models


@quantizes
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_qdq_model_is_read_as_its_integer_network(tmp_path, per_channel):
    path = tmp_path / "qdq.onnx"
    onnx.save(
        quantize.quantize(
            MODELS / "resnet8.onnx", MODELS / "calibration.json",
            per_channel=per_channel, quant_format=QuantFormat.QDQ,
        ), path,
    )  # fmt: skip
    done = qlinear("validate", path)
    assert done.returncode == 0 and "10 of 10 multiply-accumulate nodes" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("PASS: 2358160 elements of 17 tensors equal")
    twin = load(MODELS / (quantize.PER_CHANNEL if per_channel else quantize.PER_TENSOR))
    x = load_samples()[0].astype(np.float32)
    network = fuse(load(path))
    assert (run(network.graph, x)["logits"] == run(twin, x)["logits"]).all()


def conv_model(path, x_shape, w_shape, **attributes):
    rng = np.random.default_rng(0)
    zero = np.int8(0)
    inputs = dict(
        x=np.zeros(x_shape, np.int8), x_scale=np.float32(0.1), x_zero_point=np.int8(3),
        w=rng.integers(-127, 128, w_shape).astype(np.int8), w_scale=np.float32(0.01),
        w_zero_point=zero, y_scale=np.float32(0.2), y_zero_point=np.int8(-5),
    )  # fmt: skip
    proto = operator_model("QLinearConv", inputs, **attributes)
    shape = [None] * len(x_shape)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.INT8, shape))
    onnx.save(proto, path)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "attributes"),
    [
        ((1, 4, 30), (6, 4, 5), dict(pads=[2, 1], strides=[2])),
        ((1, 2, 6, 7, 5), (4, 2, 3, 3, 3), dict(dilations=[1, 2, 1])),
        ((1, 8, 9, 9), (8, 1, 3, 3), dict(group=8, pads=[1, 1, 1, 1])),
        ((1, 8, 9, 9), (12, 4, 3, 3), dict(group=2)),
    ],
    ids=["1-D", "3-D", "depthwise", "grouped"],
)
def test_other_geometries(tmp_path, x_shape, w_shape, attributes):
    path = tmp_path / "model.onnx"
    conv_model(path, x_shape, w_shape, **attributes)
    assert qlinear("validate", path).returncode == 0
    done = qlinear("explain", path, "--channel", 1)
    assert done.returncode == 0 and "(equal)" in done.stdout


def chain(length: int) -> onnx.ModelProto:
    """Several hundred QLinearConv nodes in a row."""
    rng = np.random.default_rng(0)
    names = ["x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"]
    values = [np.float32(0.1), np.int8(0), rng.integers(-9, 9, (4, 4, 1, 1)).astype(np.int8),
              np.float32(0.1), np.int8(0), np.float32(0.1), np.int8(1)]  # fmt: skip
    nodes = [
        helper.make_node("QLinearConv", [f"t{i}", *names], [f"t{i + 1}"], f"conv{i}")
        for i in range(length)
    ]
    graph = helper.make_graph(
        nodes, "chain",
        [helper.make_tensor_value_info("t0", TensorProto.INT8, [1, 4, 5, 5])],
        [helper.make_tensor_value_info(f"t{length}", TensorProto.INT8, [1, 4, 5, 5])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in zip(names, values, strict=True)],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_a_model_of_several_hundred_nodes(tmp_path):
    path = tmp_path / "chain.onnx"
    onnx.save(chain(400), path)
    done = qlinear("validate", path)
    assert done.returncode == 0 and "PASS" in done.stdout


def test_weights_beside_the_model_are_read_and_never_outside(tmp_path, model):
    inside = tmp_path / "inside"
    inside.mkdir()
    path = inside / "model.onnx"
    copy = with_constants(model, {})  # saving with external data empties the model that is saved
    onnx.save(copy, path, save_as_external_data=True, location="w.bin", size_threshold=100)
    assert (inside / "w.bin").exists() and qlinear("validate", path).returncode == 0
    shutil.move(inside / "w.bin", tmp_path / "w.bin")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../w.bin"
    path.write_bytes(proto.SerializeToString())
    assert "model.onnx" in refused("validate", path)


# --- bad input


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (1, np.float32(0), "_scale is [0.]"),
        (4, np.float32(-1), "w_scale is"),
        (4, np.float32(np.nan), "w_scale is"),
        (6, np.float32(np.inf), "y_scale is"),
        (2, np.uint8(0), "x_zero_point has type uint8"),
        (4, np.ones(5, np.float32), "w_scale has shape"),
        (8, np.zeros(5, np.int32), "B has type int32, shape"),
    ],
)
def test_bad_constants_are_named(tmp_path, model, index, value, message):
    node = model.node("block1_conv2_quant")
    path = tmp_path / "bad.onnx"
    onnx.save(with_constants(model, {node.inputs[index]: value}), path)
    commands = [["validate"], ["vectors", "--out", tmp_path / "v"]]
    if index != 2:  # without running the model, x_zero_point is all that inspect knows of x's type
        commands.append(["inspect"])
    for command in commands:
        done = qlinear(command[0], path, *command[1:])
        assert done.returncode == 2 and not done.stdout
        assert "Traceback" not in done.stderr and str(path) in done.stderr
        # ONNX Runtime itself refuses some of these first
        assert message in done.stderr or "ONNX Runtime refuses" in done.stderr
    assert not (tmp_path / "v").exists()


def changed(proto, change):
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    change(copy)
    return copy.SerializeToString()


def drop_weight(proto):
    kept = [t for t in proto.graph.initializer if t.name != "block1_conv2_w_quantized"]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)


def make_cycle(proto):
    proto.graph.node[1].input[0] = proto.graph.node[5].output[0]


def wrong_opset(proto):
    next(o for o in proto.opset_import if o.domain == "").version = 9999


def enormous(proto):
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_value = dims[3].dim_value = 2**30


def huge_weight(proto):
    tensor = next(t for t in proto.graph.initializer if t.name == "stem_w_quantized")
    tensor.dims[0] = 2**40


def dynamic(proto):
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"


def same_names(proto):
    proto.graph.node[2].name = proto.graph.node[1].name


@pytest.mark.parametrize(
    "change",
    [drop_weight, make_cycle, wrong_opset, enormous, huge_weight, dynamic, same_names],
    ids=lambda f: f.__name__,
)
def test_broken_models_get_one_line(tmp_path, model, change):
    path = tmp_path / "broken.onnx"
    path.write_bytes(changed(model.proto, change))
    assert "broken.onnx" in refused("validate", path)
    assert "broken.onnx" in refused("vectors", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".vectors-*"))


@pytest.mark.parametrize("size", [0, 1, 100, 5000, 60_000])
def test_truncated_models_get_one_line(tmp_path, size):
    path = tmp_path / "short.onnx"
    path.write_bytes(BOOK.read_bytes()[:size])
    for command in ("inspect", "validate"):
        assert "short.onnx" in refused(command, path)


def test_help_has_examples():
    done = qlinear("--help")
    assert done.returncode == 0 and "qlinear explain MODEL.onnx" in done.stdout
    assert qlinear("vectors", BOOK).returncode == 2  # --out is missing


def test_help_of_what_compares_nothing_promises_no_verdict():
    said = qlinear("multipliers", "--help").stdout
    assert "exit statuses:" in said and "FAIL" not in said and "PARTIAL" not in said
