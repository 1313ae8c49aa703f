"""The larger drawings: the network, the datapath of a convolution, a window on its padded input."""

import re
from itertools import product

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qlinear.onnx_model import Model, Node
from tools import plotting
from tools.chapter import cell_text

KEY = {
    "convolution": (plotting.BLUE, ("QLinearConv",)),
    "residual addition": (plotting.ORANGE, ("QLinearAdd",)),
    "pool, dense": (plotting.GREEN, ("QLinearGlobalAveragePool", "QGemm")),
    "from or to float32": (plotting.PINK, ("QuantizeLinear", "DequantizeLinear")),
    "moves only": (plotting.GREY, ("Flatten",)),
}
COLORS = {op_type: color for color, op_types in KEY.values() for op_type in op_types}
W, H = 3.2, 1.35  # of a box
LEFT, PITCH = 2.1, 3.6  # the first column's centre, and from one to the next
# the centre of each box: the stem's row, a row for each block, the rest
ROWS = {"block1": -3.0, "block2": -7.2, "block3": -11.4}
PLACES = {"image": (LEFT + PITCH, 0.0), "stem": (LEFT + 2 * PITCH, 0.0)}
PLACES |= {f"{block}_{part}": (LEFT + column * PITCH, y) for block, y in ROWS.items()
           for column, part in enumerate(("conv1", "conv2", "add"))}  # fmt: skip
PLACES |= {
    f"{block}_shortcut": (LEFT + PITCH / 2, ROWS[block] + 1.95) for block in ("block2", "block3")
}
PLACES |= {"pool": (LEFT + 0.45, -13.95), "flatten": (LEFT + 4.05, -13.95)}
PLACES |= {"dense": (LEFT + 2 * PITCH, -13.95), "logits": (LEFT + 2 * PITCH, -16.0)}
WIDTHS = {"pool": 4.1, "flatten": 2.1}


def network(model: Model, shapes: dict[str, tuple[int, ...]]) -> Figure:
    """Draw the book's ResNet8: the stem, a row for each block, and what follows.

    Args:
        model: one of the quantized files.
        shapes: of every tensor of one image, by name, without the axis of images.
    """
    fig, ax = plotting.canvas(11.2, 17.7, unit=0.47)
    ax.set(xlim=(0, 11.2), ylim=(-16.9, 0.8))
    for node in model.nodes:
        for target in model.nodes:
            if node.outputs[0] in target.inputs:
                connect(ax, node, target)
    for node in model.nodes:
        text = label(model, node, shapes[node.outputs[0]])
        x, y = PLACES[layer(node)]
        plotting.box(ax, x, y, text, w=width(node), h=H, color=COLORS[node.op_type])
    image = "×".join(str(size) for size in shapes["image"])
    ax.text(LEFT, 0, f"image\npixels, float32\n{image}", ha="center", va="center", fontsize=9)
    plotting.wire(ax, (LEFT + 1.15, 0), (LEFT + PITCH - W / 2, 0))
    for i, (group, (color, _)) in enumerate(KEY.items()):
        ax.plot(0.75, -15.0 - 0.4 * i, "s", ms=8, color=color, alpha=0.6)
        ax.text(1.1, -15.0 - 0.4 * i, group, va="center", fontsize=8)
    ax.text(4.5, -15.4, "/2: stride 2\norange wire: the residual,\nheld until the addition",
            va="center", fontsize=8)  # fmt: skip
    return fig


def layer(node: Node) -> str:
    """A node's name without what the quantizer added."""
    return re.sub("_quant$|_QuantizeLinear$|_DequantizeLinear$", "", node.name)


def width(node: Node) -> float:
    return WIDTHS.get(layer(node), W)


def label(model: Model, node: Node, shape: tuple[int, ...]) -> str:
    """What a box says: layer, operator with kernel and stride, shape of the output."""
    operator = node.op_type
    if operator == "QLinearConv":
        conv = model.conv(node)
        operator += " " + "×".join(str(size) for size in conv.w.shape[2:])
        stride = max(conv.attributes["strides"])
        operator += f" /{stride}" if stride > 1 else ""
    return f"{layer(node)}\n{operator}\n{'×'.join(map(str, shape))}"


def connect(ax: Axes, source: Node, target: Node) -> None:
    """The wire from a node to one that reads it; a residual goes over its block, in orange."""
    (x0, y0), (x1, y1) = PLACES[layer(source)], PLACES[layer(target)]
    edge = LEFT - W / 2 - 0.35  # left of all boxes
    residual = dict(color=COLORS["QLinearAdd"])
    if y0 == y1:
        plotting.wire(ax, (x0 + width(source) / 2, y0), (x1 - width(target) / 2, y1))
    elif x0 == x1 and target.op_type == "DequantizeLinear":
        plotting.wire(ax, (x0, y0 - H / 2), (x1, y1 + H / 2))
    elif "shortcut" in layer(source):
        plotting.wire(ax, (x0 + W / 2, y0), (x1, y0), (x1, y1 + H / 2), **residual)
    else:  # down, back to the left edge between the rows, and into the row below
        start = [(x0, y0 - H / 2), (x0, y0 - 1.1), (edge, y0 - 1.1)]
        if target.op_type == "QLinearAdd":
            over = y1 + 1.15
            plotting.wire(ax, *start, (edge, over), arrow=False)
            plotting.wire(ax, (edge, over), (x1, over), (x1, y1 + H / 2), **residual)
        elif "shortcut" in layer(target):
            plotting.wire(ax, *start, (edge, y1), arrow=False)
            plotting.wire(ax, (edge, y1), (x1 - W / 2, y1), **residual)
        else:
            plotting.wire(ax, *start, (edge, y1), (x1 - width(target) / 2, y1))


# --- a convolution


def datapath(rows: list[tuple[str, str, str, str]]) -> Figure:
    """The stages of a QLinearConv, one below the other.

    Args:
        rows: six stages, each with its name, what it does, its second input, and what leaves it.
    """
    fig, ax = plotting.canvas(9.6, 12.6, unit=0.47)
    plotting.wire(ax, (3.1, 12.4), (3.1, 11.5))
    ax.text(3.4, 12.0, "x, int8", fontsize=9, va="center")
    for y, (stage, what, side, out) in zip(range(11, 0, -2), rows, strict=True):
        color = plotting.BLUE if stage < "2" else plotting.ORANGE
        plotting.box(ax, 3.1, y, what, w=3.0, color=color)
        ax.text(0.4, y, stage, fontsize=10, va="center", color=color)
        plotting.wire(ax, (5.6, y), (4.6, y))
        ax.text(5.7, y, side, fontsize=9, va="center")
        plotting.wire(ax, (3.1, y - 0.5), (3.1, max(y - 1.5, 0)))
        ax.text(3.4, y - 0.93, out, fontsize=9, va="center", color=color)
    # the sum so far comes back
    plotting.wire(ax, (3.1, 6.1), (1.2, 6.1), (1.2, 7), (1.6, 7))
    return fig


def window(ax: Axes, x: np.ndarray, side: range, corner: list[int], zero: int) -> None:
    """A square part of an input with one row and column of padding, and a 3×3 window's edge.

    Args:
        x: one channel, (size, size).
        side: the rows, and columns, to draw; one of them lies outside of x.
        corner: row and column of the window's first tap, in x's own count.
        zero: what the padding holds.
    """
    inside = [i for i in side if 0 <= i < len(x)]
    (out,) = set(side) - set(inside)
    low, most = inside[0] - 0.5, len(inside)
    grey = dict(fc=plotting.GREY, alpha=0.12, lw=0)
    orange = dict(fc=plotting.ORANGE, alpha=0.4, lw=0)
    ax.add_patch(plt.Rectangle((low, low), most, most, **grey))
    ax.add_patch(plt.Rectangle((side[0] - 0.5, out - 0.5), len(side), 1, **orange))
    ax.add_patch(plt.Rectangle((out - 0.5, low), 1, most, **orange))
    edge = dict(fill=False, ec=plotting.BLUE, lw=2.5, zorder=3)
    ax.add_patch(plt.Rectangle((corner[1] - 0.5, corner[0] - 0.5), 3, 3, **edge))
    for row, column in product(side, side):
        value = zero if out in (row, column) else int(x[row, column])
        ax.text(column, row, cell_text(value), ha="center", va="center", fontsize=9)
    first, last = side[0] - 0.55, side[-1] + 0.55
    ax.set(xlim=(first, last), ylim=(last, first), aspect="equal")
    ax.set(xlabel="column of x", ylabel="row of x", xticks=side, yticks=side)
    ax.grid(False)
    between = np.arange(side[0] - 0.5, side[-1] + 1)
    for line in (ax.hlines, ax.vlines):
        line(between, between[0], between[-1], color=plotting.GREY, lw=0.5)


# --- hardware, clock by clock


def timing(
    rows: dict[str, list],
    clocks: list[str],
    moves: dict[str, list[bool]] | None = None,
    width: float = 0.7,
) -> Figure:
    """A timing diagram: a column for each clock, a dotted line at each rising edge.

    Args:
        rows: for each signal a value a clock. 0 and 1 draw one wire, with nan where clocks are left
            out; texts draw several wires: a box for each word as long as it stays, nothing for an
            empty text.
        clocks: what stands above the columns.
        moves: for some of the rows of texts, at which clocks the word moves; these are filled.
        width: of a clock, in inches.
    """
    count, height = len(clocks), len(rows)
    names = 0.95 / width  # room for them
    fig, ax = plt.subplots(figsize=((count + names + 0.1) * width, 0.42 * (height + 0.6)))
    ax.set(xlim=(-names, count + 0.1), ylim=(0.5 - height, 1.1))
    ax.set_axis_off()
    for clock, text in enumerate(clocks):
        ax.text(clock + 0.5, 0.75, text, ha="center", va="center", fontsize=8)
        ax.axvline(clock + 1, color=plotting.GREY, lw=0.6, ls=":")
    for row, (name, values) in enumerate(rows.items()):
        ax.text(-0.15, -row, name, ha="right", va="center", fontsize=9)
        if not any(isinstance(value, str) for value in values):
            level = np.array([*values, values[-1]], float) * 0.55 - row - 0.27
            ax.plot(range(count + 1), level, drawstyle="steps-post", color=plotting.BLUE)
            continue
        for clock, moved in enumerate((moves or {}).get(name, [])):
            if moved:
                fill = dict(fc=plotting.GREEN, alpha=0.35, lw=0)
                ax.add_patch(plt.Rectangle((clock + 0.04, -row - 0.3), 0.92, 0.6, **fill))
        first = 0
        for clock in range(1, count + 1):
            if clock == count or values[clock] != values[first]:
                word(ax, row, first, clock, values[first])
                first = clock
    return fig


def word(ax: Axes, row: int, first: int, end: int, text: str) -> None:
    """A word that stays from the clock ``first`` to before ``end``."""
    ax.text((first + end) / 2, -row, text, ha="center", va="center", fontsize=8)
    if text not in ("", "…"):
        outline = plt.Rectangle((first + 0.04, -row - 0.3), end - first - 0.08, 0.6)
        outline.set(fill=False, ec=plotting.GREY)
        ax.add_patch(outline)
