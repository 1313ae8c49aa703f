"""What a study found: rows with standard errors, as CSV, as JSON and in sentences.

Standard errors are binomial, for one share; for the difference to the exact network on the same
images they are paired: only images count whose answer changes. A loss is called clear where an
exact test agrees with them, the sign test, since errors of few images are no normal ones. All of
this is of the images alone, as drawn at random from those of the task; it knows nothing of other
chips, or of another training.
"""

import csv
import functools
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from pathlib import Path

from qlinear.errors import printable
from qlinear.studies.measure import COUNTS
from qlinear.studies.settings import ALL_BUT, ALONE, FILES, Setting
from qlinear.studies.study import Plan, Row

CLEAR = 2  # standard errors from which a loss is called one
NAMED = 6  # layers that a sentence names
RARE = 40  # and once in so many tries, or more rarely, a fair coin takes so many of the images


@dataclass(frozen=True)
class Score:
    """A share of the images, and how far it is from the exact network's."""

    images: int
    share: float
    error: float  # binomial standard error of the share
    difference: float  # to the exact network on the same images
    difference_error: float  # paired standard error of the difference
    changed: int  # images whose class, or output, is another
    moved: tuple[int, int]  # images that it loses, and gains

    @property
    def loses(self) -> bool:
        """Whether the loss is clear: by its standard error, and by the exact sign test."""
        far = self.difference < -CLEAR * self.difference_error and self.difference < 0
        return far and RARE * by_chance(*self.moved) <= 1


@functools.cache
def by_chance(lost: int, gained: int) -> float:
    """How likely a fair coin takes so many, or more, of the images that moved: one-sided.

    >>> by_chance(5, 0), by_chance(3, 1)
    (0.03125, 0.3125)
    """
    moved = lost + gained
    ways = found = comb(moved, lost)
    for k in range(lost, moved):
        ways = ways * (moved - k) // (k + 1)
        found += ways
    return found / (1 << moved)


def score(counts: dict[str, int], labelled: bool) -> Score:
    """Accuracy where there are labels, else agreement with the exact network."""
    n, changed = counts["images"], counts["images"] - counts["same"]
    good = counts["right"] if labelled else counts["same"]
    lost, gained = (counts["lost"], counts["gained"]) if labelled else (changed, 0)
    share, difference = good / n, (gained - lost) / n
    paired = (lost + gained) / n - difference**2
    error, paired_error = sqrt(share * (1 - share) / n), sqrt(max(paired, 0) / n)
    return Score(n, share, error, difference, paired_error, changed, (lost, gained))


def records(plan: Plan, rows: Sequence[Row]) -> list[dict]:
    """Rows as JSON has them: counts, shares and errors, settings by their keys."""
    labelled = plan.data.labels is not None
    found = []
    for row in rows:
        it = score(row.counts, labelled)
        found.append(
            {
                "section": row.setting.section,
                "setting": {k: _plain(k, v) for k, v in row.setting.values},
                "title": row.setting.title,
                **({"mode": row.setting.mode, "layer": row.setting.layer}
                   if row.setting.mode else {}),
                **{k: row.counts[k] for k in COUNTS
                   if labelled or k in ("images", "same")},
                measure_of(plan): round(it.share, 6),
                "error": round(it.error, 6),
                "difference": round(it.difference, 6),
                "difference_error": round(it.difference_error, 6),
                **({"differing": row.differing} if row.differing else {}),
                **({"left": row.left} if row.left else {}),
            }
        )  # fmt: skip
    return found


def _plain(key: str, value: object) -> object:
    return Path(str(value)).name if key == "file" else value


def measure_of(plan: Plan) -> str:
    """What a share is: ``accuracy``, or ``agreement``."""
    return "accuracy" if plan.data.labels is not None else "agreement"


def as_json(plan: Plan, rows: Sequence[Row]) -> str:
    """All of it as JSON: what it rests on, facts of the network, and :func:`records`."""
    study = {
        "study": {
            "model_file": plan.network.file.path.name,
            "data_file": Path(plan.data.name).name,
            "labels": plan.data.labels is not None,
            **plan.header,
        },
        "network": plan.facts,
        "rows": records(plan, rows),
    }
    return json.dumps(study, indent=1, allow_nan=False) + "\n"


def as_csv(plan: Plan, rows: Sequence[Row]) -> str:
    """A row a line; a setting's keys in one column, as JSON, and elements summed over layers."""
    out = io.StringIO()
    measure = measure_of(plan)
    names = ["section", "title", "setting", "mode", "layer", *COUNTS, measure, "error"]
    names += ["difference", "difference_error", "elements", "elements_differing", "left"]
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in records(plan, rows):
        sums = row.get("differing", {}).values()
        if sums:
            row |= {
                "elements_differing": sum(a for a, _ in sums),
                "elements": sum(b for _, b in sums),
            }
        row |= {"setting": json.dumps(row["setting"]), "left": len(row.get("left", {})) or ""}
        writer.writerow({k: printable(str(v)) for k, v in row.items()})
    return out.getvalue()


# --- in words


def percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f}%".replace("-", "−")


def points(it: Score) -> str:
    """The difference to the exact network, in points, with its standard error."""
    return f"{100 * it.difference:+.2f} ± {100 * it.difference_error:.2f}".replace("-", "−")


def unseen(images: int) -> float:
    """A share of images that would, in 95 of 100 draws, show at least once among so many."""
    return 1 - 0.05 ** (1 / images)


@dataclass(frozen=True)
class Series:
    """Settings that differ in one number only, the least first."""

    name: str
    key: str
    points: tuple[tuple[int, Score], ...]
    settings: tuple[Setting, ...]


LINES = {  # section: the key along a line
    "accumulators": ("bits",),
    "requantization": ("multiplier_bits",),
    "bit_widths": ("weights", "activations"),
    "analog": ("adc_bits",),
}
KEY_NAMES = {
    "bits": "bits of the accumulator",
    "multiplier_bits": "bits of the multiplier",
    "weights": "bits of the weights",
    "activations": "bits of the activations",
    "adc_bits": "bits of the converter",
}


def series(rows: Sequence[Row], section: str, labelled: bool) -> list[Series]:
    """Lines of a section: what has at least two values of one key, all else alike."""
    found = []
    for key in LINES.get(section, ()):
        groups: dict[tuple, list[Row]] = {}
        for row in rows:
            s = row.setting
            if s.section != section or s.mode or (key == "multiplier_bits" and not s[key]):
                continue
            if key not in dict(s.values) or dict(s.values).get("seed"):  # of chips the first
                continue
            rest = tuple((k, v) for k, v in s.values if k != key)
            groups.setdefault((rest, s.images), []).append(row)
        for (rest, _), members in groups.items():
            members.sort(key=lambda row: row.setting[key])
            if len(members) < 2:
                continue
            name = _name(section, key, members[0].setting, rest)
            points = tuple((m.setting[key], score(m.counts, labelled)) for m in members)
            found.append(Series(name, key, points, tuple(m.setting for m in members)))
    return found


def _name(section: str, key: str, setting: Setting, rest: tuple) -> str:
    if section == "accumulators":
        return str(setting["how"])
    if section == "requantization":
        return (
            f"rounded {setting['rounding']}" if setting["rounding"] != "truncate" else "truncated"
        )
    if section == "bit_widths":
        split = "per-channel" if setting["per_channel"] else "per-tensor"
        other = {k: v for k, v in rest if k in ("weights", "activations")}
        of = f"weights, {split}" if key == "weights" else "activations"
        return ", ".join([of, *(f"{k} of {v} bits" for k, v in other.items())])
    title = ", ".join(f"{k} {v}" for k, v in rest if k != "clip")
    clip = "steps of one count, clipping" if setting["clip"] else "coarser steps"
    return ", ".join(filter(None, [title, clip]))


def reading(line: Series, what: str) -> str:
    """A line in one sentence: where a loss is first clear, from the widest on."""
    clear = None
    for value, it in reversed(line.points):
        if it.loses:
            clear = value, it
            break
    widest, narrowest = line.points[-1], line.points[0]
    unit = KEY_NAMES[line.key].split(" of ")[0]
    if clear is None:
        value, it = narrowest
        few = all(it.images < _fewest() for _, it in line.points)
        why = (
            f"of {_images(it.images)} no loss can be clear"
            if few
            else "at no width is a loss clear"
        )
        return (
            f"{_upper(line.name)}: {why}; at {value} {unit}, the fewest, the "
            f"{what} differs by {points(it)} points from the exact network's, {_others(it)}."
        )
    value, it = clear
    better = [one for one in line.points if one[0] > value]
    if not better:
        return (
            f"{_upper(line.name)}: already at {widest[0]} {unit}, the most, {what} is lost: "
            f"{points(it)} points."
        )
    kept, same = better[0]
    return (
        f"{_upper(line.name)}: down to {kept} {unit} no loss is clear ({points(same)} points, "
        f"{_others(same)}); at {value} it is: "
        f"{points(it)} points."
    )


def _others(it: Score) -> str:
    return f"with another answer for {it.changed:,} of {it.images:,} images"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def summary(plan: Plan, rows: Sequence[Row]) -> list[str]:
    """What the study says and what that rests on, as paragraphs."""
    first, *rest, last = head(plan, rows)
    labelled = plan.data.labels is not None
    for section, name in SECTIONS.items():
        clear = readings(rows, section, labelled)
        rest += [f"{name}. {' '.join(clear)}"] if clear else []
    return [first, *rest, last]


def readings(rows: Sequence[Row], section: str, labelled: bool) -> list[str]:
    """What the lines of a section say, a sentence each."""
    what = "accuracy" if labelled else "agreement"
    return [reading(line, what) for line in series(rows, section, labelled)]


def head(plan: Plan, rows: Sequence[Row]) -> list[str]:
    """What holds for all of it, as paragraphs: the exact network, what is proven, what is not."""
    labelled, facts = plan.data.labels is not None, plan.facts
    first = rows[0]
    it = score(first.counts, labelled)
    checked = facts["checked"]
    same = (
        "equal to ONNX Runtime's"
        if not checked["differing"]
        else f"not ONNX Runtime's in {checked['differing']:,} elements"
    )
    found = [
        "The exact network, as this reference computes it, is the measure of all that follows. "
        f"Its outputs are {same} on the first {_images(checked['images'])} "
        f"({checked['elements']:,} elements compared)."
    ]
    if labelled:
        found[0] += (
            f" Its accuracy on {_images(it.images)} is {percent(it.share)}, with a standard "
            f"error of {100 * it.error:.2f} points."
        )
    else:
        found[0] += (
            " The data have no labels: the measure is agreement, the share of the images that "
            "get the exact network's answer."
        )
    proven = max(facts["proven_bits"].values())
    accumulators = [r for r in rows if r.setting.section == "accumulators" and not r.setting.mode]
    if accumulators:
        quiet = _unchanged(accumulators)
        said = "" if quiet is None else (
            f" Measured: from {quiet[0]} bits on, no image of those studied got another answer "
            f"({'; '.join(quiet[1])}). That is a fact about these images, and no "
            "proof for others."
        )  # fmt: skip
        found.append(
            f"Proven, for every input: an accumulator of {proven} bits holds each sum of the "
            f"{len(facts['layers'])} layers that vary, in any order, the bias included.{said}"
        )
    found.append(
        f"A loss is called clear when it is more than {CLEAR} of its standard errors, and when a "
        "fair coin would take as many of the images whose answer turned right or wrong at most "
        f"once in {RARE} tries: of {_fewest()} images at least. One that is not clear may still be "
        "there: " + _would_be_seen(rows, labelled)
    )
    return found


def _fewest() -> int:
    """Images lost, and none gained, from which on a loss can be clear."""
    return next(n for n in range(1, 100) if RARE * by_chance(n, 0) <= 1)


def _would_be_seen(rows: Sequence[Row], labelled: bool) -> str:
    counts = {row.counts["images"] for row in rows}
    said = [
        f"up to {percent(unseen(n))} of others may, where none of {_images(n)} changes"
        for n in sorted({min(counts), max(counts)})
    ]
    return (
        f"{'; '.join(said)} (the 95% limit of a binomial share). An error of 0.00 says no more "
        "than that: all of the images went one way."
    )


def _unchanged(rows: Sequence[Row]) -> tuple[int, list[str]] | None:
    """The least bits from which on no row has an image with another answer, and those rows' how."""
    changed = [r.setting["bits"] for r in rows if r.counts["same"] < r.counts["images"]]
    kept = [r.setting for r in rows if r.setting["bits"] > max(changed, default=0)]
    if not kept:
        return None
    found: dict[str, list[int]] = {}
    for one in sorted(kept, key=lambda s: s["bits"]):
        found.setdefault(one["how"], []).append(one["bits"])
    said = [f"{how}: at {', '.join(map(str, bits))} bits" for how, bits in found.items()]
    return min(one["bits"] for one in kept), said


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


SECTIONS = {
    "accumulators": "Accumulators",
    "requantization": "Requantizers",
    "bit_widths": "Bit widths",
    "analog": "Analog arrays",
    FILES: "Other files",
}
EXPLAINED = {
    "accumulators": "The sums of every layer that varies pass through a register of so many bits. "
    "“Wrap” and “saturate at the end” act on the exact sum with its bias; “saturate at every MAC” "
    "after each product, in the order of the weights in the file, from the bias on.",
    "requantization": "Stage 2 in integers: the sum times a multiplier of so many bits, shifted "
    "and rounded, one multiplier and shift for each output channel; “shift alone” takes the power "
    "of two nearest to the factor, on a logarithmic axis.",
    "bit_widths": "Weights of fewer bits are made of the file’s 8-bit integers: scaled so that the "
    "greatest of a channel (per-channel) or of the layer (per-tensor) is the greatest of the "
    "narrower type, and rounded, unless they fit as they are; the bias is rounded to the new "
    "scales. No float network is read: these weights are rounded twice, and what was clipped or "
    "rounded on the way to 8 bits stays lost. Nothing is trained or calibrated again, so a "
    "quantizer that starts from the float network may do better; files that one has written can "
    "be studied beside this one ([[files]] in the settings). Activations of fewer bits "
    "keep the file’s ranges: of each 8-bit tensor the multiples of a power of two are kept, "
    "rounded after the rounding to 8 bits, where hardware would round once.",
    "analog": "The layers lie on analog arrays, each group of a layer with groups on arrays of its "
    "own: a depthwise channel shares no cells and no converter with another. What a setting does "
    "not say is the default: 128 rows, cells of 2 bits, an offset of 128, inputs bit by bit, ideal "
    "cells and converters. A chip is a seed; noise is drawn anew for each seed, layer and batch. "
    "Converters with “ranges of N images” resolve the greatest count of the first N images, or of "
    "all if they are fewer, in the layer, whatever the group; these are measured too.",
    FILES: "Other files for the same inputs, each computed by the reference, and by ONNX Runtime "
    "what that does not compute. “Saturated to N bits”: every int8 tensor that a node writes is "
    "clipped to the integers of N bits.",
}


def sensitivity(rows: Sequence[Row]) -> dict[Setting, dict[str, list[Row]]]:
    """Rows of single layers by setting, as it is for all layers, then by mode."""
    found: dict[Setting, dict[str, list[Row]]] = {}
    for row in rows:
        s = row.setting
        if s.mode:
            whole = Setting(s.section, s.values, s.images)
            found.setdefault(whole, {}).setdefault(s.mode, []).append(row)
    return found


def most_sensitive(modes: dict[str, list[Row]], labelled: bool) -> str:
    """Which layer costs most alone, and which gives most back."""
    said = []
    for mode, members in modes.items():
        by_loss = sorted(members, key=lambda row: score(row.counts, labelled).difference)
        row = by_loss[0] if mode == ALONE else by_loss[-1]
        it = score(row.counts, labelled)
        alike = [r.setting.layer for r in by_loss
                 if score(r.counts, labelled).difference == it.difference]  # fmt: skip
        layer = alike[0] + (f" (and as much {', '.join(alike[1:])})" if alike[1:] else "")
        if len(alike) > NAMED:
            layer = f"any of {len(alike)} layers (see the table)"
        if mode == ALONE and it.difference >= 0:
            said.append("Alone, no layer loses anything.")
        elif mode == ALL_BUT and len(alike) == len(members):
            said.append(
                f"Whichever layer is left exact, the loss is the same: {points(it)} points."
            )
        elif mode == ALONE:
            clear = "" if it.loses else ", which is no clear loss"
            said.append(f"Alone, {layer} costs most: {points(it)} points{clear}.")
        else:
            said.append(f"With {layer} left exact most is kept: {points(it)} points.")
    return " ".join(said)


def measured(rows: Iterable[Row], section: str) -> list[Row]:
    """Rows of a section with all layers."""
    return [row for row in rows if row.setting.section == section and not row.setting.mode]


def exact_shares(lines: Iterable[Series]) -> list[float]:
    """The exact network's share, on the images of each line: lines may be of different ones."""
    scores = [it for line in lines for _, it in line.points]
    return sorted({round(it.share - it.difference, 6) for it in scores})
