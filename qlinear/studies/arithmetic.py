"""What a setting does to a network: other sums, another stage 2, or fewer bits, layer by layer.

The layers that vary are those with constant 8-bit weights and an 8-bit result: QLinearConv, QGemm
and QLinearMatMul. All else is computed as it always is.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.hardware import accumulators, analog, requantizers, variants
from qlinear.hardware.analog import Array
from qlinear.onnx_model import Model, Node
from qlinear.operators import qlinear_conv as qc
from qlinear.operators import qlinear_conv_fast as fast
from qlinear.operators.arithmetic import centred, requantize, signed_bits
from qlinear.operators.qgemm import as_conv
from qlinear.operators.qlinear_conv import Conv
from qlinear.quantized import FLOAT_MAC, INTEGER_MAC
from qlinear.studies.settings import AT_END, EVERY, WRAP, Setting, array_of

# x (N, C, spatial...) and where noise comes from to y (N, M, out...)
Compute = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True, eq=False)
class Layer:
    """A node that can vary, as the convolution that it is."""

    name: str
    node: Node
    conv: Conv

    @property
    def x_name(self) -> str:
        return self.node.inputs[0]

    @property
    def y_name(self) -> str:
        return self.node.outputs[0]

    def as_image(self, x: np.ndarray) -> np.ndarray:
        """The layer's input as a convolution has it."""
        if self.node.op_type == "QLinearConv":
            return x
        return x.reshape(-1, x.shape[-1], 1, 1)

    def as_output(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The convolution's output in the layer's own shape."""
        return y if self.node.op_type == "QLinearConv" else y.reshape(*x.shape[:-1], -1)


def layers_of(graph: Model) -> tuple[dict[str, Layer], dict[str, str]]:
    """The layers that can vary, by name, and why the other multiply-accumulate nodes cannot."""
    names = [node.name for node in graph.nodes]
    found: dict[str, Layer] = {}
    left: dict[str, str] = {}
    for node in graph.nodes:
        name = node.name if names.count(node.name) == 1 else node.outputs[0]
        if node.op_type not in (*INTEGER_MAC, *FLOAT_MAC):
            continue
        if node.op_type in FLOAT_MAC:
            left[name] = f"{node.operator}, a float operator"
            continue
        try:
            conv = _record(graph, node)
            conv.require_legal()
        except (UnusableInput, TypeError) as error:
            why = str(error).removeprefix(f"{graph.path}: node {node.name}: ")
            left[name] = f"{node.operator}: {why}"
        else:
            found[name] = Layer(name, node, conv)
    return found, left


def _record(graph: Model, node: Node) -> Conv:
    arguments = graph.arguments(node)
    if node.op_type == "QLinearConv":
        return graph.conv(node)
    if node.op_type not in ("QGemm", "QLinearMatMul"):
        raise UnusableInput("its sums are no 8-bit result")
    named = [name for name in graph.names(node) if name not in ("A", "a")]
    if missing := [name for name in named if name not in arguments]:
        raise UnusableInput(f"{missing[0]} is not a constant")
    if node.op_type == "QGemm":
        if "y_scale" not in arguments:
            raise UnusableInput("its result is float")
        if node.attributes.get("alpha", 1.0) != 1 or node.attributes.get("transA", 0):
            raise UnusableInput("alpha or transA is set")
        attributes = {"transB": node.attributes.get("transB", 0)}
        bias = arguments.get("C")
        if bias is not None and bias.ndim == 2 and bias.shape[0] == 1:
            arguments["C"] = bias[0]
        return as_conv(**arguments, **attributes)
    b = arguments.pop("b")
    if b.ndim != 2:
        raise UnusableInput(f"b has {b.ndim} axes")
    scales = {k: arguments[k].reshape(-1) if arguments[k].size > 1 else arguments[k].reshape(())
              for k in ("b_scale", "b_zero_point")}  # fmt: skip
    return Conv(
        arguments["a_scale"],
        arguments["a_zero_point"],
        b.T[:, :, None, None],
        scales["b_scale"],
        scales["b_zero_point"],
        arguments["y_scale"],
        arguments["y_zero_point"],
    )


def proven_bits(layers: Iterable[Layer]) -> int:
    """Bits of an accumulator that no input of any of these layers can pass, in any order."""
    ranges = [layer.conv.register_range() for layer in layers]
    return max(signed_bits(low.min(), high.max()) for low, high in ranges)


# --- one layer


def vary(setting: Setting, layer: Layer, array: Array | None = None) -> Compute | None:
    """How a layer is computed under a setting; None where it stays as it is, by the setting.

    Args:
        array: of a setting of section ``analog``, with its range calibrated.

    Raises:
        UnusableInput: the layer cannot be computed so, for the reason given.
    """
    conv = layer.conv
    if setting.section == "accumulators":
        bits = setting["bits"]
        if setting["how"] == EVERY:
            return _summed(conv, partial(accumulators.saturating_sum, bits=bits, tile=1))
        narrow = {WRAP: accumulators.wrap, AT_END: accumulators.clamp}[setting["how"]]
        return _staged(conv, partial(narrow, bits=bits), requantize)
    if setting.section == "requantization":
        return _staged(conv, None, _requantizer(setting, conv))
    if setting.section == "bit_widths":
        other = narrowed(conv, setting["weights"], setting["per_channel"])
        return None if other is conv else _plain(other)
    if setting.section == "analog":
        return _on_array(conv, array or array_of(dict(setting.values)))
    return None


def _plain(conv: Conv) -> Compute:
    prepared = fast.prepare(
        *(conv.x_scale, conv.x_zero_point, conv.w, conv.w_scale, conv.w_zero_point),
        *(conv.y_scale, conv.y_zero_point, conv.B),
        **conv.attributes,
    )
    return lambda x, rng: prepared(x)


def _staged(conv: Conv, accumulator: Callable | None, requantizer: Callable) -> Compute:
    def compute(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        geo = conv.geometry(x.shape)
        padded = qc.pad(x, conv.x_zero_point, geo)
        sums = fast.accumulate(padded, conv.x_zero_point, conv.w, conv.w_zero_point, geo)
        acc = qc.add_bias(sums, conv.B)
        if accumulator is not None:
            acc = accumulator(acc)
        return requantizer(acc, conv.factor, conv.y_zero_point)

    return compute


def _summed(conv: Conv, summation: Callable) -> Compute:
    """Sums of products by ``summation``, group by group."""

    def compute(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        acc = variants.summed(x, conv, summation)
        return requantize(acc, conv.factor, conv.y_zero_point)

    return compute


def _requantizer(setting: Setting, conv: Conv) -> Callable:
    """Stage 2 in integers; its multipliers and shifts are made here, once.

    Raises:
        UnusableInput: a factor is so small, or so large, that 64-bit integers do not hold it.
    """
    bits, rounding = setting["multiplier_bits"], setting["rounding"]
    if not (conv.factor > 0).all():
        raise UnusableInput("a factor is 0")
    if bits:
        multiplier, shift = requantizers.fixed_point(conv.factor, bits)
    else:
        multiplier, shift = requantizers.power_of_two(conv.factor)
    # a shift to the left goes into the multiplier, so that one to the right is left
    left = np.maximum(1 - shift, 0)
    if shift.max() > 62 or left.max() > 31 - max(bits, 1):
        raise UnusableInput(f"its shift is {shift.min()} to {shift.max()}, out of 64-bit integers")
    multiplier, shift = multiplier << left, shift + left

    def stage_2(acc: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        return requantizers.requantize_fixed(acc, multiplier, shift, zero, rounding)

    return stage_2


def _on_array(conv: Conv, array: Array) -> Compute:
    _require_cells(conv)
    return lambda x, rng: variants.on_array(x, conv, array, rng)


def _require_cells(conv: Conv) -> None:
    """Refuse weights that no cells take: those of 9 bits, uint8 less a zero point."""
    rows = centred(conv.w, conv.w_zero_point)
    if rows.min() < -128 or rows.max() > 127:
        raise UnusableInput(f"weights in {rows.min()} ... {rows.max()}: cells take -128 ... 127")


def calibrated(setting: Setting, layer: Layer, images: Iterable[np.ndarray]) -> Array:
    """The array of a layer, with the range of its converters from counts of these inputs of it.

    Raises:
        UnusableInput: its weights are none that cells take.
    """
    _require_cells(layer.conv)
    array = array_of(dict(setting.values))
    perfect, top = analog.ideal(array), 1.0
    for x in images:
        columns, rows, _ = variants.grouped_products(layer.as_image(x), layer.conv)
        top = max(top, analog.observed(columns, rows, perfect))
    return replace(array, adc=replace(array.adc, top=top))


# --- fewer bits


def narrowed(conv: Conv, bits: int, per_channel: bool) -> Conv:
    """A layer with weights of ``bits`` bits, made of the integers that it has.

    They are symmetric, -top ... top with top = 2**(bits - 1) - 1, of the scale that takes the
    greatest of a channel, or of the layer, to top; the bias is rounded to the new scales. Weights
    that fit as they are stay as they are. What float weights lost on their way to the file's
    integers stays lost, so another rounding of the float weights may do better.
    """
    if bits == 8 and (per_channel or conv.w_scale.size == 1):
        return conv
    top = (1 << (bits - 1)) - 1
    M, axes = len(conv.w), tuple(range(1, conv.w.ndim))
    w = centred(conv.w, conv.w_zero_point, np.int64)
    old = np.broadcast_to(np.asarray(conv.w_scale, np.float64).reshape(-1), M)
    if per_channel or conv.w_scale.size == 1:
        greatest = np.abs(w).max(axis=axes) if per_channel else np.abs(w).max()
        new = old * np.maximum(1, greatest / top)
    else:
        new = np.broadcast_to((np.abs(w).max(axis=axes) * old).max() / top, M)
    if (new == old).all():
        return conv
    new = new.astype(np.float32)
    ratio = old / new.astype(np.float64)
    values = np.rint(w * ratio.reshape(-1, *(1,) * len(axes)))
    values = np.clip(values, -top, top).astype(np.int8)
    bias = None
    if conv.B is not None:
        bias = np.clip(np.rint(conv.B * ratio), -(2**31), 2**31 - 1).astype(np.int32)
    made = Conv(conv.x_scale, conv.x_zero_point, values, new, np.zeros(M, np.int8),
                conv.y_scale, conv.y_zero_point, bias, conv.attributes)  # fmt: skip
    made.require_legal()
    return made


def coarser(q: np.ndarray, zero_point: int, bits: int) -> np.ndarray:
    """An 8-bit tensor of which ``bits`` bits are kept: multiples of 2**(8 - bits) from zero on.

    256 neighbouring integers hold just 2**bits of these, so that this is a type of ``bits`` bits,
    whose scale is 2**(8 - bits) times as large; real 0 stays exact. Ties go to even.

    >>> coarser(np.array([-128, -3, -2, 0, 6, 127], np.int8), -128, 4).tolist()
    [-128, 0, 0, 0, 0, 112]
    """
    step = 1 << (8 - bits)
    info = np.iinfo(q.dtype)
    least = -((zero_point - info.min) // step)
    greatest = (info.max - zero_point) // step
    levels = np.rint((q.astype(np.float32) - np.float32(zero_point)) / np.float32(step))
    return (np.clip(levels, least, greatest) * step + zero_point).astype(q.dtype)


def zero_point_of(graph: Model, node: Node) -> int | None:
    """The zero point of a node's own 8-bit output; None where it has none, or no constant."""
    own = [name for name in graph.names(node)
           if name.endswith("zero_point") and name.lower()[0] in "cyz"]  # fmt: skip
    if not own:  # left out, it is 0; what only moves integers has none
        return 0 if node.op_type.startswith(("QuantizeLinear", "QLinear", "QGemm")) else None
    value = graph.arguments(node).get(own[-1])
    return None if value is None or value.size != 1 else int(value.reshape(()))
