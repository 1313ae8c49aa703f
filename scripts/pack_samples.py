#!/usr/bin/env python3
"""Pack the sample images data/cifar10_*.png into qlinear/samples.npz, the package's data.

python scripts/pack_samples.py [--out FILE]
"""

import argparse
from pathlib import Path

import numpy as np

from qlinear.errors import UnusableInput, run_command
from qlinear.inputs import read_image

ROOT = Path(__file__).resolve().parents[1]


def pack(folder: Path, out: Path) -> None:
    """Write ``out`` from the folder's PNG files, named ``cifar10_NUMBER_LABEL.png``.

    The archive spares readers of the samples an image library.
    """
    paths = sorted(folder.glob("cifar10_*.png"))
    if not paths:
        raise UnusableInput(f"{folder}: no cifar10_*.png files; they are part of the repository")
    labels = [int(path.stem.split("_")[2]) for path in paths]
    images = np.stack([read_image(path) for path in paths])
    np.savez_compressed(out, images=images, labels=np.int64(labels))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "qlinear" / "samples.npz")
    pack(ROOT / "data", parser.parse_args(argv).out)


if __name__ == "__main__":
    run_command(main)
