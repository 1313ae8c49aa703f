"""Write the tables of operators from the code, ONNX Runtime and the recorded comparisons.

make book runs this.

python -m tools.operators --out book/operators.md
"""

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qlinear.engine import FLOAT_SUMS
from qlinear.errors import run_command
from qlinear.fuse import fuse
from qlinear.inputs import Feed
from qlinear.onnx_model import from_proto, operator_name
from qlinear.operators import MOVERS, OPERATORS
from qlinear.quantized import ALWAYS, INTEGER_MAC, PRODUCTS
from qlinear.tflite import reference, xnnpack
from qlinear.validate import validate
from tools.chapter import record

from onnxruntime.capi import onnxruntime_pybind11_state as pybind

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Operators

What the reference computes itself, equal to ONNX Runtime's CPU kernels on every element compared;
what it leaves to ONNX Runtime, so that a verdict on such a file is PARTIAL; and what is only moved.
Made from the code.
"""
RECOMPUTED = """## Recomputed

An operator is left to ONNX Runtime where its inputs or attributes are not those named under *only
with*. The last column counts the elements on which the tests compare it with ONNX Runtime: alone,
on inputs at random and on ties, and in networks.

| operator | what | only with | elements compared |
| --- | --- | --- | --- |
"""
MOVED = """## Only moved

These change no integer. `onnx.reference` computes them, and they count as recomputed: {names}.
"""
WRITTEN = """## In QDQ form

A QDQ file holds operators in float between DequantizeLinear and QuantizeLinear. Which of them
become an operator on integers is ONNX Runtime's choice. The table says what it makes of one layer
of each kind, in the session that `validate` takes. What stays in float has no integer arithmetic to
reproduce: the reference computes the quantization around it, and takes its floats from ONNX
Runtime. The verdict on each is {verdict}.

| layer | activations | weights | becomes | stays in float |
| --- | --- | --- | --- | --- |
"""
NBITS = """
ONNX Runtime can also make MatMulNBits of a MatMul or Gemm whose weights are quantized and whose
activations have 16 bits or are float; that may round the activations to 8 bits, which the file
does not say. Where that is all it makes of a file's products, `validate` takes a session that does
not make it, as here. Where it makes integer products besides, its MatMulNBits are left to it and
the verdict is PARTIAL.

## Integer weights, float sums

A file may hold MatMulNBits itself, as those of language models do: float activations, weights of 2,
4 or 8 bits in blocks. `validate` asks ONNX Runtime for each of the K x N weights, by rows of one 1,
up to 256 at a time, and for the bias, and compares them with `==`. The sums are float32, in an
order that is the kernel's own and depends on the processor and the number of rows. They are
borrowed from ONNX Runtime, the verdict says so, and each is held to the bound within which every
order of summation ends. In as many rows as the input has, which may be another kernel's, rows of at
most 32 activations are held to it too: a weight that is wrong by a step shows in them. It is
PARTIAL at `accuracy_level` 4, where the kernel may round activations to 8 bits, in half precision,
with `g_idx`, where an input other than A is computed, and where a weight or a sum is not finite.
"""
LEFT = """## Left to ONNX Runtime

ONNX Runtime's CPU provider has kernels for these quantized operators too; the reference does not
compute them yet. `validate` names each such node, and says PARTIAL: {names}.

Operators in float are ONNX Runtime's, as they are; `validate` counts and names them.

## Without a kernel

ONNX Runtime declares these in its domain com.microsoft, but its CPU provider has no kernel for
them. It refuses a file that holds one, and `validate` reports that as an error: {declared}.
"""
TFLITE = """
## In TensorFlow Lite's form

Of a `.tflite` file, which the commands take with the extra `qlinear[tflite]`, these operators are
recomputed on int8, equal to LiteRT's reference kernels on every element that the tests compare. The
last column says what LiteRT computes by default on x86, mostly by XNNPACK; `validate` compares with
the reference kernels, whose tensors in between can be asked for. Other operators, types and fused
activations are left to LiteRT, named, and the verdict is PARTIAL.

| operator | LiteRT's reference kernel | by default |
| --- | --- | --- |
"""
INT8, INT4, UINT16, FLOAT = (
    TensorProto.INT8, TensorProto.INT4, TensorProto.UINT16, TensorProto.FLOAT,
)  # fmt: skip
IMAGE, ROWS = (1, 4, 4, 4), (2, 32)
KERNEL, DENSE = (4, 4, 3, 3), (32, 4)
# operator, shape of its input, of its weights, type of activations, of weights, attributes
LAYERS = (
    ("Conv", IMAGE, KERNEL, INT8, INT8, {}),
    ("ConvTranspose", IMAGE, KERNEL, INT8, INT8, {}),
    ("Gemm", ROWS, DENSE, INT8, INT8, {}),
    ("MatMul", ROWS, DENSE, INT8, INT8, {}),
    ("Add", IMAGE, IMAGE, INT8, INT8, {}),
    ("Mul", IMAGE, IMAGE, INT8, INT8, {}),
    ("Concat", IMAGE, IMAGE, INT8, INT8, dict(axis=1)),
    ("AveragePool", IMAGE, None, INT8, None, dict(kernel_shape=[2, 2])),
    ("GlobalAveragePool", IMAGE, None, INT8, None, {}),
    ("ReduceMean", IMAGE, None, INT8, None, dict(keepdims=1)),
    ("MaxPool", IMAGE, None, INT8, None, dict(kernel_shape=[2, 2])),
    ("Sigmoid", IMAGE, None, INT8, None, {}),
    ("LeakyRelu", IMAGE, None, INT8, None, {}),
    ("Softmax", ROWS, None, INT8, None, {}),
    ("Conv", IMAGE, KERNEL, UINT16, INT8, {}),
    ("Gemm", ROWS, DENSE, UINT16, INT8, {}),
    ("MatMul", ROWS, DENSE, UINT16, INT8, {}),
    ("MatMul", ROWS, DENSE, INT8, INT4, {}),
    ("MatMul", ROWS, DENSE, UINT16, INT4, {}),
    ("MatMul", ROWS, DENSE, FLOAT, INT4, {}),
)
BLOCK = 16  # rows of 4-bit weights that share a scale


def in_qdq(
    op_type: str,
    shape: tuple[int, ...],
    second: tuple[int, ...] | None,
    activations: int,
    weights: int | None,
    attributes: dict,
) -> onnx.ModelProto:
    """One layer in QDQ form, as a row of :data:`LAYERS` says it."""
    constants, nodes = [], []

    def constant(name: str, value: object, kind: int) -> str:
        value = np.asarray(value, helper.tensor_dtype_to_np_dtype(kind))
        constants.append(numpy_helper.from_array(value, name))
        return name

    def node(kind: str, inputs: list[str], output: str, **options) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}_node", **options))
        return output

    def through(name: str, kind: int) -> str:
        """A tensor quantized to a type and back; a float one as it is."""
        if kind == FLOAT:
            return name
        pair = [constant(f"{name}_scale", 0.05, FLOAT), constant(f"{name}_zero", 0, kind)]
        node("QuantizeLinear", [name, *pair], f"{name}_q")
        return node("DequantizeLinear", [f"{name}_q", *pair], f"{name}_real")

    inputs = [through("x", activations)]
    if second:
        values = np.random.default_rng(0).integers(-7, 8, second)
        w = constant("w", values, weights)
        scale = np.full((second[0] // BLOCK, *second[1:]) if weights == INT4 else (), 0.1)
        options = dict(axis=0, block_size=BLOCK) if weights == INT4 else {}
        pair = [constant("w_scale", scale, FLOAT)]
        pair += [constant("w_zero", np.zeros(scale.shape), weights)]
        inputs.append(node("DequantizeLinear", [w, *pair], "w_real", **options))
    through(node(op_type, inputs, "y", **attributes), activations)
    ends = [helper.make_tensor_value_info("x", FLOAT, shape)]
    last = helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, [None] * len(shape))
    graph = helper.make_graph(nodes, "layer", ends, [last], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def written() -> str:
    """A row for each of :data:`LAYERS`: what ONNX Runtime makes of it."""
    rows, verdicts = [], []
    for layer in LAYERS:
        op_type, shape, _, activations, weights, _ = layer
        model = from_proto(in_qdq(*layer))
        x = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
        verdict = validate(model, [Feed({"x": x}, "random")])
        ran = {node.operator for node in fuse(model).graph.nodes}
        made = ran - {"QuantizeLinear", "DequantizeLinear"} - set(verdict.coverage.float)
        kinds = [
            helper.tensor_dtype_to_np_dtype(k).name if k else "" for k in (activations, weights)
        ]
        kinds[1] += f", in blocks of {BLOCK}" if weights == INT4 else ""
        floats = sorted(verdict.coverage.float)
        cells = (op_type, *kinds, ", ".join(sorted(made)), ", ".join(floats))
        rows.append(f"| {' | '.join(cells)} |")
        verdicts.append(verdict.status)
    return WRITTEN.format(verdict=" or ".join(sorted(set(verdicts)))) + "\n".join(rows)


def plain(function: Callable) -> ModuleType:
    """The module of an operator; of two, the one to be read, not the fast one."""
    return sys.modules[function.__module__.removesuffix("_fast")]


def what(function: Callable) -> str:
    """What a module says of itself, in its first line after the operator's name."""
    first = plain(function).__doc__.split("\n")[0].rstrip(".")
    return re.split(": |, ", first, maxsplit=1)[-1]


def restrictions(function: Callable) -> list[str]:
    """What the function's module needs, read off the messages with which it declines."""
    tree = ast.parse(inspect.getsource(plain(function)))
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Unsupported"):
            continue
        message = node.args[0]
        parts = message.values if isinstance(message, ast.JoinedStr) else [message]
        text = "".join(p.value if isinstance(p, ast.Constant) else "…" for p in parts)
        needed = re.search(r"^(\S+)?.*: (.+) needed$", text)
        if needed:
            found.append(
                needed[2].rstrip(",")
                if needed[1] in ("from", "the")
                else f"`{needed[1]}`: {needed[2].rstrip(',')}"
            )
    return list(dict.fromkeys(found))


def kernels() -> set[tuple[str, str]]:
    """Domain and name of every operator that ONNX Runtime's CPU provider runs."""
    return {
        (made.domain, made.op_name)
        for made in pybind.get_all_opkernel_def()
        if made.provider == "CPUExecutionProvider"
    }


def without_kernel() -> list[str]:
    """Quantized operators that ONNX Runtime declares and its CPU provider does not run."""
    declared = {(made.domain, made.name) for made in pybind.get_all_operator_schema()}
    missing = [key for key in declared - kernels() if key[1].startswith(("QLinear", "QOrdered"))]
    # operators of its internal domains stand in no file
    return sorted(name for domain, name in missing if domain == "com.microsoft")


def left_out() -> list[str]:
    """Quantized operators with a CPU kernel in ONNX Runtime that the reference does not compute."""
    words = (
        *(word for word in ALWAYS if not word.startswith("Bit")),
        "QAttention",
        "QEmbed",
        "QMoE",
        "GatherBlockQuantized",
        "MatMulFpQ4",
    )
    names = (*INTEGER_MAC, *PRODUCTS)
    quantized = [(d, n) for d, n in kernels() if n in names or n.startswith(words)]
    known = {*OPERATORS, *FLOAT_SUMS}
    return sorted(operator_name(*key) for key in quantized if key not in known)


def in_tflite() -> str:
    """A row for each operator in TensorFlow Lite's form, as its function says."""
    rows = []
    for name, function in sorted(reference.OPERATORS.items()):
        other = xnnpack.OPERATORS.get(name)
        default = "the same" if other is function else says(other) if other else "not computed"
        rows.append(f"| {name} | {says(function)} | {default} |")
    return TFLITE + "\n".join(rows)


def says(function: Callable) -> str:
    """What a function says of itself, in its first line after the operator's name."""
    first = function.__doc__.split("\n")[0].rstrip(".").split(": ", 1)[1]
    return first.replace("**", "^")  # two stars are bold in Markdown


def table() -> str:
    compared, mark = record("compared.json")
    rows = []
    for (domain, name), function in sorted(OPERATORS.items(), key=lambda item: item[0][1]):
        count = compared["operators"].get(operator_name(domain, name))
        needs = "; ".join(restrictions(function)) or ""
        rows.append(
            f"| {operator_name(domain, name)} | {what(function)} | {needs} | "
            f"{f'{count:,}' if count else 'not alone'} |"
        )
    movers = ", ".join(sorted(name for _, name in MOVERS))
    return "\n".join(
        [
            HEAD, RECOMPUTED + "\n".join(rows), "", mark.data, "", MOVED.format(names=movers),
            written(), NBITS,
            LEFT.format(names=", ".join(left_out()), declared=", ".join(without_kernel())),
            in_tflite(), "",
        ]
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    out = parser.parse_args(argv).out
    out.write_text(table())
    print(f"wrote {out}: {len(OPERATORS)} operators")


if __name__ == "__main__":
    run_command(main)
