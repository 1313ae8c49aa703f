"""The LiteRT file of a quantized network: the same integers, by the same names."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from qlinear import ort
from qlinear.errors import UnusableInput
from qlinear.inputs import load_samples
from qlinear.onnx_model import from_proto, load
from study import quantize, tflite_writer
from study.tflite_writer import channels_first, channels_last, same_pads, tflite

MODELS = Path(__file__).parent.parent / "models"
needs_litert = pytest.mark.skipif(
    tflite_writer.schema is None, reason="ai-edge-litert is not installed"
)


def run(data: bytes, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """LiteRT's outputs by name, of its default kernels."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    for given in interpreter.get_input_details():
        interpreter.set_tensor(given["index"], channels_last(feeds[given["name"]]))
    interpreter.invoke()
    outputs = interpreter.get_output_details()
    return {o["name"]: channels_first(interpreter.get_tensor(o["index"])) for o in outputs}


def read(data: bytes):
    """The file as its schema's objects, and the names of its operators."""
    model = tflite_writer.schema.ModelT.InitFromObj(
        tflite_writer.schema.Model.GetRootAs(bytearray(data))
    )
    codes = tflite_writer.schema.BuiltinOperator
    names = {value: name for name, value in vars(codes).items() if isinstance(value, int)}
    kinds = [names[code.builtinCode] for code in model.operatorCodes]
    return model, [kinds[op.opcodeIndex] for op in model.subgraphs[0].operators]


def conv_model(*, x_shape=(2, 4, 9, 8), w_shape=(6, 4, 3, 3), kind=np.int8, w_zero=0, **attributes):
    """One QLinearConv with random constants, and its input."""
    rng = np.random.default_rng(3)
    inputs = {
        "x": rng.integers(-128, 128, x_shape).astype(np.int8).view(kind),
        "x_scale": np.float32(0.02),
        "x_zero_point": np.array(7, kind),
        "w": rng.integers(-127, 128, w_shape).astype(np.int8),
        "w_scale": rng.uniform(0.001, 0.01, w_shape[0]).astype(np.float32),
        "w_zero_point": np.full(w_shape[0], w_zero, np.int8),
        "y_scale": np.float32(0.05),
        "y_zero_point": np.array(3, kind),
        "B": rng.integers(-999, 999, w_shape[0]).astype(np.int32),
    }
    model = ort.operator_model("QLinearConv", inputs, **attributes)
    return from_proto(model), inputs["x"]


@needs_litert
@pytest.mark.parametrize("name", [quantize.MIXED, quantize.MOBILE_PER_CHANNEL])
def test_every_tensor_is_onnx_runtimes(name):
    model = load(MODELS / name)
    pixels = load_samples()[0][:2].astype(np.float32)
    expected = ort.tensors(model, pixels)
    names = [name for node in model.nodes for name in node.outputs]
    found = run(tflite(model, outputs=names, batch=2), {"image": pixels})
    assert list(found) == names
    for tensor, y in found.items():
        assert y.dtype == expected[tensor].dtype and (y == expected[tensor]).all(), tensor
    (last,) = run(tflite(model, batch=2), {"image": pixels}).items()
    assert last[0] == "logits" and (last[1] == expected["logits"]).all()


@needs_litert
def test_the_integers_are_the_files_own():
    model = load(MODELS / quantize.MIXED)
    written = tflite(model)
    assert written == tflite(model)
    file, kinds = read(written)
    assert Counter(kinds) == {"QUANTIZE": 1, "CONV_2D": 9, "ADD": 3, "MEAN": 1, "RESHAPE": 1,
                              "FULLY_CONNECTED": 1, "DEQUANTIZE": 1}  # fmt: skip
    by_name = {tensor.name.decode(): tensor for tensor in file.subgraphs[0].tensors}
    new = {*by_name} - {*model.inputs, *model.constants}
    new -= {name for node in model.nodes for name in node.outputs}
    assert new == {"spatial_axes", "flatten_shape"}
    for node in quantize.layers(model):
        conv = quantize.layer(model, node)
        w = by_name[quantize.name_of(model, node, "w")]
        stored = file.buffers[w.buffer].data.tobytes()
        stored = np.frombuffer(stored, np.int8).reshape(w.shape)
        if stored.ndim == 4:
            stored = np.moveaxis(stored, -1, 1)
        assert (stored.reshape(conv.w.shape) == conv.w).all()
        assert (np.array(w.quantization.scale, np.float32) == conv.w_scale.ravel()).all()
        bias = by_name[quantize.name_of(model, node, "bias")]
        stored = np.frombuffer(file.buffers[bias.buffer].data.tobytes(), np.int32)
        assert (stored == conv.B).all()
    # its own zero points, and one scale for each activation
    of = by_name["block1_add_out_quantized"].quantization
    node = model.node("block1_add_quant")
    assert np.float32(of.scale[0]) == model.arguments(node)["C_scale"]
    assert of.zeroPoint[0] == model.arguments(node)["C_zero_point"]


@needs_litert
@pytest.mark.parametrize(
    ("attributes", "kinds"),
    [
        ({"pads": [1, 1, 1, 1]}, ["CONV_2D"]),
        ({"pads": [1, 0, 1, 1], "strides": [2, 2]}, ["CONV_2D"]),  # SAME of 9 and of 8
        ({"pads": [1, 1, 1, 1], "strides": [2, 2]}, ["PAD", "CONV_2D"]),
        ({"pads": [2, 0, 1, 3]}, ["PAD", "CONV_2D"]),
        ({"dilations": [2, 2], "pads": [2, 2, 2, 2]}, ["CONV_2D"]),
        ({}, ["CONV_2D"]),
        ({"w_shape": (4, 1, 3, 3), "group": 4, "pads": [1, 1, 1, 1]}, ["DEPTHWISE_CONV_2D"]),
        ({"w_shape": (8, 1, 3, 3), "group": 4, "strides": [2, 1]}, ["DEPTHWISE_CONV_2D"]),
    ],
)
def test_pads_and_groups_are_written(attributes, kinds):
    model, x = conv_model(**attributes)
    written = tflite(model)
    assert read(written)[1] == kinds
    expected = ort.open_session(model.source).run(None, {"x": x})[0]
    assert (run(written, {"x": x})["y"] == expected).all()


@needs_litert
def test_one_node_alone_reads_its_tensors():
    model = load(MODELS / quantize.MIXED)
    rng = np.random.default_rng(5)
    shape = (1, 16, 32, 32)
    node = model.node("block1_add_quant")
    feeds = {name: rng.integers(-128, 128, shape).astype(np.int8)
             for name in ("block1_conv2_out_quantized", "stem_out_quantized")}  # fmt: skip
    file, kinds = read(tflite(model, [node]))
    assert kinds == ["ADD"] and len(file.subgraphs[0].inputs) == 2
    y = run(tflite(model, [node]), feeds)["block1_add_out_quantized"]
    expected = ort.borrower(model)(node, feeds)["block1_add_out_quantized"]
    # XNNPACK's fixed point differs from ONNX Runtime in 2 of this add's 65,536 pairs
    assert np.abs(y.astype(int) - expected).max() <= 1 and (y != expected).sum() < 10


def test_what_same_adds():
    assert same_pads(32, 3, 2) == (0, 1)  # as the book's pads of stride 2
    assert same_pads(32, 3, 1) == (1, 1)
    assert same_pads(9, 3, 2) == (1, 1)
    assert same_pads(32, 1, 2) == (0, 0)


@needs_litert
@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"kind": np.uint8}, "node: x is uint8: int8 needed"),
        ({"w_zero": 1}, "node: w has the zero point 1: 0 needed"),
        ({"w_shape": (6, 2, 3, 3), "group": 2}, "node: 2 groups"),
        ({"auto_pad": "SAME_UPPER"}, "node: auto_pad is set"),
        ({"x_shape": (2, 4, 9), "w_shape": (6, 4, 3)}, "two spatial axes"),
    ],
)
def test_what_is_not_written_is_named(attributes, message):
    model, _ = conv_model(**attributes)
    with pytest.raises(UnusableInput, match=message):
        tflite(model)


@needs_litert
def test_other_operators_and_unknown_tensors_are_named():
    with pytest.raises(UnusableInput, match=r"node stem: Conv is not written; these are: Quant"):
        tflite(load(MODELS / "resnet8.onnx"))
    with pytest.raises(UnusableInput, match="uint8: int8 needed"):
        tflite(load(MODELS / quantize.UINT8))
    with pytest.raises(UnusableInput, match="no node of the part writes 'nothing'"):
        tflite(load(MODELS / quantize.MIXED), outputs=["nothing"])


def test_an_absent_package_is_named(monkeypatch):
    monkeypatch.setattr(tflite_writer, "schema", None)
    with pytest.raises(UnusableInput, match="python -m pip install ai-edge-litert"):
        tflite(load(MODELS / quantize.MIXED))
