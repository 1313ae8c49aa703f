"""TensorFlow Lite's operators as LiteRT's reference kernels compute them, on int8.

Each function has the operator's inputs first, then what the file says of them (``types``, one for
each input, and ``y_type``), then the operator's options by their names in TensorFlow Lite's schema.
It gives every step by name, in order; the last one is ``y``. Activations are NHWC.

LiteRT picks these kernels for ``OpResolverType.BUILTIN_REF``. Its default is XNNPACK, in
:mod:`qlinear.tflite.xnnpack`.
"""

import numpy as np

from qlinear.errors import Unsupported
from qlinear.tflite import arithmetic as ar
from qlinear.tflite.arithmetic import Stages, Type, require_type

# --- products


def conv_2d(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    types: tuple[Type | None, ...],
    y_type: Type,
    padding: str,
    stride_w: int,
    stride_h: int,
    fused_activation_function: str = "NONE",
    dilation_w_factor: int = 1,
    dilation_h_factor: int = 1,
    quantized_bias_type: str = "",
) -> Stages:
    """CONV_2D: sums in int32, a fixed-point multiplier for each channel, two roundings.

    Source: LiteRT, tflite/kernels/conv.cc, EvalQuantizedPerChannel, and
    tflite/kernels/internal/reference/integer_ops/conv.h, ConvPerChannel.

    Args:
        x: int8 (N, H, W, C).
        w: int8 (M, KH, KW, C / groups).
        bias: int32 (M,).

    Raises:
        Unsupported: a type, a padding or an activation is another one, or a sum passes 32 bits.
    """
    factor = conv_factor(types, y_type, len(w))
    place = windows_of(x, w.shape[1:3], padding, (stride_h, stride_w),
                       (dilation_h_factor, dilation_w_factor))  # fmt: skip
    sums = conv_sums(x, w, types[0].zero, place)
    return requantized(sums, bias, factor, fused_activation_function, y_type)


def depthwise_conv_2d(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    types: tuple[Type | None, ...],
    y_type: Type,
    padding: str,
    stride_w: int,
    stride_h: int,
    depth_multiplier: int = 0,
    fused_activation_function: str = "NONE",
    dilation_w_factor: int = 1,
    dilation_h_factor: int = 1,
) -> Stages:
    """DEPTHWISE_CONV_2D: each channel by itself, requantized as CONV_2D.

    Output channel m reads input channel m // multiplier; the multiplier is that of the shapes, the
    option ``depth_multiplier`` is not read.

    Source: LiteRT, tflite/kernels/depthwise_conv.cc, and
    tflite/kernels/internal/reference/integer_ops/depthwise_conv.h, DepthwiseConvPerChannel.

    Args:
        x: int8 (N, H, W, C).
        w: int8 (1, KH, KW, M), M a multiple of C.
        bias: int32 (M,).

    Raises:
        Unsupported: as for :func:`conv_2d`.
    """
    factor = conv_factor(types, y_type, w.shape[3], axis=3)
    place = windows_of(x, w.shape[1:3], padding, (stride_h, stride_w),
                       (dilation_h_factor, dilation_w_factor))  # fmt: skip
    sums = depthwise_sums(x, w, types[0].zero, place)
    return requantized(sums, bias, factor, fused_activation_function, y_type)


def fully_connected(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    types: tuple[Type | None, ...],
    y_type: Type,
    fused_activation_function: str = "NONE",
    weights_format: str = "DEFAULT",
    keep_num_dims: bool = False,
    asymmetric_quantize_inputs: bool = False,
    quantized_bias_type: str = "",
) -> Stages:
    """FULLY_CONNECTED: sums in int32, the factor in float64, ties away from zero.

    The convolutions have a fixed-point multiplier instead.

    Source: LiteRT, tflite/kernels/fully_connected.cc, and
    tflite/kernels/internal/reference/integer_ops/fully_connected.h, FullyConnected and
    FullyConnectedPerChannel with float scales.

    Args:
        x: int8, of which each row of w's length is one input.
        w: int8 (M, n); its zero point counts where it has one scale.
        bias: int32 (M,).

    Raises:
        Unsupported: as for :func:`conv_2d`.
    """
    if weights_format != "DEFAULT":
        raise Unsupported(f"weights_format {weights_format}: DEFAULT needed")
    sums, shape = dense_sums(x, w, types, keep_num_dims)
    factor = conv_factor(types, y_type, len(w), zero_points=True)
    acc = with_bias(sums, bias)
    real = acc.astype(np.float64) * factor
    rounded = ar.round_away(real)
    if rounded.size and not np.abs(rounded).max() < 2**31:
        raise Unsupported("acc * factor passes 32 bits")
    scaled = rounded.astype(np.int64)
    found = {"sums": sums, "acc": acc, "factor": factor, "acc * factor": real, "scaled": scaled,
             **ar.finish(scaled, fused_activation_function, y_type)}  # fmt: skip
    # one number a channel keeps its shape
    return {k: v.reshape(shape) if v.size == sums.size and v.ndim else v for k, v in found.items()}


def conv_factor(
    types: tuple[Type | None, ...],
    y_type: Type,
    channels: int,
    *,
    axis: int = 0,
    zero_points: bool = False,
) -> np.ndarray:
    """x_scale * w_scale / y_scale in float64, one a channel, of operands that are checked.

    Source: LiteRT, tflite/kernels/kernel_util.cc, PopulateConvolutionQuantizationParams.
    """
    x, w, *rest = types
    for name, given in (("x", x), ("w", w), ("y", y_type)):
        require_type(name, given, "int8")
    if rest and rest[0] is not None:
        require_type("bias", rest[0], "int32")
    if w.zero_point.any() and not (zero_points and w.scale.size == 1):
        raise Unsupported("w has a zero point: 0 needed")
    several = w.scale.size > 1
    if w.scale.size not in (1, channels) or (several and w.axis != axis):
        raise Unsupported(f"w has {w.scale.size} scales along axis {w.axis}: 1, or {channels} "
                          f"along axis {axis} needed")  # fmt: skip
    if not np.isfinite(w.scale).all() or (w.scale < 0).any():
        raise Unsupported("w has a scale that is not finite, or negative")
    scales = np.broadcast_to(w.scale, channels).astype(np.float64)
    return np.float64(x.real) * scales / np.float64(y_type.real)


def windows_of(
    x: np.ndarray,
    kernel: tuple[int, ...],
    padding: str,
    stride: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> ar.Windows:
    """The windows of an operator on x (N, H, W, C)."""
    if x.ndim != 4:
        raise Unsupported(f"x has {x.ndim} axes: 4 needed")
    return ar.windows(x.shape[1:3], tuple(kernel), stride, dilation, padding)


def conv_sums(x: np.ndarray, w: np.ndarray, x_zero_point: int, place: ar.Windows) -> np.ndarray:
    """Sums of (x - x_zero_point) * w over every window: int64 (N, OH, OW, M)."""
    depth, count = w.shape[3], x.shape[3]
    if not depth or count % depth or len(w) % (count // depth):
        raise Unsupported(f"x has {count} channels, w shape {w.shape}: groups do not come out even")
    groups = count // depth
    centred = x.astype(np.int16) - np.int16(x_zero_point)
    patches = np.stack([ar.gather(centred, place, tap) for tap in place.taps], axis=3)
    parts = []
    for g, kernel in enumerate(np.split(w, groups)):
        rows = kernel.reshape(len(kernel), -1).T
        part = patches[..., g * depth : (g + 1) * depth]
        parts.append(ar.products(part.reshape(*part.shape[:3], -1), rows))
    return np.concatenate(parts, axis=3)


def depthwise_sums(
    x: np.ndarray, w: np.ndarray, x_zero_point: int, place: ar.Windows
) -> np.ndarray:
    """Sums of each channel by itself: int64 (N, OH, OW, M)."""
    count, channels = x.shape[3], w.shape[3]
    if len(w) != 1 or channels % count:
        raise Unsupported(f"x has {count} channels, w shape {w.shape}: (1, h, w, a multiple) "
                          "needed")  # fmt: skip
    centred = x.astype(np.int64) - x_zero_point
    sums = np.zeros((len(x), *place.out, channels), np.int64)
    for tap in place.taps:
        sums += np.repeat(ar.gather(centred, place, tap), channels // count, 3) * w[0][tap]
    return sums


def dense_sums(
    x: np.ndarray, w: np.ndarray, types: tuple[Type | None, ...], keep_num_dims: bool
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Sums of a FULLY_CONNECTED, int64 (rows, M), and the shape of its output."""
    if w.ndim != 2 or not w.shape[1] or x.size % w.shape[1]:
        raise Unsupported(f"x has shape {x.shape}, w {w.shape}: rows do not come out even")
    if keep_num_dims and x.shape[-1] != w.shape[1]:
        raise Unsupported(f"x has shape {x.shape}, w {w.shape}: other rows, and keep_num_dims")
    require_type("x", types[0], "int8")
    require_type("w", types[1], "int8")
    rows = x.reshape(-1, w.shape[1]).astype(np.int64) - types[0].zero
    w_zero = types[1].zero if types[1].scale.size == 1 else 0
    sums = ar.products(rows, (w.astype(np.int64) - w_zero).T)
    return sums, ((*x.shape[:-1], len(w)) if keep_num_dims else sums.shape)


def with_bias(sums: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Accumulators, the bias included, within 32 bits."""
    if bias is not None and bias.size != sums.shape[-1]:
        raise Unsupported(f"bias has {bias.size} elements: {sums.shape[-1]} needed")
    acc = sums if bias is None else sums + bias.ravel().astype(np.int64)
    return ar.require_32_bits(acc, "acc")


def requantized(
    sums: np.ndarray,
    bias: np.ndarray | None,
    factor: np.ndarray,
    activation: str,
    y_type: Type,
) -> Stages:
    """From sums to y by the fixed-point multiplier of each channel."""
    acc = with_bias(sums, bias)
    found = {"sums": sums, "acc": acc, "factor": factor, **ar.scaled(acc, factor)}
    return found | ar.finish(found["scaled"], activation, y_type)


# --- additions


def add(
    a: np.ndarray,
    b: np.ndarray,
    *,
    types: tuple[Type | None, ...],
    y_type: Type,
    fused_activation_function: str = "NONE",
    pot_scale_int16: bool = True,
) -> Stages:
    """ADD: both inputs in units of 2**-20 of twice the greater scale, added, and scaled.

    Source: LiteRT, tflite/kernels/add.cc, Prepare, and
    tflite/kernels/internal/reference/integer_ops/add.h, AddFunc.

    Args:
        a, b: int8, broadcast to one shape.

    Raises:
        Unsupported: a type or an activation is another one, or y_scale is so small that LiteRT
            ends the process.
    """
    for name, given in (("a", types[0]), ("b", types[1]), ("y", y_type)):
        require_type(name, given, "int8")
    a_scale, b_scale = types[0].real, types[1].real
    twice = np.float64(np.float32(2) * max(a_scale, b_scale))
    out = twice / np.float64(np.float32(2**20) * y_type.real)
    if not out < 1:
        raise Unsupported(f"y_scale {y_type.real} is less than 2^-20 of twice the greater scale")
    found: Stages = {}
    parts = []
    for name, x, given, scale in (("a", a, types[0], a_scale), ("b", b, types[1], b_scale)):
        centred = x.astype(np.int64) - given.zero
        steps = ar.scaled(centred << 20, np.float64(scale) / twice)
        found |= {f"{name}: centred": centred}
        found |= {f"{name}: {k}": v for k, v in steps.items()}
        parts.append(steps["scaled"])
    total = ar.require_32_bits(parts[0] + parts[1], "the sum")
    steps = ar.scaled(total, out)
    found |= {"sum": total, **{f"y: {k}": v for k, v in steps.items()}}
    return found | ar.finish(steps["scaled"], fused_activation_function, y_type)


# --- pools


def average_pool_2d(
    x: np.ndarray,
    *,
    types: tuple[Type | None, ...],
    y_type: Type,
    padding: str,
    stride_w: int,
    stride_h: int,
    filter_width: int,
    filter_height: int,
    fused_activation_function: str = "NONE",
) -> Stages:
    """AVERAGE_POOL_2D: the mean of what lies in the image, ties away from zero; no scales.

    Source: LiteRT, tflite/kernels/internal/reference/integer_ops/pooling.h, AveragePool.

    Args:
        x: int8 (N, H, W, C).
    """
    require_type("x", types[0], "int8")
    require_type("y", y_type, "int8")
    place = windows_of(x, (filter_height, filter_width), padding, (stride_h, stride_w))
    ones = np.ones((1, *x.shape[1:3], 1), np.int64)
    acc = sum(ar.gather(x.astype(np.int64), place, tap) for tap in place.taps)
    count = sum(ar.gather(ones, place, tap) for tap in place.taps)
    if not count.all():
        raise Unsupported("a window has no part in the image")
    mean = np.sign(acc) * ((np.abs(acc) + count // 2) // count)
    found = {"sum": acc, "count": np.broadcast_to(count, acc.shape), "mean": mean}
    return found | ar.clamp(mean, fused_activation_function, y_type)


def max_pool_2d(
    x: np.ndarray,
    *,
    types: tuple[Type | None, ...],
    y_type: Type,
    padding: str,
    stride_w: int,
    stride_h: int,
    filter_width: int,
    filter_height: int,
    fused_activation_function: str = "NONE",
) -> Stages:
    """MAX_POOL_2D: the greatest of what lies in the image.

    Source: LiteRT, tflite/kernels/internal/reference/integer_ops/pooling.h, MaxPool.

    Args:
        x: int8 (N, H, W, C).
    """
    require_type("x", types[0], "int8")
    require_type("y", y_type, "int8")
    place = windows_of(x, (filter_height, filter_width), padding, (stride_h, stride_w))
    above = x.astype(np.int64) + 129  # 0 is less than any: what lies beside the image
    found = np.zeros((len(x), *place.out, x.shape[3]), np.int64)
    for tap in place.taps:
        np.maximum(found, ar.gather(above, place, tap), out=found)
    if not found.all():
        raise Unsupported("a window has no part in the image")
    return {"greatest": found - 129, **ar.clamp(found - 129, fused_activation_function, y_type)}


def mean(
    x: np.ndarray,
    axes: np.ndarray,
    *,
    types: tuple[Type | None, ...],
    y_type: Type,
    keep_dims: bool = False,
) -> Stages:
    """MEAN: the sum over some axes by one multiplier, in which the count is, two roundings.

    The zero points are taken off first; the multiplier is divided by the count, downwards.

    Source: LiteRT, tflite/kernels/reduce.cc, PrepareMeanOrSum, and
    tflite/kernels/internal/reference/reduce.h, QuantizedMeanOrSum.

    Args:
        x: int8.
        axes: int32, which may count from the end.
    """
    require_type("x", types[0], "int8")
    require_type("y", y_type, "int8")
    given = axes.ravel().tolist()
    if not all(-x.ndim <= axis < x.ndim for axis in given):
        raise Unsupported(f"axes {given}: those of {x.ndim} needed")
    over = tuple(sorted({axis % x.ndim for axis in given}))
    count = int(np.prod([x.shape[axis] for axis in over], dtype=object))
    if not count or not over:
        raise Unsupported(f"axes {given}: a mean over nothing")
    total = x.astype(np.int64).sum(axis=over, keepdims=bool(keep_dims))
    acc = ar.require_32_bits(total - types[0].zero * count, "the sum")
    multiplier, shift = ar.quantize_multiplier(np.float64(types[0].real) / np.float64(y_type.real))
    by = min(count.bit_length() - 1, 32, 31 + int(shift))
    multiplier, shift = (multiplier << by) // count, shift - by
    steps = ar.multiply(acc, multiplier, shift)
    return {"sum": total, "count": np.int64(count), "centred": acc, "multiplier": multiplier,
            "shift": shift, **steps, **ar.finish(steps["scaled"], "NONE", y_type)}  # fmt: skip


# --- types


def quantize(x: np.ndarray, *, types: tuple[Type | None, ...], y_type: Type) -> Stages:
    """QUANTIZE: x / scale in float32, ties away from zero; of integers a fixed-point multiplier.

    Source: LiteRT, tflite/kernels/quantize.cc; tflite/kernels/internal/reference: quantize.h,
    AffineQuantize, and requantize.h, Requantize.

    Raises:
        Unsupported: a type is another one, or a quotient is none of int32.
    """
    require_type("x", types[0], "float32", "int8", "uint8")
    require_type("y", y_type, "int8", "uint8")
    if types[0].dtype != "float32":
        centred = x.astype(np.int64) - types[0].zero
        factor = np.float64(types[0].real) / np.float64(y_type.real)
        steps = ar.scaled(centred, factor)
        found = {"centred": centred, "factor": factor, **steps}
        return found | ar.finish(steps["scaled"], "NONE", y_type)
    with np.errstate(over="ignore", invalid="ignore"):
        quotient = x / y_type.real
    if quotient.size and not np.abs(quotient).max() < 2**31:
        raise Unsupported("x / y_scale passes 32 bits")
    rounded = ar.round_away(quotient).astype(np.int64)
    return {"x / scale": quotient, "rounded": rounded, **ar.finish(rounded, "NONE", y_type)}


def dequantize(x: np.ndarray, *, types: tuple[Type | None, ...], y_type: Type) -> Stages:
    """DEQUANTIZE: (x - zero_point) * scale in float64, rounded to float32.

    Source: LiteRT, tflite/kernels/dequantize.h, and
    tflite/kernels/internal/reference/integer_ops/dequantize.h.
    """
    require_type("x", types[0], "int8", "uint8")
    require_type("y", y_type, "float32")
    centred = x.astype(np.int64) - types[0].zero
    return {"centred": centred, "y": (np.float64(types[0].real) * centred).astype(np.float32)}


def reshape(
    x: np.ndarray,
    shape: np.ndarray | None = None,
    *,
    types: tuple[Type | None, ...],
    y_type: Type,
    new_shape: list[int] | None = None,
) -> Stages:
    """RESHAPE: the same elements in another shape.

    That is the second input, or the option where there is none.

    Source: LiteRT, tflite/kernels/reshape.cc.
    """
    require_type("y", y_type, types[0].dtype)
    vector = shape is not None and shape.ndim == 1 and shape.dtype == np.int32
    wanted = shape.tolist() if vector else list(new_shape if new_shape is not None else [])
    if not vector and wanted == [0]:
        wanted = []
    try:
        return {"y": x.reshape(wanted)}
    except ValueError as error:
        raise Unsupported(str(error)) from None


# --- softmax


def softmax(
    x: np.ndarray, *, types: tuple[Type | None, ...], y_type: Type, beta: float = 1.0
) -> Stages:
    """SOFTMAX: over the last axis, in fixed point: an exponential and a reciprocal in 32 bits.

    Source: LiteRT, tflite/kernels/activations.cc, SoftmaxPrepare, and
    tflite/kernels/internal/reference/softmax.h; gemmlowp, fixedpoint/fixedpoint.h.

    Args:
        x: int8.

    Raises:
        Unsupported: a type is another one, or beta times the scale is too small or too large.
    """
    require_type("x", types[0], "int8")
    require_type("y", y_type, "int8")
    real = float(np.float32(beta)) * float(types[0].real) * 2.0**26
    if not real > 1:
        raise Unsupported(f"beta * scale is {real / 2.0**26}: more than 2^-26 needed")
    multiplier, shift = ar.quantize_multiplier(min(real, 2.0**31 - 1))
    # the greatest difference whose rescaled value has 5 bits before the point
    least = -int(np.floor(31 * 2.0**26 / 2.0 ** int(shift)))
    below = x.astype(np.int64) - x.max(axis=-1, keepdims=True)
    counted = below >= least
    rescaled = ar.high_mul(np.where(counted, below, 0) << shift, multiplier)
    power = exp_on_negative_values(rescaled)
    total = np.where(counted, ar.divide(power, 12), 0).sum(-1, keepdims=True)
    reciprocal, bits = reciprocal_of(ar.require_32_bits(total, "the sum of exponentials"))
    right = bits + 31 - 8
    if right.size and not 0 <= right.min() <= right.max() <= 31:
        raise Unsupported(f"a row has {x.shape[-1]} elements: LiteRT ends the process")
    share = ar.divide(ar.high_mul(reciprocal, power), right)
    y = np.where(counted, np.minimum(share - 128, 127), -128).astype(np.int8)
    return {"below the greatest": below, "rescaled": rescaled, "exponential": power,
            "sum": np.broadcast_to(total, x.shape),
            "reciprocal": np.broadcast_to(reciprocal, x.shape),
            "share": np.where(counted, share, 0), "y": y}  # fmt: skip


def exp_on_negative_values(values: np.ndarray) -> np.ndarray:
    """exp of values * 2**-26, 0 or less and more than -32, as values * 2**31.

    The part below a quarter by a polynomial about -1/8; each bit above it by a constant.

    Source: gemmlowp, fixedpoint/fixedpoint.h, exp_on_negative_values.
    """
    quarter = 1 << 24
    low = (values & (quarter - 1)) - quarter
    x = (low << 5) + (1 << 28)
    x2 = ar.high_mul(x, x)
    x3 = ar.high_mul(x2, x)
    x4 = ar.divide(ar.high_mul(x2, x2), 2)
    tail = ar.divide(ar.high_mul(x4 + x3, np.int64(715827883)) + x2, 1)
    constant = np.int64(1895147668)  # exp(-1/8)
    found = constant + ar.high_mul(constant, x + tail)
    bits = low - values
    for place, factor in enumerate(
        (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
    ):  # exp of -1/4, -1/2, -1, -2, -4, -8, -16
        found = np.where(bits & (quarter << place), ar.high_mul(found, np.int64(factor)), found)
    return np.where(values == 0, 2**31 - 1, found)


def reciprocal_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """1 / (1 + a) * 2**31 of positive values = (1 + a) * 2**(19 + bits), and these bits.

    Three steps of Newton and Raphson, from 48/17 - 32/17 * (1 + a) / 2.

    Source: LiteRT, tflite/kernels/internal/common.h, GetReciprocal; gemmlowp,
    fixedpoint/fixedpoint.h, one_over_one_plus_x_for_x_in_0_1.
    """
    length = np.frexp(values.astype(np.float64))[1].astype(np.int64)  # bits of the value
    above = (values << (32 - length)) - (1 << 31)
    half = (above + 2**31) >> 1  # (above + the largest int32) / 2, half up
    x = 1515870810 + ar.high_mul(half, np.int64(-1010580540))
    for _ in range(3):
        rest = (1 << 29) - ar.high_mul(half, x)
        x = x + saturating_left(ar.high_mul(x, rest), 2)
    return saturating_left(x, 1), 12 - (32 - length)


def saturating_left(values: np.ndarray, shift: int) -> np.ndarray:
    """values << shift, saturated to 32 bits."""
    return np.clip(values << shift, -(2**31), 2**31 - 1)


#: Every operator that is computed, by its name in TensorFlow Lite's schema.
OPERATORS = {
    "ADD": add,
    "AVERAGE_POOL_2D": average_pool_2d,
    "CONV_2D": conv_2d,
    "DEPTHWISE_CONV_2D": depthwise_conv_2d,
    "DEQUANTIZE": dequantize,
    "FULLY_CONNECTED": fully_connected,
    "MAX_POOL_2D": max_pool_2d,
    "MEAN": mean,
    "QUANTIZE": quantize,
    "RESHAPE": reshape,
    "SOFTMAX": softmax,
}
