#!/usr/bin/env python3
"""Hold the conventions against the runtimes that they are named after: scripts/runtimes.py"""

from qlinear.errors import run_command
from study.runtimes import main

if __name__ == "__main__":
    run_command(main)
