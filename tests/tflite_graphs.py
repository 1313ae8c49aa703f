"""Small .tflite files, written with the schema that ai-edge-litert ships."""

import numpy as np


def tensor(name, shape, dtype="int8", scale=(), zero=0, axis=0, data=None, signature=None):
    """A tensor of :func:`graph`."""
    return dict(name=name, shape=shape, dtype=dtype, scale=scale, zero=zero, axis=axis, data=data,
                signature=signature)  # fmt: skip


def operator(kind, inputs, outputs, options="", **values):
    """An operator of :func:`graph`: its kind, tensors by name, and options by the schema's names.

    Args:
        options: the options' type, such as ``Conv2DOptions``.
    """
    return dict(kind=kind, inputs=inputs, outputs=outputs, options=options, values=values)


def graph(tensors, operators, inputs, outputs) -> bytes:
    """A .tflite file with one graph."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, made = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.operatorCodes = 3, [schema.BufferT()], []
    made.tensors, made.operators = [], []
    at = {one["name"]: i for i, one in enumerate(tensors)}
    for one in tensors:
        t = schema.TensorT()
        t.name, t.shape, t.buffer = one["name"], list(one["shape"]), 0
        if one["signature"] is not None:
            t.shapeSignature = list(one["signature"])
        t.type = getattr(schema.TensorType, one["dtype"].upper())
        if np.size(one["scale"]):
            t.quantization = schema.QuantizationParametersT()
            t.quantization.scale = np.atleast_1d(one["scale"]).astype(np.float32)
            zeros = np.broadcast_to(one["zero"], np.size(one["scale"])).astype(np.int64)
            t.quantization.zeroPoint = zeros
            t.quantization.quantizedDimension = one["axis"]
        if one["data"] is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(one["data"]).tobytes(), np.uint8)
            model.buffers.append(buffer)
            t.buffer = len(model.buffers) - 1
        made.tensors.append(t)
    for one in operators:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, one["kind"])
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = 1 if one["kind"] == "RESHAPE" else 3
        model.operatorCodes.append(code)
        o = schema.OperatorT()
        o.opcodeIndex = len(model.operatorCodes) - 1
        o.inputs = [at[name] if name else -1 for name in one["inputs"]]
        o.outputs = [at[name] for name in one["outputs"]]
        if one["options"]:
            options = getattr(schema, f"{one['options']}T")()
            for name, value in one["values"].items():
                setattr(options, name, value)
            o.builtinOptions = options
            o.builtinOptionsType = getattr(schema.BuiltinOptions, one["options"])
        made.operators.append(o)
    made.inputs, made.outputs = [at[n] for n in inputs], [at[n] for n in outputs]
    model.subgraphs = [made]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def scale(rng) -> np.float32:
    """A scale; now and then a power of two, which makes ties."""
    value = np.exp(rng.uniform(-5, -1))
    return np.float32(2.0 ** np.rint(np.log2(value)) if rng.random() < 0.4 else value)


def zero_point(rng) -> int:
    """A zero point, often one of the ends."""
    return int(rng.choice([-128, 127, 0, rng.integers(-128, 128)]))


class Network:
    """A random network, layer by layer, of the operators that are computed."""

    def __init__(self, rng, shape, dtype="int8"):
        self.rng, self.tensors, self.operators, self.shapes = rng, [], [], {}
        self.last = self.tensor("x", shape, dtype=dtype)

    def tensor(self, name, shape, *, like=None, dtype="int8", **more):
        """An activation; of another's scale, or of one of its own."""
        shape = tuple(map(int, shape))
        if dtype == "int8" and like is None:
            more = dict(scale=scale(self.rng), zero=zero_point(self.rng)) | more
        elif dtype == "int8":
            more = dict(scale=self.of(like)["scale"], zero=self.of(like)["zero"])
        self.tensors.append(tensor(name, shape, dtype, **more))
        self.shapes[name] = shape
        return name

    def of(self, name):
        return next(t for t in self.tensors if t["name"] == name)

    def layer(self, kind, inputs, shape, options="", *, like=None, more=None, **values):
        y = self.tensor(f"y{len(self.operators)}", shape, like=like, **(more or {}))
        self.operators.append(operator(kind, inputs, [y], options, **values))
        self.last = y

    def constant(self, shape, dtype, axis=0, channels=0, low=-127, high=128):
        rng, name = self.rng, f"c{len(self.tensors)}"
        data = rng.integers(low, high, shape).astype(dtype)
        scales = [scale(rng) for _ in range(channels if rng.random() < 0.6 else 1)]
        zero = 0
        self.tensors.append(tensor(name, shape, dtype, scales, zero, axis, data))
        return name

    def windows(self, kernel=4, dilated=True):
        """Options of windows that fit, and what the output's height and width are."""
        rng, (_, *size, _) = self.rng, self.shapes[self.last]
        k, s = rng.integers(1, kernel, 2), rng.integers(1, 4, 2)
        d = rng.integers(1, 3, 2) if dilated and rng.random() < 0.4 else np.ones(2, int)
        padding = int(rng.integers(0, 2))
        wide = (k - 1) * d + 1
        if padding and (wide > size).any():
            padding = 0
        out = -(-np.array(size) // s) if not padding else (np.array(size) - wide) // s + 1
        return k, dict(padding=padding, strideH=int(s[0]), strideW=int(s[1])), d, out

    def activation(self):
        return int(self.rng.integers(0, 4))

    def conv(self, depthwise=False):
        rng, x = self.rng, self.last
        n, _, _, c = self.shapes[x]
        k, values, d, out = self.windows()
        values |= dict(dilationHFactor=int(d[0]), dilationWFactor=int(d[1]))
        if depthwise:
            m = c * int(rng.integers(1, 3))
            w = self.constant((1, *k, m), "int8", 3, m)
            values |= dict(depthMultiplier=m // c)
        else:
            groups = 2 if c % 2 == 0 and rng.random() < 0.3 else 1
            m = groups * int(rng.integers(1, 4))
            w = self.constant((m, *k, c // groups), "int8", 0, m)
        bias = self.bias(x, w, m)
        kind = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if depthwise else (
            "CONV_2D", "Conv2DOptions")  # fmt: skip
        self.layer(kind[0], [x, w, bias], (n, *out, m), kind[1],
                   fusedActivationFunction=self.activation(), **values)  # fmt: skip

    def bias(self, x, w, m):
        """A bias, whose scale LiteRT compares with the product of the others."""
        bias = self.constant((m,), "int32", low=-3000, high=3000)
        self.of(bias)["scale"] = np.float32(self.of(x)["scale"]) * np.float32(self.of(w)["scale"])
        return bias

    def dense(self):
        rng, x = self.rng, self.last
        shape = self.shapes[x]
        if len(shape) != 2:
            wanted = np.array([1, int(np.prod(shape))], np.int32)
            self.tensors.append(tensor(f"s{len(self.tensors)}", (2,), "int32", data=wanted))
            to = self.tensors[-1]["name"]
            self.layer("RESHAPE", [x, to], wanted, "ReshapeOptions", like=x,
                       newShape=wanted.tolist())  # fmt: skip
            x, shape = self.last, self.shapes[self.last]
        m = int(rng.integers(2, 12))
        w = self.constant((m, shape[1]), "int8", 0, m, low=-128)
        bias = [self.bias(x, w, m)] if rng.random() < 0.7 else []
        self.layer("FULLY_CONNECTED", [x, w, *bias], (shape[0], m), "FullyConnectedOptions",
                   fusedActivationFunction=self.activation())  # fmt: skip

    def add(self):
        known = [n for n, s in self.shapes.items() if s == self.shapes[self.last]
                 and self.of(n)["dtype"] == "int8"]  # fmt: skip
        a, b = self.last, str(self.rng.choice(known))
        self.layer("ADD", [a, b], self.shapes[a], "AddOptions",
                   fusedActivationFunction=self.activation())  # fmt: skip

    def pool(self):
        kind = str(self.rng.choice(["AVERAGE_POOL_2D", "MAX_POOL_2D"]))
        x = self.last
        n, _, _, c = self.shapes[x]
        k, values, _, out = self.windows(dilated=False)
        self.layer(kind, [x], (n, *out, c), "Pool2DOptions", like=x, filterHeight=int(k[0]),
                   filterWidth=int(k[1]), fusedActivationFunction=self.activation(),
                   **values)  # fmt: skip

    def mean(self):
        """Over height and width, or over any axes."""
        rng, x = self.rng, self.last
        shape = self.shapes[x]
        count = int(rng.integers(1, len(shape)))
        axes = [1, 2] if rng.random() < 0.5 else sorted(
            map(int, rng.choice(np.arange(1, len(shape)), count, replace=False)))  # fmt: skip
        keep = bool(rng.random() < 0.5)
        name = f"a{len(self.tensors)}"
        self.tensors.append(
            tensor(
                name,
                (len(axes),),
                "int32",
                data=np.int32([axis - len(shape) if rng.random() < 0.3 else axis for axis in axes]),
            )
        )
        out = [1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes]
        self.layer("MEAN", [x, name], out, "ReducerOptions", keepDims=keep)

    def softmax(self):
        x = self.last
        self.layer("SOFTMAX", [x], self.shapes[x], "SoftmaxOptions", beta=1.0,
                   more=dict(scale=1 / 256, zero=-128))  # fmt: skip

    def requantize(self):
        self.layer("QUANTIZE", [self.last], self.shapes[self.last])

    def dequantize(self):
        self.layer("DEQUANTIZE", [self.last], self.shapes[self.last], more=dict(dtype="float32"))

    def file(self) -> bytes:
        return graph(self.tensors, self.operators, ["x"], [self.last])


def random_network(seed: int) -> bytes:
    """A .tflite file of a network of random layers, from int8 or float to int8 or float."""
    rng = np.random.default_rng(seed)
    shape = (1, *rng.integers(4, 12, 2), rng.integers(1, 6))
    from_float = rng.random() < 0.3
    made = Network(rng, shape, "float32" if from_float else "int8")
    if from_float:
        made.requantize()
    for _ in range(int(rng.integers(2, 8))):
        kinds = ["conv", "depthwise", "add", "pool", "requantize"]
        kind = rng.choice(kinds, p=[0.35, 0.25, 0.2, 0.1, 0.1])
        made.conv(depthwise=True) if kind == "depthwise" else getattr(made, kind)()
    if rng.random() < 0.4:
        made.mean()
    if rng.random() < 0.7:
        made.dense()
        if rng.random() < 0.6:
            made.softmax()
    if rng.random() < 0.3:
        made.dequantize()
    return made.file()
