"""Off by one, why? A dump of hardware beside ONNX Runtime: where they differ, and by which mistake.

:func:`diagnose` compares the tensors of a dump with ONNX Runtime's, in the graph's order. Of the
first that differs it says how much and where (:func:`places`), tries every mistake of the
catalogue (:mod:`qlinear.mistakes`) on the layer and counts what each leaves unexplained
(:func:`explain`), and works out the first element that differs (:mod:`qlinear.elements`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qlinear import edges, elements, explore, oracle, ort
from qlinear.designs import Design, Fixed, Pair, Pool, Real, Sum, design_of, shifted
from qlinear.dumps import Dump, Reading
from qlinear.errors import Refused, UnusableInput
from qlinear.fuse import Network
from qlinear.inputs import Feed
from qlinear.mistakes import CATALOGUE, OUT, Mistake
from qlinear.onnx_model import Model, Node
from qlinear.quantized import reads

EQUAL, EXPLAINED, PARTLY, FLIPS, UNEXPLAINED = (
    "EQUAL", "EXPLAINED", "PARTLY EXPLAINED", "RANDOM FLIPS", "UNEXPLAINED",
)  # fmt: skip
STATUS = {EQUAL: 0, EXPLAINED: 1, PARTLY: 1, FLIPS: 1, UNEXPLAINED: 1}
SEEDS = 3  # mistakes on top of which others are tried, chosen by what they leave; as many by shape
SAMPLE = 128  # positions of a large layer at which a design is tried first
MOST_LEFT = 0.8  # of the mismatches, what explains in part may leave at most
FEW = 16  # elements that may well be equal by chance
WORTH = 0.8  # of what one mistake leaves of a sample, two may leave at most to be computed whole
SLOW = ("accumulator saturates at every product", "accumulator saturates after tiles",
        "pairs saturate at 16 bits")  # fmt: skip

Progress = Callable[[Iterable, str, int], Iterable]
Step = tuple[Mistake, str]  # a mistake and its variant


# --- what a dump holds


def _without_bias(first: Sum | Pool) -> Sum | Pool:
    return replace(first, bias=0 * first.bias) if isinstance(first, Sum) else first


def _stored(first: Sum | Pool, padded: bool = True) -> Sum | Pool:
    """With the zero points left in, as an array sums whose correction comes later."""
    if isinstance(first, Pool):
        return replace(first, x_zero=0)
    pad = first.pad if isinstance(first.pad, str) else (first.pad + first.x_zero) * padded
    return replace(first, x_zero=0, w_zero=0 * first.w_zero, pad=pad)


# what accumulators in a dump may be
FORMS: dict[str, Callable[[Sum | Pool], Sum | Pool]] = {
    "sums with the bias": lambda first: first,
    "sums before the bias": _without_bias,
    "sums of the stored integers, before zero points and bias": lambda f: _stored(_without_bias(f)),
    "sums of the stored integers, with the bias": _stored,
    "sums of the stored integers with 0 on the border, before zero points and bias": lambda f: (
        _stored(_without_bias(f), padded=False)
    ),
}


@dataclass(frozen=True, eq=False)
class Target:
    """A dump of the node that is diagnosed, understood in one way."""

    dump: Dump
    reading: Reading
    form: str  # of accumulators; empty for an output
    expected: np.ndarray  # int64, or floats

    @property
    def wrong(self) -> np.ndarray:
        return _differ(self.expected, self.reading.values)

    @property
    def constant(self) -> bool:
        """Whether the dump holds one value, and so nothing that tells mistakes apart."""
        return self.wrong.size >= FEW and _one_value(self.reading.values)

    def of(self, design: Design) -> np.ndarray:
        """What a design has where the dump has its values."""
        if not self.form:
            return design.outcome()
        return _form(self.form, design).reshape(design.shape).astype(np.int64)

    def left(self, design: Design) -> int:
        """How many elements of the dump a design does not have."""
        return int(np.count_nonzero(_differ(self.of(design), self.reading.values)))


def _form(form: str, design: Design) -> np.ndarray:
    first = design.first
    return first.acc if form == next(iter(FORMS)) else FORMS[form](first).acc


def _one_value(values: np.ndarray) -> bool:
    return bool(values.size) and not _differ(values, np.full_like(values, values.flat[0])).any()


def _differ(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    wrong = ours != theirs
    if ours.dtype.kind == "f":
        wrong &= ~((ours != ours) & (theirs != theirs))
    return wrong


def ways_of(dump: Dump, design: Design, y: np.ndarray) -> list[Target]:
    """Every way to understand a dump, the one first in which the fewest elements differ."""
    found = []
    for reading in dump.readings:
        if not reading.sums:
            integers = y.dtype.kind in "iub" or y.dtype.name.startswith(("int", "uint"))
            expected = y.astype(np.int64 if integers else np.float64)
            found.append(Target(dump, reading, "", expected))
        elif isinstance(design.first, Sum | Pool):
            for form in FORMS:
                acc = _form(form, design).reshape(y.shape).astype(np.int64)
                found.append(Target(dump, reading, form, acc))
    if not found:
        raise UnusableInput(
            f"{dump.path}: accumulators, but the reference has none of this node; give its output"
        )
    return sorted(found, key=lambda target: np.count_nonzero(target.wrong))


def understood(dump: Dump, design: Design, y: np.ndarray) -> Target:
    """A dump in the way in which the fewest elements differ; of equals the first."""
    return ways_of(dump, design, y)[0]


# --- where


@dataclass(frozen=True)
class Place:
    """A kind of element, and how many of it differ."""

    name: str
    mismatches: int  # in it
    elements: int  # of it

    def __str__(self) -> str:
        return f"{self.name}: {self.mismatches:,} of {self.elements:,} elements differ"


def places(design: Design, y: np.ndarray, wrong: np.ndarray) -> list[Place]:
    """The kinds of elements that hold every mismatch, but for such as hold nearly everything.

    Args:
        y: ONNX Runtime's output; wrong: bool, of its shape.
    """
    masks = _masks(design, y)
    if y.ndim > 2 and wrong.any():
        channels = np.flatnonzero(wrong.any(axis=(0, *range(2, y.ndim))))
        if len(channels) <= max(1, y.shape[1] // 4):
            named = ", ".join(map(str, channels[:8]))
            more = f" and {len(channels) - 8} more" if len(channels) > 8 else ""
            some = np.zeros(y.shape, bool)
            some[:, channels] = True
            masks[f"channel{'' if len(channels) == 1 else 's'} {named}{more}"] = some
    if isinstance(design.first, Sum | Pool) and wrong.any():
        size = np.abs(design.first.acc.reshape(y.shape).astype(np.int64))
        bits = int(size[wrong].min()).bit_length()
        if bits > 1:
            masks[f"accumulators of {bits + 1} bits and more"] = size >= 1 << (bits - 1)
    total, found = int(np.count_nonzero(wrong)), []
    for name, mask in masks.items():
        inside, of = int(np.count_nonzero(wrong & mask)), int(np.count_nonzero(mask))
        if total and inside == total and of < 0.9 * y.size:
            found.append(Place(name, inside, of))
    return sorted(found, key=lambda place: place.elements)


def _masks(design: Design, y: np.ndarray) -> dict[str, np.ndarray]:
    masks = {}
    first = design.first
    if isinstance(first, Sum) and max(*first.geo.begin, *first.geo.end) > 0:
        masks["border, where windows reach into the padding"] = _border(first, y.shape)
    if y.ndim > 2:
        for axis, names in ((y.ndim - 2, ("upper", "lower")), (y.ndim - 1, ("left", "right"))):
            size = y.shape[axis]
            if axis < 2 or size < 2:
                continue
            shape = [1] * y.ndim
            shape[axis] = size
            early = (np.arange(size) < size // 2).reshape(shape)
            masks[f"{names[0]} half"] = np.broadcast_to(early, y.shape)
            late = (np.arange(size) >= (size + 1) // 2).reshape(shape)
            masks[f"{names[1]} half"] = np.broadcast_to(late, y.shape)
    if first is None:
        return masks
    masks["results below the zero point"] = y.astype(np.int64) < design.y_zero
    masks["results above the zero point"] = y.astype(np.int64) > design.y_zero
    low, high = design.limits
    masks["saturated results"] = (y == low) | (y == high)
    masks["results that are not saturated"] = (y != low) & (y != high)
    value = np.asarray(design.value(design), np.float64)
    with np.errstate(invalid="ignore"):
        masks["ties"] = (np.abs(value - np.floor(value)) == 0.5).reshape(y.shape)
    return masks


def _border(first: Sum, shape: tuple[int, ...]) -> np.ndarray:
    geo, inside = first.geo, np.ones(shape, bool)
    for axis, size in enumerate(first.x.shape[2:]):
        start = np.arange(geo.out[axis]) * geo.strides[axis] - geo.begin[axis]
        whole = (start >= 0) & (start + geo.spans[axis] <= size)
        inside &= whole.reshape([-1 if i == axis + 2 else 1 for i in range(len(shape))])
    return ~inside


def differences(target: Target) -> dict[str, int]:
    """How often the dump differs by how much, the most frequent first; only integers."""
    wrong = target.wrong
    if target.expected.dtype.kind == "f":
        return {}
    by = target.reading.values[wrong] - target.expected[wrong]
    values, counts = np.unique(by, return_counts=True)
    order = np.lexsort((np.abs(values), -counts))
    return {f"{values[i]:+d}": int(counts[i]) for i in order}


def picture(wrong: np.ndarray, width: int = 48, height: int = 16) -> tuple[str, list[str]]:
    """The mismatches of the image and channel that has the most, in characters.

    Returns:
        what is shown, and the lines: ``.`` for none, then ``-``, ``+``, ``*`` and ``#`` for up to a
        quarter, half, three quarters and all of the elements behind a character.
    """
    if wrong.ndim < 3 or min(wrong.shape[2:]) == 0:
        return "", []
    planes = wrong.reshape(*wrong.shape[:2], -1, wrong.shape[-1])
    counts = planes.sum(axis=(2, 3))
    n, c = np.unravel_index(int(counts.argmax()), counts.shape)
    plane = planes[n, c].astype(np.float64)
    if plane.size < 2:
        return "", []
    for axis, most in ((0, height), (1, width)):
        step = -(-plane.shape[axis] // most)
        edges_ = np.arange(0, plane.shape[axis], step)
        sizes = np.minimum(edges_ + step, plane.shape[axis]) - edges_
        sums = np.add.reduceat(plane, edges_, axis=axis)
        plane = sums / sizes.reshape((-1, 1) if axis == 0 else (1, -1))
    marks = ".-+*#"
    lines = ["".join(marks[int(np.ceil(v * 4))] for v in row) for row in plane]
    what = f"channel {c}" + (f" of image {n}" if len(wrong) > 1 else "")
    return f"{what}, with {int(counts[n, c]):,} mismatches", lines


# --- why


@dataclass(frozen=True, eq=False)
class Explanation:
    """A mistake, or two, and what they leave of the dump."""

    steps: tuple[Step, ...]
    variants: tuple[str, ...]  # that leave as little; the first is that of ``steps``
    unexplained: int
    design: Design

    @property
    def name(self) -> str:
        return " and ".join(mistake.name for mistake, _ in self.steps)

    @property
    def sentence(self) -> str:
        return " And: ".join(mistake.sentence for mistake, _ in self.steps)

    @property
    def variant(self) -> str:
        return "; ".join(label for _, label in self.steps if label)

    def as_json(self) -> dict:
        return {
            "name": self.name,
            "mistakes": [mistake.name for mistake, _ in self.steps],
            "variants": [v for v in self.variants if v],
            "sentence": self.sentence,
            "unexplained": self.unexplained,
            "sections": [mistake.section for mistake, _ in self.steps],
            "sources": [mistake.source for mistake, _ in self.steps if mistake.source],
        }


@dataclass(frozen=True)
class Tried:
    """What was tried, by the mistakes' names."""

    explanations: tuple[Explanation, ...]  # that leave less than there was, best first
    invisible: tuple[str, ...]  # that change nothing on this data, in any variant
    excluded: tuple[str, ...]  # whose every variant leaves as much as there was, or more
    elsewhere: tuple[str, ...]  # that this layer has no place for
    designs: int  # that were computed
    pairs: int  # of these, with two mistakes
    sampled: int = 0  # of these, with one mistake, left by a sample of the positions


@dataclass(frozen=True, eq=False)
class Scored:
    """One or two mistakes that were tried on a layer."""

    left: int  # elements of the dump that they leave
    alike: float  # how the outcome correlates with the dump
    steps: tuple[Step, ...]
    design: Design
    family: int  # how many variants were tried beside this one


def _left(design: Design, targets: Sequence[Target]) -> tuple[int, list[np.ndarray]]:
    """How many elements of the dumps a design leaves, and what it gives."""
    outcomes = [target.of(design) for target in targets]
    pairs = zip(outcomes, targets, strict=True)
    left = sum(int(np.count_nonzero(_differ(o, t.reading.values))) for o, t in pairs)
    return left, outcomes


@dataclass(frozen=True, eq=False)
class Sample:
    """Some positions of a large layer, most of them such as a design does not explain.

    What leaves as much of them as that design is not computed whole.
    """

    design: Design  # the right one, at these positions
    targets: tuple[Target, ...]

    def left(self, design: Design) -> int:
        return _left(design, self.targets)[0]


def sample_of(
    design: Design, targets: Sequence[Target], outcomes: Sequence[np.ndarray]
) -> Sample | None:
    """A sample of a layer; None of one that is not large.

    Args:
        design: the right one.
        outcomes: what another has in each target's place; the sample is of where it is wrong.
    """
    first = design.first
    if not isinstance(first, Sum) or int(np.prod(first.geo.out)) < 4 * SAMPLE:
        return None
    channels = (len(first.x), len(first.w), -1)
    wrong = [_differ(o, t.reading.values) for o, t in zip(outcomes, targets, strict=True)]
    wrong = np.any([w.reshape(channels).any(axis=(0, 1)) for w in wrong], axis=0)
    chosen = [
        where[np.linspace(0, len(where) - 1, min(count, len(where))).astype(int)]
        for where, count in ((np.flatnonzero(wrong), 3 * SAMPLE // 4),
                             (np.arange(len(wrong)), SAMPLE // 4))
    ]  # fmt: skip
    flat = np.unique(np.concatenate(chosen))
    sample = tuple(np.unravel_index(flat, first.geo.out))
    small = replace(design, first=replace(first, sample=sample), shape=(*channels[:2], len(flat)))
    small_targets = []
    for target in targets:
        values = target.reading.values.reshape(channels)[..., flat]
        expected = target.expected.reshape(channels)[..., flat]
        small_reading = replace(target.reading, values=values)
        small_targets.append(replace(target, expected=expected, reading=small_reading))
    return Sample(small, tuple(small_targets))


def explain(design: Design, targets: Sequence[Target], progress: Progress | None = None) -> Tried:
    """Try the catalogue on a layer, alone and, where none explains all, in pairs.

    Args:
        design: the right one of the layer.
        targets: its dumps, of which at least one differs.
        progress: wraps what is tried; it is told a title and how many.
    """
    progress = progress or (lambda steps, title, total: steps)
    before, right = _left(design, targets)
    sample = sample_of(design, targets, right)
    scored: list[Scored] = []
    invisible, excluded, elsewhere, count, sampled = [], [], [], 0, 0
    for mistake in progress(CATALOGUE, "trying mistakes", len(CATALOGUE)):
        variants = mistake.designs(design)
        small = mistake.designs(sample.design) if sample and mistake.kind != OUT else {}
        best, seen = before, False
        for label, changed in variants.items():
            count += 1
            if sample and not _worth(sample, design, changed, small.get(label), mistake):
                seen = True
                sampled += 1
                continue
            left, outcomes = _left(changed, targets)
            if all((o == r).all() for o, r in zip(outcomes, right, strict=True)):
                continue
            seen, best = True, min(best, left)
            alike = _likeness(outcomes, targets)
            steps = ((mistake, label),)
            scored.append(Scored(left, alike, steps, changed, len(variants)))
        if not variants:
            elsewhere.append(mistake.name)
        elif not seen:
            invisible.append(mistake.name)
        elif best == before:
            excluded.append(mistake.name)
    found = _grouped(each for each in scored if each.left < before)
    pairs = 0
    constant = all(target.constant for target in targets)  # of pairs too many would explain it
    if not constant and (not found or found[0].unexplained):
        two, pairs = _pairs(design, targets, scored, before, progress)
        found = sorted([*found, *two], key=lambda e: (e.unexplained, len(e.steps)))
    return Tried(
        tuple(found), tuple(invisible), tuple(excluded), tuple(elsewhere), count + pairs, pairs,
        sampled,
    )  # fmt: skip


def _worth(
    sample: Sample, design: Design, changed: Design, small: Design | None, mistake: Mistake
) -> bool:
    """Whether a mistake of a large layer is worth to be computed whole.

    It is if it leaves less of the sample than there is. Stage 2 alone is cheap in any case. What
    changes nothing of the sample may be visible elsewhere; only the slowest mistakes are not tried.
    """
    if mistake.kind == OUT or changed.first is design.first:
        return True
    if small is None:
        return mistake.name not in SLOW
    if sample.left(small) < sample.left(sample.design):
        return True
    pairs = ((target.of(small), target.of(sample.design)) for target in sample.targets)
    return mistake.name not in SLOW and all((a == b).all() for a, b in pairs)


def _likeness(outcomes: list[np.ndarray], targets: Sequence[Target]) -> float:
    """The least correlation: near 1 where another mistake moves every element alike."""
    found = []
    for outcome, target in zip(outcomes, targets, strict=True):
        step = -(-outcome.size // 20_000)
        a, b = (v.ravel()[::step].astype(np.float64) for v in (outcome, target.reading.values))
        a, b = a - a.mean(), b - b.mean()
        size = np.sqrt((a * a).sum() * (b * b).sum())
        found.append(float((a * b).sum() / size) if size > 0 and np.isfinite(size) else 0.0)
    return min(found)


def _grouped(scored: Iterable[Scored]) -> list[Explanation]:
    """One explanation for each mistake or pair: the variants that leave the least.

    Of those that leave as much, what has fewer variants comes first: it could explain less.
    """
    order = {mistake.name: i for i, mistake in enumerate(CATALOGUE)}
    best: dict[tuple, list[Scored]] = {}
    for each in scored:
        alike = best.setdefault(tuple(mistake.name for mistake, _ in each.steps), [])
        if alike and each.left < alike[0].left:
            alike.clear()
        if not alike or each.left == alike[0].left:
            alike.append(each)
    ranked = sorted(
        best.items(),
        key=lambda pair: (pair[1][0].left, pair[1][0].family, *(order[name] for name in pair[0])),
    )
    return [
        Explanation(
            alike[0].steps,
            tuple("; ".join(label for _, label in each.steps if label) for each in alike),
            alike[0].left,
            alike[0].design,
        )
        for _, alike in ranked
    ]


def _pairs(
    design: Design,
    targets: Sequence[Target],
    scored: list[Scored],
    before: int,
    progress: Progress,
) -> tuple[list[Explanation], int]:
    """Mistakes on top of the few single ones that come nearest, by count and by likeness."""
    nearest = sorted((each for each in scored if each.left < before), key=lambda each: each.left)
    alike = sorted((each for each in scored if each.alike > 0.5), key=lambda each: -each.alike)
    seeds: dict[str, Scored] = {}
    for ranked in (nearest, alike):
        taken = 0
        for each in ranked:
            name = each.steps[0][0].name
            if taken < SEEDS and name not in seeds:
                seeds[name] = each
                taken += 1
    found, count, solved, current = [], 0, None, None
    work = [(seed, mistake) for seed in seeds.values() for mistake in CATALOGUE]
    for seed, mistake in progress(work, "trying pairs", len(work)):
        ((one, _),) = seed.steps
        if solved not in (None, one.name) or mistake is one:
            continue  # another seed has explained all
        if seed is not current:
            current, sample = seed, sample_of(design, targets, _left(seed.design, targets)[1])
            small_seed = sample and one.designs(sample.design).get(seed.steps[0][1])
            most = WORTH * sample.left(small_seed) if small_seed else 0
        pairs = list(_both(design, seed, seed.design, mistake))
        small = {}
        if small_seed and OUT not in (mistake.kind, one.kind):
            small = dict(_both(sample.design, seed, small_seed, mistake))
        for steps, both in pairs:
            count += 1
            if steps in small and sample.left(small[steps]) > most:
                continue
            if steps not in small and sample and mistake.name in SLOW:
                continue
            left, _ = _left(both, targets)
            if left < min(seed.left, before):
                found.append(Scored(left, 0.0, steps, both, seed.family * len(pairs)))
            if not left:
                solved = one.name
    return _grouped(found), count


def _both(
    design: Design, seed: Scored, changed: Design, mistake: Mistake
) -> Iterable[tuple[tuple[Step, Step], Design]]:
    """A mistake beside one that is there already, in the order of the stages."""
    ((one, variant),) = seed.steps
    if CATALOGUE.index(mistake) > CATALOGUE.index(one):
        for label, both in mistake.designs(changed).items():
            yield ((one, variant), (mistake, label)), both
        return
    for label, earlier in mistake.designs(design).items():
        both = one.designs(earlier).get(variant)
        if both is not None:
            yield ((mistake, label), (one, variant)), both


def chance(design: Design, target: Target) -> str:
    """Why the mismatches look like random flips; empty where they do not.

    They do if each differs in one bit, and several bits are hit; or if most differ by more than an
    off-by-one would, and they are spread over channels, rows, columns and values as chance would
    spread them.
    """
    wrong = target.wrong
    count = int(np.count_nonzero(wrong))
    if target.expected.dtype.kind == "f" or not 0 < count <= wrong.size // 4:
        return ""
    ours, theirs = target.expected[wrong], target.reading.values[wrong]
    width = 8 * design.dtype.itemsize if not target.form else 32
    flipped = (ours ^ theirs) & ((1 << width) - 1)
    single = (flipped & (flipped - 1)) == 0
    if single.all() and (count == 1 or len(np.unique(flipped)) > 1):
        bits = len(np.unique(flipped))
        if count == 1:
            return "one element differs, in one bit"
        return f"each of the {count:,} differs in one bit, of which {bits} different ones are hit"
    far = np.abs(theirs - ours) > 1
    if count < 8 or far.mean() < 0.5 or not _spread(wrong, target.expected):
        return ""
    return (
        f"the {count:,} are spread over channels, rows, columns and values as chance spreads them, "
        f"and {int(far.sum()):,} differ by more than one"
    )


def _spread(wrong: np.ndarray, expected: np.ndarray) -> bool:
    """Whether mismatches fall on each axis, and on values, in proportion (chi-square)."""
    groups = [np.indices(wrong.shape, sparse=True)[axis] for axis in range(wrong.ndim)]
    quartiles = np.quantile(expected, (0.25, 0.5, 0.75))
    groups.append(np.searchsorted(quartiles, expected))
    rate = wrong.mean()
    for group in groups:
        index = np.broadcast_to(group, wrong.shape).ravel()
        sizes = np.bincount(index)
        hits = np.bincount(index, weights=wrong.ravel())
        while len(sizes) > 1 and sizes.min() * rate < 2:  # of few mismatches, coarser groups
            cut = np.arange(0, len(sizes), 2)
            sizes, hits = np.add.reduceat(sizes, cut), np.add.reduceat(hits, cut)
        expectation = sizes * rate
        chi = ((hits - expectation) ** 2 / np.maximum(expectation, 1e-9)).sum()
        freedom = len(sizes) - 1
        if chi > freedom + 4 * np.sqrt(2 * max(freedom, 1)):
            return False
    return True


# --- telling equals apart


@dataclass(frozen=True)
class Apart:
    """An input on which explanations differ that do not differ on the reader's."""

    where: str
    gives: dict[str, str]  # explanation, and ONNX Runtime: what they give there
    x: np.ndarray | None = field(repr=False, compare=False, default=None)  # to be fed to the layer


def tell_apart(design: Design, group: Sequence[Explanation]) -> Apart | None:
    """An input that tells explanations apart which explain a dump alike; None if none is found.

    First accumulators of the corner vectors (:mod:`qlinear.edges`), for stage 2 alone; then windows
    that give a channel's bounds, and random inputs, for the whole layer.
    """
    group = group[:8]
    first = design.first
    if isinstance(first, Sum) and all(_shares_sums(design, each) for each in group):
        found = _by_corners(design, group)
        if found:
            return found
    for where, changed, x in _other_inputs(design):
        base = replace(design, first=changed, shape=_shape_for(design, changed))
        found = _first_split(base, group, where, x)
        if found:
            return found
    return None


def _shape_for(design: Design, first) -> tuple[int, ...]:
    if isinstance(first, Pair):
        return first.a.shape
    return first.x.shape if isinstance(first, Real) else design.shape


def _shares_sums(design: Design, each: Explanation) -> bool:
    theirs = each.design.first
    return isinstance(theirs, Sum) and theirs.acc is design.first.acc and not each.design.after


def _rebuilt(base: Design, steps: tuple[Step, ...]) -> Design | None:
    for mistake, label in steps:
        base = mistake.designs(base).get(label)
        if base is None:
            return None
    return base


def _first_split(
    base: Design, group: Sequence[Explanation], where: str, x: np.ndarray | None
) -> Apart | None:
    outcomes = {}
    for each in group:
        rebuilt = _rebuilt(base, each.steps)
        if rebuilt is not None:  # a variant may be none of the other input's
            outcomes[_titled(each)] = rebuilt.outcome()
    if len(outcomes) < 2:
        return None
    stacked = np.stack(list(outcomes.values()))
    split = (stacked != stacked[0]).any(axis=0)
    if not split.any():
        return None
    # the element at which the most of them differ from each other
    ordered = np.sort(stacked.reshape(len(stacked), -1), axis=0)
    kinds = 1 + (ordered[1:] != ordered[:-1]).sum(axis=0)
    at = tuple(int(i) for i in np.unravel_index(int(kinds.argmax()), split.shape))
    gives = {name: str(int(y[at])) for name, y in outcomes.items()}
    right = int(base.outcome()[at])
    return Apart(f"{where}, at {at}", gives | {"ONNX Runtime": str(right)}, x)


def _titled(each: Explanation) -> str:
    return f"{each.name} ({each.variant})" if each.variant else each.name


def _by_corners(design: Design, group: Sequence[Explanation]) -> Apart | None:
    """The first accumulator of the corner vectors that tells apart."""
    of = _requantizer(design)
    if of is None:
        return None
    corners = edges.corner_accumulators(of)
    channels = corners["channel"]
    rows = [np.flatnonzero(channels == m) for m in range(len(of.factor))]
    longest = max(map(len, rows))
    index = np.stack([np.resize(row, longest) for row in rows])  # short ones repeat
    first = replace(design.first)
    first.__dict__["acc"] = corners["acc"][index][None]
    base = replace(design, first=first, shape=(1, *index.shape))
    found = _first_split(base, group, "", None)
    if found is None:
        return None
    m, k = map(int, found.where.removeprefix(", at (").removesuffix(")").split(", ")[1:])
    row = int(index[m, k])
    kind = tuple(edges.KINDS)[int(corners["kind"][row])]
    where = (
        f"accumulator {int(corners['acc'][row]):,} of channel {m} ({kind}), element {row} of "
        "corners.npz (qlinear vectors --corners)"
    )
    return replace(found, where=where)


def _requantizer(design: Design) -> edges.Requantizer | None:
    first = design.first
    low, high = _range(first)
    info = np.iinfo(np.int32)
    if low.min() < info.min or high.max() > info.max:
        return None
    dtype = np.dtype(design.dtype)
    return edges.Requantizer(
        np.asarray(design.factor), np.array(design.y_zero, dtype), low, high,
        (int(low.min()), int(high.max())), first.bias, first.rows.reshape(len(first.w), -1),
        np.array(first.x_zero, first.x.dtype),
    )  # fmt: skip


def _range(first: Sum) -> tuple[np.ndarray, np.ndarray]:
    info = np.iinfo(first.x.dtype)
    rows = first.rows.reshape(len(first.w), -1).astype(np.int64)
    ends = np.stack([rows * (info.min - first.x_zero), rows * (info.max - first.x_zero)])
    return ends.min(0).sum(1) + first.bias, ends.max(0).sum(1) + first.bias


def _other_inputs(design: Design) -> Iterable[tuple[str, object, np.ndarray | None]]:
    """Other inputs of the layer, by what they are: of the corner vectors, then random ones."""
    first = design.first
    if isinstance(first, Sum | Pool):
        x, info = first.x, np.iinfo(first.x.dtype)
        made: list[tuple[str, np.ndarray]] = []
        if isinstance(first, Sum):
            made += list(_windows(design))
        made += [
            ("an input of the greatest integer", np.full_like(x, info.max)),
            ("an input of the least integer", np.full_like(x, info.min)),
        ]
        for seed in range(8):
            rng = np.random.default_rng(seed)
            values = rng.integers(info.min, info.max, x.shape, x.dtype, endpoint=True)
            made.append((f"random {x.dtype} of seed {seed}", values))
            if isinstance(first, Pool):  # of such pixels all means are alike, or saturate
                reach = 256 / (float(design.factor) * first.pixels)  # steps of the input
                shape = (*x.shape[:2], *[1] * (x.ndim - 2))
                level = first.x_zero + np.rint(reach * rng.uniform(-1, 1, shape))
                near = (level + rng.integers(-8, 9, x.shape)).clip(info.min, info.max)
                named = f"random {x.dtype} of seed {seed} around a level of each channel"
                made.append((named, near.astype(x.dtype)))
        for where, values in made:
            yield f"the layer's output for {where}", replace(first, x=values), values
    elif isinstance(first, Pair):
        info = np.iinfo(first.a.dtype)
        every = np.arange(info.min, info.max + 1).astype(first.a.dtype)
        a, b = (v.ravel() for v in np.meshgrid(every, every, indexing="ij"))
        yield "all 65,536 pairs of inputs, a by a", replace(first, a=a, b=b), None
    elif isinstance(first, Real) and first.y_scale.ndim == 0:
        steps = np.arange(-300, 300, dtype=np.float32)
        x = np.concatenate([(steps + part) * first.y_scale for part in (0, 0.25, 0.5, 0.75)])
        x = np.concatenate([x, np.nextafter(x, np.float32(np.inf))]).astype(np.float32)
        yield "quarters of the scale and their neighbours", replace(first, x=x), x


def _windows(design: Design) -> Iterable[tuple[str, np.ndarray]]:
    """Images that hold one corner window, at the first output whose window is inside."""
    first, of = design.first, _requantizer(design)
    windows = edges.corner_windows(of) if of is not None and first.geo.group == 1 else None
    if windows is None:
        return
    geo, sizes = first.geo, first.x.shape[2:]
    at = [-(-b // s) for b, s in zip(geo.begin, geo.strides, strict=True)]
    start = [a * s - b for a, s, b in zip(at, geo.strides, geo.begin, strict=True)]
    if any(s + span > size for s, span, size in zip(start, geo.spans, sizes, strict=True)):
        return
    place = tuple(
        slice(s, s + span, d) for s, span, d in zip(start, geo.spans, geo.dilations, strict=True)
    )
    for row in range(min(8, len(windows["x"]))):
        x = np.full(first.x.shape, first.x_zero, first.x.dtype)
        x[(slice(None), slice(None), *place)] = windows["x"][row].reshape(first.w.shape[1:])
        yield f"window {row} of windows.npz (qlinear vectors --corners) in its image", x


# --- the report


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of the dump, beside ONNX Runtime's."""

    name: str
    node: Node
    index: int  # of the node in the graph
    targets: tuple[Target, ...]
    follows: bool | None = None  # it is what ONNX Runtime makes of the dump's own inputs

    @property
    def mismatches(self) -> int:
        return sum(int(np.count_nonzero(target.wrong)) for target in self.targets)

    @property
    def elements(self) -> int:
        return sum(target.expected.size for target in self.targets)

    @property
    def differs(self) -> Target:
        """The first of its dumps that differs."""
        return next(target for target in self.targets if target.wrong.any())


@dataclass(frozen=True, eq=False)
class Report:
    """What :func:`diagnose` finds."""

    network: Network
    feed: Feed
    tensors: tuple[Tensor, ...]  # of the dump, in the graph's order
    verdict: str
    first: Tensor | None = None  # that differs
    where: tuple[Place, ...] = ()
    tried: Tried | None = None
    equal: tuple[Explanation, ...] = ()  # that leave as little as the best
    apart: Apart | None = None
    chance: str = ""
    another: str = ""  # tensor of the run that the dump is
    element: elements.Element | None = None  # the first that differs, worked out
    at: tuple[int, ...] = ()
    design: Design | None = None
    values: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> int:
        return STATUS[self.verdict]

    def dumped(self) -> dict[str, np.ndarray]:
        """The dump's outputs by tensor, in ONNX Runtime's types.

        Raises:
            UnusableInput: it has none but accumulators, or what an output's type does not hold.
        """
        found = {}
        for tensor in self.tensors:
            dtype = np.asarray(self.values[tensor.name]).dtype
            for target in tensor.targets:
                with np.errstate(over="ignore", invalid="ignore"):
                    values = target.reading.values.astype(dtype)
                if not target.form and not _differ(target.reading.values, values).any():
                    found.setdefault(tensor.name, values)
        if not found:
            raise UnusableInput(
                "--reduce: the dump has no output of a node in the type that it has there, only "
                "accumulators or values out of range"
            )
        return found

    def as_json(self) -> dict:
        first, target = self.first, self.first and self.first.differs
        return {
            "model": str(self.network.file.path),
            "input": self.feed.source,
            "verdict": self.verdict,
            "tensors": [
                {
                    "tensor": t.name,
                    "node": t.node.name,
                    "files": [str(target.dump.path) for target in t.targets],
                    "elements": t.elements,
                    "mismatches": t.mismatches,
                    "follows": t.follows,
                }
                for t in self.tensors
            ],
            "first": first.name if first else None,
            "first_index": list(self.at) if first else None,
            "accumulators": target.form if target else "",
            "differences": differences(target) if target else {},
            "where": [vars(place) for place in self.where],
            "explanations": [e.as_json() for e in self.tried.explanations] if self.tried else [],
            "equal": [e.name for e in self.equal],
            "apart": {"where": self.apart.where, "gives": self.apart.gives} if self.apart else None,
            "random": self.chance,
            "another_tensor": self.another or None,
            "excluded": list(self.tried.excluded) if self.tried else [],
            "invisible": list(self.tried.invisible) if self.tried else [],
            "designs": self.tried.designs if self.tried else 0,
            "sampled": self.tried.sampled if self.tried else 0,
            "notes": list(self.notes),
        }


def diagnose(
    network: Network,
    feed: Feed,
    dumps: Sequence[Dump],
    *,
    x: np.ndarray | None = None,
    values: dict[str, np.ndarray] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compare a dump with ONNX Runtime, and explain its first tensor that differs.

    Args:
        network: of ``qlinear.oracle.settle``, for any file.
        dumps: at least one; several of one tensor may be its output and its accumulators.
        x: what the only node of the dump had as its first input, if not ONNX Runtime's.
        values: ONNX Runtime's tensors of this run, if they are known.

    Raises:
        UnusableInput: ONNX Runtime refuses something, or a dump does not fit.
    """
    graph = network.graph
    by_tensor: dict[str, list[Dump]] = {}
    for dump in dumps:
        by_tensor.setdefault(dump.tensor, []).append(dump)
    nodes = [node for node in graph.nodes if any(name in by_tensor for name in node.outputs)]
    values = dict(values or ort_values(network, feed, nodes))
    if x is not None:
        (node,) = nodes
        values[node.inputs[0]] = x
        given = {name: values[name] for name in reads(node) if name in values}
        values |= ort.borrower(graph)(node, given)
    tensors = []
    for index, node in enumerate(graph.nodes):
        for name in (n for n in node.outputs if n in by_tensor):
            y = np.asarray(values[name])
            design = design_of(graph, node, values, y)
            targets = [understood(dump, design, y) for dump in by_tensor[name]]
            targets.sort(key=lambda target: not target.form)  # accumulators come before y
            outputs = [target for target in targets if not target.form]
            if len(outputs) > 1:
                files = ", ".join(str(target.dump.path) for target in outputs)
                raise UnusableInput(f"{files}: all of {name}; give one of each tensor")
            tensors.append(Tensor(name, node, index, tuple(targets)))
    tensors = _followed(graph, tensors, values)
    first = next((tensor for tensor in tensors if tensor.mismatches), None)
    if first is None:
        notes = _notes(graph, tensors, None, x)
        return Report(network, feed, tuple(tensors), EQUAL, values=values, notes=notes)
    return _explained(network, feed, tensors, first, values, x, progress)


def _explained(
    network: Network,
    feed: Feed,
    tensors: list[Tensor],
    first: Tensor,
    values: dict,
    x: np.ndarray | None,
    progress: Progress | None,
) -> Report:
    graph, node, target = network.graph, first.node, first.differs
    y = np.asarray(values[first.name])
    design = design_of(graph, node, values, y, _earlier(graph, first, values))
    before = first
    first, tried = _tried(design, first, y, progress)
    tensors = [first if tensor is before else tensor for tensor in tensors]
    target = first.differs
    wrong = target.wrong
    best = _rest(tried, first)
    equal = tuple(e for e in tried.explanations if e.unexplained == best)
    # a mistake that explains a good part leaves only the rest to chance
    partly = tried.explanations and 2 * best < first.mismatches
    rest = replace(target, expected=target.of(tried.explanations[0].design)) if partly else target
    random = chance(design, rest) if best else ""
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
    element = None
    if elements.has_explanation(node):
        element = elements.explain(graph, node, values, first.name, at)
    # a design of one value would leave as many, and explain nothing
    by_chance = best >= sum(but_the_commonest(t.reading.values) for t in first.targets)
    if tried.explanations and not best:
        verdict = EXPLAINED
    elif random and not partly:
        verdict = FLIPS
    else:
        enough = best <= MOST_LEFT * first.mismatches and not by_chance
        verdict = PARTLY if enough else UNEXPLAINED
    another = _another(first, values)
    notes = _notes(graph, tensors, first, x)
    if verdict != EXPLAINED:
        notes = (*_unwritten(target), *notes)
    return Report(
        network, feed, tuple(tensors), verdict, first,
        where=tuple(places(design, y, wrong)),
        tried=tried, equal=equal,
        apart=tell_apart(design, equal) if len(equal) > 1 and verdict == EXPLAINED else None,
        chance=random, another=another, element=element, at=at, design=design, values=values,
        notes=notes,
    )  # fmt: skip


def but_the_commonest(values: np.ndarray) -> int:
    """How many elements do not have the most frequent value."""
    return values.size - int(np.unique(values, return_counts=True)[1].max(initial=0))


def _another(first: Tensor, values: dict[str, np.ndarray]) -> str:
    """Another tensor of the run that the dump is, element for element; empty if there is none."""
    target = first.differs
    theirs = target.reading.values
    if target.form or target.constant or theirs.size < FEW:
        return ""
    for name, value in values.items():
        same = isinstance(value, np.ndarray) and value.shape == theirs.shape
        if same and name != first.name and not _differ(theirs, value).any():
            return name
    return ""


def _unwritten(target: Target) -> tuple[str, ...]:
    """A note on mismatches that all hold one value, where ONNX Runtime has several."""
    wrong = target.wrong
    held = target.reading.values[wrong]
    alike = len(held) >= FEW and _one_value(held) and not _one_value(target.expected[wrong])
    if not alike or target.constant:
        return ()
    what = f"every element that differs is {held[0]}: was it ever written?"
    return (f"{target.dump.path}: {what}",)


def _tried(
    design: Design, first: Tensor, y: np.ndarray, progress: Progress | None
) -> tuple[Tensor, Tried]:
    """Try the catalogue; on accumulators in each form that they may have, until one explains."""
    tried = explain(design, first.targets, progress)
    if len(first.targets) > 1 or not first.differs.form or _rest(tried, first) == 0:
        return first, tried
    found = [(first, tried)]
    for way in ways_of(first.differs.dump, design, y)[1:]:
        if way.form and way.form != first.differs.form:
            changed = replace(first, targets=(way,))
            found.append((changed, explain(design, changed.targets, progress)))
            if _rest(found[-1][1], changed) == 0:
                break
    return min(found, key=lambda pair: _rest(pair[1], pair[0]))


def _rest(tried: Tried, tensor: Tensor) -> int:
    return tried.explanations[0].unexplained if tried.explanations else tensor.mismatches


def ort_values(network: Network, feed: Feed, nodes: Sequence[Node]) -> dict[str, np.ndarray]:
    """ONNX Runtime's tensors: all of the graph, or, where it refuses that, those around nodes."""
    try:
        return explore.ort_values(network, feed.values)
    except Refused:
        names = [name for node in nodes for name in (*reads(node), *node.outputs) if name]
        session = oracle.open_graph(network, names)
        return feed.values | oracle.outputs(network.file, session, feed.values)


def _earlier(graph: Model, first: Tensor, values: dict) -> dict[str, np.ndarray]:
    """Tensors that were there before a node ran, and might lie where its input should."""
    own = {name: values.get(name) for name in first.node.inputs}
    x = own.get(first.node.inputs[0]) if first.node.inputs else None
    before = [name for node in graph.nodes[: first.index] for name in node.outputs]
    return {
        name: values[name]
        for name in before
        if x is not None and name in values and name != first.node.inputs[0]
        and getattr(values[name], "dtype", None) == x.dtype and values[name].shape == x.shape
    }  # fmt: skip


def _followed(graph: Model, tensors: list[Tensor], values: dict) -> list[Tensor]:
    """Of every differing tensor but the first: whether ONNX Runtime makes it of the dump's own."""
    theirs: dict[str, np.ndarray] = {}
    for tensor in tensors:
        outputs = [t for t in tensor.targets if not t.form]
        if outputs and outputs[0].reading.note != "it holds what does not fit into 8 bits":
            kept = outputs[0].reading.values.astype(np.asarray(values[tensor.name]).dtype)
            theirs[tensor.name] = kept
    borrow, found, seen = ort.borrower(graph), [], False
    for tensor in tensors:
        follows = None
        needed = [name for name in reads(tensor.node) if name not in graph.constants]
        if seen and tensor.mismatches and needed and all(name in theirs for name in needed):
            made = borrow(tensor.node, {name: theirs[name] for name in needed})
            same = made[tensor.name] == theirs.get(tensor.name)
            follows = bool(np.all(same)) if tensor.name in theirs else None
        seen = seen or bool(tensor.mismatches)
        found.append(replace(tensor, follows=follows))
    return found


def _notes(
    graph: Model, tensors: list[Tensor], first: Tensor | None, x: np.ndarray | None
) -> tuple[str, ...]:
    notes = []
    for tensor in tensors:
        for target in tensor.targets:
            dump = target.dump
            notes += [f"{dump.path}: {note}" for note in (*dump.notes, target.reading.note) if note]
            if target.form:
                notes.append(f"{dump.path}: compared with the {target.form}")
            if "with 0 on the border" in target.form:
                notes.append(
                    f"{dump.path}: such sums give ONNX Runtime's output only if the correction for "
                    "the zero point leaves out what is on the border"
                )
            if target.wrong.any() and _one_value(target.reading.values):
                held = target.reading.values.flat[0]
                notes.append(f"{dump.path}: every element is {held}: was it ever written?")
    written = [name for node in graph.nodes for name in node.outputs if name]
    missing = len(written) - len(tensors)
    if missing:
        notes.append(
            f"the dump holds {len(tensors)} of the {len(written)} tensors that ONNX Runtime "
            "computes; of the others it says nothing"
        )
    if first is not None and x is None:
        held = {tensor.name for tensor in tensors}
        needed = [name for name in reads(first.node) if name not in graph.constants]
        absent = [name for name in needed if name not in held]
        if absent:
            notes.append(
                f"not in the dump, so taken as ONNX Runtime's: its input {', '.join(absent)} "
                "(--x FILE gives another)"
            )
    return tuple(notes)


# --- one element


def trace(design: Design, at: tuple[int, ...]) -> dict[str, str]:
    """What a design holds at each stage on the way to one element, by the stage's name.

    Empty where its elements change places, and there is no one way to it.
    """
    if design.first is None or design.after:
        return {}

    def pick(array: np.ndarray) -> np.generic:
        return np.broadcast_to(array, whole).reshape(design.shape)[at]

    value = design.value(design)
    product = value.product if isinstance(value, Fixed) else value
    whole = product.shape
    found = {}
    if isinstance(design.first, Sum | Pool):
        found["acc"] = str(pick(design.first.acc))
    if isinstance(value, Fixed):
        shift = int(pick(value.shift))
        found["value"] = f"{int(pick(product)) / 2.0**shift:.9g} ({int(pick(product))} / 2^{shift})"
    else:
        found["value"] = str(pick(value))
    rounded = design.rounded()
    if design.place == "before":
        inside = shifted(value, design.y_zero)
        if not isinstance(inside, Fixed):
            found["value"] += f", with the zero point {pick(inside)}"
    zero = design.y_zero if design.place == "after" else 0
    found["rounded"] = str(int(pick(rounded)))
    found["shifted"] = str(int(pick(rounded + zero)))
    found["y"] = str(int(design.outcome()[at]))
    return found


# which step of an element is which stage, by how its name begins or what it holds
STAGES = (
    ("acc =", "acc"), ("sum of products", ""), ("float32(acc) *", "value"), ("rint", "rounded"),
    ("+ zero point", "shifted"), ("+ y_zero_point", "shifted"), ("saturate", "y"),
)  # fmt: skip


def steps_beside(report: Report) -> list[dict[str, str]]:
    """The steps to the first element that differs: ONNX Runtime's, the dump's, the mistake's."""
    if report.element is None:
        return []
    best = report.equal[0] if report.equal else None
    theirs = trace(best.design, report.at) if best is not None else {}
    dumped = {}
    for target in report.first.targets:
        dumped["y" if not target.form else target.form] = str(target.reading.values[report.at])
    rows = []
    steps = report.element.steps
    for i, (name, value) in enumerate(steps):
        stage = next((stage for start, stage in STAGES if name.startswith(start)), "")
        stage = "y" if i == len(steps) - 1 else stage
        held = {"acc": dumped.get("sums with the bias", ""), "y": dumped.get("y", "")}
        if name.startswith("sum of products"):
            held[""] = dumped.get("sums before the bias", "")
        row = {"step": name, "ONNX Runtime": str(value), "dump": held.get(stage, "")}
        if theirs:
            row[f"with {best.name}"] = theirs.get(stage, "")
        rows.append(row)
    return rows


def summary(tensors: Sequence[Tensor]) -> Counter:
    """How many tensors are equal, follow from an earlier mismatch, or differ by themselves."""
    return Counter(
        "equal" if not t.mismatches else {True: "follow", False: "own", None: "differ"}[t.follows]
        for t in tensors
    )
