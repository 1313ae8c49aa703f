#!/usr/bin/env python3
"""Train with the noise of arrays, and measure: python scripts/noise_aware.py --data-dir DIR"""

from qlinear.errors import run_command
from study.noise_aware import main

if __name__ == "__main__":
    run_command(main)
