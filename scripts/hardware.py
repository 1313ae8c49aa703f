#!/usr/bin/env python3
"""Measure cheaper arithmetic: python scripts/hardware.py --data-dir DIR"""

from qlinear.errors import run_command
from study.hardware import main

if __name__ == "__main__":
    run_command(main)
