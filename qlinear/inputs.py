"""What to feed a model: an image or array file, the 20 sample images, or seeded random values."""

from pathlib import Path

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.onnx_model import Model


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


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as uint8 of shape (3, H, W), RGB pixels 0 to 255."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise UnusableInput(f"{path}: reading an image needs Pillow (pip install pillow)") from None
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy()
    except FileNotFoundError:
        raise UnusableInput(f"{path}: no such file") from None
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise UnusableInput(f"{path}: not an image ({error})") from None


def read_input(model: Model, path: Path | None) -> np.ndarray:
    """The model's input: an image or .npy file, else a sample image, else seeded random values.

    Raises:
        UnusableInput: the file or its shape does not fit the model's one input.
    """
    if len(model.inputs) != 1:
        raise UnusableInput(f"{model.path}: {len(model.inputs)} inputs; only one is supported")
    ((name, (dtype, shape)),) = model.inputs.items()
    if path is None:
        return _default_input(model, name, dtype, shape)
    if path.suffix == ".npy":
        try:
            x = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UnusableInput(f"{path}: not a .npy array ({reason})") from None
    else:
        x = read_image(path)
    if x.ndim == len(shape) - 1:
        x = x[None]
    fits = x.ndim == len(shape) and all(
        not isinstance(want, int) or want == have for want, have in zip(shape, x.shape, strict=True)
    )
    if not fits:
        raise UnusableInput(f"{path}: shape {x.shape} does not fit input {name} {shape}")
    if x.dtype.kind not in "iuf" or not np.isfinite(x).all():
        raise UnusableInput(f"{path}: {x.dtype} values; finite numbers needed")
    return x.astype(dtype)


def _default_input(model: Model, name: str, dtype: np.dtype, shape: tuple) -> np.ndarray:
    shape = (1, *shape[1:]) if shape and not isinstance(shape[0], int) else shape
    if not all(isinstance(size, int) for size in shape):
        raise UnusableInput(f"{model.path}: input {name} has shape {shape}; give --input FILE")
    if np.prod(shape, dtype=np.float64) > 2**28:
        raise UnusableInput(f"{model.path}: input {name} has shape {shape}, too large to make up")
    if shape == (1, 3, 32, 32):
        return load_samples()[0][:1].astype(dtype)
    rng = np.random.default_rng(0)
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    return rng.normal(size=shape).astype(dtype)
