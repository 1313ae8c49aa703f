"""Hold the conventions against the runtimes that they are named after.

    python -m pip install ai-edge-litert==2.3.0 torch==2.13.0    # in an environment of their own
    python scripts/runtimes.py

Writes models/runtimes.json. Every layer of the book's network is asked, on the accumulators beside
every threshold of every convention: those on which any two of them can differ. A 1x1 convolution
gives exactly these accumulators; there its requantizer is all that can differ.
"""

import argparse
import importlib
import json
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from qlinear import edges
from qlinear.conventions import CONVENTIONS
from qlinear.errors import UnusableInput
from qlinear.files import write_text
from qlinear.hardware import proofs
from qlinear.onnx_model import load
from qlinear.operators.qlinear_conv import Conv
from study import quantize
from study.provenance import recorded

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


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--out", type=Path, help="JSON file (default: runtimes.json beside them)")
    args = parser.parse_args(argv)
    versions = {}
    for module in ("ai_edge_litert", "torch"):
        try:
            versions[module] = importlib.import_module(module).__version__
        except (ImportError, AttributeError):
            raise UnusableInput(f"{module} is missing; see {Path(__file__).name}'s head") from None
    source = recorded("scripts/runtimes.py", [args.models / quantize.MIXED])
    source["versions"] |= versions
    source["machine"] = f"{platform.machine()} {platform.system()}"
    record = {"recorded": source, **measure(args.models), "found": FOUND}
    out = args.out or args.models / "runtimes.json"
    write_text(out, json.dumps(record, indent=1) + "\n")
    print(f"wrote {out}")
