#!/usr/bin/env python3
"""Train the float model: python scripts/train_resnet8.py --data-dir DIR"""

from qlinear.errors import run_command
from study.train import main

if __name__ == "__main__":
    run_command(main)
