"""A catalogue of the mistakes that hardware and kernels make; each can be tried on a layer.

``CATALOGUE`` holds them in the order of a layer's stages, :func:`rows` as a table. A mistake's
function takes a design (:mod:`qlinear.designs`) and returns the designs that have the mistake: one,
or one for each variant of it by the variant's name, or none where the layer has nothing that it
could concern. So mistakes can be put on top of each other.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from qlinear.designs import Design, First, Fixed, Pair, Pool, Real, Sum, clamp, in_float32
from qlinear.hardware import accumulators, requantizers
from qlinear.operators import arithmetic as ar

Designs = dict[str, Design]

# kinds, in the order of the stages of a layer
KINDS = (
    "input", "layout", "padding", "zero point", "accumulator", "bias", "scale", "multiplier",
    "residual add", "pool", "rounding", "saturation", "output",
)  # fmt: skip
INPUT, LAYOUT, PADDING, ZERO, SUMMING, BIAS, SCALE, MULTIPLIER, *_ = KINDS
*_, ADDING, POOLING, ROUNDING, RANGE, OUT = KINDS

# where the book shows them: notebook#heading
ORDER = "10-your-design#the-order-of-the-elements-nchw"
INPUTS = "02-qlinearconv#the-nine-inputs"
STAGES = "02-qlinearconv#two-stages"
BORDER = "02-qlinearconv#pad-with-the-zero-point"
PADS = "02-qlinearconv#asymmetric-padding"
FOLD = "02-qlinearconv#fold-the-zero-point-into-the-bias"
BY_HAND = "02-qlinearconv#a-per-tensor-layer-by-hand"
AFTER = "02-qlinearconv#the-zero-point-is-added-after-rounding"
TIES = "02-qlinearconv#ties-go-to-the-even-integer"
FACTOR = "02-qlinearconv#the-factor-is-float32-twice-rounded"
FACTOR_ORDER = "04-pool-dense#the-order-of-the-factors-operations-settled"
BIAS_SCALE = "02-qlinearconv#the-bias-has-the-accumulators-scale"
WRAPPING = "06-accumulators#wrapping-comes-back-saturation-does-not"
FIXED = "07-requantization#multiplier-and-shift"
STORED = "07-requantization#scales-and-what-a-layer-must-store"
DOUBLE = "07-requantization#two-roundings-gemmlowp-and-tensorflow-lite"
MANY = "07-requantization#how-many-elements-differ"
CHANNELS = "08-bit-widths#why-channels-want-scales-of-their-own"
SATURATION = "02-qlinearconv#saturation-and-why-a-wrap-must-be-asked-for"
RELU = "02-qlinearconv#a-relu-is-the-saturation"
ADD = "03-qlinearadd#the-order-of-operations-settled"
RECONCILED = "03-qlinearadd#why-the-scales-must-be-reconciled"
ADD_INTEGERS = "03-qlinearadd#in-integers"
POOL = "04-pool-dense#pooling-one-channel-by-hand"
DIVISION = "01-boundary#division-not-the-reciprocal"
SPREADS = "05-whole-network#one-wrong-element-spreads"

LAYERS = (Sum, Pool)
REQUANTIZED = (Sum, Pool, Pair, Real)
ANY = (*REQUANTIZED, type(None))

# operators of which mistakes are known; any other has those that any tensor can have
OPERATORS: dict[type, str] = {
    Sum: "QLinearConv, QGemm, QLinearMatMul",
    Pool: "QLinearGlobalAveragePool",
    Pair: "QLinearAdd",
    Real: "QuantizeLinear",
    type(None): "any other",
}


@dataclass(frozen=True)
class Mistake:
    """One known mistake."""

    name: str  # stable: tests, pages and scripts use it
    sentence: str
    kind: str
    of: tuple[type, ...]  # the first stages that it can be made in
    change: Callable[[Design], Designs]
    section: str  # the place in the book that shows it: notebook#heading
    source: str = ""  # a thread or a text in which it was met; empty: none but the book

    def designs(self, design: Design) -> Designs:
        """The designs that have this mistake on top of what ``design`` has."""
        return self.change(design) if isinstance(design.first, self.of) else {}


CATALOGUE: list[Mistake] = []


def mistake(
    name: str, kind: str, of: tuple[type, ...], section: str, thread: str = "", sentence: str = ""
) -> Callable:
    """Put the function below into the catalogue; its docstring is the sentence.

    Args:
        thread: of GitHub, as in an address behind the host.
    """

    def register(change: Callable[[Design], Designs]) -> Callable:
        said = sentence or " ".join(change.__doc__.split())
        source = f"https://github.com/{thread}" if thread else ""
        CATALOGUE.append(Mistake(name, said, kind, of, change, section, source))
        return change

    return register


def rows() -> list[dict[str, str]]:
    """The catalogue as a table, for a page or a terminal."""
    return [
        {
            "mistake": each.name,
            "kind": each.kind,
            "what": each.sentence,
            "operators": "; ".join(OPERATORS[of] for of in each.of) if each.of != ANY else "any",
            "section": each.section,
            "source": each.source,
        }
        for each in CATALOGUE
    ]


def named(name: str) -> Mistake:
    """The mistake of that name.

    Raises:
        KeyError: there is none.
    """
    return {each.name: each for each in CATALOGUE}[name]


# --- helpers


def _one(design: Design, **changes) -> Designs:
    return {"": replace(design, **changes)}


def _first(design: Design, **changes) -> Design:
    """A design with another stage 1."""
    return replace(design, first=replace(design.first, **changes))


def _firsts(design: Design, variants: dict[str, dict]) -> Designs:
    return {label: _first(design, **changes) for label, changes in variants.items()}


def _scaled(design: Design, scales: tuple) -> Design:
    """With other scales, and the factor that is made of them."""
    first = replace(design.first, scales=scales)
    return replace(design, first=_sharing(first, design.first), factor=first.factor)


def _sharing(new: First, old: First) -> First:
    """Hand on what was computed already, for a change that leaves the sums as they are."""
    for name in ("terms", "rows", "acc"):
        if name in old.__dict__:
            new.__dict__[name] = old.__dict__[name]
    return new


def _needed(acc: np.ndarray) -> int:
    return ar.signed_bits(int(acc.min(initial=0)), int(acc.max(initial=0)))


def _spatial(design: Design) -> bool:
    """Whether the layer has images of more than a pixel."""
    return isinstance(design.first, Sum) and max(design.first.x.shape[2:]) > 1


def _then(design: Design, change: Callable[[Design, np.ndarray], np.ndarray]) -> Design:
    return replace(design, after=(*design.after, change))


def _orders(tensor: np.ndarray, change: dict[str, Callable]) -> dict[str, np.ndarray]:
    """Variants of a tensor, but those that are the tensor itself."""
    made = {label: function(tensor) for label, function in change.items()}
    return {k: v for k, v in made.items() if v is not None and (v != tensor).any()}


def channels_last(t: np.ndarray) -> np.ndarray:
    """A tensor whose memory holds it in NHWC order, read as NCHW."""
    return np.moveaxis(t, 1, -1).reshape(t.shape)


def channels_first(t: np.ndarray) -> np.ndarray:
    """A tensor whose memory holds it in NCHW order, read as NHWC."""
    n, c, *spatial = t.shape
    return np.moveaxis(t.reshape(n, *spatial, c), -1, 1)


def blocked(t: np.ndarray, block: int) -> np.ndarray | None:
    """A tensor whose memory holds its channels in blocks, NCHWc, read as NCHW."""
    if t.ndim < 3 or t.shape[1] % block or t.shape[1] == block:
        return None
    parts = t.reshape(len(t), -1, block, *t.shape[2:])
    return np.moveaxis(parts, 2, -1).reshape(t.shape)


def _bytes_swapped(t: np.ndarray, size: int) -> np.ndarray | None:
    """The bytes of each word of ``size`` bytes in the other order."""
    flat = np.ascontiguousarray(t).reshape(-1)
    if flat.size % size:
        return None
    return flat.reshape(-1, size)[:, ::-1].reshape(t.shape)


# --- the layer's input


@mistake("stale input", INPUT, (Sum, Pool), SPREADS)
def _stale(d: Design) -> Designs:
    """The layer reads another tensor than its input, such as the one before it."""
    same = {k: v for k, v in d.earlier.items() if v.shape == d.first.x.shape}
    return {f"it reads {k}": _first(d, x=v) for k, v in same.items() if (v != d.first.x).any()}


@mistake("input off by one element", INPUT, (Sum, Pool), ORDER)
def _input_shifted(d: Design) -> Designs:
    """The input is read from one element further, or one too early."""
    moved = {f"by {s:+d}": lambda t, s=s: np.roll(t.ravel(), -s).reshape(t.shape) for s in (1, -1)}
    return {k: _first(d, x=v) for k, v in _orders(d.first.x, moved).items()}


# --- layout


@mistake("input layout", LAYOUT, (Sum, Pool), ORDER, "pytorch/glow/issues/3815")
def _input_layout(d: Design) -> Designs:
    """The input is in NHWC order where NCHW is read, or the other way round."""
    orders = {"NHWC read as NCHW": channels_last, "NCHW read as NHWC": channels_first}
    return {k: _first(d, x=v) for k, v in _orders(d.first.x, orders).items()}


@mistake("input transposed", LAYOUT, (Sum,), ORDER)
def _input_transposed(d: Design) -> Designs:
    """Rows and columns of the input have changed places, or it is mirrored."""
    if d.first.x.ndim != 4:
        return {}
    ways = {
        "rows and columns": lambda t: t.swapaxes(2, 3) if t.shape[2] == t.shape[3] else None,
        "left and right": lambda t: t[..., ::-1],
        "top and bottom": lambda t: t[:, :, ::-1],
    }
    return {k: _first(d, x=v) for k, v in _orders(d.first.x, ways).items()}


@mistake("input channels", LAYOUT, (Sum,), ORDER)
def _input_channels(d: Design) -> Designs:
    """The input's channels come in another order, such as BGR for RGB."""
    ways = {
        "reversed": lambda t: t[:, ::-1],
        "one further": lambda t: np.roll(t, -1, 1),
        "one back": lambda t: np.roll(t, 1, 1),
    }
    return {k: _first(d, x=v) for k, v in _orders(d.first.x, ways).items()}


@mistake("input type", LAYOUT, (Sum, Pool), INPUTS)
def _input_type(d: Design) -> Designs:
    """The input's bytes are taken for the other type: uint8 for int8, or int8 for uint8."""
    return {"": _first(d, x=_other_type(d.first.x))} if d.first.x.itemsize == 1 else {}


@mistake("input byte order", LAYOUT, (Sum, Pool), ORDER)
def _input_bytes(d: Design) -> Designs:
    """The bytes of each word of the input are in the other order."""
    ways = {f"words of {s} bytes": lambda t, s=s: _bytes_swapped(t, s) for s in (2, 4, 8)}
    return {k: _first(d, x=v) for k, v in _orders(d.first.x, ways).items()}


@mistake("kernel flipped", LAYOUT, (Sum,), STAGES, "keras-team/keras/issues/3015")
def _kernel_flipped(d: Design) -> Designs:
    """The kernel is flipped: a convolution where ONNX has a correlation."""
    ways = {
        "": lambda w: np.flip(w, tuple(range(2, w.ndim))),
        "rows only": lambda w: w[:, :, ::-1],
        "columns only": lambda w: w[..., ::-1],
    }
    return {k: _first(d, w=v) for k, v in _orders(d.first.w, ways).items()}


@mistake("kernel transposed", LAYOUT, (Sum,), STAGES)
def _kernel_transposed(d: Design) -> Designs:
    """Rows and columns of the kernel have changed places."""
    w = d.first.w
    if w.ndim != 4 or w.shape[2] != w.shape[3]:
        return {}
    return {k: _first(d, w=v) for k, v in _orders(w, {"": lambda w: w.swapaxes(2, 3)}).items()}


@mistake("weight layout", LAYOUT, (Sum,), ORDER)
def _weight_layout(d: Design) -> Designs:
    """The weights lie in another order than they are read in."""

    def read_as(order: str) -> Callable:
        def change(w: np.ndarray) -> np.ndarray:
            o, i, h, k = w.reshape(*w.shape[:2], -1, w.shape[-1]).shape
            sizes = {"O": o, "I": i, "H": h, "W": k}
            read = np.ascontiguousarray(w).reshape([sizes[axis] for axis in order])
            return read.transpose([order.index(axis) for axis in "OIHW"]).reshape(w.shape)

        return change

    def stored_as(order: str) -> Callable:
        def change(w: np.ndarray) -> np.ndarray:
            four = w.reshape(*w.shape[:2], -1, w.shape[-1])
            return four.transpose(["OIHW".index(axis) for axis in order]).reshape(w.shape)

        return change

    ways = {f"OIHW read as {order}": read_as(order) for order in ("HWIO", "OHWI", "IOHW")}
    ways |= {f"{order} read as OIHW": stored_as(order) for order in ("HWIO", "OHWI", "IOHW")}
    return {k: _first(d, w=v) for k, v in _orders(d.first.w, ways).items()}


@mistake("weight type", LAYOUT, (Sum,), INPUTS)
def _weight_type(d: Design) -> Designs:
    """The weights' bytes are taken for the other type, int8 or uint8."""
    return {"": _first(d, w=_other_type(d.first.w))} if d.first.w.itemsize == 1 else {}


@mistake("stride ignored", LAYOUT, (Sum,), PADS)
def _stride(d: Design) -> Designs:
    """The windows lie side by side, as at stride 1."""
    return _geometry(d, {"": dict(strides=(1,) * len(d.first.geo.strides))})


@mistake("dilation ignored", LAYOUT, (Sum,), STAGES)
def _dilation(d: Design) -> Designs:
    """The taps of a window lie side by side, as at dilation 1."""
    return _geometry(d, {"": dict(dilations=(1,) * len(d.first.geo.dilations))})


@mistake("groups ignored", LAYOUT, (Sum,), STAGES)
def _groups(d: Design) -> Designs:
    """Every group reads the first group's input channels."""
    x, group = d.first.x, d.first.geo.group
    if group == 1:
        return {}
    first = x[:, : x.shape[1] // group]
    return {"": _first(d, x=np.concatenate([first] * group, axis=1))}


# --- padding


@mistake("padding 0", PADDING, (Sum,), BORDER, "ucb-bar/gemmini/issues/229")
def _padding_0(d: Design) -> Designs:
    """The border is padded with the integer 0 instead of the input's zero point."""
    return {"": _first(d, pad=-d.first.x_zero)} if _padded(d) else {}


@mistake("padding with the least", PADDING, (Sum,), BORDER)
def _padding_least(d: Design) -> Designs:
    """The border is padded with the least integer of the input's type."""
    least = int(np.iinfo(d.first.x.dtype).min)
    return {"": _first(d, pad=least - d.first.x_zero)} if _padded(d) else {}


@mistake("padding repeats the image", PADDING, (Sum,), BORDER)
def _padding_repeats(d: Design) -> Designs:
    """The border repeats the image: its edge, or what lies inside it."""
    if not _padded(d):
        return {}
    widths = (*d.first.geo.begin, *d.first.geo.end)
    fits = max(widths) < min(d.first.x.shape[2:])
    modes = {"the edge": "edge"} | ({"reflected": "reflect"} if fits else {})
    return {label: _first(d, pad=mode) for label, mode in modes.items()}


@mistake("padding off by one", PADDING, (Sum,), PADS)
def _padding_off(d: Design) -> Designs:
    """All windows lie one element too far to one side."""
    geo, found = d.first.geo, {}
    for axis in range(len(geo.begin)):
        for step in (1, -1):
            begin, end = list(geo.begin), list(geo.end)
            begin[axis], end[axis] = begin[axis] + step, end[axis] - step
            name = ("row", "column")[axis] if len(begin) == 2 else f"axis {axis + 2}"
            found[f"by {-step:+d} {name}"] = dict(begin=tuple(begin), end=tuple(end))
    return _geometry(d, found)


@mistake("padding on the other side", PADDING, (Sum,), PADS, "taehoonlee/tensornets/issues/25")
def _padding_symmetric(d: Design) -> Designs:
    """The padding before the image and that behind it are exchanged, or both are as wide as
    the wider one."""
    geo = d.first.geo
    if geo.begin == geo.end:
        return {}
    wider = tuple(map(max, geo.begin, geo.end))
    return _geometry(
        d,
        {
            "symmetric": dict(begin=wider, end=wider),
            "exchanged": dict(begin=geo.end, end=geo.begin),
        },
    )


def _padded(d: Design) -> bool:
    return max(*d.first.geo.begin, *d.first.geo.end) > 0


def _geometry(d: Design, variants: dict[str, dict]) -> Designs:
    """With other windows, of which the output keeps the first in each axis."""
    geo, found = d.first.geo, {}
    for label, changes in variants.items():
        new = replace(geo, **changes)
        begin, end = list(new.begin), list(new.end)
        for axis, size in enumerate(d.first.x.shape[2:]):
            reach = (new.out[axis] - 1) * new.strides[axis] + new.spans[axis]
            end[axis] = reach - size - begin[axis]
        if new == geo:
            continue
        # windows may begin inside the image, or end before its end: then it is cut
        x, cut = d.first.x, [slice(None), slice(None)]
        for axis, size in enumerate(x.shape[2:]):
            cut.append(slice(max(0, -begin[axis]), size + min(0, end[axis])))
        begin, end = (tuple(max(0, v) for v in side) for side in (begin, end))
        found[label] = _first(d, x=x[tuple(cut)], geo=replace(new, begin=begin, end=end))
    return found


# --- zero points


@mistake("x zero point forgotten", ZERO, (Sum, Pool), BY_HAND, "iree-org/iree/issues/24583")
def _x_zero(d: Design) -> Designs:
    """The input's zero point is not subtracted."""
    zero = d.first.x_zero
    if not zero:
        return {}
    if isinstance(d.first, Pool) or not _padded(d):
        return {"": _first(d, x_zero=0)}
    pads = {"padded with it": zero, "padded with 0": 0}
    return {label: _first(d, x_zero=0, pad=pad) for label, pad in pads.items()}


@mistake("w zero point forgotten", ZERO, (Sum,), INPUTS, "iree-org/iree/issues/24583")
def _w_zero(d: Design) -> Designs:
    """The weights' zero point is not subtracted."""
    return {"": _first(d, w_zero=0 * d.first.w_zero)} if d.first.w_zero.any() else {}


@mistake("w zero point of one channel", ZERO, (Sum,), INPUTS)
def _w_zero_first(d: Design) -> Designs:
    """All channels take the zero point of the first one's weights."""
    zero = d.first.w_zero
    return {"": _first(d, w_zero=0 * zero + zero[0])} if (zero != zero[0]).any() else {}


@mistake("y zero point forgotten", ZERO, (Sum, Pool, Pair, Real), AFTER)
def _y_zero(d: Design) -> Designs:
    """The output's zero point is not added."""
    return _one(d, y_zero=0 * d.y_zero) if np.any(d.y_zero) else {}


@mistake("x zero point added", ZERO, (Sum, Pool), BY_HAND)
def _x_zero_sign(d: Design) -> Designs:
    """The input's zero point is added where it should be subtracted."""
    return {"": _first(d, x_zero=-d.first.x_zero)} if d.first.x_zero else {}


@mistake("y zero point subtracted", ZERO, (Sum, Pool, Pair, Real), AFTER)
def _y_zero_sign(d: Design) -> Designs:
    """The output's zero point is subtracted where it should be added."""
    return _one(d, y_zero=-d.y_zero) if np.any(d.y_zero) else {}


@mistake("x zero point after the sum", ZERO, (Sum, Pool), FOLD)
def _x_zero_once(d: Design) -> Designs:
    """The input's zero point is subtracted once from the sum, not from every input."""
    zero = d.first.x_zero
    if not zero:
        return {}
    if isinstance(d.first, Pool):
        return {"": _first(d, x_zero=0, finish=lambda acc: acc - zero)}
    pads = {"padded with it": zero, "padded with 0": 0} if _padded(d) else {"": zero}
    bias = d.first.bias - zero
    return {label: _first(d, x_zero=0, pad=pad, bias=bias) for label, pad in pads.items()}


@mistake("zero point folded, border padded with 0", ZERO, (Sum,), FOLD, "apache/tvm/issues/13364")
def _folded(d: Design) -> Designs:
    """The input's zero point is folded into the bias for all taps of a window, while the taps
    on the border read 0."""
    of = d.first
    if not of.x_zero or not _padded(d):
        return {}
    folded = of.bias - of.x_zero * of.rows.reshape(len(of.w), -1).sum(axis=1, dtype=np.int64)
    return {"": _first(d, x_zero=0, pad=0, bias=folded)}


@mistake("x and y zero points exchanged", ZERO, (Sum, Pool), INPUTS)
def _zeros_exchanged(d: Design) -> Designs:
    """Input and output have each other's zero point."""
    if d.first.x_zero == d.y_zero:
        return {}
    return {"": replace(_first(d, x_zero=int(d.y_zero)), y_zero=d.first.x_zero)}


@mistake(
    "x minus its zero point in 8 bits",
    ZERO,
    (Sum, Pool),
    "02-qlinearconv#weights-symmetric-127",
    "pytorch/executorch/pull/20655",
)
def _narrow_terms(d: Design) -> Designs:
    """The difference of input and zero point, which needs 9 bits, is kept in 8."""
    ways = {"wraps": accumulators.wrap, "saturates": accumulators.clamp}
    if isinstance(d.first, Pool):
        return {
            label: _first(d, collect=lambda t, f=function: f(t, 8).sum(axis=2, dtype=np.int64))
            for label, function in ways.items()
        }
    return {
        label: _first(d, narrow=lambda t, f=function: f(t, 8)) for label, function in ways.items()
    }


# --- the accumulator


def _registers(function: Callable) -> Callable[[Design], Designs]:
    def change(d: Design) -> Designs:
        widths = range(max(8, _needed(d.first.acc) - 12), _needed(d.first.acc))
        return {
            f"{bits} bits": _first(d, finish=lambda acc, bits=bits: function(acc, bits))
            for bits in widths
        }

    return change


mistake(
    "accumulator wraps",
    SUMMING,
    LAYERS,
    WRAPPING,
    "",
    "The accumulator wraps at too few bits; after every product or at the end, that is the same.",
)(_registers(accumulators.wrap))
mistake(
    "accumulator saturates at the end",
    SUMMING,
    LAYERS,
    WRAPPING,
    "",
    "The finished sum is saturated to too few bits.",
)(_registers(accumulators.clamp))


def _bound_bits(of: Sum) -> int:
    """A width that holds every partial sum of this input, in any order."""
    largest = int(np.abs(of.terms).max(initial=0))
    rows = np.abs(of.rows).sum(axis=2, dtype=np.int64).ravel()
    bound = int((largest * rows + np.abs(of.bias)).max())
    return ar.signed_bits(-bound, bound)


def _saturating(bits: int, tile: int, order: np.ndarray | None = None) -> Callable:
    def collect(columns: np.ndarray, rows: np.ndarray, bias: np.ndarray) -> np.ndarray:
        if order is not None:
            columns, rows = columns[:, order], rows[:, order]
        return accumulators.saturating_sum(columns, rows, bias, bits, tile)

    return collect


def _taps_first(of: Sum) -> np.ndarray:
    """The order of a window's products in which all channels of a tap come together, as in NHWC."""
    taps = of.rows.shape[2]
    return np.arange(taps).reshape(of.w.shape[1], -1).T.ravel()


@mistake("accumulator saturates at every product", SUMMING, (Sum,), WRAPPING)
def _saturates_running(d: Design) -> Designs:
    """The running sum is saturated to too few bits after each product."""
    of = d.first
    if of.collect is not None:
        return {}
    bits = _bound_bits(of)
    found = {f"{b} bits": _first(d, collect=_saturating(b, 1)) for b in range(12, bits)}
    if of.w[0, 0].size > 1 and of.w.shape[1] > 1 and bits > 16:
        found["16 bits, tap by tap"] = _first(d, collect=_saturating(16, 1, _taps_first(of)))
    return found


@mistake("accumulator saturates after tiles", SUMMING, (Sum,), WRAPPING)
def _saturates_tiles(d: Design) -> Designs:
    """The running sum is saturated to too few bits after each tile of products."""
    of = d.first
    if of.collect is not None:
        return {}
    taps, bits_needed = of.rows.shape[2], _bound_bits(of)
    tiles = [t for t in dict.fromkeys((of.w[0, 0].size, 4, 8, 16, 32, 64)) if 1 < t < taps]
    return {
        f"{bits} bits, tiles of {tile}": _first(d, collect=_saturating(bits, tile))
        for tile in tiles
        for bits in (16, 18, 20)
        if bits < bits_needed
    }


@mistake(
    "pairs saturate at 16 bits",
    SUMMING,
    (Sum,),
    "06-accumulators#two-products-in-16-bits-vpmaddubsw",
    "microsoft/onnxruntime/pull/24220",
)
def _pairs(d: Design) -> Designs:
    """Products are added in pairs that saturate at 16 bits, as x86's vpmaddubsw adds them."""
    of = d.first
    if of.collect is not None or of.w.dtype != np.int8 or of.w_zero.any():
        return {}
    lowest = int(np.iinfo(of.x.dtype).min) if of.x.dtype.kind == "i" else 0
    shift = of.x_zero - lowest  # what is added to a centred input to have 0 … 255
    if of.terms.min() + shift < 0 or of.terms.max() + shift > 255:
        return {}
    orders = {"channel by channel": np.arange(of.rows.shape[2])}
    if of.w[0, 0].size > 1 and of.w.shape[1] > 1:
        orders["tap by tap"] = _taps_first(of)

    def collect(order: np.ndarray) -> Callable:
        def sums(columns: np.ndarray, rows: np.ndarray, bias: np.ndarray) -> np.ndarray:
            x, w = (columns[:, order] + shift).astype(np.uint8), rows[:, order].astype(np.int8)
            _, lossy = accumulators.pair_saturations(x, w)
            folded = bias - shift * rows.sum(axis=1, dtype=np.int64)
            return lossy + folded[:, None]

        return sums

    rows = of.rows.reshape(-1, of.rows.shape[2]).astype(np.int8)
    able = {k: o for k, o in orders.items() if accumulators.can_saturate(rows[:, o]).any()}
    return {label: _first(d, collect=collect(order)) for label, order in able.items()}


@mistake(
    "accumulator drops low bits", SUMMING, LAYERS, "07-requantization#how-wide-the-product-grows"
)
def _low_bits(d: Design) -> Designs:
    """The low bits of the accumulator are lost."""
    return {
        f"{k} bit{'s' * (k > 1)}": _first(d, finish=lambda acc, k=k: (acc >> k) << k)
        for k in range(1, 9)
    }


@mistake("a product is missing", SUMMING, (Sum,), STAGES)
def _missing(d: Design) -> Designs:
    """A loop ends one step early, or begins one late: a tap, a row, a column or a channel of
    the window is left out."""
    of = d.first
    ends = {"last": -1, "first": 0}
    parts = {f"the {end} product": (slice(None), at, *[at] * (of.w.ndim - 2))
             for end, at in ends.items()}  # fmt: skip
    axes = {1: "input channel"} | ({2: "kernel row", 3: "kernel column"} if of.w.ndim == 4 else {})
    for axis, name in axes.items():
        for end, at in ends.items():
            if of.w.shape[axis] > 1:
                parts[f"the {end} {name}"] = (*[slice(None)] * axis, at)
    zeros = np.broadcast_to(of.w_zero.reshape(-1, *[1] * (of.w.ndim - 1)), of.w.shape)
    found = {}
    for label, part in parts.items():
        w = of.w.astype(np.int64)
        w[part] = zeros[part]
        found[label] = _first(d, w=w)
    return found


# --- the bias


@mistake("bias missing", BIAS, (Sum,), BIAS_SCALE)
def _bias_missing(d: Design) -> Designs:
    """The bias is not added."""
    return {"": _first(d, bias=0 * d.first.bias)} if d.first.bias.any() else {}


@mistake("bias more than once", BIAS, (Sum,), STAGES)
def _bias_twice(d: Design) -> Designs:
    """The bias is added twice, or once for each input channel or tap."""
    w, bias = d.first.w, d.first.bias
    counts = {"twice": 2, "for each input channel": w.shape[1], "for each tap": w[0, 0].size,
              "for each product": w[0].size}  # fmt: skip
    seen, found = {1}, {}
    for label, count in counts.items():
        if count not in seen and bias.any():
            found[label] = dict(bias=count * bias)
            seen.add(count)
    return _firsts(d, found)


@mistake("bias subtracted", BIAS, (Sum,), BIAS_SCALE)
def _bias_sign(d: Design) -> Designs:
    """The bias is subtracted where it should be added."""
    return {"": _first(d, bias=-d.first.bias)} if d.first.bias.any() else {}


@mistake("bias at a wrong scale", BIAS, (Sum,), BIAS_SCALE, "onnxruntime/onnxruntime-qnn/pull/739")
def _bias_scale(d: Design) -> Designs:
    """The bias has another scale than the accumulator, x_scale * w_scale."""
    bias, (x_scale, w_scale, y_scale) = d.first.bias, d.first.scales
    if not bias.any():
        return {}
    found = {f"times {2**k}": bias << k for k in range(1, 9)}
    found |= {f"divided by {2**k}": bias >> k for k in range(1, 9)}
    with np.errstate(all="ignore"):
        for label, scale in (("x_scale", x_scale), ("w_scale", w_scale), ("y_scale", y_scale)):
            found[f"times {label}"] = bias * np.asarray(scale, np.float64)
            found[f"divided by {label}"] = bias / np.asarray(scale, np.float64)
    limit = 2**31 - 1
    found = {k: np.clip(np.rint(v), -limit, limit).astype(np.int64) for k, v in found.items()}
    return {k: _first(d, bias=v) for k, v in found.items() if (v != bias).any()}


@mistake("bias in few bits", BIAS, (Sum,), BIAS_SCALE, "microsoft/onnxruntime/pull/22020")
def _bias_bits(d: Design) -> Designs:
    """The bias is kept in too few bits."""
    bias, found = d.first.bias, {}
    for bits in range(8, _needed(bias)):
        found[f"wraps at {bits} bits"] = accumulators.wrap(bias, bits).astype(np.int64)
        found[f"saturates at {bits} bits"] = accumulators.clamp(bias, bits).astype(np.int64)
    return {label: _first(d, bias=new) for label, new in found.items()}


@mistake(
    "bias after scaling",
    BIAS,
    (Sum,),
    "04-pool-dense#a-bias-after-rounding-is-another-function",
    "pytorch/executorch/pull/20655",
)
def _bias_late(d: Design) -> Designs:
    """The bias is added after the sum was scaled: as it is, or scaled and rounded apart."""
    bias = d.first.bias
    if not bias.any():
        return {}
    apart = np.rint(bias * np.asarray(d.factor, np.float64)).astype(np.int64)
    ways = {"as it is": bias, "rounded apart": np.broadcast_to(apart, bias.shape)}
    first = replace(d.first, bias=0 * bias)
    ndim = 2 + len(first.positions)
    return {k: replace(d, first=first, late=ar.per_channel(v, ndim)) for k, v in ways.items()}


@mistake("bias of another channel", BIAS, (Sum,), BIAS_SCALE)
def _bias_channel(d: Design) -> Designs:
    """Each channel has another channel's bias."""
    return {k: _first(d, bias=v) for k, v in _orders(d.first.bias, OTHER_CHANNELS).items()}


@mistake("bias byte order", BIAS, (Sum,), "10-your-design#vectors")
def _bias_bytes(d: Design) -> Designs:
    """The bytes of each bias are in the other order."""
    swapped = d.first.bias.astype(np.int32).byteswap().astype(np.int64)
    return {"": _first(d, bias=swapped)} if d.first.bias.any() else {}


OTHER_CHANNELS: dict[str, Callable] = {
    "the next one's": lambda v: np.roll(v, -1, 0),
    "the one before's": lambda v: np.roll(v, 1, 0),
    "in reverse": lambda v: v[::-1],
    "the first one's": lambda v: np.broadcast_to(v[:1], v.shape),
}


# --- scales


@mistake("per-tensor scale", SCALE, (Sum,), CHANNELS, "apache/tvm/pull/10162")
def _per_tensor(d: Design) -> Designs:
    """One weight scale is taken for all channels."""
    x_scale, w_scale, y_scale = d.first.scales
    if (w_scale == w_scale[0]).all():
        return {}
    ways = {"the first one's": w_scale[0], "the largest": w_scale.max(), "the mean": w_scale.mean()}
    return {k: _scaled(d, (x_scale, np.full_like(w_scale, v), y_scale)) for k, v in ways.items()}


@mistake("scale of another channel", SCALE, (Sum,), CHANNELS, "apache/tvm/pull/10162")
def _scale_channel(d: Design) -> Designs:
    """Each channel has another channel's weight scale."""
    x_scale, w_scale, y_scale = d.first.scales
    ways = {k: v for k, v in OTHER_CHANNELS.items() if k != "the first one's"}
    made = _orders(w_scale, ways)
    return {k: _scaled(d, (x_scale, v, y_scale)) for k, v in made.items()}


@mistake("x and y scales exchanged", SCALE, LAYERS, FACTOR)
def _scales_exchanged(d: Design) -> Designs:
    """Input and output have each other's scale."""
    x_scale, *between, y_scale = d.first.scales
    return {"": _scaled(d, (y_scale, *between, x_scale))} if x_scale != y_scale else {}


@mistake("a scale is left out", SCALE, LAYERS, FACTOR)
def _scale_left_out(d: Design) -> Designs:
    """One of the scales is left out of the factor."""
    names = (
        ("x_scale", "w_scale", "y_scale") if len(d.first.scales) == 3 else ("x_scale", "y_scale")
    )
    found = {}
    for i, name in enumerate(names):
        scales = list(d.first.scales)
        scales[i] = np.ones_like(scales[i])
        if (scales[i] != d.first.scales[i]).any():
            found[name] = _scaled(d, tuple(scales))
    return found


# --- multipliers


def _fixed(multiplier: np.ndarray, shift: np.ndarray) -> Callable[[Design], Fixed]:
    """acc * multiplier / 2**shift; a shift below 1 goes into the product."""
    multiplier, shift = np.asarray(multiplier, np.int64), np.asarray(shift, np.int64)
    left = np.clip(1 - shift, 0, 30)

    def value(d: Design) -> Fixed:
        ndim = d.first.acc.ndim
        product = d.first.acc.astype(np.int64) * ar.per_channel(multiplier << left, ndim)
        return Fixed(product, ar.per_channel(shift.clip(1, 62), ndim))

    return value


def _multiplied(d: Design, bits: int, rounding: str) -> Design:
    value = _fixed(*requantizers.fixed_point(d.factor, bits))
    return replace(d, value=value, rounding=rounding)


def _in_floats(d: Design, factor: np.ndarray) -> Design:
    """float32(acc) * another factor."""
    return replace(d, value=in_float32, factor=np.asarray(factor, np.float32))


def _products(d: Design) -> tuple[np.ndarray, np.ndarray]:
    """Of the factor's scales in float64: the numerator and the denominator."""
    if isinstance(d.first, Pool):
        x_scale, y_scale = (np.float64(s) for s in d.first.scales)
        return x_scale, y_scale * d.first.pixels
    x_scale, w_scale, y_scale = (np.asarray(s, np.float64) for s in d.first.scales)
    return x_scale * w_scale, y_scale


@mistake(
    "two roundings, as gemmlowp", MULTIPLIER, LAYERS, DOUBLE, "microsoft/onnxruntime/pull/3196"
)
def _gemmlowp(d: Design) -> Designs:
    """The product with a 31-bit multiplier is rounded to its upper half, shifted, and rounded
    again."""
    multiplier, shift = requantizers.fixed_point(d.factor, 31)
    if shift.min() < 31:
        return {}

    def value(d: Design) -> Fixed:
        return Fixed(*requantizers.gemmlowp_product(d.first.acc, multiplier, shift))

    ways = {"then half away, as the reference kernels": "half away",
            "then half up, as the optimized kernels": "half up"}  # fmt: skip
    return {label: replace(d, value=value, rounding=how) for label, how in ways.items()}


@mistake("Q31 multiplier", MULTIPLIER, LAYERS, FIXED, "ARM-software/CMSIS-NN/issues/214")
def _q31(d: Design) -> Designs:
    """The factor is a 31-bit integer multiplier and a shift, rounded once."""
    return {how: _multiplied(d, 31, how) for how in ("half up", "half away")}


@mistake("Q15 multiplier", MULTIPLIER, LAYERS, FIXED)
def _q15(d: Design) -> Designs:
    """The factor is a 15-bit integer multiplier and a shift, rounded once."""
    return {how: _multiplied(d, 15, how) for how in ("half up", "half away")}


@mistake(
    "multiplier of few bits",
    MULTIPLIER,
    LAYERS,
    "07-requantization#the-narrowest-exact-multiplier-proven",
)
def _few_bits(d: Design) -> Designs:
    """The factor is an integer multiplier of few bits and a shift."""
    widths = [bits for bits in range(3, 31) if bits != 15]
    return {f"{bits} bits": _multiplied(d, bits, "half up") for bits in widths}


@mistake("multiplier cut", MULTIPLIER, LAYERS, FIXED)
def _cut(d: Design) -> Designs:
    """The integer multiplier is cut to its bits where it should be rounded."""
    mantissa, exponent = np.frexp(np.asarray(d.factor, np.float64))
    found = {}
    for bits in (*range(4, 17), 31):
        multiplier = np.floor(mantissa * 2.0**bits).astype(np.int64)
        value = _fixed(multiplier, bits - exponent.astype(np.int64))
        found[f"{bits} bits"] = replace(d, value=value, rounding="half up")
    return found


@mistake("power-of-two factor", MULTIPLIER, LAYERS, STORED)
def _power_of_two(d: Design) -> Designs:
    """The factor is a shift alone."""
    one, shift = requantizers.power_of_two(d.factor)
    exponent = np.frexp(np.asarray(d.factor, np.float64))[1].astype(np.int64)
    ways = {"the nearest": shift, "the next below": 1 - exponent, "the next above": -exponent}
    return {k: replace(d, value=_fixed(one, s), rounding="half up") for k, s in ways.items()}


@mistake("one shift for all channels", MULTIPLIER, (Sum,), STORED)
def _one_shift(d: Design) -> Designs:
    """All channels' multipliers have the shift of the largest factor."""
    factor = np.asarray(d.factor, np.float64)
    if factor.ndim == 0 or (np.frexp(factor)[1] == np.frexp(factor[0])[1]).all():
        return {}
    found = {}
    for bits in (8, 12, 15, 16, 24, 31):
        _, shift = requantizers.fixed_point(factor.max(), bits)
        multiplier = np.rint(factor * 2.0 ** float(shift)).astype(np.int64)
        value = _fixed(multiplier, np.full(factor.shape, shift))
        found[f"{bits} bits"] = replace(d, value=value, rounding="half up")
    return found


@mistake("factor in float64", MULTIPLIER, LAYERS, FACTOR, "microsoft/onnxruntime/issues/11759")
def _float64(d: Design) -> Designs:
    """Factor and product are computed in float64."""
    above, below = _products(d)
    wide = above / below
    return {
        "factor and product": replace(
            d, value=lambda d: d.first.acc * ar.per_channel(wide, d.first.acc.ndim)
        ),
        "product only": replace(
            d,
            value=lambda d: (
                d.first.acc * ar.per_channel(np.asarray(d.factor, np.float64), d.first.acc.ndim)
            ),
        ),
    }


@mistake("factor rounded once", MULTIPLIER, LAYERS, FACTOR_ORDER)
def _rounded_once(d: Design) -> Designs:
    """The factor is computed in float64 and rounded to float32 once."""
    above, below = _products(d)
    return {"": _in_floats(d, above / below)}


@mistake(
    "factor in another order",
    MULTIPLIER,
    LAYERS,
    FACTOR_ORDER,
    "microsoft/onnxruntime/issues/11883",
)
def _another_order(d: Design) -> Designs:
    """The factor's float32 operations come in another order, or with a reciprocal."""
    if isinstance(d.first, Pool):
        x, y = (np.float32(s) for s in d.first.scales)
        count = np.float32(d.first.pixels)
        ways = {"(x_scale / y_scale) / count": (x / y) / count,
                "(x_scale / count) / y_scale": (x / count) / y,
                "(x_scale / y_scale) * (1 / count)": (x / y) * (np.float32(1) / count)}  # fmt: skip
    else:
        x, w, y = (np.asarray(s, np.float32) for s in d.first.scales)
        ways = {"x_scale * (w_scale / y_scale)": x * (w / y),
                "(x_scale / y_scale) * w_scale": (x / y) * w,
                "x_scale * w_scale * (1 / y_scale)": (x * w) * (np.float32(1) / y)}  # fmt: skip
    return {label: _in_floats(d, factor) for label, factor in ways.items()}


@mistake(
    "dequantized, then divided", MULTIPLIER, LAYERS, FACTOR, "microsoft/onnxruntime/issues/11883"
)
def _dequantized(d: Design) -> Designs:
    """The sum is made a real number, and that is divided by y_scale."""
    if isinstance(d.first, Pool):
        x, y = (np.float32(s) for s in d.first.scales)
        count = np.float32(d.first.pixels)
        return {
            "mean, then real": replace(
                d, value=lambda d: (d.first.acc.astype(np.float32) / count * x) / y
            ),
            "real, then mean": replace(
                d, value=lambda d: (d.first.acc.astype(np.float32) * x / count) / y
            ),
        }
    x, w, y = (np.asarray(s, np.float32) for s in d.first.scales)
    return {"": replace(d, value=lambda d: ar.rescale(d.first.acc, x * w) / y)}


@mistake("factor in 16 bits", MULTIPLIER, LAYERS, FACTOR)
def _float16(d: Design) -> Designs:
    """The factor is a float of 16 bits."""
    factor = np.asarray(d.factor, np.float32)
    bits = factor.view(np.uint32)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    with np.errstate(over="ignore", under="ignore"):
        half = factor.astype(np.float16)
    ways = {"float16": half, "bfloat16": nearest.astype(np.uint32).view(np.float32)}
    return {label: _in_floats(d, value) for label, value in ways.items()}


# --- the residual add


def _real_parts(of: Pair, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """(a - a_zero) * a_scale, and b's."""
    a = (of.a.astype(np.int32) - of.a_zero).astype(dtype) * dtype(of.a_scale)
    b = (of.b.astype(np.int32) - of.b_zero).astype(dtype) * dtype(of.b_scale)
    return a, b


def _sum_value(function: Callable[[Pair], np.ndarray], place: str = "after") -> Callable:
    def change(d: Design) -> Designs:
        return _one(d, value=lambda d: function(d.first), place=place)

    return change


def _dequantized_sum(of: Pair) -> np.ndarray:
    a, b = _real_parts(of, np.float32)
    return (a + b) / of.y_scale


def _ratio_sum(of: Pair) -> np.ndarray:
    ra, rb = of.a_scale / of.y_scale, of.b_scale / of.y_scale
    a, b = of.a.astype(np.int32) - of.a_zero, of.b.astype(np.int32) - of.b_zero
    return a.astype(np.float32) * ra + b.astype(np.float32) * rb


def _wide_sum(of: Pair) -> np.ndarray:
    a, b = _real_parts(of, np.float64)
    return (a + b) / np.float64(of.y_scale)


ADD_THREAD = "microsoft/onnxruntime/issues/25512"
mistake(
    "add: dequantize, add, quantize",
    ADDING,
    (Pair,),
    ADD,
    ADD_THREAD,
    "Both inputs are made float32 numbers, added, divided by the output's scale, rounded; the zero "
    "point comes last.",
)(_sum_value(_dequantized_sum))
mistake(
    "add: zero point after the rounding",
    ADDING,
    (Pair,),
    ADD,
    ADD_THREAD,
    "The scales' ratios are multiplied in float32; the zero point is added after the rounding.",
)(_sum_value(_ratio_sum))
mistake(
    "add: in float64",
    ADDING,
    (Pair,),
    ADD,
    "microsoft/onnxruntime/issues/11759",
    "The sum is computed in float64.",
)(_sum_value(_wide_sum))


@mistake("add: no fused multiply-add", ADDING, (Pair,), ADD, "microsoft/onnxruntime/issues/23202")
def _add_unfused(d: Design) -> Designs:
    """The kernel's float32 constants are right, but products and sums are rounded apart."""

    def value(d: Design) -> np.ndarray:
        of, zero = d.first, np.float32(d.y_zero)
        ra, rb = of.a_scale / of.y_scale, of.b_scale / of.y_scale
        fixed = zero - (ra * np.float32(of.a_zero) + rb * np.float32(of.b_zero))
        return ra * of.a.astype(np.float32) + (rb * of.b.astype(np.float32) + fixed)

    return _one(d, value=value, place="inside")


@mistake("add: each input rounded", ADDING, (Pair,), RECONCILED)
def _add_rounded(d: Design) -> Designs:
    """Each input is rescaled and rounded by itself, then the integers are added."""

    def value(d: Design) -> np.ndarray:
        a, b = _real_parts(d.first, np.float32)
        return np.rint(a / d.first.y_scale) + np.rint(b / d.first.y_scale)

    return _one(d, value=value, place="after")


@mistake("add: scales ignored", ADDING, (Pair,), RECONCILED)
def _add_unscaled(d: Design) -> Designs:
    """The stored integers are added as they are, less their zero points."""

    def value(d: Design) -> np.ndarray:
        of = d.first
        return of.a.astype(np.float32) - of.a_zero + of.b.astype(np.float32) - of.b_zero

    return _one(d, value=value, place="after")


@mistake("add: scales exchanged", ADDING, (Pair,), RECONCILED)
def _add_exchanged(d: Design) -> Designs:
    """The inputs have each other's scale, or each other's zero point."""
    of = d.first
    scales = dict(a_scale=of.b_scale, b_scale=of.a_scale)
    zeros = dict(a_zero=of.b_zero, b_zero=of.a_zero)
    found = {}
    if of.a_scale != of.b_scale:
        found |= {"scales": scales, "scales and zero points": scales | zeros}
    if of.a_zero != of.b_zero:
        found["zero points"] = zeros
    return _firsts(d, found)


@mistake("add: zero point forgotten", ADDING, (Pair,), "03-qlinearadd#one-element-by-hand")
def _add_zero(d: Design) -> Designs:
    """The zero point of an input is not subtracted."""
    of = d.first
    names = ("B", "A") if of.swapped else ("A", "B")
    found = {}
    if of.a_zero:
        found[names[0]] = dict(a_zero=0)
    if of.b_zero:
        found[names[1]] = dict(b_zero=0)
    if len(found) == 2:
        found["both"] = dict(a_zero=0, b_zero=0)
    return _firsts(d, found)


@mistake("add: one input only", ADDING, (Pair,), RECONCILED)
def _add_one(d: Design) -> Designs:
    """One input is added twice, or not at all."""
    of = d.first
    p, q = ("B", "A") if of.swapped else ("A", "B")
    return _firsts(
        d,
        {
            f"{p} alone": dict(b=np.full_like(of.b, of.b_zero)),
            f"{q} alone": dict(a=np.full_like(of.a, of.a_zero)),
            f"{p} read for {q}": dict(b=of.a),
            f"{q} read for {p}": dict(a=of.b),
        },
    )


@mistake("add: TensorFlow Lite's integers", ADDING, (Pair,), ADD_INTEGERS)
def _add_tflite(d: Design) -> Designs:
    """Both inputs are shifted left by 20, and three 31-bit multipliers round twice each."""

    def scaled(q: np.ndarray, factor: float) -> np.ndarray:
        product, shift = requantizers.gemmlowp_product(q, *requantizers.fixed_point(factor, 31))
        return requantizers.shift_right(product, shift, "half away")

    def value(d: Design) -> Fixed:
        of = d.first
        twice = 2 * max(np.float64(of.a_scale), np.float64(of.b_scale))
        a = (of.a.astype(np.int64) - of.a_zero) << 20
        b = (of.b.astype(np.int64) - of.b_zero) << 20
        total = scaled(a, of.a_scale / twice) + scaled(b, of.b_scale / twice)
        factor = twice / (2.0**20 * np.float64(of.y_scale))
        return Fixed(*requantizers.gemmlowp_product(total, *requantizers.fixed_point(factor, 31)))

    of = d.first
    if max(of.a_scale, of.b_scale) >= of.y_scale * 2.0**19:
        return {}
    return _one(d, value=value, place="after", rounding="half away")


@mistake("add: integer multipliers", ADDING, (Pair,), ADD_INTEGERS)
def _add_integers(d: Design) -> Designs:
    """Both inputs have an integer multiplier, and the sum is shifted right and rounded half
    up."""
    of = d.first
    ra, rb = np.float64(of.a_scale) / of.y_scale, np.float64(of.b_scale) / of.y_scale

    def value(shift: int) -> Callable[[Design], Fixed]:
        def fixed(d: Design) -> Fixed:
            of = d.first
            ma, mb = (int(np.rint(r * 2.0**shift)) for r in (ra, rb))
            a, b = of.a.astype(np.int64) - of.a_zero, of.b.astype(np.int64) - of.b_zero
            return Fixed(a * ma + b * mb, np.int64(shift))

        return fixed

    ways = {f"{shift} fractional bits": shift for shift in range(4, 31)}
    # 20 bits in the larger multiplier is how XNNPACK does it
    ways["XNNPACK's 20 bits"] = 20 - (int(np.frexp(np.float32(max(ra, rb)))[1]) - 1)
    return {
        label: replace(d, value=value(shift), place="after", rounding="half up")
        for label, shift in ways.items()
        if 1 <= shift <= 40
    }


# --- the pool


@mistake("pool: divisor", POOLING, (Pool,), POOL)
def _divisor(d: Design) -> Designs:
    """The sum is divided by another number than that of the pixels."""
    pixels = d.first.pixels
    counts = {"1": 1, "one less": pixels - 1, "one more": pixels + 1,
              "the next power of two": 1 << (pixels - 1).bit_length(),
              "the power of two below": 1 << (pixels.bit_length() - 1),
              "a row's pixels": d.first.x.shape[-1]}  # fmt: skip
    found, seen = {}, {pixels, 0}
    for label, count in counts.items():
        if count not in seen:
            seen.add(count)
            first = _sharing(replace(d.first, pixels=count), d.first)
            found[label] = replace(d, first=first, factor=first.factor)
    return found


@mistake("pool: mean rounded", POOLING, (Pool,), POOL, "uxlfoundation/oneDNN/issues/560")
def _mean_rounded(d: Design) -> Designs:
    """The mean is rounded to an integer, and that is rescaled."""
    ways: dict[str, Callable] = {
        "half to even": np.rint,
        "half away": lambda v: np.copysign(np.floor(np.abs(v) + 0.5), v),
        "half up": lambda v: np.floor(v + 0.5),
        "floor": np.floor,
        "toward zero": np.trunc,
    }
    found = {}
    for label, function in ways.items():
        pixels = d.first.pixels
        first = replace(
            d.first, pixels=1, finish=lambda acc, f=function, n=pixels: f(acc / n).astype(np.int64)
        )
        found[label] = replace(d, first=first, factor=first.factor)
    return found


@mistake(
    "pool: maximum", POOLING, (Pool,), "11-other-operators#max-pool-and-resize-integers-only-move"
)
def _maximum(d: Design) -> Designs:
    """The greatest pixel is taken where the mean is meant."""
    pixels = d.first.pixels
    return {"": _first(d, collect=lambda terms: terms.max(axis=2).astype(np.int64) * pixels)}


@mistake("pool: a pixel is missing", POOLING, (Pool,), POOL)
def _pixel_missing(d: Design) -> Designs:
    """The loop over the pixels ends one early, or leaves out a row."""
    row = d.first.x.shape[-1]
    ways = {
        "the last pixel": lambda t: t[..., :-1].sum(axis=2),
        "the first pixel": lambda t: t[..., 1:].sum(axis=2),
        "the last row": lambda t: t[..., :-row].sum(axis=2),
        "the first row": lambda t: t[..., row:].sum(axis=2),
    }
    return {label: _first(d, collect=function) for label, function in ways.items()}


# --- QuantizeLinear


@mistake("multiplied by the reciprocal", SCALE, (Real,), DIVISION)
def _reciprocal(d: Design) -> Designs:
    """The input is multiplied by 1 / y_scale where it should be divided."""
    return _one(d, value=lambda d: d.first.x * (np.float32(1) / d.first.y_scale))


@mistake("quotient in another type", SCALE, (Real,), DIVISION, "microsoft/onnxruntime/pull/32452")
def _quotient(d: Design) -> Designs:
    """The quotient of input and scale is not computed in float32."""

    def narrow(d: Design) -> np.ndarray:
        with np.errstate(all="ignore"):
            return d.first.x.astype(np.float16) / d.first.y_scale.astype(np.float16)

    def wide(d: Design) -> np.ndarray:
        return d.first.x.astype(np.float64) / d.first.y_scale.astype(np.float64)

    return {"float64": replace(d, value=wide), "float16": replace(d, value=narrow)}


@mistake("scale left out", SCALE, (Real,), "01-boundary#the-scales-of-this-network")
def _unscaled(d: Design) -> Designs:
    """The input is converted to integers without the scale."""
    return _one(d, value=lambda d: d.first.x) if (d.first.y_scale != 1).any() else {}


@mistake("pixels scaled to 0…1", INPUT, (Real,), "01-boundary#the-first-operator-costs-nothing")
def _pixels(d: Design) -> Designs:
    """The input was divided by 255 before it came here, or was not."""
    x = d.first.x
    ways = {"divided by 255": x / np.float32(255), "not divided": x * np.float32(255)}
    return _firsts(d, {label: dict(x=value) for label, value in ways.items()})


@mistake("image layout", LAYOUT, (Real,), ORDER, "pytorch/glow/issues/3815")
def _image_layout(d: Design) -> Designs:
    """The image is in NHWC order where NCHW is read, transposed, or in BGR order."""
    x = d.first.x
    if x.ndim != 4:
        return {}
    ways = {
        "NHWC read as NCHW": channels_last,
        "NCHW read as NHWC": channels_first,
        "channels reversed": lambda t: t[:, ::-1],
        "rows and columns": lambda t: t.swapaxes(2, 3) if t.shape[2] == t.shape[3] else None,
        "left and right": lambda t: t[..., ::-1],
        "top and bottom": lambda t: t[:, :, ::-1],
    }
    return {k: _first(d, x=v) for k, v in _orders(x, ways).items()}


# --- rounding


def _rounds(*roundings: tuple[str, str], place: str = "") -> Callable[[Design], Designs]:
    def change(d: Design) -> Designs:
        where = d.place if not place or d.place == "inside" else place
        return {
            label: replace(d, rounding=rounding, place=where)
            for label, rounding in roundings
            if (rounding, where) != (d.rounding, d.place)
        }

    return change


mistake(
    "round half up",
    ROUNDING,
    REQUANTIZED,
    TIES,
    "microsoft/onnxruntime/issues/11759",
    "A tie goes up where it should go to the even integer.",
)(_rounds(("", "half up"), ("by adding 0.5 in float32", "half up in float32")))
mistake(
    "round half away from zero",
    ROUNDING,
    REQUANTIZED,
    TIES,
    "microsoft/onnxruntime/issues/25045",
    "A tie goes away from zero, as C's round does it.",
)(_rounds(("", "half away")))
mistake(
    "round half down",
    ROUNDING,
    REQUANTIZED,
    TIES,
    "",
    "A tie goes down where it should go to the even integer.",
)(_rounds(("", "half down")))
mistake(
    "floor",
    ROUNDING,
    REQUANTIZED,
    MANY,
    "",
    "The result is rounded down, as an arithmetic shift right does it.",
)(_rounds(("", "floor")))
mistake("ceiling", ROUNDING, REQUANTIZED, MANY, "", "The result is rounded up.")(
    _rounds(("", "ceil"))
)
mistake(
    "truncated toward zero",
    ROUNDING,
    REQUANTIZED,
    MANY,
    "microsoft/onnxruntime/pull/32452",
    "The fraction is dropped, as C's conversion to an integer does it.",
)(_rounds(("", "toward zero")))
ADDED = (Sum, Pool, Real)
mistake(
    "zero point before the rounding",
    ROUNDING,
    ADDED,
    AFTER,
    "",
    "The output's zero point is added before the rounding.",
)(_rounds(("", "half even"), place="before"))
mistake(
    "half away after the zero point",
    ROUNDING,
    ADDED,
    AFTER,
    "",
    "The zero point is added first; then a tie goes away from zero.",
)(_rounds(("", "half away"), place="before"))
mistake(
    "truncated after the zero point",
    ROUNDING,
    ADDED,
    AFTER,
    "",
    "The zero point is added first; then the fraction is dropped.",
)(_rounds(("", "toward zero"), place="before"))


@mistake("rounded twice", ROUNDING, REQUANTIZED, DOUBLE, "ARM-software/CMSIS-NN/issues/214")
def _twice(d: Design) -> Designs:
    """The result is first rounded to a few fractional bits, then to an integer."""

    def value(bits: int) -> Callable[[Design], np.ndarray]:
        def rounded(inner: Design) -> np.ndarray:
            found = d.value(inner)
            if isinstance(found, Fixed):
                found = found.product / 2.0**found.shift
            return np.floor(found * found.dtype.type(2**bits) + found.dtype.type(0.5)) / 2**bits

        return rounded

    return {
        f"{bits} fractional bit{'s' * (bits > 1)}": replace(
            d, value=value(bits), rounding="half up"
        )
        for bits in range(1, 9)
    }


# --- saturation


def wrapped(rounded: np.ndarray, zero: np.ndarray, low: int, high: int) -> np.ndarray:
    """The low bits of the result, as a conversion without saturation keeps them."""
    return (rounded + zero - low) % (high - low + 1) + low


@mistake("output wraps", RANGE, REQUANTIZED, SATURATION, "ARM-software/CMSIS-NN/pull/220")
def _wraps(d: Design) -> Designs:
    """The result is not saturated; its low 8 bits are kept."""
    return _one(d, saturate=wrapped)


@mistake("no saturation", RANGE, REQUANTIZED, SATURATION)
def _unsaturated(d: Design) -> Designs:
    """The result is not saturated; the dump holds what does not fit into 8 bits."""
    return _one(d, saturate=lambda rounded, zero, low, high: rounded + zero)


@mistake("saturates at ±127", RANGE, REQUANTIZED, "02-qlinearconv#weights-symmetric-127")
def _symmetric(d: Design) -> Designs:
    """The result is saturated to -127 … 127, without -128."""
    if d.limits[0] >= 0:
        return {}
    return _one(d, saturate=lambda r, zero, low, high: np.clip(r + zero, -high, high))


@mistake(
    "saturates before the zero point",
    RANGE,
    (Sum, Pool, Real),
    "02-qlinearconv#clamp-then-round-nine-bits-are-enough",
)
def _saturates_early(d: Design) -> Designs:
    """The result is saturated before the zero point is added."""
    return {
        "then wraps": replace(
            d, saturate=lambda r, z, low, high: wrapped(np.clip(r, low, high), z, low, high)
        ),
        "then saturates": replace(
            d, saturate=lambda r, z, low, high: clamp(np.clip(r, low, high), z, low, high)
        ),
    }


@mistake("saturates to the other type", RANGE, REQUANTIZED, SATURATION)
def _other_range(d: Design) -> Designs:
    """The result is saturated to 0 … 255 where the output is int8, or to -128 … 127 where it
    is uint8."""
    if d.limits not in ((-128, 127), (0, 255)):
        return {}

    def saturate(r: np.ndarray, zero: np.ndarray, low: int, high: int) -> np.ndarray:
        ends = (0, 255) if low else (-128, 127)
        return wrapped(np.clip(r + zero, *ends), 0, low, high)

    return _one(d, saturate=saturate)


@mistake("ReLU at 0", RANGE, REQUANTIZED, RELU, "microsoft/onnxruntime/issues/20975")
def _relu_at_0(d: Design) -> Designs:
    """The ReLU cuts the stored integers at 0 instead of the zero point."""
    if d.limits[0] >= 0:
        return {}
    return _one(d, saturate=lambda r, z, low, high: np.maximum(clamp(r, z, low, high), 0))


@mistake("ReLU that is not there", RANGE, REQUANTIZED, RELU)
def _relu_added(d: Design) -> Designs:
    """Values below the zero point are cut, though the layer has no ReLU."""
    zero = d.y_zero
    return _one(d, saturate=lambda r, z, low, high: np.maximum(clamp(r, z, low, high), zero))


@mistake("ReLU missing", RANGE, REQUANTIZED, RELU, "microsoft/onnxruntime/issues/9425")
def _relu_missing(d: Design) -> Designs:
    """Values below the zero point are not cut, and wrap; the layer's ReLU is its
    saturation."""
    if np.any(d.y_zero != d.limits[0]):
        return {}

    def saturate(r: np.ndarray, zero: np.ndarray, low: int, high: int) -> np.ndarray:
        return wrapped(np.minimum(r + zero, high), 0, low, high)

    return _one(d, saturate=saturate)


# --- the finished tensor


@mistake("output layout", OUT, ANY, ORDER, "vinx13/tvm-cuda-int8-benchmark/issues/4")
def _output_layout(d: Design) -> Designs:
    """The output is in another order: NHWC, or channels in blocks."""
    if len(d.shape) < 3:
        return {}
    ways = {"NHWC": channels_last, "NCHW read as NHWC": channels_first}
    ways |= {f"NCHW{c}c": lambda t, c=c: blocked(t, c) for c in (2, 4, 8, 16, 32, 64)}
    return _finished(d, ways)


@mistake("output transposed", OUT, ANY, ORDER)
def _output_transposed(d: Design) -> Designs:
    """Rows and columns of the output have changed places, or it is mirrored."""
    if len(d.shape) != 4:
        return {}
    ways = {"left and right": lambda t: t[..., ::-1], "top and bottom": lambda t: t[:, :, ::-1]}
    if d.shape[2] == d.shape[3]:
        ways["rows and columns"] = lambda t: t.swapaxes(2, 3)
    return _finished(d, ways)


@mistake("output channels", OUT, ANY, ORDER)
def _output_channels(d: Design) -> Designs:
    """The output's channels come in another order."""
    if len(d.shape) < 2:
        return {}
    ways = {
        "reversed": lambda t: t[:, ::-1],
        "one further": lambda t: np.roll(t, -1, 1),
        "one back": lambda t: np.roll(t, 1, 1),
    }
    return _finished(d, ways)


@mistake("output off by one element", OUT, ANY, ORDER)
def _output_shifted(d: Design) -> Designs:
    """The output begins one element late or early, or one row."""
    steps = {"by +1": 1, "by -1": -1}
    if len(d.shape) > 2 and d.shape[-1] > 1:
        steps |= {"by a row": d.shape[-1], "by a row back": -d.shape[-1]}
    return _finished(
        d, {k: lambda t, s=s: np.roll(t.ravel(), s).reshape(t.shape) for k, s in steps.items()}
    )


@mistake("output byte order", OUT, ANY, ORDER)
def _output_bytes(d: Design) -> Designs:
    """The bytes of each word of the output are in the other order."""
    if d.dtype.itemsize != 1:
        return {}
    count = int(np.prod(d.shape))
    sizes = [size for size in (2, 4, 8) if count % size == 0]
    return _finished(d, {f"words of {s} bytes": lambda t, s=s: _bytes_swapped(t, s) for s in sizes})


@mistake("output type", OUT, ANY, INPUTS)
def _output_type(d: Design) -> Designs:
    """The output has the other type's offset: int8 where uint8 is meant, or the other way
    round."""
    if d.dtype not in (np.int8, np.uint8):
        return {}
    low = -128 if d.dtype == np.int8 else 0
    return {"": _then(d, lambda _, y: (y + 128 - low) % 256 + low)}


@mistake("output bit stuck", OUT, ANY, SPREADS)
def _stuck(d: Design) -> Designs:
    """One bit of the output is always 0, or always 1."""
    if d.dtype not in (np.int8, np.uint8):
        return {}
    low = -128 if d.dtype == np.int8 else 0

    def held(bit: int, level: int) -> Callable:
        def change(_: Design, y: np.ndarray) -> np.ndarray:
            low_bits = y % 256
            low_bits = low_bits | (1 << bit) if level else low_bits & ~(1 << bit)
            return (low_bits - low) % 256 + low

        return change

    return {
        f"bit {bit} at {level}": _then(d, held(bit, level)) for bit in range(8) for level in (0, 1)
    }


def _finished(d: Design, ways: dict[str, Callable]) -> Designs:
    probe = np.arange(int(np.prod(d.shape))).reshape(d.shape)
    found = {}
    for label, function in ways.items():
        moved = function(probe)
        if moved is not None and (moved != probe).any():
            found[label] = _then(d, lambda _, y, f=function: f(y))
    return found


def _other_type(q: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(q).view(np.uint8 if q.dtype == np.int8 else np.int8)
