#!/usr/bin/env python3
"""Train a float model: python scripts/train.py --data-dir DIR"""

from qlinear.errors import run_command
from study.train import main

if __name__ == "__main__":
    run_command(main)
