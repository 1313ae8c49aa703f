"""A diagnosis as text for a terminal, and as a page with heat maps and the explorer."""

import shlex
import textwrap
from collections.abc import Sequence
from html import escape
from urllib.parse import urlencode

import numpy as np

from qlinear import explore
from qlinear.describe import table
from qlinear.diagnose import (
    EQUAL,
    EXPLAINED,
    FLIPS,
    PARTLY,
    Explanation,
    Report,
    but_the_commonest,
    differences,
    picture,
    steps_beside,
    summary,
)
from qlinear.errors import printable
from qlinear.mistakes import CATALOGUE, OPERATORS

MOST = 5  # explanations that are shown
MAPS = 64  # channels in a page
# fmt: off
STYLE = """<style>
.diagnosis pre { overflow-x: auto; line-height: 1.35; }
.diagnosis .maps { display: flex; flex-wrap: wrap; gap: 0.75rem; }
.diagnosis figure { margin: 0; }
.diagnosis img { image-rendering: pixelated; min-width: 8rem; max-width: 100%; height: auto; }
.diagnosis figcaption { font-size: 0.85rem; }
</style>"""
# fmt: on


def text(report: Report) -> str:
    """The whole report; the last line is the verdict."""
    parts = [_head(report)]
    if report.first is not None:
        parts += [_amount(report), _reasons(report), _worked(report)]
    parts += [[f"note: {note}" for note in report.notes], [verdict(report)]]
    # each line is escaped by itself: a name may hold a line break
    return "\n\n".join("\n".join(map(printable, lines)) for lines in parts if lines)


def verdict(report: Report) -> str:
    """One line: the verdict, and what it rests on."""
    first = report.first
    if first is None:
        elements = sum(tensor.elements for tensor in report.tensors)
        count = len(report.tensors)
        forms = dict.fromkeys(t.form for each in report.tensors for t in each.targets if t.form)
        what = f" ({'; '.join(forms)})" if forms else ""
        what = f"{elements:,} elements of {count} tensor{_s(count)} are ONNX Runtime's{what}"
        return f"{EQUAL}: {what}"
    best = report.equal[0] if report.equal else None
    total = first.mismatches
    if report.verdict == EXPLAINED:
        others = len(report.equal) - 1
        alike = f", and so {'do' if others > 1 else 'does'} {others} other{_s(others)}"
        verb = "explain" if len(best.steps) > 1 else "explains"
        said = f"{_with_variants(best)} {verb} {_all(total)}"
        return f"{EXPLAINED}: {said}{alike * bool(others)}"
    if report.another:
        return (
            f"{report.verdict}: no mistake that is known explains {_all(total)}, but the dump is "
            f"ONNX Runtime's {report.another}, all of it: is the name right?"
        )
    if report.verdict == FLIPS:
        return f"{FLIPS}: {report.chance}; no mistake that is known explains them"
    if report.verdict == PARTLY:
        rest = "no mistake that is known, and no two that were tried, explain all"
        if report.chance:
            rest = f"what is left looks like random flips: {report.chance}"
        verb = "leave" if len(best.steps) > 1 else "leaves"
        said = f"{_with_variants(best)} {verb} {best.unexplained:,} of {total:,} mismatches"
        return f"{PARTLY}: {said}; {rest}"
    if all(target.constant for target in first.targets):
        held = first.differs.reading.values.flat[0]
        return (
            f"{report.verdict}: every element is {held}: was it ever written? A dump of one value "
            "tells no mistakes apart"
        )
    others = sum(but_the_commonest(target.reading.values) for target in first.targets)
    if best and best.unexplained >= others and others < total:
        return (
            f"{report.verdict}: no mistake that is known explains more of the {total:,} mismatches "
            "than a tensor of one value does"
        )
    explained = total - best.unexplained if best else 0
    most = f"more than {explained:,}" if explained else "any"
    rest = f"{most} of the {total:,} mismatches" if total > 1 else "the one mismatch"
    return f"{report.verdict}: no mistake that is known explains {rest}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _title(each: Explanation) -> str:
    return f"{each.name} ({each.variant})" if each.variant else each.name


def _all(count: int) -> str:
    return f"all {count:,} mismatches" if count > 1 else "the one mismatch"


def _with_variants(each: Explanation) -> str:
    """The title, and how many variants besides the one that it names do as well."""
    more = len(each.variants) - 1
    if not more:
        return _title(each)
    others = f"{more} other variant{_s(more)}"
    return f"{each.name} ({each.variant}, or {others})" if each.variant else _title(each)


def _head(report: Report) -> list[str]:
    lines = [f"{report.network.file.path}, fed with {report.feed.source}"]
    for tensor in report.tensors[:8]:
        files = ", ".join(str(target.dump.path) for target in tensor.targets)
        shape = "x".join(map(str, tensor.targets[0].expected.shape))
        what = f"{tensor.node.operator} {tensor.node.name}, {shape}"
        lines.append(f"{files}: {tensor.name} ({what})")
    if len(report.tensors) > 8:
        lines.append(f"and {len(report.tensors) - 8} tensors more")
    return lines


def _amount(report: Report) -> list[str]:
    first, target = report.first, report.first.differs
    count = int(np.count_nonzero(target.wrong))
    at = report.at
    lines = [f"first tensor that differs: {first.name}"]
    if target.form:
        lines[0] += f", its accumulators ({target.form})"
    before = [t for t in report.tensors if t.index < first.index]
    if before:
        lines.append(f"  {len(before)} tensor{_s(len(before))} of the dump before it: equal")
    counts = summary([t for t in report.tensors if t.index > first.index])
    said = {"equal": "equal", "follow": "follow from it: ONNX Runtime makes them of the dump's own",
            "own": "differ by themselves too", "differ": "differ"}  # fmt: skip
    lines += [f"  {counts[kind]} after it {text}" for kind, text in said.items() if counts[kind]]
    lines.append(
        f"how much: {count:,} of {target.wrong.size:,} elements; first at {list(at)}: "
        f"{target.reading.values[at]}, ONNX Runtime {target.expected[at]}"
    )
    by = differences(target)
    if by:
        shown = ", ".join(f"{step} in {n:,}" for step, n in list(by.items())[:6])
        more = f", and {len(by) - 6} other differences" if len(by) > 6 else ""
        lines.append(f"by: {shown}{more}")
    lines.append("where:" if report.where else "where: in no one kind of place alone")
    lines += [f"  {place}" for place in report.where[:6]]
    shown, rows = picture(target.wrong)
    if rows:
        lines += [f"  {shown}:", *(f"    {row}" for row in rows)]
    return lines


def _reasons(report: Report) -> list[str]:
    tried = report.tried
    total = report.first.mismatches
    lines = ["which mistake:"]
    if not tried.explanations:
        lines.append("  none of those that are known leaves fewer mismatches")
    for each in tried.explanations[: max(MOST, min(len(report.equal), 12))]:
        left = (
            "explains all" if not each.unexplained else f"leaves {each.unexplained:,} of {total:,}"
        )
        lines.append(f"  {_title(each)}: {left}")
        if each in report.equal[:MOST] or each is tried.explanations[0]:
            others = [label for label in each.variants[1:] if label]
            if others:
                some = "; ".join(others[:4]) + (f"; and {len(others) - 4} more" * (len(others) > 4))
                lines.append(f"    as well: {some}")
            lines += [f"  {line}" for line in _wrapped(each.sentence)]
            lines += [f"    book: {mistake.section}" for mistake, _ in each.steps]
            lines += [f"    seen: {m.source}" for m, _ in each.steps if m.source]
    if len(report.equal) > 1 and report.verdict == EXPLAINED:
        names = "; ".join(each.name for each in report.equal)
        lines += _wrapped(f"{len(report.equal)} explain the dump alike: {names}")
        if report.apart:
            gives = "; ".join(f"{value} by {name}" for name, value in report.apart.gives.items())
            lines += _wrapped(f"what would tell them apart: {report.apart.where}: {gives}")
        else:
            lines.append("  no input that was tried tells them apart: they may be one function")
    names = [m.name for m in CATALOGUE]
    kinds = {m.name: m.kind for m in CATALOGUE}
    known = len(names) - len(tried.elsewhere)
    lines += [
        f"tried: {tried.designs:,} designs, {tried.pairs:,} of them with two mistakes",
        f"  {known} mistakes are known that this layer could have "
        f"({OPERATORS[type(report.design.first)]})",
    ]
    if tried.sampled:
        lines += _wrapped(
            f"the layer is large: {tried.sampled:,} of them were left by what they explain of a "
            "sample of its positions, so that excluded means on the sample"
        )
    unsolved = report.verdict != EXPLAINED
    for said, found in (("excluded", tried.excluded), ("not visible here", tried.invisible)):
        if found:
            listed = _by_kind(found, kinds) if unsolved else "--json lists them"
            lines += _wrapped(f"{said}: {len(found)} mistakes: {listed}")
    return lines


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, 100, initial_indent="  ", subsequent_indent="    ")


def _by_kind(names: Sequence[str], kinds: dict[str, str]) -> str:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(kinds[name], []).append(name)
    return "; ".join(f"{kind}: {', '.join(each)}" for kind, each in found.items())


def _worked(report: Report) -> list[str]:
    if report.element is None:
        return []
    place = f"{report.first.name}{list(report.at)}"
    title = f"the first element that differs, {place}:"
    given = f"--node {shlex.quote(report.first.name)} --at {','.join(map(str, report.at))}"
    terms = len(next(iter(report.element.terms.values()), ()))
    more = (
        f"its {terms} terms: qlinear explain {report.network.file.path} {given}, on the same input"
    )
    return [title, *table(steps_beside(report)).split("\n"), *([more] if terms else [])]


# --- the page


def html(report: Report) -> str:
    """One page: the report, the mismatches as heat maps, and the explorer at the first of them."""
    title = f"{report.network.file.path.name}: a diagnosis"
    above = f'{STYLE}<section class="diagnosis"><pre>{escape(text(report))}</pre>'
    above += f"{_maps(report)}</section>" if report.first is not None else "</section>"
    node = report.first.node if report.first is not None else report.tensors[0].node
    run = explore.Run(report.values, report.feed.source, arguments=None)
    data = explore.page_data(report.network, [run], only=[node])
    notes = ["The explorer shows ONNX Runtime's values of the node, not the dump's."]
    return explore.html(data, title=printable(title), start=_start(report, data), notes=notes,
                        above=above)  # fmt: skip


def _start(report: Report, data: dict) -> str:
    """The first element that differs, as the explorer's address names it."""
    if report.first is None or len(report.at) < 2:
        return ""
    listed = report.network.graph.nodes.index(report.first.node)
    n, channel, *position = report.at
    y, x = ([0, 0, *position])[-2:]
    layer = data["nodes"][listed]["name"]
    return urlencode({"layer": layer, "n": n, "channel": channel, "y": y, "x": x})


def _maps(report: Report) -> str:
    """A heat map for each channel with mismatches: ONNX Runtime's values grey, mismatches red."""
    target = report.first.differs
    if target.wrong.ndim < 3:
        return ""
    wrong = target.wrong.reshape(*target.wrong.shape[:2], -1, target.wrong.shape[-1])
    values = target.expected.reshape(wrong.shape).astype(np.float64)
    low, high = np.nanmin(values), np.nanmax(values)
    counts = wrong.sum(axis=(2, 3))
    order = np.argsort(-counts, axis=None, kind="stable")
    figures = []
    for flat in order[:MAPS]:
        n, c = np.unravel_index(int(flat), counts.shape)
        if not counts[n, c]:
            break
        grey = np.nan_to_num((values[n, c] - low) * (200 / (high - low or 1)))
        pixels = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        pixels[wrong[n, c]] = (255, 60, 40)
        name = f"channel {c}" + (f", image {n}" if wrong.shape[0] > 1 else "")
        said = f"{name}: {int(counts[n, c]):,} mismatches"
        image = f'alt="{said}, red" src="{explore.png(pixels)}" width="{4 * pixels.shape[1]}"'
        figures.append(f"<figure><img {image}><figcaption>{said}</figcaption></figure>")
    some = np.count_nonzero(counts)
    what = (
        f"Mismatches in red, in {min(int(some), MAPS)} of the {int(some)} channels that have any."
    )
    return f'<p>{what}</p><div class="maps">{"".join(figures)}</div>'
