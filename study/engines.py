"""One quantized network in the field's runtimes: each opened as a function of tensors by name.

:data:`ENGINES` lists them. An :class:`Engine` opens a network, or a part of it, in the form that
its runtime reads, always the same integers: the QOperator file itself, its QDQ form (:mod:`study.
qdq_writer`), a LiteRT file (:mod:`study.tflite_writer`), or PyTorch's quantized operators called
one by one. Feeds and results are (N, C, H, W), by ONNX's names, whatever the runtime's order is;
activations are int8, whatever the form writes.
"""

import importlib.metadata
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx

from qlinear import ort
from qlinear.errors import UnusableInput
from qlinear.onnx_model import Model, Node, from_proto
from study import quantize
from study.qdq_writer import activations, qdq
from study.tflite_writer import channels_first, channels_last, tflite

Tensors = dict[str, np.ndarray]
Opened = Callable[[Tensors], Tensors]
# of a network: its nodes or None for all, the outputs wanted besides, and images in a call
Open = Callable[[Model, Sequence[Node] | None, Sequence[str], int], Opened]


@dataclass(frozen=True)
class Engine:
    """A runtime with one choice of its options."""

    name: str  # in the record
    title: str
    packages: tuple[str, ...]  # of PyPI
    form: str  # QOperator, QDQ, QDQ uint8, tflite, or operators
    open: Open
    # what the runtime made of a network, in its own words: kinds of operators, counted
    kinds: Callable[[Model, Sequence[str], int], dict[str, int]] | None = None
    slow: bool = False  # asked on fewer images

    def absent(self) -> str:
        """The first of its packages that is not installed; empty where all are."""
        return next((name for name in self.packages if not version(name)), "")


def version(package: str) -> str:
    """The installed version of a package, empty where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


# --- forms


def _part(model: Model, nodes: Sequence[Node] | None, outputs: Sequence[str]) -> onnx.ModelProto:
    """The QOperator file with more outputs, or one node of it alone."""
    kinds = ort.declared(model)
    if nodes is None:
        proto = ort.with_outputs(model, dict.fromkeys([*outputs, *model.outputs]))
        for value in proto.graph.output:
            value.CopyFrom(_info(value.name, *kinds[value.name]))
        return proto
    (node,) = nodes
    given = [name for name in node.inputs if name and name not in model.constants]
    blank = {name: np.zeros([n if isinstance(n, int) else 1 for n in kinds[name][1]],
                            kinds[name][0]) for name in given}  # fmt: skip
    proto = ort.single_node(model, node, blank)
    for value in proto.graph.input:  # any number of images
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    for value in proto.graph.output:
        value.CopyFrom(_info(value.name, *kinds[value.name]))
    return proto


def _info(name: str, dtype: np.dtype, shape: tuple) -> onnx.ValueInfoProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def _fixed(proto: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The model with the number of images in its first axes."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    for value in [*made.graph.input, *made.graph.output]:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    return made


def _written(
    model: Model, nodes: Sequence[Node] | None, outputs: Sequence[str], batch: int, form: str
) -> onnx.ModelProto:
    if form == "QOperator":
        return _fixed(_part(model, nodes, outputs), batch)
    return qdq(model, nodes, outputs, batch, uint8=form == "QDQ uint8")


def _moved(model: Model, form: str, run: Opened) -> Opened:
    """Feeds and results as int8, where the form holds them as uint8, 128 higher."""
    if form != "QDQ uint8":
        return run
    names = activations(model)

    def moved(feeds: Tensors) -> Tensors:
        up = {k: (v.astype(np.int16) + 128).astype(np.uint8) if k in names else v
              for k, v in feeds.items()}  # fmt: skip
        return {k: (v.astype(np.int16) - 128).astype(np.int8) if k in names else v
                for k, v in run(up).items()}  # fmt: skip

    return moved


# --- ONNX Runtime, onnx.reference, OpenVINO, IREE, TVM: they read ONNX


def onnx_runtime(
    model: Model, nodes: Sequence[Node] | None, outputs: Sequence[str], batch: int,
    form: str, settings: ort.Settings,
) -> Opened:  # fmt: skip
    opened = ort.open_session(_written(model, nodes, outputs, batch, form), settings)
    names = [o.name for o in opened.get_outputs()]
    return _moved(
        model, form, lambda feeds: dict(zip(names, opened.run(names, feeds), strict=True))
    )


def kinds_of_onnx_runtime(
    model: Model, outputs: Sequence[str], batch: int, form: str, settings: ort.Settings
) -> dict[str, int]:
    proto = from_proto(_written(model, None, outputs, batch, form), form)
    graph = ort.optimized(proto, settings).graph
    return dict(sorted(Counter(node.op_type for node in graph.node).items()))


def onnx_reference(
    model: Model, nodes: Sequence[Node] | None, outputs: Sequence[str], batch: int, form: str
) -> Opened:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(_written(model, nodes, outputs, batch, form))
    names = evaluator.output_names

    def run(feeds: Tensors) -> Tensors:
        return dict(zip(names, evaluator.run(None, feeds), strict=True))

    return run


def _openvino(model: Model, nodes, outputs: Sequence[str], batch: int, form: str, options: dict):
    import openvino

    core = openvino.Core()
    proto = _written(model, nodes, outputs, batch, form)
    read = core.read_model(proto.SerializeToString(), b"")
    # its threads share the images, not the sums
    return core.compile_model(read, "CPU", {"INFERENCE_NUM_THREADS": 1, **options}), proto


def openvino(
    model: Model, nodes: Sequence[Node] | None, outputs: Sequence[str], batch: int,
    form: str, options: dict[str, str],
) -> Opened:  # fmt: skip
    compiled, proto = _openvino(model, nodes, outputs, batch, form, options)
    names = [value.name for value in proto.graph.output]

    def run(feeds: Tensors) -> Tensors:
        found = compiled(feeds)
        return {name: found[name] for name in names}

    return _moved(model, form, run)


def kinds_of_openvino(
    model: Model, outputs: Sequence[str], batch: int, form: str, options: dict[str, str]
) -> dict[str, int]:
    """Its layers, each with the kernel's name, which ends in the type that it computes in."""
    compiled, _ = _openvino(model, None, outputs, batch, form, options)
    count: Counter = Counter()
    for layer in compiled.get_runtime_model().get_ops():
        info = layer.get_rt_info()
        kind, kernel = (info[key].astype(str) for key in ("layerType", "primitiveType"))
        if kind in ("Convolution", "FullyConnected", "Eltwise", "Reduce", "Subgraph"):
            count[f"{kind} {kernel}"] += 1
    return dict(sorted(count.items()))


@cache
def _compiled(model: bytes) -> bytes:
    """IREE's program of an ONNX file; kept, since it takes long to make."""
    import iree.compiler

    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "model.onnx", Path(folder) / "model.mlir"
        given.write_bytes(model)
        importer = "iree.compiler.tools.import_onnx"
        done = subprocess.run(
            [sys.executable, "-m", importer, str(given), "-o", str(made)],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise UnusableInput((done.stderr.strip().splitlines() or [importer])[-1])
        return iree.compiler.compile_file(
            str(made), target_backends=["llvm-cpu"], extra_args=["--iree-llvmcpu-target-cpu=host"]
        )


def iree(
    model: Model, nodes: Sequence[Node] | None, outputs: Sequence[str], batch: int, form: str
) -> Opened:
    import iree.runtime

    proto = _written(model, nodes, outputs, batch, form)
    proto.graph.name = "network"
    names = [value.name for value in proto.graph.output]
    inputs = [value.name for value in proto.graph.input]
    compiled = _compiled(proto.SerializeToString(deterministic=True))
    module = iree.runtime.load_vm_flatbuffer(compiled, driver="local-sync")

    def run(feeds: Tensors) -> Tensors:
        found = module.network(*(np.ascontiguousarray(feeds[name]) for name in inputs))
        found = found if isinstance(found, list | tuple) else [found]
        return {name: np.array(v) for name, v in zip(names, found, strict=True)}

    return _moved(model, form, run)


def tvm(
    model: Model, nodes: Sequence[Node] | None, outputs: Sequence[str], batch: int, form: str
) -> Opened:
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    proto = _written(model, nodes, outputs, batch, form)
    names = [value.name for value in proto.graph.output]
    inputs = [value.name for value in proto.graph.input]
    module = relax.transform.DecomposeOpsForInference()(from_onnx(proto))
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())

    def run(feeds: Tensors) -> Tensors:
        given = (tvm.runtime.tensor(np.ascontiguousarray(feeds[name])) for name in inputs)
        found = machine["main"](*given)
        found = [found] if hasattr(found, "numpy") else list(found)
        return {name: v.numpy() for name, v in zip(names, found, strict=True)}

    return _moved(model, form, run)


# --- LiteRT


def litert(
    model: Model, nodes: Sequence[Node] | None, outputs: Sequence[str], batch: int, kernels: str
) -> Opened:
    from ai_edge_litert import interpreter as of

    made = of.Interpreter(
        model_content=tflite(model, nodes, outputs, batch),
        experimental_op_resolver_type=getattr(of.OpResolverType, kernels),
        num_threads=1,
    )
    made.allocate_tensors()

    def run(feeds: Tensors) -> Tensors:
        for given in made.get_input_details():
            made.set_tensor(given["index"], channels_last(feeds[given["name"]]))
        made.invoke()
        return {o["name"]: channels_first(made.get_tensor(o["index"]))
                for o in made.get_output_details()}  # fmt: skip

    return run


# --- PyTorch: no file, each operator called by itself


def pytorch(
    model: Model, nodes: Sequence[Node] | None, outputs: Sequence[str], batch: int, form: str
) -> Opened:
    """PyTorch's quantized operators; of the form "reference" its float ones between quantizers.

    Activations are quint8, 128 higher, since its engines take no qint8 there. Pads are written by
    hand where they are unequal. No quantized pool has an output scale of its own: it is computed
    in float, in either form.
    """
    import torch

    warnings.filterwarnings("ignore", ".*(are deprecated and will be removed|is not writable).*")
    torch.set_num_threads(1)
    if form != "reference":
        if form not in torch.backends.quantized.supported_engines:
            raise UnusableInput(f"this build of PyTorch has no engine {form}")
        torch.backends.quantized.engine = form
    chosen = list(model.nodes if nodes is None else nodes)
    steps = [(node, _TORCH[node.op_type](model, node, form)) for node in chosen]
    kept = {*outputs, *model.outputs, *chosen[-1].outputs}
    names = activations(model)
    scales = _scales(model)

    def run(feeds: Tensors) -> Tensors:
        if form != "reference":
            torch.backends.quantized.engine = form
        values = {}
        for name, v in feeds.items():
            if name in names:
                up = torch.from_numpy((v.astype(np.int16) + 128).astype(np.uint8))
                scale, zero = scales[name]
                v = torch._make_per_tensor_quantized_tensor(up, float(scale), int(zero) + 128)
            else:
                v = torch.from_numpy(v)
            values[name] = v
        with torch.inference_mode():
            for node, step in steps:
                read = [values[name] for name in node.inputs if name in values]
                values[node.outputs[0]] = step(*read)
        return {name: _from_torch(values[name]) for name in values if name in kept}

    return run


def _from_torch(value) -> np.ndarray:
    if value.is_quantized:
        return (value.int_repr().numpy().astype(np.int16) - 128).astype(np.int8)
    return value.numpy()


def _scales(model: Model) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scale and zero point of each tensor of the network."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for node in model.nodes:
        of = model.arguments(node)
        for k in "yC":
            if f"{k}_scale" in of:
                found[node.outputs[0]] = of[f"{k}_scale"], of[f"{k}_zero_point"]
        if node.op_type == "Flatten":
            found[node.outputs[0]] = found[node.inputs[0]]
    return found


def _torch_y(of: Tensors, k: str = "y") -> tuple[float, int]:
    return float(of[f"{k}_scale"]), int(of[f"{k}_zero_point"]) + 128


def _torch_weights(w: np.ndarray, scale: np.ndarray):
    import torch

    if scale.size > 1:
        zeros = torch.zeros(scale.size, dtype=torch.int64)
        scales = torch.from_numpy(scale.astype(np.float64))
        return torch._make_per_channel_quantized_tensor(torch.from_numpy(w), scales, zeros, 0)
    return torch._make_per_tensor_quantized_tensor(torch.from_numpy(w), float(scale), 0)


def _torch_layer(model: Model, node: Node, form: str) -> Callable:
    import torch

    conv = quantize.layer(model, node)
    dense = node.op_type == "QGemm"
    weights = conv.w[:, :, 0, 0] if dense else conv.w
    w = _torch_weights(np.ascontiguousarray(weights), np.asarray(conv.w_scale))
    # its layers hold a float32 bias
    bias = conv.B * conv.x_scale.astype(np.float64) * conv.w_scale.astype(np.float64)
    bias = torch.from_numpy(bias.astype(np.float32))
    y = float(conv.y_scale), int(conv.y_zero_point) + 128
    attributes = node.attributes
    stride, dilation = (list(attributes.get(k, (1, 1))) for k in ("strides", "dilations"))
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    group = attributes.get("group", 1)
    equal = (top, left) == (bottom, right)
    pads = [top, left] if equal else [0, 0]

    def padded(x):
        if equal:
            return x
        zero = x.q_zero_point()
        wide = torch.nn.functional.pad(x.int_repr(), (left, right, top, bottom), value=zero)
        return torch._make_per_tensor_quantized_tensor(wide, x.q_scale(), zero)

    if form == "reference":
        function = torch.nn.functional
        real = w.dequantize()

        def reference(x):
            if dense:
                found = function.linear(x.dequantize(), real, bias)
            else:
                given = padded(x).dequantize()
                found = function.conv2d(given, real, bias, stride, pads, dilation, group)
            return torch.quantize_per_tensor(found, *y, torch.quint8)

        return reference
    if dense:
        packed = torch.ops.quantized.linear_prepack(w, bias)
        return lambda x: torch.ops.quantized.linear(x, packed, *y)
    packed = torch.ops.quantized.conv2d_prepack(w, bias, stride, pads, dilation, group)
    return lambda x: torch.ops.quantized.conv2d(padded(x), packed, *y)


def _torch_add(model: Model, node: Node, form: str) -> Callable:
    import torch

    y = _torch_y(model.arguments(node), "C")
    if form == "reference":
        return lambda a, b: torch.quantize_per_tensor(
            a.dequantize() + b.dequantize(), *y, torch.quint8
        )
    return lambda a, b: torch.ops.quantized.add(a, b, *y)


def _torch_pool(model: Model, node: Node, form: str) -> Callable:
    import torch

    y = _torch_y(model.arguments(node))
    return lambda x: torch.quantize_per_tensor(
        torch.nn.functional.adaptive_avg_pool2d(x.dequantize(), 1), *y, torch.quint8
    )


def _torch_quantize(model: Model, node: Node, form: str) -> Callable:
    import torch

    y = _torch_y(model.arguments(node))
    return lambda x: torch.quantize_per_tensor(x, *y, torch.quint8)


_TORCH: dict[str, Callable[[Model, Node, str], Callable]] = {
    "QuantizeLinear": _torch_quantize,
    "QLinearConv": _torch_layer,
    "QGemm": _torch_layer,
    "QLinearAdd": _torch_add,
    "QLinearGlobalAveragePool": _torch_pool,
    "Flatten": lambda model, node, form: lambda x: x.flatten(1),
    "DequantizeLinear": lambda model, node, form: lambda x: x.dequantize(),
}


# --- the list


def _sessions() -> Iterator[Engine]:
    level = ort.Level
    every = ort.DEFAULT
    none = ort.Settings(level=level.ORT_DISABLE_ALL)
    int8 = ort.Settings((ort.INT8_QDQ,), level.ORT_ENABLE_ALL)
    exact = ort.Settings((ort.EXACT,), level.ORT_ENABLE_ALL)
    rows = (
        ("", "QOperator", every, "default"),
        ("-unoptimized", "QOperator", none, "no optimization"),
        ("-x64quantprecision", "QOperator", exact, 'session.x64quantprecision = "1"'),
        ("-qdq", "QDQ", every, "default"),
        ("-qdq-unoptimized", "QDQ", none, "no optimization"),
        ("-qdq-int8allowed", "QDQ", int8, 'session.qdqisint8allowed = "1"'),
        ("-qdq-uint8", "QDQ uint8", every, "default"),
        ("-qdq-uint8-unoptimized", "QDQ uint8", none, "no optimization"),
        ("-qdq-uint8-x64quantprecision", "QDQ uint8", exact, 'session.x64quantprecision = "1"'),
    )
    for name, form, settings, what in rows:
        options = dict(form=form, settings=settings)
        yield Engine(
            f"onnxruntime{name}", f"ONNX Runtime, {what}", ("onnxruntime",), form,
            partial(onnx_runtime, **options), partial(kinds_of_onnx_runtime, **options),
        )  # fmt: skip


def _engines() -> Iterator[Engine]:
    yield from _sessions()
    for name, kernels, title in (
        ("litert", "AUTO", "LiteRT, XNNPACK (the default)"),
        ("litert-optimized", "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "LiteRT, optimized kernels"),
        ("litert-reference", "BUILTIN_REF", "LiteRT, reference kernels"),
    ):
        yield Engine(name, title, ("ai-edge-litert",), "tflite", partial(litert, kernels=kernels))
    for name, form, options, what in (
        ("-qoperator", "QOperator", {}, "default"),
        ("-default", "QDQ", {}, "default"),
        ("", "QDQ", {"INFERENCE_PRECISION_HINT": "f32"}, "f32"),
        ("-uint8-default", "QDQ uint8", {}, "default"),
        ("-uint8", "QDQ uint8", {"INFERENCE_PRECISION_HINT": "f32"}, "f32"),
    ):
        given = dict(form=form, options=options)
        yield Engine(
            f"openvino{name}", f"OpenVINO, {what}", ("openvino",), form,
            partial(openvino, **given), partial(kinds_of_openvino, **given),
        )  # fmt: skip
    for engine in ("fbgemm", "x86", "onednn", "qnnpack"):
        yield Engine(f"pytorch-{engine}", f"PyTorch, {engine}", ("torch",), "operators",
                     partial(pytorch, form=engine))  # fmt: skip
    yield Engine("pytorch-reference", "PyTorch, reference form", ("torch",), "operators",
                 partial(pytorch, form="reference"))  # fmt: skip
    iree_packages = ("iree-base-compiler", "iree-base-runtime")
    for name, title, packages, function in (
        ("tvm", "TVM", ("apache-tvm",), tvm),
        ("iree", "IREE", iree_packages, iree),
        ("onnx.reference", "onnx.reference", ("onnx",), onnx_reference),
    ):
        for form, end in (("QOperator", "-qoperator"), ("QDQ", "")):
            yield Engine(f"{name}{end}", title, packages, form, partial(function, form=form),
                         slow=True)  # fmt: skip


#: Runtimes that were not asked, and why.
NOT_ASKED = {
    "ExecuTorch": "1.5.1 has no reader of ONNX; a network enters it from PyTorch by torch.export",
}
#: Every :class:`Engine` by its name; ``onnxruntime`` is what the others are compared with.
ENGINES = {engine.name: engine for engine in _engines()}


@contextmanager
def refusals() -> Iterator[list[str]]:
    """What a runtime says where it refuses, in one line; nothing where it does not."""
    said: list[str] = []
    try:
        yield said
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:  # each runtime raises types of its own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # what says most: the first line with "error:", else those that are not a place
        telling = [line for line in lines if "error:" in line][:1] or [
            line for line in lines if not line.startswith(("Exception from", "Check '"))
        ]
        line = " ".join(telling or lines or [type(error).__name__])
        said.append(re.sub(r"\S*/(model\.\w+)", r"\1", line)[:300])
