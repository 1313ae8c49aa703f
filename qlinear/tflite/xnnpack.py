"""TensorFlow Lite's operators as LiteRT computes them by default on x86: by XNNPACK where it can.

XNNPACK's delegate takes int8 convolutions, FULLY_CONNECTED, ADD, MAX_POOL_2D, MEAN, QUANTIZE,
DEQUANTIZE and RESHAPE; int8 AVERAGE_POOL_2D and SOFTMAX it leaves to LiteRT's optimized kernels.
What the delegate does not take, such as weights that are no constant or have a scale of 0, LiteRT's
optimized kernel computes instead, which is not this: what is known of that is refused here.

The functions have the form of :mod:`qlinear.tflite.reference`.
"""

import numpy as np

from qlinear.errors import Unsupported
from qlinear.onnx_model import Node
from qlinear.tflite import arithmetic as ar
from qlinear.tflite import reference
from qlinear.tflite.arithmetic import Stages, Type, require_type

# inputs that must be constants of the file, by operator
PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
STATIC = dict.fromkeys(PRODUCTS, (1, 2)) | {"MEAN": (1,)}
LEFT = ("AVERAGE_POOL_2D", "RESHAPE", "SOFTMAX")  # the same, or never the delegate's on int8
AXES = 6  # of the delegate's tensors


def require_taken(
    node: Node, types: dict[str, Type], arrays: dict[str, np.ndarray], constants: set[str]
) -> None:
    """Refuse a node that the delegate leaves to LiteRT's optimized kernels.

    Found by asking LiteRT on tensors of which these kernels and XNNPACK compute others.

    Args:
        types, arrays: the tensors around the node; constants: names of those that the file holds.

    Raises:
        Unsupported: the message says why.
    """
    if node.op_type in LEFT:
        return
    for i in STATIC.get(node.op_type, ()):
        name = node.inputs[i] if i < len(node.inputs) else ""
        if name and name not in constants:
            raise Unsupported(f"{name} is no constant: XNNPACK does not take it")
    for name in node.inputs[2:3] if node.op_type in PRODUCTS else ():
        if name and not types[name].scale.size:
            raise Unsupported(f"{name} has no scale: XNNPACK does not take it")
    for name in filter(None, (*node.inputs, *node.outputs)):
        scale = types[name].scale
        if not ((scale >= np.finfo(np.float32).tiny) & np.isfinite(scale)).all():
            raise Unsupported(f"{name} has scale {scale.min()}: XNNPACK does not take it")
        if name in arrays and not arrays[name].size:
            raise Unsupported(f"{name} has no elements: XNNPACK does not compute it")
        if name in arrays and arrays[name].ndim > AXES:
            raise Unsupported(f"{name} has {arrays[name].ndim} axes: XNNPACK takes {AXES}")


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
    """CONV_2D: the same sums, the factor in float32, ties to even.

    Source: XNNPACK, src/operators/convolution-nhwc.c, and src/xnnpack/requantization.h,
    xnn_qs8_requantize_fp32.
    """
    reference.conv_factor(types, y_type, len(w))  # checks the operands
    place = reference.windows_of(x, w.shape[1:3], padding, (stride_h, stride_w),
                                 (dilation_h_factor, dilation_w_factor))  # fmt: skip
    sums = reference.conv_sums(x, w, types[0].zero, place)
    return requantized(sums, bias, types, fused_activation_function, y_type)


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
    """DEPTHWISE_CONV_2D: the same sums, the factor in float32, ties to even."""
    reference.conv_factor(types, y_type, w.shape[3], axis=3)
    if depth_multiplier * x.shape[3] != w.shape[3]:
        raise Unsupported(f"depth_multiplier {depth_multiplier}: that of the shapes needed")
    place = reference.windows_of(x, w.shape[1:3], padding, (stride_h, stride_w),
                                 (dilation_h_factor, dilation_w_factor))  # fmt: skip
    sums = reference.depthwise_sums(x, w, types[0].zero, place)
    return requantized(sums, bias, types, fused_activation_function, y_type)


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
    """FULLY_CONNECTED: the same sums, the factor in float32, ties to even."""
    if weights_format != "DEFAULT":
        raise Unsupported(f"weights_format {weights_format}: DEFAULT needed")
    reference.conv_factor(types, y_type, len(w))
    sums, shape = reference.dense_sums(x, w, types, keep_num_dims)
    found = requantized(sums, bias, types, fused_activation_function, y_type)
    return {k: v.reshape(shape) if v.size == sums.size else v for k, v in found.items()}


def requantized(
    sums: np.ndarray,
    bias: np.ndarray | None,
    types: tuple[Type | None, ...],
    activation: str,
    y_type: Type,
) -> Stages:
    """From sums to y: float32(acc) * factor, ties to even, the factor a float32 a channel."""
    acc = reference.with_bias(sums, bias)
    factor = types[0].real * types[1].scale / y_type.real
    if not (factor < 2.0**8).all():
        raise Unsupported("a factor is 2^8 or more")
    product = acc.astype(np.float32) * factor
    rounded = np.rint(product).astype(np.int64)
    return {"sums": sums, "acc": acc, "factor": factor, "float32(acc) * factor": product,
            "rounded": rounded, **finish(rounded, activation, y_type)}  # fmt: skip


def finish(values: np.ndarray, activation: str, y_type: Type) -> Stages:
    """The zero point added and the activation's range applied, whose ends are ties to even."""
    low, high = activation_range(activation, y_type)
    shifted = values + y_type.zero
    return {"+ zero point": shifted, "y": np.clip(shifted, low, high).astype(y_type.dtype)}


def activation_range(activation: str, y_type: Type) -> tuple[int, int]:
    """The least and greatest output that a fused activation leaves.

    Source: XNNPACK, src/xnnpack/quantization.h, xnn_qs8_quantize.
    """
    bounds = {"NONE": (-np.inf, np.inf), "RELU": (0, np.inf), "RELU6": (0, 6),
              "RELU_N1_TO_1": (-1, 1)}  # fmt: skip
    if activation not in bounds:
        raise Unsupported(f"fused {activation}: {', '.join(bounds)} needed")
    info = np.iinfo(y_type.dtype)
    low, high = (
        np.float32(real) / y_type.real + np.float32(y_type.zero) for real in bounds[activation]
    )
    return tuple(int(np.rint(np.clip(v, info.min, info.max))) for v in (low, high))


def add(
    a: np.ndarray,
    b: np.ndarray,
    *,
    types: tuple[Type | None, ...],
    y_type: Type,
    fused_activation_function: str = "NONE",
    pot_scale_int16: bool = True,
) -> Stages:
    """ADD: two multipliers, the greater of 21 bits, one sum, one shift, half up.

    Source: XNNPACK, src/microparams-init.c, xnn_init_qs8_add_minmax_scalar_params.
    """
    for name, given in (("a", types[0]), ("b", types[1]), ("y", y_type)):
        require_type(name, given, "int8")
    ratios = np.array([t.real for t in types[:2]], np.float32) / y_type.real
    if not (2.0**-10 <= ratios.max() < 2.0**8 and ratios.min() >= 2.0**-10):
        raise Unsupported("a scale over y's is outside 2^-10 to 2^8")
    shift = 20 - (int(np.frexp(ratios.max())[1]) - 1)
    a_multiplier, b_multiplier = np.rint(np.ldexp(ratios, shift)).astype(np.int64)
    total = (a.astype(np.int64) - types[0].zero) * a_multiplier + (
        b.astype(np.int64) - types[1].zero
    ) * b_multiplier
    rounded = (total + (1 << (shift - 1))) >> shift
    return {
        "a: multiplier": a_multiplier, "b: multiplier": b_multiplier, "shift": np.int64(shift),
        "sum": total, "rounded": rounded,
        **finish(rounded, fused_activation_function, y_type),
    }  # fmt: skip


def max_pool_2d(x: np.ndarray, *, types: tuple, y_type: Type, **options) -> Stages:
    """MAX_POOL_2D: the same, but for the ends of an activation's range, which are ties to even.

    XNNPACK takes no stride that is more than the window: there LiteRT's own kernel is the same.
    """
    if any(options[f"stride_{k}"] > options[f"filter_{long}"]
           for k, long in (("h", "height"), ("w", "width"))):  # fmt: skip
        return reference.max_pool_2d(x, types=types, y_type=y_type, **options)
    activation = options.pop("fused_activation_function", "NONE")
    found = reference.max_pool_2d(x, types=types, y_type=y_type, **options)
    low, high = activation_range(activation, y_type)
    return found | {"y": np.clip(found["greatest"], low, high).astype(np.int8)}


def quantize(x: np.ndarray, *, types: tuple[Type | None, ...], y_type: Type) -> Stages:
    """QUANTIZE: times the reciprocal of the scale, ties to even; of int8 a multiple of 1/256.

    Of int8 the scales' quotient is rounded to 1/256, and the product is rounded half up.

    Source: XNNPACK, src/microparams-init.c, xnn_init_f32_qs8_cvt_scalar_params and
    xnn_init_qs8_cvt_scalar_params.
    """
    require_type("x", types[0], "float32", "int8")
    require_type("y", y_type, "int8")
    if types[0].dtype == "int8":
        ratio = types[0].real / y_type.real
        if not 2.0**-8 <= ratio <= 2.0**7:
            raise Unsupported(f"x's scale over y's is {ratio}: 2^-8 to 2^7 needed")
        centred = x.astype(np.int64) - types[0].zero
        multiplier = np.rint(np.float32(256) * ratio).astype(np.int64)
        rounded = (centred * multiplier + 128) >> 8
        return {"centred": centred, "multiplier": multiplier, "rounded": rounded,
                **finish(rounded, "NONE", y_type)}  # fmt: skip
    inverse = np.float32(1) / y_type.real
    if not np.isfinite(x).all():
        raise Unsupported("x holds values that are not finite")
    product = x * inverse
    rounded = np.rint(np.clip(product, -(2.0**24), 2.0**24)).astype(np.int64)
    return {"1 / scale": inverse, "x * (1 / scale)": product, "rounded": rounded,
            **finish(rounded, "NONE", y_type)}  # fmt: skip


def mean(
    x: np.ndarray,
    axes: np.ndarray,
    *,
    types: tuple[Type | None, ...],
    y_type: Type,
    keep_dims: bool = False,
) -> Stages:
    """MEAN: the sum times a float32 factor, both zero points in one float32 constant, ties to even.

    The factor is the reciprocal of the count times the scales' quotient; the constant is y's zero
    point less count * x's zero point * factor. Found by asking LiteRT on sums on which other orders
    of the same operations part.
    """
    base = reference.mean(x, axes, types=types, y_type=y_type, keep_dims=keep_dims)
    factor = np.float32(1) / np.float32(base["count"]) * (types[0].real / y_type.real)
    zeros = np.float32(types[0].zero * int(base["count"]))
    constant = np.float32(y_type.zero) - zeros * factor
    shifted = base["sum"].astype(np.float32) * factor + constant
    rounded = np.rint(shifted).astype(np.int64)
    return {"sum": base["sum"], "count": base["count"], "factor": factor, "constant": constant,
            "sum * factor + constant": shifted, "rounded": rounded,
            "y": np.clip(rounded, -128, 127).astype(np.int8)}  # fmt: skip


def softmax(
    x: np.ndarray, *, types: tuple[Type | None, ...], y_type: Type, beta: float = 1.0
) -> Stages:
    """SOFTMAX: LiteRT's optimized kernel: a table of 256 exponentials in float32.

    Source: LiteRT, tflite/kernels/internal/optimized/optimized_ops.h, PopulateSoftmaxLookupTable
    and Softmax. The exponential is the C library's; here it is float64's, rounded to float32.
    """
    require_type("x", types[0], "int8")
    require_type("y", y_type, "int8")
    step = -types[0].real * np.float32(beta)
    if not np.isfinite(step):
        raise Unsupported(f"beta {beta} times the scale is not finite")
    power = step * np.arange(256, dtype=np.float32)
    table = np.exp(power.astype(np.float64)).astype(np.float32)
    below = x.max(axis=-1, keepdims=True).astype(np.int64) - x
    terms = table[below]
    total = np.add.accumulate(terms, axis=-1)[..., -1:]  # in order
    inverse = np.float32(1) / (total * y_type.real)
    share = terms * inverse
    rounded = ar.round_away(share).astype(np.int64)
    return {"below the greatest": below, "exponential": terms,
            "sum": np.broadcast_to(total, x.shape), "share": share, "rounded": rounded,
            **finish(rounded, "NONE", y_type)}  # fmt: skip


#: Operators as LiteRT computes them by default, by their names in the schema.
OPERATORS = {
    "ADD": add,
    "AVERAGE_POOL_2D": reference.average_pool_2d,
    "CONV_2D": conv_2d,
    "DEPTHWISE_CONV_2D": depthwise_conv_2d,
    "DEQUANTIZE": reference.dequantize,
    "FULLY_CONNECTED": fully_connected,
    "MAX_POOL_2D": max_pool_2d,
    "MEAN": mean,
    "QUANTIZE": quantize,
    "RESHAPE": reference.reshape,
    "SOFTMAX": softmax,
}
