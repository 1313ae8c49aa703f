"""ONNX Runtime as the oracle: sessions with the exact integer path, and intermediate tensors."""

import numpy as np
import onnx
import onnxruntime

from qlinear.errors import UnusableInput
from qlinear.onnx_model import Model

EXACT = "session.x64quantprecision"
MULTIPLIERS = ("QLinearConv", "QLinearMatMul", "QGemm")


def saturates_without_vnni(model: onnx.ModelProto) -> bool:
    """Whether x86 processors without VNNI need the exact path for this model, and can take it.

    They multiply uint8 by int8 with ``vpmaddubsw``, which saturates sums of two products at 16
    bits. The session entry rewrites int8 weights as uint8, for which ONNX Runtime has kernels only
    where the activations are uint8 too; int8 activations never take the saturating path.
    """
    types = {t.name: t.data_type for t in model.graph.initializer}
    pairs = {
        (types.get(n.input[2]), types.get(n.input[5]))
        for n in model.graph.node
        if n.op_type in MULTIPLIERS
    }
    uint8, int8 = onnx.TensorProto.UINT8, onnx.TensorProto.INT8
    return (uint8, int8) in pairs and (int8, int8) not in pairs


def session(
    model: onnx.ModelProto,
    *,
    exact: bool = True,
    threads: int = 1,
    optimize: bool = True,
) -> onnxruntime.InferenceSession:
    """A CPU session.

    Args:
        model: the model to run.
        exact: set the session entry that makes the result the same on x86 processors without VNNI,
            where the model needs it (:func:`saturates_without_vnni`).
        threads: 0 for all cores.
        optimize: False switches every graph optimization off.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # failures are raised; do not print them too
    options.intra_op_num_threads = threads
    if exact and saturates_without_vnni(model):
        options.add_session_config_entry(EXACT, "1")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def all_outputs(model: Model) -> onnx.ModelProto:
    """The model with every tensor that it computes as an output."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.output[:]
    names = [name for node in model.nodes for name in node.outputs if name]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return proto


def tensors(
    model: Model, x: np.ndarray, *, exact: bool = True, optimize: bool = True
) -> dict[str, np.ndarray]:
    """Run a model on ``x`` and return every tensor that it computes, by name.

    Raises:
        UnusableInput: ONNX Runtime refuses the model or the input.
    """
    proto = all_outputs(model)
    names = [output.name for output in proto.graph.output]
    (x_name,) = model.inputs
    try:
        values = session(proto, exact=exact, optimize=optimize).run(names, {x_name: x})
    except Exception as error:  # onnxruntime raises types of its own
        reason = str(error).strip().splitlines()[0]
        raise UnusableInput(f"{model.path}: ONNX Runtime refuses it ({reason})") from None
    return {x_name: x, **dict(zip(names, values, strict=True))}


def single_node(model: Model, node_name: str, x: np.ndarray) -> onnx.ModelProto:
    """One node of a model as a model: its first input is fed, shaped as ``x``."""
    node = next(n for n in model.proto.graph.node if (n.name or n.output[0]) == node_name)
    elem_type = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = onnx.helper.make_graph(
        [node],
        node_name,
        [onnx.helper.make_tensor_value_info(node.input[0], elem_type, x.shape)],
        [onnx.ValueInfoProto(name=node.output[0])],
        [t for t in model.proto.graph.initializer if t.name in node.input],
    )
    return onnx.helper.make_model(
        graph, opset_imports=model.proto.opset_import, ir_version=model.proto.ir_version
    )


def run_node(model: Model, node_name: str, x: np.ndarray) -> np.ndarray:
    """Run one node of a model alone: ``x`` is its first input, the rest are its constants."""
    proto = single_node(model, node_name, x)
    return session(proto).run(None, {proto.graph.input[0].name: x})[0]


def operator_model(
    op_type: str,
    inputs: dict[str, np.ndarray | None],
    *,
    fed: int = 1,
    domain: str = "",
    opset: int = 21,
    **attributes,
) -> onnx.ModelProto:
    """A model of one operator with given inputs, and one output ``y``.

    Args:
        inputs: in the operator's order; None leaves an optional one out.
        fed: how many, from the first, are inputs of the graph; the others are constants.
    """
    present = {name: np.asarray(v) for name, v in inputs.items() if v is not None}
    names = [name if name in present else "" for name in inputs]
    while names and not names[-1]:
        names.pop()
    feeds = list(inputs)[:fed]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op_type, names, ["y"], "node", domain=domain, **attributes)],
        op_type,
        [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for name, value in present.items()
            if name in feeds
        ],
        [onnx.ValueInfoProto(name="y")],
        [onnx.numpy_helper.from_array(v, k) for k, v in present.items() if k not in feeds],
    )
    imports = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)


def run_operator(
    op_type: str, inputs: dict[str, np.ndarray | None], *, fed: int = 1, **options
) -> np.ndarray:
    """Run one operator on given arrays; arguments as for :func:`operator_model`."""
    proto = operator_model(op_type, inputs, fed=fed, **options)
    feeds = {name: np.asarray(inputs[name]) for name in list(inputs)[:fed]}
    return session(proto).run(None, feeds)[0]
