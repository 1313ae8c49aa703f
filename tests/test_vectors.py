"""Golden vectors, file by file: their text, their sizes, their integers, on one small layer."""

import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from conftest import MODELS, needs
from onnx import TensorProto, helper

from qlinear import oracle, vectors
from qlinear.engine import computed
from qlinear.errors import UnusableInput
from qlinear.inputs import Feed, load_samples
from qlinear.onnx_model import Model, from_proto, load
from qlinear.operators import qlinear_conv as qc
from qlinear.ort import operator_model, tensors

import onnxruntime

F = np.float32
NAME = "a node/of a strange name*/"


def model_of(x_shape=(1, 4, 5, 6), kernel=(3, 2), **attributes) -> Model:
    """One layer in which no two sizes are alike, on ties, with saturation at both ends."""
    rng = np.random.default_rng(2)
    attributes = attributes or dict(group=2, pads=[1, 0, 1, 1], strides=[2, 1], dilations=[1, 2])
    inputs = dict(
        x=np.zeros(x_shape, np.int8), x_scale=F(1), x_zero_point=np.int8(-7),
        w=rng.integers(-128, 128, (6, x_shape[1] // attributes.get("group", 1), *kernel)),
        w_scale=F([1 / 32, 1 / 64, 2, 0.013, 0.0217, 1 / 128]),
        w_zero_point=np.zeros(6, np.int8), y_scale=F(1), y_zero_point=np.int8(3),
        B=rng.integers(-3000, 3000, 6).astype(np.int32),
    )  # fmt: skip
    inputs["w"] = inputs["w"].astype(np.int8)
    proto = operator_model("QLinearConv", inputs, **attributes)
    proto.graph.node[0].name = NAME
    y = helper.make_tensor_value_info("y", TensorProto.INT8, [None] * len(x_shape))
    proto.graph.output[0].CopyFrom(y)
    return from_proto(proto, "folder/small.onnx")


def images(model: Model, count: int) -> list[Feed]:
    rng = np.random.default_rng(1)
    (_, shape) = model.inputs["x"]
    return [
        Feed({"x": rng.integers(-128, 128, shape).astype(np.int8)}, f"image {i}")
        for i in range(count)
    ]


@pytest.fixture
def made(tmp_path):
    model, out = model_of(), tmp_path / "out"
    feeds = images(model, 2)
    network = oracle.settle(model, feeds[0].values)
    seen = []

    def progress(pairs):
        seen.extend(pairs)
        return iter(pairs)

    manifest = vectors.write(network, feeds, out, list(network.graph.nodes), progress)
    return network, feeds, out, manifest, seen


def layer_of(network) -> vectors.Layer:
    (node,) = network.graph.nodes
    conv = network.graph.conv(node)
    return vectors.Layer(node, conv, conv.geometry((1, 4, 5, 6)), "00_a")


def test_the_manifest(made):
    _, _, out, manifest, seen = made
    assert json.loads((out / "manifest.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(manifest)
    )
    lines = (out / "manifest.json").read_text().split("\n")  # a value a line, to be read
    assert lines[:2] == ["{", ' "version": 2,'] and lines[-2:] == ["}", ""]
    keys = "version model model_sha256 onnxruntime session images inputs layout packed format"
    assert list(manifest) == [*keys.split(), "layers", "tensors", "edges", "sha256"]
    assert manifest["model_sha256"] == hashlib.sha256(made[0].file.source).hexdigest()
    assert manifest["onnxruntime"] == onnxruntime.__version__
    assert manifest["session"] == str(made[0].settings)
    assert manifest["inputs"] == [{"source": f"image {i}", "row": 0} for i in range(2)]
    assert manifest["version"] == vectors.VERSION and list(manifest["format"]) == [
        *vectors.FORMAT,
        "images.h, images.vh",
    ]
    assert (manifest["model"], manifest["images"]) == ("small.onnx", 2)
    (layer,) = manifest["layers"]
    assert layer["name"] == NAME and layer["folder"] == "00_a_node_of_a_strange_name__"
    constants = ["w", "w_zero_point", "bias", "factor", "mantissa", "shift", "multiplier"]
    constants += ["right_shift"]
    arrays = ["x", "sums", "acc", "y"]
    assert layer["shapes"] == {
        "w": [6, 2, 3, 2], **{name: [6] for name in constants[1:]},
        "x": [1, 4, 5, 6], **{name: [1, 6, 3, 5] for name in arrays[1:]},
    }  # fmt: skip
    assert layer["dtypes"] == {
        "w": "int8", "w_zero_point": "int8", "bias": "int32", "factor": "uint32",
        "mantissa": "int32", "shift": "int32", "multiplier": "int32", "right_shift": "int32",
        "x": "int8", "sums": "int32", "acc": "int32", "y": "int8",
    }  # fmt: skip
    names = {f"{name}.hex" for name in constants} | {"layer.h", "layer.vh"}
    names |= {f"image0{i}_{name}.hex" for i in range(2) for name in arrays}
    names |= {"image00.npz", "image01.npz", "image01.h", "images.h", "images.vh"}
    assert set(manifest["sha256"]) == {f"{layer['folder']}/{name}" for name in names}
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    assert list(manifest["sha256"]) == sorted(manifest["sha256"])
    assert [index for index, _ in seen] == [0, 1] and {n.name for _, n in seen} == {NAME}


def test_the_sizes_of_a_layer(made):
    network, feeds, out, manifest, _ = made
    sizes = {
        "C_IN": 4, "H_IN": 5, "W_IN": 6, "C_OUT": 6, "H_OUT": 3, "W_OUT": 5, "GROUPS": 2,
        "K_H": 3, "K_W": 2, "STRIDE_H": 2, "STRIDE_W": 1, "DILATION_H": 1, "DILATION_W": 2,
        "PAD_TOP": 1, "PAD_LEFT": 0, "X_ZERO": -7, "Y_ZERO": 3, "Y_MIN": -128, "Y_MAX": 127,
        "X_SIGNED": 1, "W_SIGNED": 1,
    }  # fmt: skip
    (layer,) = manifest["layers"]
    assert layer["parameters"] == sizes
    lines = (out / layer["folder"] / "layer.vh").read_text().splitlines()
    assert lines == [f"`define {name} ({value})" for name, value in sizes.items()]
    # of other types
    of = layer_of(network)
    unsigned = replace(
        of.conv, x_zero_point=np.uint8(200), w=of.conv.w.astype(np.uint8), y_zero_point=np.uint8(9)
    )
    found = vectors.defines(replace(of, conv=unsigned), {"x": feeds[0].values["x"]})
    assert found == sizes | {
        "X_ZERO": 200, "Y_ZERO": 9, "Y_MIN": 0, "Y_MAX": 255, "X_SIGNED": 0, "W_SIGNED": 0
    }  # fmt: skip


def test_the_integers_are_those_of_the_two_stages(made):
    network, feeds, out, manifest, _ = made
    (node,) = network.graph.nodes
    conv, folder = network.graph.conv(node), out / manifest["layers"][0]["folder"]
    differs = 0
    for index, feed in enumerate(feeds):
        st = qc.stages(feed.values["x"], conv)
        arrays = np.load(folder / f"image{index:02d}.npz")
        wanted = {"x": feed.values["x"], "sums": st.sums, "acc": st.acc, "y": st.y}
        wanted |= {"w": conv.w, "bias": conv.bias, "w_zero_point": np.zeros(6, np.int8)}
        for name, value in wanted.items():
            assert arrays[name].dtype == value.dtype and (arrays[name] == value).all(), name
        assert set(arrays) == set(manifest["layers"][0]["shapes"])
        assert {-128, 127} <= set(np.unique(st.y))
        # the fixed-point form, in Python's integers
        multiplier, shift = arrays["multiplier"], arrays["right_shift"]
        for _, m, *at in np.argwhere(st.acc == st.acc):
            product = int(st.acc[0, m, *at]) * int(multiplier[m])
            fixed = (product + (1 << int(shift[m]) - 1) >> int(shift[m])) + 3
            differs += min(max(fixed, -128), 127) != st.y[0, m, *at]
    # half up instead of half to even: some ties differ, and all are counted
    assert manifest["layers"][0]["fixed_point_differs"] == differs > 0


def test_the_constants_of_a_factor(made):
    constants = layer_of(made[0]).constants()
    factor = constants["factor"].view(F)
    assert factor.tolist() == [*F([1 / 32, 1 / 64, 2, 0.013, 0.0217, 1 / 128])]
    for m in range(6):
        exact = Fraction(float(factor[m]))
        assert Fraction(int(constants["mantissa"][m]), 2 ** int(constants["shift"][m])) == exact
        assert 2**23 <= constants["mantissa"][m] < 2**24
        close = Fraction(int(constants["multiplier"][m]), 2 ** int(constants["right_shift"][m]))
        assert close == exact and 2**30 <= constants["multiplier"][m] < 2**31


@pytest.mark.parametrize("scale", [2.0**-60, 2.0**40])
def test_shifts_stay_within_what_hardware_has(made, scale):
    """Of factors so small that all is 0, and so great that all but 0 saturates."""
    of = layer_of(made[0])
    conv = qc.Conv(
        F(1), of.conv.x_zero_point, of.conv.w, F(scale), of.conv.w_zero_point, F(1),
        of.conv.y_zero_point, None,
    )  # fmt: skip
    constants = replace(of, conv=conv).constants()
    assert (constants["right_shift"] == (63 if scale < 1 else 1)).all()
    assert (constants["shift"] == (83 if scale < 1 else 0)).all()
    assert constants["bias"].tolist() == [0] * 6
    assert constants["w_zero_point"].shape == (6,)


# --- text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.int8([-1, 127, 0]), "ff\n7f\n00\n"),
        (np.uint8([[255], [16]]), "ff\n10\n"),
        (np.int32([-1, 2**31 - 1, 10]), "ffffffff\n7fffffff\n0000000a\n"),
        (np.uint32([0x3F800000]), "3f800000\n"),
        (np.int8([[1, 2], [3, 4]]).T, "01\n03\n02\n04\n"),  # the order of its shape, not memory
        (np.int8([]), ""),
    ],
)
def test_hex_text(values, text):
    assert "".join(vectors.hex_lines(values)) == text


def test_hex_text_comes_in_pieces():
    values = np.arange(65536 + 3, dtype=np.int32)
    pieces = list(vectors.hex_lines(values))
    assert [piece.count("\n") for piece in pieces] == [65536, 3]
    assert pieces[1] == "00010000\n00010001\n00010002\n"


def test_a_c_array():
    text = "".join(vectors.c_array("vec_b", np.int32([[5, -6], [-(2**31), 7]])))
    assert text == (
        "static const int32_t vec_b[4] = { /* (2, 2) */\n    5, -6, (-2147483647 - 1), 7,\n};\n\n"
    )
    for dtype, kind in ((np.int8, "int8_t"), (np.uint8, "uint8_t"), (np.uint32, "uint32_t")):
        text = "".join(vectors.c_array("v", np.arange(17).astype(dtype)))
        first, *rows = text.splitlines()
        assert first == f"static const {kind} v[17] = {{ /* (17,) */"
        assert rows[0] == "    " + ", ".join(map(str, range(16))) + "," and rows[1] == "    16,"
        assert rows[2:] == ["};", ""]


def test_the_c_header(made):
    _, _, out, manifest, _ = made
    folder = manifest["layers"][0]["folder"]
    text = (out / folder / "layer.h").read_text()
    guard = "QLINEAR_00_A_NODE_OF_A_STRANGE_NAME___H"
    assert text.startswith(
        "/* Golden vectors of a_node_of_a_strange_name__; made by: python -m qlinear vectors */\n"
        f"#ifndef {guard}\n#define {guard}\n#include <stdint.h>\n\n#define C_IN (4)\n"
    )
    assert text.endswith("};\n\n#endif\n") and "#define W_SIGNED (1)\n\nstatic const" in text
    arrays = re.findall(r"static const \w+ (\w+)\[(\d+)\]", text)
    shapes = manifest["layers"][0]["shapes"]
    assert arrays == [(f"vec_{k}", str(int(np.prod(v)))) for k, v in shapes.items()]
    assert "\r" not in text


def test_names_of_folders_sort_and_are_safe():
    assert vectors.folder_name(3, 17, "a.b/c") == "03_a_b_c"
    assert vectors.folder_name(3, 100, "x") == "03_x"  # the last of 100 is 99
    assert vectors.folder_name(3, 101, "x") == "003_x"
    assert vectors.folder_name(99, 1000, "x") == "099_x"
    assert vectors.folder_name(0, 1, "n" * 99) == "00_" + "n" * 60
    assert vectors.safe("Aé_z9 -") == "A__z9__"


# --- what is written, and what not


@pytest.mark.parametrize(
    ("inputs", "batches"),
    [
        ({"x": (F, ("N", 3))}, [1, 1, 1, 1, 1]),
        ({"x": (F, (None, 3))}, [1, 1, 1, 1, 1]),
        ({"x": (F, (2, 3))}, [2, 3]),  # the batch is the model's
        ({"x": (F, ())}, [2, 3]),
        ({"x": (F, ("N", 3)), "z": (F, ("N",))}, [2, 3]),
        ({}, [2, 3]),
    ],
)
def test_a_batch_is_run_image_by_image_where_it_may(inputs, batches):
    model = replace(model_of(), inputs=inputs)
    feeds = [Feed({"x": np.full((n, 3), n, F)}, f"batch of {n}") for n in (2, 3)]
    found = vectors.one_by_one(model, feeds)
    assert [len(feed.values["x"]) for feed in found] == batches
    if len(batches) == 5:
        assert [feed.source for feed in found] == ["batch of 2"] * 2 + ["batch of 3"] * 3
        assert [feed.values["x"].tolist() for feed in found[:3]] == [[[2] * 3]] * 2 + [[[3] * 3]]


def test_a_batch_is_split_in_its_order():
    x = np.arange(6, dtype=F).reshape(3, 2)
    model = replace(model_of(), inputs={"x": (F, ("N", 2))})
    found = vectors.one_by_one(model, [Feed({"x": x}, "x")])
    assert [feed.values["x"].tolist() for feed in found] == [[[0, 1]], [[2, 3]], [[4, 5]]]


def test_nothing_is_written_of_nothing(made, tmp_path):
    network, feeds, *_ = made
    for nodes, given in (([], feeds), (list(network.graph.nodes), [])):
        with pytest.raises(UnusableInput, match=r"small.onnx: no layer or no image to write vec"):
            vectors.write(network, given, tmp_path / "other", nodes)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_image_that_the_model_does_not_take_is_refused(made, tmp_path):
    network = made[0]
    wrong = [Feed({"x": np.zeros((1, 4, 5, 7), np.int8)}, "wrong")]
    with pytest.raises(UnusableInput, match=r"^folder/small.onnx: ONNX Runtime refuses it \("):
        vectors.write(network, wrong, tmp_path / "other", list(network.graph.nodes))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (model_of((2, 4, 5, 6)), "x holds 2 images; vectors are of one at a time"),
    ],
)
def test_a_layer_without_vectors_is_refused_and_nothing_is_left(model, message, tmp_path):
    feeds = images(model, 1)
    network = oracle.settle(model, feeds[0].values)
    wanted = f"folder/small.onnx: node {NAME}: {message}"
    with pytest.raises(UnusableInput, match=f"^{re.escape(wanted)}$"):
        vectors.write(network, feeds, tmp_path / "out", list(network.graph.nodes))
    assert not list(tmp_path.iterdir())


def test_a_layer_inside_a_network_has_the_tensors_around_it(tmp_path):
    model = load(MODELS / "resnet8_int8.onnx")
    x = load_samples()[0][:2].astype(F)
    feeds = [Feed({"image": x[i : i + 1]}, f"image {i}") for i in range(2)]
    network = oracle.settle(model, feeds[0].values)
    nodes = [network.node("block3_conv2_quant"), network.node("stem_quant")]
    manifest = vectors.write(network, feeds, tmp_path / "out", nodes)
    theirs = tensors(model, x)
    assert [layer["name"] for layer in manifest["layers"]] == [node.name for node in nodes]
    assert manifest["layers"][1]["folder"] == "01_stem_quant"
    for node, layer in zip(nodes, manifest["layers"], strict=True):
        for index in range(2):
            arrays = np.load(tmp_path / "out" / layer["folder"] / f"image{index:02d}.npz")
            assert (arrays["x"][0] == theirs[node.inputs[0]][index]).all()
            assert (arrays["y"][0] == theirs[node.outputs[0]][index]).all()


# --- any node, one to three axes, chained


def words(path, dtype, shape) -> np.ndarray:
    dtype = np.dtype(dtype)
    lines = path.read_text().split()
    assert {len(line) for line in lines} <= {2 * dtype.itemsize}
    return np.array([int(w, 16) for w in lines], f"u{dtype.itemsize}").view(dtype).reshape(shape)


@pytest.mark.parametrize(
    ("model", "more"),
    [
        (
            model_of((1, 4, 9), (3,), group=2, pads=[1, 2], strides=[2], dilations=[3]),
            {"H_IN": 1, "W_IN": 9, "K_H": 1, "K_W": 3, "STRIDE_H": 1, "STRIDE_W": 2, "PAD_TOP": 0,
             "PAD_LEFT": 1, "DILATION_H": 1, "DILATION_W": 3, "H_OUT": 1, "W_OUT": 3},
        ),
        (
            model_of((1, 4, 5, 6, 7), (2, 3, 1), pads=[1, 0, 0, 1, 1, 1], strides=[1, 2, 3]),
            {"D_IN": 5, "H_IN": 6, "W_IN": 7, "K_D": 2, "K_H": 3, "K_W": 1, "STRIDE_D": 1,
             "STRIDE_H": 2, "STRIDE_W": 3, "DILATION_D": 1, "PAD_FRONT": 1, "PAD_TOP": 0,
             "D_OUT": 6, "H_OUT": 3, "W_OUT": 3},
        ),
    ],
    ids=["1-D", "3-D"],
)  # fmt: skip
def test_convolutions_of_one_and_three_axes(model, more, tmp_path):
    feeds = images(model, 1)
    network = oracle.settle(model, feeds[0].values)
    (node,) = network.graph.nodes
    (layer,) = vectors.write(network, feeds, tmp_path / "out", [node])["layers"]
    assert layer["parameters"].items() >= more.items()
    st = qc.stages(feeds[0].values["x"], network.graph.conv(node))
    folder = tmp_path / "out" / layer["folder"]
    for name in ("sums", "acc", "y"):
        shape = layer["shapes"][name]
        read = words(folder / f"image00_{name}.hex", layer["dtypes"][name], shape)
        assert (read == getattr(st, name)).all()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Every node of the book's network on two images."""
    model = load(MODELS / "resnet8_int8.onnx")
    x, labels = load_samples()
    feeds = [Feed({"image": x[i : i + 1].astype(F)}, "two", (int(labels[i]),), i) for i in (0, 1)]
    network = oracle.settle(model, feeds[0].values)
    out = tmp_path_factory.mktemp("whole") / "out"
    options = vectors.Options(thresholds=True, corners=True, prefix=True)
    nodes = list(network.graph.nodes)
    return network, feeds, out, vectors.write(network, feeds, out, nodes, options=options)


def test_every_node_of_a_network_is_chained(whole):
    network, _, out, manifest = whole
    graph = network.graph
    layers = {layer["name"]: layer for layer in manifest["layers"]}
    assert list(layers) == [node.name for node in graph.nodes]
    tensors_of = {t["name"]: t for t in manifest["tensors"]}
    written = [name for node in graph.nodes for name in node.outputs]
    assert set(tensors_of) == {*written, *graph.inputs}
    # an edge: the same bytes on both of its ends
    inner = [edge for edge in manifest["edges"] if edge["from"]]
    assert len(manifest["edges"]) == 20 and len(inner) == 19
    assert [e["to"] for e in manifest["edges"] if not e["from"]] == ["image_QuantizeLinear"]
    for edge in inner:
        before, after = layers[edge["from"]], layers[edge["to"]]
        (key,) = [k for k, v in before["tensors"].items() if v == edge["tensor"]]
        for i in range(2):
            left = out / before["folder"] / f"image{i:02d}_{key}.hex"
            right = out / after["folder"] / f"image{i:02d}_{edge['input']}.hex"
            assert left.read_bytes() == right.read_bytes()
    assert manifest["inputs"] == [
        {"source": "two", "row": i, "labels": [int(load_samples()[1][i])]} for i in range(2)
    ]
    for tensor in manifest["tensors"]:
        assert tensor["name"] in graph.inputs or len(tensor["files"]) >= 1
        if tensor["dtype"] == "int8":  # all but the image and the logits
            assert tensor["scale"] > 0 and -128 <= tensor["zero_point"] <= 127
    (flat,) = graph.of_type("Flatten")  # it moves what it reads
    before, after = tensors_of[flat.inputs[0]], tensors_of[flat.outputs[0]]
    assert before["scale"] == after["scale"] and before["zero_point"] == after["zero_point"]


def test_what_is_written_of_any_node_is_enough_to_compute_it(whole):
    """Each node again, by the reference, from the files alone."""
    network, _, out, manifest = whole
    for node, layer in zip(network.graph.nodes, manifest["layers"], strict=True):
        folder = out / layer["folder"]
        arrays = np.load(folder / "image01.npz")
        fed = {name: arrays[key] for key, name in layer["tensors"].items()}
        fed = {k: v.view(F) if v.dtype == np.uint32 else v for k, v in fed.items()}
        given = {k: v for k, v in fed.items() if k not in node.outputs}
        (y,) = computed(network.graph, node, given).values()
        assert (y == fed[node.outputs[0]]).all()
        for key in layer["shapes"]:
            start = "image01_" if key in arrays and not (folder / f"{key}.hex").exists() else ""
            read = words(folder / f"{start}{key}.hex", layer["dtypes"][key], layer["shapes"][key])
            assert (read == arrays[key]).all()


def test_accumulators_of_any_node_lead_to_its_output(whole):
    _, _, out, manifest = whole
    requantized = [layer for layer in manifest["layers"] if "accumulator" in layer]
    assert len(requantized) == 11  # nine convolutions, the pooling, the dense layer
    for layer in requantized:
        v = np.load(out / layer["folder"] / "image00.npz")
        limits = layer["accumulator"]
        assert limits["limit"] == 2**24 and limits["below_limit"] is True
        assert limits["least"] <= v["acc"].min() and v["acc"].max() <= limits["greatest"]
        assert -(2 ** (limits["bits"] - 1)) <= limits["least"]
        zero = layer["quantization"]["y_zero_point"]
        factor = v["factor"].view(F).reshape(-1, *(1,) * (v["acc"].ndim - 2))
        y = np.rint(v["acc"].astype(F) * factor) + F(zero)
        assert (np.clip(y, -128, 127) == v["y"]).all()
        # the vectors beside the images
        for part in ("thresholds", "corners", "windows"):
            found = np.load(out / layer["folder"] / f"{part}.npz")
            scaled = found["acc"].astype(F) * v["factor"].view(F)[found["channel"]]
            assert (np.clip(np.rint(scaled) + F(zero), -128, 127) == found["y"]).all()
            assert found["acc"].min() == limits["least"]
            for key, array in found.items():
                path = out / layer["folder"] / f"{part}_{key}.hex"
                assert (words(path, array.dtype, array.shape) == array).all()


def test_an_add_is_written_with_its_constants(whole):
    _, _, out, manifest = whole
    for layer in manifest["layers"]:
        if layer["operator"] != "com.microsoft.QLinearAdd":
            continue
        v = np.load(out / layer["folder"] / "image00.npz")
        ra, rb, fixed = (v[name].view(F).astype(float) for name in ("ra", "rb", "fixed"))
        # float64 holds the products; that no sum is a tie of float32 is so of these
        inner = (rb * v["B"] + fixed).astype(F).astype(float)
        y = np.clip(np.rint((ra * v["A"] + inner).astype(F)), -128, 127)
        assert (y == v["y"]).all() and layer["parameters"]["SWAPPED"] == 0


def test_layers_and_images_go_together_in_c(whole, tmp_path):
    """Two layers and all their images in one program, by names that are the layers' own."""
    needs(shutil.which("cc") is not None, "a C compiler")
    _, _, out, manifest = whole
    stem, dense = manifest["layers"][1], manifest["layers"][-2]
    assert (stem["prefix"], dense["prefix"]) == ("L01_stem_quant_", "L15_dense_quant_")
    program = tmp_path / "both.c"
    program.write_text(
        f'#include <stdio.h>\n#include "{stem["folder"]}/images.h"\n'
        f'#include "{stem["folder"]}/thresholds.h"\n#include "{dense["folder"]}/images.h"\n'
        "int main(void) {\n long long sum = 0;\n"
        " for (int i = 0; i < L01_STEM_QUANT_IMAGES; i++)\n"
        "  for (int k = 0; k < L01_STEM_QUANT_C_OUT * L01_STEM_QUANT_H_OUT * 32; k++)\n"
        "   sum += L01_stem_quant_images_y[i][k];\n"
        ' printf("%lld %d %d\\n", sum, L15_dense_quant_images_y[1][0],\n'
        "  L01_stem_quant_thresholds_acc[0]);\n return 0;\n}\n"
    )
    flags = "-std=c99 -Wall -Wextra -Werror -pedantic -Wno-unused-const-variable".split()
    command = ["cc", *flags, "-I", str(out), str(program), "-o", str(tmp_path / "both")]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    said = subprocess.run([tmp_path / "both"], capture_output=True, text=True).stdout.split()
    arrays = [np.load(out / stem["folder"] / f"image{i:02d}.npz") for i in range(2)]
    last = np.load(out / dense["folder"] / "image01.npz")
    thresholds = np.load(out / stem["folder"] / "thresholds.npz")
    wanted = [sum(int(a["y"].sum(dtype=int)) for a in arrays), last["y"][0, 0]]
    assert list(map(int, said)) == [*wanted, thresholds["acc"][0]]


def test_two_layers_go_together_in_verilog(whole):
    _, _, out, manifest = whole
    names = [
        line.split()[1]
        for layer in manifest["layers"]
        for file in ("layer.vh", "images.vh")
        for line in (out / layer["folder"] / file).read_text().splitlines()
    ]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[A-Za-z_]\w*", name) for name in names)


def test_nhwc_and_packed_words(tmp_path):
    model = model_of()
    feeds = images(model, 1)
    network = oracle.settle(model, feeds[0].values)
    nodes = list(network.graph.nodes)
    plain, other = tmp_path / "plain", tmp_path / "other"
    vectors.write(network, feeds, plain, nodes)
    options = vectors.Options(layout="NHWC", packed=32, corners=True)
    manifest = vectors.write(network, feeds, other, nodes, options=options)
    (layer,) = manifest["layers"]
    a, b = (np.load(out / layer["folder"] / "image00.npz") for out in (plain, other))
    for key in a:
        moved = np.moveaxis(a[key], 1, -1) if a[key].ndim > 2 else a[key]
        assert list(moved.shape) == layer["shapes"][key] and (moved == b[key]).all()
        constant = (other / layer["folder"] / f"{key}.hex").exists()
        name = f"{'' if constant else 'image00_'}{key}_packed32.hex"
        lines = (other / layer["folder"] / name).read_text().split()
        assert {len(line) for line in lines} == {8}
        raw = b"".join(int(line, 16).to_bytes(4, "little") for line in lines)
        assert raw[: moved.nbytes] == moved.tobytes() and not any(raw[moved.nbytes :])
        assert len(raw) - moved.nbytes < 4
    assert {"packed", "NHWC", "windows"} <= set(manifest["format"])
    windows = np.load(other / layer["folder"] / "windows.npz")
    assert windows["x"].shape == (12, 3, 2, 2)


def test_a_word_holds_whole_elements():
    with pytest.raises(UnusableInput, match="words of 16 bits hold no whole number of elements"):
        list(vectors.packed_lines(np.int32([1]), 16))
    assert list(vectors.packed_lines(np.int8([-1, 2, 3]), 16)) == ["02ff\n", "0003\n"]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (np.array([True, False]), np.uint8([1, 0])),
        (F([1.0, -2.0]), np.uint32([0x3F800000, 0xC0000000])),
        (np.float64(1), np.uint64(0x3FF0000000000000)),
        (np.int64([-1]), np.int64([-1])),
        (np.array([-8, 7]).astype(ml_dtypes.int4), np.int8([-8, 7])),
        (np.array([15]).astype(ml_dtypes.uint4), np.uint8([15])),
        (np.array([1]).astype(ml_dtypes.bfloat16), np.uint16([0x3F80])),
    ],
)
def test_any_array_as_integers(value, wanted):
    found = vectors._integers(value, "x")
    assert found.dtype == wanted.dtype and found.shape == wanted.shape and (found == wanted).all()


def test_what_is_no_array_of_numbers_is_refused():
    for value in ([np.zeros(1)], np.array(["a"], object)):
        with pytest.raises(UnusableInput, match=r"^x (is no array|has type object): no vectors"):
            vectors._integers(value, "x")


def test_c_has_wide_integers_too():
    text = "".join(vectors.c_array("v", np.int64([-(2**63), 2**62, -1])))
    assert "int64_t v[3]" in text
    assert "    (-9223372036854775807LL - 1), 4611686018427387904LL, -1LL,\n" in text
