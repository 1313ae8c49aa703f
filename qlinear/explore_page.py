"""A model of the user's as a page of the explorer, with ONNX Runtime's values of it inside.

``qlinear explore`` writes the page, :func:`show` shows it in a notebook. How the page says what it
knows is :mod:`qlinear.explore`'s; here is which values it gets, and where they come from.
"""

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qlinear import engine, explore, oracle
from qlinear.compare import compare_arrays
from qlinear.conditions import broken
from qlinear.errors import Refused, UnusableInput, printable
from qlinear.fuse import Network
from qlinear.inputs import Feed, read_feeds
from qlinear.onnx_model import Model, Node, load
from qlinear.validate import twice

import onnxruntime

LIMIT = 8  # megabytes of values in a page
GROUP = 32  # tensors that one session hands out; it keeps all of them

Progress = Callable[[Iterable, str, int], Iterable]


@dataclass(frozen=True)
class Page:
    """A page, and what is in it."""

    text: str  # HTML
    nodes: int  # that ONNX Runtime runs
    with_values: int  # of these, those whose values are inside
    computed: int  # of these, those that the page computes, step by step
    notes: tuple[str, ...]  # what was left out and why; the page says it too

    def _repr_html_(self) -> str:
        return (
            '<iframe title="Explorer" style="width:100%;height:56rem;border:0" '
            f'srcdoc="{html.escape(self.text)}"></iframe>'
        )


def show(
    model: Model | Path | str,
    x: np.ndarray | dict[str, np.ndarray] | None = None,
    *,
    start: str = "",
) -> Page:
    """The explorer of a model, for a notebook: its last line shows it.

    Args:
        x: the model's input, or its inputs by name; by default a sample image, or seeded random
            values.
        start: the element that is shown first, as the explorer's addresses name it:
            ``"layer=conv1&channel=5&y=10&x=12"``.

    Raises:
        UnusableInput: ONNX Runtime refuses the model or an input.
    """
    model = model if isinstance(model, Model) else load(model)
    feeds = read_feeds(model)[:1] if x is None else [Feed(engine.feeds_of(model, x), "this input")]
    return page(model, feeds, [None], start=start)


def page(
    model: Model,
    feeds: Sequence[Feed],
    arguments: Sequence[Sequence[str] | None],
    *,
    nodes: Sequence[str] = (),
    limit: float = LIMIT,
    start: str = "",
    progress: Progress | None = None,
) -> Page:
    """The explorer of a model, with what ONNX Runtime computes of it.

    Args:
        feeds: one run or more (:func:`qlinear.inputs.read_feeds`).
        arguments: for each run, those of a command for the same run, or None where no command has
            its input.
        nodes: the names of those whose values are wanted, however large; by default all that fit.
        limit: how many megabytes of values there may be.
        progress: wraps the groups of tensors that are asked for; it is told a title and how many.

    Raises:
        UnusableInput: ONNX Runtime refuses the model or an input, or runs no node.
    """
    network = oracle.settle(model, feeds[0].values)
    if not network.graph.nodes:
        raise UnusableInput(f"{model.path}: ONNX Runtime runs no node; there is nothing to show")
    session = oracle.open_file(model, network.settings)
    ends = [twice(model, session, feed.values) for feed in feeds]
    progress = progress or (lambda groups, title, total: groups)
    written = [name for node in network.graph.nodes for name in node.outputs if name]
    costs = {k: cost(v) for k, v in network.graph.constants.items()}
    costs |= {k: cost(v) for k, v in feeds[0].values.items()}
    for values in _fetched(network, feeds[0].values, written, ends[0], progress, "measuring"):
        costs |= {k: cost(v) for k, v in values.items()}
    asked = [network.node(name) for name in nodes]
    wanted = [node for node in network.graph.nodes if node in asked]  # each once
    kept = wanted or _fitting(network.graph, costs, limit * 1e6 / len(feeds))
    names = {n for node in kept for n in (*node.inputs, *node.outputs)}
    runs = [
        explore.Run(
            feed.values | _all(network, feed, [n for n in written if n in names], end, progress),
            feed.source,
            _picture(feed.values),
            given,
        )
        for feed, end, given in zip(feeds, ends, arguments, strict=True)
    ]
    data = explore.page_data(network, runs, only=kept)
    refused = [name for name in written if name in names and name not in runs[0].values]
    notes = [
        *_left_out(network, kept, 0 if wanted else limit),
        *_refused(refused),
        *broken(network),
    ]
    made = (
        f"Values by ONNX Runtime {onnxruntime.__version__}, when this page was made; session: "
        f"{network.settings}. What it calls equal it has computed itself, from these values."
    )
    text = explore.html(
        data, title=printable(model.path.name), start=start, notes=[*notes, printable(made)]
    )
    return Page(
        text,
        nodes=len(data["nodes"]),
        with_values=len(kept),
        computed=sum(bool(node["steps"]) for node in data["nodes"]),
        notes=tuple(notes),
    )


def cost(value) -> int:
    """How many characters a page needs for a tensor; 0 for what is none, such as a sequence."""
    return explore.stored_size(value) if isinstance(value, np.ndarray) else 0


def _fetched(
    network: Network,
    feeds: dict[str, np.ndarray],
    names: list[str],
    ends: dict[str, np.ndarray],
    progress: Progress,
    title: str,
) -> Iterable[dict[str, np.ndarray]]:
    """ONNX Runtime's tensors, some at a time; those that it does not hand out are missing."""
    groups = [names[i : i + GROUP] for i in range(0, len(names), GROUP)]
    for group in progress(groups, title, len(groups)):
        yield _asked(network, feeds, group, ends)


def _all(
    network: Network, feed: Feed, names: list[str], ends: dict, progress: Progress
) -> dict[str, np.ndarray]:
    groups = _fetched(network, feed.values, names, ends, progress, feed.source)
    return {name: value for values in groups for name, value in values.items()}


def _asked(
    network: Network,
    feeds: dict[str, np.ndarray],
    names: list[str],
    ends: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Tensors from a session that computes the graph's outputs as it does from the file.

    Where ONNX Runtime hands out no tensor of a type, or computes something else when it is asked
    for one, the others are asked for without it.
    """
    try:
        session = oracle.open_graph(network, names)
        found = oracle.outputs(network.file, session, feeds, dict.fromkeys([*names, *ends]))
        if all(compare_arrays(k, found[k], end).equal for k, end in ends.items()):
            return {name: found[name] for name in names}
    except Refused:
        pass
    if len(names) == 1:
        return {}
    middle = len(names) // 2
    halves = (names[:middle], names[middle:])
    return {k: v for half in halves for k, v in _asked(network, feeds, half, ends).items()}


def _fitting(graph: Model, costs: dict[str, int], limit: float) -> list[Node]:
    """The nodes whose operands and outputs fit, those first that the page computes."""
    taken: set[str] = set()
    kept: list[Node] = []
    total = 0
    for node in sorted(graph.nodes, key=lambda n: (n.domain, n.op_type) not in explore.KINDS):
        new = {name for name in (*node.inputs, *node.outputs) if name} - taken
        size = sum(costs.get(name, 0) for name in new)
        if total + size <= limit:
            taken |= new
            total += size
            kept.append(node)
    return kept


def _picture(feeds: dict[str, np.ndarray]) -> np.ndarray | None:
    """The first input that is an image, as one."""
    pictures = (explore.picture(value) for value in feeds.values())
    return next((picture for picture in pictures if picture is not None), None)


def _left_out(network: Network, kept: list[Node], limit: float) -> list[str]:
    out = [node for node in network.graph.nodes if node not in kept]
    if not out:
        return []
    why = f"since with them it would hold more than {limit:g} MB" if limit else "as was asked"
    return [
        f"{len(out)} of {len(network.graph.nodes)} nodes have no values in this page, {why}: "
        f"{_some([node.name or node.outputs[0] for node in out])}. To have those of one: "
        "qlinear explore MODEL --node NAME --out PAGE; to have more: --limit MEGABYTES"
    ]


def _refused(names: list[str]) -> list[str]:
    if not names:
        return []
    return [f"ONNX Runtime does not hand out, or not unchanged: {_some(names)}"]


def _some(names: list[str]) -> str:
    more = f", and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(printable(name) for name in names[:4]) + more
