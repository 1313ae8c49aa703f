#!/usr/bin/env python3
"""Measure analog arrays, accuracy and cost: python scripts/analog.py --data-dir DIR"""

from qlinear.errors import run_command
from study.analog import main

if __name__ == "__main__":
    run_command(main)
