"""What to program for each channel of a model's layers, by a convention: rows, JSON, a C header."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from qlinear import edges, vectors
from qlinear.conventions import Constants, Convention
from qlinear.errors import UnusableInput
from qlinear.onnx_model import Model
from qlinear.operators.qlinear_conv import Conv


@dataclass(frozen=True)
class Programmed:
    """A layer and what to program for it."""

    name: str
    where: str  # file and node, for a message
    folder: str  # as golden vectors call it
    conv: Conv
    requantizer: edges.Requantizer
    factor: np.ndarray | None  # encoded instead of the convention's own
    constants: Constants

    @property
    def bits(self) -> list[str]:
        """The bits of ONNX Runtime's float32 factor, one for each channel."""
        return hexadecimal(self.conv.factor)

    def plain(self) -> dict[str, list]:
        """The constants as numbers; a float32 as its bits."""
        return {
            name: hexadecimal(v) if v.dtype == np.float32 else v.tolist()
            for name, v in self.constants.items()
        }


def hexadecimal(values: np.ndarray) -> list[str]:
    """The bits of float32 values."""
    return [f"0x{bits:08x}" for bits in values.view(np.uint32).tolist()]


def programmed(
    graph: Model, convention: Convention, *, node: str | None = None, float32: bool = False
) -> list[Programmed]:
    """The layers of a graph that ONNX Runtime runs, or one of its nodes, programmed.

    Args:
        node: by its name, or that of the tensor that it writes.
        float32: encode ONNX Runtime's float32 factor, not the convention's own.

    Raises:
        UnusableInput: there is no layer, or the convention does not hold a factor of it.
    """
    wanted = [graph.node(node)] if node else graph.nodes
    found = []
    for index, one in enumerate(graph.nodes):
        conv = edges.layer(graph, one) if one in wanted else None
        if conv is None:
            continue
        where = f"{graph.path}: node {one.name}"
        try:
            of = edges.requantizer(graph, one, ())
            factor = conv.factor if float32 else None
            made = convention.program(conv, factor)
        except UnusableInput as error:
            raise UnusableInput(f"{where}: {error}") from None
        folder = vectors.folder_name(index, len(graph.nodes), one.name)
        found.append(Programmed(one.name, where, folder, conv, of, factor, made))
    if not found and node:
        raise UnusableInput(
            f"{graph.path}: node {node} is a {graph.node(node).operator}: needed is a QLinearConv, "
            "QGemm or QLinearMatMul with constant weights and a quantized output"
        )
    if not found:
        kinds = ", ".join(sorted({n.operator for n in graph.nodes}))
        raise UnusableInput(f"{graph.path}: nothing to program: ONNX Runtime runs {kinds}")
    return found


def left_out(graph: Model) -> list[str]:
    """Nodes of the same operators that have no constants to program, by name."""
    kinds = ("QLinearConv", "com.microsoft.QGemm", "QLinearMatMul")
    return [n.name for n in graph.nodes if n.operator in kinds and edges.layer(graph, n) is None]


def rows(layers: Iterable[Programmed], most: int | None = None) -> list[dict]:
    """A row for each channel; of a list of numbers in a field, perhaps only the first ``most``."""

    def field(value: list | int | str) -> int | str:
        if not isinstance(value, list):
            return value
        if most is None or len(value) <= most:
            return " ".join(map(str, value))
        return f"{' '.join(map(str, value[:most]))} … {value[-1]} ({len(value)})"

    return [
        {
            "layer": one.name,
            "channel": m,
            "factor": bits,
            **{name: field(values[m]) for name, values in one.plain().items()},
        }
        for one in layers
        for m, bits in enumerate(one.bits)
    ]


def as_json(convention: Convention, layers: Iterable[Programmed]) -> dict:
    """The convention and its constants, by layer, as JSON-ready data."""
    return {
        "convention": convention.name,
        "sentence": convention.sentence,
        "constants": convention.constants,
        "source": {"url": convention.url, "where": convention.source},
        "layers": [
            {
                "layer": one.name,
                "y_zero_point": int(one.conv.y_zero_point),
                "factor": one.bits,
                **one.plain(),
            }
            for one in layers
        ],
    }


def header(convention: Convention, layers: Iterable[Programmed]) -> Iterator[str]:
    """A C header of static arrays; a float32 as its bits."""
    guard = f"QLINEAR_MULTIPLIERS_{vectors.safe(convention.name).upper()}_H"
    yield f"/* {convention.title}; made by: python -m qlinear multipliers\n"
    for name, what in convention.constants.items():
        yield f" * {name}: {what}\n"
    yield f" */\n#ifndef {guard}\n#define {guard}\n#include <stdint.h>\n\n"
    for one in layers:
        for name, values in one.constants.items():
            bits = values.dtype == np.float32
            yield from vectors.c_array(
                f"L{one.folder}_{name}{'_bits' * bits}",
                values.view(np.uint32) if bits else values,
            )
    yield "#endif\n"


def step_arrays(
    convention: Convention, layers: Iterable[Programmed]
) -> Iterator[tuple[str, np.ndarray]]:
    """Accumulators beside every step of the convention and of ONNX Runtime, with both outputs.

    Returns:
        name and array: channel, acc, y, onnxruntime, and the constants, below each layer's folder.

    Raises:
        UnusableInput: accumulators of a layer pass 32 bits, of themselves or where the convention
            shifts them left.
    """
    for one in layers:
        stage_2 = convention.of_layer(one.conv, one.factor)
        try:
            found = edges.threshold_accumulators(one.requantizer, stage_2)
        except (UnusableInput, ValueError) as error:
            raise UnusableInput(f"{one.where}: {convention.name}: {error}") from None
        arrays = {k: v for k, v in found.items() if k not in ("y", "other")}
        arrays |= {"y": found["other"], "onnxruntime": found["y"], **one.constants}
        for name, values in arrays.items():
            yield f"{one.folder}/{name}", values
