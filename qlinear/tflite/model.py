"""Read a ``.tflite`` file into the records of an ONNX model, without TensorFlow.

Operators have no names in such a file; each is called after the first tensor that it writes. A
tensor's name is cut at the first ";" where that is enough to tell it from the others.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.files import read_bytes
from qlinear.onnx_model import Node, find_node
from qlinear.tflite.arithmetic import Type

IDENTIFIER = b"TFL3"
# types of the schema that NumPy has by the same name in small letters
DTYPES = (
    "FLOAT16 FLOAT32 FLOAT64 INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64 BOOL COMPLEX64 "
    "COMPLEX128"
).split()
# options of the schema whose numbers have names
NAMED = {
    "fused_activation_function": "ActivationFunctionType",
    "padding": "Padding",
    "weights_format": "FullyConnectedOptionsWeightsFormat",
    "quantized_bias_type": "TensorType",
}


@dataclass(frozen=True)
class TFLite:
    """A graph with its constants, as :class:`qlinear.onnx_model.Model` has them.

    ``inputs`` and ``outputs`` map a name to type and shape; the shape is the one that the file
    gives, whether or not it may be changed. ``types`` and ``index`` are of every tensor.
    """

    path: Path
    source: bytes = field(repr=False)
    nodes: tuple[Node, ...] = field(repr=False)
    constants: dict[str, np.ndarray] = field(repr=False)
    inputs: dict[str, tuple[np.dtype, tuple]]
    outputs: dict[str, tuple[np.dtype, tuple]]
    types: dict[str, Type] = field(repr=False)
    index: dict[str, int] = field(repr=False)

    def node(self, name: str) -> Node:
        """The node of that name, or the one that writes the tensor of that name.

        Raises:
            UnusableInput: there is none; the message says which exist.
        """
        known = {output for node in self.nodes for output in node.outputs}
        short = name.split(";")[0]
        return find_node(self.path, self.nodes, short if short in known else name)

    def quantizers(self, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Scale and zero point of each QUANTIZE that reads a tensor."""
        for node in self.nodes:
            made = self.types[node.outputs[0]] if node.op_type == "QUANTIZE" else None
            if made and name in node.inputs and made.dtype.upper() in DTYPES:
                yield made.scale, made.zero_point.astype(made.dtype)


def is_tflite(path: Path) -> bool:
    """Whether a path is that of a file of TensorFlow Lite, by its ending."""
    return Path(path).suffix.lower() == ".tflite"


def schema():
    """The module of the schema, which ai-edge-litert ships.

    Raises:
        UnusableInput: it is not installed; the message says how to.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise UnusableInput(
            "a .tflite file needs LiteRT to be read and run (pip install 'qlinear[tflite]')"
        ) from None
    return schema_py_generated


def load(path: str | Path) -> TFLite:
    """Read a file of TensorFlow Lite.

    Raises:
        UnusableInput: it is missing or damaged, LiteRT is not installed, or it holds several
            graphs.
    """
    path = Path(path)
    raw = read_bytes(path)
    try:
        known = schema()
    except UnusableInput as error:
        raise UnusableInput(f"{path}: {error}") from None
    if raw[4:8] != IDENTIFIER:
        raise UnusableInput(f"{path}: not a file of TensorFlow Lite (it does not say TFL3)")
    try:
        model = known.ModelT.InitFromObj(known.Model.GetRootAs(raw, 0))
        return _records(path, raw, model, known)
    except UnusableInput:
        raise
    except Exception as error:  # flatbuffers, struct and NumPy raise types of their own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UnusableInput(f"{path}: a damaged file ({lines[0][:200]})") from None


def _records(path: Path, raw: bytes, model, known) -> TFLite:
    graphs = model.subgraphs or []
    if len(graphs) != 1:
        raise UnusableInput(f"{path}: holds {len(graphs)} graphs; one needed")
    graph = graphs[0]
    tensors = list(_or(graph.tensors))
    made = {int(i) for o in _or(graph.operators) for i in _or(o.outputs)}
    made |= {int(i) for i in _or(graph.inputs)}
    held = [_data(raw, model, t) for t in tensors]
    held = [_empty(t) if data is None and i not in made else data
            for i, (t, data) in enumerate(zip(tensors, held, strict=True))]  # fmt: skip
    names = _names([_text(t.name) for t in tensors], [data is None for data in held])
    types = {name: _type(t, known) for name, t in zip(names, tensors, strict=True)}
    constants = {}
    for name, data in zip(names, held, strict=True):
        if data is not None and types[name].dtype.upper() in DTYPES:
            constants[name] = _constant(path, name, types[name], data)

    def of(indices, most: int = len(tensors)) -> tuple[str, ...]:
        indices = [int(i) for i in _or(indices)]
        if not all(-1 <= i < most for i in indices):
            raise UnusableInput(f"{path}: damaged: tensors {indices} of {most}")
        return tuple("" if i < 0 else names[i] for i in indices)

    nodes = []
    for operator in _or(graph.operators):
        code = model.operatorCodes[operator.opcodeIndex]
        kind = max(int(code.builtinCode), int(code.deprecatedBuiltinCode))
        op_type = _enum(known.BuiltinOperator, kind)
        if op_type == "CUSTOM":
            op_type = f"CUSTOM {_text(code.customCode)}"
        inputs, outputs = of(operator.inputs), of(operator.outputs)
        name = next((o for o in outputs if o), op_type)
        options = _options(operator.builtinOptions, known)
        nodes.append(Node(name, op_type, "", inputs, outputs, options))
    if not nodes:
        raise UnusableInput(f"{path}: its graph has no operators")
    inputs, outputs = of(graph.inputs), of(graph.outputs)
    given = {name for name, data in zip(names, held, strict=True) if data is not None}
    _check_order(path, nodes, {*inputs, *given}, outputs)
    for name in filter(None, inputs):
        if min(types[name].shape, default=0) < 0:
            raise UnusableInput(f"{path}: input {name} has shape {types[name].shape}")
    signature = {n: (np.dtype(_numpy(types[n].dtype)), types[n].shape) for n in names}
    return TFLite(
        path=path,
        source=raw,
        nodes=tuple(nodes),
        constants=constants,
        inputs={name: signature[name] for name in inputs if name},
        outputs={name: signature[name] for name in outputs if name},
        types=types,
        index={name: i for i, name in enumerate(names)},
    )


def _check_order(path: Path, nodes: list[Node], known: set[str], outputs: tuple[str, ...]) -> None:
    """Refuse a tensor that is written twice, or read before it is written."""
    known = set(known)
    for node in nodes:
        for name in filter(None, node.inputs):
            if name not in known:
                raise UnusableInput(f"{path}: node {node.name} ({node.op_type}): its input {name} "
                                    "is not defined: a state, or a damaged file")  # fmt: skip
        for name in filter(None, node.outputs):
            if name in known:
                raise UnusableInput(f"{path}: node {node.name}: {name} is written twice")
            known.add(name)
    for name in outputs:
        if name not in known:
            raise UnusableInput(f"{path}: output {name} is not computed")


def _or(values) -> list:
    return [] if values is None else values


def _text(name) -> str:
    if isinstance(name, bytes):
        return name.decode(errors="backslashreplace")
    return name or ""


def _names(given: list[str], computed: list[bool]) -> list[str]:
    """Names that are there once each.

    A converter joins the names of all that it fused, with ";". Of a tensor that is computed the
    first is taken, if no other computed one begins with it. To what is still there twice its index
    is added.
    """
    short = [name.split(";")[0] for name in given]
    often = Counter(one for one, is_computed in zip(short, computed, strict=True) if is_computed)
    found = [
        one if is_computed and often[one] == 1 else name
        for one, name, is_computed in zip(short, given, computed, strict=True)
    ]
    often = Counter(found)
    found = [n if n and often[n] == 1 else f"{n}#{i}" for i, n in enumerate(found)]
    return found if len(set(found)) == len(found) else [f"{n}#{i}" for i, n in enumerate(given)]


def _enum(kind: type, value: int) -> str:
    names = {v: k for k, v in vars(kind).items() if isinstance(v, int)}
    return names.get(value, f"{kind.__name__} {value}")


def _numpy(dtype: str) -> str:
    return dtype if dtype.upper() in DTYPES else "O"


def _type(t, known) -> Type:
    q = t.quantization
    scale = np.asarray([] if q is None else _or(q.scale), np.float32)
    zero = np.asarray([] if q is None else _or(q.zeroPoint), np.int64)
    if q is not None and q.details is not None:  # of another kind: no scale to compute with
        scale = np.asarray([], np.float32)
    axis = 0 if q is None else int(q.quantizedDimension)
    shape = tuple(int(size) for size in _or(t.shape))
    dtype = _enum(known.TensorType, int(t.type)).lower()
    return Type(f"{dtype}, sparse" if t.sparsity else dtype, shape, scale, zero, axis)


def _data(raw: bytes, model, t) -> np.ndarray | None:
    """A constant's bytes; None for a tensor that is computed."""
    if not 0 <= int(t.buffer) < len(_or(model.buffers)):
        raise ValueError(f"buffer {t.buffer} of {len(_or(model.buffers))}")
    buffer = model.buffers[int(t.buffer)]
    if buffer.data is not None and len(buffer.data):
        return np.asarray(buffer.data, np.uint8)
    if int(buffer.offset or 0) > 1:  # beside the schema's own bytes, in files of more than 2 GB
        return np.frombuffer(raw, np.uint8)[int(buffer.offset) :][: int(buffer.size)]
    return None


def _empty(t) -> np.ndarray | None:
    """No bytes, of a constant without elements: a buffer holds none, as that of no constant."""
    return np.empty(0, np.uint8) if 0 in list(_or(t.shape)) else None


def _constant(path: Path, name: str, given: Type, data: np.ndarray) -> np.ndarray:
    count = int(np.prod(given.shape, dtype=object)) if given.shape else 1
    dtype = np.dtype(given.dtype).newbyteorder("<")
    if min(given.shape, default=0) < 0 or count * dtype.itemsize != data.size:
        raise UnusableInput(f"{path}: tensor {name}: shape {given.shape} of {given.dtype} does not "
                            f"fit its {data.size} bytes")  # fmt: skip
    value = np.frombuffer(data.tobytes(), dtype).reshape(given.shape).astype(given.dtype)
    value.flags.writeable = False
    return value


def _options(options, known) -> dict:
    """An operator's options by the schema's names, in small letters with underscores."""
    found = {}
    for key, value in ({} if options is None else vars(options)).items():
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower()
        if name in NAMED:
            value = _enum(getattr(known, NAMED[name]), int(value))
        elif isinstance(value, np.ndarray):
            value = value.tolist()
        found[name] = value
    return found
