"""CIFAR-10 in the layout that its authors publish.

The layout (Krizhevsky, 2009) is a folder ``cifar-10-batches-py`` with ``data_batch_1`` to
``data_batch_5`` and ``test_batch``, each a pickled dictionary with ``data`` (uint8, one row of
3072 = 3 x 32 x 32 values per image, channel first) and ``labels``.
"""

import argparse
import io
import pickle
from pathlib import Path

import numpy as np

from qlinear.errors import UnusableInput
from qlinear.files import check_file

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
FOLDER = "cifar-10-batches-py"
SPLITS = {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]}


# what a pickled batch needs: numbers, strings and NumPy arrays. A data file must not run code.
PLAIN = frozenset(
    {
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("_codecs", "encode"),
    }
)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) in PLAIN:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"holds {module}.{name}, which is not data")


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        data = np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32)
        labels = np.asarray(batch[b"labels"], np.int64)
    except OSError as error:
        raise UnusableInput(
            f"{path}: {error.strerror}; get CIFAR-10 with: "
            f"python scripts/fetch_cifar10.py --data-dir DIR"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise UnusableInput(f"{path}: not a CIFAR-10 batch ({error})") from None
    if len(data) != len(labels):
        raise UnusableInput(f"{path}: {len(data)} images but {len(labels)} labels")
    return data, labels


def load_cifar10(data_dir: str | Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one split of CIFAR-10.

    Args:
        data_dir: the ``cifar-10-batches-py`` folder or the folder that holds it.
        split: ``"train"`` (50,000 images) or ``"test"`` (10,000).

    Returns:
        images, uint8 of shape (N, 3, 32, 32), RGB pixels 0 to 255, and labels, int64 (N,).

    Raises:
        UnusableInput: a batch file is missing or damaged.
    """
    folder = Path(data_dir)
    if (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    parts = [_read_batch(folder / name) for name in SPLITS[split]]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def options(description: str, *, record: str, images: int = 10_000) -> argparse.ArgumentParser:
    """The options of a script that measures on test images and writes one JSON file.

    Args:
        record: the file's name, beside the models where --out names no other.
        images: how many images where --images does not say.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="CIFAR-10 folder")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the models")
    parser.add_argument("--out", type=Path, help=f"JSON file (default: {record} beside them)")
    parser.add_argument("--data-note", default="CIFAR-10's test images", help="for the record")
    parser.add_argument("--images", type=int, default=images, help="test images, from the first")
    return parser


def settled(args: argparse.Namespace, *, record: str, least: int = 1) -> Path:
    """The file to write, refused before anything is measured if it cannot be written.

    Raises:
        UnusableInput: that, or fewer than ``least`` images are asked for.
    """
    if args.images < least:
        raise UnusableInput(f"--images is {args.images}: at least {least} needed")
    out = args.out or args.models / record
    check_file(out)
    return out
