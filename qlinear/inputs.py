"""What to feed a model: image or array files, the 20 sample images, or seeded random values."""

import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.files import require_regular
from qlinear.onnx_model import Model

# what Pillow may open: some of its other formats start programs
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
MADE_UP = 1 << 28  # elements of the largest input that is made up
LARGEST = 1 << 32  # bytes of the largest array that is read; a small archive can hold any number
CHANNELS = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Feed:
    """One run's inputs by name, and in words where they come from."""

    values: dict[str, np.ndarray]
    source: str
    labels: tuple[int, ...] = ()  # of the images of a batch, where they are known
    row: int = 0  # of the source's batch, where a batch is run image by image


def load_samples() -> tuple[np.ndarray, np.ndarray]:
    """The book's 20 sample images: the first 20 of the CIFAR-10 test set, lossless.

    They are package data, made from ``data/*.png`` by ``scripts/pack_samples.py``.

    Returns:
        images, uint8 of shape (20, 3, 32, 32), RGB pixels 0 to 255, and labels, int64 (20,).

    Raises:
        UnusableInput: the archive is missing.
    """
    path = Path(__file__).with_name("samples.npz")
    if not path.exists():
        raise UnusableInput(f"{path}: no such file; the installation is incomplete")
    with np.load(path) as archive:
        return archive["images"], archive["labels"]


def read_feeds(
    model: Model, given: list[str] = (), images: int | None = None, *, samples: int = 1
) -> list[Feed]:
    """The inputs of one or more runs.

    Args:
        given: ``FILE`` for a model with one input, or ``NAME=FILE`` for each input; a .npz file
            may hold several by name. Inputs that are not given are made up.
        images: how many sample images, where a model takes them and nothing is given.
        samples: how many where ``images`` does not say.

    Raises:
        UnusableInput: a file, its shape or its values do not fit; the message names them.
    """
    files = _by_name(model, given)
    arrays = {name: _read(model, name, path) for name, path in files.items()}
    names = [name for name in model.inputs if name not in arrays]
    if not arrays and len(names) == 1 and _takes_samples(*model.inputs[names[0]]):
        return _samples(model, names[0], samples if images is None else images)
    if images is not None:
        why = "inputs are given" if arrays else "its input is no 3 x 32 x 32 image"
        raise UnusableInput(f"{model.path}: takes no sample images: {why}; leave --images out")
    sources = [f"{name} from {path}" if len(model.inputs) > 1 else str(path)
               for name, path in files.items()]  # fmt: skip
    for name in names:
        arrays[name] = _made_up(model, name)
    if names:
        what = ", ".join(f"{name} {list(arrays[name].shape)}" for name in names)
        sources.append(f"random values with seed 0 for {what}")
    return _split(model, arrays, ", ".join(sources) or "no input")


def _by_name(model: Model, given: list[str]) -> dict[str, Path]:
    """Which file each input comes from."""
    files: dict[str, Path] = {}
    for text in given:
        name, equals, path = _parted(model, str(text))
        if not (equals and name in model.inputs):
            if equals and not Path(text).exists():
                raise UnusableInput(
                    f"{text}: the model has no input {name!r}; it has {', '.join(model.inputs)}"
                )
            path = str(text)
            names = _named_by(model, path)
        else:
            names = [name]
        for name in names:
            if name in files:
                raise UnusableInput(f"{text}: input {name} is given twice")
            files[name] = Path(path)
    return files


def _parted(model: Model, text: str) -> tuple[str, str, str]:
    """NAME=FILE in its parts; a name may hold "=" itself."""
    fitting = [name for name in model.inputs if text.startswith(f"{name}=")]
    if fitting:
        name = max(fitting, key=len)
        return name, "=", text[len(name) + 1 :]
    return text.partition("=")


def _named_by(model: Model, path: str) -> list[str]:
    """The inputs that a file is for, if none is named."""
    inputs = ", ".join(model.inputs) or "none"
    if path.endswith(".npz"):
        there = names_in(Path(path))
        names = [name for name in model.inputs if name in there]
        if not names:
            held = ", ".join(there) or "nothing"
            raise UnusableInput(f"{path}: holds {held}; the inputs are {inputs}")
        return names
    if len(model.inputs) != 1:
        raise UnusableInput(f"{path}: the inputs are {inputs}; give NAME=FILE for each")
    return list(model.inputs)


def names_in(path: Path) -> list[str]:
    """The names of a .npz archive's arrays; the arrays are not read."""
    with reading(path), zipfile.ZipFile(path) as archive:
        return [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a damaged file makes its readers raise into one line."""
    require_regular(path)
    try:
        yield
    except UnusableInput:
        raise
    except Exception as error:  # a header raises what its parts raise, MemoryError too
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UnusableInput(f"{path}: not a NumPy array ({lines[0][:200]})") from None


def read_array(path: Path, name: str, shape: tuple) -> np.ndarray:
    """A .npy array, or one array of a .npz archive; never code, and nothing that does not fit."""

    def fits(have: tuple) -> None:
        _check_fits(have, name, shape, path)

    with reading(path), path.open("rb") as file:
        start = file.read(len(np.lib.format.MAGIC_PREFIX))
        file.seek(0)
        if start == np.lib.format.MAGIC_PREFIX:
            return read_npy(file, path.stat().st_size, path, fits)
        if not zipfile.is_zipfile(file):
            raise UnusableInput(f"{path}: neither a .npy nor a whole .npz file")
        with zipfile.ZipFile(file) as archive:
            if f"{name}.npy" not in archive.namelist():
                held = ", ".join(n.removesuffix(".npy") for n in archive.namelist()) or "nothing"
                raise UnusableInput(f"{path}: holds {held}, not {name}")
            size = archive.getinfo(f"{name}.npy").file_size
            with archive.open(f"{name}.npy") as member:
                return read_npy(member, size, path, fits)


def read_npy(
    file: BinaryIO, size: int, path: Path, check: Callable[[tuple], None] = lambda shape: None
) -> np.ndarray:
    """An array from its file of ``size`` bytes; its header is believed only as far as it fits.

    Args:
        path: that messages name.
        check: refuses a shape before any value is read.

    Raises:
        UnusableInput: it holds no plain numbers, is cut, or is larger than ``LARGEST``.
    """
    version = np.lib.format.read_magic(file)
    second = version > (1, 0)
    read = np.lib.format.read_array_header_2_0 if second else np.lib.format.read_array_header_1_0
    have, _, dtype = read(file)
    if dtype.hasobject:
        raise UnusableInput(f"{path}: holds Python objects; numbers needed")
    check(have)
    declared = int(np.prod(have, dtype=object)) * dtype.itemsize
    if declared > size - file.tell():
        raise UnusableInput(f"{path}: cut: {declared} bytes of values announced, fewer are there")
    if declared > LARGEST:
        raise UnusableInput(f"{path}: {declared} bytes of values; up to {LARGEST} are read")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _check_fits(have: tuple, name: str, shape: tuple, path: Path) -> None:
    """Refuse a shape that is not the input's, without its first axis, or several times as long."""
    full = (1, *have) if len(have) == len(shape) - 1 else have
    fits = len(full) == len(shape) and all(
        not isinstance(want, int) or want == size or (axis == 0 and want and size % want == 0)
        for axis, (want, size) in enumerate(zip(shape, full, strict=True))
    )
    if not fits:
        raise UnusableInput(f"{path}: shape {have} does not fit input {name} {list(shape)}")
    if 0 in have:
        raise UnusableInput(f"{path}: shape {have}: no values to compute with")


def _read(model: Model, name: str, path: Path) -> np.ndarray:
    dtype, shape = model.inputs[name]
    if path.suffix in (".npy", ".npz"):
        x = read_array(path, name, shape)
    else:
        x = _fitted_image(path, shape)
        _check_fits(x.shape, name, shape, path)
    x = x[None] if x.ndim == len(shape) - 1 else x
    return converted(x, dtype, path)


def converted(x: np.ndarray, dtype: np.dtype, path: Path) -> np.ndarray:
    """The values in the type of the input, if it holds them."""
    if x.dtype == dtype:
        if dtype.kind == "f" and not np.isfinite(x).all():
            raise UnusableInput(f"{path}: holds values that are not finite")
        return x
    if x.dtype.kind not in "iufb":
        raise UnusableInput(f"{path}: {x.dtype} values; numbers needed")
    if not np.isfinite(x).all():
        raise UnusableInput(f"{path}: holds values that are not finite")
    with np.errstate(over="ignore", invalid="ignore"):
        converted = x.astype(dtype)
    whole = dtype.kind in "iub" or dtype.name.startswith(("int", "uint"))  # int4 has kind V
    if whole and (converted.astype(np.float64) != x.astype(np.float64)).any():
        raise UnusableInput(f"{path}: values that the input's type {dtype} does not hold")
    if not np.isfinite(converted.astype(np.float64)).all():
        raise UnusableInput(f"{path}: values that the input's type {dtype} does not hold")
    return converted


def read_image(path: str | Path, channels: int = 3) -> np.ndarray:
    """An image file as uint8 of shape (channels, H, W), pixels 0 to 255; RGB, or grey for one.

    A rotation that the file asks for is applied. Pillow converts other colours, such as CMYK.

    Raises:
        UnusableInput: it is missing, not of a plain 8-bit format, one of several images in its
            file, partly transparent, or larger than Pillow's limit.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise UnusableInput(f"{path}: reading an image needs Pillow (pip install pillow)") from None
    require_regular(Path(path))
    try:
        with _quiet(), Image.open(path, formats=IMAGE_FORMATS) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:  # Pillow itself only warns
                raise UnusableInput(f"{path}: {image.width} x {image.height} pixels: too large")
            if image.mode.startswith(("I", "F")) or _deep(image):
                raise UnusableInput(f"{path}: more than 8 bits for each channel; 8 needed")
            if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: previews
                raise UnusableInput(f"{path}: holds several images; one needed")
            upright = ImageOps.exif_transpose(image)
            alpha = upright.convert("RGBA").getchannel("A").getextrema() if _clear(upright) else ()
            if alpha and alpha[0] < 255:
                raise UnusableInput(f"{path}: partly transparent; put it on a background first")
            pixels = np.asarray(upright.convert(CHANNELS[channels]))
    except UnidentifiedImageError:
        kinds = ", ".join(IMAGE_FORMATS)
        raise UnusableInput(f"{path}: not an image that is read here ({kinds})") from None
    except UnusableInput:
        raise
    except Exception as error:  # Pillow's decoders raise many types
        raise UnusableInput(f"{path}: not a readable image ({error})") from None
    return (pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)).copy()


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow warns in lines of its own; what matters of that is refused here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _deep(image) -> bool:
    """Whether Pillow would drop bits of an image that it opens in an 8-bit mode.

    How the pixels are stored is known only before they are read: a "raw mode" such as RGB;16B, or
    for PPM the greatest value.
    """
    stored = [arg for tile in image.tile for arg in np.atleast_1d(np.asarray(tile[3], object))]
    return any(
        re.search(r";(1[0-6]|[2-6][0-9])", arg) if isinstance(arg, str) else
        image.format == "PPM" and isinstance(arg, int) and arg > 255
        for arg in stored
    )  # fmt: skip


def _clear(image) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _fitted_image(path: Path, shape: tuple) -> np.ndarray:
    """An image as the input's layout has it: channel first, channel last, or grey."""
    if len(shape) not in (3, 4):
        raise UnusableInput(f"{path}: an image does not fit an input of shape {list(shape)}")
    first, last = shape[-3], shape[-1]
    if first in CHANNELS or last not in CHANNELS:
        return read_image(path, first if first in CHANNELS else 3)
    return read_image(path, last).transpose(1, 2, 0).copy()


def _takes_samples(dtype: np.dtype, shape: tuple) -> bool:
    return len(shape) == 4 and shape[1:] in ((3, 32, 32), (32, 32, 3)) and dtype.kind in "fiu"


def _samples(model: Model, name: str, count: int) -> list[Feed]:
    dtype, shape = model.inputs[name]
    batch = shape[0] if isinstance(shape[0], int) else count
    pixels, labels = load_samples()
    if not 1 <= count <= len(pixels):
        raise UnusableInput(f"{count} images asked for: there are 1 to {len(pixels)} samples")
    runs = -(-count // batch)
    if runs * batch > len(pixels):
        raise UnusableInput(f"{model.path}: takes {batch} images at once; there are {len(pixels)}")
    if np.dtype(dtype).name == "int8":
        pixels = pixels.astype(np.int16) - 128
    if shape[1] == 32:  # channels last
        pixels = pixels.transpose(0, 2, 3, 1)
    feeds = []
    for run in range(runs):
        first, last = run * batch, (run + 1) * batch - 1
        which = f"sample image {first}" if batch == 1 else f"sample images {first} to {last}"
        named = tuple(labels[first : last + 1].tolist())
        feeds.append(Feed({name: pixels[first : last + 1].astype(dtype)}, which, named))
    return feeds


def _made_up(model: Model, name: str) -> np.ndarray:
    """Seeded values over the range that the model's first quantizer has codes for."""
    dtype, shape = model.inputs[name]
    sizes = tuple(size if isinstance(size, int) else 1 for size in shape)
    unknown = [i for i, size in enumerate(shape) if not isinstance(size, int) and i]
    if unknown or dtype.kind == "O":
        raise UnusableInput(
            f"{model.path}: input {name} has shape {list(shape)}; give --input {name}=FILE"
        )
    if not all(sizes):
        raise UnusableInput(f"{model.path}: input {name} has shape {list(shape)}: no values")
    if np.prod(sizes, dtype=np.float64) > MADE_UP:
        raise UnusableInput(f"{model.path}: input {name} has shape {sizes}, too large to make up")
    rng = np.random.default_rng(0)
    if dtype.kind == "b":
        return rng.integers(0, 2, sizes).astype(dtype)
    if dtype.kind in "iu" and dtype.itemsize > 2:
        return rng.integers(0, _least_gathered(model, name), sizes).astype(dtype)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, sizes, dtype, endpoint=True)
    low, high = _quantized_range(model, name)
    return rng.uniform(low, high, sizes).astype(dtype)


def _least_gathered(model: Model, name: str) -> int:
    """Ids below this are legal for every table that the input indexes; 2 where none is found."""
    sizes = []
    names = {name}
    for node in model.nodes:
        if names & set(node.inputs) and node.op_type in ("Cast", "Reshape", "Unsqueeze", "Squeeze"):
            names.update(node.outputs)
        if node.op_type == "Gather" and node.inputs[1] in names:
            table = model.constants.get(node.inputs[0])
            if table is None:  # behind a DequantizeLinear
                behind = [n for n in model.nodes if node.inputs[0] in n.outputs]
                table = model.constants.get(behind[0].inputs[0]) if behind else None
            if table is not None and table.ndim:
                sizes.append(table.shape[node.attributes.get("axis", 0)])
    return min(sizes, default=2)


def _quantized_range(model: Model, name: str) -> tuple[float, float]:
    """The real values of the lowest and highest code of the quantizer that reads the input."""
    for scale, zero in model.quantizers(name):
        if scale.size == 1 and zero.size == 1 and zero.dtype.kind in "iu":
            info, scale, zero = np.iinfo(zero.dtype), float(scale.item()), int(zero.item())
            if np.isfinite(scale) and 0 < scale < 1e30:
                return (info.min - zero) * scale, (info.max - zero) * scale
    return -2.0, 2.0


def _split(model: Model, arrays: dict[str, np.ndarray], source: str) -> list[Feed]:
    """Several runs where a file holds several times as many images as a fixed batch takes."""
    runs = 1
    for name, x in arrays.items():
        shape = model.inputs[name][1]
        if shape and isinstance(shape[0], int) and shape[0] and x.ndim:
            runs = max(runs, x.shape[0] // shape[0])
    if runs == 1:
        return [Feed(arrays, source)]
    feeds = []
    for run in range(runs):
        part = {}
        for name, x in arrays.items():
            batch = model.inputs[name][1][0] if model.inputs[name][1] else None
            several = isinstance(batch, int) and x.shape[0] == runs * batch
            part[name] = x[run * batch : (run + 1) * batch] if several else x
        feeds.append(Feed(part, f"{source}, part {run + 1} of {runs}"))
    return feeds
