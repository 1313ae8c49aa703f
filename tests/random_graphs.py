"""Random quantized graphs, QDQ and QOperator, with the features of real files; for the fuzzer."""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CONTRIB = "com.microsoft"


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph that is being made: its float face, or its integers."""

    name: str
    shape: tuple[int, ...]
    scale: str = ""  # of an integer tensor
    zero: str = ""  # of an integer tensor; empty where it is omitted
    dtype: type = np.float32


@dataclass
class Graph:
    """A graph while it is being made, and which features went into it."""

    rng: np.random.Generator
    nodes: list = field(default_factory=list)
    initializers: list = field(default_factory=list)
    sparse: list = field(default_factory=list)
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    features: set = field(default_factory=set)
    names: int = 0
    named: bool = True
    shared: dict = field(default_factory=dict)

    def chance(self, share: float, feature: str = "") -> bool:
        """True in that share of cases; the feature is noted then."""
        if self.rng.random() >= share:
            return False
        if feature:
            self.features.add(feature)
        return True

    def pick(self, *choices):
        return choices[int(self.rng.integers(len(choices)))]

    def name(self, stem: str) -> str:
        self.names += 1
        return f"{stem}{self.names}"

    def node(
        self, op_type: str, inputs: list[str], shape, *, domain: str = "", **attributes
    ) -> str:
        out = self.name(op_type[0].lower())
        name = self.name("node") if self.named else ""
        self.nodes.append(
            helper.make_node(op_type, inputs, [out], name, domain=domain, **attributes)
        )
        return out

    def constant(self, value: np.ndarray, stem: str = "c") -> str:
        """An initializer, a Constant node or a sparse initializer."""
        value = np.asarray(value)
        name = self.name(stem)
        if self.chance(0.1, "constant node"):
            tensor = numpy_helper.from_array(value, name)
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        elif value.ndim > 1 and value.dtype in (np.int8, np.float32) and self.chance(0.1):
            self.features.add("sparse initializer")
            at = np.flatnonzero(value).astype(np.int64)
            values = numpy_helper.from_array(value.ravel()[at], name)
            indices = numpy_helper.from_array(at, f"{name}_at")
            self.sparse.append(helper.make_sparse_tensor(values, indices, value.shape))
        else:
            self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def scale(self, low: float = 0.004, high: float = 0.1, shape=()) -> np.ndarray:
        """Round numbers often, so that ties occur."""
        if self.chance(0.4):
            return np.full(shape, 2.0 ** -self.rng.integers(3, 8), np.float32)
        return self.rng.uniform(low, high, shape).astype(np.float32)

    def integers(self, dtype, shape=()) -> np.ndarray:
        info = np.iinfo(dtype)
        return self.rng.integers(info.min, info.max, shape, dtype, endpoint=True)


# --- pieces of QDQ


def quantize(g: Graph, x: Tensor, dtype=None, relu: bool = False) -> Tensor:
    """x through a QuantizeLinear."""
    dtype = dtype or g.kind
    if g.chance(0.06, "16-bit activations"):
        dtype = g.pick(np.int16, np.uint16)
    info = np.iinfo(dtype)
    wide = 1 if info.bits == 8 else 256
    scale = g.constant((g.scale(0.01, 0.1) / wide).astype(np.float32), "s")
    if relu and g.chance(0.5):
        zero = dtype(info.min)
    elif g.chance(0.3):
        zero = dtype(0 if dtype in (np.int8, np.int16) else (info.max + 1) // 2)
    else:
        zero = g.integers(dtype)
    if g.chance(0.06, "omitted zero point"):
        attributes = {}
        if dtype is not np.uint8:
            attributes["output_dtype"] = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            g.features.add("output_dtype")
        q = g.node("QuantizeLinear", [x.name, scale], x.shape, **attributes)
        return Tensor(q, x.shape, scale, "", dtype)
    zero = g.constant(zero, "z")
    q = g.node("QuantizeLinear", [x.name, scale, zero], x.shape)
    return Tensor(q, x.shape, scale, zero, dtype)


def dequantize(g: Graph, q: Tensor) -> Tensor:
    """q through a DequantizeLinear, its own or one that others read too."""
    if q.name in g.shared and g.chance(0.5, "shared DequantizeLinear"):
        return g.shared[q.name]
    inputs = [q.name, q.scale] + ([q.zero] if q.zero else [])
    made = Tensor(g.node("DequantizeLinear", inputs, q.shape), q.shape)
    g.shared[q.name] = made
    return made


def weights(g: Graph, shape: tuple[int, ...], axis: int) -> tuple[str, np.ndarray]:
    """Float weights, of whichever making, and their scale."""
    channels = shape[axis]
    if g.chance(0.06, "float weights"):
        w = g.rng.normal(0, 0.2, shape).astype(np.float32)
        return g.constant(w, "w"), np.float32(0)
    dtype = g.pick(np.int8, np.int8, np.int8, np.uint8)
    per_channel = g.chance(0.5, "per-channel weights")
    scale = g.scale(0.002, 0.02, (channels,) if per_channel else ())
    zero = np.zeros(scale.shape, dtype) if dtype is np.int8 else np.full(scale.shape, 128, dtype)
    if g.chance(0.1, "zero point of weights"):
        zero = np.full(scale.shape, g.integers(dtype), dtype)
    attributes = {"axis": axis} if per_channel else {}
    if g.chance(0.05, "weights behind QuantizeLinear"):
        w = g.constant(g.rng.normal(0, 0.2, shape).astype(np.float32), "w")
        names = [g.constant(scale, "s"), g.constant(zero, "z")]
        q = g.node("QuantizeLinear", [w, *names], shape, **attributes)
        return g.node("DequantizeLinear", [q, *names], shape, **attributes), scale
    q = g.constant(g.integers(dtype, shape), "w")
    if dtype is np.int8 and g.chance(0.15, "omitted zero point of weights") and not zero.any():
        inputs = [q, g.constant(scale, "s")]
    else:
        inputs = [q, g.constant(scale, "s"), g.constant(zero, "z")]
    return g.node("DequantizeLinear", inputs, shape, **attributes), scale


def bias(g: Graph, channels: int, x: Tensor, w_scale: np.ndarray) -> list[str]:
    """Nothing, a float bias, or an int32 one, mostly of the scale that it should have."""
    if g.chance(0.3):
        return []
    if not np.any(w_scale) or g.chance(0.12, "float bias"):
        return [g.constant(g.rng.normal(0, 1, channels).astype(np.float32), "b")]
    stored = {t.name: numpy_helper.to_array(t) for t in g.initializers}
    x_scale = stored.get(x.scale)
    if x_scale is None:
        return []
    scale = (x_scale * w_scale).astype(np.float32)
    if g.chance(0.06, "bias of another scale"):
        scale = (scale * np.float32(3)).astype(np.float32)
    q = g.constant(g.rng.integers(-20_000, 20_000, channels).astype(np.int32), "b")
    inputs = [q, g.constant(scale, "s")]
    if g.chance(0.06, "zero point of bias"):
        inputs.append(g.constant(np.full(scale.shape, 7, np.int32), "z"))
    attributes = {"axis": 0} if scale.ndim else {}
    return [g.node("DequantizeLinear", inputs, (channels,), **attributes)]


def activation(g: Graph, y: Tensor) -> tuple[Tensor, bool]:
    """y, or y through a Relu or Clip."""
    if g.chance(0.3, "Relu"):
        return Tensor(g.node("Relu", [y.name], y.shape), y.shape), True
    if g.chance(0.12, "Clip"):
        low = g.constant(np.float32(g.pick(0, 0, -1)), "lo")
        high = g.constant(np.float32(g.pick(6, 6, 3)), "hi")
        return Tensor(g.node("Clip", [y.name, low, high], y.shape), y.shape), True
    return y, False


def finish(g: Graph, y: Tensor, dtype=None) -> Tensor:
    """The end of a layer: activation, QuantizeLinear; now and then a second pair, or an output."""
    if g.chance(0.05, "inner float output"):
        g.outputs.append(y)
    y, relu = activation(g, y)
    q = quantize(g, y, dtype, relu)
    if g.chance(0.08, "two pairs in a row"):
        q = quantize(g, dequantize(g, q), g.pick(None, np.uint8, np.int8))
    if g.chance(0.08, "inner integer output"):
        g.outputs.append(q)
    return q


def conv(g: Graph, q: Tensor) -> Tensor:
    N, C, *spatial = q.shape
    M, group = int(g.pick(1, 2, 4, 6)), 1
    if g.chance(0.15, "depthwise"):
        M = group = C
    kernel = [int(g.pick(1, 2, 3)) for _ in spatial]
    kernel = [min(k, n) for k, n in zip(kernel, spatial, strict=True)]
    strides = [int(g.pick(1, 1, 2)) for _ in spatial]
    attributes = dict(kernel_shape=kernel, group=group, strides=strides)
    pads = [int(g.pick(0, k - 1)) for k in kernel * 2]
    if g.chance(0.6, "padding"):
        attributes["pads"] = pads
    else:
        pads = [0] * len(pads)
    half = len(kernel)
    out = [
        (n + pads[i] + pads[half + i] - k) // s + 1
        for i, (n, k, s) in enumerate(zip(spatial, kernel, strides, strict=True))
    ]
    axis = 0
    if group == 1 and C > 1 and g.chance(0.02, "conv weights along axis 1"):
        axis = 1
    x = dequantize(g, q)
    w, w_scale = weights(g, (M, C // group, *kernel), axis)
    b = bias(g, M, q, w_scale) if axis == 0 else []
    y = Tensor(g.node("Conv", [x.name, w, *b], None, **attributes), (N, M, *out))
    return finish(g, y, g.pick(None, None, None, None, np.uint8))


def gemm(g: Graph, q: Tensor) -> Tensor:
    x = dequantize(g, q)
    if len(q.shape) != 2:
        size = int(np.prod(q.shape[1:]))
        x = Tensor(g.node("Flatten", [x.name], None), (q.shape[0], size))
        if g.chance(0.5):  # the integers pass through a pair of the same scale
            pair = [q.scale] + ([q.zero] if q.zero else [])
            kind = (
                {}
                if q.zero
                else {"output_dtype": helper.np_dtype_to_tensor_dtype(np.dtype(q.dtype))}
            )
            same = g.node("QuantizeLinear", [x.name, *pair], None, **kind)
            x = Tensor(g.node("DequantizeLinear", [same, *pair], None), x.shape)
    N, K = x.shape
    M = int(g.pick(1, 3, 5))
    attributes = {}
    if g.chance(0.6, "transB"):
        attributes["transB"] = 1
    if g.chance(0.06, "alpha"):
        attributes["alpha"] = 0.5
    if g.chance(0.04, "beta"):
        attributes["beta"] = 2.0
    shape, axis = ((M, K), 0) if attributes.get("transB") else ((K, M), 1)
    w, w_scale = weights(g, shape, axis)
    b = bias(g, M, q, w_scale)
    if N == 1 and K == 1 and g.chance(0.3, "transA"):
        attributes["transA"] = 1
    y = Tensor(g.node("Gemm", [x.name, w, *b], None, **attributes), (N, M))
    return finish(g, y)


def matmul(g: Graph, q: Tensor) -> Tensor:
    x = dequantize(g, q)
    M = int(g.pick(2, 5))
    if g.chance(0.3, "product of two activations") and len(q.shape) >= 2:
        axes = [*range(len(q.shape) - 2), len(q.shape) - 1, len(q.shape) - 2]
        turned = g.node("Transpose", [x.name], None, perm=axes)
        shape = (*q.shape[:-1], q.shape[-2])
        other = quantize(g, Tensor(turned, tuple(q.shape[a] for a in axes)))
        y = g.node("MatMul", [x.name, dequantize(g, other).name], None)
        return finish(g, Tensor(y, shape))
    w, _ = weights(g, (q.shape[-1], M), 1)
    y = Tensor(g.node("MatMul", [x.name, w], None), (*q.shape[:-1], M))
    return finish(g, y)


def add(g: Graph, q: Tensor, others: list[Tensor]) -> Tensor:
    x = dequantize(g, q)
    same = [t for t in others if t.shape == q.shape]
    if same and g.chance(0.7, "residual"):
        other = dequantize(g, g.pick(*same))
    else:
        shapes = [q.shape, (1,) * len(q.shape), ()]
        if len(q.shape) == 4:
            shapes.append((1, q.shape[1], 1, 1))
        shape = g.pick(*shapes)
        g.features.add("addend of another shape" if shape != q.shape else "constant addend")
        dtype = q.dtype if q.dtype in (np.int8, np.uint8) else np.int8
        c = g.constant(g.integers(dtype, shape), "a")
        inputs = [c, g.constant(g.scale(0.01, 0.1), "s"), g.constant(g.integers(dtype), "z")]
        other = Tensor(g.node("DequantizeLinear", inputs, None), shape)
    pair = [x.name, other.name]
    y = g.node("Add", pair if g.chance(0.5) else pair[::-1], None)
    return finish(g, Tensor(y, q.shape))


def global_average_pool(g: Graph, q: Tensor) -> Tensor:
    x = dequantize(g, q)
    g.features.add("GlobalAveragePool")
    shape = (*q.shape[:2], *(1 for _ in q.shape[2:]))
    return finish(g, Tensor(g.node("GlobalAveragePool", [x.name], None), shape))


def max_pool(g: Graph, q: Tensor) -> Tensor:
    g.features.add("MaxPool")
    kernel = [min(2, n) for n in q.shape[2:]]
    shape = (*q.shape[:2], *(n - k + 1 for n, k in zip(q.shape[2:], kernel, strict=True)))
    if q.dtype in (np.int8, np.uint8) and g.chance(0.5):
        y = g.node("MaxPool", [q.name], None, kernel_shape=kernel)
        return Tensor(y, shape, q.scale, q.zero, q.dtype)
    x = dequantize(g, q)
    y = Tensor(g.node("MaxPool", [x.name], None, kernel_shape=kernel), shape)
    return finish(g, y)


def move(g: Graph, q: Tensor) -> Tensor:
    """Transpose or Reshape, of the integers or between a pair."""
    g.features.add("moved")
    order = [int(a) for a in g.rng.permutation(len(q.shape) - 1) + 1]
    shape = (q.shape[0], *(q.shape[a] for a in order))
    if g.chance(0.5):
        return Tensor(
            g.node("Transpose", [q.name], None, perm=[0, *order]), shape, q.scale, q.zero, q.dtype
        )
    x = dequantize(g, q)
    y = Tensor(g.node("Transpose", [x.name], None, perm=[0, *order]), shape)
    pair = [q.scale] + ([q.zero] if q.zero else [])
    kind = {} if q.zero else {"output_dtype": helper.np_dtype_to_tensor_dtype(np.dtype(q.dtype))}
    return Tensor(
        g.node("QuantizeLinear", [y.name, *pair], None, **kind), shape, q.scale, q.zero, q.dtype
    )


def blocked(g: Graph, q: Tensor) -> Tensor:
    """A product with weights whose scales belong to blocks; ONNX Runtime computes it in float."""
    g.features.add("blocked weights")
    K, M = q.shape[-1], 3
    if K % 2:
        return matmul(g, q)
    w = g.constant(g.integers(np.int8, (K, M)), "w")
    inputs = [w, g.constant(g.scale(0.002, 0.02, (K // 2, M)), "s")]
    w = g.node("DequantizeLinear", inputs, None, axis=0, block_size=2)
    y = g.node("MatMul", [dequantize(g, q).name, w], None)
    return finish(g, Tensor(y, (*q.shape[:-1], M)))


def table(g: Graph) -> Tensor:
    """Rows of a quantized table, by int64 ids that are an input."""
    g.features.add("int64 ids")
    rows, width = int(g.pick(5, 17)), int(g.pick(4, 6))
    ids = g.name("ids")
    g.inputs.append(helper.make_tensor_value_info(ids, TensorProto.INT64, [1, 3]))
    scale, zero = g.constant(g.scale(), "s"), g.constant(np.int8(0), "z")
    q = g.constant(g.integers(np.int8, (rows, width)), "table")
    if g.chance(0.5):
        t = g.node("Gather", [q, ids], None)
        return Tensor(t, (1, 3, width), scale, zero, np.int8)
    w = g.node("DequantizeLinear", [q, scale, zero], None)
    return quantize(g, Tensor(g.node("Gather", [w, ids], None), (1, 3, width)))


def image(g: Graph) -> Tensor:
    """A float or integer image that is an input."""
    channels, size = int(g.pick(1, 2, 3)), int(g.pick(3, 5, 6))
    shape = (1, channels, size, size) if g.chance(0.85) else (1, channels, size)
    name = g.name("x")
    declared: list = list(shape)
    if g.chance(0.2, "symbolic batch"):
        declared[0] = "N"
    elif g.chance(0.05, "negative dimension"):
        declared[0] = -1
    if g.chance(0.2, "integer input"):
        dtype = g.kind
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        g.inputs.append(helper.make_tensor_value_info(name, kind, declared))
        scale, zero = g.constant(g.scale(), "s"), g.constant(g.integers(dtype), "z")
        return Tensor(name, shape, scale, zero, dtype)
    g.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, declared))
    return quantize(g, Tensor(name, shape))


def qdq(seed: int) -> tuple[onnx.ModelProto, set[str]]:
    """A random QDQ model, and its features."""
    g = Graph(np.random.default_rng(seed))
    g.kind = g.pick(np.int8, np.uint8)
    g.named = not g.chance(0.1, "unnamed nodes")
    q = table(g) if g.chance(0.1) else image(g)
    seen = [q]
    if g.chance(0.15, "several inputs"):
        seen.append(image(g))
    for _ in range(int(g.rng.integers(1, 5))):
        if g.chance(0.2, "several readers"):
            q = g.pick(*seen)
        choices = [matmul, move, blocked]
        choices += [lambda g, q: add(g, q, seen)] * 4
        if len(q.shape) in (3, 4):
            choices += [conv] * 8 + [global_average_pool]
        if len(q.shape) == 4:
            choices += [max_pool]
        if len(q.shape) == 2 or q.shape[0] == 1:
            choices += [gemm] * 2
        q = g.pick(*choices)(g, q)
        seen.append(q)
    if g.chance(0.8):
        g.outputs.append(dequantize(g, q))
    else:
        g.features.add("integer output")
        g.outputs.append(q)
    return model(g), g.features


# --- QOperator


def qoperator(seed: int) -> tuple[onnx.ModelProto, set[str]]:
    """A random QOperator model, and its features."""
    g = Graph(np.random.default_rng(seed))
    g.features.add("QOperator")
    g.kind = g.pick(np.int8, np.uint8)
    g.named = not g.chance(0.1, "unnamed nodes")
    q, seen = image(g), []
    for _ in range(int(g.rng.integers(1, 5))):
        q = Tensor(q.name, q.shape, q.scale, q.zero or g.constant(q.dtype(0), "z"), q.dtype)
        if q.dtype not in (np.int8, np.uint8):
            q = quantize_again(g, q)
        seen.append(q)
        kinds = [q_add] * 2 + [q_matmul]
        if len(q.shape) in (3, 4):
            kinds += [q_conv] * 5 + [q_pool]
        if len(q.shape) == 2:
            kinds += [q_gemm] * 3
        q = g.pick(*kinds)(g, q, seen)
    g.outputs.append(dequantize(g, q) if g.chance(0.7) else q)
    return model(g), g.features


def quantize_again(g: Graph, q: Tensor) -> Tensor:
    x = dequantize(g, q)
    scale, zero = g.constant(g.scale(), "s"), g.constant(g.integers(g.kind), "z")
    return Tensor(
        g.node("QuantizeLinear", [x.name, scale, zero], None), q.shape, scale, zero, g.kind
    )


def end(g: Graph, dtype) -> tuple[str, str]:
    zero = np.iinfo(dtype).min if g.chance(0.3) else g.integers(dtype)
    return g.constant(g.scale(0.02, 0.3), "s"), g.constant(dtype(zero), "z")


def q_weights(g: Graph, shape, axis: int, x_dtype) -> list[str]:
    dtype = np.int8 if x_dtype is np.int8 else g.pick(np.int8, np.uint8)
    per_channel = g.chance(0.5, "per-channel weights")
    size = (shape[axis],) if per_channel else ()
    zero = np.full(size, g.integers(dtype) if g.chance(0.2, "zero point of weights") else 0, dtype)
    if "w" in g.shared and g.chance(0.3) and g.shared["w"][0] == (shape, dtype):
        g.features.add("shared weights")
        w = g.shared["w"][1]
    else:
        w = g.constant(g.integers(dtype, shape), "w")
        g.shared["w"] = ((shape, dtype), w)
    return [w, g.constant(g.scale(0.002, 0.02, size), "s"), g.constant(zero, "z")]


def q_conv(g: Graph, q: Tensor, seen) -> Tensor:
    N, C, *spatial = q.shape
    M, group = int(g.pick(1, 2, 4)), 1
    if g.chance(0.15, "depthwise"):
        M = group = C
    kernel = [min(int(g.pick(1, 2, 3)), n) for n in spatial]
    attributes = dict(kernel_shape=kernel, group=group)
    same = g.chance(0.3, "auto_pad")
    if same:
        attributes["auto_pad"] = g.pick("SAME_UPPER", "SAME_LOWER")
    out = spatial if same else [n - k + 1 for n, k in zip(spatial, kernel, strict=True)]
    scale, zero = end(g, q.dtype)
    inputs = [q.name, q.scale, q.zero, *q_weights(g, (M, C // group, *kernel), 0, q.dtype)]
    inputs += [scale, zero]
    if g.chance(0.6, "bias"):
        inputs.append(g.constant(g.rng.integers(-20_000, 20_000, M).astype(np.int32), "b"))
    y = g.node("QLinearConv", inputs, None, **attributes)
    return Tensor(y, (N, M, *out), scale, zero, q.dtype)


def q_add(g: Graph, q: Tensor, seen: list[Tensor]) -> Tensor:
    same = [t for t in seen if t.shape == q.shape and t.dtype == q.dtype]
    other = g.pick(*same)
    if g.chance(0.3, "addend of another shape"):
        shape = g.pick((), (1,) * len(q.shape), (1, *q.shape[1:]))
        c = g.constant(g.integers(q.dtype, shape), "a")
        other = Tensor(c, shape, g.constant(g.scale(), "s"), g.constant(g.integers(q.dtype), "z"))
    pair = [[q.name, q.scale, q.zero], [other.name, other.scale, other.zero]]
    pair = pair if g.chance(0.5) else pair[::-1]
    scale, zero = end(g, q.dtype)
    y = g.node("QLinearAdd", [*pair[0], *pair[1], scale, zero], None, domain=CONTRIB)
    return Tensor(y, q.shape, scale, zero, q.dtype)


def q_pool(g: Graph, q: Tensor, seen) -> Tensor:
    scale, zero = end(g, q.dtype)
    inputs = [q.name, q.scale, q.zero, scale, zero]
    y = g.node("QLinearGlobalAveragePool", inputs, None, domain=CONTRIB, channels_last=0)
    shape = (*q.shape[:2], *(1 for _ in q.shape[2:]))
    if g.chance(0.7):
        y, shape = g.node("Flatten", [y], None), q.shape[:2]
    return Tensor(y, shape, scale, zero, q.dtype)


def q_matmul(g: Graph, q: Tensor, seen) -> Tensor:
    M = int(g.pick(2, 5))
    scale, zero = end(g, q.dtype)
    w = q_weights(g, (q.shape[-1], M), 1, q.dtype)
    y = g.node("QLinearMatMul", [q.name, q.scale, q.zero, *w, scale, zero], None)
    return Tensor(y, (*q.shape[:-1], M), scale, zero, q.dtype)


def q_gemm(g: Graph, q: Tensor, seen) -> Tensor:
    K, M = q.shape[1], int(g.pick(2, 5))
    trans = int(g.chance(0.5, "transB"))
    shape, axis = ((M, K), 0) if trans else ((K, M), 1)
    scale, zero = end(g, q.dtype)
    C = g.constant(g.rng.integers(-20_000, 20_000, M).astype(np.int32), "b")
    inputs = [q.name, q.scale, q.zero, *q_weights(g, shape, axis, q.dtype)]
    inputs += [C if g.chance(0.7, "bias") else "", scale, zero]
    y = g.node("QGemm", inputs, None, domain=CONTRIB, transB=trans)
    return Tensor(y, (q.shape[0], M), scale, zero, q.dtype)


def model(g: Graph) -> onnx.ModelProto:
    # Constant nodes may come late: put them first
    order = sorted(g.nodes, key=lambda n: n.op_type != "Constant")
    outputs = {t.name: t for t in g.outputs}
    declared = []
    for t in outputs.values():
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(t.dtype))
        declared.append(helper.make_tensor_value_info(t.name, kind, None))
    if len(declared) > 1:
        g.features.add("several outputs")
    graph = helper.make_graph(
        order, "random", g.inputs, declared, g.initializers, sparse_initializer=g.sparse
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)
