"""Read what hardware, a simulator or a kernel computed: tensors in files, matched to a graph's.

A file holds one tensor: ``.npy``, ``.npz``, ``$readmemh`` text (``.hex``, ``.mem``), raw
little-endian binary (``.bin``, ``.raw``, ``.dat``) or numbers in text (``.csv``, ``.txt``). Text
and binary say nothing of shapes: their elements are taken in the order of a layout.
"""

import json
import re
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qlinear.designs import DESIGNS, SUMMED
from qlinear.errors import UnusableInput
from qlinear.files import read_bytes
from qlinear.inputs import names_in, read_npy, reading
from qlinear.onnx_model import Model
from qlinear.operators.quantize_linear import RANGES
from qlinear.vectors import folder_name, safe

HEX, BINARY, TEXT = (".hex", ".mem"), (".bin", ".raw", ".dat"), (".csv", ".txt")
SUFFIXES = (".npy", ".npz", *HEX, *BINARY, *TEXT)
TYPES = ("int8", "uint8", "int16", "int32", "float32")  # of an element in binary or hex
ENDINGS = ("_quantized", "_quant")  # that ONNX Runtime's quantizer gives to names
SUMS = ("acc", "sums")  # names of accumulators, as in golden vectors


@dataclass(frozen=True, eq=False)
class Raw:
    """What a file holds, before it is known which tensor that is."""

    path: Path
    name: str  # of the array in an archive, or of the file
    data: np.ndarray  # numbers; of binary and of hex the bytes and words, without a sign
    form: str  # "array", "numbers", "bytes", or "words"
    bits: int = 0  # of a word


@dataclass(frozen=True, eq=False)
class Reading:
    """One way to understand a dump."""

    sums: bool  # accumulators, not the node's output
    values: np.ndarray  # int64, or float64 where the tensor is a float's; the tensor's shape
    note: str  # empty where the file leaves no other way


@dataclass(frozen=True, eq=False)
class Dump:
    """A tensor of the graph as the reader's hardware has it."""

    tensor: str
    path: Path
    readings: tuple[Reading, ...]
    notes: tuple[str, ...] = ()


# --- files


def read_file(path: Path) -> list[Raw]:
    """The arrays in a file: one, or those of an archive.

    Raises:
        UnusableInput: it cannot be read; the message names the file and the place.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        with reading(path), path.open("rb") as file:
            return [_raw(path, path.stem, read_npy(file, path.stat().st_size, path))]
    if suffix == ".npz":
        return _archive(path)
    if suffix not in SUFFIXES:
        raise UnusableInput(f"{path}: not a dump that is read here ({', '.join(SUFFIXES)})")
    raw = read_bytes(path)
    if not raw:
        raise UnusableInput(f"{path}: empty")
    if suffix in BINARY:
        return [Raw(path, path.stem, np.frombuffer(raw, np.uint8), "bytes")]
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise UnusableInput(f"{path}: not text; name raw binary .bin") from None
    return [_words(path, text) if suffix in HEX else _numbers(path, text)]


def _raw(path: Path, name: str, data: np.ndarray) -> Raw:
    if data.dtype.kind not in "iufb":
        raise UnusableInput(f"{path}: {name}: {data.dtype} values; numbers needed")
    return Raw(path, name, data, "array")


def _archive(path: Path) -> list[Raw]:
    found = []
    for name in names_in(path):
        with reading(path), zipfile.ZipFile(path) as archive:
            size = archive.getinfo(f"{name}.npy").file_size
            with archive.open(f"{name}.npy") as member:
                found.append(_raw(path, name, read_npy(member, size, path)))
    if not found:
        raise UnusableInput(f"{path}: holds no arrays")
    return found


def _words(path: Path, text: str) -> Raw:
    """$readmemh text: words in hexadecimal digits, comments, addresses in order."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.S)
    words: list[str] = []
    for token in text.split():
        if token.startswith("@"):
            if not re.fullmatch(r"@[0-9a-fA-F]+", token) or int(token[1:], 16) != len(words):
                raise UnusableInput(f"{path}: {token} is not the address of word {len(words)}")
            continue
        words.append(token.replace("_", ""))
    digits = max(map(len, words), default=0)
    for i, word in enumerate(words):
        if not re.fullmatch("[0-9a-fA-F]+", word):
            unknown = re.fullmatch("[0-9a-fA-FxXzZ]+", word)
            why = "it was never written" if unknown else "not hexadecimal digits"
            raise UnusableInput(f"{path}: word {i} is {word[:20]}: {why}")
    if not words or digits > 4096:
        raise UnusableInput(f"{path}: {'no words' if not words else 'words of over 16,384 bits'}")
    even = digits + digits % 2
    raw = bytes.fromhex("".join(word.rjust(even, "0") for word in words))
    data = np.frombuffer(raw, np.uint8).reshape(len(words), -1)  # most significant byte first
    return Raw(path, path.stem, data, "words", 4 * digits)


def _numbers(path: Path, text: str) -> Raw:
    """Numbers between commas, semicolons and blanks; a first line of names is left out."""
    lines = [line for line in text.splitlines() if line.strip() and line.lstrip()[0] != "#"]
    if lines and not all(_number(token) for token in _tokens(lines[0])):
        lines = lines[1:]
    rows = [_tokens(line) for line in lines]
    for i, row in enumerate(rows):
        wrong = next((token for token in row if not _number(token)), None)
        if wrong is not None:
            raise UnusableInput(f"{path}: row {i}: {wrong[:20]!r} is not a number")
    data = np.array([float(token) for row in rows for token in row])
    if not data.size:
        raise UnusableInput(f"{path}: no numbers")
    return Raw(path, path.stem, data, "numbers")


def _tokens(line: str) -> list[str]:
    return [token for token in re.split(r"[,;\s]+", line) if token]


def _number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


# --- from numbers to a tensor


def physical(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """The shape in which a tensor of ONNX's shape lies in memory.

    Args:
        layout: NCHW, NHWC, or NCHWc with a number in it, as NCHW16c; the same for any number of
            spatial axes, and without effect on a tensor that has none.
    """
    if len(shape) < 3 or layout == "NCHW":
        return shape
    n, c, *spatial = shape
    if layout == "NHWC":
        return (n, *spatial, c)
    block = block_of(layout)
    return (n, -(-c // block), *spatial, block)


def block_of(layout: str) -> int:
    """How many channels a block has in a layout such as NCHW16c.

    Raises:
        UnusableInput: it is no layout.
    """
    match = re.fullmatch(r"NCHW([1-9][0-9]{0,3})c", layout)
    if not match:
        raise UnusableInput(f"--layout {layout}: NCHW, NHWC, or NCHWc as NCHW16c needed")
    return int(match[1])


def to_nchw(values: np.ndarray, shape: tuple[int, ...], layout: str) -> np.ndarray:
    """A tensor from its physical shape to ONNX's; channels that fill up a block are dropped."""
    if len(shape) < 3 or layout == "NCHW":
        return values.reshape(shape)
    values = np.moveaxis(values.reshape(physical(shape, layout)), -1, 1 if layout == "NHWC" else 2)
    if layout != "NHWC":
        values = values.reshape(len(values), -1, *shape[2:])[:, : shape[1]]
    return values


def from_nchw(values: np.ndarray, layout: str) -> np.ndarray:
    """A tensor in its physical shape; a last block is filled up with zeros."""
    if values.ndim < 3 or layout == "NCHW":
        return values
    if layout == "NHWC":
        return np.moveaxis(values, 1, -1)
    block, c = block_of(layout), values.shape[1]
    widths = [(0, 0), (0, -c % block), *[(0, 0)] * (values.ndim - 2)]
    values = np.pad(values, widths)
    return np.moveaxis(values.reshape(len(values), -1, block, *values.shape[2:]), 2, -1)


def tensor_of(
    raw: Raw, shape: tuple[int, ...], layout: str | None, kind: str | None, what: str
) -> tuple[np.ndarray, str]:
    """The elements of a file as a tensor of ONNX's shape, and a note on how they were taken.

    Args:
        layout: None where the file is to say; then NCHW, if its shape is no other.
        kind: type of an element in binary or hex; None where the size is to say.
        what: the tensor, as a message names it.

    Raises:
        UnusableInput: the file holds another number of elements.
    """
    note = ""
    if raw.form == "array" and layout is None:
        layout = next(iter(_layouts_of(raw.data.shape, shape)), "NCHW")
        if layout != "NCHW":
            note = f"its shape {_by(raw.data.shape)} is {layout}"
    layout = layout or "NCHW"
    place = physical(shape, layout)
    count = int(np.prod(place))
    values = _elements(raw, count, kind)
    if values.size != count:
        held = _by(raw.data.shape) if raw.form == "array" else f"{values.size} elements"
        several = values.size // count if count and values.size % count == 0 else 0
        hint = f"; for {several} images give --images {several}" if 1 < several <= 20 else ""
        raise UnusableInput(
            f"{raw.path}: holds {held}; {what} has {_by(place)} = {count} elements in {layout}"
            f"{hint}"
        )
    same = _squeezed(raw.data.shape) == _squeezed(place)
    if raw.form == "array" and raw.data.ndim > 2 and not same:
        raise UnusableInput(
            f"{raw.path}: has shape {_by(raw.data.shape)}; {what} has {_by(place)} in {layout}"
        )
    return to_nchw(values, shape, layout), note


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "1 element"


def _layouts_of(have: tuple[int, ...], shape: tuple[int, ...]) -> list[str]:
    """The layouts that a file's shape can be; none where it says nothing.

    Axes of size 1 may be left out, or be too many, only where no layout has the shape as it is.
    """
    block = [f"NCHW{have[-1]}c"] if len(have) == len(shape) + 1 and 0 < have[-1] < 10_000 else []
    places = {layout: physical(shape, layout) for layout in ("NCHW", "NHWC", *block)}
    squeezed = _squeezed(have)
    return [layout for layout, place in places.items() if have == place] or [
        layout for layout, place in places.items() if squeezed == _squeezed(place)
    ]


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _as_the_others(arrays: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> str | None:
    """The layout that is the only one of every array whose shape leaves no other.

    Args:
        arrays: of each the file's shape and the tensor's.
    """
    clear = set()
    for have, shape in arrays:
        layouts = _layouts_of(have, shape)
        if len(layouts) == 1 and len(_squeezed(shape[1:])) > 1:
            clear.add(layouts[0])
    return clear.pop() if len(clear) == 1 else None


def _elements(raw: Raw, count: int, kind: str | None) -> np.ndarray:
    """The numbers of a file, in their order: uint8 where a byte's sign is not known."""
    if raw.form in ("array", "numbers"):
        return raw.data
    width = np.dtype(kind).itemsize if kind else 0
    if raw.form == "bytes":
        width = width or next((w for w in (1, 2, 4) if raw.data.size == w * count), 1)
        kind = kind or {1: "uint8", 2: "int16", 4: "int32"}[width]
        if raw.data.size % width:
            raise UnusableInput(f"{raw.path}: {raw.data.size} bytes are no whole number of {kind}")
        return raw.data.view(np.dtype(kind).newbyteorder("<"))
    words, size = len(raw.data), raw.data.shape[1]
    if words == count and (not kind or width >= size):
        return _signed(raw.data, raw.bits, kind)
    width = width or 1
    per = size // width
    if size % width or not per or not (words - 1) * per < count <= words * per:
        return np.zeros(words * max(per, 1), np.uint8)  # for the message that says how many
    # the first element is in the lowest bits
    lowest_first = np.ascontiguousarray(raw.data[:, ::-1]).reshape(-1)
    return lowest_first.view(np.dtype(kind or "uint8").newbyteorder("<"))[:count]


def _signed(data: np.ndarray, bits: int, kind: str | None) -> np.ndarray:
    """Words of one element each: two's complement of their own width; uint8 for 8 bits."""
    if bits > 64:
        return np.zeros(0, np.uint8)
    values = np.zeros(len(data), np.uint64)
    for column in data.T:
        values = (values << np.uint64(8)) | column
    if kind == "float32" and bits == 32:
        return values.astype(np.uint32).view(np.float32)
    if bits == 8 or kind == "uint8":
        return values.astype(np.uint8)
    left = np.uint64(64 - bits)
    return (values << left).view(np.int64) >> np.int64(left)


def readings(
    values: np.ndarray, dtype: np.dtype, has_sums: bool, named_sums: bool, what: str
) -> tuple[Reading, ...]:
    """The ways in which numbers can be a node's output of this type, or its accumulators.

    Args:
        has_sums: whether the node has accumulators; named_sums: whether the file says it is these.
        what: file and tensor, as a message names them.

    Raises:
        UnusableInput: there is none, as for fractions where integers are meant.
    """
    if dtype.name not in RANGES and dtype.kind not in "iub":
        return (Reading(False, values.astype(np.float64), ""),)
    if values.dtype.kind == "f":
        wide = values.astype(np.float64)
        wrong = ~(np.isfinite(wide) & (np.abs(wide) < 2**53)) | (wide != np.rint(wide))
        if wrong.any():
            at = int(np.argmax(wrong.ravel()))
            raise UnusableInput(
                f"{what}: element {at} is {values.ravel()[at]}; the tensor is {dtype}: give its "
                "integers, not real numbers"
            )
    if values.dtype == np.uint64 and values.max(initial=0) >= 2**63:
        raise UnusableInput(f"{what}: holds {values.max()}, which 64 bits with a sign do not hold")
    wide = values.astype(np.int64)
    least, greatest = int(wide.min(initial=0)), int(wide.max(initial=0))
    low, high = RANGES.get(dtype.name, (-(2**63), 2**63 - 1))
    found = []
    if not named_sums:
        if low <= least and greatest <= high:
            found.append(Reading(False, wide, ""))
        if dtype == np.int8 and least >= 0 and 127 < greatest <= 255:
            kept = "" if values.dtype == np.uint8 else "its numbers are the bytes of int8"
            found.append(Reading(False, wide.astype(np.uint8).view(np.int8).astype(np.int64), kept))
        elif dtype == np.uint8 and least < 0 and least >= -128 and greatest <= 127:
            found.append(Reading(False, wide % 256, "its numbers are the bytes of uint8"))
        if not found:
            # of two ways that fit alike badly the first is taken
            found += [Reading(True, wide, "taken for accumulators")] * has_sums
            found.append(Reading(False, wide, "it holds what does not fit into 8 bits"))
            return tuple(found)
    if has_sums and (named_sums or values.dtype.itemsize > 1):
        found.append(Reading(True, wide, "taken for accumulators"))
    if not found:
        raise UnusableInput(f"{what}: accumulators, which this node has not")
    return tuple(found)


# --- which tensor a file is of


def tensors_by_name(graph: Model) -> dict[str, str]:
    """The tensors that the graph's nodes write, by every name that a file may have for one."""
    offered: list[tuple[str, str]] = []
    for index, node in enumerate(graph.nodes):
        for i, tensor in enumerate(node.outputs):
            if not tensor:
                continue
            names = [tensor, safe(tensor)]
            if i == 0:
                folder = folder_name(index, len(graph.nodes), node.name)
                names += [node.name, safe(node.name), folder]
            for name in dict.fromkeys(names):
                offered.append((name, tensor))
                offered += [(name.removesuffix(e), tensor) for e in ENDINGS if name.endswith(e)]
    counts = Counter(name for name, _ in dict.fromkeys(offered))
    known = {name: tensor for name, tensor in offered if counts[name] == 1}
    own = {tensor: tensor for node in graph.nodes for tensor in node.outputs if tensor}
    return known | own


def written_by_vectors(folder: Path, model_sha256: str) -> list[tuple[str, Path, str, str]]:
    """The tensors of a folder that has ``qlinear vectors``' manifest: name, file, array, layout.

    The files may be of any kind: ``image00_y.hex`` as written, or ``image00_y.npy`` and so on.

    Raises:
        UnusableInput: the manifest is damaged, or of another model.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(read_bytes(path))
        if "layers" not in manifest:
            return [(str(name), folder / str(file), "", "") for name, file in manifest.items()]
        theirs = manifest["model_sha256"]
        layers = [(layer["folder"], dict(layer["tensors"])) for layer in manifest["layers"]]
        layout = manifest["layout"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UnusableInput(
            f"{path}: not a manifest of qlinear vectors, nor names of files"
        ) from None
    if theirs != model_sha256:
        raise UnusableInput(f"{path}: of {manifest.get('model')}, another file than this model")
    found = []
    for name, tensors in layers:
        outputs = {k: t for k, t in tensors.items() if k in ("y", "z")}
        for key, tensor in (
            outputs | dict.fromkeys(SUMS, next(iter(outputs.values()), ""))
        ).items():
            for suffix in (s for s in SUFFIXES if s != ".npz"):
                file = folder / name / f"image00_{key}{suffix}"
                if tensor and file.is_file():
                    found.append((tensor, file, key, layout))
                    break
    return found


def natural(path: Path) -> list:
    """A key that sorts layer2 before layer10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(p), "") if p.isdigit() else (-1, p) for p in parts]


@dataclass(frozen=True, eq=False)
class _Named:
    """A file's array, and the tensor that it is of."""

    tensor: str
    raw: Raw
    sums: bool = False  # its name says that it holds accumulators
    layout: str = ""  # that a manifest says
    note: str = ""


def collect(
    given: list[str],
    graph: Model,
    values: dict[str, np.ndarray],
    *,
    tensor: str = "",
    layout: str | None = None,
    kind: str | None = None,
    model_sha256: str = "",
) -> list[Dump]:
    """The dumps in files and folders, each matched to a tensor of the graph.

    Args:
        given: files, folders, or NAME=FILE.
        values: ONNX Runtime's tensors by name.
        tensor: that every file is of; else names, a manifest, or the order of a folder's files say.
        layout: of every file (:func:`physical`); None where shapes and manifests say.
        kind: type of an element in binary and hex.

    Raises:
        UnusableInput: a file cannot be read, fits no tensor, or not the one that it is of.
    """
    if layout not in (None, "NCHW", "NHWC"):
        block_of(layout)
    names = tensors_by_name(graph)
    found: list[_Named] = []
    for text in given:
        name, equals, file = text.partition("=")
        if equals and not Path(text).exists():
            if name not in names:
                raise UnusableInput(f"{text}: no tensor or node is named {name!r}; see inspect")
            found += _of_tensor(Path(file), names[name])
        elif tensor:
            found += _of_tensor(Path(text), tensor)
        elif Path(text).is_dir():
            found += _folder(Path(text), graph, values, names, model_sha256, (layout, kind))
        else:
            found += _of_names(Path(text), names, set(graph.inputs))
    nodes = {name: node for node in graph.nodes for name in node.outputs}
    arrays = [
        (each.raw.data.shape, np.shape(values.get(each.tensor)))
        for each in found
        if each.raw.form == "array"
    ]
    others = _as_the_others(arrays)
    dumps = []
    for each in found:
        y = values.get(each.tensor)
        if not isinstance(y, np.ndarray):
            raise UnusableInput(f"{each.raw.path}: {each.tensor} is no tensor of this run")
        what = f"{each.tensor}, {y.dtype},"
        own, more = layout or each.layout or None, ""
        able = _layouts_of(each.raw.data.shape, y.shape) if each.raw.form == "array" else []
        if own is None and others in able[1:]:
            own, more = others, f"its shape can be {' or '.join(able)}; {others} as the others' is"
        array, note = tensor_of(each.raw, y.shape, own, kind, what)
        has_sums = nodes[each.tensor].operator in SUMMED
        ways = readings(array, y.dtype, has_sums, each.sums, f"{each.raw.path}: {each.tensor}")
        notes = tuple(text for text in (each.note, note, more) if text)
        dumps.append(Dump(each.tensor, each.raw.path, ways, notes))
    return dumps


def _ending(name: str) -> str:
    """The last part of a name such as image00_acc."""
    return name.rsplit("_", 1)[-1]


def _of_tensor(path: Path, tensor: str) -> list[_Named]:
    """The arrays of a file that is of one tensor."""
    if path.is_dir():
        raise UnusableInput(f"{path}: a folder; with --node name a file")
    raws = read_file(path)
    if len(raws) > 1:
        fitting = [raw for raw in raws if raw.name in (tensor, "y", "z", *SUMS)]
        if not fitting:
            held = ", ".join(raw.name for raw in raws[:8])
            raise UnusableInput(f"{path}: holds {held}; name the array {tensor}, y or acc")
        raws = fitting
    return [_Named(tensor, raw, _ending(raw.name) in SUMS) for raw in raws]


def _of_names(path: Path, names: dict[str, str], inputs: set[str]) -> list[_Named]:
    """The arrays of a file whose name, or the names inside, say of which tensors they are."""
    raws = [raw for raw in read_file(path) if raw.name not in inputs]
    found = [_match(raw, names) for raw in raws]
    unknown = [raw.name for raw, each in zip(raws, found, strict=True) if each is None]
    if unknown or not found:
        which = f"{', '.join(unknown[:4])}: no tensor or node has that name; " if found else ""
        raise UnusableInput(
            f"{path}: {which}name it as a tensor or node (see inspect), or give --node NAME"
        )
    return [each for each in found if each]


def _match(raw: Raw, names: dict[str, str]) -> _Named | None:
    if raw.name in names:
        return _Named(names[raw.name], raw)
    ending = _ending(raw.name)
    name = raw.name.removesuffix(f"_{ending}")
    if ending in SUMS and name in names:
        return _Named(names[name], raw, sums=True)
    return None


def _folder(
    folder: Path, graph: Model, values: dict, names: dict, model_sha256: str, taken: tuple
) -> list[_Named]:
    """The dumps in a folder: by manifest, by name, or in the order of their names."""
    if (folder / "manifest.json").is_file():
        found = []
        for name, path, key, layout in written_by_vectors(folder, model_sha256):
            if name not in names:
                raise UnusableInput(f"{folder}/manifest.json: the graph has no tensor {name!r}")
            raws = read_file(path)
            found += [_Named(names[name], raw, key in SUMS, layout) for raw in raws]
        if not found:
            raise UnusableInput(f"{folder}: holds no file that its manifest names")
        return found
    files = sorted((p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES), key=natural)
    if not files:
        raise UnusableInput(f"{folder}: holds no dump ({', '.join(SUFFIXES)})")
    raws = [raw for path in files for raw in read_file(path)]
    matched = [_match(raw, names) for raw in raws]
    if any(matched):
        left = [raw for raw, each in zip(raws, matched, strict=True) if each is None]
        if left:
            some = ", ".join(raw.name for raw in left[:4])
            raise UnusableInput(f"{folder}: {some}: no tensor or node has that name; see inspect")
        return [each for each in matched if each]
    return _by_position(folder, raws, graph, values, taken)


def _by_position(
    folder: Path, raws: list[Raw], graph: Model, values: dict, taken: tuple
) -> list[_Named]:
    """Files whose names say nothing, as the tensors of the graph in order: all, or the layers'."""
    written = [(node, name) for node in graph.nodes for name in node.outputs if name]
    kinds = {
        "tensors": [name for _, name in written],
        "quantized tensors": [name for node, name in written if node.operator in DESIGNS],
        "convolutions": [name for node, name in written if node.operator == "QLinearConv"],
    }
    for what, tensors in kinds.items():
        if len(tensors) != len(raws):
            continue
        try:
            for raw, name in zip(raws, tensors, strict=True):
                tensor_of(raw, np.shape(values[name]), *taken, name)
        except UnusableInput:
            continue
        return [
            _Named(name, raw, note=f"by its position among the {len(raws)} {what}: {name}")
            for raw, name in zip(raws, tensors, strict=True)
        ]
    counts = ", ".join(f"{len(tensors)} {what}" for what, tensors in kinds.items())
    raise UnusableInput(
        f"{folder}: {len(raws)} files whose names are no tensor's, and by position they do not "
        f"fit the graph's {counts}; name them as tensors or nodes"
    )
