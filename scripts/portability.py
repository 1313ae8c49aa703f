#!/usr/bin/env python3
"""Run the models on an emulated processor without VNNI: python scripts/portability.py"""

from qlinear.errors import run_command
from study.portability import main

if __name__ == "__main__":
    run_command(main)
