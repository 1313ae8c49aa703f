"""What is asked of every machine and release: whole networks, and each operator by itself."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qlinear import ort
from qlinear.engine import run
from qlinear.onnx_model import load
from qlinear.operators import OPERATORS

F = np.float32
CONTRIB = "com.microsoft"
EVERY = {
    np.dtype(t): np.arange(np.iinfo(t).min, np.iinfo(t).max + 1).astype(t)
    for t in (np.int8, np.uint8)
}
Inputs = dict[str, np.ndarray | None]


@dataclass(frozen=True)
class Network:
    """A model with all its tensors as outputs; exact products where a name ends in .exact."""

    name: str
    path: Path
    x: np.ndarray

    def write(self, folder: Path) -> None:
        model = load(self.path)
        onnx.save(ort.all_outputs(model), folder / f"{self.name}.onnx")
        np.savez(folder / f"{self.name}.npz", **{next(iter(model.inputs)): self.x})

    def ours(self) -> dict[str, np.ndarray]:
        model = load(self.path)
        return {name: y for name, y in run(model, self.x).items() if name not in model.inputs}


@dataclass(frozen=True)
class Operator:
    """Nodes of one operator, each with inputs of its own, in one model."""

    name: str
    op_type: str
    sets: list[Inputs]
    attributes: list[dict]
    fed: list[str] = field(default_factory=lambda: ["x"])  # the others are constants
    domain: str = CONTRIB
    outputs: int = 1
    opset: int = 21

    def write(self, folder: Path) -> None:
        nodes, given, stored, feeds = [], [], [], {}
        for k, (inputs, attributes) in enumerate(zip(self.sets, self.attributes, strict=True)):
            names = [f"{name}_{k}" if v is not None else "" for name, v in inputs.items()]
            while not names[-1]:
                names.pop()
            made = [f"y{i}_{k}" for i in range(self.outputs)]
            nodes.append(
                helper.make_node(self.op_type, names, made, domain=self.domain, **attributes)
            )
            for name, value in inputs.items():
                if value is None:
                    continue
                value, named = np.asarray(value), f"{name}_{k}"
                if name in self.fed:
                    given.append(ort.value_info(named, value))
                    feeds[named] = value
                else:
                    stored.append(numpy_helper.from_array(value, named))
        results = [onnx.ValueInfoProto(name=name) for node in nodes for name in node.output]
        graph = helper.make_graph(nodes, "nodes", given, results, stored)
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid(CONTRIB, 1)]
        proto = helper.make_model(graph, opset_imports=imports, ir_version=10)
        onnx.save(proto, folder / f"{self.name}.onnx")
        np.savez(folder / f"{self.name}.npz", **feeds)

    def ours(self) -> dict[str, np.ndarray]:
        return self.by(OPERATORS[self.domain, self.op_type])

    def by(self, function: Callable) -> dict[str, np.ndarray]:
        """What a function of the operator's inputs and attributes gives, by the outputs' names."""
        found = {}
        for k, (inputs, attributes) in enumerate(zip(self.sets, self.attributes, strict=True)):
            y = function(*inputs.values(), **attributes)
            for i, part in enumerate(y if isinstance(y, tuple) else (y,)):
                found[f"y{i}_{k}"] = np.asarray(part)
        return found


Case = Network | Operator


def networks(models: Path, x: np.ndarray) -> Iterator[Network]:
    """The book's networks, the uint8 one with and without exact products."""
    for name in ("resnet8_int8", "resnet8_int8_per_channel", "mobilenet_int8_per_channel"):
        yield Network(name, models / f"{name}.onnx", x)
    for name in ("resnet8_uint8", "resnet8_uint8.exact"):
        yield Network(name, models / "resnet8_uint8.onnx", x)


# --- operators


def _codes(rng: np.random.Generator, dtype: type, shape: tuple[int, ...] = ()) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.asarray(rng.integers(info.min, info.max, shape, dtype, endpoint=True))


def _scale(rng: np.random.Generator, least: float = 0.001, most: float = 1) -> np.float32:
    return F(rng.uniform(least, most))


def _pairs(dtype: type) -> dict[str, np.ndarray]:
    return {"A": np.repeat(EVERY[np.dtype(dtype)], 256), "B": np.tile(EVERY[np.dtype(dtype)], 256)}


def _addition(pairs: dict, a: tuple, b: tuple, c: tuple) -> Inputs:
    return {
        "A": pairs["A"], "A_scale": a[0], "A_zero": a[1], "B": pairs["B"], "B_scale": b[0],
        "B_zero": b[1], "C_scale": c[0], "C_zero": c[1],
    }  # fmt: skip


def additions(models: Path) -> Iterator[Operator]:
    """QLinearAdd on all 65,536 pairs: the networks' scales, random ones, and many ties."""
    for dtype, file in ((np.int8, "resnet8_int8"), (np.uint8, "resnet8_uint8")):
        rng, pairs = np.random.default_rng(np.iinfo(dtype).max), _pairs(dtype)
        model = load(models / f"{file}.onnx")
        sets = []
        for node in model.of_type("QLinearAdd"):
            constants = list(model.arguments(node).values())
            a, b, c = (tuple(constants[i : i + 2]) for i in (0, 2, 4))
            sets.append(_addition(pairs, a, b, c))
        yield _pairwise(f"QLinearAdd {file}", "QLinearAdd", sets)

        def zeros(rng=rng, dtype=dtype) -> list[np.ndarray]:
            return [_codes(rng, dtype) for _ in range(3)]

        scales = {"random": [rng.uniform(0.001, 1, 3).astype(F) for _ in range(20)]}
        c = [_scale(rng, 0.01) for _ in range(20)]
        quarters = rng.integers(1, 8, (20, 2)) / 4
        scales["ties"] = [F([s * q[0], s * q[1], s]) for s, q in zip(c, quarters, strict=True)]
        # beyond what a fixed-point kernel holds: ratios of 256 and more, and of 2**-14 and less
        ends = [2.0**-20, 2.0**-15, 2.0**-14, 127, 255, 256, 1000]
        far = [(e, near) for e, (near, _) in zip(ends * 2, quarters, strict=False)]
        far = [pair[:: 1 - 2 * (k % 2)] for k, pair in enumerate(far)]  # A and B by turns
        scales["far apart"] = [F([s * r[0], s * r[1], s]) for s, r in zip(c, far, strict=False)]
        for kind, drawn in scales.items():
            sets = [_addition(pairs, *zip(s, zeros(), strict=True)) for s in drawn]
            yield _pairwise(f"QLinearAdd {np.dtype(dtype)} {kind}", "QLinearAdd", sets)


def _pairwise(name: str, op_type: str, sets: list[Inputs]) -> Operator:
    return Operator(name, op_type, sets, [{}] * len(sets), ["A", "B"])


def multiplications() -> Iterator[Operator]:
    """QLinearMul on all 65,536 pairs."""
    for dtype in (np.int8, np.uint8):
        rng, pairs = np.random.default_rng(np.iinfo(dtype).max), _pairs(dtype)
        sets = []
        for k in range(16):
            scales = F([2.0**-6, 2.0**-5, 2.0**-4]) if k % 4 == 3 else rng.uniform(0.001, 1, 3)
            zeros = [_codes(rng, dtype) for _ in range(3)]
            sets.append(_addition(pairs, *zip(scales.astype(F), zeros, strict=True)))
        yield _pairwise(f"QLinearMul {np.dtype(dtype)}", "QLinearMul", sets)


def convolutions() -> Iterator[Operator]:
    """QLinearConv: kernels, strides, padding, groups and depthwise, one scale or one a channel."""
    for x_type in (np.int8, np.uint8):
        rng = np.random.default_rng(np.iinfo(x_type).max)
        sets, attributes = [], []
        for k in range(24):
            group = [1, 1, 2, 8][k % 4]
            of_group = 1 if group == 8 else int(rng.integers(1, 20))
            m = 8 * int(rng.integers(1, 4))
            kernel, scales = [1, 3, 3, 5][k % 4], (m,) if k % 2 else ()
            sets.append({
                "x": _codes(rng, x_type, (2, group * of_group, 9, 11)),
                "x_scale": _scale(rng), "x_zero": _codes(rng, x_type),
                "w": _codes(rng, np.int8, (m, of_group, kernel, kernel)),
                "w_scale": rng.uniform(0.001, 1, scales).astype(F),
                "w_zero": np.zeros(scales, np.int8), "y_scale": _scale(rng, 5, 50),
                "y_zero": _codes(rng, x_type), "B": rng.integers(-9999, 9999, m).astype(np.int32),
            })  # fmt: skip
            step = int(rng.integers(1, 3))
            attributes.append({"group": group, "strides": [step, step], "pads": [kernel // 2] * 4})
        yield from _twice(
            Operator(f"QLinearConv {np.dtype(x_type)}", "QLinearConv", sets, attributes, domain="")
        )


def products() -> Iterator[Operator]:
    """QGemm, QLinearMatMul, MatMulInteger, ConvInteger and their float relatives."""
    for dtype in (np.int8, np.uint8):
        rng, kind = np.random.default_rng(np.iinfo(dtype).max), np.dtype(dtype)
        gemms, matmuls, sums, floats = [], [], [], []
        for _ in range(24):
            m, k, n = (int(v) for v in rng.integers(1, [20, 100, 40]))
            a = {
                "x": _codes(rng, dtype, (m, k)), "a_scale": _scale(rng),
                "a_zero": _codes(rng, dtype),
            }  # fmt: skip
            b = {
                "B": _codes(rng, np.int8, (k, n)),
                "b_scale": rng.uniform(0.01, 1, n).astype(F), "b_zero": np.zeros(n, np.int8),
            }  # fmt: skip
            y = {"y_scale": _scale(rng, 1, 100), "y_zero": _codes(rng, dtype)}
            bias = {"C": rng.integers(-5000, 5000, n).astype(np.int32)}
            gemms.append(a | b | bias | y)
            matmuls.append(a | b | y)
            sums.append({"x": a["x"], "B": b["B"], "a_zero": a["a_zero"], "b_zero": b["b_zero"]})
            floats.append({
                "x": a["x"], "B": b["B"], "a_scale": a["a_scale"], "b_scale": b["b_scale"],
                "a_zero": a["a_zero"], "b_zero": b["b_zero"],
                "bias": rng.normal(0, 10, n).astype(F),
            })  # fmt: skip
        for op_type, sets, domain in (
            ("QGemm", gemms, CONTRIB), ("MatMulInteger", sums, ""),
            ("MatMulIntegerToFloat", floats, CONTRIB),
        ):  # fmt: skip
            name, plain = f"{op_type} {kind}", [{}] * len(sets)
            yield from _twice(Operator(name, op_type, sets, plain, domain=domain))
        for opset in (20, 21):  # the session entry does not know the operator of opset 21
            name, plain = f"QLinearMatMul-{opset} {kind}", [{}] * len(sets)
            made = Operator(name, "QLinearMatMul", matmuls, plain, domain="", opset=opset)
            yield from _twice(made)
    rng = np.random.default_rng(0)
    sets = [
        {
            "x": rng.normal(0, 1, (m, k)).astype(F), "B": _codes(rng, np.int8, (k, n)),
            "b_scale": rng.uniform(0.01, 1, n).astype(F), "b_zero": np.zeros(n, np.int8),
            "bias": rng.normal(0, 10, n).astype(F),
        }
        for m, k, n in rng.integers(1, [20, 100, 40], (24, 3)).tolist()
    ]  # fmt: skip
    name = "DynamicQuantizeMatMul"
    yield from _twice(Operator(name, name, sets, [{}] * len(sets)), saturates=True)
    for w_type in (np.int8, np.uint8):
        sets = [
            {
                "x": _codes(rng, np.uint8, (2, c, 9, 11)), "w": _codes(rng, w_type, (m, c, 3, 3)),
                "x_zero": _codes(rng, np.uint8), "w_zero": np.zeros((), w_type),
            }
            for c, m in rng.integers(1, 20, (12, 2)).tolist()
        ]  # fmt: skip
        name, pads = f"ConvInteger uint8 by {np.dtype(w_type)}", [{"pads": [1] * 4}] * len(sets)
        made = Operator(name, "ConvInteger", sets, pads, domain="")
        yield from _twice(made, saturates=w_type is np.int8)


def _twice(case: Operator, saturates: bool | None = None) -> Iterator[Operator]:
    """A case; where uint8 meets int8 also with the entry that asks for exact products."""
    yield case
    if saturates is None:
        saturates = case.sets[0]["x"].dtype == np.uint8
    if saturates:
        yield replace(case, name=f"{case.name}.exact")


def pools() -> Iterator[Operator]:
    """Both average pools, with means that are ties among them."""
    for dtype in (np.int8, np.uint8):
        rng, kind = np.random.default_rng(np.iinfo(dtype).max), np.dtype(dtype)
        whole, windows, attributes = [], [], []
        for k in range(40):
            h, w = (int(v) for v in rng.integers(1, 9, 2))
            x_scale = F(rng.integers(1, 60) / 8) if k % 2 else _scale(rng, 0.01)
            share = rng.integers(1, 7) / (h * w) if k % 2 else rng.uniform(0.1, 1)
            given = {
                "x": _codes(rng, dtype, (2, 24, h, w)), "x_scale": x_scale,
                "x_zero": _codes(rng, dtype), "y_scale": F(x_scale * share),
                "y_zero": _codes(rng, dtype),
            }  # fmt: skip
            whole.append(given)
            windows.append(given)
            attributes.append({"kernel_shape": [int(rng.integers(1, h + 1)), 1 + w // 2]})
        name = "QLinearGlobalAveragePool"
        yield Operator(f"{name} {kind}", name, whole, [{}] * len(whole))
        yield Operator(f"QLinearAveragePool {kind}", "QLinearAveragePool", windows, attributes)


def of_one_tensor() -> Iterator[Operator]:
    """Operators that ONNX Runtime computes by a table of 256 values, and softmax."""
    for dtype in (np.int8, np.uint8):
        rng, kind = np.random.default_rng(np.iinfo(dtype).max), np.dtype(dtype)
        every = EVERY[kind]
        sets, joined, wheres = [], [], []
        for k in range(200):
            scales = (
                F(2) ** rng.integers(-8, 3, 2).astype(F)
                if k % 4 == 3
                else F(rng.uniform(0.001, 1, 2))
            )
            y_scale = F(rng.uniform(0.5, 2) / 255) if k % 2 else scales[1]
            sets.append({
                "x": every, "x_scale": scales[0], "x_zero": _codes(rng, dtype),
                "y_scale": y_scale, "y_zero": _codes(rng, dtype),
            })  # fmt: skip
            given = list(sets[-1].values())
            joined.append(dict(zip(
                ("y_scale", "y_zero", "x", "x_scale", "x_zero", "x1", "x1_scale", "x1_zero"),
                (*given[3:], *given[:3], every[:100], *given[3:]), strict=True,
            )))  # fmt: skip
            wheres.append(dict(zip(
                ("c", "x", "x_scale", "x_zero", "x1", "x1_scale", "x1_zero", "y_scale", "y_zero"),
                (np.array([[True], [False]]), *given[:3], every[::-1].copy(), scales[1],
                 _codes(rng, dtype), *given[3:]), strict=True,
            )))  # fmt: skip
        alphas = [{"alpha": float(_scale(rng))} for _ in sets]
        plain = [{}] * len(sets)
        yield Operator(f"QLinearSigmoid {kind}", "QLinearSigmoid", sets, plain)
        yield Operator(f"QLinearLeakyRelu {kind}", "QLinearLeakyRelu", sets, alphas)
        yield Operator(
            f"QLinearConcat {kind}", "QLinearConcat", joined, [{"axis": 0}] * 200, ["x", "x1"]
        )
        yield Operator(f"QLinearWhere {kind}", "QLinearWhere", wheres, plain, ["x", "x1"])
        softmaxes = [
            {
                "x": _codes(rng, dtype, (4, int(rng.integers(1, 300)))),
                "x_scale": F(rng.choice([0.1, 0.25, rng.uniform(0.001, 0.5)])),
                "x_zero": _codes(rng, dtype), "y_scale": F(1 / 256),
                "y_zero": np.array(np.iinfo(dtype).min, dtype),
            }
            for _ in range(60)
        ]  # fmt: skip
        options = [{"opset": 13, "axis": -1}] * len(softmaxes)
        yield Operator(f"QLinearSoftmax {kind}", "QLinearSoftmax", softmaxes, options)


def to_and_from_float() -> Iterator[Operator]:
    """QuantizeLinear on ties and beside them, DequantizeLinear, DynamicQuantizeLinear."""
    for dtype in (np.int8, np.uint8):
        rng, kind = np.random.default_rng(np.iinfo(dtype).max), np.dtype(dtype)
        quantized, back = [], []
        for _ in range(20):
            scale = _scale(rng)
            ties = ((rng.integers(-300, 300, 500) + 0.5) * scale).astype(F)
            beside = [np.nextafter(ties, F(s * np.inf)) for s in (1, -1)]
            zero = _codes(rng, dtype)
            x = np.concatenate([ties, *beside, F([np.nan, np.inf, -np.inf, -0.0])])
            quantized.append({"x": x, "y_scale": scale, "y_zero": zero})
            back.append({"x": EVERY[kind], "x_scale": scale, "x_zero": zero})
        for op_type, sets in (("QuantizeLinear", quantized), ("DequantizeLinear", back)):
            yield Operator(f"{op_type} {kind}", op_type, sets, [{}] * len(sets), domain="")
    rng = np.random.default_rng(0)
    sets = []
    for k in range(60):
        least = rng.integers(0, 255) + 0.5
        x = np.append(rng.uniform(-least, 255 - least, 300), [-least, 255 - least])
        if k % 3:  # the others have a zero point on a tie
            x = rng.normal(rng.normal(), 1, 300) * rng.choice([1e-3, 1, 1e3])
        sets.append({"x": x.astype(F)})
    name = "DynamicQuantizeLinear"
    yield Operator(name, name, sets, [{}] * len(sets), domain="", outputs=3)


def operators(models: Path) -> Iterator[Operator]:
    """Every operator that the reference computes, but those that only move elements."""
    yield from additions(models)
    yield from multiplications()
    yield from convolutions()
    yield from products()
    yield from pools()
    yield from of_one_tensor()
    yield from to_and_from_float()
