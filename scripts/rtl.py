#!/usr/bin/env python3
"""Record what the blocks in examples/rtl are: see study/rtl.py."""

from qlinear.errors import run_command
from study.rtl import main

if __name__ == "__main__":
    run_command(main)
