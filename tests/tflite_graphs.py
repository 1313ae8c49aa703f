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
