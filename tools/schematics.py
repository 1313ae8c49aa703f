"""Drawings of a convolution: its datapath, and a window on the padded input."""

from itertools import product

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tools import plotting
from tools.chapter import cell_text


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
