#!/usr/bin/env python3
"""Measure what per-tensor weights cost MobileNet: python scripts/depthwise.py --data-dir DIR"""

from qlinear.errors import run_command
from study.depthwise import main

if __name__ == "__main__":
    run_command(main)
