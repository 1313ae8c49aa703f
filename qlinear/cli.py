"""Your own model: qlinear inspect | validate | run | explore | explain | vectors | multipliers |
diagnose | study."""

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from qlinear import (
    conventions,
    describe,
    diagnose,
    diagnose_report,
    dumps,
    elements,
    engine,
    explore_page,
    mistakes,
    multipliers,
    oracle,
    reduce,
    vectors,
)
from qlinear.compare import Comparison, compare_arrays
from qlinear.describe import table
from qlinear.errors import Parser, UnusableInput, printable
from qlinear.explain import Worked, work
from qlinear.files import (
    check_apart,
    check_file,
    check_folder,
    whole_file,
    write_arrays,
    write_text,
)
from qlinear.fuse import Network, fuse
from qlinear.inputs import Feed, load_samples, read_feeds
from qlinear.onnx_model import Model, Node, load
from qlinear.operators.qlinear_conv import Conv
from qlinear.sides import Side, checked, dump, parse, reference, session
from qlinear.studies import command as studies
from qlinear.tflite import command, diagnosis, golden
from qlinear.tflite import verdict as tflite
from qlinear.tflite.model import TFLite, is_tflite
from qlinear.tflite.model import load as load_tflite
from qlinear.validate import STATUS, STATUS_TABLE, Verdict, check_nodes, validate

EXAMPLES = f"""examples:
  qlinear inspect models/resnet8_int8.onnx
  qlinear validate MODEL.onnx --input photo.png
  qlinear validate MODEL.tflite --kernels default
  qlinear run MODEL.onnx --input ids=ids.npy --input mask=mask.npy --out tensors.npz
  qlinear explore MODEL.onnx --input photo.png --out page.html
  qlinear explain MODEL.onnx --node conv1 --pixel 10,12 --channel 5 --markdown
  qlinear explain models/resnet8_int8.onnx --node dense_quant --at 0,3
  qlinear vectors models/resnet8_int8.onnx --out vectors --images 2
  qlinear multipliers models/resnet8_int8.onnx --convention cmsis-nn --c
  qlinear diagnose models/resnet8_int8.onnx y.npy --node block1_conv1
  qlinear diagnose MODEL.onnx dumps/ --input photo.png --html page.html
  qlinear study MODEL.onnx --data images.npz --out study

{STATUS_TABLE}"""


DIAGNOSED = """exit statuses:
  0 every element of the dump is ONNX Runtime's; without a dump, the two that are compared are equal
  1 some are not, explained or not; with --reduce, the part is written
  2 the model, an input or the dump is unusable; one line says why"""


PRINTED = """exit statuses:
  0 what to program is printed, or written
  2 the model or an argument is unusable; one line says why"""


def progress(steps: Iterable, title: str, total: int) -> Iterable:
    """A bar on a terminal's standard error, from the first moment; nothing elsewhere."""
    title = printable(title)[:60]
    return tqdm(steps, title, total, unit="step", leave=False, disable=None)


def inspect_command(args: argparse.Namespace) -> int:
    """Print every node that ONNX Runtime runs: shapes, types, scales, zero points, bits."""
    if is_tflite(args.model):
        network, rows = None, command.inspected(load_tflite(args.model))
    else:
        network = fuse(load(args.model))
        rows = describe.inspected(network)
    if network and network.fusions and not (args.json or args.csv):
        note = f"note: {args.model} is fused by ONNX Runtime: {network.kinds()}"
        print(printable(note), file=sys.stderr)
    if args.json:
        print(json.dumps({"model": str(args.model), "nodes": rows}, indent=2))
    elif args.csv:
        print(comma_separated(rows, "node"), end="")
    else:
        print(table(rows))
    return 0


def comma_separated(rows: list[dict], empty: str) -> str:
    """Rows as CSV; of none, a header with one column."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [empty], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: printable(str(v)) for k, v in row.items()} for row in rows)
    return out.getvalue()


def validate_command(args: argparse.Namespace) -> int:
    """Compare the reference with the runtime on the file, and say what that proves."""
    model = _read(args.model)
    if args.kernels and not isinstance(model, TFLite):
        raise UnusableInput(f"{args.model}: --kernels is of .tflite files")
    if args.kernels == "default" and args.node:
        raise UnusableInput(
            "--kernels default: LiteRT hands out no node's own inputs; leave --node"
        )
    feeds = read_feeds(model, args.input, args.images, samples=len(load_samples()[0]))
    if args.node:
        return _print_node(args, model, feeds)
    judge = validate
    if isinstance(model, TFLite):
        judge = tflite.validate_default if args.kernels == "default" else tflite.validate
    verdict = judge(model, feeds, progress=progress)
    print(json.dumps(verdict.as_json(), indent=2) if args.json else report(verdict))
    return STATUS[verdict.status]


def _read(path: Path) -> Model | TFLite:
    """A model of either kind."""
    return load_tflite(path) if is_tflite(path) else load(path)


def _refuse_tflite(args: argparse.Namespace, name: str) -> None:
    """Refuse what is not done for a .tflite file."""
    if is_tflite(args.model):
        raise UnusableInput(
            f"{args.model}: {name} reads ONNX models; of a .tflite file there are inspect, "
            "validate, run, explain, vectors and diagnose"
        )


def _print_node(args: argparse.Namespace, model: Model | TFLite, feeds: list[Feed]) -> int:
    if isinstance(model, TFLite):
        runtime = tflite.RUNTIME
        found = tflite.check_node(model, model.node(args.node), feeds)
    else:
        runtime = "ONNX Runtime"
        network = oracle.settle(model, feeds[0].values)
        node = network.node(args.node)
        checks = [check for feed in feeds for check in check_nodes(network, [node], feed)]
        found = [c for check in checks for c in check.comparisons]
    passed = all(c.equal for c in found)
    if args.json:
        record = {"model": str(args.model), "verdict": "PASS" if passed else "FAIL",
                  "tensors": [c.as_json() for c in found]}  # fmt: skip
        print(json.dumps(record, indent=2))
    else:
        print("\n".join(_table(found, runtime)))
        what = f"{found[0].node} alone, from {runtime}'s own inputs of it"
        print(f"PASS: {printable(what)}" if passed else f"FAIL: {printable(what)}")
    return STATUS["PASS" if passed else "FAIL"]


def _row(c: Comparison, *sides: str) -> dict:
    return {
        "tensor": c.tensor,
        "operator": c.operator,
        "elements": c.elements,
        "mismatches": c.mismatches,
        "largest": c.max_difference,
        "first mismatch": "" if c.equal else c.said(*sides).split(", ", 1)[-1],
    }


def _table(comparisons: Iterable[Comparison], *sides: str) -> list[str]:
    """The lines of a table of comparisons with a runtime, perhaps of something else than ours."""
    return table([_row(c, *sides) for c in comparisons]).split("\n")


def report(verdict: Verdict) -> str:
    """A verdict as text; the last line is the verdict itself."""
    coverage, runtime = verdict.coverage, verdict.runtime
    lines = [f"inputs: {len(verdict.inputs)}: {', '.join(_some(verdict.inputs))}",
             f"session: {verdict.session}", ""]  # fmt: skip
    # a table's names are escaped, so that it has no line breaks but its own
    if verdict.tensors:
        lines += ["tensors in between:", *_table(verdict.tensors, runtime), ""]
    lines += [f"outputs of the graph, against {runtime} on the file:",
              *_table(verdict.outputs, runtime), ""]  # fmt: skip
    lines += [
        f"recomputed: {coverage.recomputed} of {coverage.quantized} quantized nodes, "
        f"{coverage.mac_recomputed} of {coverage.mac} multiply-accumulate nodes"
    ]
    if coverage.float:
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(coverage.float.items()))
        lines += [f"not quantized, borrowed from {runtime}: {kinds}"]
    if coverage.float_sums:
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(coverage.float_sums.items()))
        lines += [f"weights recomputed, float sums borrowed from ONNX Runtime: {kinds}"]
    for reason, nodes in coverage.left_out.items():
        lines += [f"not recomputed: {reason}: {len(nodes)} ({', '.join(_some(nodes))})"]
    default = verdict.default
    if default and (default.mismatches or default.float_mac != default.float_mac_here):
        said = (
            f"note: a session with {runtime}'s defaults differs from this one in "
            f"{default.mismatches} of {default.elements} output elements"
        )
        if default.float_mac or default.float_mac_here:
            said += (
                f"; it computes {default.float_mac} multiply-accumulate nodes in float, this one "
                f"{default.float_mac_here}"
            )
        lines += [said]
    lines += [f"note: {note}" for note in verdict.notes]
    return "\n".join(map(printable, [*lines, f"{verdict.status}: {_sentence(verdict)}"]))


def _some(names: Iterable[str], count: int = 4) -> list[str]:
    names = list(names)
    return names if len(names) <= count else [*names[:count], f"and {len(names) - count} more"]


def _sentence(verdict: Verdict) -> str:
    compared = (*verdict.outputs, *verdict.tensors)
    elements = sum(c.elements for c in compared)
    wrong = [c for c in compared if not c.equal]
    if wrong:
        first = next((c for c in verdict.tensors if not c.equal), wrong[0])
        count = sum(c.mismatches for c in wrong)
        return f"{count} of {elements} elements differ; first in tensor {first.tensor}"
    what = f"{elements} elements of {len(compared)} tensors equal, for these inputs"
    sums = sum(verdict.coverage.float_sums.values())
    left = verdict.coverage.mac - verdict.coverage.mac_recomputed - sums
    if sums:
        what += f"; float sums of ONNX Runtime's own in {sums} MatMulNBits"
    if left and verdict.status == "PASS":
        what += f"; {left} of {verdict.coverage.mac} multiply-accumulate nodes are not quantized"
    if verdict.status == "PARTIAL":
        nodes = sum(map(len, verdict.coverage.left_out.values()))
        return f"{what}; {nodes} quantized nodes were not recomputed"
    return what


def _check_out(args: argparse.Namespace) -> None:
    """Refuse a file to write before anything is computed."""
    _check_apart(args, args.out)


def _check_apart(args: argparse.Namespace, out: Path) -> None:
    # NAME=FILE or FILE; a path that is none is not the same as --out either
    inputs = [Path(part) for text in args.input for part in (text, text.partition("=")[2])]
    check_apart(out, [args.model, *inputs])
    check_file(out)


def run_model(args: argparse.Namespace) -> int:
    """Write every tensor that the reference computes, under its name in the file."""
    model = _read(args.model)
    _check_out(args)
    feeds = read_feeds(model, args.input, args.images)
    if len(feeds) != 1:
        raise UnusableInput(f"{args.model}: {len(feeds)} runs of a fixed batch; give one input")
    (values,) = (feed.values for feed in feeds)
    if isinstance(model, TFLite):
        runtime, graph = tflite.RUNTIME, model
        walk = tflite.steps(model, values, command.tensors(model, feeds[0]))
    else:
        runtime, graph = "ONNX Runtime", oracle.settle(model, values).graph
        walk = engine.steps(graph, values, given=model.constants)
    borrowed: list[str] = []

    def arrays() -> Iterable[tuple[str, np.ndarray]]:
        yield from ((n, graph.constants[n]) for n in model.outputs if n in graph.constants)
        yield from values.items()
        for step in progress(walk, "computing", len(graph.nodes)):
            if step.how != engine.RECOMPUTED:
                borrowed.append(step.node.name)
            yield from step.outputs.items()

    count = write_arrays(args.out, arrays())
    names = ", ".join(_some(borrowed)) or "none"
    print(printable(f"wrote {args.out}: {count} tensors, from {feeds[0].source}"))
    print(printable(f"{len(borrowed)} nodes were computed by {runtime}: {names}"))
    return 0


def explore(args: argparse.Namespace) -> int:
    """Write one page that shows any element of any tensor, and how it comes about."""
    _refuse_tflite(args, "explore")
    model = load(args.model)
    _check_out(args)
    feeds = read_feeds(model, args.input, args.images)
    alone = feeds if args.input else vectors.one_by_one(model, feeds)
    if len(alone) > len(feeds):
        feeds = [replace(feed, source=f"sample image {i}") for i, feed in enumerate(alone)]
    if not args.limit > 0:  # nan too
        raise UnusableInput(f"--limit {args.limit:g}: megabytes are more than 0")
    # a command takes the first run of its inputs
    given = [part for text in args.input for part in ("--input", text)]
    arguments = [given, *[None] * (len(feeds) - 1)]

    def bar(groups: Iterable, title: str, total: int) -> Iterable:
        title = printable(title)[:60]
        return tqdm(groups, title, total, unit="group", leave=False, disable=None, delay=1)

    page = explore_page.page(
        model, feeds, arguments, nodes=args.node, limit=args.limit, progress=bar
    )
    write_text(args.out, page.text)
    inside = f"{page.with_values} of {page.nodes} nodes, {page.computed} of them step by step"
    sources = ", ".join(_some([feed.source for feed in feeds]))
    print(printable(f"wrote {args.out}: {len(page.text) >> 10:,} KB: {inside}; from {sources}"))
    for note in page.notes:
        print(printable(f"note: {note}"))
    return 0


def explain(args: argparse.Namespace) -> int:
    """Work out one output element of a node, step by step, beside ONNX Runtime's."""
    if is_tflite(args.model):
        return _explain_tflite(args, load_tflite(args.model))
    model = load(args.model)
    feeds = read_feeds(model, args.input)[0].values
    network = oracle.settle(model, feeds)
    graph = network.graph
    node = network.node(args.node) if args.node else _first(graph)
    tensor = args.node if args.node in node.outputs else node.outputs[0]
    session = oracle.open_graph(network, [*filter(None, node.inputs), tensor])
    values = feeds | oracle.outputs(model, session, feeds)
    theirs = np.asarray(values[tensor])
    where = _where(args, node, theirs.shape)
    element = elements.explain(graph, node, values, tensor, where)
    constant = all(name in graph.constants for name in node.inputs[1:] if name)
    if node.operator == "QLinearConv" and constant:
        place = f"output channel {args.channel if args.at is None else where[1]}, "
        place += f"position {where[2:]}"
        worked = work(values[node.inputs[0]], graph.conv(node), where[0], where[1], where[2:])
        sections = explained(graph.conv(node), worked, theirs[where])
    else:
        place = f"{printable(tensor)}[{', '.join(map(str, where))}]"
        sections = pages(graph, node, values, element, theirs[where])
    _print_sections(args, f"{printable(node.name)}: {place}", sections)
    return int(not compare_arrays(tensor, element.y, theirs[where]).equal)


def _print_sections(args: argparse.Namespace, title: str, sections: list[str]) -> None:
    if args.markdown:
        print(f"## {title}\n")
        print("\n\n".join(f"```\n{section}\n```" for section in sections))
    else:
        print("\n\n".join([title, *sections]))


def _explain_tflite(args: argparse.Namespace, model: TFLite) -> int:
    """explain of a .tflite file: an index is of the file's own layout, NHWC."""
    feed = read_feeds(model, args.input)[0]
    node = model.node(args.node) if args.node else command.first_explained(model)
    values = command.tensors(model, feed)
    tensor = node.outputs[0]
    theirs = values[tensor]
    if args.at is None and theirs.ndim == 4:  # --pixel and --channel, the channel last
        args.at = [args.image, *(args.pixel or (0, 0)), args.channel]
    elif args.at is None and theirs.ndim == 2:
        args.at = [args.image, args.channel]
    where = _where(args, node, theirs.shape)
    element = command.element(model, node, values, where)
    same = compare_arrays(tensor, element.y, theirs[where]).equal
    sections = [table(command.parameters(model, node, values))]
    if element.terms and len(next(iter(element.terms.values()))):
        sections.append(table(_rows(element.terms)))
    sections.append(table(_steps(element.steps)))
    sections.append(f"{tflite.RUNTIME}: {theirs[where]} ({'equal' if same else 'DIFFERENT'})")
    place = f"{printable(tensor)}[{', '.join(map(str, where))}]"
    _print_sections(args, f"{printable(node.op_type)}: {place}", sections)
    return int(not same)


def _first(graph: Model) -> Node:
    """The first convolution; else the first node for which there is an explanation."""
    explained = [n for n in graph.nodes if elements.has_explanation(n)]
    found = [n for n in explained if n.operator == "QLinearConv"] or explained
    if not found:
        kinds = ", ".join(sorted({n.operator for n in graph.nodes}))
        raise UnusableInput(f"{graph.path}: nothing to explain: ONNX Runtime runs {kinds}")
    return found[0]


def _where(args: argparse.Namespace, node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The index that is asked for: --at, or --image, --channel and --pixel."""
    if args.at is not None:
        where, said = tuple(args.at), f"--at {','.join(map(str, args.at))}"
    else:
        pixel = args.pixel or (0,) * (len(shape) - 2)
        where = (args.image, args.channel, *pixel)
        if len(shape) < 2 and not any((*where, args.pixel)):
            where = (0,) * len(shape)
        said = f"image {args.image}, channel {args.channel}, pixel {','.join(map(str, pixel))}"
    if len(where) != len(shape) or not all(0 <= v < n for v, n in zip(where, shape, strict=True)):
        raise UnusableInput(
            f"{args.model}: node {node.name}: y has shape {shape}, counted from 0; {said} is not "
            "in it"
        )
    return where


def pages(
    graph: Model, node: Node, values: dict, element: elements.Element, theirs: np.generic
) -> list[str]:
    """The pages of an explanation of any operator: parameters, terms, steps, verdict."""
    tensors = graph.constants | values
    parameters = [
        {"input": name, "value": describe.value(tensors[actual])}
        for name, actual in graph.names(node).items()
        if describe.is_parameter(name)
    ]
    shown = [table(parameters)] if parameters else []
    if element.terms:
        shown.append(table(_rows(element.terms)))
    shown.append(table(_steps(element.steps)))
    same = compare_arrays(node.outputs[0], element.y, theirs).equal
    verdict = "equal" if same else "DIFFERENT"
    return [*shown, f"ONNX Runtime: {theirs} ({verdict})"]


def _rows(terms: dict[str, np.ndarray], most: int = 64) -> list[dict]:
    """The rows of a table of terms; of a long one the first and the last."""
    count = len(next(iter(terms.values())))
    shown = range(count) if count <= most else [*range(most - 8), None, *range(count - 7, count)]
    return [
        {"term": i, **{name: str(v[i]) for name, v in terms.items()}}
        if i is not None
        else {"term": f"… {count} in all", **dict.fromkeys(terms, "…")}
        for i in shown
    ]


def _steps(steps: Iterable[tuple]) -> list[dict]:
    return [
        {"step": name, "value": str(value), "dtype": np.asarray(value).dtype.name}
        for name, value in steps
    ]


def explained(conv: Conv, element: Worked, theirs: np.integer) -> list[str]:
    """The pages of an explanation: constants, first products, sums, requantization, verdict."""
    constants = [
        {"input": name, "value": describe.value(getattr(conv, name))}
        for name in ("x_scale", "x_zero_point", "w_scale", "w_zero_point", "y_scale",
                     "y_zero_point", "B")
        if getattr(conv, name) is not None
    ]  # fmt: skip
    by_channel = element.products.reshape(len(element.products), -1).sum(axis=1)
    taps = element.products[0].size
    sums = [
        {"input channel": c, f"sum of {taps} products": int(s), "running sum": int(r)}
        for c, (s, r) in enumerate(zip(by_channel, by_channel.cumsum(), strict=True))
    ]
    steps = _steps(element.requantization())
    verdict = "equal" if element.y == theirs else "DIFFERENT"
    terms = (
        ("x - x_zero_point", element.x_terms),
        ("w - w_zero_point", element.w_terms),
        ("products", element.products),
    )
    first = "\n".join(f"{name} of the first input channel:\n{a[0]}" for name, a in terms)
    return [table(constants), first, table(sums), table(steps),
            f"ONNX Runtime: {theirs} ({verdict})"]  # fmt: skip


def write_vectors(args: argparse.Namespace) -> int:
    """Write golden vectors of the QLinearConv layers, of one node, or of all, for each image."""
    options = vectors.Options(
        args.layout or "NCHW", args.packed, args.prefix, args.thresholds, args.corners
    )  # fmt: skip
    if is_tflite(args.model):
        return _write_tflite(args, options)
    model = load(args.model)
    check_folder(args.out)
    feeds = vectors.one_by_one(model, read_feeds(model, args.input, args.images))
    network = oracle.settle(model, feeds[0].values)
    nodes = [n for n in network.graph.nodes if n.operator == "QLinearConv" and not args.all]
    nodes = [network.node(args.node)] if args.node else nodes or list(network.graph.nodes)

    manifest = vectors.write(network, feeds, args.out, nodes, _writing, options)
    _print_written(args, manifest, len(nodes))
    return 0


def _writing(layers: list) -> Iterable:
    return tqdm(layers, "writing", unit="layer", leave=False, disable=None, delay=1)


def _print_written(args: argparse.Namespace, manifest: dict, layers: int) -> None:
    what = f"{layers} layers, {manifest['images']} images, {len(manifest['sha256'])} files"
    print(printable(f"wrote {args.out}: {what}"))


def _write_tflite(args: argparse.Namespace, options: vectors.Options) -> int:
    """vectors of a .tflite file: its convolutions, one node, or all."""
    if options.thresholds or options.corners:
        raise UnusableInput(f"{args.model}: --thresholds and --corners are of ONNX models")
    if args.layout == "NCHW":
        raise UnusableInput(f"{args.model}: vectors of a .tflite file have its own layout, NHWC")
    model = load_tflite(args.model)
    check_folder(args.out)
    feeds = read_feeds(model, args.input, args.images)
    nodes = [n for n in model.nodes if n.op_type in ("CONV_2D", "DEPTHWISE_CONV_2D")]
    nodes = [model.node(args.node)] if args.node else nodes
    nodes = list(model.nodes) if args.all or not nodes else nodes
    options = replace(options, layout="NCHW")  # arrays stay as they are
    manifest = golden.write(model, feeds, args.out, nodes, _writing, options)
    _print_written(args, manifest, len(nodes))
    return 0


def multipliers_command(args: argparse.Namespace) -> int:
    """Print what to program for each output channel, in the convention of a runtime or a design."""
    _refuse_tflite(args, "multipliers")
    convention = conventions.convention(args.convention)
    if args.vectors:
        check_apart(args.vectors, [args.model])
        check_file(args.vectors)
    graph = fuse(load(args.model)).graph
    layers = multipliers.programmed(
        graph, convention, node=args.node, float32=args.factor == "float32"
    )
    if left := multipliers.left_out(graph):
        said = (
            f"note: left out, for want of constants or a quantized output: {', '.join(_some(left))}"
        )
        print(printable(said), file=sys.stderr)
    if args.vectors:
        count = write_arrays(args.vectors, multipliers.step_arrays(convention, layers))
        print(printable(f"wrote {args.vectors}: {count} arrays of {len(layers)} layers"))
    elif args.json:
        record = {"model": str(args.model), **multipliers.as_json(convention, layers)}
        print(json.dumps(record, indent=2))
    elif args.csv:
        print(comma_separated(multipliers.rows(layers), "layer"), end="")
    elif args.c:
        print("".join(multipliers.header(convention, layers)), end="")
    else:
        print(printable(f"{convention.title}: {convention.sentence}"))
        for name, what in convention.constants.items():
            print(f"{name}: {what}")
        print(f"\n{table(multipliers.rows(layers, most=3))}")
    return 0


def diagnose_command(args: argparse.Namespace) -> int:
    """Compare a dump of your hardware or kernel with ONNX Runtime: where it differs, and why."""
    if is_tflite(args.model):
        return _diagnose_tflite(args)
    _check_diagnose(args)
    model = load(args.model)
    if not args.dump:
        return _reduce_alone(args, model)
    files = [text for text in args.dump if "=" not in text or Path(text).exists()]
    read = [*files, *(text.partition("=")[2] for text in args.dump), *args.input]
    if args.x:
        read.append(str(args.x))
    made = reduce.files(args.reduce) if args.reduce else ()
    for out in filter(None, (args.html, args.apart, *made)):
        check_apart(out, [args.model, *map(Path, filter(None, read))])
        check_file(out)
    feeds = read_feeds(model, args.input, args.images)
    if len(feeds) != 1:
        raise UnusableInput(f"{args.model}: {len(feeds)} runs of a fixed batch; give one input")
    network = oracle.settle(model, feeds[0].values)
    tensor = _tensor_of(network, args.node) if args.node else ""
    values = diagnose.ort_values(network, feeds[0], network.graph.nodes)
    found = dumps.collect(
        args.dump, network.graph, values, tensor=tensor, layout=args.layout, kind=args.dtype,
        model_sha256=vectors.sha256_of(model),
    )  # fmt: skip
    x = _theirs(args, network, values, {dump.tensor for dump in found}) if args.x else None

    def bar(steps: Iterable, title: str, total: int) -> Iterable:
        return tqdm(steps, title, total, unit="mistake", leave=False, disable=None, delay=1)

    report = diagnose.diagnose(network, feeds[0], found, x=x, values=values, progress=bar)
    part = None
    if args.reduce and report.status:
        theirs = dump(report.dumped(), ", ".join(args.dump), fed=bool(args.node))
        pair = (theirs, session(network.settings))
        part, _ = _reduced(args, model, feeds, pair)
    if args.html:
        write_text(args.html, diagnose_report.html(report))
    apart = report.apart.x if report.apart else None
    if args.apart and apart is not None:
        with whole_file(args.apart) as partial, partial.open("wb") as file:
            np.save(file, apart)
    if args.json:
        reduced = {"reduced": _as_json(args, part)} if args.reduce else {}
        print(json.dumps(report.as_json() | reduced, indent=2))
        return report.status
    if part:
        print("\n".join(map(printable, [*_lines(args, part), ""])))
    elif args.reduce:
        print(printable(f"no output differs, so {args.reduce} was not written"))
    for out, made in ((args.html, True), (args.apart, apart is not None)):
        if out:
            print(printable(f"wrote {out}" if made else f"no input to write to {out}"))
    print(diagnose_report.text(report))  # the verdict is the last line
    return report.status


def _diagnose_tflite(args: argparse.Namespace) -> int:
    """diagnose of a .tflite file: against LiteRT's reference kernels, without a page or a part."""
    for name in ("reduce", "sessions", "html", "apart", "x", "dtype"):
        if getattr(args, name):
            raise UnusableInput(f"{args.model}: --{name} is of ONNX models")
    if not args.dump:
        raise UnusableInput("give a DUMP; see qlinear diagnose --help")
    if args.layout not in (None, "NHWC", "NCHW"):
        raise UnusableInput(f"--layout {args.layout}: NHWC or NCHW, of a .tflite file")
    model = load_tflite(args.model)
    feeds = read_feeds(model, args.input, args.images)
    if len(feeds) != 1:
        raise UnusableInput(f"{args.model}: {len(feeds)} runs of a fixed batch; give one input")
    values = command.tensors(model, feeds[0])
    node = args.node or ""
    dumped = diagnosis.collect(model, values, args.dump, node, args.layout or "NHWC")
    found = diagnosis.diagnose(model, values, dumped)
    if args.json:
        print(json.dumps(found.as_json(), indent=2))
        return found.status
    lines = [
        f"input: {feeds[0].source}",
        "",
        *_table(found.comparisons, tflite.RUNTIME, "dump"),
        "",
    ]
    if found.first:
        (dump, *_) = [one.values for one in dumped if one.tensor == found.first.tensor]
        lines += [f"where {found.first.tensor} differs:"]
        lines += [*diagnosis.places(dump != values[found.first.tensor]), ""]
    print("\n".join(map(printable, [*lines, *diagnosis.said(found)])))
    return found.status


def _check_diagnose(args: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if args.reduce and args.reduce.suffix != ".onnx":
        raise UnusableInput(f"--reduce {args.reduce}: name a file that ends in .onnx")
    if args.reduce and args.x:
        raise UnusableInput("--reduce and --x: a part has ONNX Runtime's own inputs; leave one out")
    if args.dump and args.sessions:
        raise UnusableInput("--sessions compares two sessions; leave the dump out")
    if not args.dump and not args.reduce:
        raise UnusableInput("give a DUMP, or --reduce OUT.onnx; see qlinear diagnose --help")
    options = ("node", "layout", "dtype", "html", "apart")
    for name in options if not args.dump else ():
        if getattr(args, name):
            raise UnusableInput(f"--{name} is of a dump, and none is given")


def _reduce_alone(args: argparse.Namespace, model: Model) -> int:
    """diagnose --reduce without a dump: two sessions, or the reference and ONNX Runtime."""
    for path in reduce.files(args.reduce):
        _check_apart(args, path)
    feeds = read_feeds(model, args.input, args.images, samples=len(load_samples()[0]))
    if args.sessions:
        a, b = (checked(model, parse(text)) for text in args.sessions)
        pair = (session(a, "a"), session(b, "b"))
    else:
        settings = oracle.settle(model, feeds[0].values).settings
        pair = (reference(settings), session(settings))
    part, source = _reduced(args, model, feeds, pair)
    sources = [source] if part else _some([feed.source for feed in feeds])
    if args.json:
        sides = {"sides": {side.key: side.title for side in pair}, "inputs": sources}
        print(json.dumps(sides | {"reduced": _as_json(args, part)}, indent=2))
    else:
        lines = [f"inputs: {', '.join(sources)}"]
        if part:
            lines += _lines(args, part)
        else:
            lines += [f"{side.key}: {side.title}" for side in pair]
            left = "" if args.sessions else "; validate says what the reference computes"
            lines += [f"no difference: nothing was written{left}"]
        print("\n".join(map(printable, lines)))
    return int(part is not None)


def _reduced(
    args: argparse.Namespace, model: Model, feeds: list[Feed], pair: tuple[Side, Side]
) -> tuple[reduce.Reduction | None, str]:
    """The part for the first input on which the two differ, written, and that input's source."""
    with tqdm(desc="trying parts", unit="part", leave=False, disable=None, delay=1) as bar:
        for feed in feeds:
            part = reduce.reduce(model, feed.values, pair, lambda count: bar.update())
            if part:
                reduce.write(part, args.reduce)
                return part, feed.source
    return None, ""


def _as_json(args: argparse.Namespace, part: reduce.Reduction | None) -> dict | None:
    files = [str(path) for path in reduce.files(args.reduce)]
    return {**part.as_json(), "files": files} if part else None


def _lines(args: argparse.Namespace, part: reduce.Reduction) -> list[str]:
    files = ", ".join(str(path) for path in reduce.files(args.reduce))
    return [*reduce.report(part), f"wrote {files}"]


def _tensor_of(network: Network, name: str) -> str:
    """The tensor of a node or of a tensor's name, with or without the quantizer's ending."""
    known = dumps.tensors_by_name(network.graph)
    if name in known:
        return known[name]
    return next(output for output in network.node(name).outputs if output)


def _theirs(
    args: argparse.Namespace, network: Network, values: dict, tensors: set[str]
) -> np.ndarray:
    """The layer's own input, from --x, in the type and shape of ONNX Runtime's."""
    if len(tensors) != 1:
        raise UnusableInput(f"--x {args.x}: it is the input of one node; the dump has several")
    (node,) = [n for n in network.graph.nodes if tensors & set(n.outputs)]
    name = node.inputs[0]
    if name in network.graph.constants or name not in values:
        raise UnusableInput(f"--x {args.x}: {node.name} has no input that could differ")
    (dump,) = dumps.collect(
        [str(args.x)], network.graph, values, tensor=name, layout=args.layout, kind=args.dtype
    )  # fmt: skip
    x = dump.readings[0].values.astype(values[name].dtype)
    if (x.astype(np.float64) != dump.readings[0].values).any():
        raise UnusableInput(f"{args.x}: holds values that {name}, {x.dtype}, cannot have")
    return x


class ShowCatalogue(argparse.Action):
    """--catalogue: print every mistake that is known, and end, as --help does."""

    def __call__(self, parser, namespace, values, option_string=None):
        shown = [{k: row[k] for k in ("mistake", "kind", "what")} for row in mistakes.rows()]
        print(table(shown))
        parser.exit()


def word(text: str) -> int:
    """Bits of a packed word.

    Raises:
        ValueError: no positive multiple of 8.
    """
    bits = int(text)
    if bits < 8 or bits % 8:
        raise ValueError
    return bits


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="qlinear", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function, *, inputs: bool = True, images: bool = True):
        one = commands.add_parser(
            name, help=function.__doc__, description=function.__doc__, epilog=STATUS_TABLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        one.add_argument("model", type=Path, help="ONNX model in QOperator or QDQ form, or .tflite")
        if inputs:
            one.add_argument(
                "--input", action="append", default=[], metavar="[NAME=]FILE",
                help="an image, .npy or .npz file; once for each input of the model "
                "(default: a sample image, or seeded random values)",
            )  # fmt: skip
        if images:
            one.add_argument(
                "--images",
                type=int,
                help="how many sample images, 1 to 20 (default: validate all, else 1)",
            )
        one.set_defaults(function=function)
        return one

    one = add("inspect", inspect_command, inputs=False, images=False)
    form = one.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--csv", action="store_true", help="print CSV")
    one = add("validate", validate_command)
    one.add_argument("--node", help="check this node alone")
    one.add_argument(
        "--kernels",
        choices=("reference", "default"),
        help="of a .tflite file: compare with LiteRT's reference kernels, every tensor, or with "
        "its default, XNNPACK, outputs only (default: reference)",
    )
    one.add_argument("--json", action="store_true", help="print JSON")
    one = add("run", run_model)
    one.add_argument("--out", type=Path, required=True, help=".npz file to write")
    one = add("explore", explore)
    one.add_argument("--out", type=Path, required=True, help="HTML file to write")
    one.add_argument(
        "--node",
        action="append",
        default=[],
        help="only this node's values, repeated for several (default: all that fit)",
    )
    one.add_argument("--limit", type=float, default=explore_page.LIMIT, metavar="MEGABYTES",
                     help="of values in the page (default: %(default)s)")  # fmt: skip
    one = add("explain", explain, images=False)
    one.add_argument("--node", help="a node, or a tensor that it writes (default: a convolution)")
    one.add_argument("--at", type=numbers, metavar="I,J,…", help="index of the element, any shape")
    one.add_argument("--pixel", type=numbers, metavar="Y,X", help="output position (default: 0,0)")
    one.add_argument("--channel", type=int, default=0, help="output channel")
    one.add_argument("--image", type=int, default=0, help="position in the batch")
    one.add_argument("--markdown", action="store_true", help="print Markdown")
    one = add("vectors", write_vectors)
    one.add_argument("--out", type=Path, required=True, help="folder to make")
    which = one.add_mutually_exclusive_group()
    which.add_argument("--node", help="one node of any kind (default: every QLinearConv)")
    which.add_argument("--all", action="store_true", help="every node, chained by the manifest")
    one.add_argument(
        "--thresholds", action="store_true",
        help="also the accumulators at which each channel's output steps: they prove a monotone "
        "requantizer on every accumulator",
    )  # fmt: skip
    one.add_argument(
        "--corners", action="store_true",
        help="also accumulators at bounds, ties and saturation, and inputs that give the bounds",
    )  # fmt: skip
    one.add_argument("--layout", choices=("NCHW", "NHWC"),
                     help="order of axes (default: NCHW, of a .tflite file NHWC)")  # fmt: skip
    one.add_argument(
        "--packed", type=word, default=0, metavar="BITS",
        help="also hex text of words of BITS bits, the first element lowest",
    )  # fmt: skip
    one.add_argument(
        "--prefix", action="store_true",
        help="begin names in C and Verilog with the layer's, so that layers go together",
    )  # fmt: skip
    one = add("multipliers", multipliers_command, inputs=False, images=False)
    one.epilog = PRINTED
    one.add_argument(
        "--convention", default="onnxruntime", metavar="NAME",
        help=f"one of {', '.join(conventions.CONVENTIONS)} (default: %(default)s)",
    )  # fmt: skip
    one.add_argument("--node", help="this node alone (default: every layer with weights)")
    one.add_argument(
        "--factor", choices=("own", "float32"), default="own",
        help="encode the factor in the precision of the convention's users, or ONNX Runtime's "
        "float32 factor (default: %(default)s)",
    )  # fmt: skip
    form = one.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--csv", action="store_true", help="print CSV")
    form.add_argument("--c", action="store_true", help="print a C header")
    form.add_argument(
        "--vectors", type=Path, metavar="FILE",
        help="write a .npz file: the accumulators beside every step of this convention and of "
        "ONNX Runtime, with both outputs",
    )  # fmt: skip
    one = add("diagnose", diagnose_command)
    one.epilog = DIAGNOSED
    one.add_argument(
        "dump", nargs="*", metavar="DUMP",
        help="what was computed: .npy, .npz, hex text, raw binary (.bin) or .csv, one tensor each; "
        "NAME=FILE; or a folder of them, named as tensors or nodes, in the graph's order, or with "
        "the manifest of vectors",
    )  # fmt: skip
    one.add_argument("--node", help="the node, or tensor, that every DUMP is of")
    one.add_argument("--x", type=Path, metavar="FILE",
                     help="the node's own first input, where it is not ONNX Runtime's")  # fmt: skip
    one.add_argument(
        "--layout", metavar="LAYOUT",
        help="order of a dump's elements: NCHW, NHWC, or NCHWc as NCHW16c (default: as a file's "
        "shape or manifest says, else NCHW)",
    )  # fmt: skip
    one.add_argument("--dtype", choices=dumps.TYPES,
                     help="type of an element in binary or hex (default: by size)")  # fmt: skip
    one.add_argument("--html", type=Path, metavar="FILE",
                     help="also write a page: heat maps, and the explorer")  # fmt: skip
    one.add_argument(
        "--apart", type=Path, metavar="FILE",
        help="also write, as .npy, an input of the node on which equal explanations differ",
    )  # fmt: skip
    one.add_argument(
        "--reduce", type=Path, metavar="OUT.onnx",
        help="write the smallest part of the model that shows the difference, its inputs and "
        "outputs, and a script that runs it; without a DUMP, of the reference and ONNX Runtime",
    )  # fmt: skip
    one.add_argument(
        "--sessions", nargs=2, metavar=("A", "B"),
        help="with --reduce: of two sessions. Each is a level (default, all, extended, basic, off) "
        "and what else it sets: default,session.qdqisint8allowed=1,threads=2",
    )  # fmt: skip
    one.add_argument("--json", action="store_true", help="print JSON")
    one.add_argument("--catalogue", nargs=0, action=ShowCatalogue,
                     help="print the mistakes that are known, and exit")  # fmt: skip
    one = add("study", studies.study, inputs=False, images=False)
    studies.add_options(one)
    return made


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return args.function(args)
