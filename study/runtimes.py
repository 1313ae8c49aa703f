"""The field's runtimes beside ONNX Runtime: their requantization, and one network in each of them.

    python -m pip install -r requirements-runtimes.txt      # in an environment of their own
    python scripts/runtimes.py --data-dir DIR

Writes models/runtimes.json; what is not installed is named and left out. Its keys:

    accumulators, differing, found   the conventions against the kernels that they are named after,
                                     on the accumulators beside every threshold of every convention,
                                     on which alone two of them can differ (of "recorded")
    network.tensors                  of each tensor that the network computes: node, operator,
                                     elements of one image
    network.runtimes                 of each runtime, by its name: title, packages, and the form of
                                     the network that it was given
    network.not_asked                runtimes that were not asked, and why
    network.biases                   of each that reads QOperator files: a layer with small biases,
                                     elements that differ in each channel, and unlike its formula
    network.samples, network.images  the 20 sample images, and CIFAR-10's: recorded, images, engines

and engines holds for each runtime, as far as it goes:

    refused                          what it says where it does not take the network
    labels_changed, correct          images whose label is another than ONNX Runtime's; right labels
    logits                           [of the logits in steps of their scale: that differ, the most]
    logits_as_floats                 of the logits, that differ at all
    seconds                          of an image, the median call; not comparable across machines
    with_outputs                     the network with every tensor as an output: of each tensor
                                     [elements that differ, by how much at most]
    outputs_change_logits            logits that are others then: the runtime made another graph
    kinds, kinds_with_outputs        operators of the graph that it runs, counted, where it says
    cut                              of a runtime that makes another graph then: the network cut off
                                     behind each tensor instead, as with_outputs (sample images)
    alone                            each node alone on ONNX Runtime's tensors: of its output
                                     [elements that differ, by how much at most], or what it says
    formulas                         what it computes, by operator (study/formulas.py)
    alone_unlike                     elements of alone that are not what the formula gives, or lie
                                     beyond the bound (of float32 and bfloat16, asked of the first
                                     images, "bounds_held"); 0 is explained
    with_outputs_unlike              elements of with_outputs that the formulas do not give of the
                                     runtime's own tensors (sample images)
    residual                         an add and the convolution before it as a part: [elements that
                                     differ, by how much at most, unlike the two nodes as the
                                     runtime has them]: without the rounding between, where fused
    images                           how many it was asked on; fewer where it is slow

A difference is from ONNX Runtime's default session of the QOperator file.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from qlinear import edges
from qlinear.conventions import CONVENTIONS
from qlinear.errors import UnusableInput
from qlinear.files import check_file, write_text
from qlinear.hardware import proofs
from qlinear.inputs import load_samples
from qlinear.onnx_model import load
from qlinear.operators.qlinear_conv import Conv
from study import quantize
from study import runtime_networks as networks
from study.cifar10 import load_cifar10
from study.engines import ENGINES, NOT_ASKED, Engine, version
from study.provenance import recorded, stored

# what each kernel was found to compute
FOUND = {
    "LiteRT, reference kernels": "tflite",
    "LiteRT, optimized kernels": "tflite-optimized",
    "LiteRT, XNNPACK (the default)": "xnnpack-fp32",
    "PyTorch, fbgemm": "fbgemm",
    "PyTorch, qnnpack": "pytorch-qnnpack",
}
TAPS, LARGEST = 160, 127  # products of int7 by int7: no pair of them passes 16 bits


def asked(conv: Conv) -> tuple[np.ndarray, np.ndarray]:
    """Channels and accumulators beside every threshold of every convention, and both bounds."""
    low, high = conv.accumulator_range()
    steps = [proofs.thresholds(c.of_layer(conv), low, high) for c in CONVENTIONS.values()]
    found = []
    for m, rows in enumerate(np.concatenate(steps, axis=1)):
        beside = np.concatenate([rows - 1, rows, [low[m], high[m]]])
        found.append(np.unique(beside[(beside >= low[m]) & (beside <= high[m])]))
    channel = np.arange(len(found)).repeat([len(accs) for accs in found])
    return channel, np.concatenate(found)


def one_by_one(conv: Conv, channel: np.ndarray, acc: np.ndarray, name: str) -> np.ndarray:
    """A convention's outputs, each accumulator in its channel."""
    stage_2 = CONVENTIONS[name].of_layer(conv)
    y = np.empty(len(acc), conv.y_zero_point.dtype)
    counts = np.bincount(channel, minlength=len(conv.w))
    rows = np.zeros((1, len(conv.w), counts.max()), np.int32)
    place = np.arange(len(acc)) - (np.cumsum(counts) - counts)[channel]
    rows[0, channel, place] = acc
    y[:] = stage_2(rows)[0, channel, place]
    return y


def products(acc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (TAPS,) and weights (n, TAPS), 0 or more and within 7 bits, whose products add to acc.

    Raises:
        UnusableInput: an accumulator is too large for so many products.
    """
    x = np.full(TAPS, LARGEST)
    x[-1] = 1
    quotient = acc // LARGEST
    w = np.zeros((len(acc), TAPS), np.int64)
    w[:, -1] = acc - quotient * LARGEST
    for tap in range(TAPS - 1):
        w[:, tap] = np.clip(quotient, -LARGEST, LARGEST)
        quotient = quotient - w[:, tap]
    if quotient.any():
        raise UnusableInput(f"an accumulator does not fit {TAPS} products")
    return x, w


def litert(conv: Conv, channel: np.ndarray, acc: np.ndarray, kernel: str) -> np.ndarray:
    """LiteRT's outputs of a CONV_2D with int8 weights and a scale for each channel."""
    from ai_edge_litert import interpreter

    resolver = getattr(interpreter.OpResolverType, kernel)
    made = interpreter.Interpreter(
        model_content=_conv_2d(conv, channel, acc), experimental_op_resolver_type=resolver
    )
    made.allocate_tensors()
    x, _ = products(acc)
    zero = int(conv.x_zero_point)
    made.set_tensor(
        made.get_input_details()[0]["index"], (x + zero).astype(np.int8)[None, None, None]
    )
    made.invoke()
    return made.get_tensor(made.get_output_details()[0]["index"]).ravel()


def _conv_2d(conv: Conv, channel: np.ndarray, acc: np.ndarray) -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    _, w = products(acc)
    w_scale = np.broadcast_to(conv.w_scale, len(conv.w))[channel]

    def buffer(data: bytes = b"") -> int:
        one = schema.BufferT()
        one.data = np.frombuffer(data, np.uint8)
        model.buffers.append(one)
        return len(model.buffers) - 1

    def tensor(name: str, shape: tuple, kind: int, scale, zero, data: bytes = b"") -> int:
        one = schema.TensorT()
        one.name, one.shape, one.type = name, list(shape), kind
        one.buffer = buffer(data) if data else 0  # the first is empty, and stands for none
        one.quantization = schema.QuantizationParametersT()
        one.quantization.scale = np.atleast_1d(scale).astype(np.float32)
        one.quantization.zeroPoint = np.broadcast_to(zero, len(np.atleast_1d(scale))).astype(
            np.int64
        )
        graph.tensors.append(one)
        return len(graph.tensors) - 1

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, graph.tensors = 3, [], []
    buffer()
    kinds = schema.TensorType
    tensor("x", (1, 1, 1, TAPS), kinds.INT8, conv.x_scale, conv.x_zero_point)
    tensor("w", (len(acc), 1, 1, TAPS), kinds.INT8, w_scale, 0, w.astype(np.int8).tobytes())
    bias = np.zeros(len(acc), np.int32)
    tensor("B", (len(acc),), kinds.INT32, conv.x_scale * w_scale, 0, bias.tobytes())
    tensor("y", (1, 1, 1, len(acc)), kinds.INT8, conv.y_scale, conv.y_zero_point)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    code.version = 3
    model.operatorCodes = [code]
    operator, options = schema.OperatorT(), schema.Conv2DOptionsT()
    options.strideH = options.strideW = 1
    options.dilationHFactor = options.dilationWFactor = 1
    operator.inputs, operator.outputs = [0, 1, 2], [3]
    operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    operator.builtinOptions = options
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [3]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def pytorch(conv: Conv, channel: np.ndarray, acc: np.ndarray, engine: str) -> np.ndarray:
    """PyTorch's outputs of a quantized convolution, uint8, moved to int8."""
    import torch

    torch.backends.quantized.engine = engine
    x, w = products(acc)
    scales = torch.from_numpy(
        np.broadcast_to(conv.w_scale, len(conv.w))[channel].astype(np.float64)
    )
    q = torch._make_per_channel_quantized_tensor(
        torch.from_numpy(w.astype(np.int8)[:, :, None, None]), scales,
        torch.zeros(len(acc), dtype=torch.int64), 0,
    )  # fmt: skip
    packed = torch.ops.quantized.conv2d_prepack(q, None, [1, 1], [0, 0], [1, 1], 1)
    given = torch._make_per_tensor_quantized_tensor(
        torch.from_numpy(x.astype(np.uint8)[None, :, None, None]), float(conv.x_scale), 0
    )
    y = torch.ops.quantized.conv2d(given, packed, float(conv.y_scale), int(conv.y_zero_point) + 128)
    return (y.int_repr().numpy().ravel().astype(np.int16) - 128).astype(np.int8)


KERNELS: dict[str, tuple[Callable, str]] = {
    "LiteRT, reference kernels": (litert, "BUILTIN_REF"),
    "LiteRT, optimized kernels": (litert, "BUILTIN_WITHOUT_DEFAULT_DELEGATES"),
    "LiteRT, XNNPACK (the default)": (litert, "AUTO"),
    "PyTorch, fbgemm": (pytorch, "fbgemm"),
    "PyTorch, qnnpack": (pytorch, "qnnpack"),
}


def measure(models: Path, kernels: dict = KERNELS) -> dict:
    """For each kernel, in how many of the accumulators asked it differs from each convention."""
    model = load(models / quantize.MIXED)
    convs = [model.conv(node) for node in model.of_type("QLinearConv")]
    differ = {
        kernel: dict.fromkeys(["onnxruntime by itself", *CONVENTIONS], 0) for kernel in kernels
    }
    count = 0
    for conv in tqdm(convs, "asking", unit="layer"):
        channel, acc = asked(conv)
        count += len(acc)
        ours = {name: one_by_one(conv, channel, acc, name) for name in CONVENTIONS}
        # ONNX Runtime itself, not only what the reference says of it
        by_ort = edges.requantized_by_ort(edges.of_conv(conv), channel, acc.astype(np.int32))
        ours["onnxruntime by itself"] = by_ort
        for kernel, (run, option) in kernels.items():
            theirs = run(conv, channel, acc, option)
            for name, y in ours.items():
                differ[kernel][name] += int((theirs != y).sum())
    return {"accumulators": count, "differing": differ}


def accumulators(models: Path) -> dict:
    """The part of the record that holds the conventions against their kernels."""
    source = recorded("scripts/runtimes.py", [models / quantize.MIXED])
    source["versions"] |= {"ai_edge_litert": version("ai-edge-litert"), "torch": version("torch")}
    source["machine"] = f"{platform.machine()} {platform.system()}"
    return {"recorded": source, **measure(models), "found": FOUND}


def chosen(only: str) -> list[Engine]:
    """The engines to ask, from a list of names with commas; all where it is empty.

    Raises:
        UnusableInput: a name is unknown.
    """
    names = [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if name not in ENGINES:
            raise UnusableInput(f"--only: no runtime {name!r}; there are {', '.join(ENGINES)}")
    return [ENGINES[name] for name in names] or list(ENGINES.values())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--out", type=Path, help="JSON file (default: runtimes.json beside them)")
    parser.add_argument("--data-dir", type=Path, help="CIFAR-10 folder, for the section of images")
    parser.add_argument("--data-note", default="CIFAR-10's test images", help="for the record")
    parser.add_argument("--images", type=int, default=1000, help="test images, from the first")
    parser.add_argument("--only", default="", help="runtimes to ask, with commas (default: all)")
    args = parser.parse_args(argv)
    if args.images < 1:
        raise UnusableInput(f"--images is {args.images}: at least 1 needed")
    out = args.out or args.models / "runtimes.json"
    check_file(out)
    engines, record = chosen(args.only), stored(out, "network")
    model = load(args.models / quantize.MIXED)
    data = load_cifar10(args.data_dir, "test") if args.data_dir else None
    absent = {e.name: e.absent() for e in engines if e.absent()}
    for name, package in absent.items():
        print(f"{name}: not asked, {package} is not installed", file=sys.stderr)
    if not args.only:
        gone = sorted({*absent.values()} & {"ai-edge-litert", "torch"})
        if gone:
            print(f"the conventions: not asked, {' and '.join(gone)} not installed",
                  file=sys.stderr)  # fmt: skip
        else:
            record |= accumulators(args.models)
    network = record.setdefault("network", {})
    network |= {"tensors": networks.describe(model), "not_asked": NOT_ASKED}
    network["runtimes"] = network.get("runtimes", {}) | {
        e.name: {"title": e.title, "form": e.form, "packages": list(e.packages)} for e in engines
    }
    probed = [e for e in engines if e.form == "QOperator" and not e.absent()]
    for engine in tqdm(probed, "probing", unit="runtime"):
        network.setdefault("biases", {})[engine.name] = networks.bias_probe(engine)
    sections = {"samples": (*load_samples(), "sample images")}
    if data:
        images, labels = (part[: args.images] for part in data)
        sections["images"] = images, labels, args.data_note
    for name, (images, labels, note) in sections.items():
        before = network.get(name) if args.only else None  # beside what the others gave

        def save(section: dict, name: str = name, before: dict | None = before) -> None:
            network[name] = networks.merged(before, section)
            write_text(out, json.dumps(record, indent=1) + "\n")

        networks.measure(model, images, labels, engines, note, save)
    print(f"wrote {out}")
    networks.show(network)
