"""The book's one figure style, set on import, and how figures are shown in any viewer."""

import io
import re

import matplotlib
from IPython.display import Markdown, display
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Mid-tones of the palette of Okabe and Ito (2008): at least 3:1 on white and on near-black
BLUE, ORANGE, GREEN, PINK, GREY = "#3b8bc8", "#d5711e", "#1e9e77", "#c06a9c", "#808080"
STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.prop_cycle": matplotlib.cycler(color=[BLUE, ORANGE, GREEN, PINK, GREY]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.figsize": (5.2, 3.4),
    "font.size": 10,
    "grid.alpha": 0.35,
    "grid.color": GREY,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "qlinear",
}


matplotlib.rcParams.update(STYLE)


class Picture:
    """A figure as SVG, PNG and alternative text.

    A viewer that cleans what it shows (of a notebook that is not trusted, or a repository's
    preview) takes the picture, but would take an SVG in HTML apart. The site puts the SVG itself
    into the page.
    """

    def __init__(self, svg: str, png: bytes, alt: str):
        self.svg, self.png, self.alt = svg, png, alt

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        # VS Code takes the text as the PNG's alternative text
        return {"image/svg+xml": self.svg, "image/png": self.png, "text/plain": repr(self)}, {}

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"


def picture(fig: Figure, alt: str) -> Picture:
    """Turn a figure into a :class:`Picture` and close it.

    Args:
        fig: made by ``plt.subplots`` after this module was imported.
        alt: what the figure shows, for readers who do not see it.
    """
    out, dots = io.StringIO(), io.BytesIO()
    fig.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    fig.savefig(dots, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    plt.close(fig)
    svg = out.getvalue()[out.getvalue().index("<svg") :]
    width = float(re.search(r'width="([\d.]+)pt"', svg)[1]) * 1.6
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    height = width * float(box[2]) / float(box[1])
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    # inside a page a <style> would reach beyond the figure, and the ids of groups would repeat
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    # a hundredth of a point is seen by nobody, and pages get lighter
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    svg = svg.replace("#000000", "currentColor")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px sans-serif", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: sans-serif", svg)
    escaped = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    root = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        # the ground is for notebooks in a dark theme, where text is black; the site leaves it out
        f'{box[0]} width="{width:.0f}" height="{height:.0f}" style="background:white" '
        f'role="img" aria-label="{escaped}" fill="currentColor" stroke-linejoin="round">'
    )
    svg = re.sub(r"<svg[^>]*>", root, svg, count=1)
    return Picture(re.sub(r"\n\s*", "\n", svg), dots.getvalue(), alt)


def show(fig: Figure, *, figure: str, caption: str, alt: str, mark: Markdown | None = None) -> None:
    """Show a figure with its number and caption below it.

    Args:
        fig: made by ``plt.subplots`` after this module was imported; it is closed.
        figure: its number, the chapter's and its own, such as "2.3"; a link to it ends in
            ``#figure-2-3``.
        caption: what to see in it, for everybody; Markdown, one paragraph.
        alt: what it shows, for readers who do not see it.
        mark: for recorded numbers, what ``tools.chapter.record`` returned beside them.
    """
    if mark:
        display(mark)
    display(picture(fig, " ".join(alt.split())))
    display(Markdown(f"**Figure {figure}.** {' '.join(caption.split())}"))


# --- schematic drawings: boxes and wires, in the coordinates of the axes


def canvas(width: float, height: float, unit: float = 0.5) -> tuple[Figure, Axes]:
    """Empty axes of ``width`` by ``height`` units, without ticks; a unit is ``unit`` inches."""
    fig, ax = plt.subplots(figsize=(width * unit, height * unit))
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.set_axis_off()
    return fig, ax


def box(ax: Axes, x: float, y: float, text: str, *, w=2.0, h=1.0, color=GREY) -> None:
    """A box with its centre at (x, y) and a text in it."""
    outline = plt.Rectangle((x - w / 2, y - h / 2), w, h, fc=color, alpha=0.18, lw=0)
    ax.add_patch(outline)
    ax.add_patch(plt.Rectangle((x - w / 2, y - h / 2), w, h, fill=False, ec=color, lw=1.2))
    ax.text(x, y, text, ha="center", va="center", fontsize=9)


def wire(ax: Axes, *points: tuple[float, float], text: str = "", color=GREY, arrow=True) -> None:
    """A line through points, an arrow at its end, and a text above the middle of its first leg."""
    xs, ys = zip(*points, strict=True)
    ax.plot(xs, ys, color=color, lw=1.2, solid_joinstyle="miter")
    if arrow:
        end = dict(arrowstyle="-|>", color=color, lw=1.2, shrinkA=0, shrinkB=0)
        ax.annotate("", points[-1], points[-2], arrowprops=end)
    if text:
        (x0, y0), (x1, y1) = points[:2]
        ax.text((x0 + x1) / 2, (y0 + y1) / 2 + 0.08, text, ha="center", va="bottom", fontsize=8)
