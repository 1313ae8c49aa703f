#!/usr/bin/env python3
"""The quantized network in the runtimes, and their requantization: python scripts/runtimes.py"""

from qlinear.errors import run_command
from study.runtimes import main

if __name__ == "__main__":
    run_command(main)
