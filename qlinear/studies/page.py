"""The report of a study as one HTML page that loads nothing."""

import io
import re
from collections.abc import Sequence
from html import escape

from qlinear.errors import printable
from qlinear.studies.report import (
    EXPLAINED,
    KEY_NAMES,
    SECTIONS,
    Series,
    exact_shares,
    head,
    measure_of,
    measured,
    most_sensitive,
    percent,
    points,
    readings,
    score,
    sensitivity,
    series,
)
from qlinear.studies.settings import ALL_BUT, ALONE, Setting
from qlinear.studies.study import Plan, Row

# mid-tones that stand out on white and on near-black, from the palette of Okabe and Ito (2008)
TEXT = ' class="text"'
TEXTS = "why", "what"  # columns that hold text
COLOURS = "#3b8bc8", "#d5711e", "#1e9e77", "#c06a9c", "#808080", "#a08a00"
STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto;
  padding: 0 1rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
h3 { font-size: 1.05rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; white-space: nowrap; } td { white-space: nowrap; }
th.text, td.text { text-align: left; }
td.text { white-space: normal; min-width: 12rem; overflow-wrap: anywhere; }
tr.loss td { background: var(--soft); }
figure { margin: 1rem 0; overflow-x: auto; }
figure svg { max-width: 100%; min-width: 32rem; height: auto; }
summary { cursor: pointer; padding: .4rem 0; }
figcaption, .small { font-size: .9rem; opacity: .85; }
code { overflow-wrap: anywhere; }
"""


def html(plan: Plan, rows: Sequence[Row]) -> str:
    """The page."""
    name = plan.network.file.path.name
    parts = [_h(1, f"A hardware study of {name}"), *map(_p, head(plan, rows))]
    if figures() is None:
        parts.append(
            _p("Figures need Matplotlib (pip install 'qlinear[study]'), and it was missing.")
        )
    parts += [_network(plan)]
    for section in SECTIONS:
        if members := measured(rows, section):
            parts += _section(plan, rows, section, members)
    parts += _sensitivities(plan, rows)
    parts += [_provenance(plan)]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{_e(f"Hardware study: {name}")}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _e(text: object) -> str:
    return escape(printable(str(text)))


def _h(level: int, text: str) -> str:
    return f"<h{level}>{_e(text)}</h{level}>"


def _p(text: str) -> str:
    return f"<p>{_e(text)}</p>"


def _table(
    head: Sequence[str], rows: Sequence[Sequence[object]], marked: Sequence[bool] = ()
) -> str:
    """A table of numbers; the first column and :data:`TEXTS` hold text."""
    lines = [
        "<tr>"
        + "".join(f'<th scope="col"{TEXT if h in TEXTS else ""}>{_e(h)}</th>' for h in head)
        + "</tr>"
    ]
    for i, row in enumerate(rows):
        kind = ' class="loss"' if marked and marked[i] else ""
        cells = "".join(
            f"<td{TEXT if head[k] in TEXTS else ''}>{_e(v)}</td>" for k, v in enumerate(row)
        )
        lines.append(f"<tr{kind}>{cells}</tr>")
    table = f"<table><thead>{lines[0]}</thead><tbody>{''.join(lines[1:])}</tbody></table>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="Table">{table}</div>'


def _network(plan: Plan) -> str:
    facts = plan.facts
    rows = [(name, kind, facts["proven_bits"][name]) for name, kind in facts["layers"].items()]
    parts = [
        _h(2, "What varies"),
        _p(
            f"{len(rows)} layers vary. Beside each, the bits of an accumulator that no input can "
            "pass, computed from its weights."
        ),
        _table(["layer", "operator", "bits, proven"], rows),
    ]
    left = list(facts["left"].items())
    if left:
        parts += [_p("Left as they are:"), _table(["node", "why"], left)]
    if facts["float"]:
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(facts["float"].items()))
        parts.append(_p(f"Float nodes, computed by ONNX Runtime: {kinds}."))
    if facts["exact"]:
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(facts["exact"].items()))
        parts.append(
            _p(
                f"Other nodes, computed by the reference: {kinds}. In every setting their "
                "arithmetic is exact; where activations have fewer bits, so have their 8-bit "
                "results."
            )
        )
    if "DynamicQuantizeLinear" in facts["exact"] | facts["float"]:
        many = plan.job.runs or plan.batch
        parts.append(
            _p(
                f"DynamicQuantizeLinear takes its range from all images of a run, up to {many:,}: "
                "the numbers depend on --batch."
            )
        )
    if facts["activations_left"]:
        names = ", ".join(facts["activations_left"])
        parts.append(_p(f"8-bit tensors that keep their bits in every setting, of: {names}."))
    return "\n".join(parts)


def _section(plan: Plan, rows: Sequence[Row], section: str, members: list[Row]) -> list[str]:
    labelled, measure = plan.data.labels is not None, measure_of(plan)
    parts = [_h(2, SECTIONS[section]), _p(EXPLAINED[section])]
    lines = series(rows, section, labelled)
    if said := readings(rows, section, labelled):
        parts.append(f"<ul>{''.join(f'<li>{_e(sentence)}</li>' for sentence in said)}</ul>")
    for key in dict.fromkeys(line.key for line in lines):
        some = [line for line in lines if line.key == key]
        if drawing := _lines(some, measure):
            caption = f"{measure} against {KEY_NAMES[key]}; bars: two standard errors to either "
            parts.append(
                _figure(drawing, f"{caption}side. Dotted: the exact network on the same images.")
            )
    scores = [score(row.counts, labelled) for row in members]
    table = [
        (row.setting.title, f"{it.images:,}", percent(it.share), f"{100 * it.error:.2f}",
         points(it), f"{it.changed:,}")
        for row, it in zip(members, scores, strict=True)
    ]  # fmt: skip
    head = ["setting", "images", measure, "± points", "against exact, points", "images changed"]
    parts.append(_table(head, table, [it.loses for it in scores]))
    chips = _chips(members, labelled)
    if chips:
        parts += [_p("Over chips, that is seeds, alike in all else:"), chips]
    left = {name: why for row in members for name, why in row.left.items()}
    if left:
        parts += [_p("Layers that some of these settings leave exact:"),
                  _table(["layer", "why"], list(left.items()))]  # fmt: skip
    changed = [row for row in members if row.differing]
    if changed:
        many = f"at most the first {_rounded(plan):,} images"
        parts += [
            "<details><summary>Elements changed, layer by layer</summary>",
            _p(f"Percent of a layer’s output elements that differ from the exact ones, on {many}; "
               "each layer on exact inputs."),
            _elements(plan, changed),
            "</details>",
        ]  # fmt: skip
    return parts


def _elements(plan: Plan, rows: list[Row]) -> str:
    names = [name for name in plan.facts["layers"] if any(name in row.differing for row in rows)]
    table = [
        [row.setting.title, *(_share(row.differing.get(name)) for name in names)] for row in rows
    ]
    return _table(["setting", *names], table)


def _rounded(plan: Plan) -> int:
    """On how many images elements are counted: whole batches."""
    return min(-(-plan.compared // plan.batch) * plan.batch, plan.images)


def _share(count: list[int] | None) -> str:
    if count is None:
        return "–"
    wrong, total = count
    if not wrong:
        return "0"
    share = 100 * wrong / total
    return f"{share:.2f}" if share >= 0.01 else "<0.01"


def _chips(rows: list[Row], labelled: bool) -> str:
    """Mean, least and greatest share of settings that differ in their seed alone."""
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        s = row.setting
        plain = Setting(s.section, tuple((k, v) for k, v in s.values if k != "seed"), s.images)
        groups.setdefault((plain.title, s.images), []).append(score(row.counts, labelled).share)
    several = [
        (title, len(v), percent(sum(v) / len(v)), percent(min(v)), percent(max(v)))
        for (title, _), v in groups.items()
        if len(v) > 1
    ]
    return _table(["setting", "chips", "mean", "least", "greatest"], several) if several else ""


def _sensitivities(plan: Plan, rows: Sequence[Row]) -> list[str]:
    labelled, measure = plan.data.labels is not None, measure_of(plan)
    found = sensitivity(rows)
    if not found:
        return []
    parts = [
        _h(2, "Sensitivity"),
        _p("One layer alone under a setting, the others exact; and all layers but that one. Where "
           "the loss alone is large, the layer is what needs care."),
    ]  # fmt: skip
    for setting, modes in found.items():
        title = f"{SECTIONS[setting.section]}: {setting.title}"
        parts += [_h(3, title), _p(most_sensitive(modes, labelled))]
        by_layer = {mode: {r.setting.layer: score(r.counts, labelled) for r in members}
                    for mode, members in modes.items()}  # fmt: skip
        moved = any(it.changed for scores in by_layer.values() for it in scores.values())
        if moved and (drawing := _dots(by_layer, measure)):
            caption = f"{measure}, in points from the exact network’s; bars: two paired standard "
            parts.append(_figure(drawing, f"{caption}errors to either side."))
        images = next(iter(by_layer[ALONE].values())).images
        fixed = {r.setting.layer for r in modes[ALONE] if r.left}
        table = [
            (
                f"{name} (exact in any case)" if name in fixed else name,
                points(it),
                f"{it.changed:,}",
                *_others(by_layer.get(ALL_BUT, {}).get(name)),
            )
            for name, it in by_layer[ALONE].items()
        ]
        parts.append("<details><summary>As a table</summary>")
        parts.append(_table(["layer", "alone, points", "images changed", "all but it, points",
                             "images changed"], table))  # fmt: skip
        parts.append(f'<p class="small">{_e(f"On the first {images:,} images.")}</p></details>')
    return parts


def _others(it) -> tuple[str, str]:
    return ("", "") if it is None else (points(it), f"{it.changed:,}")


def _provenance(plan: Plan) -> str:
    rows = [("model file", plan.network.file.path.name)]
    for name, value in plan.header.items():
        values = value.items() if isinstance(value, dict) else [(name, value)]
        rows += [(key if key != "model" else "model, SHA-256", v) for key, v in values]
    rows = [("data, SHA-256", v) if k == "data" else (k, v) for k, v in rows]
    borrowed = plan.facts["float"] or plan.facts["left"]
    floats = (
        " What this network leaves to ONNX Runtime may be other on another machine, where it is "
        "float."
    )
    return "\n".join(
        [
            _h(2, "What it rests on"),
            _p("results.json has every count, results.csv every row. The counts of noise-free "
               "settings are sums of integers, alike on every machine; where cells or conversions "
               "have errors, sums are floats, and another BLAS may round them otherwise."
               + (floats if borrowed else "")),
            _table(["", "what"], rows),
        ]
    )  # fmt: skip


# --- figures


def figures():
    """Matplotlib, drawing into text only; None where it is missing."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return None
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "qlinear"
    return Figure


def _axes(width: float, height: float):
    fig = figures()(figsize=(width, height), layout="constrained")
    ax = fig.add_subplot()
    ax.grid(alpha=0.35, color="#808080")
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return fig, ax


def _svg(fig, alt: str) -> str:
    """A figure as SVG that takes the page's colour of text."""
    out = io.StringIO()
    fig.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = text.replace("#000000", "currentColor")
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px sans-serif", text)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{_e(alt)}" fill="currentColor" '
                        'stroke-linejoin="round" ', 1)  # fmt: skip
    return re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)


def _figure(svg: str, caption: str) -> str:
    caption = caption[:1].upper() + caption[1:]
    return f'<figure tabindex="0">{svg}<figcaption>{_e(caption)}</figcaption></figure>'


def _lines(some: list[Series], measure: str) -> str:
    if figures() is None:
        return ""
    fig, ax = _axes(7.2, 4)
    for i, line in enumerate(some):
        x = [value for value, _ in line.points]
        y = [100 * it.share for _, it in line.points]
        bars = [200 * it.error for _, it in line.points]
        marker = "osD^vX"[i % 6]
        ax.errorbar(x, y, bars, marker=marker, ms=4, lw=1.5, capsize=2, label=line.name,
                    color=COLOURS[i % len(COLOURS)])  # fmt: skip
    for level in exact_shares(some):
        ax.axhline(100 * level, ls=":", lw=1, color="#808080")
    key = some[0].key
    values = sorted({value for line in some for value, _ in line.points})
    ax.set(xlabel=KEY_NAMES[key], ylabel=f"{measure}, %", ylim=(-3, 103))
    ax.set_xticks(values, [str(v) for v in values])
    columns = 2 if max(len(line.name) for line in some) <= 45 else 1  # above, clear of the bars
    ax.legend(frameon=False, fontsize=8, ncols=columns, loc="lower left", bbox_to_anchor=(0, 1))
    said = "; ".join(
        f"{line.name}: " + ", ".join(f"{v}: {100 * it.share:.1f}%" for v, it in line.points)
        for line in some
    )
    return _svg(fig, f"{measure} against {KEY_NAMES[key]}. {said}")


def _short(name: str) -> str:
    """A name beside an axis: of a long one its two ends."""
    name = printable(name)
    return name if len(name) <= 40 else f"{name[:19]}…{name[-20:]}"


def _dots(by_layer: dict, measure: str) -> str:
    if figures() is None:
        return ""
    names = list(by_layer[ALONE])
    fig, ax = _axes(7.2, 1.1 + 0.32 * len(names))
    for k, (mode, scores) in enumerate(by_layer.items()):
        y = [len(names) - 1 - names.index(name) + 0.12 * (1 - 2 * k) for name in scores]
        x = [100 * it.difference for it in scores.values()]
        bars = [200 * it.difference_error for it in scores.values()]
        ax.errorbar(x, y, xerr=bars, fmt="os"[k], ms=5, capsize=2, lw=1, color=COLOURS[k],
                    label="this layer alone" if mode == ALONE else "all but it")  # fmt: skip
    ax.axvline(0, ls=":", lw=1, color="#808080")
    ax.set_yticks(range(len(names)), [_short(n).replace("$", r"\$") for n in reversed(names)])
    ax.tick_params(axis="y", labelsize=8)
    ax.set(xlabel=f"{measure}, points from the exact network’s", ylim=(-0.6, len(names) - 0.4))
    ax.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    said = "; ".join(f"{name}: {100 * it.difference:.1f}" for name, it in by_layer[ALONE].items())
    return _svg(fig, f"Each layer alone, points from the exact network's {measure}. {said}")
