"""The book's one figure style, set on import: SVG that takes its text colour from the page."""

import io
import re

import matplotlib
from matplotlib import pyplot as plt
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
    """A figure as inline SVG with alternative text, for Jupyter and for the book."""

    def __init__(self, svg: str, alt: str):
        self.svg, self.alt = svg, alt

    def _repr_html_(self) -> str:
        return f'<div class="picture">{self.svg}</div>'

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"


def show(fig: Figure, alt: str) -> Picture:
    """Turn a figure into a :class:`Picture` and close it.

    Args:
        fig: made by ``plt.subplots`` after this module was imported.
        alt: what the figure shows, for readers who do not see it.
    """
    out = io.StringIO()
    fig.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    plt.close(fig)
    svg = out.getvalue()[out.getvalue().index("<svg") :]
    width = float(re.search(r'width="([\d.]+)pt"', svg)[1])
    box = re.search(r'viewBox="[^"]*"', svg)[0]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    # inside a page a <style> would reach beyond the figure, and the ids of groups would repeat
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    # a hundredth of a point is seen by nobody, and pages get lighter
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    svg = svg.replace("#000000", "currentColor")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px sans-serif", svg)
    alt = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    root = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{box} role="img" aria-label="{alt}" fill="currentColor" stroke-linejoin="round" '
        f'style="width:100%;max-width:{width * 1.6:.0f}px;height:auto">'
    )
    svg = re.sub(r"<svg[^>]*>", root, svg, count=1)
    return Picture(re.sub(r"\n\s*", "\n", svg), alt)
