"""Make the book's INT8 models with ONNX Runtime's quantizer, and measure what each layer loses."""

import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from tqdm import tqdm

from qlinear.errors import UnusableInput
from qlinear.files import check_file, whole_file, write_text
from qlinear.onnx_model import Model, Node, from_proto, load
from qlinear.operators.qgemm import as_conv
from qlinear.operators.qlinear_conv import Conv
from qlinear.ort import run_node, tensors
from study import equalize
from study.cifar10 import load_cifar10
from study.provenance import recorded

from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

PER_TENSOR, PER_CHANNEL = (
    "resnet8_int8_per_tensor.onnx",
    "resnet8_int8_per_channel.onnx",
)
UINT8, MIXED = "resnet8_uint8.onnx", "resnet8_int8.onnx"
MOBILE_PER_TENSOR, MOBILE_PER_CHANNEL, MOBILE_EQUALIZED = (
    "mobilenet_int8_per_tensor.onnx",
    "mobilenet_int8_per_channel.onnx",
    "mobilenet_int8_equalized.onnx",
)
MOBILE_RANGES, MOBILE_EQUALIZED_RANGES = (
    "mobilenet_calibration.json",
    "mobilenet_equalized_calibration.json",
)
LAYER_TYPES = ("QLinearConv", "QGemm")
# a convolution's and a dense layer's names for the same things
NAMES = {
    "QLinearConv": dict(x_scale="x_scale", w="w", w_scale="w_scale", w_zero_point="w_zero_point",
                        bias="B"),
    "QGemm": dict(x_scale="a_scale", w="B", w_scale="b_scale", w_zero_point="b_zero_point",
                  bias="C"),
}  # fmt: skip
SEED, IMAGES = 0, 1000  # of the calibration
GAIN_DB = 1.0  # a layer is per-channel where that gains at least so much


@dataclass(frozen=True)
class LayerNoise:
    """Signal-to-quantization-noise ratio of one layer's output, in dB, under both schemes."""

    layer: str
    per_tensor_db: float
    per_channel_db: float

    @property
    def gain_db(self) -> float:
        return self.per_channel_db - self.per_tensor_db

    @property
    def per_channel(self) -> bool:
        return self.gain_db >= GAIN_DB


def _without_advice(record: logging.LogRecord) -> bool:
    return "Please use QuantFormat.QDQ" not in record.getMessage()


class Images(CalibrationDataReader):
    """Feeds images (uint8, N x 3 x 32 x 32) to the calibrator in batches, as float32 pixels."""

    def __init__(self, name: str, images: np.ndarray, batch: int = 50):
        bar = tqdm(range(0, len(images), batch), "calibrating", unit="batch")
        self.feeds: Iterator = ({name: images[i : i + batch].astype(np.float32)} for i in bar)

    def get_next(self) -> dict | None:
        return next(self.feeds, None)


def stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of ``count`` images, equally many of each class, in random order."""
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    each = count // len(classes)
    picks = [rng.choice(np.flatnonzero(labels == c), each, replace=False) for c in classes]
    return rng.permutation(np.concatenate(picks))


def quantize(
    float_path: Path,
    ranges: Path,
    *,
    per_channel: bool = False,
    activation_type: QuantType = QuantType.QInt8,
    quant_format: QuantFormat = QuantFormat.QOperator,
    reader: CalibrationDataReader | None = None,
) -> onnx.ModelProto:
    """ONNX Runtime's ``quant_pre_process`` and ``quantize_static``, with int8 weights.

    Args:
        float_path: the float model.
        ranges: JSON file of each tensor's range; read if it exists, else made from ``reader``.
    """
    # its advice to prefer the QDQ form for speed; the book is about the QOperator form
    logging.getLogger().addFilter(_without_advice)
    with tempfile.TemporaryDirectory() as folder:
        prepared, out = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        quant_pre_process(str(float_path), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            prepared,
            out,
            reader,
            quant_format=quant_format,
            per_channel=per_channel,
            activation_type=activation_type,
            weight_type=QuantType.QInt8,
            calibration_cache_path=ranges,
        )
        return onnx.load(out)


def layers(model: Model) -> list[Node]:
    """The nodes that have weights, in the order of the graph."""
    return [node for node in model.nodes if node.op_type in LAYER_TYPES]


def layer(model: Model, node: Node) -> Conv:
    """A layer's record; a dense one as the 1x1 convolution that it is."""
    if node.op_type == "QGemm":
        return as_conv(**model.arguments(node), **node.attributes)
    return model.conv(node)


def name_of(model: Model, node: Node, what: str) -> str:
    """The constant behind x_scale, w, w_scale, w_zero_point or bias of a layer."""
    return model.name_of(node, NAMES[node.op_type][what])


def _dequantize(q: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    return (q.astype(np.float64) - float(zero_point)) * float(scale)


def float_name(float_model: Model, quantized: str) -> str:
    """The float tensor that a quantized one stands for: after the ReLU, or the Clip that a ReLU6
    is, that it absorbed, if any."""
    name = quantized.removesuffix("_quantized")
    absorbed = [*float_model.of_type("Relu"), *float_model.of_type("Clip")]
    return next((node.outputs[0] for node in absorbed if node.inputs[0] == name), name)


def layer_noise(
    float_model: Model, per_tensor: Model, per_channel: Model, images: np.ndarray
) -> list[LayerNoise]:
    """Measure each layer alone: its float input quantized, run in INT8, compared with float.

    The ratio is 10 log10(sum of y**2 / sum of (y - dequantized y)**2) over all images and elements
    of the layer's output y, after its ReLU where it has one.

    Args:
        images: uint8 (N, 3, H, W).
    """
    reference = tensors(float_model, images.astype(np.float32))
    found = []
    for node, other in zip(layers(per_tensor), layers(per_channel), strict=True):
        y = reference[float_name(float_model, node.outputs[0])].astype(np.float64)
        x = reference[float_name(float_model, node.inputs[0])]
        of_x = layer(per_tensor, node)
        x_scale, x_zero = of_x.x_scale, of_x.x_zero_point
        info = np.iinfo(x_zero.dtype)
        x_int = np.clip(np.rint(x / x_scale) + float(x_zero), info.min, info.max)
        ratios = []
        for model, each in ((per_tensor, node), (per_channel, other)):
            y_int = run_node(model, each.name, x_int.astype(x_zero.dtype))
            constants = layer(model, each)
            noise = y - _dequantize(y_int, constants.y_scale, constants.y_zero_point)
            ratios.append(float(10 * np.log10((y**2).sum() / (noise**2).sum())))
        found.append(LayerNoise(node.name, *ratios))
    return found


def mix(per_tensor: Model, per_channel: Model, chosen: set[str]) -> onnx.ModelProto:
    """The per-tensor model with the layers named in ``chosen`` taken from the per-channel one.

    Both have the same graph and the same activation scales, so a layer is moved by moving its
    constants.
    """
    source = {t.name: t for t in per_channel.proto.graph.initializer}
    moved = {
        name
        for node in layers(per_channel)
        if node.name in chosen
        for name in per_channel.names(node).values()
        if name in source
    }
    proto = onnx.ModelProto()
    proto.CopyFrom(per_tensor.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in moved:
            tensor.CopyFrom(source[tensor.name])
    return proto


def build(float_path: Path, ranges: Path) -> dict[str, onnx.ModelProto]:
    """ResNet8 in the three forms that ONNX Runtime's quantizer makes, by file name."""
    return {
        PER_TENSOR: quantize(float_path, ranges),
        PER_CHANNEL: quantize(float_path, ranges, per_channel=True),
        UINT8: quantize(float_path, ranges, activation_type=QuantType.QUInt8),
    }


def calibrate(float_path: Path, images: np.ndarray, ranges: Path) -> None:
    """Run ``images`` through the float model and store the range of every tensor as JSON."""
    (name,) = load(float_path).inputs
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "ranges.json"
        quantize(float_path, cache, reader=Images(name, images))
        found = json.loads(cache.read_text())
    # sorted, because the order of ONNX Runtime's set of tensors changes from run to run
    found["data"] = dict(sorted(found["data"].items()))
    write_text(ranges, json.dumps(found, indent=1) + "\n")


def calibration_images(data_dir: Path) -> np.ndarray:
    """The training images that the models are calibrated on: uint8 (IMAGES, 3, 32, 32)."""
    images, labels = load_cifar10(data_dir, "train")
    return images[stratified(labels, IMAGES, SEED)]


def require_stored(*paths: Path) -> None:
    """Refuse to go on without these files.

    Raises:
        UnusableInput: one is missing.
    """
    for path in paths:
        if not path.exists():
            raise UnusableInput(f"{path}: no such file; calibrate with --data-dir DIR")


def write_models(out: Path, made: dict[str, onnx.ModelProto]) -> None:
    """Write models, by file name, into the folder ``out``."""
    for name, proto in made.items():
        with whole_file(out / name) as partial:
            partial.write_bytes(proto.SerializeToString(deterministic=True))
        print(f"wrote {out / name}")


def equalized_mobilenet(float_path: Path) -> Model:
    """The float MobileNet with ReLU for ReLU6, the ranges of its weights equalized."""
    return equalize.equalized(equalize.without_clips(load(float_path)))


def remake_mobilenet(float_path: Path, out: Path, data_dir: Path | None) -> None:
    """Write MobileNet's three INT8 models, and with ``data_dir`` the calibrations.

    Args:
        float_path: the float model; out: the folder to write to.

    Raises:
        UnusableInput: the model, the data or a stored calibration is missing.
    """
    ranges, equalized_ranges = out / MOBILE_RANGES, out / MOBILE_EQUALIZED_RANGES
    other = equalized_mobilenet(float_path)
    if not data_dir:
        require_stored(ranges, equalized_ranges)
    with tempfile.TemporaryDirectory() as folder:
        other_path = Path(folder) / "equalized.onnx"
        other_path.write_bytes(other.proto.SerializeToString(deterministic=True))
        if data_dir:
            images = calibration_images(data_dir)
            calibrate(float_path, images, ranges)
            calibrate(other_path, images, equalized_ranges)
        made = {
            MOBILE_PER_TENSOR: quantize(float_path, ranges),
            MOBILE_PER_CHANNEL: quantize(float_path, ranges, per_channel=True),
            MOBILE_EQUALIZED: quantize(other_path, equalized_ranges),
        }
    write_models(out, made)


def remake(float_path: Path, out: Path, data_dir: Path | None, mixed: str = MIXED) -> None:
    """Write ResNet8's four INT8 models, and with ``data_dir`` the calibration behind them.

    Args:
        float_path: the float model; out: the folder to write to.
        mixed: file name of the one whose layers are per-tensor or per-channel by rule.

    Raises:
        UnusableInput: the model, the data or the stored calibration is missing.
    """
    ranges, noise_path = out / "calibration.json", out / "layer_noise.json"
    load(float_path)
    check_file(out / mixed)
    if data_dir:
        images = calibration_images(data_dir)
        calibrate(float_path, images, ranges)
    else:
        require_stored(ranges, noise_path)

    made = build(float_path, ranges)
    pair = [from_proto(made[name], name) for name in (PER_TENSOR, PER_CHANNEL)]
    if data_dir:
        found = layer_noise(load(float_path), *pair, images)
        record = {
            "recorded": recorded(
                "scripts/quantize_onnx.py", [float_path], images, note="training images"
            ),
            "images": IMAGES,
            "seed": SEED,
            "threshold_db": GAIN_DB,
            "layers": [asdict(layer) for layer in found],
        }
        write_text(noise_path, json.dumps(record, indent=1) + "\n")
    noises = [LayerNoise(**layer) for layer in json.loads(noise_path.read_text())["layers"]]
    made[mixed] = mix(*pair, {noise.layer for noise in noises if noise.per_channel})

    write_models(out, made)
    for layer in noises:
        kind = "per-channel" if layer.per_channel else "per-tensor"
        print(f"  {layer.layer:22} {layer.gain_db:+5.2f} dB  {kind}")
