"""What to feed a model: image or array files, the 20 sample images, or seeded random values."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.files import check_regular
from qlinear.onnx_model import Model

# what Pillow may open: some of its other formats start programs
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
MADE_UP = 1 << 28  # elements of the largest input that is made up
CHANNELS = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Feed:
    """One run's inputs by name, and in words where they come from."""

    values: dict[str, np.ndarray]
    source: str


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


def read_feeds(model: Model, given: list[str] = (), images: int = 1) -> list[Feed]:
    """The inputs of one or more runs.

    Args:
        given: ``FILE`` for a model with one input, or ``NAME=FILE`` for each input; a .npz file
            may hold several by name. Inputs that are not given are made up.
        images: how many sample images, where a model takes them and nothing is given.

    Raises:
        UnusableInput: a file, its shape or its values do not fit; the message names them.
    """
    files = _by_name(model, given)
    arrays = {name: _read(model, name, path) for name, path in files.items()}
    names = [name for name in model.inputs if name not in arrays]
    if not arrays and len(names) == 1 and _takes_samples(*model.inputs[names[0]]):
        return _samples(model, names[0], images)
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
        name, equals, path = str(text).partition("=")
        if not (equals and name in model.inputs):
            if equals and not Path(text).exists():
                raise UnusableInput(
                    f"{text}: the model has no input {name!r}; it has {', '.join(model.inputs)}"
                )
            path = str(text)
            if path.endswith(".npz"):
                files |= {name: Path(path) for name in _names_in(Path(path)) & set(model.inputs)}
                continue
            if len(model.inputs) != 1:
                names = ", ".join(model.inputs) or "none"
                raise UnusableInput(f"{path}: the inputs are {names}; give NAME=FILE for each")
            (name,) = model.inputs
        if name in files:
            raise UnusableInput(f"{text}: input {name} is given twice")
        files[name] = Path(path)
    return files


def _names_in(path: Path) -> set[str]:
    archive = _load(path)
    if not isinstance(archive, dict):
        raise UnusableInput(f"{path}: not an archive of arrays")
    return set(archive)


def _load(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """A .npy array, or a .npz archive's arrays; never code."""
    check_regular(path)
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            return {name: found[name] for name in found.files}
    except Exception as error:  # a damaged header raises what its parts raise, MemoryError too
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UnusableInput(f"{path}: not a NumPy array ({lines[0][:200]})") from None


def _read(model: Model, name: str, path: Path) -> np.ndarray:
    dtype, shape = model.inputs[name]
    if path.suffix in (".npy", ".npz"):
        x = _load(path)
        if isinstance(x, dict):
            if name not in x:
                raise UnusableInput(f"{path}: holds {', '.join(x) or 'nothing'}, not {name}")
            x = x[name]
    else:
        x = _fitted_image(path, shape)
    if x.ndim == len(shape) - 1:
        x = x[None]
    fits = x.ndim == len(shape) and all(
        not isinstance(want, int) or want == have or (axis == 0 and want and have % want == 0)
        for axis, (want, have) in enumerate(zip(shape, x.shape, strict=True))
    )
    if not fits:
        raise UnusableInput(f"{path}: shape {x.shape} does not fit input {name} {list(shape)}")
    if not x.size:
        raise UnusableInput(f"{path}: shape {x.shape}: no values to compute with")
    return _converted(x, dtype, path)


def _converted(x: np.ndarray, dtype: np.dtype, path: Path) -> np.ndarray:
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
    if dtype.kind in "iu" and (converted.astype(np.float64) != x.astype(np.float64)).any():
        raise UnusableInput(f"{path}: values that the input's type {dtype} does not hold")
    if not np.isfinite(converted.astype(np.float64)).all():
        raise UnusableInput(f"{path}: values that the input's type {dtype} does not hold")
    return converted


def read_image(path: str | Path, channels: int = 3) -> np.ndarray:
    """An image file as uint8 of shape (channels, H, W), pixels 0 to 255; RGB, or grey for one.

    Raises:
        UnusableInput: it is missing, not of a plain 8-bit format, or partly transparent.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise UnusableInput(f"{path}: reading an image needs Pillow (pip install pillow)") from None
    check_regular(Path(path))
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise UnusableInput(f"{path}: {image.mode} pixels; 8 bits for each channel needed")
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
    return len(shape) == 4 and shape[1:] == (3, 32, 32) and dtype.kind in "fiu"


def _samples(model: Model, name: str, count: int) -> list[Feed]:
    dtype, shape = model.inputs[name]
    batch = shape[0] if isinstance(shape[0], int) else count
    pixels = load_samples()[0]
    if not 1 <= count <= len(pixels):
        raise UnusableInput(f"{count} images asked for: there are 1 to {len(pixels)} samples")
    runs = -(-count // batch)
    if runs * batch > len(pixels):
        raise UnusableInput(f"{model.path}: takes {batch} images at once; there are {len(pixels)}")
    if np.dtype(dtype).name == "int8":
        pixels = pixels.astype(np.int16) - 128
    feeds = []
    for run in range(runs):
        first, last = run * batch, (run + 1) * batch - 1
        which = f"sample image {first}" if batch == 1 else f"sample images {first} to {last}"
        feeds.append(Feed({name: pixels[first : last + 1].astype(dtype)}, which))
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
    for node in model.nodes:
        if node.op_type == "QuantizeLinear" and node.inputs[0] == name:
            arguments = model.arguments(node)
            scale, zero = arguments.get("y_scale"), arguments.get("y_zero_point", np.uint8(0))
            if scale is not None and scale.size == 1 and zero.size == 1 and zero.dtype.kind in "iu":
                info, scale = np.iinfo(zero.dtype), float(scale.item())
                if np.isfinite(scale) and 0 < scale < 1e30:
                    return (info.min - int(zero.item())) * scale, (
                        info.max - int(zero.item())
                    ) * scale
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
