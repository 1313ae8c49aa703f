"""ONNX Runtime as the oracle: sessions whose settings are stated, and what they compute."""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx

from qlinear.errors import Refused, UnusableInput
from qlinear.onnx_model import Model, Node, from_proto
from qlinear.quantized import reads

import onnxruntime

# int8 Q/DQ pairs are fused as they are; by default ONNX Runtime on x86 turns them into uint8 and
# leaves what touches a tensor with two readers in float
INT8_QDQ = ("session.qdqisint8allowed", "1")
# exact products of uint8 and int8 on x86 processors without VNNI
EXACT = ("session.x64quantprecision", "1")
# leave QDQ files as they are written: nothing is fused into integer operators
UNFUSED = ("session.disable_quant_qdq", "1")
Level = onnxruntime.GraphOptimizationLevel
LEVELS = {
    Level.ORT_DISABLE_ALL: "no optimization",
    Level.ORT_ENABLE_BASIC: "basic optimizations",
    Level.ORT_ENABLE_EXTENDED: "extended optimizations",
    Level.ORT_ENABLE_ALL: "all optimizations",
}


@dataclass(frozen=True)
class Settings:
    """Of a session on the CPU: its entries, and how far the graph is optimized."""

    entries: tuple[tuple[str, str], ...] = ()
    level: Level = Level.ORT_ENABLE_EXTENDED
    threads: int = 1

    def __str__(self) -> str:
        entries = [f'{name} = "{value}"' for name, value in self.entries]
        threads = [] if self.threads == 1 else [f"{self.threads or 'all'} threads"]
        return ", ".join([LEVELS[self.level], *(entries or ["no session entries"]), *threads])


# what a user gets who sets nothing
DEFAULT = Settings(level=Level.ORT_ENABLE_ALL)


def open_session(
    source: bytes | str | onnx.ModelProto,
    settings: Settings = DEFAULT,
    *,
    save: Path | None = None,
    severity: int = 4,
) -> onnxruntime.InferenceSession:
    """A session on the CPU.

    Args:
        source: a model's bytes, the path of its file, or the model in memory.
        save: where ONNX Runtime is to write the graph that it runs.
        severity: of what it logs, from 0, everything, to 4, nothing: failures are raised.

    Raises:
        Exception: of ONNX Runtime's own types, if it refuses the model.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = severity
    options.intra_op_num_threads = settings.threads
    options.graph_optimization_level = settings.level
    for name, value in settings.entries:
        options.add_session_config_entry(name, value)
    if save:
        options.optimized_model_filepath = str(save)
    if isinstance(source, onnx.ModelProto):
        source = source.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def refused(path: Path, error: Exception) -> Refused:
    """What to tell the user of an exception of ONNX Runtime."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return Refused(f"{path}: ONNX Runtime refuses it ({reason[:300]})")


def optimized(model: Model, settings: Settings) -> onnx.ModelProto:
    """The graph that ONNX Runtime makes of a file and runs, under these settings.

    Raises:
        Refused: it refuses the file.
        UnusableInput: it cannot write the graph to the folder for temporary files.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "graph.onnx"
        # where weights lie beside the file, the saved graph would refer to them
        source = model.source if isinstance(model.source, bytes) else model.proto
        try:
            open_session(source, settings, save=saved)
        except Exception as error:
            if "serialization failed" in str(error):
                raise UnusableInput(
                    f"{model.path}: ONNX Runtime cannot write the graph that it runs to {folder}: "
                    "no space there (TMPDIR names another folder), or more than 2 GiB"
                ) from None
            raise refused(model.path, error) from None
        return onnx.load(saved)


def saturates_without_vnni(model: Model) -> bool:
    """Whether x86 processors without VNNI need the entry ``EXACT`` for this graph, and can take it.

    They multiply uint8 by int8 with ``vpmaddubsw``, which saturates sums of two products at 16
    bits. The entry rewrites int8 weights as uint8, for which ONNX Runtime has kernels only where
    the activations are uint8 too; int8 activations never take the saturating path. It knows
    QLinearMatMul by its version of opset 10 alone: from opset 21 on that saturates nevertheless.
    """
    pairs = set()
    for node in model.nodes:
        constants = model.arguments(node)
        if node.op_type == "QLinearConv":
            pairs.add(_dtypes(constants, "x_zero_point", "w"))
        elif node.op_type in ("QLinearMatMul", "QGemm"):
            b = "b" if node.op_type == "QLinearMatMul" else "B"
            pairs.add(_dtypes(constants, "a_zero_point", b))
        elif node.op_type in ("ConvInteger", "MatMulInteger"):  # activations: of a dynamic model
            weights = constants.get("w", constants.get("B"))
            pairs.add(("uint8", getattr(weights, "dtype", None)))
    return ("uint8", "int8") in pairs and ("int8", "int8") not in pairs


def _dtypes(constants: dict[str, np.ndarray], *names: str) -> tuple[str, ...]:
    return tuple(str(getattr(constants.get(name), "dtype", None)) for name in names)


def session(
    model: Model, *, exact: bool = True, threads: int = 1, optimize: bool = True
) -> onnxruntime.InferenceSession:
    """A session of a QOperator model, as the chapters use it.

    Args:
        exact: set the entry that makes the result the same on x86 processors without VNNI, where
            the model needs it (:func:`saturates_without_vnni`).
        threads: 0 for all cores.
        optimize: False switches every graph optimization off.
    """
    return open_session(model.source, _settings(model, exact, optimize, threads))


def _settings(model: Model, exact: bool, optimize: bool, threads: int = 1) -> Settings:
    entries = (EXACT,) if exact and saturates_without_vnni(model) else ()
    return Settings(entries, Level.ORT_ENABLE_ALL if optimize else Level.ORT_DISABLE_ALL, threads)


def with_outputs(model: Model, names: Iterable[str]) -> onnx.ModelProto:
    """The model with these tensors as its outputs."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return proto


def all_outputs(model: Model) -> onnx.ModelProto:
    """The model with every tensor that it computes as an output."""
    return with_outputs(model, [name for node in model.nodes for name in node.outputs if name])


def declared(model: Model) -> dict[str, tuple[np.dtype, tuple | None]]:
    """Type and shape of every tensor, as ONNX Runtime infers them; a symbolic axis is a string.

    Raises:
        Refused: it refuses the model.
    """
    try:
        opened = open_session(all_outputs(model), Settings(level=Level.ORT_DISABLE_ALL))
    except Exception as error:
        raise refused(model.path, error) from None
    found = {o.name: (_dtype(o.type), tuple(o.shape)) for o in opened.get_outputs()}
    return found | model.inputs


def _dtype(kind: str) -> np.dtype:
    """NumPy's type for ONNX Runtime's "tensor(float)"; object where there is none."""
    name = kind.removeprefix("tensor(").removesuffix(")").upper()
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(name)))
    except (KeyError, ValueError):
        return np.dtype(object)


def tensors(
    model: Model, x: np.ndarray, *, exact: bool = True, optimize: bool = True
) -> dict[str, np.ndarray]:
    """Run a model with one input on ``x`` and return every tensor that it computes, by name.

    Raises:
        Refused: ONNX Runtime refuses the model or the input.
    """
    proto = all_outputs(model)
    names = [output.name for output in proto.graph.output]
    (x_name,) = model.inputs
    try:
        values = open_session(proto, _settings(model, exact, optimize)).run(names, {x_name: x})
    except Exception as error:  # onnxruntime raises types of its own
        raise refused(model.path, error) from None
    return {x_name: x, **dict(zip(names, values, strict=True))}


def run_session(
    opened: onnxruntime.InferenceSession, names: list[str], feeds: dict[str, object]
) -> list:
    """Run a session; tensors of types that NumPy lacks are fed and returned as ml_dtypes'."""
    wanted = {i.name: i.type for i in opened.get_inputs()}
    given = {name: _to_ort(value, wanted[name]) for name, value in feeds.items() if name in wanted}
    types = {o.name: o.type for o in opened.get_outputs()}
    values = opened.run(names, given)
    return [_from_ort(value, types[name]) for name, value in zip(names, values, strict=True)]


# ONNX Runtime's names of the types that it hands over as the bytes of another
_BYTES = {
    "tensor(float8e4m3fn)": ml_dtypes.float8_e4m3fn,
    "tensor(float8e4m3fnuz)": ml_dtypes.float8_e4m3fnuz,
    "tensor(float8e5m2)": ml_dtypes.float8_e5m2,
    "tensor(float8e5m2fnuz)": ml_dtypes.float8_e5m2fnuz,
    "tensor(bfloat16)": ml_dtypes.bfloat16,
}


def _to_ort(value, kind: str):
    if kind not in _BYTES or not isinstance(value, np.ndarray):
        return value
    elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(_BYTES[kind]))
    raw = np.ascontiguousarray(value).view(np.dtype(f"u{value.itemsize}"))
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, elem_type)


def _from_ort(value, kind: str):
    if kind in _BYTES and isinstance(value, np.ndarray) and value.dtype.kind == "u":
        return value.view(_BYTES[kind])
    return value


def single_node(model: Model, node: Node, values: dict[str, object]) -> onnx.ModelProto:
    """One node of a model as a model of its own.

    Args:
        values: the tensors that it is fed, by name; its other inputs are the model's constants.
    """
    proto = next(n for n in model.proto.graph.node if tuple(n.output) == node.outputs)
    read = reads(node)
    inputs = [value_info(name, values[name]) for name in read if name in values]
    stored = {t.name: t for t in model.proto.graph.initializer}
    # a constant that the caller could override, which is no constant to ONNX Runtime's kernels
    inputs += [v for v in model.proto.graph.input if v.name in read and v.name in stored
               and v.name not in values]  # fmt: skip
    kept = [
        stored.get(name) or onnx.numpy_helper.from_array(model.constants[name], name)
        for name in read
        if name not in values and name in model.constants
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.outputs if name]
    graph = onnx.helper.make_graph([proto], "one_node", inputs, outputs, kept)
    return onnx.helper.make_model(
        graph,
        opset_imports=model.proto.opset_import,
        ir_version=model.proto.ir_version,
        functions=model.proto.functions,
    )


def value_info(name: str, value) -> onnx.ValueInfoProto:
    """The declaration of an array, or of a sequence of arrays."""
    if isinstance(value, list):
        kind = onnx.helper.np_dtype_to_tensor_dtype(value[0].dtype) if value else 1
        return onnx.helper.make_tensor_sequence_value_info(name, kind, None)
    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return onnx.helper.make_tensor_value_info(name, kind, value.shape)


def borrower(model: Model) -> Callable[[Node, dict], dict]:
    """A function that lets ONNX Runtime compute one node on given tensors, as the graph has it.

    Sessions are kept for nodes that are asked for again with inputs of the same types and shapes.
    """
    opened: dict[tuple, onnxruntime.InferenceSession] = {}

    def borrow(node: Node, values: dict[str, object]) -> dict[str, np.ndarray]:
        kinds = tuple((k, getattr(v, "dtype", None), np.shape(v)) for k, v in values.items()
                      if not isinstance(v, list))  # fmt: skip
        if (node.outputs, kinds) not in opened:
            proto = single_node(model, node, values)
            settings = Settings(level=Level.ORT_DISABLE_ALL)
            opened[node.outputs, kinds] = open_session(proto, settings)
        names = [name for name in node.outputs if name]
        found = run_session(opened[node.outputs, kinds], names, values)
        return dict(zip(names, found, strict=True))

    return borrow


def run_node(model: Model, node_name: str, x: np.ndarray) -> np.ndarray:
    """Run one node of a model alone: ``x`` is its first input, the rest are its constants."""
    node = model.node(node_name)
    return borrower(model)(node, {node.inputs[0]: x})[node.outputs[0]]


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
    opened = session(from_proto(proto))
    return run_session(opened, [opened.get_outputs()[0].name], feeds)[0]
