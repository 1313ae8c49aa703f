"""Compare what hardware or a kernel computed with LiteRT: where it differs, and what would do so.

For ONNX there is a catalogue of more than a hundred mistakes (:mod:`qlinear.mistakes`). Here are
those of TensorFlow Lite's form: other requantizations, and what is forgotten most. Each is
computed on the whole tensor, and named only if it gives every element of the dump.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from qlinear.compare import Comparison, compare_arrays
from qlinear.conventions import CONVENTIONS
from qlinear.dumps import SUFFIXES, Raw, read_file
from qlinear.errors import Unsupported, UnusableInput
from qlinear.onnx_model import Node
from qlinear.operators.qlinear_add import qlinear_add
from qlinear.tflite import arithmetic as ar
from qlinear.tflite import reference, verdict, xnnpack
from qlinear.tflite.arithmetic import Stages, Type
from qlinear.tflite.model import TFLite

PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@dataclass(frozen=True, eq=False)
class Dumped:
    """A tensor as a file has it, in LiteRT's type and shape."""

    tensor: str
    path: Path
    values: np.ndarray


@dataclass(frozen=True)
class Found:
    """What came of a comparison."""

    comparisons: tuple[Comparison, ...]  # in the graph's order
    first: Comparison | None  # the first tensor that differs
    explained: tuple[str, ...]  # what gives every element of it
    nearest: tuple[str, int] | None  # else what leaves the fewest, and how many

    @property
    def status(self) -> int:
        return int(self.first is not None)

    def as_json(self) -> dict:
        return {"status": self.status, "tensors": [c.as_json() for c in self.comparisons],
                "first": self.first.tensor if self.first else None,
                "explained": list(self.explained),
                "nearest": self.nearest}  # fmt: skip


def collect(
    model: TFLite, values: dict[str, np.ndarray], given: list[str], node: str, layout: str
) -> list[Dumped]:
    """The tensors that files hold: of ``node``, or by the names of files or of arrays in them.

    Args:
        given: ``FILE``, ``NAME=FILE`` or a folder.
        layout: NHWC or NCHW, of arrays whose shape does not say.

    Raises:
        UnusableInput: a file cannot be read, or its tensor is not in the model, or there twice.
    """
    found = []
    for text in given:
        name, equals, rest = text.partition("=")
        named = bool(equals) and not Path(text).exists()
        path = Path(rest if named else text)
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES) if (
            path.is_dir()) else [path]  # fmt: skip
        for file in files:
            for raw in read_file(file):
                wanted = node or (name if named else raw.name)
                tensor = _tensor(model, wanted, file)
                if tensor not in values:
                    raise UnusableInput(f"{file}: {tensor} is no tensor that is computed")
                if any(one.tensor == tensor for one in found):
                    raise UnusableInput(f"{file}: {tensor} is given twice")
                array = fitted(raw, values[tensor], layout)
                found.append(Dumped(tensor, file, array))
    if not found:
        raise UnusableInput(f"{' '.join(given)}: no dump ({', '.join(SUFFIXES)})")
    return found


def _tensor(model: TFLite, name: str, file: Path) -> str:
    if name in model.types:
        return name
    alike = [tensor for tensor in model.types if _safe(tensor) == _safe(name)]
    if len(alike) > 1:
        raise UnusableInput(f"{file}: {name!r} may be {' or '.join(alike[:4])}; name it NAME=FILE")
    if alike:
        return alike[0]
    try:
        return model.node(name).outputs[0]
    except UnusableInput:
        raise UnusableInput(
            f"{file}: no tensor named {name!r}; name one with --node, or as NAME=FILE"
        ) from None


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def fitted(raw: Raw, like: np.ndarray, layout: str) -> np.ndarray:
    """A file's numbers in the type and shape of a tensor.

    Raises:
        UnusableInput: there are more or fewer, or one is none of the type's.
    """
    data = raw.data
    if raw.form in ("bytes", "words"):
        wide = like.itemsize
        rows = data.reshape(-1, wide) if raw.form == "bytes" and not data.size % wide else data
        if raw.form == "words":
            if data.shape[-1] < wide:
                raise UnusableInput(f"{raw.path}: words of {raw.bits} bits; {like.dtype} needed")
            low = data[:, ::-1]  # the least significant byte first
            rows, rest = low[:, :wide], low[:, wide:]
            negative = (rows[:, -1:] > 127) & (like.dtype.kind == "i")
            if (rest != np.where(negative, 255, 0)).any():
                raise UnusableInput(f"{raw.path}: words of {raw.bits} bits hold more than one "
                                    f"{like.dtype}; one a line needed")  # fmt: skip
        if rows.ndim != 2:
            raise UnusableInput(f"{raw.path}: {data.size} bytes; whole {like.dtype} needed")
        data = np.ascontiguousarray(rows).view(like.dtype.newbyteorder("<")).ravel()
    if data.size != like.size:
        raise UnusableInput(f"{raw.path}: {data.size} elements; {list(like.shape)} needed")
    data = _placed(data, like.shape, layout, raw.path)
    with np.errstate(invalid="ignore", over="ignore"):
        found = data.astype(like.dtype)
    # decimal text is rounded to the type; an array has its own values
    if like.dtype.kind in "iu" or raw.form == "array":
        wide = data.astype(np.float64)
        other = (found.astype(np.float64) != wide) & ~(np.isnan(wide) & (found != found))
        if other.any():
            raise UnusableInput(f"{raw.path}: holds values that {like.dtype} cannot have")
    return found


def _placed(data: np.ndarray, shape: tuple[int, ...], layout: str, path: Path) -> np.ndarray:
    """Numbers in the tensor's shape; ``layout`` counts where theirs fits both orders, or neither.

    Axes of size 1 may be left out.

    Raises:
        UnusableInput: they have several axes, which are not the tensor's.
    """
    places = {"NHWC": shape}
    if len(shape) == 4:
        n, h, w, c = shape
        places["NCHW"] = (n, c, h, w)
    fitting = [name for name, place in places.items() if data.shape == place] or [
        name for name, place in places.items() if _squeezed(data.shape) == _squeezed(place)
    ]
    if not fitting and data.ndim > 2:
        raise UnusableInput(f"{path}: has shape {list(data.shape)}; {list(shape)} needed")
    if len(fitting) == 1 and data.ndim > 1:
        layout = fitting[0]
    if layout == "NHWC" or layout not in places:
        return data.reshape(shape)
    return data.reshape(places[layout]).transpose(0, 2, 3, 1)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def diagnose(model: TFLite, values: dict[str, np.ndarray], dumped: list[Dumped]) -> Found:
    """Compare, and try what is known on the first tensor that differs.

    Args:
        values: LiteRT's tensors by name.
    """
    order = {name: i for i, node in enumerate(model.nodes) for name in node.outputs}
    writers = {name: node for node in model.nodes for name in node.outputs}
    dumped = sorted(dumped, key=lambda one: order.get(one.tensor, -1))
    comparisons = []
    for one in dumped:
        node = writers.get(one.tensor)
        named = dict(node=node.name, operator=node.op_type) if node else {}
        comparisons.append(compare_arrays(one.tensor, one.values, values[one.tensor], **named))
    wrong = next((i for i, c in enumerate(comparisons) if not c.equal), None)
    if wrong is None:
        return Found(tuple(comparisons), None, (), None)
    node, dump = writers.get(comparisons[wrong].tensor), dumped[wrong].values
    tried = list(mistakes(model, node, values)) if node else []
    left = [(name, int((y != dump).sum())) for name, y in tried if y.shape == dump.shape]
    explained = tuple(name for name, count in left if not count)
    nearest = min(left, key=lambda item: item[1], default=None)
    if explained or (nearest and nearest[1] >= comparisons[wrong].mismatches):
        nearest = None
    return Found(tuple(comparisons), comparisons[wrong], explained, nearest)


def mistakes(
    model: TFLite, node: Node, values: dict[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """What else a node's output could be, each in words; only where it is another output."""
    try:
        right = verdict.stages(model, node, values)["y"]
    except Unsupported:
        return
    known = model.constants | values
    arrays = [known[name] if name else None for name in node.inputs]
    types = tuple(model.types[name] if name else None for name in node.inputs)
    y_type = model.types[node.outputs[0]]
    options = {k: v for k, v in node.attributes.items() if v is not None}
    run = partial(_run, node.op_type)
    for name, changed in _changes(node.op_type, arrays, types, y_type, options):
        y = run(**changed)
        if y is not None and y.shape == right.shape and (y != right).any():
            yield name, y
    for name, make in _other_forms(node.op_type, arrays, types, y_type, options):
        try:
            y = make()
        except (Unsupported, UnusableInput, ValueError):
            continue
        if y.shape == right.shape and (y != right).any():
            yield name, y


def _run(op_type, arrays, types, y_type, options, operators=reference.OPERATORS):
    try:
        return operators[op_type](*arrays, types=types, y_type=y_type, **options)["y"]
    except (Unsupported, TypeError, ValueError, IndexError):
        return None


def _changes(
    op_type: str, arrays: list, types: tuple, y_type: Type, options: dict
) -> Iterator[tuple[str, dict]]:
    """The same operator with something forgotten or taken for something else."""
    base = dict(arrays=arrays, types=types, y_type=y_type, options=options)
    if options.get("fused_activation_function", "NONE") != "NONE":
        without = options | {"fused_activation_function": "NONE"}
        yield "the fused activation is left out", base | {"options": without}
    zero = replace(y_type, zero_point=np.zeros_like(y_type.zero_point))
    yield "the output's zero point is not added", base | {"y_type": zero}
    for i, name in enumerate(("first input", "second input")[: len(types)]):
        if types[i] is not None and types[i].zero_point.any() and types[i].dtype == "int8":
            none = replace(types[i], zero_point=np.zeros_like(types[i].zero_point))
            changed = (*types[:i], none, *types[i + 1 :])
            yield f"the zero point of the {name} is not subtracted", base | {"types": changed}
    if op_type == "ADD":
        yield "the two inputs change places", base | {"arrays": arrays[::-1]}
    if op_type not in PRODUCTS:
        return
    if len(arrays) > 2 and arrays[2] is not None:
        yield "the bias is left out", base | {"arrays": [*arrays[:2], None]}
    w = arrays[1]
    if w.ndim == 4:
        turned = np.ascontiguousarray(w[:, ::-1, ::-1])
        changed = [arrays[0], turned, *arrays[2:]]
        yield "the kernel is turned by 180 degrees", base | {"arrays": changed}
    if types[1].scale.size > 1:
        one = replace(types[1], scale=types[1].scale[:1])
        yield "the first channel's scale is taken for all", base | {
            "types": (types[0], one, *types[2:])}  # fmt: skip


def _other_forms(
    op_type: str, arrays: list, types: tuple, y_type: Type, options: dict
) -> Iterator[tuple[str, object]]:
    """The same operator in the form of another runtime, or with another rounding."""
    activation = options.get("fused_activation_function", "NONE")
    if op_type in PRODUCTS:
        base = reference.OPERATORS[op_type](*arrays, types=types, y_type=y_type, **options)
        for convention in CONVENTIONS.values():
            yield (
                f"requantized as by {convention.title}",
                partial(_by_convention, convention, base, types, y_type, activation),
            )
        for rounding in ("half even", "half up", "truncate"):
            yield (
                f"float64 factor, rounded {rounding}",
                partial(_by_float, base, y_type, activation, rounding),
            )
    if op_type in ("CONV_2D", "DEPTHWISE_CONV_2D") and options.get("padding") == "SAME":
        yield (
            "beside the image is 0, not the zero point",
            partial(_padded_with_zero, op_type, arrays, types, y_type, options),
        )
    if op_type == "ADD":
        yield "added as by XNNPACK", lambda: xnnpack.add(
            *arrays, types=types, y_type=y_type, **options)["y"]  # fmt: skip
        yield "added as by ONNX Runtime", partial(_onnx_add, arrays, types, y_type, activation)
    if op_type == "AVERAGE_POOL_2D":
        base = reference.average_pool_2d(*arrays, types=types, y_type=y_type, **options)
        total, count = base["sum"], base["count"]
        full = options["filter_height"] * options["filter_width"]
        for name, mean in (
            ("the mean is rounded down", total // count),
            ("the mean is cut towards zero", np.sign(total) * (np.abs(total) // count)),
            ("the mean is rounded half up", (2 * total + count) // (2 * count)),
            ("the mean is rounded half to even", np.rint(total / count).astype(np.int64)),
            ("the sum is divided by the whole window at the border too",
             np.sign(total) * ((np.abs(total) + full // 2) // full)),
        ):  # fmt: skip
            yield name, lambda mean=mean: ar.clamp(mean, activation, y_type)["y"]
    if op_type == "SOFTMAX":
        yield "a table of float32 exponentials, as LiteRT's optimized kernel", lambda: (
            xnnpack.softmax(*arrays, types=types, y_type=y_type, **options)["y"])  # fmt: skip
    if op_type == "QUANTIZE" and types[0].dtype == "float32":
        yield "rounded half to even, by the reciprocal of the scale, as XNNPACK", lambda: (
            xnnpack.quantize(*arrays, types=types, y_type=y_type)["y"])  # fmt: skip


def _by_convention(convention, base: Stages, types, y_type: Type, activation: str) -> np.ndarray:
    zero = np.int8(y_type.zero)
    channels = base["acc"].shape[-1]
    factor = convention.factor(types[0].real, types[1].scale, y_type.real)
    factor = np.ascontiguousarray(np.broadcast_to(factor, channels))
    constants = convention.encode(factor, zero)
    acc = np.moveaxis(base["acc"], -1, 1).astype(np.int32)
    y = np.moveaxis(convention.requantize(acc, **constants, y_zero_point=zero), 1, -1)
    return ar.clamp(y.astype(np.int64), activation, y_type)["y"]


def _by_float(base: Stages, y_type: Type, activation: str, rounding: str) -> np.ndarray:
    real = base["acc"] * base["factor"]
    how = {"half even": np.rint, "half up": lambda v: np.floor(v + 0.5), "truncate": np.trunc}
    return ar.finish(how[rounding](real).astype(np.int64), activation, y_type)["y"]


def _padded_with_zero(op_type, arrays, types, y_type: Type, options: dict) -> np.ndarray:
    x, kernel = arrays[0], arrays[1].shape[1:3]
    place = reference.windows_of(
        x, kernel, "SAME", (options["stride_h"], options["stride_w"]),
        (options["dilation_h_factor"], options["dilation_w_factor"]),
    )  # fmt: skip
    wide = []
    for axis in (0, 1):
        reach = (kernel[axis] - 1) * place.dilation[axis] + 1
        end = (place.out[axis] - 1) * place.stride[axis] + reach - place.size[axis]
        wide.append((place.begin[axis], max(0, end - place.begin[axis])))
    padded = np.pad(x, ((0, 0), *wide, (0, 0)))
    return reference.OPERATORS[op_type](
        padded, *arrays[1:], types=types, y_type=y_type, **options | {"padding": "VALID"}
    )["y"]


def _onnx_add(arrays, types, y_type: Type, activation: str) -> np.ndarray:
    parts = [v for t in (*types, y_type) for v in (t.real, np.int8(t.zero))]
    y = qlinear_add(arrays[0], *parts[:2], arrays[1], *parts[2:])
    return ar.clamp(y.astype(np.int64), activation, y_type)["y"]


def places(comparison_of: np.ndarray, most: int = 6) -> list[str]:
    """Where elements differ: how many of the channels, rows and columns, and which.

    Args:
        comparison_of: bool of the tensor's shape, true where it differs.
    """
    wrong = comparison_of
    names = {4: ("batch", "row", "column", "channel"), 2: ("row", "channel")}
    lines = []
    for axis, name in enumerate(names.get(wrong.ndim, ())):
        if wrong.shape[axis] > 1:
            others = tuple(i for i in range(wrong.ndim) if i != axis)
            hit = np.flatnonzero(wrong.any(axis=others))
            shown = ", ".join(map(str, hit[:most])) + (", …" if len(hit) > most else "")
            lines.append(f"{name}s: {len(hit)} of {wrong.shape[axis]} ({shown})")
    return lines


def said(found: Found) -> Iterable[str]:
    """The verdict in words, the last line."""
    total = sum(c.elements for c in found.comparisons)
    if found.first is None:
        yield f"EQUAL: {total} elements of {len(found.comparisons)} tensors are LiteRT's"
        return
    for name in found.explained:
        yield f"explained, to the last element: {name}"
    if found.nearest:
        name, left = found.nearest
        yield f"nearest: {name}: {left} of {found.first.elements} elements are still others"
    known = "one known mistake" if len(found.explained) == 1 else (
        f"{len(found.explained)} known mistakes, which do not differ here"
        if found.explained else "no known mistake")  # fmt: skip
    yield (f"DIFFERENT: {found.first.mismatches} of {found.first.elements} elements of "
           f"{found.first.tensor}; explained by {known}")  # fmt: skip
