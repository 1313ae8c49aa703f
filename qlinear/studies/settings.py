"""What a study tries: settings, from a TOML file or from flags."""

import hashlib
import json
import math
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path

from qlinear.errors import UnusableInput
from qlinear.files import read_bytes
from qlinear.hardware.analog import Array
from qlinear.hardware.converters import Converter
from qlinear.hardware.designs import DESIGNS
from qlinear.hardware.devices import Device
from qlinear.hardware.requantizers import ROUNDINGS
from qlinear.onnx_model import Model, load

DEFAULT = Path(__file__).with_name("default.toml")
WRAP, AT_END, EVERY = "wrap", "saturate at the end", "saturate at every MAC"
HOW = WRAP, AT_END, EVERY
ALONE, ALL_BUT = "alone", "all but"
EXACT, FILES = "exact", "files"
MOST = 10_000  # settings of one table

Value = bool | int | float | str


@dataclass(frozen=True)
class Setting:
    """One way to compute a network.

    ``values`` are the keys of its section that say something, in the section's order; what is left
    out has its default.
    """

    section: str
    values: tuple[tuple[str, Value], ...] = ()
    images: int | None = None  # on how many of the first; None: all
    sensitivity: int = 0  # on how many images each layer is studied by itself
    mode: str = ""  # ALONE or ALL_BUT: of one layer
    layer: str = ""

    def __getitem__(self, key: str) -> Value:
        return dict(self.values).get(key, DEFAULTS[self.section].get(key))

    @property
    def key(self) -> str:
        """Its name in a journal: a hash of all that decides its numbers, on given images."""
        said = {k: v for k, v in self.values if k != "file"}
        text = json.dumps([self.section, said, self.mode, self.layer], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def title(self) -> str:
        """What it is, in words."""
        return TITLES[self.section](self)

    def of_layer(self, mode: str, layer: str) -> "Setting":
        return replace(self, images=self.sensitivity, sensitivity=0, mode=mode, layer=layer)


def identity(model: Model) -> str:
    """SHA-256 of a model's file, with the weights that lie beside it."""
    source = model.source
    raw = source if isinstance(source, bytes) else model.proto.SerializeToString(deterministic=True)
    return hashlib.sha256(raw).hexdigest()


def array_of(values: dict[str, Value]) -> Array:
    """The array of a setting of section ``analog``.

    Raises:
        UnusableInput: a value is illegal, or two do not go together.
    """
    base = DESIGNS[values["design"]] if "design" in values else Array()
    parts: dict[type, dict] = {Array: {}, Converter: {}, Device: {}}
    for key, value in values.items():
        if key in ANALOG:
            kind, name = ANALOG[key]
            parts[kind][name] = value
    adc = replace(base.adc, **parts[Converter])
    device = replace(base.device, **parts[Device])
    array = replace(base, adc=adc, device=device, **parts[Array])
    if not values.get("clip"):
        return array
    if adc.bits is None or "adc_top" in values or values.get("calibrated"):
        raise UnusableInput("clip: steps of one count need adc_bits, and no other range")
    return replace(array, adc=replace(adc, top=float(max(adc.codes(array.signed)[1], 1))))


# --- the keys of each section, and what they may be


def _whole(least: int, most: int) -> Callable[[object], str]:
    def wrong(value: object) -> str:
        fits = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        return "" if fits else f"a whole number from {least} to {most} needed"

    return wrong


def _one_of(names: Iterable[str]) -> Callable[[object], str]:
    names = tuple(names)
    needed = f"one of {', '.join(map(repr, names))} needed"
    return lambda value: "" if isinstance(value, str) and value in names else needed


def _boolean(value: object) -> str:
    return "" if isinstance(value, bool) else "true or false needed"


def _text(value: object) -> str:
    return "" if isinstance(value, str) and value else "a text needed"


def _number(value: object) -> str:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return "" if plain and math.isfinite(value) else "a finite number needed"


def _checker(annotation) -> Callable[[object], str]:
    names = str(getattr(annotation, "__name__", annotation))
    if annotation is bool:
        return _boolean
    if annotation is int or names.startswith("int"):
        return _whole(0, 1 << 31)
    if "float" in names:
        return _number
    return _text


# key to the dataclass and the field that it sets
ANALOG: dict[str, tuple[type, str]] = {
    f"{before}{field.name}": (kind, field.name)
    for kind, before in ((Array, ""), (Converter, "adc_"), (Device, ""))
    for field in fields(kind)
    if field.name not in ("adc", "device")
}
_TYPES = {(kind, f.name): f.type for kind in (Array, Converter, Device) for f in fields(kind)}
KEYS: dict[str, dict[str, Callable[[object], str]]] = {
    "accumulators": {"bits": _whole(2, 32), "how": _one_of(HOW)},
    "requantization": {"multiplier_bits": _whole(0, 31), "rounding": _one_of(ROUNDINGS)},
    "bit_widths": {
        "weights": _whole(2, 8),
        "activations": _whole(2, 8),
        "per_channel": _boolean,
    },
    "analog": {
        "design": _one_of(DESIGNS),
        **{key: _checker(_TYPES[place]) for key, place in ANALOG.items()},
        "clip": _boolean,
        "calibrated": _whole(0, 1 << 31),
    },
    FILES: {"file": _text, "saturate": _whole(2, 8)},
}
DEFAULTS: dict[str, dict[str, object]] = {
    EXACT: {},
    "accumulators": {"how": HOW},
    "requantization": {"rounding": "half up"},
    "bit_widths": {"weights": 8, "activations": 8, "per_channel": True},
    "analog": {"seed": 0, "calibrated": 0, "clip": False},
    FILES: {"saturate": 8},
}
NEEDED = {
    "accumulators": ("bits",),
    "requantization": ("multiplier_bits",),
    "bit_widths": ("weights", "activations"),  # one of them
    FILES: ("file",),
}
SHARED = {"images": _whole(1, 1 << 40)}


def read(path: Path) -> list[Setting]:
    """The settings of a TOML file.

    Raises:
        UnusableInput: it is no TOML, or a section, a key or a value is unknown; the message names
            the file and the key.
    """
    try:
        content = tomllib.loads(read_bytes(path).decode())
    except UnicodeDecodeError:
        raise UnusableInput(f"{path}: no text in UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        twice = "overwrite" in str(error) or "declare" in str(error)
        hint = "; a section that is repeated is [[section]] each time" if twice else ""
        raise UnusableInput(f"{path}: not TOML: {error}{hint}") from None
    return settled(content, path)


def settled(content: dict, path: Path | str, folder: Path | None = None) -> list[Setting]:
    """The settings of what a TOML file holds, each once, in order.

    Args:
        path: that messages name.
        folder: that names of files start from; by default that of ``path``.

    Raises:
        UnusableInput: as :func:`read`.
    """
    folder = Path(path).parent if folder is None else folder
    found: list[Setting] = []
    for section, tables in content.items():
        if section not in KEYS:
            raise UnusableInput(f"{path}: no section {section!r} (there are: {', '.join(KEYS)})")
        tables = tables if isinstance(tables, list) else [tables]
        for table in tables:
            if not isinstance(table, dict):
                raise UnusableInput(f"{path}: {section}: a table needed, [{section}]")
            found += _of_table(section, table, path, folder)
    if not found:
        raise UnusableInput(f"{path}: no section; there are: {', '.join(KEYS)}")
    merged: dict[str, Setting] = {}
    for one in found:
        other = merged.get(one.key, one)  # the same twice: on the more images
        images = None if None in (one.images, other.images) else max(one.images, other.images)
        sensitivity = max(one.sensitivity, other.sensitivity)
        merged[one.key] = replace(one, images=images, sensitivity=sensitivity)
    return list(merged.values())


def _of_table(section: str, table: dict, path: Path | str, folder: Path) -> list[Setting]:
    keys, where = KEYS[section], f"{path}: [{section}]"
    for key, value in table.items():
        if key == "sensitivity":
            wrong = _boolean(value) and SHARED["images"](value)
            if wrong:
                raise UnusableInput(f"{where} {key} is {value!r}: {wrong}, or true or false")
            if section == FILES and value:
                raise UnusableInput(f"{where} {key}: another file is studied as a whole")
            continue
        check = keys.get(key) or SHARED.get(key)
        if check is None:
            known = ", ".join([*keys, *SHARED, "sensitivity"])
            raise UnusableInput(f"{where} no key {key!r} (there are: {known})")
        values = value if isinstance(value, list) and key in keys else [value]
        if not values:
            raise UnusableInput(f"{where} {key}: an empty list")
        for one in values:
            if wrong := check(one):
                raise UnusableInput(f"{where} {key} is {one!r}: {wrong}")
    needed = NEEDED.get(section, ())
    if needed and not any(key in table for key in needed):
        raise UnusableInput(f"{where} {' or '.join(needed)} is missing")
    return _crossed(section, table, where, folder)


def _crossed(section: str, table: dict, where: str, folder: Path) -> list[Setting]:
    said = {**{k: v for k, v in DEFAULTS[section].items() if isinstance(v, tuple)}, **table}
    lists = {k: said[k] if isinstance(said[k], list | tuple) else [said[k]]
             for k in KEYS[section] if k in said}  # fmt: skip
    if math.prod(map(len, lists.values())) > MOST:
        raise UnusableInput(f"{where} more than {MOST} settings; cut its lists")
    sensitivity, images = table.get("sensitivity", 0), table.get("images")
    if sensitivity is True:
        sensitivity = images or 1 << 40
    found = []
    for combination in product(*lists.values()):
        values = dict(zip(lists, combination, strict=True))
        if section == "accumulators" and values["how"] == EVERY and values["bits"] > 24:
            raise UnusableInput(f"{where} bits is {values['bits']}: {EVERY!r} takes up to 24")
        if section == "analog":
            try:
                array_of(values)
            except UnusableInput as error:
                raise UnusableInput(f"{where} {error}") from None
        if section == FILES:
            file = folder / values["file"]
            values["sha256"] = identity(load(file))
            values["file"] = str(file)
        # what is said is kept only where it is not the default, so that a setting has one key
        plain = {k: v for k, v in values.items() if v != DEFAULTS[section].get(k)}
        found.append(Setting(section, tuple(plain.items()), images, int(sensitivity)))
    return found


# --- in words


def _accumulators(setting: Setting) -> str:
    return f"{setting['bits']} bits, {setting['how']}"


def _requantization(setting: Setting) -> str:
    bits = setting["multiplier_bits"]
    return f"{f'{bits} bits' if bits else 'shift alone'}, {setting['rounding']}"


def _bit_widths(setting: Setting) -> str:
    w, x = setting["weights"], setting["activations"]
    parts = [f"weights {w} bits, {'per-channel' if setting['per_channel'] else 'per-tensor'}"]
    if w == 8 and setting["per_channel"]:
        parts = []
    return ", ".join([*parts, f"activations {x} bits"] if x < 8 or not parts else parts)


def _analog(setting: Setting) -> str:
    apart = ("design", "clip", "calibrated", "seed")
    said = [f"{k} {v}" for k, v in setting.values if k not in apart]
    named = [str(setting["design"])] if setting["design"] else []
    clip = ["clip"] if setting["clip"] else []
    ranges = [f"ranges of {setting['calibrated']} images"] if setting["calibrated"] else []
    chip = [f"chip {setting['seed']}"] if setting["seed"] else []
    return ", ".join([*named, *said, *clip, *ranges, *chip]) or "ideal"


def _files(setting: Setting) -> str:
    narrow = f", saturated to {setting['saturate']} bits" if setting["saturate"] < 8 else ""
    return f"{Path(str(setting['file'])).name}{narrow}"


TITLES: dict[str, Callable[[Setting], str]] = {
    EXACT: lambda setting: "exact",
    "accumulators": _accumulators,
    "requantization": _requantization,
    "bit_widths": _bit_widths,
    "analog": _analog,
    FILES: _files,
}
