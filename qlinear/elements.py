"""One output element of any operator, worked out from scalars: every step with its type.

Each function below follows its operator's formula on one element alone, so that it is a second
computation beside ``qlinear.operators``, which computes whole tensors.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from onnx import helper

from qlinear.engine import arguments, computed
from qlinear.errors import UnusableInput
from qlinear.explain import work
from qlinear.onnx_model import Model, Node
from qlinear.operators import MOVERS, OPERATORS, moved
from qlinear.operators import arithmetic as ar
from qlinear.operators import qlinear_add as qa
from qlinear.operators import qlinear_conv as qc
from qlinear.operators.max_pool import pool_geometry
from qlinear.operators.qlinear_activations import logistic
from qlinear.operators.qlinear_average_pool import is_global
from qlinear.operators.qlinear_global_average_pool import pool_scale
from qlinear.operators.qlinear_softmax import exponentials
from qlinear.operators.quantize_linear import RANGES, along

Step = tuple[str, np.generic]
Index = tuple[int, ...]


@dataclass(frozen=True)
class Element:
    """What happens on the way to one element of a node's output.

    ``terms`` are the columns of what is added up or compared, a row for each term, in the order
    in which the formula takes them; empty where there is nothing to add up.
    """

    terms: dict[str, np.ndarray]
    steps: tuple[Step, ...]  # a value's type is the step's type

    @property
    def y(self) -> np.generic:
        """The element itself: the last step's value."""
        return self.steps[-1][1]


def explain(
    graph: Model, node: Node, values: dict[str, np.ndarray], tensor: str, at: Index
) -> Element:
    """Work out ``tensor[at]``, an output of ``node``.

    Args:
        values: the tensors that the node reads, by name; constants may be left out.

    Raises:
        UnusableInput: there is no explanation for the operator, or an input is illegal.
    """
    key = node.domain, node.op_type
    if not has_explanation(node):
        known = ", ".join(sorted({name for _, name in {*EXPLAINED, *MOVERS}}))
        raise UnusableInput(
            f"{graph.path}: node {node.name} is a {node.operator}, for which there is no "
            f"explanation (there is for {known})"
        )
    inputs = arguments(graph, node, values)
    output = node.outputs.index(tensor)
    try:
        # it refuses what is illegal, before it is worked out
        shape = computed(graph, node, values)[tensor].shape
        if len(at) != len(shape) or not all(0 <= i < n for i, n in zip(at, shape, strict=True)):
            raise UnusableInput(f"{tensor} has shape {shape}: {at} is not in it")
        if key in EXPLAINED:
            terms, steps = EXPLAINED[key](_named(node, inputs), at, output)
        else:
            terms, steps = {}, _moved(node, inputs, graph.opset, at, output)
    except UnusableInput as error:
        raise UnusableInput(f"{graph.path}: node {node.name}: {error}") from None
    return Element(terms, tuple((name, np.asarray(value)[()]) for name, value in steps))


def has_explanation(node: Node) -> bool:
    return (node.domain, node.op_type) in {*EXPLAINED, *MOVERS}


def _named(node: Node, inputs: list) -> dict:
    """The arguments of the operator's function by name, attributes and defaults included."""
    function = inspect.signature(OPERATORS[node.domain, node.op_type])
    bound = function.bind(*inputs, **node.attributes)
    bound.apply_defaults()
    return bound.arguments


# --- parts of formulas


def _products(x: np.ndarray, x_zero, w: np.ndarray, w_zero, *names: str) -> tuple[dict, np.int32]:
    """The terms of a sum of products, and the sum as an int32, which wraps."""
    x, w = np.ravel(x), np.ravel(w)
    x_terms, w_terms = ar.centred(x, x_zero), ar.centred(w, w_zero)
    products = x_terms * w_terms
    running = products.astype(np.int64).cumsum()
    a, b = names or ("x", "w")
    terms = {a: x, f"{a} - zero point": x_terms, b: w, f"{b} - zero point": w_terms,
             "product": products, "running sum": running}  # fmt: skip
    return terms, (running[-1] if running.size else np.int64(0)).astype(np.int32)


def _requantized(acc: np.int32, factor: np.float32, zero: np.ndarray) -> list[Step]:
    scaled = np.float32(acc) * factor
    return [
        ("float32(acc)", np.float32(acc)),
        ("factor", factor),
        ("float32(acc) * factor", scaled),
        *_rounded(scaled, zero),
    ]


def _rounded(scaled: np.floating, zero: np.ndarray) -> list[Step]:
    """Round, then add the zero point, then saturate."""
    zero = np.asarray(zero)
    low, high = RANGES[zero.dtype.name]
    rounded = np.rint(scaled)
    shifted = rounded + scaled.dtype.type(zero.item())
    inside = np.float32(low) if np.isnan(shifted) else np.clip(shifted, low, high)
    return [
        ("rint (ties to even)", rounded),
        ("+ zero point", shifted),
        ("saturate", inside.astype(zero.dtype)),
    ]


def _shifted_then_rounded(shifted: np.float32, dtype: np.dtype) -> list[Step]:
    """Round what holds the zero point already, convert as x86 does, then saturate."""
    rounded = np.rint(shifted)
    steps = [("rint (ties to even)", rounded)]
    if not rounded < 2**31:  # NaN too
        steps.append(("as an int32: the least", np.float32(-(2**31))))
    return [*steps, ("saturate", ar.saturate_int32(rounded, dtype))]


def _quantized(real: np.float32, scale: np.float32, zero: np.ndarray) -> list[Step]:
    with np.errstate(over="ignore"):
        scaled = np.float32(real) / scale
    return [("real / y_scale", scaled), *_rounded(scaled, zero)]


def _dequantized(q: np.integer, scale: np.float32, zero) -> list[Step]:
    difference = np.int32(int(q) - int(zero))
    return [
        ("x", q),
        ("x - x_zero_point", difference),
        ("float32(x - x_zero_point)", np.float32(difference)),
        ("real = float32(x - x_zero_point) * x_scale", np.float32(difference) * scale),
    ]


def _scalar(value: np.ndarray) -> np.generic:
    return np.asarray(value).reshape(())[()]


def _at(value: np.ndarray, shape: tuple[int, ...], at: Index) -> np.generic:
    """An element of what a value is when broadcast; scalars may come as arrays of one element."""
    value = np.asarray(value)
    return np.broadcast_to(value.reshape(()) if value.size == 1 else value, shape)[at]


def _row_and_column(A: np.ndarray, B: np.ndarray, at: Index) -> tuple:
    """Row and column of one element of a matrix product, and ways to index their parameters."""
    rows, columns = np.atleast_2d(A), (B[:, None] if B.ndim == 1 else B)
    if A.ndim == 1:
        at = (*at[:-1], 0, *at[-1:]) if B.ndim > 1 else (*at, 0)
    if B.ndim == 1:
        at = (*at, 0)
    *batch_at, i, j = at
    batch = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    row = np.broadcast_to(rows, (*batch, *rows.shape[-2:]))[(*batch_at, i)]
    column = np.broadcast_to(columns, (*batch, *columns.shape[-2:]))[(*batch_at, slice(None), j)]

    def of_row(parameter: np.ndarray) -> np.generic:
        flat = np.ravel(parameter)
        return flat[i if flat.size > 1 else 0]

    def of_column(parameter: np.ndarray) -> np.generic:
        return _at(parameter, (*batch, 1, columns.shape[-1]), (*batch_at, 0, j))

    return row, column, of_row, of_column


# --- operators: their named arguments, the index and which output, to terms and steps


def _qlinear_conv(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    attributes = given.pop("attributes", {})
    x, *constants = given.values()
    worked = work(x, qc.Conv(*constants, attributes), at[0], at[1], at[2:])
    channels = np.arange(len(worked.patch)).repeat(worked.patch[0].size)
    terms = {
        "input channel": channels,
        "x": worked.patch.ravel(), "x - zero point": worked.x_terms.ravel(),
        "w": worked.kernel.ravel(), "w - zero point": worked.w_terms.ravel(),
        "product": worked.products.ravel(), "running sum": worked.running,
    }  # fmt: skip
    return terms, worked.requantization()


def _conv_integer(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    x, w = given["x"], given["w"]
    x_zero = _scalar(ar.zero_point_or_0(given["x_zero_point"], x))
    w_zero = _at(ar.zero_point_or_0(given["w_zero_point"], w), (len(w),), at[1:2])
    geo = qc.geometry(x.shape, w.shape, **given.get("attributes", {}))
    first = at[1] // (len(w) // geo.group) * w.shape[1]
    padded = qc.windows(qc.pad(x, x_zero, geo), geo)
    patch = padded[(at[0], slice(first, first + w.shape[1]), *at[2:])]
    terms, acc = _products(patch, x_zero, w[at[1]], w_zero)
    return terms, [("sum of products", acc)]


def _matmul_integer(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    A, B = given["A"], given["B"]
    row, column, of_row, of_column = _row_and_column(A, B, at)
    a_zero = of_row(ar.zero_point_or_0(given["a_zero_point"], A))
    b_zero = of_column(ar.zero_point_or_0(given["b_zero_point"], B))
    terms, acc = _products(row, a_zero, column, b_zero, "A", "B")
    return terms, [("sum of products", acc)]


def _matmul_integer_to_float(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    terms, steps = _matmul_integer(given, at, output)
    *_, of_column = _row_and_column(given["A"], given["B"], at)
    factor = _scalar(given["a_scale"]) * of_column(given["b_scale"])
    real = np.float32(steps[-1][1])
    steps += [
        ("float32(sum)", real),
        ("factor = a_scale * b_scale", factor),
        ("float32(sum) * factor", real * factor),
    ]
    if given["bias"] is not None:
        bias = np.ravel(given["bias"])[at[-1] if given["B"].ndim > 1 else 0]
        steps += [("bias", bias), ("+ bias", real * factor + bias)]
    return terms, steps


def _dynamic_quantize_matmul(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    A = given["A"]
    ranged = _dynamic_range(A)
    a_scale, a_zero = ranged[2][1], ranged[-1][1]
    quantized = np.array(
        [_quantized(real, a_scale, a_zero)[-1][1] for real in A.ravel()], np.uint8
    ).reshape(A.shape)
    given = {**given, "A": quantized, "a_scale": a_scale, "a_zero_point": a_zero}
    terms, steps = _matmul_integer_to_float(given, at, output)
    names = ("least of A and 0", "greatest of A and 0", "a_scale = (greatest - least) / 255",
             "0 - least / a_scale", "clip to 0…255", "a_zero_point: rint")  # fmt: skip
    return terms, [*zip(names, (value for _, value in ranged), strict=True), *steps]


def _dynamic_range(x: np.ndarray) -> list[Step]:
    low, high = np.minimum(x.min(), np.float32(0)), np.maximum(x.max(), np.float32(0))
    scale = np.float32(1) if low == high else (high - low) / np.float32(255)
    start = np.float32(0) - low / scale
    inside = np.clip(start, np.float32(0), np.float32(255))
    return [
        ("least of x and 0", low),
        ("greatest of x and 0", high),
        ("y_scale = (greatest - least) / 255", scale),
        ("0 - least / y_scale", start),
        ("clip to 0…255", inside),
        ("y_zero_point: rint", np.rint(inside).astype(np.uint8)),
    ]


def _dynamic_quantize_linear(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    steps = _dynamic_range(given["x"])
    if output == 1:
        return {}, steps[:3]
    if output == 0:
        real, scale, zero = given["x"][at], steps[2][1], steps[-1][1]
        steps += [("x", real), *_quantized(real, scale, zero)]
    return {}, steps


def _qgemm(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    A = given["A"].T if given["transA"] else given["A"]
    B = given["B"].T if given["transB"] else given["B"]
    row, column, _, of_column = _row_and_column(A, B, at)
    b_zero = of_column(given["b_zero_point"])
    terms, acc = _products(row, _scalar(given["a_zero_point"]), column, b_zero, "A", "B")
    steps: list[Step] = [("sum of products", acc)]
    if given["C"] is not None:
        bias = _at(given["C"], (len(A), B.shape[1]), at)
        acc = (np.int64(acc) + bias).astype(np.int32)
        steps += [("bias C", bias), ("acc = sum + bias", acc)]
    real = np.float32(given["alpha"]) * _scalar(given["a_scale"]) * of_column(given["b_scale"])
    if given["y_scale"] is not None:
        factor = real / _scalar(given["y_scale"])
        return terms, [*steps, *_requantized(acc, factor, _scalar(given["y_zero_point"]))]
    return terms, [
        *steps,
        ("float32(acc)", np.float32(acc)),
        ("factor = alpha * a_scale * b_scale", real),
        ("float32(acc) * factor", np.float32(acc) * real),
    ]


def _qlinear_matmul(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    row, column, _, of_column = _row_and_column(given["a"], given["b"], at)
    a_zero, b_zero = _scalar(given["a_zero_point"]), of_column(given["b_zero_point"])
    terms, acc = _products(row, a_zero, column, b_zero, "a", "b")
    product = _scalar(given["a_scale"]) * of_column(given["b_scale"])
    factor = product / _scalar(given["y_scale"])
    requantized = _requantized(acc, factor, _scalar(given["y_zero_point"]))
    return terms, [("acc = sum of products", acc), *requantized]


def _quantize_linear(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    x, axis, block = given["x"], given["axis"], given["block_size"]
    scale = _at(along(given["y_scale"], x.shape, axis, block, "y_scale"), x.shape, at)
    if given["y_zero_point"] is None:
        kind = _numpy_type(given["output_dtype"]) if given["output_dtype"] else np.uint8
        zero = np.zeros((), kind)
    else:
        zero = _at(along(given["y_zero_point"], x.shape, axis, block, "z"), x.shape, at)
    return {}, [("x", x[at]), *_quantized(x[at], scale, zero)]


def _numpy_type(onnx_type: int) -> np.dtype:
    return np.dtype(helper.tensor_dtype_to_np_dtype(onnx_type))


def _dequantize_linear(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    x, axis, block = given["x"], given["axis"], given["block_size"]
    scale = _at(along(given["x_scale"], x.shape, axis, block, "x_scale"), x.shape, at)
    zero = given["x_zero_point"]
    zero = 0 if zero is None else _at(along(zero, x.shape, axis, block, "z"), x.shape, at)
    return {}, _dequantized(x[at], scale, zero)


def _qlinear_add(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    names, A, B = ("A", "B"), given["A"], given["B"]
    if qa.a_is_constant(A.shape, B.shape):
        names, A, B = ("B", "A"), B, A
    shape = np.broadcast_shapes(A.shape, B.shape)
    a, b = _at(A, shape, at), _at(B, shape, at)
    (a_scale, a_zero), (b_scale, b_zero), (c_scale, c_zero) = (
        (_scalar(given[f"{n}_scale"]), np.float32(_scalar(given[f"{n}_zero_point"])))
        for n in (*names, "C")
    )
    p, q = names
    ra, rb = a_scale / c_scale, b_scale / c_scale
    offset = rb * b_zero
    both = qa.fma(ra, a_zero, offset)[()]
    fixed = c_zero - both
    inner = qa.fma(rb, np.float32(b), fixed)[()]
    outer = qa.fma(ra, np.float32(a), inner)[()]
    return {}, [
        (p, a), (q, b),
        (f"r{p} = {p}_scale / C_scale", ra), (f"r{q} = {q}_scale / C_scale", rb),
        (f"r{q} * {q}_zero_point", offset),
        (f"fma(r{p}, {p}_zero_point, that)", both),
        ("fixed = C_zero_point - that", fixed),
        (f"fma(r{q}, {q}, fixed)", inner),
        (f"fma(r{p}, {p}, that)", outer),
        *_shifted_then_rounded(outer, A.dtype),
    ]  # fmt: skip


def _qlinear_mul(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    A, B = given["A"], given["B"]
    shape = np.broadcast_shapes(A.shape, B.shape)
    a, b = _at(A, shape, at), _at(B, shape, at)
    zeros = {n: int(_scalar(given[f"{n}_zero_point"])) for n in "ABC"}
    product = np.int32((int(a) - zeros["A"]) * (int(b) - zeros["B"]))
    with np.errstate(over="ignore", invalid="ignore"):
        scales = _scalar(given["A_scale"]) * _scalar(given["B_scale"])
        ratio = scales / _scalar(given["C_scale"])
        scaled = np.float32(product) * ratio
        shifted = scaled + np.float32(zeros["C"])
    return {}, [
        ("A", a), ("A - A_zero_point", np.int32(int(a) - zeros["A"])),
        ("B", b), ("B - B_zero_point", np.int32(int(b) - zeros["B"])),
        ("product", product), ("ratio = A_scale * B_scale / C_scale", ratio),
        ("float32(product) * ratio", scaled), ("+ C_zero_point", shifted),
        *_shifted_then_rounded(shifted, A.dtype),
    ]  # fmt: skip


def _global_average_pool(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    X, last = given["X"], given["channels_last"]
    image = X[at[0], ..., at[-1]] if last else X[at[0], at[1]]
    centred = ar.centred(image.ravel(), _scalar(given["x_zero_point"]))
    running = centred.astype(np.int64).cumsum()
    terms = {"x": image.ravel(), "x - zero point": centred, "running sum": running}
    acc, pixels = running[-1].astype(np.int32), image.size
    shares = _scalar(given["y_scale"]) * np.float32(pixels)
    return terms, [
        ("acc = sum", acc),
        ("y_scale * number of pixels", shares),
        ("factor = x_scale / that", _scalar(given["x_scale"]) / shares),
        *_requantized(
            acc, pool_scale(given["x_scale"], given["y_scale"], pixels),
            _scalar(given["y_zero_point"]),
        ),
    ]  # fmt: skip


def _average_pool(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    X, last = given["X"], given["channels_last"]
    images = np.moveaxis(X, -1, 1) if last else X
    n, c, *position = (at[0], at[-1], *at[1:-1]) if last else at
    x_zero = _scalar(ar.zero_point_or_0(given["x_zero_point"], X))
    y_zero = _scalar(ar.zero_point_or_0(given["y_zero_point"], X))
    geo = pool_geometry(images.shape, **given.get("attributes", {}))
    if is_global(geo, images.shape):
        zeros = {"x_zero_point": x_zero, "y_zero_point": y_zero}
        return _global_average_pool(given | zeros, at, output)
    window = qc.windows(qc.pad(images, x_zero, geo), geo)[(n, c, *position)].ravel()
    ones = np.ones(images.shape, np.uint8)
    inside = qc.windows(qc.pad(ones, 0, geo), geo)[(n, c, *position)].ravel()
    reals = ar.centred(window, x_zero).astype(np.float32) * _scalar(given["x_scale"])
    running, total = [], np.float32(0)
    for real in reals:
        total = total + real
        running.append(total)
    terms = {"x": window, "in the image": inside, "x_scale * (x - zero point)": reals,
             "running sum": np.array(running)}  # fmt: skip
    count = np.float32(math.prod(geo.kernel) if given["count_include_pad"] else inside.sum())
    mean = total / count
    scaled = mean / _scalar(given["y_scale"])
    shifted = scaled + np.float32(y_zero)
    return terms, [
        ("sum", total), ("number of elements", count), ("mean", mean),
        ("mean / y_scale", scaled), ("+ y_zero_point", shifted),
        *_shifted_then_rounded(shifted, X.dtype),
    ]  # fmt: skip


def _max_pool(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    X = given["X"]
    names = ("kernel_shape", "auto_pad", "ceil_mode", "dilations", "pads", "strides")
    geo = pool_geometry(X.shape, **{name: given[name] for name in names})
    window = qc.windows(qc.pad(X, np.iinfo(X.dtype).min, geo), geo)[at].ravel()
    return {"x": window}, [("greatest", window.max())]


def _concat(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    inputs, axis = given["inputs"], given["axis"]
    at = list(at)
    for i in range(0, len(inputs), 3):
        x, scale, zero = inputs[i : i + 3]
        if at[axis] < x.shape[axis]:
            break
        at[axis] -= x.shape[axis]
    y_zero = _scalar(given["Y_zero_point"])
    real = _dequantized(x[tuple(at)], _scalar(scale), _scalar(zero))
    quantized = _quantized(real[-1][1], _scalar(given["Y_scale"]), y_zero)
    place = ("which input", np.int64(i // 3))
    return {}, [place, ("x_scale", _scalar(scale)), ("x_zero_point", _scalar(zero)),
                *real, *quantized]  # fmt: skip


def _of_one_tensor(function: Callable, name: str) -> Callable:
    def steps(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
        X = given["X"]
        x_zero = _scalar(ar.zero_point_or_0(given["X_zero_point"], X))
        y_zero = _scalar(ar.zero_point_or_0(given["Y_zero_point"], X))
        real = _dequantized(X[at], _scalar(given["X_scale"]), x_zero)
        value = np.float32(function(real[-1][1], given))
        quantized = _quantized(value, _scalar(given["Y_scale"]), y_zero)
        entry = np.int64(int(X[at]) - np.iinfo(X.dtype).min)
        return {}, [("entry of the table of 256", entry), *real, (name, value), *quantized]

    return steps


def _softmax(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    X, axis = given["X"], given["axis"] % given["X"].ndim
    if given["opset"] < 13:
        row = X[at[:axis]].ravel()
        position = int(np.ravel_multi_index(at[axis:], X.shape[axis:]))
    else:
        row, position = X[(*at[:axis], slice(None), *at[axis + 1 :])], at[axis]
    table = exponentials(float(_scalar(given["X_scale"])), row.size)
    below = int(row.max()) - row.astype(np.int64)
    entries = table[255 - below]
    running, total = [], np.float32(0)
    for entry in entries:
        total = total + entry
        running.append(total)
    terms = {"x": row, "below the greatest": below, "exponential": entries,
             "running sum": np.array(running, np.float32)}  # fmt: skip
    factor = np.floor(np.float32(1) / _scalar(given["y_scale"]))
    product = np.float64(entries[position]) * np.float64(factor)
    share = product / np.float64(total)
    return terms, [
        ("x", row[position]), ("exponential of the table", entries[position]),
        ("sum of exponentials", total), ("floor(1 / y_scale)", factor),
        ("exponential * that", product), ("/ sum", share),
        *_rounded(share, _scalar(given["y_zero_point"])),
    ]  # fmt: skip


def _where(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    parts = [np.asarray(given[name]) for name in ("condition", "X", "Y")]
    shape = np.broadcast_shapes(*(part.shape for part in parts))
    condition, X, Y = (np.broadcast_to(part, shape)[at] for part in parts)
    name, q = ("x", X) if condition else ("y", Y)
    scale, zero = _scalar(given[f"{name}_scale"]), _scalar(given[f"{name}_zero_point"])
    real = _dequantized(q, scale, zero)
    quantized = _quantized(real[-1][1], _scalar(given["z_scale"]), _scalar(given["z_zero_point"]))
    chosen = [(f"condition: {name.upper()}", condition), ("x_scale", scale), ("x_zero_point", zero)]
    return {}, [*chosen, *real, *quantized]


def _add(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    A, B = np.asarray(given["A"]), np.asarray(given["B"])
    shape = np.broadcast_shapes(A.shape, B.shape)
    a, b = np.broadcast_to(A, shape)[at], np.broadcast_to(B, shape)[at]
    with np.errstate(over="ignore"):
        return {}, [("A", a), ("B", b), ("A + B", a + b)]


def _cast(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    value = np.asarray(given["input"])[at]
    return {}, [("input", value), ("converted", value.astype(_numpy_type(given["to"])))]


def _resize(given: dict, at: Index, output: int) -> tuple[dict, list[Step]]:
    X, axes = given["X"], given["axes"]
    axes = range(X.ndim) if axes is None else axes
    if given["scales"] is not None and np.size(given["scales"]):
        factors = [int(scale) for scale in given["scales"]]
    else:
        factors = [int(size) // X.shape[a] for size, a in zip(given["sizes"], axes, strict=True)]
    source = list(at)
    for axis, factor in zip(axes, factors, strict=True):
        source[axis] = at[axis] // factor
    return {}, [(_place("X", source), X[tuple(source)])]


def _place(name: str, index) -> str:
    return f"{name}[{', '.join(str(int(i)) for i in index)}]"


def _moved(node: Node, inputs: list, opset: int, at: Index, output: int) -> list[Step]:
    """Where an element that only moves comes from: the operator moves positions in its place."""
    count = len(inputs) if node.op_type == "Concat" else 1
    tensors, moving, first = inputs[:count], list(inputs), 0
    for i, x in enumerate(tensors):
        moving[i] = np.arange(first, first + np.size(x), dtype=np.int64).reshape(np.shape(x))
        first += np.size(x)
    if node.op_type == "Pad":
        node, moving = _pads_with_minus_1(node, moving, opset)
    position = int(moved(node, moving, opset)[output][at])
    if position < 0:
        given = inputs[2] if len(inputs) > 2 and inputs[2] is not None else 0
        value = np.asarray(node.attributes.get("value", given)).astype(inputs[0].dtype)
        return [("padding", _scalar(value))]
    starts = np.cumsum([0, *map(np.size, tensors)])
    which = int(np.searchsorted(starts, position, "right")) - 1
    source = np.unravel_index(position - starts[which], np.shape(tensors[which]))
    return [(_place(node.inputs[which], source), tensors[which][source])]


def _pads_with_minus_1(node: Node, moving: list, opset: int) -> tuple[Node, list]:
    if opset < 11:
        return replace(node, attributes={**node.attributes, "value": -1}), moving
    moving = [*moving, *[None] * (3 - len(moving))]
    moving[2] = np.array(-1, np.int64)
    names = [*node.inputs, *[""] * (len(moving) - len(node.inputs))]
    names[2] = names[2] or "padding"
    return replace(node, inputs=tuple(names)), moving


EXPLAINED: dict[tuple[str, str], Callable] = {
    ("", "Add"): _add,
    ("", "Cast"): _cast,
    ("", "ConvInteger"): _conv_integer,
    ("", "DequantizeLinear"): _dequantize_linear,
    ("", "DynamicQuantizeLinear"): _dynamic_quantize_linear,
    ("", "MatMulInteger"): _matmul_integer,
    ("", "MaxPool"): _max_pool,
    ("", "QLinearConv"): _qlinear_conv,
    ("", "QLinearMatMul"): _qlinear_matmul,
    ("", "QuantizeLinear"): _quantize_linear,
    ("", "Resize"): _resize,
    ("com.microsoft", "DequantizeLinear"): _dequantize_linear,
    ("com.microsoft", "DynamicQuantizeMatMul"): _dynamic_quantize_matmul,
    ("com.microsoft", "MatMulIntegerToFloat"): _matmul_integer_to_float,
    ("com.microsoft", "QGemm"): _qgemm,
    ("com.microsoft", "QLinearAdd"): _qlinear_add,
    ("com.microsoft", "QLinearAveragePool"): _average_pool,
    ("com.microsoft", "QLinearConcat"): _concat,
    ("com.microsoft", "QLinearGlobalAveragePool"): _global_average_pool,
    ("com.microsoft", "QLinearLeakyRelu"): _of_one_tensor(
        lambda x, given: x if x >= 0 else np.float32(given["alpha"]) * x, "leaky(real)"
    ),
    ("com.microsoft", "QLinearMul"): _qlinear_mul,
    ("com.microsoft", "QLinearSigmoid"): _of_one_tensor(
        lambda x, given: logistic(x)[()], "logistic(real)"
    ),
    ("com.microsoft", "QLinearSoftmax"): _softmax,
    ("com.microsoft", "QLinearWhere"): _where,
    ("com.microsoft", "QuantizeLinear"): _quantize_linear,
}
