#!/usr/bin/env python3
"""Measure the conventions of requantization: python scripts/conventions.py --data-dir DIR"""

from qlinear.errors import run_command
from study.conventions import main

if __name__ == "__main__":
    run_command(main)
