#!/usr/bin/env python3
"""Pack the sample images data/cifar10_*.png into data/cifar10_samples.npz (needs Pillow)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qlinear.cifar10 import SAMPLES, pack_samples
from qlinear.errors import run_command

if __name__ == "__main__":
    run_command(lambda: pack_samples(SAMPLES))
