"""Write the table of operators from the code and the recorded comparisons: make book runs this.

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

from qlinear.errors import run_command
from qlinear.onnx_model import operator_name
from qlinear.operators import MOVERS, OPERATORS
from qlinear.quantized import ALWAYS, INTEGER_MAC, PRODUCTS
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
LEFT = """## Left to ONNX Runtime

ONNX Runtime's CPU provider has kernels for these quantized operators too; the reference does not
compute them yet. `validate` names each such node, and says PARTIAL: {names}.

Operators in float are ONNX Runtime's, as they are; `validate` counts and names them.
"""


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


def left_out() -> list[str]:
    """Quantized operators with a CPU kernel in ONNX Runtime that the reference does not compute."""
    kernels = {
        (made.domain, made.op_name)
        for made in pybind.get_all_opkernel_def()
        if made.provider == "CPUExecutionProvider"
    }
    words = (
        *(word for word in ALWAYS if not word.startswith("Bit")),
        "QAttention",
        "QEmbed",
        "QMoE",
        "GatherBlockQuantized",
        "MatMulFpQ4",
    )
    names = (*INTEGER_MAC, *PRODUCTS)
    quantized = [(d, n) for d, n in kernels if n in names or n.startswith(words)]
    return sorted(operator_name(*key) for key in quantized if key not in OPERATORS)


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
            LEFT.format(names=", ".join(left_out())),
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
