"""Golden vectors of a ``.tflite`` file's layers, in folders and files as of :mod:`qlinear.vectors`.

Arrays keep the file's layout: activations NHWC, weights (M, h, w, C) or, depthwise, (1, h, w, M).
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from qlinear import vectors
from qlinear.errors import Unsupported, UnusableInput
from qlinear.files import new_folder, write_text
from qlinear.inputs import Feed
from qlinear.onnx_model import Node
from qlinear.tflite import litert, reference, verdict
from qlinear.tflite.arithmetic import activation_range
from qlinear.tflite.model import TFLite
from qlinear.vectors import Options, Record

FORMAT = {
    "order": vectors.FORMAT["order"],
    "hex": "$readmemh text: one element a line, two's complement, most significant digit first; "
    "int8 and uint8 have 2 digits, int32 and float32 bits 8, float64 bits 16",
    "npz": vectors.FORMAT["npz"],
    "layout": "activations NHWC; weights as in the file",
    "y": "output of LiteRT's reference kernel; every other array is a step on the way to it",
    "sums, acc": "sums of products before and with the bias",
    "factor": "bits of the float64 factor",
    "multiplier, shift": "of each channel: the factor is multiplier * 2**(shift - 31)",
    "acc_left, upper_half, scaled": "acc << max(shift, 0); its product with the multiplier, "
    "upper half, half up; that >> max(-shift, 0), ties away from zero",
    "with_zero_point": "before the range of the fused activation, Y_LEAST to Y_GREATEST",
}
NAMES = {"+ zero point": "with_zero_point", "acc << left": "acc_left"}


def write(
    model: TFLite,
    feeds: list[Feed],
    out: Path,
    nodes: list[Node],
    progress: Callable = iter,
    options: Options | None = None,
) -> dict:
    """Write the vectors of nodes for each input, and a manifest; nothing half-written.

    Returns:
        the manifest.

    Raises:
        UnusableInput: ``out`` exists and is not empty, or a node is not computed.
    """
    layers: dict[str, dict] = {}
    options = options or Options()
    with new_folder(out) as work, litert.Session(model, keep=True) as session:
        for index, node in progress([(i, n) for i in range(len(feeds)) for n in nodes]):
            feed = feeds[index].values
            names = [n for n in (*node.inputs, *node.outputs) if n]
            asked = [n for n in dict.fromkeys(names) if n not in {**feed, **model.constants}]
            record = _record(model, node, feed | session.run(feed, asked))
            vectors.write_image(record, index, work, options)
            if index == len(feeds) - 1 and index:
                vectors.write_images(record, len(feeds), work, options)
            layers.setdefault(record.folder, _described(model, node, record, options))
        files = {
            path.relative_to(work).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(work.rglob("*"))
            if path.is_file()
        }
        manifest = {
            "version": vectors.VERSION,
            "model": model.path.name,
            "model_sha256": hashlib.sha256(model.source).hexdigest(),
            "litert": litert.version(),
            "kernels": litert.REFERENCE,
            "images": len(feeds),
            "inputs": [{"source": feed.source} for feed in feeds],
            "layout": "NHWC",
            "packed": options.packed,
            "format": FORMAT,
            "layers": list(layers.values()),
            "sha256": files,
        }
        write_text(work / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return manifest


def _record(model: TFLite, node: Node, values: dict[str, np.ndarray]) -> Record:
    where = f"{model.path}: node {node.name}"
    try:
        found = verdict.stages(model, node, values)
    except Unsupported as error:
        raise UnusableInput(f"{where}: {node.op_type}: {error}") from None
    y = values[node.outputs[0]]
    if found["y"].dtype != y.dtype or not np.array_equal(found["y"], y):
        raise UnusableInput(f"{where}: differs from LiteRT; see validate")
    constants, image, tensors = {}, {}, {}
    for formal, name in zip(formals(node), node.inputs, strict=False):
        if name in model.constants:
            constants[formal] = _plain(model.constants[name])
        elif name:
            image[formal], tensors[formal] = _plain(values[name]), name
    for stage, value in found.items():
        name = NAMES.get(stage) or re.sub("[^a-z0-9]+", "_", stage.lower()).strip("_")
        kept = image if np.shape(value) == y.shape and stage != "y" else constants
        if stage == "y":
            kept, tensors["y"] = image, node.outputs[0]
        kept[name] = _plain(np.atleast_1d(value))
    parameters = {}
    for formal, array in {**constants, **image}.items():
        parameters[f"{formal.upper()}_SIZE"] = array.size
        for axis, size in enumerate(array.shape):
            parameters[f"{formal.upper()}_DIM{axis}"] = size
    for formal, name in (*zip(formals(node), node.inputs, strict=False), ("y", node.outputs[0])):
        if name and model.types[name].scale.size == 1 and model.types[name].dtype == "int8":
            parameters[f"{formal.upper()}_ZERO"] = model.types[name].zero
    parameters |= _places(model, node, {**constants, **image})
    folder = vectors.folder_name(model.nodes.index(node), len(model.nodes), node.name)
    return Record(node.name, folder, constants, image, parameters, tensors)


def formals(node: Node) -> tuple[str, ...]:
    """What the inputs of an operator are called here."""
    known = {"ADD": ("a", "b"), "MEAN": ("x", "axes"), "RESHAPE": ("x", "shape")}
    return known.get(node.op_type, ("x", "w", "bias"))


def _places(model: TFLite, node: Node, arrays: dict[str, np.ndarray]) -> dict[str, int]:
    """Sizes that C and Verilog need of windows, and the ends of the activation's range.

    Args:
        arrays: the operands; their shapes in the file may be others than LiteRT computes.
    """
    found, o = {}, node.attributes
    if "padding" in o:
        w = arrays["w"].shape[1:3] if len(node.inputs) > 1 else None
        place = reference.windows_of(
            arrays["x"], w or (o["filter_height"], o["filter_width"]), o["padding"],
            (o["stride_h"], o["stride_w"]),
            (o.get("dilation_h_factor", 1), o.get("dilation_w_factor", 1)),
        )  # fmt: skip
        pairs = {"K": place.kernel, "STRIDE": place.stride, "DILATION": place.dilation}
        found = {f"{k}_{end}": v for k, pair in pairs.items()
                 for end, v in zip("HW", pair, strict=True)}  # fmt: skip
        found |= {"PAD_TOP": place.begin[0], "PAD_LEFT": place.begin[1]}
    if "fused_activation_function" in o:
        ends = activation_range(o["fused_activation_function"], model.types[node.outputs[0]])
        found |= dict(zip(("Y_LEAST", "Y_GREATEST"), ends, strict=True))
    return found


def _plain(value: np.ndarray) -> np.ndarray:
    """As C has it: int32 where it is int64 here; floats by their bits."""
    value = np.asarray(value)
    if value.dtype == np.int64:
        return value.astype(np.int32)
    if value.dtype.kind == "f":
        return np.ascontiguousarray(value).view(f"u{value.itemsize}")
    return value


def _described(model: TFLite, node: Node, record: Record, options: Options) -> dict:
    def plain(formal: str, name: str) -> dict:
        given = model.types[name]
        return {"tensor": name, "dtype": given.dtype, "shape": list(record.arrays[formal].shape),
                "scale": given.scale.astype(float).tolist(),
                "zero_point": given.zero_point.tolist(), "axis": given.axis}  # fmt: skip

    return {
        "name": node.name,
        "folder": record.folder,
        "operator": node.op_type,
        "options": node.attributes,
        "prefix": vectors.prefix_of(record) if options.prefix else "",
        "parameters": record.parameters,
        "quantization": {
            formal: plain(formal, name)
            for formal, name in (*zip(formals(node), node.inputs, strict=False),
                                 ("y", node.outputs[0]))
            if name
        },
        "shapes": {k: list(v.shape) for k, v in record.arrays.items()},
        "dtypes": {k: v.dtype.name for k, v in record.arrays.items()},
        "tensors": record.names,
    }  # fmt: skip
