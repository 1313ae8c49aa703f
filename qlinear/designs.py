"""A node as some hardware computes it, in parts that a mistake can change one by one.

:func:`design_of` makes the design that computes what ONNX Runtime does; a mistake
(:mod:`qlinear.mistakes`) is another design, made of it by changing a field. Stage 1 is a record of
its own, which designs share while they differ in stage 2 only, so its sums are computed once:

    first.acc             the integers, or the operands, that stage 2 sees
    value(design)         them scaled: floats, or integers with a shift (:class:`Fixed`)
    rounding, y_zero      rounded to integers; the zero point goes in after, before, or with value
    late                  integers that are added after the rounding; none in a right design
    saturate              to the range of y
    after                 what happens to the finished tensor, such as another order of elements

Whole tensors are int64 on the way, so that what an 8-bit result loses is still there.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from qlinear.engine import arguments
from qlinear.errors import UnusableInput
from qlinear.hardware.requantizers import shift_right
from qlinear.onnx_model import Model, Node
from qlinear.operators import arithmetic as ar
from qlinear.operators import qlinear_add as qa
from qlinear.operators import qlinear_conv as qc
from qlinear.operators.qgemm import as_conv
from qlinear.operators.qlinear_global_average_pool import pool_scale
from qlinear.operators.quantize_linear import RANGES, along

# float values beyond this saturate in any 8-bit type; below it int64 holds them
BEYOND = 1 << 40


@dataclass(frozen=True, eq=False)
class Fixed:
    """Numbers product / 2**shift, exact: int64, and int64 of a shape that broadcasts."""

    product: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True, eq=False)
class Sum:
    """Stage 1 of a convolution or dense layer: bias + sum of (x - x_zero) * (w - w_zero)."""

    x: np.ndarray  # stored integers (N, C, spatial...)
    x_zero: int
    w: np.ndarray  # stored integers (M, C / group, kernel...)
    w_zero: np.ndarray  # int64 (M,)
    bias: np.ndarray  # int64 (M,)
    geo: qc.Geometry
    scales: tuple[np.ndarray, np.ndarray, np.ndarray]  # float32 of x (), of w (M,), of y ()
    pad: int | str = 0  # the padded x - x_zero; or a mode of numpy.pad
    narrow: Callable[[np.ndarray], np.ndarray] | None = None  # what a register makes of x - x_zero
    # (columns (N, taps, positions), rows (M, taps), bias (M,)) to sums (N, M, positions)
    collect: Callable[..., np.ndarray] | None = None
    finish: Callable[[np.ndarray], np.ndarray] | None = None  # what the register does to acc
    # of the outputs that are computed, the positions on each axis; by default all
    sample: tuple[np.ndarray, ...] | None = None

    @cached_property
    def terms(self) -> np.ndarray:
        """x - x_zero with its padding: int32 (N, C, padded spatial...)."""
        terms = self.x.astype(np.int32) - self.x_zero
        terms = terms if self.narrow is None else self.narrow(terms)
        widths = [(0, 0), (0, 0), *zip(self.geo.begin, self.geo.end, strict=True)]
        if isinstance(self.pad, str):
            return np.pad(terms, widths, mode=self.pad)
        return np.pad(terms, widths, constant_values=self.pad)

    @cached_property
    def rows(self) -> np.ndarray:
        """w - w_zero: int32 (group, M / group, taps)."""
        rows = self.w.reshape(len(self.w), -1).astype(np.int32) - self.w_zero[:, None]
        return rows.astype(np.int32).reshape(self.geo.group, -1, rows.shape[1])

    @property
    def positions(self) -> tuple[int, ...]:
        """The shape of acc, without images and channels."""
        return self.geo.out if self.sample is None else self.sample[0].shape

    def columns(self, dtype: type) -> np.ndarray:
        """Every window as a column: (N, group, taps, positions)."""
        terms = self.terms.astype(dtype)
        if self.sample is None:
            return qc.patches(terms, self.geo)
        picked = qc.windows(terms, self.geo)[(slice(None), slice(None), *self.sample)]
        picked = picked.reshape(len(picked), self.geo.group, -1, *picked.shape[2:])
        picked = np.moveaxis(picked, 3, -1)  # (N, group, channels, kernel..., positions)
        return picked.reshape(*picked.shape[:2], -1, picked.shape[-1])

    @cached_property
    def acc(self) -> np.ndarray:
        """int32 (N, M, out...), or (N, M, positions) of a sample."""
        shape = len(self.x), len(self.w), *self.positions
        if self.collect is not None:
            columns = self.columns(np.int32)
            bias = self.bias.reshape(self.geo.group, -1)
            parts = [
                self.collect(columns[:, g], self.rows[g], bias[g]) for g in range(self.geo.group)
            ]
            acc = np.concatenate(parts, axis=1).reshape(shape)
        else:
            largest = int(np.abs(self.terms).max(initial=0))
            bound = largest * int(np.abs(self.rows).sum(axis=2, dtype=np.int64).max())
            dtype = ar.exact_float(bound)
            columns = self.columns(dtype)
            sums = ar.to_int32(self.rows.astype(dtype) @ columns, bound).reshape(shape)
            acc = sums.astype(np.int64) + ar.per_channel(self.bias, sums.ndim)
        acc = acc if self.finish is None else self.finish(acc)
        return acc.astype(np.int32)

    @property
    def factor(self) -> np.ndarray:
        return ar.requantization_scale(*self.scales)


@dataclass(frozen=True, eq=False)
class Pool:
    """Stage 1 of a global average pool: the sum of x - x_zero over an image."""

    x: np.ndarray  # stored integers (N, C, spatial...)
    x_zero: int
    scales: tuple[np.ndarray, np.ndarray]  # float32 () of x and of y
    pixels: int  # that the sum is divided by, in the factor
    collect: Callable[[np.ndarray], np.ndarray] | None = None  # (N, C, pixels) to (N, C)
    finish: Callable[[np.ndarray], np.ndarray] | None = None

    @cached_property
    def acc(self) -> np.ndarray:
        """int32 (N, C, 1...)."""
        terms = (self.x.astype(np.int32) - self.x_zero).reshape(*self.x.shape[:2], -1)
        acc = terms.sum(axis=2) if self.collect is None else self.collect(terms)
        acc = acc if self.finish is None else self.finish(acc)
        return acc.reshape(*self.x.shape[:2], *[1] * (self.x.ndim - 2)).astype(np.int32)

    @property
    def factor(self) -> np.ndarray:
        x_scale, y_scale = self.scales
        return np.asarray(pool_scale(x_scale, y_scale, self.pixels))


@dataclass(frozen=True, eq=False)
class Pair:
    """What a residual add sees: two tensors of one shape, and three scales and zero points.

    The first is the one that ONNX Runtime's kernel multiplies last.
    """

    a: np.ndarray  # stored integers
    b: np.ndarray
    a_scale: np.float32
    b_scale: np.float32
    y_scale: np.float32
    a_zero: int
    b_zero: int
    swapped: bool = False  # a is the operator's B


@dataclass(frozen=True, eq=False)
class Real:
    """What QuantizeLinear sees: real numbers, and scales that broadcast."""

    x: np.ndarray  # float32
    y_scale: np.ndarray  # float32


First = Sum | Pool | Pair | Real


def clamp(rounded: np.ndarray, zero: np.ndarray, low: int, high: int) -> np.ndarray:
    """Saturate to the type of y: the right way."""
    return np.clip(rounded + zero, low, high)


@dataclass(frozen=True, eq=False)
class Design:
    """A node as some hardware computes it (see the top of this module)."""

    first: First | None  # None where only the finished tensor is known
    value: Callable[["Design"], np.ndarray | Fixed]
    dtype: np.dtype  # of y
    shape: tuple[int, ...]  # of y
    y_zero: int | np.ndarray = 0
    factor: np.ndarray | None = None  # float32, one or (M,)
    rounding: str = "half even"
    place: str = "after"  # where y_zero goes in: after the rounding, before it, or inside value
    late: int | np.ndarray = 0  # integers that are added after the rounding
    saturate: Callable[..., np.ndarray] = clamp
    after: tuple[Callable[["Design", np.ndarray], np.ndarray], ...] = ()
    earlier: dict[str, np.ndarray] = field(default_factory=dict)  # other tensors of x's kind

    @property
    def limits(self) -> tuple[int, int]:
        return RANGES[np.dtype(self.dtype).name]

    def rounded(self) -> np.ndarray:
        """After the rounding: int64, without y_zero if that goes in later."""
        value = self.value(self)
        if self.place == "before":
            value = shifted(value, self.y_zero)
        return round_to_integer(value, self.rounding) + self.late

    def outcome(self) -> np.ndarray:
        """What this design gives: int64 of y's shape, 8 bits not enforced; floats as they are."""
        if self.first is None:
            y = self.value(self)
        else:
            zero = self.y_zero if self.place == "after" else 0
            y = self.saturate(self.rounded(), zero, *self.limits).reshape(self.shape)
        for change in self.after:
            y = change(self, y)
        return y


def shifted(value: np.ndarray | Fixed, zero: np.ndarray) -> np.ndarray | Fixed:
    """value + zero, before the rounding."""
    if isinstance(value, Fixed):
        return Fixed(value.product + (np.asarray(zero, np.int64) << value.shift), value.shift)
    return value + np.asarray(zero).astype(value.dtype)


def round_to_integer(value: np.ndarray | Fixed, rounding: str) -> np.ndarray:
    """int64: value rounded by one of ``ROUNDINGS``."""
    if isinstance(value, Fixed):
        return ROUNDINGS[rounding][1](value.product, value.shift)
    with np.errstate(invalid="ignore"):
        rounded = ROUNDINGS[rounding][0](value)
    wide = np.nan_to_num(rounded.astype(np.float64), nan=-BEYOND, posinf=BEYOND, neginf=-BEYOND)
    return np.clip(wide, -BEYOND, BEYOND).astype(np.int64)


def _half_up(v: np.ndarray) -> np.ndarray:
    floor = np.floor(v)
    return floor + (v - floor >= 0.5)  # the difference is exact


def _half_away(v: np.ndarray) -> np.ndarray:
    return np.copysign(_half_up(np.abs(v)), v)


def _by(name: str) -> Callable:
    return lambda product, shift: shift_right(product, shift, name)


def _toward_zero(product: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return np.sign(product) * (np.abs(product) >> shift)


def _of_magnitude(function: Callable) -> Callable:
    return lambda v: np.copysign(function(np.abs(v)), v)


# name: how floats, and integers with a shift, are rounded
ROUNDINGS: dict[str, tuple[Callable, Callable]] = {
    "half even": (np.rint, _by("half even")),
    "half up": (_half_up, _by("half up")),
    "half up in float32": (lambda v: np.floor(v + v.dtype.type(0.5)), _by("half up")),
    "half away": (_half_away, _by("half away")),
    "half down": (lambda v: -_half_up(-v), lambda p, s: -shift_right(-p, s, "half up")),
    "floor": (np.floor, _by("truncate")),
    "ceil": (np.ceil, lambda p, s: -shift_right(-p, s, "truncate")),
    "toward zero": (np.trunc, _toward_zero),
}


def with_requantizer(design: Design, function: Callable[..., np.ndarray]) -> Design:
    """A design whose stage 2 is one function, such as a library's requantizer.

    Args:
        function: takes acc, int32 (N, M, ...), the float32 factor, one or (M,), and y_zero_point,
            and returns y, as :func:`qlinear.operators.arithmetic.requantize` does.
    """

    def value(changed: Design) -> np.ndarray:
        zero = np.asarray(changed.y_zero, changed.dtype)
        return function(changed.first.acc, changed.factor, zero).astype(np.float64)

    return replace(design, value=value, rounding="half even", place="inside")


def in_float32(design: Design) -> np.ndarray:
    """float32(acc) * factor: the value of every sum that ONNX Runtime requantizes."""
    return ar.rescale(design.first.acc, design.factor)


def fused_add(design: Design) -> np.ndarray:
    """QLinearAdd's two fused multiply-adds, with the zero point inside (qlinear_add.py)."""
    of: Pair = design.first
    zeros = np.float32(of.a_zero), np.float32(of.b_zero)
    ra, rb, fixed = qa.factors(
        of.a_scale, zeros[0], of.b_scale, zeros[1], of.y_scale, np.float32(design.y_zero)
    )
    a, b = of.a.astype(np.float32), of.b.astype(np.float32)
    return qa.fma(ra, a, qa.fma(rb, b, fixed))


def divided(design: Design) -> np.ndarray:
    """QuantizeLinear's one float32 division."""
    with np.errstate(over="ignore"):
        return design.first.x / design.first.y_scale


# --- the right design of a node


def design_of(
    graph: Model,
    node: Node,
    values: dict[str, np.ndarray],
    y: np.ndarray,
    earlier: dict[str, np.ndarray] | None = None,
) -> Design:
    """The design that computes a node as ONNX Runtime does.

    Of an operator that no design is known of, of which ``first`` is None, only what happens to the
    finished tensor can be tried.

    Args:
        values: the tensors that the node reads, by name; constants may be left out.
        y: what ONNX Runtime makes of them.
        earlier: other tensors, by name, that hardware might read in x's place.
    """
    wide = y.astype(np.int64) if y.dtype.kind in "iub" or y.dtype.name in RANGES else y
    bare = Design(None, lambda design: wide, y.dtype, y.shape)
    if y.dtype.name not in RANGES or node.operator not in DESIGNS:
        return bare
    try:
        found = DESIGNS[node.operator](graph, node, values, bare)
    except (UnusableInput, ValueError, TypeError):  # what the reference does not compute
        return bare
    # where the reference is not ONNX Runtime, it blames nobody
    if found is None or not np.array_equal(found.outcome(), wide):
        return bare
    return replace(found, earlier=earlier or {})


def _given(graph: Model, node: Node, values: dict) -> dict:
    """A node's inputs by their ONNX names; None where omitted."""
    names = list(graph.names(node))
    present = [value for value in arguments(graph, node, values) if value is not None]
    return dict(zip(names, present, strict=True))


def _sums(conv: qc.Conv, x: np.ndarray, bare: Design) -> Design:
    conv.require_legal(x)
    w_scale = np.broadcast_to(np.asarray(conv.w_scale, np.float32), len(conv.w))
    first = Sum(
        x=x, x_zero=int(conv.x_zero_point), w=conv.w,
        w_zero=np.broadcast_to(conv.w_zero_point, len(conv.w)).astype(np.int64),
        bias=conv.bias.astype(np.int64), geo=conv.geometry(x.shape),
        scales=(conv.x_scale, w_scale, conv.y_scale),
    )  # fmt: skip
    return replace(
        bare, first=first, value=in_float32, y_zero=int(conv.y_zero_point), factor=conv.factor
    )


def _conv(graph: Model, node: Node, values: dict, bare: Design) -> Design:
    x, *constants = arguments(graph, node, values)
    return _sums(qc.Conv(*constants, attributes=node.attributes), x, bare)


def _dense(graph: Model, node: Node, values: dict, bare: Design) -> Design | None:
    """A dense layer as a 1x1 convolution of images of one pixel."""
    given = _given(graph, node, values)
    a, b = given.get("A", given.get("a")), given.get("B", given.get("b"))
    if b.ndim != 2 or "y_scale" not in given:
        return None
    x = a.T if node.attributes.get("transA") else a
    alpha = np.float32(node.attributes.get("alpha", 1.0))
    per_row = [np.ravel(given[f"b_{name}"]) for name in ("scale", "zero_point")]
    C = given.get("C")
    if C is not None:
        rows = np.broadcast_to(C, (*np.shape(C)[:-2], 1, bare.shape[-1]))
        C = rows.reshape(-1).astype(np.int32)
    conv = as_conv(
        alpha * ar.one_element(given["a_scale"]), ar.one_element(given["a_zero_point"]), b,
        *(ar.one_element(v) for v in per_row), C, ar.one_element(given["y_scale"]),
        ar.one_element(given["y_zero_point"]), transB=node.attributes.get("transB", 0),
    )  # fmt: skip
    return _sums(conv, x.reshape(-1, x.shape[-1], 1, 1), bare)


def _pool(graph: Model, node: Node, values: dict, bare: Design) -> Design | None:
    given = _given(graph, node, values)
    if node.attributes.get("channels_last"):
        return None
    x = given["X"]
    x_scale, y_scale = (ar.one_element(given[f"{n}_scale"]) for n in "xy")
    x_zero, y_zero = (int(ar.one_element(given[f"{n}_zero_point"])) for n in "xy")
    first = Pool(x, x_zero, (x_scale, y_scale), int(np.prod(x.shape[2:])))
    return replace(bare, first=first, value=in_float32, y_zero=y_zero, factor=first.factor)


def _add(graph: Model, node: Node, values: dict, bare: Design) -> Design:
    given = _given(graph, node, values)
    shape = np.broadcast_shapes(given["A"].shape, given["B"].shape)
    swapped = qa.a_is_constant(given["A"].shape, given["B"].shape)
    p, q = ("B", "A") if swapped else ("A", "B")
    scale = {n: ar.one_element(given[f"{n}_scale"])[()] for n in "ABC"}
    zero = {n: int(ar.one_element(given[f"{n}_zero_point"])) for n in "ABC"}
    a, b = (np.broadcast_to(given[n], shape) for n in (p, q))
    first = Pair(a, b, scale[p], scale[q], scale["C"], zero[p], zero[q], swapped)
    return replace(bare, first=first, value=fused_add, y_zero=zero["C"], place="inside")


def _quantize(graph: Model, node: Node, values: dict, bare: Design) -> Design:
    given = _given(graph, node, values)
    x, axis = given["x"], node.attributes.get("axis", 1)
    block = node.attributes.get("block_size", 0)
    scale = along(given["y_scale"], x.shape, axis, block, "y_scale")
    zero = given.get("y_zero_point", np.zeros((), bare.dtype))
    zero = along(zero, x.shape, axis, block, "y_zero_point").astype(np.int64)
    return replace(bare, first=Real(x, np.asarray(scale)), value=divided, y_zero=zero)


# operators that requantize a sum
SUMMED = ("QLinearConv", "com.microsoft.QGemm", "QLinearMatMul",
          "com.microsoft.QLinearGlobalAveragePool")  # fmt: skip
DESIGNS: dict[str, Callable[[Model, Node, dict, Design], Design | None]] = {
    "QLinearConv": _conv,
    "com.microsoft.QGemm": _dense,
    "QLinearMatMul": _dense,
    "com.microsoft.QLinearGlobalAveragePool": _pool,
    "com.microsoft.QLinearAdd": _add,
    "QuantizeLinear": _quantize,
    "com.microsoft.QuantizeLinear": _quantize,
}
